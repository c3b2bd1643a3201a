//! The machines of a run: guests, lab hosts, or both as one pool.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use kgate_kernel::Kernel;
use kgate_machine::{BootError, BootRequest, ExactTemplate, Machine, Pool, Template};
use kgate_model::inventory::LabHost;
use kgate_model::outcome::{FaultKind, Role};
use kgate_model::plan::{MachineShape, Plan};
use kgate_runner::{Inputs, Placement};
use kgate_scenario::Glob;

use crate::args::lab::LabFile;
use crate::args::on_lab::OnLabArgs;
use crate::context::Context;
use crate::error::{CommandError, at};
use crate::guests::Budget;
use crate::lab::Lab;
use crate::library::Source;
use crate::run::Machines;
use crate::text::line;

/// What many servers take to reboot, the self-test of their firmware included.
const REBOOT: Duration = Duration::from_secs(300);

/// What runs on which lab hosts, by the command line and the workload.
pub(crate) fn placement(args: &OnLabArgs, inputs: &Inputs) -> Result<Placement, CommandError> {
    let Some(file) = &args.lab else {
        let given = [("--hosts", &args.hosts), ("--lab-scenarios", &args.lab_scenarios)];
        return match given.into_iter().find(|(_, words)| !words.is_empty()) {
            Some((option, _)) => Err(CommandError::usage(format!("{option} needs an inventory"))
                .hint("name the inventory of the lab with --lab FILE or KGATE_LAB")),
            None => Ok(Placement::default()),
        };
    };
    let lab = lab(file)?;
    let wanted = inputs.workload.lab.clone().unwrap_or_default();
    let words = if args.hosts.is_empty() { &wanted.hosts } else { &args.hosts };
    let hosts = lab.select(words)?;
    if hosts.is_empty() {
        return Err(CommandError::usage(format!("{} has no hosts", file.display())));
    }
    let scenarios = match args.lab_scenarios.as_slice() {
        [] => wanted.scenarios,
        globs => globs.iter().map(Glob::new).collect(),
    };
    let placement = Placement {
        hosts: hosts.into_iter().map(|host| host.name.clone()).collect(),
        scenarios,
        inventory: Some(std::path::absolute(file).map_err(at(file))?.display().to_string()),
    };
    for glob in args.lab_scenarios.iter().map(Glob::new) {
        let found = inputs.selected.iter().filter(|s| glob.matches(s.scenario.id.as_str()));
        if !found.into_iter().any(|s| placement.takes(&s.scenario)) {
            return Err(CommandError::usage(format!(
                "no scenario of the workload `{}` that a lab host can run matches `{}`",
                inputs.workload.name,
                glob.as_str()
            ))
            .hint("exact scenarios count instructions, which only guests can"));
        }
    }
    Ok(placement)
}

/// What a person should know of a run that a workload wanted on lab hosts.
pub(crate) fn note(plan: &Plan, inputs: &Inputs) -> Option<String> {
    let name = &inputs.workload.name;
    let wanted = inputs.workload.lab.is_some() && plan.lab.is_none();
    wanted.then(|| {
        format!(
            "the workload {name} wants lab hosts, and no inventory was given: all ran in guests"
        )
    })
}

/// What a person should know before a run on lab hosts whose policy gives it less time than servers take.
pub(crate) fn haste(plan: &Plan, inputs: &Inputs) -> Option<String> {
    let boots = |host: &str| plan.boots.iter().filter(|b| b.host.as_deref() == Some(host)).count();
    let (boots, host) = plan.hosts().into_iter().map(|host| (boots(host), host)).max()?;
    hurried(host, boots, inputs.policy.timeouts.run)
}

/// As [`haste`], of the host that boots most. Each boot has its way back.
fn hurried(host: &str, boots: usize, run: Duration) -> Option<String> {
    let reboots = u32::try_from(boots).ok()?.checked_mul(2)?;
    let needed = REBOOT.checked_mul(reboots)?;
    let in_words = |time: Duration| match time.as_secs().div_ceil(60) {
        minutes @ 0..=120 => format!("{minutes} min"),
        minutes => format!("{} h", minutes.div_ceil(60)),
    };
    (run < needed).then(|| {
        format!(
            "{} reboots {reboots} times, and the run ends after {}: where a server takes {} each time, give it {} \
             (`timeouts: {{ run: … }}` of the policy); `--resume` goes on with one that ended too early",
            line(host),
            in_words(run),
            in_words(REBOOT),
            in_words(needed)
        )
    })
}

fn lab(file: &Path) -> Result<Lab, CommandError> {
    Lab::load(&LabFile { lab: Some(file.to_owned()) })
}

/// Machines as a plan asks for them.
pub(crate) struct Fleets {
    pub(crate) budget: Budget,
    /// The inventory, where it isn't where the run was planned with it.
    pub(crate) lab: Option<PathBuf>,
}

impl Fleets {
    /// The lab hosts that a plan names.
    fn hosts(&self, plan: &Plan) -> Result<Vec<LabHost>, CommandError> {
        let names = plan.hosts();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let Some(file) = self.lab.clone().or_else(|| plan.lab.as_ref().map(PathBuf::from)) else {
            let error = CommandError::usage(format!("{} need an inventory", names.join(", ")));
            return Err(error.hint("name the inventory of the lab with --lab FILE or KGATE_LAB"));
        };
        let lab = lab(&file)?;
        let host = |name: &str| {
            lab.inventory.host(name).cloned().ok_or_else(|| {
                let file = line(&file.display().to_string());
                CommandError::usage(format!(
                    "{file} has no host `{name}`, which the run is planned for"
                ))
                .hint("name the right inventory with --lab FILE, or begin a new run")
            })
        };
        names.into_iter().map(host).collect()
    }
}

#[async_trait(?Send)]
impl Machines for Fleets {
    async fn pool(
        &self,
        context: &Context,
        library: &Source,
        kernels: BTreeMap<Role, Kernel>,
        plan: &Plan,
        dir: &Path,
    ) -> Result<Box<dyn Pool>, CommandError> {
        let hosts = self.hosts(plan)?;
        if hosts.is_empty() {
            return self.budget.pool(context, library, kernels, plan, dir).await;
        }
        let mut in_guests = plan.clone();
        in_guests.boots.retain(|boot| boot.host.is_none());
        let guests = match in_guests.boots.is_empty() {
            true => None,
            false => {
                Some(self.budget.pool(context, library, kernels.clone(), &in_guests, dir).await?)
            }
        };
        let images: BTreeSet<&str> = (plan.boots.iter())
            .filter(|boot| boot.host.is_some())
            .map(|boot| boot.image.as_str())
            .collect();
        let lab = crate::lab_pool::pool(context, library, kernels, hosts, images, dir)?;
        Ok(Box::new(Fleet { guests, lab }))
    }
}

/// Guests, where the run has any, and lab hosts as one pool.
pub(crate) struct Fleet {
    pub(crate) guests: Option<Box<dyn Pool>>,
    pub(crate) lab: Box<dyn Pool>,
}

#[async_trait(?Send)]
impl Pool for Fleet {
    fn has_room(&self, shape: &MachineShape, clone: bool) -> bool {
        self.guests.as_ref().is_some_and(|guests| guests.has_room(shape, clone))
    }

    fn facts(&self) -> BTreeMap<String, String> {
        let mut facts = self.lab.facts();
        facts.extend(self.guests.iter().flat_map(|guests| guests.facts()));
        facts
    }

    async fn boot(&self, request: &BootRequest) -> Result<Box<dyn Machine>, BootError> {
        match (&request.host, &self.guests) {
            (Some(_), _) => self.lab.boot(request).await,
            (None, Some(guests)) => guests.boot(request).await,
            (None, None) => {
                Err(BootError::harness(FaultKind::Controller, "no guests were planned for"))
            }
        }
    }

    async fn finish(&self) -> Vec<String> {
        let mut words = self.lab.finish().await;
        if let Some(guests) = &self.guests {
            words.extend(guests.finish().await);
        }
        words
    }

    fn hosts(&self) -> BTreeMap<String, Option<String>> {
        self.lab.hosts()
    }

    async fn template(
        &self,
        request: &BootRequest,
    ) -> Option<Result<Box<dyn Template>, BootError>> {
        match (&request.host, &self.guests) {
            (Some(_), _) => self.lab.template(request).await,
            (None, guests) => guests.as_ref()?.template(request).await,
        }
    }

    async fn exact_template(
        &self,
        request: &BootRequest,
        seed: u64,
    ) -> Option<Result<Box<dyn ExactTemplate>, BootError>> {
        match (&request.host, &self.guests) {
            (Some(_), _) => self.lab.exact_template(request, seed).await,
            (None, guests) => guests.as_ref()?.exact_template(request, seed).await,
        }
    }
}

#[cfg(test)]
mod tests;
