//! Power, and what becomes of it when a BMC or a command misbehaves: the sections of
//! `docs/lab-faults.md`.

#[path = "../faults/mod.rs"]
mod faults;

mod bmc;
mod faulty;
mod peers;

use faults::Fault;
use kgate_lab::power::PowerError;

/// A row of what became of a call: `does`, and what it says where it failed.
fn row(
    fault: &str,
    does: &str,
    result: &Result<String, PowerError>,
    steady: fn(&str) -> String,
) -> Fault {
    let (does, code) = match result {
        Ok(_) => (does.to_owned(), 0),
        Err(error) => {
            let text = steady(&error.to_string());
            let ticks = if text.contains('`') { "``" } else { "`" };
            let gap = if text.contains('`') { " " } else { "" };
            let code = if error.is_misconfiguration() { 2 } else { 4 };
            (format!("{does}: {ticks}{gap}{text}{gap}{ticks}"), code)
        }
    };
    for secret in [bmc::PASSWORD, peers::PASSWORD] {
        assert!(!does.contains(secret), "{fault}: the password was told");
    }
    Fault { fault: fault.to_owned(), does, code }
}
