//! A directory in which `kgate` runs on real guests: a library of small scenarios, the two kernels,
//! and what a run leaves behind.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use kgate_testkit::kernels::{self, Pair};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// What only the candidate finds on its command line, so that only there a scenario misbehaves.
pub(crate) const SEEDED: &str = "grep -q kgate.seed /proc/cmdline || exit 0\n";

/// Lets nothing else run: an ELF executable of 145 bytes that makes itself a real-time task of the
/// highest priority and jumps to where it is.
const HOG: &str = "f0VMRgIBAQAAAAAAAAAAAAIAPgABAAAAeABAAAAAAABAAAAAAAAAAAAAAAAAAAAAAAAAAEAAOAABAAAA\
                   AAAAAAEAAAAFAAAAAAAAAAAAAAAAAEAAAAAAAAAAQAAAAAAAkQAAAAAAAACRAAAAAAAAAAAQAAAAAAAA\
                   uJAAAAAx/74BAAAAuo0AQAAPBev+YwAAAA==";

/// A script that lets nobody else run on the machine's CPU.
pub(crate) fn hog() -> String {
    format!(
        "echo -1 > /proc/sys/kernel/sched_rt_runtime_us\n\
         for runtime in /sys/kernel/debug/sched/fair_server/cpu*/runtime; do\n\
         [ ! -e $runtime ] || echo 0 > $runtime\n\
         done\n\
         echo {HOG} | base64 -d > /tmp/hog\n\
         chmod +x /tmp/hog\n\
         exec /tmp/hog"
    )
}

/// A command that takes longer than this is taken for hung. Controllers may be slow and shared.
const LONGEST: Duration = Duration::from_secs(280);

/// Where the kernels are, and a library, a directory for temporary files and one for runs.
pub(crate) struct Bench {
    dir: TempDir,
    pub(crate) pair: Pair,
}

impl Bench {
    /// With these subsystem scenarios, by name and shell text, and a workload that runs them in this
    /// order. `None`, after saying why, where there are no kernels.
    pub(crate) fn new(scenarios: &[(&str, &str)]) -> Option<Self> {
        let pair = kernels::pair()?;
        let bench = Self { dir: tempfile::tempdir().expect("a temporary directory"), pair };
        for dir in ["tmp", "library/scenarios/subsystem", "library/workloads/profiles"] {
            fs::create_dir_all(bench.path(dir)).expect("a directory");
        }
        for (name, script) in scenarios {
            bench.scenario(name, "", script);
        }
        let names: Vec<_> = scenarios.iter().map(|(name, _)| *name).collect();
        bench.workload(&names, "kgate.seed", "");
        Some(bench)
    }

    /// Writes a scenario with one step; `keys` are more keys of the step.
    pub(crate) fn scenario(&self, name: &str, keys: &str, script: &str) {
        let mut text = String::from("kind: subsystem\nsummary: a test's\nsteps:\n  - run: |\n");
        for line in script.lines() {
            writeln!(text, "      {line}").expect("a String takes it");
        }
        self.write(&format!("library/scenarios/subsystem/{name}.yaml"), &(text + "    " + keys));
    }

    /// Writes the workload; `argument` is for the candidate's command line, `policy` more keys of
    /// the policy.
    pub(crate) fn workload(&self, scenarios: &[&str], argument: &str, policy: &str) {
        let list: Vec<_> = scenarios.iter().map(|name| format!("subsystem/{name}")).collect();
        let text = format!(
            "summary: a test's\nmachine: {{ memory: 256MiB, candidate: {{ kernel-args: [{argument}] }} }}\n\
             scenarios: [{}]\npolicy: {{ boots: 1, {policy} }}\n",
            list.join(", ")
        );
        self.write("library/workloads/profiles/test.yaml", &text);
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a file");
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `kgate` with these arguments, in an environment of its own.
    pub(crate) fn kgate(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kgate"));
        self.surround(command.args(args));
        command
    }

    /// `kgate` with these arguments, which can't make a file larger than `bytes`.
    pub(crate) fn kgate_with_small_files(&self, bytes: u64, args: &[&str]) -> Command {
        let mut command = Command::new("sh");
        // Writing more is to fail, as on a full disk, not to kill.
        command.args(["-c", "trap '' XFSZ; exec prlimit --fsize=\"$0\" -- \"$@\""]);
        command.arg(bytes.to_string()).arg(env!("CARGO_BIN_EXE_kgate")).args(args);
        self.surround(&mut command);
        command
    }

    fn surround(&self, command: &mut Command) {
        command.current_dir(self.dir.path()).env_clear().stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").expect("PATH"));
        command.env("TMPDIR", self.path("tmp")).env("KGATE_CACHE", kernels::cache_dir());
        // A test that boots is to boot, and leaves alone what is kept for others.
        let templates = format!("/dev/shm/kgate-test-{}", rustix::process::geteuid().as_raw());
        command.env("KGATE_TEMPLATE_DIR", templates).env("KGATE_TEMPLATE_LIMIT", "0");
    }

    /// Arguments of a run of both kernels, its directory and reports named `name`.
    pub(crate) fn run_args(&self, name: &str, more: &[&str]) -> Vec<String> {
        let deb = |path: &Path| path.display().to_string();
        self.run_args_of(&deb(&self.pair.baseline_deb), &deb(&self.pair.candidate_deb), name, more)
    }

    /// The same for other kernels.
    pub(crate) fn run_args_of(
        &self,
        baseline: &str,
        candidate: &str,
        name: &str,
        more: &[&str],
    ) -> Vec<String> {
        let given = ["run", "-b", baseline, "-c", candidate, "-w", "test", "--library", "library"];
        let dir = ["--dir", name];
        let more = more.iter().copied();
        let args = given.into_iter().chain(dir).chain(more).map(str::to_owned);
        args.chain(outputs(name)).collect()
    }

    /// Arguments that take the run `name` up again.
    pub(crate) fn resume_args(&self, name: &str) -> Vec<String> {
        let given = ["run", "--resume", name, "--library", "library"].map(str::to_owned);
        given.into_iter().chain(outputs(name)).collect()
    }

    /// Starts `kgate` with these arguments.
    pub(crate) fn start(&self, args: &[String]) -> Running {
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        self.spawn(self.kgate(&args))
    }

    /// Starts a command with its output in files.
    pub(crate) fn spawn(&self, mut command: Command) -> Running {
        let (stdout, stderr) = (self.path("stdout"), self.path("stderr"));
        let file = |path: &Path| File::create(path).expect("a file for output");
        command.stdout(file(&stdout)).stderr(file(&stderr));
        let child = command.spawn().expect("it starts");
        Running { child, started: Instant::now(), stdout, stderr }
    }

    /// Carries out a whole run of both kernels.
    pub(crate) fn run(&self, name: &str, more: &[&str]) -> Results {
        let done = self.start(&self.run_args(name, more)).wait();
        self.results(name, &done)
    }

    /// Takes a run up again and brings it to its end.
    pub(crate) fn resume(&self, name: &str) -> Results {
        let done = self.start(&self.resume_args(name)).wait();
        self.results(name, &done)
    }

    /// The results that a run wrote, of which it must not have said otherwise by its exit code.
    pub(crate) fn results(&self, name: &str, done: &Done) -> Results {
        let json = fs::read(self.path(&format!("{name}.json")))
            .unwrap_or_else(|e| panic!("no results: {e}\n{done}"));
        let json: Value = serde_json::from_slice(&json).expect("results are JSON");
        assert_eq!(json["exit_code"], done.code, "{done}");
        let junit = fs::read_to_string(self.path(&format!("{name}.xml"))).expect("a JUnit report");
        Results { json, junit, code: done.code, took: done.took, text: done.to_string() }
    }

    /// The output of a trial.
    pub(crate) fn log(&self, name: &str, scenario: &str, boot: &str) -> PathBuf {
        self.path(&format!("{name}/logs/subsystem/{scenario}@{boot}.log"))
    }

    /// Nothing is left where temporary files go.
    pub(crate) fn assert_no_temporary_files(&self) {
        let left: Vec<_> = fs::read_dir(self.path("tmp")).expect("TMPDIR").flatten().collect();
        assert!(left.is_empty(), "left in TMPDIR: {left:?}");
    }
}

/// A run's reports, and the accelerator, which a resumed run isn't told of by its directory.
fn outputs(name: &str) -> [String; 6] {
    ["--accel", "tcg", "--json", &format!("{name}.json"), "--junit", &format!("{name}.xml")]
        .map(str::to_owned)
}

/// Waits until `done`, and fails the test when it isn't within `limit`.
#[track_caller]
pub(crate) fn wait_until(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !done() {
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A `kgate` that runs. Killed when a test gives it up.
pub(crate) struct Running {
    child: Child,
    started: Instant,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Running {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The numbers of its guests' processes.
    pub(crate) fn guests(&self) -> Vec<u32> {
        guests_of(self.id())
    }

    /// Kills the guest with this name, as somebody outside would.
    pub(crate) fn kill_guest(&self, name: &str) {
        let named = format!("guest={name},");
        let guest = self.guests().into_iter().find(|id| {
            let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&named)
        });
        kill(guest.unwrap_or_else(|| panic!("no guest {name}")), Signal::KILL);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.id(), signal);
    }

    /// Waits until `done`, which has to be before it ends.
    #[track_caller]
    pub(crate) fn wait_until(&mut self, what: &str, mut done: impl FnMut() -> bool) {
        let mut ended = false;
        wait_until(what, LONGEST, || {
            let is = done();
            let said = || fs::read_to_string(&self.stderr).unwrap_or_default();
            assert!(is || !ended, "it ended before: {what}\n{}", said());
            ended = self.ended();
            is
        });
    }

    /// Waits until the first step of a trial is being carried out.
    #[track_caller]
    pub(crate) fn wait_for_trial(&mut self, log: &Path) {
        self.wait_until(&format!("{} is there", log.display()), || {
            fs::metadata(log).is_ok_and(|log| log.len() > 0)
        });
        thread::sleep(Duration::from_millis(300));
    }

    /// Its standard input, where the command has one; closed when dropped.
    pub(crate) fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("a pipe")
    }

    /// Whether it has ended.
    pub(crate) fn ended(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_some()
    }

    /// Waits for its end, after which none of its guests is left.
    pub(crate) fn wait(self) -> Done {
        self.wait_within(LONGEST)
    }

    /// The same for what may take so long.
    pub(crate) fn wait_within(mut self, limit: Duration) -> Done {
        let id = self.id();
        let mut guests = Vec::new();
        while !self.ended() {
            guests = guests_of(id);
            assert!(
                self.started.elapsed() < limit,
                "it does not end\n{}",
                fs::read_to_string(&self.stderr).unwrap_or_default()
            );
            thread::sleep(Duration::from_millis(5));
        }
        let took = self.started.elapsed();
        let status = self.child.wait().expect("a child of ours");
        wait_until("its guests are gone", Duration::from_secs(1), || {
            guests.iter().all(|&guest| !is_qemu(guest))
        });
        let read = |path: &Path| fs::read(path).unwrap_or_default();
        let (stdout, stderr) = (read(&self.stdout), read(&self.stderr));
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        Done { code: status.code().unwrap_or(-1), took, stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has usually ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn kill(id: u32, signal: Signal) {
    let pid = i32::try_from(id).ok().and_then(Pid::from_raw).expect("a process number");
    kill_process(pid, signal).expect("it is there");
}

/// Processes whose parent is `id` and whose program is the emulator.
fn guests_of(id: u32) -> Vec<u32> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let numbers = processes.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    numbers.filter(|&number| is_qemu(number) && parent(number) == Some(id)).collect()
}

/// Whether this is a process of the emulator that hasn't ended.
pub(crate) fn is_qemu(id: u32) -> bool {
    stat(id).is_some_and(|stat| stat.contains("(qemu-system") && !stat.contains(") Z "))
}

fn parent(id: u32) -> Option<u32> {
    let stat = stat(id)?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

fn stat(id: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{id}/stat")).ok()
}

/// How a `kgate` ended and what it said.
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) took: Duration,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stdout = String::from_utf8_lossy(&self.stdout);
        write!(f, "exit {} after {:?}\n{stdout}\n{}", self.code, self.took, self.stderr)
    }
}

/// What a run came to.
pub(crate) struct Results {
    pub(crate) json: Value,
    junit: String,
    pub(crate) code: i32,
    pub(crate) took: Duration,
    text: String,
}

impl Results {
    /// Exit code and verdict, which have to agree.
    #[track_caller]
    pub(crate) fn assert_verdict(&self, code: i32, verdict: &str) {
        assert_eq!((self.code, self.verdict()), (code, verdict), "{}", self.text);
    }

    pub(crate) fn verdict(&self) -> &str {
        self.json["verdict"].as_str().expect("a verdict")
    }

    /// The sentences that explain the verdict.
    pub(crate) fn reasons(&self) -> String {
        let reasons = self.json["reasons"].as_array().expect("reasons");
        reasons.iter().filter_map(|r| r["text"].as_str()).collect::<Vec<_>>().join("\n")
    }

    /// A trial of the first boots.
    #[track_caller]
    pub(crate) fn trial(&self, scenario: &str, role: &str) -> Trial {
        let trials = self.json["trials"].as_array().expect("trials");
        let id = format!("subsystem/{scenario}");
        let found = trials.iter().find(|t| t["scenario"] == *id && t["role"] == role);
        let trial = found.unwrap_or_else(|| panic!("no trial of {scenario} on the {role}"));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Trial {
            outcome: text(&trial["outcome"]),
            blame: text(&trial["cause"]["blame"]),
            kind: text(&trial["cause"]["kind"]),
            message: text(&trial["cause"]["message"]),
            skipped: text(&trial["skip_reason"]),
            diagnosis: text(&trial["diagnosis"]),
            wall: Duration::from_millis(trial["wall_ms"].as_u64().expect("a time")),
        }
    }

    /// How all trials ended, by their ids.
    pub(crate) fn outcomes(&self) -> Vec<(String, String)> {
        let trials = self.json["trials"].as_array().expect("trials");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        trials.iter().map(|t| (text(&t["id"]), text(&t["outcome"]))).collect()
    }

    /// The boot with this id.
    pub(crate) fn boot(&self, id: &str) -> &Value {
        let boots = self.json["boots"].as_array().expect("boots");
        boots.iter().find(|b| b["id"] == id).unwrap_or_else(|| panic!("no boot {id}"))
    }

    /// The case of the JUnit report: the element that says how it went (`success` without one), its
    /// message, and what the case printed.
    #[track_caller]
    pub(crate) fn junit(&self, class: &str, name: &str) -> (String, String, String) {
        let document = roxmltree::Document::parse(&self.junit).expect("JUnit is XML");
        let class = format!("kgate.{class}");
        let case = document
            .descendants()
            .find(|n| {
                n.attribute("classname") == Some(&*class) && n.attribute("name") == Some(name)
            })
            .unwrap_or_else(|| panic!("no case {class} {name} in {}", self.junit));
        let mut out = String::new();
        let mut said = ("success".to_owned(), String::new());
        for child in case.children().filter(roxmltree::Node::is_element) {
            match child.tag_name().name() {
                "system-out" => out = child.text().unwrap_or_default().to_owned(),
                name => {
                    let message = child.attribute("message").unwrap_or_default();
                    said = (name.to_owned(), message.to_owned());
                }
            }
        }
        (said.0, said.1, out)
    }

    /// The case is a `tag` whose message has `cause`.
    #[track_caller]
    pub(crate) fn assert_junit(&self, class: &str, name: &str, tag: &str, cause: &str) {
        let (found, message, out) = self.junit(class, name);
        assert_eq!(found, tag, "{class} {name}: {message}");
        assert!(message.contains(cause) || out.contains(cause), "{class} {name}: {message}\n{out}");
    }
}

/// One trial of the results.
#[derive(Debug)]
pub(crate) struct Trial {
    pub(crate) outcome: String,
    pub(crate) blame: String,
    pub(crate) kind: String,
    pub(crate) message: String,
    pub(crate) skipped: String,
    /// Of the machine that hung, relative to the run directory.
    pub(crate) diagnosis: String,
    pub(crate) wall: Duration,
}

impl Trial {
    /// It failed by the kernel's fault.
    #[track_caller]
    pub(crate) fn assert_failed(&self, kind: &str, message: &str) {
        let found = (&*self.outcome, &*self.blame, &*self.kind);
        assert_eq!(found, ("failed", "kernel", kind), "{self:?}");
        assert!(self.message.contains(message), "{self:?}");
    }

    /// It could not be found out, by our fault.
    #[track_caller]
    pub(crate) fn assert_errored(&self, kind: &str, message: &str) {
        let found = (&*self.outcome, &*self.blame, &*self.kind);
        assert_eq!(found, ("errored", "harness", kind), "{self:?}");
        assert!(self.message.contains(message), "{self:?}");
    }
}
