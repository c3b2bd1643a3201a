//! Stores on real directories.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const BLOCK: u64 = 4096;

fn key(n: u8) -> Key {
    Key::new([n; 32])
}

fn description(n: u8) -> Description {
    Description { kernel: format!("6.1.{n}"), image: "base".into(), memory: 0, created_ms: 7 }
}

/// A store in `dir`, on disk only: what is free in memory is no matter of a test.
fn store(dir: &Path, limit: u64) -> Store {
    Store::new(StoreConfig { memory: None, disk: dir.join("cache/templates"), limit })
}

/// Makes a template of so many blocks, beside what each of them has.
fn make(store: &Store, n: u8, blocks: usize) -> Result<Kept, StoreError> {
    let building = store.create(key(n), 0)?;
    fs::write(building.path("memory"), vec![n; blocks * BLOCK as usize]).unwrap();
    fs::write(building.path("state"), [n]).unwrap();
    building.finish(description(n), true)
}

fn names_in(store: &Store) -> Vec<String> {
    let mut names = names(&store.config.disk).unwrap();
    names.retain(|name| name != MUTEX);
    names.sort();
    names
}

/// As if it was last used so many seconds after 1970.
fn use_at(store: &Store, n: u8, seconds: u64) {
    let lock = store.config.disk.join(key(n).to_string()).join(LOCK);
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    File::options().write(true).open(lock).unwrap().set_modified(time).unwrap();
}

/// What a killed process leaves: its locks end, and nothing else of it does anything.
fn kill(mut building: Building) {
    if let Some(doomed) = &mut building.doomed {
        doomed.lock = None;
    }
    std::mem::forget(building);
}

#[test]
fn keys_are_read_as_they_are_written() {
    let key = Key::new(std::array::from_fn(|n| n as u8 * 7));
    assert_eq!(Key::parse(&key.to_string()), Some(key));
    for bad in ["", "ab", &"A".repeat(64), &"g".repeat(64), &"+1".repeat(32), &"é".repeat(32)] {
        assert_eq!(Key::parse(bad), None, "{bad}");
    }
}

#[test]
fn a_template_is_found_again_as_it_was_made_and_by_its_user_only() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 1 << 30);
    assert!(store.find(key(1)).is_none());
    assert!(!dir.path().join("cache").exists(), "looking makes nothing");
    drop(make(&store, 1, 3).unwrap());

    let kept = store.find(key(1)).unwrap();
    assert_eq!(fs::read(kept.path("state")).unwrap(), [1]);
    assert_eq!(fs::metadata(kept.path("memory")).unwrap().len(), 3 * BLOCK);
    assert_eq!(kept.description(), &description(1));
    assert!(store.find(key(2)).is_none());
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&store.config.disk), 0o700);
    assert_eq!(mode(&kept.path("")), 0o700);
    for name in ["memory", "state", LOCK, ABOUT] {
        assert_eq!(mode(&kept.path(name)), 0o600, "{name}");
    }
}

#[test]
fn a_memory_backed_place_is_used_where_it_has_room_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (memory, disk) = (dir.path().join("memory"), dir.path().join("disk"));
    let place = |memory: PathBuf, bytes| {
        let disk = disk.clone();
        let store = Store::new(StoreConfig { memory: Some(memory), disk, limit: 1 << 30 });
        store.create(key(1), bytes).map(|building| building.place)
    };
    let stat = rustix::fs::statvfs(dir.path()).unwrap();
    let free = stat.f_bavail * stat.f_frsize;
    assert_eq!(place(memory.clone(), BLOCK).unwrap(), Place::Memory);
    // Others may take or free some meanwhile.
    assert_eq!(place(memory.clone(), free / 4 * 3).unwrap(), Place::Disk);
    assert_eq!(place(dir.path().join("not/there"), BLOCK).unwrap(), Place::Disk);
    let error = place(memory, free * 2).unwrap_err().to_string();
    let error = error.replace(&dir.path().display().to_string(), "DIR");
    let number = |word: &str| word.trim_matches([',', ';']).parse::<u64>().is_ok();
    let word = |word| if number(word) { "N" } else { word };
    let error = error.split(' ').map(word).collect::<Vec<_>>().join(" ");
    insta::assert_snapshot!(error, @"no room for a template of N MiB: DIR/memory has N MiB free of N DIR/disk has N MiB free of N `kgate cache` shows what is kept");
    assert_eq!(names(&disk).unwrap(), [MUTEX], "nothing half-made is left");
}

#[test]
fn nothing_is_kept_between_runs_without_a_limit_or_beyond_it() {
    for limit in [0, 4 * BLOCK] {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path(), limit);
        let kept = make(&store, 1, 8).unwrap();
        assert_eq!(fs::read(kept.path("state")).unwrap(), [1]);
        assert!(store.find(key(1)).is_none());
        assert_eq!(store.list()[0].status, Status::InUse);
        drop(store.create(key(2), 0).unwrap());
        assert!(kept.path("memory").exists(), "it is in use");
        drop(kept);
        assert_eq!(names_in(&store), [""; 0]);
    }
}

#[test]
fn a_smaller_limit_removes_what_a_larger_one_kept() {
    let dir = tempfile::tempdir().unwrap();
    for n in 1..=3 {
        drop(make(&store(dir.path(), 1 << 30), n, 16 * usize::from(n)).unwrap());
        use_at(&store(dir.path(), 0), n, n.into());
    }
    // The largest goes though it is the newest: the limit is less than it alone.
    store(dir.path(), 44 * BLOCK).trim();
    assert_eq!(names_in(&store(dir.path(), 0)), [key(2).to_string()]);
}

#[test]
fn what_a_killed_maker_left_is_removed_with_the_next_occasion() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 1 << 30);
    let killed = store.create(key(1), 0).unwrap();
    fs::write(killed.path("memory"), [1; 9000]).unwrap();
    let alive = store.create(key(1), 0).unwrap();
    kill(killed);
    // Killed before it had a lock; killed while it removed one.
    fs::create_dir(store.config.disk.join(aside(&key(3).to_string()).unwrap())).unwrap();
    drop(make(&store, 4, 1).unwrap());
    fs::remove_file(store.config.disk.join(key(4).to_string()).join("state")).unwrap();
    fs::write(store.config.disk.join("notes"), "mine").unwrap();

    // The one without a lock went when the next was made.
    let statuses = |store: &Store| {
        let mut all: Vec<_> = store.list().into_iter().map(|l| (l.key, l.status)).collect();
        all.sort_by_key(|(key, status)| (key.clone(), *status as u8));
        all
    };
    assert_eq!(
        statuses(&store),
        [(key(1).to_string(), Status::InUse), (key(4).to_string(), Status::Leftover)]
    );
    drop(store.create(key(5), 0).unwrap());
    assert_eq!(statuses(&store), [(key(1).to_string(), Status::InUse)]);
    drop(alive);
    assert_eq!(names_in(&store), ["notes"]);
}

#[test]
fn what_is_not_whole_is_never_used_and_is_replaced() {
    type Damage = fn(&Path);
    let damages: &[(&str, Damage)] = &[
        ("a file is missing", |dir| fs::remove_file(dir.join("state")).unwrap()),
        ("a file is shorter", |dir| fs::write(dir.join("memory"), "").unwrap()),
        ("no about.json", |dir| fs::remove_file(dir.join(ABOUT)).unwrap()),
        ("half of about.json", |dir| fs::write(dir.join(ABOUT), "{\"format\":1,").unwrap()),
        ("of another format", |dir| {
            let text = fs::read_to_string(dir.join(ABOUT)).unwrap();
            fs::write(dir.join(ABOUT), text.replace("\"format\":1", "\"format\":2")).unwrap();
        }),
        ("no lock", |dir| fs::remove_file(dir.join(LOCK)).unwrap()),
        ("a link instead of a file", |dir| {
            fs::rename(dir.join("memory"), dir.join("../../memory")).unwrap();
            symlink(dir.join("../../memory"), dir.join("memory")).unwrap();
        }),
        ("a pipe instead of a file", |dir| {
            fs::remove_file(dir.join("state")).unwrap();
            let mode = Mode::RUSR | Mode::WUSR;
            rustix::fs::mknodat(rustix::fs::CWD, dir.join("state"), FileType::Fifo, mode, 0)
                .unwrap();
        }),
        ("a file that others write", |dir| mode(&dir.join("memory"), 0o606)),
        ("a directory that others write", |dir| mode(dir, 0o777)),
        ("a link instead of the directory", |dir| {
            fs::rename(dir, dir.with_file_name("away")).unwrap();
            symlink("away", dir).unwrap();
        }),
        ("a file instead of the directory", |dir| {
            fs::remove_dir_all(dir).unwrap();
            fs::write(dir, "").unwrap();
        }),
    ];
    for (what, damage) in damages {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path(), 1 << 30);
        let path = { make(&store, 1, 1).unwrap().path("") };
        assert!(store.find(key(1)).is_some());
        damage(path.as_path().components().as_path());
        assert!(store.find(key(1)).is_none(), "{what}");
        let listed = store.list();
        assert_eq!(listed.len(), 1, "{what}");
        assert_eq!(listed[0].status, Status::Leftover, "{what}");
        // Made again, also by a run that began before the damage.
        drop(make(&store, 1, 1).unwrap());
        let found = store.find(key(1)).unwrap_or_else(|| panic!("{what}: not made again"));
        assert_eq!(fs::read(found.path("state")).unwrap(), [1], "{what}");
        if what.starts_with("a link instead of the directory") {
            assert!(path.with_file_name("away").join("state").exists(), "links are not followed");
        }
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_place_that_others_made_or_can_write_to_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("place");
    let store =
        |at: &Path| Store::new(StoreConfig { memory: None, disk: at.to_owned(), limit: 1 << 30 });
    drop(make(&store(&at), 1, 1).unwrap());
    let mut said = Vec::new();
    let mut refused = |path: &Path| {
        let store = store(path);
        assert!(store.find(key(1)).is_none());
        assert!(store.list().is_empty());
        let refused: Vec<_> = store.refused().iter().map(ToString::to_string).collect();
        assert_eq!(refused.len(), 1);
        let error = make(&store, 2, 1).unwrap_err().to_string();
        assert!(error.contains(&refused[0]), "{error}");
        said.push(refused[0].replace(&dir.path().display().to_string(), "DIR"));
    };
    for bits in [0o777, 0o1777, 0o720] {
        mode(&at, bits);
        refused(&at);
    }
    // Open to be read only: it is ours, and is closed.
    mode(&at, 0o755);
    assert!(store(&at).find(key(1)).is_some());
    assert_eq!(fs::metadata(&at).unwrap().permissions().mode() & 0o777, 0o700);
    let link = dir.path().join("link");
    symlink(&at, &link).unwrap();
    refused(&link);
    fs::write(dir.path().join("file"), "").unwrap();
    refused(&dir.path().join("file"));
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&at, Some(1234), Some(1234)).unwrap();
        refused(&at);
        std::os::unix::fs::chown(&at, Some(0), Some(0)).unwrap();
    } else {
        println!("SKIP a place of another user: only root can make one");
    }
    insta::assert_snapshot!(said[..5].join("\n"), @r"
    DIR/place is not used for templates: it is open to other users (mode 777, not 700)
    DIR/place is not used for templates: it is open to other users (mode 777, not 700)
    DIR/place is not used for templates: it is open to other users (mode 720, not 700)
    DIR/link is not used for templates: it is not a directory
    DIR/file is not used for templates: it is not a directory
    ");
    assert!(store(&at).find(key(1)).is_some());
}

#[test]
fn what_can_not_be_finished_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 1 << 30);
    let building = store.create(key(1), 0).unwrap();
    fs::create_dir(building.path("directory")).unwrap();
    let error = building.finish(description(1), true).unwrap_err().to_string();
    assert!(error.ends_with("/directory: it is not a file"), "{error}");
    let building = store.create(key(1), 0).unwrap();
    symlink("/etc/passwd", building.path("state")).unwrap();
    building.finish(description(1), true).unwrap_err();
    // As when the disk is full: the last file can't be made.
    let building = store.create(key(1), 0).unwrap();
    fs::write(building.path(ABOUT), "").unwrap();
    let error = building.finish(description(1), true).unwrap_err();
    assert!(matches!(error, StoreError::Io { action: "write", .. }), "{error}");
    assert_eq!(names_in(&store), [""; 0]);
}

#[test]
fn the_slower_of_two_runs_uses_what_it_made_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (store(dir.path(), 1 << 30), store(dir.path(), 1 << 30));
    let slower = one.create(key(1), 0).unwrap();
    fs::write(slower.path("state"), "slower").unwrap();
    let quicker = make(&other, 1, 1).unwrap();
    let slower = slower.finish(description(9), true).unwrap();
    assert_eq!(fs::read(slower.path("state")).unwrap(), b"slower");
    assert_eq!(slower.description(), &description(9));
    assert_eq!(one.find(key(1)).unwrap().description(), &description(1));
    assert_eq!(one.prune(None), Pruned { removed: 0, bytes: 0, in_use: 2 });
    drop(slower);
    assert_eq!(names_in(&one), [key(1).to_string()]);
    drop(quicker);
    assert_eq!(one.prune(None).removed, 1);
    assert_eq!(names_in(&one), [""; 0]);
}

#[test]
fn prune_takes_the_old_and_the_unused() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 1 << 30);
    for n in 1..=4 {
        drop(make(&store, n, 2).unwrap());
        use_at(&store, n, n.into());
    }
    let _held = store.find(key(2)).unwrap();
    use_at(&store, 2, 2);
    let before = SystemTime::UNIX_EPOCH + Duration::from_secs(3);
    let pruned = store.prune(Some(before));
    assert_eq!((pruned.removed, pruned.in_use), (1, 1));
    assert!(pruned.bytes >= 2 * BLOCK, "{pruned:?}");
    let left: Vec<_> = [2, 3, 4].map(|n| key(n).to_string()).into();
    assert_eq!(names_in(&store), left);
}

#[test]
fn runs_beside_each_other_never_see_a_template_change() {
    const RUNS: usize = 4;
    let dir = tempfile::tempdir().unwrap();
    let (found, made) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for run in 0..RUNS {
            let (store, found, made) = (store(dir.path(), 40 * BLOCK), &found, &made);
            scope.spawn(move || {
                for turn in 0..30 {
                    let n = u8::try_from((turn * 5 + run) % 6).unwrap();
                    let kept = match store.find(key(n)) {
                        Some(kept) => {
                            found.fetch_add(1, Ordering::Relaxed);
                            kept
                        }
                        None => {
                            made.fetch_add(1, Ordering::Relaxed);
                            make(&store, n, 8).unwrap()
                        }
                    };
                    if turn % 7 == run {
                        store.prune(None);
                    }
                    assert_eq!(kept.description(), &description(n));
                    let memory = fs::read(kept.path("memory")).unwrap();
                    assert_eq!(memory.len() as u64, 8 * BLOCK);
                    assert!(memory.iter().all(|byte| *byte == n));
                    if turn % 11 == run {
                        kill(store.create(key(n), 0).unwrap());
                    }
                }
            });
        }
    });
    assert!(found.into_inner() > 0 && made.into_inner() > 6);
    let store = store(dir.path(), 40 * BLOCK);
    store.trim();
    let left = store.list();
    assert!(left.iter().all(|one| one.status == Status::Kept), "{left:?}");
    assert!(left.iter().map(|one| one.bytes).sum::<u64>() <= 40 * BLOCK);
}

#[test]
fn the_limit_is_a_part_of_what_there_is() {
    let limit = |memory: Option<&str>, disk: &str| {
        StoreConfig::with_default_limit(memory.map(PathBuf::from), disk.into()).limit
    };
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("not/yet").display().to_string();
    let of_disk = limit(None, &disk);
    assert!(of_disk > 0 && of_disk <= MAX_DEFAULT);
    // /proc offers no bytes at all.
    assert!(limit(Some("/proc/kgate"), &disk) > 0);
    assert_eq!(limit(None, "/proc/kgate"), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_limit_holds_and_takes_the_least_recently_used(
        all in prop::collection::vec((0_u64..40, any::<bool>(), any::<bool>()), 0..12),
        limit in 0_u64..120,
    ) {
        // In the order of their last use, as `beyond` gets them.
        let entries: Vec<Entry> = all.iter().zip(0_u8..).map(|(&(bytes, held, aside), n)| Entry {
            root: 0,
            name: format!("{}{}", if aside && held { "." } else { "" }, key(n)),
            about: Some(About { format: FORMAT, description: description(n), files: BTreeMap::new() }),
            bytes,
            used: SystemTime::UNIX_EPOCH + Duration::from_secs(n.into()),
            held,
            lock: None,
        }).collect();
        let goes = beyond(limit, &entries);
        prop_assert_eq!(goes.len(), entries.len());
        let free = |n: &usize| !entries[*n].held;
        let stays: Vec<usize> = (0..entries.len()).filter(|n| !goes[*n]).collect();
        let gone: Vec<usize> = (0..entries.len()).filter(|n| goes[*n]).collect();
        prop_assert!(gone.iter().all(free), "what is in use stays");
        let of = |n: &usize| entries[*n].bytes;
        let counted = |n: &usize| of(n) <= limit && !entries[*n].name.starts_with('.');
        let total: u64 = stays.iter().filter(|n| counted(n)).map(of).sum();
        let unused: Vec<usize> = stays.iter().copied().filter(free).collect();
        prop_assert!(total <= limit || unused.is_empty(), "the limit holds as far as it can");
        prop_assert!(unused.iter().all(|n| of(n) <= limit));
        // Whatever went was older than all that stay, or too large; and had to.
        let fitting: Vec<usize> = gone.iter().copied().filter(|n| of(n) <= limit).collect();
        if let (Some(last), Some(first)) = (fitting.last(), unused.first()) {
            prop_assert!(last < first);
        }
        if let Some(last) = fitting.last() {
            prop_assert!(total + of(last) > limit);
        }
    }
}

/// Beside the property: with real directories.
#[test]
fn the_least_recently_used_make_room() {
    let dir: TempDir = tempfile::tempdir().unwrap();
    let size = {
        let probe = store(dir.path(), 1 << 30);
        drop(make(&probe, 9, 8).unwrap());
        let size = probe.list()[0].bytes;
        probe.prune(None);
        size
    };
    let store = store(dir.path(), 3 * size);
    for n in 1..=3 {
        drop(make(&store, n, 8).unwrap());
        use_at(&store, n, n.into());
    }
    drop(store.find(key(1)).unwrap());
    let held = store.find(key(2)).unwrap();
    use_at(&store, 2, 2);
    drop(make(&store, 4, 8).unwrap());
    // 2 is the oldest, but in use; 1 was used just now.
    assert_eq!(names_in(&store), [1, 2, 4].map(|n| key(n).to_string()));
    drop(held);
    drop(make(&store, 5, 8).unwrap());
    assert_eq!(names_in(&store), [1, 4, 5].map(|n| key(n).to_string()));
}
