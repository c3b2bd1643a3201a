//! The checker, on small repositories made of strings and on the one it is part of.

use super::*;

fn files(list: &[(&str, &str)]) -> Vec<File> {
    let file = |(path, text): &(&str, &str)| File {
        path: (*path).to_owned(),
        // Written differently here, or exceptions and paths would be this file's own.
        text: text
            .replace("ALLOW(", concat!("tidy-", "allow("))
            .replace("<home>", "/home")
            .replace("<root>", "/root/"),
    };
    list.iter().map(file).collect()
}

/// Violations as `line [rule] what`, one a line, of one file at `path`.
fn found(path: &str, text: &str) -> String {
    let own = ["/srv/checkouts/kgate/".to_owned(), "/srv/checkouts/".to_owned()];
    check(&files(&[(path, text)]), &own)
        .iter()
        .map(|v| {
            assert_eq!(v.file, path);
            assert!(v.why.len() > 10 && v.why.starts_with(char::is_lowercase), "{}", v.why);
            format!("{} [{}] {}\n", v.line, v.rule, v.what)
        })
        .collect()
}

#[test]
fn pure_crates_touch_nothing() {
    let source = r#"//! Owns a thing.
use std::{collections::HashMap, fs, io::Read as _};
use std::{
    env as surroundings,
    net::{IpAddr, TcpStream},
};
fn f() {
    let _ = std::time::Instant::now();
    let _ = SystemTime::now();
    tokio::spawn(async {});
    let s = "std::fs::read"; // std::fs::read
    let _ = fastrand::Rng::new();
    let _ = fastrand::Rng::with_seed(1);
    format!("{}", std::process::id());
}
"#;
    insta::assert_snapshot!(found("harness/compare/src/lib.rs", source), @"
    2 [pure] std::fs
    4 [only-cli-talks] std::env
    4 [pure] std::env
    5 [pure] std::net::TcpStream
    8 [pure] std::time::Instant::now
    9 [pure] SystemTime::now
    10 [pure] tokio::spawn
    12 [pure] fastrand::Rng::new
    14 [pure] std::process::id
    ");
    assert_eq!(found("harness/runner/src/lib.rs", source), "4 [only-cli-talks] std::env\n");
    assert_eq!(found("harness/compare/tests/it.rs", source), "");
    assert_eq!(found("harness/compare/src/parse/tests.rs", source), "");
}

#[test]
fn libraries_do_not_talk_start_processes_or_panic() {
    let source = r#"//! Owns a thing.
use std::process::{Command, Stdio};
fn f(x: Option<u8>) -> impl Iterator<Item = u8> + use<> {
    println!("{}", x.unwrap());
    log(|| { x
        .expect("a value") });
    if x != None { std::process::exit(1) }
    writeln!(std::io::stderr(), "no").ok();
    panic!("no");
    x.unwrap_or(1); self.unwrap; expect(3); self.expect(); env!("PATH");
    [1].into_iter()
}
#[cfg(test)]
mod tests {
    fn f() { std::env::var("X").unwrap(); }
}
#[cfg(test)]
use std::env;
#[cfg(test)]
#[expect(dead_code)]
const X: [u8; 2] = [1; 2];
fn g() { y.unwrap() }
"#;
    insta::assert_snapshot!(found("harness/report/src/html.rs", source), @"
    2 [one-place-starts-processes] std::process::Command
    4 [no-panic] .unwrap()
    4 [only-cli-talks] println!
    6 [no-panic] .expect(…)
    7 [only-cli-talks] std::process::exit
    8 [only-cli-talks] std::io::stderr
    9 [no-panic] panic!
    22 [no-panic] .unwrap()
    ");
    let elsewhere = |path| found(path, source).lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(elsewhere("harness/machine/src/process.rs").iter().all(|l| !l.contains("Command")));
    assert!(elsewhere("harness/cli/src/main.rs").iter().all(|l| !l.contains("only-cli-talks")));
    assert_eq!(elsewhere("harness/testkit/src/lib.rs"), [""; 0]);
    assert_eq!(elsewhere("workloads/ops/src/main.rs"), [""; 0]);
    assert_eq!(elsewhere("harness/report/build.rs"), [""; 0]);
    assert_ne!(elsewhere("harness/report/src/build.rs"), [""; 0]);
}

#[test]
fn files_say_what_they_own_and_stay_short() {
    assert_eq!(
        found("xtask/src/x.rs", "\n//! Late.\n"),
        "1 [opening-line] does not open with '//! '\n"
    );
    let long = format!("//! Long.\n{}", "\n".repeat(900));
    assert_eq!(found("xtask/src/x.rs", &long), "901 [file-length] 901 lines, of 900 at most\n");
    assert_eq!(found("xtask/src/x.rs", &long[..long.len() - 1]), "");
    assert_eq!(
        found("harness/cli/src/x.rs", "//! Broken.\nfn f( {\n"),
        "2 [unreadable] not Rust from here\n"
    );
}

#[test]
fn crates_know_only_whom_they_may() {
    let manifest = r#"[package]
name = "kgate-runner"
[dependencies]
kgate-machine.workspace = true
kgate-qemu.workspace = true
serde = "1"
[build-dependencies]
kgate-testkit.workspace = true
[dev-dependencies]
kgate-qemu.workspace = true
proptest = { version = "1" }
[target.'cfg(unix)'.dependencies]
kgate-lab = { workspace = true, features = ["x"] }
"#;
    insta::assert_snapshot!(found("harness/runner/Cargo.toml", manifest), @"
    5 [who-knows-whom] 'runner' must not know 'qemu'
    6 [workspace-dependency] 'serde' is not declared by 'workspace = true'
    8 [who-knows-whom] 'runner' must not know 'testkit'
    11 [workspace-dependency] 'proptest' is not declared by 'workspace = true'
    13 [who-knows-whom] 'runner' must not know 'lab'
    ");
    let cli = "[package]\nname = 'kgate-cli'\n[dependencies]\n\
        kgate-qemu.workspace = true\nkgate-testkit.workspace = true\n";
    assert_eq!(
        found("harness/cli/Cargo.toml", cli),
        "5 [who-knows-whom] 'cli' must not know 'testkit'\n"
    );
    assert_eq!(
        found("harness/new/Cargo.toml", "[package]\nname = 'kgate-new'\n"),
        "1 [who-knows-whom] the crate 'new' has no row\n"
    );
    assert!(found("harness/new/Cargo.toml", "[package\n").starts_with("1 [unreadable] "));
}

#[test]
fn paths_of_one_machine_are_found() {
    let text = "see <home>/me/kgate and ~/x\n\
        target<home>/x is fine, <home>/ too\n\
        built in /srv/checkouts/kgate/target\n\
        next to /srv/checkouts/data\n\
        HOME=/root and /root/x in the guest\n\
        at <root>.cargo/registry/src\n";
    insta::assert_snapshot!(found("docs/x.md", text), @"
    1 [own-path] a path below /home/
    3 [own-path] a path below /srv/checkouts/kgate/
    4 [own-path] a path below /srv/checkouts/
    6 [own-path] a path below /root/.
    ");
    assert_eq!(found("harness/klog/testdata/a.txt", "at <home>/build/linux/x.c:3\n"), "");
}

#[test]
fn an_exception_needs_its_reason_and_its_need() {
    let source = r#"//! Owns a thing.
fn f() {
    // ALLOW(no-panic): the pattern is a constant, and a test compiles it
    let re = Regex::new("x").unwrap();
    let re = Regex::new("y").unwrap(); // ALLOW(no-panic): a constant too
    // ALLOW(no-panic)
    let re = Regex::new("z").unwrap();
    // ALLOW(pure): nothing of the kind here
    let re = Regex::new("z").unwrap();
    let s = "ALLOW(no-panic): not a comment";
}
"#;
    insta::assert_snapshot!(found("harness/klog/src/lib.rs", source), @"
    6 [bare-exception] no reason is given for 'no-panic'
    8 [stale-exception] nothing here breaks 'pure'
    9 [no-panic] .unwrap()
    ");
}

#[test]
fn every_rule_names_places_that_can_exist() {
    // A rule about a crate that was renamed would silently hold nowhere.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let later = ["harness/release/", "harness/machine/src/process.rs"];
    for path in source::places() {
        assert!(later.contains(&path) || root.join(path).exists(), "{path}");
    }
}

#[test]
fn own_paths_leave_out_directories_that_every_machine_has() {
    let own = |path| own_paths(Path::new(path));
    assert_eq!(own("/srv/ci/kgate"), ["/srv/ci/kgate/", "/srv/ci/"]);
    assert_eq!(own("/tmp/kgate"), ["/tmp/kgate/"]);
    assert_eq!(own("/kgate"), ["/kgate/"]);
}

#[test]
fn files_are_read_as_git_sees_them() {
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &[u8]| std::fs::write(dir.path().join(path), text).unwrap();
    let error = read(dir.path()).err().unwrap().to_string();
    assert!(error.starts_with("git ls-files failed: "), "{error}");
    let git = Command::new("git").args(["init", "-q"]).current_dir(dir.path()).status().unwrap();
    assert!(git.success());
    write(".gitignore", b"ignored\n");
    write("ignored", b"x");
    write("text", "ä\n".as_bytes());
    write("binary", b"\xff\xfe");
    std::os::unix::fs::symlink(".", dir.path().join("link")).unwrap();
    let files = read(dir.path()).unwrap();
    let mut paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(paths, [".gitignore", "text"]);
}
