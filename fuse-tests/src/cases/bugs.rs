//! What other implementations of `fuse-overlayfs` were seen to do wrong, each on its own. `FUSE_OVERLAYFS=PATH` runs the
//! same on that program instead of ours: so the table in docs/drop-in.md was made (`--fs onlay --user root`).

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MntFlags, umount2};
use rustix::fs::{CWD, FileType, Mode, RenameFlags, SeekFrom};

use crate::case::{Case, User};
use crate::ctx::{Ctx, Out, detach_below, mounts_below};
use crate::tree::{Tree, holds, raw_entries, same};

const BOTH: &[User] = &[User::Root, User::Userns];

macro_rules! bugs {
    ($($f:ident),* $(,)?) => {
        /// The cases of this file.
        pub(crate) const CASES: &[Case] = &[
            $(Case::new(concat!("bugs::", stringify!($f)), |cx| on_program(cx, $f)).onlay().by(BOTH)),*
        ];
    };
}

bugs! {
    replaced_directory, quick_remounts, hard_links_below, opaque_directory, dots_at_the_root, writer_beside_reader,
    dated_before_1970, umask, mode_of_nodes, unlinked_while_open, renamed_over_while_open, leftovers_in_work, long_names,
    exchange, rewinddir, mapped_writes, setgid_directory, default_acl, setuid_goes, name_like_a_whiteout,
}

/// A mount by the program in question.
struct Program {
    path: PathBuf,
    options: String,
    base: Tree,
    l: Tree,
    upper: Tree,
    m: Tree,
}

/// Runs one and takes its mount away, however it ended.
fn on_program(cx: &mut Ctx, run: fn(&Program) -> Result<()>) -> Result<()> {
    let path = match std::env::var_os("FUSE_OVERLAYFS") {
        Some(other) => PathBuf::from(other),
        None => {
            cx.dir.dir("bin")?;
            std::os::unix::fs::symlink(cx.binary(), cx.dir.p("bin/fuse-overlayfs"))?;
            cx.dir.p("bin/fuse-overlayfs")
        }
    };
    let base = Tree(cx.dir.p("b"));
    base.dir("l")?.dir("u")?.dir("w")?.dir("m")?;
    let p = |name: &str| base.p(name).display().to_string();
    let options = format!("lowerdir={},upperdir={},workdir={}", p("l"), p("u"), p("w"));
    let tree = |name: &str| Tree(base.p(name));
    let program = Program { path, options, l: tree("l"), upper: tree("u"), m: tree("m"), base };
    let ran = run(&program);
    detach_below(&cx.dir.0)?;
    program.gone()?;
    ran
}

impl Program {
    fn mount(&self) -> Result<&Tree> {
        Out::of(Command::new(&self.path).args(["-o", &self.options]).arg(&self.m.0).current_dir("/"))?.ok()?;
        Ok(&self.m)
    }

    fn umount(&self) -> Result<()> {
        umount2(&self.m.0, MntFlags::empty()).context("umount")?;
        self.gone()
    }

    fn remount(&self) -> Result<&Tree> {
        self.umount()?;
        self.mount()
    }

    /// Waits until no process has this mount in its command line.
    fn gone(&self) -> Result<()> {
        let needle = self.options.as_bytes();
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let serving = fs::read_dir("/proc")?.filter_map(Result::ok).any(|p| {
                // A process may go while we look.
                let cmdline = fs::read(p.path().join("cmdline")).unwrap_or_default();
                cmdline.split(|b| *b == 0).any(|word| word == needle)
            });
            if !serving {
                return Ok(());
            }
            ensure!(Instant::now() < end, "its process is still there");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn replaced_directory(p: &Program) -> Result<()> {
    p.l.file("d/old", "")?.file("d/sub/old", "")?;
    let m = p.mount()?;
    fs::remove_dir_all(m.p("d"))?;
    m.dir("d")?.file("d/new", "")?;
    same!(m.ls("d")?, "new");
    same!(p.remount()?.ls("d")?, "new");
    Ok(())
}

/// The same path is mounted again before the last daemon has gone.
fn quick_remounts(p: &Program) -> Result<()> {
    p.l.file("f", "x")?;
    for i in 0..60 {
        let m = p.mount()?;
        same!(m.read("f").with_context(|| format!("mount {i}"))?, "x");
        umount2(&m.0, MntFlags::empty()).with_context(|| format!("mount {i} went by itself"))?;
    }
    holds!(mounts_below(&p.base.0)?.is_empty());
    Ok(())
}

fn hard_links_below(p: &Program) -> Result<()> {
    p.l.file("a", "x")?.hard("a", "b")?;
    let m = p.mount()?;
    let (a, b) = (m.stat("a")?, m.stat("b")?);
    same!((a.ino() == b.ino(), a.nlink(), b.nlink()), (true, 2, 2));
    m.append("a", "+")?;
    same!(m.read("b")?, "x+");
    Ok(())
}

fn opaque_directory(p: &Program) -> Result<()> {
    p.l.file("d/below", "")?;
    p.upper.file("d/top", "")?;
    for attr in ["trusted.overlay.opaque", "user.overlay.opaque", "user.fuseoverlayfs.opaque"] {
        // Whichever this user may write; each program knows one of them.
        let set = rustix::fs::lsetxattr(p.upper.p("d"), attr, b"y", rustix::fs::XattrFlags::empty());
        if set.is_err() {
            continue;
        }
    }
    let m = p.mount()?;
    holds!(fs::symlink_metadata(m.p("d/below")).is_err(), "it is found by name");
    same!(m.ls("d")?, "top");
    Ok(())
}

fn dots_at_the_root(p: &Program) -> Result<()> {
    p.l.dir("d")?;
    let m = p.mount()?;
    for name in ["", "d"] {
        let entries = raw_entries(&File::open(m.p(name))?)?;
        let dots = entries.iter().filter(|e| e.name == "." || e.name == "..").count();
        same!((name, dots), (name, 2));
    }
    Ok(())
}

fn writer_beside_reader(p: &Program) -> Result<()> {
    p.l.file("f", "ZZAA")?;
    let m = p.mount()?;
    let mut reader = m.ro("f")?;
    let mut text = String::new();
    reader.read_to_string(&mut text)?;
    m.rw("f")?.write_all_at(b"AAAA", 0)?;
    same!((p.l.read("f")?, m.read("f")?), ("ZZAA".to_owned(), "AAAA".to_owned()));
    p.umount().or_else(|_| umount2(&m.0, MntFlags::MNT_DETACH).context("umount"))?;
    drop(reader);
    p.gone()?;
    same!((p.l.read("f")?, p.upper.read("f")?), ("ZZAA".to_owned(), "AAAA".to_owned()));
    Ok(())
}

fn dated_before_1970(p: &Program) -> Result<()> {
    p.l.file("f", "x")?.times("f", -86_400, 250_000_000)?;
    let m = p.mount()?;
    same!((m.stat("f")?.mtime(), m.stat("f")?.mtime_nsec()), (-86_400, 250_000_000));
    m.file("g", "")?.times("g", -1, 0)?;
    same!((m.stat("g")?.mtime(), m.read("f")?), (-1, "x".to_owned()));
    Ok(())
}

fn umask(p: &Program) -> Result<()> {
    let m = p.mount()?;
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let made = m.file("f", "").and_then(|m| m.dir("d")).map(drop);
    nix::sys::stat::umask(before);
    made?;
    same!((m.bits("f")?, m.bits("d")?), (0o600, 0o700));
    Ok(())
}

fn mode_of_nodes(p: &Program) -> Result<()> {
    let m = p.mount()?;
    for (name, kind) in [("f", FileType::RegularFile), ("fifo", FileType::Fifo), ("socket", FileType::Socket)] {
        m.node(name, kind, 0o640, 0)?;
        same!((name, m.bits(name)?), (name, 0o640));
    }
    Ok(())
}

/// What an open file that lost its name must still do.
fn still_works(file: &File) -> Result<()> {
    same!(file.metadata().context("fstat")?.nlink(), 0);
    file.set_len(2).context("ftruncate")?;
    file.set_permissions(fs::Permissions::from_mode(0o600)).context("fchmod")?;
    let st = file.metadata().context("fstat")?;
    same!((st.len(), st.mode() & 0o7777), (2, 0o600));
    let again = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).context("/proc/self/fd")?;
    same!(again.metadata()?.len(), 2);
    Ok(())
}

fn unlinked_while_open(p: &Program) -> Result<()> {
    p.l.file("below", "text")?;
    let m = p.mount()?;
    m.file("made", "text")?;
    for name in ["made", "below"] {
        let file = m.rw(name)?;
        file.write_all_at(b"T", 0)?;
        m.rm(name)?;
        still_works(&file).context(name)?;
    }
    Ok(())
}

fn renamed_over_while_open(p: &Program) -> Result<()> {
    let m = p.mount()?;
    m.file("a", "text")?.file("b", "other")?;
    let file = m.rw("a")?;
    m.mv("b", "a")?;
    still_works(&file)?;
    same!(m.read("a")?, "other");
    Ok(())
}

fn leftovers_in_work(p: &Program) -> Result<()> {
    p.l.file("f", "x")?.file("d/g", "")?;
    let w = Tree(p.base.p("w"));
    for i in 0..50 {
        w.file(&format!("work/{i}"), "junk")?.file(&format!("work/#{i:x}"), "junk")?.file(&format!("{i}"), "junk")?;
        w.file(&format!("{}/x", 50 + i), "junk")?;
    }
    let m = p.mount()?;
    for i in 0..20 {
        m.file(&format!("n{i}"), "")?.dir(&format!("d{i}"))?;
    }
    m.append("f", "+")?.rm("d/g")?.rm("f")?.file("f", "new")?;
    fs::remove_dir_all(m.p("d"))?;
    m.dir("d")?;
    same!((m.read("f")?, p.remount()?.ls("d")?), ("new".to_owned(), String::new()));
    Ok(())
}

fn long_names(p: &Program) -> Result<()> {
    let lengths = 251..=255;
    for n in lengths.clone() {
        p.l.file(&"l".repeat(n), "below")?;
    }
    let m = p.mount()?;
    for n in lengths {
        let (below, made) = ("l".repeat(n), "m".repeat(n));
        same!(m.read(&below).with_context(|| format!("{n} bytes"))?, "below");
        m.file(&made, "made").with_context(|| format!("{n} bytes"))?.append(&below, "+")?.rm(&below)?.rm(&made)?;
    }
    same!(p.remount()?.ls("")?, "");
    Ok(())
}

fn exchange(p: &Program) -> Result<()> {
    p.l.file("below", "below")?;
    let m = p.mount()?;
    m.file("made", "made")?;
    rustix::fs::renameat_with(CWD, m.p("below"), CWD, m.p("made"), RenameFlags::EXCHANGE)?;
    same!((m.read("below")?, m.read("made")?), ("made".to_owned(), "below".to_owned()));
    let m = p.remount()?;
    same!((m.read("below")?, m.read("made")?), ("made".to_owned(), "below".to_owned()));
    Ok(())
}

fn rewinddir(p: &Program) -> Result<()> {
    p.l.file("d/a", "")?;
    let m = p.mount()?;
    let dir = File::open(m.p("d"))?;
    same!(raw_entries(&dir)?.len(), 3);
    m.file("d/b", "")?;
    rustix::fs::seek(&dir, SeekFrom::Start(0))?;
    same!(raw_entries(&dir)?.len(), 4);
    Ok(())
}

fn mapped_writes(p: &Program) -> Result<()> {
    let m = p.mount()?;
    m.file("f", "text")?.times("f", 1000, 0)?;
    let file = m.rw("f")?;
    let map = crate::sys::Map::shared(&file, 4, true)?;
    map.write(0, b"T")?;
    map.sync()?;
    holds!(m.stat("f")?.mtime() > 1000);
    Ok(())
}

fn setgid_directory(p: &Program) -> Result<()> {
    p.l.dir("d")?.owner("d", 0, 7)?.mode("d", 0o2775)?;
    let m = p.mount()?;
    m.file("d/f", "")?.dir("d/e")?;
    same!((m.stat("d/f")?.gid(), m.stat("d/e")?.gid(), m.bits("d/e")? & 0o2000), (7, 7, 0o2000));
    Ok(())
}

fn default_acl(p: &Program) -> Result<()> {
    let bytes = |tag: u16, perm: u16, id: u32| [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat();
    let all = [(1, 7, u32::MAX), (2, 6, 5), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 0, u32::MAX)];
    let acl = all.iter().fold(2u32.to_le_bytes().to_vec(), |acl, (t, p, i)| [acl, bytes(*t, *p, *i)].concat());
    p.l.dir("d")?.setx("d", "system.posix_acl_default", &acl)?;
    let m = p.mount()?;
    m.file("d/f", "")?;
    let inherited = m.getx("d/f", "system.posix_acl_access")?.context("no ACL")?;
    holds!(inherited.windows(8).any(|e| e == bytes(2, 6, 5)), "{inherited:?}");
    same!(m.bits("d/f")? & 0o007, 0);
    Ok(())
}

/// By a writer who is not privileged.
fn setuid_goes(p: &Program) -> Result<()> {
    p.l.file("f", "x")?.mode("f", 0o4777)?;
    let at = p.mount()?.clone();
    crate::sys::as_ids(1000, 1000, &[], || {
        let mut file = OpenOptions::new().write(true).custom_flags(libc::O_CLOEXEC).open(at.p("f"))?;
        file.seek(std::io::SeekFrom::Start(0))?;
        Ok(file.write_all(b"y")?)
    })?;
    same!(p.m.bits("f")?, 0o777);
    Ok(())
}

fn name_like_a_whiteout(p: &Program) -> Result<()> {
    let m = p.mount()?;
    m.file(".wh.x", "text")?.dir(".wh.d")?;
    rustix::fs::mkdirat(CWD, m.p(".wh.e"), Mode::from_raw_mode(0o755))?;
    same!((m.read(".wh.x")?, m.ls("")?), ("text".to_owned(), ".wh.d .wh.e .wh.x".to_owned()));
    Ok(())
}
