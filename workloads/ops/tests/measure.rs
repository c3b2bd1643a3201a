//! Every operation, run for real on this machine's kernel through the binary.
#![expect(unsafe_code, reason = "a seccomp filter stands in for a kernel that lacks a call")]

use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::fs::{Mode, OFlags};

/// Runs the binary with its samples going to a file of its own, and answers with both.
fn run(name: &str, args: &[&str]) -> (Output, String) {
    run_with(name, args, |command| command)
}

fn run_with(
    name: &str,
    args: &[&str],
    change: impl FnOnce(&mut Command) -> &mut Command,
) -> (Output, String) {
    let path = scratch(&format!("samples-{name}"));
    // Without O_CLOEXEC, so that the child gets it under the same number.
    let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY;
    let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).expect("open");
    let mut command = Command::new(env!("CARGO_BIN_EXE_kgate-ops"));
    command.args(args).env("KGATE_SAMPLES_FD", file.as_raw_fd().to_string());
    let output = change(&mut command).output().expect("the binary starts");
    (output, std::fs::read_to_string(&path).expect("samples are text"))
}

fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Checks that `samples` are exactly `count` lines of the contract, for `metric`, in `ns`.
fn check_samples(metric: &str, samples: &str, count: usize) {
    check_samples_in("ns", metric, samples, count);
}

fn check_samples_in(unit: &str, metric: &str, samples: &str, count: usize) {
    let lines: Vec<serde_json::Value> =
        samples.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert_eq!(lines.len(), count, "{samples}");
    for line in &lines {
        assert_eq!(line["metric"], metric);
        assert_eq!(line["unit"], unit);
        assert_eq!(line["better"], "lower");
        let value = line["value"].as_f64().expect("a number");
        assert!(value > 0.0 && value < 1e9, "{metric}: {value} {unit} per operation");
        assert_eq!(line.as_object().expect("an object").len(), 4);
    }
}

#[test]
fn every_operation_measures_this_kernel() {
    let dir = scratch("dir");
    std::fs::create_dir_all(&dir).expect("mkdir");
    let dir_arg = dir.to_str().expect("UTF-8");
    let mut skipped = Vec::new();
    for op in kgate_ops::ops() {
        let batch = op.max_batch.min(7).to_string();
        let args =
            [op.name, "--batch", &batch, "--batches", "5", "--warmup", "1", "--dir", dir_arg];
        let (output, samples) = run(op.name, &args);
        // What this kernel lacks, or what only root may, is skipped, visibly.
        if output.status.code() == Some(4) {
            let why = stderr(&output);
            assert!(why.starts_with(&format!("kgate-ops: {} skipped: ", op.name)), "{why}");
            assert_eq!(samples, "", "{}", op.name);
            print!("{why}");
            skipped.push(op.name);
            continue;
        }
        assert_eq!(output.status.code(), Some(0), "{}: {}", op.name, stderr(&output));
        check_samples(op.name, &samples, 5);
        let line = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(line.starts_with(&format!("{}: median ", op.name)), "{line}");
        assert!(line.ends_with("5 batches of 7)\n") && line.lines().count() == 1, "{line}");
    }
    assert_eq!(std::fs::read_dir(&dir).expect("still there").count(), 0, "something was left");
    // No kernel lacks these, for nobody.
    for name in ["getppid", "fork-exec", "mmap-fault", "pipe", "stat", "tcp-rr", "unix-stream"] {
        assert!(!skipped.contains(&name), "{name} was skipped");
    }
}

#[test]
fn exactly_the_counter_counts_and_the_unit_says_so() {
    let args = ["pipe", "--exact", "--batch", "7", "--batches", "5", "--warmup", "1"];
    let (output, samples) = run("exact", &args);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    check_samples_in("instructions", "pipe", &samples, 5);
    let line = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(line.contains(" instructions per operation (least "), "{line}");
}

/// The markers are bytes of the program itself: each is there, and nothing else looks like one.
#[test]
fn each_marker_is_in_the_program_and_nothing_else_looks_like_one() {
    let program = std::fs::read(env!("CARGO_BIN_EXE_kgate-ops")).expect("the binary");
    let mut found: Vec<u8> = program
        .windows(8)
        .filter(|w| w.starts_with(&[0x0f, 0x1f, 0x84, 0]) && w.ends_with(&[0x4b, 0x54, 0x4b]))
        .map(|w| w[4])
        .collect();
    found.dedup();
    found.sort_unstable();
    found.dedup();
    assert_eq!(found, [1, 2, 3]);
}

#[test]
fn defaults_give_as_many_samples_as_the_table_says() {
    for name in ["getppid", "create-unlink", "tcp-connect"] {
        let op = kgate_ops::find(name).expect("in the table");
        let (output, samples) = run(&format!("default-{name}"), &[name]);
        // A machine without a tmpfs skips, visibly.
        if output.status.code() == Some(4) {
            println!("{}", stderr(&output));
            continue;
        }
        assert_eq!(output.status.code(), Some(0), "{name}: {}", stderr(&output));
        check_samples(name, &samples, op.shape.batches as usize);
    }
}

#[test]
fn samples_go_to_stdout_when_the_descriptor_is_not_open_for_writing() {
    let read_only = rustix::fs::open("/dev/null", OFlags::RDONLY, Mode::empty()).expect("open");
    for fd in ["987".to_owned(), "-1".to_owned(), read_only.as_raw_fd().to_string()] {
        let (output, elsewhere) =
            run_with("stdout", &["pipe", "--batches", "3"], |c| c.env("KGATE_SAMPLES_FD", &fd));
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        check_samples("pipe", &String::from_utf8_lossy(&output.stdout), 3);
        assert_eq!(elsewhere, "");
    }
}

#[test]
fn samples_that_cannot_be_written_are_an_error() {
    let full = rustix::fs::open("/dev/full", OFlags::WRONLY, Mode::empty()).expect("open");
    let (output, _) = run_with("full", &["pipe", "--batches", "3"], |command| {
        command.env("KGATE_SAMPLES_FD", full.as_raw_fd().to_string())
    });
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr(&output),
        "kgate-ops: pipe: write of samples: No space left on device (os error 28)\n"
    );
}

#[test]
fn mistakes_are_answered_with_what_is_near() {
    let cases: &[(&[&str], &str)] = &[
        (&[], "which operation?"),
        (
            &["tcp-conect"],
            "no operation is called 'tcp-conect'; near it: tcp-connect, tcp-zerocopy",
        ),
        (&["zzzz"], "no operation is called 'zzzz'; kgate-ops --list shows them all"),
        (&["pipe", "--batch", "0"], "--batch 0 is not between 1 and 1000000"),
        (&["pipe", "--batches", "99999"], "--batches 99999 is not between 1 and 10000"),
        (&["munmap", "--batch", "2000"], "--batch 2000 is not between 1 and 1024"),
        (
            &["pipe", "--batch", "many"],
            "cannot parse argument \"many\": invalid digit found in string",
        ),
        (&["pipe", "stat"], "unexpected argument \"stat\""),
        (&["pipe", "--bach", "3"], "invalid option '--bach'"),
        (&["pipe", "--exact=1"], "unexpected argument for option '--exact': \"1\""),
        (&["pipe", "--batch"], "missing argument for option '--batch'"),
    ];
    for (args, message) in cases {
        let (output, samples) = run("mistake", args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert_eq!(stderr(&output), format!("kgate-ops: {message}; see kgate-ops --help\n"));
        assert_eq!(samples, "");
    }
    let (output, _) = run_with("fd", &["pipe"], |c| c.env("KGATE_SAMPLES_FD", "three"));
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn list_names_every_operation() {
    let (output, _) = run("list", &["--list"]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    for op in kgate_ops::ops() {
        assert!(text.lines().any(|l| l.starts_with(op.name) && l.ends_with(op.summary)));
    }
}

#[test]
fn a_missing_call_is_a_skip_and_a_broken_one_is_not() {
    let cases = [
        (libc::ENOSYS, 4, "skipped: eventfd: Function not implemented (os error 38)"),
        (libc::EPERM, 4, "skipped: eventfd: Operation not permitted (os error 1)"),
        (libc::ENOMEM, 1, "eventfd: Cannot allocate memory (os error 12)"),
    ];
    for (errno, code, message) in cases {
        let (output, samples) = run_with(&format!("errno-{errno}"), &["eventfd"], |command| {
            // SAFETY: the hook only makes two system calls.
            unsafe { command.pre_exec(move || answer(libc::SYS_eventfd2, errno)) }
        });
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        let separator = if code == 4 { " " } else { ": " };
        assert_eq!(stderr(&output), format!("kgate-ops: eventfd{separator}{message}\n"));
        assert_eq!(samples, "");
    }
}

/// Makes the kernel answer `call` with `errno` in this process and those it starts.
fn answer(call: libc::c_long, errno: i32) -> std::io::Result<()> {
    let instruction = |code, jump_true, jump_false, k: u32| libc::sock_filter {
        code: u16::try_from(code).unwrap_or(0),
        jt: jump_true,
        jf: jump_false,
        k,
    };
    let filter = [
        // The number of the system call is the first word of what a filter sees.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, call as u32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: `program` and the filter it points to outlive both calls.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
