//! `kgate releases` as a person, a CI job and a network that fails see it.

mod support;

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::thread;

use serde_json::Value;
use support::{kgate, run};
use tempfile::TempDir;

const KERNEL_ORG: &str = r#"{"releases": [
 {"iseol": false, "version": "7.2-rc3", "moniker": "mainline", "released": {"isodate": "2026-07-05"}},
 {"iseol": false, "version": "7.1.2", "moniker": "stable", "released": {"isodate": "2026-07-04"}},
 {"iseol": true, "version": "7.0.14", "moniker": "stable", "released": {"isodate": "2026-06-27"}},
 {"iseol": false, "version": "6.18.40", "moniker": "longterm", "released": {"isodate": "2026-07-04"}},
 {"iseol": false, "version": "6.1.180", "moniker": "longterm", "released": {"isodate": "2026-07-03"}},
 {"iseol": false, "version": "next-20260706", "moniker": "linux-next", "released": {"isodate": "2026-07-06"}}
]}"#;
const ENDS: &str = r#"[
 {"cycle": "7.1", "lts": false, "releaseDate": "2026-06-14", "eol": null, "latest": "7.1.2", "latestReleaseDate": "2026-07-04"},
 {"cycle": "6.18", "lts": true, "releaseDate": "2025-11-30", "eol": "2028-12-31", "latest": "6.18.40", "latestReleaseDate": "2026-07-04"},
 {"cycle": "6.1", "lts": true, "releaseDate": "2022-12-11", "eol": "2027-12-31", "latest": "6.1.180", "latestReleaseDate": "2026-07-03"}
]"#;
const TAGS: &str = "v6.1.170 2026-04-30\nv6.1.179 2026-06-27\nv6.1.180 2026-07-03\nv7.0.13 2026-06-20\nv6.18.39 2026-06-27\n";

fn directory() -> TempDir {
    let dir = TempDir::new().unwrap();
    for (name, text) in [
        ("releases.json", KERNEL_ORG),
        ("linux.json", ENDS),
        ("tags.txt", TAGS),
        ("bad.json", "{\"releases\": [{\"version\": \"\\u001b[31m\", \"moniker\": \"stable\"}]}"),
        ("empty.txt", ""),
        ("later.txt", "v9.0 2099-01-01\n"),
    ] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    fs::create_dir(dir.path().join("nothing")).unwrap();
    dir
}

fn releases(dir: &Path, line: &str) -> (i32, String, String) {
    let line = line.split_whitespace();
    run(kgate(dir)
        .env("KGATE_CACHE", "cache")
        .args(["releases", "--today", "2026-07-07"])
        .args(line))
}

/// The answers to several command lines, below each other.
fn answers(dir: &Path, lines: &[&str]) -> String {
    let mut text = String::new();
    for line in lines {
        let (code, stdout, stderr) = releases(dir, line);
        writeln!(text, "$ kgate releases {line}\n{stdout}{stderr}[exit {code}]\n").unwrap();
    }
    text
}

#[test]
fn what_a_person_sees() {
    let dir = directory();
    let all = "--feed releases.json --feed linux.json --feed tags.txt";
    let lines = [
        "--feed releases.json".to_owned(),
        "--feed tags.txt".to_owned(),
        format!("{all} --production 6.1.170"),
        format!("{all} --production 6.1.180-1"),
        format!("{all} --production 6.18.40-mycorp+"),
        format!("{all} --production v7.0.13"),
        format!("{all} --production 7.2-rc1"),
        format!("{all} --production 6.1.0-56-cloud-amd64"),
        format!("{all} --production 5.14.0-427.13.1.el9_4.x86_64"),
        format!("{all} --production 7.1.9"),
        format!("{all} --production next-20260706"),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    insta::assert_snapshot!(answers(dir.path(), &lines));
}

#[test]
fn what_is_wrong_is_said() {
    let dir = directory();
    insta::assert_snapshot!(answers(
        dir.path(),
        &[
            "--feed nowhere.json",
            "--feed bad.json",
            "--feed empty.txt",
            "--feed nothing",
            "--feed git:releases.json",
            "--feed later.txt",
            "--feed releases.json --production six",
            "--feed releases.json --production ./nothing",
            "--feed ftp://127.0.0.1/releases.json",
        ],
    ));
}

#[test]
fn the_json_says_all() {
    let dir = directory();
    let (code, stdout, stderr) = releases(
        dir.path(),
        "--feed releases.json --feed tags.txt --production 6.1.170-3 --format json",
    );
    assert_eq!((code, stderr.as_str()), (0, ""));
    let value: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(value["schema"], "kgate-releases/1");
    let production = &value["production"];
    assert_eq!(production["version"]["distribution"], "debian");
    assert_eq!(production["version"]["upstream"], "6.1.170");
    assert_eq!(production["standing"]["releases_behind"], 10);
    assert_eq!(production["standing"]["days_behind"], 64);
    assert_eq!(
        production["standing"]["step"],
        serde_json::json!({"what": "gate", "release": "6.1.180"})
    );
    assert_eq!(value["catalogue"]["branches"]["7.0"]["state"], "end-of-life");
    assert_eq!(value["catalogue"]["today"], "2026-07-07");
}

#[test]
fn kernels_of_a_directory() {
    let dir = directory();
    let kernels = dir.path().join("kernels");
    fs::create_dir_all(kernels.join("not-a-kernel")).unwrap();
    for name in [
        "linux-image-6.1.0-56-cloud-amd64_6.1.192-2_amd64.deb",
        "linux-image-6.1.0-56-cloud-amd64-dbg_6.1.192-2_amd64.deb",
        "linux-image-6.12.117+deb12-amd64_6.12.117-1~deb12u1_amd64.deb",
        "linux-image-6.8.0-45-generic_6.8.0-45.45_amd64.deb",
        "linux-headers-6.1.0-56-amd64_6.1.192-2_amd64.deb",
        "notes.txt",
    ] {
        fs::write(kernels.join(name), "").unwrap();
    }
    let (code, stdout, stderr) =
        releases(dir.path(), "--feed kernels --production 6.1.170 --format json");
    assert_eq!((code, stderr.as_str()), (0, ""));
    let value: Value = serde_json::from_str(&stdout).unwrap();
    let catalogue = &value["catalogue"];
    let of = |branch: &str, release: &str| {
        catalogue["branches"][branch]["releases"][release]["kernel"].clone()
    };
    assert_eq!(
        of("6.1", "6.1.192"),
        "kernels/linux-image-6.1.0-56-cloud-amd64_6.1.192-2_amd64.deb"
    );
    assert_eq!(
        of("6.12", "6.12.117"),
        "kernels/linux-image-6.12.117+deb12-amd64_6.12.117-1~deb12u1_amd64.deb"
    );
    assert_eq!(catalogue["notes"].as_array().unwrap().len(), 2, "{}", catalogue["notes"]);
    assert_eq!(value["production"]["standing"]["step"]["release"], "6.1.192");
}

#[test]
fn what_apt_offers() {
    if Command::new("apt-cache").arg("--version").output().is_err() {
        println!("SKIP: apt-cache is not installed");
        return;
    }
    let dir = directory();
    let (code, _, stderr) = releases(dir.path(), "--feed apt:no-such-flavour");
    assert_eq!(code, 2);
    assert!(stderr.contains("apt offers no kernel of flavour `no-such-flavour`"), "{stderr}");
    let (code, stdout, stderr) = releases(dir.path(), "--feed apt: --format json");
    if code != 0 {
        println!("SKIP: {stderr}");
        return;
    }
    let value: Value = serde_json::from_str(&stdout).unwrap();
    let branches = value["catalogue"]["branches"].as_object().unwrap();
    let releases = branches.values().flat_map(|branch| branch["releases"].as_object().unwrap());
    let offered: Vec<_> = releases.filter_map(|(_, release)| release["kernel"].as_str()).collect();
    assert!(offered.iter().any(|kernel| kernel.starts_with("apt:linux-image-")), "{offered:?}");
    // An ABI name says only the branch; apt knows the release.
    let name = offered
        .iter()
        .find_map(|kernel| kernel.strip_prefix("apt:linux-image-")?.split('=').next());
    let line = format!("--feed apt: --production {} --format json", name.unwrap());
    let value: Value = serde_json::from_str(&releases_of(dir.path(), &line)).unwrap();
    assert!(value["production"]["standing"]["releases_behind"].is_u64(), "{value}");
}

fn releases_of(dir: &Path, line: &str) -> String {
    let (code, stdout, stderr) = releases(dir, line);
    assert_eq!(code, 0, "{stderr}");
    stdout
}

#[test]
fn tags_of_a_repository() {
    let dir = directory();
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        command.current_dir(dir.path().join("nothing")).args(args);
        for name in
            ["GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"]
        {
            command.env(name, "a@b");
        }
        command.env("GIT_COMMITTER_DATE", "2023-01-04T12:00:00Z");
        assert!(command.status().unwrap().success(), "{args:?}");
    };
    git(&["init", "-q"]);
    git(&["commit", "-q", "--allow-empty", "-m", "one"]);
    git(&["tag", "-m", "6.1.3", "v6.1.3"]);
    git(&["tag", "v6.1.2"]);
    git(&["tag", "videos"]);
    // A branch of the same name makes the short name of a tag a longer one.
    git(&["branch", "v6.1.3"]);
    let (code, stdout, _) = releases(dir.path(), "--feed git:nothing --format json");
    assert_eq!(code, 0);
    let value: Value = serde_json::from_str(&stdout).unwrap();
    let found = &value["catalogue"]["branches"]["6.1"]["releases"];
    assert_eq!(found["6.1.3"]["date"], "2023-01-04");
    assert_eq!(found["6.1.2"]["date"], "2023-01-04");
}

/// Answers requests until the test ends: what each path gives.
fn serve(listener: &TcpListener) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let request = lines.next().and_then(Result::ok).unwrap_or_default();
        let _headers = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).count();
        let moved =
            |to: &str| format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
        let answer = match request.split_whitespace().nth(1).unwrap_or_default() {
            "/releases.json" => {
                format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{KERNEL_ORG}",
                    KERNEL_ORG.len()
                )
            }
            "/moved" => moved("/releases.json"),
            "/loop" => moved("/loop"),
            "/local" => moved("file:///etc/hostname"),
            "/portal" => "HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n<html>\x1b[31m!!".to_owned(),
            "/long" => "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n".to_owned(),
            "/cut" => "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{\"releases\": [".to_owned(),
            _ => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
        };
        let _ = stream.write_all(answer.as_bytes());
    }
}

#[test]
fn a_network_that_fails() {
    if Command::new("curl").arg("--version").output().is_err() {
        println!("SKIP: curl is not installed");
        return;
    }
    let dir = directory();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || serve(&listener));
    let url = |path: &str| format!("--feed http://127.0.0.1:{port}/{path}");
    let ask = |path: &str| {
        let (code, stdout, stderr) = releases(dir.path(), &format!("{} --format json", url(path)));
        (code, stdout, stderr.replace(&port.to_string(), "PORT"))
    };

    for path in ["releases.json", "moved"] {
        let (code, stdout, stderr) = ask(path);
        assert_eq!((code, stderr.as_str()), (0, ""), "{path}");
        let value: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(value["catalogue"]["branches"]["6.1"]["state"], "longterm");
        // It tells of the day it was fetched on, not of the newest release in it.
        assert_eq!(value["catalogue"]["sources"][0]["as_of"], "2026-07-07");
    }
    let mut errors = String::new();
    for path in ["lost", "loop", "local", "portal", "long", "cut"] {
        let (code, stdout, stderr) = ask(path);
        assert_eq!((code, stdout.as_str()), (4, ""), "{path}");
        assert!(!stderr.contains('\x1b'), "{stderr:?}");
        // What curl says differs between its versions.
        let (first, hint) = stderr.split_once("\n").unwrap();
        let shown = first.split_once("PORT/").unwrap().1;
        assert!(shown.starts_with(&format!("{path}: ")), "{first}");
        assert!(hint.contains("no copy of it was kept"), "{hint}");
        writeln!(errors, "{first}").unwrap();
    }
    println!("{errors}");

    // A copy that was kept, of another server that is gone.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = gone.local_addr().unwrap().port();
    drop(gone);
    let place = dir.path().join("cache/feeds");
    let copy = fs::read_to_string(place.join(format!("127.0.0.1-{port}-releases.json"))).unwrap();
    let copy =
        copy.replace(&port.to_string(), &closed.to_string()).replace("2026-07-07", "2026-07-04");
    fs::write(place.join(format!("127.0.0.1-{closed}-releases.json")), copy).unwrap();
    let old = format!("--feed http://127.0.0.1:{closed}/releases.json");
    let (code, stdout, stderr) = releases(dir.path(), &old);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.ends_with("using the copy of 2026-07-04, which is 3 days old\n"), "{stderr}");
    assert!(stdout.contains("as of 2026-07-04"), "{stdout}");
    // A damaged copy is no copy.
    fs::write(place.join(format!("127.0.0.1-{closed}-releases.json")), "{}").unwrap();
    assert_eq!(releases(dir.path(), &old).0, 4);
}

#[test]
fn real_releases() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures-release");
    if !data.is_dir() {
        println!("SKIP: no release data at {}", data.display());
        return;
    }
    let line = "releases --today 2026-08-22 --production 6.1.170-3 --feed releases-2026-08-22-reconstructed.json \
        --feed kernel-release-dates.tsv --feed kernel-eol.json";
    let cache = TempDir::new().unwrap();
    let (code, stdout, stderr) =
        run(kgate(&data).env("KGATE_CACHE", cache.path()).args(line.split_whitespace()));
    assert_eq!((code, stderr.as_str()), (0, ""));
    for expected in [
        "production  6.1.170-3, which is 6.1.170, released 2026-04-30 (114 days ago)",
        "behind      13 releases, 111 days; 6.1.183 is the latest",
        "branch      6.1: longterm, ends 2027-12-31, in 496 days",
        "longterm    6.18 is the newest: begin to evaluate it now",
        "next        6.1.183 is out for 3 days: kgate gate",
    ] {
        assert!(stdout.lines().any(|line| line == expected), "{expected}\n{stdout}");
    }
}
