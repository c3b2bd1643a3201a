//! `kgate cache`: what is kept for later runs, how much room it takes, and its removal.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use kgate_qemu::{Listed, Place, Status, Store};
use serde_json::json;

use crate::args::{CacheArgs, CacheCommand, PruneArgs};
use crate::context::{CACHE_LOCK, Context, now};
use crate::error::{CommandError, PROMOTE};
use crate::text::{line, print_table};

/// Some of what is in the cache.
struct Part {
    /// What it is.
    kind: &'static str,
    /// Where, below the cache.
    dir: &'static str,
    /// How the names there begin.
    prefix: &'static str,
}

const fn part(kind: &'static str, dir: &'static str, prefix: &'static str) -> Part {
    Part { kind, dir, prefix }
}

/// What nobody needs once no kgate runs that might have made it.
const LEFT_OVER: &str = "left over";

/// All that kgate puts there, apart from templates. What has no place here is never touched.
const PARTS: &[Part] = &[
    part("kernels", "kernels", ""),
    part("kernel packages", "apt", ""),
    part("debug information", "debug", ""),
    part("images", "images", ""),
    part("image packages", "packages/debs", ""),
    part("package lists", "packages/apt", ""),
    part("busybox", "", "busybox-"),
    part("checksums", "digests", ""),
    part("CVE records", "cves", ""),
    part("accelerator", "", "kvm"),
    part("history", "", "history.json"),
    part("feeds", "feeds", ""),
    part(LEFT_OVER, "boots", ""),
    part(LEFT_OVER, "", ".tmp"),
    part(LEFT_OVER, "", ".doctor-"),
];

/// Templates that a person is shown.
const SHOWN: usize = 12;

/// One file or directory of a part.
struct Entry {
    kind: &'static str,
    path: PathBuf,
    bytes: u64,
    /// When it was put there, or read last.
    used: SystemTime,
}

/// Runs the command.
pub(crate) fn cache(context: &Context, args: &CacheArgs) -> Result<ExitCode, CommandError> {
    let (dir, templates) = (context.cache_dir()?, context.templates()?);
    for error in templates.refused() {
        anstream::eprintln!("kgate: {}", line(&error.to_string()));
    }
    match &args.command {
        None => show(dir, &templates, args.json),
        Some(CacheCommand::Prune(args)) => prune(dir, &templates, args)?,
    }
    Ok(ExitCode::from(PROMOTE))
}

fn show(dir: &Path, templates: &Store, json: bool) {
    let (listed, entries) = (templates.list(), entries(dir));
    let in_use = matches!(exclusive(dir, false), Ok(None));
    let mut kinds: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for entry in &entries {
        let (count, bytes) = kinds.entry(entry.kind).or_default();
        *count += 1;
        *bytes += entry.bytes;
    }
    let of_templates: u64 = listed.iter().map(|one| one.bytes).sum();
    let total = of_templates + entries.iter().map(|entry| entry.bytes).sum::<u64>();
    let order = PARTS.iter().map(|part| part.kind);
    let mut rows: Vec<(&str, (usize, u64))> =
        order.filter_map(|kind| kinds.get_key_value(kind).map(|(k, v)| (*k, *v))).collect();
    rows.dedup();
    if json {
        let parts: Vec<_> = rows
            .iter()
            .map(|(kind, (count, bytes))| json!({"kind": kind, "count": count, "bytes": bytes}))
            .collect();
        let value = json!({
            "bytes": total,
            "templates": {
                "limit_bytes": templates.limit(),
                "bytes": of_templates,
                "entries": listed.iter().map(as_json).collect::<Vec<_>>(),
            },
            "cache": { "path": dir, "in_use": in_use, "parts": parts },
        });
        anstream::println!("{value:#}");
        return;
    }

    let (kept, unfinished): (Vec<_>, Vec<_>) =
        listed.iter().partition(|one| one.description.is_some() && one.status != Status::Leftover);
    let heading = match kept.as_slice() {
        [] => "none".to_owned(),
        kept => format!("{}, {}", kept.len(), size(kept.iter().map(|one| one.bytes).sum())),
    };
    anstream::println!("templates   {heading}; at most {} are kept", size(templates.limit()));
    let mut table =
        vec![["kernel", "image", "memory", "size", "last used", "where"].map(str::to_owned)];
    table.extend(kept.iter().take(SHOWN).map(|one| as_row(one)));
    if !kept.is_empty() {
        print_table(&table);
    }
    if kept.len() > SHOWN {
        anstream::println!(
            "  and {} that were used longer ago; --json lists all",
            kept.len() - SHOWN
        );
    }
    for (status, what) in
        [(Status::InUse, "being made"), (Status::Leftover, "left over by kgates that were killed")]
    {
        let those: Vec<_> = unfinished.iter().filter(|one| one.status == status).collect();
        if !those.is_empty() {
            let bytes = those.iter().map(|one| one.bytes).sum();
            anstream::println!("  {} {what}, {}", those.len(), size(bytes));
        }
    }
    anstream::println!("\ncache       {}", line(&dir.display().to_string()));
    let rows: Vec<_> = rows
        .into_iter()
        .map(|(kind, (count, bytes))| {
            // As long as some kgate runs, this may be its own.
            let kind = if kind == LEFT_OVER && in_use { "unfinished" } else { kind };
            [kind.to_owned(), count.to_string(), size(bytes)]
        })
        .collect();
    if rows.is_empty() {
        anstream::println!("  empty");
    }
    print_table(&rows);
    if in_use {
        anstream::println!("  in use by a running kgate");
    }
    anstream::println!("\ntotal       {}", size(total));
}

fn as_row(one: &Listed) -> [String; 6] {
    let (kernel, image, memory) = match &one.description {
        Some(d) => (line(&d.kernel), line(&d.image), size(d.memory)),
        None => Default::default(),
    };
    let place = match one.place {
        Place::Memory => "memory",
        Place::Disk => "disk",
    };
    let used = match one.status {
        Status::InUse => "in use".to_owned(),
        Status::Kept | Status::Leftover => ago(one.used),
    };
    [kernel, image, memory, size(one.bytes), used, place.to_owned()]
}

fn as_json(one: &Listed) -> serde_json::Value {
    let about = one.description.as_ref();
    let created =
        about.and_then(|d| Timestamp::from_millisecond(d.created_ms.try_into().ok()?).ok());
    json!({
        "key": one.key,
        "kernel": about.map(|d| &d.kernel),
        "image": about.map(|d| &d.image),
        "memory_bytes": about.map(|d| d.memory),
        "created": created.map(|time| time.to_string()),
        "last_used": Timestamp::try_from(one.used).ok().map(|time| time.to_string()),
        "bytes": one.bytes,
        "place": one.place,
        "path": one.path,
        "status": one.status,
    })
}

fn prune(dir: &Path, templates: &Store, args: &PruneArgs) -> Result<(), CommandError> {
    let before = match args.older_than {
        Some(span) => {
            Some(now().checked_sub(span).map(|time| time.timestamp().into()).map_err(|_| {
                CommandError::usage("--older-than: that is before all time that can be counted")
            })?)
        }
        None => None,
    };
    let pruned = templates.prune(match (args.all || args.templates, before) {
        (true, _) => None,
        (false, before) => Some(before.unwrap_or(SystemTime::UNIX_EPOCH)),
    });
    let mut freed = pruned.bytes;
    let mut gone: BTreeMap<&str, usize> = BTreeMap::new();
    let mut kept: BTreeMap<&str, usize> = BTreeMap::new();
    gone.insert("templates", pruned.removed);
    kept.insert("templates", pruned.in_use);

    let goes = |entry: &Entry| {
        args.all || entry.kind == LEFT_OVER || before.is_some_and(|before| entry.used < before)
    };
    let mut failed = None;
    let mut chosen = entries(dir).into_iter().filter(goes).peekable();
    if chosen.peek().is_some() {
        let lock = exclusive(dir, true).map_err(|error| {
            CommandError::infrastructure(format!("can't lock the cache {}: {error}", dir.display()))
        })?;
        for entry in chosen {
            if lock.is_none() {
                *kept.entry(entry.kind).or_default() += 1;
                continue;
            }
            match remove(&entry.path) {
                Ok(()) => {
                    freed += entry.bytes;
                    *gone.entry(entry.kind).or_default() += 1;
                }
                Err(error) => {
                    failed.get_or_insert(format!("can't remove {}: {error}", entry.path.display()));
                }
            }
        }
    }
    let told = |counts: &BTreeMap<&str, usize>| {
        let order = std::iter::once("templates").chain(PARTS.iter().map(|part| part.kind));
        let mut told: Vec<String> = order
            .filter_map(|kind| {
                counts.get(kind).filter(|n| **n > 0).map(|n| format!("{kind} ({n})"))
            })
            .collect();
        told.dedup();
        told.join(", ")
    };
    match told(&gone) {
        gone if gone.is_empty() => anstream::println!("nothing was removed"),
        gone => anstream::println!("freed {}: {gone}", size(freed)),
    }
    let kept = told(&kept);
    if !kept.is_empty() {
        anstream::println!("left, because a running kgate uses it: {kept}");
    }
    match failed {
        Some(failed) => Err(CommandError::infrastructure(line(&failed))),
        None => Ok(()),
    }
}

/// Keeps others from using the cache, and tells that nobody does; `None` when somebody does.
fn exclusive(dir: &Path, make: bool) -> io::Result<Option<File>> {
    let lock = File::options().write(true).create(make).open(dir.join(CACHE_LOCK))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// All that the parts of the cache are made of.
fn entries(cache: &Path) -> Vec<Entry> {
    let mut entries = Vec::new();
    for part in PARTS {
        for entry in fs::read_dir(cache.join(part.dir)).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with(part.prefix) || name == CACHE_LOCK {
                continue;
            }
            let hidden = name.starts_with('.');
            let kind = if hidden { LEFT_OVER } else { part.kind };
            let path = entry.path();
            let (mut bytes, mut used) = (0, SystemTime::UNIX_EPOCH);
            measure(&path, &mut bytes, &mut used);
            entries.push(Entry { kind, path, bytes, used });
        }
    }
    entries
}

/// Adds up a file, or a directory with all that is in it; no link is followed.
fn measure(path: &Path, bytes: &mut u64, used: &mut SystemTime) {
    let Ok(data) = fs::symlink_metadata(path) else { return };
    let at = |seconds: i64| {
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
    };
    *bytes += data.blocks() * 512;
    // Its own time may be that of the archive it came from.
    *used = at(data.ctime()).max(*used);
    if data.is_dir() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            measure(&entry.path(), bytes, used);
        }
    } else {
        *used = at(data.atime()).max(*used);
    }
}

/// Removes a file or directory. Where a directory is half gone, it has its name no longer.
fn remove(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_dir() {
        return fs::remove_file(path);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let away = path.with_file_name(format!(".unfinished-{}", name.trim_start_matches('.')));
    fs::rename(path, &away)?;
    fs::remove_dir_all(away)
}

/// `61 MiB`.
fn size(bytes: u64) -> String {
    let tenths = |unit: u32| (bytes >> (unit - 4)) * 10 / 16;
    match bytes {
        0 => "0".to_owned(),
        1..0x10_0000 => format!("{} KiB", bytes.div_ceil(1024)),
        0x10_0000..0x4000_0000 => format!("{} MiB", bytes >> 20),
        _ => format!("{}.{} GiB", tenths(30) / 10, tenths(30) % 10),
    }
}

/// `3 min ago`.
fn ago(time: SystemTime) -> String {
    let seconds = SystemTime::now().duration_since(time).unwrap_or_default().as_secs();
    match seconds {
        0..60 => "just now".to_owned(),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..86_400 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let table = [(0, "0"), (1, "1 KiB"), (61 << 20, "61 MiB"), (1 << 30, "1.0 GiB")];
        for (bytes, text) in table {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(size((1 << 32) + (1 << 30) / 2), "4.5 GiB");
    }
}
