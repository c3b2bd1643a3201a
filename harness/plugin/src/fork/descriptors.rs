//! What a new process has other descriptors for.
#![expect(unsafe_code, reason = "plain system calls on descriptors that QEMU owns")]

use std::fs;
use std::os::fd::RawFd;
use std::path::PathBuf;

use super::threads::Failure;

/// What tells the file behind a descriptor from all others.
pub(super) type Identity = (u64, u64);

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
    /// Finds all descriptors of what is behind those in `replace`, and all that only QEMU has. Some others
    /// it has, but leaves `unused`.
    pub(super) fn find(
        replace: &[RawFd],
        unused: impl Fn(RawFd, Identity) -> bool,
    ) -> Result<Self, String> {
        let behind = replace
            .iter()
            .map(|&fd| identity(fd).ok_or_else(|| format!("descriptor {fd} is not open")))
            .collect::<Result<Vec<_>, _>>()?;
        let (mut replaced, mut events) = (Vec::new(), Vec::new());
        for (fd, this) in open()? {
            // SAFETY: asks only.
            let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
            if let Some(by) = behind.iter().position(|&b| b == this) {
                replaced.push(Replaced { fd, flags, by });
                continue;
            }
            let name = fs::read_link(path("fd", fd)).unwrap_or_default();
            match &*name.to_string_lossy() {
                "anon_inode:[eventfd]" => events.push(Event { fd, flags, told: false }),
                // It tells each process of its own signals.
                "anon_inode:[signalfd]" => {}
                // QEMU makes some that it has no use for.
                "anon_inode:[eventpoll]" if watches_nothing(fd) => {}
                name if name.starts_with("anon_inode:")
                    || name.starts_with("socket:") && !unused(fd, this) =>
                {
                    return Err(format!("it has an open {name}"));
                }
                _ => {}
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

    /// In the new process: has them be others, and closes one. All of one file are one from then on.
    pub(super) fn replace(&self, new: &[RawFd], closed: RawFd) -> Result<(), Failure> {
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
                return Err(Failure::now("a descriptor can't be replaced"));
            }
        }
        for Event { fd, flags, told } in &self.events {
            // SAFETY: makes a descriptor.
            let new = unsafe { libc::eventfd(u32::from(*told), libc::EFD_CLOEXEC) };
            if new < 0 || !put(new, *flags, *fd) {
                return Err(Failure::now("an event can't be replaced"));
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

/// All descriptors, and what is behind them.
pub(super) fn open() -> Result<Vec<(RawFd, Identity)>, String> {
    let broken = |e: std::io::Error| format!("read /proc/self/fd: {e}");
    let mut open = Vec::new();
    for entry in fs::read_dir("/proc/self/fd").map_err(broken)? {
        let name = entry.map_err(broken)?.file_name();
        let fd = name.to_string_lossy().parse().ok();
        open.extend(fd.and_then(|fd| Some((fd, identity(fd)?))));
    }
    Ok(open)
}

fn path(directory: &str, fd: RawFd) -> PathBuf {
    format!("/proc/self/{directory}/{fd}").into()
}

/// Whether nothing is registered with an epoll.
fn watches_nothing(fd: RawFd) -> bool {
    fs::read_to_string(path("fdinfo", fd)).is_ok_and(|text| !text.contains("tfd:"))
}

fn identity(fd: RawFd) -> Option<Identity> {
    // SAFETY: all zeroes are a value of this type, and the call fills it in.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let known = unsafe { libc::fstat(fd, &raw mut stat) } == 0;
    known.then_some((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use rustix::event::{EventfdFlags, epoll, eventfd};

    use super::*;

    #[test]
    fn what_has_to_be_other_is_found() {
        let (replaced, other) = UnixStream::pair().unwrap();
        let twice = replaced.try_clone().unwrap();
        let event = eventfd(1, EventfdFlags::empty()).unwrap();
        let watch = epoll::create(epoll::CreateFlags::empty()).unwrap();
        let [ours, theirs] = [&replaced, &other].map(AsRawFd::as_raw_fd);

        let mut found = Descriptors::find(&[ours], |_, _| true).unwrap();
        let mut fds: Vec<_> = found.replaced.iter().map(|r| (r.fd, r.by)).collect();
        fds.sort_unstable();
        let mut expected = vec![(ours, 0), (twice.as_raw_fd(), 0)];
        expected.sort_unstable();
        assert_eq!(fds, expected);
        found.look();
        let told = found.events.iter().find(|e| e.fd == event.as_raw_fd()).unwrap();
        assert!(told.told);

        let refused = |unused: &dyn Fn(RawFd, Identity) -> bool| {
            Descriptors::find(&[ours], unused).err().unwrap()
        };
        assert!(refused(&|fd, _| fd != theirs).starts_with("it has an open socket:"));
        let data = epoll::EventData::new_u64(0);
        epoll::add(&watch, &other, data, epoll::EventFlags::IN).unwrap();
        assert_eq!(refused(&|_, _| true), "it has an open anon_inode:[eventpoll]");
    }
}
