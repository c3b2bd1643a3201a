//! What stands in a packet's way: nftables, connection tracking, NAT, traffic control. All of it in
//! a network name space of the operation's own, on the way of a datagram over loopback or veth.

use std::net::Ipv4Addr;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketType, connect, recv, sendto};

use crate::bpf::{self, Program};
use crate::meter::{During as _, all};
use crate::net::{bound, round_trips, udp_pair};
use crate::netlink::{CREATE, Message, Netlink};
use crate::netns::{Joined, Links, index, link_header, own_loopback};
use crate::sys::OrMissing as _;
use crate::{Meter, Op, Result, Shape};

pub(crate) const OPS: &[Op] = &[
    Op {
        name: "nft-10",
        summary: "udp-rr through 10 nftables rules that don't match",
        shape: Shape::new(10, 105, 7),
        max_batch: 100_000,
        copies: false,
        run: |meter| nft(meter, 10),
    },
    Op {
        name: "nft-1000",
        summary: "udp-rr through 1000 nftables rules that don't match",
        shape: Shape::new(1, 70, 5),
        max_batch: 100_000,
        copies: false,
        run: |meter| nft(meter, 1000),
    },
    Op {
        name: "conntrack",
        summary: "udp-rr of a tracked connection, accepted as established",
        shape: Shape::new(10, 100, 7),
        max_batch: 100_000,
        copies: false,
        run: |meter| {
            let _links = own_loopback()?;
            accept_established()?;
            let (client, server) = udp_pair()?;
            round_trips(meter, &client, &server)
        },
    },
    Op {
        name: "conntrack-new",
        summary: "a datagram that begins a tracked connection",
        shape: Shape::new(16, 105, 7),
        max_batch: 100,
        copies: false,
        run: conntrack_new,
    },
    Op {
        name: "nat",
        summary: "udp-rr to an address and port that are translated",
        shape: Shape::new(8, 110, 7),
        max_batch: 100_000,
        copies: false,
        run: nat,
    },
    Op {
        name: "tc-fq-codel",
        summary: "a datagram each way over veth with fq_codel at both ends",
        shape: Shape::new(10, 105, 7),
        max_batch: 100_000,
        copies: false,
        run: |meter| {
            let veth = Joined::veth()?;
            let queue = |name| add_queue(&Links::open()?, name, "fq_codel", 0x1_0000, ROOT);
            queue(Joined::NEAR.0)?;
            veth.far(|| queue(Joined::FAR.0))?;
            let (near, far) = veth.udp_pair()?;
            round_trips(meter, &near, &far)
        },
    },
    Op {
        name: "tc-bpf",
        summary: "udp-rr over loopback past a BPF classifier on the way out",
        shape: Shape::new(12, 100, 7),
        max_batch: 100_000,
        copies: false,
        run: |meter| {
            let links = own_loopback()?;
            let program = Program::load(bpf::SCHED_CLS, &bpf::answer(TC_ACT_OK))?;
            classify(&links, "lo", &program)?;
            let (client, server) = udp_pair()?;
            round_trips(meter, &client, &server)
        },
    },
    Op {
        name: "xdp-pass",
        summary: "a datagram over veth past an XDP program that passes it",
        shape: Shape::new(12, 80, 5),
        max_batch: 100_000,
        copies: false,
        run: |meter| {
            let veth = Joined::veth()?;
            let _program = xdp(&veth, XDP_PASS)?;
            let (near, far) = veth.udp_pair()?;
            let mut byte = [0];
            meter.each(|| {
                all("send", 1, rustix::net::send(&near, b"x", SendFlags::empty()).during("send")?)?;
                all("recv", 1, recv(&far, &mut byte, RecvFlags::empty()).during("recv")?.0)
            })
        },
    },
    Op {
        name: "xdp-drop",
        summary: "a datagram into veth where an XDP program drops it",
        shape: Shape::new(16, 80, 5),
        max_batch: 100_000,
        copies: false,
        run: |meter| {
            let veth = Joined::veth()?;
            let (near, _far) = veth.udp_pair()?;
            let _program = xdp(&veth, XDP_DROP)?;
            meter.each(|| {
                all("send", 1, rustix::net::send(&near, b"x", SendFlags::empty()).during("send")?)
            })
        },
    },
];

const TC_ACT_OK: i32 = 0;
const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;

const NO_NFTABLES: &str = "this kernel has no nftables, or not all that the rules need";
/// What the kernel answers when a subsystem, a chain type or an expression isn't there.
const NFT_MISSING: &[Errno] = &[Errno::PROTONOSUPPORT, Errno::OPNOTSUPP, Errno::NOENT];

fn nft(meter: &mut Meter, rules: u32) -> Result<()> {
    let _links = own_loopback()?;
    let table = Table::new("filter", LOCAL_IN, 0)?;
    // Nobody on loopback has an address of the documentation's.
    let blocked = Ipv4Addr::new(198, 18, 0, 0).to_bits();
    let blocked: Vec<u32> = (0..rules).map(|n| blocked + n).collect();
    for some in blocked.chunks(250) {
        let rules = some.iter().map(|address| {
            let address = address.to_be_bytes();
            vec![load_network(SOURCE, 4), equal(address.to_vec()), verdict(DROP)]
        });
        table.add(rules.collect())?;
    }
    let (client, server) = udp_pair()?;
    round_trips(meter, &client, &server)
}

/// Tracks connections and accepts what belongs to one that is established.
fn accept_established() -> Result<()> {
    // The bits of NF_CT_STATE_BIT: established, related.
    let states = (1u32 << 1 | 1 << 2).to_ne_bytes();
    let none = [0; 4].to_vec();
    let rule = vec![load_state(), masked(states.to_vec()), differ(none), verdict(ACCEPT)];
    Table::new("filter", LOCAL_IN, 0)?.add(vec![rule])
}

fn conntrack_new(meter: &mut Meter) -> Result<()> {
    let _links = own_loopback()?;
    accept_established()?;
    let (server, address) = bound(SocketType::DGRAM, Ipv4Addr::UNSPECIFIED)?;
    let (client, _) = bound(SocketType::DGRAM, Ipv4Addr::LOCALHOST)?;
    let (mut to, mut byte) = (Ipv4Addr::new(127, 1, 0, 0).to_bits(), [0]);
    meter.each(|| {
        to += 1;
        let to = std::net::SocketAddrV4::new(Ipv4Addr::from_bits(to), address.port());
        all("sendto", 1, sendto(&client, b"x", SendFlags::empty(), &to).during("sendto")?)?;
        all("recv", 1, recv(&server, &mut byte, RecvFlags::empty()).during("recv")?.0)
    })
}

fn nat(meter: &mut Meter) -> Result<()> {
    let _links = own_loopback()?;
    let (client, from) = bound(SocketType::DGRAM, Ipv4Addr::LOCALHOST)?;
    let (server, behind) = bound(SocketType::DGRAM, Ipv4Addr::LOCALHOST)?;
    let front = std::net::SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 2), 7);
    // NF_IP_PRI_NAT_DST
    Table::new("nat", LOCAL_OUT, -100)?.add(vec![vec![
        load_network(DESTINATION, 4),
        equal(front.ip().octets().to_vec()),
        value(1, behind.ip().octets().to_vec()),
        value(2, behind.port().to_be_bytes().to_vec()),
        translate_destination(1, 2),
    ]])?;
    connect(&client, &front).during("connect")?;
    connect(&server, &from).during("connect")?;
    round_trips(meter, &client, &server)
}

const LOCAL_IN: u32 = 1;
const LOCAL_OUT: u32 = 3;
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
/// Offsets in the header of IPv4.
const SOURCE: u32 = 12;
const DESTINATION: u32 = 16;

/// One expression of a rule: its name and its attributes.
type Expression = (&'static str, Box<dyn FnOnce(Message) -> Message>);

/// Loads bytes of the network header into register 1.
fn load_network(offset: u32, size: u32) -> Expression {
    // NFTA_PAYLOAD_DREG, _BASE (network header), _OFFSET, _LEN
    ("payload", Box::new(move |m| m.big(1, 1).big(2, 1).big(3, offset).big(4, size)))
}

/// Loads the state of the packet's connection into register 1.
fn load_state() -> Expression {
    // NFTA_CT_DREG, NFTA_CT_KEY: NFT_CT_STATE
    ("ct", Box::new(|m| m.big(1, 1).big(2, 0)))
}

/// Register 1 `and` a mask.
fn masked(mask: Vec<u8>) -> Expression {
    // NFTA_BITWISE_SREG, _DREG, _LEN, _MASK, _XOR, the latter two with NFTA_DATA_VALUE
    let size = mask.len();
    let fill = move |m: Message| {
        m.big(1, 1)
            .big(2, 1)
            .big(3, size as u32)
            .nest(4, |m| m.attr(1, &mask))
            .nest(5, |m| m.attr(1, &vec![0; size]))
    };
    ("bitwise", Box::new(fill))
}

/// Goes on where register 1 is `data`.
fn equal(data: Vec<u8>) -> Expression {
    compare(0, data)
}

/// Goes on where register 1 is not `data`.
fn differ(data: Vec<u8>) -> Expression {
    compare(1, data)
}

fn compare(how: u32, data: Vec<u8>) -> Expression {
    // NFTA_CMP_SREG, _OP, _DATA with NFTA_DATA_VALUE
    ("cmp", Box::new(move |m| m.big(1, 1).big(2, how).nest(3, |m| m.attr(1, &data))))
}

/// Puts `data` into a register.
fn value(register: u32, data: Vec<u8>) -> Expression {
    // NFTA_IMMEDIATE_DREG, _DATA with NFTA_DATA_VALUE
    ("immediate", Box::new(move |m| m.big(1, register).nest(2, |m| m.attr(1, &data))))
}

/// Ends the packet's way through the chain.
fn verdict(code: u32) -> Expression {
    // NFTA_IMMEDIATE_DREG: the verdict's; _DATA with NFTA_DATA_VERDICT with NFTA_VERDICT_CODE
    ("immediate", Box::new(move |m| m.big(1, 0).nest(2, |m| m.nest(2, |m| m.big(1, code)))))
}

/// Translates the destination to the address and port in two registers.
fn translate_destination(address: u32, port: u32) -> Expression {
    // NFTA_NAT_TYPE: destination; _FAMILY; _REG_ADDR_MIN; _REG_PROTO_MIN
    let family = libc::AF_INET as u32;
    ("nat", Box::new(move |m| m.big(1, 1).big(2, family).big(3, address).big(5, port)))
}

/// A table of nftables with one chain.
struct Table(Netlink);

impl Table {
    const NAME: &str = "kgate";

    fn new(kind: &str, hook: u32, priority: i32) -> Result<Self> {
        let netlink =
            Netlink::open(libc::NETLINK_NETFILTER).or_missing(NFT_MISSING, NO_NFTABLES)?;
        let table = nft_message(libc::NFT_MSG_NEWTABLE, libc::NLM_F_CREATE).text(1, Self::NAME);
        // NFTA_CHAIN_TABLE, _NAME, _HOOK with _HOOKNUM and _PRIORITY, _POLICY, _TYPE
        let chain = nft_message(libc::NFT_MSG_NEWCHAIN, CREATE)
            .text(1, Self::NAME)
            .text(3, Self::NAME)
            .nest(4, |m| m.big(1, hook).big(2, priority as u32))
            .big(5, ACCEPT)
            .text(7, kind);
        transaction(&netlink, vec![table, chain])?;
        Ok(Self(netlink))
    }

    /// Appends rules, all of them or none.
    fn add(&self, rules: Vec<Vec<Expression>>) -> Result<()> {
        let last = rules.len() - 1;
        let messages = rules.into_iter().enumerate().map(|(n, rule)| {
            // One acknowledgement is enough: an error is always told.
            let ack = if n == last { libc::NLM_F_ACK } else { 0 };
            let flags = libc::NLM_F_CREATE | libc::NLM_F_APPEND | ack;
            // NFTA_RULE_TABLE, _CHAIN, _EXPRESSIONS
            nft_message(libc::NFT_MSG_NEWRULE, flags).text(1, Self::NAME).text(2, Self::NAME).nest(
                4,
                |list| {
                    rule.into_iter().fold(list, |list, (name, fill)| {
                        // NFTA_LIST_ELEM with NFTA_EXPR_NAME, NFTA_EXPR_DATA
                        list.nest(1, |m| m.text(1, name).nest(2, fill))
                    })
                },
            )
        });
        transaction(&self.0, messages.collect())
    }
}

fn nft_message(kind: i32, flags: i32) -> Message {
    let kind = (libc::NFNL_SUBSYS_NFTABLES << 8 | kind) as u16;
    Message::new(kind, flags, &[libc::AF_INET as u8, 0, 0, 0])
}

/// Sends messages as one transaction.
fn transaction(netlink: &Netlink, mut messages: Vec<Message>) -> Result<()> {
    let subsystem = (libc::NFNL_SUBSYS_NFTABLES as u16).to_be_bytes();
    let edge = |kind: i32| Message::new(kind as u16, 0, &[0, 0, subsystem[0], subsystem[1]]);
    messages.insert(0, edge(libc::NFNL_MSG_BATCH_BEGIN));
    messages.push(edge(libc::NFNL_MSG_BATCH_END));
    netlink.request(messages, "netlink: nftables").or_missing(NFT_MISSING, NO_NFTABLES)
}

/// Parent of an interface's own queue.
const ROOT: u32 = 0xffff_ffff;
/// Handle, and as parent, of the hook for classifiers.
const CLSACT: (u32, u32) = (0xffff_0000, 0xffff_fff1);
/// Parent of classifiers on the way out.
const EGRESS: u32 = 0xffff_fff3;

/// `struct tcmsg`.
fn tc_header(index: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    [0, index, handle, parent, info].iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn add_queue(links: &Links, name: &str, kind: &str, handle: u32, parent: u32) -> Result<()> {
    let body = tc_header(index(name)?, handle, parent, 0);
    let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    let message = Message::new(libc::RTM_NEWQDISC, flags, &body).text(libc::TCA_KIND, kind);
    links.request(message, "netlink: new qdisc").or_missing(
        &[Errno::NOENT, Errno::OPNOTSUPP],
        "this kernel has no such queueing discipline",
    )
}

/// Attaches a program to the way out of an interface.
fn classify(links: &Links, name: &str, program: &Program) -> Result<()> {
    add_queue(links, name, "clsact", CLSACT.0, CLSACT.1)?;
    // Priority 1, every protocol (ETH_P_ALL in network byte order).
    let info = 1 << 16 | u32::from((libc::ETH_P_ALL as u16).to_be());
    let body = tc_header(index(name)?, 0, EGRESS, info);
    // TCA_BPF_FD, _NAME, _FLAGS: the program's answer is the verdict.
    let message = Message::new(libc::RTM_NEWTFILTER, CREATE, &body)
        .text(libc::TCA_KIND, "bpf")
        .nest(libc::TCA_OPTIONS, |m| {
            m.attr(6, &program.number().to_ne_bytes()).text(7, "kgate").attr(8, &1u32.to_ne_bytes())
        });
    links
        .request(message, "netlink: new filter")
        .or_missing(&[Errno::NOENT, Errno::OPNOTSUPP], "this kernel has no cls_bpf")
}

/// Attaches a program that answers `verdict` to what arrives at the far end, in the driver.
fn xdp(veth: &Joined, verdict: i32) -> Result<Program> {
    let program = Program::load(bpf::XDP, &bpf::answer(verdict))?;
    veth.far(|| {
        let body = link_header(index(Joined::FAR.0)?, 0, 0);
        // IFLA_XDP with IFLA_XDP_FD, IFLA_XDP_FLAGS: XDP_FLAGS_DRV_MODE
        let message = Message::new(libc::RTM_NEWLINK, libc::NLM_F_ACK, &body).nest(43, |m| {
            m.attr(1, &program.number().to_ne_bytes()).attr(3, &(1u32 << 2).to_ne_bytes())
        });
        Links::open()?.request(message, "netlink: XDP program")
    })?;
    Ok(program)
}
