//! Booting a kernel once on a stand-in, by GRUB, kexec and the network, and what brings the host back.

mod support;

use std::time::{Duration, Instant};

use kgate_lab::boot::{self, SelectError, Selector};
use kgate_lab::stage;
use kgate_model::inventory::BootMethod;
use kgate_testkit::lab::{Setup, StandIn};
use support::{ANSWER, Lab, grub};

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

    boot::reboot(&ssh, ANSWER).await.unwrap();
    drop(ssh);
    let (ssh, back) = lab.until_rebooted(&identity).await;
    println!("production after {:?}", begun.elapsed());
    assert_eq!((&back.release, &back.version), (&facts.identity.release, &facts.identity.version));
    let facts = lab.look(&ssh).await;
    assert_eq!(Selector::of(&lab.host).armed(&ssh, &facts, None).await, Ok(None));
    // What is there already isn't sent again.
    let again = Instant::now();
    assert_eq!(lab.stage(&ssh, &facts).await, staged);
    println!("staged again in {:?}", again.elapsed());
    stage::unstage(&ssh, &lab.host).await.unwrap();
    let left =
        "ls -d /var/lib/kgate /boot/grub/kgate /boot/grub/custom.cfg 2>/dev/null; ls /lib/modules";
    assert_eq!(ssh.ask("a look", left, ANSWER).await.unwrap(), facts.identity.release);
}
