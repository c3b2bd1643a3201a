//! Anonymous memory: faulting it in and giving it back.
#![expect(unsafe_code, reason = "maps, touches and unmaps memory by hand")]

use std::ffi::c_void;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::meter::During as _;
use crate::{Op, Result, Shape};

pub(crate) const OPS: &[Op] = &[
    Op {
        name: "mmap-fault",
        summary: "first write to a 4 KiB page of anonymous memory",
        shape: Shape::new(500, 40, 4),
        max_batch: 16_384,
        run: |meter| {
            meter.batches(
                |pages| Mapping::new(pages as usize),
                |mapping, _| {
                    mapping.touch();
                    Ok(())
                },
            )
        },
    },
    Op {
        name: "munmap",
        summary: "munmap of 16 touched pages",
        shape: Shape::new(50, 40, 4),
        max_batch: 1024,
        run: |meter| {
            meter.batches(
                |batch| (0..batch).map(|_| Mapping::touched(16)).collect::<Result<Vec<_>>>(),
                |mappings, _| mappings.drain(..).try_for_each(|m| m.unmap()),
            )
        },
    },
    Op {
        name: "mmap-munmap",
        summary: "mmap of 16 pages, none touched, and munmap",
        shape: Shape::new(500, 40, 4),
        max_batch: 1_000_000,
        run: |meter| meter.each(|| Mapping::new(16)?.unmap()),
    },
];

const PAGE: usize = 4096;

/// A private anonymous mapping, unmapped when dropped.
struct Mapping {
    start: *mut c_void,
    pages: usize,
}

impl Mapping {
    fn new(pages: usize) -> Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new private mapping at an address of the kernel's choice touches nothing else.
        let start = unsafe {
            mmap_anonymous(std::ptr::null_mut(), pages * PAGE, access, MapFlags::PRIVATE)
        }
        .during("mmap")?;
        // With huge pages one fault would stand for 512. A kernel built without them refuses the
        // advice, which then isn't needed.
        // SAFETY: advice on a mapping of our own.
        let _ = unsafe {
            rustix::mm::madvise(start, pages * PAGE, rustix::mm::Advice::LinuxNoHugepage)
        };
        Ok(Self { start, pages })
    }

    fn touched(pages: usize) -> Result<Self> {
        let mapping = Self::new(pages)?;
        mapping.touch();
        Ok(mapping)
    }

    fn touch(&self) {
        for page in 0..self.pages {
            // SAFETY: the address lies within the mapping, which is writable.
            unsafe { self.start.cast::<u8>().add(page * PAGE).write_volatile(1) };
        }
    }

    fn unmap(self) -> Result<()> {
        let mapping = std::mem::ManuallyDrop::new(self);
        // SAFETY: nothing refers to the mapping any more, and it isn't unmapped again.
        unsafe { munmap(mapping.start, mapping.pages * PAGE) }.during("munmap")
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping any more.
        let _ = unsafe { munmap(self.start, self.pages * PAGE) };
    }
}
