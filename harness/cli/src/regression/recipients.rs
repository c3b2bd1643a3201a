//! Whom a regression is to be told to, and why.

use std::path::Path;

use kgate_kernel::Kernel;
use kgate_model::finding::Finding;
use kgate_model::host::Host;
use kgate_release::{Maintainers, Section, Subsystem};
use kgate_report::{Commit, Mailbox, Recipient, module, source_file};
use kgate_scenario::{Action, Scenario};

use crate::args::regression::MailArgs;
use crate::error::CommandError;
use crate::releases::changes::git;
use crate::releases::delta::maintainers as read_maintainers;
use crate::text;

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
    if id.is_empty() || id.starts_with(['-', '^', ':']) || id.contains("..") {
        return Err(CommandError::usage(format!("`{}` is no commit", text::line(id))));
    }
    let format = "--format=%H%n%s%n%aN <%aE>%n%(trailers:key=Signed-off-by,valueonly)";
    let object = format!("{id}^{{commit}}");
    git(host, repository, &["rev-parse", "--git-dir"])?;
    git(host, repository, &["rev-parse", "--verify", "--quiet", &object]).map_err(|_| {
        let (repository, id) = (repository.display().to_string(), text::line(id));
        CommandError::usage(format!("{} has no commit {id}", text::line(&repository)))
    })?;
    let told = git(host, repository, &["show", "--no-patch", format, &object])?;
    let told = String::from_utf8_lossy(&told);
    let mut lines = told.lines().map(str::to_owned);
    let mut next = || lines.next().unwrap_or_default();
    let (id, subject, author) = (next(), next(), next());
    let signed_off = lines.filter(|line| !line.is_empty()).take(100).collect();
    let tree = ["diff-tree", "--no-commit-id", "--name-only", "--root", "-r", &id];
    let files = git(host, repository, &tree)?;
    let files = String::from_utf8_lossy(&files).lines().take(100).map(str::to_owned).collect();
    Ok(Culprit { commit: Commit { id, subject }, author, signed_off, files })
}

/// The MAINTAINERS file that is at hand.
pub(crate) fn maintainers(
    host: &dyn Host,
    args: &MailArgs,
    culprit: Option<&Culprit>,
    notes: &mut Vec<String>,
) -> Result<Option<Maintainers>, CommandError> {
    if let Some(path) = &args.maintainers {
        let inside = path.join("MAINTAINERS");
        return read_maintainers(if path.is_dir() { &inside } else { path }).map(Some);
    }
    let Some(repository) = &args.git else { return Ok(None) };
    let from = culprit.map_or("HEAD", |culprit| &culprit.commit.id);
    match git(host, repository, &["show", &format!("{from}:MAINTAINERS")]) {
        Ok(text) => Ok(Some(Maintainers::parse(&String::from_utf8_lossy(&text)))),
        // The repository has told what it was there for.
        Err(error) if culprit.is_some() => {
            notes.push(error.first_line());
            Ok(None)
        }
        Err(error) => Err(error),
    }
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
        // A merge has no files of its own.
        if let Some(culprit) = self.culprit.filter(|culprit| !culprit.files.is_empty()) {
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
            match place.finding {
                Some(_) => {
                    "where in the kernel it fails is not known: name debug information with --debug-info, or \
                     add the subsystem's maintainers and list by hand"
                }
                None => {
                    "where in the kernel it fails is not known: add the subsystem's maintainers and list by hand"
                }
            }
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

#[cfg(test)]
mod tests {
    use std::fs;

    use kgate_klog::{Source, parse};
    use kgate_machine::process::LocalHost;

    use super::*;

    const MAINTAINERS: &str = "NETFILTER\nM:\tAda Example <ada@example.org>\n\
         R:\tBo <bo@example.org>\nL:\tnf@example.org (moderated for non-subscribers)\n\
         L:\tclosed@example.org (subscribers-only)\nF:\tnet/netfilter/\n\n\
         THE REST\nM:\tCarl <carl@example.org>\nL:\tall@example.org\nF:\t*\nF:\t*/\n";

    /// A repository whose last commits are a change and a merge.
    fn repository() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        let git = |args: &[&str]| {
            let who = ["-c", "user.name=Joe", "-c", "user.email=joe@example.org"];
            git(&LocalHost, dir.path(), &[&who, args].concat()).unwrap();
        };
        git(&["init", "--quiet", "--initial-branch=master"]);
        fs::create_dir_all(at("net/netfilter")).unwrap();
        fs::write(at("MAINTAINERS"), MAINTAINERS).unwrap();
        git(&["add", "."]);
        git(&["commit", "--quiet", "--message", "Linux 6.1"]);
        fs::write(at("net/netfilter/core.c"), "1").unwrap();
        git(&["add", "."]);
        let message = "netfilter: count größer\n\n[ Upstream commit 0123456789ab ]\n\n\
             Fixes: 1da177e4c3f4 (\"Linux-2.6.12-rc2\")\n\
             Signed-off-by: Jürgen Größer, Jr. <juergen@example.org>\n\
             [ada: mended a comment]\nSigned-off-by: Ada Example <ada@example.org>\n\
             Signed-off-by: Nobody <nobody at example.org>\n";
        let author = "--author=Jürgen Größer, Jr. <juergen@example.org>";
        git(&["commit", "--quiet", author, "--message", message]);
        git(&["checkout", "--quiet", "-b", "side", "HEAD^"]);
        git(&["commit", "--quiet", "--allow-empty", "--message", "side"]);
        git(&["merge", "--quiet", "--no-edit", "master"]);
        // A user's settings that change what git prints.
        git(&["config", "log.showSignature", "true"]);
        git(&["config", "color.ui", "always"]);
        dir
    }

    fn told(place: &Place<'_>, maintainers: &Maintainers) -> String {
        let (recipients, notes) = recipients(place, Some(maintainers), Some("6.1"));
        let line = |r: &Recipient| {
            format!("{} {}: {}\n", if r.to { "To" } else { "Cc" }, r.mailbox, r.reason)
        };
        recipients.iter().map(line).chain(notes.iter().map(|n| format!("note: {n}\n"))).collect()
    }

    #[test]
    fn a_culprit_is_told_to_its_author_and_those_who_signed_it() {
        let dir = repository();
        let found = culprit(&LocalHost, dir.path(), "master").unwrap();
        assert_eq!(found.commit.subject, "netfilter: count größer");
        assert_eq!(
            (found.commit.id.len(), &*found.files),
            (40, &["net/netfilter/core.c".into()][..])
        );
        let args = MailArgs { git: Some(dir.path().to_owned()), ..MailArgs::default() };
        let mut notes = Vec::new();
        let list = maintainers(&LocalHost, &args, Some(&found), &mut notes).unwrap().unwrap();
        let place = |culprit| Place { culprit, finding: None, scenario: None, kernel: None };
        insta::assert_snapshot!(told(&place(Some(&found)), &list), @r"
        To stable@vger.kernel.org: a regression between releases of 6.1
        To Jürgen Größer, Jr. <juergen@example.org>: author of the culprit
        Cc Ada Example <ada@example.org>: signed off the culprit
        Cc Bo <bo@example.org>: reviewer of NETFILTER (net/netfilter/core.c)
        Cc nf@example.org: list of NETFILTER (net/netfilter/core.c)
        Cc all@example.org: list of THE REST (net/netfilter/core.c)
        Cc regressions@lists.linux.dev: every regression
        note: `Nobody <nobody at example.org>` is no plain address (signed off the culprit): left out
        ");
        let merge = culprit(&LocalHost, dir.path(), "side").unwrap();
        assert_eq!(place(Some(&merge)).paths(), (Vec::new(), false));
        for id in ["", "--output=x", "^master", ":MAINTAINERS", "master^..side", "nothing"] {
            assert!(culprit(&LocalHost, dir.path(), id).is_err(), "{id:?}");
        }
        // A repository without MAINTAINERS still tells the culprit, and nothing else.
        fs::remove_file(dir.path().join("MAINTAINERS")).unwrap();
        let who = ["-c", "user.name=Joe", "-c", "user.email=joe@example.org"];
        let remove = ["commit", "--quiet", "--all", "--message", "remove"];
        git(&LocalHost, dir.path(), &[&who[..], &remove].concat()).unwrap();
        let last = culprit(&LocalHost, dir.path(), "HEAD").unwrap();
        let none = maintainers(&LocalHost, &args, Some(&last), &mut notes).unwrap();
        assert!(none.is_none() && notes[0].contains("MAINTAINERS"), "{notes:?}");
        assert!(maintainers(&LocalHost, &args, None, &mut notes).is_err());
    }

    #[test]
    fn a_stack_in_a_module_is_told_to_those_who_maintain_its_file() {
        let Some(pair) = kgate_testkit::kernels::pair() else { return };
        // A report of a real kernel, as if it came from one of its own modules.
        let log = include_str!("../../../klog/tests/cases/6.12-warn.txt");
        let (_, log) = log.split_once("\n\n").unwrap();
        let log = log.replace("[kfault]", "[nf_conntrack]");
        let finding = |log: &str| parse(Source::Console, log.as_bytes()).remove(0);
        let list = Maintainers::parse(MAINTAINERS);
        let told = |finding: &Finding, kernel| {
            told(&Place { culprit: None, finding: Some(finding), scenario: None, kernel }, &list)
        };
        let named = finding(&log.replace(" at kfault.c:", " at net/netfilter/x.c:"));
        insta::assert_snapshot!(told(&named, None), @r"
        To stable@vger.kernel.org: a regression between releases of 6.1
        Cc Ada Example <ada@example.org>: maintainer of NETFILTER (net/netfilter/x.c)
        Cc Bo <bo@example.org>: reviewer of NETFILTER (net/netfilter/x.c)
        Cc nf@example.org: list of NETFILTER (net/netfilter/x.c)
        Cc all@example.org: list of THE REST (net/netfilter/x.c)
        Cc regressions@lists.linux.dev: every regression
        ");
        let unnamed = finding(&log.replace(" at kfault.c:38 ", " at "));
        insta::assert_snapshot!(told(&unnamed, Some(&pair.candidate)), @r"
        To stable@vger.kernel.org: a regression between releases of 6.1
        Cc Ada Example <ada@example.org>: maintainer of NETFILTER (net/netfilter/nf_conntrack.c)
        Cc Bo <bo@example.org>: reviewer of NETFILTER (net/netfilter/nf_conntrack.c)
        Cc nf@example.org: list of NETFILTER (net/netfilter/nf_conntrack.c)
        Cc all@example.org: list of THE REST (net/netfilter/nf_conntrack.c)
        Cc regressions@lists.linux.dev: every regression
        ");
        insta::assert_snapshot!(told(&unnamed, None), @r"
        To stable@vger.kernel.org: a regression between releases of 6.1
        Cc regressions@lists.linux.dev: every regression
        note: where in the kernel it fails is not known: name debug information with --debug-info, or add the subsystem's maintainers and list by hand
        ");
    }
}
