//! The lab stand-in: what others rely on when they test against it.

use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kgate_scenario::Places;
use kgate_testkit::lab::{Boot, ChassisFault, Console, Power, Setup, StandIn, inventory};

/// A machine that does other work besides is slow.
const BOOT: Duration = Duration::from_secs(120);

/// Runs a client of a peer's as a person would.
fn client(program: &str, args: &[&str]) -> (bool, String) {
    let output = Command::new("timeout")
        .args(["30", program])
        .args(args)
        .env("IPMI_PASSWORD", "labpw")
        .output()
        .expect("a client");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn ipmitool(host: &StandIn, args: &str) -> (bool, String) {
    let port = host.ipmi().port.to_string();
    let mut all =
        vec!["-I", "lanplus", "-C", "3", "-H", "127.0.0.1", "-p", &port, "-U", "admin", "-E"];
    all.extend(args.split(' '));
    client("ipmitool", &all)
}

fn curl(host: &StandIn, path: &str, more: &[&str]) -> (bool, String) {
    let url = host.redfish_url() + path;
    let ca = host.certificate_file().display().to_string();
    let mut all =
        vec!["-s", "-S", "-u", "admin:labpw", "--cacert", &ca, "-w", "\n%{http_code}", &url];
    all.extend(more);
    client("curl", &all)
}

/// Says how long something took, for `--no-capture`.
#[expect(clippy::print_stdout, reason = "a figure for whoever asks for it")]
fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = work();
    println!("{what}: {:.1} s", start.elapsed().as_secs_f64());
    done
}

fn start(setup: Setup) -> Option<StandIn> {
    timed("start", || StandIn::start(setup))
}

#[test]
fn it_starts_with_production_up_and_comes_back_after_a_reset() {
    let Some(host) = start(Setup::default()) else { return };
    let booted = host.booted().expect("it answers");
    assert!(booted.command_line.contains(host.production_command_line()), "{booted:?}");
    assert!(host.would_boot().is_production());
    host.power("reset");
    let again = timed("reset to ssh", || host.until_rebooted(&booted, BOOT));
    assert_eq!((&again.release, &again.command_line), (&booted.release, &booted.command_line));
    let log = String::from_utf8_lossy(&host.console_log()).into_owned();
    assert!(log.contains("Booting `Debian GNU/Linux") && log.contains("lab: ready"), "{log}");
}

#[test]
fn ipmi_switches_power_and_carries_the_console() {
    let setup = Setup { power: Power::Ipmi, console: Console::Sol, ..Setup::default() };
    let Some(host) = start(setup) else { return };
    let booted = host.booted().expect("it answers");
    let status = |want: &str| {
        let (ok, text) = ipmitool(&host, "chassis power status");
        assert!(ok && text.contains(want), "{text}");
    };
    status("Chassis Power is on");
    // The serial line over LAN, from before the host starts until it is up.
    let port = host.ipmi().port.to_string();
    let mut sol = Command::new("ipmitool");
    sol.args(["-I", "lanplus", "-C", "3", "-H", "127.0.0.1", "-p", &port]);
    sol.args(["-U", "admin", "-E", "sol", "activate"]).env("IPMI_PASSWORD", "labpw");
    let mut sol = sol.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sol");
    std::thread::sleep(Duration::from_secs(1));
    assert!(ipmitool(&host, "chassis power off").0);
    status("Chassis Power is off");
    assert!(host.try_ssh("true", Duration::from_secs(2)).is_none());
    assert!(ipmitool(&host, "chassis power on").0);
    status("Chassis Power is on");
    let again = timed("power on to ssh", || host.until_rebooted(&booted, BOOT));
    assert!(ipmitool(&host, "chassis power cycle").0);
    timed("power cycle to ssh", || host.until_rebooted(&again, BOOT));
    let (ok, text) = ipmitool(&host, "chassis power diag");
    assert!(!ok && text.contains("Invalid data field"), "{text}");
    sol.kill().expect("sol ends");
    let heard = sol.wait_with_output().expect("sol").stdout;
    let heard = String::from_utf8_lossy(&heard).into_owned();
    assert!(heard.contains("Linux version") && heard.contains("lab: ready"), "{heard}");
    println!("{:?}", host.power_commands());
    assert!(ipmitool(&host, "chassis bootdev pxe").0);
    assert_eq!(host.power("boot"), "pxe once");
}

#[test]
fn what_inventories_say_of_stand_ins_is_what_they_are() {
    let setups = [
        (Power::Command, Console::Tcp, Boot::Grub),
        (Power::Ipmi, Console::Sol, Boot::Kexec),
        (Power::Redfish, Console::Conserver, Boot::Pxe),
        (Power::Command, Console::Command, Boot::Grub),
    ];
    let hosts: Option<Vec<StandIn>> = setups
        .into_iter()
        .enumerate()
        .map(|(number, (power, console, boot))| {
            start(Setup { name: format!("lab-{number}"), power, console, boot })
        })
        .collect();
    let Some(hosts) = hosts else { return };
    let text = inventory(&hosts.iter().collect::<Vec<_>>());
    let places = Places { directory: "/".into(), home: None };
    let read = kgate_scenario::inventory(Path::new("lab.yaml"), &text, &places);
    let read = read.unwrap_or_else(|mistakes| panic!("{mistakes}\n{text}"));
    let are: Vec<_> = hosts.iter().map(StandIn::lab_host).collect();
    // Commands run beside the file.
    assert_eq!(format!("{:#?}", read.hosts).replace("cd '/' || exit; ", ""), format!("{are:#?}"));
    // The site's own commands, as their user runs them.
    let button = hosts[0].button().display().to_string();
    assert_eq!(client(&button, &["status"]), (true, "on\n".into()));
    assert!(!client(&button, &["nonsense"]).0);
    // A console of conserver's, and one that is a command.
    let port = hosts[2].lab_host().consoles;
    let port = format!("{port:?}")
        .split("port: ")
        .nth(1)
        .and_then(|t| t.split(',').next().map(str::to_owned));
    let ports = port.expect("a port");
    let mut console = Command::new("console");
    console.args(["-M", "127.0.0.1", "-p", &ports, "-s", "lab-2"]);
    let mut console =
        console.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("console");
    std::thread::sleep(Duration::from_millis(500));
    hosts[2].ssh("echo from-the-host >/dev/ttyS0");
    hosts[2].inject(b"injected\r\n");
    std::thread::sleep(Duration::from_millis(500));
    console.kill().expect("console ends");
    let heard = console.wait_with_output().expect("console").stdout;
    let heard = String::from_utf8_lossy(&heard).into_owned();
    assert!(heard.contains("from-the-host") && heard.contains("injected"), "{heard}");
}

#[test]
fn its_network_can_be_cut_and_its_host_key_changed() {
    let Some(host) = start(Setup::default()) else { return };
    host.set_link(false);
    assert!(host.try_ssh("true", Duration::from_secs(3)).is_none());
    host.set_link(true);
    timed("link to ssh", || host.until_up(BOOT));
    let before = host.host_key();
    host.change_host_key();
    assert_ne!(host.host_key(), before);
    host.ssh("true");
    host.power("off");
    assert_eq!(host.power("status"), "off");
}

#[test]
fn a_crash_of_production_is_told_by_netconsole_and_kept_by_pstore() {
    let Some(host) = start(Setup::default()) else { return };
    let booted = host.booted().expect("it answers");
    let listener = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("a port").port();
    // It sends all of its log first, which is more than a socket keeps.
    listener.set_read_timeout(Some(Duration::from_millis(100))).expect("a limit");
    let done = Arc::new(AtomicBool::new(false));
    let enough = Arc::clone(&done);
    let reader = std::thread::spawn(move || {
        let (mut heard, mut buffer) = (Vec::new(), [0; 2048]);
        while !enough.load(Ordering::Relaxed) {
            let read = listener.recv(&mut buffer).unwrap_or_default();
            heard.extend_from_slice(&buffer[..read]);
        }
        heard
    });
    let target = format!("@10.0.2.15/eth0,{port}@10.0.2.2/52:55:0a:00:02:02");
    host.ssh(&format!("modprobe netconsole netconsole=6665{target} && dmesg -n 8"));
    let _ = host.try_ssh("echo c >/proc/sysrq-trigger", Duration::from_secs(2));
    let again = timed("panic and back", || host.until_rebooted(&booted, BOOT));
    assert_eq!(again.release, booted.release);
    done.store(true, Ordering::Relaxed);
    let heard = reader.join().expect("a reader");
    let panic = "Kernel panic - not syncing: sysrq triggered crash";
    let heard = String::from_utf8_lossy(&heard).into_owned();
    assert!(heard.contains(panic), "{heard}");
    let kept = host.ssh("cat /sys/fs/pstore/dmesg-ramoops-*");
    assert!(kept.contains(panic), "{kept}");
}

#[test]
fn nothing_is_left_of_a_lab_that_is_killed() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("lab.yaml").display().to_string();
    let mut lab = Command::new(env!("CARGO_BIN_EXE_lab"));
    lab.args(["--power", "redfish", "--console", "conserver", &file]).stdout(Stdio::piped());
    let mut lab = lab.spawn().expect("a lab");
    let end = Instant::now() + BOOT;
    while !Path::new(&file).exists() {
        // It has said why.
        if lab.try_wait().expect("a lab").is_some() {
            return;
        }
        assert!(Instant::now() < end, "no lab");
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_millis(200));
    lab.kill().expect("killed");
    let said = String::from_utf8(lab.wait_with_output().expect("a lab").stdout).expect("text");
    let place =
        said.lines().find_map(|line| line.trim().strip_prefix("files")).expect("files").trim();
    let left = || {
        let all = std::fs::read_dir("/proc").expect("/proc").flatten();
        let lines = all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
        lines.filter(|line| line.contains(place)).collect::<Vec<_>>()
    };
    let end = Instant::now() + Duration::from_secs(5);
    while !left().is_empty() {
        assert!(Instant::now() < end, "{:?}", left());
        std::thread::sleep(Duration::from_millis(50));
    }
    // The next one sweeps up.
    assert!(Path::new(place).exists());
    let Some(_host) = start(Setup::default()) else { return };
    assert!(!Path::new(place).exists());
}

/// Those that take minutes.
mod long {
    use super::*;

    #[test]
    fn redfish_resets_and_boots_once_from_the_network() {
        let setup = Setup { power: Power::Redfish, boot: Boot::Pxe, ..Setup::default() };
        let Some(host) = start(setup) else { return };
        let booted = host.booted().expect("it answers");
        let (ok, systems) = curl(&host, "/redfish/v1/Systems", &[]);
        assert!(ok, "{systems}");
        let path = systems.split('"').find(|word| word.starts_with("/redfish/v1/Systems/"));
        let path = path.unwrap_or_else(|| panic!("{systems}")).to_owned();
        let post = |path: &str, body: &str| {
            curl(&host, path, &["-H", "Content-Type: application/json", "-d", body]).1
        };
        let action = format!("{path}/Actions/ComputerSystem.Reset");
        let said = post(&action, r#"{"ResetType":"ForceRestart"}"#);
        assert!(said.ends_with("204"), "{said}");
        let again = timed("ForceRestart to ssh", || host.until_rebooted(&booted, BOOT));
        let once =
            r#"{"Boot":{"BootSourceOverrideTarget":"Pxe","BootSourceOverrideEnabled":"Once"}}"#;
        let json = "Content-Type: application/json";
        let said = curl(&host, &path, &["-X", "PATCH", "-H", json, "-d", once]).1;
        assert!(said.ends_with("204"), "{said}");
        let (_, system) = curl(&host, &path, &[]);
        assert!(system.contains(r#""BootSourceOverrideEnabled": "Once""#), "{system}");
        // What it finds on the network says that there is nothing to do.
        let script = "#!ipxe\necho lab: from the network\nexit\n";
        std::fs::write(host.tftp_dir().join("boot.ipxe"), script).expect("a script");
        host.ssh("reboot");
        timed("network and on to the disk", || host.until_rebooted(&again, BOOT));
        let (_, system) = curl(&host, &path, &[]);
        assert!(system.contains(r#""BootSourceOverrideEnabled": "Disabled""#), "{system}");
        // Faults.
        host.redfish_fault(&serde_json::json!({ "status": 503 }));
        assert!(curl(&host, &path, &[]).1.ends_with("503"));
        host.redfish_fault(&serde_json::json!({ "tasks": 1 }));
        let said = post(&action, r#"{"ResetType":"GracefulShutdown"}"#);
        assert!(said.ends_with("202"), "{said}");
        let end = Instant::now() + BOOT;
        while host.power("status") == "on" {
            assert!(Instant::now() < end, "it doesn't switch off");
            std::thread::sleep(Duration::from_millis(100));
        }
        host.redfish_fault(&serde_json::json!({ "hang": 5 }));
        assert!(!curl(&host, &path, &["-m", "1"]).0);
        host.redfish_fault(&serde_json::json!({}));
        host.stop_bmc(true);
        assert!(!curl(&host, &path, &["-m", "1"]).0);
        host.stop_bmc(false);
        let login = r#"{"UserName":"admin","Password":"labpw"}"#;
        let said = post("/redfish/v1/SessionService/Sessions", login);
        assert!(said.ends_with("201"), "{said}");
        let url = host.redfish_url() + &path;
        let headers = ["-s", "-k", "-D", "-", "-o", "/dev/null", "-H", json, "-d", login];
        let sessions = host.redfish_url() + "/redfish/v1/SessionService/Sessions";
        let said = client("curl", &[&headers[..], &[&sessions]].concat()).1;
        let token =
            said.lines().find_map(|line| line.strip_prefix("X-Auth-Token: ")).expect("a token");
        let token = format!("X-Auth-Token: {}", token.trim());
        let by_token =
            || client("curl", &["-s", "-k", "-w", "\n%{http_code}", "-H", &token, &url]).1;
        assert!(by_token().ends_with("200"), "{}", by_token());
        host.redfish_fault(&serde_json::json!({ "forget": 1 }));
        assert!(by_token().ends_with("401"), "{}", by_token());
        host.chassis_fault(Some(ChassisFault::SaysOn));
        assert!(curl(&host, &path, &[]).1.contains(r#""PowerState": "On""#));
        host.chassis_fault(None);
        assert!(curl(&host, &path, &[]).1.contains(r#""PowerState": "Off""#));
        host.restart_bmc(true);
        let (ok, said) = curl(&host, &path, &[]);
        assert!(!ok && said.contains("certificate"), "{said}");
    }
}
