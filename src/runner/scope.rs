//! A scope of the user's systemd: how a user limits what they run from a login, whose own group is root's. Asked for by
//! busctl(1), over the user's bus.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::{Pid, geteuid};

use super::cgroup::{CPUSET, Setting, Value};
use super::hierarchy::read;
use crate::vocab::why;

/// How long systemd may take to move a process.
const PATIENCE: Duration = Duration::from_secs(5);

/// A scope that is to be made.
#[derive(Debug)]
pub(super) struct Scope {
    name: String,
    /// Names and values of systemd.resource-control(5), each an unsigned number.
    properties: Vec<(&'static str, u64)>,
}

impl Scope {
    /// One with these limits, and what of them it can't do; `None`: there is no such systemd.
    pub(super) fn new(top: &Path, settings: &[Setting], name: &str) -> Option<(Self, Vec<(&'static str, String)>)> {
        let uid = geteuid();
        let run = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute())?;
        let bus = run.join("bus");
        let manager = top.join(format!("user.slice/user-{uid}.slice/user@{uid}.service"));
        if uid.is_root() || !bus.exists() || !manager.is_dir() {
            return None;
        }
        let controllers = read(&manager.join("cgroup.controllers"));
        // Of processors it wants to be told in another way, and they hold anyway.
        let has = |s: &&Setting| s.controller != CPUSET && controllers.split_whitespace().any(|c| c == s.controller);
        let properties = settings.iter().filter(has).map(property).collect();
        let refused = settings.iter().filter(|s| !has(s));
        let refused = refused.map(|s| {
            let hint =
                format!("systemd does not delegate {0} to users here: Delegate={0} in user@.service", s.controller);
            (s.flag, hint)
        });
        Some((Self { name: format!("{name}.scope"), properties }, refused.collect()))
    }

    /// Makes it around a process.
    pub(super) fn start(&self, pid: Pid) -> Result<(), String> {
        let mut command = Command::new("busctl");
        command.args(["--user", "--quiet", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1"]);
        command.args(["org.freedesktop.systemd1.Manager", "StartTransientUnit", "ssa(sv)a(sa(sv))"]);
        command.args([self.name.as_str(), "fail", &(self.properties.len() + 2).to_string()]);
        command.args(["PIDs", "au", "1", &pid.to_string(), "CollectMode", "s", "inactive-or-failed"]);
        for (name, value) in &self.properties {
            command.args([name, "t", &value.to_string()]);
        }
        let asked = command.arg("0").stdin(Stdio::null()).output().map_err(|e| format!("busctl: {}", why(&e)))?;
        if !asked.status.success() {
            return Err(format!("systemd: {}", String::from_utf8_lossy(&asked.stderr).trim()));
        }
        let until = Instant::now() + PATIENCE;
        let place = PathBuf::from(format!("/proc/{pid}/cgroup"));
        while !read(&place).contains(&self.name) {
            if Instant::now() > until {
                return Err(format!("systemd has not moved the container into {}", self.name));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

fn property(setting: &Setting) -> (&'static str, u64) {
    let name = match setting.file {
        "memory.max" => "MemoryMax",
        "memory.swap.max" => "MemorySwapMax",
        "cpu.max" => "CPUQuotaPerSecUSec",
        _ => "TasksMax",
    };
    let value = match setting.value {
        Value::Number(n) | Value::Share(n) => n,
        Value::Unlimited | Value::These(_) => u64::MAX,
    };
    (name, value)
}
