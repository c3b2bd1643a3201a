//! The `kgate` binary: one file per subcommand, errors, exit codes. Only here is anything printed,
//! the environment read and an exit code chosen.

mod args;
mod bisect;
mod boot;
mod cache;
mod context;
mod doctor;
mod error;
mod explain;
mod fleet;
mod foresight;
mod gate;
mod git;
mod guests;
mod host;
mod kernel;
mod klog;
mod lab;
mod lab_pool;
mod library;
mod logs;
mod manual;
mod prepare;
mod regression;
mod releases;
mod reports;
mod run;
mod scenario;
mod signals;
mod text;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};
use crate::context::Context;
use crate::error::CommandError;

fn main() -> ExitCode {
    let Cli { command, global } = Cli::parse();
    match dispatch(&Context::new(global), command) {
        Ok(code) => code,
        Err(error) => {
            anstream::eprintln!("kgate: {error}");
            error.exit_code()
        }
    }
}

fn dispatch(context: &Context, command: Command) -> Result<ExitCode, CommandError> {
    match command {
        Command::Run(args) => run::run(context, &args),
        Command::Gate(args) => gate::gate(context, &args),
        Command::Boot(args) => boot::boot(context, args),
        Command::Compare(args) => reports::compare(context, &args),
        Command::Report(args) => reports::report(context, &args),
        Command::Explain(args) => explain::command(context, &args),
        Command::Plan(args) => run::plan(context, &args),
        Command::Merge(args) => reports::merge(context, &args),
        Command::Bisect(args) => bisect::bisect(context, &args),
        Command::Klog(args) => klog::klog(context, &args),
        Command::Scenario(command) => scenario::scenario(command),
        Command::Kernel(command) => kernel::kernel(context, command),
        Command::Releases(args) => releases::releases(context, &args),
        Command::Lab(command) => lab::lab(context, command),
        Command::Cache(args) => cache::cache(context, &args),
        Command::Doctor => doctor::doctor(context),
        Command::Completions { shell } => manual::completions(shell),
        Command::Man { dir } => manual::pages(&dir),
    }
}

#[cfg(test)]
#[test]
#[ignore = "started by the local pool"]
fn local_agent() {
    kgate_testkit::local::serve();
}
