//! Machines for tests of what runs on a machine: each is a real agent, a process of this controller,
//! with a console that the test writes and switches that break it in the ways machines break.
//!
//! The agent is the test binary itself, started again. So every test binary that uses a
//! [`LocalPool`] has this test at its root:
//!
//! ```ignore
//! #[test]
//! #[ignore = "started by the local pool"]
//! fn local_agent() {
//!     kgate_testkit::local::serve();
//! }
//! ```

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::Stdio;
use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;
use kgate_machine::{Agent, BootError, BootRequest, Console, End, Machine, Pool};
use kgate_model::outcome::{Fault, FaultKind};
use kgate_model::plan::MachineShape;
use kgate_model::wire::{Identity, Setup};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

/// Tells the test binary that it was started as an agent.
const SERVE: &str = "KGATE_TESTKIT_SERVE";
/// Between a guest's end showing on its channel and its being known.
const END_AFTER: Duration = Duration::from_millis(30);
/// An agent that was asked to end does so within this time.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// Serves as the agent of a [`LocalPool`] on standard input, when this process was started as one.
///
/// # Panics
/// When it is called by anybody else, or the agent fails.
pub fn serve() {
    assert!(std::env::var_os(SERVE).is_some(), "only a local pool starts this");
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    // The test harness has printed to standard output already, which is not the channel.
    rustix::stdio::dup2_stdout(rustix::stdio::stdin()).expect("one descriptor onto another");
    kgate_agent::stdio(kgate_agent::Options::default()).expect("the agent serves");
    std::process::exit(0);
}

/// A pool of agents on this controller.
#[derive(Default)]
pub struct LocalPool {
    capacity: usize,
    ops: String,
    machines: RefCell<BTreeMap<String, Remote>>,
    refusals: RefCell<BTreeMap<String, VecDeque<BootError>>>,
    requests: RefCell<Vec<BootRequest>>,
    dying: RefCell<Option<End>>,
    active: Rc<Cell<usize>>,
    most: Cell<usize>,
}

impl LocalPool {
    /// A pool that carries `capacity` machines at once, whatever their shape.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, ..Self::default() }
    }

    /// Sets the path of the measuring program.
    #[must_use]
    pub fn with_ops(mut self, path: impl Into<String>) -> Self {
        self.ops = path.into();
        self
    }

    /// Boots whose request's name begins with `name` fail with these errors, one after the other.
    pub fn refuse(&self, name: &str, errors: impl IntoIterator<Item = BootError>) {
        self.refusals.borrow_mut().entry(name.to_owned()).or_default().extend(errors);
    }

    /// The next machine ends this way as soon as it is ready.
    pub fn die_when_ready(&self, end: End) {
        self.dying.replace(Some(end));
    }

    /// The switches of the machine that was last started with a name that begins with `name`.
    ///
    /// # Panics
    /// There was none.
    pub fn machine(&self, name: &str) -> Remote {
        let machines = self.machines.borrow();
        let found = machines.iter().rev().find(|(known, _)| known.starts_with(name));
        found.map(|(_, remote)| remote.clone()).unwrap_or_else(|| panic!("no machine {name}"))
    }

    /// Everything that was asked for, in order.
    pub fn requests(&self) -> Vec<BootRequest> {
        self.requests.borrow().clone()
    }

    /// Most machines that there were at once.
    pub fn most_at_once(&self) -> usize {
        self.most.get()
    }

    /// Machines that there are now.
    pub fn active(&self) -> usize {
        self.active.get()
    }
}

/// The switches of a machine.
#[derive(Clone)]
pub struct Remote(Rc<Switches>);

struct Switches {
    console: RefCell<Option<StdUnixStream>>,
    channel: StdUnixStream,
    pid: Option<Pid>,
    end: watch::Sender<Option<End>>,
    diagnosis: RefCell<String>,
}

impl Remote {
    /// Prints to the console.
    ///
    /// # Panics
    /// The console is closed, or nobody reads it.
    pub fn print(&self, text: &str) {
        let mut console = self.0.console.borrow_mut();
        console.as_mut().expect("an open console").write_all(text.as_bytes()).expect("printed");
    }

    /// Stops the agent where it is: no heartbeat, no answer. `diagnosis` is what the machine prints
    /// when it is asked where its CPUs are.
    pub fn freeze(&self, diagnosis: &str) {
        diagnosis.clone_into(&mut self.0.diagnosis.borrow_mut());
        self.signal(Signal::STOP);
    }

    /// Cuts the agent's channel; the machine lives on.
    pub fn cut(&self) {
        let _ = self.0.channel.shutdown(Shutdown::Both);
    }

    /// Ends the machine: the channel breaks first, as it does on real ones.
    pub fn end(&self, end: End) {
        self.cut();
        let (console, ended) = (self.0.console.borrow_mut().take(), self.0.end.clone());
        tokio::spawn(async move {
            tokio::time::sleep(END_AFTER).await;
            drop(console);
            ended.send_replace(Some(end));
        });
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.0.pid {
            let _ = kill_process(pid, signal);
        }
    }
}

#[async_trait(?Send)]
impl Pool for LocalPool {
    fn has_room(&self, _: &MachineShape, _: bool) -> bool {
        self.active.get() < self.capacity.max(1)
    }

    fn facts(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("machine".into(), "local".into())])
    }

    async fn boot(&self, request: &BootRequest) -> Result<Box<dyn Machine>, BootError> {
        self.requests.borrow_mut().push(request.clone());
        let refused = {
            let mut refusals = self.refusals.borrow_mut();
            let errors = refusals.iter_mut().find(|(name, _)| request.name.starts_with(&**name));
            errors.and_then(|(_, errors)| errors.pop_front())
        };
        if let Some(error) = refused {
            return Err(error);
        }
        let (active, count) = (Rc::clone(&self.active), self.active.get() + 1);
        let broken = |e: std::io::Error| BootError::harness(FaultKind::Controller, e.to_string());
        let (console_ours, console_theirs) = pair().map_err(broken)?;
        let (channel_ours, channel_theirs) = pair().map_err(broken)?;
        let console = Console::start(console_ours, Some(&request.console)).map_err(broken)?;
        let program = std::env::current_exe().map_err(broken)?;
        let child = Command::new(program)
            .args(["--exact", "local_agent", "--ignored", "--test-threads=1"])
            .env(SERVE, "1")
            .stdin(Stdio::from(OwnedFd::from(channel_theirs.try_clone().map_err(broken)?)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(broken)?;
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let channel = channel_ours.into_std().map_err(broken)?;
        let (end, _) = watch::channel(None);
        let remote = Remote(Rc::new(Switches {
            console: RefCell::new(Some(console_theirs)),
            channel: channel.try_clone().map_err(broken)?,
            pid,
            end,
            diagnosis: RefCell::default(),
        }));
        active.set(count);
        self.most.set(self.most.get().max(count));
        let process = Process { child: Some(child), remote: remote.clone(), active };
        drop(channel_theirs);
        let channel = UnixStream::from_std(channel).map_err(broken)?;
        let connect = Agent::connect(channel, Setup::default(), request.kernel_log.as_deref());
        let (agent, identity) = match timeout(request.deadline, connect).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => {
                return Err(BootError::harness(FaultKind::Channel, error.to_string()));
            }
            Err(_) => return Err(BootError::harness(FaultKind::Channel, "no word from the agent")),
        };
        if let Some(end) = self.dying.take() {
            remote.signal(Signal::STOP);
            remote.end(end);
        }
        self.machines.borrow_mut().insert(request.name.clone(), remote);
        Ok(Box::new(LocalMachine { process, agent, console, identity, ops: self.ops.clone() }))
    }
}

fn pair() -> std::io::Result<(UnixStream, StdUnixStream)> {
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs))
}

/// The agent's process, ended when it is dropped.
struct Process {
    child: Option<Child>,
    remote: Remote,
    active: Rc<Cell<usize>>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.active.set(self.active.get() - 1);
        self.remote.0.console.borrow_mut().take();
        // Its channel's end makes the agent end what it started, then itself.
        self.remote.signal(Signal::CONT);
        self.remote.cut();
        if let Some(mut child) = self.child.take() {
            tokio::spawn(async move {
                if timeout(ENDS_WITHIN, child.wait()).await.is_err() {
                    let _ = child.kill().await;
                }
            });
        }
    }
}

struct LocalMachine {
    process: Process,
    agent: Agent,
    console: Console,
    identity: Identity,
    ops: String,
}

#[async_trait(?Send)]
impl Machine for LocalMachine {
    fn agent(&self) -> &Agent {
        &self.agent
    }

    fn console(&self) -> &Console {
        &self.console
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn ops(&self) -> &str {
        &self.ops
    }

    fn end(&self) -> watch::Receiver<Option<End>> {
        self.process.remote.0.end.subscribe()
    }

    async fn load_modules(&mut self, names: &[String]) -> Result<(), Fault> {
        match names.iter().find(|name| name.contains("missing")) {
            None => Ok(()),
            Some(name) => {
                Err(Fault::kernel(FaultKind::Requirement, format!("load {name}: no such module")))
            }
        }
    }

    async fn diagnose(&mut self) -> Vec<u8> {
        let text = self.process.remote.0.diagnosis.borrow().clone();
        self.process.remote.print(&text);
        self.console.settle().await;
        text.into_bytes()
    }

    async fn stop(mut self: Box<Self>) {
        let _ = self.agent.power_off();
        if let Some(mut child) = self.process.child.take()
            && timeout(ENDS_WITHIN, child.wait()).await.is_err()
        {
            let _ = child.kill().await;
        }
        drop(self.process);
        self.console.closed(ENDS_WITHIN).await;
    }
}
