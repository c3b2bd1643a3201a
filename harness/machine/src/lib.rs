//! The machine boundary: pools that start machines, machines that run a kernel, the console
//! monitor, the controller's side of the wire, and the only place that starts host processes.
//!
//! QEMU guests and lab hosts are peers behind [`Pool`] and [`Machine`]. What only one of them can do
//! is an optional ability: a method that answers `None` elsewhere, never a stub.

pub mod agent;
pub mod console;
pub mod pipe;
pub mod process;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use kgate_model::finding::Finding;
use kgate_model::inventory::Conditions;
use kgate_model::outcome::{Blame, Fault, FaultKind, Role};
use kgate_model::plan::MachineShape;
use kgate_model::wire::{Identity, KernelState, Reply, Request};
use tokio::sync::watch;

pub use agent::{Agent, AgentError};
pub use console::Console;
pub use pipe::Pipe;

/// What to start: one kernel on one machine.
#[derive(Clone, Debug)]
pub struct BootRequest {
    /// A name for people and process lists, unique in the run.
    pub name: String,
    /// Which of the pool's kernels.
    pub role: Role,
    /// The lab host to boot it on; a guest when `None`.
    pub host: Option<String>,
    /// Replicate, from 1: boots of different replicates never have a template in common.
    pub number: u32,
    /// The root of the steps: `base` or an image of the pool.
    pub image: String,
    /// What the machine must look like.
    pub shape: MachineShape,
    /// It measures time, and nothing runs beside it: where it can, it has CPUs of its own.
    pub alone: bool,
    /// Kernel modules that trials of this boot may load.
    pub modules: Vec<String>,
    /// Where the console is written, byte for byte.
    pub console: PathBuf,
    /// Where the records of `/dev/kmsg` are written. Without it the boot is nobody's evidence: the
    /// machine may leave out what only tells more precisely how it ended.
    pub kernel_log: Option<PathBuf>,
    /// The agent must have answered after this time. On a lab host its own limits hold instead, which its
    /// pool keeps: nobody else ends such a boot before the run's end.
    pub deadline: Duration,
}

/// What to start from a template.
#[derive(Clone, Debug)]
pub struct CloneRequest {
    /// A name for people and process lists, unique in the run.
    pub name: String,
    /// Where the console is written, byte for byte, from where the template's ends.
    pub console: PathBuf,
    /// Where the records of `/dev/kmsg` are written, from where the template's end.
    pub kernel_log: Option<PathBuf>,
    /// The agent must have answered after this time.
    pub deadline: Duration,
}

/// Machines of one kind, for the two kernels of a run.
#[async_trait(?Send)]
pub trait Pool {
    /// Whether the controller carries another machine of this shape beside those that there are.
    /// Always when there is none. A `clone` counts by what clones really use. A machine takes its room
    /// when the future that starts it is first polled.
    fn has_room(&self, shape: &MachineShape, clone: bool) -> bool;

    /// Facts about this pool that a reader of the results needs, such as accelerator and version.
    fn facts(&self) -> BTreeMap<String, String>;

    /// Starts a machine and returns when its agent has answered and is known to run the right
    /// kernel. Dropping the future ends what was started.
    ///
    /// # Errors
    /// The machine did not get that far; the fault says whose fault it is.
    async fn boot(&self, request: &BootRequest) -> Result<Box<dyn Machine>, BootError>;

    /// Gives back what the pool holds beyond its machines, such as lab hosts that are to return to what
    /// they do for a living. Called once, when nothing runs any more, however the run ended. What it says
    /// is for a person; empty when there is nothing to tell.
    async fn finish(&self) -> Vec<String> {
        Vec::new()
    }

    /// The lab hosts that this pool has used so far, by name, and what each is in; `None` for one that is
    /// verified to be back on production. Asked before and after [`Self::finish`].
    fn hosts(&self) -> BTreeMap<String, Option<String>> {
        BTreeMap::new()
    }

    /// Boots a machine, or takes one that was booted from exactly the same by an earlier run, and
    /// keeps it as it is when its agent is ready. `None`: this pool's machines can't be kept.
    ///
    /// Console and kernel log of the boot are where the request wants them, also when it was an
    /// earlier run's.
    ///
    /// # Errors
    /// The machine did not get that far, or it can't be kept: then the fault is the harness's, and
    /// [`Self::boot`] may well work.
    async fn template(
        &self,
        request: &BootRequest,
    ) -> Option<Result<Box<dyn Template>, BootError>> {
        let _ = request;
        None
    }

    /// As [`Self::template`], in a machine whose clock counts the instructions that it executes and in
    /// which everything that chance decides follows from `seed`. `None`: this pool has none.
    ///
    /// # Errors
    /// As of [`Self::template`].
    async fn exact_template(
        &self,
        request: &BootRequest,
        seed: u64,
    ) -> Option<Result<Box<dyn ExactTemplate>, BootError>> {
        let _ = (request, seed);
        None
    }
}

/// A machine that was booted and kept as it was then. Dropping it frees what it holds, if the pool
/// doesn't keep it for later runs.
pub trait Kept {
    /// The kernel that answered. Its boot id is empty: each clone has its own.
    fn identity(&self) -> &Identity;

    /// Taint and memory when it was ready.
    fn state(&self) -> &KernelState;

    /// What the kernel logged against itself on the way there.
    fn findings(&self) -> &[Finding];

    /// Time that the boot took.
    fn ready(&self) -> Duration;

    /// When it was booted, where an earlier run did that.
    fn kept_since(&self) -> Option<SystemTime>;
}

/// A machine that was kept as it was when its agent was ready.
#[async_trait(?Send)]
pub trait Template: Kept {
    /// Starts a machine that goes on from there, told apart from all others by its entropy, machine
    /// id, time and MAC. Dropping the future ends what was started.
    ///
    /// # Errors
    /// It could not be started; that is never taken for the kernel's fault.
    async fn start(&self, request: &CloneRequest) -> Result<Box<dyn Machine>, BootError>;
}

/// A machine that was kept at an exact instruction, and whose copies do the same in every bit.
#[async_trait(?Send)]
pub trait ExactTemplate: Kept {
    /// Where the modules with these names, and what they depend on, are on the machine, in order.
    /// Built-in ones are there already.
    fn modules(&self, names: &[String]) -> Vec<String>;

    /// Path of the measuring program on the machine.
    fn ops(&self) -> &str {
        "/kgate/ops"
    }

    /// Starts a copy that carries out requests one after the other, without a word from outside, and
    /// ends. Dropping the future ends what was started.
    ///
    /// # Errors
    /// It could not be started; that is never taken for the kernel's fault.
    async fn carry_out(&self, request: &ScriptRequest) -> Result<Carried, BootError>;
}

/// What a copy of a machine is to do.
#[derive(Clone, Debug)]
pub struct ScriptRequest {
    /// A name for people and process lists, unique in the run.
    pub name: String,
    /// Where the console is written, byte for byte, from where the template's ends.
    pub console: PathBuf,
    /// What everything that chance decides follows from.
    pub seed: u64,
    /// What to carry out, each to its end before the next.
    pub script: Vec<Request>,
    /// The machine hangs when it says nothing for so long.
    pub silence: Duration,
    /// Where to write what is counted per instruction, and whether with the stacks it ran on.
    pub profile: Option<Profile>,
}

/// What is counted beside the clock, which makes a machine slower and changes no count.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Where it is written.
    pub path: PathBuf,
    /// With the stacks on which the instructions ran.
    pub stacks: bool,
}

/// What came of a script.
#[derive(Clone, Debug)]
pub struct Carried {
    /// Everything that was answered, in order.
    pub replies: Vec<Reply>,
    /// SHA-256 of the answers as they came: the same if and only if the machine said the same.
    pub digest: [u8; 32],
    /// What the kernel logged against itself.
    pub findings: Vec<Finding>,
    /// Why the machine ended before the script did.
    pub fault: Option<Fault>,
    /// Backtraces of a machine that went silent.
    pub diagnosis: Option<Vec<u8>>,
}

/// A machine on which a kernel runs and an agent answers. Dropping it ends it.
#[async_trait(?Send)]
pub trait Machine {
    /// The agent.
    fn agent(&self) -> &Agent;

    /// The console.
    fn console(&self) -> &Console;

    /// The kernel that answered.
    fn identity(&self) -> &Identity;

    /// Path of the measuring program on the machine.
    fn ops(&self) -> &str {
        "/kgate/ops"
    }

    /// What of the machine's state changes what it measures. `None`: it has no such state that its kernel
    /// and the plan don't say.
    fn conditions(&self) -> Option<&Conditions> {
        None
    }

    /// Becomes `Some` when the machine ends without having been asked to.
    fn end(&self) -> watch::Receiver<Option<End>>;

    /// Loads modules with what they depend on, in the right order. Built-in ones are there already.
    ///
    /// # Errors
    /// A module is not there or the kernel refuses it: the fault says whose fault it is.
    async fn load_modules(&mut self, names: &[String]) -> Result<(), Fault>;

    /// Makes a machine that no longer answers say where its CPUs are: NMI or sysrq backtraces,
    /// memory and task state. They appear on the console; what is returned is that part of it.
    async fn diagnose(&mut self) -> Vec<u8>;

    /// Whose fault it is that the machine was lost, where that is known only afterwards: the kernel of a lab
    /// host is at fault only if the host then answers on production. Asked once, of a machine that is lost,
    /// with what it looks like; takes as long as it takes to find out.
    async fn blame(&mut self, fault: Fault) -> Fault {
        fault
    }

    /// Ends the machine in an orderly way if it still answers, by force otherwise, and waits until
    /// its console is written.
    async fn stop(self: Box<Self>);
}

/// How a machine ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest said that it panicked.
    Panicked,
    /// It reset without saying that it panicked: a triple fault, or a reboot from inside.
    Reset,
    /// It powered off from inside.
    PoweredOff,
    /// It powered off because the agent had to give up, as with no way left to the controller; the
    /// text says why.
    AgentEnded(String),
    /// What carried it went away; the text says how.
    Vanished(String),
}

impl End {
    /// The fault that this end is, with the console's finding as the cause where there is one.
    pub fn fault(&self, finding: Option<&Finding>) -> Fault {
        match (self, finding) {
            (Self::Vanished(how), _) => Fault::harness(FaultKind::Emulator, how.clone()),
            (_, Some(finding)) => Fault::kernel(FaultKind::Panic, finding.title.clone()),
            (Self::AgentEnded(why), None) => {
                Fault::harness(FaultKind::Channel, format!("the agent gave up: {why}"))
            }
            (Self::Panicked, None) => {
                Fault::kernel(FaultKind::Panic, "the kernel panicked; the console does not say why")
            }
            (Self::Reset, None) => {
                Fault::kernel(FaultKind::Died, "the machine reset without a word on its console")
            }
            (Self::PoweredOff, None) => {
                Fault::kernel(FaultKind::Died, "the machine powered off by itself")
            }
        }
    }
}

/// A boot that did not reach its agent.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{fault}")]
pub struct BootError {
    /// What happened and whose fault it is.
    pub fault: Fault,
    /// What the console held against the kernel.
    pub findings: Vec<Finding>,
    /// The last part of the console.
    pub tail: Vec<u8>,
    /// Backtraces of a machine that went silent.
    pub diagnosis: Option<Vec<u8>>,
}

impl BootError {
    /// A boot that failed before the kernel could be at fault.
    pub fn harness(kind: FaultKind, message: impl Into<String>) -> Self {
        let fault = Fault { blame: Blame::Harness, kind, message: message.into() };
        Self { fault, findings: Vec::new(), tail: Vec::new(), diagnosis: None }
    }
}
