//! A mount of a competitor, which is gone when this is dropped, with its daemon.

use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, move_mount, unmount,
};

use crate::competitor::{Competitor, Kind, initial_root};
use crate::proc::Usage;
use crate::watch::Watch;

/// How long a daemon may take to end after its mount is gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// mount(2) takes its options in one page.
const OPTIONS_MAX: usize = 4000;

/// Where to mount what.
#[derive(Debug)]
pub(crate) struct Place {
    /// The top one first.
    pub(crate) lowers: Vec<PathBuf>,
    pub(crate) upper: PathBuf,
    pub(crate) work: PathBuf,
    pub(crate) merged: PathBuf,
    /// What a daemon says.
    pub(crate) log: PathBuf,
    /// The image index of the lower layers, built by whoever wants it first.
    pub(crate) index: PathBuf,
}

/// A mount, or a copy that stands for one.
#[derive(Debug)]
pub(crate) struct Mounted<'a> {
    at: PathBuf,
    log: PathBuf,
    mounted: bool,
    daemon: Option<Child>,
    watch: &'a Watch,
    /// Time until the root could be listed.
    pub(crate) took: Duration,
}

impl Place {
    fn options(&self) -> OsString {
        let mut o = OsString::from("lowerdir=");
        for (i, lower) in self.lowers.iter().enumerate() {
            o.push(if i == 0 { "" } else { ":" });
            o.push(lower);
        }
        o.push(",upperdir=");
        o.push(&self.upper);
        o.push(",workdir=");
        o.push(&self.work);
        o
    }
}

impl Place {
    /// As unionfs-fuse has it.
    fn branches(&self) -> OsString {
        let mut o = self.upper.clone().into_os_string();
        o.push("=RW");
        for lower in &self.lowers {
            o.push(":");
            o.push(lower);
            o.push("=RO");
        }
        o
    }
}

impl<'a> Mounted<'a> {
    /// Mounts; for the native one, `merged` is a copy already.
    pub(crate) fn new(competitor: &Competitor, place: &Place, watch: &'a Watch) -> Result<Self> {
        if competitor.kind == Kind::OnlayIndex && !place.index.exists() {
            // The first mount builds the index, which an image has before it is mounted.
            Self::timed(competitor, place, watch)?.end()?;
        }
        Self::timed(competitor, place, watch)
    }

    fn timed(competitor: &Competitor, place: &Place, watch: &'a Watch) -> Result<Self> {
        let start = Instant::now();
        let mut mounted = Self {
            at: place.merged.clone(),
            log: place.log.clone(),
            mounted: false,
            daemon: None,
            watch,
            took: Duration::ZERO,
        };
        match competitor.kind {
            Kind::Native => {}
            Kind::Overlayfs | Kind::OverlayfsMetacopy => {
                mount_kernel(competitor.kind, place).context("mount")?;
                mounted.mounted = true;
            }
            _ => mounted.serve(competitor, place)?,
        }
        // Some put work off until somebody looks.
        mounted.check(fs::read_dir(&mounted.at).map(Iterator::count).context("list the root"))?;
        mounted.took = start.elapsed();
        Ok(mounted)
    }

    /// Starts a daemon in the foreground and waits until it answers.
    fn serve(&mut self, competitor: &Competitor, place: &Place) -> Result<()> {
        let before = fs::metadata(&self.at)?.dev();
        let log = File::create(&place.log)?;
        let mut cmd = Command::new(&competitor.program);
        if competitor.kind.is_onlay() {
            cmd.args(["mount", "--foreground"])
        } else {
            cmd.arg("-f")
        };
        match competitor.kind {
            Kind::Unionfs => cmd.args(["-o", "cow"]).arg(place.branches()),
            _ => cmd.arg("-o").arg(place.options()),
        };
        if competitor.kind == Kind::OnlayIndex {
            let mut index = OsString::from("image_index=");
            index.push(&place.index);
            cmd.arg("-o").arg(index);
        }
        if competitor.kind == Kind::OnlayDevice {
            cmd.args(["-o", "transport=device"]);
        }
        cmd.arg(&self.at);
        // A group of its own: Ctrl-C is for us, and we end it in order.
        cmd.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let daemon = cmd.spawn().with_context(|| format!("{cmd:?}"))?;
        self.watch.arm(daemon.id());
        let daemon = self.daemon.insert(daemon);
        self.mounted = true;
        loop {
            if fs::metadata(&place.merged).is_ok_and(|m| m.dev() != before) {
                return Ok(());
            }
            if let Some(status) = daemon.try_wait()? {
                self.watch.disarm();
                self.daemon = None;
                self.mounted = false;
                bail!("mount: {status}: {}", last_words(&place.log));
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// What the daemon has used; nothing where there is none.
    pub(crate) fn usage(&self) -> Option<Usage> {
        self.daemon.as_ref().and_then(|d| Usage::of(d.id()))
    }

    /// Says what became of the daemon where a step failed.
    pub(crate) fn check<T>(&mut self, done: Result<T>) -> Result<T> {
        let Err(e) = done else { return done };
        if self.watch.late() {
            return Err(e.context("took too long, so its daemon was ended"));
        }
        // A daemon that dies lets its requests fail a moment before it can be reaped.
        for _ in 0..20 {
            if let Some(daemon) = &mut self.daemon
                && let Some(status) = daemon.try_wait()?
            {
                self.watch.disarm();
                return Err(e.context(format!("its daemon died: {status}: {}", last_words(&self.log))));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(e)
    }

    /// Unmounts and waits for the daemon; fails where force was needed.
    pub(crate) fn end(mut self) -> Result<()> {
        self.take_down()
    }

    fn take_down(&mut self) -> Result<()> {
        let gone = if std::mem::take(&mut self.mounted) { take_away(&self.at) } else { Ok(()) };
        let Some(mut daemon) = self.daemon.take() else { return gone };
        let end = Instant::now() + PATIENCE;
        while gone.is_ok() && Instant::now() < end {
            if ended(&daemon)? {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.watch.disarm();
        if daemon.try_wait()?.is_none() {
            daemon.kill().context("kill")?;
            daemon.wait().context("wait")?;
            gone?;
            bail!("its daemon did not end after the unmount and was killed");
        }
        gone
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        if let Err(e) = self.take_down() {
            eprintln!("{}: {e:#}", self.at.display());
        }
    }
}

/// Whether a child has ended; it stays to be reaped, so that its number is not given to another.
fn ended(child: &Child) -> Result<bool> {
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
    let pid = Pid::from_raw(child.id().cast_signed()).context("pid")?;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    // An error: it was reaped before.
    Ok(!matches!(waitid(WaitId::Pid(pid), options), Ok(None)))
}

fn take_away(at: &Path) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        match unmount(at, UnmountFlags::NOFOLLOW) {
            // The last close of a file may still be under way.
            Err(Errno::BUSY) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
            Err(Errno::BUSY) => {
                unmount(at, UnmountFlags::DETACH).context("detach")?;
                bail!("unmount: in use");
            }
            Err(Errno::PERM) => {
                let status = Command::new("fusermount3").args(["-u", "-z", "--"]).arg(at).status()?;
                ensure!(status.success(), "fusermount3: {status}");
                return Ok(());
            }
            // It was never made, or its daemon has taken it along.
            Err(Errno::INVAL) => return Ok(()),
            other => return other.context("unmount"),
        }
    }
}

fn mount_kernel(kind: Kind, place: &Place) -> Result<()> {
    let mut flags = Vec::new();
    if kind == Kind::OverlayfsMetacopy {
        flags.extend(["metacopy=on", "redirect_dir=on"]);
    }
    if !initial_root() {
        flags.push("userxattr");
    }
    let mut options = place.options();
    for flag in &flags {
        options.push(",");
        options.push(flag);
    }
    if options.len() < OPTIONS_MAX {
        let options = CString::new(options.as_bytes())?;
        return Ok(mount("overlay", &place.merged, "overlay", MountFlags::empty(), Some(options.as_c_str()))?);
    }
    // Linux 6.5 and later take layers one by one.
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for lower in &place.lowers {
        fsconfig_set_string(&fs, "lowerdir+", lower).context("lowerdir+")?;
    }
    fsconfig_set_string(&fs, "upperdir", &place.upper)?;
    fsconfig_set_string(&fs, "workdir", &place.work)?;
    for flag in flags {
        match flag.split_once('=') {
            Some((name, value)) => fsconfig_set_string(&fs, name, value)?,
            None => fsconfig_set_flag(&fs, flag)?,
        }
    }
    fsconfig_create(&fs)?;
    let made = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    Ok(move_mount(&made, "", rustix::fs::CWD, &place.merged, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// The end of what a daemon said, in one line.
fn last_words(log: &Path) -> String {
    let said = fs::read(log).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let last: Vec<&str> = said.lines().rev().filter(|l| !l.trim().is_empty()).take(2).collect();
    last.into_iter().rev().collect::<Vec<_>>().join(" / ")
}
