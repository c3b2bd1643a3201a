//! RPM packages: a lead, two headers and a compressed cpio archive.
//!
//! The headers are read here, because the usual library takes sizes and offsets from the file
//! unchecked: a damaged one makes it panic or ask for gigabytes.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use cpio::newc;

use crate::error::KernelError;
use crate::extract::{Dependency, MAX_NAME, PackageInfo, Tree, decompress};

const LEAD: usize = 96;
const MAX_TAGS: u32 = 1 << 16;
const MAX_STORE: u32 = 64 << 20;
const HEADER_MAGIC: [u8; 4] = [0x8e, 0xad, 0xe8, 1];

// rpmtag.h and rpmsigtag of the RPM format.
const NAME: u32 = 1000;
const VERSION: u32 = 1001;
const RELEASE: u32 = 1002;
const ARCH: u32 = 1022;
const REQUIRENAME: u32 = 1049;
const PAYLOADFORMAT: u32 = 1124;
const SIGNATURE_SIZE: u32 = 1000;

/// One header: tags with their values, each checked to lie inside the store.
struct Header {
    tags: Vec<(u32, usize, usize)>,
    store: Vec<u8>,
}

impl Header {
    fn read(input: &mut impl Read) -> io::Result<Self> {
        let bad = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text);
        let mut intro = [0; 16];
        input.read_exact(&mut intro)?;
        let u32_at = |bytes: &[u8], at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        if intro[..4] != HEADER_MAGIC {
            return Err(bad("no header where one has to be"));
        }
        let (count, size) = (u32_at(&intro, 8), u32_at(&intro, 12));
        if count > MAX_TAGS || size > MAX_STORE {
            return Err(bad("a header of impossible size"));
        }
        // Grows as bytes arrive: the sizes are not to be trusted yet.
        let exactly = |input: &mut dyn Read, size: usize| {
            let mut bytes = Vec::new();
            match input.take(size as u64).read_to_end(&mut bytes)? == size {
                true => Ok(bytes),
                false => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            }
        };
        let index = exactly(input, count as usize * 16)?;
        let store = exactly(input, size as usize)?;
        let tags = index
            .chunks_exact(16)
            .map(|entry| (u32_at(entry, 0), u32_at(entry, 8) as usize, u32_at(entry, 12) as usize))
            .collect();
        Ok(Self { tags, store })
    }

    fn value(&self, tag: u32) -> Option<(&[u8], usize)> {
        let (_, offset, count) = self.tags.iter().find(|(other, ..)| *other == tag)?;
        Some((self.store.get(*offset..)?, *count))
    }

    fn text(&self, tag: u32) -> String {
        self.texts(tag).next().unwrap_or_default()
    }

    fn texts(&self, tag: u32) -> impl Iterator<Item = String> {
        let (bytes, count) = self.value(tag).unwrap_or_default();
        bytes.split(|b| *b == 0).take(count).map(|text| String::from_utf8_lossy(text).into_owned())
    }

    fn number(&self, tag: u32) -> Option<u64> {
        let (bytes, _) = self.value(tag)?;
        bytes.first_chunk::<4>().map(|bytes| u64::from(u32::from_be_bytes(*bytes)))
    }
}

/// Reads up to the payload.
fn open(path: &Path) -> Result<(Header, BufReader<File>), KernelError> {
    let io = |e| KernelError::io("read", path, e);
    let file = File::open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    let refuse = |found: &str, advice| KernelError::NotAKernel {
        path: path.to_owned(),
        found: found.to_owned(),
        advice,
    };
    if !metadata.is_file() {
        return Err(refuse("not a regular file", "fetch the package again"));
    }
    let length = metadata.len();
    let mut input = BufReader::new(file);
    let mut lead = Vec::new();
    input.by_ref().take(LEAD as u64).read_to_end(&mut lead).map_err(io)?;
    match lead.as_slice() {
        [] => return Err(refuse("an empty file", "fetch the package again")),
        [0xed, 0xab, 0xee, 0xdb, ..] if lead.len() < LEAD => {
            return Err(KernelError::cut_short(path, format!("it ends after {length} bytes")));
        }
        [0xed, 0xab, 0xee, 0xdb, _, _, 0, 0, ..] => {}
        [0xed, 0xab, 0xee, 0xdb, ..] => {
            return Err(refuse("a source package", "give the binary package for x86_64"));
        }
        _ => {
            return Err(refuse(
                "named like an RPM package, but not one",
                "fetch the package again",
            ));
        }
    }
    let packed = |e: io::Error| KernelError::packed(path, "its header", &e);
    let signature = Header::read(&mut input).map_err(packed)?;
    let padding = signature.store.len().next_multiple_of(8) - signature.store.len();
    input.read_exact(&mut [0; 8][..padding]).map_err(packed)?;
    let before = LEAD + 16 + signature.tags.len() * 16 + signature.store.len() + padding;
    // What follows the signature; large packages and newer ones give it elsewhere.
    if let Some(size) = signature.number(SIGNATURE_SIZE)
        && length < before as u64 + size
    {
        return Err(KernelError::cut_short(
            path,
            format!("{length} of {} bytes are there", before as u64 + size),
        ));
    }
    let header = Header::read(&mut input).map_err(packed)?;
    let architecture = header.text(ARCH);
    if !matches!(architecture.as_str(), "x86_64" | "noarch") {
        return Err(refuse(
            &format!("a package for {architecture:?}"),
            "give the package for x86_64",
        ));
    }
    Ok((header, input))
}

/// Reads the header.
pub(crate) fn info(path: &Path) -> Result<PackageInfo, KernelError> {
    let (header, _) = open(path)?;
    Ok(PackageInfo {
        name: header.text(NAME),
        version: format!("{}-{}", header.text(VERSION), header.text(RELEASE)),
        depends: header.texts(REQUIRENAME).map(|name| Dependency { name, version: None }).collect(),
    })
}

/// A reader that gives at most `budget` bytes until it is set anew.
struct Metered<R> {
    inner: R,
    budget: Rc<Cell<u64>>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = buf.len().min(usize::try_from(self.budget.get()).unwrap_or(usize::MAX));
        let n = self.inner.read(&mut buf[..want])?;
        self.budget.set(self.budget.get() - n as u64);
        Ok(n)
    }
}

/// Unpacks the kernel's files.
pub(crate) fn unpack(path: &Path, tree: &mut Tree<'_>) -> Result<(), KernelError> {
    let (header, mut input) = open(path)?;
    let format = header.text(PAYLOADFORMAT);
    if !matches!(format.as_str(), "" | "cpio") {
        return Err(KernelError::Unsupported {
            path: path.to_owned(),
            what: format!("an RPM payload of format {format:?}"),
            advice: "unpack it and give the directory",
        });
    }
    let packed = |e: io::Error| KernelError::packed(path, "its payload", &e);
    let mut head = Vec::new();
    input.by_ref().take(8).read_to_end(&mut head).map_err(packed)?;
    let budget = Rc::new(Cell::new(0));
    let inner = decompress(path, &head.clone(), io::Cursor::new(head).chain(input))?;
    let mut archive = Metered { inner, budget: Rc::clone(&budget) };
    // Names whose data has not come yet, by inode.
    let mut links: BTreeMap<u32, Vec<PathBuf>> = BTreeMap::new();
    loop {
        // A header with its name, so that a name can't ask for any amount of memory.
        budget.set(110 + 2 * MAX_NAME);
        let mut entry = newc::Reader::new(archive).map_err(packed)?;
        budget.set(u64::MAX);
        if entry.entry().is_trailer() || tree.is_complete() {
            return Ok(());
        }
        let (inode, links_to, size) =
            (entry.entry().ino(), entry.entry().nlink(), u64::from(entry.entry().file_size()));
        let is_file = entry.entry().mode() & 0o170_000 == 0o100_000;
        if let Some(place) = tree.place(entry.entry().name().as_bytes())?.filter(|_| is_file) {
            // Of several names of one file the last one comes with the data.
            if links_to > 1 && size == 0 {
                links.entry(inode).or_default().push(place);
            } else {
                tree.write(&place, &mut entry, size)?;
                for other in links.remove(&inode).filter(|_| links_to > 1).unwrap_or_default() {
                    tree.link(&place, &other)?;
                }
            }
        }
        archive = entry.finish().map_err(packed)?;
    }
}
