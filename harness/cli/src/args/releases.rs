//! The command line of `kgate releases`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, ValueHint};

use crate::args::gate::Gating;

use super::changes::{DeltaArgs, WaitingArgs};
use super::cves::CvesArgs;

/// Which feeds tell what releases there are.
#[derive(Debug, Default, Args)]
pub(crate) struct FeedArgs {
    /// What tells which releases there are; may be given several times, the most trusted first:
    /// `kernel.org` (the default), `endoflife.date`, a URL, a file (releases.json, finger_banner,
    /// endoflife.date's JSON, a list of tags with or without dates), `apt:` or `apt:FLAVOUR`, a
    /// directory of kernels, or `git:REPOSITORY`.
    #[arg(long, value_name = "SOURCE")]
    pub(crate) feed: Vec<String>,
}

/// `kgate releases`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ReleasesArgs {
    #[command(subcommand)]
    pub(crate) command: Option<ReleasesCommand>,
    /// What is in production: a version, what `uname -r` prints there, the version of its package, or
    /// a kernel.
    #[arg(long, value_name = "KERNEL|VERSION")]
    pub(crate) production: Option<String>,
    #[command(flatten)]
    pub(crate) feeds: FeedArgs,
    /// How to print it.
    #[arg(long, default_value = "text", value_name = "FORMAT")]
    pub(crate) format: ReportFormat,
}

/// What else can be asked of releases.
#[derive(Debug, Subcommand)]
pub(crate) enum ReleasesCommand {
    /// Tell what changes between two kernels: commits, release by release and by subsystem.
    Delta(DeltaArgs),
    /// Tell what comes together while a kernel stays as it is: the cost of waiting.
    Waiting(WaitingArgs),
    /// Tell which CVEs two kernels differ in, by the records of the kernel's CNA. Information, never a
    /// gate: nothing of it is in an exit code.
    Cves(CvesArgs),
    /// Show which releases have come out that were not gated yet.
    New(Box<NewArgs>),
}

/// `kgate releases new`.
#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// The file in which `kgate gate` writes down what was gated; none yet is as good as an empty one.
    #[arg(long, value_name = "STATE", value_hint = ValueHint::FilePath)]
    pub(crate) since: PathBuf,
    /// What is in production: a version, what `uname -r` prints there, the version of its package, or
    /// a kernel. By default what was there when a release was last gated.
    #[arg(long, value_name = "KERNEL|VERSION")]
    pub(crate) production: Option<String>,
    #[command(flatten)]
    pub(crate) gating: Gating,
    /// How to print it.
    #[arg(long, default_value = "text", value_name = "FORMAT")]
    pub(crate) format: NewFormat,
}

/// A form of the list of new releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NewFormat {
    /// For a person.
    Text,
    /// One JSON value, with all that is known.
    Json,
    /// The matrix of a job of GitHub Actions, on one line; at most 256 releases.
    Matrix,
}

/// A form of output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportFormat {
    /// For a person.
    #[default]
    Text,
    /// One JSON value.
    Json,
}
