//! What malformed files are answered: every message exactly, in one snapshot per kind of file.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use kgate_scenario::{Library, Policy, Waivers, Workload};

/// Two scenarios that the workloads of the table select from.
fn library() -> Library {
    let files = [
        (
            "scenarios/performance/tcp-connect.yaml",
            "kind: performance\nsummary: s\nsteps:\n  - measure: tcp-connect\n",
        ),
        (
            "scenarios/integration/nat-conntrack.yaml",
            "kind: integration\nsummary: s\nrequires: { cpus: 2 }\nsteps:\n  - run: wrk\n    \
             metrics: { requests: { pattern: '(\\d+)', unit: 1/s, better: higher } }\n",
        ),
    ];
    Library::load(files.map(|(path, text)| (PathBuf::from(path), text.to_owned()))).unwrap()
}

/// Every case with its answer, to be read side by side.
fn answers(cases: &[(&str, &str)], load: impl Fn(&str) -> Result<String, String>) -> String {
    let mut text = String::new();
    for (name, yaml) in cases {
        let answer = match load(yaml) {
            Ok(value) => panic!("{name} was accepted: {value}"),
            Err(answer) => answer,
        };
        writeln!(text, "=== {name}\n{answer}\n").unwrap();
    }
    text
}

const HEAD: &str = "kind: subsystem\nsummary: s\n";

#[test]
fn scenarios() {
    let cases = [
        ("unknown key", "kind: subsystem\nsumary: s\nsteps: [{ run: 'true' }]\n"),
        (
            "unknown key in a measure step",
            "kind: subsystem\nsummary: s\nsteps:\n  - measure: pipe\n    bacth: 500\n",
        ),
        ("key without a near word", "kind: subsystem\nsummary: s\nsteps: [{ run: x }]\nzzz: 1\n"),
        ("missing keys", "guards: nothing\n"),
        ("wrong kind", "kind: perf\nsummary: s\nsteps: [{ run: x }]\n"),
        ("kind of another directory", "kind: integration\nsummary: s\nsteps: [{ run: x }]\n"),
        ("not YAML", "kind: subsystem\nsummary: 'open\nsteps: []\n"),
        ("bad indentation", "kind: subsystem\n  summary: s\nsteps: []\n"),
        ("tab", "kind: subsystem\nsteps:\n\t- run: x\n"),
        ("empty file", ""),
        ("only a comment", "# nothing\n"),
        ("a list", "- run: x\n"),
        ("just text", "hello\n"),
        (
            "two documents",
            "kind: subsystem\nsummary: s\nsteps: [{ run: x }]\n---\nkind: subsystem\n",
        ),
        ("anchor", "kind: subsystem\nsummary: &a s\nsteps: [{ run: *a }]\n"),
        ("tag", "kind: subsystem\nsummary: !!str s\nsteps: [{ run: x }]\n"),
        ("key twice", "kind: subsystem\nsummary: s\nsummary: t\nsteps: [{ run: x }]\n"),
        ("key that is a list", "kind: subsystem\n[a]: s\n"),
        ("no value", "kind: subsystem\nsummary:\nsteps: [{ run: x }]\n"),
        ("summary of two lines", "kind: subsystem\nsummary: |\n  a\n  b\nsteps: [{ run: x }]\n"),
        ("no steps", "kind: subsystem\nsummary: s\nsteps: []\n"),
        ("steps not a list", "kind: subsystem\nsummary: s\nsteps: { run: x }\n"),
        ("step that is text", "kind: subsystem\nsummary: s\nsteps: [make]\n"),
        (
            "step without a verb",
            "kind: subsystem\nsummary: s\nsteps:\n  - name: a\n    timeout: 1s\n",
        ),
        (
            "step with two verbs",
            "kind: subsystem\nsummary: s\nsteps:\n  - run: x\n    measure: pipe\n",
        ),
        ("empty command", "kind: subsystem\nsummary: s\nsteps:\n  - run: ' '\n"),
        (
            "keys of other verbs",
            "kind: subsystem\nsummary: s\nsteps:\n  - run: x\n    batch: 1\n    ready: { file: /x }\n  \
             - background: y\n    expect: { exit: 0 }\n    results: tap\n",
        ),
        (
            "unknown way to get a machine",
            "kind: subsystem\nsummary: s\nboot: warn\nsteps: [{ run: x }]\n",
        ),
        ("unknown operation", "kind: subsystem\nsummary: s\nsteps: [{ measure: tcp-conect }]\n"),
        (
            "batch out of range",
            "kind: subsystem\nsummary: s\nsteps: [{ measure: tcp-connect, batch: 5000, batches: 0 }]\n",
        ),
        (
            "batch no number",
            "kind: subsystem\nsummary: s\nsteps: [{ measure: pipe, batch: many }]\n",
        ),
        (
            "duration without unit",
            "kind: subsystem\nsummary: s\ntimeout: 30\nsteps: [{ run: x }]\n",
        ),
        ("duration of words", "kind: subsystem\nsummary: s\ntimeout: soon\nsteps: [{ run: x }]\n"),
        (
            "duration of another unit",
            "kind: subsystem\nsummary: s\ntimeout: 5min\nsteps: [{ run: x }]\n",
        ),
        ("duration of nothing", "kind: subsystem\nsummary: s\ntimeout: 0s\nsteps: [{ run: x }]\n"),
        (
            "duration without end",
            "kind: subsystem\nsummary: s\ntimeout: 9999h\nsteps: [{ run: x }]\n",
        ),
        (
            "step's limit over the trial's",
            "kind: subsystem\nsummary: s\ntimeout: 5s\nsteps:\n  - run: x\n    timeout: 10s\n",
        ),
        (
            "bad regular expressions",
            "kind: subsystem\nsummary: s\nsteps:\n  - run: x\n    expect:\n      stdout: 'a('\n      \
             stderr: ['ok', '*']\n      not-stdout: ''\n",
        ),
        (
            "huge regular expression",
            "kind: subsystem\nsummary: s\nkernel-log: { allow: ['(a{1000}){1000}'] }\nsteps: [{ run: x }]\n",
        ),
        (
            "bad metrics",
            "kind: subsystem\nsummary: s\nsteps:\n  - run: x\n    metrics:\n      \
             'a b': { pattern: '(\\d+)', unit: 1/s, better: higher }\n      \
             rate: { pattern: '(\\d+) of (\\d+)', unit: req/s, better: more }\n      \
             none: { pattern: '\\d+', unit: ms }\n",
        ),
        (
            "metric twice",
            "kind: subsystem\nsummary: s\nsteps:\n  - measure: pipe\n  - name: again\n    measure: pipe\n",
        ),
        (
            "step's name twice",
            "kind: subsystem\nsummary: s\nsteps:\n  - { name: a, run: x }\n  - { name: a, run: y }\n",
        ),
        (
            "bad exit statuses",
            "kind: subsystem\nsummary: s\nsteps:\n  - run: x\n    expect: { exit: 300 }\n  - run: y\n    \
             expect: { exit: [0, any] }\n  - run: z\n    expect: { exit: [] }\n",
        ),
        (
            "bad readiness",
            "kind: subsystem\nsummary: s\nsteps:\n  - background: x\n    ready: { tcp: 80, file: x }\n  \
             - background: y\n    ready: { tcp: 'localhost:80' }\n  - background: z\n    \
             ready: { tcp: '127.0.0.1:80', output: up }\n",
        ),
        (
            "bad write",
            "kind: subsystem\nsummary: s\nsteps:\n  - write: { path: etc/x }\n  \
             - write: { path: /a/../b, text: x }\n    expect: { stdout: y }\n",
        ),
        (
            "bad sysctls",
            "kind: subsystem\nsummary: s\nrequires: { sysctls: [somaxconn] }\nsteps:\n  - sysctl: {}\n  \
             - sysctl: { 'net core': 1 }\n",
        ),
        (
            "bad requirements",
            "kind: subsystem\nsummary: s\nrequires:\n  modules: [veth, veth, 'nf nat']\n  \
             config: [CONFIG_TLS, tls, HZ=]\n  memory: 512M\n  cpus: 0\n  files: [proc]\nsteps: [{ run: x }]\n",
        ),
        (
            "bad limits",
            "kind: subsystem\nsummary: s\nsteps:\n  - run: x\n    \
             limits: { memory: lots, processes: 0, files: -1, cpu-time: 1d }\n",
        ),
        (
            "bad switches",
            "kind: subsystem\nsummary: s\nnetwork: yes\nboots: 0\nimage: Base Image\nsteps: [{ run: x }]\n",
        ),
        (
            "map for a list",
            "kind: subsystem\nsummary: s\nrequires: { modules: { a: b } }\nsteps: [{ run: x }]\n",
        ),
        (
            "text for a list",
            "kind: subsystem\nsummary: s\nrequires: { modules: veth }\nsteps: [{ run: x }]\n",
        ),
        ("list for text", "kind: subsystem\nsummary: [s]\nsteps: [{ run: [ls, -l] }]\n"),
        (
            "text for a map",
            "kind: subsystem\nsummary: s\nrequires: root\nsteps: [{ run: x, expect: ok }]\n",
        ),
        ("bad variable", "kind: subsystem\nsummary: s\nsteps: [{ run: x, env: { 1X: y } }]\n"),
        (
            "byte order mark and CRLF",
            "\u{feff}kind: subsystem\r\nsumary: s\r\nsteps: [{ run: x }]\r\n",
        ),
    ];
    let load = |text: &str| {
        let file = (PathBuf::from("scenarios/subsystem/x.yaml"), text.to_owned());
        Library::load([file]).map(|library| format!("{library:?}")).map_err(|e| e.to_string())
    };
    insta::assert_snapshot!(answers(&cases, load));
}

#[test]
fn paths_of_scenarios() {
    let cases = [
        ("scenarios/tcp.yaml", HEAD),
        ("scenarios/unit/tcp.yaml", HEAD),
        ("scenarios/subsystem/TCP.yaml", HEAD),
        ("scenarios/subsystem/tcp.yml", HEAD),
        ("scenarios/subsystem/../tcp.yaml", HEAD),
    ];
    let mut text = String::new();
    for (path, head) in cases {
        let file = (PathBuf::from(path), format!("{head}steps: [{{ run: x }}]\n"));
        writeln!(text, "{}\n", Library::load([file]).unwrap_err()).unwrap();
    }
    insta::assert_snapshot!(text);
}

#[test]
fn a_second_file_for_one_scenario() {
    let file = |path: &str| (PathBuf::from(path), format!("{HEAD}steps: [{{ run: x }}]\n"));
    let files = [file("scenarios/subsystem/x.yaml"), file("mine/scenarios/subsystem/x.yaml")];
    insta::assert_snapshot!(Library::load(files).unwrap_err());
}

#[test]
fn warm_measurements() {
    let text = "kind: performance\nsummary: s\nboot: warm\nsteps: [{ measure: pipe }]\n".to_owned();
    let files = [(PathBuf::from("scenarios/performance/x.yaml"), text)];
    insta::assert_snapshot!(Library::load(files).unwrap_err());
}

#[test]
fn nothing_measured() {
    let text = "kind: performance\nsummary: s\nsteps: [{ run: x }]\n".to_owned();
    let files = [(PathBuf::from("scenarios/performance/x.yaml"), text)];
    insta::assert_snapshot!(Library::load(files).unwrap_err());
}

#[test]
fn an_exact_scenario_has_nothing_from_outside() {
    let text = "kind: performance\nsummary: s\nboot: exact\nnetwork: true\nsteps:\n  \
        - background: nginx\n  - run: x\n    expect: { files: { /a: absent }, kernel-log: [a] }\n  \
        - run: y\n    results: tap\n  - measure: pipe\n"
        .to_owned();
    let files = [(PathBuf::from("scenarios/performance/x.yaml"), text)];
    insta::assert_snapshot!(Library::load(files).unwrap_err());
    let text = "kind: subsystem\nsummary: s\nboot: exact\nsteps: [{ run: x }]\n".to_owned();
    let files = [(PathBuf::from("scenarios/subsystem/x.yaml"), text)];
    insta::assert_snapshot!(Library::load(files).unwrap_err());
}

#[test]
fn workloads() {
    let cases = [
        ("missing keys", "machine: { cpus: 1 }\n"),
        ("unknown key", "summary: s\nscenario: [performance/*]\n"),
        ("no scenarios", "summary: s\nscenarios: []\n"),
        ("unknown scenario", "summary: s\nscenarios: [performance/tcp-conect]\n"),
        (
            "glob without a match",
            "summary: s\nscenarios:\n  - subsystem/net/*\n  - performance/*\n",
        ),
        ("bad glob", "summary: s\nscenarios: ['tcp connect']\n"),
        (
            "two globs in one item",
            "summary: s\nscenarios:\n  - performance/*: { fail: 3% }\n    integration/*: { fail: 3% }\n",
        ),
        ("item that is a list", "summary: s\nscenarios: [[performance/*]]\n"),
        (
            "bad overrides",
            "summary: s\nscenarios:\n  - performance/*: { fail: 3, warn: 5pct, boots: 0, tolerance: 1% }\n",
        ),
        ("fail below warn", "summary: s\nscenarios:\n  - performance/*: { warn: 3%, fail: 1% }\n"),
        ("override without a value", "summary: s\nscenarios:\n  - performance/*:\n"),
        (
            "bad machine",
            "summary: s\nmachine: { cpus: 0, memory: 16MiB, kernel-args: ['a b'], cpu: max }\n\
             scenarios: [performance/*]\n",
        ),
        (
            "arguments as text",
            "summary: s\nmachine:\n  candidate: { kernel-args: mitigations=off }\nscenarios: [performance/*]\n",
        ),
        ("more CPUs needed", "summary: s\nscenarios: [integration/*]\n"),
        (
            "lab hosts",
            "summary: s\nscenarios: [performance/*]\nlab: { hosts: [a b, edge, edge], host: x, \
             scenarios: [performance/tcp-conect] }\n",
        ),
        (
            "unknown metric",
            "summary: s\nscenarios: [performance/*]\npolicy:\n  metrics:\n    tcp-conect: { fail: 3% }\n    \
             requests: { fail: 2% }\n    performance/tcp-connect/*: { warn: 2% }\n",
        ),
    ];
    let library = library();
    let load = |text: &str| {
        Workload::load(Path::new("workloads/profiles/edge.yaml"), text, &library)
            .map(|workload| format!("{workload:?}"))
            .map_err(|e| e.to_string())
    };
    insta::assert_snapshot!(answers(&cases, load));
}

#[test]
fn policies() {
    let cases = [
        ("unknown keys", "boot: 3\nretries: 2\n"),
        ("bad words", "new-warning: fail\nflaky: never\non-finding: stop\n"),
        (
            "bad limits",
            "performance: { warn: 6% }\nmemory: { warn: 9MiB, fail: 1MiB }\nboots: 100000\n",
        ),
        ("bad sizes", "memory: { warn: 9, fail: 10 percent }\nperformance: { fail: 2000% }\n"),
        ("bad deadlines", "timeouts: { boot: 10m, run: 5m, hang: 1 second }\n"),
        (
            "bad exact mode",
            "exact:\n  templates: 1\n  clones: 1000\n  t: four\n  path: { warn: 6% }\n  mean: \
             { warn: 1%, fail: 0.5% }\n  metrics: { pipe: 1%, 'a[': {}, getppid: { min: {} } }\n",
        ),
        ("bad tails", "tails: { warn: 60% }\nexact: 5\n"),
        ("bad rule", "metrics:\n  requests: 5%\n  p99: { fail: 0.5% }\n"),
    ];
    let load = |text: &str| {
        Policy::load(Path::new("policy.yaml"), text, &[])
            .map(|policy| format!("{policy:?}"))
            .map_err(|e| e.to_string())
    };
    insta::assert_snapshot!(answers(&cases, load));
}

#[test]
fn waivers() {
    const REST: &str = "reason: r\n  owner: o\n  expires: 2027-01-31\n";
    let with = |scope: &str| format!("- id: a\n  scope: {scope}\n  {REST}");
    let cases = [
        ("missing keys", "- id: a\n".to_owned()),
        ("not a list", "id: a\n".to_owned()),
        ("scope of everything", with("{}")),
        ("scope of a release", with("{ release: 6.1.* }")),
        ("subtest alone", with("{ subtest: a, metric: b }")),
        ("unknown scope", with("{ scenerio: subsystem/* }")),
        ("bad finding", with("{ finding: 'WARNING in (tcp' }")),
        ("id twice", with("{ metric: a }").repeat(2)),
        ("bad date", with("{ metric: a }").replace("2027-01-31", "2027-02-30")),
        ("date with a time", with("{ metric: a }").replace("2027-01-31", "2027-01-31T00:00")),
        ("bad id", with("{ metric: a }").replace("id: a", "id: 'A b'")),
    ];
    let cases: Vec<(&str, &str)> =
        cases.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let load = |text: &str| {
        Waivers::load(Path::new("waivers.yaml"), text)
            .map(|waivers| format!("{waivers:?}"))
            .map_err(|e| e.to_string())
    };
    insta::assert_snapshot!(answers(&cases, load));
}

/// A file with most of what the grammar has.
const FULL: &str = "kind: integration\nsummary: s\nrequires: { modules: [veth], config: [TLS, HZ=250], \
    memory: 1GiB }\ntimeout: 1m\nsteps:\n  - run: |\n      a\n      b\n    expect: { exit: [0, 4], \
    stdout: ['a', 'b'] }\n  - background: x\n    ready: { tcp: '127.0.0.1:80', within: 3s }\n  \
    - measure: pipe\n    batch: 5\n  - write: { path: /x, text: 'é' }\n";

fn load_any(text: &str) {
    let file = |text: &str| (PathBuf::from("scenarios/integration/x.yaml"), text.to_owned());
    if let Err(mistakes) = Library::load([file(text)]) {
        assert!(!mistakes.0.is_empty());
        let _ = mistakes.to_string();
    }
    if let Err(mistakes) = Waivers::load(Path::new("w.yaml"), text) {
        assert!(!mistakes.0.is_empty());
    }
}

#[test]
fn the_full_file_is_right() {
    let file = (PathBuf::from("scenarios/integration/x.yaml"), FULL.to_owned());
    Library::load([file]).unwrap();
}

#[test]
fn depth_and_size_are_bounded() {
    for text in [
        "[".repeat(100_000),
        "{a: ".repeat(50_000),
        "- ".repeat(50_000),
        (0..5000).map(|depth| format!("{:depth$}a:\n", "")).collect(),
        "a".repeat(2 << 20),
        "kind: x\nsteps:\n".to_owned() + &"  - { bad: 1 }\n".repeat(30_000),
    ] {
        load_any(&text);
    }
}

proptest::proptest! {
    #[test]
    fn no_text_panics_or_is_refused_without_a_reason(text in proptest::prelude::any::<String>()) {
        load_any(&text);
    }

    #[test]
    fn no_damage_panics(
        at in 0..FULL.chars().count(),
        drop in 0..4_usize,
        put in "[\\[\\]{}:'\"|>#&*!%@`, \t\n\\-a-z0-9é]{0,3}",
    ) {
        let text: String = FULL
            .chars()
            .take(at)
            .chain(put.chars())
            .chain(FULL.chars().skip(at + drop))
            .collect();
        load_any(&text);
    }
}
