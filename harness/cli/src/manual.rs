//! `kgate completions` and `kgate man`: made from the command line's own definition.

use std::path::Path;
use std::process::ExitCode;
use std::{fs, io};

use clap::CommandFactory;

use crate::args::Cli;
use crate::error::{CommandError, PROMOTE, at};

/// Prints completions.
pub(crate) fn completions(shell: clap_complete::Shell) -> Result<ExitCode, CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "kgate", &mut script);
    match io::Write::write_all(&mut io::stdout(), &script) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::from(PROMOTE)),
    }
}

/// Writes one page per command.
pub(crate) fn pages(dir: &Path) -> Result<ExitCode, CommandError> {
    fs::create_dir_all(dir).map_err(at(dir))?;
    clap_mangen::generate_to(Cli::command(), dir).map_err(at(dir))?;
    Ok(ExitCode::from(PROMOTE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
