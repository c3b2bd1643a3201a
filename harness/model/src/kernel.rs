//! What is kept of a kernel in plans and results.

use serde::{Deserialize, Serialize};

/// A kernel as the run record names it: enough to tell exactly which one it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelRecord {
    /// The reference as the user wrote it.
    pub reference: String,
    /// `uname -r`.
    pub release: String,
    /// The banner after "Linux version": release, builder, `uname -v`.
    pub banner: String,
    /// Upstream version without the distribution's parts, such as `6.1.192`, where it is known.
    pub upstream: Option<String>,
    /// Where it came from, for a person: package and version, or path.
    pub origin: String,
    /// SHA-256 of the boot image, in hexadecimal.
    pub image_sha256: String,
    /// SHA-256 of the package it was taken from, where there is one.
    pub package_sha256: Option<String>,
}
