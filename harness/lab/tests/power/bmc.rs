//! A small BMC that speaks Redfish over real TLS, and does wrong what a test tells it to.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsAcceptor;

/// What proves who the BMC is.
#[derive(Clone)]
pub(crate) struct Identity {
    key: Rc<KeyPair>,
    der: CertificateDer<'static>,
}

impl Identity {
    /// A certificate that vouches for itself, as BMCs have them out of the box.
    pub(crate) fn own(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().clone();
        Self { key: Rc::new(key), der }
    }

    /// The same certificate with another key than its own.
    pub(crate) fn stolen(self) -> Self {
        Self { key: Rc::new(KeyPair::generate().unwrap()), der: self.der }
    }

    pub(crate) fn sha256(&self) -> [u8; 32] {
        Sha256::digest(&self.der).into()
    }

    /// As text of a PEM file.
    pub(crate) fn pem(&self) -> String {
        pem(&self.der)
    }
}

/// An authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn issue(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let der = params.signed_by(&key, &self.0).unwrap().der().clone();
        Identity { key: Rc::new(key), der }
    }

    pub(crate) fn pem(&self) -> String {
        pem(self.0.der())
    }
}

fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::prelude::BASE64_STANDARD.encode(der);
    let lines: Vec<_> =
        text.as_bytes().chunks(64).map(|c| std::str::from_utf8(c).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// Shows one certificate, whether its key fits or not.
#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesServerCert for Shows {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) head: String,
    pub(crate) body: Value,
}

impl Asked {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    pub(crate) fn is(&self, method: &str, end: &str) -> bool {
        self.method == method && self.path.ends_with(end)
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) manner: Manner,
}

/// How an answer is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Whole,
    /// Never.
    Hangs,
    /// The head, then nothing.
    HangsAfterHead,
    /// A byte a second.
    Trickles,
    /// Half of the body, then the end.
    Cut,
    /// The connection is reset.
    Resets,
    /// A body without end.
    Endless,
    /// A head without end.
    EndlessHead,
}

impl Reply {
    pub(crate) fn json(status: u16, body: Value) -> Self {
        let body = body.to_string().into_bytes();
        Self { status, headers: Vec::new(), body, manner: Manner::Whole }
    }

    pub(crate) fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), manner: Manner::Whole }
    }

    /// With a message as Redfish has them.
    pub(crate) fn error(status: u16, message: &str) -> Self {
        let extended = json!([{ "MessageId": "Base.1.0.GeneralError", "Message": message }]);
        Self::json(status, json!({ "error": { "@Message.ExtendedInfo": extended } }))
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub(crate) fn manner(mut self, manner: Manner) -> Self {
        self.manner = manner;
        self
    }
}

/// What the BMC knows, and what it was asked for.
#[derive(Debug)]
pub(crate) struct State {
    /// `PowerState`.
    pub(crate) power: String,
    /// What it will be, from when on.
    pub(crate) pending: Option<(Instant, String)>,
    /// How long a switch takes to show.
    pub(crate) delay: Duration,
    /// The system's description beside that.
    pub(crate) system: Value,
    /// Requests that may change something, in words.
    pub(crate) orders: Vec<String>,
    /// All requests.
    pub(crate) asked: usize,
    /// It takes no password with each request.
    pub(crate) sessions_only: bool,
    /// Tokens that it takes.
    pub(crate) tokens: Vec<String>,
    logins: usize,
    /// What is changed has to be named by its version.
    pub(crate) tags: bool,
    /// Versions are told as weak ones.
    pub(crate) weak: bool,
    tag: usize,
}

/// What goes wrong: an answer other than the BMC's own.
pub(crate) type Wrong = fn(&mut State, &Asked) -> Option<Reply>;

/// User and password that it takes.
pub(crate) const USER: &str = "admin";
/// The password.
pub(crate) const PASSWORD: &str = "s3cret-Pa55";

pub(crate) const SYSTEM: &str = "/redfish/v1/Systems/1";
pub(crate) const RESET: &str = "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset";
const SESSIONS: &str = "/redfish/v1/SessionService/Sessions";

impl State {
    pub(crate) fn new() -> Self {
        let types = ["On", "ForceOff", "GracefulShutdown", "ForceRestart", "PowerCycle", "Nmi"];
        Self {
            power: "On".into(),
            pending: None,
            delay: Duration::ZERO,
            system: json!({
                "@odata.id": SYSTEM,
                "Boot": { "BootSourceOverrideEnabled": "Disabled", "BootSourceOverrideTarget": "None" },
                "Actions": { "#ComputerSystem.Reset": {
                    "target": RESET, "ResetType@Redfish.AllowableValues": types,
                } },
            }),
            orders: Vec::new(),
            asked: 0,
            sessions_only: false,
            tokens: Vec::new(),
            logins: 0,
            tags: false,
            weak: false,
            tag: 0,
        }
    }

    fn knows(&self, asked: &Asked) -> bool {
        use base64::Engine;
        let login = base64::prelude::BASE64_STANDARD.encode(format!("{USER}:{PASSWORD}"));
        let basic = asked.header("authorization") == Some(&format!("Basic {login}"));
        let token = asked.header("x-auth-token");
        (basic && !self.sessions_only) || token.is_some_and(|t| self.tokens.iter().any(|k| k == t))
    }

    fn switch(&mut self, to: &str) {
        if self.delay.is_zero() {
            self.power = to.into();
        } else {
            self.pending = Some((Instant::now() + self.delay, to.into()));
        }
    }

    /// The system as it is described now.
    pub(crate) fn described(&mut self) -> Value {
        if let Some((at, to)) = self.pending.clone()
            && Instant::now() >= at
        {
            (self.power, self.pending) = (to, None);
        }
        let mut system = self.system.clone();
        system["PowerState"] = json!(self.power);
        system
    }

    /// What a BMC that does all right answers.
    pub(crate) fn right(&mut self, asked: &Asked) -> Reply {
        let root = asked.path.trim_end_matches('/') == "/redfish/v1";
        if root {
            let sessions = json!({ "Sessions": { "@odata.id": SESSIONS } });
            return Reply::json(200, json!({ "Links": sessions }));
        }
        if asked.is("POST", SESSIONS) {
            if asked.body != json!({ "UserName": USER, "Password": PASSWORD }) {
                return Reply::error(401, "Invalid user name or password.");
            }
            self.logins += 1;
            let token = format!("token-{}", self.logins);
            self.tokens.push(token.clone());
            let uri = format!("{SESSIONS}/{}", self.logins);
            return Reply::status(201).header("X-Auth-Token", &token).header("Location", &uri);
        }
        if !self.knows(asked) {
            return Reply::error(401, "The login is needed.");
        }
        match (asked.method.as_str(), asked.path.as_str()) {
            ("DELETE", path) if path.starts_with(SESSIONS) => {
                self.tokens.clear();
                Reply::status(204)
            }
            ("GET", "/redfish/v1/Systems" | "/redfish/v1/Systems/") => {
                Reply::json(200, json!({ "Members": [{ "@odata.id": SYSTEM }] }))
            }
            ("GET", SYSTEM) => {
                let reply = Reply::json(200, self.described());
                let weak = if self.weak { "W/" } else { "" };
                let tag = format!("{weak}\"{}\"", self.tag);
                if self.tags { reply.header("ETag", &tag) } else { reply }
            }
            ("POST", RESET) => {
                match asked.body["ResetType"].as_str().unwrap_or_default() {
                    "On" | "ForceOn" | "PowerCycle" | "ForceRestart" => self.switch("On"),
                    "ForceOff" | "GracefulShutdown" => self.switch("Off"),
                    "Nmi" => {}
                    other => return Reply::error(400, &format!("The value {other} is not known.")),
                }
                Reply::status(204)
            }
            ("PATCH", SYSTEM) => {
                let tag = format!("\"{}\"", self.tag);
                if self.tags && asked.header("if-match") != Some(&tag) {
                    return Reply::error(412, "The ETag does not fit.");
                }
                self.tag += 1;
                for (key, value) in asked.body["Boot"].as_object().unwrap() {
                    self.system["Boot"][key] = value.clone();
                }
                Reply::status(204)
            }
            _ => Reply::error(404, "There is no such resource."),
        }
    }
}

/// A BMC that runs as a task.
pub(crate) struct Bmc {
    pub(crate) state: Rc<RefCell<State>>,
    pub(crate) port: u16,
}

impl Bmc {
    /// Starts one on a free port, without TLS when it has no identity.
    pub(crate) async fn start(state: State, wrong: Wrong, identity: Option<&Identity>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Rc::new(RefCell::new(state));
        let acceptor = identity.map(|Identity { key, der }| {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let key = provider.key_provider.load_private_key(key).unwrap();
            let shown = Arc::new(CertifiedKey::new(vec![der.clone()], key));
            let config = rustls::ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(Shows(shown)));
            TlsAcceptor::from(Arc::new(config))
        });
        let shared = Rc::clone(&state);
        tokio::task::spawn_local(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (state, acceptor) = (Rc::clone(&shared), acceptor.clone());
                tokio::task::spawn_local(async move {
                    // That a client goes away is part of the tests.
                    let _ = connection(socket, acceptor, state, wrong).await;
                });
            }
        });
        Self { state, port }
    }
}

async fn connection(
    socket: TcpStream,
    acceptor: Option<TlsAcceptor>,
    state: Rc<RefCell<State>>,
    wrong: Wrong,
) -> io::Result<()> {
    let reset = match acceptor {
        None => {
            let (mut socket, mut reset) = (socket, false);
            serve(&mut socket, &state, wrong, &mut reset).await?;
            reset.then_some(socket)
        }
        Some(acceptor) => {
            let (mut stream, mut reset) = (acceptor.accept(socket).await?, false);
            serve(&mut stream, &state, wrong, &mut reset).await?;
            if !reset {
                stream.shutdown().await?;
            }
            reset.then(|| stream.into_inner().0)
        }
    };
    if let Some(socket) = reset {
        socket.set_zero_linger()?;
    }
    Ok(())
}

/// Reads a request and answers it.
async fn serve(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    state: &Rc<RefCell<State>>,
    wrong: Wrong,
    reset: &mut bool,
) -> io::Result<()> {
    let asked = read(stream).await?;
    let reply = {
        let mut state = state.borrow_mut();
        state.asked += 1;
        if asked.method != "GET" {
            let last = asked.path.rsplit('/').next().unwrap_or_default();
            let mut order = format!("{} {last}", asked.method);
            if let Some(kind) = asked.body["ResetType"].as_str() {
                order += &format!(" {kind}");
            }
            if let Some(boot) = asked.body["Boot"].as_object() {
                let values: Vec<_> = boot.values().filter_map(Value::as_str).collect();
                order += &format!(" {}", values.join(" "));
            }
            state.orders.push(order);
        }
        wrong(&mut state, &asked).unwrap_or_else(|| state.right(&asked))
    };
    let mut head = format!("HTTP/1.1 {} Said\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if reply.manner == Manner::EndlessHead {
        stream.write_all(head.as_bytes()).await?;
        loop {
            stream.write_all(b"X-More: and more, and more, and more, and more\r\n").await?;
        }
    }
    if reply.manner != Manner::Endless {
        head += &format!("Content-Length: {}\r\n", reply.body.len());
    }
    head += "\r\n";
    match reply.manner {
        Manner::Hangs => std::future::pending::<()>().await,
        Manner::Resets => {
            *reset = true;
            return Ok(());
        }
        Manner::EndlessHead => {}
        Manner::Whole => {
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&reply.body).await?;
        }
        Manner::HangsAfterHead => {
            stream.write_all(head.as_bytes()).await?;
            stream.flush().await?;
            std::future::pending::<()>().await;
        }
        Manner::Cut => {
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&reply.body[..reply.body.len() / 2]).await?;
        }
        Manner::Trickles => {
            for byte in head.as_bytes().iter().chain(&reply.body) {
                stream.write_all(&[*byte]).await?;
                stream.flush().await?;
                sleep(Duration::from_secs(1)).await;
            }
        }
        Manner::Endless => {
            stream.write_all(head.as_bytes()).await?;
            loop {
                stream.write_all(&[b' '; 4096]).await?;
            }
        }
    }
    stream.flush().await
}

async fn read(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<Asked> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        // Not a request but the beginning of TLS: a server that speaks none answers that it is bad.
        if stream.read_buf(&mut bytes).await? == 0 || bytes[0] == 0x16 {
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await?;
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut words = head.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut asked = Asked { method, path, head, body: Value::Null };
    let length = asked.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    while bytes.len() < end + length {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    asked.body = serde_json::from_slice(&bytes[end..]).unwrap_or_default();
    Ok(asked)
}
