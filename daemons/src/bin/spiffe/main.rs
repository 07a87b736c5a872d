//! `spiffe`: the tool for people.
fn main() {}
