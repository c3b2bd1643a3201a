//! Netlink: messages with attributes, sent to the kernel and acknowledged.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send, sockopt};

use crate::meter::During as _;
use crate::{Error, Result, sys};

/// One message: a header, a fixed part, attributes.
pub(crate) struct Message(Vec<u8>);

const HEADER: usize = 16;

impl Message {
    /// A message of type `kind` with the fixed part `body`; asks for an acknowledgement where
    /// `flags` has `NLM_F_ACK`.
    pub(crate) fn new(kind: u16, flags: i32, body: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&((flags | libc::NLM_F_REQUEST) as u16).to_ne_bytes());
        bytes.extend(body);
        Self(bytes)
    }

    /// With an attribute.
    pub(crate) fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        self.0.extend((value.len() as u16 + 4).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// With an attribute that is text.
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        self.attr(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// With an attribute that is a number in network byte order, as netfilter has them.
    pub(crate) fn big(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// With an attribute that holds what `fill` adds.
    pub(crate) fn nest(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        self = fill(self.attr(kind | libc::NLA_F_NESTED as u16, &[]));
        let size = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&size.to_ne_bytes());
        self
    }

    /// With plain bytes, as the fixed part of a nested message.
    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
}

/// Creates, and fails where it is there already.
pub(crate) const CREATE: i32 = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;

/// A netlink socket.
pub(crate) struct Netlink(OwnedFd);

impl Netlink {
    pub(crate) fn open(protocol: i32) -> Result<Self> {
        let socket = sys::socket(libc::AF_NETLINK, libc::SOCK_RAW, protocol)?;
        // The kernel answers at once; one that doesn't is an error and not a hang.
        let patience = Some(std::time::Duration::from_secs(10));
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, patience)
            .during("setsockopt SO_RCVTIMEO")?;
        Ok(Self(socket))
    }

    /// Sends `messages`, of which exactly the last of those that ask for it is acknowledged, in one
    /// piece, and waits for the acknowledgement or for the first error.
    pub(crate) fn request(&self, messages: Vec<Message>, call: &'static str) -> Result<()> {
        let (kind, _) = self.exchange(messages, call)?;
        if kind == libc::NLMSG_ERROR {
            return Ok(());
        }
        Err(Error::Wrong { call, what: "netlink answered something else" })
    }

    /// The number of a family of generic netlink.
    pub(crate) fn family(&self, name: &str) -> Result<u16> {
        const CALL: &str = "netlink: family";
        const WRONG: Error = Error::Wrong { call: CALL, what: "netlink tells no number" };
        // CTRL_CMD_GETFAMILY, version 1; CTRL_ATTR_FAMILY_NAME
        let message = Message::new(libc::GENL_ID_CTRL as u16, 0, &[3, 1, 0, 0]).text(2, name);
        let (_, answer) = self.exchange(vec![message], CALL)?;
        let mut attributes = answer.get(4..).ok_or(WRONG)?;
        while let &[l, h, kind, 0, ref rest @ ..] = attributes {
            let size = usize::from(u16::from_ne_bytes([l, h]));
            // CTRL_ATTR_FAMILY_ID
            if let (1, &[low, high, ..]) = (kind, rest) {
                return Ok(u16::from_ne_bytes([low, high]));
            }
            attributes = attributes.get(size.max(4).next_multiple_of(4)..).ok_or(WRONG)?;
        }
        Err(WRONG)
    }

    /// Sends `messages` in one piece. Gives the type of the answer and what comes after its header; an
    /// error in it is one.
    fn exchange(&self, messages: Vec<Message>, call: &'static str) -> Result<(i32, Vec<u8>)> {
        let mut packet = Vec::new();
        for mut message in messages {
            let size = message.0.len() as u32;
            message.0[..4].copy_from_slice(&size.to_ne_bytes());
            packet.append(&mut message.0);
        }
        send(&self.0, &packet, SendFlags::empty()).during(call)?;
        let mut answer = vec![0; 8192];
        let (got, _) = recv(&self.0, &mut answer, RecvFlags::empty()).during(call)?;
        answer.truncate(got);
        let word = |at: usize| {
            answer
                .get(at..at + 4)
                .and_then(|bytes| bytes.try_into().ok())
                .map(i32::from_ne_bytes)
                .ok_or(Error::Wrong { call, what: "netlink answered too little" })
        };
        // The type is the lower half of the second word; an error's number, negative, comes first
        // after the header.
        let kind = word(4)? & 0xffff;
        match word(HEADER)? {
            error if kind == libc::NLMSG_ERROR && error != 0 => {
                Err(Errno::from_raw_os_error(-error)).during(call)
            }
            _ => Ok((kind, answer.split_off(HEADER))),
        }
    }
}
