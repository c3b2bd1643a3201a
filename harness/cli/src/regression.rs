//! `kgate report regression`: the mail about one regression of a run, for its user to read and to send.

mod recipients;
mod steps;

use std::cmp::Ordering;
use std::fs;
use std::io::Write;
use std::path::Path;

use kgate_compare::{Assessment, Verdict};
use kgate_kernel::{Config, Kernel};
use kgate_model::finding::Finding;
use kgate_model::journal::{BootRecord, RunRecord, TrialRecord};
use kgate_model::kernel::KernelRecord;
use kgate_model::outcome::Role;
use kgate_model::plan::Plan;
use kgate_release::{Distribution, KernelVersion};
use kgate_report::{
    Details, Failure, Range, Recipient, Report, clean_block, failures, regression_mail,
    without_builder,
};
use kgate_runner::RunDir;

use crate::args::regression::{MailArgs, RegressionArgs};
use crate::context::Context;
use crate::error::{CommandError, at};
use crate::logs::tail;
use crate::releases::subject::of_record;
use crate::reports::as_planned;
use crate::{klog, text};
pub(crate) use recipients::culprit;
use recipients::{Culprit, Place, maintainers, recipients};

/// Bytes of one console, and of the end of what steps printed.
const CONSOLE: usize = 8 << 20;
const OUTPUT: usize = 16 << 10;
/// The file in which the mail is.
const MAIL: &str = "mail.txt";

/// Runs the command.
pub(crate) fn regression(context: &Context, args: &RegressionArgs) -> Result<(), CommandError> {
    let dir = RunDir::open(&args.dir)?;
    let culprit = match (&args.culprit, &args.mail.git) {
        (Some(id), Some(repository)) => Some(culprit(&context.host, repository, id)?),
        _ => None,
    };
    mail(context, &dir, args.failure.as_deref(), None, culprit.as_ref(), &args.mail)
}

/// Writes the mail about a regression of a run: the one that is named, or the only one. `range` is that of a
/// bisection; without one it is what the run compared.
pub(crate) fn mail(
    context: &Context,
    dir: &RunDir,
    named: Option<&str>,
    range: Option<Range>,
    culprit: Option<&Culprit>,
    args: &MailArgs,
) -> Result<(), CommandError> {
    let (record, inputs) = (dir.record()?, dir.inputs());
    let assessment = as_planned(context, &record, inputs);
    let all = failures(&assessment);
    let failure = choose(&all, named, &assessment)?;
    let known = range.is_some() || culprit.is_some();
    let mut range = range.unwrap_or_else(|| compared(&record.plan));
    if let Some(culprit) = culprit {
        range.culprit = Some(culprit.commit.clone());
    }
    let stable = branch(&range, &compared(&record.plan), known)?;

    let mut notes = Vec::new();
    let kernels = Role::ALL.map(|role| kernel(context, record.plan.kernel(role), &mut notes));
    let [baseline, candidate] = kernels;
    let selected = inputs.selected.iter().map(|selected| &selected.scenario);
    let scenario =
        selected.into_iter().find(|scenario| Some(scenario.id.as_str()) == failure.scenario());
    let finding = decoded(context, failure, &args.debug_info, &mut notes)?;
    let place = Place { culprit, finding: finding.as_ref(), scenario, kernel: candidate.as_ref() };
    let maintainers = maintainers(&context.host, args, culprit, &mut notes)?;
    let (recipients, missing) = recipients(&place, maintainers.as_ref(), stable.as_deref());
    notes.extend(missing);

    let example = failure.example(&record);
    let logs = example.map_or([Vec::new(), Vec::new()], |(boot, trial)| {
        let other = counterpart(&record, boot, trial);
        let old = other.map_or_else(Vec::new, |(boot, trial)| kernel_log(dir, boot, trial));
        [old, kernel_log(dir, boot, trial)]
    });
    let [old_log, new_log] = logs.map(|log| public_log(&log));
    let config = candidate.as_ref().and_then(config_text);
    let mut files: Vec<(&'static str, &'static str, &str)> = Vec::new();
    for (name, what, content) in [
        ("config", "configuration of the bad kernel", config.as_deref().unwrap_or("")),
        ("dmesg-candidate.txt", "log of the bad kernel", &*new_log),
        ("dmesg-baseline.txt", "log of the good kernel", &*old_log),
    ] {
        match content.is_empty() {
            true => notes.push(format!("{name} is missing: {what}")),
            false => files.push((name, what, content)),
        }
    }
    let read = |name: &Option<String>| tail(dir.path(), name.as_ref()?, OUTPUT);
    let details = Details {
        finding,
        distributions: Role::ALL.map(|role| distribution(record.plan.kernel(role))),
        summary: scenario.map(|scenario| scenario.summary.clone()),
        steps: scenario.map(steps::shell),
        output: example.and_then(|(_, trial)| read(&trial?.log)),
        command_line: command_line(&new_log),
        settings: baseline
            .as_ref()
            .zip(candidate.as_ref())
            .and_then(|(old, new)| Some(settings(old.config.as_deref()?, new.config.as_deref()?))),
        functions: explained(dir, failure),
        files: files.iter().map(|(name, what, _)| (*name, *what)).collect(),
    };
    let report = Report { record: &record, assessment: &assessment, log: None, directory: "" };
    let text = regression_mail(&report, failure, &range, &recipients, &details);
    if !text.contains("\n#regzbot introduced: ") {
        notes.push(format!(
            "which upstream releases {} and {} have the fixes of is not known: when vanilla builds fail as \
             well, add `#regzbot introduced: GOOD..BAD`, with tags or commits, as a paragraph of its own",
            range.last_good, range.first_bad
        ));
    }
    match &args.output {
        Some(directory) => {
            let files = files.iter().map(|(name, _, content)| (*name, *content));
            write(directory, files.chain([(MAIL, &*text)]))?;
        }
        None => std::io::stdout().write_all(text.as_bytes())?,
    }
    tell(&recipients, &notes);
    check_list(&details, failure, stable.is_some(), args);
    Ok(())
}

/// The one that is meant.
fn choose<'f, 'a>(
    all: &'f [Failure<'a>],
    named: Option<&str>,
    assessment: &Assessment,
) -> Result<&'f Failure<'a>, CommandError> {
    let rejecting = || all.iter().filter(|failure| failure.rejects());
    let fitting: Vec<&Failure<'a>> = match named {
        Some(name) => all.iter().filter(|failure| failure.is_named(name)).collect(),
        None => rejecting().collect(),
    };
    let list = |failures: &[&Failure<'_>]| {
        let lines = failures.iter().map(|failure| format!("\n  {}", failure.listed()));
        lines.collect::<String>()
    };
    match (fitting.as_slice(), named) {
        ([one], _) => Ok(one),
        ([], Some(name)) if !all.is_empty() => Err(CommandError::usage(format!(
            "no regression of this run is called `{}`; it has{}",
            text::line(name),
            list(&all.iter().collect::<Vec<_>>())
        ))),
        ([], _) => Err(not_due(assessment, all.is_empty())),
        (several, _) => Err(CommandError::usage(format!(
            "{} regressions, of which each is to be reported for itself:{}",
            several.len(),
            list(several)
        ))
        .hint("name one by its scenario, by the finding's title or by the metric")),
    }
}

/// Why no mail is due.
fn not_due(assessment: &Assessment, none: bool) -> CommandError {
    let why = assessment.reasons.first().map(|reason| text::line(&reason.text));
    let why = why.map_or(String::new(), |why| format!(": {why}"));
    let text = match assessment.verdict {
        Verdict::Promote => {
            "no mail is due: nothing in this run speaks against the candidate".to_owned()
        }
        Verdict::Inconclusive => format!("no mail is due: this run could not be decided{why}"),
        Verdict::Infrastructure => {
            format!("no mail is due: what failed in this run is not the kernel's fault{why}")
        }
        Verdict::Reject => format!("no mail is due: nothing that only the candidate has{why}"),
    };
    let error = CommandError::usage(text);
    match (assessment.verdict, none) {
        (_, false) => error.hint("differences that are waived or only reported can be named"),
        (Verdict::Inconclusive, _) => error.hint("more boots would tell: kgate run --boots N"),
        (Verdict::Infrastructure, _) => {
            error.hint("kgate run --resume carries out what is missing")
        }
        _ => error,
    }
}

/// What the run compared.
fn compared(plan: &Plan) -> Range {
    // Of some distributions' kernels nobody can say which release they have the fixes of.
    let version = |kernel: &KernelRecord| {
        let upstream = of_record(kernel).and_then(|version| version.counts_as());
        upstream.map_or_else(|| kernel.release.clone(), |version| version.to_string())
    };
    Range {
        last_good: version(&plan.baseline),
        first_bad: version(&plan.candidate),
        culprit: None,
        basis: None,
    }
}

/// The branch within which it is a regression, if that is a stable one; refuses what is no regression of
/// upstream's, unless a bisection knows better.
fn branch(range: &Range, tested: &Range, known: bool) -> Result<Option<String>, CommandError> {
    let parse = |range: &Range| {
        range.last_good.parse::<KernelVersion>().ok().zip(range.first_bad.parse().ok())
    };
    let Some((good, bad)): Option<(KernelVersion, KernelVersion)> =
        parse(range).or_else(|| parse(tested))
    else {
        return Ok(None);
    };
    let order = good.order(&bad).filter(|_| good.flavour == bad.flavour && !known);
    let (one, two) = (text::line(&good.text), text::line(&bad.text));
    if order == Some(Ordering::Equal) {
        return Err(CommandError::usage(format!(
            "no mail to kernel.org is due: both kernels are of {one}, so that what differs is their build"
        ))
        .hint("tell whoever built them; or name the commit with --culprit"));
    }
    if order == Some(Ordering::Greater) {
        return Err(CommandError::usage(format!(
            "no mail is due: the candidate ({two}) is older than the baseline ({one}), where it works"
        )));
    }
    let stable = bad.upstream.is_some_and(|version| version.is_stable());
    Ok(bad.branch.filter(|branch| stable && good.branch == Some(*branch)).map(|b| b.to_string()))
}

/// The kernel of the run, if its reference still stands for it.
fn kernel(context: &Context, record: &KernelRecord, notes: &mut Vec<String>) -> Option<Kernel> {
    match context.kernel(&record.reference) {
        Ok(kernel) if kernel.sha256 == record.image_sha256 => Some(kernel),
        Ok(_) => {
            let reference = text::line(&record.reference);
            notes.push(format!("{reference} is another kernel now: its configuration is not told"));
            None
        }
        Err(error) => {
            notes.push(format!(
                "{}: its configuration is not told",
                text::line(&error.first_line())
            ));
            None
        }
    }
}

/// The finding with lines of source, as far as there is debug information.
fn decoded(
    context: &Context,
    failure: &Failure<'_>,
    debug_info: &[String],
    notes: &mut Vec<String>,
) -> Result<Option<Finding>, CommandError> {
    // A wrong name is told, also where there is no stack to decode.
    let symbols = klog::symbols(context, debug_info)?;
    let Some(delta) = failure.finding else { return Ok(None) };
    let mut findings = [delta.finding.clone()];
    if let Some(symbols) = symbols {
        let unresolved = symbols.resolve(&mut findings)?;
        notes.extend(unresolved.iter().map(|why| text::line(&why.to_string())));
    }
    let [finding] = findings;
    Ok(Some(finding))
}

/// The same of the baseline.
fn counterpart<'r>(
    record: &'r RunRecord,
    boot: &BootRecord,
    trial: Option<&TrialRecord>,
) -> Option<(&'r BootRecord, Option<&'r TrialRecord>)> {
    let same = |other: &&BootRecord| {
        let (one, two) = (&boot.planned, &other.planned);
        two.role == Role::Baseline
            && (one.number, &one.image, one.start) == (two.number, &two.image, two.start)
            && (trial.is_none_or(|trial| {
                two.trials.iter().any(|t| t.scenario == trial.planned.scenario)
            }))
    };
    let other = record.boots.iter().find(same)?;
    let own = record.trials.iter().find(|own| {
        own.boot == other.planned.id
            && trial.is_some_and(|t| {
                (&t.planned.scenario, t.planned.clone) == (&own.planned.scenario, own.planned.clone)
            })
    });
    Some((other, own))
}

/// What the kernel of a boot, and of a trial's own machine, printed. A clone goes on where its template's log
/// ends.
fn kernel_log(dir: &RunDir, boot: &BootRecord, trial: Option<&TrialRecord>) -> Vec<u8> {
    let own = trial.and_then(|trial| trial.machine.as_ref());
    let attempt = trial.and_then(|trial| trial.attempt).unwrap_or(boot.attempts) as usize;
    let first = boot.consoles.get(attempt.saturating_sub(1)).or(boot.consoles.last());
    let first = first.filter(|_| own.is_none_or(|machine| machine.clone));
    let names = first.into_iter().chain(own.map(|machine| &machine.console));
    names.filter_map(|name| tail(dir.path(), name, CONSOLE)).flatten().collect()
}

/// A kernel log without what acts on a terminal, and without who built the kernel where.
fn public_log(log: &[u8]) -> String {
    let lines = clean_block(log);
    let public = |line: &str| match line.split_once("Linux version ") {
        Some((before, banner)) => format!("{before}Linux version {}\n", without_builder(banner)),
        None => format!("{line}\n"),
    };
    lines.lines().map(public).collect()
}

fn command_line(log: &str) -> Option<String> {
    let line = log.lines().find_map(|line| line.split_once("ommand line: "))?.1.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

/// Whose build a kernel is, when it is no vanilla one.
fn distribution(kernel: &KernelRecord) -> Option<String> {
    use Distribution::{Unknown, Upstream};
    let found = of_record(kernel)?.distribution;
    (!matches!(found, Unknown | Upstream)).then(|| found.to_string())
}

/// The configuration as a file of kconfig's.
fn config_text(kernel: &Kernel) -> Option<String> {
    let beside = kernel.image.with_file_name(format!("config-{}", kernel.release));
    let bounded = fs::metadata(&beside).is_ok_and(|file| file.len() < CONSOLE as u64);
    if let Some(text) = bounded.then(|| fs::read_to_string(&beside).ok()).flatten() {
        return Some(text);
    }
    let is_number = |value: &str| {
        let digits = value.strip_prefix("0x").unwrap_or(value);
        !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let line = |(symbol, value): (&str, &str)| match value {
        "n" => format!("# CONFIG_{symbol} is not set\n"),
        "y" | "m" => format!("CONFIG_{symbol}={value}\n"),
        number if is_number(number) => format!("CONFIG_{symbol}={number}\n"),
        text => format!("CONFIG_{symbol}=\"{}\"\n", text.replace('\\', r"\\").replace('"', "\\\"")),
    };
    Some(kernel.config.as_ref()?.iter().map(line).collect())
}

/// Settings in which two configurations differ.
fn settings(old: &Config, new: &Config) -> Vec<String> {
    let value = |config: &Config, symbol: &str| config.get(symbol).unwrap_or("-").to_owned();
    let gone = old.iter().filter(|(symbol, _)| new.get(symbol).is_none());
    let mut symbols: Vec<&str> = new.iter().chain(gone).map(|(symbol, _)| symbol).collect();
    symbols.sort_unstable();
    // It is the release.
    symbols.retain(|symbol| *symbol != "BUILD_SALT" && value(old, symbol) != value(new, symbol));
    let told =
        |symbol: &&str| format!("CONFIG_{symbol}: {}, {}", value(old, symbol), value(new, symbol));
    symbols.iter().map(told).collect()
}

/// What `kgate explain` found, where it was asked.
fn explained(dir: &RunDir, failure: &Failure<'_>) -> Option<String> {
    let metric = failure.metrics.first()?;
    let name = format!("explain/{}/{}.txt", failure.scenario()?, metric.metric);
    let text = String::from_utf8(tail(dir.path(), &name, CONSOLE)?).ok()?;
    Some(text).filter(|text| !text.trim().is_empty())
}

/// Writes the files, none over one that is there: it may have been edited.
fn write<'a>(
    directory: &Path,
    files: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<(), CommandError> {
    fs::create_dir_all(directory).map_err(at(directory))?;
    if directory.join(MAIL).exists() {
        let mail = text::line(&directory.join(MAIL).display().to_string());
        return Err(CommandError::usage(format!("{mail} is there already"))
            .hint("name another directory, or remove it"));
    }
    for (name, content) in files {
        let path = directory.join(name);
        fs::write(&path, content).map_err(at(&path))?;
        anstream::eprintln!("wrote {}", text::line(&path.display().to_string()));
    }
    Ok(())
}

/// Whom the mail goes to and why, and what it lacks.
fn tell(recipients: &[Recipient], notes: &[String]) {
    for recipient in recipients {
        let header = if recipient.to { "To:" } else { "Cc:" };
        let who = format!("{header} {}", recipient.mailbox);
        let reason = format!("{who:<60} {}", recipient.reason);
        anstream::eprintln!("{}", text::line(&reason));
    }
    for note in notes {
        anstream::eprintln!("note: {}", text::line(note));
    }
}

/// What only a person can do before the mail is sent.
fn check_list(details: &Details, failure: &Failure<'_>, stable: bool, args: &MailArgs) {
    let mut steps = vec!["read the mail: it is yours, and it is public for ever".to_owned()];
    if details.distributions.iter().flatten().next().is_some() {
        steps.push(
            "build both versions from kernel.org's sources, run the scenario on them, and say so in the mail; \
             what only a distribution's kernels do is to be reported to the distribution"
                .to_owned(),
        );
    }
    steps.push(if stable {
        "check that the newest release of the branch has it as well, and that the branch is still \
         supported: https://kernel.org"
            .to_owned()
    } else {
        "check that the newest mainline kernel has it as well: https://kernel.org".to_owned()
    });
    let taint = details.finding.as_ref().and_then(|finding| finding.taint.as_deref());
    if taint.is_some_and(|letters| letters.contains(['P', 'O', 'F', 'R'])) {
        steps.push(
            "reproduce it without modules from outside of the kernel's tree, or forced ones: they taint it"
                .to_owned(),
        );
    }
    steps.push("look for a report to join: https://lore.kernel.org/regressions/".to_owned());
    if !failure.metrics.is_empty() {
        steps.push(
            "say what it costs in practice: a few percent of a small operation alone are seldom taken for \
             a regression"
                .to_owned(),
        );
    }
    if args.output.is_none() && !details.files.is_empty() {
        steps.push("write the files that the mail promises with --output DIR".to_owned());
    }
    steps.push("send it as plain text, then the other files as replies to it".to_owned());
    anstream::eprintln!("before it is sent (docs/regressions.md):");
    for step in steps {
        anstream::eprintln!("  - {}", text::line(&step));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(release: &str, upstream: &str) -> KernelRecord {
        KernelRecord {
            reference: release.to_owned(),
            release: release.to_owned(),
            banner: release.to_owned(),
            upstream: Some(upstream.to_owned()),
            origin: release.to_owned(),
            image_sha256: String::new(),
            package_sha256: None,
        }
    }

    fn plan(baseline: (&str, &str), candidate: (&str, &str)) -> Plan {
        Plan {
            format: 0,
            kgate: String::new(),
            workload: String::new(),
            baseline: kernel(baseline.0, baseline.1),
            candidate: kernel(candidate.0, candidate.1),
            tier: None,
            lab: None,
            partitions: 1,
            boots: Vec::new(),
        }
    }

    #[test]
    fn versions_are_those_of_upstream_where_a_kernel_says_so() {
        let debian = ("6.1.0-47-cloud-amd64", "6.1.170");
        for (baseline, candidate, range, due) in [
            (debian, ("6.1.0-56-cloud-amd64", "6.1.192"), "6.1.170 6.1.192", Ok(Some("6.1"))),
            (debian, ("6.12.9-200.fc41.x86_64", "6.12.9"), "6.1.170 6.12.9", Ok(None)),
            (("6.13.0-rc3+", "6.13"), ("6.13.0-rc4+", "6.13"), "6.13-rc3 6.13-rc4", Ok(None)),
            (
                ("6.1.170", "6.1.170"),
                ("6.1.171-own", "6.1.171"),
                "6.1.170 6.1.171",
                Ok(Some("6.1")),
            ),
            (
                ("6.8.0-44-generic", "6.8.0"),
                ("6.8.0-45-generic", "6.8.0"),
                "6.8.0-44-generic 6.8.0-45-generic",
                Ok(None),
            ),
            (
                ("5.14.0-427.13.1.el9_4.x86_64", "5.14.0"),
                ("5.14.0-427.16.1.el9_4.x86_64", "5.14.0"),
                "5.14.0-427.13.1.el9_4.x86_64 5.14.0-427.16.1.el9_4.x86_64",
                Ok(None),
            ),
            // Of two flavours it can't be said which is the newer one.
            (
                ("6.8.0-1009-aws", "6.8.0"),
                ("6.8.0-45-generic", "6.8.0"),
                "6.8.0-1009-aws 6.8.0-45-generic",
                Ok(None),
            ),
            (debian, ("6.1.0-48-cloud-amd64", "6.1.170"), "6.1.170 6.1.170", Err("both kernels")),
            (
                ("6.8.0-45-generic", "6.8.0"),
                ("6.8.0-44-generic", "6.8.0"),
                "6.8.0-45-generic 6.8.0-44-generic",
                Err("is older than"),
            ),
            (("6.12.9", "6.12.9"), debian, "6.12.9 6.1.170", Err("is older than")),
        ] {
            let tested = compared(&plan(baseline, candidate));
            assert_eq!(format!("{} {}", tested.last_good, tested.first_bad), range);
            match (branch(&tested, &tested, false), due) {
                (Ok(found), Ok(expected)) => assert_eq!(found.as_deref(), expected, "{range}"),
                (Err(error), Err(expected)) => {
                    assert!(error.to_string().contains(expected), "{error}");
                }
                (found, expected) => panic!("{range}: {found:?}, not {expected:?}"),
            }
            assert!(branch(&tested, &tested, true).is_ok(), "{range}");
        }
        // A bisection over commits: the kernels at hand tell the branch.
        let commits = Range {
            last_good: "1f2e3d4c5d6b".to_owned(),
            first_bad: "2f2e3d4c5d6b".to_owned(),
            culprit: None,
            basis: None,
        };
        let tested = compared(&plan(debian, ("6.1.0-56-cloud-amd64", "6.1.192")));
        assert_eq!(branch(&commits, &tested, true).unwrap().as_deref(), Some("6.1"));
    }

    #[test]
    fn a_distribution_is_named_by_its_kernel() {
        for (release, expected) in [
            ("6.1.0-47-cloud-amd64", Some("Debian")),
            ("6.8.0-45-generic", Some("Ubuntu")),
            ("5.14.0-427.13.1.el9_4.x86_64", Some("Red Hat or one of its rebuilds")),
            ("6.1.170", None),
            ("6.1.170-own", None),
            ("no version", None),
        ] {
            assert_eq!(distribution(&kernel(release, "6.1")).as_deref(), expected, "{release}");
        }
    }
}
