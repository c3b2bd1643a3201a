//! Kernel logs out of files: what `kgate klog` is given, and what a run left in its directory.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use kgate_klog::Source;
use kgate_klog::delta::{Census, Digest, LogDelta, Origin};
use kgate_model::journal::RunRecord;
use kgate_runner::RunDir;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::{CommandError, at};
use crate::text;

/// Bytes that are read at once.
const CHUNK: usize = 64 << 10;
/// Bytes by which it is told how a log was recorded.
const HEAD: usize = 4 << 10;
/// What standard input is called.
const STDIN: &str = "-";

/// What to name instead of a file that can't be read.
const WANTED: &str = "name a console log or what `dmesg` printed; `-` is standard input";

/// A log that is being read.
pub(crate) struct Log {
    /// As the user named it.
    pub(crate) name: String,
    input: Box<dyn Read>,
    /// Standard input as it is: the only one that can be waited for.
    live: Option<File>,
    head: Vec<u8>,
}

impl Log {
    /// Opens a file, or standard input for `-`, unpacked.
    pub(crate) fn open(path: &Path) -> Result<Self, CommandError> {
        let name = path.display().to_string();
        let file = if name == STDIN {
            let stdin = io::stdin().as_fd().try_clone_to_owned();
            File::from(stdin.map_err(at(Path::new("standard input")))?)
        } else {
            File::open(path).map_err(|error| at(path)(error).hint(WANTED))?
        };
        if file.metadata().is_ok_and(|m| m.is_dir()) {
            return Err(at(path)(io::ErrorKind::IsADirectory.into()).hint(WANTED));
        }
        let live = if name == STDIN { file.try_clone().ok() } else { None };
        let (input, packed) = kgate_kernel::unpacked(file).map_err(|e| damaged(&name, &e))?;
        let mut log = Self { name, input, live: live.filter(|_| !packed), head: Vec::new() };
        let mut buffer = [0; 2];
        while log.head.len() < buffer.len() {
            let wanted = buffer.len() - log.head.len();
            match log.fill(&mut buffer[..wanted])? {
                0 => break,
                n => log.head.extend_from_slice(&buffer[..n]),
            }
        }
        // Read as bytes, nothing would ever be found in it.
        if matches!(*log.head, [0xff, 0xfe] | [0xfe, 0xff]) {
            let hint = "turn it into UTF-8: iconv -f utf-16 -t utf-8 FILE | kgate klog";
            return Err(
                CommandError::usage(format!("{}: UTF-16 text", text::line(&log.name))).hint(hint)
            );
        }
        Ok(log)
    }

    /// Whether there is nothing in it, asked before anything is read.
    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_empty()
    }

    /// How it was recorded, by its first lines.
    pub(crate) fn source(&mut self) -> Result<Source, CommandError> {
        let mut buffer = [0; HEAD];
        while self.head.len() < HEAD && !self.head.contains(&b'\n') {
            let n = self.fill(&mut buffer)?;
            if n == 0 {
                break;
            }
            self.head.extend_from_slice(&buffer[..n]);
        }
        Ok(Source::detect(&self.head))
    }

    /// The next bytes; none at the end.
    pub(crate) fn read(&mut self) -> Result<Vec<u8>, CommandError> {
        if !self.head.is_empty() {
            return Ok(std::mem::take(&mut self.head));
        }
        let mut buffer = vec![0; CHUNK];
        let n = self.fill(&mut buffer)?;
        buffer.truncate(n);
        Ok(buffer)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, CommandError> {
        loop {
            match self.input.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map_err(|error| damaged(&self.name, &error)),
            }
        }
    }

    /// Whether nothing comes for so long; only ever so of a pipe or a terminal.
    pub(crate) fn is_quiet(&self, time: Duration) -> bool {
        let Some(live) = &self.live else { return false };
        let mut fds = [PollFd::new(live, PollFlags::IN)];
        let time = Timespec::try_from(time).ok();
        self.head.is_empty() && matches!(poll(&mut fds, time.as_ref()), Ok(0))
    }

    /// Everything different in it.
    pub(crate) fn digest(mut self, source: Option<Source>) -> Result<Digest, CommandError> {
        let source = match source {
            Some(source) => source,
            None => self.source()?,
        };
        let mut digest = Digest::new(source);
        loop {
            let bytes = self.read()?;
            if bytes.is_empty() {
                return Ok(digest);
            }
            digest.push(&bytes);
        }
    }
}

fn damaged(name: &str, error: &io::Error) -> CommandError {
    use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    match error.kind() {
        InvalidData | InvalidInput | UnexpectedEof => CommandError::usage(format!(
            "{}: what it packs can't be unpacked: {error}",
            text::line(name)
        ))
        .hint("unpack it with its own tool, as far as that gets, and give the result"),
        _ => at(Path::new(name))(io::Error::from(error.kind())),
    }
}

/// How the lines of a run's kernel logs differ. Files that are not there any more are left out: a
/// verdict does not depend on them.
pub(crate) fn of_run(dir: &RunDir, record: &RunRecord) -> LogDelta {
    let mut census = Census::default();
    for boot in record.boots.iter().filter(|boot| boot.attempts > 0) {
        let of_attempt = |attempt: u32| {
            let console = boot.consoles.get(attempt as usize - 1);
            digest(dir, Some(dir.kernel_log(&boot.planned.id, attempt)), console)
        };
        // A clone's log goes on from its template's, which is read once.
        let own = record.trials.iter().filter(|trial| trial.boot == boot.planned.id);
        let own = own.filter_map(|trial| trial.machine.as_ref()).filter_map(|machine| {
            digest(dir, within(dir.path(), &machine.kernel_log), Some(&machine.console))
        });
        let mut digests = (1..=boot.attempts).filter_map(of_attempt).chain(own);
        let Some(first) = digests.next() else { continue };
        let mut scenarios: Vec<_> = boot.planned.trials.iter().map(|t| &*t.scenario).collect();
        scenarios.sort_unstable();
        let origin = Origin {
            role: boot.planned.role,
            group: format!("{} {}", boot.planned.image, scenarios.join(" ")),
            whole: boot.finished && boot.fault.is_none(),
        };
        census.add(origin, first);
        digests.for_each(|digest| census.also(digest));
    }
    census.delta()
}

/// The log of one machine: the kernel's own records, or the console where the kernel did not live to
/// tell them.
fn digest(dir: &RunDir, records: Option<PathBuf>, console: Option<&String>) -> Option<Digest> {
    let console = console.and_then(|name| within(dir.path(), name));
    [(records, Source::Kmsg), (console, Source::Console)].into_iter().find_map(|(path, source)| {
        let path = path.filter(|path| path.metadata().is_ok_and(|m| m.is_file() && m.len() > 0))?;
        Log::open(&path).and_then(|log| log.digest(Some(source))).ok()
    })
}

/// The path of a file of the run directory, if it lies in it.
pub(crate) fn within(dir: &Path, name: &str) -> Option<PathBuf> {
    let name = Path::new(name);
    let inside = name.components().all(|part| matches!(part, Component::Normal(_)));
    inside.then(|| dir.join(name))
}

/// The end of a file of the run directory, if it lies in it: at most so many bytes.
pub(crate) fn tail(dir: &Path, name: &str, bytes: usize) -> Option<Vec<u8>> {
    let mut file = File::open(within(dir, name)?).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes as u64))).ok()?;
    let mut tail = Vec::new();
    file.take(bytes as u64).read_to_end(&mut tail).ok()?;
    Some(tail)
}
