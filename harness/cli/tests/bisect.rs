//! `kgate bisect` over real releases: since 6.1.180 the kernel no longer lists the file system of its block
//! devices in /proc/filesystems. Named `boots`, by which nextest knows what keeps a core busy.

mod bench;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::process::Stdio;
use std::{env, fs};

use bench::Bench;
use kgate_kernel::{AptKernel, Reference, Resolver, apt};
use kgate_release::Version;
use kgate_testkit::host::TestHost;
use kgate_testkit::kernels::cache_dir;

/// Before it the file system is listed, from it on it is not.
const CHANGED: &str = "6.1.180";
/// All releases that apt offers instead of four.
const ALL: &str = "KGATE_BISECT_ALL";

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

#[test]
fn the_release_that_changed_what_boots_show_is_found_after_a_kill() {
    let Some((releases, changed)) = releases() else { return };
    let Some(bench) = Bench::new(&[("bdev", "grep -w bdev /proc/filesystems")]) else { return };
    bench.workload(&["bdev"], "quiet", "");
    let kernels = bench.path("kernels");
    fs::create_dir_all(&kernels).expect("a directory");
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
    let how = ["--dir", "found", "--boots", "3", "--confidence", "90"];
    let mut command = bench.kgate(&[&over[..], &what, &how].concat());
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("kgate");
    let mut told = BufReader::new(child.stderr.take().expect("standard error")).lines();
    let first = told.find(|line| line.as_ref().is_ok_and(|line| line.starts_with("  1 of")));
    assert!(first.is_some(), "it ended before its first answer");
    child.kill().expect("killed");
    child.wait().expect("its end");
    let before = fs::read_to_string(bench.path("found/journal.jsonl")).expect("a journal");
    let output = bench.kgate(&["bisect", "--resume", "found"]).output().expect("kgate");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}\n{err}");
    assert!(out.contains(&format!("first bad   {changed} ")), "{out}\n{err}");
    // What was known before the kill is not asked again.
    let after = fs::read_to_string(bench.path("found/journal.jsonl")).expect("a journal");
    assert!(after.starts_with(&before) && !err.contains("  1 of"), "{err}");
    let mail = fs::read_to_string(bench.path("found/regression/mail.txt")).expect("a mail");
    assert!(mail.contains("#regzbot introduced: "), "{mail}");
}
