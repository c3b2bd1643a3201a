//! The base userland: one static busybox.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kgate_model::host::{Host, HostCommand};
use object::LittleEndian;
use object::elf::{EM_X86_64, PT_INTERP};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};

use crate::apt::sha256;
use crate::error::ImageError;

/// Where distributions install it.
pub(crate) const INSTALLED: &str = "/bin/busybox";
/// The package that has it.
pub(crate) const PACKAGE: &str = "busybox-static";
/// A static busybox has about 2 MiB.
const MAX_BYTES: u64 = 64 << 20;

/// A static busybox: the whole of the `base` userland.
#[derive(Clone, Debug)]
pub struct Busybox {
    /// The program, on the controller.
    pub path: PathBuf,
    /// Its content.
    pub bytes: Vec<u8>,
    /// Checksum of the content.
    pub sha256: String,
    /// Where each of its commands belongs, relative to the root, as in `usr/bin/awk`: the symbolic
    /// links to make to the program.
    pub applets: Vec<String>,
}

/// Takes the busybox at `path`, when it is one and fits.
pub(crate) fn load(path: &Path, host: &dyn Host) -> Result<Busybox, ImageError> {
    let fail = |what: &str| ImageError::Busybox { detail: format!("{} {what}", path.display()) };
    let size = fs::metadata(path).map_err(ImageError::io("read", path))?.len();
    if size > MAX_BYTES {
        return Err(fail("is too large"));
    }
    let bytes = fs::read(path).map_err(ImageError::io("read", path))?;
    is_static(&bytes).map_err(|what| fail(&what))?;
    let command = HostCommand::new(path, Duration::from_secs(10)).arg("--list-full");
    let output = host
        .run(&command)
        .map_err(|source| ImageError::Program { program: path.display().to_string(), source })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let applets: Vec<String> =
        text.lines().filter(|line| is_applet(line)).map(str::to_owned).collect();
    let has_shell = applets.iter().any(|applet| applet.ends_with("bin/sh"));
    if output.code != Some(0) || !has_shell {
        return Err(fail("does not list its commands with --list-full, or has no shell"));
    }
    let sha256 = sha256(path).map_err(ImageError::io("read", path))?;
    Ok(Busybox { path: path.to_owned(), bytes, sha256, applets })
}

fn is_applet(line: &str) -> bool {
    !line.is_empty()
        && line.len() < 256
        && line.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// Refuses what does not run without libraries on an x86-64 kernel.
fn is_static(bytes: &[u8]) -> Result<(), String> {
    let elf = ElfFile64::<LittleEndian>::parse(bytes)
        .map_err(|error| format!("is not a 64-bit ELF program: {error}"))?;
    let endian = elf.endian();
    if elf.elf_header().e_machine(endian) != EM_X86_64 {
        return Err("is not for x86-64".to_owned());
    }
    if elf.elf_program_headers().iter().any(|header| header.p_type(endian) == PT_INTERP) {
        return Err("is not static".to_owned());
    }
    Ok(())
}
