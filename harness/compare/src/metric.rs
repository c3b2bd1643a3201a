//! Measured numbers: performance metrics of scenarios, memory after boot and after load.

use std::collections::BTreeMap;
use std::fmt;

use kgate_model::journal::{BootRecord, RunRecord};
use kgate_model::outcome::{Outcome, Role};
use kgate_model::plan::Kind;
use kgate_model::sample::Better;
use kgate_model::wire::KernelState;
use kgate_scenario::{PerformanceLimits, Policy, Selected, SizeLimit};

use crate::case::probability;
use crate::finding::count;
use crate::stats::{Change, SIGNIFICANCE, best_decile, change};
use crate::verdict::Effect;
use crate::waive::{Book, Difference};

/// Fewest boots of each role on which anything is decided.
pub const MIN_BOOTS: u32 = 3;

/// What is compared of `/proc/meminfo`, and which direction is an improvement.
pub const MEMORY_FIELDS: [(&str, Better); 6] = [
    ("MemAvailable", Better::Higher),
    ("Slab", Better::Lower),
    ("SUnreclaim", Better::Lower),
    ("KernelStack", Better::Lower),
    ("PageTables", Better::Lower),
    ("Percpu", Better::Lower),
];

/// A relative limit for memory never means less than this, in bytes: fields of some hundred KiB
/// change by whole pages from boot to boot.
pub const MEMORY_FLOOR: f64 = (1 << 20) as f64;

/// Where a number was measured.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// By a scenario.
    Scenario {
        /// The scenario's id.
        scenario: String,
        /// The scenario's kind.
        kind: Kind,
    },
    /// After boot, before any trial.
    AfterBoot {
        /// Image of the guest.
        image: String,
    },
    /// After the last trial.
    AfterLoad {
        /// Image of the guest.
        image: String,
    },
}

impl Place {
    /// Whether it is about memory rather than performance.
    pub const fn is_memory(&self) -> bool {
        !matches!(self, Self::Scenario { .. })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scenario { scenario, .. } => f.write_str(scenario),
            Self::AfterBoot { image } => write!(f, "memory after boot ({image})"),
            Self::AfterLoad { image } => write!(f, "memory after load ({image})"),
        }
    }
}

/// What a comparison of numbers comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Decision {
    /// No change that is both proven and worth attention.
    Unchanged,
    /// Proven to be better, by the warn limit or more.
    Better,
    /// Proven to be worse, by the warn limit or more.
    Worse,
    /// Proven to be worse, by the fail limit or more.
    Regression,
    /// Too few boots, or too much noise.
    Inconclusive,
    /// A side has no numbers, or they can't be compared.
    Missing,
}

impl Decision {
    /// The word used in files and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Regression => "regression",
            Self::Inconclusive => "inconclusive",
            Self::Missing => "missing",
        }
    }
}

/// The numbers of one role.
#[derive(Clone, Debug, PartialEq)]
pub struct Side {
    /// Mean over boots.
    pub value: f64,
    /// One number per boot, the decile at the better end of its samples, in the order of the boots.
    pub boots: Vec<f64>,
    /// Samples behind them.
    pub samples: u32,
}

/// One metric in both kernels.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Where it was measured.
    pub place: Place,
    /// Its name: a scenario's metric, or a field of `/proc/meminfo`.
    pub metric: String,
    /// Unit of all values.
    pub unit: String,
    /// Which direction is an improvement.
    pub better: Better,
    /// Numbers of the baseline; `None` when it has none.
    pub baseline: Option<Side>,
    /// Numbers of the candidate; `None` when it has none.
    pub candidate: Option<Side>,
    /// Relative change, 0.03 for 3 % more; `None` when nothing can be related.
    pub change: Option<f64>,
    /// Where the change is with a confidence of 95 %.
    pub interval: Option<(f64, f64)>,
    /// Probability of such a change between equal kernels.
    pub p: Option<f64>,
    /// Relative change for the worse that is worth attention.
    pub warn: f64,
    /// Relative change for the worse that rejects.
    pub fail: f64,
    /// What it comes to.
    pub decision: Decision,
    /// What it does to the verdict, after waivers.
    pub effect: Effect,
    /// The waiver that took its effect away.
    pub waiver: Option<String>,
    /// Why it could not be decided; empty when it was.
    pub doubt: String,
}

impl Comparison {
    /// Half the width of the interval, as a share: changes smaller than this can't be seen.
    pub fn resolution(&self) -> Option<f64> {
        self.interval.map(|(low, high)| (high - low) / 2.0)
    }

    /// The relative change for the worse, and its interval with the worst end last.
    fn worsening(&self) -> Option<(f64, (f64, f64))> {
        let (change, (low, high)) = self.change.zip(self.interval)?;
        Some(match self.better {
            Better::Lower => (change, (low, high)),
            Better::Higher => (-change, (-high, -low)),
        })
    }
}

/// How long the machines took to boot when least disturbed, in milliseconds: shown, never decided on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ReadyTimes {
    /// The fastest tenth of the baseline's boots took no longer.
    pub baseline: Option<f64>,
    /// The fastest tenth of the candidate's boots took no longer.
    pub candidate: Option<f64>,
}

impl ReadyTimes {
    pub(crate) fn new(record: &RunRecord) -> Self {
        let of = |role| {
            let times: Vec<f64> = (record.boots.iter())
                .filter(|b| b.planned.role == role)
                .flat_map(|b| b.ready_ms.iter().map(|&ms| ms as f64))
                .collect();
            best_decile(&times, Better::Lower)
        };
        Self { baseline: of(Role::Baseline), candidate: of(Role::Candidate) }
    }
}

/// The boots of both roles with their samples, before they are compared.
#[derive(Default)]
struct Numbers {
    unit: String,
    better: Option<Better>,
    /// The sides were measured in different units or directions.
    mixed: bool,
    baseline: Vec<Vec<f64>>,
    candidate: Vec<Vec<f64>>,
}

impl Numbers {
    fn add(&mut self, role: Role, unit: &str, better: Better, values: Vec<f64>) {
        if values.is_empty() {
            return;
        }
        if *self.better.get_or_insert(better) != better
            || (!self.unit.is_empty() && self.unit != unit)
        {
            self.mixed = true;
        }
        unit.clone_into(&mut self.unit);
        match role {
            Role::Baseline => self.baseline.push(values),
            Role::Candidate => self.candidate.push(values),
        }
    }
}

/// Every comparison, performance first.
pub(crate) fn comparisons(
    record: &RunRecord,
    policy: &Policy,
    selected: &[Selected],
    seed: u64,
    book: &mut Book<'_>,
) -> Vec<Comparison> {
    let numbers: Vec<(Place, String, Numbers)> =
        performance(record).into_iter().chain(memory(record)).collect();
    let mut comparisons: Vec<Comparison> = (numbers.into_iter())
        .map(|(place, metric, numbers)| compare(place, metric, &numbers, policy, selected, seed))
        .collect();
    let tried = comparisons.iter().filter(|c| c.p.is_some()).count().max(1);
    for comparison in &mut comparisons {
        decide(comparison, SIGNIFICANCE / tried as f64, record);
        if comparison.effect != Effect::None {
            let names = match &comparison.place {
                Place::Scenario { scenario, .. } => Some([scenario.as_str()]),
                Place::AfterBoot { .. } | Place::AfterLoad { .. } => None,
            };
            let difference = Difference {
                scenarios: names.as_ref().map_or(&[], |n| n.as_slice()),
                metric: Some(&comparison.metric),
                ..Difference::default()
            };
            let label = format!("{}: {}", comparison.place, comparison.metric);
            if let Some(id) = book.waive(&difference, &label) {
                comparison.waiver = Some(id);
                comparison.effect = Effect::None;
            }
        }
    }
    comparisons
}

/// Metrics of scenarios, in the order of the plan.
fn performance(record: &RunRecord) -> Vec<(Place, String, Numbers)> {
    let mut order: Vec<(&str, &str, Kind)> = Vec::new();
    let mut all: BTreeMap<(&str, &str), Numbers> = BTreeMap::new();
    let passed = (record.trials.iter()).filter(|t| matches!(t.outcome, Some(Outcome::Passed)));
    for trial in passed {
        for samples in &trial.samples {
            let key = (trial.planned.scenario.as_str(), samples.metric.as_str());
            let numbers = all.entry(key).or_default();
            if numbers.better.is_none() {
                order.push((key.0, key.1, trial.planned.kind));
            }
            let values = samples.values.iter().copied().filter(|v| v.is_finite()).collect();
            numbers.add(trial.role, &samples.unit, samples.better, values);
        }
    }
    (order.into_iter())
        .filter_map(|(scenario, metric, kind)| {
            let numbers = all.remove(&(scenario, metric))?;
            numbers.better?;
            let place = Place::Scenario { scenario: scenario.to_owned(), kind };
            Some((place, metric.to_owned(), numbers))
        })
        .collect()
}

/// Memory after boot and after load, by image.
fn memory(record: &RunRecord) -> Vec<(Place, String, Numbers)> {
    let mut images: Vec<&str> = record.boots.iter().map(|b| b.planned.image.as_str()).collect();
    images.sort_unstable();
    images.dedup();
    type Moment = (fn(String) -> Place, fn(&BootRecord) -> Option<&KernelState>);
    let moments: [Moment; 2] = [
        (|image| Place::AfterBoot { image }, |boot| boot.after_boot.as_ref()),
        // A machine that was started again has not carried the whole load.
        (
            |image| Place::AfterLoad { image },
            |boot| boot.after_load.as_ref().filter(|_| boot.attempts == 1 && boot.fault.is_none()),
        ),
    ];
    let mut all = Vec::new();
    for (place, state) in moments {
        for image in &images {
            for (field, better) in MEMORY_FIELDS {
                let mut numbers = Numbers::default();
                for boot in record.boots.iter().filter(|b| b.planned.image == *image) {
                    let kib = state(boot).and_then(|state| state.memory.get(field));
                    let bytes = kib.map(|&kib| vec![kib as f64 * 1024.0]).unwrap_or_default();
                    numbers.add(boot.planned.role, "B", better, bytes);
                }
                if numbers.better.is_some() {
                    all.push((place((*image).to_owned()), field.to_owned(), numbers));
                }
            }
        }
    }
    all
}

fn compare(
    place: Place,
    metric: String,
    numbers: &Numbers,
    policy: &Policy,
    selected: &[Selected],
    seed: u64,
) -> Comparison {
    let better = numbers.better.unwrap_or(Better::Lower);
    let baseline = side(&numbers.baseline, better);
    let candidate = side(&numbers.candidate, better);
    let (warn, fail) = match &place {
        Place::Scenario { scenario, .. } => {
            let known = selected.iter().find(|s| s.scenario.id.as_str() == scenario);
            let limits: PerformanceLimits = match known {
                Some(s) => policy.limits(&s.scenario.id, &metric, &s.overrides),
                None => policy.performance,
            };
            (limits.warn.ratio(), limits.fail.ratio())
        }
        _ => {
            let base = baseline.as_ref().map_or(0.0, |side| side.value).max(1.0);
            let limit = |limit: SizeLimit| match limit {
                SizeLimit::Percent(_) => limit.bytes(base).max(MEMORY_FLOOR) / base,
                SizeLimit::Bytes(_) => limit.bytes(base) / base,
            };
            (limit(policy.memory.warn), limit(policy.memory.fail))
        }
    };
    // Each metric has a sequence of its own, so that another one more changes nothing for it.
    let seed = seed ^ u64::from(crc32fast::hash(format!("{place}\0{metric}").as_bytes()));
    let enough = |boots: &[Vec<f64>]| count(boots.len()) >= MIN_BOOTS;
    let comparable = !numbers.mixed && enough(&numbers.baseline) && enough(&numbers.candidate);
    let found: Option<Change> =
        comparable.then(|| change(&numbers.baseline, &numbers.candidate, better, seed)).flatten();
    let plain = (baseline.as_ref()).zip(candidate.as_ref()).and_then(|(b, c)| {
        (!numbers.mixed && b.value > 0.0).then(|| c.value / b.value - 1.0).filter(|r| r.is_finite())
    });
    let doubt = if numbers.mixed { "the kernels were measured in different units" } else { "" };
    Comparison {
        place,
        metric,
        unit: numbers.unit.clone(),
        better,
        baseline,
        candidate,
        change: found.map(|c| c.ratio).or(plain),
        interval: found.map(|c| c.interval),
        p: found.map(|c| c.p),
        warn,
        fail: fail.max(warn),
        decision: Decision::Missing,
        effect: Effect::None,
        waiver: None,
        doubt: doubt.to_owned(),
    }
}

fn side(boots: &[Vec<f64>], better: Better) -> Option<Side> {
    let deciles: Vec<f64> = boots.iter().filter_map(|b| best_decile(b, better)).collect();
    if deciles.is_empty() {
        return None;
    }
    let value = deciles.iter().sum::<f64>() / deciles.len() as f64;
    let samples = count(boots.iter().map(Vec::len).sum());
    Some(Side { value, boots: deciles, samples })
}

/// Sets decision, effect and doubt. `proof` is the p-value from which a change counts as proven
/// beside all the others of the run.
fn decide(comparison: &mut Comparison, proof: f64, record: &RunRecord) {
    let few = |side: &Option<Side>| side.as_ref().map_or(0, |s| count(s.boots.len())) < MIN_BOOTS;
    let (decision, effect, doubt) = match (&comparison.baseline, &comparison.candidate) {
        (None, _) | (_, None) => {
            let role = if comparison.baseline.is_none() { Role::Baseline } else { Role::Candidate };
            // Trials that failed or never ran speak for themselves.
            let lost = passes(&comparison.place, role, record);
            let effect = if lost { Effect::Inconclusive } else { Effect::None };
            (Decision::Missing, effect, format!("the {role} gave no number"))
        }
        _ if !comparison.doubt.is_empty() => {
            (Decision::Missing, Effect::Inconclusive, comparison.doubt.clone())
        }
        _ if few(&comparison.baseline) || few(&comparison.candidate) => {
            let doubt = format!("fewer than {MIN_BOOTS} boots of each kernel gave a number");
            (Decision::Inconclusive, Effect::Inconclusive, doubt)
        }
        (Some(base), Some(new)) => match comparison.worsening().zip(comparison.p) {
            Some(((worse, interval), p)) => judge(comparison, worse, interval, p, proof),
            None if base.boots.iter().chain(&new.boots).all(|&v| v == 0.0) => {
                (Decision::Unchanged, Effect::None, String::new())
            }
            None => {
                let doubt = "a kernel measured zero or less, nothing can be related to that";
                (Decision::Missing, Effect::Inconclusive, doubt.to_owned())
            }
        },
    };
    // Memory that one kernel doesn't tell of is no gap in what the workload asks for.
    let optional = comparison.place.is_memory() && decision != Decision::Regression;
    comparison.decision = decision;
    comparison.effect = if optional { Effect::None } else { effect };
    comparison.doubt = doubt;
}

fn judge(
    comparison: &Comparison,
    worse: f64,
    (low, high): (f64, f64),
    p: f64,
    proof: f64,
) -> (Decision, Effect, String) {
    let (warn, fail) = (comparison.warn, comparison.fail);
    let none = String::new;
    // Both are asked: of few boots that scatter to one side the interval alone is too sure.
    let (is_worse, is_better) = (low > 0.0 && p <= SIGNIFICANCE, high < 0.0 && p <= SIGNIFICANCE);
    if is_worse && worse >= fail && p <= proof {
        (Decision::Regression, Effect::Reject, none())
    } else if is_worse && worse >= fail {
        let doubt = format!(
            "over the limit, but not proven: p is {}, and beside the run's other comparisons it \
             has to be {} or less",
            probability(p),
            if proof >= 0.001 { probability(proof) } else { format!("{proof:.5}") },
        );
        (Decision::Inconclusive, Effect::Inconclusive, doubt)
    } else if low <= -fail && high >= fail {
        let doubt = format!(
            "too noisy: between {:.1} % better and {:.1} % worse",
            -100.0 * low,
            100.0 * high
        );
        (Decision::Inconclusive, Effect::Inconclusive, doubt)
    } else if is_worse && worse >= warn {
        (Decision::Worse, Effect::None, none())
    } else if is_better && -worse >= warn {
        (Decision::Better, Effect::None, none())
    } else {
        (Decision::Unchanged, Effect::None, none())
    }
}

/// Whether a role passed where a number should have been measured.
fn passes(place: &Place, role: Role, record: &RunRecord) -> bool {
    let Place::Scenario { scenario, .. } = place else { return false };
    (record.trials.iter()).any(|t| {
        t.role == role
            && t.planned.scenario == *scenario
            && matches!(t.outcome, Some(Outcome::Passed))
    })
}

/// Performance scenarios that passed on both kernels and measured nothing.
pub(crate) fn measured_nothing(record: &RunRecord) -> Vec<String> {
    let mut scenarios: Vec<String> = (record.trials.iter())
        .filter(|t| t.planned.kind == Kind::Performance)
        .filter(|t| matches!(t.outcome, Some(Outcome::Passed)))
        .map(|t| t.planned.scenario.clone())
        .collect();
    scenarios.sort_unstable();
    scenarios.dedup();
    scenarios.retain(|s| {
        (record.trials.iter())
            .filter(|t| t.planned.scenario == *s)
            .all(|t| t.samples.iter().all(|s| s.values.is_empty()))
    });
    scenarios
}

/// Used by the sentences of reasons: `+7.3 %`.
pub(crate) fn percent(ratio: f64) -> String {
    format!("{:+.1} %", 100.0 * ratio)
}
