//! What a guest boots from: the initramfs with agent, userland and modules, put together in memory.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use kgate_image::{Busybox, base};
use kgate_kernel::initramfs::{Content, Initramfs, InitramfsError};
use kgate_kernel::{Driver, Kernel, KernelError, ModuleFile, Status};
use kgate_model::outcome::Role;
use kgate_model::wire::{Root, Setup};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::pread;
use sha2::{Digest, Sha256};

use crate::args::Disk;

/// Where modules are in the initramfs.
const MODULES: &str = "/kgate/modules";
/// Modules that the agent loads before it can speak.
const CHANNEL: [(&str, &str); 2] =
    [("virtio_pci", "VIRTIO_PCI"), ("virtio_console", "VIRTIO_CONSOLE")];
/// Modules behind an image's root.
const ROOT: [(&str, &str); 3] =
    [("virtio_blk", "VIRTIO_BLK"), ("squashfs", "SQUASHFS"), ("overlay", "OVERLAY_FS")];
/// Modules behind an image's root in a guest without virtio.
const EXACT_ROOT: [(&str, &str); 4] = [
    ("nfit", "ACPI_NFIT"),
    ("nd_pmem", "BLK_DEV_PMEM"),
    ("squashfs", "SQUASHFS"),
    ("overlay", "OVERLAY_FS"),
];
/// Modules behind a NIC.
const NETWORK: [(&str, &str); 1] = [("virtio_net", "VIRTIO_NET")];
/// Drivers of the panic device, by the names they had over time. None is required: a kernel without
/// them still panics on its console.
const PANIC: [&str; 2] = ["pvpanic_mmio", "pvpanic"];

/// kgate's own programs for the inside of a machine: static executables.
#[derive(Clone, Copy, Debug)]
pub struct Programs {
    /// The agent.
    pub agent: &'static [u8],
    /// The measuring programs; empty where nothing is measured.
    pub ops: &'static [u8],
}

/// What the steps find on the machine.
#[derive(Clone, Debug)]
pub enum Userland {
    /// One busybox in the initramfs.
    Base(Arc<Busybox>),
    /// A squashfs image on a disk.
    Image(PathBuf),
}

/// Why a guest can't be put together.
#[derive(Debug, thiserror::Error)]
pub enum KitError {
    /// The kernel lacks something a guest needs, or its modules can't be read.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The pool was given no kernel of this role.
    #[error("the pool has no {0} kernel")]
    NoKernel(Role),
    /// The pool was given no image of this name.
    #[error("no image `{0}` was prepared")]
    NoImage(String),
    /// The initramfs can't be written.
    #[error(transparent)]
    Initramfs(#[from] InitramfsError),
    /// Memory for it can't be had, or an image can't be looked at.
    #[error("no initramfs could be put together: {0}")]
    Memory(#[from] io::Error),
}

/// An initramfs in memory, and how the agent is to use it.
#[derive(Debug)]
pub(crate) struct Kit {
    /// The initramfs, an anonymous file.
    pub(crate) initrd: OwnedFd,
    /// Its sha256, once somebody has asked for it.
    digest: OnceCell<[u8; 32]>,
    /// The disk to attach.
    pub(crate) disk: Option<Disk>,
    /// What the agent prepares.
    pub(crate) setup: Setup,
    /// Modules of the panic device, in order.
    pub(crate) panic: Vec<String>,
    /// Names of modules that trials may load to their paths in the initramfs, in order.
    pub(crate) loadable: BTreeMap<String, Vec<String>>,
}

impl Kit {
    /// Builds the initramfs of `kernel` with `userland`; `extra` are modules that trials load. An
    /// `exact` guest has no virtio devices.
    pub(crate) fn build(
        kernel: &Kernel,
        userland: &Userland,
        programs: Programs,
        extra: &[String],
        network: bool,
        exact: bool,
    ) -> Result<Self, KitError> {
        let mut archive = Archive::default();
        archive.initramfs.file("init", 0o755, Content::Bytes(programs.agent.to_vec()))?;
        if !programs.ops.is_empty() {
            archive.initramfs.file("kgate/ops", 0o755, Content::Bytes(programs.ops.to_vec()))?;
        }
        // The kernel opens it for init before anything is mounted.
        archive.initramfs.char_device("dev/console", 0o600, 5, 1)?;

        let channel = if exact { &[][..] } else { &CHANNEL };
        let channel = archive.modules(kernel.require(&drivers(channel))?)?;
        archive.initramfs.file(
            "kgate/boot-modules",
            0o644,
            Content::Bytes(
                channel.iter().flat_map(|p| [p.as_str(), "\n"]).collect::<String>().into(),
            ),
        )?;
        let mut setup = Setup { network, hostname: "kgate".into(), ..Setup::default() };
        let panic: Vec<_> = PANIC
            .into_iter()
            .filter(|name| kernel.modules.status(name) == Status::Module)
            .map(Driver::named)
            .collect();
        let panic = archive.modules(kernel.require(&panic)?)?;
        if network {
            setup.modules.extend(archive.modules(kernel.require(&drivers(&NETWORK))?)?);
        }
        let disk = match userland {
            Userland::Base(busybox) => {
                archive.base(busybox)?;
                None
            }
            Userland::Image(path) => {
                let (modules, device) =
                    if exact { (&EXACT_ROOT[..], "/dev/pmem0") } else { (&ROOT[..], "/dev/vda") };
                setup.modules.extend(archive.modules(kernel.require(&drivers(modules))?)?);
                setup.root = Some(Root { device: device.into(), fs: "squashfs".into() });
                Some(Disk { path: path.clone(), size: std::fs::metadata(path)?.len() })
            }
        };
        let mut loadable = BTreeMap::new();
        for name in extra {
            if kernel.modules.status(name) == Status::Module {
                let paths = archive.modules(kernel.modules.closure(&[name])?)?;
                loadable.insert(name.clone(), paths);
            }
        }

        let memory =
            memfd_create("kgate-initramfs", MemfdFlags::CLOEXEC).map_err(io::Error::from)?;
        let writer = BufWriter::with_capacity(1 << 18, File::from(memory));
        let file = archive
            .initramfs
            .write(writer)?
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        Ok(Self { initrd: file.into(), digest: OnceCell::new(), disk, setup, panic, loadable })
    }

    /// The sha256 of the initramfs.
    pub(crate) fn digest(&self) -> io::Result<[u8; 32]> {
        if let Some(digest) = self.digest.get() {
            return Ok(*digest);
        }
        let mut digest = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        let mut at = 0;
        loop {
            let read = pread(&self.initrd, &mut buffer, at)?;
            if read == 0 {
                return Ok(*self.digest.get_or_init(|| digest.finalize().into()));
            }
            digest.update(&buffer[..read]);
            at += read as u64;
        }
    }
}

fn drivers(table: &[(&str, &str)]) -> Vec<Driver> {
    table.iter().map(|(module, config)| Driver::new(module, config)).collect()
}

#[derive(Default)]
struct Archive {
    initramfs: Initramfs,
    held: BTreeMap<String, String>,
}

impl Archive {
    /// Adds modules that are not in it yet; returns the paths of all of them, in order.
    fn modules(&mut self, files: Vec<ModuleFile>) -> Result<Vec<String>, KitError> {
        let mut paths = Vec::new();
        for file in files {
            let path = match self.held.get(&file.name) {
                Some(path) => path.clone(),
                None => {
                    let path = format!("{MODULES}/{}.ko", file.name);
                    self.held.insert(file.name.clone(), path.clone());
                    self.initramfs.file(&path, 0o644, Content::Module(file))?;
                    path
                }
            };
            paths.push(path);
        }
        Ok(paths)
    }

    fn base(&mut self, busybox: &Busybox) -> Result<(), KitError> {
        let root = &mut self.initramfs;
        root.file("bin/busybox", 0o755, Content::Bytes(busybox.bytes.clone()))?;
        // The agent makes links of them: the kernel would take four times as long to unpack each, and
        // start `modprobe` a dozen times while it boots, for nothing.
        let applets = busybox.applets.iter().filter(|a| *a != "bin/busybox");
        let applets: String = applets.flat_map(|path| ["/", path, "\n"]).collect();
        root.file("kgate/applets", 0o644, Content::Bytes(applets.into()))?;
        // For who boots without the agent: `rdinit=/bin/sh`.
        root.symlink("bin/sh", "/bin/busybox")?;
        for (path, mode) in base::DIRECTORIES {
            root.dir(path, mode)?;
        }
        for (path, text) in base::FILES {
            root.file(path, 0o644, Content::Bytes(text.into()))?;
        }
        Ok(())
    }
}
