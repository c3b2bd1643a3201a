//! `kgate releases delta` and `waiting`, on a history made here, on texts and on real packages.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use kgate_testkit::kernels;
use serde_json::Value;
use support::{kgate, run};
use tempfile::TempDir;

/// What `kgate releases LINE` prints, with its exit code. Real kernels are already unpacked there.
fn releases(dir: &Path, line: &str) -> (i32, String, String) {
    let cache = kernels::cache_dir();
    run(kgate(dir).arg("--cache").arg(cache).arg("releases").args(line.split_whitespace()))
}

fn good(dir: &Path, line: &str) -> String {
    let (code, stdout, stderr) = releases(dir, line);
    assert_eq!((code, stderr.as_str()), (0, ""), "{line}");
    stdout
}

fn json(dir: &Path, line: &str) -> Value {
    serde_json::from_str(&good(dir, &format!("{line} --format json"))).unwrap()
}

/// Commits of a history as kernels have it: mainline, and two stable branches that leave it.
struct History {
    repository: std::path::PathBuf,
    day: u32,
}

impl History {
    fn new(dir: &Path) -> Self {
        let history = Self { repository: dir.join("linux"), day: 0 };
        fs::create_dir(&history.repository).unwrap();
        history.git(&["init", "--quiet", "--initial-branch=master"]);
        history
    }

    fn git(&self, args: &[&str]) -> String {
        // A week for each release.
        let date = format!("{} +0000", 1_670_000_000 + u64::from(self.day) * 86_400);
        let output = Command::new("git")
            .args(["-c", "user.name=A", "-c", "user.email=a@example.org"])
            .args(args)
            .current_dir(&self.repository)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .env("GIT_AUTHOR_DATE", &date)
            .env("GIT_COMMITTER_DATE", &date)
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn commit(&self, subject: &str, files: &[&str]) {
        for file in files {
            let path = self.repository.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let before = fs::read_to_string(&path).unwrap_or_default();
            fs::write(path, format!("{before}{subject}\n")).unwrap();
        }
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", subject]);
    }

    fn release(&mut self, version: &str) {
        self.day += 7;
        self.commit(&format!("Linux {version}"), &["Makefile"]);
        self.git(&["tag", "--annotate", "--message", version, &format!("v{version}")]);
    }
}

fn history(dir: &Path) -> History {
    let mut history = History::new(dir);
    history.release("6.1");
    history.git(&["checkout", "--quiet", "-b", "linux-6.1.y"]);
    history.commit("tcp: count", &["net/ipv4/tcp.c", "include/linux/mm.h"]);
    history.commit("Revert \"tcp: count\"", &["net/ipv4/tcp.c"]);
    history.release("6.1.1");
    history.commit("xfs: fix", &["fs/xfs/a.c", "fs/xfs/ü b.c"]);
    history.commit("ext4: fix", &["fs/ext4/a.c"]);
    history.commit("xfs: fix more\u{1} \u{1b}[31m", &["fs/xfs/a.c"]);
    history.commit("sound: fix", &["sound/a.c"]);
    history.release("6.1.2");
    history.release("6.1.3");
    history.commit("mm: fix", &["mm/a.c"]);
    history.release("6.1.4");
    history.git(&["checkout", "--quiet", "master"]);
    for n in 0..5 {
        history.commit(&format!("bpf: new {n}"), &["kernel/bpf/a.c"]);
    }
    history.git(&["checkout", "--quiet", "-b", "topic"]);
    history.commit("drm: new", &["drivers/gpu/a.c"]);
    history.git(&["checkout", "--quiet", "master"]);
    history.commit("usb: new", &["drivers/usb/a.c"]);
    history.git(&["merge", "--quiet", "--no-ff", "--no-edit", "topic"]);
    history.release("6.2");
    history.commit("sched: new", &["kernel/sched/a.c"]);
    history.release("6.3");
    history.git(&["checkout", "--quiet", "-b", "linux-6.3.y"]);
    history.commit("mm: fix", &["mm/a.c"]);
    history.release("6.3.1");
    history
}

#[test]
fn a_repository_tells_exactly_what_changes() {
    let dir = TempDir::new().unwrap();
    let history = history(dir.path());
    fs::write(dir.path().join("MAINTAINERS"), "XFS\nF:\tfs/xfs/\n\nTHE REST\nF:\t*/\n").unwrap();
    insta::assert_snapshot!(good(
        dir.path(),
        "delta 6.1 6.1.4 --git linux --workload exact --maintainers MAINTAINERS"
    ));
    // From one branch to another: what git itself counts, without the releases' own commits.
    for (from, to, own) in [("6.1.2", "6.3.1", 3), ("6.1", "6.1.4", 4), ("6.2", "6.3", 1)] {
        let range = format!("v{from}..v{to}");
        let count = history.git(&["rev-list", "--count", "--no-merges", &range]);
        let delta = json(dir.path(), &format!("delta {from} {to} --git linux"));
        let commits = &delta["commits"];
        assert_eq!(commits["total"], count.trim().parse::<u64>().unwrap() - own, "{delta:#}");
        assert_eq!(commits["bound"], "exact");
        assert_eq!(delta["schema"], "kgate-delta/1");
        // Back again it is the same, and said to be.
        let back = json(dir.path(), &format!("delta {to} {from} --git linux"));
        assert_eq!(back["commits"]["total"], commits["total"]);
        assert!(back["notes"][0].as_str().unwrap().contains(&format!("{from} lacks")), "{back:#}");
    }
}

#[test]
fn the_cost_of_waiting_is_told_and_drawn() {
    let dir = TempDir::new().unwrap();
    history(dir.path());
    insta::assert_snapshot!(good(dir.path(), "waiting 6.1 --git linux --svg cost.svg"));
    let svg = fs::read_to_string(dir.path().join("cost.svg")).unwrap();
    let picture = roxmltree::Document::parse(&svg).unwrap();
    let points = picture.descendants().filter(|node| node.tag_name().name() == "circle");
    assert_eq!(points.count(), 4);
    let waiting = json(dir.path(), "waiting 6.1 --git linux --to 6.1.2");
    assert_eq!(waiting["curves"][0]["growth"]["delta"], 3.0);
    assert_eq!(waiting["curves"][0]["curve"]["points"][1]["weeks"], 2.0);
}

#[test]
fn texts_are_lower_bounds_that_name_what_is_missing() {
    let dir = TempDir::new().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    fs::create_dir(dir.path().join("logs")).unwrap();
    let hash = "a".repeat(40);
    let commit = |subject: &str| {
        format!(
            "commit {hash}\nAuthor: A <a@example.org>\nDate:   Thu Apr 20 12:35:15 2023 +0200\n\n    {subject}\n\n"
        )
    };
    let log = |version: &str| commit(&format!("Linux {version}")) + &commit("tcp: fix");
    write("logs/ChangeLog-6.1.2", &log("6.1.2"));
    write("logs/ChangeLog-6.1.9", "not looked at: it is of no release in the range");
    write("numbers.csv", "version,commits\n6.1.3,40\n");
    let logs = "--changelogs logs --changelogs numbers.csv";
    insta::assert_snapshot!(good(dir.path(), &format!("delta 6.1.1 6.1.4 {logs}")));
    insta::assert_snapshot!(good(dir.path(), &format!("waiting 6.1.1 --to 6.1.4 {logs}")));
    insta::assert_snapshot!(good(dir.path(), "delta 6.1.1 6.6"));
    insta::assert_snapshot!(good(dir.path(), "delta 6.1.1 6.1.1"));
    write("logs/ChangeLog-6.1.3", &log("6.1.2"));
    write("bad", "<html>\u{1b}[2J</html>\n");
    for (line, complaint) in [
        ("delta 6.1.1 6.1.4 --changelogs logs", "it is not the ChangeLog of 6.1.3"),
        ("delta 6.1.1 6.1.4 --changelogs bad", "bad: it is neither a ChangeLog"),
        ("delta 6.1.1 6.1.4 --changelogs none", "none: no such file"),
        ("delta 6.1.1 6.1.4 --git logs", "git in logs: "),
        ("delta 6.1.1 5.14.0-427.13.1.el9_4.x86_64", "doesn't say which upstream release"),
        ("delta 6.1.1 nonsense", "nonsense"),
        ("waiting 6.1.1", "nothing at hand knows a release after 6.1.1"),
        ("waiting 6.1.4 --to 6.1.4", "6.1.4 is no later release"),
        ("waiting 6.1.4 --to 6.2", "6.2 is no later release"),
        ("waiting 6.1.4 --to 6.1.5", "nothing at hand tells what came after 6.1.4"),
    ] {
        let (code, stdout, stderr) = releases(dir.path(), line);
        assert_eq!((code, stdout.as_str()), (2, ""), "{line}");
        assert!(stderr.contains(complaint) && !stderr.contains('\u{1b}'), "{line}: {stderr}");
    }
}

#[test]
fn a_debian_package_tells_by_its_changelog() {
    let Some(pair) = kernels::pair() else { return };
    let dir = TempDir::new().unwrap();
    let (a, b) = (pair.baseline_deb.display(), pair.candidate_deb.display());
    let delta = json(dir.path(), &format!("delta {a} {b} --workload edge-proxy"));
    let commits = &delta["commits"];
    assert_eq!(commits["bound"], "lower-bound", "{delta:#}");
    assert!(commits["total"].as_u64() > Some(0), "{delta:#}");
    assert_eq!(commits["sources"][0]["origin"]["kind"], "distribution");
    assert!(commits["sources"][0]["origin"]["snapshot"].is_string(), "{delta:#}");
    assert_eq!(commits["subsystems"][0]["touched"], true);
}
