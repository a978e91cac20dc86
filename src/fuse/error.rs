//! Why a mount could not be made or served.

use std::io;
use std::path::PathBuf;

use crate::vocab;

/// What went wrong with a mount.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `/dev/fuse` is missing or may not be used.
    #[error("/dev/fuse: {}", vocab::why(.0))]
    Device(#[source] io::Error),
    /// The mountpoint can't be used.
    #[error("mountpoint {}: {}", path.display(), vocab::why(why))]
    Mountpoint {
        /// Where.
        path: PathBuf,
        /// Why.
        why: io::Error,
    },
    /// A merged view is mounted there already.
    #[error("mountpoint {}: a merged view is mounted there already", path.display())]
    InUse {
        /// Where.
        path: PathBuf,
    },
    /// mount(2) failed.
    #[error("mount on {}: {}", path.display(), vocab::why(why))]
    Mount {
        /// Where.
        path: PathBuf,
        /// Why.
        why: io::Error,
    },
    /// SELinux refuses the mount's label.
    #[error("mount on {} with context={label}: {}", path.display(), vocab::why(why))]
    Label {
        /// Where.
        path: PathBuf,
        /// The label.
        label: String,
        /// Why.
        why: io::Error,
    },
    /// An ordinary user needs the set-user-id helper, and it is not there.
    #[error("fusermount3 is not installed, and only root may mount on {} without it", path.display())]
    NoHelper {
        /// Where.
        path: PathBuf,
    },
    /// The set-user-id helper said no.
    #[error("mount on {}: {said}", path.display())]
    Helper {
        /// Where.
        path: PathBuf,
        /// Its words.
        said: String,
    },
    /// umount2(2) failed.
    #[error("unmount {}: {}", path.display(), vocab::why(why))]
    Unmount {
        /// Where.
        path: PathBuf,
        /// Why.
        why: io::Error,
    },
    /// The conversation with the kernel failed.
    #[error("FUSE session: {}", vocab::why(.0))]
    Session(#[source] io::Error),
}

impl Error {
    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        let kind = |e: &io::Error| e.kind();
        Some(match self {
            Self::Device(e) if kind(e) == io::ErrorKind::NotFound => {
                "load the kernel's FUSE module (`modprobe fuse` as root), or pass /dev/fuse into this container".into()
            }
            // By the control group of a container that it is in.
            Self::Device(e) if e.raw_os_error() == Some(libc::EPERM) => {
                "pass it into this container (--device /dev/fuse)".into()
            }
            Self::Device(e) if kind(e) == io::ErrorKind::PermissionDenied => {
                "allow it for everybody, as root: chmod 666 /dev/fuse".into()
            }
            Self::Mountpoint { path, why } if kind(why) == io::ErrorKind::NotFound => {
                format!("make it first: mkdir {}", path.display())
            }
            Self::Mountpoint { why, .. } if kind(why) == io::ErrorKind::NotADirectory => {
                "name an existing directory".into()
            }
            Self::Mountpoint { path, why } if why.raw_os_error() == Some(libc::ENOTCONN) => {
                format!("a daemon died there; clear it away: onlay umount {}", path.display())
            }
            Self::Mount { why, .. } => match why.raw_os_error() {
                Some(libc::EINVAL) => "is /dev/fuse the kernel's? ls -l shows 10, 229 for it".into(),
                Some(libc::EPERM | libc::ENOSYS) => {
                    "mounts are refused here: by a seccomp filter or a security module, as of a container around us"
                        .into()
                }
                Some(libc::ENODEV) => "load the kernel's FUSE module: `modprobe fuse` as root".into(),
                _ => return None,
            },
            Self::Label { why, .. } if why.raw_os_error() == Some(libc::EACCES) => {
                "SELinux lets us give a mount no such label: `ausearch -m avc -ts recent` shows what was denied".into()
            }
            Self::Label { .. } => "name a label that SELinux's policy has, as `ls -Z` shows them".into(),
            Self::InUse { path } => format!("unmount it first: onlay umount {}", path.display()),
            Self::NoHelper { .. } => "install the package fuse3, or mount inside a user namespace (unshare -rm)".into(),
            Self::Helper { said, .. } if said.contains("user_allow_other") => {
                "leave allow_other away, or let root add user_allow_other to /etc/fuse.conf".into()
            }
            Self::Helper { .. } => {
                "choose a directory of your own, or mount inside a user namespace (unshare -rm)".into()
            }
            Self::Unmount { path, why } if why.raw_os_error() == Some(libc::EBUSY) => {
                format!("see who uses it with `fuser -vm {}`, or detach it at once with --lazy", path.display())
            }
            _ => return None,
        })
    }
}
