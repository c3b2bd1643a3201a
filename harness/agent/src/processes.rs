//! The process table, read from `/proc`: what belongs to a command where no cgroup tells.

use std::collections::HashSet;
use std::fs;

use rustix::process::{Pid, Signal, kill_process};

/// One process.
struct Process {
    pid: i32,
    parent: i32,
    session: i32,
    zombie: bool,
}

/// Kills every process that is of `session`, carries `marker` in its environment, or descends from
/// one that does. Returns how many there were.
pub(crate) fn kill_members(session: Option<i32>, marker: Option<&str>) -> usize {
    kill(|process| {
        Some(process.session) == session
            || marker.is_some_and(|marker| environment_has(process.pid, marker))
    })
}

/// Kills every process that descends from this one.
pub(crate) fn kill_descendants() -> usize {
    let me = rustix::process::getpid().as_raw_pid();
    kill(|process| process.parent == me)
}

/// Kills what `seed` selects with its descendants, but never this process.
fn kill(seed: impl Fn(&Process) -> bool) -> usize {
    let me = rustix::process::getpid().as_raw_pid();
    let mut rest: Vec<_> = processes().into_iter().filter(|p| p.pid != me).collect();
    let mut members: HashSet<i32> = HashSet::new();
    loop {
        let before = members.len();
        rest.retain(|process| {
            let member = members.contains(&process.parent) || before == 0 && seed(process);
            if member {
                members.insert(process.pid);
                if !process.zombie
                    && let Some(pid) = Pid::from_raw(process.pid)
                {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
            !member
        });
        if members.len() == before {
            return before;
        }
    }
}

fn environment_has(pid: i32, marker: &str) -> bool {
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|all| all.split(|&b| b == 0).any(|entry| entry == marker.as_bytes()))
}

fn processes() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            parse(pid, &fs::read(entry.path().join("stat")).ok()?)
        })
        .collect()
}

/// `pid (name) state parent group session …`, where the name may hold anything.
fn parse(pid: i32, stat: &[u8]) -> Option<Process> {
    let after = stat.iter().rposition(|&b| b == b')')? + 1;
    let mut fields = std::str::from_utf8(&stat[after..]).ok()?.split_ascii_whitespace();
    let zombie = fields.next()? == "Z";
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    Some(Process { pid, parent, session, zombie })
}

/// What keeps a process that doesn't die: its name, state, and where it is in the kernel.
pub(crate) fn describe(pid: Pid) -> String {
    let read = |file| {
        let bytes = fs::read(format!("/proc/{}/{file}", pid.as_raw_pid())).unwrap_or_default();
        String::from_utf8_lossy(&bytes).trim_end().to_owned()
    };
    let status = read("status");
    let state = status.lines().find_map(|line| line.strip_prefix("State:")).unwrap_or("?").trim();
    format!(
        "process {} ({}) is in state {state}, at:\n{}",
        pid.as_raw_pid(),
        read("comm"),
        read("stack")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let process = parse(5, b"5 (a) Z 9 9 (b) S 77 5 66 0 -1").unwrap();
        assert_eq!((process.parent, process.session, process.zombie), (77, 66, false));
        assert!(parse(5, b"5 (a").is_none());
        assert!(parse(5, b"5 (a) S x").is_none());
    }
}
