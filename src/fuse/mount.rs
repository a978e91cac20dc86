//! A fuse mount: made by fsopen(2) or mount(2) where we may, by the set-user-id helper fusermount3 where not.
//!
//! One of fsopen(2) is in no place until its [requests are answered](Unmount::attach): who waits for it to appear never
//! meets one that is not ready, nor one that we are busy with ourselves.
//!
//! A mount is known by its *mount id* from then on, never by its path alone: somebody may have unmounted it and mounted
//! something else there meanwhile.

use std::fs::File;
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{AtFlags, Mode, OFlags, Statx, StatxFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg, socketpair,
};

use super::mountinfo::type_on;
use super::{Error, FS_TYPE, label};

const DEVICE: &str = "/dev/fuse";
const HELPER: &str = "fusermount3";
/// What is shown after `fuse.` as the type.
const SUBTYPE: &str = "onlay";

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
    /// SELinux's label of everything in it, passed on where the kernel takes one.
    pub context: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            read_only: false,
            allow_other: None,
            suid: true,
            dev: true,
            exec: true,
            source: "onlay".into(),
            context: None,
        }
    }
}

/// A mount of ours.
#[derive(Debug)]
pub struct Mount {
    path: PathBuf,
    id: Option<MountId>,
    device: OwnedFd,
    /// While it is in no place.
    tree: Option<OwnedFd>,
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
    /// Mounts, in no place as yet where the kernel can do that: there it appears when its session is served.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn aside(at: Mountpoint, options: &Options) -> Result<Self, Error> {
        let options = label::heeded(options);
        let tree = match mount_detached(&at.device, &options) {
            Ok(tree) => tree,
            Err(e) => match refused(at.path.clone(), e.into(), &options) {
                // SELinux is asked last: the device has been used up by then.
                e @ Error::Label { .. } => return Err(e),
                // mount(2) and the helper say better what is wrong, if it is not the call that is missing.
                e => {
                    log::debug!("no mount by fsopen: {e}");
                    return Self::placed(at, &options);
                }
            },
        };
        let id = stat_tree(&tree).ok().map(|st| MountId(st.stx_mnt_id));
        Ok(Self { path: at.path, id, device: at.device, tree: Some(tree) })
    }

    /// Mounts in no place at all: who gets the tree [in the end](super::Session::spawn_aside) puts it where it is wanted, in
    /// whatever mount namespace of this user namespace. `near` names it where something goes wrong.
    ///
    /// # Errors
    /// No `/dev/fuse`; what fsopen(2) and the calls that go with it answer.
    pub fn detached(near: &Path, options: &Options) -> Result<Self, Error> {
        let options = label::heeded(options);
        let device: OwnedFd = File::options().read(true).write(true).open(DEVICE).map_err(Error::Device)?.into();
        let tree = mount_detached(&device, &options).map_err(|e| refused(near.into(), e.into(), &options))?;
        let id = stat_tree(&tree).ok().map(|st| MountId(st.stx_mnt_id));
        Ok(Self { path: near.into(), id, device, tree: Some(tree) })
    }

    /// Mounts. Nobody answers until a [`Session`](super::Session) is made of it.
    ///
    /// # Errors
    /// What mount(2) answers; a helper that is missing or refuses.
    pub fn new(at: Mountpoint, options: &Options) -> Result<Self, Error> {
        Self::placed(at, &label::heeded(options))
    }

    fn placed(Mountpoint { path, device }: Mountpoint, options: &Options) -> Result<Self, Error> {
        let device = match mount_directly(&path, device, options) {
            Ok(device) => device,
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => mount_by_helper(&path, options)?,
            Err(why) => return Err(refused(path, why, options)),
        };
        // A stat of the root would wait for an answer from us; the mount's id alone is known without.
        let id = mount_id(&path).ok();
        Ok(Self { path, id, device, tree: None })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What takes it away from outside, in whatever process.
    pub fn stopper(&self) -> super::Stopper {
        super::Stopper::new(Unmount { path: self.path.clone(), id: self.id, tree: Arc::default() })
    }

    /// Takes it away again; nobody has answered a request yet.
    pub fn abandon(self) {
        let (device, unmount) = self.split();
        unmount.detach();
        drop(device);
    }

    /// The connection to the kernel, and what is needed to unmount.
    pub(super) fn split(self) -> (OwnedFd, Unmount) {
        (self.device, Unmount { path: self.path, id: self.id, tree: Arc::new(Mutex::new(self.tree)) })
    }
}

/// How to take a mount away.
#[derive(Clone, Debug)]
pub(super) struct Unmount {
    path: PathBuf,
    id: Option<MountId>,
    tree: Arc<Mutex<Option<OwnedFd>>>,
}

impl Unmount {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Major and minor number of the mounted file system, which are known without an answer from us.
    pub(super) fn device_number(&self) -> io::Result<(u32, u32)> {
        let st = match &*self.tree.lock() {
            Some(tree) => stat_tree(tree)?,
            None => stat_mount(&self.path)?,
        };
        if self.id != Some(MountId(st.stx_mnt_id)) {
            return Err(rustix::io::Errno::STALE.into());
        }
        Ok((st.stx_dev_major, st.stx_dev_minor))
    }

    /// Puts the mount in its place, now that somebody answers.
    ///
    /// # Errors
    /// What move_mount(2) answers.
    pub(super) fn attach(&self) -> Result<(), Error> {
        // Until the kernel has asked for the root's attributes once, it takes uid 0 for its owner, and would refuse a
        // chmod of the root as the very first call.
        let Some(tree) = self.tree.lock().take() else {
            if let Err(e) = std::fs::metadata(&self.path) {
                log::debug!("{}: {e}", self.path.display());
            }
            return Ok(());
        };
        if let Err(e) = rustix::fs::fstat(&tree) {
            log::debug!("{}: {e}", self.path.display());
        }
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        // The descriptor goes at once: it keeps the mount busy.
        rustix::mount::move_mount(tree, "", rustix::fs::CWD, &self.path, flags)
            .map_err(|e| Error::Mount { path: self.path.clone(), why: e.into() })
    }

    /// Lets somebody else put the mount in a place; `None` if it has one.
    pub(super) fn hand_over(&self) -> Option<OwnedFd> {
        self.tree.lock().take()
    }

    /// Detaches the mount (`MNT_DETACH`) if it is still the one on its path; requests of its last users still come.
    pub(super) fn detach(&self) {
        if self.tree.lock().take().is_some() {
            return;
        }
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

/// The same of a mount that is in no place yet.
fn stat_tree(mount: &OwnedFd) -> rustix::io::Result<Statx> {
    rustix::fs::statx(mount, "", AtFlags::STATX_DONT_SYNC | AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
}

/// What fuse and the security module are told; an option without a value is a flag.
fn kernel_options(device: &OwnedFd, options: &Options) -> Vec<(&'static str, Option<String>)> {
    let mut words = vec![
        ("fd", Some(device.as_raw_fd().to_string())),
        ("rootmode", Some("40000".to_owned())),
        ("user_id", Some(rustix::process::geteuid().as_raw().to_string())),
        ("group_id", Some(rustix::process::getegid().as_raw().to_string())),
        ("default_permissions", None),
    ];
    words.extend(options.allow_other.unwrap_or(true).then_some(("allow_other", None)));
    words.extend(options.context.clone().map(|label| ("context", Some(label))));
    words
}

/// The same as one string (mount(8)); a value with a comma is quoted, as SELinux wants it.
fn joined(words: &[(&str, Option<String>)]) -> String {
    let word = |(name, value): &(&str, Option<String>)| match value {
        None => (*name).to_owned(),
        Some(value) if value.contains(',') => format!("{name}=\"{value}\""),
        Some(value) => format!("{name}={value}"),
    };
    words.iter().map(word).collect::<Vec<_>>().join(",")
}

/// What mount(2) or fsopen(2) answered; SELinux says `EINVAL` and `EACCES` of a label.
fn refused(path: PathBuf, why: io::Error, options: &Options) -> Error {
    match (&options.context, why.raw_os_error()) {
        (Some(label), Some(libc::EINVAL | libc::EACCES)) => Error::Label { path, label: label.clone(), why },
        _ => Error::Mount { path, why },
    }
}

/// fsopen(2) and what belongs to it: a mount that is in no place yet, and goes when the descriptor is closed.
fn mount_detached(device: &OwnedFd, options: &Options) -> rustix::io::Result<OwnedFd> {
    use rustix::mount::{fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen};
    let fs = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&fs, "subtype", SUBTYPE)?;
    fsconfig_set_string(&fs, "source", &*options.source)?;
    if options.read_only {
        fsconfig_set_flag(&fs, "ro")?;
    }
    for (name, value) in kernel_options(device, options) {
        match value {
            None => fsconfig_set_flag(&fs, name)?,
            Some(value) => fsconfig_set_string(&fs, name, value)?,
        }
    }
    fsconfig_create(&fs)?;
    let mut attrs = MountAttrFlags::MOUNT_ATTR_NOATIME;
    attrs.set(MountAttrFlags::MOUNT_ATTR_RDONLY, options.read_only);
    attrs.set(MountAttrFlags::MOUNT_ATTR_NOSUID, !options.suid);
    attrs.set(MountAttrFlags::MOUNT_ATTR_NODEV, !options.dev);
    attrs.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, !options.exec);
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attrs)
}

fn mount_directly(path: &Path, device: OwnedFd, options: &Options) -> io::Result<OwnedFd> {
    let mut flags = MountFlags::NOATIME;
    flags.set(MountFlags::RDONLY, options.read_only);
    flags.set(MountFlags::NOSUID, !options.suid);
    flags.set(MountFlags::NODEV, !options.dev);
    flags.set(MountFlags::NOEXEC, !options.exec);
    let data = std::ffi::CString::new(joined(&kernel_options(&device, options)))?;
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
        format!("subtype={SUBTYPE},default_permissions,noatime"),
    ];
    words.extend(others.then(|| "allow_other".to_owned()));
    words.extend((!options.exec).then(|| "noexec".to_owned()));
    if options.context.is_some() {
        label::unheeded(&format!("{HELPER} takes none"));
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_is_told() {
        let device: OwnedFd = File::open("/dev/null").unwrap().into();
        let label = Some("system_u:object_r:container_file_t:s0:c1,c2".to_owned());
        let options = Options { context: label, allow_other: Some(false), ..Options::default() };
        let told = joined(&kernel_options(&device, &options));
        assert!(told.starts_with(&format!("fd={},rootmode=40000,user_id=", device.as_raw_fd())), "{told}");
        assert!(
            told.ends_with(",default_permissions,context=\"system_u:object_r:container_file_t:s0:c1,c2\""),
            "{told}"
        );
        let told = joined(&kernel_options(&device, &Options { allow_other: None, context: None, ..options }));
        assert!(told.ends_with(",default_permissions,allow_other"), "{told}");
    }

    #[test]
    fn a_label_that_is_refused_is_named() {
        let with = Options { context: Some("nonsense".to_owned()), ..Options::default() };
        let refused = |code, options| {
            let e = refused("/m".into(), io::Error::from_raw_os_error(code), options);
            (e.to_string(), e.hint().unwrap_or_default())
        };
        let (said, hint) = refused(libc::EINVAL, &with);
        assert!(said.contains("/m") && said.contains("nonsense"), "{said}");
        assert!(hint.contains("SELinux"), "{hint}");
        assert!(refused(libc::EACCES, &with).1.contains("ausearch"));
        assert!(!refused(libc::ENODEV, &with).0.contains("nonsense"));
        assert!(refused(libc::EINVAL, &Options::default()).1.contains("/dev/fuse"));
    }
}
