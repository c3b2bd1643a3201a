//! Secrets, which an inventory only refers to: from the environment, a file or a command to a value that
//! nothing prints.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use kgate_machine::process;
use kgate_model::host::HostCommand;
use kgate_model::inventory::SecretRef;
use rustix::fs::OFlags;
use rustix::process::geteuid;
use secrecy::SecretString;

/// Longest secret, in bytes.
const BOUND: usize = 4096;
/// A command that prints a secret may take so long.
const COMMAND: Duration = Duration::from_secs(20);

/// Why a secret can't be had. Never tells any of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SecretError(pub String);

/// Where secrets come from. Asked each time one is needed: none is kept.
#[async_trait(?Send)]
pub trait Secrets {
    /// The secret's value.
    ///
    /// # Errors
    /// It isn't there, or others may read it.
    async fn get(&self, secret: &SecretRef) -> Result<SecretString, SecretError>;
}

/// The controller's secrets.
pub struct LocalSecrets<E> {
    /// Value of an environment variable.
    environment: E,
}

impl<E: Fn(&str) -> Option<String>> LocalSecrets<E> {
    /// Secrets of this machine; `environment` looks variables up.
    pub const fn new(environment: E) -> Self {
        Self { environment }
    }
}

impl<E> fmt::Debug for LocalSecrets<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalSecrets")
    }
}

#[async_trait(?Send)]
impl<E: Fn(&str) -> Option<String>> Secrets for LocalSecrets<E> {
    async fn get(&self, secret: &SecretRef) -> Result<SecretString, SecretError> {
        match secret {
            SecretRef::Env(name) => {
                let value = (self.environment)(name).unwrap_or_default();
                first_line(value.into_bytes(), &format!("the environment variable {name}"))
            }
            SecretRef::File(path) => file(path),
            SecretRef::Command(command) => {
                let sh = HostCommand::new("sh", COMMAND).args(["-c", command]);
                // What it says on standard error may be the secret as well.
                let output = process::output(&sh).await.map_err(|error| {
                    SecretError(format!("the command for a secret, `{command}`: {error}"))
                })?;
                let what = format!("the command for a secret, `{command}`,");
                match output.code {
                    Some(0) => first_line(output.stdout, &what),
                    Some(code) => Err(SecretError(format!("{what} ended with exit status {code}"))),
                    None => Err(SecretError(format!("{what} was killed"))),
                }
            }
        }
    }
}

/// A file that is ours or root's, and that nobody else may open.
fn file(path: &Path) -> Result<SecretString, SecretError> {
    let what = format!("the file {}", path.display());
    let failed = |error| SecretError(format!("{what}: {error}"));
    // A pipe would be waited for.
    let file = File::options()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(failed)?;
    let about = file.metadata().map_err(failed)?;
    if !about.is_file() {
        return Err(SecretError(format!("{what} is no regular file")));
    }
    if ![geteuid().as_raw(), 0].contains(&about.uid()) {
        return Err(SecretError(format!(
            "{what} with a secret is somebody else's: chown {} {}",
            geteuid().as_raw(),
            path.display()
        )));
    }
    let mode = about.mode() & 0o777;
    if mode & 0o077 != 0 {
        let path = path.display();
        return Err(SecretError(format!(
            "{what} with a secret is open to others (mode {mode:04o}): chmod 600 {path}"
        )));
    }
    let mut bytes = Vec::with_capacity(BOUND + 1);
    file.take(BOUND as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    first_line(bytes, &what)
}

/// The first line as a secret; `what` has it, for an error.
fn first_line(mut bytes: Vec<u8>, what: &str) -> Result<SecretString, SecretError> {
    if let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
        bytes.truncate(end);
    }
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    if bytes.is_empty() {
        return Err(SecretError(format!("{what} has nothing in it")));
    }
    if bytes.len() > BOUND || bytes.contains(&0) {
        return Err(SecretError(format!("{what} has no line of at most {BOUND} bytes in it")));
    }
    // The error of a conversion has the bytes in it.
    let text = String::from_utf8(bytes).ok();
    let text =
        text.ok_or_else(|| SecretError(format!("{what} has bytes in it that are no text")))?;
    Ok(SecretString::from(text))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use secrecy::ExposeSecret;

    use super::*;

    const VALUE: &str = "hunter2 with blanks";

    fn secrets() -> LocalSecrets<impl Fn(&str) -> Option<String>> {
        LocalSecrets::new(|name| match name {
            "BMC" => Some(VALUE.to_owned()),
            "EMPTY" => Some(String::new()),
            "NUL" => Some(format!("{VALUE}\0")),
            _ => None,
        })
    }

    fn get(secret: &SecretRef) -> Result<String, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime.unwrap().block_on(secrets().get(secret)) {
            Ok(value) => {
                let shown = format!("{value:?}");
                assert!(!shown.contains("hunter2"), "{shown}");
                Ok(value.expose_secret().to_owned())
            }
            Err(error) => {
                let shown = format!("{error} {error:?}");
                assert!(!shown.contains("hunter2"), "{shown}");
                Err(error.to_string())
            }
        }
    }

    /// A file with this content and mode.
    fn written(dir: &Path, name: &str, content: &[u8], mode: u32) -> SecretRef {
        let path = dir.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        SecretRef::File(path)
    }

    #[test]
    fn the_environment() {
        let env = |name: &str| get(&SecretRef::Env(name.to_owned()));
        assert_eq!(env("BMC").as_deref(), Ok(VALUE));
        for name in ["EMPTY", "UNSET"] {
            assert_eq!(
                env(name),
                Err(format!("the environment variable {name} has nothing in it"))
            );
        }
        assert!(env("NUL").is_err());
        assert_eq!(format!("{:?}", secrets()), "LocalSecrets");
    }

    #[test]
    fn files() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name, content: &[u8], mode| get(&written(dir.path(), name, content, mode));
        for mode in [0o600, 0o400] {
            assert_eq!(
                file("good", format!("{VALUE}\r\nnot this\n").as_bytes(), mode).unwrap(),
                VALUE
            );
            fs::remove_file(dir.path().join("good")).unwrap();
        }
        let path = |name: &str| dir.path().join(name).display().to_string();
        for mode in [0o644, 0o640, 0o620, 0o601, 0o666] {
            let (error, open) = (file("open", VALUE.as_bytes(), mode).unwrap_err(), path("open"));
            assert_eq!(
                error,
                format!(
                    "the file {open} with a secret is open to others (mode {mode:04o}): chmod 600 {open}"
                )
            );
        }
        assert!(file("empty", b"\nhunter2", 0o600).unwrap_err().ends_with("has nothing in it"));
        assert!(
            file("long", &[b'x'; BOUND + 1], 0o600).unwrap_err().contains("at most 4096 bytes")
        );
        assert!(file("latin", b"hunter2\xff", 0o600).unwrap_err().contains("are no text"));
        let gone = get(&SecretRef::File(PathBuf::from("/nonexistent/secret"))).unwrap_err();
        assert_eq!(gone, "the file /nonexistent/secret: No such file or directory (os error 2)");
        let directory = get(&SecretRef::File(dir.path().to_owned())).unwrap_err();
        assert!(directory.ends_with("is no regular file"), "{directory}");
    }

    #[test]
    fn a_file_of_somebody_else_is_refused() {
        if !geteuid().is_root() {
            return println!("SKIP only root can give files away");
        }
        let dir = tempfile::tempdir().unwrap();
        let secret = written(dir.path(), "theirs", VALUE.as_bytes(), 0o600);
        let SecretRef::File(path) = &secret else { unreachable!() };
        std::os::unix::fs::chown(path, Some(12_345), None).unwrap();
        assert!(get(&secret).unwrap_err().contains("somebody else's: chown 0 "));
    }

    #[test]
    fn commands() {
        let command = |text: &str| get(&SecretRef::Command(text.to_owned()));
        assert_eq!(command("echo hunter$((1 + 1)); echo more").as_deref(), Ok("hunter2"));
        assert_eq!(
            command("echo hunter$((1 + 1)) >&2; exit 3").unwrap_err(),
            "the command for a secret, `echo hunter$((1 + 1)) >&2; exit 3`, ended with exit status 3"
        );
        assert!(command("kill -9 $$").unwrap_err().ends_with("was killed"));
        assert!(command("true").unwrap_err().ends_with("has nothing in it"));
    }
}
