//! Where secrets are found.

use std::ffi::OsString;

use super::*;

fn find(json: &str, reference: &str) -> Result<Option<Secret>, Error> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("auth.json");
    fs::write(&file, json).unwrap();
    Credentials::of_file(file).find(&parse_reference(reference).unwrap())
}

fn user(json: &str, reference: &str) -> Option<String> {
    match find(json, reference).unwrap() {
        Some(Secret::Password { user, .. }) => Some(user),
        Some(Secret::Identity(token)) => Some(format!("token {token}")),
        None => None,
    }
}

#[test]
fn the_nearest_entry_is_taken() {
    // a:x, b:x, c:x, d:x
    let json = r#"{"auths":{"localhost:5000":{"auth":"YTp4"},"localhost:5000/team":{"auth":"Yjp4"},
        "localhost:5000/team/app":{"auth":"Yzp4"},"https://old.example/v1/":{"auth":"ZDp4"},"empty.example":{}}}"#;
    for (reference, expected) in [
        ("localhost:5000/app", Some("a")),
        ("localhost:5000/team/other:1", Some("b")),
        ("localhost:5000/team/app:1", Some("c")),
        ("localhost:5000/team/apple", Some("b")),
        ("localhost:5001/app", None),
        ("old.example/x", Some("d")),
        ("empty.example/x", None),
        ("app", None),
    ] {
        assert_eq!(user(json, reference).as_deref(), expected, "{reference}");
    }
}

#[test]
fn the_default_registry_goes_by_several_names() {
    let reference = parse_reference("app").unwrap();
    let legacy = format!("https://{}/v1/", reference.resolve_registry());
    for key in [legacy.as_str(), reference.resolve_registry(), reference.registry()] {
        assert_eq!(
            user(&format!(r#"{{"auths":{{"{key}":{{"auth":"YTp4"}}}}}}"#), "app").as_deref(),
            Some("a"),
            "{key}"
        );
    }
}

#[test]
fn identity_tokens_and_odd_passwords() {
    assert_eq!(user(r#"{"auths":{"h.x":{"auth":"YTp4","identitytoken":"i"}}}"#, "h.x/a").as_deref(), Some("token i"));
    // "a:x:y\0"
    let found = find(r#"{"auths":{"h.x":{"auth":"YTp4OnkA"}}}"#, "h.x/a").unwrap();
    assert_eq!(found, Some(Secret::Password { user: "a".into(), password: "x:y".into() }));
}

#[test]
fn nonsense_is_told_with_the_file() {
    for json in ["{", "[]", r#"{"auths":{"h.x":{"auth":"%"}}}"#, r#"{"auths":{"h.x":{"auth":"YWI="}}}"#] {
        let e = find(json, "h.x/a").unwrap_err();
        assert!(e.kind() == Kind::Credentials && e.to_string().contains("auth.json"), "{e}");
        assert!(e.what_helps().is_some());
    }
    assert_eq!(find("", "h.x/a").unwrap(), None);
    let nowhere = Credentials::of_file("/nonexistent/auth.json");
    assert_eq!(nowhere.find(&parse_reference("h.x/a").unwrap()).unwrap(), None);
}

#[test]
fn the_usual_places_in_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let write = |name: &str, auth: &str| {
        fs::create_dir_all(at(name).parent().unwrap()).unwrap();
        fs::write(at(name), format!(r#"{{"auths":{{"h.x":{{"auth":"{auth}"}}}}}}"#)).unwrap();
    };
    let who = |vars: &[(&str, &str)]| {
        let var = |name: &str| vars.iter().find(|(k, _)| *k == name).map(|(_, v)| OsString::from(at(v)));
        match Credentials::usual(var, false).find(&parse_reference("h.x/a").unwrap()).unwrap() {
            Some(Secret::Password { user, .. }) => user,
            _ => "nobody".to_owned(),
        }
    };
    write("home/.docker/config.json", "YTp4");
    assert_eq!(who(&[("HOME", "home")]), "a");
    write("docker/config.json", "Yjp4");
    assert_eq!(who(&[("HOME", "home"), ("DOCKER_CONFIG", "docker")]), "b");
    write("home/.config/containers/auth.json", "Yzp4");
    assert_eq!(who(&[("HOME", "home"), ("DOCKER_CONFIG", "docker")]), "c");
    write("run/containers/auth.json", "ZDp4");
    assert_eq!(who(&[("HOME", "home"), ("XDG_RUNTIME_DIR", "run")]), "d");
    write("own.json", "ZTp4");
    assert_eq!(who(&[("HOME", "home"), ("XDG_RUNTIME_DIR", "run"), ("REGISTRY_AUTH_FILE", "own.json")]), "e");
    assert_eq!(who(&[("HOME", "home"), ("REGISTRY_AUTH_FILE", "none.json")]), "nobody");
    assert_eq!(who(&[]), "nobody");
}

/// Programs are found by PATH, which belongs to the whole process: the names tell what they are.
#[test]
fn programs_that_keep_secrets() {
    for name in ["nonexistent-for-tests", "../../bin/sh", ""] {
        let e = find(&format!(r#"{{"credsStore":"{name}"}}"#), "h.x/a").unwrap_err();
        assert!(e.kind() == Kind::Credentials && e.to_string().starts_with("docker-credential-"), "{e}");
        let json = format!(r#"{{"credHelpers":{{"h.x":"{name}"}},"auths":{{"h.y":{{"auth":"YTp4"}}}}}}"#);
        assert!(find(&json, "h.x/a").is_err());
        assert_eq!(user(&json, "h.y/a").as_deref(), Some("a"));
    }
}
