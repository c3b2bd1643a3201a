//! Commits of a git repository: which lie between two, checking one out apart from the user's own
//! checkout, and building it by the user's command.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kgate_kernel::Reference;
use kgate_machine::process::{Pages, Process};
use kgate_model::host::Host;
use serde::{Deserialize, Serialize};

use super::setup::Point;
use crate::error::{CommandError, at};
use crate::git::Git;
use crate::text::line;

/// A question about the repository is answered within this time.
const ASK: Duration = Duration::from_secs(300);
/// A checkout is done within this time.
const CHECK_OUT: Duration = Duration::from_secs(1800);
/// Characters of a commit's number that a person sees.
const SHORT: usize = 12;
/// More commits are not bisected: the list of them has to come in one piece.
const MOST: usize = 100_000;
/// Says that a build's output is whole.
const DONE: &str = "done";
/// What a build leaves to name its kernel is not larger.
const NAME_BOUND: u64 = 4096;

/// The shell around a build. What it starts ends with kgate, however that ends: only the shell itself is
/// killed with it, so something in its process group looks whether both live. Arguments: kgate's
/// number, the log, the directory, the command.
const BUILD: &str = r#"
(while kill -0 "$1" && kill -0 "$$"; do sleep 1; done; kill -KILL 0) >/dev/null 2>&1 &
exec >"$2" 2>&1 && cd "$3" && exec sh -c "$4""#;

/// A repository and how its commits are built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Repository {
    pub(crate) path: PathBuf,
    /// For the shell.
    pub(crate) build: String,
    /// Seconds that it may take.
    pub(crate) timeout_s: u64,
}

/// A commit for a person. All of it may hold anything.
pub(crate) struct Description {
    pub(crate) subject: String,
    pub(crate) author: String,
    pub(crate) date: String,
}

impl Repository {
    fn git(
        host: &dyn Host,
        dir: &Path,
        args: &[&str],
        timeout: Duration,
    ) -> Result<String, CommandError> {
        let answer = Git::new(host, dir, timeout).text(args);
        let place = || format!("git {} in {}", args.first().unwrap_or(&""), dir.display());
        answer.map_err(|error| error.infrastructure(&place()))
    }

    fn ask(&self, host: &dyn Host, args: &[&str]) -> Result<String, CommandError> {
        Self::git(host, &self.path, args, ASK)
    }

    /// The commit that a revision means.
    pub(crate) fn commit(&self, host: &dyn Host, revision: &str) -> Option<String> {
        let revision = format!("{revision}^{{commit}}");
        let args = ["rev-parse", "--quiet", "--verify", "--end-of-options", &revision];
        Some(self.ask(host, &args).ok()?.trim().to_owned())
    }

    /// All commits that `bad` has and `good` has not, parents first, `good` before them. If `bad` did not
    /// come from `good`, what both came from is the good end.
    pub(crate) fn between(
        &self,
        host: &dyn Host,
        good: &str,
        bad: &str,
    ) -> Result<Vec<Point>, CommandError> {
        let base = self
            .ask(host, &["merge-base", good, bad])
            .map_err(|_| CommandError::usage(format!("{good} and {bad} have nothing in common")))?;
        let good = base.trim();
        if good == bad {
            return Err(CommandError::usage("the bad end does not come after the good one"));
        }
        let range = format!("{good}..{bad}");
        let text =
            self.ask(host, &["rev-list", "--parents", "--topo-order", "--reverse", &range])?;
        let mut numbers: HashMap<&str, usize> = HashMap::from([(good, 0)]);
        let mut points = vec![Point::commit(good, Vec::new())];
        for entry in text.lines() {
            let mut words = entry.split(' ');
            let Some(commit) = words.next() else { continue };
            let parents = words.filter_map(|parent| numbers.get(parent).copied()).collect();
            numbers.insert(commit, points.len());
            points.push(Point::commit(commit, parents));
        }
        if points.len() > MOST {
            return Err(CommandError::usage(format!(
                "there are {} commits between the ends; at most {MOST} can be bisected",
                points.len()
            )));
        }
        Ok(points)
    }

    /// Subject and author of a commit.
    pub(crate) fn describe(&self, host: &dyn Host, commit: &str) -> Option<Description> {
        let args = ["log", "-1", "--format=%s%x00%an <%ae>%x00%as", commit];
        let text = self.ask(host, &args).ok()?;
        let mut parts = text.trim_end().split('\0').map(line);
        Some(Description { subject: parts.next()?, author: parts.next()?, date: parts.next()? })
    }

    /// Checks a commit out to a directory of its own and builds it. `Ok(Err)` says why it doesn't build.
    ///
    /// The directory is a clone that has its objects from the repository: nothing in that is touched, not
    /// even its list of work trees.
    pub(crate) async fn build(
        &self,
        host: &dyn Host,
        place: &Place,
        commit: &str,
    ) -> Result<Result<String, String>, CommandError> {
        let Place { source, output, log, built } = place;
        if let Some(kernel) = place.kept()? {
            return Ok(Ok(kernel));
        }
        if fs::read_to_string(built).is_ok_and(|known| known == commit)
            && let Some(kernel) = place.kernel()?
        {
            return Ok(Ok(kernel));
        }
        match fs::remove_file(built) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(at(built)(error));
            }
            _ => {}
        }
        if !source.join(".git").is_dir() {
            let (from, to) = (self.path.as_os_str(), source.as_os_str());
            let clone = ["clone", "--quiet", "--shared", "--no-checkout", "--template=", "--"];
            let clone: Vec<_> = clone.iter().map(OsStr::new).chain([from, to]).collect();
            let here = Git::new(host, Path::new("."), CHECK_OUT);
            here.bytes(&clone).map_err(|error| error.infrastructure("git clone"))?;
        }
        let checkout = ["checkout", "--quiet", "--force", "--detach", commit];
        Self::git(host, source, &checkout, CHECK_OUT)?;
        fs::create_dir_all(output).map_err(at(output))?;
        let shell = [
            set("KGATE_COMMIT", commit.as_ref()),
            set("KGATE_SOURCE", source.as_os_str()),
            set("KGATE_OUTPUT", output.as_os_str()),
            "sh".into(),
            "-c".into(),
            BUILD.into(),
            "sh".into(),
            std::process::id().to_string().into(),
            log.into(),
            source.into(),
            (&self.build).into(),
        ];
        let mut process = Process::spawn(Path::new("env"), &shell, Vec::new(), Pages::Any)?;
        let limit = Duration::from_secs(self.timeout_s);
        let status = match tokio::time::timeout(limit, process.wait()).await {
            Ok(status) => status?,
            Err(_) => {
                let (limit, log) = (self.timeout_s, log.display());
                return Ok(Err(format!("the build took longer than {limit} s, see {log}")));
            }
        };
        drop(process);
        if !status.success() {
            return Ok(Err(format!("it does not build ({status}), see {}", log.display())));
        }
        let Some(kernel) = place.kernel()? else {
            return Ok(Err("the build left an empty name of a kernel".to_owned()));
        };
        fs::write(built, commit).map_err(at(built))?;
        let done = output.join(DONE);
        fs::write(&done, "").map_err(at(&done))?;
        Ok(Ok(kernel))
    }
}

fn set(name: &str, value: &OsStr) -> OsString {
    let mut text = OsString::from(name);
    text.push("=");
    text.push(value);
    text
}

impl Point {
    fn commit(id: &str, parents: Vec<usize>) -> Self {
        Self { id: id.to_owned(), name: id.chars().take(SHORT).collect(), parents }
    }
}

/// Where one build after the other is made.
pub(crate) struct Place {
    /// The checkout.
    pub(crate) source: PathBuf,
    /// For what the commit leaves.
    pub(crate) output: PathBuf,
    /// What the build prints.
    pub(crate) log: PathBuf,
    /// Says which commit the checkout has, built.
    pub(crate) built: PathBuf,
}

impl Place {
    /// In a bisection's directory, for a commit in the checkout `name`.
    pub(crate) fn new(dir: &Path, name: &str, commit: &str) -> Self {
        let builds = dir.join("builds");
        Self {
            source: dir.join(format!("source-{name}")),
            output: builds.join(commit),
            log: builds.join(format!("{commit}.log")),
            built: dir.join(format!("source-{name}.built")),
        }
    }

    /// The kernel that a build left: what `kernel` in its output names, or else the build tree.
    fn kernel(&self) -> Result<Option<String>, CommandError> {
        let path = self.output.join("kernel");
        let mut name = String::new();
        match File::open(&path) {
            Ok(file) => {
                file.take(NAME_BOUND).read_to_string(&mut name).map_err(at(&path))?;
            }
            Err(_) => return Ok(Some(self.source.display().to_string())),
        }
        let name = name.trim();
        if name.is_empty() {
            return Ok(None);
        }
        let reference = Reference::parse(name).map(|r| r.seen_from(&self.source).to_string());
        Ok(Some(reference.unwrap_or_else(|_| name.to_owned())))
    }

    /// A kernel that was left apart from the checkout, and so outlives it.
    fn kept(&self) -> Result<Option<String>, CommandError> {
        if !self.output.join(DONE).is_file() {
            return Ok(None);
        }
        let kernel = self.kernel()?;
        Ok(kernel.filter(|kernel| !kernel.contains(&*self.source.to_string_lossy())))
    }
}
