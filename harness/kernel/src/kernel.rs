//! What a reference becomes: a kernel that boots, with all that is known of it.

use std::path::PathBuf;
use std::sync::Arc;

use kgate_model::kernel::KernelRecord;

use crate::config::Config;
use crate::error::KernelError;
use crate::modules::{ModuleFile, Modules, Status};
use crate::vmlinux::{self, Vmlinux};

/// A driver that a machine cannot do without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    /// Module name.
    pub module: String,
    /// Symbol that builds it, without `CONFIG_`, where the caller knows it.
    pub config: Option<String>,
}

impl Driver {
    /// The driver in module `module`, built by symbol `config` (without `CONFIG_`).
    #[must_use]
    pub fn new(module: &str, config: &str) -> Self {
        Self { module: module.to_owned(), config: Some(config.to_owned()) }
    }

    /// The driver in module `module`, whatever symbol builds it.
    #[must_use]
    pub fn named(module: &str) -> Self {
        Self { module: module.to_owned(), config: None }
    }
}

/// A package that a kernel was taken from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Package name.
    pub name: String,
    /// Version in the distribution's own notation.
    pub version: String,
    /// SHA-256 of the package file, in hexadecimal.
    pub sha256: String,
}

/// Where a kernel came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The reference as the user wrote it.
    pub reference: String,
    /// The packages, the one with the image first; empty when it came from no package.
    pub packages: Vec<Package>,
}

/// A kernel that boots.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The bzImage.
    pub image: PathBuf,
    /// `uname -r`, as the image itself says.
    pub release: String,
    /// The banner after "Linux version": release, builder, `uname -v`.
    pub banner: String,
    /// Upstream version such as `6.1.192`, where it is known.
    pub upstream: Option<String>,
    /// Build configuration, where there is one beside or inside the image.
    pub config: Option<Arc<Config>>,
    /// Its modules; none for a kernel that came without.
    pub modules: Modules,
    /// SHA-256 of the image, in hexadecimal.
    pub sha256: String,
    /// Where it came from.
    pub origin: Origin,
}

impl Kernel {
    /// What the run record keeps of it.
    #[must_use]
    pub fn record(&self) -> KernelRecord {
        let package = self.origin.packages.first();
        KernelRecord {
            reference: self.origin.reference.clone(),
            release: self.release.clone(),
            banner: self.banner.clone(),
            upstream: self.upstream.clone(),
            origin: match package {
                Some(package) => format!("package {} {}", package.name, package.version),
                None => self.image.display().to_string(),
            },
            image_sha256: self.sha256.clone(),
            package_sha256: package.map(|package| package.sha256.clone()),
        }
    }

    /// The modules that make `drivers` available, in the order in which they have to be loaded;
    /// those built into the image need none.
    ///
    /// # Errors
    /// [`KernelError::MissingDrivers`] names all that are in neither; otherwise as
    /// [`Modules::closure`].
    pub fn require(&self, drivers: &[Driver]) -> Result<Vec<ModuleFile>, KernelError> {
        let mut wanted = Vec::new();
        let mut missing = Vec::new();
        for driver in drivers {
            // Drivers that can't be modules are not listed among the built-in ones.
            let value =
                driver.config.as_deref().and_then(|symbol| self.config.as_ref()?.get(symbol));
            match self.modules.status(&driver.module) {
                Status::Module => wanted.push(driver.module.as_str()),
                Status::BuiltIn => {}
                Status::Absent if value == Some("y") => {}
                Status::Absent => missing.push(driver.clone()),
            }
        }
        if !missing.is_empty() {
            let has_modules = !self.modules.is_empty();
            return Err(KernelError::MissingDrivers {
                release: self.release.clone(),
                missing,
                has_modules,
            });
        }
        self.modules.closure(&wanted)
    }

    /// Unpacks the ELF kernel from the image: some tens of MiB, in about a third of a second.
    ///
    /// # Errors
    /// When the payload is damaged or packed in a way that is not read.
    pub fn vmlinux(&self) -> Result<Vmlinux, KernelError> {
        vmlinux::extract(&self.image)
    }
}

/// The upstream version behind a distribution's kernel: from the banner where it names one, else
/// from the package's version, else from the release.
pub(crate) fn upstream(release: &str, banner: &str, package: Option<&str>) -> Option<String> {
    let branch = |version: &str| version.split('.').take(2).collect::<Vec<_>>().join(".");
    let from_release = leading_version(release)?;
    banner
        .split_once(" Debian ")
        .map(|(_, rest)| rest)
        .into_iter()
        .chain(package)
        .filter_map(leading_version)
        .find(|version| branch(version) == branch(&from_release))
        .or(Some(from_release))
}

/// The digits and points that a version begins with, when there are at least two numbers.
pub(crate) fn leading_version(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let version = text[..end].trim_end_matches('.');
    (version.split('.').count() >= 2 && !version.starts_with('.')).then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::upstream;

    #[test]
    fn upstream_version_of_distribution_kernels() {
        let debian = "6.1.0-56-cloud-amd64 (x@y) (gcc-12) #1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-01)";
        assert_eq!(upstream("6.1.0-56-cloud-amd64", debian, Some("6.1.192-2")).unwrap(), "6.1.192");
        assert_eq!(
            upstream("6.12.9-200.fc41.x86_64", "", Some("6.12.9-200.fc41")).unwrap(),
            "6.12.9"
        );
        assert_eq!(upstream("6.8.0-45-generic", "", Some("6.8.0-45.45")).unwrap(), "6.8.0");
        assert_eq!(upstream("6.13-rc3+", "", None).unwrap(), "6.13");
        assert_eq!(upstream("6.1.7", "", Some("20240101-1")).unwrap(), "6.1.7");
        assert_eq!(upstream("next", "", None), None);
    }
}
