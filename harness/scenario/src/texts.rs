//! Values written as one piece of text: how each is read, and what an editor checks of it.

use std::time::Duration;

use schemars::{Schema, json_schema};

use crate::glob::Glob;
use crate::ops::OPS;
use crate::pattern::Pattern;
use crate::policy::{FindingAction, Reaction, SizeLimit};
use crate::quantity::{Percent, Unit};
use crate::read::{FromText, Words};
use crate::scenario::{ConfigRequirement, ResultFormat};
use crate::sink::word_hint;
use crate::tiers::Settles;
use crate::{Better, Kind, Start, Tier};

macro_rules! words {
    ($($type:ty, $name:literal, $phrase:literal, $words:expr;)*) => {
        $(impl Words for $type {
            const NAME: &str = $name;
            const PHRASE: &str = $phrase;
            fn words() -> Vec<(&'static str, Self)> {
                $words.into()
            }
        })*
    };
}

words! {
    Kind, "Kind", "a kind of scenario", Kind::ALL.map(|kind| (kind.as_str(), kind));
    Start, "Start", "a way to get a machine", Start::ALL.map(|start| (start.as_str(), start));
    Better, "Better", "a direction", [("higher", Better::Higher), ("lower", Better::Lower)];
    Unit, "Unit", "a unit", Unit::ALL.iter().map(|unit| (unit.as_str(), *unit)).collect::<Vec<_>>();
    ResultFormat, "ResultFormat", "a format of results",
        [("ktap", ResultFormat::Ktap), ("tap", ResultFormat::Tap)];
    Reaction, "Reaction", "a reaction",
        [("ignore", Reaction::Ignore), ("report", Reaction::Report), ("reject", Reaction::Reject)];
    FindingAction, "FindingAction", "an action on a finding",
        [("end-boot", FindingAction::EndBoot), ("mark", FindingAction::Mark)];
    Tier, "Tier", "a tier", Tier::ALL.map(|tier| (tier.as_str(), tier));
    Settles, "Settles", "what an inconclusive verdict comes to",
        [("gated", Settles::Gated), ("again", Settles::Again)];
}

/// Splits `12.5MiB` into its number and its unit.
fn number_and_unit(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number = text[..end].parse::<f64>().ok()?;
    Some((number, text[end..].trim_start()))
}

const DURATIONS: [(&str, f64); 4] = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

impl FromText for Duration {
    const NAME: &str = "Duration";
    fn from_text(text: &str) -> Result<Self, String> {
        let (number, unit) = number_and_unit(text)
            .ok_or_else(|| format!("`{text}` is not a duration\nsuch as 500ms, 10s, 5m or 1h"))?;
        let Some((_, seconds)) = DURATIONS.iter().find(|(word, _)| *word == unit) else {
            return Err(match unit {
                "" => format!("`{text}` lacks its unit\ndid you mean `{text}s`?"),
                _ => {
                    let hint = word_hint(unit, DURATIONS.map(|(word, _)| word)).unwrap_or_default();
                    format!("`{unit}` is not a unit of time\n{hint}")
                }
            });
        };
        match Self::try_from_secs_f64(number * seconds) {
            Ok(value) if value < Self::from_millis(1) => Err(format!("`{text}` is less than 1ms")),
            Ok(value) if value <= LONGEST => Ok(value),
            _ => Err(format!("`{text}` is longer than a week")),
        }
    }
    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": r"^[0-9.]+ *(ms|s|m|h)$", "examples": ["10s"] })
    }
}

/// A size in bytes, never 0.
pub(crate) struct Size(pub(crate) u64);

const SIZES: [(&str, u64); 5] =
    [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

impl FromText for Size {
    const NAME: &str = "Size";
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "never negative, and below 2^50"
    )]
    fn from_text(text: &str) -> Result<Self, String> {
        let (number, unit) = number_and_unit(text)
            .ok_or_else(|| format!("`{text}` is not a size\nsuch as 64KiB, 512MiB or 1GiB"))?;
        let Some((_, scale)) = SIZES.iter().find(|(word, _)| *word == unit) else {
            let near = match unit.chars().next().map(|c| c.to_ascii_uppercase()) {
                Some(c @ ('K' | 'M' | 'G' | 'T')) => format!("did you mean `{number}{c}iB`?"),
                _ => "one of B, KiB, MiB, GiB, TiB".into(),
            };
            return Err(match unit {
                "" => format!("`{text}` lacks its unit\n{near}"),
                _ => format!("`{unit}` is not a unit of size\n{near}"),
            });
        };
        let bytes = number * *scale as f64;
        if bytes < 1.0 || bytes > (1_u64 << 50) as f64 {
            return Err(format!("`{text}` is not between 1B and 1024TiB"));
        }
        Ok(Self(bytes as u64))
    }
    fn schema() -> Schema {
        json_schema!({
            "type": "string", "pattern": r"^[0-9.]+ *(B|KiB|MiB|GiB|TiB)$", "examples": ["512MiB"]
        })
    }
}

impl FromText for Percent {
    const NAME: &str = "Percent";
    fn from_text(text: &str) -> Result<Self, String> {
        match number_and_unit(text) {
            Some((number, "%")) if number <= 1000.0 => Ok(Self(number)),
            Some((_, "%")) => Err(format!("`{text}` is more than 1000%")),
            Some((_, "")) => Err(format!("`{text}` lacks its unit\ndid you mean `{text}%`?")),
            _ => Err(format!("`{text}` is not a percentage\nsuch as 3% or 0.5%")),
        }
    }
    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": r"^[0-9.]+ *%$", "examples": ["3%"] })
    }
}

/// A number of standard errors.
pub(crate) struct Errors(pub(crate) f64);

impl FromText for Errors {
    const NAME: &str = "Errors";
    fn from_text(text: &str) -> Result<Self, String> {
        match number_and_unit(text) {
            Some((number, "")) if (1.0..=100.0).contains(&number) => Ok(Self(number)),
            _ => Err(format!("`{text}` is not a number between 1 and 100\nsuch as 4 or 4.5")),
        }
    }
    fn schema() -> Schema {
        json_schema!({ "type": "number", "minimum": 1, "maximum": 100 })
    }
}

impl FromText for SizeLimit {
    const NAME: &str = "SizeLimit";
    fn from_text(text: &str) -> Result<Self, String> {
        if text.trim_end().ends_with('%') {
            return Percent::from_text(text).map(Self::Percent);
        }
        match Size::from_text(text) {
            Ok(Size(bytes)) => Ok(Self::Bytes(bytes)),
            Err(_) => {
                Err(format!("`{text}` is neither a percentage nor a size\nsuch as 5% or 8MiB"))
            }
        }
    }
    fn schema() -> Schema {
        json_schema!({
            "type": "string",
            "pattern": r"^[0-9.]+ *(%|B|KiB|MiB|GiB|TiB)$",
            "examples": ["5%", "8MiB"]
        })
    }
}

impl FromText for Pattern {
    const NAME: &str = "Pattern";
    fn from_text(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("an empty regular expression matches everything".into());
        }
        Self::new(text).map_err(|error| format!("bad regular expression: {error}"))
    }
    fn schema() -> Schema {
        json_schema!({ "type": "string", "format": "regex", "minLength": 1 })
    }
}

impl FromText for Glob {
    const NAME: &str = "Glob";
    fn from_text(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(format!("`{text}` is not a glob\nsuch as performance/tcp-*"));
        }
        Ok(Self::new(text))
    }
    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": r"^\S+$" })
    }
}

impl FromText for jiff::civil::Date {
    const NAME: &str = "Date";
    fn from_text(text: &str) -> Result<Self, String> {
        // jiff also takes times and basic format: a waiver's date has one form.
        match text.parse() {
            Ok(date) if text.len() == 10 => Ok(date),
            _ => Err(format!("`{text}` is not a date\nas in 2026-12-31")),
        }
    }
    fn schema() -> Schema {
        json_schema!({ "type": "string", "format": "date" })
    }
}

impl FromText for ConfigRequirement {
    const NAME: &str = "ConfigRequirement";
    fn from_text(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("CONFIG_") {
            return Err(format!("options are written without CONFIG_\ndid you mean `{rest}`?"));
        }
        let (option, value) = match text.split_once('=') {
            Some((option, value)) => (option, Some(value.to_owned())),
            None => (text, None),
        };
        // A few options have lower-case letters too.
        let named = made_of(option, "_") && option.contains(|c: char| c.is_ascii_uppercase());
        if !named || value.as_deref() == Some("") {
            return Err(format!("`{text}` is not a kernel option\nsuch as TLS or HZ=250"));
        }
        Ok(Self { option: option.to_owned(), value })
    }
    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^(?!CONFIG_)[A-Za-z0-9_]+(=.+)?$" })
    }
}

/// One accepted exit status.
pub(crate) enum Exit {
    Any,
    Code(u8),
}

impl FromText for Exit {
    const NAME: &str = "Exit";
    fn from_text(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("any", _) => Ok(Self::Any),
            (_, Ok(code)) => Ok(Self::Code(code)),
            _ => Err(format!("`{text}` is not an exit status\n0 to 255, a list of them, or any")),
        }
    }
    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "const": "any" }, { "type": "integer", "minimum": 0, "maximum": 255 }] })
    }
}

/// Address for a readiness probe.
pub(crate) struct HostPort(pub(crate) String, pub(crate) u16);

impl FromText for HostPort {
    const NAME: &str = "HostPort";
    fn from_text(text: &str) -> Result<Self, String> {
        let parts = text.rsplit_once(':').map(|(host, port)| {
            let host =
                host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
            (host, port.parse::<u16>())
        });
        // The agent resolves no names: its machine may have no resolver.
        match parts {
            Some((host, Ok(port))) if port > 0 && host.parse::<std::net::IpAddr>().is_ok() => {
                Ok(Self(host.to_owned(), port))
            }
            _ => Err(format!(
                "`{text}` is not an address and a port\nsuch as 127.0.0.1:80 or [::1]:80"
            )),
        }
    }
    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": r":[0-9]+$", "examples": ["127.0.0.1:80"] })
    }
}

macro_rules! names {
    ($($(#[$doc:meta])* $type:ident, $phrase:literal, $example:literal, $pattern:literal, $check:expr;)*) => {
        $(
            $(#[$doc])*
            pub(crate) struct $type(pub(crate) String);

            impl FromText for $type {
                const NAME: &str = stringify!($type);
                fn from_text(text: &str) -> Result<Self, String> {
                    let check: fn(&str) -> bool = $check;
                    if text.len() <= TEXT_BOUND && check(text) {
                        Ok(Self(text.to_owned()))
                    } else {
                        Err(format!("`{}` is not {}\nsuch as {}", shown(text), $phrase, $example))
                    }
                }
                fn schema() -> Schema {
                    json_schema!({ "type": "string", "pattern": $pattern })
                }
            }
        )*
    };
}

pub(crate) mod inventory;

/// Longest name, path or line, in bytes.
const TEXT_BOUND: usize = 240;

/// Text for a message: one line, not too long.
fn shown(text: &str) -> String {
    let line: String =
        text.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.len() < text.len() { format!("{line}…") } else { line }
}

fn made_of(text: &str, others: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

/// Whether `text` can be a component of a scenario's id, a workload's or an image's name.
pub(crate) fn is_slug(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(plain)
}

names! {
    /// One line for a person.
    Line, "one line of text", "TCP connect over loopback", r"^[^\r\n]*\S[^\r\n]*$",
        |text| !text.trim().is_empty() && !text.contains(char::is_control);
    /// Name of an image.
    ImageName, "a name of an image", "base", "^[a-z0-9][a-z0-9._-]*$", is_slug;
    /// Name of a metric or a step's.
    MetricName, "a name of a metric", "requests or p99-latency", r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        |text| text.starts_with(|c: char| c.is_ascii_alphanumeric()) && made_of(text, "-_.");
    /// Name of a module.
    ModuleName, "a name of a module", "nf_conntrack", "^[A-Za-z0-9_-]+$", |text| made_of(text, "-_");
    /// Name or tag of a lab host.
    HostWord, "a name or tag of lab hosts", "edge-lab-1", "^[A-Za-z0-9][A-Za-z0-9_.-]*$",
        |text| made_of(text, "-_.") && text.starts_with(|c: char| c.is_ascii_alphanumeric());
    /// Name of a sysctl.
    SysctlName, "a name of a sysctl", "net.core.somaxconn", r"^[A-Za-z0-9_/:*-]+(\.[A-Za-z0-9_/:*-]+)+$",
        |text| made_of(text, "-_./:@") && text.contains('.') && !text.split('.').any(str::is_empty);
    /// Absolute path.
    AbsolutePath, "an absolute path", "/etc/hosts", r"^/[^\r\n]*$",
        |text| text.starts_with('/') && !text.contains(char::is_control) && !text.split('/').any(|part| part == "..");
    /// Name of a program.
    CommandName, "a name of a program", "nginx", "^[A-Za-z0-9_.+\\[-]+$", |text| made_of(text, "-_.+[");
    /// Name of an environment variable.
    VariableName, "a name of a variable", "LANG", "^[A-Za-z_][A-Za-z0-9_]*$",
        |text| made_of(text, "_") && !text.starts_with(|c: char| c.is_ascii_digit());
    /// One argument of the kernel's command line.
    KernelArgument, "one argument of the kernel", "mitigations=off", r"^\S+$",
        |text| !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control());
    /// Name of a CPU model.
    CpuModel, "a CPU model", "Skylake-Server", "^[A-Za-z0-9_.,+=-]+$", |text| made_of(text, "-_.,+=");
    /// A branch of kernel releases.
    BranchName, "a branch of kernel releases", "6.12", r"^[0-9]+\.[0-9]+$",
        |text| text.split_once('.').is_some_and(|(x, y)| [x, y].iter().all(|n| n.len() <= 6 && n.parse::<u32>().is_ok()));
    /// Name of a subsystem.
    Subsystem, "a subsystem", "fs/xfs", "^[A-Za-z0-9_./:+-]+$", |text| made_of(text, "-_./:+");
    /// Id of a waiver.
    WaiverId, "an id", "tcp-warning-6.12", "^[a-z0-9][a-z0-9._-]*$", is_slug;
}

/// Any text; numbers and switches are taken as they are written.
pub(crate) struct Text(pub(crate) String);

impl FromText for Text {
    const NAME: &str = "Text";
    fn from_text(text: &str) -> Result<Self, String> {
        if text.contains('\0') {
            return Err("text with a NUL in it".into());
        }
        Ok(Self(text.to_owned()))
    }
    fn schema() -> Schema {
        json_schema!({ "type": ["string", "number", "boolean"] })
    }
}

/// Name of an operation that can be measured.
pub(crate) struct OpName(pub(crate) String);

impl FromText for OpName {
    const NAME: &str = "OpName";
    fn from_text(text: &str) -> Result<Self, String> {
        if OPS.iter().any(|op| op.name == text) {
            return Ok(Self(text.to_owned()));
        }
        let hint = word_hint(text, OPS.iter().map(|op| op.name)).unwrap_or_default();
        Err(format!("`{}` is not an operation that can be measured\n{hint}", shown(text)))
    }
    fn schema() -> Schema {
        let names: Vec<&str> = OPS.iter().map(|op| op.name).collect();
        json_schema!({ "enum": names })
    }
}
