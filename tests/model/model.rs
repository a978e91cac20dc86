//! The reference: a plain POSIX tree, with nothing in it that could be wrong.

use std::collections::{BTreeMap, HashMap};

use onlay::vocab::{Errno, Kind, Result, SetTime, Timestamp};

/// Names an object for ever.
pub(crate) type Id = usize;
pub(crate) const ROOT: Id = 0;

/// A time that was set, or `None` for some moment of this test.
pub(crate) type When = Option<Timestamp>;

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) rdev: u64,
    /// Of a file; or the target of a link.
    pub(crate) data: Vec<u8>,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) mtime: When,
    /// Names, with those that layers hide. Of a directory: 0 once it was removed.
    pub(crate) nlink: u32,
    pub(crate) entries: BTreeMap<Vec<u8>, Id>,
    pub(crate) parent: Id,
    /// It was made without a name, and may get one.
    pub(crate) linkable: bool,
    /// It was there when the union was made.
    pub(crate) from_lower: bool,
}

impl Node {
    pub(crate) fn new(kind: Kind, mode: u32) -> Self {
        Self {
            kind,
            mode,
            uid: 0,
            gid: 0,
            rdev: 0,
            data: Vec::new(),
            xattrs: BTreeMap::new(),
            mtime: None,
            nlink: 1,
            entries: BTreeMap::new(),
            parent: ROOT,
            linkable: false,
            from_lower: false,
        }
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.kind == Kind::Dir
    }
}

/// What to make.
#[derive(Clone, Debug)]
pub(crate) struct New {
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) rdev: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) umask: u32,
    pub(crate) target: Vec<u8>,
}

/// What the comparison looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) rdev: u64,
    /// `None` for directories: theirs is checked on its own.
    pub(crate) nlink: Option<u32>,
    pub(crate) mtime: When,
    pub(crate) data: Vec<u8>,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first path, in order, of the same object.
    pub(crate) first: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) nodes: Vec<Node>,
    /// Owners are kept in an attribute: those of files and directories only, and set-id bits stay until told otherwise.
    pub(crate) stored_owners: bool,
    /// The upper holds whiteouts as files, and no marks: lower directories do not move.
    pub(crate) plain: bool,
}

pub(crate) const NOREPLACE: u32 = 1;
pub(crate) const EXCHANGE: u32 = 2;

impl Model {
    pub(crate) fn new() -> Self {
        Self { nodes: vec![Node::new(Kind::Dir, 0o755)], stored_owners: false, plain: false }
    }

    pub(crate) fn add(&mut self, node: Node) -> Id {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn dir(&self, id: Id) -> Result<&Node> {
        if self.nodes[id].is_dir() { Ok(&self.nodes[id]) } else { Err(Errno::NOTDIR) }
    }

    pub(crate) fn lookup(&self, dir: Id, name: &[u8]) -> Result<Id> {
        self.dir(dir)?.entries.get(name).copied().ok_or(Errno::NOENT)
    }

    fn vacant(&self, dir: Id, name: &[u8]) -> Result<()> {
        let node = self.dir(dir)?;
        if node.nlink == 0 {
            return Err(Errno::NOENT);
        }
        if node.entries.contains_key(name) { Err(Errno::EXIST) } else { Ok(()) }
    }

    pub(crate) fn make(&mut self, dir: Id, name: &[u8], new: &New) -> Result<Id> {
        self.vacant(dir, name)?;
        if self.plain && new.kind.is_whiteout(new.rdev) {
            return Err(Errno::PERM);
        }
        let id = self.new_in(dir, new);
        self.nodes[dir].entries.insert(name.to_vec(), id);
        self.nodes[dir].mtime = None;
        Ok(id)
    }

    /// A file that no directory has.
    pub(crate) fn tmpfile(&mut self, dir: Id, new: &New) -> Result<Id> {
        if self.dir(dir)?.nlink == 0 {
            return Err(Errno::NOENT);
        }
        let id = self.new_in(dir, new);
        (self.nodes[id].nlink, self.nodes[id].linkable) = (0, true);
        Ok(id)
    }

    /// Something new, with what it takes from a directory.
    fn new_in(&mut self, dir: Id, new: &New) -> Id {
        let mut node = Node::new(new.kind, if new.kind == Kind::Symlink { 0o777 } else { new.mode & !new.umask });
        (node.uid, node.gid, node.rdev, node.data) = (new.uid, new.gid, new.rdev, new.target.clone());
        node.parent = dir;
        let above = &self.nodes[dir];
        if above.mode & 0o2000 != 0 {
            node.gid = above.gid;
            node.mode |= if new.kind == Kind::Dir { 0o2000 } else { 0 };
        }
        if !self.keeps_owner(new.kind, new.rdev) {
            (node.uid, node.gid) = (0, 0);
        }
        self.add(node)
    }

    pub(crate) fn link(&mut self, id: Id, dir: Id, name: &[u8]) -> Result<()> {
        self.dir(dir)?;
        if self.nodes[id].is_dir() {
            return Err(Errno::PERM);
        }
        self.vacant(dir, name)?;
        if self.nodes[id].nlink == 0 && !self.nodes[id].linkable {
            return Err(Errno::NOENT);
        }
        self.nodes[id].linkable = false;
        self.nodes[id].nlink += 1;
        self.nodes[dir].entries.insert(name.to_vec(), id);
        self.nodes[dir].mtime = None;
        Ok(())
    }

    /// Takes a name away; what it was loses one.
    fn take(&mut self, dir: Id, name: &[u8]) {
        if let Some(id) = self.nodes[dir].entries.remove(name) {
            self.nodes[id].nlink -= 1;
        }
        self.nodes[dir].mtime = None;
    }

    fn put(&mut self, dir: Id, name: &[u8], id: Id) {
        self.nodes[dir].entries.insert(name.to_vec(), id);
        self.nodes[dir].mtime = None;
        if self.nodes[id].is_dir() {
            self.nodes[id].parent = dir;
        }
    }

    pub(crate) fn unlink(&mut self, dir: Id, name: &[u8]) -> Result<()> {
        if self.nodes[self.lookup(dir, name)?].is_dir() {
            return Err(Errno::ISDIR);
        }
        self.take(dir, name);
        Ok(())
    }

    pub(crate) fn rmdir(&mut self, dir: Id, name: &[u8]) -> Result<()> {
        if !self.dir(self.lookup(dir, name)?)?.entries.is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        self.take(dir, name);
        Ok(())
    }

    fn is_within(&self, mut id: Id, top: Id) -> bool {
        while id != top && id != ROOT {
            id = self.nodes[id].parent;
        }
        id == top
    }

    pub(crate) fn rename(&mut self, d1: Id, n1: &[u8], d2: Id, n2: &[u8], flags: u32) -> Result<()> {
        self.dir(d1)?;
        self.dir(d2)?;
        let src = self.lookup(d1, n1)?;
        let dst = match self.lookup(d2, n2) {
            Ok(id) => Some(id),
            Err(Errno::NOENT) if self.nodes[d2].nlink > 0 => None,
            Err(e) => return Err(e),
        };
        match dst {
            Some(_) if flags == NOREPLACE => return Err(Errno::EXIST),
            None if flags == EXCHANGE => return Err(Errno::NOENT),
            Some(dst) if dst == src => return Ok(()),
            _ => {}
        }
        if self.nodes[src].is_dir() && self.is_within(d2, src) {
            return Err(Errno::INVAL);
        }
        let moves = [Some(src), dst.filter(|_| flags == EXCHANGE)];
        let stays = |id: Id| self.plain && self.nodes[id].is_dir() && self.nodes[id].from_lower;
        if let Some(dst) = dst {
            let (a, b) = (&self.nodes[src], &self.nodes[dst]);
            if b.is_dir() && self.is_within(d1, dst) {
                return Err(if flags == EXCHANGE { Errno::INVAL } else { Errno::NOTEMPTY });
            }
            if flags == EXCHANGE && moves.into_iter().flatten().any(stays) {
                return Err(Errno::XDEV);
            }
            if flags == EXCHANGE {
                self.put(d1, n1, dst);
                self.put(d2, n2, src);
                return Ok(());
            }
            match (a.is_dir(), b.is_dir()) {
                (true, false) => return Err(Errno::NOTDIR),
                (false, true) => return Err(Errno::ISDIR),
                _ if stays(src) => return Err(Errno::XDEV),
                _ if !b.entries.is_empty() => return Err(Errno::NOTEMPTY),
                _ => self.take(d2, n2),
            }
        }
        if self.plain && self.nodes[src].is_dir() && self.nodes[src].from_lower {
            return Err(Errno::XDEV);
        }
        self.nodes[d1].entries.remove(n1);
        self.nodes[d1].mtime = None;
        self.put(d2, n2, src);
        Ok(())
    }

    fn file(&mut self, id: Id) -> Result<&mut Node> {
        match self.nodes[id].kind {
            Kind::File => Ok(&mut self.nodes[id]),
            Kind::Dir => Err(Errno::ISDIR),
            _ => Err(Errno::INVAL),
        }
    }

    pub(crate) fn write(&mut self, id: Id, offset: usize, data: &[u8]) -> Result<usize> {
        let node = self.file(id)?;
        if !data.is_empty() {
            let end = offset + data.len();
            let size = node.data.len().max(end);
            node.data.resize(size, 0);
            node.data[offset..end].copy_from_slice(data);
            node.mtime = None;
        }
        Ok(data.len())
    }

    pub(crate) fn read(&mut self, id: Id, offset: usize, len: usize) -> Result<Vec<u8>> {
        Ok(self.file(id)?.data.iter().skip(offset).take(len).copied().collect())
    }

    pub(crate) fn truncate(&mut self, id: Id, size: usize) -> Result<()> {
        let node = self.file(id)?;
        node.data.resize(size, 0);
        node.mtime = None;
        Ok(())
    }

    pub(crate) fn fallocate(&mut self, id: Id, mode: i32, offset: usize, len: usize) -> Result<()> {
        let node = self.file(id)?;
        let end = offset + len;
        if mode & libc::FALLOC_FL_KEEP_SIZE == 0 && node.data.len() < end {
            node.data.resize(end, 0);
        }
        if mode & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) != 0 {
            let size = node.data.len();
            node.data[offset.min(size)..end.min(size)].fill(0);
        }
        node.mtime = None;
        Ok(())
    }

    pub(crate) fn copy_range(
        &mut self,
        from: Id,
        offset: usize,
        to: Id,
        to_offset: usize,
        len: usize,
    ) -> Result<usize> {
        let data = self.read(from, offset, len)?;
        self.write(to, to_offset, &data)
    }

    pub(crate) fn chmod(&mut self, id: Id, mode: u32) {
        self.nodes[id].mode = mode;
    }

    /// What is a file or directory on disk does; so does what stands for a device that would be a whiteout.
    pub(crate) fn keeps_owner(&self, kind: Kind, rdev: u64) -> bool {
        !self.stored_owners || matches!(kind, Kind::File | Kind::Dir) || kind.is_whiteout(rdev)
    }

    pub(crate) fn chown(&mut self, id: Id, uid: Option<u32>, gid: Option<u32>) {
        if !self.keeps_owner(self.nodes[id].kind, self.nodes[id].rdev) {
            return;
        }
        let stored = self.stored_owners;
        let node = &mut self.nodes[id];
        node.uid = uid.unwrap_or(node.uid);
        node.gid = gid.unwrap_or(node.gid);
        if node.kind == Kind::File || !node.is_dir() && !stored {
            node.mode &= if node.mode & 0o010 != 0 { 0o1777 } else { 0o3777 };
        }
    }

    pub(crate) fn set_mtime(&mut self, id: Id, time: SetTime) {
        match time {
            SetTime::Keep => {}
            SetTime::Now => self.nodes[id].mtime = None,
            SetTime::To(t) => self.nodes[id].mtime = Some(t),
        }
    }

    pub(crate) fn setxattr(&mut self, id: Id, name: &[u8], value: &[u8], flags: i32) -> Result<()> {
        let node = &mut self.nodes[id];
        if name.starts_with(b"user.") && !matches!(node.kind, Kind::File | Kind::Dir) {
            return Err(Errno::PERM);
        }
        match node.xattrs.contains_key(name) {
            true if flags & libc::XATTR_CREATE != 0 => return Err(Errno::EXIST),
            false if flags & libc::XATTR_REPLACE != 0 => return Err(Errno::NODATA),
            _ => {}
        }
        node.xattrs.insert(name.to_vec(), value.to_vec());
        Ok(())
    }

    pub(crate) fn removexattr(&mut self, id: Id, name: &[u8]) -> Result<()> {
        self.nodes[id].xattrs.remove(name).map(drop).ok_or(Errno::NODATA)
    }

    /// Every object by its path.
    pub(crate) fn all(&self) -> BTreeMap<String, Id> {
        let mut all = BTreeMap::new();
        let mut todo = vec![(String::new(), ROOT)];
        while let Some((path, id)) = todo.pop() {
            for (name, child) in &self.nodes[id].entries {
                todo.push((format!("{path}/{}", String::from_utf8_lossy(name)), *child));
            }
            all.insert(path, id);
        }
        all
    }

    /// An object as the comparison sees it.
    pub(crate) fn shown(&self, id: Id, first: &str) -> Shown {
        let n = &self.nodes[id];
        Shown {
            kind: n.kind,
            mode: n.mode,
            owner: (n.uid, n.gid),
            rdev: n.rdev,
            nlink: if n.is_dir() { None } else { Some(n.nlink) },
            mtime: n.mtime,
            data: n.data.clone(),
            xattrs: n.xattrs.clone(),
            first: first.to_owned(),
        }
    }

    /// The whole tree.
    pub(crate) fn view(&self) -> BTreeMap<String, Shown> {
        let all = self.all();
        let mut first = HashMap::new();
        all.iter()
            .map(|(path, id)| {
                let first = first.entry(*id).or_insert_with(|| path.clone());
                (path.clone(), self.shown(*id, first))
            })
            .collect()
    }
}
