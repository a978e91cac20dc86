//! Who carries requests: the answers are the same. The other cases run on each transport by `--options transport=..`.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;

use anyhow::Result;

use crate::case::User;
use crate::ctx::Ctx;
use crate::tree::{cases, fails, holds, same};

const ROOT: &[User] = &[User::Root];

cases!("transport":
    each_works_and_is_told.onlay(), nonsense_is_refused.onlay(), many_at_a_time.onlay(), killed_while_busy.onlay().by(ROOT),
);

const ALL: [&str; 3] = ["fuser", "device", "uring"];

fn mount(cx: &mut Ctx, transport: &str) -> Result<String> {
    let mut args = cx.mount_args()?;
    args.extend(["-v".to_owned(), "-o".to_owned(), format!("transport={transport}")]);
    Ok(cx.onlay(&args)?.ok()?.stderr)
}

fn umount(cx: &Ctx) -> Result<()> {
    cx.onlay(&["umount", &cx.m.0.display().to_string()])?.ok()?;
    cx.wait_for_daemons()
}

fn each_works_and_is_told(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "lower")?.dir("d")?.hard("f", "d/l")?;
    for transport in ALL {
        let said = mount(cx, transport)?;
        let line = said.lines().find(|l| l.contains("transport: ")).unwrap_or_default();
        // Where the kernel is not told to allow io_uring, the device is read, and why is told.
        let instead = transport == "uring" && line.contains("transport: device (") && line.contains("io_uring");
        holds!(line.contains(&format!("transport: {transport} (as asked)")) || instead, "{said}");
        same!(cx.m.read("f")?, "lower");
        same!(cx.m.ls("d")?, "l");
        cx.m.file(transport, transport)?.dir("new")?.file("new/x", "y")?.rm("new/x")?;
        std::fs::remove_dir(cx.m.p("new"))?;
        same!(cx.m.read(transport)?, transport);
        fails!(std::fs::read(cx.m.p("absent")), ENOENT);
        // More than one request's worth, of every size of request.
        let mut big = File::options().read(true).write(true).create_new(true).open(cx.m.p("big"))?;
        let data: Vec<u8> = (0..5_000_001u32).map(|i| (i * 7 % 251) as u8).collect();
        big.write_all(&data)?;
        let mut back = Vec::new();
        File::open(cx.m.p("big"))?.read_to_end(&mut back)?;
        holds!(back == data, "what was written is read again");
        drop(big);
        cx.m.rm("big")?;
        umount(cx)?;
    }
    same!(cx.upper.read("uring")?, "uring");
    Ok(())
}

fn nonsense_is_refused(cx: &mut Ctx) -> Result<()> {
    cx.lower()?;
    let mut args = cx.mount_args()?;
    args.extend(["-o", "transport=pigeon"].map(str::to_owned));
    let out = cx.onlay(&args)?;
    holds!(out.code != 0 && out.stderr.contains("transport=pigeon"), "{out:?}");
    Ok(())
}

/// More callers than threads that answer.
fn many_at_a_time(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x".repeat(100_000))?;
    for transport in ALL {
        mount(cx, transport)?;
        let m = &cx.m;
        std::thread::scope(|s| {
            let all: Vec<_> = (0..40)
                .map(|i| {
                    s.spawn(move || -> Result<()> {
                        for j in 0..20 {
                            let name = format!("{transport}-{i}-{j}");
                            m.file(&name, &name)?;
                            same!(m.read(&name)?, name);
                            same!(m.read("f")?.len(), 100_000);
                            m.rm(&name)?;
                        }
                        Ok(())
                    })
                })
                .collect();
            all.into_iter().try_for_each(|t| t.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
        })?;
        same!(cx.m.ls("")?, "f");
        umount(cx)?;
    }
    Ok(())
}

/// What a daemon leaves when it is killed in the middle is a mount that says so, and no process that waits for ever.
fn killed_while_busy(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?;
    for transport in ALL {
        mount(cx, transport)?;
        let m = cx.m.clone();
        let open = File::options().read(true).write(true).create(true).truncate(false).open(m.p("g"))?;
        let busy = std::thread::spawn(move || (0u64..).take_while(|i| open.write_at(&[0; 4096], i % 100 * 4096).is_ok()).count());
        let pid = String::from_utf8(cx.m.getx("", "user.onlay.pid")?.unwrap_or_default())?;
        std::thread::sleep(std::time::Duration::from_millis(50));
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.parse()?), nix::sys::signal::Signal::SIGKILL)?;
        holds!(busy.join().is_ok_and(|n| n > 0), "the writer was stopped by an error");
        fails!(std::fs::metadata(cx.m.p("never seen")), ENOTCONN);
        cx.onlay(&["umount", &cx.m.0.display().to_string()])?.ok()?;
    }
    Ok(())
}
