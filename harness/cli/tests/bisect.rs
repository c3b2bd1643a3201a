//! `kgate bisect` as a process: over real releases, and killed while it builds. Since 6.1.180 the kernel no
//! longer lists the file system of its block devices in /proc/filesystems.

mod support;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{env, fs};

use kgate_kernel::apt::{self, AptKernel};
use kgate_kernel::{Reference, Resolver};
use kgate_release::Version;
use kgate_testkit::host::TestHost;
use kgate_testkit::kernels::cache_dir;
use support::{kgate, run};

/// Before it the file system is listed, from it on it is not.
const CHANGED: &str = "6.1.180";
/// All releases that apt offers instead of four.
const ALL: &str = "KGATE_BISECT_ALL";

const SCENARIO: &str = "kind: subsystem\nsummary: a test's\nsteps:\n  \
    - run: grep -w bdev /proc/filesystems\n";
const WORKLOAD: &str =
    "summary: a test's\nmachine: { memory: 256MiB }\nscenarios: [subsystem/bdev]\n";

/// Releases of the branch, oldest first; those next to the change and those far from it.
#[expect(clippy::print_stderr, reason = "a test that does not run has to be seen")]
fn releases() -> Option<(Vec<AptKernel>, String)> {
    let changed: Version = CHANGED.parse().ok()?;
    let version = |kernel: &AptKernel| kernel.upstream.parse::<Version>().ok();
    let mut all = apt::kernels(&TestHost, "cloud-amd64").unwrap_or_default();
    all.retain(|kernel| version(kernel).is_some_and(|v| v.branch == changed.branch));
    let first = all.iter().position(|kernel| version(kernel) >= Some(changed));
    let Some(first) = first.filter(|&first| first >= 2 && first + 1 < all.len()) else {
        eprintln!("SKIP: apt does not offer two releases before {CHANGED} and two from it on");
        return None;
    };
    let bad = all[first].version.clone();
    if env::var_os(ALL).is_none() {
        let few = [0, first - 1, first, all.len() - 1].map(|at| all[at].clone());
        all = few.to_vec();
    }
    Some((all, bad))
}

fn write_library(library: &Path) {
    for (name, text) in
        [("scenarios/subsystem/bdev", SCENARIO), ("workloads/profiles/test", WORKLOAD)]
    {
        let file = library.join(name).with_extension("yaml");
        fs::create_dir_all(file.parent().expect("a directory")).expect("a directory");
        fs::write(file, text).expect("a file");
    }
}

/// Something that becomes true within some seconds.
fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !is() {
        assert!(Instant::now() < end, "{what}");
        sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_build_ends_with_kgate() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    write_library(&dir.path().join("library"));
    let history = "git init -q -b main r && cd r && for n in 1 2 3; do \
        git -c user.name=x -c user.email=x@x commit -q --allow-empty -m $n; done";
    let made = Command::new("sh").args(["-c", history]).current_dir(dir.path()).status();
    assert!(made.expect("a shell").success());
    // In its group: a shell, what it waits for, and what it left in the background.
    let build = "echo $$ >../group; sleep 300 & sleep 300 | sleep 300";
    let over = ["bisect", "--over", "git:r", "--build", build, "--good", "main~2", "--bad", "main"];
    let what = ["--scenario", "subsystem/bdev", "-w", "test", "--library", "library"];
    let args = [&over[..], &what, &["--dir", "found", "--cache", "cache"]].concat();
    for interrupt in [false, true] {
        let args: &[&str] =
            if interrupt { &["bisect", "--resume", "found", "--cache", "cache"] } else { &args };
        let mut command = kgate(dir.path());
        let mut child = command.args(args).stderr(Stdio::null()).spawn().expect("kgate");
        let file = dir.path().join("found/group");
        let mut group = String::new();
        wait_until("no build was started", || {
            group = fs::read_to_string(&file).unwrap_or_default().trim().to_owned();
            !group.is_empty()
        });
        let lives = || {
            let asked = Command::new("kill").args(["-0", "--", &format!("-{group}")]).output();
            asked.is_ok_and(|output| output.status.success())
        };
        assert!(lives());
        if interrupt {
            let pid = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("interrupted");
            assert_eq!(child.wait().expect("its end").code(), Some(130));
        } else {
            child.kill().expect("killed");
            child.wait().expect("its end");
        }
        wait_until("the build goes on", || !lives());
        fs::remove_file(&file).expect("removed");
    }
}

#[test]
fn the_release_that_changed_what_boots_show_is_found_after_a_kill() {
    let Some((releases, changed)) = releases() else { return };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| dir.path().join(name);
    let kernels = path("kernels");
    for (name, text) in
        [("scenarios/subsystem/bdev", SCENARIO), ("workloads/profiles/test", WORKLOAD)]
    {
        let file = path("library").join(name).with_extension("yaml");
        fs::create_dir_all(file.parent().expect("a directory")).expect("a directory");
        fs::write(file, text).expect("a file");
    }
    fs::create_dir_all(&kernels).expect("a directory");
    let started = |args: &[&str]| {
        let mut command = kgate(dir.path());
        command.args(args).env("KGATE_CACHE", cache_dir());
        // Those of the good end are used again.
        command.env("KGATE_TEMPLATE_DIR", path("templates"));
        command
    };
    let resolver = Resolver { cache_dir: cache_dir(), host: &TestHost };
    for release in &releases {
        let reference = Reference::parse(&release.reference()).expect("a reference");
        resolver.resolve(&reference).expect("a kernel of apt's");
        let file = format!("{}_{}_amd64.deb", release.package, release.version);
        symlink(cache_dir().join("apt").join(&file), kernels.join(&file)).expect("a link");
    }
    let ends = [&releases[0].version, &releases[releases.len() - 1].version];
    let over = ["bisect", "--over", "kernels", "--good", ends[0], "--bad", ends[1]];
    let what = ["--scenario", "subsystem/bdev", "-w", "test", "--library", "library"];
    let how = ["--dir", "found", "--boots", "2", "--confidence", "70"];
    let mut command = started(&[&over[..], &what, &how].concat());
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("kgate");
    let mut told = BufReader::new(child.stderr.take().expect("standard error")).lines();
    let first = told.find(|line| line.as_ref().is_ok_and(|line| line.starts_with("  1 of")));
    assert!(first.is_some(), "it ended before its first answer");
    child.kill().expect("killed");
    child.wait().expect("its end");
    let before = fs::read_to_string(path("found/journal.jsonl")).expect("a journal");
    let (code, out, err) = run(&mut started(&["bisect", "--resume", "found"]));
    assert_eq!(code, 0, "{out}\n{err}");
    assert!(out.contains(&format!("first bad   {changed} ")), "{out}\n{err}");
    // What was known before the kill is not asked again.
    let after = fs::read_to_string(path("found/journal.jsonl")).expect("a journal");
    assert!(after.starts_with(&before) && !err.contains("  1 of"), "{err}");
    let mail = fs::read_to_string(path("found/regression/mail.txt")).expect("a mail");
    assert!(mail.contains("#regzbot introduced: "), "{mail}");
}
