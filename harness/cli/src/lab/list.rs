//! `kgate lab list`: the hosts, who has them, and what was left.

use std::process::ExitCode;

use kgate_model::inventory::{BootMethod, ConsoleSource, LabHost, Power, Reservation};
use serde_json::{Value, json};

use super::Lab;
use crate::args::lab::ListArgs;
use crate::error::{CommandError, PROMOTE};
use crate::text::print_table;

/// Runs the command.
pub(super) fn list(args: &ListArgs) -> Result<ExitCode, CommandError> {
    let lab = Lab::load(&args.file)?;
    let hosts = lab.select(&args.hosts)?;
    if args.json {
        let hosts: Vec<Value> = hosts.iter().map(|host| as_json(host)).collect();
        anstream::println!("{:#}", json!({ "inventory": lab.file, "hosts": hosts }));
        return Ok(ExitCode::from(PROMOTE));
    }
    let heading = ["host", "tags", "boot", "power", "console"].map(str::to_owned);
    let rows = hosts.iter().map(|host| {
        let consoles: Vec<_> = host.consoles.iter().map(console_word).collect();
        [
            host.name.clone(),
            host.tags.join(", "),
            method_word(&host.boot.method).to_owned(),
            host.power.as_ref().map_or("none", power_word).to_owned(),
            if consoles.is_empty() { "none".to_owned() } else { consoles.join(", ") },
        ]
    });
    print_table(&std::iter::once(heading).chain(rows).collect::<Vec<_>>());
    Ok(ExitCode::from(PROMOTE))
}

fn as_json(host: &LabHost) -> Value {
    json!({
        "name": host.name,
        "tags": host.tags,
        "address": host.ssh.address,
        "boot": method_word(&host.boot.method),
        "power": host.power.as_ref().map(power_word),
        "consoles": host.consoles.iter().map(console_word).collect::<Vec<_>>(),
        "reservation": match &host.reservation {
            Reservation::Own => "own",
            Reservation::Labgrid { .. } => "labgrid",
        },
    })
}

/// How its kernels are booted.
pub(super) const fn method_word(method: &BootMethod) -> &'static str {
    match method {
        BootMethod::Grub { .. } => "grub",
        BootMethod::Kexec => "kexec",
        BootMethod::Pxe { .. } => "pxe",
    }
}

/// Who switches it.
pub(super) const fn power_word(power: &Power) -> &'static str {
    match power {
        Power::Redfish { .. } => "redfish",
        Power::Ipmi(_) => "ipmi",
        Power::Command(_) => "command",
    }
}

/// Where it is heard.
pub(super) const fn console_word(console: &ConsoleSource) -> &'static str {
    match console {
        ConsoleSource::Sol(_) => "sol",
        ConsoleSource::Tcp { telnet: false, .. } => "tcp",
        ConsoleSource::Tcp { telnet: true, .. } => "telnet",
        ConsoleSource::Conserver { .. } => "conserver",
        ConsoleSource::Command(_) => "command",
        ConsoleSource::Netconsole { .. } => "netconsole",
    }
}
