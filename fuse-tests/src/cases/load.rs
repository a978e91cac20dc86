//! Real servers as detached containers under load: redis-server and nginx, as installed on this machine, with
//! redis-benchmark and wrk outside. Stopped in order, started again with their data.
//!
//! `ONLAY_LOAD_SECONDS` says how long each is under load; a minute in all is what they must stand.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::lifecycle::{Shelf, until};
use crate::case::{User, skip};
use crate::ctx::{Ctx, Out};
use crate::tree::{cases, holds, same};

const BOTH: &[User] = &[User::Root, User::Ordinary];

cases!("load": redis.onlay().by(BOTH).slow(600), nginx.onlay().by(BOTH).slow(600));

/// How long each server is under load.
fn seconds() -> u64 {
    std::env::var("ONLAY_LOAD_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(10)
}

/// The first of these paths that is there.
fn program(name: &str) -> Result<String> {
    let found = ["/usr/bin", "/usr/sbin"].iter().map(|d| format!("{d}/{name}")).find(|p| Path::new(p).exists());
    found.ok_or_else(|| skip(format!("there is no {name}: see fuse-tests/run-all")))
}

/// An image `app` of a program of this machine's, with the libraries that it wants and a shell.
fn image(b: &Shelf<'_>, program: &str, changes: &[&str]) -> Result<()> {
    let root = b.cx.dir.p("root");
    let copy = |from: &str| -> Result<()> {
        let to = root.join(from.trim_start_matches('/'));
        std::fs::create_dir_all(to.parent().context("no parent")?)?;
        std::fs::copy(from, to).with_context(|| from.to_owned())?;
        Ok(())
    };
    copy(program)?;
    let list = Out::of(Command::new("ldd").arg(program))?.ok()?.stdout;
    for path in list.split_whitespace().filter(|w| w.starts_with('/')) {
        copy(path)?;
    }
    for dir in ["data", "var/log/nginx", "var/lib/nginx", "run", "srv"] {
        b.cx.dir.dir(&format!("root/{dir}"))?;
    }
    b.cx.dir.file("root/etc/passwd", "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")?;
    b.cx.dir.file("root/etc/group", "root:x:0:\nnogroup:x:65534:\n")?;
    let tar = b.cx.dir.p("app.tar").display().to_string();
    Out::of(Command::new("tar").args(["-C", &root.display().to_string(), "-cf", &tar, "."]))?.ok()?;
    let mut args = vec!["import", "-q", &tar, "app"];
    changes.iter().for_each(|change| args.extend(["-c", change]));
    b.says(&args)?;
    Ok(())
}

/// A port that nobody listens on.
fn free_port() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string())
}

/// Every word of a command line, and it must work; what it says.
fn told(program: &str, args: &[&str]) -> Result<String> {
    let out = Out::of(Command::new(program).args(args)).with_context(|| program.to_owned())?;
    Ok(out.ok().with_context(|| args.join(" "))?.stdout.trim().to_owned())
}

/// Ended by its own decision: within the time that it has, and with the code it ends with.
fn ended_in_order(b: &Shelf<'_>, said: &str) -> Result<()> {
    b.says(&["stop", "-t", "60", "web"])?;
    same!(b.says(&["wait", "web"])?, "0");
    let log = b.call(&["logs", "web"])?.ok()?;
    holds!(log.stdout.contains(said) || log.stderr.contains(said), "{log:?}");
    Ok(())
}

fn redis(cx: &mut Ctx) -> Result<()> {
    let (server, cli, bench) = (program("redis-server")?, program("redis-cli")?, program("redis-benchmark")?);
    let b = Shelf::new(cx)?;
    image(&b, &server, &["WORKDIR /data"])?;
    let port = free_port()?;
    let start = ["run", "-d", "--name", "web", "--network", "host", "app", &server, "--port", &port];
    b.says(&[&start[..], &["--bind", "127.0.0.1", "--appendonly", "yes", "--save", "5 1", "--dir", "/data"]].concat())?;
    let ask = |words: &[&str]| told(&cli, &[&["-p", &port], words].concat());
    let up = || until("redis answers", || Ok(ask(&["ping"]).is_ok_and(|said| said == "PONG")));
    up()?;
    let mut rounds = 0_u32;
    let begun = std::time::Instant::now();
    while begun.elapsed().as_secs() < seconds() {
        let args = ["-p", &port, "-q", "-n", "20000", "-c", "20", "-r", "5000", "-d", "200", "-t", "set,get,incr,lpush,hset"];
        let said = told(&bench, &args)?;
        // Each has a line with its speed, and there is no other.
        same!(said.matches("requests per second").count(), 5);
        rounds += 1;
        ask(&["set", "rounds", &rounds.to_string()])?;
    }
    // While it writes its memory down: a fork, a file that is renamed.
    ask(&["bgrewriteaof"])?;
    let keys = ask(&["dbsize"])?;
    ended_in_order(&b, "ready to exit, bye bye")?;
    for _ in 0..2 {
        b.says(&["start", "web"])?;
        up()?;
        same!((ask(&["dbsize"])?, ask(&["get", "rounds"])?), (keys.clone(), rounds.to_string()));
        ended_in_order(&b, "ready to exit, bye bye")?;
    }
    Ok(())
}

fn nginx(cx: &mut Ctx) -> Result<()> {
    let (server, wrk) = (program("nginx")?, program("wrk")?);
    let b = Shelf::new(cx)?;
    let port = free_port()?;
    let user = "user root root;";
    let conf = format!(
        "daemon off; {user} worker_processes 2; pid /run/nginx.pid; error_log /dev/stderr notice;
         events {{ worker_connections 512; }}
         http {{ access_log /data/access.log; client_body_temp_path /run/b; proxy_temp_path /run/p;
         fastcgi_temp_path /run/f; uwsgi_temp_path /run/u; scgi_temp_path /run/s;
         server {{ listen 127.0.0.1:{port}; root /srv; }} }}"
    );
    cx.dir.file("root/etc/app.conf", conf)?.file("root/srv/small", "hello\n")?.file("root/srv/big", "x".repeat(300_000))?;
    image(&b, &server, &["STOPSIGNAL SIGQUIT"])?;
    // SIGTERM, as all the world sends it; the image's own would be QUIT, which nginx waits with for its clients.
    let start = ["run", "-d", "--name", "web", "--network", "host", "--stop-signal", "TERM"];
    b.says(&[&start[..], &["app", &server, "-c", "/etc/app.conf"]].concat())?;
    let url = |name: &str| format!("http://127.0.0.1:{port}/{name}");
    let fetched = || Ok(TcpStreamOf(&port).get("/small").is_ok_and(|text| text.ends_with("hello\n")));
    until("nginx answers", fetched)?;
    let time = format!("{}s", seconds().div_ceil(2));
    let mut served = 0_u64;
    for name in ["small", "big"] {
        let said = told(&wrk, &["-t", "2", "-c", "20", "-d", &time, &url(name)])?;
        holds!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
        let count = said.lines().find_map(|l| l.trim().split_once(" requests in")).context("wrk says nothing")?.0;
        served += count.trim().parse::<u64>()?;
    }
    holds!(served > 100, "{served} requests");
    ended_in_order(&b, "exit")?;
    // What it wrote is there: a line for each request that was answered, the one of the first look too.
    let lines = |b: &Shelf<'_>| -> Result<u64> {
        b.says(&["cp", "web:/data/access.log", &cx.dir.p("log").display().to_string()])?;
        Ok(cx.dir.read("log")?.lines().count() as u64)
    };
    let before = lines(&b)?;
    holds!(before > served, "{before} lines for {served} requests");
    b.says(&["start", "web"])?;
    until("nginx answers", fetched)?;
    ended_in_order(&b, "exit")?;
    holds!(lines(&b)? > before, "the log does not go on");
    Ok(())
}

/// A plain request: no program needed for it.
struct TcpStreamOf<'a>(&'a str);

impl TcpStreamOf<'_> {
    fn get(&self, path: &str) -> std::io::Result<String> {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(format!("127.0.0.1:{}", self.0))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }
}
