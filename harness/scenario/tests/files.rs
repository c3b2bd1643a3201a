//! Right files, read; the schemas, kept; everything in the repository, valid.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kgate_scenario::{
    Action, Better, FindingAction, Library, Percent, Places, Policy, Probe, Reaction, Selected,
    SizeLimit, Waivers, Workload, inventory,
};

const NAT: &str = r"
kind: integration
summary: nginx behind NAT and connection tracking, across network namespaces
guards: the path every customer request takes
image: edge
requires:
  modules: [veth, nf_nat, nf_conntrack]
  config: [NETFILTER, HZ=250]
  memory: 256MiB
timeout: 2m
boot: shared
kernel-log: { allow: ['TCP: .* port'] }
steps:
  - run: ip netns add client
    timeout: 5s
    limits: { memory: 64MiB, cpu-time: 2s }
  - background: nginx -g 'daemon off;'
    ready: { tcp: 10.1.0.1:80, within: 3s }
  - name: load
    run: ip netns exec client wrk -t1 -c16 -d3s http://10.1.0.1/4k
    metrics:
      requests: { pattern: 'Requests/sec:\s+([\d.]+)', unit: 1/s, better: higher }
  - run: nft list counters
    expect: { stdout: 'packets [1-9]', exit: [0, 4], files: { /proc/self: exists } }
  - write: { path: /tmp/x, text: 1 }
  - sysctl: { net.core.somaxconn: 4096 }
";

const CONNECT: &str = "kind: performance\nsummary: s\nsteps:\n  - measure: tcp-connect\n    batch: 500\n    batches: 40\n";

const EDGE: &str = r"
summary: TLS-terminating reverse proxy, NAT and filtering on the host
machine: { cpus: 1, memory: 1GiB, candidate: { kernel-args: [mitigations=off] } }
requires: { config: [TLS, NETFILTER, BPF_SYSCALL], sysctls: [net.core.somaxconn] }
scenarios:
  - integration/nat-conntrack
  - performance/tcp-*: { fail: 0.5%, boots: 5, timeout: 30s }
policy:
  new-warning: report
  performance: { warn: 1%, fail: 5% }
  memory: { fail: 8MiB }
  metrics: { '**/requests': { fail: 3% } }
  tails: { fail: 30% }
  exact: { clones: 8, t: 4.5, path: { fail: 0.5% }, metrics: { tcp-*: { mean: { fail: 9% } } } }
";

fn library() -> Library {
    let files = [("integration/nat-conntrack", NAT), ("performance/tcp-connect", CONNECT)];
    let files = files.map(|(id, text)| (PathBuf::from(format!("{id}.yaml")), text.to_owned()));
    Library::load(files).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

fn edge() -> (Workload, Vec<Selected>) {
    let library = library();
    let workload = Workload::load(Path::new("edge.yaml"), EDGE, &library)
        .unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let selected = library.select(&workload);
    (workload, selected)
}

#[test]
fn a_scenario_with_everything() {
    let library = library();
    let scenario = library.get("integration/nat-conntrack").unwrap();
    insta::assert_json_snapshot!(scenario);
    assert_eq!(scenario.id.name(), "nat-conntrack");
    assert_eq!(scenario.metric_names().collect::<Vec<_>>(), ["requests"]);
    let Action::Background { ready, .. } = &scenario.steps[1].action else { panic!() };
    assert_eq!(ready.probe, Some(Probe::Tcp { host: "10.1.0.1".into(), port: 80 }));
    let metric = &scenario.steps[2].metrics[0];
    assert_eq!((metric.better, metric.unit.as_str()), (Better::Higher, "1/s"));
}

#[test]
fn defaults() {
    let text = "kind: subsystem\nsummary: s\nsteps: [{ run: 'true' }, { measure: pipe }]\n";
    let library = Library::load([(PathBuf::from("subsystem/x.yaml"), text.to_owned())]).unwrap();
    insta::assert_json_snapshot!(library.get("subsystem/x").unwrap());
}

#[test]
fn a_workload_and_what_it_selects() {
    let (workload, selected) = edge();
    assert_eq!(workload.policy.boots, 3);
    assert_eq!(workload.policy.new_warning, Reaction::Report);
    assert_eq!(workload.policy.on_finding, FindingAction::EndBoot);
    assert_eq!(workload.policy.memory.fail, SizeLimit::Bytes(8 << 20));
    assert_eq!(workload.machine.memory, 1 << 30);
    assert_eq!(workload.machine.candidate.kernel_args, ["mitigations=off"]);
    let ids: Vec<&str> = selected.iter().map(|one| one.scenario.id.as_str()).collect();
    assert_eq!(ids, ["integration/nat-conntrack", "performance/tcp-connect"]);
    assert_eq!((selected[0].boots, selected[1].boots), (3, 5));
    assert_eq!(selected[1].scenario.timeout, Duration::from_secs(30));
}

#[test]
fn what_runs_on_lab_hosts() {
    let file = |id: &str, keys: &str| {
        let text = format!("kind: performance\nsummary: s\n{keys}steps: [{{ measure: pipe }}]\n");
        (PathBuf::from(format!("performance/{id}.yaml")), text)
    };
    let library = Library::load([file("a", ""), file("x", "boot: exact\n")]).unwrap();
    let load = |lab: &str| {
        let text = format!("summary: s\nscenarios: ['**']\n{lab}");
        Workload::load(Path::new("w.yaml"), &text, &library)
    };
    assert_eq!(load("").unwrap().lab, None);
    let lab = load("lab: { hosts: [edge, rack-1], scenarios: [performance/*] }\n").unwrap().lab;
    let lab = lab.unwrap();
    assert_eq!(lab.hosts, ["edge", "rack-1"]);
    assert_eq!(lab.scenarios[0].as_str(), "performance/*");
    let refused = load("lab: { scenarios: [performance/x] }\n").unwrap_err();
    insta::assert_snapshot!(refused, @"
    w.yaml:3:20: `performance/x` can't run on a lab host
      3 | lab: { scenarios: [performance/x] }
        |                    ^^^^^^^^^^^^^ exact scenarios count instructions, which only guests can
    ");
}

#[test]
fn limits_come_from_the_nearest_place() {
    let (workload, selected) = edge();
    let limits = |at: usize, metric: &str| {
        let one: &Selected = &selected[at];
        let limits = workload.policy.limits(&one.scenario.id, metric, &one.overrides);
        (limits.warn, limits.fail)
    };
    assert_eq!(limits(0, "requests"), (Percent(1.0), Percent(3.0)));
    assert_eq!(limits(0, "other"), (Percent(1.0), Percent(5.0)));
    assert_eq!(limits(1, "tcp-connect"), (Percent(0.5), Percent(0.5)));
}

#[test]
fn limits_of_exact_mode_are_its_own() {
    let (workload, selected) = edge();
    let exact = &workload.policy.exact;
    assert_eq!((exact.templates, exact.clones, exact.t), (2, 8, 4.5));
    let limits = |at: usize, metric: &str| {
        let (path, mean) = exact.limits(&selected[at].scenario.id, metric);
        [path.warn, path.fail, mean.warn, mean.fail].map(|limit| limit.0)
    };
    assert_eq!(limits(0, "requests"), [0.2, 0.5, 0.5, 10.0]);
    assert_eq!(limits(1, "tcp-connect"), [0.2, 0.5, 0.5, 9.0]);
    assert_eq!(workload.policy.tails.fail, Percent(30.0));
}

#[test]
fn later_selections_win_key_by_key() {
    let library = library();
    let text = "summary: s\nscenarios:\n  - '**': { boots: 7, fail: 4% }\n  \
                - performance/*: { fail: 2%, skip: slow }\n";
    let workload = Workload::load(Path::new("w.yaml"), text, &library).unwrap();
    let selected = library.select(&workload);
    assert_eq!(selected.len(), 2);
    assert_eq!(selected[1].boots, 7);
    assert_eq!(selected[1].overrides.fail, Some(Percent(2.0)));
    assert_eq!(selected[1].overrides.skip.as_deref(), Some("slow"));
    assert_eq!(selected[0].overrides.skip, None);
}

#[test]
fn everything_survives_json() {
    let (workload, selected) = edge();
    let again: Workload = serde_json::from_str(&serde_json::to_string(&workload).unwrap()).unwrap();
    assert_eq!(workload, again);
    let again: Vec<Selected> =
        serde_json::from_str(&serde_json::to_string(&selected).unwrap()).unwrap();
    assert_eq!(selected, again);
}

#[test]
fn a_policy_and_waivers_of_their_own() {
    let policy = Policy::load(Path::new("p.yaml"), "boots: 10\nflaky: reject\n", &[]).unwrap();
    assert_eq!(policy, Policy { boots: 10, flaky: Reaction::Reject, ..Policy::default() });
    let text = "- id: tcp-6.12\n  scope: { scenario: integration/*, finding: 'WARNING in tcp_' }\n  \
                reason: fixed upstream\n  owner: net\n  expires: 2027-01-31\n";
    let waivers = Waivers::load(Path::new("w.yaml"), text).unwrap();
    assert_eq!(waivers.0[0].expires, jiff::civil::date(2027, 1, 31));
    assert_eq!(Waivers::load(Path::new("w.yaml"), "[]\n").unwrap(), Waivers::default());
    let json = serde_json::to_string(&waivers).unwrap();
    assert_eq!(waivers, serde_json::from_str(&json).unwrap());
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every `.yaml` file below `dir`, path relative to the repository.
fn yaml_files(dir: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut open = vec![root().join(dir)];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "yaml") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(root()).unwrap().to_owned(), text));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn everything_in_the_repository_is_valid() {
    let files = yaml_files("scenarios");
    let schema = |name: &str| {
        let text = fs::read_to_string(root().join("schemas").join(name)).unwrap();
        jsonschema::validator_for(&serde_json::from_str(&text).unwrap()).unwrap()
    };
    let check = |schema: &jsonschema::Validator, name: &str, path: &Path, text: &str| {
        let depth = path.components().count() - 1;
        let line =
            format!("# yaml-language-server: $schema={}schemas/{name}\n", "../".repeat(depth));
        assert!(text.starts_with(&line), "{} must start with: {line}", path.display());
        let value: serde_json::Value = serde_yaml::from_str(text).unwrap();
        let errors: Vec<String> = schema.iter_errors(&value).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{}: {errors:?}", path.display());
    };
    let of_scenarios = schema("scenario.schema.json");
    for (path, text) in &files {
        check(&of_scenarios, "scenario.schema.json", path, text);
    }
    let library = Library::load(files).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert!(library.iter().count() >= 14);
    let of_workloads = schema("workload.schema.json");
    let profiles = yaml_files("workloads/profiles");
    assert!(profiles.len() >= 2);
    for (path, text) in profiles {
        check(&of_workloads, "workload.schema.json", &path, &text);
        Workload::load(&path, &text, &library).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    }
}

/// `KGATE_UPDATE=1` writes them.
#[test]
fn schemas_are_those_of_the_types() {
    for (name, schema) in kgate_scenario::schema::all() {
        let path = root().join("schemas").join(name);
        let text = format!("{}\n", serde_json::to_string_pretty(&schema).unwrap());
        if std::env::var_os("KGATE_UPDATE").is_some() {
            fs::write(&path, &text).unwrap();
        }
        let kept = fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == text, "schemas/{name} is stale: run this test with KGATE_UPDATE=1");
    }
}

#[test]
fn the_reference_names_every_key_operation_and_unit() {
    fn keys(value: &serde_json::Value, found: &mut Vec<String>) {
        if let Some(properties) = value.get("properties").and_then(|p| p.as_object()) {
            found.extend(properties.keys().cloned());
        }
        match value {
            serde_json::Value::Object(map) => map.values().for_each(|value| keys(value, found)),
            serde_json::Value::Array(items) => items.iter().for_each(|value| keys(value, found)),
            _ => {}
        }
    }
    fn check(page: &str, words: &[String]) {
        let text = fs::read_to_string(root().join(page)).unwrap();
        // A key may stand in an inline example or after a dot: `baseline.kernel-args`.
        let ends = |c: char| !(c.is_ascii_alphanumeric() || "-/%".contains(c));
        let in_code: Vec<&str> = text.split(ends).collect();
        let missing: Vec<&String> =
            words.iter().filter(|word| !in_code.contains(&word.as_str())).collect();
        assert!(missing.is_empty(), "{page} says nothing of {missing:?}");
    }
    let (mut words, mut of_labs) = (Vec::new(), Vec::new());
    for (name, schema) in kgate_scenario::schema::all() {
        keys(&schema, if name == "lab.schema.json" { &mut of_labs } else { &mut words });
    }
    assert!(words.len() > 60 && of_labs.len() > 60);
    words.extend(kgate_scenario::ops::OPS.iter().map(|op| op.name.to_owned()));
    words.extend(kgate_scenario::Unit::ALL.iter().map(|unit| unit.as_str().to_owned()));
    check("docs/scenario.md", &words);
    check("docs/lab.md", &of_labs);
}

/// The example of the tests and those of the reference, which begin with the name of their file.
#[test]
fn examples_of_inventories_are_valid() {
    let schema = fs::read_to_string(root().join("schemas/lab.schema.json")).unwrap();
    let schema = jsonschema::validator_for(&serde_json::from_str(&schema).unwrap()).unwrap();
    let page = fs::read_to_string(root().join("docs/lab.md")).unwrap();
    let blocks = page.split("```yaml\n").skip(1).filter_map(|block| block.split("```").next());
    let mut texts: Vec<&str> = blocks.filter(|block| block.starts_with("# lab.yaml")).collect();
    assert!(texts.len() >= 2, "docs/lab.md has no whole examples");
    texts.push(include_str!("lab.yaml"));
    for text in texts {
        let value: serde_json::Value = serde_yaml::from_str(text).unwrap();
        let errors: Vec<String> = schema.iter_errors(&value).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?} in\n{text}");
        let places = Places { directory: "/etc/kgate".into(), home: Some("/root".into()) };
        inventory(Path::new("lab.yaml"), text, &places).unwrap_or_else(|m| panic!("{m}"));
    }
}

/// The whole examples of the reference: blocks that begin with the path of their file.
#[test]
fn the_examples_of_the_reference_are_valid() {
    let text = fs::read_to_string(root().join("docs/scenario.md")).unwrap();
    let mut seen = 0;
    for block in text.split("```yaml\n").skip(1) {
        let block = block.split("```").next().unwrap();
        let Some(path) = block.lines().next().and_then(|line| line.strip_prefix("# ")) else {
            continue;
        };
        if path.starts_with("scenarios/") {
            Library::load([(PathBuf::from(path), block.to_owned())]).unwrap();
            seen += 1;
        } else if path.starts_with("workloads/") {
            let library = Library::load(yaml_files("scenarios")).unwrap();
            Workload::load(Path::new(path), block, &library).unwrap();
            seen += 1;
        }
    }
    assert_eq!(seen, 2);
}
