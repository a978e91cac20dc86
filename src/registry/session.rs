//! A repository that is talked to: requests with what the registry wants to see, failures with what they mean.

use oci_spec::distribution::Reference;
use ureq::http::{HeaderName, Method, Uri, header};

use super::auth::{Auth, and};
use super::credentials::{Credentials, Secret};
use super::error::{Error, Kind};
use super::http::{Answer, Ask, Patience, Payload, Web, same_origin};
use super::manifest::{ACCEPT, LARGEST, Manifest};
use super::reference::is_loopback;
use super::trouble::{Trouble, may_pass, persist};
use super::{login, reference};
use crate::vocab::digest;

/// How registries are talked to.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether servers must prove who they are, and everything is encrypted. Off, one that does not speak TLS is talked
    /// to without; to this very machine that is allowed anyway.
    pub tls_verify: bool,
    /// Where secrets are looked for.
    pub credentials: Credentials,
    /// Time limits.
    pub patience: Patience,
    /// Blobs that move at the same time.
    pub jobs: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { tls_verify: true, credentials: Credentials::default(), patience: Patience::default(), jobs: 3 }
    }
}

/// What is wanted of a repository.
#[derive(Debug, Clone)]
pub enum Access {
    /// To read.
    Pull,
    /// To write; blobs may be taken over from these other repositories of the registry.
    Push(Vec<String>),
}

/// A conversation about one image of one repository.
#[derive(Debug)]
pub struct Session {
    pub(super) web: Web,
    pub(super) auth: Auth,
    pub(super) reference: Reference,
    pub(super) jobs: usize,
    /// Scheme and host.
    base: Uri,
}

impl Session {
    /// Begins one about `reference`. Nothing is asked of the registry yet but whether it speaks TLS, where it need not.
    pub fn open(reference: &Reference, access: &Access, options: &Options) -> Result<Self, Error> {
        let name = reference.repository();
        let scopes = match access {
            Access::Pull => vec![format!("repository:{name}:pull")],
            Access::Push(from) => {
                let others = from.iter().filter(|f| *f != name).map(|f| format!("repository:{f}:pull"));
                std::iter::once(format!("repository:{name}:pull,push")).chain(others).collect()
            }
        };
        Self::new(reference, options.credentials.find(reference)?, scopes, options)
    }

    /// Shows a secret to the registry `host`, to see whether it is let in.
    pub(super) fn greet(host: &str, secret: &Secret, options: &Options) -> Result<(), Error> {
        let reference = login::any_repository(host)?;
        let session = Self::new(&reference, Some(secret.clone()), Vec::new(), options)?;
        persist(&session.web.patience, || {
            let answer = session.call(host, Ask::new(Method::GET, session.url("/v2/")?))?;
            match answer.status().as_u16() {
                200 => Ok(()),
                404 => Err(Error::new(Kind::NotFound, format!("{host}: no registry answers there")).into()),
                _ => Err(session.fault(host, answer)),
            }
        })
    }

    fn new(
        reference: &Reference,
        secret: Option<Secret>,
        scopes: Vec<String>,
        options: &Options,
    ) -> Result<Self, Error> {
        let host = reference::host(reference);
        let web = Web::new(host, options.tls_verify, options.patience.clone());
        let scheme = scheme(&web, &reference.to_string(), host)?;
        let base = address(host, &format!("{scheme}://{host}"))?;
        let auth = Auth::new(reference.registry(), secret, scopes);
        Ok(Self { web, auth, reference: reference.clone(), jobs: options.jobs.max(1), base })
    }

    /// The repository with its registry, for messages.
    pub(super) fn name(&self) -> String {
        reference::repository(&self.reference)
    }

    /// An address on the registry, of a path that begins with a slash.
    pub(super) fn url(&self, path: &str) -> Result<Uri, Error> {
        let host = self.base.authority().map_or("", |a| a.as_str());
        address(host, &format!("{}://{host}{path}", self.base.scheme_str().unwrap_or("https")))
    }

    /// An address in the repository, such as `blobs/DIGEST`.
    pub(super) fn url_in(&self, path: &str) -> Result<Uri, Error> {
        self.url(&format!("/v2/{}/{path}", self.reference.repository()))
    }

    /// Sends it, showing what the registry wants to see; what comes back is anything but a 401.
    pub(super) fn call(&self, what: &str, mut ask: Ask<'_>) -> Result<Answer, Trouble> {
        let again = match ask.payload {
            Payload::Nothing => Some(Payload::Nothing),
            Payload::Bytes(bytes) => Some(Payload::Bytes(bytes)),
            Payload::Stream(..) => None,
        };
        let (method, url, headers) = (ask.method.clone(), ask.url.clone(), ask.headers.clone());
        let ours = same_origin(&url, &self.base);
        let tried = self.auth.header().filter(|_| ours);
        ask.authorization.clone_from(&tried);
        let answer = self.web.send(what, ask)?;
        if answer.status() != 401 {
            return Ok(answer);
        }
        // Whoever else asks for a password does not get one.
        if !ours || !same_origin(&answer.url, &self.base) {
            let text = format!("{what}: {} wants a password of its own", answer.url.host().unwrap_or("a server"));
            return Err(Error::new(Kind::Unauthorized, text).into());
        }
        let header = self.auth.answer(&self.web, what, tried.as_deref(), answer.response.headers())?;
        let Some(payload) = again else {
            // The stream is used up: its sender begins again.
            return Err(Trouble::passing(self.auth.refused(what)));
        };
        let answer = self.web.send(what, Ask { method, url, headers, authorization: Some(header), payload })?;
        if answer.status() == 401 {
            return Err(self.auth.refused(what).into());
        }
        Ok(answer)
    }

    /// What an answer means that is not the one that was hoped for.
    pub(super) fn fault(&self, what: &str, answer: Answer) -> Trouble {
        match answer.status().as_u16() {
            401 => self.auth.refused(what).into(),
            403 => self.auth.denied(what, &answer.complaint()).into(),
            404 => {
                let text = format!("{what}: the registry does not have it{}", and(&answer.complaint()));
                Error::new(Kind::NotFound, text).hint("are name and tag right?").into()
            }
            status => unexpected(what, status, answer),
        }
    }

    /// Fetches a manifest by tag or digest.
    pub(super) fn manifest(&self, reference: &Reference) -> Result<Manifest, Error> {
        let what = reference.to_string();
        let name = reference::tag_or_digest(reference);
        let (bytes, said, told) = persist(&self.web.patience, || {
            let ask = Ask::new(Method::GET, self.url_in(&format!("manifests/{name}"))?);
            let answer = self.call(&what, ask.header(header::ACCEPT, ACCEPT.join(", ")))?;
            if answer.status() != 200 {
                return Err(self.fault(&what, answer));
            }
            let said = answer.text(header::CONTENT_TYPE).map(str::to_owned);
            let told = answer.text(HeaderName::from_static("docker-content-digest")).map(str::to_owned);
            Ok((answer.bytes(&what, &self.web.patience, LARGEST)?, said, told))
        })?;
        let came = digest::of(&bytes);
        let wanted = reference.digest().or(told.as_deref().filter(|d| d.starts_with("sha256:")));
        if let Some(wanted) = wanted.filter(|w| *w != came.as_ref()) {
            let text = format!("{what}: the manifest that came is {came}, not {}", super::error::tame(wanted));
            return Err(Error::new(Kind::Content, text).hint("do not trust this registry, or what is between"));
        }
        Manifest::read(&what, bytes, said.as_deref())
    }
}

/// `https` or `http`: where both are allowed, what the registry speaks. On this very machine the cheap one is tried
/// first, elsewhere the safe one.
fn scheme(web: &Web, what: &str, host: &str) -> Result<&'static str, Error> {
    if !web.may_be_plain(host) {
        return Ok("https");
    }
    let ask = |scheme: &str| web.send(what, Ask::new(Method::GET, address(host, &format!("{scheme}://{host}/v2/"))?));
    if is_loopback(host) {
        return match ask("http") {
            // As servers put it that want TLS: by a redirect, by 400, or by what is not HTTP.
            Ok(answer) if answer.status() == 400 || answer.url.scheme_str() == Some("https") => Ok("https"),
            Err(trouble) if matches!(trouble.error.kind(), Kind::Unreachable | Kind::Malformed) => Ok("https"),
            Err(trouble) if trouble.error.kind() == Kind::Stalled => Err(trouble.error),
            Ok(_) | Err(_) => Ok("http"),
        };
    }
    match ask("https") {
        Ok(_) => Ok("https"),
        Err(trouble) if matches!(trouble.error.kind(), Kind::Stalled | Kind::Untrusted) => Err(trouble.error),
        Err(trouble) => {
            log::debug!("{}: trying without TLS", trouble.error);
            Ok("http")
        }
    }
}

fn address(what: &str, text: &str) -> Result<Uri, Error> {
    text.parse().map_err(|e| Error::new(Kind::Reference, format!("{what}: no address of a registry: {e}")))
}

/// An answer that nobody wants, in words.
pub(super) fn unexpected(what: &str, status: u16, answer: Answer) -> Trouble {
    let headers = answer.response.headers().clone();
    let reason = answer.status().canonical_reason().unwrap_or("no status of HTTP").to_owned();
    let said = and(&answer.complaint());
    match may_pass(status) {
        Some(Kind::TooMany) => {
            let text = format!("{what}: the registry is asked too much (429){said}");
            let hint = "wait, or log in: registries allow more to those they know";
            Trouble::told(Error::new(Kind::TooMany, text).hint(hint), &headers)
        }
        Some(kind) => {
            let text = format!("{what}: the registry fails: {status} {reason}{said}");
            Trouble::told(Error::new(kind, text).hint("the fault is the registry's; try again later"), &headers)
        }
        None => Error::new(Kind::Server, format!("{what}: the registry answers {status} {reason}{said}")).into(),
    }
}
