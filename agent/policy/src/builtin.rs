//! Built-in denies.
