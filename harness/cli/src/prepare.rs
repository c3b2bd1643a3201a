//! What has to be known before a run can be planned: inputs, kernels, what the kernels can do.

use std::collections::BTreeMap;

use kgate_kernel::{Kernel, Reference, Status};
use kgate_model::outcome::Role;
use kgate_model::plan::{Plan, TierChoice};
use kgate_release::change::Bound;
use kgate_release::tier::Facts;
use kgate_release::words::grouped;
use kgate_release::{CommitDelta, Relation};
use kgate_runner::{Capabilities, Inputs, Placement, make_plan};
use kgate_scenario::{Glob, Policy, Waivers};

use crate::args::changes::ChangeArgs;
use crate::args::{Rules, Subjects};
use crate::context::Context;
use crate::error::CommandError;
use crate::fleet;
use crate::library::{Source, read};
use crate::releases::subject::of_kernel;
use crate::releases::{changes, cves};

/// Workload of a run that names none.
const DEFAULT_WORKLOAD: &str = "smoke";

/// Everything that a plan is made from.
pub(crate) struct Prepared {
    pub(crate) inputs: Inputs,
    pub(crate) library: Source,
    pub(crate) kernels: BTreeMap<Role, Kernel>,
    /// How much of the workload is tried, where that was asked for.
    pub(crate) tier: Option<TierChoice>,
    /// What of it runs on lab hosts.
    pub(crate) placement: Placement,
}

impl Prepared {
    /// Reads the files, resolves the kernels. `progress` is told what takes long.
    pub(crate) fn new(
        context: &Context,
        subjects: &Subjects,
        progress: &mut dyn FnMut(String),
    ) -> Result<Self, CommandError> {
        let needed = |kernel: &'_ Option<String>, what: &str| {
            kernel.clone().ok_or_else(|| {
                CommandError::usage(format!("{what} is missing"))
                    .hint("`kgate kernel list` shows the kernels that apt offers")
            })
        };
        let baseline = needed(&subjects.baseline, "--baseline KERNEL, the kernel in production,")?;
        let candidate =
            needed(&subjects.candidate, "--candidate KERNEL, which should replace the baseline,")?;
        let library = Source::new(&subjects.library)?;
        let mut inputs = inputs(&library, subjects)?;
        let placement = fleet::placement(&subjects.lab, &inputs)?;
        let mut kernels = kernels(context, &baseline, &candidate, progress)?;
        // The plan is carried out, resumed and shown in other directories as well.
        let here = Context::here()?;
        for kernel in kernels.values_mut() {
            let reference = Reference::parse(&kernel.origin.reference)?;
            kernel.origin.reference = reference.seen_from(&here).to_string();
        }
        let tier = tier(context, &mut inputs, &kernels, subjects);
        Ok(Self { inputs, library, kernels, tier, placement })
    }

    /// What tier the candidate is by itself and by the policy, whether it is applied or not.
    pub(crate) fn own_tier(&self, context: &Context) -> TierChoice {
        facts(context, Facts::default(), &self.kernels).tier(&self.inputs.policy.tiers.shifts, None)
    }

    /// The plan.
    pub(crate) fn plan(&self, partitions: u32) -> Plan {
        let record = |role| self.kernels[&role].record();
        let (baseline, candidate) = (record(Role::Baseline), record(Role::Candidate));
        let plan = make_plan(
            &self.inputs,
            baseline,
            candidate,
            &Known(&self.kernels),
            &self.placement,
            partitions,
        );
        Plan { tier: self.tier.clone(), ..plan }
    }
}

/// Leaves of the workload what the tier tries. Boots of the command line replace the tier's as well.
fn tier(
    context: &Context,
    inputs: &mut Inputs,
    kernels: &BTreeMap<Role, Kernel>,
    subjects: &Subjects,
) -> Option<TierChoice> {
    let given = subjects.tier.tier?.given();
    let facts = facts(context, subjects.tier.facts.clone().unwrap_or_default(), kernels);
    let mut choice = facts.tier(&inputs.policy.tiers.shifts, given);
    let what = inputs.policy.tiers.apply(choice.tier, subjects.boots, &mut inputs.selected);
    choice.why = format!("{} {what}", choice.why);
    Some(choice)
}

/// What is known, and what the kernels themselves say of how far they are apart.
fn facts(context: &Context, known: Facts, kernels: &BTreeMap<Role, Kernel>) -> Facts {
    let release = |role| of_kernel(&kernels[&role]).and_then(|version| version.counts_as());
    let facts =
        Facts { production: release(Role::Baseline), candidate: release(Role::Candidate), ..known };
    let facts = match (facts.production, facts.candidate) {
        (Some(from), Some(to)) if from < to => {
            Facts { cves: cves::fixed_in_words(context, from, to), ..facts }
        }
        _ => facts,
    };
    let changes = changes(context, &facts, &kernels[&Role::Candidate].origin.reference);
    changes.map_or(facts.clone(), |(commits, changed)| Facts {
        commits: Some(commits),
        changed: Some(changed),
        ..facts
    })
}

/// What the changelog in the candidate's package says: commits in words, and the subsystems that they
/// are of.
fn changes(context: &Context, facts: &Facts, candidate: &str) -> Option<(String, Vec<String>)> {
    let between = (facts.production?, facts.candidate?);
    (Relation::of(&between.0, &between.1) == Relation::BugfixForward).then_some(())?;
    let args = ChangeArgs::default();
    // Where it can't be read, the tier is chosen without it.
    let known = changes::known(context, &args, between, &[candidate], None).ok()?;
    let delta = CommitDelta::new(&known.releases?, &known.sources, None, &[]);
    (!delta.sources.is_empty()).then(|| {
        let least = if delta.bound == Bound::LowerBound { "at least " } else { "" };
        let names = delta.subsystems.iter().map(|one| one.subsystem.name().to_owned());
        (format!("{least}{} commits", grouped(delta.total)), names.collect())
    })
}

/// Resolves both kernels.
pub(crate) fn kernels(
    context: &Context,
    baseline: &str,
    candidate: &str,
    progress: &mut dyn FnMut(String),
) -> Result<BTreeMap<Role, Kernel>, CommandError> {
    let mut kernels = BTreeMap::new();
    for (role, reference) in [(Role::Baseline, baseline), (Role::Candidate, candidate)] {
        progress(format!("{role} {reference}"));
        kernels.insert(role, context.kernel(reference)?);
    }
    Ok(kernels)
}

/// What the user's files say, without any kernel.
pub(crate) fn inputs(library: &Source, subjects: &Subjects) -> Result<Inputs, CommandError> {
    let scenarios = library.scenarios()?;
    let name = subjects.workload.as_deref().unwrap_or(DEFAULT_WORKLOAD);
    let mut workload = library.workload(name, &scenarios)?;
    if let Some(boots) = subjects.boots {
        workload.policy.boots = boots;
    }
    let mut selected = scenarios.select(&workload);
    if !subjects.scenarios.is_empty() {
        let globs: Vec<Glob> = subjects.scenarios.iter().map(Glob::new).collect();
        for glob in &globs {
            if !selected.iter().any(|s| glob.matches(s.scenario.id.as_str())) {
                return Err(CommandError::usage(format!(
                    "no scenario of the workload `{}` matches `{}`",
                    workload.name,
                    glob.as_str()
                ))
                .hint(format!("`kgate scenario list --workload {name}` shows them")));
            }
        }
        selected.retain(|s| globs.iter().any(|g| g.matches(s.scenario.id.as_str())));
    }
    if let Some(boots) = subjects.boots {
        for one in &mut selected {
            one.boots = boots;
        }
    }
    library.check_images(selected.iter().map(|s| &s.scenario))?;
    let (mut policy, waivers) = rules(&subjects.rules, &workload.policy, &selected)?;
    policy.exact.seed = subjects.seed.unwrap_or(policy.exact.seed);
    Ok(Inputs { workload, policy, selected, waivers })
}

/// Policy and waivers from the files of the command line; `policy` where none is named.
pub(crate) fn rules(
    rules: &Rules,
    policy: &Policy,
    selected: &[kgate_scenario::Selected],
) -> Result<(Policy, Waivers), CommandError> {
    let policy = match &rules.policy {
        Some(path) => Policy::load(path, &read(path)?, selected)?,
        None => policy.clone(),
    };
    let waivers = match &rules.waivers {
        Some(path) => Waivers::load(path, &read(path)?)?,
        None => Waivers::default(),
    };
    Ok((policy, waivers))
}

/// What kernels that are at hand can do.
pub(crate) struct Known<'a>(pub(crate) &'a BTreeMap<Role, Kernel>);

impl Capabilities for Known<'_> {
    fn config(&self, role: Role, option: &str) -> Option<String> {
        let config = self.0[&role].config.as_ref()?;
        Some(config.get(option).unwrap_or("n").to_owned())
    }

    fn module(&self, role: Role, name: &str) -> Option<bool> {
        let kernel = &self.0[&role];
        match kernel.modules.status(name) {
            Status::BuiltIn | Status::Module => Some(true),
            // A kernel that came without a list of what is built in may still have it.
            Status::Absent if kernel.modules.is_empty() => None,
            Status::Absent => Some(false),
        }
    }
}
