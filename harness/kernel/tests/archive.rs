//! The initramfs that is written, read back by another implementation.

use std::fs;
use std::io::Read;
use std::path::PathBuf;

use kgate_kernel::ModuleFile;
use kgate_kernel::initramfs::{Content, Initramfs};

fn sample(on_disk: PathBuf) -> Initramfs {
    let mut initramfs = Initramfs::new();
    let bytes = |text: &str| Content::Bytes(text.as_bytes().to_vec());
    initramfs.file("/init", 0o755, bytes("#!/bin/true\n")).unwrap();
    initramfs.char_device("dev/console", 0o600, 5, 1).unwrap();
    initramfs.file("lib/modules/a.ko", 0o644, Content::File(on_disk)).unwrap();
    initramfs.dir("lib/modules", 0o700).unwrap();
    initramfs.dir("tmp", 0o1777).unwrap();
    initramfs.symlink("/bin/sh", "busybox").unwrap();
    initramfs.file("empty", 0o600, bytes("")).unwrap();
    initramfs
}

fn list(mut archive: &[u8]) -> String {
    let mut out = String::new();
    loop {
        let mut reader = cpio::newc::Reader::new(archive).unwrap();
        let entry = reader.entry().clone();
        if entry.is_trailer() {
            return out;
        }
        let mut content = Vec::new();
        reader.read_to_end(&mut content).unwrap();
        out += &format!(
            "{:>2} {:06o} {} {}:{} {} {:?}\n",
            entry.ino(),
            entry.mode(),
            entry.nlink(),
            entry.rdev_major(),
            entry.rdev_minor(),
            entry.name(),
            String::from_utf8_lossy(&content),
        );
        assert_eq!((entry.mtime(), entry.uid(), entry.gid()), (0, 0, 0));
        archive = reader.finish().unwrap();
    }
}

#[test]
fn entries_come_back_as_they_were_put_in() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.ko");
    fs::write(&file, "module").unwrap();
    let archive = sample(file.clone()).write(Vec::new()).unwrap();
    assert_eq!(archive.len() % 4, 0);
    insta::assert_snapshot!(list(&archive));

    // The same bytes again, whatever the time and the file's own.
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(sample(file).write(Vec::new()).unwrap(), archive);
}

#[test]
fn what_can_not_be_packed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut out = String::new();
    for path in ["", "/", "../x", "a/../b", "nul\0", "TRAILER!!!", &"x".repeat(5000)] {
        let shown: String = path.chars().take(20).collect();
        assert!(Initramfs::new().dir(path, 0o755).is_err(), "{shown:?}");
    }
    let file = Content::Bytes(Vec::new());
    let mut twice = Initramfs::new();
    twice.file("a/b", 0o644, file.clone()).unwrap();
    out += &format!("{}\n", twice.file("/a//b", 0o644, file.clone()).unwrap_err());
    out += &format!("{}\n", twice.dir("a/b", 0o755).unwrap_err());
    out += &format!("{}\n", twice.file("a", 0o644, file).unwrap_err());
    for content in [
        Content::File(dir.path().join("gone")),
        Content::File(dir.path().to_owned()),
        Content::Module(ModuleFile {
            name: "m".to_owned(),
            path: dir.path().join("m.ko"),
            optional: false,
        }),
    ] {
        let mut initramfs = Initramfs::new();
        initramfs.file("f", 0o644, content).unwrap();
        let error = initramfs.write(Vec::new()).unwrap_err().to_string();
        let error = error.split(" a kernel is").next().unwrap();
        out += &format!("{}\n", error.replace(&dir.path().display().to_string(), "DIR"));
    }
    insta::assert_snapshot!(out);
}
