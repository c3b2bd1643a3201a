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
            self.note(scenario, sum / count, seen);
        }
        self.forget();
    }

    fn note(&mut self, scenario: &str, wall_ms: u64, seen: u64) {
        let first = Known { wall_ms, seen };
        let known = self.scenarios.entry(scenario.to_owned()).or_insert(first);
        let all = u128::from(known.wall_ms) * (RUNS - 1) + u128::from(wall_ms);
        *known = Known { wall_ms: u64::try_from(all / RUNS).unwrap_or(u64::MAX), seen };
    }

    fn forget(&mut self) {
        let mut seen: Vec<_> = self.scenarios.values().map(|known| known.seen).collect();
        seen.sort_unstable();
        if let Some(oldest) = seen.len().checked_sub(SCENARIOS).and_then(|at| seen.get(at)) {
            self.scenarios.retain(|_, known| known.seen >= *oldest);
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

#[cfg(test)]
impl History {
    /// One that knows these.
    pub(crate) fn of(times: &[(&str, u64)]) -> Self {
        let known = times.iter().map(|&(id, wall_ms)| (id.to_owned(), Known { wall_ms, seen: 0 }));
        Self { scenarios: known.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_what_is_broken_is_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("cache/history.json");
        assert_eq!(History::load(&path), History::default());
        let history = History::of(&[("subsystem/a", 70), ("subsystem/b", 900)]);
        history.save(&path).unwrap();
        assert_eq!(History::load(&path), history);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert_eq!((history.expected("subsystem/a"), history.expected("subsystem/new")), (70, 900));
        assert_eq!(History::default().expected("subsystem/a"), 0);
        fs::write(&path, b"{ \"scenarios\": 7").unwrap();
        assert_eq!(History::load(&path), History::default());
        history.save(Path::new("/proc/no/history.json")).unwrap_err();
    }

    #[test]
    fn times_move_with_each_run_and_the_oldest_are_forgotten() {
        let mut history = History::of(&[("subsystem/a", 300)]);
        history.note("subsystem/a", 600, 2);
        history.note("subsystem/a", u64::MAX, 3);
        assert_eq!(history.expected("subsystem/a"), u64::MAX / 3 + 266);
        history.note("subsystem/first", 5, 1);
        for at in 0..SCENARIOS as u64 {
            history.note(&format!("subsystem/{at}"), at, at + 4);
        }
        history.forget();
        assert_eq!(history.scenarios.len(), SCENARIOS);
        assert!(!history.scenarios.contains_key("subsystem/first"));
    }
}
