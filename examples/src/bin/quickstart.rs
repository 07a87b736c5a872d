//! The whole of SPIFFE in one process.
fn main() {}
