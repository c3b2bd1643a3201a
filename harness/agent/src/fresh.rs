//! What tells a guest from every other one that began as a copy of the same memory.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd;
use std::sync::OnceLock;

use kgate_model::wire::{Fresh, Trouble};
use rustix::time::{ClockId, Timespec, clock_settime};

use crate::trouble::{failed, refused};

/// Where programs look for the machine's id. D-Bus's own copy, where an image has one, is a link to it.
const MACHINE_ID: &str = "/etc/machine-id";

/// `RNDADDENTROPY` and `RNDRESEEDCRNG` of `linux/random.h`.
const ADD_ENTROPY: libc::Ioctl = 0x4008_5203;
const RESEED: libc::Ioctl = 0x5207;

/// What is written to once it is open: a template opens it beforehand, for a clone has little time.
static RANDOM: OnceLock<File> = OnceLock::new();
static ID: OnceLock<File> = OnceLock::new();

fn random() -> io::Result<&'static File> {
    once(&RANDOM, || File::options().read(true).write(true).open("/dev/urandom"))
}

/// That of the root as it is when this is called first.
fn id() -> io::Result<&'static File> {
    once(&ID, || {
        let _ = fs::create_dir_all("/etc");
        File::options().create(true).append(true).open(MACHINE_ID)
    })
}

fn once(
    file: &'static OnceLock<File>,
    open: impl FnOnce() -> io::Result<File>,
) -> io::Result<&'static File> {
    match file.get() {
        Some(file) => Ok(file),
        None => open().map(|opened| file.get_or_init(|| opened)),
    }
}

/// Prepares a template for the making of its clones, each of which is one of a kind then.
pub(crate) fn get_ready() {
    let _ = (random(), id());
}

/// Makes this guest one of a kind. Its boot id must not have been looked at before.
pub(crate) fn apply(fresh: &Fresh) -> Result<(), Trouble> {
    seed(&fresh.entropy).map_err(|e| failed("seed the random number generator", e))?;
    let time = Timespec {
        tv_sec: (fresh.time_ns / 1_000_000_000).cast_signed(),
        tv_nsec: (fresh.time_ns % 1_000_000_000).cast_signed(),
    };
    clock_settime(ClockId::Realtime, time).map_err(|e| failed("set the clock", e))
}

/// Writes the machine's id where the root of the steps has a place for it.
pub(crate) fn machine_id(fresh: &Fresh) -> Result<(), Trouble> {
    let text = &fresh.machine_id;
    if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(refused(format!("{text:?} is no machine id")));
    }
    let write = |mut file: &File| {
        file.set_len(0)?;
        file.write_all(format!("{text}\n").as_bytes())
    };
    id().and_then(write).map_err(|e| failed(format!("write {MACHINE_ID}"), e))
}

/// Gives the kernel `entropy`, credited in full, and has it make its generators anew.
#[expect(unsafe_code, reason = "rustix has no ioctl of the random device")]
fn seed(entropy: &[u8]) -> io::Result<()> {
    let device = random()?;
    // struct rand_pool_info: bits, bytes, the bytes
    let bits = i32::try_from(entropy.len() * 8).unwrap_or(i32::MAX);
    let mut pool = bits.to_ne_bytes().to_vec();
    pool.extend((bits / 8).to_ne_bytes());
    pool.extend(entropy);
    let result = |code: libc::c_int| {
        if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: the kernel reads two numbers and as many bytes as the second says, all of `pool`.
    result(unsafe { libc::ioctl(device.as_raw_fd(), ADD_ENTROPY, pool.as_ptr()) })
        // SAFETY: this request has no argument.
        .and_then(|()| result(unsafe { libc::ioctl(device.as_raw_fd(), RESEED) }))
}
