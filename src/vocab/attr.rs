//! What stat(2) tells of an object, in types of our own.

/// The type of an object (`S_IFMT` of inode(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Unix socket.
    Socket,
    /// Character device.
    Char,
    /// Block device.
    Block,
}

impl Kind {
    /// The kind in the type bits of `mode`; `None` where they name no known type.
    pub fn of_mode(mode: u32) -> Option<Self> {
        Some(match mode & libc::S_IFMT {
            libc::S_IFREG => Self::File,
            libc::S_IFDIR => Self::Dir,
            libc::S_IFLNK => Self::Symlink,
            libc::S_IFIFO => Self::Fifo,
            libc::S_IFSOCK => Self::Socket,
            libc::S_IFCHR => Self::Char,
            libc::S_IFBLK => Self::Block,
            _ => return None,
        })
    }

    /// Whether a node of this kind and device number is a whiteout of kernel overlayfs.
    pub fn is_whiteout(self, rdev: u64) -> bool {
        self == Self::Char && rdev == 0
    }

    /// The type bits (`S_IFREG`, ..) of this kind.
    pub fn mode_bits(self) -> u32 {
        match self {
            Self::File => libc::S_IFREG,
            Self::Dir => libc::S_IFDIR,
            Self::Symlink => libc::S_IFLNK,
            Self::Fifo => libc::S_IFIFO,
            Self::Socket => libc::S_IFSOCK,
            Self::Char => libc::S_IFCHR,
            Self::Block => libc::S_IFBLK,
        }
    }
}

/// Seconds and nanoseconds since the epoch; before it, `sec` is negative and `nsec` still counts forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Whole seconds.
    pub sec: i64,
    /// 0 to 999,999,999.
    pub nsec: u32,
}

/// What utimensat(2) is to do with one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SetTime {
    /// Leave it (`UTIME_OMIT`).
    #[default]
    Keep,
    /// The current time (`UTIME_NOW`).
    Now,
    /// This time.
    To(Timestamp),
}

/// The metadata of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Device number of the file system it lives on.
    pub dev: u64,
    /// Inode number there.
    pub ino: u64,
    /// Its type.
    pub kind: Kind,
    /// Permission bits (07777).
    pub mode: u32,
    /// Link count.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node, as `makedev(3)` encodes it.
    pub rdev: u64,
    /// Bytes.
    pub size: u64,
    /// Allocated 512-byte blocks.
    pub blocks: u64,
    /// Preferred I/O size.
    pub blksize: u32,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of metadata.
    pub ctime: Timestamp,
    /// Whether something else is mounted here (`STATX_ATTR_MOUNT_ROOT`).
    pub mount_root: bool,
}

impl Stat {
    /// A whiteout of kernel overlayfs: a character device 0:0.
    pub fn is_whiteout(&self) -> bool {
        self.kind.is_whiteout(self.rdev)
    }
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read.
    Read,
    /// To read and write.
    ReadWrite,
}

/// What statfs(2) tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Blocks in all, in units of `frsize`.
    pub blocks: u64,
    /// Free ones.
    pub bfree: u64,
    /// Free ones for ordinary users.
    pub bavail: u64,
    /// Inodes in all.
    pub files: u64,
    /// Free ones.
    pub ffree: u64,
    /// Preferred block size in bytes.
    pub bsize: u32,
    /// Longest name in bytes.
    pub namelen: u32,
    /// Unit of the block counts in bytes.
    pub frsize: u32,
}
