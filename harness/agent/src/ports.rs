//! The emulator's ports: a file that it hands over, a console for bytes, and the device on which a
//! guest says that it is to be stopped.
#![expect(unsafe_code, reason = "port I/O and the time stamp counter")]

use std::arch::asm;
use std::io;

/// Selects what is read next: `docs/specs/fw_cfg.rst` of QEMU.
const FW_CFG_SELECTOR: u16 = 0x510;
const FW_CFG_DATA: u16 = 0x511;
/// What QEMU says of itself, and its directory of files.
const FW_CFG_SIGNATURE: u16 = 0;
const FW_CFG_DIRECTORY: u16 = 0x19;
/// Files that a directory can have; more means that it is none.
const FILES: u32 = 1024;
/// No script is larger.
const LIMIT: usize = 64 << 20;

/// `-device isa-debugcon,iobase=0xe9`.
const CONSOLE: u16 = 0xe9;

/// `-device pvpanic`, bit 0: the guest panicked. The emulator stops it there.
const PANIC: u16 = 0x505;

/// Lets this thread use ports.
pub(crate) fn open() -> io::Result<()> {
    // SAFETY: a plain system call; what can be done with it is done below only.
    if unsafe { libc::iopl(3) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Stops the guest, to go on here when it is let, or as a copy of it.
pub(crate) fn park() {
    write(PANIC, 1);
}

/// Sends bytes to the debug console.
pub(crate) fn write_console(bytes: &[u8]) {
    // SAFETY: `open` was called by this thread; the bytes are only read.
    unsafe {
        asm!("rep outsb", in("dx") CONSOLE, inout("rcx") bytes.len() => _,
            inout("rsi") bytes.as_ptr() => _, options(nostack, readonly, preserves_flags));
    }
}

/// The content of a file that QEMU was given by `-fw_cfg`. `None`: there is none of this name.
pub(crate) fn read_file(name: &str) -> Option<Vec<u8>> {
    select(FW_CFG_SIGNATURE);
    if read::<4>() != *b"QEMU" {
        return None;
    }
    select(FW_CFG_DIRECTORY);
    let files = u32::from_be_bytes(read());
    for _ in 0..files.min(FILES) {
        let size = u32::from_be_bytes(read());
        let [high, low, ..] = read::<4>();
        let called = read::<56>();
        let called = called.split(|&byte| byte == 0).next().unwrap_or_default();
        if called == name.as_bytes() {
            select(u16::from_be_bytes([high, low]));
            let mut content = vec![0; (size as usize).min(LIMIT)];
            read_into(&mut content);
            return Some(content);
        }
    }
    None
}

/// Executes about so many instructions.
pub(crate) fn spend(instructions: u32) {
    let rounds = u64::from(instructions / 2);
    if rounds > 0 {
        // SAFETY: counts a register down.
        unsafe {
            asm!("2: dec {0}", "jnz 2b", inout(reg) rounds => _, options(nomem, nostack));
        }
    }
}

fn select(key: u16) {
    // SAFETY: `open` was called by this thread; the device takes any key.
    unsafe {
        asm!("out dx, ax", in("dx") FW_CFG_SELECTOR, in("ax") key,
            options(nomem, nostack, preserves_flags));
    }
}

fn read<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    read_into(&mut bytes);
    bytes
}

fn read_into(bytes: &mut [u8]) {
    // SAFETY: `open` was called by this thread; as many bytes are written as there are.
    unsafe {
        asm!("rep insb", in("dx") FW_CFG_DATA, inout("rcx") bytes.len() => _,
            inout("rdi") bytes.as_mut_ptr() => _, options(nostack, preserves_flags));
    }
}

fn write(port: u16, byte: u8) {
    // SAFETY: `open` was called by this thread; the port is the emulator's.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") byte, options(nomem, nostack, preserves_flags));
    }
}
