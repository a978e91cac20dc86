//! Who we are to a registry: the auth files of podman and docker (containers-auth.json(5), docker's config.json), and
//! the programs that keep passwords for them (docker-credential-helpers).

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use oci_spec::distribution::Reference;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::{Error, Kind, tame};
use super::reference;

/// What proves who we are.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// A name and a password.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// A token of an earlier login, exchanged for one of short life (OAuth 2 refresh token).
    Identity(String),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Password { user, .. } => write!(f, "{user:?} with a password"),
            Self::Identity(_) => f.write_str("a token"),
        }
    }
}

/// Where podman keeps root's logins (containers-auth.json(5)).
const ROOTS: &str = "/run/containers/0/auth.json";

/// Where secrets are looked for, the first place first.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    files: Vec<PathBuf>,
    settled: Option<Option<Secret>>,
}

impl Credentials {
    /// The usual places: `$REGISTRY_AUTH_FILE` alone if it is set; else `$XDG_RUNTIME_DIR/containers/auth.json` (for
    /// root, who may have no such directory, below `/run`), `containers/auth.json` of the configuration directory,
    /// `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`.
    pub fn usual(var: impl Fn(&str) -> Option<std::ffi::OsString>, root: bool) -> Self {
        let dir = |name: &str| var(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        if let Some(file) = dir("REGISTRY_AUTH_FILE") {
            return Self::of_file(file);
        }
        let home = dir("HOME");
        let below_home = |name: &str| home.as_ref().map(|h| h.join(name));
        let files = [
            dir("XDG_RUNTIME_DIR").map(|d| d.join("containers/auth.json")).or_else(|| root.then(|| ROOTS.into())),
            dir("XDG_CONFIG_HOME").or_else(|| below_home(".config")).map(|d| d.join("containers/auth.json")),
            dir("DOCKER_CONFIG").or_else(|| below_home(".docker")).map(|d| d.join("config.json")),
        ];
        Self { files: files.into_iter().flatten().collect(), settled: None }
    }

    /// One file and no other.
    pub fn of_file(file: impl Into<PathBuf>) -> Self {
        Self { files: vec![file.into()], settled: None }
    }

    /// The same, with what is there for `reference` found already: for those who will not be able to look later.
    pub fn settled(self, reference: &Reference) -> Result<Self, Error> {
        let found = self.find(reference)?;
        Ok(Self { settled: Some(found), ..self })
    }

    /// The file that a login is written to.
    pub(super) fn first(&self) -> Option<&Path> {
        self.files.first().map(PathBuf::as_path)
    }

    pub(super) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The secret for the repository of `reference`, if there is one.
    pub fn find(&self, reference: &Reference) -> Result<Option<Secret>, Error> {
        if let Some(settled) = &self.settled {
            return Ok(settled.clone());
        }
        for file in &self.files {
            if let Some(secret) = AuthFile::read(file)?.find(reference)? {
                return Ok(Some(secret));
            }
        }
        Ok(None)
    }
}

/// An auth file. What we do not know in it is kept.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct AuthFile {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) auths: BTreeMap<String, Auth>,
    #[serde(default, rename = "credHelpers", skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) cred_helpers: BTreeMap<String, String>,
    #[serde(default, rename = "credsStore", skip_serializing_if = "Option::is_none")]
    creds_store: Option<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
    #[serde(skip)]
    path: PathBuf,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Auth {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    auth: String,
    #[serde(default, rename = "identitytoken", skip_serializing_if = "String::is_empty")]
    identity_token: String,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Auth {
    pub(super) fn of(secret: &Secret) -> Self {
        match secret {
            Secret::Password { user, password } => {
                Self { auth: BASE64.encode(format!("{user}:{password}")), ..Self::default() }
            }
            Secret::Identity(token) => Self { identity_token: token.clone(), ..Self::default() },
        }
    }

    /// The secret in it; docker leaves empty entries where a program keeps it.
    fn secret(&self) -> Result<Option<Secret>, &'static str> {
        if !self.identity_token.is_empty() {
            return Ok(Some(Secret::Identity(self.identity_token.clone())));
        }
        if self.auth.is_empty() {
            return Ok(None);
        }
        let bytes = BASE64.decode(self.auth.trim()).map_err(|_| "auth is not base64")?;
        let text = String::from_utf8(bytes).map_err(|_| "auth is not text")?;
        let (user, password) = text.split_once(':').ok_or("auth has no colon")?;
        // Docker has written a zero byte at the end.
        let password = password.trim_end_matches('\0').to_owned();
        Ok(Some(Secret::Password { user: user.to_owned(), password }))
    }
}

impl AuthFile {
    /// Reads it; one that is not there is empty.
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let wrong = |why: String| Error::new(Kind::Credentials, format!("auth file {}: {why}", path.display()));
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Vec::new(),
            Err(e) => return Err(wrong(crate::vocab::why(&e))),
        };
        if bytes.trim_ascii().is_empty() {
            return Ok(Self { path: path.to_path_buf(), ..Self::default() });
        }
        let file: Self = serde_json::from_slice(&bytes)
            .map_err(|e| wrong(e.to_string()).hint("put it right, or move it away and log in again"))?;
        Ok(Self { path: path.to_path_buf(), ..file })
    }

    fn find(&self, reference: &Reference) -> Result<Option<Secret>, Error> {
        let wrong = |key: &str, why: &str| {
            let text = format!("auth file {}: {why} for {}", self.path.display(), tame(key));
            Error::new(Kind::Credentials, text).hint(format!("log in again: onlay login {}", reference.registry()))
        };
        let keys = keys(reference);
        for key in &keys {
            if let Some(program) = self.cred_helpers.get(key) {
                return ask_program(program, key);
            }
        }
        for key in &keys {
            // Docker writes whole addresses for keys.
            let found = self.auths.iter().find(|(k, _)| k.as_str() == key || bare(k) == key);
            if let Some((k, auth)) = found
                && let Some(secret) = auth.secret().map_err(|why| wrong(k, why))?
            {
                return Ok(Some(secret));
            }
        }
        match &self.creds_store {
            Some(program) => ask_program(program, &login_key(reference)),
            None => Ok(None),
        }
    }
}

/// What a repository's secret may be kept under: itself, each namespace above it, its registry.
pub(super) fn keys(reference: &Reference) -> Vec<String> {
    let mut keys = Vec::new();
    let mut name = reference::repository(reference);
    loop {
        keys.push(name.clone());
        match name.rsplit_once('/') {
            Some((above, _)) => name = above.to_owned(),
            None => break,
        }
    }
    if reference.registry() != reference::host(reference) {
        keys.push(reference::host(reference).to_owned());
    }
    keys
}

/// What docker's programs know a registry under.
fn login_key(reference: &Reference) -> String {
    if reference.registry() == reference::host(reference) {
        reference.registry().to_owned()
    } else {
        format!("https://{}/v1/", reference::host(reference))
    }
}

/// A key without scheme and API path.
fn bare(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/');
    key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key)
}

/// Asks `docker-credential-NAME get`: the server on its standard input, JSON on its standard output.
fn ask_program(name: &str, server: &str) -> Result<Option<Secret>, Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Reply {
        username: String,
        secret: String,
    }
    let program = format!("docker-credential-{name}");
    let wrong = |why: &str| {
        Error::new(Kind::Credentials, format!("{}: {}", tame(&program), tame(why)))
            .hint("it is named in an auth file, by credHelpers or credsStore")
    };
    if name.is_empty() || name.contains('/') {
        return Err(wrong("not the name of a program"));
    }
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| wrong(&crate::vocab::why(&e)))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read says below what it wants instead.
        match stdin.write_all(server.as_bytes()) {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(wrong(&crate::vocab::why(&e))),
            _ => {}
        }
    }
    let out = child.wait_with_output().map_err(|e| wrong(&crate::vocab::why(&e)))?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        return if said.contains("credentials not found") { Ok(None) } else { Err(wrong(&said)) };
    }
    let reply: Reply = serde_json::from_slice(&out.stdout).map_err(|e| wrong(&e.to_string()))?;
    Ok(Some(if reply.username == "<token>" {
        Secret::Identity(reply.secret)
    } else {
        Secret::Password { user: reply.username, password: reply.secret }
    }))
}
