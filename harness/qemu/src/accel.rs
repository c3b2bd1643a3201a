//! The accelerator, and the proof that KVM is one: `/dev/kvm` being there proves nothing.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use kgate_machine::process::Process;
use rustix::fs::{MemfdFlags, memfd_create};

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Accel {
    /// The processor, through the host's kernel.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

impl Accel {
    /// QEMU's name of it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// The CPU model that shows a guest the most.
    pub const fn default_cpu(self) -> &'static str {
        match self {
            Self::Kvm => "host",
            Self::Tcg => "max",
        }
    }
}

/// What the user asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccelChoice {
    /// KVM where it is proven to work, otherwise TCG.
    #[default]
    Auto,
    /// This one, or an infrastructure error.
    Only(Accel),
}

/// A healthy KVM runs the probe in a tenth of a second.
const PROBE_DEADLINE: Duration = Duration::from_millis(1500);
/// The exit status that the probe's write to the exit device makes: `(0x10 << 1) | 1`.
const PROBE_CODE: i32 = 33;

/// Runs a boot sector under KVM that leaves through the exit device; `Err` says why KVM is not used.
///
/// A host can offer a KVM that opens, creates a machine and then crawls or hangs: nested clouds do.
pub(crate) async fn probe_kvm(qemu: &Path) -> Result<(), String> {
    match std::fs::File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => {}
        Err(error) => return Err(format!("/dev/kvm: {error}")),
    }
    let sector = boot_sector().map_err(|e| format!("no memory for the probe: {e}"))?;
    let disk = format!(
        "if=floppy,format=raw,read-only=on,file.locking=off,file=/proc/self/fd/{}",
        sector.as_raw_fd()
    );
    let args = [
        "-accel",
        "kvm",
        "-machine",
        "pc",
        "-m",
        "16",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=4",
        "-drive",
        &disk,
    ]
    .map(Into::into);
    let mut process = Process::spawn(qemu, &args, vec![sector])
        .map_err(|e| format!("{} can't be started: {e}", qemu.display()))?;
    match tokio::time::timeout(PROBE_DEADLINE, process.wait()).await {
        Ok(Ok(status)) if status.code() == Some(PROBE_CODE) => Ok(()),
        Ok(Ok(status)) => {
            Err(format!("a probe under KVM ended with {status}: {}", process.complaint()))
        }
        Ok(Err(error)) => Err(format!("a probe under KVM: {error}")),
        Err(_) => Err(format!(
            "/dev/kvm is there, but a probe under it was not done after {} ms",
            PROBE_DEADLINE.as_millis()
        )),
    }
}

/// `mov dx, 0xf4; mov al, 0x10; out dx, al; hlt` as the first sector of a floppy.
fn boot_sector() -> std::io::Result<std::os::fd::OwnedFd> {
    let mut floppy = vec![0; 1440 << 10];
    floppy[..9].copy_from_slice(&[0xba, 0xf4, 0x00, 0xb0, 0x10, 0xee, 0xf4, 0xeb, 0xfd]);
    floppy[510..512].copy_from_slice(&[0x55, 0xaa]);
    let mut file = std::fs::File::from(memfd_create("kgate-probe", MemfdFlags::CLOEXEC)?);
    file.write_all(&floppy)?;
    Ok(file.into())
}
