//! Files that are there whole or not at all: made under a name in `tmp/`, synced, renamed.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::{NamedTempFile, TempDir};

use super::{Error, ErrorKind, Result, Store};

/// JSON files of ours are small; one that is not is none.
const MAX_JSON: u64 = 64 << 20;

/// A directory in `tmp/` on its way to its place; removed if it does not get there.
#[derive(Debug)]
pub(super) struct Draft {
    path: PathBuf,
    moved: bool,
}

impl Draft {
    pub(super) fn of(path: PathBuf) -> Self {
        Self { path, moved: false }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl From<TempDir> for Draft {
    fn from(dir: TempDir) -> Self {
        Self::of(dir.keep())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.moved
            && let Err(e) = fs::remove_dir_all(&self.path)
        {
            log::debug!("{} is left over: {e}", self.path.display());
        }
    }
}

impl Store {
    /// A path in the store.
    pub(super) fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }

    /// A new file in `tmp/`, removed unless it is moved elsewhere.
    pub fn temp_file(&self) -> Result<NamedTempFile> {
        let tmp = self.path("tmp");
        tempfile::Builder::new().prefix("file-").tempfile_in(&tmp).map_err(Error::at("make a file in", &tmp))
    }

    /// A new directory in `tmp/`, removed unless it is moved elsewhere.
    pub fn temp_dir(&self) -> Result<TempDir> {
        let tmp = self.path("tmp");
        tempfile::Builder::new().prefix("dir-").tempdir_in(&tmp).map_err(Error::at("make a directory in", &tmp))
    }

    /// Writes `bytes` as the file `at`, in one step.
    pub(super) fn write_file(&self, at: &Path, bytes: &[u8]) -> Result<()> {
        let fail = |e| Error::io(format_args!("write {}", at.display()), &e);
        let mut file = self.temp_file()?;
        file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(fail)?;
        file.persist(at).map_err(|e| fail(e.error))?;
        sync_parent(at)
    }

    /// The same for what need not survive the machine's crash: in one step for who reads it, but after a crash it may be
    /// empty.
    pub(super) fn write_json_unsynced(&self, at: &Path, value: &impl Serialize) -> Result<()> {
        let fail = |e| Error::io(format_args!("write {}", at.display()), &e);
        let mut file = self.temp_file()?;
        file.write_all(&to_json(value)?).map_err(fail)?;
        // Some file systems write a file out when it replaces another, but not when the two change places.
        match rustix::fs::renameat_with(CWD, file.path(), CWD, at, RenameFlags::EXCHANGE) {
            Ok(()) => Ok(()),
            Err(_) => file.persist(at).map_err(|e| fail(e.error)).map(drop),
        }
    }

    pub(super) fn write_json(&self, at: &Path, value: &impl Serialize) -> Result<()> {
        self.write_file(at, &to_json(value)?)
    }

    /// Moves a finished directory of `tmp/` to its place, where nothing is. The caller has synced what is in it.
    pub(super) fn publish(&self, from: impl Into<Draft>, to: &Path) -> Result<()> {
        rename_new(from.into(), to)?;
        sync_parent(to)
    }

    /// Takes a directory out of sight in one step, then removes it. A crash in between leaves it in `tmp/`. Makes nothing
    /// for that: this is what frees a full disk.
    pub(super) fn remove_tree(&self, path: &Path) -> Result<()> {
        self.bury(path, sync_parent)
    }

    /// The same for what a sweep knows to be no use: after a crash of the machine it may be there again.
    pub(super) fn remove_tree_unsynced(&self, path: &Path) -> Result<()> {
        self.bury(path, |_| Ok(()))
    }

    fn bury(&self, path: &Path, sync: fn(&Path) -> Result<()>) -> Result<()> {
        let grave = self.path("tmp").join(format!("gone-{}", random_id()?));
        match fs::rename(path, &grave) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            moved => moved.map_err(Error::at("remove", path))?,
        }
        sync(path)?;
        fs::remove_dir_all(&grave).map_err(Error::at("remove", &grave))
    }
}

/// 64 hex digits that nobody else has.
pub(super) fn random_id() -> Result<String> {
    let mut bytes = [0; 32];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| Error::io("random bytes for an id", &e.into()))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// Moves a directory of `tmp/` to its place; the directory it comes into is not synced yet.
pub(super) fn rename_new(mut from: Draft, to: &Path) -> Result<()> {
    fs::rename(from.path(), to).map_err(Error::at("make", to))?;
    from.moved = true;
    Ok(())
}

/// Writes a file that nobody reads, and that may be there, unsynced: never empty in between, which some file systems write
/// out at once.
pub(super) fn write_over(at: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::options().write(true).create(true).truncate(false).open(at)?;
    file.write_all(bytes)?;
    let len = bytes.len() as u64;
    if file.metadata()?.len() > len { file.set_len(len) } else { Ok(()) }
}

/// Syncs the directory that `path` is in, so that its name lasts.
pub(super) fn sync_parent(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), sync_dir)
}

/// Syncs a directory, so that the names in it last.
pub(super) fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(Error::at("sync", path))
}

/// Syncs the whole file system a directory is on (syncfs(2)): for trees of many files.
pub(super) fn sync_tree(path: &Path) -> Result<()> {
    let dir = File::open(path).map_err(Error::at("open", path))?;
    rustix::fs::syncfs(&dir).map_err(|e| Error::at("sync", path)(e.into()))
}

pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = read(path)?;
    serde_json::from_slice(&bytes).map_err(|e| {
        Error::bad(format_args!("{}: {e}", path.display()))
            .with_hint("something else than onlay wrote it, or the disk is broken")
    })
}

/// Reads a small file whole.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::new(ErrorKind::NotFound, format_args!("{}: not there", path.display())),
        _ => Error::at("open", path)(e),
    })?;
    let len = file.metadata().map_err(Error::at("stat", path))?.len().min(MAX_JSON);
    let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0) + 1);
    file.take(MAX_JSON).read_to_end(&mut bytes).map_err(Error::at("read", path))?;
    Ok(bytes)
}

/// JSON with the keys of every object sorted: the same value has the same digest, however it was put together.
pub fn to_json(value: &impl Serialize) -> Result<Vec<u8>> {
    let fail = |e: serde_json::Error| Error::bad(format_args!("write JSON: {e}"));
    let value = serde_json::to_value(value).map_err(fail)?;
    serde_json::to_vec(&Sorted(&value)).map_err(fail)
}

struct Sorted<'a>(&'a serde_json::Value);

impl Serialize for Sorted<'_> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        match self.0 {
            serde_json::Value::Object(map) => {
                let sorted: std::collections::BTreeMap<_, _> = map.iter().map(|(k, v)| (k, Sorted(v))).collect();
                to.collect_map(sorted)
            }
            serde_json::Value::Array(all) => to.collect_seq(all.iter().map(Sorted)),
            plain => plain.serialize(to),
        }
    }
}
