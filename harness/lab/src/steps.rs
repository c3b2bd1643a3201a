//! What the steps of scenarios find on a lab host, put there before the first boot: the tree of the `base`
//! userland, from which the agent makes their root, and images.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use kgate_image::{Busybox, base};
use kgate_model::inventory::LabHost;
use sha2::{Digest, Sha256};

use crate::ssh::{ANSWER, Ssh, SshError, Upload, hex, quote};

/// Sending the tree takes no longer.
const SEND: Duration = Duration::from_secs(120);
/// Sending an image takes no longer.
const SEND_IMAGE: Duration = Duration::from_secs(1200);

/// Where all of it is, on the host.
pub(crate) fn directory(host: &LabHost) -> PathBuf {
    host.boot.directory.join("steps")
}

/// Puts the tree there, unless it is there.
pub(crate) async fn put(
    ssh: &Ssh,
    host: &LabHost,
    busybox: &Busybox,
    ops: &[u8],
) -> Result<(), SshError> {
    let archive = archive(busybox, ops)
        .map_err(|e| SshError::Controller(format!("the tree of the steps can't be packed: {e}")))?;
    let digest = hex(&Sha256::digest(&archive));
    let at = quote(&directory(host).to_string_lossy());
    let there = format!("cat {at}/tree.sha256 2>/dev/null || :");
    if ssh.ask("a look at the tree of the steps", &there, ANSWER).await? == digest {
        return Ok(());
    }
    let packed = directory(host).join("tree.tar.gz");
    ssh.upload(&packed, 0o600, Upload::Bytes(&archive), SEND).await?;
    let unpack = format!(
        "set -e; cd {at}; rm -rf tree tree.new tree.sha256; mkdir tree.new; \
         gzip -dc tree.tar.gz | tar -xf - -C tree.new; test -x tree.new/kgate/ops; rm tree.tar.gz; \
         mv tree.new tree; sync; echo {digest} >tree.sha256"
    );
    ssh.ask("unpacking the tree of the steps", &unpack, SEND).await.map(drop)
}

/// Puts an image there, unless it is there; gives where.
pub(crate) async fn put_image(
    ssh: &Ssh,
    host: &LabHost,
    name: &str,
    image: &Path,
) -> Result<PathBuf, SshError> {
    let unreadable = |e| SshError::Controller(format!("can't read {}: {e}", image.display()));
    let mut file = std::fs::File::open(image).map_err(unreadable)?;
    let mut digest = Sha256::new();
    std::io::copy(&mut file, &mut Hashing(&mut digest)).map_err(unreadable)?;
    let target =
        directory(host).join(format!("{name}-{}.squashfs", &hex(&digest.finalize())[..16]));
    let there = format!("test -e {} && echo there || :", quote(&target.to_string_lossy()));
    if ssh.ask("a look at an image", &there, ANSWER).await? != "there" {
        ssh.upload(&target, 0o600, Upload::File(image), SEND_IMAGE).await?;
    }
    Ok(target)
}

struct Hashing<'a>(&'a mut Sha256);

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Makes an image a block device of the host, and gives its name. `modules` are loaded before, in order.
pub(crate) async fn attach(
    ssh: &Ssh,
    host: &LabHost,
    image: &Path,
    modules: &[String],
) -> Result<String, SshError> {
    let busybox = quote(&directory(host).join("tree/bin/busybox").to_string_lossy());
    let mut script = String::new();
    for module in modules {
        // One that is loaded is refused.
        script.push_str(&format!("{busybox} insmod {} 2>/dev/null || :\n", quote(module)));
    }
    script.push_str(&format!(
        "d=$({busybox} losetup -f) && {busybox} losetup -r \"$d\" {} && echo \"$d\"",
        quote(&image.to_string_lossy())
    ));
    ssh.ask("attaching an image", &script, ANSWER).await
}

/// Takes all of it away.
pub(crate) async fn remove(ssh: &Ssh, host: &LabHost) -> Result<(), SshError> {
    let script = format!("rm -rf {}", quote(&directory(host).to_string_lossy()));
    ssh.ask("removing what steps need", &script, SEND).await.map(drop)
}

/// The tree as a compressed archive, the same for the same content.
fn archive(busybox: &Busybox, ops: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let header = |kind, mode, size: usize| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size as u64);
        header
    };
    for (path, mode) in base::DIRECTORIES {
        tar.append_data(&mut header(tar::EntryType::Directory, mode, 0), path, &[][..])?;
    }
    let programs = [("bin/busybox", &busybox.bytes[..]), ("kgate/ops", ops)];
    for (path, bytes) in programs {
        tar.append_data(&mut header(tar::EntryType::Regular, 0o755, bytes.len()), path, bytes)?;
    }
    for (path, text) in base::FILES {
        let mut header = header(tar::EntryType::Regular, 0o644, text.len());
        tar.append_data(&mut header, path, text.as_bytes())?;
    }
    for applet in busybox.applets.iter().filter(|applet| *applet != "bin/busybox") {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut header, applet, "/bin/busybox")?;
    }
    tar.into_inner()?.finish()
}
