//! What the registry wants to see before it answers: a password, or a token that somebody else gives for it (OCI
//! distribution specification, authentication; Docker Registry v2 token and OAuth 2 authentication).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http_auth::ChallengeRef;
use parking_lot::Mutex;
use serde::Deserialize;
use ureq::http::{HeaderMap, Method, Uri, header};

use super::credentials::Secret;
use super::error::{Error, Kind, tame};
use super::http::{Ask, Payload, Web};
use super::trouble::persist;

/// The longest answer of a token server.
const TOKEN: u64 = 1 << 20;

/// The key to one registry, for some of its repositories.
#[derive(Debug)]
pub(super) struct Auth {
    /// `HOST[:PORT]`, for messages.
    host: String,
    secret: Option<Secret>,
    /// What we ask leave for: `repository:NAME:pull,push`.
    scopes: Vec<String>,
    /// The last Authorization header that was accepted. Held while a token is fetched, so that the threads of one pull
    /// fetch one token.
    header: Mutex<Option<String>>,
}

impl Auth {
    pub(super) fn new(host: &str, secret: Option<Secret>, scopes: Vec<String>) -> Self {
        Self { host: host.to_owned(), secret, scopes, header: Mutex::new(None) }
    }

    /// The header for the next request, if the registry has asked for one before.
    pub(super) fn header(&self) -> Option<String> {
        self.header.lock().clone()
    }

    /// The header that answers the challenge in `headers` to a request that was sent with `tried`.
    pub(super) fn answer(
        &self,
        web: &Web,
        what: &str,
        tried: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<String, Error> {
        let mut known = self.header.lock();
        // Another thread has been faster.
        if let Some(header) = known.as_ref().filter(|h| Some(h.as_str()) != tried) {
            return Ok(header.clone());
        }
        let header = match challenge(headers) {
            Some(Challenge::Bearer { realm, service }) => self.token(web, what, &realm, service.as_deref())?,
            Some(Challenge::Basic) => match &self.secret {
                Some(Secret::Password { .. }) if tried.is_some() => return Err(self.refused(what)),
                Some(Secret::Password { user, password }) => basic(user, password),
                Some(Secret::Identity(_)) | None => return Err(self.refused(what)),
            },
            None => return Err(self.refused(what)),
        };
        *known = Some(header.clone());
        Ok(header)
    }

    /// The error for a request that was not let in.
    pub(super) fn refused(&self, what: &str) -> Error {
        let (text, hint) = match &self.secret {
            None => (format!("{what}: the registry wants a login, or has no such repository"), "log in"),
            Some(Secret::Password { user, .. }) => {
                (format!("{what}: the registry refuses the password of {}", tame(user)), "log in again")
            }
            Some(Secret::Identity(_)) => {
                (format!("{what}: the registry refuses the token of the last login"), "log in again")
            }
        };
        Error::new(Kind::Unauthorized, text).hint(format!("{hint}: onlay login {}", self.host))
    }

    /// The error for what this user may not do.
    pub(super) fn denied(&self, what: &str, said: &str) -> Error {
        let who = match &self.secret {
            Some(Secret::Password { user, .. }) => tame(user),
            Some(Secret::Identity(_)) => "this login".to_owned(),
            None => "who is not logged in".to_owned(),
        };
        Error::new(Kind::Denied, format!("{what}: the registry does not allow it to {who}{}", and(said)))
            .hint(format!("log in as somebody who may: onlay login {}", self.host))
    }

    fn token(&self, web: &Web, what: &str, realm: &str, service: Option<&str>) -> Result<String, Error> {
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let wrong = |why: &str| {
            Error::new(Kind::Malformed, format!("{what}: the registry's token server {}: {why}", tame(realm)))
        };
        let bytes = persist(&web.patience, || {
            let (method, uri, form) = self.token_request(realm, service).ok_or_else(|| wrong("no address"))?;
            let mut ask = Ask::new(method, uri);
            if let Some(form) = &form {
                ask = ask.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
                ask = ask.payload(Payload::Bytes(form.as_bytes()));
            } else if let Some(Secret::Password { user, password }) = &self.secret {
                ask.authorization = Some(basic(user, password));
            }
            let answer = web.send(what, ask)?;
            match answer.status().as_u16() {
                200 => answer.bytes(what, &web.patience, TOKEN),
                // As servers for tokens put it.
                400 | 401 if self.secret.is_some() => Err(self.refused(what).into()),
                401 => Err(self.refused(what).into()),
                403 => Err(self.denied(what, &answer.complaint()).into()),
                status => Err(super::session::unexpected(&web_server(what, realm), status, answer)),
            }
        })?;
        let token: Token = serde_json::from_slice(&bytes).map_err(|e| wrong(&e.to_string()))?;
        let token = token.token.or(token.access_token).filter(|t| !t.is_empty()).ok_or_else(|| wrong("no token"))?;
        if token.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(wrong("a token that is none"));
        }
        Ok(format!("Bearer {token}"))
    }

    /// Method, address and form of the request for a token.
    fn token_request(&self, realm: &str, service: Option<&str>) -> Option<(Method, Uri, Option<String>)> {
        let mut query = Vec::new();
        if let Some(service) = service {
            query.push(format!("service={}", encode(service)));
        }
        if let Some(Secret::Identity(token)) = &self.secret {
            query.extend(["grant_type=refresh_token".into(), "client_id=onlay".into()]);
            query.push(format!("scope={}", encode(&self.scopes.join(" "))));
            query.push(format!("refresh_token={}", encode(token)));
            return Some((Method::POST, realm.parse().ok()?, Some(query.join("&"))));
        }
        query.extend(self.scopes.iter().map(|s| format!("scope={}", encode(s))));
        if let Some(Secret::Password { user, .. }) = &self.secret {
            query.push(format!("account={}", encode(user)));
        }
        let joint = if realm.contains('?') { '&' } else { '?' };
        Some((Method::GET, format!("{realm}{joint}{}", query.join("&")).parse().ok()?, None))
    }
}

fn web_server(what: &str, realm: &str) -> String {
    format!("{what}: token server {}", tame(realm))
}

/// Something the registry said, after a message of ours.
pub(super) fn and(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}

enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

/// The challenge we can answer best (RFC 9110, WWW-Authenticate; several of them in one header or in several).
fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let values = || headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok());
    let all = || values().filter_map(|v| http_auth::parse_challenges(v).ok()).flatten();
    let param = |c: &ChallengeRef<'_>, name: &str| {
        c.params.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v.to_unescaped())
    };
    let bearer = all()
        .filter(|c| c.scheme.eq_ignore_ascii_case("bearer"))
        .find_map(|c| Some(Challenge::Bearer { realm: param(&c, "realm")?, service: param(&c, "service") }));
    bearer.or_else(|| all().any(|c| c.scheme.eq_ignore_ascii_case("basic")).then_some(Challenge::Basic))
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{user}:{password}")))
}

/// For a query (RFC 3986, unreserved characters are kept).
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for &b in text.as_bytes() {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
            out.push(b.into());
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|v| (header::WWW_AUTHENTICATE, v.parse().unwrap())).collect()
    }

    #[test]
    fn bearer_goes_before_basic_wherever_it_stands() {
        for values in [
            &[r#"Bearer realm="https://t/x",service="s e",scope="a:b:c""#][..],
            &[r#"Basic realm="r""#, r#"bearer REALM="https://t/x", service="s e""#],
            &[r#"Basic realm="r", Bearer realm="https://t/x",service="s e""#],
        ] {
            let Some(Challenge::Bearer { realm, service }) = challenge(&headers(values)) else { panic!("{values:?}") };
            assert_eq!((realm.as_str(), service.as_deref()), ("https://t/x", Some("s e")));
        }
        assert!(matches!(challenge(&headers(&[r#"Basic realm="r""#])), Some(Challenge::Basic)));
        for nonsense in [&[][..], &["Negotiate"], &["Bearer"], &["\"\"\""]] {
            assert!(challenge(&headers(nonsense)).is_none(), "{nonsense:?}");
        }
    }

    #[test]
    fn a_query_is_encoded() {
        assert_eq!(encode("repository:a/b:pull,push x&y"), "repository%3Aa%2Fb%3Apull%2Cpush%20x%26y");
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret = Secret::Password { user: "u".into(), password: "hidden".into() };
        let shown = format!("{:?}", Auth::new("h", Some(secret), vec![]));
        assert!(!shown.contains("hidden"), "{shown}");
    }
}
