//! The stand-in's serial line: QEMU's port has room for one, this one for as many as come, and breaks
//! in the ways serial lines break.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A reader that takes nothing for so long is dropped.
const PATIENCE: Duration = Duration::from_secs(20);

/// A serial line that any number of peers share.
#[derive(Clone)]
pub(super) struct Line(Arc<Inner>);

struct Inner {
    machine: TcpStream,
    peers: Mutex<Vec<TcpStream>>,
    closed: AtomicBool,
    port: u16,
}

impl Line {
    /// Connects to QEMU's port and listens on one of its own.
    pub(super) fn new(machine: u16) -> io::Result<Self> {
        let machine = TcpStream::connect((Ipv4Addr::LOCALHOST, machine))?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let line = Self(Arc::new(Inner {
            machine: machine.try_clone()?,
            peers: Mutex::default(),
            closed: AtomicBool::new(false),
            port,
        }));
        let out = line.clone();
        std::thread::spawn(move || out.copy(machine));
        let accepting = line.clone();
        std::thread::spawn(move || {
            for peer in listener.incoming().flatten() {
                // A closed line ends each connection at once.
                if !accepting.0.closed.load(Ordering::Relaxed) {
                    let _ = accepting.join(peer);
                }
            }
        });
        Ok(line)
    }

    /// The port that peers connect to.
    pub(super) fn port(&self) -> u16 {
        self.0.port
    }

    fn join(&self, mut peer: TcpStream) -> io::Result<()> {
        peer.set_write_timeout(Some(PATIENCE))?;
        let mut to = self.0.machine.try_clone()?;
        self.0.peers.lock().unwrap_or_else(PoisonError::into_inner).push(peer.try_clone()?);
        std::thread::spawn(move || io::copy(&mut peer, &mut to));
        Ok(())
    }

    fn copy(&self, mut machine: TcpStream) {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = machine.read(&mut buffer) {
            self.send(&buffer[..read]);
        }
        self.drop_peers();
    }

    /// Sends bytes to all peers, as if the machine had.
    pub(super) fn send(&self, bytes: &[u8]) {
        let mut peers = self.0.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.retain_mut(|peer| peer.write_all(bytes).is_ok());
    }

    /// Ends all connections; new ones are welcome.
    pub(super) fn drop_peers(&self) {
        let mut peers = self.0.peers.lock().unwrap_or_else(PoisonError::into_inner);
        for peer in peers.drain(..) {
            let _ = peer.shutdown(Shutdown::Both);
        }
    }

    /// Whether connections are ended as soon as they are made.
    pub(super) fn close(&self, closed: bool) {
        self.0.closed.store(closed, Ordering::Relaxed);
        if closed {
            self.drop_peers();
        }
    }
}
