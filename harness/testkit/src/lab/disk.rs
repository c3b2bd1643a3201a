//! The stand-in's disk: GRUB, one kernel of Debian's and a small userland, made without root, loop
//! device or mount.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kgate_kernel::initramfs::{Content, Initramfs};
use kgate_kernel::{Kernel, Status};
use kgate_model::host::{Host, HostCommand};

use crate::host::TestHost;

use super::Problem;

/// Fixed, so that nothing about a disk changes from one making to the next.
pub(super) const UUID: &str = "6b676174-6520-4c61-8b20-686f73742121";
/// Where the only partition begins.
pub(super) const PARTITION: u64 = 1 << 20;
const SIZE: u64 = 640 << 20;
/// What every kernel of this host is started with, as `GRUB_CMDLINE_LINUX` has it.
pub(super) const COMMAND_LINE: &str = "console=ttyS0,115200 panic=5 memmap=1M$128M";

const INIT: &str = include_str!("host/initrd-init");
/// Files of the userland that are ours: path, mode, text.
const FILES: &[(&str, u32, &str)] = &[
    ("etc/inittab", 0o644, include_str!("host/inittab")),
    ("etc/rc", 0o755, include_str!("host/rc")),
    ("etc/acpi/PWRF/00000080", 0o755, include_str!("host/power-button")),
    ("usr/sbin/grub-reboot", 0o755, include_str!("host/grub-reboot")),
    ("usr/sbin/grub-set-default", 0o755, include_str!("host/grub-set-default")),
    ("etc/passwd", 0o644, "root:*:0:0:root:/root:/bin/sh\n"),
    ("etc/group", 0o644, "root:x:0:\n"),
    ("etc/shells", 0o644, "/bin/sh\n"),
    ("etc/hostname", 0o644, "labhost\n"),
    (
        "etc/modprobe.d/ramoops.conf",
        0o644,
        "options ramoops mem_address=0x8000000 mem_size=0x100000 record_size=0x20000 \
         console_size=0x20000\n",
    ),
    // Its files change owners at its first start.
    (".new", 0o644, ""),
];
/// `linux16`, because `linux` moves all the memory that a kernel says it needs byte by byte, which takes
/// seconds under emulation; kernels under test are booted by whatever kgate writes.
const PRODUCTION: &str = include_str!("host/10_production");
const DIRS: &[&str] = &[
    "boot/grub",
    "dev",
    "etc/dropbear",
    "mnt",
    "proc",
    "root/.ssh",
    "run",
    "sys",
    "tmp",
    "usr/bin",
    "usr/lib",
    "usr/lib64",
    "usr/sbin",
    "var/log",
];
/// Directories that Debian has merged into `/usr`.
const MERGED: &[&str] = &["bin", "lib", "lib64", "sbin"];
/// Programs of this machine that the host has, with the libraries that they need.
const PROGRAMS: &[&str] = &["dropbear", "grub-editenv", "kexec", "vmcore-dmesg", "chrt", "flock"];
/// What production has as modules; those that a kernel has built in or not at all are left out.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "button",
    "evdev",
    "netconsole",
    "ramoops",
    "softdog",
    "squashfs",
    "erofs",
    "overlay",
    "loop",
];
/// What finds the root file system.
pub(super) const ROOT_MODULES: &[&str] = &["virtio_pci", "virtio_blk"];
/// The parts of GRUB that are in its core, so that its directory needs no modules.
const GRUB_MODULES: &[&str] = &[
    "biosdisk",
    "part_msdos",
    "ext2",
    "normal",
    "linux",
    "linux16",
    "serial",
    "terminal",
    "loadenv",
    "configfile",
    "test",
    "echo",
    "reboot",
    "halt",
    "sleep",
    "search",
    "search_fs_uuid",
    "all_video",
    "true",
];

/// Where programs of Debian's are that not every user's `PATH` has.
const ELSEWHERE: &[&str] = &["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// The path of a program on this machine.
pub(super) fn program(name: &str) -> Result<PathBuf, Problem> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(ELSEWHERE.iter().map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| Problem::Missing(format!("this machine has no {name}")))
}

/// Runs a program to its end and returns what it printed.
pub(super) fn run(name: &str, args: &[&str]) -> Result<String, Problem> {
    let command = HostCommand::new(program(name)?, Duration::from_secs(60)).args(args);
    let output = TestHost.run(&command).map_err(|e| Problem::broken(name, e))?;
    if output.code == Some(0) {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Problem::broken(name, format!("{args:?} ended with {:?}: {said}", output.code)))
}

/// Everything that is built into a disk besides the kernel; what changes it changes the disk's key.
pub(super) fn ingredients() -> Result<Vec<u8>, Problem> {
    let mut all = Vec::new();
    for (path, _, text) in FILES {
        all.extend_from_slice(path.as_bytes());
        all.extend_from_slice(text.as_bytes());
    }
    for text in [INIT, PRODUCTION, COMMAND_LINE] {
        all.extend_from_slice(text.as_bytes());
    }
    for name in PROGRAMS.iter().chain(&["busybox"]) {
        all.extend(fs::read(program(name)?).map_err(|e| Problem::broken(name, e))?);
    }
    all.extend(grub_cfg("", "")?.into_bytes());
    all.extend(include_bytes!("disk.rs"));
    Ok(all)
}

/// Makes the disk in `image`; `dir` is for what only the making needs.
pub(super) fn make(kernel: &Kernel, key: &Path, dir: &Path, image: &Path) -> Result<(), Problem> {
    let root = dir.join("root");
    userland(&root, key)?;
    let modules = kernel_files(kernel, &root)?;
    let initrd = root.join("boot").join(format!("initrd.img-{}", kernel.release));
    write(&initrd, 0o644, &initrd_of(kernel, ROOT_MODULES)?)?;
    let base = root.join("usr").display().to_string();
    if modules > 0 {
        run("depmod", &["-b", &base, &kernel.release])?;
    }
    let grub = root.join("boot/grub");
    write(&grub.join("grub.cfg"), 0o644, grub_cfg(&kernel.release, UUID)?.as_bytes())?;
    let environment = grub.join("grubenv").display().to_string();
    run("grub-editenv", &[&environment, "create"])?;
    run("grub-editenv", &[&environment, "set", "saved_entry=production"])?;

    let partition = dir.join("partition");
    File::create(&partition)
        .and_then(|file| file.set_len(SIZE - PARTITION))
        .map_err(|e| Problem::broken("partition", e))?;
    // GRUB writes to its environment only where there are no checksums to be kept right.
    let options = "^metadata_csum,^64bit";
    let (from, to) = (root.display().to_string(), partition.display().to_string());
    run("mke2fs", &["-q", "-t", "ext4", "-O", options, "-U", UUID, "-d", &from, &to])?;
    assemble(dir, &partition, image)
}

/// Boot sector, partition table, GRUB's core and the partition.
fn assemble(dir: &Path, partition: &Path, image: &Path) -> Result<(), Problem> {
    let grub = Path::new("/usr/lib/grub/i386-pc");
    let boot = fs::read(grub.join("boot.img"))
        .map_err(|_| Problem::Missing(format!("no GRUB for BIOS in {}", grub.display())))?;
    let core = dir.join("core.img").display().to_string();
    let mut args = vec!["-O", "i386-pc", "-o", &core, "-p", "(hd0,msdos1)/boot/grub"];
    args.extend(GRUB_MODULES);
    run("grub-mkimage", &args)?;
    let core = fs::read(&core).map_err(|e| Problem::broken("core.img", e))?;
    let room = usize::try_from(PARTITION).unwrap_or_default() - 512;
    if core.len() > room {
        return Err(Problem::broken("core.img", format!("{} bytes are too many", core.len())));
    }
    let mut first = [0; 512];
    first[..440].copy_from_slice(&boot[..440]);
    // One Linux partition, up to the end.
    first[446..462]
        .copy_from_slice(&[0x80, 0xff, 0xff, 0xff, 0x83, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    let sectors = |bytes: u64| u32::try_from(bytes / 512).unwrap_or_default().to_le_bytes();
    first[454..458].copy_from_slice(&sectors(PARTITION));
    first[458..462].copy_from_slice(&sectors(SIZE - PARTITION));
    first[510..].copy_from_slice(&[0x55, 0xaa]);
    let assembled = || {
        let mut file = File::create(image)?;
        file.write_all(&first)?;
        file.write_all(&core)?;
        file.set_len(SIZE)
    };
    assembled().map_err(|e| Problem::broken("disk", e))?;
    let of = format!("of={}", image.display());
    let from = format!("if={}", partition.display());
    run("dd", &[&from, &of, "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none"])?;
    Ok(())
}

fn userland(root: &Path, key: &Path) -> Result<(), Problem> {
    for dir in DIRS {
        fs::create_dir_all(root.join(dir)).map_err(|e| Problem::broken(dir, e))?;
    }
    for dir in MERGED {
        symlink(format!("usr/{dir}"), root.join(dir)).map_err(|e| Problem::broken(dir, e))?;
    }
    symlink("/run", root.join("var/run")).map_err(|e| Problem::broken("var/run", e))?;
    fs::set_permissions(root.join("root/.ssh"), fs::Permissions::from_mode(0o700))
        .and_then(|()| fs::set_permissions(root.join("root"), fs::Permissions::from_mode(0o700)))
        .map_err(|e| Problem::broken("root", e))?;
    for (path, mode, text) in FILES {
        write(&root.join(path), *mode, text.as_bytes())?;
    }
    let busybox = program("busybox")?;
    copy(&busybox, &root.join("usr/bin/busybox"))?;
    for line in run("busybox", &["--list-full"])?.lines() {
        let Some((dir, name)) = line.rsplit_once('/') else { continue };
        let dir = if dir.ends_with("sbin") { "usr/sbin" } else { "usr/bin" };
        let link = root.join(dir).join(name);
        if !link.exists() {
            symlink("/usr/bin/busybox", &link).map_err(|e| Problem::broken(name, e))?;
        }
    }
    symlink("/usr/bin/busybox", root.join("usr/sbin/init")).ok();
    for name in PROGRAMS {
        let file = program(name)?;
        let place = root.join("usr/sbin").join(name);
        fs::remove_file(&place).ok();
        copy(&file, &place)?;
        for library in libraries(&file)? {
            // Both names of a merged directory lead to the same file.
            let place = library.strip_prefix("/usr").or_else(|_| library.strip_prefix("/"));
            copy(&library, &root.join("usr").join(place.unwrap_or(&library)))?;
        }
    }
    for name in ["host_key", "other_host_key"] {
        let file = root.join("etc/dropbear").join(name).display().to_string();
        run("dropbearkey", &["-t", "ed25519", "-f", &file])?;
    }
    let public = fs::read(key.with_extension("pub")).map_err(|e| Problem::broken("id.pub", e))?;
    write(&root.join("root/.ssh/authorized_keys"), 0o600, &public)
}

/// The libraries that a program needs, its loader included.
fn libraries(program: &Path) -> Result<Vec<PathBuf>, Problem> {
    let listed = run("ldd", &[&program.display().to_string()])?;
    let words = listed.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(words.map(PathBuf::from).collect())
}

/// Puts image and modules of production in their places; returns how many modules.
fn kernel_files(kernel: &Kernel, root: &Path) -> Result<usize, Problem> {
    let image = root.join("boot").join(format!("vmlinuz-{}", kernel.release));
    copy(&kernel.image, &image)?;
    let place = root.join("usr/lib/modules").join(&kernel.release);
    let files = closure(kernel, MODULES)?;
    for file in &files {
        let below = kernel.modules.root().and_then(|root| file.path.strip_prefix(root).ok());
        let below = below.and_then(Path::parent).unwrap_or(Path::new("kernel"));
        let bytes = file.read().map_err(|e| Problem::broken("module", e))?;
        write(&place.join(below).join(format!("{}.ko", file.name)), 0o644, &bytes)?;
    }
    for list in ["modules.builtin", "modules.order"] {
        if let Some(from) = kernel.modules.root().map(|root| root.join(list)).filter(|f| f.exists())
        {
            copy(&from, &place.join(list))?;
        }
    }
    Ok(files.len())
}

fn closure(kernel: &Kernel, names: &[&str]) -> Result<Vec<kgate_kernel::ModuleFile>, Problem> {
    let has = |name: &&&str| kernel.modules.status(name) == Status::Module;
    let wanted: Vec<&str> = names.iter().filter(has).copied().collect();
    kernel.modules.closure(&wanted).map_err(|e| Problem::broken("modules", e))
}

/// An initrd that loads `modules` and mounts the stand-in's root.
pub(super) fn initrd_of(kernel: &Kernel, modules: &[&str]) -> Result<Vec<u8>, Problem> {
    let broken = |e: &dyn std::fmt::Display| Problem::broken("initrd", e);
    let files = closure(kernel, modules)?;
    let list: String = files.iter().map(|file| format!("{}\n", file.name)).collect();
    let build = || {
        let mut initrd = Initramfs::new();
        initrd.file("bin/busybox", 0o755, Content::File(program("busybox").unwrap_or_default()))?;
        initrd.file("init", 0o755, Content::Bytes(INIT.into()))?;
        initrd.file("modules", 0o644, Content::Bytes(list.clone().into_bytes()))?;
        for file in &files {
            let path = format!("m/{}.ko", file.name);
            initrd.file(&path, 0o644, Content::Module(file.clone()))?;
        }
        for dir in ["dev", "proc", "root", "sys"] {
            initrd.dir(dir, 0o755)?;
        }
        initrd.write(Vec::new())
    };
    build().map_err(|e| broken(&e))
}

/// What `update-grub` writes on this machine with `GRUB_DEFAULT=saved` and a serial terminal, with an
/// entry of a fixed name for production.
fn grub_cfg(release: &str, uuid: &str) -> Result<String, Problem> {
    let settings = [
        ("pkgdatadir", "/usr/share/grub"),
        ("GRUB_DEFAULT", "saved"),
        ("GRUB_TIMEOUT", "0"),
        ("GRUB_TERMINAL_INPUT", "serial"),
        ("GRUB_TERMINAL_OUTPUT", "serial"),
        ("GRUB_SERIAL_COMMAND", "serial --unit=0 --speed=115200"),
        ("LANG", "C"),
    ];
    let script = |name: &str| {
        let path = Path::new("/etc/grub.d").join(name);
        if !path.is_file() {
            return Err(Problem::Missing(format!("this machine has no {}", path.display())));
        }
        let args: Vec<String> =
            settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let path = path.display().to_string();
        let mut all: Vec<&str> = args.iter().map(String::as_str).collect();
        all.extend(["sh", &path]);
        Ok(format!("### BEGIN {path} ###\n{}### END {path} ###\n\n", run("env", &all)?))
    };
    let entry = PRODUCTION
        .replace("@UUID@", uuid)
        .replace("@RELEASE@", release)
        // A `$` of the kernel's is none of GRUB's.
        .replace("@COMMAND_LINE@", &COMMAND_LINE.replace('$', "\\$"));
    Ok([script("00_header")?, entry, "\n".to_owned(), script("41_custom")?].concat())
}

fn copy(from: &Path, to: &Path) -> Result<(), Problem> {
    let copied = || {
        if let Some(dir) = to.parent() {
            fs::create_dir_all(dir)?;
        }
        fs::copy(from, to)
    };
    copied().map(|_| ()).map_err(|e| Problem::broken(&from.display().to_string(), e))
}

pub(super) fn write(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), Problem> {
    let written = || {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        fs::write(path, bytes)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    };
    written().map_err(|e| Problem::broken(&path.display().to_string(), e))
}

/// A file of the disk as whoever reads no journal sees it, such as GRUB; `None` when there is none.
pub(super) fn read(image: &Path, path: &str) -> Result<Option<Vec<u8>>, Problem> {
    let device = format!("{}?offset={PARTITION}", image.display());
    let command = HostCommand::new(program("debugfs")?, Duration::from_secs(10)).args([
        "-R",
        &format!("cat {path}"),
        &device,
    ]);
    let output = TestHost.run(&command).map_err(|e| Problem::broken("debugfs", e))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("File not found") {
        return Ok(None);
    }
    // It names its version there in any case.
    match said.lines().count() {
        0 | 1 => Ok(Some(output.stdout)),
        _ => Err(Problem::broken("debugfs", said)),
    }
}

/// A public host key of the disk, as it stands in `known_hosts`.
pub(super) fn public_key(root: &Path, name: &str) -> Result<String, Problem> {
    let file = root.join("etc/dropbear").join(name).display().to_string();
    let told = run("dropbearkey", &["-y", "-f", &file])?;
    let line = told.lines().find(|line| line.starts_with("ssh-"));
    let mut words = line.unwrap_or_default().split(' ');
    match (words.next(), words.next()) {
        (Some(kind), Some(key)) => Ok(format!("{kind} {key}")),
        _ => Err(Problem::broken("dropbearkey", told)),
    }
}

/// Copies an image without filling its holes.
pub(super) fn copy_sparse(from: &Path, to: &Path) -> Result<(), Problem> {
    let (from, to) = (from.display().to_string(), to.display().to_string());
    run("cp", &["--sparse=auto", "--reflink=auto", &from, &to]).map(|_| ())
}
