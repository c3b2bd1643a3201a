//! The command line of `kgate gate`, and what `kgate releases new` has in common with it.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use kgate_release::Version;

use super::on_lab::OnLabArgs;
use super::releases::FeedArgs;
use super::{GuestArgs, LibraryArgs, Outputs, REFERENCE, TierArg};

/// Which releases are gated, and how.
#[derive(Debug, Args)]
pub(crate) struct Gating {
    /// Workload: the name of a profile, or a file; `smoke` by default.
    #[arg(long, short)]
    pub(crate) workload: Option<String>,
    #[command(flatten)]
    pub(crate) library: LibraryArgs,
    /// Policy file, instead of the workload's policy.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) policy: Option<PathBuf>,
    /// What the history is called that these releases belong to, where one state file has several of
    /// the same workload; the branch in production by default.
    #[arg(long, value_name = "NAME")]
    pub(crate) track: Option<String>,
    /// How much of the workload to try.
    #[arg(long, value_name = "TIER", default_value = "auto")]
    pub(crate) tier: TierArg,
    /// Of several new releases only the newest; the others count as superseded by it.
    #[arg(long)]
    pub(crate) latest: bool,
    #[command(flatten)]
    pub(crate) feeds: FeedArgs,
}

const EXIT_CODES: &str = "Exit codes, of several releases the worst:
  0    promote: each new release may go out, or there is none
  1    reject: one must not
  2    the command line or a file of yours is wrong
  3    inconclusive: it could not be decided
  4    infrastructure: kgate, QEMU, the network or this machine failed; the release stays open
  130  interrupted; the same command goes on
What an evaluation of the next longterm branch comes to is advice, and changes nothing here.";

/// `kgate gate`.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct GateArgs {
    #[arg(long, value_name = "KERNEL", help = format!("The kernel in production: {REFERENCE}"))]
    pub(crate) production: String,
    /// The file in which is written down what was gated; made when it is missing.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) state: PathBuf,
    /// Gate this kernel, whatever feeds offer.
    #[arg(long, value_name = "KERNEL", group = "one")]
    pub(crate) candidate: Option<String>,
    /// Gate only this release, also when it was tried too often. One that was gated before has its
    /// verdict told again.
    #[arg(long, value_name = "VERSION", group = "one")]
    pub(crate) only: Option<Version>,
    /// Gate a release again that has its verdict.
    #[arg(long, requires = "one")]
    pub(crate) again: bool,
    #[command(flatten)]
    pub(crate) gating: Gating,
    /// Waivers file.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) waivers: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) lab: OnLabArgs,
    #[command(flatten)]
    pub(crate) guest: GuestArgs,
    #[command(flatten)]
    pub(crate) outputs: Outputs,
    /// Where the run directories go, each named by its release; with neither --candidate nor --only,
    /// the names of reports have the release added, since there may be several.
    #[arg(long, value_name = "DIR", default_value = "runs", value_hint = ValueHint::DirPath)]
    pub(crate) dir: PathBuf,
}
