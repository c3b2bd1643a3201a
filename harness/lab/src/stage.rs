//! Staging: what a kernel needs on a host to be booted once, put there and taken away again.
//!
//! Nothing of it is where the host's own kernels are. Its modules take their place below `/lib/modules`
//! by a mount that the staged kernel's own initrd makes: production sees nothing of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::{Compression, GzBuilder};
use kgate_image::Busybox;
use kgate_kernel::{Kernel, ModuleFile, Status};
use kgate_model::inventory::{LabHost, Modules};
use kgate_model::outcome::Role;
use kgate_model::wire::Identity;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::boot::{ANSWER, BOOT, SelectError, Selector, pxe};
use crate::host::{self, HostFacts};
use crate::initrd;
use crate::ssh::{Ssh, Upload, hex, quote};

/// The kernel takes no longer command line (x86); a part of it is for what names a boot.
const COMMAND_LINE: usize = 1900;
/// Seconds after a panic, where nobody says otherwise: what it had to say is out by then.
const PANIC: u32 = 10;
/// Left free on a host's file systems.
const SPARE: u64 = 16 << 20;
/// The modules' lists that don't come from the modules themselves.
const LISTS: [&str; 3] = ["modules.builtin", "modules.builtin.modinfo", "modules.order"];
/// Words of production's command line that are about its own boot, or hide what a kernel says.
const NOT_OURS: &[&str] = &["BOOT_IMAGE=", "initrd=", "root=", BOOT, "quiet", "splash", "rhgb"];

/// What is to be put on a host.
#[derive(Clone, Copy, Debug)]
pub struct Staging<'a> {
    /// Which of the two.
    pub role: Role,
    /// The kernel.
    pub kernel: &'a Kernel,
    /// Modules that scenarios load.
    pub modules: &'a BTreeSet<String>,
    /// Added to the command line, behind production's and the inventory's.
    pub kernel_args: &'a [String],
    /// What the initrd is made of.
    pub busybox: &'a Busybox,
    /// kgate's agent, a static program.
    pub agent: &'a [u8],
    /// kgate's measuring programs, a static program.
    pub ops: &'a [u8],
}

/// A kernel that is on a host and may be booted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staged {
    /// Which of the two.
    pub role: Role,
    /// `uname -r` of it.
    pub release: String,
    /// Its banner, which holds `uname -v`.
    pub banner: String,
    /// Hash of everything that was staged.
    pub digest: String,
    /// The image, on the host, or as the network offers it.
    pub image: PathBuf,
    /// The initrd, likewise.
    pub initrd: PathBuf,
    /// The command line, without what names a single boot.
    pub command_line: String,
    /// The agent, on the host.
    pub agent: PathBuf,
    /// The measuring programs, on the host.
    pub ops: PathBuf,
    /// Paths of the staged modules as the booted kernel sees them, by name.
    pub modules: BTreeMap<String, PathBuf>,
}

impl Staged {
    /// Whether the kernel that runs is this one, booted by the boot with this id.
    #[must_use]
    pub fn is(&self, identity: &Identity, boot: &str) -> bool {
        let marked = format!("{BOOT}={boot}");
        identity.release == self.release
            && self.banner.contains(&identity.version)
            && identity.command_line.split_whitespace().any(|word| word == marked)
    }
}

/// Puts a kernel on a host that runs production. What is there already is not sent again.
///
/// # Errors
/// See [`SelectError`].
pub async fn stage(
    ssh: &Ssh,
    host: &LabHost,
    facts: &HostFacts,
    staging: &Staging<'_>,
    within: Duration,
) -> Result<Staged, SelectError> {
    let end = Instant::now() + within;
    let left = || end.saturating_duration_since(Instant::now());
    let Staging { role, kernel, busybox, agent, ops, .. } = staging;
    if let Some(stacked) = &facts.root.stacked {
        return Err(SelectError::Refused(format!(
            "the host's root file system is on {stacked}, which kgate's initrd can't mount"
        )));
    }
    let release = Path::new(&kernel.release);
    if release.components().count() != 1 || release.file_name() != Some(release.as_os_str()) {
        return Err(SelectError::Refused(format!("{:?} is no release", kernel.release)));
    }
    let dir = host.boot.directory.join(role.as_str());
    let command_line = command_line(facts, host, staging)?;
    let refused = |e: &dyn std::fmt::Display| SelectError::Refused(e.to_string());
    let initrd =
        initrd::build(kernel, facts, &host.boot, &dir, busybox, agent).map_err(|e| refused(&e))?;
    let image = std::fs::read(&kernel.image).map_err(|e| {
        SelectError::Controller(format!("can't read {}: {e}", kernel.image.display()))
    })?;
    let modules = wanted(facts, host.boot.modules, staging).map_err(|e| refused(&e))?;
    let mut archive = Archive::of(kernel, &modules).map_err(|e| refused(&e))?;

    let mut digest = Sha256::new();
    for part in [&image[..], &initrd, agent, ops] {
        digest.update(Sha256::digest(part));
    }
    digest.update(archive.sha256);
    let digest = hex(&digest.finalize());

    let selector = Selector::of(host);
    let images = selector.images(facts)?;
    let names = [format!("{role}-vmlinuz"), format!("{role}-initrd")];
    let [image_path, initrd_path] = match &images {
        Some(images) => names.map(|name| images.join(name)),
        None => pxe::files(&host.name, role.as_str()),
    };
    let staged = Staged {
        role: *role,
        release: kernel.release.clone(),
        banner: kernel.banner.clone(),
        digest: digest.clone(),
        image: image_path,
        initrd: initrd_path,
        command_line,
        agent: dir.join("kgate-agent"),
        ops: dir.join("ops"),
        modules: archive.seen.clone(),
    };

    let files = [(&staged.image, &image), (&staged.initrd, &initrd)];
    if let kgate_model::inventory::BootMethod::Pxe { directory, .. } = &host.boot.method {
        for (path, bytes) in files {
            let path = directory.join(path);
            if std::fs::read(&path).ok().as_ref() != Some(bytes) {
                pxe::replace(&path, bytes)?;
            }
        }
    }
    let d = quote(&dir.to_string_lossy());
    let sums: String = match &images {
        Some(_) => files.map(|(path, _)| format!(" {}", quote(&path.to_string_lossy()))).concat(),
        None => String::new(),
    };
    let there = format!(
        "cat {d}/digest; [ -z \"{sums}\" ] || sha256sum{sums}",
        sums = sums.replace('"', "\\\"")
    );
    let there = ssh.run(&there, left()).await?.text();
    let expected: Vec<String> = std::iter::once(digest.clone())
        .chain(
            files.iter().filter(|_| images.is_some()).map(|(_, bytes)| hex(&Sha256::digest(bytes))),
        )
        .collect();
    let found: Vec<_> = there.lines().map(|l| l.split(' ').next().unwrap_or_default()).collect();
    if found == expected {
        return Ok(staged);
    }

    let mut takes = archive.size + (agent.len() + ops.len()) as u64;
    let size = (image.len() + initrd.len()) as u64;
    match &images {
        Some(images) if Some(images) == grub_images(facts).as_ref() => {
            room(facts, facts.grub.as_deref().unwrap_or(images), size)?;
        }
        Some(_) => takes += size,
        None => {}
    }
    room(facts, &host.boot.directory, takes)?;

    ssh.ask("making place", &format!("rm -rf {d}; mkdir -p {d}"), left()).await?;
    if images.is_some() {
        for (path, bytes) in files {
            ssh.upload(path, 0o600, Upload::Bytes(bytes), left()).await?;
        }
    }
    ssh.upload(&staged.agent, 0o755, Upload::Bytes(agent), left()).await?;
    ssh.upload(&staged.ops, 0o755, Upload::Bytes(ops), left()).await?;
    archive.file.rewind().map_err(|e| controller(&e))?;
    let unpack = format!("set -e; cd {d}; gzip -dc | tar -xf -; [ -e unpacked ]; rm unpacked");
    let file = archive.file.try_clone().map_err(|e| controller(&e))?;
    ssh.feed("unpacking modules", &unpack, tokio::fs::File::from_std(file), left()).await?;
    let r = quote(&kernel.release);
    let finish = format!(
        "PATH=$PATH:/usr/sbin:/sbin
if command -v depmod >/dev/null; then depmod -b {d} {r} || exit; fi
if [ -e /sys/fs/selinux/enforce ]; then chcon -R --reference=\"/lib/modules/$(uname -r)\" {d}/lib; fi
sync; echo {digest} >{d}/digest; sync"
    );
    ssh.ask("listing modules", &finish, left()).await?;
    Ok(staged)
}

/// Takes away everything that was staged, for both roles. Nothing there is no error.
///
/// # Errors
/// See [`SelectError`].
pub async fn unstage(ssh: &Ssh, host: &LabHost) -> Result<(), SelectError> {
    let facts = host::look(ssh, &host.boot).await?;
    Selector::of(host).clean(ssh, &facts).await?;
    let d = quote(&host.boot.directory.to_string_lossy());
    let roles: String = Role::ALL.map(|role| format!(" {d}/{role}")).concat();
    let script = format!("rm -rf{roles} {d}/images; rmdir {d} 2>/dev/null; sync");
    ssh.ask("taking away what was staged", &script, ANSWER.max(host.limits.shutdown)).await?;
    Ok(())
}

fn controller(error: &dyn std::fmt::Display) -> SelectError {
    SelectError::Controller(format!("modules could not be packed: {error}"))
}

fn grub_images(facts: &HostFacts) -> Option<PathBuf> {
    Some(facts.grub.as_ref()?.join("kgate"))
}

/// Whether something of this size may be written there.
fn room(facts: &HostFacts, place: &Path, size: u64) -> Result<(), SelectError> {
    let refuse = |why: String| Err(SelectError::Refused(why));
    let Some(directory) = facts.directories.get(place) else {
        return refuse(format!("{} was not looked at", place.display()));
    };
    let place = place.display();
    if !directory.writable {
        return refuse(format!("{place} on the host can't be written"));
    }
    if !directory.on_root
        && facts
            .grub
            .as_deref()
            .is_none_or(|grub| !place.to_string().starts_with(&*grub.to_string_lossy()))
    {
        return refuse(format!(
            "{place} on the host is not on its root file system, where the initrd would look for it"
        ));
    }
    let (free, takes) = (directory.free >> 20, (size + SPARE) >> 20);
    if free < takes {
        return refuse(format!(
            "{place} on the host has {free} MiB left, and {takes} MiB are needed"
        ));
    }
    Ok(())
}

/// Modules to stage, with what they depend on.
fn wanted(
    facts: &HostFacts,
    which: Modules,
    staging: &Staging<'_>,
) -> Result<Vec<ModuleFile>, kgate_kernel::KernelError> {
    let modules = &staging.kernel.modules;
    let names: BTreeSet<&str> = match which {
        Modules::All => modules.iter().map(|(name, _)| name).collect(),
        Modules::Needed => facts
            .loaded
            .iter()
            .chain(staging.modules)
            .map(String::as_str)
            .filter(|name| modules.status(name) == Status::Module)
            .collect(),
    };
    modules.closure(&names.into_iter().collect::<Vec<_>>())
}

/// The command line of a staged kernel: production's, but for what is about its own boot, then the
/// inventory's, then the run's.
fn command_line(
    facts: &HostFacts,
    host: &LabHost,
    staging: &Staging<'_>,
) -> Result<String, SelectError> {
    let production = &facts.identity.command_line;
    let told = production.split_whitespace().find(|word| word.starts_with("root="));
    let root = match (&host.boot.root, &facts.root.uuid, told) {
        (Some(root), ..) => format!("root={root}"),
        (None, Some(uuid), _) => format!("root=UUID={uuid}"),
        (None, None, Some(told)) => told.to_owned(),
        (None, None, None) => format!("root={}", facts.root.device),
    };
    let kept = production
        .split_whitespace()
        .filter(|word| !NOT_OURS.iter().any(|own| word.starts_with(own)));
    let mut words: Vec<&str> = std::iter::once(root.as_str()).chain(kept).collect();
    words.extend(host.boot.command_line.iter().map(String::as_str));
    words.extend(staging.kernel_args.iter().map(String::as_str));
    let panic = format!("panic={PANIC}");
    // Waiting for ever after a panic would take a power cycle.
    if !words.iter().any(|word| word.strip_prefix("panic=").is_some_and(|s| s != "0")) {
        words.push(&panic);
    }
    let line = words.join(" ");
    if line.len() > COMMAND_LINE {
        return Err(SelectError::Refused(format!(
            "the command line would have {} characters, and kernels take no more than {COMMAND_LINE}",
            line.len()
        )));
    }
    Ok(line)
}

/// Modules packed for a host, as a file that is gone when it is closed.
struct Archive {
    file: std::fs::File,
    /// What it takes on the host.
    size: u64,
    sha256: [u8; 32],
    /// Path of each module as the booted kernel sees it.
    seen: BTreeMap<String, PathBuf>,
}

impl Archive {
    fn of(kernel: &Kernel, modules: &[ModuleFile]) -> Result<Self, Box<dyn std::error::Error>> {
        let below = Path::new("lib/modules").join(&kernel.release);
        let file = tempfile::tempfile()?;
        let out = GzBuilder::new().mtime(0).write(file.try_clone()?, Compression::fast());
        let mut tar = tar::Builder::new(out);
        let mut archive = Self { file, size: 0, sha256: [0; 32], seen: BTreeMap::new() };
        let mut digest = Sha256::new();
        let mut add = |path: &Path, bytes: &[u8]| -> std::io::Result<()> {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            digest.update(path.as_os_str().as_encoded_bytes());
            digest.update(Sha256::digest(bytes));
            archive.size += bytes.len() as u64 + 4096;
            tar.append_data(&mut header, path, bytes)
        };
        let root = kernel.modules.root();
        for list in LISTS {
            if let Some(bytes) = root.and_then(|root| std::fs::read(root.join(list)).ok()) {
                add(&below.join(list), &bytes)?;
            }
        }
        for module in modules {
            // Decompressed: not every host's programs read every format.
            let place = root.and_then(|root| module.path.strip_prefix(root).ok());
            let dir = place.and_then(Path::parent).unwrap_or(Path::new("extra"));
            let name = module.path.file_name().unwrap_or_default().to_string_lossy();
            let name = name.split_once(".ko").map_or(&*name, |(stem, _)| stem);
            let path = below.join(dir).join(format!("{name}.ko"));
            add(&path, &module.read()?)?;
            archive.seen.insert(module.name.clone(), Path::new("/").join(path));
        }
        add(Path::new("unpacked"), b"")?;
        tar.into_inner()?.finish()?.flush()?;
        archive.sha256 = digest.finalize().into();
        Ok(archive)
    }
}
