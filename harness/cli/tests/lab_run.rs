//! One run over guests and stand-ins of lab hosts: one verdict, every boot where it was planned, and the
//! hosts back on production.

#[expect(dead_code, reason = "shared with the other tests of real guests")]
mod bench;

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use bench::{Bench, Running};
use kgate_testkit::lab::{Setup, StandIn, inventory};
use rustix::process::Signal;

/// Servers that are emulated on a busy machine take their time.
const LONGEST: Duration = Duration::from_secs(560);

/// A library whose `performance` scenario and one of `subsystem` run on hosts, and two hosts; `None` where
/// there can be no stand-ins.
fn lab(boots: u32) -> Option<(Bench, [StandIn; 2])> {
    let start = |name: &str| StandIn::start(Setup { name: name.into(), ..Setup::default() });
    let bench = Bench::new(&[("here", "true"), ("there", "test -d /proc/1 && uname -r")])?;
    let hosts = [start("east")?, start("west")?];
    fs::create_dir_all(bench.path("library/scenarios/performance")).unwrap();
    bench.write(
        "library/scenarios/performance/syscall.yaml",
        "kind: performance\nsummary: a test's\nsteps:\n  - measure: getppid\n    batch: 500\n    batches: 20\n",
    );
    bench.write(
        "library/workloads/profiles/test.yaml",
        &format!(
            "summary: a test's\nmachine: {{ memory: 256MiB, kernel-args: [no_timer_check] }}\nscenarios: [subsystem/*: {{ boots: 1 }}, \
             performance/syscall]\n\
             policy: {{ boots: {boots}, performance: {{ warn: 900%, fail: 900% }} }}\nlab: {{ scenarios: [subsystem/there, performance/*] }}\n"
        ),
    );
    let hosts_of: Vec<&StandIn> = hosts.iter().collect();
    bench.write("lab.yaml", &inventory(&hosts_of));
    Some((bench, hosts))
}

fn start(bench: &Bench, args: &[String]) -> Running {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut command = bench.kgate(&args);
    command.env("XDG_STATE_HOME", bench.path("state"));
    bench.spawn(command)
}

/// The candidate's kernel against itself.
fn equal(bench: &Bench, name: &str) -> Vec<String> {
    let kernel = bench.pair.candidate_deb.display().to_string();
    bench.run_args_of(&kernel, &kernel, name, &["--lab", "lab.yaml"])
}

fn assert_back(hosts: &[StandIn]) {
    for host in hosts {
        host.until_up(Duration::from_secs(60));
        let booted = host.booted().expect("it answers");
        assert!(!booted.command_line.contains("kgate.boot"), "{booted:?}");
        assert!(host.would_boot().is_production(), "{}", host.name());
    }
}

mod long {
    use super::*;

    #[test]
    fn guests_and_two_hosts_come_to_one_verdict() {
        let Some((bench, hosts)) = lab(3) else { return };
        let done = start(&bench, &equal(&bench, "both")).wait_within(LONGEST);
        println!("{done}");
        assert_back(&hosts);
        let results = bench.results("both", &done);
        results.assert_verdict(0, "promote");
        let boots = results.json["boots"].as_array().unwrap();
        let mut places: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for boot in boots {
            let place = boot["host"].as_str().unwrap_or("guests");
            places.entry(place).or_default().push(boot["role"].as_str().unwrap());
            assert_eq!(boot["attempts"], 1, "{boot}");
            assert_eq!(
                place != "guests",
                !boot["conditions"].as_array().unwrap().is_empty(),
                "{boot}"
            );
        }
        assert_eq!(places["east"], ["baseline", "candidate", "candidate", "baseline"]);
        assert_eq!(places["west"], ["baseline", "candidate"]);
        assert_eq!(places["guests"].len(), 2);
        let compared = &results.json["comparisons"][0];
        assert_eq!(compared["hosts"], serde_json::json!(["east", "west"]), "{compared}");
        assert_eq!(compared["boots"], serde_json::json!([3, 3]));
        for trial in results.json["trials"].as_array().unwrap() {
            assert_eq!(trial["outcome"], "passed", "{trial}");
        }
        for host in results.json["hosts"].as_array().unwrap() {
            assert_eq!((&host["back"], &host["uneven"]), (&true.into(), &().into()), "{host}");
        }
    }

    #[test]
    fn the_first_ctrl_c_brings_hosts_back_and_the_run_goes_on_later() {
        let Some((bench, hosts)) = lab(1) else { return };
        let mut args = equal(&bench, "left");
        // Nothing in guests: there need be no emulator.
        args.extend(["--qemu", "/nonexistent", "--lab-scenarios", "**"].map(str::to_owned));
        let mut run = start(&bench, &args);
        run.wait_for_trial(&bench.log("left", "there", "baseline-1-base+on-east"));
        run.signal(Signal::INT);
        let done = run.wait_within(LONGEST);
        println!("{done}");
        assert_eq!(done.code, 130);
        assert!(done.stderr.contains("bringing east"), "{done}");
        assert_back(&hosts);
        let mut args = bench.resume_args("left");
        args.extend(["--qemu", "/nonexistent"].map(str::to_owned));
        let done = start(&bench, &args).wait_within(LONGEST);
        println!("{done}");
        assert_eq!(done.code, 3, "one boot decides nothing about numbers");
        assert_back(&hosts);
    }
}
