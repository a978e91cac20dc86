//! The merged view as the root of a run: where the union, its service and the runner meet.

use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::journal::{Recorder, Recording};
use crate::cli::error::Error;
use crate::cli::layers::{Given, Opened};
use crate::cli::limits::raise_open_files;
use crate::fuse::session::Serving;
use crate::fuse::{self, Mount, Options, Session, Tuning};
use crate::overlay::{Config, Overlay, SetAttr};
use crate::runner::{Owners, Root, RootError};
use crate::store::{self, Container, Store};
use crate::vocab::why;

/// How long the daemon's threads may take to end once everything inside has.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a run shows, and what it made for that.
#[derive(Debug)]
pub(in crate::cli) struct View {
    given: Given,
    config: Config,
    /// Lower layers hold the writable ones: the machine's root does.
    host: bool,
    /// Where the view is mounted, for the inside alone; holds a throw-away upper where the user named none.
    base: PathBuf,
    /// What is removed in the end: only the one who serves the view can.
    throw_away: Vec<PathBuf>,
    /// The container that goes with it, and where that is: not what nothing was written on.
    goes: Option<(Store, Container)>,
    session: Option<Session>,
    served: Option<(fuse::session::Stopper, Serving)>,
    /// Takes what is printed inside, once we have threads.
    recorder: Option<Recorder>,
    recording: Option<Recording>,
    /// Locks on upper and work.
    opened: Vec<OwnedFd>,
    /// The union while it is served: whoever asks in the end must not keep it.
    overlay: Weak<Overlay>,
}

/// Remembers owners in the union, whose answers to the kernel show none of them.
struct Rememberer(Weak<Overlay>);

impl Owners for Rememberer {
    fn give(&self, ino: u64, uid: Option<u32>, gid: Option<u32>) -> std::io::Result<()> {
        let overlay = self.0.upgrade().ok_or(rustix::io::Errno::NODEV)?;
        overlay.setattr(ino, &SetAttr { uid, gid, ..SetAttr::default() })?;
        Ok(())
    }
}

impl View {
    /// A view of `given`; without an upper, changes go to one in `base` that is removed.
    pub(in crate::cli) fn new(given: Given, host: bool, config: Config, base: &Path) -> Self {
        let throw_away = vec![base.into()];
        Self {
            given,
            config,
            host,
            base: base.into(),
            throw_away,
            goes: None,
            session: None,
            served: None,
            recorder: None,
            recording: None,
            opened: Vec::new(),
            overlay: Weak::new(),
        }
    }

    /// The view of a container with its directory. If that `goes` in the end it is removed here, or, where nothing was
    /// written, left for the next one.
    pub(in crate::cli) fn of_container(
        given: Given,
        config: Config,
        dir: &Path,
        goes: Option<(Store, Container)>,
    ) -> Self {
        let throw_away = given.upper.iter().chain(&given.work).filter(|_| goes.is_some()).cloned().collect();
        Self { throw_away, goes, ..Self::new(given, false, config, dir) }
    }

    /// The same, and what is printed inside is recorded.
    pub(in crate::cli) fn recorded(self, recorder: Option<Recorder>) -> Self {
        Self { recorder, ..self }
    }

    /// Makes a throw-away upper that looks like the root of the top layer.
    fn make_upper(&mut self) -> Result<(), Error> {
        let fail = |at: &Path, e: std::io::Error| Error::new(format!("throw-away upper {}: {}", at.display(), why(&e)));
        let (upper, work) = (self.base.join("upper"), self.base.join("work"));
        for dir in [&upper, &work] {
            std::fs::create_dir(dir).map_err(|e| fail(dir, e))?;
        }
        if let Some(top) = self.given.lowers.first() {
            // A layer that can't be looked at is told about when it is opened.
            let mode = top.metadata().map_or(0o755, |m| m.mode() & 0o7777);
            std::fs::set_permissions(&upper, std::fs::Permissions::from_mode(mode)).map_err(|e| fail(&upper, e))?;
        }
        self.given.upper = Some(upper);
        self.given.work = Some(work);
        Ok(())
    }

    fn open(&mut self) -> Result<Overlay, Error> {
        if self.given.upper.is_none() {
            self.make_upper()?;
        }
        let Opened { layers, locks, writable } = self.given.open(self.host, Duration::ZERO)?;
        self.opened = locks;
        let mut config = self.config.clone();
        config.hide.extend(writable);
        let base =
            rustix::fs::stat(&self.base).map_err(|e| Error::new(format!("{}: {}", self.base.display(), why(&e))))?;
        config.hide.push((base.st_dev, base.st_ino));
        Overlay::new(layers, config).map_err(|e| self.given.explain(e))
    }

    fn make(&mut self) -> Result<(), Error> {
        let overlay = Arc::new(self.open()?);
        self.overlay = Arc::downgrade(&overlay);
        let mount = Mount::detached(&self.base, &Options { allow_other: Some(true), ..Options::default() })?;
        self.session = Some(Session::new(mount, overlay, &Tuning::default(), Vec::new())?);
        Ok(())
    }

    fn serve_in_threads(&mut self) -> Result<OwnedFd, Error> {
        // The command does not inherit our limit: init was there before.
        raise_open_files();
        self.recording = self.recorder.take().map(Recorder::start).transpose()?;
        let session = self.session.take().ok_or_else(|| Error::new("there is no view to serve"))?;
        let stopper = session.stopper();
        let (serving, tree) = session.spawn_aside()?;
        self.served = Some((stopper, serving));
        Ok(tree)
    }

    fn end(&mut self) -> Result<(), Error> {
        if let Some(recording) = self.recording.take() {
            recording.end();
        }
        self.session = None;
        let served = match self.served.take() {
            Some((stopper, thread)) => {
                stopper.stop();
                join(thread, self.config.thrown_away)
            }
            None => Ok(()),
        };
        let removed = self.remove(served.is_ok());
        match served.and(removed) {
            // Nobody loses anything by it, and the command has ended as it has.
            Err(e) if self.config.thrown_away => {
                log::warn!("{e}");
                Ok(())
            }
            done => done,
        }
    }

    /// Removes what is thrown away; nobody writes on it any more if `all_over`.
    fn remove(&mut self, all_over: bool) -> Result<(), Error> {
        if let Some((store, container)) = &self.goes {
            if all_over && store::is_untouched(&container.upper(), &container.work()) {
                return Ok(());
            }
            // Out of sight first: to remove it may take a while, and its name is wanted again.
            match store.bury_container(container) {
                Ok(grave) => self.throw_away.push(grave),
                Err(e) => log::debug!("{e}"),
            }
        }
        let mut removed = Ok(());
        for path in &self.throw_away {
            if let Err(e) = std::fs::remove_dir_all(path)
                && e.kind() != std::io::ErrorKind::NotFound
            {
                removed = removed.and(Err(Error::new(format!("remove {}: {}", path.display(), why(&e)))));
            }
        }
        removed
    }
}

impl Root for View {
    fn mount(&mut self) -> Result<(), RootError> {
        Ok(self.make()?)
    }

    fn serve(&mut self) -> Result<OwnedFd, RootError> {
        Ok(self.serve_in_threads()?)
    }

    fn finish(&mut self) -> Result<(), RootError> {
        Ok(self.end()?)
    }

    fn owners(&self) -> Option<Arc<dyn Owners>> {
        self.config.stored_owners.then(|| Arc::new(Rememberer(self.overlay.clone())) as Arc<dyn Owners>)
    }
}

/// Waits for the daemon's threads, but not for ever: somebody outside may hold a file of the view open.
fn join(serving: Serving, thrown_away: bool) -> Result<(), Error> {
    match serving.join_within(PATIENCE) {
        Some(done) => Ok(done?),
        None => {
            let error = Error::new("somebody outside still uses the view; it ends now");
            Err(if thrown_away { error } else { error.hint("what was changed inside is in the upper directory") })
        }
    }
}
