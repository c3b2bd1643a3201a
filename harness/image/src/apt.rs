//! Asks apt which packages an image needs and has it download them, as an ordinary user and
//! without touching the controller's own package state.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kgate_model::host::{Host, HostCommand, HostOutput};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::ImageError;

/// The controller's own package lists.
const HOST_LISTS: &str = "/var/lib/apt/lists";
/// The controller's sources, preferences and settings for apt.
const HOST_CONFIG: &str = "/etc/apt";
const RESOLVE: Duration = Duration::from_secs(120);
const UPDATE: Duration = Duration::from_secs(600);
const DOWNLOAD: Duration = Duration::from_secs(1800);

/// One package at one version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Name, as in `libc6`.
    pub name: String,
    /// Version, as in `2.36-9+deb12u14`.
    pub version: String,
    /// Architecture: `amd64` or `all`.
    pub architecture: String,
    /// Checksum of the package file, as the signed package lists give it.
    pub sha256: String,
}

impl Package {
    /// The name of its file in the cache.
    pub(crate) fn file_name(&self) -> String {
        let version = self.version.replace(':', "%3a");
        format!("{}_{version}_{}.deb", self.name, self.architecture)
    }
}

/// What apt answered the last time.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Memo {
    stamp: String,
    packages: Vec<Package>,
}

/// Apt, with a state of its own below one directory.
pub(crate) struct Apt<'a> {
    host: &'a dyn Host,
    /// Holds apt's configuration, its cache and, when they were needed, newer package lists.
    state: PathBuf,
    /// Holds downloaded packages.
    debs: PathBuf,
}

/// Why apt gave no answer, with its own words.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Apt ran and refused.
    Refused(String),
    /// The error to hand on.
    Other(ImageError),
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Self::Other(error)
    }
}

impl<'a> Apt<'a> {
    /// Apt with its state and downloads below `cache`, an absolute path.
    pub(crate) fn new(host: &'a dyn Host, cache: &Path) -> Result<Self, ImageError> {
        let cache = cache.join("packages");
        let apt = Self { host, state: cache.join("apt"), debs: cache.join("debs") };
        for dir in [&apt.state, &apt.debs] {
            fs::create_dir_all(dir).map_err(ImageError::io("create", dir))?;
        }
        write_once(&apt.state.join("status"), "")?;
        let config = apt.state.join("apt.conf");
        write_once(&config, &config_text(&apt.state)?)?;
        Ok(apt)
    }

    /// The packages that `wanted` and all their dependencies come to, sorted, computed against an
    /// empty system.
    pub(crate) fn resolve(&self, wanted: &[String]) -> Result<Vec<Package>, Failure> {
        // Apt takes a second or more; its answer holds as long as what it reads is the same.
        let memo_path = self.state.join(format!("resolved-{}.json", hash(wanted.join(" "))));
        let stamp = self.stamp();
        let memo = fs::read(&memo_path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        match memo {
            Some(Memo { stamp: old, packages }) if old == stamp => return Ok(packages),
            _ => {}
        }
        let output = self.run("apt-get", RESOLVE, None, |command| {
            command
                .args(["install", "--print-uris", "--yes", "--quiet=2", "--"])
                .args(wanted.iter().cloned())
        })?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut packages = Vec::new();
        for line in text.lines().filter(|line| line.starts_with('\'')) {
            let package = parse_uri(line)
                .ok_or_else(|| Failure::Refused(format!("answer not understood: {line}")))?;
            packages.push(package);
        }
        packages.sort();
        let memo = Memo { stamp, packages };
        let text = serde_json::to_string(&memo).unwrap_or_default();
        replace(&memo_path, &text).map_err(ImageError::io("write", &memo_path))?;
        Ok(memo.packages)
    }

    /// The files of `packages` in the cache, in the same order, downloading those that are not
    /// there. Each is checked against its sha256.
    pub(crate) fn download(&self, packages: &[Package]) -> Result<Vec<PathBuf>, Failure> {
        let paths: Vec<PathBuf> =
            packages.iter().map(|package| self.debs.join(package.file_name())).collect();
        let mut missing = Vec::new();
        for (package, path) in packages.iter().zip(&paths) {
            if !matches!(sha256(path), Ok(found) if found == package.sha256) {
                missing.push(package);
            }
        }
        if missing.is_empty() {
            return Ok(paths);
        }
        // Downloaded aside and moved in whole, so that builders beside this one see only
        // complete files.
        let aside = tempfile::Builder::new()
            .prefix(".download-")
            .tempdir_in(&self.debs)
            .map_err(ImageError::io("create a directory in", &self.debs))?;
        self.run("apt-get", DOWNLOAD, Some(aside.path()), |command| {
            let specs =
                missing.iter().map(|package| format!("{}={}", package.name, package.version));
            command.args(["download", "--quiet=2", "--"]).args(specs)
        })?;
        for package in missing {
            let file = package.file_name();
            let from = aside.path().join(&file);
            let found = sha256(&from)
                .map_err(|error| Failure::Refused(format!("apt downloaded no {file}: {error}")))?;
            if found != package.sha256 {
                let text = format!("{file} has sha256 {found}, expected {}", package.sha256);
                return Err(Failure::Refused(text));
            }
            let to = self.debs.join(&file);
            fs::rename(&from, &to).map_err(ImageError::io("create", &to))?;
        }
        Ok(paths)
    }

    /// Fetches package lists of our own, for when the controller's are missing or out of date.
    pub(crate) fn update(&self) -> Result<(), Failure> {
        let aside = tempfile::Builder::new()
            .prefix(".lists-")
            .tempdir_in(&self.state)
            .map_err(ImageError::io("create a directory in", &self.state))?;
        let option = lists_option(aside.path());
        self.run("apt-get", UPDATE, None, |command| {
            command.args(["-o".to_owned(), option, "update".to_owned(), "--quiet=2".to_owned()])
        })?;
        let lists = self.lists();
        match fs::remove_dir_all(&lists) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(ImageError::io("replace", lists)(error).into());
            }
            _ => {}
        }
        fs::rename(aside.keep(), &lists).map_err(ImageError::io("create", &lists))?;
        Ok(())
    }

    /// Changes with the package lists and with apt's configuration.
    fn stamp(&self) -> String {
        let mut text = String::new();
        for dir in [Path::new(HOST_LISTS), &self.lists(), Path::new(HOST_CONFIG)] {
            describe(dir, 3, &mut text);
        }
        hash(text)
    }

    fn lists(&self) -> PathBuf {
        self.state.join("lists")
    }

    fn run(
        &self,
        program: &str,
        timeout: Duration,
        dir: Option<&Path>,
        arguments: impl FnOnce(HostCommand) -> HostCommand,
    ) -> Result<HostOutput, Failure> {
        let mut command =
            HostCommand::new(program, timeout).arg("-c").arg(self.state.join("apt.conf"));
        command.env.push(("LC_ALL".into(), "C.UTF-8".into()));
        if newest(&self.lists()) > newest(Path::new(HOST_LISTS)) {
            command = command.arg("-o").arg(lists_option(&self.lists()));
        }
        if let Some(dir) = dir {
            command = command.dir(dir);
        }
        let output = self.host.run(&arguments(command)).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ImageError::MissingProgram { program: program.to_owned() },
            _ => ImageError::Program { program: program.to_owned(), source },
        })?;
        if output.code == Some(0) { Ok(output) } else { Err(Failure::Refused(complaint(&output))) }
    }
}

/// Apt's configuration: an empty system, no extras, everything it writes below `state`.
fn config_text(state: &Path) -> Result<String, ImageError> {
    let state = state.to_str().filter(|path| !path.contains(['"', '\n'])).ok_or_else(|| {
        let source = io::Error::other("apt cannot use a path with quotes or broken text");
        ImageError::Io { action: "use", path: state.to_owned(), source }
    })?;
    // The hooks of the controller's configuration are about its own caches.
    Ok(format!(
        r#"#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Get::Always-Include-Phased-Updates "true";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Sandbox::User "";
Acquire::ForceHash "SHA256";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::Languages "none";
Acquire::Retries "3";
Debug::NoLocking "true";
Dir::Cache "{state}";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Dir::State::extended_states "{state}/extended_states";
Dir::State::status "{state}/status";
"#
    ))
}

fn lists_option(dir: &Path) -> String {
    format!("Dir::State::lists={}/", dir.display())
}

/// When the archive published the newest of the package lists in `dir`.
fn newest(dir: &Path) -> Option<SystemTime> {
    let times = fs::read_dir(dir).ok()?.flatten().filter_map(|entry| {
        let listed = entry.file_name().to_string_lossy().ends_with("Release");
        listed.then(|| entry.metadata().ok()?.modified().ok())?
    });
    times.max()
}

/// Appends name, size and time of everything in `dir`, down to `depth` levels.
fn describe(dir: &Path, depth: u32, text: &mut String) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let mut entries: Vec<_> = entries.flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let Ok(metadata) = fs::metadata(entry.path()) else { continue };
        if metadata.is_dir() {
            if depth > 1 {
                describe(&entry.path(), depth - 1, text);
            }
        } else {
            let (path, time) = (entry.path(), metadata.modified());
            text.push_str(&format!("{path:?} {} {time:?}\n", metadata.len()));
        }
    }
}

/// Reads a line of `--print-uris`: `'URI' NAME_VERSION_ARCHITECTURE.deb SIZE SHA256:HEX`.
fn parse_uri(line: &str) -> Option<Package> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let file = words.next()?.strip_suffix(".deb")?;
    let sha256 = words.nth(1)?.strip_prefix("SHA256:")?;
    let mut parts = file.split('_');
    let (name, version, architecture) = (parts.next()?, parts.next()?, parts.next()?);
    let plain = |text: &str| !text.is_empty() && !text.contains('/') && !text.starts_with('.');
    let hex = |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let valid = parts.next().is_none()
        && [name, version, architecture].into_iter().all(plain)
        && hex(sha256);
    valid.then(|| Package {
        name: name.to_owned(),
        version: version.replace("%3a", ":"),
        architecture: architecture.to_owned(),
        sha256: sha256.to_ascii_lowercase(),
    })
}

/// What apt complained about: its error lines, or the end of what it said.
fn complaint(output: &HostOutput) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let errors: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("E: ")).collect();
    match (errors.as_slice(), text.lines().last(), output.code) {
        ([], None, Some(code)) => format!("apt ended with exit code {code}"),
        ([], None, None) => "apt was ended by a signal or its time limit".to_owned(),
        ([], Some(last), _) => last.to_owned(),
        (errors, ..) => errors.join("; "),
    }
}

/// The sha256 of a file, in hex.
pub(crate) fn sha256(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// Small letters, two per byte.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The sha256 of `bytes`, in hex.
pub(crate) fn hash(bytes: impl AsRef<[u8]>) -> String {
    hex(&Sha256::digest(bytes))
}

/// Writes `text` to `path` unless it is there already.
fn write_once(path: &Path, text: &str) -> Result<(), ImageError> {
    if matches!(fs::read_to_string(path), Ok(old) if old == text) {
        return Ok(());
    }
    replace(path, text).map_err(ImageError::io("write", path))
}

/// Writes `text` to `path`, whole or not at all.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    file.write_all(text.as_bytes())?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_read() {
        let hex = "1896a2aacf4ad681ff5eacc24a5b0ca4d5d9c9b9c9e4b6de5197bc1e116ea619";
        let line = format!(
            "'http://deb.debian.org/x/libcap2_2.66-4%2bdeb12u3_amd64.deb' \
             libcap2_1%3a2.66-4+deb12u3_amd64.deb 27708 SHA256:{hex}"
        );
        let package = parse_uri(&line).unwrap();
        assert_eq!(package.name, "libcap2");
        assert_eq!(package.version, "1:2.66-4+deb12u3");
        assert_eq!(package.architecture, "amd64");
        assert_eq!(package.file_name(), "libcap2_1%3a2.66-4+deb12u3_amd64.deb");
        for bad in [
            "'u'".to_owned(),
            "'u' a_1_all.deb 1 MD5Sum:00".to_owned(),
            format!("'u' a_1_all.deb 1 SHA256:{}", &hex[1..]),
            format!("'u' ../a_1_all.deb 1 SHA256:{hex}"),
            format!("'u' ._1_all.deb 1 SHA256:{hex}"),
            format!("'u' a_1.deb 1 SHA256:{hex}"),
            format!("'u' a_1_all_x.deb 1 SHA256:{hex}"),
        ] {
            assert_eq!(parse_uri(&bad), None, "{bad}");
        }
    }

    #[test]
    fn apt_writes_only_below_its_state() {
        insta::assert_snapshot!(config_text(Path::new("/CACHE/apt")).unwrap(), @r#"
        #clear APT::Update::Pre-Invoke;
        #clear APT::Update::Post-Invoke;
        #clear APT::Update::Post-Invoke-Success;
        APT::Get::Always-Include-Phased-Updates "true";
        APT::Install-Recommends "false";
        APT::Install-Suggests "false";
        APT::Sandbox::User "";
        Acquire::ForceHash "SHA256";
        Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
        Acquire::Languages "none";
        Acquire::Retries "3";
        Debug::NoLocking "true";
        Dir::Cache "/CACHE/apt";
        Dir::Cache::pkgcache "";
        Dir::Cache::srcpkgcache "";
        Dir::State::extended_states "/CACHE/apt/extended_states";
        Dir::State::status "/CACHE/apt/status";
        "#);
        assert!(config_text(Path::new("/a\"b")).is_err());
    }
}
