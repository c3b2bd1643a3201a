//! One file per recorded log in `cases/`: what is found in it, an empty line, the log.
//!
//! `UPDATE_CASES=1 cargo nextest run -p kgate-klog` rewrites the expectations; read the difference.
//! Lines with `#` say how a log was made and stay, as does `SOURCE: kmsg`.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use kgate_klog::{Parser, Source, parse};
use kgate_model::finding::{Finding, Frame};
use proptest::prelude::*;

struct Case {
    path: PathBuf,
    source: Source,
    /// Comments and source, which stay.
    preamble: String,
    expected: String,
    log: Vec<u8>,
}

fn cases() -> Vec<Case> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    paths.into_iter().map(read).collect()
}

fn read(path: PathBuf) -> Case {
    let file = std::fs::read(&path).unwrap();
    let head = file.windows(2).position(|pair| pair == b"\n\n").expect("a case has an empty line");
    let header = std::str::from_utf8(&file[..=head]).unwrap();
    let stays = |line: &&str| line.starts_with('#') || line.starts_with("SOURCE:");
    let join = |lines: Vec<&str>| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let (preamble, expected): (Vec<_>, Vec<_>) = header.lines().partition(stays);
    let kmsg = preamble.contains(&"SOURCE: kmsg");
    Case {
        source: if kmsg { Source::Kmsg } else { Source::Console },
        preamble: join(preamble),
        expected: join(expected),
        log: file[head + 2..].to_vec(),
        path,
    }
}

/// The headers that describe `findings`. What a report does not tell has no line.
fn describe(findings: &[Finding], log: &[u8]) -> String {
    let line = |offset: u64| log[..offset as usize].iter().filter(|b| **b == b'\n').count();
    let mut text = String::new();
    for finding in findings {
        let Finding { kind, severity, title, alt_titles, function, .. } = finding;
        let panicked = if finding.panicked { ", panicked" } else { "" };
        let function = function.as_deref().unwrap_or("-");
        writeln!(text, "TITLE: {title}").unwrap();
        for title in alt_titles {
            writeln!(text, "  ALT: {title}").unwrap();
        }
        writeln!(text, "  KIND: {kind}, {severity}{panicked}").unwrap();
        writeln!(text, "  FUNCTION: {function}").unwrap();
        if let Some(access) = finding.access {
            let operation = access.operation.map_or("access".into(), |op| format!("{op:?}"));
            let size = access.size.map_or(String::new(), |size| format!(" of {size}"));
            let at = access.address.map_or(String::new(), |at| format!(" at {at:#x}"));
            writeln!(text, "  ACCESS: {}{size}{at}", operation.to_lowercase()).unwrap();
        }
        let place = [
            finding.cpu.map(|cpu| format!("CPU {cpu}")),
            finding.pid.map(|pid| format!("PID {pid}")),
            finding.command.clone(),
            finding.taint.as_ref().map(|taint| format!("taint {taint:?}")),
            finding.release.clone(),
            (!finding.modules.is_empty()).then(|| format!("{} modules", finding.modules.len())),
            finding.time_us.map(|us| format!("{us} us")),
        ];
        let place: Vec<_> = place.into_iter().flatten().collect();
        writeln!(text, "  PLACE: {}", place.join(", ")).unwrap();
        describe_stack(&mut text, "FRAMES", &finding.frames);
        for stack in &finding.stacks {
            describe_stack(&mut text, &format!("STACK: {}", stack.label), &stack.frames);
        }
        if let Some(why) = &finding.corrupted {
            writeln!(text, "  CORRUPTED: {why}").unwrap();
        }
        writeln!(text, "  LINES: {}-{}", line(finding.start) + 1, line(finding.end)).unwrap();
    }
    if text.is_empty() { "TITLE:\n".to_owned() } else { text }
}

/// How many frames, how many of them unreliable, and the innermost and the outermost.
fn describe_stack(text: &mut String, label: &str, frames: &[Frame]) {
    let (Some(first), Some(last)) = (frames.first(), frames.last()) else { return };
    let name = |frame: &Frame| {
        let offset = frame.offset.map_or(String::new(), |offset| format!("+{offset:#x}"));
        let module = frame.module.as_ref().map_or(String::new(), |module| format!(" [{module}]"));
        let inlined = if frame.inlined { " (inlined)" } else { "" };
        format!("{}{offset}{module}{inlined}", frame.function)
    };
    let doubtful = frames.iter().filter(|frame| !frame.reliable).count();
    let (first, last, count) = (name(first), name(last), frames.len());
    writeln!(text, "  {label}: {count}, {doubtful} doubtful, {first} … {last}").unwrap();
}

#[test]
fn recorded_logs() {
    let update = std::env::var_os("UPDATE_CASES").is_some();
    for case in cases() {
        let found = describe(&parse(case.source, &case.log), &case.log);
        if update {
            let mut file = format!("{}{found}\n", case.preamble).into_bytes();
            file.extend_from_slice(&case.log);
            std::fs::write(&case.path, file).unwrap();
        } else {
            assert_eq!(case.expected, found, "{}", case.path.display());
        }
    }
}

/// What is true of every finding in every log.
#[test]
fn invariants() {
    for case in cases() {
        let name = case.path.display();
        let findings = parse(case.source, &case.log);
        for (index, finding) in findings.iter().enumerate() {
            let (start, end) = (finding.start as usize, finding.end as usize);
            assert!(start < end && end <= case.log.len(), "{name}");
            assert!(start == 0 || case.log[start - 1] == b'\n', "{name}: starts inside a line");
            let again = parse(case.source, &case.log[start..]);
            assert_eq!(again[0].signature, finding.signature, "{name}: parsed from its start");
            let after = parse(case.source, &case.log[end..]);
            assert_eq!(after.len(), findings.len() - index - 1, "{name}: parsed from its end");
            assert!(!finding.excerpt.is_empty() && finding.excerpt.ends_with('\n'), "{name}");
            let cause = finding.excerpt.lines().next().unwrap();
            assert!(case.log[start..end].windows(cause.len()).any(|at| at == cause.as_bytes()));
        }
    }
}

/// The same failure has one signature whatever the boot, the order and the console's format.
#[test]
fn signatures_repeat() {
    let signature = |name: &str| {
        let case = cases().into_iter().find(|case| case.path.ends_with(name)).unwrap();
        parse(case.source, &case.log).into_iter().map(|f| f.signature).next().unwrap()
    };
    let null = signature("null.txt");
    assert_eq!(
        null,
        "null_pointer/BUG: unable to handle kernel NULL pointer dereference in kfault_null (write)"
    );
    for other in ["oops-panic.txt", "no-timestamps.txt", "kmsg.txt", "warn-quiet.txt", "thread.txt"]
    {
        assert_eq!(null, signature(other), "{other}");
    }
    let signatures: Vec<_> =
        ["warn.txt", "gpf.txt", "bug.txt", "list.txt", "atomic.txt", "oom-kill.txt"]
            .map(signature)
            .into();
    for (index, one) in signatures.iter().enumerate() {
        assert!(!signatures[..index].contains(one), "{one}");
    }
}

/// Consoles that add or change something around what the kernel printed.
#[test]
fn console_formats() {
    let case = cases().into_iter().find(|case| case.path.ends_with("oops-panic.txt")).unwrap();
    let plain = String::from_utf8(case.log).unwrap();
    let expected: Vec<_> = parse(Source::Console, plain.as_bytes())
        .into_iter()
        .map(|finding| (finding.signature, finding.panicked, finding.excerpt))
        .collect();
    assert_eq!(expected.len(), 1);
    let each = |change: &dyn Fn(&str) -> String| -> Vec<u8> {
        plain.lines().flat_map(|line| change(line).into_bytes()).collect()
    };
    let unstamped = |line: &str| line.split_once("] ").map_or(line, |(_, text)| text).to_owned();
    let stamp = |line: &str, add: &str| line.replacen("] ", &format!("]{add} "), 1) + "\n";
    let mut variants = vec![
        ("CR LF", each(&|line| format!("{line}\r\n"))),
        ("CR CR LF", each(&|line| format!("{line}\r\r\n"))),
        ("levels", each(&|line| format!("<1>{line}\n"))),
        ("task", each(&|line| stamp(line, "[   T83]"))),
        ("CPU", each(&|line| stamp(line, "[    C0]"))),
        ("colours", each(&|line| format!("\x1b[31m{line}\x1b[0m\n"))),
        ("collector", each(&|line| format!("2026-11-21T22:00:00Z lab7 console: {line}\n"))),
        ("no times", each(&|line| unstamped(line) + "\n")),
        ("levels, no times", each(&|line| format!("<1>{}\n", unstamped(line)))),
        ("syslog", each(&|line| format!("Nov 21 22:00:00 lab7 kernel: {}\n", unstamped(line)))),
        ("user output between", each(&|line| format!("{line}\nWARNING: \u{fffd} user\n"))),
    ];
    // How collectors and CI systems begin a line.
    for prefix in [
        "2026-11-22T02:19:56.123456789Z ",
        "2026-11-22T02:19:56.123456789Z stdout F ",
        "2026-11-22T02:19:56.1234567Z ",
        "2026-11-22T02:19:56.123456Z 00O ",
        "[2026-11-22T02:19:56.123Z] ",
        "[2026-11-22 02:19:56.123] ",
        "[Sun Nov 22 02:19:56 2026]",
        "Nov 22 02:19:56 ",
        "Nov 22 02:19:56.123456 lab7 kernel: ",
        "<4>1 2026-11-22T02:19:56.123456+00:00 lab7 kernel - - - ",
        "guest-1  | ",
        "lab7 login: ",
        "root@lab7:~# ",
        "Fetching 10 %\r",
        "\0\0\0",
    ] {
        variants.push((prefix, each(&|line| format!("{prefix}{line}\n"))));
    }
    // The same without the kernel's time stamps, where a line's beginning tells a collector's.
    for prefix in [
        "2026-11-22T02:19:56.123456789Z stdout F ",
        "[2026-11-22T02:19:56.123Z] ",
        "[Sun Nov 22 02:19:56 2026] ",
        "kern  :warn  : [Sun Nov 22 02:19:56 2026] ",
        "1795312579.224616 lab7 kernel: ",
        "[  +0.005758] ",
    ] {
        variants.push((prefix, each(&|line| format!("{prefix}{}\n", unstamped(line)))));
    }
    let mut noise = each(&|line| format!("{line}\n"));
    noise.splice(0..0, b"\xff\xfe\x00 WARNING: coreboot \x80\n".iter().copied());
    variants.push(("not UTF-8 before", noise));
    let mut wrong = Vec::new();
    for (name, log) in variants {
        let got: Vec<_> = parse(Source::Console, &log)
            .into_iter()
            .map(|finding| (finding.signature, finding.panicked, finding.excerpt))
            .collect();
        if got != expected {
            wrong.push(format!("{name:?}: {got:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What firmware, boot loaders and programs print, before the kernel and after.
#[test]
fn not_the_kernel() {
    let chatter = "\
U-Boot 2024.01 (Jan 08 2024 - 15:37:48 +0000)
WARNING: Caches not enabled
WARNING: at unknown location
[WARN ]  CBMEM: recovering 5/234 entries from cbmem heap anchor
WARNING: BL31: opteed could not be initialized
BUG: spurious wakeup of the management engine
ERROR:   PANIC in EL3
Booting the kernel.
PANIC: unprotected error in call to Lua API
INFO: task scheduler started
Oops: something went wrong
UBSAN: enabled
fatal: general protection fault expected, got none
panic: runtime error: invalid memory address or nil pointer dereference
*** Warning - bad CRC, using default environment
WARNING: adjusting available memory to 30000000
\"Synchronous Abort\" handler, esr 0x96000004, far 0x0
elr: 0000000000080c24 lr : 0000000000080c18 (reloc)
Code: d503201f d65f03c0 (f9400000) d65f03c0
Resetting CPU ...
### ERROR ### Please RESET the board ###
NOTICE:  BL31: v2.8(release):v2.8
WARNING: BL1: Secure boot is disabled
ERROR:   Unhandled External Abort received on 0x80000000 at EL3!
PANIC at PC : 0x0000000004022c84
BACKTRACE: START: plat_panic_handler
E/TC:0 0 Panic at core/kernel/panic.c:12 <boot_init_primary>
[WARN ]  FMAP REGION: RW_MRC_CACHE not found
[EMERG]  ASSERTION ERROR: file 'src/lib/imd.c', line 214
!!!! X64 Exception Type - 0E(#PF - Page-Fault)  CPU Apic ID - 00000000 !!!!
ASSERT_EFI_ERROR (Status = Not Found)
WARNING: No console will be available to OS
error: no such device: boot.
thread 'main' panicked at src/main.rs:7:5:
java.lang.OutOfMemoryError: Java heap space
Segmentation fault (core dumped)
watchdog: timer of 60 s set
Kernel panic button enabled
INFO: task queue hung back, retrying
";
    let kernel = "[    0.000000] Linux version 6.1.0-47-cloud-amd64\n";
    // Text that is a report to the letter is told apart once the kernel has shown its time stamps.
    let imitation = "\
BUG: kernel NULL pointer dereference, address: 0000000000000010
RIP: 0010:kfault_null+0x5/0x20 [kfault]
Kernel panic - not syncing: only kidding
WARNING: CPU: 0 PID: 83 at /src/kfault.c:14 kfault_warn+0x5/0x10
[  OK  ] Started BUG: kernel NULL pointer dereference, address: 0000000000000010
";
    let service = "\
[    7.000000] systemd[1]: BUG: kernel NULL pointer dereference, address: 0000000000000010
[    7.000001] traps: app[83] general protection fault ip:401000 sp:7ffe error:0 in app[401000+1000]
[    7.000002] app[83]: segfault at 0 ip 0000000000401000 sp 00007ffe error 6 in app[401000+1000]
[    7.000003] EXT4-fs (vda1): mounted filesystem with ordered data mode
[    7.000004] INFO: NMI handler (perf_event_nmi_handler) took too long to run: 1.356 msecs
[    7.000005] WARNING: this kernel option is deprecated
[    7.000006] systemd-coredump[91]: Process 90 (app) of user 0 dumped core.
[    7.000007] Memory cgroup min protection 0kB -- low protection 0kB
[    7.000008] x86/fpu: x87 FPU will use FXSAVE
[    7.000009] rcu: INFO: the grace period takes its time
[    7.000010] mce: CPU0: Thermal monitoring enabled (TM1)
[    7.000011] EXT4-fs (vda1): warning: mounting fs with errors, running e2fsck is recommended
[    7.000012] audit: type=1326 audit(7.000:2): auid=0 uid=0 pid=93 comm=\"panic\" sig=31 code=0x0
";
    for log in [chatter.to_owned(), format!("{chatter}{kernel}{imitation}{service}")] {
        assert_eq!(parse(Source::Console, log.as_bytes()), []);
    }
}

/// Memory stays bounded on input made to fill it.
#[test]
fn hostile_lines() {
    let header = b"[    1.000000] BUG: unable to handle page fault for address: 0\n";
    let mut parser = Parser::new(Source::Console);
    let mut findings = parser.push(header);
    for _ in 0..64 {
        findings.extend(parser.push(&[b'x'; 1 << 16]));
    }
    assert!(parser.pending().is_some());
    let frame = b"[    1.000000]  frame+0x1/0x2\n";
    for _ in 0..100_000 {
        findings.extend(parser.push(frame));
    }
    assert_eq!(findings.len(), 1);
    assert!(findings[0].excerpt.len() <= 64 << 10);
    assert!(parser.pending().is_none());
    // A header in the middle of an overlong line is no header.
    let mut line = vec![b'y'; 8 << 10];
    line.extend_from_slice(header);
    assert_eq!(parser.push(&line), []);
    assert_eq!(parser.finish(), []);
}

/// A live console: the panic is known before the report's end, and quiet ends the report.
#[test]
fn pending_reports() {
    let mut parser = Parser::new(Source::Console);
    assert_eq!(parser.push(b"[    1.000000] BUG: kernel NULL pointer dereference, addr"), []);
    assert_eq!(parser.pending(), None);
    assert_eq!(parser.push(b"ess: 0000000000000010\n"), []);
    assert!(parser.pending().is_some_and(|pending| !pending.panicked));
    assert_eq!(parser.push(b"[    1.000001] Kernel panic - not syncing: Fatal exception\n"), []);
    assert!(parser.pending().is_some_and(|pending| pending.panicked));
    assert_eq!(parser.finish().len(), 1);
    assert_eq!(parser.pending(), None);
    assert_eq!(parser.push(b"[    9.000000] healthy\n[    9.1"), []);
    assert_eq!(parser.finish(), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any division of a log into chunks gives the same findings.
    #[test]
    fn chunks_do_not_matter(which in 0usize..1000, sizes in prop::collection::vec(1usize..3000, 1..200)) {
        let cases = cases();
        let case = &cases[which % cases.len()];
        let whole = parse(case.source, &case.log);
        let mut parser = Parser::new(case.source);
        let mut findings = Vec::new();
        let mut rest = case.log.as_slice();
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (part, tail) = rest.split_at((*size).min(rest.len()));
            findings.extend(parser.push(part));
            rest = tail;
        }
        findings.extend(parser.finish());
        prop_assert_eq!(whole, findings);
    }

    /// Whatever bytes come in: no panic, and the same findings byte by byte.
    #[test]
    fn any_bytes(pieces in prop::collection::vec(prop_oneof![
        any::<Vec<u8>>(),
        Just(b"[    1.000000] ".to_vec()),
        Just(b"BUG: unable to handle page fault for address: 1".to_vec()),
        Just(b"WARNING: CPU: 0 PID: 1 at a.c:1 f+0x1/0x2".to_vec()),
        Just(b"Kernel panic - not syncing: x".to_vec()),
        Just(b" f+0x1/0x2".to_vec()),
        Just(b"4,1,1,-;".to_vec()),
        Just(b"---[ end trace 0 ]---".to_vec()),
        Just(b"\x1b[1m".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\n".to_vec()),
    ], 0..60)) {
        let log = pieces.concat();
        for source in [Source::Console, Source::Kmsg] {
            let whole = parse(source, &log);
            let mut parser = Parser::new(source);
            let mut findings: Vec<_> = log.chunks(1).flat_map(|byte| parser.push(byte)).collect();
            findings.extend(parser.finish());
            prop_assert_eq!(&whole, &findings);
        }
    }
}
