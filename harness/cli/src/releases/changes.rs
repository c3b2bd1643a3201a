//! Gets what tells the commits of releases: a repository, changelogs, and what packages carry.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kgate_kernel::{Reference, Resolver};
use kgate_model::host::Host;
use kgate_release::change::{
    Changes, Origin, OriginKind, Reader, Segment, log_arguments, read_log, segments,
};
use kgate_release::{Maintainers, Version, releases_between};

use crate::args::changes::ChangeArgs;
use crate::context::Context;
use crate::error::{CommandError, at};
use crate::git::Git;
use crate::text::line;

/// The longest that `git` may take for one release.
const GIT: Duration = Duration::from_secs(600);
/// `git` is not asked for more steps than this.
const MAX_SEGMENTS: usize = 5_000;
/// More of a changelog is not read.
const MAX_CHANGELOG: u64 = 1 << 30;
/// Entries of a directory of changelogs that are looked at.
const MAX_FILES: usize = 100_000;

/// What is between two releases, and what is known of it.
pub(crate) struct Known {
    /// The releases in question, oldest first; `None` when only a repository could tell which.
    pub(crate) releases: Option<Vec<Version>>,
    /// The sources.
    pub(crate) sources: Vec<Changes>,
}

/// Asks all sources of what is in `to` and not in `from`, the earlier one; `kernels` are references
/// whose packages may carry a changelog.
///
/// # Errors
/// When a source can't be read, or the repository lacks a release.
pub(crate) fn known(
    context: &Context,
    args: &ChangeArgs,
    (from, to): (Version, Version),
    kernels: &[&str],
    maintainers: Option<&Maintainers>,
) -> Result<Known, CommandError> {
    let mut releases = releases_between(from, to);
    let mut sources = Vec::new();
    if let Some(repository) = &args.git {
        let (steps, changes) = from_git(context, repository, from, to, maintainers)?;
        releases = Some(steps);
        sources.push(changes);
    }
    sources.extend(listed(context, args, kernels, Some((from, to)))?);
    Ok(Known { releases, sources })
}

/// What changelogs and lists say; of a directory only what is in the range, where one is given.
pub(crate) fn listed(
    context: &Context,
    args: &ChangeArgs,
    kernels: &[&str],
    range: Option<(Version, Version)>,
) -> Result<Vec<Changes>, CommandError> {
    let mut sources = Vec::new();
    for path in &args.changelogs {
        let data = fs::metadata(path).map_err(at(path))?;
        sources.extend(if data.is_dir() {
            from_directory(path, range)?
        } else {
            vec![from_file(path)?]
        });
    }
    for text in kernels {
        sources.extend(from_package(context, text)?);
    }
    Ok(sources)
}

fn from_file(path: &Path) -> Result<Changes, CommandError> {
    let mut reader = Reader::new(&path.display().to_string());
    let file = File::open(path).map_err(at(path))?;
    let (text, _) = kgate_kernel::unpacked(file).map_err(at(path))?;
    let mut text = text.take(MAX_CHANGELOG);
    let mut chunk = vec![0; 1 << 16];
    loop {
        match text.read(&mut chunk).map_err(at(path))? {
            0 => break,
            read => reader.feed(&chunk[..read]),
        }
    }
    reader.finish().map_err(|error| CommandError::usage(line(&error.to_string())))
}

/// The files `ChangeLog-VERSION` of a directory, as one source.
fn from_directory(
    dir: &Path,
    range: Option<(Version, Version)>,
) -> Result<Vec<Changes>, CommandError> {
    let mut files: Vec<(Version, PathBuf)> = fs::read_dir(dir)
        .map_err(at(dir))?
        .take(MAX_FILES)
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let name = path.file_name()?.to_str()?.strip_prefix("ChangeLog-")?;
            let packed = [".gz", ".xz", ".bz2", ".zst"];
            let name = packed.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            Some((name.parse().ok()?, path))
        })
        .collect();
    if files.is_empty() {
        let dir = line(&dir.display().to_string());
        return Err(CommandError::usage(format!("{dir}: no file ChangeLog-VERSION in it"))
            .hint("they are at https://www.kernel.org/pub/linux/kernel/v6.x/"));
    }
    files.sort();
    files.retain(|(version, _)| {
        range.is_none_or(|(from, to)| (from..=to).contains(version) && *version != from)
    });
    let origin =
        Origin { kind: OriginKind::ChangeLog, name: dir.display().to_string(), snapshot: None };
    let mut all = Changes { origin, releases: Default::default() };
    for (version, path) in files {
        let mut changes = from_file(&path)?;
        let Some(release) = changes.releases.remove(&version) else {
            let path = line(&path.display().to_string());
            return Err(CommandError::usage(format!(
                "{path}: it is not the ChangeLog of {version}"
            ))
            .hint("fetch it again"));
        };
        all.origin.snapshot = all.origin.snapshot.max(changes.origin.snapshot);
        all.releases.insert(version, release);
    }
    Ok((!all.releases.is_empty()).then_some(all).into_iter().collect())
}

/// The changelog that the packages of a kernel reference carry, if they do.
fn from_package(context: &Context, text: &str) -> Result<Option<Changes>, CommandError> {
    // Versions are no references, and neither is what has no packages.
    let Ok(reference @ Reference::Packages(_)) = Reference::parse(text) else { return Ok(None) };
    let resolver = Resolver { cache_dir: context.cache()?.to_owned(), host: &context.host };
    let mut reader = Reader::new(text);
    if !resolver.changelog(&reference, &mut |chunk| reader.feed(chunk))? {
        return Ok(None);
    }
    // A changelog that says nothing of upstream releases is not the user's mistake.
    Ok(reader.finish().ok())
}

/// The steps from one release to the other, and what is in each.
fn from_git(
    context: &Context,
    repository: &Path,
    from: Version,
    to: Version,
    maintainers: Option<&Maintainers>,
) -> Result<(Vec<Version>, Changes), CommandError> {
    let name = line(&repository.display().to_string());
    let tags = tags(context, repository)?;
    if let Some(missing) = [from, to].iter().find(|version| !tags.contains(version)) {
        return Err(CommandError::usage(format!("{name} has no tag v{missing}")).hint(
            "`git fetch --tags https://git.kernel.org/pub/scm/linux/kernel/git/stable/linux.git` brings it",
        ));
    }
    let steps = segments(from, to, &tags);
    if steps.len() > MAX_SEGMENTS {
        return Err(CommandError::usage(format!("{name} has too many tags from {from} to {to}")));
    }
    let day = git(
        &context.host,
        repository,
        &["log", "-1", "--format=%cs", &format!("v{to}^{{commit}}")],
    )?;
    let snapshot = String::from_utf8_lossy(&day).trim().parse().ok();
    let origin = Origin { kind: OriginKind::Git, name: repository.display().to_string(), snapshot };
    let mut changes = Changes { origin, releases: Default::default() };
    for Segment { from, to } in &steps {
        let arguments = log_arguments(Segment { from: *from, to: *to });
        let output = git(&context.host, repository, &arguments)?;
        changes.releases.insert(*to, read_log(&output, maintainers));
    }
    Ok((steps.iter().map(|step| step.to).collect(), changes))
}

/// The releases that a repository has tags of.
pub(crate) fn tags(
    context: &Context,
    repository: &Path,
) -> Result<BTreeSet<Version>, CommandError> {
    let list = git(&context.host, repository, &["tag", "--list", "v*"])?;
    let list = String::from_utf8_lossy(&list);
    Ok(list.lines().filter_map(|tag| tag.strip_prefix('v')?.parse().ok()).collect())
}

/// What `git` says of a repository.
///
/// # Errors
/// When it can't be run, or complains.
pub(crate) fn git(
    host: &dyn Host,
    repository: &Path,
    arguments: &[impl AsRef<OsStr>],
) -> Result<Vec<u8>, CommandError> {
    // A repository that keeps only part of its objects is not to fetch the rest by itself.
    let env = &[("GIT_NO_LAZY_FETCH", "1")];
    let answer = Git { env, ..Git::new(host, repository, GIT) }.bytes(arguments);
    answer.map_err(|error| error.usage(&format!("git in {}", repository.display())))
}
