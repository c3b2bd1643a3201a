//! Small kernels, modules and packages, made by hand, so that each can be damaged in one place.

#![expect(unreachable_pub, reason = "shared by the test binaries beside it")]
#![allow(dead_code, clippy::allow_attributes, reason = "not every test binary uses all of it")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

pub const RELEASE: &str = "6.1.0-test";

/// Writes a file, making its parents.
pub fn put(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = path.as_ref();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
    path.to_owned()
}

/// A boot image around `payload`, as the kernel's build lays it out.
pub fn bzimage(release: &str, payload: &[u8]) -> Vec<u8> {
    let version =
        format!("{release} (builder@host) #1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-01)");
    kgate_testkit::kernels::boot_image(&version, payload)
}

/// A whole image with a gzip payload.
pub fn image(release: &str) -> Vec<u8> {
    bzimage(release, &gzip(&vmlinux(Some(0x0100_0000), None)))
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// An ELF kernel with an entry point in a note and a configuration inside.
pub fn vmlinux(pvh_entry: Option<u32>, config: Option<&str>) -> Vec<u8> {
    let mut note = Vec::new();
    if let Some(entry) = pvh_entry {
        for word in [4_u32, 4, 18] {
            note.extend(word.to_le_bytes());
        }
        note.extend(b"Xen\0");
        note.extend(entry.to_le_bytes());
    }
    let mut elf = elf_header(2, 1, 0, 0);
    let mut segment = vec![0; 56];
    segment[0] = 4;
    segment[8..16].copy_from_slice(&120_u64.to_le_bytes());
    segment[32..40].copy_from_slice(&(note.len() as u64).to_le_bytes());
    segment[40..48].copy_from_slice(&(note.len() as u64).to_le_bytes());
    segment[48..56].copy_from_slice(&4_u64.to_le_bytes());
    elf.extend(segment);
    elf.extend(note);
    elf.extend((0..20_000_u32).flat_map(|i| (i * i).to_le_bytes()));
    if let Some(config) = config {
        elf.extend(b"IKCFG_ST");
        elf.extend(gzip(config.as_bytes()));
        elf.extend(b"IKCFG_ED");
    }
    elf
}

fn elf_header(kind: u16, segments: u16, sections_at: u64, sections: u16) -> Vec<u8> {
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    elf.extend(kind.to_le_bytes());
    elf.extend(62_u16.to_le_bytes());
    elf.extend(1_u32.to_le_bytes());
    elf.extend([0; 8]);
    elf.extend(if segments > 0 { 64_u64 } else { 0 }.to_le_bytes());
    elf.extend(sections_at.to_le_bytes());
    elf.extend([0; 4]);
    for half in [64, 56, segments, 64, sections, 2] {
        elf.extend(half.to_le_bytes());
    }
    elf
}

/// A module whose `.modinfo` has these fields.
pub fn module(fields: &[(&str, &str)]) -> Vec<u8> {
    let info: String = fields.iter().map(|(key, value)| format!("{key}={value}\0")).collect();
    let names = b"\0.modinfo\0.shstrtab\0";
    let sections_at = 64 + info.len() + names.len();
    let mut elf = elf_header(1, 0, sections_at as u64, 3);
    elf.extend(info.as_bytes());
    elf.extend(names);
    elf.extend([0; 64]);
    for (name, kind, at, size) in
        [(1_u32, 1_u32, 64, info.len()), (10, 3, 64 + info.len(), names.len())]
    {
        elf.extend(name.to_le_bytes());
        elf.extend(kind.to_le_bytes());
        elf.extend([0; 16]);
        elf.extend((at as u64).to_le_bytes());
        elf.extend((size as u64).to_le_bytes());
        elf.extend([0; 8]);
        elf.extend(1_u64.to_le_bytes());
        elf.extend([0; 8]);
    }
    elf
}

/// A module of `release` that needs `depends`.
pub fn plain_module(release: &str, depends: &str) -> Vec<u8> {
    module(&[("vermagic", &format!("{release} SMP preempt mod_unload ")), ("depends", depends)])
}

/// A root directory with a kernel and the modules `a` (needs b), `b` and `c` (for another kernel).
pub fn root(dir: &Path, release: &str) -> PathBuf {
    put(dir.join(format!("boot/vmlinuz-{release}")), image(release));
    put(dir.join(format!("boot/config-{release}")), "CONFIG_A=m\n# CONFIG_Z is not set\n");
    let modules = dir.join("lib/modules").join(release);
    put(modules.join("kernel/a.ko"), plain_module(release, "b"));
    put(modules.join("kernel/b.ko.gz"), gzip(&plain_module(release, "")));
    put(modules.join("kernel/c.ko"), plain_module("5.10.0", ""));
    put(modules.join("modules.builtin"), "kernel/fs/ext4/ext4.ko\n");
    dir.to_owned()
}

/// One entry of a package.
pub enum Entry<'a> {
    File(&'a str, &'a [u8]),
    Symlink(&'a str, &'a str),
    Device(&'a str),
}

/// A tar archive; names are written as they are, also dangerous ones.
pub fn tar(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        let (name, kind, bytes) = match entry {
            Entry::File(name, bytes) => (*name, tar::EntryType::Regular, *bytes),
            Entry::Symlink(name, target) => {
                header.set_link_name(target).unwrap();
                (*name, tar::EntryType::Symlink, b"".as_slice())
            }
            Entry::Device(name) => (*name, tar::EntryType::Char, b"".as_slice()),
        };
        header.set_entry_type(kind);
        header.set_size(bytes.len() as u64);
        if name.len() < 100 {
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            out.append(&header, bytes).unwrap();
        } else {
            out.append_data(&mut header, name, bytes).unwrap();
        }
    }
    out.into_inner().unwrap()
}

/// An ar archive.
pub fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = b"!<arch>\n".to_vec();
    for (name, bytes) in members {
        out.extend(
            format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, "100644", bytes.len())
                .bytes(),
        );
        out.extend(*bytes);
        out.resize(out.len().next_multiple_of(2), b'\n');
    }
    out
}

/// A Debian package with this control file and content.
pub fn deb(control: &str, entries: &[Entry<'_>]) -> Vec<u8> {
    let control = gzip(&tar(&[Entry::File("./control", control.as_bytes())]));
    let data = zstd::encode_all(tar(entries).as_slice(), 1).unwrap();
    ar(&[("debian-binary", b"2.0\n"), ("control.tar.gz", &control), ("data.tar.zst", &data)])
}

pub const CONTROL: &str = "Package: linux-image-test\nVersion: 6.1.192-2\nArchitecture: amd64\n";

/// One entry of an RPM's payload: name, mode, inode, number of links, content.
pub type CpioEntry<'a> = (&'a str, u32, u32, u32, &'a [u8]);

pub fn cpio(entries: &[CpioEntry<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, mode, inode, links, bytes) in entries {
        let builder = cpio::newc::Builder::new(name).mode(*mode).ino(*inode).nlink(*links);
        let mut writer = builder.write(&mut out, u32::try_from(bytes.len()).unwrap());
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap();
    }
    cpio::newc::trailer(&mut out).unwrap();
    out
}

fn rpm_header(tags: &[(u32, u32, u32, Vec<u8>)]) -> Vec<u8> {
    let (mut index, mut store) = (Vec::new(), Vec::<u8>::new());
    for (tag, kind, count, value) in tags {
        for word in [*tag, *kind, u32::try_from(store.len()).unwrap(), *count] {
            index.extend(word.to_be_bytes());
        }
        store.extend(value);
    }
    let mut out = vec![0x8e, 0xad, 0xe8, 1, 0, 0, 0, 0];
    out.extend(u32::try_from(tags.len()).unwrap().to_be_bytes());
    out.extend(u32::try_from(store.len()).unwrap().to_be_bytes());
    out.extend(index);
    out.extend(store);
    out
}

/// An RPM package around a packed payload.
pub fn rpm(architecture: &str, requires: &[&str], payload: &[u8]) -> Vec<u8> {
    let text = |tag, text: &str| (tag, 6, 1, format!("{text}\0").into_bytes());
    let names: String = requires.iter().map(|name| format!("{name}\0")).collect();
    let header = rpm_header(&[
        text(1000, "kernel-core"),
        text(1001, "6.1.0"),
        text(1002, "test"),
        text(1022, architecture),
        (1049, 8, u32::try_from(requires.len()).unwrap(), names.into_bytes()),
    ]);
    let size = u32::try_from(header.len() + payload.len()).unwrap();
    let mut lead = vec![0; 96];
    lead[..6].copy_from_slice(&[0xed, 0xab, 0xee, 0xdb, 3, 0]);
    let mut out = lead;
    let signature = rpm_header(&[(1000, 4, 1, size.to_be_bytes().to_vec())]);
    out.extend(&signature);
    out.extend([0; 4]);
    out.extend(header);
    out.extend(payload);
    out
}
