//! Which of many kernels was the first to fail: what to try next, how often, and where it ends.
//!
//! [`Search`] halves the points between a good and a bad end, [`Certainty`] says how many boots make an
//! answer. Neither knows what a kernel is. `docs/bisect.md` has the method.

mod certainty;
mod graph;
mod search;

pub use certainty::{Certainty, Sightings};
pub use graph::Graph;
pub use search::{Answer, Ending, Search};
