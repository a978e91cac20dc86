//! Mounts are made in a mount namespace of our own, with `--rootless` also in an ordinary user's user namespace: this
//! program starts itself again there.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::args::Args;

/// Set once we are there, to who we were.
const INSIDE: &str = "ONLAY_BENCH_INSIDE";
/// Who goes on as an ordinary user, as whom one starts containers.
const TO_LEAVE: &str = "root, for now";

/// An account with subordinate ids.
struct Account {
    name: String,
    uid: String,
    gid: String,
    home: String,
}

/// Comes back only in the namespace; with a word on who we are.
pub(crate) fn enter(args: &Args) -> Result<String> {
    let root = rustix::process::geteuid().is_root();
    if let Some(who) = std::env::var_os(INSIDE) {
        let who = who.to_string_lossy().into_owned();
        if args.start && root && crate::start::show_cgroup2()? {
            eprintln!("cgroup version 2 is shown alone, for crun");
        }
        return if who == TO_LEAVE { leave_root() } else { Ok(who) };
    }
    if !root && (!args.rootless || args.start) {
        return Ok("an ordinary user".to_owned());
    }
    let mut words: Vec<OsString> = Vec::new();
    let mut env: Vec<(&str, String)> = Vec::new();
    let who = match (args.rootless, args.start) {
        (true, true) => TO_LEAVE,
        (true, false) => "an ordinary user in a user namespace",
        (false, _) => "root",
    };
    if args.rootless && root && !args.start {
        let account = ordinary()?;
        for path in [&args.json, &args.svg].into_iter().flatten() {
            hand_over(path, &account)?;
        }
        account.become_it(&mut words, &mut env);
    }
    words.extend(["unshare", "--mount", "--propagation", "private"].map(Into::into));
    if args.rootless && !args.start {
        words.extend(["--user", "--map-root-user", "--map-auto"].map(Into::into));
    }
    start_again(words, env, who)
}

/// From root in a mount namespace to an ordinary user there.
fn leave_root() -> Result<String> {
    let (mut words, mut env) = (Vec::new(), Vec::new());
    ordinary()?.become_it(&mut words, &mut env);
    start_again(words, env, "an ordinary user")
}

fn start_again(mut words: Vec<OsString>, env: Vec<(&str, String)>, who: &str) -> Result<String> {
    words.push("--".into());
    words.push(std::env::current_exe()?.into());
    words.extend(std::env::args_os().skip(1));
    let e = Command::new(&words[0]).args(&words[1..]).envs(env).env(INSIDE, who).exec();
    Err(e).with_context(|| format!("{}: from the package util-linux", words[0].display()))
}

impl Account {
    fn become_it(self, words: &mut Vec<OsString>, env: &mut Vec<(&str, String)>) {
        words.extend(["setpriv", "--reuid", &self.uid, "--regid", &self.gid, "--init-groups"].map(Into::into));
        env.extend([("HOME", self.home), ("USER", self.name)]);
    }
}

/// Who called sudo, or the first one with subordinate ids.
fn ordinary() -> Result<Account> {
    let ranges = fs::read_to_string("/etc/subuid").context("/etc/subuid")?;
    let users = fs::read_to_string("/etc/passwd").context("/etc/passwd")?;
    let sudo = std::env::var("SUDO_USER").ok();
    let names = ranges.lines().filter_map(|l| l.split(':').next());
    for name in sudo.as_deref().into_iter().chain(names) {
        let found = users.lines().map(|l| l.split(':').collect::<Vec<_>>()).find(|f| f.len() > 5 && f[0] == name);
        if let Some(f) = found.filter(|f| f[2] != "0") {
            let [name, uid, gid, home] = [f[0], f[2], f[3], f[5]].map(str::to_owned);
            return Ok(Account { name, uid, gid, home });
        }
    }
    bail!("no ordinary user with a range in /etc/subuid: make one with `useradd --add-subids-for-system NAME`")
}

/// Makes an output file that the account can write.
fn hand_over(path: &Path, account: &Account) -> Result<()> {
    let file = File::options().create(true).append(true).open(path).with_context(|| path.display().to_string())?;
    std::os::unix::fs::fchown(&file, Some(account.uid.parse()?), Some(account.gid.parse()?))?;
    Ok(())
}
