//! A journal that can't be written any more. Alone in its process: it limits the size of its files.

mod support;

use kgate_model::journal::Event;
use kgate_model::outcome::{Blame, FaultKind, Outcome};
use kgate_runner::RunEnd;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{Bench, inputs};

#[test]
#[ignore = "started by the local pool"]
fn local_agent() {
    kgate_testkit::local::serve();
}

fn limit(bytes: Option<u64>) {
    let maximum = getrlimit(Resource::Fsize).maximum;
    setrlimit(Resource::Fsize, Rlimit { current: bytes, maximum }).unwrap();
}

#[tokio::test]
async fn a_full_disk_ends_the_run_and_leaves_a_journal_to_resume_from() {
    #[expect(unsafe_code, reason = "no safe interface ignores a signal")]
    // SAFETY: ignoring a signal installs no handler.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
    let scenarios = [
        ("subsystem/a", "steps:\n  - run: 'true'\n"),
        ("subsystem/b", "steps:\n  - run: 'true'\n"),
    ];
    let workload = "scenarios: ['**']\npolicy: { boots: 1 }\n";
    let mut bench = Bench::new(1, inputs(&scenarios, workload));
    let journal = bench.dir.path().join("journal.jsonl");
    // Room for a part of one more line, as a disk has it that fills up.
    for spare in [0, 1, 40] {
        std::fs::remove_file(&journal).ok();
        let end = bench
            .run(|event, _| {
                if matches!(event, Event::TrialStarted { trial, .. } if trial.starts_with("subsystem/b@baseline")) {
                    limit(Some(std::fs::metadata(&journal).unwrap().len() + spare));
                }
            })
            .await;
        limit(None);
        let RunEnd::Stopped(fault) = end else { panic!("not stopped") };
        assert_eq!((fault.blame, fault.kind), (Blame::Harness, FaultKind::Controller));
        assert!(fault.message.contains("journal.jsonl: File too large"), "{fault}");
        assert_eq!(bench.pool.active(), 0);
        let record = bench.record();
        assert_eq!(record.notes, [""; 0]);
        assert_eq!(record.trials[0].outcome, Some(Outcome::Passed));
        assert_eq!(record.trials[1].outcome, None);
    }
    assert_eq!(bench.run(|_, _| {}).await, RunEnd::Complete);
    assert!(bench.record().trials.iter().all(|trial| trial.outcome == Some(Outcome::Passed)));
}
