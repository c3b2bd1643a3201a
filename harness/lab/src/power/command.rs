//! Power by a site's own commands.

use async_trait::async_trait;
use kgate_machine::process;
use kgate_model::host::HostCommand;
use kgate_model::inventory::PowerCommands;

use super::{Action, Bmc, Deadline, Firmware, PowerError, PowerState};
use crate::text::line;

/// Shell commands of the inventory.
#[derive(Debug)]
pub(super) struct Commands {
    pub(super) commands: PowerCommands,
    pub(super) host: String,
}

impl Commands {
    /// What the command for `what` prints.
    async fn run(
        &self,
        what: &str,
        command: Option<&String>,
        by: Deadline,
    ) -> Result<String, PowerError> {
        let Some(command) = command else {
            let text = format!("the inventory has no power command for `{what}`");
            return Err(PowerError::Unsupported(text));
        };
        let mut shell = HostCommand::new("sh", by.left()).args(["-c", command]);
        shell.env.push(("KGATE_HOST".into(), self.host.clone().into()));
        let output = match process::output(&shell).await {
            Ok(output) => output,
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                return Err(PowerError::TimedOut(by.whole));
            }
            Err(error) => return Err(PowerError::Controller(format!("can't run sh: {error}"))),
        };
        if output.code == Some(0) {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let end = output.code.map_or("was killed".to_owned(), |code| format!("ended with {code}"));
        let said = line(&String::from_utf8_lossy(&output.stderr));
        let colon = if said.is_empty() { "" } else { ": " };
        Err(PowerError::Command(format!("the power command for `{what}` {end}{colon}{said}")))
    }
}

#[async_trait(?Send)]
impl Bmc for Commands {
    async fn state(&self, by: Deadline) -> Result<PowerState, PowerError> {
        let told = self.run("state", self.commands.state.as_ref(), by).await?;
        match told.trim() {
            word if word.eq_ignore_ascii_case("on") => Ok(PowerState::On),
            word if word.eq_ignore_ascii_case("off") => Ok(PowerState::Off),
            other => {
                let told = line(other);
                let text = format!("the power command for `state` prints `{told}`, not on or off");
                Err(PowerError::Command(text))
            }
        }
    }

    async fn order(&self, action: Action, by: Deadline) -> Result<(), PowerError> {
        let commands = &self.commands;
        let command = match action {
            Action::On => &commands.on,
            Action::Off => &commands.off,
            Action::SoftOff => &commands.soft_off,
            Action::Reset => &commands.reset,
            Action::Cycle => &commands.cycle,
            Action::Nmi => &commands.nmi,
        };
        self.run(action.word(), command.as_ref(), by).await.map(drop)
    }

    async fn boot_from_network_once(&self, _: Firmware, by: Deadline) -> Result<(), PowerError> {
        self.run("pxe-once", self.commands.pxe_once.as_ref(), by).await.map(drop)
    }

    async fn boots_from_network(&self, _: Deadline) -> Result<Option<bool>, PowerError> {
        Ok(None)
    }

    async fn boot_from_disk(&self, _: Deadline) -> Result<(), PowerError> {
        let text = "power commands can't take back a boot from the network";
        Err(PowerError::Unsupported(text.to_owned()))
    }
}
