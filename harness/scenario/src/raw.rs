//! The files as they are written, before anything is checked that needs more than one value. The
//! JSON Schemas that editors use are made from these types and their comments.

mod inventory;

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use crate::glob::Glob;
use crate::pattern::Pattern;
use crate::policy::{FindingAction, Reaction, SizeLimit};
use crate::quantity::{Percent, Unit};
use crate::read::{Entries, Field, FromText, Many, Of};
use crate::scenario::{ConfigRequirement, ResultFormat};
use crate::texts::{
    AbsolutePath, BranchName, CommandName, CpuModel, Errors, Exit, HostPort, HostWord, ImageName,
    KernelArgument, Line, ModuleName, OpName, Size, Subsystem, SysctlName, Text, WaiverId,
};
use crate::tiers::Settles;
use crate::{Better, Kind, Start, Tier};

pub(crate) use inventory::{
    Boot, Console, Hook, Hooks, Host, Inventory, Power, PowerCommands, Pxe, Reservation, Secret,
    Short, Sol, Ssh,
};

/// The keys of a step that say what it does: each step has exactly one.
pub(crate) const VERBS: [&str; 5] = ["run", "background", "measure", "write", "sysctl"];

type List<T> = Field<Vec<Field<Of<T>>>>;

/// A scenario of kgate.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields, expecting = "a scenario")]
#[schemars(extend("required" = ["kind", "summary", "steps"]))]
pub(crate) struct Scenario {
    /// What it is for; also the first directory of its path.
    pub(crate) kind: Field<Of<Kind>>,
    /// One line: what it does.
    pub(crate) summary: Field<Of<Line>>,
    /// What production loses when this breaks.
    pub(crate) guards: Field<Of<Line>>,
    /// Guest image it runs in. Default: base, which has busybox only.
    pub(crate) image: Field<Of<ImageName>>,
    /// What kernel, image and machine must have. What neither kernel has skips the scenario; what only the candidate lacks is a failure.
    pub(crate) requires: Field<Requires>,
    /// Time limit of one trial. Default: 60s; performance: 300s.
    pub(crate) timeout: Field<Of<Duration>>,
    /// Boots of each role in which it runs. Default: as the policy says.
    #[schemars(range(min = 1, max = 1000))]
    pub(crate) boots: Field<u64>,
    /// Its machine: warm (a fresh copy of a booted one), shared with the scenarios before and after it, cold (booted for it alone), or exact (copies of a machine whose clock counts instructions; only performance). Default: warm; performance: shared.
    pub(crate) boot: Field<Of<Start>>,
    /// Whether the guest has a network card. Loopback is always there. Default: false.
    pub(crate) network: Field<bool>,
    /// Kernel messages that this scenario may provoke.
    pub(crate) kernel_log: Field<KernelLog>,
    /// Whether the kernel may become tainted. Default: false.
    pub(crate) allow_taint: Field<bool>,
    /// What it does, in order.
    #[schemars(length(min = 1))]
    pub(crate) steps: Field<Vec<Field<Step>>>,
}

/// Kernel messages that a scenario may provoke; any other new finding fails it.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "`kernel-log`")]
pub(crate) struct KernelLog {
    /// Regular expressions over one line of the kernel log or the title of a finding.
    pub(crate) allow: List<Pattern>,
}

/// What must be there before a trial makes sense.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "`requires`")]
pub(crate) struct Requires {
    /// Kernel modules; loaded with what they depend on before the trial.
    pub(crate) modules: List<ModuleName>,
    /// Kernel options without CONFIG_: TLS (y or m), HZ=250 (exactly).
    pub(crate) config: List<ConfigRequirement>,
    /// Sysctls that must exist.
    pub(crate) sysctls: List<SysctlName>,
    /// Absolute paths that must exist in the guest.
    pub(crate) files: List<AbsolutePath>,
    /// Programs that must be in the image.
    pub(crate) commands: List<CommandName>,
    /// Fewest CPUs.
    #[schemars(range(min = 1, max = 256))]
    pub(crate) cpus: Field<u64>,
    /// Least memory.
    pub(crate) memory: Field<Of<Size>>,
}

/// One step: exactly one of run, background, measure, write, sysctl.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields, expecting = "a step")]
#[schemars(extend("oneOf" = [
    { "required": ["run"] },
    { "required": ["background"] },
    { "required": ["measure"] },
    { "required": ["write"] },
    { "required": ["sysctl"] },
]))]
pub(crate) struct Step {
    /// Name of the step. Default: its verb and its position.
    pub(crate) name: Field<Of<Line>>,
    /// Shell text for sh -c, run to its end.
    pub(crate) run: Field<String>,
    /// Shell text for sh -c, left running until the trial ends.
    pub(crate) background: Field<String>,
    /// When a background step counts as started.
    pub(crate) ready: Field<Ready>,
    /// An operation of the measuring program.
    pub(crate) measure: Field<Of<OpName>>,
    /// Operations per sample. Default: the operation's own.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(crate) batch: Field<u64>,
    /// Samples. Default: the operation's own.
    #[schemars(range(min = 1, max = 10_000))]
    pub(crate) batches: Field<u64>,
    /// Batches before the first sample. Default: the operation's own.
    #[schemars(range(min = 0, max = 10_000))]
    pub(crate) warmup: Field<u64>,
    /// Writes a file.
    pub(crate) write: Field<Write>,
    /// Sets sysctls, name to value.
    pub(crate) sysctl: Field<Entries<Of<Text>>>,
    /// Time limit of the step.
    pub(crate) timeout: Field<Of<Duration>>,
    /// What must hold afterwards. Default: exit status 0.
    pub(crate) expect: Field<Expect>,
    /// Reads outcomes of subtests from standard output.
    pub(crate) results: Field<Of<ResultFormat>>,
    /// Reads numbers from the output, by name.
    pub(crate) metrics: Field<Entries<Metric>>,
    /// Resource limits of the step's processes.
    pub(crate) limits: Field<Limits>,
    /// Variables added to the environment.
    pub(crate) env: Field<Entries<Of<Text>>>,
}

/// When a background step counts as started: at most one of tcp, file and output.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "`ready`")]
pub(crate) struct Ready {
    /// A TCP connection to this address and port succeeds.
    pub(crate) tcp: Field<Of<HostPort>>,
    /// This path exists.
    pub(crate) file: Field<Of<AbsolutePath>>,
    /// The program printed something that matches.
    pub(crate) output: Field<Of<Pattern>>,
    /// Longest wait. Default: 10s.
    pub(crate) within: Field<Of<Duration>>,
}

/// A file to write.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "`write`")]
#[schemars(extend("required" = ["path", "text"]))]
pub(crate) struct Write {
    /// Absolute path.
    pub(crate) path: Field<Of<AbsolutePath>>,
    /// The whole content.
    pub(crate) text: Field<Of<Text>>,
}

/// What must hold when a step has ended.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields, expecting = "`expect`")]
pub(crate) struct Expect {
    /// Exit status, a list of them, or any. Default: 0.
    pub(crate) exit: Field<Many<Of<Exit>>>,
    /// Regular expressions that must match in standard output.
    pub(crate) stdout: Field<Many<Of<Pattern>>>,
    /// Regular expressions that must match in standard error.
    pub(crate) stderr: Field<Many<Of<Pattern>>>,
    /// Regular expressions that must not match in standard output.
    pub(crate) not_stdout: Field<Many<Of<Pattern>>>,
    /// Path to exists, absent, or a regular expression over the content.
    pub(crate) files: Field<Entries<Of<Text>>>,
    /// Sysctl to its value.
    pub(crate) sysctls: Field<Entries<Of<Text>>>,
    /// Regular expressions for kernel messages that must appear.
    pub(crate) kernel_log: Field<Many<Of<Pattern>>>,
}

/// A number to read from a step's output.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a metric")]
#[schemars(extend("required" = ["pattern", "unit", "better"]))]
pub(crate) struct Metric {
    /// Regular expression with one group, which holds the number. Each match is a sample.
    pub(crate) pattern: Field<Of<Pattern>>,
    /// Unit of the number.
    pub(crate) unit: Field<Of<Unit>>,
    /// Which direction is good.
    pub(crate) better: Field<Of<Better>>,
}

/// Resource limits of a step's processes.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields, expecting = "`limits`")]
pub(crate) struct Limits {
    /// Memory.
    pub(crate) memory: Field<Of<Size>>,
    /// CPU time.
    pub(crate) cpu_time: Field<Of<Duration>>,
    /// Processes.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(crate) processes: Field<u64>,
    /// Open files of one process.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(crate) files: Field<u64>,
}

/// A workload of kgate.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a workload")]
#[schemars(extend("required" = ["summary", "scenarios"]))]
pub(crate) struct Workload {
    /// One line: what production does.
    pub(crate) summary: Field<Of<Line>>,
    /// What the guests look like.
    pub(crate) machine: Field<Machine>,
    /// What both kernels must have.
    pub(crate) requires: Field<WorkloadRequires>,
    /// Globs over scenario ids, each by itself or with overrides.
    #[schemars(length(min = 1))]
    pub(crate) scenarios: Field<Vec<Field<Selection>>>,
    /// What runs on lab hosts, where a run is given an inventory of them. Default: every scenario but exact ones, on any host.
    pub(crate) lab: Field<Lab>,
    /// How the run decides.
    pub(crate) policy: Field<Policy>,
}

/// What runs on lab hosts.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "`lab` of a workload")]
pub(crate) struct Lab {
    /// On which: names or tags of the inventory. Default: any.
    pub(crate) hosts: List<HostWord>,
    /// Globs over the ids of this workload's scenarios. Default: all but exact ones, which only guests can run.
    pub(crate) scenarios: List<Glob>,
}

/// What the guests look like.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields, expecting = "`machine`")]
pub(crate) struct Machine {
    /// CPUs. Default: 1.
    #[schemars(range(min = 1, max = 256))]
    pub(crate) cpus: Field<u64>,
    /// Memory. Default: 512MiB.
    pub(crate) memory: Field<Of<Size>>,
    /// CPU model, by QEMU's name.
    pub(crate) cpu_model: Field<Of<CpuModel>>,
    /// Arguments added to the kernel's command line.
    pub(crate) kernel_args: List<KernelArgument>,
    /// What only the baseline gets.
    pub(crate) baseline: Field<RoleMachine>,
    /// What only the candidate gets.
    pub(crate) candidate: Field<RoleMachine>,
}

/// What only one role gets.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields, expecting = "a role's machine")]
pub(crate) struct RoleMachine {
    /// Arguments added to the kernel's command line.
    pub(crate) kernel_args: List<KernelArgument>,
}

/// What both kernels must have for a workload.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "`requires` of a workload")]
pub(crate) struct WorkloadRequires {
    /// Kernel modules; loaded at the start of each boot.
    pub(crate) modules: List<ModuleName>,
    /// Kernel options without CONFIG_.
    pub(crate) config: List<ConfigRequirement>,
    /// Sysctls that must exist.
    pub(crate) sysctls: List<SysctlName>,
}

/// What a workload changes about the scenarios of one glob.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "an override")]
pub(crate) struct Overrides {
    /// Change for the worse from which its metrics are reported.
    pub(crate) warn: Field<Of<Percent>>,
    /// Change for the worse from which its metrics reject.
    pub(crate) fail: Field<Of<Percent>>,
    /// Boots of each role in which it runs.
    #[schemars(range(min = 1, max = 1000))]
    pub(crate) boots: Field<u64>,
    /// Time limit of one trial.
    pub(crate) timeout: Field<Of<Duration>>,
    /// Leaves it out, for this reason.
    pub(crate) skip: Field<Of<Line>>,
}

/// One line of a workload's list: a glob, or one glob with overrides.
pub(crate) enum Selection {
    Plain(Glob),
    With(Entries<Overrides>),
}

/// How a run decides.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields, expecting = "a policy")]
pub(crate) struct Policy {
    /// Boots of each role. Default: 3.
    #[schemars(range(min = 1, max = 1000))]
    pub(crate) boots: Field<u64>,
    /// What a kernel WARNING means that only the candidate has. Default: reject.
    pub(crate) new_warning: Field<Of<Reaction>>,
    /// What a trial means that fails in some boots of the candidate only. Default: report.
    pub(crate) flaky: Field<Of<Reaction>>,
    /// Limits of all metrics. Default: warn 1%, fail 5%.
    pub(crate) performance: Field<PerformanceLimits>,
    /// Limits of the tails of latencies, p99 and p99.9. Default: warn 10%, fail 50%.
    pub(crate) tails: Field<PerformanceLimits>,
    /// How exact mode decides, which counts instructions.
    pub(crate) exact: Field<Exact>,
    /// Limits of the growth of memory in use. Default: warn 2%, fail 10%.
    pub(crate) memory: Field<MemoryLimits>,
    /// Limits of single metrics, by a glob over METRIC or SCENARIO/METRIC.
    pub(crate) metrics: Field<Entries<PerformanceLimits>>,
    /// What a finding in the kernel log does to the rest of its boot. Default: end-boot.
    pub(crate) on_finding: Field<Of<FindingAction>>,
    /// Deadlines.
    pub(crate) timeouts: Field<Timeouts>,
    /// How much is tried of a new release, by what it is to production's.
    pub(crate) tiers: Field<Tiers>,
}

/// How much is tried of a new release, by what it is to production's.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields, expecting = "`tiers`")]
pub(crate) struct Tiers {
    /// A bug-fix release of production's branch. Default: at most 3 boots, without what is measured by the clock.
    pub(crate) bugfix: Field<TierRule>,
    /// Another branch. Default: everything, in twice the boots.
    pub(crate) major: Field<TierRule>,
    /// The longterm branch after production's. Default: as major.
    pub(crate) next_longterm: Field<TierRule>,
    /// Releases that are tried by another tier than their own; the first that is about one holds.
    pub(crate) shift: Field<Vec<Field<Shift>>>,
    /// Days from one evaluation of the next longterm branch to the following. Default: 28.
    #[schemars(range(min = 1, max = 365))]
    pub(crate) evaluate_every: Field<u64>,
    /// Whether a release whose verdict was inconclusive counts as gated, or is gated again. Default: gated.
    pub(crate) inconclusive: Field<Of<Settles>>,
    /// How often a release is tried that gets no verdict. Default: 3.
    #[schemars(range(min = 1, max = 100))]
    pub(crate) tries: Field<u64>,
}

/// What a tier tries.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a tier")]
pub(crate) struct TierRule {
    /// Boots of each role, instead of the workload's.
    #[schemars(range(min = 1, max = 1000))]
    pub(crate) boots: Field<u64>,
    /// Which of the workload's scenarios: globs over their ids.
    pub(crate) scenarios: List<Glob>,
}

/// Which releases are tried by another tier.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a shift of tiers")]
#[schemars(extend("required" = ["to"], "anyOf" = [
    { "required": ["branches"] },
    { "required": ["subsystems"] },
]))]
pub(crate) struct Shift {
    /// The tier.
    pub(crate) to: Field<Of<Tier>>,
    /// Releases of these branches, such as 6.12.
    pub(crate) branches: List<BranchName>,
    /// Releases that change one of these subsystems, as `kgate releases delta` names them.
    pub(crate) subsystems: List<Subsystem>,
}

/// Changes for the worse from which a metric is reported, and from which it rejects.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "limits of metrics")]
pub(crate) struct PerformanceLimits {
    /// Reported from here.
    pub(crate) warn: Field<Of<Percent>>,
    /// Rejects from here.
    pub(crate) fail: Field<Of<Percent>>,
}

/// How exact mode decides, which counts instructions.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "`exact`")]
pub(crate) struct Exact {
    /// Boots of each role of which clones are made. Default: 2.
    #[schemars(range(min = 2, max = 100))]
    pub(crate) templates: Field<u64>,
    /// Clones of each template. Default: 5.
    #[schemars(range(min = 2, max = 100))]
    pub(crate) clones: Field<u64>,
    /// What chance decides follows from it. Default: 1.
    pub(crate) seed: Field<u64>,
    /// Standard errors from which a change counts as proven. Default: 4.
    pub(crate) t: Field<Of<Errors>>,
    /// Limits of the path, the cheapest batch. Default: warn 0.2%, fail 5%.
    pub(crate) path: Field<PerformanceLimits>,
    /// Limits of the mean over batches. Default: warn 0.5%, fail 10%.
    pub(crate) mean: Field<PerformanceLimits>,
    /// Limits of single metrics, by a glob over METRIC or SCENARIO/METRIC.
    pub(crate) metrics: Field<Entries<ExactLimits>>,
}

/// Limits of a metric in exact mode.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "limits of exact mode")]
pub(crate) struct ExactLimits {
    /// Of the path, the cheapest batch.
    pub(crate) path: Field<PerformanceLimits>,
    /// Of the mean over batches.
    pub(crate) mean: Field<PerformanceLimits>,
}

/// Growth from which memory in use is reported, and from which it rejects.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "limits of memory")]
pub(crate) struct MemoryLimits {
    /// Reported from here: percent of the baseline, or a size.
    pub(crate) warn: Field<Of<SizeLimit>>,
    /// Rejects from here: percent of the baseline, or a size.
    pub(crate) fail: Field<Of<SizeLimit>>,
}

/// Deadlines above that of a trial.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "`timeouts`")]
pub(crate) struct Timeouts {
    /// From a machine's start to the agent's first word. Default: 60s.
    pub(crate) boot: Field<Of<Duration>>,
    /// The whole run. Default: 30m.
    pub(crate) run: Field<Of<Duration>>,
    /// Silence after which a machine counts as hung. Default: 20s.
    pub(crate) hang: Field<Of<Duration>>,
}

/// One known difference that somebody answers for until a date.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a waiver")]
#[schemars(extend("required" = ["id", "scope", "reason", "owner", "expires"]))]
pub(crate) struct Waiver {
    /// Unique in its file.
    pub(crate) id: Field<Of<WaiverId>>,
    /// What it is about; every key given must match.
    pub(crate) scope: Field<WaiverScope>,
    /// Why the difference is accepted for now.
    pub(crate) reason: Field<Of<Line>>,
    /// Who answers for it.
    pub(crate) owner: Field<Of<Line>>,
    /// The last day on which it waives anything.
    pub(crate) expires: Field<Of<jiff::civil::Date>>,
}

/// What a waiver is about: at least one of scenario, metric and finding.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a waiver's scope")]
#[schemars(extend("anyOf" = [
    { "required": ["scenario"] },
    { "required": ["metric"] },
    { "required": ["finding"] },
]))]
pub(crate) struct WaiverScope {
    /// Glob over scenario ids.
    pub(crate) scenario: Field<Of<Glob>>,
    /// Glob over full paths of subtests.
    pub(crate) subtest: Field<Of<Glob>>,
    /// Glob over names of metrics.
    pub(crate) metric: Field<Of<Glob>>,
    /// Regular expression over the title of a finding.
    pub(crate) finding: Field<Of<Pattern>>,
    /// Glob over the candidate's release.
    pub(crate) release: Field<Of<Glob>>,
}

impl<'de> Deserialize<'de> for Selection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SelectionVisitor;
        impl<'de> Visitor<'de> for SelectionVisitor {
            type Value = Selection;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a glob over scenarios, or one glob with overrides")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Selection, E> {
                Glob::from_text(text).map(Selection::Plain).map_err(E::custom)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Selection, A::Error> {
                Entries::deserialize(MapAccessDeserializer::new(map)).map(Selection::With)
            }
        }
        deserializer.deserialize_any(SelectionVisitor)
    }
}

impl JsonSchema for Selection {
    fn schema_name() -> Cow<'static, str> {
        "Selection".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let glob = generator.subschema_for::<Of<Glob>>();
        let overrides = generator.subschema_for::<Overrides>();
        json_schema!({
            "anyOf": [
                glob,
                {
                    "type": "object",
                    "additionalProperties": overrides,
                    "minProperties": 1,
                    "maxProperties": 1
                }
            ]
        })
    }
}
