//! A view in which nothing has an extended attribute, and nothing will get any. Tools that compare or pack trees ask for some of each file
//! (`security.capability`, the list), and the kernel remembers no answer; but told once that there are none at all
//! (`ENOSYS`), it never asks again and says `EOPNOTSUPP` by itself. So once many were asked for and none was there, a
//! thread looks through the layers; what it finds holds as long as the mount, because nothing changes in it.
//!
//! So it is in a read-only view; and in one with an upper from when it is [compared](super::beside) with the layers below: the
//! engine has done with it, and unmounts it next. Who sets an attribute then comes in time to be in the way of the proof, or is
//! told what the kernel says, too: that there are none here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use parking_lot::RwLock;

use crate::overlay::Overlay;
use crate::vocab::{Errno, Result};

/// So many questions in vain are a walk, and worth looking through everything.
const A_WALK: u32 = 256;

/// What is known of a view's attributes.
#[derive(Debug, Default)]
pub(super) struct Bare {
    /// It is worth finding out.
    wanted: AtomicBool,
    asked: AtomicU32,
    /// Nothing has any.
    proven: AtomicBool,
    /// Something has, or the mount has ended.
    over: AtomicBool,
    /// Shared while somebody sets an attribute; exclusive while it is decided which of the two it is.
    deciding: RwLock<()>,
}

impl Bare {
    pub(super) fn new(wanted: bool) -> Arc<Self> {
        Arc::new(Self { wanted: AtomicBool::new(wanted), ..Self::default() })
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// From now on it is worth finding out.
    pub(super) fn want(&self) {
        // What was set before is on disk from here on.
        let _deciding = self.deciding.write();
        if !self.wanted.swap(true, Ordering::Relaxed) {
            self.over.store(false, Ordering::Relaxed);
        }
    }

    /// Somebody sets one.
    ///
    /// # Errors
    /// `EOPNOTSUPP` once there are none; what `set` answers.
    pub(super) fn setting<T>(&self, set: impl FnOnce() -> Result<T>) -> Result<T> {
        let _deciding = self.deciding.read();
        if self.is_proven() {
            return Err(Errno::OPNOTSUPP);
        }
        self.give_up();
        set()
    }

    /// Whether there is no attribute in the whole view, which nobody need ask for.
    pub(super) fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Acquire)
    }

    /// There is one; or no need to know any more.
    pub(super) fn give_up(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// One was asked for in vain.
    pub(super) fn in_vain(self: &Arc<Self>, overlay: &Arc<Overlay>) {
        let is_over = |bare: &Self| bare.over.load(Ordering::Relaxed);
        if !self.is_wanted() || is_over(self) || self.asked.fetch_add(1, Ordering::Relaxed) + 1 != A_WALK {
            return;
        }
        let (bare, overlay) = (self.clone(), overlay.clone());
        let look = move || match overlay.has_xattrs(&|| is_over(&bare)) {
            Ok(false) => {
                let _deciding = bare.deciding.write();
                bare.proven.store(!is_over(&bare), Ordering::Release);
            }
            Ok(true) => log::debug!("extended attributes: there are some, so each is asked for"),
            Err(e) => log::debug!("extended attributes: not all layers can be looked through: {e}"),
        };
        if let Err(e) = std::thread::Builder::new().name("bare".into()).spawn(look) {
            log::debug!("extended attributes: no thread to look for them: {e}");
        }
    }
}
