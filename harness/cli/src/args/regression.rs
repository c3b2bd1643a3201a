//! The command line of `kgate report regression`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

/// What else can be made of a run.
#[derive(Debug, Subcommand)]
pub(crate) enum ReportCommand {
    /// Write the mail that tells the kernel's developers of a regression; nothing is sent.
    Regression(RegressionArgs),
}

/// `kgate report regression`.
#[derive(Debug, Args)]
pub(crate) struct RegressionArgs {
    /// The run directory.
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) dir: PathBuf,
    /// Which regression, where the run has several: a scenario, the title, function or signature of a
    /// finding, or a metric.
    #[arg(value_name = "SCENARIO|FINDING|METRIC")]
    pub(crate) failure: Option<String>,
    /// The commit that caused it, as a bisection found it; needs --git.
    #[arg(long, value_name = "COMMIT", requires = "git")]
    pub(crate) culprit: Option<String>,
    #[command(flatten)]
    pub(crate) mail: MailArgs,
}

/// What a mail is made with, and where it goes.
#[derive(Debug, Default, Args)]
pub(crate) struct MailArgs {
    /// Git repository of the kernel: for the culprit, and for MAINTAINERS where --maintainers names none.
    #[arg(long, value_name = "REPOSITORY", value_hint = ValueHint::DirPath)]
    pub(crate) git: Option<PathBuf>,
    /// The kernel's MAINTAINERS file, or the source tree that has it.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::AnyPath)]
    pub(crate) maintainers: Option<PathBuf>,
    /// Name the source lines of stacks by the kernel's debug information, as for `kgate klog`.
    #[arg(long, value_name = "DEBUG-INFO", value_hint = ValueHint::AnyPath)]
    pub(crate) debug_info: Vec<String>,
    /// Write mail.txt, config, dmesg-baseline.txt and dmesg-candidate.txt to this directory; otherwise the
    /// mail goes to standard output.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) output: Option<PathBuf>,
}
