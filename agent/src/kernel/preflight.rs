//! What this kernel can do, tried.
