//! The mail that tells the kernel's developers of a regression, as the kernel's
//! `Documentation/admin-guide/reporting-regressions.rst` and `reporting-issues.rst` ask for it.

mod failure;
mod mailbox;

use kgate_compare::{Comparison, Place, Side, Sightings, Tally, at_least_as_often};
use kgate_model::finding::{Finding, TAINTS};
use kgate_model::outcome::Role;
use kgate_model::plan::{MachineShape, PlannedBoot, Start};

use crate::text::{bounded, clean, clean_block, wrap};
use crate::{Report, log, view};

pub use failure::{Failure, failures};
pub use mailbox::{Mailbox, Recipient};

/// Columns of prose.
const COLUMNS: usize = 72;
/// Bytes of a line, so that no mail program has to cut it (RFC 5322, 2.1.1).
const LINE: usize = 900;
/// Lines of a kernel's report, and of anything else that is quoted.
const REPORT_LINES: usize = 200;
const QUOTED_LINES: usize = 40;
/// Frames of a stack.
const FRAMES: usize = 40;
/// Settings of the configurations that are listed.
const SETTINGS: usize = 20;
/// Bytes of a text of a guest's within a sentence.
const SENTENCE: usize = 300;

/// Between which versions a regression came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The last version that is fine: an upstream version such as `6.1.170`, or a commit.
    pub last_good: String,
    /// The first version that fails, in the same forms.
    pub first_bad: String,
    /// What made it fail, where a bisection has found it.
    pub culprit: Option<Commit>,
    /// How the range is known when it is not that of the run: a sentence with how sure it is.
    pub basis: Option<String>,
}

/// A commit of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its whole id.
    pub id: String,
    /// First line of its message.
    pub subject: String,
}

/// What there is to say beside what the run's record holds. Everything may be missing.
#[derive(Clone, Debug, Default)]
pub struct Details {
    /// The failure's finding again, with lines of source.
    pub finding: Option<Finding>,
    /// Whose builds the good and the bad kernel are, when they are not upstream's sources as they are: `Debian`.
    pub distributions: [Option<String>; 2],
    /// What the scenario does, in a line.
    pub summary: Option<String>,
    /// The scenario's steps as shell text.
    pub steps: Option<String>,
    /// What the steps of the failed trial printed.
    pub output: Option<Vec<u8>>,
    /// The kernel's command line, as it said it.
    pub command_line: Option<String>,
    /// Settings in which the two configurations differ; `None` where they are not known.
    pub settings: Option<Vec<String>>,
    /// In which functions the instructions are that became more.
    pub functions: Option<String>,
    /// Files that are to follow: name, and what it is.
    pub files: Vec<(&'static str, &'static str)>,
}

/// The mail: headers without From and Date, which are the mail program's, and text of 72 columns, but for
/// what is quoted.
pub fn regression_mail(
    report: &Report<'_>,
    failure: &Failure<'_>,
    range: &Range,
    recipients: &[Recipient],
    details: &Details,
) -> String {
    let mail = Mail { report, failure, range, details };
    mailbox::headers(recipients, &mail.subject()) + &mail.body()
}

struct Mail<'a> {
    report: &'a Report<'a>,
    failure: &'a Failure<'a>,
    range: &'a Range,
    details: &'a Details,
}

impl Mail<'_> {
    fn subject(&self) -> String {
        match &self.range.culprit {
            // What reporting-issues.rst asks for.
            Some(commit) => tame(&commit.subject),
            None => format!("{} since {}", self.failure.what(), version(&self.range.first_bad)),
        }
    }

    fn body(&self) -> String {
        let mut page = Page::default();
        page.prose(&self.summary());
        page.prose(&self.outline());
        if let Some(introduced) = self.introduced() {
            page.line(&introduced);
            page.line("");
        }
        page.prose("The detailed description:");
        self.versions(&mut page);
        self.sureness(&mut page);
        self.symptoms(&mut page);
        self.taint(&mut page);
        self.reproducer(&mut page);
        self.environment(&mut page);
        self.files(&mut page);
        page.prose(&format!(
            "Found by kgate {}, which boots the kernel in production and the one that should replace it, \
             runs the same scenarios on both and compares.",
            clean(&self.report.record.plan.kgate)
        ));
        page.text.truncate(page.text.trim_end().len());
        page.text + "\n"
    }

    /// One sentence that says what fails in which version.
    fn summary(&self) -> String {
        let (good, bad) = (version(&self.range.last_good), version(&self.range.first_bad));
        let what = self.failure.what();
        match self.failure.finding {
            Some(delta) if delta.finding.panicked => {
                format!("Linux {bad} panics, which {good} does not: {what}.")
            }
            Some(_) => format!("Linux {bad} reports what {good} does not: {what}."),
            None => format!("On Linux {bad}, unlike {good}: {what}."),
        }
    }

    /// One paragraph that says it to whoever reads no further.
    fn outline(&self) -> String {
        let mut text = self.counts();
        if let Some(scenario) = self.failure.scenario() {
            text += &format!(" The scenario is {}", tame(scenario));
            if let Some(summary) = &self.details.summary {
                text += &format!(": {}", tame(summary));
            }
            text.push('.');
        }
        text += &match &self.range.culprit {
            Some(commit) => {
                format!(
                    " The cause is commit {} (\"{}\").",
                    tame(&commit.id),
                    tame(&commit.subject)
                )
            }
            None => " The commit that causes it is not known yet.".to_owned(),
        };
        if let Some(whose) = self.whose() {
            text += &format!(" Note that {whose}: it is not confirmed with vanilla kernels yet.");
        }
        text
    }

    /// Whose builds the kernels are that are not vanilla ones.
    fn whose(&self) -> Option<String> {
        let [good, bad] = self.details.distributions.each_ref().map(|w| w.as_deref().map(tame));
        match (good, bad) {
            (None, None) => None,
            (Some(good), Some(bad)) if good == bad => {
                Some(format!("both kernels are builds of {good} with its patches"))
            }
            (Some(good), Some(bad)) => Some(format!(
                "the good kernel is a build of {good} and the bad one of {bad}, with their patches"
            )),
            (Some(good), None) => {
                Some(format!("the good kernel is a build of {good} with its patches"))
            }
            (None, Some(bad)) => {
                Some(format!("the bad kernel is a build of {bad} with its patches"))
            }
        }
    }

    /// Boots of the candidate and the baseline in which it was seen.
    fn sightings(&self) -> Option<(Sightings, Sightings)> {
        let of = |tally: &Tally| Sightings { boots: tally.failed, of: tally.decided() };
        let finding = self.failure.finding.map(|delta| (delta.candidate, delta.baseline));
        finding.or(self.failure.cases.first().map(|case| (of(&case.candidate), of(&case.baseline))))
    }

    /// Both kernels of the run: by version, unless that is the same.
    fn names(&self) -> [String; 2] {
        let kernels = Role::ALL.map(|role| self.report.record.plan.kernel(role));
        let upstream = kernels.map(|kernel| kernel.upstream.as_ref().unwrap_or(&kernel.release));
        let same = upstream[0] == upstream[1];
        let names = if same { kernels.map(|kernel| &kernel.release) } else { upstream };
        names.map(|name| version(name))
    }

    /// In how many boots of each kernel.
    fn counts(&self) -> String {
        let [old, new] = self.names();
        if let Some((bad, good)) = self.sightings() {
            return format!(
                "It was seen in {} of {} boots of {new} and in {} of {} boots of {old}.",
                bad.boots, bad.of, good.boots, good.of
            );
        }
        let boots = |side: fn(&Comparison) -> &Option<Side>| {
            let side = self.failure.metrics.first().and_then(|metric| side(metric).as_ref());
            side.map_or(0, |side| side.boots.len())
        };
        let (bad, good) = (boots(|metric| &metric.candidate), boots(|metric| &metric.baseline));
        format!("It was measured in {bad} boots of {new} and {good} of {old}.")
    }

    /// What regzbot is to know, in a paragraph of its own.
    fn introduced(&self) -> Option<String> {
        let Range { last_good, first_bad, culprit, .. } = self.range;
        let what = match culprit {
            Some(commit) => commit_id(&commit.id)?.to_owned(),
            None => format!("{}..{}", tag(last_good)?, tag(first_bad)?),
        };
        Some(format!("#regzbot introduced: {what}"))
    }

    fn versions(&self, page: &mut Page) {
        let plan = &self.report.record.plan;
        page.heading("Versions");
        let (good, bad) = (version(&self.range.last_good), version(&self.range.first_bad));
        let mut lines = format!("last good: {good}\nfirst bad: {bad}\n");
        if let Some(commit) = &self.range.culprit {
            lines += &format!("culprit:   {} (\"{}\")", tame(&commit.id), tame(&commit.subject));
        }
        page.quote(lines.as_bytes(), 3);
        if let Some(basis) = &self.range.basis {
            page.prose(&tame(basis));
        }
        for (which, kernel) in [("good", &plan.baseline), ("bad", &plan.candidate)] {
            let package = kernel.origin.strip_prefix("package ");
            let package = package.map_or(String::new(), |p| format!(" ({})", tame(p)));
            page.prose(&format!("/proc/version of the {which} one that was run{package}:"));
            page.quote(format!("Linux version {}", without_builder(&kernel.banner)).as_bytes(), 1);
        }
        if self.whose().is_some() {
            let both = tag(&self.range.last_good).and(tag(&self.range.first_bad));
            let of = both.map_or(String::new(), |_| format!(" of {good} and {bad}"));
            page.prose(&format!(
                "I have not confirmed yet that vanilla builds{of} behave in the same way."
            ));
        }
        match self.details.settings.as_deref() {
            None => {}
            Some([]) => page.prose("Both have the same configuration."),
            Some(settings) => {
                page.prose("Settings in which the configurations differ (good, then bad):");
                let mut lines: Vec<_> = settings.iter().take(SETTINGS).map(|s| tame(s)).collect();
                if settings.len() > SETTINGS {
                    lines.push(format!("and {} more", settings.len() - SETTINGS));
                }
                page.quote(lines.join("\n").as_bytes(), SETTINGS + 1);
            }
        }
    }

    fn sureness(&self, page: &mut Page) {
        page.heading("How sure it is");
        let mut text = self.counts();
        if let Some((bad, good)) = self.sightings() {
            let chance = at_least_as_often((bad.boots, bad.of), (good.boots, good.of));
            text += &match good.of {
                0 => " So there is nothing to compare with.".to_owned(),
                _ => format!(" Equal kernels give such counts with a probability of {chance:.2}."),
            };
        }
        text +=
            " Boots of both took turns on one machine, with the same userland and the same steps.";
        page.prose(&text);
        for case in &self.failure.cases {
            page.prose(&format!("{}: {}.", tame(&case.subject.to_string()), tame(&case.statement)));
        }
        for metric in &self.failure.metrics {
            page.prose(&format!(
                "{}: {}; in this run changes from {} on can be seen.",
                tame(&metric.label()),
                view::sureness(metric),
                view::resolution(metric).trim_start_matches(['≥', ' '])
            ));
        }
    }

    fn symptoms(&self, page: &mut Page) {
        page.heading("What happens");
        for case in self.failure.cases.iter().filter(|_| self.failure.finding.is_none()) {
            let cause = case.cause.as_ref().map(|fault| (fault.kind.label(), &fault.message));
            page.prose(&format!("{} fails:", tame(&case.subject.to_string())));
            if let Some((kind, message)) = cause {
                page.quote(format!("{kind}: {}", clean(message)).as_bytes(), 1);
            }
        }
        if let Some(finding) = self.finding() {
            page.prose(&format!("The kernel's report ({}):", tame(&finding.title)));
            page.quote(finding.excerpt.as_bytes(), REPORT_LINES);
            if let Some(why) = &finding.corrupted {
                page.prose(&format!("The log is damaged there: {}.", tame(why)));
            }
            if finding.frames.iter().any(|frame| frame.source.is_some()) {
                page.prose("The same stack with its lines of source:");
                page.quote(stack(finding).as_bytes(), FRAMES + 1);
            }
        }
        if let Some(output) = self.details.output.as_ref().filter(|o| !o.is_empty()) {
            page.prose("The end of what the steps printed:");
            page.quote(last_lines(output, QUOTED_LINES).as_bytes(), QUOTED_LINES);
        }
        for metric in &self.failure.metrics {
            numbers(metric, page);
        }
        if let Some(functions) = &self.details.functions {
            page.prose(
                "Where the instructions are (baseline is the good kernel, candidate the bad one):",
            );
            page.quote(functions.as_bytes(), QUOTED_LINES);
        }
    }

    fn taint(&self, page: &mut Page) {
        let example = self.failure.example(self.report.record);
        let printed = self.finding().and_then(|finding| finding.taint.clone());
        let read = example.and_then(|(boot, trial)| {
            let state = trial.and_then(|trial| trial.before.as_ref()).or(boot.after_boot.as_ref());
            state.map(|state| letters(state.taint))
        });
        let linked = self.finding().map(|finding| finding.modules.join(" ")).unwrap_or_default();
        let loaded = || example.map(|(boot, _)| boot.planned.modules.join(" ")).unwrap_or_default();
        let modules = if linked.is_empty() { loaded() } else { linked };
        page.heading("Taint and modules");
        page.prose(&match printed.or(read).as_deref() {
            None => "It is not known whether the kernel was tainted.".to_owned(),
            Some("") => "The kernel was not tainted.".to_owned(),
            Some(letters) => format!("The kernel was tainted: {}.", taint_words(letters)),
        });
        page.prose(&match modules.as_str() {
            "" => "No modules were loaded for it.".to_owned(),
            modules => format!("Modules: {}.", tame(modules)),
        });
    }

    fn reproducer(&self, page: &mut Page) {
        let plan = &self.report.record.plan;
        let example = self.failure.example(self.report.record);
        let shape =
            example.map_or_else(MachineShape::default, |(boot, _)| boot.planned.shape.clone());
        page.heading("How to reproduce it");
        page.prose("With kgate:");
        let reference = public_reference(&plan.candidate.reference);
        let command = view::boot_command(&reference, self.failure.scenario(), &shape);
        page.quote(command.as_bytes(), 1);
        page.prose("By hand, in any machine that runs the kernel, or in QEMU like this:");
        let line = self.details.command_line.clone().unwrap_or_else(|| {
            let own = shape.kernel_args.iter().map(|argument| format!(" {argument}"));
            format!("console=ttyS0 panic=-1{}", own.collect::<String>())
        });
        let exact = example.is_some_and(|(boot, _)| boot.planned.start == Start::Exact);
        let nic = if shape.network { " -nic user,model=virtio-net-pci" } else { " -nic none" };
        let accel = if exact { "tcg -icount shift=0,sleep=off" } else { self.fact("accelerator") };
        let qemu = format!(
            "qemu-system-x86_64 -machine {} -accel {accel} -cpu {} \\\n  -smp {} -m {}M -nographic \
             -no-reboot{nic} \\\n  -kernel vmlinuz -initrd initramfs \\\n  -append {}",
            if exact { "pc" } else { "q35" },
            view::quoted(shape.cpu_model.as_deref().unwrap_or("max")),
            shape.cpus,
            shape.memory >> 20,
            view::quoted(line.trim())
        );
        page.quote(qemu.as_bytes(), 4);
        page.prose(
            "(vmlinuz is the kernel's image, initramfs one with a busybox or a distribution and the \
             modules named here.)",
        );
        match &self.details.steps {
            Some(steps) => {
                page.prose("and there, as root:");
                page.quote(steps.as_bytes(), REPORT_LINES);
            }
            None if self.failure.scenario().is_none() => {
                page.prose("Nothing but booting is needed.")
            }
            None => {}
        }
    }

    fn environment(&self, page: &mut Page) {
        let example = self.failure.example(self.report.record);
        page.heading("Environment");
        let qemu = tame(self.fact("qemu").trim_start_matches("QEMU emulator version "));
        let mut machine = format!("QEMU {} (accelerator {})", qemu, self.fact("accelerator"));
        if let Some((boot, _)) = example {
            let shape = &boot.planned.shape;
            machine += &format!(
                ", x86_64, CPU model {}, {} CPU{}, {} MiB of memory",
                tame(shape.cpu_model.as_deref().unwrap_or("the default")),
                shape.cpus,
                if shape.cpus == 1 { "" } else { "s" },
                shape.memory >> 20
            );
            page.prose(&format!("Machine: {machine}."));
            page.prose(&format!(
                "Userland: {}.",
                match &*boot.planned.image {
                    "base" => "a busybox in an initramfs, no distribution".to_owned(),
                    image => format!("Debian packages (kgate's image {})", tame(image)),
                }
            ));
        } else {
            page.prose(&format!("Machine: {machine}."));
        }
        if let Some(line) = &self.details.command_line {
            page.prose("Command line of the kernel:");
            page.quote(line.as_bytes(), 1);
        }
        let [good, bad] = Role::ALL.map(|role| {
            let like = |boot: &&PlannedBoot| {
                example.is_some_and(|(e, _)| {
                    let e = &e.planned;
                    (boot.role, boot.number, &boot.image, boot.start)
                        == (role, e.number, &e.image, e.start)
                })
            };
            let boot = self.report.record.plan.boots.iter().find(like);
            boot.map_or_else(Vec::new, |boot| boot.shape.kernel_args.clone())
        });
        if good != bad {
            page.prose("The two kernels were given different arguments (good, then bad):");
            let told = |args: &[String]| match args {
                [] => "none".to_owned(),
                args => args.join(" "),
            };
            page.quote(format!("{}\n{}", told(&good), told(&bad)).as_bytes(), 2);
        }
    }

    fn files(&self, page: &mut Page) {
        if self.details.files.is_empty() {
            return;
        }
        page.heading("Files");
        page.prose("So that this mail stays small, I send these as replies to it:");
        let files = self.details.files.iter().map(|(name, what)| format!("{name:<22} {what}"));
        page.quote(files.collect::<Vec<_>>().join("\n").as_bytes(), QUOTED_LINES);
    }

    fn finding(&self) -> Option<&Finding> {
        let seen = self.failure.finding.map(|delta| &delta.finding);
        self.details.finding.as_ref().or(seen)
    }

    fn fact(&self, name: &str) -> &str {
        self.report.record.facts.get(name).map_or("unknown", String::as_str)
    }
}

fn numbers(metric: &Comparison, page: &mut Page) {
    let value = |side: &Option<Side>| {
        side.as_ref().map_or("-".to_owned(), |side| view::value(side.value, &metric.unit))
    };
    let place = match &metric.place {
        Place::Scenario { scenario, .. } => tame(scenario),
        memory => tame(&memory.to_string()),
    };
    let (good, bad) = (value(&metric.baseline), value(&metric.candidate));
    let (label, change) = (tame(&metric.label()), view::change(metric));
    page.quote(
        format!("metric: {label}, {place}\ngood:   {good}\nbad:    {bad}\nchange: {change}")
            .as_bytes(),
        4,
    );
}

/// A stack with its lines of source.
fn stack(finding: &Finding) -> String {
    let mut lines: Vec<String> = (finding.frames.iter().take(FRAMES))
        .map(|frame| {
            let mut frame = frame.clone();
            if let Some(source) = &mut frame.source {
                source.file = source_path(&source.file).to_owned();
            }
            format!("{}{}", if frame.reliable { "" } else { "? " }, log::frame(&frame))
        })
        .collect();
    if finding.frames.len() > FRAMES {
        lines.push(format!("and {} more", finding.frames.len() - FRAMES));
    }
    lines.join("\n")
}

/// The path of a source file in the kernel's tree, as far as it can be told: without the directory in which
/// somebody built it.
fn source_path(file: &str) -> &str {
    let file = file.strip_prefix("./").unwrap_or(file);
    if !file.starts_with('/') {
        return file;
    }
    // /build/linux-6.1.192/net/ipv4/tcp.c
    // include/linux is in the tree.
    let tree = (file.rmatch_indices("/linux"))
        .filter(|(at, _)| !file[..*at].ends_with("/include"))
        .find_map(|(at, _)| file[at + 1..].split_once('/'));
    tree.or(file.rsplit_once('/')).map_or(file, |(_, path)| path)
}

/// Where in the kernel's tree a finding is charged to: the source file, where the report or debug
/// information tells it.
pub fn source_file(finding: &Finding) -> Option<String> {
    log::source(finding).map(|(file, _)| source_path(&file).to_owned())
}

/// The module that a finding is charged to.
pub fn module(finding: &Finding) -> Option<&str> {
    let charged = |frame: &&kgate_model::finding::Frame| {
        Some(frame.function.as_str()) == finding.function.as_deref()
    };
    let reliable = || finding.frames.iter().filter(|frame| frame.reliable);
    reliable().find(charged).or_else(|| reliable().next())?.module.as_deref()
}

/// The words of `/proc/version` without who built it where: `(joe@host)` is nobody's business.
pub fn without_builder(banner: &str) -> String {
    let builder = banner.split_inclusive(')').find_map(|part| {
        let (_, inner) = part.strip_suffix(')')?.rsplit_once('(')?;
        (inner.contains('@') && !inner.contains(' ')).then_some(inner)
    });
    let banner = match builder {
        Some(builder) => banner.replacen(builder, "builder", 1),
        None => banner.to_owned(),
    };
    clean(&banner)
}

/// A reference without the directories of the controller.
fn public_reference(reference: &str) -> String {
    if reference.starts_with("apt:") || reference == "running" {
        return reference.to_owned();
    }
    let path = reference.split(',').next().unwrap_or_default().trim_end_matches('/');
    let name = path.rsplit('/').next().unwrap_or_default();
    if matches!(name, "" | "." | "..") { "KERNEL".to_owned() } else { name.to_owned() }
}

/// The letters of `/proc/sys/kernel/tainted`.
fn letters(taint: u64) -> String {
    let set = TAINTS.iter().zip(0..).filter(|(_, bit)| taint >> bit & 1 == 1);
    set.map(|((letter, _), _)| *letter).collect()
}

fn taint_words(letters: &str) -> String {
    let word = |letter: char| {
        let known = TAINTS.iter().find(|(known, _)| *known == letter);
        known.map_or_else(
            || tame(&letter.to_string()),
            |(letter, word)| format!("{word} ({letter})"),
        )
    };
    letters.chars().map(word).collect::<Vec<_>>().join(", ")
}

/// A version for a reader: a commit is shortened.
fn version(version: &str) -> String {
    match commit_id(version) {
        Some(id) => id[..12].to_owned(),
        None => tame(version.strip_prefix('v').unwrap_or(version)),
    }
}

/// A version or commit as git and regzbot take it: `v6.1.170`, `v6.12`.
fn tag(version: &str) -> Option<String> {
    if let Some(id) = commit_id(version) {
        return Some(id.to_owned());
    }
    let number = version.strip_prefix('v').unwrap_or(version);
    // `6.8.0-45-generic` is none of upstream's.
    let (numbers, candidate) = number.split_once("-rc").unwrap_or((number, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let known = numbers.contains('.') && numbers.split('.').chain([candidate]).all(is_number);
    // A major version is tagged with two numbers.
    let number = match number.strip_suffix(".0") {
        Some(major) if major.contains('.') => major,
        _ => number,
    };
    known.then(|| format!("v{number}"))
}

fn commit_id(text: &str) -> Option<&str> {
    let hex = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    (hex && (12..=64).contains(&text.len())).then_some(text)
}

/// Text of a guest or of a user in one line of a sentence.
fn tame(text: &str) -> String {
    without_commands(&bounded(&clean(text), SENTENCE))
}

/// Only the mail itself gives orders to regzbot.
fn without_commands(text: &str) -> String {
    text.replace("#regzb", "# regzb")
}

fn last_lines(bytes: &[u8], lines: usize) -> String {
    let text = clean_block(bytes);
    let all: Vec<&str> = text.trim_end().lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn heading(&mut self, heading: &str) {
        self.text += &format!("== {heading} ==\n\n");
    }

    fn line(&mut self, line: &str) {
        self.text += line;
        self.text.push('\n');
    }

    fn prose(&mut self, text: &str) {
        for line in wrap(text, COLUMNS) {
            self.line(&line);
        }
        self.line("");
    }

    /// Lines as they are, set in, of which the end is left out when they are many.
    fn quote(&mut self, text: &[u8], most: usize) {
        let text = clean_block(text);
        let lines: Vec<&str> = text.trim_end().lines().collect();
        for line in lines.iter().take(most) {
            let line = without_commands(&bounded(line, LINE));
            self.line(format!("  {line}").trim_end());
        }
        if lines.len() > most {
            self.line(&format!("  [{} more lines]", lines.len() - most));
        }
        self.line("");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_paths() {
        for (version, expected) in [
            ("6.1.170", Some("v6.1.170")),
            ("v6.1.170", Some("v6.1.170")),
            ("6.12.0", Some("v6.12")),
            ("6.12", Some("v6.12")),
            ("7.2-rc3", Some("v7.2-rc3")),
            ("6.10", Some("v6.10")),
            (
                "1f2e3d4c5d6b1f2e3d4c5d6b1f2e3d4c5d6b1f2e",
                Some("1f2e3d4c5d6b1f2e3d4c5d6b1f2e3d4c5d6b1f2e"),
            ),
            ("next", None),
            ("6.8.0-45-generic", None),
            ("5.14.0-427.el9.x86_64", None),
            ("6.13-rc", None),
            ("6.1 #regzbot", None),
        ] {
            assert_eq!(tag(version).as_deref(), expected, "{version}");
        }
        for (file, expected) in [
            ("net/ipv4/tcp.c", "net/ipv4/tcp.c"),
            ("./net/ipv4/tcp.c", "net/ipv4/tcp.c"),
            ("/data/joe/linux/net/ipv4/tcp.c", "net/ipv4/tcp.c"),
            ("/build/linux-6.1.192/include/linux/list.h", "include/linux/list.h"),
            ("/data/joe/k/net/ipv4/tcp.c", "tcp.c"),
        ] {
            assert_eq!(source_path(file), expected);
        }
        for (reference, expected) in [
            ("apt:linux-image-amd64=6.1.192-2", "apt:linux-image-amd64=6.1.192-2"),
            ("/data/joe/kernels/linux.deb", "linux.deb"),
            ("/data/joe/bzImage,modules=/data/joe/mods", "bzImage"),
            ("/data/joe/tree/", "tree"),
            ("/", "KERNEL"),
        ] {
            assert_eq!(public_reference(reference), expected);
        }
        let banner = "6.1.7 (joe@laptop.corp) (gcc (Debian 12.2.0-14) 12.2.0, GNU ld 2.40) #1 SMP";
        let public = "6.1.7 (builder) (gcc (Debian 12.2.0-14) 12.2.0, GNU ld 2.40) #1 SMP";
        assert_eq!(without_builder(banner), public);
        assert_eq!(letters(0x1200), "WO");
    }
}
