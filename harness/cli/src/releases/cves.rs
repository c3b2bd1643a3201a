//! `kgate releases cves`: which CVEs two kernels differ in. Information, never a gate: nothing here
//! picks an exit code.

mod built;
mod table;
mod text;
mod update;

use std::collections::BTreeMap;
use std::process::ExitCode;

use jiff::civil::Date;
use kgate_release::cve::{Cve, CveDelta, DeltaContext, Severity, Table};
use kgate_release::words::grouped;
use kgate_release::{Branch, Catalogue, Fixes, Subsystem, Version};
use serde_json::{Value, json};

use super::delta::touches;
use super::feeds;
use super::subject::{Subject, subject};
use crate::args::cves::{CvesArgs, CvesCommand};
use crate::args::releases::ReportFormat;
use crate::context::Context;
use crate::error::{CommandError, PROMOTE};

use built::Built;

const SCHEMA: &str = "kgate-cves/1";

/// What the records say of two kernels, and what has to be known to read it.
pub(crate) struct CvePart {
    pub(crate) delta: CveDelta,
    /// Of what the table is made.
    described: String,
    /// What a reader must know first.
    pub(crate) notes: Vec<String>,
    /// How it is known what the kernel has.
    basis: String,
    age: i32,
}

/// Runs the command.
pub(crate) fn cves(context: &Context, args: &CvesArgs) -> Result<ExitCode, CommandError> {
    match (&args.command, &args.from, &args.to) {
        (Some(CvesCommand::Update(args)), _, _) => update::update(context, args)?,
        (None, Some(from), Some(to)) => compare(context, args, from, to)?,
        _ => state(context, args.format)?,
    }
    Ok(ExitCode::from(PROMOTE))
}

/// How many CVEs a step to a later release fixes, in words; `None` where no records were read.
pub(crate) fn fixed_in_words(context: &Context, from: Version, to: Version) -> Option<String> {
    let table = table::read(context).ok()??;
    let fixed = |cve: &&Cve| cve.affects(&from) == Some(true) && cve.affects(&to) == Some(false);
    let count = table.cves.iter().filter(fixed).count() as u64;
    let date = table.snapshot.date;
    Some(format!("fixes of {} CVEs (by the records of {date})", grouped(count)))
}

fn state(context: &Context, format: ReportFormat) -> Result<(), CommandError> {
    let table = table::needed(context)?;
    let (today, old) = (context.today(), table::old(&table, context.today()));
    if format == ReportFormat::Json {
        let counts: BTreeMap<String, usize> = Severity::ALL
            .iter()
            .map(|s| (s.to_string(), table.cves.iter().filter(|c| c.severity() == *s).count()))
            .collect();
        let value = json!({
            "schema": SCHEMA,
            "snapshot": table.snapshot,
            "age_days": table.snapshot.age(today),
            "old": old.is_some(),
            "records": table.cves.len(),
            "rejected": table.rejected,
            "broken": table.broken,
            "by_severity": counts,
        });
        anstream::println!("{value:#}");
        return Ok(());
    }
    anstream::println!("{}", table::described(&table));
    let fetched = table.snapshot.fetched;
    anstream::println!("{} days old, read {fetched:.0}", table.snapshot.age(today));
    if let Some(old) = old {
        anstream::println!("{old}");
    }
    Ok(())
}

fn compare(context: &Context, args: &CvesArgs, from: &str, to: &str) -> Result<(), CommandError> {
    let table = table::needed(context)?;
    let (mut from, mut to) = (subject(context, from)?, subject(context, to)?);
    let catalogue = match args.feeds.feed.as_slice() {
        [] => Catalogue::new(context.today()),
        _ => feeds::catalogue(context, &args.feeds)?,
    };
    from.look_up(&catalogue);
    to.look_up(&catalogue);
    let workload = match &args.workload {
        Some(name) => touches(name, &args.library)?.1,
        None => Vec::new(),
    };
    let built = Built::new(to.kernel.as_ref(), args.source.as_deref())?;
    match (part(&table, &from, &to, &catalogue, &workload, &built), args.format) {
        (Ok(part), ReportFormat::Json) => anstream::println!("{:#}", part.json()?),
        (Ok(part), ReportFormat::Text) => anstream::print!("{}", part.text(args.list)),
        (Err(why), ReportFormat::Json) => {
            anstream::println!("{:#}", json!({ "schema": SCHEMA, "untold": why }));
        }
        (Err(why), ReportFormat::Text) => anstream::println!("{}", kgate_report::clean(&why)),
    }
    Ok(())
}

/// The part of a delta that is about CVEs, or why it can't be told; `None` when no records were read
/// yet.
///
/// # Errors
/// When the table or what is known of the new kernel can't be read.
pub(crate) fn delta(
    context: &Context,
    from: &Subject,
    to: &Subject,
    workload: &[Subsystem],
) -> Result<Option<Result<CvePart, String>>, CommandError> {
    let Some(table) = table::read(context)? else { return Ok(None) };
    let built = Built::new(to.kernel.as_ref(), None)?;
    let catalogue = Catalogue::new(context.today());
    Ok(Some(part(&table, from, to, &catalogue, workload, &built)))
}

/// How many CVEs the bug-fix releases of a branch fixed.
pub(crate) struct Fixed {
    branch: Branch,
    snapshot: Date,
    counts: BTreeMap<Version, usize>,
}

impl Fixed {
    /// How many a release fixed; `None` for those that came after the records.
    pub(crate) fn of(&self, release: &Version) -> Option<u64> {
        let last = self.counts.keys().next_back()?;
        let count = self.counts.get(release).copied().unwrap_or_default();
        (release <= last).then_some(count as u64)
    }

    /// By which records.
    pub(crate) fn note(&self) -> String {
        let until = match self.counts.keys().next_back() {
            Some(last) => format!("the last release of {} that they know is {last}", self.branch),
            None => format!("they know no release of {}", self.branch),
        };
        format!("the CVE records are of {}; {until}", self.snapshot)
    }
}

/// How many CVEs each bug-fix release of a branch fixed; `None` when no records were read yet.
///
/// # Errors
/// When the table can't be read.
pub(crate) fn fixed_by_release(
    context: &Context,
    branch: Branch,
) -> Result<Option<Fixed>, CommandError> {
    let Some(table) = table::read(context)? else { return Ok(None) };
    let counts = table.fixed_by_release(branch).into_iter().map(|(v, cves)| (v, cves.len()));
    Ok(Some(Fixed { branch, snapshot: table.snapshot.date, counts: counts.collect() }))
}

/// What the records say, or why they say nothing.
fn part(
    table: &Table,
    from: &Subject,
    to: &Subject,
    catalogue: &Catalogue,
    workload: &[Subsystem],
    built: &Built,
) -> Result<CvePart, String> {
    let (before, after) = (counted(from)?, counted(to)?);
    let delta_context =
        DeltaContext { catalogue, workload, absent: &|files| built.files.absence(files) };
    let delta = CveDelta::new(table, before, after, &delta_context);
    let mut notes: Vec<String> = table::old(table, catalogue.today).into_iter().collect();
    notes.extend([from, to].into_iter().filter_map(note));
    let last = table.fixed_by_release(after.branch).into_keys().next_back();
    if let Some(last) = last.filter(|last| *last < after) {
        notes.push(format!(
            "no record names a release of {} after {last}: what {after} fixed beyond that counts as open",
            after.branch
        ));
    }
    notes.extend(built.note(&after));
    Ok(CvePart {
        delta,
        described: table::described(table),
        notes,
        basis: built.basis.clone(),
        age: table.snapshot.age(catalogue.today),
    })
}

/// The upstream release that a kernel is judged by, or why there is none.
fn counted(subject: &Subject) -> Result<Version, String> {
    let meaning = &subject.version;
    let branch = meaning.branch.map_or_else(|| "upstream".to_owned(), |branch| branch.to_string());
    meaning.counts_as().ok_or_else(|| match meaning.fixes {
        Fixes::Vendor => format!(
            "which CVEs {} has can't be told: its maker picks fixes by hand, so that the records' ranges \
             of releases of {branch} say nothing of it; its maker's own advisories do",
            meaning.text
        ),
        _ => format!(
            "which CVEs {} has can't be told: the name doesn't say which release of {branch} is in it; \
             the version of its package does, or its package",
            meaning.text
        ),
    })
}

/// What limits what can be said of a kernel.
fn note(subject: &Subject) -> Option<String> {
    let meaning = &subject.version;
    let (text, version) = (&meaning.text, meaning.upstream?);
    if version.candidate.is_some() {
        return Some(format!(
            "{text} is a release candidate, which records don't name: it counts as open what either it \
             or the release that it leads to is affected by"
        ));
    }
    (meaning.fixes == Fixes::Unknown).then(|| {
        format!("who made {text} isn't known: it is taken for {version}, without fixes of its own")
    })
}

impl CvePart {
    /// For other programs.
    ///
    /// # Errors
    /// None that can happen.
    pub(crate) fn json(&self) -> Result<Value, CommandError> {
        let delta = serde_json::to_value(&self.delta)?;
        let mut value = json!({
            "schema": SCHEMA,
            "age_days": self.age,
            "notes": self.notes,
            "apart_basis": self.basis,
        });
        if let (Value::Object(all), Value::Object(delta)) = (&mut value, delta) {
            all.extend(delta);
        }
        Ok(value)
    }

    /// The same without the CVEs themselves.
    pub(crate) fn summary_json(&self) -> Value {
        // What `json` gives is an object of which all can be told.
        let mut value = self.json().unwrap_or_default();
        for part in ["fixed", "newly_exposed", "still_open"] {
            if let Some(Value::Object(part)) = value.get_mut(part) {
                part.remove("cves");
            }
        }
        value
    }
}
