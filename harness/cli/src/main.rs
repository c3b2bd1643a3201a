//! The kgate binary.

fn main() {}
