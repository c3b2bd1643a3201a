//! `kgate-agent`: `/init` of a guest; `kgate-agent --stdio` and `kgate-agent --guard` on a lab host.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use kgate_agent::Options;

const USAGE: &str =
    "usage: kgate-agent --stdio [--without-cgroups] [--base DIRECTORY [--image DEVICE]]
       kgate-agent --guard SECONDS [--root DIRECTORY]";

fn main() -> ExitCode {
    if std::process::id() == 1 {
        kgate_agent::init();
    }
    let mut stdio = false;
    let mut options = Options::default();
    let mut guard = None;
    let mut root = None;
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
            Some("--guard") => match arguments.next().and_then(|n| n.to_str()?.parse().ok()) {
                Some(seconds) => guard = Some(Duration::from_secs(seconds)),
                None => return usage(),
            },
            Some("--root") => root = arguments.next().map(PathBuf::from),
            _ => return usage(),
        }
    }
    let ended = match (stdio, guard) {
        (true, None) => kgate_agent::stdio(options).map_err(|why| why.to_string()),
        (false, Some(limit)) => match kgate_agent::guard(limit, root.as_deref()) {
            Ok(never) => match never {},
            Err(why) => Err(format!("can't guard: {why}")),
        },
        _ => return usage(),
    };
    match ended {
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
