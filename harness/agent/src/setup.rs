//! What is prepared before the first step: modules, settings, host name, network, root.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::OnceLock;

use kgate_model::wire::{Setup, Trouble};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use crate::trouble::{failed, refused};
use crate::{fresh, net, root};

/// Applies `setup`. `initramfs` gets a handle of the old root when the root changes.
pub(crate) fn apply(
    setup: &Setup,
    guest: bool,
    initramfs: &OnceLock<OwnedFd>,
) -> Result<(), Trouble> {
    if !guest
        && (setup.root.is_some()
            || setup.network
            || !setup.hostname.is_empty()
            || setup.fresh.is_some())
    {
        return Err(refused("root, network, host name and identity are set up in a guest only"));
    }
    load_modules(&setup.modules, initramfs.get())?;
    if let Some(root) = &setup.root {
        let old = root::change(root)?;
        // A second controller of the same boot finds the root as the first left it.
        let _ = initramfs.set(old);
    }
    if let Some(fresh) = &setup.fresh {
        fresh::machine_id(fresh)?;
    }
    if !setup.hostname.is_empty() {
        rustix::system::sethostname(setup.hostname.as_bytes())
            .map_err(|e| failed("set the host name", e))?;
    }
    for (name, value) in &setup.sysctls {
        write_sysctl(name, value)?;
    }
    if setup.network {
        net::user_network(setup.fresh.as_ref().map(|fresh| fresh.mac))?;
        // An image may have a link here that leads nowhere.
        let _ = fs::remove_file("/etc/resolv.conf");
        let _ = fs::create_dir_all("/etc");
        let _ = fs::write("/etc/resolv.conf", format!("nameserver {}\n", net::NAMESERVER));
    }
    if guest && !Path::new("/etc/hosts").exists() {
        let _ = fs::create_dir_all("/etc");
        let hosts = format!("127.0.0.1 localhost {}\n::1 localhost\n", setup.hostname);
        let _ = fs::write("/etc/hosts", hosts);
    }
    Ok(())
}

fn write_sysctl(name: &str, value: &str) -> Result<(), Trouble> {
    let path = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    if path.split('/').any(|part| part.is_empty() || part == "..") {
        return Err(refused(format!("{name:?} is no kernel setting")));
    }
    match fs::write(format!("/proc/sys/{path}"), value) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|e| failed(format!("set {name} to {value:?}"), e)),
    }
}

/// Loads modules in order. A path is looked up in the initramfs first, when the root was changed,
/// and then as the steps see it.
pub(crate) fn load_modules(paths: &[String], initramfs: Option<&OwnedFd>) -> Result<(), Trouble> {
    for path in paths {
        let open = |path: &str| match initramfs {
            Some(old) => {
                let below = path.trim_start_matches('/');
                openat(old, below, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                    .or_else(|_| open_here(path))
            }
            None => open_here(path),
        };
        let file = open(path).map_err(|e| failed(format!("open module {path}"), e))?;
        match rustix::system::finit_module(&file, c"", 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(failed(format!("load module {path}"), e)),
        }
    }
    Ok(())
}

fn open_here(path: &str) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}
