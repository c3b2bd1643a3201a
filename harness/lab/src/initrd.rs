//! The initrd of a staged kernel: busybox, the guard, and the modules behind the host's root.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use flate2::{Compression, GzBuilder};
use kgate_image::Busybox;
use kgate_kernel::initramfs::{Content, Initramfs, InitramfsError};
use kgate_kernel::{Kernel, KernelError, Status};
use kgate_model::inventory::Boot;

use crate::host::HostFacts;

const INIT: &str = include_str!("initrd/init.sh");
/// Seconds in which a disk has to appear.
const PATIENCE: u64 = 60;

/// Directories of a kernel's modules whose drivers a root may be behind.
const STORAGE: &[&str] = &[
    "drivers/ata",
    "drivers/block",
    "drivers/hv",
    "drivers/message",
    "drivers/mmc",
    "drivers/nvme",
    "drivers/pci",
    "drivers/scsi",
    "drivers/usb",
    "drivers/virtio",
    "drivers/xen",
];

/// Why there is no initrd.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InitrdError {
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Initramfs(#[from] InitramfsError),
    #[error("cannot compress the initrd: {0}")]
    Compress(#[from] std::io::Error),
}

/// Builds the initrd of `kernel` for a host, compressed by gzip; the same bytes for the same host and
/// kernel. `stage` is the directory of what is staged.
pub(crate) fn build(
    kernel: &Kernel,
    facts: &HostFacts,
    boot: &Boot,
    stage: &Path,
    busybox: &Busybox,
    agent: &[u8],
) -> Result<Vec<u8>, InitrdError> {
    let mut archive = Initramfs::new();
    archive.file("init", 0o755, Content::Bytes(INIT.into()))?;
    // The kernel opens it for init before anything is mounted.
    archive.char_device("dev/console", 0o600, 5, 1)?;
    archive.file("bin/busybox", 0o755, Content::Bytes(busybox.bytes.clone()))?;
    archive.symlink("bin/sh", "busybox")?;
    archive.file("kgate/@kgate-guard", 0o755, Content::Bytes(agent.to_vec()))?;
    for dir in ["proc", "sys", "sysroot", "run"] {
        archive.dir(dir, 0o755)?;
    }
    let mut load = String::new();
    let wanted = wanted(kernel, facts, boot)?;
    for module in kernel.modules.closure(&wanted.iter().map(String::as_str).collect::<Vec<_>>())? {
        load += &format!("{}\n", module.name);
        let path = format!("kgate/modules/{}.ko", module.name);
        archive.file(&path, 0o644, Content::Module(module))?;
    }
    let config = format!(
        "guard={}\nstage={}\nfs={}\npatience={PATIENCE}\n",
        boot.guard.as_secs(),
        crate::ssh::quote(&stage.to_string_lossy()),
        crate::ssh::quote(&facts.root.fs),
    );
    archive.file("kgate/load", 0o644, Content::Bytes(load.into()))?;
    archive.file("kgate/config", 0o644, Content::Bytes(config.into()))?;
    let out = GzBuilder::new().mtime(0).write(Vec::new(), Compression::fast());
    let mut out = archive.write(out)?;
    out.flush()?;
    Ok(out.finish()?)
}

/// Names of the modules that the root needs, without what they depend on.
fn wanted(
    kernel: &Kernel,
    facts: &HostFacts,
    boot: &Boot,
) -> Result<BTreeSet<String>, KernelError> {
    let is_module = |name: &&String| kernel.modules.status(name) == Status::Module;
    let mut wanted: BTreeSet<String> =
        facts.root.drivers.iter().filter(is_module).cloned().collect();
    // A driver that is built into the production kernel may be a module here, or have another name: a
    // disk's alias finds it.
    for (name, _) in kernel.modules.iter().filter(|(_, path)| is_storage(kernel, path)) {
        let loaded = facts.loaded.iter().any(|loaded| loaded == name);
        if loaded || drives(kernel, name, &facts.root.aliases)? {
            wanted.insert(name.to_owned());
        }
    }
    let fs = &facts.root.fs;
    if is_module(&fs) {
        wanted.insert(fs.clone());
    }
    // Those that a person asks for are there or refused.
    let asked = boot.initrd_modules.iter();
    wanted.extend(asked.filter(|name| kernel.modules.status(name) != Status::BuiltIn).cloned());
    Ok(wanted)
}

fn is_storage(kernel: &Kernel, path: &Path) -> bool {
    let Some(below) = kernel.modules.root().and_then(|root| path.strip_prefix(root).ok()) else {
        return false;
    };
    let below = below.strip_prefix("kernel").unwrap_or(below);
    STORAGE.iter().any(|dir| below.starts_with(dir))
}

/// Whether a module is for one of these devices.
fn drives(kernel: &Kernel, name: &str, aliases: &[String]) -> Result<bool, KernelError> {
    if aliases.is_empty() {
        return Ok(false);
    }
    let patterns = kernel.modules.info(name)?.aliases;
    Ok(patterns
        .iter()
        .any(|pattern| aliases.iter().any(|alias| matches(pattern.as_bytes(), alias.as_bytes()))))
}

/// Whether a shell pattern fits, as `modprobe` reads the patterns of aliases.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    // Where to go on when what follows the last star doesn't fit.
    let (mut p, mut t, mut star) = (0, 0, None);
    loop {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p + 1, t));
            p += 1;
            continue;
        }
        if t == text.len() && p == pattern.len() {
            return true;
        }
        if let Some(next) = (t < text.len()).then(|| one(&pattern[p..], text[t])).flatten() {
            p += next;
            t += 1;
            continue;
        }
        match star {
            Some((after, at)) if at < text.len() => {
                (p, t, star) = (after, at + 1, Some((after, at + 1)));
            }
            _ => return false,
        }
    }
}

/// Length of the part of a pattern that stands for `byte`, if it does.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern.first()? {
        b'?' => Some(1),
        b'[' => {
            let end = pattern.iter().position(|b| *b == b']')?;
            let mut set = &pattern[1..end];
            let mut fits = false;
            while let [first, rest @ ..] = set {
                if let [b'-', last, rest @ ..] = rest {
                    fits |= (*first..=*last).contains(&byte);
                    set = rest;
                } else {
                    fits |= *first == byte;
                    set = rest;
                }
            }
            fits.then_some(end + 1)
        }
        literal => (*literal == byte).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn aliases_are_matched_as_modprobe_does() {
        let fits = |pattern: &str, text: &str| matches(pattern.as_bytes(), text.as_bytes());
        assert!(fits("virtio:d00000002v*", "virtio:d00000002v00001AF4"));
        assert!(!fits("virtio:d00000001v*", "virtio:d00000002v00001AF4"));
        assert!(fits(
            "pci:v*d*sv*sd*bc01sc06i01*",
            "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01"
        ));
        assert!(!fits(
            "pci:v*d*sv*sd*bc01sc08i02*",
            "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01"
        ));
        assert!(fits("scsi:t-0x00*", "scsi:t-0x00"));
        assert!(
            fits("a[0-9x]?c", "a5bc") && fits("a[0-9x]?c", "axbc") && !fits("a[0-9]?c", "axbc")
        );
        assert!(fits("*", "") && fits("", "") && !fits("", "a") && !fits("a[", "a["));
        let many = "a*".repeat(200) + "b";
        assert!(!fits(&many, &"a".repeat(5000)));
    }
}
