//! Network interfaces, through netlink: loopback, and the NIC of QEMU's user network.

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use kgate_model::wire::Trouble;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::trouble::{failed, refused};

/// QEMU's name server on its user network.
pub(crate) const NAMESERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
const ADDRESS: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 0, 2, 15), 24);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// Brings loopback up; the kernel gives it its addresses.
pub(crate) fn loopback() -> Result<(), Trouble> {
    Netlink::open()?.up(interface_index("lo")?).map_err(|e| failed("bring up lo", e))
}

/// Brings the first NIC up with the defaults of QEMU's user network, and with this address of its own
/// where one is given.
pub(crate) fn user_network(mac: Option<[u8; 6]>) -> Result<(), Trouble> {
    let names = fs::read_dir("/sys/class/net").map_err(|e| failed("read /sys/class/net", e))?;
    // `device` is there for hardware only, not for what modules like bonding make.
    let nic = names
        .flatten()
        .filter(|entry| entry.path().join("device").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .min()
        .ok_or_else(|| refused("network was asked for, but the kernel has no NIC"))?;
    let index = interface_index(&nic)?;
    let mut netlink = Netlink::open()?;
    if let Some(mac) = mac {
        netlink.mac(index, mac).map_err(|e| failed(format!("give {nic} its MAC"), e))?;
    }
    netlink.up(index).map_err(|e| failed(format!("bring up {nic}"), e))?;
    netlink.address(index).map_err(|e| failed(format!("give {nic} its address"), e))?;
    netlink.default_route(index).map_err(|e| failed("set the default route", e))
}

fn interface_index(name: &str) -> Result<u32, Trouble> {
    let path = format!("/sys/class/net/{name}/ifindex");
    let text = fs::read_to_string(&path).map_err(|e| failed(format!("read {path}"), e))?;
    text.trim_end().parse().map_err(|_| refused(format!("{path} holds no number")))
}

struct Netlink(OwnedFd);

impl Netlink {
    fn open() -> Result<Self, Trouble> {
        // Protocol 0 is NETLINK_ROUTE.
        let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
        rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)
            .map(Self)
            .map_err(|e| failed("open a netlink socket", e))
    }

    fn up(&mut self, index: u32) -> rustix::io::Result<()> {
        let up = (libc::IFF_UP as u32).to_ne_bytes();
        // struct ifinfomsg: family, pad, type, index, flags, change
        let body = [[0; 4], index.to_ne_bytes(), up, up].concat();
        self.request(libc::RTM_NEWLINK, 0, &body)
    }

    fn mac(&mut self, index: u32, mac: [u8; 6]) -> rustix::io::Result<()> {
        let mut body = [[0; 4], index.to_ne_bytes(), [0; 4], [0; 4]].concat();
        attribute(&mut body, libc::IFLA_ADDRESS, &mac);
        // An attribute ends on a word's boundary.
        body.extend([0; 2]);
        self.request(libc::RTM_NEWLINK, 0, &body)
    }

    fn address(&mut self, index: u32) -> rustix::io::Result<()> {
        let (address, prefix) = ADDRESS;
        // struct ifaddrmsg: family, prefix length, flags, scope, index
        let mut body = vec![libc::AF_INET as u8, prefix, 0, 0];
        body.extend(index.to_ne_bytes());
        attribute(&mut body, libc::IFA_LOCAL, &address.octets());
        attribute(&mut body, libc::IFA_ADDRESS, &address.octets());
        self.request(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, &body)
    }

    fn default_route(&mut self, index: u32) -> rustix::io::Result<()> {
        // struct rtmsg: family, lengths, tos, table, protocol, scope, type, flags
        let mut body = vec![libc::AF_INET as u8, 0, 0, 0];
        body.extend([libc::RT_TABLE_MAIN, libc::RTPROT_BOOT, libc::RT_SCOPE_UNIVERSE]);
        body.extend([libc::RTN_UNICAST, 0, 0, 0, 0]);
        attribute(&mut body, libc::RTA_GATEWAY, &GATEWAY.octets());
        attribute(&mut body, libc::RTA_OIF, &index.to_ne_bytes());
        self.request(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, &body)
    }

    /// Sends one message and waits for the kernel's answer to it.
    fn request(&mut self, kind: u16, flags: i32, body: &[u8]) -> rustix::io::Result<()> {
        let flags = (flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        // struct nlmsghdr: length, type, flags, sequence, port
        let mut message = (16 + body.len() as u32).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        rustix::net::send(&self.0, &message, SendFlags::empty())?;
        let mut answer = [0; 4096];
        let (n, _) = rustix::net::recv(&self.0, &mut answer, RecvFlags::empty())?;
        // struct nlmsgerr: the error number, negative, behind the header
        match answer[..n].get(16..20).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes) {
            Some(0) => Ok(()),
            Some(error) => Err(rustix::io::Errno::from_raw_os_error(-error)),
            None => Err(rustix::io::Errno::PROTO),
        }
    }
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend((4 + value.len() as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
}
