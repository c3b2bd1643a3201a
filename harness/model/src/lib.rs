//! The vocabulary of kgate as types: kernels, plans, outcomes, samples, the run record, wire messages.

pub mod host;
