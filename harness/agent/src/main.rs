//! `kgate-agent`: `/init` of a guest, or `kgate-agent --stdio` on a lab host.

use std::process::ExitCode;

use kgate_agent::Options;

const USAGE: &str =
    "usage: kgate-agent --stdio [--without-cgroups] [--base DIRECTORY [--image DEVICE]]";

fn main() -> ExitCode {
    if std::process::id() == 1 {
        kgate_agent::init();
    }
    let mut stdio = false;
    let mut options = Options::default();
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--stdio") => stdio = true,
            Some("--without-cgroups") => options.without_cgroups = true,
            Some("--base") => match arguments.next() {
                Some(directory) => options.base = Some(directory.into()),
                None => return usage(),
            },
            Some("--image") => {
                match arguments.next().and_then(|device| device.into_string().ok()) {
                    Some(device) => options.image = Some(device),
                    None => return usage(),
                }
            }
            _ => return usage(),
        }
    }
    if !stdio {
        return usage();
    }
    match kgate_agent::stdio(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => complain(&format!("kgate-agent: {why}"), 4),
    }
}

fn usage() -> ExitCode {
    complain(USAGE, 2)
}

#[expect(clippy::print_stderr, reason = "the only place a person who starts it by hand looks at")]
fn complain(text: &str, code: u8) -> ExitCode {
    eprintln!("{text}");
    ExitCode::from(code)
}
