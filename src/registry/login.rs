//! Logins, kept where podman, skopeo and buildah look for them, too.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use oci_spec::distribution::Reference;

use super::credentials::{Auth, AuthFile, Credentials, Secret};
use super::error::{Error, Kind};
use super::session::{Options, Session};

/// Tries a secret on the registry `host` and writes it to the first auth file, whose path is returned. The file is
/// readable by its owner alone and never half written.
pub fn log_in(host: &str, secret: &Secret, options: &Options) -> Result<PathBuf, Error> {
    let file = target(&options.credentials)?;
    Session::greet(host, secret, options)?;
    let mut auths = AuthFile::read(file)?;
    auths.auths.insert(key(host)?, Auth::of(secret));
    // It would be asked first, and knows nothing of this login.
    auths.cred_helpers.remove(host);
    write(file, &auths)?;
    Ok(file.to_path_buf())
}

/// Forgets the login to `host`, or all of them, in all auth files but docker's; how many there were.
pub fn log_out(host: Option<&str>, credentials: &Credentials) -> Result<usize, Error> {
    let mut forgotten = 0;
    for file in credentials.files() {
        // Docker's own may stand for programs of its own.
        if file.ends_with("config.json") && credentials.files().len() > 1 {
            continue;
        }
        let mut auths = AuthFile::read(file)?;
        let before = auths.auths.len();
        match host {
            Some(host) => drop(auths.auths.remove(&key(host)?)),
            None => auths.auths.clear(),
        }
        if auths.auths.len() < before {
            forgotten += before - auths.auths.len();
            write(file, &auths)?;
        }
    }
    Ok(forgotten)
}

/// Some repository on `host`: what a registry is asked as.
pub(super) fn any_repository(host: &str) -> Result<Reference, Error> {
    let wrong = || {
        Error::new(Kind::Reference, format!("{host:?} is no registry"))
            .hint("a registry is HOST[:PORT], such as localhost:5000")
    };
    if host.contains(['/', '@', ' ']) || host.is_empty() {
        return Err(wrong());
    }
    Ok(Reference::with_tag(host.to_owned(), "any".to_owned(), "latest".to_owned()))
}

fn key(host: &str) -> Result<String, Error> {
    Ok(any_repository(host)?.registry().to_owned())
}

fn target(credentials: &Credentials) -> Result<&Path, Error> {
    credentials.first().ok_or_else(|| {
        Error::new(Kind::Credentials, "no place to keep a login").hint("set REGISTRY_AUTH_FILE or XDG_RUNTIME_DIR")
    })
}

/// Under a temporary name first.
fn write(path: &Path, file: &AuthFile) -> Result<(), Error> {
    let failed = |e: &dyn std::fmt::Display| {
        Error::new(Kind::Credentials, format!("auth file {}: {}", path.display(), crate::vocab::why(e)))
    };
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| failed(&e))?;
    let mut text = serde_json::to_vec_pretty(file).map_err(|e| failed(&e))?;
    text.push(b'\n');
    let mut temporary = tempfile::NamedTempFile::new_in(dir).map_err(|e| failed(&e))?;
    temporary.as_file().set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(|e| failed(&e))?;
    temporary.write_all(&text).map_err(|e| failed(&e))?;
    temporary.as_file().sync_all().map_err(|e| failed(&e))?;
    temporary.persist(path).map_err(|e| failed(&e.error))?;
    Ok(())
}
