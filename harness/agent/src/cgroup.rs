//! A control group for each command: its limits, and the way to end everything in it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use kgate_model::wire::Limits;
use rustix::process::{Pid, Signal, kill_process};

use crate::lock;

/// Controllers that limits need.
const CONTROLLERS: [&str; 2] = ["memory", "pids"];

/// Processes kept for the agent and the kernel when a step forks without end.
const RESERVED_PROCESSES: u64 = 256;

/// On a lab host, what an agent's group is called before its process number.
const PREFIX: &str = "kgate-";

/// Subgroups of a command's group are looked after down to this depth.
const DEPTH: usize = 16;

/// Where the groups of commands are made.
pub(crate) struct Groups {
    /// The mount of the cgroup2 file system.
    mount: PathBuf,
    /// Directory below it, made with the first group.
    directory: PathBuf,
    made: OnceLock<bool>,
    /// How many groups there have been.
    count: AtomicU32,
    /// One that was made beforehand.
    spare: Mutex<Option<Group>>,
}

impl Groups {
    /// Groups below the group `name` at `mount`.
    pub(crate) fn at(mount: PathBuf, name: &str) -> Self {
        let directory = mount.join(name);
        Self {
            mount,
            directory,
            made: OnceLock::new(),
            count: AtomicU32::new(0),
            spare: Mutex::default(),
        }
    }

    /// Where this machine has a cgroup2 file system mounted.
    pub(crate) fn find_mount() -> Option<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
        mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (path, kind) = (fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(path))
        })
    }

    /// Makes the group of the next command now.
    pub(crate) fn get_ready(&self) {
        let mut spare = lock(&self.spare);
        if spare.is_none() {
            *spare = self.make();
        }
    }

    /// A new group without limits; `None` where there is no cgroup2 that we may write.
    fn make(&self) -> Option<Group> {
        if !*self.made.get_or_init(|| self.prepare().is_ok()) {
            return None;
        }
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(number.to_string());
        fs::create_dir(&path).ok()?;
        let mut group = Group::at(path);
        group.directory = File::open(&group.path).ok();
        Some(group)
    }

    /// The group of one command; `None` where there is no cgroup2 that we may write.
    pub(crate) fn create(&self, limits: &Limits) -> Option<Group> {
        let spare = lock(&self.spare).take();
        let mut group = spare.or_else(|| self.make())?;
        let limit = |file: &str, value: Option<u64>| {
            value.is_none_or(|value| fs::write(group.path.join(file), value.to_string()).is_ok())
        };
        let memory = limit("memory.max", limits.memory);
        let processes = limit("pids.max", limits.processes);
        if limits.memory.is_some() {
            // Without this a step over its limit is swapped out instead of ended.
            let _ = fs::write(group.path.join("memory.swap.max"), "0");
        }
        (group.limits_memory, group.limits_processes) = (memory, processes);
        Some(group)
    }

    /// Ends what agents that were killed left behind: groups of the name `PREFIX` and the number of
    /// a process that is no more.
    pub(crate) fn sweep(mount: &Path) {
        for entry in fs::read_dir(mount).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
            let Some(owner) = owner.and_then(|owner| owner.parse::<u32>().ok()) else { continue };
            if !Path::new("/proc").join(owner.to_string()).exists() {
                let left = Group::at(entry.path());
                left.kill();
                left.empty(Duration::from_secs(1));
            }
        }
    }

    /// The name of the group of this process on a host that others use too.
    pub(crate) fn own_name() -> String {
        format!("{PREFIX}{}", rustix::process::getpid().as_raw_pid())
    }

    /// Removes the empty group of all commands.
    pub(crate) fn remove(&self) {
        let _ = fs::remove_dir(&self.directory);
    }

    fn prepare(&self) -> io::Result<()> {
        if let Err(e) = fs::create_dir(&self.directory)
            && e.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(e);
        }
        // The root has them from boot on a guest; a host may have left them out.
        for directory in [&self.mount, &self.directory] {
            enable(directory, &CONTROLLERS);
        }
        // All steps together can't use up the process numbers that the agent needs.
        let all: Option<u64> = fs::read_to_string("/proc/sys/kernel/threads-max")
            .ok()
            .and_then(|text| text.trim_end().parse().ok());
        if let Some(all) = all {
            let most = all.saturating_sub(RESERVED_PROCESSES).max(RESERVED_PROCESSES);
            let _ = fs::write(self.directory.join("pids.max"), most.to_string());
        }
        Ok(())
    }
}

/// Switches controllers on for the children of a group, those that the kernel has.
pub(crate) fn enable(directory: &Path, controllers: &[&str]) {
    let file = directory.join("cgroup.subtree_control");
    let switch = |controllers: &[&str]| {
        fs::write(&file, controllers.iter().map(|c| format!("+{c} ")).collect::<String>())
    };
    // Together, for each switching looks through all groups. One that can't be had fails them all.
    if switch(controllers).is_err() {
        for controller in controllers {
            let _ = switch(&[controller]);
        }
    }
}

/// The group of one command.
pub(crate) struct Group {
    path: PathBuf,
    /// Its directory, for a process to be started in it.
    directory: Option<File>,
    /// The memory limit is in force here.
    pub(crate) limits_memory: bool,
    /// The limit of processes is in force here.
    pub(crate) limits_processes: bool,
}

impl Group {
    fn at(path: PathBuf) -> Self {
        Self { path, directory: None, limits_memory: false, limits_processes: false }
    }

    /// Gives its directory away, for a process to be started in it.
    pub(crate) fn directory(&mut self) -> io::Result<File> {
        self.directory.take().map_or_else(|| File::open(&self.path), Ok)
    }

    /// Whether a living process is in it.
    pub(crate) fn populated(&self) -> bool {
        fs::read_to_string(self.path.join("cgroup.events"))
            .is_ok_and(|events| events.lines().any(|line| line == "populated 1"))
    }

    /// Kills what is in it and in its subgroups.
    pub(crate) fn kill(&self) {
        // A frozen group is killed all the same from 5.14 on, where `cgroup.kill` is; before, the
        // processes have to be thawed to die.
        if fs::write(self.path.join("cgroup.kill"), "1").is_err() {
            each_group(&self.path, DEPTH, &mut |group| {
                let _ = fs::write(group.join("cgroup.freeze"), "0");
                for pid in members(group) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            });
        }
    }

    /// One process that is in it.
    pub(crate) fn any_member(&self) -> Option<Pid> {
        let mut found = None;
        each_group(&self.path, DEPTH, &mut |group| found = found.or(members(group).next()));
        found
    }

    /// Kills until nothing is left; `false` when something still is after `limit`.
    pub(crate) fn empty(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut pause = Duration::from_micros(200);
        while self.populated() {
            if Instant::now() >= deadline {
                return false;
            }
            self.kill();
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        true
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if fs::remove_dir(&self.path).is_err() {
            each_group(&self.path, DEPTH, &mut |group| {
                let _ = fs::remove_dir(group);
            });
        }
    }
}

/// Calls `each` for the groups below `path`, down to `depth`, and for it, the deepest first.
fn each_group(path: &Path, depth: usize, each: &mut impl FnMut(&Path)) {
    if depth > 0 {
        let entries: Vec<_> = fs::read_dir(path).into_iter().flatten().flatten().collect();
        for entry in entries {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                each_group(&entry.path(), depth - 1, each);
            }
        }
    }
    each(path);
}

fn members(group: &Path) -> impl Iterator<Item = Pid> + use<> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let pids: Vec<_> = text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect();
    pids.into_iter()
}
