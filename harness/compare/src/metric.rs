//! Measured numbers: performance metrics of scenarios, memory after boot and after load.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use kgate_model::journal::{BootRecord, RunRecord};
use kgate_model::outcome::{Outcome, Role};
use kgate_model::plan::{Kind, Start};
use kgate_model::sample::Better;
use kgate_scenario::{Action, PerformanceLimits, Policy, Selected, SizeLimit, ops};

use crate::boot::{self, Statistic, best_decile};
use crate::case::probability;
use crate::exact::{self, Exact, MIN_TEMPLATES, Noise};
use crate::family::{Families, adjust};
use crate::finding::count;
use crate::hosts;
use crate::slab::state;
use crate::stats::{self, Change, MOST_BOOTS, Method, SIGNIFICANCE, boots_that_see, changes};
use crate::verdict::Effect;
use crate::waive::{Book, Difference};

/// Fewest boots of each role on which anything is decided.
pub const MIN_BOOTS: u32 = 3;

/// Unit of what exact mode measures.
const INSTRUCTIONS: &str = "instructions";

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
    /// One number per boot, in the order of the boots: what the statistic makes of its samples, in
    /// exact mode the mean over its clones.
    pub boots: Vec<f64>,
    /// In exact mode one number per clone, by boot.
    pub clones: Vec<Vec<f64>>,
    /// Samples behind them.
    pub samples: u32,
}

/// How sure a change is: what of the statistics decides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Evidence {
    /// Boots were compared.
    Boots {
        /// How the p-value was come by.
        method: Method,
        /// The p-value that keeps the whole run free of false rejections, but for
        /// [`SIGNIFICANCE`] of runs: Holm's.
        family: f64,
        /// The p-value that keeps chance at [`SIGNIFICANCE`] of all changes shown: Benjamini's and
        /// Hochberg's.
        discovery: f64,
        /// Boots of each kernel with which the fail limit could have been seen; `None` when more than
        /// [`MOST_BOOTS`].
        enough: Option<u32>,
    },
    /// Instructions were counted.
    Instructions {
        /// The change in standard errors; infinite where every clone of a kernel gave the same.
        t: f64,
        /// Degrees of freedom.
        freedom: f64,
        /// Between what the noise is that decides.
        noise: Noise,
    },
}

/// One metric in both kernels.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Where it was measured.
    pub place: Place,
    /// Its name: a scenario's metric, or a field of `/proc/meminfo`.
    pub metric: String,
    /// What of it is compared.
    pub statistic: Statistic,
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
    /// Probability of such a change between equal kernels, had nothing else been compared.
    pub p: Option<f64>,
    /// What decides; `None` when nothing could be related.
    pub evidence: Option<Evidence>,
    /// The smallest change that could have been seen beside the run's other comparisons: four times
    /// of five by boots, and in exact mode any from the warn limit and the asked number of standard
    /// errors on.
    pub detectable: Option<f64>,
    /// It was measured in exact mode.
    pub exact: bool,
    /// Relative change for the worse that is worth attention.
    pub warn: f64,
    /// Relative change for the worse that rejects.
    pub fail: f64,
    /// The lab hosts that it was measured on: only boots of one host are compared with each other. Empty
    /// when guests measured it.
    pub hosts: Vec<String>,
    /// Why numbers of a lab host were left out.
    pub uneven: Option<String>,
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
    /// Its name, with what of it is compared where that is not the usual: `getppid`, `getppid p99`; of a
    /// count that is mostly one of words moved by string instructions also that: `cow-fault, copies`.
    pub fn label(&self) -> String {
        let label = self.statistic.of(&self.metric);
        let copies = self.exact && ops::find(&self.metric).is_some_and(|op| op.copies);
        if copies { format!("{label}, copies") } else { label }
    }

    /// The relative change for the worse, and its interval with the worst end last.
    fn worsening(&self) -> Option<(f64, (f64, f64))> {
        let (change, (low, high)) = self.change.zip(self.interval)?;
        Some(match self.better {
            Better::Lower => (change, (low, high)),
            Better::Higher => (-change, (-high, -low)),
        })
    }

    /// Doubt and gaps are no matter of the verdict: memory that a kernel doesn't tell of is no gap in
    /// what the workload asks for, and tails and means of counts advise beside the path.
    fn advises(&self) -> bool {
        self.place.is_memory()
            || self.statistic.is_tail()
            || (self.exact && self.statistic == Statistic::Mean)
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
    /// The sides were measured in different units or directions, or not both in exact mode.
    mixed: bool,
    exact: Option<bool>,
    baseline: Vec<Clones>,
    candidate: Vec<Clones>,
    /// The machine of each boot of baseline and candidate: its place among the run's hosts, from 1; 0 is a
    /// guest, which are alike.
    machines: [Vec<usize>; 2],
    /// Why boots of a lab host are left out.
    uneven: Option<String>,
}

/// A boot that gives a number.
#[derive(Clone, Copy)]
struct Of {
    role: Role,
    number: u32,
    machine: usize,
}

/// A boot's number, and the samples of each of its clones; of one only outside exact mode.
type Clones = (u32, Vec<Vec<f64>>);

impl Numbers {
    fn add(&mut self, boot: Of, exact: bool, samples: (&str, Better, Vec<f64>)) {
        let (unit, better, values) = samples;
        if values.is_empty() {
            return;
        }
        let Of { role, number: boot, machine } = boot;
        self.mixed |= *self.better.get_or_insert(better) != better
            || *self.exact.get_or_insert(exact) != exact
            || (!self.unit.is_empty() && self.unit != unit);
        unit.clone_into(&mut self.unit);
        let boots = match role {
            Role::Baseline => &mut self.baseline,
            Role::Candidate => &mut self.candidate,
        };
        match boots.iter_mut().find(|(number, _)| exact && *number == boot) {
            Some((_, clones)) => clones.push(values),
            None => {
                boots.push((boot, vec![values]));
                self.machines[usize::from(role == Role::Candidate)].push(machine);
            }
        }
    }

    /// Which boots are on which machine, where that matters.
    fn machines(&self) -> [Vec<usize>; 2] {
        let mut all = self.machines.iter().flatten();
        let first = all.next();
        let alike = all.all(|machine| Some(machine) == first);
        if alike { Default::default() } else { self.machines.clone() }
    }

    fn side(&self, role: Role) -> &[Clones] {
        match role {
            Role::Baseline => &self.baseline,
            Role::Candidate => &self.candidate,
        }
    }

    /// Samples of each boot, outside exact mode.
    fn boots(&self, role: Role) -> Vec<Vec<f64>> {
        self.side(role).iter().map(|(_, clones)| clones.concat()).collect()
    }

    /// The fewest samples of a boot.
    fn fewest(&self) -> usize {
        let boots = self.baseline.iter().chain(&self.candidate);
        boots.map(|(_, clones)| clones.iter().map(Vec::len).sum()).min().unwrap_or(0)
    }
}

/// One comparison to make.
struct Task {
    place: Place,
    metric: String,
    statistic: Statistic,
    numbers: std::rc::Rc<Numbers>,
}

/// Every comparison, performance first.
pub(crate) fn comparisons(
    record: &RunRecord,
    policy: &Policy,
    selected: &[Selected],
    seed: u64,
    book: &mut Book<'_>,
) -> (Vec<Comparison>, Families) {
    let tasks: Vec<Task> = (performance(record).into_iter())
        .flat_map(|measured| tasks(measured, selected))
        .chain(memory(record).into_iter().map(|(place, metric, numbers)| Task {
            place,
            metric,
            statistic: Statistic::Reading,
            numbers: numbers.into(),
        }))
        .collect();
    // What a family is, is known before anything is tested: a comparison that is possible.
    let comparable = |task: &Task| {
        let enough = |role| count(task.numbers.side(role).len()) >= MIN_BOOTS;
        !task.numbers.mixed && Role::ALL.into_iter().all(enough)
    };
    let of_boots = |task: &&Task| task.numbers.exact != Some(true) && comparable(task);
    let family = tasks.iter().filter(of_boots).count();
    let metrics: Vec<stats::Metric> =
        tasks.iter().filter(of_boots).map(|task| boots_of(task, seed)).collect();
    let mut found = changes(&metrics, family).into_iter();
    let counted = counts(&tasks);
    let hosts = record.plan.hosts();
    let mut comparisons: Vec<Comparison> = (tasks.iter().zip(counted))
        .map(|(task, counted)| {
            let change = if of_boots(&task) { found.next().flatten() } else { None };
            let comparison = compare(task, change, counted, policy, selected, family);
            let on = |at: &usize| hosts.get(at.checked_sub(1)?).map(|&host| host.to_owned());
            let machines: BTreeSet<usize> =
                task.numbers.machines.iter().flatten().copied().collect();
            Comparison { hosts: machines.iter().filter_map(on).collect(), ..comparison }
        })
        .collect();
    adjust(&mut comparisons);
    let invalid = self_check(record);
    for comparison in &mut comparisons {
        decide(comparison, policy, record, invalid.as_deref());
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
            let label = format!("{}: {}", comparison.place, comparison.label());
            if let Some(id) = book.waive(&difference, &label) {
                comparison.waiver = Some(id);
                comparison.effect = Effect::None;
            }
        }
    }
    let families = Families::new(&comparisons);
    (comparisons, families)
}

/// Why nothing that exact mode measured can be believed; `None` when it can.
pub(crate) fn self_check(record: &RunRecord) -> Option<String> {
    let exact = || record.boots.iter().filter(|boot| boot.planned.start == Start::Exact);
    let failed = exact().find_map(|boot| match &boot.self_check {
        Some(Err(difference)) => Some((boot, difference)),
        _ => None,
    });
    if let Some((boot, difference)) = failed {
        return Some(format!(
            "one seed twice did not come to the same in {}: {difference}",
            boot.planned.id
        ));
    }
    let measured = (record.trials.iter())
        .any(|t| t.planned.clone.is_some() && t.samples.iter().any(|s| s.unit == INSTRUCTIONS));
    let checked = exact().any(|boot| boot.self_check.is_some());
    (measured && !checked).then(|| "no clone was carried out twice to check it".to_owned())
}

/// What exact mode says of each task that it measured.
fn counts(tasks: &[Task]) -> Vec<Option<Exact>> {
    let mut counted: Vec<Option<Exact>> = (tasks.iter())
        .map(|task| {
            let Task { statistic, numbers, .. } = task;
            let better = numbers.better?;
            let clones = |role| -> Option<Vec<Vec<f64>>> {
                Some(side(numbers.side(role), *statistic, better, true)?.clones)
            };
            let asked = numbers.exact == Some(true) && !numbers.mixed;
            asked.then(|| exact::compare(&clones(Role::Baseline)?, &clones(Role::Candidate)?))?
        })
        .collect();
    for statistic in [Statistic::Path, Statistic::Mean] {
        let mut same: Vec<&mut Exact> = (counted.iter_mut().zip(tasks))
            .filter(|(_, task)| task.statistic == statistic)
            .filter_map(|(counted, _)| counted.as_mut())
            .collect();
        exact::pool(&mut same);
    }
    counted
}

/// What is compared of a metric.
fn tasks((place, metric, numbers): (Place, String, Numbers), selected: &[Selected]) -> Vec<Task> {
    let mut statistics = vec![Statistic::BestDecile];
    if numbers.exact == Some(true) {
        statistics = vec![Statistic::Path, Statistic::Mean];
    } else if of_single_operations(&place, &metric, &numbers, selected) {
        let enough = |statistic: &Statistic| numbers.fewest() >= statistic.samples();
        statistics.extend(Statistic::LATENCY.into_iter().filter(enough));
    }
    let numbers = std::rc::Rc::new(numbers);
    let task = |statistic| Task {
        place: place.clone(),
        metric: metric.clone(),
        statistic,
        numbers: std::rc::Rc::clone(&numbers),
    };
    statistics.into_iter().map(task).collect()
}

/// Whether each sample is the latency of one operation, so that its tail means something: only a step
/// that measures with a batch of one says so.
fn of_single_operations(
    place: &Place,
    metric: &str,
    numbers: &Numbers,
    selected: &[Selected],
) -> bool {
    let Place::Scenario { scenario, .. } = place else { return false };
    let known = selected.iter().find(|s| s.scenario.id.as_str() == scenario);
    let steps = known.map_or(&[][..], |selected| &selected.scenario.steps);
    numbers.better == Some(Better::Lower)
        && steps.iter().any(
            |step| matches!(&step.action, Action::Measure(m) if m.op == metric && m.batch == 1),
        )
}

/// Every metric of a scenario whose boots can be compared, with its label.
pub(crate) fn measured(
    record: &RunRecord,
    selected: &[Selected],
) -> Vec<(String, String, stats::Metric)> {
    let of_boots = |task: &Task| task.numbers.exact != Some(true) && !task.numbers.mixed;
    (performance(record).into_iter())
        .flat_map(|measured| tasks(measured, selected))
        .filter(of_boots)
        .map(|task| (task.place.to_string(), task.statistic.of(&task.metric), boots_of(&task, 0)))
        .collect()
}

fn boots_of(task: &Task, seed: u64) -> stats::Metric {
    let Task { place, metric, statistic, numbers } = task;
    // Each metric has a sequence of its own, so that another one more changes nothing for it.
    let name = match statistic {
        Statistic::BestDecile | Statistic::Reading => format!("{place}\0{metric}"),
        other => format!("{place}\0{metric}\0{}", other.as_str()),
    };
    stats::Metric {
        baseline: numbers.boots(Role::Baseline),
        candidate: numbers.boots(Role::Candidate),
        machines: numbers.machines(),
        statistic: *statistic,
        better: numbers.better.unwrap_or(Better::Lower),
        seed: seed ^ u64::from(crc32fast::hash(name.as_bytes())),
    }
}

/// Metrics of scenarios, in the order of the plan.
fn performance(record: &RunRecord) -> Vec<(Place, String, Numbers)> {
    let mut order: Vec<(&str, &str, Kind)> = Vec::new();
    let mut all: BTreeMap<(&str, &str), Numbers> = BTreeMap::new();
    let hosts = record.plan.hosts();
    let uneven = hosts::uneven(record);
    let on: BTreeMap<&str, &str> = (record.boots.iter())
        .filter_map(|boot| Some((boot.planned.id.as_str(), boot.planned.host.as_deref()?)))
        .collect();
    let passed = (record.trials.iter()).filter(|t| matches!(t.outcome, Some(Outcome::Passed)));
    for trial in passed {
        let host = on.get(trial.boot.as_str()).copied();
        for samples in &trial.samples {
            let key = (trial.planned.scenario.as_str(), samples.metric.as_str());
            let numbers = all.entry(key).or_default();
            if numbers.better.is_none() {
                order.push((key.0, key.1, trial.planned.kind));
            }
            let values = samples.values.iter().copied().filter(|v| v.is_finite()).collect();
            let exact = trial.planned.clone.is_some() && samples.unit == INSTRUCTIONS;
            if let Some(why) = host.and_then(|host| uneven.get(host)) {
                numbers.better.get_or_insert(samples.better);
                samples.unit.clone_into(&mut numbers.unit);
                numbers.uneven.get_or_insert_with(|| why.clone());
                continue;
            }
            let of = Of { role: trial.role, number: trial.number, machine: machine(&hosts, host) };
            numbers.add(of, exact, (&samples.unit, samples.better, values));
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

/// Place of a host among all, from 1; 0 where there is none.
fn machine(hosts: &[&str], host: Option<&str>) -> usize {
    let at = host.and_then(|host| hosts.iter().position(|known| *known == host));
    at.map_or(0, |at| at + 1)
}

/// The image of a boot, as the places name it where its memory is compared: a lab host's is not a guest's.
pub(crate) fn image(boot: &BootRecord) -> String {
    let lab = if boot.planned.host.is_some() { ", lab hosts" } else { "" };
    format!("{}{lab}", boot.planned.image)
}

/// Memory after boot and after load, by image.
fn memory(record: &RunRecord) -> Vec<(Place, String, Numbers)> {
    let hosts = record.plan.hosts();
    let mut images: Vec<String> = record.boots.iter().map(image).collect();
    images.sort_unstable();
    images.dedup();
    let moments: [fn(String) -> Place; 2] =
        [|image| Place::AfterBoot { image }, |image| Place::AfterLoad { image }];
    let mut all = Vec::new();
    for place in moments {
        for image in &images {
            let place = place(image.clone());
            for (field, better) in MEMORY_FIELDS {
                let mut numbers = Numbers::default();
                // The machines of exact mode are others, and too few.
                let boots = record.boots.iter().filter(|b| b.planned.start != Start::Exact);
                for boot in boots.filter(|b| self::image(b) == *image) {
                    let kib = state(&place, boot).and_then(|state| state.memory.get(field));
                    let bytes = kib.map(|&kib| vec![kib as f64 * 1024.0]).unwrap_or_default();
                    let (role, number) = (boot.planned.role, boot.planned.number);
                    let machine = machine(&hosts, boot.planned.host.as_deref());
                    numbers.add(Of { role, number, machine }, false, ("B", better, bytes));
                }
                if numbers.better.is_some() {
                    all.push((place.clone(), field.to_owned(), numbers));
                }
            }
        }
    }
    all
}

fn compare(
    task: &Task,
    found: Option<Change>,
    counted: Option<Exact>,
    policy: &Policy,
    selected: &[Selected],
    family: usize,
) -> Comparison {
    let Task { place, metric, statistic, numbers } = task;
    let better = numbers.better.unwrap_or(Better::Lower);
    let exact = numbers.exact == Some(true);
    let side = |role| side(numbers.side(role), *statistic, better, exact);
    let (baseline, candidate) = (side(Role::Baseline), side(Role::Candidate));
    let (warn, fail) = limits(task, baseline.as_ref(), policy, selected);
    let fail = fail.max(warn);
    let plain = (baseline.as_ref()).zip(candidate.as_ref()).and_then(|(b, c)| {
        (!numbers.mixed && b.value > 0.0).then(|| c.value / b.value - 1.0).filter(|r| r.is_finite())
    });
    let evidence = match (found, counted) {
        (Some(found), _) => Some(Evidence::Boots {
            method: found.test.method,
            family: found.test.p,
            discovery: found.test.p,
            enough: boots_that_see(fail, found.variance, family),
        }),
        (None, Some(Exact { t, freedom, noise, .. })) => {
            Some(Evidence::Instructions { t, freedom, noise })
        }
        (None, None) => None,
    };
    let doubt = if numbers.mixed { "the kernels were measured in different ways" } else { "" };
    Comparison {
        place: place.clone(),
        metric: metric.clone(),
        statistic: *statistic,
        unit: numbers.unit.clone(),
        better,
        baseline,
        candidate,
        change: found.map(|c| c.ratio).or(counted.map(|c| c.ratio)).or(plain),
        interval: found.map(|c| c.interval).or(counted.map(|c| c.interval())),
        p: found.map(|c| c.test.p).or(counted.map(|c| c.p())),
        evidence,
        detectable: (found.map(|c| c.detectable))
            .or(counted.map(|c| (policy.exact.t * c.error).max(warn))),
        exact,
        warn,
        fail,
        hosts: Vec::new(),
        uneven: numbers.uneven.clone(),
        decision: Decision::Missing,
        effect: Effect::None,
        waiver: None,
        doubt: doubt.to_owned(),
    }
}

fn limits(
    task: &Task,
    baseline: Option<&Side>,
    policy: &Policy,
    selected: &[Selected],
) -> (f64, f64) {
    let ratios = |limits: PerformanceLimits| (limits.warn.ratio(), limits.fail.ratio());
    let Place::Scenario { scenario, .. } = &task.place else {
        let base = baseline.map_or(0.0, |side| side.value).max(1.0);
        let limit = |limit: SizeLimit| match limit {
            SizeLimit::Percent(_) => limit.bytes(base).max(MEMORY_FLOOR) / base,
            SizeLimit::Bytes(_) => limit.bytes(base) / base,
        };
        return (limit(policy.memory.warn), limit(policy.memory.fail));
    };
    let known = selected.iter().find(|s| s.scenario.id.as_str() == scenario);
    if task.numbers.exact == Some(true) {
        let (path, mean) = known.map_or((policy.exact.path, policy.exact.mean), |s| {
            policy.exact.limits(&s.scenario.id, &task.metric)
        });
        return ratios(if task.statistic == Statistic::Path { path } else { mean });
    }
    if task.statistic.is_tail() {
        return ratios(policy.tails);
    }
    ratios(
        known.map_or(policy.performance, |s| {
            policy.limits(&s.scenario.id, &task.metric, &s.overrides)
        }),
    )
}

fn side(boots: &[Clones], statistic: Statistic, better: Better, exact: bool) -> Option<Side> {
    let clones: Vec<Vec<f64>> = (boots.iter())
        .map(|(_, clones)| boot::values(clones, statistic, better))
        .filter(|clones| !clones.is_empty())
        .collect();
    if clones.is_empty() {
        return None;
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let of_boots: Vec<f64> = clones.iter().map(|clones| mean(clones)).collect();
    let samples = boots.iter().flat_map(|(_, clones)| clones).map(Vec::len).sum();
    Some(Side {
        value: mean(&of_boots),
        boots: of_boots,
        clones: if exact { clones } else { Vec::new() },
        samples: count(samples),
    })
}

/// Sets decision, effect and doubt.
fn decide(comparison: &mut Comparison, policy: &Policy, record: &RunRecord, invalid: Option<&str>) {
    let few = |side: &Option<Side>| {
        let least = if comparison.exact { count(MIN_TEMPLATES) } else { MIN_BOOTS };
        side.as_ref().map_or(0, |side| count(side.boots.len())) < least
    };
    let (decision, effect, doubt) = match (&comparison.baseline, &comparison.candidate) {
        // Told once for the whole run.
        _ if comparison.exact && invalid.is_some() => {
            let why = invalid.unwrap_or_default();
            (Decision::Inconclusive, Effect::None, format!("exact mode is invalid: {why}"))
        }
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
            let doubt = if comparison.exact {
                format!("fewer than {MIN_TEMPLATES} templates of each kernel gave a number")
            } else {
                format!("fewer than {MIN_BOOTS} boots of each kernel gave a number")
            };
            (Decision::Inconclusive, Effect::Inconclusive, doubt)
        }
        (Some(base), Some(new)) => match comparison.worsening().zip(comparison.evidence) {
            Some(((worse, interval), evidence)) => match evidence {
                Evidence::Boots { family, discovery, enough, .. } => {
                    judge(comparison, worse, interval, (family, discovery), enough)
                }
                Evidence::Instructions { t, noise, .. } => {
                    judge_exact(comparison, worse, t.abs() > policy.exact.t, noise, policy)
                }
            },
            None if base.boots.iter().chain(&new.boots).all(|&v| v == 0.0) => {
                (Decision::Unchanged, Effect::None, String::new())
            }
            None => {
                let doubt = "a kernel measured zero or less, nothing can be related to that";
                (Decision::Missing, Effect::Inconclusive, doubt.to_owned())
            }
        },
    };
    let (decision, effect, doubt) = match &comparison.uneven {
        // What is left may prove that it is worse, but not that nothing is.
        Some(why) if decision != Decision::Regression => {
            (Decision::Inconclusive, Effect::Inconclusive, why.clone())
        }
        _ => (decision, effect, doubt),
    };
    let optional = comparison.advises() && decision != Decision::Regression;
    comparison.decision = decision;
    comparison.effect = if optional { Effect::None } else { effect };
    comparison.doubt = doubt;
}

/// A limit is reached by a change that rounding puts below it.
fn reaches(change: f64, limit: f64) -> bool {
    change >= limit * (1.0 - 1e-9)
}

fn judge(
    comparison: &Comparison,
    worse: f64,
    (low, high): (f64, f64),
    (family, discovery): (f64, f64),
    enough: Option<u32>,
) -> (Decision, Effect, String) {
    let (warn, fail) = (comparison.warn, comparison.fail);
    let none = String::new;
    let boots = comparison.baseline.as_ref().map_or(0, |side| side.boots.len());
    let more = || match enough {
        // So many were not enough by bad luck, or are uneven.
        Some(enough) if enough as usize <= boots => "some more would do".to_owned(),
        Some(enough) => format!("about {enough} would do"),
        None => format!("more than {MOST_BOOTS} would be needed"),
    };
    // Both are asked: of few boots that scatter to one side the interval alone is too sure.
    let (is_worse, is_better) =
        (low > 0.0 && discovery <= SIGNIFICANCE, high < 0.0 && discovery <= SIGNIFICANCE);
    let sees = comparison.detectable.unwrap_or(f64::INFINITY);
    if low > 0.0 && reaches(worse, fail) && family <= SIGNIFICANCE {
        (Decision::Regression, Effect::Reject, none())
    } else if low > 0.0 && reaches(worse, fail) {
        let doubt = format!(
            "over the limit, but not proven: beside the run's other comparisons chance does this with \
             a probability of {} with {boots} boots of each kernel; {}",
            probability(family),
            more(),
        );
        (Decision::Inconclusive, Effect::Inconclusive, doubt)
    } else if sees > fail && high >= fail {
        let doubt = format!(
            "too noisy: {boots} boots of each kernel see changes from {:.1} % on, the limit is {:.1} \
             %; {}",
            100.0 * sees,
            100.0 * fail,
            more(),
        );
        (Decision::Inconclusive, Effect::Inconclusive, doubt)
    } else if is_worse && reaches(worse, warn) {
        (Decision::Worse, Effect::None, none())
    } else if is_better && reaches(-worse, warn) {
        (Decision::Better, Effect::None, none())
    } else {
        (Decision::Unchanged, Effect::None, none())
    }
}

fn judge_exact(
    comparison: &Comparison,
    worse: f64,
    proven: bool,
    noise: Noise,
    policy: &Policy,
) -> (Decision, Effect, String) {
    let (warn, fail) = (comparison.warn, comparison.fail);
    let none = String::new;
    // Below the warn limit it is that limit, which no doubt is about.
    let sees = comparison.detectable.unwrap_or(f64::INFINITY);
    if proven && reaches(worse, fail) {
        (Decision::Regression, Effect::Reject, none())
    } else if proven && reaches(worse, warn) {
        (Decision::Worse, Effect::None, none())
    } else if proven && reaches(-worse, warn) {
        (Decision::Better, Effect::None, none())
    } else if !proven && sees > warn && reaches(worse + sees, fail) {
        // The error falls with the root of the number of templates.
        let templates = f64::from(policy.exact.templates) * (sees / fail).powi(2).max(1.5);
        let doubt = format!(
            "{} of one kernel differ so much that only changes from {:.2} % on are seen, the limit is \
             {:.2} %; about {:.0} templates would do",
            noise.as_str(),
            100.0 * sees,
            100.0 * fail,
            templates.ceil(),
        );
        (Decision::Inconclusive, Effect::Inconclusive, doubt)
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

/// Used by the sentences of reasons: `+7.3 %`, in exact mode `+0.59 %`.
pub(crate) fn percent(ratio: f64, exact: bool) -> String {
    if exact { format!("{:+.2} %", 100.0 * ratio) } else { format!("{:+.1} %", 100.0 * ratio) }
}
