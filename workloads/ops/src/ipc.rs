//! Talk within one process: pipes, eventfd, futex, epoll, Unix sockets.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::AtomicU32;

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::{read, write};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix,
    SocketFlags, SocketType, accept, bind, connect, listen, recvmsg, socket_with, socketpair,
};
use rustix::pipe::pipe;
use rustix::thread::futex;

use crate::meter::{During as _, all};
use crate::{Error, Meter, Op, Result, Shape, sys};

pub(crate) const OPS: &[Op] = &[
    Op {
        name: "pipe",
        summary: "a byte written to a pipe and read back",
        shape: Shape::new(80, 115, 8),
        max_batch: 1_000_000,
        copies: false,
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
        shape: Shape::new(120, 115, 8),
        max_batch: 1_000_000,
        copies: false,
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
        shape: Shape::new(300, 120, 8),
        max_batch: 1_000_000,
        copies: false,
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
        shape: Shape::new(60, 120, 8),
        max_batch: 1_000_000,
        copies: false,
        run: epoll_wait,
    },
    Op {
        name: "unix-stream",
        summary: "512 bytes through a Unix stream socket pair",
        shape: Shape::new(30, 110, 7),
        max_batch: 1_000_000,
        copies: false,
        run: |meter| {
            let (to, from) = unix_pair(SocketType::STREAM)?;
            let (out, mut back) = ([1; 512], [0; 512]);
            meter.each(|| {
                all("write to socket", 512, write(&to, &out).during("write to socket")?)?;
                all("read from socket", 512, read(&from, &mut back).during("read from socket")?)
            })
        },
    },
    Op {
        name: "epoll-ctl",
        summary: "an eventfd added to an epoll set of 64 and taken out again",
        shape: Shape::new(60, 105, 7),
        max_batch: 1_000_000,
        copies: false,
        run: epoll_ctl,
    },
    Op {
        name: "unix-dgram",
        summary: "512 bytes through a Unix datagram socket pair",
        shape: Shape::new(30, 110, 7),
        max_batch: 1_000_000,
        copies: false,
        run: |meter| {
            let (to, from) = unix_pair(SocketType::DGRAM)?;
            let (out, mut back) = ([1; 512], [0; 512]);
            meter.each(|| {
                all("write to socket", 512, write(&to, &out).during("write to socket")?)?;
                all("read from socket", 512, read(&from, &mut back).during("read from socket")?)
            })
        },
    },
    Op {
        name: "unix-connect",
        summary: "connect to an abstract Unix stream socket, accept, close",
        shape: Shape::new(8, 110, 7),
        max_batch: 1_000_000,
        copies: false,
        run: unix_connect,
    },
    Op {
        name: "unix-descriptor",
        summary: "a descriptor sent over a Unix socket, received and closed",
        shape: Shape::new(16, 110, 7),
        max_batch: 1_000_000,
        copies: false,
        run: unix_descriptor,
    },
];

fn unix_pair(kind: SocketType) -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).during("socketpair")
}

fn epoll_ctl(meter: &mut Meter) -> Result<()> {
    let new_event = || eventfd(0, EventfdFlags::NONBLOCK).during("eventfd");
    let poll = epoll::create(epoll::CreateFlags::empty()).during("epoll_create1")?;
    let add = |event: &OwnedFd| {
        epoll::add(&poll, event, epoll::EventData::new_u64(1), epoll::EventFlags::IN)
            .during("epoll_ctl EPOLL_CTL_ADD")
    };
    let others = (0..63).map(|_| new_event()).collect::<Result<Vec<_>>>()?;
    others.iter().try_for_each(add)?;
    let event = new_event()?;
    meter.each(|| {
        add(&event)?;
        epoll::delete(&poll, &event).during("epoll_ctl EPOLL_CTL_DEL")
    })
}

fn unix_connect(meter: &mut Meter) -> Result<()> {
    let new_socket = || {
        socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .during("socket")
    };
    let listener = new_socket()?;
    let name = format!("kgate-ops-{}", std::process::id());
    let address = SocketAddrUnix::new_abstract_name(name.as_bytes()).during("sockaddr_un")?;
    bind(&listener, &address).during("bind")?;
    listen(&listener, 8).during("listen")?;
    meter.each(|| {
        let client = new_socket()?;
        connect(&client, &address).during("connect")?;
        accept(&listener).during("accept").map(drop)?;
        drop(client);
        Ok(())
    })
}

fn unix_descriptor(meter: &mut Meter) -> Result<()> {
    let (to, from) = unix_pair(SocketType::STREAM)?;
    let event = eventfd(0, EventfdFlags::empty()).during("eventfd")?;
    let mut byte = [0];
    meter.each(|| {
        let number = event.as_raw_fd();
        let sent = sys::send_with(
            &to,
            b"x",
            (libc::SOL_SOCKET, libc::SCM_RIGHTS, std::slice::from_ref(&number)),
            "sendmsg SCM_RIGHTS",
        )?;
        all("sendmsg SCM_RIGHTS", 1, sent)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(
            &from,
            &mut [std::io::IoSliceMut::new(&mut byte)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
        .during("recvmsg SCM_RIGHTS")?;
        all("recvmsg SCM_RIGHTS", 1, got.bytes)?;
        // Dropping them closes them.
        let received = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors.count()),
            _ => None,
        });
        all("recvmsg SCM_RIGHTS", 1, received.sum())
    })
}

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
