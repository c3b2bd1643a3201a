//! A lab host on which a kernel under test runs, as a machine.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kgate_kernel::{Kernel, Status};
use kgate_machine::{Agent, AgentError, Console, End, Machine};
use kgate_model::inventory::Conditions;
use kgate_model::outcome::{Blame, Fault, FaultKind};
use kgate_model::wire::Identity;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::boot;
use crate::journal::{Event, Means};
use crate::pool::Seat;
use crate::power::Action;
use crate::ssh::Ssh;
use crate::stage::Staged;
use crate::trip::{DRAIN, Lease, Up};
use crate::walk::{At, Known};
use crate::window::Window;

/// Sysrq by a session of its own is answered within this time, or userland is dead too.
const SYSRQ: Duration = Duration::from_secs(8);
/// The BMC sends an NMI within this time, or a diagnosis goes without.
const NMI: Duration = Duration::from_secs(10);
/// A dump is over when the console was quiet for so long, and is not waited for longer.
const DUMP: (Duration, Duration) = (Duration::from_millis(600), Duration::from_secs(6));
/// A reboot is asked for within this time when a machine is stopped; what comes of it is seen later.
const REBOOT: Duration = Duration::from_secs(10);

/// Backtraces of all CPUs, blocked tasks, memory, all tasks.
const DUMPS: &str = "for key in l w m t; do echo $key >/proc/sysrq-trigger; done";

/// A lab host that was booted into a kernel under test. Dropping it leaves the host to its pool, which
/// brings it back.
pub(crate) struct Booted {
    seat: Rc<Seat>,
    ssh: Arc<Ssh>,
    agent: Agent,
    console: Console,
    window: Window,
    identity: Identity,
    conditions: Conditions,
    /// Quiet until the machine is gone.
    _lease: Lease,
    end: watch::Receiver<Option<End>>,
    watching: JoinHandle<()>,
    modules: Loadable,
}

/// Modules that can be loaded on a booted host.
pub(crate) struct Loadable {
    pub(crate) kernel: Rc<Kernel>,
    pub(crate) staged: Rc<Staged>,
}

impl Loadable {
    /// Where modules with these names, and what they depend on, are on the host, in order.
    pub(crate) fn paths(&self, names: &[String]) -> Result<Vec<String>, Fault> {
        let harness = |why: String| Fault::harness(FaultKind::Controller, why);
        let modules = &self.kernel.modules;
        let files: Vec<&str> = names
            .iter()
            .map(String::as_str)
            .filter(|name| modules.status(name) == Status::Module)
            .collect();
        let closure = modules.closure(&files).map_err(|e| harness(e.to_string()))?;
        let below = format!("/lib/modules/{}", self.staged.release);
        let mut paths = Vec::new();
        for file in closure {
            match self.staged.modules.get(&file.name) {
                Some(path) if path.is_absolute() => paths.push(path.display().to_string()),
                Some(path) => paths.push(format!("{below}/{}", path.display())),
                None if file.optional => {}
                None => return Err(harness(format!("the module {} was not staged", file.name))),
            }
        }
        Ok(paths)
    }
}

impl Booted {
    pub(crate) fn new(seat: Rc<Seat>, up: Up, modules: Loadable) -> Self {
        let Up { ssh, agent, console, window, identity, conditions, lease } = up;
        let (sender, end) = watch::channel(None);
        let (heard, another) = (console.clone(), window.another());
        let watching = tokio::spawn(async move {
            let end = tokio::select! {
                biased;
                () = heard.panicked() => End::Panicked,
                () = another => End::Reset,
            };
            sender.send_replace(Some(end));
            // As long as somebody listens it has to be there.
            sender.closed().await;
        });
        Self {
            seat,
            ssh,
            agent,
            console,
            window,
            identity,
            conditions,
            _lease: lease,
            end,
            watching,
            modules,
        }
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

#[async_trait(?Send)]
impl Machine for Booted {
    fn agent(&self) -> &Agent {
        &self.agent
    }

    fn console(&self) -> &Console {
        &self.console
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn conditions(&self) -> Option<&Conditions> {
        Some(&self.conditions)
    }

    fn end(&self) -> watch::Receiver<Option<End>> {
        self.end.clone()
    }

    async fn load_modules(&mut self, names: &[String]) -> Result<(), Fault> {
        let paths = self.modules.paths(names)?;
        if paths.is_empty() {
            return Ok(());
        }
        self.agent.load_modules(paths).await.map_err(|error| match error {
            AgentError::Refused(trouble) => Fault::kernel(FaultKind::Requirement, trouble.message),
            other => Fault::harness(FaultKind::Channel, other.to_string()),
        })
    }

    async fn diagnose(&mut self) -> Vec<u8> {
        let before = self.console.progress().borrow().bytes;
        let asked = self.ssh.run(DUMPS, SYSRQ).await;
        if asked.is_err() {
            let inner = self.seat.inner.lock().await;
            if let Some(power) = inner.walk.as_ref().and_then(|walk| walk.power.as_ref()) {
                // Without an answer there is no backtrace.
                let _ = timeout(NMI, power.act(Action::Nmi)).await;
            }
        }
        self.console.quiet(DUMP.0, DUMP.1).await;
        self.console.settle().await;
        let said = self.console.progress().borrow().bytes - before;
        let tail = self.console.tail();
        let said = usize::try_from(said).unwrap_or(usize::MAX);
        tail[tail.len().saturating_sub(said)..].to_vec()
    }

    async fn blame(&mut self, fault: Fault) -> Fault {
        let mut inner = self.seat.inner.lock().await;
        let Some(walk) = &mut inner.walk else { return fault };
        let known = match fault.kind {
            FaultKind::Panic => Known::Panicked,
            FaultKind::Hang => Known::Silent,
            _ => Known::Nothing,
        };
        let back = walk.bring_back(known).await;
        self.window.shut();
        self.console.closed(DRAIN).await;
        let back = match back {
            Ok(back) => back,
            Err(error) => {
                inner.failed = Some(error.to_string());
                return Fault::harness(
                    FaultKind::Lab,
                    format!("{fault}; and the host is not back on production: {error}"),
                );
            }
        };
        let lived = back.found.as_ref().is_some_and(|i| i.boot_id == self.identity.boot_id);
        match (fault.blame, fault.kind) {
            // Its console told of another kernel, or of nothing that it did.
            (Blame::Kernel, FaultKind::Died | FaultKind::Panic) if lived => Fault::harness(
                FaultKind::Lab,
                format!("{}, but it was in the same boot afterwards", fault.message),
            ),
            (Blame::Harness, FaultKind::Channel) if !lived && back.forced() => Fault::kernel(
                FaultKind::Hang,
                format!("the host stopped answering until it was reset: {}", fault.message),
            ),
            (Blame::Harness, FaultKind::Channel) if !lived => Fault::kernel(
                FaultKind::Died,
                format!("the host rebooted by itself: {}", fault.message),
            ),
            _ => fault,
        }
    }

    async fn stop(self: Box<Self>) {
        let _ = self.agent.power_off();
        self.window.shut();
        self.console.closed(DRAIN).await;
        // What comes of it is seen before the next boot, or when the pool finishes.
        let mut inner = self.seat.inner.lock().await;
        if let Some(walk) = &mut inner.walk {
            walk.record(Event::Returning { by: Means::Reboot });
            if boot::reboot(&self.ssh, REBOOT).await.is_ok() {
                walk.at = At::Leaving(self.identity.boot_id.clone());
            }
        }
    }
}
