//! Another kernel on a stand-in, put there without kgate: for the stand-in's own tests, and for hosts
//! that somebody has made a mess of.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use kgate_kernel::Kernel;

use super::disk::{self, ROOT_MODULES};
use super::{Problem, StandIn};

/// What a staged kernel needs to be reached, beside its root.
const NETWORK: &[&str] = &["virtio_net"];

/// What GRUB is made to do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrubFault {
    /// It starts its default entry whatever is armed, and leaves that armed.
    IgnoresOnce,
    /// What is armed for one start stays armed.
    NeverClears,
    /// Its default is the first entry, as `GRUB_DEFAULT=0` has it, and the first is this one of
    /// `custom.cfg`.
    DefaultsToCustom,
}

impl StandIn {
    /// Puts a kernel on the disk, with an initrd that finds root and network, and an entry `id` in
    /// `custom.cfg` with `words` added to production's command line.
    ///
    /// # Panics
    /// When it can't be done.
    pub fn stage(&self, kernel: &Kernel, id: &str, words: &str) {
        let modules: Vec<&str> = ROOT_MODULES.iter().chain(NETWORK).copied().collect();
        let initrd = disk::initrd_of(kernel, &modules).expect("an initrd");
        let file = self.dir().join(format!("{id}.initrd"));
        fs::write(&file, initrd).expect("an initrd");
        self.upload(&kernel.image, &format!("/boot/{id}.vmlinuz"));
        self.upload(&file, &format!("/boot/{id}.initrd"));
        let line = disk::COMMAND_LINE.replace('$', "\\$");
        let uuid = disk::UUID;
        let entry = format!(
            "menuentry '{id}' --id {id} {{\n\
             \tsearch --no-floppy --fs-uuid --set=root {uuid}\n\
             \tlinux /boot/{id}.vmlinuz root=UUID={uuid} ro {line} {words}\n\
             \tinitrd /boot/{id}.initrd\n}}\n"
        );
        let file = self.dir().join(format!("{id}.cfg"));
        fs::write(&file, entry).expect("an entry");
        self.upload(&file, "/tmp/entry");
        self.ssh("cat /tmp/entry >>/boot/grub/custom.cfg; sync");
    }

    /// Offers a kernel to whoever starts from the network, with `words` added to production's command line.
    ///
    /// # Panics
    /// When it can't be done.
    pub fn offer(&self, kernel: &Kernel, words: &str) {
        let modules: Vec<&str> = ROOT_MODULES.iter().chain(NETWORK).copied().collect();
        let initrd = disk::initrd_of(kernel, &modules).expect("an initrd");
        let (dir, line, uuid) = (self.tftp_dir(), disk::COMMAND_LINE, disk::UUID);
        let script = format!(
            "#!ipxe\n\
             kernel tftp://10.0.2.2/vmlinuz initrd=initrd root=UUID={uuid} ro {line} {words}\n\
             initrd tftp://10.0.2.2/initrd\n\
             boot\n"
        );
        fs::copy(&kernel.image, dir.join("vmlinuz"))
            .and_then(|_| fs::write(dir.join("initrd"), initrd))
            .and_then(|()| fs::write(dir.join("boot.ipxe"), script))
            .expect("an offer");
    }

    /// The command with which a person logs in. It uses a file of the host's directory.
    ///
    /// # Panics
    /// When that can't be written.
    #[must_use]
    pub fn ssh_command(&self) -> String {
        let known = self.dir().join("known_hosts");
        let line = self.target().known_host().expect("a host key");
        fs::write(&known, line).expect("known_hosts");
        format!("ssh {}", self.target().options(&known).join(" "))
    }

    /// Writes a file of the controller's on the host.
    ///
    /// # Panics
    /// When it can't be done.
    pub fn upload(&self, from: &Path, to: &str) {
        self.try_upload(from, to).unwrap_or_else(|problem| panic!("{}: {problem:?}", self.name()));
    }

    fn try_upload(&self, from: &Path, to: &str) -> Result<(), Problem> {
        let broken = |e: std::io::Error| Problem::broken(to, e);
        let known = tempfile::NamedTempFile::new().map_err(broken)?;
        let target = self.target();
        fs::write(known.path(), target.known_host()?).map_err(broken)?;
        let output = Command::new("timeout")
            .arg("60")
            .arg("ssh")
            .args(target.options(known.path()))
            .arg(format!("cat >'{to}'"))
            .stdin(File::open(from).map_err(broken)?)
            .stdout(Stdio::null())
            .output()
            .map_err(broken)?;
        if output.status.success() {
            return Ok(());
        }
        Err(Problem::broken(to, String::from_utf8_lossy(&output.stderr)))
    }

    /// Makes its GRUB do this wrong from now on, and nothing else; the host has to be up.
    ///
    /// # Panics
    /// When it can't be done.
    pub fn grub_fault(&self, fault: GrubFault) {
        let text = fs::read_to_string(self.made.dir.join("grub.cfg")).expect("a grub.cfg");
        let clear = "   save_env next_entry\n";
        let once = "if [ \"${next_entry}\" ] ; then";
        assert!(text.contains(once) && text.contains(clear), "{text}");
        let new = match fault {
            GrubFault::IgnoresOnce => text.replace(once, "if false ; then"),
            GrubFault::NeverClears => text.replace(clear, ""),
            GrubFault::DefaultsToCustom => {
                let source = "source ${config_directory}/custom.cfg\n";
                let text = text.replace("${saved_entry}", "0");
                let at = text.find("menuentry '").unwrap_or_default();
                format!("{}{source}{}", &text[..at], &text[at..])
            }
        };
        let file = self.dir().join("grub.cfg");
        fs::write(&file, new).expect("a grub.cfg");
        self.upload(&file, "/boot/grub/grub.cfg");
        self.ssh("sync");
    }
}
