//! `kgate scenario`: look at scenarios and check them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kgate_scenario::{Library, Mistakes, Workload};

use crate::args::ScenarioCommand;
use crate::error::{CommandError, PROMOTE};
use crate::library::{Source, read};

/// Runs the command.
pub(crate) fn scenario(command: ScenarioCommand) -> Result<ExitCode, CommandError> {
    match command {
        ScenarioCommand::List { library, workload } => {
            list(&Source::new(&library)?, workload.as_deref())?;
        }
        ScenarioCommand::Check { library, files } => check(&Source::new(&library)?, &files)?,
    }
    Ok(ExitCode::from(PROMOTE))
}

fn list(source: &Source, workload: Option<&str>) -> Result<(), CommandError> {
    let library = source.scenarios()?;
    let selected = match workload {
        Some(name) => library.select(&source.workload(name, &library)?),
        None => Vec::new(),
    };
    let scenarios: Vec<_> = match workload {
        Some(_) => selected.iter().map(|s| &s.scenario).collect(),
        None => library.iter().collect(),
    };
    let width = scenarios.iter().map(|s| s.id.as_str().len()).max().unwrap_or_default();
    for scenario in scenarios {
        anstream::println!("{:<width$}  {}", scenario.id.as_str(), scenario.summary);
    }
    Ok(())
}

/// Checks the files, or everything. All mistakes of all files are told, not only the first.
fn check(source: &Source, files: &[PathBuf]) -> Result<(), CommandError> {
    let mut mistakes = Vec::new();
    let mut note = |result: Result<(), Mistakes>| {
        if let Err(Mistakes(more)) = result {
            mistakes.extend(more);
        }
    };
    let (mut scenarios, mut workloads) = (0, 0);
    if files.is_empty() {
        let library = source.scenarios()?;
        scenarios = library.iter().count();
        source.check_images(library.iter())?;
        for (path, text) in source.profiles()? {
            workloads += 1;
            note(Workload::load(&path, &text, &library).map(drop));
        }
    } else {
        let mut library = None;
        for path in files {
            let text = read(path)?;
            if is_scenario(path) {
                scenarios += 1;
                note(Library::load([(path.clone(), text)]).map(drop));
            } else {
                workloads += 1;
                let library = match &library {
                    Some(known) => known,
                    None => library.insert(source.scenarios()?),
                };
                note(Workload::load(path, &text, library).map(drop));
            }
        }
    }
    if !mistakes.is_empty() {
        return Err(Mistakes(mistakes).into());
    }
    anstream::println!("{scenarios} scenarios and {workloads} workloads are valid");
    Ok(())
}

/// A scenario lies below a directory `scenarios`; everything else is taken for a workload.
fn is_scenario(path: &Path) -> bool {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.components().any(|part| part.as_os_str() == "scenarios")
}
