//! QEMU's control socket, as far as a chassis needs it.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// QEMU answers at once, or is dead.
const ANSWERS_WITHIN: Duration = Duration::from_secs(20);

/// One control connection.
pub(super) struct Qmp(BufReader<UnixStream>);

impl Qmp {
    /// Connects and leaves the negotiation behind.
    pub(super) fn connect(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
        let mut qmp = Self(BufReader::new(stream));
        qmp.read()?;
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Carries out one command and returns its answer; events before it are passed over.
    pub(super) fn execute(&mut self, command: &str, arguments: Value) -> io::Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        self.0.get_mut().write_all(format!("{request}\n").as_bytes())?;
        loop {
            let mut answer = self.read()?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                return Err(io::Error::other(format!("{command}: {error}")));
            }
        }
    }

    /// Waits for the next event, however long, and returns its name.
    pub(super) fn event(&mut self) -> io::Result<String> {
        self.0.get_ref().set_read_timeout(None)?;
        loop {
            let message = self.read()?;
            if let Some(name) = message.get("event").and_then(Value::as_str) {
                return Ok(name.to_owned());
            }
        }
    }

    fn read(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        serde_json::from_str(&line).map_err(io::Error::other)
    }
}
