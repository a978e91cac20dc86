//! Debian's `docker-registry` on loopback, whose own log says what was asked of it.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::case::skip;
use crate::ctx::Out;
use crate::tree::Tree;

/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(30);
/// Debian's program.
pub(crate) const PROGRAM: &str = "/usr/bin/docker-registry";
/// Who may log in where a login is wanted, and the line of htpasswd(1) for it (bcrypt, the one that the registry takes).
pub(crate) const LOGIN: (&str, &str) = ("me", "sesame");
const HTPASSWD: &str = "me:$2b$04$okzfueknvV8Zow.pcxMm.OAz1j4B2lJLw3B7p3kliWsVJruz4dXLq\n";

/// A running registry; it ends with this.
#[derive(Debug)]
pub(crate) struct Registry {
    child: Child,
    /// `127.0.0.1:PORT`.
    pub(crate) host: String,
    log: std::path::PathBuf,
}

/// One request, by the registry's log.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) status: u16,
    /// Of the answer.
    pub(crate) bytes: u64,
}

impl Registry {
    /// Starts one that keeps its things in `dir/name`; `login` tells whether it lets in only whom it knows.
    pub(crate) fn start(dir: &Tree, name: &str, login: bool) -> Result<Self> {
        let auth = format!("auth: {{htpasswd: {{realm: tests, path: {}/htpasswd}}}}\n", dir.p(name).display());
        Self::start_with(dir, name, if login { &auth } else { "" }, "")
    }

    /// Starts one that speaks TLS alone, with a certificate that only `dir/name/cert.pem` vouches for.
    pub(crate) fn start_tls(dir: &Tree, name: &str) -> Result<Self> {
        let at = dir.dir(name)?.p(name);
        let mut cmd = Command::new("openssl");
        cmd.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]);
        cmd.args([
            "-subj",
            "/CN=tests",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-keyout",
            "key.pem",
            "-out",
            "cert.pem",
        ]);
        match Out::of(cmd.current_dir(&at)) {
            Err(_) => return Err(skip("there is no openssl")),
            made => made?.ok()?,
        };
        let tls = format!(", tls: {{certificate: {0}/cert.pem, key: {0}/key.pem}}", at.display());
        Self::start_with(dir, name, "", &tls)
    }

    fn start_with(dir: &Tree, name: &str, auth: &str, tls: &str) -> Result<Self> {
        if !Path::new(PROGRAM).exists() {
            return Err(skip("there is no docker-registry"));
        }
        dir.dir(name)?;
        let dir = Tree(dir.p(name));
        let log = dir.p("log");
        dir.file("htpasswd", HTPASSWD)?;
        let end = Instant::now() + PATIENCE;
        loop {
            // Free at this moment; another one is tried if it is taken in the next.
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
            let host = format!("127.0.0.1:{port}");
            dir.file(
                "c.yml",
                format!(
                    "version: 0.1\nlog: {{level: info}}\nhttp: {{addr: \"{host}\"{tls}}}\n{auth}\
                     storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n",
                    dir.p("data").display()
                ),
            )?;
            let out = File::create(&log)?;
            let mut cmd = Command::new(PROGRAM);
            cmd.arg("serve").arg(dir.p("c.yml")).env("OTEL_TRACES_EXPORTER", "none");
            let child = cmd.stdout(out.try_clone()?).stderr(out).spawn().context(PROGRAM)?;
            let mut registry = Self { child, host, log: log.clone() };
            while registry.child.try_wait()?.is_none() {
                if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                    return Ok(registry);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            if Instant::now() > end {
                bail!("docker-registry does not start: {}", fs::read_to_string(&log)?);
            }
        }
    }

    /// What was asked so far.
    pub(crate) fn requests(&self) -> Result<Vec<Request>> {
        // 127.0.0.1 - - [date] "GET /v2/ HTTP/1.1" 200 2 "" "agent"
        let parse = |line: &str| {
            let mut parts = line.split('"');
            let mut request = parts.nth(1)?.split(' ');
            let mut answer = parts.next()?.split_whitespace();
            Some(Request {
                method: request.next()?.to_owned(),
                path: request.next()?.to_owned(),
                status: answer.next()?.parse().ok()?,
                bytes: answer.next()?.parse().ok()?,
            })
        };
        let text = fs::read_to_string(&self.log)?;
        Ok(text.lines().filter(|l| l.starts_with("127.0.0.1 ")).filter_map(parse).collect())
    }

    /// What `work` asks of it.
    pub(crate) fn during(&self, work: impl FnOnce() -> Result<()>) -> Result<Asked> {
        let before = self.requests()?.len();
        work()?;
        Ok(Asked(self.requests()?.split_off(before)))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A way to a registry on which answers stop coming after some bytes, until it is opened.
#[derive(Debug)]
pub(crate) struct Gate {
    /// `127.0.0.1:PORT`.
    pub(crate) host: String,
    open: Arc<AtomicBool>,
}

impl Gate {
    /// All connections together get `bytes` from `registry`.
    pub(crate) fn before(registry: &Registry, bytes: usize) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let host = listener.local_addr()?.to_string();
        let (open, left) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(bytes)));
        let (to, flag) = (registry.host.clone(), open.clone());
        // It goes with the case's process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&to) else { return };
                let (Ok(client2), Ok(server2)) = (client.try_clone(), server.try_clone()) else { return };
                let (flag, left) = (flag.clone(), left.clone());
                std::thread::spawn(move || pass(client2, server2, |_| {}));
                std::thread::spawn(move || {
                    pass(server, client, |n| {
                        let through = |left: usize| left.checked_sub(n);
                        while left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, through).is_err() {
                            if flag.load(Ordering::SeqCst) {
                                break;
                            }
                            std::thread::sleep(Duration::from_millis(10));
                        }
                    });
                });
            }
        });
        Ok(Self { host, open })
    }

    /// Everything comes through from now on.
    pub(crate) fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
    }
}

/// Passes bytes on until one side is gone.
fn pass(mut from: TcpStream, mut to: TcpStream, wait: impl Fn(usize)) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(n) = from.read(&mut buffer) {
        if n == 0 {
            break;
        }
        wait(n);
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    // It may be gone already.
    to.shutdown(std::net::Shutdown::Both).ok();
}

/// Requests of some time.
#[derive(Debug)]
pub(crate) struct Asked(pub(crate) Vec<Request>);

impl Asked {
    /// How many of this kind had this status.
    pub(crate) fn count(&self, method: &str, part: &str, status: u16) -> usize {
        self.0.iter().filter(|r| r.method == method && r.path.contains(part) && r.status == status).count()
    }

    /// Blobs and manifests that were fetched.
    pub(crate) fn fetched(&self) -> (usize, usize) {
        let get = |part| self.count("GET", part, 200) + self.count("GET", part, 206);
        (get("/blobs/"), get("/manifests/"))
    }

    /// Blobs and manifests that were sent.
    pub(crate) fn sent(&self) -> (usize, usize) {
        (self.count("PUT", "/blobs/uploads/", 201), self.count("PUT", "/manifests/", 201))
    }
}
