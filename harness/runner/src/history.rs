//! What earlier runs on this controller tell of the next one: how long scenarios take, on which only its order
//! depends, and how much their numbers scatter, of which it is only told.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use kgate_model::journal::RunRecord;
use kgate_model::outcome::Outcome;
use serde::{Deserialize, Serialize};

/// Scenarios that are remembered; those not seen for longest are forgotten first.
const SCENARIOS: usize = 4096;
/// Metrics of which the scatter is remembered.
const METRICS: usize = 8192;
/// One with a longer name is not remembered, so that a history stays below its bound.
const NAME: usize = 256;
/// No history is larger.
const FILE_BOUND: u64 = 4 << 20;
/// The last run counts as one of so many.
const RUNS: u128 = 3;

/// Wall times of trials by scenario, and how much metrics scatter.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    scenarios: BTreeMap<String, Known>,
    /// By scenario and metric; those of earlier versions have none.
    #[serde(default)]
    scatter: BTreeMap<String, BTreeMap<String, Scattered>>,
}

/// How much a metric scattered in earlier runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scatter {
    /// Coefficient of variation between boots of one kernel.
    pub between: f64,
    /// That between samples of one boot.
    pub within: f64,
    /// Samples of a boot.
    pub samples: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Scattered {
    scatter: Scatter,
    /// When it was last measured, in milliseconds since the Unix epoch.
    seen: u64,
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

    /// Takes note of how much a metric scattered in the run of `record`.
    pub fn learn_scatter(
        &mut self,
        record: &RunRecord,
        scenario: &str,
        metric: &str,
        scatter: Scatter,
    ) {
        let seen = record.started_at.unwrap_or_default();
        self.note_scatter((scenario, metric), scatter, seen);
    }

    /// What is known of each metric of a scenario.
    pub fn scatter(&self, scenario: &str) -> impl Iterator<Item = (&str, Scatter)> {
        let metrics = self.scatter.get(scenario).into_iter().flatten();
        metrics.map(|(metric, known)| (metric.as_str(), known.scatter))
    }

    fn note_scatter(&mut self, (scenario, metric): (&str, &str), new: Scatter, seen: u64) {
        let finite = new.between.is_finite() && new.within.is_finite();
        if !finite || scenario.len().max(metric.len()) > NAME {
            return;
        }
        let known = self.scatter.get(scenario).is_some_and(|all| all.contains_key(metric));
        if !known && !self.has_room(seen) {
            return;
        }
        let metrics = self.scatter.entry(scenario.to_owned()).or_default();
        let first = Scattered { scatter: new, seen };
        let known = metrics.entry(metric.to_owned()).or_insert(first);
        let Scatter { between, within, .. } = known.scatter;
        // Variances have no bias when they are averaged; what scatters by them has.
        let runs = RUNS as f64;
        let mean = |old: f64, new: f64| ((old * old * (runs - 1.0) + new * new) / runs).sqrt();
        let (between, within) = (mean(between, new.between), mean(within, new.within));
        *known = Scattered { scatter: Scatter { between, within, samples: new.samples }, seen };
    }

    /// Whether another metric can be remembered at a time. The oldest ones make room.
    fn has_room(&mut self, now: u64) -> bool {
        let count = |all: &Self| all.scatter.values().map(BTreeMap::len).sum::<usize>();
        if count(self) < METRICS {
            return true;
        }
        let all = self.scatter.values().flat_map(BTreeMap::values);
        let oldest = all.map(|known| known.seen).min().unwrap_or_default();
        self.scatter.retain(|_, metrics| {
            metrics.retain(|_, known| known.seen > oldest || known.seen == now);
            !metrics.is_empty()
        });
        count(self) < METRICS
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
        Self { scenarios: known.collect(), scatter: BTreeMap::new() }
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

    fn scatter(between: f64, within: f64) -> Scatter {
        Scatter { between, within, samples: 30 }
    }

    fn known(history: &History, scenario: &str) -> Vec<(String, f64, f64)> {
        let round = |cv: f64| (cv * 1e6).round() / 1e6;
        let all = history.scatter(scenario);
        all.map(|(metric, s)| (metric.to_owned(), round(s.between), round(s.within))).collect()
    }

    #[test]
    fn scatter_moves_with_each_run_and_is_kept() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("history.json");
        let mut history = History::of(&[("performance/a", 300)]);
        history.note_scatter(("performance/a", "x"), scatter(0.03, 0.0), 1);
        assert_eq!(known(&history, "performance/a"), [("x".to_owned(), 0.03, 0.0)]);
        // Two thirds of 0.0009.
        history.note_scatter(("performance/a", "x"), scatter(0.0, 0.3), 2);
        history.note_scatter(("performance/a", "x p99"), scatter(0.1, 0.2), 2);
        history.save(&path).unwrap();
        let history = History::load(&path);
        assert_eq!(
            known(&history, "performance/a"),
            [("x".to_owned(), 0.024_495, 0.173_205), ("x p99".to_owned(), 0.1, 0.2)]
        );
        assert_eq!(known(&history, "performance/b"), []);
    }

    #[test]
    fn a_history_of_an_earlier_version_is_read() {
        let text = r#"{"scenarios":{"subsystem/a":{"wall_ms":70,"seen":1}}}"#;
        let history: History = serde_json::from_str(text).unwrap();
        assert_eq!(history.expected("subsystem/a"), 70);
        assert_eq!(known(&history, "subsystem/a"), []);
    }

    #[test]
    fn what_can_not_be_scatter_is_not_kept_and_the_oldest_is_forgotten() {
        let mut history = History::default();
        for wrong in [scatter(f64::NAN, 0.1), scatter(0.1, f64::INFINITY)] {
            history.note_scatter(("performance/a", "x"), wrong, 9);
        }
        history.note_scatter(("performance/a", &"x".repeat(NAME + 1)), scatter(0.1, 0.1), 9);
        assert_eq!(history, History::default());
        history.note_scatter(("performance/old", "x"), scatter(0.1, 0.1), 1);
        for at in 0..=METRICS {
            history.note_scatter(("performance/new", &at.to_string()), scatter(0.1, 0.1), 2);
        }
        assert_eq!(known(&history, "performance/old"), []);
        assert_eq!(known(&history, "performance/new").len(), METRICS);
    }
}
