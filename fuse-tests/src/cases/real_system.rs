//! A Debian root with real programs in the merged view, as root and as an ordinary user.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use super::images;
use crate::case::{User, skip};
use crate::ctx::{Ctx, Out};
use crate::debian;
use crate::tree::{cases, holds, same};

cases!("real_system":
    debian.onlay().by(&[User::Root, User::Ordinary]).slow(1500),
    packages_without_a_range.onlay().by(&[User::Norange]).slow(900),
);

/// No more than this may be new: the packages and what they unpack.
const BOUND: u64 = 1_500_000_000;
pub(super) const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

fn debian(cx: &mut Ctx) -> Result<()> {
    let root = unpack(cx, &base(cx)?)?;
    let before = manifest(cx, &root)?;
    holds!(before.len() > 3000, "only {} files in the base system", before.len());

    let (http, redis) = free_ports()?;
    let stdin = File::open(AUTHORITIES).or_else(|_| File::open("/dev/null"))?;
    let mut cmd = Command::new(cx.binary());
    cmd.args(["run", "--lower"]).arg(&root).arg("--upper").arg(&cx.upper.0).arg("--work").arg(&cx.work.0);
    cmd.args(["--network", "host", "--env", &format!("HTTP={http}"), "--env", &format!("REDIS={redis}")]);
    for name in ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"] {
        if std::env::var_os(name).is_some() {
            cmd.args(["--env", name]);
        }
    }
    cmd.args(["--", "bash", "-euc", include_str!("real_system.sh")]);
    let out = cmd.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).current_dir("/").spawn()?.wait_with_output()?;
    let (said, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let good = out.status.success() && said.ends_with("all is well\n");

    let after = manifest(cx, &root)?;
    let changed: Vec<_> = before.iter().filter(|(p, l)| after.get(*p) != Some(l)).map(|(p, _)| p).collect();
    holds!(changed.is_empty() && after.len() == before.len(), "the lower layer was changed: {changed:?}");
    holds!(good, "{}:\n{}\n{}", out.status, tail(&said, 30), tail(&errors, 30));
    only_the_difference(cx, &before)
}

/// With one id only: packages that give files to users of their own.
fn packages_without_a_range(cx: &mut Ctx) -> Result<()> {
    // It takes ids to make a base system: that of somebody who has them.
    let cache = Path::new("/var/cache/onlay-tests");
    let made = fs::read_dir(cache).into_iter().flatten().flatten().map(|entry| entry.path());
    let tar = made.filter(|p| p.extension().is_some_and(|e| e == "tar")).find(|p| File::open(p).is_ok());
    let tar = tar.ok_or_else(|| skip(format!("no base system of another user's in {}", cache.display())))?;
    images::says(cx, &["import", "-q", &tar.display().to_string(), "debian"])?;
    let script = "mkdir -p /etc/ssl/certs; cat > /etc/ssl/certs/ca-certificates.crt; export DEBIAN_FRONTEND=noninteractive; \
                  printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d; \
                  one='-qq -o APT::Sandbox::User=root'; apt-get $one update; \
                  apt-get $one install -y --no-install-recommends redis-server at > /tmp/log 2>&1 || { tail -30 /tmp/log; exit 1; }; \
                  dpkg --audit; touch /srv/x; chown redis:adm /srv/x; id -u redis; id -g redis";
    let mut args = vec!["run", "-i", "--name", "one", "--network", "host"];
    let proxies = ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];
    args.extend(proxies.into_iter().filter(|n| std::env::var_os(n).is_some()).flat_map(|n| ["--env", n]));
    args.extend(["debian", "bash", "-euc", script]);
    let store = cx.dir.p("store");
    let mut cmd = Command::new(cx.binary());
    cmd.arg("--root").arg(&store).args(&args).stdin(File::open(AUTHORITIES).or_else(|_| File::open("/dev/null"))?);
    let out = Out::of(&mut cmd)?.ok()?;
    let mut ids = out.stdout.lines().rev();
    let (gid, uid) = (ids.next().context("gid")?.to_owned(), ids.next().context("uid")?.to_owned());
    let tar = cx.dir.p("one.tar").display().to_string();
    images::says(cx, &["export", "-o", &tar, "one"])?;
    let list = Out::of(Command::new("tar").args(["--numeric-owner", "-tvf", &tar]))?.ok()?.stdout;
    for (name, owner) in
        [("var/lib/redis/", format!("{uid}/{gid}")), ("var/spool/cron/atjobs/", "1/1".to_owned()), ("srv/x", format!("{uid}/4"))]
    {
        let line = list.lines().find(|l| l.ends_with(name)).with_context(|| name.to_owned())?;
        holds!(line.split_whitespace().nth(1) == Some(&owner), "{line}: not {owner}");
    }
    Ok(())
}

/// Two ports that nobody listens on: others may run the same at the same time.
pub(super) fn free_ports() -> Result<(u16, u16)> {
    let (one, other) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
    Ok((one.local_addr()?.port(), other.local_addr()?.port()))
}

pub(super) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Nothing in the upper is what the lower has as well.
fn only_the_difference(cx: &Ctx, lower: &BTreeMap<String, String>) -> Result<()> {
    let upper = manifest(cx, &cx.upper.0)?;
    holds!(upper.contains_key("usr/local/bin/hello") && upper.contains_key("usr/bin/git"), "the upper lacks what is new");
    // Directories are there for what is in them.
    let same: Vec<_> = upper.iter().filter(|(p, l)| !l.starts_with('4') && lower.get(*p) == Some(l)).collect();
    holds!(same.is_empty(), "{} unchanged files in the upper: {:?}", same.len(), &same[..same.len().min(5)]);
    let du = in_range(cx, "du").args(["-sb"]).arg(&cx.upper.0).output()?;
    let text = String::from_utf8_lossy(&du.stdout);
    let bytes: u64 = text.split_whitespace().next().context("du says nothing")?.parse()?;
    holds!((50_000_000..BOUND).contains(&bytes), "{bytes} bytes in the upper");
    let diff = in_range(cx, &cx.binary().display().to_string()).arg("diff").arg(&cx.upper.0).output()?;
    let diff = String::from_utf8_lossy(&diff.stdout);
    holds!(diff.contains("A /usr/bin/git\n"), "onlay diff does not know of git");
    holds!(diff.contains("C /var/lib/dpkg/status\n") || diff.contains("A /var/lib/dpkg/status\n"));
    Ok(())
}

/// A command that may see all of the user's range.
fn in_range(cx: &Ctx, program: &str) -> Command {
    if cx.user == User::Root {
        return Command::new(program);
    }
    let mut cmd = Command::new("unshare");
    cmd.args(["--map-auto", "--map-root-user", "--setuid", "0", "--setgid", "0", "--", program]);
    cmd
}

/// The tree's manifest, made by this binary where all of it can be read.
fn manifest(cx: &Ctx, tree: &Path) -> Result<BTreeMap<String, String>> {
    let me = std::env::current_exe()?.display().to_string();
    let out = Out::of(in_range(cx, &me).arg("manifest").arg(tree))?.ok().context("manifest")?;
    let pairs = out.stdout.split('\0').filter_map(|l| l.split_once('\t'));
    Ok(pairs.map(|(p, l)| (p.to_owned(), l.to_owned())).collect())
}

/// A bare system as a tar file.
pub(super) fn base(cx: &Ctx) -> Result<PathBuf> {
    debian::base(nix::unistd::getuid().as_raw(), &cx.dir.0).map_err(skip)
}

/// The base system as a directory, with the right owners.
fn unpack(cx: &Ctx, tar: &Path) -> Result<PathBuf> {
    let root = cx.dir.p("root");
    fs::create_dir(&root)?;
    let mut cmd = in_range(cx, "tar");
    // Devices can't be made in a user namespace, and the view has its own.
    cmd.args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "--exclude=./dev/*", "-xpf"]);
    Out::of(cmd.arg(tar).arg("-C").arg(&root))?.ok().context("unpack")?;
    same!(root.join("etc/debian_version").exists(), true);
    Ok(root)
}
