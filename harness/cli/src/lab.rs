//! `kgate lab`: the lab hosts of an inventory.

mod check;
mod console;
mod list;
mod power;

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;

use kgate_lab::console::ConsoleError;
use kgate_lab::power::PowerError;
use kgate_lab::secret::{LocalSecrets, Secrets};
use kgate_lab::ssh::SshError;
use kgate_model::inventory::{Inventory, LabHost};
use kgate_scenario::Places;

use crate::args::lab::{LabCommand, LabFile};
use crate::context::home;
use crate::error::{CommandError, at};
use crate::library::read;
use crate::text::line;

/// The inventory that is there when none is named.
const DEFAULT: &str = "lab.yaml";

/// Runs the command.
pub(crate) fn lab(command: LabCommand) -> Result<ExitCode, CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(async {
        match command {
            LabCommand::List(args) => list::list(&args),
            LabCommand::Check(args) => check::check(&args).await,
            LabCommand::Console(args) => console::console(&args).await,
            LabCommand::Power(args) => power::power(&args).await,
        }
    });
    // A thread may still wait for our standard input.
    runtime.shutdown_background();
    code
}

/// An inventory, and where kgate writes down what it does to its hosts.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) inventory: Inventory,
    /// The file, as it was named.
    pub(crate) file: PathBuf,
}

impl Lab {
    /// Reads the inventory.
    pub(crate) fn load(args: &LabFile) -> Result<Self, CommandError> {
        let file = args.lab.clone().unwrap_or_else(|| DEFAULT.into());
        let hint =
            "name the inventory with --lab FILE or KGATE_LAB; docs/lab.md says what is in it";
        let text = read(&file).map_err(|error| match args.lab {
            Some(_) => error,
            None => error.hint(hint),
        })?;
        let absolute = std::path::absolute(&file).map_err(at(&file))?;
        let directory = absolute.parent().unwrap_or(&absolute).to_owned();
        let places = Places { directory, home: home() };
        let inventory = kgate_scenario::inventory(&file, &text, &places)?;
        Ok(Self { inventory, file })
    }

    /// The hosts that these words name; all without words.
    pub(crate) fn select(&self, words: &[String]) -> Result<Vec<&LabHost>, CommandError> {
        self.inventory.select(words).map_err(|word| {
            let error = CommandError::usage(format!(
                "no host of {} has the name or the tag `{}`",
                line(&self.file.display().to_string()),
                line(&word)
            ));
            error.hint("`kgate lab list` shows the hosts and their tags")
        })
    }

    /// The host with this name.
    pub(crate) fn host(&self, name: &str) -> Result<&LabHost, CommandError> {
        self.inventory.host(name).ok_or_else(|| {
            let file = line(&self.file.display().to_string());
            let names: Vec<_> =
                self.inventory.hosts.iter().map(|host| host.name.as_str()).collect();
            CommandError::usage(format!("no host of {file} is called `{}`", line(name)))
                .hint(format!("there are {}", shortened(&names)))
        })
    }
}

/// The first of many names.
fn shortened(names: &[&str]) -> String {
    const SHOWN: usize = 12;
    let mut text = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(", …");
    }
    text
}

/// Secrets as the inventory refers to them.
pub(crate) fn secrets() -> Rc<dyn Secrets> {
    Rc::new(LocalSecrets::new(|name| env::var(name).ok()))
}

impl From<SshError> for CommandError {
    fn from(error: SshError) -> Self {
        let message = line(&error.to_string());
        if error.is_configuration() { Self::usage(message) } else { Self::infrastructure(message) }
    }
}

impl From<ConsoleError> for CommandError {
    fn from(error: ConsoleError) -> Self {
        let message = line(&error.to_string());
        match error {
            ConsoleError::Mistake { .. } => Self::usage(message),
            _ => Self::infrastructure(message),
        }
    }
}

impl From<PowerError> for CommandError {
    fn from(error: PowerError) -> Self {
        let message = line(&error.to_string());
        if error.is_misconfiguration() {
            Self::usage(message)
        } else {
            Self::infrastructure(message)
        }
    }
}
