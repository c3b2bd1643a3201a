//! The vocabulary of kgate as types: kernels, plans, outcomes, samples, the run record, wire messages.

pub mod finding;
pub mod host;
pub mod inventory;
pub mod journal;
pub mod kernel;
pub mod outcome;
pub mod plan;
pub mod sample;
pub mod wire;
