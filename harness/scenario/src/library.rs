//! The set of all scenarios, and what a workload selects of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::glob::Glob;
use crate::mistake::Mistakes;
use crate::policy::Policy;
use crate::raw;
use crate::read::read;
use crate::resolve;
use crate::scenario::{Scenario, ScenarioId};
use crate::sink::Sink;
use crate::waiver::Waivers;
use crate::workload::{Overrides, Workload};
use crate::yaml::{self, Node, Span};

/// All scenarios of a tree, by id.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Library {
    pub(crate) scenarios: BTreeMap<ScenarioId, Scenario>,
}

/// One scenario as a workload runs it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Selected {
    /// The scenario; its time limit is already the workload's.
    pub scenario: Scenario,
    /// Boots of each role in which it runs.
    pub boots: u32,
    /// What the workload says about it. With `skip` it is not run, and reported as skipped.
    pub overrides: Overrides,
}

impl Library {
    /// Reads every scenario of a tree. The id of each is its path below the last component called
    /// `scenarios` (or the whole path when there is none), without `.yaml`.
    ///
    /// # Errors
    /// Every mistake in every file.
    pub fn load(files: impl IntoIterator<Item = (PathBuf, String)>) -> Result<Self, Mistakes> {
        let mut library = Self::default();
        let mut mistakes = Vec::new();
        for (path, text) in files {
            let scenario = load(&path, &text, |root, sink| {
                let scenario = resolve::scenario(&path, read(root, sink), sink)?;
                if library.scenarios.contains_key(&scenario.id) {
                    let message = format!("a second file for the scenario `{}`", scenario.id);
                    sink.report(Span::START, message, None);
                }
                Some(scenario)
            });
            match scenario {
                Ok(scenario) => drop(library.scenarios.insert(scenario.id.clone(), scenario)),
                Err(Mistakes(more)) => mistakes.extend(more),
            }
        }
        if mistakes.is_empty() { Ok(library) } else { Err(Mistakes(mistakes)) }
    }

    /// Every scenario, ordered by id.
    pub fn iter(&self) -> impl Iterator<Item = &Scenario> {
        self.scenarios.values()
    }

    /// The scenario with this id.
    pub fn get(&self, id: &str) -> Option<&Scenario> {
        self.scenarios.get(&ScenarioId(id.to_owned()))
    }

    /// The scenarios whose id matches, ordered by id.
    pub fn matching<'a>(&'a self, glob: &'a Glob) -> impl Iterator<Item = &'a Scenario> {
        self.iter().filter(|scenario| glob.matches(scenario.id.as_str()))
    }

    /// What a workload runs, each scenario once, in the order of the workload's list. Where several
    /// of its globs match one scenario, later overrides win key by key.
    pub fn select(&self, workload: &Workload) -> Vec<Selected> {
        let mut order: Vec<(&Scenario, Overrides)> = Vec::new();
        for selection in &workload.scenarios {
            for scenario in self.matching(&selection.glob) {
                let new = &selection.overrides;
                match order.iter_mut().find(|(known, _)| known.id == scenario.id) {
                    Some((_, known)) => known.update(new),
                    None => order.push((scenario, new.clone())),
                }
            }
        }
        order
            .into_iter()
            .map(|(scenario, overrides)| {
                let mut scenario = scenario.clone();
                scenario.timeout = overrides.timeout.unwrap_or(scenario.timeout);
                let boots = overrides.boots.or(scenario.boots).unwrap_or(workload.policy.boots);
                Selected { scenario, boots, overrides }
            })
            .collect()
    }
}

impl Overrides {
    fn update(&mut self, new: &Self) {
        fn set<T: Clone>(old: &mut Option<T>, new: &Option<T>) {
            if new.is_some() {
                old.clone_from(new);
            }
        }
        set(&mut self.warn, &new.warn);
        set(&mut self.fail, &new.fail);
        set(&mut self.boots, &new.boots);
        set(&mut self.timeout, &new.timeout);
        set(&mut self.skip, &new.skip);
    }
}

impl Workload {
    /// Reads one workload profile. Its name is the file's, without `.yaml`.
    ///
    /// # Errors
    /// Every mistake in the file, also globs and metrics that nothing in `library` matches.
    pub fn load(path: &Path, text: &str, library: &Library) -> Result<Self, Mistakes> {
        load(path, text, |root, sink| resolve::workload(path, read(root, sink), library, sink))
    }
}

impl Policy {
    /// Reads a policy from a file of its own. With `selected`, a rule for a metric that none of
    /// them reports is a mistake; an empty slice means that they aren't known.
    ///
    /// # Errors
    /// Every mistake in the file.
    pub fn load(path: &Path, text: &str, selected: &[Selected]) -> Result<Self, Mistakes> {
        load(path, text, |root, sink| {
            let raw = read::<raw::Policy>(root, sink).get()?;
            Some(resolve::policy(raw, selected, sink))
        })
    }
}

impl Waivers {
    /// Reads a file of waivers: a list. Dates are not compared with any clock.
    ///
    /// # Errors
    /// Every mistake in the file.
    pub fn load(path: &Path, text: &str) -> Result<Self, Mistakes> {
        load(path, text, |root, sink| Some(resolve::waivers(read(root, sink), sink)))
    }
}

/// What `resolve` makes of the file, when it reports no mistake.
fn load<T>(
    path: &Path,
    text: &str,
    resolve: impl FnOnce(&Node, &Sink<'_>) -> Option<T>,
) -> Result<T, Mistakes> {
    let sink = Sink::new(path, text);
    let value = yaml::parse(text, &sink).and_then(|root| resolve(&root, &sink));
    let mistakes = sink.into_mistakes();
    match value {
        Some(value) if mistakes.is_empty() => Ok(value),
        _ => Err(Mistakes(mistakes)),
    }
}
