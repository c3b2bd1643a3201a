//! `kgate gate`: each new release from what feeds say to its verdict, and the record that it is done.
//!
//! A release is claimed in the state file, run in a directory of its own, and its verdict written to
//! the state file. Wherever this ends, the next job finds in the state how far it came: a claim whose
//! job is gone is gone on with.

mod seat;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use jiff::{SignedDuration, Timestamp};
use kgate_compare::Verdict;
use kgate_model::plan::{Tier, TierChoice};
use kgate_release::Version;
use kgate_release::state::{Event, Gated, Status};
use kgate_runner::{Inputs, RunDir};
use kgate_scenario::Settles;
use tokio::sync::watch;

use self::seat::{Left, Seat};
use crate::args::gate::GateArgs;
use crate::args::{RunArgs, Subjects, TierArgs};
use crate::context::Context;
use crate::error::{CommandError, INFRASTRUCTURE, INTERRUPTED, PROMOTE, REJECT, USAGE, at};
use crate::fleet::{self, Fleets};
use crate::guests::Budget;
use crate::library::Source;
use crate::prepare::{self, Prepared};
use crate::releases::new::{self, Desk, no_release};
use crate::releases::state::StateFile;
use crate::releases::subject::of_kernel;
use crate::reports;
use crate::run::{self, Machines};
use crate::signals::{watch_signals, watch_signals_with_hosts};
use crate::text::line;

/// What a job may take beside its run: packages to fetch, images to build, a controller that is busy.
/// After that time and the run's own limit its claim ends by itself.
const BESIDE: SignedDuration = SignedDuration::from_hours(1);

/// What counts most last.
const WORSE: [u8; 5] = [PROMOTE, Verdict::Inconclusive.exit_code(), USAGE, INFRASTRUCTURE, REJECT];

/// Runs the command.
pub(crate) fn gate(context: &Context, args: &GateArgs) -> Result<ExitCode, CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let fleets = Fleets { budget: Budget::new(&args.guest), lab: args.lab.lab.clone() };
    let watch = if fleets.lab.is_some() { watch_signals_with_hosts } else { watch_signals };
    let code = runtime.block_on(async { carry_out(context, args, &fleets, watch()?).await })?;
    Ok(ExitCode::from(code))
}

/// Gates what there is to gate, and answers with the exit code.
async fn carry_out(
    context: &Context,
    args: &GateArgs,
    machines: &dyn Machines,
    signals: watch::Receiver<bool>,
) -> Result<u8, CommandError> {
    reports::check(&args.outputs)?;
    let library = &args.gating.library;
    let subjects = new::subjects(&args.gating, args.waivers.clone());
    // What is wrong with the user's files is told before anything is claimed.
    let inputs = prepare::inputs(&Source::new(library)?, &subjects)?;
    fleet::placement(&args.lab, &inputs)?;
    let Inputs { workload, policy, .. } = inputs;
    let production = context.kernel(&args.production)?;
    let release = |kernel: &_| of_kernel(kernel).and_then(|version| version.counts_as());
    let ours = release(&production).ok_or_else(|| no_release(&production.release))?;
    let wanted = match &args.candidate {
        Some(reference) => {
            let candidate = context.kernel(reference)?;
            Some(release(&candidate).ok_or_else(|| no_release(&candidate.release))?)
        }
        None => args.only,
    };
    let flavour = new::flavour(&production);
    let catalogue = match (&args.candidate, args.gating.feeds.feed.is_empty()) {
        // Nothing has to be looked for.
        (Some(_), true) => kgate_release::Catalogue::new(context.today()),
        _ => new::catalogue(context, &args.gating, flavour.as_deref())?,
    };
    let desk = Desk::new(&args.gating, policy, &workload.name, ours, catalogue);
    let state = StateFile::new(&args.state);
    let job = Job { context, args, machines, signals, desk, state };
    job.see()?;
    match wanted {
        Some(version) => job.only(version).await,
        None => job.all().await,
    }
}

/// One call of the command.
struct Job<'a> {
    context: &'a Context,
    args: &'a GateArgs,
    machines: &'a dyn Machines,
    signals: watch::Receiver<bool>,
    desk: Desk,
    state: StateFile,
}

impl Job<'_> {
    /// Writes down which releases there are, so that none is forgotten when a feed no longer names it.
    fn see(&self) -> Result<(), CommandError> {
        let on = self.desk.catalogue.today;
        self.state.change(&self.desk.line, |state| {
            let work = self.desk.work(state);
            let offered = work.candidates.iter().map(|one| one.version);
            let others = work.not_offered.iter().map(|(version, _)| *version);
            let all = offered.chain(others).chain(work.passed_over).chain(work.superseded);
            let seen = |version: &Version| {
                state.known(&self.desk.line, version).is_some_and(|known| known.seen.is_some())
            };
            let new = all.filter(|version| !seen(version));
            Ok((new.map(|version| (version, Event::Seen { on })).collect(), ()))
        })
    }

    /// Gates every new release, the oldest first.
    async fn all(&self) -> Result<u8, CommandError> {
        let (mut worst, mut looked_at) = (PROMOTE, BTreeSet::new());
        let mut gated = false;
        loop {
            let state = self.state.read()?;
            let work = self.desk.work(&state);
            // A job that claimed one may have been killed here.
            let claimed = work.busy.iter().map(|(version, _)| *version);
            let open = work.candidates.iter().map(|one| one.version).chain(claimed);
            let Some(version) = open.filter(|version| !looked_at.contains(version)).min() else {
                if !gated {
                    anstream::println!("{}", self.desk.nothing(&state));
                }
                for line in self.desk.rest(&work) {
                    anstream::println!("{line}");
                }
                let stuck = if work.stuck.is_empty() { PROMOTE } else { INFRASTRUCTURE };
                return Ok(worse(worst, stuck));
            };
            looked_at.insert(version);
            if let Some(kernel) = self.offered(&version)
                && let Some(code) = self.one(version, kernel, false).await?
            {
                gated = true;
                worst = worse(worst, code);
            }
        }
    }

    /// Gates the release that was asked for.
    async fn only(&self, version: Version) -> Result<u8, CommandError> {
        let kernel = self.args.candidate.as_deref().or_else(|| self.offered(&version));
        if let Some(kernel) = kernel
            && let Some(code) = self.one(version, kernel, true).await?
        {
            return Ok(code);
        }
        let state = self.state.read()?;
        let known = state.known(&self.desk.line, &version).cloned().unwrap_or_default();
        match known.status(Timestamp::now(), self.desk.policy.tiers.tries) {
            Status::Gated(Gated { on, verdict, tier, dir, .. }) => {
                // For a job that is started again and publishes its reports.
                if let Ok(dir) = RunDir::open(&self.args.dir.join(dir)) {
                    reports::decide(self.context, &dir, None, &self.args.outputs)?;
                }
                let (verdict, again) = (line(verdict), "--again gates it again");
                anstream::println!("{version} was gated on {on}: {verdict}; {again}");
                let advice = tier == Tier::NextLongterm.as_str();
                let known = [Verdict::Promote, Verdict::Inconclusive, Verdict::Reject];
                let told = known.into_iter().find(|known| known.as_str() == verdict && !advice);
                Ok(told.map_or(PROMOTE, Verdict::exit_code))
            }
            Status::Claimed(claim) => {
                anstream::println!("{}", new::busy(&version, claim));
                // Nothing is known of it here, so that this job must not look as if it were promoted.
                Ok(Verdict::Inconclusive.exit_code())
            }
            _ if self.desk.catalogue.release(&version).is_some() => {
                Err(CommandError::infrastructure(format!("no feed offers a kernel of {version}"))
                    .hint("when it is offered, try again; or name one: --candidate KERNEL"))
            }
            _ => Err(CommandError::usage(format!("no feed knows of a release {version}"))
                .hint("`kgate releases` shows what there is; --candidate KERNEL gates any kernel")),
        }
    }

    fn offered(&self, version: &Version) -> Option<&str> {
        self.desk.catalogue.release(version)?.kernel.as_deref()
    }

    /// Gates one release, unless somebody else does or did.
    async fn one(
        &self,
        version: Version,
        kernel: &str,
        asked_for: bool,
    ) -> Result<Option<u8>, CommandError> {
        if *self.signals.borrow() {
            return Err(CommandError::interrupted("interrupted; nothing is running"));
        }
        let Some(seat) = self.claim(version, asked_for)? else { return Ok(None) };
        let TierChoice { tier, .. } = self.desk.tier(version);
        anstream::println!("{version}   {} tier, in {}", tier.as_str(), seat.path.display());
        let ended = self.run(version, kernel, &seat).await;
        // The kernel itself may have said more than feeds.
        let chosen = RunDir::open(&seat.path).ok().and_then(|dir| dir.plan().tier.clone());
        self.record(version, &seat, chosen.map_or(tier, |chosen| chosen.tier), ended).map(Some)
    }

    /// Takes a release, if it is to be had.
    fn claim(&self, version: Version, asked_for: bool) -> Result<Option<Seat>, CommandError> {
        let policy = &self.desk.policy;
        self.state.change(&self.desk.line, |state| {
            let now = Timestamp::now();
            let known = state.known(&self.desk.line, &version).cloned().unwrap_or_default();
            let open = match known.status(now, policy.tiers.tries) {
                Status::Open | Status::Claimed(_) => true,
                Status::Stuck(_) | Status::Superseded(_) => asked_for,
                Status::Gated(_) => asked_for && self.args.again,
            };
            if !open {
                return Ok((Vec::new(), None));
            }
            let left = known.claim.as_ref().map(|claim| Seat::left(&self.args.dir, claim));
            let seat = match left.transpose()? {
                Some(Left::Here(seat)) => seat,
                Some(Left::Busy) => return Ok((Vec::new(), None)),
                Some(Left::Elsewhere) if known.claim.is_some_and(|claim| claim.holds(now)) => {
                    return Ok((Vec::new(), None));
                }
                Some(Left::Elsewhere) | None => Seat::fresh(&self.args.dir, &version)?,
            };
            let limit = SignedDuration::try_from(policy.timeouts.run).unwrap_or(BESIDE);
            let until = now + limit + BESIDE;
            let claimed = Event::Claimed { by: seat.by.clone(), until, dir: seat.name.clone() };
            Ok((vec![(version, claimed)], Some(seat)))
        })
    }

    /// Carries out the run of a release, or what is left of it.
    async fn run(
        &self,
        version: Version,
        kernel: &str,
        seat: &Seat,
    ) -> Result<Verdict, CommandError> {
        let GateArgs { gating, waivers, guest, outputs, lab, .. } = self.args;
        let library = gating.library.clone();
        let subjects = Subjects {
            baseline: Some(self.args.production.clone()),
            candidate: Some(kernel.to_owned()),
            tier: TierArgs { tier: Some(gating.tier), facts: Some(self.desk.facts(version)) },
            lab: lab.clone(),
            ..new::subjects(gating, waivers.clone())
        };
        let goes_on = seat.path.exists() && self.goes_on(&seat.path, &subjects)?;
        let subjects = if goes_on { Subjects { library, ..Subjects::default() } } else { subjects };
        let one = self.args.candidate.is_some() || self.args.only.is_some();
        let run = RunArgs {
            subjects,
            guest: guest.clone(),
            outputs: if one { outputs.clone() } else { outputs.of(&version.to_string()) },
            dir: (!goes_on).then(|| seat.path.clone()),
            resume: goes_on.then(|| seat.path.clone()),
            partition: None,
            explain: false,
        };
        run::carry_out(self.context, &run, self.machines, self.signals.clone()).await
    }

    /// Whether what an earlier job left can be gone on with. What can't is put aside.
    fn goes_on(&self, path: &Path, subjects: &Subjects) -> Result<bool, CommandError> {
        if !path.join("plan.json").is_file() {
            // It was killed before it had planned anything.
            fs::remove_dir_all(path).map_err(at(path))?;
            return Ok(false);
        }
        let prepared = Prepared::new(self.context, subjects, &mut |_| {})?;
        let planned = prepared.plan(1);
        let fits = RunDir::open(path).and_then(|dir| {
            dir.check_kernels(&planned.baseline, &planned.candidate)?;
            dir.check_inputs(&prepared.inputs)?;
            Ok(dir.plan().hosts() == planned.hosts())
        });
        let why = match fits {
            Ok(true) => return Ok(true),
            Ok(false) => format!("{} was planned for other lab hosts", path.display()),
            Err(why) => why.to_string(),
        };
        let mut aside = path.to_owned();
        while aside.exists() {
            aside.as_mut_os_string().push(".left");
        }
        fs::rename(path, &aside).map_err(at(path))?;
        let aside = aside.display();
        anstream::eprintln!("kgate: {}; begun anew, what was there is in {aside}", line(&why));
        Ok(false)
    }

    /// Writes down what a run came to, and answers with its exit code.
    fn record(
        &self,
        version: Version,
        seat: &Seat,
        tier: Tier,
        ended: Result<Verdict, CommandError>,
    ) -> Result<u8, CommandError> {
        let (by, tiers) = (seat.by.clone(), &self.desk.policy.tiers);
        let (event, code) = match &ended {
            Err(error) if error.code() == INTERRUPTED => (Event::Released { by }, INTERRUPTED),
            Err(error) => {
                anstream::eprintln!("kgate: {version}: {error}");
                (Event::Tried { by, why: error.first_line(), anew: false }, error.code())
            }
            Ok(Verdict::Infrastructure) => {
                let why = format!("infrastructure, see {}", seat.name);
                (Event::Tried { by, why, anew: false }, INFRASTRUCTURE)
            }
            Ok(verdict) => {
                let gated = Event::Gated {
                    by,
                    verdict: verdict.as_str().to_owned(),
                    on: self.desk.catalogue.today,
                    dir: seat.name.clone(),
                    production: self.desk.production.to_string(),
                    tier: tier.as_str().to_owned(),
                };
                let advice = tier == Tier::NextLongterm;
                (gated, if advice { PROMOTE } else { verdict.exit_code() })
            }
        };
        let open = self.state.change(&self.desk.line, |state| {
            let known = state.known(&self.desk.line, &version).cloned().unwrap_or_default();
            if known.gated.is_some() && !self.args.again {
                // One of the two took longer than a claim holds.
                anstream::eprintln!("kgate: {version} was gated by another job meanwhile");
                return Ok((Vec::new(), false));
            }
            let left = usize::try_from(tiers.tries).unwrap_or(usize::MAX) > known.tries.len() + 1;
            let asks_again = ended.as_ref().is_ok_and(|verdict| *verdict == Verdict::Inconclusive)
                && tiers.inconclusive == Settles::Again
                && left;
            let event = if asks_again {
                Event::Tried { by: seat.by.clone(), why: "inconclusive".into(), anew: true }
            } else {
                event
            };
            let gated = matches!(event, Event::Gated { .. });
            let mut events = vec![(version, event)];
            if gated && self.args.gating.latest && version.branch == self.desk.production.branch {
                let older = self.desk.work(state).superseded.into_iter();
                let older = older.filter(|older| *older < version);
                events.extend(older.map(|older| (older, Event::Superseded { by: version })));
            }
            Ok((events, !gated && left))
        })?;
        match ended {
            Err(error) if code == INTERRUPTED => {
                return Err(CommandError::interrupted(error.first_line())
                    .hint("the same command goes on where this one ended"));
            }
            Ok(verdict) if verdict != Verdict::Infrastructure => {
                let production = self.desk.production;
                let advice = if tier == Tier::NextLongterm {
                    ", which is advice for the move to that branch and gates nothing"
                } else {
                    ""
                };
                let again = if open { "; it is gated again" } else { "" };
                anstream::println!("{version} beside {production}: {verdict}{advice}{again}");
            }
            _ => {
                let next =
                    if open { "is tried again the next time" } else { "was tried often enough" };
                anstream::println!("{version} has no verdict, and {next}");
            }
        }
        Ok(code)
    }
}

fn worse(a: u8, b: u8) -> u8 {
    let rank = |code: u8| WORSE.iter().position(|known| *known == code).unwrap_or(WORSE.len());
    if rank(a) < rank(b) { b } else { a }
}
