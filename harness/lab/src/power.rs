//! Power: what switches a lab host on and off, whatever its kernel does. Here is what holds for every way
//! to do it: deadlines, waiting for the state to show a switch, and what stands in for what a BMC lacks.

use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;
use kgate_model::inventory::{self, Limits};
use tokio::time::{Instant, sleep, timeout_at};

use crate::secret::Secrets;

mod command;
mod https;
pub(crate) mod ipmi;
mod redfish;

/// Whether a host has power, as its BMC says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerState {
    /// It is on.
    On,
    /// It is off.
    Off,
    /// On its way, or the BMC doesn't say.
    Unknown,
}

impl fmt::Display for PowerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Unknown => "unknown",
        })
    }
}

/// What can be done to a host's power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Switch on; nothing when it is on.
    On,
    /// Switch off at once.
    Off,
    /// Ask the operating system to switch off.
    SoftOff,
    /// Reset at once.
    Reset,
    /// Off, and on again.
    Cycle,
    /// Send a non-maskable interrupt.
    Nmi,
}

impl Action {
    /// All, with the word that a person writes.
    pub const ALL: [(Self, &str); 6] = [
        (Self::On, "on"),
        (Self::Off, "off"),
        (Self::SoftOff, "soft-off"),
        (Self::Reset, "reset"),
        (Self::Cycle, "cycle"),
        (Self::Nmi, "nmi"),
    ];

    /// The word that a person writes.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(action, _)| *action == self).map_or("", |(_, word)| word)
    }
}

/// Why a BMC did not do what it was asked for. Never a kernel's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PowerError {
    /// Nobody answered.
    #[error("the BMC can't be reached: {0}")]
    Unreachable(String),
    /// It proved to be somebody else.
    #[error("the BMC is not the one in the inventory: {0}")]
    Identity(String),
    /// It does not know the user or the password.
    #[error("the BMC refused the login: {0}")]
    Unauthorised(String),
    /// It answered with an error, also after what may pass was tried again.
    #[error("the BMC refused: {0}")]
    Refused(String),
    /// Its answers are none of the kind that it has to give.
    #[error("the BMC can't be understood: {0}")]
    Garbled(String),
    /// A power command of the inventory failed.
    #[error("{0}")]
    Command(String),
    /// It can't do this.
    #[error("{0}")]
    Unsupported(String),
    /// It said that it did, and the host's state says otherwise.
    #[error("`{action}` was accepted, and {} s later the power is {told}", after.as_secs())]
    Lied {
        /// What it was asked for.
        action: String,
        /// What it tells.
        told: PowerState,
        /// How long that was watched.
        after: Duration,
    },
    /// It did not answer in time.
    #[error("no answer from power control within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// It said that it told the host's operating system to switch off, which didn't.
    #[error("the host was asked to switch itself off, and is still on after {} s", .0.as_secs())]
    StillOn(Duration),
    /// The inventory is wrong about it, or its password or another thing isn't on the controller.
    #[error("{0}")]
    Controller(String),
}

impl PowerError {
    /// Whether the inventory has to be changed, or what it refers to, since trying again won't help.
    pub fn is_misconfiguration(&self) -> bool {
        match self {
            Self::Identity(_)
            | Self::Unauthorised(_)
            | Self::Unsupported(_)
            | Self::Controller(_) => true,
            Self::Unreachable(_)
            | Self::Refused(_)
            | Self::Garbled(_)
            | Self::Command(_)
            | Self::Lied { .. }
            | Self::StillOn(_)
            | Self::TimedOut(_) => false,
        }
    }
}

/// What starts a host's kernels, which an order to boot from the network has to name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// A PC's BIOS.
    Bios,
    /// UEFI.
    Uefi,
}

/// A host's power. Every call ends within the host's `limits.bmc`, but for the time that a switch takes
/// to show in the state.
#[async_trait(?Send)]
pub trait Power {
    /// Whether the host has power.
    ///
    /// # Errors
    /// See [`PowerError`].
    async fn state(&self) -> Result<PowerState, PowerError>;

    /// Does it, and for what changes the state waits until the state shows it: for as long as an answer
    /// may take, and after [`Action::SoftOff`] for as long as a shutdown may. [`Action::Reset`] and
    /// [`Action::Cycle`] switch on a host that is off, and are done when it is on: that it was started
    /// anew, only the host itself can show.
    ///
    /// # Errors
    /// See [`PowerError`].
    async fn act(&self, action: Action) -> Result<(), PowerError>;

    /// Makes the next boot, and only that, one from the network, and reads that back: a BMC that makes it
    /// one of every boot is told to forget it, and refused.
    ///
    /// # Errors
    /// See [`PowerError`]; [`PowerError::Unsupported`] when the BMC has no such thing.
    async fn boot_from_network_once(&self, firmware: Firmware) -> Result<(), PowerError>;

    /// Whether a boot from the network is still asked for, as far as the BMC says.
    ///
    /// # Errors
    /// See [`PowerError`].
    async fn boots_from_network(&self) -> Result<Option<bool>, PowerError>;

    /// Takes back [`Self::boot_from_network_once`].
    ///
    /// # Errors
    /// See [`PowerError`].
    async fn boot_from_disk(&self) -> Result<(), PowerError>;
}

/// The power of the host called `host`. Nothing is asked of its BMC yet.
pub fn open(
    power: &inventory::Power,
    host: &str,
    limits: &Limits,
    secrets: Rc<dyn Secrets>,
) -> Box<dyn Power> {
    match power {
        inventory::Power::Redfish { url, system, user, password, tls } => {
            let (url, user) = (url.clone(), user.clone());
            let bmc = redfish::Redfish::new(
                url,
                system.clone(),
                user,
                password.clone(),
                tls.clone(),
                secrets,
            );
            Box::new(Watched { bmc, limits: limits.clone() })
        }
        inventory::Power::Ipmi(ipmi) => {
            let bmc = ipmi::Ipmitool { at: ipmi.clone(), secrets };
            Box::new(Watched { bmc, limits: limits.clone() })
        }
        inventory::Power::Command(commands) => {
            let bmc = command::Commands { commands: commands.clone(), host: host.to_owned() };
            Box::new(Watched { bmc, limits: limits.clone() })
        }
    }
}

/// The time that a call has.
#[derive(Clone, Copy, Debug)]
struct Deadline {
    at: Instant,
    /// How long it was when it began.
    whole: Duration,
}

impl Deadline {
    fn within(whole: Duration) -> Self {
        Self { at: Instant::now() + whole, whole }
    }

    fn left(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// Ends `work` when the time is over.
    async fn hold<T, E>(self, work: impl Future<Output = Result<T, E>>) -> Result<T, E>
    where
        E: From<PowerError>,
    {
        let late = || Err(PowerError::TimedOut(self.whole).into());
        timeout_at(self.at, work).await.unwrap_or_else(|_| late())
    }

    /// Sleeps for the next pause, if there is time for something after it.
    async fn pause(self, pauses: &mut Pauses) -> bool {
        let pause = pauses.next();
        let goes = pause < self.left();
        if goes {
            sleep(pause).await;
        }
        goes
    }
}

/// Pauses that grow from a fifth of a second to two.
#[derive(Debug)]
struct Pauses(Duration);

impl Pauses {
    fn new() -> Self {
        Self(Duration::from_millis(200))
    }

    fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 3 / 2).min(Duration::from_secs(2));
        pause
    }
}

/// What each way of switching does; each call is ended at its deadline.
#[async_trait(?Send)]
trait Bmc {
    async fn state(&self, by: Deadline) -> Result<PowerState, PowerError>;
    /// Has it begun. [`PowerError::Unsupported`] when it has no such thing.
    async fn order(&self, action: Action, by: Deadline) -> Result<(), PowerError>;
    async fn boot_from_network_once(
        &self,
        firmware: Firmware,
        by: Deadline,
    ) -> Result<(), PowerError>;
    async fn boots_from_network(&self, by: Deadline) -> Result<Option<bool>, PowerError>;
    async fn boot_from_disk(&self, by: Deadline) -> Result<(), PowerError>;
}

/// A BMC whose orders are watched.
#[derive(Debug)]
struct Watched<B> {
    bmc: B,
    limits: Limits,
}

impl<B: Bmc> Watched<B> {
    fn deadline(&self) -> Deadline {
        Deadline::within(self.limits.bmc)
    }

    async fn order(&self, action: Action) -> Result<(), PowerError> {
        let by = self.deadline();
        by.hold(self.bmc.order(action, by)).await
    }

    /// Orders it and waits for `wanted`. That it can't be done doesn't matter where nothing is to do.
    async fn switch(
        &self,
        action: Action,
        wanted: PowerState,
        limit: Duration,
    ) -> Result<(), PowerError> {
        match self.order(action).await {
            Ok(()) => self.watch(action, wanted, limit).await,
            Err(error @ (PowerError::Refused(_) | PowerError::Command(_))) => {
                match self.state().await {
                    Ok(state) if state == wanted => Ok(()),
                    _ => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Waits until the state is `wanted` twice in a row: some tell the old and the new one by turns.
    async fn watch(
        &self,
        action: Action,
        wanted: PowerState,
        limit: Duration,
    ) -> Result<(), PowerError> {
        let (by, mut pauses) = (Deadline::within(limit), Pauses::new());
        let (mut seen, mut ever) = (0, false);
        let mut last = None;
        let told = loop {
            match by.hold(self.bmc.state(by)).await {
                // Without a state there is nothing to wait for.
                Err(PowerError::Unsupported(_)) => return Ok(()),
                Err(error) if error.is_misconfiguration() => return Err(error),
                // The last full answer says more than that time ran out on the next one.
                late @ Err(PowerError::TimedOut(_)) => break last.unwrap_or(late)?,
                told => {
                    seen = if told == Ok(wanted) { seen + 1 } else { 0 };
                    ever |= seen > 0;
                    if seen == 2 {
                        return Ok(());
                    }
                    if !by.pause(&mut pauses).await {
                        break told?;
                    }
                    last = Some(told);
                }
            }
        };
        if action == Action::SoftOff {
            return Err(PowerError::StillOn(limit));
        }
        let told = if ever { PowerState::Unknown } else { told };
        Err(PowerError::Lied { action: action.word().to_owned(), told, after: limit })
    }
}

#[async_trait(?Send)]
impl<B: Bmc> Power for Watched<B> {
    async fn state(&self) -> Result<PowerState, PowerError> {
        let by = self.deadline();
        by.hold(self.bmc.state(by)).await
    }

    async fn act(&self, action: Action) -> Result<(), PowerError> {
        let limit = self.limits.bmc;
        let told = match action {
            Action::On | Action::Off | Action::Nmi => PowerState::Unknown,
            Action::SoftOff | Action::Reset | Action::Cycle => match self.state().await {
                Err(PowerError::Unsupported(_)) => PowerState::Unknown,
                told => told?,
            },
        };
        match (action, told) {
            (Action::SoftOff, PowerState::Off) => Ok(()),
            (Action::Nmi, _) => self.order(action).await,
            (Action::Off, _) => self.switch(action, PowerState::Off, limit).await,
            (Action::SoftOff, _) => {
                self.switch(action, PowerState::Off, self.limits.shutdown).await
            }
            (Action::On, _) | (Action::Reset, PowerState::Off) => {
                self.switch(Action::On, PowerState::On, limit).await
            }
            (Action::Reset | Action::Cycle, _) => {
                // A state is only what is told: where it says off, a power cycle still begins by that.
                let done = match told {
                    PowerState::Off => Err(PowerError::Unsupported(String::new())),
                    PowerState::On | PowerState::Unknown => self.order(action).await,
                };
                match done {
                    Ok(()) => self.watch(action, PowerState::On, limit).await,
                    Err(PowerError::Unsupported(_)) => {
                        self.switch(Action::Off, PowerState::Off, limit).await?;
                        self.switch(Action::On, PowerState::On, limit).await
                    }
                    Err(error) => Err(error),
                }
            }
        }
    }

    async fn boot_from_network_once(&self, firmware: Firmware) -> Result<(), PowerError> {
        let by = self.deadline();
        by.hold(self.bmc.boot_from_network_once(firmware, by)).await
    }

    async fn boots_from_network(&self) -> Result<Option<bool>, PowerError> {
        let by = self.deadline();
        by.hold(self.bmc.boots_from_network(by)).await
    }

    async fn boot_from_disk(&self) -> Result<(), PowerError> {
        let by = self.deadline();
        by.hold(self.bmc.boot_from_disk(by)).await
    }
}
