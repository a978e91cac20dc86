//! How an image is named: `[HOST[:PORT]/]NAME[:TAG][@DIGEST]`, with the defaults everybody is used to.

use std::net::IpAddr;

use oci_spec::distribution::Reference;

use super::error::{Error, Kind};

/// Reads a reference; without a host it is on the registry that the field takes for granted, without a tag it is `latest`.
pub fn parse(text: &str) -> Result<Reference, Error> {
    let wrong = |why: &str| {
        Error::new(Kind::Reference, format!("{text:?} names no image: {why}"))
            .hint("a reference is [HOST[:PORT]/]NAME[:TAG][@DIGEST] in lower case, such as localhost:5000/app:1")
    };
    let reference: Reference = text.parse().map_err(|e: oci_spec::distribution::ParseError| wrong(&e.to_string()))?;
    // The crate takes the first word for a host here, and then not.
    if reference.repository().contains(|c: char| c.is_ascii_uppercase()) {
        return Err(wrong("repository name must be lowercase"));
    }
    Ok(reference)
}

/// Where the registry answers: host and port.
pub(super) fn host(reference: &Reference) -> &str {
    reference.resolve_registry()
}

/// The repository with its registry, as in auth files and messages.
pub(super) fn repository(reference: &Reference) -> String {
    format!("{}/{}", reference.registry(), reference.repository())
}

/// The tag or digest by which a manifest is asked for; the digest, if there is one.
pub(super) fn tag_or_digest(reference: &Reference) -> &str {
    reference.digest().or(reference.tag()).unwrap_or("latest")
}

/// Whether `authority` (host, maybe with a port) is this very machine.
pub(super) fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => authority.split(':').next().unwrap_or(authority),
    };
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_reference() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        for (text, where_, repo, asked) in [
            ("localhost:5000/app", "localhost:5000", "app", "latest".to_owned()),
            ("127.0.0.1:5000/a/b:1.2", "127.0.0.1:5000", "a/b", "1.2".to_owned()),
            (&format!("localhost/a:1@{digest}"), "localhost", "a", digest.clone()),
            ("app:1", "index.docker.io", "library/app", "1".to_owned()),
        ] {
            let r = parse(text).unwrap();
            assert_eq!((host(&r), r.repository(), tag_or_digest(&r)), (where_, repo, asked.as_str()), "{text}");
        }
    }

    #[test]
    fn what_is_no_reference_is_refused_with_a_hint() {
        for text in
            ["", "UPPER/case", "a b", "x@sha256:1234", "../../etc/passwd", "x:", "localhost:5000/", "http://x/y"]
        {
            let e = parse(text).unwrap_err();
            assert_eq!(e.kind(), Kind::Reference, "{text}");
            assert!(e.to_string().contains(&format!("{text:?}")) && e.what_helps().is_some(), "{e}");
        }
    }

    #[test]
    fn loopback() {
        for yes in ["localhost", "localhost:5000", "127.0.0.1:80", "127.1.2.3", "[::1]:5000", "LOCALHOST"] {
            assert!(is_loopback(yes), "{yes}");
        }
        for no in ["localhost.example:80", "10.0.0.1", "[::2]:1", "127.0.0.1.example", "example:5000"] {
            assert!(!is_loopback(no), "{no}");
        }
    }
}
