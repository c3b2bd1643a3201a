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
//! that handler, with another number. Only threads that wait in the kernel are made so, and begin to wait
//! again: one that works may hold a mutex that knows it by its number.
//!
//! # Limits
//! Memory that is shared, and what else both processes could notice of each other (a socket that QEMU has
//! opened, an epoll in use, an io_uring, a virtual machine of KVM's), is refused. `sched_getcpu` may give the CPU of
//! long ago there, and a shadow stack is not made anew.

mod descriptors;
mod threads;

use std::fs;
use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use descriptors::Descriptors;
use threads::{Failure, Parked};

/// Longest that QEMU's threads have to come to rest, and between two looks.
const WITHIN: Duration = Duration::from_secs(5);
const BREATH: Duration = Duration::from_millis(1);

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
    // QEMU's own sandbox can forbid other programs only together with forking.
    seccompiler::apply_filter_all_threads(&restriction()?)
        .map_err(|e| format!("restrict QEMU: {e}"))?;
    threads::hold_on_request().map_err(|e| format!("handle a signal: {e}"))?;
    #[expect(unsafe_code, reason = "a descriptor that was inherited")]
    // SAFETY: it was opened for this and is named to nobody else.
    let control = unsafe { UnixStream::from_raw_fd(options.control) };
    let server = Server {
        control,
        replace: options.replace.clone(),
        inherited: descriptors::open()?,
        restricted: filter([(libc::SYS_clone, vec![rule(&[not_a_thread()])?])])?,
        forkable: false,
    };
    let serve = move || server.serve();
    let thread = std::thread::Builder::new().name("fork server".into()).spawn(serve);
    thread.map(drop).map_err(|e| format!("start a thread: {e}"))
}

/// What QEMU's sandbox denies a QEMU that may not start processes, but for the one way that is used here.
fn restriction() -> Result<BpfProgram, String> {
    // Glibc takes the answer to `clone3` for that of an old kernel, and starts threads by `clone`.
    let whole = [
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_fork,
        libc::SYS_vfork,
        libc::SYS_clone3,
        libc::SYS_unshare,
        libc::SYS_setns,
    ];
    let otherwise = (SeccompCmpOp::Ne, threads::FORK);
    let mut clone = vec![rule(&[not_a_thread(), otherwise])?];
    for space in [
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWUTS,
    ] {
        let space = u64::from(space.cast_unsigned());
        clone.push(rule(&[(SeccompCmpOp::MaskedEq(space), space)])?);
    }
    filter(whole.map(|call| (call, Vec::new())).into_iter().chain([(libc::SYS_clone, clone)]))
}

/// A filter under which system calls fail, those that have rules only when one of them holds.
fn filter(calls: impl IntoIterator<Item = (i64, Vec<SeccompRule>)>) -> Result<BpfProgram, String> {
    SeccompFilter::new(
        calls.into_iter().collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(Errno::NOSYS.raw_os_error().cast_unsigned()),
        TargetArch::x86_64,
    )
    .and_then(BpfProgram::try_from)
    .map_err(|e| format!("make a filter: {e}"))
}

/// Holds when all of these do, which are about the flags of `clone`.
fn rule(conditions: &[(SeccompCmpOp, u64)]) -> Result<SeccompRule, String> {
    let of_flags = |(op, value): &(_, u64)| {
        SeccompCondition::new(0, SeccompCmpArgLen::Qword, Clone::clone(op), *value)
    };
    let conditions = conditions.iter().map(of_flags).collect::<Result<Vec<_>, _>>();
    conditions.and_then(SeccompRule::new).map_err(|e| format!("make a filter: {e}"))
}

/// What is made is another process.
fn not_a_thread() -> (SeccompCmpOp, u64) {
    (SeccompCmpOp::MaskedEq(libc::CLONE_THREAD as u64), 0)
}

/// What serves.
struct Server {
    control: UnixStream,
    replace: Vec<RawFd>,
    /// What was open before QEMU had opened anything.
    inherited: Vec<(RawFd, descriptors::Identity)>,
    /// What new processes are restricted by in addition.
    restricted: BpfProgram,
    /// All memory goes to a new process.
    forkable: bool,
}

impl Server {
    /// Serves until nobody asks any more, or there is something that can't be done.
    fn serve(mut self) {
        threads::block_signals();
        while let Ok(new) = self.request() {
            let made = self.fork(&new);
            // They are the new process's alone.
            drop(new);
            let told = match &made {
                Ok(process) => writeln!(self.control, "{process}"),
                Err(why) => writeln!(self.control, "{}", why.replace('\n', " ")),
            };
            match made {
                Ok(_) if told.is_ok() => {}
                Ok(process) => return threads::kill(process),
                // A thread may yet come to be held, when others would be.
                Err(_) => return,
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
        let new: Vec<RawFd> = new.iter().map(AsRawFd::as_raw_fd).collect();
        let unused = |fd, identity| self.inherited.contains(&(fd, identity)) || new.contains(&fd);
        let mut descriptors = Descriptors::find(&self.replace, unused)?;
        let parent = rustix::process::getppid().ok_or("QEMU's parent is gone")?;
        let name = threads::process_name();
        let deadline = Instant::now() + WITHIN;
        let made = loop {
            let others = threads::others()?;
            let made = Parked::new(&others).and_then(|parked| {
                let Some(parked) = parked else { return Ok(None) };
                descriptors.look();
                let made = parked.fork(&name, || {
                    let closed = self.control.as_raw_fd();
                    descriptors.replace(&new, closed)?;
                    threads::belong_to(parent)?;
                    seccompiler::apply_filter(&self.restricted)
                        .map_err(|_| Failure::now("it can't be restricted"))
                });
                made.map(Some)
            });
            match made {
                Ok(Some(process)) => break Ok(process),
                Ok(None) if Instant::now() > deadline => {
                    break Err(Failure::of("its threads are never all at rest"));
                }
                // It has only just stopped the guest, or answered.
                Ok(None) => std::thread::sleep(BREATH),
                Err(why) => break Err(why),
            }
        };
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
