//! Where samples go: a file descriptor given by number, or standard output.
#![expect(unsafe_code, reason = "the parent names a descriptor by its number")]

use std::fs::File;
use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{BorrowedFd, FromRawFd, RawFd};

use rustix::fs::OFlags;

/// The sink that samples are written to.
#[derive(Debug)]
pub struct Samples {
    /// Never closed here: the descriptor is the parent's to close.
    out: ManuallyDrop<File>,
    is_stdout: bool,
}

impl Samples {
    /// The descriptor `fd` where it is open for writing, otherwise standard output. To be called
    /// before the program opens anything, or a descriptor of its own could be taken for `fd`.
    pub fn open(fd: RawFd) -> Self {
        let is_stdout = fd == 1 || !is_writable(fd);
        let fd = if is_stdout { 1 } else { fd };
        // SAFETY: `fd` was found open, or is standard output, which the runtime keeps open; it is
        // never closed through this `File`.
        Self { out: ManuallyDrop::new(unsafe { File::from_raw_fd(fd) }), is_stdout }
    }

    /// Whether samples share standard output with the line for people.
    pub fn is_stdout(&self) -> bool {
        self.is_stdout
    }

    /// Writes one sample as one line. `metric` and `unit` are plain words that JSON needs no
    /// escapes for; `value` is finite; lower values are better.
    ///
    /// # Errors
    /// When the descriptor can't be written to.
    pub fn write(&mut self, metric: &str, value: f64, unit: &str) -> io::Result<()> {
        let line = format!(
            "{{\"metric\":\"{metric}\",\"value\":{value},\"unit\":\"{unit}\",\"better\":\"lower\"}}\n"
        );
        self.out.write_all(line.as_bytes())
    }
}

fn is_writable(fd: RawFd) -> bool {
    if fd < 0 {
        return false;
    }
    // SAFETY: used for one system call, which answers EBADF when the descriptor isn't open.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    rustix::fs::fcntl_getfl(fd).is_ok_and(|flags| flags.intersects(OFlags::WRONLY | OFlags::RDWR))
}
