//! oracle.
fn main() {}
