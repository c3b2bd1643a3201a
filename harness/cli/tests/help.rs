//! The command line reference, as every `--help` prints it, and what is made from its definition.

mod support;

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use support::{kgate, run};
use tempfile::TempDir;

/// Every command in the order of the help text.
const COMMANDS: &[&str] = &[
    "",
    "run",
    "gate",
    "boot",
    "compare",
    "report",
    "report regression",
    "explain",
    "plan",
    "merge",
    "bisect",
    "klog",
    "scenario",
    "scenario list",
    "scenario check",
    "kernel",
    "kernel show",
    "kernel list",
    "releases",
    "releases new",
    "releases delta",
    "releases waiting",
    "releases cves",
    "releases cves update",
    "lab",
    "lab list",
    "lab check",
    "lab console",
    "lab power",
    "lab boot",
    "lab recover",
    "cache",
    "cache prune",
    "doctor",
    "completions",
    "man",
];

#[test]
fn reference() {
    let dir = TempDir::new().unwrap();
    let mut text = String::new();
    for command in COMMANDS {
        let (code, help, stderr) = run(kgate(dir.path())
            .args(command.split_whitespace())
            .arg("--help")
            .env("COLUMNS", "100"));
        assert_eq!((code, stderr.as_str()), (0, ""), "{command}");
        writeln!(text, "$ kgate {command} --help\n{help}").unwrap();
        // Every command that this one lists has its own entry.
        let listed = help.split("Commands:\n").nth(1).unwrap_or_default();
        let listed = listed.lines().take_while(|line| !line.is_empty());
        // What a long summary goes on with is further to the right.
        for line in listed.filter(|line| !line.starts_with("   ")) {
            let name = line.split_whitespace().next().unwrap();
            let whole = format!("{command} {name}");
            assert!(
                name == "help" || COMMANDS.contains(&whole.trim()),
                "{whole} is not in the table"
            );
        }
    }
    insta::assert_snapshot!(text);
}

#[test]
fn version() {
    let dir = TempDir::new().unwrap();
    let (code, stdout, _) = run(kgate(dir.path()).arg("--version"));
    assert_eq!((code, stdout), (0, format!("kgate {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn completions() {
    let dir = TempDir::new().unwrap();
    // The shell, and how it is asked whether a script is one.
    for (shell, check) in [
        ("bash", Some(["bash", "-n"])),
        ("zsh", Some(["zsh", "-n"])),
        ("fish", Some(["fish", "--no-execute"])),
        ("elvish", None),
        ("powershell", None),
    ] {
        let (code, script, stderr) = run(kgate(dir.path()).args(["completions", shell]));
        assert_eq!((code, stderr.as_str()), (0, ""), "{shell}");
        assert!(script.contains("baseline") && script.contains("completions"), "{shell}: {script}");
        let Some([program, option]) = check else { continue };
        let started = Command::new(program).arg(option).stdin(Stdio::piped()).spawn();
        match started {
            Ok(mut child) => {
                child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
                assert!(child.wait().unwrap().success(), "{shell} does not take its script");
            }
            Err(error) => {
                assert_ne!(shell, "bash", "bash: {error}");
                println!("SKIP: no {program} here to check its completions: {error}");
            }
        }
    }
}

#[test]
fn manual_pages() {
    let dir = TempDir::new().unwrap();
    let (code, stdout, stderr) = run(kgate(dir.path()).args(["man", "pages"]));
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, "", ""));
    for command in COMMANDS {
        let name = ["kgate"].into_iter().chain(command.split_whitespace()).collect::<Vec<_>>();
        let path = dir.path().join("pages").join(format!("{}.1", name.join("-")));
        let page = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(page.contains(".TH ") && page.contains(".SH NAME"), "{}", path.display());
    }
}
