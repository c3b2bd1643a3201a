//! What starts next: pure, so that tests can read the order.
//!
//! What belongs to a lower replicate comes first; in it templates before what uses them, then what is
//! expected to take longest. Trials and boots that both roles have follow each other, and which role
//! is first turns around. What must be alone comes last, in the order of the plan.

use std::cmp::Reverse;
use std::collections::BTreeMap;

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
    /// A trial in a machine of its own: of this boot, the one in this place of its open trials.
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
        self.boot.start == Start::Warm && matches!(self.unit, Unit::Boot(_))
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

/// Everything that is still to start or runs, in the order in which it is to start.
#[derive(Debug)]
pub(crate) struct Schedule<'a> {
    entries: Vec<Entry<'a>>,
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
        // By replicate; then in the order of the plan, found by what both roles have in common.
        let mut replicates: BTreeMap<u32, (Vec<Pair<'a>>, BTreeMap<_, usize>)> = BTreeMap::new();
        for (at, (boot, open)) in boots.into_iter().enumerate() {
            let entry = |unit, state, clone| Entry { unit, state, boot, clone };
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
            if boot.start == Start::Warm {
                for (place, trial) in open.iter().enumerate() {
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
        Self { entries, running: 0, short_of_room: false }
    }

    /// What starts now, if anything does: then it counts as running. When nothing runs and something
    /// is left, something starts.
    pub(crate) fn next(
        &mut self,
        mut has_room: impl FnMut(&MachineShape, bool) -> bool,
    ) -> Option<Unit> {
        self.short_of_room = false;
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

    /// Whether something waits only for room, as of the last look.
    pub(crate) const fn is_short_of_room(&self) -> bool {
        self.short_of_room
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
