//! One request over HTTP and its answer, and whom to believe that he is the BMC.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use futures::future::{Either, select};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderValue};
use hyper::http::uri::Scheme;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use kgate_model::inventory::Tls;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::PowerError;
use crate::ssh::hex;
use crate::text::line;

/// Bytes of an answer. A computer system's description has some ten thousand.
const LONGEST: usize = 1 << 20;

/// Where requests go.
pub(super) struct Client {
    host: String,
    port: u16,
    authority: HeaderValue,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Broken {
    /// Nothing was sent.
    Unsent(String),
    /// It may have been heard.
    Midway(String),
    /// Asking again would not help.
    Final(PowerError),
}

impl Client {
    /// # Errors
    /// [`PowerError::Controller`] when the address or what is to prove it is of no use.
    pub(super) fn new(url: &str, tls: &Tls) -> Result<Self, PowerError> {
        let wrong = |why: &str| PowerError::Controller(format!("`{}` {why}", line(url)));
        let uri: Uri = url.parse().map_err(|_| wrong("is no URL"))?;
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return Err(wrong("is no URL such as https://bmc7.example"));
        };
        if uri.path() != "/" || uri.query().is_some() || authority.as_str().contains('@') {
            return Err(wrong("is more than scheme, host and port"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let secure = scheme == &Scheme::HTTPS;
        let tls = if secure {
            let name = ServerName::try_from(host.clone()).map_err(|_| wrong("names no host"))?;
            Some((TlsConnector::from(Arc::new(config(tls)?)), name))
        } else if scheme == &Scheme::HTTP && *tls == Tls::Insecure {
            None
        } else {
            return Err(wrong("is neither https nor, with insecure TLS, http"));
        };
        Ok(Self {
            port: authority.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            authority: HeaderValue::from_str(authority.as_str())
                .map_err(|_| wrong("names no host"))?,
            host,
            tls,
        })
    }

    /// `link`, which an answer holds, as a path of this server; `None` when it leads elsewhere.
    pub(super) fn path<'a>(&self, link: &'a str) -> Option<&'a str> {
        let origin = self.authority.to_str().ok()?;
        let scheme = if self.tls.is_some() { "https://" } else { "http://" };
        let own = link.strip_prefix(scheme).and_then(|rest| rest.strip_prefix(origin));
        Some(own.unwrap_or(link)).filter(|path| path.starts_with('/') && !path.starts_with("//"))
    }

    /// Sends a request on a connection of its own. There is no limit of time in it: drop it.
    pub(super) async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Answer, Broken> {
        request.headers_mut().insert(HOST, self.authority.clone());
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        let unsent = |error: io::Error| Broken::Unsent(format!("{}: {error}", self.address()));
        let socket = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(unsent)?;
        let Some((connector, name)) = &self.tls else { return exchange(socket, request).await };
        match connector.connect(name.clone(), socket).await {
            Ok(stream) => exchange(stream, request).await,
            Err(error) => Err(self.handshake(error)),
        }
    }

    fn address(&self) -> String {
        self.authority.to_str().unwrap_or_default().to_owned()
    }

    fn handshake(&self, error: io::Error) -> Broken {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let refused = match tls {
            None => return Broken::Unsent(format!("{}: {error}", self.address())),
            Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(why)))) => {
                PowerError::Identity(why.to_string())
            }
            // What remains is the proof that it has the certificate's key.
            Some(rustls::Error::InvalidCertificate(CertificateError::BadSignature)) => {
                let text = "it shows a certificate whose key it doesn't have";
                PowerError::Identity(text.to_owned())
            }
            // Such as one of X.509's first version.
            Some(rustls::Error::InvalidCertificate(why)) => {
                PowerError::Identity(format!("its certificate can't be used: {why}"))
            }
            Some(error) => PowerError::Garbled(format!("no TLS with {}: {error}", self.address())),
        };
        Broken::Final(refused)
    }
}

/// One request and its answer.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Answer, Broken> {
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(midway)?;
    let answer = std::pin::pin!(async move {
        let (head, body) = sender.send_request(request).await.map_err(midway)?.into_parts();
        let body = match Limited::new(body, LONGEST).collect().await {
            Ok(body) => body.to_bytes().into(),
            Err(error) if error.is::<LengthLimitError>() => {
                let text = format!("an answer of more than {} KiB", LONGEST >> 10);
                return Err(Broken::Final(PowerError::Garbled(text)));
            }
            Err(error) => return Err(Broken::Midway(told(&*error))),
        };
        Ok(Answer { status: head.status, headers: head.headers, body })
    });
    match select(answer, std::pin::pin!(connection)).await {
        Either::Left((answer, _)) => answer,
        // What had come before the connection ended is still to be read.
        Either::Right((_, answer)) => answer.await,
    }
}

fn midway(error: hyper::Error) -> Broken {
    Broken::Midway(told(&error))
}

/// An error with what is behind it.
fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    line(&text)
}

fn config(tls: &Tls) -> Result<ClientConfig, PowerError> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Verifier::new(tls, Arc::clone(&provider))?;
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| PowerError::Controller(format!("no TLS: {error}")))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

/// Whom to believe. That the other side has the certificate's key is checked in any case.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    trust: Trust,
}

#[derive(Debug)]
enum Trust {
    /// Whom an authority vouches for, and who has one of these very certificates: a BMC's own is no
    /// authority's, and is often marked as if it were one.
    Authorities(Arc<WebPkiServerVerifier>, Vec<CertificateDer<'static>>),
    /// The SHA-256 of the certificate.
    Pinned([u8; 32]),
    Anybody,
}

impl Verifier {
    fn new(tls: &Tls, provider: Arc<CryptoProvider>) -> Result<Self, PowerError> {
        let trust = match tls {
            Tls::Pinned(sha256) => Trust::Pinned(*sha256),
            Tls::Insecure => Trust::Anybody,
            Tls::Ca(file) => {
                let found = authorities(file)?;
                Trust::Authorities(verifier(found.clone(), &provider)?, found)
            }
            Tls::System => {
                let found = rustls_native_certs::load_native_certs().certs;
                Trust::Authorities(verifier(found, &provider)?, Vec::new())
            }
        };
        Ok(Self { provider, trust })
    }
}

fn authorities(file: &Path) -> Result<Vec<CertificateDer<'static>>, PowerError> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    let wrong = |why: &dyn fmt::Display| {
        PowerError::Controller(format!("can't read authorities from {}: {why}", file.display()))
    };
    let found: Vec<_> = read.map_err(|error| wrong(&error))?;
    if found.is_empty() { Err(wrong(&"no certificate in it")) } else { Ok(found) }
}

fn verifier(
    authorities: Vec<CertificateDer<'static>>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, PowerError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(authorities);
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| PowerError::Controller(format!("no authorities to go by: {error}")))
}

/// Why a certificate is not believed, in words for the person who wrote the inventory.
#[derive(Debug)]
struct Disbelief(String);

impl fmt::Display for Disbelief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Disbelief {}

/// Why no authority's word is good enough.
fn disbelief(error: rustls::Error) -> String {
    let rustls::Error::InvalidCertificate(error) = error else { return error.to_string() };
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "no authority that the inventory trusts vouches for it".to_owned()
        }
        CertificateError::Other(why) => format!("{:?}", why.0),
        error => error.to_string(),
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let why = match &self.trust {
            Trust::Anybody => None,
            Trust::Pinned(sha256) => {
                let pin = || format!("the inventory has {}", hex(sha256));
                (Sha256::digest(leaf)[..] != sha256[..]).then(pin)
            }
            Trust::Authorities(_, known) if known.contains(&leaf.clone().into_owned()) => None,
            Trust::Authorities(verifier, _) => verifier
                .verify_server_cert(leaf, intermediates, name, ocsp, now)
                .err()
                .map(disbelief),
        };
        match why {
            None => Ok(ServerCertVerified::assertion()),
            Some(why) => {
                let digest = hex(&Sha256::digest(leaf));
                let text = Disbelief(format!("{why}; its certificate's SHA-256 is {digest}"));
                let other = CertificateError::Other(OtherError(Arc::new(text)));
                Err(rustls::Error::InvalidCertificate(other))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
