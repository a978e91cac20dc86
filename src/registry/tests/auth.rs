//! Logins: what the registry gets to see, and who else does not.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::*;

/// Options with a login to `host` in an auth file.
pub(super) fn with_login(host: &str, user: &str, password: &str) -> (Options, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("auth.json");
    let auth = BASE64.encode(format!("{user}:{password}"));
    fs::write(&file, format!(r#"{{"auths":{{"{host}":{{"auth":"{auth}"}}}}}}"#)).unwrap();
    (Options { credentials: Credentials::of_file(file), ..options() }, dir)
}

/// A registry that wants a password.
fn basic(image: &Image, password: &'static str) -> Server {
    let wanted = format!("Basic {}", BASE64.encode(format!("me:{password}")));
    serving_but(image, move |call, good| match call.header("authorization") {
        Some(given) if given == wanted => good,
        _ => Reply::new(401, "").with("WWW-Authenticate", r#"Basic realm="Registry""#),
    })
}

/// A registry that wants a token, which it gives itself: to whoever has `login`, or to all.
fn bearer(image: &Image, login: Option<&'static str>) -> Server {
    let realm = Mutex::new(String::new());
    serving_but(image, move |call, good| {
        *realm.lock().unwrap() = format!("http://{}/token", call.header("host").unwrap());
        if call.path.starts_with("/token") {
            let given =
                call.header("authorization").and_then(|a| a.strip_prefix("Basic ")).map(|a| BASE64.decode(a).unwrap());
            let by_token =
                call.method == "POST" && String::from_utf8_lossy(&call.body).contains("refresh_token=idtoken");
            return match login {
                Some(login) if given.as_deref() != Some(login.as_bytes()) && !by_token => Reply::new(401, ""),
                _ => Reply::new(200, r#"{"token":"t0ken","expires_in":300}"#),
            };
        }
        match call.header("authorization") {
            Some("Bearer t0ken") => good,
            _ => {
                let challenge = format!(r#"Bearer realm="{}",service="reg istry",scope="x""#, realm.lock().unwrap());
                Reply::new(401, "").with("WWW-Authenticate", challenge)
            }
        }
    })
}

#[test]
fn a_password() {
    let image = Image::new(&[b"layer"]);
    let server = basic(&image, "right");
    let e = pull(&server, &Dir::new()).unwrap_err();
    assert_eq!(e.kind(), Kind::Unauthorized);
    assert!(e.to_string().contains("/app:1: the registry wants a login"), "{e}");
    assert_eq!(e.what_helps().unwrap(), format!("log in: onlay login {}", server.host()));
    let (wrong, _file) = with_login(&server.host(), "me", "wrong");
    let e = pull_with(&server, &wrong, &Dir::new()).unwrap_err();
    assert_eq!(e.kind(), Kind::Unauthorized);
    assert!(e.to_string().contains("refuses the password of me") && !e.to_string().contains("wrong"), "{e}");
    let before = server.calls().len();
    let (right, _file) = with_login(&server.host(), "me", "right");
    let dir = Dir::new();
    pull_with(&server, &right, &dir).unwrap();
    assert_eq!(dir.all(), image.blobs());
    // Once it is known, nothing is asked for twice.
    assert_eq!(server.calls().len() - before, 5);
}

#[test]
fn a_token_for_everybody() {
    let image = Image::new(&[b"layer"]);
    let server = bearer(&image, None);
    let dir = Dir::new();
    pull(&server, &dir).unwrap();
    assert_eq!(dir.all(), image.blobs());
    let token: Vec<_> = server.calls().into_iter().filter(|c| c.path.starts_with("/token")).collect();
    assert_eq!(token.len(), 1, "{token:?}");
    assert_eq!(token[0].path, "/token?service=reg%20istry&scope=repository%3Aapp%3Apull");
    assert_eq!(token[0].header("authorization"), None);
}

#[test]
fn a_token_for_a_login() {
    let image = Image::new(&[b"layer"]);
    let server = bearer(&image, Some("me:pass:word"));
    let e = pull(&server, &Dir::new()).unwrap_err();
    assert!(e.kind() == Kind::Unauthorized && e.to_string().contains("wants a login"), "{e}");
    let (wrong, _file) = with_login(&server.host(), "me", "wrong");
    let e = pull_with(&server, &wrong, &Dir::new()).unwrap_err();
    assert!(e.kind() == Kind::Unauthorized && e.to_string().contains("refuses the password of me"), "{e}");
    let (right, _file) = with_login(&server.host(), "me", "pass:word");
    let dir = Dir::new();
    pull_with(&server, &right, &dir).unwrap();
    assert_eq!(dir.all(), image.blobs());
    // The password is for the token server alone.
    assert!(
        server
            .calls()
            .iter()
            .filter(|c| !c.path.starts_with("/token"))
            .all(|c| { c.header("authorization").is_none_or(|a| a.starts_with("Bearer ")) })
    );
}

#[test]
fn an_identity_token_is_exchanged() {
    let image = Image::new(&[b"layer"]);
    let server = bearer(&image, Some("nobody:knows"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("auth.json");
    fs::write(&file, format!(r#"{{"auths":{{"{}":{{"identitytoken":"idtoken"}}}}}}"#, server.host())).unwrap();
    let options = Options { credentials: Credentials::of_file(file), ..options() };
    pull_with(&server, &options, &Dir::new()).unwrap();
    let posted = server.calls().into_iter().find(|c| c.is("POST", "/token")).unwrap();
    let body = String::from_utf8(posted.body).unwrap();
    assert!(body.contains("grant_type=refresh_token") && body.contains("scope=repository%3Aapp%3Apull"), "{body}");
}

#[test]
fn a_token_that_runs_out_is_renewed() {
    let image = Image::new(&[b"layer", b"layer2"]);
    let good = image.clone();
    let uses = Mutex::new((0, 0));
    let server = Server::start(move |call| {
        let (given, used) = &mut *uses.lock().unwrap();
        if call.path.starts_with("/token") {
            (*given, *used) = (*given + 1, 0);
            return Reply::new(200, format!(r#"{{"access_token":"t{given}"}}"#));
        }
        *used += 1;
        let fresh = call.header("authorization") == Some(&format!("Bearer t{given}")) && *used <= 2;
        if fresh {
            return good.answer(call);
        }
        let realm = format!(r#"Bearer realm="http://{}/token""#, call.header("host").unwrap());
        Reply::new(401, "").with("WWW-Authenticate", realm)
    });
    let dir = Dir::new();
    pull_with(&server, &Options { jobs: 1, ..options() }, &dir).unwrap();
    assert_eq!(dir.all(), image.blobs());
    assert_eq!(server.count("GET", "/token"), 2);
}

#[test]
fn a_token_server_that_is_bad() {
    for (reply, kind, says) in [
        (Reply::new(200, "{}"), Kind::Malformed, "no token"),
        (Reply::new(200, "<html>"), Kind::Malformed, "expected value"),
        (Reply::new(200, r#"{"token":"a\r\nX: y"}"#), Kind::Malformed, "a token that is none"),
        (Reply::new(403, r#"{"errors":[{"message":"no"}]}"#), Kind::Denied, "not logged in: no"),
        (Reply::new(500, ""), Kind::Server, "500"),
        (Reply::new(200, vec![b' '; (1 << 20) + 1]), Kind::Content, "larger than"),
    ] {
        let server = Server::start(move |call| {
            let realm = format!(r#"Bearer realm="http://{}/token""#, call.header("host").unwrap());
            if call.path.starts_with("/token") {
                reply.clone()
            } else {
                Reply::new(401, "").with("WWW-Authenticate", realm)
            }
        });
        let e = pull(&server, &Dir::new()).unwrap_err();
        assert!(e.kind() == kind && e.to_string().contains(says) && e.to_string().contains("/app:1"), "{e}");
    }
    // The password does not go unencrypted to another machine.
    for realm in ["http://tokens.example/t", "file:///etc/passwd", "::", ""] {
        let server =
            Server::start(move |_| Reply::new(401, "").with("WWW-Authenticate", format!(r#"Bearer realm="{realm}""#)));
        let (options, _file) = with_login(&server.host(), "me", "secret");
        let e = pull_with(&server, &options, &Dir::new()).unwrap_err();
        assert!(matches!(e.kind(), Kind::Redirect | Kind::Malformed), "{realm}: {e}");
    }
}

#[test]
fn login_and_logout() {
    let image = Image::new(&[b"layer"]);
    let server = basic(&image, "right");
    let host = server.host();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("new/auth.json");
    let options = Options { credentials: Credentials::of_file(&file), ..options() };
    let secret = |password: &str| Secret::Password { user: "me".into(), password: password.into() };
    let e = log_in(&host, &secret("wrong"), &options).unwrap_err();
    assert!(e.kind() == Kind::Unauthorized && !file.exists(), "{e}");
    assert_eq!(log_in(&host, &secret("right"), &options).unwrap(), file);
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o7777, 0o600);
    pull_with(&server, &options, &Dir::new()).unwrap();
    // What others keep in it stays.
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    json["auths"]["other.example"] = serde_json::json!({"auth": "YTpi", "email": "x"});
    json["HttpHeaders"] = serde_json::json!({"X": "y"});
    fs::write(&file, json.to_string()).unwrap();
    assert_eq!(log_out(Some(&host), &options.credentials).unwrap(), 1);
    assert_eq!(log_out(Some(&host), &options.credentials).unwrap(), 0);
    let left: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let expected =
        serde_json::json!({"auths": {"other.example": {"auth": "YTpi", "email": "x"}}, "HttpHeaders": {"X": "y"}});
    assert_eq!(left, expected);
    assert_eq!(log_out(None, &options.credentials).unwrap(), 1);
    assert!(log_in("a/b", &secret("x"), &options).is_err());
    let e = pull_with(&server, &options, &Dir::new()).unwrap_err();
    assert_eq!(e.kind(), Kind::Unauthorized);
}
