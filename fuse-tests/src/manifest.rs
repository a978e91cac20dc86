//! Everything there is to know about a tree, as text: to compare a tree with itself later, or with another.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::SeekFrom;

use crate::tree::xattrs;

/// One line per object, by path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest(BTreeMap<PathBuf, String>);

/// What to record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct What {
    /// Attributes of the union itself, link counts and sizes of directories: everything that is on disk.
    disk: bool,
    /// Times of directories.
    dir_times: bool,
    /// Times of everything else.
    times: bool,
}

impl What {
    /// For a layer that must not change at all.
    pub(crate) const DISK: Self = Self { disk: true, dir_times: true, times: true };
    /// For a layer that was unpacked twice: directories without an entry have their times from then.
    pub(crate) const UNPACKED: Self = Self { disk: true, dir_times: false, times: true };
    /// For two views of the same tree: without what belongs to the storage of one of them.
    pub(crate) const VIEW: Self = Self { disk: false, dir_times: true, times: true };
    /// For two trees on which the same was done at different moments.
    pub(crate) const SHAPE: Self = Self { disk: false, dir_times: false, times: false };
}

impl Manifest {
    /// Reads the tree at `root`, which may not exist.
    pub(crate) fn of(root: &Path, what: What) -> Result<Self> {
        let mut lines = BTreeMap::new();
        let mut todo = vec![PathBuf::new()];
        while let Some(rel) = todo.pop() {
            let path = if rel.as_os_str().is_empty() { root.to_path_buf() } else { root.join(&rel) };
            let md = match fs::symlink_metadata(&path) {
                Ok(md) => md,
                Err(e) if rel.as_os_str().is_empty() && e.kind() == std::io::ErrorKind::NotFound => break,
                Err(e) => return Err(e).with_context(|| format!("manifest: {}", path.display())),
            };
            if md.is_dir() {
                for entry in fs::read_dir(&path).with_context(|| format!("manifest: {}", path.display()))? {
                    todo.push(rel.join(entry?.file_name()));
                }
            }
            let line = line(&path, &md, what).with_context(|| format!("manifest: {}", path.display()))?;
            lines.insert(rel, line);
        }
        Ok(Self(lines))
    }

    /// What differs, a few lines of it.
    pub(crate) fn diff(&self, other: &Self) -> Vec<String> {
        let mut out = Vec::new();
        for (path, line) in &self.0 {
            match other.0.get(path) {
                None => out.push(format!("- {} {line}", path.display())),
                Some(l) if l != line => out.push(format!("! {}\n    {line}\n    {l}", path.display())),
                Some(_) => {}
            }
        }
        out.extend(
            other.0.iter().filter(|(p, _)| !self.0.contains_key(*p)).map(|(p, l)| format!("+ {} {l}", p.display())),
        );
        out
    }

    /// Fails with the differences, if there are any.
    pub(crate) fn check(&self, other: &Self, title: &str) -> Result<()> {
        let diff = self.diff(other);
        ensure!(diff.is_empty(), "{title}: {} differences\n  {}", diff.len(), diff[..diff.len().min(8)].join("\n  "));
        Ok(())
    }

    /// The paths and their lines.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.0.iter().map(|(p, l)| (p.as_path(), l.as_str()))
    }

    /// The line of a path.
    pub(crate) fn get(&self, path: &Path) -> Option<&str> {
        self.0.get(path).map(String::as_str)
    }
}

fn line(path: &Path, md: &fs::Metadata, what: What) -> Result<String> {
    let ft = md.file_type();
    let mut line = format!("{:o} {}:{}", md.mode(), md.uid(), md.gid());
    if if ft.is_dir() { what.dir_times } else { what.times } {
        line += &format!(" {}.{:09}", md.mtime(), md.mtime_nsec());
    }
    if !ft.is_dir() || what.disk {
        line += &format!(" size {} nlink {}", md.size(), md.nlink());
    }
    if ft.is_block_device() || ft.is_char_device() {
        line += &format!(" rdev {:x}", md.rdev());
    }
    if ft.is_symlink() {
        line += &format!(" -> {}", fs::read_link(path)?.display());
    }
    if ft.is_file() {
        line += &format!(" {}", hash(path)?);
    }
    for (name, value) in xattrs(path)? {
        let private = [&b"trusted.overlay."[..], b"user.overlay."].iter().any(|p| name.as_bytes().starts_with(p));
        if what.disk || !private {
            line += &format!(" {}={}", name.display(), OsStr::from_bytes(&value).display());
        }
    }
    Ok(line)
}

/// Hash of a file's content, without blocks of zeros (the size is told elsewhere): what is hollow is not read. A file that
/// we may not read is known by its size and times alone.
fn hash(path: &Path) -> Result<String> {
    const BLOCK: u64 = 1 << 16;
    let mut file = match fs::File::open(path) {
        Ok(f) => f,
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => return Ok("unreadable".to_owned()),
        Err(e) => return Err(e.into()),
    };
    let mut hasher = blake3::Hasher::new();
    let mut block = Vec::new();
    let mut at = 0;
    loop {
        at = match rustix::fs::seek(&file, SeekFrom::Data(at)) {
            Ok(data) => data - data % BLOCK,
            Err(rustix::io::Errno::NXIO) => return Ok(hasher.finalize().to_hex()[..32].to_owned()),
            // Knows no holes.
            Err(rustix::io::Errno::INVAL) => at,
            Err(e) => return Err(e.into()),
        };
        rustix::fs::seek(&file, SeekFrom::Start(at))?;
        block.clear();
        if file.by_ref().take(BLOCK).read_to_end(&mut block)? == 0 {
            return Ok(hasher.finalize().to_hex()[..32].to_owned());
        }
        if block.iter().any(|b| *b != 0) {
            hasher.update(&at.to_le_bytes()).update(&block);
        }
        at += BLOCK;
    }
}
