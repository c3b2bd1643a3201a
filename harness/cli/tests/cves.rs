//! `kgate releases cves` on records in real git repositories, as a person and a CI job use it.

mod support;

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{kgate, run};
use tempfile::TempDir;

const DAYS: &str = "6.1.5\t2030-03-01\n6.1.8\t2030-04-20\n6.2\t2030-02-20\n6.2.3\t2030-04-28\n";

/// What `git` says in `dir`.
fn git(dir: &Path, line: &str) -> String {
    let name = ["user.name=A", "user.email=a@example.org", "init.defaultBranch=trunk"];
    let mut command = Command::new("git");
    command.current_dir(dir).args(name.iter().flat_map(|set| ["-c", set]));
    command.args(line.split_whitespace()).env("GIT_CONFIG_GLOBAL", "/dev/null");
    for date in ["GIT_COMMITTER_DATE", "GIT_AUTHOR_DATE"] {
        command.env(date, "2030-05-01T12:00:00Z");
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A record of something that was affected from `from` on until `fixed` releases.
fn record(
    id: &str,
    title: &str,
    file: &str,
    score: Option<f64>,
    from: &str,
    fixed: &[&str],
) -> Value {
    let mut versions = vec![json!({ "version": from, "status": "affected" })];
    versions.push(json!({ "version": "0", "lessThan": from, "status": "unaffected", "versionType": "semver" }));
    for release in fixed {
        let end = match release.split('.').count() {
            3 => format!("{}.*", release.rsplit_once('.').unwrap().0),
            _ => "*".to_owned(),
        };
        versions.push(json!({ "version": release, "lessThanOrEqual": end, "status": "unaffected", "versionType": "semver" }));
    }
    let metrics = score.map_or(
        json!([]),
        |score| json!([{ "cvssV3_1": { "baseScore": score, "vectorString": "CVSS:3.1/AV:N" } }]),
    );
    json!({
        "cveMetadata": { "cveId": id, "state": "PUBLISHED" },
        "containers": { "cna": {
            "title": title,
            "metrics": metrics,
            "affected": [{
                "product": "Linux", "defaultStatus": "affected",
                "programFiles": [file], "versions": versions,
            }],
        } },
    })
}

fn put(dir: &Path, path: &str, text: &str) {
    let path = dir.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn put_record(dir: &Path, record: &Value) {
    let id = record["cveMetadata"]["cveId"].as_str().unwrap();
    let year = &id[4..8];
    put(dir, &format!("cve/published/{year}/{id}.json"), &record.to_string());
}

/// A directory with a repository `vulns` like the CNA's, days of releases and nothing in the cache.
fn directory() -> TempDir {
    let dir = TempDir::new().unwrap();
    let vulns = dir.path().join("vulns");
    fs::create_dir(&vulns).unwrap();
    let hostile = "x86: \u{1b}[31mred\u{202e}\nline";
    for one in [
        record(
            "CVE-2030-1001",
            "tcp: mend it",
            "net/ipv4/tcp.c",
            Some(9.8),
            "5.10",
            &["6.1.5", "6.2"],
        ),
        record(
            "CVE-2030-1002",
            "xfs: mend it",
            "fs/xfs/xfs_buf.c",
            Some(7.1),
            "5.10",
            &["6.1.8", "6.2.3", "6.3"],
        ),
        record("CVE-2030-1003", hostile, "arch/x86/mm/init.c", None, "5.10", &["6.1.5", "6.2"]),
        record(
            "CVE-2030-1004",
            "arm64: mend it",
            "arch/arm64/mm/init.c",
            None,
            "5.10",
            &["6.1.5", "6.2"],
        ),
        record("CVE-2030-1005", "net: worse", "net/core/dev.c", Some(5.0), "6.1.6", &["6.2"]),
        record("CVE-2030-1006", "net: open", "net/core/sock.c", None, "5.10", &["6.3"]),
    ] {
        put_record(&vulns, &one);
    }
    put(&vulns, "cve/published/2030/CVE-2030-1001.dyad", "# not a record");
    put(&vulns, "cve/rejected/2030/CVE-2030-9999.json", "{}");
    put(&vulns, "cve/published/2030/CVE-2030-7777.json", "{\"cveMetadata\": {");
    put(dir.path(), "days.txt", DAYS);
    git(&vulns, "init -q");
    git(&vulns, "add .");
    git(&vulns, "commit -q -m records");
    dir
}

fn cves(dir: &Path, line: &str) -> (i32, String, String) {
    let line = line.split_whitespace();
    let global = ["releases", "cves", "--today", "2030-05-03"];
    run(kgate(dir).env("KGATE_CACHE", "cache").args(global).args(line))
}

/// The answers to several command lines, below each other, commits and times taken out.
fn answers(dir: &Path, lines: &[&str]) -> String {
    let mut text = String::new();
    for line in lines {
        let (code, stdout, stderr) = cves(dir, line);
        writeln!(text, "$ kgate releases cves {line}\n{stdout}{stderr}[exit {code}]\n").unwrap();
    }
    text.replace(dir.to_str().unwrap(), "DIR")
}

fn settings() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"\b[0-9a-f]{12}\b", "COMMIT");
    settings.add_filter(r"[\d.]+ MB, in [\d.]+ s", "SIZE, in TIME");
    settings.add_filter(r"read \d{4}-[-\dT:]+Z", "read TIME");
    settings
}

#[test]
fn from_records_to_answers() {
    let dir = directory();
    let lines = [
        "",
        "6.1.2 6.1.5",
        "update --from vulns",
        "",
        "6.1.2 6.1.8",
        "6.1.2 6.1.8 --workload smoke --feed days.txt --list",
        "6.1.8 6.1.5",
        "6.1.2 6.3-rc2 --feed days.txt",
        "6.1.2 6.1.5-mine",
        "6.1.2 5.14.0-427.13.1.el9_4.x86_64",
        "6.1.0-56-amd64 6.1.5 --format json",
        "6.1.2 6.1.5 --source vulns",
        "6.1.2",
        "6.1.2 nothing",
    ];
    settings().bind(|| insta::assert_snapshot!(answers(dir.path(), &lines)));
}

#[test]
fn for_other_programs() {
    let dir = directory();
    assert_eq!(cves(dir.path(), "update --from vulns").0, 0);
    let answer = |line: &str| -> Value {
        let (code, stdout, stderr) = cves(dir.path(), line);
        assert_eq!((code, stderr.as_str()), (0, ""), "{line}");
        serde_json::from_str(&stdout).unwrap()
    };
    let state = answer("--format json");
    assert_eq!(
        state["snapshot"]["commit"].as_str().unwrap(),
        git(&dir.path().join("vulns"), "rev-parse HEAD")
    );
    assert_eq!(
        (&state["records"], &state["broken"], &state["old"]),
        (&json!(6), &json!(1), &json!(false))
    );
    let delta = answer("6.1.2 6.1.8 --format json --feed days.txt");
    assert_eq!(delta["schema"], "kgate-cves/1");
    let ids = |part: &str| -> Vec<_> {
        delta[part]["cves"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["id"].as_str().unwrap()[9..].to_owned())
            .collect()
    };
    assert_eq!(ids("fixed"), ["1001", "1002", "1003", "1004"]);
    assert_eq!(ids("newly_exposed"), ["1005"]);
    assert_eq!(ids("still_open"), ["1006"]);
    let first = &delta["fixed"]["cves"][0]["lag"];
    assert_eq!((&first["days"], &first["over_a_month"]), (&json!(72), &json!(true)));
    assert_eq!(first["branch"], json!({ "release": "6.1.5", "days": 63 }));
    // Its part in what else is told of two kernels, without the CVEs themselves.
    let other = |line: &str| -> Value {
        let line = ["releases"].into_iter().chain(line.split_whitespace());
        let (code, stdout, stderr) = run(kgate(dir.path()).env("KGATE_CACHE", "cache").args(line));
        assert_eq!(code, 0, "{stderr}");
        serde_json::from_str(&stdout).unwrap()
    };
    let all = other("delta 6.1.2 6.1.8 --format json");
    assert_eq!(
        (&all["cves"]["fixed"]["count"], &all["cves"]["fixed"]["cves"]),
        (&json!(4), &Value::Null)
    );
    put(
        dir.path(),
        "counts.csv",
        "6.1.3,5\n6.1.4,5\n6.1.5,5\n6.1.6,5\n6.1.7,5\n6.1.8,5\n6.1.9,5\n",
    );
    let all = other("waiting 6.1.2 --to 6.1.9 --changelogs counts.csv --format json");
    let cves = &all["curves"][1];
    assert_eq!(cves["what"], "CVEs fixed");
    let totals = cves["curve"]["points"].as_array().unwrap().iter().map(|point| &point["total"]);
    let totals: Vec<_> = totals.filter_map(Value::as_u64).collect();
    assert_eq!(totals.last(), Some(&4), "{totals:?}");
    // Late, and never a reason to fail.
    let late = ["releases", "cves", "6.1.2", "6.1.8", "--today", "2031-01-01"];
    let (code, stdout, _) = run(kgate(dir.path()).env("KGATE_CACHE", "cache").args(late));
    assert!(
        code == 0 && stdout.contains("OLD: the CVE records are of 2030-05-01, 245 days ago"),
        "{stdout}"
    );
}

#[test]
fn every_kind_of_place() {
    let dir = directory();
    let (path, vulns) = (dir.path(), dir.path().join("vulns"));
    git(path, "clone -q --bare vulns bare.git");
    git(&vulns, "checkout -q -b other");
    put_record(
        &vulns,
        &record("CVE-2030-2000", "net: more", "net/core/dev.c", None, "5.10", &["6.3"]),
    );
    git(&vulns, "add .");
    git(&vulns, "commit -q -m more");
    // Files that were not committed are no part of a repository.
    put_record(
        &vulns,
        &record("CVE-2030-2001", "net: more", "net/core/dev.c", None, "5.10", &["6.3"]),
    );
    let copy = path.join("copy/cve");
    fs::create_dir_all(&copy).unwrap();
    let copied = Command::new("cp").arg("-r").arg(vulns.join("cve/published")).arg(&copy).status();
    assert!(copied.unwrap().success());
    let url = format!("file://{}", vulns.display());
    let records = |from: &str| {
        let (code, stdout, stderr) = cves(path, &format!("update --from {from}"));
        assert_eq!(code, 0, "{from}: {stderr}");
        stdout.split(' ').next().unwrap().to_owned()
    };
    assert_eq!(records("bare.git"), "6");
    assert_eq!(records("vulns"), "7");
    assert_eq!(records("vulns --branch trunk"), "6");
    assert_eq!(records("copy"), "8");
    assert_eq!(records(&url), "7");
    assert_eq!(records(&format!("{url} --branch trunk")), "6");
    // What is fetched again is what is there then, though history was written anew.
    git(&vulns, "add .");
    git(&vulns, "commit -q --amend -m other");
    assert_eq!(records(&url), "8");
    let kept = fs::read_dir(path.join("cache/cves")).unwrap().map(|e| e.unwrap().path());
    let kept: Vec<PathBuf> = kept.filter(|path| path.is_dir()).collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(git(&kept[0], "rev-list --count refs/kgate/latest"), "1");
    fs::create_dir(path.join("empty")).unwrap();
    put(path, "none/cve/published/2030/CVE-2030-1.json", "[]");
    git(path, "init -q bare-of-records");
    let missing = format!("update --from file://{}/nowhere", path.display());
    let lines = [
        "update --from empty",
        "update --from none",
        "update --from bare-of-records",
        "update --from nowhere",
        "update --from vulns --branch nothing",
        "update --from ext::sh",
        &missing,
        "",
    ];
    settings().bind(|| insta::assert_snapshot!(answers(path, &lines)));
}

#[test]
fn a_killed_update_leaves_the_table_as_it_was() {
    let dir = directory();
    let path = dir.path();
    assert_eq!(cves(path, "update --from vulns").0, 0);
    let before = fs::read(path.join("cache/cves/table")).unwrap();
    // A git that never gets to the end of an archive.
    let real = run(Command::new("sh").args(["-c", "command -v git"])).1;
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *archive*) for arg; do case $arg in --output=*) \
         head -c 700 /dev/zero > \"${{arg#--output=}}\"; touch begun; sleep 1000;; esac; done;; esac\nexec {} \"$@\"\n",
        real.trim()
    );
    put(path, "bin/git", &script);
    fs::set_permissions(path.join("bin/git"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = kgate(path);
    let search = format!("{}:{}", path.join("bin").display(), std::env::var("PATH").unwrap());
    command
        .env("PATH", search)
        .env("KGATE_CACHE", "cache")
        .stderr(Stdio::null())
        .stdout(Stdio::null());
    let mut child =
        command.args(["releases", "cves", "update", "--from", "vulns"]).spawn().unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while !path.join("begun").exists() {
        assert!(Instant::now() < end, "the update doesn't begin");
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let left = || {
        let names = fs::read_dir(path.join("cache/cves")).unwrap().map(|e| e.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with(".tmp")).count()
    };
    assert_eq!(left(), 1);
    assert_eq!(fs::read(path.join("cache/cves/table")).unwrap(), before);
    assert!(cves(path, "").1.starts_with("6 records of 2030-05-01"));
    assert_eq!(cves(path, "update --from vulns").0, 0);
    assert_eq!(left(), 0);
}

#[test]
fn updates_beside_each_other_and_readers_meanwhile() {
    let dir = directory();
    let path = dir.path();
    assert_eq!(cves(path, "update --from vulns").0, 0);
    let url = format!("file://{}", path.join("vulns").display());
    std::thread::scope(|scope| {
        for from in ["vulns", "vulns", &url, &url] {
            scope.spawn(move || {
                let (code, _, stderr) = cves(path, &format!("update --from {from}"));
                assert_eq!(code, 0, "{stderr}");
            });
        }
        for _ in 0..20 {
            let (code, stdout, stderr) = cves(path, "6.1.2 6.1.8");
            assert!(code == 0 && stdout.contains("fixed              4"), "{stdout}{stderr}");
        }
    });
}

#[test]
fn a_damaged_table_is_told_of() {
    let dir = directory();
    let path = dir.path();
    assert_eq!(cves(path, "update --from vulns").0, 0);
    let table = path.join("cache/cves/table");
    let mut bytes = fs::read(&table).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&table, bytes).unwrap();
    let (code, _, stderr) = cves(path, "");
    assert!(code == 4 && stderr.contains("kgate releases cves update` makes it anew"), "{stderr}");
    fs::write(&table, "kgate-cves/0\nold").unwrap();
    let (code, _, stderr) = cves(path, "");
    assert!(code == 4 && stderr.contains("not a table of this version of kgate"), "{stderr}");
    assert_eq!(cves(path, "update --from vulns").0, 0);
    assert_eq!(cves(path, "").0, 0);
}

/// The figures known of the CNA's records of 2026-08-21, from a clone that `KGATE_VULNS` names.
#[test]
fn all_real_records() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures-release");
    let (Some(vulns), Ok(expected)) =
        (std::env::var_os("KGATE_VULNS"), fs::read(shared.join("expected.json")))
    else {
        eprintln!(
            "SKIP: KGATE_VULNS names no clone of vulns.git at d9dda40c8f21, or no expected.json"
        );
        return;
    };
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let dir = TempDir::new().unwrap();
    let from = format!("update --branch master --from {}", Path::new(&vulns).display());
    let (code, stdout, stderr) = cves(dir.path(), &from);
    assert!(code == 0 && stdout.contains("(d9dda40c8f21)"), "{stdout}{stderr}");
    let answer = |from: &str, to: &str| -> Value {
        let (code, stdout, _) = cves(dir.path(), &format!("{from} {to} --format json"));
        assert_eq!(code, 0);
        serde_json::from_str(&stdout).unwrap()
    };
    let deltas = expected["cve_delta_affectedA_and_not_affectedB"].as_object().unwrap();
    for (pair, figures) in deltas.iter().filter(|(pair, _)| pair.contains("->")) {
        let (from, to) = pair.split_once("->").unwrap();
        let delta = answer(from, to);
        assert_eq!(delta["fixed"]["count"], figures["fixed"], "{pair}");
        assert_eq!(delta["newly_exposed"]["count"], figures["newly_exposed"], "{pair}");
    }
    for (version, open) in expected["open_at"].as_object().unwrap() {
        assert_eq!(&answer(version, version)["still_open"]["count"], open, "{version}");
    }
    // What each release fixed. The CNA's working files have more, since they also have what was
    // introduced and fixed in one release, by which no release is affected: 1511, and 89 with one.
    let table = fs::read(dir.path().join("cache/cves/table")).unwrap();
    let table = kgate_release::cve::Table::decode(&table).unwrap();
    let fixed = |branch: kgate_release::Branch,
                 patches: std::ops::RangeInclusive<u32>|
     -> Vec<usize> {
        let releases = table.fixed_by_release(branch).into_iter();
        releases.filter(|(v, _)| patches.contains(&v.patch)).map(|(_, cves)| cves.len()).collect()
    };
    let window = fixed(kgate_release::Branch::new(6, 1), 171..=183);
    assert_eq!(window.iter().sum::<usize>(), 1490);
    let talk = fixed(kgate_release::Branch::new(5, 15), 1..=113);
    let least = |n: usize| talk.iter().filter(|count| **count >= n).count();
    assert_eq!((least(1), least(5)), (88, 66));
}
