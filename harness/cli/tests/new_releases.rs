//! `kgate gate` over the releases that apt offers, with real boots and a kill in the middle. Names have
//! `boots` in them, by which nextest knows what keeps a core busy.

#[expect(dead_code, reason = "shared with the other tests of real guests")]
mod bench;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use bench::{Bench, is_qemu, wait_until};
use kgate_kernel::apt::{self, AptKernel};
use kgate_kernel::{Reference, Resolver};
use kgate_testkit::host::TestHost;
use kgate_testkit::kernels;
use rustix::process::Signal;
use serde_json::Value;

/// Set to gate all releases that apt offers of the branch, and not only the first of them.
const ALL: &str = "KGATE_TEST_ALL_RELEASES";
/// Releases that are looked at otherwise: what is in production and what comes after it.
const FEW: usize = 3;

/// Kernels of the branch of which apt offers most, one of each release, the oldest first.
fn branch() -> Option<Vec<AptKernel>> {
    let kernels = match apt::kernels(&TestHost, "cloud-amd64") {
        Ok(kernels) => kernels,
        Err(error) => {
            println!("SKIP: no kernels from apt: {error}");
            return None;
        }
    };
    let mut branches: BTreeMap<String, Vec<AptKernel>> = BTreeMap::new();
    for kernel in kernels {
        let branch = branches.entry(kernel.branch()).or_default();
        if branch.last().is_none_or(|last| last.upstream != kernel.upstream) {
            branch.push(kernel);
        }
    }
    let mut most = branches.into_values().max_by_key(Vec::len)?;
    if std::env::var_os(ALL).is_none() {
        most.truncate(FEW);
    }
    if most.len() < 2 {
        println!("SKIP: apt offers no two releases of one branch");
        return None;
    }
    Some(most)
}

/// The package's file.
fn deb(kernel: &AptKernel) -> PathBuf {
    let resolver = Resolver { cache_dir: kernels::cache_dir(), host: &TestHost };
    resolver.resolve(&Reference::parse(&kernel.reference()).unwrap()).unwrap();
    let file = format!("{}_{}_amd64.deb", kernel.package, kernel.version.replace(':', "%3a"));
    kernels::cache_dir().join("apt").join(file)
}

#[test]
fn each_release_boots_once_though_the_job_is_killed() {
    let Some(bench) = Bench::new(&[("quick", "true"), ("slow", "sleep 2")]) else { return };
    bench.workload(&["quick", "slow"], "", "");
    let Some(releases) = branch() else { return };
    fs::create_dir(bench.path("kernels")).unwrap();
    for kernel in &releases {
        let deb = deb(kernel);
        symlink(&deb, bench.path("kernels").join(deb.file_name().unwrap())).unwrap();
    }
    let (production, new) = releases.split_first().unwrap();
    let production = production.reference();
    let gating = ["--production", &production, "--workload", "test", "--library", "library"];
    let gating = [&gating[..], &["--feed", "kernels"]].concat();
    let gate =
        [
            &[
                "gate",
                "--state",
                "state",
                "--dir",
                "runs",
                "--accel",
                "tcg",
                "--junit",
                "report.xml",
            ][..],
            &gating,
        ]
        .concat();
    let list = |format: &str| {
        let new =
            [&["releases", "new", "--since", "state", "--format", format][..], &gating].concat();
        let done = bench.spawn(bench.kgate(&new)).wait();
        assert_eq!(done.code, 0, "{done}");
        String::from_utf8(done.stdout.clone()).unwrap()
    };

    let before: Value = serde_json::from_str(&list("matrix")).unwrap();
    let versions: Vec<_> = new.iter().map(|kernel| &*kernel.upstream).collect();
    let listed = before["include"].as_array().unwrap();
    let listed: Vec<_> = listed.iter().map(|one| one["version"].as_str().unwrap()).collect();
    assert_eq!(listed, versions);
    assert_eq!(before["include"][0]["tier"], "bugfix");

    // Killed in the middle of the first run.
    let first = format!("runs/{}", versions[0]);
    let log = bench.log(&first, "slow", "baseline-1-base");
    let mut running = bench.spawn(bench.kgate(&gate));
    running.wait_for_trial(&log);
    let guests = running.guests();
    running.signal(Signal::KILL);
    wait_until("kgate is gone", Duration::from_secs(1), || running.ended());
    wait_until("the guests are gone", Duration::from_secs(1), || {
        guests.iter().all(|&guest| !is_qemu(guest))
    });
    let journal = fs::read(bench.path(&format!("{first}/journal.jsonl"))).unwrap();

    let done = bench.spawn(bench.kgate(&gate)).wait();
    assert_eq!(done.code, 0, "{done}");
    let again = fs::read(bench.path(&format!("{first}/journal.jsonl"))).unwrap();
    assert!(again.starts_with(&journal[..journal.len() / 2]), "the run was begun anew");
    let state = fs::read_to_string(bench.path("state")).unwrap();
    let gated: Vec<Value> = state
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|entry: &Value| entry["event"]["what"] == "gated")
        .collect();
    let each: Vec<_> = gated.iter().map(|entry| entry["version"].as_str().unwrap()).collect();
    assert_eq!(each, versions, "{state}");
    assert!(gated.iter().all(|entry| entry["event"]["verdict"] == "promote"), "{state}");
    let runs = fs::read_dir(bench.path("runs")).unwrap();
    let runs = runs.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let runs: BTreeSet<_> = runs.filter(|name| !name.ends_with(".claim")).collect();
    assert_eq!(runs, versions.iter().map(|version| (*version).to_owned()).collect());
    for version in &versions {
        assert!(bench.path(&format!("report-{version}.xml")).is_file());
    }

    let idle = bench.spawn(bench.kgate(&gate)).wait();
    assert_eq!(idle.code, 0, "{idle}");
    let stdout = String::from_utf8_lossy(&idle.stdout).into_owned();
    assert!(stdout.contains("nothing to gate") && stdout.contains(versions[versions.len() - 1]));
    assert_eq!(fs::read_to_string(bench.path("state")).unwrap(), state);
    assert_eq!(list("matrix"), "{\"include\":[]}\n");

    // A job that is started again publishes the same.
    let only = [&gate[..], &["--only", versions[0]]].concat();
    let told = bench.spawn(bench.kgate(&only)).wait();
    assert_eq!(told.code, 0, "{told}");
    assert!(String::from_utf8_lossy(&told.stdout).contains("was gated on"), "{told}");
    assert!(bench.path("report.xml").is_file());
    assert_eq!(fs::read_to_string(bench.path("state")).unwrap(), state);
    bench.assert_no_temporary_files();
}
