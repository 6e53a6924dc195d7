//! `cargo xtask`: setup, demo, test, bench, cluster, clean.
fn main() {}
