//! What leads to which verdict.

mod support;

use kgate_compare::{Assessment, Class, Effect, Inputs, Novelty, Verdict, WaiverState};
use kgate_model::finding::FindingKind;
use kgate_model::journal::{Entry, RunRecord};
use kgate_model::outcome::{Fault, FaultKind, Outcome, Role};
use kgate_model::sample::Better;
use kgate_scenario::{Glob, Pattern, Policy, Reaction, Selected, WaiverScope, Waivers};
use proptest::prelude::*;
use support::{Run, errored, failed, panic, waiver, warning};

use Role::{Baseline, Candidate};

const NAT: &str = "integration/nat";
const FUTEX: &str = "subsystem/futex";
const TCP: &str = "performance/tcp";

fn run(boots: u32) -> Run {
    Run::new(boots, &[NAT, FUTEX])
}

fn expectation() -> Outcome {
    failed(FaultKind::Expectation, "exit code 1, expected 0")
}

/// Verdict and reasons as text.
fn told(assessment: &Assessment) -> String {
    let mut text = assessment.verdict.to_string();
    for reason in &assessment.reasons {
        text += &format!("\n[{}] {}", reason.effect.as_str(), reason.text);
    }
    text
}

fn class(assessment: &Assessment, scenario: &str) -> Class {
    assessment.scenarios().find(|c| c.subject.scenario() == Some(scenario)).unwrap().class
}

#[test]
fn equal_kernels_promote() {
    let assessment = run(3).assess();
    insta::assert_snapshot!(told(&assessment), @"promote");
    assert_eq!(assessment.verdict.exit_code(), 0);
}

#[test]
fn classes() {
    let fail = expectation();
    let skip = Outcome::Skipped { reason: "no such device".to_owned() };
    let hang = failed(FaultKind::Hang, "no heartbeat for 20 s");
    let error = errored("the channel broke");
    let table: [(&str, Run, Class, Verdict); 18] = [
        (
            "fails always",
            run(3).outcome(NAT, Candidate, 1..=3, &fail),
            Class::Regression,
            Verdict::Reject,
        ),
        (
            "fails once",
            run(3).outcome(NAT, Candidate, [2], &fail),
            Class::Flaky,
            Verdict::Inconclusive,
        ),
        (
            "fails often",
            run(5).outcome(NAT, Candidate, 1..=4, &fail),
            Class::Regression,
            Verdict::Reject,
        ),
        (
            "hangs once",
            run(3).outcome(NAT, Candidate, [2], &hang),
            Class::Regression,
            Verdict::Reject,
        ),
        (
            "both fail",
            run(3).outcome(NAT, Candidate, 1..=3, &fail).outcome(NAT, Baseline, 1..=3, &fail),
            Class::StillFailing,
            Verdict::Promote,
        ),
        (
            "hangs, where the baseline only fails",
            run(3).outcome(NAT, Candidate, 1..=3, &hang).outcome(NAT, Baseline, 1..=3, &fail),
            Class::Regression,
            Verdict::Reject,
        ),
        (
            "both hang",
            run(3).outcome(NAT, Candidate, 1..=3, &hang).outcome(NAT, Baseline, 1..=3, &hang),
            Class::StillFailing,
            Verdict::Promote,
        ),
        ("fixed", run(3).outcome(NAT, Baseline, 1..=3, &fail), Class::Fixed, Verdict::Promote),
        (
            "baseline flaky",
            run(3).outcome(NAT, Baseline, [1], &fail),
            Class::Flaky,
            Verdict::Promote,
        ),
        (
            "both flaky",
            run(3).outcome(NAT, Baseline, [1], &fail).outcome(NAT, Candidate, [1, 2], &fail),
            Class::Flaky,
            Verdict::Promote,
        ),
        (
            "fails more often",
            run(5).outcome(NAT, Baseline, [1], &fail).outcome(NAT, Candidate, 1..=5, &fail),
            Class::Flaky,
            Verdict::Inconclusive,
        ),
        (
            "both skip",
            run(3).outcome(NAT, Baseline, 1..=3, &skip).outcome(NAT, Candidate, 1..=3, &skip),
            Class::Skipped,
            Verdict::Promote,
        ),
        (
            "skips what the baseline runs",
            run(3).outcome(NAT, Candidate, 1..=3, &skip),
            Class::Regression,
            Verdict::Reject,
        ),
        (
            "skips what the baseline fails, as far as it was run",
            run(3)
                .outcome(NAT, Candidate, 1..=3, &skip)
                .outcome(NAT, Baseline, [1], &fail)
                .outcome(NAT, Baseline, [2], &error),
            Class::Regression,
            Verdict::Reject,
        ),
        (
            "skips what the baseline skips now and then",
            run(3).outcome(NAT, Candidate, 1..=3, &skip).outcome(NAT, Baseline, [1], &skip),
            Class::Skipped,
            Verdict::Inconclusive,
        ),
        (
            "fails what the baseline skips",
            run(3).outcome(NAT, Baseline, 1..=3, &skip).outcome(NAT, Candidate, 1..=3, &fail),
            Class::Uncontrolled,
            Verdict::Inconclusive,
        ),
        (
            "errored",
            run(3).outcome(NAT, Candidate, [1], &error),
            Class::Errored,
            Verdict::Infrastructure,
        ),
        ("missing", run(3).missing(NAT, Candidate, [1]), Class::Missing, Verdict::Infrastructure),
    ];
    for (name, run, expected, verdict) in table {
        let assessment = run.assess();
        assert_eq!(
            (class(&assessment, NAT), assessment.verdict),
            (expected, verdict),
            "{name}: {}",
            told(&assessment)
        );
    }
}

#[test]
fn a_panic_in_one_boot_is_told_once_and_with_its_cause() {
    let assessment =
        run(3).finding(NAT, Candidate, [2], &panic("panic in nf_nat_setup_info")).assess();
    insta::assert_snapshot!(told(&assessment), @"
    reject
    [reject] integration/nat fails in some boots of the candidate: kernel panic: panic in nf_nat_setup_info (candidate failed 1 of 3; baseline passed 3 of 3; equal kernels do this with a probability of 0.50)
    ");
}

#[test]
fn flakes_follow_the_policy() {
    let run = run(3).outcome(NAT, Candidate, [2], &expectation());
    for (flaky, verdict) in [
        (Reaction::Ignore, Verdict::Promote),
        (Reaction::Report, Verdict::Inconclusive),
        (Reaction::Reject, Verdict::Reject),
    ] {
        let policy = Policy { flaky, ..Policy::default() };
        assert_eq!(run.assess_with(&policy, &[], Vec::new()).verdict, verdict);
    }
}

#[test]
fn a_proven_regression_rejects_beside_errors() {
    let assessment = run(3)
        .outcome(NAT, Candidate, 1..=3, &expectation())
        .outcome(FUTEX, Baseline, [1], &errored("the channel broke"))
        .assess();
    insta::assert_snapshot!(told(&assessment), @"
    reject
    [reject] integration/nat fails on the candidate: expectation: exit code 1, expected 0 (candidate failed 3 of 3; baseline passed 3 of 3)
    [infrastructure] subsystem/futex errored: channel: the channel broke (candidate passed 3 of 3; baseline passed 2 of 2, errored 1)
    ");
}

#[test]
fn a_broken_scenario_is_named_as_such() {
    let fault = Outcome::from_fault(Fault::scenario("wrk: not found"));
    let assessment = run(3)
        .outcome(NAT, Baseline, 1..=3, &fault)
        .outcome(NAT, Candidate, 1..=3, &fault)
        .assess();
    insta::assert_snapshot!(told(&assessment), @"
    infrastructure
    [infrastructure] the scenario is broken, not the kernel: integration/nat: broken scenario: wrk: not found
    ");
}

#[test]
fn interrupted_runs_don_t_promote() {
    let mut run = run(3).missing(NAT, Candidate, [3]).missing(FUTEX, Candidate, [3]);
    run.stopped = Some(Fault::harness(FaultKind::Controller, "interrupted"));
    insta::assert_snapshot!(told(&run.assess()), @"
    infrastructure
    [infrastructure] the run stopped early: interrupted
    [infrastructure] 2 of 12 trials never ran
    ");
}

#[test]
fn nothing_is_never_green() {
    insta::assert_snapshot!(told(&Run::new(3, &[]).assess()), @"
    inconclusive
    [inconclusive] no scenario ran on both kernels, so that nothing was compared
    ");
    let run = Run::new(3, &[TCP]);
    insta::assert_snapshot!(told(&run.assess()), @"
    inconclusive
    [inconclusive] performance/tcp passed, but measured nothing
    ");
}

fn boots_fail(run: &mut Run, role: Role, boots: impl IntoIterator<Item = u32>, fault: &Fault) {
    run.boot_faults.extend(boots.into_iter().map(|boot| ((role, boot), fault.clone())));
}

#[test]
fn a_candidate_that_does_not_boot_is_rejected() {
    let mut run = run(3);
    let fault = Fault::kernel(FaultKind::Panic, "VFS: unable to mount root fs");
    boots_fail(&mut run, Candidate, 1..=3, &fault);
    insta::assert_snapshot!(told(&run.assess()), @"
    reject
    [reject] boot with image base fails on the candidate: kernel panic: VFS: unable to mount root fs (candidate failed 3 of 3; baseline passed 3 of 3)
    [inconclusive] 6 of 12 trials never ran, because the kernel had failed before in their boots
    [inconclusive] no scenario ran on both kernels, so that nothing was compared
    ");
}

#[test]
fn a_baseline_that_does_not_boot_leaves_it_open() {
    let mut run = run(3);
    let fault = Fault::kernel(FaultKind::BootFailed, "no word from the agent for 60 s");
    boots_fail(&mut run, Baseline, 1..=3, &fault);
    insta::assert_snapshot!(told(&run.assess()), @"
    inconclusive
    [inconclusive] 6 of 12 trials never ran, because the kernel had failed before in their boots
    [inconclusive] no scenario ran on both kernels, so that nothing was compared
    [inconclusive] boot with image base was not decided: boot failed: no word from the agent for 60 s (candidate passed 3 of 3; baseline failed 3 of 3: the baseline itself does not boot)
    ");
}

#[test]
fn a_kernel_that_hangs_between_trials_is_rejected_although_the_next_machine_lived() {
    let mut record = run(3).record();
    let boot = record.boots.iter_mut().find(|b| b.planned.role == Candidate).unwrap();
    boot.attempts = 2;
    boot.faults = vec![Fault::kernel(FaultKind::Hang, "no heartbeat for 20 s")];
    let assessment = Assessment::new(&Inputs {
        record: &record,
        policy: &Policy::default(),
        selected: &[],
        waivers: &Waivers::default(),
        today: support::TODAY.parse().unwrap(),
        seed: 1,
    });
    insta::assert_snapshot!(told(&assessment), @"
    reject
    [reject] boot with image base fails in some boots of the candidate: hang: no heartbeat for 20 s (candidate failed 1 of 3; baseline passed 3 of 3; equal kernels do this with a probability of 0.50)
    ");
}

#[test]
fn an_emulator_that_does_not_start_is_ours() {
    let mut run = run(3);
    boots_fail(&mut run, Candidate, [1], &Fault::harness(FaultKind::Emulator, "no KVM"));
    insta::assert_snapshot!(told(&run.assess()), @"
    infrastructure
    [infrastructure] 2 of 12 trials never ran
    [infrastructure] boot with image base errored: emulator: no KVM (candidate passed 2 of 2, errored 1; baseline passed 3 of 3)
    ");
}

#[test]
fn warnings_follow_the_policy() {
    let title = "WARNING in tcp_rcv_state_process";
    let run = run(3).finding(NAT, Candidate, 1..=3, &warning(title));
    for (new_warning, verdict, expected) in [
        (Reaction::Ignore, Verdict::Promote, Class::Passed),
        (Reaction::Report, Verdict::Promote, Class::Regression),
        (Reaction::Reject, Verdict::Reject, Class::Regression),
    ] {
        let policy = Policy { new_warning, ..Policy::default() };
        let assessment = run.assess_with(&policy, &[], Vec::new());
        assert_eq!(assessment.verdict, verdict);
        assert_eq!(class(&assessment, NAT), expected);
    }
}

#[test]
fn a_taint_is_not_explained_by_a_finding_that_both_have() {
    let shared = warning("WARNING in shared");
    let taint = failed(FaultKind::Finding, "the kernel became tainted: B (32)");
    let assessment = run(3)
        .finding(NAT, Candidate, 1..=3, &shared)
        .finding(FUTEX, Baseline, [1], &shared)
        .outcome(NAT, Candidate, 1..=3, &taint)
        .assess();
    assert_eq!(assessment.verdict, Verdict::Reject, "{}", told(&assessment));
}

#[test]
fn a_requirement_that_only_the_baseline_meets_rejects() {
    let lacks =
        failed(FaultKind::Requirement, "the candidate lacks what the baseline has: CONFIG_TLS");
    let mut plan = run(3).plan();
    for boot in plan.boots.iter_mut().filter(|b| b.role == Candidate) {
        boot.trials[0].decided = Some(lacks.clone());
    }
    let entries = run(3).missing(NAT, Candidate, 1..=3).events();
    let entries = entries.into_iter().map(|event| Entry { at: 0, event });
    let assessment = Assessment::new(&Inputs {
        record: &RunRecord::new(plan, entries),
        policy: &Policy::default(),
        selected: &[],
        waivers: &Waivers::default(),
        today: support::TODAY.parse().unwrap(),
        seed: 1,
    });
    insta::assert_snapshot!(told(&assessment), @"
    reject
    [reject] integration/nat fails on the candidate: missing requirement: the candidate lacks what the baseline has: CONFIG_TLS (candidate failed 3 of 3; baseline passed 3 of 3)
    ");
}

#[test]
fn what_only_the_booted_candidate_turns_out_to_lack_rejects() {
    let skip = Outcome::Skipped { reason: "the kernel has no sysctl net.ipv4.x".to_owned() };
    let lacking = run(3).outcome(NAT, Candidate, 1..=3, &skip);
    insta::assert_snapshot!(told(&lacking.assess()), @"
    reject
    [reject] integration/nat fails on the candidate: missing requirement: the candidate lacks what the baseline has: the kernel has no sysctl net.ipv4.x (candidate skipped 3; baseline passed 3 of 3)
    ");
    // In some boots only it may be chance, and in a subtest the test's own mind.
    let some = run(3).outcome(NAT, Candidate, 1..=2, &skip).assess();
    assert_eq!((class(&some, NAT), some.verdict), (Class::Passed, Verdict::Promote));
    let subtest = run(3)
        .subtests(FUTEX, Baseline, 1..=3, &[("a", Outcome::Passed)])
        .subtests(FUTEX, Candidate, 1..=3, &[("a", skip)])
        .assess();
    insta::assert_snapshot!(told(&subtest), @"
    inconclusive
    [inconclusive] subsystem/futex: a is skipped on the candidate: the kernel has no sysctl net.ipv4.x (candidate skipped 3; baseline passed 3 of 3)
    ");
}

#[test]
fn a_finding_that_the_baseline_has_elsewhere_is_no_regression() {
    let shared = warning("WARNING in shared");
    let assessment = run(3)
        .finding(NAT, Candidate, 1..=3, &shared)
        .finding(FUTEX, Baseline, [1], &shared)
        .assess();
    assert_eq!(assessment.verdict, Verdict::Promote, "{}", told(&assessment));
    assert_eq!(assessment.findings[0].novelty, Novelty::Common);
    assert_eq!(class(&assessment, NAT), Class::StillFailing);
}

#[test]
fn stalls_in_some_boots_may_be_the_controller_s() {
    let mut stall = warning("INFO: rcu detected stall in x");
    stall.kind = FindingKind::RcuStall;
    stall.severity = kgate_model::finding::Severity::Severe;
    let some = run(3).finding(NAT, Candidate, [1], &stall).assess();
    insta::assert_snapshot!(told(&some), @"
    inconclusive
    [inconclusive] integration/nat fails in some boots of the candidate: kernel log: INFO: rcu detected stall in x (candidate failed 1 of 3; baseline passed 3 of 3; equal kernels do this with a probability of 0.50)
    ");
    assert_eq!(run(3).finding(NAT, Candidate, 1..=3, &stall).assess().verdict, Verdict::Reject);
}

#[test]
fn findings_in_passed_trials_and_outside_trials_count() {
    let mut run = run(3);
    run.boot_findings.insert((Candidate, 1), vec![warning("WARNING in a")]);
    run.findings.insert((NAT.to_owned(), Candidate, 2), vec![warning("WARNING in b")]);
    insta::assert_snapshot!(told(&run.assess()), @"
    reject
    [reject] new kernel warning: WARNING in a (1 of 3 boots outside trials; baseline 0 of 3)
    [reject] new kernel warning: WARNING in b (1 of 3 boots during integration/nat; baseline 0 of 3)
    ");
}

fn provoking(allowed: &[&str], expected: &[&str]) -> Vec<Selected> {
    let selected = serde_json::json!({
        "scenario": {
            "id": NAT, "kind": "integration", "summary": "", "guards": null, "image": "base",
            "requires": {"modules": [], "config": [], "sysctls": [], "files": [], "commands": [], "cpus": null, "memory": null},
            "timeout_ms": 1000, "boots": null, "boot": "warm", "network": false,
            "allowed_log": allowed, "allow_taint": false,
            "steps": [{
                "name": "run 1", "action": {"run": {"command": "true"}}, "timeout_ms": null,
                "expect": {
                    "exit": "any", "stdout": [], "stderr": [], "not_stdout": [], "files": [],
                    "sysctls": [], "kernel_log": expected,
                },
                "results": null, "metrics": [], "env": {},
                "limits": {"memory": null, "cpu_time_ms": null, "processes": null, "files": null},
            }],
        },
        "boots": 3,
        "overrides": {"warn": null, "fail": null, "boots": null, "timeout_ms": null, "skip": null},
    });
    vec![serde_json::from_value(selected).unwrap()]
}

#[test]
fn a_scenario_may_provoke_what_it_says() {
    let mut run = run(3);
    run.findings.insert((NAT.to_owned(), Candidate, 2), vec![warning("WARNING in provoked")]);
    for (allowed, expected) in [(&["in provoked$"][..], &[][..]), (&[], &["in provoked$"])] {
        let selected = provoking(allowed, expected);
        let assessment = run.assess_with(&Policy::default(), &selected, Vec::new());
        assert_eq!((assessment.verdict, assessment.findings.len()), (Verdict::Promote, 0));
    }
    let other = provoking(&["something else"], &["something else"]);
    let assessment = run.assess_with(&Policy::default(), &other, Vec::new());
    assert_eq!(assessment.verdict, Verdict::Reject);
}

#[test]
fn subtests_are_compared_one_by_one() {
    let fail = || failed(FaultKind::Subtest, "not ok 2");
    let both = [("a", Outcome::Passed), ("b / c", fail())];
    let more = [("a", fail()), ("b / c", fail())];
    let run = run(3).subtests(FUTEX, Baseline, 1..=3, &both);
    let same = run.clone().subtests(FUTEX, Candidate, 1..=3, &both).assess();
    assert_eq!((same.verdict, class(&same, FUTEX)), (Verdict::Promote, Class::StillFailing));
    let worse = run.clone().subtests(FUTEX, Candidate, 1..=3, &more).assess();
    insta::assert_snapshot!(told(&worse), @"
    reject
    [reject] subsystem/futex: a fails on the candidate: subtest: not ok 2 (candidate failed 3 of 3; baseline passed 3 of 3)
    ");
    let less = run.subtests(FUTEX, Candidate, 1..=3, &both[1..]).assess();
    insta::assert_snapshot!(told(&less), @"
    inconclusive
    [inconclusive] subsystem/futex: a is no longer reported by the candidate (candidate never ran 3; baseline passed 3 of 3)
    ");
}

#[test]
fn waivers() {
    let scope = |scenario: Option<&str>, finding: Option<&str>, metric: Option<&str>| WaiverScope {
        scenario: scenario.map(Glob::new),
        finding: finding.map(|f| Pattern::new(f).unwrap()),
        metric: metric.map(Glob::new),
        ..WaiverScope::default()
    };
    let title = "WARNING in tcp_rcv_state_process";
    let run = Run::new(3, &[NAT, FUTEX, TCP])
        .finding(NAT, Candidate, 1..=3, &warning(title))
        .outcome(FUTEX, Candidate, 1..=3, &expectation())
        .metric(TCP, "connect", Better::Lower, Baseline, &[100.0, 100.1, 100.2])
        .metric(TCP, "connect", Better::Lower, Candidate, &[120.0, 120.1, 120.2]);
    let all = vec![
        waiver("W-finding", "2026-11-21", scope(None, Some("tcp_rcv"), None)),
        waiver("W-futex", "2027-01-01", scope(Some("subsystem/*"), None, None)),
        waiver("W-metric", "2027-01-01", scope(Some("performance/*"), None, Some("connect"))),
        waiver("W-old", "2026-11-20", scope(Some("subsystem/*"), None, None)),
        waiver("W-idle", "2027-01-01", scope(Some("subsystem/timers"), None, None)),
    ];
    let waived = run.assess_with(&Policy::default(), &[], all.clone());
    assert_eq!(waived.verdict, Verdict::Promote, "{}", told(&waived));
    assert_eq!(class(&waived, NAT), Class::Regression);
    let states: Vec<_> = waived.waivers.iter().map(|w| w.state).collect();
    use WaiverState::{Expired, Unmatched, Used};
    assert_eq!(states, [Used, Used, Used, Expired, Unmatched]);
    insta::assert_snapshot!(waived.notes.join("\n"), @"
    waiver W-old of net-team expired on 2026-11-20, so that it no longer waives subsystem/futex (today is 2026-11-21)
    waiver W-idle of net-team matched nothing in this run: it may be removed
    ");
    for (left_out, expected) in [
        ("W-finding", "integration/nat fails on the candidate"),
        ("W-futex", "subsystem/futex fails on the candidate"),
        ("W-metric", "performance/tcp: connect is worse by +20.0 %"),
    ] {
        let rest = all.iter().filter(|w| w.id != left_out).cloned().collect();
        let assessment = run.assess_with(&Policy::default(), &[], rest);
        assert_eq!((assessment.verdict, assessment.reasons.len()), (Verdict::Reject, 1));
        assert!(assessment.reasons[0].text.starts_with(expected), "{}", told(&assessment));
    }
}

/// Any outcome, errors and crashes included.
fn any_outcome() -> impl Strategy<Value = Option<Outcome>> {
    prop_oneof![
        4 => Just(Some(Outcome::Passed)),
        2 => Just(Some(expectation())),
        1 => Just(Some(failed(FaultKind::Panic, "panic"))),
        1 => Just(Some(failed(FaultKind::Subtest, "subtest"))),
        1 => Just(Some(failed(FaultKind::Finding, "finding"))),
        1 => Just(Some(Outcome::Skipped { reason: "no".to_owned() })),
        1 => Just(Some(errored("ours"))),
        1 => Just(None),
    ]
}

fn any_run() -> impl Strategy<Value = Run> {
    let values = prop_oneof![
        Just(0.0),
        Just(-1.0),
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(f64::MAX),
        Just(1e-300),
        50.0..150.0_f64,
    ];
    let trial = (any_outcome(), prop::collection::vec(values, 0..4), 0..6_u8);
    (1..6_u32, prop::collection::vec(trial, 30), prop::collection::vec(0..8_u8, 10)).prop_map(
        |(boots, trials, faults)| {
            let mut run = Run::new(boots, &[NAT, FUTEX, TCP]);
            let keys = (1..=boots)
                .flat_map(|boot| Role::ALL.map(|role| (role, boot)))
                .flat_map(|(role, boot)| [NAT, FUTEX, TCP].map(|s| (s.to_owned(), role, boot)));
            for (key, (outcome, values, extra)) in keys.zip(trials) {
                run.outcomes.insert(key.clone(), outcome);
                run.samples.insert(
                    key.clone(),
                    vec![kgate_model::sample::Samples {
                        metric: "m".to_owned(),
                        unit: if extra == 5 { "s" } else { "ns" }.to_owned(),
                        better: Better::Lower,
                        values,
                    }],
                );
                if extra < 2 {
                    let title = format!("WARNING in f{extra}");
                    run.findings.insert(key, vec![warning(&title)]);
                }
            }
            for (at, fault) in (0..).zip(faults).take(boots as usize * 2) {
                let key = (Role::ALL[at as usize % 2], at / 2 + 1);
                match fault {
                    0 => run.boot_faults.insert(key, Fault::kernel(FaultKind::Panic, "panic")),
                    1 => run.boot_faults.insert(key, Fault::harness(FaultKind::Emulator, "qemu")),
                    _ => None,
                };
            }
            run
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_record_is_assessed_and_explained(run in any_run()) {
        let assessment = run.assess();
        prop_assert_eq!(assessment.verdict == Verdict::Promote, assessment.reasons.is_empty());
        prop_assert!(assessment.reasons.iter().all(|r| r.effect != Effect::None));
        prop_assert!(assessment.reasons.is_sorted_by(|a, b| a.effect >= b.effect));
        // Nothing that has an effect goes untold.
        let worst = (assessment.boots.iter().chain(&assessment.cases).map(|c| c.effect))
            .chain(assessment.findings.iter().map(|f| f.effect))
            .chain(assessment.comparisons.iter().map(|c| c.effect))
            .max();
        prop_assert!(Verdict::from(worst.unwrap_or_default()) <= assessment.verdict, "{}", told(&assessment));
        for (low, high) in assessment.comparisons.iter().filter_map(|c| c.interval) {
            prop_assert!(-1.0 <= low && low <= high, "{low} {high}");
        }
        prop_assert_eq!(run.assess(), assessment);
    }

    #[test]
    fn an_error_of_ours_never_makes_a_verdict_green(run in any_run(), which in 0..30_usize) {
        let before = run.assess().verdict;
        let mut worse = run;
        let key = worse.outcomes.keys().nth(which % worse.outcomes.len()).unwrap().clone();
        worse.outcomes.insert(key, Some(errored("ours")));
        let after = worse.assess().verdict;
        prop_assert!(!(before != Verdict::Promote && after == Verdict::Promote));
    }

    #[test]
    fn an_error_of_ours_never_counts_against_the_candidate(
        fails in prop::collection::btree_set(1..=6_u32, 0..6),
        boots in 1..=6_u32,
        lost in 1..=6_u32,
    ) {
        let fails: Vec<u32> = fails.into_iter().filter(|&b| b <= boots).collect();
        let run = run(boots).outcome(NAT, Candidate, fails.iter().copied(), &expectation());
        let before = run.assess().verdict;
        let after = run.outcome(NAT, Candidate, [lost.min(boots)], &errored("ours")).assess().verdict;
        prop_assert!(!(before != Verdict::Reject && after == Verdict::Reject));
    }

    #[test]
    fn more_failures_are_never_better(fails in 0..6_u32, base in 0..6_u32) {
        let of = |n| run(6).outcome(NAT, Candidate, 1..=n, &expectation())
            .outcome(NAT, Baseline, 1..=base, &expectation()).assess().verdict;
        prop_assert!(of(fails) <= of(fails + 1), "{} {}", of(fails), of(fails + 1));
    }
}
