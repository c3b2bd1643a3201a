//! Carrying out plans on real agents: order, outcomes, and every way in which a machine fails.

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kgate_machine::Pool as _;
use kgate_machine::{BootError, End};
use kgate_model::journal::Event;
use kgate_model::outcome::{Blame, Fault, FaultKind, Outcome};
use kgate_runner::{History, Placement, RunDir, RunEnd, RunError, make_plan, merge, run};
use kgate_testkit::local::LocalPool;
use support::{Bench, Lacking, OOPS, PANIC, WARNING, first_step, inputs, kernel, on, say};

#[test]
#[ignore = "started by the local pool"]
fn local_agent() {
    kgate_testkit::local::serve();
}

const ONE_BOOT: &str = "scenarios: ['**']\npolicy: { boots: 1 }\n";

fn boot_error(blame: Blame, kind: FaultKind, message: &str) -> BootError {
    let fault = Fault { blame, kind, message: message.into() };
    BootError { fault, findings: Vec::new(), tail: Vec::new(), diagnosis: None }
}

#[tokio::test]
async fn boots_alternate_and_everything_is_told_in_order() {
    let results = "printf 'TAP version 13\\n1..2\\nok 1 first\\nnot ok 2 second\\n'";
    let scenarios = [
        ("subsystem/hello", "steps:\n  - run: echo hello\n    expect: { stdout: ^hello$ }\n"),
        (
            "integration/numbers",
            "steps:\n  - run: echo rate=12.5; echo rate=13 >&2; echo rate=14\n    metrics:\n      \
             rate: { pattern: 'rate=(\\S+)', unit: 1/s, better: higher }\n",
        ),
        (
            "subsystem/tap",
            &*format!("steps:\n  - run: \"{}\"\n    results: tap\n", results.replace('\\', "\\\\")),
        ),
    ];
    let workload = "scenarios: [subsystem/hello, integration/numbers: { boots: 1 }, \
        subsystem/tap: { boots: 1 }]\npolicy: { boots: 2 }\n";
    let mut bench = Bench::new(1, inputs(&scenarios, workload));
    assert_eq!(bench.run(|_, _| {}).await, RunEnd::Complete);
    insta::assert_snapshot!(bench.story());
    assert_eq!(bench.pool.active(), 0);
    let record = bench.record();
    assert_eq!(record.stopped, None);
    assert!(record.boots.iter().all(|boot| boot.finished && boot.identity.is_some()));
    let hello = &record.trials[0];
    let log = std::fs::read_to_string(bench.dir.path().join(hello.log.as_ref().unwrap())).unwrap();
    assert_eq!(log, "--- step 1: run 1\nhello\n");
    assert!(hello.before.is_some() && hello.after.is_some());
}

#[tokio::test]
async fn boots_run_beside_each_other_but_not_beside_an_exclusive_one() {
    let steps = "steps:\n  - run: sleep 0.2; echo x=1\n    metrics: { x: { pattern: 'x=(.)', unit: s, \
        better: lower } }\n";
    let scenarios = [("subsystem/a", steps), ("performance/p", steps)];
    let workload = "scenarios: ['**']\npolicy: { boots: 3 }\n";
    let mut bench = Bench::new(2, inputs(&scenarios, workload));
    let (mut active, mut beside) = (Vec::<String>::new(), Vec::new());
    let end = bench
        .run(|event, _| match event {
            Event::BootStarted { boot, .. } => {
                active.push(boot.clone());
                if active.iter().any(|boot| boot.ends_with("+exclusive")) {
                    beside.push(active.len());
                }
            }
            Event::BootEnded { boot, .. } => active.retain(|other| other != boot),
            _ => {}
        })
        .await;
    assert_eq!(end, RunEnd::Complete);
    assert_eq!(beside, [1; 6]);
    assert_eq!(bench.pool.most_at_once(), 2);
    assert!(bench.record().trials.iter().all(|trial| trial.outcome == Some(Outcome::Passed)));
}

#[tokio::test]
async fn hosts_and_guests_work_beside_each_other_and_hosts_are_given_back() {
    let scenarios = [
        ("subsystem/a", "steps:\n  - run: sleep 0.2\n"),
        (
            "performance/p",
            "steps:\n  - run: sleep 0.2; echo x=1\n    metrics: { x: { pattern: 'x=(.)', unit: s, \
             better: lower } }\n",
        ),
    ];
    let inputs = inputs(&scenarios, "scenarios: ['**']\npolicy: { boots: 3 }\n");
    let placement = on(&["east", "west"], &["subsystem/*"]);
    let mut bench = Bench::placed(&placement, 1, inputs);
    bench.pool.leave("west", "it does not answer");
    bench.pool.conditions_at("", [("governor".into(), "performance".into())].into());
    bench.pool.conditions_at("baseline-2", [("governor".into(), "powersave".into())].into());
    let (mut active, mut beside) = (Vec::<String>::new(), 0);
    let end = bench
        .run(|event, _| match event {
            Event::BootStarted { boot, .. } => {
                active.push(boot.clone());
                beside = beside.max(active.len());
                let guests = active.iter().filter(|boot| !boot.contains("+on-"));
                assert!(guests.count() <= 1, "exclusive guests are alone among guests: {active:?}");
            }
            Event::BootEnded { boot, .. } => active.retain(|other| other != boot),
            _ => {}
        })
        .await;
    assert_eq!(end, RunEnd::Complete);
    assert_eq!(beside, 3, "both hosts and a guest");
    assert_eq!(bench.pool.finished(), 1);
    let record = bench.record();
    assert!(record.trials.iter().all(|trial| trial.outcome == Some(Outcome::Passed)));
    assert_eq!(record.hosts["east"], None);
    assert_eq!(record.hosts["west"].as_deref(), Some("it does not answer"));
    assert_eq!(record.notes, ["west: it does not answer"]);
    let governor = |boot: &str| {
        let boot = record.boots.iter().find(|b| b.planned.id == boot).unwrap();
        (boot.planned.host.clone().unwrap(), boot.conditions[0]["governor"].clone())
    };
    assert_eq!(governor("candidate-2-base+on-west"), ("west".into(), "performance".into()));
    assert_eq!(governor("baseline-2-base+on-west"), ("west".into(), "powersave".into()));
}

#[tokio::test]
async fn hosts_are_given_back_however_a_run_ends_and_a_resumed_one_takes_the_same() {
    let scenarios = [
        ("subsystem/a", "steps:\n  - run: 'true'\n"),
        ("subsystem/b", "steps:\n  - run: sleep 1\n"),
    ];
    let mut bench = Bench::on(&["east"], 1, inputs(&scenarios, ONE_BOOT));
    bench.interrupt_at("subsystem/b@baseline").await;
    assert_eq!(bench.pool.finished(), 1);
    assert_eq!(bench.record().hosts.len(), 1);
    assert_eq!(bench.run(|_, _| {}).await, RunEnd::Complete);
    assert_eq!(bench.pool.finished(), 2);
    let requests = bench.pool.requests();
    assert!(requests.iter().all(|request| request.host.as_deref() == Some("east")));
}

#[tokio::test]
async fn a_panic_is_the_running_trials_and_the_rest_runs_in_a_fresh_boot() {
    let scenarios = [
        ("subsystem/a", "steps:\n  - run: 'true'\n"),
        ("subsystem/b", "steps:\n  - run: sleep 1000\n"),
        ("subsystem/c", "steps:\n  - run: 'true'\n"),
    ];
    let mut bench = Bench::new(1, inputs(&scenarios, ONE_BOOT));
    let started = Instant::now();
    let end = bench
        .run(|event, pool| {
            if first_step(event, "subsystem/b@baseline") {
                // The machine stays, as one does that is told not to reset.
                pool.machine("baseline-1").print(PANIC);
            } else if first_step(event, "subsystem/b@candidate") {
                let machine = pool.machine("candidate-1");
                machine.print(PANIC);
                machine.end(End::Panicked);
            }
        })
        .await;
    assert_eq!(end, RunEnd::Complete);
    assert!(started.elapsed() < Duration::from_secs(20), "not at a timeout");
    insta::assert_snapshot!(bench.story());
}

#[tokio::test]
async fn ends_of_a_machine_have_their_causes() {
    let scenarios = [
        ("subsystem/cut", "steps:\n  - run: sleep 1000\n"),
        ("subsystem/off", "steps:\n  - run: sleep 1000\n"),
        ("subsystem/reset", "steps:\n  - run: sleep 1000\n"),
        ("subsystem/vanish", "steps:\n  - run: sleep 1000\n"),
        ("subsystem/well", "steps:\n  - run: 'true'\n"),
    ];
    let mut bench = Bench::new(2, inputs(&scenarios, ONE_BOOT));
    let end = bench
        .run(|event, pool| {
            let Event::StepStarted { trial, .. } = event else { return };
            let (scenario, boot) = trial.split_once('@').unwrap();
            let machine = pool.machine(boot);
            match scenario {
                "subsystem/cut" => machine.cut(),
                "subsystem/off" => machine.end(End::PoweredOff),
                "subsystem/reset" => machine.end(End::Reset),
                "subsystem/vanish" => machine.end(End::Vanished("qemu was killed".into())),
                _ => {}
            }
        })
        .await;
    assert_eq!(end, RunEnd::Complete);
    insta::assert_snapshot!(bench.outcomes());
    assert_eq!(bench.record().boots[0].attempts, 5);
}

#[tokio::test]
async fn a_hung_machine_is_diagnosed() {
    let scenarios = [
        ("subsystem/hang", "steps:\n  - run: sleep 1000\n"),
        ("subsystem/well", "steps:\n  - run: 'true'\n"),
    ];
    let workload = "scenarios: ['**']\npolicy: { boots: 1, timeouts: { hang: 3s } }\n";
    let mut bench = Bench::new(2, inputs(&scenarios, workload));
    let diagnosis = "[   30.1] NMI backtrace for cpu 0\r\n\
        [   30.1] CPU: 0 PID: 77 Comm: sh Not tainted 6.1.2 #1\r\n\
        [   30.1] RIP: 0010:delay_tsc+0x2a/0x60\r\n\
        [   30.2] Kernel panic - not syncing: NMI: Not continuing\r\n";
    let end = bench
        .run(|event, pool| {
            if first_step(event, "subsystem/hang@candidate") {
                pool.machine("candidate-1").freeze(diagnosis);
            } else if first_step(event, "subsystem/hang@baseline") {
                // Only the candidate hangs.
                pool.machine("baseline-1").end(End::PoweredOff);
            }
        })
        .await;
    assert_eq!(end, RunEnd::Complete);
    insta::assert_snapshot!(bench.outcomes());
    let record = bench.record();
    let boot = record.boots.iter().find(|boot| boot.planned.id == "candidate-1-base").unwrap();
    let saved = std::fs::read_to_string(bench.dir.path().join(&boot.diagnoses[0])).unwrap();
    assert_eq!(saved, diagnosis);
    // What our own NMI provoked is no finding.
    assert!(record.trials.iter().all(|trial| trial.findings.is_empty()));
}

#[tokio::test]
async fn steps_and_trials_have_deadlines_and_leave_nothing_behind() {
    let mark = format!("7{:07}", std::process::id());
    let forever = format!("sleep {mark} & sleep {mark}");
    let scenarios = [
        ("subsystem/step", &*format!("steps:\n  - run: {forever}\n    timeout: 0.5s\n")),
        ("subsystem/trial", &*format!("timeout: 1s\nsteps:\n  - run: {forever}\n")),
        ("subsystem/well", "steps:\n  - run: 'true'\n"),
    ];
    let mut bench = Bench::new(2, inputs(&scenarios, ONE_BOOT));
    let started = Instant::now();
    assert_eq!(bench.run(|_, _| {}).await, RunEnd::Complete);
    assert!(started.elapsed() < Duration::from_secs(15));
    insta::assert_snapshot!(bench.outcomes());
    assert_eq!(bench.record().boots[0].attempts, 1);
    assert_eq!(processes_with(&mark), 0);
}

fn processes_with(mark: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|p| std::fs::read(p.path().join("cmdline")).ok());
    lines.filter(|line| line.split(|&b| b == 0).any(|word| word == mark.as_bytes())).count()
}

#[tokio::test]
async fn boots_that_fail_are_blamed_and_tried_again_only_when_it_is_ours() {
    let scenarios = [("subsystem/a", "steps:\n  - run: 'true'\n")];
    let workload = "scenarios: ['**']\npolicy: { boots: 2 }\n";
    let mut bench = Bench::new(1, inputs(&scenarios, workload));
    let kernel = boot_error(Blame::Kernel, FaultKind::BootFailed, "no init found");
    let ours = || boot_error(Blame::Harness, FaultKind::Emulator, "qemu did not start");
    let hung = BootError { diagnosis: Some(b"CPU: 0".to_vec()), ..kernel };
    bench.pool.refuse("candidate-1", [hung]);
    bench.pool.refuse("baseline-1", [ours()]);
    bench.pool.refuse("candidate-2", [ours(), ours()]);
    assert_eq!(bench.run(|_, _| {}).await, RunEnd::Complete);
    insta::assert_snapshot!(bench.story());
    assert_eq!(bench.record().boots[1].diagnoses.len(), 1);

    // What was ours runs again when the run is taken up again; what was the kernel's doesn't.
    bench.events.clear();
    assert_eq!(bench.run(|_, _| {}).await, RunEnd::Complete);
    insta::assert_snapshot!(bench.story());
}

#[tokio::test]
async fn a_machine_that_dies_between_trials_is_started_again_but_not_for_ever() {
    let scenarios = [("subsystem/a", "steps:\n  - run: 'true'\n")];
    let mut bench = Bench::new(1, inputs(&scenarios, ONE_BOOT));
    let mut left = 1;
    let end = bench
        .run(|event, pool| match event {
            Event::BootStarted { boot, .. } if boot == "baseline-1-base" && left > 0 => {
                // It is there as soon as it says hello; its end comes while its state is asked for.
                left -= 1;
                pool.die_when_ready(End::PoweredOff);
            }
            Event::BootStarted { boot, .. } if boot == "candidate-1-base" => {
                pool.die_when_ready(End::Reset);
            }
            _ => {}
        })
        .await;
    assert_eq!(end, RunEnd::Complete);
    insta::assert_snapshot!(bench.story());
}

#[tokio::test]
async fn findings_fail_the_trial_that_ran() {
    let scenarios = [
        ("subsystem/a", "steps:\n  - run: 'true'\n"),
        (
            "subsystem/allowed",
            "kernel-log: { allow: [tcp_rcv_state] }\nsteps:\n  - run: sleep 0.1\n    \
             expect: { kernel-log: 'WARNING: .*tcp_input.c:\\d+' }\n",
        ),
        ("subsystem/bad", "steps:\n  - run: exit 3\n"),
        ("subsystem/c", "steps:\n  - run: sleep 0.1\n    expect: { kernel-log: never said }\n"),
        (
            "subsystem/expected",
            "steps:\n  - run: sleep 0.1\n    expect: { kernel-log: 'WARNING: .*tcp_input' }\n",
        ),
    ];
    for action in ["end-boot", "mark"] {
        let workload = format!("scenarios: ['**']\npolicy: {{ boots: 1, on-finding: {action} }}\n");
        let mut bench = Bench::new(1, inputs(&scenarios, &workload));
        let end = bench
            .run(|event, pool| {
                let ready = matches!(event, Event::BootReady { attempt: 1, .. });
                if ready {
                    pool.machine("").print(&WARNING.replace("tcp", "udp"));
                }
                for name in ["allowed", "bad", "expected"] {
                    if first_step(event, &format!("subsystem/{name}@candidate")) {
                        pool.machine("candidate-1").print(WARNING);
                    }
                }
            })
            .await;
        assert_eq!(end, RunEnd::Complete);
        insta::assert_snapshot!(format!("findings_{action}"), bench.story());
    }
}

#[tokio::test]
async fn an_oops_ends_a_trial_that_waits_for_what_it_killed() {
    let scenarios = [
        ("subsystem/a", "timeout: 60s\nsteps:\n  - run: sleep 1000\n"),
        ("subsystem/b", "steps:\n  - run: 'true'\n"),
    ];
    let mut bench = Bench::new(1, inputs(&scenarios, "scenarios: ['**']\npolicy: { boots: 1 }\n"));
    let end = bench
        .run(|event, pool| {
            if first_step(event, "subsystem/a") {
                pool.machine("").print(OOPS);
            }
        })
        .await;
    assert_eq!(end, RunEnd::Complete);
    insta::assert_snapshot!(bench.story());
}

#[tokio::test]
async fn expectations_are_judged_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(path("there"), "value 42\n").unwrap();
    let scenarios: Vec<(&str, String)> = vec![
        ("exit", "run: echo doing; echo it broke >&2; exit 3".into()),
        ("exit-any", "run: exit 3\n    expect: { exit: any }".into()),
        ("exit-listed", "run: exit 3\n    expect: { exit: [0, 3] }".into()),
        ("exit-signal", "run: kill -SEGV $$".into()),
        ("stdout", "run: echo one; echo two\n    expect: { stdout: [^one$, ^three$] }".into()),
        ("stderr", "run: echo one >&2\n    expect: { stderr: ^one$ }".into()),
        ("not-stdout", "run: echo one\n    expect: { not-stdout: on. }".into()),
        (
            "file-absent",
            format!("run: 'true'\n    expect: {{ files: {{ {}: absent }} }}", path("there")),
        ),
        (
            "file-exists",
            format!(
                "run: 'true'\n    expect: {{ files: {{ {}: exists, /proc: exists }} }}",
                path("no")
            ),
        ),
        (
            "file-matches",
            format!("run: 'true'\n    expect: {{ files: {{ {}: '^value 43$' }} }}", path("there")),
        ),
        (
            "write",
            format!(
                "write: {{ path: {}, text: written }}\n    expect: {{ files: {{ {}: ^written$ }} }}",
                path("new"),
                path("new")
            ),
        ),
        ("write-not", "write: { path: /proc/no/such, text: written }".into()),
        ("sysctl", "run: 'true'\n    expect: { sysctls: { kernel.ostype: Linux } }".into()),
        ("sysctl-other", "run: 'true'\n    expect: { sysctls: { kernel.ostype: Minix } }".into()),
        ("sysctl-none", "sysctl: { kernel.no_such: 1 }".into()),
        ("no-command", "run: cd /; no-such-program --now".into()),
        ("no-command-but-expected", "run: no-such-program\n    expect: { exit: 127 }".into()),
        ("not-executable", format!("run: {}", path("there"))),
        (
            "metric-none",
            "run: echo hi\n    metrics: { x: { pattern: 'x=(.*)', unit: s, better: lower } }"
                .into(),
        ),
        (
            "metric-word",
            "run: echo x=fast\n    metrics: { x: { pattern: 'x=(.*)', unit: s, better: lower } }"
                .into(),
        ),
        ("tap-skipped", "run: \"echo '1..0 # SKIP no hardware'\"\n    results: tap".into()),
        ("tap-short", "run: 'printf \"1..2\\nok 1 a\\n\"'\n    results: tap".into()),
        (
            "environment",
            "run: echo $A $HOME $KGATE_NO\n    env: { A: b }\n    expect: { stdout: ^b /root$ }"
                .into(),
        ),
        (
            "limits",
            "run: ulimit -n\n    limits: { files: 64 }\n    expect: { stdout: ^64$ }".into(),
        ),
        (
            "output",
            "run: head -c 9000000 /dev/zero | tr '\\0' x; echo end\n    expect: { stdout: ^x+$ }"
                .into(),
        ),
        ("binary", "run: \"printf '\\\\377\\\\0\\\\033[31m' >&2; exit 1\"".into()),
    ];
    let files: Vec<_> = scenarios
        .iter()
        .map(|(id, step)| (format!("subsystem/{id}"), format!("steps:\n  - {step}\n")))
        .collect();
    let files: Vec<_> = files.iter().map(|(id, text)| (id.as_str(), text.as_str())).collect();
    let mut bench = Bench::new(2, inputs(&files, ONE_BOOT));
    assert_eq!(bench.run(|_, _| {}).await, RunEnd::Complete);
    let record = bench.record();
    let lines: Vec<_> = (record.trials.iter().filter(|trial| trial.boot == "baseline-1-base"))
        .map(|trial| {
            format!("{}: {}", trial.planned.scenario, say(trial.outcome.as_ref().unwrap()))
        })
        .collect();
    let text = lines.join("\n").replace(&dir.path().display().to_string(), "DIR");
    insta::assert_snapshot!(text.replace('\0', "<0>").replace('\u{1b}', "<escape>"));
}

#[tokio::test]
async fn what_a_scenario_requires_is_looked_for_on_the_machine() {
    let steps = "steps:\n  - run: 'true'\n";
    let scenarios = [
        ("subsystem/commands", "requires: { commands: [sh, no-such-program, other-one] }\n"),
        ("subsystem/files", "requires: { files: [/proc, /no/such/file] }\n"),
        ("subsystem/modules", "requires: { modules: [loop, missing_driver] }\n"),
        ("subsystem/sysctls", "requires: { sysctls: [kernel.ostype, kernel.no_such] }\n"),
        (
            "subsystem/well",
            "requires: { commands: [sh], files: [/proc], modules: [loop], sysctls: [kernel.ostype] }\n",
        ),
    ];
    let texts: Vec<_> =
        scenarios.iter().map(|(id, text)| (*id, format!("{text}{steps}"))).collect();
    let files: Vec<_> = texts.iter().map(|(id, text)| (*id, text.as_str())).collect();
    let mut bench = Bench::new(2, inputs(&files, ONE_BOOT));
    assert_eq!(bench.run(|_, _| {}).await, RunEnd::Complete);
    insta::assert_snapshot!(bench.outcomes());
    let modules = &bench.pool.requests()[0].modules;
    assert_eq!(*modules, ["loop", "missing_driver"]);
}

#[tokio::test]
async fn measurements_are_collected_or_skipped() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let ops = dir.path().join("ops");
    let script = "#!/bin/sh\n\
        if [ $1 = futex-wake ]; then echo ignored; echo no futexes here >&2; exit 4; fi\n\
        [ $1 = getppid ] || exit 1\n\
        echo \"$*\" >&2\n\
        for i in 1.5 2 3.25; do\n\
          echo '{\"metric\":\"getppid\",\"value\":'$i',\"unit\":\"ns\",\"better\":\"lower\"}' >&3\n\
        done\n";
    std::fs::write(&ops, script).unwrap();
    std::fs::set_permissions(&ops, PermissionsExt::from_mode(0o755)).unwrap();
    let scenarios = [
        (
            "performance/a",
            "steps:\n  - measure: getppid\n    batch: 7\n    batches: 3\n    warmup: 0\n    \
             expect: { stderr: '^getppid --batch 7 --batches 3 --warmup 0$' }\n",
        ),
        ("performance/b", "steps:\n  - measure: futex-wake\n"),
        ("performance/c", "steps:\n  - measure: pipe\n"),
    ];
    let mut bench = Bench::new(1, inputs(&scenarios, ONE_BOOT));
    bench.pool = LocalPool::new(1).with_ops(ops.display().to_string());
    assert_eq!(bench.run(|_, _| {}).await, RunEnd::Complete);
    insta::assert_snapshot!(bench.outcomes());
    let samples = &bench.record().trials[0].samples;
    assert_eq!(samples.len(), 1);
    assert_eq!(
        (samples[0].metric.as_str(), &*samples[0].values),
        ("getppid", &[1.5, 2.0, 3.25][..])
    );
}

#[tokio::test]
async fn background_programs_are_waited_for_and_ended() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ready").display().to_string();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mark = format!("8{:07}", std::process::id());
    let background = |text: &str, ready: &str| {
        format!("steps:\n  - background: {text}\n    ready: {{ {ready} }}\n  - run: 'true'\n")
    };
    let scenarios = [
        ("subsystem/died", background("echo no port >&2; exit 5", "file: /no/such, within: 20s")),
        (
            "subsystem/file",
            background(&format!("sleep 0.2; touch {file}; sleep {mark}"), &format!("file: {file}")),
        ),
        ("subsystem/late", background(&format!("sleep {mark}"), "output: never, within: 0.3s")),
        (
            "subsystem/late-file",
            background(&format!("sleep {mark}"), "file: /no/such, within: 0.3s"),
        ),
        ("subsystem/nothing", format!("steps:\n  - background: sleep {mark}\n  - run: 'true'\n")),
        (
            "subsystem/output",
            background(
                &format!(
                    "yes | head -c 3000000; echo listening >&2; yes | head -c 3000000; sleep {mark}"
                ),
                "output: ^listening$",
            ),
        ),
        (
            "subsystem/tcp",
            background(&format!("sleep {mark}"), &format!("tcp: '127.0.0.1:{port}'")),
        ),
        (
            "subsystem/tcp-closed",
            background(&format!("sleep {mark}"), "tcp: '[::1]:1', within: 0.3s"),
        ),
        ("subsystem/unknown", background("no-such-daemon", "file: /no/such, within: 20s")),
    ];
    let files: Vec<_> = scenarios.iter().map(|(id, text)| (*id, text.as_str())).collect();
    let mut bench = Bench::new(2, inputs(&files, ONE_BOOT));
    let started = Instant::now();
    assert_eq!(bench.run(|_, _| {}).await, RunEnd::Complete);
    assert!(started.elapsed() < Duration::from_secs(15));
    insta::assert_snapshot!(bench.outcomes());
    assert_eq!(processes_with(&mark), 0);
}

#[tokio::test]
async fn an_interrupted_run_ends_at_once_and_is_taken_up_again() {
    let scenarios = [
        ("subsystem/a", "steps:\n  - run: 'true'\n"),
        ("subsystem/b", "steps:\n  - run: sleep 0.7\n"),
    ];
    let mut bench = Bench::new(2, inputs(&scenarios, ONE_BOOT));
    bench.interrupt_at("subsystem/b@candidate").await;
    let record = bench.record();
    assert_eq!(record.stopped.as_ref().map(|fault| fault.blame), Some(Blame::Harness));
    assert!(record.trials.iter().any(|trial| trial.outcome.is_none()));
    let done: Vec<_> = record.trials.iter().filter(|t| t.outcome.is_some()).collect();
    assert!(!done.is_empty());

    bench.events.clear();
    assert_eq!(bench.run(|_, _| {}).await, RunEnd::Complete);
    let again = bench.story();
    for trial in done {
        assert!(!again.contains(&format!("trial {}\n", trial.planned.id)), "{again}");
    }
    insta::assert_snapshot!(bench.outcomes());
    assert_eq!(bench.record().stopped, None);
}

#[tokio::test]
async fn a_run_has_a_deadline() {
    let scenarios = [("subsystem/a", "steps:\n  - run: sleep 1000\n")];
    let workload = "scenarios: ['**']\npolicy: { boots: 1, timeouts: { boot: 500ms, run: 1s } }\n";
    let mut bench = Bench::new(2, inputs(&scenarios, workload));
    let RunEnd::Stopped(fault) = bench.run(|_, _| {}).await else { panic!("not stopped") };
    assert_eq!((fault.blame, fault.kind), (Blame::Harness, FaultKind::RunTimeout));
    assert_eq!(bench.record().stopped, Some(fault));
    assert_eq!((bench.pool.active(), bench.pool.finished()), (0, 1));
}

#[tokio::test]
async fn files_that_can_not_be_written_end_the_run() {
    for artifact in ["logs/subsystem/a@baseline-1-base.log", "consoles/baseline-1-base-1.log"] {
        let scenarios = [("subsystem/a", "steps:\n  - run: echo hello; sleep 0.2\n")];
        let mut bench = Bench::new(1, inputs(&scenarios, ONE_BOOT));
        let path = bench.dir.path().join(artifact);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let end = bench
            .run(|event, pool| {
                if first_step(event, "subsystem/a") {
                    pool.machine("baseline").print("a line\n");
                }
            })
            .await;
        let RunEnd::Stopped(fault) = end else { panic!("{artifact}: not stopped") };
        assert_eq!((fault.blame, fault.kind), (Blame::Harness, FaultKind::Controller));
        assert!(fault.message.contains("No space left on device"), "{fault}");
        assert!(bench.record().trials.iter().all(|trial| trial.outcome.is_none()));

        std::fs::remove_file(&path).unwrap();
        assert_eq!(bench.run(|_, _| {}).await, RunEnd::Complete);
        let record = bench.record();
        assert!(record.trials.iter().all(|trial| trial.outcome == Some(Outcome::Passed)));
    }
}

/// A kill leaves a journal that ends anywhere. Wherever that is, taking the run up again comes to
/// what it would have come to.
#[tokio::test]
async fn a_killed_run_comes_to_the_same_result() {
    let scenarios = [
        (
            "subsystem/a",
            "steps:\n  - run: echo a=1\n    metrics: { a: { pattern: 'a=(.*)', unit: s, better: lower } }\n",
        ),
        ("subsystem/b", "steps:\n  - run: exit 3\n"),
        ("subsystem/c", "requires: { files: [/no/such] }\nsteps:\n  - run: 'true'\n"),
    ];
    let mut bench = Bench::new(1, inputs(&scenarios, ONE_BOOT));
    assert_eq!(bench.run(|_, _| {}).await, RunEnd::Complete);
    let whole = bench.record();
    let journal = bench.dir.path().join("journal.jsonl");
    let bytes = std::fs::read(&journal).unwrap();
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..16 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let cut = usize::try_from(seed % (bytes.len() as u64 + 1)).unwrap();
        std::fs::write(&journal, &bytes[..cut]).unwrap();
        assert_eq!(bench.run(|_, _| {}).await, RunEnd::Complete, "cut at {cut}");
        let record = bench.record();
        assert_eq!(support::outcomes(&record), support::outcomes(&whole), "cut at {cut}");
        for (trial, expected) in record.trials.iter().zip(&whole.trials) {
            assert_eq!(trial.samples, expected.samples, "cut at {cut}");
            assert_eq!(trial.subtests, expected.subtests, "cut at {cut}");
        }
        let torn = cut > 0 && bytes[cut - 1] != b'\n';
        assert_eq!(record.notes.iter().any(|note| note.contains("cut short")), torn);
    }
}

#[tokio::test]
async fn only_one_process_runs_in_a_directory() {
    let scenarios = [("subsystem/a", "steps:\n  - run: 'true'\n")];
    let bench = Bench::new(1, inputs(&scenarios, ONE_BOOT));
    let _journal = kgate_runner::Journal::open(&bench.dir).unwrap();
    let error = run(
        &bench.dir,
        &bench.pool,
        None,
        &History::default(),
        &(),
        &mut |_| {},
        std::future::pending(),
    )
    .await
    .unwrap_err();
    assert!(matches!(error, RunError::RunDir(kgate_runner::RunDirError::Locked(_))), "{error}");
    let error = run(
        &bench.dir,
        &bench.pool,
        Some(2),
        &History::default(),
        &(),
        &mut |_| {},
        std::future::pending(),
    )
    .await
    .unwrap_err();
    assert_eq!(error.to_string(), "no partition 2: the plan has 1");
}

#[tokio::test]
async fn what_the_caller_knows_of_the_controller_is_recorded() {
    struct Known;
    impl kgate_runner::Controller for Known {
        fn facts(&self) -> BTreeMap<String, String> {
            // What the pool says of itself is not to be had from anybody else.
            ["host cpu", "machine"].map(|name| (name.to_owned(), "known".to_owned())).into()
        }

        fn notes(&self) -> Vec<String> {
            vec!["it was busy".to_owned()]
        }
    }
    let scenarios = [("subsystem/a", "steps:\n  - run: 'true'\n")];
    let bench = Bench::new(1, inputs(&scenarios, ONE_BOOT));
    let (history, cancel) = (History::default(), std::future::pending());
    let mut last = Vec::new();
    let mut observe = |entry: &kgate_model::journal::Entry| {
        last.push(entry.event.clone());
    };
    let end = run(&bench.dir, &bench.pool, None, &history, &Known, &mut observe, cancel).await;
    assert_eq!(end.unwrap(), RunEnd::Complete);
    let record = bench.record();
    assert_eq!(record.facts["host cpu"], "known");
    assert_eq!(record.facts["machine"], bench.pool.facts()["machine"]);
    assert_eq!(record.notes, ["it was busy"]);
    assert!(matches!(&last[last.len() - 2..], [Event::Note { .. }, Event::RunEnded { .. }]));
}

#[tokio::test]
async fn partitions_that_ran_apart_are_merged() {
    let scenarios = [
        ("subsystem/a", "steps:\n  - run: echo hello\n"),
        ("subsystem/b", "steps:\n  - run: exit 3\n"),
    ];
    let inputs = inputs(&scenarios, "scenarios: ['**']\npolicy: { boots: 2 }\n");
    let temp = tempfile::tempdir().unwrap();
    let plan = |candidate: &str, partitions| {
        make_plan(
            &inputs,
            kernel("6.1.1"),
            kernel(candidate),
            &Lacking::default(),
            &Placement::default(),
            partitions,
        )
    };
    let mut parts = Vec::new();
    for (at, (candidate, partition)) in
        [("6.1.2", 1), ("6.1.2", 2), ("6.1.3", 2)].into_iter().enumerate()
    {
        let path = temp.path().join(format!("part-{at}"));
        let dir = RunDir::create(&path, plan(candidate, 2), inputs.clone()).unwrap();
        let pool = LocalPool::new(1);
        let end = run(
            &dir,
            &pool,
            Some(partition),
            &History::default(),
            &(),
            &mut |_| {},
            std::future::pending(),
        )
        .await;
        assert_eq!(end.unwrap(), RunEnd::Complete);
        parts.push(dir);
    }
    let [one, two, other] = &parts[..] else { unreachable!() };
    assert!(one.record().unwrap().trials.iter().any(|trial| trial.outcome.is_none()));

    let merged = merge(&temp.path().join("merged"), &[two.clone(), one.clone()]).unwrap();
    let record = RunDir::open(merged.path()).unwrap().record().unwrap();
    insta::assert_snapshot!(support::outcomes(&record));
    assert_eq!(record.notes, [""; 0]);
    for trial in &record.trials {
        assert!(merged.path().join(trial.log.as_ref().unwrap()).is_file());
    }
    for boot in &record.boots {
        assert!(merged.path().join(&boot.consoles[0]).is_file());
    }

    let fails = |name: &str, parts: &[RunDir]| {
        let error = merge(&temp.path().join(name), parts).unwrap_err().to_string();
        error.replace(&temp.path().display().to_string(), "DIR")
    };
    insta::assert_snapshot!(fails("x", &[one.clone(), one.clone()]), @"DIR/part-0 and DIR/part-0 both ran the trial subsystem/a@baseline-1-base");
    insta::assert_snapshot!(fails("x", &[one.clone(), other.clone()]), @"DIR/part-0 and DIR/part-2 are not parts of one run: candidate kernel: 6.1.2 and 6.1.3; candidate kernel's image (sha256): 6.1.26.1.26.1.26.1.2 and 6.1.36.1.36.1.36.1.3");
    insta::assert_snapshot!(fails("x", &[]), @"no run directories to merge");
    insta::assert_snapshot!(fails("merged", &[one.clone(), two.clone()]), @"DIR/merged is not empty: choose another directory, or resume the run in it");
    let half = merge(&temp.path().join("half"), std::slice::from_ref(one)).unwrap();
    assert_eq!(half.record().unwrap().notes, ["partition 2 of 2 is missing"]);
}
