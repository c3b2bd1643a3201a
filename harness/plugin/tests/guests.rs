//! The plugin in real guests: it changes no count, its counts sum to those of the guest, and what
//! it counts explains a difference of two guests.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::slice;

use kgate_explain::{Fate, Place, Profile, Segment, Side, Symbols, Titles, explain, flame_graph};
use kgate_kernel::initramfs::{Content, Initramfs};
use kgate_testkit::kernels;
use rustix::fs::{MemfdFlags, memfd_create};

const QEMU: &str = "qemu-system-x86_64";
/// Batches in each segment of the test's program, and calls of getppid in each of the first's.
const BATCHES: usize = 10;
const CALLS: u64 = 200;
/// Instructions of a batch that the plugin counts and the time-stamp counter doesn't: the second
/// `rdtsc`.
const CONSTANT: u64 = 1;

#[expect(unsafe_code, reason = "the guest's program is machine code of this test's own")]
mod program {
    core::arch::global_asm!(include_str!("init.s"));

    unsafe extern "C" {
        pub(super) static kgate_test_init: u8;
        pub(super) static kgate_test_init_end: u8;
    }
}

/// The guest's program as an executable file: an ELF header, a segment with everything.
fn init() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let start = &raw const program::kgate_test_init;
    let end = &raw const program::kgate_test_init_end;
    #[expect(unsafe_code, reason = "the code's bytes are read in place")]
    // SAFETY: both labels are of one section, the second after the first.
    let code = unsafe { slice::from_raw_parts(start, end.addr() - start.addr()) };
    let size = HEADERS + code.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    for number in [BASE + HEADERS, 64, 0] {
        file.extend(number.to_le_bytes());
    }
    for number in [0, 0, 64, 56, 1, 64, 0, 0_u16] {
        file.extend(number.to_le_bytes());
    }
    // One segment to load, readable and executable.
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for number in [0, BASE, BASE, size, size, 0x1000] {
        file.extend(number.to_le_bytes());
    }
    file.extend(code);
    file
}

/// A file in memory that QEMU inherits.
struct Memory(File);

impl Memory {
    fn new(content: &[u8]) -> Self {
        let fd: OwnedFd = memfd_create("kgate-test", MemfdFlags::empty()).unwrap();
        let mut file = File::from(fd);
        file.write_all(content).unwrap();
        Self(file)
    }

    fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }

    fn content(&mut self) -> Vec<u8> {
        let mut content = Vec::new();
        self.0.seek(SeekFrom::Start(0)).unwrap();
        self.0.read_to_end(&mut content).unwrap();
        content
    }
}

/// A running guest of the test.
struct Guest {
    qemu: Child,
    answer: Memory,
    profile: Memory,
    _files: [Memory; 2],
}

impl Guest {
    /// `exact` lets it run by the instruction, `plugin` are the plugin's arguments but its output.
    fn start(kernel: &Path, append: &str, exact: bool, plugin: Option<&str>) -> Self {
        let mut initramfs = Initramfs::new();
        initramfs.dir("proc", 0o755).unwrap();
        initramfs.file("init", 0o755, Content::Bytes(init())).unwrap();
        let initramfs = Memory::new(&initramfs.write(Vec::new()).unwrap());
        let (answer, profile) = (Memory::new(b""), Memory::new(b""));
        // As kgate does: the plugin itself is a file in memory.
        let library = Memory::new(&fs::read(library()).unwrap());
        let mut command = Command::new(QEMU);
        command.args(["-accel", "tcg", "-cpu", "max", "-m", "256", "-smp", "1", "-seed", "1"]);
        if exact {
            command.args(["-icount", "shift=0,sleep=off", "-rtc", "base=2026-01-01,clock=vm"]);
        }
        command.args(["-nodefaults", "-display", "none", "-no-reboot"]);
        command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
        command.arg("-debugcon").arg(format!("file:{}", answer.path()));
        command.arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs.path());
        let fixed = "console=ttyS0 panic=-1 quiet nokaslr norandmaps acpi=off";
        command.arg("-append").arg(format!("{fixed} {append}"));
        if let Some(args) = plugin {
            command.arg("-plugin");
            command.arg(format!("{},out={}{args}", library.path(), profile.path()));
        }
        let qemu = command.stdin(Stdio::null()).spawn().unwrap();
        Self { qemu, answer, profile, _files: [initramfs, library] }
    }

    /// What the program wrote, and the plugin.
    fn wait(mut self) -> (Vec<u8>, Vec<u8>) {
        let status = self.qemu.wait().unwrap();
        let answer = self.answer.content();
        assert_eq!(status.code(), Some(1), "{}", String::from_utf8_lossy(&answer));
        (answer, self.profile.content())
    }
}

/// The plugin as cargo built it for this test.
fn library() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let name = "libkgate_plugin.so";
    let dirs = test.ancestors().skip(1).take(2);
    dirs.map(|dir| dir.join(name)).find(|path| path.exists()).expect("cargo builds the plugin")
}

/// The samples of the two segments.
fn samples(answer: &[u8]) -> [Vec<u64>; 2] {
    let numbers = answer.chunks_exact(8).map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap()));
    let all: Vec<u64> = numbers.collect();
    assert_eq!(all.len(), 2 * BATCHES);
    [all[..BATCHES].to_vec(), all[BATCHES..].to_vec()]
}

fn calls(segment: &Segment, symbols: &Symbols, name: &str) -> u64 {
    let counts = kgate_explain::counts(Side { segment, symbols });
    let found = counts
        .iter()
        .find(|(place, _)| matches!(place, Place::Function(function) if function.name == name));
    found.map_or(0, |(_, count)| count.calls)
}

fn side<'a>(segment: &'a Segment, symbols: &'a Symbols) -> Side<'a> {
    Side { segment, symbols }
}

#[test]
fn counts_are_those_of_the_guest_and_explain_a_difference() {
    if Command::new(QEMU).arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("SKIP: there is no {QEMU} on this machine");
        return;
    }
    let Some(pair) = kernels::pair() else { return };
    let kernel = &pair.candidate.image;
    let off = "randomize_kstack_offset=off";
    let listed = Guest::start(kernel, "-- @", false, None);
    let plain = Guest::start(kernel, "", true, None).wait();
    let counted = Guest::start(kernel, "", true, Some(""));
    let (symbols, _) = listed.wait();
    let stacked = Guest::start(kernel, "", true, Some(",stacks=on"));
    let counted = counted.wait();
    let without = Guest::start(kernel, off, true, Some("")).wait();
    let stacked = stacked.wait();

    // The guest can't tell whether the plugin is there.
    assert_eq!(plain.0, counted.0);
    assert_eq!(plain.0, stacked.0);

    let symbols = Symbols::parse(&symbols).unwrap();
    let [counted, stacked_profile, without_profile] =
        [&counted, &stacked, &without].map(|(_, profile)| Profile::read(profile).unwrap());
    for profile in [&counted, &stacked_profile, &without_profile] {
        assert!(!profile.cut);
        assert_eq!(profile.segments.len(), 2);
    }
    for (profile, answer) in
        [(&counted, &plain.0), (&stacked_profile, &plain.0), (&without_profile, &without.0)]
    {
        for (segment, samples) in profile.segments.iter().zip(samples(answer)) {
            assert_eq!(segment.batches, BATCHES as u64);
            assert_eq!(segment.beyond, 0);
            let sum: u64 = samples.iter().sum();
            // Each fault starts its instruction once more.
            let faults = calls(segment, &symbols, "asm_exc_page_fault");
            assert_eq!(segment.total(), sum + segment.batches * CONSTANT + faults);
        }
    }
    let (first, second) = (&counted.segments[0], &counted.segments[1]);
    assert_eq!(calls(first, &symbols, "__x64_sys_getppid"), BATCHES as u64 * CALLS);
    assert_eq!(calls(second, &symbols, "__x64_sys_munmap"), BATCHES as u64);
    assert_eq!(calls(second, &symbols, "asm_exc_page_fault"), BATCHES as u64 * 16);
    for (one, other) in counted.segments.iter().zip(&stacked_profile.segments) {
        assert_eq!(one.kernel(), other.kernel());
        assert!(!one.has_stacks() && other.has_stacks());
    }

    // One kernel with two command lines: what it no longer does is found.
    let operations = BATCHES as u64 * CALLS;
    let baseline = side(&stacked_profile.segments[0], &symbols);
    let candidate = side(&without_profile.segments[0], &symbols);
    let explanation = explain(baseline, candidate, operations);
    println!("{}", explanation.table(100, 20));
    let sum = |answer: &[u8]| samples(answer)[0].iter().sum::<u64>();
    let change = i128::from(sum(&without.0)) - i128::from(sum(&plain.0));
    assert!(change < 0);
    assert_eq!(explanation.difference(), change);
    let first = &explanation.rows[0];
    assert!(
        matches!(&first.place, Place::Function(function) if function.name == "do_syscall_64"),
        "{first:?}"
    );
    assert_eq!(first.fate, Fate::Kept);
    assert_eq!(first.candidate.calls, operations);

    let titles = Titles { title: "getppid", subtitle: off };
    let by_module = flame_graph(baseline, candidate, titles).unwrap();
    let by_stack = flame_graph(baseline, baseline, titles).unwrap();
    for svg in [by_module, by_stack] {
        assert!(svg.contains("<title>__x64_sys_getppid ("));
    }
    let paths = stacked_profile.segments[1].stacks().filter_map(|(calls, block, _)| {
        let names = calls.iter().map(|address| address - 1).chain(block);
        names.map(|address| Some(symbols.find(address)?.0.name.as_str())).collect()
    });
    let paths: Vec<Vec<&str>> = paths.collect();
    let has = |wanted: &[&str]| {
        paths.iter().any(|path| {
            let mut left = wanted.iter();
            let mut next = left.next();
            for name in path {
                if Some(name) == next {
                    next = left.next();
                }
            }
            next.is_none()
        })
    };
    assert!(has(&["asm_exc_page_fault", "exc_page_fault", "handle_mm_fault"]));
    assert!(has(&["entry_SYSCALL_64_after_hwframe", "do_syscall_64", "__x64_sys_munmap"]));
    assert!(!has(&["asm_exc_page_fault", "__x64_sys_munmap"]));
}

#[test]
fn what_cannot_be_counted_is_refused_with_the_reason() {
    let library = library();
    for (smp, args, reason) in [
        ("2", ",out=/dev/null", "kgate-plugin: the guest may have 2 CPUs"),
        ("1", "", "kgate-plugin: either out=PATH is wanted, or control=FD"),
        ("1", ",out=/dev/null,stack=on", "kgate-plugin: unknown argument \"stack=on\""),
        ("1", ",out=/no/such/place", "kgate-plugin: /no/such/place: "),
    ] {
        let mut command = Command::new(QEMU);
        command.args(["-accel", "tcg", "-nodefaults", "-display", "none", "-S", "-smp", smp]);
        command.arg("-plugin").arg(format!("{}{args}", library.display()));
        let Ok(output) = command.stdin(Stdio::null()).output() else {
            eprintln!("SKIP: there is no {QEMU} on this machine");
            return;
        };
        assert!(!output.status.success());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains(reason), "{stderr}");
    }
}
