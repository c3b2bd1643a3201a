//! `kgate releases cves update`: the CNA's records, from its repository into the table.
//!
//! A repository is read through `git`, without a work tree: its records become an archive in the cache,
//! which is read as a stream. One named by URL is kept there with its last commit only.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use kgate_release::cve::{MAX_RECORD, RecordError, Severity, Snapshot, Table};

use super::super::feeds::file_name;
use super::table;
use crate::args::cves::UpdateArgs;
use crate::context::{Context, now};
use crate::error::{CommandError, at};
use crate::git::{Git, GitError};
use crate::text::line;

/// Records that are published; beside them are those reserved and rejected.
const PUBLISHED: &str = "cve/published";
/// The longest that a repository may take to arrive.
const FETCH: Duration = Duration::from_secs(3600);
/// The longest that reading it may take.
const READ: Duration = Duration::from_secs(600);
/// Directories below each other in a directory of records.
const DEPTH: usize = 4;
/// Records that are read.
const MAX_RECORDS: usize = 1_000_000;
/// Where a fetched repository has what was fetched last.
const FETCHED: &str = "refs/kgate/latest";

/// Runs the command.
pub(super) fn update(context: &Context, args: &UpdateArgs) -> Result<(), CommandError> {
    let begin = Instant::now();
    let dir = table::directory(context)?;
    // One at a time; whoever waited reads what the other has fetched, and finds little new.
    let lock = File::create(dir.join(".update")).map_err(at(&dir))?;
    if lock.try_lock().is_err() {
        anstream::eprintln!("kgate: another update is at work, this one waits for it");
        lock.lock().map_err(at(&dir))?;
    }
    remove_left_over(&dir);
    let mut table = match source(&args.from)? {
        Source::Url(url) => {
            let repository = dir.join(format!("{}.git", file_name(url.trim_end_matches(".git"))));
            fetch(context, url, args.branch.as_deref(), &repository)?;
            from_git(context, url, &repository, FETCHED, &dir)?
        }
        Source::Repository(path) => {
            let head = args.branch.as_ref().map(|branch| format!("refs/heads/{branch}"));
            from_git(context, &args.from, path, head.as_deref().unwrap_or("HEAD"), &dir)?
        }
        Source::Directory(path) => from_directory(&args.from, path)?,
    };
    if table.cves.is_empty() {
        let broken = table.named.first().map(|first| format!("; the first: {}", line(first)));
        return Err(CommandError::usage(format!(
            "{}: none of its {} records can be read{}",
            line(&args.from),
            table.broken,
            broken.unwrap_or_default()
        )));
    }
    table.sort();
    let bytes = table::write(&dir, &table)?;
    tell(&table, bytes, begin.elapsed());
    Ok(())
}

fn tell(table: &Table, bytes: usize, took: Duration) {
    let count = |severity| table.cves.iter().filter(|cve| cve.severity() == severity).count();
    let counts: Vec<_> = Severity::ALL
        .iter()
        .map(|severity| (count(*severity), severity))
        .filter(|(count, _)| *count > 0)
        .map(|(count, severity)| format!("{count} {severity}"))
        .collect();
    anstream::println!("{}", table::described(table));
    anstream::println!("{}", counts.join(", "));
    anstream::println!("{:.1} MB, in {:.1} s", bytes as f64 / 1e6, took.as_secs_f64());
    for broken in &table.named {
        anstream::eprintln!("kgate: {}", line(broken));
    }
    if table.broken > table.named.len() {
        anstream::eprintln!("kgate: and {} more", table.broken - table.named.len());
    }
}

enum Source<'a> {
    Url(&'a str),
    Repository(&'a Path),
    Directory(&'a Path),
}

fn source(from: &str) -> Result<Source<'_>, CommandError> {
    let path = Path::new(from);
    let is_repository =
        path.join(".git").exists() || (path.join("HEAD").exists() && path.join("objects").exists());
    if is_repository {
        return Ok(Source::Repository(path));
    }
    if path.join(PUBLISHED).is_dir() {
        return Ok(Source::Directory(path));
    }
    if path.exists() {
        return Err(CommandError::usage(format!(
            "{}: neither a git repository nor a directory with {PUBLISHED}",
            line(from)
        ))
        .hint("records are published in https://git.kernel.org/pub/scm/linux/security/vulns.git"));
    }
    let host = from.split_once(':').map_or("", |(host, _)| host);
    if from.contains("://") || (!host.is_empty() && !host.contains('/')) {
        return Ok(Source::Url(from));
    }
    Err(CommandError::usage(format!("{}: no such directory, and no URL", line(from))))
}

/// What a killed update left here: nobody else has the lock.
fn remove_left_over(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(".tmp") {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// What `git` answers; its complaint is the error.
fn git(
    context: &Context,
    name: &str,
    repository: &Path,
    args: &[&str],
    timeout: Duration,
) -> Result<String, CommandError> {
    let answer = Git::new(&context.host, repository, timeout).text(args);
    answer.map(|text| text.trim().to_owned()).map_err(|error| {
        match &error {
            GitError::Refused(why) if why.contains("dubious ownership") => error.infrastructure(name).hint(
                "it belongs to somebody else; `git config --global --add safe.directory PATH` trusts it",
            ),
            GitError::Refused(why) if why.contains("pathspec") => {
                error.usage(name).hint(format!(
                    "this branch has no {PUBLISHED}: is it a clone of vulns.git, and the right --branch?"
                ))
            }
            _ => error.infrastructure(name),
        }
    })
}

/// Brings the last commit of a branch here.
fn fetch(
    context: &Context,
    url: &str,
    branch: Option<&str>,
    repository: &Path,
) -> Result<(), CommandError> {
    anstream::eprintln!("kgate: fetching {}", line(url));
    let known = repository.exists();
    fs::create_dir_all(repository).map_err(at(repository))?;
    git(context, url, repository, &["init", "--quiet", "--bare"], READ)?;
    // A fetch that was killed leaves its lock, and nobody else is here.
    let _ = fs::remove_file(repository.join("shallow.lock"));
    let wanted = branch.map_or("HEAD".to_owned(), |branch| format!("refs/heads/{branch}"));
    let wanted = format!("+{wanted}:{FETCHED}");
    let fetch = ["fetch", "--quiet", "--depth=1", "--no-tags", "--", url, &wanted];
    git(context, url, repository, &fetch, FETCH).map(drop).map_err(|error| {
        if !known {
            let _ = fs::remove_dir_all(repository);
        }
        error.hint(
            "records that were read before stay; --from names a mirror, or a clone that is here",
        )
    })
}

fn from_git(
    context: &Context,
    name: &str,
    repository: &Path,
    head: &str,
    dir: &Path,
) -> Result<Table, CommandError> {
    let ask = |args: &[&str]| git(context, name, repository, args, READ);
    ask(&["rev-parse", "--git-dir"])?;
    let commit = format!("{head}^{{commit}}");
    let commit =
        ask(&["rev-parse", "--verify", "--quiet", "--end-of-options", &commit]).map_err(|_| {
            match head.strip_prefix("refs/heads/") {
                Some(branch) => CommandError::usage(format!(
                    "{}: there is no branch {}",
                    line(name),
                    line(branch)
                )),
                None => CommandError::usage(format!("{}: it has no commit", line(name))),
            }
        })?;
    let time = ask(&["log", "-1", "--format=%ct", &commit])?;
    let time = time.parse().ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    let date = time.map(day).ok_or_else(|| {
        CommandError::usage(format!("{}: its commit {commit} has no date", line(name)))
    })?;
    let snapshot = Snapshot {
        source: name.into(),
        commit: Some(commit.clone()),
        date,
        fetched: now().timestamp(),
    };
    let archive = tempfile::Builder::new().prefix(".tmp").tempfile_in(dir).map_err(at(dir))?;
    let output = format!("--output={}", archive.path().display());
    let records = format!(":(glob){PUBLISHED}/**/*.json");
    ask(&["archive", "--format=tar", &output, &commit, "--", &records])?;
    let mut table = Table::new(snapshot);
    let file = File::open(archive.path()).map_err(at(archive.path()))?;
    read_archive(&mut table, file).map_err(at(archive.path()))?;
    Ok(table)
}

fn day(time: Timestamp) -> Date {
    time.to_zoned(TimeZone::UTC).date()
}

fn read_archive(table: &mut Table, file: File) -> std::io::Result<()> {
    let mut archive = tar::Archive::new(std::io::BufReader::with_capacity(1 << 20, file));
    for entry in archive.entries()?.take(MAX_RECORDS) {
        let entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = entry.path()?.display().to_string();
        add(table, &name, entry)?;
    }
    Ok(())
}

fn add(table: &mut Table, name: &str, record: impl Read) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    record.take(MAX_RECORD + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_RECORD {
        table.add_broken(name, &RecordError::Large);
    } else {
        table.add(name, &bytes);
    }
    Ok(())
}

fn from_directory(name: &str, path: &Path) -> Result<Table, CommandError> {
    let mut files = Vec::new();
    records_below(&path.join(PUBLISHED), 0, &mut files)?;
    files.sort();
    let mut newest = SystemTime::UNIX_EPOCH;
    for file in &files {
        let changed = fs::metadata(file).and_then(|data| data.modified()).map_err(at(file))?;
        newest = newest.max(changed);
    }
    let time = Timestamp::try_from(newest)
        .map_err(|error| CommandError::infrastructure(format!("{}: {error}", line(name))))?;
    let fetched = now().timestamp();
    let snapshot = Snapshot { source: name.into(), commit: None, date: day(time), fetched };
    let mut table = Table::new(snapshot);
    for file in files {
        let shown = file.strip_prefix(path).unwrap_or(&file).display().to_string();
        File::open(&file).and_then(|record| add(&mut table, &shown, record)).map_err(at(&file))?;
    }
    Ok(table)
}

fn records_below(dir: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), CommandError> {
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        let entry = entry.map_err(at(dir))?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(at(dir))?);
        if kind.is_dir() && depth < DEPTH {
            records_below(&path, depth + 1, files)?;
        } else if kind.is_file() && path.extension().is_some_and(|end| end == "json") {
            files.push(path);
        }
        if files.len() > MAX_RECORDS {
            return Err(CommandError::usage(format!("{}: too many files", dir.display())));
        }
    }
    Ok(())
}
