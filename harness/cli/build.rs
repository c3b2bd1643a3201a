//! Builds the programs that run inside the machine, as static executables, and the plugin that runs
//! inside QEMU; lists the scenarios, profiles and images that the binary carries with it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let manifest = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let root =
        Path::new(&manifest).ancestors().nth(2).expect("two levels below the root").to_owned();
    programs(&root, &out);
    library(&root, &out);
}

fn programs(root: &Path, out: &Path) {
    for path in
        ["Cargo.toml", "harness/agent", "harness/model", "harness/plugin/src", "workloads/ops"]
    {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    // QEMU loads the plugin into itself, so that one is dynamic.
    let built = [
        build(
            root,
            &out.join("guest"),
            // At fixed addresses: each start would have to go through what can be moved.
            "-Ctarget-feature=+crt-static\x1f-Crelocation-model=static",
            &["kgate-agent", "kgate-ops"],
        ),
        build(root, &out.join("plugin"), "", &["kgate-plugin"]),
    ];
    for (variable, dir, file) in [
        ("KGATE_AGENT", &built[0], "kgate-agent"),
        ("KGATE_OPS", &built[0], "kgate-ops"),
        ("KGATE_PLUGIN", &built[1], "libkgate_plugin.so"),
    ] {
        println!("cargo::rustc-env={variable}={}", dir.join(file).display());
    }
}

/// A build of its own, for its own target directory, flags and profile: cargo has no stable way to
/// depend on another package's executable. Answers where the files are.
fn build(root: &Path, target_dir: &Path, flags: &str, packages: &[&str]) -> PathBuf {
    let status = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"))
        .args(["build", "--quiet", "--profile", "guest", "--target", TARGET, "--target-dir"])
        .arg(target_dir)
        .args(packages.iter().flat_map(|package| ["--package", package]))
        .current_dir(root)
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        // Clippy and the like come through these; they build nothing that runs.
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("CARGO_BUILD_TARGET")
        .status()
        .expect("cargo runs");
    assert!(status.success(), "{} do not build", packages.join(" and "));
    target_dir.join(TARGET).join("guest")
}

/// `library.rs`: a table of path below the root and content.
fn library(root: &Path, out: &Path) {
    let mut files = Vec::new();
    for dir in ["scenarios", "workloads/profiles", "images"] {
        println!("cargo::rerun-if-changed={}", root.join(dir).display());
        walk(&root.join(dir), &mut files);
    }
    files.sort();
    let mut table = String::from("&[\n");
    for path in files {
        let name = path.strip_prefix(root).expect("found below the root").display().to_string();
        let path = path.display().to_string();
        writeln!(table, "    ({name:?}, include_str!({path:?})),").expect("a String takes it");
    }
    table.push_str("]\n");
    fs::write(out.join("library.rs"), table).expect("OUT_DIR can be written");
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            walk(&path, files);
        } else if path.extension().is_some_and(|e| e == "yaml") {
            files.push(path);
        }
    }
}
