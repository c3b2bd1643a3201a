//! The command line as types. Parsing it does nothing.

mod bisect;
pub(crate) mod changes;
pub(crate) mod cves;
pub(crate) mod gate;
pub(crate) mod lab;
pub(crate) mod on_lab;
pub(crate) mod regression;
pub(crate) mod releases;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use kgate_model::plan::Tier;
use kgate_release::tier::Facts;

use self::on_lab::OnLabArgs;

pub(crate) use self::bisect::BisectArgs;

/// Boots the kernel in production and the one that should replace it, runs your workload's scenarios
/// on both, and says whether the new one may go out.
#[derive(Debug, Parser)]
#[command(name = "kgate", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) global: Global,
}

const EXIT_CODES: &str = "Exit codes:
  0    promote: the candidate may replace the baseline (or: the command succeeded)
  1    reject: it must not
  2    the command line or a file of yours is wrong
  3    inconclusive: it could not be decided
  4    infrastructure: kgate, QEMU or this machine failed, which says nothing of a kernel
  130  interrupted";

const COMMON: &str = "Common options";

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// When to use colours: `auto` is on a terminal, unless NO_COLOR is set.
    #[arg(long, global = true, default_value = "auto", value_name = "WHEN", help_heading = COMMON)]
    pub(crate) color: ColorWhen,
    /// Directory for kernels, packages and images that were fetched or built; ~/.cache/kgate by default.
    #[arg(
        long,
        global = true,
        env = "KGATE_CACHE",
        value_name = "DIR",
        value_hint = ValueHint::DirPath,
        help_heading = COMMON
    )]
    pub(crate) cache: Option<PathBuf>,
    /// The emulator.
    #[arg(
        long,
        global = true,
        env = "KGATE_QEMU",
        default_value = "qemu-system-x86_64",
        value_name = "PROGRAM",
        help_heading = COMMON
    )]
    pub(crate) qemu: PathBuf,
    /// Memory-backed directory for templates; /dev/shm/kgate-UID by default.
    #[arg(
        long,
        global = true,
        env = "KGATE_TEMPLATE_DIR",
        value_name = "DIR",
        value_hint = ValueHint::DirPath,
        help_heading = COMMON
    )]
    pub(crate) template_dir: Option<PathBuf>,
    /// Memory or disk for the templates that are kept for later runs, in MiB; 0 keeps none. A quarter
    /// of what /dev/shm offers by default, at most 4096.
    #[arg(
        long,
        global = true,
        env = "KGATE_TEMPLATE_LIMIT",
        value_name = "MIB",
        value_parser = clap::value_parser!(u64).range(..=1 << 40),
        help_heading = COMMON
    )]
    pub(crate) template_limit: Option<u64>,
    /// Directory for the locks and journals of lab hosts; ~/.local/state/kgate/lab by default. All who
    /// use a lab from this machine name the same.
    #[arg(
        long,
        global = true,
        env = "KGATE_LAB_STATE",
        value_name = "DIR",
        value_hint = ValueHint::DirPath,
        help_heading = COMMON
    )]
    pub(crate) lab_state: Option<PathBuf>,
    /// The day that ages, deadlines and waivers are reckoned to; today by default.
    #[arg(long, global = true, value_name = "DATE", help_heading = COMMON)]
    pub(crate) today: Option<jiff::civil::Date>,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorWhen {
    Auto,
    Always,
    Never,
}

/// What kgate can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Compare two kernels under a workload, and decide.
    Run(Box<RunArgs>),
    /// Gate each new release once: fetch it, run it against production, report.
    Gate(Box<gate::GateArgs>),
    /// Boot one kernel: run a command on it, a scenario, or a shell on your terminal.
    Boot(BootArgs),
    /// Decide again from a run directory, perhaps by another policy or with other waivers.
    Compare(CompareArgs),
    /// Write reports of a run.
    Report(ReportArgs),
    /// Show where the instructions of an exact run went, function by function.
    Explain(ExplainArgs),
    /// Show what a run would do, without doing it.
    Plan(PlanArgs),
    /// Put the partitions of a run together, and decide.
    Merge(MergeArgs),
    /// Find the release or the commit that brought a failure.
    Bisect(Box<BisectArgs>),
    /// Find the failures in console logs and `dmesg` output, or what is new in them.
    Klog(KlogArgs),
    /// Look at scenarios and check them.
    #[command(subcommand)]
    Scenario(ScenarioCommand),
    /// Look at kernels.
    #[command(subcommand)]
    Kernel(KernelCommand),
    /// Show which kernel releases there are, how far production is behind, and what to do next.
    Releases(releases::ReleasesArgs),
    /// Use the lab hosts of an inventory: list them, prove them ready, switch them, boot kernels on them.
    #[command(subcommand)]
    Lab(lab::LabCommand),
    /// Show what is kept for later runs, and how much room it takes; remove it.
    Cache(CacheArgs),
    /// Check what this machine has and lacks.
    Doctor,
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write manual pages.
    Man {
        /// Where to.
        #[arg(value_hint = ValueHint::DirPath)]
        dir: PathBuf,
    },
}

pub(crate) const REFERENCE: &str = "a .deb or .rpm file, apt:PACKAGE[=VERSION], a directory with \
boot/vmlinuz-* and lib/modules/*, a kernel build tree, a bzImage[,modules=DIR], or `running`";

/// Where scenarios, profiles and images come from.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct LibraryArgs {
    /// Directory with `scenarios`, `workloads/profiles` and `images`; the current one if it has
    /// `scenarios`, otherwise those built into kgate.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) library: Option<PathBuf>,
}

/// What a plan is made from. A resumed run has it all in its directory.
#[derive(Debug, Default, Args)]
pub(crate) struct Subjects {
    #[arg(long, short, value_name = "KERNEL", help = format!("The kernel in production: {REFERENCE}"))]
    pub(crate) baseline: Option<String>,
    /// The kernel that should replace it, in the same forms.
    #[arg(long, short, value_name = "KERNEL")]
    pub(crate) candidate: Option<String>,
    /// Workload: the name of a profile, or a file; `smoke` by default.
    #[arg(long, short)]
    pub(crate) workload: Option<String>,
    #[command(flatten)]
    pub(crate) library: LibraryArgs,
    /// Only these scenarios of the workload (globs over their ids).
    #[arg(long = "scenario", value_name = "GLOB")]
    pub(crate) scenarios: Vec<String>,
    /// Boots of each kernel, instead of the workload's number.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) boots: Option<u32>,
    /// Seed of exact scenarios, instead of the policy's: with another one other chances are taken.
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    #[command(flatten)]
    pub(crate) tier: TierArgs,
    #[command(flatten)]
    pub(crate) lab: OnLabArgs,
    #[command(flatten)]
    pub(crate) rules: Rules,
}

/// How much of a workload is tried.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct TierArgs {
    /// How much of the workload to try: `auto` is what `kgate gate` does, by what the candidate is to
    /// the baseline and by the policy. All of it, as it is written, by default.
    #[arg(long, value_name = "TIER")]
    pub(crate) tier: Option<TierArg>,
    /// What feeds know of the two kernels.
    #[arg(skip)]
    pub(crate) facts: Option<Facts>,
}

/// A tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TierArg {
    /// By the two releases and the policy.
    Auto,
    /// A short look: at most 3 boots, and nothing that is measured by the clock.
    Bugfix,
    /// Everything, in twice the boots.
    Major,
    /// As major; the verdict of `kgate gate` is advice.
    NextLongterm,
}

impl TierArg {
    /// The tier, unless it is to be found out.
    pub(crate) const fn given(self) -> Option<Tier> {
        match self {
            Self::Auto => None,
            Self::Bugfix => Some(Tier::Bugfix),
            Self::Major => Some(Tier::Major),
            Self::NextLongterm => Some(Tier::NextLongterm),
        }
    }
}

/// What replaces the workload's own rules of decision.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Rules {
    /// Policy file, instead of the workload's policy.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) policy: Option<PathBuf>,
    /// Waivers file.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) waivers: Option<PathBuf>,
}

/// What the guests may use.
#[derive(Clone, Debug, Args)]
pub(crate) struct GuestArgs {
    /// Accelerator: KVM where it is proven to work, otherwise TCG.
    #[arg(long, default_value = "auto")]
    pub(crate) accel: AccelArg,
    /// CPUs of this machine that guests may use; all by default.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) cpus: Option<u32>,
    /// Memory of this machine that guests may use, in MiB; what is available by default.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(128..))]
    pub(crate) memory: Option<u64>,
}

/// Which accelerator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AccelArg {
    /// Prove KVM by booting something; TCG otherwise.
    Auto,
    /// KVM, or an infrastructure error.
    Kvm,
    /// QEMU's own translation.
    Tcg,
}

/// Which reports to write.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Outputs {
    /// JUnit XML, for CI dashboards.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) junit: Option<PathBuf>,
    /// All results, by the schema of schemas/results.schema.json.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) json: Option<PathBuf>,
    /// Markdown, for a job summary.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) markdown: Option<PathBuf>,
    /// One HTML page with the evidence; in the run directory, with links into it.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) html: Option<PathBuf>,
    /// The reasons as annotations: workflow commands of GitHub Actions, within its limits.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) annotations: Option<PathBuf>,
}

impl Outputs {
    /// The same, each file with this name before its extension: `report-6.1.172.xml`.
    pub(crate) fn of(&self, name: &str) -> Self {
        let named = |path: &Option<PathBuf>| {
            path.as_ref().map(|path| {
                let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                let mut file = format!("{stem}-{name}");
                if let Some(extension) = path.extension() {
                    file = format!("{file}.{}", extension.to_string_lossy());
                }
                path.with_file_name(file)
            })
        };
        let Self { junit, json, markdown, html, annotations } = self;
        Self {
            junit: named(junit),
            json: named(json),
            markdown: named(markdown),
            html: named(html),
            annotations: named(annotations),
        }
    }
}

/// `kgate run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) subjects: Subjects,
    #[command(flatten)]
    pub(crate) guest: GuestArgs,
    #[command(flatten)]
    pub(crate) outputs: Outputs,
    /// Run directory; `runs/TIME` by default.
    #[arg(long, value_name = "DIR", conflicts_with = "resume", value_hint = ValueHint::DirPath)]
    pub(crate) dir: Option<PathBuf>,
    /// Take up the run in this directory where it was left.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) resume: Option<PathBuf>,
    /// Run one part of the plan, such as 2/5; `kgate merge` puts the parts together.
    #[arg(long, value_name = "I/N", value_parser = partition, conflicts_with = "resume")]
    pub(crate) partition: Option<(u32, u32)>,
    /// Show where instructions went also when nothing in exact mode became so much worse that it rejects.
    #[arg(long)]
    pub(crate) explain: bool,
}

/// `kgate explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The run directory.
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) dir: PathBuf,
    /// Only these (globs over METRIC, SCENARIO or SCENARIO/METRIC), whether they differ or not; all that
    /// differ by default.
    #[arg(value_name = "METRIC")]
    pub(crate) metrics: Vec<String>,
    #[command(flatten)]
    pub(crate) library: LibraryArgs,
}

/// `kgate plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) subjects: Subjects,
    /// Cut the plan in so many partitions.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) partitions: u32,
    /// Print the plan as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `kgate boot`.
#[derive(Debug, Args)]
pub(crate) struct BootArgs {
    #[arg(value_name = "KERNEL", help = format!("The kernel: {REFERENCE}"))]
    pub(crate) kernel: String,
    /// Run this scenario instead of a command.
    #[arg(long, value_name = "ID", conflicts_with_all = ["argv", "image", "modules", "network"])]
    pub(crate) scenario: Option<String>,
    #[command(flatten)]
    pub(crate) library: LibraryArgs,
    /// What the command finds on the machine: `base` (busybox) or the name of an image.
    #[arg(long, default_value = "base")]
    pub(crate) image: String,
    /// Kernel modules to load first, with what they depend on.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) modules: Vec<String>,
    /// Give the guest a network card (user-mode networking).
    #[arg(long)]
    pub(crate) network: bool,
    /// Virtual CPUs.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=255))]
    pub(crate) cpus: u32,
    /// Memory in MiB.
    #[arg(long, default_value_t = 512, value_name = "MIB", value_parser = clap::value_parser!(u64).range(64..=1 << 24))]
    pub(crate) memory: u64,
    /// CPU model, as QEMU names it.
    #[arg(long, value_name = "MODEL")]
    pub(crate) cpu_model: Option<String>,
    /// Added to the kernel's command line; may be given several times.
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    pub(crate) append: Vec<String>,
    /// Accelerator.
    #[arg(long, default_value = "auto")]
    pub(crate) accel: AccelArg,
    /// Go on from where an earlier boot of the same was ready, which takes a tenth of a second; the
    /// first time, boot and keep that.
    #[arg(long, conflicts_with = "scenario")]
    pub(crate) warm: bool,
    /// Seconds until the machine must be up.
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) boot_timeout: u64,
    /// Seconds that the command may run.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400 * 30))]
    pub(crate) timeout: Option<u64>,
    /// Write the console to this file.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) console: Option<PathBuf>,
    /// The command and its arguments; a shell on your terminal without one.
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) argv: Vec<String>,
}

/// `kgate compare`.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The run directory.
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) rules: Rules,
    #[command(flatten)]
    pub(crate) outputs: Outputs,
}

/// `kgate report`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct ReportArgs {
    #[command(subcommand)]
    pub(crate) command: Option<regression::ReportCommand>,
    /// The run directory.
    #[arg(required = true, value_hint = ValueHint::DirPath)]
    pub(crate) dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) outputs: Outputs,
}

/// `kgate merge`.
#[derive(Debug, Args)]
pub(crate) struct MergeArgs {
    /// The new run directory.
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) into: PathBuf,
    /// The run directories of the partitions.
    #[arg(required = true, value_name = "PART", value_hint = ValueHint::DirPath)]
    pub(crate) parts: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) outputs: Outputs,
}

const KLOG_EXIT_CODES: &str = "Exit codes:
  0    nothing was found (with --against: no finding is new)
  1    something was
  2    the command line is wrong, or a file can't be read";

/// `kgate klog`.
#[derive(Debug, Args)]
#[command(after_help = KLOG_EXIT_CODES)]
pub(crate) struct KlogArgs {
    /// Logs, also packed by gzip, bzip2, xz or zstd; `-` or none is standard input.
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) files: Vec<PathBuf>,
    /// Tell what is new in FILE… against this log of another kernel, and what is gone: findings and
    /// lines, the worst first, with how sure it is. Each file is the log of one boot; may be given
    /// several times.
    #[arg(long, value_name = "BASELINE", value_hint = ValueHint::FilePath)]
    pub(crate) against: Vec<PathBuf>,
    /// Name the source lines of stacks, and the functions inlined there, by the kernel's debug
    /// information: a vmlinux, a module's .ko, a directory with them, or a debug package (a file
    /// or apt:PACKAGE). May be given several times.
    #[arg(
        long,
        value_name = "DEBUG-INFO",
        value_hint = ValueHint::AnyPath,
        conflicts_with = "against"
    )]
    pub(crate) debug_info: Vec<String>,
    /// How to print what is found.
    #[arg(long, default_value = "text", value_name = "FORMAT")]
    pub(crate) format: KlogFormat,
    /// How the logs were recorded.
    #[arg(long, default_value = "auto", value_name = "SOURCE")]
    pub(crate) source: SourceArg,
}

/// A form of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KlogFormat {
    /// For a person: what is found again is told in short.
    Text,
    /// Annotations of GitHub Actions.
    Github,
    /// One JSON object on each line.
    Jsonl,
}

/// How a log was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SourceArg {
    /// By the first lines.
    Auto,
    /// From a console, by `dmesg` or by a log collector.
    Console,
    /// Records of /dev/kmsg.
    Kmsg,
}

/// `kgate scenario`.
#[derive(Debug, Subcommand)]
pub(crate) enum ScenarioCommand {
    /// List scenarios with their summaries.
    List {
        #[command(flatten)]
        library: LibraryArgs,
        /// Only those that this workload selects.
        #[arg(long, short)]
        workload: Option<String>,
    },
    /// Check files of scenarios and workloads, or the whole library.
    Check {
        #[command(flatten)]
        library: LibraryArgs,
        /// Files to check.
        #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
        files: Vec<PathBuf>,
    },
}

/// `kgate kernel`.
#[derive(Debug, Subcommand)]
pub(crate) enum KernelCommand {
    /// Show what a kernel reference stands for.
    Show {
        #[arg(value_name = "KERNEL", help = format!("The kernel: {REFERENCE}"))]
        kernel: String,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the kernels that apt offers, oldest first.
    List {
        /// Flavour: `cloud-amd64`, `amd64` or `rt-amd64`.
        #[arg(long, default_value = "cloud-amd64")]
        flavour: String,
        /// Only print two: an older and the newest release of one branch.
        #[arg(long)]
        pair: bool,
    },
}

/// `kgate cache`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct CacheArgs {
    #[command(subcommand)]
    pub(crate) command: Option<CacheCommand>,
    /// Print it as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What can be done with the cache.
#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// Remove what killed runs left over, and more if asked to; never what a running kgate uses.
    Prune(PruneArgs),
}

/// `kgate cache prune`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("more"))]
pub(crate) struct PruneArgs {
    /// Remove everything: it is made or fetched again when it is needed.
    #[arg(long, group = "more")]
    pub(crate) all: bool,
    /// Remove what was last used so long ago, such as `7d`, `12h` or `2 weeks`.
    #[arg(long, group = "more", value_name = "DURATION", value_parser = duration)]
    pub(crate) older_than: Option<jiff::Span>,
    /// Remove all templates, and leave kernels, images and packages.
    #[arg(long, group = "more")]
    pub(crate) templates: bool,
}

fn duration(text: &str) -> Result<jiff::Span, String> {
    match text.parse::<jiff::Span>() {
        Ok(span) if span.is_positive() => Ok(span),
        _ => Err("a duration is a number with its unit, such as 7d, 12h or `2 weeks`".into()),
    }
}

fn partition(text: &str) -> Result<(u32, u32), String> {
    let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    match parts {
        Some((i, n)) if (1..=n).contains(&i) && n <= 10_000 => Ok((i, n)),
        _ => Err("a partition is I/N with I from 1 to N, such as 2/5".into()),
    }
}
