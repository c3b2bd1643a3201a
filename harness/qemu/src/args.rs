//! QEMU's command line as a pure function of what the guest must be.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::accel::Accel;

/// Name of the virtio-serial port that the agent looks for.
pub(crate) const AGENT_PORT: &str = "org.kgate.agent";
/// Address space that an NVDIMM may take, in MiB.
const NVDIMM_MIB: u64 = 16 << 10;
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
    /// How it is spoken to.
    pub channel: Channel,
    /// Descriptor of the QMP socket.
    pub qmp_fd: i32,
    /// A read-only disk, seen by the guest as `/dev/vda`, or `/dev/pmem0` where it is exact.
    pub disk: Option<Disk>,
    /// A NIC with user-mode networking.
    pub network: bool,
    /// It is stopped and goes on in other processes.
    pub forks: Option<Forks>,
}

/// What a guest is forked by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forks {
    /// Descriptor of the plugin that does it.
    pub plugin_fd: i32,
    /// Descriptor of the socket by which the plugin is asked.
    pub control_fd: i32,
    /// Descriptor of the QMP socket of the other processes.
    pub qmp_fd: i32,
    /// Descriptors for which those have others of their own.
    pub replace: Vec<i32>,
}

/// A read-only disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The file with its content.
    pub path: PathBuf,
    /// Size of the file in bytes.
    pub size: u64,
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

/// How a guest is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Over a virtio-serial port.
    Port {
        /// Descriptor of the agent's socket.
        fd: i32,
    },
    /// Not at all: its clock counts its instructions, so that nothing may come from outside.
    Exact(Exact),
}

/// What makes a guest repeat to the instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exact {
    /// Of the random numbers that QEMU gives to the guest.
    pub seed: u64,
    /// Second of the first day of 2026 at which the guest's clock starts.
    pub second: u32,
    /// Descriptor of the file with the script.
    pub script_fd: i32,
    /// Descriptor of the pipe for the answers.
    pub answers_fd: i32,
    /// Descriptors of the plugin that counts and of the file for what it counted, and whether it is to
    /// follow stacks.
    pub plugin: Option<(i32, i32, bool)>,
}

/// Name of the script as the agent asks for it.
pub(crate) const SCRIPT: &str = "opt/org.kgate/script";
/// Port of the debug console, to which the agent writes its answers.
const ANSWERS_PORT: &str = "0xe9";

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
///
/// An exact guest is a PC without PCI devices. It has no virtio device, because the time at which one
/// is served depends on the controller; an image is an NVDIMM, which is memory. It does not load the
/// driver of the panic device, and stops itself by it.
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
    // Where it may fork, the plugin sees to it that it can't do more.
    let spawn = if spec.forks.is_some() { "" } else { ",spawn=deny" };
    add(
        "-sandbox",
        &format!("on,obsolete=deny,elevateprivileges=deny{spawn},resourcecontrol=deny"),
    );
    add("-no-reboot", "");
    let exact = match &spec.channel {
        Channel::Port { .. } => None,
        Channel::Exact(exact) => Some(exact),
    };
    let backend = if spec.memory_file.is_some() { ",memory-backend=ram" } else { "" };
    let nvdimm = if exact.is_some() && spec.disk.is_some() { ",nvdimm=on" } else { "" };
    let (panic, machine) = if exact.is_some() { ("pause", "pc") } else { ("none", "q35") };
    add("-action", &format!("panic={panic}"));
    add("-machine", &format!("{machine}{backend}{nvdimm}"));
    add("-accel", spec.accel.as_str());
    if let Some(Exact { seed, second, .. }) = exact {
        let (hour, minute, second) = (second / 3600 % 24, second / 60 % 60, second % 60);
        add("-icount", "shift=0,sleep=off");
        add("-rtc", &format!("base=2026-01-01T{hour:02}:{minute:02}:{second:02},clock=vm"));
        add("-seed", &seed.to_string());
    }
    add("-cpu", &spec.cpu_model);
    add("-smp", &spec.cpus.to_string());
    let slots = if nvdimm.is_empty() {
        String::new()
    } else {
        format!(",slots=1,maxmem={}M", spec.memory_mib + NVDIMM_MIB)
    };
    add("-m", &format!("{}M{slots}", spec.memory_mib));
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
    add("-chardev", &format!("socket,id=qmp,fd={}", spec.qmp_fd));
    add("-mon", "chardev=qmp,mode=control");
    if let Some(Forks { plugin_fd, control_fd, qmp_fd, replace }) = &spec.forks {
        // Nobody has spoken to this one by then.
        add("-chardev", &format!("socket,id=forks-qmp,fd={qmp_fd}"));
        add("-mon", "chardev=forks-qmp,mode=control");
        let replace = replace.iter().map(i32::to_string).collect::<Vec<_>>().join(":");
        let plugin = format!("/proc/self/fd/{plugin_fd}");
        add("-plugin", &format!("{plugin},control={control_fd},replace={replace}"));
    }
    add("-serial", &format!("chardev:{CONSOLE_CHARDEV}"));
    add("-device", "pvpanic");
    match &spec.channel {
        Channel::Port { fd } => {
            add("-chardev", &format!("socket,id=agent,fd={fd}"));
            // Each port that there may be costs the guest's kernel two queues; the first is none's but
            // a console's.
            add("-device", "virtio-serial-pci,max_ports=2");
            add("-device", &format!("virtserialport,chardev=agent,name={AGENT_PORT}"));
        }
        Channel::Exact(Exact { script_fd, answers_fd, plugin, .. }) => {
            add("-fw_cfg", &format!("name={SCRIPT},file=/proc/self/fd/{script_fd}"));
            add("-chardev", &format!("file,id=answers,path=/proc/self/fd/{answers_fd}"));
            add("-device", &format!("isa-debugcon,iobase={ANSWERS_PORT},chardev=answers"));
            if let Some((program, out, stacks)) = plugin {
                let stacks = if *stacks { ",stacks=on" } else { "" };
                let out = format!("out=/proc/self/fd/{out}");
                add("-plugin", &format!("/proc/self/fd/{program},{out}{stacks}"));
            }
        }
    }
    if let Some(Disk { path, size }) = spec.disk.as_ref().filter(|_| exact.is_some()) {
        let path = escaped(&path.display().to_string());
        let file = format!("id=root,share=on,readonly=on,size={size},mem-path={path}");
        add("-object", &format!("memory-backend-file,{file}"));
        add("-device", "nvdimm,memdev=root,unarmed=on");
    } else if let Some(Disk { path: disk, .. }) = &spec.disk {
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
            channel: Channel::Port { fd: 7 },
            qmp_fd: 8,
            disk: None,
            network: false,
            forks: None,
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
    fn a_clone_that_is_forked() {
        let memory_file = Some(MemoryFile { path: "/dev/shm/memory".into(), shared: false });
        let forks = Forks { plugin_fd: 9, control_fd: 10, qmp_fd: 11, replace: vec![11, 7, 6, 2] };
        let begin = Begin::State;
        let forks = Some(forks);
        insta::assert_snapshot!(lines(&GuestSpec { memory_file, begin, forks, ..spec() }));
    }

    #[test]
    fn an_exact_guest() {
        let exact = Exact { seed: 17, second: 3723, script_fd: 9, answers_fd: 10, plugin: None };
        insta::assert_snapshot!(lines(&GuestSpec {
            channel: Channel::Exact(Exact { plugin: Some((11, 12, true)), ..exact }),
            disk: Some(Disk { path: "/images/edge,1.squashfs".into(), size: 302 << 20 }),
            ..spec()
        }));
    }

    #[test]
    fn a_guest_with_everything() {
        insta::assert_snapshot!(lines(&GuestSpec {
            name: "a,b".into(),
            accel: Accel::Kvm,
            cpu_model: "host".into(),
            cpus: 4,
            memory_mib: 2048,
            disk: Some(Disk { path: "/images/edge,1.squashfs".into(), size: 4096 }),
            network: true,
            ..spec()
        }));
    }
}
