//! The network stack over loopback and veth, both ends in one thread: delivery is done by the time a
//! send returns, so nothing here ever sleeps.

use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::event::epoll;
use rustix::io::{Errno, read, write};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendFlags, SocketType, accept, bind, connect,
    getsockname, listen, recvmsg, send, socket, sockopt,
};
use rustix::pipe::{SpliceFlags, pipe, splice};

use crate::file::Scratch;
use crate::meter::{During as _, all};
use crate::netns::{Joined, index};
use crate::sys::OrMissing as _;
use crate::{Error, Meter, Op, Result, Shape, sys};

pub(crate) const OPS: &[Op] = &[
    Op {
        name: "tcp-connect",
        summary: "TCP connect, accept and close over loopback",
        shape: Shape::new(2, 120, 8),
        // A closed connection keeps its port for a minute, and there are 28 thousand of them.
        max_batch: 2000,
        copies: false,
        run: |meter| {
            let (listener, address) = tcp_listener(Ipv4Addr::LOCALHOST)?;
            meter.each(|| tcp_pair(&listener, address).map(drop))
        },
    },
    Op {
        name: "tcp-rr",
        summary: "one byte to a TCP server over loopback and back",
        shape: Shape::new(8, 110, 7),
        max_batch: 100_000,
        copies: false,
        run: |meter| {
            let (client, server) = loopback_pair()?;
            round_trips(meter, &client, &server)
        },
    },
    Op {
        name: "udp-rr",
        summary: "one byte to a UDP server over loopback and back",
        shape: Shape::new(12, 110, 7),
        max_batch: 100_000,
        copies: false,
        run: |meter| {
            let (client, server) = udp_pair()?;
            round_trips(meter, &client, &server)
        },
    },
    Op {
        name: "tcp-stream",
        summary: "16 KiB through a TCP connection over loopback",
        shape: Shape::new(4, 105, 7),
        max_batch: 100_000,
        copies: true,
        run: |meter| {
            let (client, server) = loopback_pair()?;
            stream(meter, &client, &server)
        },
    },
    Op {
        name: "tcp-zerocopy",
        summary: "16 KiB sent over loopback TCP with MSG_ZEROCOPY, and told done",
        shape: Shape::new(2, 120, 8),
        max_batch: 100_000,
        copies: true,
        run: zerocopy,
    },
    Op {
        name: "sendfile",
        summary: "16 KiB of a file in the page cache over loopback TCP by sendfile",
        shape: Shape::new(5, 105, 7),
        max_batch: 100_000,
        copies: false,
        run: |meter| {
            let scratch = Scratch::new(meter.dir())?;
            let file = scratch.open(CHUNK as u64)?;
            let (client, server) = loopback_pair()?;
            let mut back = vec![0; CHUNK];
            meter.each(|| {
                let mut from = 0;
                let sent = rustix::fs::sendfile(&client, &file, Some(&mut from), CHUNK);
                all("sendfile", CHUNK, sent.during("sendfile")?)?;
                read_all(&server, &mut back)
            })
        },
    },
    Op {
        name: "splice",
        summary: "16 KiB of a file through a pipe into loopback TCP by splice",
        shape: Shape::new(5, 105, 7),
        max_batch: 100_000,
        copies: false,
        run: splice_file,
    },
    Op {
        name: "reuseport",
        summary: "TCP connect to 8 SO_REUSEPORT listeners, epoll, accept, close",
        shape: Shape::new(2, 120, 8),
        max_batch: 2000,
        copies: false,
        run: reuseport,
    },
    Op {
        name: "udp-gso",
        summary: "one send of 10 UDP datagrams by UDP_SEGMENT over loopback, and their receipt",
        shape: Shape::new(2, 120, 8),
        max_batch: 100_000,
        copies: false,
        run: udp_gso,
    },
    Op {
        name: "veth-tcp-connect",
        summary: "TCP connect, accept and close across two network name spaces",
        shape: Shape::new(2, 105, 7),
        max_batch: 2000,
        copies: false,
        run: |meter| {
            let veth = Joined::veth()?;
            let (listener, address) = veth.far(|| tcp_listener(Joined::FAR.1))?;
            meter.each(|| tcp_pair(&listener, address).map(drop))
        },
    },
    Op {
        name: "veth-tcp-rr",
        summary: "one byte to a TCP server in another network name space and back",
        shape: Shape::new(6, 115, 8),
        max_batch: 100_000,
        copies: false,
        run: |meter| {
            let (client, server) = veth_pair(&Joined::veth()?)?;
            round_trips(meter, &client, &server)
        },
    },
    Op {
        name: "veth-tcp-stream",
        summary: "16 KiB through a TCP connection into another network name space",
        shape: Shape::new(4, 90, 6),
        max_batch: 100_000,
        copies: true,
        run: |meter| {
            let (client, server) = veth_pair(&Joined::veth()?)?;
            stream(meter, &client, &server)
        },
    },
    Op {
        name: "wireguard-rr",
        summary: "one byte through a WireGuard tunnel over loopback, and one back",
        shape: Shape::new(2, 120, 8),
        max_batch: 100_000,
        copies: false,
        run: |meter| {
            let (near, far) = Joined::wireguard()?.udp_pair()?;
            round_trips(meter, &near, &far)
        },
    },
    Op {
        name: "packet",
        summary: "a frame through AF_PACKET sockets from one name space to another",
        shape: Shape::new(30, 55, 4),
        max_batch: 100_000,
        copies: false,
        run: packet,
    },
    Op {
        name: "ktls-send",
        summary: "4 KiB encrypted by the kernel (TLS 1.2, AES-128-GCM) over loopback TCP",
        shape: Shape::new(1, 45, 3),
        max_batch: 100_000,
        copies: false,
        run: |meter| {
            let (client, server) = loopback_pair()?;
            ktls(&client, TLS_TX)?;
            let (out, mut back) = (vec![1; PLAIN], vec![0; PLAIN + RECORD]);
            meter.each(|| {
                all("write to TLS", PLAIN, write(&client, &out).during("write to TLS")?)?;
                read_all(&server, &mut back)
            })
        },
    },
    Op {
        name: "ktls",
        summary: "4 KiB encrypted and decrypted by the kernel over loopback TCP",
        shape: Shape::new(1, 40, 3),
        max_batch: 100_000,
        copies: false,
        run: |meter| {
            let (client, server) = loopback_pair()?;
            ktls(&client, TLS_TX)?;
            ktls(&server, TLS_RX)?;
            let (out, mut back) = (vec![1; PLAIN], vec![0; PLAIN]);
            meter.each(|| {
                all("write to TLS", PLAIN, write(&client, &out).during("write to TLS")?)?;
                read_all(&server, &mut back)
            })
        },
    },
];

/// What is sent at once where much is sent.
const CHUNK: usize = 16 << 10;

/// A socket bound to a free port of `ip`, and its address.
pub(crate) fn bound(kind: SocketType, ip: Ipv4Addr) -> Result<(OwnedFd, SocketAddrV4)> {
    let socket = socket(AddressFamily::INET, kind, None).during("socket")?;
    bind(&socket, &SocketAddrV4::new(ip, 0)).during("bind")?;
    let address = SocketAddrV4::try_from(getsockname(&socket).during("getsockname")?)
        .map_err(|_| Error::Wrong { call: "getsockname", what: "not an IPv4 address" })?;
    Ok((socket, address))
}

/// Two UDP sockets on 127.0.0.1, each connected to the other.
pub(crate) fn udp_pair() -> Result<(OwnedFd, OwnedFd)> {
    let (client, at) = bound(SocketType::DGRAM, Ipv4Addr::LOCALHOST)?;
    let (server, to) = bound(SocketType::DGRAM, Ipv4Addr::LOCALHOST)?;
    connect(&client, &to).during("connect")?;
    connect(&server, &at).during("connect")?;
    Ok((client, server))
}

pub(crate) fn tcp_listener(ip: Ipv4Addr) -> Result<(OwnedFd, SocketAddrV4)> {
    let (listener, address) = bound(SocketType::STREAM, ip)?;
    listen(&listener, 64).during("listen")?;
    Ok((listener, address))
}

/// A new connection: client end, server end.
fn tcp_pair(listener: &OwnedFd, address: SocketAddrV4) -> Result<(OwnedFd, OwnedFd)> {
    let client = tcp_client(address)?;
    let server = accept(listener).during("accept")?;
    Ok((client, server))
}

/// A socket that is connected, as far as it can tell.
pub(crate) fn tcp_client(address: SocketAddrV4) -> Result<OwnedFd> {
    let client = socket(AddressFamily::INET, SocketType::STREAM, None).during("socket")?;
    connect(&client, &address).during("connect")?;
    Ok(client)
}

/// A connection over loopback, both ends of which send at once what they have.
fn loopback_pair() -> Result<(OwnedFd, OwnedFd)> {
    let (listener, address) = tcp_listener(Ipv4Addr::LOCALHOST)?;
    without_delay(tcp_pair(&listener, address)?)
}

/// The same across a veth pair; the server is at the far end.
fn veth_pair(veth: &Joined) -> Result<(OwnedFd, OwnedFd)> {
    let (listener, address) = veth.far(|| tcp_listener(Joined::FAR.1))?;
    without_delay(tcp_pair(&listener, address)?)
}

fn without_delay(ends: (OwnedFd, OwnedFd)) -> Result<(OwnedFd, OwnedFd)> {
    for end in [&ends.0, &ends.1] {
        sockopt::set_tcp_nodelay(end, true).during("setsockopt TCP_NODELAY")?;
    }
    Ok(ends)
}

pub(crate) fn round_trips(meter: &mut Meter, client: &OwnedFd, server: &OwnedFd) -> Result<()> {
    let mut byte = [0];
    meter.each(|| {
        for (from, to) in [(client, server), (server, client)] {
            all("write to socket", 1, write(from, b"x").during("write to socket")?)?;
            all("read from socket", 1, read(to, &mut byte).during("read from socket")?)?;
        }
        Ok(())
    })
}

fn stream(meter: &mut Meter, client: &OwnedFd, server: &OwnedFd) -> Result<()> {
    let (out, mut back) = (vec![1; CHUNK], vec![0; CHUNK]);
    meter.each(|| {
        all("write to socket", CHUNK, write(client, &out).during("write to socket")?)?;
        read_all(server, &mut back)
    })
}

/// Fills `buffer` from a stream.
fn read_all(from: &OwnedFd, mut buffer: &mut [u8]) -> Result<()> {
    while !buffer.is_empty() {
        match read(from, &mut *buffer).during("read from socket")? {
            0 => return Err(Error::Wrong { call: "read from socket", what: "ended too early" }),
            got => buffer = &mut buffer[got..],
        }
    }
    Ok(())
}

fn zerocopy(meter: &mut Meter) -> Result<()> {
    let (client, server) = loopback_pair()?;
    let call = "setsockopt SO_ZEROCOPY";
    sys::set_option(&client, libc::SOL_SOCKET, libc::SO_ZEROCOPY, &1i32, call)
        .or_missing(&[Errno::NOPROTOOPT], "this kernel has no MSG_ZEROCOPY")?;
    let (out, mut back) = (vec![1; CHUNK], vec![0; CHUNK]);
    let zerocopy = SendFlags::from_bits_retain(libc::MSG_ZEROCOPY as u32);
    meter.each(|| {
        all(
            "send MSG_ZEROCOPY",
            CHUNK,
            send(&client, &out, zerocopy).during("send MSG_ZEROCOPY")?,
        )?;
        read_all(&server, &mut back)?;
        let mut space = [MaybeUninit::uninit(); 256];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::ERRQUEUE | RecvFlags::DONTWAIT;
        match recvmsg(&client, &mut [], &mut control, flags) {
            // What isn't acknowledged by the other end yet is told with the next.
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(errno) => Err(errno).during("recvmsg MSG_ERRQUEUE"),
        }
    })
}

fn splice_file(meter: &mut Meter) -> Result<()> {
    let scratch = Scratch::new(meter.dir())?;
    let file = scratch.open(CHUNK as u64)?;
    let (out, into) = pipe().during("pipe")?;
    let (client, server) = loopback_pair()?;
    let mut back = vec![0; CHUNK];
    let flags = SpliceFlags::MOVE;
    meter.each(|| {
        let mut from = 0;
        let got = splice(&file, Some(&mut from), &into, None, CHUNK, flags).during("splice")?;
        all("splice from file", CHUNK, got)?;
        let got = splice(&out, None, &client, None, CHUNK, flags).during("splice")?;
        all("splice to socket", CHUNK, got)?;
        read_all(&server, &mut back)
    })
}

fn reuseport(meter: &mut Meter) -> Result<()> {
    let (poll, mut listeners) = (
        epoll::create(epoll::CreateFlags::CLOEXEC).during("epoll_create1")?,
        Vec::<OwnedFd>::new(),
    );
    let mut address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    for number in 0..8 {
        let listener = socket(AddressFamily::INET, SocketType::STREAM, None).during("socket")?;
        sockopt::set_socket_reuseport(&listener, true).during("setsockopt SO_REUSEPORT")?;
        bind(&listener, &address).during("bind")?;
        listen(&listener, 64).during("listen")?;
        address = SocketAddrV4::try_from(getsockname(&listener).during("getsockname")?)
            .map_err(|_| Error::Wrong { call: "getsockname", what: "not an IPv4 address" })?;
        epoll::add(&poll, &listener, epoll::EventData::new_u64(number), epoll::EventFlags::IN)
            .during("epoll_ctl")?;
        listeners.push(listener);
    }
    let mut ready =
        [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 1];
    meter.each(|| {
        let client = tcp_client(address)?;
        let found = epoll::wait(&poll, &mut ready, Some(&rustix::time::Timespec::default()))
            .during("epoll_wait")?;
        all("epoll_wait", 1, found)?;
        let number = ready[0].data.u64() as usize;
        let listener = listeners
            .get(number)
            .ok_or(Error::Wrong { call: "epoll_wait", what: "found an unknown socket" })?;
        let server = accept(listener).during("accept")?;
        drop((client, server));
        Ok(())
    })
}

fn udp_gso(meter: &mut Meter) -> Result<()> {
    const SEGMENT: usize = 1200;
    const UDP_SEGMENT: i32 = 103;
    let (client, server) = udp_pair()?;
    let size = SEGMENT as i32;
    sys::set_option(&client, libc::IPPROTO_UDP, UDP_SEGMENT, &size, "setsockopt UDP_SEGMENT")
        .or_missing(&[Errno::NOPROTOOPT], "this kernel has no UDP_SEGMENT")?;
    let (out, mut back) = ([1; 10 * SEGMENT], [0; SEGMENT]);
    meter.each(|| {
        all("write to socket", out.len(), write(&client, &out).during("write to socket")?)?;
        for _ in 0..10 {
            all("read from socket", SEGMENT, read(&server, &mut back).during("read from socket")?)?;
        }
        Ok(())
    })
}

fn packet(meter: &mut Meter) -> Result<()> {
    /// IEEE 802's number for experiments: nothing else listens to it.
    const PROTOCOL: u16 = 0x88b5;
    let veth = Joined::veth()?;
    let open = |name| {
        let protocol = i32::from(PROTOCOL.to_be());
        let socket = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, protocol)?;
        let mut address: libc::sockaddr_ll = sys::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = PROTOCOL.to_be();
        address.sll_ifindex = index(name)? as i32;
        sys::bind(&socket, &address, "bind AF_PACKET")?;
        Ok(socket)
    };
    let (near, far) = (open(Joined::NEAR.0)?, veth.far(|| open(Joined::FAR.0))?);
    // To everybody, from an address of our own making.
    let mut frame = [0; 128];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[12..14].copy_from_slice(&PROTOCOL.to_be_bytes());
    let mut back = [0; 256];
    meter.each(|| {
        all("write to AF_PACKET", frame.len(), write(&near, &frame).during("write to AF_PACKET")?)?;
        let got = read(&far, &mut back).during("read from AF_PACKET")?;
        all("read from AF_PACKET", frame.len(), got)
    })
}

const TLS_TX: i32 = 1;
const TLS_RX: i32 = 2;
const PLAIN: usize = 4096;
/// What a record of TLS 1.2 with AES-GCM has around the data: header, nonce, tag.
const RECORD: usize = 5 + 8 + 16;

/// Makes one direction of a socket TLS 1.2 with AES-128-GCM and a fixed key.
fn ktls(socket: &OwnedFd, direction: i32) -> Result<()> {
    sys::set_option_bytes(socket, libc::IPPROTO_TCP, libc::TCP_ULP, b"tls", "setsockopt TCP_ULP")
        .or_missing(&[Errno::NOENT, Errno::NOPROTOOPT], "this kernel has no TLS")?;
    // struct tls12_crypto_info_aes_gcm_128: version, cipher, iv, key, salt, sequence number
    let info =
        [&0x0303u16.to_ne_bytes()[..], &51u16.to_ne_bytes(), &[1; 8], &[2; 16], &[3; 4], &[0; 8]]
            .concat();
    sys::set_option_bytes(socket, libc::SOL_TLS, direction, &info, "setsockopt TLS_TX or TLS_RX")
        .or_missing(&[Errno::NOENT], "this kernel has no gcm(aes)")
}
