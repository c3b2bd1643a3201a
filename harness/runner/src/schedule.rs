//! What starts next: pure, so that tests can read the order.
//!
//! What belongs to a lower replicate comes first; in it templates before what uses them, then what is
//! expected to take longest. Trials and boots that both roles have follow each other, and which role
//! is first turns around. What must be alone comes last, in the order of the plan.
//!
//! Lab hosts are apart from all that: each boots what is planned for it in the order of the plan, one
//! after the other, beside the other hosts and whatever guests run.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use kgate_model::outcome::Role;
use kgate_model::plan::{MachineShape, PlannedBoot, PlannedTrial, Start};

use crate::history::History;

/// About what a boot takes, in milliseconds. Only the order depends on it.
const BOOT: u64 = 1500;

/// What takes a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// A boot, by its place in the list of boots; of a warm one the template.
    Boot(usize),
    /// A trial in a machine of its own: of this boot, the one in this place of its open trials. Of an
    /// exact boot, all trials of its clone.
    Trial(usize, usize),
}

impl Unit {
    pub(crate) const fn boot(self) -> usize {
        match self {
            Self::Boot(boot) | Self::Trial(boot, _) => boot,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Its template isn't there yet.
    Held,
    Waiting,
    Running,
}

#[derive(Debug)]
struct Entry<'a> {
    unit: Unit,
    state: State,
    boot: &'a PlannedBoot,
    /// What it starts is a clone.
    clone: bool,
}

impl Entry<'_> {
    fn is_template(&self) -> bool {
        has_clones(self.boot) && matches!(self.unit, Unit::Boot(_))
    }

    /// Whether this one needs all that `other` needs.
    fn needs_as_much_as(&self, other: &Self) -> bool {
        let need = |entry: &Self| {
            let MachineShape { cpus, memory, .. } = entry.boot.shape;
            (cpus, if entry.clone { 0 } else { memory })
        };
        let ((cpus, memory), (others, most)) = (need(self), need(other));
        cpus >= others && memory >= most
    }
}

/// The boots of a lab host.
#[derive(Debug, Default)]
struct Host {
    waiting: VecDeque<Unit>,
    running: Option<Unit>,
}

/// Everything that is still to start or runs, in the order in which it is to start.
#[derive(Debug)]
pub(crate) struct Schedule<'a> {
    hosts: BTreeMap<&'a str, Host>,
    /// Of guests.
    entries: Vec<Entry<'a>>,
    /// Guests.
    running: usize,
    /// Something would have started, had there been room.
    short_of_room: bool,
}

/// The same for both roles.
#[derive(Default)]
struct Pair<'a> {
    template: bool,
    expected: u64,
    /// In the order of the plan.
    units: Vec<(Role, Entry<'a>)>,
}

fn has_clones(boot: &PlannedBoot) -> bool {
    matches!(boot.start, Start::Warm | Start::Exact)
}

impl<'a> Schedule<'a> {
    /// Of boots in the order of the plan, each with its open trials.
    pub(crate) fn new<'t>(
        boots: impl IntoIterator<Item = (&'a PlannedBoot, &'t [&'a PlannedTrial])>,
        history: &History,
    ) -> Self
    where
        'a: 't,
    {
        let mut alone = Vec::new();
        let mut hosts: BTreeMap<&str, Host> = BTreeMap::new();
        // By replicate; then in the order of the plan, found by what both roles have in common.
        let mut replicates: BTreeMap<u32, (Vec<Pair<'a>>, BTreeMap<_, usize>)> = BTreeMap::new();
        for (at, (boot, open)) in boots.into_iter().enumerate() {
            let entry = |unit, state, clone| Entry { unit, state, boot, clone };
            if let Some(host) = &boot.host {
                hosts.entry(host).or_default().waiting.push_back(Unit::Boot(at));
                continue;
            }
            if boot.exclusive {
                alone.push(entry(Unit::Boot(at), State::Waiting, false));
                continue;
            }
            let (pairs, known) = replicates.entry(boot.number).or_default();
            let mut add = |scenario: Option<&'a str>, expected, entry: Entry<'a>| {
                let common = boot.id.strip_prefix(boot.role.as_str()).unwrap_or(&boot.id);
                let place = *known.entry((common, scenario)).or_insert_with(|| {
                    pairs.push(Pair::default());
                    pairs.len() - 1
                });
                let pair = &mut pairs[place];
                pair.template |= entry.is_template();
                pair.expected = pair.expected.max(expected);
                pair.units.push((boot.role, entry));
            };
            let times = open.iter().map(|trial| history.expected(&trial.scenario));
            let all = times.fold(BOOT, u64::saturating_add);
            add(None, all, entry(Unit::Boot(at), State::Waiting, false));
            if has_clones(boot) {
                for (place, trial) in open.iter().enumerate() {
                    // One that all trials of its number run in, for which the first of them stands.
                    let shared = |other: &&&PlannedTrial| other.clone == trial.clone;
                    if trial.clone.is_some() && open[..place].iter().any(|o| shared(&o)) {
                        continue;
                    }
                    let unit = entry(Unit::Trial(at, place), State::Held, true);
                    add(Some(&trial.scenario), history.expected(&trial.scenario), unit);
                }
            }
        }
        let mut entries = Vec::new();
        for (number, (mut pairs, _)) in replicates {
            pairs.sort_by_key(|pair| (!pair.template, Reverse(pair.expected)));
            for (place, mut pair) in pairs.into_iter().enumerate() {
                let first = Role::ALL[(place + number as usize + 1) % 2];
                pair.units.sort_by_key(|(role, _)| *role != first);
                entries.extend(pair.units.into_iter().map(|(_, entry)| entry));
            }
        }
        entries.extend(alone);
        Self { hosts, entries, running: 0, short_of_room: false }
    }

    /// What starts now, if anything does: then it counts as running. When nothing runs and something
    /// is left, something starts. Only guests need room.
    pub(crate) fn next(
        &mut self,
        mut has_room: impl FnMut(&MachineShape, bool) -> bool,
    ) -> Option<Unit> {
        self.short_of_room = false;
        let free = |host: &&mut Host| host.running.is_none() && !host.waiting.is_empty();
        if let Some(host) = self.hosts.values_mut().find(free) {
            host.running = host.waiting.pop_front();
            return host.running;
        }
        let mut refused: Vec<usize> = Vec::new();
        let mut found = None;
        for (at, entry) in self.entries.iter().enumerate() {
            // What must be alone comes last: as long as there is something else, that comes first.
            if entry.boot.exclusive && (at > 0 || self.running > 0) {
                break;
            }
            if entry.state != State::Waiting || entry.is_template() && self.comes_too_early(entry) {
                continue;
            }
            if refused.iter().any(|&other| entry.needs_as_much_as(&self.entries[other])) {
                continue;
            }
            if self.running == 0 || has_room(&entry.boot.shape, entry.clone) {
                found = Some(at);
                break;
            }
            refused.push(at);
        }
        self.short_of_room = found.is_none() && !refused.is_empty();
        let entry = &mut self.entries[found?];
        entry.state = State::Running;
        self.running += 1;
        Some(entry.unit)
    }

    /// Whether something waits only for room, as of the last look, and that may come without anything
    /// ending: clones count by what they use.
    pub(crate) fn may_get_room(&self) -> bool {
        let uses = |entry: &Entry<'_>| entry.clone && entry.state == State::Running;
        self.short_of_room && self.entries.iter().any(uses)
    }

    /// Templates hold memory: those of a replicate wait until all clones of those before are started.
    fn comes_too_early(&self, template: &Entry<'_>) -> bool {
        let before = |e: &Entry<'_>| {
            e.state != State::Running
                && matches!(e.unit, Unit::Trial(..))
                && e.boot.number < template.boot.number
        };
        self.entries.iter().any(before)
    }

    /// The trials of a boot can start, each in a machine of its own: a clone, or a booted one.
    pub(crate) fn release(&mut self, boot: usize, clones: bool) {
        for entry in self.entries.iter_mut().filter(|e| e.unit.boot() == boot) {
            if entry.state == State::Held {
                entry.state = State::Waiting;
                entry.clone = clones;
            }
        }
    }

    /// What was running has ended. With a boot end those of its trials that weren't released.
    pub(crate) fn ended(&mut self, unit: Unit) {
        let on = |host: &&mut Host| host.running == Some(unit);
        if let Some(host) = self.hosts.values_mut().find(on) {
            host.running = None;
            return;
        }
        self.running -= 1;
        let over = |entry: &Entry<'_>| {
            entry.unit == unit
                || entry.state == State::Held && unit == Unit::Boot(entry.unit.boot())
        };
        self.entries.retain(|entry| !over(entry));
    }

    /// The clone of a trial could not be started: the trial waits for a machine that is booted.
    pub(crate) fn wants_boot(&mut self, unit: Unit) {
        self.running -= 1;
        for entry in self.entries.iter_mut().filter(|entry| entry.unit == unit) {
            entry.state = State::Waiting;
            entry.clone = false;
        }
    }

    /// Whether trials of a boot are left.
    pub(crate) fn has_trials_of(&self, boot: usize) -> bool {
        self.entries.iter().any(|entry| entry.unit.boot() == boot)
    }

    /// Whether the trial's machine is to be a clone.
    pub(crate) fn is_clone(&self, unit: Unit) -> bool {
        self.entries.iter().any(|entry| entry.unit == unit && entry.clone)
    }
}

#[cfg(test)]
mod tests {
    use kgate_model::kernel::KernelRecord;
    use kgate_scenario::{Library, Waivers, Workload};
    use std::fmt::Write as _;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::plan::tests::Unknown;
    use crate::plan::{Inputs, Placement, make_plan};

    /// The boots of a plan over scenarios with these keys, in guests.
    fn boots(scenarios: &[(&str, &str)], number: u32) -> Vec<PlannedBoot> {
        placed(scenarios, number, &Placement::default())
    }

    fn placed(scenarios: &[(&str, &str)], number: u32, placement: &Placement) -> Vec<PlannedBoot> {
        let files = scenarios.iter().map(|(id, keys)| {
            let (kind, _) = id.split_once('/').unwrap();
            let steps = if kind == "performance" { "measure: pipe" } else { "run: x" };
            let text = format!("kind: {kind}\nsummary: s\n{keys}\nsteps: [{{ {steps} }}]\n");
            (PathBuf::from(format!("{id}.yaml")), text)
        });
        let library = Library::load(files).unwrap();
        let text = format!("summary: s\nscenarios: ['**']\npolicy: {{ boots: {number} }}\n");
        let workload = Workload::load(Path::new("w.yaml"), &text, &library).unwrap();
        let inputs = Inputs {
            selected: library.select(&workload),
            policy: workload.policy.clone(),
            waivers: Waivers::default(),
            workload,
        };
        let kernel = KernelRecord {
            reference: String::new(),
            release: String::new(),
            banner: String::new(),
            upstream: None,
            origin: String::new(),
            image_sha256: String::new(),
            package_sha256: None,
        };
        make_plan(&inputs, kernel.clone(), kernel, &Unknown, placement, 1).boots
    }

    /// What starts when, where there is room for so many units at once and each ends after all that
    /// started before it: one line per unit, with how many were running when it started.
    fn order(boots: &[PlannedBoot], times: &[(&str, u64)], room: usize, templates: bool) -> String {
        let open: Vec<Vec<&PlannedTrial>> =
            boots.iter().map(|boot| boot.trials.iter().collect()).collect();
        let history = History::of(times);
        let mut schedule =
            Schedule::new(boots.iter().zip(open.iter().map(|open| &**open)), &history);
        let mut running = std::collections::VecDeque::new();
        let mut text = String::new();
        loop {
            let of_guests = |running: &std::collections::VecDeque<Unit>| {
                running.iter().filter(|unit| boots[unit.boot()].host.is_none()).count()
            };
            while let Some(unit) = schedule.next(|_, _| of_guests(&running) < room) {
                let name = match unit {
                    Unit::Boot(at) => boots[at].id.clone(),
                    Unit::Trial(at, trial) => format!("  {}", boots[at].trials[trial].id),
                };
                let clone = if schedule.is_clone(unit) { ", a clone" } else { "" };
                writeln!(text, "{name}{clone}, beside {}", running.len()).unwrap();
                running.push_back(unit);
            }
            let Some(unit) = running.pop_front() else { break };
            if matches!(unit, Unit::Boot(at) if boots[at].start == Start::Warm) {
                schedule.release(unit.boot(), templates);
            }
            schedule.ended(unit);
        }
        assert!(schedule.entries.is_empty(), "all was started");
        assert!(schedule.hosts.values().all(|host| host.waiting.is_empty()));
        text
    }

    const SCENARIOS: [(&str, &str); 6] = [
        ("integration/a", ""),
        ("performance/p", ""),
        ("subsystem/b", ""),
        ("subsystem/c", "image: edge"),
        ("subsystem/d", "boot: cold"),
        ("subsystem/e", "boot: shared"),
    ];

    #[test]
    fn long_trials_start_first_and_roles_take_turns() {
        let times = [("integration/a", 100), ("subsystem/b", 9000), ("subsystem/c", 500)];
        let times = [times, [("subsystem/d", 20), ("subsystem/e", 10), ("performance/p", 7)]];
        insta::assert_snapshot!(order(&boots(&SCENARIOS, 2), &times.concat(), 2, true));
    }

    #[test]
    fn without_a_history_the_plan_says_the_order() {
        insta::assert_snapshot!(order(&boots(&SCENARIOS[..3], 1), &[], 1, true));
        // What isn't known may be long.
        let known = [("integration/a", 100)];
        insta::assert_snapshot!(order(&boots(&SCENARIOS[..3], 1), &known, 1, false));
    }

    #[test]
    fn hosts_neither_wait_for_room_nor_for_guests_that_are_alone() {
        let placement = Placement {
            hosts: vec!["east".into(), "west".into()],
            scenarios: vec![kgate_scenario::Glob::new("subsystem/*")],
            ..Placement::default()
        };
        let scenarios = [("subsystem/a", ""), ("performance/p", ""), ("integration/i", "")];
        let boots = placed(&scenarios, 3, &placement);
        // Not even room for one guest beside another; each unit ends after those that started before.
        insta::assert_snapshot!(order(&boots, &[], 1, true));
    }

    #[test]
    fn what_needs_less_may_overtake() {
        let boots = boots(&[("subsystem/a", ""), ("subsystem/d", "boot: cold")], 1);
        let open: Vec<Vec<&PlannedTrial>> =
            boots.iter().map(|boot| boot.trials.iter().collect()).collect();
        let history = History::of(&[("subsystem/a", 1), ("subsystem/d", 9)]);
        let mut schedule =
            Schedule::new(boots.iter().zip(open.iter().map(|open| &**open)), &history);
        let template = schedule.next(|_, _| true).unwrap();
        let mut asked = 0;
        let mut none = |_: &MachineShape, _| {
            asked += 1;
            false
        };
        // The other template, and both boots, need as much: they are not even asked about.
        assert_eq!(schedule.next(&mut none), None);
        assert_eq!(asked, 1);
        assert!(!schedule.may_get_room(), "a boot has to end");
        schedule.release(template.boot(), true);
        schedule.ended(template);
        let other = schedule.next(|_, _| true).unwrap();
        assert!(schedule.entries.iter().any(|e| e.is_template() && e.unit == other));
        // Boots have no room; a clone has.
        let clone = schedule.next(|_, clone| clone).unwrap();
        assert!(schedule.is_clone(clone));
        assert_eq!(schedule.next(|_, clone| clone), None);
        assert!(schedule.may_get_room(), "the clone may fall idle");
        // It could not be started: now it needs what the boots need, and comes after them.
        schedule.wants_boot(clone);
        assert!(!schedule.is_clone(clone));
        let cold = schedule.next(|_, _| true).unwrap();
        assert_eq!(boots[cold.boot()].start, Start::Cold);
    }
}
