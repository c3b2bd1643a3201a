//! BPF: programs of two instructions, maps, and classic socket filters.
#![expect(unsafe_code, reason = "bpf(2)")]

use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::io::Errno;

use crate::net::{round_trips, udp_pair};
use crate::sys::{OrMissing as _, check, descriptor, set_option};
use crate::{Error, Meter, Op, Result, Shape};

pub(crate) const OPS: &[Op] = &[
    Op {
        name: "bpf-map",
        summary: "update, lookup and deletion in a BPF hash map, by system calls",
        shape: Shape::new(25, 120, 8),
        max_batch: 1_000_000,
        copies: false,
        run: map,
    },
    Op {
        name: "socket-filter",
        summary: "udp-rr with a classic filter of 16 instructions on both sockets",
        shape: Shape::new(12, 105, 7),
        max_batch: 100_000,
        copies: false,
        run: socket_filter,
    },
];

/// Types of programs.
pub(crate) const SCHED_CLS: u32 = 3;
pub(crate) const XDP: u32 = 6;

/// A program that answers `value`: `r0 = value; exit`.
pub(crate) fn answer(value: i32) -> [u64; 2] {
    const MOVE_TO_R0: u64 = 0xb7;
    const EXIT: u64 = 0x95;
    [MOVE_TO_R0 | u64::from(value as u32) << 32, EXIT]
}

/// A program that the kernel has accepted.
pub(crate) struct Program(OwnedFd);

impl Program {
    pub(crate) fn load(kind: u32, instructions: &[u64]) -> Result<Self> {
        let license = c"Dual MIT/GPL";
        let attributes = [
            u64::from(kind) | (instructions.len() as u64) << 32,
            instructions.as_ptr() as u64,
            license.as_ptr() as u64,
        ];
        // SAFETY: what the attributes point to outlives the call, and is only read.
        let program = unsafe { bpf(PROG_LOAD, &attributes) };
        descriptor(program, "bpf BPF_PROG_LOAD")
            .or_missing(&[Errno::INVAL], "this kernel has no such BPF programs")
            .map(Self)
    }

    pub(crate) fn number(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

const MAP_CREATE: i32 = 0;
const MAP_LOOKUP: i32 = 1;
const MAP_UPDATE: i32 = 2;
const MAP_DELETE: i32 = 3;
const PROG_LOAD: i32 = 5;
const HASH: u64 = 1;

/// `bpf(2)`; the kernel takes attributes that are left out as zero.
///
/// # Safety
/// What the attributes point to has to be there, as large as the command wants it.
unsafe fn bpf(command: i32, attributes: &[u64]) -> i64 {
    let (at, size) = (attributes.as_ptr(), size_of_val(attributes));
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_bpf, command, at, size) }
}

fn map(meter: &mut Meter) -> Result<()> {
    let (key_size, value_size, entries) = (8u64, 64u64, 1024u64);
    // SAFETY: creation points to nothing.
    let map = unsafe { bpf(MAP_CREATE, &[HASH | key_size << 32, value_size | entries << 32]) };
    let map = descriptor(map, "bpf BPF_MAP_CREATE")?;
    let number = map.as_raw_fd() as u64;
    let (mut key, value, mut found) = (0u64, [7u8; 64], [0u8; 64]);
    meter.each(|| {
        key = (key + 1) % 512;
        let at = (&raw const key) as u64;
        // SAFETY: key and values are as large as the map was told, and outlive the calls.
        unsafe {
            check(bpf(MAP_UPDATE, &[number, at, value.as_ptr() as u64, 0]), "bpf update")?;
            check(bpf(MAP_LOOKUP, &[number, at, found.as_mut_ptr() as u64, 0]), "bpf lookup")?;
            check(bpf(MAP_DELETE, &[number, at, 0, 0]), "bpf delete")?;
        }
        if found == value {
            Ok(())
        } else {
            Err(Error::Wrong { call: "bpf lookup", what: "found something else" })
        }
    })
}

fn socket_filter(meter: &mut Meter) -> Result<()> {
    let instruction = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    // Loads the destination port and compares it to ports of no interest, then takes it all.
    let load = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
    let compare = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let mut program = vec![instruction(load, 2)];
    program.extend((1..15).map(|port| instruction(compare, port)));
    program.push(instruction((libc::BPF_RET | libc::BPF_K) as u16, u32::MAX));
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    let (client, server) = udp_pair()?;
    for socket in [&client, &server] {
        let call = "setsockopt SO_ATTACH_FILTER";
        set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter, call)?;
    }
    round_trips(meter, &client, &server)
}
