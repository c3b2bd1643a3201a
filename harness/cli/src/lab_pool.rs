//! From an inventory's hosts to a pool of lab hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use kgate_kernel::Kernel;
use kgate_lab::pool::{Lab, LabConfig};
use kgate_lab::walk::Errand;
use kgate_machine::Pool;
use kgate_model::inventory::LabHost;
use kgate_model::outcome::Role;

use crate::context::{Context, PROGRAMS, home};
use crate::error::CommandError;
use crate::guests::BASE;
use crate::lab::secrets;
use crate::library::Source;
use crate::run::announce;

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
    let builder = context.images()?;
    let mut paths = BTreeMap::new();
    for name in images.into_iter().filter(|name| *name != BASE) {
        let recipe = library.recipe(name)?;
        announce(format!("image {name}"));
        paths.insert(name.to_owned(), builder.build(&recipe)?.path);
    }
    let errand = Errand {
        state: state()?,
        evidence: dir.join(EVIDENCE),
        run: dir.display().to_string(),
        user: user(),
        secrets: secrets(),
        // The journal of the run has the boots, that of the host the rest.
        told: Box::new(|_, _| {}),
    };
    Ok(Box::new(Lab::new(LabConfig {
        hosts,
        kernels,
        busybox: Arc::new(builder.base_userland()?),
        images: paths,
        agent: PROGRAMS.agent,
        ops: PROGRAMS.ops,
        errand: Rc::new(errand),
    })))
}

/// Where journals and locks of lab hosts are. Not in the cache: what is lost there is made again, and a
/// host that was left is known only here.
fn state() -> Result<PathBuf, CommandError> {
    let set = env::var_os("XDG_STATE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let base = set.or_else(|| Some(home()?.join(".local/state")));
    base.map(|dir| dir.join("kgate/lab")).ok_or_else(|| {
        CommandError::usage(
            "there is no place for the journals of lab hosts: neither XDG_STATE_HOME nor HOME is set",
        )
    })
}

/// Who runs this, for those who wait for what it holds.
fn user() -> String {
    let named = ["USER", "LOGNAME"].into_iter().find_map(|name| env::var(name).ok());
    let uid = || format!("uid {}", rustix::process::geteuid().as_raw());
    named.filter(|name| !name.is_empty()).unwrap_or_else(uid)
}
