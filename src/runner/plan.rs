//! From a [`Spec`] to the list of what init does, as plain data: it can be printed and tested, and is carried out once,
//! from top to bottom, by `init`.

use std::fmt;
use std::path::{Path, PathBuf};

use super::{Network, Spec};

#[cfg(test)]
mod tests;

/// One thing to do; paths are those inside. The order matters: all mounting comes before the switch to the new root,
/// while the machine's proc (without which the kernel grants no fresh one) and devices are in sight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// sethostname(2).
    SetHostname(String),
    /// The loopback interface of the new network namespace.
    LoopbackUp,
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
    /// chdir(2), and the proof that it is inside.
    ChangeDir(PathBuf),
    /// setgroups(2) to none.
    DropGroups,
    /// prctl(2) `PR_CAPBSET_DROP` and capset(2): [`KEPT_CAPABILITIES`] stay.
    LimitCapabilities,
    /// prctl(2) `PR_SET_NO_NEW_PRIVS`.
    NoNewPrivs,
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
/// The group `tty`, by convention.
const TTY: u32 = 5;

/// What a run does: for [`run`](super::run), and to be printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    namespaces: Vec<&'static str>,
    mapping: String,
    steps: Vec<Step>,
    command: Vec<String>,
}

impl Plan {
    /// What init does, in order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }
}

/// The plan for `spec`. No input but that, no output but this.
pub fn plan(spec: &Spec) -> Plan {
    let mut namespaces = vec!["user", "mount", "pid", "ipc", "uts", "cgroup"];
    if spec.network == Network::None {
        namespaces.push("net");
    }
    let command = spec.command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    Plan { namespaces, mapping: spec.mapping.to_string(), steps: steps(spec), command }
}

fn steps(spec: &Spec) -> Vec<Step> {
    let path = PathBuf::from;
    let mut steps = Vec::new();
    steps.extend(spec.hostname.clone().map(Step::SetHostname));
    if spec.network == Network::None {
        steps.push(Step::LoopbackUp);
    }
    steps.extend([Step::MakeDir(path("/proc")), Step::MountProc]);
    steps.extend([Step::MakeDir(path("/sys")), Step::MountSys { fresh: spec.network == Network::None }]);
    dev(spec, &mut steps);
    steps.extend(MASKED.map(|p| Step::Mask(path(p))));
    steps.extend(READ_ONLY.map(|p| Step::ReadOnly(path(p))));
    if !spec.host {
        let name = spec.hostname.as_deref().unwrap_or_default();
        let extra = if name.is_empty() { String::new() } else { format!("127.0.1.1 {name}\n") };
        let online = spec.network == Network::Host;
        if online {
            steps.push(Step::CopyOf { path: "/etc/resolv.conf", extra: String::new(), make: true });
        }
        steps.push(Step::CopyOf { path: "/etc/hosts", extra, make: online });
    }
    steps.extend(spec.hide.iter().cloned().map(Step::Mask));
    steps.push(Step::PivotRoot);
    steps.push(Step::ChangeDir(spec.workdir.clone().unwrap_or_else(|| path("/"))));
    if spec.mapping.has_setgroups() {
        steps.push(Step::DropGroups);
    }
    steps.push(Step::LimitCapabilities);
    if spec.no_new_privs {
        steps.push(Step::NoNewPrivs);
    }
    steps
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
            Self::SetHostname(name) => write!(f, "set host name {name}"),
            Self::LoopbackUp => write!(f, "bring up lo"),
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
            Self::ChangeDir(p) => write!(f, "change to directory {}", show(p)),
            Self::DropGroups => write!(f, "drop supplementary groups"),
            Self::LimitCapabilities => write!(f, "limit capabilities to {}", capability_names()),
            Self::NoNewPrivs => write!(f, "set no_new_privs"),
        }
    }
}

fn capability_names() -> String {
    KEPT_CAPABILITIES.iter_names().map(|(name, _)| name).collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "new namespaces: {}", self.namespaces.join(" "))?;
        writeln!(f, "map {}", self.mapping)?;
        writeln!(f, "mount the view")?;
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        write!(f, "execute {}", self.command.join(" "))
    }
}
