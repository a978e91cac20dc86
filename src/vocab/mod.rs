//! Plain values that every floor speaks: no I/O here.

pub mod attr;
pub mod dialect;
pub mod handle;
pub mod owner;

pub use attr::{Access, Kind, SetTime, Space, Stat, Timestamp};
pub use rustix::io::Errno;

/// What every operation on a tree returns: a value, or the errno that a program will see.
pub type Result<T> = std::result::Result<T, Errno>;
