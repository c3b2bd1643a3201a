//! `kgate lab power`: ask for a host's power, or switch it.

use std::process::ExitCode;

use kgate_lab::power::{self, Action, Power, PowerState};
use kgate_lab::reservation::{Holder, Lock};
use kgate_model::inventory::LabHost;

use super::{Lab, secrets, user};
use crate::args::lab::PowerArgs;
use crate::context::Context;
use crate::error::{CommandError, PROMOTE};

/// Runs the command.
pub(super) async fn power(context: &Context, args: &PowerArgs) -> Result<ExitCode, CommandError> {
    let lab = Lab::load(&args.file)?;
    let host = lab.host(&args.host)?;
    let power = open(host).ok_or_else(|| {
        CommandError::usage(format!("{} has no `power` in the inventory", host.name))
            .hint("docs/lab.md says how a BMC, or a command of the site's, is named there")
    })?;
    let action =
        Action::ALL.iter().find(|(_, word)| *word == args.action).map(|(action, _)| *action);
    let Some(action) = action else {
        anstream::println!("{} is {}", host.name, word(power.state().await?));
        return Ok(ExitCode::from(PROMOTE));
    };
    // Whoever walks with the host has it to itself.
    let lock = match Lock::take(context.lab_state()?, &host.name, &Holder::this(&user(), "power")) {
        Err(error) if !args.force => return Err(error.into()),
        other => other,
    };
    power.act(action).await?;
    let state = power.state().await?;
    drop(lock);
    let done = match action {
        Action::Nmi => "was sent an NMI".to_owned(),
        Action::Reset => format!("was reset and is {}", word(state)),
        Action::Cycle => format!("was switched off and on and is {}", word(state)),
        Action::On | Action::Off | Action::SoftOff => format!("is {}", word(state)),
    };
    anstream::println!("{} {done}", host.name);
    Ok(ExitCode::from(PROMOTE))
}

/// The host's power, if it has any.
pub(super) fn open(host: &LabHost) -> Option<Box<dyn Power>> {
    Some(power::open(host.power.as_ref()?, &host.name, &host.limits, secrets()))
}

/// A word for a state.
pub(super) const fn word(state: PowerState) -> &'static str {
    match state {
        PowerState::On => "on",
        PowerState::Off => "off",
        PowerState::Unknown => "in a state that its BMC doesn't tell",
    }
}
