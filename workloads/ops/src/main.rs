//! In-guest measuring programs: one static multi-call binary.

fn main() {}
