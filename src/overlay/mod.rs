//! The union: read-only layers under a copy-on-write upper, with no FUSE in sight.
//!
//! What it promises is in `SEMANTICS.md` beside this file; what is on disk is kernel overlayfs's own format, in its
//! `trusted.overlay.` or `user.overlay.` spelling.
//!
//! # Rooms
//! | room | what it does |
//! |---|---|
//! | [`stack`] | what a name is in the lower layers |
//! | [`node`], [`links`], [`inodes`] | one inode of the view; its names; the table of them |
//! | [`lookup`] | a name of the view to an inode, and which layers have it |
//! | [`place`] | where an inode's upper object is; handles and open files |
//! | [`readdir`] | listings with cookies that never move |
//! | [`copy_up`] | lower to upper |
//! | [`create`], [`remove`], [`rename`] | changes of names |
//! | [`tmpfile`] | files without one |
//! | [`whiteout`] | what an upper says of the layers below |
//! | [`attr`], [`xattr`], [`file`] | changes of everything else |
//! | [`changes`](changes()), [`delta`] | what an upper changes: for a user, for a writer of layers |
//! | [`setup`] | from directories to a union, or a reason why not |
//! | [`beside`](mod@beside) | the lower layers alone, on the same device |
//! | [`image_index`] | the lower layers as one, prepared in a file |
//! | [`malformed`] | marks that say nothing, told |
//!
//! # Locks, on one page
//! - Layers are immutable while mounted: no lock.
//! - The inode table is sharded; a shard guard never outlives one statement and is never held across a system call.
//! - Every node has a state lock, held for memory only, innermost of all.
//! - A directory's `names` lock is shared while a name in it is resolved or an object is reached by its name, exclusive
//!   while its names change. Two are taken by `rename::TwoDirs` only, in a fixed order; that of a directory to be
//!   removed or replaced comes after its parent's.
//! - A node's copy-up mutex is outermost and held while its data is copied; a child's comes before its parent's. Copying
//!   holds no other lock; publishing takes the parent's `names` for an instant. A lookup never waits for a copy-up.
//! - The list of what was told of malformed marks is a leaf: nothing is taken under it.

mod attr;
mod beside;
mod cache;
mod changes;
mod copy_up;
mod create;
mod delta;
mod error;
mod file;
mod image_index;
mod inodes;
mod links;
mod lookup;
mod malformed;
mod names;
mod node;
mod place;
mod readdir;
mod remove;
mod rename;
mod setup;
mod stack;
mod tmpfile;
mod whiteout;
mod xattr;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use crate::layer::{File, Handle};
use crate::vocab::dialect::{Prefix, STORED_STAT};
use crate::vocab::ids::IdMaps;
use crate::vocab::{Kind, SetTime, Stat};

pub use beside::{MAX_BESIDE, Twin, beside};
pub use changes::{Change, How, changes};
pub use delta::{Delta, Said, Unread};
pub use error::Error;
pub use image_index::build_index;
pub use inodes::ROOT;
pub use setup::marked_prefix;
pub use whiteout::{Plain, was_plain};

/// The trees to stack.
#[derive(Debug)]
pub struct Layers {
    /// Where changes go; without it the view is read only.
    pub upper: Option<Upper>,
    /// The layers below; the first is the top one.
    pub lowers: Vec<Lower>,
}

/// The writable layer.
#[derive(Debug)]
pub struct Upper {
    /// The tree that holds the changes.
    pub dir: Handle,
    /// A directory on the same file system, for objects on their way.
    pub work: Handle,
}

/// A read-only layer.
#[derive(Debug)]
pub struct Lower {
    /// The tree.
    pub dir: Handle,
}

/// How the union behaves; the default is that of a plain mount.
#[derive(Clone, Debug)]
pub struct Config {
    /// Spelling of private attributes; `None`: `trusted.` where the upper takes it.
    pub prefix: Option<Prefix>,
    /// Spelling to read in the layers where the upper has none.
    pub default_prefix: Prefix,
    /// Keep whiteouts as `.wh.` files in the upper; so it is where the upper can't have them otherwise.
    pub plain: bool,
    /// Keep owners (and types the file system refuses) in `user.containers.override_stat`: for an id map of one id.
    pub stored_owners: bool,
    /// The attribute for that.
    pub stored_attr: &'static [u8],
    /// How stored ids are shown, and what is stored for those of callers.
    pub ids: IdMaps,
    /// Lower layers, by index, whose ids the kernel maps already (an idmapped mount): they show what it says.
    pub mapped_lowers: Vec<usize>,
    /// Nothing is written to the upper, not even at the start: it is read as it was left.
    pub frozen: bool,
    /// What is ours on disk, and has no stored owner, is root's: for layers of one id, read outside of its namespace.
    pub ours_as_root: bool,
    /// Show ids that the id map does not know as root's.
    pub foreign_as_root: bool,
    /// Read AUFS's `.wh.` names in the lower layers.
    pub aufs: bool,
    /// Objects of the lower layers that are not there, by device and inode number.
    pub hide: Vec<(u64, u64)>,
    /// Show what is mounted in a lower layer and is no real file system (proc, sysfs, ..) as an empty directory.
    pub close_pseudo: bool,
    /// Look for marks in the bottom layer, too. They can only matter there for attribute whiteouts and devices 0:0.
    pub marked_bottom: bool,
    /// Lower layers may change while they are mounted: what they do not have may come.
    pub live_lowers: bool,
    /// Open handles and files to keep, at most.
    pub open_files: usize,
    /// The upper need not survive a crash: nothing is synced, whoever asks.
    pub volatile: bool,
    /// Upper and work go when the mount ends, however it ends, and nobody mounts them again: a volatile one is not marked.
    pub thrown_away: bool,
    /// It is the so many-th view beside another, whose numbers it must not have: see [`Overlay::below`].
    pub beside: Option<u8>,
    /// The image index of the lower layers; where it is not theirs, or damaged, they are read themselves.
    pub index: Option<std::path::PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            prefix: None,
            default_prefix: Prefix::Trusted,
            plain: false,
            stored_owners: false,
            stored_attr: STORED_STAT,
            ids: IdMaps::default(),
            mapped_lowers: Vec::new(),
            frozen: false,
            ours_as_root: false,
            foreign_as_root: false,
            aufs: false,
            hide: Vec::new(),
            close_pseudo: false,
            marked_bottom: true,
            live_lowers: false,
            open_files: 512,
            volatile: false,
            thrown_away: false,
            beside: None,
            index: None,
        }
    }
}

/// On whose behalf something is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// User id, as the daemon's namespace sees it.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Bits that a new object does not get, unless its directory has a default ACL.
    pub umask: u32,
}

/// An inode's number and metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Number in the view; `stat.ino` is the same.
    pub ino: u64,
    /// The rest.
    pub stat: Stat,
}

/// What to change of an inode's metadata.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: SetTime,
    /// Last change of content.
    pub mtime: SetTime,
}

/// One entry of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Inode number.
    pub ino: u64,
    /// Where to go on after this one; it never changes while the name exists.
    pub cookie: u64,
    /// Type.
    pub kind: Kind,
    /// Name.
    pub name: &'a [u8],
}

/// The union of some layers.
#[derive(Debug)]
pub struct Overlay {
    layers: Vec<stack::Layer>,
    upper: Option<setup::UpperTree>,
    prefix: Prefix,
    config: Config,
    inodes: Arc<inodes::Inodes>,
    root: Arc<node::Node>,
    /// Open directories of lowers (by `LowerDir::id`) and of the upper (by `Node::id`).
    dirs: quick_cache::sync::Cache<u64, Handle>,
    /// Open files by node, for reading and for writing.
    files: quick_cache::sync::Cache<(u64, bool), Arc<File>>,
    listings: quick_cache::sync::Cache<u64, Arc<readdir::Listing>, readdir::BySize>,
    names: quick_cache::sync::Cache<u64, Arc<names::Names>, names::ByCount>,
    hasher: std::hash::RandomState,
    temp: AtomicU64,
    /// How many inodes went so far.
    forgotten: AtomicUsize,
    /// Every layer is on a disk of this machine.
    local: bool,
    /// Held by a rename from one directory to another.
    moving: parking_lot::Mutex<()>,
}
