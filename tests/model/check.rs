//! A union with its reference beside it, and all that has to hold between them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use onlay::layer::{Handle, disk, mem};
use onlay::overlay::{self, Attr, Config, Layers, Lower, Overlay, Upper};
use onlay::vocab::dialect::Prefix;
use onlay::vocab::{Access, Errno, Kind, Result, SetTime, Timestamp};

use super::layers::{Layer, Stack};
use super::model::{Id, Model, ROOT, Shown, When};

/// Where the layers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Where {
    /// Each in a tree of its own.
    Apart,
    /// All in one tree.
    Together,
    /// In directories of a real file system.
    Disk,
}

enum Trees {
    Apart { lowers: Vec<mem::Tree>, upper: mem::Tree },
    Together(mem::Tree),
    Disk(tempfile::TempDir),
}

pub(crate) struct Harness {
    trees: Trees,
    lowers: usize,
    prefix: Prefix,
    overlay: Option<Overlay>,
    pub(crate) model: Model,
    /// References that this operation took.
    pub(crate) walked: Vec<u64>,
    /// References of operations before it that are not given back yet.
    held: Vec<u64>,
    pub(crate) kept: [Option<(Id, u64)>; 3],
    /// Number in the view of every object met so far.
    numbers: HashMap<Id, u64>,
    /// The lowers before anything was done.
    before: Vec<BTreeMap<String, String>>,
    changes: Vec<u64>,
    /// The operation at hand may meet a fault: on which change, and which.
    pub(crate) fault: Option<(u64, Errno)>,
    /// Faults are about: times are not compared.
    pub(crate) faulty: bool,
    /// The directory with the image index that the next mounts use.
    index: Option<tempfile::TempDir>,
}

pub(crate) fn same<T: PartialEq + std::fmt::Debug>(got: &T, want: &T, what: &str) {
    assert!(got == want, "{what}:\n got {got:?}\nwant {want:?}");
}

/// A moment of this test, or a time that was set.
fn when(t: Timestamp) -> When {
    if t.sec > 1_000_000 { None } else { Some(t) }
}

const MTIME: Timestamp = Timestamp { sec: 999, nsec: 9 };

impl Harness {
    pub(crate) fn new(layers: &[Layer], place: Where, prefix: Prefix) -> Self {
        let stack = Stack::new(layers);
        let n = stack.len();
        let trees = match place {
            Where::Apart => Trees::Apart {
                lowers: (0..n).map(|i| mem::Tree::new(100 + i as u64)).collect(),
                upper: mem::Tree::new(99),
            },
            // Without files that have no name.
            Where::Together => Trees::Together(mem::Tree::new(98)),
            Where::Disk => Trees::Disk(tempfile::tempdir().expect("a directory")),
        };
        let mut model = stack.model();
        model.nodes[ROOT].mtime = Some(MTIME);
        let mut h = Self {
            trees,
            lowers: n,
            prefix,
            overlay: None,
            model,
            walked: Vec::new(),
            held: Vec::new(),
            kept: [None; 3],
            numbers: HashMap::from([(ROOT, overlay::ROOT)]),
            before: Vec::new(),
            changes: Vec::new(),
            fault: None,
            faulty: false,
            index: None,
        };
        for name in [&b"upper"[..], b"work"] {
            h.base(true).mkdir(name, 0o755).expect("mkdir");
        }
        for i in 0..n {
            stack.write(i, &h.lower(i, true), prefix);
        }
        let mtime = SetTime::To(MTIME);
        h.base(true).utimens(b"upper", mtime, mtime).expect("utimens");
        h.before = (0..n).map(|i| snapshot(&h.lower(i, false))).collect();
        if let Trees::Apart { lowers, .. } = &h.trees {
            h.changes = lowers.iter().map(mem::Tree::changes).collect();
        }
        h.overlay = Some(h.mount());
        h
    }

    /// Owners are kept in an attribute from now on.
    pub(crate) fn store_owners(&mut self) {
        self.model.stored_owners = true;
        self.remount();
    }

    /// The lower layers are read through an image index from now on, or no longer.
    pub(crate) fn index(&mut self, wanted: bool) {
        self.index = None;
        if wanted && self.lowers > 0 {
            let dir = tempfile::tempdir().expect("a directory");
            overlay::build_index(self.lower_layers(), self.prefix, false, &dir.path().join("index")).expect("built");
            self.index = Some(dir);
        }
        self.remount();
        assert_eq!(self.overlay().uses_index(), self.index.is_some());
    }

    pub(crate) fn lower_layers(&self) -> Vec<Lower> {
        (0..self.lowers).map(|i| Lower { dir: self.lower(i, false) }).collect()
    }

    /// The lowers alone, read from their directories or through the index.
    pub(crate) fn lowers_alone(&self, indexed: bool) -> Overlay {
        let index = self.config().index.filter(|_| indexed);
        let layers = Layers { upper: None, lowers: self.lower_layers() };
        let overlay = Overlay::new(layers, Config { index, ..self.config() }).expect("a union");
        assert_eq!(overlay.uses_index(), indexed);
        overlay
    }

    /// Whiteouts are files in the upper, and nothing in it is marked: a union of its own on fresh directories.
    pub(crate) fn make_plain(&mut self) {
        self.forget_all();
        self.overlay = None;
        let base = self.base(true);
        for dir in ["upper", "work"] {
            let dir = base.open_dir(dir.as_bytes()).expect("open_dir");
            for attr in dir.listxattr(b"").expect("listxattr") {
                dir.removexattr(b"", &attr).expect("removexattr");
            }
        }
        self.model.plain = true;
        self.overlay = Some(self.mount());
        assert!(self.overlay().plain().is_some());
    }

    /// The directory with `upper` and `work`.
    fn base(&self, writable: bool) -> Handle {
        match &self.trees {
            Trees::Apart { upper, .. } => Handle::Mem(upper.root(writable)),
            Trees::Together(tree) => Handle::Mem(tree.root(writable)),
            Trees::Disk(dir) => Handle::Disk(disk::Object::open(dir.path(), writable).expect("open")),
        }
    }

    fn lower(&self, i: usize, writable: bool) -> Handle {
        if let Trees::Apart { lowers, .. } = &self.trees {
            return Handle::Mem(lowers[i].root(writable));
        }
        let name = format!("l{i}").into_bytes();
        match self.base(true).mkdir(&name, 0o755) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => panic!("mkdir: {e}"),
        }
        self.base(writable).open_dir(&name).expect("open_dir")
    }

    fn config(&self) -> Config {
        Config {
            prefix: Some(self.prefix),
            stored_owners: self.model.stored_owners,
            index: self.index.as_ref().map(|dir| dir.path().join("index")),
            plain: self.model.plain,
            aufs: self.model.plain,
            ..Config::default()
        }
    }

    fn mount(&self) -> Overlay {
        let base = self.base(true);
        let open = |name| base.open_dir(name).expect("open_dir");
        let layers =
            Layers { upper: Some(Upper { dir: open(b"upper"), work: open(b"work") }), lowers: self.lower_layers() };
        Overlay::new(layers, self.config()).expect("a union")
    }

    pub(crate) fn overlay(&self) -> &Overlay {
        self.overlay.as_ref().expect("mounted")
    }

    /// Runs an operation on both sides: both fail with the same errno, or neither. With a fault on its way the union may
    /// fail alone, and then must have done all or nothing.
    pub(crate) fn both<T: std::fmt::Debug>(
        &mut self,
        real: impl FnOnce(&Overlay) -> Result<T>,
        reference: impl FnOnce(&mut Model) -> Result<()>,
    ) -> Option<T> {
        let fault = self.fault.take();
        if let Some((n, errno)) = fault {
            self.fail_after(n, errno);
        }
        let got = real(self.overlay());
        let struck = fault.is_some() && !self.disarm();
        let before = if struck { Some(self.model.clone()) } else { None };
        let want = reference(&mut self.model);
        if let (Some(before), Some((_, errno)), Err(e)) = (before, fault, &got)
            && want != Err(*e)
        {
            assert_eq!(*e, errno, "it fails for the fault");
            // Whichever of the two it is by now is the truth from here on.
            let after = std::mem::replace(&mut self.model, before);
            let view = self.view();
            if timeless(&view) != timeless(&self.model.view()) {
                self.model = after;
                same(&timeless(&view), &timeless(&self.model.view()), "neither as before nor as after");
            }
            return None;
        }
        assert_eq!(got.as_ref().map(|_| ()).map_err(|e| *e), want, "the union says {got:?}");
        got.ok()
    }

    fn upper_tree(&self) -> Option<&mem::Tree> {
        match &self.trees {
            Trees::Apart { upper, .. } => Some(upper),
            Trees::Together(tree) => Some(tree),
            Trees::Disk(_) => None,
        }
    }

    /// Whether files can be made without a name.
    pub(crate) fn has_unnamed(&self) -> bool {
        self.upper_tree().is_none_or(mem::Tree::has_unnamed)
    }

    fn fail_after(&self, n: u64, errno: Errno) {
        if let Some(tree) = self.upper_tree() {
            tree.fail_after(n, errno);
        }
    }

    /// No fault from now on; whether it was still to come.
    fn disarm(&self) -> bool {
        self.upper_tree().is_some_and(|tree| {
            let to_come = tree.is_faulty();
            tree.fail_after(0, Errno::IO);
            to_come
        })
    }

    /// An object has one number for as long as it lives, and no other object has it.
    pub(crate) fn knows(&mut self, id: Id, ino: u64) {
        if let Some(known) = self.numbers.insert(id, ino) {
            assert_eq!(known, ino, "the number of an object changed: {:?}", self.model.nodes[id]);
        }
        for (other, number) in &self.numbers {
            let lives = self.model.nodes[*other].nlink > 0 || self.kept.contains(&Some((*other, ino)));
            assert!(*number != ino || *other == id || !lives, "two objects have the number {ino}");
        }
    }

    /// The attributes are those of the reference.
    pub(crate) fn agrees(&self, id: Id, attr: &Attr) {
        let node = &self.model.nodes[id];
        let st = attr.stat;
        assert_eq!(attr.ino, st.ino);
        let owner = (st.uid, st.gid);
        same(&(st.kind, st.mode, owner), &(node.kind, node.mode, (node.uid, node.gid)), "kind, mode, owner");
        if node.is_dir() {
            let dirs = node.entries.values().filter(|c| self.model.nodes[**c].is_dir()).count() as u32;
            let counted = if node.nlink == 0 { 0 } else { dirs + 2 };
            assert!(st.nlink == counted || st.nlink == 1, "{} links of a directory with {dirs}", st.nlink);
        } else {
            same(&st.nlink, &node.nlink, "link count");
            let size = if matches!(node.kind, Kind::File | Kind::Symlink) { node.data.len() as u64 } else { 0 };
            same(&(st.size, st.rdev), &(size, node.rdev), "size, device");
        }
        // A directory is cleared of its whiteouts before it is removed.
        let cleared = node.is_dir() && node.nlink == 0;
        if !self.faulty && !cleared {
            same(&when(st.mtime), &node.mtime, "time of change");
        }
    }

    pub(crate) fn forget_walked(&mut self) {
        self.held.append(&mut self.walked);
        if self.held.len() > 40 {
            self.forget_held();
        }
    }

    pub(crate) fn forget_held(&mut self) {
        for ino in std::mem::take(&mut self.held) {
            self.overlay().forget(ino, 1);
        }
        self.unpromised();
    }

    /// Numbers that need not outlast the references: those that were given out because theirs was taken, and, with
    /// `user.` attributes, those of what can't carry any.
    fn unpromised(&mut self) {
        let (model, prefix, kept) = (&self.model, self.prefix, self.kept);
        self.numbers.retain(|id, ino| {
            let node = &model.nodes[*id];
            let markable = match node.kind {
                Kind::Dir => true,
                kind => !model.plain && (prefix == Prefix::Trusted || kind == Kind::File),
            };
            (markable || !node.from_lower || kept.contains(&Some((*id, *ino)))) && *ino < 1 << 63
        });
    }

    pub(crate) fn release(&mut self, slot: u8) {
        if let Some((_, ino)) = self.kept[usize::from(slot)].take() {
            self.overlay().forget(ino, 1);
            self.unpromised();
        }
    }

    pub(crate) fn remount(&mut self) {
        self.forget_all();
        self.overlay = None;
        self.overlay = Some(self.mount());
    }

    fn forget_all(&mut self) {
        (0..3).for_each(|slot| self.release(slot));
        self.forget_walked();
        self.forget_held();
        assert_eq!(self.overlay().node_count(), 1, "somebody still holds an inode");
    }

    /// A listing in slices has every name once, with the numbers and kinds that lookups tell.
    pub(crate) fn check_listing(&mut self, id: Id, ino: u64, slice: usize, plus: bool) {
        let mut names = BTreeMap::new();
        let mut cookie = 0;
        let mut dots = 0;
        if !self.model.nodes[id].is_dir() {
            assert_eq!(self.overlay().readdir(ino, 0, &mut |_| true), Err(Errno::NOTDIR));
            return;
        }
        let mut taken = Vec::new();
        loop {
            let (mut n, from) = (0, cookie);
            let mut each = |e: &overlay::Entry<'_>, attr: Option<&Attr>| {
                if n == slice {
                    return true;
                }
                n += 1;
                cookie = e.cookie;
                if e.name == b"." || e.name == b".." {
                    dots += 1;
                    assert_eq!(e.kind, Kind::Dir);
                    assert!(e.name == b".." || e.ino == ino);
                } else {
                    if plus {
                        assert_eq!(attr.map(|a| (a.ino, a.stat.kind)), Some((e.ino, e.kind)));
                        taken.push(e.ino);
                    }
                    assert!(names.insert(e.name.to_vec(), (e.ino, e.kind)).is_none(), "a name came twice");
                }
                false
            };
            let overlay = self.overlay.as_ref().expect("mounted");
            if plus {
                overlay.readdir_plus(ino, from, &mut each).expect("readdir_plus");
            } else {
                overlay.readdir(ino, from, &mut |e| each(e, None)).expect("readdir");
            }
            if n == 0 {
                break;
            }
        }
        assert_eq!(dots, 2);
        self.held.extend(taken);
        let node = &self.model.nodes[id];
        same(&names.keys().collect::<Vec<_>>(), &node.entries.keys().collect(), "names");
        for (name, child) in node.entries.clone() {
            let attr = self.overlay().lookup(ino, &name).expect("listed");
            self.held.push(attr.ino);
            same(&names[&name], &(attr.ino, attr.stat.kind), "what readdir and lookup tell");
            self.knows(child, attr.ino);
            self.agrees(child, &attr);
        }
    }

    /// Everything that can be seen, without the reference.
    pub(crate) fn view(&self) -> BTreeMap<String, Shown> {
        view(self.overlay())
    }

    /// The whole of the comparison.
    pub(crate) fn check(&mut self) {
        self.check_view();
        for (id, ino) in self.kept.into_iter().flatten() {
            let attr = self.overlay().getattr(ino).expect("kept");
            assert_eq!(attr.ino, ino);
            self.agrees(id, &attr);
            if attr.stat.kind == Kind::File {
                same(&content(self.overlay(), ino), &self.model.nodes[id].data, "content of what was kept");
            }
        }
        if !self.faulty {
            self.check_work();
        }
        self.remount();
        self.check_view();
        self.check_work();
        self.check_lowers();
        if !self.model.stored_owners {
            self.check_as_lower();
        }
        self.forget_all();
    }

    fn check_view(&mut self) {
        let (mut got, mut want) = (self.view(), self.model.view());
        if self.faulty {
            (got, want) = (timeless(&got), timeless(&want));
        }
        for (path, shown) in &want {
            same(&got.get(path), &Some(shown), path);
        }
        same(&got.keys().collect::<Vec<_>>(), &want.keys().collect(), "paths");
        let mut todo = vec![(ROOT, overlay::ROOT)];
        let mut met = BTreeMap::new();
        while let Some((id, ino)) = todo.pop() {
            self.check_listing(id, ino, 2, false);
            for (name, child) in self.model.nodes[id].entries.clone() {
                let ino = self.overlay().lookup(ino, &name).expect("listed").ino;
                self.held.push(ino);
                let other = met.insert(ino, child);
                assert!(other.is_none_or(|o| o == child), "one number for two objects");
                if self.model.nodes[child].is_dir() {
                    todo.push((child, ino));
                }
            }
        }
    }

    /// Nothing is left in the work directory but a whiteout to link to.
    fn check_work(&self) {
        let work = self.base(false).open_dir(b"work").and_then(|w| w.open_dir(b"work")).expect("work");
        let mut left = Vec::new();
        work.list(&mut |e| left.push(e.name.to_vec())).expect("list");
        assert!(left.len() <= 1, "left in work: {left:?}");
        for name in left {
            assert!(work.stat(&name).expect("stat").is_whiteout(), "left in work: {}", String::from_utf8_lossy(&name));
        }
    }

    fn check_lowers(&self) {
        for (i, before) in self.before.iter().enumerate() {
            same(&snapshot(&self.lower(i, false)), before, "a lower layer changed");
        }
        if let Trees::Apart { lowers, .. } = &self.trees {
            same(&lowers.iter().map(mem::Tree::changes).collect::<Vec<_>>(), &self.changes, "writes to lower layers");
        }
    }

    /// The upper or its work directory, to read.
    pub(crate) fn part(&self, name: &[u8]) -> Handle {
        self.base(false).open_dir(name).expect("open_dir")
    }

    /// Without an upper the lowers show the same, and nothing can be changed.
    pub(crate) fn check_read_only(&mut self) {
        let lowers = self.lower_layers();
        if lowers.is_empty() {
            return;
        }
        let next = Overlay::new(Layers { upper: None, lowers }, self.config()).expect("a union");
        let beneath = |mut view: BTreeMap<String, Shown>| {
            // The root is the top layer's here.
            view.remove("");
            view
        };
        same(&beneath(view(&next)), &beneath(self.model.view()), "without an upper");
        let caller = overlay::Caller::default();
        let root = overlay::ROOT;
        let refused = |r: Result<()>| assert_eq!(r, Err(Errno::ROFS));
        refused(next.mkdir(&caller, root, b"x", 0o755).map(drop));
        refused(next.setxattr(root, b"user.x", b"", 0));
        refused(next.setattr(root, &overlay::SetAttr { mode: Some(0), ..Default::default() }).map(drop));
        for name in self.model.nodes[ROOT].entries.keys() {
            let attr = next.lookup(root, name).expect("listed");
            refused(next.unlink(root, name));
            refused(next.rmdir(root, name));
            refused(next.rename(root, name, root, b"x", 0));
            refused(next.write(attr.ino, 0, b"x").map(drop));
            if attr.stat.kind != Kind::Dir {
                refused(next.link(attr.ino, root, b"x").map(drop));
            }
            next.forget(attr.ino, 1);
        }
        assert_eq!(next.node_count(), 1);
        self.check_lowers();
    }

    /// The upper as the top one of the lower layers shows the same tree. Hard links of the lowers fall apart, for the
    /// inode index stays behind.
    fn check_as_lower(&self) {
        let mut lowers = vec![Lower { dir: self.part(b"upper") }];
        lowers.extend(self.lower_layers());
        let config = Config { index: None, ..self.config() };
        let next = Overlay::new(Layers { upper: None, lowers }, config).expect("a union");
        // Whether a hard link that was not copied up by this name has the old content or the new is for the index to say.
        let linked: BTreeSet<Id> = (0..self.model.nodes.len())
            .filter(|i| self.model.nodes[*i].from_lower && !self.model.nodes[*i].is_dir())
            .collect();
        let all = self.model.all();
        let unlinked = |view: BTreeMap<String, Shown>| -> BTreeMap<String, Shown> {
            timeless(&view)
                .into_iter()
                .filter(|(path, shown)| shown.kind == Kind::Dir || !all.get(path).is_some_and(|id| linked.contains(id)))
                .collect()
        };
        let got = view(&next);
        same(&got.keys().collect::<Vec<_>>(), &all.keys().collect(), "paths of the upper as a lower");
        same(&unlinked(got), &unlinked(self.model.view()), "the upper as a lower layer");
    }
}

fn timeless(view: &BTreeMap<String, Shown>) -> BTreeMap<String, Shown> {
    view.iter().map(|(path, shown)| (path.clone(), Shown { mtime: None, ..shown.clone() })).collect()
}

fn content(overlay: &Overlay, ino: u64) -> Vec<u8> {
    let size = overlay.getattr(ino).expect("getattr").stat.size as usize;
    let mut buf = vec![0; size + 1];
    let n = overlay.read(ino, 0, &mut buf).expect("read");
    buf.truncate(n);
    buf
}

/// Everything that can be seen of a union; all references are given back.
pub(crate) fn view(overlay: &Overlay) -> BTreeMap<String, Shown> {
    let mut all = BTreeMap::new();
    let mut first: HashMap<u64, String> = HashMap::new();
    let mut todo = BTreeMap::from([(String::new(), overlay::ROOT)]);
    let mut taken = Vec::new();
    while let Some((path, ino)) = todo.pop_first() {
        let st = overlay.getattr(ino).expect("getattr").stat;
        let data = match st.kind {
            Kind::File => content(overlay, ino),
            Kind::Symlink => overlay.readlink(ino).expect("readlink"),
            _ => Vec::new(),
        };
        let attrs = overlay.listxattr(ino).expect("listxattr");
        let xattrs: BTreeMap<_, _> =
            attrs.into_iter().map(|a| (a.clone(), overlay.getxattr(ino, &a).expect("getxattr"))).collect();
        if st.kind == Kind::Dir {
            let mut names = Vec::new();
            overlay
                .readdir(ino, 2, &mut |e| {
                    names.push(e.name.to_vec());
                    false
                })
                .expect("readdir");
            for name in names {
                let child = overlay.lookup(ino, &name).expect("listed").ino;
                taken.push(child);
                todo.insert(format!("{path}/{}", String::from_utf8_lossy(&name)), child);
            }
        }
        let shown = Shown {
            kind: st.kind,
            mode: st.mode,
            owner: (st.uid, st.gid),
            rdev: st.rdev,
            nlink: if st.kind == Kind::Dir { None } else { Some(st.nlink) },
            mtime: when(st.mtime),
            data,
            xattrs,
            first: first.entry(ino).or_insert_with(|| path.clone()).clone(),
        };
        all.insert(path, shown);
    }
    for ino in taken {
        overlay.forget(ino, 1);
    }
    all
}

/// All that a layer is, but for access times.
fn snapshot(root: &Handle) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut todo = vec![(String::new(), root.clone())];
    while let Some((path, dir)) = todo.pop() {
        let mut names = Vec::new();
        dir.list(&mut |e| names.push(e.name.to_vec())).expect("list");
        for name in names {
            let child = format!("{path}/{}", String::from_utf8_lossy(&name));
            let mut st = dir.stat(&name).expect("stat");
            st.atime = Timestamp::default();
            let mut attrs = dir.listxattr(&name).expect("listxattr");
            attrs.sort();
            let values: Vec<_> = attrs.iter().map(|a| dir.getxattr(&name, a)).collect();
            let mut data = Vec::new();
            if st.kind == Kind::File {
                data.resize(st.size as usize, 0);
                dir.open_file(&name, Access::Read).and_then(|f| f.read_at(&mut data, 0)).expect("read");
            }
            if st.kind == Kind::Dir {
                todo.push((child.clone(), dir.open_dir(&name).expect("open_dir")));
            }
            all.insert(child, format!("{st:?} {attrs:?} {values:?} {data:?}"));
        }
    }
    all
}
