//! Plans: which boots and trials, in which order, in which partition, and what is decided before.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use kgate_model::outcome::Role;
use kgate_model::plan::{Kind, Plan};
use kgate_runner::{Inputs, Placement, differences, make_plan};
use proptest::prelude::*;
use support::{Lacking, inputs, kernel, on, say};

const MEASURE: &str = "steps:\n  - measure: getppid\n";
const RUN: &str = "steps:\n  - run: 'true'\n";

fn plan(inputs: &Inputs, lacking: &Lacking, partitions: u32) -> Plan {
    make_plan(inputs, kernel("6.1.1"), kernel("6.1.2"), lacking, &Placement::default(), partitions)
}

fn text(plan: &Plan) -> String {
    let mut text = String::new();
    for boot in &plan.boots {
        writeln!(text, "{} in {}: {:?}", boot.id, boot.partition, boot.shape).unwrap();
        for trial in &boot.trials {
            let decided =
                trial.decided.as_ref().map_or_else(String::new, |o| format!(" {}", say(o)));
            writeln!(text, "  {}{decided}", trial.id).unwrap();
        }
    }
    text
}

#[test]
fn boots_alternate_and_are_grouped() {
    let scenarios = [
        ("integration/nat", &*format!("image: edge\n{RUN}")),
        ("integration/out", &*format!("image: edge\nnetwork: true\n{RUN}")),
        ("performance/getppid", MEASURE),
        ("subsystem/futex", RUN),
        ("subsystem/pipe", &*format!("boots: 1\n{RUN}")),
    ];
    let workload = "machine: { cpus: 2, memory: 1GiB, kernel-args: [a=1], candidate: { \
        kernel-args: [b=2] } }\nscenarios: ['performance/**': { boots: 3 }, '**']\n\
        policy: { boots: 2 }\n";
    insta::assert_snapshot!(text(&plan(&inputs(&scenarios, workload), &Lacking::default(), 2)));
}

#[test]
fn requirements_are_decided_from_what_both_kernels_have() {
    let require = |what: &str| format!("requires: {{ {what} }}\n{RUN}");
    let scenarios = [
        ("subsystem/all", require("config: [ALL], modules: [all]")),
        ("subsystem/baseline-lacks", require("modules: [only_candidate]")),
        ("subsystem/both-ways", require("config: [ONLY_BASELINE, ONLY_CANDIDATE]")),
        ("subsystem/candidate-lacks", require("config: [ONLY_BASELINE], modules: [all]")),
        ("subsystem/neither", require("config: [NEITHER], modules: [neither, all]")),
        ("subsystem/neither-and-lost", require("config: [NEITHER, ONLY_BASELINE]")),
        ("subsystem/skipped", require("config: [ONLY_BASELINE]")),
        ("subsystem/value", require("config: [HZ=250]")),
    ];
    let scenarios: Vec<_> = scenarios.iter().map(|(id, text)| (*id, text.as_str())).collect();
    let lacking = || {
        Lacking(BTreeMap::from([
            (
                Role::Baseline,
                BTreeSet::from(["NEITHER", "neither", "ONLY_CANDIDATE", "only_candidate"]),
            ),
            (Role::Candidate, BTreeSet::from(["NEITHER", "neither", "ONLY_BASELINE"])),
        ]))
    };
    let workload =
        "scenarios: ['**', subsystem/skipped: { skip: known bad }]\npolicy: { boots: 1 }\n";
    insta::assert_snapshot!(text(&plan(&inputs(&scenarios, workload), &lacking(), 1)));

    // What the workload requires holds for every scenario.
    let workload =
        "requires: { config: [ONLY_BASELINE] }\nscenarios: ['**']\npolicy: { boots: 1 }\n";
    let plan = plan(&inputs(&scenarios[..1], workload), &lacking(), 1);
    insta::assert_snapshot!(text(&plan));
}

fn on_hosts(inputs: &Inputs, placement: &Placement, partitions: u32) -> Plan {
    let (baseline, candidate) = (kernel("6.1.1"), kernel("6.1.2"));
    make_plan(inputs, baseline, candidate, &Lacking::default(), placement, partitions)
}

/// What each host boots, in order: the roles of each group with their replicates.
fn walks(plan: &Plan) -> String {
    let mut text = String::new();
    for host in plan.hosts() {
        let boots = plan.boots.iter().filter(|boot| boot.host.as_deref() == Some(host));
        let boots: Vec<String> = boots
            .map(|boot| {
                let scenarios: Vec<&str> =
                    boot.trials.iter().map(|t| t.scenario.rsplit('/').next().unwrap()).collect();
                let role = if boot.role == Role::Baseline { "A" } else { "B" };
                format!("{role}{} {}", boot.number, scenarios.join("+"))
            })
            .collect();
        writeln!(text, "{host}: {}", boots.join(", ")).unwrap();
    }
    for boot in plan.boots.iter().filter(|boot| boot.host.is_none()) {
        writeln!(text, "guest {}", boot.id).unwrap();
    }
    text
}

#[test]
fn replicates_go_round_the_hosts_and_roles_alternate_on_each() {
    let scenarios = [
        ("subsystem/a", RUN),
        ("performance/m", MEASURE),
        ("subsystem/cold", "boot: cold\nsteps:\n  - run: 'true'\n"),
        ("performance/exact", "boot: exact\nsteps:\n  - measure: getppid\n"),
    ];
    let workload = "scenarios: [subsystem/a, performance/m: { boots: 8 }, subsystem/cold, \
        performance/exact]\npolicy: { boots: 2 }\n";
    let inputs = inputs(&scenarios, workload);
    let both = on_hosts(&inputs, &on(&["east", "west"], &[]), 1);
    insta::assert_snapshot!(walks(&both), @"
    east: A1 m+a, B1 m+a, A2 cold, B2 cold, B3 m, A3 m, A5 m, B5 m, B7 m, A7 m
    west: A1 cold, B1 cold, A2 m+a, B2 m+a, B4 m, A4 m, A6 m, B6 m, B8 m, A8 m
    guest baseline-1-base+exact
    guest candidate-1-base+exact
    guest candidate-2-base+exact
    guest baseline-2-base+exact
    ");
    assert_eq!(both.boots[0].id, "baseline-1-base+on-east");
    assert_eq!(both.lab.as_deref(), Some("lab.yaml"));
    // What the workload names runs there, the rest in guests.
    let one = on_hosts(&inputs, &on(&["east"], &["performance/*"]), 1);
    insta::assert_snapshot!(walks(&one), @"
    east: A1 m, B1 m, B2 m, A2 m, A3 m, B3 m, B4 m, A4 m, A5 m, B5 m, B6 m, A6 m, A7 m, B7 m, B8 m, A8 m
    guest baseline-1-base
    guest candidate-1-base
    guest baseline-1-base+cold-cold
    guest candidate-1-base+cold-cold
    guest baseline-1-base+exact
    guest candidate-1-base+exact
    guest candidate-2-base
    guest baseline-2-base
    guest candidate-2-base+cold-cold
    guest baseline-2-base+cold-cold
    guest candidate-2-base+exact
    guest baseline-2-base+exact
    ");
}

#[test]
fn a_host_belongs_to_one_partition() {
    let inputs = inputs(
        &[("subsystem/a", RUN), ("subsystem/guest", RUN)],
        "scenarios: ['**']\npolicy: { boots: 6 }\n",
    );
    let plan = on_hosts(&inputs, &on(&["east", "west"], &["subsystem/a"]), 3);
    let mut of: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
    for boot in &plan.boots {
        of.entry(boot.host.as_deref().unwrap_or("guests")).or_default().insert(boot.partition);
    }
    let of: Vec<_> = of.into_iter().map(|(host, parts)| format!("{host} in {parts:?}")).collect();
    assert_eq!(of, ["east in {1}", "guests in {3}", "west in {2}"]);
    let mut elsewhere = plan.clone();
    elsewhere.boots[0].host = Some("north".into());
    assert_eq!(differences(&plan, &elsewhere), ["the boot baseline-1-base+on-east"]);
}

#[test]
fn plans_differ_by_what_a_person_can_tell() {
    let scenarios = [("subsystem/a", RUN), ("subsystem/b", RUN)];
    let one = plan(&inputs(&scenarios, "scenarios: ['**']\n"), &Lacking::default(), 2);
    assert_eq!(differences(&one, &one), [""; 0]);
    let mut elsewhere = one.clone();
    elsewhere.candidate.reference = "/another/path.deb".into();
    elsewhere.candidate.origin = "another mirror".into();
    assert_eq!(differences(&one, &elsewhere), [""; 0]);
    let mut other = one.clone();
    other.candidate = kernel("6.1.9");
    other.partitions = 3;
    insta::assert_debug_snapshot!(differences(&one, &other), @r#"
    [
        "candidate kernel: 6.1.2 and 6.1.9",
        "candidate kernel's image (sha256): 6.1.26.1.26.1.26.1.2 and 6.1.96.1.96.1.96.1.9",
        "number of partitions: 2 and 3",
    ]
    "#);
    let fewer = plan(&inputs(&scenarios[..1], "scenarios: ['**']\n"), &Lacking::default(), 2);
    insta::assert_debug_snapshot!(differences(&one, &fewer), @r#"
    [
        "the boot baseline-1-base",
    ]
    "#);
}

#[derive(Clone, Debug)]
struct Sketch {
    kind: Kind,
    image: usize,
    network: bool,
    boots: u32,
}

fn sketches() -> impl Strategy<Value = Vec<Sketch>> {
    let sketch = (0..3_usize, 0..3_usize, any::<bool>(), 1..5_u32).prop_map(
        |(kind, image, network, boots)| Sketch { kind: Kind::ALL[kind], image, network, boots },
    );
    prop::collection::vec(sketch, 0..12)
}

fn sketched(sketches: &[Sketch]) -> Inputs {
    let images = ["base", "edge", "edge-exclusive"];
    let texts: Vec<_> = (sketches.iter().enumerate())
        .map(|(at, Sketch { kind, image, network, boots })| {
            let steps = if *kind == Kind::Performance { MEASURE } else { RUN };
            let text =
                format!("image: {}\nnetwork: {network}\nboots: {boots}\n{steps}", images[*image]);
            (format!("{}/s{at}", kind.as_str()), text)
        })
        .collect();
    let files: Vec<_> = texts.iter().map(|(id, text)| (id.as_str(), text.as_str())).collect();
    let mut all = inputs(&[("subsystem/z", RUN)], "scenarios: ['**']\n");
    if !files.is_empty() {
        all.selected = inputs(&files, "scenarios: ['**']\n").selected;
    } else {
        all.selected.clear();
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_plan_is_whole_and_fair(sketches in sketches(), partitions in 1..6_u32) {
        let inputs = sketched(&sketches);
        let plan = plan(&inputs, &Lacking::default(), partitions);
        prop_assert_eq!(&plan, &make_plan(&inputs, kernel("6.1.1"), kernel("6.1.2"), &Lacking::default(), &Placement::default(), partitions));

        let boots: BTreeSet<_> = plan.boots.iter().map(|boot| &boot.id).collect();
        prop_assert_eq!(boots.len(), plan.boots.len());
        let trials: BTreeSet<_> = plan.trials().map(|(_, trial)| &trial.id).collect();
        prop_assert_eq!(trials.len(), plan.trials().count());
        for selected in &inputs.selected {
            for role in Role::ALL {
                let numbers: BTreeSet<_> = plan
                    .trials()
                    .filter(|(boot, trial)| boot.role == role && trial.scenario == selected.scenario.id.as_str())
                    .map(|(boot, _)| boot.number)
                    .collect();
                prop_assert_eq!(numbers, (1..=selected.boots).collect());
            }
        }

        let mut order: BTreeMap<_, Vec<Role>> = BTreeMap::new();
        for pair in plan.boots.chunks(2) {
            // The two boots of a comparison follow each other, and run in one partition.
            let [one, other] = pair else { panic!("an odd number of boots") };
            prop_assert_ne!(one.role, other.role);
            prop_assert_eq!((one.number, &one.image, one.exclusive, one.partition),
                (other.number, &other.image, other.exclusive, other.partition));
            prop_assert!((1..=partitions).contains(&one.partition));
            let scenarios = |boot: &kgate_model::plan::PlannedBoot| {
                boot.trials.iter().map(|trial| trial.scenario.clone()).collect::<Vec<_>>()
            };
            prop_assert_eq!(scenarios(one), scenarios(other));
            for trial in &one.trials {
                prop_assert_eq!(one.exclusive, trial.kind == Kind::Performance);
            }
            order.entry((&one.image, one.exclusive, one.shape.network)).or_default().extend([one.role, other.role]);
        }
        for roles in order.values() {
            use Role::{Baseline as A, Candidate as B};
            let expected: Vec<_> = [A, B, B, A].into_iter().cycle().take(roles.len()).collect();
            prop_assert_eq!(roles, &expected);
        }

        let mut units: BTreeMap<_, usize> = BTreeMap::new();
        let mut loads = vec![0; partitions as usize];
        for boot in &plan.boots {
            let weight = boot.trials.len() + 2;
            *units.entry((boot.number, &boot.image)).or_default() += weight;
            loads[boot.partition as usize - 1] += weight;
        }
        let spread = loads.iter().max().unwrap() - loads.iter().min().unwrap();
        prop_assert!(spread <= units.values().max().copied().unwrap_or_default());
    }
}
