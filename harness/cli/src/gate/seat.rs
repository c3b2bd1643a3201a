//! Where a release is run, and who is at it: beside each run directory a file that its job keeps locked
//! for as long as it lives, with the names of the claims under which it was worked on. So a job that
//! was killed here is told from one that goes on elsewhere.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Component, Path, PathBuf};

use kgate_release::Version;
use kgate_release::state::Claim;

use crate::error::{CommandError, at};

/// Directories of one release that are looked at before it is given up to find a free one.
const MOST: u32 = 10_000;
/// A longer file was not written by us.
const BOUND: u64 = 1 << 20;

/// A run directory that nobody else is at while this lives.
pub(super) struct Seat {
    /// The claim's name.
    pub(super) by: String,
    /// The directory's name.
    pub(super) name: String,
    /// The directory.
    pub(super) path: PathBuf,
    _lock: File,
}

/// What there is where a claim says that its run is.
pub(super) enum Left {
    /// Its job is gone; whoever asked goes on with it.
    Here(Seat),
    /// Its job is at it.
    Busy,
    /// Nothing that we know of: it was made in another place.
    Elsewhere,
}

impl Seat {
    /// A seat in a directory of its own below `base`, named by the release.
    pub(super) fn fresh(base: &Path, version: &Version) -> Result<Self, CommandError> {
        fs::create_dir_all(base).map_err(at(base))?;
        for number in 1..=MOST {
            let name =
                if number == 1 { version.to_string() } else { format!("{version}-{number}") };
            let path = base.join(&name);
            let file = base.join(format!("{name}.claim"));
            let mut options = OpenOptions::new();
            let options = options.create(true).truncate(false).read(true).write(true);
            let lock = options.open(&file).map_err(at(&file))?;
            if !locked(&lock, &file)? || path.exists() {
                continue;
            }
            lock.set_len(0).map_err(at(&file))?;
            return Self::of(name, path, lock, &file);
        }
        Err(CommandError::usage(format!(
            "{}: there are {MOST} runs of {version} in it",
            base.display()
        )))
    }

    /// The seat that a claim was made for, if it is below `base` and its job is gone.
    pub(super) fn left(base: &Path, claim: &Claim) -> Result<Left, CommandError> {
        let name = claim.dir.clone();
        let mut parts = Path::new(&name).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return Ok(Left::Elsewhere);
        }
        let (path, file) = (base.join(&name), base.join(format!("{name}.claim")));
        let Ok(lock) = OpenOptions::new().read(true).write(true).open(&file) else {
            return Ok(Left::Elsewhere);
        };
        let mut names = String::new();
        let read = (&lock).take(BOUND).read_to_string(&mut names);
        if read.is_err() || !names.lines().any(|by| by == claim.by) {
            return Ok(Left::Elsewhere);
        }
        if !locked(&lock, &file)? {
            return Ok(Left::Busy);
        }
        Ok(Left::Here(Self::of(name, path, lock, &file)?))
    }

    /// Adds a name to those in the file. It is there before anybody is told of it.
    fn of(name: String, path: PathBuf, mut lock: File, file: &Path) -> Result<Self, CommandError> {
        let by = format!("{:016x}", RandomState::new().build_hasher().finish());
        lock.seek(SeekFrom::End(0))
            .and_then(|_| writeln!(lock, "{by}"))
            .and_then(|()| lock.sync_data())
            .map_err(at(file))?;
        Ok(Self { by, name, path, _lock: lock })
    }
}

fn locked(file: &File, path: &Path) -> Result<bool, CommandError> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(at(path)(error)),
    }
}
