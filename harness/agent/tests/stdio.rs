//! The agent as a process: every request, for real, and what it leaves behind.

mod client;

use std::net::TcpListener;
use std::time::Duration;

use client::{Agent, processes_with, shell};
use kgate_model::sample::Better;
use kgate_model::wire::{
    CHUNK, Command, ExitStatus, Limits, PROTOCOL, Ready, Reply, Request, Root, Setup, Stdin,
};

/// A length of sleep that marks the processes of one test.
fn mark() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("4{}{:02}", std::process::id(), number)
}

/// Both ways to keep processes together: where this machine has a writable cgroup2, the first uses
/// it.
const WAYS: [&[&str]; 2] = [&[], &["--without-cgroups"]];

fn with(script: &str, change: impl FnOnce(&mut Command)) -> Command {
    let mut command = shell(script);
    change(&mut command);
    command
}

#[test]
fn hello_names_the_running_kernel() {
    let mut agent = Agent::start(&[]);
    // The agent speaks first: a serial line loses what is sent before anybody listens.
    let Reply::Hello { protocol, identity } = agent.reply(|_| true) else { panic!() };
    assert_eq!(protocol, PROTOCOL);
    let read = |path| std::fs::read_to_string(path).unwrap().trim_end().to_owned();
    assert_eq!(identity.release, read("/proc/sys/kernel/osrelease"));
    assert_eq!(identity.version, read("/proc/sys/kernel/version"));
    assert_eq!(identity.machine, std::env::consts::ARCH);
    assert_eq!(identity.command_line, read("/proc/cmdline"));
    assert_eq!(identity.boot_id, read("/proc/sys/kernel/random/boot_id"));
    assert!(identity.uptime_ms > 0);
    agent.send(&Request::Hello { protocol: PROTOCOL, setup: Setup::default() });
    assert_eq!(agent.reply(|_| true), Reply::Done { id: 0, result: Ok(()) });
    // Another controller on the same agent gets its own hello.
    agent.send(&Request::Hello { protocol: PROTOCOL, setup: Setup::default() });
    assert!(matches!(agent.reply(|_| true), Reply::Hello { .. }));
    assert_eq!(agent.reply(|_| true), Reply::Done { id: 0, result: Ok(()) });
    assert_eq!(agent.end(), 0);
}

#[test]
fn another_protocol_and_a_guests_setup_are_refused() {
    let mut agent = Agent::start(&[]);
    let mut setup = |protocol, setup| {
        agent.send(&Request::Hello { protocol, setup });
        match agent.reply(|reply| matches!(reply, Reply::Done { id: 0, .. })) {
            Reply::Done { result, .. } => result.unwrap_err().message,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        setup(PROTOCOL + 1, Setup::default()),
        format!(
            "the controller speaks protocol {}, this agent {PROTOCOL}: install the agent of the \
             same build",
            PROTOCOL + 1
        )
    );
    let guests = "root, network, host name and identity are set up in a guest only";
    let root = Some(Root { device: "/dev/vda".into(), fs: "squashfs".into() });
    assert_eq!(setup(PROTOCOL, Setup { root, ..Setup::default() }), guests);
    assert_eq!(setup(PROTOCOL, Setup { network: true, ..Setup::default() }), guests);
    assert_eq!(setup(PROTOCOL, Setup { hostname: "x".into(), ..Setup::default() }), guests);
    let modules = vec!["/nonexistent/x.ko".into()];
    assert_eq!(
        setup(PROTOCOL, Setup { modules, ..Setup::default() }),
        "open module /nonexistent/x.ko: No such file or directory (os error 2)"
    );
    let sysctl = |name: &str| Setup {
        sysctls: [(name.to_owned(), "1".to_owned())].into(),
        ..Setup::default()
    };
    assert_eq!(setup(PROTOCOL, sysctl("../../etc/x")), r#""../../etc/x" is no kernel setting"#);
    agent.send(&Request::Hello { protocol: PROTOCOL, setup: sysctl("kernel/no_such_setting") });
    let answer = agent.reply(|reply| matches!(reply, Reply::Done { id: 0, .. }));
    assert_eq!(answer, Reply::Done { id: 0, result: Ok(()) });
}

#[test]
fn a_command_has_its_streams_environment_directory_and_exit_code() {
    let mut agent = Agent::ready(&[]);
    let outcome = agent.run(with("echo out; echo err >&2; pwd; env; exit 7", |command| {
        command.env = [("A".into(), "1 2".into()), ("PATH".into(), "/usr/bin:/bin".into())].into();
        command.dir = "/usr".into();
    }));
    assert_eq!(outcome.status, ExitStatus::Code(7));
    assert_eq!(outcome.stderr, "err\n");
    let mut lines: Vec<_> = outcome.stdout.lines().collect();
    lines.retain(|line| !line.starts_with("KGATE_COMMAND="));
    assert_eq!(lines[..2], ["out", "/usr"]);
    lines[2..].sort_unstable();
    assert_eq!(lines[2..], ["A=1 2", "KGATE_SAMPLES_FD=3", "PATH=/usr/bin:/bin", "PWD=/usr"]);
    assert_eq!(outcome.dropped, 0);

    let outcome = agent.run(shell("kill -SEGV $$"));
    assert_eq!(outcome.status, ExitStatus::Signal(libc::SIGSEGV));
    let outcome = agent.run(shell("sleep 0.3; i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"));
    assert!(outcome.wall_ms >= 300, "{outcome:?}");
    assert!(outcome.cpu_ms.0 >= 10 && outcome.cpu_ms.0 < outcome.wall_ms, "{outcome:?}");
}

#[test]
fn a_command_inherits_nothing_of_the_agent() {
    let mut agent = Agent::ready(&[]);
    let outcome = agent.run(shell(
        "ls /proc/self/fd; grep -E 'Sig(Blk|Ign)' /proc/self/status; ps -o sid= -o pgid= -p $$; \
         cat /proc/self/oom_score_adj; umask",
    ));
    // Descriptor 4 is that of `ls` on the directory.
    let lines: Vec<_> = outcome.stdout.split_whitespace().collect();
    assert_eq!(lines[..5], ["0", "1", "2", "3", "4"]);
    let none = "0000000000000000";
    assert_eq!(lines[5..9], ["SigBlk:", none, "SigIgn:", none]);
    assert_eq!(lines[9], lines[10], "a session and a group of its own");
    assert_eq!(lines[11..], ["0", "0022"]);
}

#[test]
fn what_can_not_be_started_says_why() {
    let mut agent = Agent::ready(&[]);
    let mut why = |change: fn(&mut Command)| match agent.run(with("", change)).status {
        ExitStatus::NotStarted(trouble) => trouble.message,
        other => panic!("{other:?}"),
    };
    assert_eq!(why(|c| c.argv.clear()), "the command is empty");
    assert_eq!(
        why(|c| c.argv = vec!["no-such-program".into()]),
        "execute no-such-program (looked for in /usr/local/bin:/usr/bin:/bin): No such file or \
         directory (os error 2)"
    );
    assert_eq!(
        why(|c| c.argv = vec!["/etc/passwd".into()]),
        "execute /etc/passwd: Permission denied (os error 13)"
    );
    assert_eq!(
        why(|c| c.dir = "/nonexistent".into()),
        "change to /nonexistent: No such file or directory (os error 2)"
    );
    assert_eq!(
        why(|c| c.argv = vec!["a\0b".into()]),
        "program holds a NUL byte: \"/usr/local/bin/a\\0b\""
    );
    assert_eq!(agent.run(shell("exit 3")).status, ExitStatus::Code(3));
}

#[test]
fn a_number_in_use_and_too_many_commands_are_refused() {
    let mut agent = Agent::ready(&[]);
    let first = agent.spawn(shell("sleep 100"));
    agent.send(&Request::Spawn { id: first, command: shell("true") });
    let refused = agent.outcome(first);
    assert!(
        matches!(&refused.status, ExitStatus::NotStarted(t) if t.message.contains("in use")),
        "{refused:?}"
    );
    let ids: Vec<_> = (0..64).map(|_| agent.spawn(shell("sleep 100"))).collect();
    let last = agent.outcome(*ids.last().unwrap());
    assert!(
        matches!(&last.status, ExitStatus::NotStarted(t) if t.message.contains("64 commands")),
        "{last:?}"
    );
    assert_eq!(agent.done(|id| Request::KillAll { id }), Ok(()));
    for id in ids.iter().rev().skip(1).chain([&first]) {
        assert_eq!(agent.outcome(*id).status, ExitStatus::Killed);
    }
}

#[test]
fn large_output_arrives_whole_and_in_pieces_below_the_chunk() {
    let mut agent = Agent::ready(&[]);
    let id = agent.spawn(with("seq 300000", |command| command.output_limit = 8 << 20));
    let mut all = Vec::new();
    loop {
        match agent.reply(|_| true) {
            Reply::Output { id: of, data, .. } if of == id => {
                assert!(!data.is_empty() && data.len() <= CHUNK);
                all.extend(data);
            }
            Reply::Exited { status, dropped, .. } => {
                assert_eq!((status, dropped), (ExitStatus::Code(0), 0));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    let wanted: String = (1..=300_000).map(|n| format!("{n}\n")).collect();
    assert!(all == wanted.into_bytes());
}

#[test]
fn output_over_the_limit_is_counted_for_each_stream() {
    let mut agent = Agent::ready(&[]);
    let outcome = agent.run(with("yes | head -c 500000; echo end >&2", |command| {
        command.output_limit = 1000;
    }));
    assert_eq!(outcome.status, ExitStatus::Code(0));
    assert_eq!((outcome.stdout.len(), outcome.dropped), (1000, 499_000));
    assert_eq!(outcome.stderr, "end\n");
}

#[test]
fn a_time_limit_ends_everything_that_was_started() {
    for way in WAYS {
        let mut agent = Agent::ready(way);
        let mark = mark();
        // One in the same group, one in a session of its own, one that ignores what it can.
        let outcome = agent.run(with(
            &format!(
                "trap '' TERM INT HUP; sleep {mark} & setsid sh -c 'sleep {mark} & sleep {mark}' & \
                 echo up; sleep {mark}"
            ),
            |command| command.timeout_ms = Some(400),
        ));
        assert_eq!(outcome.status, ExitStatus::TimedOut, "{way:?}");
        assert_eq!(outcome.stdout, "up\n");
        assert!((400..3000).contains(&outcome.wall_ms), "{outcome:?}");
        assert_eq!(processes_with(&mark), [""; 0], "{way:?}");
    }
}

#[test]
fn kill_ends_everything_that_was_started() {
    for way in WAYS {
        let mut agent = Agent::ready(way);
        let mark = mark();
        let id =
            agent.spawn(shell(&format!("(setsid sleep {mark} &); echo up; exec sleep {mark}")));
        agent.wait_output(id, "up");
        agent.send(&Request::Kill { id });
        assert_eq!(agent.outcome(id).status, ExitStatus::Killed, "{way:?}");
        assert_eq!(processes_with(&mark), [""; 0], "{way:?}");
    }
}

#[test]
fn a_daemon_left_behind_delays_the_end_only_briefly_and_is_ended() {
    for way in WAYS {
        let mut agent = Agent::ready(way);
        let mark = mark();
        // It holds the output open, as a careless daemon does.
        let outcome = agent.run(shell(&format!("(setsid sleep {mark} &); echo left")));
        assert_eq!(outcome.status, ExitStatus::Code(0), "{way:?}");
        assert_eq!(outcome.stdout, "left\n");
        assert!(outcome.took < Duration::from_secs(3), "{way:?}: {outcome:?}");
        assert_eq!(processes_with(&mark), [""; 0], "{way:?}");
        // And one that holds nothing.
        let quiet = format!("(setsid sleep {mark} </dev/null >/dev/null 2>&1 3>&- &); sleep 0.05");
        assert_eq!(agent.run(shell(&quiet)).status, ExitStatus::Code(0), "{way:?}");
        assert_eq!(processes_with(&mark), [""; 0], "{way:?}");
    }
}

#[test]
fn output_written_after_the_main_process_ended_is_still_forwarded() {
    let mut agent = Agent::ready(&[]);
    let outcome = agent.run(shell("(sleep 0.05; echo late) & echo early"));
    assert_eq!(outcome.stdout, "early\nlate\n");
    assert_eq!(outcome.status, ExitStatus::Code(0));
}

#[test]
fn background_commands_and_their_daemons_run_until_kill_all() {
    for way in WAYS {
        let mut agent = Agent::ready(way);
        let (daemon, server) = (mark(), mark());
        let background = |script: String| with(&script, |command| command.background = true);
        let first = agent.spawn(background(format!("(setsid sleep {daemon} &); echo forked")));
        let second = agent.spawn(background(format!("echo up; exec sleep {server}")));
        assert_eq!(agent.outcome(first).stdout, "forked\n");
        agent.wait_output(second, "up");
        assert_eq!(agent.run(shell("true")).status, ExitStatus::Code(0));
        assert_eq!((processes_with(&daemon).len(), processes_with(&server).len()), (1, 1));
        assert_eq!(agent.done(|id| Request::KillAll { id }), Ok(()));
        assert_eq!(agent.outcome(second).status, ExitStatus::Killed);
        assert_eq!([processes_with(&daemon), processes_with(&server)].concat(), [""; 0], "{way:?}");
    }
}

#[test]
fn power_off_and_a_closed_channel_leave_no_process() {
    for close in [false, true] {
        let mut agent = Agent::ready(&["--without-cgroups"]);
        let mark = mark();
        // The second hides: no session, no group, and no environment of ours.
        agent.spawn(with(&format!("echo up; sleep {mark}"), |command| command.background = true));
        let hides = format!("env -i setsid sh -c 'sleep {mark} & sleep {mark}' & echo up; sleep 9");
        let id = agent.spawn(with(&hides, |command| command.background = true));
        agent.wait_output(id, "up");
        while processes_with(&format!("sleep {mark}")).len() < 4 {
            std::thread::sleep(Duration::from_millis(5));
        }
        if close {
            assert_eq!(agent.end(), 0);
        } else {
            agent.send(&Request::PowerOff);
            assert_eq!(agent.wait(), 0);
        }
        assert_eq!(processes_with(&mark), [""; 0], "closed: {close}");
    }
}

#[test]
fn the_next_agent_ends_what_a_killed_one_left() {
    let mark = mark();
    let mut agent = Agent::ready(&[]);
    let id = agent.spawn(shell(&format!("cat /proc/self/cgroup; echo up; exec sleep {mark}")));
    let mut seen = String::new();
    while !seen.contains("up\n") {
        let Reply::Output { data, .. } = agent.reply(|r| matches!(r, Reply::Output { .. })) else {
            panic!()
        };
        seen += std::str::from_utf8(&data).unwrap();
    }
    if !seen.contains(&format!("/kgate-{}/{id}\n", agent.pid())) {
        eprintln!("skipped: no cgroup2 that may be written here");
        return;
    }
    agent.kill();
    assert_eq!(processes_with(&mark).len(), 1);
    Agent::ready(&[]);
    assert_eq!(processes_with(&mark), [""; 0]);
}

#[test]
fn limits_are_in_force() {
    let mut agent = Agent::ready(&["--without-cgroups"]);
    let limits = Limits { files: Some(20), cpu_seconds: Some(1), ..Limits::default() };
    let outcome = agent.run(with("ulimit -n; ulimit -t; while :; do :; done", |command| {
        command.limits = limits;
        command.timeout_ms = Some(20_000);
    }));
    assert_eq!(outcome.stdout, "20\n1\n");
    assert_eq!(outcome.status, ExitStatus::Signal(libc::SIGXCPU));

    let outcome = agent.run(with("ulimit -v; head -c 300M /dev/zero | tail | wc -c", |command| {
        command.limits.memory = Some(100 << 20);
    }));
    assert!(outcome.stdout.starts_with("102400\n"), "{outcome:?}");
    assert!(outcome.stderr.contains("memory exhausted"), "{outcome:?}");
}

#[test]
fn samples_come_as_numbers_and_what_is_none_as_text() {
    let mut agent = Agent::ready(&[]);
    let outcome = agent.run(shell(
        r#"echo '{"metric":"open","value":12.5,"unit":"ns","better":"lower"}' >&3
           echo 'nonsense' >&$KGATE_SAMPLES_FD
           echo '{"metric":"rate","value":1e999,"unit":"1/s","better":"higher"}' >&3
           printf '{"metric":"rate","value":7,"unit":"1/s","better":"higher"}' >&3"#,
    ));
    assert_eq!(outcome.status, ExitStatus::Code(0));
    let samples: Vec<_> =
        outcome.samples.iter().map(|s| (s.metric.as_str(), s.value, s.better)).collect();
    assert_eq!(samples, [("open", 12.5, Better::Lower), ("rate", 7.0, Better::Higher)]);
    let complaints: Vec<_> = outcome.stderr.lines().collect();
    assert_eq!(complaints.len(), 2, "{complaints:?}");
    assert!(
        complaints[0].starts_with("kgate: not a sample: ") && complaints[0].ends_with(": nonsense")
    );
    assert!(complaints[1].contains("out of range"), "{complaints:?}");
}

#[test]
fn input_reaches_the_command_and_ends() {
    let mut agent = Agent::ready(&[]);
    let id = agent.spawn(with("cat; echo over", |command| {
        command.stdin = Stdin::Pipe;
        command.output_limit = 8 << 20;
    }));
    let piece = "0123456789abcdef".repeat(2048);
    for _ in 0..40 {
        agent.send(&Request::Input { id, data: piece.clone().into_bytes() });
    }
    agent.send(&Request::Input { id, data: Vec::new() });
    let outcome = agent.outcome(id);
    assert_eq!(outcome.status, ExitStatus::Code(0));
    assert!(outcome.stdout == piece.repeat(40) + "over\n");
    // Late input for a command that ended is no trouble.
    agent.send(&Request::Input { id, data: b"late".to_vec() });
    // A command that doesn't read holds up nobody.
    let id = agent.spawn(with("sleep 100", |command| command.stdin = Stdin::Pipe));
    for _ in 0..300 {
        agent.send(&Request::Input { id, data: piece.clone().into_bytes() });
    }
    assert_eq!(agent.run(shell("true")).status, ExitStatus::Code(0));
    agent.send(&Request::Kill { id });
    let outcome = agent.outcome(id);
    assert!(outcome.stderr.contains("standard input was thrown away"), "{outcome:?}");
}

#[test]
fn a_terminal_has_a_size_a_line_discipline_and_hangs_up() {
    let mut agent = Agent::ready(&[]);
    let id =
        agent.spawn(with("tty; stty size; read line; stty size; cat; echo \"[$line]\"", |c| {
            c.stdin = Stdin::Terminal { columns: 132, rows: 43 };
        }));
    agent.wait_output(id, "43 132\r\n");
    agent.send(&Request::Resize { id, size: (80, 25) });
    agent.send(&Request::Input { id, data: b"words\n".to_vec() });
    agent.wait_output(id, "25 80\r\n");
    agent.send(&Request::Input { id, data: b"more\n".to_vec() });
    agent.wait_output(id, "more\r\nmore\r\n");
    agent.send(&Request::Input { id, data: Vec::new() });
    let outcome = agent.outcome(id);
    assert_eq!((outcome.status, outcome.stdout.as_str()), (ExitStatus::Code(0), "[words]\r\n"));

    // Ctrl-C reaches the foreground process. No shell: one that is about to fork may lose it.
    let id = agent.spawn(with("", |c| {
        c.argv = vec!["cat".into()];
        c.stdin = Stdin::Terminal { columns: 80, rows: 25 };
    }));
    agent.send(&Request::Input { id, data: b"x\n".to_vec() });
    agent.wait_output(id, "x\r\nx\r\n");
    agent.send(&Request::Input { id, data: vec![3] });
    assert_eq!(agent.outcome(id).status, ExitStatus::Signal(libc::SIGINT));
}

#[test]
fn ready_is_a_file_or_a_port() {
    let mut agent = Agent::ready(&[]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ready").display().to_string();
    let wait = |ready, timeout_ms| move |id| Request::WaitReady { id, ready, timeout_ms };
    let late = agent.done(wait(Ready::File(file.clone()), 50)).unwrap_err();
    assert_eq!(late.errno, Some(libc::ENOENT));
    assert!(late.message.contains("not ready after 50 ms"), "{late:?}");
    agent.spawn(shell(&format!("sleep 0.2; touch {file}")));
    assert_eq!(agent.done(wait(Ready::File(file), 10_000)), Ok(()));

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    assert_eq!(agent.done(wait(Ready::Tcp(address.clone()), 10_000)), Ok(()));
    drop(listener);
    let closed = agent.done(wait(Ready::Tcp(address), 50)).unwrap_err();
    assert_eq!(closed.errno, Some(libc::ECONNREFUSED));
    let name = agent.done(wait(Ready::Tcp("localhost:80".into()), 50)).unwrap_err();
    assert_eq!(name.message, "localhost:80 is no numeric address and port");
}

#[test]
fn files_are_written_appended_and_read_within_limits() {
    let mut agent = Agent::ready(&[]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new/file").display().to_string();
    let write = |append, data: &[u8]| {
        let (path, data) = (path.clone(), data.to_vec());
        move |id| Request::WriteFile { id, path, mode: 0o750, append, data }
    };
    assert_eq!(agent.done(write(false, b"to be replaced")), Ok(()));
    assert_eq!(agent.done(write(false, b"hello ")), Ok(()));
    assert_eq!(agent.done(write(true, b"world")), Ok(()));
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap());
    assert_eq!(mode & 0o777, 0o750);
    let mut read = |path: &str, limit| {
        let id = agent.id();
        agent.send(&Request::ReadFile { id, path: path.into(), limit });
        agent.reply(|_| true)
    };
    let content = |reply| match reply {
        Reply::Content { data, truncated, .. } => (String::from_utf8(data).unwrap(), truncated),
        other => panic!("{other:?}"),
    };
    assert_eq!(content(read(&path, 100)), ("hello world".into(), false));
    assert_eq!(content(read(&path, 11)), ("hello world".into(), false));
    assert_eq!(content(read(&path, 5)), ("hello".into(), true));
    // More than a frame holds.
    let (zeros, truncated) = content(read("/dev/zero", u32::MAX));
    assert!(truncated && zeros.len() > 900_000);
    let trouble = |reply| match reply {
        Reply::Done { result, .. } => result.unwrap_err().errno,
        other => panic!("{other:?}"),
    };
    assert_eq!(trouble(read("/nonexistent", 5)), Some(libc::ENOENT));
    assert_eq!(trouble(read("/proc", 5)), Some(libc::EISDIR));
    // A FIFO where a file was expected doesn't hold up the agent.
    let fifo = directory.path().join("fifo").display().to_string();
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    assert_eq!(content(read(&fifo, 5)), (String::new(), false));
    let request = |id| Request::WriteFile { id, path: fifo, mode: 0, append: true, data: vec![1] };
    assert_eq!(agent.done(request).unwrap_err().errno, Some(libc::ENXIO));
}

#[test]
fn modules_that_do_not_load_say_why() {
    let mut agent = Agent::ready(&[]);
    assert_eq!(agent.done(|id| Request::LoadModules { id, paths: vec![] }), Ok(()));
    let paths = vec!["/etc/passwd".to_owned()];
    let trouble = agent.done(|id| Request::LoadModules { id, paths }).unwrap_err();
    assert!(trouble.message.starts_with("load module /etc/passwd: "), "{trouble:?}");
    assert!(trouble.errno.is_some());
}

#[test]
fn state_has_taint_and_memory() {
    let mut agent = Agent::ready(&[]);
    let id = agent.id();
    agent.send(&Request::State { id });
    let Reply::State { id: of, state } = agent.reply(|_| true) else { panic!() };
    assert_eq!(of, id);
    let taint = std::fs::read_to_string("/proc/sys/kernel/tainted").unwrap();
    assert_eq!(state.taint.to_string(), taint.trim_end());
    assert!(state.memory["MemTotal"] > 1000 && state.memory["MemFree"] < state.memory["MemTotal"]);
}

#[test]
fn the_kernel_log_comes_from_its_start() {
    let flags = std::os::unix::fs::OpenOptionsExt::custom_flags;
    let mut options = std::fs::OpenOptions::new();
    let Ok(mut log) = flags(options.read(true), libc::O_NONBLOCK).open("/dev/kmsg") else {
        eprintln!("skipped: /dev/kmsg is not readable here");
        return;
    };
    let mut first = vec![0; 8192];
    let Ok(n) = std::io::Read::read(&mut log, &mut first) else {
        eprintln!("skipped: the kernel log is empty here");
        return;
    };
    let first = String::from_utf8_lossy(&first[..n]).lines().next().unwrap().to_owned();
    let mut agent = Agent::ready(&[]);
    agent.run(shell("sleep 1.3"));
    let log = String::from_utf8_lossy(&agent.kernel_log).into_owned();
    assert_eq!(log.lines().next(), Some(first.as_str()));
    assert!(log.ends_with('\n'));
}

#[test]
fn heartbeats_come_each_second_even_while_nobody_reads_a_flood() {
    let mut agent = Agent::ready(&[]);
    let id = agent.spawn(with("timeout 2.5 yes", |command| command.output_limit = u64::MAX));
    // The flood fills every buffer between us; the heartbeat overtakes what is queued.
    std::thread::sleep(Duration::from_millis(200));
    let _ = agent.outcome(id);
    assert!(agent.heartbeats.len() >= 2, "{:?}", agent.heartbeats);
    let gaps: Vec<_> = agent.heartbeats.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| (900..2500).contains(gap)), "{gaps:?}");
}

#[test]
fn a_broken_frame_ends_the_agent_and_what_it_started() {
    let mut agent = Agent::ready(&[]);
    let mark = mark();
    let id = agent.spawn(shell(&format!("echo up; sleep {mark}")));
    agent.wait_output(id, "up");
    agent.send_bytes(&[0xff; 64]);
    assert_eq!(agent.wait(), 4);
    assert_eq!(processes_with(&mark), [""; 0]);
}

#[test]
fn two_hundred_commands_leave_no_descriptor_no_thread_and_no_process() {
    let mut agent = Agent::ready(&[]);
    let count =
        |what: &str, pid: u32| std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    agent.run(shell("true"));
    std::thread::sleep(Duration::from_millis(200));
    let pid = agent.pid();
    let before = (count("fd", pid), count("task", pid));
    for n in 0..200 {
        let outcome = agent.run(shell(&format!("(exit 1) & exit {}", n % 5)));
        assert_eq!(outcome.status, ExitStatus::Code(n % 5));
    }
    // The last command's thread ends just after its reply.
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!((count("fd", pid), count("task", pid)), before);
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    assert_eq!(children.unwrap_or_default(), "");
}

#[test]
fn arguments_that_are_none_are_answered_with_the_usage() {
    for arguments in [&[][..], &["--nonsense"], &["--stdio", "more"]] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_kgate-agent"))
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2));
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            text,
            "usage: kgate-agent --stdio [--without-cgroups] [--base DIRECTORY [--image DEVICE]]\n\
            \x20      kgate-agent --guard SECONDS [--root DIRECTORY]\n"
        );
    }
}

#[test]
fn steps_on_a_host_get_the_root_of_a_guest() {
    if !is_root() || !std::path::Path::new("/bin/busybox").exists() {
        eprintln!("SKIP: a root of its own needs root and /bin/busybox");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    for part in ["bin", "kgate", "etc", "root"] {
        std::fs::create_dir_all(tree.join(part)).unwrap();
    }
    std::fs::copy("/bin/busybox", tree.join("bin/busybox")).unwrap();
    std::os::unix::fs::symlink("/bin/busybox", tree.join("bin/sh")).unwrap();
    std::fs::write(tree.join("kgate/ops"), "ops").unwrap();
    let mut agent = Agent::ready(&["--base", dir.path().to_str().unwrap()]);
    let outcome = agent.run(shell(
        "PATH=/bin; busybox ls /; busybox cat /kgate/ops; echo; \
         busybox readlink /proc/self/exe; echo x >/tmp/mine; busybox mkdir /mnt; \
         busybox mount -t tmpfs t /mnt && busybox grep -c ' /mnt ' /proc/self/mounts",
    ));
    assert_eq!(outcome.stderr, "");
    assert_eq!(
        outcome.stdout,
        "bin\ndev\netc\nkgate\nproc\nroot\nrun\nsys\ntmp\nops\n/bin/busybox\n1\n"
    );
    // Nothing of it is the host's.
    assert!(!std::path::Path::new("/tmp/mine").exists());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(dir.path().to_str().unwrap()), "{mounts}");
    // The host's files are where modules come from.
    let paths = vec![format!("{}/tree/kgate/ops", dir.path().display())];
    let trouble = agent.done(|id| Request::LoadModules { id, paths }).unwrap_err();
    assert!(trouble.message.contains("load module"), "{trouble:?}");
    assert_eq!(agent.end(), 0);
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}
