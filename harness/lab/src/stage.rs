//! Staging: what a kernel needs on a host to be booted once, put there and taken away again.
//!
//! Nothing of it is where the host's own kernels are. Its modules take their place below `/lib/modules`
//! by a mount that the staged kernel's own initrd makes: production sees nothing of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::{Compression, GzBuilder};
use kgate_image::Busybox;
use kgate_kernel::{Kernel, ModuleFile, Status};
use kgate_model::inventory::{Boot, BootMethod, LabHost, Modules};
use kgate_model::outcome::Role;
use kgate_model::wire::Identity;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::boot::{BOOT, SelectError, Selector, mark, pxe};
use crate::host::{self, HostFacts};
use crate::initrd;
use crate::ssh::{ANSWER, Ssh, Upload, hex, quote};

/// The kernel takes no longer command line (x86); a part of it is for what names a boot.
const COMMAND_LINE: usize = 1900;
/// Seconds after a panic, where nobody says otherwise: what it had to say is out by then.
const PANIC: u32 = 10;
/// Left free on a host's file systems.
const SPARE: u64 = 16 << 20;
/// The modules' lists that don't come from the modules themselves.
const LISTS: [&str; 3] = ["modules.builtin", "modules.builtin.modinfo", "modules.order"];
/// Words of production's command line that are about its own boot, or hide what a kernel says.
const NOT_OURS: &[&str] =
    &["BOOT_IMAGE=", "initrd=", "rdinit=", "root=", BOOT, "quiet", "splash", "rhgb"];

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
        let marked = mark(boot);
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
    fits(facts, host, kernel)?;
    let dir = host.boot.directory.join(role.as_str());
    let command_line = command_line(facts, &host.boot, staging.kernel_args)?;
    let refused = |e: &dyn std::fmt::Display| SelectError::Refused(e.to_string());
    let image = std::fs::read(&kernel.image).map_err(|e| {
        SelectError::Controller(format!("can't read {}: {e}", kernel.image.display()))
    })?;
    let initrd =
        initrd::build(kernel, facts, &host.boot, &dir, busybox, agent).map_err(|e| refused(&e))?;
    let modules = wanted(facts, host.boot.modules, staging).map_err(|e| refused(&e))?;
    let tree = Tree::of(kernel, modules);
    let mut digest = Sha256::new();
    for part in [&image[..], &initrd, agent, ops] {
        digest.update(Sha256::digest(part));
    }
    digest.update(tree.digest().map_err(|e| unpacked(&e))?);
    let digest = hex(&digest.finalize());

    let images = Selector::of(host).images(facts)?;
    let [image_path, initrd_path] = match &images {
        Some(images) => ["vmlinuz", "initrd"].map(|file| images.join(format!("{role}-{file}"))),
        None => pxe::files(&host.name, role.as_str()),
    };
    let staged = Staged {
        role: *role,
        release: kernel.release.clone(),
        banner: kernel.banner.clone(),
        digest,
        image: image_path,
        initrd: initrd_path,
        command_line,
        agent: dir.join("kgate-agent"),
        ops: dir.join("ops"),
        modules: tree.seen(),
    };
    let mut booted = vec![(&staged.image, &image[..]), (&staged.initrd, &initrd)];
    if let BootMethod::Pxe { directory, .. } = &host.boot.method {
        for (path, bytes) in booted.drain(..) {
            let path = directory.join(path);
            if std::fs::read(&path).ok().as_deref() != Some(bytes) {
                pxe::replace(&path, bytes)?;
            }
        }
    }
    if is_there(ssh, &dir, &staged.digest, &booted, left()).await? {
        return Ok(staged);
    }

    // Seconds of work, while other hosts go on.
    let pack = tokio::task::spawn_blocking(move || tree.pack().map_err(|e| e.to_string()));
    let (packed, size) = pack.await.map_err(|e| unpacked(&e))?.map_err(|e| unpacked(&e))?;
    let programs = [(&staged.agent, *agent), (&staged.ops, *ops)];
    let all = || programs.iter().chain(&booted);
    let mut takes = vec![(dir.as_path(), size)];
    takes.extend(all().filter_map(|(path, bytes)| Some((path.parent()?, bytes.len() as u64))));
    make_room(ssh, &dir, &takes, left()).await?;
    for (path, bytes) in all() {
        ssh.upload(path, 0o755, Upload::Bytes(bytes), left()).await?;
    }
    let (d, release) = (quote(&dir.to_string_lossy()), quote(&kernel.release));
    let unpack = format!("set -e; cd {d}; gzip -dc | tar -xf -; [ -e unpacked ]; rm unpacked");
    ssh.feed("unpacking modules", &unpack, tokio::fs::File::from_std(packed), left()).await?;
    let finish = format!(
        "PATH=$PATH:/usr/sbin:/sbin
if command -v depmod >/dev/null; then depmod -b {d} {release} || exit; fi
if [ -e /sys/fs/selinux/enforce ]; then chcon -R --reference=\"/lib/modules/$(uname -r)\" {d}/lib; fi
sync; echo {} >{d}/digest; sync",
        staged.digest
    );
    ssh.ask("listing modules", &finish, left()).await?;
    Ok(staged)
}

/// Refuses what can't be booted on this host by an initrd of kgate's.
fn fits(facts: &HostFacts, host: &LabHost, kernel: &Kernel) -> Result<(), SelectError> {
    let refuse = |why: String| Err(SelectError::Refused(why));
    if let Some(stacked) = &facts.root.stacked {
        return refuse(format!(
            "the host's root file system is on {stacked}, which kgate's initrd can't mount"
        ));
    }
    let release = Path::new(&kernel.release);
    if release.components().count() != 1 || release.file_name() != Some(release.as_os_str()) {
        return refuse(format!("{:?} is no release", kernel.release));
    }
    let place = host.boot.directory.display();
    match facts.directories.get(&host.boot.directory) {
        Some(directory) if !directory.on_root => refuse(format!(
            "{place} on the host is not on its root file system, where the initrd would look for it"
        )),
        Some(directory) if !directory.writable => {
            refuse(format!("{place} on the host can't be written"))
        }
        _ => Ok(()),
    }
}

/// Whether all of it was staged before.
async fn is_there(
    ssh: &Ssh,
    dir: &Path,
    digest: &str,
    files: &[(&PathBuf, &[u8])],
    within: Duration,
) -> Result<bool, SelectError> {
    let d = quote(&dir.to_string_lossy());
    let mut script = format!("cat {d}/digest");
    let mut expected = vec![digest.to_owned()];
    for (path, bytes) in files {
        script += &format!("\nsha256sum <{}", quote(&path.to_string_lossy()));
        expected.push(hex(&Sha256::digest(bytes)));
    }
    let found = ssh.run(&script, within).await?.text();
    let found: Vec<_> = found.lines().filter_map(|line| line.split(' ').next()).collect();
    Ok(found == expected)
}

/// Removes what is old, and makes the directories of files of these sizes, if there is room for them.
async fn make_room(
    ssh: &Ssh,
    dir: &Path,
    takes: &[(&Path, u64)],
    within: Duration,
) -> Result<(), SelectError> {
    let mut script = format!("set -e; rm -rf {}", quote(&dir.to_string_lossy()));
    for (place, _) in takes {
        let place = quote(&place.to_string_lossy());
        script += &format!("\nmkdir -p {place}; df -Pk {place} | tail -n 1");
    }
    let said = ssh.ask("making room", &script, within).await?;
    // Free KiB and size by where the file system is mounted.
    let mut room = BTreeMap::<&str, (u64, u64)>::new();
    for (line, (_, size)) in said.lines().zip(takes) {
        let words: Vec<_> = line.split_whitespace().collect();
        let (Some(free), Some(mount)) = (words.get(3), words.last()) else { continue };
        let entry = room.entry(mount).or_insert((free.parse().unwrap_or_default(), SPARE));
        entry.1 += size;
    }
    for (mount, (free, size)) in room {
        let (free, size) = (free >> 10, size >> 20);
        if free < size {
            return Err(SelectError::Refused(format!(
                "{mount} on the host has {free} MiB left, and {size} MiB are needed"
            )));
        }
    }
    Ok(())
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

fn unpacked(error: &dyn std::fmt::Display) -> SelectError {
    SelectError::Controller(format!("modules could not be packed: {error}"))
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
    boot: &Boot,
    kernel_args: &[String],
) -> Result<String, SelectError> {
    let production = &facts.identity.command_line;
    let told = production.split_whitespace().find(|word| word.starts_with("root="));
    let root = match (&boot.root, &facts.root.uuid, told) {
        (Some(root), ..) => format!("root={root}"),
        (None, Some(uuid), _) => format!("root=UUID={uuid}"),
        (None, None, Some(told)) => told.to_owned(),
        (None, None, None) => format!("root={}", facts.root.device),
    };
    // What follows two dashes is for production's init.
    let kept = production
        .split_whitespace()
        .take_while(|word| *word != "--")
        .filter(|word| !NOT_OURS.iter().any(|own| word.starts_with(own)));
    let mut words: Vec<&str> = std::iter::once(root.as_str()).chain(kept).collect();
    words.extend(boot.command_line.iter().map(String::as_str));
    words.extend(kernel_args.iter().map(String::as_str));
    let panic = format!("panic={PANIC}");
    // Waiting for ever after a panic would take a power cycle.
    let told = words.iter().rev().find_map(|word| word.strip_prefix("panic="));
    if told.is_none_or(|seconds| seconds == "0") {
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

/// Modules as they are to be on a host.
struct Tree {
    lists: Vec<(PathBuf, PathBuf)>,
    /// Each with its path below the directory of its role.
    modules: Vec<(PathBuf, ModuleFile)>,
}

impl Tree {
    fn of(kernel: &Kernel, modules: Vec<ModuleFile>) -> Self {
        let below = Path::new("lib/modules").join(&kernel.release);
        let root = kernel.modules.root();
        let lists =
            root.into_iter().flat_map(|root| LISTS.map(|list| (below.join(list), root.join(list))));
        let place = |module: &ModuleFile| {
            let dir = root.and_then(|root| module.path.strip_prefix(root).ok()?.parent());
            let name = module.path.file_name().unwrap_or_default().to_string_lossy();
            // Decompressed: not every host's programs read every format.
            let name = name.split_once(".ko").map_or(&*name, |(stem, _)| stem);
            below.join(dir.unwrap_or(Path::new("extra"))).join(format!("{name}.ko"))
        };
        Self {
            lists: lists.filter(|(_, file)| file.exists()).collect(),
            modules: modules.into_iter().map(|module| (place(&module), module)).collect(),
        }
    }

    /// Hash of what tells this tree from another, without reading all of it.
    fn digest(&self) -> std::io::Result<[u8; 32]> {
        let mut digest = Sha256::new();
        let modules = self.modules.iter().map(|(place, module)| (place, &module.path));
        for (place, file) in self.lists.iter().map(|(place, file)| (place, file)).chain(modules) {
            let metadata = std::fs::metadata(file)?;
            let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
            let line = format!("{} {} {seconds}.{nanoseconds}\n", place.display(), metadata.len());
            digest.update(line);
        }
        Ok(digest.finalize().into())
    }

    /// Path of each module as the booted kernel sees it.
    fn seen(&self) -> BTreeMap<String, PathBuf> {
        let seen = |(place, module): &(PathBuf, ModuleFile)| {
            (module.name.clone(), Path::new("/").join(place))
        };
        self.modules.iter().map(seen).collect()
    }

    /// All of it as a compressed archive, in a file that is gone when it is closed, and what it takes
    /// on the host. Its last file is called `unpacked`.
    fn pack(&self) -> Result<(std::fs::File, u64), Box<dyn std::error::Error>> {
        let mut file = tempfile::tempfile()?;
        let out = GzBuilder::new().mtime(0).write(file.try_clone()?, Compression::fast());
        let mut tar = tar::Builder::new(out);
        let mut size = 0;
        let mut add = |path: &Path, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            // Its block may be used in part only.
            size += bytes.len() as u64 + 4096;
            tar.append_data(&mut header, path, bytes)
        };
        for (place, file) in &self.lists {
            add(place, &std::fs::read(file)?)?;
        }
        for (place, module) in &self.modules {
            add(place, &module.read()?)?;
        }
        add(Path::new("unpacked"), b"")?;
        tar.into_inner()?.finish()?.flush()?;
        file.rewind()?;
        Ok((file, size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_productions_then_the_inventorys_then_the_runs() {
        let line = |production: &str, uuid: Option<&str>, root: Option<&str>, args: &[&str]| {
            let mut facts = HostFacts::default();
            facts.identity.command_line = production.into();
            facts.root.uuid = uuid.map(str::to_owned);
            facts.root.device = "/dev/vda1".into();
            let boot = Boot {
                method: BootMethod::Kexec,
                directory: "/var/lib/kgate".into(),
                command_line: vec!["console=ttyS1".into()],
                root: root.map(str::to_owned),
                initrd_modules: Vec::new(),
                modules: Modules::Needed,
                guard: Duration::ZERO,
            };
            let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
            command_line(&facts, &boot, &args).map_err(|e| e.to_string())
        };
        let grub = "BOOT_IMAGE=/vmlinuz root=/dev/sda2 ro quiet rootflags=subvol=@ panic=0 rdinit=/x -- single";
        assert_eq!(
            line(grub, Some("u1"), None, &["slub_debug=FZPU"]).unwrap(),
            "root=UUID=u1 ro rootflags=subvol=@ panic=0 console=ttyS1 slub_debug=FZPU panic=10"
        );
        assert_eq!(
            line("ro", None, None, &[]).unwrap(),
            "root=/dev/vda1 ro console=ttyS1 panic=10"
        );
        let told = line("root=LABEL=x panic=-1", None, None, &[]).unwrap();
        assert_eq!(told, "root=LABEL=x panic=-1 console=ttyS1");
        let own = line("root=LABEL=x panic=5", Some("u"), Some("/dev/x"), &[]).unwrap();
        assert_eq!(own, "root=/dev/x panic=5 console=ttyS1");
        let last = line("root=LABEL=x panic=5", None, None, &["panic=0"]).unwrap();
        assert!(last.ends_with("panic=0 panic=10"), "{last}");
        assert!(line(&"x ".repeat(2000), None, None, &[]).is_err());
    }
}
