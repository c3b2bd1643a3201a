//! One boot of a kernel under test on a lab host, until its agent answers, and whose fault it is when
//! none does.
//!
//! A kernel is at fault only when the host is back on production afterwards: one that doesn't come back
//! may be broken itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kgate_machine::{Agent, AgentError, BootError, Console};
use kgate_model::finding::Finding;
use kgate_model::inventory::{Conditions, ConsoleSource};
use kgate_model::outcome::{Fault, FaultKind};
use kgate_model::wire::{Identity, Setup};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::boot::{self, SelectError, Selector};
use crate::console::netconsole;
use crate::host;
use crate::journal::Event;
use crate::reservation::unique;
use crate::ssh::{ANSWER, Ssh};
use crate::stage::Staged;
use crate::steps;
use crate::walk::{At, Back, Known, Unbooted, Walk, WalkError};
use crate::window::{Heard, Window};

/// After a panic was heard the kernel still prints its end.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// It has said everything when it is quiet for so long.
const QUIET: Duration = Duration::from_millis(500);
/// After a window was shut what passed through it is still being read.
pub(crate) const DRAIN: Duration = Duration::from_secs(2);
/// The agent answers within this time, or it never does.
const AGENT: Duration = Duration::from_secs(60);

/// What the guard begins its last words with, in the kernel's log.
const GUARD: &str = "kgate: guard: ";

/// What to boot.
pub(crate) struct Trip<'a> {
    pub(crate) staged: &'a Staged,
    /// The image that is the root of the steps, on the host, with the modules behind it; the tree of the
    /// base userland when `None`.
    pub(crate) image: Option<(PathBuf, Vec<String>)>,
    pub(crate) console: &'a Path,
    pub(crate) kernel_log: Option<&'a Path>,
}

/// A host on which a kernel under test runs and its agent answers.
pub(crate) struct Up {
    pub(crate) ssh: Arc<Ssh>,
    pub(crate) agent: Agent,
    pub(crate) console: Console,
    pub(crate) window: Window,
    pub(crate) identity: Identity,
    pub(crate) conditions: Conditions,
    pub(crate) lease: Lease,
}

/// Keeps the guard of a host quiet until it is dropped.
#[derive(Debug)]
pub(crate) struct Lease(JoinHandle<()>);

impl Lease {
    /// Takes the lease, and renews it by one command that stays: a new session every time would disturb what
    /// is measured.
    async fn take(ssh: &Arc<Ssh>, guard: Duration) -> Self {
        const TOUCH: &str = "mkdir -p /run/kgate; while read -r _; do : >/run/kgate/lease; done";
        let (ssh, pause) = (Arc::clone(ssh), guard / 4);
        let mut channel = ssh.channel(TOUCH, ANSWER.min(pause)).await;
        Self(tokio::spawn(async move {
            loop {
                // One that fails is followed by another, and by the guard when none succeeds.
                if let Ok(channel) = &mut channel {
                    while channel.write_all(b"\n").await.is_ok() {
                        sleep(pause).await;
                    }
                }
                sleep(pause).await;
                channel = ssh.channel(TOUCH, pause).await;
            }
        }))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why a boot came to nothing.
enum Failure {
    /// The kernel said that it panicked.
    Panicked,
    /// Nothing answered for as long as a boot may take.
    Silent,
    /// The host is on production again.
    Returned,
    /// Another kernel runs than was booted.
    Wrong(Identity),
    /// It answered, and then not any more.
    Lost(String),
    /// It didn't go down to be booted.
    Stayed,
    /// It is up, but not what its readiness command asks for.
    Unready(String),
    /// The agent did not start.
    Agent(String),
    /// It was not even told to boot.
    Unarmed(String),
}

/// A window on a console with what reads it.
struct Listening {
    window: Window,
    console: Console,
}

impl Walk {
    /// Boots a staged kernel once. When that fails the host is back on production, or it is said that it
    /// isn't: then the second value is why, and the host can't be used any more.
    pub(crate) async fn boot(
        &mut self,
        trip: &Trip<'_>,
    ) -> Result<Up, (BootError, Option<String>)> {
        let harness = |kind, why: String| (BootError::harness(kind, why), None);
        if let Err(error) = self.bring_back(Known::Nothing).await {
            let why = error.to_string();
            return Err((BootError::harness(FaultKind::Lab, why.clone()), Some(why)));
        }
        let At::Production { ssh, boot_id } = self.at.clone() else {
            return Err(harness(FaultKind::Lab, "the host is not on production".into()));
        };
        let Some(production) = self.production.clone() else {
            return Err(harness(FaultKind::Lab, "its production kernel is not known".into()));
        };
        let id = unique();
        let listening = self.listen(trip.console, &id).map_err(|e| {
            harness(FaultKind::Controller, format!("{}: {e}", trip.console.display()))
        })?;
        let role = trip.staged.role;
        self.announce(Event::Arming { role, id: id.clone(), boot_id: boot_id.clone() })
            .map_err(|e| harness(FaultKind::Controller, e.to_string()))?;
        self.at = At::Away;
        let shutdown = self.host.limits.shutdown;
        let armed = Selector::of(&self.host)
            .arm_and_reboot(&ssh, self.power.as_deref(), &production, trip.staged, &id, shutdown)
            .await;
        match armed {
            // Whether it comes then shows.
            Ok(()) | Err(SelectError::Ssh(_)) => {}
            Err(error) => {
                let failure = Failure::Unarmed(error.to_string());
                return Err(self.failed(trip, listening, failure, None).await);
            }
        }
        drop(ssh);
        self.until_ready(trip, &id, &boot_id, listening).await
    }

    async fn until_ready(
        &mut self,
        trip: &Trip<'_>,
        id: &str,
        before: &str,
        listening: Listening,
    ) -> Result<Up, (BootError, Option<String>)> {
        let came = tokio::select! {
            biased;
            () = listening.console.panicked() => Err(Failure::Panicked),
            () = listening.window.another() => Err(Failure::Returned),
            booted = self.booted(before) => match booted {
                Ok(up) => Ok(up),
                Err(Unbooted::Same) => Err(Failure::Stayed),
                Err(Unbooted::Silent) => Err(Failure::Silent),
            },
        };
        let (ssh, identity) = match came {
            Ok(up) => up,
            Err(failure) => return Err(self.failed(trip, listening, failure, None).await),
        };
        if !trip.staged.is(&identity, id) {
            let failure = match &self.production {
                Some(p)
                    if (&p.release, &p.version) == (&identity.release, &identity.version)
                        && !boot::is_ours(&identity) =>
                {
                    Failure::Returned
                }
                _ => Failure::Wrong(identity),
            };
            return Err(self.failed(trip, listening, failure, None).await);
        }
        self.record(Event::On { role: trip.staged.role, boot_id: identity.boot_id.clone() });
        listening.window.open();
        let ready = {
            let ready = self.readied(trip, &ssh);
            tokio::pin!(ready);
            tokio::select! {
                biased;
                () = listening.console.panicked() => Err(Failure::Panicked),
                () = listening.window.another() => Err(Failure::Returned),
                ready = &mut ready => ready,
                why = ssh.closed() => {
                    // A panic may be heard a moment later.
                    match timeout(LAST_WORDS, listening.console.panicked()).await {
                        Ok(()) => Err(Failure::Panicked),
                        Err(_) => Err(Failure::Lost(why)),
                    }
                }
            }
        };
        match ready {
            Ok((lease, agent, conditions)) => {
                let Listening { window, console } = listening;
                Ok(Up { ssh, agent, console, window, identity, conditions, lease })
            }
            Err(failure) => {
                Err(self.failed(trip, listening, failure, Some(&identity.boot_id)).await)
            }
        }
    }

    /// Takes the lease, waits for the readiness command, and starts the agent.
    async fn readied(
        &self,
        trip: &Trip<'_>,
        ssh: &Arc<Ssh>,
    ) -> Result<(Lease, Agent, Conditions), Failure> {
        let lease = Lease::take(ssh, self.host.boot.guard).await;
        Selector::of(&self.host)
            .started(self.power.as_deref())
            .await
            .map_err(|e| Failure::Agent(e.to_string()))?;
        for source in &self.host.consoles {
            if let ConsoleSource::Netconsole { port, address, device } = source {
                // A kernel without it is heard otherwise, or not.
                let _ = ssh.run(&netconsole::setup(address, *port, device), ANSWER).await;
            }
        }
        if let Some(hook) = &self.host.hooks.ready {
            self.run_there(ssh, hook).await.map_err(Failure::Unready)?;
        }
        let broken = |e: crate::ssh::SshError| Failure::Agent(e.to_string());
        let conditions = host::conditions(ssh).await.map_err(broken)?;
        let quote = |path: &Path| crate::ssh::quote(&path.to_string_lossy());
        let base = quote(&steps::directory(&self.host));
        let mut command = format!("exec {} --stdio --base {base}", quote(&trip.staged.agent));
        if let Some((image, modules)) = &trip.image {
            let device = steps::attach(ssh, &self.host, image, modules).await.map_err(broken)?;
            command.push_str(&format!(" --image {}", crate::ssh::quote(&device)));
        }
        let channel = ssh.channel(&command, ANSWER).await.map_err(broken)?;
        let complaint = channel.complaint();
        let connect = Agent::connect(channel, Setup::default(), trip.kernel_log);
        match timeout(AGENT, connect).await {
            Ok(Ok((agent, _))) => Ok((lease, agent, conditions)),
            Ok(Err(AgentError::Refused(trouble))) => Err(Failure::Agent(trouble.message)),
            Ok(Err(error)) => {
                // What it complains of may come a moment after its end.
                sleep(QUIET).await;
                let said = complaint.text();
                let said =
                    if said.is_empty() { String::new() } else { format!("; it said: {said}") };
                Err(Failure::Agent(format!("{error}{said}")))
            }
            Err(_) => Err(Failure::Agent(format!("no word of it within {} s", AGENT.as_secs()))),
        }
    }

    /// Listens to the console for one boot.
    fn listen(&self, path: &Path, id: &str) -> std::io::Result<Listening> {
        let mark = boot::mark(id);
        let (window, passed) = match self.feeds.first() {
            Some(feed) => Window::new(feed.reader(), &mark),
            None => Window::new(tokio::io::empty(), &mark),
        };
        Ok(Listening { window, console: Console::start(passed, Some(path))? })
    }

    /// Brings the host back after a boot that failed, and says whose fault that was. `boot_id` is the boot
    /// in which it had answered.
    async fn failed(
        &mut self,
        trip: &Trip<'_>,
        listening: Listening,
        failure: Failure,
        boot_id: Option<&str>,
    ) -> (BootError, Option<String>) {
        let Listening { window, console } = listening;
        if matches!(failure, Failure::Panicked) {
            console.quiet(QUIET, LAST_WORDS).await;
            window.shut();
            console.closed(DRAIN).await;
        }
        // What silence is answered with makes a kernel panic: that is not its own doing.
        console.settle().await;
        let (findings, spoken) = (console.findings(0), console.progress().borrow().bytes);
        let cause = console.cause();
        let known = match failure {
            Failure::Panicked => Known::Panicked,
            Failure::Silent => Known::Silent,
            _ => Known::Nothing,
        };
        let back = self.bring_back(known).await;
        window.shut();
        console.closed(DRAIN).await;
        let tail = console.tail();
        let late =
            usize::try_from(console.progress().borrow().bytes - spoken).unwrap_or(usize::MAX);
        let diagnosis = (known == Known::Silent && late > 0)
            .then(|| tail[tail.len().saturating_sub(late)..].to_vec());
        let stranded = back.as_ref().err().map(ToString::to_string);
        let heard = window.heard();
        let fault = self.blame(trip, &failure, &back, &heard, cause.as_ref(), &tail, boot_id);
        (BootError { fault, findings, tail, diagnosis }, stranded)
    }

    /// Whose fault a boot is that came to nothing.
    #[expect(clippy::too_many_arguments, reason = "all that is known of it")]
    fn blame(
        &self,
        trip: &Trip<'_>,
        failure: &Failure,
        back: &Result<Back, WalkError>,
        heard: &Heard,
        cause: Option<&Finding>,
        tail: &[u8],
        boot_id: Option<&str>,
    ) -> Fault {
        let limits = &self.host.limits;
        let what = match failure {
            Failure::Panicked => "the kernel panicked".into(),
            Failure::Silent => format!(
                "no word over SSH within {} s; the console ends with {}",
                (limits.shutdown + limits.boot).as_secs(),
                last_line(tail)
            ),
            Failure::Returned if String::from_utf8_lossy(tail).contains(GUARD) => format!(
                "the guard rebooted the host, which kgate did not reach for {} s",
                self.host.boot.guard.as_secs()
            ),
            Failure::Returned => "the host was back on production by itself".into(),
            Failure::Wrong(identity) => format!(
                "{} {} is up instead of {} ({})",
                identity.release, identity.version, trip.staged.release, identity.command_line
            ),
            Failure::Lost(why) => format!("the host answered, and then no more: {why}"),
            Failure::Stayed => format!(
                "the host did not leave production within {} s",
                (limits.shutdown + limits.boot).as_secs()
            ),
            Failure::Unready(how) => format!("not ready: the hook `ready` ended with {how}"),
            Failure::Agent(why) => format!("the agent does not start: {why}"),
            Failure::Unarmed(why) => why.clone(),
        };
        let lab = |what: String| Fault::harness(FaultKind::Lab, what);
        let kernel = |what: String| Fault::kernel(FaultKind::BootFailed, what);
        let titled = |what: String| kernel(cause.map_or(what, |finding| finding.title.clone()));
        let back = match back {
            Ok(back) => back,
            // Whether the kernel or the host is broken can't be told.
            Err(error) => {
                return lab(format!("{what}; and the host is not back on production: {error}"));
            }
        };
        let ours = boot_id.is_some() || started(trip, heard, self.production.as_ref());
        // It is there, in the boot that seemed to be over: what told of its end was wrong.
        let lived = back.found.as_ref().is_some_and(boot::is_ours);
        match failure {
            Failure::Panicked | Failure::Returned | Failure::Lost(_) if lived => lab(what),
            Failure::Panicked | Failure::Unready(_) => titled(what),
            Failure::Wrong(_) => Fault::harness(FaultKind::Identity, what),
            Failure::Stayed | Failure::Unarmed(_) => lab(what),
            Failure::Agent(_) => match cause {
                Some(_) => titled(what),
                None => Fault::harness(FaultKind::Channel, what),
            },
            Failure::Silent | Failure::Returned | Failure::Lost(_) => {
                if ours || !back.crash.is_empty() {
                    return titled(what);
                }
                if back.armed.is_some() {
                    let why = "the boot loader did not take what was armed";
                    return Fault::harness(FaultKind::Identity, format!("{what}: {why}"));
                }
                if back.forced() && heard.first.is_none() {
                    return titled(what);
                }
                let why = "nothing shows that the kernel was started";
                Fault::harness(FaultKind::Identity, format!("{what}, and {why}"))
            }
        }
    }
}

/// Whether the console shows that the staged kernel was started.
fn started(trip: &Trip<'_>, heard: &Heard, production: Option<&crate::boot::Production>) -> bool {
    let said = |version: &str| heard.first.as_ref().is_some_and(|first| first.contains(version));
    // Of the same kernel as production's, only the mark tells.
    let other = production.is_none_or(|p| !trip.staged.banner.contains(&p.version));
    heard.mark
        || other
            && said(&format!("Linux version {} ", trip.staged.release))
            && !production.is_some_and(|p| said(&p.version))
}

fn last_line(tail: &[u8]) -> String {
    let text = String::from_utf8_lossy(tail);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
    line.map_or_else(|| "nothing".into(), |line| format!("“{line}”"))
}
