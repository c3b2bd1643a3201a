//! Whom a regression is to be told to, and why.

use std::fs;
use std::path::Path;
use std::time::Duration;

use kgate_kernel::Kernel;
use kgate_model::finding::Finding;
use kgate_model::host::{Host, HostCommand};
use kgate_release::{Maintainers, Section, Subsystem};
use kgate_report::{Commit, Mailbox, Recipient, module, source_file};
use kgate_scenario::{Action, Scenario};

use crate::args::regression::MailArgs;
use crate::error::{CommandError, at};
use crate::text;

/// Looking one commit up takes no longer.
const LOOK: Duration = Duration::from_secs(60);
/// No MAINTAINERS file is larger.
const FILE_BOUND: u64 = 16 << 20;
/// More would be noise.
const MOST: usize = 24;
/// Section whose lists get everything, and whose maintainer is not asked about all of it.
const REST: &str = "THE REST";
/// Where regressions are followed up, and where those of stable branches are dealt with.
const REGRESSIONS: &str = "regressions@lists.linux.dev";
const STABLE: &str = "stable@vger.kernel.org";

/// A culprit with everything that is asked of it.
pub(crate) struct Culprit {
    pub(crate) commit: Commit,
    author: String,
    signed_off: Vec<String>,
    files: Vec<String>,
}

/// Reads a commit.
pub(crate) fn culprit(
    host: &dyn Host,
    repository: &Path,
    id: &str,
) -> Result<Culprit, CommandError> {
    if id.is_empty() || id.starts_with('-') {
        return Err(CommandError::usage(format!("`{}` is no commit", text::line(id))));
    }
    let format = "--format=%H%n%s%n%aN <%aE>%n%(trailers:key=Signed-off-by,valueonly)";
    let object = format!("{id}^{{commit}}");
    let told = git(host, repository, &["show", "--no-patch", format, &object])?;
    let mut lines = told.lines().map(str::to_owned);
    let mut next = || lines.next().unwrap_or_default();
    let (id, subject, author) = (next(), next(), next());
    let signed_off = lines.filter(|line| !line.is_empty()).take(100).collect();
    let tree = ["diff-tree", "--no-commit-id", "--name-only", "--root", "-r", &id];
    let files = git(host, repository, &tree)?.lines().take(100).map(str::to_owned).collect();
    Ok(Culprit { commit: Commit { id, subject }, author, signed_off, files })
}

/// The MAINTAINERS file that is at hand.
pub(crate) fn maintainers(
    host: &dyn Host,
    args: &MailArgs,
    culprit: Option<&Culprit>,
) -> Result<Option<Maintainers>, CommandError> {
    let text = match (&args.maintainers, &args.git) {
        (Some(path), _) => {
            let path = if path.is_dir() { &path.join("MAINTAINERS") } else { path };
            if fs::metadata(path).map_err(at(path))?.len() > FILE_BOUND {
                let path = text::line(&path.display().to_string());
                return Err(CommandError::usage(format!(
                    "{path}: too large for a MAINTAINERS file"
                )));
            }
            String::from_utf8_lossy(&fs::read(path).map_err(at(path))?).into_owned()
        }
        (None, Some(repository)) => {
            let from = culprit.map_or("HEAD", |culprit| &culprit.commit.id);
            git(host, repository, &["show", &format!("{from}:MAINTAINERS")])?
        }
        (None, None) => return Ok(None),
    };
    Ok(Some(Maintainers::parse(&text)))
}

fn git(host: &dyn Host, repository: &Path, args: &[&str]) -> Result<String, CommandError> {
    let command = HostCommand::new("git", LOOK).arg("-C").arg(repository).args(args);
    let output = host.run(&command).map_err(|error| {
        CommandError::infrastructure(format!("git {}: {error}", args.first().unwrap_or(&"")))
    })?;
    if output.code != Some(0) {
        let why = String::from_utf8_lossy(&output.stderr);
        let why = text::line(why.lines().next().unwrap_or("git said nothing"));
        let repository = text::line(&repository.display().to_string());
        return Err(CommandError::usage(format!("{repository}: {why}")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What is known of the place that fails.
pub(crate) struct Place<'a> {
    pub(crate) culprit: Option<&'a Culprit>,
    pub(crate) finding: Option<&'a Finding>,
    pub(crate) scenario: Option<&'a Scenario>,
    pub(crate) kernel: Option<&'a Kernel>,
}

impl Place<'_> {
    /// Paths of the kernel's tree that are to blame, and whether they are more than a guess.
    fn paths(&self) -> (Vec<String>, bool) {
        if let Some(culprit) = self.culprit {
            return (culprit.files.clone(), true);
        }
        if let Some(file) = self.finding.and_then(source_file) {
            return (vec![file], true);
        }
        let of_module = |name: &str| self.kernel.and_then(|kernel| module_path(kernel, name));
        if let Some(path) = self.finding.and_then(module).and_then(of_module) {
            return (vec![path], true);
        }
        let Some(scenario) = self.scenario else { return (Vec::new(), false) };
        let modules: Vec<_> =
            scenario.requires.modules.iter().filter_map(|m| of_module(m)).collect();
        if !modules.is_empty() {
            return (modules, false);
        }
        let operations = scenario.steps.iter().filter_map(|step| match &step.action {
            Action::Measure(measure) => Some(measure.op.as_str()),
            _ => None,
        });
        // What every scenario uses says nothing of this one.
        let usual = Subsystem::of_names([]);
        let named = Subsystem::of_names([scenario.id.as_str()].into_iter().chain(operations));
        let own = named.into_iter().filter(|subsystem| !usual.contains(subsystem));
        (own.filter_map(|subsystem| Some(subsystem.paths().next()?.to_owned())).collect(), false)
    }
}

/// The source of a module, by where its file lies: `net/netfilter/nf_conntrack.c`.
fn module_path(kernel: &Kernel, name: &str) -> Option<String> {
    let name = name.replace('-', "_");
    let (_, path) = kernel.modules.iter().find(|(known, _)| *known == name)?;
    let path = path.strip_prefix(kernel.modules.root()?).ok()?.to_str()?;
    let path = path.strip_prefix("kernel/").unwrap_or(path);
    Some(format!("{}.c", path.split_once(".ko")?.0))
}

/// Everyone who is to be told, each once, with the reason, and what could not be found out.
pub(crate) fn recipients(
    place: &Place<'_>,
    maintainers: Option<&Maintainers>,
    stable: Option<&str>,
) -> (Vec<Recipient>, Vec<String>) {
    let mut book = Book::default();
    if let Some(branch) = stable {
        book.add(STABLE, true, format!("a regression between releases of {branch}"));
    }
    if let Some(culprit) = place.culprit {
        book.add(&culprit.author, true, "author of the culprit".to_owned());
        for name in &culprit.signed_off {
            book.add(name, false, "signed off the culprit".to_owned());
        }
    }
    let (paths, known) = place.paths();
    let mut found = false;
    for path in &paths {
        let sections = maintainers.map_or_else(Vec::new, |m| m.sections_of(path));
        // Of a guess, only whose it is first of all.
        for section in sections.into_iter().take(if known { usize::MAX } else { 1 }) {
            found |= section.title != REST;
            book.section(section, path, stable.is_none());
        }
    }
    book.add(REGRESSIONS, book.all.is_empty(), "every regression".to_owned());
    match (maintainers, paths.as_slice()) {
        (_, []) => book.notes.push(
            "where in the kernel it fails is not known: name debug information with --debug-info, or add \
             the subsystem's maintainers and list by hand"
                .to_owned(),
        ),
        (None, paths) => book.notes.push(format!(
            "the maintainers are not among them: name MAINTAINERS with --maintainers or --git, or ask \
             scripts/get_maintainer.pl -f {}",
            paths.join(" ")
        )),
        (Some(_), paths) if !known && found => book.notes.push(format!(
            "the subsystem is a guess by what the scenario does ({}): check it",
            paths.join(", ")
        )),
        (Some(_), paths) if !found => {
            book.notes.push(format!("MAINTAINERS names nobody for {}", paths.join(", ")));
        }
        (Some(_), _) => {}
    }
    (book.all, book.notes)
}

#[derive(Default)]
struct Book {
    all: Vec<Recipient>,
    notes: Vec<String>,
}

impl Book {
    fn section(&mut self, section: &Section, path: &str, to: bool) {
        let title = &section.title;
        let rest = title == REST;
        for maintainer in section.values('M').filter(|_| !rest) {
            self.add(maintainer, to, format!("maintainer of {title} ({path})"));
        }
        for reviewer in section.values('R').filter(|_| !rest) {
            self.add(reviewer, false, format!("reviewer of {title} ({path})"));
        }
        for list in section.values('L').filter(|list| !list.contains("subscribers-only")) {
            self.add(list, false, format!("list of {title} ({path})"));
        }
    }

    fn add(&mut self, text: &str, to: bool, reason: String) {
        let Some(mailbox) = Mailbox::parse(text) else {
            self.notes.push(format!("`{text}` is no plain address ({reason}): left out"));
            return;
        };
        let same =
            |known: &Recipient| known.mailbox.address().eq_ignore_ascii_case(mailbox.address());
        match self.all.iter().position(same) {
            Some(known) => self.all[known].to |= to,
            None if self.all.len() < MOST => self.all.push(Recipient { mailbox, to, reason }),
            None => self.notes.push(format!("{mailbox} left out, there are too many ({reason})")),
        }
    }
}
