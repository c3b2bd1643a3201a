//! The inventory of a lab, checked as a whole: each host by itself, and that no two are the same
//! machine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use kgate_model::inventory::{
    Boot, BootMethod, ConsoleSource, Hook, Hooks, HostKey, Inventory, Ipmi, LabHost, Limits,
    Modules, Power, PowerCommands, Reservation, SecretRef, Ssh, Tls,
};

use super::{count, list, many, set, text_at};
use crate::inventory::{BOOT_KEYS, POWER_KEYS, Places};
use crate::raw::{self, Sol};
use crate::read::{Field, Many, Of};
use crate::sink::Sink;
use crate::texts::inventory::{BootWord, HostName, LocalPath, Server, Shell, Url};
use crate::yaml::Span;

/// Port of IPMI.
const IPMI: u16 = 623;
/// Time limit of a hook.
const HOOK: Duration = Duration::from_secs(300);
/// Silence of kgate after which a host goes back to production; no less than its boot may take, in which
/// nothing is heard of kgate.
const GUARD: Duration = Duration::from_secs(600);
/// The least of that: a host takes its time to come up.
const LEAST_GUARD: Duration = Duration::from_secs(5);

/// Keys that some consoles have and others don't.
const CONSOLE_KEYS: [(&str, &[&str]); 5] = [
    ("user", &["sol"]),
    ("password", &["sol"]),
    ("cipher-suite", &["sol"]),
    ("name", &["conserver"]),
    ("device", &["netconsole"]),
];

pub(crate) fn inventory(
    raw: Field<raw::Inventory>,
    places: &Places,
    sink: &Sink<'_>,
) -> Option<Inventory> {
    let (root, raw) = raw.spanned()?;
    let span = raw.hosts.span();
    let hosts = raw.hosts.required(root, "an inventory", "hosts", sink)?;
    if hosts.0.is_empty() {
        sink.report(span, "an inventory without a host", None);
    }
    let names: Vec<String> =
        hosts.0.iter().filter_map(|(name, _)| name.as_ref().cloned()).collect();
    let mut machines = BTreeMap::new();
    let mut resolved = Vec::new();
    for (key, host) in hosts.0 {
        let (Some((span, name)), Some(host)) = (key.spanned(), host.get()) else { continue };
        let Some(HostName(name)) = text_at(span, &name, sink) else { continue };
        for tag in host.tags.as_ref().into_iter().flatten() {
            if let Some(Of(word)) = tag.as_ref().filter(|Of(word)| names.contains(&word.0)) {
                sink.report(tag.span(), format!("the tag `{}` is a host's name", word.0), None);
            }
        }
        let mut reader = Reader { name: &name, span, places, machines: &mut machines, sink };
        resolved.extend(reader.host(host));
    }
    Some(Inventory { hosts: resolved })
}

/// What is needed to read one host.
struct Reader<'a, 'b> {
    name: &'a str,
    /// Where its name is.
    span: Span,
    places: &'a Places,
    /// What can only be one host's, to where it was given.
    machines: &'a mut BTreeMap<(&'static str, String), Span>,
    sink: &'a Sink<'b>,
}

/// The BMC of a host's power, for its serial console.
#[derive(Clone, Default)]
struct Bmc {
    address: Option<String>,
    port: Option<u16>,
    user: Option<String>,
    password: Option<SecretRef>,
    cipher_suite: Option<u8>,
}

impl Reader<'_, '_> {
    fn host(&mut self, raw: raw::Host) -> Option<LabHost> {
        let (power, bmc) = match raw.power.spanned() {
            Some((span, power)) => self.power(span, power),
            None => (None, Bmc::default()),
        };
        let consoles = raw.console.get().map(|Many(items)| items).unwrap_or_default();
        let consoles = consoles
            .into_iter()
            .filter_map(Field::spanned)
            .filter_map(|(span, raw::Short(console))| self.console(span, console, &bmc))
            .collect();
        let needs_bmc = |boot: &Boot| matches!(boot.method, BootMethod::Pxe { .. });
        let boot_span = raw.boot.span();
        let (limits, default) = (raw.limits.get().unwrap_or_default(), Limits::default());
        let limits = Limits {
            boot: limits.boot.plain().unwrap_or(default.boot),
            shutdown: limits.shutdown.plain().unwrap_or(default.shutdown),
            nmi: limits.nmi.plain().unwrap_or(default.nmi),
            bmc: limits.bmc.plain().unwrap_or(default.bmc),
        };
        let boot = self.boot(raw.boot.get().unwrap_or_default(), limits.boot);
        if boot.as_ref().is_some_and(needs_bmc) && power.is_none() && self.sink.is_clean() {
            let hint = "a boot from the network is asked of the BMC: add `power`";
            self.sink.report(boot_span, "`method: pxe` without power", Some(hint.into()));
        }
        let tags = set(raw.tags, "tags", |tag| tag.0.clone(), self.sink);
        let ssh = self.ssh(raw.ssh.get().unwrap_or_default())?;
        let hooks = self.hooks(raw.hooks.get().unwrap_or_default());
        let reservation = match raw.reservation.spanned() {
            Some((span, reservation)) => self.reservation(span, reservation)?,
            None => Reservation::Own,
        };
        Some(LabHost {
            name: self.name.to_owned(),
            tags: tags.into_iter().map(|tag| tag.0).collect(),
            ssh,
            power,
            consoles,
            boot: boot?,
            hooks,
            reservation,
            limits,
        })
    }

    /// Says that two hosts are the same machine.
    fn only(&mut self, machine: &str, span: Span, message: &'static str) {
        match self.machines.get(&(message, machine.to_owned())) {
            Some(first) => {
                let hint = format!("the first is in line {}", first.line);
                self.sink.report(span, format!("{message} `{machine}`"), Some(hint));
            }
            None => drop(self.machines.insert((message, machine.to_owned()), span)),
        }
    }

    /// A path of the controller.
    fn path(&self, field: Field<Of<LocalPath>>) -> Option<PathBuf> {
        let (span, Of(LocalPath(text))) = field.spanned()?;
        let Some(below_home) = text.strip_prefix("~/") else {
            return Some(self.places.directory.join(text));
        };
        let home = self.places.home.as_ref().map(|home| home.join(below_home));
        if home.is_none() {
            self.sink.report(span, "`~/` where there is no home directory", None);
        }
        home
    }

    /// A command of the controller: it runs beside the file.
    fn command(&self, field: Field<Of<Shell>>) -> Option<String> {
        let Shell(text) = field.plain()?;
        let directory = self.places.directory.to_string_lossy().replace('\'', r"'\''");
        Some(format!("cd '{directory}' || exit; {text}"))
    }

    fn ssh(&mut self, raw: raw::Ssh) -> Option<Ssh> {
        let span = if raw.address.is_present() { raw.address.span() } else { self.span };
        let given = raw.address.is_present();
        let address = raw.address.plain().map(|address| address.0);
        if given && address.is_none() {
            return None;
        }
        let address = address.unwrap_or_else(|| self.name.to_owned());
        let port = port(count(raw.port, "port", 1, 65_535, self.sink), 22);
        let jump = raw.jump.plain().map(|jump| jump.0);
        let behind = jump.as_ref().map(|jump| format!(" behind {jump}")).unwrap_or_default();
        self.only(&format!("{address}:{port}{behind}"), span, "a second host at");
        let (pinned, known) = (raw.host_key.present_span(), raw.known_hosts.present_span());
        if let (Some(span), Some(_)) = (pinned, known) {
            self.sink.report(span, "`ssh` takes one of host-key and known-hosts", None);
        }
        let host_key = match pinned {
            Some(_) => HostKey::Pinned(
                many(raw.host_key, "host-key", self.sink).into_iter().map(|key| key.0).collect(),
            ),
            None => HostKey::KnownHosts(self.path(raw.known_hosts)),
        };
        let user = raw.user.plain().map_or_else(|| "root".to_owned(), |user| user.0);
        Some(Ssh { address, port, user, identity: self.path(raw.identity), host_key, jump })
    }

    fn secret(&self, field: Field<raw::Secret>) -> Option<SecretRef> {
        let (span, raw) = field.spanned()?;
        let given = [
            ("env", raw.env.present_span()),
            ("file", raw.file.present_span()),
            ("command", raw.command.present_span()),
        ];
        match one_of("a secret", span, &given, self.sink)? {
            "env" => raw.env.plain().map(|name| SecretRef::Env(name.0)),
            "file" => self.path(raw.file).map(SecretRef::File),
            _ => self.command(raw.command).map(SecretRef::Command),
        }
    }

    fn power(&mut self, span: Span, raw: raw::Power) -> (Option<Power>, Bmc) {
        let given = [
            ("redfish", raw.redfish.present_span()),
            ("ipmi", raw.ipmi.present_span()),
            ("command", raw.command.present_span()),
        ];
        let Some(kind) = one_of("`power`", span, &given, self.sink) else {
            return (None, Bmc::default());
        };
        let present = [
            raw.user.present_span(),
            raw.password.present_span(),
            raw.system.present_span(),
            raw.ca.present_span(),
            raw.certificate_sha256.present_span(),
            raw.insecure.present_span(),
            raw.cipher_suite.present_span(),
        ];
        misplaced("power by", kind, POWER_KEYS.into_iter().zip(present), self.sink);
        if kind == "command" {
            return (self.power_commands(raw.command).map(Power::Command), Bmc::default());
        }
        let user = raw.user.required(span, "a BMC", "user", self.sink).map(|Of(user)| user.0);
        if !raw.password.is_present() {
            let hint = "{ env: VARIABLE }, { file: PATH } or { command: … }";
            self.sink.report(span, "a BMC needs the key `password`", Some(hint.to_owned()));
        }
        let password = self.secret(raw.password);
        let mut bmc = Bmc { user, password, ..Bmc::default() };
        if kind == "ipmi" {
            let place = raw.ipmi.span();
            if let Some(Server { address, port }) = raw.ipmi.plain() {
                (bmc.address, bmc.port) = (Some(address), port);
            }
            bmc.cipher_suite = cipher_suite(raw.cipher_suite, self.sink);
            let ipmi = ipmi(&bmc);
            if let Some(Ipmi { address, port, .. }) = &ipmi {
                self.only(&format!("ipmi {address}:{port}"), place, "a second host with the BMC");
            }
            return (ipmi.map(Power::Ipmi), bmc);
        }
        let tls = self.tls(raw.ca, raw.certificate_sha256, raw.insecure);
        let system = raw.system.plain().map(|system| system.0);
        let redfish = raw.redfish.spanned().map(|(span, Of(url))| {
            let Url { text, scheme, address } = url;
            bmc.address = Some(address);
            let clear = scheme == "http" && tls == Some(Tls::Insecure);
            if scheme != "https" && !clear {
                let hint = "https://…, or `insecure: true` for a password that all can read";
                let message = format!("`{scheme}:` is not safe to log in over");
                self.sink.report(span, message, Some(hint.to_owned()));
            }
            let of =
                system.as_deref().map(|system| format!(" system {system}")).unwrap_or_default();
            self.only(&format!("{text}{of}"), span, "a second host with the BMC");
            text
        });
        let Bmc { user, password, .. } = bmc.clone();
        let redfish = || {
            Some(Power::Redfish {
                url: redfish?,
                system,
                user: user?,
                password: password?,
                tls: tls?,
            })
        };
        (redfish(), bmc)
    }

    fn tls(
        &self,
        ca: Field<Of<LocalPath>>,
        pin: Field<Of<crate::texts::inventory::Fingerprint>>,
        insecure: Field<bool>,
    ) -> Option<Tls> {
        let given = [
            ("ca", ca.present_span()),
            ("certificate-sha256", pin.present_span()),
            ("insecure", insecure.present_span()),
        ];
        if given.iter().all(|(_, span)| span.is_none()) {
            return Some(Tls::System);
        }
        match one_of("`power`", Span::START, &given, self.sink)? {
            "ca" => self.path(ca).map(Tls::Ca),
            "certificate-sha256" => pin.plain().map(|pin| Tls::Pinned(pin.0)),
            _ => insecure.get().map(|yes| if yes { Tls::Insecure } else { Tls::System }),
        }
    }

    fn power_commands(&self, field: Field<raw::PowerCommands>) -> Option<PowerCommands> {
        let (span, raw) = field.spanned()?;
        let restarts = raw.reset.is_present()
            || raw.cycle.is_present()
            || (raw.on.is_present() && raw.off.is_present());
        if !restarts {
            let hint = Some("add reset, cycle, or both on and off".to_owned());
            self.sink.report(span, "power commands that can't restart a host", hint);
        }
        if !raw.state.is_present() {
            let hint = Some("a command that prints on or off".to_owned());
            self.sink.report(span, "power commands need the key `state`", hint);
        }
        Some(PowerCommands {
            state: self.command(raw.state),
            on: self.command(raw.on),
            off: self.command(raw.off),
            soft_off: self.command(raw.soft_off),
            reset: self.command(raw.reset),
            cycle: self.command(raw.cycle),
            nmi: self.command(raw.nmi),
            pxe_once: self.command(raw.pxe_once),
        })
    }

    fn console(&mut self, span: Span, raw: raw::Console, bmc: &Bmc) -> Option<ConsoleSource> {
        let given = [
            ("sol", raw.sol.present_span()),
            ("tcp", raw.tcp.present_span()),
            ("telnet", raw.telnet.present_span()),
            ("conserver", raw.conserver.present_span()),
            ("command", raw.command.present_span()),
            ("netconsole", raw.netconsole.present_span()),
        ];
        let kind = one_of("a console", span, &given, self.sink)?;
        let present = [
            raw.user.present_span(),
            raw.password.present_span(),
            raw.cipher_suite.present_span(),
            raw.name.present_span(),
            raw.device.present_span(),
        ];
        misplaced("console by", kind, CONSOLE_KEYS.into_iter().zip(present), self.sink);
        match kind {
            "sol" => {
                let mut sol = bmc.clone();
                if let Sol::Of(Server { address, port }) = raw.sol.plain()? {
                    (sol.address, sol.port) = (Some(address), port);
                }
                if let Some(user) = raw.user.plain() {
                    sol.user = Some(user.0);
                }
                sol.password = self.secret(raw.password).or(sol.password);
                sol.cipher_suite = cipher_suite(raw.cipher_suite, self.sink).or(sol.cipher_suite);
                let source = ipmi(&sol).map(ConsoleSource::Sol);
                if source.is_none() && self.sink.is_clean() {
                    let hint = "{ sol: ADDRESS, user: …, password: … }".to_owned();
                    let message = "`sol` where `power` names no BMC with user and password";
                    self.sink.report(span, message, Some(hint));
                }
                source
            }
            "tcp" | "telnet" => {
                let field = if kind == "tcp" { raw.tcp } else { raw.telnet };
                let (span, Of(Server { address, port })) = field.spanned()?;
                let Some(port) = port else {
                    let hint = Some(format!("{kind}: ADDRESS:PORT"));
                    self.sink.report(span, format!("`{kind}` needs a port"), hint);
                    return None;
                };
                self.only(&format!("{address}:{port}"), span, "a second console at");
                Some(ConsoleSource::Tcp { address, port, telnet: kind == "telnet" })
            }
            "conserver" => {
                let (span, Of(Server { address, port })) = raw.conserver.spanned()?;
                let console = raw.name.plain().map_or_else(|| self.name.to_owned(), |name| name.0);
                let port = port.unwrap_or(782);
                let of = format!("{address}:{port} {console}");
                self.only(&of, span, "a second console at");
                Some(ConsoleSource::Conserver { server: address, port, console })
            }
            "command" => self.command(raw.command).map(ConsoleSource::Command),
            _ => {
                let device = raw.device.required(span, "a netconsole", "device", self.sink);
                let Server { address, port } = raw.netconsole.plain()?;
                let Of(device) = device?;
                let port = port.unwrap_or(6666);
                Some(ConsoleSource::Netconsole { port, address, device: device.0 })
            }
        }
    }

    fn boot(&mut self, raw: raw::Boot, limit: Duration) -> Option<Boot> {
        let method = raw.method.plain().unwrap_or(BootWord::Grub);
        let word = match method {
            BootWord::Grub => "grub",
            BootWord::Kexec => "kexec",
            BootWord::Pxe => "pxe",
        };
        let present = [raw.grub.present_span(), raw.pxe.present_span()];
        misplaced("boot by", word, BOOT_KEYS.into_iter().zip(present), self.sink);
        let method = match method {
            BootWord::Grub => {
                let grub = raw.grub.get().unwrap_or_default();
                Some(BootMethod::Grub {
                    directory: grub.directory.plain().map(|path| path.0.into()),
                    production: grub.production.plain().map(|entry| entry.0),
                })
            }
            BootWord::Kexec => Some(BootMethod::Kexec),
            BootWord::Pxe => self.pxe(raw.pxe),
        };
        let guard_span = raw.guard.span();
        let guard = raw.guard.plain().unwrap_or(GUARD.max(limit));
        if guard < LEAST_GUARD {
            let hint = "a host that comes up takes a while to be heard";
            self.sink.report(guard_span, "`guard` is less than 5s", Some(hint.to_owned()));
        }
        let arguments =
            raw.command_line.spanned().map(|(_, Many(items))| items).unwrap_or_default();
        let modules = list(raw.initrd_modules, "initrd-modules", self.sink);
        Some(Boot {
            method: method?,
            directory: raw
                .directory
                .plain()
                .map_or_else(|| "/var/lib/kgate".into(), |path| path.0.into()),
            command_line: arguments
                .into_iter()
                .filter_map(Field::plain)
                .flat_map(|arguments| arguments.0)
                .collect(),
            root: raw.root.plain().map(|root| root.0),
            initrd_modules: modules.into_iter().map(|(_, name)| name.0).collect(),
            modules: raw.modules.plain().unwrap_or(Modules::All),
            guard,
        })
    }

    fn pxe(&mut self, field: Field<raw::Pxe>) -> Option<BootMethod> {
        const OWNER: &str = "a boot by pxe";
        if !field.is_present() {
            let hint = "pxe: { directory: …, script: …, url: … }".to_owned();
            self.sink.report(self.span, "a boot by pxe needs the key `pxe`", Some(hint));
        }
        let (span, raw) = field.spanned()?;
        let script_span = raw.script.span();
        let script = raw.script.required(span, OWNER, "script", self.sink);
        let url = raw.url.required(span, OWNER, "url", self.sink);
        if !raw.directory.is_present() {
            self.sink.report(span, format!("{OWNER} needs the key `directory`"), None);
        }
        let directory = self.path(raw.directory)?;
        let script = PathBuf::from(script?.0.0);
        let whole = directory.join(&script).display().to_string();
        self.only(&whole, script_span, "a second host that boots by");
        Some(BootMethod::Pxe { directory, script, url: url?.0.text })
    }

    fn hooks(&self, raw: raw::Hooks) -> Hooks {
        let hook = |field: Field<raw::Short<raw::Hook>>, on_host: bool| {
            let (span, raw::Short(raw)) = field.spanned()?;
            if !raw.run.is_present() {
                self.sink.report(span, "a hook needs the key `run`", None);
            }
            let command = match on_host {
                true => raw.run.plain().map(|Shell(text)| text),
                false => self.command(raw.run),
            };
            Some(Hook { command: command?, timeout: raw.timeout.plain().unwrap_or(HOOK) })
        };
        Hooks {
            drain: hook(raw.drain, false),
            take_out: hook(raw.take_out, false),
            ready: hook(raw.ready, true),
            production_ready: hook(raw.production_ready, true),
            undrain: hook(raw.undrain, false),
        }
    }

    fn reservation(&mut self, span: Span, raw: raw::Reservation) -> Option<Reservation> {
        let place_span = if raw.place.is_present() { raw.place.span() } else { self.span };
        let server = raw.labgrid.required(span, "`reservation`", "labgrid", self.sink);
        let place = raw.place.plain().map_or_else(|| self.name.to_owned(), |place| place.0);
        let Of(Server { address, port }) = server?;
        let address = if address.contains(':') { format!("[{address}]") } else { address };
        let coordinator = format!("{address}:{}", port.unwrap_or(20_408));
        let of = format!("{coordinator} {place}");
        self.only(&of, place_span, "a second host that is the place");
        Some(Reservation::Labgrid { coordinator, place })
    }
}

fn port(given: Option<u32>, default: u16) -> u16 {
    given.and_then(|port| u16::try_from(port).ok()).unwrap_or(default)
}

fn cipher_suite(field: Field<u64>, sink: &Sink<'_>) -> Option<u8> {
    u8::try_from(count(field, "cipher-suite", 0, 255, sink)?).ok()
}

/// Nothing when something is missing, which was reported.
fn ipmi(bmc: &Bmc) -> Option<Ipmi> {
    let Bmc { address, port, user, password, cipher_suite } = bmc.clone();
    let port = port.unwrap_or(IPMI);
    Some(Ipmi { address: address?, port, user: user?, password: password?, cipher_suite })
}

/// The one key of these that is given; anything else is reported.
fn one_of<'k>(
    owner: &str,
    span: Span,
    given: &[(&'k str, Option<Span>)],
    sink: &Sink<'_>,
) -> Option<&'k str> {
    let mut present = given.iter().filter_map(|(key, span)| Some((*key, (*span)?)));
    let all = || given.iter().map(|(key, _)| *key).collect::<Vec<_>>().join(", ");
    match (present.next(), present.next()) {
        (Some((key, _)), None) => return Some(key),
        (Some((first, _)), Some((second, span))) => {
            let hint = Some(format!("one of {}", all()));
            sink.report(span, format!("{owner} with both `{first}` and `{second}`"), hint);
        }
        (None, _) => {
            sink.report(span, format!("{owner} needs one of {}", all()), None);
        }
    }
    None
}

/// Reports the keys that only other kinds have.
fn misplaced(
    owner: &str,
    kind: &str,
    keys: impl Iterator<Item = ((&'static str, &'static [&'static str]), Option<Span>)>,
    sink: &Sink<'_>,
) {
    for ((key, takers), place) in keys {
        if let Some(place) = place
            && !takers.contains(&kind)
        {
            let hint = format!("only for {}", takers.join(" and "));
            sink.report(place, format!("`{key}` in a {owner} {kind}"), Some(hint));
        }
    }
}
