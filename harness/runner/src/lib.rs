//! Plan to interleaved boots and trials to events.
//!
//! [`make_plan`] lists every boot and every trial before anything starts; [`RunDir`] keeps the plan,
//! its inputs and the journal on disk; [`run()`] carries out whatever the journal says is still open,
//! so that starting a run and taking it up again are the same thing. Events are the only output:
//! each goes to the journal and to the caller's observer.

mod attempt;
mod exact;
mod history;
mod lines;
mod merge;
mod own;
mod plan;
mod run;
mod rundir;
mod schedule;
mod step;
mod trial;
mod vitals;

pub use exact::{Profiled, ProfiledOperation, profile};
pub use history::{History, Scatter};
pub use lines::{Lines, whole_lines};
pub use merge::{MergeError, merge};
pub use plan::{Capabilities, Inputs, Placement, differences, make_plan};
pub use run::{Controller, RunEnd, RunError, run};
pub use rundir::{Journal, RunDir, RunDirError, trial_log};
