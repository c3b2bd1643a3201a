//! `kgate releases`: what releases there are, what they change, and what is to be done about them.

pub(crate) mod changes;
pub(crate) mod cves;
pub(crate) mod delta;
pub(crate) mod feeds;
pub(crate) mod new;
mod overview;
pub(crate) mod state;
pub(crate) mod subject;
mod waiting;

use std::process::ExitCode;

use self::overview::Overview;
use self::subject::subject;
use crate::args::releases::{ReleasesArgs, ReleasesCommand, ReportFormat};
use crate::context::Context;
use crate::error::{CommandError, PROMOTE};

/// Runs the command.
pub(crate) fn releases(context: &Context, args: &ReleasesArgs) -> Result<ExitCode, CommandError> {
    match &args.command {
        Some(ReleasesCommand::New(args)) => new::new(context, args),
        Some(ReleasesCommand::Delta(args)) => delta::delta(context, args),
        Some(ReleasesCommand::Waiting(args)) => waiting::waiting(context, args),
        Some(ReleasesCommand::Cves(args)) => cves::cves(context, args),
        None => overview(context, args),
    }
}

fn overview(context: &Context, args: &ReleasesArgs) -> Result<ExitCode, CommandError> {
    let production = args.production.as_deref();
    let mut production = production.map(|text| subject(context, text)).transpose()?;
    let catalogue = feeds::catalogue(context, &args.feeds)?;
    if let Some(production) = &mut production {
        production.look_up(&catalogue);
    }
    let overview = Overview::new(&catalogue, production.as_ref());
    let text = match args.format {
        ReportFormat::Text => overview.text(),
        ReportFormat::Json => serde_json::to_string_pretty(&overview)?,
    };
    anstream::println!("{text}");
    Ok(ExitCode::from(PROMOTE))
}
