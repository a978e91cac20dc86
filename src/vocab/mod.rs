//! Plain values that every floor speaks: no I/O here.

pub mod acl;
pub mod attr;
pub mod dialect;
pub mod digest;
pub mod handle;
pub mod ids;
pub mod owner;
pub mod set_id;

pub use attr::{Access, Kind, SetTime, Space, Stat, Timestamp};
pub use rustix::io::Errno;

/// What every operation on a tree returns: a value, or the errno that a program will see.
pub type Result<T> = std::result::Result<T, Errno>;

/// As many layers as the kernel's union takes.
pub const MAX_LAYERS: usize = 500;

/// An error's words for a user: without the number that Rust adds ("(os error 2)").
pub fn why(e: &dyn std::fmt::Display) -> String {
    let words = e.to_string();
    words.split(" (os error").next().unwrap_or(&words).to_owned()
}
