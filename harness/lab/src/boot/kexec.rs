//! kexec: the production kernel starts another one. What the firmware boots is never touched.

use crate::boot::{Armament, Assertion, PATH, Production, SelectError};
use crate::ssh::{ANSWER, Ssh, quote};
use crate::stage::Staged;

/// Whether a kernel is loaded, and whether a plain reboot would load one.
const STATE: &str = "cat /sys/kernel/kexec_loaded; \
    grep -qsx 'LOAD_KEXEC=true' /etc/default/kexec && echo always; \
    command -v kexec >/dev/null || echo missing; :";

pub(super) async fn production(ssh: &Ssh) -> Result<Production, SelectError> {
    let state = ssh.ask("asking for kexec", &format!("{PATH}\n{STATE}"), ANSWER).await?;
    let refuse = |why: &str| Err(SelectError::NotSafe(why.into()));
    match state.split_whitespace().collect::<Vec<_>>()[..] {
        ["0"] => Ok(Production {
            proof: "the firmware boots it; another kernel is loaded by kexec only".into(),
            assertions: vec![Assertion::new(
                "[ \"$(cat /sys/kernel/kexec_loaded)\" = 0 ]".into(),
                "a kernel is loaded for kexec already",
            )],
            ..Production::default()
        }),
        ["1", ..] => refuse("a kernel is loaded for kexec already: `kexec -u` unloads it"),
        [_, "always", ..] => refuse(
            "a plain reboot of the host is a kexec: set LOAD_KEXEC=false in /etc/default/kexec, so \
             that it leads through the firmware",
        ),
        [_, "missing"] => refuse("the host has no `kexec`: install kexec-tools"),
        _ => refuse("the production kernel has no kexec (CONFIG_KEXEC)"),
    }
}

pub(super) fn armament(staged: &Staged, command_line: &str) -> Armament {
    let (image, initrd) = (staged.image.to_string_lossy(), staged.initrd.to_string_lossy());
    let load = format!(
        "{} {} {}",
        quote(&image),
        quote(&format!("--initrd={initrd}")),
        quote(&format!("--command-line={command_line}")),
    );
    Armament {
        assertions: Vec::new(),
        arm: format!("kexec -a -l {load} || kexec -l {load}"),
        disarm: "kexec -u".into(),
        // Without systemd nobody unmounts: what is in memory is written, and nothing more is.
        reboot: "if [ -d /run/systemd/system ]; then systemctl kexec; else
echo s >/proc/sysrq-trigger; sleep 1; echo u >/proc/sysrq-trigger; sleep 1; kexec -e
fi"
        .into(),
    }
}

pub(super) async fn armed(ssh: &Ssh) -> Result<Option<String>, SelectError> {
    let script = "cat /sys/kernel/kexec_loaded 2>/dev/null; :";
    let loaded = ssh.ask("asking for kexec", script, ANSWER).await?;
    Ok((loaded == "1").then(|| "a kernel that is loaded for kexec".into()))
}

pub(super) async fn disarm(ssh: &Ssh) -> Result<(), SelectError> {
    let script = format!(
        "{PATH}\nif [ \"$(cat /sys/kernel/kexec_loaded 2>/dev/null)\" = 1 ]; then kexec -u; fi"
    );
    ssh.ask("unloading the kernel", &script, ANSWER).await?;
    Ok(())
}
