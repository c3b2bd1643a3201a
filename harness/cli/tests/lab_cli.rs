//! `kgate lab` as a person and a CI job see it: files that are wrong, and stand-ins of bare metal.

mod support;

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use kgate_kernel::Kernel;
use kgate_lab::reservation::{Holder, Lock};
use kgate_model::inventory::{ConsoleSource, LabHost, Power, PowerCommands};
use kgate_scenario::Places;
use kgate_testkit::kernels;
use kgate_testkit::lab::{self, Boot, Console, Power as By, Setup, StandIn};
use serde_json::Value;
use support::{kgate, run};
use tempfile::TempDir;

const LAB: &str = "\
defaults:
  tags: [edge]
  power: { user: root, password: { env: BMC } }
  console: sol
hosts:
  edge-1: { power: { redfish: https://127.0.0.1:1 }, ssh: { address: 127.0.0.1, port: 1 } }
  edge-2: { power: { ipmi: 127.0.0.1:1 }, tags: [edge, old], boot: { method: kexec } }
  bare: { power: ~, console: { tcp: '127.0.0.1:1' }, tags: [] }
";

fn directory(text: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("lab.yaml"), text).unwrap();
    dir
}

fn kgate_lab(dir: &Path, line: &str) -> (i32, String, String) {
    let line = line.split_whitespace();
    run(kgate(dir)
        .env("KGATE_LAB_STATE", "state")
        .env("HOME", "/nonexistent")
        .arg("lab")
        .args(line))
}

#[test]
fn what_needs_no_host() {
    let dir = directory(LAB);
    fs::write(
        dir.path().join("bad.yaml"),
        "hosts: { a: { power: { ipmi: b, user: c, password: d } } }\n",
    )
    .unwrap();
    let mut answers = String::new();
    for line in [
        "list",
        "list old bare",
        "list edge-1 --json",
        "list new",
        "list --lab missing.yaml",
        "list --lab bad.yaml",
        "power bare state",
        "power edge-3 state",
        "power edge-1 explode",
        "power edge-1 state",
        "check",
        "console edge-1",
        "console edge-1 --number 2",
        "console edge-1 --follow",
    ] {
        let (code, stdout, stderr) = kgate_lab(dir.path(), line);
        write!(answers, "$ kgate lab {line}\n{stdout}{stderr}=> {code}\n\n").unwrap();
    }
    let empty = TempDir::new().unwrap();
    let (code, _, stderr) = kgate_lab(empty.path(), "list");
    write!(answers, "$ kgate lab list (where there is none)\n{stderr}=> {code}\n").unwrap();
    insta::assert_snapshot!(answers);
}

#[test]
fn a_host_that_nobody_reaches_is_not_ready() {
    let dir = directory(&LAB.replace("defaults:", "defaults:\n  limits: { bmc: 2s }"));
    let (code, stdout, _) = run(kgate(dir.path())
        .env("KGATE_LAB_STATE", "state")
        .env("BMC", "hunter2")
        .args(["lab", "check", "edge-1", "--json"]));
    assert_eq!(code, 4, "{stdout}");
    assert!(!stdout.contains("hunter2"), "{stdout}");
    let value: Value = serde_json::from_str(&stdout).unwrap();
    let outcomes: Vec<_> = value["hosts"][0]["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| {
            format!("{} {}", step["step"].as_str().unwrap(), step["outcome"].as_str().unwrap())
        })
        .collect();
    insta::assert_snapshot!(outcomes.join("\n"));
}

/// A stand-in with its inventory in a directory.
fn stand_in(setup: Setup) -> Option<(StandIn, TempDir)> {
    let host = StandIn::start(setup)?;
    let dir = directory(&lab::inventory(&[&host]));
    Some((host, dir))
}

/// How a kernel is named: the directory that its package was unpacked into.
fn package(kernel: &Kernel) -> String {
    kernel.image.ancestors().nth(2).unwrap().display().to_string()
}

/// Outcome and name of each step of a check: what was found differs from machine to machine.
fn steps(stdout: &str) -> String {
    let step = |line: &str| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    stdout.lines().map(step).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_inventory_of_stand_ins_means_what_they_are() {
    let setups = [
        (By::Redfish, Console::Tcp, Boot::Grub),
        (By::Ipmi, Console::Sol, Boot::Kexec),
        (By::Command, Console::Conserver, Boot::Pxe),
    ];
    for (power, console, boot) in setups {
        let Some(host) = StandIn::start(Setup { name: "x".into(), power, console, boot }) else {
            return;
        };
        let places = Places { directory: "/".into(), home: None };
        let read =
            kgate_scenario::inventory(Path::new("lab.yaml"), &lab::inventory(&[&host]), &places);
        let mut read = read.unwrap_or_else(|mistakes| panic!("{mistakes}"));
        assert_eq!(without_place(read.hosts.remove(0)), host.lab_host());
    }
}

/// Commands of the controller without the directory in which they run.
fn without_place(mut host: LabHost) -> LabHost {
    let short = |command: &mut Option<String>| {
        if let Some(command) = command {
            *command = command.replace("cd '/' || exit; ", "");
        }
    };
    if let Some(Power::Command(commands)) = &mut host.power {
        let PowerCommands { state, on, off, soft_off, reset, cycle, nmi, pxe_once } = commands;
        [state, on, off, soft_off, reset, cycle, nmi, pxe_once].into_iter().for_each(short);
    }
    for source in &mut host.consoles {
        if let ConsoleSource::Command(command) = source {
            *command = command.replace("cd '/' || exit; ", "");
        }
    }
    host
}

#[test]
fn boots_a_stand_in_that_is_ready_by_redfish_and_tcp() {
    let setup = Setup { power: By::Redfish, ..Setup::default() };
    let Some((host, dir)) = stand_in(setup) else { return };
    let before = host.booted().unwrap();
    let (code, stdout, stderr) = kgate_lab(dir.path(), "check labhost");
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    insta::assert_snapshot!(steps(&stdout));
    assert_eq!(host.booted().unwrap(), before);
    assert!(host.would_boot().is_production());

    // Another certificate, and another host key: what the inventory says isn't there.
    host.restart_bmc(true);
    let (code, stdout, _) = kgate_lab(dir.path(), "check labhost");
    assert_eq!(code, 2, "{stdout}");
    assert!(stdout.contains("not the one in the inventory"), "{stdout}");
    let (code, _, stderr) = kgate_lab(dir.path(), "power labhost state");
    assert_eq!(code, 2, "{stderr}");
    host.change_host_key();
    let (code, stdout, _) = kgate_lab(dir.path(), "check --all");
    assert_eq!(code, 2, "{stdout}");
    assert!(stdout.contains("the host's key is not the one in the inventory"), "{stdout}");
}

#[test]
fn boots_a_stand_in_whose_console_is_followed() {
    let Some((host, dir)) = stand_in(Setup::default()) else { return };
    let mut child = kgate(dir.path())
        .args(["lab", "console", "labhost", "--follow", "--log", "console.log"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let end = Instant::now() + Duration::from_secs(20);
    std::thread::sleep(Duration::from_secs(2));
    host.ssh("printf '\\033[31mred\\n' >/dev/ttyS0");
    let heard = lines.any(|line| {
        assert!(Instant::now() < end, "nothing was heard");
        line.unwrap().contains(r"\u{1b}[31mred")
    });
    assert!(heard);
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    assert!(child.wait().unwrap().success());
    let log = fs::read(dir.path().join("console.log")).unwrap();
    assert!(log.windows(8).any(|bytes| bytes == b"\x1b[31mred"));
}

#[test]
fn a_host_that_somebody_has_is_left_alone() {
    let dir = directory(LAB);
    let state = dir.path().join("state");
    let holder = Holder::this("kim", "run 7");
    let _lock = Lock::take(&state, "edge-1", &holder).unwrap();
    let (code, stdout, _) = kgate_lab(dir.path(), "list edge-1");
    assert_eq!(code, 0);
    assert!(stdout.contains("in use by kim on "), "{stdout}");
    for line in ["power edge-1 off", "recover edge-1", "check edge-1"] {
        let (code, stdout, stderr) = kgate_lab(dir.path(), line);
        assert_eq!(code, 3, "{line}: {stdout}{stderr}");
        assert!(format!("{stdout}{stderr}").contains("kim on "), "{line}: {stdout}{stderr}");
    }
    assert_eq!(kgate_lab(dir.path(), "recover").1, "no host was left\n");
}

/// Those that take minutes.
mod long {
    use super::*;

    #[test]
    fn boots_a_kernel_on_a_stand_in_once() {
        let Some((host, dir)) = stand_in(Setup::default()) else { return };
        let Some(pair) = kernels::old_pair() else { return };
        let kernel = package(&pair.candidate);
        let boot = |rest: &[&str]| {
            run(kgate(dir.path())
                .env("KGATE_LAB_STATE", "state")
                .env("KGATE_CACHE", kernels::cache_dir())
                .args(["lab", "boot", "labhost", &kernel])
                .args(rest))
        };
        let (code, stdout, stderr) = boot(&["--", "uname", "-r"]);
        assert_eq!((code, stdout.trim()), (0, pair.candidate.release.as_str()), "{stderr}");
        assert!(stderr.contains("kgate: labhost: back on production"), "{stderr}");
        assert_eq!(host.booted().unwrap().release, pair.baseline.release);
        assert!(host.would_boot().is_production());

        let (code, _, stderr) = boot(&["--append", "lab.fault=panic"]);
        assert_eq!(code, 1, "{stderr}");
        assert_eq!(host.booted().unwrap().release, pair.baseline.release);
        let (code, stdout, stderr) = kgate_lab(dir.path(), "recover");
        assert_eq!((code, stdout.as_str()), (0, "no host was left\n"), "{stderr}");
    }

    #[test]
    fn boots_a_scenario_on_a_stand_in_and_recovers_what_a_kill_left() {
        let Some((host, dir)) = stand_in(Setup::default()) else { return };
        let Some(pair) = kernels::old_pair() else { return };
        let boot = |rest: &[&str]| {
            let mut command = kgate(dir.path());
            command
                .env("KGATE_LAB_STATE", "state")
                .env("KGATE_CACHE", kernels::cache_dir())
                .args(["lab", "boot", "labhost", &package(&pair.candidate)])
                .args(rest);
            command
        };
        let (code, stdout, stderr) = run(&mut boot(&["--scenario", "subsystem/core/proc-sys"]));
        assert_eq!(code, 0, "{stdout}{stderr}");
        assert!(host.would_boot().is_production());

        let mut child = boot(&["--", "sleep", "1000"]).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("the candidate is up")));
        child.kill().unwrap();
        child.wait().unwrap();
        let (_, stdout, _) = kgate_lab(dir.path(), "list");
        assert!(stdout.contains("left: not known to be on production"), "{stdout}");
        let (code, stdout, stderr) = kgate_lab(dir.path(), "recover");
        assert_eq!(code, 0, "{stderr}");
        assert!(stdout.starts_with("labhost is on production: brought back"), "{stdout}");
        assert_eq!(host.booted().unwrap().release, pair.baseline.release);
        assert!(host.would_boot().is_production());
        assert!(kgate_lab(dir.path(), "list").1.contains("  free"));
    }

    #[test]
    fn boots_a_stand_in_that_is_switched_by_ipmi() {
        let setup = Setup { power: By::Ipmi, console: Console::Sol, ..Setup::default() };
        let Some((host, dir)) = stand_in(setup) else { return };
        let (code, stdout, stderr) = kgate_lab(dir.path(), "check labhost");
        assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
        for (action, told) in [
            ("state", "labhost is on\n"),
            ("off", "labhost is off\n"),
            ("state", "labhost is off\n"),
            ("on", "labhost is on\n"),
            ("reset", "labhost was reset and is on\n"),
        ] {
            let (code, stdout, stderr) = kgate_lab(dir.path(), &format!("power labhost {action}"));
            assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, told, ""), "{action}");
        }
        // A secret that others may read is none.
        fs::set_permissions(host.password_file(), fs::Permissions::from_mode(0o644)).unwrap();
        let (code, _, stderr) = kgate_lab(dir.path(), "power labhost state");
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains("is open to others (mode 0644): chmod 600 "), "{stderr}");
    }
}
