//! Host commands for the tests of crates that sit below `kgate-machine`.

use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use kgate_model::host::{Host, HostCommand, HostOutput};

/// No test reads more of a command's output.
const MAX_OUTPUT: u64 = 16 << 20;

/// Runs commands with the standard library alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct TestHost;

impl Host for TestHost {
    fn run(&self, command: &HostCommand) -> io::Result<HostOutput> {
        let mut start = Command::new(&command.program);
        start.args(&command.args).envs(command.env.iter().map(|(key, value)| (key, value)));
        start.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(dir) = &command.dir {
            start.current_dir(dir);
        }
        let mut child = start.spawn()?;
        let stdout = child.stdout.take().map(collect);
        let stderr = child.stderr.take().map(collect);
        let deadline = Instant::now() + command.timeout;
        let status = loop {
            match child.try_wait()? {
                Some(status) => break status,
                None if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
                None => {
                    child.kill()?;
                    child.wait()?;
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
        };
        let join = |reader: Option<thread::JoinHandle<Vec<u8>>>| {
            reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
        };
        Ok(HostOutput { code: status.code(), stdout: join(stdout), stderr: join(stderr) })
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What can't be read is missed by the test that needs it.
        let _ = pipe.by_ref().take(MAX_OUTPUT).read_to_end(&mut bytes);
        let _ = io::copy(&mut pipe, &mut io::sink());
        bytes
    })
}
