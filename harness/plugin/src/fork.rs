//! A fork server: a guest that is stopped goes on in as many other processes as are asked for.
//!
//! `-plugin FILE,control=FD,replace=FD[:FD…]`. What QEMU has translated of the guest it has in each of
//! them, which is most of what an emulated guest's first seconds are spent on.
//!
//! # Control
//! `control` is a stream socket. Each request is one byte that comes with as many descriptors as
//! `replace` names, in its order; in the new process they take the place of those, wherever QEMU has
//! them. The answer is a line: the process's number, or why there is none. The new process is a child of
//! QEMU's parent, which can give it a process group of its own, and is killed when the thread that
//! started QEMU ends.
//!
//! The caller has stopped the guest, has nothing under way, and lets it go on in the new process by
//! whatever it has replaced.
//!
//! # How
//! A process that forks has one thread. So all threads but ours are first held in a signal handler, where
//! the kernel has left all that makes a thread what it was in a frame on its stack. In the new process a
//! thread with the same stack and thread-local storage is made for each, which begins by returning from
//! that handler. A thread that waited in the kernel begins to wait again.
//!
//! # Limits
//! Memory that is shared, and what else could be the same for both processes (an epoll, an io_uring, a
//! virtual machine of KVM's), is refused.

mod descriptors;
mod threads;

use std::fs;
use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use descriptors::Descriptors;
use threads::Parked;

/// What was asked for on the command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// Where requests come from.
    control: RawFd,
    /// What each new process has others for.
    replace: Vec<RawFd>,
}

impl Options {
    /// From the arguments `control` and `replace`.
    pub(crate) fn new(control: &str, replace: &str) -> Result<Self, String> {
        let number = |text: &str| {
            let parsed = text.parse().ok().filter(|&fd: &RawFd| fd >= 0);
            parsed.ok_or_else(|| format!("{text:?} is no descriptor"))
        };
        let replace = replace.split(':').map(number).collect::<Result<_, _>>()?;
        Ok(Self { control: number(control)?, replace })
    }
}

/// Starts to serve, in a thread of its own.
pub(crate) fn install(options: &Options) -> Result<(), String> {
    let failed = |what: &str, e: &dyn std::fmt::Display| format!("{what}: {e}");
    // QEMU's own sandbox can forbid this only together with forking.
    let program = deny(&[libc::SYS_execve, libc::SYS_execveat, libc::SYS_setns], None)?;
    seccompiler::apply_filter_all_threads(&program).map_err(|e| failed("restrict QEMU", &e))?;
    threads::hold_on_request().map_err(|e| failed("handle a signal", &e))?;
    #[expect(unsafe_code, reason = "a descriptor that was inherited")]
    // SAFETY: it was opened for this and is named to nobody else.
    let control = unsafe { UnixStream::from_raw_fd(options.control) };
    let server = Server {
        control,
        replace: options.replace.clone(),
        // Glibc takes this answer for that of an old kernel, and starts threads by `clone`.
        restricted: [
            deny(&[libc::SYS_fork, libc::SYS_vfork, libc::SYS_clone3, libc::SYS_unshare], None)?,
            deny(&[libc::SYS_clone], Some(not_a_thread()?))?,
        ],
        forkable: false,
    };
    let serve = move || server.serve();
    let thread = std::thread::Builder::new().name("fork server".into()).spawn(serve);
    thread.map(drop).map_err(|e| failed("start a thread", &e))
}

/// A filter under which these system calls fail, if the condition holds.
fn deny(calls: &[i64], when: Option<SeccompRule>) -> Result<BpfProgram, String> {
    let rules = || when.clone().into_iter().collect::<Vec<_>>();
    SeccompFilter::new(
        calls.iter().map(|&call| (call, rules())).collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(Errno::NOSYS.raw_os_error().cast_unsigned()),
        TargetArch::x86_64,
    )
    .and_then(BpfProgram::try_from)
    .map_err(|e| format!("make a filter: {e}"))
}

/// Of `clone`: what is made is another process.
fn not_a_thread() -> Result<SeccompRule, String> {
    let thread = libc::CLONE_THREAD as u64;
    let is_none = SeccompCmpOp::MaskedEq(thread);
    SeccompCondition::new(0, SeccompCmpArgLen::Qword, is_none, 0)
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(|e| format!("make a filter: {e}"))
}

/// What serves.
struct Server {
    control: UnixStream,
    replace: Vec<RawFd>,
    /// What new processes are restricted by in addition.
    restricted: [BpfProgram; 2],
    /// All memory goes to a new process.
    forkable: bool,
}

impl Server {
    /// Serves until nobody asks any more.
    fn serve(mut self) {
        threads::block_signals();
        while let Ok(new) = self.request() {
            let answer = match self.fork(&new) {
                Ok(process) => format!("{process}\n"),
                Err(why) => format!("{}\n", why.replace('\n', " ")),
            };
            // They are the new process's alone.
            drop(new);
            if self.control.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }

    /// Waits for a request.
    fn request(&self) -> io::Result<Vec<OwnedFd>> {
        let mut byte = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut byte)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(&self.control, &mut into, &mut ancillary, flags)?;
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let files = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        });
        Ok(files.flatten().collect())
    }

    /// Makes a process of what this one is now, but for these descriptors. Gives its number.
    fn fork(&mut self, new: &[OwnedFd]) -> Result<i32, String> {
        if new.len() != self.replace.len() {
            return Err(format!("{} descriptors for {}", new.len(), self.replace.len()));
        }
        if !self.forkable {
            make_forkable()?;
            self.forkable = true;
        }
        let mut descriptors = Descriptors::find(&self.replace)?;
        let new: Vec<RawFd> = new.iter().map(AsRawFd::as_raw_fd).collect();
        let parent = rustix::process::getppid().ok_or("QEMU's parent is gone")?;
        let (others, name) = (threads::others()?, threads::process_name());
        // From here on one of the others may hold what the heap is locked by.
        let made = Parked::new(&others).and_then(|parked| {
            descriptors.look();
            parked.fork(&name, || {
                let closed = self.control.as_raw_fd();
                descriptors.replace(&new, closed)?;
                threads::belong_to(parent)?;
                self.restricted.iter().try_for_each(|filter| {
                    seccompiler::apply_filter(filter).map_err(|_| "it can't be restricted")
                })
            })
        });
        made.map_err(|why| format!("it can't be forked: {why}"))
    }
}

/// Has all memory be in new processes, too: QEMU takes the guest's out.
fn make_forkable() -> Result<(), String> {
    let text = fs::read_to_string("/proc/self/smaps").map_err(|e| format!("read smaps: {e}"))?;
    for (start, end) in left_out(&text)? {
        #[expect(unsafe_code, reason = "madvise by addresses")]
        // SAFETY: what is in memory stays there.
        let done = unsafe { libc::madvise(start as *mut _, end - start, libc::MADV_DOFORK) };
        if done != 0 {
            return Err(format!("memory can't be forked: {}", io::Error::last_os_error()));
        }
    }
    Ok(())
}

/// Mappings that new processes don't get, in the text of `/proc/PID/smaps`.
fn left_out(smaps: &str) -> Result<Vec<(usize, usize)>, String> {
    let mut found = Vec::new();
    let mut mapping = None;
    for line in smaps.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            let has = |flag| flags.split_ascii_whitespace().any(|f| f == flag);
            if has("sh") && has("wr") {
                return Err("it has memory that is shared".into());
            }
            found.extend(mapping.take().filter(|_| has("dc")));
        } else if let Some((start, rest)) = line.split_once('-')
            && let Some((end, _)) = rest.split_once(' ')
            && let (Ok(start), Ok(end)) =
                (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16))
        {
            mapping = Some((start, end));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_name_descriptors() {
        let options = Options { control: 5, replace: vec![7, 8, 2] };
        assert_eq!(Options::new("5", "7:8:2"), Ok(options));
        for (control, replace) in [("", "7"), ("x", "7"), ("5", ""), ("5", "7:"), ("-1", "7")] {
            assert!(Options::new(control, replace).unwrap_err().ends_with("is no descriptor"));
        }
    }

    #[test]
    fn memory_that_is_left_out_is_found() {
        let smaps = "7f00-7f10 rw-p 00000000 00:01 17 /dev/shm/a-b c\nSize: 4 kB\n\
                     VmFlags: rd wr mr mw me dc\n\
                     7f10-7f20 rw-p 00000000 00:00 0\nVmFlags: rd wr mr mw me\n";
        assert_eq!(left_out(smaps), Ok(vec![(0x7f00, 0x7f10)]));
        let shared = smaps.replace("me\n", "me sh\n");
        assert_eq!(left_out(&shared), Err("it has memory that is shared".into()));
    }
}
