//! Bisections in this process: real repositories, checkouts, builds and runs. Only the machines are
//! scripted, each by what the commit that it boots says of itself.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use async_trait::async_trait;
use clap::Parser as _;
use kgate_kernel::Kernel;
use kgate_machine::{BootError, Pool};
use kgate_model::outcome::{Fault, FaultKind, Role};
use kgate_model::plan::Plan;
use kgate_release::bisect::{Answer, Ending};
use kgate_testkit::history::{Fate, History};
use kgate_testkit::kernels::boot_image;
use kgate_testkit::local::LocalPool;
use tempfile::TempDir;
use tokio::sync::watch;

use super::failure::{Failure, Symptom};
use super::journal::{Event, Journal};
use super::{Bisect, JOURNAL, create};
use crate::args::{Cli, Command as Kgate};
use crate::context::Context;
use crate::error::CommandError;
use crate::library::Source as Library;
use crate::run::Machines;

/// Histories that are bisected; `KGATE_BISECT_SEEDS` for more.
const SEEDS: u64 = 3;
const COMMITS: usize = 1000;

const WARNING: &str = "\
[    5.000000] ------------[ cut here ]------------\n\
[    5.000001] WARNING: CPU: 0 PID: 1 at net/core/dev.c:3200 skb_made_up+0x1a/0x40\n\
[    5.000002] CPU: 0 PID: 1 Comm: init Not tainted 6.1.0-test #1\n\
[    5.000003] RIP: 0010:skb_made_up+0x1a/0x40\n\
[    5.000004] Call Trace:\n\
[    5.000005]  <TASK>\n\
[    5.000006]  made_up_xmit+0x22/0x90\n\
[    5.000007]  </TASK>\n\
[    5.000008] ---[ end trace 0000000000000000 ]---\n";

/// Machines that do what the commit says.
struct Scripted;

#[async_trait(?Send)]
impl Machines for Scripted {
    async fn pool(
        &self,
        _: &Context,
        _: &Library,
        kernels: BTreeMap<Role, Kernel>,
        _: &Plan,
        _: &Path,
    ) -> Result<Box<dyn Pool>, CommandError> {
        let pool = LocalPool::new(1);
        for (role, kernel) in kernels {
            let says = fs::read_to_string(kernel.image.with_file_name("says"))?;
            match says.split(' ').next() {
                Some("bad") => pool.print_at(role.as_str(), WARNING),
                Some("crashes") => {
                    let fault = Fault::kernel(FaultKind::Panic, "Attempted to kill init!");
                    let (findings, tail) = (Vec::new(), Vec::new());
                    let error = BootError { fault, findings, tail, diagnosis: None };
                    pool.refuse(role.as_str(), [error]);
                }
                _ => {}
            }
        }
        Ok(Box::new(pool))
    }
}

/// A directory with a repository, a library and a boot image.
struct Bench {
    dir: TempDir,
    commits: HashMap<String, usize>,
}

impl Bench {
    fn new(history: &History) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for part in ["library/scenarios/subsystem", "library/workloads/profiles"] {
            fs::create_dir_all(dir.path().join(part)).unwrap();
        }
        let scenario = "kind: subsystem\nsummary: a test's\nsteps:\n  - run: 'true'\n";
        fs::write(dir.path().join("library/scenarios/subsystem/quick.yaml"), scenario).unwrap();
        let workload = "summary: a test's\nscenarios: [subsystem/*]\n";
        fs::write(dir.path().join("library/workloads/profiles/test.yaml"), workload).unwrap();
        let image = boot_image("6.1.0-test (builder@host) #1 SMP 2026-11-01", &[0; 16]);
        fs::write(dir.path().join("bzImage"), image).unwrap();
        let mut bench = Self { dir, commits: HashMap::new() };
        let repository = bench.path("repository");
        git(&bench, &["init", "--quiet", "--bare", "-b", "main", repository.to_str().unwrap()], "");
        let marks = bench.path("marks");
        let export = format!("--export-marks={}", marks.display());
        bench.in_repository(&["fast-import", "--quiet", &export], &history.fast_import());
        for line in fs::read_to_string(&marks).unwrap().lines() {
            let (mark, commit) = line[1..].split_once(' ').unwrap();
            bench.commits.insert(commit.to_owned(), mark.parse::<usize>().unwrap() - 1);
        }
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn in_repository(&self, args: &[&str], input: &str) -> String {
        let repository = self.path("repository");
        let args = [&["-C", repository.to_str().unwrap()], args].concat();
        git(self, &args, input)
    }

    fn commit(&self, number: usize) -> &str {
        let found = self.commits.iter().find(|(_, known)| **known == number);
        found.map(|(commit, _)| commit.as_str()).unwrap()
    }

    /// `kgate bisect` as far as its directory, with these options more.
    fn bisect(&self, history: &History, more: &[&str]) -> (Context, PathBuf) {
        let build = format!(
            "test \"$(cut -d' ' -f1 kernel)\" != broken && cp kernel $KGATE_OUTPUT/says && \
             cp {} $KGATE_OUTPUT/bzImage && echo $KGATE_OUTPUT/bzImage >$KGATE_OUTPUT/kernel && \
             test $KGATE_COMMIT = $(git rev-parse HEAD) && echo built",
            self.path("bzImage").display()
        );
        let (good, bad) = (self.commit(0), self.commit(history.parents.len() - 1));
        let over = format!("git:{}", self.path("repository").display());
        let path = |name: &str| self.path(name).display().to_string();
        let (library, dir, cache) = (path("library"), path("bisect"), path("cache"));
        let ends = ["--good", good, "--bad", bad, "--scenario", "subsystem/quick", "-w", "test"];
        let places = ["--library", &library, "--dir", &dir, "--cache", &cache];
        let args =
            [&["kgate", "bisect", "--over", &over, "--build", &build], &ends[..], &places, more];
        let args = args.concat();
        let Cli { command, global } = Cli::try_parse_from(args).unwrap();
        let Kgate::Bisect(args) = command else { panic!("another command") };
        let context = Context::new(global);
        let dir = create(&context, &args).unwrap_or_else(|error| panic!("{error}"));
        (context, dir)
    }

    /// The ending with its points as numbers of commits.
    fn numbered(&self, bisect: &Bisect<'_>, ending: &Ending) -> Vec<usize> {
        let number = |point: usize| self.commits[&bisect.setup.points[point].id];
        let mut numbers = match ending {
            Ending::Culprit(point) => vec![number(*point)],
            Ending::Range(points) => points.iter().map(|&point| number(point)).collect(),
        };
        numbers.sort_unstable();
        numbers
    }
}

/// Runs git to its end, and gives its output.
fn git(bench: &Bench, args: &[&str], input: &str) -> String {
    let mut child = Command::new("git")
        .args(args)
        .env("HOME", bench.dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("git");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "git {args:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Good and bad answers, skips, and boots of the points that were asked.
fn count(dir: &Path) -> (usize, usize, u32) {
    let journal = Journal::open(&dir.join(JOURNAL)).unwrap();
    let (mut answers, mut skips, mut boots) = (0, 0, 0);
    for event in journal.events() {
        if let Event::Answer { answer, sightings, verifies: false, .. } = event {
            if *answer == Answer::Skip {
                skips += 1
            } else {
                answers += 1
            }
            boots += sightings.boots;
        }
    }
    (answers, skips, boots)
}

#[tokio::test]
async fn the_right_commit_of_a_thousand_is_found() {
    let seeds = std::env::var("KGATE_BISECT_SEEDS").ok().and_then(|n| n.parse().ok());
    let bound = 1.3 * (COMMITS as f64).log2();
    let (mut all, mut ranges) = ((0, 0, 0), 0);
    for seed in 0..seeds.unwrap_or(SEEDS) {
        let began = Instant::now();
        let history = History::new(seed, COMMITS);
        let bench = Bench::new(&history);
        let (context, dir) = bench.bisect(&history, &[]);
        let (_interrupt, signals) = watch::channel(false);
        let mut bisect = Bisect::open(&context, &Scripted, &dir, 1, signals).unwrap();
        let ending = bisect.carry_out().await.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(bench.numbered(&bisect, &ending), history.alike(), "seed {seed}");
        let (answers, skips, boots) = count(&dir);
        assert!(f64::from(boots) <= bound, "seed {seed}: {boots} boots, {skips} skips");
        assert!(answers as f64 <= bound, "seed {seed}");
        all = (all.0 + answers, all.1 + skips, all.2 + boots);
        ranges += usize::from(matches!(ending, Ending::Range(_)));
        println!("{seed}: {answers} answers, {skips} skips, {:.1?}", began.elapsed());
    }
    println!("answers, skips, boots: {all:?}, {ranges} ranges");
}

#[tokio::test]
async fn a_bisection_is_taken_up_where_it_was_cut() {
    let history = History::new(1, 100);
    let bench = Bench::new(&history);
    let (context, dir) = bench.bisect(&history, &[]);
    let mut taken_up = 0;
    let ending = loop {
        let (interrupt, signals) = watch::channel(false);
        let mut bisect = Bisect::open(&context, &Scripted, &dir, 2, signals).unwrap();
        let known = bisect.journal.events().len();
        // After the first thing that it finds out, in the middle of the next.
        let journal = dir.join(JOURNAL);
        let interrupted = async {
            loop {
                let text = fs::read_to_string(&journal).unwrap_or_default();
                if text.matches('\n').count() > known {
                    interrupt.send_replace(true);
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        let end = tokio::select! {
            end = bisect.carry_out() => end,
            () = interrupted => unreachable!("it never ends"),
        };
        match end {
            Ok(ending) => break bench.numbered(&bisect, &ending),
            Err(error) => assert!(error.to_string().contains("--resume"), "{error}"),
        }
        taken_up += 1;
        assert!(taken_up < 40, "it goes on and on");
        // A kill may also cut a line.
        let mut text = fs::read_to_string(&journal).unwrap();
        text.push_str("{\"event\":\"ans");
        fs::write(&journal, text).unwrap();
    };
    assert!(taken_up > 2, "{taken_up}");
    assert_eq!(ending, history.alike());
    // No point was asked twice, and nothing in the repository was touched.
    let journal = Journal::open(&dir.join(JOURNAL)).unwrap();
    let mut asked = Vec::new();
    for event in journal.events() {
        if let Event::Answer { point, verifies: false, .. } = event {
            assert!(!asked.contains(point), "{point}");
            asked.push(*point);
        }
    }
    let repository = bench.path("repository");
    assert!(!repository.join("worktrees").exists());
    // git itself comes to the same by the log that is left for it.
    git(
        &bench,
        &["clone", "--quiet", repository.to_str().unwrap(), bench.path("clone").to_str().unwrap()],
        "",
    );
    let (clone, log) = (bench.path("clone"), dir.join("git-bisect.log"));
    let replay = ["-C", clone.to_str().unwrap(), "bisect", "replay", log.to_str().unwrap()];
    let said = git(&bench, &replay, "");
    let first = bench.commit(ending[0]);
    match ending.len() {
        1 => assert!(said.contains(&format!("{first} is the first bad commit")), "{said}"),
        _ => assert!(said.contains(first), "{said}"),
    }
}

#[tokio::test]
async fn an_end_that_is_not_what_it_was_said_to_be_is_refused() {
    let symptom = Symptom {
        scenario: Some("subsystem/quick".into()),
        failure: Failure::Finding { signature: "another".into(), title: "another".into() },
    };
    let unknown = "nothing failed on the candidate that could be bisected";
    // The first commit that is bad: none, and all.
    for (culprit, known, says) in [
        (99, None, unknown),
        (0, None, unknown),
        (99, Some("skb_made_up"), "is good: clean in 20 boots"),
        (0, Some("skb_made_up"), "is bad: it failed in 5 of 5 boots"),
        (1, Some("another"), "can't be judged: kernel panic: Attempted to kill init!"),
    ] {
        let mut fates = vec![Fate::Works; 9];
        if known == Some("another") {
            fates[8] = Fate::Crashes;
        }
        let history = History { culprit, fates, ..History::new(2, 9) };
        let bench = Bench::new(&history);
        let (context, dir) = bench.bisect(&history, &[]);
        if let Some(known) = known {
            let mut symptom = symptom.clone();
            if known != "another" {
                let found = kgate_klog::parse(kgate_klog::Source::Console, WARNING.as_bytes());
                symptom.failure = Failure::Finding {
                    signature: found[0].signature.clone(),
                    title: found[0].title.clone(),
                };
            }
            let mut journal = Journal::open(&dir.join(JOURNAL)).unwrap();
            journal.append(Event::Failure { symptom }).unwrap();
        }
        let (_interrupt, signals) = watch::channel(false);
        let mut bisect = Bisect::open(&context, &Scripted, &dir, 1, signals).unwrap();
        let error = bisect.carry_out().await.unwrap_err().to_string();
        assert!(error.contains(says), "{culprit} {known:?}: {error}");
    }
}
