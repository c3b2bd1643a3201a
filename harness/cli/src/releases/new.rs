//! What there is to gate, and `kgate releases new`, which shows it.

use std::path::PathBuf;
use std::process::ExitCode;

use jiff::Timestamp;
use jiff::civil::Date;
use kgate_kernel::Kernel;
use kgate_model::plan::{Tier, TierChoice};
use kgate_release::state::{Claim, Line, State};
use kgate_release::tier::Facts;
use kgate_release::words::ago;
use kgate_release::work::{Question, Work};
use kgate_release::{Catalogue, KernelVersion, Version};
use kgate_scenario::Policy;
use serde::Serialize;
use serde_json::{Value, json};

use super::feeds;
use super::state::StateFile;
use super::subject::{Subject, subject};
use crate::args::gate::Gating;
use crate::args::releases::{FeedArgs, NewArgs, NewFormat};
use crate::args::{Rules, Subjects};
use crate::context::Context;
use crate::error::{CommandError, PROMOTE};
use crate::library::Source;
use crate::prepare;
use crate::text::line;

/// The most jobs that a matrix of GitHub Actions may have.
const MATRIX: usize = 256;

/// Of which format the JSON is.
const SCHEMA: &str = "kgate-new/1";

/// All that is known before a release is chosen.
pub(crate) struct Desk {
    pub(crate) policy: Policy,
    pub(crate) line: Line,
    pub(crate) production: Version,
    pub(crate) catalogue: Catalogue,
    given: Option<Tier>,
    latest: bool,
}

impl Desk {
    /// What the user's files and feeds say.
    pub(crate) fn new(
        gating: &Gating,
        policy: Policy,
        workload: &str,
        production: Version,
        catalogue: Catalogue,
    ) -> Self {
        let track = gating.track.clone().unwrap_or_else(|| production.branch.to_string());
        Self {
            policy,
            line: Line { workload: workload.to_owned(), track },
            production,
            catalogue,
            given: gating.tier.given(),
            latest: gating.latest,
        }
    }

    /// What there is to do by this state.
    pub(crate) fn work(&self, state: &State) -> Work {
        let question = Question {
            catalogue: &self.catalogue,
            state,
            line: &self.line,
            production: self.production,
            now: Timestamp::now(),
            tries: self.policy.tiers.tries,
            evaluate_every: self.policy.tiers.evaluate_every,
            latest: self.latest,
        };
        question.work()
    }

    /// What is known of a release beside production.
    pub(crate) fn facts(&self, version: Version) -> Facts {
        Facts::of(&self.catalogue, self.production, version)
    }

    /// The tier of a release.
    pub(crate) fn tier(&self, version: Version) -> TierChoice {
        self.facts(version).tier(&self.policy.tiers.shifts, self.given)
    }

    /// What isn't to be done, and why, a line each.
    pub(crate) fn rest(&self, work: &Work) -> Vec<String> {
        let today = self.catalogue.today;
        let branch = self.production.branch;
        let not_offered = work.not_offered.iter().map(|(version, date)| {
            let since = date
                .map_or_else(|| "is out".into(), |date| format!("came out {}", ago(date, today)));
            format!("{version} {since}; no feed offers a kernel of it yet")
        });
        let busy = work.busy.iter().map(|(version, claim)| busy(version, claim));
        let stuck = work.stuck.iter().map(|(version, why)| {
            let tries = self.policy.tiers.tries;
            format!(
                "{version} was tried {tries} times and has no verdict: {}; `kgate gate --only {version}` \
                 tries again",
                line(why)
            )
        });
        let of = |versions: &[Version], what: &str| {
            let names: Vec<String> = versions.iter().map(ToString::to_string).collect();
            (!names.is_empty()).then(|| format!("{}: {what}", names.join(", ")))
        };
        let passed = format!("no feed offers a kernel of it, but of a newer release of {branch}");
        let left = "left out for a newer one";
        (not_offered.chain(busy).chain(stuck))
            .chain(of(&work.passed_over, &passed))
            .chain(of(&work.superseded, left))
            .collect()
    }

    /// That there is nothing to be gated, and what was.
    pub(crate) fn nothing(&self, state: &State) -> String {
        let gated = state.last_gated(&self.line).map_or_else(
            || "nothing was gated before".to_owned(),
            |(version, gated)| {
                format!("{version} was gated last, on {}: {}", gated.on, line(&gated.verdict))
            },
        );
        let production = self.production;
        format!("nothing to gate: no release after {production}, in production, is open; {gated}")
    }
}

/// That somebody else is at a release.
pub(crate) fn busy(version: &Version, claim: &Claim) -> String {
    format!("{version} is being gated by another job, since {:.0}", claim.since)
}

/// What a plan is made from, but for the kernels and the tier.
pub(crate) fn subjects(gating: &Gating, waivers: Option<PathBuf>) -> Subjects {
    Subjects {
        workload: gating.workload.clone(),
        library: gating.library.clone(),
        rules: Rules { policy: gating.policy.clone(), waivers },
        ..Subjects::default()
    }
}

/// What feeds say. Where none is named, kernel.org tells which releases there are, and apt offers the
/// kernels, of this flavour.
pub(crate) fn catalogue(
    context: &Context,
    gating: &Gating,
    flavour: Option<&str>,
) -> Result<Catalogue, CommandError> {
    let mut feed = gating.feeds.feed.clone();
    if feed.is_empty() {
        feed = vec!["kernel.org".into(), format!("apt:{}", flavour.unwrap_or_default())];
    }
    feeds::catalogue(context, &FeedArgs { feed })
}

/// Which of several builds of one release a kernel is, where its name says so.
pub(crate) fn flavour(kernel: &Kernel) -> Option<String> {
    kernel.release.parse::<KernelVersion>().ok()?.flavour
}

/// A release that is to be gated, as it is printed.
#[derive(Serialize)]
struct Candidate {
    version: Version,
    branch: String,
    kernel: String,
    tier: Tier,
    why: String,
    released: Option<Date>,
}

/// Runs the command.
pub(crate) fn new(context: &Context, args: &NewArgs) -> Result<ExitCode, CommandError> {
    let gating = &args.gating;
    let inputs = prepare::inputs(&Source::new(&gating.library)?, &subjects(gating, None))?;
    let workload = inputs.workload.name;
    let state = StateFile::new(&args.since).read()?;
    let (production, flavour) = match &args.production {
        Some(text) => {
            let Subject { version, kernel } = subject(context, text)?;
            let release = version.counts_as().ok_or_else(|| no_release(text))?;
            (release, kernel.as_ref().map_or(version.flavour, flavour))
        }
        None => (last_production(&state, &workload, gating.track.as_deref())?, None),
    };
    let catalogue = catalogue(context, gating, flavour.as_deref())?;
    let desk = Desk::new(gating, inputs.policy, &workload, production, catalogue);
    let mut work = desk.work(&state);
    let candidates = std::mem::take(&mut work.candidates).into_iter().map(|one| {
        let TierChoice { tier, why } = desk.tier(one.version);
        let released = desk.catalogue.release(&one.version).and_then(|release| release.date);
        let branch = one.version.branch.to_string();
        Candidate { version: one.version, branch, kernel: one.kernel, tier, why, released }
    });
    let candidates: Vec<Candidate> = candidates.collect();
    let text = match args.format {
        NewFormat::Text => text(&desk, &work, &candidates, &state),
        NewFormat::Json => serde_json::to_string_pretty(&whole(&desk, &work, &candidates, &state))?,
        NewFormat::Matrix => matrix(&candidates).to_string(),
    };
    anstream::println!("{text}");
    Ok(ExitCode::from(PROMOTE))
}

/// A kernel of which nobody can say what is newer.
pub(crate) fn no_release(text: &str) -> CommandError {
    let text = line(text);
    CommandError::usage(format!("{text}: this doesn't say which upstream release it is"))
        .hint("name the kernel itself, or use `kgate run` for kernels whose maker picks the fixes by hand")
}

fn last_production(
    state: &State,
    workload: &str,
    track: Option<&str>,
) -> Result<Version, CommandError> {
    let last = state.last_production(workload, track);
    last.ok_or_else(|| {
        CommandError::usage(format!("nothing was gated yet for the workload `{workload}`"))
            .hint("say what is in production: --production KERNEL")
    })
}

fn text(desk: &Desk, work: &Work, candidates: &[Candidate], state: &State) -> String {
    let mut lines = Vec::new();
    for one in candidates {
        let (version, tier) = (one.version.to_string(), one.tier.as_str());
        lines.push(format!("{version:<12}{tier:<15}{}", line(&one.kernel)));
        lines.push(format!("  {}", one.why));
    }
    if candidates.is_empty() {
        lines.push(desk.nothing(state));
    }
    lines.extend(desk.rest(work));
    lines.join("\n")
}

fn whole(desk: &Desk, work: &Work, candidates: &[Candidate], state: &State) -> Value {
    let last = state.last_gated(&desk.line).map(|(version, gated)| {
        json!({ "version": version, "on": gated.on, "verdict": gated.verdict, "dir": gated.dir })
    });
    let busy = work.busy.iter().map(|(version, claim)| {
        json!({ "version": version, "since": claim.since, "until": claim.until })
    });
    let stuck = work.stuck.iter().map(|(version, why)| json!({ "version": version, "why": why }));
    let not_offered = work.not_offered.iter();
    let not_offered =
        not_offered.map(|(version, released)| json!({ "version": version, "released": released }));
    json!({
        "schema": SCHEMA,
        "workload": desk.line.workload,
        "track": desk.line.track,
        "production": desk.production,
        "candidates": candidates,
        "busy": busy.collect::<Vec<_>>(),
        "stuck": stuck.collect::<Vec<_>>(),
        "not_offered": not_offered.collect::<Vec<_>>(),
        "passed_over": work.passed_over,
        "superseded": work.superseded,
        "last": last,
    })
}

/// The oldest first: what doesn't fit is there the next time.
fn matrix(candidates: &[Candidate]) -> Value {
    if candidates.len() > MATRIX {
        anstream::eprintln!("kgate: {} of {} releases fit", MATRIX, candidates.len());
    }
    let include = candidates.iter().take(MATRIX).map(|one| {
        let tier = one.tier.as_str();
        json!({ "version": one.version, "branch": one.branch, "kernel": one.kernel, "tier": tier })
    });
    json!({ "include": include.collect::<Vec<_>>() })
}
