//! What an upper says of the layers below: that a name is not there (a whiteout), or nothing at all (an opaque
//! directory). The one place where either is written.
//!
//! The native way is the kernel's: a device 0:0 in the name's place, an attribute of the directory. An upper that takes
//! no such devices or no attributes is *plain*: it holds AUFS's files instead, `.wh.NAME` beside the place and
//! `.wh..wh..opq` in the directory, and no mark of any kind. There
//! - an object counts more than a whiteout of its name, and a directory with one is opaque: so a name changes hands in one
//!   step, whatever comes between that and the removal of the other;
//! - names that begin with `.wh.` are not to be had.

use super::Overlay;
use super::copy_up::keep_times;
use crate::layer::{Handle, Rename};
use crate::vocab::dialect::{self, AUFS_MARK, AUFS_OPAQUE, Aufs};
use crate::vocab::{Errno, Kind, Result, Stat};

const WHITEOUT: &[u8] = b"whiteout";
/// AUFS's mode for its whiteouts: there is nothing to write to them.
const MODE: u32 = 0o444;

/// Why an upper is plain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plain {
    /// It was asked for.
    Asked,
    /// The upper was plain when it was mounted before.
    Before,
    /// The file system has no extended attributes.
    NoAttributes,
    /// It has no character devices 0:0, or not for us.
    NoDevices,
    /// renameat2(2) takes no flags there.
    NoFlags,
}

impl std::fmt::Display for Plain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Asked => "as asked",
            Self::Before => "as it was made",
            Self::NoAttributes => "the file system takes no extended attributes",
            Self::NoDevices => "the file system takes no devices 0:0",
            Self::NoFlags => "the file system can't rename without replacing",
        })
    }
}

impl Overlay {
    /// Why whiteouts are `.wh.` files in the upper, if they are.
    pub fn plain(&self) -> Option<Plain> {
        self.upper.as_ref().and_then(|u| u.plain)
    }

    pub(super) fn is_plain(&self) -> bool {
        self.plain().is_some()
    }

    /// Whether a name can't be had in this view.
    pub(super) fn is_reserved(&self, name: &[u8]) -> bool {
        self.is_plain() && dialect::aufs(name) != Aufs::Plain
    }

    /// Whether a plain upper has a whiteout for `name`.
    pub(super) fn has_plain_whiteout(&self, dir: &Handle, name: &[u8]) -> Result<bool> {
        match dir.stat(&dialect::aufs_whiteout(name)) {
            Ok(_) => Ok(true),
            // What can't have a whiteout has none.
            Err(Errno::NOENT | Errno::NAMETOOLONG) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Whether a plain upper says that nothing shows through its directory `name`.
    pub(super) fn is_plain_opaque(&self, dir: &Handle, name: &[u8]) -> Result<bool> {
        if self.has_plain_whiteout(dir, name)? {
            return Ok(true);
        }
        match dir.open_dir(name)?.stat(AUFS_OPAQUE) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Lets nothing from below show through the directory `name` of the upper.
    pub(super) fn make_opaque(&self, dir: &Handle, name: &[u8]) -> Result<()> {
        if !self.is_plain() {
            return dir.setxattr(name, &self.prefix.attr(dialect::OPAQUE), b"y", 0);
        }
        let own = dir.open_dir(name)?;
        keep_times(&own, || present(own.mknod(AUFS_OPAQUE, Kind::File, MODE, 0)))
    }

    /// A whiteout where the upper has nothing.
    pub(super) fn new_whiteout(&self, dir: &Handle, name: &[u8]) -> Result<()> {
        if self.is_plain() { plain_whiteout(dir, name) } else { self.link_whiteout(dir, name) }
    }

    /// A whiteout in the place of a non-directory.
    pub(super) fn put_whiteout(&self, dir: &Handle, name: &[u8]) -> Result<()> {
        if self.is_plain() {
            plain_whiteout(dir, name)?;
            return undo_unless(dir.unlink(name), dir, name);
        }
        let work = &self.tree()?.work;
        let temp = self.temp_name();
        self.link_whiteout(work, &temp)?;
        let r = work.rename(&temp, dir, name, Rename::Replace);
        self.discard_unless(r, &temp, Kind::Char)
    }

    /// A whiteout in the place of a directory that shows nothing; `own` is its handle.
    pub(super) fn swap_for_whiteout(&self, dir: &Handle, name: &[u8], own: &Handle) -> Result<()> {
        let work = &self.tree()?.work;
        let temp = self.temp_name();
        if self.is_plain() {
            plain_whiteout(dir, name)?;
            undo_unless(dir.rename(name, work, &temp, Rename::Replace), dir, name)?;
        } else {
            self.link_whiteout(work, &temp)?;
            let r = work.rename(&temp, dir, name, Rename::Exchange);
            self.discard_unless(r, &temp, Kind::Char)?;
        }
        // Out of sight; what remains of it is removed now or at the next mount.
        if let Err(e) = clear_whiteouts(own).and_then(|()| work.rmdir(&temp)) {
            log::warn!("{} is left in the work directory: {e}", String::from_utf8_lossy(&temp));
        }
        Ok(())
    }

    /// In a plain upper: what is in the place of a name that a whiteout hides goes, so that an object can have it.
    pub(super) fn make_way(&self, dir: &Handle, name: &[u8]) -> Result<()> {
        match dir.stat(name) {
            // A native one, of another tool.
            Ok(st) if st.is_whiteout() => plain_whiteout(dir, name).and_then(|()| dir.unlink(name)),
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// In a plain upper: removes the whiteout of a name that has an object by now. Nobody sees a difference.
    pub(super) fn take_whiteout(&self, dir: &Handle, name: &[u8]) {
        match dir.unlink(&dialect::aufs_whiteout(name)) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => log::warn!("a whiteout of {} is left in the upper: {e}", String::from_utf8_lossy(name)),
        }
    }

    /// Whiteouts are all alike: names of one.
    fn link_whiteout(&self, dir: &Handle, name: &[u8]) -> Result<()> {
        let tree = self.tree()?;
        let mut shared = tree.whiteout.lock();
        if let Some(source) = &*shared {
            match tree.work.link(source, dir, name) {
                // It has as many names as the file system allows, or was removed behind our back.
                Err(Errno::MLINK | Errno::NOENT | Errno::PERM | Errno::OPNOTSUPP) => {}
                r => return r,
            }
        }
        let fresh = [WHITEOUT, &self.temp_name()].concat();
        tree.work.mknod(&fresh, Kind::Char, 0, 0)?;
        match tree.work.link(&fresh, dir, name) {
            Err(Errno::PERM | Errno::OPNOTSUPP) => tree.work.rename(&fresh, dir, name, Rename::NoReplace),
            r => {
                *shared = Some(fresh);
                r
            }
        }
    }
}

/// Whether an upper was plain when it was mounted before.
///
/// # Errors
/// What stat(2) answers.
pub fn was_plain(upper: &Handle) -> Result<bool> {
    match upper.stat(AUFS_MARK) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Writes down that an upper is plain, so that whoever mounts it next reads the same.
pub(super) fn mark_plain(upper: &Handle) -> Result<()> {
    if was_plain(upper)? { Ok(()) } else { keep_times(upper, || upper.mknod(AUFS_MARK, Kind::File, MODE, 0)) }
}

/// Removes the whiteouts of a directory that shows nothing else.
pub(super) fn clear_whiteouts(dir: &Handle) -> Result<()> {
    let mut names = Vec::new();
    dir.list(&mut |e| names.push(e.name.to_vec()))?;
    for name in names {
        // An attribute whiteout is an empty file, as is a plain one; anything else means that the directory was not
        // empty after all.
        if !may_be_whiteout(&dir.stat(&name)?) {
            return Err(Errno::NOTEMPTY);
        }
        dir.unlink(&name)?;
    }
    Ok(())
}

fn may_be_whiteout(st: &Stat) -> bool {
    st.is_whiteout() || (st.kind == Kind::File && st.size == 0)
}

fn plain_whiteout(dir: &Handle, name: &[u8]) -> Result<()> {
    present(dir.mknod(&dialect::aufs_whiteout(name), Kind::File, MODE, 0))
}

fn present(made: Result<()>) -> Result<()> {
    match made {
        Err(Errno::EXIST) => Ok(()),
        r => r,
    }
}

/// Passes `r` on; after a failure the whiteout of `name` goes again.
pub(super) fn undo_unless(r: Result<()>, dir: &Handle, name: &[u8]) -> Result<()> {
    if r.is_err()
        && let Err(e) = dir.unlink(&dialect::aufs_whiteout(name))
    {
        log::warn!("a whiteout of {} is left in the upper: {e}", String::from_utf8_lossy(name));
    }
    r
}
