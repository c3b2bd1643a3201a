//! The command line of `kgate releases delta` and `kgate releases waiting`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::LibraryArgs;
use super::releases::{FeedArgs, ReportFormat};

const TRUST: &str = "What tells the changes, the most trusted first";

/// What tells which commits are in which release.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = TRUST)]
pub(crate) struct ChangeArgs {
    /// A clone of the kernel's stable repository with its tags: exact, and the only one that can tell
    /// what another branch brings.
    #[arg(long, value_name = "REPOSITORY", value_hint = ValueHint::DirPath)]
    pub(crate) git: Option<PathBuf>,
    /// ChangeLog files of kernel.org, or a directory of them (exact); the changelog of a Debian package
    /// (a lower bound); a list of `version,commits`. Also packed; may be given several times. The
    /// changelog in a Debian package that is named as a kernel is read by itself.
    #[arg(long, value_name = "FILE|DIR", value_hint = ValueHint::AnyPath)]
    pub(crate) changelogs: Vec<PathBuf>,
}

/// `kgate releases delta`.
#[derive(Debug, Args)]
pub(crate) struct DeltaArgs {
    /// The kernel in production: a version, what `uname -r` prints there, the version of its package,
    /// or a kernel.
    #[arg(value_name = "A")]
    pub(crate) from: String,
    /// The kernel that should replace it, in the same forms.
    #[arg(value_name = "B")]
    pub(crate) to: String,
    /// Put the subsystems that this workload touches first: the name of a profile, or a file.
    #[arg(long, short)]
    pub(crate) workload: Option<String>,
    #[command(flatten)]
    pub(crate) library: LibraryArgs,
    #[command(flatten)]
    pub(crate) changes: ChangeArgs,
    /// The kernel's MAINTAINERS file: with --git, also tell whose files are changed.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "git")]
    pub(crate) maintainers: Option<PathBuf>,
    /// How to print it.
    #[arg(long, default_value = "text", value_name = "FORMAT")]
    pub(crate) format: ReportFormat,
}

/// `kgate releases waiting`.
#[derive(Debug, Args)]
pub(crate) struct WaitingArgs {
    /// The kernel that stays as it is: a version, what `uname -r` prints there, the version of its
    /// package, or a kernel.
    #[arg(value_name = "VERSION")]
    pub(crate) from: String,
    /// Until which release of its branch, or a kernel of it; the latest that is known by default.
    #[arg(long, value_name = "VERSION")]
    pub(crate) to: Option<String>,
    #[command(flatten)]
    pub(crate) changes: ChangeArgs,
    /// Feeds that tell when releases came out, as for `kgate releases`; the repository of --git tells
    /// it as well. Nothing is fetched unless it is asked for here.
    #[command(flatten)]
    pub(crate) feeds: FeedArgs,
    /// Draw the curve into this file.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) svg: Option<PathBuf>,
    /// How to print it.
    #[arg(long, default_value = "text", value_name = "FORMAT")]
    pub(crate) format: ReportFormat,
}
