//! Memory: mapping it, faulting it in, protecting it and giving it back.
#![expect(unsafe_code, reason = "maps, touches and unmaps memory by hand")]

use std::ffi::c_void;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::write;
use rustix::mm::{
    Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap, mmap_anonymous, mprotect, munmap,
};

use crate::meter::{During as _, all};
use crate::{Error, Meter, Op, Result, Shape};

pub(crate) const OPS: &[Op] = &[
    Op {
        name: "mmap-fault",
        summary: "first write to a 4 KiB page of anonymous memory",
        shape: Shape::new(25, 115, 8),
        max_batch: 16_384,
        copies: true,
        run: faults,
    },
    Op {
        name: "munmap",
        summary: "munmap of 16 touched pages",
        shape: Shape::new(1, 120, 8),
        max_batch: 1024,
        copies: false,
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
        shape: Shape::new(12, 110, 7),
        max_batch: 1_000_000,
        copies: false,
        run: |meter| meter.each(|| Mapping::new(16)?.unmap()),
    },
    Op {
        name: "mprotect",
        summary: "mprotect of 16 touched pages to read-only and back",
        shape: Shape::new(16, 120, 8),
        max_batch: 1_000_000,
        copies: false,
        run: |meter| {
            // Guarded on both sides, so that no neighbour is merged and split again.
            let mapping = Mapping::touched(18)?;
            mapping.protect(0, 1, ProtFlags::empty())?;
            mapping.protect(17, 1, ProtFlags::empty())?;
            meter.each(|| {
                mapping.protect(1, 16, ProtFlags::READ)?;
                mapping.protect(1, 16, ProtFlags::READ | ProtFlags::WRITE)
            })
        },
    },
    Op {
        name: "madvise-dontneed",
        summary: "MADV_DONTNEED of 16 touched pages, and their next touch",
        shape: Shape::new(1, 120, 8),
        max_batch: 100_000,
        copies: true,
        run: |meter| {
            let mapping = Mapping::touched(16)?;
            meter.each(|| {
                mapping.forget()?;
                mapping.touch();
                Ok(())
            })
        },
    },
    Op {
        name: "thp-fault",
        summary: "first write to 2 MiB of memory that may be one huge page, and munmap",
        shape: Shape::new(1, 20, 1),
        max_batch: 10_000,
        copies: true,
        run: thp_fault,
    },
    Op {
        name: "file-fault",
        summary: "first read of 64 KiB of a mapped file in the page cache",
        shape: Shape::new(3, 120, 8),
        max_batch: FILE_FAULTS,
        copies: false,
        run: |meter| {
            let file = Mapping::of_file(MapFlags::SHARED)?;
            meter.batches(
                |_| file.forget(),
                |(), batch| {
                    (0..batch as usize).for_each(|n| file.read(n * 16));
                    Ok(())
                },
            )
        },
    },
    Op {
        name: "cow-fault",
        summary: "first write to a page of a file mapped privately: a copy",
        shape: Shape::new(4, 115, 8),
        max_batch: 16 * FILE_FAULTS,
        copies: true,
        run: |meter| {
            let file = Mapping::of_file(MapFlags::PRIVATE)?;
            meter.batches(
                |_| file.forget(),
                |(), batch| {
                    (0..batch as usize).for_each(|n| file.write(n));
                    Ok(())
                },
            )
        },
    },
];

/// Windows of 16 pages, as many as a fault maps at once, in the file that is mapped.
const FILE_FAULTS: u32 = 64;

const PAGE: usize = 4096;

/// First writes to pages of a new mapping each batch.
pub(crate) fn faults(meter: &mut Meter) -> Result<()> {
    meter.batches(
        |pages| Mapping::new(pages as usize),
        |mapping, _| {
            mapping.touch();
            Ok(())
        },
    )
}

fn thp_fault(meter: &mut Meter) -> Result<()> {
    const HUGE: usize = 512;
    let enabled = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    if !enabled.is_ok_and(|modes| !modes.contains("[never]")) {
        return Err(Error::Missing(
            "no transparent huge pages, which a machine of less than 512 MiB never has",
        ));
    }
    meter.each(|| {
        let mapping = Mapping::of_advice(2 * HUGE, Advice::LinuxHugepage)?;
        let first = (mapping.start as usize).next_multiple_of(HUGE * PAGE) - mapping.start as usize;
        (0..HUGE).for_each(|page| mapping.write(first / PAGE + page));
        mapping.unmap()
    })
}

/// A mapping, unmapped when dropped.
struct Mapping {
    start: *mut c_void,
    pages: usize,
}

impl Mapping {
    /// A private anonymous mapping of small pages only: with huge pages one fault would stand for
    /// 512.
    fn new(pages: usize) -> Result<Self> {
        Self::of_advice(pages, Advice::LinuxNoHugepage)
    }

    fn of_advice(pages: usize, advice: Advice) -> Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new private mapping at an address of the kernel's choice touches nothing else.
        let start = unsafe {
            mmap_anonymous(std::ptr::null_mut(), pages * PAGE, access, MapFlags::PRIVATE)
        }
        .during("mmap")?;
        // A kernel built without huge pages refuses the advice, which then isn't needed.
        // SAFETY: advice on a mapping of our own.
        let _ = unsafe { madvise(start, pages * PAGE, advice) };
        Ok(Self { start, pages })
    }

    fn touched(pages: usize) -> Result<Self> {
        let mapping = Self::new(pages)?;
        mapping.touch();
        Ok(mapping)
    }

    /// A file of [`FILE_FAULTS`] times 16 pages, all in the page cache, mapped.
    fn of_file(sharing: MapFlags) -> Result<Self> {
        let pages = FILE_FAULTS as usize * 16;
        let file = memfd_create("kgate-ops", MemfdFlags::CLOEXEC).during("memfd_create")?;
        for _ in 0..pages {
            all("write to memfd", PAGE, write(&file, &[1; PAGE]).during("write to memfd")?)?;
        }
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing else.
        let start = unsafe { mmap(std::ptr::null_mut(), pages * PAGE, access, sharing, &file, 0) }
            .during("mmap")?;
        Ok(Self { start, pages })
    }

    fn touch(&self) {
        (0..self.pages).for_each(|page| self.write(page));
    }

    fn write(&self, page: usize) {
        assert!(page < self.pages, "within the mapping");
        // SAFETY: the address lies within the mapping, which is writable.
        unsafe { self.start.cast::<u8>().add(page * PAGE).write_volatile(1) };
    }

    fn read(&self, page: usize) {
        assert!(page < self.pages, "within the mapping");
        // SAFETY: the address lies within the mapping, which is readable.
        unsafe { self.start.cast::<u8>().add(page * PAGE).read_volatile() };
    }

    fn protect(&self, page: usize, pages: usize, access: ProtFlags) -> Result<()> {
        assert!(page + pages <= self.pages, "within the mapping");
        let access = MprotectFlags::from_bits_retain(access.bits());
        // SAFETY: the pages lie within the mapping, and nobody holds a reference into it.
        unsafe { mprotect(self.start.byte_add(page * PAGE), pages * PAGE, access) }
            .during("mprotect")
    }

    /// Takes every page away, so that the next touch is the first again.
    fn forget(&self) -> Result<()> {
        // SAFETY: nobody holds a reference into the mapping.
        unsafe { madvise(self.start, self.pages * PAGE, Advice::LinuxDontNeed) }
            .during("madvise MADV_DONTNEED")
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
