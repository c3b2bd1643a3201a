//! Runs the built `kgate` and writes down everything that a user sees of it.

use std::path::Path;
use std::process::{Command, Stdio};

/// `kgate` in `dir`, with a small environment that is the same everywhere.
pub(crate) fn kgate(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kgate"));
    command.current_dir(dir).env_clear().stdin(Stdio::null());
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

/// Runs it to its end: exit code, standard output, standard error.
pub(crate) fn run(command: &mut Command) -> (i32, String, String) {
    let output = command.output().expect("the built kgate starts");
    let text = |bytes| String::from_utf8(bytes).expect("kgate prints UTF-8");
    let code = output.status.code().expect("kgate exits by itself");
    (code, text(output.stdout), text(output.stderr))
}
