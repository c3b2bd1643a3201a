//! Power by IPMI, through `ipmitool`.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;
use kgate_machine::process;
use kgate_model::host::HostCommand;
use kgate_model::inventory::Ipmi;
use secrecy::{ExposeSecret, SecretString};

use super::{Action, Bmc, Deadline, Firmware, Pauses, PowerError, PowerState};
use crate::secret::Secrets;
use crate::text::line;

/// What is left of a call's time when `ipmitool` is ended, to say why.
const LAST: Duration = Duration::from_millis(50);

/// `ipmitool` with a BMC.
pub(super) struct Ipmitool {
    pub(super) at: Ipmi,
    pub(super) secrets: Rc<dyn Secrets>,
}

/// What a complaint of `ipmitool -v` means, and in plainer words where its own are not plain. The first
/// that occurs in it counts.
const MEANINGS: &[(&str, Meaning, &str)] = &[
    ("password is longer", Meaning::Inventory, ""),
    ("invalid authentication algorithm", Meaning::Inventory, "it lacks the cipher suite"),
    ("invalid integrity algorithm", Meaning::Inventory, "it lacks the cipher suite"),
    ("no matching cipher suite", Meaning::Inventory, ""),
    ("Unsupported cipher suite", Meaning::Inventory, ""),
    ("HMAC is invalid", Meaning::Login, "wrong password"),
    ("unauthorized name", Meaning::Login, "unknown user"),
    ("unauthorized role", Meaning::Login, "the user may not be an administrator"),
    ("Insufficient privilege", Meaning::Login, ""),
    ("Address lookup for", Meaning::Nobody, ""),
    ("Could not open socket", Meaning::Nobody, ""),
    ("Get Auth Capabilities error", Meaning::Nobody, "nobody answers"),
    ("insufficient resources", Meaning::Busy, "it has too many sessions"),
    ("Node busy", Meaning::Busy, ""),
    ("Timeout", Meaning::Busy, ""),
    ("Unable to establish", Meaning::Busy, ""),
    ("Invalid command", Meaning::Unsupported, ""),
    ("Invalid data field", Meaning::Unsupported, ""),
    ("Parameter not supported", Meaning::Unsupported, ""),
];

/// Sorts of complaints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Inventory,
    Login,
    Nobody,
    /// It may pass.
    Busy,
    Unsupported,
    Refused,
}

/// What `ipmitool -v` says of everything.
const NOISE: &[&str] = &[
    "Loading IANA",
    "Running Get",
    "Invalid completion code received",
    "Discovered",
    "Get HPM.x",
    "Unable to Get Channel Cipher Suites",
];

impl Ipmitool {
    /// What it prints. What may pass is tried again while there is time.
    async fn run(&self, words: &[&str], by: Deadline) -> Result<String, PowerError> {
        let mut pauses = Pauses::new();
        let mut last = None;
        loop {
            let (meaning, said) = match self.once(words, by).await {
                Ok(Ok(told)) => return Ok(told),
                Ok(Err(complaint)) => complaint,
                // Why it was tried again says more than that this came to no end.
                Err(error @ PowerError::TimedOut(_)) => return Err(last.unwrap_or(error)),
                Err(error) => return Err(error),
            };
            let error = match meaning {
                Meaning::Inventory => PowerError::Controller(not_so(&said)),
                Meaning::Login => PowerError::Unauthorised(said),
                Meaning::Nobody => PowerError::Unreachable(said),
                Meaning::Unsupported => PowerError::Unsupported(format!("the BMC can't: {said}")),
                Meaning::Busy | Meaning::Refused => PowerError::Refused(said),
            };
            let again = matches!(meaning, Meaning::Busy | Meaning::Nobody);
            if !again || !by.pause(&mut pauses).await {
                return Err(error);
            }
            last = Some(error);
        }
    }

    async fn once(
        &self,
        words: &[&str],
        by: Deadline,
    ) -> Result<Result<String, (Meaning, String)>, PowerError> {
        let password = self
            .secrets
            .get(&self.at.password)
            .await
            .map_err(|error| PowerError::Controller(error.to_string()))?;
        let program = HostCommand::new("ipmitool", by.left().saturating_sub(LAST));
        let output = match process::output(&ipmitool(program, &self.at, &password, words)).await {
            Ok(output) => output,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                return Err(PowerError::TimedOut(by.whole));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = "ipmitool is not installed on this machine".to_owned();
                return Err(PowerError::Controller(text));
            }
            Err(error) => {
                let text = format!("can't run ipmitool: {error}");
                return Err(PowerError::Controller(text));
            }
        };
        if output.code == Some(0) {
            return Ok(Ok(String::from_utf8_lossy(&output.stdout).into_owned()));
        }
        Ok(Err(complaint(&String::from_utf8_lossy(&output.stderr))))
    }

    async fn boot_device(&self, by: Deadline) -> Result<BootDevice, PowerError> {
        Ok(boot_device(&self.run(&["chassis", "bootparam", "get", "5"], by).await?))
    }
}

/// `program`, which is `ipmitool` or starts it, with a BMC to talk to and what to say. The password is in its
/// environment only.
pub(crate) fn ipmitool(
    program: HostCommand,
    at: &Ipmi,
    password: &SecretString,
    words: &[&str],
) -> HostCommand {
    let Ipmi { address, port, user, cipher_suite, .. } = at;
    // It asks twice, waits for 1 s and 2 s, and counts a lost packet as nobody there.
    let mut tool = program
        .args(["-I", "lanplus", "-v", "-E", "-N", "1", "-R", "2", "-H", address, "-U", user, "-p"])
        .arg(port.to_string());
    if let Some(suite) = cipher_suite {
        tool = tool.arg("-C").arg(suite.to_string());
    }
    // It reads either, and prefers what may be in the environment already.
    for name in ["IPMITOOL_PASSWORD", "IPMI_PASSWORD"] {
        tool.env.push((name.into(), password.expose_secret().into()));
    }
    tool.args(words)
}

/// What is wrong with the inventory by what `ipmitool` said, if anything is.
pub(crate) fn mistake(said: &str) -> Option<String> {
    match complaint(said) {
        (Meaning::Inventory, said) => Some(not_so(&said)),
        (Meaning::Login, _) => Some("the BMC refused the login".to_owned()),
        _ => None,
    }
}

fn not_so(said: &str) -> String {
    format!("the BMC can't be logged in to as the inventory says: {said}")
}

/// What `ipmitool` means by what it says on its standard error.
fn complaint(said: &str) -> (Meaning, String) {
    let lines = said.lines().map(|line| line.trim_start_matches(['>', ' ']));
    let lines: Vec<_> = lines
        .filter(|line| !line.is_empty() && !NOISE.iter().any(|noise| line.starts_with(noise)))
        .collect();
    for (words, meaning, plain) in MEANINGS {
        if let Some(found) = lines.iter().find(|line| line.contains(words)) {
            let found = line(found.trim_start_matches("Error: "));
            let said = if plain.is_empty() { found } else { format!("{plain} ({found})") };
            return (*meaning, said);
        }
    }
    let all = if lines.is_empty() { "ipmitool failed without a word" } else { &lines.join("; ") };
    (Meaning::Refused, line(all))
}

/// What boot flags say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BootDevice {
    NetworkOnce,
    NetworkAlways,
    /// The flags ask for it, and are marked as not valid: some forget the mark, others use it.
    NetworkPerhaps,
    Other,
}

fn boot_device(told: &str) -> BootDevice {
    let says = |words: &str| told.contains(words);
    match () {
        () if !says("Force PXE") => BootDevice::Other,
        () if says("all future boots") => BootDevice::NetworkAlways,
        () if says("Boot Flag Invalid") => BootDevice::NetworkPerhaps,
        () => BootDevice::NetworkOnce,
    }
}

#[async_trait(?Send)]
impl Bmc for Ipmitool {
    async fn state(&self, by: Deadline) -> Result<PowerState, PowerError> {
        let told = self.run(&["chassis", "power", "status"], by).await?;
        Ok(match told.lines().find_map(|line| line.trim().strip_prefix("Chassis Power is ")) {
            Some("on") => PowerState::On,
            Some("off") => PowerState::Off,
            _ => PowerState::Unknown,
        })
    }

    async fn order(&self, action: Action, by: Deadline) -> Result<(), PowerError> {
        let word = match action {
            Action::On => "on",
            Action::Off => "off",
            Action::SoftOff => "soft",
            Action::Reset => "reset",
            Action::Cycle => "cycle",
            Action::Nmi => "diag",
        };
        self.run(&["chassis", "power", word], by).await.map(drop)
    }

    async fn boot_from_network_once(
        &self,
        firmware: Firmware,
        by: Deadline,
    ) -> Result<(), PowerError> {
        // Otherwise it forgets the order after a minute, when a server is still in its firmware.
        match self.run(&["raw", "0x00", "0x08", "0x03", "0x08"], by).await {
            Ok(_) | Err(PowerError::Refused(_) | PowerError::Unsupported(_)) => {}
            Err(error) => return Err(error),
        }
        match firmware {
            Firmware::Bios => self.run(&["chassis", "bootdev", "pxe"], by).await?,
            Firmware::Uefi => {
                self.run(&["chassis", "bootdev", "pxe", "options=efiboot"], by).await?
            }
        };
        match self.boot_device(by).await? {
            BootDevice::NetworkOnce | BootDevice::NetworkPerhaps => Ok(()),
            BootDevice::NetworkAlways => {
                self.run(&["chassis", "bootdev", "none"], by).await?;
                let text = "it would boot from the network every time, not once; taken back";
                Err(PowerError::Refused(text.to_owned()))
            }
            BootDevice::Other => {
                let text = "it took the order to boot from the network, and doesn't tell it";
                Err(PowerError::Refused(text.to_owned()))
            }
        }
    }

    async fn boots_from_network(&self, by: Deadline) -> Result<Option<bool>, PowerError> {
        Ok(match self.boot_device(by).await? {
            BootDevice::NetworkOnce | BootDevice::NetworkAlways => Some(true),
            BootDevice::NetworkPerhaps => None,
            BootDevice::Other => Some(false),
        })
    }

    async fn boot_from_disk(&self, by: Deadline) -> Result<(), PowerError> {
        self.run(&["chassis", "bootdev", "none"], by).await?;
        match self.boot_device(by).await? {
            BootDevice::Other => Ok(()),
            _ => {
                let text = "it still tells a boot from the network after that was taken back";
                Err(PowerError::Refused(text.to_owned()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_told_apart() {
        let noise = "Loading IANA PEN Registry...\nRunning Get VSO Capabilities my_addr 0x20\n\
            Invalid completion code received: Invalid command\nDiscovered IPMB address 0x0\n";
        let of = |said: &str| {
            let (meaning, said) = complaint(&format!("{noise}{said}"));
            format!("{meaning:?}: {said}")
        };
        let said = [
            "> RAKP 2 HMAC is invalid\nError: Unable to establish IPMI v2 / RMCP+ session\n",
            "RAKP 2 message indicates an error : insufficient resources for session\n",
            "Set Chassis Power Control to Up/On failed: Command not supported in present state\n",
            "Set Chassis Power Control to Diag failed: Invalid data field in request\n",
            "Set Chassis Power Control to Up/On failed: Insufficient privilege level\n",
            "Error: Unable to establish IPMI v2 / RMCP+ session\n",
            "",
        ];
        insta::assert_snapshot!(said.map(of).join("\n"), @r"
        Login: wrong password (RAKP 2 HMAC is invalid)
        Busy: it has too many sessions (RAKP 2 message indicates an error : insufficient resources for session)
        Refused: Set Chassis Power Control to Up/On failed: Command not supported in present state
        Unsupported: Set Chassis Power Control to Diag failed: Invalid data field in request
        Login: Set Chassis Power Control to Up/On failed: Insufficient privilege level
        Busy: Unable to establish IPMI v2 / RMCP+ session
        Refused: ipmitool failed without a word
        ");
    }

    #[test]
    fn boot_flags_say_what_comes_next() {
        let flags = |valid: &str, length: &str, from: &str| {
            boot_device(&format!(
                "Boot parameter version: 1\nBoot parameter data: 8004000000\n Boot Flags :\n   \
                 - Boot Flag {valid}\n   - Options apply to {length}\n   - BIOS EFI boot \n   \
                 - Boot Device Selector : {from}\n"
            ))
        };
        let once = "only next boot";
        assert_eq!(flags("Valid", once, "Force PXE"), BootDevice::NetworkOnce);
        assert_eq!(flags("Invalid", once, "Force PXE"), BootDevice::NetworkPerhaps);
        assert_eq!(flags("Valid", "all future boots", "Force PXE"), BootDevice::NetworkAlways);
        assert_eq!(flags("Valid", once, "No override"), BootDevice::Other);
    }
}
