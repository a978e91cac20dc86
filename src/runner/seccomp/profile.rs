//! A list of the user's, in the form docker and podman read: a default action, and for names of calls another one, under
//! conditions on arguments and capabilities.

use rustix::thread::CapabilitySet;
use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompFilter};
use serde::{Deserialize, Serialize};

use super::{Error, Programs, Rules, architecture, condition, rule, syscalls};

/// The file, read. What is not named here is not looked at: other architectures and flags.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    default_action: Action,
    default_errno_ret: Option<u16>,
    #[serde(default)]
    syscalls: Vec<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Action {
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    #[serde(rename = "SCMP_ACT_KILL", alias = "SCMP_ACT_KILL_THREAD")]
    Kill,
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    names: Vec<String>,
    name: Option<String>,
    action: Action,
    errno_ret: Option<u16>,
    args: Option<Vec<Argument>>,
    includes: Option<Scope>,
    excludes: Option<Scope>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: Op,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Op {
    #[serde(rename = "SCMP_CMP_NE")]
    Ne,
    #[serde(rename = "SCMP_CMP_LT")]
    Lt,
    #[serde(rename = "SCMP_CMP_LE")]
    Le,
    #[serde(rename = "SCMP_CMP_EQ")]
    Eq,
    #[serde(rename = "SCMP_CMP_GE")]
    Ge,
    #[serde(rename = "SCMP_CMP_GT")]
    Gt,
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEq,
}

/// Where an entry holds. Kernels are taken to be new.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Scope {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
}

impl Scope {
    fn holds(&self, capabilities: CapabilitySet) -> bool {
        let has = |name: &String| {
            CapabilitySet::from_name(name.trim_start_matches("CAP_")).is_some_and(|c| capabilities.contains(c))
        };
        let here = match std::env::consts::ARCH {
            "x86_64" => ["amd64", "x86_64"],
            "aarch64" => ["arm64", "aarch64"],
            other => [other, other],
        };
        let caps = self.caps.as_ref().is_none_or(|caps| caps.iter().all(has));
        caps && self.arches.as_ref().is_none_or(|a| a.is_empty() || a.iter().any(|a| here.contains(&a.as_str())))
    }

    fn is_empty(&self) -> bool {
        self.caps.as_ref().is_none_or(Vec::is_empty) && self.arches.as_ref().is_none_or(Vec::is_empty)
    }
}

impl Profile {
    /// Reads a file's text.
    ///
    /// # Errors
    /// What serde says: where, and what was expected.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// One program tells what may pass at all; each other action gets one of its own, installed later, so that the error
    /// it names is the one that counts.
    pub(super) fn programs(&self, capabilities: CapabilitySet) -> Result<Programs, Error> {
        let architecture = architecture()?;
        let default = action(self.default_action, self.default_errno_ret);
        let mut groups: Vec<(SeccompAction, Rules)> = Vec::new();
        let mut passing = Rules::new();
        for entry in self.syscalls.iter().filter(|e| e.applies(capabilities)) {
            let does = action(entry.action, entry.errno_ret);
            let group = match groups.iter_mut().find(|(a, _)| *a == does) {
                Some((_, rules)) => rules,
                None => {
                    groups.push((does.clone(), Rules::new()));
                    let Some((_, rules)) = groups.last_mut() else { continue };
                    rules
                }
            };
            for number in entry.names.iter().chain(&entry.name).filter_map(|name| syscalls::number(name)) {
                let conditions = entry.args.iter().flatten().map(Argument::condition).collect::<Result<Vec<_>, _>>()?;
                add(group, number, conditions.clone())?;
                // What is refused in a way of its own must not be refused in the default's way first.
                let conditions = if does == SeccompAction::Allow { conditions } else { Vec::new() };
                add(&mut passing, number, conditions)?;
            }
        }
        let mut programs: Vec<BpfProgram> = Vec::new();
        if default != SeccompAction::Allow {
            programs
                .push(SeccompFilter::new(passing, default.clone(), SeccompAction::Allow, architecture)?.try_into()?);
        }
        for (does, rules) in groups {
            if does != SeccompAction::Allow && does != default {
                programs.push(SeccompFilter::new(rules, SeccompAction::Allow, does, architecture)?.try_into()?);
            }
        }
        Ok(programs)
    }
}

/// No condition at all holds always, whatever else is asked of the same call.
fn add(rules: &mut Rules, number: i64, conditions: Vec<seccompiler::SeccompCondition>) -> Result<(), Error> {
    match (rules.get_mut(&number), conditions.is_empty()) {
        (_, true) => drop(rules.insert(number, Vec::new())),
        (Some(chain), false) if chain.is_empty() => {}
        (Some(chain), false) => chain.push(rule(conditions)?),
        (None, false) => drop(rules.insert(number, vec![rule(conditions)?])),
    }
    Ok(())
}

fn action(action: Action, errno: Option<u16>) -> SeccompAction {
    match action {
        Action::Allow => SeccompAction::Allow,
        Action::Errno => SeccompAction::Errno(errno.map_or(libc::EPERM as u32, u32::from)),
        Action::Kill => SeccompAction::KillThread,
        Action::KillProcess => SeccompAction::KillProcess,
        Action::Log => SeccompAction::Log,
        Action::Trap => SeccompAction::Trap,
    }
}

impl Entry {
    fn applies(&self, capabilities: CapabilitySet) -> bool {
        let included = self.includes.as_ref().is_none_or(|s| s.holds(capabilities));
        included && !self.excludes.as_ref().is_some_and(|s| !s.is_empty() && s.holds(capabilities))
    }
}

impl Argument {
    fn condition(&self) -> Result<seccompiler::SeccompCondition, Error> {
        let (op, value) = match self.op {
            Op::Ne => (SeccompCmpOp::Ne, self.value),
            Op::Lt => (SeccompCmpOp::Lt, self.value),
            Op::Le => (SeccompCmpOp::Le, self.value),
            Op::Eq => (SeccompCmpOp::Eq, self.value),
            Op::Ge => (SeccompCmpOp::Ge, self.value),
            Op::Gt => (SeccompCmpOp::Gt, self.value),
            Op::MaskedEq => (SeccompCmpOp::MaskedEq(self.value), self.value_two),
        };
        condition(self.index, SeccompCmpArgLen::Qword, op, value)
    }
}
