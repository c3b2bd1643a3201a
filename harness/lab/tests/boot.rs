//! Booting a kernel once on a stand-in, by GRUB, kexec and the network, and what brings the host back.

mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use kgate_lab::boot::{self, SelectError, Selector};
use kgate_lab::power::{Action, Firmware, Power, PowerError, PowerState};
use kgate_lab::ssh::Ssh;
use kgate_lab::{crash, host, stage};
use kgate_model::inventory::BootMethod;
use kgate_testkit::lab::{Boot, Setup, StandIn};
use support::{ANSWER, BOOTS, Lab, grub};

/// The stand-in's own buttons, without a BMC between.
struct Buttons<'a>(&'a StandIn);

#[async_trait::async_trait(?Send)]
impl Power for Buttons<'_> {
    async fn state(&self) -> Result<PowerState, PowerError> {
        Ok(PowerState::On)
    }

    async fn act(&self, action: Action) -> Result<(), PowerError> {
        let (_, verb) = Action::ALL.into_iter().find(|(a, _)| *a == action).unwrap();
        self.0.power(verb);
        Ok(())
    }

    async fn boot_from_network_once(&self, _: Firmware) -> Result<(), PowerError> {
        self.0.power("boot pxe once");
        Ok(())
    }

    async fn boots_from_network(&self) -> Result<Option<bool>, PowerError> {
        Ok(Some(self.0.power("boot").contains("pxe")))
    }

    async fn boot_from_disk(&self) -> Result<(), PowerError> {
        self.0.power("boot disk");
        Ok(())
    }
}

/// Those that take minutes.
mod long {
    use super::*;

    /// Once there and back, and nothing is left.
    #[tokio::test]
    async fn boots_by_grub_once() {
        let Some(stand_in) = StandIn::start(Setup::default()) else { return };
        let Some(lab) = Lab::start(stand_in, grub()) else { return };
        let begun = Instant::now();
        let (facts, production, staged) = lab.boot(None, "b-1").await;
        assert_eq!(production.entry, "production");
        println!("armed after {:?}: {}", begun.elapsed(), production.proof);
        let (ssh, identity) = lab.until_rebooted(&facts.identity).await;
        println!("candidate after {:?}: {}", begun.elapsed(), identity.command_line);
        assert!(staged.is(&identity, "b-1") && !staged.is(&identity, "b-2"), "{identity:?}");
        assert!(lab.stand_in.would_boot().is_production());
        // It has its own modules, where it looks for them, and a guard.
        let look = format!("ls /lib/modules; ls {}; ps", staged.modules["virtio_net"].display());
        let seen = ssh.ask("a look", &look, ANSWER).await.unwrap();
        assert!(seen.starts_with(&staged.release) && seen.contains("@kgate-guard"), "{seen}");
        let conditions = host::conditions(&ssh).await.unwrap();
        println!("{conditions:?}");
        assert_eq!(conditions["cpus-online"], "0");

        boot::reboot(&ssh, ANSWER).await.unwrap();
        drop(ssh);
        let (ssh, back) = lab.until_rebooted(&identity).await;
        println!("production after {:?}", begun.elapsed());
        assert_eq!(
            (&back.release, &back.version),
            (&facts.identity.release, &facts.identity.version)
        );
        let facts = lab.look(&ssh).await;
        assert_eq!(Selector::of(&lab.host).armed(&ssh, &facts, None).await, Ok(None));
        // What is there already isn't sent again.
        let again = Instant::now();
        assert_eq!(lab.stage(&ssh, &facts).await, staged);
        println!("staged again in {:?}", again.elapsed());
        stage::unstage(&ssh, &lab.host).await.unwrap();
        let left = "ls -d /var/lib/kgate /boot/grub/kgate /boot/grub/custom.cfg 2>/dev/null; ls /lib/modules";
        assert_eq!(ssh.ask("a look", left, ANSWER).await.unwrap(), facts.identity.release);
    }

    /// A candidate that keeps every CPU, and a controller that is gone: the host reboots by itself.
    #[tokio::test]
    async fn boots_production_when_nobody_renews_the_lease() {
        let Some(stand_in) = StandIn::start(Setup::default()) else { return };
        let Some(mut lab) = Lab::start(stand_in, grub()) else { return };
        lab.host.boot.guard = Duration::from_secs(15);
        lab.args = vec!["lab.fault=hang".into()];
        let (facts, production, _) = lab.boot(None, "b-1").await;
        let begun = Instant::now();
        // Production answers once more before it goes down.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let (ssh, identity) = lab.until_rebooted(&facts.identity).await;
        println!("production after {:?}", begun.elapsed());
        assert_eq!(identity.release, production.release);
        let log = String::from_utf8_lossy(&lab.stand_in.console_log()).into_owned();
        assert!(log.contains("lab: hangs"), "the candidate was up");
        assert!(log.contains("kgate: guard: nothing heard of the controller for 15 s: rebooting"));
        let facts = lab.look(&ssh).await;
        Selector::of(&lab.host).production(&ssh, &facts, None).await.unwrap();
    }

    /// The production kernel starts another one, which panics.
    #[tokio::test]
    async fn boots_by_kexec_and_collects_a_panic() {
        let Some(stand_in) = StandIn::start(Setup { boot: Boot::Kexec, ..Setup::default() }) else {
            return;
        };
        let Some(lab) = Lab::start(stand_in, BootMethod::Kexec) else { return };
        let (facts, production, staged) = lab.boot(None, "b-1").await;
        println!("{}", production.proof);
        let (ssh, identity) = lab.until_rebooted(&facts.identity).await;
        assert!(staged.is(&identity, "b-1"), "{identity:?}: {}", lab.console());
        let panic = ssh.run("echo c >/proc/sysrq-trigger", Duration::from_secs(3)).await;
        panic.unwrap_err();
        let (ssh, back) = lab.until_rebooted(&identity).await;
        assert_eq!(back.release, production.release);
        let dir = tempfile::tempdir().unwrap();
        let files = crash::collect(&ssh, dir.path(), ANSWER).await.unwrap();
        println!("{files:?}");
        let panic = files
            .iter()
            .map(|file| std::fs::read(file).unwrap())
            .find(|record| String::from_utf8_lossy(record).contains("sysrq triggered crash"));
        assert!(panic.is_some(), "pstore has the panic");
        assert!(crash::collect(&ssh, dir.path(), ANSWER).await.unwrap().is_empty(), "once");
        stage::unstage(&ssh, &lab.host).await.unwrap();
    }

    /// The controller offers a kernel, and the BMC is told to boot from the network once.
    #[tokio::test]
    async fn boots_from_the_network_once() {
        let Some(stand_in) = StandIn::start(Setup { boot: Boot::Pxe, ..Setup::default() }) else {
            return;
        };
        let tftp = stand_in.tftp_dir();
        let method = BootMethod::Pxe {
            directory: tftp.clone(),
            script: PathBuf::from("boot.ipxe"),
            url: "tftp://10.0.2.2".into(),
        };
        let Some(lab) = Lab::start(stand_in, method) else { return };
        let power = Buttons(&lab.stand_in);
        let (facts, production, staged) = lab.boot(Some(&power), "b-1").await;
        println!("{}", production.proof);
        let (ssh, identity) = lab.until_rebooted(&facts.identity).await;
        assert!(staged.is(&identity, "b-1"), "{identity:?}: {}", lab.console());
        let selector = Selector::of(&lab.host);
        selector.started(Some(&power)).await.unwrap();
        assert!(std::fs::read_to_string(tftp.join("boot.ipxe")).unwrap().ends_with("\nexit\n"));
        drop(ssh);
        power.act(Action::Reset).await.unwrap();
        let (ssh, back) = lab.until_rebooted(&identity).await;
        assert_eq!(back.release, production.release);
        let facts = lab.look(&ssh).await;
        selector.production(&ssh, &facts, Some(&power)).await.unwrap();
        stage::unstage(&ssh, &lab.host).await.unwrap();
        assert!(!tftp.join("kgate/labhost").exists());
    }

    /// Whatever makes production uncertain is refused, and what was armed doesn't stay.
    #[tokio::test]
    async fn boots_only_what_is_safe() {
        let Some(stand_in) = StandIn::start(Setup::default()) else { return };
        let Some(lab) = Lab::start(stand_in, grub()) else { return };
        let ssh = lab.ssh().await;
        let facts = lab.look(&ssh).await;
        let said = async |lab: &Lab, ssh: &Ssh| match Selector::of(&lab.host)
            .production(ssh, &facts, None)
            .await
        {
            Err(SelectError::NotSafe(why)) => why,
            other => panic!("{other:?}"),
        };
        let with = async |change: &str, back: &str| {
            lab.stand_in.ssh(change);
            let said = said(&lab, &ssh).await;
            lab.stand_in.ssh(back);
            said
        };
        let g = "/boot/grub";
        let set = |env: &str| format!("grub-editenv {g}/grubenv {env}; sync");
        let sed =
            |script: &str| format!("cp {g}/grub.cfg /root/cfg; sed -i '{script}' {g}/grub.cfg");
        let restore = format!("cp /root/cfg {g}/grub.cfg");
        let saved = set("set saved_entry=production");
        let refusals = [
            with(&set("set next_entry=mine"), &set("unset next_entry")).await,
            with(&set("set saved_entry=0"), &saved).await,
            with(&set("set saved_entry=gone"), &saved).await,
            with(&set("unset saved_entry"), &saved).await,
            with(&sed("s/default=\"${saved_entry}\"/default=\"0\"/"), &restore).await,
            with(&sed("/save_env next_entry/d"), &restore).await,
            with(&sed("/source.*custom.cfg/d"), &restore).await,
            with(&sed("s/vmlinuz-/vmlinuz-other-/"), &restore).await,
        ];
        insta::with_settings!({filters => vec![(r"6\.1\.\S*amd64", "RELEASE")]}, {
            insta::assert_snapshot!(refusals.join("\n"));
        });

        // Between the assertion and the order, somebody else was at it.
        let selector = Selector::of(&lab.host);
        let production = selector.production(&ssh, &facts, None).await.unwrap();
        let staged = lab.stage(&ssh, &facts).await;
        let arm = async |shutdown| {
            let shutdown = Duration::from_secs(shutdown);
            selector.arm_and_reboot(&ssh, None, &production, &staged, "b-1", shutdown).await
        };
        let refused = |why: &str| Err(SelectError::NotSafe(why.into()));
        lab.stand_in.ssh(&format!("echo >>{g}/grub.cfg"));
        assert_eq!(arm(60).await, refused("grub.cfg was changed meanwhile"));
        lab.stand_in.ssh(&restore);
        lab.stand_in.ssh(&set("set next_entry=mine"));
        assert_eq!(arm(60).await, refused("something is armed already"));
        selector.disarm(&ssh, &facts, None).await.unwrap();
        assert_eq!(lab.stand_in.would_boot().once.as_deref(), Some("mine"), "not ours");
        lab.stand_in.ssh(&set("unset next_entry"));
        lab.stand_in.ssh(&set("set saved_entry=other"));
        assert_eq!(arm(60).await, refused("GRUB's default was changed meanwhile"));
        lab.stand_in.ssh(&saved);
        assert!(lab.stand_in.would_boot().is_production());

        // Too little room is said before anything is sent.
        let mut host = lab.host.clone();
        host.boot.directory = "/tmp/kgate".into();
        let elsewhere = host::look(&ssh, &host.boot).await.unwrap();
        let error = lab.try_stage(&ssh, &host, &elsewhere).await.unwrap_err().to_string();
        assert_eq!(
            error,
            "/tmp/kgate on the host is not on its root file system, where the initrd would look for it"
        );

        // A reboot that never comes leaves nothing armed, though the controller is gone.
        lab.stand_in
            .ssh("sed -i '1i ::shutdown:/bin/sleep 1000' /etc/inittab; kill -HUP 1; sleep 1");
        arm(4).await.unwrap();
        let armed = selector.armed(&ssh, &facts, None).await.unwrap();
        assert_eq!(armed.as_deref(), Some("kgate-candidate"));
        drop(ssh);
        let begun = Instant::now();
        while !lab.stand_in.would_boot().is_production() {
            assert!(begun.elapsed() < BOOTS, "it stays armed");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }

        // Should GRUB fail to clear it all the same, or to load our entry, production is booted.
        let ssh = lab.ssh().await;
        let armed = set("set next_entry=kgate-candidate");
        let change = format!("sed -i '/save_env next_entry/d' {g}/grub.cfg; {armed}");
        ssh.ask("a change", &change, ANSWER).await.unwrap();
        drop(ssh);
        lab.stand_in.power("reset");
        let (ssh, identity) = lab.until_rebooted(&facts.identity).await;
        assert_eq!(identity.release, production.release, "{}", lab.console());
        assert!(
            lab.console().contains("kgate: next_entry could not be cleared: booting production")
        );
        let change = format!("{restore}; rm {g}/kgate/candidate-initrd; {armed}");
        ssh.ask("a change", &change, ANSWER).await.unwrap();
        drop(ssh);
        lab.stand_in.power("reset");
        let (_, again) = lab.until_rebooted(&identity).await;
        assert_eq!(again.release, production.release, "{}", lab.console());
        assert!(lab.stand_in.would_boot().is_production());
    }
}
