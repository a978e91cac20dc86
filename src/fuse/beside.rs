//! A view of the lower layers alone, on the superblock of a mount that has them under an upper. Engines that commit a
//! layer mount both and compare them, and pass over what has the same device and number; two mounts of their own never
//! have the same device.
//!
//! Who is called for such a view asks the mounts beside its target by a virtual attribute of their root, whose name is a
//! [token] of all that the two must have in common. The answer is a name in that root, known to nobody else and good for
//! one lookup; the directory found by it is the view's root, which is cloned, made read only, and moved to the target. The
//! daemon ends when neither of both is used any more.
//!
//! [token]: Tuning::beside

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::mountinfo::{Mounted, mounted};
use super::ops::Ops;
use super::{FS_TYPE, Tuning};
use crate::overlay::{MAX_BESIDE, Overlay, beside};
use crate::sys;
use crate::vocab::{Errno, Result};

/// The virtual attribute of a mount's root; the token follows.
pub(super) const BESIDE_ATTR: &str = "user.onlay.beside.";

/// Bytes of a name that nobody guesses.
const SECRET: usize = 16;

/// The views beside one.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// What they are asked for by, and how they are tuned.
    offer: Option<(String, Tuning)>,
    views: RwLock<Vec<Arc<Ops>>>,
    /// The name of the last one, until it has been looked up.
    entrance: Mutex<Option<(Vec<u8>, u8)>>,
}

impl Beside {
    pub(super) fn new(tuning: &Tuning) -> Self {
        let offer = tuning.beside.clone().map(|token| (token, Tuning { beside: None, ..tuning.clone() }));
        Self { offer, ..Self::default() }
    }

    /// The view that an inode belongs to, if not the main one.
    pub(super) fn of(&self, ino: u64) -> Option<Arc<Ops>> {
        self.views.read().get(usize::from(beside(ino)?)).cloned()
    }

    /// One more view, and the name by which it is found; `None` for who does not know the token.
    pub(super) fn enter(
        &self,
        token: &[u8],
        main: &Arc<Overlay>,
        make: impl FnOnce(Overlay, &Tuning) -> Ops,
    ) -> Result<Option<Vec<u8>>> {
        let Some((_, tuning)) = self.offer.as_ref().filter(|(ours, _)| ours.as_bytes() == token) else {
            return Ok(None);
        };
        let mut views = self.views.write();
        let nth = u8::try_from(views.len()).ok().filter(|nth| *nth < MAX_BESIDE).ok_or(Errno::NOSPC)?;
        let overlay = main.below(nth).map_err(|e| {
            log::debug!("{e}");
            Errno::OPNOTSUPP
        })?;
        let mut secret = [0; SECRET];
        rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty())?;
        let name: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let name = format!(".onlay-{name}").into_bytes();
        views.push(Arc::new(make(overlay, tuning)));
        *self.entrance.lock() = Some((name.clone(), nth));
        Ok(Some(name))
    }

    /// The view that has this name.
    pub(super) fn found(&self, name: &[u8]) -> Option<Arc<Ops>> {
        let (_, nth) = self.entrance.lock().take_if(|(secret, _)| secret == name)?;
        self.views.read().get(usize::from(nth)).cloned()
    }
}

/// Shows on `target` the lower layers of a mount in the same place that knows `token`; whether there is one. Where
/// something is amiss there is none, and a mount of its own does as well.
pub fn show_beside(token: &str, target: &Path) -> bool {
    let Ok(target) = target.canonicalize() else { return false };
    let all = match mounted() {
        Ok(all) => all,
        Err(e) => {
            log::debug!("what is mounted: {e}");
            return false;
        }
    };
    // Engines keep them as PLACE/ID/merged.
    let place = |path: &Path| path.parent().and_then(Path::parent).map(Path::to_path_buf);
    let ours = |m: &&Mounted| m.kind == FS_TYPE && m.root == Path::new("/") && place(&m.path) == place(&target);
    if all.iter().any(|m| m.path == target) {
        return false;
    }
    for main in all.iter().rev().filter(ours) {
        match show(token, &main.path, &target) {
            Ok(shown) if shown => return true,
            Ok(_) => {}
            Err(e) => log::debug!("{}: no view beside it: {e}", main.path.display()),
        }
    }
    false
}

fn show(token: &str, main: &PathBuf, target: &Path) -> Result<bool> {
    let mut name = [0; 255];
    let n = match rustix::fs::lgetxattr(main, format!("{BESIDE_ATTR}{token}"), &mut name) {
        Ok(n) => n,
        Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(false),
        Err(e) => return Err(e),
    };
    let root = main.join(String::from_utf8_lossy(&name[..n]).as_ref());
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let view = open_tree(rustix::fs::CWD, &root, flags)?;
    sys::mount::make_private_read_only(std::os::fd::AsFd::as_fd(&view))?;
    move_mount(&view, "", rustix::fs::CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(true)
}
