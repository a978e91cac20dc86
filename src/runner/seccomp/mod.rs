//! Which system calls the command may make: seccomp(2).
//!
//! The default is a list of what is allowed, in the spirit of podman's and docker's; the rest is `EPERM`. Calls newer than
//! the list, `clone3` (its flags are behind a pointer, where no filter sees them) and those of the x32 ABI are `ENOSYS`: a
//! program that knows them knows how to do without. Another architecture's calls kill.
//!
//! Three things are looked at more closely: `clone` makes no namespaces, `ioctl` pushes no characters into a terminal
//! (`TIOCSTI`, `TIOCLINUX`), `personality` only takes the harmless values, and `socket` opens no `AF_VSOCK`, which reaches
//! the hypervisor whatever the network namespace.

mod profile;
mod syscalls;
mod tree;

use std::collections::BTreeMap;

use rustix::thread::CapabilitySet;
use seccompiler::{BpfProgram, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule, TargetArch, sock_filter};
use serde::{Deserialize, Serialize};

pub use profile::Profile;
use tree::Leaf;

/// What a process is confined to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    /// The built-in list.
    Default,
    /// Nothing.
    Unconfined,
    /// A list of the user's.
    Profile(Profile),
}

/// Programs to install, in this order: of two that refuse, the later one names the error.
pub(super) type Programs = Vec<BpfProgram>;

/// What of a list makes no program.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("no filters for this architecture")]
    Architecture,
    #[error("{0}")]
    Backend(#[from] seccompiler::BackendError),
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

impl Seccomp {
    /// The programs for a process with these capabilities.
    pub(super) fn programs(&self, capabilities: CapabilitySet) -> Result<Programs, Error> {
        match self {
            Self::Unconfined => Ok(Vec::new()),
            Self::Default => default_programs(capabilities),
            Self::Profile(profile) => profile.programs(capabilities),
        }
    }
}

fn architecture() -> Result<TargetArch, Error> {
    std::env::consts::ARCH.try_into().map_err(|_| Error::Architecture)
}

/// `AUDIT_ARCH_..` of linux/audit.h.
fn audit_architecture() -> Result<u32, Error> {
    Ok(match architecture()? {
        TargetArch::x86_64 => 0xc000_003e,
        TargetArch::aarch64 => 0xc000_00b7,
        TargetArch::riscv64 => 0xc000_00f3,
    })
}

/// Hands over what the kernel would refuse because an id is not there: calls that name one beside 0, where nothing else is.
/// All else passes, and the kernel knows it by the numbers alone (and keeps that in a table).
pub(super) fn chown_program() -> Result<BpfProgram, Error> {
    let here = audit_architecture()?;
    // The number of the call, and which argument is the user; the group is the next one.
    let mut calls = vec![(libc::SYS_fchown, 1), (libc::SYS_fchownat, 2)];
    #[cfg(target_arch = "x86_64")]
    calls.extend([(libc::SYS_chown, 1), (libc::SYS_lchown, 1)]);
    let (pass, ask) = (libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_USER_NOTIF);
    // struct seccomp_data: number, architecture, instruction pointer, arguments.
    let mut program = vec![statement(LOAD, 4), equal(here, 1, 0), statement(RETURN, pass)];
    for (number, user) in calls {
        let [uid, gid] = [user, user + 1].map(argument);
        program.extend([
            statement(LOAD, 0),
            equal(u32::try_from(number).unwrap_or(u32::MAX), 0, 8),
            uid,
            equal(0, 1, 0),
            equal(AS_IT_IS, 0, 3),
            gid,
            equal(0, 2, 0),
            equal(AS_IT_IS, 1, 0),
            statement(RETURN, ask),
            statement(RETURN, pass),
        ]);
    }
    program.push(statement(RETURN, pass));
    Ok(program)
}

fn default_programs(capabilities: CapabilitySet) -> Result<Programs, Error> {
    let refused = vec![statement(RETURN, REFUSED)];
    let mut spans: Vec<(u32, Leaf)> = Vec::new();
    let mut span = |start: u32, leaf: Leaf| {
        if spans.last().is_none_or(|(_, before)| *before != leaf) {
            spans.push((start, leaf));
        }
    };
    let mut next = 0;
    for (number, leaf) in default_calls(capabilities) {
        if next < number {
            span(next, refused.clone());
        }
        next = number + 1;
        span(number, leaf);
    }
    let newer = number_of(syscalls::newest()) + 1;
    if next < newer {
        span(next, refused);
    }
    // Those of the x32 ABI, too: they have bit 30 set.
    span(newer, vec![statement(RETURN, ABSENT)]);
    Ok(vec![tree::program(audit_architecture()?, &spans)])
}

/// The calls that are not simply refused.
fn default_calls(capabilities: CapabilitySet) -> BTreeMap<u32, Leaf> {
    let with = syscalls::WITH.iter().filter(|(needs, _)| capabilities.contains(*needs)).map(|(_, calls)| *calls);
    let allowed = [syscalls::ALWAYS, syscalls::ALWAYS_HERE].into_iter().chain(with).flatten();
    let mut calls: BTreeMap<u32, Leaf> =
        allowed.map(|(_, number)| (number_of(*number), vec![statement(RETURN, libc::SECCOMP_RET_ALLOW)])).collect();
    if !capabilities.contains(CapabilitySet::SYS_ADMIN) {
        calls.insert(number_of(libc::SYS_clone3), vec![statement(RETURN, ABSENT)]);
    }
    let no_namespaces = [argument(0), statement(AND, NAMESPACES), equal(0, 0, 1)];
    calls.entry(number_of(libc::SYS_clone)).or_insert_with(|| [&no_namespaces[..], &yes_or_no()].concat());
    calls.insert(number_of(libc::SYS_ioctl), none_of(1, &[libc::TIOCSTI as u32, TIOCLINUX]));
    calls.insert(number_of(libc::SYS_personality), one_of(0, &PERSONALITIES));
    calls.insert(number_of(libc::SYS_socket), none_of(0, &[libc::AF_VSOCK as u32]));
    calls
}

/// One past the numbers there are where there is none.
fn number_of(call: i64) -> u32 {
    u32::try_from(call).unwrap_or(u32::MAX - 1)
}

/// The lower half of an argument, which is all that the kernel looks at in those asked for here.
fn argument(which: u32) -> sock_filter {
    statement(LOAD, 16 + 8 * which + UPPER_FIRST)
}

fn equal(k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: JUMP_EQUAL, jt, jf, k }
}

fn yes_or_no() -> [sock_filter; 2] {
    [statement(RETURN, libc::SECCOMP_RET_ALLOW), statement(RETURN, REFUSED)]
}

/// Allowed if the argument is one of these.
fn one_of(which: u32, values: &[u32]) -> Leaf {
    let mut leaf = vec![argument(which)];
    let after = |i: usize| u8::try_from(values.len() - 1 - i).unwrap_or(u8::MAX);
    leaf.extend(values.iter().enumerate().map(|(i, value)| equal(*value, after(i), u8::from(after(i) == 0))));
    leaf.extend(yes_or_no());
    leaf
}

/// Allowed if it is none of these.
fn none_of(which: u32, values: &[u32]) -> Leaf {
    let mut leaf = vec![argument(which)];
    let after = |i: usize| u8::try_from(values.len() - i).unwrap_or(u8::MAX);
    leaf.extend(values.iter().enumerate().map(|(i, value)| equal(*value, after(i), 0)));
    leaf.extend(yes_or_no());
    leaf
}

/// The `CLONE_NEW..` flags, and those alone.
const NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;
/// `PER_LINUX`, `PER_LINUX32`, both with `UNAME26`, and the question which one holds.
const PERSONALITIES: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// ioctl_console(2).
const TIOCLINUX: u32 = 0x541c;

fn condition(arg: u8, len: SeccompCmpArgLen, op: SeccompCmpOp, value: u64) -> Result<SeccompCondition, Error> {
    Ok(SeccompCondition::new(arg, len, op, value)?)
}

fn rule(conditions: impl Into<Vec<SeccompCondition>>) -> Result<SeccompRule, Error> {
    Ok(SeccompRule::new(conditions.into())?)
}

/// An id that says: leave it.
const AS_IT_IS: u32 = u32::MAX;
/// Where the lower half of an argument begins.
const UPPER_FIRST: u32 = if cfg!(target_endian = "big") { 4 } else { 0 };

// Of linux/bpf_common.h and linux/filter.h: what seccompiler has no words for.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

const ABSENT: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
const REFUSED: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;

#[cfg(test)]
mod tests;
