//! A directory with short words for what cases do in it, and words for what they expect.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::Write as _;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{AtFlags, CWD, FileType, Mode, RawDir, Timespec, Timestamps};

/// A directory and everything below it.
#[derive(Clone, Debug)]
pub(crate) struct Tree(pub(crate) PathBuf);

/// An entry of a directory as the kernel gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawEntry {
    pub(crate) name: OsString,
    pub(crate) ino: u64,
    pub(crate) kind: FileType,
    pub(crate) next: u64,
}

impl Tree {
    /// The path of `name`; the tree's own for an empty one.
    pub(crate) fn p(&self, name: impl AsRef<OsStr>) -> PathBuf {
        let name = name.as_ref();
        if name.is_empty() { self.0.clone() } else { self.0.join(name) }
    }

    fn with_parents(&self, name: &str) -> Result<PathBuf> {
        let path = self.p(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        Ok(path)
    }

    /// A file with its parents.
    pub(crate) fn file(&self, name: &str, data: impl AsRef<[u8]>) -> Result<&Self> {
        fs::write(self.with_parents(name)?, data).context(name.to_owned())?;
        Ok(self)
    }

    /// A directory with its parents.
    pub(crate) fn dir(&self, name: &str) -> Result<&Self> {
        fs::create_dir_all(self.p(name)).context(name.to_owned())?;
        Ok(self)
    }

    /// A symbolic link with its parents.
    pub(crate) fn symlink(&self, target: &str, name: &str) -> Result<&Self> {
        std::os::unix::fs::symlink(target, self.with_parents(name)?).context(name.to_owned())?;
        Ok(self)
    }

    /// A hard link.
    pub(crate) fn hard(&self, old: &str, new: &str) -> Result<&Self> {
        fs::hard_link(self.p(old), self.with_parents(new)?).context(new.to_owned())?;
        Ok(self)
    }

    /// A node by mknod(2).
    pub(crate) fn node(&self, name: &str, kind: FileType, mode: u32, dev: u64) -> Result<&Self> {
        let path = self.with_parents(name)?;
        rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(mode), dev).context(name.to_owned())?;
        Ok(self)
    }

    /// A whiteout of the kernel's union.
    pub(crate) fn whiteout(&self, name: &str) -> Result<&Self> {
        self.node(name, FileType::CharacterDevice, 0, 0)
    }

    /// chmod(2).
    pub(crate) fn mode(&self, name: &str, mode: u32) -> Result<&Self> {
        fs::set_permissions(self.p(name), fs::Permissions::from_mode(mode)).context(name.to_owned())?;
        Ok(self)
    }

    /// lchown(2).
    pub(crate) fn owner(&self, name: &str, uid: u32, gid: u32) -> Result<&Self> {
        std::os::unix::fs::lchown(self.p(name), Some(uid), Some(gid)).context(name.to_owned())?;
        Ok(self)
    }

    /// utimensat(2) of both times, not following links.
    pub(crate) fn times(&self, name: &str, sec: i64, nsec: i64) -> Result<&Self> {
        let at = Timespec { tv_sec: sec, tv_nsec: nsec };
        let both = Timestamps { last_access: at, last_modification: at };
        rustix::fs::utimensat(CWD, self.p(name), &both, AtFlags::SYMLINK_NOFOLLOW).context(name.to_owned())?;
        Ok(self)
    }

    /// lsetxattr(2).
    pub(crate) fn setx(&self, name: &str, attr: &str, value: impl AsRef<[u8]>) -> Result<&Self> {
        rustix::fs::lsetxattr(self.p(name), attr, value.as_ref(), rustix::fs::XattrFlags::empty())
            .with_context(|| format!("{name}: {attr}"))?;
        Ok(self)
    }

    /// lgetxattr(2); `None` where there is no such attribute.
    pub(crate) fn getx(&self, name: &str, attr: &str) -> Result<Option<Vec<u8>>> {
        getxattr(&self.p(name), attr)
    }

    /// Names of all attributes, sorted.
    pub(crate) fn listx(&self, name: &str) -> Result<Vec<String>> {
        Ok(xattrs(&self.p(name))?.into_iter().map(|(n, _)| n.display().to_string()).collect())
    }

    /// All of a file.
    pub(crate) fn read(&self, name: &str) -> Result<String> {
        let bytes = fs::read(self.p(name)).with_context(|| format!("read {name}"))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Appends.
    pub(crate) fn append(&self, name: &str, data: &str) -> Result<&Self> {
        let mut f = OpenOptions::new().append(true).open(self.p(name)).with_context(|| format!("append {name}"))?;
        f.write_all(data.as_bytes()).with_context(|| format!("append {name}"))?;
        Ok(self)
    }

    /// lstat(2).
    pub(crate) fn stat(&self, name: impl AsRef<OsStr>) -> Result<Metadata> {
        let name = name.as_ref();
        fs::symlink_metadata(self.p(name)).with_context(|| format!("stat {}", name.display()))
    }

    /// Permission bits.
    pub(crate) fn bits(&self, name: &str) -> Result<u32> {
        Ok(self.stat(name)?.mode() & 0o7777)
    }

    /// Whether the name is there; an error other than `ENOENT` is one.
    pub(crate) fn has(&self, name: impl AsRef<OsStr>) -> Result<bool> {
        match fs::symlink_metadata(self.p(&name)) {
            Ok(_) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(e) => Err(e).with_context(|| format!("stat {}", name.as_ref().display())),
        }
    }

    /// Names in a directory, sorted, blank-separated.
    pub(crate) fn ls(&self, name: &str) -> Result<String> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.p(name)).with_context(|| format!("list {name}"))? {
            names.push(entry?.file_name().display().to_string());
        }
        names.sort();
        Ok(names.join(" "))
    }

    /// open(2) for reading and writing.
    pub(crate) fn rw(&self, name: &str) -> Result<File> {
        OpenOptions::new().read(true).write(true).open(self.p(name)).with_context(|| format!("open {name}"))
    }

    /// open(2) for reading.
    pub(crate) fn ro(&self, name: &str) -> Result<File> {
        File::open(self.p(name)).with_context(|| format!("open {name}"))
    }

    /// unlink(2).
    pub(crate) fn rm(&self, name: &str) -> Result<&Self> {
        fs::remove_file(self.p(name)).with_context(|| format!("unlink {name}"))?;
        Ok(self)
    }

    /// rename(2).
    pub(crate) fn mv(&self, old: &str, new: &str) -> Result<&Self> {
        fs::rename(self.p(old), self.p(new)).with_context(|| format!("rename {old} {new}"))?;
        Ok(self)
    }
}

/// All entries from where the directory is open at, `.` and `..` too.
pub(crate) fn raw_entries(dir: &File) -> Result<Vec<RawEntry>> {
    let mut buf = vec![MaybeUninit::uninit(); 4096];
    let mut raw = RawDir::new(dir, &mut buf);
    let mut out = Vec::new();
    while let Some(entry) = raw.next() {
        let entry = entry.context("getdents")?;
        out.push(RawEntry {
            name: OsStr::from_bytes(entry.file_name().to_bytes()).to_owned(),
            ino: entry.ino(),
            kind: entry.file_type(),
            next: entry.next_entry_cookie(),
        });
    }
    Ok(out)
}

/// lgetxattr(2); `None` where there is no such attribute.
pub(crate) fn getxattr(path: &Path, attr: impl AsRef<OsStr>) -> Result<Option<Vec<u8>>> {
    let mut buf = vec![0; 1 << 16];
    match rustix::fs::lgetxattr(path, attr.as_ref(), &mut buf[..]) {
        Ok(n) => {
            buf.truncate(n);
            Ok(Some(buf))
        }
        Err(rustix::io::Errno::NODATA) => Ok(None),
        Err(e) => Err(e).with_context(|| format!("getxattr {} {}", path.display(), attr.as_ref().display())),
    }
}

/// All attributes, sorted by name.
pub(crate) fn xattrs(path: &Path) -> Result<Vec<(OsString, Vec<u8>)>> {
    let mut buf = vec![0; 1 << 16];
    let n = rustix::fs::llistxattr(path, &mut buf[..]).with_context(|| format!("listxattr {}", path.display()))?;
    let mut out = Vec::new();
    for name in buf[..n].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let name = OsStr::from_bytes(name).to_owned();
        if let Some(value) = getxattr(path, &name)? {
            out.push((name, value));
        }
    }
    out.sort();
    Ok(out)
}

/// An error that carries an errno.
pub(crate) trait HasErrno: std::fmt::Debug {
    /// The number, if it is of that kind.
    fn errno(&self) -> Option<i32>;
}

impl HasErrno for std::io::Error {
    fn errno(&self) -> Option<i32> {
        self.raw_os_error()
    }
}

impl HasErrno for rustix::io::Errno {
    fn errno(&self) -> Option<i32> {
        Some(self.raw_os_error())
    }
}

impl HasErrno for nix::Error {
    fn errno(&self) -> Option<i32> {
        Some(*self as i32)
    }
}

/// Checks that a call failed, and how. For `fails!`.
pub(crate) fn failed<T, E: HasErrno>(got: Result<T, E>, want: &[i32], call: &str, line: u32) -> Result<()> {
    let name = |e: i32| format!("{:?}", nix::errno::Errno::from_raw(e));
    let wanted = want.iter().map(|e| name(*e)).collect::<Vec<_>>().join(" or ");
    match got {
        Ok(_) => bail!("line {line}: {call}: worked, want {wanted}"),
        Err(e) => match e.errno() {
            Some(n) if want.contains(&n) => Ok(()),
            Some(n) => bail!("line {line}: {call}: {}, want {wanted}", name(n)),
            None => bail!("line {line}: {call}: {e:?}, want {wanted}"),
        },
    }
}

/// The call must fail with this errno, or one of these.
macro_rules! fails {
    ($call:expr, $($errno:ident)|+) => {
        $crate::tree::failed($call, &[$(libc::$errno),+], stringify!($call), line!())?
    };
}

/// Both must be equal.
macro_rules! same {
    ($got:expr, $want:expr) => {{
        let (got, want) = (&$got, &$want);
        if got != want {
            anyhow::bail!("line {}: {}:\n  got  {got:?}\n  want {want:?}", line!(), stringify!($got));
        }
    }};
}

/// Must be true.
macro_rules! holds {
    ($cond:expr) => {
        if !$cond {
            anyhow::bail!("line {}: does not hold: {}", line!(), stringify!($cond));
        }
    };
    ($cond:expr, $($why:tt)+) => {
        if !$cond {
            anyhow::bail!("line {}: {}", line!(), format_args!($($why)+));
        }
    };
}

/// The cases of a file: `cases!("verb": one, two.onlay(), three.by(&[User::Root]))`.
macro_rules! cases {
    ($verb:literal: $($f:ident $(. $attr:ident ( $($arg:expr),* ))*),* $(,)?) => {
        /// The cases of this file.
        pub(crate) const CASES: &[$crate::case::Case] = &[
            $($crate::case::Case::new(concat!($verb, "::", stringify!($f)), $f)$(.$attr($($arg),*))*),*
        ];
    };
}

pub(crate) use {cases, fails, holds, same};

/// Does the work for each of these at the same time, in threads; the first error counts.
pub(crate) fn together<T: Send>(
    each: impl IntoIterator<Item = T>,
    work: impl Fn(T) -> Result<()> + Sync,
) -> Result<()> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = each.into_iter().map(|t| scope.spawn(move || work(t))).collect();
        for t in threads {
            t.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        Ok(())
    })
}
