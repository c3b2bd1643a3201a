//! What several formats say in the same words: counts, numbers with units, durations.

use std::collections::BTreeMap;

use kgate_compare::stats::Method;
use kgate_compare::{
    Case, Class, Comparison, Decision, Effect, Evidence, HostUse, Place, Side, Statistic,
};
use kgate_model::outcome::Role;
use kgate_model::plan::MachineShape;

use crate::Report;
use crate::text::clean;

/// Scenarios by what they mean to a reader, in the order of importance: `48 passed`, `1 regression`.
pub(crate) fn function_counts(report: &Report<'_>) -> Vec<String> {
    let mut counts: BTreeMap<(usize, &'static str), usize> = BTreeMap::new();
    for case in report.assessment.scenarios() {
        *counts.entry(standing(case)).or_default() += 1;
    }
    let plural = |word, count| if word == "regression" && count > 1 { "s" } else { "" };
    (counts.into_iter())
        .map(|((_, word), count)| format!("{count} {word}{}", plural(word, count)))
        .collect()
}

/// Rank and word.
fn standing(case: &Case) -> (usize, &'static str) {
    match case.class {
        Class::Passed => (0, "passed"),
        _ if case.waiver.is_some() => (4, "waived"),
        Class::Regression if case.effect == Effect::None => (3, "reported"),
        Class::Regression => (1, "regression"),
        Class::Fixed => (2, "fixed"),
        Class::StillFailing => (5, "failing on both"),
        Class::Flaky => (6, "flaky"),
        Class::Uncontrolled => (7, "without a baseline"),
        Class::Skipped => (8, "skipped"),
        Class::Errored => (9, "errored"),
        Class::Missing => (10, "not run"),
    }
}

/// What class a case is of, in words.
pub(crate) fn class(case: &Case) -> &'static str {
    if case.intermittent { "intermittent regression" } else { case.class.as_str() }
}

/// Why a case is what it is; may hold text of the guest's.
pub(crate) fn cause(case: &Case) -> String {
    match (&case.waiver, &case.cause, &case.skip_reason) {
        (Some(waiver), ..) => format!("waived by {waiver}"),
        (None, Some(fault), _) => fault.to_string(),
        (None, None, Some(reason)) => reason.clone(),
        (None, None, None) => String::new(),
    }
}

/// Why the verdict is what it is, in one sentence; may hold text of the guest's.
pub(crate) fn conclusion(report: &Report<'_>) -> String {
    if let Some(reason) = report.assessment.reasons.first() {
        return reason.text.clone();
    }
    let boots = |role| report.record.boots.iter().filter(|b| b.planned.role == role).count();
    let counted = |number: usize, what: &str| match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    };
    format!(
        "no regression in {}, over {} of the baseline and {} of the candidate",
        counted(report.assessment.scenarios().count(), "scenario"),
        counted(boots(Role::Baseline), "boot"),
        boots(Role::Candidate),
    )
}

/// What became of each lab host: `edge-lab-1: 8 boots, back on production`; may hold text of the host's.
pub(crate) fn hosts(report: &Report<'_>) -> Vec<String> {
    let told = |host: &HostUse| {
        let boots = if host.boots == 1 { "1 boot".into() } else { format!("{} boots", host.boots) };
        let back = match &host.returned {
            None => "",
            Some(None) => ", back on production",
            Some(Some(_)) => ", NOT back on production: `kgate lab recover` brings it back",
        };
        let uneven = if host.uneven.is_some() { "; what it measured does not count" } else { "" };
        format!("{}: {boots}{back}{uneven}", host.name)
    };
    report.assessment.hosts.iter().map(told).collect()
}

/// How long both kernels took to boot: `1.5 s → 1.6 s`.
pub(crate) fn ready(report: &Report<'_>) -> Option<String> {
    let times = &report.assessment.ready;
    let seconds = |ms: f64| format!("{:.1} s", ms / 1000.0);
    Some(format!("{} → {}", seconds(times.baseline?), seconds(times.candidate?)))
}

/// The number of one kernel.
pub(crate) fn side(side: Option<&Side>, unit: &str) -> String {
    side.map_or("–".to_owned(), |side| value(side.value, unit))
}

/// What a comparison comes to, with waiver and doubt; may hold text of the guest's.
pub(crate) fn decision(comparison: &Comparison) -> String {
    let mut text = comparison.decision.as_str().to_owned();
    if let Some(waiver) = &comparison.waiver {
        text += &format!(", waived by {waiver}");
    }
    if !comparison.doubt.is_empty() {
        text += &format!(": {}", comparison.doubt);
    }
    text
}

/// Words for decisions, in the order in which they are counted.
pub(crate) const DECISIONS: [(Decision, &str); 6] = [
    (Decision::Unchanged, "unchanged"),
    (Decision::Regression, "regression"),
    (Decision::Worse, "worse"),
    (Decision::Better, "better"),
    (Decision::Inconclusive, "undecided"),
    (Decision::Missing, "missing"),
];

/// `41 unchanged, 1 worse`.
pub(crate) fn decision_counts(comparisons: &[&Comparison]) -> String {
    let counts: Vec<String> = (DECISIONS.iter())
        .map(|(decision, word)| {
            (comparisons.iter().filter(|c| c.decision == *decision).count(), word)
        })
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    counts.join(", ")
}

/// The kernel log in a few words.
pub(crate) fn kernel_log(report: &Report<'_>) -> String {
    use kgate_compare::Novelty::{Common, Gone};
    let findings = &report.assessment.findings;
    let news: Vec<_> = findings.iter().filter(|f| f.is_news()).collect();
    let mut parts = Vec::new();
    match news.as_slice() {
        [] => parts.push("nothing new".to_owned()),
        [one] => {
            let (boots, of) = (one.candidate.boots, one.candidate.of);
            parts.push(format!("1 new {}, in {boots} of {of} boots", one.finding.severity));
        }
        many => parts.push(format!("{} new", many.len())),
    }
    for (novelty, word) in [(Gone, "gone"), (Common, "on both kernels")] {
        let count = findings.iter().filter(|f| f.novelty == novelty).count();
        if count > 0 {
            parts.push(format!("{count} {word}"));
        }
    }
    let lines = report.log.map_or_else(Vec::new, |log| {
        let sure = log.new_lines.iter().filter(|change| change.sure).count();
        let counts = [
            (sure, "surely new"),
            (log.new_lines.len() - sure, "perhaps new"),
            (log.gone_lines.len(), "gone"),
        ];
        let some = counts.into_iter().filter(|(count, _)| *count > 0);
        some.map(|(count, word)| format!("{count} {word}")).collect()
    });
    let findings = parts.join(", ");
    if lines.is_empty() { findings } else { format!("{findings}; lines: {}", lines.join(", ")) }
}

/// Memory in a few words.
pub(crate) fn memory(report: &Report<'_>) -> String {
    let all: Vec<_> = report.assessment.memory().collect();
    let changed: Vec<String> = (all.iter())
        .filter(|c| matches!(c.decision, Decision::Better | Decision::Worse | Decision::Regression))
        .map(|c| {
            let moment = match c.place {
                Place::AfterLoad { .. } => "after load",
                _ => "after boot",
            };
            format!("{} {} {moment}", clean(&c.metric), difference(c))
        })
        .collect();
    match (all.len(), changed.len()) {
        (0, _) => "not measured".to_owned(),
        (_, 0) => "unchanged".to_owned(),
        (all, changes) if all == changes => changed.join(", "),
        _ => format!("{}, the rest unchanged", changed.join(", ")),
    }
}

/// What could have been seen, by half of the metrics of each mode and by all of them:
/// `exact, half see ≥ 0.10 %, all ≥ 2.48 %`.
pub(crate) fn sees(report: &Report<'_>) -> String {
    let of = |exact: bool| {
        let mut seen: Vec<f64> = (report.assessment.performance())
            // Tails and means of counts are beside what is asked for.
            .filter(|c| {
                c.exact == exact && matches!(c.statistic, Statistic::BestDecile | Statistic::Path)
            })
            .filter_map(|c| c.detectable)
            .collect();
        seen.sort_by(f64::total_cmp);
        let percent = |sees: f64| {
            let digits = if exact { 2 } else { 1 };
            format!("≥ {:.digits$} %", 100.0 * sees)
        };
        let (half, all) = (percent(*seen.get(seen.len() / 2)?), percent(*seen.last()?));
        let mode = if exact { "exact, " } else { "" };
        Some(match half == all {
            true => format!("{mode}sees {all}"),
            false => format!("{mode}half see {half}, all {all}"),
        })
    };
    [of(true), of(false)].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// Changes of performance that are shown for the better and the worse but don't decide, the largest
/// first: `better   performance/pipe: pipe -0.23 % (-0.25 to -0.21)`.
pub(crate) fn changes(report: &Report<'_>) -> Vec<String> {
    let shown = |c: &&Comparison| matches!(c.decision, Decision::Better | Decision::Worse);
    let mut changes: Vec<&Comparison> = report.assessment.performance().filter(shown).collect();
    let size = |c: &Comparison| c.change.unwrap_or(0.0).abs() / c.warn.max(f64::MIN_POSITIVE);
    changes.sort_by(|a, b| size(b).total_cmp(&size(a)));
    let told = |c: &Comparison| {
        let place = c.place.to_string();
        format!("{:<6} {}: {} {}", c.decision.as_str(), clean(&place), clean(&c.label()), change(c))
    };
    changes.into_iter().map(told).collect()
}

/// How sure a change is, in a few words.
pub(crate) fn sureness(comparison: &Comparison) -> String {
    let p = |p: f64| if p < 0.001 { "p < 0.001".to_owned() } else { format!("p = {p:.3}") };
    match comparison.evidence {
        Some(Evidence::Boots { family, method, .. }) => {
            let how = if method == Method::Student { ", Welch's t" } else { "" };
            format!("{} among all{how}", p(family))
        }
        Some(Evidence::Instructions { t, .. }) if t.is_infinite() => "no noise at all".to_owned(),
        Some(Evidence::Instructions { t, noise, .. }) => {
            format!("t = {t:.1} over {}", noise.as_str())
        }
        None => "–".to_owned(),
    }
}

/// A change that comparisons of this metric see.
pub(crate) fn resolution(comparison: &Comparison) -> String {
    let digits = if comparison.exact { 2 } else { 1 };
    comparison.detectable.map_or("–".to_owned(), |sees| format!("≥ {:.digits$} %", 100.0 * sees))
}

/// Slab caches that moved: `dentry +1.20 MiB, …`.
pub(crate) fn caches(moves: &kgate_compare::slab::SlabMoves, most: usize) -> String {
    let told = moves.caches.iter().take(most).map(|cache| {
        let sign = if cache.difference() < 0.0 { "-" } else { "+" };
        format!("{} {sign}{}", clean(&cache.name), value(cache.difference().abs(), "B"))
    });
    told.collect::<Vec<_>>().join(", ")
}

/// The absolute change, with its sign and unit.
pub(crate) fn difference(comparison: &Comparison) -> String {
    match (&comparison.baseline, &comparison.candidate) {
        (Some(base), Some(new)) => {
            let change = new.value - base.value;
            let sign = if change < 0.0 { "-" } else { "+" };
            format!("{sign}{}", value(change.abs(), &comparison.unit))
        }
        _ => "?".to_owned(),
    }
}

/// `+1.2 %`.
pub(crate) fn percent(ratio: f64) -> String {
    let percent = 100.0 * ratio;
    // No -0.0 %, which rounding small changes gives.
    let percent = if percent.abs() < 0.05 { 0.0 } else { percent };
    format!("{percent:+.1} %")
}

/// `+0.12 %`.
fn fine_percent(ratio: f64) -> String {
    let percent = 100.0 * ratio;
    let percent = if percent.abs() < 0.005 { 0.0 } else { percent };
    format!("{percent:+.2} %")
}

/// The change with its interval, or why there is none.
pub(crate) fn change(comparison: &Comparison) -> String {
    match (comparison.change, comparison.interval) {
        (Some(change), Some((low, high))) => {
            let percent =
                |ratio| if comparison.exact { fine_percent(ratio) } else { percent(ratio) };
            format!("{} ({} to {})", percent(change), percent(low), percent(high))
        }
        (Some(change), None) => percent(change),
        (None, _) => "–".to_owned(),
    }
}

/// Steps of units that are shown in the one that suits the size.
const SCALES: [(&str, &[(&str, f64)]); 2] = [
    ("B", &[("GiB", 1_073_741_824.0), ("MiB", 1_048_576.0), ("KiB", 1024.0), ("B", 1.0)]),
    ("ns", &[("s", 1e9), ("ms", 1e6), ("µs", 1e3), ("ns", 1.0)]),
];

/// A number with its unit, to about four digits.
pub(crate) fn value(number: f64, unit: &str) -> String {
    let scale = SCALES.iter().find(|(name, _)| *name == unit).map_or(&[][..], |(_, steps)| steps);
    let step = scale.iter().find(|(_, size)| number.abs() >= *size).or(scale.last());
    let (unit, number) = step.map_or((unit, number), |(name, size)| (*name, number / size));
    let digits = match number.abs() {
        n if n >= 1e9 => return format!("{number:.3e} {}", clean(unit)),
        n if n >= 100.0 || n.fract() == 0.0 => 0,
        n if n >= 10.0 => 1,
        _ => 2,
    };
    format!("{number:.digits$} {}", clean(unit))
}

/// `3 min 41 s`, `2.1 s`, `250 ms`.
pub(crate) fn duration(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        60_000..3_600_000 => format!("{} min {:02} s", ms / 60_000, ms % 60_000 / 1000),
        _ => format!("{} h {:02} min", ms / 3_600_000, ms % 3_600_000 / 60_000),
    }
}

/// `6.1.170 → 6.1.192, bugfix tier`: upstream versions where they differ, else whole releases; the tier,
/// if one was applied.
pub(crate) fn kernels(report: &Report<'_>) -> String {
    let plan = &report.record.plan;
    let (base, new) = (&plan.baseline, &plan.candidate);
    let tier = plan.tier.as_ref().map(|choice| format!(", {} tier", choice.tier.as_str()));
    let tier = tier.unwrap_or_default();
    match (&base.upstream, &new.upstream) {
        (Some(old), Some(young)) if old != young => {
            format!("{} → {}{tier}", clean(old), clean(young))
        }
        _ => format!("{} → {}{tier}", clean(&base.release), clean(&new.release)),
    }
}

/// How a shell has to be given a word.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:=+@%,-".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", clean(word).replace('\'', r"'\''"))
    }
}

/// What names the lab of a run on a command line.
pub(crate) fn lab_options(report: &Report<'_>) -> String {
    let plan = &report.record.plan;
    let inventory = plan.lab.as_ref().map(|file| format!(" --lab {}", quoted(file)));
    inventory.filter(|_| !plan.hosts().is_empty()).unwrap_or_default()
}

/// The command that runs one scenario on the candidate alone, on a machine of the same shape, or on the
/// lab host.
pub(crate) fn reproduce(report: &Report<'_>, scenario: &str) -> String {
    let plan = &report.record.plan;
    let planned = plan
        .trials()
        .find(|(boot, trial)| boot.role == Role::Candidate && trial.scenario == scenario);
    if let Some(host) = planned.and_then(|(boot, _)| boot.host.as_deref()) {
        let (kernel, lab) = (quoted(&plan.candidate.reference), lab_options(report));
        return format!("kgate lab boot {host} {kernel} --scenario {}{lab}", quoted(scenario));
    }
    let usual = MachineShape::default();
    let shape = planned.map_or(&usual, |(boot, _)| &boot.shape);
    boot_command(&plan.candidate.reference, Some(scenario), shape)
}

/// The command that boots a kernel on a machine of this shape, for a scenario where one is named.
pub(crate) fn boot_command(
    reference: &str,
    scenario: Option<&str>,
    shape: &MachineShape,
) -> String {
    let mut command = format!("kgate boot {}", quoted(reference));
    if let Some(scenario) = scenario {
        command += &format!(" --scenario {}", quoted(scenario));
    }
    let usual = MachineShape::default();
    if shape.cpus != usual.cpus {
        command += &format!(" --cpus {}", shape.cpus);
    }
    if shape.memory != usual.memory {
        command += &format!(" --memory {}", shape.memory >> 20);
    }
    if let Some(model) = &shape.cpu_model {
        command += &format!(" --cpu-model {}", quoted(model));
    }
    for argument in &shape.kernel_args {
        command += &format!(" --append {}", quoted(argument));
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let table = [
            (value(1234.0, "ns"), "1.23 µs"),
            (value(0.25, "ns"), "0.25 ns"),
            (value(1_258_291.2, "B"), "1.20 MiB"),
            (value(0.0, "B"), "0 B"),
            (value(15_234.5, "1/s"), "15234 1/s"),
            (value(3.25e12, "1/s"), "3.250e12 1/s"),
            (duration(221_000), "3 min 41 s"),
            (duration(2150), "2.1 s"),
            (duration(7_260_000), "2 h 01 min"),
            (percent(-0.0001), "+0.0 %"),
            (percent(-0.032), "-3.2 %"),
            (quoted("apt:linux-image-6.1"), "apt:linux-image-6.1"),
            (quoted("a b'c"), r"'a b'\''c'"),
        ];
        for (shown, expected) in table {
            assert_eq!(shown, expected);
        }
    }
}
