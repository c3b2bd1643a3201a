//! `kgate lab console`: a host's console on this terminal.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use kgate_lab::console::{Feed, Opening};
use tokio::io::AsyncReadExt;

use super::{Lab, secrets};
use crate::args::lab::ConsoleArgs;
use crate::boot::{RawTerminal, pass, read_stdin};
use crate::error::{CommandError, PROMOTE};
use crate::signals::watch_signals;
use crate::text::{clean, line};

/// The key that ends it: Ctrl-].
const ESCAPE: u8 = 0x1d;
/// The console is there within this time.
const CONNECT: Duration = Duration::from_secs(20);

/// Runs the command.
pub(super) async fn console(args: &ConsoleArgs) -> Result<ExitCode, CommandError> {
    let lab = Lab::load(&args.file)?;
    let host = lab.host(&args.host)?;
    let name = &host.name;
    let source = match (args.number.checked_sub(1), host.consoles.len()) {
        (_, 0) => {
            return Err(CommandError::usage(format!("{name} has no `console` in the inventory")));
        }
        (at, count) => at.and_then(|at| host.consoles.get(at)).ok_or_else(|| {
            CommandError::usage(format!("--number {}: {name} has {count}", args.number))
        })?,
    };
    let interactive = !args.follow;
    if interactive && !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        return Err(
            CommandError::usage("there is no terminal to type from").hint("--follow only reads")
        );
    }
    let (mut signals, secrets) = (watch_signals()?, secrets());
    let opening = Opening {
        host: name.clone(),
        address: host.ssh.address.clone(),
        source: source.clone(),
        file: args.log.clone(),
    };
    let feed = tokio::select! {
        feed = Feed::open(opening, &*secrets, CONNECT) => feed?,
        _ = signals.wait_for(|&asked| asked) => return Err(interrupted()),
    };
    let end = if interactive { "Ctrl-] ends it" } else { "Ctrl-C ends it" };
    anstream::eprintln!("kgate: the console of {name}; {end}");
    if interactive && !feed.state().borrow().writable {
        anstream::eprintln!("kgate: it can only be read");
    }
    let terminal = interactive.then(RawTerminal::new).transpose()?;
    let mut typed = interactive.then(read_stdin);
    let mut reader = feed.reader();
    let mut buffer = vec![0; 16 << 10];
    // The start of a line that is not whole yet.
    let mut rest = Vec::new();
    loop {
        tokio::select! {
            read = reader.read(&mut buffer) => {
                let read = read?;
                if read == 0 {
                    break;
                }
                if interactive {
                    // As with any other login: what a terminal obeys is what is wanted.
                    pass(&mut io::stdout(), &buffer[..read])?;
                } else {
                    rest.extend_from_slice(&buffer[..read]);
                    let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                    let whole = if rest.len() > 4096 { rest.len() } else { whole };
                    let shown: Vec<u8> = rest.drain(..whole).collect();
                    pass(&mut io::stdout(), &clean(&shown))?;
                }
            }
            Some(bytes) = next(&mut typed) => {
                let (keys, ends) = match bytes.iter().position(|byte| *byte == ESCAPE) {
                    Some(at) => (&bytes[..at], true),
                    None => (&bytes[..], bytes.is_empty()),
                };
                if !keys.is_empty() && let Err(error) = feed.write(keys).await {
                    let _ = write!(io::stderr(), "\r\n[kgate: {}]\r\n", line(&error.to_string()));
                }
                if ends {
                    break;
                }
            }
            _ = signals.wait_for(|&asked| asked) => {
                if interactive {
                    drop(terminal);
                    return Err(interrupted());
                }
                break;
            }
        }
    }
    drop(terminal);
    pass(&mut io::stdout(), &clean(&rest))?;
    feed.close().await;
    anstream::eprintln!("\nkgate: left the console of {name}");
    Ok(ExitCode::from(PROMOTE))
}

/// What is typed next; nothing ever where nobody types.
async fn next(typed: &mut Option<tokio::sync::mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match typed {
        Some(typed) => typed.recv().await,
        None => std::future::pending().await,
    }
}

fn interrupted() -> CommandError {
    CommandError::interrupted("interrupted")
}
