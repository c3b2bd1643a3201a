//! `kgate klog` as a person, a CI job and a pipe use it.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use support::{kgate, run};
use tempfile::TempDir;

/// Two failures and what is usual around them.
const LOG: &str = "\
SeaBIOS (version 1.16.2-debian-1.16.2-1)
[    0.000000] Linux version 6.1.0-56-cloud-amd64 (debian-kernel@lists.debian.org)
[    1.000000] eth0: link up, 1000 Mbps
[    4.000000] ------------[ cut here ]------------
[    4.000001] WARNING: CPU: 0 PID: 83 at /src/kfault.c:14 kfault_warn+0x5/0x10 [kfault]
[    4.000002] Modules linked in: kfault(OE)
[    4.000003] CPU: 0 PID: 83 Comm: sh Tainted: G           OE      6.1.0-56-cloud-amd64 #1  Debian 6.1.192-2
[    4.000004] RIP: 0010:kfault_warn+0x5/0x10 [kfault]
[    4.000005] Call Trace:
[    4.000006]  <TASK>
[    4.000007]  kfault_write+0x5/0x10 [kfault]
[    4.000008]  ? vfs_write+0x1a0/0x3f0
[    4.000009]  ksys_write+0x6b/0xf0
[    4.000010]  </TASK>
[    4.000011] ---[ end trace 0000000000000000 ]---
[    5.000000] foo 0000:00:1f.2: probe failed with error -22
[    9.000000] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)
[    9.000001] ---[ end Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0) ]---
";
const HEALTHY: &str = "\
[    0.000000] Linux version 6.1.0-47-cloud-amd64 (debian-kernel@lists.debian.org)
[    1.000000] eth1: link up, 100 Mbps
[    2.000000] bar: on its way out
";

fn directory() -> TempDir {
    let dir = TempDir::new().unwrap();
    for (name, text) in [("new.log", LOG), ("old.log", HEALTHY)] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn klog(dir: &Path, line: &str) -> (i32, String) {
    let (code, stdout, stderr) = run(kgate(dir).arg("klog").args(line.split_whitespace()));
    assert_eq!(stderr, "", "{line}");
    (code, stdout)
}

/// What the command prints with something on its standard input.
fn piped(dir: &Path, line: &str, input: &[u8]) -> String {
    let mut command = kgate(dir);
    command.arg("klog").args(line.split_whitespace()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn findings_for_a_person_and_for_github() {
    let dir = directory();
    let (code, text) = klog(dir.path(), "new.log");
    assert_eq!(code, 1);
    insta::assert_snapshot!("text", text);
    let (code, text) = klog(dir.path(), "--format github new.log");
    assert_eq!(code, 1);
    insta::assert_snapshot!("github", text);
    assert_eq!(klog(dir.path(), "old.log"), (0, "nothing was found in 3 lines\n".to_owned()));
    assert_eq!(klog(dir.path(), "--format github old.log"), (0, String::new()));
}

#[test]
fn one_object_on_each_line() {
    let dir = directory();
    let (code, text) = klog(dir.path(), "--format jsonl old.log new.log");
    assert_eq!(code, 1);
    let rows: Vec<Value> = text.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    assert_eq!(rows.len(), 2);
    for key in [
        "kind",
        "title",
        "alt_titles",
        "type",
        "function",
        "corrupted",
        "panicked",
        "signature",
        "start",
        "end",
        "severity",
        "excerpt",
        "file",
        "line",
    ] {
        assert!(rows.iter().all(|row| row.get(key).is_some()), "{key}: {text}");
    }
    assert_eq!(rows[0]["title"], "WARNING in kfault_warn");
    assert_eq!((&rows[0]["file"], &rows[0]["type"]), (&"new.log".into(), &"WARNING".into()));
    let start = rows[0]["start"].as_u64().unwrap() as usize;
    let line = rows[0]["line"].as_u64().unwrap() as usize;
    assert_eq!(LOG[..start].lines().count() + 1, line);
    assert_eq!((&rows[1]["kind"], &rows[1]["panicked"]), (&"panic".into(), &true.into()));
}

#[test]
fn logs_come_packed_and_through_pipes() {
    let dir = directory();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(LOG.as_bytes()).unwrap();
    let packed = gzip.finish().unwrap();
    fs::write(dir.path().join("-"), &packed).unwrap();
    fs::write(dir.path().join("new.gz"), &packed).unwrap();
    let of = |file: &str| {
        let (_, text) = klog(dir.path(), &format!("--format jsonl {file}"));
        text.replace(&format!("\"{file}\""), "\"-\"")
    };
    let expected = of("new.log");
    assert_eq!(of("new.gz"), expected);
    for line in ["--format jsonl", "--format jsonl -"] {
        assert_eq!(piped(dir.path(), line, LOG.as_bytes()), expected);
        assert_eq!(piped(dir.path(), line, &packed), expected);
    }
}

#[test]
fn records_of_dev_kmsg_are_told_from_consoles() {
    let dir = directory();
    let records: String = LOG
        .lines()
        .filter_map(|line| line.split_once("] "))
        .zip(0..)
        .map(|((_, text), n)| format!("4,{n},{n}000000,-;{text}\n"))
        .collect();
    let titles = |line: &str| -> Vec<String> {
        let rows = piped(dir.path(), line, records.as_bytes());
        let title = |row: &str| serde_json::from_str::<Value>(row).unwrap()["title"].to_string();
        rows.lines().map(title).collect()
    };
    assert_eq!(titles("--format jsonl").len(), 2);
    assert_eq!(titles("--format jsonl --source kmsg").len(), 2);
}

#[test]
fn what_is_new_against_another_kernel() {
    let dir = directory();
    let (code, text) = klog(dir.path(), "new.log --against old.log");
    assert_eq!(code, 1);
    insta::assert_snapshot!("against", text);
    let five = "new.log new.log new.log new.log new.log --against old.log --against old.log \
                --against old.log --against old.log --against old.log --format github";
    let (code, text) = klog(dir.path(), five);
    assert_eq!(code, 1);
    insta::assert_snapshot!("against_github", text);
    // Lines that are new are no failure.
    fs::write(dir.path().join("talk.log"), format!("{HEALTHY}[    3.000000] news\n")).unwrap();
    let (code, text) = klog(dir.path(), "talk.log --against old.log --format jsonl");
    assert_eq!(code, 0);
    let row: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&row["change"], &row["line"]["text"]), (&"new".into(), &"news".into()));
    let (code, _) = klog(dir.path(), "old.log --against new.log");
    assert_eq!(code, 0);
}

#[test]
fn what_is_found_again_is_told_in_short() {
    let dir = directory();
    let (code, text) = klog(dir.path(), "new.log new.log");
    assert_eq!(code, 1);
    let (_, again) = text.split_once("\n\nwarning       WARNING in kfault_warn, again\n").unwrap();
    insta::assert_snapshot!(again, @r"
      who         PID 83 (sh), CPU 0, 4.000001 s after start
      log         new.log:5

    fatal         kernel panic: VFS: Unable to mount root fs on unknown-block(NUM,NUM), again
      who         9.000000 s after start
      log         new.log:17

    4 findings, 2 different, in 36 lines
    ");
    let (_, rows) = klog(dir.path(), "new.log new.log --format jsonl");
    assert_eq!(rows.lines().count(), 4);
}

/// A mistake of whoever calls must not look like a healthy kernel.
#[test]
fn logs_that_tell_nothing() {
    let dir = directory();
    let of = |line: &str| run(kgate(dir.path()).arg("klog").args(line.split_whitespace()));
    fs::write(dir.path().join("empty.log"), "").unwrap();
    let (code, stdout, stderr) = of("empty.log --format github");
    assert_eq!((code, &*stdout), (0, ""));
    insta::assert_snapshot!(stderr, @"kgate: empty.log: empty, so nothing can be found in it");
    for [first, second] in [[0xff, 0xfe], [0xfe, 0xff]] {
        let wide = |unit: u16| if first == 0xff { unit.to_le_bytes() } else { unit.to_be_bytes() };
        let text = LOG.encode_utf16().flat_map(wide);
        let text: Vec<u8> = [first, second].into_iter().chain(text).collect();
        fs::write(dir.path().join("wide.log"), text).unwrap();
        let (code, stdout, stderr) = of("wide.log");
        assert_eq!((code, &*stdout), (2, ""));
        let hint = "  hint: turn it into UTF-8: iconv -f utf-16 -t utf-8 FILE | kgate klog\n";
        assert_eq!(stderr, format!("kgate: wide.log: UTF-16 text\n{hint}"));
    }
    // A name does not get to write lines of its own, or to paint.
    let (code, _, stderr) = run(kgate(dir.path()).args(["klog", "a\n::error::b\x1b[31m"]));
    assert_eq!(code, 2);
    assert!(stderr.starts_with(r"kgate: a\n::error::b\u{1b}[31m: no such file"), "{stderr}");
    // One that can't be read keeps no other back, and is not forgotten over it.
    let (code, stdout, stderr) = of("missing.log new.log wide.log old.log --format jsonl");
    assert_eq!((code, stdout.lines().count()), (2, 2));
    let complaints: Vec<_> = stderr.lines().filter(|line| line.starts_with("kgate: ")).collect();
    assert_eq!(
        complaints,
        ["kgate: missing.log: no such file or directory", "kgate: wide.log: UTF-16 text"]
    );
}

/// A log of any size, and a reader that has enough of it.
#[test]
fn pipes_are_read_while_they_are_written() {
    let dir = directory();
    let mut command = kgate(dir.path());
    command.args(["klog", "--format", "jsonl", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    // The finding comes while the pipe is open.
    input.write_all(LOG.as_bytes()).unwrap();
    let mut row = String::new();
    output.read_line(&mut row).unwrap();
    assert!(row.contains("WARNING in kfault_warn"), "{row}");
    // What has been read takes no room.
    let many = "[   10.000000] eth0: link is up and carries what it has to\n".repeat(20_000);
    for _ in 0..50 {
        input.write_all(many.as_bytes()).unwrap();
    }
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim();
    let kib: u64 = peak.strip_suffix(" kB").unwrap().trim().parse().unwrap();
    assert!(kib < 48 << 10, "{peak} for {} KiB of log", many.len() * 50 / 1024);
    // Nobody reads any more.
    drop(output);
    let deadline = Instant::now() + Duration::from_secs(60);
    while input.write_all(LOG.as_bytes()).is_ok() && Instant::now() < deadline {}
    drop(input);
    let mut complaint = String::new();
    child.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
    assert_eq!((child.wait().unwrap().code(), complaint.as_str()), (Some(1), ""));
}

/// A console that falls silent over a report has nothing to add to it.
#[test]
fn a_quiet_pipe_ends_a_report() {
    let dir = directory();
    let mut command = kgate(dir.path());
    command.args(["klog", "--format", "jsonl"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let report = LOG.split_inclusive('\n').take(12).collect::<String>();
    input.write_all(report.as_bytes()).unwrap();
    let mut row = String::new();
    output.read_line(&mut row).unwrap();
    assert!(row.contains("WARNING in kfault_warn"), "{row}");
    drop(input);
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn stacks_get_their_lines_of_source() {
    let dir = directory();
    let log = "\
[    4.000000] BUG: kernel NULL pointer dereference, address: 0000000000000010
[    4.000001] Oops: 0002 [#1] PREEMPT SMP NOPTI
[    4.000002] CPU: 0 PID: 83 Comm: sh Tainted: G           O       6.1.0-test #1
[    4.000003] RIP: 0010:demo_read+0x0/0x10 [demo]
[    4.000004] Call Trace:
[    4.000005]  <TASK>
[    4.000006]  outer+0x15/0x30
[    4.000007]  ? nowhere+0x5/0x10
[    4.000008]  </TASK>
[    4.000009] ---[ end trace 0000000000000000 ]---
";
    fs::write(dir.path().join("oops.log"), log).unwrap();
    // A kernel and a module of a few functions.
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernel/tests/symbols");
    let with = |name: &str| {
        let command = &mut kgate(dir.path());
        command.args(["klog", "oops.log", "--debug-info"]).arg(made.join(name));
        let (code, stdout, stderr) = run(command);
        let stack = stdout.split_once("  stack").map_or("", |(_, stack)| stack);
        let stack = stack.lines().map(|line| line.trim().to_owned() + "\n").collect::<String>();
        (code, stack, stderr.replace(&made.display().to_string(), "MADE"))
    };
    let (code, stack, stderr) = with("");
    assert_eq!(code, 1);
    insta::assert_snapshot!(stack, @"
    demo_fault [demo] drivers/demo.c:9 (inlined)
    demo_read+0x0/0x10 [demo] drivers/demo.c:14
    check init/main.c:14 (inlined)
    check_both init/main.c:19 (inlined)
    outer+0x15/0x30 init/main.c:25
    ? nowhere+0x5/0x10
    ");
    insta::assert_snapshot!(stderr, @"kgate: there is no function nowhere: was it built from another source or configuration?");
    let (code, stack, stderr) = with("build.sh");
    assert_eq!((code, stack.as_str()), (2, ""));
    insta::assert_snapshot!(stderr, @"kgate: MADE/build.sh: not debug information: not an ELF file; give a vmlinux or module built with CONFIG_DEBUG_INFO, a directory that has them, or a debug package");
}
