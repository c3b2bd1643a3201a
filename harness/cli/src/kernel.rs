//! `kgate kernel`: what a reference stands for, and what apt offers.

use std::process::ExitCode;

use kgate_kernel::apt;

use crate::args::KernelCommand;
use crate::context::Context;
use crate::error::{CommandError, PROMOTE};

/// Runs the command.
pub(crate) fn kernel(context: &Context, command: KernelCommand) -> Result<ExitCode, CommandError> {
    match command {
        KernelCommand::Show { kernel, json } => show(context, &kernel, json)?,
        KernelCommand::List { flavour, pair } => list(context, &flavour, pair)?,
    }
    Ok(ExitCode::from(PROMOTE))
}

fn show(context: &Context, reference: &str, json: bool) -> Result<(), CommandError> {
    let kernel = context.kernel(reference)?;
    let record = kernel.record();
    if json {
        let text = serde_json::to_string_pretty(&record)?;
        anstream::println!("{text}");
        return Ok(());
    }
    let config = match &kernel.config {
        Some(config) => format!("{} options", config.len()),
        None => "none".into(),
    };
    let rows = [
        ("release", record.release.clone()),
        ("upstream", record.upstream.clone().unwrap_or_else(|| "unknown".into())),
        ("banner", record.banner.clone()),
        ("origin", record.origin.clone()),
        ("image", kernel.image.display().to_string()),
        ("sha256", record.image_sha256.clone()),
        ("modules", kernel.modules.len().to_string()),
        ("config", config),
    ];
    for (name, value) in rows {
        anstream::println!("{name:<10}{}", crate::text::line(&value));
    }
    Ok(())
}

fn list(context: &Context, flavour: &str, pair: bool) -> Result<(), CommandError> {
    let kernels = apt::kernels(&context.host, flavour)?;
    if pair {
        let (older, newer) = apt::pair(&kernels).ok_or_else(|| {
            CommandError::infrastructure(format!(
                "apt offers no two releases of one branch of flavour `{flavour}`"
            ))
            .hint("Debian's flavours are cloud-amd64, amd64 and rt-amd64; `apt-get update` refreshes what apt knows")
        })?;
        anstream::println!("{}\n{}", older.reference(), newer.reference());
        return Ok(());
    }
    for kernel in kernels {
        anstream::println!("{:<12}{}", kernel.upstream, kernel.reference());
    }
    Ok(())
}
