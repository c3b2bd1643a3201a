//! Where templates are kept: each in a directory named by all that it depends on, in memory or on
//! disk, within a limit, and never one that somebody else could have written to.
//!
//! A place is `/dev/shm/kgate-UID` or a directory of the cache. In it are
//!
//! - `KEY/`: a template for any run, with what its maker put there, `about.json` and `lock`;
//! - `.KEY.RANDOM/`: one that is being made, that only one run uses, or that is being removed;
//! - `.lock`: held while names change, and never for long.
//!
//! Whoever uses a template holds a shared lock on its `lock`, its maker an exclusive one. Locks end
//! with their process however it ends, so what is not locked is nobody's. When a template was last
//! used is the time of its `lock`.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat, flock, openat, statat};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

const MUTEX: &str = ".lock";
const LOCK: &str = "lock";
const ABOUT: &str = "about.json";
const FORMAT: u32 = 1;
/// More than any `about.json`.
const MAX_ABOUT: u64 = 64 << 10;
/// What a template needs beside the guest's memory.
const SPARE: u64 = 64 << 20;
/// No more is kept unless it is asked for.
const MAX_DEFAULT: u64 = 4 << 30;
/// A memory-backed place with less in all keeps no template worth the name.
const SMALL: u64 = 1 << 30;

/// All that a template depends on, as a SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key([u8; 32]);

impl Key {
    /// A key of this digest.
    pub fn new(sha256: [u8; 32]) -> Self {
        Self(sha256)
    }

    fn parse(name: &str) -> Option<Self> {
        let mut key = [0; 32];
        let digits = name.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        for (byte, pair) in key.iter_mut().zip(digits.chunks(2)) {
            let digit = |c: u8| (c as char).to_digit(16).filter(|_| !c.is_ascii_uppercase());
            *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
        }
        Some(Self(key))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where templates are kept, and how many bytes of them.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The memory-backed place, which is made in an existing directory.
    pub memory: Option<PathBuf>,
    /// The place on disk.
    pub disk: PathBuf,
    /// Bytes of all templates that are kept for later runs; with 0 each run makes its own.
    pub limit: u64,
}

impl StoreConfig {
    /// Both places with the limit for those who name none: a quarter of the memory-backed one, or of
    /// what the disk has free where there is hardly any memory-backed one; at most 4 GiB.
    pub fn with_default_limit(memory: Option<PathBuf>, disk: PathBuf) -> Self {
        let stat = |path: &Path| path.ancestors().find_map(|dir| rustix::fs::statvfs(dir).ok());
        let of_memory = memory.as_deref().and_then(stat).map_or(0, |s| s.f_blocks * s.f_frsize);
        let offered = match of_memory {
            SMALL.. => of_memory,
            _ => stat(&disk).map_or(0, |s| s.f_bavail * s.f_frsize),
        };
        Self { memory, disk, limit: (offered / 4).min(MAX_DEFAULT) }
    }

    fn places(&self) -> impl Iterator<Item = (Place, &Path)> {
        let memory = self.memory.as_deref().filter(|path| *path != self.disk);
        let memory = memory.map(|path| (Place::Memory, path));
        memory.into_iter().chain([(Place::Disk, self.disk.as_path())])
    }
}

/// What a template lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// A file system in memory.
    Memory,
    /// A disk.
    Disk,
}

/// What a template is, for a person who looks at the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// The kernel's release.
    pub kernel: String,
    /// The root of its steps.
    pub image: String,
    /// The guest's memory in bytes.
    pub memory: u64,
    /// When it was booted, in milliseconds since 1970.
    pub created_ms: u64,
}

/// `about.json`: it is written last.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    format: u32,
    description: Description,
    /// All other files, with their lengths.
    files: BTreeMap<String, u64>,
}

/// Why a template can't be kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No place has room.
    #[error(
        "no room for a template of {} MiB: {}; `kgate cache` shows what is kept",
        needed >> 20,
        found.join(", ")
    )]
    NoRoom {
        /// Memory of the guest, in bytes.
        needed: u64,
        /// What each of the places has.
        found: Vec<String>,
    },
    /// Others could have put something there.
    #[error("{} is not used for templates: {why}", path.display())]
    Untrusted {
        /// The place.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The operating system refused.
    #[error("can't {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What it answered.
        source: io::Error,
    },
}

fn io_error<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> StoreError {
    move |source| StoreError::Io { action, path: path.to_owned(), source: source.into() }
}

/// The templates of this user on this controller. Any number of stores may share their places, in
/// one process or several.
#[derive(Clone, Debug)]
pub struct Store {
    config: Arc<StoreConfig>,
}

/// One that may be used: it stays as it is for as long as this is held.
#[derive(Debug)]
pub struct Kept {
    dir: PathBuf,
    description: Description,
    // Before the lock's end: what only this run uses is removed under it.
    private: Option<Doomed>,
    lock: Option<File>,
    store: Store,
}

/// One that is being made. Dropping it removes it.
#[derive(Debug)]
pub struct Building {
    key: Key,
    place: Place,
    root: PathBuf,
    // `None` when it was finished.
    doomed: Option<Doomed>,
    store: Store,
}

/// A template as it is found, whole or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key; empty where a name tells none.
    pub key: String,
    /// What it is, when it is whole.
    pub description: Option<Description>,
    /// Where it lies.
    pub place: Place,
    /// Its directory.
    pub path: PathBuf,
    /// Bytes that it takes there.
    pub bytes: u64,
    /// When it was last used.
    pub used: SystemTime,
    /// Whose it is.
    pub status: Status,
}

/// Whose a template is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Kept for later runs.
    Kept,
    /// A running kgate uses it or makes it.
    InUse,
    /// A kgate that was killed left it, or it isn't whole; it is removed with the next occasion.
    Leftover,
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// How many.
    pub removed: usize,
    /// Bytes that they took.
    pub bytes: u64,
    /// How many would have been, if no running kgate used them.
    pub in_use: usize,
}

impl Store {
    /// A store. Nothing is touched yet.
    pub fn new(config: StoreConfig) -> Self {
        Self { config: Arc::new(config) }
    }

    /// Bytes that are kept for later runs at most.
    pub fn limit(&self) -> u64 {
        self.config.limit
    }

    /// The template of this key, marked as just used.
    pub fn find(&self, key: Key) -> Option<Kept> {
        if self.config.limit == 0 {
            return None;
        }
        self.roots().into_iter().find_map(|root| {
            let name = key.to_string();
            let dir = root.open_dir(&name).ok()?;
            let lock = open_file(&dir, LOCK, OFlags::RDWR).ok()?;
            flock(&lock, FlockOperation::NonBlockingLockShared).ok()?;
            let about = whole(&dir)?;
            lock.set_modified(SystemTime::now()).ok()?;
            Some(Kept {
                dir: root.path.join(name),
                description: about.description,
                private: None,
                lock: Some(lock),
                store: self.clone(),
            })
        })
    }

    /// Begins a template of a guest with so many bytes of memory: in memory where there is room for
    /// it twice, otherwise on disk. Where there is none, templates that nobody uses make room.
    ///
    /// # Errors
    /// No place has room or can be used.
    pub fn create(&self, key: Key, memory: u64) -> Result<Building, StoreError> {
        self.trim();
        loop {
            let mut found = Vec::new();
            for (place, path) in self.config.places() {
                match Root::open(place, path, true) {
                    Ok(Some(root)) => {
                        let needed = match place {
                            Place::Memory => memory.saturating_mul(2),
                            Place::Disk => memory.saturating_add(SPARE),
                        };
                        let free = root.free()?;
                        if free >= needed {
                            return root.build(key, self);
                        }
                        let (free, needed) = (free >> 20, needed >> 20);
                        found.push(format!("{} has {free} MiB free of {needed}", path.display()));
                    }
                    Ok(None) => {}
                    Err(error) => found.push(error.to_string()),
                }
            }
            if self.remove(oldest).removed == 0 {
                return Err(StoreError::NoRoom { needed: memory, found });
            }
        }
    }

    /// All that there is, the latest used first.
    pub fn list(&self) -> Vec<Listed> {
        let mut all: Vec<Listed> = self
            .roots()
            .iter()
            .flat_map(|root| root.entries().map(|entry| entry.listed(root)))
            .collect();
        all.sort_by(|a, b| b.used.cmp(&a.used).then_with(|| a.path.cmp(&b.path)));
        all
    }

    /// Why a place that is there isn't used.
    pub fn refused(&self) -> Vec<StoreError> {
        let places = self.config.places();
        places.filter_map(|(place, path)| Root::open(place, path, false).err()).collect()
    }

    /// Removes what is left over, and templates that nobody uses: all of them, or those that were
    /// last used before a time.
    pub fn prune(&self, before: Option<SystemTime>) -> Pruned {
        self.remove(|entries| {
            let old = |entry: &Entry| before.is_none_or(|before| entry.used < before);
            entries.iter().map(old).collect()
        })
    }

    /// Removes what is left over, and what is beyond the limit.
    fn trim(&self) {
        self.remove(|entries| beyond(self.config.limit, entries));
    }

    /// Removes leftovers and those that `choose` picks, as far as nobody uses them. It is given all,
    /// the least recently used first, and answers for each.
    fn remove(&self, choose: impl FnOnce(&[Entry]) -> Vec<bool>) -> Pruned {
        let roots = self.roots();
        let mut entries: Vec<Entry> = (roots.iter().enumerate())
            .flat_map(|(number, root)| root.entries().map(move |entry| entry.of(number)))
            .collect();
        entries.sort_by(|a, b| a.used.cmp(&b.used).then_with(|| a.name.cmp(&b.name)));
        let chosen = choose(&entries);
        let mut pruned = Pruned::default();
        let mut doomed = Vec::new();
        for (entry, chosen) in entries.into_iter().zip(chosen) {
            match entry.status() {
                Status::InUse => pruned.in_use += usize::from(chosen),
                Status::Kept if !chosen => {}
                Status::Kept | Status::Leftover => {
                    if let Ok(one) = roots[entry.root].doom(&entry.name, entry.lock) {
                        pruned.removed += 1;
                        pruned.bytes += entry.bytes;
                        doomed.push(one);
                    }
                }
            }
        }
        // Others need not wait for what takes time.
        drop(roots);
        drop(doomed);
        pruned
    }

    /// The places that are there and can be trusted, locked, always in the same order.
    fn roots(&self) -> Vec<Root> {
        let places = self.config.places();
        places.filter_map(|(place, path)| Root::open(place, path, false).ok().flatten()).collect()
    }
}

impl Kept {
    /// The path of one of its files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Has nobody find it any more: it is no good.
    pub fn discard(&self) {
        // Without this it isn't whole.
        let _ = fs::remove_file(self.path(ABOUT));
    }

    /// What it is.
    pub fn description(&self) -> &Description {
        &self.description
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.private = None;
        self.lock = None;
        // What was in use may have been beyond the limit.
        self.store.trim();
    }
}

impl Building {
    /// The path of one of its files, which the caller makes.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    fn dir(&self) -> &Path {
        self.doomed.as_ref().map_or(Path::new(""), |doomed| &doomed.path)
    }

    /// Puts it into its place, now that all of its files are written and closed, and removes others
    /// that are beyond the limit.
    ///
    /// When `later` runs are not to find it, when another run was quicker, and when it is larger than
    /// what may be kept, it serves this run only, and is removed with the returned handle.
    ///
    /// # Errors
    /// A file can't be read or written. Nothing is left then.
    pub fn finish(mut self, description: Description, later: bool) -> Result<Kept, StoreError> {
        let dir = self.dir().to_owned();
        let read = open_dir(rustix::fs::CWD, &dir).map_err(io_error("read", &dir))?;
        let durable = self.place == Place::Disk;
        let mut files = BTreeMap::new();
        for name in names(&dir).map_err(io_error("read", &dir))? {
            let path = dir.join(&name);
            let length = seal(&read, &name, durable).map_err(io_error("keep", &path))?;
            if name != LOCK {
                files.insert(name, length);
            }
        }
        let about = About { format: FORMAT, description, files };
        let path = dir.join(ABOUT);
        write_about(&read, &about, durable).map_err(io_error("write", &path))?;

        let limit = self.store.config.limit;
        let mut private = !later || size(&read, &about) > limit;
        let mut kept_dir = dir.clone();
        if !private {
            let root = Root::open(self.place, &self.root, false)?;
            let root =
                root.ok_or(io::ErrorKind::NotFound).map_err(io_error("write", &self.root))?;
            let name = self.key.to_string();
            let target = root.path.join(&name);
            let there = root.entry(&name);
            // What is there and isn't whole is in the way.
            let cleared = match there.map(|there| (there.status(), there)) {
                Some((Status::Leftover, there)) => root.doom(&name, there.lock).map(Some),
                Some(_) => Err(io::ErrorKind::AlreadyExists.into()),
                None => Ok(None),
            };
            match cleared.and_then(|gone| fs::rename(&dir, &target).map(|()| gone)) {
                Ok(gone) => {
                    kept_dir = target;
                    drop(root);
                    drop(gone);
                }
                Err(_) => private = true,
            }
        }
        let doomed = self.doomed.take();
        let (private, lock) = if private {
            (doomed, None)
        } else {
            let lock = doomed.and_then(|mut doomed| {
                doomed.path = PathBuf::new();
                doomed.lock.take()
            });
            if let Some(lock) = &lock {
                flock(lock, FlockOperation::LockShared).map_err(io_error("lock", &kept_dir))?;
            }
            (None, lock)
        };
        let store = self.store.clone();
        let kept = Kept { dir: kept_dir, description: about.description, private, lock, store };
        self.store.trim();
        Ok(kept)
    }
}

/// A directory that is removed when this is dropped, with the lock that says that it is ours.
#[derive(Debug)]
struct Doomed {
    /// Empty when it is to stay after all.
    path: PathBuf,
    lock: Option<File>,
}

impl Drop for Doomed {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // What remains is nobody's, and is tried again with the next occasion.
            let _ = remove(&self.path);
        }
    }
}

/// A directory with all that is in it, or whatever else has the name; no link is followed.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => fs::remove_file(path),
        other => other,
    }
}

/// A place that can be trusted, and in which nobody else changes names meanwhile.
#[derive(Debug)]
struct Root {
    place: Place,
    path: PathBuf,
    dir: OwnedFd,
    _mutex: File,
}

/// What has a name in a place.
#[derive(Debug)]
struct Entry {
    /// Number of the place, where it matters.
    root: usize,
    name: String,
    about: Option<About>,
    bytes: u64,
    used: SystemTime,
    /// Somebody else has a lock on it.
    held: bool,
    /// Ours, when there is one and nobody else has it.
    lock: Option<File>,
}

impl Root {
    /// Opens a place; `None` when there is none and it isn't to be made.
    fn open(place: Place, path: &Path, make: bool) -> Result<Option<Self>, StoreError> {
        let failed = |action| io_error::<Errno>(action, path);
        if make {
            if place == Place::Disk
                && let Some(parent) = path.parent()
            {
                fs::create_dir_all(parent).map_err(io_error("make", parent))?;
            }
            match fs::DirBuilder::new().mode(0o700).create(path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(io_error("make", path)(error));
                }
                _ => {}
            }
        }
        let untrusted = |why| StoreError::Untrusted { path: path.to_owned(), why };
        let dir = match open_dir(rustix::fs::CWD, path) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Err(untrusted("it is not a directory".to_owned()));
            }
            Err(Errno::ACCESS) => {
                return Err(untrusted("it belongs to another user".to_owned()));
            }
            Err(error) => return Err(failed("open")(error)),
        };
        let stat = rustix::fs::fstat(&dir).map_err(failed("open"))?;
        // Whoever could only look in can have put nothing there.
        let closed = stat.st_mode & 0o022 == 0 && rustix::fs::fchmod(&dir, Mode::RWXU).is_ok();
        let stat = if closed { rustix::fs::fstat(&dir).map_err(failed("open"))? } else { stat };
        if let Some(why) = foreign(&stat) {
            return Err(untrusted(why));
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mutex = openat(&dir, MUTEX, flags, Mode::RUSR | Mode::WUSR).map_err(failed("lock"))?;
        loop {
            match flock(&mutex, FlockOperation::LockExclusive) {
                Err(Errno::INTR) => {}
                done => break done.map_err(failed("lock"))?,
            }
        }
        Ok(Some(Self { place, path: path.to_owned(), dir, _mutex: mutex.into() }))
    }

    /// Bytes that are free.
    fn free(&self) -> Result<u64, StoreError> {
        let stat =
            rustix::fs::fstatvfs(&self.dir).map_err(io_error("ask for room in", &self.path))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn open_dir(&self, name: &str) -> Result<OwnedFd, Errno> {
        let dir = open_dir(&self.dir, Path::new(name))?;
        match foreign(&rustix::fs::fstat(&dir)?) {
            Some(_) => Err(Errno::ACCESS),
            None => Ok(dir),
        }
    }

    /// A new directory, ours by its lock.
    fn build(&self, key: Key, store: &Store) -> Result<Building, StoreError> {
        let path = self.path.join(aside(&key.to_string()).map_err(io_error("name", &self.path))?);
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(io_error("make", &path))?;
        let mut doomed = Doomed { path, lock: None };
        let lock = open_dir(rustix::fs::CWD, &doomed.path)
            .and_then(|dir| make_file(&dir, LOCK))
            .and_then(|lock| {
                flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
                Ok(lock)
            })
            .map_err(io_error("lock", &doomed.path))?;
        doomed.lock = Some(lock);
        let (place, root) = (self.place, self.path.clone());
        Ok(Building { key, place, root, doomed: Some(doomed), store: store.clone() })
    }

    /// Takes an unused one out of its place, so that nobody finds it any more.
    fn doom(&self, name: &str, lock: Option<File>) -> io::Result<Doomed> {
        let mut path = self.path.join(name);
        if !name.starts_with('.') {
            let away = self.path.join(aside(name)?);
            fs::rename(&path, &away)?;
            path = away;
        }
        Ok(Doomed { path, lock })
    }

    /// All that is named like a template here.
    fn entries(&self) -> impl Iterator<Item = Entry> {
        let names = names(&self.path).unwrap_or_default();
        names.into_iter().filter_map(|name| self.entry(&name))
    }

    fn entry(&self, name: &str) -> Option<Entry> {
        key_of(name)?;
        let stat = statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let mut entry = Entry {
            root: 0,
            name: name.to_owned(),
            about: None,
            bytes: taken(&stat),
            used: modified(&stat),
            held: false,
            lock: None,
        };
        let Ok(dir) = self.open_dir(name) else { return Some(entry) };
        for file in names(&self.path.join(name)).unwrap_or_default() {
            let stat = statat(&dir, file, AtFlags::SYMLINK_NOFOLLOW);
            entry.bytes += stat.map_or(0, |stat| taken(&stat));
        }
        entry.about = whole(&dir);
        if let Ok(lock) = open_file(&dir, LOCK, OFlags::RDWR) {
            if let Ok(time) = lock.metadata().and_then(|data| data.modified()) {
                entry.used = time;
            }
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => entry.lock = Some(lock),
                Err(_) => entry.held = true,
            }
        }
        Some(entry)
    }
}

impl Entry {
    fn status(&self) -> Status {
        let whole = self.about.is_some() && self.lock.is_some() && !self.name.starts_with('.');
        match (self.held, whole) {
            (true, _) => Status::InUse,
            (false, true) => Status::Kept,
            (false, false) => Status::Leftover,
        }
    }

    fn of(self, root: usize) -> Self {
        Self { root, ..self }
    }

    fn listed(self, root: &Root) -> Listed {
        Listed {
            key: key_of(&self.name).map(|key| key.to_string()).unwrap_or_default(),
            status: self.status(),
            description: self.about.map(|about| about.description),
            place: root.place,
            path: root.path.join(&self.name),
            bytes: self.bytes,
            used: self.used,
        }
    }
}

/// Which of these are beyond the limit: those that are too large by themselves, and as many of the
/// least recently used as it takes. What is in use stays and counts.
fn beyond(limit: u64, entries: &[Entry]) -> Vec<bool> {
    let counts = |e: &&Entry| e.bytes <= limit && !e.name.starts_with('.');
    let mut total: u64 = entries.iter().filter(counts).map(|e| e.bytes).sum();
    let beyond = |entry: &Entry| {
        if entry.held {
            return false;
        }
        let beyond = entry.bytes > limit || total > limit;
        if beyond && counts(&entry) {
            total -= entry.bytes;
        }
        beyond
    };
    entries.iter().map(beyond).collect()
}

/// The least recently used one that is not in use.
fn oldest(entries: &[Entry]) -> Vec<bool> {
    let oldest = entries.iter().position(|entry| entry.status() == Status::Kept);
    (0..entries.len()).map(|number| Some(number) == oldest).collect()
}

/// The key in `KEY` or `.KEY.RANDOM`.
fn key_of(name: &str) -> Option<Key> {
    match name.strip_prefix('.') {
        Some(aside) => Key::parse(aside.split_once('.')?.0),
        None => Key::parse(name),
    }
}

/// A name that no other has, beside the one that is found.
fn aside(name: &str) -> io::Result<String> {
    let mut random = [0; 8];
    let got = getrandom(&mut random, GetRandomFlags::empty())?;
    let mut aside = format!(".{name}.");
    for byte in &random[..got] {
        let _ = write!(aside, "{byte:02x}");
    }
    Ok(aside)
}

/// What the directory is about, when all of its files are there as they were written and nobody else
/// could have changed them.
fn whole(dir: &OwnedFd) -> Option<About> {
    let mut text = Vec::new();
    let file = open_file(dir, ABOUT, OFlags::RDONLY).ok()?;
    file.take(MAX_ABOUT).read_to_end(&mut text).ok()?;
    let about: About = serde_json::from_slice(&text).ok()?;
    let as_written = |(name, length): (&String, &u64)| {
        let file =
            open_file(dir, name, OFlags::RDONLY).and_then(|file| Ok(rustix::fs::fstat(&file)?));
        !name.contains('/') && file.is_ok_and(|stat| u64::try_from(stat.st_size) == Ok(*length))
    };
    (about.format == FORMAT && about.files.iter().all(as_written)).then_some(about)
}

fn write_about(dir: &OwnedFd, about: &About, durable: bool) -> io::Result<()> {
    let mut file = make_file(dir, ABOUT)?;
    file.write_all(&serde_json::to_vec(about)?)?;
    if durable {
        file.sync_all()?;
    }
    Ok(())
}

/// Makes a file ours alone, and where it has to outlive the controller, durable: its length says
/// nothing of a file with holes. Returns the length.
fn seal(dir: &OwnedFd, name: &str, durable: bool) -> io::Result<u64> {
    let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is not a file"));
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(openat(dir, name, flags, Mode::empty())?);
    rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR)?;
    if durable {
        file.sync_all()?;
    }
    Ok(file.metadata()?.len())
}

/// Bytes of the template on its file system.
fn size(dir: &OwnedFd, about: &About) -> u64 {
    let own = [ABOUT.to_owned(), LOCK.to_owned()];
    let stats = about.files.keys().chain(&own);
    stats.map(|name| statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_or(0, |s| taken(&s))).sum()
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
    let names: io::Result<Vec<_>> = entries.collect();
    Ok(names?.into_iter().flatten().collect())
}

fn open_dir(at: impl std::os::fd::AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, path, flags, Mode::empty())
}

/// Opens a file that is ours alone.
fn open_file(dir: &OwnedFd, name: &str, access: OFlags) -> io::Result<File> {
    // A pipe would keep whoever opens it waiting.
    let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(dir, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    match foreign(&stat) {
        None if regular => Ok(file.into()),
        _ => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

fn make_file(dir: &OwnedFd, name: &str) -> Result<File, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    Ok(openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?.into())
}

/// Why others could have written there.
fn foreign(stat: &Stat) -> Option<String> {
    let (owner, mode) = (stat.st_uid, stat.st_mode & 0o777);
    if owner != rustix::process::geteuid().as_raw() {
        return Some(format!("it belongs to another user ({owner})"));
    }
    (mode & 0o077 != 0).then(|| format!("it is open to other users (mode {mode:o}, not 700)"))
}

fn taken(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or_default() * 512
}

fn modified(stat: &Stat) -> SystemTime {
    let seconds = u64::try_from(stat.st_mtime).unwrap_or_default();
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests;
