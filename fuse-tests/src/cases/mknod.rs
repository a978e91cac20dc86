//! mknod(2): fifos, sockets, devices, and whiteouts, which nothing inside may make.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};

use anyhow::Result;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::case::{Fs, User};
use crate::ctx::Ctx;
use crate::tree::{cases, fails, holds, same};

cases!("mknod":
    fifo_keeps_mode, fifo_works, socket_works, device.by(&[User::Root]), plain_file, lower_nodes, whiteout_refused,
);

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

fn whiteout_refused(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "")?;
    let m = cx.mount()?;
    let got = mknodat(CWD, m.p("w"), FileType::CharacterDevice, Mode::empty(), 0);
    if cx.fs == Fs::Plain {
        // The oracle makes it: that is how a union's layers are written.
        return Ok(got?);
    }
    fails!(got, EPERM);
    same!(m.ls("")?, "f");
    Ok(())
}
