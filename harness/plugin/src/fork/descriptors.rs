//! What a new process has other descriptors for.
#![expect(unsafe_code, reason = "plain system calls on descriptors that QEMU owns")]

use std::fs;
use std::os::fd::RawFd;

/// What has to be other in a new process.
pub(super) struct Descriptors {
    replaced: Vec<Replaced>,
    events: Vec<Event>,
}

/// A descriptor of what the caller replaces.
struct Replaced {
    fd: RawFd,
    /// Its status flags.
    flags: i32,
    /// Which of the new ones takes its place.
    by: usize,
}

/// A descriptor by which QEMU wakes its own threads.
struct Event {
    fd: RawFd,
    flags: i32,
    /// It has been told, and nobody has heard yet.
    told: bool,
}

impl Descriptors {
    /// Finds all descriptors of what is behind those in `replace`, and all that only QEMU has.
    pub(super) fn find(replace: &[RawFd]) -> Result<Self, String> {
        let broken = |e: std::io::Error| format!("read /proc/self/fd: {e}");
        let behind = replace
            .iter()
            .map(|&fd| identity(fd).ok_or_else(|| format!("descriptor {fd} is not open")))
            .collect::<Result<Vec<_>, _>>()?;
        let (mut replaced, mut events) = (Vec::new(), Vec::new());
        for entry in fs::read_dir("/proc/self/fd").map_err(broken)? {
            let entry = entry.map_err(broken)?;
            let Ok(fd) = entry.file_name().to_string_lossy().parse() else { continue };
            // The one that reads the directory is closed by then.
            let Ok(name) = fs::read_link(entry.path()) else { continue };
            // SAFETY: asks only.
            let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
            let same = identity(fd).and_then(|this| behind.iter().position(|&b| b == this));
            if let Some(by) = same {
                replaced.push(Replaced { fd, flags, by });
                continue;
            }
            match name.to_string_lossy().strip_prefix("anon_inode:") {
                Some("[eventfd]") => events.push(Event { fd, flags, told: false }),
                // Tells each process of its own signals.
                None | Some("[signalfd]") => {}
                Some(other) => return Err(format!("it has an open {other}")),
            }
        }
        Ok(Self { replaced, events })
    }

    /// Notes who has been told something, when nobody can hear or tell any more.
    pub(super) fn look(&mut self) {
        for event in &mut self.events {
            let mut poll = libc::pollfd { fd: event.fd, events: libc::POLLIN, revents: 0 };
            // SAFETY: one structure, which is there.
            event.told = unsafe { libc::poll(&raw mut poll, 1, 0) } == 1;
        }
    }

    /// In the new process: has them be others, and closes one. Allocates nothing.
    pub(super) fn replace(&self, new: &[RawFd], closed: RawFd) -> Result<(), &'static str> {
        let put = |new: RawFd, flags: i32, fd: RawFd| {
            // SAFETY: QEMU goes on with what is behind the number now, as the caller wants it.
            unsafe {
                libc::fcntl(new, libc::F_SETFL, flags) == 0
                    && libc::dup3(new, fd, libc::O_CLOEXEC) == fd
            }
        };
        // SAFETY: these are nobody's but ours.
        let close = |fd| unsafe { libc::close(fd) };
        for Replaced { fd, flags, by } in &self.replaced {
            if !put(new[*by], *flags, *fd) {
                return Err("a descriptor can't be replaced");
            }
        }
        for Event { fd, flags, told } in &self.events {
            // SAFETY: makes a descriptor.
            let new = unsafe { libc::eventfd(u32::from(*told), libc::EFD_CLOEXEC) };
            if new < 0 || !put(new, *flags, *fd) {
                return Err("an event can't be replaced");
            }
            close(new);
        }
        for &fd in new {
            close(fd);
        }
        close(closed);
        Ok(())
    }
}

/// What tells the file behind a descriptor from all others.
fn identity(fd: RawFd) -> Option<(u64, u64)> {
    // SAFETY: all zeroes are a value of this type, and the call fills it in.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let known = unsafe { libc::fstat(fd, &raw mut stat) } == 0;
    known.then_some((stat.st_dev, stat.st_ino))
}
