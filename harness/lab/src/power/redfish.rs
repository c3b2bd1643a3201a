//! Power by Redfish, the few requests of it that power takes.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http_body_util::Full;
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_MATCH, LOCATION,
    RETRY_AFTER,
};
use hyper::{Method, Request, StatusCode};
use kgate_model::inventory::{SecretRef, Tls};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::https::{Answer, Broken, Client};
use super::{Action, Bmc, Deadline, Firmware, Pauses, PowerError, PowerState};
use crate::secret::Secrets;
use crate::text::line;

const ROOT: &str = "/redfish/v1/";
const SYSTEMS: &str = "/redfish/v1/Systems";
const TOKEN: HeaderName = HeaderName::from_static("x-auth-token");

/// What asks for an action, the best first.
const RESET_TYPES: &[(Action, &[&str])] = &[
    (Action::On, &["On", "ForceOn"]),
    (Action::Off, &["ForceOff"]),
    (Action::SoftOff, &["GracefulShutdown"]),
    (Action::Reset, &["ForceRestart"]),
    (Action::Cycle, &["PowerCycle", "FullPowerCycle"]),
    (Action::Nmi, &["Nmi"]),
];

/// A BMC that speaks Redfish.
pub(super) struct Redfish {
    url: String,
    system: Option<String>,
    user: String,
    password: SecretRef,
    tls: Tls,
    secrets: Rc<dyn Secrets>,
    client: OnceCell<Client>,
    /// It takes no password with each request, so calls begin by opening a session.
    sessions: Cell<bool>,
}

impl Redfish {
    pub(super) fn new(
        url: String,
        system: Option<String>,
        user: String,
        password: SecretRef,
        tls: Tls,
        secrets: Rc<dyn Secrets>,
    ) -> Self {
        let (client, sessions) = (OnceCell::new(), Cell::new(false));
        Self { url, system, user, password, tls, secrets, client, sessions }
    }

    /// Does `work` in a talk of its own, and leaves no session behind: a BMC has few.
    async fn talk<T>(
        &self,
        by: Deadline,
        work: impl AsyncFnOnce(&mut Talk<'_>) -> Result<T, PowerError>,
    ) -> Result<T, PowerError> {
        let client = match self.client.get() {
            Some(client) => client,
            None => {
                let made = Client::new(&self.url, &self.tls)?;
                self.client.get_or_init(|| made)
            }
        };
        let password = self
            .secrets
            .get(&self.password)
            .await
            .map_err(|error| PowerError::Controller(error.to_string()))?;
        let mut talk = Talk { bmc: self, client, password, by, session: None, logins: 0 };
        if self.sessions.get() {
            talk.log_in().await?;
        }
        let result = work(&mut talk).await;
        talk.log_out().await;
        result
    }
}

/// What is asked of a BMC within one call.
struct Talk<'a> {
    bmc: &'a Redfish,
    client: &'a Client,
    password: SecretString,
    by: Deadline,
    session: Option<Session>,
    logins: u32,
}

struct Session {
    token: HeaderValue,
    uri: Option<String>,
}

/// Whether a request may be made twice when nobody knows whether the first was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Twice {
    Harmless,
    Harmful,
}

/// A request.
struct Ask<'a> {
    method: Method,
    path: &'a str,
    body: Option<Value>,
    /// Version of the resource that it is about.
    version: Option<HeaderValue>,
    twice: Twice,
}

impl<'a> Ask<'a> {
    fn get(path: &'a str) -> Self {
        Self { method: Method::GET, path, body: None, version: None, twice: Twice::Harmless }
    }

    fn post(path: &'a str, body: Value, twice: Twice) -> Self {
        Self { method: Method::POST, path, body: Some(body), version: None, twice }
    }
}

impl Talk<'_> {
    /// The answer to a request, of whatever status, after what may pass was tried again.
    async fn ask(&mut self, ask: &Ask<'_>) -> Result<Answer, PowerError> {
        loop {
            let answer = self.patiently(ask).await?;
            if answer.status != StatusCode::UNAUTHORIZED {
                return Ok(answer);
            }
            // The password may have to be given for a session, or the session was lost.
            if self.logins == 2 {
                let text = "it forgets a session as soon as it is open";
                return Err(PowerError::Garbled(text.to_owned()));
            }
            self.session = None;
            self.log_in().await?;
        }
    }

    async fn patiently(&self, ask: &Ask<'_>) -> Result<Answer, PowerError> {
        let mut pauses = Pauses::new();
        let mut last = None;
        loop {
            let request = self.request(ask)?;
            let sent = async { Ok::<_, PowerError>(self.client.send(request).await) };
            let mut asked_to_wait = None;
            let sent = match self.by.hold(sent).await {
                // Why it was tried again says more than that this came to no end.
                Err(error) => return Err(last.unwrap_or(error)),
                Ok(sent) => sent,
            };
            let error = match sent {
                Ok(answer) if !may_pass(answer.status) => return Ok(answer),
                Ok(answer) => {
                    asked_to_wait = retry_after(&answer);
                    PowerError::Refused(explain(&answer))
                }
                Err(Broken::Unsent(why)) => PowerError::Unreachable(why),
                Err(Broken::Midway(why)) if ask.twice == Twice::Harmless => {
                    PowerError::Unreachable(why)
                }
                Err(Broken::Midway(why)) => {
                    let text = format!("it may or may not have heard what it was asked for: {why}");
                    return Err(PowerError::Unreachable(text));
                }
                Err(Broken::Final(error)) => return Err(error),
            };
            if let Some(pause) = asked_to_wait {
                if pause >= self.by.left() {
                    return Err(error);
                }
                sleep(pause).await;
            }
            if !self.by.pause(&mut pauses).await {
                return Err(error);
            }
            last = Some(error);
        }
    }

    fn request(&self, ask: &Ask<'_>) -> Result<Request<Full<hyper::body::Bytes>>, PowerError> {
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(ask.path)
            .header(ACCEPT, "application/json")
            .header("OData-Version", "4.0");
        if let Some(version) = &ask.version {
            request = request.header(IF_MATCH, version);
        }
        if ask.body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        request = match &self.session {
            Some(session) => request.header(TOKEN, session.token.clone()),
            None if self.logins > 0 => request,
            None => {
                let login = format!("{}:{}", self.bmc.user, self.password.expose_secret());
                let mut basic =
                    HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(login)))
                        .unwrap_or(HeaderValue::from_static(""));
                basic.set_sensitive(true);
                request.header(AUTHORIZATION, basic)
            }
        };
        let body = ask.body.as_ref().map_or(Vec::new(), |body| body.to_string().into_bytes());
        request
            .body(Full::from(body))
            .map_err(|_| PowerError::Garbled(format!("it names `{}` as a path", line(ask.path))))
    }

    /// Opens a session.
    async fn log_in(&mut self) -> Result<(), PowerError> {
        self.logins += 1;
        let refused = |why: String| Err(PowerError::Unauthorised(why));
        let root = self.patiently(&Ask::get(ROOT)).await?;
        let root: Value = serde_json::from_slice(&root.body).unwrap_or_default();
        let Some(sessions) = root["Links"]["Sessions"]["@odata.id"].as_str() else {
            return refused("wrong user or password, and it has no sessions".to_owned());
        };
        let sessions = self.own(sessions)?.to_owned();
        let login = json!({ "UserName": self.bmc.user, "Password": self.password.expose_secret() });
        let answer = self.patiently(&Ask::post(&sessions, login, Twice::Harmless)).await?;
        let token = answer.headers.get(TOKEN).cloned();
        let Some(mut token) = token.filter(|_| answer.status.is_success()) else {
            return refused(explain(&answer));
        };
        token.set_sensitive(true);
        let uri = location(&answer).and_then(|uri| self.client.path(uri)).map(str::to_owned);
        self.session = Some(Session { token, uri });
        self.bmc.sessions.set(true);
        Ok(())
    }

    /// Ends the session, if there is time: it ends by itself as well, later.
    async fn log_out(&mut self) {
        let Some(uri) = self.session.as_mut().and_then(|session| session.uri.take()) else {
            return;
        };
        let delete = Ask { method: Method::DELETE, ..Ask::get(&uri) };
        if let Ok(request) = self.request(&delete) {
            let sent = async { Ok::<_, PowerError>(self.client.send(request).await) };
            let _ = self.by.hold(sent).await;
        }
    }

    /// A link of an answer as a path; one that leads to another server is not followed.
    fn own<'l>(&self, link: &'l str) -> Result<&'l str, PowerError> {
        let elsewhere =
            || PowerError::Garbled(format!("it refers to another server: `{}`", line(link)));
        self.client.path(link).ok_or_else(elsewhere)
    }

    /// A resource and its version.
    async fn get(&mut self, path: &str) -> Result<(Value, Option<HeaderValue>), PowerError> {
        let mut path = path.to_owned();
        for _ in 0..3 {
            let answer = self.ask(&Ask::get(&path)).await?;
            if answer.status.is_redirection() {
                path = self.own(location(&answer).unwrap_or_default())?.to_owned();
                continue;
            }
            accepted(&answer)?;
            let value: Value = serde_json::from_slice(&answer.body).map_err(|error| {
                PowerError::Garbled(format!("the answer to {} isn't JSON: {error}", line(&path)))
            })?;
            let told =
                value["@odata.etag"].as_str().and_then(|tag| HeaderValue::from_str(tag).ok());
            let version = told.or_else(|| answer.headers.get(ETAG).cloned());
            return Ok((value, version));
        }
        Err(PowerError::Garbled(format!("it redirects {} in a circle", line(&path))))
    }

    /// Path of the host's system.
    async fn system(&mut self) -> Result<String, PowerError> {
        let (systems, _) = self.get(SYSTEMS).await?;
        let members = systems["Members"].as_array().map(Vec::as_slice).unwrap_or_default();
        let paths = members.iter().filter_map(|member| member["@odata.id"].as_str());
        let id = |path: &str| {
            let path = path.trim_end_matches('/');
            path.rsplit_once('/').map_or(path, |(_, id)| id).to_owned()
        };
        let paths: Vec<_> = paths.take(1000).collect();
        let found = match &self.bmc.system {
            Some(wanted) => paths.iter().find(|path| id(path) == *wanted),
            None => paths.first().filter(|_| paths.len() == 1),
        };
        if let Some(found) = found {
            return Ok(self.own(found)?.to_owned());
        }
        if paths.is_empty() {
            return Err(PowerError::Garbled(format!("it tells of no system at {SYSTEMS}")));
        }
        let ids: Vec<_> = paths.iter().map(|path| id(path)).collect();
        let has = line(&ids.join(", "));
        Err(PowerError::Controller(match &self.bmc.system {
            Some(wanted) => format!("the BMC has no system `{wanted}`; it has {has}"),
            None => format!("the inventory has to say which system of the BMC; it has {has}"),
        }))
    }

    /// Asks for a reset of one of these types, the first that it has.
    async fn reset(&mut self, action: Action) -> Result<(), PowerError> {
        let path = self.system().await?;
        let (system, _) = self.get(&path).await?;
        let reset = &system["Actions"]["#ComputerSystem.Reset"];
        let Some(target) = reset["target"].as_str() else {
            return Err(PowerError::Unsupported("the BMC can't switch this system".to_owned()));
        };
        let target = self.own(target)?;
        let known = self.reset_types(reset).await?;
        let wanted = RESET_TYPES.iter().find(|(a, _)| *a == action).map_or(&[][..], |row| row.1);
        let lacking = || {
            let has =
                known.as_ref().map_or(String::new(), |k| format!("; it has {}", k.join(", ")));
            PowerError::Unsupported(line(&format!("the BMC has no {}{has}", wanted.join(" or "))))
        };
        let twice = match action {
            Action::On | Action::Off | Action::SoftOff => Twice::Harmless,
            Action::Reset | Action::Cycle | Action::Nmi => Twice::Harmful,
        };
        for kind in wanted {
            if known.as_ref().is_some_and(|known| !known.iter().any(|k| k == kind)) {
                continue;
            }
            let answer = self.ask(&Ask::post(target, json!({ "ResetType": kind }), twice)).await?;
            let unknown = [StatusCode::BAD_REQUEST, StatusCode::NOT_IMPLEMENTED];
            // It didn't say what it takes, so it is tried.
            if known.is_none() && unknown.contains(&answer.status) && wanted.last() != Some(kind) {
                continue;
            }
            if answer.status == StatusCode::NOT_IMPLEMENTED {
                return Err(PowerError::Unsupported(format!(
                    "the BMC can't: {}",
                    explain(&answer)
                )));
            }
            accepted(&answer)?;
            return self.finish(answer).await;
        }
        Err(lacking())
    }

    /// The types of reset that it takes, if it says so.
    async fn reset_types(&mut self, reset: &Value) -> Result<Option<Vec<String>>, PowerError> {
        let words = |list: &Value| {
            let list = list.as_array()?.iter().take(100);
            Some(list.filter_map(Value::as_str).map(str::to_owned).collect())
        };
        if let Some(types) = words(&reset["ResetType@Redfish.AllowableValues"]) {
            return Ok(Some(types));
        }
        let Some(info) = reset["@Redfish.ActionInfo"].as_str() else { return Ok(None) };
        let (info, _) = self.get(self.own(info)?).await?;
        let parameters = info["Parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
        let kind = parameters.iter().find(|parameter| parameter["Name"] == "ResetType");
        Ok(kind.and_then(|kind| words(&kind["AllowableValues"])))
    }

    /// Waits for the task that an accepted request has become, if it has.
    async fn finish(&mut self, answer: Answer) -> Result<(), PowerError> {
        if answer.status != StatusCode::ACCEPTED {
            return Ok(());
        }
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let task = location(&answer).or_else(|| body["@odata.id"].as_str());
        let Some(task) = task else { return Ok(()) };
        let task = self.own(task)?;
        let mut pauses = Pauses::new();
        loop {
            let answer = self.ask(&Ask::get(task)).await?;
            let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            match (answer.status, body["TaskState"].as_str()) {
                (_, Some("Exception" | "Killed" | "Cancelled" | "Interrupted")) => {
                    return Err(PowerError::Refused(format!(
                        "its task failed: {}",
                        explain(&answer)
                    )));
                }
                (_, Some("Completed")) => return Ok(()),
                (StatusCode::ACCEPTED, _) | (_, Some(_)) => {}
                // A task that is done may be gone.
                (StatusCode::NOT_FOUND | StatusCode::GONE, None) => return Ok(()),
                (_, None) => return accepted(&answer),
            }
            let goes_on = || PowerError::TimedOut(self.by.whole);
            if let Some(pause) = retry_after(&answer) {
                if pause >= self.by.left() {
                    return Err(goes_on());
                }
                sleep(pause).await;
            } else if !self.by.pause(&mut pauses).await {
                return Err(goes_on());
            }
        }
    }

    /// Changes what the next boot is from.
    async fn set_boot(&mut self, path: &str, boot: &Value) -> Result<(), PowerError> {
        let stale = [StatusCode::PRECONDITION_FAILED, StatusCode::PRECONDITION_REQUIRED];
        for last in [false, true] {
            let (_, mut version) = self.get(path).await?;
            if last {
                version = version.map(strong);
            }
            let body = Some(json!({ "Boot": boot }));
            let patch = Ask { method: Method::PATCH, body, version, ..Ask::get(path) };
            let answer = self.ask(&patch).await?;
            if !last && stale.contains(&answer.status) {
                continue;
            }
            accepted(&answer)?;
            return self.finish(answer).await;
        }
        Ok(())
    }

    /// Waits until the system tells what is `wanted` of its next boot, and tells what it says then.
    async fn boot_shown(
        &mut self,
        path: &str,
        wanted: impl Fn(&Override) -> bool,
    ) -> Result<Override, PowerError> {
        let mut pauses = Pauses::new();
        for _ in 0..4 {
            let shown = Override::of(&self.get(path).await?.0);
            if wanted(&shown) {
                return Ok(shown);
            }
            if !self.by.pause(&mut pauses).await {
                break;
            }
        }
        Ok(Override::of(&self.get(path).await?.0))
    }

    /// Takes back that the next boot is from the network.
    async fn boot_from_disk(&mut self, path: &str) -> Result<(), PowerError> {
        let ways = [
            json!({ "BootSourceOverrideEnabled": "Disabled" }),
            json!({ "BootSourceOverrideTarget": "Hdd", "BootSourceOverrideEnabled": "Once" }),
        ];
        let mut result = Ok(());
        for way in ways {
            result = self.set_boot(path, &way).await;
            if result.is_ok() {
                let shown = self.boot_shown(path, |o| o.network() == Some(false)).await?;
                if shown.network() != Some(true) {
                    return Ok(());
                }
                result = Err(PowerError::Refused(format!("the next boot stays {shown}")));
            }
        }
        result
    }
}

/// What a system says of its next boots.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Override {
    enabled: Option<String>,
    target: Option<String>,
}

impl Override {
    fn of(system: &Value) -> Self {
        let word = |key: &str| system["Boot"][key].as_str().map(line);
        Self {
            enabled: word("BootSourceOverrideEnabled"),
            target: word("BootSourceOverrideTarget"),
        }
    }

    /// Whether the next boot is from the network, if it says.
    fn network(&self) -> Option<bool> {
        match (self.enabled.as_deref(), self.target.as_deref()) {
            (Some("Disabled"), _) => Some(false),
            (_, Some(target)) => Some(matches!(target, "Pxe" | "UefiHttp")),
            (_, None) => None,
        }
    }
}

impl std::fmt::Display for Override {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = |word: &Option<String>| word.clone().unwrap_or("untold".to_owned());
        write!(f, "{} ({})", word(&self.target), word(&self.enabled))
    }
}

#[async_trait(?Send)]
impl Bmc for Redfish {
    async fn state(&self, by: Deadline) -> Result<PowerState, PowerError> {
        self.talk(by, async |talk| {
            let path = talk.system().await?;
            let (system, _) = talk.get(&path).await?;
            Ok(match system["PowerState"].as_str() {
                Some("On") => PowerState::On,
                Some("Off") => PowerState::Off,
                _ => PowerState::Unknown,
            })
        })
        .await
    }

    async fn order(&self, action: Action, by: Deadline) -> Result<(), PowerError> {
        self.talk(by, async |talk| talk.reset(action).await).await
    }

    async fn boot_from_network_once(
        &self,
        firmware: Firmware,
        by: Deadline,
    ) -> Result<(), PowerError> {
        self.talk(by, async |talk| {
            let path = talk.system().await?;
            let mut once = json!({
                "BootSourceOverrideTarget": "Pxe",
                "BootSourceOverrideEnabled": "Once",
            });
            let mode = match firmware {
                Firmware::Bios => "Legacy",
                Firmware::Uefi => "UEFI",
            };
            let told = talk.get(&path).await?.0["Boot"]["BootSourceOverrideMode"].take();
            if told.is_string() && told != mode {
                once["BootSourceOverrideMode"] = json!(mode);
            }
            talk.set_boot(&path, &once).await?;
            let wanted = Override { enabled: Some("Once".into()), target: Some("Pxe".into()) };
            let shown = talk.boot_shown(&path, |shown| *shown == wanted).await?;
            if shown == wanted {
                return Ok(());
            }
            let text = format!("asked for one boot from the network, it tells {shown}");
            Err(PowerError::Refused(match talk.boot_from_disk(&path).await {
                Ok(()) => format!("{text}; taken back"),
                Err(error) => format!("{text}, and that can't be taken back: {error}"),
            }))
        })
        .await
    }

    async fn boots_from_network(&self, by: Deadline) -> Result<Option<bool>, PowerError> {
        self.talk(by, async |talk| {
            let path = talk.system().await?;
            Ok(Override::of(&talk.get(&path).await?.0).network())
        })
        .await
    }

    async fn boot_from_disk(&self, by: Deadline) -> Result<(), PowerError> {
        self.talk(by, async |talk| {
            let path = talk.system().await?;
            talk.boot_from_disk(&path).await
        })
        .await
    }
}

/// Whether the next answer may be a better one.
fn may_pass(status: StatusCode) -> bool {
    let never = [StatusCode::NOT_IMPLEMENTED, StatusCode::HTTP_VERSION_NOT_SUPPORTED];
    status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() && !never.contains(&status)
}

/// A version as those want it that take no weak ones, although they give them.
fn strong(version: HeaderValue) -> HeaderValue {
    let bytes = version.as_bytes();
    HeaderValue::from_bytes(bytes.strip_prefix(b"W/").unwrap_or(bytes)).unwrap_or(version)
}

fn location(answer: &Answer) -> Option<&str> {
    answer.headers.get(LOCATION)?.to_str().ok()
}

/// How long it asks to be left alone.
fn retry_after(answer: &Answer) -> Option<Duration> {
    let seconds = answer.headers.get(RETRY_AFTER)?.to_str().ok()?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

/// Whether it did what it was asked for.
fn accepted(answer: &Answer) -> Result<(), PowerError> {
    match answer.status {
        status if status.is_success() => Ok(()),
        StatusCode::FORBIDDEN => Err(PowerError::Unauthorised(explain(answer))),
        _ => Err(PowerError::Refused(explain(answer))),
    }
}

/// Status and messages of an answer.
fn explain(answer: &Answer) -> String {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let messages = |list: &Value| {
        let list = list.as_array()?.iter();
        let texts: Vec<_> = list.filter_map(|message| message["Message"].as_str()).collect();
        (!texts.is_empty()).then(|| texts.join(" "))
    };
    let error = &body["error"];
    let text = messages(&error["@Message.ExtendedInfo"])
        .or_else(|| error["message"].as_str().map(str::to_owned))
        .or_else(|| messages(&body["Messages"]));
    line(&text.map_or(answer.status.to_string(), |text| format!("{}: {text}", answer.status)))
}
