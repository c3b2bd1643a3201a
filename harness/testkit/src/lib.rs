//! For tests: scripted machines, real kernels, redaction.

pub mod history;
pub mod host;
pub mod kernels;
pub mod lab;
pub mod local;
