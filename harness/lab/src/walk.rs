//! The walk of one lab host: reserved, taken out of service, booted into kernels under test and back to
//! production, put into service again.
//!
//! Each act is in the host's journal before it is done. So what is left to do is always the journal's
//! [`crate::journal::Left`], whether it is this walk that ends, one that was interrupted, or one whose
//! kgate was killed: [`Walk::settle`] is the way back of all of them.

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use kgate_machine::process;
use kgate_model::host::HostCommand;
use kgate_model::inventory::{Hook, Hooks, LabHost, Limits};
use kgate_model::outcome::Role;
use kgate_model::wire::Identity;
use tokio::time::{Instant, sleep, timeout};

use crate::boot::{self, Production, SelectError, Selector};
use crate::console::{ConsoleError, Feed, Opening};
use crate::host::{self, HostFacts};
use crate::journal::{Event, Journal, JournalError, Left, Means, Step};
use crate::power::{self, Action, Power, PowerError, PowerState};
use crate::reservation::{self, Holder, Lock, ReservationError};
use crate::secret::Secrets;
use crate::ssh::{Ssh, SshError, last_words, quote};
use crate::{crash, stage};

/// A first look at a host that may not answer.
const LOOK: Duration = Duration::from_secs(15);
/// An attempt to log in takes no longer: names that nobody resolves make a server slow.
const ATTEMPT: Duration = Duration::from_secs(20);
/// So long after an attempt that has no answer yet the next one begins beside it. Connections to a host that
/// is down are kept by what forwards a port, and those that came too early are tried again ever more seldom.
const BESIDE: Duration = Duration::from_secs(2);
/// Attempts at the same time.
const AT_ONCE: usize = 4;
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(300);
/// What a reboot is asked with is answered within this time.
const ASK: Duration = Duration::from_secs(20);
/// What a crash left is fetched within this time.
const EVIDENCE: Duration = Duration::from_secs(120);
/// Between two tries of a hook on the host.
const AGAIN: Duration = Duration::from_secs(1);
/// Kernels that a host comes up with, one after the other, before it is given up.
const OTHERS: usize = 2;

/// Is told of everything that happens to a host, by its name.
pub type Told = Box<dyn Fn(&str, &Event)>;

/// What all walks of a run have in common.
pub struct Errand {
    /// Where journals and locks of hosts are.
    pub state: PathBuf,
    /// Where what is heard and found is written, in a directory for each host.
    pub evidence: PathBuf,
    /// The run, for whoever looks at a reservation.
    pub run: String,
    /// The user, likewise.
    pub user: String,
    /// Where secrets of the inventory come from.
    pub secrets: Rc<dyn Secrets>,
    /// Told of everything that happens to a host, by its name.
    pub told: Told,
}

impl std::fmt::Debug for Errand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Errand").field("run", &self.run).finish_non_exhaustive()
    }
}

/// Why a walk goes no further. Never the fault of a kernel under test.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// Somebody else has the host, or it can't be reserved.
    #[error(transparent)]
    Reservation(#[from] ReservationError),
    /// What is about to be done can't be written down, so it isn't done.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The host can't be reached.
    #[error(transparent)]
    Ssh(#[from] SshError),
    /// It isn't certain that it boots production by default, or it can't be made to boot another kernel.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// Its console isn't heard.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// A hook failed.
    #[error("the hook `{hook}` failed: {how}")]
    Hook {
        /// Its name in the inventory.
        hook: &'static str,
        /// How it ended.
        how: String,
    },
    /// It answers, but not on production.
    #[error("it runs {found} where {expected} is its production kernel")]
    NotProduction {
        /// What runs.
        found: String,
        /// What was production at the beginning.
        expected: String,
    },
    /// Nothing brings it back.
    #[error("{0}")]
    Stranded(String),
}

impl WalkError {
    /// Whether it is what the inventory says that is wrong.
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Ssh(error)
            | Self::Select(SelectError::Ssh(error))
            | Self::Reservation(ReservationError::Ssh { source: error, .. }) => {
                error.is_configuration()
            }
            Self::Select(SelectError::Power(error)) => error.is_misconfiguration(),
            Self::Select(SelectError::Inventory(_)) => true,
            Self::Console(error) => matches!(error, ConsoleError::Mistake { .. }),
            _ => false,
        }
    }

    /// Whether the host, which was there a moment ago, may just be rebooting.
    fn is_silence(&self) -> bool {
        match self {
            Self::Ssh(error)
            | Self::Select(SelectError::Ssh(error))
            | Self::Reservation(ReservationError::Ssh { source: error, .. }) => matches!(
                error,
                SshError::Silent(_) | SshError::Broken(_) | SshError::Unreachable(_)
            ),
            _ => false,
        }
    }

    /// Whether somebody else has the host.
    pub fn is_held(&self) -> bool {
        matches!(self, Self::Reservation(ReservationError::Held { .. }))
    }
}

/// A host on its walk. Dropping it leaves the host as it is, which its journal tells.
pub struct Walk {
    pub(crate) host: LabHost,
    pub(crate) errand: Rc<Errand>,
    holder: Holder,
    journal: Journal,
    pub(crate) power: Option<Box<dyn Power>>,
    pub(crate) feeds: Vec<Feed>,
    /// Why one of its consoles isn't heard.
    deaf: Option<ConsoleError>,
    pub(crate) production: Option<Production>,
    pub(crate) facts: HostFacts,
    pub(crate) at: At,
    /// Whoever has the host loses it.
    pub(crate) steal: bool,
    _lock: Lock,
}

/// Where a host is, as far as this process knows.
#[derive(Clone, Debug)]
pub(crate) enum At {
    /// On production, with nothing armed; nothing was done to it since that was seen.
    Production { ssh: Arc<Ssh>, boot_id: String },
    /// It was asked to leave this boot.
    Leaving(String),
    /// It may run, or be about to boot, anything.
    Away,
}

/// What is known of a host that is to be brought back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// Nothing.
    Nothing,
    /// Its kernel panicked: it reboots by itself, if it can.
    Panicked,
    /// It has been waited for as long as a boot may take.
    Silent,
}

/// How a host came back.
#[derive(Debug, Default)]
pub(crate) struct Back {
    /// What ran when it was first looked at, if it answered then.
    pub(crate) found: Option<Identity>,
    /// What was still armed when production was up.
    pub(crate) armed: Option<String>,
    /// What it took.
    pub(crate) by: Vec<Means>,
    /// What a crash left, where it was fetched to.
    pub(crate) crash: Vec<PathBuf>,
}

impl Back {
    /// Whether it had to be forced.
    pub(crate) fn forced(&self) -> bool {
        self.by.iter().any(|by| matches!(by, Means::Nmi | Means::Reset | Means::Cycle))
    }
}

/// What came of waiting for a host.
enum Answer {
    /// It runs this.
    Up(Arc<Ssh>, Identity),
    /// It still runs what it ran.
    Same(Arc<Ssh>),
    /// It doesn't answer.
    Silent(Option<SshError>),
}

impl Walk {
    /// Takes the host's lock and opens its journal, power and consoles. Nothing is done to the host.
    ///
    /// # Errors
    /// Another kgate is at it, or the controller lacks something.
    pub async fn open(host: &LabHost, errand: &Rc<Errand>) -> Result<Self, WalkError> {
        let holder = Holder::this(&errand.user, &errand.run);
        let lock = Lock::take(&errand.state, &host.name, &holder)?;
        let journal = Journal::open(&errand.state, &host.name)?;
        let secrets = &errand.secrets;
        let power = host.power.as_ref();
        let power = power.map(|p| power::open(p, &host.name, &host.limits, Rc::clone(secrets)));
        let directory = errand.evidence.join(&host.name);
        let failed = |e: std::io::Error| ReservationError::Failed {
            host: host.name.clone(),
            why: format!("{}: {e}", directory.display()),
        };
        fs::create_dir_all(&directory).map_err(failed)?;
        let (mut feeds, mut deaf) = (Vec::new(), None);
        for (number, source) in host.consoles.iter().enumerate() {
            let name = if number == 0 {
                "console.log".into()
            } else {
                format!("console-{}.log", number + 1)
            };
            let opening = Opening {
                host: host.name.clone(),
                address: host.ssh.address.clone(),
                source: source.clone(),
                file: Some(directory.join(name)),
            };
            match Feed::open(opening, &**secrets, Duration::ZERO).await {
                Ok(feed) => feeds.push(feed),
                // The way back takes none.
                Err(error) => deaf = Some(error),
            }
        }
        Ok(Self {
            host: host.clone(),
            errand: Rc::clone(errand),
            holder,
            journal,
            power,
            feeds,
            deaf,
            production: None,
            facts: HostFacts::default(),
            at: At::Away,
            steal: false,
            _lock: lock,
        })
    }

    /// Where what is heard and found of the host is written.
    pub(crate) fn evidence(&self) -> PathBuf {
        self.errand.evidence.join(&self.host.name)
    }

    /// What its journal says is still to be done.
    pub fn left(&self) -> &Left {
        self.journal.left()
    }

    /// Why something that was done is not in the journal.
    pub fn unwritten(&self) -> Option<&str> {
        self.journal.unwritten()
    }

    pub(crate) fn announce(&mut self, event: Event) -> Result<(), JournalError> {
        self.journal.announce(event.clone())?;
        (self.errand.told)(&self.host.name, &event);
        Ok(())
    }

    pub(crate) fn record(&mut self, event: Event) {
        self.journal.record(event.clone());
        (self.errand.told)(&self.host.name, &event);
    }

    /// Reserves the host, sees that it is on production and boots that by default, and takes it out of
    /// service. One that an earlier walk left is brought back first.
    ///
    /// # Errors
    /// See [`WalkError`]. What was done until then is undone by [`Self::settle`].
    pub async fn begin(&mut self) -> Result<(), WalkError> {
        if let Some(error) = self.deaf.take() {
            return Err(error.into());
        }
        for feed in &self.feeds {
            feed.connected(self.host.limits.bmc).await?;
        }
        if self.left().anything() {
            if let Some((ssh, _)) = self.glance().await {
                self.still_ours(&ssh).await?;
            }
            self.settle(Resolve::All).await?;
        }
        let ssh = Arc::new(self.log_in().await?);
        self.holder = Holder::this(&self.errand.user, &self.errand.run);
        self.reserve(&ssh).await?;
        // Before the traffic is taken away: a host that can't be used loses none.
        let identity = host::identity(&ssh, ASK).await?;
        self.verify(Arc::clone(&ssh), &identity, false).await?;
        // What crashed before is nothing that this walk's kernels did.
        let _ = crash::collect(&ssh, &self.evidence().join("crash-before"), EVIDENCE).await;
        let Hooks { drain, take_out, production_ready, undrain, .. } = self.host.hooks.clone();
        // What there is to do on the way back is done also where there is nothing to do before it.
        if drain.is_some() || production_ready.is_some() || undrain.is_some() {
            self.announce(Event::Draining)?;
        }
        if let Some(hook) = drain {
            self.run_here("drain", &hook).await?;
        }
        if let Some(hook) = take_out {
            self.announce(Event::TakingOut)?;
            self.run_here("take-out", &hook).await?;
        }
        Ok(())
    }

    async fn log_in(&self) -> Result<Ssh, SshError> {
        Ssh::connect(&self.host.ssh, ATTEMPT).await
    }

    /// Reserves the host for this walk.
    async fn reserve(&mut self, ssh: &Ssh) -> Result<(), WalkError> {
        let Holder { run, token, .. } = self.holder.clone();
        self.announce(Event::Reserving { run, token })?;
        if self.steal {
            self.announce(Event::Stealing)?;
        }
        match reservation::acquire(&self.host, ssh, &self.holder, self.steal).await {
            Ok(()) => Ok(()),
            Err(error) => {
                if matches!(error, ReservationError::Held { .. }) {
                    self.record(Event::Released);
                }
                Err(error.into())
            }
        }
    }

    /// Sees that nobody has taken the host since this journal was written: who did has to bring it back,
    /// and what runs on it is theirs.
    pub(crate) async fn still_ours(&mut self, ssh: &Ssh) -> Result<(), WalkError> {
        let marked = reservation::marked(&self.host, ssh).await?;
        let Some((_, by)) = marked.filter(|(token, _)| self.left().token.as_ref() != Some(token))
        else {
            return Ok(());
        };
        if self.steal {
            return self.reserve(ssh).await;
        }
        if self.left().anything() {
            self.record(Event::Released);
        }
        Err(ReservationError::Held { host: self.host.name.clone(), by }.into())
    }

    /// Brings the host back to production and undoes what was done to it, as its journal says.
    ///
    /// # Errors
    /// See [`WalkError`]; what is left then is still in the journal.
    pub async fn settle(&mut self, resolve: Resolve) -> Result<(), WalkError> {
        let left = self.left().clone();
        if let Some(token) = &left.token {
            self.holder.token.clone_from(token);
        }
        for step in left.steps() {
            match step {
                Step::Return => self.back(resolve, &left).await?,
                Step::Unstage => self.unstage().await?,
                // A hook failed: a person has to look at the host before it gets traffic again.
                Step::Undrain | Step::Release
                    if resolve == Resolve::UnlessHookFailed && left.failed_hook.is_some() =>
                {
                    return Ok(());
                }
                Step::Undrain => self.undrain().await?,
                Step::Release => self.release().await?,
            }
        }
        Ok(())
    }

    /// Brings the host back to production as far as that is needed.
    async fn back(&mut self, resolve: Resolve, left: &Left) -> Result<(), WalkError> {
        let given_up = left.gave_up.as_ref().filter(|_| resolve == Resolve::UnlessHookFailed);
        if !left.away {
            // It never left production: nothing there is forced, and what keeps it from being booted
            // doesn't keep it reserved.
            let (ssh, identity) = self.ask(LOOK).await?;
            if !boot::is_ours(&identity) {
                self.at = At::Production { ssh, boot_id: identity.boot_id };
                return Ok(());
            }
        } else if let Some(why) = given_up
            && self.glance().await.is_none()
        {
            // All that there is was tried a moment ago.
            return Err(WalkError::Stranded(why.clone()));
        }
        self.bring_back(Known::Nothing).await.map(drop)
    }

    async fn unstage(&mut self) -> Result<(), WalkError> {
        let ssh = self.on_production()?;
        self.record(Event::Unstaging);
        stage::unstage(&ssh, &self.host).await?;
        crate::steps::remove(&ssh, &self.host).await?;
        self.record(Event::Unstaged);
        Ok(())
    }

    async fn undrain(&mut self) -> Result<(), WalkError> {
        let ssh = self.on_production()?;
        if let Some(hook) = self.host.hooks.production_ready.clone()
            && let Err(how) = self.run_there(&ssh, &hook).await
        {
            return Err(self.hook_failed("production-ready", how));
        }
        self.record(Event::Undraining);
        if let Some(hook) = self.host.hooks.undrain.clone() {
            self.run_here("undrain", &hook).await?;
        }
        self.record(Event::Undrained);
        Ok(())
    }

    async fn release(&mut self) -> Result<(), WalkError> {
        let ssh = self.on_production()?;
        self.record(Event::Releasing);
        reservation::release(&self.host, &ssh, &self.holder).await?;
        self.record(Event::Released);
        Ok(())
    }

    /// The connection to the host, which was seen to be on production.
    pub(crate) fn on_production(&self) -> Result<Arc<Ssh>, WalkError> {
        match &self.at {
            At::Production { ssh, .. } => Ok(Arc::clone(ssh)),
            At::Leaving(_) | At::Away => {
                Err(WalkError::Stranded("it is not known to be on production".into()))
            }
        }
    }

    /// Runs a hook on the controller. What it prints goes to a file of the evidence.
    async fn run_here(&mut self, name: &'static str, hook: &Hook) -> Result<(), WalkError> {
        let mut command = HostCommand::new("sh", hook.timeout).args(["-c", hook.command.as_str()]);
        for (variable, value) in self.variables() {
            command.env.push((variable.into(), value.into()));
        }
        let how = match process::output(&command).await {
            Ok(output) => {
                let log = self.evidence().join(format!("hook-{name}.log"));
                let said = [&output.stdout[..], &output.stderr[..]].concat();
                let kept = fs::write(&log, &said).is_ok();
                if output.code == Some(0) {
                    return Ok(());
                }
                let mut how = ended(output.code);
                if !said.trim_ascii().is_empty() {
                    how.push_str(&format!("; it said: {}", last_words(&said, "")));
                    if kept {
                        how.push_str(&format!(" (all of it: {})", log.display()));
                    }
                }
                how
            }
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                format!("it ran longer than {} s", hook.timeout.as_secs_f32())
            }
            Err(error) => error.to_string(),
        };
        Err(self.hook_failed(name, how))
    }

    fn hook_failed(&mut self, hook: &'static str, how: String) -> WalkError {
        self.record(Event::HookFailed { hook: hook.into(), how: how.clone() });
        WalkError::Hook { hook, how }
    }

    /// Runs a hook on the host until it succeeds; how it ended last when it doesn't in time.
    pub(crate) async fn run_there(&self, ssh: &Ssh, hook: &Hook) -> Result<(), String> {
        let mut script = String::new();
        for (variable, value) in self.variables() {
            script.push_str(&format!("export {variable}={}; ", quote(&value)));
        }
        script.push_str(&hook.command);
        let end = Instant::now() + hook.timeout;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let how = match ssh.run(&script, left).await {
                Ok(output) if output.code == Some(0) => return Ok(()),
                Ok(output) => ended(output.code),
                Err(SshError::Silent(_)) => "it did not end in time".into(),
                Err(error) => error.to_string(),
            };
            if Instant::now() + AGAIN >= end {
                return Err(format!("{how}, for {} s", hook.timeout.as_secs_f32()));
            }
            sleep(AGAIN).await;
        }
    }

    fn variables(&self) -> [(&'static str, String); 3] {
        [
            ("KGATE_HOST", self.host.name.clone()),
            ("KGATE_ADDRESS", self.host.ssh.address.clone()),
            ("KGATE_RUN", self.errand.run.clone()),
        ]
    }

    /// Brings the host back to production, whatever it does now, and sees that it is there and that
    /// nothing is armed. Does nothing when that was seen and nothing was done since.
    ///
    /// # Errors
    /// It answers and isn't on production, or doesn't answer whatever is done.
    pub(crate) async fn bring_back(&mut self, known: Known) -> Result<Back, WalkError> {
        let mut back = Back::default();
        if let At::Production { ssh, boot_id } = &self.at {
            let seen = host::identity(ssh, ASK).await;
            if seen.is_ok_and(|identity| identity.boot_id == *boot_id) {
                return Ok(back);
            }
            self.at = At::Away;
        }
        match self.climb(known, &mut back).await {
            Ok(()) => Ok(back),
            Err(error) => {
                self.record(Event::GaveUp { why: error.to_string() });
                Err(error)
            }
        }
    }

    /// Takes one means after the other until the host is on production.
    async fn climb(&mut self, known: Known, back: &mut Back) -> Result<(), WalkError> {
        let boot = self.host.limits.boot;
        let mut ladder = VecDeque::from(match known {
            Known::Nothing => vec![Means::Wait, Means::Nmi, Means::Reset, Means::Cycle],
            Known::Panicked => vec![Means::Wait, Means::Reset, Means::Cycle],
            Known::Silent => vec![Means::Nmi, Means::Reset, Means::Cycle],
        });
        // The boot that was told to end.
        let mut ending: Option<String> = None;
        let mut patience = LOOK.min(boot);
        if let At::Leaving(boot_id) = std::mem::replace(&mut self.at, At::Away) {
            ending = Some(boot_id);
            patience = self.host.limits.shutdown;
            back.by.push(Means::Reboot);
        }
        let (mut others, mut on_its_way) = (0, false);
        let mut trouble = Vec::new();
        loop {
            match self.answer(ending.as_deref(), patience).await {
                Answer::Up(ssh, identity) => {
                    if back.by.is_empty() {
                        back.found = Some(identity.clone());
                    }
                    match self.settled(&ssh, &identity, others == 0).await {
                        Ok(Some(armed)) => {
                            back.armed = armed;
                            self.collect(&ssh, back).await;
                            return Ok(());
                        }
                        Ok(None) => {}
                        // It was there, and is no more.
                        Err(error) if error.is_silence() && others < OTHERS => {
                            trouble.push(error.to_string());
                            others += 1;
                            patience = boot;
                            continue;
                        }
                        Err(error) => return Err(error),
                    }
                    if others == OTHERS {
                        let Identity { release, command_line, .. } = identity;
                        return Err(WalkError::Stranded(format!(
                            "it comes up with {release} again and again ({command_line})"
                        )));
                    }
                    others += 1;
                    self.step(Means::Reboot, back);
                    // A host that is going down says nothing any more.
                    let _ = boot::reboot(&ssh, ASK).await;
                    ending = Some(identity.boot_id);
                    on_its_way = false;
                    patience = self.host.limits.shutdown;
                }
                Answer::Same(ssh) => {
                    if back.by.last() == Some(&Means::Reboot) {
                        self.step(Means::ForcedReboot, back);
                        let _ = boot::force_reboot(&ssh, ASK).await;
                        patience = boot;
                    } else {
                        ladder.retain(|means| *means > Means::Nmi);
                        let why = SshError::Broken("it doesn't reboot".into());
                        patience = self.next(&mut ladder, &mut trouble, Some(why), back).await?;
                    }
                }
                // It is down, and on its way.
                Answer::Silent(_) if back.by.last() == Some(&Means::Reboot) && !on_its_way => {
                    on_its_way = true;
                    patience = boot;
                }
                Answer::Silent(why) => {
                    if back.by.last() == Some(&Means::Reboot) {
                        ladder.retain(|means| *means > Means::Nmi);
                    }
                    patience = self.next(&mut ladder, &mut trouble, why, back).await?;
                }
            }
        }
    }

    fn step(&mut self, by: Means, back: &mut Back) {
        self.record(Event::Returning { by });
        back.by.push(by);
    }

    /// Takes the next means, and says how long to wait for what comes of it.
    async fn next(
        &mut self,
        ladder: &mut VecDeque<Means>,
        trouble: &mut Vec<String>,
        why: Option<SshError>,
        back: &mut Back,
    ) -> Result<Duration, WalkError> {
        let limits = self.host.limits.clone();
        trouble.extend(why.map(|why| why.to_string()).filter(|why| trouble.last() != Some(why)));
        loop {
            let Some(means) = ladder.pop_front() else {
                if self.power.is_none() {
                    trouble.push("the inventory names no power to switch".into());
                }
                let mut words = vec!["it does not come back".to_owned()];
                words.append(trouble);
                return Err(WalkError::Stranded(words.join("; ")));
            };
            let (actions, patience): (&[Action], _) = match means {
                Means::Nmi => (&[Action::Nmi], limits.nmi),
                Means::Reset => (&[Action::Reset], limits.boot),
                Means::Cycle => (&[Action::Cycle, Action::On], limits.boot),
                _ => {
                    // One that is off is not waited for.
                    let Some(power) = &self.power else {
                        self.step(means, back);
                        return Ok(limits.boot);
                    };
                    match power.state().await {
                        Ok(PowerState::Off) => {
                            ladder.retain(|means| *means > Means::Nmi);
                            continue;
                        }
                        Ok(_) => {}
                        Err(error) => trouble.push(error.to_string()),
                    }
                    self.step(means, back);
                    return Ok(limits.boot);
                }
            };
            if self.power.is_none() {
                continue;
            }
            self.step(means, back);
            let Some(power) = &self.power else { continue };
            let mut done = Ok(());
            for action in actions {
                done = power.act(*action).await;
                if done.is_err() {
                    break;
                }
            }
            match done {
                Ok(()) => return Ok(patience),
                Err(PowerError::Unsupported(_)) if means == Means::Nmi => {
                    back.by.pop();
                }
                Err(error) => {
                    trouble.push(format!("{}: {error}", means.label()));
                    // It may have been done all the same.
                    if means != Means::Nmi {
                        return Ok(patience);
                    }
                }
            }
        }
    }

    /// Whether the host that answers is back on production, and what was still armed then.
    async fn settled(
        &mut self,
        ssh: &Arc<Ssh>,
        identity: &Identity,
        first: bool,
    ) -> Result<Option<Option<String>>, WalkError> {
        self.still_ours(ssh).await?;
        if boot::is_ours(identity) {
            return Ok(None);
        }
        // Neither ours nor what was production: one more boot leads to the default, whatever that is now.
        let production = self.production.as_ref().map(|p| (&p.release, &p.version));
        let production = production.or(self.left().production.as_ref().map(|(r, v)| (r, v)));
        let other = production.is_some_and(|p| p != (&identity.release, &identity.version));
        if first && other && self.left().away {
            return Ok(None);
        }
        // It was told to reboot in this boot, and may yet do so.
        let pending = self.left().armed_in.as_deref() == Some(&identity.boot_id);
        self.verify(Arc::clone(ssh), identity, pending).await
    }

    /// Sees that production runs and is the default, and disarms what is armed; gives what that was.
    /// `None` when the host is about to reboot. Nothing of it may be done on another kernel.
    pub(crate) async fn verify(
        &mut self,
        ssh: Arc<Ssh>,
        identity: &Identity,
        pending: bool,
    ) -> Result<Option<Option<String>>, WalkError> {
        let facts = host::look(&ssh, &self.host.boot).await?;
        let selector = Selector::of(&self.host);
        let power = self.power.as_deref();
        let armed = selector.armed(&ssh, &facts, power).await?;
        if armed.is_some() || pending {
            selector.disarm(&ssh, &facts, power).await?;
        }
        if pending {
            return Ok(None);
        }
        let production = selector.production(&ssh, &facts, power).await?;
        // What an earlier walk saw may have been replaced by who has the host.
        if let Some(known) = &self.production
            && (&known.release, &known.version) != (&production.release, &production.version)
        {
            return Err(WalkError::NotProduction {
                found: format!("{} {}", production.release, production.version),
                expected: format!("{} {}", known.release, known.version),
            });
        }
        self.facts = facts;
        if self.production.is_none() {
            let (release, version) = (production.release.clone(), production.version.clone());
            self.record(Event::Production { release, version });
        }
        // What the host asserts before it arms holds in this boot only.
        self.production = Some(production);
        let boot_id = identity.boot_id.clone();
        if self.left().away {
            self.record(Event::Returned { boot_id: boot_id.clone() });
        }
        self.at = At::Production { ssh, boot_id };
        Ok(Some(armed))
    }

    /// Fetches what a crash left, where the host did not leave its kernel in an orderly way.
    async fn collect(&self, ssh: &Ssh, back: &mut Back) {
        if back.by == [Means::Reboot] {
            return;
        }
        let directory = self.evidence().join(format!("crash-{}", reservation::unique()));
        let found = crash::collect(ssh, &directory, EVIDENCE).await;
        // What can't be fetched is missing, and the host is back all the same.
        back.crash = found.unwrap_or_default();
    }

    /// Waits until the host answers in another boot than `except`.
    async fn answer(&self, except: Option<&str>, patience: Duration) -> Answer {
        let end = Instant::now() + patience;
        let mut last = Answer::Silent(None);
        let mut answered = None;
        let mut attempts = FuturesUnordered::new();
        loop {
            let begun = Instant::now();
            let left = end.saturating_duration_since(begun);
            if left.is_zero() {
                return last;
            }
            if attempts.len() < AT_ONCE {
                let attempt = self.ask(ATTEMPT.min(left.max(PAUSE)));
                attempts.push(attempt.map(move |result| (begun, result)));
            }
            match timeout(BESIDE.min(left), attempts.select_next_some()).await {
                Ok((_, Ok((ssh, identity)))) if except == Some(&identity.boot_id) => {
                    answered = Some(Instant::now());
                    last = Answer::Same(ssh);
                }
                Ok((_, Ok((ssh, identity)))) => return Answer::Up(ssh, identity),
                // It has answered one that began later.
                Ok((begun, Err(_))) if answered.is_some_and(|at| begun < at) => {}
                Ok((_, Err(error))) => last = Answer::Silent(Some(error)),
                Err(_) => continue,
            }
            sleep(PAUSE.min(end.saturating_duration_since(Instant::now()))).await;
        }
    }

    async fn ask(&self, within: Duration) -> Result<(Arc<Ssh>, Identity), SshError> {
        let ask = async {
            let ssh = Ssh::connect(&self.host.ssh, within).await?;
            let identity = host::identity(&ssh, within).await?;
            Ok((Arc::new(ssh), identity))
        };
        timeout(within, ask).await.unwrap_or(Err(SshError::Silent(within)))
    }

    /// What the host answers, if it does now.
    pub(crate) async fn glance(&self) -> Option<(Arc<Ssh>, Identity)> {
        match self.answer(None, LOOK).await {
            Answer::Up(ssh, identity) => Some((ssh, identity)),
            _ => None,
        }
    }

    /// Announces that the files of a kernel are put on the host.
    pub(crate) fn staging(&mut self, role: Role, release: &str) -> Result<(), JournalError> {
        let release = release.to_owned();
        self.announce(Event::Staging { role, release })
    }

    /// Waits until the host answers in another boot than `before`, within its limits.
    pub(crate) async fn booted(&self, before: &str) -> Result<(Arc<Ssh>, Identity), Unbooted> {
        let Limits { shutdown, boot, .. } = &self.host.limits;
        match self.answer(Some(before), *shutdown + *boot).await {
            Answer::Up(ssh, identity) => Ok((ssh, identity)),
            Answer::Same(_) => Err(Unbooted::Same),
            Answer::Silent(_) => Err(Unbooted::Silent),
        }
    }
}

/// How a hook ended that failed, by its exit code; `None` when a signal ended it.
fn ended(code: Option<i32>) -> String {
    code.map_or_else(|| "a signal ended it".into(), |code| format!("exit code {code}"))
}

/// Why a host did not come up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unbooted {
    /// It did not even go down.
    Same,
    /// It doesn't answer.
    Silent,
}

/// How far [`Walk::settle`] goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolve {
    /// Everything is undone.
    All,
    /// A host whose hook has failed stays drained and reserved, on production.
    UnlessHookFailed,
}
