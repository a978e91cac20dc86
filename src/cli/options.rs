//! The words of `-o`, as mount(8) takes them: separated by commas, `\,` and `\:` for a comma and a colon that belong to
//! a name.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use super::error::Error;
use super::layers::Given;
use crate::fuse::{Attrs, Options, Readahead, Transport, Tuning, Wish, Wishes};
use crate::runner::Mapping;
use crate::vocab::dialect::{PRIVILEGED_STORED_STAT, Prefix, STORED_STAT};
use crate::vocab::ids::{IdMap, IdMaps};

/// Everything that a mount can be told.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) given: Given,
    pub(super) mount: Options,
    pub(super) tuning: Tuning,
    pub(super) prefix: Option<Prefix>,
    /// The image index of the lower layers; built if it is not there.
    pub(super) index: Option<PathBuf>,
    /// The upper need not survive a crash.
    pub(super) volatile: bool,
    /// How stored ids are shown.
    pub(super) ids: IdMaps,
    /// Owners and modes are kept in an attribute.
    pub(super) stored_owners: Option<&'static [u8]>,
    /// Read AUFS's `.wh.` names in the lower layers.
    pub(super) aufs: bool,
    /// Serve as root of a user namespace with this map, where the layers' files are of its ids.
    pub(super) inside: Option<Mapping>,
    /// How long to wait for another daemon to let go of the upper.
    pub(super) patience: Duration,
    /// Tell which mechanisms were chosen.
    pub(super) verbose: bool,
    /// Whiteouts are to be `.wh.` files in the upper.
    pub(super) plain: bool,
}

/// Accepted in silence: how it always is, or a hint for speed that has no meaning here.
const NO_EFFECT: &[&str] = &[
    "default_permissions",
    "noatime",
    "private",
    "ino32_t",
    "noino32_t",
    "noacl",
    "sync",
    "async",
    "clone_fd",
    "kernel_cache",
    "auto_cache",
    "max_write",
    "max_read",
    "max_idle_threads",
    "splice_read",
    "splice_write",
    "splice_move",
    "big_writes",
];

impl Default for Settings {
    fn default() -> Self {
        Self {
            given: Given::default(),
            mount: Options::default(),
            tuning: Tuning { wishes: Wishes { beside: Wish::Off, ..Wishes::default() }, ..Tuning::default() },
            prefix: None,
            index: None,
            volatile: false,
            ids: IdMaps::default(),
            stored_owners: None,
            aufs: true,
            inside: None,
            // A daemon that was just unmounted writes what it has.
            patience: Duration::from_secs(2),
            verbose: false,
            plain: false,
        }
    }
}

impl Settings {
    /// Takes in the words of one `-o`. Unknown ones are told about and passed over.
    ///
    /// # Errors
    /// A known option with a value that it can't have.
    pub(super) fn take(&mut self, words: &OsStr) -> Result<(), Error> {
        for word in split(words.as_bytes(), b',') {
            let (name, value) = match word.iter().position(|&b| b == b'=') {
                Some(at) => (&word[..at], Some(&word[at + 1..])),
                None => (word.as_slice(), None),
            };
            let name = String::from_utf8_lossy(name).into_owned();
            self.take_one(&name, value)?;
        }
        Ok(())
    }

    fn take_one(&mut self, name: &str, value: Option<&[u8]>) -> Result<(), Error> {
        let needed = || {
            value.filter(|v| !v.is_empty()).ok_or_else(|| {
                Error::new(format!("option {name} needs a value")).hint(format!("write it as -o {name}=VALUE"))
            })
        };
        match name {
            "" => {}
            "lowerdir" => self.given.lowers.extend(split(needed()?, b':').into_iter().map(|p| path(&p))),
            "lowerdir+" => self.given.lowers.push(path(&unescape(needed()?))),
            "upperdir" => self.given.upper = Some(path(&unescape(needed()?))),
            "workdir" => self.given.work = Some(path(&unescape(needed()?))),
            "timeout" => self.tuning.ttl = seconds(needed()?)?,
            "xino" => one_of(name, value, &["on", "off", "auto"])?,
            "redirect_dir" => one_of(name, value, &["on", "off", "follow", "nofollow"])?,
            "metacopy" | "index" => one_of(name, value, &["on", "off"])?,
            "fsync" | "threaded" | "fast_ino" => one_of(name, value, &["0", "1"])?,
            "fsname" | "source" => self.mount.source = String::from_utf8_lossy(&unescape(needed()?)).into_owned(),
            "userxattr" => self.prefix = Some(Prefix::User),
            "ro" => self.mount.read_only = true,
            "rw" => self.mount.read_only = false,
            "allow_other" => self.mount.allow_other = Some(true),
            "noallow_other" => self.mount.allow_other = Some(false),
            "suid" => self.mount.suid = true,
            "nosuid" => self.mount.suid = false,
            "dev" => self.mount.dev = true,
            "nodev" => self.mount.dev = false,
            "exec" => self.mount.exec = true,
            "noexec" => self.mount.exec = false,
            "volatile" => self.volatile = true,
            "image_index" => self.index = Some(PathBuf::from(OsStr::from_bytes(needed()?))),
            "negative_entries" => self.tuning.wishes.negative_entries = wish(name, value)?,
            "absent_xattrs" => self.tuning.wishes.absent_xattrs = wish(name, value)?,
            "beside" => self.tuning.wishes.beside = wish(name, value)?,
            "no_open" => self.tuning.wishes.no_open = wish(name, value)?,
            "dir_cache" => self.tuning.wishes.dir_cache = wish(name, value)?,
            "killpriv" => self.tuning.wishes.killpriv = wish(name, value)?,
            "btime" => self.tuning.wishes.btime = wish(name, value)?,
            "passthrough" => self.tuning.wishes.passthrough = wish(name, value)?,
            "writeback" => self.tuning.wishes.writeback = wish(name, value)?,
            "readahead" => self.tuning.wishes.readahead = readahead(needed()?)?,
            "transport" => self.tuning.transport = transport(needed()?)?,
            "static_nlink" => self.tuning.static_nlink = true,
            "noxattrs" => self.tuning.attrs = Attrs::None,
            // Whichever comes first, the stricter one stays.
            "noacl" if self.tuning.attrs == Attrs::All => self.tuning.attrs = Attrs::NoAcls,
            "context" => self.mount.context = Some(String::from_utf8_lossy(needed()?).into_owned()),
            "xattr_permissions" => self.stored_owners = stored_owners(needed()?)?,
            "uidmapping" => self.ids.uid.set_ranges(id_map(name, needed()?)?),
            "gidmapping" => self.ids.gid.set_ranges(id_map(name, needed()?)?),
            "squash_to_root" => {
                self.ids.uid.squash_to_root();
                self.ids.gid.squash_to_root();
            }
            "squash_to_uid" => self.ids.uid.squash(id(name, needed()?)?),
            "squash_to_gid" => self.ids.gid.squash(id(name, needed()?)?),
            _ if NO_EFFECT.contains(&name) => {}
            // The label without it would be a wider one.
            _ if self.mount.context.is_some() && is_category(name) => {
                return Err(Error::new(format!("option {name}: the label of context= was cut at a comma")).hint(
                    "quote it, also from the shell: -o 'context=\"system_u:object_r:container_file_t:s0:c1,c2\"'",
                ));
            }
            _ => log::warn!("option {name} is not known and has no effect"),
        }
        Ok(())
    }
}

/// The attribute of fuse-overlayfs's ways to keep owners.
fn stored_owners(value: &[u8]) -> Result<Option<&'static [u8]>, Error> {
    match value {
        b"0" => Ok(None),
        b"1" => Ok(Some(PRIVILEGED_STORED_STAT)),
        b"2" => Ok(Some(STORED_STAT)),
        other => Err(Error::new(format!("option xattr_permissions={}: no such value", String::from_utf8_lossy(other)))
            .hint("allowed are: 0, 1 (security.fuseoverlayfs.override_stat) or 2 (user.containers.override_stat)")),
    }
}

/// `on`, `off` or `auto`; the name alone says `on`.
fn wish(name: &str, value: Option<&[u8]>) -> Result<Wish, Error> {
    match value {
        None | Some(b"on" | b"1" | b"yes") => Ok(Wish::On),
        Some(b"off" | b"0" | b"no") => Ok(Wish::Off),
        Some(b"auto") => Ok(Wish::Auto),
        Some(other) => Err(Error::new(format!("option {name}={}: not a choice", String::from_utf8_lossy(other)))
            .hint(format!("on, off or auto: -o {name}=off"))),
    }
}

fn readahead(value: &[u8]) -> Result<Readahead, Error> {
    match value {
        b"auto" => return Ok(Readahead::Auto),
        b"off" => return Ok(Readahead::Kernel),
        _ => {}
    }
    let words = String::from_utf8_lossy(value);
    words.parse().map(Readahead::KiB).map_err(|_| {
        Error::new(format!("option readahead={words}: not a number of KiB"))
            .hint("for example -o readahead=1024; off leaves it to the kernel")
    })
}

fn transport(value: &[u8]) -> Result<Option<Transport>, Error> {
    match value {
        b"auto" => Ok(None),
        b"fuser" => Ok(Some(Transport::Fuser)),
        b"device" => Ok(Some(Transport::Device)),
        b"uring" => Ok(Some(Transport::Uring)),
        other => Err(Error::new(format!("option transport={}: not a choice", String::from_utf8_lossy(other)))
            .hint("uring, device, fuser or auto: -o transport=device")),
    }
}

/// Checks the value of an option that changes nothing here: a wrong one is a mistake all the same.
fn one_of(name: &str, value: Option<&[u8]>, allowed: &[&str]) -> Result<(), Error> {
    match value {
        Some(given) if !allowed.iter().any(|a| a.as_bytes() == given) => {
            let given = String::from_utf8_lossy(given);
            Err(Error::new(format!("option {name}={given}: no such value"))
                .hint(format!("allowed are: {}", allowed.join(", "))))
        }
        _ => Ok(()),
    }
}

fn id_map(name: &str, value: &[u8]) -> Result<IdMap, Error> {
    let words = String::from_utf8_lossy(value);
    IdMap::parse(&words).map_err(|why| {
        Error::new(format!("option {name}={words}: {why}"))
            .hint(format!("triples of id stored, id shown, count: -o {name}=0:1000:1:1:100000:65536"))
    })
}

fn id(name: &str, value: &[u8]) -> Result<u32, Error> {
    let words = String::from_utf8_lossy(value);
    words
        .parse()
        .map_err(|_| Error::new(format!("option {name}={words}: not an id")).hint(format!("a number: -o {name}=1000")))
}

fn seconds(value: &[u8]) -> Result<Duration, Error> {
    let words = String::from_utf8_lossy(value);
    words.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok()).ok_or_else(|| {
        Error::new(format!("option timeout={words}: not a number of seconds")).hint("for example -o timeout=1.5")
    })
}

/// A category of SELinux's, or a range of them: `c7`, `c0.c1023`.
fn is_category(word: &str) -> bool {
    word.split('.').all(|c| c.strip_prefix('c').is_some_and(|n| n.parse::<u16>().is_ok()))
}

/// The parts between separators; those of an option's value in double quotes do not separate, and those
/// behind a backslash do not either and stay as they are, but for the innermost level, which [`unescape`] takes care of.
fn split(words: &[u8], separator: u8) -> Vec<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut quoted = false;
    let mut bytes = words.iter().copied();
    while let Some(b) = bytes.next() {
        let part = parts.last_mut();
        match (b, part) {
            (b'"', _) if quoted => quoted = false,
            (b'"', Some(part)) if separator == b',' && is_name(part) => quoted = true,
            (b, _) if b == separator && !quoted => parts.push(Vec::new()),
            (b'\\', Some(part)) => match bytes.next() {
                Some(next) if next == separator => part.push(next),
                next => part.extend([b'\\'].into_iter().chain(next)),
            },
            (b, Some(part)) => part.push(b),
            (_, None) => {}
        }
    }
    parts.retain(|p| !p.is_empty());
    parts
}

/// Whether a value comes next: `name=`.
fn is_name(part: &[u8]) -> bool {
    part.split_last().is_some_and(|(&last, name)| last == b'=' && !name.contains(&b'='))
}

/// Takes away the backslash before a colon or a backslash.
fn unescape(value: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(value.len());
    let mut bytes = value.iter().copied().peekable();
    while let Some(b) = bytes.next() {
        match bytes.peek() {
            Some(&next @ (b':' | b'\\')) if b == b'\\' => {
                plain.push(next);
                bytes.next();
            }
            _ => plain.push(b),
        }
    }
    plain
}

fn path(bytes: &[u8]) -> PathBuf {
    OsString::from_vec(bytes.to_vec()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(words: &str) -> Settings {
        let mut settings = Settings::default();
        settings.take(OsStr::new(words)).unwrap();
        settings
    }

    #[test]
    fn layers_are_split_and_unescaped() {
        let s = taken(r"lowerdir=/a:/b\:c:/d\,e,,upperdir=/u\:p,workdir=/w\,k,");
        assert_eq!(s.given.lowers, ["/a", "/b:c", "/d,e"].map(PathBuf::from));
        assert_eq!(s.given.upper, Some("/u:p".into()));
        assert_eq!(s.given.work, Some("/w,k".into()));
    }

    #[test]
    fn a_label_is_quoted() {
        let label = |words| taken(words).mount.context;
        let whole = Some("u:r:t:s0:c1,c2".to_owned());
        assert_eq!(label(r#"ro,context="u:r:t:s0:c1,c2",volatile"#), whole);
        assert_eq!(label(r#"context="u:r:t:s0:c1,c2""#), whole);
        assert_eq!(label("context=u:r:t:s0"), Some("u:r:t:s0".to_owned()));
        for cut in ["context=u:r:t:s0:c1,c2", "ro,context=u:r:t:s0:c1,c2.c7,volatile"] {
            assert!(Settings::default().take(OsStr::new(cut)).is_err(), "{cut}");
        }
        assert!(!is_category("cache") && !is_category("c") && !is_category("c1.") && !is_category(""));
        // A quote inside is one of the name.
        let s = taken(r#"lowerdir=/a"b:/c="d,upperdir=/"e,workdir=/w"#);
        assert_eq!(s.given.lowers, ["/a\"b", "/c=\"d"].map(PathBuf::from));
        assert_eq!(s.given.upper, Some("/\"e".into()));
    }

    #[test]
    fn flags_and_values() {
        let s = taken("ro,timeout=1.5,nosuid,allow_other,userxattr");
        assert!(s.mount.read_only && !s.mount.suid && s.mount.allow_other == Some(true));
        assert_eq!((s.tuning.ttl, s.prefix), (Duration::from_millis(1500), Some(Prefix::User)));
    }

    #[test]
    fn wishes() {
        let s = taken("no_open=off,dir_cache=0,killpriv,readahead=512");
        let w = s.tuning.wishes;
        assert_eq!((w.no_open, w.dir_cache, w.killpriv), (Wish::Off, Wish::Off, Wish::On));
        assert_eq!((w.negative_entries, w.readahead), (Wish::Auto, Readahead::KiB(512)));
    }

    #[test]
    fn a_bad_value_is_an_error() {
        for words in [
            "timeout=soon",
            "timeout=-1",
            "upperdir=",
            "lowerdir",
            "no_open=perhaps",
            "readahead=far",
            "transport=pigeon",
        ] {
            assert!(Settings::default().take(OsStr::new(words)).is_err(), "{words}");
        }
    }
}
