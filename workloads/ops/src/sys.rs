//! System calls that rustix has no wrapper for, with values of Rust as their arguments.
#![expect(unsafe_code, reason = "system calls by hand")]

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::meter::During as _;
use crate::{Error, Result};

/// What the C library or a system call answered: -1 is an error, told by `errno`.
pub(crate) fn check(answer: impl Into<i64>, call: &'static str) -> Result<usize> {
    usize::try_from(answer.into()).map_err(|_| {
        let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
        Error::Call { call, errno }
    })
}

/// The new descriptor that a call answered with.
pub(crate) fn descriptor(answer: impl Into<i64>, call: &'static str) -> Result<OwnedFd> {
    let number = check(answer, call)?;
    // SAFETY: the kernel just made the descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(number as i32) })
}

/// A socket.
pub(crate) fn socket(family: i32, kind: i32, protocol: i32) -> Result<OwnedFd> {
    // SAFETY: touches no memory of ours.
    descriptor(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) }, "socket")
}

/// A copy type of C's, made of numbers, for which all zeroes are a value.
///
/// # Safety
/// That is how the type has to be.
pub(crate) unsafe trait Plain: Copy {}

// SAFETY: numbers, and structures of them.
unsafe impl Plain for u8 {}
// SAFETY: see above.
unsafe impl Plain for i32 {}
// SAFETY: see above.
unsafe impl Plain for u32 {}
// SAFETY: see above.
unsafe impl Plain for libc::sockaddr_in {}
// SAFETY: see above.
unsafe impl Plain for libc::sockaddr_ll {}
// SAFETY: see above.
unsafe impl Plain for libc::sockaddr_alg {}
// SAFETY: the pointer in it may be null.
unsafe impl Plain for libc::sock_fprog {}

/// A value that is all zeroes.
pub(crate) fn zeroed<T: Plain>() -> T {
    // SAFETY: a value of a `Plain` type.
    unsafe { std::mem::zeroed() }
}

/// `setsockopt`.
pub(crate) fn set_option<T: Plain>(
    socket: impl AsFd,
    level: i32,
    option: i32,
    value: &T,
    call: &'static str,
) -> Result<()> {
    set_option_bytes(socket, level, option, std::slice::from_ref(value), call)
}

/// `setsockopt` with a value of any length.
pub(crate) fn set_option_bytes<T: Plain>(
    socket: impl AsFd,
    level: i32,
    option: i32,
    value: &[T],
    call: &'static str,
) -> Result<()> {
    let (at, size) = (value.as_ptr(), size_of_val(value) as u32);
    let socket = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel reads `value`, and what it points to, which outlive the call.
    check(unsafe { libc::setsockopt(socket, level, option, at.cast(), size) }, call).map(drop)
}

/// `bind` to an address of any family.
pub(crate) fn bind<T: Plain>(socket: impl AsFd, address: &T, call: &'static str) -> Result<()> {
    let (at, size) = ((&raw const *address).cast(), size_of::<T>() as u32);
    // SAFETY: the kernel reads `address`, which outlives the call.
    check(unsafe { libc::bind(socket.as_fd().as_raw_fd(), at, size) }, call).map(drop)
}

/// `sendmsg` of `bytes` in one piece, with one control message.
pub(crate) fn send_with<T: Plain>(
    socket: impl AsFd,
    bytes: &[u8],
    (level, kind, control): (i32, i32, &[T]),
    call: &'static str,
) -> Result<usize> {
    let mut space = [0u64; 32];
    let size = size_of_val(control);
    // SAFETY: plain arithmetic.
    let (space_used, length) =
        unsafe { (libc::CMSG_SPACE(size as u32), libc::CMSG_LEN(size as u32)) };
    assert!(space_used as usize <= size_of_val(&space), "a control message is short");
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: an all-zero header is valid; what it then points to lives until the call is over, is
    // large enough, and is only read.
    unsafe {
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = space.as_mut_ptr().cast();
        header.msg_controllen = space_used as usize;
        let message = libc::CMSG_FIRSTHDR(&raw const header);
        (*message).cmsg_level = level;
        (*message).cmsg_type = kind;
        (*message).cmsg_len = length as usize;
        std::ptr::copy_nonoverlapping(control.as_ptr().cast(), libc::CMSG_DATA(message), size);
        check(libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const header, 0) as i64, call)
    }
}

/// Skips the operation unless the process is root's.
pub(crate) fn need_root() -> Result<()> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err(Error::Missing("needs root")) }
}

/// Answers that mean that the kernel lacks something, told in words.
pub(crate) trait OrMissing<T> {
    fn or_missing(self, errnos: &[Errno], what: &'static str) -> Result<T>;
}

impl<T> OrMissing<T> for Result<T> {
    fn or_missing(self, errnos: &[Errno], what: &'static str) -> Self {
        match self {
            Err(Error::Call { errno, .. }) if errnos.contains(&errno) => Err(Error::Missing(what)),
            other => other,
        }
    }
}

/// Leaves a name space (`CLONE_NEW…`) for a new one, which ends with this process.
pub(crate) fn unshare(flags: i32, call: &'static str) -> Result<()> {
    // SAFETY: none of the name spaces hold memory or descriptors.
    check(unsafe { libc::unshare(flags) }, call)
        .or_missing(&[Errno::INVAL, Errno::NOSPC], "this kernel has no such name space")
        .map(drop)
}

/// A mount name space of our own: what is mounted from here on is ours, and ends with us.
pub(crate) fn own_mounts() -> Result<()> {
    use rustix::mount::{MountPropagationFlags, mount_change};
    need_root()?;
    unshare(libc::CLONE_NEWNS, "unshare CLONE_NEWNS")?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .during("mount --make-rprivate")
}
