//! A fuse mount: made by mount(2) where we may, by the set-user-id helper fusermount3 where not.
//!
//! A mount is known by its *mount id* from then on, never by its path alone: somebody may have unmounted it and mounted
//! something else there meanwhile.

use std::fs::File;
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{AtFlags, Mode, OFlags, Statx, StatxFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg, socketpair,
};

use super::mountinfo::type_on;
use super::{Error, FS_TYPE};

const DEVICE: &str = "/dev/fuse";
const HELPER: &str = "fusermount3";

/// How to mount.
#[derive(Clone, Debug)]
pub struct Options {
    /// No changes.
    pub read_only: bool,
    /// Other users may use it; `None`: where we mount by ourselves, or `/etc/fuse.conf` lets everybody.
    pub allow_other: Option<bool>,
    /// Set-user-id bits count.
    pub suid: bool,
    /// Device nodes work.
    pub dev: bool,
    /// Programs can be run.
    pub exec: bool,
    /// What is shown as the source.
    pub source: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { read_only: false, allow_other: None, suid: true, dev: true, exec: true, source: "onlay".into() }
    }
}

/// A mount of ours.
#[derive(Debug)]
pub struct Mount {
    path: PathBuf,
    id: Option<MountId>,
    device: OwnedFd,
}

/// Tells a mount from every other one (`STATX_MNT_ID` of statx(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MountId(u64);

/// A place to mount on, and the means to.
#[derive(Debug)]
pub struct Mountpoint {
    path: PathBuf,
    device: OwnedFd,
}

impl Mountpoint {
    /// Checks the directory `path`, and opens `/dev/fuse`. Nothing has been changed yet.
    ///
    /// # Errors
    /// No `/dev/fuse` or no permission; a mountpoint that is no directory, or has a view mounted already.
    pub fn new(path: &Path) -> Result<Self, Error> {
        let path = resolve(path)?;
        if type_on(&path).is_ok_and(|kind| kind.is_some_and(|kind| kind == FS_TYPE)) {
            return Err(Error::InUse { path });
        }
        let device = File::options().read(true).write(true).open(DEVICE).map_err(Error::Device)?;
        Ok(Self { path, device: device.into() })
    }
}

impl Mount {
    /// Mounts. Nobody answers until a [`Session`](super::Session) is made of it.
    ///
    /// # Errors
    /// What mount(2) answers; a helper that is missing or refuses.
    pub fn new(Mountpoint { path, device }: Mountpoint, options: &Options) -> Result<Self, Error> {
        let device = match mount_directly(&path, device, options) {
            Ok(device) => device,
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => mount_by_helper(&path, options)?,
            Err(why) => return Err(Error::Mount { path, why }),
        };
        // A stat of the root would wait for an answer from us; the mount's id alone is known without.
        let id = mount_id(&path).ok();
        Ok(Self { path, id, device })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes it away again; nobody has answered a request yet.
    pub fn abandon(self) {
        let (device, unmount) = self.split();
        unmount.detach();
        drop(device);
    }

    /// The connection to the kernel, and what is needed to unmount.
    pub(super) fn split(self) -> (OwnedFd, Unmount) {
        (self.device, Unmount { path: self.path, id: self.id })
    }
}

/// How to take a mount away.
#[derive(Clone, Debug)]
pub(super) struct Unmount {
    path: PathBuf,
    id: Option<MountId>,
}

impl Unmount {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Major and minor number of the mounted file system, which are known without an answer from us.
    pub(super) fn device_number(&self) -> io::Result<(u32, u32)> {
        let st = stat_mount(&self.path)?;
        if self.id != Some(MountId(st.stx_mnt_id)) {
            return Err(rustix::io::Errno::STALE.into());
        }
        Ok((st.stx_dev_major, st.stx_dev_minor))
    }

    /// Detaches the mount (`MNT_DETACH`) if it is still the one on its path; requests of its last users still come.
    pub(super) fn detach(&self) {
        if self.id.is_none() || mount_id(&self.path).ok() != self.id {
            log::debug!("{}: already unmounted", self.path.display());
        } else if let Err(e) = unmount(&self.path, true) {
            log::warn!("{e}");
        }
    }
}

/// Unmounts what is on `path`, by the helper where umount2(2) may not; `lazy` detaches it though it is in use.
///
/// # Errors
/// `EBUSY` where it is in use, `EINVAL` where nothing is mounted, and the helper's.
pub fn unmount(path: &Path, lazy: bool) -> Result<(), Error> {
    let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() } | UnmountFlags::NOFOLLOW;
    match rustix::mount::unmount(path, flags) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::PERM) => {
            let mut helper = Command::new(HELPER);
            helper.arg("-u").args(lazy.then_some("-z")).arg("--").arg(path);
            let said = run_helper(&mut helper, path)?;
            match said {
                None => Ok(()),
                Some(said) if said.contains("busy") => {
                    Err(Error::Unmount { path: path.into(), why: rustix::io::Errno::BUSY.into() })
                }
                Some(said) => Err(Error::Helper { path: path.into(), said }),
            }
        }
        Err(why) => Err(Error::Unmount { path: path.into(), why: why.into() }),
    }
}

/// The mountpoint with no link in it, and a directory.
fn resolve(path: &Path) -> Result<PathBuf, Error> {
    let fail = |why| Error::Mountpoint { path: path.into(), why };
    let real = path.canonicalize().map_err(fail)?;
    if real.metadata().map_err(fail)?.is_dir() { Ok(real) } else { Err(fail(rustix::io::Errno::NOTDIR.into())) }
}

fn mount_id(path: &Path) -> rustix::io::Result<MountId> {
    stat_mount(path).map(|st| MountId(st.stx_mnt_id))
}

/// What the kernel knows of a mount without asking its daemon.
fn stat_mount(path: &Path) -> rustix::io::Result<Statx> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(rustix::fs::CWD, path, flags, StatxFlags::MNT_ID)
}

fn mount_directly(path: &Path, device: OwnedFd, options: &Options) -> io::Result<OwnedFd> {
    let mut flags = MountFlags::NOATIME;
    flags.set(MountFlags::RDONLY, options.read_only);
    flags.set(MountFlags::NOSUID, !options.suid);
    flags.set(MountFlags::NODEV, !options.dev);
    flags.set(MountFlags::NOEXEC, !options.exec);
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw()
    );
    if options.allow_other.unwrap_or(true) {
        data += ",allow_other";
    }
    let data = std::ffi::CString::new(data)?;
    rustix::mount::mount(options.source.as_str(), path, FS_TYPE, flags, data.as_c_str())?;
    Ok(device)
}

/// fusermount3(1): it checks that the mountpoint is the user's own, mounts, and sends the descriptor back.
fn mount_by_helper(path: &Path, options: &Options) -> Result<OwnedFd, Error> {
    let others = match options.allow_other {
        Some(wanted) => wanted,
        None => std::fs::read_to_string("/etc/fuse.conf")
            .is_ok_and(|conf| conf.lines().any(|line| line.trim() == "user_allow_other")),
    };
    let mut words = vec![
        if options.read_only { "ro" } else { "rw" }.to_owned(),
        format!("fsname={}", options.source.replace(['\\', ','], "_")),
        "subtype=onlay,default_permissions,noatime".to_owned(),
    ];
    words.extend(others.then(|| "allow_other".to_owned()));
    words.extend((!options.exec).then(|| "noexec".to_owned()));

    let fail = |e: rustix::io::Errno| Error::Mount { path: path.into(), why: e.into() };
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(fail)?;
    // dup(2) leaves close-on-exec behind: the helper inherits this one.
    let theirs = rustix::io::dup(&theirs).map_err(fail)?;
    let mut helper = Command::new(HELPER);
    helper.arg("-o").arg(words.join(",")).arg("--").arg(path);
    helper.env("_FUSE_COMMFD", theirs.as_raw_fd().to_string());
    let said = run_helper(&mut helper, path)?;
    drop(theirs);
    if let Some(said) = said {
        return Err(Error::Helper { path: path.into(), said });
    }
    receive_descriptor(&ours)
        .map_err(fail)?
        .ok_or_else(|| Error::Helper { path: path.into(), said: format!("{HELPER} sent no descriptor") })
}

/// Runs fusermount3; what it said where it failed.
fn run_helper(helper: &mut Command, path: &Path) -> Result<Option<String>, Error> {
    let fail = |why: io::Error| match why.kind() {
        io::ErrorKind::NotFound => Error::NoHelper { path: path.into() },
        _ => Error::Mount { path: path.into(), why },
    };
    let mut child = helper.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(fail)?;
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut said).map_err(fail)?;
    }
    let status = child.wait().map_err(fail)?;
    if status.success() {
        return Ok(None);
    }
    let said = said.trim().trim_start_matches("fusermount3: ");
    Ok(Some(if said.is_empty() { format!("{HELPER} failed ({status})") } else { said.to_owned() }))
}

fn receive_descriptor(socket: &impl AsFd) -> rustix::io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message {
            return Ok(fds.next());
        }
    }
    Ok(None)
}

/// Whether opening `/dev/fuse` once more would lead through a mount on `path` (and so wait for an answer of its own).
pub(super) fn hides_device(path: &Path) -> bool {
    Path::new(DEVICE).starts_with(path)
        || rustix::fs::open(DEVICE, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).is_err()
}
