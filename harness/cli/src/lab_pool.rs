//! From an inventory's hosts to a pool of lab hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use kgate_kernel::Kernel;
use kgate_machine::Pool;
use kgate_model::inventory::LabHost;
use kgate_model::outcome::Role;

use crate::context::Context;
use crate::error::CommandError;
use crate::lab;
use crate::library::Source;

/// Below the run directory: what is heard of lab hosts and found on them, by host.
const EVIDENCE: &str = "lab";

/// A pool of these hosts for two kernels, and the images that are to run on them. No host is touched yet.
pub(crate) fn pool(
    context: &Context,
    library: &Source,
    kernels: BTreeMap<Role, Kernel>,
    hosts: Vec<LabHost>,
    images: BTreeSet<&str>,
    dir: &Path,
) -> Result<Box<dyn Pool>, CommandError> {
    let told = lab::tell(context, &hosts);
    let errand = lab::errand(context, &dir.display().to_string(), dir.join(EVIDENCE), told)?;
    Ok(Box::new(lab::pool(context, library, kernels, hosts, images, errand)?))
}
