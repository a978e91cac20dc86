//! Files without a name: open(2) with `O_TMPFILE`.

use super::copy_up::{Want, upper_object};
use super::create::New;
use super::node::{Below, Node, State, UpperAt};
use super::{Attr, Caller, Overlay};
use crate::vocab::{Errno, Kind, Result};

impl Overlay {
    /// A new regular file of the upper that no directory has; [`link`](Self::link) may give it a name. It takes from
    /// `dir` what a file in it would. The caller holds a reference to it.
    ///
    /// # Errors
    /// As open(2) with `O_TMPFILE`; `EOPNOTSUPP` where the upper's file system has no such files.
    pub fn tmpfile(&self, caller: &Caller, dir: u64, mode: u32) -> Result<Attr> {
        let parent = self.dir_node(dir)?;
        self.copy_up(&parent, Want::Metadata)?;
        let names = parent.names();
        if names.removed {
            return Err(Errno::NOENT);
        }
        let dir = self.upper_dir(&parent)?;
        let inherits = self.has_default_acl(&parent)?;
        drop(names);
        let uid = self.config.ids.uid.stored_for(caller.uid);
        let mode = if inherits { mode } else { mode & !caller.umask } & 0o7777;
        let new = New { caller, uid, kind: Kind::File, mode, rdev: 0, target: b"" };
        let (mode, gid) = self.passed_on(&dir, &new, mode)?;
        let (file, _) = dir.create_unnamed(mode)?.ok_or(Errno::OPNOTSUPP)?;
        self.settle(&file, b"", &file.stat(b"")?, &new, mode, gid)?;
        let shown = self.upper_stat(&file, b"")?;
        let key = (shown.dev, shown.ino);
        let upper = upper_object(key, UpperAt::Pinned(file), false);
        let table = &self.inodes;
        let node = table.intern(&[key], table.number(key), None, |ino| {
            let state = State::new(None, Some(upper.clone()), Below::Nothing, None);
            Node::new(ino, Kind::File, state, table.clone())
        });
        let node = node.ok_or(Errno::STALE)?;
        let attr = self.attr_of(&node, shown);
        self.inodes.claim(&node);
        Ok(attr)
    }
}
