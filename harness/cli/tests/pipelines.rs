//! `ci/gate`, the script that all pipelines run, with a stand-in for `kgate` that answers and exits as it is told
//! and writes down how it was called.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Files `codes` (what each call of `kgate gate` exits with, one on a line), `matrix` (what is new) and `calls`.
const STAND_IN: &str = r#"#!/bin/bash
here=$(dirname "$0")
printf '%s\n' "$*" >>"$here/calls"
case $1 in
releases) cat "$here/matrix" ;;
report) printf '<page/>\n' >"$4" ;;
gate)
    while (($#)); do
        case $1 in
        --annotations) printf '::error title=reject::a reason\n' >"$2" ;;
        --markdown) printf '## REJECT\n' >"$2" ;;
        --dir) mkdir -p "$2/6.1.193" && touch "$2/6.1.193/plan.json" ;;
        --junit) printf '<testsuites/>\n' >"$2" ;;
        esac
        shift
    done
    printf '::add-mask::what a guest printed\n'
    if [[ -e $here/wait ]]; then
        trap 'printf "interrupted\n" >>"$here/calls"; exit 130' TERM
        touch "$here/waiting"
        for ((i = 0; i < 600; i++)); do sleep 0.1; done
    fi
    code=$(head -n 1 "$here/codes")
    sed -i 1d "$here/codes"
    exit "$code"
    ;;
--version) echo kgate 1.0 ;;
esac
"#;

struct Place(tempfile::TempDir);

impl Place {
    fn new(codes: &[u8], versions: &[&str]) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let codes: String = codes.iter().map(|code| format!("{code}\n")).collect();
        let entry = |v: &&str| format!(r#"{{"version":"{v}","branch":"6.1","tier":"bugfix"}}"#);
        let include: Vec<_> = versions.iter().map(entry).collect();
        place.write("codes", &codes);
        place.write("matrix", &format!("{{\"include\":[{}]}}\n", include.join(",")));
        place.write("kgate", STAND_IN);
        fs::set_permissions(place.path("kgate"), PermissionsExt::from_mode(0o755)).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn gate(&self, args: &[&str]) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ci/gate");
        let mut command = Command::new(script.canonicalize().unwrap());
        command.args(args).current_dir(self.0.path()).env_clear().stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").unwrap()).env("KGATE", self.path("kgate"));
        command.env("KGATE_PRODUCTION", "apt:linux");
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.gate(args).output().unwrap()
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn exit_codes_are_kgate_s_and_only_its_own_fault_is_tried_again() {
    let table: [(&[u8], i32, &str); 8] = [
        (&[0], 0, "promote"),
        (&[1], 1, "reject: it must not replace"),
        (&[2], 2, "not gated"),
        (&[3], 3, "inconclusive"),
        (&[4, 0], 0, "promote"),
        (&[4, 1], 1, "reject"),
        (&[4, 4], 4, "failed twice, which says nothing of the kernel"),
        (&[130], 130, "interrupted"),
    ];
    for (codes, expected, told) in table {
        let place = Place::new(codes, &[]);
        let output = place.run(&["run", "6.1.193", "--waivers", "w.yaml"]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(expected), "{codes:?}: {said}");
        assert!(said.lines().last().unwrap().contains(told), "{codes:?}: {said}");
        let calls = place.read("calls");
        let gated = calls.lines().filter(|call| call.starts_with("gate")).count();
        assert_eq!(gated, codes.len(), "{calls}");
        insta::allow_duplicates! {
            insta::assert_snapshot!(calls.lines().next().unwrap(), @"gate --state kgate-state/gated.jsonl --production apt:linux --only 6.1.193 --dir kgate-out/6.1.193/run --junit kgate-out/6.1.193/junit.xml --json kgate-out/6.1.193/results.json --markdown kgate-out/6.1.193/summary.md --annotations kgate-out/6.1.193/annotations.txt --workload smoke --waivers w.yaml");
        }
        assert_eq!(place.read("kgate-out/6.1.193/junit.xml"), "<testsuites/>\n");
        assert_eq!(place.read("kgate-out/6.1.193/run/6.1.193/report.html"), "<page/>\n");
    }
}

#[test]
fn github_gets_annotations_a_summary_and_no_commands_of_guests() {
    let place = Place::new(&[3], &[]);
    place.write("summary", "before\n");
    let mut command = place.gate(&["run", "6.1.193"]);
    command.env("GITHUB_ACTIONS", "true").env("GITHUB_STEP_SUMMARY", place.path("summary"));
    let output = command.env("KGATE_INCONCLUSIVE", "0").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let lines: Vec<_> = text(&output.stdout).lines().collect();
    let token = lines[0].strip_prefix("::stop-commands::").unwrap();
    assert_eq!(token.len(), 32);
    let end = lines.iter().position(|line| *line == format!("::{token}::")).unwrap();
    assert!(lines[..end].contains(&"::add-mask::what a guest printed"), "{lines:?}");
    assert_eq!(lines[end + 1], "::error title=reject::a reason");
    assert!(
        lines[end + 2].starts_with("::warning title=kgate::6.1.193: inconclusive"),
        "{lines:?}"
    );
    assert_eq!(place.read("summary"), "before\n## REJECT\n");
}

#[test]
fn what_is_new_is_told_in_each_system_s_form() {
    let place = Place::new(&[], &["6.1.193", "6.12.118"]);
    let new = |place: &Place, format| {
        let output = place.run(&["new", format]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).to_owned()
    };
    insta::assert_snapshot!(new(&place, "lines"), @r"
    6.1.193
    6.12.118
    ");
    insta::assert_snapshot!(new(&place, "github"), @r#"
    matrix={"include":[{"version":"6.1.193"},{"version":"6.12.118"}]}
    count=2
    "#);
    insta::assert_snapshot!(new(&place, "gitlab"), @r#"
    include: { local: ci/pipelines/gitlab-gate.yml }
    "gate 6.1.193":
      extends: .gate
      variables: { VERSION: "6.1.193" }
    "gate 6.12.118":
      extends: .gate
      variables: { VERSION: "6.12.118" }
    "#);
    let nothing = Place::new(&[], &[]);
    assert_eq!(new(&nothing, "lines"), "");
    insta::assert_snapshot!(new(&nothing, "github"), @r#"
    matrix={"include":[]}
    count=0
    "#);
    insta::assert_snapshot!(new(&nothing, "gitlab"), @r#"
    include: { local: ci/pipelines/gitlab-gate.yml }
    nothing-new:
      script: [echo "no release is new"]
    "#);
}

#[test]
fn what_is_no_version_goes_nowhere() {
    for version in ["", "$(id)", "6.1\\n- x", "../6.1", "6.1 6.2", "-x", "6.1;id"] {
        let place = Place::new(&[0], &[version]);
        if !version.is_empty() {
            let found = place.run(&["new", "gitlab"]);
            assert_ne!(found.status.code(), Some(0), "{version}: {found:?}");
        }
        assert_eq!(place.run(&["run", version]).status.code(), Some(2), "{version}");
        assert!(place.read("calls").lines().all(|call| call.starts_with("releases")), "{version}");
    }
}

#[test]
fn both_commands_know_what_is_in_production() {
    let place = Place::new(&[0], &["6.1.193"]);
    let mut command = place.gate(&["new"]);
    command.env("KGATE_OPTIONS", "--feed releases.json  --latest").env("KGATE_WORKLOAD", "edge");
    assert!(command.status().unwrap().success());
    insta::assert_snapshot!(place.read("calls"), @"releases new --since kgate-state/gated.jsonl --production apt:linux --format matrix --workload edge --feed releases.json --latest");
    for command in [&["new"][..], &["run", "6.1.193"][..]] {
        let output = place.gate(command).env_remove("KGATE_PRODUCTION").output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains("KGATE_PRODUCTION is not set"), "{output:?}");
    }
}

#[test]
fn a_feed_that_can_t_be_read_is_not_silence() {
    let place = Place::new(&[], &[]);
    place.write("kgate", "#!/bin/sh\necho 'kgate: no feed' >&2\nexit 4\n");
    for format in ["lines", "github", "gitlab"] {
        assert_eq!(place.run(&["new", format]).status.code(), Some(4), "{format}");
    }
}

#[test]
fn all_new_releases_are_gated_and_the_worst_counts() {
    let versions = ["6.1.193", "6.6.150", "6.12.118"];
    let table: [(&[u8], i32, usize); 8] = [
        (&[0, 0, 0], 0, 3),
        (&[0, 3, 0], 3, 3),
        (&[1, 3, 0], 1, 3),
        (&[3, 4, 4, 0], 4, 4),
        (&[4, 4, 1, 0], 1, 4),
        (&[130, 0, 0], 130, 1),
        // Killed for want of memory, say, or by a panic.
        (&[0, 137, 0], 4, 3),
        (&[101, 3, 0], 4, 3),
    ];
    for (codes, expected, calls) in table {
        let place = Place::new(codes, &versions);
        let output = place.run(&["all"]);
        assert_eq!(output.status.code(), Some(expected), "{codes:?}: {}", text(&output.stderr));
        let gated = place.read("calls").lines().filter(|call| call.starts_with("gate")).count();
        assert_eq!(gated, calls, "{codes:?}");
    }
    assert_eq!(Place::new(&[], &[]).run(&["all"]).status.code(), Some(0));
}

/// As a CI system cancels a job: the signal goes to the script alone.
#[test]
fn a_signal_reaches_kgate_once_and_ends_everything() {
    for (args, signal) in [
        (&["run", "6.1.193"][..], Signal::INT),
        (&["run", "6.1.193"][..], Signal::TERM),
        (&["all"][..], Signal::TERM),
    ] {
        let place = Place::new(&[0, 0], &["6.1.193", "6.6.150"]);
        place.write("wait", "");
        let mut child =
            place.gate(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let started = Instant::now();
        while !place.path("waiting").exists() {
            assert!(started.elapsed() < Duration::from_secs(30));
            std::thread::sleep(Duration::from_millis(20));
        }
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{args:?}");
        assert!(started.elapsed() < Duration::from_secs(30));
        let calls = place.read("calls");
        assert_eq!(calls.matches("interrupted").count(), 1, "{calls}");
        assert_eq!(calls.lines().filter(|call| call.starts_with("gate")).count(), 1, "{calls}");
    }
}
