//! What can go wrong while an image is made.

use std::io;
use std::path::PathBuf;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// A recipe is not valid; everything after the path is `line:column: what`.
    #[error("{file}:{line}:{column}: {message}")]
    Recipe {
        /// The recipe's path, as the caller gave it.
        file: String,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong there.
        message: String,
    },
    /// A program that the builder needs is not on this controller.
    #[error("no {program} on this controller; images are built with the apt of Debian or Ubuntu")]
    MissingProgram {
        /// The program's name.
        program: String,
    },
    /// A program could not be run to its end.
    #[error("{program} did not run to its end")]
    Program {
        /// The program's name.
        program: String,
        /// What the operating system answered.
        source: io::Error,
    },
    /// Apt does not know a package, or finds no set of packages that fits together.
    #[error("apt cannot resolve the packages of image {image}: {detail}")]
    Resolve {
        /// The image's name.
        image: String,
        /// Apt's own words.
        detail: String,
    },
    /// Packages could not be downloaded or failed their checksum.
    #[error("cannot download the packages of image {image}: {detail}")]
    Download {
        /// The image's name.
        image: String,
        /// Apt's own words, or the checksum that does not match.
        detail: String,
    },
    /// A package file is damaged, hostile or of an unknown format.
    #[error("package {package}: {detail}")]
    Package {
        /// The package's file name.
        package: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The unpacked packages and the recipe do not make a usable root.
    #[error("image {image}: {detail}")]
    Content {
        /// The image's name.
        image: String,
        /// What is wrong.
        detail: String,
    },
    /// No usable static busybox was found or fetched.
    #[error("no static x86-64 busybox: {detail}")]
    Busybox {
        /// What was tried and how it failed.
        detail: String,
    },
    /// A file or directory could not be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// The verb: `read`, `create` …
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
}

impl ImageError {
    /// For `map_err`: the failed `action` on `path`.
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
