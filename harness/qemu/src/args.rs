//! QEMU's command line as a pure function of what the guest must be.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::accel::Accel;

/// Name of the virtio-serial port that the agent looks for.
pub(crate) const AGENT_PORT: &str = "org.kgate.agent";
/// Id of the console's character device, for sending a break.
pub(crate) const CONSOLE_CHARDEV: &str = "console";

/// Everything that a guest's command line depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestSpec {
    /// Shown in process lists.
    pub name: String,
    /// The accelerator.
    pub accel: Accel,
    /// CPU model as QEMU names it.
    pub cpu_model: String,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Where the guest's memory is, when it is a file.
    pub memory_file: Option<MemoryFile>,
    /// What it begins with.
    pub begin: Begin,
    /// Descriptor of the pipe for what the guest prints.
    pub console_fd: i32,
    /// Descriptor of the agent's socket.
    pub agent_fd: i32,
    /// Descriptor of the QMP socket.
    pub qmp_fd: i32,
    /// A read-only disk, seen by the guest as `/dev/vda`.
    pub disk: Option<PathBuf>,
    /// A NIC with user-mode networking.
    pub network: bool,
}

/// A file with a guest's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryFile {
    /// The file.
    pub path: PathBuf,
    /// What the guest writes goes to the file: it will be a template. Otherwise pages that it writes
    /// to become its own.
    pub shared: bool,
}

/// What a guest begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// A kernel.
    Kernel {
        /// The boot image.
        kernel: PathBuf,
        /// The initramfs.
        initrd: PathBuf,
        /// The kernel's command line.
        command_line: String,
    },
    /// The state of another guest, which it is given over QMP.
    State,
}

/// The arguments for `qemu-system-x86_64`.
///
/// The machine is the Q35: on the older PC, Linux interprets about 90 million instructions of ACPI
/// for each PCI device that it enables. A panic is reported and the guest goes on to print the rest
/// of it; the reset that follows ends QEMU.
pub fn arguments(spec: &GuestSpec) -> Vec<OsString> {
    let mut args: Vec<OsString> = Vec::new();
    let mut add = |option: &str, value: &str| {
        args.push(option.into());
        if !value.is_empty() {
            args.push(value.into());
        }
    };
    add("-name", &format!("guest={},debug-threads=on", escaped(&spec.name)));
    add("-no-user-config", "");
    add("-nodefaults", "");
    add("-display", "none");
    add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    add("-no-reboot", "");
    add("-action", "panic=none");
    let backend = if spec.memory_file.is_some() { ",memory-backend=ram" } else { "" };
    add("-machine", &format!("q35{backend}"));
    add("-accel", spec.accel.as_str());
    add("-cpu", &spec.cpu_model);
    add("-smp", &spec.cpus.to_string());
    add("-m", &format!("{}M", spec.memory_mib));
    if let Some(MemoryFile { path, shared }) = &spec.memory_file {
        let (size, path) = (spec.memory_mib, escaped(&path.display().to_string()));
        let share = if *shared { "on" } else { "off" };
        let object =
            format!("memory-backend-file,id=ram,size={size}M,share={share},mem-path={path}");
        add("-object", &object);
    }
    // QEMU writes a console byte by byte: a pipe packs them into pages, where a socket's buffer would
    // be full after some hundred of them and hold the guest up.
    let console = spec.console_fd;
    add("-chardev", &format!("file,id={CONSOLE_CHARDEV},path=/proc/self/fd/{console}"));
    for (id, fd) in [("agent", spec.agent_fd), ("qmp", spec.qmp_fd)] {
        add("-chardev", &format!("socket,id={id},fd={fd}"));
    }
    add("-mon", "chardev=qmp,mode=control");
    add("-serial", &format!("chardev:{CONSOLE_CHARDEV}"));
    add("-device", "pvpanic");
    add("-device", "virtio-serial-pci");
    add("-device", &format!("virtserialport,chardev=agent,name={AGENT_PORT}"));
    if let Some(disk) = &spec.disk {
        let disk = escaped(&disk.display().to_string());
        add(
            "-drive",
            &format!("if=none,id=root,format=raw,read-only=on,file.locking=off,file={disk}"),
        );
        add("-device", "virtio-blk-pci,drive=root");
    }
    if spec.network {
        add("-nic", "user,model=virtio-net-pci");
    }
    match &spec.begin {
        Begin::Kernel { kernel, initrd, command_line } => {
            add("-kernel", &kernel.display().to_string());
            add("-initrd", &initrd.display().to_string());
            add("-append", command_line);
        }
        Begin::State => add("-incoming", "defer"),
    }
    args
}

/// A value inside a comma-separated option: QEMU wants its commas doubled.
fn escaped(value: &str) -> String {
    value.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> GuestSpec {
        GuestSpec {
            name: "candidate-1".into(),
            accel: Accel::Tcg,
            cpu_model: "max".into(),
            cpus: 1,
            memory_mib: 512,
            memory_file: None,
            begin: Begin::Kernel {
                kernel: "/boot/vmlinuz".into(),
                initrd: "/proc/self/fd/9".into(),
                command_line: "console=ttyS0 panic=-1".into(),
            },
            console_fd: 6,
            agent_fd: 7,
            qmp_fd: 8,
            disk: None,
            network: false,
        }
    }

    fn lines(spec: &GuestSpec) -> String {
        let args: Vec<_> = arguments(spec).into_iter().map(|a| a.into_string().unwrap()).collect();
        args.join("\n")
            .replace("\n-", "\n\n-")
            .replace("\n\n-", "\x00-")
            .replace('\n', " ")
            .replace('\x00', "\n")
    }

    #[test]
    fn the_smallest_guest() {
        insta::assert_snapshot!(lines(&spec()));
    }

    #[test]
    fn a_clone() {
        let path = "/dev/shm/template,1/memory".into();
        let memory_file = Some(MemoryFile { path, shared: false });
        insta::assert_snapshot!(lines(&GuestSpec { memory_file, begin: Begin::State, ..spec() }));
    }

    #[test]
    fn a_guest_with_everything() {
        insta::assert_snapshot!(lines(&GuestSpec {
            name: "a,b".into(),
            accel: Accel::Kvm,
            cpu_model: "host".into(),
            cpus: 4,
            memory_mib: 2048,
            disk: Some("/images/edge,1.squashfs".into()),
            network: true,
            ..spec()
        }));
    }
}
