//! What malformed kernels, files and flags are answered: every message exactly, with its exit code.
//! Paths are relative to a directory of the test's own, so that they are the same everywhere.

mod support;

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use kgate_model::kernel::KernelRecord;
use kgate_model::outcome::Role;
use kgate_runner::{Capabilities, Inputs, Placement, RunDir, make_plan};
use kgate_scenario::{Library, Waivers, Workload};
use kgate_testkit::kernels;
use support::{kgate, run};
use tempfile::TempDir;

/// A mistake and the command line that makes it.
type Case = (&'static str, &'static str);
/// A mistake in a file: its name, the file, its content.
type FileCase = (&'static str, &'static str, &'static str);

/// Runs every command line in `dir` and puts the answers below each other.
fn answers(dir: &Path, cases: &[Case]) -> String {
    let mut text = String::new();
    for (name, line) in cases {
        answer(&mut text, name, line, kgate(dir).env("KGATE_CACHE", "cache"));
    }
    text
}

fn answer(text: &mut String, name: &str, line: &str, command: &mut std::process::Command) {
    let (code, stdout, stderr) = run(command.args(line.split_whitespace()));
    assert_eq!(stdout, "", "{name}: standard output is for results");
    assert!([2, 4].contains(&code), "{name}: exit code {code}\n{stderr}");
    writeln!(text, "=== {name}\n$ kgate {line}\n{stderr}[exit {code}]\n").unwrap();
}

fn put(dir: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// A directory with a library of two scenarios and an image.
fn directory() -> TempDir {
    let dir = TempDir::new().unwrap();
    for (name, text) in [
        (
            "lib/scenarios/performance/pipe.yaml",
            "kind: performance\nsummary: s\nsteps:\n  - measure: pipe\n",
        ),
        (
            "lib/scenarios/integration/wrk.yaml",
            "kind: integration\nsummary: s\nsteps:\n  - run: wrk\n    metrics:\n      requests: \
             { pattern: '(\\d+)', unit: 1/s, better: higher }\n",
        ),
        (
            "lib/scenarios/integration/lost.yaml",
            "kind: integration\nsummary: s\nimage: egde\nsteps:\n  - run: ls\n",
        ),
        ("lib/workloads/profiles/lost.yaml", "summary: s\nscenarios: [integration/lost]\n"),
        ("lib/workloads/profiles/edge.yaml", "summary: s\nscenarios: [performance/*]\n"),
        ("lib/images/edge.yaml", "summary: s\npackages: [iproute2]\n"),
        ("lib/images/bad.yaml", "summary: s\npakages: [iproute2]\n"),
    ] {
        put(dir.path(), name, text);
    }
    dir
}

/// A package as `ar` and `tar` write it, neither packed.
fn deb(files: &[(&str, &[u8])]) -> Vec<u8> {
    let tar = |files: &[(&str, &[u8])]| {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, *content).unwrap();
        }
        tar.into_inner().unwrap()
    };
    let control = b"Package: hello\nVersion: 2.10-3\nArchitecture: amd64\n";
    let mut out = b"!<arch>\n".to_vec();
    for (name, content) in [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar", tar(&[("control", control)])),
        ("data.tar", tar(files)),
    ] {
        let length = content.len();
        out.extend(format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{length:<10}`\n", 0, 0, 0, 644).bytes());
        out.extend(content);
        out.resize(out.len().next_multiple_of(2), b'\n');
    }
    out
}

#[test]
fn kernels_that_are_none() {
    let dir = directory();
    let arm = {
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(64, 0);
        elf[16..20].copy_from_slice(&[2, 0, 183, 0]);
        elf
    };
    put(dir.path(), "empty", b"");
    put(dir.path(), "script", b"#!/bin/sh\nexit 0\n");
    put(dir.path(), "vmlinux-arm64", arm);
    put(dir.path(), "garbage.rpm", b"this is no RPM".repeat(100));
    put(dir.path(), "garbage.deb", b"this is no package".repeat(100));
    put(dir.path(), "hello.deb", deb(&[("usr/bin/hello", b"hello")]));
    fs::create_dir(dir.path().join("nothing")).unwrap();
    let cases = [
        ("no such file", "kernel show vmlinuz-6.1"),
        ("an empty file", "kernel show empty"),
        ("a script", "kernel show script"),
        ("an ELF file of another architecture", "kernel show vmlinux-arm64"),
        ("a directory without a kernel", "kernel show nothing"),
        ("an RPM that is none", "kernel show garbage.rpm"),
        ("a Debian package that is none", "kernel show garbage.deb"),
        ("a Debian package of something else", "kernel show hello.deb"),
        ("a scheme that is none", "kernel show docker:debian"),
        ("a name that apt would take for an option", "kernel show apt:--help"),
        ("an option that is none", "kernel show empty,module=nothing"),
        ("one of two kernels", "run --baseline empty --candidate script"),
    ];
    insta::assert_snapshot!(answers(dir.path(), &cases));
}

/// A real kernel as a directory whose modules are complete but for `without`.
fn tree(kernel: &kgate_kernel::Kernel, to: &Path, without: &str) {
    let from = kernel.image.ancestors().nth(2).unwrap();
    copy(from, to, without);
}

fn copy(from: &Path, to: &Path, without: &str) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copy(&source, &target, without);
        } else if kind.is_file()
            && !entry.file_name().to_string_lossy().starts_with(without)
            // Another file system takes no link.
            && fs::hard_link(&source, &target).is_err()
        {
            fs::copy(&source, &target).unwrap();
        }
    }
}

#[test]
fn real_kernels_that_are_not_whole() {
    let Some(pair) = kernels::pair() else { return };
    let dir = directory();
    let image = fs::read(&pair.baseline.image).unwrap();
    put(dir.path(), "cut", &image[..image.len() / 2]);
    put(dir.path(), "cut-in-header", &image[..300]);
    put(dir.path(), "bare", &image);
    let mut other = image;
    // The setup header's xloadflags say that it has a 64-bit entry point.
    other[0x236] = 0;
    put(dir.path(), "i386", other);
    let package = fs::read(&pair.baseline_deb).unwrap();
    put(dir.path(), "whole.deb", &package);
    put(dir.path(), "cut.deb", &package[..package.len() / 2]);
    put(dir.path(), "script", "#!/bin/sh\necho hello 1.0\n");
    fs::set_permissions(dir.path().join("script"), Permissions::from_mode(0o755)).unwrap();
    tree(&pair.baseline, &dir.path().join("partial"), "virtio_net.ko");
    let modules = pair.candidate.image.ancestors().nth(2).unwrap().join("lib/modules");
    std::os::unix::fs::symlink(modules, dir.path().join("modules")).unwrap();
    let cases = [
        ("a cut image", "kernel show cut"),
        ("an image cut in its header", "kernel show cut-in-header"),
        ("a 32-bit image", "kernel show i386"),
        ("a cut package", "kernel show cut.deb"),
        ("modules of another release", "kernel show bare,modules=modules"),
        ("no such directory of modules", "kernel show bare,modules=gone"),
        ("a release that the directory does not have", "kernel show partial,release=5.10"),
        ("no modules at all", "boot bare --accel tcg -- true"),
        ("a required driver is missing", "boot partial --accel tcg --network -- true"),
        ("a module that the kernel does not have", "boot partial --modules zfs -- true"),
        ("an image that is none", "boot partial --library lib --image egde -- true"),
        ("an image's recipe with a mistake", "boot partial --library lib --image bad -- true"),
        ("a scenario on an image that is none", "plan -b bare -c bare --library lib -w lost"),
        ("a shell without a terminal", "boot bare"),
        ("a machine too small", "boot bare --memory 1 -- true"),
        ("a machine without CPUs", "boot bare --cpus 0 -- true"),
        ("an emulator that is none", "boot bare --qemu qemu-none -- true"),
        ("an emulator that is something else", "boot bare --qemu ./script -- true"),
        ("a scenario that is none", "boot partial --library lib --scenario integration/wkr"),
        ("a cache that can't be made", "kernel show whole.deb --cache /dev/null/cache"),
        (
            "a file for a run directory",
            "run -b partial -c partial --accel tcg -w edge --library lib --dir bare",
        ),
        ("a run directory with something in it", "run -b bare -c bare --dir lib"),
        ("a run without room for a guest", "run -b bare -c bare --memory 127"),
        ("apt has no such package", "kernel show apt:linux-image-0.0.0-0-nonexistent"),
        ("apt has no such version", "kernel show apt:linux-image-amd64=0.0.0"),
    ];
    let mut text = answers(dir.path(), &cases);
    // Whatever apt offers this week.
    for (found, placeholder) in [
        (&pair.baseline.release, "[baseline release]"),
        (&pair.candidate.release, "[candidate release]"),
    ] {
        text = text.replace(found.as_str(), placeholder);
    }
    insta::with_settings!({ filters => vec![(r"\b\d{5,}\b", "[bytes]")] }, {
        insta::assert_snapshot!(text);
    });
}

/// Scenarios; they lie in `lib/scenarios/subsystem`.
const SCENARIOS: &[FileCase] = &[
    ("tab", "tab.yaml", "kind: subsystem\nsummary: s\nsteps:\n\t- run: x\n"),
    ("key twice", "twice.yaml", "kind: subsystem\nsummary: s\nsummary: t\nsteps: [{ run: x }]\n"),
    ("unknown key", "key.yaml", "kind: subsystem\nsumary: s\nsteps: [{ run: x }]\n"),
    ("wrong type", "type.yaml", "kind: subsystem\nsummary: [s]\nsteps: { run: x }\n"),
    (
        "bad duration",
        "time.yaml",
        "kind: subsystem\nsummary: s\ntimeout: 5min\nsteps: [{ run: x }]\n",
    ),
    (
        "bad size",
        "size.yaml",
        "kind: subsystem\nsummary: s\nrequires: { memory: 512M }\nsteps: [{ run: x }]\n",
    ),
    (
        "bad regular expression",
        "regex.yaml",
        "kind: subsystem\nsummary: s\nsteps:\n  - run: x\n    expect: { stdout: 'a(' }\n",
    ),
    ("unknown operation", "op.yaml", "kind: subsystem\nsummary: s\nsteps: [{ measure: pip }]\n"),
    ("no steps", "steps.yaml", "kind: subsystem\nsummary: s\nsteps: []\n"),
    (
        "two verbs in a step",
        "verbs.yaml",
        "kind: subsystem\nsummary: s\nsteps:\n  - run: x\n    measure: pipe\n",
    ),
    (
        "kind of another directory",
        "kind.yaml",
        "kind: performance\nsummary: s\nsteps: [{ run: x }]\n",
    ),
    (
        "aliases that multiply",
        "bomb.yaml",
        "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n",
    ),
    ("nothing", "nothing.yaml", ""),
];

/// Workloads.
const WORKLOADS: &[FileCase] = &[
    ("a glob that matches nothing", "glob.yaml", "summary: s\nscenarios: [performance/pip]\n"),
    ("bad percentage", "percent.yaml", "summary: s\nscenarios:\n  - performance/*: { fail: 3 }\n"),
    (
        "unknown metric",
        "metric.yaml",
        "summary: s\nscenarios: [integration/*]\npolicy: { metrics: { request: { fail: 3% } } }\n",
    ),
    ("more than one document", "two.yaml", "summary: s\nscenarios: [integration/*]\n---\nx: y\n"),
];

#[test]
fn files() {
    let dir = directory();
    let mut text = String::new();
    let mut check = |name: &str, path: &str, content: &[u8]| {
        put(dir.path(), path, content);
        let line = format!("scenario check --library lib {path}");
        answer(&mut text, name, &line, kgate(dir.path()).env("KGATE_CACHE", "cache"));
        fs::remove_file(dir.path().join(path)).unwrap();
    };
    for (name, file, content) in SCENARIOS {
        check(name, &format!("lib/scenarios/subsystem/{file}"), content.as_bytes());
    }
    let deep = format!("kind: subsystem\nsummary: {}{}\n", "[".repeat(5000), "]".repeat(5000));
    check("nested deeply", "lib/scenarios/subsystem/deep.yaml", deep.as_bytes());
    check("not UTF-8", "lib/scenarios/subsystem/latin1.yaml", b"kind: subsystem\nsummary: \xe9\n");
    check("too large", "lib/scenarios/subsystem/large.yaml", &vec![b'#'; (1 << 20) + 1]);
    for (name, file, content) in WORKLOADS {
        check(name, file, content.as_bytes());
    }
    text += &answers(
        dir.path(),
        &[
            ("a whole library with an image that is none", "scenario check --library lib"),
            ("no such scenario", "scenario check --library lib scenarios/subsystem/gone.yaml"),
            ("a directory for a file", "scenario check --library lib lib"),
            ("a library that is none", "scenario list --library cache"),
            ("a workload that is none", "scenario list --library lib --workload egde"),
        ],
    );
    insta::assert_snapshot!(text);
}

/// A run directory as `kgate run` leaves it before its first boot.
fn planned(path: &Path, boots: u32) {
    struct All;
    impl Capabilities for All {
        fn config(&self, _: Role, _: &str) -> Option<String> {
            None
        }
        fn module(&self, _: Role, _: &str) -> Option<bool> {
            None
        }
    }
    let scenario = "kind: performance\nsummary: s\nsteps:\n  - measure: pipe\n".to_owned();
    let library =
        Library::load([(PathBuf::from("scenarios/performance/pipe.yaml"), scenario)]).unwrap();
    let text = format!("summary: s\nscenarios: [performance/*]\npolicy: {{ boots: {boots} }}\n");
    let workload = Workload::load(Path::new("edge.yaml"), &text, &library).unwrap();
    let inputs = Inputs {
        policy: workload.policy.clone(),
        selected: library.select(&workload),
        workload,
        waivers: Waivers::default(),
    };
    let kernel = |release: &str| KernelRecord {
        reference: format!("vmlinuz-{release}"),
        release: release.to_owned(),
        banner: format!("{release} (kgate@test) #1"),
        upstream: Some(release.to_owned()),
        origin: format!("vmlinuz-{release}"),
        image_sha256: "0".repeat(64),
        package_sha256: None,
    };
    let plan =
        make_plan(&inputs, kernel("6.1.170"), kernel("6.1.192"), &All, &Placement::default(), 1);
    RunDir::create(path, plan, inputs).unwrap();
}

#[test]
fn run_directories() {
    let dir = directory();
    let at = |name: &str| dir.path().join(name);
    for (name, boots) in [("planned", 5), ("other", 3), ("journal", 5), ("format", 5), ("cut", 5)] {
        planned(&at(name), boots);
    }
    put(dir.path(), "journal/journal.jsonl", "this is no journal\n");
    let plan = fs::read_to_string(at("format/plan.json")).unwrap();
    assert!(plan.contains("\"format\": 4,"), "{plan}");
    put(dir.path(), "format/plan.json", plan.replace("\"format\": 4,", "\"format\": 99,"));
    put(dir.path(), "cut/plan.json", &plan[..plan.len() / 2]);
    fs::create_dir(at("empty")).unwrap();
    put(
        dir.path(),
        "date.yaml",
        "- id: a\n  scope: { metric: pipe }\n  reason: r\n  owner: o\n  expires: next week\n",
    );
    put(dir.path(), "policy.yaml", "boots: 3\nnew-warning: fail\nperformance: { warn: 6 }\n");
    let cases = [
        ("no such run", "run --resume gone"),
        ("an empty directory", "run --resume empty"),
        ("a directory of something else", "run --resume lib"),
        ("a plan of another format", "run --resume format"),
        ("a plan cut short", "run --resume cut"),
        ("kernels that are gone", "run --resume planned"),
        ("options that a resumed run has already", "run --resume planned --baseline x"),
        ("a journal of something else", "report journal"),
        ("nothing to compare", "compare gone"),
        ("runs that do not belong together", "merge merged planned other"),
        ("a merge into a run", "merge planned planned"),
        ("a partition that is missing", "merge merged planned gone"),
        ("a report over a directory", "report planned --junit empty"),
        ("a report below a file", "report planned --json planned/plan.json/results.json"),
        ("a waiver that never ends", "compare planned --waivers date.yaml"),
        ("no such waivers", "compare planned --waivers gone.yaml"),
        ("a bad policy", "compare planned --policy policy.yaml"),
    ];
    insta::assert_snapshot!(answers(dir.path(), &cases));
}

#[test]
fn flags() {
    let dir = directory();
    let cases = [
        ("no command", ""),
        ("unknown command", "rnu"),
        ("unknown flag", "run --basline x"),
        ("a flag without its value", "run --baseline"),
        ("an argument missing", "boot"),
        ("no kernels", "run --library lib"),
        ("one kernel", "run --library lib --baseline empty"),
        ("no boots", "run --boots 0"),
        ("boots in words", "run --boots five"),
        ("partition 0 of 2", "run --partition 0/2"),
        ("partition 3 of 2", "run --partition 3/2"),
        ("partition in letters", "run --partition abc"),
        ("two directories", "run --resume a --dir b"),
        ("no partitions", "plan --partitions 0"),
        ("unknown accelerator", "boot x --accel hvf -- true"),
        ("unknown shell", "completions tcsh"),
        ("a command without --", "boot x true"),
        ("a scenario and a command", "boot x --scenario integration/wrk -- true"),
        (
            "a scenario that the workload does not have",
            "plan --library lib -b x -c x -w edge --scenario integration/*",
        ),
        ("a workload that is none", "plan --library lib -b x -c x -w smok"),
        ("a flavour that apt does not have", "kernel list --pair --flavour none"),
    ];
    let mut text = answers(dir.path(), &cases);
    put(dir.path(), "cut.log.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\x03cut short");
    text += &answers(
        dir.path(),
        &[
            ("a log that is not there", "klog gone.log"),
            ("a directory for a log", "klog lib"),
            ("a packed log that is broken", "klog cut.log.gz"),
            ("a baseline's log that is not there", "klog cut.log.gz --against gone.log"),
            ("standard input twice", "klog - --against -"),
            ("a format that is none", "klog x --format xml"),
            ("a source that is none", "klog x --source serial"),
            ("a time for an age", "cache prune --older-than yesterday"),
            ("an age that is none", "cache prune --older-than 0d"),
            ("an age before all time", "cache prune --older-than 19000y"),
            ("two choices of what goes", "cache prune --all --templates"),
            ("a limit that is none", "cache --template-limit 1GiB"),
        ],
    );
    // Only what keeps something needs a place to keep it.
    answer(&mut text, "no home and no cache", "kernel show lib", &mut kgate(dir.path()));
    let (code, ..) = run(kgate(dir.path()).args(["scenario", "list", "--library", "lib"]));
    assert_eq!(code, 0);
    insta::assert_snapshot!(text);
}

#[test]
fn releases_and_what_is_done_about_them() {
    let dir = directory();
    put(dir.path(), "tags", "v6.1.1\nv6.1.2\n");
    put(dir.path(), "page", "<html>one line");
    put(dir.path(), "other", "{\"format\":\"kgate-gate/9\"}\n");
    let cases = [
        (
            "a state that is something else",
            "releases new --since page --production 6.1.1 --feed tags",
        ),
        ("a state that is a directory", "releases new --since lib --production 6.1.1 --feed tags"),
        ("a state of another format", "releases new --since other --production 6.1.1 --feed tags"),
        ("no state and no production", "releases new --since gone --feed tags"),
        (
            "a vendor's kernel",
            "releases new --since gone --production 5.14.0-427.13.1.el9_4.x86_64 --feed tags",
        ),
        ("a version for a kernel", "gate --production 6.1.1 --state gone --feed tags"),
        ("what is to be gated again", "gate --production 6.1.1 --state gone --again"),
        ("a workload that is none", "gate --production 6.1.1 --state gone -w egde --library lib"),
        ("a tier that is none", "plan -b script -c script --tier bugfx"),
        ("no source of changes", "releases waiting 6.1.1"),
        ("another branch", "releases waiting 6.1.1 --to 6.2.1"),
        ("changes that are none", "releases delta 6.1.1 6.1.2 --changelogs page"),
        ("no repository", "releases delta 6.1.1 6.1.2 --git lib"),
        ("no run for a mail", "report regression lib"),
        ("no run to bisect", "bisect lib"),
        ("nothing to bisect", "bisect --good 6.1.1 --bad 6.1.2"),
        ("a bisection in another's directory", "bisect --good 6.1.1 --bad 6.1.2 --dir lib"),
        ("no bisection to go on with", "bisect --resume lib"),
        (
            "no repository to bisect",
            "bisect --over git:lib --build true --good v1 --bad v2 --library lib -w edge --scenario performance/pipe",
        ),
    ];
    let place = dir.path().canonicalize().unwrap().display().to_string();
    insta::assert_snapshot!(answers(dir.path(), &cases).replace(&place, "[dir]"));
    assert_eq!(fs::read_to_string(dir.path().join("page")).unwrap(), "<html>one line");
    assert!(!dir.path().join("gone").exists());
}
