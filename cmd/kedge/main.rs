//! kedge: a whole Kubernetes in one binary.
fn main() {}
