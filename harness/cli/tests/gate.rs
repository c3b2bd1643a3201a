//! The gate on real guests: what breaks a kernel, what breaks the harness, and what each comes to.
//! Names have `boots` in them, by which nextest knows what keeps a core busy.

mod bench;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use bench::{Bench, Done, SEEDED, hog, is_qemu, wait_until};
use rustix::process::Signal;

const QUICK: (&str, &str) = ("quick", "true");

fn seeded(script: &str) -> String {
    format!("{SEEDED}{script}")
}

#[test]
fn a_kernel_against_itself_boots_and_is_promoted() {
    let Some(bench) = Bench::new(&[QUICK]) else { return };
    let deb = bench.pair.baseline_deb.display().to_string();
    let done = bench.start(&bench.run_args_of(&deb, &deb, "run", &[])).wait();
    let results = bench.results("run", &done);
    results.assert_verdict(0, "promote");
    assert_eq!(results.reasons(), "");
    assert!(results.outcomes().iter().all(|(_, outcome)| outcome == "passed"));
    assert_eq!(results.json["candidate"]["release"], *bench.pair.baseline.release);
    results.assert_junit("subsystem", "quick", "success", "");
    results.assert_junit("run", "verdict", "success", "");
    bench.assert_no_temporary_files();
    let done = bench.spawn(bench.kgate(&["report", "regression", "run"])).wait();
    assert_eq!(done.code, 2, "{done}");
    assert!(done.stderr.contains("no mail is due: nothing in this run speaks against"), "{done}");
}

#[test]
fn a_candidate_that_never_boots_is_rejected_at_once() {
    let Some(bench) = Bench::new(&[QUICK]) else { return };
    bench.workload(&["quick"], "rdinit=/nonexistent, init=/nonexistent", "timeouts: { boot: 4m }");
    let results = bench.run("run", &[]);
    results.assert_verdict(1, "reject");
    // What the kernel printed, and not that a deadline came.
    let cause = &results.boot("candidate-1-base")["fault"];
    assert_eq!(cause["kind"], "boot failed", "{cause}");
    let message = cause["message"].as_str().unwrap();
    assert!(
        message.contains("Unable to mount root fs") || message.contains("init"),
        "not the panic's reason: {message}"
    );
    assert!(results.took < Duration::from_secs(90), "{:?}", results.took);
    results.assert_junit("boot", "base", "failure", message);
    results.assert_junit("run", "verdict", "failure", message);
    let quick = results.trial("quick", "candidate");
    assert_ne!(quick.outcome, "passed", "{quick:?}");
}

#[test]
fn a_candidate_that_boots_to_silence_is_rejected_by_its_deadline_with_backtraces() {
    let Some(bench) = Bench::new(&[QUICK]) else { return };
    // A shell that waits for a command on the console.
    bench.workload(&["quick"], "rdinit=/bin/sh", "timeouts: { boot: 40s }");
    let results = bench.run("run", &[]);
    results.assert_verdict(1, "reject");
    let boot = results.boot("candidate-1-base");
    assert_eq!(boot["fault"]["kind"], "boot failed", "{boot}");
    let message = boot["fault"]["message"].as_str().unwrap();
    assert!(message.contains("no word from the agent after 40 s"), "{message}");
    assert!(results.took < Duration::from_secs(80), "{:?}", results.took);
    let diagnosis = boot["diagnoses"][0].as_str().expect("a diagnosis");
    let diagnosis = fs::read(bench.path("run").join(diagnosis)).expect("the diagnosis");
    assert!(String::from_utf8_lossy(&diagnosis).contains("task:sh"));
    results.assert_junit("boot", "base", "failure", message);
}

#[test]
fn a_panic_in_a_scenario_rejects_and_the_rest_runs() {
    let crash = seeded("echo c > /proc/sysrq-trigger; sleep 60");
    let Some(bench) = Bench::new(&[QUICK, ("crash", &crash), ("after", "true")]) else { return };
    let results = bench.run("run", &[]);
    results.assert_verdict(1, "reject");
    let crash = results.trial("crash", "candidate");
    crash.assert_failed("kernel panic", "sysrq triggered crash");
    assert!(crash.wall < Duration::from_secs(10), "{crash:?}");
    assert_eq!(results.trial("crash", "baseline").outcome, "passed");
    assert_eq!(results.trial("after", "candidate").outcome, "passed");
    assert_eq!(results.boot("candidate-1-base")["attempts"], 1);
    results.assert_junit("subsystem", "crash", "failure", "sysrq triggered crash");
    // The report shows the console of the guest that panicked, not of the one after it.
    let (_, _, out) = results.junit("subsystem", "crash");
    let console = out.split("--- console: ").nth(1).expect("the console's end");
    assert!(console.contains("Kernel panic - not syncing"), "{console}");
    results.assert_junit("subsystem", "after", "success", "");
    assert_mail(&bench);
}

/// What is to be told to the kernel's developers of that run.
fn assert_mail(bench: &Bench) {
    let maintainers = "TTY LAYER\nM:\tAda Example <ada@example.org>\nF:\tdrivers/tty/\n";
    bench.write("MAINTAINERS", maintainers);
    let report = |more: &[&str]| {
        bench.spawn(bench.kgate(&[&["report", "regression", "run"], more].concat())).wait()
    };
    let done = report(&["subsystem/crash", "--maintainers", "MAINTAINERS", "--output", "mail"]);
    assert_eq!(done.code, 0, "{done}");
    assert!(done.stderr.contains("To: stable@vger.kernel.org"), "{done}");
    let mail = fs::read_to_string(bench.path("mail/mail.txt")).expect("a mail");
    for part in [
        "Cc: regressions@lists.linux.dev",
        "\nSubject: [REGRESSION] ",
        "\n\n#regzbot introduced: v6.",
        "sysrq triggered crash",
        "It was seen in 1 of 1 boots of 6.",
        "both kernels are builds of Debian",
        "echo c > /proc/sysrq-trigger; sleep 60",
        "--append kgate.seed",
        "Machine: QEMU ",
    ] {
        assert!(mail.contains(part), "no {part:?} in\n{mail}");
    }
    assert!(!mail.contains(bench.path("").to_str().unwrap()), "{mail}");
    for (name, part) in [
        ("config", "\nCONFIG_X86_64=y\n"),
        ("dmesg-candidate.txt", "Kernel panic - not syncing: sysrq triggered crash"),
        ("dmesg-baseline.txt", "] Linux version 6."),
    ] {
        let file = fs::read_to_string(bench.path("mail").join(name)).expect(name);
        assert!(file.contains(part), "no {part:?} in {name}");
    }
    // What may have been edited stays.
    let again = report(&["--output", "mail"]);
    assert_eq!(again.code, 2, "{again}");
    assert!(again.stderr.contains("mail.txt is there already"), "{again}");
    let unknown = report(&["subsystem/quick"]);
    assert_eq!(unknown.code, 2, "{unknown}");
    assert!(unknown.stderr.contains("subsystem/crash: kernel panic"), "{unknown}");
}

#[test]
fn a_step_that_never_returns_rejects_and_the_boots_go_on() {
    let Some(bench) = Bench::new(&[QUICK, ("after", "true")]) else { return };
    bench.scenario("stuck", "timeout: 2s", &seeded("sleep 1000"));
    bench.workload(&["quick", "stuck", "after"], "kgate.seed", "");
    let results = bench.run("run", &[]);
    results.assert_verdict(1, "reject");
    let stuck = results.trial("stuck", "candidate");
    stuck.assert_failed("step timeout", "ran longer than 2 s");
    assert!((2..6).contains(&stuck.wall.as_secs()), "{stuck:?}");
    assert_eq!(results.trial("after", "candidate").outcome, "passed");
    // Nothing was wrong with the guest.
    assert_eq!(results.boot("candidate-1-base")["attempts"], 1);
    results.assert_junit("subsystem", "stuck", "failure", "step timeout");
}

#[test]
fn a_guest_that_stops_scheduling_rejects_with_backtraces_and_the_rest_runs() {
    let hog = seeded(&hog());
    let Some(bench) = Bench::new(&[QUICK, ("hog", &hog), ("after", "true")]) else { return };
    bench.workload(&["quick", "hog", "after"], "kgate.seed", "timeouts: { hang: 5s }");
    let results = bench.run("run", &[]);
    results.assert_verdict(1, "reject");
    let hog = results.trial("hog", "candidate");
    hog.assert_failed("hang", "no heartbeat for 5 s");
    assert!((5..15).contains(&hog.wall.as_secs()), "{hog:?}");
    assert_eq!(results.trial("after", "candidate").outcome, "passed");
    assert_eq!(results.boot("candidate-1-base")["attempts"], 1);
    let diagnosis = bench.path("run").join(&hog.diagnosis);
    let diagnosis = fs::read(diagnosis).expect("the diagnosis");
    let diagnosis = String::from_utf8_lossy(&diagnosis);
    for part in ["Show backtrace of all active CPUs", "Comm: hog", "Show Memory", "task:hog"] {
        assert!(diagnosis.contains(part), "no {part} in the diagnosis:\n{diagnosis}");
    }
    results.assert_junit("subsystem", "hog", "failure", "hang");
    let (_, _, out) = results.junit("subsystem", "hog");
    assert!(out.contains("--- diagnosis: "), "{out}");
}

#[test]
fn a_module_that_only_the_baseline_has_rejects_and_one_that_neither_boots_with_skips() {
    let Some(bench) = Bench::new(&[QUICK, ("link", "ip link add type veth")]) else { return };
    let link = bench.path("library/scenarios/subsystem/link.yaml");
    let text = fs::read_to_string(&link).unwrap();
    fs::write(&link, format!("requires: {{ modules: [veth] }}\n{text}")).unwrap();
    let without = bench.path("without");
    copy_kernel_without(bench.pair.candidate.image.as_path(), &without, "veth.ko");
    let without = without.display().to_string();
    let deb = bench.pair.baseline_deb.display().to_string();

    let done = bench.start(&bench.run_args_of(&deb, &without, "lost", &[])).wait();
    let lost = bench.results("lost", &done);
    lost.assert_verdict(1, "reject");
    lost.trial("link", "candidate").assert_failed("missing requirement", "veth");
    assert_eq!(lost.trial("link", "baseline").outcome, "passed");
    lost.assert_junit("subsystem", "link", "failure", "the module veth");

    let done = bench.start(&bench.run_args_of(&without, &without, "neither", &[])).wait();
    let neither = bench.results("neither", &done);
    neither.assert_verdict(0, "promote");
    let link = neither.trial("link", "candidate");
    assert_eq!(link.outcome, "skipped");
    assert!(link.skipped.contains("neither kernel has the module veth"), "{link:?}");
    neither.assert_junit("subsystem", "link", "skipped", "veth");
}

/// The root directory of an unpacked kernel again, without one of its files.
fn copy_kernel_without(image: &Path, to: &Path, left_out: &str) {
    let root = image.ancestors().nth(2).expect("boot/vmlinuz-* of a root");
    fs::create_dir(to).unwrap();
    for part in ["boot", "lib"] {
        let status = Command::new("cp").arg("-r").arg(root.join(part)).arg(to).status().unwrap();
        assert!(status.success());
    }
    assert_eq!(remove(to, left_out), 1, "{left_out} is there once");
}

fn remove(dir: &Path, prefix: &str) -> usize {
    let mut removed = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            removed += remove(&path, prefix);
        } else if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix)) {
            fs::remove_file(path).unwrap();
            removed += 1;
        }
    }
    removed
}

#[test]
fn a_killed_emulator_is_infrastructure_and_a_run_that_boots_it_again_promotes() {
    let Some(bench) = Bench::new(&[("slow", "sleep 4"), ("after", "true")]) else { return };
    let log = bench.log("run", "slow", "candidate-1-base");
    let mut running = bench.start(&bench.run_args("run", &[]));
    running.wait_for_trial(&log);
    running.kill_guest("candidate-1-base-1/subsystem/slow");
    let results = bench.results("run", &running.wait());
    results.assert_verdict(4, "infrastructure");
    results.trial("slow", "candidate").assert_errored("emulator", "signal: 9");
    assert_eq!(results.trial("slow", "baseline").outcome, "passed");
    assert_eq!(results.trial("after", "candidate").outcome, "passed");
    results.assert_junit("subsystem", "slow", "error", "QEMU ended from outside");
    results.assert_junit("run", "verdict", "error", "");

    let resumed = bench.resume("run");
    resumed.assert_verdict(0, "promote");
    assert_eq!(resumed.trial("slow", "candidate").outcome, "passed");
    assert_eq!(resumed.boot("baseline-1-base")["attempts"], 1, "what is done is not done again");
}

#[test]
fn an_emulator_that_is_killed_while_it_boots_is_started_again() {
    let Some(bench) = Bench::new(&[QUICK]) else { return };
    let mut running = bench.start(&bench.run_args("run", &[]));
    running.wait_until("the candidate's kernel runs", || {
        let console = bench.path("run/consoles/candidate-1-base-1.log");
        fs::read(console).is_ok_and(|text| !text.is_empty())
    });
    running.kill_guest("candidate-1-base-1");
    let results = bench.results("run", &running.wait());
    results.assert_verdict(0, "promote");
    assert_eq!(results.boot("candidate-1-base")["attempts"], 2);
    assert_eq!(results.trial("quick", "candidate").outcome, "passed");
}

#[test]
fn a_channel_that_is_cut_is_infrastructure_and_the_rest_runs() {
    let cut = seeded(
        "cd /sys/bus/virtio/drivers/virtio_console\n\
         for device in virtio*; do echo $device > unbind; done\n\
         sleep 60",
    );
    let Some(bench) = Bench::new(&[QUICK, ("cut", &cut), ("after", "true")]) else { return };
    let results = bench.run("run", &[]);
    results.assert_verdict(4, "infrastructure");
    results.trial("cut", "candidate").assert_errored("channel", "read from the controller");
    assert_eq!(results.trial("after", "candidate").outcome, "passed");
    results.assert_junit("subsystem", "cut", "error", "channel");
}

#[test]
fn a_full_disk_is_infrastructure_and_a_run_that_boots_with_more_room_promotes() {
    let Some(bench) = Bench::new(&[QUICK]) else { return };
    // Below the limit is what a guest boots from, which is a file to the kernel as well.
    let step = "  - run: dd if=/dev/zero bs=64k count=60 2>/dev/null | tr '\\0' x\n".repeat(3);
    let scenario = format!("kind: subsystem\nsummary: prints\nsteps:\n{step}");
    bench.write("library/scenarios/subsystem/print.yaml", &scenario);
    bench.workload(&["quick", "print"], "", "");
    let args = bench.run_args("run", &[]);
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let done = bench.spawn(bench.kgate_with_small_files(8 << 20, &args)).wait();
    assert_eq!(done.code, 4, "{done}");
    let why = "the run was stopped: controller: cannot write run/logs/subsystem/print@";
    assert!(done.stderr.contains(why), "{done}");
    assert!(done.stderr.contains("File too large"), "{done}");
    assert!(done.stderr.contains("kgate run --resume run"), "{done}");
    let resumed = bench.resume("run");
    resumed.assert_verdict(0, "promote");
}

#[test]
fn kvm_that_does_not_work_is_told_and_tcg_boots_instead() {
    let Some(bench) = Bench::new(&[]) else { return };
    // One that hangs in it stands in for the hosts whose KVM does.
    let wrapper = bench.path("qemu");
    let script = "#!/bin/sh\ncase \"$*\" in *'-accel kvm'*) exec sleep 1000 ;; esac\n\
                  exec qemu-system-x86_64 \"$@\"\n";
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    let wrapper = wrapper.display().to_string();
    let kernel = bench.pair.candidate_deb.display().to_string();
    let boot = |accel: &str, qemu: &str| {
        let args =
            ["--qemu", qemu, "boot", &kernel, "--memory=256", "--accel", accel, "--", "true"];
        bench.spawn(bench.kgate(&args)).wait()
    };
    let broken = boot("kvm", &wrapper);
    assert_eq!(broken.code, 4, "{broken}");
    assert!(broken.stderr.contains("KVM can't be used: "), "{broken}");
    assert!(broken.took < Duration::from_secs(30), "{broken}");
    let automatic = boot("auto", &wrapper);
    assert_eq!(automatic.code, 0, "{automatic}");
    assert!(automatic.stderr.contains("kgate: TCG is used: "), "{automatic}");

    let real = boot("kvm", "qemu-system-x86_64");
    if real.code == 0 {
        println!("SKIP: the KVM of this machine works");
        return;
    }
    assert_eq!(real.code, 4, "{real}");
    assert!(real.stderr.contains("KVM can't be used: "), "{real}");
}

#[test]
fn a_run_that_is_stopped_while_it_boots_and_tries_is_taken_up_to_the_same_verdict() {
    let wrong = seeded("exit 3");
    let scenarios = [QUICK, ("wrong", &*wrong), ("slow", "sleep 4"), ("after", "true")];
    let Some(bench) = Bench::new(&scenarios) else { return };
    let whole = bench.run("whole", &[]);
    whole.assert_verdict(1, "reject");
    whole.trial("wrong", "candidate").assert_failed("expectation", "exit status 3");

    // Ctrl-C.
    let log = bench.log("run", "slow", "candidate-1-base");
    let mut running = bench.start(&bench.run_args("run", &[]));
    running.wait_for_trial(&log);
    let guests = running.guests();
    assert!(!guests.is_empty());
    running.signal(Signal::INT);
    let asked = Instant::now();
    let done = running.wait();
    assert!(asked.elapsed() < Duration::from_secs(3), "{done}");
    assert_eq!(done.code, 130, "{done}");
    assert!(done.stderr.contains("kgate run --resume run"), "{done}");
    wait_until("the guests are gone", Duration::from_secs(1), || {
        guests.iter().all(|&guest| !is_qemu(guest))
    });

    // Taken up, and killed without a word.
    fs::remove_file(&log).unwrap();
    let mut running = bench.start(&bench.resume_args("run"));
    running.wait_for_trial(&log);
    let guests = running.guests();
    assert!(!guests.is_empty());
    running.signal(Signal::KILL);
    wait_until("the guests are gone", Duration::from_secs(1), || {
        guests.iter().all(|&guest| !is_qemu(guest))
    });
    wait_until("kgate is gone", Duration::from_secs(1), || running.ended());
    bench.assert_no_temporary_files();

    // While nothing runs the directory can be read, and it is not decided.
    let compared = bench.spawn(bench.kgate(&["compare", "run"])).wait();
    assert!([1, 3, 4].contains(&compared.code), "{compared}");

    let resumed = bench.resume("run");
    assert_eq!(resumed.verdict(), whole.verdict());
    assert_eq!(resumed.reasons(), whole.reasons());
    assert_eq!(resumed.outcomes(), whole.outcomes());
}

#[test]
fn partitions_of_boots_are_merged_to_the_same_verdict() {
    let wrong = seeded("exit 3");
    let Some(bench) = Bench::new(&[QUICK, ("wrong", &wrong)]) else { return };
    let boots = ["--boots", "2"];
    let whole = bench.run("whole", &boots);
    whole.assert_verdict(1, "reject");
    for (name, part) in [("one", "1/2"), ("two", "2/2")] {
        let part = bench.run(name, &["--boots", "2", "--partition", part]);
        let missing = part.outcomes().iter().filter(|(_, outcome)| outcome == "missing").count();
        assert_eq!(missing, 4, "{name} ran half of it");
    }
    let merge = ["merge", "merged", "one", "two", "--json", "merged.json", "--junit", "merged.xml"];
    let done = bench.spawn(bench.kgate(&merge)).wait();
    let merged = bench.results("merged", &done);
    assert_eq!(merged.code, whole.code);
    assert_eq!(merged.verdict(), whole.verdict());
    assert_eq!(merged.reasons(), whole.reasons());
    assert_eq!(merged.outcomes(), whole.outcomes());
}

/// `kgate boot` of the candidate with this standard input.
fn boot(bench: &Bench, more: &[&str], input: &[u8]) -> Done {
    let kernel = bench.pair.candidate_deb.display().to_string();
    let args = [&["boot", &kernel, "--memory=256", "--accel=tcg"], more].concat();
    let mut command = bench.kgate(&args);
    command.stdin(Stdio::piped());
    let mut running = bench.spawn(command);
    running.stdin().write_all(input).unwrap();
    running.wait()
}

#[test]
fn a_kernel_boots_for_a_command_which_gets_input_and_gives_output_and_status() {
    let Some(bench) = Bench::new(&[]) else { return };
    let script = r"tr a-z A-Z; printf '\033[31m\001\377\r\n'; echo complaint >&2; exit 7";
    let done = boot(&bench, &["--", "sh", "-c", script], b"first\nlast");
    assert_eq!(done.code, 1, "{done}");
    assert_eq!(done.stdout, b"FIRST\nLAST\x1b[31m\x01\xff\r\n", "{done}");
    assert_eq!(done.stderr, "complaint\nkgate: the command exited with 7\n");

    let done = boot(&bench, &["--append", "kgate.seed", "--", "cat", "/proc/cmdline"], b"");
    assert_eq!(done.code, 0, "{done}");
    assert!(done.stdout.ends_with(b" kgate.seed\n"), "{done}");
    assert_eq!(done.stderr, "");

    let crash = "echo c > /proc/sysrq-trigger; sleep 60";
    let done = boot(&bench, &["--console", "console", "--", "sh", "-c", crash], b"");
    assert_eq!(done.code, 1, "{done}");
    assert!(done.stderr.contains("kernel panic: sysrq triggered crash"), "{done}");
    let console = fs::read(bench.path("console")).unwrap();
    assert!(String::from_utf8_lossy(&console).contains("Kernel panic - not syncing"));
    bench.assert_no_temporary_files();
}

#[test]
fn a_kernel_boots_for_one_scenario() {
    let wrong = seeded("echo complaint >&2; exit 3");
    let scenarios = [("fine", "echo good news"), ("wrong", &*wrong)];
    let Some(bench) = Bench::new(&scenarios) else { return };
    let boot = |more: &[&str]| boot(&bench, &[&["--library", "library"], more].concat(), b"");
    let fine = boot(&["--scenario", "subsystem/fine"]);
    assert_eq!(fine.code, 0, "{fine}");
    assert!(String::from_utf8_lossy(&fine.stdout).contains("good news\n"), "{fine}");
    assert!(fine.stderr.contains("subsystem/fine passed"), "{fine}");

    let console = ["--append", "kgate.seed", "--console", "console"];
    let wrong = boot(&[&["--scenario", "subsystem/wrong"], &console[..]].concat());
    assert_eq!(wrong.code, 1, "{wrong}");
    assert!(String::from_utf8_lossy(&wrong.stdout).contains("complaint\n"), "{wrong}");
    assert!(wrong.stderr.contains("exit status 3: complaint"), "{wrong}");
    let console = fs::read(bench.path("console")).unwrap();
    assert!(String::from_utf8_lossy(&console).contains("Linux version"));

    let unknown = boot(&["--scenario", "subsystem/fin"]);
    assert_eq!(unknown.code, 2, "{unknown}");
    assert!(unknown.stderr.contains("no scenario `subsystem/fin`"), "{unknown}");
    bench.assert_no_temporary_files();
}

/// Descriptors and resident memory, in KiB, of a process.
fn holds(id: u32) -> Option<(usize, u64)> {
    let descriptors = fs::read_dir(format!("/proc/{id}/fd")).ok()?.count();
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some((descriptors, memory.trim().strip_suffix("kB")?.trim().parse().ok()?))
}

#[test]
fn many_boots_leave_nothing() {
    let Some(bench) = Bench::new(&[QUICK]) else { return };
    let boots: u32 =
        std::env::var("KGATE_TEST_BOOTS").map_or(20, |n| n.parse().expect("KGATE_TEST_BOOTS"));
    let each = boots.div_ceil(2).to_string();
    let mut running = bench.start(&bench.run_args("run", &["--boots", &each]));
    let mut seen: Vec<(usize, usize, u64)> = Vec::new();
    while !running.ended() {
        let ended = fs::read_to_string(bench.path("run/journal.jsonl"))
            .map_or(0, |text| text.matches("\"boot_ended\"").count());
        if let Some((descriptors, memory)) = holds(running.id()) {
            seen.push((ended, descriptors, memory));
        }
        // Eight clones for each CPU, and what is booting.
        assert!(running.guests().len() <= 9 * thread::available_parallelism().unwrap().get());
        thread::sleep(Duration::from_millis(20));
    }
    let results = bench.results("run", &running.wait());
    results.assert_verdict(0, "promote");
    let planned = boots.div_ceil(2) as usize * 2;
    assert_eq!(results.outcomes().len(), planned);
    // A short peak may fall between two samples, in one half and not in the other: what is held for
    // most of the time grows with a leak all the same.
    let typical = |from: usize, to: usize| {
        let part = seen.iter().filter(|(ended, ..)| (from..to).contains(ended));
        let (mut descriptors, mut memory): (Vec<_>, Vec<_>) = part.map(|&(_, d, m)| (d, m)).unzip();
        descriptors.sort_unstable();
        memory.sort_unstable();
        assert!(!descriptors.is_empty(), "no sample between boots {from} and {to}");
        (descriptors[descriptors.len() / 2], memory[memory.len() / 2])
    };
    let (early, late) = (typical(1, planned / 2), typical(planned / 2, planned));
    println!("medians of the first and second half: {early:?}, {late:?} (descriptors, KiB)");
    // Half of the boots lie between the two medians: a leak at every second boot shows with 20.
    assert!(late.0 <= early.0 + 4, "descriptors: {early:?}, then {late:?}");
    assert!(late.1 <= early.1 + 4096, "KiB of memory: {early:?}, then {late:?}");
    bench.assert_no_temporary_files();
}
