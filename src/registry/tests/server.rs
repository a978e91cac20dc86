//! A registry that does as it is told: one closure answers all requests. On loopback, for as long as a test takes.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// What came.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) method: String,
    /// Path and query.
    pub(super) path: String,
    /// Names in lower case.
    pub(super) headers: HashMap<String, String>,
    pub(super) body: Vec<u8>,
}

impl Call {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub(super) fn is(&self, method: &str, part: &str) -> bool {
        self.method == method && self.path.contains(part)
    }
}

/// What is answered.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Close after so many bytes of the body, whatever the length says.
    cut: Option<usize>,
    /// Say no more after so many bytes of the body, until the test is over.
    stall: Option<usize>,
}

impl Reply {
    pub(super) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), cut: None, stall: None }
    }

    pub(super) fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub(super) fn cut(mut self, after: usize) -> Self {
        self.cut = Some(after);
        self
    }

    pub(super) fn stall(mut self, after: usize) -> Self {
        self.stall = Some(after);
        self
    }

    /// Without a length: the body ends when the connection does.
    pub(super) fn until_closed(mut self) -> Self {
        self.cut = Some(self.body.len());
        self.with("Connection", "close")
    }

    /// A blob, or the part of it that is asked for.
    pub(super) fn blob(call: &Call, bytes: &[u8]) -> Self {
        match call.header("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok()) {
            Some(from) => {
                let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                Self::new(206, &bytes[from..]).with("Content-Range", range)
            }
            None => Self::new(200, bytes),
        }
    }
}

/// A registry on loopback.
pub(super) struct Server {
    address: SocketAddr,
    calls: Arc<Mutex<Vec<Call>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

type Script = dyn Fn(&Call) -> Reply + Send + Sync;

impl Server {
    pub(super) fn start(script: impl Fn(&Call) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (calls, over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let script: Arc<Script> = Arc::new(script);
        let (log, end) = (calls.clone(), over.clone());
        let thread = std::thread::spawn(move || {
            let mut open = Vec::new();
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    break;
                }
                let (stream, script, log, end) = (stream.unwrap(), script.clone(), log.clone(), end.clone());
                open.push(std::thread::spawn(move || serve(&stream, &*script, &log, &end)));
            }
            open.into_iter().for_each(|t| t.join().unwrap());
        });
        Self { address, calls, over, thread: Some(thread) }
    }

    pub(super) fn host(&self) -> String {
        self.address.to_string()
    }

    /// What came so far.
    pub(super) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    /// How many requests of this kind came.
    pub(super) fn count(&self, method: &str, part: &str) -> usize {
        self.calls().iter().filter(|c| c.is(method, part)).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the one who accepts.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// Answers requests on one connection until the other side is gone.
fn serve(stream: &TcpStream, script: &Script, log: &Mutex<Vec<Call>>, over: &AtomicBool) {
    // So that an end of the test is seen.
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut reader = BufReader::new(stream);
    while let Some(call) = read(&mut reader, over) {
        let head = call.method == "HEAD";
        let reply = script(&call);
        log.lock().unwrap().push(call);
        if write(stream, &reply, head, over).is_err() {
            return;
        }
    }
}

fn line(reader: &mut BufReader<&TcpStream>, over: &AtomicBool) -> Option<String> {
    let mut line = Vec::new();
    loop {
        match reader.read_until(b'\n', &mut line) {
            Ok(_) if line.ends_with(b"\n") => return String::from_utf8(line).ok().map(|l| l.trim_end().to_owned()),
            Ok(_) => return None,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock && !over.load(Ordering::SeqCst) => {}
            Err(_) => return None,
        }
        // A handshake of TLS, of which we know nothing.
        if line.first() == Some(&0x16) {
            return None;
        }
    }
}

fn read(reader: &mut BufReader<&TcpStream>, over: &AtomicBool) -> Option<Call> {
    let first = line(reader, over)?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let line = line(reader, over)?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |l| l.parse::<usize>().unwrap());
    let mut body = vec![0; length];
    let mut done = 0;
    while done < length {
        match reader.read(&mut body[done..]) {
            Ok(0) => return None,
            Ok(n) => done += n,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock && !over.load(Ordering::SeqCst) => {}
            Err(_) => return None,
        }
    }
    Some(Call { method, path, headers, body })
}

fn write(mut stream: &TcpStream, reply: &Reply, head: bool, over: &AtomicBool) -> std::io::Result<()> {
    let mut text = format!("HTTP/1.1 {} Told So\r\n", reply.status);
    if !reply.headers.iter().any(|(k, _)| k == "Connection") {
        text.push_str(&format!("Content-Length: {}\r\n", reply.body.len()));
    }
    for (name, value) in &reply.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all((text + "\r\n").as_bytes())?;
    if head {
        return Ok(());
    }
    let end = reply.cut.or(reply.stall).unwrap_or(reply.body.len());
    stream.write_all(&reply.body[..end])?;
    if reply.cut.is_some() {
        stream.shutdown(std::net::Shutdown::Both)?;
        return Err(std::io::ErrorKind::ConnectionAborted.into());
    }
    while reply.stall.is_some() && !over.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
