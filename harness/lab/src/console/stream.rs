//! Consoles behind a TCP port: raw, or by telnet.

use std::io;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpStream;

use super::telnet::Telnet;
use super::{Failed, Link, Raw};

/// A connection on which nothing comes is asked for its other end after this, and so often, and given up
/// when that has been silent for `GONE`: a console server that lost its power says goodbye to nobody.
const IDLE: Duration = Duration::from_secs(5);
const ASK: Duration = Duration::from_secs(2);
const GONE: Duration = Duration::from_secs(10);

/// Connects, and makes sure that the other side's death shows.
pub(super) async fn dial(address: &str, port: u16) -> Result<TcpStream, Failed> {
    let stream = TcpStream::connect((address, port)).await;
    stream
        .and_then(|stream| watch(&stream).map(|()| stream))
        .map_err(|error| Failed::now(format!("{address}:{port}: {error}")))
}

fn watch(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, IDLE)?;
    sockopt::set_tcp_keepintvl(stream, ASK)?;
    sockopt::set_tcp_user_timeout(stream, u32::try_from(GONE.as_millis()).unwrap_or(u32::MAX))?;
    Ok(())
}

pub(super) async fn connect(address: &str, port: u16, telnet: bool) -> Result<Link, Failed> {
    let (input, output) = dial(address, port).await?.into_split();
    let link = Link::new(input);
    let link = if telnet { link.speaking(Telnet::new()) } else { link.speaking(Raw) };
    Ok(link.writing(output))
}
