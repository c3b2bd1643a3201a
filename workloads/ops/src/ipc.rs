//! Talk within one process: pipes, eventfd, futex, epoll, Unix sockets.

use std::sync::atomic::AtomicU32;

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::{read, write};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::pipe;
use rustix::thread::futex;

use crate::meter::{During as _, all};
use crate::{Error, Meter, Op, Result, Shape};

pub(crate) const OPS: &[Op] = &[
    Op {
        name: "pipe",
        summary: "a byte written to a pipe and read back",
        shape: Shape::new(1000, 40, 4),
        max_batch: 1_000_000,
        run: |meter| {
            let (from, to) = pipe().during("pipe")?;
            let mut byte = [0];
            meter.each(|| {
                all("write to pipe", 1, write(&to, b"x").during("write to pipe")?)?;
                all("read from pipe", 1, read(&from, &mut byte).during("read from pipe")?)
            })
        },
    },
    Op {
        name: "eventfd",
        summary: "an eventfd signalled and read back",
        shape: Shape::new(1000, 40, 4),
        max_batch: 1_000_000,
        run: |meter| {
            let event = eventfd(0, EventfdFlags::empty()).during("eventfd")?;
            let mut count = [0; 8];
            meter.each(|| {
                all("write to eventfd", 8, write(&event, &ONE).during("write to eventfd")?)?;
                all("read from eventfd", 8, read(&event, &mut count).during("read from eventfd")?)
            })
        },
    },
    Op {
        name: "futex-wake",
        summary: "FUTEX_WAKE with nobody waiting",
        shape: Shape::new(2000, 40, 4),
        max_batch: 1_000_000,
        run: |meter| {
            let word = AtomicU32::new(0);
            meter.each(|| match futex::wake(&word, futex::Flags::PRIVATE, 1).during("futex")? {
                0 => Ok(()),
                _ => Err(Error::Wrong { call: "futex", what: "woke somebody" }),
            })
        },
    },
    Op {
        name: "epoll-wait",
        summary: "an eventfd made ready, found by epoll_wait, and read",
        shape: Shape::new(500, 40, 4),
        max_batch: 1_000_000,
        run: epoll_wait,
    },
    Op {
        name: "unix-stream",
        summary: "512 bytes through a Unix stream socket pair",
        shape: Shape::new(500, 40, 4),
        max_batch: 1_000_000,
        run: |meter| {
            let kind = (AddressFamily::UNIX, SocketType::STREAM);
            let (to, from) =
                socketpair(kind.0, kind.1, SocketFlags::empty(), None).during("socketpair")?;
            let (out, mut back) = ([1; 512], [0; 512]);
            meter.each(|| {
                all("write to socket", 512, write(&to, &out).during("write to socket")?)?;
                all("read from socket", 512, read(&from, &mut back).during("read from socket")?)
            })
        },
    },
];

const ONE: [u8; 8] = 1u64.to_ne_bytes();

fn epoll_wait(meter: &mut Meter) -> Result<()> {
    let poll = epoll::create(epoll::CreateFlags::empty()).during("epoll_create1")?;
    let event = eventfd(0, EventfdFlags::NONBLOCK).during("eventfd")?;
    epoll::add(&poll, &event, epoll::EventData::new_u64(1), epoll::EventFlags::IN)
        .during("epoll_ctl")?;
    let mut ready =
        [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 4];
    let mut count = [0; 8];
    meter.each(|| {
        all("write to eventfd", 8, write(&event, &ONE).during("write to eventfd")?)?;
        let found = epoll::wait(&poll, &mut ready, Some(&rustix::time::Timespec::default()))
            .during("epoll_wait")?;
        if found != 1 {
            return Err(Error::Wrong {
                call: "epoll_wait",
                what: "did not find the ready eventfd",
            });
        }
        all("read from eventfd", 8, read(&event, &mut count).during("read from eventfd")?)
    })
}
