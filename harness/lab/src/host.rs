//! What kgate asks a lab host over SSH: which kernel runs, what its root is on, what state of it changes
//! measurements. It only looks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use kgate_model::inventory::{Boot, BootMethod, Conditions};
use kgate_model::wire::Identity;

use crate::ssh::{ANSWER, Ssh, SshError, quote};

const LOOK: &str = include_str!("host/look.sh");
const CONDITIONS: &str = include_str!("host/conditions.sh");

/// What is known of a host's running system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// The kernel that runs.
    pub identity: Identity,
    /// What the root file system is on.
    pub root: Root,
    /// Names of loaded modules, with `_` for `-`.
    pub loaded: Vec<String>,
    /// CPUs that are online.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// The host's own clock, in seconds since the Unix epoch.
    pub clock: u64,
    /// The distribution, as it calls itself.
    pub distribution: String,
    /// It was started by systemd.
    pub systemd: bool,
    /// Its firmware is EFI, not a BIOS.
    pub efi: bool,
    /// Programs of those that kgate may need which there are.
    pub programs: BTreeSet<String>,
    /// Directory of `grub.cfg`, where there is one.
    pub grub: Option<PathBuf>,
    /// Where files of kgate's go.
    pub directories: BTreeMap<PathBuf, Directory>,
}

/// What a root file system is on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Root {
    /// The block device, such as `/dev/sda2`.
    pub device: String,
    /// File system.
    pub fs: String,
    /// Mount options.
    pub options: String,
    /// UUID of the file system, where it could be found out.
    pub uuid: Option<String>,
    /// What a plain initrd can't mount it from: LVM, RAID, LUKS, the network.
    pub stacked: Option<String>,
    /// Aliases by which the drivers of the disk and of what it is attached to are found.
    pub aliases: Vec<String>,
    /// Modules of these drivers in the running kernel.
    pub drivers: Vec<String>,
}

/// A place for files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// It is on the root file system.
    pub on_root: bool,
    /// Something can be written there.
    pub writable: bool,
    /// Bytes that are free.
    pub free: u64,
}

/// Looks at a host, by one question.
///
/// # Errors
/// See [`SshError`].
pub async fn look(ssh: &Ssh, boot: &Boot) -> Result<HostFacts, SshError> {
    let grub = match &boot.method {
        BootMethod::Grub { directory: Some(directory), .. } => directory.to_string_lossy(),
        _ => "".into(),
    };
    let (directory, grub) = (quote(&boot.directory.to_string_lossy()), quote(&grub));
    let script = format!("directory={directory}\ngrub={grub}\n{LOOK}\n:");
    Ok(facts(&ssh.ask("looking at the host", &script, ANSWER).await?))
}

/// Which kernel runs: what a look tells, but quicker. The build id is left out.
///
/// # Errors
/// See [`SshError`].
pub async fn identity(ssh: &Ssh, within: Duration) -> Result<Identity, SshError> {
    let script: String = LOOK
        .lines()
        .take_while(|line| !line.starts_with("s loaded"))
        .fold(String::new(), |script, line| script + line + "\n");
    Ok(identity_of(&sections(&ssh.ask("asking which kernel runs", &script, within).await?)))
}

/// The state of a host that changes what it measures.
///
/// # Errors
/// See [`SshError`].
pub async fn conditions(ssh: &Ssh) -> Result<Conditions, SshError> {
    let script = format!("{CONDITIONS}\n:");
    let text = ssh.ask("asking for the host's conditions", &script, ANSWER).await?;
    Ok(sections(&text)
        .into_iter()
        .map(|(name, lines)| (name.to_owned(), lines.join(", ")))
        // What some kernels say of an empty list.
        .filter(|(_, value)| !value.is_empty() && value != "(null)")
        .collect())
}

/// Sections by name, without empty lines.
pub(crate) type Sections<'a> = BTreeMap<&'a str, Vec<&'a str>>;

pub(crate) fn sections(text: &str) -> Sections<'_> {
    let mut sections = Sections::new();
    let mut name = "";
    for line in text.lines() {
        if let Some(next) = line.strip_prefix('@') {
            name = next;
            sections.entry(name).or_default();
        } else if !line.trim().is_empty() && !name.is_empty() {
            sections.entry(name).or_default().push(line.trim());
        }
    }
    sections
}

/// The first line of a section.
pub(crate) fn first<'a>(sections: &Sections<'a>, name: &str) -> &'a str {
    sections.get(name).and_then(|lines| lines.first()).copied().unwrap_or_default()
}

fn identity_of(sections: &Sections<'_>) -> Identity {
    let uptime = first(sections, "uptime").split(' ').next().and_then(|s| s.parse::<f64>().ok());
    Identity {
        release: first(sections, "release").into(),
        version: first(sections, "version").into(),
        machine: first(sections, "machine").into(),
        build_id: String::new(),
        boot_id: first(sections, "boot-id").into(),
        command_line: first(sections, "command-line").into(),
        uptime_ms: uptime.map_or(0, |seconds| (seconds * 1000.0) as u64),
    }
}

fn facts(text: &str) -> HostFacts {
    let sections = sections(text);
    let all = |name: &str| sections.get(name).cloned().unwrap_or_default();
    let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect::<Vec<_>>();
    let memory = first(&sections, "memory").split_whitespace().nth(1).and_then(|n| n.parse().ok());
    HostFacts {
        identity: identity_of(&sections),
        root: root(&sections),
        loaded: owned(all("loaded")),
        cpus: all("cpus").get(1).map_or(0, |list| cpus(list)),
        memory: memory.unwrap_or(0_u64).saturating_mul(1024),
        clock: first(&sections, "clock").parse().unwrap_or_default(),
        distribution: first(&sections, "distribution").into(),
        systemd: first(&sections, "systemd") == "yes",
        efi: first(&sections, "efi") == "yes",
        programs: owned(all("programs")).into_iter().collect(),
        grub: Some(first(&sections, "grub")).filter(|d| !d.is_empty()).map(PathBuf::from),
        directories: all("directories").into_iter().filter_map(directory).collect(),
    }
}

/// The number of CPUs in a list such as `0-3,8`.
fn cpus(list: &str) -> u32 {
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(last.parse::<u32>().ok()?.checked_sub(first.parse().ok()?)?.saturating_add(1))
    };
    list.split(',').filter_map(count).fold(0, u32::saturating_add)
}

/// `FREE WRITABLE MOUNT PATH`.
fn directory(line: &str) -> Option<(PathBuf, Directory)> {
    let mut words = line.splitn(4, ' ');
    let free: u64 = words.next()?.parse().ok()?;
    let writable = words.next()? == "yes";
    let on_root = words.next()? == "/";
    let path = words.next()?.into();
    Some((path, Directory { on_root, writable, free: free.saturating_mul(1024) }))
}

/// File systems that are on no block device of their own.
const WITHOUT_DEVICE: &[&str] =
    &["nfs", "nfs4", "cifs", "9p", "overlay", "tmpfs", "ramfs", "zfs", "bcachefs"];

/// Names of block devices that something has to be set up for first.
const STACKED: &[(&str, &str)] = &[
    ("dm-", "the device mapper"),
    ("md", "RAID"),
    ("bcache", "bcache"),
    ("loop", "a loop device"),
    ("nbd", "the network"),
    ("rbd", "the network"),
    ("drbd", "DRBD"),
];

fn root(sections: &Sections<'_>) -> Root {
    // `OPTIONS … - FS SOURCE SUPER_OPTIONS`
    let (mount, fs) = first(sections, "root").split_once(" - ").unwrap_or_default();
    let fs = fs.split(' ').next().unwrap_or_default();
    let device = first(sections, "root-device");
    let block = first(sections, "root-block");
    let stacked = || {
        if WITHOUT_DEVICE.contains(&fs) || device.is_empty() || block.is_empty() {
            return Some(format!(
                "{} without a disk of its own",
                if fs.is_empty() { "something" } else { fs }
            ));
        }
        if !first(sections, "root-usr").is_empty() {
            return Some("more than one device: /usr has one of its own".into());
        }
        let dm = first(sections, "root-dm").split('-').next().unwrap_or_default();
        let (_, name) = block.split_once("/virtual/block/")?;
        let stacked = STACKED.iter().find(|(prefix, _)| name.starts_with(prefix));
        match dm {
            "LVM" => Some("LVM".into()),
            "CRYPT" => Some("an encrypted device".into()),
            _ => stacked.map(|(_, what)| (*what).to_owned()),
        }
    };
    let drivers = |kind: &str| {
        let lines = sections.get("root-drivers").into_iter().flatten();
        lines
            .filter_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))
            .map(str::to_owned)
            .collect()
    };
    Root {
        device: device.into(),
        fs: fs.into(),
        options: mount.split(' ').next().unwrap_or_default().into(),
        uuid: Some(first(sections, "root-uuid").to_owned()).filter(|uuid| !uuid.is_empty()),
        stacked: stacked(),
        aliases: drivers("alias"),
        drivers: drivers("driver"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: &str = "\
@release\n6.1.0-47-amd64\n@version\n#1 SMP Debian\n@machine\nx86_64\n@boot-id\nb-1\n\
@command-line\nroot=/dev/sda2 ro\n@uptime\n12.34 5.0\n@loaded\next4\nahci\n@cpus\n64\n0-31,64\n\
@memory\nMemTotal:       1024 kB\n@clock\n1800000000\n@distribution\nDebian\n@systemd\nyes\n\
@programs\ngrub-editenv\n@root\nrw,relatime shared:1 - ext4 /dev/sda2 rw\n@root-device\n/dev/sda2\n\
@root-block\n/sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/block/sda/sda2\n@root-uuid\nu-1\nu-1\n\
@root-drivers\nalias scsi:t-0x00\ndriver sd_mod\nalias pci:v00008086d\ndriver ahci\n@grub\n/boot/grub\n\
@directories\n2048 yes / /var/lib/kgate\n100 no /boot /boot/grub\n";

    #[test]
    fn a_look_is_read() {
        insta::assert_debug_snapshot!(facts(SERVER));
    }

    #[test]
    fn a_root_that_takes_more_than_a_driver_is_known() {
        let with = |root: &str, block: &str, dm: &str| {
            let text = format!(
                "@root\n{root}\n@root-device\n/dev/x\n@root-block\n{block}\n@root-dm\n{dm}\n"
            );
            facts(&text).root.stacked.unwrap_or_else(|| "a disk".into())
        };
        let ext4 = "rw - ext4 /dev/x rw";
        let found = [
            with(ext4, "/sys/devices/pci0000:00/nvme/nvme0/nvme0n1/nvme0n1p2", ""),
            with(ext4, "/sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1/nvme0n1p2", ""),
            with(ext4, "/sys/devices/virtual/block/dm-0", "LVM-abc"),
            with(ext4, "/sys/devices/virtual/block/dm-1", "CRYPT-LUKS2-abc"),
            with(ext4, "/sys/devices/virtual/block/md0/md0p1", ""),
            with("rw - nfs4 server:/x rw", "", ""),
            with("", "", ""),
        ];
        let expected = [
            "a disk",
            "a disk",
            "LVM",
            "an encrypted device",
            "RAID",
            "nfs4 without a disk of its own",
            "something without a disk of its own",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn hostile_answers_are_read_without_harm() {
        for text in [
            "",
            "@",
            "@cpus\n9\n5-1,0-4294967295,0-4294967295",
            "@directories\n1\n\n@memory\nx 99999999999999999999",
        ] {
            let _ = facts(text);
        }
    }
}
