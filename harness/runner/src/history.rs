//! How long scenarios took in earlier runs: only the order of a run depends on it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use kgate_model::journal::RunRecord;
use kgate_model::outcome::Outcome;
use serde::{Deserialize, Serialize};

/// Scenarios that are remembered; those not seen for longest are forgotten first.
const SCENARIOS: usize = 4096;
/// No history is larger.
const FILE_BOUND: u64 = 4 << 20;
/// The last run counts as one of so many.
const RUNS: u128 = 3;

/// Wall times of trials by scenario.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    scenarios: BTreeMap<String, Known>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    wall_ms: u64,
    /// When it was last run, in milliseconds since the Unix epoch.
    seen: u64,
}

impl History {
    /// Reads a history. A file that isn't there or holds something else is no history.
    pub fn load(path: &Path) -> Self {
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(FILE_BOUND).read_to_end(&mut bytes));
        read.ok().and_then(|_| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Writes it where [`Self::load`] finds it, whole or not at all.
    ///
    /// # Errors
    /// The disk refuses it.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let parent = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent)?;
        // Another run may do the same at the same time.
        let new = path.with_extension(format!("{}.new", std::process::id()));
        let written = File::create(&new)
            .and_then(|mut file| file.write_all(&serde_json::to_vec(self)?))
            .and_then(|()| fs::rename(&new, path));
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written
    }

    /// Takes note of the trials of a run that ran to their end.
    pub fn learn(&mut self, record: &RunRecord) {
        let mut times: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for trial in &record.trials {
            let ran = trial.attempt.is_some() && trial.outcome == Some(Outcome::Passed);
            if ran && trial.planned.decided.is_none() {
                let (sum, count) = times.entry(&trial.planned.scenario).or_default();
                *sum = sum.saturating_add(trial.wall_ms);
                *count += 1;
            }
        }
        let seen = record.started_at.unwrap_or_default();
        for (scenario, (sum, count)) in times {
            let mean = sum / count;
            let first = Known { wall_ms: mean, seen };
            let known = self.scenarios.entry(scenario.to_owned()).or_insert(first);
            let all = u128::from(known.wall_ms) * (RUNS - 1) + u128::from(mean);
            *known = Known { wall_ms: u64::try_from(all / RUNS).unwrap_or(u64::MAX), seen };
        }
        if self.scenarios.len() > SCENARIOS {
            let mut seen: Vec<_> = self.scenarios.values().map(|known| known.seen).collect();
            seen.sort_unstable();
            let oldest = seen[seen.len() - SCENARIOS];
            self.scenarios.retain(|_, known| known.seen >= oldest);
        }
    }

    /// Milliseconds that a trial of a scenario is expected to take; of one that isn't known as long as
    /// of any that is.
    pub(crate) fn expected(&self, scenario: &str) -> u64 {
        let known = self.scenarios.get(scenario).map(|known| known.wall_ms);
        let longest = || self.scenarios.values().map(|known| known.wall_ms).max();
        known.or_else(longest).unwrap_or_default()
    }
}
