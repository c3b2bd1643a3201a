//! The root of the steps on a lab host: what they find in a guest, in a mount namespace of the agent's
//! own, so that one scenario means the same on both and leaves nothing behind on the host.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use kgate_model::wire::{Root, Trouble};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind_recursive, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::cgroup::Groups;
use crate::guest;
use crate::root::{self, make};
use crate::trouble::{failed, refused};

/// The host's own, shown with everything that is mounted below them.
const SHOWN: [&str; 3] = ["proc", "sys", "dev"];

/// How deep the tree of the base userland may be.
const DEPTH: u32 = 16;

/// Changes this process, which has no other thread yet, to a root of its own: a copy in memory of
/// `directory/tree`, or `image`, a block device with a squashfs, with `directory/tree/kgate` in it. Gives
/// a handle of the host's root.
pub(crate) fn enter(directory: &Path, image: Option<&str>) -> Result<OwnedFd, Trouble> {
    #[expect(unsafe_code, reason = "dangerous only for descriptors, which it leaves as they are")]
    // SAFETY: mounts only; the table of descriptors stays shared.
    unsafe {
        unshare_unsafe(UnshareFlags::NEWNS).map_err(|e| failed("leave the host's mounts", e))?;
    }
    // What is mounted here is the host's no more.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|e| failed("make the mounts private", e))?;
    let old = root::open_directory("/").map_err(|e| failed("open the host's root", e))?;
    let tree = directory.join("tree");
    let programs = root::open_directory(&tree.join("kgate").to_string_lossy())
        .map_err(|e| failed("open the programs", e))?;
    let modules = root::open_directory("/lib/modules");
    let resolver = fs::read("/etc/resolv.conf").ok();

    let stage = directory.join("stage");
    make(&stage)?;
    mount("tmpfs", &stage, "tmpfs", MountFlags::empty(), c"mode=755")
        .map_err(|e| failed("mount memory for the root", e))?;
    let new = match image {
        Some(device) => {
            root::layered(&Root { device: device.into(), fs: "squashfs".into() }, &stage)?
        }
        None => {
            copy(&tree, &stage, DEPTH)?;
            stage
        }
    };
    for name in SHOWN {
        let target = new.join(name);
        make(&target)?;
        mount_bind_recursive(Path::new("/").join(name), &target)
            .map_err(|e| failed(format!("show /{name}"), e))?;
    }
    root::enter(&new)?;
    if image.is_some() {
        root::show(&programs, "/kgate")?;
        if let Ok(modules) = modules {
            root::show(&modules, "/lib/modules")?;
        }
    }
    guest::expected(Groups::find_mount().is_none());
    if let Some(text) = resolver {
        let _ = fs::remove_file("/etc/resolv.conf");
        let _ = fs::write("/etc/resolv.conf", text);
    }
    Ok(old)
}

/// Copies directories, files and symbolic links.
fn copy(from: &Path, to: &Path, depth: u32) -> Result<(), Trouble> {
    let fail = |what: &Path, e| failed(format!("copy {}", what.display()), e);
    if depth == 0 {
        return Err(refused(format!("{} is too deep", from.display())));
    }
    for entry in fs::read_dir(from).map_err(|e| fail(from, e))? {
        let entry = entry.map_err(|e| fail(from, e))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let metadata = entry.metadata().map_err(|e| fail(&source, e))?;
        let copied = if metadata.is_symlink() {
            fs::read_link(&source).and_then(|link| symlink(link, &target))
        } else if metadata.is_dir() {
            make(&target)?;
            let mode = fs::Permissions::from_mode(metadata.mode() & 0o7777);
            fs::set_permissions(&target, mode).map_err(|e| fail(&source, e))?;
            copy(&source, &target, depth - 1)?;
            Ok(())
        } else {
            fs::copy(&source, &target).map(drop)
        };
        copied.map_err(|e| fail(&source, e))?;
    }
    Ok(())
}
