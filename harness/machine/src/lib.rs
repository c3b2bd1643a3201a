//! The machine boundary: pools that start machines, machines that run a kernel, the console
//! monitor, the controller's side of the wire, and the only place that starts host processes.
//!
//! QEMU guests and lab hosts are peers behind [`Pool`] and [`Machine`]. What only one of them can do
//! is an optional ability: a method that answers `None` elsewhere, never a stub.

pub mod agent;
pub mod console;
pub mod process;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use kgate_model::finding::Finding;
use kgate_model::outcome::{Blame, Fault, FaultKind, Role};
use kgate_model::plan::MachineShape;
use kgate_model::wire::Identity;
use tokio::sync::watch;

pub use agent::{Agent, AgentError};
pub use console::Console;

/// What to start: one kernel on one machine.
#[derive(Clone, Debug)]
pub struct BootRequest {
    /// A name for people and process lists, unique in the run.
    pub name: String,
    /// Which of the pool's kernels.
    pub role: Role,
    /// The root of the steps: `base` or an image of the pool.
    pub image: String,
    /// What the machine must look like.
    pub shape: MachineShape,
    /// Kernel modules that trials of this boot may load.
    pub modules: Vec<String>,
    /// Where the console is written, byte for byte.
    pub console: PathBuf,
    /// Where the records of `/dev/kmsg` are written. Without it the boot is nobody's evidence: the
    /// machine may leave out what only tells more precisely how it ended.
    pub kernel_log: Option<PathBuf>,
    /// The agent must have answered after this time.
    pub deadline: Duration,
}

/// Machines of one kind, for the two kernels of a run.
#[async_trait(?Send)]
pub trait Pool {
    /// How many machines of this shape the controller carries at once; at least one.
    fn capacity(&self, shape: &MachineShape) -> usize;

    /// Facts about this pool that a reader of the results needs, such as accelerator and version.
    fn facts(&self) -> BTreeMap<String, String>;

    /// Starts a machine and returns when its agent has answered and is known to run the right
    /// kernel. Dropping the future ends what was started.
    ///
    /// # Errors
    /// The machine did not get that far; the fault says whose fault it is.
    async fn boot(&self, request: &BootRequest) -> Result<Box<dyn Machine>, BootError>;
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
