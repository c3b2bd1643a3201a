//! What shows a case best, from the record and the files of the run directory.

use kgate_compare::Case;
use kgate_model::journal::{BootRecord, TrialRecord};

use crate::Report;
use crate::text::{bounded, clean, clean_block};
use crate::view;

/// Bytes taken from the end of one console or log.
pub(crate) const TAIL: usize = 8 << 10;
/// Bytes of console and log in the whole report.
const TAILS: usize = 2 << 20;
/// Bytes of a finding's excerpt.
const EXCERPT: usize = 4 << 10;

/// Reads the ends of files of the run directory, until the report has enough of them.
pub(crate) struct Tails<'a> {
    read: &'a mut dyn FnMut(&str, usize) -> Option<Vec<u8>>,
    left: usize,
}

impl<'a> Tails<'a> {
    /// `read` gives the last bytes, at most so many, of a file of the run directory.
    pub(crate) fn new(read: &'a mut dyn FnMut(&str, usize) -> Option<Vec<u8>>) -> Self {
        Self { read, left: TAILS }
    }

    /// The end of a file under a heading, as long as the whole report is not too long.
    fn add(&mut self, heading: &str, path: Option<&str>, out: &mut String) {
        let Some(path) = path else { return };
        let bound = TAIL.min(self.left);
        if bound == 0 {
            return;
        }
        if let Some(bytes) = (self.read)(path, bound) {
            let bytes = &bytes[bytes.len().saturating_sub(bound)..];
            self.left -= bytes.len();
            *out += &format!("\n--- {heading}: {} ---\n{}\n", clean(path), clean_block(bytes));
        }
    }
}

/// Findings, console and log of the trial or boot that shows the cause best.
pub(crate) fn evidence(report: &Report<'_>, case: &Case, tails: &mut Tails<'_>) -> String {
    let mut out = String::new();
    let record = report.record;
    let boot: Option<&BootRecord> =
        record.boots.iter().find(|b| Some(&b.planned.id) == case.boot.as_ref());
    let trial: Option<&TrialRecord> =
        record.trials.iter().find(|t| Some(&t.planned.id) == case.trial.as_ref());
    if let Some(boot) = &case.boot {
        out += &format!("seen in boot {}\n", clean(boot));
    }
    if let Some(scenario) = case.subject.scenario() {
        out += &format!("{}\n", view::reproduce(report, scenario));
    }
    let findings =
        trial.map_or_else(|| boot.map_or(&[][..], |b| &b.findings), |trial| &trial.findings);
    for finding in findings.iter().take(3) {
        let excerpt = clean_block(bounded(&finding.excerpt, EXCERPT).as_bytes());
        out += &format!("\n--- {} ---\n{excerpt}\n", clean(&finding.title));
    }
    // A boot may have had several machines: what is shown is that of the one the trial ran on.
    let (console, diagnosis) = match trial.filter(|trial| trial.attempt.is_some()) {
        Some(trial) => (trial.console.as_ref(), trial.diagnosis.as_ref()),
        None => (
            boot.and_then(|boot| boot.consoles.last()),
            boot.and_then(|boot| boot.diagnoses.last()),
        ),
    };
    tails.add("log", trial.and_then(|t| t.log.as_deref()), &mut out);
    tails.add("diagnosis", diagnosis.map(String::as_str), &mut out);
    tails.add("console", console.map(String::as_str), &mut out);
    out
}
