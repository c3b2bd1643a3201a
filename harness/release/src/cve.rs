//! The CVEs of the kernel: its CNA's published records, and what they say of two versions.

mod affected;
mod clock;
mod delta;
mod kbuild;
mod old;
mod presence;
mod record;
mod table;

pub use affected::{Affected, End, Entry, Range};
pub use clock::{BranchFix, Lag, LagBasis};
pub use delta::{Clock, CveDelta, DeltaContext, Group, Part, Row, Tally};
pub use kbuild::Kbuild;
pub use old::sections;
pub use presence::{Absence, KernelFiles, Method};
pub use record::{Cve, MAX_RECORD, RecordError, Score, Severity};
pub use table::{Snapshot, Table, TableError};
