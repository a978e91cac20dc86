//! How an image is named: `[HOST[:PORT]/]NAME[:TAG][@DIGEST]`, with the defaults everybody is used to.

use std::net::IpAddr;

use oci_spec::distribution::{ParseError, Reference};

use super::error::{Error, Kind};

/// Reads a reference; without a host it is on the registry that the field takes for granted, without a tag it is `latest`.
pub fn parse(text: &str) -> Result<Reference, Error> {
    let wrong = |why: &str| {
        Error::new(Kind::Reference, format!("{text:?} names no image: {why}"))
            .hint("a reference is [HOST[:PORT]/]NAME[:TAG][@DIGEST] in lower case, such as localhost:5000/app:1")
    };
    read(text).map_err(|e| wrong(&e.to_string()))
}

/// The grammar of the crate's own parser, which builds a regular expression for it: that takes longer than all else on the
/// way to a container.
fn read(text: &str) -> Result<Reference, ParseError> {
    if text.is_empty() {
        return Err(ParseError::NameEmpty);
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(ParseError::TagInvalidFormat);
    }
    digest.map_or(Ok(()), check_digest)?;
    let (registry, repository) = match name.split_once('/') {
        Some((host, repository)) if host.contains(['.', ':']) || host == "localhost" => {
            if !is_host(host) {
                return Err(ParseError::ReferenceInvalidFormat);
            }
            (if host == "index.docker.io" { DEFAULT_REGISTRY } else { host }, repository)
        }
        _ => (DEFAULT_REGISTRY, name),
    };
    if !repository.split('/').all(is_component) {
        let uppercase = repository.contains(|c: char| c.is_ascii_uppercase());
        return Err(if uppercase { ParseError::NameContainsUppercase } else { ParseError::ReferenceInvalidFormat });
    }
    let official = registry == DEFAULT_REGISTRY && !repository.contains('/');
    let repository = if official { format!("library/{repository}") } else { repository.to_owned() };
    if repository.len() > 255 {
        return Err(ParseError::NameTooLong);
    }
    let registry = registry.to_owned();
    Ok(match (tag, digest) {
        (Some(tag), Some(digest)) => Reference::with_tag_and_digest(registry, repository, tag.into(), digest.into()),
        (None, Some(digest)) => Reference::with_digest(registry, repository, digest.into()),
        (tag, None) => Reference::with_tag(registry, repository, tag.unwrap_or("latest").into()),
    })
}

const DEFAULT_REGISTRY: &str = "docker.io";

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128 && tag.bytes().next().is_some_and(word) && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn check_digest(digest: &str) -> Result<(), ParseError> {
    let (algorithm, hex) = digest.split_once(':').ok_or(ParseError::DigestInvalidFormat)?;
    let digits = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err(ParseError::DigestUnsupported),
    };
    if !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(ParseError::DigestInvalidFormat);
    }
    if hex.len() == digits { Ok(()) } else { Err(ParseError::DigestInvalidLength) }
}

/// A host name with or without a port; as the field has it, also what would be a component.
fn is_host(host: &str) -> bool {
    let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
    let label = |l: &str| {
        !l.is_empty()
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    let port_is_one = port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    (name.split('.').all(label) && port_is_one) || is_component(host)
}

/// Lower case letters and digits, between them `.`, `_`, `__` or any number of `-`.
fn is_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut between = String::new();
    let mut last = None;
    for c in component.bytes() {
        if alphanumeric(c) {
            if !matches!(between.as_str(), "" | "." | "_" | "__") && between.bytes().any(|b| b != b'-') {
                return false;
            }
            between.clear();
        } else if last.is_none() {
            return false;
        } else {
            between.push(char::from(c));
        }
        last = Some(c);
    }
    last.is_some_and(alphanumeric)
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
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]
        /// But for upper case in a repository, which that one takes where it could be a host.
        #[test]
        fn as_the_crate_reads_them(text in "(([a-zA-Z0-9._-]{1,6}|localhost|index.docker.io|docker.io)(:[0-9a]{1,3})?/)?[aA0._/-]{1,8}(:[a_.-]{1,3})?(@(sha256:[0-9a-f]{64}|sha256:[0-9a-f]{63}|sha1:[a-f]{40}|x))?") {
            let theirs = text.parse::<Reference>().ok();
            let theirs = theirs.filter(|r| !r.repository().contains(|c: char| c.is_ascii_uppercase()));
            prop_assert_eq!(read(&text).ok(), theirs);
        }
    }

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
