//! From references and images to a pool of guests.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;

use kgate_kernel::Kernel;
use kgate_model::outcome::Role;
use kgate_qemu::{AccelChoice, Guests, GuestsConfig, Userland};

use crate::args::GuestArgs;
use crate::context::{Context, PLUGIN, PROGRAMS, available_memory, cpus};
use crate::error::CommandError;
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

impl Budget {
    pub(crate) fn new(args: &GuestArgs) -> Self {
        Self { accel: args.accel.into(), cpus: args.cpus, memory: args.memory }
    }
}

/// Does both at a time: each of them waits for other programs.
fn both<A, B: Send>(here: impl FnOnce() -> A, there: impl FnOnce() -> B + Send) -> (A, B) {
    thread::scope(|scope| {
        let there = scope.spawn(there);
        let here = here();
        // A panic over there is one here.
        (here, there.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

/// Finds the kernels, builds the images that are not in the cache yet, and the pool. `progress` is
/// told what takes long.
pub(crate) fn pool<'a>(
    context: &Context,
    library: &Source,
    kernels: impl FnOnce() -> Result<BTreeMap<Role, Kernel>, CommandError>,
    images: impl IntoIterator<Item = &'a str>,
    budget: Budget,
    progress: &mut dyn FnMut(String),
) -> Result<Guests, CommandError> {
    let builder = context.images()?;
    // A kernel is read while programs are asked for their versions.
    let images: Vec<&str> = images.into_iter().collect();
    let with_base = images.contains(&BASE);
    let base = || {
        let base =
            || Ok::<_, CommandError>(Userland::Base(Arc::new(context.images()?.base_userland()?)));
        with_base.then(base).transpose()
    };
    let programs = || both(|| context.qemu(), base);
    let (kernels, (qemu, base)) = both(kernels, programs);
    let (kernels, qemu) = (kernels?, qemu?);
    let mut userlands: BTreeMap<String, Userland> =
        base?.map(|base| (BASE.to_owned(), base)).into_iter().collect();
    for name in images {
        if userlands.contains_key(name) {
            continue;
        }
        let recipe = library.recipe(name)?;
        progress(format!("image {name}"));
        userlands.insert(name.to_owned(), Userland::Image(builder.build(&recipe)?.path));
    }
    Ok(Guests::new(GuestsConfig {
        qemu,
        accel: budget.accel,
        kernels,
        userlands,
        programs: PROGRAMS,
        plugin: Some(PLUGIN),
        cpus: budget.cpus.unwrap_or_else(cpus),
        // Some of it is the controller's own.
        memory: budget.memory.map_or_else(|| available_memory() / 10 * 9, |mib| mib << 20),
        memo: context.cache()?.join("kvm"),
        templates: context.templates()?,
    }))
}
