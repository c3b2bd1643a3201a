//! What a crashed kernel left on its host: records of pstore, the kernel log of a kdump.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::ssh::{Ssh, SshError};

const COLLECT: &str = include_str!("crash/collect.sh");
const CLEAR: &str = include_str!("crash/clear.sh");
/// Bytes that are fetched: kernel logs, not memory.
const LIMIT: usize = 64 << 20;
/// Files that are kept.
const FILES: usize = 200;

/// Fetches what a crash left on a host that runs production, into `dir`, and clears it there, so that
/// the next crash is told from this one. Gives the files.
///
/// # Errors
/// See [`SshError`]. What was fetched before stays in `dir`, and what wasn't stays on the host.
pub async fn collect(ssh: &Ssh, dir: &Path, within: Duration) -> Result<Vec<PathBuf>, SshError> {
    let packed = ssh.fetch("collecting what the crash left", COLLECT, LIMIT, within).await?;
    if packed.is_empty() {
        return Ok(Vec::new());
    }
    let files = unpack(&packed, dir).map_err(|e| {
        SshError::Controller(format!("can't keep what a crash left in {}: {e}", dir.display()))
    })?;
    ssh.ask("clearing what the crash left", CLEAR, within).await?;
    Ok(files)
}

/// Writes the files of an archive into one directory, by names of ours: what a host sends names no place
/// of the controller.
fn unpack(packed: &[u8], dir: &Path) -> io::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(dir)?;
    let mut files = Vec::new();
    let mut archive = tar::Archive::new(packed);
    for entry in archive.entries()?.take(FILES) {
        // An archive that was cut short still has its beginning.
        let Ok(entry) = entry else { break };
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = name(&entry.path_bytes());
        let path = dir.join(format!("{:03}-{name}", files.len()));
        let mut content = Vec::new();
        let _ = entry.take(LIMIT as u64).read_to_end(&mut content);
        if !content.is_empty() {
            std::fs::write(&path, content)?;
            files.push(path);
        }
    }
    Ok(files)
}

/// The last two parts of a path as one name.
fn name(path: &[u8]) -> String {
    let path = String::from_utf8_lossy(path);
    let mut parts: Vec<_> = path.rsplit('/').take(2).collect();
    parts.reverse();
    let harmless = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    parts.join("-").chars().map(harmless).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_host_stay_in_the_directory() {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in
            [("sys/fs/pstore/dmesg-ramoops-0", "Panic#1"), ("a/b\u{1b}[2J/..", "x")]
        {
            let mut header = tar::Header::new_gnu();
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            builder.append(&header, content.as_bytes()).unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        let mut packed = builder.into_inner().unwrap();
        let files = unpack(&packed, dir.path()).unwrap();
        let names: Vec<_> = files.iter().map(|f| f.strip_prefix(dir.path()).unwrap()).collect();
        assert_eq!(names, ["000-pstore-dmesg-ramoops-0", "001-b__2J-.."].map(Path::new));
        packed.truncate(600);
        assert_eq!(unpack(&packed, dir.path()).unwrap().len(), 1);
        assert_eq!(unpack(&[7; 5000], dir.path()).unwrap_or_default().len(), 0);
    }
}
