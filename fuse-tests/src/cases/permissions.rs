//! Who may do what, beyond the nine bits.

use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::process::Command;

use anyhow::Result;

use crate::case::{User, skip};
use crate::ctx::{Ctx, Out};
use crate::sys::as_ids;
use crate::tree::{Tree, cases, fails, holds, same};

const ROOT: &[User] = &[User::Root];

cases!("permissions":
    supplementary_groups.privileged(), acl_of_groups_and_mask.privileged(), default_acl_with_mask.privileged(),
    capability_goes.by(ROOT), set_id_goes.privileged(), set_id_stays_for_nothing.privileged(),
    set_id_stays_for_strangers.privileged(), sticky.privileged(),
    mount_flags.onlay().by(ROOT), read_only.onlay(),
    no_more_than_the_mounter.onlay().by(&[User::Ordinary, User::Userns, User::Norange]),
);

/// chown(2) that changes nothing takes the bits, but not for anybody.
fn set_id_stays_for_strangers(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("s", "x")?.mode("s", 0o6755)?;
    let m = open_to_all(cx)?;
    m.file("own", "")?.owner("own", 1234, 1234)?.mode("own", 0o4755)?;
    let nothing = |name: &str| std::os::unix::fs::chown(m.p(name), None, None);
    as_ids(1234, 1234, &[], || {
        fails!(nothing("s"), EPERM);
        nothing("own").map_err(Into::into)
    })?;
    same!((m.stat("s")?.mode() & 0o7777, m.stat("own")?.mode() & 0o7777), (0o6755, 0o755));
    nothing("s")?;
    same!(m.stat("s")?.mode() & 0o7777, 0o755);
    Ok(())
}

fn setfacl(m: &Tree, spec: &[&str], name: &str) -> Result<()> {
    Out::of(Command::new("setfacl").args(spec).arg(m.p(name)))?.ok().map(drop)
}

fn open_to_all(cx: &mut Ctx) -> Result<Tree> {
    let m = cx.mount()?;
    m.mode("", 0o755)?;
    Ok(m)
}

fn supplementary_groups(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    low.file("f", "x")?.owner("f", 0, 500)?.mode("f", 0o060)?.dir("d")?.owner("d", 0, 501)?.mode("d", 0o770)?;
    let m = open_to_all(cx)?;
    for copied in [false, true] {
        as_ids(1234, 1234, &[7, 500, 501], || {
            same!(m.read("f")?.chars().next(), Some('x'));
            m.append("f", "+")?.file("d/new", "")?.rm("d/new").map(drop)
        })?;
        as_ids(1234, 1234, &[7], || {
            fails!(std::fs::read(m.p("f")), EACCES);
            fails!(std::fs::read_dir(m.p("d")), EACCES);
            fails!(std::fs::write(m.p("d/new"), ""), EACCES);
            Ok(())
        })?;
        // chgrp to a group of one's own only.
        as_ids(1234, 1234, &[500], || {
            fails!(std::os::unix::fs::chown(m.p("f"), None, Some(500)), EPERM);
            Ok(())
        })?;
        holds!(copied || m.stat("f")?.size() == 2);
    }
    m.file("own", "")?.owner("own", 1234, 1234)?;
    as_ids(1234, 1234, &[500], || {
        std::os::unix::fs::chown(m.p("own"), None, Some(500))?;
        fails!(std::os::unix::fs::chown(m.p("own"), None, Some(501)), EPERM);
        Ok(())
    })
}

fn acl_of_groups_and_mask(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    low.file("f", "x")?.mode("f", 0o600)?;
    setfacl(&low, &["-m", "g:700:rw,u:1235:rw,m::r"], "f")?;
    let m = open_to_all(cx)?;
    let check = |writes: bool| -> Result<()> {
        for (uid, group) in [(1234, 700), (1235, 1)] {
            as_ids(uid, 1, &[group], || {
                m.read("f")?;
                let opened = std::fs::OpenOptions::new().append(true).open(m.p("f"));
                if writes {
                    opened?;
                } else {
                    fails!(opened, EACCES);
                }
                Ok(())
            })?;
        }
        as_ids(1236, 1, &[701], || {
            fails!(std::fs::read(m.p("f")), EACCES);
            Ok(())
        })
    };
    // The mask takes the right to write, until it gives it.
    check(false)?;
    setfacl(&m, &["-m", "m::rw"], "f")?;
    check(true)?;
    m.mode("f", 0o640)?;
    check(false)
}

fn default_acl_with_mask(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    low.dir("d")?.mode("d", 0o777)?;
    setfacl(&low, &["-d", "-m", "u::rwx,g::rwx,o::-,g:700:rwx,m::rx"], "d")?;
    let m = open_to_all(cx)?;
    as_ids(1234, 1234, &[], || {
        m.dir("d/e")?.file("d/e/f", "")?.file("d/g", "").map(drop)
    })?;
    // The mask is what the group bits show; umask does not count.
    same!((m.bits("d/e")?, m.bits("d/e/f")?, m.bits("d/g")?), (0o750, 0o640, 0o640));
    as_ids(1235, 1, &[700], || {
        m.read("d/e/f")?;
        fails!(std::fs::OpenOptions::new().append(true).open(m.p("d/e/f")), EACCES);
        fails!(std::fs::write(m.p("d/e/new"), ""), EACCES);
        Ok(())
    })?;
    as_ids(1235, 1, &[], || {
        fails!(std::fs::read(m.p("d/g")), EACCES);
        Ok(())
    })
}

/// cap_net_raw=ep, revision 2.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const CAP: &str = "security.capability";

fn capability_goes(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    let each = ["write", "chown", "truncate", "chmod"];
    for n in each {
        low.file(n, "program")?.setx(n, CAP, CAPABILITY)?;
    }
    let m = open_to_all(cx)?;
    for n in each {
        m.file(&format!("new-{n}"), "program")?.setx(&format!("new-{n}"), CAP, CAPABILITY)?;
    }
    for p in ["", "new-"] {
        let name = |n: &str| format!("{p}{n}");
        m.append(&name("write"), "+")?.owner(&name("chown"), 5, 5)?.mode(&name("chmod"), 0o755)?;
        m.rw(&name("truncate"))?.set_len(3)?;
    }
    let m = cx.remount()?;
    for p in ["", "new-"] {
        for n in ["write", "chown", "truncate"] {
            same!((n, m.getx(&format!("{p}{n}"), CAP)?), (n, None));
        }
        same!(m.getx(&format!("{p}chmod"), CAP)?, Some(CAPABILITY.to_vec()));
    }
    Ok(())
}

fn set_id_goes(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    for n in ["write", "truncate", "chown"] {
        low.file(n, "program")?.owner(n, 1234, 1234)?.mode(n, 0o6775)?;
    }
    let m = open_to_all(cx)?;
    m.dir("d")?.mode("d", 0o777)?;
    for n in ["write", "truncate", "chown"] {
        let (n, new) = (n.to_owned(), format!("d/{n}"));
        m.file(&new, "program")?.owner(&new, 1234, 1234)?.mode(&new, 0o6775)?;
        as_ids(1234, 1234, &[77], || {
            for f in [&n, &new] {
                match n.as_str() {
                    "write" => m.rw(f)?.write_all_at(b"x", 1)?,
                    "truncate" => m.rw(f)?.set_len(2)?,
                    _ => std::os::unix::fs::chown(m.p(f), None, Some(77))?,
                }
            }
            Ok(())
        })?;
        same!((&n, m.bits(&n)?, m.bits(&new)?), (&n, 0o775, 0o775));
    }
    let m = cx.remount()?;
    same!((m.bits("write")?, m.bits("chown")?, m.stat("chown")?.gid()), (0o775, 0o775, 77));
    Ok(())
}

fn set_id_stays_for_nothing(cx: &mut Ctx) -> Result<()> {
    // What is no write leaves it: opening for writing, times, attributes, another name, copy-up itself.
    cx.lower()?.file("f", "program")?.owner("f", 1234, 1234)?.mode("f", 0o6755)?;
    let m = open_to_all(cx)?;
    m.mode("", 0o777)?;
    as_ids(1234, 1234, &[], || {
        drop(m.rw("f")?);
        m.times("f", 5, 5)?.setx("f", "user.a", "1")?.hard("f", "g")?.mv("f", "h").map(drop)
    })?;
    let m = cx.remount()?;
    same!((m.bits("g")?, m.bits("h")?), (0o6755, 0o6755));
    Ok(())
}

fn sticky(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    low.dir("t")?.mode("t", 0o1777)?;
    for n in ["a", "b", "c", "d"] {
        low.file(&format!("t/{n}"), "")?.owner(&format!("t/{n}"), 1234, 1234)?;
    }
    low.dir("t/sub")?.owner("t/sub", 1234, 1234)?;
    let m = open_to_all(cx)?;
    as_ids(1235, 1235, &[1234], || {
        fails!(std::fs::remove_file(m.p("t/a")), EPERM | EACCES);
        fails!(std::fs::remove_dir(m.p("t/sub")), EPERM | EACCES);
        fails!(std::fs::rename(m.p("t/a"), m.p("t/z")), EPERM | EACCES);
        m.file("t/own", "")?;
        fails!(std::fs::rename(m.p("t/own"), m.p("t/a")), EPERM | EACCES);
        m.mv("t/own", "t/own2").map(drop)
    })?;
    as_ids(1234, 1234, &[], || {
        m.rm("t/a")?.mv("t/b", "t/b2")?.mv("t/c", "t/d")?;
        Ok(std::fs::remove_dir(m.p("t/sub"))?)
    })?;
    same!(cx.remount()?.ls("t")?, "b2 d own2");
    Ok(())
}

fn with(cx: &mut Ctx, options: &str, look: impl Fn(&Tree) -> Result<()>) -> Result<()> {
    let mut args = cx.mount_args()?;
    args.extend(["-o".to_owned(), options.to_owned()]);
    cx.onlay(&args)?.ok()?;
    let looked = look(&cx.m);
    cx.onlay(&["umount", &cx.m.0.display().to_string()])?.ok()?;
    cx.wait_for_daemons()?;
    looked
}

fn mount_flags(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    low.node("null", rustix::fs::FileType::CharacterDevice, 0o666, rustix::fs::makedev(1, 3))?;
    std::fs::copy("/usr/bin/id", low.p("id"))?;
    low.mode("id", 0o4755)?;
    // Who the program is, run by an ordinary user.
    let runs_as = |m: &Tree| {
        let mut cmd = Command::new("setpriv");
        Out::of(cmd.args(["--reuid", "1234", "--regid", "1234", "--clear-groups"]).arg(m.p("id")).arg("-u"))
    };
    with(cx, "suid,dev", |m| {
        same!((runs_as(m)?.ok()?.stdout, m.read("null")?), ("0\n".to_owned(), String::new()));
        Ok(())
    })?;
    with(cx, "nosuid,nodev", |m| {
        same!(runs_as(m)?.ok()?.stdout, "1234\n");
        fails!(std::fs::read(m.p("null")), EACCES);
        Ok(())
    })?;
    with(cx, "noexec", |m| {
        holds!(runs_as(m)?.code != 0);
        Ok(())
    })
}

fn read_only(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?.file("d/g", "y")?.symlink("f", "l")?;
    cx.upper.file("own", "u")?;
    with(cx, "ro", |m| {
        same!((m.ls("")?, m.read("own")?), ("d f l own".to_owned(), "u".to_owned()));
        for n in ["f", "own"] {
            fails!(std::fs::OpenOptions::new().write(true).open(m.p(n)), EROFS);
            fails!(std::fs::remove_file(m.p(n)), EROFS);
            fails!(std::fs::rename(m.p(n), m.p("z")), EROFS);
            fails!(std::fs::hard_link(m.p(n), m.p("z")), EROFS);
            fails!(std::os::unix::fs::chown(m.p(n), None, Some(rustix::process::getgid().as_raw())), EROFS);
            fails!(rustix::fs::setxattr(m.p(n), "user.a", b"", rustix::fs::XattrFlags::empty()), EROFS);
        }
        fails!(std::fs::create_dir(m.p("z")), EROFS);
        fails!(std::fs::remove_dir(m.p("d")), EROFS | ENOTEMPTY);
        fails!(std::os::unix::fs::symlink("x", m.p("z")), EROFS);
        Ok(())
    })?;
    same!(cx.upper.ls("")?, "own");
    Ok(())
}

/// What the mounter may not read, make or give away outside, nobody can through the view, however it is called there.
fn no_more_than_the_mounter(cx: &mut Ctx) -> Result<()> {
    const SECRET: &str = "/etc/shadow";
    if std::fs::read(SECRET).is_ok() {
        return Err(skip(format!("{SECRET} can be read")));
    }
    let before = std::fs::metadata(SECRET)?;
    let (m, at) = (cx.m.clone(), |t: &Tree| t.0.display().to_string());
    cx.onlay(&["mount", "--lower", "/etc", "--upper", &at(&cx.upper), "--work", &at(&cx.work), &at(&m)])?.ok()?;
    let secret = |m: &Tree, after: &str| -> Result<()> {
        for name in m.ls("")?.split(' ').filter(|n| n.starts_with("shadow") && !n.ends_with('-')) {
            holds!(std::fs::read(m.p(name)).is_err(), "{name} can be read {after}");
        }
        Ok(())
    };
    holds!(m.has("shadow")?);
    secret(&m, "at first")?;
    // Whether each of these is allowed is one question, what comes of it the other.
    let (me, group) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let tries: [(&str, &dyn Fn() -> bool); 7] = [
        ("after chmod", &|| m.mode("shadow", 0o666).is_ok()),
        ("after chown", &|| m.owner("shadow", me, group).is_ok()),
        ("after an attribute", &|| m.setx("shadow", "user.a", "1").is_ok()),
        ("after link", &|| m.hard("shadow", "shadow.link").is_ok()),
        ("after writing", &|| m.append("shadow", "x").is_ok()),
        ("after copy_file_range", &|| std::fs::copy(m.p("shadow"), m.p("shadow.copy")).is_ok_and(|n| n > 0)),
        ("after rename", &|| m.mv("shadow", "shadow.moved").is_ok()),
    ];
    for (after, attempt) in tries {
        let done = attempt();
        println!("{after}: {}", if done { "allowed" } else { "refused" });
        // What failed may have left an empty copy of ours, which says nothing.
        std::fs::remove_file(m.p("shadow.copy")).ok();
        secret(&m, after)?;
    }
    m.file("own", "x")?;
    let device = rustix::fs::makedev(1, 3);
    let made = rustix::fs::mknodat(
        rustix::fs::CWD,
        m.p("null"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::from_raw_mode(0o666),
        device,
    );
    fails!(made, EPERM);
    fails!(std::os::unix::fs::chown(m.p("own"), Some(4_000_000_000), None), EPERM | EINVAL);
    fails!(rustix::fs::setxattr(m.p("own"), "trusted.a", b"", rustix::fs::XattrFlags::empty()), EPERM | EOPNOTSUPP);
    cx.onlay(&["umount", &at(&m)])?.ok()?;
    cx.wait_for_daemons()?;
    let after = std::fs::metadata(SECRET)?;
    same!((after.mode(), after.uid(), after.len(), after.ctime()), (before.mode(), before.uid(), before.len(), before.ctime()));
    Ok(())
}
