//! The entry point: a reference in, a kernel out.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};

use kgate_model::host::Host;

use crate::error::KernelError;
use crate::extract::{self, Dependency, PackageInfo};
use crate::kernel::{Kernel, Origin, Package};
use crate::reference::{PackageReference, Reference};
use crate::{apt, locate};

/// A kernel is split into fewer packages.
const MAX_PACKAGES: usize = 16;

/// Turns references into kernels. Several may work on one cache at once, also in several processes.
#[derive(Clone)]
pub struct Resolver<'a> {
    /// Where packages are kept, fetched and unpacked; made when it is needed.
    pub cache_dir: PathBuf,
    /// Runs apt.
    pub host: &'a dyn Host,
}

impl Resolver<'_> {
    /// Finds, fetches and unpacks what `reference` names, and checks that it is a kernel.
    ///
    /// # Errors
    /// Whatever is wrong with it, as a [`KernelError`].
    pub fn resolve(&self, reference: &Reference) -> Result<Kernel, KernelError> {
        let origin = Origin { reference: reference.to_string(), packages: Vec::new() };
        match reference {
            Reference::Running => running(Path::new("/"), origin),
            Reference::Packages(packages) => self.packages(packages, origin),
            Reference::Path { path, modules, release } => {
                locate::at_path(path, modules.as_deref(), release.as_deref(), origin)
            }
        }
    }

    /// Reads the changelog that a package of `reference` carries, unpacked, chunk by chunk, and says
    /// whether there is one. Only Debian packages have it as a file.
    ///
    /// # Errors
    /// When a package can't be had or read.
    pub fn changelog(
        &self,
        reference: &Reference,
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, KernelError> {
        let Reference::Packages(packages) = reference else { return Ok(false) };
        for (path, _) in self.files(packages)?.0 {
            if extract::changelog(&path, each)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn packages(
        &self,
        references: &[PackageReference],
        mut origin: Origin,
    ) -> Result<Kernel, KernelError> {
        let (files, infos) = self.files(references)?;
        for ((_, sha256), info) in files.iter().zip(&infos) {
            let (name, version) = (info.name.clone(), info.version.clone());
            origin.packages.push(Package { name, version, sha256: sha256.clone() });
        }
        let root = extract::unpacked(&self.cache_dir, &files)?;
        from_packages(&root, &files[0].0, &infos, origin)
    }

    /// The files of packages and of those that belong to them, each with its digest, and what each says
    /// of itself.
    #[expect(
        clippy::type_complexity,
        reason = "two lists, of which each caller takes what it needs"
    )]
    fn files(
        &self,
        references: &[PackageReference],
    ) -> Result<(Vec<(PathBuf, String)>, Vec<PackageInfo>), KernelError> {
        let mut queue: VecDeque<_> = references.iter().cloned().collect();
        let mut files = Vec::new();
        let mut infos: Vec<PackageInfo> = Vec::new();
        while let Some(reference) = queue.pop_front() {
            let (path, digest) = match &reference {
                PackageReference::File(path) => {
                    (path.clone(), extract::digest(&self.cache_dir, path)?)
                }
                PackageReference::Apt { name, version } => {
                    apt::fetch(self.host, &self.cache_dir, name, version.as_deref())?
                }
            };
            let info = extract::info(&path)?;
            // The parts that apt would install with it: behind a meta package, or split off.
            if matches!(reference, PackageReference::Apt { .. }) {
                for part in info.depends.iter().filter(|dependency| dependency.is_kernel_part()) {
                    let known = infos.iter().any(|other| other.name == part.name)
                        || queue.iter().any(|other| is_apt(other, &part.name));
                    if !known && infos.len() + queue.len() < MAX_PACKAGES {
                        let (name, version) = (part.name.clone(), part.version.clone());
                        queue.push_back(PackageReference::Apt { name, version });
                    }
                }
            }
            infos.push(info);
            files.push((path, digest));
        }
        Ok((files, infos))
    }
}

fn is_apt(reference: &PackageReference, wanted: &str) -> bool {
    matches!(reference, PackageReference::Apt { name, .. } if name == wanted)
}

/// The kernel in the directory `root`, to which the packages `infos` were unpacked.
fn from_packages(
    root: &Path,
    first: &Path,
    infos: &[PackageInfo],
    origin: Origin,
) -> Result<Kernel, KernelError> {
    let given = |part: &Dependency| {
        infos
            .iter()
            .any(|info| info.name == part.name || part.name == format!("{}-uname-r", info.name))
    };
    let mut parts: Vec<_> = infos
        .iter()
        .flat_map(|info| &info.depends)
        .filter(|dependency| dependency.is_kernel_part() && !given(dependency))
        .map(|part| part.name.trim_end_matches("-uname-r").to_owned())
        .collect();
    parts.sort();
    parts.dedup();
    let path = first.to_owned();
    match locate::at_path(root, None, None, origin) {
        Ok(kernel) if kernel.modules.is_empty() && !parts.is_empty() => {
            Err(KernelError::PartOfAKernel { path, parts })
        }
        Ok(mut kernel) => {
            let release = kernel.release.clone();
            let holds_image = |package: &Package| {
                package.name.starts_with("linux-image-") && package.name.ends_with(&release)
            };
            kernel.origin.packages.sort_by_key(|package| !holds_image(package));
            Ok(kernel)
        }
        Err(KernelError::NoKernel { .. }) if !parts.is_empty() => {
            Err(KernelError::PartOfAKernel { path, parts })
        }
        Err(KernelError::NoKernel { .. }) => Err(KernelError::NoKernel {
            path,
            looked_for: "boot/vmlinuz-* and lib/modules/*/vmlinuz",
            advice: "; give a package that holds a kernel image".to_owned(),
        }),
        Err(other) => Err(other),
    }
}

fn running(root: &Path, origin: Origin) -> Result<Kernel, KernelError> {
    let file = Path::new("/proc/sys/kernel/osrelease");
    let release = fs::read_to_string(file).map_err(|e| KernelError::io("read", file, e))?;
    let release = release.trim();
    match locate::installed(root, release, origin) {
        Err(KernelError::NoKernel { .. } | KernelError::NoSuchRelease { .. }) => {
            Err(KernelError::NotInstalled { release: release.to_owned(), root: root.to_owned() })
        }
        other => other,
    }
}
