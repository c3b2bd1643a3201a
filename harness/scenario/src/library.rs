//! The set of all scenarios, and what a workload selects of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::glob::Glob;
use crate::scenario::{Scenario, ScenarioId};
use crate::workload::{Overrides, Workload};

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
