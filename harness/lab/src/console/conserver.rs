//! Consoles of a conserver, by its own protocol (the page `PROTOCOL` of its sources).

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::stream::dial;
use super::{Failed, Heard, Link, Protocol};

/// Who we say that we are; a conserver may grant rights by it.
const USER: &str = "kgate";
/// A conserver sends a client on to the one that has the console, not more often than this.
const HOPS: usize = 5;
/// No answer is longer.
const ANSWER: u64 = 4096;
/// Before what is meant for the conserver itself.
const ESCAPE: &str = "\x05c";
/// Quotes itself.
const IAC: u8 = 255;

pub(super) async fn connect(server: &str, port: u16, console: &str) -> Result<Link, Failed> {
    let (mut server, mut port) = (server.to_owned(), port);
    for _ in 0..HOPS {
        let mut line = Line { stream: BufReader::new(dial(&server, port).await?) };
        line.expect_ok("greeted").await?;
        let said = line.ask(&format!("login {USER}\r\n")).await?;
        if said.starts_with("passwd?") {
            let why = "it asks for a password; let it trust the controller, or use `console` as a \
                command";
            return Err(Failed::mistake(format!("conserver {server}: {why}")));
        }
        if said != "ok" {
            return Err(Failed::now(format!("conserver {server}: {said}")));
        }
        let said = line.ask(&format!("call {console}\r\n")).await?;
        if let Some(other) = said.strip_prefix('@') {
            // The other one has the same port, as conservers of one group do.
            other.clone_into(&mut server);
        } else if let Ok(its) = said.parse() {
            port = its;
        } else if said.starts_with('[') {
            return line.attach(&said, &server).await;
        } else {
            return Err(Failed::mistake(format!("conserver {server}: {said}")));
        }
    }
    Err(Failed::mistake(format!("conserver {server}: sent on more than {HOPS} times")))
}

/// A connection on which lines are answered by lines.
struct Line {
    stream: BufReader<TcpStream>,
}

impl Line {
    async fn ask(&mut self, what: &str) -> Result<String, Failed> {
        let mut said = Vec::new();
        let asked = async {
            self.stream.write_all(what.as_bytes()).await?;
            (&mut self.stream).take(ANSWER).read_until(b'\n', &mut said).await
        };
        match asked.await {
            Ok(1..) => Ok(String::from_utf8_lossy(&said).trim_end().to_owned()),
            Ok(0) => Err(Failed::now("the conserver closed the connection".to_owned())),
            Err(error) => Err(Failed::now(format!("the conserver: {error}"))),
        }
    }

    async fn expect_ok(&mut self, when: &str) -> Result<(), Failed> {
        match self.ask("").await?.as_str() {
            "ok" => Ok(()),
            said => Err(Failed::now(format!("the conserver {when} with `{said}`"))),
        }
    }

    /// Asks for the state of the line, and then for all that comes on it.
    async fn attach(mut self, attached: &str, server: &str) -> Result<Link, Failed> {
        let state = self.ask(&format!("{ESCAPE}=")).await?;
        // Old ones don't know the question.
        if state != "[up]" && !state.starts_with("[unknown") {
            return Err(Failed::now(format!("conserver {server}: {state}")));
        }
        let connected = self.ask(&format!("{ESCAPE};")).await?;
        if connected != "[connected]" && !connected.starts_with("[unknown") {
            return Err(Failed::now(format!("conserver {server}: {connected}")));
        }
        let rest = self.stream.buffer().to_vec();
        let (input, output) = self.stream.into_inner().into_split();
        let link =
            Link::new(std::io::Cursor::new(rest).chain(input)).speaking(Conserver::default());
        // Others may only look on while somebody writes, and some may only look on.
        Ok(if attached == "[attached]" { link.writing(output) } else { link.keeping(output) })
    }
}

/// The stream of a console: only 0xff is quoted, and what is typed may not be taken for an escape.
#[derive(Default)]
struct Conserver {
    quoted: bool,
}

impl Protocol for Conserver {
    fn heard(&mut self, bytes: &[u8], heard: &mut Heard) {
        for &byte in bytes {
            if self.quoted {
                // Anything else after it is for a client that changes consoles.
                heard.text.extend((byte == IAC).then_some(IAC));
                self.quoted = false;
            } else if byte == IAC {
                self.quoted = true;
            } else {
                heard.text.push(byte);
            }
        }
    }

    fn typed(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut sent = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            match byte {
                IAC => sent.extend([IAC, IAC]),
                // The beginning of an escape, as an octal number.
                0x05 => sent.extend(format!("{ESCAPE}\\005").as_bytes()),
                _ => sent.push(byte),
            }
        }
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_is_told_and_what_is_typed_is_quoted() {
        let mut conserver = Conserver::default();
        let mut heard = Heard::default();
        conserver.heard(b"a\xff\xffb\xff", &mut heard);
        conserver.heard(b"\xffc\xffGd", &mut heard);
        assert_eq!(heard.text, b"a\xffb\xffcd");
        assert_eq!(conserver.typed(b"x\xff\x05cy"), b"x\xff\xff\x05c\\005cy");
    }
}
