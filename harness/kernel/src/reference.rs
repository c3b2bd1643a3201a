//! What a user writes to name a kernel. Parsing looks at the text only, never at the disk.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::KernelError;

/// One package of a reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PackageReference {
    /// A `.deb` or `.rpm` file.
    File(PathBuf),
    /// A package that apt offers.
    Apt {
        /// Package name.
        name: String,
        /// Version; apt's candidate when `None`.
        version: Option<String>,
    },
}

/// A kernel as the user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// The kernel this machine runs.
    Running,
    /// One package, or several that make up one kernel.
    Packages(Vec<PackageReference>),
    /// A directory, build tree or image.
    Path {
        /// The file or directory.
        path: PathBuf,
        /// Modules directory, in place of the one found by itself.
        modules: Option<PathBuf>,
        /// Which of several kernels.
        release: Option<String>,
    },
}

impl Reference {
    /// Reads a reference.
    ///
    /// # Errors
    /// [`KernelError::Reference`] names the mistake and lists the forms.
    pub fn parse(text: &str) -> Result<Self, KernelError> {
        let fail = |why: String| KernelError::Reference { reference: text.to_owned(), why };
        if text.trim().is_empty() {
            return Err(fail("it is empty".to_owned()));
        }
        if text.chars().any(char::is_control) {
            return Err(fail("it contains a control character".to_owned()));
        }
        if text == "running" {
            return Ok(Self::Running);
        }
        let parts = split_packages(text);
        if parts.len() > 1 || is_package(parts[0]) {
            return parts
                .into_iter()
                .map(|part| parse_package(part).map_err(fail))
                .collect::<Result<_, _>>()
                .map(Self::Packages);
        }
        if let Some((scheme, _)) = text.split_once(':')
            && !scheme.is_empty()
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric())
        {
            return Err(fail(format!("there is no kind \"{scheme}:\"")));
        }
        parse_path(text).map_err(fail)
    }

    /// The same kernel, named so that the name holds in any directory: relative paths are taken to
    /// start in `dir`.
    #[must_use]
    pub fn seen_from(self, dir: &Path) -> Self {
        match self {
            Self::Running => Self::Running,
            Self::Packages(packages) => Self::Packages(
                packages
                    .into_iter()
                    .map(|package| match package {
                        PackageReference::File(path) => PackageReference::File(dir.join(path)),
                        apt @ PackageReference::Apt { .. } => apt,
                    })
                    .collect(),
            ),
            Self::Path { path, modules, release } => Self::Path {
                path: dir.join(path),
                modules: modules.map(|modules| dir.join(modules)),
                release,
            },
        }
    }
}

/// Splits at each `+` that follows a package file or precedes `apt:`; package names contain `+`.
fn split_packages(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    for (at, _) in text.match_indices('+') {
        let (before, after) = (&text[start..at], &text[at + 1..]);
        let joins =
            before.ends_with(".deb") || before.ends_with(".rpm") || after.starts_with("apt:");
        if joins && is_package(before) {
            parts.push(before);
            start = at + 1;
        }
    }
    parts.push(&text[start..]);
    parts
}

fn is_package(text: &str) -> bool {
    text.starts_with("apt:") || text.ends_with(".deb") || text.ends_with(".rpm")
}

fn parse_package(text: &str) -> Result<PackageReference, String> {
    let Some(spec) = text.strip_prefix("apt:") else {
        return match is_package(text) {
            true => Ok(PackageReference::File(PathBuf::from(text))),
            false => Err(format!("{text:?} after \"+\" is not a package")),
        };
    };
    let (name, version) = match spec.split_once('=') {
        Some((name, version)) => (name, Some(version)),
        None => (spec, None),
    };
    // Debian policy 5.6.1 and 5.6.12; also keeps the words from being taken for options of apt.
    let plain = |s: &str, extra: &str| {
        s.starts_with(|c: char| c.is_ascii_alphanumeric())
            && s.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
    };
    if !plain(name, "+-.:") {
        return Err(format!("{name:?} is not a package name"));
    }
    if let Some(version) = version
        && !plain(version, "+-.:~")
    {
        return Err(format!("{version:?} is not a package version"));
    }
    Ok(PackageReference::Apt { name: name.to_owned(), version: version.map(str::to_owned) })
}

fn parse_path(text: &str) -> Result<Reference, String> {
    let mut words = text.split(',');
    let mut path = words.next().unwrap_or_default().to_owned();
    let (mut modules, mut release) = (None, None);
    for word in words {
        let key =
            word.split_once('=').filter(|(key, _)| key.bytes().all(|b| b.is_ascii_lowercase()));
        match key {
            Some((key @ ("modules" | "release"), "")) => return Err(format!("{key}= is empty")),
            Some(("modules", value)) if modules.is_none() => modules = Some(PathBuf::from(value)),
            Some(("release", value)) if release.is_none() => release = Some(value.to_owned()),
            Some((key @ ("modules" | "release"), _)) => {
                return Err(format!("{key}= is given twice"));
            }
            Some((key, _)) => {
                return Err(format!("there is no option \"{key}=\", only modules= and release="));
            }
            // A comma that belongs to the file name.
            None if modules.is_none() && release.is_none() => {
                path.push(',');
                path.push_str(word);
            }
            None => return Err(format!("{word:?} is not an option")),
        }
    }
    match path.as_str() {
        "" => Err("it has no path".to_owned()),
        path => Ok(Reference::Path { path: PathBuf::from(path), modules, release }),
    }
}

impl FromStr for Reference {
    type Err = KernelError;

    fn from_str(text: &str) -> Result<Self, KernelError> {
        Self::parse(text)
    }
}

impl fmt::Display for PackageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Apt { name, version: None } => write!(f, "apt:{name}"),
            Self::Apt { name, version: Some(version) } => write!(f, "apt:{name}={version}"),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running => f.write_str("running"),
            Self::Packages(packages) => {
                for (i, package) in packages.iter().enumerate() {
                    write!(f, "{}{package}", if i == 0 { "" } else { "+" })?;
                }
                Ok(())
            }
            Self::Path { path, modules, release } => {
                write!(f, "{}", path.display())?;
                if let Some(modules) = modules {
                    write!(f, ",modules={}", modules.display())?;
                }
                release.as_ref().map_or(Ok(()), |release| write!(f, ",release={release}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_written_back() {
        for text in [
            "running",
            "apt:linux-image-amd64",
            "apt:linux-image-6.12.107+deb12-cloud-amd64=6.12.107-1~deb12u1",
            "apt:linux-image-6.8.0-45-generic+apt:linux-modules-6.8.0-45-generic",
            "./linux-image-6.12.107+deb12-cloud-amd64_6.12.107-1_amd64.deb",
            "a+b.deb+c+d.rpm+apt:e",
            "/",
            "/srv/root,release=6.1.0-56-amd64",
            "arch/x86/boot/bzImage,modules=/tmp/m",
            "odd, name",
        ] {
            assert_eq!(Reference::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn relative_paths_are_joined() {
        for (text, joined) in [
            ("running", "running"),
            ("a.deb+apt:b=1", "/d/a.deb+apt:b=1"),
            ("x/bzImage,modules=m,release=6.1.0", "/d/x/bzImage,modules=/d/m,release=6.1.0"),
            ("/srv/a.rpm", "/srv/a.rpm"),
        ] {
            let reference = Reference::parse(text).unwrap().seen_from(Path::new("/d"));
            assert_eq!(reference.to_string(), joined);
        }
    }

    #[test]
    fn joined_packages_are_split_where_one_ends() {
        let Reference::Packages(packages) = Reference::parse("a+b.deb+c+d.rpm+apt:e+f").unwrap()
        else {
            panic!("not packages");
        };
        let texts: Vec<_> = packages.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["a+b.deb", "c+d.rpm", "apt:e+f"]);
    }
}
