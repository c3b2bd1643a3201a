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
use std::path::Path;
use std::process::Stdio;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use kgate_machine::{
    Agent, AgentError, BootError, BootRequest, CloneRequest, Console, End, Kept, Machine, Pool,
    Template,
};
use kgate_model::finding::Finding;
use kgate_model::inventory::Conditions;
use kgate_model::outcome::{Fault, FaultKind};
use kgate_model::plan::MachineShape;
use kgate_model::wire::{Identity, KernelState, Setup};
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
    templates: bool,
    inner: Rc<Inner>,
}

#[derive(Default)]
struct Inner {
    ops: RefCell<String>,
    machines: RefCell<BTreeMap<String, Remote>>,
    refusals: RefCell<Vec<Refusals>>,
    requests: RefCell<Vec<BootRequest>>,
    dying: RefCell<Option<End>>,
    printing: RefCell<Option<String>>,
    printing_at: RefCell<BTreeMap<String, String>>,
    conditions: RefCell<BTreeMap<String, Conditions>>,
    active: Rc<Cell<usize>>,
    most: Cell<usize>,
    /// Machines that there are on each lab host that was used.
    hosts: Boots,
    left: RefCell<BTreeMap<String, String>>,
    finished: Cell<usize>,
}

/// What a pool is asked to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Boot,
    Template,
    Clone,
}

struct Refusals {
    what: What,
    /// How the request's name begins.
    name: String,
    errors: VecDeque<BootError>,
}

impl LocalPool {
    /// A pool that carries `capacity` machines at once, whatever their shape.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, ..Self::default() }
    }

    /// Sets the path of the measuring program.
    #[must_use]
    pub fn with_ops(self, path: impl Into<String>) -> Self {
        self.inner.ops.replace(path.into());
        self
    }

    /// It can make templates: each boots an agent, and each clone is an agent of its own.
    #[must_use]
    pub fn with_templates(mut self) -> Self {
        self.templates = true;
        self
    }

    /// Boots whose request's name begins with `name` fail with these errors, one after the other.
    pub fn refuse(&self, name: &str, errors: impl IntoIterator<Item = BootError>) {
        self.inner.refuse(What::Boot, name, errors);
    }

    /// The same for templates.
    pub fn refuse_template(&self, name: &str, errors: impl IntoIterator<Item = BootError>) {
        self.inner.refuse(What::Template, name, errors);
    }

    /// The same for clones.
    pub fn refuse_clone(&self, name: &str, errors: impl IntoIterator<Item = BootError>) {
        self.inner.refuse(What::Clone, name, errors);
    }

    /// The next machine ends this way as soon as it is ready.
    pub fn die_when_ready(&self, end: End) {
        self.inner.dying.replace(Some(end));
    }

    /// The next machine has printed this to its console when it is ready.
    pub fn print_when_ready(&self, text: &str) {
        self.inner.printing.replace(Some(text.to_owned()));
    }

    /// Every machine whose name begins with `name` has printed this to its console when it is ready.
    pub fn print_at(&self, name: &str, text: &str) {
        self.inner.printing_at.borrow_mut().insert(name.to_owned(), text.to_owned());
    }

    /// Every machine whose name begins with `name` is in this state.
    pub fn conditions_at(&self, name: &str, conditions: Conditions) {
        self.inner.conditions.borrow_mut().insert(name.to_owned(), conditions);
    }

    /// This lab host does not come back to production, for this reason.
    pub fn leave(&self, host: &str, why: &str) {
        self.inner.left.borrow_mut().insert(host.to_owned(), why.to_owned());
    }

    /// How often it was asked to give back what it holds.
    pub fn finished(&self) -> usize {
        self.inner.finished.get()
    }

    /// The switches of the machine that was last started with a name that begins with `name`.
    ///
    /// # Panics
    /// There was none.
    pub fn machine(&self, name: &str) -> Remote {
        let machines = self.inner.machines.borrow();
        let found = machines.iter().rev().find(|(known, _)| known.starts_with(name));
        found.map(|(_, remote)| remote.clone()).unwrap_or_else(|| panic!("no machine {name}"))
    }

    /// Everything that was asked for, in order.
    pub fn requests(&self) -> Vec<BootRequest> {
        self.inner.requests.borrow().clone()
    }

    /// Most machines that there were at once.
    pub fn most_at_once(&self) -> usize {
        self.inner.most.get()
    }

    /// Machines that there are now.
    pub fn active(&self) -> usize {
        self.inner.active.get()
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
        let on_hosts: usize = self.inner.hosts.borrow().values().sum();
        self.active() - on_hosts < self.capacity.max(1)
    }

    async fn finish(&self) -> Vec<String> {
        assert_eq!(self.active(), 0, "nothing runs any more");
        self.inner.finished.set(self.inner.finished.get() + 1);
        let left = self.inner.left.borrow();
        left.iter().map(|(host, why)| format!("{host}: {why}")).collect()
    }

    fn hosts(&self) -> BTreeMap<String, Option<String>> {
        let left = |host: &String| self.inner.left.borrow().get(host).cloned();
        let hosts = self.inner.hosts.borrow();
        hosts.keys().map(|host| (host.clone(), left(host))).collect()
    }

    fn facts(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("machine".into(), "local".into())])
    }

    async fn boot(&self, request: &BootRequest) -> Result<Box<dyn Machine>, BootError> {
        self.inner.requests.borrow_mut().push(request.clone());
        Ok(Box::new(self.inner.start(What::Boot, &Seat::of(request)).await?))
    }

    async fn template(
        &self,
        request: &BootRequest,
    ) -> Option<Result<Box<dyn Template>, BootError>> {
        if !self.templates {
            return None;
        }
        self.inner.requests.borrow_mut().push(request.clone());
        Some(self.inner.template(request).await.map(|template| Box::new(template) as _))
    }
}

/// What machines differ by.
struct Seat<'a> {
    name: &'a str,
    host: Option<&'a str>,
    console: &'a Path,
    kernel_log: Option<&'a Path>,
    deadline: Duration,
}

impl<'a> Seat<'a> {
    fn of(request: &'a BootRequest) -> Self {
        let BootRequest { name, host, console, kernel_log, deadline, .. } = request;
        let (host, kernel_log) = (host.as_deref(), kernel_log.as_deref());
        Self { name, host, console, kernel_log, deadline: *deadline }
    }
}

impl Inner {
    fn refuse(&self, what: What, name: &str, errors: impl IntoIterator<Item = BootError>) {
        let (name, errors) = (name.to_owned(), errors.into_iter().collect());
        self.refusals.borrow_mut().push(Refusals { what, name, errors });
    }

    async fn template(self: &Rc<Self>, request: &BootRequest) -> Result<LocalTemplate, BootError> {
        let started = Instant::now();
        let machine = self.start(What::Template, &Seat::of(request)).await?;
        let ready = started.elapsed();
        let broken = |e: AgentError| BootError::harness(FaultKind::Channel, e.to_string());
        let state = machine.agent.state().await.map_err(broken)?;
        machine.console.settle().await;
        Ok(LocalTemplate {
            pool: Rc::clone(self),
            identity: Identity { boot_id: String::new(), ..machine.identity.clone() },
            state,
            findings: machine.console.findings(0),
            ready,
        })
    }

    async fn start(&self, what: What, seat: &Seat<'_>) -> Result<LocalMachine, BootError> {
        let refused = {
            let mut refusals = self.refusals.borrow_mut();
            let meant = |r: &&mut Refusals| {
                r.what == what && seat.name.starts_with(&r.name) && !r.errors.is_empty()
            };
            refusals.iter_mut().find(meant).and_then(|r| r.errors.pop_front())
        };
        if let Some(error) = refused {
            return Err(error);
        }
        let (active, count) = (Rc::clone(&self.active), self.active.get() + 1);
        let broken = |e: std::io::Error| BootError::harness(FaultKind::Controller, e.to_string());
        let (console_ours, console_theirs) = pair().map_err(broken)?;
        let (channel_ours, channel_theirs) = pair().map_err(broken)?;
        let console = Console::start(console_ours, Some(seat.console)).map_err(broken)?;
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
        let host = seat.host.map(|host| {
            let on_it = self.hosts.borrow().get(host).copied().unwrap_or_default();
            assert_eq!(on_it, 0, "{host} boots one kernel at a time");
            self.hosts.borrow_mut().insert(host.to_owned(), 1);
            (host.to_owned(), Rc::clone(&self.hosts))
        });
        let process = Process { child: Some(child), remote: remote.clone(), active, host };
        drop(channel_theirs);
        let channel = UnixStream::from_std(channel).map_err(broken)?;
        let connect = Agent::connect(channel, Setup::default(), seat.kernel_log);
        let (agent, identity) = match timeout(seat.deadline, connect).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => {
                return Err(BootError::harness(FaultKind::Channel, error.to_string()));
            }
            Err(_) => return Err(BootError::harness(FaultKind::Channel, "no word from the agent")),
        };
        if let Some(text) = self.printing.take() {
            remote.print(&text);
        }
        for (name, text) in self.printing_at.borrow().iter() {
            if seat.name.starts_with(name) {
                remote.print(text);
            }
        }
        if let Some(end) = self.dying.take() {
            remote.signal(Signal::STOP);
            remote.end(end);
        }
        self.machines.borrow_mut().insert(seat.name.to_owned(), remote);
        let ops = self.ops.borrow().clone();
        let known = self.conditions.borrow();
        let conditions = known.iter().rev().find(|(name, _)| seat.name.starts_with(*name));
        let conditions = conditions.map(|(_, conditions)| conditions.clone());
        Ok(LocalMachine { process, agent, console, identity, ops, conditions })
    }
}

fn pair() -> std::io::Result<(UnixStream, StdUnixStream)> {
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs))
}

/// How many machines there are on each host.
type Boots = Rc<RefCell<BTreeMap<String, usize>>>;

/// The agent's process, ended when it is dropped.
struct Process {
    child: Option<Child>,
    remote: Remote,
    active: Rc<Cell<usize>>,
    host: Option<(String, Boots)>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.active.set(self.active.get() - 1);
        if let Some((host, hosts)) = &self.host {
            hosts.borrow_mut().insert(host.clone(), 0);
        }
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

/// A machine that was booted and is gone. Its clones are agents that are started anew.
struct LocalTemplate {
    pool: Rc<Inner>,
    identity: Identity,
    state: KernelState,
    findings: Vec<Finding>,
    ready: Duration,
}

impl Kept for LocalTemplate {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn state(&self) -> &KernelState {
        &self.state
    }

    fn findings(&self) -> &[Finding] {
        &self.findings
    }

    fn ready(&self) -> Duration {
        self.ready
    }

    fn kept_since(&self) -> Option<SystemTime> {
        None
    }
}

#[async_trait(?Send)]
impl Template for LocalTemplate {
    async fn start(&self, request: &CloneRequest) -> Result<Box<dyn Machine>, BootError> {
        let CloneRequest { name, console, kernel_log, deadline } = request;
        let kernel_log = kernel_log.as_deref();
        let seat = Seat { name, host: None, console, kernel_log, deadline: *deadline };
        Ok(Box::new(self.pool.start(What::Clone, &seat).await?))
    }
}

struct LocalMachine {
    process: Process,
    agent: Agent,
    console: Console,
    identity: Identity,
    ops: String,
    conditions: Option<Conditions>,
}

#[async_trait(?Send)]
impl Machine for LocalMachine {
    fn conditions(&self) -> Option<&Conditions> {
        self.conditions.as_ref()
    }

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
