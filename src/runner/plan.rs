//! From a [`Spec`] to the list of what init does, as plain data: it can be printed and tested, and is carried out once,
//! from top to bottom, by `init`.

use std::fmt;
use std::path::{Path, PathBuf};

use rustix::thread::CapabilitySet;

use super::{Limit, Names, Network, Process, Resources, Seccomp, Spec, Volume};

#[cfg(test)]
mod tests;

/// One thing to do; paths are those inside. The order matters: all mounting comes before the switch to the new root,
/// while the machine's proc (without which the kernel grants no fresh one) and devices are in sight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The parent moves init into a control group with these limits, which is the root of a new cgroup namespace.
    Limits(Resources),
    /// sethostname(2).
    SetHostname(String),
    /// The loopback interface of the new network namespace.
    LoopbackUp,
    /// The parent connects the new network namespace to the machine's sockets.
    Connect,
    /// pivot_root(2) onto the view, and umount2(2) of the old root: from here on nothing of the machine can be reached.
    PivotRoot,
    /// A directory that has to be there; made if it is not.
    MakeDir(PathBuf),
    /// A fresh proc(5) on `/proc`.
    MountProc,
    /// sysfs(5) on `/sys`, read-only: a fresh one, or (of the caller's network namespace) the machine's.
    MountSys {
        /// The network namespace is ours.
        fresh: bool,
    },
    /// A tmpfs(5).
    MountTmpfs {
        /// Where.
        path: PathBuf,
        /// Mode of its root, octal.
        mode: &'static str,
        /// Its greatest size, as tmpfs(5) takes it.
        size: &'static str,
    },
    /// A devpts of its own on `/dev/pts`; its terminals belong to group `tty` where that is mapped.
    MountDevpts {
        /// The group.
        gid: Option<u32>,
    },
    /// The message queues of the new ipc namespace on `/dev/mqueue`, where the kernel has them.
    MountMqueue,
    /// A device of the machine's, bound to the same name below `/dev`.
    Device(&'static str),
    /// A symbolic link.
    Symlink {
        /// Its name.
        path: &'static str,
        /// Where it points.
        target: &'static str,
    },
    /// Covered: a directory by an empty one, anything else by `/dev/null`. Nothing there: nothing to do.
    Mask(PathBuf),
    /// Bound to itself read-only. Nothing there: nothing to do.
    ReadOnly(PathBuf),
    /// A read-only private copy of the machine's file of this name, bound over it.
    CopyOf {
        /// The file.
        path: &'static str,
        /// Lines added at the end.
        extra: String,
        /// Whether an empty file is made where the view has none. It shows up in the upper.
        make: bool,
    },
    /// The same of resolv.conf, with other servers, say.
    Resolver(Names, Network),
    /// A directory or file of the caller's, or a tmpfs.
    Volume(Volume),
    /// The command's working directory; made, with all that leads to it, if it is not there, and given to its user.
    MakeWorkdir {
        /// Where.
        path: PathBuf,
        /// As in [`Process::user`].
        user: Option<String>,
    },
    /// The view becomes nosuid: what no_new_privs forbids anyway, the kernel then need not ask about each program's file.
    IgnoreSetId,
    /// The view itself becomes read-only, with what is mounted in it left as it is.
    SealView,
    /// seccomp_unotify(2): chown(2) to ids that are not there comes to the supervisor.
    HandOverChown,
    /// landlock(7): nothing that is not in the view can be executed; not the runner's own program, which /proc knows as the
    /// one of a process that is about to become the command (CVE-2019-5736).
    ExecuteInside,
    /// setrlimit(2).
    Limit(Limit),
    /// chdir(2), and the proof that it is inside.
    ChangeDir(PathBuf),
    /// prctl(2) `PR_CAPBSET_DROP`: nothing but these can ever be had again.
    LimitBounding(CapabilitySet),
    /// setgroups(2) to none.
    DropGroups,
    /// setgroups(2), setresgid(2), setresuid(2), by the view's own names.
    SetUser(String),
    /// capset(2): these stay in force for root, none for anybody else.
    LimitCapabilities(CapabilitySet),
    /// prctl(2) `PR_SET_NO_NEW_PRIVS`.
    NoNewPrivs,
    /// seccomp(2).
    Seccomp,
}

/// The capabilities that stay, as podman's defaults: enough for package managers and servers, nothing for mounting,
/// tracing or networks.
pub const KEPT_CAPABILITIES: rustix::thread::CapabilitySet = {
    use rustix::thread::CapabilitySet as C;
    C::CHOWN
        .union(C::DAC_OVERRIDE)
        .union(C::FOWNER)
        .union(C::FSETID)
        .union(C::KILL)
        .union(C::NET_BIND_SERVICE)
        .union(C::SETFCAP)
        .union(C::SETGID)
        .union(C::SETPCAP)
        .union(C::SETUID)
        .union(C::SYS_CHROOT)
};

const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
const LINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
];
/// They tell of the machine, or act on it.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// How names are resolved.
pub(super) const RESOLVER: &str = "/etc/resolv.conf";
/// The group `tty`, by convention.
const TTY: u32 = 5;

/// What a run does: for [`run`](super::run), and to be printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    namespaces: Vec<&'static str>,
    mapping: String,
    steps: Vec<Step>,
    entry: Vec<Step>,
    command: Vec<String>,
}

impl Plan {
    /// What init does, in order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// What the command's own process does then, in order, before it becomes the command.
    pub fn entry(&self) -> &[Step] {
        &self.entry
    }
}

/// The plan for `spec`. No input but that, no output but this.
pub fn plan(spec: &Spec) -> Plan {
    let mut namespaces = vec!["user", "mount", "pid", "ipc", "uts", "cgroup"];
    if spec.network.is_new() {
        namespaces.push("net");
    }
    let command = spec.process.command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let entry = entry(&spec.process, spec);
    Plan { namespaces, mapping: spec.mapping.to_string(), steps: steps(spec), entry, command }
}

fn steps(spec: &Spec) -> Vec<Step> {
    let path = PathBuf::from;
    let mut steps = Vec::new();
    steps.extend((!spec.resources.is_empty()).then_some(Step::Limits(spec.resources)));
    steps.extend(spec.hostname.clone().map(Step::SetHostname));
    if spec.network.is_new() {
        steps.push(Step::LoopbackUp);
    }
    if spec.network.is_connected() {
        steps.push(Step::Connect);
    }
    steps.extend([Step::MakeDir(path("/proc")), Step::MountProc]);
    steps.extend([Step::MakeDir(path("/sys")), Step::MountSys { fresh: spec.network.is_new() }]);
    dev(spec, &mut steps);
    let covered = |p: &Path| !spec.unmask.iter().any(|u| p.starts_with(u));
    steps.extend(MASKED.map(path).into_iter().filter(|p| covered(p)).map(Step::Mask));
    steps.extend(READ_ONLY.map(path).into_iter().filter(|p| covered(p)).map(Step::ReadOnly));
    names(spec, &mut steps);
    steps.extend(spec.volumes.iter().cloned().map(Step::Volume));
    if let Some(path) = spec.process.workdir.clone().filter(|_| spec.make_workdir) {
        steps.push(Step::MakeWorkdir { path, user: spec.process.user.clone() });
    }
    steps.extend(spec.mask.iter().chain(&spec.hide).cloned().map(Step::Mask));
    if spec.process.no_new_privs {
        steps.push(Step::IgnoreSetId);
    }
    if spec.read_only {
        steps.push(Step::SealView);
    }
    steps.push(Step::PivotRoot);
    if spec.mapping.is_single() {
        steps.push(Step::HandOverChown);
    }
    // Who is restricted so can't mount: where that is refused anyway.
    if spec.process.seccomp == Seccomp::Default && !spec.process.capabilities.contains(CapabilitySet::SYS_ADMIN) {
        steps.push(Step::ExecuteInside);
    }
    let kept = init_capabilities(&spec.process);
    steps.extend([Step::LimitBounding(kept), Step::LimitCapabilities(kept)]);
    steps
}

/// What init needs to start a command as anyone with less, and to signal it.
fn init_capabilities(process: &Process) -> CapabilitySet {
    use CapabilitySet as C;
    let own = C::CHOWN | C::DAC_OVERRIDE | C::KILL | C::SETGID | C::SETUID | C::SETPCAP;
    // A seccomp filter wants one of the two.
    let filter = if process.no_new_privs { C::empty() } else { C::SYS_ADMIN };
    process.capabilities | own | filter
}

/// What a process does on its way to become a command in the run of `spec`.
pub(super) fn entry(process: &Process, spec: &Spec) -> Vec<Step> {
    let mut steps: Vec<_> = process.limits.iter().copied().map(Step::Limit).collect();
    steps.push(Step::ChangeDir(process.workdir.clone().unwrap_or_else(|| PathBuf::from("/"))));
    let seccomp = (process.seccomp != Seccomp::Unconfined).then_some(Step::Seccomp);
    if !process.no_new_privs {
        // Now, while we are still allowed to.
        steps.extend(seccomp.clone());
    }
    // Which is slow: each capability is a call.
    if process.capabilities != init_capabilities(&spec.process) {
        steps.push(Step::LimitBounding(process.capabilities));
    }
    match &process.user {
        Some(user) => steps.push(Step::SetUser(user.clone())),
        None if spec.mapping.has_setgroups() => steps.push(Step::DropGroups),
        None => {}
    }
    steps.push(Step::LimitCapabilities(process.capabilities));
    if process.no_new_privs {
        steps.push(Step::NoNewPrivs);
        // Last: what it forbids is not needed any more.
        steps.extend(seccomp);
    }
    steps
}

/// Of a view that is not the machine's, and where something is asked for.
fn names(spec: &Spec, steps: &mut Vec<Step>) {
    let online = spec.network != Network::None;
    if spec.names.changes_resolver() || (online && !spec.host) {
        steps.push(Step::Resolver(spec.names.clone(), spec.network));
    }
    let given = !spec.names.hosts.is_empty();
    if given || !spec.host {
        let own = spec.hostname.iter().filter(|name| !spec.host && !name.is_empty());
        let own: String = own.map(|name| format!("127.0.1.1 {name}\n")).collect();
        steps.push(Step::CopyOf { path: "/etc/hosts", extra: own + &spec.names.hosts(), make: online || given });
    }
}

/// A `/dev` with what every program expects and nothing else.
fn dev(spec: &Spec, steps: &mut Vec<Step>) {
    let tmpfs = |p: &str, mode, size| Step::MountTmpfs { path: PathBuf::from(p), mode, size };
    let dir = |p: &str| Step::MakeDir(PathBuf::from(p));
    steps.extend([dir("/dev"), tmpfs("/dev", "755", "64k")]);
    steps.extend(DEVICES.map(Step::Device));
    let gid = spec.mapping.has_group(TTY).then_some(TTY);
    steps.extend([dir("/dev/pts"), Step::MountDevpts { gid }]);
    steps.extend([dir("/dev/shm"), tmpfs("/dev/shm", "1777", "50%")]);
    steps.extend([dir("/dev/mqueue"), Step::MountMqueue]);
    steps.extend(LINKS.map(|(path, target)| Step::Symlink { path, target }));
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = Path::display;
        match self {
            Self::Limits(resources) => write!(f, "limit all processes together: {resources}"),
            Self::SetHostname(name) => write!(f, "set host name {name}"),
            Self::LoopbackUp => write!(f, "bring up lo"),
            Self::Connect => write!(f, "connect the network"),
            Self::PivotRoot => write!(f, "pivot_root, detach the old root"),
            Self::MakeDir(p) => write!(f, "make directory {}", show(p)),
            Self::MountProc => write!(f, "mount proc on /proc"),
            Self::MountSys { fresh: true } => write!(f, "mount sysfs on /sys read-only"),
            Self::MountSys { fresh: false } => write!(f, "bind the machine's /sys read-only"),
            Self::MountTmpfs { path, mode, size } => {
                write!(f, "mount tmpfs on {} mode={mode},size={size}", show(path))
            }
            Self::MountDevpts { .. } => write!(f, "mount devpts on /dev/pts"),
            Self::MountMqueue => write!(f, "mount mqueue on /dev/mqueue"),
            Self::Device(name) => write!(f, "bind device /dev/{name}"),
            Self::Symlink { path, target } => write!(f, "link {path} -> {target}"),
            Self::Mask(p) => write!(f, "mask {}", show(p)),
            Self::ReadOnly(p) => write!(f, "make read-only {}", show(p)),
            Self::CopyOf { path, .. } => write!(f, "bind a copy of the machine's {path}"),
            Self::Resolver(..) => write!(f, "bind a copy of the machine's {RESOLVER}, changed for the inside"),
            Self::ChangeDir(p) => write!(f, "change to directory {}", show(p)),
            Self::Volume(volume) => write!(f, "{volume}"),
            Self::MakeWorkdir { path, .. } => write!(f, "make working directory {}", show(path)),
            Self::HandOverChown => write!(f, "hand chown to ids that are not there over to the view"),
            Self::ExecuteInside => write!(f, "execute nothing but what is in the view"),
            Self::IgnoreSetId => write!(f, "make the view nosuid"),
            Self::SealView => write!(f, "make the view read-only"),
            Self::Limit(Limit { name, soft, hard }) => {
                let show = |n: &Option<u64>| n.map_or("unlimited".to_owned(), |n| n.to_string());
                write!(f, "limit {name:?} to {}:{}", show(soft), show(hard))
            }
            Self::LimitBounding(set) => write!(f, "limit the bounding set to {}", capability_names(*set)),
            Self::DropGroups => write!(f, "drop supplementary groups"),
            Self::SetUser(user) => write!(f, "become user {user}"),
            Self::LimitCapabilities(set) => write!(f, "limit capabilities to {}", capability_names(*set)),
            Self::NoNewPrivs => write!(f, "set no_new_privs"),
            Self::Seccomp => write!(f, "install the seccomp filter"),
        }
    }
}

fn capability_names(set: CapabilitySet) -> String {
    if set.is_empty() {
        return "none".to_owned();
    }
    set.iter_names().map(|(name, _)| name).collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "new namespaces: {}", self.namespaces.join(" "))?;
        writeln!(f, "map {}", self.mapping)?;
        writeln!(f, "mount the view")?;
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        writeln!(f, "start the command's process")?;
        for step in &self.entry {
            writeln!(f, "{step}")?;
        }
        write!(f, "execute {}", self.command.join(" "))
    }
}
