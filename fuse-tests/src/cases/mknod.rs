//! mknod(2): fifos, sockets, devices, and the device that is a whiteout on disk.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};

use anyhow::Result;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::case::User;
use crate::ctx::Ctx;
use crate::tree::{Tree, cases, fails, holds, raw_entries, same};

cases!("mknod":
    fifo_keeps_mode, fifo_works, socket_works, device.by(&[User::Root]), plain_file, lower_nodes,
    device_0_0.kernel_deviates(REFUSED), device_0_0_in_all_places.kernel_deviates(REFUSED),
    device_0_0_below.onlay().by(&[User::Root, User::Userns]),
);

const REFUSED: &str = "a device 0:0 is a whiteout: EPERM";

fn fifo_keeps_mode(cx: &mut Ctx) -> Result<()> {
    let m = cx.mount()?;
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    for mode in [0o600, 0o622, 0o777] {
        let name = format!("p{mode:o}");
        m.node(&name, FileType::Fifo, mode, 0)?;
        same!(m.bits(&name)?, mode);
        holds!(m.stat(&name)?.file_type().is_fifo());
    }
    fails!(mknodat(CWD, m.p("p600"), FileType::Fifo, Mode::empty(), 0), EEXIST);
    Ok(())
}

fn fifo_works(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.node("p", FileType::Fifo, 0o600, 0)?;
    let m = cx.mount()?;
    let writer = std::thread::spawn({
        let m = m.clone();
        move || -> Result<()> { Ok(std::fs::OpenOptions::new().write(true).open(m.p("p"))?.write_all(b"through")?) }
    });
    same!(m.read("p")?, "through");
    writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?
}

fn socket_works(cx: &mut Ctx) -> Result<()> {
    let m = cx.mount()?;
    // A socket's name is at most 108 bytes: reach it from within.
    std::env::set_current_dir(&m.0)?;
    let bound = UnixListener::bind("s");
    let talk = || -> Result<String> {
        let mut client = UnixStream::connect("s")?;
        let (mut server, _) = bound.as_ref().map_err(|e| anyhow::anyhow!("bind: {e}"))?.accept()?;
        client.write_all(b"hi")?;
        drop(client);
        let mut text = String::new();
        server.read_to_string(&mut text)?;
        Ok(text)
    };
    let got = talk();
    std::env::set_current_dir("/")?;
    same!(got?, "hi");
    holds!(m.stat("s")?.file_type().is_socket());
    m.rm("s")?;
    Ok(())
}

fn device(cx: &mut Ctx) -> Result<()> {
    let null = rustix::fs::makedev(1, 3);
    cx.lower()?.node("low", FileType::CharacterDevice, 0o666, null)?;
    let m = cx.mount()?;
    m.node("up", FileType::CharacterDevice, 0o622, null)?.node("b", FileType::BlockDevice, 0o600, 0x0101)?;
    m.mode("low", 0o600)?;
    let m = cx.remount()?;
    for (n, mode) in [("up", 0o600), ("low", 0o600)] {
        let st = m.stat(n)?;
        holds!(st.file_type().is_char_device());
        same!((n, st.rdev(), st.mode() & 0o600), (n, null, mode));
    }
    same!(m.stat("b")?.rdev(), 0x0101);
    Ok(())
}

fn plain_file(cx: &mut Ctx) -> Result<()> {
    let m = cx.mount()?;
    m.node("f", FileType::RegularFile, 0o640, 0)?;
    same!((m.bits("f")?, m.stat("f")?.size()), (0o640, 0));
    m.append("f", "x")?;
    same!(m.read("f")?, "x");
    Ok(())
}

fn lower_nodes(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    low.node("p", FileType::Fifo, 0o644, 0)?.node("s", FileType::Socket, 0o600, 0)?;
    let m = cx.mount()?;
    m.mode("p", 0o600)?.mv("s", "s2")?.hard("p", "p2")?;
    let m = cx.remount()?;
    holds!(m.stat("p")?.file_type().is_fifo() && m.stat("s2")?.file_type().is_socket());
    same!((m.bits("p2")?, m.stat("p")?.nlink()), (0o600, 2));
    Ok(())
}

fn is_device(m: &Tree, name: &str, mode: u32) -> Result<()> {
    let st = m.stat(name)?;
    holds!(st.file_type().is_char_device(), "{name}: {:o}", st.mode());
    same!((name, st.rdev(), st.size(), st.mode() & 0o7777), (name, 0, 0, mode));
    let dir = std::path::Path::new(name).parent().unwrap_or("".as_ref());
    let base = std::path::Path::new(name).file_name();
    let entries = raw_entries(&std::fs::File::open(m.p(dir))?)?;
    let entry = entries.iter().find(|e| Some(&*e.name) == base).map(|e| (e.kind, e.ino));
    same!(entry, Some((FileType::CharacterDevice, st.ino())));
    Ok(())
}

fn device_0_0(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "below")?.file("d/f", "below")?;
    let m = cx.mount()?;
    m.rm("d/f")?;
    for n in ["w", "d/f", "new/w"] {
        if n == "new/w" {
            m.dir("new")?;
        }
        m.node(n, FileType::CharacterDevice, 0o640, 0)?;
        is_device(&m, n, 0o640)?;
        fails!(mknodat(CWD, m.p(n), FileType::CharacterDevice, Mode::empty(), 0), EEXIST);
        // Nothing is behind it.
        fails!(std::fs::read(m.p(n)), ENXIO | EACCES);
        fails!(rustix::fs::setxattr(m.p(n), "user.a", b"1", rustix::fs::XattrFlags::empty()), EPERM);
    }
    m.mode("w", 0o4711)?.times("w", 5, 6)?;
    let ino = m.stat("w")?.ino();
    let m = cx.remount()?;
    is_device(&m, "w", 0o4711)?;
    same!((m.stat("w")?.mtime(), m.stat("w")?.ino()), (5, ino));
    is_device(&m, "d/f", 0o640)?;
    is_device(&m, "new/w", 0o640)?;
    m.rm("d/f")?;
    same!(cx.remount()?.ls("d")?, "");
    Ok(())
}

fn device_0_0_in_all_places(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("a", "below")?.file("d/x", "")?;
    let m = cx.mount()?;
    m.node("w", FileType::CharacterDevice, 0o600, 0)?.dir("new")?.dir("new2")?;
    // Into a directory that never held one; over a file; as a second name.
    m.hard("w", "new/l")?.mv("w", "new2/w")?.node("v", FileType::CharacterDevice, 0o604, 0)?.mv("v", "a")?;
    m.node("y", FileType::CharacterDevice, 0o604, 0)?;
    rustix::fs::renameat_with(CWD, m.p("y"), CWD, m.p("d/x"), rustix::fs::RenameFlags::EXCHANGE)?;
    for m in [m, cx.remount()?] {
        is_device(&m, "new/l", 0o600)?;
        is_device(&m, "new2/w", 0o600)?;
        is_device(&m, "a", 0o604)?;
        is_device(&m, "d/x", 0o604)?;
        same!((m.stat("new/l")?.nlink(), m.stat("new/l")?.ino()), (2, m.stat("new2/w")?.ino()));
        same!(m.stat("y")?.is_file(), true);
    }
    Ok(())
}

fn device_0_0_below(cx: &mut Ctx) -> Result<()> {
    // An upper becomes a lower: above another one, and at the very bottom.
    let m = cx.mount()?;
    m.node("w", FileType::CharacterDevice, 0o644, 0)?.dir("d")?.node("d/w", FileType::CharacterDevice, 0o644, 0)?;
    cx.umount()?;
    cx.wait_for_daemons()?;
    cx.dir.dir("upper2")?.dir("work2")?.dir("bottom")?.file("bottom/w", "hidden")?;
    let p = |n: &str| cx.dir.p(n).display().to_string();
    for (lowers, bits) in [(vec!["upper"], 0o600), (vec!["upper", "bottom"], 0o606)] {
        let lowers = lowers.into_iter().map(p).collect::<Vec<_>>().join(":");
        let options = format!("lowerdir={lowers},upperdir={},workdir={}", p("upper2"), p("work2"));
        for again in [false, true] {
            cx.onlay(&["mount", "-o", &options, &p("mnt")])?.ok()?;
            let seen = (|| -> Result<()> {
                for n in ["w", "d/w"] {
                    if !again {
                        is_device(&cx.m, n, cx.m.bits(n)?)?;
                        cx.m.mode(n, bits)?;
                    }
                    is_device(&cx.m, n, bits)?;
                }
                Ok(())
            })();
            cx.onlay(&["umount", &p("mnt")])?.ok()?;
            cx.wait_for_daemons()?;
            seen?;
        }
    }
    Ok(())
}
