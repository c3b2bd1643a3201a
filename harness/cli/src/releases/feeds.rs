//! Gets the feeds that a user names, and puts them together.
//!
//! URLs are fetched by the host's `curl`: it has the proxies, certificates and protocols that this
//! machine is set up with, and ends with kgate like every other process. The last good copy of each
//! stays in the cache; it is used, with a note, when there is no better one.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::civil::Date;
use kgate_kernel::apt;
use kgate_model::host::{Host, HostCommand};
use kgate_release::feed::{self, Feed, Statement};
use kgate_release::{Catalogue, Distribution, KernelVersion, Version};
use serde::{Deserialize, Serialize};

use super::subject::subject;
use crate::args::releases::FeedArgs;
use crate::context::Context;
use crate::error::{CommandError, at};
use crate::git::Git;
use crate::text::line;

/// Feeds that have a name of their own.
const NAMED: &[(&str, &str)] = &[
    ("kernel.org", "https://www.kernel.org/releases.json"),
    ("endoflife.date", "https://endoflife.date/api/linux.json"),
];

const DEFAULT: &str = "kernel.org";

/// The longest that fetching a feed may take.
const FETCH: Duration = Duration::from_secs(60);
/// The longest that a repository may take to list its tags.
const LIST: Duration = Duration::from_secs(60);
/// Entries of a directory of kernels that are looked at.
const MAX_KERNELS: usize = 10_000;

const SOURCES: &str = "a feed is kernel.org, endoflife.date, a URL, a file, apt:FLAVOUR, a directory of \
kernels or git:REPOSITORY";

/// What precedes a kept copy, on a line of its own.
#[derive(Serialize, Deserialize)]
struct Kept {
    url: String,
    date: Date,
}

/// What the feeds say, as of today.
///
/// # Errors
/// When one can't be had or says what can't be.
pub(crate) fn catalogue(context: &Context, args: &FeedArgs) -> Result<Catalogue, CommandError> {
    let today = context.today();
    let default = [DEFAULT.to_owned()];
    let sources = if args.feed.is_empty() { &default[..] } else { &args.feed };
    let feeds: Vec<Feed> =
        sources.iter().map(|source| read(context, source, today)).collect::<Result<_, _>>()?;
    Ok(Catalogue::gather(today, &feeds))
}

fn read(context: &Context, source: &str, today: Date) -> Result<Feed, CommandError> {
    let named = NAMED.iter().find(|(name, _)| *name == source).map(|(_, url)| *url);
    if let Some(url) = named.or_else(|| is_url(source).then_some(source)) {
        return from_url(context, source, url, today);
    }
    if let Some(flavour) = source.strip_prefix("apt:") {
        return Ok(Feed { as_of: Some(today), ..from_apt(context, source, flavour)? });
    }
    if let Some(repository) = source.strip_prefix("git:") {
        return from_git(context, source, repository);
    }
    let path = Path::new(source);
    let data = fs::metadata(path).map_err(|error| at(path)(error).hint(SOURCES))?;
    if data.is_dir() { from_directory(context, source, path) } else { from_file(source, path) }
}

fn is_url(source: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| source.starts_with(scheme))
}

fn from_file(source: &str, path: &Path) -> Result<Feed, CommandError> {
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(feed::MAX_TEXT as u64 + 1).read_to_end(&mut bytes))
        .map_err(at(path))?;
    parse(source, bytes)
}

fn parse(source: &str, bytes: Vec<u8>) -> Result<Feed, CommandError> {
    let text = String::from_utf8(bytes).map_err(|_| {
        CommandError::usage(format!("feed {}: it is not a text", line(source))).hint(SOURCES)
    })?;
    Feed::read(source, &text).map_err(|error| CommandError::usage(line(&error.to_string())))
}

fn from_url(context: &Context, source: &str, url: &str, today: Date) -> Result<Feed, CommandError> {
    let place = context.cache()?.join("feeds").join(file_name(url));
    let fetched = fetch(context, url).and_then(|bytes| {
        let feed = parse(source, bytes.clone())?;
        keep(&place, url, today, &bytes)?;
        Ok(Feed { as_of: Some(today), ..feed })
    });
    fetched.or_else(|error| {
        let why = error.first_line();
        let Some((date, bytes)) = kept(&place, url) else {
            return Err(CommandError::infrastructure(why).hint(
                "no copy of it was kept; name another feed: --feed FILE, --feed apt: or --feed git:REPOSITORY",
            ));
        };
        let age = (today - date).get_days();
        anstream::eprintln!("kgate: {why}\n  using the copy of {date}, which is {age} days old");
        Ok(Feed { as_of: Some(date), ..parse(source, bytes)? })
    })
}

/// What a URL gives, at most 5 redirections away.
fn fetch(context: &Context, url: &str) -> Result<Vec<u8>, CommandError> {
    let fail =
        |why: String| CommandError::infrastructure(format!("feed {}: {}", line(url), line(&why)));
    let limit = feed::MAX_TEXT.to_string();
    // What was asked for over TLS doesn't come without.
    let protocols = if url.starts_with("https:") { "=https" } else { "=http,https" };
    let command = HostCommand::new("curl", FETCH)
        .args(["--disable", "--globoff", "--silent", "--show-error", "--fail", "--location"])
        .args(["--max-redirs", "5", "--proto", protocols, "--proto-redir", protocols])
        .args(["--connect-timeout", "15", "--max-filesize", &limit, "--compressed"])
        .args(["--user-agent", concat!("kgate/", env!("CARGO_PKG_VERSION"))])
        .args(["--url", url]);
    let output = context.host.run(&command).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => fail("curl, which fetches it, is not installed".to_owned()),
        std::io::ErrorKind::TimedOut => fail(format!("no answer within {} s", FETCH.as_secs())),
        _ => fail(error.to_string()),
    })?;
    if output.code != Some(0) {
        let complaint = String::from_utf8_lossy(&output.stderr);
        return Err(fail(complaint.lines().next().unwrap_or("curl failed").to_owned()));
    }
    if output.stdout.len() >= feed::MAX_TEXT {
        return Err(fail(format!("it is longer than {} MiB", feed::MAX_TEXT >> 20)));
    }
    Ok(output.stdout)
}

/// The name of a URL's copy in the cache; several may have the same.
pub(super) fn file_name(url: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.trim_start_matches('.').chars().map(plain).take(200).collect()
}

fn keep(place: &Path, url: &str, date: Date, bytes: &[u8]) -> Result<(), CommandError> {
    let dir = place.parent().unwrap_or(place);
    fs::create_dir_all(dir).map_err(at(dir))?;
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(at(dir))?;
    let head = serde_json::to_string(&Kept { url: url.to_owned(), date })?;
    writeln!(file, "{head}").and_then(|()| file.write_all(bytes)).map_err(at(place))?;
    file.persist(place).map_err(|error| at(place)(error.error))?;
    Ok(())
}

fn kept(place: &Path, url: &str) -> Option<(Date, Vec<u8>)> {
    let bytes = fs::read(place).ok()?;
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let head: Kept = serde_json::from_slice(&bytes[..end]).ok()?;
    (head.url == url).then(|| (head.date, bytes[end + 1..].to_vec()))
}

fn from_apt(context: &Context, source: &str, flavour: &str) -> Result<Feed, CommandError> {
    let flavour = if flavour.is_empty() { apt::FLAVOUR } else { flavour };
    let kernels = apt::kernels(&context.host, flavour)?;
    let releases = kernels.iter().filter_map(|kernel| {
        let version: Version = kernel.upstream.parse().ok()?;
        Some(Statement { kernel: Some(kernel.reference()), ..Statement::release(version) })
    });
    let feed = Feed::new(source, releases.collect());
    if feed.statements.is_empty() {
        let flavour = line(flavour);
        return Err(CommandError::usage(format!("apt offers no kernel of flavour `{flavour}`"))
            .hint("Debian's flavours are cloud-amd64, amd64 and rt-amd64; `apt-get update` refreshes what apt knows"));
    }
    Ok(feed)
}

fn from_git(context: &Context, source: &str, repository: &str) -> Result<Feed, CommandError> {
    let name = format!("feed {source}");
    let tags = Git::new(&context.host, Path::new(repository), LIST)
        .bytes(&["for-each-ref", "--format=%(refname) %(creatordate:short)", "refs/tags/v*"])
        .map_err(|error| error.usage(&name))?;
    if tags.is_empty() {
        return Err(CommandError::usage(format!("{}: the repository has no tags such as v6.1.3", line(&name)))
            .hint("`git fetch --tags` from https://git.kernel.org/pub/scm/linux/kernel/git/stable/linux.git brings them"));
    }
    parse(source, tags)
}

/// Kernels in a directory: packages and directories, each of them whole. What the name of a Debian
/// package tells is believed; of others the kernel itself is looked at.
fn from_directory(context: &Context, source: &str, dir: &Path) -> Result<Feed, CommandError> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .and_then(|entries| entries.take(MAX_KERNELS).map(|entry| Ok(entry?.path())).collect())
        .map_err(at(dir))?;
    paths.sort();
    let mut statements = Vec::new();
    let mut left_out = Vec::new();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let package = [".deb", ".rpm"].iter().any(|end| name.ends_with(end));
        let image = ["linux-image-", "kernel"].iter().any(|begin| name.starts_with(begin));
        if if package { !image || name.contains("-dbg_") } else { !path.is_dir() } {
            continue;
        }
        let reference = path.display().to_string();
        let version = named(&name).map_or_else(
            || {
                let found = subject(context, &reference).map_err(|error| error.first_line())?;
                found.version.upstream.ok_or_else(|| {
                    format!("which release is in {} can't be told", line(&found.version.text))
                })
            },
            Ok,
        );
        match version {
            Ok(version) => statements
                .push(Statement { kernel: Some(reference), ..Statement::release(version) }),
            Err(why) => left_out.push(format!("{}: left out: {why}", line(&name))),
        }
    }
    if statements.is_empty() {
        let why = left_out.into_iter().next().unwrap_or_else(|| "no kernel is in it".to_owned());
        return Err(CommandError::usage(format!("feed {}: {why}", line(source))).hint(
            "a directory of kernels has .deb and .rpm files, and directories that are kernels",
        ));
    }
    Ok(Feed { notes: left_out, ..Feed::new(source, statements) })
}

/// The release in `linux-image-6.1.0-56-amd64_6.1.192-2_amd64.deb`.
fn named(file: &str) -> Option<Version> {
    let mut parts = file.strip_suffix(".deb")?.split('_');
    let _package = parts.next().filter(|name| name.starts_with("linux-image-"))?;
    // As apt names files: the colon after an epoch is not one.
    let version: KernelVersion = parts.next()?.replace("%3a", ":").parse().ok()?;
    version.upstream.filter(|_| version.distribution == Distribution::Debian)
}
