//! Called as `fuse-overlayfs`: the calls of container tools as they were captured, without the tools.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::case::{User, skip};
use crate::ctx::{Ctx, Out, daemons, mounts_below};
use crate::tree::{Tree, cases, fails, holds, same};

cases!("dropin":
    containerd.onlay().privileged(), mount_type.onlay().by(&[User::Root]), apptainer.onlay(), enroot.onlay(),
    docker_init_layer.onlay(), cycles.onlay().slow(300), accepted.onlay(), timeout.onlay(), xino.onlay(), fewer_attributes.onlay(), version.onlay(),
    id_maps.onlay().privileged(), ids_in_acls.onlay().privileged(), squash.onlay().privileged(), stored_owners.onlay().privileged(),
    stored_owners_below.onlay().privileged(), volatile.onlay(), bad_values.onlay(),
);

/// A link of that name to the binary.
fn link(cx: &Ctx) -> Result<PathBuf> {
    let path = cx.dir.p("bin/fuse-overlayfs");
    if !path.exists() {
        cx.dir.dir("bin")?;
        std::os::unix::fs::symlink(cx.binary(), &path)?;
    }
    Ok(path)
}

/// `lowerdir=..,upperdir=..,workdir=..` of the case, with more.
fn options(cx: &Ctx, lowers: &[&str], more: &str) -> String {
    let lowers = lowers.iter().map(|l| cx.dir.p(l).display().to_string()).collect::<Vec<_>>().join(":");
    format!("lowerdir={lowers},upperdir={},workdir={}{more}", cx.upper.0.display(), cx.work.0.display())
}

fn call(cx: &Ctx, options: &str, at: &Path) -> Result<Out> {
    Out::of(Command::new(link(cx)?).args(["-o", options]).arg(at).current_dir("/"))
}

fn mount(cx: &Ctx, more: &str) -> Result<Tree> {
    call(cx, &options(cx, &["l"], more), &cx.m.0)?.ok()?;
    Ok(cx.m.clone())
}

/// As engines do it: at once, and without waiting for the daemon.
fn umount(cx: &Ctx, at: &Path) -> Result<()> {
    // Until the daemon's thread runs again after it put its mount there, its descriptor keeps the mount busy; where the
    // helper mounts, until it has looked at the root.
    until("unmount", Duration::from_secs(2), || {
        if cx.user == User::Ordinary {
            let out = Out::of(Command::new("fusermount3").arg("-u").arg(at))?;
            return if out.stderr.contains("busy") { Ok(false) } else { out.ok().map(|_| true) };
        }
        match umount2(at, MntFlags::empty()) {
            Err(nix::Error::EBUSY) => Ok(false),
            done => done.map(|()| true).with_context(|| format!("umount {}", at.display())),
        }
    })
    .map(drop)
}

fn until(what: &str, limit: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let start = Instant::now();
    while !done()? {
        ensure!(start.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(start.elapsed())
}

/// mount.fuse3 with a source that means nothing, an option each, and a type that is a program of PATH.
fn by_helper(cx: &Ctx, program: &str, args: &[&str]) -> Result<Out> {
    let bin = link(cx)?.parent().context("no directory")?.to_path_buf();
    if !bin.join("onlay").exists() {
        std::os::unix::fs::symlink(cx.binary(), bin.join("onlay"))?;
    }
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display());
    Out::of(Command::new(program).args(args).env("PATH", path).current_dir("/"))
}

fn containerd(cx: &mut Ctx) -> Result<()> {
    if !Path::new("/sbin/mount.fuse3").exists() {
        return Err(skip("there is no mount.fuse3"));
    }
    cx.dir.file("a/f", "top")?.file("b/f", "bottom")?.file("b/g", "g")?;
    let at = cx.m.0.display().to_string();
    let (w, u) = (format!("workdir={}", cx.work.0.display()), format!("upperdir={}", cx.upper.0.display()));
    let l = format!("lowerdir={}:{}", cx.dir.p("a").display(), cx.dir.p("b").display());
    let args = ["overlay", &at, "-o", &w, "-o", &u, "-o", &l, "-o", "writeback=0", "-o", "dev,suid", "-t", "fuse-overlayfs"];
    by_helper(cx, "/sbin/mount.fuse3", &args)?.ok()?;
    same!((cx.m.read("f")?, cx.m.read("g")?), ("top".to_owned(), "g".to_owned()));
    cx.m.file("new", "n")?.rm("g")?;
    umount(cx, &cx.m.0)?;
    cx.wait_for_daemons()?;
    // A snapshot with one layer and no upper is a bind mount there; with two, a view.
    let args = ["overlay", &at, "-o", &l, "-t", "fuse-overlayfs"];
    by_helper(cx, "/sbin/mount.fuse3", &args)?.ok()?;
    same!(cx.m.ls("")?, "f g");
    umount(cx, &cx.m.0)?;
    same!(cx.upper.ls("")?, "g new");
    Ok(())
}

fn mount_type(cx: &mut Ctx) -> Result<()> {
    cx.dir.file("l/f", "x")?;
    let at = cx.m.0.display().to_string();
    let bin = link(cx)?.parent().context("no directory")?.display().to_string();
    for name in ["onlay", "fuse-overlayfs"] {
        // `fuse.NAME` is looked for in the system's directories only; this names the same program by its path.
        let source = format!("{bin}/{name}#none");
        let out = by_helper(cx, "/bin/mount", &["-t", "fuse", &source, &at, "-o", &options(cx, &["l"], "")])?;
        if out.code == 32 && out.stderr.contains("unknown filesystem type") {
            return Err(skip("there is no mount.fuse"));
        }
        out.ok()?;
        same!(cx.m.read("f")?, "x");
        umount(cx, &cx.m.0)?;
    }
    Ok(())
}

/// In the foreground; polled for two seconds; must be gone half a second after the unmount, and say nothing.
fn apptainer(cx: &mut Ctx) -> Result<()> {
    cx.dir.file("l/f", "x")?;
    for round in 0..5 {
        let mut cmd = Command::new(link(cx)?);
        cmd.args(["-f", "-o", &options(cx, &["l"], "")]).arg(&cx.m.0).current_dir("/");
        let child = cmd.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let at = cx.m.0.clone();
        until("the mount", Duration::from_secs(2), || Ok(!mounts_below(&at)?.is_empty()))?;
        same!(cx.m.read("f")?, "x");
        cx.m.file(&format!("n{round}"), "")?;
        umount(cx, &cx.m.0)?;
        let start = Instant::now();
        let out = child.wait_with_output()?;
        let took = start.elapsed();
        holds!(took < Duration::from_millis(500), "{took:?} until it was gone");
        holds!(out.status.success() && out.stderr.is_empty(), "{}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    }
    same!(cx.upper.ls("")?, "n0 n1 n2 n3 n4");
    Ok(())
}

/// In the foreground, over the directory that holds its own layers.
fn enroot(cx: &mut Ctx) -> Result<()> {
    cx.dir.file("e/lower/f", "x")?.dir("e/upper")?.dir("e/work")?;
    let e = cx.dir.p("e").display().to_string();
    let mut cmd = Command::new(link(cx)?);
    cmd.args(["-f", "-o", &format!("lowerdir={e}/lower,upperdir={e}/upper,workdir={e}/work"), &e]).current_dir("/");
    cmd.env("FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT", "y").stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = cmd.stderr(Stdio::null()).spawn()?;
    let at = cx.dir.p("e");
    until("the mount", Duration::from_secs(5), || Ok(!mounts_below(&at)?.is_empty()))?;
    same!(cx.dir.ls("e")?, "f");
    cx.dir.file("e/new", "n")?.rm("e/f")?;
    same!(cx.dir.ls("e")?, "new");
    umount(cx, &at)?;
    holds!(child.wait()?.success());
    same!((cx.dir.ls("e")?, cx.dir.read("e/lower/f")?), ("lower upper work".to_owned(), "x".to_owned()));
    same!(cx.dir.ls("e/upper")?, ".wh..wh.aufs .wh.f new");
    Ok(())
}

/// docker mounts a container's first layer, unmounts it, and makes it a lower one at the same place at once.
fn docker_init_layer(cx: &mut Ctx) -> Result<()> {
    cx.dir.file("l/f", "x")?.dir("init/diff")?.dir("init/work")?.dir("init/merged")?;
    let p = |name: &str| cx.dir.p(name).display().to_string();
    let first = format!("lowerdir={},upperdir={},workdir={}", p("l"), p("init/diff"), p("init/work"));
    call(cx, &first, &cx.dir.p("init/merged"))?.ok()?;
    cx.dir.file("init/merged/etc/hosts", "")?.rm("init/merged/f")?;
    umount(cx, &cx.dir.p("init/merged"))?;
    call(cx, &options(cx, &["init/diff", "l"], ""), &cx.m.0)?.ok()?;
    same!(cx.m.ls("")?, "etc");
    umount(cx, &cx.m.0)?;
    // And the first one again: it is not left locked.
    call(cx, &first, &cx.dir.p("init/merged"))?.ok()?;
    umount(cx, &cx.dir.p("init/merged"))
}

fn rss(pid: i32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).context("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).context("no number")?.parse()?)
}

/// Mount, use, unmount, mount: on one path, as fast as it goes.
fn cycles(cx: &mut Ctx) -> Result<()> {
    cx.dir.file("l/f", "x")?;
    let mut memory = Vec::new();
    for i in 0..200 {
        let m = mount(cx, ",volatile")?;
        same!(m.read("f")?, "x");
        if i > 0 {
            same!(m.read(&format!("n{}", i - 1))?, (i - 1).to_string());
        }
        m.file(&format!("n{i}"), i.to_string())?;
        same!(mounts_below(&cx.dir.0)?.len(), 1);
        let serving = daemons(&cx.dir.0)?;
        if serving.len() == 1 && !(20..180).contains(&i) {
            memory.push(rss(serving[0].0)?);
        }
        umount(cx, &cx.m.0)?;
        same!(cx.m.ls("")?, "");
    }
    cx.wait_for_daemons()?;
    same!(fs::read_dir(&cx.upper.0)?.count(), 200);
    let (first, last) = memory.split_at(memory.len() / 2);
    let mean = |of: &[u64]| of.iter().sum::<u64>() / u64::try_from(of.len().max(1)).unwrap_or(1);
    holds!(!first.is_empty() && mean(last) < mean(first) + 2048, "RSS in KiB: {memory:?}");
    // Nobody waits for the daemons but the process that adopts orphans.
    let zombies = zombies_of(std::process::id())?;
    holds!(zombies.is_empty(), "zombies: {zombies:?}");
    Ok(())
}

fn zombies_of(parent: u32) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        // A process may go while we look.
        let Ok(status) = fs::read_to_string(entry?.path().join("status")) else { continue };
        if status.contains("\nState:\tZ") && status.contains(&format!("\nPPid:\t{parent}\n")) {
            found.push(status.lines().next().unwrap_or_default().to_owned());
        }
    }
    Ok(found)
}

/// `timeout`: what is changed behind the mount's back shows when the time is over.
fn timeout(cx: &mut Ctx) -> Result<()> {
    cx.dir.file("l/f", "x")?.dir("l/d")?;
    let m = mount(cx, ",timeout=0.2")?;
    holds!(!m.has("late")? && !m.has("d/late")?);
    cx.dir.file("l/late", "l")?;
    until("a name made below", Duration::from_secs(20), || m.has("late"))?;
    same!(m.read("late")?, "l");
    umount(cx, &cx.m.0)
}

/// `xino`: whatever it says, one device and one number for everything, and the same one after another mount.
fn xino(cx: &mut Ctx) -> Result<()> {
    cx.dir.file("l/f", "x")?.file("l/d/g", "")?.file("k/h", "")?;
    let mut before = None;
    for value in ["on", "off", "auto"] {
        call(cx, &options(cx, &["l", "k"], &format!(",xino={value}")), &cx.m.0)?.ok()?;
        let m = &cx.m;
        let mut all = Vec::new();
        for name in ["", "f", "d", "d/g", "h"] {
            let st = m.stat(name)?;
            holds!(st.dev() == m.stat("")?.dev(), "{name} is on another device");
            all.push(st.ino());
        }
        let seen = before.get_or_insert_with(|| all.clone());
        same!((value, &all), (value, &*seen));
        umount(cx, &cx.m.0)?;
        cx.wait_for_daemons()?;
    }
    Ok(())
}

/// Options that change nothing here or ask for how it always is.
fn accepted(cx: &mut Ctx) -> Result<()> {
    cx.dir.file("l/f", "x")?;
    let more = ",,context=\"system_u:object_r:container_file_t:s0:c1,c2\",static_nlink,noacl,timeout=1.5,xino=auto,fsync=0,\
                threaded=1,redirect_dir=on,metacopy=on,private,fast_ino=0,max_write=131072,noxattrs,nodev,exec,frobnicate=7,";
    let out = call(cx, &options(cx, &["l"], more), &cx.m.0)?.ok()?;
    holds!(out.stderr.contains("frobnicate"), "an unknown option is told about: {}", out.stderr);
    holds!(out.stderr.lines().count() <= 3, "{}", out.stderr);
    same!(cx.m.read("f")?, "x");
    umount(cx, &cx.m.0)
}

fn fewer_attributes(cx: &mut Ctx) -> Result<()> {
    cx.dir.file("l/f", "x")?.setx("l/f", "user.a", "b")?.dir("l/d/e")?;
    let m = mount(cx, ",noacl,static_nlink")?;
    same!(m.getx("f", "user.a")?, Some(b"b".to_vec()));
    let acl = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x04\0\x04\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff";
    let set = |attr: &str, value: &[u8]| rustix::fs::lsetxattr(m.p("f"), attr, value, rustix::fs::XattrFlags::empty());
    fails!(set("system.posix_acl_access", acl), EOPNOTSUPP);
    same!((m.stat("d")?.nlink(), m.stat("")?.nlink(), m.stat("f")?.nlink()), (1, 1, 1));
    m.dir("n/o")?;
    same!(m.stat("n")?.nlink(), 1);
    umount(cx, &cx.m.0)?;
    cx.wait_for_daemons()?;
    let m = mount(cx, ",noxattrs")?;
    same!(m.listx("f")?, Vec::<String>::new());
    fails!(rustix::fs::lsetxattr(m.p("f"), "user.b", b"c", rustix::fs::XattrFlags::empty()), EOPNOTSUPP);
    same!(m.read("f")?, "x");
    umount(cx, &cx.m.0)
}

fn version(cx: &mut Ctx) -> Result<()> {
    for flag in ["--version", "-V"] {
        let out = Out::of(Command::new(link(cx)?).arg(flag))?.ok()?;
        holds!(out.stdout.contains("fuse-overlayfs") && out.stdout.lines().count() == 1, "{}", out.stdout);
    }
    holds!(Out::of(Command::new(link(cx)?).arg("-h"))?.ok()?.stdout.contains("lowerdir"));
    Ok(())
}

fn owner(t: &Tree, name: &str) -> Result<(u32, u32)> {
    let st = t.stat(name)?;
    Ok((st.uid(), st.gid()))
}

fn id_maps(cx: &mut Ctx) -> Result<()> {
    let l = cx.dir.clone();
    for (name, id) in [("l/root", 0), ("l/one", 1), ("l/far", 5000), ("l/sgid/x", 0), ("l/fardir/x", 5000)] {
        l.file(name, "x")?.owner(name, id, id)?;
    }
    l.owner("l/sgid", 0, 7)?.mode("l/sgid", 0o2777)?.owner("l/fardir", 5000, 5000)?.mode("l/far", 0o644)?;
    cx.upper.mode("", 0o777)?;
    let map = ",uidmapping=:0:1000:2000,gidmapping=:0:3000:2000:2000:10:5";
    let m = mount(cx, map)?;
    same!((owner(&m, "root")?, owner(&m, "one")?), ((1000, 3000), (1001, 3001)));
    // Not in the map: nobody's.
    same!((owner(&m, "far")?, owner(&m, "fardir")?), ((65534, 65534), (65534, 65534)));

    // chown takes ids of the view.
    m.owner("one", 1005, 11)?;
    same!((owner(&m, "one")?, owner(&cx.upper, "one")?), ((1005, 11), (5, 2001)));
    fails!(std::os::unix::fs::lchown(m.p("root"), Some(77), None), EINVAL);
    fails!(std::os::unix::fs::lchown(m.p("root"), None, Some(77)), EINVAL);
    same!(owner(&m, "root")?, (1000, 3000));
    // What is not in the map keeps its owner when it is copied up.
    m.mode("far", 0o600)?.file("fardir/new", "")?;
    same!((owner(&cx.upper, "far")?, owner(&cx.upper, "fardir")?), ((5000, 5000), (5000, 5000)));
    same!((owner(&m, "far")?, m.bits("far")?), ((65534, 65534), 0o600));

    // What somebody makes is theirs; what a stranger makes is nobody's.
    let at = m.clone();
    crate::sys::as_ids(1003, 3004, &[], || at.file("made", "")?.dir("made-dir")?.symlink("t", "made-link").map(drop))?;
    for name in ["made", "made-dir", "made-link"] {
        same!((owner(&m, name)?, owner(&cx.upper, name)?), ((1003, 3004), (3, 4)));
    }
    crate::sys::as_ids(1003, 3004, &[], || at.file("sgid/made", "").map(drop))?;
    same!((owner(&m, "sgid/made")?, owner(&cx.upper, "sgid/made")?), ((1003, 3007), (3, 7)));
    m.file("stranger", "")?;
    same!((owner(&m, "stranger")?, owner(&cx.upper, "stranger")?), ((65534, 65534), (65534, 65534)));
    // Whose it is decides who may.
    m.owner("made", 1001, 3001)?.mode("made", 0o600)?;
    crate::sys::as_ids(1001, 3001, &[], || at.append("made", "x").map(drop))?;
    crate::sys::as_ids(1003, 3004, &[], || {
        ensure!(at.read("made").is_err(), "read by a stranger");
        Ok(())
    })?;

    umount(cx, &cx.m.0)?;
    let m = mount(cx, map)?;
    same!((owner(&m, "one")?, owner(&m, "made")?, owner(&m, "far")?), ((1005, 11), (1001, 3001), (65534, 65534)));
    umount(cx, &cx.m.0)
}

/// An ACL for one user and one group (linux/posix_acl_xattr.h).
fn acl(user: u32, group: u32) -> Vec<u8> {
    let none = u32::MAX;
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in [(1u16, 6u16, none), (2, 6, user), (4, 4, none), (8, 4, group), (16, 6, none), (32, 0, none)] {
        bytes.extend([tag.to_le_bytes(), perm.to_le_bytes()].concat());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn ids_in_acls(cx: &mut Ctx) -> Result<()> {
    const ACL: &str = "system.posix_acl_access";
    const DEFAULT: &str = "system.posix_acl_default";
    cx.dir.file("l/f", "x")?.mode("l/f", 0o600)?.setx("l/f", ACL, acl(5, 6))?;
    cx.dir.dir("l/d")?.mode("l/d", 0o777)?.setx("l/d", DEFAULT, acl(5, 6))?;
    cx.upper.mode("", 0o777)?;
    let map = ",uidmapping=0:1000:2000,gidmapping=0:3000:2000";
    let m = mount(cx, map)?;
    same!((m.getx("f", ACL)?, m.getx("d", DEFAULT)?), (Some(acl(1005, 3006)), Some(acl(1005, 3006))));
    // It is for that user of the view, and for nobody else.
    let at = m.clone();
    let read = |uid: u32| crate::sys::as_ids(uid, 3999, &[], || at.read("f").map(drop));
    read(1005)?;
    holds!(read(5).is_err());
    // Copied up, changed, inherited.
    m.append("f", "+")?;
    same!((m.getx("f", ACL)?, cx.upper.getx("f", ACL)?), (Some(acl(1005, 3006)), Some(acl(5, 6))));
    m.setx("f", ACL, acl(1007, 3008))?.file("d/new", "")?;
    same!((cx.upper.getx("f", ACL)?, m.getx("d/new", ACL)?), (Some(acl(7, 8)), Some(acl(1005, 3006))));
    same!(cx.upper.getx("d/new", ACL)?, Some(acl(5, 6)));
    let set = |value: &[u8]| rustix::fs::lsetxattr(m.p("f"), ACL, value, rustix::fs::XattrFlags::empty());
    fails!(set(&acl(77, 3008)), EINVAL);
    umount(cx, &cx.m.0)
}

fn squash(cx: &mut Ctx) -> Result<()> {
    cx.dir.file("l/f", "x")?.owner("l/f", 5, 6)?.file("l/g", "y")?.dir("l/d")?.owner("l/d", 7, 8)?;
    for (more, want) in [
        (",squash_to_root", (0, 0)),
        (",squash_to_uid=33,squash_to_root", (33, 0)),
        (",squash_to_uid=33,squash_to_gid=44", (33, 44)),
    ] {
        let m = mount(cx, more)?;
        for name in ["", "f", "g", "d"] {
            same!(owner(&m, name)?, want);
        }
        m.append("f", "+")?.owner("f", 12, 13)?.file("d/new", "")?;
        same!((owner(&m, "f")?, owner(&m, "d/new")?), (want, want));
        umount(cx, &cx.m.0)?;
        cx.wait_for_daemons()?;
    }
    // Whose it is below was not forgotten.
    same!(owner(&cx.upper, "d")?, (7, 8));
    Ok(())
}

/// `xattr_permissions`: owners and modes in an attribute, the files the daemon's own.
fn stored_owners(cx: &mut Ctx) -> Result<()> {
    cx.dir.file("l/f", "x")?.mode("l/f", 0o640)?;
    let kinds: &[(&str, &str)] = &[("2", "user.containers.override_stat"), ("1", "security.fuseoverlayfs.override_stat")];
    // The second needs CAP_SYS_ADMIN where the file system was mounted.
    let kinds = if cx.user == User::Root { kinds } else { &kinds[..1] };
    for (value, attr) in kinds {
        let more = format!(",xattr_permissions={value}");
        let m = mount(cx, &more)?;
        let (f, d) = (format!("f{value}"), format!("d{value}"));
        m.file(&f, "x")?.owner(&f, 12, 13)?.mode(&f, 0o4751)?.dir(&d)?.owner(&d, 14, 15)?.mode(&d, 0o700)?;
        m.owner("f", 3, 4)?;
        umount(cx, &cx.m.0)?;
        cx.wait_for_daemons()?;
        same!((owner(&cx.upper, &f)?, owner(&cx.upper, &d)?), ((0, 0), (0, 0)));
        holds!(cx.upper.bits(&f)? & 0o7000 == 0);
        let text = cx.upper.getx(&f, attr)?.map(|v| String::from_utf8_lossy(&v).into_owned());
        same!(text.as_deref(), Some("12:13:04751:file"));
        let m = mount(cx, &more)?;
        same!((owner(&m, &f)?, m.bits(&f)?), ((12, 13), 0o4751));
        same!((owner(&m, &d)?, m.bits(&d)?, owner(&m, "f")?), ((14, 15), 0o700, (3, 4)));
        // It is not the program's to see or to set.
        holds!(m.listx(&f)?.is_empty(), "{:?}", m.listx(&f)?);
        // What a file loses when it is given away.
        m.owner(&f, 12, 14)?.mode(&d, 0o2755)?.owner(&d, 14, 16)?;
        same!((owner(&m, &f)?, m.bits(&f)?, m.bits(&d)?), ((12, 14), 0o751, 0o2755));
        umount(cx, &cx.m.0)?;
        cx.wait_for_daemons()?;
    }
    Ok(())
}

/// Every spelling in a layer, and both forms of a device's number.
fn stored_owners_below(cx: &mut Ctx) -> Result<()> {
    let spellings: &[&str] =
        &["user.containers.override_stat", "user.fuseoverlayfs.override_stat", "security.fuseoverlayfs.override_stat"];
    let spellings = if cx.user == User::Root { spellings } else { &spellings[..2] };
    for attr in spellings {
        let l = Tree(cx.dir.p("l"));
        l.file("f", "x")?.file("dev", "")?.file("old", "")?.dir("d")?;
        l.setx("", attr, "0:0:0755:dir")?.setx("f", attr, "21:22:0600:file")?.setx("d", attr, "23:24:0711")?;
        l.setx("dev", attr, "0:6:0660:block-8-1")?.setx("old", attr, "0:6:0660:char1:3")?;
        let m = mount(cx, "")?;
        same!((owner(&m, "f")?, m.bits("f")?), ((21, 22), 0o600));
        same!((owner(&m, "d")?, m.bits("d")?), ((23, 24), 0o711));
        let (dev, old) = (m.stat("dev")?, m.stat("old")?);
        same!((dev.mode(), dev.rdev()), (0o60660, libc::makedev(8, 1)));
        same!((old.mode(), old.rdev()), (0o20660, libc::makedev(1, 3)));
        holds!(!m.listx("f")?.iter().any(|a| a.contains("override_stat")), "{:?}", m.listx("f")?);
        umount(cx, &cx.m.0)?;
        cx.wait_for_daemons()?;
        fs::remove_dir_all(cx.dir.p("l"))?;
    }
    Ok(())
}

/// The kernel's mark: made at mount, gone after an unmount, a refusal after a crash.
fn volatile(cx: &mut Ctx) -> Result<()> {
    cx.dir.file("l/f", "x")?;
    let marked = |cx: &Ctx| cx.work.has("work/incompat/volatile");
    mount(cx, ",volatile")?.file("n", "")?;
    holds!(marked(cx)?, "no mark");
    umount(cx, &cx.m.0)?;
    cx.wait_for_daemons()?;
    holds!(!marked(cx)?, "the mark is left");
    mount(cx, "")?;
    holds!(!marked(cx)?, "a mark without volatile");
    umount(cx, &cx.m.0)?;

    mount(cx, ",volatile")?;
    for (pid, _) in daemons(&cx.dir.0)? {
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    }
    cx.wait_for_daemons()?;
    umount(cx, &cx.m.0)?;
    for more in [",volatile", ""] {
        let out = call(cx, &options(cx, &["l"], more), &cx.m.0)?;
        super::bad_input::is_clear(&out, "volatile")?;
        holds!(mounts_below(&cx.dir.0)?.is_empty());
    }
    fs::remove_dir_all(cx.work.p("work/incompat"))?;
    same!(mount(cx, "")?.ls("")?, "f n");
    umount(cx, &cx.m.0)
}

fn bad_values(cx: &mut Ctx) -> Result<()> {
    cx.dir.file("l/f", "x")?;
    for (bad, allowed) in [
        ("uidmapping=0:1", "triples"),
        ("gidmapping=0:x:1", "triples"),
        ("squash_to_uid=me", "a number"),
        ("xattr_permissions=3", "0, 1"),
        ("timeout=soon", "1.5"),
        ("xino=maybe", "on, off, auto"),
        ("redirect_dir=1", "on, off"),
        ("metacopy=yes", "on, off"),
        ("fsync=2", "0, 1"),
        ("threaded=many", "0, 1"),
    ] {
        let out = call(cx, &options(cx, &["l"], &format!(",{bad}")), &cx.m.0)?;
        super::bad_input::is_clear(&out, bad)?;
        holds!(out.stderr.contains(allowed), "what is allowed is not told: {}", out.stderr);
        holds!(mounts_below(&cx.dir.0)?.is_empty());
    }
    Ok(())
}
