//! Trials in machines of their own: clones of a template, and what happens where there can't be any.

mod support;

use std::collections::BTreeSet;

use kgate_machine::{BootError, End};
use kgate_model::journal::Event;
use kgate_model::outcome::{Blame, Fault, FaultKind, Outcome};
use kgate_runner::RunEnd;
use kgate_testkit::local::LocalPool;
use support::{Bench, PANIC, WARNING, first_step, inputs};

#[test]
#[ignore = "started by the local pool"]
fn local_agent() {
    kgate_testkit::local::serve();
}

const ONE_BOOT: &str = "scenarios: ['**']\npolicy: { boots: 1 }\n";
const RUN: &str = "steps:\n  - run: 'true'\n";
const WAIT: &str = "steps:\n  - run: sleep 1000\n";

fn bench(capacity: usize, scenarios: &[(&str, &str)], workload: &str) -> Bench {
    let mut bench = Bench::new(capacity, inputs(scenarios, workload));
    bench.pool = LocalPool::new(capacity).with_templates();
    bench
}

fn kernels(message: &str) -> BootError {
    let fault = Fault::kernel(FaultKind::BootFailed, message);
    BootError { fault, findings: Vec::new(), tail: Vec::new(), diagnosis: None }
}

fn ours(message: &str) -> BootError {
    BootError::harness(FaultKind::Emulator, message)
}

#[tokio::test]
async fn each_trial_has_a_machine_of_its_own() {
    let scenarios = [
        ("subsystem/a", "steps:\n  - run: sleep 0.2\n"),
        ("subsystem/b", RUN),
        ("subsystem/c", &*format!("boot: cold\n{RUN}")),
        ("subsystem/d", &*format!("boot: shared\n{RUN}")),
        ("subsystem/e", &*format!("boot: shared\n{RUN}")),
    ];
    let mut bench = bench(1, &scenarios, ONE_BOOT);
    bench.pool.print_when_ready(&WARNING.replace("tcp", "udp"));
    let end = bench
        .run(|event, pool| {
            if first_step(event, "subsystem/a@candidate") {
                pool.machine("candidate-1-base-1/subsystem/a").print(WARNING);
            }
        })
        .await;
    assert_eq!(end, RunEnd::Complete);
    insta::assert_snapshot!(bench.story());
    assert_eq!((bench.pool.active(), bench.pool.most_at_once()), (0, 1));

    let record = bench.record();
    let mut files = BTreeSet::new();
    for trial in record
        .trials
        .iter()
        .filter(|t| ["a", "b"].iter().any(|n| t.planned.id.contains(&format!("/{n}@"))))
    {
        let own = trial.machine.as_ref().unwrap();
        assert!(own.clone && trial.console.as_ref() == Some(&own.console));
        assert!(trial.before.is_some() && trial.after.is_some() && trial.attempt == Some(1));
        for file in [&own.console, &own.kernel_log] {
            assert!(bench.dir.path().join(file).is_file(), "{file}");
            assert!(files.insert(file.clone()), "{file} is another's");
        }
    }
    for boot in &record.boots {
        assert!(boot.finished && boot.fault.is_none() && boot.identity.is_some());
        assert!(boot.after_boot.is_some() && boot.ready_ms.len() == 1 && boot.attempts == 1);
        let warm = boot.planned.id.ends_with("-base");
        assert_eq!(boot.after_load.is_none(), warm, "nothing ran on a template");
        assert!(bench.dir.path().join(&boot.consoles[0]).is_file());
    }
}

#[tokio::test]
async fn clones_run_beside_each_other_and_the_longest_first() {
    let scenarios = [
        ("subsystem/a", RUN),
        ("subsystem/b", "steps:\n  - run: sleep 0.5\n"),
        ("subsystem/c", RUN),
    ];
    let mut bench = bench(3, &scenarios, "scenarios: ['**']\npolicy: { boots: 2 }\n");
    assert_eq!(bench.run(|_, _| {}).await, RunEnd::Complete);
    assert_eq!(bench.pool.most_at_once(), 3);
    bench.history.learn(&bench.dir.record().unwrap());

    let mut again = self::bench(1, &scenarios, "scenarios: ['**']\npolicy: { boots: 2 }\n");
    again.history = bench.history;
    assert_eq!(again.run(|_, _| {}).await, RunEnd::Complete);
    let started = again.events.iter().filter_map(|event| match event {
        Event::TrialStarted { trial, .. } => trial.split_once('/'),
        _ => None,
    });
    let order: Vec<_> = started.map(|(_, trial)| trial).collect();
    assert_eq!(order[..2], ["b@candidate-1-base", "b@baseline-1-base"]);
    assert_eq!(order[6..8], ["b@baseline-2-base", "b@candidate-2-base"]);
}

#[tokio::test]
async fn a_machine_that_is_lost_is_its_trials_alone() {
    let scenarios = [
        ("subsystem/end", WAIT),
        ("subsystem/hang", WAIT),
        ("subsystem/panic", WAIT),
        ("subsystem/vanish", WAIT),
        ("subsystem/well", "steps:\n  - run: sleep 1\n"),
    ];
    let workload = "scenarios: ['**']\npolicy: { boots: 1, timeouts: { hang: 3s } }\n";
    let mut bench = bench(16, &scenarios, workload);
    let diagnosis = "[   30.1] NMI backtrace for cpu 0\r\n\
        [   30.1] CPU: 0 PID: 77 Comm: sh Not tainted 6.1.2 #1\r\n\
        [   30.1] RIP: 0010:delay_tsc+0x2a/0x60\r\n";
    let end = bench
        .run(|event, pool| {
            let Event::StepStarted { trial, .. } = event else { return };
            let (scenario, boot) = trial.split_once('@').unwrap();
            let machine = pool.machine(&format!("{boot}-1/{scenario}"));
            match scenario {
                "subsystem/end" => machine.end(End::Reset),
                "subsystem/hang" => machine.freeze(diagnosis),
                "subsystem/panic" => machine.print(PANIC),
                "subsystem/vanish" => machine.end(End::Vanished("qemu was killed".into())),
                _ => {}
            }
        })
        .await;
    assert_eq!(end, RunEnd::Complete);
    insta::assert_snapshot!(bench.outcomes());
    let record = bench.record();
    for boot in &record.boots {
        assert!(boot.attempts == 1 && boot.fault.is_none(), "the boot has no part in it");
    }
    for trial in &record.trials {
        let hung = trial.planned.scenario == "subsystem/hang";
        assert_eq!(trial.diagnosis.is_some(), hung, "{}", trial.planned.id);
        let saved = trial.diagnosis.as_ref().map(|name| bench.dir.path().join(name));
        assert!(saved.is_none_or(|path| std::fs::read_to_string(path).unwrap() == diagnosis));
    }
}

#[tokio::test]
async fn a_template_that_fails_is_the_kernels_or_not_needed() {
    let mut bench = bench(
        1,
        &[("subsystem/a", RUN), ("subsystem/b", RUN)],
        "scenarios: ['**']\npolicy: { boots: 2 }\n",
    );
    let hung = BootError { diagnosis: Some(b"CPU: 0".to_vec()), ..kernels("no init found") };
    bench.pool.refuse_template("candidate-1", [hung]);
    // Once may pass; the second time, trials get machines that are booted.
    bench.pool.refuse_template("baseline-1", [ours("no place for it")]);
    bench.pool.refuse_template("baseline-2", [ours("no place for it"), ours("still no place")]);
    assert_eq!(bench.run(|_, _| {}).await, RunEnd::Complete);
    insta::assert_snapshot!(bench.story());
    let record = bench.record();
    assert_eq!(record.boots[1].diagnoses.len(), 1);
    let fallen = record.boots.iter().find(|boot| boot.planned.id == "baseline-2-base").unwrap();
    assert!(fallen.fault.is_none() && fallen.identity.is_some() && fallen.attempts == 3);
    assert!(bench.dir.path().join(fallen.consoles.last().unwrap()).is_file());
}

#[tokio::test]
async fn a_clone_that_does_not_start_is_never_the_kernels_fault() {
    let scenarios = [("subsystem/a", RUN), ("subsystem/b", RUN), ("subsystem/c", RUN)];
    let mut bench = bench(1, &scenarios, ONE_BOOT);
    bench.pool.refuse_clone("baseline-1-base-1/subsystem/a", [kernels("it does not go on")]);
    bench.pool.refuse_clone("candidate-1-base-1", [ours("no memory"), ours("a"), ours("b")]);
    // Nor is a boot that takes two tries; one that the kernel fails by is.
    bench.pool.refuse("candidate-1-base-1/subsystem/a+cold-1", [ours("no memory either")]);
    bench.pool.refuse("candidate-1-base-1/subsystem/b", [kernels("no init found")]);
    bench.pool.refuse("candidate-1-base-1/subsystem/c", [ours("one"), ours("two")]);
    assert_eq!(bench.run(|_, _| {}).await, RunEnd::Complete);
    insta::assert_snapshot!(bench.story());
    let record = bench.record();
    let candidate = &record.boots[1];
    assert_eq!(candidate.fault.as_ref().map(|fault| fault.blame), Some(Blame::Kernel));
    assert_eq!(candidate.consoles, ["consoles/candidate-1-base-1/subsystem/b+cold-1.log"]);

    // Taken up again, what was ours runs.
    bench.events.clear();
    assert_eq!(bench.run(|_, _| {}).await, RunEnd::Complete);
    insta::assert_snapshot!(bench.story());
}

#[tokio::test]
async fn an_interrupted_run_leaves_nothing_and_is_taken_up_again() {
    let scenarios = [("subsystem/a", RUN), ("subsystem/b", "steps:\n  - run: sleep 1\n")];
    let mut bench = bench(2, &scenarios, ONE_BOOT);
    bench.interrupt_at("subsystem/b").await;
    let record = bench.record();
    let done: Vec<_> = record.trials.iter().filter(|t| t.outcome.is_some()).collect();
    assert!(!done.is_empty() && done.len() < record.trials.len());

    bench.events.clear();
    assert_eq!(bench.run(|_, _| {}).await, RunEnd::Complete);
    let again = bench.story();
    for trial in done {
        assert!(!again.contains(&format!("trial {} ", trial.planned.id)), "{again}");
    }
    let record = bench.record();
    assert!(record.trials.iter().all(|trial| trial.outcome == Some(Outcome::Passed)));
    assert!(record.trials.iter().any(|trial| trial.attempt == Some(2)));
}

/// As with boots that are shared: wherever a kill cuts the journal, the result is the same.
#[tokio::test]
async fn a_killed_run_comes_to_the_same_result() {
    let scenarios = [
        (
            "subsystem/a",
            "steps:\n  - run: echo a=1\n    metrics: { a: { pattern: 'a=(.*)', unit: s, better: lower } }\n",
        ),
        ("subsystem/b", "steps:\n  - run: exit 3\n"),
    ];
    let mut bench = bench(2, &scenarios, ONE_BOOT);
    assert_eq!(bench.run(|_, _| {}).await, RunEnd::Complete);
    let whole = bench.record();
    let journal = bench.dir.path().join("journal.jsonl");
    let bytes = std::fs::read(&journal).unwrap();
    for part in 0..8 {
        let cut = bytes.len() * part / 8 + part;
        std::fs::write(&journal, &bytes[..cut]).unwrap();
        assert_eq!(bench.run(|_, _| {}).await, RunEnd::Complete, "cut at {cut}");
        let record = bench.record();
        assert_eq!(support::outcomes(&record), support::outcomes(&whole), "cut at {cut}");
        for (trial, expected) in record.trials.iter().zip(&whole.trials) {
            assert_eq!(trial.samples, expected.samples, "cut at {cut}");
        }
    }
}

#[tokio::test]
async fn a_console_that_can_not_be_written_ends_the_run() {
    let mut bench =
        bench(1, &[("subsystem/a", "steps:\n  - run: echo hello; sleep 0.2\n")], ONE_BOOT);
    let path = bench.dir.path().join("consoles/candidate-1-base-1/subsystem/a.log");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let end = bench
        .run(|event, pool| {
            if first_step(event, "subsystem/a@candidate") {
                pool.machine("candidate-1").print("a line\n");
            }
        })
        .await;
    let RunEnd::Stopped(fault) = end else { panic!("not stopped") };
    assert!(fault.message.contains("No space left on device"), "{fault}");
    assert!(bench.record().trials.iter().any(|trial| trial.outcome.is_none()));
}
