//! The byte stream to the controller: a virtio-serial port, a serial line, or standard input and
//! output.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::termios;

/// Name of the virtio-serial port that the controller attaches.
pub(crate) const PORT: &str = "org.kgate.agent";

/// How long the port may take to appear after its driver was loaded.
const APPEARS_WITHIN: Duration = Duration::from_secs(5);

/// A virtio-serial port whose host end stays closed for so long has no controller any more.
const ABANDONED_AFTER: Duration = Duration::from_secs(30);

/// Both directions of the stream.
pub(crate) struct Channel {
    reader: OwnedFd,
    writer: OwnedFd,
    /// A virtio-serial port reads as ended while no host is connected, and works again after.
    reconnects: bool,
}

impl Channel {
    /// A stream of two descriptors, in blocking mode.
    pub(crate) fn new(reader: OwnedFd, writer: OwnedFd) -> Self {
        Self { reader, writer, reconnects: false }
    }

    /// Finds the port named [`PORT`] and opens it.
    pub(crate) fn virtio() -> Result<Self, String> {
        let deadline = Instant::now() + APPEARS_WITHIN;
        loop {
            if let Some(device) = find_port() {
                match open(&device) {
                    Ok(reader) => {
                        let writer = reader.try_clone().map_err(|e| format!("{e}"))?;
                        return Ok(Self { reader, writer, reconnects: true });
                    }
                    // devtmpfs makes the node in a thread of its own.
                    Err(_) if Instant::now() < deadline => {}
                    Err(e) => return Err(format!("open {}: {e}", device.display())),
                }
            }
            if Instant::now() >= deadline {
                return Err(format!("no virtio-serial port named {PORT}"));
            }
            std::thread::sleep(Duration::from_micros(500));
        }
    }

    /// Opens a serial line and makes it carry plain bytes.
    pub(crate) fn serial(path: &str) -> Result<Self, String> {
        let reader = open(Path::new(path)).map_err(|e| format!("open {path}: {e}"))?;
        let raw = || -> rustix::io::Result<()> {
            let mut settings = termios::tcgetattr(&reader)?;
            settings.make_raw();
            settings.set_speed(115_200)?;
            termios::tcsetattr(&reader, termios::OptionalActions::Flush, &settings)
        };
        raw().map_err(|e| format!("set up {path}: {e}"))?;
        let writer = reader.try_clone().map_err(|e| format!("{e}"))?;
        Ok(Self { reader, writer, reconnects: false })
    }

    /// Reads some bytes into `buffer`. `Ok(0)` is the end of the stream; `reconnected` is called
    /// when bytes after this point come from another controller.
    pub(crate) fn read(
        &self,
        buffer: &mut [u8],
        mut reconnected: impl FnMut(),
    ) -> io::Result<usize> {
        let mut abandoned = None;
        loop {
            match rustix::io::read(&self.reader, &mut *buffer) {
                Ok(0) if self.reconnects => {
                    let deadline = *abandoned.get_or_insert_with(|| {
                        reconnected();
                        Instant::now() + ABANDONED_AFTER
                    });
                    if Instant::now() >= deadline {
                        return Ok(0);
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => wait(&self.reader, PollFlags::IN),
                other => return Ok(other?),
            }
        }
    }

    /// Writes all of `bytes`.
    pub(crate) fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match rustix::io::write(&self.writer, bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => wait(&self.writer, PollFlags::OUT),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

/// The other side of a pipe may have made it non-blocking, which we share.
fn wait(fd: &OwnedFd, flags: PollFlags) {
    let _ = poll(&mut [PollFd::new(fd, flags)], None);
}

fn open(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
}

fn find_port() -> Option<PathBuf> {
    for entry in fs::read_dir("/sys/class/virtio-ports").ok()?.flatten() {
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim_end() == PORT {
            return Some(Path::new("/dev").join(entry.file_name()));
        }
    }
    None
}
