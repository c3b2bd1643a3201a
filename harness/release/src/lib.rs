//! Each new kernel release: what it is, what it changes, and what is to be done about it.
//!
//! Pure: texts and records come in, values go out. Whoever fetches feeds, reads repositories and
//! keeps state is `cli`.

pub mod bisect;

mod catalogue;
pub mod change;
pub mod cve;
mod delta;
mod distribution;
pub mod feed;
mod gather;
mod maintainers;
pub mod plot;
mod relation;
mod standing;
pub mod state;
mod subsystem;
pub mod tier;
mod version;
pub mod waiting;
pub mod words;
pub mod work;

pub use catalogue::{BranchEntry, BranchState, Catalogue, End, EndBasis, Release, Source};
pub use delta::{
    CommitDelta, ReleaseDelta, SectionDelta, SourceDelta, SubsystemDelta, ranges, releases_between,
};
pub use distribution::{Distribution, Fixes, KernelVersion, debian_order};
pub use maintainers::{Maintainers, Section};
pub use relation::Relation;
pub use standing::{NextLongterm, Standing, Step, Warning};
pub use subsystem::{Subsystem, SubsystemError};
pub use version::{Branch, Version, VersionError};
