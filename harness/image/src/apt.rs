//! Asks apt which packages an image needs and has it download them, as an ordinary user and
//! without touching the controller's own package state.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kgate_model::host::{Host, HostCommand, HostOutput};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::ImageError;

/// The controller's own package lists.
const HOST_LISTS: &str = "/var/lib/apt/lists";
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
        Ok(packages)
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
Dir::Cache::pkgcache "pkgcache.bin";
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
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes `text` to `path` unless it is there already, whole or not at all.
fn write_once(path: &Path, text: &str) -> Result<(), ImageError> {
    if matches!(fs::read_to_string(path), Ok(old) if old == text) {
        return Ok(());
    }
    let dir = path.parent().unwrap_or(Path::new("."));
    tempfile::NamedTempFile::new_in(dir)
        .and_then(|mut file| {
            io::Write::write_all(&mut file, text.as_bytes())?;
            file.persist(path)?;
            Ok(())
        })
        .map_err(ImageError::io("write", path))
}
