//! Stub: its owner writes it.
