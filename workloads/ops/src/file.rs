//! Files: names, directories and the page cache.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, RawDir, fstat, open, rename, stat, statfs, unlink};
use rustix::io::{Errno, pread, pwrite};

use crate::meter::{During as _, all};
use crate::{Error, Meter, Op, Result, Shape};

pub(crate) const OPS: &[Op] = &[
    Op {
        name: "open-close",
        summary: "open and close of a file three directories deep",
        shape: Shape::new(16, 120, 8),
        max_batch: 1_000_000,
        copies: false,
        run: |meter| {
            let scratch = Scratch::new(meter.dir())?;
            let path = scratch.file(0)?;
            meter.each(|| open(&path, OFlags::RDONLY, Mode::empty()).during("open").map(drop))
        },
    },
    Op {
        name: "stat",
        summary: "stat of a file three directories deep",
        shape: Shape::new(20, 120, 8),
        max_batch: 1_000_000,
        copies: false,
        run: |meter| {
            let scratch = Scratch::new(meter.dir())?;
            let path = scratch.file(0)?;
            meter.each(|| stat(&path).during("stat").map(drop))
        },
    },
    Op {
        name: "create-unlink",
        summary: "creation, close and unlink of an empty file",
        shape: Shape::new(6, 120, 8),
        max_batch: 1_000_000,
        copies: false,
        run: |meter| {
            let scratch = Scratch::new(meter.dir())?;
            let path = scratch.inner.join("new");
            meter.each(|| {
                open(&path, CREATE, Mode::RUSR | Mode::WUSR).during("open O_CREAT").map(drop)?;
                unlink(&path).during("unlink")
            })
        },
    },
    Op {
        name: "rename",
        summary: "rename of a file within a directory",
        shape: Shape::new(10, 120, 8),
        max_batch: 1_000_000,
        copies: false,
        run: |meter| {
            let scratch = Scratch::new(meter.dir())?;
            let (mut from, mut to) = (scratch.file(0)?, scratch.inner.join("other"));
            meter.each(|| {
                rename(&from, &to).during("rename")?;
                std::mem::swap(&mut from, &mut to);
                Ok(())
            })
        },
    },
    Op {
        name: "readdir",
        summary: "open, getdents64 and close of a directory of 64 files",
        shape: Shape::new(5, 115, 8),
        max_batch: 100_000,
        copies: false,
        run: readdir,
    },
    Op {
        name: "page-cache-read",
        summary: "pread of 4 KiB out of the page cache",
        shape: Shape::new(30, 115, 8),
        max_batch: 1_000_000,
        copies: true,
        run: |meter| {
            let scratch = Scratch::new(meter.dir())?;
            let file = scratch.open(CACHED)?;
            let (mut page, mut pages) = ([0; PAGE], Pages::default());
            meter.each(|| {
                all("pread", PAGE, pread(&file, &mut page, pages.next_offset()).during("pread")?)
            })
        },
    },
    Op {
        name: "page-cache-write",
        summary: "pwrite of 4 KiB over what the page cache holds",
        shape: Shape::new(30, 105, 7),
        max_batch: 1_000_000,
        copies: true,
        run: |meter| {
            let scratch = Scratch::new(meter.dir())?;
            let file = scratch.open(CACHED)?;
            let (page, mut pages) = ([7; PAGE], Pages::default());
            meter.each(|| {
                all("pwrite", PAGE, pwrite(&file, &page, pages.next_offset()).during("pwrite")?)
            })
        },
    },
];

pub(crate) const CREATE: OFlags = OFlags::RDWR.union(OFlags::CREATE).union(OFlags::EXCL);
pub(crate) const PAGE: usize = 4096;
/// Size of the file that page cache operations go through: small enough for any guest.
pub(crate) const CACHED: u64 = 1 << 20;
/// Entries of the directory that `readdir` reads.
const ENTRIES: usize = 64;

/// Offsets of the cached file's pages, one after the other, again and again.
#[derive(Default)]
pub(crate) struct Pages(u64);

impl Pages {
    pub(crate) fn next_offset(&mut self) -> u64 {
        let offset = self.0;
        self.0 = (offset + PAGE as u64) % CACHED;
        offset
    }
}

fn readdir(meter: &mut Meter) -> Result<()> {
    let scratch = Scratch::new(meter.dir())?;
    for n in 0..ENTRIES {
        let path = scratch.inner.join(format!("entry-{n:02}"));
        open(&path, CREATE, Mode::RUSR).during("open O_CREAT")?;
    }
    let mut buffer = [MaybeUninit::uninit(); 8192];
    meter.each(|| {
        let dir = open(&scratch.inner, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
            .during("open O_DIRECTORY")?;
        let mut entries = RawDir::new(dir, &mut buffer);
        let mut seen = 0;
        while let Some(entry) = entries.next() {
            entry.during("getdents64")?;
            seen += 1;
        }
        // The files, and "." and "..".
        if seen == ENTRIES + 2 {
            Ok(())
        } else {
            Err(Error::Wrong { call: "getdents64", what: "wrong number of entries" })
        }
    })
}

/// A directory of our own, three deep, removed with everything in it when dropped.
pub(crate) struct Scratch {
    top: PathBuf,
    pub(crate) inner: PathBuf,
}

impl Scratch {
    pub(crate) fn new(dir: Option<&Path>) -> Result<Self> {
        let root = match dir {
            Some(dir) => dir,
            None => tmpfs().ok_or(Error::Missing(
                "no writable tmpfs at /dev/shm, /run or /tmp; name a directory with --dir",
            ))?,
        };
        let top = root.join(format!("kgate-ops-{}", std::process::id()));
        let inner = top.join("a/b");
        std::fs::create_dir_all(&inner).during("mkdir")?;
        Ok(Self { top, inner })
    }

    /// A new file of `size` bytes, all of them in the page cache.
    pub(crate) fn open(&self, size: u64) -> Result<OwnedFd> {
        let file = open(self.inner.join("file"), CREATE, Mode::RUSR | Mode::WUSR)
            .during("open O_CREAT")?;
        for offset in (0..size).step_by(PAGE) {
            all("pwrite", PAGE, pwrite(&file, &[1; PAGE], offset).during("pwrite")?)?;
        }
        let is = fstat(&file).during("fstat")?.st_size;
        if u64::try_from(is).is_ok_and(|is| is == size) {
            Ok(file)
        } else {
            Err(Error::Wrong { call: "fstat", what: "the file has another size than was written" })
        }
    }

    /// Path of a new file of `size` bytes.
    pub(crate) fn file(&self, size: u64) -> Result<PathBuf> {
        self.open(size)?;
        Ok(self.inner.join("file"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.top);
    }
}

/// The first tmpfs that may be written to: there nothing but the VFS and memory is measured.
fn tmpfs() -> Option<&'static Path> {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    ["/dev/shm", "/run", "/tmp"].into_iter().map(Path::new).find(|path| {
        statfs(*path).is_ok_and(|fs| fs.f_type == TMPFS_MAGIC)
            && match rustix::fs::access(*path, rustix::fs::Access::WRITE_OK) {
                Ok(()) => true,
                // A kernel without `access` would answer everything else the same way.
                Err(errno) => errno == Errno::NOSYS,
            }
    })
}
