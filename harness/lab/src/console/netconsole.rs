//! Consoles that a host's kernel sends over UDP, and what makes it send them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::{UdpSocket, lookup_host};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::{Failed, Heard, Link, Protocol};
use crate::ssh::quote;

/// Datagrams that wait for a feed, at most.
const WAITING: usize = 4096;
/// No datagram of a netconsole is longer.
const DATAGRAM: usize = 2048;
/// No record of the kernel's log is longer (`CONSOLE_EXT_LOG_MAX`).
const RECORD: usize = 8192;

/// What makes a host's kernel send its console to the controller: a script for the host's shell, as root.
/// It may be run again. Its only line of output is the parameter that does the same when the module is
/// loaded (`netconsole=…`), for a kernel that boots.
///
/// The extended format is asked for: it has sequence numbers, so that gaps show.
pub fn setup(controller: &str, port: u16, device: &str) -> String {
    let variables = [("to", controller), ("port", &port.to_string()), ("dev", device)]
        .map(|(name, value)| format!("{name}={}\n", quote(value)));
    format!("{}{}", variables.concat(), include_str!("netconsole.sh"))
}

/// What ends that: a script for the host's shell. Nothing to end is no error.
pub const TEARDOWN: &str = "t=/sys/kernel/config/netconsole/kgate\n\
    if [ -d $t ]; then echo 0 >$t/enabled; rmdir $t; fi\n";

/// Listens for the datagrams of a host.
pub(super) async fn connect(port: u16, controller: &str, host: &str) -> Result<Link, Failed> {
    let found = lookup_host((host, 0)).await;
    let found = found.map_err(|error| Failed::now(format!("{host}: {error}")))?;
    let from: Vec<IpAddr> = found.map(|address| address.ip().to_canonical()).collect();
    let ours = match controller.parse() {
        Ok(IpAddr::V6(_)) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    let listener = Listener::on(ours, port)
        .map_err(|error| Failed::now(format!("UDP port {port}: {error}")))?;
    let (sender, datagrams) = mpsc::channel(WAITING);
    listener.routes().push((from, sender));
    let input = Datagrams { datagrams, _listener: listener };
    Ok(Link::new(input).speaking(Netconsole::default()).by_datagrams())
}

/// Who gets what comes from where.
type Routes = Vec<(Vec<IpAddr>, mpsc::Sender<Vec<u8>>)>;

/// A port that several hosts send to.
struct Listener {
    routes: Arc<Mutex<Routes>>,
    task: AbortHandle,
}

thread_local! {
    /// Those of this thread's runtime.
    static LISTENERS: RefCell<BTreeMap<(IpAddr, u16), Weak<Listener>>> = RefCell::default();
}

impl Listener {
    /// The one that there is, or a new one.
    fn on(address: IpAddr, port: u16) -> io::Result<Arc<Self>> {
        LISTENERS.with_borrow_mut(|listeners| {
            if let Some(there) = listeners.get(&(address, port)).and_then(Weak::upgrade) {
                return Ok(there);
            }
            let socket = std::net::UdpSocket::bind((address, port))?;
            socket.set_nonblocking(true)?;
            // A panic comes all at once. More than the system allows is cut to that.
            let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 4 << 20);
            let socket = UdpSocket::from_std(socket)?;
            let routes = Arc::<Mutex<Routes>>::default();
            let task = tokio::spawn(hand_out(socket, Arc::clone(&routes))).abort_handle();
            let made = Arc::new(Self { routes, task });
            listeners.insert((address, port), Arc::downgrade(&made));
            Ok(made)
        })
    }

    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn hand_out(socket: UdpSocket, routes: Arc<Mutex<Routes>>) {
    let mut buffer = [0; DATAGRAM];
    loop {
        // An error is about an earlier datagram.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        let mut routes = routes.lock().unwrap_or_else(PoisonError::into_inner);
        routes.retain(|(_, feed)| !feed.is_closed());
        for (_, feed) in routes.iter().filter(|(of, _)| of.contains(&from.ip().to_canonical())) {
            // What a feed can't take is lost, as it would be on the network.
            let _ = feed.try_send(buffer[..length].to_vec());
        }
    }
}

/// Each read gives one datagram.
struct Datagrams {
    datagrams: mpsc::Receiver<Vec<u8>>,
    _listener: Arc<Listener>,
}

impl AsyncRead for Datagrams {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let datagram = ready!(self.datagrams.poll_recv(context)).unwrap_or_default();
        buffer.put_slice(&datagram[..datagram.len().min(buffer.remaining())]);
        Poll::Ready(Ok(()))
    }
}

/// One host's datagrams: as they are, or in the extended format, which becomes what the same kernel would
/// print.
#[derive(Default)]
struct Netconsole {
    /// Sequence number and time of the last record.
    last: Option<(u64, u64)>,
    /// A record of which more is to come.
    part: Option<Part>,
}

struct Part {
    sequence: u64,
    usec: u64,
    length: usize,
    text: Vec<u8>,
}

/// A datagram of the extended format: `[release,]level,sequence,usec,flags[,key=value…];text`.
struct Record<'a> {
    sequence: u64,
    usec: u64,
    /// Where in its record this is, and how long that is.
    fragment: Option<(usize, usize)>,
    text: &'a [u8],
}

impl<'a> Record<'a> {
    fn parse(datagram: &'a [u8]) -> Option<Self> {
        let end = datagram.iter().take(256).position(|byte| *byte == b';')?;
        let (head, text) = (str::from_utf8(&datagram[..end]).ok()?, &datagram[end + 1..]);
        let mut fields = head.split(',').peekable();
        fields.next_if(|release| release.contains('.'));
        fields.next()?.parse::<u32>().ok()?;
        let (sequence, usec) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        fields.next()?;
        let fragment = fields.find_map(|field| field.strip_prefix("ncfrag="));
        let fragment = match fragment.map(|fragment| fragment.split_once('/')) {
            None => None,
            Some(Some((at, of))) => Some((at.parse().ok()?, of.parse().ok()?)),
            Some(None) => return None,
        };
        Some(Self { sequence, usec, fragment, text })
    }
}

impl Netconsole {
    /// Gives what there is of a record that came in parts.
    fn end_part(&mut self, heard: &mut Heard) {
        if let Some(part) = self.part.take() {
            print(part.usec, &part.text, heard);
        }
    }
}

impl Protocol for Netconsole {
    fn heard(&mut self, datagram: &[u8], heard: &mut Heard) {
        let Some(Record { sequence, usec, fragment, text }) = Record::parse(datagram) else {
            self.end_part(heard);
            heard.text.extend(datagram);
            return;
        };
        if self.part.as_ref().is_some_and(|part| part.sequence != sequence) {
            self.end_part(heard);
        }
        // Numbers begin again with each kernel.
        if let Some((last, then)) = self.last
            && usec >= then
            && let Some(further @ 2..) = sequence.checked_sub(last)
        {
            let missing = further - 1;
            heard.gap = Some(format!(
                "{missing} messages of the kernel's log did not come: lost on the way, or below the \
                 console's level"
            ));
        }
        self.last = Some((sequence, usec));
        let Some((at, length)) = fragment else {
            print(usec, text, heard);
            return;
        };
        let part = self.part.get_or_insert(Part { sequence, usec, length, text: Vec::new() });
        if part.text.len() == at && at + text.len() <= RECORD {
            part.text.extend(text);
        }
        if part.text.len() >= part.length {
            self.end_part(heard);
        }
    }

    fn typed(&mut self, _: &[u8]) -> Vec<u8> {
        Vec::new()
    }
}

/// Writes a record as a console shows it: without its dictionary, which are lines that begin with a space,
/// and with `\xNN` as the byte that it stands for.
fn print(usec: u64, text: &[u8], heard: &mut Heard) {
    let text = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    for line in unescaped(text).split(|byte| *byte == b'\n') {
        let time = format!("[{:5}.{:06}] ", usec / 1_000_000, usec % 1_000_000);
        heard.text.extend(time.as_bytes());
        heard.text.extend(line);
        heard.text.extend(b"\r\n");
    }
}

fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let escape = match rest {
            [b'\\', b'x', high, low, ..] => char::from(*high)
                .to_digit(16)
                .zip(char::from(*low).to_digit(16))
                .and_then(|(high, low)| u8::try_from(high << 4 | low).ok()),
            _ => None,
        };
        bytes.push(escape.unwrap_or(first));
        rest = if escape.is_some() { &rest[4..] } else { after };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hear(datagrams: &[&[u8]]) -> String {
        let mut netconsole = Netconsole::default();
        let mut all = String::new();
        for datagram in datagrams {
            let mut heard = Heard::default();
            netconsole.heard(datagram, &mut heard);
            all.extend(heard.gap.map(|gap| format!("<{gap}>\r\n")));
            all.push_str(&String::from_utf8_lossy(&heard.text));
        }
        all.replace('\r', "")
    }

    #[test]
    fn the_extended_format_becomes_lines() {
        insta::assert_snapshot!(hear(&[
            b"6,100,1500000,-;first\n SUBSYSTEM=pci\n DEVICE=+pci:0000:00:01.0\n",
            b"6.1.0-47-cloud-amd64,4,101,1500001,-,caller=T1;a\\x09tab and \\x5c\\xff, two\\x0alines\n",
            b"4,105,1600000,-;after a gap\n",
            b"6,0,3,-;another kernel\n",
        ]), @r"
        [    1.500000] first
        [    1.500001] a	tab and \�, two
        [    1.500001] lines
        <3 messages of the kernel's log did not come: lost on the way, or below the console's level>
        [    1.600000] after a gap
        [    0.000003] another kernel
        ");
    }

    #[test]
    fn fragments_are_put_together_and_what_misses_one_is_kept() {
        insta::assert_snapshot!(hear(&[
            b"6,1,5,-,ncfrag=0/10;01234",
            b"6,1,5,-,ncfrag=5/10;5678\n",
            b"6,2,6,-,ncfrag=0/10;begin",
            b"6,3,7,-;next\n",
        ]), @r"
        [    0.000005] 012345678
        [    0.000006] begin
        [    0.000007] next
        ");
    }

    #[test]
    fn what_is_not_extended_is_kept_as_it_is() {
        for text in ["[    1.0] plain; 6,1\n", "6,x,1,-;no\n", "6,1,1,-,ncfrag=3;no\n", "", ";"] {
            assert_eq!(hear(&[text.as_bytes()]), text);
        }
    }
    proptest! {
        /// Whatever comes, all of it is taken, and not much more of it made.
        #[test]
        fn anything_may_come(datagrams in prop::collection::vec(
            "([0-9]{1,20},){3}[-c](,ncfrag=[0-9]{1,20}/[0-9]{1,20})?;(\\\\x[0-9a-f]{0,2}|.){0,20}|.{0,20}",
            0..6,
        )) {
            let bytes: Vec<&[u8]> = datagrams.iter().map(String::as_bytes).collect();
            prop_assert!(hear(&bytes).len() <= 400 * datagrams.len());
        }
    }
}
