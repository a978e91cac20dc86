//! Networks without root: a server inside, reached through a published port on the loopback interface.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::run::{ALL, small_root};
use crate::case::{User, skip};
use crate::ctx::{Ctx, Out};
use crate::tree::{cases, holds, same};

cases!("network":
    published_by_pasta.onlay().by(ALL), published_by_slirp4netns.onlay().by(ALL),
    names_by_pasta.onlay().by(ALL), names_by_slirp4netns.onlay().by(ALL), names_as_told.onlay().by(ALL),
    bad_ports_are_refused.onlay().by(ALL), a_missing_program_is_named.onlay().by(ALL),
);

fn published_by_pasta(cx: &mut Ctx) -> Result<()> {
    published(cx, "pasta")
}

fn published_by_slirp4netns(cx: &mut Ctx) -> Result<()> {
    published(cx, "slirp4netns")
}

/// Skips the case where there is no such program, or no way for it.
fn wants(program: &str) -> Result<()> {
    if !Command::new("sh").args(["-c", &format!("command -v {program}")]).output()?.status.success() {
        return Err(skip("not installed: see fuse-tests/run-all"));
    }
    if std::fs::File::options().read(true).write(true).open("/dev/net/tun").is_err() {
        return Err(skip("/dev/net/tun is not ours to open"));
    }
    Ok(())
}

/// A port nobody has at the moment.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn published(cx: &Ctx, program: &str) -> Result<()> {
    wants(program)?;
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

fn names_by_pasta(cx: &mut Ctx) -> Result<()> {
    names(cx, "pasta")
}

fn names_by_slirp4netns(cx: &mut Ctx) -> Result<()> {
    names(cx, "slirp4netns")
}

/// The machine's resolver is on its loopback, where nothing else is reached from inside. The machine is a network namespace of our
/// own, with a server of ours.
fn names(cx: &Ctx, program: &str) -> Result<()> {
    wants(program)?;
    wants("ip")?;
    let root = small_root(cx, "root")?;
    cx.dir.symlink("busybox", "root/bin/nslookup")?;
    cx.dir.file("resolv.conf", "search example.org\nnameserver 127.0.0.77\n")?;
    let this = std::env::current_exe()?;
    let machine = format!(
        "set -e; cd {dir}; ip link set lo up; ip link add outside type bridge; ip addr add 192.0.2.1/24 dev outside
         ip link set outside up; ip route add default via 192.0.2.2; mount --bind resolv.conf /etc/resolv.conf
         {this} dns 127.0.0.77 > asked & server=$!; trap 'kill $server' EXIT; while ! test -s asked; do sleep 0.05; done
         {onlay} run --rootfs {root} --network {program} -- sh -c 'nslookup web.example && grep search /etc/resolv.conf'
         busybox httpd -f -p 8080 -h {dir}/www & web=$!; trap 'kill $server $web' EXIT
         {onlay} run --rootfs {root} --network {program} --add-host out:host-gateway -- wget -q -O - http://out:8080/said
         {onlay} run --rootfs {root} --network host --add-host out:host-gateway -- wget -q -O - http://out:8080/said
         {onlay} run --rootfs {root} --network {program} --dns 127.0.0.77 -- sh -c 'nslookup own.example || echo none'",
        dir = cx.dir.0.display(),
        this = this.display(),
        onlay = cx.binary().display(),
    );
    cx.dir.symlink("busybox", "root/bin/grep")?.symlink("busybox", "root/bin/wget")?.file("www/said", "from outside\n")?;
    let mut unshare = Command::new("unshare");
    match cx.user {
        User::Root => {}
        User::Norange => drop(unshare.args(["--user", "--map-root-user"])),
        _ => drop(unshare.args(["--user", "--map-root-user", "--map-auto"])),
    }
    let out = Out::of(unshare.args(["--net", "--mount", "sh", "-c", &machine]))?.ok()?;
    let [a, b, c, d] = crate::dns::ANSWER;
    holds!(out.stdout.contains(&format!("Address: {a}.{b}.{c}.{d}")), "{out:?}");
    // The machine, by the name that docker has for it.
    same!(out.stdout.matches("from outside\n").count(), 2);
    holds!(out.stdout.ends_with("none\n") && out.stdout.contains("search example.org"), "{out:?}");
    let asked = cx.dir.read("asked")?;
    holds!(asked.contains("web.example") && !asked.contains("own.example"), "{asked}");
    Ok(())
}

fn names_as_told(cx: &mut Ctx) -> Result<()> {
    let root = small_root(cx, "root")?;
    let flags = [
        "--dns", "192.0.2.7", "--dns", "::1", "--dns-search", "a.example", "--dns-search", "b.example", "--dns-opt", "ndots:2",
        "--add-host", "db:192.0.2.9", "--add-host", "six=[fd00::7]",
    ];
    // On a machine of no network, too, and on the machine itself.
    for view in [&["--rootfs", &root][..], &["--rootfs", &root, "--network", "host"], &["--host", "--network", "none"]] {
        let read = ["--", "sh", "-c", "cat /etc/resolv.conf && echo -- && cat /etc/hosts"];
        let out = cx.onlay(&[&["run"], view, &flags, &read].concat())?.ok()?;
        let (resolver, hosts) = out.stdout.split_once("--\n").context("two files")?;
        holds!(
            resolver.ends_with("search a.example b.example\nnameserver 192.0.2.7\nnameserver ::1\noptions ndots:2\n"),
            "{view:?}: {resolver}"
        );
        same!(resolver.matches("nameserver").count(), 2);
        holds!(hosts.ends_with("192.0.2.9\tdb\nfd00::7\tsix\n"), "{view:?}: {hosts}");
    }
    let out = cx.onlay(&["run", "--rootfs", &root, "--network", "host", "--dns-search", ".", "--", "cat", "/etc/resolv.conf"])?;
    holds!(!out.ok()?.stdout.contains("search"));
    for (flag, value) in [
        ("--dns", "one.example"), ("--dns-search", "a b"), ("--dns-option", "x\nnameserver 192.0.2.1"), ("--add-host", "db"),
        ("--add-host", "db:host-gateway"), ("--add-host", "a b:192.0.2.1"),
    ] {
        let out = cx.onlay(&["run", flag, value, "--rootfs", &root, "--", "id"])?;
        holds!(out.code == 125 && out.stderr.contains(flag) && out.stderr.contains("hint: "), "{out:?}");
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
