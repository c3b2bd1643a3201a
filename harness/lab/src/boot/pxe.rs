//! PXE: the controller offers a kernel to a host whose BMC is told to boot from the network once.
//!
//! The host's iPXE script lies in the site's own directory. While kgate offers nothing it exits, and the
//! firmware goes on to the disk.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::boot::SelectError;
use crate::stage::Staged;

/// What the host runs while kgate offers nothing.
const NOTHING: &str = "#!ipxe\n# Written by kgate, which offers nothing: on to the disk.\nexit\n";

/// Where image and initrd of a role are in the site's directory, relative to it.
pub(crate) fn files(host: &str, role: &str) -> [PathBuf; 2] {
    let dir = PathBuf::from("kgate").join(host);
    [dir.join(format!("{role}-vmlinuz")), dir.join(format!("{role}-initrd"))]
}

/// A directory that is not there is not what the site's server offers: one that kgate made would never
/// be asked for.
pub(super) fn assert_offered(directory: &Path) -> Result<(), SelectError> {
    if directory.is_dir() {
        return Ok(());
    }
    Err(SelectError::Inventory(format!(
        "boot.pxe.directory: there is no directory {} on the controller",
        directory.display()
    )))
}

pub(super) fn offer(
    directory: &Path,
    script: &Path,
    url: &str,
    host: &str,
    staged: &Staged,
    command_line: &str,
) -> Result<(), SelectError> {
    let [image, initrd] = files(host, staged.role.as_str()).map(|file| file.display().to_string());
    let url = url.trim_end_matches('/');
    // A kernel that is loaded but doesn't start leads back to the firmware, and so to the disk.
    let text = format!(
        "#!ipxe\n# Written by kgate for one boot.\nkernel {url}/{image} initrd=initrd {command_line} || exit\n\
         initrd --name initrd {url}/{initrd} || exit\nboot || exit\n"
    );
    replace(&directory.join(script), text.as_bytes())
}

pub(super) fn withdraw(directory: &Path, script: &Path) -> Result<(), SelectError> {
    let path = directory.join(script);
    match fs::read(&path) {
        Ok(text) if text == NOTHING.as_bytes() => Ok(()),
        _ => replace(&path, NOTHING.as_bytes()),
    }
}

pub(super) fn clean(directory: &Path, host: &str) -> Result<(), SelectError> {
    let dir = directory.join("kgate").join(host);
    match fs::remove_dir_all(&dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", &dir, &e)),
        _ => Ok(()),
    }
}

/// Writes a file whole or not at all.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), SelectError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let write = || -> io::Result<()> {
        fs::create_dir_all(dir)?;
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        // The site's server may run as anybody.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        file.as_file().set_permissions(mode)?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|e| failed("write", path, &e))
}

fn failed(what: &str, path: &Path, error: &io::Error) -> SelectError {
    SelectError::Controller(format!("can't {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_nobody_serves_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(assert_offered(dir.path()), Ok(()));
        let typo = dir.path().join("tfpt");
        let Err(SelectError::Inventory(why)) = assert_offered(&typo) else { panic!("it is there") };
        assert!(why.starts_with("boot.pxe.directory: there is no directory "), "{why}");
        assert!(!typo.exists());
    }
}
