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

use std::collections::BTreeMap;

use rustix::thread::CapabilitySet;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};
use serde::{Deserialize, Serialize};

pub use profile::Profile;

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

/// Hands over what the kernel would refuse because an id is not there: calls that name one beside 0, where nothing else is.
/// All else passes, and the kernel knows it by the numbers alone (and keeps that in a table).
pub(super) fn chown_program() -> Result<BpfProgram, Error> {
    let here: u32 = match architecture()? {
        TargetArch::x86_64 => 0xc000_003e,
        TargetArch::aarch64 => 0xc000_00b7,
        TargetArch::riscv64 => 0xc000_00f3,
    };
    // The number of the call, and which argument is the user; the group is the next one.
    let mut calls = vec![(libc::SYS_fchown, 1), (libc::SYS_fchownat, 2)];
    #[cfg(target_arch = "x86_64")]
    calls.extend([(libc::SYS_chown, 1), (libc::SYS_lchown, 1)]);
    let (pass, ask) = (libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_USER_NOTIF);
    let equal = |k: u32, jt: u8, jf: u8| sock_filter { code: JUMP_EQUAL, jt, jf, k };
    // struct seccomp_data: number, architecture, instruction pointer, arguments.
    let mut program = vec![statement(LOAD, 4), equal(here, 1, 0), statement(RETURN, pass)];
    for (number, user) in calls {
        // The lower halves, which are all that the kernel looks at.
        let [uid, gid] = [user, user + 1].map(|argument| statement(LOAD, 16 + 8 * argument + UPPER_FIRST));
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
    let architecture = architecture()?;
    let allowed = SeccompFilter::new(
        default_rules(capabilities)?,
        SeccompAction::Errno(libc::EPERM as u32),
        SeccompAction::Allow,
        architecture,
    )?;
    let mut absent = BpfProgram::new();
    absent.extend(unknown_is_absent(syscalls::newest()));
    if !capabilities.contains(CapabilitySet::SYS_ADMIN) {
        absent.extend(is_absent(libc::SYS_clone3));
    }
    absent.push(statement(RETURN, libc::SECCOMP_RET_ALLOW));
    Ok(vec![allowed.try_into()?, absent])
}

fn default_rules(capabilities: CapabilitySet) -> Result<Rules, Error> {
    let with = syscalls::WITH.iter().filter(|(needs, _)| capabilities.contains(*needs)).map(|(_, calls)| *calls);
    let mut rules: Rules = [syscalls::ALWAYS, syscalls::ALWAYS_HERE]
        .into_iter()
        .chain(with)
        .flatten()
        .map(|(_, number)| (*number, Vec::new()))
        .collect();
    if let std::collections::btree_map::Entry::Vacant(clone) = rules.entry(libc::SYS_clone) {
        let none = SeccompCmpOp::MaskedEq(NAMESPACES);
        clone.insert(vec![rule([condition(0, SeccompCmpArgLen::Qword, none, 0)?])?]);
    }
    let not = |request: u64| condition(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, request);
    rules.insert(libc::SYS_ioctl, vec![rule([not(libc::TIOCSTI)?, not(TIOCLINUX)?])?]);
    let harmless = PERSONALITIES.map(|p| rule([condition(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, p)?]));
    rules.insert(libc::SYS_personality, harmless.into_iter().collect::<Result<_, _>>()?);
    let family = condition(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, libc::AF_VSOCK as u64)?;
    rules.insert(libc::SYS_socket, vec![rule([family])?]);
    Ok(rules)
}

/// The `CLONE_NEW..` flags, and those alone.
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;
/// `PER_LINUX`, `PER_LINUX32`, both with `UNAME26`, and the question which one holds.
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// ioctl_console(2).
const TIOCLINUX: u64 = 0x541c;

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
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const RETURN: u16 = 0x06;

fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

const ABSENT: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// A number above `newest` is `ENOSYS`; those of the x32 ABI have bit 30 set.
fn unknown_is_absent(newest: i64) -> [sock_filter; 3] {
    [
        statement(LOAD, 0),
        sock_filter { code: JUMP_GREATER, jt: 0, jf: 1, k: u32::try_from(newest).unwrap_or(u32::MAX) },
        statement(RETURN, ABSENT),
    ]
}

/// One call is `ENOSYS`. The number is loaded.
fn is_absent(number: i64) -> [sock_filter; 2] {
    [
        sock_filter { code: JUMP_EQUAL, jt: 0, jf: 1, k: u32::try_from(number).unwrap_or(u32::MAX) },
        statement(RETURN, ABSENT),
    ]
}

#[cfg(test)]
mod tests;
