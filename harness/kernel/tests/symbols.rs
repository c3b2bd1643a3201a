//! Lines of source for frames: from a small kernel and module made by `symbols/build.sh`, in every
//! place where debug information may be, and from a real debug package where there is one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Entry, deb, gzip, put};
use kgate_kernel::{KernelError, Resolver, Symbols, Unresolved};
use kgate_model::finding::{Finding, FindingKind, Frame, Severity, Stack};
use kgate_testkit::host::TestHost;
use kgate_testkit::kernels;
use object::{Object, ObjectSymbol};

mod common;

const RELEASE: &str = "6.1.0-test";

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/symbols").join(name)
}

/// A frame as a kernel prints it: `outer+0x25/0x30 [demo]`, after `? ` an unreliable one.
fn frame(text: &str) -> Frame {
    let (reliable, text) = text.strip_prefix("? ").map_or((true, text), |rest| (false, rest));
    let (place, module) = text.split_once(" [").map_or((text, None), |(p, m)| (p, Some(m)));
    let (function, numbers) = place.split_once('+').unwrap();
    let (offset, size) = numbers.split_once('/').map_or((numbers, None), |(o, s)| (o, Some(s)));
    let number = |text: &str| u64::from_str_radix(text.strip_prefix("0x").unwrap(), 16).unwrap();
    Frame {
        function: function.into(),
        offset: Some(number(offset)),
        size: size.map(number),
        module: module.map(|m| m.trim_end_matches(']').into()),
        inlined: false,
        reliable,
        source: None,
    }
}

fn finding(release: Option<&str>, excerpt: &str, frames: &[&str]) -> Finding {
    Finding {
        release: release.map(str::to_owned),
        excerpt: excerpt.to_owned(),
        frames: frames.iter().map(|text| frame(text)).collect(),
        ..Finding::new(FindingKind::Oops, Severity::Severe, "Oops")
    }
}

fn shown(frames: &[Frame]) -> String {
    let lines = frames.iter().map(|frame| {
        let mark = if frame.inlined { "  " } else { "" };
        let source = frame.source.as_ref().map(|s| format!("{}:{}", s.file, s.line));
        format!("{mark}{} {}\n", frame.function, source.as_deref().unwrap_or("-"))
    });
    lines.collect()
}

fn open(references: &[&Path], cache: &Path) -> Result<Symbols, KernelError> {
    let resolver = Resolver { cache_dir: cache.to_owned(), host: &TestHost };
    let references: Vec<_> = references.iter().map(|p| p.display().to_string()).collect();
    Symbols::open(&references, &resolver)
}

/// The frames with their lines, then why some have none.
fn resolved(references: &[&Path], release: Option<&str>, frames: &[&str]) -> String {
    let cache = tempfile::tempdir().unwrap();
    let mut findings = [finding(release, "", frames)];
    let symbols = open(references, cache.path()).unwrap();
    let notes = symbols.resolve(&mut findings).unwrap();
    let notes: String = notes.iter().map(|note| format!("note: {note}\n")).collect();
    shown(&findings[0].frames) + &notes
}

#[test]
fn calls_are_where_they_were_made() {
    let frames = [
        "outer+0x15/0x30",
        "outer+0x23/0x30",
        "give_up+0xa/0x10",
        "start_kernel+0x26/0x30",
        "demo_read+0xb/0x10 [demo]",
        "? demo_init+0x8/0x1000 [demo]",
    ];
    let modules = [data("vmlinux"), data("demo.ko")];
    let references = [modules[0].as_path(), modules[1].as_path()];
    insta::assert_snapshot!(resolved(&references, Some(RELEASE), &frames), @"
      check init/main.c:14
      check_both init/main.c:19
    outer init/main.c:25
      check init/main.c:14
      check_both init/main.c:20
    outer init/main.c:25
    give_up init/main.c:38
    start_kernel init/main.c:44
      demo_fault drivers/demo.c:9
    demo_read drivers/demo.c:14
    demo_init drivers/demo.c:20
    ");
}

#[test]
fn instruction_pointers_are_taken_as_they_are() {
    // What comes back to the first byte of a line was called from the line before.
    let cache = tempfile::tempdir().unwrap();
    let symbols = open(&[&data("vmlinux")], cache.path()).unwrap();
    let mut lines = Vec::new();
    for excerpt in ["RIP: 0010:give_up+0x5/0x10\nCall Trace:\n", "Call Trace:\n give_up+0x5/0x10\n"]
    {
        let mut findings = [finding(Some(RELEASE), excerpt, &["give_up+0x5/0x10"])];
        assert_eq!(symbols.resolve(&mut findings).unwrap(), []);
        lines.push(shown(&findings[0].frames));
    }
    assert_eq!(lines, ["give_up init/main.c:38\n", "give_up init/main.c:37\n"]);
}

#[test]
fn functions_of_one_name_are_told_apart_by_their_size() {
    insta::assert_snapshot!(
        resolved(
            &[&data("vmlinux")],
            Some(RELEASE),
            &[
                "type_show+0x4/0x10",
                "type_show+0x4/0x30",
                // As the compiler counts.
                "type_show+0x4/0x2c",
                "type_show+0x20",
                "type_show+0x4",
                "type_show+0x4/0x50",
                "same+0x2/0x10",
                "outer+0x31",
                "nowhere+0x2/0x10",
            ],
        ),
        @"
    type_show drivers/a.c:4
    type_show drivers/b.c:4
    type_show drivers/b.c:4
    type_show drivers/b.c:4
    type_show -
    type_show -
    same -
    outer -
    nowhere -
    note: there is no function nowhere: was it built from another source or configuration?
    note: function outer is of another size in the log, 0x31: the debug information is of another build
    note: function type_show is of another size in the log, 0x50: the debug information is of another build
    note: function same is one of 2 of the same name and size
    note: function type_show is one of 2 of the same name and size
    "
    );
}

#[test]
fn every_stack_is_filled_in_once() {
    let cache = tempfile::tempdir().unwrap();
    let symbols = open(&[&data("vmlinux")], cache.path()).unwrap();
    let mut finding = finding(None, "", &["outer+0x15/0x30"]);
    finding.stacks.push(Stack {
        label: "Freed by task 1:".to_owned(),
        frames: vec![frame("drv_a+0x5/0x10")],
    });
    let mut findings = [finding];
    symbols.resolve(&mut findings).unwrap();
    let once = findings.clone();
    assert_eq!(once[0].frames.len(), 3);
    assert_eq!(shown(&once[0].stacks[0].frames), "drv_a drivers/a.c:10\n");
    symbols.resolve(&mut findings).unwrap();
    assert_eq!(findings, once);
}

#[test]
fn debug_information_of_another_kernel_is_refused() {
    let notes = |release| {
        let frames = ["drv_a+0x5/0x10", "? nothing+0x5/0x10 [absent]"];
        resolved(&[&data("vmlinux"), &data("demo.ko")], release, &frames)
    };
    insta::assert_snapshot!(notes(None), @"
    drv_a drivers/a.c:10
    nothing -
    note: no debug information of module absent: give its .ko file, built with -g, as well
    ");
    insta::assert_snapshot!(notes(Some("6.1.0-56-cloud-amd64")), @"
    drv_a -
    nothing -
    note: no debug information of kernel 6.1.0-56-cloud-amd64: that at hand is of 6.1.0-test
    ");
    let frames = ["drv_a+0x5/0x10", "demo_read+0xb/0x10 [demo]"];
    insta::assert_snapshot!(resolved(&[&data("demo.ko")], Some(RELEASE), &frames), @"
    drv_a -
      demo_fault /src/linux/drivers/demo.c:9
    demo_read /src/linux/drivers/demo.c:14
    note: no debug information of the kernel itself, only of modules
    ");
}

#[test]
fn debug_information_is_found_where_it_usually_is() {
    let vmlinux = fs::read(data("vmlinux")).unwrap();
    let module = fs::read(data("demo.ko")).unwrap();
    let name = |name: &str| name.replace("REL", RELEASE);
    let kernels_and_modules = [
        // A build tree; a directory of two files.
        ("vmlinux", "drivers/demo.ko"),
        ("vmlinux-REL", "demo.ko"),
        // Debian, Ubuntu, Fedora, and a root directory.
        ("usr/lib/debug/boot/vmlinux-REL", "usr/lib/debug/lib/modules/REL/kernel/demo.ko"),
        ("usr/lib/debug/boot/vmlinux-REL", "usr/lib/debug/lib/modules/REL/kernel/demo.ko.debug"),
        (
            "usr/lib/debug/lib/modules/REL/vmlinux",
            "usr/lib/debug/usr/lib/modules/REL/a/demo.ko.debug",
        ),
        ("boot/vmlinux-REL", "lib/modules/REL/updates/demo.ko.gz"),
        ("lib/modules/REL/build/vmlinux", "lib/modules/REL/extra/demo.ko"),
    ];
    let frames = ["demo_read+0xb/0x10 [demo]", "drv_a+0x5/0x10"];
    let expected = resolved(&[&data("vmlinux"), &data("demo.ko")], Some(RELEASE), &frames);
    assert!(expected.contains("drivers/demo.c:") && !expected.contains("note"), "{expected}");
    for (kernel, file) in kernels_and_modules {
        let root = tempfile::tempdir().unwrap();
        let kernel = put(root.path().join(name(kernel)), &vmlinux);
        let packed = if file.ends_with(".gz") { gzip(&module) } else { module.clone() };
        put(root.path().join(name(file)), packed);
        let by_directory = resolved(&[root.path()], Some(RELEASE), &frames);
        assert_eq!(by_directory, expected, "{file}");
        if !kernel.ends_with("build/vmlinux") && !kernel.ends_with(name("REL/vmlinux")) {
            assert_eq!(resolved(&[&kernel], Some(RELEASE), &frames), expected, "{file}");
        }
        assert_eq!(resolved(&[root.path()], None, &frames), expected, "{file}");
    }
}

#[test]
fn packages_are_unpacked_as_far_as_needed() {
    let vmlinux = fs::read(data("vmlinux")).unwrap();
    let module = fs::read(data("demo.ko")).unwrap();
    let path = |name: &str| format!("./usr/lib/debug/{}", name.replace("REL", RELEASE));
    let modules = path("lib/modules/REL/kernel/demo.ko");
    let other = path("lib/modules/REL/kernel/other.ko");
    let kernel = path("boot/vmlinux-REL");
    let entries = [
        Entry::File(&kernel, &vmlinux),
        Entry::File("./usr/share/doc/copyright", b"text"),
        Entry::File(&modules, &module),
        Entry::File(&other, &module),
    ];
    let dir = tempfile::tempdir().unwrap();
    let package = put(dir.path().join("dbg.deb"), deb(common::CONTROL, &entries));
    let symbols = open(&[&package], dir.path()).unwrap();
    let files = || {
        let mut files = Vec::new();
        let mut dirs = vec![dir.path().join("debug")];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { dirs.push(path) } else { files.push(path) }
            }
        }
        let names = files.iter().map(|p| p.file_name().unwrap().to_string_lossy().into_owned());
        let mut names: Vec<_> = names.filter(|name| name != ".lock").collect();
        names.sort();
        names
    };
    let resolve = |text: &str| {
        let mut findings = [finding(Some(RELEASE), "", &[text])];
        let notes = symbols.resolve(&mut findings).unwrap();
        (findings[0].frames.last().unwrap().source.is_some(), notes)
    };
    assert_eq!(resolve("outer+0x15/0x30"), (true, vec![]));
    assert_eq!(files(), ["contents", "vmlinux-6.1.0-test"]);
    assert_eq!(resolve("demo_read+0xb/0x10 [demo]"), (true, vec![]));
    assert_eq!(files(), ["contents", "demo.ko", "vmlinux-6.1.0-test"]);
    let missing = Unresolved::NoModule { module: "absent".to_owned() };
    assert_eq!(resolve("f+0xb/0x10 [absent]"), (false, vec![missing]));
    assert_eq!(files(), ["contents", "demo.ko", "vmlinux-6.1.0-test"]);
}

#[test]
fn what_has_no_debug_information_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let stripped = put(dir.path().join("vmlinux"), common::vmlinux(None, None));
    let text = put(dir.path().join("vmlinux.txt"), "text");
    let empty = put(dir.path().join("empty"), "");
    let package = put(dir.path().join("cut.deb"), "!<arch>\n");
    let mut messages = String::new();
    for path in [&stripped, &text, &empty, &dir.path().join("absent"), &PathBuf::from("apt:x_y")] {
        let error = open(&[path], dir.path()).unwrap_err().to_string();
        messages += &(error.replace(&dir.path().display().to_string(), "DIR") + "\n");
    }
    let symbols = open(&[&package], dir.path()).unwrap();
    let mut findings = [finding(None, "", &["f+0x1/0x2"])];
    let error = symbols.resolve(&mut findings).unwrap_err().to_string();
    messages += &error.replace(&dir.path().display().to_string(), "DIR");
    insta::assert_snapshot!(messages, @r#"
    DIR/vmlinux: not debug information: an ELF file without .debug_info and .debug_line; give a vmlinux or module built with CONFIG_DEBUG_INFO, a directory that has them, or a debug package
    DIR/vmlinux.txt: not debug information: not an ELF file; give a vmlinux or module built with CONFIG_DEBUG_INFO, a directory that has them, or a debug package
    DIR/empty: not debug information: not an ELF file; give a vmlinux or module built with CONFIG_DEBUG_INFO, a directory that has them, or a debug package
    DIR/absent: not debug information: there is no such file or directory; give a vmlinux or module built with CONFIG_DEBUG_INFO, a directory that has them, or a debug package
    apt:x_y: not debug information: "x_y" is not a package name; give a vmlinux or module built with CONFIG_DEBUG_INFO, a directory that has them, or a debug package
    DIR/cut.deb: cut short: it has no data.tar; fetch or build it again
    "#);
}

#[test]
fn damaged_files_are_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let whole = fs::read(data("vmlinux")).unwrap();
    let module = fs::read(data("demo.ko")).unwrap();
    let frames = ["outer+0x15/0x30", "demo_read+0xb/0x10 [demo]", "demo_init+0x8/0x1000 [demo]"];
    let mut random = 1_u32;
    let mut next = |bound: usize| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 8) as usize % bound
    };
    let mut lines = BTreeMap::new();
    for round in 0..600 {
        let mut files = [whole.clone(), module.clone()];
        for bytes in &mut files {
            if round % 3 == 0 {
                let length = next(bytes.len());
                bytes.truncate(length);
            } else {
                for _ in 0..=round % 8 {
                    let at = next(bytes.len());
                    bytes[at] = u8::try_from(next(256)).unwrap();
                }
            }
        }
        let kernel = put(dir.path().join("vmlinux"), &files[0]);
        let demo = put(dir.path().join("demo.ko"), &files[1]);
        let mut findings = [finding(None, "", &frames)];
        for path in [&kernel, &demo] {
            if let Ok(symbols) = open(&[path], dir.path()) {
                let outcome = match symbols.resolve(&mut findings) {
                    Ok(notes) => notes.is_empty(),
                    Err(_) => false,
                };
                *lines.entry(outcome).or_insert(0) += 1;
            }
        }
    }
    // Both happen: the damage is neither too little nor too much to mean anything.
    assert!(lines[&false] > 50, "{lines:?}");
}

/// Compared with what binutils say about the same bytes.
#[test]
fn real_debug_information() {
    let dir = kernels::cache_dir().join("dbg");
    let packages = fs::read_dir(&dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let Some(package) = packages.into_iter().find(|p| p.extension().is_some_and(|e| e == "deb"))
    else {
        eprintln!(
            "SKIP: no debug package in {}: apt-get download linux-image-RELEASE-dbg there",
            dir.display()
        );
        return;
    };
    let symbols = open(&[&package], &kernels::cache_dir()).unwrap();
    let mut findings = [finding(None, "", &["start_kernel+0x5"])];
    assert_eq!(symbols.resolve(&mut findings).unwrap(), []);
    assert_eq!(findings[0].frames.last().unwrap().source.as_ref().unwrap().file, "init/main.c");

    let unpacked = fs::read_dir(kernels::cache_dir().join("debug")).unwrap().flatten();
    let boot = unpacked.map(|dir| dir.path().join("boot")).find(|boot| boot.is_dir()).unwrap();
    let vmlinux = fs::read_dir(boot).unwrap().next().unwrap().unwrap().path();
    let cache = object::ReadCache::new(fs::File::open(&vmlinux).unwrap());
    let file = object::File::parse(&cache).unwrap();
    let mut by_name: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
    for symbol in file.symbols().filter(|s| s.kind() == object::SymbolKind::Text && s.size() > 16) {
        let places = by_name.entry(symbol.name().unwrap().to_owned()).or_default();
        places.push((symbol.address(), symbol.size()));
    }
    let picked: Vec<_> = by_name
        .into_iter()
        .filter_map(|(name, places)| match places[..] {
            [(address, size)] if !name.contains("trace") => Some((name, address, size)),
            _ => None,
        })
        .step_by(150)
        .collect();
    let texts: Vec<_> =
        picked.iter().map(|(name, _, size)| format!("{name}+{:#x}/{size:#x}", size / 2)).collect();
    let frames: Vec<&str> = texts.iter().map(String::as_str).collect();
    let mut findings = [finding(None, "", &frames)];
    symbols.resolve(&mut findings).unwrap();

    let addresses = picked.iter().map(|(_, at, size)| format!("{:#x}", at + size / 2 - 1));
    let output = Command::new("addr2line")
        .args(["-i", "-a", "-e"])
        .arg(&vmlinux)
        .args(addresses)
        .stderr(Stdio::null())
        .output();
    let Ok(output) = output else {
        eprintln!("SKIP: no addr2line here to compare with");
        return;
    };
    // Address, then a line for each function, innermost first.
    let text = String::from_utf8(output.stdout).unwrap();
    let expected: Vec<Vec<&str>> = text
        .split("0x")
        .skip(1)
        .map(|block| {
            let lines = block.lines().skip(1).map(|l| l.split(' ').next().unwrap());
            lines.map(|l| l.rsplit(':').next().unwrap()).collect()
        })
        .collect();
    let mut own: Vec<Vec<String>> = vec![Vec::new()];
    for frame in &findings[0].frames {
        let line = frame.source.as_ref().map_or("?".to_owned(), |source| source.line.to_string());
        own.last_mut().unwrap().push(line);
        if !frame.inlined {
            own.push(Vec::new());
        }
    }
    own.pop();
    assert_eq!(own.len(), expected.len());
    let same = own.iter().zip(&expected).filter(|(own, expected)| own == expected).count();
    assert!(same * 100 >= own.len() * 99, "{same} of {}", own.len());
    println!("{same} of {} like addr2line", own.len());
}
