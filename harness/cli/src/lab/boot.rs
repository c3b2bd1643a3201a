//! `kgate lab boot`: one kernel on one host, once, and back to production.

use std::collections::BTreeMap;
use std::process::ExitCode;

use kgate_kernel::Kernel;
use kgate_lab::reservation::Lock;
use kgate_machine::{BootRequest, Pool};
use kgate_model::inventory::LabHost;
use kgate_model::outcome::Role;
use kgate_model::plan::MachineShape;
use kgate_runner::{Placement, make_plan};
use kgate_scenario::MachineSpec;
use tokio::sync::watch;

use super::{Lab, errand, pool, tell};
use crate::args::lab::LabBootArgs;
use crate::boot::{drive, interrupted, scenario};
use crate::context::Context;
use crate::error::{CommandError, HELD, INFRASTRUCTURE, PROMOTE, at};
use crate::guests::BASE;
use crate::library::Source;
use crate::prepare::Known;
use crate::signals::watch_signals_with_hosts;
use crate::text::{line, tail};

/// What reservations and journals call it.
const RUN: &str = "boot";

/// Runs the command.
pub(super) async fn boot(context: &Context, args: &LabBootArgs) -> Result<ExitCode, CommandError> {
    let (lab, state) = (Lab::load(&args.file)?, context.lab_state()?);
    let host = lab.host(&args.host)?;
    if let Some(holder) = Lock::holder(state, &host.name) {
        return Err(CommandError::held(format!("{} is in use by {}", host.name, line(&holder))));
    }
    let signals = watch_signals_with_hosts()?;
    let library = Source::new(&args.library)?;
    let kernel = context.kernel(&args.kernel)?;
    match &args.scenario {
        Some(id) => on_scenario(context, args, host, &library, kernel, id, signals).await,
        None => on_command(context, args, host, &library, kernel, signals).await,
    }
}

async fn on_command(
    context: &Context,
    args: &LabBootArgs,
    host: &LabHost,
    library: &Source,
    kernel: Kernel,
    mut signals: watch::Receiver<bool>,
) -> Result<ExitCode, CommandError> {
    let evidence = context.lab_state()?.join("evidence");
    std::fs::create_dir_all(&evidence).map_err(at(&evidence))?;
    let console = evidence.join(format!("{}.console", host.name));
    let release = kernel.release.clone();
    let kernels = BTreeMap::from([(Role::Candidate, kernel)]);
    let errand = errand(context, RUN, evidence, tell(context, [host]))?;
    let pool = pool(context, library, kernels, vec![host.clone()], [BASE], errand)?;
    let request = BootRequest {
        name: "kgate-boot".into(),
        role: Role::Candidate,
        host: Some(host.name.clone()),
        number: 1,
        image: BASE.into(),
        shape: MachineShape {
            kernel_args: scenario::words(&args.append),
            network: true,
            ..MachineShape::default()
        },
        alone: false,
        modules: Vec::new(),
        console: args.console.clone().unwrap_or(console),
        kernel_log: None,
        deadline: host.limits.boot,
    };
    let result = tokio::select! {
        result = tried(&pool, &request, args, &release) => result,
        _ = signals.wait_for(|&asked| asked) => Err(interrupted()),
    };
    // Whatever it came to, the host goes back.
    if matches!(&result, Err(error) if error.code() == interrupted().code()) {
        anstream::eprintln!(
            "kgate: bringing {} back to production; Ctrl-C again leaves that to `kgate lab recover`",
            host.name
        );
    }
    let words = pool.finish().await;
    for word in &words {
        anstream::eprintln!("kgate: {}", line(word));
    }
    match result {
        Ok(_) if !words.is_empty() => Ok(ExitCode::from(INFRASTRUCTURE)),
        result => result,
    }
}

/// Boots the kernel and runs the command on it.
async fn tried(
    pool: &kgate_lab::pool::Lab,
    request: &BootRequest,
    args: &LabBootArgs,
    release: &str,
) -> Result<ExitCode, CommandError> {
    let machine = pool.boot(request).await.map_err(|error| {
        let tail = tail(&error.tail, 12);
        let error = match pool.take_refusal() {
            Some(refusal) => CommandError::from(refusal).within(&args.host),
            None => error.into(),
        };
        match tail.is_empty() {
            // It was not even told to boot.
            true if error.code() == HELD => error,
            true => error.hint(format!("`kgate lab check {}` says what it lacks", args.host)),
            false => error.hint(format!("the console's end:\n{tail}")),
        }
    })?;
    anstream::eprintln!("kgate: {} runs {}", args.host, line(release));
    let result = match args.argv.as_slice() {
        [] => Ok(ExitCode::from(PROMOTE)),
        argv => drive(machine.as_ref(), Some(argv), args.timeout).await,
    };
    let console = machine.console().clone();
    machine.stop().await;
    for finding in console.findings(0) {
        anstream::eprintln!("kgate: kernel log: {}", line(&finding.title));
    }
    result
}

/// Runs a scenario as a run of its own that has only a candidate, which the host boots.
async fn on_scenario(
    context: &Context,
    args: &LabBootArgs,
    host: &LabHost,
    library: &Source,
    kernel: Kernel,
    id: &str,
    signals: watch::Receiver<bool>,
) -> Result<ExitCode, CommandError> {
    let found = scenario::find(library, id)?;
    let record = kernel.record();
    let kernels = BTreeMap::from([(Role::Candidate, kernel.clone()), (Role::Baseline, kernel)]);
    let machine =
        MachineSpec { kernel_args: scenario::words(&args.append), ..MachineSpec::default() };
    let inputs = scenario::inputs(machine, host.limits.boot, found);
    let place = Placement { hosts: vec![host.name.clone()], ..Placement::default() };
    let mut plan = make_plan(&inputs, record.clone(), record, &Known(&kernels), &place, 1);
    plan.boots.retain(|boot| boot.role == Role::Candidate);
    let errand =
        errand(context, RUN, context.lab_state()?.join("evidence"), tell(context, [host]))?;
    let images = plan.boots.iter().map(|boot| boot.image.as_str());
    let pool = pool(context, library, kernels, vec![host.clone()], images, errand)?;
    scenario::carry_out(context, id, args.console.as_deref(), plan, inputs, &pool, signals).await
}
