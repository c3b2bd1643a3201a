//! `kgate cache` on a cache made by hand, with real templates in it.

mod support;

use std::fs::{self, File, FileTimes};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use kgate_qemu::{Description, Kept, Key, Store, StoreConfig};
use support::{kgate, run};
use tempfile::TempDir;

const MIB: usize = 1 << 20;

/// What a run that used all of it, and one that was killed, leave.
const FILES: &[(&str, usize)] = &[
    ("cache/kernels/aa/boot/vmlinuz-6.1.0-50-cloud-amd64", 8 * MIB),
    ("cache/kernels/aa/lib/modules/6.1.0-50-cloud-amd64/kernel/a.ko", 3 * MIB),
    ("cache/kernels/.unfinished-x/boot/vmlinuz-6.1.0-53-cloud-amd64", 2 * MIB),
    ("cache/kernels/.lock", 0),
    ("cache/apt/linux-image_6.1.0-50_amd64.deb", 5 * MIB),
    ("cache/images/bb/image.squashfs", 6 * MIB),
    ("cache/images/bb/manifest.json", 100),
    ("cache/images/.build-y/image.squashfs", MIB),
    ("cache/packages/debs/nginx_1_amd64.deb", 2 * MIB),
    ("cache/packages/debs/zlib1g_1_amd64.deb", MIB),
    ("cache/packages/apt/status", MIB),
    ("cache/busybox-cc", MIB),
    ("cache/boots/.tmp1/plan.json", MIB),
    ("cache/mine/notes.txt", MIB),
];

fn directory() -> TempDir {
    let dir = TempDir::new().unwrap();
    for (name, bytes) in FILES {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![7; *bytes]).unwrap();
    }
    dir
}

fn store(dir: &Path) -> Store {
    let (memory, disk) = (Some(dir.join("memory")), dir.join("cache/templates"));
    Store::new(StoreConfig { memory, disk, limit: 1 << 30 })
}

fn template(dir: &Path, n: u8) -> Kept {
    let building = store(dir).create(Key::new([n; 32]), 0).unwrap();
    fs::write(building.path("memory"), vec![n; usize::from(n) * MIB]).unwrap();
    let (kernel, image) = (format!("6.1.0-{n}-cloud-amd64"), "base".to_owned());
    building
        .finish(
            Description { kernel, image, memory: 512 << 20, created_ms: 1_700_000_000_000 },
            true,
        )
        .unwrap()
}

/// As if it was last used so long ago.
fn used(dir: &Path, n: u8, ago: Duration) {
    let name = format!("{n:02x}").repeat(32);
    let lock = File::options().write(true).open(dir.join("memory").join(name).join("lock"));
    lock.unwrap().set_modified(SystemTime::now() - ago).unwrap();
}

fn cache(dir: &Path, line: &str) -> Command {
    let mut command = kgate(dir);
    command.args(["--cache", "cache", "--template-dir", "memory", "--template-limit", "1024"]);
    command.arg("cache").args(line.split_whitespace());
    command
}

fn told(dir: &Path, line: &str) -> String {
    let (code, stdout, stderr) = run(&mut cache(dir, line));
    assert_eq!((code, stderr.as_str()), (0, ""), "{line}");
    stdout
}

fn left(dir: &Path) -> Vec<&'static str> {
    FILES.iter().map(|(name, _)| *name).filter(|name| dir.join(name).exists()).collect()
}

#[test]
fn an_empty_cache_stays_one() {
    let dir = TempDir::new().unwrap();
    insta::assert_snapshot!(told(dir.path(), ""), @r"
    templates   none; at most 1.0 GiB are kept

    cache       cache
      empty

    total       0
    ");
    insta::assert_snapshot!(told(dir.path(), "prune --all"), @"nothing was removed");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn all_that_is_kept_is_told_on_one_screen() {
    let dir = directory();
    drop(template(dir.path(), 50));
    used(dir.path(), 50, Duration::from_secs(3 * 86_400 + 5));
    drop(template(dir.path(), 53));
    used(dir.path(), 53, Duration::from_secs(190));
    let _used = template(dir.path(), 54);
    let _made = store(dir.path()).create(Key::new([1; 32]), 0).unwrap();
    fs::create_dir(dir.path().join("memory").join("77".repeat(32))).unwrap();
    let text = told(dir.path(), "");
    insta::with_settings!({filters => vec![(r"\b(\d+ KiB|0$)", "N KiB")]}, {
        insta::assert_snapshot!(text, @r"
        templates   3, 157 MiB; at most 1.0 GiB are kept
          kernel                image  memory   size    last used  where
          6.1.0-54-cloud-amd64  base   512 MiB  54 MiB  in use     memory
          6.1.0-53-cloud-amd64  base   512 MiB  53 MiB  3 min ago  memory
          6.1.0-50-cloud-amd64  base   512 MiB  50 MiB  3 d ago    memory
          1 being made, N KiB
          1 left over by kgates that were killed, N KiB

        cache       cache
          kernels          1  11 MiB
          kernel packages  1  5 MiB
          images           1  6 MiB
          image packages   2  3 MiB
          package lists    1  1 MiB
          busybox          1  1 MiB
          left over        3  4 MiB

        total       188 MiB
        ");
    });
    assert!(text.lines().count() <= 24);
}

#[test]
fn a_program_gets_all_of_it() {
    let dir = directory();
    drop(template(dir.path(), 50));
    let json: serde_json::Value = serde_json::from_str(&told(dir.path(), "--json")).unwrap();
    let one = &json["templates"]["entries"][0];
    assert_eq!(one["kernel"], "6.1.0-50-cloud-amd64");
    assert_eq!(one["key"], "32".repeat(32));
    assert_eq!(one["memory_bytes"], 512 << 20);
    assert_eq!(one["created"], "2023-11-14T22:13:20Z");
    assert_eq!((&one["place"], &one["status"]), (&"memory".into(), &"kept".into()));
    assert!(one["last_used"].is_string());
    assert!(one["bytes"].as_u64().unwrap() >= 50 << 20);
    assert_eq!(json["templates"]["limit_bytes"], 1 << 30);
    assert_eq!(json["cache"]["in_use"], false);
    let parts = json["cache"]["parts"].as_array().unwrap();
    let kinds: Vec<_> = parts.iter().map(|p| format!("{} {}", p["kind"], p["count"])).collect();
    let kinds = kinds.join(", ").replace('"', "");
    insta::assert_snapshot!(kinds, @"kernels 1, kernel packages 1, images 1, image packages 2, package lists 1, busybox 1, left over 3");
    let parts: u64 = parts.iter().map(|part| part["bytes"].as_u64().unwrap()).sum();
    assert_eq!(json["bytes"], parts + json["templates"]["bytes"].as_u64().unwrap());
}

#[test]
fn prune_removes_what_it_is_asked_to() {
    let dir = directory();
    for n in [1, 2] {
        drop(template(dir.path(), n));
    }
    used(dir.path(), 1, Duration::from_secs(10 * 86_400));
    let size = |text: String| {
        let digits = |c: char| if c.is_ascii_digit() { '#' } else { c };
        let (size, rest) = text.split_once(':').unwrap_or(("", &text));
        format!("{}:{rest}", size.chars().map(digits).collect::<String>())
    };
    insta::assert_snapshot!(size(told(dir.path(), "prune")), @"freed # MiB: left over (3)");
    let whole: Vec<_> = (FILES.iter().map(|(name, _)| *name))
        .filter(|name| !name.contains("/.") || name.ends_with(".lock"))
        .collect();
    assert_eq!(left(dir.path()), whole);
    insta::assert_snapshot!(size(told(dir.path(), "prune")), @":nothing was removed");
    insta::assert_snapshot!(size(told(dir.path(), "prune --older-than 7d")), @"freed # MiB: templates (1)");
    insta::assert_snapshot!(size(told(dir.path(), "prune --templates")), @"freed # MiB: templates (1)");
    assert_eq!(left(dir.path()), whole);
    insta::assert_snapshot!(size(told(dir.path(), "prune --all")), @"freed ## MiB: kernels (1), kernel packages (1), images (1), image packages (2), package lists (1), busybox (1)");
    assert_eq!(left(dir.path()), ["cache/kernels/.lock", "cache/mine/notes.txt"]);
}

#[test]
fn what_was_read_long_ago_goes_by_its_age() {
    let dir = directory();
    // The time of a change can't be set. As if the image was read while others were pruned:
    let image = File::options().write(true).open(dir.path().join("cache/images/bb/image.squashfs"));
    let read = FileTimes::new().set_accessed(SystemTime::now() + Duration::from_secs(3600));
    image.unwrap().set_times(read).unwrap();
    std::thread::sleep(Duration::from_millis(2100));
    told(dir.path(), "prune --older-than 1s");
    let left = left(dir.path());
    assert!(left.contains(&"cache/images/bb/image.squashfs"), "{left:?}");
    assert!(left.contains(&"cache/images/bb/manifest.json"), "an image is one thing: {left:?}");
    assert!(!left.iter().any(|name| name.contains("kernels/aa") || name.ends_with(".deb")));
}

#[test]
fn what_a_running_kgate_uses_stays() {
    let dir = directory();
    let _template = template(dir.path(), 3);
    let lock = File::create(dir.path().join("cache/.lock")).unwrap();
    lock.lock_shared().unwrap();
    let text = told(dir.path(), "");
    assert!(text.contains("in use by a running kgate"), "{text}");
    insta::assert_snapshot!(told(dir.path(), "prune --all"), @r"
    nothing was removed
    left, because a running kgate uses it: templates (1), kernels (1), kernel packages (1), images (1), image packages (2), package lists (1), busybox (1), left over (3)
    ");
    assert_eq!(left(dir.path()).len(), FILES.len());
}

#[test]
fn who_uses_the_cache_waits_for_who_removes_from_it() {
    let dir = directory();
    let lock = File::create(dir.path().join("cache/.lock")).unwrap();
    lock.lock().unwrap();
    let mut show = kgate(dir.path());
    show.args(["kernel", "show", "none.deb", "--cache", "cache"])
        .stderr(std::process::Stdio::null());
    let mut show = show.spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(show.try_wait().unwrap().is_none(), "it goes on while others remove");
    drop(lock);
    assert_eq!(show.wait().unwrap().code(), Some(2));
}

#[test]
fn a_place_for_templates_that_others_can_write_to_is_told() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().unwrap();
    let memory = dir.path().join("memory");
    fs::create_dir(&memory).unwrap();
    fs::set_permissions(&memory, fs::Permissions::from_mode(0o777)).unwrap();
    let (code, _, stderr) = run(&mut cache(dir.path(), "prune --all"));
    assert_eq!(code, 0);
    insta::assert_snapshot!(stderr, @"kgate: memory is not used for templates: it is open to other users (mode 777, not 700)");
}
