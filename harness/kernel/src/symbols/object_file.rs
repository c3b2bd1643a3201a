//! One ELF file with debug information: functions and offsets to lines of source.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::ops::Deref;
use std::path::Path;

use addr2line::gimli::{DwarfSections, EndianSlice, LittleEndian, SectionId};
use kgate_model::finding::SourceLine;
use memmap2::Mmap;
use object::{
    CompressionFormat, Object, ObjectKind, ObjectSection, ObjectSymbol, RelocationKind,
    RelocationTarget, SectionFlags, SectionIndex,
};

use crate::compress::{self, Format};
use crate::error::KernelError;
use crate::modules::{self, ModuleInfo};
use crate::symbols::Unresolved;

/// No section of debug information unpacks to more.
const MAX_SECTION: u64 = 4 << 30;
/// Where the first section of a module is taken to be loaded: not at 0, which means removed code.
const MODULE_BASE: u64 = 1 << 20;
/// No function has more others inlined into each other.
const MAX_INLINED: usize = 64;

/// Functions of known files, which tell where the source tree was when it was compiled. Assembly
/// may be named differently from C.
const ANCHORS: &[(&str, &str)] = &[
    ("start_kernel", "init/main.c"),
    ("entry_SYSCALL_64", "arch/x86/entry/entry_64.S"),
    ("vectors", "arch/arm64/kernel/entry.S"),
];

/// The bytes of a file.
#[derive(Debug)]
pub(crate) enum Bytes {
    Mapped(Mmap),
    Unpacked(Vec<u8>),
    Empty,
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Unpacked(bytes) => bytes,
            Self::Empty => &[],
        }
    }
}

/// Opens a kernel or module. Of a kernel's hundreds of megabytes only what is looked at is read.
pub(crate) fn open(path: &Path) -> Result<Bytes, KernelError> {
    let io = |e| KernelError::io("read", path, e);
    let mut file = File::open(path).map_err(|e| KernelError::named(path, e))?;
    let metadata = file.metadata().map_err(io)?;
    // An empty file can't be mapped, and others than regular ones need not have an end.
    if !metadata.is_file() || metadata.len() == 0 {
        return Ok(Bytes::Empty);
    }
    let format: Option<Format> = compress::detect_file(&mut file).map_err(io)?;
    match format {
        Some(_) => modules::read_module(path).map(Bytes::Unpacked),
        None => {
            #[expect(unsafe_code, reason = "nothing safe reads single pages of a large file")]
            // SAFETY: it is undefined only when the file shrinks or changes meanwhile; compilers and
            // package managers replace such files by others of the same name.
            let map = unsafe { Mmap::map(&file) };
            map.map(Bytes::Mapped).map_err(io)
        }
    }
}

fn parse(bytes: &[u8]) -> Result<object::File<'_>, String> {
    let file = object::File::parse(bytes).map_err(|e| format!("not an ELF file: {e}"))?;
    match file.is_little_endian() {
        true => Ok(file),
        false => Err("a big-endian kernel is not supported".to_owned()),
    }
}

/// Whether the file says where its code comes from.
pub(crate) fn has_lines(bytes: &[u8]) -> bool {
    parse(bytes).is_ok_and(|file| {
        let size = |name| file.section_by_name(name).map_or(0, |section| section.size());
        size(".debug_line") > 0 && size(".debug_info") > 0
    })
}

/// The release of a kernel or module; `None` when the file does not say.
pub(crate) fn release(bytes: &[u8]) -> Option<String> {
    let file = parse(bytes).ok()?;
    if file.kind() == ObjectKind::Relocatable {
        let vermagic = ModuleInfo::parse(bytes).ok()?.vermagic?;
        return vermagic.split_whitespace().next().map(str::to_owned);
    }
    let banner = file.symbols().find(|symbol| symbol.name_bytes() == Ok(b"linux_banner"))?;
    let section = file.section_by_index(banner.section_index()?).ok()?;
    let at = usize::try_from(banner.address().checked_sub(section.address())?).ok()?;
    let text = section.data().ok()?.get(at..)?;
    let release = text.strip_prefix(b"Linux version ")?.split(|b| *b == b' ').next()?;
    std::str::from_utf8(release).ok().filter(|text| text.len() < 256).map(str::to_owned)
}

/// A place in code as a kernel prints it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Query {
    pub(crate) function: String,
    pub(crate) offset: u64,
    /// Bytes of the function, where printed.
    pub(crate) size: Option<u64>,
    /// It is the instruction that ran, rather than the one after a call.
    pub(crate) exact: bool,
}

/// A function with the line that it was at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) function: Option<String>,
    pub(crate) source: Option<SourceLine>,
}

/// What a file says about places in its code.
#[derive(Debug)]
pub(crate) struct Answers {
    /// For each query the functions there, innermost first; the last one is no inlined one.
    pub(crate) places: Vec<Result<Vec<Place>, Unresolved>>,
    /// Directories of the source tree, as compilers were given it.
    pub(crate) roots: Vec<String>,
}

/// Looks the queries up in the file `bytes`.
///
/// # Errors
/// A fragment that says what is wrong with the file.
pub(crate) fn look_up(bytes: &[u8], queries: &[Query]) -> Result<Answers, String> {
    let file = parse(bytes)?;
    let bases = bases(&file);
    let functions = Functions::read(&file, &bases, queries);
    let damaged = |e| format!("its debug information is damaged: {e}");
    let sections = DwarfSections::load(|id| section(&file, &bases, id))?;
    let dwarf = sections.borrow(|data: &Cow<'_, [u8]>| EndianSlice::new(data, LittleEndian));
    let context = addr2line::Context::from_dwarf(dwarf).map_err(damaged)?;
    let places_at = |address: u64| {
        let mut frames = context.find_frames(address).skip_all_loads()?;
        let mut places = Vec::new();
        while let Some(frame) = frames.next()? {
            if places.len() == MAX_INLINED {
                break;
            }
            let function = frame.function.and_then(|name| Some(name.raw_name().ok()?.into_owned()));
            let source = frame.location.and_then(|location| {
                // Line 0 is what compilers give to code of their own.
                let line = location.line.filter(|line| *line > 0)?;
                Some(SourceLine { file: plain(location.file?), line })
            });
            places.push(Place { function, source });
        }
        Ok::<_, addr2line::gimli::Error>(places)
    };
    let resolve = |query: &Query| {
        let mut found = Vec::new();
        let starts = functions.starts(query)?;
        let count = starts.len();
        for start in starts {
            // A call may be the last instruction of its line, block or function.
            let back = u64::from(!query.exact && query.offset > 0);
            let address = start.wrapping_add(query.offset).wrapping_sub(back);
            let places = places_at(address).map_err(|e| Unresolved::Damaged {
                function: query.function.clone(),
                detail: e.to_string(),
            })?;
            if !found.contains(&places) {
                found.push(places);
            }
        }
        match found.pop() {
            Some(_) if !found.is_empty() => {
                Err(Unresolved::Ambiguous { function: query.function.clone(), count })
            }
            Some(places) if places.iter().any(|place| place.source.is_some()) => Ok(places),
            _ => Err(Unresolved::NoLine { function: query.function.clone() }),
        }
    };
    let places = queries.iter().map(resolve).collect();
    let mut roots = Vec::new();
    for (name, path) in ANCHORS {
        let start = functions.anchors.get(name).copied();
        let source = start.and_then(|at| places_at(at).ok()?.pop()?.source);
        roots.extend(source.and_then(|source| Some(source.file.strip_suffix(path)?.to_owned())));
    }
    Ok(Answers { places, roots })
}

/// Where each section is taken to be loaded, by its index. Modules are linked when they are loaded:
/// until then all their sections begin at 0.
fn bases(file: &object::File<'_>) -> HashMap<SectionIndex, u64> {
    let mut bases = HashMap::new();
    if file.kind() == ObjectKind::Relocatable {
        let mut at = MODULE_BASE;
        for section in file.sections().filter(|section| is_loaded(section.flags())) {
            at = at.next_multiple_of(section.align().clamp(1, 1 << 16));
            bases.insert(section.index(), at);
            at = at.saturating_add(section.size().min(MAX_SECTION)).saturating_add(1);
        }
    }
    bases
}

fn is_loaded(flags: SectionFlags) -> bool {
    matches!(flags, SectionFlags::Elf { sh_flags, .. } if sh_flags.0 & object::elf::SHF_ALLOC.0 != 0)
}

fn is_code(flags: SectionFlags) -> bool {
    matches!(flags, SectionFlags::Elf { sh_flags, .. } if sh_flags.0 & object::elf::SHF_EXECINSTR.0 != 0)
}

/// The functions that are asked for.
struct Functions<'a> {
    by_name: HashMap<&'a str, Vec<Function>>,
    anchors: HashMap<&'static str, u64>,
}

#[derive(Clone, Copy)]
struct Function {
    address: u64,
    /// Bytes, according to the compiler.
    size: u64,
    /// Bytes up to the next symbol, as the kernel reckons; `None` for the last one of a section.
    extent: Option<u64>,
    /// Bytes up to the next symbol that is not inside of it.
    outer: Option<u64>,
}

impl<'a> Functions<'a> {
    fn read(
        file: &object::File<'_>,
        bases: &HashMap<SectionIndex, u64>,
        queries: &'a [Query],
    ) -> Self {
        let mut by_name: HashMap<&str, Vec<Function>> =
            queries.iter().map(|query| (query.function.as_str(), Vec::new())).collect();
        let mut anchors = HashMap::new();
        let code: HashMap<SectionIndex, u64> = file
            .sections()
            .filter(|section| is_code(section.flags()))
            .map(|section| (section.index(), bases.get(&section.index()).copied().unwrap_or(0)))
            .collect();
        let mut all = Vec::new();
        let mut wanted = Vec::new();
        for symbol in file.symbols().filter(ObjectSymbol::is_definition) {
            let Some(section) = symbol.section_index() else { continue };
            let Some(base) = code.get(&section) else { continue };
            let Ok(name) = symbol.name() else { continue };
            // Marks of assemblers, which kallsyms leaves out too.
            if name.is_empty() || name.starts_with(".L") || name.starts_with(['$']) {
                continue;
            }
            let address = base.wrapping_add(symbol.address());
            all.push((section.0, address));
            if let Some((name, _)) = ANCHORS.iter().find(|(anchor, _)| *anchor == name) {
                anchors.insert(*name, address);
            }
            // The kernel prints names without what link-time optimisation added.
            let plain = name.split_once(".llvm.").map_or(name, |(plain, _)| plain);
            if let Some((name, _)) =
                by_name.get_key_value(name).or_else(|| by_name.get_key_value(plain))
            {
                wanted.push((*name, section.0, address, symbol.size()));
            }
        }
        all.sort_unstable();
        all.dedup();
        wanted.sort_unstable();
        wanted.dedup();
        for (name, section, address, size) in wanted {
            let next = all.partition_point(|other| *other <= (section, address));
            let mut after = all[next..]
                .iter()
                .take_while(|other| other.0 == section)
                .map(|other| other.1 - address);
            let extent = after.clone().next();
            let outer = after.find(|bytes| *bytes >= size);
            by_name.entry(name).or_default().push(Function { address, size, extent, outer });
        }
        Self { by_name, anchors }
    }

    /// Where the function of `query` begins; several places when nothing tells them apart.
    fn starts(&self, query: &Query) -> Result<Vec<u64>, Unresolved> {
        let function = query.function.clone();
        let named = self.by_name.get(query.function.as_str()).map_or(&[][..], Vec::as_slice);
        if named.is_empty() {
            return Err(Unresolved::NoFunction { function });
        }
        let fits = |f: &&Function| {
            let last = f.extent.is_none();
            match query.size {
                // The kernel counts the last function of a section up to the end of a page.
                Some(size) if last => f.size <= size,
                Some(size) => [Some(f.size), f.extent, f.outer].contains(&Some(size)),
                None => last || query.offset <= f.outer.unwrap_or(f.size).max(f.size),
            }
        };
        let starts: Vec<_> = named.iter().filter(fits).map(|f| f.address).collect();
        match starts.is_empty() {
            false => Ok(starts),
            true => Err(Unresolved::OtherBuild {
                function,
                printed: query.size.unwrap_or(query.offset),
                found: named.iter().map(|f| f.extent.unwrap_or(f.size)).collect(),
            }),
        }
    }
}

/// A section of debug information, unpacked and relocated; empty when it is absent or of no use.
fn section<'data>(
    file: &object::File<'data>,
    bases: &HashMap<SectionIndex, u64>,
    id: SectionId,
) -> Result<Cow<'data, [u8]>, String> {
    use SectionId::{DebugLoc, DebugLocLists, DebugMacinfo, DebugMacro, DebugNames};
    let unused = [DebugLoc, DebugLocLists, DebugMacinfo, DebugMacro, DebugNames].contains(&id);
    let Some(section) = file.section_by_name(id.name()).filter(|_| !unused) else {
        return Ok(Cow::Borrowed(&[]));
    };
    let bad = |detail: String| format!("its section {} is damaged: {detail}", id.name());
    let packed = section.compressed_data().map_err(|e| bad(e.to_string()))?;
    let size = packed.uncompressed_size;
    let unpack = |reader: &mut dyn Read| {
        let mut bytes = Vec::new();
        let limit = size.min(MAX_SECTION);
        reader.take(limit + 1).read_to_end(&mut bytes).map_err(|e| bad(e.to_string()))?;
        match bytes.len() as u64 == size {
            true => Ok(Cow::Owned(bytes)),
            false => Err(bad(format!("it does not unpack to its {size} bytes"))),
        }
    };
    let mut data = match packed.format {
        CompressionFormat::None => Cow::Borrowed(packed.data),
        CompressionFormat::Zlib => unpack(&mut flate2::read::ZlibDecoder::new(packed.data))?,
        CompressionFormat::Zstandard => {
            let mut decoder =
                zstd::stream::read::Decoder::new(packed.data).map_err(|e| bad(e.to_string()))?;
            decoder.window_log_max(27).map_err(|e| bad(e.to_string()))?;
            unpack(&mut decoder)?
        }
        other => return Err(format!("its section {} is packed as {other:?}", id.name())),
    };
    // A linked kernel may have kept its relocations: they are done.
    if file.kind() == ObjectKind::Relocatable {
        for (offset, relocation) in section.relocations() {
            let target = match relocation.target() {
                RelocationTarget::Symbol(index) => file.symbol_by_index(index).ok().map(|symbol| {
                    let base = symbol.section_index().and_then(|index| bases.get(&index));
                    symbol.address().wrapping_add(base.copied().unwrap_or(0))
                }),
                RelocationTarget::Section(index) => Some(bases.get(&index).copied().unwrap_or(0)),
                _ => Some(0),
            };
            let (Some(target), RelocationKind::Absolute) = (target, relocation.kind()) else {
                continue;
            };
            let width = usize::from(relocation.size() / 8);
            let place = usize::try_from(offset)
                .ok()
                .and_then(|at| data.to_mut().get_mut(at..at.checked_add(width)?));
            let Some(place) = place.filter(|place| place.len() <= 8) else {
                return Err(bad(format!("a relocation at {offset} is outside of it")));
            };
            let mut word = [0; 8];
            word[..width].copy_from_slice(place);
            let implicit =
                if relocation.has_implicit_addend() { u64::from_le_bytes(word) } else { 0 };
            let addend = relocation.addend().cast_unsigned().wrapping_add(implicit);
            place.copy_from_slice(&target.wrapping_add(addend).to_le_bytes()[..width]);
        }
    }
    Ok(data)
}

/// A path without `.` and `..`.
fn plain(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "." => {}
            "" if !parts.is_empty() => {}
            ".." if parts.last().is_some_and(|last| !matches!(*last, "" | "..")) => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn paths_are_made_plain() {
        for (path, expected) in [
            ("/src/linux/./include/../kernel/fork.c", "/src/linux/kernel/fork.c"),
            ("./a//b.c", "a/b.c"),
            ("../linux/a.c", "../linux/a.c"),
            ("../../linux/a.c", "../../linux/a.c"),
            ("/../a.c", "/../a.c"),
            ("", ""),
        ] {
            assert_eq!(plain(path), expected);
        }
    }
}
