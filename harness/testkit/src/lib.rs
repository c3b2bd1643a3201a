//! For tests: scripted machines, real kernels, redaction.

pub mod host;
pub mod kernels;
pub mod local;
