//! renameat2(2). A directory that the lowers have moves by a redirect: in one step, whatever is in it.

use std::sync::Arc;

use super::Overlay;
use super::copy_up::Want;
use super::links::Link;
use super::lookup::{Found, InUpper};
use super::node::{Below, NamesMut, Node, UpperAt};
use super::whiteout::{clear_whiteouts, undo_unless};
use crate::layer::{Handle, Rename};
use crate::vocab::dialect;
use crate::vocab::{Errno, Kind, Result};

const NOREPLACE: u32 = 1;
const EXCHANGE: u32 = 2;
const TRIES: u32 = 100;
/// A redirect is an attribute, and file systems keep about a block of those.
const MAX_REDIRECT: usize = 3000;

/// The names of one or two directories, locked ancestor first.
struct TwoDirs<'a> {
    first: NamesMut<'a>,
    second: Option<NamesMut<'a>>,
}

impl<'a> TwoDirs<'a> {
    fn lock(one: &'a Arc<Node>, other: &'a Arc<Node>) -> Self {
        if Arc::ptr_eq(one, other) {
            return Self { first: one.names_mut(), second: None };
        }
        let (a, b) = if is_within(one, other) { (other, one) } else { (one, other) };
        Self { first: a.names_mut(), second: Some(b.names_mut()) }
    }

    fn removed(&self) -> bool {
        self.first.removed() || self.second.as_ref().is_some_and(NamesMut::removed)
    }
}

/// One side of a rename: a directory, a name in it, and what it is.
struct Side<'a> {
    parent: &'a Arc<Node>,
    name: &'a [u8],
    dir: Handle,
}

impl Overlay {
    /// renameat2(2) with its flags.
    ///
    /// # Errors
    /// As rename(2); `EINVAL` for flags but `RENAME_NOREPLACE` and `RENAME_EXCHANGE`; `EXDEV` for a directory whose
    /// lower path is too long for a redirect.
    pub fn rename(&self, parent: u64, name: &[u8], new_parent: u64, new_name: &[u8], flags: u32) -> Result<()> {
        if flags & !(NOREPLACE | EXCHANGE) != 0 || flags == NOREPLACE | EXCHANGE {
            return Err(Errno::INVAL);
        }
        self.check_name(new_name)?;
        let (parent, new_parent) = (self.dir_node(parent)?, self.dir_node(new_parent)?);
        self.tree()?;
        // With two directories at most one such rename at a time: who is whose ancestor stays as it is.
        let _moving = if Arc::ptr_eq(&parent, &new_parent) { None } else { Some(self.moving.lock()) };
        for _ in 0..TRIES {
            if self.try_rename(&parent, name, &new_parent, new_name, flags)? {
                return Ok(());
            }
        }
        Err(Errno::STALE)
    }

    /// `false`: something was changed meanwhile, try again.
    fn try_rename(&self, p1: &Arc<Node>, n1: &[u8], p2: &Arc<Node>, n2: &[u8], flags: u32) -> Result<bool> {
        let src = self.found_node(p1, n1)?;
        let dst = match self.found_node(p2, n2) {
            Ok(node) => Some(node),
            Err(Errno::NOENT) => None,
            Err(e) => return Err(e),
        };
        match &dst {
            Some(_) if flags == NOREPLACE => return Err(Errno::EXIST),
            None if flags == EXCHANGE => return Err(Errno::NOENT),
            // Two names of one inode: POSIX wants nothing done.
            Some(dst) if Arc::ptr_eq(dst, &src) => return Ok(true),
            _ => {}
        }
        allowed(&src, p1, dst.as_ref(), p2, flags == EXCHANGE)?;
        // A plain upper can't say where the lowers have what a directory is merged with.
        let moves = [Some(&src), dst.as_ref().filter(|_| flags == EXCHANGE)];
        if self.is_plain() && moves.into_iter().flatten().any(|node| !node.lower_dirs().is_empty()) {
            return Err(Errno::XDEV);
        }
        for node in [p1, p2, &src] {
            self.copy_up(node, Want::Metadata)?;
        }
        if !self.keep_redirect(&src)? {
            return Ok(false);
        }
        if let Some(dst) = &dst {
            if flags == EXCHANGE {
                self.copy_up(dst, Want::Metadata)?;
                if !self.keep_redirect(dst)? {
                    return Ok(false);
                }
            } else if self.wants_index(dst) {
                self.copy_up_to_index(dst)?;
            }
        }
        let locked = TwoDirs::lock(p1, p2);
        let inside = dst.as_ref().filter(|d| d.is_dir() && flags != EXCHANGE).map(|d| d.names_mut());
        let Some(found) = self.still(p1, locked.removed(), n1, &src)? else { return Ok(false) };
        let found_dst = match &dst {
            Some(dst) => match self.still(p2, false, n2, dst) {
                Ok(Some(f)) => Some(f),
                Ok(None) | Err(Errno::NOENT) => return Ok(false),
                Err(e) => return Err(e),
            },
            None if self.resolve(p2, n2)?.is_some() => return Ok(false),
            None => None,
        };
        let from = Side { parent: p1, name: n1, dir: self.upper_dir(p1)? };
        let to = Side { parent: p2, name: n2, dir: self.upper_dir(p2)? };
        self.name_up(&src, &from, &found)?;
        self.fit_in(&src, &to)?;
        if let (Some(dst), Some(found_dst), EXCHANGE) = (&dst, &found_dst, flags) {
            self.name_up(dst, &to, found_dst)?;
            self.fit_in(dst, &from)?;
            from.dir.rename(n1, &to.dir, n2, Rename::Exchange)?;
            self.moved(&src, &from, &to);
            self.moved(dst, &to, &from);
            self.listed(p1, n1, dst);
            self.listed(p2, n2, &src);
            return Ok(true);
        }
        if let (Some(dst), Some(_)) = (&dst, &inside)
            && !self.is_empty(dst)?
        {
            return Err(Errno::NOTEMPTY);
        }
        let pin = match (&dst, &found_dst) {
            (Some(d), Some(f)) if d.is_dir() => {
                if f.named {
                    Some(self.upper_dir(d)?)
                } else {
                    None
                }
            }
            (Some(d), Some(f)) => self.pin_if_last(p2, &to.dir, n2, d, f)?,
            _ => None,
        };
        let hidden = self.is_hidden_below(p1, n1, &found)?;
        let counted = match (&dst, &found_dst) {
            (Some(d), Some(f)) if !d.is_dir() => self.count_down(d, f)?,
            _ => false,
        };
        // A file takes the place of any other, or of a whiteout, as it is.
        let files = !src.is_dir() && !self.is_plain();
        let done = if files { self.move_over(&from, &to, hidden) } else { self.replace(&src, &from, &to, hidden) };
        match &dst {
            Some(dst) => self.count_back_unless(done, dst, counted)?,
            None => done?,
        }
        let mut gone = Ok(());
        if let Some(dst) = &dst {
            match &inside {
                Some(removed) => {
                    self.buried(p2, n2, dst, pin);
                    removed.remove();
                }
                None => gone = self.unlinked(p2, n2, dst, pin, counted),
            }
        }
        self.moved(&src, &from, &to);
        self.unlisted(p1, n1);
        self.listed(p2, n2, &src);
        gone.map(|()| true)
    }

    /// The rename itself, in the upper, leaving a whiteout where a lower would show through.
    fn replace(&self, src: &Node, from: &Side<'_>, to: &Side<'_>, hidden: bool) -> Result<()> {
        match self.in_upper(to.parent, to.name)? {
            InUpper::Whiteout if self.is_plain() => {
                self.make_way(&to.dir, to.name)?;
                self.move_over(from, to, hidden)?;
                self.take_whiteout(&to.dir, to.name);
                Ok(())
            }
            InUpper::Whiteout if src.is_dir() => {
                from.dir.rename(from.name, &to.dir, to.name, Rename::Exchange)?;
                if !hidden && let Err(e) = from.dir.unlink(from.name) {
                    // It has moved; a whiteout that hides nothing does no harm.
                    log::warn!("{}: a whiteout is left behind: {e}", String::from_utf8_lossy(from.name));
                }
                Ok(())
            }
            found => {
                let aside = match found {
                    InUpper::Object(stat, _) if stat.kind == Kind::Dir => self.set_aside(to)?,
                    _ => None,
                };
                let done = self.move_over(from, to, hidden);
                if let Some(temp) = aside {
                    self.clear_aside(&temp, to, done.is_ok());
                }
                done
            }
        }
    }

    fn move_over(&self, from: &Side<'_>, to: &Side<'_>, hidden: bool) -> Result<()> {
        if !hidden {
            return from.dir.rename(from.name, &to.dir, to.name, Rename::Replace);
        }
        if self.is_plain() {
            // The object counts more as long as it is there.
            self.new_whiteout(&from.dir, from.name)?;
            let moved = from.dir.rename(from.name, &to.dir, to.name, Rename::Replace);
            return undo_unless(moved, &from.dir, from.name);
        }
        match from.dir.rename(from.name, &to.dir, to.name, Rename::Whiteout) {
            // This file system can't do both at once.
            Err(Errno::INVAL) => {
                from.dir.rename(from.name, &to.dir, to.name, Rename::Replace)?;
                self.new_whiteout(&from.dir, from.name)
            }
            r => r,
        }
    }

    /// Puts an empty directory in the place of one that shows nothing but has whiteouts, so that it can be replaced. The
    /// other one's name in the work directory, if that was needed.
    fn set_aside(&self, at: &Side<'_>) -> Result<Option<Vec<u8>>> {
        let mut any = false;
        at.dir.open_dir(at.name)?.list(&mut |_| any = true)?;
        if !any {
            return Ok(None);
        }
        let work = &self.tree()?.work;
        let temp = self.temp_name();
        if self.is_plain() {
            self.new_whiteout(&at.dir, at.name)?;
            undo_unless(at.dir.rename(at.name, work, &temp, Rename::Replace), &at.dir, at.name)?;
            return Ok(Some(temp));
        }
        work.mkdir(&temp, 0o700)?;
        let r = self.make_opaque(work, &temp).and_then(|()| work.rename(&temp, &at.dir, at.name, Rename::Exchange));
        self.discard_unless(r, &temp, Kind::Dir)?;
        Ok(Some(temp))
    }

    /// Removes a directory that was set aside, or puts it back where it was.
    fn clear_aside(&self, temp: &[u8], at: &Side<'_>, replaced: bool) {
        let cleared = self.tree().and_then(|tree| {
            if self.is_plain() {
                // Nothing was put in its place meanwhile.
                let back = if replaced { Ok(()) } else { tree.work.rename(temp, &at.dir, at.name, Rename::Replace) };
                self.take_whiteout(&at.dir, at.name);
                if !replaced {
                    return back;
                }
            } else if !replaced {
                tree.work.rename(temp, &at.dir, at.name, Rename::Exchange)?;
            }
            clear_whiteouts(&tree.work.open_dir(temp)?)?;
            tree.work.rmdir(temp)
        });
        if let Err(e) = cleared {
            log::warn!("{} is left in the work directory: {e}", String::from_utf8_lossy(temp));
        }
    }

    /// Makes sure that an object means the same at its new place.
    fn fit_in(&self, node: &Arc<Node>, to: &Side<'_>) -> Result<()> {
        let (below, key, device) = {
            let state = node.state.lock();
            let below = match &state.below {
                Below::Nothing => false,
                Below::Dirs(dirs) => !dirs.is_empty(),
                Below::Here { .. } | Below::There(_) => true,
            };
            let upper = state.upper.as_ref();
            (below, upper.map(|u| u.key), upper.is_some_and(|u| u.device))
        };
        if below || key.is_none_or(|k| self.inodes.number(k) != node.ino) {
            self.set_impure(to.parent, &to.dir)?;
        }
        if device {
            self.set_devices(to.parent, &to.dir)?;
        }
        if node.is_dir() && !below && !to.parent.lower_dirs().is_empty() {
            // It must not merge with what the lowers have there.
            let dir = self.upper_dir(node)?;
            self.make_opaque(&dir, b"")?;
        }
        Ok(())
    }

    /// Gives an object of the index this name in the upper, if it has none there yet.
    fn name_up(&self, node: &Arc<Node>, at: &Side<'_>, found: &Found) -> Result<()> {
        if found.named {
            return Ok(());
        }
        let index = match node.state.lock().upper.as_ref().map(|u| u.at.clone()) {
            Some(UpperAt::Index(index)) => index,
            _ => return Err(Errno::STALE),
        };
        self.link_indexed(node, &index, &at.dir, at.name)
    }

    /// Writes down where the lowers have what a directory is merged with, or a metacopy its data, before it moves. `false`: it has lost
    /// its last name, and stays where it is.
    pub(super) fn keep_redirect(&self, node: &Arc<Node>) -> Result<bool> {
        let needed = || {
            let state = node.state.lock();
            let merged = matches!(&state.below, Below::Dirs(dirs) if !dirs.is_empty());
            state.upper.as_ref().is_some_and(|u| u.redirect.is_none() && (u.metacopy || merged))
        };
        if !needed() {
            return Ok(true);
        }
        // Whoever moves it does this first: so what has no redirect under this lock is where the lowers have it.
        let _one_at_a_time = node.copy_up.lock();
        if !needed() {
            return Ok(true);
        }
        let path = loop {
            match self.lower_path(node) {
                Some(path) => break path,
                // That name went just now; maybe there is another.
                None if node.first_link().is_some() => {}
                None => return Ok(false),
            }
        };
        if path.len() > MAX_REDIRECT {
            return Err(Errno::XDEV);
        }
        let attr = self.prefix.attr(dialect::REDIRECT);
        self.with_upper(node, |dir, name| dir.setxattr(name, &attr, &path, 0))?;
        if let Some(upper) = &mut node.state.lock().upper {
            upper.redirect = Some(path.into());
        }
        Ok(true)
    }

    /// The node has its new name in place of the old one.
    fn moved(&self, node: &Node, from: &Side<'_>, to: &Side<'_>) {
        let link = Link { parent: to.parent.clone(), name: to.name.into() };
        let old = node.state.lock().replace_link((from.parent, from.name), link);
        // Its parent may go with it: not under the lock.
        drop(old);
    }
}

/// Whether `node` is `dir` or somewhere inside of it.
fn is_within(node: &Arc<Node>, dir: &Arc<Node>) -> bool {
    let mut at = Some(node.clone());
    while let Some(n) = at {
        if Arc::ptr_eq(&n, dir) {
            return true;
        }
        at = n.first_link().map(|l| l.parent);
    }
    false
}

/// What rename(2) refuses.
fn allowed(src: &Arc<Node>, p1: &Arc<Node>, dst: Option<&Arc<Node>>, p2: &Arc<Node>, exchange: bool) -> Result<()> {
    if src.is_dir() && is_within(p2, src) {
        return Err(Errno::INVAL);
    }
    let Some(dst) = dst else { return Ok(()) };
    if dst.is_dir() && is_within(p1, dst) {
        return Err(if exchange { Errno::INVAL } else { Errno::NOTEMPTY });
    }
    match (src.is_dir(), dst.is_dir()) {
        (true, false) if !exchange => Err(Errno::NOTDIR),
        (false, true) if !exchange => Err(Errno::ISDIR),
        _ => Ok(()),
    }
}
