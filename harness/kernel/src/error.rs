//! Why something is not a usable kernel: which file, what is wrong, what to do next.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::kernel::Driver;

/// The forms a kernel reference can take, for messages and help texts.
pub const REFERENCE_FORMS: &str = "  PACKAGE.deb, PACKAGE.rpm              a package file; join split ones with +
  apt:PACKAGE, apt:PACKAGE=VERSION      a package that apt offers
  DIRECTORY                             with boot/vmlinuz-* and lib/modules/*, or a kernel build tree
  DIRECTORY,release=RELEASE             one of several kernels in a directory
  BZIMAGE, BZIMAGE,modules=DIRECTORY    a bare image
  running                               the kernel this machine runs";

/// Why a reference did not become a [`Kernel`](crate::Kernel).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The text is none of the forms of a reference.
    #[error(
        "{reference:?} is not a kernel reference: {why}; a kernel is one of\n{REFERENCE_FORMS}"
    )]
    Reference {
        /// What was written.
        reference: String,
        /// What is wrong with it.
        why: String,
    },
    /// There is no such file or directory.
    #[error("{}: no such file or directory; a kernel is one of\n{REFERENCE_FORMS}", path.display())]
    NotFound {
        /// What was looked for.
        path: PathBuf,
    },
    /// The operating system refused to read or write.
    #[error("cannot {doing} {}: {source}{}", path.display(), io_advice(doing, source))]
    Io {
        /// The action, such as `read`.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
    /// The file is something else than an x86-64 Linux kernel.
    #[error("{}: not an x86-64 Linux kernel: {found}; {advice}", path.display())]
    NotAKernel {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        found: String,
        /// What to give instead.
        advice: &'static str,
    },
    /// The file ends before it should.
    #[error("{}: cut short: {detail}; fetch or build it again", path.display())]
    CutShort {
        /// The file.
        path: PathBuf,
        /// What is missing.
        detail: String,
    },
    /// The file contradicts its own format.
    #[error("{}: damaged: {detail}; fetch or build it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        detail: String,
    },
    /// A package holds something that no kernel package holds.
    #[error("{}: refused: {detail}", path.display())]
    Unsafe {
        /// The package.
        path: PathBuf,
        /// What it tried.
        detail: String,
    },
    /// The format is known but not read.
    #[error("{}: {what} is not supported; {advice}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The format.
        what: String,
        /// What to do instead.
        advice: &'static str,
    },
    /// The file holds no debug information.
    #[error("{}: not debug information: {found}; give a vmlinux or module built with \
        CONFIG_DEBUG_INFO, a directory that has them, or a debug package", path.display())]
    NoDebugInformation {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        found: String,
    },
    /// The directory or package holds no kernel.
    #[error("{}: no kernel in it: looked for {looked_for}{advice}", path.display())]
    NoKernel {
        /// The directory or package.
        path: PathBuf,
        /// The files that were looked for.
        looked_for: &'static str,
        /// What to do next, with its separator; may be empty.
        advice: String,
    },
    /// The package has to be given together with others.
    #[error("{}: holds only a part of a kernel: give {} with it, joined with +", path.display(), list(parts))]
    PartOfAKernel {
        /// The first package.
        path: PathBuf,
        /// The packages that hold the rest.
        parts: Vec<String>,
    },
    /// The kernel that this machine runs has no image on it, as in a container.
    #[error("the running kernel {release} has no image at {} or {}: \
        in a container or a VM with its kernel outside; give its package instead",
        root.join("boot").join(format!("vmlinuz-{release}")).display(),
        root.join("lib/modules").join(release).join("vmlinuz").display())]
    NotInstalled {
        /// Its release.
        release: String,
        /// The root directory.
        root: PathBuf,
    },
    /// There are several kernels and nothing says which one is meant.
    #[error("{}: holds {} kernels ({}); choose one with {},release=RELEASE",
        path.display(), releases.len(), releases.join(", "), path.display())]
    SeveralKernels {
        /// The directory.
        path: PathBuf,
        /// Their releases.
        releases: Vec<String>,
    },
    /// There is no kernel of the release that was asked for.
    #[error("{}: has no kernel {release}; it has {}", path.display(), list(found))]
    NoSuchRelease {
        /// The directory.
        path: PathBuf,
        /// The release that was asked for.
        release: String,
        /// The releases that are there.
        found: Vec<String>,
    },
    /// The modules were built for another kernel.
    #[error("{}: modules of another release: the kernel {} is {release}, these modules are for {}; \
        give the modules directory that was built with it", path.display(), image.display(), list(found))]
    OtherRelease {
        /// The modules directory or module file.
        path: PathBuf,
        /// The kernel image.
        image: PathBuf,
        /// The release of the image.
        release: String,
        /// The releases of the modules.
        found: Vec<String>,
    },
    /// Drivers that the caller cannot do without are in neither the image nor the modules.
    #[error("kernel {release} has neither built in nor as a module: {}{}", drivers(missing), missing_advice(*has_modules))]
    MissingDrivers {
        /// The kernel's release.
        release: String,
        /// The drivers.
        missing: Vec<Driver>,
        /// Whether the kernel came with any modules.
        has_modules: bool,
    },
    /// A module asks for one that is not there.
    #[error("{}: module {module} needs {needs}, which kernel {release} has neither built in nor as a module; \
        the modules directory is incomplete", path.display())]
    MissingDependency {
        /// The module file.
        path: PathBuf,
        /// The module.
        module: String,
        /// What it depends on.
        needs: String,
        /// The kernel's release.
        release: String,
    },
    /// apt knows no such package, or not in this version.
    #[error(
        "apt offers no {package}: {detail}; \
        choose another, or refresh its lists with apt-get update as root"
    )]
    NotOffered {
        /// Package, with its version where one was asked for.
        package: String,
        /// What apt said.
        detail: String,
    },
    /// A package manager or host program failed; not the kernel's fault.
    #[error("{what}: {detail}{advice}")]
    Host {
        /// The command that was run.
        what: String,
        /// What it said.
        detail: String,
        /// What to do next, with its separator; may be empty.
        advice: String,
    },
}

impl KernelError {
    /// Whether the controller, its disk or its network is to blame, rather than the reference or
    /// the kernel.
    #[must_use]
    pub fn is_infrastructure(&self) -> bool {
        match self {
            Self::Host { .. } => true,
            Self::Io { doing, source, .. } => {
                use io::ErrorKind::{IsADirectory, NotADirectory, NotFound, PermissionDenied};
                *doing != "read"
                    || !matches!(
                        source.kind(),
                        IsADirectory | NotADirectory | NotFound | PermissionDenied
                    )
            }
            _ => false,
        }
    }

    pub(crate) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { doing, path: path.to_owned(), source }
    }

    /// What a reference names can't be looked at.
    pub(crate) fn named(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound => Self::NotFound { path: path.to_owned() },
            _ => Self::io("read", path, source),
        }
    }

    pub(crate) fn cut_short(path: &Path, detail: impl Into<String>) -> Self {
        Self::CutShort { path: path.to_owned(), detail: detail.into() }
    }

    pub(crate) fn damaged(path: &Path, detail: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), detail: detail.into() }
    }

    /// A failure while reading packed data of `path`: an early end is a cut file, the rest damage.
    pub(crate) fn packed(path: &Path, what: &str, source: &io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::UnexpectedEof => Self::cut_short(path, format!("{what} ends early")),
            _ => Self::damaged(path, format!("{what}: {source}")),
        }
    }
}

fn io_advice(doing: &str, source: &io::Error) -> &'static str {
    use io::ErrorKind::{NotADirectory, PermissionDenied, ReadOnlyFilesystem, StorageFull};
    match source.kind() {
        PermissionDenied if doing == "read" => {
            "; run as a user who may read it, or copy it where you can"
        }
        StorageFull => "; make room or choose another cache directory",
        NotADirectory | PermissionDenied | ReadOnlyFilesystem if doing != "read" => {
            "; choose another cache directory"
        }
        _ => "",
    }
}

fn list(items: &[String]) -> String {
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

fn drivers(missing: &[Driver]) -> String {
    missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn missing_advice(has_modules: bool) -> &'static str {
    if has_modules {
        "; build it with these options"
    } else {
        "; it came without modules: give them as IMAGE,modules=DIRECTORY, or build these options in"
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.config {
            Some(config) => write!(f, "{} (CONFIG_{config})", self.module),
            None => f.write_str(&self.module),
        }
    }
}
