//! File systems below a mount: ext4 and XFS on a disk that is memory, and overlayfs.
//!
//! The base image of a guest can't make file systems, so two empty ones are part of this program:
//! what isn't zero in them, as runs of an offset, a length (both of 32 bits, little-endian) and the
//! bytes. They were made by
//!
//! ```sh
//! truncate -s 16M ext4.img && mke2fs -t ext4 -b 4096 -N 256 -J size=4 -m 0 -O ^resize_inode \
//!   -E lazy_itable_init=0,lazy_journal_init=0,nodiscard ext4.img           # e2fsprogs 1.47.0
//! truncate -s 32M xfs.img && mkfs.xfs --unsupported -d agcount=1 -l size=6m xfs.img # xfsprogs 6.1.0
//! ```
//!
//! The disk is one of `null_blk` that keeps what is written (`memory_backed`) and completes it at
//! once, in the thread that asked.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fsync, ftruncate, open, unlink};
use rustix::io::{Errno, pwrite};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::file::{CREATE, PAGE, Scratch};
use crate::meter::{During as _, all};
use crate::sys::{OrMissing as _, own_mounts};
use crate::{Error, Meter, Op, Result, Shape};

pub(crate) const OPS: &[Op] = &[
    Op {
        name: "overlay-open",
        summary: "open and close of a file in the lower layer of an overlay",
        shape: Shape::new(12, 110, 8),
        max_batch: 1_000_000,
        copies: false,
        run: |meter| {
            let overlay = Overlay::new(1)?;
            let path = overlay.path("0");
            meter.each(|| open(&path, OFlags::RDONLY, Mode::empty()).during("open").map(drop))
        },
    },
    Op {
        name: "overlay-create",
        summary: "creation, close and unlink of a file in an overlay",
        shape: Shape::new(4, 100, 8),
        max_batch: 100_000,
        copies: false,
        run: |meter| {
            let overlay = Overlay::new(0)?;
            create_unlink(meter, &overlay.path("new"))
        },
    },
    Op {
        name: "overlay-copy-up",
        summary: "open to write of a 4 KiB file in the lower layer: a copy to the upper",
        shape: Shape::new(2, 60, 4),
        max_batch: 100,
        copies: false,
        run: |meter| {
            let Shape { batch, batches, warmup } = meter.shape();
            let overlay = Overlay::new(batch * (batches + warmup))?;
            let mut next = 0;
            meter.each(|| {
                let path = overlay.path(&next.to_string());
                next += 1;
                open(&path, OFlags::WRONLY, Mode::empty()).during("open to write").map(drop)
            })
        },
    },
    Op {
        name: "ext4-create",
        summary: "creation, close and unlink of a file on ext4",
        shape: Shape::new(2, 60, 4),
        max_batch: 10_000,
        copies: false,
        run: |meter| {
            let mounted = Mounted::new(&EXT4)?;
            create_unlink(meter, &mounted.at.join("new"))
        },
    },
    Op {
        name: "ext4-write",
        summary: "pwrite of 4 KiB over what the page cache holds of a file on ext4",
        shape: Shape::new(20, 60, 4),
        max_batch: 100_000,
        copies: true,
        run: |meter| write_pages(meter, &EXT4),
    },
    Op {
        name: "ext4-fsync",
        summary: "4 KiB appended to a file on ext4, and fsync",
        shape: Shape::new(1, 50, 4),
        max_batch: 10_000,
        copies: false,
        run: |meter| append_and_sync(meter, &EXT4),
    },
    Op {
        name: "xfs-create",
        summary: "creation, close and unlink of a file on XFS",
        shape: Shape::new(4, 40, 3),
        max_batch: 10_000,
        copies: false,
        run: |meter| {
            let mounted = Mounted::new(&XFS)?;
            create_unlink(meter, &mounted.at.join("new"))
        },
    },
    Op {
        name: "xfs-write",
        summary: "pwrite of 4 KiB over what the page cache holds of a file on XFS",
        shape: Shape::new(20, 60, 4),
        max_batch: 100_000,
        copies: true,
        run: |meter| write_pages(meter, &XFS),
    },
    Op {
        name: "xfs-fsync",
        summary: "4 KiB appended to a file on XFS, and fsync",
        shape: Shape::new(2, 60, 4),
        max_batch: 10_000,
        copies: false,
        run: |meter| append_and_sync(meter, &XFS),
    },
];

fn create_unlink(meter: &mut Meter, path: &Path) -> Result<()> {
    meter.each(|| {
        open(path, CREATE, Mode::RUSR | Mode::WUSR).during("open O_CREAT").map(drop)?;
        unlink(path).during("unlink")
    })
}

/// Writes over the pages of a small file, all of them in the page cache.
fn write_pages(meter: &mut Meter, format: &Format) -> Result<()> {
    const PAGES: u64 = 16;
    let mounted = Mounted::new(format)?;
    let file = mounted.new_file()?;
    (0..PAGES).try_for_each(|page| write_page(&file, page))?;
    fsync(&file).during("fsync")?;
    let mut page = 0;
    meter.each(|| {
        page = (page + 1) % PAGES;
        write_page(&file, page)
    })
}

/// Appends pages and syncs each; the file begins anew when it has become long.
fn append_and_sync(meter: &mut Meter, format: &Format) -> Result<()> {
    const PAGES: u64 = 1024;
    let mounted = Mounted::new(format)?;
    let file = mounted.new_file()?;
    let mut page = 0;
    meter.each(|| {
        if page == PAGES {
            ftruncate(&file, 0).during("ftruncate")?;
            page = 0;
        }
        write_page(&file, page)?;
        page += 1;
        fsync(&file).during("fsync")
    })
}

fn write_page(file: &OwnedFd, page: u64) -> Result<()> {
    all("pwrite", PAGE, pwrite(file, &[7; PAGE], page * PAGE as u64).during("pwrite")?)
}

/// An empty file system.
struct Format {
    name: &'static str,
    mebibytes: u32,
    runs: &'static [u8],
}

const EXT4: Format = Format { name: "ext4", mebibytes: 16, runs: include_bytes!("disk/ext4.runs") };
const XFS: Format = Format { name: "xfs", mebibytes: 32, runs: include_bytes!("disk/xfs.runs") };

impl Format {
    /// What isn't zero: offset and bytes.
    fn parts(&self) -> Vec<(u64, &'static [u8])> {
        let (mut rest, mut parts) = (self.runs, Vec::new());
        while let Some((offset, more)) = rest.split_first_chunk() {
            let Some((size, more)) = more.split_first_chunk() else { break };
            let size = u32::from_le_bytes(*size) as usize;
            let Some((bytes, more)) = more.split_at_checked(size) else { break };
            parts.push((u64::from(u32::from_le_bytes(*offset)), bytes));
            rest = more;
        }
        parts
    }
}

/// A disk of its own, gone when dropped.
pub(crate) struct Disk {
    settings: PathBuf,
    pub(crate) device: PathBuf,
}

impl Disk {
    pub(crate) fn new(mebibytes: u32) -> Result<Self> {
        const MISSING: &str = "no null_blk, whose disks are made here, or no configfs";
        let configfs = Path::new("/sys/kernel/config");
        let none = None::<&std::ffi::CStr>;
        mount("configfs", configfs, "configfs", MountFlags::empty(), none)
            .during("mount of configfs")
            .or_missing(&[Errno::NOENT, Errno::NODEV], MISSING)
            .or_else(|error| if configfs.join("nullb").exists() { Ok(()) } else { Err(error) })?;
        let name = format!("kgate-ops-{}", std::process::id());
        let settings = configfs.join("nullb").join(&name);
        std::fs::create_dir(&settings)
            .during("mkdir of a null_blk disk")
            .or_missing(&[Errno::NOENT, Errno::PERM], MISSING)?;
        let mut disk = Self { settings, device: PathBuf::new() };
        let size = mebibytes.to_string();
        // irqmode 0: completed by who submitted it.
        let settings =
            [("size", &*size), ("blocksize", "512"), ("memory_backed", "1"), ("irqmode", "0")];
        for (setting, value) in settings.into_iter().chain([("power", "1")]) {
            disk.set(setting, value).during("setting of a null_blk disk")?;
        }
        // Named after its settings; by a number before Linux 5.19.
        let index = std::fs::read_to_string(disk.settings.join("index"));
        let index = index.during("index of a null_blk disk")?;
        let names = [name, format!("nullb{}", index.trim())];
        let devices = names.map(|name| Path::new("/dev").join(name));
        disk.device = devices
            .into_iter()
            .find(|device| device.exists())
            .ok_or(Error::Missing("/dev lacks the new disk: no devtmpfs"))?;
        Ok(disk)
    }

    fn set(&self, setting: &str, value: &str) -> std::io::Result<()> {
        OpenOptions::new()
            .write(true)
            .open(self.settings.join(setting))?
            .write_all_at(value.as_bytes(), 0)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.set("power", "0");
        let _ = std::fs::remove_dir(&self.settings);
    }
}

/// A place where something is mounted, in a mount name space of our own.
struct Mounted {
    at: PathBuf,
    // Dropped in this order, once it is unmounted.
    _disk: Option<Disk>,
    _scratch: Scratch,
}

impl Mounted {
    /// A new file system on a disk of its own.
    fn new(format: &Format) -> Result<Self> {
        own_mounts()?;
        let scratch = Scratch::new(None)?;
        let disk = Disk::new(format.mebibytes)?;
        let device =
            OpenOptions::new().write(true).open(&disk.device).during("open of the disk")?;
        for (offset, bytes) in format.parts() {
            device.write_all_at(bytes, offset).during("write to the disk")?;
        }
        device.sync_all().during("fsync of the disk")?;
        drop::<File>(device);
        let none = None::<&std::ffi::CStr>;
        mount(&disk.device, &scratch.inner, format.name, MountFlags::empty(), none)
            .during("mount")
            .or_missing(&[Errno::NODEV], "this kernel has no such file system")?;
        Ok(Self { at: scratch.inner.clone(), _disk: Some(disk), _scratch: scratch })
    }
}

impl Mounted {
    fn new_file(&self) -> Result<OwnedFd> {
        open(self.at.join("file"), CREATE, Mode::RUSR | Mode::WUSR).during("open O_CREAT")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.at, UnmountFlags::empty());
    }
}

/// An overlay whose layers are directories of a tmpfs.
struct Overlay(Mounted);

impl Overlay {
    /// One with files called 0, 1, … of 4 KiB each in the lower layer.
    fn new(files: u32) -> Result<Self> {
        own_mounts()?;
        let scratch = Scratch::new(None)?;
        let [lower, upper, work, merged] =
            ["lower", "upper", "work", "merged"].map(|name| scratch.inner.join(name));
        for directory in [&lower, &upper, &work, &merged] {
            std::fs::create_dir(directory).during("mkdir")?;
        }
        for number in 0..files {
            std::fs::write(lower.join(number.to_string()), [1; PAGE]).during("write")?;
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper.display(),
            work.display()
        );
        let options = std::ffi::CString::new(options)
            .map_err(|_| Error::Wrong { call: "mount", what: "NUL in the path" })?;
        mount("kgate-ops", &merged, "overlay", MountFlags::empty(), &*options)
            .during("mount of an overlay")
            .or_missing(&[Errno::NODEV], "this kernel has no overlayfs")?;
        Ok(Self(Mounted { at: merged, _disk: None, _scratch: scratch }))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.at.join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_systems_are_whole() {
        for format in [EXT4, XFS] {
            let parts = format.parts();
            let packed: usize = parts.iter().map(|(_, bytes)| 8 + bytes.len()).sum();
            assert_eq!(packed, format.runs.len(), "{}", format.name);
            let end = parts.iter().map(|(offset, bytes)| offset + bytes.len() as u64).max();
            assert!(end.unwrap() <= u64::from(format.mebibytes) << 20, "{}", format.name);
        }
        let (offset, bytes) = EXT4.parts()[0];
        // The superblock is at 1024, its magic number 56 further on.
        assert_eq!((offset, &bytes[56..58]), (1024, &[0x53, 0xef][..]));
        assert!(XFS.parts()[0].1.starts_with(b"XFSB"));
    }

    #[test]
    fn ext4_passes_its_check() {
        let path = std::env::temp_dir().join(format!("kgate-ops-ext4-{}", std::process::id()));
        let image = File::create(&path).unwrap();
        image.set_len(u64::from(EXT4.mebibytes) << 20).unwrap();
        for (offset, bytes) in EXT4.parts() {
            image.write_all_at(bytes, offset).unwrap();
        }
        let check = std::process::Command::new("e2fsck").args(["-f", "-n"]).arg(&path).output();
        std::fs::remove_file(&path).unwrap();
        match check {
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout);
                assert!(output.status.success(), "{text}");
            }
            Err(error) => println!("skipped: e2fsck: {error}"),
        }
    }
}
