//! Exact runs on real guests: that their paths repeat to the instruction, and they tell a known difference and where it
//! comes from, and that a kernel that dies in one is to blame and costs nothing else. Names have `boots`
//! in them, by which nextest knows what keeps a core busy.

#[expect(dead_code, reason = "shared with the other tests of real guests")]
mod bench;

use std::fs;

use bench::Bench;
use serde_json::Value;

/// One kernel twice, and a library of exact scenarios: a name and its steps each.
fn bench(scenarios: &[(&str, &str)], argument: &str) -> Option<Bench> {
    let bench = Bench::new(&[])?;
    fs::create_dir_all(bench.path("library/scenarios/performance")).expect("a directory");
    for (name, steps) in scenarios {
        let text = format!("kind: performance\nsummary: a test's\nboot: exact\nsteps:\n{steps}");
        bench.write(&format!("library/scenarios/performance/{name}.yaml"), &text);
    }
    let names: Vec<_> = scenarios.iter().map(|(name, _)| format!("performance/{name}")).collect();
    let text = format!(
        "summary: a test's\nmachine: {{ memory: 256MiB, candidate: {{ kernel-args: [{argument}] }} }}\n\
         scenarios: [{}]\npolicy: {{ exact: {{ templates: 2, clones: 2 }} }}\n",
        names.join(", ")
    );
    bench.write("library/workloads/profiles/test.yaml", &text);
    Some(bench)
}

/// Arguments of a run of the candidate's kernel against itself.
fn against_itself(bench: &Bench, name: &str) -> Vec<String> {
    let kernel = bench.pair.candidate_deb.display().to_string();
    bench.run_args_of(&kernel, &kernel, name, &[])
}

/// The path of everything that a run measured, by trial and metric.
fn measured(bench: &Bench, name: &str) -> Vec<(String, f64)> {
    let journal =
        fs::read_to_string(bench.path(&format!("{name}/journal.jsonl"))).expect("a journal");
    let entries = journal.lines().map(|line| serde_json::from_str(line).expect("an entry"));
    let least = |event: &Value| {
        let samples = &event["samples"];
        let values = samples["values"].as_array().expect("a list");
        let least = values.iter().filter_map(Value::as_f64).fold(f64::INFINITY, f64::min);
        (format!("{} {}", event["trial"], samples["metric"]), least)
    };
    let mut measured: Vec<(String, f64)> = entries
        .map(|entry: Value| entry["event"].clone())
        .filter(|event| event["event"] == "measured")
        .map(|event| least(&event))
        .collect();
    measured.sort_by(|a, b| a.0.cmp(&b.0));
    measured
}

#[test]
fn exact_boots_repeat_and_tell_where_a_known_difference_comes_from() {
    let scenarios = [
        ("syscall", "  - measure: getppid\n    batch: 500\n    batches: 20\n"),
        ("pipe", "  - run: test -d /proc/1\n  - measure: pipe\n    batch: 100\n    batches: 20\n"),
    ];
    let Some(bench) = bench(&scenarios, "randomize_kstack_offset=off") else { return };
    let done = bench.start(&against_itself(&bench, "one")).wait();
    let results = bench.results("one", &done);
    results.assert_verdict(0, "promote");
    let compared = results.json["comparisons"].as_array().expect("a list").clone();
    let path = |metric: &str| {
        let of = |c: &&Value| c["metric"] == metric && c["statistic"] == "path";
        compared.iter().find(of).unwrap_or_else(|| panic!("no {metric}: {compared:#?}")).clone()
    };
    let getppid = path("getppid");
    assert_eq!(getppid["decision"], "better", "{getppid:#}");
    let change = getppid["change"].as_f64().expect("a number");
    assert!((-0.08..-0.01).contains(&change), "{getppid:#}");

    // The same kernels, the same seed, other processes: the same path. Where the timer's interrupts fall
    // may differ, because QEMU may move a clock on while it stops a template.
    bench.start(&against_itself(&bench, "two")).wait();
    let first = measured(&bench, "one");
    // Two scenarios in two clones of two templates of two kernels.
    assert_eq!(first.len(), 16);
    assert_eq!(first, measured(&bench, "two"));

    let explained = bench.kgate(&["explain", "one", "getppid", "--library", "library"]);
    let done = bench.spawn(explained).wait();
    assert_eq!(done.code, 0, "{done}");
    let place = bench.path("one/explain/performance/syscall");
    let table = fs::read_to_string(place.join("getppid.txt")).expect("a table");
    let row = table
        .lines()
        .find(|line| line.contains("do_syscall_64"))
        .unwrap_or_else(|| panic!("{table}"));
    assert!(row.trim_start().starts_with('-'), "{row}");
    let svg = fs::read_to_string(place.join("getppid.svg")).expect("a flame graph");
    assert!(svg.starts_with("<?xml") && svg.contains("do_syscall_64"));
    let reached = fs::read_to_string(place.join("getppid.candidate.reached.txt")).expect("a list");
    assert!(reached.lines().any(|line| line == "__x64_sys_getppid"), "{reached}");
    bench.assert_no_temporary_files();
}

#[test]
fn a_panic_in_exact_boots_is_the_kernels_and_the_rest_is_measured() {
    let crash = "  - run: grep -q kgate.seed /proc/cmdline && echo c > /proc/sysrq-trigger; true\n  \
                 - measure: eventfd\n    batch: 100\n    batches: 20\n";
    let scenarios = [
        ("before", "  - measure: getppid\n    batch: 100\n    batches: 20\n"),
        ("crash", crash),
        ("after", "  - measure: pipe\n    batch: 100\n    batches: 20\n"),
    ];
    let Some(bench) = bench(&scenarios, "kgate.seed") else { return };
    let done = bench.start(&against_itself(&bench, "run")).wait();
    let results = bench.results("run", &done);
    results.assert_verdict(1, "reject");
    assert!(done.to_string().contains("sysrq triggered crash"), "{done}");
    // Of three scenarios in two clones of two templates of each kernel, all but the candidate's crashes.
    assert_eq!(measured(&bench, "run").len(), 24 - 4);
    bench.assert_no_temporary_files();
}
