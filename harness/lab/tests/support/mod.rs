//! What the tests on a stand-in have in common: its entry in an inventory, and kgate's own programs for
//! the inside of a machine.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use kgate_image::{Builder, Busybox};
use kgate_kernel::Kernel;
use kgate_lab::boot::{Production, SelectError, Selector};
use kgate_lab::host::{self, HostFacts};
use kgate_lab::power::Power;
use kgate_lab::ssh::Ssh;
use kgate_lab::stage::{self, Staged, Staging};
use kgate_model::host::{Host, HostCommand};
use kgate_model::inventory::{self, Boot, BootMethod, HostKey, LabHost, Limits, Modules};
use kgate_model::outcome::Role;
use kgate_model::wire::Identity;
use kgate_testkit::host::TestHost;
use kgate_testkit::kernels;
use kgate_testkit::lab::StandIn;

/// An answer takes no longer, however busy the machine.
pub(crate) const ANSWER: Duration = Duration::from_secs(20);
/// From a reboot to an answer.
pub(crate) const BOOTS: Duration = Duration::from_secs(120);

/// The entry of a stand-in, booted by `method`.
pub(crate) fn entry(stand_in: &StandIn, method: BootMethod) -> LabHost {
    LabHost {
        name: stand_in.name().into(),
        tags: Vec::new(),
        ssh: inventory::Ssh {
            address: "127.0.0.1".into(),
            port: stand_in.ssh_port(),
            user: "root".into(),
            identity: Some(stand_in.identity_file()),
            host_key: HostKey::Pinned(vec![stand_in.host_key().trim().into()]),
            jump: None,
        },
        power: None,
        consoles: Vec::new(),
        boot: Boot {
            method,
            directory: "/var/lib/kgate".into(),
            command_line: Vec::new(),
            root: None,
            initrd_modules: Vec::new(),
            modules: Modules::Needed,
            guard: Duration::from_secs(600),
        },
        hooks: inventory::Hooks::default(),
        reservation: inventory::Reservation::Own,
        limits: Limits::default(),
    }
}

pub(crate) fn grub() -> BootMethod {
    BootMethod::Grub { directory: None, production: Some("production".into()) }
}

/// kgate's programs for the inside of a machine, static, as the build script of `cli` builds them.
pub(crate) struct Programs {
    pub(crate) agent: Vec<u8>,
    pub(crate) ops: Vec<u8>,
    pub(crate) busybox: Busybox,
}

impl Programs {
    pub(crate) fn build() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("a workspace");
        let target = kernels::cache_dir().with_file_name("programs");
        let triple = "x86_64-unknown-linux-gnu";
        let mut command = HostCommand::new(env!("CARGO"), Duration::from_secs(280))
            .args(["build", "--quiet", "--profile", "guest", "--target", triple])
            .args(["-p", "kgate-agent", "-p", "kgate-ops", "--target-dir"])
            .arg(&target)
            .dir(root);
        command.env.push(("CARGO_ENCODED_RUSTFLAGS".into(), "-Ctarget-feature=+crt-static".into()));
        let output = TestHost.run(&command).expect("cargo runs");
        assert_eq!(output.code, Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        let read = |name: &str| {
            std::fs::read(target.join(triple).join("guest").join(name)).expect("it was built")
        };
        let busybox =
            Builder::new(&kernels::cache_dir(), &TestHost).base_userland().expect("busybox");
        Self { agent: read("kgate-agent"), ops: read("kgate-ops"), busybox }
    }
}

/// A host that is logged in to and looked at.
pub(crate) struct Lab {
    pub(crate) stand_in: StandIn,
    pub(crate) host: LabHost,
    pub(crate) programs: Programs,
    pub(crate) candidate: Kernel,
    pub(crate) args: Vec<String>,
}

impl Lab {
    /// `None` where there can be no stand-in.
    pub(crate) fn start(stand_in: StandIn, method: BootMethod) -> Option<Self> {
        let candidate = kernels::old_pair()?.candidate;
        let host = entry(&stand_in, method);
        Some(Self { stand_in, host, programs: Programs::build(), candidate, args: Vec::new() })
    }

    pub(crate) async fn ssh(&self) -> Ssh {
        Ssh::connect(&self.host.ssh, ANSWER).await.expect("production answers")
    }

    pub(crate) async fn look(&self, ssh: &Ssh) -> HostFacts {
        host::look(ssh, &self.host.boot).await.expect("a look")
    }

    pub(crate) async fn stage(&self, ssh: &Ssh, facts: &HostFacts) -> Staged {
        self.try_stage(ssh, &self.host, facts).await.expect("it can be staged")
    }

    pub(crate) async fn try_stage(
        &self,
        ssh: &Ssh,
        host: &LabHost,
        facts: &HostFacts,
    ) -> Result<Staged, SelectError> {
        let modules = BTreeSet::new();
        let staging = Staging {
            role: Role::Candidate,
            kernel: &self.candidate,
            modules: &modules,
            kernel_args: &self.args,
            busybox: &self.programs.busybox,
            agent: &self.programs.agent,
            ops: &self.programs.ops,
        };
        stage::stage(ssh, host, facts, &staging, BOOTS).await
    }

    /// Asserts production, stages the candidate and boots it.
    pub(crate) async fn boot(
        &self,
        power: Option<&dyn Power>,
        boot: &str,
    ) -> (HostFacts, Production, Staged) {
        let ssh = self.ssh().await;
        let facts = self.look(&ssh).await;
        let selector = Selector::of(&self.host);
        let production = selector.production(&ssh, &facts, power).await.expect("it is safe");
        let staged = self.stage(&ssh, &facts).await;
        selector
            .arm_and_reboot(&ssh, power, &production, &staged, boot, Duration::from_secs(60))
            .await
            .expect("it reboots");
        (facts, production, staged)
    }

    /// The end of what the host has said.
    pub(crate) fn console(&self) -> String {
        let log = self.stand_in.console_log();
        String::from_utf8_lossy(&log[log.len().saturating_sub(200_000)..]).into_owned()
    }

    /// Waits until another kernel than `before` answers.
    pub(crate) async fn until_rebooted(&self, before: &Identity) -> (Ssh, Identity) {
        let end = Instant::now() + BOOTS;
        loop {
            if let Ok(ssh) = Ssh::connect(&self.host.ssh, Duration::from_secs(5)).await
                && let Ok(identity) = host::identity(&ssh, Duration::from_secs(5)).await
                && identity.boot_id != before.boot_id
            {
                return (ssh, identity);
            }
            assert!(Instant::now() < end, "no other kernel answers: {}", self.console());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}
