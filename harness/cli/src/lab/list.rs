//! `kgate lab list`: the hosts, who has them, and what was left.

use std::path::Path;
use std::process::ExitCode;

use kgate_lab::journal::{self, Left};
use kgate_lab::reservation::Lock;
use kgate_model::inventory::{BootMethod, ConsoleSource, LabHost, Power, Reservation};
use serde_json::{Value, json};

use super::Lab;
use crate::args::lab::ListArgs;
use crate::context::Context;
use crate::error::{CommandError, PROMOTE};
use crate::text::{line, print_table};

/// What is known of a host without asking it.
struct Known {
    /// Who has it on this controller.
    holder: Option<String>,
    /// What a journal says was left, or why there is no reading it.
    left: Result<Left, String>,
}

impl Known {
    fn of(state: &Path, host: &LabHost) -> Self {
        let left = journal::left(state, &host.name).map_err(|error| error.to_string());
        Self { holder: Lock::holder(state, &host.name), left }
    }

    /// What a person has to know.
    fn words(&self) -> String {
        match (&self.holder, &self.left) {
            (Some(holder), _) => format!("in use by {}", line(holder)),
            (None, Err(error)) => line(error),
            (None, Ok(left)) if left.anything() => format!("left: {}", line(&left.describe())),
            (None, Ok(_)) => "free".to_owned(),
        }
    }

    /// Whether `kgate lab recover` has something to do.
    fn is_left(&self) -> bool {
        self.holder.is_none() && self.left.as_ref().is_ok_and(Left::anything)
    }
}

/// Runs the command.
pub(super) fn list(context: &Context, args: &ListArgs) -> Result<ExitCode, CommandError> {
    let (lab, state) = (Lab::load(&args.file)?, context.lab_state()?);
    let hosts = lab.select(&args.hosts)?;
    let known: Vec<Known> = hosts.iter().map(|host| Known::of(state, host)).collect();
    if args.json {
        let hosts: Vec<Value> =
            hosts.iter().zip(&known).map(|(host, known)| as_json(host, known)).collect();
        anstream::println!("{:#}", json!({ "inventory": lab.file, "hosts": hosts }));
        return Ok(ExitCode::from(PROMOTE));
    }
    let heading = ["host", "tags", "boot", "power", "console", ""].map(str::to_owned);
    let rows = hosts.iter().zip(&known).map(|(host, known)| {
        let consoles: Vec<_> = host.consoles.iter().map(console_word).collect();
        [
            host.name.clone(),
            host.tags.join(", "),
            method_word(&host.boot.method).to_owned(),
            host.power.as_ref().map_or("none", power_word).to_owned(),
            if consoles.is_empty() { "none".to_owned() } else { consoles.join(", ") },
            known.words(),
        ]
    });
    print_table(&std::iter::once(heading).chain(rows).collect::<Vec<_>>());
    if known.iter().any(Known::is_left) {
        anstream::println!("\n`kgate lab recover` brings hosts back that were left");
    }
    Ok(ExitCode::from(PROMOTE))
}

fn as_json(host: &LabHost, known: &Known) -> Value {
    let (left, problem) = match &known.left {
        Ok(left) if left.anything() && known.holder.is_none() => (Some(left), None),
        Ok(_) => (None, None),
        Err(problem) => (None, Some(problem)),
    };
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
        "holder": known.holder,
        "left": left.map(|left| json!({
            "run": left.run,
            "away": left.away,
            "staged": left.staged,
            "drained": left.drained,
            "failed_hook": left.failed_hook,
            "gave_up": left.gave_up,
        })),
        "problem": problem,
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
