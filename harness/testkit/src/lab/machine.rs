//! The stand-in's machine: one QEMU process, started from a snapshot in which production is up.
//!
//! Disk and snapshot are made once and kept below `target/lab/KEY`, where the key is all that they are
//! made of. A machine gets a copy of the disk; the snapshot's memory is shared until it is written.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kgate_kernel::Kernel;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::chassis::Chassis;
use super::process::Process;
use super::{Problem, disk, ssh};

const MEMORY: &str = "640M";
/// From power-on to an answer over SSH, on a machine that is busy.
const BOOTS_WITHIN: Duration = Duration::from_secs(120);
const STARTS_WITHIN: Duration = Duration::from_secs(20);

/// A file of what was made, locked by its users.
const USED: &str = "used";

/// What all stand-ins with the same kernel have in common.
pub(super) struct Made {
    pub(super) dir: PathBuf,
    /// Locked by everybody who uses it.
    _used: File,
}

/// What a machine is started with.
pub(super) struct Parts<'a> {
    pub(super) name: &'a str,
    /// Where its own files are.
    pub(super) dir: &'a Path,
    /// What it serves by TFTP to whoever starts from the network.
    pub(super) tftp: &'a Path,
}

/// A machine that runs.
pub(super) struct Machine {
    pub(super) chassis: Chassis,
    pub(super) ssh_port: u16,
    pub(super) serial_port: u16,
    // Ends after the others.
    pub(super) process: Process,
}

impl Made {
    /// Finds disk and snapshot for this kernel, or makes them.
    pub(super) fn get(kernel: &Kernel, target: &Path) -> Result<Self, Problem> {
        let mut hash = Sha256::new();
        hash.update(&kernel.sha256);
        hash.update(disk::ingredients()?);
        hash.update(disk::run("qemu-system-x86_64", &["--version"])?);
        hash.update(include_bytes!("machine.rs"));
        let key: String = hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect();
        let broken = |e: std::io::Error| Problem::broken("target/lab", e);
        fs::create_dir_all(target).map_err(broken)?;
        let dir = target.join(&key);
        let lock = File::create(target.join(".lock")).map_err(broken)?;
        lock.lock().map_err(broken)?;
        if !dir.exists() {
            // What others have made of what there was then.
            for old in fs::read_dir(target).map_err(broken)?.flatten().map(|entry| entry.path()) {
                let free = File::open(old.join(USED)).map_or(true, |used| used.try_lock().is_ok());
                if old.is_dir() && free {
                    fs::remove_dir_all(&old).map_err(broken)?;
                }
            }
            let new = target.join(format!("{key}.new"));
            fs::create_dir_all(&new).map_err(broken)?;
            make(kernel, &new)?;
            File::create(new.join(USED)).map_err(broken)?;
            fs::rename(&new, &dir).map_err(broken)?;
        }
        let used = File::open(dir.join(USED)).map_err(broken)?;
        used.lock_shared().map_err(broken)?;
        Ok(Self { dir, _used: used })
    }

    /// Starts a machine in the state of the snapshot, with a disk of its own in `parts.dir`.
    pub(super) fn start(&self, parts: &Parts<'_>) -> Result<Machine, Problem> {
        let image = parts.dir.join("disk.img");
        disk::copy_sparse(&self.dir.join("disk.img"), &image)?;
        let memory = format!("mem-path={},share=off", self.dir.join("memory").display());
        let running = launch(parts, &memory, &["-incoming", "defer"])?;
        let state = self.dir.join("state");
        let uri = format!("exec:cat '{}'", state.display());
        let chassis = &running.chassis;
        shared(chassis)?;
        ask(chassis, "migrate-incoming", json!({ "uri": uri }))?;
        wait(chassis, "incoming", |status| status != "inmigrate")?;
        ask(chassis, "cont", json!({}))?;
        Ok(running)
    }
}

/// Makes disk, keys and snapshot in `dir`.
fn make(kernel: &Kernel, dir: &Path) -> Result<(), Problem> {
    let work = tempfile::tempdir().map_err(|e| Problem::broken("directory", e))?;
    let key = dir.join("id");
    let path = key.display().to_string();
    disk::run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", &path])?;
    let image = dir.join("disk.img");
    disk::make(kernel, &key, work.path(), &image)?;
    let root = work.path().join("root");
    fs::copy(root.join("boot/grub/grub.cfg"), dir.join("grub.cfg"))
        .map_err(|e| Problem::broken("grub.cfg", e))?;
    for name in ["host_key", "other_host_key"] {
        let public = disk::public_key(&root, name)?;
        disk::write(&dir.join(name), 0o644, public.as_bytes())?;
    }
    for name in ["bmc", "other-bmc"] {
        certificate(dir, name)?;
    }
    let memory = dir.join("memory");
    // It starts in the directory that it is made in: the image there becomes the snapshot's.
    let parts = Parts { name: "made", dir, tftp: work.path() };
    let memory = format!("mem-path={},share=on", memory.display());
    let mut running = launch(&parts, &memory, &[])?;
    ask(&running.chassis, "cont", json!({}))?;
    let target = ssh::Target { port: running.ssh_port, dir, host_key: "host_key" };
    target.until_up(BOOTS_WITHIN)?;
    target.run("sync; echo 3 >/proc/sys/vm/drop_caches; sleep 1")?;
    let chassis = &running.chassis;
    ask(chassis, "stop", json!({}))?;
    shared(chassis)?;
    let uri = format!("exec:cat >'{}'", dir.join("state").display());
    ask(chassis, "migrate", json!({ "uri": uri }))?;
    running.process.until(STARTS_WITHIN, || {
        let status = chassis.execute("query-migrate", json!({})).ok()?;
        (status["status"] == "completed").then_some(())
    })
}

/// A certificate of a BMC, signed by itself as those of most are.
fn certificate(dir: &Path, name: &str) -> Result<(), Problem> {
    let file = |extension: &str| dir.join(name).with_extension(extension).display().to_string();
    let (pem, key) = (file("pem"), file("key"));
    let args = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "3650",
        "-subj",
        "/CN=bmc",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-out",
        &pem,
        "-keyout",
        &key,
    ];
    disk::run("openssl", &args)?;
    let der = file("der");
    disk::run("openssl", &["x509", "-in", &pem, "-outform", "DER", "-out", &der]).map(|_| ())
}

/// Memory that is a file isn't part of what is written.
fn shared(chassis: &Chassis) -> Result<(), Problem> {
    let on = json!([{ "capability": "x-ignore-shared", "state": true }]);
    ask(chassis, "migrate-set-capabilities", json!({ "capabilities": on })).map(|_| ())
}

pub(super) fn ask(chassis: &Chassis, command: &str, arguments: Value) -> Result<Value, Problem> {
    chassis.execute(command, arguments).map_err(|e| Problem::broken("qemu", e))
}

fn wait(chassis: &Chassis, what: &str, done: impl Fn(&str) -> bool) -> Result<(), Problem> {
    for _ in 0..4000 {
        let status = ask(chassis, "query-status", json!({}))?;
        if done(status["status"].as_str().unwrap_or_default()) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err(Problem::broken("qemu", format!("{what} takes too long")))
}

fn launch(parts: &Parts<'_>, memory: &str, more: &[&str]) -> Result<Machine, Problem> {
    let Parts { name, dir, tftp } = parts;
    let at = |file: &str| dir.join(file).display().to_string();
    let mut args: Vec<String> = [
        "-name",
        name,
        "-machine",
        "pc,memory-backend=memory",
        "-accel",
        "tcg",
        "-cpu",
        "max",
        "-smp",
        "1",
        "-m",
        MEMORY,
        "-object",
        &format!("memory-backend-file,id=memory,size={MEMORY},{memory}"),
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-shutdown",
        "-S",
        "-rtc",
        "base=utc",
        "-drive",
        &format!("file={},if=none,id=disk,format=raw,cache=unsafe", at("disk.img")),
        "-device",
        "virtio-blk-pci,drive=disk,id=disk0,bootindex=1",
        "-netdev",
        &format!(
            "user,id=net,hostfwd=tcp:127.0.0.1:0-:22,tftp={},bootfile=boot.ipxe",
            tftp.display()
        ),
        "-device",
        "virtio-net-pci,netdev=net,id=nic0,bootindex=2",
        "-chardev",
        &format!(
            "socket,id=serial,host=127.0.0.1,port=0,server=on,wait=off,logfile={},logappend=on",
            at("console.log")
        ),
        "-serial",
        "chardev:serial",
        "-qmp",
        &format!("unix:{},server=on,wait=off", at("qmp")),
        "-qmp",
        &format!("unix:{},server=on,wait=off", at("events")),
    ]
    .map(str::to_owned)
    .into();
    args.extend(more.iter().map(|arg| (*arg).to_owned()));
    let mut process = Process::start("qemu-system-x86_64", &args, &dir.join("qemu.log"))?;
    let chassis = process
        .until(STARTS_WITHIN, || Chassis::new(&dir.join("qmp"), &dir.join("events")).ok())?;
    let usernet = json!({ "command-line": "info usernet" });
    let usernet = ask(&chassis, "human-monitor-command", usernet)?;
    let ssh_port = usernet
        .as_str()
        .and_then(|text| text.lines().find(|line| line.contains("HOST_FORWARD")))
        .and_then(|line| line.split_whitespace().nth(3)?.parse().ok())
        .ok_or_else(|| Problem::broken("qemu", format!("no port for ssh in {usernet}")))?;
    let chardevs = ask(&chassis, "query-chardev", json!({}))?;
    let serial_port = chardevs
        .as_array()
        .into_iter()
        .flatten()
        .filter(|chardev| chardev["label"] == "serial")
        .find_map(|chardev| {
            let name = chardev["filename"].as_str()?;
            name.split("127.0.0.1:").nth(1)?.split(',').next()?.parse().ok()
        })
        .ok_or_else(|| Problem::broken("qemu", format!("no serial port in {chardevs}")))?;
    Ok(Machine { chassis, ssh_port, serial_port, process })
}
