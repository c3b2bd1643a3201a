//! What a bisection is made of, written down before anything is booted: the points between both ends, the
//! scenario, the failure.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};

use kgate_kernel::{Reference, apt};
use kgate_release::{Version, debian_order};
use kgate_runner::{Inputs, RunDir};
use kgate_scenario::Waivers;
use serde::{Deserialize, Serialize};

use super::failure::Symptom;
use super::git::Repository;
use crate::args::{BisectArgs, LibraryArgs, Subjects};
use crate::context::Context;
use crate::error::{CommandError, at};
use crate::library::Source as Library;
use crate::prepare;
use crate::releases::changes;
use crate::reports;
use crate::text::line;

/// Version of what is kept in the directory.
pub(crate) const FORMAT: u32 = 1;

/// One kernel to try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Point {
    /// A kernel reference, or a commit.
    pub(crate) id: String,
    /// A few characters for a person.
    pub(crate) name: String,
    /// Points that it came from directly, all before it.
    pub(crate) parents: Vec<usize>,
}

/// Where kernels come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Source {
    /// The point is a kernel reference.
    Releases,
    /// The point is a commit, to be built.
    Git(Repository),
}

/// All of it. The first point is the good end, the last one the bad end.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Setup {
    pub(crate) format: u32,
    pub(crate) source: Source,
    pub(crate) points: Vec<Point>,
    /// One scenario.
    pub(crate) inputs: Inputs,
    pub(crate) library: Option<PathBuf>,
    /// The failure, where a run told it.
    pub(crate) symptom: Option<Symptom>,
    /// The words of the user that choose one otherwise.
    pub(crate) wanted: Option<String>,
    pub(crate) confidence: f64,
    /// Boots of the bad end to begin with.
    pub(crate) boots: u32,
}

/// The ends as they are named.
struct Ends {
    good: Vec<String>,
    bad: Vec<String>,
}

impl Setup {
    pub(crate) fn new(context: &Context, args: &BisectArgs) -> Result<Self, CommandError> {
        let run = args.run.as_deref().map(RunDir::open).transpose()?;
        let (inputs, symptom) = match &run {
            Some(run) => {
                let symptom = symptom(context, run, args.failure.as_deref())?;
                (run.inputs().clone(), Some(symptom))
            }
            None => (named(args)?, None),
        };
        let inputs = one_scenario(inputs, symptom.as_ref())?;
        let ends = Ends::new(args, run.as_ref())?;
        let (source, points) = match args.over.split_once(':') {
            Some(("git", path)) => git(context, args, path, &ends)?,
            _ if args.build.is_some() => {
                return Err(CommandError::usage("--build is for --over git:REPO"));
            }
            Some(("apt", flavour)) if !flavour.is_empty() => {
                (Source::Releases, apt(context, flavour, &ends)?)
            }
            _ if ["apt", "apt:"].contains(&&*args.over) => {
                let flavour = ends.flavour().unwrap_or(apt::FLAVOUR);
                (Source::Releases, apt(context, flavour, &ends)?)
            }
            _ => (Source::Releases, directory(context, Path::new(&args.over), &ends)?),
        };
        let library = match &args.library.library {
            Some(path) => Some(Context::here()?.join(path)),
            None => None,
        };
        Ok(Self {
            format: FORMAT,
            source,
            points,
            inputs,
            library,
            symptom,
            wanted: args.failure.clone(),
            confidence: args.confidence / 100.0,
            boots: args.boots.unwrap_or(kgate_release::bisect::Sightings::FIRST),
        })
    }

    pub(crate) fn library(&self) -> Result<Library, CommandError> {
        Library::new(&LibraryArgs { library: self.library.clone() })
    }
}

/// The failure of a run that is meant.
fn symptom(context: &Context, run: &RunDir, wanted: Option<&str>) -> Result<Symptom, CommandError> {
    let (record, inputs) = (run.record()?, run.inputs());
    let assessment = reports::as_planned(context, &record, inputs);
    choose(Symptom::all(&record, &assessment), wanted)
        .map_err(|error| error.within(&run.path().display().to_string()))
}

/// The failure that a user means; without a word about it, the first.
pub(crate) fn choose(mut all: Vec<Symptom>, wanted: Option<&str>) -> Result<Symptom, CommandError> {
    let known: Vec<String> = all.iter().map(|symptom| line(&symptom.describe())).collect();
    if let Some(wanted) = wanted {
        all.retain(|symptom| symptom.is_named(wanted));
    }
    all.into_iter().next().ok_or_else(|| match (wanted, known.is_empty()) {
        (Some(wanted), false) => {
            CommandError::usage(format!("no failure of this run is `{}`", line(wanted)))
                .hint(format!("there are: {}", known.join("; ")))
        }
        _ => CommandError::usage("nothing failed on the candidate that could be bisected"),
    })
}

/// What `--scenario` and `--workload` name.
fn named(args: &BisectArgs) -> Result<Inputs, CommandError> {
    let Some(scenario) = &args.scenario else {
        return Err(CommandError::usage("nothing says what fails")
            .hint("name a run directory, or --good, --bad and --scenario"));
    };
    let subjects = Subjects {
        workload: args.workload.clone(),
        library: args.library.clone(),
        scenarios: vec![scenario.clone()],
        ..Subjects::default()
    };
    prepare::inputs(&Library::new(&args.library)?, &subjects)
}

/// Leaves one scenario: that of the failure, or any on which a boot can be tried.
fn one_scenario(mut inputs: Inputs, symptom: Option<&Symptom>) -> Result<Inputs, CommandError> {
    if let Some(scenario) = symptom.and_then(|symptom| symptom.scenario.as_ref()) {
        inputs.selected.retain(|one| one.scenario.id.as_str() == scenario);
    }
    inputs.selected.truncate(1);
    if inputs.selected.is_empty() {
        return Err(CommandError::usage("the run doesn't have the scenario that failed"));
    }
    // What is known and waived is what is searched for.
    inputs.waivers = Waivers::default();
    Ok(inputs)
}

impl Ends {
    fn new(args: &BisectArgs, run: Option<&RunDir>) -> Result<Self, CommandError> {
        let names = |given: &Option<String>, kernel: Option<&kgate_model::kernel::KernelRecord>| {
            given.clone().map(|name| vec![name]).or_else(|| {
                let kernel = kernel?;
                let names = [Some(&kernel.reference), kernel.upstream.as_ref()];
                Some(names.into_iter().flatten().cloned().collect())
            })
        };
        let good = names(&args.good, run.map(|run| &run.plan().baseline));
        let bad = names(&args.bad, run.map(|run| &run.plan().candidate));
        let (Some(good), Some(bad)) = (good, bad) else {
            return Err(CommandError::usage("both ends are needed: --good and --bad"));
        };
        Ok(Self { good, bad })
    }

    /// The flavour of Debian's package that an end names.
    fn flavour(&self) -> Option<&str> {
        let package = self.good.iter().chain(&self.bad).find_map(|name| name.strip_prefix("apt:"));
        let name = package?.split('=').next()?;
        ["cloud-amd64", "rt-amd64", "amd64"].into_iter().find(|flavour| name.ends_with(flavour))
    }
}

/// A release before it is a point.
struct Release {
    reference: String,
    name: String,
    upstream: String,
}

fn apt(context: &Context, flavour: &str, ends: &Ends) -> Result<Vec<Point>, CommandError> {
    let kernels = apt::kernels(&context.host, flavour)?.into_iter();
    let releases = kernels.map(|kernel| Release {
        reference: kernel.reference(),
        name: kernel.version,
        upstream: kernel.upstream,
    });
    line_of(releases.collect(), ends, &format!("apt offers of flavour {flavour}"))
}

/// All kernels in a directory, by version.
fn directory(context: &Context, dir: &Path, ends: &Ends) -> Result<Vec<Point>, CommandError> {
    let here = Context::here()?;
    let mut releases = Vec::new();
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        let path = entry.map_err(at(dir))?.path();
        let Some(text) = path.to_str() else { continue };
        // What is no kernel may lie beside kernels.
        let Ok(kernel) = context.kernel(text) else { continue };
        let record = kernel.record();
        let Some(upstream) = record.upstream else { continue };
        let package = kernel.origin.packages.first().map(|package| package.version.clone());
        let reference = Reference::parse(text)?.seen_from(&here).to_string();
        releases.push(Release { reference, name: package.unwrap_or(record.release), upstream });
    }
    releases.sort_by(by_version);
    line_of(releases, ends, &format!("{} has", dir.display()))
}

/// Upstream's order, then the distribution's.
fn by_version(a: &Release, b: &Release) -> Ordering {
    let upstream = |one: &Release| one.upstream.parse::<Version>().ok();
    let order = upstream(a).cmp(&upstream(b)).then_with(|| debian_order(&a.name, &b.name));
    order.then_with(|| a.reference.cmp(&b.reference))
}

/// The releases from the good end to the bad one. Of branches between theirs only the first, because
/// later ones have what came after.
fn line_of(releases: Vec<Release>, ends: &Ends, who: &str) -> Result<Vec<Point>, CommandError> {
    let here = Context::here()?;
    let is = |release: &Release, names: &[String]| {
        let seen = |name: &String| Reference::parse(name).map(|r| r.seen_from(&here).to_string());
        let reference = |name: &String| {
            release.reference == *name || seen(name).is_ok_and(|name| name == release.reference)
        };
        names.iter().any(reference)
            || names.contains(&release.name)
            || names.contains(&release.upstream)
    };
    let missing = |which: &str, names: &[String]| {
        let offered: Vec<_> = releases.iter().map(|release| line(&release.name)).collect();
        let first = names.first().map_or("", String::as_str);
        CommandError::usage(format!("the {which} end, {}, is not what {who}", line(first)))
            .hint(format!("there are: {}", offered.join(", ")))
    };
    let exact = |names: &[String]| {
        names.iter().find_map(|name| releases.iter().position(|one| one.reference == *name))
    };
    let good = exact(&ends.good).or_else(|| releases.iter().position(|one| is(one, &ends.good)));
    let bad = exact(&ends.bad).or_else(|| releases.iter().rposition(|one| is(one, &ends.bad)));
    let good = good.ok_or_else(|| missing("good", &ends.good))?;
    let bad = bad.ok_or_else(|| missing("bad", &ends.bad))?;
    if good >= bad {
        return Err(CommandError::usage(format!(
            "the good end, {}, does not come before the bad one, {}",
            line(&releases[good].name),
            line(&releases[bad].name)
        )));
    }
    let branch = |at: usize| releases[at].upstream.parse::<Version>().ok().map(|v| v.branch);
    let mut points: Vec<Point> = Vec::new();
    let mut last = None;
    for (at, release) in releases.iter().enumerate().take(bad + 1).skip(good) {
        let first = branch(at) != last;
        last = branch(at);
        let between = first && last != branch(good);
        if at == good || last == branch(bad) || between {
            let parents = points.len().checked_sub(1).into_iter().collect();
            let Release { reference, name, .. } = release;
            points.push(Point { id: reference.clone(), name: name.clone(), parents });
        }
    }
    Ok(points)
}

fn git(
    context: &Context,
    args: &BisectArgs,
    path: &str,
    ends: &Ends,
) -> Result<(Source, Vec<Point>), CommandError> {
    let Some(build) = args.build.clone() else {
        return Err(CommandError::usage("a commit has to be built: --build COMMAND is missing")
            .hint(
                "such as --build 'cp ../config .config && make -j8 olddefconfig bzImage modules'",
            ));
    };
    let path = Context::here()?.join(path);
    let timeout_s = args.build_timeout * 60;
    changes::git(&context.host, &path, &["rev-parse", "--git-dir"])?;
    let repository = Repository { path, build, timeout_s };
    let commit = |names: &[String]| {
        let tags = names.iter().map(|name| format!("v{name}"));
        let all: Vec<String> = names.iter().cloned().chain(tags).collect();
        let found = all.iter().find_map(|name| repository.commit(&context.host, name));
        found.ok_or_else(|| {
            let name = names.last().map_or("", String::as_str);
            CommandError::usage(format!(
                "{} has no commit {}",
                repository.path.display(),
                line(name)
            ))
            .hint("name both ends with --good and --bad")
        })
    };
    let (good, bad) = (commit(&ends.good)?, commit(&ends.bad)?);
    let points = repository.between(&context.host, &good, &bad)?;
    Ok((Source::Git(repository), points))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_of_a_directory_are_in_the_order_of_their_versions() {
        let names = ["6.1.9-1", "6.1.10-1~bpo11+1", "6.1.10-1", "6.1.10-1+b1", "6.12.1-1"];
        let release = |name: &&str| {
            let upstream = name.split('-').next().unwrap().to_owned();
            Release { reference: (*name).to_owned(), name: (*name).to_owned(), upstream }
        };
        let mut releases: Vec<Release> = names.iter().rev().map(release).collect();
        releases.sort_by(by_version);
        let sorted: Vec<&str> = releases.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(sorted, names);
    }
}
