//! JUnit, HTML, JSON, Markdown and terminal reports of a run and of kernel logs, annotations of CI jobs,
//! and a run's live progress.
//!
//! Rendering only: what is shown comes in as a [`Report`] or as journal entries, and goes out as
//! text. Text of a guest is never passed on as it is: control characters and text-direction marks
//! become visible escapes, and each format's own special characters are escaped besides.

use kgate_compare::Assessment;
use kgate_klog::delta::LogDelta;
use kgate_model::journal::RunRecord;

mod annotations;
mod evidence;
mod html;
mod junit;
mod live;
mod log;
mod markdown;
mod regression;
mod results;
mod terminal;
mod text;
mod view;

pub use annotations::annotations;
pub use html::{Files, HTML_BOUND, html};
pub use junit::junit;
pub use live::{Lines, Observer, Progress};
pub use log::{
    LogPlace, annotation, finding, finding_again, finding_json, log_delta, log_delta_annotations,
    log_delta_json,
};
pub use markdown::{MARKDOWN_BOUND, markdown};
pub use regression::{
    Commit, Details, Failure, Mailbox, Range, Recipient, failures, module, regression_mail,
    source_file, without_builder,
};
pub use results::{
    Boot, CaseResult, Cause, ComparisonResult, FindingResult, Kernel, Location, LogLineResult,
    LogResult, ReasonResult, Results, SCHEMA, SideResult, TallyResult, Trial, WaiverResult,
    results_schema,
};
pub use terminal::{Style, summary};
pub use text::{clean, clean_block, is_harmful};

/// What a report is made of.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// The run.
    pub record: &'a RunRecord,
    /// What it comes to.
    pub assessment: &'a Assessment,
    /// How the lines of the kernel logs differ; `None` where they were not read.
    pub log: Option<&'a LogDelta>,
    /// The run directory, as its user would type it.
    pub directory: &'a str,
}
