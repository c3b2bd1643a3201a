//! The command line of `kgate releases cves`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::LibraryArgs;
use super::releases::{FeedArgs, ReportFormat};

/// `kgate releases cves`.
#[derive(Debug, Args)]
pub(crate) struct CvesArgs {
    #[command(subcommand)]
    pub(crate) command: Option<CvesCommand>,
    /// The version in production, or a kernel reference. Without it, the state of the table is told.
    #[arg(value_name = "A", requires = "to")]
    pub(crate) from: Option<String>,
    /// What should replace it. Of a kernel reference, what only concerns other kernels' drivers and
    /// options is set apart.
    #[arg(value_name = "B")]
    pub(crate) to: Option<String>,
    /// Workload whose subsystems come first: the name of a profile, or a file.
    #[arg(long, short)]
    pub(crate) workload: Option<String>,
    #[command(flatten)]
    pub(crate) library: LibraryArgs,
    /// Source tree of B: its makefiles tell exactly which files B was built from.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) source: Option<PathBuf>,
    /// Name every CVE.
    #[arg(long)]
    pub(crate) list: bool,
    /// Days of releases, for the patch-lag clock, in the forms of `kgate releases --feed`, such as
    /// `git:REPOSITORY`.
    #[command(flatten)]
    pub(crate) feeds: FeedArgs,
    /// How to print it.
    #[arg(long, default_value = "text", value_name = "FORMAT")]
    pub(crate) format: ReportFormat,
}

/// What can be done with the table of CVEs.
#[derive(Debug, Subcommand)]
pub(crate) enum CvesCommand {
    /// Read the CNA's published records into the table.
    Update(UpdateArgs),
}

/// Where the kernel's CNA publishes its records.
const RECORDS: &str = "https://git.kernel.org/pub/scm/linux/security/vulns.git";

/// `kgate releases cves update`.
#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// The CNA's repository, or a mirror: a URL, a clone (bare or not), or a directory laid out like it.
    #[arg(long, value_name = "URL|PATH", default_value = RECORDS)]
    pub(crate) from: String,
    /// Branch of the repository; the one it is at by default.
    #[arg(long, value_name = "NAME")]
    pub(crate) branch: Option<String>,
}
