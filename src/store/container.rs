//! Containers: an image with a writable layer, a record of what to run, and how that went.
//!
//! ```text
//! containers/ID/record.json    what it is: written once
//! containers/ID/state.json     how its last run went, if that is not in the record: see State
//! containers/ID/lock           flock(2): held by whoever runs, changes or reads the writable layer
//! containers/ID/throw-away     that, of one that goes when it ends, in which nothing is synced: a crash may spoil it
//! containers/ID/upper  work    the writable layer, in the `user.overlay.` dialect
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use oci_spec::image::Digest;
use serde::{Deserialize, Serialize};

use super::files::{Draft, random_id, read_json, rename_new, to_json, write_over};
use super::lock::{Lock, open, try_lock};
use super::{Error, ErrorKind, Result, Store};
use crate::vocab::dialect::{IMPLIED, Prefix};

/// The lock of one that is thrown away: the name is there before anything else of the container is seen.
pub(super) const THROW_AWAY: &str = "throw-away";
const LOCK: &str = "lock";
pub(super) const RECORD: &str = "record.json";
pub(super) const UPPER: &str = "upper";
pub(super) const WORK: &str = "work";

/// Where the lock of the container in `dir` is.
pub(super) fn lock_in(dir: &Path) -> PathBuf {
    let usual = dir.join(LOCK);
    let other = dir.join(THROW_AWAY);
    if !usual.exists() && other.exists() { other } else { usual }
}

/// How often to try for a lock that somebody may have for an instant, to look at it.
const LOOKS: usize = 20;

/// What a container is; never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// 64 hex digits.
    pub id: String,
    /// Unique in the store.
    pub name: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// What its image was called.
    pub image_name: String,
    /// The image id.
    pub image: Digest,
    /// The image's manifest.
    pub manifest: Digest,
    /// The diff-ids of the image, bottom first.
    pub layers: Vec<Digest>,
    /// What runs in it.
    pub process: Process,
    /// The state until there is a file for it: each file costs those who run many containers one after the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) begun: Option<State>,
}

/// What to run: the image's config with what the command line changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Process {
    /// Program and arguments: entrypoint and cmd.
    pub args: Vec<String>,
    /// `NAME=VALUE`.
    pub env: Vec<String>,
    /// `None`: `/`.
    pub workdir: Option<String>,
    /// `USER[:GROUP]`, names or numbers; `None`: root.
    pub user: Option<String>,
    /// `None`: the first 12 digits of the id.
    pub hostname: Option<String>,
    /// What the image and whoever made it say of it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The signal that asks it to end; `None`: `SIGTERM`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// How many seconds it is then given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<u64>,
    /// Options of `run` that a later start takes over: free for the runner.
    #[serde(skip_serializing_if = "serde_json::Value::is_null")]
    pub options: serde_json::Value,
}

/// How the last run of a container went: `state.json`, written by who runs it. Whether it runs now, the lock tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct State {
    /// When it was last started, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished: Option<String>,
    /// The command's exit code, 128+n for a signal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The process that ends the container when it gets a signal, while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// The process that serves its files, where that is no child of the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub supervisor: Option<i32>,
    /// The limit of memory has ended some of its processes.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub oom_killed: bool,
    /// It goes when it ends: `run --rm`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub remove: bool,
}

/// What a container is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Never started.
    Created,
    /// Somebody has its lock.
    Running,
    /// Started and ended.
    Exited,
}

/// What to make a container of.
#[derive(Clone, Debug)]
pub struct NewContainer {
    /// `None`: one is made up.
    pub name: Option<String>,
    /// What the image was called on the command line.
    pub image_name: String,
    /// The image.
    pub image: super::Image,
    /// What runs in it.
    pub process: Process,
    /// What is known from the beginning.
    pub state: State,
}

/// A container in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// What it is.
    pub record: Record,
    dir: PathBuf,
}

/// The container is this process's (and its children's) until the last copy of the descriptor is closed.
#[derive(Debug)]
pub struct Running(File);

impl Running {
    /// Nobody has it any more, whatever children have of the descriptor.
    pub(super) fn release(self) {
        if let Err(e) = self.0.unlock() {
            log::debug!("unlock: {e}");
        }
    }
}

/// The turn of whoever does something with a container in several steps.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "held, never read")] Lock);

impl Container {
    /// The writable layer.
    pub fn upper(&self) -> PathBuf {
        self.dir.join(UPPER)
    }

    /// Its work directory.
    pub fn work(&self) -> PathBuf {
        self.dir.join(WORK)
    }

    /// Its directory: for a log, and what else a run needs to keep.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The first 12 digits of its id.
    pub fn short_id(&self) -> &str {
        self.record.id.get(..12).unwrap_or(&self.record.id)
    }

    /// How its last run went.
    ///
    /// # Errors
    /// The state is there and can't be read.
    pub fn state(&self) -> Result<State> {
        match read_json(&self.dir.join("state.json")) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(self.record.begun.clone().unwrap_or_default()),
            read => read,
        }
    }

    /// What it is doing.
    ///
    /// # Errors
    /// As of [`state`](Self::state); it is gone by now.
    pub fn status(&self) -> Result<Status> {
        let path = self.lock_path();
        let file = open(&path).map_err(|e| if self.dir.is_dir() { e } else { no_container(&self.record.name) })?;
        // Shared: two who only look do not see each other.
        let runs = match file.try_lock_shared() {
            Err(std::fs::TryLockError::WouldBlock) => true,
            looked => looked.map(|()| false).map_err(|e| Error::at("lock", &path)(e.into()))?,
        };
        // The file may be another's by now, if this one is gone.
        if !self.dir.is_dir() {
            return Err(no_container(&self.record.name));
        }
        if runs {
            return Ok(Status::Running);
        }
        Ok(if self.state()?.started.is_some() { Status::Exited } else { Status::Created })
    }

    /// Takes the container to run, change or read it.
    ///
    /// # Errors
    /// Somebody has it.
    pub fn take(&self) -> Result<Running> {
        let path = self.lock_path();
        if !self.dir.is_dir() {
            return Err(no_container(&self.record.name));
        }
        let file = open(&path)?;
        for _ in 0..LOOKS {
            if try_lock(&file, &path)? {
                // Removed between being found and being locked.
                if !self.dir.join(RECORD).exists() {
                    return Err(no_container(&self.record.name));
                }
                return Ok(Running(file));
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        Err(Error::new(ErrorKind::InUse, format_args!("container {} is running or in use", self.record.name))
            .with_hint("wait until it has ended, or end it: onlay stop"))
    }

    /// Waits for those who do something with the container in several steps, and keeps them waiting until it is dropped.
    ///
    /// # Errors
    /// It is gone.
    pub fn in_turn(&self) -> Result<Turn> {
        Ok(Turn(Lock::exclusive(&self.dir)?))
    }

    fn lock_path(&self) -> PathBuf {
        lock_in(&self.dir)
    }
}

impl Store {
    /// Makes a container. The caller holds [`adding`](Self::adding), since before it looked for the image.
    ///
    /// # Errors
    /// The name is taken or makes no sense; a layer of the image is not here.
    pub fn create_container(&self, new: NewContainer) -> Result<Container> {
        if let Some(name) = &new.name {
            check_name(name)?;
        }
        let layers = self.image_layers(&new.image)?;
        let mut record = Record {
            id: random_id()?,
            name: new.name.clone().unwrap_or_default(),
            created: jiff::Timestamp::now().to_string(),
            image_name: new.image_name,
            image: new.image.id().clone(),
            manifest: new.image.digest().clone(),
            layers: new.image.diff_ids().to_vec(),
            process: new.process,
            begun: Some(new.state.clone()).filter(|state| state.remove),
        };
        let spare = new.state.remove.then(|| self.claim_spare(&record.id)).flatten();
        let draft = spare.map_or_else(|| self.empty_container(), Ok)?;
        let at = |name: &str| draft.path().join(name);
        // The root of the view is the upper's: it looks like that of the layers.
        let mode = match layers.iter().rev().find(|layer| !is_implied(&layer.tree)).or(layers.last()) {
            Some(shown) => fs::metadata(&shown.tree).map_err(Error::at("stat", &shown.tree))?.mode() & 0o7777,
            None => 0o755,
        };
        let upper = at(UPPER);
        fs::set_permissions(&upper, fs::Permissions::from_mode(mode)).map_err(Error::at("chmod", &upper))?;
        if !new.state.remove && new.state != State::default() {
            self.write_json(&at("state.json"), &new.state)?;
        }
        open(&at(if new.state.remove { THROW_AWAY } else { LOCK }))?;
        let _naming = self.naming()?;
        let others = self.containers()?;
        if let Some(other) = others.iter().find(|c| c.record.name == record.name) {
            return Err(Error::new(
                ErrorKind::Conflict,
                format_args!("container name {:?} is taken by container {}", record.name, other.short_id()),
            )
            .with_hint("choose another --name, or remove that one: onlay rm"));
        }
        let mut words = record.id.as_bytes().chunks(8);
        while record.name.is_empty() {
            let name = made_up(words.next().unwrap_or(record.id.as_bytes()));
            if !others.iter().any(|c| c.record.name == name) {
                record.name = name;
            }
        }
        let dir = self.path("containers").join(&record.id);
        if new.state.remove {
            // Nobody has seen it yet, and nothing of it need be there after a crash.
            write_over(&at(RECORD), &to_json(&record)?).map_err(Error::at("write", &at(RECORD)))?;
            rename_new(draft, &dir)?;
        } else {
            self.write_json(&at(RECORD), &record)?;
            self.publish(draft, &dir)?;
        }
        Ok(Container { record, dir })
    }

    fn empty_container(&self) -> Result<Draft> {
        let draft = Draft::from(self.temp_dir()?);
        for dir in [UPPER, WORK].map(|name| draft.path().join(name)) {
            fs::create_dir(&dir).map_err(Error::at("make", &dir))?;
        }
        Ok(draft)
    }

    /// All containers, the oldest first.
    ///
    /// # Errors
    /// The directory can't be read. A record that can't be is told about and left out.
    pub fn containers(&self) -> Result<Vec<Container>> {
        let mut found = Vec::new();
        for container in self.each_container()? {
            match container {
                Ok(container) => found.push(container),
                Err(e) => log::warn!("container {e}"),
            }
        }
        found.sort_by(|a, b| (&a.record.created, &a.record.id).cmp(&(&b.record.created, &b.record.id)));
        Ok(found)
    }

    /// All containers, also those whose record can't be read.
    pub(super) fn each_container(&self) -> Result<Vec<Result<Container>>> {
        let dir = self.path("containers");
        let mut found = Vec::new();
        for entry in fs::read_dir(&dir).map_err(Error::at("read", &dir))? {
            let dir = entry.map_err(Error::at("read", &dir))?.path();
            let read = read_json::<Record>(&dir.join(RECORD));
            let own = read.as_ref().is_ok_and(|record| dir.file_name().is_some_and(|name| name == record.id.as_str()));
            match read {
                // Removed meanwhile; so may another be that has read what comes after it.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                _ if !own && !dir.is_dir() => {}
                // Spoilt by a crash, or about to go; the next sweep takes it away.
                _ if !own && dir.join(THROW_AWAY).exists() => log::debug!("container {}: not whole", dir.display()),
                read => found.push(read.map(|record| Container { record, dir })),
            }
        }
        Ok(found)
    }

    /// The container of this name or id (any unique prefix).
    ///
    /// # Errors
    /// There is none, or several.
    pub fn container(&self, name: &str) -> Result<Container> {
        let all = self.containers()?;
        if let Some(found) = all.iter().find(|c| c.record.name == name || c.record.id == name) {
            return Ok(found.clone());
        }
        let mut found = all.into_iter().filter(|c| !name.is_empty() && c.record.id.starts_with(name));
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one),
            (None, _) => Err(no_container(name)),
            (Some(_), Some(_)) => {
                Err(Error::new(ErrorKind::Conflict, format_args!("container id {name}: several containers begin so"))
                    .with_hint("give more digits of the id: onlay ps -a"))
            }
        }
    }

    /// Writes how a run goes.
    ///
    /// # Errors
    /// The disk's.
    pub fn set_state(&self, container: &Container, state: &State) -> Result<()> {
        let _adding = self.adding()?;
        let at = container.dir.join("state.json");
        let written = if state.remove { self.write_json_unsynced(&at, state) } else { self.write_json(&at, state) };
        // On a full disk there is no room for one more; but the last one has a block of its own.
        match written {
            Err(e) if e.kind() == ErrorKind::Full && at.exists() => write_over(&at, &to_json(state)?).map_err(|_| e),
            written => written,
        }
    }

    /// Takes a container out of sight, which its user does not need any more, to remove it from where it is now: that may
    /// take a while. Should that one be killed, the next sweep does it.
    ///
    /// # Errors
    /// The disk's.
    pub fn bury_container(&self, container: &Container) -> Result<PathBuf> {
        let _adding = self.adding()?;
        let grave = self.path("tmp").join(format!("gone-{}", container.record.id));
        fs::rename(&container.dir, &grave).map_err(Error::at("remove", &container.dir))?;
        Ok(grave)
    }

    /// Removes a container and its writable layer. `running` shows that nobody else uses it.
    ///
    /// # Errors
    /// The disk's.
    pub fn remove_container(&self, container: &Container, running: Running) -> Result<()> {
        let _adding = self.adding()?;
        let removed = match container.dir.join(THROW_AWAY).exists() {
            // Should it be there again after a crash, the next sweep takes it away.
            true => self.remove_tree_unsynced(&container.dir),
            false => self.remove_tree(&container.dir),
        };
        drop(running);
        removed
    }
}

/// A layer's archive had no entry for the root: how it looks is for the layers below to say.
fn is_implied(tree: &Path) -> bool {
    let mut value = [0; 1];
    rustix::fs::getxattr(tree, Prefix::User.attr(IMPLIED), &mut value).is_ok_and(|len| value[..len] == *b"y")
}

fn no_container(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format_args!("no such container: {name}"))
        .with_hint("onlay ps -a lists those that are here")
}

fn check_name(name: &str) -> Result<()> {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if first && rest && name.len() <= 128 {
        return Ok(());
    }
    Err(Error::bad(format_args!("container name {name:?}"))
        .with_hint("letters, digits, '_', '.' and '-', the first one a letter or digit, 128 at most"))
}

const HOW: [&str; 16] = [
    "amber", "brisk", "calm", "crisp", "deft", "eager", "fair", "gentle", "keen", "light", "merry", "neat", "quick",
    "quiet", "steady", "warm",
];
const WHO: [&str; 16] = [
    "badger", "crane", "dormouse", "falcon", "finch", "heron", "ibex", "lynx", "marten", "otter", "plover", "raven",
    "stoat", "swift", "vole", "wren",
];

/// A name from some digits of an id.
fn made_up(digits: &[u8]) -> String {
    let value = |at: usize| digits.get(at).map_or(0, |d| usize::from(*d) % 16);
    let number: usize = digits.iter().skip(2).fold(0, |sum, d| (sum * 16 + usize::from(*d)) % 1000);
    format!("{}_{}{number}", HOW[value(0)], WHO[value(1)])
}
