//! From an inventory's hosts to a pool of lab hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use kgate_kernel::Kernel;
use kgate_machine::Pool;
use kgate_model::inventory::LabHost;
use kgate_model::outcome::Role;

use crate::context::Context;
use crate::error::CommandError;
use crate::library::Source;

/// A pool of these hosts for two kernels.
pub(crate) fn pool(
    _context: &Context,
    _library: &Source,
    _kernels: BTreeMap<Role, Kernel>,
    _hosts: Vec<LabHost>,
    _images: BTreeSet<&str>,
    _dir: &Path,
) -> Result<Box<dyn Pool>, CommandError> {
    Err(CommandError::infrastructure("this kgate does not boot lab hosts yet"))
}
