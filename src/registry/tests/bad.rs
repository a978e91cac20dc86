//! Registries that fail, stall, lie, or send us elsewhere: one clear error each, and nothing half-made left.

use super::*;

/// Pulls from a registry whose answers are changed by `change`; the error, and how the blob's requests went.
fn pull_bad(image: &Image, change: impl Fn(&Call, Reply) -> Reply + Send + Sync + 'static) -> (Error, Server, Dir) {
    let server = serving_but(image, change);
    let dir = Dir::new();
    let error = pull(&server, &dir).unwrap_err();
    assert!(
        dir.all().keys().all(|name| image.blobs().contains_key(name) || name.ends_with(".part")),
        "{:?}",
        dir.all().keys()
    );
    for (name, bytes) in dir.all() {
        // What is left of a part is a beginning of the right thing.
        let whole = &image.blobs()[name.trim_end_matches(".part")];
        assert!(whole.starts_with(&bytes), "{name}");
    }
    (error, server, dir)
}

fn app(image: &Image) -> String {
    format!("blob {} of ", image.layer(0))
}

#[track_caller]
fn says(error: &Error, kind: Kind, words: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    assert!(words.iter().all(|w| text.contains(w)), "{text}: not {words:?}");
    assert!(error.what_helps().is_some(), "no hint: {text}");
    assert!(!text.contains('\n') && text.len() < 700, "{text}");
}

#[test]
fn what_is_not_there() {
    let image = Image::new(&[b"layer"]);
    let (e, server, _) = pull_bad(&image, |call, good| {
        let unknown = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest\u001b[31m unknown"}]}"#;
        if call.is("GET", "/manifests/") { Reply::new(404, unknown) } else { good }
    });
    says(&e, Kind::NotFound, &["/app:1: the registry does not have it", "manifest [31m unknown"]);
    assert_eq!(server.count("GET", "/manifests/"), 1, "asked again in vain");
    let layer = image.layer(0);
    let (e, _, dir) =
        pull_bad(&image, move |call, good| if call.path.contains(&layer) { Reply::new(404, "") } else { good });
    says(&e, Kind::NotFound, &[&app(&image), "/app: the registry does not have it"]);
    assert!(!dir.all().contains_key(digest::of(b"layer").digest()));
}

#[test]
fn what_is_not_allowed() {
    let (e, server, _) =
        pull_bad(&Image::new(&[b"layer"]), |_, _| Reply::new(403, r#"{"errors":[{"code":"DENIED"}]}"#));
    says(&e, Kind::Denied, &["/app:1: ", "not logged in", "DENIED"]);
    assert!(e.what_helps().unwrap().contains(&format!("onlay login {}", server.host())));
}

#[test]
fn too_many_requests_are_tried_again_when_the_registry_says() {
    let image = Image::new(&[b"layer"]);
    let left = Mutex::new(2);
    let server = serving_but(&image, move |call, good| {
        let mut left = left.lock().unwrap();
        if *left > 0 && call.path != "/v2/" {
            *left -= 1;
            return Reply::new(429, "").with("Retry-After", "0");
        }
        good
    });
    let dir = Dir::new();
    // If its word were not obeyed, this would never end.
    let mut options = options();
    (options.patience.pause, options.patience.longest_pause) = (Duration::from_hours(1), Duration::from_hours(1));
    pull_with(&server, &options, &dir).unwrap();
    assert_eq!(server.count("GET", "/manifests/"), 3);
    assert_eq!(dir.all(), image.blobs());
    // And not before.
    let last = Mutex::new(None);
    let server = serving_but(&image, move |call, good| {
        let mut last = last.lock().unwrap();
        if !call.is("GET", "/manifests/") {
            return good;
        }
        match last.replace(std::time::Instant::now()) {
            None => Reply::new(429, "").with("Retry-After", "1"),
            Some(refused) if refused.elapsed() < Duration::from_secs(1) => Reply::new(400, "too early"),
            Some(_) => good,
        }
    });
    options.patience.pause = Duration::ZERO;
    let dir = Dir::new();
    pull_with(&server, &options, &dir).unwrap();
    assert_eq!(dir.all(), image.blobs());
}

#[test]
fn too_many_requests_end_some_time() {
    let image = Image::new(&[b"layer"]);
    let (e, server, _) = pull_bad(&image, |_, _| Reply::new(429, "").with("Retry-After", "0"));
    says(&e, Kind::TooMany, &["/app:1: ", "429", "tried 3 times"]);
    assert_eq!(server.count("GET", "/manifests/"), 3);
    let (e, server, _) = pull_bad(&image, |_, _| Reply::new(429, "").with("Retry-After", "86400"));
    says(&e, Kind::TooMany, &["429"]);
    assert!(e.what_helps().unwrap().contains("86400 s"));
    assert_eq!(server.count("GET", "/manifests/"), 1);
}

#[test]
fn a_fault_of_the_registry_is_tried_again_and_told() {
    let image = Image::new(&[b"layer"]);
    let layer = image.layer(0);
    let (e, server, _) =
        pull_bad(&image, move |call, good| if call.path.contains(&layer) { Reply::new(500, "<html>") } else { good });
    says(&e, Kind::Server, &[&app(&image), "500 Internal Server Error", "tried 3 times"]);
    assert_eq!(server.count("GET", &image.layer(0)), 3);
    let (e, server, _) = pull_bad(&image, |_, _| Reply::new(501, ""));
    assert_eq!((e.kind(), server.count("GET", "/manifests/")), (Kind::Server, 1), "{e}");
}

#[test]
fn a_registry_that_stalls() {
    let image = Image::new(&[&bytes(100_000, 1)]);
    let (e, server, _) =
        pull_bad(&image, |call, good| if call.path == "/v2/" { Reply::new(401, "") } else { good.stall(0) });
    says(&e, Kind::Stalled, &["/app:1: the registry stalls: nothing for 0.3 s", "tried 3 times"]);
    drop(server);
    let (e, server, _) = pull_bad(&image, |_, good| good.stall(0));
    says(&e, Kind::Stalled, &["/app:1: the registry stalls"]);
    drop(server);
    let layer = image.layer(0);
    let (e, _server, dir) = pull_bad(&image, move |call, good| {
        if call.path.contains(&layer) && call.header("range") != Some("bytes=50000-") {
            good.stall(50_000)
        } else if call.path.contains(&layer) {
            good.stall(0)
        } else {
            good
        }
    });
    says(&e, Kind::Stalled, &[&app(&image), "the registry stalls"]);
    // For the next time.
    assert_eq!(dir.all()[&format!("{}.part", digest::of(&image.layers[0]).digest())].len(), 50_000);
}

#[test]
fn a_wrong_digest() {
    let image = Image::new(&[b"layer"]);
    let layer = image.layer(0);
    let (e, _, dir) =
        pull_bad(&image, move |call, good| if call.path.contains(&layer) { Reply::new(200, *b"lower") } else { good });
    says(&e, Kind::Content, &[&app(&image), "not what its digest says"]);
    assert!(!dir.has_part(&image.layers[0]));
}

#[test]
fn a_blob_that_breaks_off() {
    let image = Image::new(&[&bytes(1000, 1)]);
    let layer = image.layer(0);
    let (e, server, _) =
        pull_bad(&image, move |call, good| if call.path.contains(&layer) { good.cut(0) } else { good });
    says(&e, Kind::Unreachable, &[&app(&image), "tried 3 times"]);
    assert_eq!(server.count("GET", &image.layer(0)), 3);
}

#[test]
fn sizes_that_are_lies() {
    let image = Image::new(&[&bytes(1000, 1)]);
    for claimed in [10_u64, 999, 1001, 1 << 40] {
        let manifest = image.manifest_with(|m| m["layers"][0]["size"] = claimed.into());
        let (e, _, dir) = pull_bad(&image, move |call, good| {
            if call.is("GET", "/manifests/") {
                Reply::new(200, manifest.clone()).with("Content-Type", MANIFEST)
            } else {
                good
            }
        });
        says(&e, Kind::Content, &[&app(&image), &format!("{claimed} bytes by the manifest"), "1000 from the registry"]);
        assert!(!dir.has_part(&image.layers[0]));
    }
    // Where no length is said, it is counted.
    let layer = image.layer(0);
    let (e, _, dir) = pull_bad(&image, move |call, good| {
        if call.path.contains(&layer) { Reply::new(200, bytes(5000, 1)).until_closed() } else { good }
    });
    says(&e, Kind::Content, &[&app(&image), "1000 bytes by the manifest", "from the registry"]);
    assert!(!dir.has_part(&image.layers[0]));
}

#[test]
fn a_range_that_was_not_asked_for() {
    let image = Image::new(&[&bytes(1000, 1)]);
    let layer = image.layer(0);
    let server = serving_but(&image, move |call, good| {
        if call.path.contains(&layer) {
            Reply::new(206, bytes(500, 1)).with("Content-Range", "bytes 0-499/1000")
        } else {
            good
        }
    });
    let dir = Dir::new();
    dir.put_part(&image.layers[0], &image.layers[0][..500]);
    let e = pull(&server, &dir).unwrap_err();
    says(&e, Kind::Content, &[&app(&image), "asked for bytes 500 to 999", "bytes 0-499/1000"]);
    assert!(!dir.has_part(&image.layers[0]));
}

#[test]
fn a_manifest_too_large() {
    let (e, _, _) = pull_bad(&Image::new(&[b"layer"]), |_, _| Reply::new(200, vec![b' '; (4 << 20) + 1]));
    says(&e, Kind::Content, &["/app:1: ", "4194304 bytes"]);
}

#[test]
fn a_manifest_that_is_another_one() {
    let image = Image::new(&[b"layer"]);
    let (e, _, dir) = pull_bad(&image, |call, good| {
        if call.is("GET", "/manifests/") {
            good.with("Docker-Content-Digest", format!("sha256:{}", "0".repeat(64)))
        } else {
            good
        }
    });
    says(&e, Kind::Content, &["/app:1: the manifest that came is sha256:"]);
    assert!(dir.all().is_empty());
    let server = serving(&image);
    let reference = parse_reference(&format!("{}/app@sha256:{}", server.host(), "1".repeat(64))).unwrap();
    let session = Session::open(&reference, &Access::Pull, &options()).unwrap();
    let e = session.pull(&Platform::here(), &dir, &Quiet).unwrap_err();
    says(&e, Kind::Content, &["not sha256:1111"]);
}

#[test]
fn a_redirect_elsewhere_does_not_get_the_password() {
    let image = Image::new(&[b"layer"]);
    let elsewhere = serving(&image);
    let to = elsewhere.host();
    let server = serving_but(&image, move |call, good| {
        if call.header("authorization").is_none() {
            return Reply::new(401, "").with("WWW-Authenticate", r#"Basic realm="r""#);
        }
        if call.is("GET", "/blobs/") {
            Reply::new(307, "").with("Location", format!("http://{to}{}", call.path))
        } else {
            good
        }
    });
    let dir = Dir::new();
    let (options, _file) = auth::with_login(&server.host(), "me", "secret");
    pull_with(&server, &options, &dir).unwrap();
    assert_eq!(dir.all(), image.blobs());
    assert_eq!(elsewhere.count("GET", "/blobs/"), 2);
    assert!(elsewhere.calls().iter().all(|c| c.header("authorization").is_none()));
    assert!(server.calls().iter().any(|c| c.is("GET", "/blobs/") && c.header("authorization").is_some()));
}

#[test]
fn whoever_is_redirected_to_does_not_get_the_password_by_asking() {
    let image = Image::new(&[b"layer"]);
    let elsewhere = Server::start(|_| Reply::new(401, "").with("WWW-Authenticate", r#"Basic realm="r""#));
    let to = elsewhere.host();
    let server = serving_but(&image, move |call, good| {
        if call.is("GET", "/blobs/") { Reply::new(302, "").with("Location", format!("http://{to}/x")) } else { good }
    });
    let (options, _file) = auth::with_login(&server.host(), "me", "secret");
    let e = pull_with(&server, &options, &Dir::new()).unwrap_err();
    assert_eq!(e.kind(), Kind::Unauthorized, "{e}");
    assert!(elsewhere.calls().iter().all(|c| c.header("authorization").is_none()));
}

#[test]
fn redirects_to_where_we_do_not_go() {
    let image = Image::new(&[b"layer"]);
    for (to, says_so) in [
        ("http://registry.example/x", "not encrypted"),
        ("file:///etc/passwd", "no address"),
        ("ftp://127.0.0.1/x", "neither http nor https"),
        ("http://user:pass@127.0.0.1/x", "a password of its own"),
        ("", "no address"),
        ("http://", "no address"),
        ("mailto:x", "no address"),
    ] {
        let (e, _, _) =
            pull_bad(
                &image,
                move |call, good| {
                    if call.is("GET", "/blobs/") { Reply::new(307, "").with("Location", to) } else { good }
                },
            );
        assert_eq!(e.kind(), Kind::Redirect, "{to}: {e}");
        assert!(e.to_string().contains("blob sha256:") && e.to_string().contains(says_so), "{to}: {e}");
    }
    let (e, server, _) = pull_bad(&image, |call, _| Reply::new(301, "").with("Location", call.path.clone()));
    assert!(e.kind() == Kind::Redirect && e.to_string().contains("more than 5 times"), "{e}");
    assert_eq!(server.count("GET", "/manifests/"), 6);
    let (e, _, _) = pull_bad(&image, |_, _| Reply::new(307, ""));
    assert_eq!(e.kind(), Kind::Redirect, "{e}");
}

#[test]
fn nobody_answers() {
    // A port that was free a moment ago.
    let host = Server::start(|_| Reply::new(200, "")).host();
    let reference = parse_reference(&format!("{host}/app:1")).unwrap();
    let session = Session::open(&reference, &Access::Pull, &options()).unwrap();
    let e = session.pull(&Platform::here(), &Dir::new(), &Quiet).unwrap_err();
    says(&e, Kind::Unreachable, &[&host, "/app:1: ", "refused"]);
}

#[test]
fn an_answer_that_is_not_http() {
    let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let thread = std::thread::spawn(move || {
        // In plain, for TLS, and for the manifest.
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n").unwrap();
        }
    });
    let reference = parse_reference(&format!("{host}/app:1")).unwrap();
    let mut options = options();
    options.patience.tries = 1;
    let e = Session::open(&reference, &Access::Pull, &options)
        .and_then(|s| s.pull(&Platform::here(), &Dir::new(), &Quiet))
        .unwrap_err();
    assert!(matches!(e.kind(), Kind::Malformed | Kind::Unreachable) && e.to_string().contains("/app:1"), "{e}");
    thread.join().unwrap();
}

#[test]
fn a_sink_that_is_full_is_left_clean() {
    struct Full(Dir);
    struct FullPart<'a>(Box<dyn Part + 'a>);
    impl Write for FullPart<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write_all(&bytes[..1])?;
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    impl Part for FullPart<'_> {
        fn size(&self) -> u64 {
            self.0.size()
        }
        fn restart(&mut self) -> io::Result<()> {
            self.0.restart()
        }
        fn finish(self: Box<Self>, digest: &Digest) -> io::Result<Finished> {
            self.0.finish(digest)
        }
        fn discard(self: Box<Self>, digest: &Digest) -> io::Result<()> {
            self.0.discard(digest)
        }
    }
    impl Sink for Full {
        fn has(&self, digest: &Digest) -> io::Result<bool> {
            self.0.has(digest)
        }
        fn begin(&self, digest: &Digest) -> io::Result<Option<Box<dyn Part + '_>>> {
            Ok(self.0.begin(digest)?.map(|p| Box::new(FullPart(p)) as Box<dyn Part>))
        }
    }
    let image = Image::new(&[&bytes(1000, 1)]);
    let server = serving(&image);
    let reference = parse_reference(&format!("{}/app:1", server.host())).unwrap();
    let session = Session::open(&reference, &Access::Pull, &options()).unwrap();
    let full = Full(Dir::new());
    let e = session.pull(&Platform::here(), &full, &Quiet).unwrap_err();
    says(&e, Kind::Full, &["blob sha256:"]);
    assert!(full.0.all().is_empty(), "{:?}", full.0.all());
}
