//! Picket's agent as a library: what `main.rs` and the tests compose.
