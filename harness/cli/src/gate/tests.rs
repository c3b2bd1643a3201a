//! Weeks of releases played through `kgate gate`, job by job. Each job is a process of its own and is
//! killed where the script says; replaced are the clock, the feeds, and the machines, which are agents
//! on this controller.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use async_trait::async_trait;
use clap::Parser;
use jiff::ToSpan;
use jiff::civil::{Date, date};
use kgate_kernel::Kernel;
use kgate_machine::{BootError, BootRequest, Machine, Pool};
use kgate_model::outcome::{Fault, FaultKind, Role};
use kgate_model::plan::{MachineShape, Plan};
use kgate_release::state::{Entry, Event};
use kgate_release::{Branch, Version};
use kgate_testkit::kernels::boot_image;
use kgate_testkit::local::LocalPool;
use rustix::process::{Signal, getpid, kill_process};
use serde_json::json;
use tempfile::TempDir;

use super::carry_out;
use crate::args::{Cli, Command as Called};
use crate::context::Context;
use crate::error::CommandError;
use crate::library::Source;
use crate::run::Machines;
use crate::signals::watch_signals;

/// Tell a job what to do, and where it dies.
const ARGS: &str = "KGATE_YEAR_ARGS";
const FATE: &str = "KGATE_YEAR_FATE";

/// A release that always fails.
const BAD: &str = "KGATE_YEAR_BAD";

/// What happens to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It lives.
    Lives,
    /// Killed when the release is claimed and nothing runs yet.
    Claimed,
    /// Killed when the first machine has run.
    Running,
    /// Killed when the verdict is there and not yet written to the state.
    Decided,
    /// As [`Self::Decided`], in the middle of writing.
    Writing,
    /// Its machines can't be had.
    Broken,
}

const FATES: [Fate; 6] =
    [Fate::Lives, Fate::Claimed, Fate::Running, Fate::Decided, Fate::Writing, Fate::Broken];

fn die() -> ! {
    let _ = kill_process(getpid(), Signal::KILL);
    unreachable!("nothing survives that")
}

/// One job: this test binary, started again by a year.
#[test]
#[ignore = "started by the year"]
fn job() {
    let args = std::env::var(ARGS).expect("only a year starts this");
    let fate = std::env::var(FATE).unwrap();
    let fate = FATES.into_iter().find(|one| format!("{one:?}") == fate).unwrap();
    let cli = Cli::parse_from(args.lines());
    let Called::Gate(gate) = cli.command else { panic!("another command") };
    let context = Context::new(cli.global);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let machines = Fated { fate, bad: std::env::var(BAD).unwrap_or_default() };
    let code = runtime
        .block_on(async { carry_out(&context, &gate, &machines, watch_signals().unwrap()).await });
    std::process::exit(i32::from(code.unwrap_or_else(|error| {
        anstream::eprintln!("kgate: {error}");
        error.code()
    })));
}

/// Agents on this controller, and the end of the job that has them.
struct Fated {
    fate: Fate,
    bad: String,
}

#[async_trait(?Send)]
impl Machines for Fated {
    async fn pool(
        &self,
        _: &Context,
        _: &Source,
        _: BTreeMap<Role, Kernel>,
        plan: &Plan,
        _: &Path,
    ) -> Result<Box<dyn Pool>, CommandError> {
        match self.fate {
            Fate::Claimed => die(),
            Fate::Broken => return Err(CommandError::infrastructure("no machine is to be had")),
            _ => {}
        }
        let agents = LocalPool::new(2);
        if plan.candidate.release == self.bad {
            let fault = Fault::kernel(FaultKind::BootFailed, "not syncing");
            let error =
                BootError { fault, findings: Vec::new(), tail: Vec::new(), diagnosis: None };
            agents.refuse("candidate", vec![error; 20]);
        }
        Ok(Box::new(FatedPool { fate: self.fate, agents, boots: Cell::new(0) }))
    }
}

struct FatedPool {
    fate: Fate,
    agents: LocalPool,
    boots: Cell<u32>,
}

#[async_trait(?Send)]
impl Pool for FatedPool {
    fn has_room(&self, shape: &MachineShape, clone: bool) -> bool {
        self.agents.has_room(shape, clone)
    }

    fn facts(&self) -> BTreeMap<String, String> {
        self.agents.facts()
    }

    async fn boot(&self, request: &BootRequest) -> Result<Box<dyn Machine>, BootError> {
        self.boots.set(self.boots.get() + 1);
        if self.fate == Fate::Running && self.boots.get() == 2 {
            die();
        }
        self.agents.boot(request).await
    }
}

impl Drop for FatedPool {
    fn drop(&mut self) {
        // The run has decided and reported, and lets its machines go.
        if self.boots.get() > 0 && matches!(self.fate, Fate::Decided | Fate::Writing) {
            die();
        }
    }
}

/// One release of the year.
#[derive(Clone, Copy, Debug)]
struct Out {
    version: Version,
    date: Date,
}

/// A fleet, and what has come out.
struct Year {
    dir: TempDir,
    releases: Vec<Out>,
    longterm: Vec<Branch>,
    production: Version,
    bad: Option<Version>,
    chance: chance::Chance,
    /// Every job: what happened to it.
    jobs: BTreeMap<String, u32>,
}

/// Chance that repeats.
mod chance {
    pub(super) struct Chance(pub(super) u64);

    impl Chance {
        /// A number below `n`.
        pub(super) fn below(&mut self, n: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(self.0 >> 33).unwrap() % n
        }
    }
}

impl Year {
    fn new(releases: Vec<Out>, longterm: Vec<Branch>, production: &str, seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(
            "scenarios/subsystem/quick.yaml",
            "kind: subsystem\nsummary: a test's\nsteps:\n  - run: 'true'\n",
        );
        write(
            "workloads/profiles/fleet.yaml",
            "summary: a test's\nscenarios: [subsystem/quick]\npolicy: { boots: 1 }\n",
        );
        let production = production.parse().unwrap();
        let chance = chance::Chance(seed);
        let year =
            Self { dir, releases, longterm, production, bad: None, chance, jobs: BTreeMap::new() };
        year.kernel(production);
        year
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn kernel(&self, version: Version) -> PathBuf {
        let boot = self.path(&format!("kernels/{version}/boot"));
        let file = boot.join(format!("vmlinuz-{version}"));
        if !file.exists() {
            fs::create_dir_all(&boot).unwrap();
            let banner = format!("{version} (builder@host) #1 SMP");
            fs::write(file, boot_image(&banner, &[0; 16])).unwrap();
        }
        self.path(&format!("kernels/{version}"))
    }

    /// Writes what the world says on a day: kernel.org's page, the tags, and the kernels that can be
    /// had. Those of a branch that isn't used can be had for the newest release only.
    fn publish(&self, today: Date) {
        let out = || self.releases.iter().filter(|one| one.date <= today);
        let mut tags = String::new();
        let mut latest: BTreeMap<Branch, Out> = BTreeMap::new();
        for one in out() {
            writeln!(tags, "v{}\t{}", one.version, one.date).unwrap();
            let newest = latest.entry(one.version.branch).or_insert(*one);
            if one.version > newest.version {
                *newest = *one;
            }
        }
        fs::write(self.path("tags"), tags).unwrap();
        let newest = *latest.keys().next_back().unwrap();
        let releases = latest.iter().rev().filter_map(|(branch, one)| {
            let longterm = self.longterm.contains(branch);
            // Those before the last two branches have ended.
            let alive = longterm || *branch == newest || (today - one.date).get_days() < 21;
            let moniker = match (longterm, *branch == newest && one.version.patch == 0) {
                (_, true) => "mainline",
                (true, false) => "longterm",
                (false, false) => "stable",
            };
            alive.then(|| {
                json!({
                    "version": one.version, "moniker": moniker, "iseol": false,
                    "released": { "isodate": one.date },
                })
            })
        });
        let releases: Vec<_> = releases.collect();
        let page = json!({ "latest_stable": { "version": latest[&newest].version }, "releases": releases });
        fs::write(self.path("releases.json"), page.to_string()).unwrap();
        let used = self.production.branch;
        for one in out().filter(|one| one.version.branch == used && one.version > self.production) {
            self.kernel(one.version);
        }
        for branch in
            latest.keys().filter(|branch| **branch > used && self.longterm.contains(branch))
        {
            self.kernel(latest[branch].version);
        }
    }

    /// Starts one job.
    fn start(&mut self, today: Date, fate: Fate, more: &[&str]) -> Child {
        *self.jobs.entry(format!("{fate:?}")).or_default() += 1;
        let production = self.kernel(self.production).display().to_string();
        let today = today.to_string();
        let given = [
            "kgate",
            "--today",
            &today,
            "--cache",
            "cache",
            "gate",
            "--production",
            &production,
            "--workload",
            "fleet",
            "--state",
            "state",
            "--junit",
            "report.xml",
            "--feed",
            "tags",
            "--feed",
            "releases.json",
            "--feed",
            "kernels",
        ];
        let args = [&given[..], more].concat().join("\n");
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "gate::tests::job", "--ignored", "--nocapture", "--test-threads=1"])
            .current_dir(self.dir.path())
            .env(ARGS, args)
            .env(FATE, format!("{fate:?}"))
            .env(BAD, self.bad.map(|bad| bad.to_string()).unwrap_or_default())
            .env("KGATE_TEMPLATE_LIMIT", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Waits for a job; `None` when it was killed.
    fn end(job: Child) -> (Option<i32>, String) {
        let output = job.wait_with_output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    }

    fn run(&mut self, today: Date, fate: Fate, more: &[&str]) -> (Option<i32>, String) {
        let job = self.start(today, fate, more);
        let ended = Self::end(job);
        if fate == Fate::Writing {
            let mut state = OpenOptions::new().append(true).open(self.path("state")).unwrap();
            state.write_all(br#"{"format":"kgate-gate/1","at":"2026-"#).unwrap();
        }
        ended
    }

    /// All that stands in the state, in its order.
    fn entries(&self) -> Vec<Entry> {
        let text = fs::read_to_string(self.path("state")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Every verdict, in the order of the state.
    fn gated(&self) -> Vec<(Version, String, Date)> {
        let gated = self.entries().into_iter().filter_map(|entry| match entry.event {
            Event::Gated { verdict, on, .. } => Some((entry.version, verdict, on)),
            _ => None,
        });
        gated.collect()
    }

    /// One week: jobs that are killed or broken, two at once, and one that brings it to its end.
    fn week(&mut self, today: Date) {
        self.publish(today);
        for _ in 0..self.chance.below(3) {
            let fate = FATES[self.chance.below(FATES.len())];
            let (code, text) = self.run(today, fate, &[]);
            // What had nothing to do has nothing to die of.
            let as_meant = match fate {
                Fate::Lives => matches!(code, Some(0 | 1)),
                Fate::Broken => matches!(code, Some(0 | 4)),
                _ => matches!(code, None | Some(0)),
            };
            assert!(as_meant, "{today} {fate:?}: {code:?}\n{text}");
        }
        if self.chance.below(4) == 0 {
            let jobs = [Fate::Lives; 2].map(|fate| self.start(today, fate, &[]));
            for job in jobs {
                let (code, text) = Self::end(job);
                assert!(matches!(code, Some(0 | 1)), "{today}: {code:?}\n{text}");
            }
        }
        let (code, text) = self.run(today, Fate::Lives, &[]);
        assert!(matches!(code, Some(0 | 1)), "{today}: {code:?}\n{text}");
        // What was promoted goes out.
        let promoted = self.gated().into_iter().filter(|(version, verdict, _)| {
            verdict == "promote" && version.branch == self.production.branch
        });
        if let Some(newest) = promoted.map(|(version, ..)| version).max() {
            self.production = self.production.max(newest);
        }
    }

    /// Plays weeks from `first` on, and checks that each release was gated once and none missed.
    fn play(mut self, first: Date, weeks: i32, bad: &str) {
        let (began, branch) = (self.production, self.production.branch);
        self.bad = bad.parse().ok();
        let mut today = first;
        for _ in 0..weeks {
            today = today.checked_add(7.days()).unwrap();
            self.week(today);
        }
        let due: Vec<Version> = (self.releases.iter())
            .filter(|one| one.version.branch == branch && one.version > began && one.date <= today)
            .map(|one| one.version)
            .collect();
        let gated = self.gated();
        let mut of_branch: Vec<Version> =
            gated.iter().map(|(v, ..)| *v).filter(|v| v.branch == branch).collect();
        // Of two jobs at once the second may be done first.
        of_branch.sort();
        assert_eq!(of_branch, due, "each once, none missed");
        let mut begun = BTreeSet::new();
        let claims = self.entries().into_iter().filter(|entry| {
            entry.version.branch == branch && matches!(entry.event, Event::Claimed { .. })
        });
        let begun: Vec<Version> =
            claims.map(|entry| entry.version).filter(|version| begun.insert(*version)).collect();
        assert_eq!(begun, due, "begun in their order");
        for (version, verdict, _) in &gated {
            let expected = if Some(*version) == self.bad { "reject" } else { "promote" };
            assert_eq!(verdict, expected, "{version}");
        }
        // What a killed job left was gone on with: no release has a second run directory.
        let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
        let names = fs::read_dir(self.path("runs")).unwrap().map(|entry| name(entry.unwrap()));
        let runs: BTreeSet<String> = names.filter(|name| !name.ends_with(".claim")).collect();
        assert_eq!(runs, gated.iter().map(|(version, ..)| version.to_string()).collect());
        // The next longterm branch is evaluated about once in four weeks.
        let mut evaluated: BTreeMap<Branch, Vec<Date>> = BTreeMap::new();
        for (version, _, on) in gated.iter().filter(|(version, ..)| version.branch != branch) {
            assert!(self.longterm.contains(&version.branch));
            evaluated.entry(version.branch).or_default().push(*on);
        }
        for on in evaluated.values() {
            assert!(on.windows(2).all(|pair| (pair[1] - pair[0]).get_days() >= 28), "{on:?}");
        }
        assert!(
            evaluated.values().map(Vec::len).sum::<usize>() >= usize::try_from(weeks / 6).unwrap()
        );
        let before = fs::read(self.path("state")).unwrap();
        let (code, text) = self.run(today, Fate::Lives, &[]);
        assert_eq!(code, Some(0), "{text}");
        let last = due.last().unwrap();
        assert!(text.contains("nothing to gate") && text.contains(&last.to_string()), "{text}");
        assert_eq!(fs::read(self.path("state")).unwrap(), before);
        assert!(self.path(&format!("report-{last}.xml")).is_file());
        println!(
            "{} releases of {branch}, {} evaluations, jobs: {:?}",
            due.len(),
            gated.len() - due.len(),
            self.jobs
        );
    }
}

fn out(version: &str, (year, month, day): (i16, i8, i8)) -> Out {
    Out { version: version.parse().unwrap(), date: date(year, month, day) }
}

#[test]
fn eight_weeks_with_crashes_gate_each_release_once() {
    let releases = vec![
        out("6.1", (2022, 12, 11)),
        out("6.12", (2024, 11, 17)),
        out("6.18", (2025, 11, 30)),
        out("6.1.170", (2026, 4, 30)),
        out("6.18.26", (2026, 5, 1)),
        out("6.1.171", (2026, 5, 8)),
        out("6.1.172", (2026, 5, 8)),
        out("6.1.173", (2026, 5, 15)),
        out("6.1.174", (2026, 5, 23)),
        out("6.18.30", (2026, 5, 23)),
        out("6.1.175", (2026, 6, 1)),
        out("7.1", (2026, 6, 14)),
        out("6.1.176", (2026, 6, 19)),
        out("6.18.36", (2026, 6, 19)),
    ];
    let longterm = ["6.1", "6.12", "6.18"].map(|branch| branch.parse().unwrap()).to_vec();
    let year = Year::new(releases, longterm, "6.1.170", 1);
    year.play(date(2026, 5, 1), 8, "6.1.173");
}

#[test]
fn a_year_with_crashes_gates_each_release_once() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(3).unwrap();
    let data = data.join("shared/fixtures-release");
    let Ok(dates) = fs::read_to_string(data.join("kernel-release-dates.tsv")) else {
        println!("SKIP: {} is not there", data.display());
        return;
    };
    let releases = dates.lines().filter_map(|line| {
        let (version, date) = line.split_once('\t')?;
        Some(Out { version: version.parse().ok()?, date: date.parse().ok()? })
    });
    let ends = fs::read_to_string(data.join("kernel-eol.json")).unwrap();
    let ends: serde_json::Value = serde_json::from_str(&ends).unwrap();
    let longterm = ends.as_array().unwrap().iter().filter(|branch| branch["lts"] == true);
    let longterm = longterm.filter_map(|branch| branch["cycle"].as_str()?.parse().ok()).collect();
    let mut releases: Vec<Out> = releases.collect();
    releases.sort_by_key(|one| (one.date, one.version));
    let year = Year::new(releases, longterm, "6.1.148", 2);
    year.play(date(2025, 8, 23), 52, "6.1.162");
}

fn week_of_two() -> Year {
    let releases = vec![
        out("6.1", (2022, 12, 11)),
        out("6.1.170", (2026, 4, 30)),
        out("6.1.171", (2026, 5, 8)),
        out("6.1.172", (2026, 5, 8)),
    ];
    let year = Year::new(releases, vec!["6.1".parse().unwrap()], "6.1.170", 3);
    year.publish(FRIDAY);
    year
}

const FRIDAY: Date = date(2026, 5, 8);

#[test]
fn what_gets_no_verdict_is_tried_as_often_as_is_said_and_never_forgotten() {
    let mut year = week_of_two();
    for _ in 0..3 {
        assert_eq!(year.run(FRIDAY, Fate::Broken, &[]).0, Some(4));
    }
    let (code, text) = year.run(FRIDAY, Fate::Lives, &[]);
    assert_eq!(code, Some(4), "{text}");
    assert!(text.contains("6.1.171 was tried 3 times and has no verdict: no machine"), "{text}");
    assert_eq!(year.run(FRIDAY, Fate::Lives, &["--only", "6.1.172"]).0, Some(0));
    // Nobody waits any more for the older one.
    let (code, text) = year.run(FRIDAY, Fate::Lives, &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(!text.contains("6.1.171"), "{text}");

    let (code, text) = year.run(FRIDAY, Fate::Lives, &["--only", "6.1.172"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("6.1.172 was gated on 2026-05-08: promote"), "{text}");
    assert_eq!(year.gated().len(), 1);
    year.bad = "6.1.172".parse().ok();
    let (code, text) = year.run(FRIDAY, Fate::Lives, &["--only", "6.1.172", "--again"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(year.path("runs/6.1.172-2/plan.json").is_file());
    // The last verdict is the one that is told.
    assert_eq!(year.run(FRIDAY, Fate::Lives, &["--only", "6.1.172"]).0, Some(1));
    let (code, text) = year.run(FRIDAY, Fate::Lives, &["--only", "6.1.173"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("no feed knows of a release 6.1.173"), "{text}");
}

#[test]
fn of_several_the_newest_alone_may_be_gated() {
    let mut year = week_of_two();
    let (code, text) = year.run(FRIDAY, Fate::Lives, &["--latest"]);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = year.run(FRIDAY, Fate::Lives, &[]);
    assert!(code == Some(0) && text.contains("nothing to gate"), "{text}");
    let gated: Vec<_> = year.gated().into_iter().map(|(version, ..)| version.to_string()).collect();
    assert_eq!(gated, ["6.1.172"]);
    let superseded = |entry: &Entry| matches!(entry.event, Event::Superseded { .. });
    assert_eq!(year.entries().iter().filter(|entry| superseded(entry)).count(), 1);
}

#[test]
fn a_run_that_was_planned_otherwise_is_begun_anew_and_one_elsewhere_is_waited_for() {
    let mut year = week_of_two();
    assert_eq!(year.run(FRIDAY, Fate::Running, &["--latest"]).0, None);
    // From another place nobody can tell whether that job lives.
    let (code, text) = year.run(FRIDAY, Fate::Lives, &["--latest", "--dir", "elsewhere"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("6.1.172 is being gated by another job"), "{text}");
    let (code, text) = year.run(FRIDAY, Fate::Lives, &["--only", "6.1.172", "--dir", "elsewhere"]);
    assert_eq!(code, Some(3), "{text}");
    let profile = year.path("workloads/profiles/fleet.yaml");
    let workload = fs::read_to_string(&profile).unwrap();
    fs::write(&profile, workload.replace("boots: 1", "boots: 2")).unwrap();
    let (code, text) = year.run(FRIDAY, Fate::Lives, &["--latest"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("begun anew"), "{text}");
    assert!(year.path("runs/6.1.172.left/plan.json").is_file());
    assert_eq!(year.gated().len(), 1);
}
