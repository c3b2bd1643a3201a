//! Network name spaces of our own, which end with this process: one with its loopback, or two that
//! are joined by a veth pair.
#![expect(unsafe_code, reason = "moves between name spaces, asks for an interface's index")]

use std::ffi::CString;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::{Errno, read, write};
use rustix::net::{SocketType, connect, sockopt};

use crate::meter::During as _;
use crate::net::bound;
use crate::netlink::{CREATE, Message, Netlink};
use crate::sys::{OrMissing as _, check, need_root, unshare};
use crate::{Error, Result};

/// A new network name space, its loopback up, with this process in it.
pub(crate) fn own_loopback() -> Result<Links> {
    enter_new()?;
    let links = Links::open()?;
    links.up("lo")?;
    Ok(links)
}

fn enter_new() -> Result<()> {
    need_root()?;
    unshare(libc::CLONE_NEWNET, "unshare CLONE_NEWNET")?;
    // IPv6 would talk to its neighbours in between. A kernel without it has no such file.
    for which in ["all", "default"] {
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1");
    }
    Ok(())
}

/// The interfaces of the name space that this was opened in.
pub(crate) struct Links(Netlink);

impl Links {
    pub(crate) fn open() -> Result<Self> {
        Netlink::open(libc::NETLINK_ROUTE).map(Self)
    }

    pub(crate) fn request(&self, message: Message, call: &'static str) -> Result<()> {
        self.0.request(vec![message], call)
    }

    fn up(&self, name: &str) -> Result<()> {
        let up = libc::IFF_UP as u32;
        let body = link_header(index(name)?, up, up);
        self.request(Message::new(libc::RTM_NEWLINK, libc::NLM_F_ACK, &body), "netlink: link up")
    }

    fn address(&self, name: &str, address: Ipv4Addr) -> Result<()> {
        let mut body = vec![libc::AF_INET as u8, 24, 0, 0];
        body.extend(index(name)?.to_ne_bytes());
        let message = Message::new(libc::RTM_NEWADDR, CREATE, &body)
            .attr(libc::IFA_LOCAL, &address.octets())
            .attr(libc::IFA_ADDRESS, &address.octets());
        self.request(message, "netlink: new address")
    }
}

/// `struct ifinfomsg`.
pub(crate) fn link_header(index: u32, flags: u32, change: u32) -> Vec<u8> {
    [[0; 4], index.to_ne_bytes(), flags.to_ne_bytes(), change.to_ne_bytes()].concat()
}

/// The index of an interface in the name space that the process is in.
pub(crate) fn index(name: &str) -> Result<u32> {
    let name = CString::new(name)
        .map_err(|_| Error::Wrong { call: "if_nametoindex", what: "NUL in the name" })?;
    // SAFETY: `name` is a C string that outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(std::io::Error::last_os_error()).during("if_nametoindex"),
        index => Ok(index),
    }
}

/// Two name spaces joined by a veth pair. The process is in the near one.
pub(crate) struct Veth {
    near: OwnedFd,
    far: OwnedFd,
}

impl Veth {
    /// Interface and address of the near end.
    pub(crate) const NEAR: (&str, Ipv4Addr) = ("veth0", Ipv4Addr::new(10, 83, 0, 1));
    /// Interface and address of the far end.
    pub(crate) const FAR: (&str, Ipv4Addr) = ("veth1", Ipv4Addr::new(10, 83, 0, 2));

    pub(crate) fn new() -> Result<Self> {
        enter_new()?;
        let far = this_name_space()?;
        enter_new()?;
        let veth = Self { near: this_name_space()?, far };
        let links = Links::open()?;
        let there = veth.far.as_raw_fd();
        let message = Message::new(libc::RTM_NEWLINK, CREATE, &link_header(0, 0, 0))
            .text(libc::IFLA_IFNAME, Self::NEAR.0)
            .nest(libc::IFLA_LINKINFO, |info| {
                info.text(libc::IFLA_INFO_KIND, "veth").nest(libc::IFLA_INFO_DATA, |data| {
                    // VETH_INFO_PEER
                    data.nest(1, |peer| {
                        peer.bytes(&link_header(0, 0, 0))
                            .text(libc::IFLA_IFNAME, Self::FAR.0)
                            .attr(libc::IFLA_NET_NS_FD, &there.to_ne_bytes())
                    })
                })
            });
        links
            .request(message, "netlink: new veth")
            .or_missing(&[Errno::OPNOTSUPP], "this kernel has no veth")?;
        let set_up = |(name, address): (&str, Ipv4Addr)| {
            let links = Links::open()?;
            links.address(name, address)?;
            links.up(name)
        };
        veth.far(|| set_up(Self::FAR))?;
        set_up(Self::NEAR)?;
        veth.settle()?;
        Ok(veth)
    }

    /// Does something in the far name space: sockets made there stay there.
    pub(crate) fn far<T>(&self, run: impl FnOnce() -> Result<T>) -> Result<T> {
        enter(self.far.as_fd())?;
        let answer = run();
        enter(self.near.as_fd())?;
        answer
    }

    /// A pair of UDP sockets, each connected to the other.
    pub(crate) fn udp_pair(&self) -> Result<(OwnedFd, OwnedFd)> {
        let (near, at) = bound(SocketType::DGRAM, Self::NEAR.1)?;
        let (far, to) = self.far(|| bound(SocketType::DGRAM, Self::FAR.1))?;
        connect(&near, &to).during("connect")?;
        connect(&far, &at).during("connect")?;
        Ok((near, far))
    }

    /// Waits until packets pass: the kernel opens the queues in a thread of its own.
    fn settle(&self) -> Result<()> {
        let (near, far) = self.udp_pair()?;
        let patience = Some(Duration::from_millis(5));
        for (from, to) in [(&near, &far), (&far, &near)] {
            sockopt::set_socket_timeout(to, sockopt::Timeout::Recv, patience)
                .during("setsockopt SO_RCVTIMEO")?;
            let passed = |_| {
                write(from, b"x").during("write to socket")?;
                match read(to, &mut [0]) {
                    Err(Errno::AGAIN) => Ok(false),
                    other => other.during("read from socket").map(|_| true),
                }
            };
            let mut tries = (0..400).map(passed);
            if !tries.find(|t| !matches!(t, Ok(false))).unwrap_or(Ok(false))? {
                return Err(Error::Wrong { call: "veth", what: "nothing passes" });
            }
        }
        Ok(())
    }
}

fn this_name_space() -> Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags, open};
    open("/proc/thread-self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .during("open /proc/thread-self/ns/net")
}

fn enter(name_space: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: a network name space holds no memory and no descriptors of ours.
    let done = unsafe { libc::setns(name_space.as_raw_fd(), libc::CLONE_NEWNET) };
    check(done, "setns").map(drop)
}
