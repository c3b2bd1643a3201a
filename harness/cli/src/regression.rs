//! `kgate report regression`: the mail about one regression of a run, for its user to read and to send.

mod recipients;
mod steps;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use kgate_compare::{Assessment, Verdict};
use kgate_kernel::{Config, Kernel};
use kgate_model::finding::Finding;
use kgate_model::journal::{BootRecord, RunRecord, TrialRecord};
use kgate_model::kernel::KernelRecord;
use kgate_model::outcome::Role;
use kgate_release::Version;
use kgate_report::{
    Details, Failure, Range, Recipient, Report, clean_block, failures, regression_mail,
    without_builder,
};
use kgate_runner::RunDir;

use crate::args::regression::{MailArgs, RegressionArgs};
use crate::context::Context;
use crate::error::{CommandError, at};
use crate::logs::within;
use crate::reports::assess;
use crate::{klog, text};
pub(crate) use recipients::culprit;
use recipients::{Culprit, Place, maintainers, recipients};

/// Bytes of one console, and of the end of what steps printed.
const CONSOLE: u64 = 8 << 20;
const OUTPUT: u64 = 16 << 10;
/// The file in which the mail is.
const MAIL: &str = "mail.txt";
/// What words in a release, or in what `uname -v` says, tell of who built a kernel.
const DISTRIBUTIONS: &[(&str, &str)] = &[
    ("Debian", "Debian"),
    ("+deb", "Debian"),
    ("Ubuntu", "Ubuntu"),
    (".amzn", "Amazon Linux"),
    ("uek", "Oracle"),
    (".el", "Red Hat or one of its rebuilds"),
    (".fc", "Fedora"),
    ("-arch", "Arch Linux"),
    ("SUSE", "SUSE"),
    ("-default", "SUSE"),
    ("-pve", "Proxmox"),
    ("-generic", "Ubuntu"),
];

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
    let assessment = assess(context, &record, &inputs.policy, &inputs.selected, &inputs.waivers);
    let all = failures(&assessment);
    let failure = choose(&all, named, &assessment)?;
    let known = range.is_some() || culprit.is_some();
    let mut range = range.unwrap_or_else(|| compared(&record));
    if let Some(culprit) = culprit {
        range.culprit = Some(culprit.commit.clone());
    }
    let stable = branch(&record, &range, known)?;

    let mut notes = Vec::new();
    let kernels = Role::ALL.map(|role| kernel(context, record.plan.kernel(role), &mut notes));
    let [baseline, candidate] = kernels;
    let selected = inputs.selected.iter().map(|selected| &selected.scenario);
    let scenario =
        selected.into_iter().find(|scenario| Some(scenario.id.as_str()) == failure.scenario());
    let finding = decoded(context, failure, &args.debug_info, &mut notes)?;
    let place = Place { culprit, finding: finding.as_ref(), scenario, kernel: candidate.as_ref() };
    let (recipients, missing) =
        recipients(&place, maintainers(&context.host, args, culprit)?.as_ref(), stable.as_deref());
    notes.extend(missing);

    let example = failure.example(&record);
    let logs = example.map_or([Vec::new(), Vec::new()], |(boot, trial)| {
        let other = counterpart(&record, boot, trial);
        let old = other.map_or_else(Vec::new, |(boot, trial)| kernel_log(dir, boot, trial));
        [old, kernel_log(dir, boot, trial)]
    });
    let [old_log, new_log] = logs.map(|log| public_log(&log));
    let config = candidate.as_ref().and_then(config_text);
    let versions = (&*range.last_good, &*range.first_bad);
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
    let read = |name: &Option<String>| Some(end_of(dir.path(), name.as_ref()?, OUTPUT));
    let distribution = distribution(&record.plan.candidate).or(distribution(&record.plan.baseline));
    let details = Details {
        finding,
        distribution: distribution.map(str::to_owned),
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
    match &args.output {
        Some(directory) => {
            let files = files.iter().map(|(name, _, content)| (*name, *content));
            write(directory, files.chain([(MAIL, &*text)]))?;
        }
        None => std::io::stdout().write_all(text.as_bytes())?,
    }
    tell(&recipients, &notes);
    check_list(&details, failure, stable.is_some(), versions, args);
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
fn compared(record: &RunRecord) -> Range {
    let version = |kernel: &KernelRecord| {
        let upstream = kernel.upstream.as_ref().unwrap_or(&kernel.release);
        upstream.parse::<Version>().map_or_else(|_| upstream.clone(), |version| version.to_string())
    };
    Range {
        last_good: version(&record.plan.baseline),
        first_bad: version(&record.plan.candidate),
        culprit: None,
        basis: None,
    }
}

/// The branch within which it is a regression, if that is a stable one; refuses what is no regression of
/// upstream's, unless a bisection knows better.
fn branch(record: &RunRecord, range: &Range, known: bool) -> Result<Option<String>, CommandError> {
    let parse = |text: &str| text.strip_prefix('v').unwrap_or(text).parse::<Version>().ok();
    let versions = parse(&range.last_good).zip(parse(&range.first_bad));
    let tested = compared(record);
    let (good, bad) = match (versions, parse(&tested.last_good).zip(parse(&tested.first_bad))) {
        (Some(versions), _) | (None, Some(versions)) => versions,
        (None, None) => return Ok(None),
    };
    if good == bad && !known {
        return Err(CommandError::usage(format!(
            "no mail to kernel.org is due: both kernels are of {good}, so that what differs is their build"
        ))
        .hint("tell whoever built them; or name the commit with --culprit"));
    }
    if good > bad && !known {
        return Err(CommandError::usage(format!(
            "no mail is due: the candidate ({bad}) is older than the baseline ({good}), where it works"
        )));
    }
    Ok((good.branch == bad.branch && bad.is_stable()).then(|| bad.branch.to_string()))
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
    let Some(delta) = failure.finding else { return Ok(None) };
    let mut findings = [delta.finding.clone()];
    if let Some(symbols) = klog::symbols(context, debug_info)? {
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
    names.flat_map(|name| end_of(dir.path(), name, CONSOLE)).collect()
}

/// The end of a file of the run directory; nothing of one that isn't there.
fn end_of(dir: &Path, name: &str, bytes: u64) -> Vec<u8> {
    let read = |path: &Path| {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
        let mut text = Vec::new();
        file.take(bytes).read_to_end(&mut text)?;
        std::io::Result::Ok(text)
    };
    within(dir, name).and_then(|path| read(&path).ok()).unwrap_or_default()
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

/// Who built a kernel, when it is no vanilla one.
fn distribution(kernel: &KernelRecord) -> Option<&'static str> {
    // The compiler's version has the name of a distribution as well.
    let built = kernel.banner.split_once(" #").map_or("", |(_, rest)| rest);
    let has = |(word, _): &&(&str, &str)| built.contains(word) || kernel.release.contains(word);
    DISTRIBUTIONS.iter().find(has).map(|(_, name)| *name)
}

/// The configuration as a file of kconfig's.
fn config_text(kernel: &Kernel) -> Option<String> {
    let beside = kernel.image.with_file_name(format!("config-{}", kernel.release));
    let bounded = fs::metadata(&beside).is_ok_and(|file| file.len() < CONSOLE);
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
    let path = within(dir.path(), &name)?;
    let text = fs::read_to_string(path).ok()?;
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
fn check_list(
    details: &Details,
    failure: &Failure<'_>,
    stable: bool,
    (good, bad): (&str, &str),
    args: &MailArgs,
) {
    let mut steps = vec!["read the mail: it is yours, and it is public for ever".to_owned()];
    if let Some(whose) = &details.distribution {
        steps.push(format!(
            "build vanilla {good} and {bad}, run the scenario on them, and say so in the mail; what only \
             {whose}'s kernels do is to be reported to {whose}"
        ));
    }
    steps.push(if stable {
        "check that the newest release of the branch has it as well, and that the branch is still \
         supported: https://kernel.org"
            .to_owned()
    } else {
        "check that the newest mainline kernel has it as well: https://kernel.org".to_owned()
    });
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
