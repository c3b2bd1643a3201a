//! PID 1 of a guest: brings the system up to the point where requests can be served, and down.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::process::{DumpableBehavior, Signal, set_dumpable_behavior};
use rustix::system::{RebootCommand, reboot};

use crate::cgroup::{self, Groups};
use crate::channel::Channel;
use crate::serve::{self, Agent};
use crate::{net, script, setup};

/// Modules that the channel needs, one absolute path per line, in order.
const BOOT_MODULES: &str = "/kgate/boot-modules";

/// What busybox is too, one absolute path per line.
const APPLETS: &str = "/kgate/applets";

/// Where the cgroup2 file system is mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// A mount: source and type, target, flags, options.
type Mount = (&'static str, &'static str, MountFlags, &'static std::ffi::CStr);

/// Without these the channel isn't found.
const FIRST: [Mount; 3] = [
    ("devtmpfs", "/dev", MountFlags::NOSUID, c"mode=755"),
    ("proc", "/proc", COMMON, c""),
    ("sysfs", "/sys", COMMON, c""),
];

const COMMON: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// What programs expect of a machine. One that a kernel doesn't have is left out.
const SECOND: [Mount; 7] = [
    ("tmpfs", "/run", MountFlags::NOSUID.union(MountFlags::NODEV), c"mode=755"),
    ("tmpfs", "/tmp", MountFlags::NOSUID.union(MountFlags::NODEV), c"mode=1777"),
    ("tmpfs", "/dev/shm", MountFlags::NOSUID.union(MountFlags::NODEV), c"mode=1777"),
    ("devpts", "/dev/pts", MountFlags::NOSUID.union(MountFlags::NOEXEC), c"mode=620,ptmxmode=666"),
    ("cgroup2", CGROUPS, COMMON, c""),
    ("debugfs", "/sys/kernel/debug", COMMON, c""),
    ("tracefs", "/sys/kernel/tracing", COMMON, c""),
];

/// What devtmpfs doesn't make.
const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Runs a guest from its first process to its end. Never returns: a kernel whose PID 1 ends panics.
pub fn init() -> ! {
    #[expect(unsafe_code, reason = "libc's own interface to its allocator")]
    // SAFETY: a setting, made before there is another thread. A heap for each thread would only make
    // starting one slow.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
    std::panic::set_hook(Box::new(|panic| end(&format!("internal error: {panic}"))));
    // Children begin in this process's memory. A core dump of one would end all that share it, on
    // kernels before 5.16 even this process, before anybody looked at limits.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let mut agent = None;
    if let Err(why) = run(&mut agent) {
        say(&why);
    }
    if let Some(agent) = agent {
        let _ = serve::kill_everything(agent);
        agent.outbox.flush(Duration::from_secs(1));
    }
    power_off()
}

fn run(started: &mut Option<&'static Agent>) -> Result<(), String> {
    for &(kind, target, flags, options) in &FIRST {
        mount_on(kind, target, flags, options)
            .map_err(|e| format!("mount {kind} on {target}: {e}"))?;
    }
    if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        serve::reserve_samples_fd(&null);
    }
    let modules: Vec<String> = fs::read_to_string(BOOT_MODULES)
        .unwrap_or_default()
        .lines()
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect();
    setup::load_modules(&modules, None).map_err(|trouble| trouble.message)?;
    let agent = || Agent::new(true, Some(Groups::at(CGROUPS.into(), "kgate")));
    // What the command line names, or else the virtio-serial port.
    let command_line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let named =
        command_line.split_ascii_whitespace().find_map(|w| w.strip_prefix("kgate.channel="));
    let channel = match named {
        Some("script") => {
            let agent = *started.insert(agent());
            complete();
            return script::run(agent);
        }
        Some(path) => Channel::serial(path),
        None => Channel::virtio(),
    };
    let channel: &'static Channel = Box::leak(Box::new(channel?));
    let agent = *started.insert(agent());
    serve::start(agent, channel)?;
    complete();
    serve::serve(agent, channel, false)
}

/// What isn't needed to say hello.
fn complete() {
    link_applets();
    expected(true);
    let root = Path::new(CGROUPS);
    let offered = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    let offered: Vec<_> = offered.split_ascii_whitespace().collect();
    cgroup::enable(root, &offered);
    let _ = net::loopback();
}

fn link_applets() {
    for path in fs::read_to_string(APPLETS).unwrap_or_default().lines().map(Path::new) {
        let link = || symlink("/bin/busybox", path);
        if let (Err(e), Some(directory)) = (link(), path.parent())
            && e.kind() == io::ErrorKind::NotFound
        {
            let _ = fs::create_dir_all(directory).and_then(|()| link());
        }
    }
}

/// Mounts and links that programs expect of a machine, control groups only where they are wanted.
pub(crate) fn expected(cgroups: bool) {
    for &(kind, target, flags, options) in SECOND.iter().filter(|m| cgroups || m.0 != "cgroup2") {
        let _ = mount_on(kind, target, flags, options);
    }
    let _ = rustix::fs::chmod("/dev/ptmx", Mode::from_raw_mode(0o666));
    for (target, link) in LINKS {
        let _ = symlink(target, link);
    }
}

fn mount_on(
    kind: &str,
    target: &str,
    flags: MountFlags,
    options: &std::ffi::CStr,
) -> io::Result<()> {
    let attempt = || mount(kind, target, kind, flags, options);
    let result = match attempt() {
        Err(Errno::NOENT) => {
            fs::create_dir_all(target)?;
            attempt()
        }
        other => other,
    };
    match result {
        // Already mounted by the kernel.
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Kills every process but PID 1.
pub(crate) fn kill_all_processes() {
    #[expect(unsafe_code, reason = "rustix's kill doesn't take the number for all processes")]
    // SAFETY: a plain system call; it never reaches this process, which sends it.
    unsafe {
        libc::kill(-1, Signal::KILL.as_raw());
    }
}

/// One line for whoever reads the console.
fn say(why: &str) {
    // Level 2: shown also with `quiet`.
    let line = format!("<2>kgate-agent: {}\n", why.replace('\n', " "));
    if fs::write("/dev/kmsg", &line).is_err() {
        let _ = fs::write("/dev/console", &line[3..]);
    }
}

fn end(why: &str) -> ! {
    say(why);
    power_off()
}

fn power_off() -> ! {
    // Nothing is written back first: a guest's disks are read-only, and everything else is memory
    // that ends with it.
    let _ = reboot(RebootCommand::PowerOff);
    // A kernel without a way to power off has halted; there is nothing left to do.
    loop {
        std::thread::park();
    }
}
