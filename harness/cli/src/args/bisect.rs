//! The command line of `kgate bisect`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::{GuestArgs, LibraryArgs};

const EXIT_CODES: &str = "Exit codes:
  0    the first bad release or commit was found
  2    the command line is wrong, or an end is not what it was said to be
  3    a range was found: what is in it can't be built, or fails otherwise
  4    infrastructure: go on with --resume
  130  interrupted: go on with --resume";

/// `kgate bisect`.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct BisectArgs {
    /// Directory of a run that failed: its baseline is good, its candidate is bad.
    #[arg(value_name = "RUN_DIR", value_hint = ValueHint::DirPath)]
    pub(crate) run: Option<PathBuf>,
    /// Which of its failures: a scenario, a subtest, the title or signature of a finding, or a metric; the
    /// first that its verdict names by default.
    #[arg(value_name = "FAILURE")]
    pub(crate) failure: Option<String>,
    /// Between what: `apt` or `apt:FLAVOUR` for the releases that apt offers, a directory of kernels, or
    /// `git:REPO` for the commits of a repository.
    #[arg(long, value_name = "SOURCE", default_value = "apt")]
    pub(crate) over: String,
    /// Shell command that builds a commit that is checked out in the current directory.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) build: Option<String>,
    /// Minutes that a build may take.
    #[arg(long, value_name = "MINUTES", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) build_timeout: u64,
    /// A release or commit without the failure: a version, a kernel reference, or a revision.
    #[arg(long, value_name = "KERNEL|VERSION|COMMIT")]
    pub(crate) good: Option<String>,
    /// A later one with it.
    #[arg(long, value_name = "KERNEL|VERSION|COMMIT")]
    pub(crate) bad: Option<String>,
    /// The scenario that fails, where there is no run.
    #[arg(long, value_name = "ID", conflicts_with = "run")]
    pub(crate) scenario: Option<String>,
    /// Workload of that scenario: the name of a profile, or a file; `smoke` by default.
    #[arg(long, short, conflicts_with = "run")]
    pub(crate) workload: Option<String>,
    #[command(flatten)]
    pub(crate) library: LibraryArgs,
    /// Directory for the bisection; `bisects/TIME` by default.
    #[arg(long, value_name = "DIR", conflicts_with = "resume", value_hint = ValueHint::DirPath)]
    pub(crate) dir: Option<PathBuf>,
    /// Take up the bisection in this directory where it was left.
    #[arg(
        long,
        value_name = "DIR",
        value_hint = ValueHint::DirPath,
        conflicts_with_all = ["run", "build", "good", "bad", "scenario", "workload", "boots", "confidence"]
    )]
    pub(crate) resume: Option<PathBuf>,
    /// Points to build and boot at once, also those that the answers of others may make needless.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) jobs: u32,
    /// How sure the end must be, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 99.0, value_parser = confidence)]
    pub(crate) confidence: f64,
    /// Boots of the bad end, by which it is told how often the failure shows.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) boots: Option<u32>,
    #[command(flatten)]
    pub(crate) guest: GuestArgs,
}

fn confidence(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').parse::<f64>() {
        Ok(percent) if (50.0..=99.99).contains(&percent) => Ok(percent),
        _ => Err("a confidence is a percentage from 50 to 99.99".into()),
    }
}
