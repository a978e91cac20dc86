//! From directories to a union.

use std::collections::HashSet;
use std::sync::Arc;

use super::cache::weighted;
use super::node::{Below, Node, State, Upper as UpperObject, UpperAt};
use super::stack::{Layer, LowerAt, LowerDir, new_id};
use super::whiteout::{Plain, mark_plain, was_plain};
use super::{Config, Error, Layers, Overlay, image_index, readdir};
use crate::layer::{Handle, Rename};
use crate::vocab::dialect::{self, Prefix, STORED_STATS};
use crate::vocab::{Errno, Kind, MAX_LAYERS, Result};

/// In `WORK/work`, a directory for each feature that a later mount has to know of, as the kernel makes it.
const INCOMPATIBLE: &[u8] = b"incompat";
const VOLATILE: &[u8] = b"volatile";
const DIRTY: &[u8] = b"dirty";

/// The writable layer with its work directory:
///
/// ```text
/// WORK/work/    objects on their way; emptied at mount
/// WORK/work/incompat/volatile/dirty    while a volatile mount lives
/// WORK/index/   the inode index: lower hard links that were copied up, by file handle
/// ```
#[derive(Debug)]
pub(super) struct UpperTree {
    pub(super) root: Handle,
    pub(super) work: Handle,
    /// `None` where the file system has no file handles: hard links break at copy-up there.
    pub(super) index: Option<Handle>,
    /// Name in `work` of a whiteout to make hard links of.
    pub(super) whiteout: parking_lot::Mutex<Option<Vec<u8>>>,
    /// Why whiteouts are files and nothing is marked, if so.
    pub(super) plain: Option<Plain>,
}

impl Overlay {
    /// Stacks the layers. The work directory's leftovers are cleared.
    ///
    /// # Errors
    /// No layers, too many, or a work directory that can't be used.
    pub fn new(layers: Layers, config: Config) -> std::result::Result<Self, Error> {
        if layers.lowers.is_empty() && layers.upper.is_none() {
            return Err(Error::refused("there is no layer", "name at least one with --lower"));
        }
        if layers.lowers.len() > MAX_LAYERS {
            return Err(Error::refused(
                format!("{} lower layers are more than {MAX_LAYERS}", layers.lowers.len()),
                "merge some of them",
            ));
        }
        let dirs = layers.lowers.iter().map(|l| &l.dir).chain(layers.upper.iter().map(|u| &u.dir));
        let local = dirs.map(Handle::is_remote).all(|remote| remote == Ok(false));
        let mut prefix = config.prefix.unwrap_or(config.default_prefix);
        let mut upper = None;
        let mut upper_object = None;
        let mut plain = None;
        if let Some(given) = &layers.upper {
            (prefix, plain) = if config.frozen {
                let plain = was_plain(&given.dir).map_err(|e| Error::new("upper directory", e))?;
                (prefix, plain.then_some(Plain::Before))
            } else {
                choose_dialect(&given.dir, &given.work, &config)?
            };
        }
        let inodes = Arc::new(super::inodes::Inodes::new(plain.is_some(), config.beside));
        if let Some(given) = layers.upper {
            match plain {
                _ if config.frozen => {}
                Some(_) => mark_plain(&given.dir).map_err(|e| Error::new("mark the upper directory", e))?,
                None => mark_root(&given.dir, prefix)?,
            }
            let st = given.dir.stat(b"").map_err(|e| Error::new("upper", e))?;
            inodes.number((st.dev, st.ino));
            upper_object = Some(UpperObject {
                key: (st.dev, st.ino),
                at: UpperAt::Name,
                metacopy: false,
                redirect: None,
                impure: true,
                attr_whiteouts: false,
                device: false,
                devices: false,
            });
            upper = Some(match config.frozen {
                true => as_left(given.dir, given.work, plain)?,
                false => prepare(given.dir, &given.work, config.volatile && !config.thrown_away, plain)?,
            });
        }
        let mut lowers = lower_layers(&config, layers.lowers)?;
        for layer in &lowers {
            inodes.number((layer.root.dev, layer.root.ino));
        }
        if let Some(path) = &config.index {
            match image_index::indexed(path, &lowers, &config, prefix) {
                Ok(one) => lowers = vec![one],
                Err(e) => log::warn!("{e}; the layers' directories are read instead"),
            }
        }
        let below = Below::Dirs(lowers.iter().map(|l| l.root.clone()).collect());
        let state = || State::new(None, upper_object.clone(), below.clone(), None);
        let root = inodes.add(inodes.root(), |ino| Node::new(ino, Kind::Dir, state(), inodes.clone()));
        let open = config.open_files.max(16);
        Ok(Self {
            layers: lowers,
            upper,
            prefix,
            inodes,
            root,
            dirs: weighted(open, open as u64, quick_cache::UnitWeighter),
            files: weighted(open, open as u64, quick_cache::UnitWeighter),
            listings: readdir::cache(),
            names: super::names::cache(),
            hasher: std::hash::RandomState::new(),
            temp: std::sync::atomic::AtomicU64::new(0),
            forgotten: std::sync::atomic::AtomicUsize::new(0),
            local,
            moving: parking_lot::Mutex::new(()),
            config,
        })
    }

    /// The mount ends in good order: a volatile upper may be mounted again.
    ///
    /// # Errors
    /// What the work directory answers.
    pub fn end(&self) -> Result<()> {
        match &self.upper {
            Some(upper) if self.config.volatile && !self.config.thrown_away => upper.unmark_volatile(),
            _ => Ok(()),
        }
    }

    /// How many inodes somebody refers to: the root alone once the kernel forgot all others.
    pub fn node_count(&self) -> usize {
        self.inodes.len()
    }

    /// The spelling of private attributes in use.
    pub fn prefix(&self) -> Prefix {
        self.prefix
    }

    /// Whether hard links of lower files stay together when one is changed.
    pub fn has_index(&self) -> bool {
        self.upper.as_ref().is_some_and(|u| u.index.is_some())
    }
}

fn lower_layers(config: &Config, given: Vec<super::Lower>) -> std::result::Result<Vec<Layer>, Error> {
    let mut layers = Vec::new();
    let mut seen = HashSet::new();
    for (i, lower) in given.into_iter().enumerate() {
        let fail = |e| Error::new(format!("lower layer {}", i + 1), e);
        let st = lower.dir.stat(b"").map_err(fail)?;
        if !seen.insert((st.dev, st.ino)) {
            return Err(Error::refused(format!("lower layer {} is given twice", i + 1), "name each layer once"));
        }
        let mut stored_owners = false;
        for attr in STORED_STATS {
            stored_owners |= lower.dir.getxattr(b"", attr).map_err(fail)?.is_some();
        }
        let has = |attr: &str, value: &[u8]| {
            let mut any = false;
            for prefix in [Prefix::Trusted, Prefix::User] {
                any |= lower.dir.getxattr(b"", &prefix.attr(attr)).map_err(fail)?.as_deref() == Some(value);
            }
            Ok::<_, Error>(any)
        };
        let (attr_whiteouts, devices) = (has(dialect::OPAQUE, b"x")?, has(dialect::DEVICES, b"y")?);
        let implied = has(dialect::IMPLIED, b"y")?;
        let root = Arc::new(LowerDir {
            id: new_id(),
            layer: i,
            at: LowerAt::Held(lower.dir),
            dev: st.dev,
            ino: st.ino,
            attr_whiteouts,
            devices,
            implied,
            closed: false,
            absent: 0.into(),
        });
        layers.push(Layer { root, stored_owners, mapped: config.mapped_lowers.contains(&i) });
    }
    Ok(layers)
}

/// How the upper is written: as it has it already; else with attributes and devices where it takes them.
fn choose_dialect(
    upper: &Handle,
    work: &Handle,
    config: &Config,
) -> std::result::Result<(Prefix, Option<Plain>), Error> {
    let attributes = |e| Error::new("extended attributes of the upper directory", e);
    let known = marked_prefix(upper).map_err(attributes)?;
    let before = was_plain(upper).map_err(|e| Error::new("upper directory", e))?;
    if let Some(known) = known {
        if before || config.plain {
            log::warn!(
                "the upper has marks in extended attributes: it goes on with them, and with devices as whiteouts"
            );
        }
        return Ok((config.prefix.unwrap_or(known), None));
    }
    let prefix = match config.prefix {
        Some(p) => Some(p).filter(|p| takes_attribute(work, *p) == Ok(true)),
        None => probe_prefix(work)?,
    };
    let plain = match prefix {
        _ if before => Some(Plain::Before),
        _ if config.plain => Some(Plain::Asked),
        None => Some(Plain::NoAttributes),
        Some(_) => probe_whiteout(work).map_err(|e| Error::new("work directory", e))?,
    };
    if plain.is_some() && config.stored_owners && prefix.is_none() {
        return Err(Error::new("owners can't be kept: extended attributes of the upper directory", Errno::OPNOTSUPP)
            .with_hint("the upper and work directories need a file system with user.* extended attributes"));
    }
    Ok((prefix.or(config.prefix).unwrap_or(config.default_prefix), plain))
}

/// `trusted.` where we may, `user.` where not, nothing where neither is to be had.
fn probe_prefix(work: &Handle) -> std::result::Result<Option<Prefix>, Error> {
    for p in [Prefix::Trusted, Prefix::User] {
        if takes_attribute(work, p).map_err(|e| Error::new("extended attributes of the work directory", e))? {
            return Ok(Some(p));
        }
    }
    Ok(None)
}

fn takes_attribute(work: &Handle, prefix: Prefix) -> Result<bool> {
    let attr = prefix.attr("onlay.probe");
    match work.setxattr(b"", &attr, b"y", 0) {
        Ok(()) => work.removexattr(b"", &attr).map(|()| true),
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::ACCESS) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Tries what a native whiteout needs.
fn probe_whiteout(work: &Handle) -> Result<Option<Plain>> {
    let (name, other) = (b"#probe", b"#probed");
    for left in [&name[..], other] {
        match work.unlink(left) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e),
        }
    }
    match work.mknod(name, Kind::Char, 0, 0) {
        Ok(()) => {}
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => return Ok(Some(Plain::NoDevices)),
        Err(e) => return Err(e),
    }
    // Some take the call and make something else of it.
    let made = work.stat(name).map(|st| st.is_whiteout());
    let (left, found) = match work.rename(name, work, other, Rename::NoReplace) {
        Ok(()) => (&other[..], Ok(None)),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => (&name[..], Ok(Some(Plain::NoFlags))),
        Err(e) => (&name[..], Err(e)),
    };
    work.unlink(left)?;
    if made? { found } else { Ok(Some(Plain::NoDevices)) }
}

/// The spelling of the marks on a layer's root, if there are any that we can see.
///
/// # Errors
/// What listxattr(2) answers.
pub fn marked_prefix(root: &Handle) -> Result<Option<Prefix>> {
    let attrs = root.listxattr(b"")?;
    let has = |p: &Prefix| attrs.iter().any(|a| a.starts_with(p.as_bytes()));
    Ok([Prefix::Trusted, Prefix::User].into_iter().find(has))
}

/// Writes down which spelling this upper's marks have, so that whoever mounts it next reads the same.
fn mark_root(root: &Handle, prefix: Prefix) -> std::result::Result<(), Error> {
    let attr = prefix.attr(dialect::IMPURE);
    let fail = |e| Error::new("mark the upper directory", e).with_hint("it must be writable for you");
    match root.getxattr(b"", &attr).map_err(fail)? {
        Some(_) => Ok(()),
        None => root.setxattr(b"", &attr, b"y", 0).map_err(fail),
    }
}

fn prepare(
    root: Handle,
    given: &Handle,
    volatile: bool,
    plain: Option<Plain>,
) -> std::result::Result<UpperTree, Error> {
    let fail = |e| {
        Error::new("cannot prepare the work directory", e)
            .with_hint("it must be an empty directory of its own on the upper's file system, writable for you")
    };
    let work = subdir(given, b"work").map_err(fail)?;
    refuse_incompatible(&work)?;
    work.clear().map_err(fail)?;
    if volatile {
        mark_volatile(&work).map_err(fail)?;
    }
    let index = match given.file_handle(b"").map_err(fail)? {
        Some(_) if plain.is_none() => Some(subdir(given, b"index").map_err(fail)?),
        _ => None,
    };
    Ok(UpperTree { root, work, index, whiteout: parking_lot::Mutex::new(None), plain })
}

/// The upper as the last mount left it, to be read only.
fn as_left(root: Handle, work: Handle, plain: Option<Plain>) -> std::result::Result<UpperTree, Error> {
    let index = match work.open_dir(b"index") {
        Ok(index) => Some(index),
        Err(Errno::NOENT | Errno::NOTDIR) => None,
        Err(e) => return Err(Error::new("work directory", e)),
    };
    Ok(UpperTree { root, work, index, whiteout: parking_lot::Mutex::new(None), plain })
}

/// As the kernel's union: what a mount before this one left here says that the upper is not to be trusted.
fn refuse_incompatible(work: &Handle) -> std::result::Result<(), Error> {
    let marked = match work.open_dir(INCOMPATIBLE) {
        Ok(dir) => super::readdir::entries(&dir).map(|all| all.into_iter().next()),
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => Err(e),
    };
    match marked.map_err(|e| Error::new("work directory", e))? {
        None => Ok(()),
        Some((name, ..)) if name == VOLATILE => Err(Error::refused(
            "the upper was mounted volatile and never unmounted: what it holds may be incomplete",
            "throw upper and work away; to use them all the same, remove work/incompat in the work directory",
        )),
        Some((name, ..)) => Err(Error::refused(
            format!(
                "the work directory was left by a mount with an unknown feature: {}",
                String::from_utf8_lossy(&name)
            ),
            "mount it with what made it, or use a fresh upper and work directory",
        )),
    }
}

/// Nothing of this mount need survive a crash; so nobody may take it for whole after one.
fn mark_volatile(work: &Handle) -> Result<()> {
    let dir = subdir(&subdir(work, INCOMPATIBLE)?, VOLATILE)?;
    dir.mknod(DIRTY, Kind::File, 0o600, 0)
}

impl UpperTree {
    /// The mount ends in good order.
    fn unmark_volatile(&self) -> Result<()> {
        let features = self.work.open_dir(INCOMPATIBLE)?;
        features.open_dir(VOLATILE)?.unlink(DIRTY)?;
        features.rmdir(VOLATILE)?;
        self.work.rmdir(INCOMPATIBLE)
    }
}

fn subdir(dir: &Handle, name: &[u8]) -> Result<Handle> {
    match dir.mkdir(name, 0o700) {
        Ok(()) | Err(Errno::EXIST) => dir.open_dir(name),
        Err(e) => Err(e),
    }
}
