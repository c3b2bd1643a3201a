//! `kgate lab recover`: hosts that a kgate left go back to production.

use std::process::ExitCode;

use futures::future::join_all;
use kgate_lab::journal::{self, Step};
use kgate_lab::recover::{Recovered, recover as bring_back};
use kgate_model::inventory::LabHost;

use super::{Lab, errand, tell};
use crate::args::lab::RecoverArgs;
use crate::context::Context;
use crate::error::{CommandError, PROMOTE};
use crate::signals::watch_signals;
use crate::text::line;

/// Runs the command.
pub(super) async fn recover(
    context: &Context,
    args: &RecoverArgs,
) -> Result<ExitCode, CommandError> {
    let (lab, state) = (Lab::load(&args.file)?, context.lab_state()?);
    let mut hosts = lab.select(&args.hosts)?;
    if args.hosts.is_empty() {
        // A journal that can't be read is not known to leave nothing.
        let left =
            |host: &LabHost| journal::left(state, &host.name).map_or(true, |left| left.anything());
        hosts.retain(|host| left(host));
    }
    if hosts.is_empty() {
        anstream::println!("no host was left");
        return Ok(ExitCode::from(PROMOTE));
    }
    let mut signals = watch_signals()?;
    let errand =
        errand(context, "recover", state.join("evidence"), tell(context, hosts.iter().copied()))?;
    for host in &hosts {
        if let Ok(left) = journal::left(state, &host.name)
            && left.anything()
        {
            let left = line(&left.describe());
            anstream::eprintln!("kgate: {}: it was left: {left}; bringing it back", host.name);
        }
    }
    let all = join_all(hosts.iter().map(async |host| {
        let recovered = bring_back(host, &errand, args.steal).await;
        told(host, recovered.map_err(CommandError::from))
    }));
    let codes = tokio::select! {
        codes = all => codes,
        _ = signals.wait_for(|&asked| asked) => {
            return Err(CommandError::interrupted("interrupted")
                .hint("what is still to be done is in the journals: the same command goes on"));
        }
    };
    Ok(ExitCode::from(codes.into_iter().max().unwrap_or(PROMOTE)))
}

/// Says what became of a host; the code of that.
fn told(host: &LabHost, recovered: Result<Recovered, CommandError>) -> u8 {
    let name = &host.name;
    match recovered {
        Ok(Recovered::Nothing) => anstream::println!("{name} is on production; nothing was left"),
        Ok(Recovered::Back(steps)) => {
            let done: Vec<&str> = steps.iter().map(|step| done(*step)).collect();
            anstream::println!("{name} is on production: {}", done.join(", "));
        }
        Err(error) => {
            anstream::eprintln!("kgate: {name}: {}", line(&error.first_line()));
            return error.code();
        }
    }
    PROMOTE
}

const fn done(step: Step) -> &'static str {
    match step {
        Step::Return => "brought back",
        Step::Unstage => "staged kernels removed",
        Step::Undrain => "put back into production",
        Step::Release => "released",
    }
}
