//! What other kernels do on a lab stand-in, and that production is back after each.

use std::time::{Duration, Instant};

use kgate_testkit::kernels;
use kgate_testkit::lab::{Boot, Booted, GrubFault, Setup, StandIn};

/// A machine that does other work besides is slow.
const BOOT: Duration = Duration::from_secs(120);

/// Says how long something took, for `--no-capture`.
#[expect(clippy::print_stdout, reason = "a figure for whoever asks for it")]
fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = work();
    println!("{what}: {:.1} s", start.elapsed().as_secs_f64());
    done
}

/// A host with another kernel staged as `candidate`, and what runs there.
fn host(words: &str) -> Option<(StandIn, Booted)> {
    let candidate = kernels::old_pair()?.candidate;
    let host = StandIn::start(Setup::default())?;
    timed("stage", || host.stage(&candidate, "candidate", words));
    let booted = host.booted().expect("it answers");
    Some((host, booted))
}

/// Arms the candidate and reboots, as one script.
fn boot_candidate(host: &StandIn) {
    host.ssh("grub-reboot candidate && sync");
    assert_eq!(host.would_boot().once.as_deref(), Some("candidate"));
    host.ssh("reboot");
}

/// Waits for text on the serial line.
fn heard(host: &StandIn, from: usize, text: &str) {
    let end = Instant::now() + BOOT;
    while !String::from_utf8_lossy(&host.console_log()[from..]).contains(text) {
        assert!(Instant::now() < end, "no '{text}' on the serial line");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn back(host: &StandIn, what: &str, production: &Booted) {
    let now = timed(what, || host.until_rebooted(production, BOOT));
    assert_eq!(now.release, production.release);
    assert!(host.would_boot().is_production());
}

#[test]
fn grub_boots_a_candidate_once() {
    let Some((host, production)) = host("lab.candidate") else { return };
    boot_candidate(&host);
    let candidate = timed("one-shot to ssh", || host.until_rebooted(&production, BOOT));
    assert_ne!(candidate.release, production.release);
    assert!(candidate.command_line.contains("lab.candidate"));
    assert!(host.would_boot().is_production(), "GRUB disarms before it boots");
    host.ssh("reboot");
    let again = timed("back", || host.until_rebooted(&candidate, BOOT));
    assert_eq!(again.release, production.release);
}

/// Takes minutes: run by `cargo nextest run --profile long`.
mod long {
    use super::*;

    #[test]
    fn kexec_boots_a_candidate() {
        let Some((host, production)) = host("") else { return };
        host.ssh(
            "kexec -l /boot/candidate.vmlinuz --initrd=/boot/candidate.initrd \
             --command-line=\"$(cat /proc/cmdline) lab.kexec\" && sync && \
             (sleep 1; kexec -e) >/dev/null 2>&1 </dev/null &",
        );
        let candidate = timed("kexec to ssh", || host.until_rebooted(&production, BOOT));
        assert_ne!(candidate.release, production.release);
        assert!(host.would_boot().is_production());
        host.ssh("reboot");
        let again = timed("back", || host.until_rebooted(&candidate, BOOT));
        assert_eq!(again.release, production.release);
    }

    #[test]
    fn the_network_boots_a_candidate_once() {
        let Some(candidate) = kernels::old_pair().map(|pair| pair.candidate) else { return };
        let Some(host) = StandIn::start(Setup { boot: Boot::Pxe, ..Setup::default() }) else {
            return;
        };
        let production = host.booted().expect("it answers");
        host.offer(&candidate, "lab.pxe");
        host.power("boot pxe once");
        host.ssh("reboot");
        let booted = timed("network to ssh", || host.until_rebooted(&production, BOOT));
        assert_ne!(booted.release, production.release);
        assert!(booted.command_line.contains("lab.pxe"));
        assert_eq!(host.power("boot"), "none");
        host.ssh("reboot");
        let again = timed("back", || host.until_rebooted(&booted, BOOT));
        assert_eq!(again.release, production.release);
    }

    #[test]
    fn a_candidate_that_panics_leaves_production() {
        let Some((host, production)) = host("lab.fault=panic") else { return };
        boot_candidate(&host);
        back(&host, "panic and back", &production);
        heard(&host, 0, "Kernel panic - not syncing: sysrq triggered crash");
    }

    #[test]
    fn a_candidate_without_init_leaves_production() {
        let Some((host, production)) = host("init=/nonexistent") else { return };
        boot_candidate(&host);
        back(&host, "no init and back", &production);
    }

    #[test]
    fn a_candidate_that_hangs_is_deaf_and_silent_until_an_nmi() {
        let Some((host, production)) = host("lab.fault=hang unknown_nmi_panic") else { return };
        let from = host.console_log().len();
        boot_candidate(&host);
        heard(&host, from, "lab: hangs");
        std::thread::sleep(Duration::from_secs(1));
        let said = host.console_log().len();
        assert!(host.try_ssh("true", Duration::from_secs(5)).is_none());
        std::thread::sleep(Duration::from_secs(20));
        assert_eq!(host.console_log().len(), said, "silent");
        timed("NMI to panic", || {
            host.power("nmi");
            heard(&host, said, "Kernel panic - not syncing: NMI");
        });
        back(&host, "NMI and back", &production);
    }

    #[test]
    fn a_candidate_without_network_is_brought_back_by_its_power() {
        let Some((host, production)) = host("lab.fault=nonet") else { return };
        let from = host.console_log().len();
        boot_candidate(&host);
        heard(&host, from, "lab: ready");
        assert!(host.try_ssh("true", Duration::from_secs(3)).is_none());
        host.power("cycle");
        back(&host, "power cycle and back", &production);
    }

    #[test]
    fn a_grub_with_a_fault_boots_what_it_should_not() {
        let Some((host, production)) = host("") else { return };
        host.grub_fault(GrubFault::IgnoresOnce);
        host.ssh("grub-reboot candidate && sync; reboot");
        let ignored = timed("ignored", || host.until_rebooted(&production, BOOT));
        assert_eq!(ignored.release, production.release);
        assert_eq!(host.would_boot().once.as_deref(), Some("candidate"));

        host.grub_fault(GrubFault::NeverClears);
        host.ssh("reboot");
        let armed = timed("never cleared", || host.until_rebooted(&ignored, BOOT));
        assert_ne!(armed.release, production.release);
        assert_eq!(host.would_boot().once.as_deref(), Some("candidate"));

        host.ssh("grub-editenv /boot/grub/grubenv unset next_entry; sync");
        assert!(host.would_boot().is_production());
        host.grub_fault(GrubFault::DefaultsToCustom);
        assert!(!host.would_boot().is_production());
    }

    #[test]
    fn an_ssh_server_ends_after_it_was_up() {
        let Some((host, production)) = host("lab.fault=exit-ssh") else { return };
        let from = host.console_log().len();
        boot_candidate(&host);
        heard(&host, from, "lab: ready");
        std::thread::sleep(Duration::from_secs(15));
        assert!(host.try_ssh("true", Duration::from_secs(5)).is_none());
        host.power("reset");
        back(&host, "reset and back", &production);
    }

    #[test]
    fn a_candidate_that_panics_is_kept_by_kdump() {
        let Some((host, production)) = host("lab.fault=late-panic crashkernel=128M") else {
            return;
        };
        boot_candidate(&host);
        heard(&host, 0, "bytes of a crash");
        back(&host, "panic, kdump and back", &production);
        let log = host.ssh("cat /var/crash/*/dmesg.*");
        assert!(log.contains("Kernel panic - not syncing: sysrq triggered crash"), "{log}");
    }
}
