//! `ci/lab`: lab hosts on loopback for whoever works on kgate.

use std::process::ExitCode;

use kgate_testkit::lab::{Boot, Console, Power, Setup, StandIn, inventory};

const USAGE: &str = "\
usage: ci/lab [OPTION...] [FILE]

Starts lab hosts that stand in for metal, writes their inventory to FILE (lab.yaml), and ends them at Ctrl-C.

  --hosts N        so many hosts (1)
  --power WHO      redfish, ipmi or command switches their power (redfish)
  --console WHERE  tcp, sol, conserver or command carries their serial lines (tcp)
  --boot METHOD    grub, kexec or pxe boots other kernels (grub)
";

struct Options {
    hosts: usize,
    setup: Setup,
    file: String,
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
    let setup = Setup { power: Power::Redfish, ..Setup::default() };
    let mut options = Options { hosts: 1, setup, file: "lab.yaml".into() };
    while let Some(arg) = args.next() {
        if !arg.starts_with('-') {
            options.file = arg;
            continue;
        }
        let value = args.next().unwrap_or_default();
        let setup = &mut options.setup;
        match (arg.as_str(), value.as_str()) {
            ("--hosts", number) => {
                options.hosts = number.parse().map_err(|_| format!("--hosts {number}"))?;
            }
            ("--power", "redfish") => setup.power = Power::Redfish,
            ("--power", "ipmi") => setup.power = Power::Ipmi,
            ("--power", "command") => setup.power = Power::Command,
            ("--console", "tcp") => setup.console = Console::Tcp,
            ("--console", "sol") => setup.console = Console::Sol,
            ("--console", "conserver") => setup.console = Console::Conserver,
            ("--console", "command") => setup.console = Console::Command,
            ("--boot", "grub") => setup.boot = Boot::Grub,
            ("--boot", "kexec") => setup.boot = Boot::Kexec,
            ("--boot", "pxe") => setup.boot = Boot::Pxe,
            _ => return Err(format!("{arg} {value}")),
        }
    }
    Ok(options)
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a developer's tool")]
fn main() -> ExitCode {
    let Options { hosts, setup, file } = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(what) => {
            eprintln!("{USAGE}\nci/lab: what is '{}'?", what.trim());
            return ExitCode::from(2);
        }
    };
    let named = |number| Setup { name: format!("lab-{number}"), ..setup.clone() };
    let Some(hosts) = (1..=hosts).map(|number| StandIn::start(named(number))).collect() else {
        return ExitCode::from(4);
    };
    let hosts: Vec<StandIn> = hosts;
    if let Err(error) = std::fs::write(&file, inventory(&hosts.iter().collect::<Vec<_>>())) {
        eprintln!("ci/lab: {file}: {error}");
        return ExitCode::from(4);
    }
    for host in &hosts {
        println!("{}", host.name());
        println!("  files    {}", host.dir().display());
        println!("  log in   {}", host.ssh_command());
        println!("  console  nc 127.0.0.1 {}", host.serial_port());
        println!("  power    {} status|on|off|soft|reset|cycle|nmi", host.button().display());
    }
    println!("\ninventory: {file}     kgate lab list --lab {file}\nCtrl-C ends all.");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    // What can't wait ends now.
    let waited = runtime.and_then(|runtime| runtime.block_on(tokio::signal::ctrl_c()));
    // An inventory of hosts that are gone is of no use.
    let _ = std::fs::remove_file(&file);
    ExitCode::from(if waited.is_ok() { 0 } else { 4 })
}
