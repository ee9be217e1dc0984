//! The process that git starts.
fn main() {}
