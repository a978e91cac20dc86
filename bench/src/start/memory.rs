//! What many containers of one image take while they sleep, by the kernel's proportional count: what several share is
//! divided among them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Child, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::PATIENCE;
use super::contender::{Contender, Role, Round, podman};
use super::place::Place;
use crate::watch::Watch;

/// Only ours sleep as long, to the second.
const SLEEP: &str = "86213";

/// Of all processes of all containers, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Memory {
    processes: u64,
    proportional: u64,
    private: u64,
}

pub(super) fn table(
    contenders: &[(&Contender, &'static [&'static str])],
    many: usize,
    place: &Place<'_>,
) -> Result<String> {
    let mut text = format!(
        "| each of {many} containers of one image at once | processes | proportional (PSS) | private |\n\
         |---|---|---|---|\n"
    );
    for (contender, way) in contenders {
        if !matches!(contender.role(), Role::Ours | Role::PodmanCrun | Role::CrunMounted | Role::Bwrap) {
            continue;
        }
        place.watch.go_on()?;
        let label = contender.label();
        match measure(contender, way, many, place) {
            Ok(m) => {
                let each = |n: u64| n as f64 / many as f64;
                let (processes, pss, private) = (each(m.processes), each(m.proportional), each(m.private));
                text += &format!("| {label} | {processes:.1} | {pss:.0} KiB | {private:.0} KiB |\n");
            }
            Err(e) => text += &format!("| {label} | {} | | |\n", super::one_line(&e)),
        }
    }
    Ok(text)
}

fn measure(contender: &Contender, way: &[&str], many: usize, place: &Place<'_>) -> Result<Memory> {
    let mut started = Vec::new();
    let measured = start(contender, way, many, place, &mut started).and_then(|()| {
        // What they do after their start is done.
        std::thread::sleep(std::time::Duration::from_millis(500));
        all_of(place)
    });
    // With its command each ends in order.
    let (asleep, wait) = (sleepers()?, Instant::now());
    for pid in asleep {
        if let Some(pid) = Pid::from_raw(pid) {
            kill_process(pid, Signal::KILL).or_else(|e| if e == rustix::io::Errno::SRCH { Ok(()) } else { Err(e) })?;
        }
    }
    for (mut child, mut round) in started {
        child.wait()?;
        round.unmount()?;
    }
    if matches!(contender.role(), Role::PodmanCrun) {
        place.time(podman(place).args(["rm", "--all", "--force"]))?;
    }
    while !processes_of(place)?.is_empty() && wait.elapsed() < PATIENCE {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    measured
}

fn start(
    contender: &Contender,
    way: &[&str],
    many: usize,
    place: &Place<'_>,
    started: &mut Vec<(Child, Round)>,
) -> Result<()> {
    for n in 0..many {
        place.watch.go_on()?;
        let mut round = contender.round(place, way, &format!("many-{n}"), &["/bin/sleep", SLEEP])?;
        round.mount(place)?;
        let child = round.run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        started.push((child.with_context(|| contender.label())?, round));
        wait_for(n + 1, place.watch)?;
    }
    Ok(())
}

/// Until so many sleep.
fn wait_for(many: usize, watch: &Watch) -> Result<()> {
    let start = Instant::now();
    loop {
        watch.go_on()?;
        let asleep = sleepers()?.len();
        if asleep >= many {
            return Ok(());
        }
        ensure!(start.elapsed() < PATIENCE, "{asleep} of {many} came up");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// Every process's number, words and parent.
fn processes() -> Result<BTreeMap<i32, (String, i32)>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        // It may be gone by now.
        let Ok(words) = fs::read(format!("/proc/{pid}/cmdline")) else { continue };
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok()).unwrap_or(0);
        all.insert(pid, (String::from_utf8_lossy(&words).replace('\0', " "), parent));
    }
    Ok(all)
}

fn sleepers() -> Result<Vec<i32>> {
    let ours = format!("/bin/sleep {SLEEP} ");
    Ok(processes()?.into_iter().filter(|(_, (words, _))| *words == ours).map(|(pid, _)| pid).collect())
}

/// Who has our directory in its words, sleeps as ours do, or is a child of such.
fn processes_of(place: &Place<'_>) -> Result<BTreeSet<i32>> {
    let all = processes()?;
    Ok(ours_among(&all, &place.site.display().to_string()))
}

fn ours_among(all: &BTreeMap<i32, (String, i32)>, site: &str) -> BTreeSet<i32> {
    let sleeper = format!("/bin/sleep {SLEEP} ");
    let named = |(_, (words, _)): &(&i32, &(String, i32))| words.contains(site) || *words == sleeper;
    let mut ours: BTreeSet<i32> = all.iter().filter(named).map(|(pid, _)| *pid).collect();
    loop {
        let more: Vec<i32> =
            all.iter().filter(|(pid, (_, up))| ours.contains(up) && !ours.contains(pid)).map(|(pid, _)| *pid).collect();
        if more.is_empty() {
            return ours;
        }
        ours.extend(more);
    }
}

fn all_of(place: &Place<'_>) -> Result<Memory> {
    let mut sum = Memory::default();
    for pid in processes_of(place)? {
        let path = format!("/proc/{pid}/smaps_rollup");
        // podman's pause process or a helper may just have gone.
        let text = match fs::read_to_string(&path) {
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => continue,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            text => text.with_context(|| format!("{path}: only root may look into all of them"))?,
        };
        add(&mut sum, &text);
    }
    Ok(sum)
}

fn add(sum: &mut Memory, rollup: &str) {
    let field = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|l| l.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or_default()
    };
    sum.processes += 1;
    sum.proportional += field("Pss");
    sum.private += field("Private_Clean") + field("Private_Dirty");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_are_found_with_their_children() {
        let p = |words: &str, parent| (words.to_owned(), parent);
        let all = BTreeMap::from([
            (1, p("init ", 0)),
            (10, p("onlay run --root /var/tmp/onlay-bench-x/store ", 1)),
            (11, p("onlay ", 10)),
            (12, p("/bin/sleep 86213 ", 11)),
            (13, p("/bin/sleep 86213 ", 1)),
            (14, p("/bin/sleep 1 ", 1)),
        ]);
        assert_eq!(ours_among(&all, "/var/tmp/onlay-bench-x"), BTreeSet::from([10, 11, 12, 13]));
    }

    #[test]
    fn memory_is_summed() {
        let mut sum = Memory::default();
        for _ in 0..2 {
            add(
                &mut sum,
                "00-ff [rollup]\nRss: 9 kB\nPss:                 100 kB\nPss_Dirty: 5 kB\nPrivate_Clean: 3 kB\nPrivate_Dirty: 4 kB\n",
            );
        }
        assert_eq!(sum, Memory { processes: 2, proportional: 200, private: 14 });
    }
}
