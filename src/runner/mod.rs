//! A process in the merged view, in namespaces of its own, without root.
//!
//! | process | namespaces | does |
//! |---|---|---|
//! | parent | the caller's | writes the id maps, forwards signals, lends the terminal, returns the exit code |
//! | supervisor | new user, new mount | makes the view, serves it in threads, waits for init, cleans up |
//! | init | + own mount, pid, ipc, uts, cgroup, (net) | mounts the view, carries out the [`Plan`], reaps |
//! | command | init's | what the user asked for |
//!
//! The one who serves the view stands outside the pid namespace: nothing inside can see, trace or kill it; and inside
//! the user namespace: the mount needs no set-user-id helper and dies with init's mount namespace. Whoever dies takes the rest
//! along: init has the supervisor's death as its own (`PR_SET_PDEATHSIG`), the supervisor sees the parent's end of the
//! channel close, kills init and cleans up.
//!
//! This floor knows nothing of FUSE or of the union: what the new root is, a [`Root`] says.

mod attach;
mod cgroup;
mod channel;
mod control;
mod enter;
mod error;
mod hierarchy;
mod init;
mod inside;
mod mapping;
mod names;
mod network;
mod owners;
mod parent;
mod plan;
mod process;
mod processors;
mod relay;
mod scope;
mod seccomp;
mod signals;
mod spec;
mod supervisor;
mod terminal;
mod users;
mod volume;

pub use attach::{Attach, attach};
pub use cgroup::{Cgroup, Resources, Swap, limits_of};
pub use control::{Control, exec, signal};
pub use enter::enter_user_namespace;
pub use error::Error;
pub use hierarchy::remove_left_groups;
pub use mapping::{Mapping, Range};
pub use names::Names;
pub use network::Port;
pub use owners::Giver;
pub use parent::{Attended, Own, run, run_attended};
pub use plan::{KEPT_CAPABILITIES, Plan, Step, plan};
pub use processors::Processors;
pub use seccomp::{Profile, Seccomp};
pub use spec::{Limit, LimitName, Network, Owners, Process, Root, RootError, Spec};
pub use volume::{Source, Volume};
