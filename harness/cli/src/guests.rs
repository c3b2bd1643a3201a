//! From references and images to a pool of guests.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use kgate_kernel::Kernel;
use kgate_model::outcome::Role;
use kgate_qemu::{AccelChoice, Guests, GuestsConfig, Userland};

use crate::context::{Context, PROGRAMS, available_memory, cpus};
use crate::error::{CommandError, at};
use crate::library::Source;

/// Name of the userland that needs no image.
pub(crate) const BASE: &str = "base";

/// What of this machine guests may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    pub(crate) accel: AccelChoice,
    pub(crate) cpus: Option<u32>,
    /// In MiB.
    pub(crate) memory: Option<u64>,
}

/// Builds the images that are not in the cache yet, and the pool. `progress` is told what takes
/// long.
pub(crate) fn pool<'a>(
    context: &Context,
    library: &Source,
    kernels: BTreeMap<Role, Kernel>,
    images: impl IntoIterator<Item = &'a str>,
    budget: Budget,
    progress: &mut dyn FnMut(String),
) -> Result<Guests, CommandError> {
    let qemu = context.qemu()?;
    fs::create_dir_all(context.cache()?).map_err(at(context.cache()?))?;
    let builder = context.images()?;
    let mut userlands = BTreeMap::new();
    for name in images {
        if userlands.contains_key(name) {
            continue;
        }
        let userland = if name == BASE {
            Userland::Base(Arc::new(builder.base_userland()?))
        } else {
            let recipe = library.recipe(name)?;
            progress(format!("image {name}"));
            Userland::Image(builder.build(&recipe)?.path)
        };
        userlands.insert(name.to_owned(), userland);
    }
    Ok(Guests::new(GuestsConfig {
        qemu,
        accel: budget.accel,
        kernels,
        userlands,
        programs: PROGRAMS,
        cpus: budget.cpus.unwrap_or_else(cpus),
        // Some of it is the controller's own.
        memory: budget.memory.map_or_else(|| available_memory() / 10 * 9, |mib| mib << 20),
        memo: context.cache()?.join("kvm"),
    }))
}
