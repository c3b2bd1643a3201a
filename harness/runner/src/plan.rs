//! Planning: workload, policy, scenarios and what both kernels can do, to a plan.

use std::collections::BTreeMap;

use kgate_model::kernel::KernelRecord;
use kgate_model::outcome::{Fault, FaultKind, Outcome, Role};
use kgate_model::plan::{FORMAT, Kind, MachineShape, Plan, PlannedBoot, PlannedTrial, Start};
use kgate_scenario::{Glob, Policy, Requires, Scenario, Selected, Waivers, Workload};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What a user wrote for a run, validated. Kept in the run directory as it was given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inputs {
    /// The workload.
    pub workload: Workload,
    /// How the run decides: the workload's policy or one that replaces it.
    pub policy: Policy,
    /// The scenarios as the workload runs them.
    pub selected: Vec<Selected>,
    /// Known differences.
    pub waivers: Waivers,
}

impl Inputs {
    /// What a trial of `scenario` requires: the scenario's own and the workload's.
    pub(crate) fn requires(&self, scenario: &Scenario) -> Requires {
        let (ours, all) = (&scenario.requires, &self.workload.requires);
        Requires {
            modules: union(&all.modules, &ours.modules),
            config: union(&all.config, &ours.config),
            sysctls: union(&all.sysctls, &ours.sysctls),
            files: union(&all.files, &ours.files),
            commands: union(&all.commands, &ours.commands),
            cpus: all.cpus.max(ours.cpus),
            memory: all.memory.max(ours.memory),
        }
    }
}

fn union<T: Clone + PartialEq>(first: &[T], second: &[T]) -> Vec<T> {
    let mut all = first.to_vec();
    all.extend(second.iter().filter(|item| !first.contains(item)).cloned());
    all
}

/// What runs on lab hosts. By default nothing does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Names of the hosts; without any, everything runs in guests.
    pub hosts: Vec<String>,
    /// Over ids: which scenarios run there; all when empty. Exact ones never do.
    pub scenarios: Vec<Glob>,
    /// The inventory that has the hosts.
    pub inventory: Option<String>,
}

impl Placement {
    /// Whether a scenario runs on lab hosts.
    pub fn takes(&self, scenario: &Scenario) -> bool {
        let named = |glob: &Glob| glob.matches(scenario.id.as_str());
        !self.hosts.is_empty()
            && scenario.boot != Start::Exact
            && (self.scenarios.is_empty() || self.scenarios.iter().any(named))
    }
}

/// What the two kernels can do, as far as is known without booting them.
pub trait Capabilities {
    /// Value of a configuration option named without `CONFIG_`; `n` when it isn't set, `None` when
    /// the kernel's configuration is not known.
    fn config(&self, role: Role, option: &str) -> Option<String>;

    /// Whether the kernel has a module, as a file or built in; `None` when that is not known.
    fn module(&self, role: Role, name: &str) -> Option<bool>;
}

/// Lists every boot and every trial of a run. The same arguments give the same plan.
///
/// Boots of both roles alternate (baseline, candidate, candidate, baseline …), so that whatever
/// drifts on the controller hits both alike. Scenarios that get their machine in the same way have a
/// boot in common, but for cold ones. Performance scenarios get boots of their own, beside which
/// nothing else runs. The boots of one number and image, of both roles, are in one partition.
///
/// What `placement` takes runs on lab hosts, which boot one kernel after the other: there all scenarios of
/// an image have a boot in common, those that measure first, but for cold ones. Replicates go round the
/// hosts, both roles of one on the same; on each host, roles alternate over the replicates that it has. A
/// host belongs to one partition.
///
/// `partitions` below 1 counts as 1.
pub fn make_plan(
    inputs: &Inputs,
    baseline: KernelRecord,
    candidate: KernelRecord,
    capabilities: &dyn Capabilities,
    placement: &Placement,
    partitions: u32,
) -> Plan {
    let decided: Vec<[Option<Outcome>; 2]> =
        inputs.selected.iter().map(|s| decide(inputs, s, capabilities)).collect();
    let numbers = inputs.selected.iter().map(|s| replicates(inputs, s)).max().unwrap_or_default();
    let mut boots = Vec::new();
    let mut rounds = Rounds::new(inputs, placement);
    for number in 1..=numbers {
        for (group, members) in groups(inputs, placement, number) {
            let (host, turn) = match members.first() {
                Some(&first) if group.lab => rounds.next(first, number),
                _ => (None, number),
            };
            let order = if turn % 2 == 1 { [0, 1] } else { [1, 0] };
            for at in order {
                let role = Role::ALL[at];
                let id = group.boot_id(role, number, host);
                let undecided = members.iter().filter(|&&member| decided[member][at].is_none());
                let modules = undecided
                    .map(|&member| inputs.requires(&inputs.selected[member].scenario).modules)
                    .reduce(|all, more| union(&all, &more));
                let trial = |member: usize, clone: Option<u32>| {
                    let scenario = &inputs.selected[member].scenario;
                    let nth = clone.map_or(String::new(), |clone| format!("+{clone}"));
                    PlannedTrial {
                        id: format!("{}{nth}@{id}", scenario.id),
                        scenario: scenario.id.as_str().to_owned(),
                        clone,
                        kind: scenario.kind,
                        decided: decided[member][at].clone(),
                    }
                };
                let exact = group.start == Start::Exact;
                let clones: Vec<Option<u32>> = match exact {
                    true => (1..=inputs.policy.exact.clones).map(Some).collect(),
                    false => vec![None],
                };
                let trials = clones
                    .iter()
                    .flat_map(|&clone| members.iter().map(move |&member| trial(member, clone)));
                boots.push(PlannedBoot {
                    trials: trials.collect(),
                    seed: exact.then(|| seed(inputs, group, role, number)),
                    role,
                    number,
                    image: group.image.to_owned(),
                    shape: shape(&inputs.workload, role, group),
                    modules: modules.unwrap_or_default(),
                    start: group.start,
                    exclusive: group.exclusive,
                    host: host.map(str::to_owned),
                    partition: 1,
                    id,
                });
            }
        }
    }
    deal(&mut boots, partitions.max(1));
    Plan {
        format: FORMAT,
        kgate: env!("CARGO_PKG_VERSION").to_owned(),
        workload: inputs.workload.name.clone(),
        baseline,
        candidate,
        tier: None,
        lab: placement.inventory.clone(),
        partitions: partitions.max(1),
        boots,
    }
}

/// In how many boots of each role a scenario runs.
fn replicates(inputs: &Inputs, selected: &Selected) -> u32 {
    match selected.scenario.boot {
        Start::Exact => inputs.policy.exact.templates,
        _ => selected.boots,
    }
}

/// The seed of a boot: no two boots of one run have the same, so that two equal kernels differ by as
/// much as chance makes them.
fn seed(inputs: &Inputs, group: Group<'_>, role: Role, number: u32) -> u64 {
    derived(inputs.policy.exact.seed, &group.boot_id(role, number, None))
}

/// A number that follows from another and from what it is for.
pub(crate) fn derived(from: u64, what: &str) -> u64 {
    let bytes: [u8; 32] = Sha256::digest(format!("{from} {what}")).into();
    u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|at| bytes[at]))
}

/// Which lab host is next, for each group.
struct Rounds<'a> {
    hosts: &'a [String],
    /// Members of each group that runs there.
    groups: Vec<Vec<usize>>,
    /// Replicates so far, by group and host.
    turns: BTreeMap<(usize, usize), u32>,
}

impl<'a> Rounds<'a> {
    fn new(inputs: &Inputs, placement: &'a Placement) -> Self {
        // Whatever is in a later replicate is in the first.
        let groups = groups(inputs, placement, 1).into_iter().filter(|(group, _)| group.lab);
        let groups = groups.map(|(_, members)| members).collect();
        Self { hosts: &placement.hosts, groups, turns: BTreeMap::new() }
    }

    /// The host of this replicate of the group that has this member, and how many of the group's
    /// replicates the host has with it. Each group begins with another host.
    fn next(&mut self, member: usize, number: u32) -> (Option<&'a str>, u32) {
        let of = |members: &Vec<usize>| members.contains(&member);
        let group = self.groups.iter().position(of).unwrap_or_default();
        let at = (number as usize - 1 + group) % self.hosts.len();
        let turn = self.turns.entry((group, at)).or_default();
        *turn += 1;
        (Some(&self.hosts[at]), *turn)
    }
}

/// What the scenarios of one boot have in common.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Group<'a> {
    /// On lab hosts.
    lab: bool,
    exclusive: bool,
    start: Start,
    image: &'a str,
    network: bool,
    /// The only one, by the last part of its id, and how many of that name there are before it.
    alone: Option<(&'a str, usize)>,
}

impl Group<'_> {
    /// Parts that aren't always there follow a `+`, which no name holds.
    fn boot_id(self, role: Role, number: u32, host: Option<&str>) -> String {
        let network = if self.network { "+network" } else { "" };
        let start = match self.alone {
            None if self.lab => String::new(),
            _ if self.start == Start::Warm => String::new(),
            Some((name, 0)) => format!("+cold-{name}"),
            Some((name, before)) => format!("+cold-{name}+{}", before + 1),
            // What measures shares its boots: it needs no saying.
            None if self.exclusive => String::new(),
            None => format!("+{}", self.start.as_str()),
        };
        let exclusive = if self.exclusive { "+exclusive" } else { "" };
        let host = host.map(|host| format!("+on-{host}")).unwrap_or_default();
        format!("{role}-{number}-{}{network}{start}{exclusive}{host}", self.image)
    }
}

/// The groups of one number with the indices of their scenarios: those that may run beside others
/// first, then in the order in which their first scenario was selected.
fn groups<'a>(
    inputs: &'a Inputs,
    placement: &Placement,
    number: u32,
) -> Vec<(Group<'a>, Vec<usize>)> {
    let mut groups: Vec<(Group<'_>, Vec<usize>)> = Vec::new();
    for (at, Selected { scenario, .. }) in
        inputs.selected.iter().enumerate().filter(|(_, s)| replicates(inputs, s) >= number)
    {
        let name = scenario.id.as_str().rsplit('/').next().unwrap_or_default();
        let alone = (scenario.boot == Start::Cold).then(|| {
            let named = |(group, _): &&(Group<'_>, _)| group.alone.is_some_and(|(n, _)| n == name);
            (name, groups.iter().filter(named).count())
        });
        let lab = placement.takes(scenario);
        let group = Group {
            lab,
            // What counts instructions doesn't mind how long they take; a lab host is alone anyway.
            exclusive: scenario.kind == Kind::Performance && scenario.boot != Start::Exact && !lab,
            start: if lab && alone.is_none() { Start::Shared } else { scenario.boot },
            image: &scenario.image,
            network: scenario.network && !lab,
            alone,
        };
        match groups.iter_mut().find(|(known, _)| *known == group) {
            Some((_, members)) => members.push(at),
            None => groups.push((group, vec![at])),
        }
    }
    groups.sort_by_key(|(group, _)| group.exclusive);
    for (_, members) in groups.iter_mut().filter(|(group, _)| group.lab) {
        // What is measured is not to tell of what ran before.
        members.sort_by_key(|&at| inputs.selected[at].scenario.kind != Kind::Performance);
    }
    groups
}

fn shape(workload: &Workload, role: Role, group: Group<'_>) -> MachineShape {
    let machine = &workload.machine;
    let own = match role {
        Role::Baseline => &machine.baseline,
        Role::Candidate => &machine.candidate,
    };
    MachineShape {
        // More than one would have to take turns, at times that depend on the controller.
        cpus: if group.start == Start::Exact { 1 } else { machine.cpus },
        memory: machine.memory,
        cpu_model: machine.cpu_model.clone(),
        kernel_args: [machine.kernel_args.clone(), own.kernel_args.clone()].concat(),
        network: group.network,
    }
}

/// The outcomes of a scenario that are known without running it, for baseline and candidate.
fn decide(
    inputs: &Inputs,
    selected: &Selected,
    capabilities: &dyn Capabilities,
) -> [Option<Outcome>; 2] {
    let skipped = |reason: String| Some(Outcome::Skipped { reason });
    if let Some(reason) = &selected.overrides.skip {
        return [skipped(reason.clone()), skipped(reason.clone())];
    }
    let requires = inputs.requires(&selected.scenario);
    let [baseline, candidate] = Role::ALL.map(|role| lacking(&requires, role, capabilities));
    let lost: Vec<_> = candidate.iter().filter(|l| !baseline.contains(l)).cloned().collect();
    let shared: Vec<_> = candidate.iter().filter(|l| baseline.contains(l)).cloned().collect();
    let neither = format!("neither kernel has {}", shared.join(", "));
    let of_candidate = if !lost.is_empty() {
        let message = format!("the candidate lacks what the baseline has: {}", lost.join(", "));
        Some(Outcome::from_fault(Fault::kernel(FaultKind::Requirement, message)))
    } else if !shared.is_empty() {
        skipped(neither.clone())
    } else {
        None
    };
    let of_baseline = if !shared.is_empty() {
        skipped(neither)
    } else if !baseline.is_empty() {
        skipped(format!("the baseline does not have {}", baseline.join(", ")))
    } else {
        None
    };
    [of_baseline, of_candidate]
}

/// What a kernel is known to lack, as a person reads it.
fn lacking(requires: &Requires, role: Role, capabilities: &dyn Capabilities) -> Vec<String> {
    let config = requires.config.iter().filter(|wanted| {
        capabilities.config(role, &wanted.option).is_some_and(|value| match &wanted.value {
            Some(exact) => value != *exact,
            None => value != "y" && value != "m",
        })
    });
    let modules =
        requires.modules.iter().filter(|name| capabilities.module(role, name) == Some(false));
    config
        .map(ToString::to_string)
        .chain(modules.map(|name| format!("the module {name}")))
        .collect()
}

/// A boot costs about as much as two trials.
const BOOT_WEIGHT: usize = 2;
/// One of a lab host, and the way back to production, takes minutes.
const LAB_BOOT_WEIGHT: usize = 40;

/// Deals boots to partitions, the heaviest units first, each to the partition with the least. All of a
/// lab host are in one, so that no two processes want the same host.
fn deal(boots: &mut [PlannedBoot], partitions: u32) {
    let unit = |boot: &PlannedBoot| match &boot.host {
        Some(host) => (0, host.clone()),
        None => (boot.number, boot.image.clone()),
    };
    let mut units: BTreeMap<(u32, String), usize> = BTreeMap::new();
    for boot in boots.iter() {
        let open = boot.trials.iter().filter(|trial| trial.decided.is_none()).count();
        let start = if boot.host.is_some() { LAB_BOOT_WEIGHT } else { BOOT_WEIGHT };
        let weight = if open > 0 { open + start } else { 0 };
        *units.entry(unit(boot)).or_default() += weight;
    }
    let mut heaviest: Vec<_> = units.iter().collect();
    heaviest.sort_by_key(|(_, weight)| std::cmp::Reverse(**weight));
    let mut loads: Vec<(usize, u32)> = (1..=partitions).map(|number| (0, number)).collect();
    let mut partition_of = BTreeMap::new();
    for (unit, weight) in heaviest {
        let Some(least) = loads.iter_mut().min() else { return };
        least.0 += weight;
        partition_of.insert(unit.clone(), least.1);
    }
    for boot in boots {
        boot.partition = partition_of[&unit(boot)];
    }
}

/// What makes two plans different runs, as a person reads it; empty when both are the same run.
///
/// Where a kernel was found may differ: one run may be carried out on several controllers.
pub fn differences(one: &Plan, other: &Plan) -> Vec<String> {
    let mut found = Vec::new();
    let mut differs = |what: String, a: &str, b: &str| {
        if a != b {
            found.push(format!("{what}: {a} and {b}"));
        }
    };
    differs("plan format".into(), &one.format.to_string(), &other.format.to_string());
    differs("kgate version".into(), &one.kgate, &other.kgate);
    differs("workload".into(), &one.workload, &other.workload);
    for role in Role::ALL {
        let (a, b) = (one.kernel(role), other.kernel(role));
        differs(format!("{role} kernel"), &a.release, &b.release);
        let image = format!("{role} kernel's image (sha256)");
        differs(image, &a.image_sha256, &b.image_sha256);
        if let (Some(a), Some(b)) = (&a.package_sha256, &b.package_sha256) {
            differs(format!("{role} kernel's package (sha256)"), a, b);
        }
    }
    differs(
        "number of partitions".into(),
        &one.partitions.to_string(),
        &other.partitions.to_string(),
    );
    if found.is_empty() && one.boots != other.boots {
        let first = one.boots.iter().zip(&other.boots).find(|(a, b)| a != b);
        found.push(match first {
            Some((a, b)) if a.id == b.id => format!("the boot {}", a.id),
            Some((a, b)) => format!("boots: {} and {}", a.id, b.id),
            None => format!("number of boots: {} and {}", one.boots.len(), other.boots.len()),
        });
    }
    found
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Capabilities, Role};

    /// Two kernels of which nothing is known, and so nothing is held against them.
    pub(crate) struct Unknown;

    impl Capabilities for Unknown {
        fn config(&self, _: Role, _: &str) -> Option<String> {
            None
        }

        fn module(&self, _: Role, _: &str) -> Option<bool> {
            None
        }
    }
}
