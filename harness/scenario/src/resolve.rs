//! What the files say, checked as a whole and turned into the validated types.

mod inventory;
mod waivers;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use kgate_model::plan::Shift;

use crate::glob::Glob;
use crate::library::{Library, Selected};
use crate::ops;
use crate::pattern::Pattern;
use crate::policy::{
    ExactPolicy, ExactRule, MetricRule, PerformanceLimits, Policy, SizeLimit, SizeLimits, Timeouts,
    names,
};
use crate::quantity::Percent;
use crate::raw;
use crate::read::{Entries, Field, FromText, Many, Of};
use crate::scenario::{
    Action, ExitExpectation, Expect, FileExpectation, Limits, Measure, MetricSpec, Probe, Ready,
    Requires, Scenario, ScenarioId, Step,
};
use crate::sink::{Sink, word_hint};
use crate::texts::{
    AbsolutePath, Errors, Exit, HostPort, KernelArgument, MetricName, Size, SysctlName, Text,
    VariableName, is_slug,
};
use crate::tiers::{TierRule, Tiers};
use crate::workload::{LabUse, MachineSpec, Overrides, RoleSpec, Selection, Workload};
use crate::yaml::Span;
use crate::{Kind, Start};

pub(crate) use inventory::inventory;
pub(crate) use waivers::waivers;

/// Most items that a list or map of a file may have.
const ITEMS_BOUND: usize = 1000;

/// Keys that some kinds of step have and others don't.
const STEP_KEYS: [(&str, &[&str]); 7] = [
    ("ready", &["background"]),
    ("batch", &["measure"]),
    ("batches", &["measure"]),
    ("warmup", &["measure"]),
    ("results", &["run"]),
    ("metrics", &["run"]),
    ("expect", &["run", "measure", "write", "sysctl"]),
];

impl<T> Field<Of<T>> {
    fn plain(self) -> Option<T> {
        self.get().map(|Of(value)| value)
    }
}

/// The values of a list that are right; `key` names it in messages about it as a whole.
fn list<T>(field: Field<Vec<Field<Of<T>>>>, key: &str, sink: &Sink<'_>) -> Vec<(Span, T)> {
    let Some((span, items)) = field.spanned() else { return Vec::new() };
    if items.len() > ITEMS_BOUND {
        sink.report(span, format!("`{key}` has more than {ITEMS_BOUND} items"), None);
    }
    items.into_iter().filter_map(Field::spanned).map(|(span, Of(value))| (span, value)).collect()
}

/// As [`list`], each item once.
fn set<T>(
    field: Field<Vec<Field<Of<T>>>>,
    key: &str,
    name: impl Fn(&T) -> String,
    sink: &Sink<'_>,
) -> Vec<T> {
    let mut seen = BTreeSet::new();
    let mut values = Vec::new();
    for (span, value) in list(field, key, sink) {
        if !seen.insert(name(&value)) {
            sink.report(span, format!("`{}` is listed twice in `{key}`", name(&value)), None);
        }
        values.push(value);
    }
    values
}

fn many<T>(field: Field<Many<Of<T>>>, key: &str, sink: &Sink<'_>) -> Vec<T> {
    let Some((span, Many(items))) = field.spanned() else { return Vec::new() };
    if items.is_empty() {
        sink.report(span, format!("`{key}` is an empty list"), None);
    }
    items.into_iter().filter_map(Field::plain).collect()
}

/// The entries of a map whose key and value are right.
fn entries<T>(field: Field<Entries<T>>) -> Vec<(Span, String, Span, T)> {
    let Some(Entries(entries)) = field.get() else { return Vec::new() };
    entries
        .into_iter()
        .filter_map(|(key, value)| Some((key.spanned()?, value.spanned()?)))
        .map(|((key_span, key), (value_span, value))| (key_span, key, value_span, value))
        .collect()
}

/// `text` as a `T`; what is wrong with it is reported at `span`.
fn text_at<T: FromText>(span: Span, text: &str, sink: &Sink<'_>) -> Option<T> {
    match T::from_text(text) {
        Ok(value) => Some(value),
        Err(error) => {
            let (message, hint) = error.split_once('\n').unwrap_or((&error, ""));
            let hint = Some(hint).filter(|hint| !hint.is_empty()).map(str::to_owned);
            sink.report(span, message, hint);
            None
        }
    }
}

/// A number between `min` and `max`.
fn count(field: Field<u64>, key: &str, min: u32, max: u32, sink: &Sink<'_>) -> Option<u32> {
    let (span, value) = field.spanned()?;
    match u32::try_from(value) {
        Ok(value) if (min..=max).contains(&value) => Some(value),
        _ => {
            sink.report(span, format!("`{key}` must be between {min} and {max}"), None);
            None
        }
    }
}

fn size(field: Field<Of<Size>>) -> Option<u64> {
    field.plain().map(|Size(bytes)| bytes)
}

/// The id that a path gives, `None` when it gives none (then reported).
pub(crate) fn scenario_id(path: &Path, sink: &Sink<'_>) -> Option<(ScenarioId, Kind)> {
    let parts: Vec<&str> = path.iter().filter_map(|part| part.to_str()).collect();
    let start = parts.iter().rposition(|part| *part == "scenarios").map_or(0, |at| at + 1);
    let id = parts[start..].join("/");
    let parsed = id.strip_suffix(".yaml").and_then(|id| {
        let (first, rest) = id.split_once('/')?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == first)?;
        rest.split('/').all(is_slug).then(|| (ScenarioId(id.to_owned()), kind))
    });
    if parsed.is_none() {
        let hint = "scenarios/{subsystem,integration,performance}/NAME.yaml, NAME in lower case";
        sink.report(Span::START, format!("`{id}` is not a path of a scenario"), Some(hint.into()));
    }
    parsed
}

/// The name that a workload's path gives.
fn workload_name(path: &Path, sink: &Sink<'_>) -> Option<String> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = name.strip_suffix(".yaml").filter(|name| is_slug(name));
    if name.is_none() {
        sink.report(Span::START, "a workload's file is called NAME.yaml, NAME in lower case", None);
    }
    name.map(str::to_owned)
}

pub(crate) fn scenario(
    path: &Path,
    raw: Field<raw::Scenario>,
    sink: &Sink<'_>,
) -> Option<Scenario> {
    const OWNER: &str = "a scenario";
    let id = scenario_id(path, sink);
    let (root, raw) = raw.spanned()?;
    let kind_span = raw.kind.span();
    let kind = raw.kind.required(root, OWNER, "kind", sink).map(|Of(kind)| kind);
    if let (Some(kind), Some((_, directory))) = (kind, &id)
        && kind != *directory
    {
        let message = format!("kind `{}` in a file below `{}/`", kind.as_str(), directory.as_str());
        sink.report(kind_span, message, Some("the directory and the kind must agree".into()));
    }
    let summary = raw.summary.required(root, OWNER, "summary", sink);
    let timeout = raw.timeout.plain().unwrap_or(Duration::from_secs(match kind {
        Some(Kind::Performance) => 300,
        _ => 60,
    }));
    let boots = count(raw.boots, "boots", 1, 1000, sink);
    let boot_span = raw.boot.span();
    let boot = boot(raw.boot, kind, sink);
    let allowed_log = raw.kernel_log.get().map(|log| log.allow).unwrap_or_default();
    let steps_span = raw.steps.span();
    let steps = steps(raw.steps.required(root, OWNER, "steps", sink), steps_span, timeout, sink);
    let network = raw.network.get().unwrap_or(false);
    if boot == Start::Exact {
        repeatable(&steps, network, boot_span, sink);
    }
    if kind == Some(Kind::Performance)
        && sink.is_clean()
        && !steps.iter().any(|step| !step.metrics.is_empty() || step.action.verb() == "measure")
    {
        let hint = "give a step `metrics`, or add a `measure` step";
        sink.report(kind_span, "a performance scenario that measures nothing", Some(hint.into()));
    }
    let (id, kind) = id?;
    Some(Scenario {
        id,
        kind,
        summary: summary?.0.0,
        guards: raw.guards.plain().map(|line| line.0),
        image: raw.image.plain().map_or_else(|| "base".into(), |name| name.0),
        requires: raw.requires.get().map(|raw| requires(raw, sink)).unwrap_or_default(),
        timeout,
        boots,
        boot,
        network,
        allowed_log: list(allowed_log, "allow", sink)
            .into_iter()
            .map(|(_, pattern)| pattern)
            .collect(),
        allow_taint: raw.allow_taint.get().unwrap_or(false),
        steps,
    })
}

/// How trials get their machine.
fn boot(field: Field<Of<Start>>, kind: Option<Kind>, sink: &Sink<'_>) -> Start {
    let measures = kind == Some(Kind::Performance);
    let Some((span, Of(start))) = field.spanned() else {
        return if measures { Start::Shared } else { Start::Warm };
    };
    if start == Start::Exact && !measures {
        let hint = "only a performance scenario measures; `warm` is the default";
        sink.report(span, "`boot: exact` in a scenario that does not measure", Some(hint.into()));
    }
    if measures && start == Start::Warm {
        let hint = "`shared`, the default, or `cold`: the memory of a copy is slower at first";
        sink.report(span, "`boot: warm` in a performance scenario", Some(hint.into()));
    }
    start
}

/// Nothing that comes from outside, and nothing that looks at the machine from there, has a place in a
/// scenario that does the same in every bit whenever it runs.
fn repeatable(steps: &[Step], network: bool, span: Span, sink: &Sink<'_>) {
    let report = |what: &str| {
        let hint = "leave it out, or measure with `boot: shared`";
        sink.report(span, format!("`boot: exact` together with {what}"), Some(hint.into()));
    };
    if network {
        report("a network card");
    }
    for step in steps {
        let Step { name, action, expect, results, .. } = step;
        if matches!(action, Action::Background { .. }) {
            report(&format!("a background program (step `{name}`)"));
        }
        if matches!(action, Action::Sysctl { .. }) {
            report(&format!("a `sysctl` step, which is undone after a look at it (step `{name}`)"));
        }
        if results.is_some() {
            report(&format!("subtests (step `{name}`)"));
        }
        let beside = [
            ("files", expect.files.is_empty()),
            ("sysctls", expect.sysctls.is_empty()),
            ("kernel-log", expect.kernel_log.is_empty()),
        ];
        for (key, _) in beside.iter().filter(|(_, empty)| !empty) {
            report(&format!("`expect: {key}` (step `{name}`)"));
        }
    }
}

fn requires(raw: raw::Requires, sink: &Sink<'_>) -> Requires {
    Requires {
        modules: set(raw.modules, "modules", |name| name.0.clone(), sink)
            .into_iter()
            .map(|name| name.0)
            .collect(),
        config: set(raw.config, "config", |option| option.option.clone(), sink),
        sysctls: set(raw.sysctls, "sysctls", |name| name.0.clone(), sink)
            .into_iter()
            .map(|name| name.0)
            .collect(),
        files: set(raw.files, "files", |path| path.0.clone(), sink)
            .into_iter()
            .map(|path| path.0)
            .collect(),
        commands: set(raw.commands, "commands", |name| name.0.clone(), sink)
            .into_iter()
            .map(|name| name.0)
            .collect(),
        cpus: count(raw.cpus, "cpus", 1, 256, sink),
        memory: size(raw.memory),
    }
}

fn steps(
    raw: Option<Vec<Field<raw::Step>>>,
    span: Span,
    trial: Duration,
    sink: &Sink<'_>,
) -> Vec<Step> {
    let Some(raw) = raw else { return Vec::new() };
    if raw.is_empty() || raw.len() > ITEMS_BOUND {
        sink.report(span, format!("`steps` must have 1 to {ITEMS_BOUND} items"), None);
    }
    let mut steps = Vec::new();
    let mut names: BTreeMap<String, Span> = BTreeMap::new();
    let mut metrics: BTreeMap<String, Span> = BTreeMap::new();
    for (index, field) in raw.into_iter().enumerate() {
        let Some((span, raw)) = field.spanned() else { continue };
        let name_span = if raw.name.is_present() { raw.name.span() } else { span };
        let measure_span = raw.measure.span();
        let metric_spans: Vec<(Span, String)> = match raw.metrics.as_ref() {
            Some(Entries(entries)) => entries
                .iter()
                .filter_map(|(key, _)| Some((key.span(), key.as_ref()?.clone())))
                .collect(),
            None => Vec::new(),
        };
        let Some(step) = step(raw, span, index, trial, sink) else { continue };
        unique(&mut names, &step.name, name_span, "a second step called", sink);
        if let Action::Measure(measure) = &step.action {
            unique(&mut metrics, &measure.op, measure_span, "a second metric called", sink);
        }
        for (span, name) in metric_spans {
            unique(&mut metrics, &name, span, "a second metric called", sink);
        }
        steps.push(step);
    }
    steps
}

fn unique(
    seen: &mut BTreeMap<String, Span>,
    name: &str,
    span: Span,
    message: &str,
    sink: &Sink<'_>,
) {
    match seen.get(name) {
        Some(first) => {
            let hint = format!("the first is in line {}", first.line);
            sink.report(span, format!("{message} `{name}`"), Some(hint));
        }
        None => {
            seen.insert(name.to_owned(), span);
        }
    }
}

fn step(
    raw: raw::Step,
    span: Span,
    index: usize,
    trial: Duration,
    sink: &Sink<'_>,
) -> Option<Step> {
    let present = [
        raw.run.is_present(),
        raw.background.is_present(),
        raw.measure.is_present(),
        raw.write.is_present(),
        raw.sysctl.is_present(),
    ];
    let mut verbs = raw::VERBS.iter().zip(present).filter(|(_, present)| *present).map(|(v, _)| *v);
    let Some(verb) = verbs.next() else {
        let hint = format!("one of {}", raw::VERBS.join(", "));
        sink.report(span, "a step that does nothing", Some(hint));
        return None;
    };
    if let Some(second) = verbs.next() {
        let hint = Some("make two steps of it".to_owned());
        sink.report(span, format!("a step with both `{verb}` and `{second}`"), hint);
        return None;
    }
    let keys = [
        raw.ready.present_span(),
        raw.batch.present_span(),
        raw.batches.present_span(),
        raw.warmup.present_span(),
        raw.results.present_span(),
        raw.metrics.present_span(),
        raw.expect.present_span(),
    ];
    for ((key, takers), place) in STEP_KEYS.into_iter().zip(keys) {
        if let Some(place) = place
            && !takers.contains(&verb)
        {
            let hint = format!("only for {}", takers.join(", "));
            sink.report(place, format!("`{key}` in a {verb} step"), Some(hint));
        }
    }

    let timeout_span = raw.timeout.span();
    let timeout = raw.timeout.plain();
    if timeout.is_some_and(|timeout| timeout > trial) {
        let message = "a step's time limit is longer than its scenario's";
        sink.report(timeout_span, message, Some(format!("which is {}s", trial.as_secs_f64())));
    }
    let ready_span = raw.ready.span();
    let ready = ready(raw.ready.get(), ready_span, sink);
    let measure = (raw.batch, raw.batches, raw.warmup);
    let action = match verb {
        "run" => command(raw.run, sink).map(|command| Action::Run { command }),
        "background" => {
            command(raw.background, sink).map(|command| Action::Background { command, ready })
        }
        "measure" => raw.measure.plain().and_then(|op| {
            let op = ops::find(&op.0)?;
            let (batch, batches, warmup) = measure;
            Some(Action::Measure(Measure {
                op: op.name.to_owned(),
                batch: count(batch, "batch", 1, op.max_batch, sink).unwrap_or(op.batch),
                batches: count(batches, "batches", 1, ops::MAX_BATCHES, sink).unwrap_or(op.batches),
                warmup: count(warmup, "warmup", 0, ops::MAX_BATCHES, sink).unwrap_or(op.warmup),
            }))
        }),
        "write" => {
            let span = raw.write.span();
            raw.write.get().and_then(|write| {
                let path = write.path.required(span, "`write`", "path", sink);
                let text = write.text.required(span, "`write`", "text", sink);
                Some(Action::Write { path: path?.0.0, text: text?.0.0 })
            })
        }
        _ => {
            if raw.sysctl.as_ref().is_some_and(|Entries(entries)| entries.is_empty()) {
                let hint = Some("NAME: VALUE".to_owned());
                sink.report(raw.sysctl.span(), "`sysctl` sets nothing", hint);
            }
            Some(Action::Sysctl { values: sysctls(raw.sysctl, sink) })
        }
    };
    let expect = expect(raw.expect, verb, sink);
    let metrics = entries(raw.metrics)
        .into_iter()
        .filter_map(|(key_span, name, span, raw)| metric(key_span, &name, span, raw, sink))
        .collect();
    let limits = raw.limits.get().map(|raw| limits(raw, sink)).unwrap_or_default();
    let env = entries(raw.env)
        .into_iter()
        .filter_map(|(span, name, _, Of(value))| {
            Some((text_at::<VariableName>(span, &name, sink)?.0, value.0))
        })
        .collect();
    Some(Step {
        name: raw.name.plain().map_or_else(|| format!("{verb} {}", index + 1), |line| line.0),
        action: action?,
        timeout,
        expect,
        results: raw.results.plain(),
        metrics,
        limits,
        env,
    })
}

fn command(field: Field<String>, sink: &Sink<'_>) -> Option<String> {
    let (span, text) = field.spanned()?;
    if text.trim().is_empty() || text.contains('\0') {
        sink.report(span, "shell text is empty, or has a NUL in it", None);
        return None;
    }
    Some(text)
}

fn ready(raw: Option<raw::Ready>, span: Span, sink: &Sink<'_>) -> Ready {
    let raw = raw.unwrap_or_default();
    let present = [raw.tcp.is_present(), raw.file.is_present(), raw.output.is_present()];
    if present.iter().filter(|present| **present).count() > 1 {
        sink.report(span, "`ready` takes one of tcp, file, output", None);
    }
    let tcp = raw.tcp.plain().map(|HostPort(host, port)| Probe::Tcp { host, port });
    let file = raw.file.plain().map(|path| Probe::File(path.0));
    let output = raw.output.plain().map(Probe::Output);
    Ready {
        probe: tcp.or(file).or(output),
        within: raw.within.plain().unwrap_or(Duration::from_secs(10)),
    }
}

fn expect(field: Field<raw::Expect>, verb: &str, sink: &Sink<'_>) -> Expect {
    let raw = field.get().unwrap_or_default();
    let keys = [
        ("exit", raw.exit.present_span()),
        ("stdout", raw.stdout.present_span()),
        ("stderr", raw.stderr.present_span()),
        ("not-stdout", raw.not_stdout.present_span()),
    ];
    for (key, place) in keys {
        if let (Some(place), "write" | "sysctl") = (place, verb) {
            sink.report(
                place,
                format!("`{key}` is expected of a {verb} step, which runs no program"),
                None,
            );
        }
    }
    let exit = if raw.exit.is_present() {
        let span = raw.exit.span();
        let exits = many(raw.exit, "exit", sink);
        let any = exits.iter().any(|exit| matches!(exit, Exit::Any));
        if any && exits.len() > 1 {
            sink.report(span, "`any` in a list of exit statuses", None);
        }
        let codes = exits.into_iter().filter_map(|exit| match exit {
            Exit::Any => None,
            Exit::Code(code) => Some(code),
        });
        if any { ExitExpectation::Any } else { ExitExpectation::OneOf(codes.collect()) }
    } else {
        ExitExpectation::OneOf(vec![0])
    };
    Expect {
        exit,
        stdout: many(raw.stdout, "stdout", sink),
        stderr: many(raw.stderr, "stderr", sink),
        not_stdout: many(raw.not_stdout, "not-stdout", sink),
        files: entries(raw.files)
            .into_iter()
            .filter_map(|(key_span, path, span, Of(Text(text)))| {
                let path = text_at::<AbsolutePath>(key_span, &path, sink)?.0;
                let expectation = match text.as_str() {
                    "exists" => FileExpectation::Exists,
                    "absent" => FileExpectation::Absent,
                    _ => FileExpectation::Matches(text_at::<Pattern>(span, &text, sink)?),
                };
                Some((path, expectation))
            })
            .collect(),
        sysctls: sysctls(raw.sysctls, sink),
        kernel_log: many(raw.kernel_log, "kernel-log", sink),
    }
}

fn sysctls(field: Field<Entries<Of<Text>>>, sink: &Sink<'_>) -> Vec<(String, String)> {
    entries(field)
        .into_iter()
        .filter_map(|(span, name, _, Of(value))| {
            Some((text_at::<SysctlName>(span, &name, sink)?.0, value.0))
        })
        .collect()
}

fn metric(
    key_span: Span,
    name: &str,
    span: Span,
    raw: raw::Metric,
    sink: &Sink<'_>,
) -> Option<MetricSpec> {
    const OWNER: &str = "a metric";
    let name = text_at::<MetricName>(key_span, name, sink);
    let pattern_span = raw.pattern.span();
    let pattern = raw.pattern.required(span, OWNER, "pattern", sink).map(|Of(pattern)| pattern);
    let unit = raw.unit.required(span, OWNER, "unit", sink);
    let better = raw.better.required(span, OWNER, "better", sink);
    if let Some(pattern) = &pattern {
        let groups = pattern.regex().captures_len() - 1;
        if groups != 1 {
            let hint = Some(r"put the number in ( ), other groups in (?: )".to_owned());
            sink.report(pattern_span, format!("pattern has {groups} groups instead of one"), hint);
        }
    }
    Some(MetricSpec { name: name?.0, pattern: pattern?, unit: unit?.0, better: better?.0 })
}

fn limits(raw: raw::Limits, sink: &Sink<'_>) -> Limits {
    Limits {
        memory: size(raw.memory),
        cpu_time: raw.cpu_time.plain(),
        processes: count(raw.processes, "processes", 1, 1_000_000, sink).map(u64::from),
        files: count(raw.files, "files", 1, 1_000_000, sink).map(u64::from),
    }
}

pub(crate) fn workload(
    path: &Path,
    raw: Field<raw::Workload>,
    library: &Library,
    sink: &Sink<'_>,
) -> Option<Workload> {
    const OWNER: &str = "a workload";
    let name = workload_name(path, sink);
    let (root, raw) = raw.spanned()?;
    let summary = raw.summary.required(root, OWNER, "summary", sink);
    let list_span = raw.scenarios.span();
    let scenarios = raw.scenarios.required(root, OWNER, "scenarios", sink);
    if scenarios.as_ref().is_some_and(|list| list.is_empty() || list.len() > ITEMS_BOUND) {
        sink.report(list_span, format!("`scenarios` must have 1 to {ITEMS_BOUND} items"), None);
    }
    let scenarios: Vec<Selection> = scenarios
        .unwrap_or_default()
        .into_iter()
        .filter_map(|field| field.spanned())
        .filter_map(|(span, raw)| selection(span, raw, library, sink))
        .collect();
    let requires = raw.requires.get().unwrap_or_default();
    let requires = self::requires(
        raw::Requires {
            modules: requires.modules,
            config: requires.config,
            sysctls: requires.sysctls,
            ..raw::Requires::default()
        },
        sink,
    );
    let mut workload = Workload {
        name: name.unwrap_or_default(),
        summary: summary.map(|Of(line)| line.0).unwrap_or_default(),
        machine: raw.machine.get().map(|raw| machine(raw, sink)).unwrap_or_default(),
        requires,
        scenarios,
        lab: None,
        policy: Policy::default(),
    };
    let selected = library.select(&workload);
    workload.lab = raw.lab.get().map(|raw| lab(raw, &selected, sink));
    for one in selected.iter().filter(|one| one.overrides.skip.is_none()) {
        let needs = &one.scenario.requires;
        let id = &one.scenario.id;
        if needs.cpus.is_some_and(|cpus| cpus > workload.machine.cpus) {
            sink.report(list_span, format!("`{id}` needs more CPUs than `machine` has"), None);
        }
        if needs.memory.is_some_and(|memory| memory > workload.machine.memory) {
            sink.report(list_span, format!("`{id}` needs more memory than `machine` has"), None);
        }
    }
    workload.policy = raw.policy.get().map(|raw| policy(raw, &selected, sink)).unwrap_or_default();
    Some(workload)
}

fn selection(
    span: Span,
    raw: raw::Selection,
    library: &Library,
    sink: &Sink<'_>,
) -> Option<Selection> {
    let (span, glob, overrides) = match raw {
        raw::Selection::Plain(glob) => (span, glob, raw::Overrides::default()),
        raw::Selection::With(Entries(mut entries)) => {
            if entries.len() != 1 {
                let hint = Some("- GLOB: { fail: 3% }".to_owned());
                sink.report(span, "an item of `scenarios` must have one glob", hint);
                return None;
            }
            let (key, value) = entries.pop()?;
            let (key_span, text) = key.spanned()?;
            (key_span, text_at::<Glob>(key_span, &text, sink)?, value.get()?)
        }
    };
    if library.matching(&glob).next().is_none() {
        let ids: Vec<&str> = library.iter().map(|scenario| scenario.id.as_str()).collect();
        let hint = word_hint(glob.as_str(), ids.iter().copied());
        sink.report(span, format!("no scenario matches `{glob}`"), hint);
        return None;
    }
    let limits = percents(overrides.warn, overrides.fail, None, sink);
    let overrides = Overrides {
        warn: limits.0,
        fail: limits.1,
        boots: count(overrides.boots, "boots", 1, 1000, sink),
        timeout: overrides.timeout.plain(),
        skip: overrides.skip.plain().map(|line| line.0),
    };
    Some(Selection { glob, overrides })
}

/// `warn` and `fail` as written; a `fail` below `warn` is a mistake.
fn percents(
    warn: Field<Of<Percent>>,
    fail: Field<Of<Percent>>,
    default_fail: Option<Percent>,
    sink: &Sink<'_>,
) -> (Option<Percent>, Option<Percent>) {
    let place = if fail.is_present() { fail.span() } else { warn.span() };
    let (warn, fail) = (warn.plain(), fail.plain());
    if let (Some(warn), Some(fail)) = (warn, fail.or(default_fail))
        && fail < warn
    {
        sink.report(place, format!("`fail` ({fail}) is below `warn` ({warn})"), None);
    }
    (warn, fail)
}

/// Limits of metrics: what is written, over `default`. A `fail` alone takes `warn` down with it.
fn performance_limits(
    raw: raw::PerformanceLimits,
    default: PerformanceLimits,
    sink: &Sink<'_>,
) -> PerformanceLimits {
    let (warn, fail) = percents(raw.warn, raw.fail, Some(default.fail), sink);
    default.with(warn, fail)
}

fn machine(raw: raw::Machine, sink: &Sink<'_>) -> MachineSpec {
    const LEAST: u64 = 64 << 20;
    const MOST: u64 = 1 << 40;
    let default = MachineSpec::default();
    let memory_span = raw.memory.span();
    let memory = size(raw.memory).unwrap_or(default.memory);
    if !(LEAST..=MOST).contains(&memory) {
        sink.report(memory_span, "`memory` must be between 64MiB and 1TiB", None);
    }
    let args = |field: Field<Vec<Field<Of<KernelArgument>>>>| {
        list(field, "kernel-args", sink).into_iter().map(|(_, arg)| arg.0).collect()
    };
    let role = |raw: raw::RoleMachine| RoleSpec { kernel_args: args(raw.kernel_args) };
    MachineSpec {
        cpus: count(raw.cpus, "cpus", 1, 256, sink).unwrap_or(default.cpus),
        memory,
        cpu_model: raw.cpu_model.plain().map(|model| model.0),
        kernel_args: args(raw.kernel_args),
        baseline: raw.baseline.get().map(role).unwrap_or_default(),
        candidate: raw.candidate.get().map(role).unwrap_or_default(),
    }
}

/// A policy; rules for metrics must name one of those of `selected`, unless that is empty.
pub(crate) fn policy(raw: raw::Policy, selected: &[Selected], sink: &Sink<'_>) -> Policy {
    let default = Policy::default();
    let performance = raw.performance.get().unwrap_or_default();
    let performance = performance_limits(performance, default.performance, sink);
    let known: Vec<(&ScenarioId, &str)> = selected
        .iter()
        .flat_map(|one| one.scenario.metric_names().map(|name| (&one.scenario.id, name)))
        .collect();
    let glob = |key_span: Span, text: &str| {
        let glob = text_at::<Glob>(key_span, text, sink)?;
        if !selected.is_empty() && !known.iter().any(|(id, name)| names(&glob, id, name)) {
            let hint = word_hint(text, known.iter().map(|(_, name)| *name));
            let message = format!("no scenario of this workload has a metric `{text}`");
            sink.report(key_span, message, hint);
        }
        Some(glob)
    };
    let metrics = entries(raw.metrics)
        .into_iter()
        .filter_map(|(key_span, text, _, raw)| {
            let metric = glob(key_span, &text)?;
            Some(MetricRule { metric, limits: performance_limits(raw, performance, sink) })
        })
        .collect();
    let tails = raw.tails.get().unwrap_or_default();
    let timeouts = raw.timeouts.get().unwrap_or_default();
    let run_span = timeouts.run.span();
    let timeouts = Timeouts {
        boot: timeouts.boot.plain().unwrap_or(default.timeouts.boot),
        run: timeouts.run.plain().unwrap_or(default.timeouts.run),
        hang: timeouts.hang.plain().unwrap_or(default.timeouts.hang),
    };
    if timeouts.run < timeouts.boot {
        sink.report(run_span, "the deadline of the run is before that of its first boot", None);
    }
    Policy {
        boots: count(raw.boots, "boots", 1, 1000, sink).unwrap_or(default.boots),
        new_warning: raw.new_warning.plain().unwrap_or(default.new_warning),
        flaky: raw.flaky.plain().unwrap_or(default.flaky),
        performance,
        tails: performance_limits(tails, default.tails, sink),
        exact: exact_policy(raw.exact.get().unwrap_or_default(), default.exact, glob, sink),
        memory: memory_limits(raw.memory, default.memory, sink),
        metrics,
        on_finding: raw.on_finding.plain().unwrap_or(default.on_finding),
        timeouts,
        tiers: tiers(raw.tiers.get().unwrap_or_default(), selected, sink),
    }
}

fn lab(raw: raw::Lab, selected: &[Selected], sink: &Sink<'_>) -> LabUse {
    let globs = list(raw.scenarios, "scenarios", sink);
    for (span, glob) in &globs {
        let found: Vec<_> =
            selected.iter().filter(|one| glob.matches(one.scenario.id.as_str())).collect();
        if !selected.is_empty() && found.is_empty() {
            let hint = word_hint(glob.as_str(), selected.iter().map(|s| s.scenario.id.as_str()));
            sink.report(*span, format!("no scenario of this workload matches `{glob}`"), hint);
        } else if glob.is_literal() && found.iter().any(|s| s.scenario.boot == Start::Exact) {
            let hint = Some("exact scenarios count instructions, which only guests can".to_owned());
            sink.report(*span, format!("`{glob}` can't run on a lab host"), hint);
        }
    }
    LabUse {
        hosts: set(raw.hosts, "hosts", |host| host.0.clone(), sink)
            .into_iter()
            .map(|host| host.0)
            .collect(),
        scenarios: globs.into_iter().map(|(_, glob)| glob).collect(),
    }
}

fn tiers(raw: raw::Tiers, selected: &[Selected], sink: &Sink<'_>) -> Tiers {
    let default = Tiers::default();
    let rule = |raw: Field<raw::TierRule>| {
        let raw = raw.get().unwrap_or_default();
        let globs = list(raw.scenarios, "scenarios", sink);
        let ids = || selected.iter().map(|one| one.scenario.id.as_str());
        for (span, glob) in &globs {
            if !selected.is_empty() && !ids().any(|id| glob.matches(id)) {
                let hint = word_hint(glob.as_str(), ids());
                sink.report(*span, format!("no scenario of this workload matches `{glob}`"), hint);
            }
        }
        TierRule {
            boots: count(raw.boots, "boots", 1, 1000, sink),
            scenarios: globs.into_iter().map(|(_, glob)| glob).collect(),
        }
    };
    let shifts = raw.shift.get().unwrap_or_default().into_iter().filter_map(Field::spanned);
    let shifts = shifts.filter_map(|(span, raw)| {
        if !raw.branches.is_present() && !raw.subsystems.is_present() {
            let hint = Some("add branches or subsystems".to_owned());
            sink.report(span, "a shift that is about no release", hint);
        }
        Some(Shift {
            to: raw.to.required(span, "a shift of tiers", "to", sink)?.0,
            branches: list(raw.branches, "branches", sink).into_iter().map(|(_, b)| b.0).collect(),
            subsystems: (list(raw.subsystems, "subsystems", sink).into_iter())
                .map(|(_, subsystem)| subsystem.0)
                .collect(),
        })
    });
    Tiers {
        shifts: shifts.collect(),
        bugfix: rule(raw.bugfix),
        major: rule(raw.major),
        next_longterm: rule(raw.next_longterm),
        evaluate_every: count(raw.evaluate_every, "evaluate-every", 1, 365, sink)
            .unwrap_or(default.evaluate_every),
        inconclusive: raw.inconclusive.plain().unwrap_or(default.inconclusive),
        tries: count(raw.tries, "tries", 1, 100, sink).unwrap_or(default.tries),
    }
}

fn exact_policy(
    raw: raw::Exact,
    default: ExactPolicy,
    glob: impl Fn(Span, &str) -> Option<Glob>,
    sink: &Sink<'_>,
) -> ExactPolicy {
    let limits = |raw: Field<raw::PerformanceLimits>, default| {
        performance_limits(raw.get().unwrap_or_default(), default, sink)
    };
    let (path, mean) = (limits(raw.path, default.path), limits(raw.mean, default.mean));
    let metrics = entries(raw.metrics)
        .into_iter()
        .filter_map(|(key_span, text, _, raw)| {
            let metric = glob(key_span, &text)?;
            Some(ExactRule { metric, path: limits(raw.path, path), mean: limits(raw.mean, mean) })
        })
        .collect();
    ExactPolicy {
        // One template says nothing of what differs between boots of one kernel.
        templates: count(raw.templates, "templates", 2, 100, sink).unwrap_or(default.templates),
        clones: count(raw.clones, "clones", 2, 100, sink).unwrap_or(default.clones),
        seed: raw.seed.get().unwrap_or(default.seed),
        t: raw.t.get().map_or(default.t, |Of(Errors(t))| t),
        path,
        mean,
        metrics,
    }
}

fn memory_limits(
    field: Field<raw::MemoryLimits>,
    default: SizeLimits,
    sink: &Sink<'_>,
) -> SizeLimits {
    let raw = field.get().unwrap_or_default();
    let place = if raw.fail.is_present() { raw.fail.span() } else { raw.warn.span() };
    let limits = SizeLimits {
        warn: raw.warn.plain().unwrap_or(default.warn),
        fail: raw.fail.plain().unwrap_or(default.fail),
    };
    let reversed = match (limits.warn, limits.fail) {
        (SizeLimit::Percent(warn), SizeLimit::Percent(fail)) => fail < warn,
        (SizeLimit::Bytes(warn), SizeLimit::Bytes(fail)) => fail < warn,
        // Which of a share and a size is larger depends on the baseline.
        _ => false,
    };
    if reversed {
        sink.report(place, "`fail` is below `warn`", None);
    }
    limits
}
