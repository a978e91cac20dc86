//! Networks without root: a server inside, reached through a published port on the loopback interface.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::run::{ALL, small_root};
use crate::case::skip;
use crate::ctx::Ctx;
use crate::tree::{cases, holds, same};

cases!("network":
    published_by_pasta.onlay().by(ALL), published_by_slirp4netns.onlay().by(ALL),
    bad_ports_are_refused.onlay().by(ALL), a_missing_program_is_named.onlay().by(ALL),
);

fn published_by_pasta(cx: &mut Ctx) -> Result<()> {
    published(cx, "pasta")
}

fn published_by_slirp4netns(cx: &mut Ctx) -> Result<()> {
    published(cx, "slirp4netns")
}

/// A port nobody has at the moment.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn published(cx: &Ctx, program: &str) -> Result<()> {
    if !Command::new("sh").args(["-c", &format!("command -v {program}")]).output()?.status.success() {
        return Err(skip("not installed: see fuse-tests/run-all"));
    }
    if std::fs::File::options().read(true).write(true).open("/dev/net/tun").is_err() {
        return Err(skip("/dev/net/tun is not ours to open"));
    }
    let root = small_root(cx, "root")?;
    for applet in ["nc", "grep"] {
        cx.dir.symlink("busybox", &format!("root/bin/{applet}"))?;
    }
    let port = free_port()?;
    let publish = format!("127.0.0.1:{port}:80");
    let script = "grep -c nameserver /etc/resolv.conf; echo from inside | nc -l -p 80";
    let mut child = Command::new(cx.binary())
        .args(["run", "--rootfs", &root, "--network", program, "-p", &publish, "--", "sh", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut said = String::new();
    // The program accepts before the server listens, and closes then.
    while said.is_empty() && Instant::now() < deadline {
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.read_to_string(&mut said).ok();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().cast_signed()), nix::sys::signal::Signal::SIGKILL).ok();
    let mut printed = String::new();
    child.stdout.take().context("stdout")?.read_to_string(&mut printed)?;
    child.wait()?;
    same!(said, "from inside\n");
    same!(printed, "1\n");
    // Whoever forwarded it is gone.
    while TcpStream::connect(("127.0.0.1", port)).is_ok() {
        holds!(Instant::now() < deadline, "the port is still open");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn bad_ports_are_refused(cx: &mut Ctx) -> Result<()> {
    for flags in [&["-p", "0:80"][..], &["-p", "80:80/sctp"], &["-p", "8080:80", "--network", "none"]] {
        let out = cx.onlay(&[&["run"], flags, &["--rootfs", "/", "--", "true"]].concat())?;
        holds!(out.code == 125 && out.stderr.contains("--publish"), "{flags:?}: {out:?}");
    }
    Ok(())
}

fn a_missing_program_is_named(cx: &mut Ctx) -> Result<()> {
    let root = small_root(cx, "root")?;
    for (program, package) in [("pasta", "passt"), ("slirp4netns", "slirp4netns")] {
        let out = Command::new(cx.binary())
            .args(["run", "--rootfs", &root, "--network", program, "--", "true"])
            .env("PATH", "/no/such/directory")
            .output()?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        holds!(out.status.code() == Some(125), "{out:?}");
        // Without uidmap there is another thing to say first, for some.
        holds!(said.contains(&format!("install the package {package}")) || said.contains("uidmap"), "{said}");
    }
    Ok(())
}
