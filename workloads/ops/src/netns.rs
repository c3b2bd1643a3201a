//! Network name spaces of our own, which end with this process: one with its loopback, or two that
//! are joined by a veth pair or a WireGuard tunnel.
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
use crate::{Error, Result, wireguard};

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

/// Asks for an interface of a `kind`, which `info` may say more of.
fn new_link(name: &str, kind: &str, info: impl FnOnce(Message) -> Message) -> Message {
    Message::new(libc::RTM_NEWLINK, CREATE, &link_header(0, 0, 0))
        .text(libc::IFLA_IFNAME, name)
        .nest(libc::IFLA_LINKINFO, |link| info(link.text(libc::IFLA_INFO_KIND, kind)))
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

/// Two name spaces, each with an interface to the other. The process is in the near one.
pub(crate) struct Joined {
    near: OwnedFd,
    far: OwnedFd,
}

impl Joined {
    /// Interface and address of the near end.
    pub(crate) const NEAR: (&str, Ipv4Addr) = ("near0", Ipv4Addr::new(10, 83, 0, 1));
    /// Interface and address of the far end.
    pub(crate) const FAR: (&str, Ipv4Addr) = ("far0", Ipv4Addr::new(10, 83, 0, 2));

    /// By a veth pair.
    pub(crate) fn veth() -> Result<Self> {
        Self::by(|links, far| {
            let message = new_link(Self::NEAR.0, "veth", |info| {
                info.nest(libc::IFLA_INFO_DATA, |data| {
                    // VETH_INFO_PEER
                    data.nest(1, |peer| {
                        peer.bytes(&link_header(0, 0, 0))
                            .text(libc::IFLA_IFNAME, Self::FAR.0)
                            .attr(libc::IFLA_NET_NS_FD, &far.as_raw_fd().to_ne_bytes())
                    })
                })
            });
            links
                .request(message, "netlink: new veth")
                .or_missing(&[Errno::OPNOTSUPP], "this kernel has no veth")
        })
    }

    /// By two ends of WireGuard, whose packets go over the near name space's loopback: an interface
    /// talks from where it was made.
    pub(crate) fn wireguard() -> Result<Self> {
        Self::by(|links, far| {
            links.up("lo")?;
            for end in [Self::NEAR, Self::FAR] {
                links
                    .request(new_link(end.0, "wireguard", |info| info), "netlink: new wireguard")
                    .or_missing(&[Errno::OPNOTSUPP], "this kernel has no WireGuard")?;
            }
            wireguard::introduce(Self::NEAR, Self::FAR)?;
            let body = link_header(index(Self::FAR.0)?, 0, 0);
            let message = Message::new(libc::RTM_NEWLINK, libc::NLM_F_ACK, &body)
                .attr(libc::IFLA_NET_NS_FD, &far.as_raw_fd().to_ne_bytes());
            links.request(message, "netlink: move of an interface")
        })
    }

    /// `join` makes both interfaces.
    fn by(join: impl FnOnce(&Links, &OwnedFd) -> Result<()>) -> Result<Self> {
        enter_new()?;
        let far = this_name_space()?;
        enter_new()?;
        let joined = Self { near: this_name_space()?, far };
        join(&Links::open()?, &joined.far)?;
        let set_up = |(name, address): (&str, Ipv4Addr)| {
            let links = Links::open()?;
            links.address(name, address)?;
            links.up(name)
        };
        joined.far(|| set_up(Self::FAR))?;
        set_up(Self::NEAR)?;
        joined.settle()?;
        Ok(joined)
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

    /// Waits until packets pass: the kernel opens the queues of veth, and greets WireGuard's other end,
    /// in threads of its own.
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
            let mut tries = (0..2000).map(passed);
            if !tries.find(|t| !matches!(t, Ok(false))).unwrap_or(Ok(false))? {
                return Err(Error::Wrong { call: "name spaces", what: "nothing passes" });
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
