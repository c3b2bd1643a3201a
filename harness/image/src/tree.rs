//! A file tree that exists only here: packages are unpacked into it and it is packed from it, so
//! nothing that a package says can reach the controller's own files.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Error, ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use tar::EntryType;

use crate::glob::Globs;

/// Most bytes of all files of one image, unpacked.
const MAX_BYTES: u64 = 4 << 30;
/// Most files, directories and links of one image.
const MAX_NODES: usize = 500_000;
/// Most bytes of a path or of a link's target, as in Linux.
const MAX_PATH: usize = 4095;
/// Most bytes of one component of a path, as in Linux.
const MAX_COMPONENT: usize = 255;
/// Most symbolic links followed on the way to one file, as in Linux.
const MAX_HOPS: usize = 40;

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Dir,
    File(Blob),
    Symlink(PathBuf),
}

/// One file, directory or link. All of them belong to root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// Permission, setuid, setgid and sticky bits.
    pub(crate) mode: u16,
    pub(crate) kind: Kind,
}

/// Where the content of a file lies in the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blob {
    offset: u64,
    len: u64,
}

/// The root of a guest: paths relative to it, each with what stands there.
pub(crate) struct Tree {
    nodes: BTreeMap<PathBuf, Node>,
    spool: Arc<File>,
    used: u64,
}

impl Tree {
    /// An empty root that keeps the content of files in `spool`, an empty file of its own.
    pub(crate) fn new(spool: File) -> Self {
        Self { nodes: BTreeMap::new(), spool: Arc::new(spool), used: 0 }
    }

    /// Everything but the root itself, parents before their children.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (&Path, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_path(), node))
    }

    /// Reads the content of a file.
    pub(crate) fn open(&self, blob: Blob) -> BlobReader {
        BlobReader { spool: Arc::clone(&self.spool), blob }
    }

    /// What `path` leads to through all symbolic links, if anything.
    pub(crate) fn get(&self, path: &Path) -> Option<&Node> {
        match self.walk(path).ok()? {
            Walk::Found(place) => self.nodes.get(&place),
            Walk::Missing(_) => None,
        }
    }

    /// The content of the file at `path`, when there is one of at most `limit` bytes.
    pub(crate) fn read(&self, path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
        match self.get(path) {
            Some(Node { kind: Kind::File(blob), .. }) if blob.len <= limit => {
                let mut bytes = Vec::new();
                self.open(*blob).read_to_end(&mut bytes)?;
                Ok(Some(bytes))
            }
            _ => Ok(None),
        }
    }

    /// Makes a directory at `path`; one that is there only gets the `mode`.
    pub(crate) fn add_dir(&mut self, path: &Path, mode: u16) -> io::Result<()> {
        let place = self.place(path)?;
        match self.nodes.get(&place).map(|node| &node.kind) {
            // A link to a directory stays, as with dpkg: /lib of a package goes to /usr/lib.
            Some(Kind::Symlink(_)) => self.make_dirs(&place).map(drop),
            Some(Kind::File(_)) => Err(conflict(path, "a file", "a directory")),
            Some(Kind::Dir) | None => self.insert(place, mode, Kind::Dir),
        }
    }

    /// Writes a file; one that is there is replaced.
    pub(crate) fn add_file(
        &mut self,
        path: &Path,
        mode: u16,
        content: impl Read,
    ) -> io::Result<()> {
        let mut content = content.take(MAX_BYTES - self.used + 1);
        let mut spool = io::BufWriter::with_capacity(1 << 16, &*self.spool);
        let len = io::copy(&mut content, &mut spool)?;
        spool.flush()?;
        drop(spool);
        if self.used + len > MAX_BYTES {
            return Err(invalid(format!("more than {} GiB unpacked", MAX_BYTES >> 30)));
        }
        let blob = Blob { offset: self.used, len };
        self.used += len;
        self.add_leaf(path, mode, Kind::File(blob))
    }

    /// Makes a symbolic link; a file or link that is there is replaced, a directory stays.
    pub(crate) fn add_symlink(&mut self, path: &Path, target: &Path) -> io::Result<()> {
        let bytes = target.as_os_str().as_bytes();
        if bytes.is_empty() || bytes.len() > MAX_PATH || bytes.contains(&0) {
            return Err(invalid(format!("link {} has no valid target", path.display())));
        }
        let place = self.place(path)?;
        if matches!(self.nodes.get(&place), Some(Node { kind: Kind::Dir, .. })) {
            return Ok(());
        }
        self.insert(place, 0o777, Kind::Symlink(target.to_owned()))
    }

    /// Adds everything in a package's file archive. Device nodes are left out: the guest's
    /// devtmpfs makes them.
    pub(crate) fn unpack(&mut self, data: impl Read) -> io::Result<()> {
        let mut archive = tar::Archive::new(data);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = entry.path()?.into_owned();
            let mode = (entry.header().mode()? & 0o7777) as u16;
            match entry.header().entry_type() {
                EntryType::Directory => self.add_dir(&path, mode)?,
                EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                    self.add_file(&path, mode, &mut entry)?;
                }
                EntryType::Symlink => {
                    let target = entry.link_name()?.ok_or_else(|| no_target(&path))?;
                    self.add_symlink(&path, &target)?;
                }
                EntryType::Link => {
                    let target = entry.link_name()?.ok_or_else(|| no_target(&path))?;
                    let node = self.get(&clean(&target)?).cloned();
                    let Some(Node { mode, kind: kind @ Kind::File(_) }) = node else {
                        return Err(no_target(&path));
                    };
                    self.add_leaf(&path, mode, kind)?;
                }
                EntryType::Char | EntryType::Block | EntryType::Fifo => {}
                other => {
                    let kind = char::from(other.as_byte());
                    return Err(invalid(format!("{} is of type {kind:?}", path.display())));
                }
            }
        }
        Ok(())
    }

    /// Takes out what `globs` match, with everything below it.
    pub(crate) fn prune(&mut self, globs: &Globs) {
        // Parents come before their children, so one look back is enough.
        let mut pruned: Option<PathBuf> = None;
        self.nodes.retain(|path, _| {
            if pruned.as_ref().is_some_and(|pruned| path.starts_with(pruned)) {
                return false;
            }
            let absolute = [b"/", path.as_os_str().as_bytes()].concat();
            let matched = globs.matches(&absolute);
            if matched {
                pruned = Some(path.clone());
            }
            !matched
        });
    }

    fn add_leaf(&mut self, path: &Path, mode: u16, kind: Kind) -> io::Result<()> {
        let place = self.place(path)?;
        if matches!(self.nodes.get(&place), Some(Node { kind: Kind::Dir, .. })) {
            return Err(conflict(path, "a directory", "a file"));
        }
        self.insert(place, mode, kind)
    }

    fn insert(&mut self, place: PathBuf, mode: u16, kind: Kind) -> io::Result<()> {
        if place.as_os_str().is_empty() {
            return match kind {
                // The root itself; its mode is the packer's.
                Kind::Dir => Ok(()),
                _ => Err(conflict(Path::new("/"), "a directory", "a file")),
            };
        }
        if place.as_os_str().len() > MAX_PATH {
            return Err(invalid(format!("path longer than {MAX_PATH} bytes")));
        }
        if self.nodes.len() >= MAX_NODES && !self.nodes.contains_key(&place) {
            return Err(invalid(format!("more than {MAX_NODES} files")));
        }
        self.nodes.insert(place, Node { mode, kind });
        Ok(())
    }

    /// Where `path` really stands: its parents' links followed, missing parents made.
    fn place(&mut self, path: &Path) -> io::Result<PathBuf> {
        let path = clean(path)?;
        let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else {
            return Ok(PathBuf::new());
        };
        Ok(self.make_dirs(parent)?.join(name))
    }

    /// The directory that `path` leads to, made with its parents where it is missing.
    fn make_dirs(&mut self, path: &Path) -> io::Result<PathBuf> {
        loop {
            match self.walk(path)? {
                Walk::Missing(next) => self.insert(next, 0o755, Kind::Dir)?,
                Walk::Found(place) => match self.nodes.get(&place).map(|node| &node.kind) {
                    Some(Kind::Dir) | None => return Ok(place),
                    Some(_) => return Err(conflict(path, "a file", "a directory")),
                },
            }
        }
    }

    /// Follows all links of `path`, also its last, within this root.
    fn walk(&self, path: &Path) -> io::Result<Walk> {
        let mut place = PathBuf::new();
        let mut todo = components(path);
        let mut hops = 0;
        while let Some(part) = todo.pop_front() {
            if part == ".." {
                place.pop();
                continue;
            }
            let next = place.join(&part);
            match self.nodes.get(&next).map(|node| &node.kind) {
                None => return Ok(Walk::Missing(next)),
                Some(Kind::Symlink(target)) => {
                    hops += 1;
                    if hops > MAX_HOPS {
                        return Err(invalid(format!("too many links at /{}", next.display())));
                    }
                    if target.is_absolute() {
                        place.clear();
                    }
                    let rest = std::mem::replace(&mut todo, components(target));
                    todo.extend(rest);
                }
                Some(Kind::File(_)) if !todo.is_empty() => {
                    return Err(conflict(&next, "a file", "a directory"));
                }
                Some(_) => place = next,
            }
        }
        Ok(Walk::Found(place))
    }
}

/// Where a walk along a path ends.
enum Walk {
    /// At this place; the empty path is the root.
    Found(PathBuf),
    /// Before this place, where nothing stands.
    Missing(PathBuf),
}

/// Reads one file's content out of the spool.
#[derive(Debug)]
pub(crate) struct BlobReader {
    spool: Arc<File>,
    blob: Blob,
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.blob.len).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let got = self.spool.read_at(&mut buffer[..want], self.blob.offset)?;
        if got == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.blob.offset += got as u64;
        self.blob.len -= got as u64;
        Ok(got)
    }
}

/// The parts of a path that move: `..` stays, `.` and `/` go.
fn components(path: &Path) -> VecDeque<std::ffi::OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(part) => Some(part.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

/// A package's path relative to the root.
fn clean(path: &Path) -> io::Result<PathBuf> {
    let bytes = path.as_os_str().as_bytes();
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                return Err(invalid(format!("path {} climbs with `..`", path.display())));
            }
            Component::Normal(part) => out.push(part),
            _ => {}
        }
    }
    let too_long = |part: &OsStr| part.len() > MAX_COMPONENT;
    if bytes.contains(&0) || bytes.len() > MAX_PATH || out.iter().any(too_long) {
        return Err(invalid("path too long or with a null byte".to_owned()));
    }
    Ok(out)
}

fn conflict(path: &Path, old: &str, new: &str) -> Error {
    invalid(format!("{} is {old} and cannot become {new}", path.display()))
}

fn no_target(path: &Path) -> Error {
    invalid(format!("link {} leads to no file", path.display()))
}

fn invalid(text: String) -> Error {
    Error::new(ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tree() -> Tree {
        Tree::new(tempfile::tempfile().unwrap())
    }

    /// A tar of `(type, path, target or content)`, with the paths put in raw: `tar::Builder`
    /// refuses the hostile ones.
    fn tar(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (kind, path, text) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o4755);
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            let content = if *kind == EntryType::Regular { text.as_bytes() } else { b"" };
            if content.is_empty() {
                header.as_mut_bytes()[157..157 + text.len()].copy_from_slice(text.as_bytes());
            }
            header.set_size(content.len() as u64);
            header.set_cksum();
            builder.append(&header, content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn list(tree: &Tree) -> String {
        let mut out = String::new();
        for (path, node) in tree.nodes() {
            let what = match &node.kind {
                Kind::Dir => "/".to_owned(),
                Kind::Symlink(target) => format!(" -> {}", target.display()),
                Kind::File(blob) => {
                    let mut text = String::new();
                    tree.open(*blob).read_to_string(&mut text).unwrap();
                    format!(" {text:?}")
                }
            };
            out.push_str(&format!("{:04o} {}{what}\n", node.mode, path.display()));
        }
        out
    }

    use EntryType::{Directory as D, Link as H, Regular as F, Symlink as S};

    #[test]
    fn links_of_the_root_are_followed() {
        let mut tree = tree();
        tree.add_dir(Path::new("usr/bin"), 0o755).unwrap();
        tree.add_symlink(Path::new("bin"), Path::new("usr/bin")).unwrap();
        tree.add_symlink(Path::new("var/run"), Path::new("/run")).unwrap();
        let entries = [
            (D, "./", ""),
            (D, "./bin/", ""),
            (F, "./bin/sh", "shell"),
            (H, "./usr/bin/dash", "./bin/sh"),
            (S, "./bin/rbash", "bash"),
            (F, "./var/run/app/pid", "1"),
            (EntryType::Char, "./dev/null", ""),
            (S, "./usr/bin", "elsewhere"),
        ];
        tree.unpack(tar(&entries).as_slice()).unwrap();
        insta::assert_snapshot!(list(&tree), @r#"
        0777 bin -> usr/bin
        0755 run/
        0755 run/app/
        4755 run/app/pid "1"
        0755 usr/
        0755 usr/bin/
        4755 usr/bin/dash "shell"
        0777 usr/bin/rbash -> bash
        4755 usr/bin/sh "shell"
        0755 var/
        0777 var/run -> /run
        "#);
        let shell = tree.read(Path::new("/bin/dash"), 100).unwrap();
        assert_eq!(shell.as_deref(), Some(b"shell".as_slice()));
        assert_eq!(tree.read(Path::new("/bin/dash"), 4).unwrap(), None);
    }

    /// Nothing of this can leave the tree, since the tree is not on a disk; what has no meaning in
    /// it is refused with its name.
    #[test]
    fn hostile_packages_are_refused() {
        let table: &[&[(EntryType, &str, &str)]] = &[
            &[(F, "../../etc/passwd", "x")],
            &[(F, "./usr/../../etc/passwd", "x")],
            &[(H, "a", "../../etc/shadow")],
            &[(H, "a", "/etc/shadow")],
            &[(D, "d", ""), (H, "a", "d")],
            &[(S, "a", "b"), (S, "b", "a"), (F, "a/x", "x")],
            &[(S, "a", "a"), (D, "a", "")],
            &[(F, "a", "x"), (F, "a/b", "x")],
            &[(F, "a", "x"), (D, "a", "")],
            &[(D, "a", ""), (F, "a", "x")],
            &[(F, "/", "x")],
            &[(S, "a", "")],
            &[(EntryType::new(b'Z'), "a", "")],
        ];
        let answers: Vec<String> = table
            .iter()
            .map(|entries| tree().unpack(tar(entries).as_slice()).unwrap_err().to_string())
            .collect();
        insta::assert_snapshot!(answers.join("\n"), @"
        path ../../etc/passwd climbs with `..`
        path ./usr/../../etc/passwd climbs with `..`
        path ../../etc/shadow climbs with `..`
        link a leads to no file
        link a leads to no file
        too many links at /a
        too many links at /a
        a is a file and cannot become a directory
        a is a file and cannot become a directory
        a is a directory and cannot become a file
        / is a directory and cannot become a file
        link a leads to no file
        a is of type 'Z'
        ");
    }

    #[test]
    fn links_out_of_the_root_stay_in_it() {
        let mut tree = tree();
        let entries = [
            (S, "up", "../../../.."),
            (F, "up/a", "a"),
            (S, "abs", "/etc"),
            (F, "abs/passwd", "guest"),
            (F, "/etc/group", "guest"),
        ];
        tree.unpack(tar(&entries).as_slice()).unwrap();
        insta::assert_snapshot!(list(&tree), @r#"
        4755 a "a"
        0777 abs -> /etc
        0755 etc/
        4755 etc/group "guest"
        4755 etc/passwd "guest"
        0777 up -> ../../../..
        "#);
    }

    #[test]
    fn pruning_takes_what_lies_below() {
        let mut tree = tree();
        for file in ["usr/doc/a/b", "usr/docs", "usr/lib/x.a", "usr/lib/x.so"] {
            tree.add_file(Path::new(file), 0o644, io::empty()).unwrap();
        }
        tree.prune(&Globs::new(["/usr/doc", "/usr/lib/*.a"]).unwrap());
        let left: Vec<_> = tree.nodes().map(|(path, _)| path.display().to_string()).collect();
        assert_eq!(left, ["usr", "usr/docs", "usr/lib", "usr/lib/x.so"]);
    }

    proptest! {
        #[test]
        fn every_path_is_clean_whatever_is_unpacked(
            entries in proptest::collection::vec((0..4_usize, "[ab./]{1,12}", "[ab./]{1,12}"), 1..12)
        ) {
            let entries: Vec<_> = entries
                .iter()
                .map(|(kind, path, text)| ([D, F, S, H][*kind], path.as_str(), text.as_str()))
                .collect();
            let mut tree = tree();
            let _ = tree.unpack(tar(&entries).as_slice());
            for (path, _) in tree.nodes() {
                prop_assert!(path.components().all(|part| matches!(part, Component::Normal(_))));
                let parent = path.parent().unwrap();
                prop_assert!(
                    parent.as_os_str().is_empty()
                        || matches!(tree.nodes[parent].kind, Kind::Dir)
                );
            }
        }

        #[test]
        fn no_bytes_make_unpacking_panic(data: Vec<u8>) {
            let _ = tree().unpack(data.as_slice());
        }
    }
}
