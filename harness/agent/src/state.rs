//! What kernel this is, and its state at one moment.

use std::collections::BTreeMap;
use std::fs;

use kgate_model::wire::{Identity, KernelState, Trouble};
use rustix::time::{ClockId, clock_gettime};

use crate::trouble::{failed, refused};

/// Milliseconds since the kernel started.
pub(crate) fn uptime_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec * 1000 + now.tv_nsec / 1_000_000).unwrap_or_default()
}

/// The running kernel. What can't be read stays empty: the controller judges.
///
/// A template leaves out what would be fixed by looking at it, and so be the same in every clone. A
/// clone only tells what shows that it is the right one: all else is known of its template.
pub(crate) fn identity(of: Of) -> Identity {
    let name = rustix::system::uname();
    let mut identity = Identity {
        release: name.release().to_string_lossy().into_owned(),
        version: name.version().to_string_lossy().into_owned(),
        machine: name.machine().to_string_lossy().into_owned(),
        uptime_ms: uptime_ms(),
        ..Identity::default()
    };
    let text = |path| fs::read_to_string(path).unwrap_or_default().trim_end().to_owned();
    if of != Of::Clone {
        let notes = fs::read("/sys/kernel/notes").unwrap_or_default();
        identity.build_id = build_id(&notes).unwrap_or_default();
        identity.command_line = text("/proc/cmdline");
    }
    if of == Of::Machine {
        identity.boot_id = text("/proc/sys/kernel/random/boot_id");
    }
    identity
}

/// What asks for its identity.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    /// A machine that was booted.
    Machine,
    /// One that was booted to be copied.
    Template,
    /// A copy.
    Clone,
}

/// Taint and memory.
pub(crate) fn kernel_state() -> Result<KernelState, Trouble> {
    let read = |path| fs::read_to_string(path).map_err(|e| failed(format!("read {path}"), e));
    let taint = read("/proc/sys/kernel/tainted")?;
    let taint = taint
        .trim_end()
        .parse()
        .map_err(|_| refused(format!("kernel taint is no number: {:?}", taint.trim_end())))?;
    let memory = meminfo(&read("/proc/meminfo")?);
    // Not there without slabs, and not for everybody on a lab host.
    let slab = read("/proc/slabinfo").map_or_else(|_| BTreeMap::new(), |text| slabinfo(&text));
    Ok(KernelState { taint, memory, slab })
}

/// Caches smaller than this tell nothing.
const SMALL_CACHE: u64 = 16 << 10;

/// `name <active> <objects> <size> <per slab> <pages per slab> : tunables … : slabdata <active> <slabs> …`
fn slabinfo(text: &str) -> BTreeMap<String, u64> {
    let page = rustix::param::page_size() as u64;
    let line = |line: &str| {
        let (objects, rest) = line.split_once(" : tunables ")?;
        let mut words = objects.split_ascii_whitespace();
        let name = words.next()?;
        let pages: u64 = words.nth(4)?.parse().ok()?;
        let slabs: u64 =
            rest.split_once(" : slabdata ")?.1.split_ascii_whitespace().nth(1)?.parse().ok()?;
        let bytes = slabs.checked_mul(pages)?.checked_mul(page)?;
        (bytes >= SMALL_CACHE).then(|| (name.to_owned(), bytes))
    };
    text.lines().filter_map(line).collect()
}

fn meminfo(text: &str) -> BTreeMap<String, u64> {
    let line = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
        Some((name.to_owned(), value))
    };
    text.lines().filter_map(line).collect()
}

/// The GNU build id among ELF notes, in hexadecimal.
fn build_id(mut notes: &[u8]) -> Option<String> {
    const GNU_BUILD_ID: u32 = 3;
    let word = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes)
    };
    loop {
        let (name, content, kind) =
            (word(notes, 0)? as usize, word(notes, 4)? as usize, word(notes, 8)?);
        let content_at = 12 + name.checked_next_multiple_of(4)?;
        let end = content_at.checked_add(content)?;
        if kind == GNU_BUILD_ID && notes.get(12..12 + name) == Some(b"GNU\0") {
            let id = notes.get(content_at..end)?;
            return Some(id.iter().map(|byte| format!("{byte:02x}")).collect());
        }
        notes = notes.get(end.checked_next_multiple_of(4)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &[u8], kind: u32, content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [name.len() as u32, content.len() as u32, kind] {
            bytes.extend(word.to_ne_bytes());
        }
        for part in [name, content] {
            bytes.extend(part);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    #[test]
    fn the_build_id_is_found_behind_other_notes() {
        let notes = [
            note(b"Xen\0", 3, b"guest"),
            note(b"Linux\0", 0x100, &[0; 4]),
            note(b"GNU\0", 3, &[0xab; 20]),
        ]
        .concat();
        assert_eq!(build_id(&notes).as_deref(), Some("ab".repeat(20).as_str()));
        for cut in 0..notes.len() {
            assert_eq!(build_id(&notes[..cut]), None, "cut at {cut}");
        }
        assert_eq!(build_id(&[0xff; 64]), None);
    }

    #[test]
    fn caches_are_weighed_by_their_slabs() {
        let text = "slabinfo - version: 2.1\n# name <active_objs> <num_objs> : tunables\n\
            dentry             27314  27426    192   21    1 : tunables    0    0    0 : slabdata   1306   1306      0\n\
            kmalloc-8k            56     60   8192    4    8 : tunables    0    0    0 : slabdata     15     15      0\n\
            tiny                   1      1     64   64    1 : tunables    0    0    0 : slabdata      1      1      0\n";
        assert_eq!(
            slabinfo(text).into_iter().collect::<Vec<_>>(),
            [("dentry".into(), 1306 * 4096), ("kmalloc-8k".into(), 15 * 8 * 4096)]
        );
    }

    #[test]
    fn meminfo_lines_become_numbers() {
        let memory = meminfo("MemTotal:        1017856 kB\nHugePages_Total:       0\nbroken\n");
        assert_eq!(
            memory.into_iter().collect::<Vec<_>>(),
            [("HugePages_Total".into(), 0), ("MemTotal".into(), 1_017_856)]
        );
    }
}
