//! What tells a guest from every other one that began as a copy of the same memory.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::OnceLock;

use kgate_model::wire::{Fresh, Trouble};
use rustix::fs::{Mode, OFlags};
use rustix::time::{ClockId, Timespec, clock_settime};

use crate::trouble::{failed, refused};

/// Where programs look for the machine's id. D-Bus's own copy, where an image has one, is a link to it.
const MACHINE_ID: &str = "/etc/machine-id";

/// `RNDADDENTROPY` and `RNDRESEEDCRNG` of `linux/random.h`.
const ADD_ENTROPY: libc::Ioctl = 0x4008_5203;
const RESEED: libc::Ioctl = 0x5207;

/// What [`apply`] and [`machine_id`] write to, opened beforehand: a clone has little time.
static OPEN: OnceLock<Open> = OnceLock::new();

struct Open {
    random: OwnedFd,
    machine_id: File,
}

impl Open {
    fn new() -> io::Result<Self> {
        let _ = fs::create_dir_all("/etc");
        let machine_id = File::options().create(true).append(true).open(MACHINE_ID)?;
        Ok(Self { random: random()?, machine_id })
    }
}

fn random() -> rustix::io::Result<OwnedFd> {
    rustix::fs::open("/dev/urandom", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

/// Prepares a template for the making of its clones, each of which is one of a kind then.
pub(crate) fn get_ready() {
    if OPEN.get().is_none()
        && let Ok(open) = Open::new()
    {
        let _ = OPEN.set(open);
    }
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
    let id = &fresh.machine_id;
    if id.len() != 32 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(refused(format!("{id:?} is no machine id")));
    }
    let text = format!("{id}\n");
    let written = match OPEN.get() {
        Some(Open { machine_id, .. }) => {
            let mut file = machine_id;
            file.set_len(0).and_then(|()| file.write_all(text.as_bytes()))
        }
        None => {
            let _ = fs::create_dir_all("/etc");
            fs::write(MACHINE_ID, text)
        }
    };
    written.map_err(|e| failed(format!("write {MACHINE_ID}"), e))
}

/// Gives the kernel `entropy`, credited in full, and has it make its generators anew.
#[expect(unsafe_code, reason = "rustix has no ioctl of the random device")]
fn seed(entropy: &[u8]) -> rustix::io::Result<()> {
    let mut opened: Option<OwnedFd> = None;
    let device = match OPEN.get() {
        Some(open) => &open.random,
        None => opened.insert(random()?),
    };
    // struct rand_pool_info: bits, bytes, the bytes
    let bits = i32::try_from(entropy.len() * 8).unwrap_or(i32::MAX);
    let mut pool = bits.to_ne_bytes().to_vec();
    pool.extend((bits / 8).to_ne_bytes());
    pool.extend(entropy);
    let result = |code: libc::c_int| {
        if code < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: the kernel reads two numbers and as many bytes as the second says, all of `pool`.
    result(unsafe { libc::ioctl(device.as_raw_fd(), ADD_ENTROPY, pool.as_ptr()) })
        // SAFETY: this request has no argument.
        .and_then(|()| result(unsafe { libc::ioctl(device.as_raw_fd(), RESEED) }))
        .map_err(|e| rustix::io::Errno::from_io_error(&e).unwrap_or(rustix::io::Errno::IO))
}
