//! The stand-in's management peers: real ones, each a process on a free port of loopback.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use super::disk::write;
use super::process::Process;
use super::{Console, Power, Problem, Setup};

/// Who is let in to a BMC.
pub(super) const USER: &str = "admin";
/// With what.
pub(super) const PASSWORD: &str = "labpw";
const READY_WITHIN: Duration = Duration::from_secs(30);

/// What peers need to know.
pub(super) struct Place<'a> {
    /// The host's own directory.
    pub(super) dir: &'a Path,
    /// Where certificates are.
    pub(super) made: &'a Path,
    /// Where sushy-tools is.
    pub(super) tools: &'a Path,
    /// Port of the chassis.
    pub(super) chassis: u16,
    /// Port of the serial line.
    pub(super) serial: u16,
}

/// The peers of one host.
#[derive(Default)]
pub(super) struct Peers {
    /// `ipmi_sim`.
    pub(super) ipmi: Option<Peer>,
    /// `sushy-emulator`.
    pub(super) redfish: Option<Peer>,
    /// `conserver`.
    pub(super) conserver: Option<Peer>,
}

/// One of them.
pub(super) struct Peer {
    process: Process,
    pub(super) port: u16,
}

impl Peers {
    /// Starts those that the setup asks for.
    pub(super) fn start(setup: &Setup, place: &Place<'_>) -> Result<Self, Problem> {
        let at = |file: &str| place.dir.join(file);
        let power = include_str!("peers/power").replace("@PORT@", &place.chassis.to_string());
        write(&at("power"), 0o755, power.as_bytes())?;
        write(&at("bmc-password"), 0o600, format!("{PASSWORD}\n").as_bytes())?;
        let mut peers = Self::default();
        if setup.power == Power::Redfish {
            peers.redfish = Some(redfish(place, "bmc", None)?);
        }
        if setup.power == Power::Ipmi || setup.console == Console::Sol {
            peers.ipmi = Some(ipmi(&setup.name, place, None)?);
        }
        if setup.console == Console::Conserver {
            peers.conserver = Some(conserver(&setup.name, place)?);
        }
        Ok(peers)
    }

    /// Waits until they answer.
    pub(super) fn until_ready(&mut self) -> Result<(), Problem> {
        if let Some(ipmi) = &mut self.ipmi {
            ipmi.until_ready(answers_ping)?;
        }
        for peer in [&mut self.redfish, &mut self.conserver].into_iter().flatten() {
            peer.until_ready(accepts)?;
        }
        Ok(())
    }

    /// Starts the BMCs anew, on the ports that they had.
    pub(super) fn restart(
        &mut self,
        name: &str,
        place: &Place<'_>,
        certificate: bool,
    ) -> Result<(), Problem> {
        if let Some(Peer { port, .. }) = self.ipmi.take() {
            self.ipmi = Some(ipmi(name, place, Some(port))?);
        }
        if let Some(Peer { port, .. }) = self.redfish.take() {
            let file = if certificate { "other-bmc" } else { "bmc" };
            self.redfish = Some(redfish(place, file, Some(port))?);
        }
        self.until_ready()
    }

    /// Makes all BMCs deaf, or lets them go on.
    pub(super) fn stop(&self, stop: bool) {
        for peer in [&self.ipmi, &self.redfish].into_iter().flatten() {
            peer.process.signal(if stop { Signal::STOP } else { Signal::CONT });
        }
    }
}

impl Peer {
    fn until_ready(&mut self, ready: fn(u16) -> bool) -> Result<(), Problem> {
        let port = self.port;
        self.process.until(READY_WITHIN, || ready(port).then_some(()))
    }
}

/// `ipmi_sim` on `port`, or a free one.
fn ipmi(name: &str, place: &Place<'_>, port: Option<u16>) -> Result<Peer, Problem> {
    let at = |file: &str| place.dir.join(file).display().to_string();
    write(&place.dir.join("chassis"), 0o755, include_bytes!("peers/chassis"))?;
    write(&place.dir.join("lan.emu"), 0o644, include_bytes!("peers/lan.emu"))?;
    let port = port.map_or_else(free_udp, Ok)?;
    let lan = include_str!("peers/lan.conf")
        .replace("@NAME@", name)
        .replace("@PORT@", &port.to_string())
        .replace("@DIR@", &place.dir.display().to_string())
        .replace("@SERIAL@", &place.serial.to_string())
        .replace("@USER@", USER)
        .replace("@PASSWORD@", PASSWORD);
    write(&place.dir.join("lan.conf"), 0o600, lan.as_bytes())?;
    let args = ["-n", "-c", &at("lan.conf"), "-f", &at("lan.emu"), "-s", &at("ipmi")];
    let args = args.map(str::to_owned);
    std::fs::create_dir_all(at("ipmi")).map_err(|e| Problem::broken("ipmi", e))?;
    let process = Process::start("ipmi_sim", &args, &place.dir.join("ipmi.log"))?;
    Ok(Peer { process, port })
}

/// `sushy-emulator` with one of the certificates, on `port`, or a free one.
fn redfish(place: &Place<'_>, certificate: &str, port: Option<u16>) -> Result<Peer, Problem> {
    let python = place.tools.join("bin/python3");
    if !place.tools.join("bin/sushy-emulator").exists() {
        return Err(Problem::Missing(format!("no sushy-emulator in {}", place.tools.display())));
    }
    let driver = place.dir.join("redfish.py");
    write(&driver, 0o644, include_bytes!("peers/redfish.py"))?;
    let port = port.map_or_else(free_tcp, Ok)?;
    let made = |extension: &str| {
        place.made.join(certificate).with_extension(extension).display().to_string()
    };
    let args = [
        driver.display().to_string(),
        place.dir.display().to_string(),
        place.chassis.to_string(),
        port.to_string(),
        made("pem"),
        made("key"),
    ];
    let log = place.dir.join("redfish.log");
    let process = Process::start(&python.display().to_string(), &args, &log)?;
    Ok(Peer { process, port })
}

fn conserver(name: &str, place: &Place<'_>) -> Result<Peer, Problem> {
    let file = place.dir.join("conserver.cf");
    let text = include_str!("peers/conserver.cf")
        .replace("@NAME@", name)
        .replace("@SERIAL@", &place.serial.to_string());
    write(&file, 0o644, text.as_bytes())?;
    let port = free_tcp()?;
    let (file, number) = (file.display().to_string(), port.to_string());
    let args = ["-C", &file, "-p", &number, "-M", "127.0.0.1", "-b", "0"].map(str::to_owned);
    let process = Process::family("conserver", &args, &place.dir.join("conserver.log"))?;
    Ok(Peer { process, port })
}

fn free_tcp() -> Result<u16, Problem> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    port(listener.and_then(|listener| listener.local_addr()))
}

fn free_udp() -> Result<u16, Problem> {
    port(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr()))
}

fn port(address: std::io::Result<SocketAddr>) -> Result<u16, Problem> {
    address.map(|address| address.port()).map_err(|e| Problem::broken("port", e))
}

fn accepts(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Presence ping of RMCP.
fn answers_ping(port: u16) -> bool {
    let ping = [6, 0, 0xff, 6, 0, 0, 0x11, 0xbe, 0x80, 1, 0, 0];
    let answer = || {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        socket.send_to(&ping, (Ipv4Addr::LOCALHOST, port))?;
        socket.recv(&mut [0; 64])
    };
    answer().is_ok()
}
