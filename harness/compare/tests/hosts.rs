//! What lab hosts measure: compared within each, and only where its state was the same.

mod support;

use kgate_compare::{Assessment, Comparison, Decision, Verdict};
use kgate_model::inventory::Conditions;
use kgate_model::journal::{Entry, Event, RunRecord};
use kgate_model::outcome::Role;
use kgate_model::sample::Better;
use support::Run;

const METRIC: &str = "performance/pipe";

/// Eight boots of each kernel on two hosts, of which the second takes three times as long.
fn two_hosts(shift: f64) -> Run {
    let times = |shift: f64| -> Vec<f64> {
        (0..8_u32)
            .map(|boot| {
                let host = if boot % 2 == 0 { 1.0 } else { 3.0 };
                host * shift * (1000.0 + f64::from(boot * 5 % 8))
            })
            .collect()
    };
    let mut run = Run::new(8, &[METRIC]);
    run.hosts = vec!["east".into(), "west".into()];
    run.metric(METRIC, "pipe", Better::Lower, Role::Baseline, &times(1.0)).metric(
        METRIC,
        "pipe",
        Better::Lower,
        Role::Candidate,
        &times(shift),
    )
}

fn state(governor: &str) -> Conditions {
    [("governor".to_owned(), governor.to_owned()), ("smt".to_owned(), "off".to_owned())].into()
}

fn in_state(mut run: Run, of: impl Fn(Role, u32) -> &'static str) -> Run {
    let boots = Role::ALL.into_iter().flat_map(|role| (1..=8).map(move |number| (role, number)));
    run.conditions =
        boots.map(|(role, number)| ((role, number), state(of(role, number)))).collect();
    run
}

fn pipe(assessment: &Assessment) -> &Comparison {
    assessment.performance().next().unwrap()
}

#[test]
fn hosts_that_differ_hide_nothing() {
    let equal = two_hosts(1.0).assess();
    assert_eq!(equal.verdict, Verdict::Promote, "{:?}", equal.reasons);
    assert_eq!(pipe(&equal).hosts, ["east", "west"]);
    // The boots scatter by half of what they measure; within a host by less than 1 %.
    let worse = two_hosts(1.02).assess();
    assert_eq!(pipe(&worse).decision, Decision::Worse);
    let (low, high) = pipe(&worse).interval.unwrap();
    assert!(low > 0.015 && high < 0.025, "{low} {high}");
    let assessment = two_hosts(1.2).assess();
    assert_eq!(assessment.verdict, Verdict::Reject);
}

#[test]
fn memory_of_lab_hosts_is_compared_within_each() {
    let places: Vec<String> =
        two_hosts(1.0).assess().memory().map(|c| c.place.to_string()).collect();
    assert!(
        places.iter().all(|place| place == "memory after boot (base, lab hosts)"),
        "{places:?}"
    );
}

#[test]
fn a_host_that_was_not_in_one_state_measured_nothing() {
    let odd = |role, number| match (role, number) {
        (Role::Candidate, 2) => "powersave",
        _ => "performance",
    };
    let assessment = in_state(two_hosts(1.0), odd).assess();
    assert_eq!(assessment.verdict, Verdict::Inconclusive);
    insta::assert_snapshot!(pipe(&assessment).doubt, @"west was not in one state: governor powersave in candidate-2, performance in the others");
    assert_eq!(pipe(&assessment).hosts, ["east"], "the other counts");
    assert_eq!(assessment.hosts[0].uneven, None);
    assert_eq!(assessment.hosts[1].uneven.as_ref(), Some(&pipe(&assessment).doubt));
    assert_eq!((assessment.hosts[1].boots, &assessment.hosts[1].returned), (8, &Some(None)));
    // Function is none of its business, and what the other host proves stays proven.
    assert!(assessment.scenarios().all(|case| case.baseline.passed == 8));
    assert_eq!(in_state(two_hosts(1.2), odd).assess().verdict, Verdict::Reject);
}

#[test]
fn a_kernel_that_changes_the_state_of_every_host_leaves_it_open() {
    let by_role = |role, _| if role == Role::Baseline { "schedutil" } else { "performance" };
    let assessment = in_state(two_hosts(1.2), by_role).assess();
    assert_eq!(assessment.verdict, Verdict::Inconclusive);
    insta::assert_snapshot!(pipe(&assessment).doubt, @"east was not in one state: governor performance in 4 boots of the candidate, schedutil in 4 boots of the baseline");
    assert_eq!(pipe(&assessment).decision, Decision::Inconclusive);
}

#[test]
fn a_host_that_is_left_is_infrastructure() {
    let run = two_hosts(1.0);
    let left = Event::HostReturned { host: "west".into(), left: Some("no answer".into()) };
    let events = run.events().into_iter().chain([left]);
    let record = RunRecord::new(run.plan(), events.map(|event| Entry { at: 0, event }));
    let assessment = Assessment::new(&kgate_compare::Inputs {
        record: &record,
        policy: &kgate_scenario::Policy::default(),
        selected: &[],
        waivers: &kgate_scenario::Waivers::default(),
        today: support::TODAY.parse().unwrap(),
        seed: 1,
    });
    assert_eq!(assessment.verdict, Verdict::Infrastructure);
    assert_eq!(assessment.reasons[0].text, "west is not back on production: no answer");
}
