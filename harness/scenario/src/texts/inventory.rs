//! The values of an inventory. What ends up in the arguments of `ssh`, `ipmitool` and their like never
//! begins with a dash.

use kgate_model::inventory::Modules;
use schemars::{Schema, json_schema};

use super::{TEXT_BOUND, made_of, shown};
use crate::raw::Sol;
use crate::read::{FromText, Words};

names! {
    /// Name of a host.
    HostName, "a name of a host", "edge-lab-1", "^[A-Za-z0-9][A-Za-z0-9._-]*$", is_name;
    /// A tag, or another word of the site's.
    Tag, "a word of letters, digits, `-`, `_` and `.`", "milan", "^[A-Za-z0-9][A-Za-z0-9._-]*$", is_name;
    /// Name or address of a machine.
    Address, "a name or an address of a machine", "10.1.2.3 or host7.lab", "^[A-Za-z0-9:][A-Za-z0-9._:%-]*$", is_address;
    /// A user.
    UserName, "a name of a user", "root", "^[A-Za-z0-9_][A-Za-z0-9_.@-]*$",
        |text| made_of(text, "_.@-") && !text.starts_with(['-', '.', '@']);
    /// What `ssh -J` takes.
    JumpHosts, "what `ssh -J` takes", "root@gate.lab:2222", r"^[A-Za-z0-9_][A-Za-z0-9_.@:,\[\]%-]*$",
        |text| made_of(text, "_.@:,[]%-") && text.split(',').all(|one| one.starts_with(|c: char| c.is_ascii_alphanumeric() || "_[".contains(c)));
    /// A network interface.
    DeviceName, "a network interface", "eth0", "^[A-Za-z0-9_.@:-]{1,15}$",
        |text| text.len() <= 15 && made_of(text, "_.-") && !text.starts_with('-');
    /// Path on the controller; a relative one begins beside the file, `~/` is the home directory.
    LocalPath, "a path", "keys/lab or ~/.ssh/lab", r"^[^\r\n]+$",
        |text| !text.is_empty() && !text.contains(char::is_control);
    /// Path on a host. It is written into boot entries and scripts.
    HostPath, "an absolute path of letters, digits, `-`, `_`, `.` and `/`", "/var/lib/kgate", "^(/[A-Za-z0-9._-]+)+$",
        |text| text.starts_with('/') && made_of(text, "-_./") && text[1..].split('/').all(|part| !matches!(part, "" | "." | ".."));
    /// Path below a directory that is named elsewhere. It is written into scripts.
    PathBelow, "a path below the directory, of letters, digits, `-`, `_`, `.` and `/`", "hosts/7.ipxe", "^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$",
        |text| made_of(text, "-_./") && text.split('/').all(|part| !matches!(part, "" | "." | ".."));
}

fn is_name(text: &str) -> bool {
    text.len() <= 64
        && made_of(text, "-_.")
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
}

fn is_address(text: &str) -> bool {
    made_of(text, ".-_:%") && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == ':')
}

/// Text for `sh -c`.
pub(crate) struct Shell(pub(crate) String);

impl FromText for Shell {
    const NAME: &str = "Shell";
    fn from_text(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() || text.contains('\0') {
            return Err("shell text is empty, or has a NUL in it".into());
        }
        Ok(Self(text.trim().to_owned()))
    }
    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": r"\S" })
    }
}

/// Arguments of a kernel, one or several.
pub(crate) struct KernelArguments(pub(crate) Vec<String>);

impl FromText for KernelArguments {
    const NAME: &str = "KernelArguments";
    fn from_text(text: &str) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_graphic() && !"'\"\\$`;".contains(c);
        let words: Vec<String> = text.split_whitespace().map(ToOwned::to_owned).collect();
        if words.is_empty() || words.len() > 100 || !words.iter().all(|w| w.chars().all(plain)) {
            return Err(format!(
                "`{}` is not what a boot loader can be told as it is\n\
                 words without quotes, `$`, `;` and backslashes, such as console=ttyS1,115200",
                shown(text)
            ));
        }
        Ok(Self(words))
    }
    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": r#"^[^'"\\$`;]*\S[^'"\\$`;]*$"# })
    }
}

/// A machine and perhaps a port.
pub(crate) struct Server {
    pub(crate) address: String,
    pub(crate) port: Option<u16>,
}

impl FromText for Server {
    const NAME: &str = "Server";
    fn from_text(text: &str) -> Result<Self, String> {
        let error = || {
            format!(
                "`{}` is not a machine, or a machine and its port\nsuch as bmc7.lab, 10.1.2.3:7001 \
                 or [fd00::7]:7001",
                shown(text)
            )
        };
        let (address, port) = match text.strip_prefix('[').and_then(|text| text.split_once(']')) {
            Some((address, "")) => (address, None),
            Some((address, rest)) => (address, Some(rest.strip_prefix(':').ok_or_else(error)?)),
            // More than one colon: an address of IPv6 alone.
            None if text.matches(':').count() == 1 => match text.split_once(':') {
                Some((address, port)) => (address, Some(port)),
                None => (text, None),
            },
            None => (text, None),
        };
        let port = port.map(|port| port.parse().map_err(|_| error())).transpose()?;
        if port == Some(0) || address.len() > TEXT_BOUND || !is_address(address) {
            return Err(error());
        }
        Ok(Self { address: address.to_owned(), port })
    }
    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": r"^[A-Za-z0-9:\[][A-Za-z0-9._:%\[\]-]*$" })
    }
}

impl FromText for Sol {
    const NAME: &str = "Sol";
    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "true" => Ok(Self::OfPower),
            _ => Server::from_text(text).map(Self::Of),
        }
    }
    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "const": true }, Server::schema()] })
    }
}

/// A URL without a user in it.
pub(crate) struct Url {
    /// As it was written, without a slash at its end.
    pub(crate) text: String,
    /// Such as `https`.
    pub(crate) scheme: String,
    /// The machine.
    pub(crate) address: String,
}

impl FromText for Url {
    const NAME: &str = "Url";
    fn from_text(text: &str) -> Result<Self, String> {
        let graphic = text.len() <= TEXT_BOUND && text.chars().all(|c| c.is_ascii_graphic());
        let parts = text.split_once("://").filter(|_| graphic);
        let Some((scheme, rest)) = parts else {
            return Err(format!("`{}` is not a URL\nsuch as https://bmc7.lab", shown(text)));
        };
        let server = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if server.contains('@') {
            return Err("a URL with a user in it\nuser and password have keys of their own".into());
        }
        let Server { address, .. } = Server::from_text(server)?;
        Ok(Self { text: text.trim_end_matches('/').to_owned(), scheme: scheme.to_owned(), address })
    }
    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[a-z]+://[^@\\s]+$" })
    }
}

/// The SHA-256 of a certificate.
pub(crate) struct Fingerprint(pub(crate) [u8; 32]);

impl FromText for Fingerprint {
    const NAME: &str = "Fingerprint";
    fn from_text(text: &str) -> Result<Self, String> {
        let hex: Vec<u32> = text
            .chars()
            .filter(|c| *c != ':')
            .map(|c| c.to_digit(16))
            .collect::<Option<_>>()
            .unwrap_or_default();
        let mut bytes = [0; 32];
        if hex.len() != 64 {
            return Err(format!(
                "`{}` is not a SHA-256\n64 hex digits, as `openssl x509 -noout -fingerprint -sha256` \
                 prints them",
                shown(text)
            ));
        }
        for (byte, digits) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = u8::try_from(digits[0] * 16 + digits[1]).unwrap_or_default();
        }
        Ok(Self(bytes))
    }
    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9A-Fa-f:]{64,95}$" })
    }
}

/// A host's public key without a name before it and a comment after it.
pub(crate) struct HostKeyLine(pub(crate) String);

/// Kinds of public keys.
const KEYS: [&str; 7] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

impl FromText for HostKeyLine {
    const NAME: &str = "HostKey";
    fn from_text(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let kind = words.iter().position(|word| KEYS.contains(word));
        // In base64: a length that begins with three zero bytes.
        let is_key = |key: &str| {
            key.len() >= 40
                && key.starts_with("AAAA")
                && key
                    .trim_end_matches('=')
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "+/".contains(c))
        };
        let hint = match (kind, words.as_slice()) {
            (Some(0), [kind, key, ..]) if is_key(key) => return Ok(Self(format!("{kind} {key}"))),
            (Some(1..), _) => "without what stands before the kind of the key",
            (None, [one]) if one.starts_with("SHA256:") => {
                "the key itself, not its fingerprint: `ssh-keyscan -t ed25519 ADDRESS` prints it"
            }
            _ => "such as ssh-ed25519 AAAA…: what `ssh-keyscan` prints after the name",
        };
        Err(format!("`{}` is not a host key\n{hint}", shown(text)))
    }
    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": r"^(ssh|ecdsa|sk)-\S+ AAAA\S+" })
    }
}

/// Who chooses the kernel of a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BootWord {
    Grub,
    Kexec,
    Pxe,
}

impl Words for BootWord {
    const NAME: &str = "BootMethod";
    const PHRASE: &str = "a way to boot a kernel once";
    fn words() -> Vec<(&'static str, Self)> {
        vec![("grub", Self::Grub), ("kexec", Self::Kexec), ("pxe", Self::Pxe)]
    }
}

impl Words for Modules {
    const NAME: &str = "Modules";
    const PHRASE: &str = "a choice of modules";
    fn words() -> Vec<(&'static str, Self)> {
        vec![("all", Self::All), ("needed", Self::Needed)]
    }
}
