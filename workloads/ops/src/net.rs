//! The network stack over loopback, both ends in one thread: delivery over loopback is done by
//! the time a send returns, so nothing here ever sleeps.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::io::{read, write};
use rustix::net::{
    AddressFamily, SocketType, accept, bind, connect, getsockname, listen, socket, sockopt,
};

use crate::meter::{During as _, all};
use crate::{Error, Meter, Op, Result, Shape};

pub(crate) const OPS: &[Op] = &[
    Op {
        name: "tcp-connect",
        summary: "TCP connect, accept and close over loopback",
        shape: Shape::new(100, 40, 2),
        // A closed connection keeps its port for a minute, and there are 28 thousand of them.
        max_batch: 2000,
        run: |meter| {
            let (listener, address) = tcp_listener()?;
            meter.each(|| tcp_pair(&listener, address).map(drop))
        },
    },
    Op {
        name: "tcp-rr",
        summary: "one byte to a TCP server over loopback and back",
        shape: Shape::new(200, 40, 4),
        max_batch: 100_000,
        run: |meter| {
            let (listener, address) = tcp_listener()?;
            let (client, server) = tcp_pair(&listener, address)?;
            for end in [&client, &server] {
                sockopt::set_tcp_nodelay(end, true).during("setsockopt TCP_NODELAY")?;
            }
            round_trips(meter, &client, &server)
        },
    },
    Op {
        name: "udp-rr",
        summary: "one byte to a UDP server over loopback and back",
        shape: Shape::new(300, 40, 4),
        max_batch: 100_000,
        run: |meter| {
            let (client, at) = bound(SocketType::DGRAM)?;
            let (server, to) = bound(SocketType::DGRAM)?;
            connect(&client, &to).during("connect")?;
            connect(&server, &at).during("connect")?;
            round_trips(meter, &client, &server)
        },
    },
];

/// A socket bound to a free port of 127.0.0.1, and its address.
fn bound(kind: SocketType) -> Result<(OwnedFd, SocketAddrV4)> {
    let socket = socket(AddressFamily::INET, kind, None).during("socket")?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).during("bind to 127.0.0.1")?;
    let address = SocketAddrV4::try_from(getsockname(&socket).during("getsockname")?)
        .map_err(|_| Error::Wrong { call: "getsockname", what: "not an IPv4 address" })?;
    Ok((socket, address))
}

fn tcp_listener() -> Result<(OwnedFd, SocketAddrV4)> {
    let (listener, address) = bound(SocketType::STREAM)?;
    listen(&listener, 64).during("listen")?;
    Ok((listener, address))
}

/// A new connection: client end, server end.
fn tcp_pair(listener: &OwnedFd, address: SocketAddrV4) -> Result<(OwnedFd, OwnedFd)> {
    let client = socket(AddressFamily::INET, SocketType::STREAM, None).during("socket")?;
    connect(&client, &address).during("connect to 127.0.0.1")?;
    let server = accept(listener).during("accept")?;
    Ok((client, server))
}

fn round_trips(meter: &mut Meter, client: &OwnedFd, server: &OwnedFd) -> Result<()> {
    let mut byte = [0];
    meter.each(|| {
        for (from, to) in [(client, server), (server, client)] {
            all("write to socket", 1, write(from, b"x").during("write to socket")?)?;
            all("read from socket", 1, read(to, &mut byte).during("read from socket")?)?;
        }
        Ok(())
    })
}
