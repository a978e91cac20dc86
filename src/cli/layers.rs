//! The directories to stack: checked, locked, opened.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::error::Error;
use crate::fuse::is_idmapped;
use crate::layer::{Handle, disk};
use crate::overlay::{self, Layers, Lower, Plain, Upper};
use crate::vocab::dialect::Prefix;
use crate::vocab::why;

/// What to stack, as given.
#[derive(Clone, Debug, Default)]
pub(super) struct Given {
    pub(super) lowers: Vec<PathBuf>,
    pub(super) upper: Option<PathBuf>,
    pub(super) work: Option<PathBuf>,
}

/// What to stack, open. The upper is ours as long as this lives.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) layers: Layers,
    /// Locked with flock(2): upper and work.
    pub(super) locks: Vec<OwnedFd>,
    /// Device and inode numbers of upper and work.
    pub(super) writable: Vec<(u64, u64)>,
}

/// What to stack, all there and fit for each other.
#[derive(Debug)]
pub(super) struct Checked {
    lowers: Vec<Dir>,
    writable: Option<(Dir, Dir)>,
}

/// A directory that exists.
#[derive(Debug)]
struct Dir {
    given: PathBuf,
    real: PathBuf,
    what: &'static str,
}

impl Given {
    /// Checks everything, then opens it. `inside` allows an upper that lies in a lower layer (it has to be hidden then).
    /// Waits so long for another daemon to let go of the upper.
    pub(super) fn open(&self, inside: bool, patience: Duration) -> Result<Opened, Error> {
        let Checked { lowers, writable } = self.check(inside)?;
        let mut opened =
            Opened { layers: Layers { upper: None, lowers: Vec::new() }, locks: Vec::new(), writable: Vec::new() };
        if let Some((upper, work)) = &writable {
            opened.take(upper, work, Instant::now() + patience)?;
        }
        for lower in &lowers {
            opened.layers.lowers.push(Lower { dir: lower.open(false)? });
        }
        Ok(opened)
    }

    /// Indices of the lower layers that lie on an idmapped mount.
    pub(super) fn idmapped(&self) -> Result<Vec<usize>, Error> {
        let mut found = Vec::new();
        for (i, lower) in self.lowers.iter().enumerate() {
            let fail = |e: std::io::Error| Error::new(format!("lower layer {}: {}", lower.display(), why(&e)));
            let dir = File::open(lower).map_err(fail)?;
            if is_idmapped(dir.as_fd()).map_err(fail)? {
                found.push(i);
            }
        }
        Ok(found)
    }

    /// Checks everything that can be told without opening it.
    pub(super) fn check(&self, inside: bool) -> Result<Checked, Error> {
        let lowers: Vec<_> = self.lowers.iter().map(|p| Dir::check("lower layer", p)).collect::<Result<_, _>>()?;
        for (i, lower) in lowers.iter().enumerate() {
            if lowers[..i].iter().any(|above| above.real == lower.real) {
                return Err(Error::new(format!("lower layer {} is given twice", lower.given.display()))
                    .hint("name each layer once, the top one first"));
            }
        }
        let writable = match (&self.upper, &self.work) {
            (None, None) => None,
            (Some(upper), Some(work)) => {
                Some((Dir::check("upper directory", upper)?, Dir::check("work directory", work)?))
            }
            (Some(upper), None) => {
                return Err(Error::new(format!("upper directory {} has no work directory", upper.display()))
                    .hint("add --work DIR: an empty directory on the same file system"));
            }
            (None, Some(work)) => {
                return Err(Error::new(format!("work directory {} has no upper directory", work.display()))
                    .hint("add --upper DIR, or leave --work away for a read-only view"));
            }
        };
        if let Some((upper, work)) = &writable {
            refuse_overlap(upper, work)?;
            for lower in lowers.iter().filter(|_| !inside) {
                refuse_overlap(upper, lower)?;
                refuse_overlap(work, lower)?;
            }
        }
        Ok(Checked { lowers, writable })
    }

    /// Tells that whiteouts are files in the upper; loudly where nobody asked for it.
    pub(super) fn say_plain(&self, why: Plain) {
        let upper = self.upper.as_deref().unwrap_or(Path::new("")).display();
        let words =
            format!("upper {upper}: whiteouts are kept as .wh. files, and lower directories can't be renamed ({why})");
        match why {
            Plain::Asked | Plain::Before => log::info!("{words}"),
            Plain::NoAttributes | Plain::NoDevices | Plain::NoFlags => log::warn!("{words}"),
        }
    }

    /// What the union says of its layers, with their names.
    pub(super) fn explain(&self, e: overlay::Error) -> Error {
        let layers = match (&self.upper, &self.work) {
            (Some(upper), Some(work)) => format!("upper {}, work {}", upper.display(), work.display()),
            _ => self.lowers.iter().map(|l| l.display().to_string()).collect::<Vec<_>>().join(", "),
        };
        let error = Error::new(format!("{e} ({layers})"));
        match e.hint() {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }

    /// Refuses a mountpoint inside a layer: the layer would then contain the view of itself.
    pub(super) fn refuse_inside(&self, mountpoint: &Path) -> Result<(), Error> {
        // A mountpoint that does not exist is somebody else's error.
        let Ok(real) = mountpoint.canonicalize() else { return Ok(()) };
        for layer in self.lowers.iter().chain(&self.upper).chain(&self.work) {
            let inside = layer.canonicalize().is_ok_and(|layer| real != layer && real.starts_with(layer));
            if inside {
                let (at, layer) = (mountpoint.display(), layer.display());
                return Err(Error::new(format!(
                    "mountpoint {at} is inside the layer {layer}, which would show itself"
                ))
                .hint("choose a mountpoint outside of all layers"));
            }
        }
        Ok(())
    }
}

impl Opened {
    fn take(&mut self, upper: &Dir, work: &Dir, until: Instant) -> Result<(), Error> {
        let (u, w) = (upper.stat()?, work.stat()?);
        if u.0 != w.0 {
            return Err(Error::new(format!(
                "work directory {} is not on the file system of the upper directory {}",
                work.given.display(),
                upper.given.display()
            ))
            .hint("make it beside the upper: objects move from work to upper in one step"));
        }
        for dir in [upper, work] {
            dir.refuse_read_only()?;
            self.locks.push(dir.lock(until)?);
        }
        self.writable = vec![u, w];
        self.layers.upper = Some(Upper { dir: upper.open(true)?, work: work.open(true)? });
        Ok(())
    }
}

/// Opens one directory to read.
pub(super) fn open_one(what: &'static str, path: &Path) -> Result<Handle, Error> {
    Dir::check(what, path)?.open(false)
}

impl Dir {
    fn check(what: &'static str, given: &Path) -> Result<Self, Error> {
        let fail = |e: std::io::Error| {
            let error = Error::new(format!("{what} {}: {}", given.display(), why(&e)));
            match e.kind() {
                std::io::ErrorKind::NotFound => error.hint("name a directory that exists; relative names start here"),
                std::io::ErrorKind::PermissionDenied => error.hint("you need to be allowed to read and search it"),
                _ => error,
            }
        };
        let real = given.canonicalize().map_err(fail)?;
        if !real.metadata().map_err(fail)?.is_dir() {
            return Err(Error::new(format!("{what} {}: not a directory", given.display()))
                .hint("a layer is a directory; unpack an archive or mount an image file first"));
        }
        Ok(Self { given: given.into(), real, what })
    }

    fn fail(&self, e: rustix::io::Errno) -> Error {
        Error::new(format!("{} {}: {}", self.what, self.given.display(), why(&e)))
    }

    fn open(&self, writable: bool) -> Result<Handle, Error> {
        use rustix::fs::{Access, AtFlags, CWD, accessat};
        accessat(CWD, &self.real, Access::READ_OK | Access::EXEC_OK, AtFlags::EACCESS)
            .map_err(|e| self.fail(e).hint("you need to be allowed to read and search it"))?;
        disk::Object::open(&self.real, writable).map(Handle::Disk).map_err(|e| self.fail(e))
    }

    fn stat(&self) -> Result<(u64, u64), Error> {
        let st = rustix::fs::stat(&self.real).map_err(|e| self.fail(e))?;
        Ok((st.st_dev, st.st_ino))
    }

    fn refuse_read_only(&self) -> Result<(), Error> {
        use rustix::fs::Access;
        match rustix::fs::accessat(rustix::fs::CWD, &self.real, Access::WRITE_OK, rustix::fs::AtFlags::EACCESS) {
            Ok(()) => Ok(()),
            Err(e) => Err(self.fail(e).hint("it must be writable for you; leave --upper away for a read-only view")),
        }
    }

    fn lock(&self, until: Instant) -> Result<OwnedFd, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&self.real, flags, Mode::empty()).map_err(|e| self.fail(e))?;
        loop {
            match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(fd),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let by = holder(&fd).map_or(String::new(), |pid| format!(" (process {pid})"));
                    return Err(Error::new(format!(
                        "{} {} is in use by another mount{by}",
                        self.what,
                        self.given.display()
                    ))
                    .hint("unmount that one first: two unions can't share an upper"));
                }
                Err(e) => return Err(self.fail(e)),
            }
        }
    }
}

/// Who has locked this directory, as far as `/proc/locks` (proc(5)) tells us.
fn holder(dir: &OwnedFd) -> Option<u32> {
    let st = rustix::fs::fstat(dir).ok()?;
    let (major, minor) = (rustix::fs::major(st.st_dev), rustix::fs::minor(st.st_dev));
    let inode = format!("{major:02x}:{minor:02x}:{}", st.st_ino);
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    // `1: FLOCK  ADVISORY  WRITE 1234 fe:01:5678 0 EOF`; process 0 is one that we can't see.
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (held, pid) = (words.get(1) == Some(&"FLOCK") && words.get(5) == Some(&&*inode), words.get(4)?);
        if held { pid.parse().ok().filter(|pid| *pid != 0) } else { None }
    })
}

fn refuse_overlap(a: &Dir, b: &Dir) -> Result<(), Error> {
    let (aw, ap) = (a.what, a.given.display());
    let (bw, bp) = (b.what, b.given.display());
    let how = if a.real == b.real {
        format!("{aw} {ap} and {bw} {bp} are the same directory")
    } else if a.real.starts_with(&b.real) {
        format!("{aw} {ap} is inside {bw} {bp}")
    } else if b.real.starts_with(&a.real) {
        format!("{bw} {bp} is inside {aw} {ap}")
    } else {
        return Ok(());
    };
    Err(Error::new(how).hint("upper, work and the lower layers must be separate directories, none inside another"))
}

/// The spelling of private attributes to read in layers alone: the kernel shows `trusted.` to root of the machine only.
pub(super) fn prefix_without_upper() -> Prefix {
    if is_machine_root() { Prefix::Trusted } else { Prefix::User }
}

/// Whether we have `CAP_SYS_ADMIN` in the first user namespace (its inode number is fixed: `USER_NS_INIT_INO` of
/// linux/nsfs.h).
pub(super) fn is_machine_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    let capable = rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::SYS_ADMIN));
    capable && File::open("/proc/self/ns/user").and_then(|ns| ns.metadata()).is_ok_and(|st| st.ino() == 0xEFFF_FFFD)
}
