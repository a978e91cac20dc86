//! Sending what the registry lacks.

use std::collections::HashSet;
use std::sync::Arc;

use super::*;

/// A registry that keeps what it gets.
#[derive(Default)]
struct Kept {
    blobs: HashSet<String>,
    manifests: Vec<(String, Vec<u8>)>,
    /// Repositories whose blobs may be taken over.
    others: HashSet<String>,
}

fn keeping(kept: Kept) -> (Server, Arc<Mutex<Kept>>) {
    let kept = Arc::new(Mutex::new(kept));
    let state = kept.clone();
    let server = Server::start(move |call| {
        let mut kept = state.lock().unwrap();
        let of = |name: &str| {
            let query = call.path.split_once('?').map_or("", |(_, q)| q);
            let value = query.split('&').find_map(|p| p.strip_prefix(&format!("{name}=")).map(str::to_owned));
            value.map(|v| v.replace("%3A", ":").replace("%2F", "/"))
        };
        match call.method.as_str() {
            "HEAD" => {
                let have = kept.blobs.iter().any(|b| call.path.ends_with(b.as_str()));
                Reply::new(if have { 200 } else { 404 }, "")
            }
            "POST" => match (of("mount"), of("from")) {
                (Some(blob), Some(from)) if kept.others.contains(&from) => {
                    kept.blobs.insert(blob);
                    Reply::new(201, "")
                }
                (_, Some(from)) if from == "secret" => Reply::new(403, ""),
                _ => Reply::new(202, "").with("Location", "/v2/app/blobs/uploads/u1?state=s"),
            },
            "PUT" if call.path.contains("/uploads/u1?state=s&") => {
                let digest = of("digest").unwrap();
                if digest::of(&call.body).to_string() != digest {
                    return Reply::new(400, r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#);
                }
                kept.blobs.insert(digest);
                Reply::new(201, "")
            }
            "PUT" if call.path.contains("/manifests/") => {
                kept.manifests.push((call.header("content-type").unwrap().to_owned(), call.body.clone()));
                Reply::new(201, "").with("Docker-Content-Digest", digest::of(&call.body))
            }
            _ => Reply::new(404, ""),
        }
    });
    (server, kept)
}

fn filled(image: &Image) -> Dir {
    let dir = Dir::new();
    image.layers.iter().chain([&image.config]).for_each(|b| dir.put(b));
    dir
}

fn uploads(server: &Server) -> (usize, usize) {
    (server.count("PUT", "/blobs/"), server.count("PUT", "/manifests/"))
}

#[test]
fn an_image_goes_whole_and_then_nothing_goes_twice() {
    let image = Image::new(&[&bytes(300_000, 1), b"two"]);
    let (server, kept) = keeping(Kept::default());
    let dir = filled(&image);
    let pushed = push(&server, &dir, &image, &[]).unwrap();
    assert_eq!(pushed, Pushed { digest: digest::of(&image.manifest), sent: 3, mounted: 0 });
    assert_eq!(uploads(&server), (3, 1));
    assert_eq!(kept.lock().unwrap().manifests, [(MANIFEST.to_owned(), image.manifest.clone())]);
    assert_eq!(push(&server, &dir, &image, &[]).unwrap().sent, 0);
    assert_eq!(uploads(&server), (3, 2));
}

#[test]
fn a_commit_sends_one_layer_one_config_one_manifest() {
    let base = Image::new(&[&bytes(300_000, 1)]);
    let mut child = Image::new(&[&bytes(300_000, 1), b"commit"]);
    child.config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["x"]}}"#.to_vec();
    child.manifest = child.manifest_with(|_| {});
    let (server, _) = keeping(Kept::default());
    push(&server, &filled(&base), &base, &[]).unwrap();
    let before = uploads(&server);
    assert_eq!(push(&server, &filled(&child), &child, &[]).unwrap().sent, 2);
    let after = uploads(&server);
    assert_eq!((after.0 - before.0, after.1 - before.1), (2, 1));
}

#[test]
fn blobs_are_taken_over_from_another_repository() {
    let image = Image::new(&[&bytes(3000, 1)]);
    let mut dir = filled(&image);
    dir.origin = Some("team/base".into());
    let (server, _) = keeping(Kept { others: ["team/base".into()].into(), ..Kept::default() });
    let pushed = push(&server, &dir, &image, &["team/base"]).unwrap();
    assert_eq!((pushed.sent, pushed.mounted), (0, 2));
    assert_eq!(uploads(&server), (0, 1));
    // One that refuses, and one that knows of nothing.
    for origin in ["secret", "unknown"] {
        dir.origin = Some(origin.into());
        let (server, _) = keeping(Kept::default());
        assert_eq!(push(&server, &dir, &image, &[origin]).unwrap().sent, 2, "{origin}");
    }
}

#[test]
fn an_upload_that_fails_begins_again() {
    let image = Image::new(&[&bytes(3000, 1)]);
    let failures = Mutex::new(2);
    let server = Server::start(move |call| match call.method.as_str() {
        "HEAD" => Reply::new(404, ""),
        "POST" => Reply::new(202, "").with("Location", "uploads/u?x=y"),
        "PUT" if call.path.contains("/blobs/uploads/uploads/u?x=y&digest=sha256%3A") => {
            let mut failures = failures.lock().unwrap();
            if *failures > 0 {
                *failures -= 1;
                return Reply::new(503, "").with("Retry-After", "0");
            }
            Reply::new(201, "")
        }
        _ => Reply::new(201, ""),
    });
    let pushed = push(&server, &filled(&image), &image, &[]).unwrap();
    assert_eq!(pushed.sent, 2);
    assert_eq!((server.count("POST", "/uploads/"), server.count("PUT", "/uploads/")), (4, 4));
}

#[test]
fn uploads_that_can_not_be() {
    let image = Image::new(&[&bytes(300, 1)]);
    for (location, says) in [
        ("http://registry.example/u", "not encrypted"),
        ("file:///tmp/x", "no address"),
        ("ftp://127.0.0.1/x", "neither http nor https"),
        ("http://u:p@127.0.0.1/", "a password of its own"),
        ("", "no address"),
    ] {
        let server = Server::start(move |call| match call.method.as_str() {
            "POST" => Reply::new(202, "").with("Location", location),
            _ => Reply::new(404, ""),
        });
        let e = push(&server, &filled(&image), &image, &[]).unwrap_err();
        assert!(
            e.kind() == Kind::Redirect && e.to_string().contains(says) && e.to_string().contains("blob sha256:"),
            "{e}"
        );
    }
    for (reply, kind, says) in [
        (Reply::new(404, ""), Kind::NotFound, "does not have it"),
        (Reply::new(403, ""), Kind::Denied, "not logged in"),
        (Reply::new(413, ""), Kind::Server, "413"),
        (Reply::new(307, "").with("Location", "/y"), Kind::Redirect, "redirects a PUT"),
    ] {
        let server = Server::start(move |call| match call.method.as_str() {
            "HEAD" => Reply::new(404, ""),
            "POST" => Reply::new(202, "").with("Location", "/u"),
            _ => reply.clone(),
        });
        let e = push(&server, &filled(&image), &image, &[]).unwrap_err();
        assert!(e.kind() == kind && e.to_string().contains(says) && e.to_string().contains("blob sha256:"), "{e}");
    }
}

#[test]
fn the_upload_elsewhere_does_not_get_the_password() {
    let image = Image::new(&[&bytes(300, 1)]);
    let elsewhere = Server::start(|_| Reply::new(201, ""));
    let to = elsewhere.host();
    let server = Server::start(move |call| match (call.header("authorization"), call.method.as_str()) {
        (None, _) => Reply::new(401, "").with("WWW-Authenticate", r#"Basic realm="r""#),
        (_, "HEAD") => Reply::new(404, ""),
        (_, "POST") => Reply::new(202, "").with("Location", format!("http://{to}/u")),
        _ => Reply::new(201, ""),
    });
    let (options, _file) = auth::with_login(&server.host(), "me", "secret");
    let reference = parse_reference(&format!("{}/app:1", server.host())).unwrap();
    let session = Session::open(&reference, &Access::Push(vec![]), &options).unwrap();
    session.push(&image.outgoing(), &filled(&image), &Quiet).unwrap();
    assert_eq!(elsewhere.count("PUT", "/u?digest="), 2);
    assert!(elsewhere.calls().iter().all(|c| c.header("authorization").is_none()));
}

#[test]
fn what_is_damaged_here_does_not_go() {
    let image = Image::new(&[&bytes(300, 1)]);
    let (server, kept) = keeping(Kept::default());
    let dir = filled(&image);
    fs::write(dir.path(&digest::of(&image.layers[0])), bytes(299, 1)).unwrap();
    let e = push(&server, &dir, &image, &[]).unwrap_err();
    assert!(e.kind() == Kind::Local && e.to_string().contains("300 bytes by the manifest, 299 here"), "{e}");
    fs::write(dir.path(&digest::of(&image.layers[0])), bytes(300, 7)).unwrap();
    let e = push(&server, &dir, &image, &[]).unwrap_err();
    assert!(e.to_string().contains("DIGEST_INVALID"), "{e}");
    fs::remove_file(dir.path(&digest::of(&image.layers[0]))).unwrap();
    assert_eq!(push(&server, &dir, &image, &[]).unwrap_err().kind(), Kind::Local);
    assert!(kept.lock().unwrap().manifests.is_empty(), "a manifest without its blobs");
}

#[test]
fn scopes_name_all_that_is_needed() {
    let image = Image::new(&[b"layer"]);
    let server = Server::start(|call| {
        let realm = format!(r#"Bearer realm="http://{}/token?a=b""#, call.header("host").unwrap());
        match (call.path.starts_with("/token"), call.header("authorization")) {
            (true, _) => Reply::new(200, r#"{"token":"t"}"#),
            (_, None) => Reply::new(401, "").with("WWW-Authenticate", realm),
            _ if call.method == "HEAD" => Reply::new(200, ""),
            _ => Reply::new(201, ""),
        }
    });
    push(&server, &filled(&image), &image, &["base", "app"]).unwrap();
    let asked = server.calls().into_iter().find(|c| c.path.starts_with("/token")).unwrap().path;
    let wanted = "/token?a=b&scope=repository%3Aapp%3Apull%2Cpush&scope=repository%3Abase%3Apull";
    assert_eq!(asked, wanted);
}
