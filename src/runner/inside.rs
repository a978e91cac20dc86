//! Carrying out the steps of a [`Plan`](super::Plan) that touch the view. Every target is resolved with the view as
//! root and without magic links (openat2(2)), and mounted on by descriptor: a symbolic link of the image's leads
//! nowhere but into the image.

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};
use rustix::process::{Gid, Uid, fchdir, pivot_root};

use super::plan::{RESOLVER, Step};
use super::volume::make_target;
use super::{Error, users};
use crate::sys::mount::{make_read_only, set_attributes};

/// The two roots, while both are there.
pub(super) struct Roots {
    view: OwnedFd,
    machine: OwnedFd,
    /// An empty directory, mounted over the first that was masked.
    cover: OnceCell<OwnedFd>,
    /// The fresh `/dev`: nothing in it is the image's.
    dev: OnceCell<Rc<OwnedFd>>,
}

const DEV: &str = "/dev";

/// Why a step failed, and what may help.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) errno: Errno,
    pub(super) hint: Option<&'static str>,
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self { errno, hint: None }
    }
}

impl Failure {
    pub(super) fn hinted(self, hint: &'static str) -> Self {
        Self { hint: Some(hint), ..self }
    }

    /// As the error of a step.
    pub(super) fn of(self, step: &Step) -> Error {
        let error = Error::call(step, self.errno);
        match self.hint {
            Some(hint) => error.hinted(hint),
            None => error,
        }
    }
}

type Done = Result<(), Failure>;

const PROC_HINT: &str = "the kernel grants a fresh proc only where the machine's own /proc is whole; here parts of it are \
                         covered, as inside another container (run that with an unmasked /proc)";

impl Roots {
    /// The machine's root and the view's, the latter mounted on the directory `on` and not yet switched to. All mounting is
    /// done before the switch: just after it the machine's root lies on top of the view's, and `..` of a link in the image
    /// would lead up to it.
    pub(super) fn open(view: OwnedFd, on: &Path) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let machine = rustix::fs::open("/", flags, Mode::empty())?;
        move_mount(&view, "", CWD, on, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        Ok(Self { view, machine, cover: OnceCell::new(), dev: OnceCell::new() })
    }

    /// pivot_root(2) onto the view, and umount2(2) of the machine's root. Returns the view's.
    pub(super) fn switch(self) -> Result<OwnedFd, Failure> {
        fchdir(&self.view)?;
        pivot_root(".", ".").map_err(|e| {
            let failure = Failure::from(e);
            if e == Errno::INVAL {
                failure.hinted("the machine's root must be a mount of its own: not a chroot, not an initramfs")
            } else {
                failure
            }
        })?;
        fchdir(&self.machine)?;
        unmount(".", UnmountFlags::DETACH)?;
        fchdir(&self.view)?;
        Ok(self.view)
    }

    /// Carries out one step that is about mounts and files.
    pub(super) fn carry_out(&self, step: &Step) -> Done {
        match step {
            Step::MakeDir(path) => self.make_dir(path),
            Step::MountProc => {
                let strict = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
                let mount = filesystem("proc", &[], strict);
                let mount = mount.map_err(|e| match e {
                    Errno::PERM => Failure::from(e).hinted(PROC_HINT),
                    e => e.into(),
                })?;
                self.attach(&mount, Path::new("/proc"))
            }
            Step::MountSys { fresh } => self.mount_sys(*fresh),
            Step::MountTmpfs { path, mode, size } => {
                let nodev = MountAttrFlags::MOUNT_ATTR_NODEV;
                self.attach(&filesystem("tmpfs", &[("mode", mode), ("size", size)], nodev)?, path)?;
                if path == Path::new(DEV) {
                    let dev = Rc::new(self.find(path)?);
                    self.dev.get_or_init(|| dev);
                }
                Ok(())
            }
            Step::MountDevpts { gid } => self.mount_devpts(*gid),
            Step::MountMqueue => {
                let strict = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
                match filesystem("mqueue", &[], strict) {
                    // Built without POSIX message queues.
                    Err(Errno::NODEV | Errno::PERM) => Ok(()),
                    mount => self.attach(&mount?, Path::new("/dev/mqueue")),
                }
            }
            Step::Device(name) => self.bind_device(name),
            Step::Symlink { path, target } => self.link(Path::new(path), target),
            Step::Mask(path) => self.mask(path),
            Step::ReadOnly(path) => self.read_only(path),
            Step::CopyOf { path, extra, make } => self.copy_of(Path::new(path), *make, |text| text + extra),
            Step::Resolver(names, network) => {
                self.copy_of(Path::new(RESOLVER), true, |text| names.resolver(&text, *network))
            }
            Step::Volume(volume) => volume.mount(&self.machine, &self.view),
            Step::MakeWorkdir { path, user } => self.make_workdir(path, user.as_deref()),
            Step::IgnoreSetId => Ok(set_attributes(self.view.as_fd(), MountAttrFlags::MOUNT_ATTR_NOSUID, false)?),
            Step::SealView => Ok(make_read_only(self.view.as_fd(), false)?),
            _ => Err(Errno::NOTSUP.into()),
        }
    }

    fn find(&self, path: &Path) -> Result<OwnedFd, Errno> {
        resolve(&self.view, path, OFlags::PATH, Mode::empty())
    }

    /// The directory that `path` is in, and its name there.
    fn place<'p>(&self, path: &'p Path) -> Result<(Rc<OwnedFd>, &'p OsStr), Errno> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::INVAL) };
        let parent = match self.dev.get() {
            Some(dev) if parent == Path::new(DEV) => dev.clone(),
            _ => Rc::new(self.find(parent)?),
        };
        Ok((parent, name))
    }

    fn attach(&self, mount: &OwnedFd, path: &Path) -> Done {
        Ok(attach_to(mount, &self.find(path)?)?)
    }

    fn make_dir(&self, path: &Path) -> Done {
        let hint = "give the view an upper (--upper), or the image this directory";
        match self.find(path) {
            Ok(found) if file_type(&found)? == FileType::Directory => return Ok(()),
            Ok(_) => return Err(Failure::from(Errno::NOTDIR).hinted("the image has something else there")),
            Err(Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
        }
        let (parent, name) = self.place(path)?;
        rustix::fs::mkdirat(&*parent, name, Mode::from_raw_mode(0o755)).map_err(|e| match e {
            Errno::ROFS | Errno::ACCESS | Errno::PERM => Failure::from(e).hinted(hint),
            Errno::EXIST => Failure::from(e).hinted("the image has a symbolic link there that leads nowhere"),
            e => e.into(),
        })
    }

    fn make_workdir(&self, path: &Path, user: Option<&str>) -> Done {
        if !matches!(self.find(path), Err(Errno::NOENT)) {
            // What is wrong with what is there, entering it tells.
            return Ok(());
        }
        let dir = make_target(&self.view, path, FileType::Directory)?;
        // Of a user that is not there, becoming it tells.
        let Some(ids) = user.and_then(|user| users::find(&self.view, user).ok()) else { return Ok(()) };
        let (uid, gid) = (Uid::from_raw(ids.uid), Gid::from_raw(ids.gid));
        Ok(rustix::fs::chownat(dir, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?)
    }

    fn link(&self, path: &Path, target: &str) -> Done {
        let (parent, name) = self.place(path)?;
        Ok(rustix::fs::symlinkat(target, &*parent, name)?)
    }

    fn mount_sys(&self, fresh: bool) -> Done {
        let strict = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        if fresh {
            match filesystem("sysfs", &[], strict | MountAttrFlags::MOUNT_ATTR_RDONLY) {
                // Parts of the machine's /sys are covered: as for proc, but the machine's own will do.
                Err(Errno::PERM) => {}
                mount => return self.attach(&mount?, Path::new("/sys")),
            }
        }
        match clone_of(&self.machine, "sys", true) {
            // No /sys on the machine, none inside.
            Err(Errno::NOENT | Errno::INVAL) => Ok(()),
            mount => {
                let mount = mount?;
                make_read_only(mount.as_fd(), true)?;
                self.attach(&mount, Path::new("/sys"))
            }
        }
    }

    fn mount_devpts(&self, gid: Option<u32>) -> Done {
        let gid = gid.map(|g| g.to_string());
        let mut options = vec![("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620")];
        options.extend(gid.as_deref().map(|g| ("gid", g)));
        // No nodev: the terminals are devices.
        let mount = filesystem("devpts", &options, MountAttrFlags::MOUNT_ATTR_NOEXEC)?;
        self.attach(&mount, Path::new("/dev/pts"))
    }

    /// A device of the machine's, whose owner, mode and times are not the inside's to change; what is read and written is
    /// the driver's business, also where the mount is read-only.
    fn device(&self, name: &str) -> Result<OwnedFd, Errno> {
        let device = clone_of(&self.machine, &format!("dev/{name}"), false)?;
        make_read_only(device.as_fd(), false)?;
        Ok(device)
    }

    fn bind_device(&self, name: &str) -> Done {
        let device = self.device(name)?;
        let path = Path::new(DEV).join(name);
        let (dev, name) = self.place(&path)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let place = rustix::fs::openat(&*dev, name, flags, Mode::from_raw_mode(0o666))?;
        Ok(attach_to(&device, &place)?)
    }

    fn mask(&self, path: &Path) -> Done {
        let target = match self.find(path) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            found => found?,
        };
        if file_type(&target)? != FileType::Directory {
            return Ok(attach_to(&self.device("null")?, &target)?);
        }
        // One for all: a file system of its own takes longer to make and to take away than all else here.
        let cover = match self.cover.get() {
            Some(cover) => copy_of_mount(cover, false)?,
            None => {
                let strict = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
                let size = [("mode", "555"), ("size", "4k")];
                filesystem("tmpfs", &size, strict | MountAttrFlags::MOUNT_ATTR_RDONLY)?
            }
        };
        attach_to(&cover, &target)?;
        self.cover.get_or_init(|| cover);
        Ok(())
    }

    fn read_only(&self, path: &Path) -> Done {
        let target = match self.find(path) {
            Err(Errno::NOENT) => return Ok(()),
            found => found?,
        };
        let mount = copy_of_mount(&target, true)?;
        make_read_only(mount.as_fd(), true)?;
        Ok(attach_to(&mount, &target)?)
    }

    /// The machine's file of this name, changed so, over that of the view.
    fn copy_of(&self, path: &Path, make: bool, change: impl Fn(String) -> String) -> Done {
        let target = match self.find(path) {
            Err(Errno::NOENT) if make => {
                let flags = OFlags::CREATE | OFlags::WRONLY;
                match resolve(&self.view, path, flags, Mode::from_raw_mode(0o644)) {
                    Ok(_) => self.find(path)?,
                    Err(e) => {
                        return Err(Failure::from(e).hinted("names may not resolve inside"));
                    }
                }
            }
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            found => found?,
        };
        let text = match resolve(&self.machine, path, OFlags::RDONLY, Mode::empty()) {
            Ok(fd) => {
                let mut text = Vec::new();
                let read = std::io::Read::read_to_end(&mut std::fs::File::from(fd), &mut text);
                read.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
                text
            }
            Err(Errno::NOENT) => Vec::new(),
            Err(e) => return Err(e.into()),
        };
        let text = change(String::from_utf8_lossy(&text).into_owned());
        let name = path.file_name().unwrap_or(OsStr::new("copy"));
        self.bind_text(text.as_bytes(), name, &target)
    }

    /// Binds a file of this content over `target`. The file lives in a tmpfs that has no name any more: it is attached
    /// (older kernels bind nothing from a mount that is not), used, and detached.
    fn bind_text(&self, text: &[u8], name: &OsStr, target: &OwnedFd) -> Done {
        let strict = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let scratch = filesystem("tmpfs", &[("mode", "755"), ("size", "1m")], strict)?;
        self.attach(&scratch, Path::new("/dev"))?;
        let bound = self.bind_from(&scratch, text, name, target);
        fchdir(&scratch)?;
        unmount(".", UnmountFlags::DETACH)?;
        fchdir(&self.view)?;
        bound
    }

    fn bind_from(&self, scratch: &OwnedFd, text: &[u8], name: &OsStr, target: &OwnedFd) -> Done {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(scratch, name, flags, Mode::from_raw_mode(0o644))?;
        let written = std::io::Write::write_all(&mut std::fs::File::from(file), text);
        written.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
        let tree = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let copy = open_tree(scratch, name, tree)?;
        make_read_only(copy.as_fd(), false)?;
        Ok(attach_to(&copy, target)?)
    }
}

/// openat2(2) with `root` as `/`.
pub(super) fn resolve(root: &OwnedFd, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // EAGAIN: something was renamed meanwhile, and the kernel cannot vouch for `..`.
    loop {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, mode, inside) {
            Err(Errno::AGAIN) => {}
            opened => return opened,
        }
    }
}

pub(super) fn file_type(fd: &OwnedFd) -> Result<FileType, Errno> {
    let stat = rustix::fs::statat(fd, "", AtFlags::EMPTY_PATH)?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

/// A new mount of a file system, nosuid, not attached anywhere yet.
pub(super) fn filesystem(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> Result<OwnedFd, Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "source", kind)?;
    for (key, value) in options {
        if value.is_empty() {
            rustix::mount::fsconfig_set_flag(context.as_fd(), *key)?;
        } else {
            fsconfig_set_string(context.as_fd(), *key, *value)?;
        }
    }
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes | MountAttrFlags::MOUNT_ATTR_NOSUID)
}

/// A bind mount of `path` below `root`, not attached anywhere yet.
fn clone_of(root: &OwnedFd, path: &str, recursive: bool) -> Result<OwnedFd, Errno> {
    copy_of_mount(&resolve(root, Path::new(path), OFlags::PATH, Mode::empty())?, recursive)
}

/// A bind mount of what is in a mount that has a place (older kernels take no other), not attached anywhere yet.
fn copy_of_mount(source: &OwnedFd, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    open_tree(source, "", flags)
}

pub(super) fn attach_to(mount: &OwnedFd, target: &OwnedFd) -> Result<(), Errno> {
    let by_descriptor = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", by_descriptor)
}
