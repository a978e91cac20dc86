//! A container that goes when it ends, in which nothing was written, leaves its directory to the next one of its kind: on
//! disk, making and removing ten names takes longer than all else that a short run does there.
//!
//! There is one at most, in `tmp/`: a sweep takes it away with all that is nobody's.

use std::fs::{self, File, FileTimes};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::container::{RECORD, THROW_AWAY, UPPER, WORK};
use super::files::{Draft, write_over};
use super::{Container, Result, Running, Store};
use crate::vocab::dialect::{IMPURE, Prefix};

/// Where a run listens; the next one does so anew.
const CONTROL: &str = "control";

/// All that the directory may hold.
const KNOWN: [&str; 5] = [RECORD, THROW_AWAY, UPPER, WORK, CONTROL];

/// A directory that was never full is no bigger: who looks through it must not pay for another's files.
const SMALL: u64 = 4096;

/// Whether the writable layer `upper` and its `work` directory hold nothing, as when they were made: no name, and nothing
/// on the root itself but its mode and times, which are set anew. What can't be looked at is not.
pub fn is_untouched(upper: &Path, work: &Path) -> bool {
    is_bare(upper).and_then(|bare| Ok(bare && is_empty(upper)? && holds_empty_only(work)?)).unwrap_or(false)
}

/// The root belongs to who made it, and has no attributes but one that the union puts there and those of the machine.
fn is_bare(upper: &Path) -> io::Result<bool> {
    let meta = fs::symlink_metadata(upper)?;
    if (meta.uid(), meta.gid()) != (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()) {
        return Ok(false);
    }
    // More than fits is an error, too.
    let mut names = [0; 256];
    let len = rustix::fs::listxattr(upper, &mut names)?;
    let mut names = names[..len].split(|b| *b == 0).filter(|name| !name.is_empty());
    let expected = [Prefix::User.attr(IMPURE), b"security.selinux".to_vec()];
    Ok(names.all(|name| expected.iter().any(|e| e == name)))
}

fn is_empty(dir: &Path) -> io::Result<bool> {
    Ok(fs::symlink_metadata(dir)?.size() <= SMALL && fs::read_dir(dir)?.next().is_none())
}

fn holds_empty_only(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() || !is_empty(&entry.path())? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether nothing is missing in a container's directory, and nothing more in it than the next one writes anew.
fn is_whole(dir: &Path) -> io::Result<bool> {
    let names = fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    Ok(names.len() == KNOWN.len() && KNOWN.iter().all(|known| names.iter().any(|name| name == known)))
}

/// As if it were new, if it can be.
fn renew(dir: &Path) -> io::Result<bool> {
    let (upper, work) = (dir.join(UPPER), dir.join(WORK));
    // Who left it may not have let go of it yet.
    if !is_whole(dir)? || !is_untouched(&upper, &work) || File::open(dir.join(THROW_AWAY))?.try_lock().is_err() {
        return Ok(false);
    }
    let now = SystemTime::now();
    File::open(&upper)?.set_times(FileTimes::new().set_accessed(now).set_modified(now))?;
    Ok(true)
}

impl Store {
    fn spare(&self) -> PathBuf {
        self.path("tmp/spare")
    }

    pub(super) fn is_spare(&self, path: &Path) -> bool {
        path == self.spare()
    }

    /// The directory that was left by another, to be made into that of container `id`; the caller holds
    /// [`adding`](Self::adding). What is in `upper` and `work` would be seen in the next container: it is looked at again.
    pub(super) fn claim_spare(&self, id: &str) -> Option<Draft> {
        let claimed = self.path("tmp").join(format!("dir-{id}"));
        fs::rename(self.spare(), &claimed).ok()?;
        let draft = Draft::of(claimed);
        match renew(draft.path()) {
            Ok(true) => Some(draft),
            Ok(false) => None,
            Err(e) => {
                log::debug!("{}: {e}", draft.path().display());
                None
            }
        }
    }

    /// Ends the life of a container that was to go when it ended, and has ended in order: who served it has taken away what
    /// was written in it, or left the untouched directories. `running` shows that nobody else uses it.
    ///
    /// # Errors
    /// The disk's.
    pub fn retire_container(&self, container: &Container, running: Running) -> Result<()> {
        let _adding = self.adding()?;
        // Where another was faster it is not empty, and this one is not needed.
        match leave(container.dir(), &self.spare()) {
            Ok(true) => {
                running.release();
                Ok(())
            }
            _ => self.remove_container(container, running),
        }
    }
}

/// Makes a container's directory the spare, if it is good for that. What ran in it nobody needs to know any more.
fn leave(dir: &Path, spare: &Path) -> io::Result<bool> {
    if spare.exists() || !is_whole(dir)? {
        return Ok(false);
    }
    let record = dir.join(RECORD);
    let len = usize::try_from(fs::symlink_metadata(&record)?.len()).unwrap_or(0);
    write_over(&record, &vec![b' '; len])?;
    fs::rename(dir, spare)?;
    Ok(true)
}
