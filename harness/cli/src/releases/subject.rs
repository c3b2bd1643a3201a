//! What a user names as a kernel: a version, what `uname -r` prints, a package's version, or a kernel
//! reference, which is resolved only when it is none of these.

use std::path::Path;

use kgate_kernel::Kernel;
use kgate_model::kernel::KernelRecord;
use kgate_release::{Catalogue, KernelVersion};

use crate::context::Context;
use crate::error::CommandError;

/// A kernel that a user named.
pub(crate) struct Subject {
    /// What its version means.
    pub(crate) version: KernelVersion,
    /// The kernel, where a reference to one was given.
    pub(crate) kernel: Option<Kernel>,
}

/// Reads what a user wrote.
///
/// # Errors
/// When it is neither a version nor a kernel.
pub(crate) fn subject(context: &Context, text: &str) -> Result<Subject, CommandError> {
    if let Ok(version) = text.parse() {
        return Ok(Subject { version, kernel: None });
    }
    let kernel = context.kernel(text).map_err(|error| {
        // What is there, and wrong, was meant.
        if Path::new(text).exists() {
            return error;
        }
        error.hint(
            "give a version (6.1.192), what `uname -r` prints, the version of the kernel's package, or a \
             kernel (`kgate kernel show` says which forms there are)",
        )
    })?;
    let Some(version) = of_kernel(&kernel) else {
        let release = crate::text::line(&kernel.release);
        return Err(CommandError::usage(format!(
            "{release} is no version of a kernel that is known"
        )));
    };
    Ok(Subject { version, kernel: Some(kernel) })
}

/// What the version of a kernel that is at hand means.
pub(crate) fn of_kernel(kernel: &Kernel) -> Option<KernelVersion> {
    let packages = kernel.origin.packages.iter().map(|package| package.version.as_str());
    of_names(packages.chain([kernel.release.as_str()]), kernel.upstream.as_deref())
}

/// What the version of a kernel of a run means.
pub(crate) fn of_record(kernel: &KernelRecord) -> Option<KernelVersion> {
    of_names([kernel.release.as_str()].into_iter(), kernel.upstream.as_deref())
}

/// The package's version and the banner tell more than the release, which may be an ABI name.
fn of_names<'a>(
    names: impl Iterator<Item = &'a str>,
    of_banner: Option<&str>,
) -> Option<KernelVersion> {
    let named: Vec<KernelVersion> = names.filter_map(|name| name.parse().ok()).collect();
    let best = named.iter().find(|named| named.upstream.is_some()).or(named.last()).cloned();
    let mut version = best?;
    if version.upstream.is_none() {
        let of_banner = of_banner.and_then(|text| text.parse().ok());
        version.upstream = of_banner.filter(|upstream: &kgate_release::Version| {
            upstream.is_stable() && Some(upstream.branch) == version.branch
        });
    }
    Some(version)
}

impl Subject {
    /// Fills in the release where the name is that of a package that a feed offers: an ABI name says
    /// only the branch.
    pub(crate) fn look_up(&mut self, catalogue: &Catalogue) {
        if self.version.upstream.is_some() {
            return;
        }
        let package = format!("apt:linux-image-{}=", self.version.text);
        let entry = self.version.branch.and_then(|branch| catalogue.branches.get(&branch));
        self.version.upstream = entry.and_then(|entry| {
            let mut releases = entry.releases.iter();
            let offered = |kernel: &String| kernel.starts_with(&package);
            releases.find(|(_, one)| one.kernel.as_ref().is_some_and(offered)).map(|(v, _)| *v)
        });
    }
}
