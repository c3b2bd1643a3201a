//! The x86 boot image: reading its setup header, and telling what a file is that has none.
//!
//! Offsets are those of the kernel's `Documentation/arch/x86/boot.rst`.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use crate::compress::Format;
use crate::error::KernelError;

/// The setup code is at most 64 sectors; its header and version string are inside it.
const SETUP_MAX: u64 = 65 * 512;
/// First protocol with `xloadflags`, Linux 3.8.
const OLDEST_PROTOCOL: u16 = 0x020c;
const XLF_KERNEL_64: u16 = 1;
const LOADED_HIGH: u8 = 1;
const BUILD_AGAIN: &str =
    "give the bzImage of an x86-64 kernel (arch/x86/boot/bzImage, or vmlinuz-RELEASE)";

/// What the setup header of a boot image says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BzImage {
    /// `uname -r`.
    pub release: String,
    /// Release, builder and `uname -v`.
    pub banner: String,
    /// Where in the file the compressed kernel is, in bytes.
    pub payload: Range<u64>,
}

impl BzImage {
    /// Reads the header of the image at `path`.
    ///
    /// # Errors
    /// When it is no x86-64 Linux boot image, which it then says, or is cut short.
    pub fn read(path: &Path) -> Result<Self, KernelError> {
        let io = |e| KernelError::io("read", path, e);
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        let refuse = |found: &str, advice| KernelError::NotAKernel {
            path: path.to_owned(),
            found: found.to_owned(),
            advice,
        };
        if !metadata.is_file() {
            return Err(refuse("not a regular file", BUILD_AGAIN));
        }
        let mut head = Vec::new();
        file.take(SETUP_MAX).read_to_end(&mut head).map_err(io)?;
        if let Some((found, advice)) = something_else(&head) {
            return Err(refuse(found, advice));
        }
        if head.len() < 0x268 {
            return Err(KernelError::cut_short(
                path,
                format!("it ends after {} bytes, inside its header", head.len()),
            ));
        }
        let u16_at = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
        let u32_at = |at: usize| {
            u64::from(u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]))
        };

        let protocol = u16_at(0x206);
        if protocol < OLDEST_PROTOCOL {
            let found = format!(
                "boot protocol {}.{:02}, older than Linux 3.8",
                protocol >> 8,
                protocol & 0xff
            );
            return Err(refuse(&found, BUILD_AGAIN));
        }
        if u16_at(0x236) & XLF_KERNEL_64 == 0 {
            return Err(refuse("a 32-bit x86 kernel", BUILD_AGAIN));
        }
        if head[0x211] & LOADED_HIGH == 0 {
            return Err(refuse("a zImage", BUILD_AGAIN));
        }
        let setup = (u64::from(head[0x1f1]) + 1) * 512;
        let size = metadata.len();
        let whole = setup + u32_at(0x1f4) * 16;
        let start = setup + u32_at(0x248);
        let payload = start..start + u32_at(0x24c);
        // The last unit of 16 bytes may be a part of one.
        if size + 15 < whole {
            return Err(KernelError::cut_short(path, format!("{size} of {whole} bytes are there")));
        }
        if payload.is_empty() || payload.end > size {
            let detail = format!(
                "its payload would be bytes {} to {} of {size}",
                payload.start, payload.end
            );
            return Err(KernelError::damaged(path, detail));
        }
        let at = usize::from(u16_at(0x20e)) + 0x200;
        let text = head.get(at..).unwrap_or_default();
        let text = &text[..text.iter().position(|b| *b == 0).unwrap_or(0)];
        let banner = String::from_utf8_lossy(text).trim().to_owned();
        let release = banner.split_whitespace().next().unwrap_or_default().to_owned();
        // It is used as a directory's name.
        if at == 0x200 || release.is_empty() || release.contains('/') || release.starts_with('.') {
            return Err(KernelError::damaged(path, "its header names no release"));
        }
        Ok(Self { release, banner, payload })
    }
}

/// What a file is that is no bzImage, and what to do about it.
fn something_else(head: &[u8]) -> Option<(&'static str, &'static str)> {
    let at = |at: usize, bytes: &[u8]| head.get(at..).is_some_and(|rest| rest.starts_with(bytes));
    let known: &[(bool, &str, &str)] = &[
        (head.is_empty(), "an empty file", "fetch or build it again"),
        (at(4, b"zimg") && at(0, b"MZ"), "an EFI zboot image", BUILD_AGAIN),
        (at(0x38, b"ARM\x64"), "an arm64 Image", BUILD_AGAIN),
        (at(0x38, b"RSC\x05"), "a RISC-V Image", BUILD_AGAIN),
        (
            at(0, b"\x7fELF") && at(0x12, &[62, 0]) && at(4, &[2]),
            "an uncompressed x86-64 ELF file (vmlinux, or a program)",
            BUILD_AGAIN,
        ),
        (at(0, b"\x7fELF"), "an ELF file of another architecture", BUILD_AGAIN),
        (at(0, b"!<arch>\n"), "an ar archive", "a Debian package has to be named *.deb"),
        (at(0, &[0xed, 0xab, 0xee, 0xdb]), "an RPM package", "it has to be named *.rpm"),
        (at(0, b"0707"), "a cpio archive", BUILD_AGAIN),
        (at(0x101, b"ustar"), "a tar archive", "unpack it and give the directory"),
        (at(0x202, b"HdrS") && at(0x1fe, &[0x55, 0xaa]), "", ""),
        (
            at(0, b"MZ") && head.len() > 0x206,
            "an EFI program without a Linux setup header (a unified kernel image?)",
            "give the bzImage it was made from",
        ),
    ];
    if let Some((_, found, advice)) = known.iter().find(|(matches, ..)| *matches) {
        return (!found.is_empty()).then_some((*found, *advice));
    }
    if let Some(format) = Format::detect(head) {
        let found = match format {
            Format::Gzip => "gzip data",
            Format::Xz => "xz data",
            Format::Zstd => "zstd data",
            Format::Bzip2 => "bzip2 data",
            Format::Lzma | Format::Lz4Legacy | Format::Lzop => "compressed data",
        };
        return Some((found, "unpack it and give what was in it"));
    }
    let is_text = head.iter().all(|b| matches!(b, b'\t' | b'\n' | b'\r' | 0x20..=0x7e | 0x80..));
    match is_text {
        true => Some(("a text file", BUILD_AGAIN)),
        // The beginning of an image has the signature of an EFI program, or that of a boot sector.
        false if head.len() <= 0x206 && at(0, b"MZ") => None,
        false => Some(("data of an unknown kind", BUILD_AGAIN)),
    }
}
