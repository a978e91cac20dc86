//! One request over HTTP: time limits, redirects, and what may go unencrypted.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use ureq::http::uri::Authority;
use ureq::http::{HeaderName, Method, Request, Response, StatusCode, Uri, header};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body, SendBody};

use super::error::{Error, Kind, tame};
use super::reference::is_loopback;
use super::trouble::Trouble;

/// How long to wait for what, and how often to try.
#[derive(Debug, Clone)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the next bytes in either direction.
    pub stall: Duration,
    /// Attempts at one thing, the first one included.
    pub tries: u32,
    /// Before the second attempt; doubled for each one after.
    pub pause: Duration,
    /// The longest pause, also where the registry asks for one.
    pub longest_pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(20),
            stall: Duration::from_secs(60),
            tries: 5,
            pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(60),
        }
    }
}

/// How many redirects are followed.
const REDIRECTS: u32 = 5;
/// How much of an error's body is looked at.
const ERROR_BODY: u64 = 16 << 10;

/// What is asked of a server.
#[derive(Debug)]
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) url: Uri,
    pub(super) headers: Vec<(HeaderName, String)>,
    /// The header Authorization: only for the server of `url`.
    pub(super) authorization: Option<String>,
    pub(super) payload: Payload<'a>,
}

/// What goes along with a request.
pub(super) enum Payload<'a> {
    Nothing,
    Bytes(&'a [u8]),
    /// So many bytes of it.
    Stream(&'a mut dyn Read, u64),
}

impl Read for Payload<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Nothing => Ok(0),
            Self::Bytes(bytes) => bytes.read(buffer),
            Self::Stream(reader, _) => reader.read(buffer),
        }
    }
}

impl std::fmt::Debug for Payload<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Stream(_, size) => write!(f, "a stream of {size} bytes"),
        }
    }
}

impl<'a> Ask<'a> {
    pub(super) fn new(method: Method, url: Uri) -> Self {
        Self { method, url, headers: Vec::new(), authorization: None, payload: Payload::Nothing }
    }

    pub(super) fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn payload(mut self, payload: Payload<'a>) -> Self {
        self.payload = payload;
        self
    }
}

/// What came back, and from where in the end.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) response: Response<Body>,
    pub(super) url: Uri,
}

impl Answer {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// A header's value, if it is text.
    pub(super) fn text(&self, name: HeaderName) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The body, which is not to be longer than `limit` bytes.
    pub(super) fn bytes(self, what: &str, patience: &Patience, limit: u64) -> Result<Vec<u8>, Trouble> {
        let mut bytes = Vec::new();
        let mut reader = self.response.into_body().into_reader().take(limit + 1);
        reader.read_to_end(&mut bytes).map_err(|e| broken(what, patience, e))?;
        if bytes.len() as u64 > limit {
            let text = format!("{what}: the answer is larger than {limit} bytes, which is refused");
            return Err(Error::new(Kind::Content, text).hint("no honest image needs that much").into());
        }
        Ok(bytes)
    }

    /// What the registry says went wrong (OCI distribution specification, error codes), or nothing.
    pub(super) fn complaint(self) -> String {
        #[derive(serde::Deserialize)]
        struct Complaint {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: String,
        }
        #[derive(serde::Deserialize)]
        struct Complaints {
            errors: Vec<Complaint>,
        }
        let mut body = Vec::new();
        // It is only for the message; the status has been told.
        if self.response.into_body().into_reader().take(ERROR_BODY).read_to_end(&mut body).is_err() {
            return String::new();
        }
        let Ok(said) = serde_json::from_slice::<Complaints>(&body) else { return String::new() };
        let words = said.errors.into_iter().map(|c| if c.message.is_empty() { c.code } else { c.message });
        tame(&words.collect::<Vec<_>>().join("; "))
    }
}

/// A client: connections are kept for the next request.
#[derive(Debug)]
pub(super) struct Web {
    agent: Agent,
    pub(super) patience: Patience,
    tls_verify: bool,
}

impl Web {
    /// `host` is whom most requests are for.
    pub(super) fn new(host: &str, tls_verify: bool, patience: Patience) -> Self {
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::PlatformVerifier)
            .disable_verification(!tls_verify)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let mut config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            // Followed here: who gets to see the Authorization header is our affair.
            .max_redirects(0)
            .user_agent(concat!("onlay/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(patience.connect))
            .timeout_connect(Some(patience.connect))
            .timeout_per_read(Some(patience.stall))
            .timeout_per_write(Some(patience.stall))
            .max_idle_connections_per_host(8);
        if is_loopback(host) {
            // No proxy can reach it.
            config = config.proxy(None);
        }
        Self { agent: config.build().new_agent(), patience, tls_verify }
    }

    /// Whether requests to `authority` may go unencrypted: to this very machine, or when told so.
    pub(super) fn may_be_plain(&self, authority: &str) -> bool {
        !self.tls_verify || is_loopback(authority)
    }

    /// Sends it, follows redirects, returns whatever is answered. `what` it is about is for messages.
    pub(super) fn send(&self, what: &str, ask: Ask<'_>) -> Result<Answer, Trouble> {
        let Ask { method, mut url, headers, mut authorization, mut payload } = ask;
        let first = url.clone();
        for _ in 0..=REDIRECTS {
            self.check(what, &url)?;
            let mut request = Request::builder().method(method.clone()).uri(url.clone());
            for (name, value) in &headers {
                request = request.header(name, value);
            }
            if let Some(value) = &authorization {
                request = request.header(header::AUTHORIZATION, value);
            }
            log::debug!("{method} {url}");
            // Only what has no payload is sent more than once.
            let response = self.run(what, request, std::mem::replace(&mut payload, Payload::Nothing))?;
            let status = response.status();
            log::debug!("{method} {url}: {status}");
            if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(Answer { response, url });
            }
            if method != Method::GET && method != Method::HEAD {
                let text = format!("{what}: the registry redirects a {method}, which is not followed");
                return Err(Error::new(Kind::Redirect, text).into());
            }
            let next = location(what, &url, response.headers().get(header::LOCATION))?;
            if !same_origin(&next, &first) {
                authorization = None;
            }
            url = next;
        }
        Err(Error::new(Kind::Redirect, format!("{what}: redirected more than {REDIRECTS} times")).into())
    }

    fn run(
        &self,
        what: &str,
        request: ureq::http::request::Builder,
        mut payload: Payload<'_>,
    ) -> Result<Response<Body>, Trouble> {
        let size = match payload {
            Payload::Nothing => None,
            Payload::Bytes(bytes) => Some(bytes.len() as u64),
            Payload::Stream(_, size) => Some(size),
        };
        let wrong = |e: ureq::http::Error| Error::new(Kind::Malformed, format!("{what}: {e}"));
        // Some registries insist on a length also where there is nothing.
        let bare = matches!(request.method_ref(), Some(&(Method::GET | Method::HEAD)) | None);
        let answer = match size.or(if bare { None } else { Some(0) }) {
            None => self.agent.run(request.body(()).map_err(wrong)?),
            Some(size) => {
                let body = SendBody::from_reader(&mut payload);
                self.agent.run(request.header(header::CONTENT_LENGTH, size).body(body).map_err(wrong)?)
            }
        };
        answer.map_err(|e| failed(what, &self.patience, e))
    }

    /// Whether we go there at all.
    pub(super) fn check(&self, what: &str, url: &Uri) -> Result<(), Error> {
        let refuse =
            |why: &str| Err(Error::new(Kind::Redirect, format!("{what}: sent to {}, {why}", tame(&url.to_string()))));
        let Some(authority) = url.authority() else { return refuse("which has no host") };
        if authority.as_str().contains('@') {
            return refuse("with a password of its own");
        }
        match url.scheme_str() {
            Some("https") => Ok(()),
            Some("http") if self.may_be_plain(authority.as_str()) => Ok(()),
            Some("http") => match refuse("which is not encrypted") {
                Err(e) => Err(e.hint("--tls-verify=false allows it")),
                ok => ok,
            },
            _ => refuse("which is neither http nor https"),
        }
    }
}

/// Whether both are one server: scheme, host and port.
pub(super) fn same_origin(a: &Uri, b: &Uri) -> bool {
    let port = |u: &Uri| u.port_u16().or(if u.scheme_str() == Some("https") { Some(443) } else { Some(80) });
    let host = |u: &Uri| u.host().map(str::to_ascii_lowercase);
    a.scheme_str() == b.scheme_str() && host(a) == host(b) && port(a) == port(b)
}

/// Where a Location header points, seen from `base` (RFC 3986, 5.2: absolute, of the same scheme, or a path).
pub(super) fn location(what: &str, base: &Uri, value: Option<&header::HeaderValue>) -> Result<Uri, Error> {
    let wrong = |text: &str| {
        Error::new(Kind::Redirect, format!("{what}: the registry sends us to {:?}, which is no address", tame(text)))
    };
    let value =
        value.ok_or_else(|| Error::new(Kind::Redirect, format!("{what}: the registry does not say where to go")))?;
    let text = String::from_utf8_lossy(value.as_bytes());
    let scheme = base.scheme_str().unwrap_or("https");
    let authority = base.authority().map_or("", Authority::as_str);
    // A fragment is not sent.
    let to = text.split('#').next().unwrap_or_default().trim();
    let absolute = if to.contains("://") && !to.starts_with('/') {
        to.to_owned()
    } else if to.starts_with("//") {
        format!("{scheme}:{to}")
    } else if to.starts_with('/') {
        format!("{scheme}://{authority}{to}")
    } else if to.is_empty() || to.split(['/', '?']).next().is_some_and(|first| first.contains(':')) {
        return Err(wrong(&text));
    } else {
        let dir = base.path().rsplit_once('/').map_or("", |(dir, _)| dir);
        format!("{scheme}://{authority}{dir}/{to}")
    };
    absolute.parse().map_err(|_| wrong(&text))
}

/// The words for a request that got no answer.
fn failed(what: &str, patience: &Patience, e: ureq::Error) -> Trouble {
    match e {
        ureq::Error::Timeout(_) => stalled(what, patience),
        ureq::Error::Io(e) => broken(what, patience, e),
        ureq::Error::HostNotFound => unreachable(what, "there is no host of this name").into(),
        ureq::Error::Rustls(e) => tls(what, &e).into(),
        ureq::Error::Tls(e) => unreachable(what, e).into(),
        ureq::Error::Protocol(e) => {
            Error::new(Kind::Malformed, format!("{what}: the answer is not HTTP: {}", tame(&e.to_string()))).into()
        }
        ureq::Error::BadUri(e) => Error::new(Kind::Malformed, format!("{what}: {}", tame(&e))).into(),
        e => Trouble::passing(unreachable(what, &e.to_string())),
    }
}

/// The words for a connection that broke while it was read from.
pub(super) fn broken(what: &str, patience: &Patience, e: io::Error) -> Trouble {
    if e.get_ref().is_some_and(|e| e.is::<ureq::Error>()) {
        return failed(what, patience, e.into());
    }
    if matches!(e.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) {
        return stalled(what, patience);
    }
    // TLS has its say in what the I/O error is made of.
    if let Some(e) = e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
        return tls(what, e).into();
    }
    let why = match e.get_ref().and_then(|e| e.source()) {
        Some(source) => source.to_string(),
        None => crate::vocab::why(&e),
    };
    match e.kind() {
        io::ErrorKind::ConnectionRefused => unreachable(what, &why).into(),
        _ => Trouble::passing(unreachable(what, &why)),
    }
}

fn stalled(what: &str, patience: &Patience) -> Trouble {
    let text = format!("{what}: the registry stalls: nothing for {} s", patience.stall.as_secs_f32());
    Trouble::passing(Error::new(Kind::Stalled, text).hint("the same command goes on where this one stopped"))
}

fn unreachable(what: &str, why: &str) -> Error {
    Error::new(Kind::Unreachable, format!("{what}: {}", tame(why)))
        .hint("is the registry's name right, and does it run there?")
}

fn tls(what: &str, e: &rustls::Error) -> Error {
    let why = tame(&e.to_string());
    if !matches!(e, rustls::Error::InvalidCertificate(_)) {
        return unreachable(what, &format!("it does not speak TLS as it should: {why}"));
    }
    let hint = if why.contains("CaUsedAsEndEntity") {
        "its certificate is that of an authority: give it one of its own (CA:FALSE), or say --tls-verify=false"
    } else {
        "add its certificate's authority to the system's, or say --tls-verify=false"
    };
    Error::new(Kind::Untrusted, format!("{what}: no trust in the registry: {why}")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(base: &str, location_: &str) -> Option<String> {
        let value = header::HeaderValue::from_bytes(location_.as_bytes()).unwrap();
        location("x", &base.parse().unwrap(), Some(&value)).ok().map(|u| u.to_string())
    }

    #[test]
    fn locations() {
        let base = "https://a:1/v2/x/uploads/1?q=2";
        for (given, resolved) in [
            ("https://b/c?d", Some("https://b/c?d")),
            ("//b/c", Some("https://b/c")),
            ("/c?url=http://x", Some("https://a:1/c?url=http://x")),
            ("c", Some("https://a:1/v2/x/uploads/c")),
            ("/c#part", Some("https://a:1/c")),
            ("", None),
            ("mailto:x", None),
            ("https://", None),
            ("file:///etc/passwd", None),
            ("https://a b/", None),
        ] {
            assert_eq!(to(base, given).as_deref(), resolved, "{given:?}");
        }
    }

    #[test]
    fn where_we_do_not_go() {
        let strict = Web::new("a", true, Patience::default());
        let lax = Web::new("a", false, Patience::default());
        let may = |web: &Web, url: &str| web.check("x", &url.parse().unwrap()).is_ok();
        assert!(may(&strict, "https://a/") && may(&strict, "http://127.0.0.1:1/") && may(&lax, "http://a/"));
        for url in ["http://a/", "ftp://a/", "https://u:p@a/", "http://127.0.0.1@a/"] {
            assert!(!may(&strict, url), "{url}");
        }
        assert!(!may(&lax, "ftp://a/"));
    }

    #[test]
    fn one_server_is_scheme_host_and_port() {
        let same = |a: &str, b: &str| same_origin(&a.parse().unwrap(), &b.parse().unwrap());
        assert!(same("https://a/x", "https://A:443/y"));
        for other in ["http://a/", "https://a:444/", "https://b/", "https://a.b/"] {
            assert!(!same("https://a/", other), "{other}");
        }
    }
}
