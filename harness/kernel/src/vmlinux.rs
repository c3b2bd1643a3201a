//! The uncompressed ELF kernel inside a boot image.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use memchr::memmem;
use object::LittleEndian;
use object::elf::{FileHeader64, NoteType, PT_NOTE};
use object::read::elf::{FileHeader, ProgramHeader};

use crate::bzimage::BzImage;
use crate::compress::{self, Format};
use crate::config::Config;
use crate::error::KernelError;

/// No kernel unpacks to more.
const MAX_VMLINUX: u32 = 1 << 30;
/// No configuration is larger.
const MAX_CONFIG: u64 = 16 << 20;
const XEN_ELFNOTE_PHYS32_ENTRY: NoteType = NoteType(18);

/// An uncompressed kernel.
#[derive(Clone, Debug)]
pub struct Vmlinux {
    /// The ELF file, perhaps with its relocations after it.
    pub bytes: Vec<u8>,
    /// How it was packed: `gzip`, `xz`, `lzma`, `bzip2`, `lz4` or `zstd`.
    pub compression: &'static str,
    /// Physical address of the PVH entry point; `None` when the kernel was built without
    /// `CONFIG_PVH` and can't be started as an ELF file.
    pub pvh_entry: Option<u32>,
}

/// Unpacks the kernel from the boot image at `path`.
pub(crate) fn extract(path: &Path) -> Result<Vmlinux, KernelError> {
    let payload = BzImage::read(path)?.payload;
    let io = |e| KernelError::io("read", path, e);
    let mut packed = Vec::new();
    let mut file = File::open(path).map_err(io)?;
    file.seek(SeekFrom::Start(payload.start)).map_err(io)?;
    file.take(payload.end - payload.start).read_to_end(&mut packed).map_err(io)?;

    let format = match Format::detect(&packed) {
        Some(Format::Lzop) => {
            return Err(KernelError::Unsupported {
                path: path.to_owned(),
                what: "a kernel packed with lzo".to_owned(),
                advice: "build it with CONFIG_KERNEL_ZSTD or CONFIG_KERNEL_GZIP",
            });
        }
        Some(format) => format,
        None => return Err(KernelError::damaged(path, "its payload is packed in no known format")),
    };
    // The build appends the unpacked size to every format (gzip ends with it anyway).
    let Some((data, size)) = packed.split_last_chunk::<4>() else {
        return Err(KernelError::damaged(path, "its payload has no size"));
    };
    let size = u32::from_le_bytes(*size);
    if size > MAX_VMLINUX {
        return Err(KernelError::damaged(
            path,
            format!("its payload claims to unpack to {size} bytes"),
        ));
    }
    let data = if format == Format::Gzip { &packed } else { data };
    let mut bytes = Vec::with_capacity(size as usize);
    compress::reader(format, data)
        .and_then(|reader| reader.take(u64::from(size) + 1).read_to_end(&mut bytes))
        .map_err(|e| KernelError::damaged(path, format!("its {} payload: {e}", format.name())))?;
    let claim = match bytes.len().cmp(&(size as usize)) {
        Ordering::Equal => None,
        Ordering::Less => Some(format!("only {} of the {size} bytes", bytes.len())),
        Ordering::Greater => Some(format!("more than the {size} bytes")),
    };
    if let Some(claim) = claim {
        return Err(KernelError::damaged(
            path,
            format!("its payload unpacks to {claim} it claims"),
        ));
    }
    let pvh_entry = pvh_entry(&bytes).map_err(|detail| KernelError::damaged(path, detail))?;
    Ok(Vmlinux { bytes, compression: format.name(), pvh_entry })
}

fn pvh_entry(elf: &[u8]) -> Result<Option<u32>, String> {
    let bad = |e: object::Error| format!("its payload is no ELF kernel: {e}");
    let header = FileHeader64::<LittleEndian>::parse(elf).map_err(bad)?;
    let endian = header.endian().map_err(bad)?;
    if header.e_machine(endian) != object::elf::EM_X86_64 {
        return Err("its payload is a kernel of another architecture".to_owned());
    }
    for segment in header.program_headers(endian, elf).map_err(bad)? {
        if segment.p_type(endian) != PT_NOTE {
            continue;
        }
        let Some(mut notes) = segment.notes(endian, elf).map_err(bad)? else { continue };
        while let Some(note) = notes.next().map_err(bad)? {
            if note.name() == b"Xen"
                && note.n_type(endian) == XEN_ELFNOTE_PHYS32_ENTRY
                && let Some(entry) = note.desc().first_chunk::<4>()
            {
                return Ok(Some(u32::from_le_bytes(*entry)));
            }
        }
    }
    Ok(None)
}

impl Vmlinux {
    /// The configuration that a kernel with `CONFIG_IKCONFIG=y` carries.
    #[must_use]
    pub fn config(&self) -> Option<Config> {
        const BEGIN: &[u8] = b"IKCFG_ST";
        let start = memmem::find(&self.bytes, BEGIN)? + BEGIN.len();
        let mut text = String::new();
        flate2::bufread::GzDecoder::new(&self.bytes[start..])
            .take(MAX_CONFIG)
            .read_to_string(&mut text)
            .ok()?;
        Some(Config::parse(&text)).filter(|config| !config.is_empty())
    }
}
