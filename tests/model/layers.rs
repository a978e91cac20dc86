//! Random lower layers: as a description, as trees, and as what the reference says they look like merged.

use std::collections::BTreeMap;

use onlay::layer::Handle;
use onlay::vocab::dialect::{self, Prefix};
use onlay::vocab::{Kind, SetTime, Timestamp};
use proptest::prelude::*;

use super::model::{Id, Model, Node, ROOT};
use super::ops::{Data, Path, data, mode, path};

/// Something to put into a layer.
#[derive(Clone, Debug)]
pub(crate) enum Put {
    File {
        data: Data,
        mode: u32,
        uid: u32,
        xattr: bool,
    },
    Dir {
        mode: u32,
        uid: u32,
        opaque: bool,
    },
    Symlink,
    Fifo,
    Device,
    Whiteout {
        attr: bool,
    },
    /// Another name of a file of this layer.
    Link(Path),
    /// A directory that the layers below have elsewhere.
    Redirect(Path),
}

pub(crate) type Layer = Vec<(Path, Put)>;

pub(crate) fn layer() -> impl Strategy<Value = Layer> {
    let put = prop_oneof![
        4 => (data(), mode(), 0..3_u32, any::<bool>())
            .prop_map(|(data, mode, uid, xattr)| Put::File { data, mode, uid, xattr }),
        4 => (mode(), 0..3_u32, prop::bool::weighted(0.2)).prop_map(|(mode, uid, opaque)| Put::Dir { mode, uid, opaque }),
        1 => Just(Put::Symlink),
        1 => Just(Put::Fifo),
        1 => Just(Put::Device),
        2 => any::<bool>().prop_map(|attr| Put::Whiteout { attr }),
        3 => path().prop_map(Put::Link),
        1 => path().prop_map(Put::Redirect),
    ];
    prop::collection::vec((path(), put), 0..8)
}

/// What a layer has under a name.
#[derive(Clone, Debug)]
enum Item {
    Dir { entries: BTreeMap<Vec<u8>, Item>, node: Node, opaque: bool, redirect: Option<Path> },
    Other { node: Node, number: usize },
    Whiteout { attr: bool },
}

type Entries = BTreeMap<Vec<u8>, Item>;

/// All layers, top first.
#[derive(Clone, Debug)]
pub(crate) struct Stack {
    layers: Vec<Entries>,
}

fn plain_dir(stamp: &mut i64) -> Item {
    Item::Dir {
        entries: BTreeMap::new(),
        node: stamped(Node::new(Kind::Dir, 0o755), stamp),
        opaque: false,
        redirect: None,
    }
}

fn stamped(mut node: Node, stamp: &mut i64) -> Node {
    *stamp += 1;
    node.mtime = Some(Timestamp { sec: 1000 + *stamp, nsec: 5 });
    node.from_lower = true;
    node
}

/// The directory at `path` of a layer, made where there is nothing; `None` where something else is in the way.
fn dir_at<'a>(mut at: &'a mut Entries, path: &[Vec<u8>], stamp: &mut i64) -> Option<&'a mut Entries> {
    for name in path {
        match at.entry(name.clone()).or_insert_with(|| plain_dir(stamp)) {
            Item::Dir { entries, .. } => at = entries,
            _ => return None,
        }
    }
    Some(at)
}

fn item<'a>(at: &'a Entries, path: &[Vec<u8>]) -> Option<&'a Item> {
    let (name, rest) = path.split_first()?;
    match at.get(name)? {
        found if rest.is_empty() => Some(found),
        Item::Dir { entries, .. } => item(entries, rest),
        _ => None,
    }
}

/// Whether a path is free in a layer, and nothing but ordinary directories lead to it.
fn is_plain_vacancy(at: &Entries, path: &[Vec<u8>]) -> bool {
    let Some((name, rest)) = path.split_first() else { return false };
    match at.get(name) {
        None => true,
        Some(Item::Dir { entries, opaque: false, redirect: None, .. }) => {
            !rest.is_empty() && is_plain_vacancy(entries, rest)
        }
        _ => false,
    }
}

impl Stack {
    pub(crate) fn new(described: &[Layer]) -> Self {
        let mut stack = Self { layers: Vec::new() };
        let (mut stamp, mut number) = (0, 0);
        // From the bottom, because a redirect needs what is below.
        for layer in described.iter().rev() {
            let mut top = Entries::new();
            let mut redirect = None;
            for (path, put) in layer {
                if let Put::Redirect(from) = put {
                    redirect = redirect.or(Some((path, from)));
                    continue;
                }
                stack.put(&mut top, path, put, &mut stamp, &mut number);
            }
            if let Some((path, from)) = redirect {
                stack.redirect(&mut top, path, from, &mut stamp);
            }
            stack.layers.insert(0, top);
        }
        stack
    }

    fn put(&self, top: &mut Entries, path: &Path, put: &Put, stamp: &mut i64, number: &mut usize) {
        let linked = match put {
            Put::Link(from) => match item(top, from) {
                Some(Item::Other { node, number }) if node.kind == Kind::File => Some((node.clone(), *number)),
                _ => return,
            },
            _ => None,
        };
        let Some((name, above)) = path.split_last() else { return };
        let Some(at) = dir_at(top, above, stamp) else { return };
        if at.contains_key(name) {
            return;
        }
        *number += 1;
        let mut other = |kind, mode, rdev, data: &[u8]| {
            let node = Node { rdev, data: data.to_vec(), ..Node::new(kind, mode) };
            Item::Other { node: stamped(node, stamp), number: *number }
        };
        let made = match put {
            Put::File { data, mode, uid, xattr } => {
                let mut item = other(Kind::File, *mode, 0, &data.bytes());
                if let Item::Other { node, .. } = &mut item {
                    (node.uid, node.gid) = (*uid, *uid + 1);
                    if *xattr {
                        node.xattrs.insert(b"user.a".to_vec(), b"below".to_vec());
                    }
                }
                item
            }
            Put::Symlink => other(Kind::Symlink, 0o777, 0, b"target"),
            Put::Fifo => other(Kind::Fifo, 0o600, 0, b""),
            Put::Device => other(Kind::Char, 0o620, libc::makedev(1, 3), b""),
            Put::Whiteout { attr } => Item::Whiteout { attr: *attr },
            Put::Dir { mode, uid, opaque } => {
                let node = Node { uid: *uid, gid: *uid, ..Node::new(Kind::Dir, *mode) };
                Item::Dir { entries: Entries::new(), node: stamped(node, stamp), opaque: *opaque, redirect: None }
            }
            Put::Link(_) => match linked {
                Some((node, number)) => Item::Other { node, number },
                None => return,
            },
            Put::Redirect(_) => return,
        };
        at.insert(name.clone(), made);
    }

    /// As if `from` of the layers below had been renamed to `path`: a whiteout stays behind.
    fn redirect(&self, top: &mut Entries, path: &Path, from: &Path, stamp: &mut i64) {
        let below: Vec<_> = (0..self.layers.len()).map(|i| (i, &self.layers[i])).collect();
        let is_dir = matches!(self.walk(below, from), Some(Found::Dir { .. }));
        if !is_dir || path.starts_with(from) || from.starts_with(path) {
            return;
        }
        if !is_plain_vacancy(top, path) || !is_plain_vacancy(top, from) {
            return;
        }
        for (at, what) in [
            (from, Item::Whiteout { attr: false }),
            (
                path,
                match plain_dir(stamp) {
                    Item::Dir { entries, node, opaque, .. } => {
                        Item::Dir { entries, node, opaque, redirect: Some(from.clone()) }
                    }
                    other => other,
                },
            ),
        ] {
            if let Some((name, above)) = at.split_last()
                && let Some(dir) = dir_at(top, above, stamp)
            {
                dir.insert(name.clone(), what);
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.layers.len()
    }

    /// What a name is, merged: the rules of kernel overlayfs in a few lines.
    fn step<'a>(&'a self, dirs: &[(usize, &'a Entries)], name: &[u8]) -> Option<Found<'a>> {
        let mut found: Option<Found<'a>> = None;
        for (layer, entries) in dirs {
            match (entries.get(name), &mut found) {
                (None, _) => {}
                (Some(Item::Other { node, number }), None) => return Some(Found::Other { node, number: *number }),
                (Some(Item::Whiteout { .. } | Item::Other { .. }), _) => break,
                (Some(Item::Dir { entries, node, opaque, redirect }), _) => {
                    let Found::Dir { dirs, .. } = found.get_or_insert(Found::Dir { dirs: Vec::new(), node }) else {
                        break;
                    };
                    dirs.push((*layer, entries));
                    if let Some(path) = redirect {
                        let below = (layer + 1..self.layers.len()).map(|i| (i, &self.layers[i])).collect();
                        if let Some(Found::Dir { dirs: more, .. }) = self.walk(below, path) {
                            dirs.extend(more);
                        }
                        break;
                    }
                    if *opaque {
                        break;
                    }
                }
            }
        }
        found
    }

    fn walk<'a>(&'a self, mut dirs: Vec<(usize, &'a Entries)>, path: &[Vec<u8>]) -> Option<Found<'a>> {
        let (last, above) = path.split_last()?;
        for name in above {
            match self.step(&dirs, name)? {
                Found::Dir { dirs: next, .. } => dirs = next,
                Found::Other { .. } => return None,
            }
        }
        self.step(&dirs, last)
    }

    /// The merged view.
    pub(crate) fn model(&self) -> Model {
        let mut model = Model::new();
        let mut known: BTreeMap<usize, Id> = BTreeMap::new();
        let roots: Vec<_> = self.layers.iter().enumerate().collect();
        let mut todo = vec![(ROOT, roots)];
        while let Some((id, dirs)) = todo.pop() {
            let names: std::collections::BTreeSet<&Vec<u8>> = dirs.iter().flat_map(|(_, e)| e.keys()).collect();
            for name in names {
                let child = match self.step(&dirs, name) {
                    None => continue,
                    Some(Found::Dir { dirs, node }) => {
                        let child = model.add(Node { parent: id, ..node.clone() });
                        todo.push((child, dirs));
                        child
                    }
                    Some(Found::Other { node, number }) => *known.entry(number).or_insert_with(|| {
                        let nlink = self.layers.iter().map(|l| count(l, number)).sum();
                        model.add(Node { nlink, ..node.clone() })
                    }),
                };
                model.nodes[id].entries.insert(name.clone(), child);
            }
        }
        model
    }

    /// Writes layer `i` into an empty directory.
    pub(crate) fn write(&self, i: usize, dir: &Handle, prefix: Prefix) {
        let mut links = BTreeMap::new();
        write(&self.layers[i], dir, prefix, &mut links);
    }
}

enum Found<'a> {
    Dir { dirs: Vec<(usize, &'a Entries)>, node: &'a Node },
    Other { node: &'a Node, number: usize },
}

fn count(at: &Entries, wanted: usize) -> u32 {
    at.values()
        .map(|item| match item {
            Item::Dir { entries, .. } => count(entries, wanted),
            Item::Other { number, .. } => u32::from(*number == wanted),
            Item::Whiteout { .. } => 0,
        })
        .sum()
}

fn write(entries: &Entries, dir: &Handle, prefix: Prefix, links: &mut BTreeMap<usize, (Handle, Vec<u8>)>) {
    let mark = |dir: &Handle, name: &[u8], attr: &str, value: &[u8]| {
        dir.setxattr(name, &prefix.attr(attr), value, 0).expect("mark");
    };
    for (name, item) in entries {
        match item {
            Item::Whiteout { attr: false } => dir.mknod(name, Kind::Char, 0, 0).expect("whiteout"),
            Item::Whiteout { attr: true } => {
                dir.mknod(name, Kind::File, 0, 0).expect("whiteout");
                mark(dir, name, dialect::WHITEOUT, b"");
                // An opaque directory holds no whiteouts by attribute: there is nothing to hide.
                if dir.getxattr(b"", &prefix.attr(dialect::OPAQUE)).expect("getxattr").as_deref() != Some(b"y") {
                    mark(dir, b"", dialect::OPAQUE, b"x");
                } else {
                    dir.unlink(name).expect("unlink");
                }
            }
            Item::Dir { entries, node, opaque, redirect } => {
                dir.mkdir(name, 0o700).expect("mkdir");
                if *opaque {
                    mark(dir, name, dialect::OPAQUE, b"y");
                }
                if let Some(path) = redirect {
                    let path: Vec<u8> = path.iter().flat_map(|n| [b"/", &n[..]].concat()).collect();
                    mark(dir, name, dialect::REDIRECT, &path);
                }
                write(entries, &dir.open_dir(name).expect("open_dir"), prefix, links);
                dress(dir, name, node);
            }
            Item::Other { node, number } => {
                if let Some((there, other)) = links.get(number) {
                    there.link(other, dir, name).expect("link");
                    continue;
                }
                match node.kind {
                    Kind::File => {
                        dir.create(name, 0o600).expect("create").write_at(&node.data, 0).expect("write");
                    }
                    Kind::Symlink => dir.symlink(&node.data, name).expect("symlink"),
                    kind => dir.mknod(name, kind, 0o600, node.rdev).expect("mknod"),
                }
                dress(dir, name, node);
                links.insert(*number, (dir.clone(), name.clone()));
            }
        }
    }
}

/// Owner, mode, attributes and times.
fn dress(dir: &Handle, name: &[u8], node: &Node) {
    dir.chown(name, Some(node.uid), Some(node.gid)).expect("chown");
    if node.kind != Kind::Symlink {
        dir.chmod(name, node.mode).expect("chmod");
    }
    for (attr, value) in &node.xattrs {
        dir.setxattr(name, attr, value, 0).expect("setxattr");
    }
    if let Some(t) = node.mtime {
        dir.utimens(name, SetTime::To(t), SetTime::To(t)).expect("utimens");
    }
}
