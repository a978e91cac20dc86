//! What the numbers were measured on.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::report::Machine;

/// How long an idle CPU of a virtual machine waits for work before it is given up to the host
/// (Documentation/virt/guest-halt-polling.rst).
const POLL_NS: &str = "/sys/module/haltpoll/parameters/guest_halt_poll_ns";

/// The machine as it is before the first round.
pub(crate) fn describe(dir: &Path, user: &str) -> Machine {
    let uname = rustix::system::uname();
    Machine {
        kernel: format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy()),
        cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| uname.machine().to_string_lossy().into_owned()),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        memory_gib: field("/proc/meminfo", "MemTotal").and_then(|kb| kib(&kb)).unwrap_or_default() >> 20,
        filesystem: filesystem(dir).unwrap_or_else(|| "unknown filesystem".into()),
        waiting: waiting(),
        load: [load(), String::new()],
        user: user.to_owned(),
        command: command(),
        time: 0,
    }
}

/// What is only known at the end.
pub(crate) fn finish(machine: &mut Machine) {
    machine.load[1] = load();
    machine.time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|l| l.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn kib(words: &str) -> Option<u64> {
    words.strip_suffix(" kB")?.parse().ok()
}

fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// What decides about the price of a wake-up, which is most of a FUSE request's.
fn waiting() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let uring = if read("/sys/module/fuse/parameters/enable_uring") == "Y" { "on" } else { "off" };
    let idle = match (read("/sys/devices/system/cpu/cpuidle/current_governor"), read(POLL_NS).parse::<u64>()) {
        (governor, Ok(ns)) if governor == "haltpoll" => format!(", {} µs before an idle CPU halts", ns / 1000),
        _ => String::new(),
    };
    format!("FUSE over io_uring {uring}{idle}")
}

/// The type of what is mounted where `dir` is.
fn filesystem(dir: &Path) -> Option<String> {
    let dir = dir.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    type_in(&mounts, &dir)
}

fn type_in(mounts: &str, dir: &Path) -> Option<String> {
    let on = |line: &&str| line.split(' ').nth(4).is_some_and(|at| dir.starts_with(at));
    // The longest path; of several mounts on it, the last.
    let line = mounts.lines().filter(on).max_by_key(|l| l.split(' ').nth(4).map(str::len))?;
    Some(line.split_once(" - ")?.1.split(' ').next()?.to_owned())
}

fn command() -> String {
    let mut words = std::env::args();
    let name = words.next().unwrap_or_default();
    let name = Path::new(&name).file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    std::iter::once(name).chain(words).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_counts() {
        let mounts =
            "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:5 / /a rw shared:1 - tmpfs t rw\n3 2 0:6 / /a rw - xfs t rw\n";
        assert_eq!(type_in(mounts, Path::new("/a/b")).as_deref(), Some("xfs"));
        assert_eq!(type_in(mounts, Path::new("/ab")).as_deref(), Some("ext4"));
    }
}
