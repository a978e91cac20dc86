//! Whether a view is to be shown beside one that has the same layers under an upper, and what the two know each other by.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::super::options::Settings;
use crate::fuse::{Tuning, Wish};
use crate::vocab::digest::Digester;

/// Commands of engines that mount a step and its parent only to compare them, and unmount both. Others may keep what looks
/// like the parent, an image, for longer than the container over it, and its upper would stay in use.
const COMMANDS: [&str; 3] = ["build", "bud", "commit"];

/// What both views are told alike, the process that asked for them included; `None` where it is not wanted or can't be.
pub(super) fn token(settings: &Settings) -> Option<String> {
    let Settings { given, mount, tuning, prefix, index, ids, stored_owners, aufs, inside, .. } = settings;
    let caller = rustix::process::getppid()?.as_raw_nonzero();
    let wanted = match tuning.wishes.beside {
        Wish::On => true,
        Wish::Off => false,
        Wish::Auto => compares(&std::fs::read(format!("/proc/{caller}/cmdline")).ok()?),
    };
    if !wanted || index.is_some() || inside.is_some() || tuning.ttl != Tuning::default().ttl {
        return None;
    }
    // An empty directory at the bottom, which engines add where there is but one layer, shows nothing.
    let mut lowers = &given.lowers[..];
    while let [above @ .., last] = lowers
        && !above.is_empty()
        && is_empty(last)
    {
        lowers = above;
    }
    let layers: Vec<_> =
        lowers.iter().map(|l| l.metadata().map(|st| (st.dev(), st.ino()))).collect::<Result<_, _>>().ok()?;
    let mut mount = mount.clone();
    mount.read_only = false;
    let mut digest = Digester::new();
    let alike = (caller, layers, mount, tuning, prefix, ids, stored_owners, aufs);
    digest.update(format!("{alike:?}").as_bytes());
    Some(digest.finish().digest().to_owned())
}

/// Whether these are the words of such a command: each with a 0 byte at its end.
fn compares(words: &[u8]) -> bool {
    words.split(|b| *b == 0).skip(1).any(|word| COMMANDS.iter().any(|c| c.as_bytes() == word))
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut all| all.next().is_none())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn who_compares() {
        for (line, expected) in [
            ("buildah\0bud\0-t\0x\0.\0", true),
            ("podman\0--log-level\0debug\0build\0.\0", true),
            ("podman\0commit\0x\0", true),
            ("podman\0run\0--mount\0type=image,src=x\0", false),
            ("podman\0system\0service\0", false),
            ("build\0", false),
        ] {
            assert_eq!(compares(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn an_empty_bottom_makes_no_difference() {
        let dir = tempfile::tempdir().unwrap();
        let [full, other, empty] = ["full", "other", "empty"].map(|name| dir.path().join(name));
        for dir in [&full, &other, &empty] {
            std::fs::create_dir(dir).unwrap();
        }
        for dir in [&full, &other] {
            std::fs::write(dir.join("f"), "").unwrap();
        }
        let of = |lowers: &[&PathBuf]| {
            let mut settings = Settings::default();
            settings.tuning.wishes.beside = Wish::On;
            settings.given.lowers = lowers.iter().map(|l| l.to_path_buf()).collect();
            token(&settings)
        };
        assert!(of(&[&full]).is_some());
        assert_eq!(of(&[&full, &empty]), of(&[&full]));
        assert_eq!(of(&[&full, &other, &empty]), of(&[&full, &other]));
        // On top, its owner and mode are those of the root.
        for others in [&[&empty, &full][..], &[&full, &other], &[&other, &full], &[&other]] {
            assert_ne!(of(others), of(&[&full]), "{others:?}");
        }
    }
}
