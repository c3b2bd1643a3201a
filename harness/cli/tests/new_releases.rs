//! `kgate gate` over the releases that apt offers, with real boots and a kill in the middle. Names have
//! `boots` in them, by which nextest knows what keeps a core busy.

#[expect(dead_code, reason = "shared with the other tests of real guests")]
mod bench;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use bench::{Bench, is_qemu, wait_until};
use kgate_kernel::apt::{self, AptKernel};
use kgate_kernel::{Reference, Resolver};
use kgate_testkit::host::TestHost;
use kgate_testkit::kernels;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Set to gate all releases that apt offers of the branch, and not only the first of them.
const ALL: &str = "KGATE_TEST_ALL_RELEASES";
/// Releases that are looked at otherwise: what is in production and what comes after it.
const FEW: usize = 3;

/// Kernels of the branch of which apt offers most, one of each release, the oldest first.
fn branch() -> Result<Vec<AptKernel>, String> {
    let kernels = apt::kernels(&TestHost, "cloud-amd64")
        .map_err(|error| format!("no kernels from apt: {error}"))?;
    let mut branches: BTreeMap<String, Vec<AptKernel>> = BTreeMap::new();
    for kernel in kernels {
        let branch = branches.entry(kernel.branch()).or_default();
        if branch.last().is_none_or(|last| last.upstream != kernel.upstream) {
            branch.push(kernel);
        }
    }
    let mut most = branches.into_values().max_by_key(Vec::len).unwrap_or_default();
    if std::env::var_os(ALL).is_none() {
        most.truncate(FEW);
    }
    if most.len() < 2 {
        return Err("apt offers no two releases of one branch".to_owned());
    }
    Ok(most)
}

/// The package's file.
fn deb(kernel: &AptKernel) -> PathBuf {
    let resolver = Resolver { cache_dir: kernels::cache_dir(), host: &TestHost };
    resolver.resolve(&Reference::parse(&kernel.reference()).unwrap()).unwrap();
    let file = format!("{}_{}_amd64.deb", kernel.package, kernel.version.replace(':', "%3a"));
    kernels::cache_dir().join("apt").join(file)
}

/// What `kgate releases new` prints where tags tell what there is and nothing offers a kernel.
fn listed(tags: &str, state: &str, more: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tags"), tags).unwrap();
    fs::write(dir.path().join("state"), state).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_kgate"))
        .args(["--today", "2026-05-18", "releases", "new", "--since", "state", "--feed", "tags"])
        .args(more)
        .current_dir(dir.path())
        .env("KGATE_CACHE", dir.path().join("cache"))
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8(text).unwrap()
}

#[test]
fn what_is_out_and_not_to_be_had_is_named() {
    let tags =
        "v6.1.170\t2026-04-30\nv6.1.171\t2026-05-08\nv6.1.173\t2026-05-15\nv6.1.174\t2026-05-23\n";
    let production = ["--production", "6.1.170-3"];
    insta::assert_snapshot!(listed(tags, "", &production), @r"
    nothing to gate: no release after 6.1.170, in production, is open; nothing was gated before
    6.1.171 came out 10 days ago; no feed offers a kernel of it yet
    6.1.173 came out 3 days ago; no feed offers a kernel of it yet
    ");
    let gated = r#"{"format":"kgate-gate/1","at":"2026-05-09T01:00:00Z","line":{"workload":"smoke","track":"6.1"},"version":"6.1.171","event":{"what":"gated","by":"a","verdict":"promote","on":"2026-05-09","dir":"6.1.171","production":"6.1.170","tier":"bugfix"}}"#;
    let cut = format!("{gated}\n{}", &gated[..40]);
    insta::assert_snapshot!(listed(tags, &cut, &[]), @r"
    nothing to gate: no release after 6.1.170, in production, is open; 6.1.171 was gated last, on 2026-05-09: promote
    6.1.173 came out 3 days ago; no feed offers a kernel of it yet
    ");
    let json: Value = serde_json::from_str(&listed(tags, &cut, &["--format", "json"])).unwrap();
    assert_eq!(json["schema"], "kgate-new/1");
    assert_eq!(json["not_offered"][0]["released"], "2026-05-15");
    assert_eq!(json["last"]["verdict"], "promote");
    insta::assert_snapshot!(listed(tags, "", &["--format", "matrix"]), @r"
    kgate: nothing was gated yet for the workload `smoke`
      hint: say what is in production: --production KERNEL
    ");
}

#[test]
fn each_release_boots_once_though_the_job_is_killed() {
    let Some(bench) = Bench::new(&[("quick", "true"), ("slow", "sleep 2")]) else { return };
    bench.workload(&["quick", "slow"], "", "");
    let releases = match branch() {
        Ok(releases) => releases,
        Err(why) => {
            println!("SKIP: {why}");
            return;
        }
    };
    fs::create_dir(bench.path("kernels")).unwrap();
    for kernel in &releases {
        let deb = deb(kernel);
        symlink(&deb, bench.path("kernels").join(deb.file_name().unwrap())).unwrap();
    }
    let (production, new) = releases.split_first().unwrap();
    let production = production.reference();
    let gating = ["--production", &production, "--workload", "test", "--library", "library"];
    let gating = [&gating[..], &["--feed", "kernels"]].concat();
    let gate = ["gate", "--state", "state", "--dir", "runs", "--accel", "tcg"];
    let reports = ["--junit", "report.xml", "--markdown", "report.md"];
    let gate = [&gate[..], &reports, &gating].concat();
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
        let page = fs::read_to_string(bench.path(&format!("report-{version}.md"))).unwrap();
        assert!(page.contains("bugfix tier"), "{page}");
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

/// What every pipeline calls, with the program itself.
#[test]
fn ci_gate_boots_what_is_new_and_leaves_its_reports() {
    let Some(bench) = Bench::new(&[("quick", "true")]) else { return };
    bench.workload(&["quick"], "", "");
    let releases = match branch() {
        Ok(releases) => releases,
        Err(why) => {
            println!("SKIP: {why}");
            return;
        }
    };
    let [production, new] = &releases[..2] else { return };
    fs::create_dir(bench.path("kernels")).unwrap();
    let deb = deb(new);
    symlink(&deb, bench.path("kernels").join(deb.file_name().unwrap())).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../ci/gate");
    let gate = |args: &[&str]| {
        // What `bench` puts around kgate, around the script.
        let surroundings = bench.kgate(&[]);
        let mut command = Command::new(script);
        command.args(args).current_dir(bench.path(".")).env_clear();
        let set = surroundings.get_envs().filter_map(|(name, value)| Some((name, value?)));
        command.envs(set).env("KGATE", env!("CARGO_BIN_EXE_kgate")).env("KGATE_WORKLOAD", "test");
        command.env("KGATE_PRODUCTION", production.reference());
        command.env("KGATE_OPTIONS", "--feed kernels --library library");
        let output = command.output().unwrap();
        let said = [&output.stdout[..], &output.stderr]
            .map(|text| String::from_utf8_lossy(text).into_owned());
        (output.status.code(), said)
    };
    let version = &*new.upstream;
    assert_eq!(gate(&["new"]), (Some(0), [format!("{version}\n"), String::new()]));
    let (code, [_, said]) = gate(&["all", "--accel", "tcg"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.ends_with(&format!("ci/gate: {version}: promote\n")), "{said}");
    let out = bench.path("kgate-out").join(version);
    let page = format!("run/{version}/report.html");
    for name in ["junit.xml", "results.json", "summary.md", "annotations.txt", &page] {
        assert!(out.join(name).is_file(), "{name}");
    }
    let nothing = "ci/gate: no release is new\n".to_owned();
    assert_eq!(gate(&["all"]), (Some(0), [String::new(), nothing]));
    assert_eq!(gate(&["run", "6.x"]).0, Some(2));
}

#[test]
fn a_second_signal_ends_what_prepares() {
    let dir = tempfile::tempdir().unwrap();
    let apt = "#!/bin/sh\ntouch asked\nsleep 60\n";
    for name in ["apt-cache", "apt-get"] {
        fs::write(dir.path().join(name), apt).unwrap();
        fs::set_permissions(dir.path().join(name), PermissionsExt::from_mode(0o755)).unwrap();
    }
    let path = std::env::var_os("PATH").unwrap();
    let path = std::env::join_paths(
        [dir.path().to_owned()].into_iter().chain(std::env::split_paths(&path)),
    );
    let mut kgate = Command::new(env!("CARGO_BIN_EXE_kgate"))
        .args(["gate", "--production", "apt:linux-image-a", "--state", "state", "--cache", "cache"])
        .current_dir(dir.path())
        .env("PATH", path.unwrap())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let asked = dir.path().join("asked");
    wait_until("apt is asked", Duration::from_secs(30), || asked.exists());
    let pid = Pid::from_child(&kgate);
    kill_process(pid, Signal::INT).unwrap();
    let mut said = BufReader::new(kgate.stderr.take().unwrap()).lines();
    let first = said.next().unwrap().unwrap();
    assert!(first.ends_with("at once with a second Ctrl-C"), "{first}");
    kill_process(pid, Signal::INT).unwrap();
    assert_eq!(kgate.wait().unwrap().code(), Some(130));
    assert!(!dir.path().join("state").exists());
}
