//! What containers are made of: name spaces and control groups.
#![expect(unsafe_code, reason = "clone3")]

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::meter::During as _;
use crate::sys::{OrMissing as _, check, descriptor, need_root};
use crate::{Error, Meter, Op, Result, Shape, memory};

pub(crate) const OPS: &[Op] = &[
    Op {
        name: "clone3-exit",
        summary: "clone3 with a pidfd, exit of the child, wait by pidfd",
        shape: Shape::new(1, 95, 6),
        max_batch: 10_000,
        copies: false,
        run: |meter| children(meter, 0),
    },
    Op {
        name: "clone-mount-ns",
        summary: "clone3-exit of a child in a mount name space of its own",
        shape: Shape::new(1, 65, 4),
        max_batch: 10_000,
        copies: false,
        run: |meter| children(meter, libc::CLONE_NEWNS),
    },
    Op {
        name: "clone-net-ns",
        summary: "clone3-exit of a child in a network name space of its own",
        shape: Shape::new(1, 20, 1),
        max_batch: 1000,
        copies: false,
        run: |meter| children(meter, libc::CLONE_NEWNET),
    },
    Op {
        name: "clone-pid-ns",
        summary: "clone3-exit of a child that is the first of its PID name space",
        shape: Shape::new(1, 95, 6),
        max_batch: 10_000,
        copies: false,
        run: |meter| children(meter, libc::CLONE_NEWPID),
    },
    Op {
        name: "clone-user-ns",
        summary: "clone3-exit of a child in a user name space of its own",
        shape: Shape::new(1, 85, 6),
        max_batch: 10_000,
        copies: false,
        run: |meter| children(meter, libc::CLONE_NEWUSER),
    },
    Op {
        name: "cgroup-mkdir",
        summary: "mkdir and rmdir of a control group (version 2)",
        shape: Shape::new(2, 60, 4),
        max_batch: 1000,
        copies: false,
        run: |meter| {
            let groups = Groups::new(&[])?;
            let path = groups.top.join("new");
            meter.each_rested(|| {
                std::fs::create_dir(&path).during("mkdir of a cgroup")?;
                std::fs::remove_dir(&path).during("rmdir of a cgroup")
            })
        },
    },
    Op {
        name: "cgroup-migrate",
        summary: "this process moved to a control group and to another",
        shape: Shape::new(6, 75, 5),
        max_batch: 10_000,
        copies: false,
        run: |meter| {
            let groups = Groups::new(&["a", "b"])?;
            let (a, b) = (groups.members("a")?, groups.members("b")?);
            meter.each(|| enter(&a).and_then(|()| enter(&b)))
        },
    },
    Op {
        name: "cgroup-fault",
        summary: "first write to a page of memory that a control group is charged for",
        shape: Shape::new(8, 110, 7),
        max_batch: 16_384,
        copies: true,
        run: |meter| {
            let groups = Groups::with_memory()?;
            enter(&groups.members("a")?)?;
            memory::faults(meter)
        },
    },
];

/// Children that exit at once, made with `flags` besides.
fn children(meter: &mut Meter, flags: i32) -> Result<()> {
    if flags != 0 {
        need_root()?;
    }
    let child = || {
        clone3_exit(flags)
            .or_missing(&[Errno::INVAL, Errno::NOSPC], "this kernel has no such name space")
    };
    // What these leave is much, and cleared away later.
    if flags & (libc::CLONE_NEWNS | libc::CLONE_NEWNET) != 0 {
        meter.each_rested(child)
    } else {
        meter.each(child)
    }
}

fn clone3_exit(flags: i32) -> Result<()> {
    let mut pidfd: i32 = -1;
    // SAFETY: all zeroes are valid, and mean that the child gets copies of all we have.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = (libc::CLONE_PIDFD | flags) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    args.pidfd = (&raw mut pidfd) as u64;
    // SAFETY: like fork: the child has its own copy of all memory, and exits at once. It calls
    // nothing of the C library that would have to know of it.
    let answer = unsafe {
        let answer = libc::syscall(libc::SYS_clone3, &raw mut args, size_of_val(&args));
        if answer == 0 {
            libc::syscall(libc::SYS_exit_group, 0);
        }
        answer
    };
    check(answer, "clone3")?;
    let pidfd = descriptor(pidfd, "clone3 CLONE_PIDFD")?;
    let ended = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).during("waitid")?;
    match ended.and_then(|status| status.exit_status()) {
        Some(0) => Ok(()),
        _ => Err(Error::Wrong { call: "waitid", what: "the child failed" }),
    }
}

/// Control groups of our own. When dropped, the process is back where it was and they are gone.
struct Groups {
    root: PathBuf,
    /// Where this process was, to go back to.
    home: PathBuf,
    top: PathBuf,
    names: &'static [&'static str],
    /// The groups in which we have handed on the memory controller.
    handed_on: Vec<PathBuf>,
}

impl Groups {
    /// A group with those called `names` in it.
    fn new(names: &'static [&'static str]) -> Result<Self> {
        need_root()?;
        let root = mount_of_groups()?;
        let own = std::fs::read_to_string("/proc/self/cgroup").during("read /proc/self/cgroup")?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
        let home = root.join(own.ok_or(Error::Missing("this process is in no cgroup2"))?);
        let top = root.join(format!("kgate-ops-{}", std::process::id()));
        std::fs::create_dir(&top).during("mkdir of a cgroup")?;
        let groups = Self { root, home, top, names, handed_on: Vec::new() };
        for name in names {
            std::fs::create_dir(groups.top.join(name)).during("mkdir of a cgroup")?;
        }
        Ok(groups)
    }

    /// A group `a` whose memory is accounted.
    fn with_memory() -> Result<Self> {
        let mut groups = Self::new(&["a"])?;
        for group in [groups.root.clone(), groups.top.clone()] {
            let read = |file| std::fs::read_to_string(group.join(file)).during("read of a cgroup");
            let has = |text: &str| text.split_whitespace().any(|word| word == "memory");
            if !has(&read("cgroup.controllers")?) {
                return Err(Error::Missing("cgroup2 has no memory controller here"));
            }
            if !has(&read("cgroup.subtree_control")?) {
                hand_on(&group, "+memory")?;
                groups.handed_on.push(group);
            }
        }
        Ok(groups)
    }

    /// The file that moves a process into one of the groups.
    fn members(&self, name: &str) -> Result<File> {
        let path = self.top.join(name).join("cgroup.procs");
        File::options().write(true).open(path).during("open cgroup.procs")
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        let home = File::options().write(true).open(self.home.join("cgroup.procs"));
        let _ = home.map(|home| enter(&home));
        for name in self.names.iter().chain([&"new"]) {
            let _ = std::fs::remove_dir(self.top.join(name));
        }
        let _ = std::fs::remove_dir(&self.top);
        for group in self.handed_on.iter().filter(|group| group.exists()) {
            let _ = hand_on(group, "-memory");
        }
    }
}

fn hand_on(group: &Path, what: &str) -> Result<()> {
    std::fs::write(group.join("cgroup.subtree_control"), what)
        .during("write to cgroup.subtree_control")
        .or_missing(&[Errno::BUSY], "processes of others are in the way in cgroup2")
}

/// Moves this process into the group that `members` belongs to.
fn enter(members: &File) -> Result<()> {
    // 0 is whoever writes.
    members.write_at(b"0", 0).during("write to cgroup.procs").map(drop)
}

fn mount_of_groups() -> Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/mounts").during("read /proc/mounts")?;
    let mount = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let path = fields.next()?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(path))
    });
    mount.ok_or(Error::Missing("no cgroup2 is mounted"))
}
