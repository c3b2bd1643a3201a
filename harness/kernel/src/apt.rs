//! Kernels from apt: which there are, and fetching them without root. Trust is apt's own: its
//! signed lists name the digest of every package.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kgate_model::host::{Host, HostCommand};

use crate::error::KernelError;
use crate::extract;
use crate::kernel::leading_version;

/// The flavour where none is named: the small kernels that Debian makes for guests.
pub const FLAVOUR: &str = "cloud-amd64";

const ASK: Duration = Duration::from_secs(120);
const FETCH: Duration = Duration::from_secs(1800);

/// A kernel image that apt offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AptKernel {
    /// Package name.
    pub package: String,
    /// Package version, as for `apt:PACKAGE=VERSION`.
    pub version: String,
    /// Upstream version, such as `6.1.192`.
    pub upstream: String,
}

impl AptKernel {
    /// The reference that names exactly this one.
    #[must_use]
    pub fn reference(&self) -> String {
        format!("apt:{}={}", self.package, self.version)
    }

    /// The stable branch, such as `6.1`.
    #[must_use]
    pub fn branch(&self) -> String {
        self.upstream.split('.').take(2).collect::<Vec<_>>().join(".")
    }
}

/// The kernel images of a flavour such as `cloud-amd64` or `amd64` that apt offers, oldest first:
/// no meta packages, no debug symbols, no unsigned ones.
///
/// # Errors
/// [`KernelError::Host`] when apt is not there or fails.
pub fn kernels(host: &dyn Host, flavour: &str) -> Result<Vec<AptKernel>, KernelError> {
    let names = run(host, HostCommand::new("apt-cache", ASK).args(["pkgnames", "linux-image-"]))?;
    let names: Vec<_> = names.lines().filter(|name| is_image(name, flavour)).collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let show = HostCommand::new("apt-cache", ASK).args(["show", "--no-all-versions"]).args(names);
    Ok(parse_show(&run(host, show)?))
}

/// Two different releases of one branch, the newest branch that has two: its oldest and its newest.
#[must_use]
pub fn pair(kernels: &[AptKernel]) -> Option<(AptKernel, AptKernel)> {
    let newest_first = kernels.iter().rev();
    newest_first.clone().find_map(|candidate| {
        let baseline = kernels
            .iter()
            .find(|k| k.branch() == candidate.branch() && k.upstream != candidate.upstream)?;
        Some((baseline.clone(), candidate.clone()))
    })
}

/// `linux-image-ABI-FLAVOUR` whose ABI is versions only: `6.1.0-56`, `6.12.117+deb12`.
fn is_image(name: &str, flavour: &str) -> bool {
    name.strip_prefix("linux-image-")
        .and_then(|rest| rest.strip_suffix(flavour)?.strip_suffix('-'))
        .is_some_and(|abi| {
            abi.matches('.').count() >= 2
                && abi.split('-').all(|part| part.starts_with(|c: char| c.is_ascii_digit()))
        })
}

fn parse_show(text: &str) -> Vec<AptKernel> {
    let mut kernels: Vec<_> = text
        .split("\n\n")
        .filter_map(|stanza| {
            let field = |name: &str| {
                stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            };
            // Without a file it is installed here but offered nowhere.
            field("Filename")?;
            let version = field("Version")?;
            Some(AptKernel {
                package: field("Package")?.to_owned(),
                version: version.to_owned(),
                upstream: leading_version(version)?,
            })
        })
        .collect();
    kernels.sort_by_key(|kernel| {
        (numbers(&kernel.upstream), numbers(&kernel.version), kernel.package.clone())
    });
    kernels
}

/// All numbers in a version, which order the versions of one distribution's kernels.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect()
}

/// Fetches a package into `cache` unless it is there, and gives its path and SHA-256.
pub(crate) fn fetch(
    host: &dyn Host,
    cache: &Path,
    name: &str,
    version: Option<&str>,
) -> Result<(PathBuf, String), KernelError> {
    let dir = cache.join("apt");
    if let Some(version) = version {
        // As apt names the file; what is there was verified when it came, and needs no network.
        let name = name.split(':').next().unwrap_or(name);
        let path = dir.join(format!("{name}_{}_amd64.deb", version.replace(':', "%3a")));
        if path.is_file() {
            let digest = extract::digest(cache, &path)?;
            return Ok((path, digest));
        }
    }
    let spec = version.map_or(name.to_owned(), |version| format!("{name}={version}"));
    let ask = HostCommand::new("apt-get", ASK).args(["download", "--print-uris", &spec]);
    let offer = run(host, ask).map_err(|error| match error {
        KernelError::Host { detail, .. } if is_unknown(&detail) => {
            // What else it says, of globs and regular expressions, is not about this.
            let detail = detail.split("; ").next().unwrap_or_default().to_owned();
            KernelError::NotOffered { package: spec.clone(), detail }
        }
        other => other,
    })?;
    let Some(offer) = offer.lines().find_map(Offer::parse) else {
        return Err(KernelError::Host {
            what: format!("apt-get download --print-uris {spec}"),
            detail: "it names no package file".to_owned(),
            advice: String::new(),
        });
    };
    let path = dir.join(&offer.file);
    if let Some(digest) = offer.is_at(cache, &path)? {
        return Ok((path, digest));
    }
    let _lock = extract::lock(&dir)?;
    if let Some(digest) = offer.is_at(cache, &path)? {
        return Ok((path, digest));
    }
    let temporary = extract::temporary(&dir)?;
    run(
        host,
        HostCommand::new("apt-get", FETCH).args(["-q", "download", &spec]).dir(temporary.path()),
    )?;
    let fetched = temporary.path().join(&offer.file);
    let Some(digest) = offer.is_at(cache, &fetched)? else {
        return Err(KernelError::Host {
            what: format!("apt-get download {spec}"),
            detail: format!("it left no {} with the digest that apt's lists give", offer.file),
            advice: "; run apt-get update as root and try again".to_owned(),
        });
    };
    fs::rename(&fetched, &path).map_err(|e| KernelError::io("write", &path, e))?;
    Ok((path, digest))
}

/// What `apt-get download --print-uris` says of a package: `'URI' FILE SIZE SHA256:DIGEST`.
#[derive(Debug, PartialEq, Eq)]
struct Offer {
    file: String,
    size: u64,
    sha256: Option<String>,
}

impl Offer {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix('\'')?.split(' ').skip(1);
        let file = words.next().filter(|file| !file.contains('/') && file.ends_with(".deb"))?;
        let size = words.next()?.parse().ok()?;
        let sha256 = words.next().and_then(|word| word.strip_prefix("SHA256:")).map(str::to_owned);
        Some(Self { file: file.to_owned(), size, sha256 })
    }

    /// The digest of the file at `path` when it is the offered package.
    fn is_at(&self, cache: &Path, path: &Path) -> Result<Option<String>, KernelError> {
        match fs::metadata(path) {
            Ok(metadata) if metadata.len() == self.size => {
                let digest = extract::digest(cache, path)?;
                Ok(self.sha256.as_ref().is_none_or(|wanted| *wanted == digest).then_some(digest))
            }
            _ => Ok(None),
        }
    }
}

fn run(host: &dyn Host, mut command: HostCommand) -> Result<String, KernelError> {
    // Its messages are shown and told apart.
    command.env.push(("LC_ALL".into(), "C.UTF-8".into()));
    let what = std::iter::once(&command.program)
        .chain(command.args.iter().take(4))
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ");
    let output = host.run(&command).map_err(|e| {
        let (detail, advice) = match e.kind() {
            io::ErrorKind::NotFound => (
                "there is no such program on this machine".to_owned(),
                "; give a .deb file instead",
            ),
            io::ErrorKind::TimedOut => {
                (format!("no end after {} s", command.timeout.as_secs()), "")
            }
            _ => (e.to_string(), ""),
        };
        KernelError::Host { what: what.clone(), detail, advice: advice.to_owned() }
    })?;
    if output.code == Some(0) {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    // The second form is that of apt 3.
    let error = |line| str::strip_prefix(line, "E: ").or(str::strip_prefix(line, "Error: "));
    let errors: Vec<_> = stderr.lines().filter_map(error).collect();
    let detail = match errors.as_slice() {
        [] => output.code.map_or("killed".to_owned(), |code| format!("exit code {code}")),
        errors => errors.join("; "),
    };
    Err(KernelError::Host { what, detail, advice: String::new() })
}

/// Whether apt says that it has no such package, or not in this version.
fn is_unknown(detail: &str) -> bool {
    detail.contains("Unable to locate") || detail.contains("was not found")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(package: &str, version: &str) -> String {
        format!(
            "Package: {package}\nVersion: {version}\nArchitecture: amd64\nFilename: pool/x.deb\n\n"
        )
    }

    #[test]
    fn only_real_images_of_the_flavour() {
        for (name, flavour, yes) in [
            ("linux-image-6.1.0-56-cloud-amd64", "cloud-amd64", true),
            ("linux-image-6.12.117+deb12-cloud-amd64", "cloud-amd64", true),
            ("linux-image-6.1.0-56-amd64", "amd64", true),
            ("linux-image-6.8.0-45-generic", "generic", true),
            ("linux-image-6.1.0-56-cloud-amd64", "amd64", false),
            ("linux-image-6.1.0-56-rt-amd64", "amd64", false),
            ("linux-image-6.1.0-56-cloud-amd64-unsigned", "cloud-amd64", false),
            ("linux-image-6.1.0-56-cloud-amd64-dbg", "cloud-amd64", false),
            ("linux-image-cloud-amd64", "cloud-amd64", false),
            ("linux-image-6.12-cloud-amd64", "cloud-amd64", false),
        ] {
            assert_eq!(is_image(name, flavour), yes, "{name} {flavour}");
        }
    }

    #[test]
    fn pairs_are_of_one_branch_and_two_releases() {
        let text = [
            kernel("i-6.12.9", "6.12.9-1"),
            kernel("i-56", "6.1.192-2"),
            kernel("i-6.12.117", "6.12.117-1~deb12u1"),
            kernel("i-47", "6.1.170-3"),
            kernel("i-55", "6.1.192-1"),
            "Package: i-local\nVersion: 7.0-1\n\n".to_owned(),
        ]
        .concat();
        let mut kernels = parse_show(&text);
        let order: Vec<_> = kernels.iter().map(|k| k.package.as_str()).collect();
        assert_eq!(order, ["i-47", "i-55", "i-56", "i-6.12.9", "i-6.12.117"]);
        let names = |kernels: &[AptKernel]| pair(kernels).map(|(a, b)| (a.package, b.package));
        assert_eq!(names(&kernels), Some(("i-6.12.9".to_owned(), "i-6.12.117".to_owned())));
        kernels.remove(3);
        assert_eq!(names(&kernels), Some(("i-47".to_owned(), "i-56".to_owned())));
        kernels.remove(0);
        assert_eq!(names(&kernels), None);
    }

    #[test]
    fn offers() {
        let offer = Offer::parse("'http://h/p_1_amd64.deb' p_1_amd64.deb 12 SHA256:ab").unwrap();
        assert_eq!(
            offer,
            Offer { file: "p_1_amd64.deb".to_owned(), size: 12, sha256: Some("ab".to_owned()) }
        );
        assert_eq!(Offer::parse("'http://h/p' ../p.deb 12 SHA256:ab"), None);
        assert_eq!(Offer::parse("W: something"), None);
    }
}
