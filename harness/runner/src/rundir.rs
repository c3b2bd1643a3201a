//! The run directory: plan, inputs, the append-only journal, and where consoles and logs lie.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use kgate_model::journal::{Entry, Event, RunRecord};
use kgate_model::kernel::KernelRecord;
use kgate_model::outcome::{Fault, FaultKind};
use kgate_model::plan::{FORMAT, Plan};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::lines::{Lines, whole_lines};
use crate::plan::{Inputs, differences};

const PLAN: &str = "plan.json";
const JOURNAL: &str = "journal.jsonl";
const LOCK: &str = "lock";
const WORKLOAD: &str = "inputs/workload.json";
const POLICY: &str = "inputs/policy.json";
const SCENARIOS: &str = "inputs/scenarios.json";
const WAIVERS: &str = "inputs/waivers.json";
/// Directories that runs write to.
pub(crate) const ARTIFACTS: [&str; 4] = ["consoles", "kmsg", "lab", "logs"];
/// No file of ours that is read whole is larger.
const FILE_BOUND: u64 = 1 << 30;

/// Why a run directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// A new run needs an empty directory.
    #[error("{} is not empty: choose another directory, or resume the run in it", .0.display())]
    Occupied(PathBuf),
    /// There is no plan in it.
    #[error("{} is no run directory: there is no {}", .0.display(), .0.join(PLAN).display())]
    NoRun(PathBuf),
    /// Another process runs in it.
    #[error("another process is running in {}", .0.display())]
    Locked(PathBuf),
    /// A file could not be made, read or written.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
    /// A file holds something else than it should.
    #[error("{}:{line}: the run directory is damaged: {reason}; what it knew is lost, start a new run", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The plan is of another version.
    #[error("{} was written in format {theirs} by kgate {kgate}; this program reads format {FORMAT}", path.display())]
    Format {
        /// The directory.
        path: PathBuf,
        /// Its format.
        theirs: u64,
        /// The program that wrote it.
        kgate: String,
    },
    /// What the run was planned with is not what there is now.
    #[error("{} was planned with something else: {}", path.display(), what.join("; "))]
    Differs {
        /// The directory.
        path: PathBuf,
        /// What differs.
        what: Vec<String>,
    },
}

impl RunDirError {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }

    /// As the end of a run: the controller's fault.
    pub(crate) fn fault(&self) -> Fault {
        Fault::harness(FaultKind::Controller, self.to_string())
    }
}

/// A run directory: what a run intends, and where it writes down what happened.
#[derive(Clone, Debug, PartialEq)]
pub struct RunDir {
    path: PathBuf,
    plan: Plan,
    inputs: Inputs,
}

impl RunDir {
    /// Makes a run directory and writes plan and inputs to it, before anything starts.
    ///
    /// # Errors
    /// The directory isn't empty, another process uses it, or the disk refuses it.
    pub fn create(path: &Path, plan: Plan, inputs: Inputs) -> Result<Self, RunDirError> {
        fs::create_dir_all(path).map_err(RunDirError::io("make", path))?;
        let _lock = lock(path)?;
        let occupied = fs::read_dir(path)
            .and_then(|mut entries| {
                entries.try_fold(false, |any, entry| Ok(any | (entry?.file_name() != LOCK)))
            })
            .map_err(RunDirError::io("read", path))?;
        if occupied {
            return Err(RunDirError::Occupied(path.to_owned()));
        }
        for directory in ARTIFACTS.iter().chain(&["inputs"]) {
            let directory = path.join(directory);
            fs::create_dir_all(&directory).map_err(RunDirError::io("make", &directory))?;
        }
        for (name, content) in serialised(&inputs) {
            write_whole(&path.join(name), &content)?;
        }
        // The plan comes last: where there is one, all else is there.
        write_whole(&path.join(PLAN), &pretty(&plan))?;
        Ok(Self { path: path.to_owned(), plan, inputs })
    }

    /// Reads the run directory of a run that was started before.
    ///
    /// # Errors
    /// It isn't one, or its files are not what this program writes.
    pub fn open(path: &Path) -> Result<Self, RunDirError> {
        if !path.join(PLAN).is_file() {
            return Err(RunDirError::NoRun(path.to_owned()));
        }
        let versions: serde_json::Value = read_whole(&path.join(PLAN))?;
        let theirs = versions["format"].as_u64().unwrap_or_default();
        if theirs != u64::from(FORMAT) {
            let kgate = versions["kgate"].as_str().unwrap_or("of an unknown version").to_owned();
            return Err(RunDirError::Format { path: path.to_owned(), theirs, kgate });
        }
        let plan: Plan = read_whole(&path.join(PLAN))?;
        let leads_out = |id: &&String| !is_relative(id);
        let bad = plan.boots.iter().map(|boot| &boot.id).find(leads_out);
        if let Some(id) = bad.or_else(|| plan.trials().map(|(_, t)| &t.id).find(leads_out)) {
            return Err(RunDirError::Malformed {
                path: path.join(PLAN),
                line: 1,
                reason: format!("the id {id:?} leads out of it"),
            });
        }
        Ok(Self {
            path: path.to_owned(),
            plan,
            inputs: Inputs {
                workload: read_whole(&path.join(WORKLOAD))?,
                policy: read_whole(&path.join(POLICY))?,
                selected: read_whole(&path.join(SCENARIOS))?,
                waivers: read_whole(&path.join(WAIVERS))?,
            },
        })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the run intends.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What it was planned from.
    pub fn inputs(&self) -> &Inputs {
        &self.inputs
    }

    /// Where the records of `/dev/kmsg` of one attempt at a boot are, if there are any.
    pub fn kernel_log(&self, boot: &str, attempt: u32) -> PathBuf {
        self.path.join(kernel_log(&self::attempt(boot, attempt)))
    }

    /// Everything that has happened, in order. A last line that a kill cut short is left out, and a
    /// note says so. No journal is an empty one.
    ///
    /// # Errors
    /// The journal can't be read or holds something else.
    pub fn entries(&self) -> Result<Vec<Entry>, RunDirError> {
        let path = self.path.join(JOURNAL);
        if !path.exists() {
            return Ok(Vec::new());
        }
        let bytes = read_bytes(&path)?;
        let (whole, torn) = bytes.split_at(whole_lines(&bytes));
        let mut entries = Vec::new();
        for (at, line) in whole.split_inclusive(|&b| b == b'\n').enumerate() {
            let entry: Entry =
                serde_json::from_slice(line).map_err(|e| RunDirError::Malformed {
                    path: path.clone(),
                    line: at + 1,
                    reason: format!("not an entry of a journal: {e}"),
                })?;
            entries.push(entry);
        }
        if !torn.is_empty() {
            let at = entries.last().map_or(0, |last| last.at);
            entries.push(Entry { at, event: torn_note(torn.len()) });
        }
        Ok(entries)
    }

    /// What is known of the run.
    ///
    /// # Errors
    /// See [`Self::entries`].
    pub fn record(&self) -> Result<RunRecord, RunDirError> {
        Ok(RunRecord::new(self.plan.clone(), self.entries()?))
    }

    /// Checks before a run is taken up again that these are the kernels it was planned with.
    ///
    /// # Errors
    /// [`RunDirError::Differs`].
    pub fn check_kernels(
        &self,
        baseline: &KernelRecord,
        candidate: &KernelRecord,
    ) -> Result<(), RunDirError> {
        let now =
            Plan { baseline: baseline.clone(), candidate: candidate.clone(), ..self.plan.clone() };
        self.check(differences(&self.plan, &now))
    }

    /// Checks that `inputs` are those that the run was planned with.
    ///
    /// # Errors
    /// [`RunDirError::Differs`], or the written ones can't be read.
    pub fn check_inputs(&self, inputs: &Inputs) -> Result<(), RunDirError> {
        let mut what = Vec::new();
        for (name, content) in serialised(inputs) {
            if read_bytes(&self.path.join(name))? != content {
                let name = name.trim_start_matches("inputs/").trim_end_matches(".json");
                what.push(format!("the {name}"));
            }
        }
        self.check(what)
    }

    fn check(&self, what: Vec<String>) -> Result<(), RunDirError> {
        if what.is_empty() {
            Ok(())
        } else {
            Err(RunDirError::Differs { path: self.path.clone(), what })
        }
    }
}

/// The journal of a run directory, open for writing: at most one in the world.
#[derive(Debug)]
pub struct Journal {
    lines: Lines,
    path: PathBuf,
    _lock: File,
}

impl Journal {
    /// Opens the journal to append to it. What is left of a last line that was cut short is removed
    /// with the first entry.
    ///
    /// # Errors
    /// Another process runs in the directory, or the file can't be opened.
    pub fn open(dir: &RunDir) -> Result<Self, RunDirError> {
        let lock = lock(&dir.path)?;
        let path = dir.path.join(JOURNAL);
        let mut options = OpenOptions::new();
        let file = options
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(RunDirError::io("open", &path))?;
        let (lines, _) = Lines::take(file).map_err(RunDirError::io("write", &path))?;
        Ok(Self { lines, path, _lock: lock })
    }

    /// A note about what the first entry removes, to be appended first.
    pub(crate) fn note(&self) -> Option<Event> {
        let cut = self.lines.tail().len();
        (cut > 0).then(|| torn_note(cut))
    }

    /// Appends one entry. After a failure nothing is appended any more: what follows a torn line
    /// would make the whole journal unreadable.
    ///
    /// # Errors
    /// The disk is full or broken. Everything before this entry stays readable.
    pub fn append(&mut self, entry: &Entry) -> Result<(), RunDirError> {
        self.lines.append(entry).map_err(RunDirError::io("write", &self.path))
    }

    /// Waits until the disk has everything.
    ///
    /// # Errors
    /// The disk is full or broken.
    pub fn sync(&mut self) -> Result<(), RunDirError> {
        self.lines.sync().map_err(RunDirError::io("write", &self.path))
    }
}

/// Whether an id, which names files, stays below the directory it is put under.
fn is_relative(id: &str) -> bool {
    !id.contains('\0') && !id.split('/').any(|part| matches!(part, "" | "." | ".."))
}

fn torn_note(bytes: usize) -> Event {
    Event::Note {
        text: format!("the journal's last line was cut short ({bytes} bytes) and is left out"),
    }
}

fn lock(path: &Path) -> Result<File, RunDirError> {
    let file = path.join(LOCK);
    let lock = File::create(&file).map_err(RunDirError::io("make", &file))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(RunDirError::Locked(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(RunDirError::io("lock", &file)(error)),
    }
}

fn serialised(inputs: &Inputs) -> [(&'static str, Vec<u8>); 4] {
    [
        (WORKLOAD, pretty(&inputs.workload)),
        (POLICY, pretty(&inputs.policy)),
        (SCENARIOS, pretty(&inputs.selected)),
        (WAIVERS, pretty(&inputs.waivers)),
    ]
}

fn pretty(value: &impl Serialize) -> Vec<u8> {
    // Our own types: their keys are text, and they hold nothing that fails to serialise.
    let mut bytes = serde_json::to_vec_pretty(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// Writes a file so that it is there whole or not at all, whatever happens meanwhile.
fn write_whole(path: &Path, content: &[u8]) -> Result<(), RunDirError> {
    let new = path.with_extension("new");
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    };
    write().map_err(RunDirError::io("write", path))
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, RunDirError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|f| f.take(FILE_BOUND + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) if bytes.len() as u64 > FILE_BOUND => {
            Err(RunDirError::io("read", path)(io::Error::other("larger than 1 GiB")))
        }
        Ok(_) => Ok(bytes),
        Err(error) => Err(RunDirError::io("read", path)(error)),
    }
}

fn read_whole<T: DeserializeOwned>(path: &Path) -> Result<T, RunDirError> {
    serde_json::from_slice(&read_bytes(path)?).map_err(|error| RunDirError::Malformed {
        path: path.to_owned(),
        line: error.line(),
        reason: error.to_string(),
    })
}

/// The name of an attempt at a boot: that of its machine, and of its files.
pub(crate) fn attempt(boot: &str, attempt: u32) -> String {
    format!("{boot}-{attempt}")
}

/// The name of a trial's own machine: a clone, or the one that was booted at the `booted`th try.
pub(crate) fn own_machine(boot: &str, number: u32, scenario: &str, booted: Option<u32>) -> String {
    let booted = booted.map(|nth| format!("+cold-{nth}")).unwrap_or_default();
    format!("{}/{scenario}{booted}", attempt(boot, number))
}

/// Below the run directory: the console of a machine.
pub(crate) fn console(machine: &str) -> String {
    format!("consoles/{machine}.log")
}

/// Below the run directory: the diagnosis of a machine that hung.
pub(crate) fn diagnosis(machine: &str) -> String {
    format!("consoles/{machine}.diagnosis.log")
}

/// Below the run directory: the kernel's records of a machine.
pub(crate) fn kernel_log(machine: &str) -> String {
    format!("kmsg/{machine}.log")
}

/// Below the run directory: the output of a trial's steps.
pub fn trial_log(trial: &str) -> String {
    format!("logs/{trial}.log")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use kgate_scenario::{Policy, Waivers, Workload};

    use super::*;
    use crate::plan::tests::Unknown;
    use crate::plan::{Placement, make_plan};

    fn kernel(release: &str) -> KernelRecord {
        KernelRecord {
            reference: release.into(),
            release: release.into(),
            banner: release.into(),
            upstream: None,
            origin: release.into(),
            image_sha256: release.into(),
            package_sha256: None,
        }
    }

    fn inputs() -> Inputs {
        let policy = Policy::default();
        let workload = Workload {
            name: "test".into(),
            summary: "s".into(),
            machine: kgate_scenario::MachineSpec::default(),
            requires: kgate_scenario::Requires::default(),
            scenarios: Vec::new(),
            lab: None,
            policy: policy.clone(),
        };
        Inputs { workload, policy, selected: Vec::new(), waivers: Waivers::default() }
    }

    fn create(path: &Path) -> Result<RunDir, RunDirError> {
        let plan = make_plan(
            &inputs(),
            kernel("6.1.1"),
            kernel("6.1.2"),
            &Unknown,
            &Placement::default(),
            1,
        );
        RunDir::create(path, plan, inputs())
    }

    fn note(text: &str) -> Entry {
        Entry { at: 7, event: Event::Note { text: text.into() } }
    }

    fn message(error: &RunDirError, temp: &tempfile::TempDir) -> String {
        error.to_string().replace(&temp.path().display().to_string(), "DIR")
    }

    #[test]
    fn what_is_written_is_read_back() {
        let temp = tempfile::tempdir().unwrap();
        let made = create(&temp.path().join("run")).unwrap();
        let read = RunDir::open(made.path()).unwrap();
        assert_eq!(read, made);
        read.check_kernels(&kernel("6.1.1"), &kernel("6.1.2")).unwrap();
        read.check_inputs(&inputs()).unwrap();
        let mut journal = Journal::open(&read).unwrap();
        journal.append(&note("one")).unwrap();
        journal.append(&note("two \u{1b} \n three")).unwrap();
        journal.sync().unwrap();
        assert_eq!(read.entries().unwrap(), [note("one"), note("two \u{1b} \n three")]);
    }

    #[test]
    fn mistakes_are_told() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("run");
        insta::assert_snapshot!(message(&RunDir::open(&path).unwrap_err(), &temp), @"DIR/run is no run directory: there is no DIR/run/plan.json");
        let dir = create(&path).unwrap();
        insta::assert_snapshot!(message(&create(&path).unwrap_err(), &temp), @"DIR/run is not empty: choose another directory, or resume the run in it");
        let other = dir.check_kernels(&kernel("6.1.1"), &kernel("6.1.3")).unwrap_err();
        insta::assert_snapshot!(message(&other, &temp), @"DIR/run was planned with something else: candidate kernel: 6.1.2 and 6.1.3; candidate kernel's image (sha256): 6.1.2 and 6.1.3");
        let mut changed = inputs();
        changed.policy.boots += 1;
        changed.workload.summary.push('!');
        let other = dir.check_inputs(&changed).unwrap_err();
        insta::assert_snapshot!(message(&other, &temp), @"DIR/run was planned with something else: the workload; the policy");

        fs::write(
            path.join(JOURNAL),
            b"{\"at\":1,\"event\":{\"event\":\"note\",\"text\":\"x\"}}\n{\"at\":2}\n",
        )
        .unwrap();
        insta::assert_snapshot!(message(&dir.entries().unwrap_err(), &temp), @"DIR/run/journal.jsonl:2: the run directory is damaged: not an entry of a journal: missing field `event` at line 1 column 8; what it knew is lost, start a new run");
        fs::write(path.join(JOURNAL), [b'\n'; 3]).unwrap();
        insta::assert_snapshot!(message(&dir.record().unwrap_err(), &temp), @"DIR/run/journal.jsonl:1: the run directory is damaged: not an entry of a journal: EOF while parsing a value at line 2 column 0; what it knew is lost, start a new run");
        let plan = fs::read_to_string(path.join(PLAN)).unwrap();
        let boot = r#""boots": [{ "id": "../x", "role": "baseline", "number": 1, "image": "base",
            "shape": { "cpus": 1, "memory": 1, "cpu_model": null, "kernel_args": [],
            "network": false }, "modules": [], "start": "warm", "exclusive": false, "partition": 1, "trials": [] }]"#;
        fs::write(path.join(PLAN), plan.replace("\"boots\": []", boot)).unwrap();
        insta::assert_snapshot!(message(&RunDir::open(&path).unwrap_err(), &temp), @r#"DIR/run/plan.json:1: the run directory is damaged: the id "../x" leads out of it; what it knew is lost, start a new run"#);
        fs::write(path.join(PLAN), plan).unwrap();
        fs::write(path.join(POLICY), "{ \"boots\": \"many\" }").unwrap();
        insta::assert_snapshot!(message(&RunDir::open(&path).unwrap_err(), &temp), @r#"DIR/run/inputs/policy.json:1: the run directory is damaged: invalid type: string "many", expected u32 at line 1 column 17; what it knew is lost, start a new run"#);
        fs::write(path.join(PLAN), "{ \"format\": 9, \"kgate\": \"3.0.0\" }").unwrap();
        insta::assert_snapshot!(message(&RunDir::open(&path).unwrap_err(), &temp), @"DIR/run was written in format 9 by kgate 3.0.0; this program reads format 4");
    }

    #[test]
    fn a_torn_line_is_left_out_and_removed_before_the_next() {
        let temp = tempfile::tempdir().unwrap();
        let dir = create(&temp.path().join("run")).unwrap();
        Journal::open(&dir).unwrap().append(&note("one")).unwrap();
        let path = dir.path().join(JOURNAL);
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend(b"{\"at\":8,\"event\"");
        fs::write(&path, &bytes).unwrap();
        let torn = Entry { at: 7, event: torn_note(15) };
        assert_eq!(dir.entries().unwrap(), [note("one"), torn]);
        let mut journal = Journal::open(&dir).unwrap();
        assert_eq!(journal.note(), Some(torn_note(15)));
        journal.append(&note("two")).unwrap();
        assert_eq!(dir.entries().unwrap(), [note("one"), note("two")]);
    }

    #[test]
    fn after_a_failed_write_nothing_is_appended() {
        let temp = tempfile::tempdir().unwrap();
        let dir = create(&temp.path().join("run")).unwrap();
        let mut journal = Journal::open(&dir).unwrap();
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let file = journal.lines.replace(full);
        let error = message(&journal.append(&note("one")).unwrap_err(), &temp);
        insta::assert_snapshot!(error, @"cannot write DIR/run/journal.jsonl: No space left on device (os error 28)");
        journal.lines.replace(file);
        let error = message(&journal.append(&note("two")).unwrap_err(), &temp);
        insta::assert_snapshot!(error, @"cannot write DIR/run/journal.jsonl: an earlier write to it failed");
        assert_eq!(dir.entries().unwrap(), []);
    }

    #[test]
    fn a_directory_that_can_not_be_written_is_told() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("run");
        fs::create_dir_all(&path).unwrap();
        symlink("/dev/full", path.join("lock")).unwrap();
        // The lock alone doesn't make a directory occupied.
        fs::create_dir(path.join("x")).unwrap();
        let error = create(&path).unwrap_err();
        assert!(matches!(error, RunDirError::Occupied(_)), "{error}");
        let error = create(Path::new("/proc/no/such")).unwrap_err();
        insta::assert_snapshot!(message(&error, &temp), @"cannot make /proc/no/such: No such file or directory (os error 2)");
    }
}
