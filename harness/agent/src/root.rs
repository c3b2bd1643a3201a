//! The root of the steps: a read-only file system under a writable layer in memory.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kgate_model::wire::{Root, Trouble};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_bind_recursive, mount_move};

use crate::trouble::failed;

/// How long the driver may take to find the block device.
const APPEARS_WITHIN: Duration = Duration::from_secs(5);

/// Where the new root is put together.
const STAGE: &str = "/.kgate-root";

/// Mounts that are carried over with everything below them.
const CARRIED: [&str; 5] = ["proc", "sys", "dev", "run", "tmp"];

/// Directories of the initramfs that appear in the new root: our programs, and the modules, so that
/// `modprobe` in a step finds those that belong to this kernel.
const SHOWN: [&str; 2] = ["/kgate", "/lib/modules"];

/// Opens a directory without looking into it.
pub(crate) fn open_directory(path: &str) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Makes `root` the root of this process and of every step, and gives a handle of the old one.
pub(crate) fn change(root: &Root) -> Result<OwnedFd, Trouble> {
    let old = open_directory("/").map_err(|e| failed("open the initramfs", e))?;
    let shown: Vec<_> =
        SHOWN.into_iter().filter_map(|path| Some((path, open_directory(path).ok()?))).collect();

    let new = layered(root, Path::new(STAGE))?;
    for name in CARRIED {
        let target = new.join(name);
        make(&target)?;
        mount_move(Path::new("/").join(name), &target)
            .map_err(|e| failed(format!("move /{name}"), e))?;
    }
    enter(&new)?;
    for (path, source) in shown {
        show(&source, path)?;
    }
    Ok(old)
}

/// Mounts `root` under a writable layer in memory, all below `stage`, and gives where.
pub(crate) fn layered(root: &Root, stage: &Path) -> Result<PathBuf, Trouble> {
    let [image, memory, new] = ["image", "memory", "new"].map(|name| stage.join(name));
    for directory in [&image, &memory, &new] {
        make(directory)?;
    }
    mount_image(root, &image)?;
    let what = "mount the writable layer";
    mount("tmpfs", &memory, "tmpfs", MountFlags::empty(), c"mode=755")
        .map_err(|e| failed(what, e))?;
    let [upper, work] = ["upper", "work"].map(|name| memory.join(name));
    make(&upper)?;
    make(&work)?;
    let layers = [
        &b"lowerdir="[..],
        image.as_os_str().as_bytes(),
        b",upperdir=",
        upper.as_os_str().as_bytes(),
        b",workdir=",
        work.as_os_str().as_bytes(),
    ]
    .concat();
    let layers = std::ffi::CString::new(layers).unwrap_or_default();
    mount("overlay", &new, "overlay", MountFlags::empty(), layers.as_c_str())
        .map_err(|e| failed("mount the overlay", e))?;
    Ok(new)
}

/// Makes the mount `new` the root of this process.
pub(crate) fn enter(new: &Path) -> Result<(), Trouble> {
    let enter = || {
        rustix::process::chdir(new)?;
        mount_move(".", "/")?;
        rustix::process::chroot(".")?;
        rustix::process::chdir("/")
    };
    enter().map_err(|e| failed("enter the new root", e))
}

/// Makes a directory that was opened appear at `path`.
pub(crate) fn show(source: &OwnedFd, path: &str) -> Result<(), Trouble> {
    use std::os::fd::AsRawFd;
    make(Path::new(path))?;
    mount_bind_recursive(format!("/proc/self/fd/{}", source.as_raw_fd()), path)
        .map_err(|e| failed(format!("show {path} in the new root"), e))
}

pub(crate) fn make(directory: &Path) -> Result<(), Trouble> {
    fs::create_dir_all(directory).map_err(|e| failed(format!("make {}", directory.display()), e))
}

/// Mounts the image; waits for its device, whose driver may still be looking.
fn mount_image(root: &Root, target: &Path) -> Result<(), Trouble> {
    let deadline = Instant::now() + APPEARS_WITHIN;
    loop {
        match mount(&root.device, target, &root.fs, MountFlags::RDONLY, None) {
            Ok(()) => return Ok(()),
            Err(Errno::NOENT | Errno::NXIO) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(e) => {
                return Err(failed(
                    format!("mount {} as {} for the root", root.device, root.fs),
                    e,
                ));
            }
        }
    }
}
