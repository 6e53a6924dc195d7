//! Dials a door by every kind of socket there is, and says what came of it.
fn main() {}
