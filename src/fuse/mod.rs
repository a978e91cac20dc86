//! The union, served to the kernel over `/dev/fuse`.
//!
//! [`mount`] attaches a fuse mount to a directory and knows how to detach just that one; [`session`] answers its
//! requests until it is gone. In between, a transport parses each request and calls one of [`ops`], which know the union
//! and no transport. Transports are fuser ([`by_fuser`]) and our own: [`device`] and [`ring`] carry bytes, [`wire`] and
//! [`abi`] know what they mean. All of it can be used in steps, so that a process can mount while it has one thread and serve later.

mod abi;
mod bare;
mod beside;
mod by_fuser;
mod capability;
mod convert;
mod device;
mod error;
mod handshake;
mod label;
mod mechanisms;
pub mod mount;
mod mountinfo;
mod opens;
mod ops;
mod ours;
mod readahead;
mod ring;
pub mod session;
mod straight;
mod transport;
mod wire;

pub use beside::show_beside;
pub use error::Error;
pub use mechanisms::{Chosen, Readahead, Wish, Wishes};
pub use mount::{Mount, Mountpoint, Options};
pub use mountinfo::{is_idmapped, type_on};
pub use session::{Attrs, Session, Stopper, Tuning};
pub use transport::Transport;

/// The virtual attribute of a mount's root that tells the daemon's process id.
pub const PID_ATTR: &str = "user.onlay.pid";

/// The virtual attribute of a mount's root that, when it is read, first syncs the upper layer.
pub const SYNC_ATTR: &str = "user.onlay.sync";

/// The virtual attribute of anything in a view that shows all as root's: who owns it by what is remembered, `UID:GID`.
pub const OWNER_ATTR: &str = "user.onlay.owner";

/// The file system type in `/proc/mounts`.
pub const FS_TYPE: &str = "fuse.onlay";
