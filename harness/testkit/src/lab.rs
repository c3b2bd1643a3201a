//! A lab without hardware: hosts with a power button, a serial line, a disk with GRUB and an SSH server,
//! each a QEMU process on loopback behind the peers that real ones have.
//!
//! ```no_run
//! use kgate_testkit::lab::{Setup, StandIn, inventory};
//!
//! let Some(host) = StandIn::start(Setup::default()) else { return };
//! assert!(host.would_boot().is_production());
//! std::fs::write("lab.yaml", inventory(&[&host])).unwrap();
//! ```
//! A host starts in a state in which its production kernel is up, in less than a second. What it boots,
//! and what would boot next, can be asked of it without any part of kgate. It ends with the thread that
//! started it, or when it is dropped.

mod chassis;
mod console;
mod disk;
mod inventory;
mod machine;
mod peers;
mod process;
mod qmp;
mod ssh;
mod stage;

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kgate_kernel::Kernel;
use kgate_model::host::HostOutput;
use serde_json::{Value, json};
use tempfile::TempDir;

pub use chassis::ChassisFault;
use console::Line;
pub use inventory::inventory;
use machine::{Machine, Made, Parts};
use peers::{Peers, Place};
use ssh::Target;
pub use stage::GrubFault;

use crate::kernels;

/// How the names of hosts' directories begin.
const PREFIX: &str = "kgate-lab-";
/// A file that a host that lives has locked.
const LOCK: &str = "lock";

/// Why there is no stand-in.
#[derive(Clone, Debug)]
enum Problem {
    /// This machine lacks something.
    Missing(String),
    /// Something that should work didn't.
    Broken(String),
}

impl Problem {
    fn broken(what: &str, why: impl Display) -> Self {
        Self::Broken(format!("{what}: {why}"))
    }
}

/// Who switches a stand-in's power.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Power {
    /// `sushy-emulator`, over TLS.
    Redfish,
    /// `ipmi_sim`.
    Ipmi,
    /// A command of the site's.
    #[default]
    Command,
}

/// How a stand-in's serial line is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Console {
    /// A TCP port.
    #[default]
    Tcp,
    /// Serial over LAN of `ipmi_sim`.
    Sol,
    /// `conserver`.
    Conserver,
    /// A command of the site's.
    Command,
}

/// How a stand-in is made to boot another kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Boot {
    /// An entry of GRUB's, once.
    #[default]
    Grub,
    /// kexec from production.
    Kexec,
    /// From the network, once, as its BMC is told.
    Pxe,
}

/// What a stand-in is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// Its name in the inventory.
    pub name: String,
    /// Who switches its power.
    pub power: Power,
    /// How its serial line is reached.
    pub console: Console,
    /// How it boots another kernel.
    pub boot: Boot,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            name: "labhost".into(),
            power: Power::default(),
            console: Console::default(),
            boot: Boot::default(),
        }
    }
}

/// What runs on a host, as the host itself says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Booted {
    /// `uname -r`.
    pub release: String,
    /// `uname -v`.
    pub version: String,
    /// The kernel's command line.
    pub command_line: String,
    /// Another one for each start of a kernel.
    pub boot_id: String,
}

/// What GRUB would do at the next start, by what it would read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Next {
    /// Entry for the next start only.
    pub once: Option<String>,
    /// Entry for every other.
    pub default: Option<String>,
}

impl Next {
    /// Whether production would start, and nothing is armed.
    #[must_use]
    pub fn is_production(&self) -> bool {
        self.once.is_none() && self.default.as_deref() == Some("production")
    }
}

/// A host that stands in for one of metal.
pub struct StandIn {
    setup: Setup,
    made: Made,
    line: Line,
    chassis_port: u16,
    host_key: Cell<&'static str>,
    peers: RefCell<Peers>,
    machine: Machine,
    // Ends after what uses it.
    dir: TempDir,
    _lock: File,
}

impl StandIn {
    /// Starts a host on which production is up and answers. `None`, after printing `SKIP` and why, on a
    /// machine that lacks what it takes (`ci/tools` installs it).
    ///
    /// # Panics
    /// When a machine that lacks nothing doesn't get it up.
    #[must_use]
    pub fn start(setup: Setup) -> Option<Self> {
        // Production is of the oldest branch that apt offers: it boots soonest.
        let kernel = kernels::old_pair()?.baseline;
        match Self::new(setup, &kernel) {
            Ok(host) => Some(host),
            Err(Problem::Missing(what)) => {
                skip(&what);
                None
            }
            Err(Problem::Broken(why)) => panic!("no lab stand-in: {why}"),
        }
    }

    fn new(setup: Setup, kernel: &Kernel) -> Result<Self, Problem> {
        let broken = |e: std::io::Error| Problem::broken("stand-in", e);
        let made = Made::get(kernel, &lab_dir())?;
        sweep();
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir().map_err(broken)?;
        let lock = File::create(dir.path().join(LOCK)).map_err(broken)?;
        lock.lock().map_err(broken)?;
        let tftp = dir.path().join("tftp");
        fs::create_dir(&tftp).map_err(broken)?;
        // Who starts from the network and has nothing to do there goes on to the disk.
        fs::write(tftp.join("boot.ipxe"), "#!ipxe\nexit\n").map_err(broken)?;
        let parts = Parts { name: &setup.name, dir: dir.path(), tftp: &tftp };
        let machine = made.start(&parts)?;
        let line = Line::new(machine.serial_port).map_err(broken)?;
        let chassis_port = machine.chassis.serve().map_err(broken)?;
        let place = Place {
            dir: dir.path(),
            made: &made.dir,
            tools: &tools_dir(),
            chassis: chassis_port,
            serial: line.port(),
        };
        let peers = RefCell::new(Peers::start(&setup, &place)?);
        let host_key = Cell::new("host_key");
        let host =
            Self { setup, made, line, chassis_port, host_key, peers, machine, dir, _lock: lock };
        // Its clock went on where the snapshot's stood still.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        host.target().until(&format!("date -s @{now}"), ssh::PATIENCE)?;
        host.peers.borrow_mut().until_ready()?;
        Ok(host)
    }

    /// Its name in the inventory.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.setup.name
    }

    /// The directory of its own files, gone when it is: `disk.img`, `console.log`, `tftp` …
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The port of its SSH server on loopback.
    #[must_use]
    pub fn ssh_port(&self) -> u16 {
        self.machine.ssh_port
    }

    /// The port of its serial line on loopback, for any number of readers.
    #[must_use]
    pub fn serial_port(&self) -> u16 {
        self.line.port()
    }

    /// The private key with which root is let in.
    #[must_use]
    pub fn identity_file(&self) -> PathBuf {
        self.made.dir.join("id")
    }

    /// Its public host key, as it stands after the name in `known_hosts`.
    ///
    /// # Panics
    /// When it can't be read.
    #[must_use]
    pub fn host_key(&self) -> String {
        fs::read_to_string(self.made.dir.join(self.host_key.get())).expect("a public host key")
    }

    /// Runs a shell command on the host, with a session of its own.
    ///
    /// # Panics
    /// When it can't be run or doesn't succeed.
    pub fn ssh(&self, shell: &str) -> String {
        self.target().run(shell).unwrap_or_else(|problem| panic!("{}: {problem:?}", self.name()))
    }

    /// The same, for a host that may not answer: `None` when it doesn't within `within`.
    pub fn try_ssh(&self, shell: &str, within: Duration) -> Option<HostOutput> {
        self.target().command(shell, within).ok().filter(|output| output.code != Some(255))
    }

    /// What runs on it now; `None` when it doesn't answer.
    pub fn booted(&self) -> Option<Booted> {
        let ask = "uname -r; uname -v; cat /proc/cmdline /proc/sys/kernel/random/boot_id";
        let output = self.try_ssh(ask, ssh::PATIENCE)?;
        let text = String::from_utf8(output.stdout).ok()?;
        let mut lines = text.lines().map(str::to_owned);
        Some(Booted {
            release: lines.next()?,
            version: lines.next()?,
            command_line: lines.next()?,
            boot_id: lines.next()?,
        })
    }

    /// Waits until it answers and is ready.
    ///
    /// # Panics
    /// When it takes longer than `within`.
    pub fn until_up(&self, within: Duration) {
        self.target()
            .until_up(within)
            .unwrap_or_else(|problem| panic!("{}: {problem:?}", self.name()));
    }

    /// Waits until it runs something else than `before` and is ready; returns what.
    ///
    /// # Panics
    /// When it takes longer than `within`.
    pub fn until_rebooted(&self, before: &Booted, within: Duration) -> Booted {
        let end = std::time::Instant::now() + within;
        loop {
            let now = self.booted().filter(|now| now.boot_id != before.boot_id);
            if let Some(now) = now
                && self.target().until_up(Duration::from_secs(10)).is_ok()
            {
                return now;
            }
            if std::time::Instant::now() > end {
                let log = String::from_utf8_lossy(&self.console_log()).into_owned();
                let tail: String =
                    log.chars().skip(log.chars().count().saturating_sub(3000)).collect();
                panic!("{} isn't back within {} s: {tail}", self.name(), within.as_secs());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What GRUB would start next, read from the disk as GRUB does. What a kernel has yet to write, such as an
    /// entry that was armed without `sync`, is not there.
    ///
    /// # Panics
    /// When the disk can't be read.
    #[must_use]
    pub fn would_boot(&self) -> Next {
        let text = |path: &str| {
            let bytes = self.read(path).unwrap_or_else(|| panic!("{}: no {path}", self.name()));
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let (config, environment) = (text("/boot/grub/grub.cfg"), text("/boot/grub/grubenv"));
        let value = |key: &str| {
            let value =
                environment.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            value.filter(|value| !value.is_empty()).map(str::to_owned)
        };
        let default = config
            .lines()
            .filter_map(|line| line.trim().strip_prefix("set default=\"")?.strip_suffix('"'))
            .next_back();
        let default = match default {
            Some("${saved_entry}") => value("saved_entry"),
            other => other.map(str::to_owned),
        };
        Next { once: value("next_entry"), default }
    }

    /// A file of its disk, as it is there now: what a kernel has yet to write is not in it.
    ///
    /// # Panics
    /// When the disk can't be read.
    #[must_use]
    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        disk::read(&self.dir().join("disk.img"), path)
            .unwrap_or_else(|problem| panic!("{}: {problem:?}", self.name()))
    }

    /// All that its machine has sent to the serial line.
    #[must_use]
    pub fn console_log(&self) -> Vec<u8> {
        fs::read(self.dir().join("console.log")).unwrap_or_default()
    }

    /// Presses a button: `status`, `on`, `off`, `soft`, `reset`, `cycle`, `nmi`, `boot`, `boot pxe`, `boot
    /// pxe once`, `boot disk`, whatever fault there is. Returns what a query answers.
    ///
    /// # Panics
    /// When it can't be done.
    pub fn power(&self, verb: &str) -> String {
        self.machine.chassis.act(verb).unwrap_or_else(|e| panic!("{}: {verb}: {e}", self.name()))
    }

    /// Every power command that was carried out, in order, queries left out.
    #[must_use]
    pub fn power_commands(&self) -> Vec<String> {
        self.machine.chassis.done()
    }

    /// A command of QEMU's.
    ///
    /// # Panics
    /// When it fails.
    pub fn qmp(&self, command: &str, arguments: Value) -> Value {
        self.machine
            .chassis
            .execute(command, arguments)
            .unwrap_or_else(|e| panic!("{}: {e}", self.name()))
    }

    /// Plugs its network in or pulls it. Connections that there are become half-open, and new ones are
    /// accepted by nobody.
    pub fn set_link(&self, up: bool) {
        self.qmp("set_link", json!({ "name": "nic0", "up": up }));
    }

    /// Sets what its chassis does wrong from now on.
    pub fn chassis_fault(&self, fault: Option<ChassisFault>) {
        self.machine.chassis.fault(fault);
    }

    /// Makes its BMC deaf: connections are accepted by nobody, or lets it go on.
    pub fn stop_bmc(&self, stop: bool) {
        self.peers.borrow().stop(stop);
    }

    /// Sets what goes wrong in its Redfish service from now on; the keys are those in
    /// `lab/peers/redfish.py`.
    ///
    /// # Panics
    /// When it can't be written.
    pub fn redfish_fault(&self, fault: &Value) {
        let new = self.dir().join("redfish.new");
        fs::write(&new, fault.to_string())
            .and_then(|()| fs::rename(&new, self.dir().join("redfish.json")))
            .expect("a fault of Redfish");
    }

    /// Starts its BMC anew: sessions are lost. With `certificate` it proves to be another from now on.
    ///
    /// # Panics
    /// When it doesn't come up.
    pub fn restart_bmc(&self, certificate: bool) {
        let tools = tools_dir();
        let place = Place {
            dir: self.dir(),
            made: &self.made.dir,
            tools: &tools,
            chassis: self.chassis_port,
            serial: self.serial_port(),
        };
        self.peers
            .borrow_mut()
            .restart(&self.setup.name, &place, certificate)
            .unwrap_or_else(|problem| panic!("{}: {problem:?}", self.name()));
    }

    /// Gives its SSH server another host key, as a reinstalled host has.
    ///
    /// # Panics
    /// When it can't be done.
    pub fn change_host_key(&self) {
        self.ssh(
            "cd /etc/dropbear && mv host_key old && mv other_host_key host_key && \
             mv old other_host_key && kill $(cat /var/run/dropbear.pid) && \
             dropbear -s -r /etc/dropbear/host_key",
        );
        let other = if self.host_key.get() == "host_key" { "other_host_key" } else { "host_key" };
        self.host_key.set(other);
    }

    /// Sends bytes to those who read its serial line, as if it had.
    pub fn inject(&self, bytes: &[u8]) {
        self.line.send(bytes);
    }

    /// Ends all connections to its serial line; new ones are welcome.
    pub fn drop_console(&self) {
        self.line.drop_peers();
    }

    /// Ends connections to its serial line as soon as they are made, or not any more.
    pub fn refuse_console(&self, refuse: bool) {
        self.line.close(refuse);
    }

    fn target(&self) -> Target<'_> {
        Target { port: self.ssh_port(), dir: &self.made.dir, host_key: self.host_key.get() }
    }
}

/// Removes what was left by hosts that were killed.
fn sweep() {
    for dir in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let ours = dir.file_name().to_string_lossy().starts_with(PREFIX);
        if ours && File::open(dir.path().join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok()) {
            let _ = fs::remove_dir_all(dir.path());
        }
    }
}

/// Where disks and snapshots are kept.
fn lab_dir() -> PathBuf {
    let cache = kernels::cache_dir();
    cache.parent().unwrap_or(&cache).join("lab")
}

/// Where `ci/tools` puts the management peers that are Python's.
fn tools_dir() -> PathBuf {
    lab_dir().with_file_name("tools").join("lab")
}

/// Says that a test does not run, and why.
#[expect(clippy::print_stderr, reason = "a test that does not run has to be seen")]
fn skip(why: &str) {
    eprintln!("SKIP: no lab stand-in for this test: {why}");
}
