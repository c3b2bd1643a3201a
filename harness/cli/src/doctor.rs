//! `kgate doctor`: what this machine has and lacks, and how to get it.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use kgate_model::host::{Host, HostCommand};
use kgate_qemu::Qemu;

use crate::context::{Context, available_memory, cpus};
use crate::error::{CommandError, INFRASTRUCTURE, PROMOTE};

/// How a check went.
enum Found {
    /// There, with what it is.
    Yes(String),
    /// Not there; kgate works without it, with this loss.
    Less(String),
    /// Not there, and nothing works without it.
    No(String),
}

use Found::{Less, No, Yes};

/// Runs all checks.
pub(crate) fn doctor(context: &Context) -> Result<ExitCode, CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let qemu = context.qemu();
    let checks = [
        ("qemu", check_qemu(qemu.as_ref())),
        ("kvm", runtime.block_on(check_kvm(qemu.as_ref().ok()))),
        ("memory", check_memory()),
        ("cpus", Yes(cpus().to_string())),
        ("cache", check_cache(context)),
        ("busybox", check_busybox(context)),
        ("apt", check_apt(context)),
        ("kernels", check_kernels(context)),
        ("curl", check_curl(context)),
    ];
    let mut fatal = false;
    for (name, found) in checks {
        let (sign, text) = match found {
            Yes(text) => ("ok", text),
            Less(text) => ("--", text),
            No(text) => {
                fatal = true;
                ("NO", text)
            }
        };
        anstream::println!("{sign}  {name:<9} {}", crate::text::line(&text));
    }
    anstream::println!(
        "\n{}",
        if fatal {
            "kgate can't run here yet: see the lines with NO"
        } else {
            "kgate can run here"
        }
    );
    Ok(ExitCode::from(if fatal { INFRASTRUCTURE } else { PROMOTE }))
}

fn check_qemu(qemu: Result<&Qemu, &CommandError>) -> Found {
    match qemu {
        Ok(qemu) => Yes(qemu.version.clone()),
        Err(error) => No(error.first_line()),
    }
}

async fn check_kvm(qemu: Option<&Qemu>) -> Found {
    let Some(qemu) = qemu else { return Less("not tried without QEMU".into()) };
    match qemu.probe_kvm().await {
        Ok(()) => Yes("a probe booted under it".into()),
        Err(why) => Less(format!("{why}; TCG is used, which is slower but as exact")),
    }
}

fn check_memory() -> Found {
    let mib = available_memory() >> 20;
    let text = format!("{mib} MiB available");
    if mib < 700 { No(format!("{text}; one small guest needs about 700")) } else { Yes(text) }
}

fn check_cache(context: &Context) -> Found {
    let cache = match context.cache_dir() {
        Ok(cache) => cache,
        Err(error) => return No(error.first_line()),
    };
    match std::fs::create_dir_all(cache).and_then(|()| tempfile(cache)) {
        Ok(()) => Yes(cache.display().to_string()),
        Err(error) => No(format!("{}: {error}; choose another with --cache", cache.display())),
    }
}

fn tempfile(dir: &Path) -> std::io::Result<()> {
    let probe = dir.join(format!(".doctor-{}", std::process::id()));
    std::fs::write(&probe, b"kgate")?;
    std::fs::remove_file(&probe)
}

fn check_busybox(context: &Context) -> Found {
    let images = match context.images() {
        Ok(images) => images,
        Err(error) => return No(error.first_line()),
    };
    match images.base_userland() {
        Ok(busybox) => {
            Yes(format!("{} ({} applets)", busybox.path.display(), busybox.applets.len()))
        }
        Err(error) => No(format!("{error}; on Debian: apt-get install busybox-static")),
    }
}

fn check_apt(context: &Context) -> Found {
    let command = HostCommand::new("apt-get", Duration::from_secs(20)).arg("--version");
    match context.host.run(&command) {
        Ok(output) if output.code == Some(0) => {
            let text = String::from_utf8_lossy(&output.stdout);
            Yes(text.lines().next().unwrap_or_default().to_owned())
        }
        _ => Less("not here: no apt: references and no images; .deb, .rpm and paths work".into()),
    }
}

fn check_curl(context: &Context) -> Found {
    let command = HostCommand::new("curl", Duration::from_secs(20)).arg("--version");
    match context.host.run(&command) {
        Ok(output) if output.code == Some(0) => {
            let text = String::from_utf8_lossy(&output.stdout);
            Yes(text.split(" (").next().unwrap_or_default().to_owned())
        }
        _ => Less("not here: no feeds of releases by URL; files, apt: and git: work".into()),
    }
}

fn check_kernels(context: &Context) -> Found {
    match kgate_kernel::apt::kernels(&context.host, "cloud-amd64") {
        Ok(kernels) if kernels.is_empty() => {
            Less("apt offers none of flavour cloud-amd64: `apt-get update` may help".into())
        }
        Ok(kernels) => Yes(format!("apt offers {} of flavour cloud-amd64", kernels.len())),
        Err(error) => Less(error.to_string()),
    }
}
