//! Extended attributes.

use anyhow::Result;
use rustix::fs::{XattrFlags, lremovexattr, lsetxattr};

use crate::case::{Fs, User};
use crate::ctx::Ctx;
use crate::tree::{cases, fails, holds, same, xattrs};

cases!("xattr":
    on_lower_file, create_and_replace, remove, big_and_empty, copied_up, binary, on_directory, own_are_hidden,
    own_are_refused_or_escaped, trusted.by(&[User::Root]), security.by(&[User::Root]), capability.by(&[User::Root]),
    on_symlink_and_nodes, many,
);

fn on_lower_file(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?.setx("f", "user.a", "1")?.setx("f", "user.b", "2")?;
    let m = cx.mount()?;
    same!(m.getx("f", "user.a")?, Some(b"1".to_vec()));
    same!(m.getx("f", "user.c")?, None);
    same!(m.listx("f")?, ["user.a", "user.b"]);
    m.setx("f", "user.a", "new")?.setx("f", "user.c", "3")?;
    let m = cx.remount()?;
    same!(m.listx("f")?, ["user.a", "user.b", "user.c"]);
    same!((m.getx("f", "user.a")?, m.read("f")?), (Some(b"new".to_vec()), "x".to_owned()));
    Ok(())
}

fn create_and_replace(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "")?.setx("f", "user.a", "1")?;
    let m = cx.mount()?;
    fails!(lsetxattr(m.p("f"), "user.a", b"2", XattrFlags::CREATE), EEXIST);
    fails!(lsetxattr(m.p("f"), "user.b", b"2", XattrFlags::REPLACE), ENODATA);
    lsetxattr(m.p("f"), "user.a", b"2", XattrFlags::REPLACE)?;
    lsetxattr(m.p("f"), "user.b", b"3", XattrFlags::CREATE)?;
    same!((m.getx("f", "user.a")?, m.getx("f", "user.b")?), (Some(b"2".to_vec()), Some(b"3".to_vec())));
    Ok(())
}

fn remove(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "")?.setx("f", "user.a", "1")?.file("g", "")?;
    let m = cx.mount()?;
    lremovexattr(m.p("f"), "user.a")?;
    fails!(lremovexattr(m.p("f"), "user.a"), ENODATA);
    fails!(lremovexattr(m.p("g"), "user.none"), ENODATA);
    if cx.fs != Fs::Plain {
        holds!(!cx.upper.has("g")?, "copied up for an attribute that is not there");
    }
    let m = cx.remount()?;
    same!(m.listx("f")?, Vec::<String>::new());
    Ok(())
}

fn big_and_empty(cx: &mut Ctx) -> Result<()> {
    let m = cx.mount()?;
    let big = vec![b'v'; 3000];
    m.file("f", "")?.setx("f", "user.big", &big)?.setx("f", "user.empty", "")?;
    same!((m.getx("f", "user.big")?, m.getx("f", "user.empty")?), (Some(big), Some(vec![])));
    let mut small = [0; 10];
    fails!(rustix::fs::lgetxattr(m.p("f"), "user.big", &mut small[..]), ERANGE);
    same!(rustix::fs::lgetxattr_query(m.p("f"), "user.big")?, 3000);
    fails!(rustix::fs::llistxattr(m.p("f"), &mut small[..]), ERANGE);
    fails!(lsetxattr(m.p("f"), &*format!("user.{}", "n".repeat(255)), b"", XattrFlags::empty()), ERANGE);
    Ok(())
}

fn copied_up(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/f", "x")?.setx("d/f", "user.a", "1")?.setx("d", "user.d", "2")?;
    let m = cx.mount()?;
    m.append("d/f", "y")?;
    let m = cx.remount()?;
    same!((m.getx("d/f", "user.a")?, m.getx("d", "user.d")?), (Some(b"1".to_vec()), Some(b"2".to_vec())));
    Ok(())
}

fn binary(cx: &mut Ctx) -> Result<()> {
    let value: Vec<u8> = (0..=255).collect();
    cx.lower()?.file("f", "")?.setx("f", "user.bin", &value)?;
    let m = cx.mount()?;
    same!(m.getx("f", "user.bin")?, Some(value.clone()));
    m.mode("f", 0o600)?;
    same!(m.getx("f", "user.bin")?, Some(value));
    Ok(())
}

fn on_directory(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.dir("d")?.setx("d", "user.top", "1")?;
    cx.lower()?.dir("d")?.setx("d", "user.bottom", "2")?.file("d/f", "")?;
    let m = cx.mount()?;
    m.setx("d", "user.new", "3")?;
    // A union takes the top one's; cp -a keeps both, so the plain directory says nothing about that.
    holds!(m.listx("d")?.contains(&"user.top".to_owned()) && m.listx("d")?.contains(&"user.new".to_owned()));
    if cx.fs != Fs::Plain {
        same!(m.listx("d")?, ["user.new", "user.top"]);
    }
    same!(m.ls("d")?, "f");
    Ok(())
}

fn own_are_hidden(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/f", "x")?.file("e/g", "")?.file("h", "")?.hard("h", "h2")?;
    let m = cx.mount()?;
    m.mode("d/f", 0o600)?.append("h", "x")?;
    std::fs::remove_dir_all(m.p("e"))?;
    m.dir("e")?;
    let m = cx.remount()?;
    for n in ["", "d", "d/f", "e", "h", "h2"] {
        let own: Vec<_> = xattrs(&m.p(n))?.into_iter().filter(|(a, _)| a.to_string_lossy().contains("overlay")).collect();
        same!((n, own), (n, vec![]));
    }
    for attr in ["opaque", "origin", "redirect", "metacopy", "impure"] {
        same!((attr, m.getx("e", &format!("{}{attr}", cx.prefix()))?), (attr, None));
    }
    Ok(())
}

fn own_are_refused_or_escaped(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/f", "x")?;
    let m = cx.mount()?;
    let attr = format!("{}opaque", cx.prefix());
    // What a union inside the union writes must stay its own: it comes back, and makes nothing opaque here.
    m.setx("d", &attr, "y")?;
    for m in [m, cx.remount()?] {
        same!(m.getx("d", &attr)?, Some(b"y".to_vec()));
        same!(m.listx("d")?, [attr.as_str()]);
        same!(m.ls("d")?, "f");
    }
    if cx.fs != Fs::Plain {
        same!(cx.upper.getx("d", &format!("{}overlay.opaque", cx.prefix()))?, Some(b"y".to_vec()));
        same!(cx.upper.getx("d", &attr)?, None);
    }
    lremovexattr(cx.m.p("d"), &*attr)?;
    same!(cx.m.getx("d", &attr)?, None);
    Ok(())
}

fn trusted(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "")?.setx("f", "trusted.a", "1")?;
    let m = cx.mount()?;
    same!(m.getx("f", "trusted.a")?, Some(b"1".to_vec()));
    m.setx("f", "trusted.b", "2")?.mode("", 0o755)?;
    same!(m.listx("f")?, ["trusted.a", "trusted.b"]);
    crate::sys::as_ids(1234, 1234, &[], || {
        fails!(lsetxattr(m.p("f"), "trusted.c", b"", XattrFlags::empty()), EPERM | EACCES);
        fails!(lsetxattr(m.p("f"), "user.c", b"", XattrFlags::empty()), EACCES);
        Ok(())
    })
}

fn security(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?.setx("f", "security.onlay", "1")?;
    let m = cx.mount()?;
    same!(m.getx("f", "security.onlay")?, Some(b"1".to_vec()));
    m.append("f", "y")?.setx("f", "security.more", "2")?;
    same!(m.listx("f")?, ["security.more", "security.onlay"]);
    Ok(())
}

fn capability(cx: &mut Ctx) -> Result<()> {
    // cap_net_bind_service=ep, version 2.
    let cap: Vec<u8> = [1, 0, 0, 2, 0, 4, 0, 0].into_iter().chain([0; 12]).collect();
    cx.lower()?.file("kept", "x")?.setx("kept", "security.capability", &cap)?;
    cx.lower()?.file("written", "x")?.setx("written", "security.capability", &cap)?;
    let m = cx.mount()?;
    m.mode("kept", 0o755)?.append("written", "y")?;
    let m = cx.remount()?;
    same!(m.getx("kept", "security.capability")?, Some(cap));
    // As on any local file system: a write takes it away.
    same!(m.getx("written", "security.capability")?, None);
    Ok(())
}

fn on_symlink_and_nodes(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.symlink("x", "l")?.node("p", rustix::fs::FileType::Fifo, 0o600, 0)?;
    let m = cx.mount()?;
    for n in ["l", "p"] {
        fails!(lsetxattr(m.p(n), "user.a", b"1", XattrFlags::empty()), EPERM);
        same!((n, m.listx(n)?), (n, vec![]));
    }
    fails!(lsetxattr(m.p("none"), "user.a", b"1", XattrFlags::empty()), ENOENT);
    Ok(())
}

fn many(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "")?;
    let m = cx.mount()?;
    for i in 0..60 {
        m.setx("f", &format!("user.n{i}"), i.to_string())?;
    }
    same!(m.listx("f")?.len(), 60);
    let m = cx.remount()?;
    same!(m.getx("f", "user.n59")?, Some(b"59".to_vec()));
    Ok(())
}
