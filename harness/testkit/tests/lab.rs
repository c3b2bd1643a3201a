//! The lab stand-in: what others rely on when they test against it.

use std::process::Command;
use std::time::{Duration, Instant};

use kgate_testkit::lab::{Boot, Console, Power, Setup, StandIn};

/// A machine that does other work besides is slow.
const BOOT: Duration = Duration::from_secs(60);

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
    let mut all = vec!["-I", "lanplus", "-C", "3", "-H", "127.0.0.1", "-p", &port, "-U", "admin", "-E"];
    all.extend(args.split(' '));
    client("ipmitool", &all)
}

fn curl(host: &StandIn, path: &str, more: &[&str]) -> (bool, String) {
    let url = host.redfish_url() + path;
    let ca = host.certificate_file().display().to_string();
    let mut all = vec!["-s", "-S", "-u", "admin:labpw", "--cacert", &ca, "-w", "\n%{http_code}", &url];
    all.extend(more);
    client("curl", &all)
}

/// Says how long something took, for `--no-capture`.
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
    let mut sol = Command::new("timeout");
    sol.args(["60", "ipmitool", "-I", "lanplus", "-C", "3", "-H", "127.0.0.1", "-p", &port]);
    sol.args(["-U", "admin", "-E", "sol", "activate"]).env("IPMI_PASSWORD", "labpw");
    let piped = std::process::Stdio::piped;
    let mut sol = sol.stdin(piped()).stdout(piped()).spawn().expect("sol");
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
    let once = r#"{"Boot":{"BootSourceOverrideTarget":"Pxe","BootSourceOverrideEnabled":"Once"}}"#;
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
    let login = r#"{"UserName":"admin","Password":"labpw"}"#;
    let said = post("/redfish/v1/SessionService/Sessions", login);
    assert!(said.ends_with("201"), "{said}");
    host.restart_bmc(true);
    let (ok, said) = curl(&host, &path, &[]);
    assert!(!ok && said.contains("certificate"), "{said}");
}
