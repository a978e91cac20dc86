//! A history as people make it: a bare Debian, a server added, another one, sent away, forgotten, fetched, run.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::images::{nothing_left, onlay, says};
use super::real_system::{AUTHORITIES, base, free_ports, tail};
use crate::case::User;
use crate::ctx::Ctx;
use crate::docker_registry::Registry;
use crate::tree::{cases, holds, same};

cases!("real_history": two_servers.onlay().by(&[User::Root, User::Ordinary]).slow(900));

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Before the first package: the machine's authorities (standard input), and no init that starts services.
const PREPARE: &str = "mkdir -p /etc/ssl/certs; cat > /tmp/ca
if [ -s /tmp/ca ]; then cp /tmp/ca /etc/ssl/certs/ca-certificates.crt; fi; rm /tmp/ca
printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d
apt-get -qq update";
/// What the image of both runs; `$REDIS` and `$HTTP` are ports.
const BOTH: &str = "redis-server --port $REDIS --bind 127.0.0.1 --daemonize yes --dir /var/lib/redis
echo \"events {} http { server { listen 127.0.0.1:$HTTP; root /srv/www; } }\" > /tmp/nginx.conf
exec nginx -c /tmp/nginx.conf -g 'daemon off;'";

fn two_servers(cx: &mut Ctx) -> Result<()> {
    let tar = base(cx)?.display().to_string();
    let registry = Registry::start(&cx.dir, "registry", false)?;
    let [bare, redis, site] = ["bare", "redis", "both"].map(|tag| format!("{}/site:{tag}", registry.host));
    says(cx, &["import", "-q", &tar, &bare, "--change", "CMD [\"bash\"]"])?;
    install(cx, "one", &bare, &format!("{PREPARE}\napt-get -qq install -y redis-server"))?;
    says(cx, &["commit", "-q", "-m", "redis", "one", &redis])?;
    install(cx, "two", &redis, "apt-get -qq install -y nginx-light; mkdir -p /srv/www; echo served > /srv/www/x")?;
    let command = format!("CMD {}", json!(["bash", "-euc", BOTH]));
    says(cx, &["commit", "-q", "-m", "nginx", "--change", &command, "--change", "EXPOSE 80 6379", "two", &site])?;
    let sizes = sizes_are_of_deltas(cx, &[&bare, &redis, &site])?;
    for name in [&bare, &redis, &site] {
        let asked = registry.during(|| says(cx, &["push", "-q", name]).map(drop))?;
        same!((name, asked.sent()), (name, (2, 1)));
    }
    let before = says(cx, &["inspect", &site])?;
    says(cx, &["rm", "one", "two"])?;
    says(cx, &["rmi", &bare, &redis, &site])?;
    nothing_left(cx)?;
    let asked = registry.during(|| says(cx, &["pull", "-q", &site]).map(drop))?;
    same!(asked.fetched(), (4, 1));
    same!(says(cx, &["inspect", &site])?, before);
    for (name, blobs) in [(&redis, 1), (&bare, 1)] {
        let asked = registry.during(|| says(cx, &["pull", "-q", name]).map(drop))?;
        same!((name, asked.fetched()), (name, (blobs, 1)));
    }
    same!(sizes_are_of_deltas(cx, &[&bare, &redis, &site])?, sizes);
    served(cx, &site)
}

/// Runs a script in a new container of the image, with the machine's network.
fn install(cx: &Ctx, name: &str, image: &str, script: &str) -> Result<()> {
    let store = cx.dir.p("store");
    let mut cmd = Command::new(cx.binary());
    cmd.arg("--root").arg(store).args(["run", "-i", "--name", name, "--network", "host", "-e", "DEBIAN_FRONTEND=noninteractive"]);
    for name in ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"] {
        if std::env::var_os(name).is_some() {
            cmd.args(["-e", name]);
        }
    }
    cmd.args([image, "bash", "-euc", &format!("{script}\ndpkg --audit; dpkg --verify")]);
    let stdin = File::open(AUTHORITIES).or_else(|_| File::open("/dev/null"))?;
    let out = cmd.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).current_dir("/").spawn()?.wait_with_output()?;
    let said = [out.stdout, out.stderr].map(|text| tail(&String::from_utf8_lossy(&text), 20)).join("\n");
    holds!(out.status.success(), "{name}: {}: {said}", out.status);
    Ok(())
}

/// What `images` and `history` tell of the sizes: each image adds what its own layer has, and no more; the sums are whole.
fn sizes_are_of_deltas(cx: &Ctx, names: &[&str]) -> Result<Vec<u64>> {
    let list: Value = serde_json::from_str(&says(cx, &["images", "--format", "json"])?)?;
    let mut adds = Vec::new();
    let mut whole = 0;
    for (i, name) in names.iter().enumerate() {
        let tag = name.rsplit(':').next().context("a tag")?;
        let row = list.as_array().and_then(|rows| rows.iter().find(|r| r["tag"] == tag)).context("no such row")?;
        let layer = row["adds"].as_u64().context("adds")?;
        whole += layer;
        same!((name, row["size"].as_u64(), row["layers"].as_u64()), (name, Some(whole), Some(i as u64 + 1)));
        let history: Value = serde_json::from_str(&says(cx, &["history", "--format", "json", name])?)?;
        same!((name, history[0]["size"].as_u64()), (name, Some(layer)));
        adds.push(layer);
    }
    // The packages of one server, not the system over again.
    holds!(adds[0] > 100_000_000 && adds[1..].iter().all(|n| (1_000_000..adds[0]).contains(n)), "{adds:?}");
    holds!(adds[2] < adds[0] / 2, "nginx and what it needs have {} bytes: {adds:?}", adds[2]);
    println!("base, redis, nginx: {adds:?} bytes");
    Ok(adds)
}

/// Runs the image in the background: both servers answer.
fn served(cx: &Ctx, site: &str) -> Result<()> {
    let (http, redis) = free_ports()?;
    let (h, r) = (format!("HTTP={http}"), format!("REDIS={redis}"));
    says(cx, &["run", "-d", "--name", "site", "--network", "host", "-e", &h, "-e", &r, site])?;
    let answered = answers(redis, "PING\r\nQUIT\r\n", "+PONG\r\n")
        .and_then(|()| answers(http, "GET /x HTTP/1.0\r\n\r\n", "served\n"))
        .and_then(|()| says(cx, &["exec", "site", "redis-cli", "-p", &redis.to_string(), "incr", "n"]));
    let stopped = onlay(cx, &["stop", "site"])?;
    let log = onlay(cx, &["logs", "site"])?;
    same!(answered.with_context(|| format!("the container said: {log:?}"))?, "1");
    stopped.ok()?;
    says(cx, &["rm", "site"])?;
    Ok(())
}

/// Asks until the port answers so.
fn answers(port: u16, question: &str, answer: &str) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let mut said = String::new();
        let asked = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(question.as_bytes())?;
            stream.read_to_string(&mut said)
        });
        if said.contains(answer) {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("port {port} answers {said:?} ({asked:?}) to {question:?}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
