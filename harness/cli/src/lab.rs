//! `kgate lab`: the lab hosts of an inventory.

mod boot;
mod check;
mod console;
mod list;
mod power;
mod recover;

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use kgate_kernel::Kernel;
use kgate_lab::console::ConsoleError;
use kgate_lab::journal::{Event, Means};
use kgate_lab::pool::LabConfig;
use kgate_lab::power::PowerError;
use kgate_lab::reservation::ReservationError;
use kgate_lab::secret::{LocalSecrets, Secrets};
use kgate_lab::ssh::SshError;
use kgate_lab::walk::{Errand, Told, WalkError};
use kgate_model::inventory::{Hook, Inventory, LabHost, Limits};
use kgate_model::outcome::Role;
use kgate_scenario::Places;

use crate::args::lab::{LabCommand, LabFile};
use crate::context::{Context, PROGRAMS, home};
use crate::error::{CommandError, at};
use crate::guests::BASE;
use crate::library::{Source, read};
use crate::run::announce;
use crate::text::line;

/// The inventory that is there when none is named.
const DEFAULT: &str = "lab.yaml";

/// Runs the command.
pub(crate) fn lab(context: &Context, command: LabCommand) -> Result<ExitCode, CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(async {
        match command {
            LabCommand::List(args) => list::list(context, &args),
            LabCommand::Check(args) => check::check(context, &args).await,
            LabCommand::Console(args) => console::console(&args).await,
            LabCommand::Boot(args) => boot::boot(context, &args).await,
            LabCommand::Recover(args) => recover::recover(context, &args).await,
            LabCommand::Power(args) => power::power(context, &args).await,
        }
    });
    // A thread may still wait for our standard input.
    runtime.shutdown_background();
    code
}

/// An inventory.
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

/// The user, for whoever finds a host reserved.
fn user() -> String {
    let name = ["USER", "LOGNAME"].into_iter().find_map(|name| env::var(name).ok());
    let name = name.filter(|name| !name.is_empty());
    name.unwrap_or_else(|| format!("user {}", rustix::process::getuid().as_raw()))
}

/// What walks with lab hosts have in common. `told` hears of everything that happens to a host, and what
/// is heard and found is written below `evidence`.
pub(crate) fn errand(
    context: &Context,
    run: &str,
    evidence: PathBuf,
    told: Told,
) -> Result<Rc<Errand>, CommandError> {
    let (state, run) = (context.lab_state()?.to_owned(), run.to_owned());
    Ok(Rc::new(Errand { state, evidence, run, user: user(), secrets: secrets(), told }))
}

/// Finds images, builds those that are not in the cache yet, and makes a pool of lab hosts.
pub(crate) fn pool<'a>(
    context: &Context,
    library: &Source,
    kernels: BTreeMap<Role, Kernel>,
    hosts: Vec<LabHost>,
    images: impl IntoIterator<Item = &'a str>,
    errand: Rc<Errand>,
) -> Result<kgate_lab::pool::Lab, CommandError> {
    let builder = context.images()?;
    let mut built = BTreeMap::new();
    for name in images.into_iter().filter(|name| *name != BASE) {
        let recipe = library.recipe(name)?;
        announce(format!("image {name}"));
        built.insert(name.to_owned(), builder.build(&recipe)?.path);
    }
    Ok(kgate_lab::pool::Lab::new(LabConfig {
        hosts,
        kernels,
        busybox: Arc::new(builder.base_userland()?),
        images: built,
        agent: PROGRAMS.agent,
        ops: PROGRAMS.ops,
        errand,
    }))
}

/// Prints what happens to hosts, above the bars of a run.
pub(crate) fn tell<'a>(context: &Context, hosts: impl IntoIterator<Item = &'a LabHost>) -> Told {
    let bars = context.bars.clone();
    let hosts: Vec<LabHost> = hosts.into_iter().cloned().collect();
    Box::new(move |name, event| {
        let host = hosts.iter().find(|host| host.name == name);
        if let Some(words) = host.and_then(|host| words(host, event)) {
            bars.suspend(|| anstream::eprintln!("kgate: {name}: {}", line(&words)));
        }
    })
}

/// What happens, and for how long it may, for a person; nothing where the next event says more.
fn words(host: &LabHost, event: &Event) -> Option<String> {
    let Limits { boot, shutdown, nmi, .. } = host.limits;
    let at_most = |limit: Duration| format!("at most {}", duration(limit));
    let hook = |hook: &Option<Hook>| match hook {
        Some(hook) => format!(" ({})", at_most(hook.timeout)),
        None => String::new(),
    };
    Some(match event {
        Event::Reserving { .. } => "reserving it".into(),
        Event::Stealing => "taking it from whoever has it".into(),
        Event::Draining => format!("draining it{}", hook(&host.hooks.drain)),
        Event::TakingOut => format!("taking it out of production{}", hook(&host.hooks.take_out)),
        Event::Production { release, .. } => format!("production is {release}"),
        Event::Staging { release, .. } => format!("putting {release} there"),
        Event::Arming { role, .. } => {
            format!("booting the {role} once ({})", at_most(shutdown + boot))
        }
        Event::On { role, .. } => format!("the {role} is up"),
        Event::Returning { by } => {
            let limit = match by {
                Means::Nmi => nmi,
                Means::Reboot => shutdown + boot,
                Means::Wait | Means::ForcedReboot | Means::Reset | Means::Cycle => boot,
            };
            format!("back to production by {} ({})", by.label(), at_most(limit))
        }
        Event::Returned { .. } => "back on production".into(),
        Event::HookFailed { hook, how } => format!("the hook `{hook}` failed: {how}"),
        Event::Undraining => {
            format!("putting it back into production{}", hook(&host.hooks.undrain))
        }
        Event::GaveUp { why } => format!("given up: {why}"),
        Event::Unstaging
        | Event::Unstaged
        | Event::Undrained
        | Event::Releasing
        | Event::Released => return None,
    })
}

/// As a person says it.
fn duration(limit: Duration) -> String {
    match limit.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds if seconds % 60 == 0 => format!("{} min", seconds / 60),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
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

impl From<ReservationError> for CommandError {
    fn from(error: ReservationError) -> Self {
        let message = line(&error.to_string());
        match error {
            ReservationError::Held { .. } => Self::held(message),
            ReservationError::Ssh { source, .. } if source.is_configuration() => {
                Self::usage(message)
            }
            _ => Self::infrastructure(message),
        }
    }
}

impl From<WalkError> for CommandError {
    fn from(error: WalkError) -> Self {
        let message = line(&error.to_string());
        if error.is_held() {
            Self::held(message)
        } else if error.is_configuration() {
            Self::usage(message)
        } else {
            Self::infrastructure(message)
        }
    }
}
