//! What a case works with: fresh layers, a mount of them, and a strict look around afterwards.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::case::{Fs, User};
use crate::manifest::{Manifest, What};
use crate::tree::Tree;

/// How long a daemon may take to go once its mount is gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// A case's surroundings.
#[derive(Debug)]
pub(crate) struct Ctx {
    pub(crate) fs: Fs,
    pub(crate) user: User,
    /// A directory of the case's own, empty at first.
    pub(crate) dir: Tree,
    /// The writable layer.
    pub(crate) upper: Tree,
    /// Its work directory.
    pub(crate) work: Tree,
    /// The merged view.
    pub(crate) m: Tree,
    lowers: Vec<Tree>,
    before: OnceLock<Vec<Manifest>>,
    mounted: bool,
    onlay: PathBuf,
    /// What onlay is mounted with.
    options: Option<String>,
}

/// What a command said, and how it ended.
#[derive(Debug)]
pub(crate) struct Out {
    /// Exit code; 128 + n for signal n.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Out {
    /// Fails unless the command exited with 0.
    pub(crate) fn ok(self) -> Result<Self> {
        ensure!(self.code == 0, "exit {}: {}{}", self.code, self.stdout, self.stderr);
        Ok(self)
    }

    /// Runs a command, nothing on its stdin, to its end and that of everything that holds its stdout or stderr.
    pub(crate) fn of(cmd: &mut Command) -> Result<Self> {
        let out = cmd.stdin(Stdio::null()).output().with_context(|| format!("{cmd:?}"))?;
        Ok(Self {
            code: out.status.code().or(out.status.signal().map(|s| 128 + s)).unwrap_or(-1),
            stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        })
    }
}

impl Ctx {
    /// Surroundings in `dir`, which is empty.
    pub(crate) fn new(fs: Fs, user: User, dir: &Path, onlay: PathBuf) -> Result<Self> {
        let dir = Tree(dir.to_path_buf());
        for d in ["upper", "work", "mnt"] {
            dir.dir(d)?;
        }
        Ok(Self {
            fs,
            user,
            upper: Tree(dir.p("upper")),
            work: Tree(dir.p("work")),
            m: Tree(dir.p("mnt")),
            dir,
            lowers: Vec::new(),
            before: OnceLock::new(),
            mounted: false,
            onlay,
            options: None,
        })
    }

    /// The same, where onlay is mounted with these options.
    pub(crate) fn with_options(self, options: Option<String>) -> Self {
        Self { options, ..self }
    }

    /// One more option for onlay's mounts of this case.
    pub(crate) fn ask_for(&mut self, option: &str) {
        self.options = Some(self.options.iter().map(String::as_str).chain([option]).collect::<Vec<_>>().join(","));
    }

    /// Whether the crate fuser carries the requests, which does not know all of them.
    pub(crate) fn carried_by_fuser(&self) -> bool {
        let by = |o: &String| o.split(',').any(|o| o == "transport=fuser");
        self.fs == Fs::Onlay && self.options.as_ref().is_some_and(by)
    }

    /// Whether the case may change owners.
    pub(crate) fn privileged(&self) -> bool {
        matches!(self.user, User::Root | User::Userns)
    }

    /// `trusted.overlay.` or `user.overlay.`: where the union keeps its own attributes for this user.
    pub(crate) fn prefix(&self) -> &'static str {
        if self.user == User::Root { "trusted.overlay." } else { "user.overlay." }
    }

    /// One more lower layer, below those there are.
    pub(crate) fn lower(&mut self) -> Result<Tree> {
        let name = format!("lower{}", self.lowers.len());
        self.dir.dir(&name)?;
        let tree = Tree(self.dir.p(&name));
        self.lowers.push(tree.clone());
        Ok(tree)
    }

    /// Mounts the layers; the lowers are on record from now on.
    pub(crate) fn mount(&mut self) -> Result<Tree> {
        if self.lowers.is_empty() {
            self.lower()?;
        }
        let first = self.before.get().is_none();
        self.record_lowers()?;
        if first && self.fs == Fs::Plain {
            for lower in self.lowers.iter().rev() {
                let mut src = lower.0.clone().into_os_string();
                src.push("/.");
                Out::of(Command::new("cp").arg("-a").arg(src).arg(&self.m.0))?.ok().context("copy")?;
            }
        }
        match self.fs {
            Fs::Plain => {}
            Fs::Overlayfs => {
                let marks = if self.user == User::Root { "index=on,metacopy=on,redirect_dir=on" } else { "userxattr" };
                self.mount_kernel(&self.m.0, marks)?;
            }
            Fs::Onlay => {
                self.onlay(&self.mount_args()?)?.ok().context("onlay mount")?;
            }
        }
        self.mounted = self.fs != Fs::Plain;
        Ok(self.m.clone())
    }

    /// The command line of `onlay mount` for this case; the lowers are on record from now on.
    pub(crate) fn mount_args(&self) -> Result<Vec<String>> {
        self.record_lowers()?;
        let text = |p: &Path| p.display().to_string();
        let mut args = vec!["mount".to_owned()];
        for lower in &self.lowers {
            args.extend(["--lower".to_owned(), text(&lower.0)]);
        }
        args.extend(["--upper".to_owned(), text(&self.upper.0), "--work".to_owned(), text(&self.work.0)]);
        args.extend(self.options.iter().flat_map(|o| ["-o".to_owned(), o.clone()]));
        args.push(text(&self.m.0));
        Ok(args)
    }

    /// Mounts the kernel's union of the case's layers, with more options.
    pub(crate) fn mount_kernel(&self, at: &Path, more: &str) -> Result<()> {
        let lowers = self.lowers.iter().map(|l| l.0.display().to_string()).collect::<Vec<_>>().join(":");
        let (upper, work) = (self.upper.0.display(), self.work.0.display());
        let data = format!("lowerdir={lowers},upperdir={upper},workdir={work},{more}");
        let end = Instant::now() + PATIENCE;
        loop {
            match mount(Some("overlay"), at, Some("overlay"), MsFlags::empty(), Some(data.as_str())) {
                // The last mount of this upper takes a moment to go where a namespace was just copied.
                Err(nix::Error::EBUSY) if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
                other => return other.with_context(|| format!("mount -t overlay -o {data}")),
            }
        }
    }

    /// Unmounts; nothing may be open in the view.
    pub(crate) fn umount(&mut self) -> Result<()> {
        if !self.mounted {
            return Ok(());
        }
        match self.fs {
            Fs::Plain => {}
            Fs::Overlayfs => umount2(&self.m.0, MntFlags::empty()).context("umount")?,
            Fs::Onlay => {
                self.onlay(&["umount", &self.m.0.display().to_string()])?.ok().context("onlay umount")?;
            }
        }
        self.mounted = false;
        Ok(())
    }

    /// The mount is no longer this case's to unmount at the end.
    pub(crate) fn forget_mount(&mut self) {
        self.mounted = false;
    }

    /// Unmounts and mounts again.
    pub(crate) fn remount(&mut self) -> Result<Tree> {
        self.umount()?;
        self.wait_for_daemons()?;
        self.mount()
    }

    /// Where the onlay binary is.
    pub(crate) fn binary(&self) -> &Path {
        &self.onlay
    }

    /// Runs onlay.
    pub(crate) fn onlay<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Result<Out> {
        Out::of(Command::new(&self.onlay).args(args).current_dir("/"))
    }

    /// The lowers are nothing that a manifest can be made of: the case looks after them itself.
    pub(crate) fn forget_lowers(&mut self) {
        self.before = OnceLock::from(Vec::new());
    }

    /// The lowers as they are have to stay so, if nothing is on record yet: for a case that mounts them by itself.
    pub(crate) fn record_lowers(&self) -> Result<()> {
        if self.before.get().is_none() {
            let all = self.lowers.iter().map(|l| Manifest::of(&l.0, What::DISK)).collect::<Result<_>>()?;
            self.before.get_or_init(|| all);
        }
        Ok(())
    }

    /// Fails if a lower layer is not what it was at the first mount.
    pub(crate) fn lowers_unchanged(&self) -> Result<()> {
        let before = self.before.get();
        ensure!(before.is_some() || self.lowers.is_empty(), "there are lower layers, and none is on record");
        for (before, lower) in before.into_iter().flatten().zip(&self.lowers) {
            let after = Manifest::of(&lower.0, What::DISK)?;
            before.check(&after, &format!("{} was changed", lower.0.display()))?;
        }
        Ok(())
    }

    /// Waits until no process serves anything of this case.
    pub(crate) fn wait_for_daemons(&self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = daemons(&self.dir.0)?;
            if left.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < end, "still running: {left:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The look around after a case.
    pub(crate) fn finish(&mut self) -> Result<()> {
        let unmounted = self.umount();
        if unmounted.is_err() {
            detach_below(&self.dir.0)?;
        }
        unmounted?;
        let left = mounts_below(&self.dir.0)?;
        detach_below(&self.dir.0)?;
        ensure!(left.is_empty(), "still mounted: {left:?}");
        self.wait_for_daemons()?;
        self.lowers_unchanged()?;
        if self.fs == Fs::Onlay && self.work.has("work")? {
            leftovers(&self.work.p("work"))?;
        }
        Ok(())
    }
}

/// The whiteout that others are hard links of may stay; nothing else.
fn leftovers(work: &Path) -> Result<()> {
    for entry in fs::read_dir(work)? {
        let entry = entry?;
        if !entry.file_type()?.is_char_device() {
            bail!("left over in the work directory: {}", entry.path().display());
        }
    }
    Ok(())
}

/// Mount points at or below `dir`, the newest first.
pub(crate) fn mounts_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = fs::read_to_string("/proc/self/mountinfo")?
        .lines()
        .filter_map(|l| l.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|p| p.starts_with(dir))
        .collect();
    found.reverse();
    Ok(found)
}

/// Takes away whatever is mounted at or below `dir`.
pub(crate) fn detach_below(dir: &Path) -> Result<()> {
    for at in mounts_below(dir)? {
        if umount2(&at, MntFlags::MNT_DETACH).is_err() {
            Out::of(Command::new("fusermount3").arg("-uz").arg(&at))?;
        }
    }
    Ok(())
}

/// Processes of the onlay binary whose command line names something in `dir`.
pub(crate) fn daemons(dir: &Path) -> Result<Vec<(i32, String)>> {
    // Not case1 in case10.
    let needle = format!("{}/", dir.display());
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|s| s.parse::<i32>().ok()) else { continue };
        // A process may go while we look.
        let Ok(cmdline) = fs::read(entry.path().join("cmdline")) else { continue };
        let cmdline = String::from_utf8_lossy(&cmdline).replace('\0', " ");
        let program = cmdline.split(' ').next().unwrap_or_default();
        if (program.ends_with("onlay") || program.ends_with("fuse-overlayfs")) && cmdline.contains(&needle) {
            found.push((pid, cmdline));
        }
    }
    Ok(found)
}
