//! What a run will be able to see of times, told before it starts: it follows from how much numbers
//! scattered in earlier runs on this controller.

use std::collections::{BTreeMap, BTreeSet};

use kgate_compare::stats::{boots_that_see, detectable};
use kgate_compare::{MEMORY_FIELDS, MIN_BOOTS, Statistic, scatter};
use kgate_model::journal::RunRecord;
use kgate_model::outcome::Role;
use kgate_model::plan::{Kind, Plan, Start};
use kgate_runner::{History, Inputs, Scatter};

use crate::text;

/// Scenarios that are named where there are many.
const NAMED: usize = 3;

/// A larger change is not told by its size.
const MOST: f64 = 10.0;

/// Takes note of how much the numbers of a run scatter.
pub(crate) fn learn(history: &mut History, record: &RunRecord, inputs: &Inputs) {
    for found in scatter::scatter(record, &inputs.selected) {
        let scatter::Scatter { scenario, metric, between, within, samples } = found;
        let new = Scatter { between, within, samples };
        history.learn_scatter(record, &scenario, &metric, new);
    }
}

/// What is to be told before a run, a line each; nothing where it measures no times.
pub(crate) fn lines(plan: &Plan, inputs: &Inputs, history: &History) -> Vec<String> {
    let (mut known, mut unknown, mut few) = (Vec::new(), Vec::new(), Vec::new());
    for (scenario, boots) in scenarios(plan) {
        if boots < MIN_BOOTS {
            few.push(scenario);
        } else if history.scatter(scenario).next().is_none() {
            unknown.push(scenario);
        } else {
            known.push((scenario, boots));
        }
    }
    let metrics = known.iter().map(|(scenario, _)| history.scatter(scenario).count());
    // Of what isn't known one metric is expected.
    let comparisons = metrics.sum::<usize>() + unknown.len() + memory(plan);
    let mut lines: Vec<String> = (known.iter())
        .map(|&(scenario, boots)| {
            let sees = history.scatter(scenario).map(|(metric, scatter)| {
                let Scatter { between, within, samples } = scatter;
                let sees = detectable(between, within, boots, samples, comparisons);
                let about = if sees < MOST {
                    format!("about {:.1} %", 100.0 * sees)
                } else {
                    format!("nothing below {:.0} %", 100.0 * MOST)
                };
                let about = format!("{} sees {about}", text::line(metric));
                let Some(fail) = limit(inputs, scenario, metric).filter(|fail| sees > *fail) else {
                    return about;
                };
                let one = between.powi(2) + within.powi(2) / f64::from(samples.max(1));
                let enough = boots_that_see(fail, 2.0 * one, comparisons);
                let enough = enough.map_or_else(
                    || "no number of boots would do".to_owned(),
                    |boots| format!("{boots} boots would do"),
                );
                format!("{about} (limit {:.1} %: {enough})", 100.0 * fail)
            });
            let sees: Vec<String> = sees.collect();
            format!("with {boots} boots {scenario}: {}", sees.join(", "))
        })
        .collect();
    if !unknown.is_empty() {
        let names = names(&unknown);
        lines.push(format!("nothing is known yet of the scatter of {names} on this machine"));
    }
    if !few.is_empty() {
        let names = names(&few);
        lines.push(format!("of {names} nothing can be decided: that takes {MIN_BOOTS} boots"));
    }
    lines
}

/// Scenarios that measure time on both kernels, with the boots of each.
fn scenarios(plan: &Plan) -> Vec<(&str, u32)> {
    let mut boots: BTreeMap<&str, BTreeMap<Role, BTreeSet<u32>>> = BTreeMap::new();
    for (boot, trial) in plan.trials() {
        let times = trial.kind == Kind::Performance && boot.start != Start::Exact;
        if times && trial.decided.is_none() {
            let roles = boots.entry(&trial.scenario).or_default();
            roles.entry(boot.role).or_default().insert(boot.number);
        }
    }
    (boots.into_iter())
        .filter(|(_, roles)| roles.len() == Role::ALL.len())
        .filter_map(|(scenario, roles)| Some((scenario, roles.values().map(BTreeSet::len).min()?)))
        .map(|(scenario, boots)| (scenario, u32::try_from(boots).unwrap_or(u32::MAX)))
        .collect()
}

/// Comparisons of memory, after boot and after load, which are of the same family.
fn memory(plan: &Plan) -> usize {
    let mut images: BTreeMap<&str, u32> = BTreeMap::new();
    for boot in plan.boots.iter().filter(|boot| boot.start != Start::Exact) {
        *images.entry(&boot.image).or_default() += u32::from(boot.role == Role::Baseline);
    }
    2 * MEMORY_FIELDS.len() * images.values().filter(|boots| **boots >= MIN_BOOTS).count()
}

/// The fail limit of a metric as reports name it.
fn limit(inputs: &Inputs, scenario: &str, label: &str) -> Option<f64> {
    let policy = &inputs.policy;
    let ends = |statistic: &&Statistic| {
        label.strip_suffix(statistic.as_str()).is_some_and(|metric| metric.ends_with(' '))
    };
    let statistic = Statistic::LATENCY.iter().find(ends);
    if statistic.is_some_and(|statistic| statistic.is_tail()) {
        return Some(policy.tails.fail.ratio());
    }
    let metric = statistic.and_then(|s| label.strip_suffix(s.as_str())).unwrap_or(label).trim_end();
    let selected = inputs.selected.iter().find(|s| s.scenario.id.as_str() == scenario)?;
    Some(policy.limits(&selected.scenario.id, metric, &selected.overrides).fail.ratio())
}

fn names(scenarios: &[&str]) -> String {
    match scenarios.split_at_checked(NAMED) {
        Some((named, rest)) if rest.len() > 1 => {
            format!("{} and {} others", named.join(", "), rest.len())
        }
        _ => scenarios.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use kgate_model::kernel::KernelRecord;
    use kgate_runner::{Capabilities, Placement, make_plan};
    use kgate_scenario::{Library, Waivers, Workload};

    use super::*;

    struct Able;

    impl Capabilities for Able {
        fn config(&self, _: Role, _: &str) -> Option<String> {
            None
        }

        fn module(&self, _: Role, _: &str) -> Option<bool> {
            None
        }
    }

    fn kernel(release: &str) -> KernelRecord {
        KernelRecord {
            reference: release.to_owned(),
            release: release.to_owned(),
            banner: release.to_owned(),
            upstream: None,
            origin: release.to_owned(),
            image_sha256: "ab".repeat(32),
            package_sha256: None,
        }
    }

    /// What is told before a workload of these scenarios.
    fn told(scenarios: &[(&str, &str)], policy: &str, history: &History) -> String {
        let files = scenarios.iter().map(|(id, text)| {
            let kind = id.split('/').next().unwrap_or_default();
            (PathBuf::from(format!("{id}.yaml")), format!("kind: {kind}\nsummary: s\n{text}"))
        });
        let library = Library::load(files).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let text = format!("summary: s\nscenarios: ['**']\npolicy: {{ {policy} }}\n");
        let workload = Workload::load(Path::new("test.yaml"), &text, &library)
            .unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let inputs = Inputs {
            selected: library.select(&workload),
            policy: workload.policy.clone(),
            waivers: Waivers::default(),
            workload,
        };
        let plan =
            make_plan(&inputs, kernel("6.1.1"), kernel("6.1.2"), &Able, &Placement::default(), 1);
        lines(&plan, &inputs, history).join("\n")
    }

    /// Runs that left a coefficient of variation between boots.
    fn history(known: &[(&str, &str, f64)]) -> History {
        let mut history = History::default();
        let plan = make_plan_of_nothing();
        let record = RunRecord::new(plan, []);
        for &(scenario, metric, between) in known {
            let scatter = Scatter { between, within: 0.05, samples: 30 };
            history.learn_scatter(&record, scenario, metric, scatter);
        }
        history
    }

    fn make_plan_of_nothing() -> Plan {
        Plan {
            format: kgate_model::plan::FORMAT,
            kgate: String::new(),
            workload: String::new(),
            baseline: kernel("6.1.1"),
            candidate: kernel("6.1.2"),
            tier: None,
            lab: None,
            partitions: 1,
            boots: Vec::new(),
        }
    }

    const TIMES: &str = "steps:\n  - measure: getppid\n";

    #[test]
    fn what_is_known_is_told_by_metric_with_the_limits_that_are_out_of_reach() {
        let known = history(&[
            ("performance/nginx", "requests", 0.01),
            ("performance/nginx", "getppid", 0.01),
            ("performance/nginx", "getppid p99", 0.1),
            ("performance/nginx", "getppid p99.9", 0.4),
            ("performance/proxy", "noisy", 20.0),
            // Of scenarios that measure no times nothing is told.
            ("subsystem/a", "x", 0.1),
        ]);
        let scenarios = [
            ("performance/nginx", TIMES),
            ("performance/proxy", TIMES),
            ("performance/new", TIMES),
            ("subsystem/a", "steps:\n  - run: 'true'\n"),
        ];
        insta::assert_snapshot!(told(&scenarios, "boots: 8, metrics: { getppid: { warn: 1%, fail: 1% } }", &known), @r"
    with 8 boots performance/nginx: getppid sees about 3.1 % (limit 1.0 %: 57 boots would do), getppid p99 sees about 25.8 %, getppid p99.9 sees about 149.8 % (limit 50.0 %: 31 boots would do), requests sees about 3.1 %
    with 8 boots performance/proxy: noisy sees nothing below 1000 % (limit 5.0 %: no number of boots would do)
    nothing is known yet of the scatter of performance/new on this machine
    ");
    }

    #[test]
    fn without_a_history_nothing_is_known() {
        let one = [("performance/a", TIMES)];
        insta::assert_snapshot!(told(&one, "boots: 5", &History::default()), @"nothing is known yet of the scatter of performance/a on this machine");
        let many: Vec<String> = (0..7).map(|at| format!("performance/{at}")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|id| (id.as_str(), TIMES)).collect();
        insta::assert_snapshot!(told(&many, "boots: 5", &History::default()), @"nothing is known yet of the scatter of performance/0, performance/1, performance/2 and 4 others on this machine");
        insta::assert_snapshot!(told(&many[..4], "boots: 2", &History::default()), @"of performance/0, performance/1, performance/2, performance/3 nothing can be decided: that takes 3 boots");
        let none = [("subsystem/a", "steps:\n  - run: 'true'\n")];
        assert_eq!(told(&none, "boots: 5", &History::default()), "");
        let exact = [("performance/a", "boot: exact\nsteps:\n  - measure: pipe\n")];
        assert_eq!(told(&exact, "boots: 5", &History::default()), "");
    }
}
