//! io_uring, without a library: one ring, one submission at a time.
#![expect(unsafe_code, reason = "shares rings with the kernel")]

use std::ffi::c_void;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::file::{CACHED, PAGE, Pages, Scratch};
use crate::meter::{During as _, all};
use crate::net::{tcp_client, tcp_listener};
use crate::sys::{OrMissing as _, check, descriptor};
use crate::{Error, Meter, Op, Result, Shape};

pub(crate) const OPS: &[Op] = &[
    Op {
        name: "uring-nop",
        summary: "one NOP submitted to io_uring and completed",
        shape: Shape::new(200, 110, 7),
        max_batch: 1_000_000,
        copies: false,
        run: |meter| {
            let mut ring = Ring::new()?;
            meter.each(|| {
                // SAFETY: a NOP touches no memory.
                unsafe { ring.submit(&Entry { opcode: NOP, ..Entry::ZERO }) }.map(drop)
            })
        },
    },
    Op {
        name: "uring-read",
        summary: "4 KiB out of the page cache by io_uring",
        shape: Shape::new(30, 95, 6),
        max_batch: 1_000_000,
        copies: true,
        run: |meter| transfer(meter, READ),
    },
    Op {
        name: "uring-write",
        summary: "4 KiB over what the page cache holds by io_uring",
        shape: Shape::new(12, 105, 7),
        max_batch: 1_000_000,
        copies: false,
        run: |meter| transfer(meter, WRITE),
    },
    Op {
        name: "uring-accept",
        summary: "TCP connect over loopback, accept by io_uring, close",
        shape: Shape::new(2, 95, 6),
        max_batch: 2000,
        copies: false,
        run: |meter| {
            let mut ring = Ring::new()?;
            let (listener, address) = tcp_listener(Ipv4Addr::LOCALHOST)?;
            meter.each(|| {
                let client = tcp_client(address)?;
                let accept = Entry { opcode: ACCEPT, fd: listener.as_raw_fd(), ..Entry::ZERO };
                // SAFETY: without a place for the address, accepting touches no memory. What it
                // answers with is a new descriptor of ours.
                let server = unsafe { OwnedFd::from_raw_fd(ring.submit(&accept)?) };
                drop((client, server));
                Ok(())
            })
        },
    },
];

const NOP: u8 = 0;
const ACCEPT: u8 = 13;
const READ: u8 = 22;
const WRITE: u8 = 23;

/// Moves page after page of a cached file.
fn transfer(meter: &mut Meter, opcode: u8) -> Result<()> {
    let mut ring = Ring::new()?;
    let scratch = Scratch::new(meter.dir())?;
    let file = scratch.open(CACHED)?;
    let (mut page, mut pages) = ([7u8; PAGE], Pages::default());
    meter.each(|| {
        let entry = Entry {
            opcode,
            fd: file.as_raw_fd(),
            offset: pages.next_offset(),
            address: page.as_mut_ptr() as u64,
            size: PAGE as u32,
            ..Entry::ZERO
        };
        // SAFETY: the page is as large as it says, and lives until the answer is there.
        let moved = unsafe { ring.submit(&entry) }?;
        all("io_uring transfer", PAGE, moved as usize)
    })
}

/// `struct io_uring_sqe`, as far as it is used here.
#[repr(C)]
#[derive(Clone, Copy)]
struct Entry {
    opcode: u8,
    flags: u8,
    priority: u16,
    fd: i32,
    offset: u64,
    address: u64,
    size: u32,
    op_flags: u32,
    user_data: u64,
    rest: [u64; 3],
}

impl Entry {
    const ZERO: Self = Self {
        opcode: 0,
        flags: 0,
        priority: 0,
        fd: -1,
        offset: 0,
        address: 0,
        size: 0,
        op_flags: 0,
        user_data: 0,
        rest: [0; 3],
    };
}

/// `struct io_uring_cqe`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Completion {
    user_data: u64,
    result: i32,
    flags: u32,
}

/// `struct io_uring_params`. Offsets of submission: head, tail, mask, entries, flags, dropped, array;
/// of completion: head, tail, mask, entries, overflow, entries' start.
#[repr(C)]
#[derive(Default)]
struct Parameters {
    entries: [u32; 2],
    flags: u32,
    sq_thread: [u32; 2],
    features: u32,
    rest: [u32; 4],
    submission: [u32; 10],
    completion: [u32; 10],
}

/// Both rings in one mapping, as kernels since 5.4 offer it.
const SINGLE_MMAP: u32 = 1;
const AT_RINGS: u64 = 0;
const AT_ENTRIES: u64 = 0x1000_0000;
/// Entries of the submission ring; the completion ring has twice as many.
const ENTRIES: u32 = 4;

/// A ring with nothing in flight between two calls.
struct Ring {
    fd: OwnedFd,
    rings: Shared,
    entries: Shared,
    parameters: Parameters,
}

impl Ring {
    fn new() -> Result<Self> {
        let mut parameters = Parameters::default();
        // SAFETY: the kernel reads and fills the parameters, which have the layout it wants.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, ENTRIES, &raw mut parameters) };
        let fd = descriptor(fd, "io_uring_setup")?;
        if parameters.features & SINGLE_MMAP == 0 {
            return Err(Error::Missing("io_uring is older than Linux 5.4"));
        }
        let [_, _, _, _, _, _, array, ..] = parameters.submission;
        let [_, _, _, _, _, completions, ..] = parameters.completion;
        let size = (array + 4 * parameters.entries[0])
            .max(completions + size_of::<Completion>() as u32 * parameters.entries[1]);
        let rings = Shared::new(fd.as_fd(), size as usize, AT_RINGS)?;
        let size = size_of::<Entry>() * parameters.entries[0] as usize;
        let entries = Shared::new(fd.as_fd(), size, AT_ENTRIES)?;
        Ok(Self { fd, rings, entries, parameters })
    }

    /// Submits one entry, waits for its completion, and answers with its result.
    ///
    /// # Safety
    /// What the entry points to has to be there until this is over.
    unsafe fn submit(&mut self, entry: &Entry) -> Result<i32> {
        let [_, tail, mask, _, _, _, array, ..] = self.parameters.submission;
        let (tail, mask) = (self.rings.word(tail), self.rings.word(mask));
        let at = tail.load(Ordering::Relaxed);
        let slot = at & mask.load(Ordering::Relaxed);
        // SAFETY: the slot is within the entries, and nothing is in flight that the kernel could
        // still read there.
        unsafe { self.entries.start.cast::<Entry>().add(slot as usize).write(*entry) };
        self.rings.word(array + 4 * slot).store(slot, Ordering::Relaxed);
        tail.store(at.wrapping_add(1), Ordering::Release);
        const GET_EVENTS: u32 = 1;
        let none = std::ptr::null::<c_void>();
        // SAFETY: no signal mask is passed; what the entry points to is the caller's.
        let submitted = unsafe {
            let fd = self.fd.as_raw_fd();
            libc::syscall(libc::SYS_io_uring_enter, fd, 1u32, 1u32, GET_EVENTS, none, 0usize)
        };
        all("io_uring_enter", 1, check(submitted, "io_uring_enter")?)?;
        let [head, tail, mask, _, _, completions, ..] = self.parameters.completion;
        let head = self.rings.word(head);
        let at = head.load(Ordering::Relaxed);
        if self.rings.word(tail).load(Ordering::Acquire) == at {
            return Err(Error::Wrong { call: "io_uring_enter", what: "completed nothing" });
        }
        let slot = at & self.rings.word(mask).load(Ordering::Relaxed);
        // SAFETY: the kernel has written the completion in this slot, which is within the ring.
        let completion = unsafe {
            let first = self.rings.start.byte_add(completions as usize).cast::<Completion>();
            first.add(slot as usize).read()
        };
        head.store(at.wrapping_add(1), Ordering::Release);
        if completion.result < 0 {
            return Err(Errno::from_raw_os_error(-completion.result))
                .during("io_uring completion")
                .or_missing(&[Errno::INVAL], "io_uring has no such operation");
        }
        Ok(completion.result)
    }
}

/// Memory that is shared with the kernel.
struct Shared {
    start: *mut c_void,
    size: usize,
}

impl Shared {
    fn new(fd: BorrowedFd<'_>, size: usize, at: u64) -> Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing else.
        let start = unsafe { mmap(std::ptr::null_mut(), size, access, flags, fd, at) };
        Ok(Self { start: start.during("mmap of io_uring")?, size })
    }

    /// The word at `offset`, as the kernel told it.
    fn word(&self, offset: u32) -> &AtomicU32 {
        let offset = offset as usize;
        assert!(offset.is_multiple_of(4) && offset + 4 <= self.size, "within the ring");
        // SAFETY: within the mapping and aligned, as was just seen; shared, hence atomic.
        unsafe { &*self.start.byte_add(offset).cast::<AtomicU32>() }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping any more.
        let _ = unsafe { munmap(self.start, self.size) };
    }
}
