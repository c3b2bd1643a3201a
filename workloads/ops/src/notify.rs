//! Being told of changes to files: inotify and fanotify.
#![expect(unsafe_code, reason = "fanotify")]

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{Mode, OFlags, inotify, open};
use rustix::io::{Errno, read};

use crate::file::Scratch;
use crate::meter::{During as _, all};
use crate::sys::{OrMissing as _, check, descriptor};
use crate::{Error, Meter, Op, Result, Shape};

pub(crate) const OPS: &[Op] = &[
    Op {
        name: "inotify",
        summary: "open and close of a watched file, and both events read",
        shape: Shape::new(12, 50, 3),
        max_batch: 1_000_000,
        copies: false,
        run: inotify_events,
    },
    Op {
        name: "fanotify",
        summary: "close of a watched file, and its event with a descriptor read",
        shape: Shape::new(12, 50, 3),
        max_batch: 1_000_000,
        copies: false,
        run: fanotify_events,
    },
];

fn inotify_events(meter: &mut Meter) -> Result<()> {
    let scratch = Scratch::new(meter.dir())?;
    let path = scratch.file(0)?;
    let events = inotify::init(inotify::CreateFlags::CLOEXEC).during("inotify_init1")?;
    let flags = inotify::WatchFlags::OPEN | inotify::WatchFlags::CLOSE;
    inotify::add_watch(&events, &scratch.inner, flags).during("inotify_add_watch")?;
    let mut space = [MaybeUninit::uninit(); 1024];
    meter.each(|| {
        open(&path, OFlags::RDONLY, Mode::empty()).during("open").map(drop)?;
        let mut reader = inotify::Reader::new(&events, &mut space);
        let first = reader.next().during("read from inotify")?.events();
        let second = reader.next().during("read from inotify")?.events();
        if first == inotify::ReadFlags::OPEN && second == inotify::ReadFlags::CLOSE_NOWRITE {
            Ok(())
        } else {
            Err(Error::Wrong { call: "read from inotify", what: "told of something else" })
        }
    })
}

fn fanotify_events(meter: &mut Meter) -> Result<()> {
    let scratch = Scratch::new(meter.dir())?;
    let path = scratch.file(0)?;
    let how = libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC;
    // SAFETY: touches no memory of ours.
    let events = unsafe { libc::fanotify_init(how, libc::O_RDONLY as u32) };
    let events = descriptor(events, "fanotify_init")
        .or_missing(&[Errno::NOSYS, Errno::PERM], "no fanotify, or not for us")?;
    let watched = CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::Wrong { call: "fanotify_mark", what: "NUL in the path" })?;
    let (number, add, close) = (events.as_raw_fd(), libc::FAN_MARK_ADD, libc::FAN_CLOSE_NOWRITE);
    // SAFETY: `watched` is a C string that outlives the call.
    let marked =
        unsafe { libc::fanotify_mark(number, add, close, libc::AT_FDCWD, watched.as_ptr()) };
    check(marked, "fanotify_mark")?;
    let mut event = [0; size_of::<libc::fanotify_event_metadata>()];
    meter.each(|| {
        open(&path, OFlags::RDONLY, Mode::empty()).during("open").map(drop)?;
        let got = read(&events, &mut event).during("read from fanotify")?;
        all("read from fanotify", event.len(), got)?;
        // The descriptor comes after two words of lengths and versions and the mask.
        match event[16..20].try_into().map(i32::from_ne_bytes) {
            Ok(number) if number >= 0 => {
                // SAFETY: the kernel just opened it for us.
                drop(unsafe { OwnedFd::from_raw_fd(number) });
                Ok(())
            }
            _ => Err(Error::Wrong { call: "read from fanotify", what: "no descriptor" }),
        }
    })
}
