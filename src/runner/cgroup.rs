//! Limits on all that runs inside together: cgroups(7), version 2.
//!
//! A group is made next to the caller's own, as near as we may write: that is where the kernel lets init be moved to.
//! Root makes it at the top. A user whose session is not theirs to write (a login's is root's) asks their systemd for a
//! scope. What none of them can give is told, and the rest holds nevertheless.
//!
//! The maker of a group has a lock on it (flock(2)) as long as it lives: one that is empty and not locked was left over by
//! a crash, and whoever makes the next one beside it removes it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::unistd::Pid;

use super::Processors;
use super::hierarchy::{PREFIX, hierarchy, own, places, read, sweep, write};
use super::scope::Scope;
use crate::vocab::why;

/// Limits on everything inside together; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resources {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of swap space beside it.
    pub swap: Option<Swap>,
    /// Processor time, in millionths of one processor.
    pub cpu: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Which processors they run on. Holds without a group, too, but then not for who may change it.
    pub processors: Option<Processors>,
}

/// How much may be swapped out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swap {
    /// So many bytes: what a limit of memory brings along. Nobody misses it where nothing is swapped.
    Usual(u64),
    /// So many bytes, asked for.
    Bytes(u64),
    /// All there is.
    Unlimited,
}

/// One file of a group.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) flag: &'static str,
    pub(super) controller: &'static str,
    pub(super) file: &'static str,
    pub(super) value: Value,
    /// Its absence is no news.
    optional: bool,
}

/// What is written there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    Number(u64),
    Unlimited,
    /// Millionths of a processor.
    Share(u64),
    These(Processors),
}

/// The time in which a share of the processor is dealt out, microseconds: as docker's.
const PERIOD: u64 = 100_000;

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(n) => write!(f, "{n}"),
            Self::Unlimited => f.write_str("max"),
            Self::These(processors) => write!(f, "{processors}"),
            // Less than a millisecond the kernel does not deal out.
            Self::Share(millionths) => write!(f, "{} {PERIOD}", (millionths * PERIOD / 1_000_000).max(1000)),
        }
    }
}

impl Resources {
    /// Nothing is limited.
    pub fn is_empty(&self) -> bool {
        self.settings().is_empty()
    }

    pub(super) fn settings(&self) -> Vec<Setting> {
        let setting = |flag, controller, file, value| Setting { flag, controller, file, value, optional: false };
        let mut settings = Vec::new();
        settings.extend(self.memory.map(|n| setting("--memory", "memory", "memory.max", Value::Number(n))));
        settings.extend(self.swap.map(|swap| Setting {
            optional: matches!(swap, Swap::Usual(_)),
            ..setting(
                "--memory-swap",
                "memory",
                "memory.swap.max",
                match swap {
                    Swap::Usual(n) | Swap::Bytes(n) => Value::Number(n),
                    Swap::Unlimited => Value::Unlimited,
                },
            )
        }));
        settings.extend(self.cpu.map(|n| setting("--cpus", "cpu", "cpu.max", Value::Share(n))));
        settings.extend(self.pids.map(|n| setting("--pids-limit", "pids", "pids.max", Value::Number(n))));
        settings.extend(self.processors.map(|these| Setting {
            optional: true,
            ..setting("--cpuset-cpus", CPUSET, "cpuset.cpus", Value::These(these))
        }));
        settings
    }
}

impl std::fmt::Display for Resources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let said: Vec<_> = self.settings().iter().map(|s| format!("{}={}", s.file, s.value)).collect();
        f.write_str(&said.join(", "))
    }
}

/// A group for one run.
#[derive(Debug)]
pub struct Cgroup(Kind);

#[derive(Debug)]
enum Kind {
    /// None of the limits can be applied.
    Nothing,
    /// A directory of ours, and the lock on it.
    Made(PathBuf, File),
    /// systemd's, made when init is there.
    Scope(Scope),
}

/// The controller of processors.
pub(super) const CPUSET: &str = "cpuset";

/// A flag that can't be granted, and why.
type Refused = (&'static str, String);

impl Cgroup {
    /// A group with these limits for a run with the directory `base`; what can't be limited is told in a warning.
    pub fn limited(resources: &Resources, base: &Path) -> Option<Self> {
        let settings = resources.settings();
        if settings.is_empty() {
            return None;
        }
        let tail: String = base.file_name().unwrap_or_default().to_string_lossy().chars().take(12).collect();
        let name = format!("{PREFIX}{tail}-{}", std::process::id());
        let (made, refused) = make(&settings, &name);
        let told: Vec<_> = refused.iter().filter(|(flag, _)| !is_optional(&settings, flag)).collect();
        let mut reasons: Vec<&str> = told.iter().map(|(_, why)| why.as_str()).collect();
        reasons.dedup();
        if !told.is_empty() {
            let flags: Vec<_> = told.iter().map(|(flag, _)| *flag).collect();
            log::warn!("no limit by {}: {}", flags.join(", "), reasons.join("; "));
        }
        Some(made.unwrap_or(Self(Kind::Nothing)))
    }

    /// Moves init into it, before it has any child.
    pub(super) fn add(&self, pid: Pid) -> Result<(), String> {
        match &self.0 {
            Kind::Nothing => Ok(()),
            Kind::Made(dir, _) => write(&dir.join("cgroup.procs"), &pid.to_string()),
            Kind::Scope(scope) => scope.start(pid),
        }
    }

    /// Everything in it has ended: removes it. How many processes the limit of memory has ended.
    pub(super) fn remove(self) -> u64 {
        let Kind::Made(dir, _lock) = self.0 else { return 0 };
        let events = read(&dir.join("memory.events"));
        let killed = events.lines().find_map(|l| l.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0);
        // The last process takes a moment to be gone from it.
        for _ in 0..100 {
            match fs::remove_dir(&dir) {
                Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    log::warn!("remove {}: {}", dir.display(), why(&e));
                    return killed;
                }
                _ => return killed,
            }
        }
        log::warn!("{} is left over: something still runs in it", dir.display());
        killed
    }
}

/// The limits that hold for the process `pid` and were set for a run: of memory, and of the number of processes.
pub fn limits_of(pid: i32) -> (Option<u64>, Option<u64>) {
    let top = hierarchy(&read(Path::new("/proc/self/mountinfo")));
    let Some(dir) = top.and_then(|top| own(&read(Path::new(&format!("/proc/{pid}/cgroup"))), &top)) else {
        return (None, None);
    };
    if !dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX)) {
        return (None, None);
    }
    let limit = |file: &str| read(&dir.join(file)).trim().parse().ok();
    (limit("memory.max"), limit("pids.max"))
}

fn is_optional(settings: &[Setting], flag: &str) -> bool {
    settings.iter().any(|s| s.flag == flag && s.optional)
}

/// The best group that can be had, and what it can't do.
fn make(settings: &[Setting], name: &str) -> (Option<Cgroup>, Vec<Refused>) {
    let all = |why: &str| settings.iter().map(|s| (s.flag, why.to_owned())).collect::<Vec<_>>();
    let Some(top) = hierarchy(&read(Path::new("/proc/self/mountinfo"))) else {
        return (None, all("control groups of version 2 are not mounted here"));
    };
    let own = own(&read(Path::new("/proc/self/cgroup")), &top);
    let root = nix::unistd::geteuid().is_root();
    let places = places(&top.dir, own.as_deref(), root);
    let mut best: Option<(PathBuf, Vec<Refused>)> = None;
    for place in places {
        let refused = enable(&place, settings);
        if best.as_ref().is_none_or(|(_, before)| refused.len() < before.len()) {
            best = Some((place, refused));
        }
    }
    let here = best.as_ref().map_or(settings.len(), |(_, refused)| refused.len());
    if here > 0
        && let Some((scope, refused)) = Scope::new(&top.dir, settings, name).filter(|(_, r)| r.len() < here)
    {
        return (Some(Cgroup(Kind::Scope(scope))), refused);
    }
    match best {
        Some((place, refused)) if refused.len() < settings.len() => made_in(&place, name, settings, refused),
        Some((_, refused)) => (None, refused),
        None => (None, all(&not_ours(&top.dir, settings))),
    }
}

/// Why nothing is to be had where nothing may be written.
fn not_ours(top: &Path, settings: &[Setting]) -> String {
    let controllers = read(&top.join("cgroup.controllers"));
    match settings.iter().find_map(|s| absent(&controllers, s.controller)) {
        Some(why) => why,
        None => "no control group here is this user's: run it in a scope of your own, \
                 systemd-run --user --scope -p Delegate=yes onlay run .."
            .to_owned(),
    }
}

/// Why a controller is not among those of a place.
fn absent(controllers: &str, controller: &str) -> Option<String> {
    if controllers.split_whitespace().any(|c| c == controller) {
        return None;
    }
    let old = read(Path::new("/proc/cgroups")).lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some(controller) && words.next().is_some_and(|hierarchy| hierarchy != "0")
    });
    Some(if old {
        "the machine does that by control groups of version 1 (boot it with systemd.unified_cgroup_hierarchy=1)"
            .to_owned()
    } else {
        format!("the controller {controller} is not delegated to where we may write")
    })
}

/// Has the controllers of a place work in its children, as far as it can.
fn enable(place: &Path, settings: &[Setting]) -> Vec<Refused> {
    let (controllers, control) = (read(&place.join("cgroup.controllers")), place.join("cgroup.subtree_control"));
    let mut refused = Vec::new();
    for Setting { flag, controller, .. } in settings {
        if let Some(why) = absent(&controllers, controller) {
            refused.push((*flag, why));
        } else if !read(&control).split_whitespace().any(|c| c == *controller)
            && let Err(why) = write(&control, &format!("+{controller}"))
        {
            refused.push((*flag, why));
        }
    }
    refused
}

fn made_in(
    place: &Path,
    name: &str,
    settings: &[Setting],
    mut refused: Vec<Refused>,
) -> (Option<Cgroup>, Vec<Refused>) {
    sweep(place);
    let dir = place.join(name);
    let lock = match lock_new(&dir) {
        Ok(lock) => lock,
        Err(e) => {
            let why = format!("make {}: {}", dir.display(), why(&e));
            return (None, settings.iter().map(|s| (s.flag, why.clone())).collect());
        }
    };
    for setting in settings {
        if refused.iter().all(|(flag, _)| *flag != setting.flag)
            && let Err(why) = write(&dir.join(setting.file), &setting.value.to_string())
        {
            refused.push((setting.flag, why));
        }
    }
    (Some(Cgroup(Kind::Made(dir, lock))), refused)
}

/// Makes a group and takes the lock on it; somebody may clear up in between.
fn lock_new(dir: &Path) -> std::io::Result<File> {
    fs::create_dir(dir)?;
    loop {
        let lock = File::open(dir)?;
        lock.lock()?;
        match fs::create_dir(dir) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Ok(lock),
            made => made?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_files() {
        let all = Resources {
            memory: Some(64 << 20),
            swap: Some(Swap::Unlimited),
            cpu: Some(1_500_000),
            pids: Some(20),
            processors: Processors::parse("0-1"),
        };
        let said: Vec<_> = all.settings().iter().map(|s| format!("{}={}", s.file, s.value)).collect();
        let want =
            ["memory.max=67108864", "memory.swap.max=max", "cpu.max=150000 100000", "pids.max=20", "cpuset.cpus=0-1"];
        assert_eq!(said, want);
        assert_eq!(Value::Share(1).to_string(), "1000 100000");
        assert!(Resources::default().is_empty());
    }
}
