//! WireGuard: what two interfaces are told of each other.

use std::net::Ipv4Addr;

use rustix::io::Errno;

use crate::Result;
use crate::netlink::{Message, Netlink};
use crate::sys::OrMissing as _;

/// Private keys of the two ends: this byte, 32 times.
const PRIVATE: [u8; 2] = [1, 2];
/// The public keys to them, by X25519 (RFC 7748).
#[rustfmt::skip]
const PUBLIC: [[u8; 32]; 2] = [
    [
        0xa4, 0xe0, 0x92, 0x92, 0xb6, 0x51, 0xc2, 0x78, 0xb9, 0x77, 0x2c, 0x56, 0x9f, 0x5f, 0xa9, 0xbb,
        0x13, 0xd9, 0x06, 0xb4, 0x6a, 0xb6, 0x8c, 0x9d, 0xf9, 0xdc, 0x2b, 0x44, 0x09, 0xf8, 0xa2, 0x09,
    ],
    [
        0xce, 0x8d, 0x3a, 0xd1, 0xcc, 0xb6, 0x33, 0xec, 0x7b, 0x70, 0xc1, 0x78, 0x14, 0xa5, 0xc7, 0x6e,
        0xcd, 0x02, 0x96, 0x85, 0x05, 0x0d, 0x34, 0x47, 0x45, 0xba, 0x05, 0x87, 0x0e, 0x58, 0x7d, 0x59,
    ],
];

/// UDP ports of the two ends.
const PORTS: [u16; 2] = [51820, 51821];

/// Tells the interfaces `near` and `far`, both in this name space, of each other.
pub(crate) fn introduce(near: (&str, Ipv4Addr), far: (&str, Ipv4Addr)) -> Result<()> {
    let generic = Netlink::open(libc::NETLINK_GENERIC)?;
    let family =
        generic.family("wireguard").or_missing(&[Errno::NOENT], "this kernel has no WireGuard")?;
    let ends = [near, far];
    for (mine, other) in [(0, 1), (1, 0)] {
        // struct sockaddr_in: family, port, address, padding
        let endpoint = [
            &(libc::AF_INET as u16).to_ne_bytes()[..],
            &PORTS[other].to_be_bytes(),
            &Ipv4Addr::LOCALHOST.octets(),
            &[0; 8],
        ]
        .concat();
        // WG_CMD_SET_DEVICE, version 1; attributes of linux/wireguard.h.
        let message = Message::new(family, libc::NLM_F_ACK, &[1, 1, 0, 0])
            .text(device::IFNAME, ends[mine].0)
            .attr(device::PRIVATE_KEY, &[PRIVATE[mine]; 32])
            .attr(device::LISTEN_PORT, &PORTS[mine].to_ne_bytes())
            .nest(device::PEERS, |peers| {
                peers.nest(0, |peer| {
                    peer.attr(peer::PUBLIC_KEY, &PUBLIC[other])
                        .attr(peer::ENDPOINT, &endpoint)
                        .nest(peer::ALLOWED_IPS, |ips| {
                            ips.nest(0, |ip| {
                                ip.attr(allowed::FAMILY, &(libc::AF_INET as u16).to_ne_bytes())
                                    .attr(allowed::ADDRESS, &ends[other].1.octets())
                                    .attr(allowed::MASK, &[32])
                            })
                        })
                })
            });
        generic.request(vec![message], "netlink: set up WireGuard")?;
    }
    Ok(())
}

mod device {
    pub(super) const IFNAME: u16 = 2;
    pub(super) const PRIVATE_KEY: u16 = 3;
    pub(super) const LISTEN_PORT: u16 = 6;
    pub(super) const PEERS: u16 = 8;
}

mod peer {
    pub(super) const PUBLIC_KEY: u16 = 1;
    pub(super) const ENDPOINT: u16 = 4;
    pub(super) const ALLOWED_IPS: u16 = 9;
}

mod allowed {
    pub(super) const FAMILY: u16 = 1;
    pub(super) const ADDRESS: u16 = 2;
    pub(super) const MASK: u16 = 3;
}
