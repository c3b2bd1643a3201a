//! Where debug information is kept: files, directories of builds and distributions, packages.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::Resolver;
use crate::error::KernelError;
use crate::modules::{Modules, debug_name};
use crate::reference::{PackageReference, Reference};
use crate::symbols::{Unresolved, object_file};
use crate::{apt, extract};

/// Where directories of debug information are, below a root directory; those that hold nothing else
/// come first.
const BASES: &[&str] = &["usr/lib/debug", "usr/lib/debug/usr", "lib/debug", "", "usr"];
/// Names of a kernel with debug information beside its modules.
const WITH_MODULES: &[&str] = &["vmlinux", "vmlinux.debug", "build/vmlinux"];
/// No directory has more kernels in it.
const MAX_KERNELS: usize = 256;

/// Debug information that the user names.
#[derive(Debug)]
pub(crate) enum Source {
    Kernel(PathBuf),
    Module { name: String, path: PathBuf },
    Directory(PathBuf),
    Package { path: PathBuf, digest: String, cache: PathBuf },
}

impl Source {
    pub(crate) fn open(reference: &str, resolver: &Resolver<'_>) -> Result<Self, KernelError> {
        let cache = resolver.cache_dir.clone();
        if reference.starts_with("apt:") {
            let refuse = |why: &str| none(Path::new(reference), why);
            return match Reference::parse(reference) {
                Ok(Reference::Packages(packages)) => match packages.as_slice() {
                    [PackageReference::Apt { name, version }] => {
                        let (path, digest) =
                            apt::fetch(resolver.host, &cache, name, version.as_deref())?;
                        Ok(Self::Package { path, digest, cache })
                    }
                    _ => Err(refuse("several packages: name each by itself")),
                },
                Err(KernelError::Reference { why, .. }) => Err(refuse(&why)),
                _ => Err(refuse("no package")),
            };
        }
        let path = PathBuf::from(reference);
        let metadata = fs::metadata(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => none(&path, "there is no such file or directory"),
            _ => KernelError::io("read", &path, e),
        })?;
        if metadata.is_dir() {
            return Ok(Self::Directory(path));
        }
        if is_package(reference) {
            let digest = extract::digest(&cache, &path)?;
            return Ok(Self::Package { path, digest, cache });
        }
        let bytes = object_file::open(&path)?;
        match (object_file::has_lines(&bytes), debug_name(&path)) {
            (true, Some(name)) => Ok(Self::Module { name, path }),
            (true, None) => Ok(Self::Kernel(path)),
            (false, _) if bytes.starts_with(b"\x7fELF") => {
                Err(none(&path, "an ELF file without .debug_info and .debug_line"))
            }
            (false, _) => Err(none(&path, "not an ELF file")),
        }
    }
}

/// Whether the debug information is in a package, by its name.
pub(crate) fn is_package(reference: &str) -> bool {
    reference.starts_with("apt:")
        || [".deb", ".ddeb", ".rpm"].iter().any(|extension| reference.ends_with(extension))
}

fn none(path: &Path, found: &str) -> KernelError {
    KernelError::NoDebugInformation { path: path.to_owned(), found: found.to_owned() }
}

/// The files with the debug information of one kernel.
#[derive(Debug, Default)]
pub(crate) struct Debug {
    pub(crate) kernel: Option<PathBuf>,
    pub(crate) modules: BTreeMap<String, PathBuf>,
    pub(crate) notes: Vec<Unresolved>,
    /// What there is belongs to other kernels.
    pub(crate) is_refused: bool,
}

impl Debug {
    /// Finds the kernel `release`, or the only one, and of its modules those in `wanted`.
    pub(crate) fn find(
        sources: &[Source],
        release: Option<&str>,
        wanted: &BTreeSet<String>,
    ) -> Result<Self, KernelError> {
        let mut kernels = Vec::new();
        // Directories that modules may be in.
        let mut roots = Vec::new();
        let mut debug = Self::default();
        for source in sources {
            match source {
                Source::Kernel(path) => {
                    kernels.push(path.clone());
                    let dir = path.parent().unwrap_or(Path::new(""));
                    // In a root directory or the like of it, modules are elsewhere.
                    match dir.file_name().is_some_and(|name| name == "boot") {
                        true => roots.extend(dir.parent().map(Path::to_owned)),
                        false => roots.push(dir.to_owned()),
                    }
                }
                Source::Module { name, path } => {
                    if wanted.contains(name) {
                        debug.modules.entry(name.clone()).or_insert(path.clone());
                    }
                }
                Source::Directory(dir) => {
                    kernels.extend(kernels_in(dir));
                    roots.push(dir.clone());
                }
                Source::Package { path, digest, cache } => {
                    let dir = extract::debug_package(cache, path, digest, wanted)?;
                    kernels.extend(kernels_in(&dir));
                    roots.push(dir);
                }
            }
        }
        let found: Vec<_> = kernels
            .into_iter()
            .map(|path| (release_of(&path, release), path))
            .filter(|(found, _)| found.is_some())
            .collect();
        let releases: BTreeSet<_> = found.iter().filter_map(|(found, _)| found.clone()).collect();
        let releases: Vec<_> = releases.into_iter().collect();
        let release = match (release, releases.as_slice()) {
            (_, []) => {
                debug.notes.push(Unresolved::NoKernel);
                release.map(str::to_owned)
            }
            (Some(wanted), found) if found.iter().any(|found| found == wanted) => {
                Some(wanted.to_owned())
            }
            (Some(wanted), _) => {
                let wanted = wanted.to_owned();
                debug.notes.push(Unresolved::OtherRelease { wanted, found: releases });
                debug.is_refused = true;
                return Ok(debug);
            }
            (None, [only]) => Some(only.clone()),
            (None, _) => {
                debug.notes.push(Unresolved::UnknownRelease { found: releases });
                debug.is_refused = true;
                return Ok(debug);
            }
        };
        debug.kernel = found.into_iter().find(|(found, _)| *found == release).map(|(_, path)| path);
        for dir in roots.iter().flat_map(|root| module_dirs(root, release.as_deref())) {
            if wanted.iter().all(|name| debug.modules.contains_key(name)) {
                break;
            }
            for (name, path) in Modules::debug(&dir)? {
                if wanted.contains(&name)
                    && !debug.modules.contains_key(&name)
                    && is_module_of(&path, release.as_deref())
                {
                    debug.modules.insert(name, path);
                }
            }
        }
        Ok(debug)
    }
}

/// The kernels with debug information below a directory, by where they usually are.
fn kernels_in(root: &Path) -> Vec<PathBuf> {
    let entries = |dir: PathBuf| {
        let mut paths: Vec<_> =
            fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        paths.sort();
        paths
    };
    let mut found: Vec<PathBuf> = Vec::new();
    for base in BASES.iter().map(|base| root.join(base)) {
        let named = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name == "vmlinux" || name == "vmlinux.debug" || name.starts_with("vmlinux-")
        };
        found.extend(entries(base.clone()).into_iter().filter(named));
        found.extend(entries(base.join("boot")).into_iter().filter(named));
        for modules in entries(base.join("lib/modules")) {
            found.extend(WITH_MODULES.iter().map(|name| modules.join(name)));
        }
    }
    let mut seen = BTreeSet::new();
    found.retain(|path| {
        path.is_file() && fs::canonicalize(path).is_ok_and(|target| seen.insert(target))
    });
    found.truncate(MAX_KERNELS);
    found
}

/// The release of the kernel at `path`, when it has debug information. One that does not tell is
/// taken for that of its name, or for the `wanted` one: sizes of functions will tell.
fn release_of(path: &Path, wanted: Option<&str>) -> Option<String> {
    let bytes = object_file::open(path).ok()?;
    if !object_file::has_lines(&bytes) {
        return None;
    }
    let named = || {
        let name = path.file_name()?.to_str()?.strip_prefix("vmlinux-")?;
        Some(name.strip_suffix(".debug").unwrap_or(name).to_owned())
    };
    object_file::release(&bytes)
        .or_else(named)
        .or_else(|| wanted.map(str::to_owned))
        .or_else(|| Some(String::new()))
}

/// The directories below `root` that may have the modules of kernel `release`.
fn module_dirs(root: &Path, release: Option<&str>) -> Vec<PathBuf> {
    let installed: Vec<_> = BASES
        .iter()
        .map(|base| root.join(base).join("lib/modules"))
        .filter(|d| d.is_dir())
        .collect();
    match (installed.is_empty(), release) {
        // A build tree, or a directory of module files.
        (true, _) => vec![root.to_owned()],
        (false, None) => Vec::new(),
        (false, Some(release)) => {
            installed.iter().map(|dir| dir.join(release)).filter(|dir| dir.is_dir()).collect()
        }
    }
}

fn is_module_of(path: &Path, release: Option<&str>) -> bool {
    let Ok(bytes) = object_file::open(path) else { return false };
    let found = object_file::release(&bytes);
    let same = found.is_none_or(|found| release.is_none_or(|release| release == found));
    same && object_file::has_lines(&bytes)
}
