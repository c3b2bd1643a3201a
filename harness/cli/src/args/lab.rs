//! The command line of `kgate lab`.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand, ValueHint};
use kgate_lab::power::Action;

use super::{LibraryArgs, REFERENCE};

/// Which lab.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct LabFile {
    /// Inventory of the lab; `lab.yaml` by default.
    #[arg(long, env = "KGATE_LAB", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) lab: Option<PathBuf>,
}

/// What can be done with lab hosts.
#[derive(Debug, Subcommand)]
pub(crate) enum LabCommand {
    /// List the hosts, who has them, and which were left away from production.
    List(ListArgs),
    /// Prove hosts ready, step by step, without changing their kernel.
    Check(CheckArgs),
    /// Connect to a host's console.
    Console(ConsoleArgs),
    /// Ask for a host's power, or switch it.
    Power(PowerArgs),
    /// Boot a kernel on a host once, run a command or a scenario on it, and go back to production.
    Boot(LabBootArgs),
    /// Bring hosts back to production that a kgate left when it was killed.
    Recover(RecoverArgs),
}

const CODES: &str = "Exit codes:
  0    done; for `check`: every host is ready
  1    for `boot`: the kernel doesn't come up, or the scenario fails; a command's own code is `boot`'s
  2    the inventory or the command line is wrong, which includes a host key, a certificate or a
       password that isn't as the inventory says
  3    somebody else has the host
  4    infrastructure: a host, its BMC, its console or this machine failed
  130  interrupted";

/// `kgate lab list`.
#[derive(Debug, Args)]
#[command(after_help = CODES)]
pub(crate) struct ListArgs {
    /// Only these: names or tags.
    #[arg(value_name = "HOST|TAG")]
    pub(crate) hosts: Vec<String>,
    #[command(flatten)]
    pub(crate) file: LabFile,
    /// Print them as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `kgate lab check`.
#[derive(Debug, Args)]
#[command(after_help = CODES)]
pub(crate) struct CheckArgs {
    /// Which: names or tags.
    #[arg(value_name = "HOST|TAG", required_unless_present = "all")]
    pub(crate) hosts: Vec<String>,
    /// All of the inventory.
    #[arg(long, conflicts_with = "hosts")]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) file: LabFile,
    /// Print every step as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `kgate lab console`.
#[derive(Debug, Args)]
#[command(after_help = CODES)]
pub(crate) struct ConsoleArgs {
    /// The host.
    pub(crate) host: String,
    #[command(flatten)]
    pub(crate) file: LabFile,
    /// Only read; what comes is made safe for the terminal. Ctrl-C ends it.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Which of the host's consoles, from 1.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) number: usize,
    /// Keep what comes in this file as well, byte for byte.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) log: Option<PathBuf>,
}

/// `kgate lab power`.
#[derive(Debug, Args)]
#[command(after_help = CODES)]
pub(crate) struct PowerArgs {
    /// The host.
    pub(crate) host: String,
    /// What to do; `state` only asks.
    #[arg(value_parser = actions())]
    pub(crate) action: String,
    #[command(flatten)]
    pub(crate) file: LabFile,
    /// Also when somebody else has the host.
    #[arg(long)]
    pub(crate) force: bool,
}

/// `state`, and all that a BMC can be asked for.
fn actions() -> PossibleValuesParser {
    std::iter::once("state")
        .chain(Action::ALL.iter().map(|(_, word)| *word))
        .collect::<Vec<_>>()
        .into()
}

/// `kgate lab boot`.
#[derive(Debug, Args)]
#[command(after_help = CODES)]
pub(crate) struct LabBootArgs {
    /// The host.
    pub(crate) host: String,
    #[arg(value_name = "KERNEL", help = format!("The kernel: {REFERENCE}"))]
    pub(crate) kernel: String,
    #[command(flatten)]
    pub(crate) file: LabFile,
    /// Run this scenario instead of a command.
    #[arg(long, value_name = "ID", conflicts_with = "argv")]
    pub(crate) scenario: Option<String>,
    #[command(flatten)]
    pub(crate) library: LibraryArgs,
    /// Words added to the kernel's command line.
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    pub(crate) append: Vec<String>,
    /// Keep what the console said in this file.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) console: Option<PathBuf>,
    /// Time limit of the command, in seconds.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
    /// The command; without one the kernel is booted, and that is all.
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) argv: Vec<String>,
}

/// `kgate lab recover`.
#[derive(Debug, Args)]
#[command(after_help = CODES)]
pub(crate) struct RecoverArgs {
    /// Which: names or tags; all that the journals say were left by default.
    #[arg(value_name = "HOST|TAG")]
    pub(crate) hosts: Vec<String>,
    #[command(flatten)]
    pub(crate) file: LabFile,
    /// Also hosts that another controller has, or that don't answer and that nobody here is known to have
    /// left.
    #[arg(long, requires = "hosts")]
    pub(crate) steal: bool,
}
