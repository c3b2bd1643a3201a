//! What running guests really use of the controller, and whether it carries another one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use kgate_model::plan::MachineShape;
use tokio::time::Instant;

use crate::pins::Pins;

/// What QEMU needs beside the memory of a booted guest, measured generously.
const OVERHEAD: u64 = 160 << 20;
/// A clone is never counted with less: it has only begun to write.
const CLONE: u64 = 64 << 20;
/// Clones at one time for each CPU, however little they use.
const CLONES_PER_CPU: u32 = 8;
/// Between two looks at one guest.
const LOOK: Duration = Duration::from_millis(200);
/// A guest that is younger counts as if it used all of its CPUs.
const YOUNG: Duration = Duration::from_millis(400);

/// What of the controller guests may use, and what they do use.
#[derive(Debug)]
pub(crate) struct Load {
    cpus: u32,
    memory: u64,
    seats: RefCell<BTreeMap<u64, Seated>>,
    /// `None` where there is no choice of CPUs.
    pins: Option<Arc<Pins>>,
}

/// The place of a guest or a template. It is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    load: Rc<Load>,
    number: u64,
    alone: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Boot,
    Clone,
    /// A clone that never waits for anything.
    BusyClone,
    Template,
}

#[derive(Clone, Debug)]
struct Seated {
    kind: Kind,
    cpus: u32,
    memory: u64,
    process: Option<u32>,
    since: Instant,
    /// When its process was last looked at, and the CPU time that it had used by then.
    seen: (Instant, Duration),
    /// CPUs that it used between the last two looks.
    busy: f64,
    /// Bytes that only it holds.
    own: u64,
}

impl Load {
    pub(crate) fn new(cpus: u32, memory: u64) -> Rc<Self> {
        let pins = Pins::new().map(Arc::new);
        Rc::new(Self { cpus, memory, seats: RefCell::default(), pins })
    }

    /// Takes a place for a guest that is about to boot.
    pub(crate) fn boot(self: &Rc<Self>, shape: &MachineShape) -> Seat {
        self.seat(Kind::Boot, shape.cpus, shape.memory)
    }

    /// Takes a place for a clone that is about to start.
    pub(crate) fn clone_of(self: &Rc<Self>, shape: &MachineShape) -> Seat {
        self.seat(Kind::Clone, shape.cpus, shape.memory)
    }

    /// Takes a place for a clone that is about to start and will use its CPU without a pause.
    pub(crate) fn busy_clone_of(self: &Rc<Self>, shape: &MachineShape) -> Seat {
        self.seat(Kind::BusyClone, shape.cpus, shape.memory)
    }

    /// Takes a place for a template that holds so many bytes.
    pub(crate) fn template(self: &Rc<Self>, bytes: u64) -> Seat {
        self.seat(Kind::Template, 0, bytes)
    }

    fn seat(self: &Rc<Self>, kind: Kind, cpus: u32, memory: u64) -> Seat {
        let now = Instant::now();
        let mut seats = self.seats.borrow_mut();
        let number = seats.last_key_value().map_or(0, |(last, _)| last + 1);
        let seated = Seated {
            kind,
            cpus,
            memory,
            process: None,
            since: now,
            seen: (now, Duration::ZERO),
            busy: f64::from(cpus),
            own: CLONE,
        };
        seats.insert(number, seated);
        Seat { load: Rc::clone(self), number, alone: false }
    }

    /// What is to be told of the CPUs that guests which measure time have.
    pub(crate) fn pinning(&self) -> Option<String> {
        self.pins.as_ref().map(|pins| pins.fact())
    }

    /// Whether there is room for another guest of this shape.
    pub(crate) fn has_room(&self, shape: &MachineShape, clone: bool) -> bool {
        let mut seats = self.seats.borrow_mut();
        let now = Instant::now();
        seats.values_mut().for_each(|seated| seated.look(now));
        let all = || seats.values();
        let busy: f64 = all().map(Seated::cpus).sum();
        let held: u64 = all().map(Seated::memory).sum();
        let needs = if clone { CLONE } else { shape.memory + OVERHEAD };
        // Any one of the clones may yet write to all of its memory.
        let clones = || all().filter(|s| s.is_clone());
        let growth = clones().map(|s| s.memory.saturating_sub(s.own)).max().unwrap_or_default();
        let clones = clones().count();
        all().all(|s| s.kind == Kind::Template)
            || busy + f64::from(shape.cpus) <= f64::from(self.cpus) + 0.1
                && held + growth + needs <= self.memory
                && (clones as u64) < u64::from(self.cpus * CLONES_PER_CPU)
    }
}

impl Seat {
    /// The same place, for a guest that measures time when it is `alone`.
    pub(crate) fn alone(mut self, alone: bool) -> Self {
        self.alone = alone;
        self
    }

    /// Where the guest's CPUs are to be.
    pub(crate) fn pins(&self) -> Option<Arc<Pins>> {
        self.load.pins.clone().filter(|_| self.alone)
    }

    /// The guest's process, which is looked at from now on.
    pub(crate) fn taken_by(&self, process: Option<u32>) {
        if let Some(seated) = self.load.seats.borrow_mut().get_mut(&self.number) {
            seated.process = process;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.load.seats.borrow_mut().remove(&self.number);
    }
}

impl Seated {
    fn cpus(&self) -> f64 {
        if self.kind == Kind::Clone { self.busy } else { f64::from(self.cpus) }
    }

    fn is_clone(&self) -> bool {
        matches!(self.kind, Kind::Clone | Kind::BusyClone)
    }

    fn memory(&self) -> u64 {
        match self.kind {
            Kind::Boot => self.memory + OVERHEAD,
            Kind::Clone | Kind::BusyClone => self.own.max(CLONE),
            Kind::Template => self.memory,
        }
    }

    fn look(&mut self, now: Instant) {
        let (at, before) = self.seen;
        let (true, Some(process)) = (self.is_clone() && now - at >= LOOK, self.process) else {
            return;
        };
        // A process that is gone frees its place in a moment.
        let Some(used) = cpu_time(process) else { return };
        let share = (used.saturating_sub(before)).as_secs_f64() / (now - at).as_secs_f64();
        if now - self.since >= YOUNG {
            self.busy = share;
        }
        self.seen = (now, used);
        self.own = private(process).unwrap_or(self.own);
    }
}

/// CPU time of a process so far, all of its threads together.
fn cpu_time(process: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name, in parentheses, may hold anything; utime and stime are the 14th and 15th field.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let ticks = ticks(11)? + ticks(12)?;
    Some(Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second()).ok()?)
}

/// Bytes of memory that are a process's own: what it shares with others costs nothing more.
fn private(process: u32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Private_Dirty:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(cpus: u32, mib: u64) -> MachineShape {
        MachineShape { cpus, memory: mib << 20, ..MachineShape::default() }
    }

    #[tokio::test]
    async fn booted_guests_count_with_all_that_they_may_use() {
        let load = Load::new(2, 2 << 30);
        assert!(load.has_room(&shape(64, 1 << 20), false), "the first has room in any case");
        let one = load.boot(&shape(1, 512));
        assert!(load.has_room(&shape(1, 512), false));
        assert!(!load.has_room(&shape(2, 512), false), "no CPU");
        assert!(!load.has_room(&shape(1, 1536), false), "no memory");
        let two = load.boot(&shape(1, 512));
        assert!(!load.has_room(&shape(1, 512), true));
        drop(two);
        assert!(load.has_room(&shape(1, 512), true));
        drop(one);
        let _template = load.template(3 << 30);
        assert!(load.has_room(&shape(1, 512), true), "it is there for its clones");
        let _clone = load.clone_of(&shape(1, 512));
        assert!(!load.has_room(&shape(1, 512), true), "no memory");
    }

    #[tokio::test]
    async fn a_clone_that_sleeps_leaves_its_cpu_to_others() {
        let load = Load::new(1, 1 << 30);
        let sleeper = load.clone_of(&shape(1, 512));
        assert!(!load.has_room(&shape(1, 512), true), "nothing is known about it yet");
        let mut process = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        sleeper.taken_by(Some(process.id()));
        tokio::time::sleep(YOUNG + LOOK).await;
        load.has_room(&shape(1, 512), true);
        tokio::time::sleep(LOOK).await;
        assert!(load.has_room(&shape(1, 512), true));
        assert!(!load.has_room(&shape(1, 1024), false), "it may yet grow");
        process.kill().unwrap();
        process.wait().unwrap();
    }
}
