//! One guest: its agent, its end.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;
use kgate_machine::{Agent, AgentError, BootError, Console, End, Machine};
use kgate_model::outcome::{Fault, FaultKind};
use kgate_model::wire::{Command, Identity, KernelState, Limits, Reply, Setup, Stdin};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::args::{Channel, GuestSpec};
use crate::emulator::{DRAIN, Emulator, From, Launch, PANIC_GRACE, POWER_OFF, pair};
use crate::fork::Parent;
use crate::load::Seat;
use crate::template::Record;

/// A running guest. Dropping it kills it.
pub(crate) struct Guest {
    agent: Agent,
    identity: Identity,
    emulator: Emulator,
    loadable: BTreeMap<String, Vec<String>>,
    /// Free again when the guest is gone.
    _seat: Rc<Seat>,
}

/// What a guest is started with.
pub(crate) struct Start<'a> {
    pub(crate) how: How<'a>,
    pub(crate) setup: Setup,
    pub(crate) loadable: BTreeMap<String, Vec<String>>,
    /// Where the console is written.
    pub(crate) console: &'a Path,
    /// Where the records of `/dev/kmsg` are written.
    pub(crate) kernel_log: Option<&'a Path>,
    /// The agent must have answered after this time.
    pub(crate) deadline: Duration,
    pub(crate) seat: Rc<Seat>,
}

/// Where its process comes from.
pub(crate) enum How<'a> {
    /// QEMU is started.
    Launch {
        qemu: &'a Path,
        /// Without the descriptors, which are filled in.
        spec: Box<GuestSpec>,
        begin: From,
        /// What else the command line refers to.
        inherit: Vec<OwnedFd>,
    },
    /// It is made of one that is stopped.
    Fork(Rc<Parent>),
}

impl Guest {
    /// Starts QEMU and waits for the agent's first word.
    pub(crate) async fn boot(start: Start<'_>) -> Result<Self, BootError> {
        let Start { how, setup, loadable, console, kernel_log, deadline, seat } = start;
        let (agent_ours, agent_theirs) = pair().map_err(|e| {
            BootError::harness(FaultKind::Controller, format!("no socket for the agent: {e}"))
        })?;
        let mut emulator = match how {
            How::Launch { qemu, mut spec, begin, mut inherit } => {
                spec.channel = Channel::Port { fd: agent_theirs.as_raw_fd() };
                inherit.push(agent_theirs);
                let seat = &seat;
                let spec = *spec;
                let launch = Launch { qemu, spec, begin, inherit, console, seat, parks: None };
                Emulator::launch(launch)?
            }
            How::Fork(parent) => Emulator::fork(&parent, agent_theirs, console, &seat).await?,
        };
        let connect = Agent::connect(agent_ours, setup, kernel_log);
        tokio::pin!(connect);
        let connected = tokio::select! {
            connected = timeout(deadline, &mut connect) => connected,
            () = emulator.ended() => Ok(Err(AgentError::Closed("the guest ended".into()))),
        };
        match connected {
            Ok(Ok((agent, identity))) => {
                Ok(Self { agent, identity, emulator, loadable, _seat: seat })
            }
            Ok(Err(error)) => Err(failed(emulator, Some(error), deadline).await),
            Err(_) => Err(failed(emulator, None, deadline).await),
        }
    }

    /// Ends the guest as it is now and writes its state, without its memory, to `file`. It was ready
    /// after `ready`.
    pub(crate) async fn keep(mut self, file: OwnedFd, ready: Duration) -> Result<Record, String> {
        let ask = |e: AgentError| e.to_string();
        let state = self.agent.state().await.map_err(ask)?;
        self.rest().await?;
        self.emulator.save(file).await?;
        Ok(Record::new(self.identity, state, self.emulator.console.findings(0), ready))
    }

    /// Comes to rest before it is stopped.
    async fn rest(&self) -> Result<(), String> {
        // Nothing may be on its way then: clones would get the other half.
        self.agent.settle().await.map_err(|e| e.to_string())?;
        // Every clone would have to go through what the kernel still has to do after that.
        tokio::time::sleep(CALM).await;
        Ok(())
    }

    /// Has a clone do once what clones do first, come to rest as its template was, and stop. `state` is
    /// what it was when its template was kept.
    ///
    /// What the kernel logs against itself meanwhile no clone would tell: then it is no use.
    pub(crate) async fn rehearse(self, state: &KernelState) -> Result<(Agent, Emulator), String> {
        let ask = |e: AgentError| e.to_string();
        let script = ["/bin/sh", "-c", "(exit 0) && echo done"].map(str::to_owned);
        let mut running = self.agent.spawn(command(script.into())).map_err(ask)?;
        while !matches!(running.next().await.map_err(ask)?, Reply::Exited { .. }) {}
        let now = self.agent.state().await.map_err(ask)?;
        self.agent.kill_all().await.map_err(ask)?;
        // Without anything that tells it from others, it gets ready to be told apart.
        self.agent.prepare(Setup::default()).await.map_err(ask)?;
        self.rest().await?;
        self.emulator.stop().await?;
        let console = &self.emulator.console;
        if now.taint != state.taint || !console.findings(0).is_empty() {
            return Err("its kernel complained when it ran a first command".into());
        }
        Ok((self.agent, self.emulator))
    }
}

/// A command without limits, and with nothing to read.
fn command(argv: Vec<String>) -> Command {
    Command {
        argv,
        env: BTreeMap::new(),
        dir: "/".into(),
        stdin: Stdin::Null,
        timeout_ms: None,
        output_limit: 0,
        limits: Limits::default(),
        background: false,
    }
}

/// How long a guest that is to be kept has to come to rest: threads end, and some ticks later the kernel
/// frees what they had. It is idle after a third of it under TCG.
const CALM: Duration = Duration::from_millis(150);

/// Finds out why the agent did not answer, and ends what is left. No `error` means that the
/// deadline came.
pub(crate) async fn failed(
    mut emulator: Emulator,
    error: Option<AgentError>,
    deadline: Duration,
) -> BootError {
    let mut diagnosis = None;
    match &error {
        None => diagnosis = Some(emulator.diagnose().await),
        // The channel breaks a moment before its reason is known.
        Some(AgentError::Closed(_)) => {
            let _ = timeout(PANIC_GRACE, emulator.ended()).await;
        }
        Some(_) => {}
    }
    let end = emulator.end.borrow().clone();
    emulator.kill().await;
    let console = &emulator.console;
    let (cause, tail) = (console.cause(), console.tail());
    let fault = match (&end, &error, &cause) {
        (Some(End::Vanished(how)), _, _) => Fault::harness(FaultKind::Emulator, how.clone()),
        (_, Some(AgentError::Refused(trouble)), _) => {
            Fault::kernel(FaultKind::BootFailed, trouble.message.clone())
        }
        (_, Some(error @ (AgentError::Protocol { .. } | AgentError::Silent(_))), _) => {
            Fault::harness(FaultKind::Channel, error.to_string())
        }
        (_, _, Some(finding)) => Fault::kernel(FaultKind::BootFailed, finding.title.clone()),
        (Some(end @ End::AgentEnded(_)), _, None) => end.fault(None),
        (Some(end), _, None) => Fault { kind: FaultKind::BootFailed, ..end.fault(None) },
        (None, None, None) => Fault::kernel(
            FaultKind::BootFailed,
            format!(
                "no word from the agent after {} s; the console ends with: {}",
                deadline.as_secs_f32(),
                last_line(&tail),
            ),
        ),
        (None, Some(error), None) => Fault::harness(FaultKind::Channel, error.to_string()),
    };
    BootError { fault, findings: console.findings(0), tail, diagnosis }
}

fn last_line(tail: &[u8]) -> String {
    let text = String::from_utf8_lossy(tail);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
    line.map_or_else(|| "nothing".into(), |line| format!("“{line}”"))
}

#[async_trait(?Send)]
impl Machine for Guest {
    fn agent(&self) -> &Agent {
        &self.agent
    }

    fn console(&self) -> &Console {
        &self.emulator.console
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn end(&self) -> watch::Receiver<Option<End>> {
        self.emulator.end.clone()
    }

    async fn load_modules(&mut self, names: &[String]) -> Result<(), Fault> {
        let paths = paths_of(&self.loadable, names);
        if paths.is_empty() {
            return Ok(());
        }
        self.agent.load_modules(paths).await.map_err(|error| match error {
            AgentError::Refused(trouble) => Fault::kernel(FaultKind::Requirement, trouble.message),
            other => Fault::harness(FaultKind::Channel, other.to_string()),
        })
    }

    async fn diagnose(&mut self) -> Vec<u8> {
        self.emulator.diagnose().await
    }

    async fn stop(mut self: Box<Self>) {
        let emulator = &mut self.emulator;
        emulator.expect_end();
        let asked = self.agent.power_off().is_ok();
        if !asked || !emulator.gone_within(POWER_OFF).await {
            emulator.kill().await;
        }
        emulator.console.closed(DRAIN).await;
    }
}

/// Where modules with these names, and what they depend on, are in a guest: each once, in order.
pub(crate) fn paths_of(loadable: &BTreeMap<String, Vec<String>>, names: &[String]) -> Vec<String> {
    let mut paths: Vec<String> = Vec::new();
    for path in names.iter().filter_map(|name| loadable.get(name)).flatten() {
        if !paths.contains(path) {
            paths.push(path.clone());
        }
    }
    paths
}
