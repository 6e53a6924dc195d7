//! Picket's kernel programs.
fn main() {}
