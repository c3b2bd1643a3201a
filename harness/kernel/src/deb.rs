//! Debian packages: an ar archive of `control.tar` and `data.tar`.
//!
//! The ar format is read here, because the usual library takes sizes and offsets from the file
//! unchecked and panics on damaged ones.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::compress;
use crate::error::KernelError;
use crate::extract::{Dependency, MAX_NAME, PackageInfo, Tree, decompress};

/// A package has three members.
const MAX_MEMBERS: usize = 16;
const MAX_CONTROL: u64 = 1 << 20;
/// The changelog of Debian's kernels takes 4 MiB.
const MAX_CHANGELOG: u64 = 256 << 20;

/// Opens the member of a package whose name begins with `prefix`.
fn member(path: &Path, prefix: &str) -> Result<Box<dyn Read>, KernelError> {
    let io = |e| KernelError::io("read", path, e);
    let mut file = File::open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    let refuse = |found: &str| KernelError::NotAKernel {
        path: path.to_owned(),
        found: found.to_owned(),
        advice: "fetch the package again",
    };
    if !metadata.is_file() {
        return Err(refuse("not a regular file"));
    }
    let length = metadata.len();
    let mut magic = Vec::new();
    file.by_ref().take(8).read_to_end(&mut magic).map_err(io)?;
    match magic.as_slice() {
        b"!<arch>\n" => {}
        b"" => return Err(refuse("an empty file")),
        short if b"!<arch>\n".starts_with(short) => {
            return Err(KernelError::cut_short(path, format!("it ends after {length} bytes")));
        }
        _ => return Err(refuse("named like a Debian package, but not one")),
    }
    let mut at = 8;
    for _ in 0..MAX_MEMBERS {
        if at >= length {
            break;
        }
        let mut header = [0; 60];
        if length - at < 60 {
            return Err(KernelError::cut_short(path, "it ends inside a member's header"));
        }
        file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut header)).map_err(io)?;
        let text = |range: std::ops::Range<usize>| {
            String::from_utf8_lossy(&header[range]).trim().to_owned()
        };
        let size = text(48..58).parse::<u64>().ok().filter(|_| header[58..] == *b"`\n");
        let Some(size) = size else {
            return Err(KernelError::damaged(path, format!("no member begins at byte {at}")));
        };
        let name = text(0..16);
        let name = name.trim_end_matches('/');
        let start = at + 60;
        if length - start < size {
            let detail = format!("{} of {size} bytes of its {name} are there", length - start);
            return Err(KernelError::cut_short(path, detail));
        }
        if name.starts_with(prefix) {
            let mut head = Vec::new();
            file.by_ref().take(size.min(8)).read_to_end(&mut head).map_err(io)?;
            file.seek(SeekFrom::Start(start)).map_err(io)?;
            return decompress(path, &head, file.take(size));
        }
        at = start + size + size % 2;
    }
    Err(KernelError::cut_short(path, format!("it has no {prefix}")))
}

/// Reads the control file.
pub(crate) fn info(path: &Path) -> Result<PackageInfo, KernelError> {
    let mut archive = tar::Archive::new(member(path, "control.tar")?);
    let packed = |e| KernelError::packed(path, "its control.tar", &e);
    for entry in archive.entries().map_err(packed)?.raw(true) {
        let entry = entry.map_err(packed)?;
        if entry.path_bytes().strip_prefix(b"./").unwrap_or(&entry.path_bytes()) == b"control" {
            let mut text = Vec::new();
            entry.take(MAX_CONTROL).read_to_end(&mut text).map_err(packed)?;
            return parse_control(path, &String::from_utf8_lossy(&text));
        }
    }
    Err(KernelError::damaged(path, "its control.tar has no control file"))
}

fn parse_control(path: &Path, text: &str) -> Result<PackageInfo, KernelError> {
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or_default().trim().to_owned()
    };
    let architecture = field("Architecture");
    if !matches!(architecture.as_str(), "amd64" | "all") {
        return Err(KernelError::NotAKernel {
            path: path.to_owned(),
            found: format!("a package for {architecture:?}"),
            advice: "give the package for amd64",
        });
    }
    let depends = field("Depends").split(',').filter_map(parse_dependency).collect();
    Ok(PackageInfo { name: field("Package"), version: field("Version"), depends })
}

/// The first alternative of one dependency.
fn parse_dependency(text: &str) -> Option<Dependency> {
    let first = text.split('|').next()?.trim();
    let (name, rest) = first.split_once(' ').unwrap_or((first, ""));
    let version =
        rest.strip_prefix("(=").and_then(|v| v.strip_suffix(')')).map(|v| v.trim().to_owned());
    (!name.is_empty()).then(|| Dependency { name: name.to_owned(), version })
}

/// Unpacks the kernel's files.
pub(crate) fn unpack(path: &Path, tree: &mut Tree<'_>) -> Result<(), KernelError> {
    let mut archive = tar::Archive::new(member(path, "data.tar")?);
    let packed = |e| KernelError::packed(path, "its data.tar", &e);
    // Entries are taken raw so that a long name can't ask for any amount of memory.
    let mut long_name: Option<Vec<u8>> = None;
    for entry in archive.entries().map_err(packed)?.raw(true) {
        let mut entry = entry.map_err(packed)?;
        let kind = entry.header().entry_type();
        if kind.is_gnu_longname() || kind.is_pax_local_extensions() {
            let mut bytes = Vec::new();
            entry.by_ref().take(16 * MAX_NAME).read_to_end(&mut bytes).map_err(packed)?;
            long_name = match kind.is_gnu_longname() {
                true => bytes.split(|b| *b == 0).next().map(<[u8]>::to_vec),
                false => tar::PaxExtensions::new(&bytes)
                    .flatten()
                    .find(|field| field.key_bytes() == b"path")
                    .map(|field| field.value_bytes().to_vec()),
            };
            continue;
        }
        if kind.is_gnu_longlink() || kind.is_pax_global_extensions() {
            continue;
        }
        let name = long_name.take().unwrap_or_else(|| entry.path_bytes().into_owned());
        let Some(place) = tree.place(&name)? else { continue };
        if kind.is_file() {
            let size = entry.size();
            tree.write(&place, entry, size)?;
            if tree.is_complete() {
                return Ok(());
            }
        } else if kind.is_hard_link()
            && let Some(target) = entry.link_name_bytes()
            && let Some(from) = tree.place(&target)?
            && from.is_file()
        {
            tree.link(&from, &place)?;
        }
    }
    Ok(())
}

/// Reads the package's changelog, unpacked; `false` when it has none.
pub(crate) fn changelog(path: &Path, each: &mut dyn FnMut(&[u8])) -> Result<bool, KernelError> {
    let mut archive = tar::Archive::new(member(path, "data.tar")?);
    let packed = |e| KernelError::packed(path, "its data.tar", &e);
    for entry in archive.entries().map_err(packed)?.raw(true) {
        let entry = entry.map_err(packed)?;
        if !entry.header().entry_type().is_file() || !is_changelog(&entry.path_bytes()) {
            continue;
        }
        let broken = |e| KernelError::packed(path, "its changelog", &e);
        let (text, _) = compress::unpacked(entry).map_err(broken)?;
        let mut text = text.take(MAX_CHANGELOG);
        let mut chunk = vec![0; 1 << 16];
        loop {
            match text.read(&mut chunk).map_err(broken)? {
                0 => return Ok(true),
                read => each(&chunk[..read]),
            }
        }
    }
    Ok(false)
}

/// `usr/share/doc/PACKAGE/changelog.gz`, or `changelog.Debian.gz`.
fn is_changelog(path: &[u8]) -> bool {
    let path = path.strip_prefix(b"./").unwrap_or(path);
    let inside = path.strip_prefix(b"usr/share/doc/").unwrap_or_default();
    let mut parts = inside.split(|byte| *byte == b'/').skip(1);
    let file = parts.next().unwrap_or_default();
    parts.next().is_none() && matches!(file, b"changelog.gz" | b"changelog.Debian.gz")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_fields() {
        let text = "Package: linux-image-cloud-amd64\nVersion: 6.1.192-2\nArchitecture: amd64\n\
                    Depends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2), kmod, a (>= 2) | b\nSize: 1\n";
        let info = parse_control(Path::new("p"), text).unwrap();
        assert_eq!(
            (info.name.as_str(), info.version.as_str()),
            ("linux-image-cloud-amd64", "6.1.192-2")
        );
        let depends: Vec<_> = info
            .depends
            .iter()
            .map(|d| (d.name.as_str(), d.version.as_deref(), d.is_kernel_part()))
            .collect();
        assert_eq!(
            depends,
            [
                ("linux-image-6.1.0-56-cloud-amd64", Some("6.1.192-2"), true),
                ("kmod", None, false),
                ("a", None, false)
            ]
        );
    }
}
