//! `kgate releases`: what releases there are, what they change, and what is to be done about them.

pub(crate) mod feeds;

use std::process::ExitCode;

use crate::args::releases::ReleasesArgs;
use crate::context::Context;
use crate::error::{CommandError, PROMOTE};

/// Runs the command.
pub(crate) fn releases(context: &Context, args: &ReleasesArgs) -> Result<ExitCode, CommandError> {
    match &args.command {
        Some(command) => match *command {},
        None => overview(context, args),
    }
}

fn overview(context: &Context, args: &ReleasesArgs) -> Result<ExitCode, CommandError> {
    let catalogue = feeds::catalogue(context, &args.feeds)?;
    let json = serde_json::to_string_pretty(&catalogue)
        .map_err(|error| CommandError::infrastructure(error.to_string()))?;
    anstream::println!("{json}");
    Ok(ExitCode::from(PROMOTE))
}
