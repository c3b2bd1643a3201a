//! Power: what switches a lab host on and off, whatever its kernel does.

use std::time::Duration;

use async_trait::async_trait;

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
    /// It can't do this.
    #[error("{0}")]
    Unsupported(String),
    /// It said that it did, and the host's state says otherwise.
    #[error("the BMC says it did {action}, and still tells {told:?} after {} s", after.as_secs())]
    Lied {
        /// What it was asked for.
        action: String,
        /// What it tells.
        told: PowerState,
        /// How long that was watched.
        after: Duration,
    },
    /// It did not answer in time.
    #[error("the BMC did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// Its password, or another thing of the controller's, isn't there.
    #[error("{0}")]
    Controller(String),
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

    /// Does it, and for what changes the state waits until the state shows it.
    ///
    /// # Errors
    /// See [`PowerError`].
    async fn act(&self, action: Action) -> Result<(), PowerError>;

    /// Makes the next boot, and only that, one from the network.
    ///
    /// # Errors
    /// See [`PowerError`]; [`PowerError::Unsupported`] when the BMC has no such thing.
    async fn boot_from_network_once(&self) -> Result<(), PowerError>;

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
