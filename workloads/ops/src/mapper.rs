//! The device mapper: a disk behind dm-crypt.
#![expect(unsafe_code, reason = "the device mapper's ioctl")]

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use rustix::io::{Errno, pread, pwrite};

use crate::disk::Disk;
use crate::file::PAGE;
use crate::meter::{During as _, all};
use crate::sys::{OrMissing as _, check, need_root};
use crate::{Error, Meter, Op, Result, Shape};

pub(crate) const OPS: &[Op] = &[
    Op {
        name: "dm-crypt-read",
        summary: "4 KiB read and decrypted by dm-crypt (AES-256-XTS), past the page cache",
        shape: Shape::new(1, 110, 7),
        max_batch: 100_000,
        copies: false,
        run: |meter| transfer(meter, |disk, page, at| pread(disk, page, at)),
    },
    Op {
        name: "dm-crypt-write",
        summary: "4 KiB encrypted by dm-crypt (AES-256-XTS) and written, past the page cache",
        shape: Shape::new(1, 110, 7),
        max_batch: 100_000,
        copies: false,
        run: |meter| transfer(meter, |disk, page, at| pwrite(disk, page, at)),
    },
];

/// What a disk reads and writes directly has to be aligned.
#[repr(C, align(4096))]
struct Page([u8; PAGE]);

/// Moves one page after the other of a small encrypted disk.
fn transfer(
    meter: &mut Meter,
    one: fn(&File, &mut [u8], u64) -> rustix::io::Result<usize>,
) -> Result<()> {
    const PAGES: u64 = 64;
    let encrypted = Encrypted::new()?;
    let disk = encrypted.open()?;
    let mut page = Box::new(Page([7; PAGE]));
    // What was never written costs nothing to read.
    for number in 0..PAGES {
        let written = pwrite(&disk, &page.0, number * PAGE as u64).during("pwrite to dm-crypt")?;
        all("pwrite to dm-crypt", PAGE, written)?;
    }
    let mut next = 0;
    meter.each(|| {
        next = (next + 1) % PAGES;
        let moved = one(&disk, &mut page.0, next * PAGE as u64).during("transfer by dm-crypt")?;
        all("transfer by dm-crypt", PAGE, moved)
    })
}

/// A disk of its own and what encrypts it, gone when dropped.
struct Encrypted {
    control: File,
    name: String,
    device: PathBuf,
    // Dropped when nothing is above it any more.
    _disk: Disk,
}

/// The ioctls of `linux/dm-ioctl.h`, which all take a `struct dm_ioctl`.
const fn request(command: libc::Ioctl) -> libc::Ioctl {
    0xc138_fd00 | command
}
const CREATE: libc::Ioctl = request(3);
const REMOVE: libc::Ioctl = request(4);
const RESUME: libc::Ioctl = request(6);
const LOAD: libc::Ioctl = request(9);

/// `struct dm_ioctl`: its size, and where in it is what is used here.
const HEADER: usize = 312;
const TARGETS: usize = 20;
const NUMBER: usize = 40;
const NAME: usize = 48;

impl Encrypted {
    fn new() -> Result<Self> {
        const MEBIBYTES: u32 = 4;
        const MISSING: &str = "this kernel has no dm-crypt with AES-XTS, or is older than 5.9";
        need_root()?;
        let disk = Disk::new(MEBIBYTES)?;
        let control = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/mapper/control")
            .during("open /dev/mapper/control")
            .or_missing(&[Errno::NOENT, Errno::NODEV], "this kernel has no device mapper")?;
        let name = format!("kgate-ops-{}", std::process::id());
        let mut encrypted = Self { control, name, device: PathBuf::new(), _disk: disk };
        let made = encrypted.ask(CREATE, &[], "DM_DEV_CREATE")?;
        // Encoded as for stat: the minor number's lower 8 bits come first, the others from bit 20.
        let number = u64::from_ne_bytes(made);
        let minor = number & 0xff | number >> 12 & 0xfff_ff00;
        encrypted.device = format!("/dev/dm-{minor}").into();

        let sectors = u64::from(MEBIBYTES) << 11;
        // Encrypted and decrypted by who asks, as servers with fast disks have it, from Linux 5.9 on.
        let parameters = format!(
            "aes-xts-plain64 {}{} 0 {} 0 2 no_read_workqueue no_write_workqueue",
            "07".repeat(32),
            "08".repeat(32),
            encrypted._disk.device.display()
        );
        // struct dm_target_spec: first sector, sectors, status, next, type; then the parameters
        let mut target = [0_u64.to_ne_bytes(), sectors.to_ne_bytes(), [0; 8]].concat();
        target.extend(*b"crypt\0\0\0\0\0\0\0\0\0\0\0");
        target.extend(parameters.as_bytes());
        target.resize((target.len() + 1).next_multiple_of(8), 0);
        encrypted
            .ask(LOAD, &target, "DM_TABLE_LOAD")
            .or_missing(&[Errno::INVAL, Errno::NOENT], MISSING)?;
        encrypted.ask(RESUME, &[], "DM_DEV_SUSPEND")?;
        Ok(encrypted)
    }

    /// Has something done to the device; gives its number.
    fn ask(&self, request: libc::Ioctl, target: &[u8], call: &'static str) -> Result<[u8; 8]> {
        let mut bytes = vec![0; HEADER];
        let size = HEADER + target.len();
        // Version 4.0.0, size of all, where the data begin, targets
        for (at, value) in
            [(0, 4), (12, size), (16, HEADER), (TARGETS, usize::from(!target.is_empty()))]
        {
            bytes[at..at + 4].copy_from_slice(&(value as u32).to_ne_bytes());
        }
        bytes[NAME..NAME + self.name.len()].copy_from_slice(self.name.as_bytes());
        bytes.extend(target);
        // SAFETY: the kernel reads and writes as many bytes as they say of themselves.
        check(unsafe { libc::ioctl(self.control.as_raw_fd(), request, bytes.as_mut_ptr()) }, call)?;
        let mut number = [0; 8];
        number.copy_from_slice(&bytes[NUMBER..NUMBER + 8]);
        Ok(number)
    }

    /// The device, past the page cache.
    fn open(&self) -> Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(&self.device)
            .during("open of a dm-crypt device")
    }
}

impl Drop for Encrypted {
    fn drop(&mut self) {
        // A host's udev looks at what was written to, for a moment.
        for _ in 0..100 {
            match self.ask(REMOVE, &[], "DM_DEV_REMOVE") {
                Err(Error::Call { errno: Errno::BUSY, .. }) => sleep(Duration::from_millis(10)),
                _ => break,
            }
        }
    }
}
