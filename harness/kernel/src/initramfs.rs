//! Writing an initramfs: an uncompressed cpio archive in `newc` format, the same bytes for the
//! same entries.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use cpio::newc::{Builder, ModeFileType, trailer};

use crate::error::KernelError;
use crate::modules::ModuleFile;

/// What a file of the archive holds. Files on disk are read while the archive is written.
#[derive(Clone, Debug)]
pub enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// The bytes of a file on the controller.
    File(PathBuf),
    /// A module, decompressed.
    Module(ModuleFile),
}

#[derive(Clone, Debug)]
enum Kind {
    Dir,
    File(Content),
    Symlink(String),
    Char { major: u32, minor: u32 },
}

#[derive(Clone, Debug)]
struct Entry {
    path: String,
    mode: u32,
    kind: Kind,
}

/// Why an initramfs can't be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitramfsError {
    /// The path is empty, has `..` or a NUL in it, or is too long.
    #[error("{0:?} is not a path that an initramfs can hold")]
    Path(String),
    /// The path is there already.
    #[error("{0:?} is in the initramfs twice")]
    Twice(String),
    /// The file is larger than the format allows, 4 GiB, or changed while it was read.
    #[error("{path}: {detail}")]
    File {
        /// Path on the controller.
        path: String,
        /// What is wrong with it.
        detail: &'static str,
    },
    /// A module can't be read.
    #[error(transparent)]
    Module(#[from] KernelError),
    /// A file can't be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
    /// The archive can't be written.
    #[error("cannot write the initramfs: {0}")]
    Write(#[source] io::Error),
}

/// An initramfs in the making. Parent directories are added by themselves, with mode 0755.
#[derive(Clone, Debug, Default)]
pub struct Initramfs {
    entries: Vec<Entry>,
    paths: BTreeSet<String>,
}

impl Initramfs {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory; one that is there already stays as it is.
    ///
    /// # Errors
    /// [`InitramfsError::Path`], [`InitramfsError::Twice`].
    pub fn dir(&mut self, path: &str, mode: u32) -> Result<&mut Self, InitramfsError> {
        self.add(path, mode, Kind::Dir)
    }

    /// Adds a regular file.
    ///
    /// # Errors
    /// [`InitramfsError::Path`], [`InitramfsError::Twice`].
    pub fn file(
        &mut self,
        path: &str,
        mode: u32,
        content: Content,
    ) -> Result<&mut Self, InitramfsError> {
        self.add(path, mode, Kind::File(content))
    }

    /// Adds a symbolic link to `target`.
    ///
    /// # Errors
    /// [`InitramfsError::Path`], [`InitramfsError::Twice`].
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<&mut Self, InitramfsError> {
        self.add(path, 0o777, Kind::Symlink(target.to_owned()))
    }

    /// Adds a character device.
    ///
    /// # Errors
    /// [`InitramfsError::Path`], [`InitramfsError::Twice`].
    pub fn char_device(
        &mut self,
        path: &str,
        mode: u32,
        major: u32,
        minor: u32,
    ) -> Result<&mut Self, InitramfsError> {
        self.add(path, mode, Kind::Char { major, minor })
    }

    fn add(&mut self, path: &str, mode: u32, kind: Kind) -> Result<&mut Self, InitramfsError> {
        let bad = || InitramfsError::Path(path.to_owned());
        let parts: Vec<_> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        // The kernel's PATH_MAX, and a name that would end the archive.
        if parts.is_empty()
            || parts.contains(&"..")
            || path.contains('\0')
            || path.len() >= 4096
            || parts == ["TRAILER!!!"]
        {
            return Err(bad());
        }
        for depth in 1..parts.len() {
            let parent = parts[..depth].join("/");
            if self.paths.insert(parent.clone()) {
                self.entries.push(Entry { path: parent, mode: 0o755, kind: Kind::Dir });
            }
        }
        let path = parts.join("/");
        if self.paths.insert(path.clone()) {
            self.entries.push(Entry { path, mode: mode & 0o7777, kind });
            return Ok(self);
        }
        let is_dir = self.entries.iter().any(|e| e.path == path && matches!(e.kind, Kind::Dir));
        if is_dir && matches!(kind, Kind::Dir) {
            Ok(self)
        } else {
            Err(InitramfsError::Twice(path))
        }
    }

    /// Writes the archive and gives the writer back.
    ///
    /// # Errors
    /// When a file can't be read, changes meanwhile or is larger than 4 GiB, or writing fails.
    pub fn write<W: Write>(&self, mut out: W) -> Result<W, InitramfsError> {
        for (index, entry) in self.entries.iter().enumerate() {
            let builder = Builder::new(&entry.path).ino(index as u32 + 1).mode(entry.mode);
            out = match &entry.kind {
                Kind::Dir => {
                    let builder = builder.nlink(2).set_mode_file_type(ModeFileType::Directory);
                    write_entry(builder, &[], out)?
                }
                Kind::Symlink(target) => write_entry(
                    builder.set_mode_file_type(ModeFileType::Symlink),
                    target.as_bytes(),
                    out,
                )?,
                Kind::Char { major, minor } => {
                    let builder = builder.rdev_major(*major).rdev_minor(*minor);
                    write_entry(builder.set_mode_file_type(ModeFileType::Char), &[], out)?
                }
                Kind::File(content) => {
                    let builder = builder.set_mode_file_type(ModeFileType::Regular);
                    match content {
                        Content::Bytes(bytes) => write_entry(builder, bytes, out)?,
                        Content::Module(module) => write_entry(builder, &module.read()?, out)?,
                        Content::File(path) => write_file(builder, path, out)?,
                    }
                }
            };
        }
        trailer(out).map_err(InitramfsError::Write)
    }
}

fn write_entry<W: Write>(builder: Builder, bytes: &[u8], out: W) -> Result<W, InitramfsError> {
    let size = u32::try_from(bytes.len()).map_err(|_| InitramfsError::File {
        path: "file".to_owned(),
        detail: "larger than 4 GiB",
    })?;
    let mut writer = builder.write(out, size);
    writer.write_all(bytes).and_then(|()| writer.finish()).map_err(InitramfsError::Write)
}

fn write_file<W: Write>(builder: Builder, path: &PathBuf, out: W) -> Result<W, InitramfsError> {
    let read = |source| InitramfsError::Read { path: path.clone(), source };
    let refuse = |detail| InitramfsError::File { path: path.display().to_string(), detail };
    let mut file = File::open(path).map_err(read)?;
    let metadata = file.metadata().map_err(read)?;
    if !metadata.is_file() {
        return Err(refuse("not a regular file"));
    }
    let size = u32::try_from(metadata.len()).map_err(|_| refuse("larger than 4 GiB"))?;
    let mut writer = builder.write(out, size);
    let mut left = u64::from(size);
    let mut buffer = vec![0; 1 << 16];
    while left > 0 {
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match file.read(&mut buffer[..want]).map_err(read)? {
            0 => return Err(refuse("became shorter while it was read")),
            n => {
                writer.write_all(&buffer[..n]).map_err(InitramfsError::Write)?;
                left -= n as u64;
            }
        }
    }
    writer.finish().map_err(InitramfsError::Write)
}
