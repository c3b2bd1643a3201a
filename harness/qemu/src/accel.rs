//! The accelerator, and the proof that KVM is one: `/dev/kvm` being there proves nothing.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use kgate_machine::process::{Pages, Process};
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
    let mut process = Process::spawn(qemu, &args, vec![sector], Pages::Any)
        .map_err(|e| format!("{} can't be started: {e}", qemu.display()))?;
    match tokio::time::timeout(PROBE_DEADLINE, process.wait()).await {
        Ok(Ok(status)) if status.code() == Some(PROBE_CODE) => Ok(()),
        Ok(Ok(status)) => {
            Err(format!("a probe under KVM ended with {status}: {}", process.complaint().text()))
        }
        Ok(Err(error)) => Err(format!("a probe under KVM: {error}")),
        Err(_) => Err(format!(
            "/dev/kvm is there, but a probe under it was not done after {} ms",
            PROBE_DEADLINE.as_millis()
        )),
    }
}

/// What was found out about KVM, for this boot of the controller and this emulator.
pub(crate) struct Memo<'a> {
    path: &'a Path,
    /// What the finding holds for.
    scope: String,
}

impl<'a> Memo<'a> {
    pub(crate) fn new(path: &'a Path, qemu_version: &str) -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self { path, scope: format!("{} {qemu_version}", boot.trim()) }
    }

    /// `Some(None)`: it worked. `Some(Some(why))`: it did not. `None`: not known.
    pub(crate) fn recall(&self) -> Option<Option<String>> {
        let text = std::fs::read_to_string(self.path).ok()?;
        let (scope, why) = text.split_once('\n')?;
        let why = why.trim();
        (scope == self.scope).then(|| (!why.is_empty()).then(|| why.to_owned()))
    }

    /// Remembers it. What can't be written is found out again next time.
    pub(crate) fn keep(&self, broken: Option<&str>) {
        let text = format!("{}\n{}\n", self.scope, broken.unwrap_or_default());
        let beside = self.path.with_extension(std::process::id().to_string());
        let _ = std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, self.path));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_holds_for_one_emulator() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kvm");
        let memo = Memo::new(&path, "QEMU 7.2");
        assert_eq!(memo.recall(), None);
        memo.keep(Some("it hangs"));
        assert_eq!(memo.recall(), Some(Some("it hangs".into())));
        assert_eq!(Memo::new(&path, "QEMU 10").recall(), None);
        memo.keep(None);
        assert_eq!(memo.recall(), Some(None));
    }
}
