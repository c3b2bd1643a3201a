//! What kgate loads into QEMU as a plugin of its emulation: it counts the instructions that a guest
//! executes, by address, or makes new processes of a guest that is stopped.
//!
//! The latter is `fork`'s; all else here counts.
//!
//! `-plugin FILE,out=PATH[,stacks=on]`. FILE may be a descriptor, as `/proc/self/fd/9`, and so may
//! PATH. Each instruction of the guest's kernel (at an address with the top bit set) gets a counter
//! of its own, the same one whenever it is translated again; all instructions of user mode share
//! one. The counters are added to by the translated code itself, so the guest executes the very
//! same instructions with the plugin as without it.
//!
//! # Markers
//! A program of the guest says what counts by 8-byte no-ops, `0f 1f 84 00 NN 4b 54 4b`, in user
//! mode:
//!
//! | NN | meaning |
//! |---|---|
//! | 03 | a segment begins: one operation that is measured |
//! | 01, 02 | what is between these counts; the pairs of a segment add up |
//!
//! All that the guest executes between 01 and 02 counts, whichever task it is of. Markers
//! themselves don't count. A load or store that faults is started again after the fault, and
//! counts twice: here, not in the time-stamp counter.
//!
//! # Output
//! Lines of text. A segment is written when the next one begins, the last one when QEMU exits.
//! Numbers are decimal, addresses hexadecimal.
//!
//! | line | meaning |
//! |---|---|
//! | `kgate-plugin 1` | the first line: the version of the format |
//! | `s N` | segment N begins; 0 is what counted before the first marker 03, if anything did |
//! | `k DISTANCE COUNT` | the kernel's instruction at this distance from the one in the line before, or from zero, was executed so often |
//! | `n PARENT ADDRESS` | (stacks) a node of the tree of stacks: a call from the stack PARENT that will return to ADDRESS. Nodes are numbered from 1 through the whole file; 0 is the empty stack |
//! | `t NODE BLOCK COUNT` | (stacks) on this stack, so many instructions of the block that begins at this address; 0 is user mode |
//! | `e N BATCHES USER BEYOND KERNEL` | segment N ends: pairs of markers, instructions in user mode, instructions of the kernel at addresses for which there were no counters left, and the sum of the `k` lines |
//! | `z SEGMENTS` | the last line: how many segments there were |
//!
//! A file without its last line was cut: QEMU was killed, writing failed, or the file would have
//! become larger than 256 MiB. Segments that have their `e` line are whole all the same.
//!
//! # Stacks
//! With `stacks=on` the `t` lines of a segment sum to the same total as its counters. Return
//! addresses are followed from the first marker on, by the addresses on the stack that calls store
//! them to and returns load them from; so a task that was waiting then has a stack that begins
//! where it goes on. It costs time, and changes no count either.
//!
//! # Limits
//! One CPU, x86-64, whole machines. The interface's versions 1 (QEMU 7 and 8) and 2 and later (QEMU
//! 9 and later) are chosen between at run time.

mod abi;
mod fork;
mod output;
mod stacks;
mod tally;

use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use abi::{Block, Counters};
use output::{Output, Segment};
use stacks::{Map, Stacks, USER};
use tally::Tally;

/// The first bytes of a marker, its number left out, and the last ones.
const MARKER: ([u8; 4], [u8; 3]) = ([0x0f, 0x1f, 0x84, 0x00], [0x4b, 0x54, 0x4b]);
/// The counter of user mode.
const OF_USER: usize = 0;
/// The counter of addresses that have none of their own.
const OF_BEYOND: usize = 1;
/// With stacks, the counter of all instructions.
const OF_ALL: usize = 2;
/// The counters from here on belong to addresses.
const OF_ADDRESSES: usize = 3;
/// More instructions than the text of any kernel with its modules has.
const MAX_ADDRESSES: usize = 1 << 22;

static PLUGIN: Mutex<Option<Plugin>> = Mutex::new(None);
/// Set by the first marker: until then, stacks are followed for nothing.
static FOLLOW: AtomicBool = AtomicBool::new(false);

/// Whether blocks, calls and returns matter yet.
fn follows_stacks() -> bool {
    FOLLOW.load(Ordering::Relaxed)
}

/// Calls `f` with the plugin, which QEMU's threads take turns to use.
fn with(f: impl FnOnce(&mut Plugin)) {
    if let Some(plugin) = PLUGIN.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        f(plugin);
    }
}

/// What was asked for on the command line.
enum Options {
    Count { out: String, stacks: bool },
    Fork(fork::Options),
}

fn options(args: impl Iterator<Item = String>) -> Result<Options, String> {
    let (mut out, mut stacks, mut control, mut replace) = (None, false, None, None);
    for arg in args {
        match arg.split_once('=') {
            Some(("out", path)) => out = Some(path.to_owned()),
            Some(("stacks", "on")) => stacks = true,
            Some(("stacks", "off")) => stacks = false,
            Some(("control", fd)) => control = Some(fd.to_owned()),
            Some(("replace", fds)) => replace = Some(fds.to_owned()),
            _ => {
                return Err(format!(
                    "unknown argument {arg:?}: known are out=PATH, stacks=on|off, control=FD, \
                     replace=FD:FD:…"
                ));
            }
        }
    }
    match (out, control, replace) {
        (Some(out), None, None) => Ok(Options::Count { out, stacks }),
        (None, Some(control), Some(replace)) if !stacks => {
            fork::Options::new(&control, &replace).map(Options::Fork)
        }
        _ => Err("either out=PATH is wanted, or control=FD and replace=FD:FD:…".into()),
    }
}

/// Whether the guest is one whose instructions can be counted exactly.
fn check(target: &str, is_system: bool, cpus: i32) -> Result<(), String> {
    if target != "x86_64" || !is_system {
        return Err(format!("{target} is not emulated as a whole x86_64 machine"));
    }
    if cpus != 1 {
        return Err(format!("the guest may have {cpus} CPUs: counts are exact only with one"));
    }
    Ok(())
}

fn install(path: &str, stacks: bool, counters: Counters) -> Result<(), String> {
    let file = File::create(path).and_then(Output::new).map_err(|e| format!("{path}: {e}"))?;
    let plugin = Plugin {
        counters,
        by_address: Map::default(),
        addresses: Vec::new(),
        tally: Tally::default(),
        segment: 0,
        stacks: stacks.then(Stacks::default),
        out: file,
    };
    *PLUGIN.lock().unwrap_or_else(PoisonError::into_inner) = Some(plugin);
    Ok(())
}

/// Tells why the plugin doesn't load. QEMU itself only says that it doesn't.
fn refuse(why: &str) {
    // There is nobody else to tell.
    let _ = writeln!(std::io::stderr(), "kgate-plugin: {why}");
}

struct Plugin {
    counters: Counters,
    by_address: Map<u64, usize>,
    /// The addresses in the order of their counters.
    addresses: Vec<u64>,
    tally: Tally,
    segment: u32,
    stacks: Option<Stacks>,
    out: Output<File>,
}

impl Plugin {
    fn at_translation(&mut self, block: &Block<'_>) {
        let mut start = None;
        for instruction in block.instructions() {
            let address = instruction.address();
            let is_kernel = address >> 63 == 1;
            let (bytes, size) = instruction.bytes();
            if self.stacks.is_some() {
                let start = *start.get_or_insert_with(|| {
                    block.tell(if is_kernel { address } else { USER });
                    address
                });
                match kind(&bytes) {
                    Kind::Call if is_kernel => {
                        instruction.tell_call(address.wrapping_add(size as u64));
                    }
                    Kind::Return if is_kernel => instruction.tell_return(start),
                    _ => {}
                }
            }
            if let Some(marker) = marker(&bytes[..size]).filter(|_| !is_kernel) {
                instruction.tell_marker(marker);
                continue;
            }
            let counter = if is_kernel { self.counter(address) } else { OF_USER };
            self.counters.count(&instruction, counter);
            if self.stacks.is_some() {
                self.counters.count(&instruction, OF_ALL);
            }
        }
    }

    fn counter(&mut self, address: u64) -> usize {
        if let Some(&counter) = self.by_address.get(&address) {
            return counter;
        }
        if self.addresses.len() >= MAX_ADDRESSES {
            return OF_BEYOND;
        }
        let counter = OF_ADDRESSES + self.addresses.len();
        self.addresses.push(address);
        self.by_address.insert(address, counter);
        counter
    }

    fn at_marker(&mut self, marker: usize) {
        FOLLOW.store(true, Ordering::Relaxed);
        match marker {
            1 if !self.tally.is_open() => {
                if let Some(stacks) = &mut self.stacks {
                    stacks.start(self.counters.get(OF_ALL));
                }
                self.tally.start(self.counters.read(OF_ADDRESSES + self.addresses.len()));
            }
            2 => self.stop(),
            3 => {
                self.end_segment();
                self.segment = self.segment.saturating_add(1);
            }
            _ => {}
        }
    }

    fn stop(&mut self) {
        if let Some(stacks) = &mut self.stacks {
            stacks.stop(self.counters.get(OF_ALL));
        }
        self.tally.stop(self.counters.read(OF_ADDRESSES + self.addresses.len()));
    }

    fn end_segment(&mut self) {
        self.stop();
        let (sums, batches) = self.tally.take();
        if self.segment == 0 && batches == 0 {
            return;
        }
        let of = |counter: usize| sums.get(counter).copied().unwrap_or(0);
        let counts = self.addresses.iter().zip(sums.iter().skip(OF_ADDRESSES));
        let mut kernel: Vec<(u64, u64)> =
            counts.filter(|(_, count)| **count > 0).map(|(&a, &count)| (a, count)).collect();
        kernel.sort_unstable();
        let (nodes, stacks) = self.stacks.as_mut().map(Stacks::take).unwrap_or_default();
        self.out.segment(&Segment {
            number: self.segment,
            batches,
            user: of(OF_USER),
            beyond: of(OF_BEYOND),
            kernel,
            nodes,
            stacks,
        });
    }

    fn at_block(&mut self, address: u64) {
        if let Some(stacks) = &mut self.stacks {
            stacks.block(address, self.counters.get(OF_ALL));
        }
    }

    fn at_call(&mut self, at: u64, to: u64) {
        if let Some(stacks) = &mut self.stacks {
            stacks.call(at, to);
        }
    }

    fn at_return(&mut self, at: u64, block: u64) {
        if let Some(stacks) = &mut self.stacks {
            stacks.ret(at, block);
        }
    }

    fn at_exit(&mut self) {
        self.end_segment();
        self.out.finish();
    }
}

/// The number of a marker.
fn marker(bytes: &[u8]) -> Option<u8> {
    let number = bytes.strip_prefix(&MARKER.0)?.strip_suffix(&MARKER.1)?;
    match number {
        [number @ 1..=3] => Some(*number),
        _ => None,
    }
}

/// What an instruction does to the stack of calls.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Call,
    Return,
    Other,
}

/// Tells near calls and returns by their first bytes, prefixes skipped.
fn kind(bytes: &[u8]) -> Kind {
    let is_prefix = |byte: &u8| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf2 | 0xf3);
    let start = bytes.iter().position(|byte| !is_prefix(byte)).unwrap_or(bytes.len());
    match bytes[start..] {
        [0xe8, ..] => Kind::Call,
        [0xff, modrm, ..] if modrm >> 3 & 7 == 2 => Kind::Call,
        [0xc2 | 0xc3, ..] => Kind::Return,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_told_apart_by_their_bytes() {
        for (bytes, expected) in [
            (&[0xe8, 1, 2, 3, 4][..], Kind::Call),
            (&[0xff, 0xd0], Kind::Call),
            (&[0x2e, 0xff, 0xd0], Kind::Call),
            (&[0x41, 0xff, 0xd3], Kind::Call),
            (&[0xff, 0x14, 0x25, 0, 0, 0, 0], Kind::Call),
            (&[0xff, 0xe0], Kind::Other),
            (&[0xff, 0x30], Kind::Other),
            (&[0xc3], Kind::Return),
            (&[0xf3, 0xc3], Kind::Return),
            (&[0xc2, 8, 0], Kind::Return),
            (&[0x90], Kind::Other),
            (&[0xf3], Kind::Other),
        ] {
            assert_eq!(kind(bytes), expected, "{bytes:x?}");
        }
        let mut bytes = [0x0f, 0x1f, 0x84, 0x00, 0x02, 0x4b, 0x54, 0x4b];
        assert_eq!(marker(&bytes), Some(2));
        assert_eq!(marker(&bytes[..7]), None);
        bytes[4] = 4;
        assert_eq!(marker(&bytes), None);
    }

    #[test]
    fn arguments_and_guests_are_checked() {
        let parse = |args: &[&str]| options(args.iter().map(|&arg| arg.to_owned()));
        let Ok(Options::Count { out, stacks }) = parse(&["out=/x=y", "stacks=on"]) else {
            panic!("it counts")
        };
        assert_eq!((out.as_str(), stacks), ("/x=y", true));
        assert!(matches!(parse(&["control=5", "replace=7:8"]), Ok(Options::Fork(_))));
        for wrong in [
            &["stacks=on"][..],
            &["out=x", "stack=on"],
            &["control=5"],
            &["out=x", "control=5", "replace=7"],
        ] {
            assert!(parse(wrong).is_err());
        }
        assert!(check("x86_64", true, 1).is_ok());
        for (target, is_system, cpus) in
            [("x86_64", true, 2), ("x86_64", false, 1), ("arm", true, 1)]
        {
            assert!(check(target, is_system, cpus).is_err());
        }
    }
}
