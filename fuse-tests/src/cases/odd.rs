//! Sizes, depths and numbers that are seldom met.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, SeekFrom, mkdirat, openat, renameat, seek, unlinkat};

use crate::case::{User, skip};
use crate::ctx::{Ctx, Out};
use crate::tree::{Tree, cases, fails, holds, raw_entries, same};

cases!("odd":
    tebibyte_of_nothing.onlay(), tebibyte_on_xfs.onlay().by(ROOT),
    tebibyte_on_tmpfs.onlay().by(ROOT), names_of_any_bytes, xattrs_at_the_limit, times_of_all_ages,
    five_hundred_layers.onlay().by(&[User::Root, User::Ordinary]), renamed_in_every_layer.onlay().by(ROOT),
    beyond_path_max.union().kernel_deviates_rootless("EXDEV for a directory of a lower"), inotify_sees_writer.kernel_deviates("a watch from before the copy-up stays on the lower file"),
    direct_io, appends_of_two_processes, git_clean, tar_while_it_changes,
    find_and_rm_while_it_changes,
);

const ROOT: &[User] = &[User::Root];
const TIB: u64 = 1 << 40;

fn hollow(t: &Tree, name: &str) -> Result<()> {
    t.file(name, "")?;
    let f = t.rw(name)?;
    f.set_len(TIB)?;
    f.write_all_at(b"middle", TIB / 2)?;
    Ok(f.sync_all()?)
}

/// Copied up with its data, in no time, and still hollow.
fn copies_hollow(m: &Tree) -> Result<()> {
    let start = Instant::now();
    m.rw("f")?.write_all_at(b"end", TIB - 3)?;
    holds!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let st = m.stat("f")?;
    holds!(st.size() == TIB && st.blocks() < 4096, "{} bytes in {} blocks", st.size(), st.blocks());
    let f = m.ro("f")?;
    let data = seek(&f, SeekFrom::Data(0))?;
    holds!((TIB / 2 - (1 << 21)..=TIB / 2).contains(&data), "data at {data}");
    let mut buf = [0; 6];
    f.read_exact_at(&mut buf, TIB / 2)?;
    same!(&buf, b"middle");
    Ok(())
}

fn tebibyte_of_nothing(cx: &mut Ctx) -> Result<()> {
    hollow(&cx.lower()?, "f")?;
    let m = cx.mount()?;
    copies_hollow(&m)
}

/// The layers on a file system of their own.
fn on(cx: &mut Ctx, prepare: &str) -> Result<()> {
    cx.dir.dir("fs")?;
    let script = format!("cd {}; {prepare}", cx.dir.0.display());
    let out = Out::of(Command::new("sh").args(["-ec", &script]))?;
    if out.code != 0 {
        return Err(skip(format!("{prepare}: {}{}", out.stdout, out.stderr)));
    }
    let fs = Tree(cx.dir.p("fs"));
    let done = (|| {
        fs.dir("low")?.dir("up")?.dir("work")?;
        hollow(&Tree(fs.p("low")), "f")?;
        let p = |n: &str| fs.p(n).display().to_string();
        let options = format!("lowerdir={},upperdir={},workdir={}", p("low"), p("up"), p("work"));
        let at = cx.m.0.display().to_string();
        cx.onlay(&["mount", "-o", &options, &at])?.ok()?;
        let copied = copies_hollow(&cx.m);
        cx.onlay(&["umount", &at])?.ok()?;
        cx.wait_for_daemons()?;
        holds!(fs.stat("up/f")?.blocks() < 4096, "{} blocks", fs.stat("up/f")?.blocks());
        copied
    })();
    nix::mount::umount2(&fs.0, nix::mount::MntFlags::MNT_DETACH)?;
    done
}

fn tebibyte_on_xfs(cx: &mut Ctx) -> Result<()> {
    on(cx, "truncate -s 400M img; mkfs.xfs -q img; mount -o loop img fs")
}

fn tebibyte_on_tmpfs(cx: &mut Ctx) -> Result<()> {
    on(cx, "mount -t tmpfs none fs")
}

fn names_of_any_bytes(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    // All 254 possible bytes, in names of 255.
    let bytes: Vec<u8> = (1..=255).filter(|b| *b != b'/').collect();
    let names: Vec<Vec<u8>> = bytes.iter().map(|b| [&[*b][..], &bytes].concat()).collect();
    for name in &names {
        std::fs::write(low.p(OsStr::from_bytes(name)), name)?;
    }
    let m = cx.mount()?;
    for (i, name) in names.iter().enumerate() {
        let path = m.p(OsStr::from_bytes(name));
        match i % 4 {
            0 => std::fs::OpenOptions::new().append(true).open(&path)?.write_all(b"+")?,
            1 => std::fs::remove_file(&path)?,
            2 => {
                let mut other = name.clone();
                other.reverse();
                std::fs::rename(&path, m.p(OsStr::from_bytes(&other)))?;
            }
            _ => {}
        }
    }
    let m = cx.remount()?;
    let mut want: Vec<Vec<u8>> = Vec::new();
    for (i, name) in names.iter().enumerate() {
        let mut name = name.clone();
        match i % 4 {
            1 => continue,
            2 => name.reverse(),
            _ => {}
        }
        holds!(std::fs::read(m.p(OsStr::from_bytes(&name)))?.len() == 255 + usize::from(i % 4 == 0));
        want.push(name);
    }
    let mut got: Vec<Vec<u8>> = Vec::new();
    for entry in std::fs::read_dir(&m.0)? {
        got.push(entry?.file_name().as_bytes().to_vec());
    }
    got.sort();
    want.sort();
    holds!(got == want, "{} names, want {}", got.len(), want.len());
    Ok(())
}

fn xattrs_at_the_limit(cx: &mut Ctx) -> Result<()> {
    use rustix::fs::{XattrFlags, setxattr};
    let low = cx.lower()?;
    low.file("full", "x")?.file("plain", "x")?;
    // As much as the file system below takes; names of 255 bytes.
    let name = format!("user.{}", "n".repeat(250));
    let most = |path: &std::path::Path| -> u32 {
        let fits = |n: u32| setxattr(path, &*name, &vec![7; n as usize], XattrFlags::empty()).is_ok();
        let (mut low, mut high) = (0_u32, 65_537_u32);
        while high - low > 1 {
            let mid = low.midpoint(high);
            if fits(mid) { low = mid } else { high = mid }
        }
        low
    };
    let limit = most(&low.p("plain"));
    holds!(limit > 1000, "{limit}");
    // Marks need some room beside it.
    let value = vec![9; (limit as usize).saturating_sub(600)];
    low.setx("full", &name, &value)?;
    rustix::fs::removexattr(low.p("plain"), &*name)?;
    let m = cx.mount()?;
    m.append("full", "+")?;
    same!(m.getx("full", &name)?, Some(value.clone()));
    let here = most(&m.p("plain"));
    holds!(here + 600 >= limit, "{here} bytes in the view, {limit} below");
    fails!(setxattr(m.p("plain"), &*name, &vec![1; 65_537], XattrFlags::empty()), E2BIG | ENOSPC | ERANGE);
    fails!(setxattr(m.p("plain"), format!("user.{}", "n".repeat(251)), b"", XattrFlags::empty()), ERANGE);
    same!(cx.remount()?.getx("full", &name)?, Some(value));
    Ok(())
}

fn times_of_all_ages(cx: &mut Ctx) -> Result<()> {
    // About ext4's first and last second, past 32 bits of both signs.
    let ages = [-2_147_483_647, -1, 0, 2_147_483_648, 4_294_967_296, 4_354_819_200, 15_032_385_534];
    let low = cx.lower()?;
    for (i, t) in ages.iter().enumerate() {
        let (f, d) = (format!("f{i}"), format!("d{i}"));
        low.file(&f, "x")?.times(&f, *t, 999_999_999)?.dir(&d)?.times(&d, *t, 1)?;
        // What the file system below can't hold is not ours to hold.
        if low.stat(&f)?.mtime() != *t {
            return Err(skip(format!("no times such as {t} on the file system below")));
        }
    }
    let m = cx.mount()?;
    for (i, t) in ages.iter().enumerate() {
        let (f, d, n) = (format!("f{i}"), format!("d{i}"), format!("n{i}"));
        same!((m.stat(&f)?.mtime(), m.stat(&d)?.mtime(), m.stat(&f)?.mtime_nsec()), (*t, *t, 999_999_999));
        m.mode(&f, 0o600)?.mode(&d, 0o700)?.file(&n, "")?.times(&n, *t, 5)?;
    }
    let m = cx.remount()?;
    for (i, t) in ages.iter().enumerate() {
        for (n, nsec) in [(format!("f{i}"), 999_999_999), (format!("d{i}"), 1), (format!("n{i}"), 5)] {
            let st = m.stat(&n)?;
            same!((&n, st.mtime(), st.mtime_nsec()), (&n, *t, nsec));
        }
    }
    Ok(())
}

fn five_hundred_layers(cx: &mut Ctx) -> Result<()> {
    for i in 0..500 {
        cx.lower()?.file(&format!("d/f{i}"), i.to_string())?.file("d/top", i.to_string())?;
    }
    let check = |m: &Tree| -> Result<()> {
        same!(m.read("d/top")?, "0");
        same!(std::fs::read_dir(m.p("d"))?.count(), 501);
        for i in [0, 1, 250, 499] {
            same!(m.read(&format!("d/f{i}"))?, i.to_string());
        }
        Ok(())
    };
    let m = cx.mount()?;
    check(&m)?;
    m.append("d/f499", "+")?.rm("d/f0")?.mv("d", "e")?;
    let m = cx.remount()?;
    same!((m.read("e/f499")?, m.has("e/f0")?, m.ls("")?), ("499+".to_owned(), false, "e".to_owned()));
    cx.umount()?;
    cx.wait_for_daemons()?;
    // Without an upper.
    let args = cx.mount_args()?;
    let lowers = args.iter().take_while(|a| *a != "--upper").chain(args.last());
    cx.onlay(&lowers.collect::<Vec<_>>())?.ok()?;
    let seen = check(&cx.m);
    cx.onlay(&["umount", &cx.m.0.display().to_string()])?.ok()?;
    seen
}

fn renamed_in_every_layer(cx: &mut Ctx) -> Result<()> {
    const LAYERS: usize = 499;
    for i in 0..LAYERS {
        let low = cx.lower()?;
        let (name, below) = (format!("d{i}"), format!("d{}", i + 1));
        low.file(&format!("{name}/f{i}"), "x")?;
        if i + 1 < LAYERS {
            // Both spellings.
            let to = if i % 2 == 0 { below.clone() } else { format!("/{below}") };
            low.setx(&name, "trusted.overlay.redirect", to)?.whiteout(&below)?;
        }
    }
    let m = cx.mount()?;
    same!(m.ls("")?, "d0");
    same!(std::fs::read_dir(m.p("d0"))?.count(), LAYERS);
    same!(m.read(&format!("d0/f{}", LAYERS - 1))?, "x");
    m.mv("d0", "last")?;
    same!(std::fs::read_dir(cx.remount()?.p("last"))?.count(), LAYERS);
    Ok(())
}

fn descend(from: &Tree, depth: usize, make: bool) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = openat(CWD, &from.0, flags, Mode::empty())?;
    for i in 0..depth {
        let name = "long-name-of-a-directory".repeat(4) + &i.to_string();
        if make {
            mkdirat(&at, &name, Mode::from_raw_mode(0o755))?;
        }
        at = openat(&at, &name, flags, Mode::empty()).with_context(|| format!("step {i}"))?;
    }
    Ok(at)
}

fn beyond_path_max(cx: &mut Ctx) -> Result<()> {
    // 200 steps of about 100 bytes each; the last file is far beyond what a path can say.
    let low = cx.lower()?;
    low.dir("top")?;
    let deepest = descend(&Tree(low.p("top")), 200, true)?;
    let put = |dir: &OwnedFd, name: &str, text: &str| -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC;
        Ok(File::from(openat(dir, name, flags, Mode::from_raw_mode(0o644))?).write_all(text.as_bytes())?)
    };
    let get = |dir: &OwnedFd, name: &str| -> Result<String> {
        Ok(std::io::read_to_string(File::from(openat(dir, name, OFlags::RDONLY, Mode::empty())?))?)
    };
    put(&deepest, "f", "deep")?;
    // A manifest goes by paths.
    cx.forget_lowers();
    let below = || -> Result<_> {
        let st = rustix::fs::fstat(&deepest)?;
        Ok((get(&deepest, "f")?, names_in(&deepest)?, st.st_mtime, st.st_mtime_nsec, st.st_ctime, st.st_ctime_nsec))
    };
    let before = below()?;
    let m = cx.mount()?;
    let at = descend(&Tree(m.p("top")), 200, false)?;
    same!(get(&at, "f")?, "deep");
    put(&at, "f", "+")?;
    put(&at, "new", "n")?;
    renameat(&at, "new", &at, "new2")?;
    m.mv("top", "moved")?;
    same!(get(&at, "f")?, "deep+");
    drop(at);
    let m = cx.remount()?;
    let at = descend(&Tree(m.p("moved")), 200, false)?;
    same!((get(&at, "f")?, get(&at, "new2")?), ("deep+".to_owned(), "n".to_owned()));
    unlinkat(&at, "new2", AtFlags::empty())?;
    drop(at);
    Out::of(Command::new("rm").args(["-rf", "moved"]).current_dir(&m.0))?.ok()?;
    same!((m.ls("")?, cx.remount()?.ls("")?), (String::new(), String::new()));
    same!(below()?, before);
    Ok(())
}

fn names_in(dir: &OwnedFd) -> Result<Vec<String>> {
    let entries = raw_entries(&File::from(openat(dir, ".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?))?;
    Ok(entries.iter().map(|e| e.name.display().to_string()).collect())
}

fn inotify_sees_writer(cx: &mut Ctx) -> Result<()> {
    use rustix::fs::inotify::{CreateFlags, Reader, ReadFlags, WatchFlags, add_watch, init};
    cx.lower()?.file("d/f", "below")?;
    let m = cx.mount()?;
    let events = |watched: &str, flags, act: &dyn Fn() -> Result<()>| -> Result<ReadFlags> {
        let fd = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        add_watch(&fd, m.p(watched), flags)?;
        act()?;
        let mut buf = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&fd, &mut buf);
        let mut all = ReadFlags::empty();
        while let Ok(event) = reader.next() {
            all |= event.events();
        }
        Ok(all)
    };
    let got = events("d/f", WatchFlags::MODIFY | WatchFlags::ATTRIB, &|| m.append("d/f", "+").map(drop))?;
    holds!(got.contains(ReadFlags::MODIFY), "{got:?}");
    let got = events("d/f", WatchFlags::ATTRIB, &|| m.mode("d/f", 0o600).map(drop))?;
    holds!(got.contains(ReadFlags::ATTRIB), "{got:?}");
    let got = events("d", WatchFlags::ALL_EVENTS, &|| m.mv("d/f", "d/g")?.rm("d/g").map(drop))?;
    holds!(got.contains(ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO | ReadFlags::DELETE), "{got:?}");
    Ok(())
}

fn direct_io(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("low", vec![b'l'; 16_384])?;
    let m = cx.mount()?;
    m.file("new", "")?;
    // Memory at an address that every device takes.
    let mut memory = vec![b'd'; 3 * 4096];
    let skew = memory.as_ptr().align_offset(4096);
    let block = &mut memory[skew..skew + 4096];
    for name in ["low", "new"] {
        let direct = std::fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(m.p(name))?;
        let cached = m.rw(name)?;
        block.fill(b'd');
        direct.write_all_at(block, 4096)?;
        let mut seen = [0; 4096];
        cached.read_exact_at(&mut seen, 4096)?;
        holds!(seen == [b'd'; 4096], "{name}: a direct write is not seen");
        cached.write_all_at(&[b'c'; 100], 4096)?;
        direct.read_exact_at(block, 4096)?;
        holds!(block[..100] == [b'c'; 100] && block[100] == b'd', "{name}: a cached write is not seen");
    }
    same!(std::fs::read(cx.remount()?.p("low"))?.len(), 16_384);
    Ok(())
}

fn appends_of_two_processes(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "")?;
    let m = cx.mount()?;
    let mut children = Vec::new();
    for who in ["aaaaaaa", "bbbbbbb"] {
        let script = format!("i=0; while [ $i -lt 500 ]; do echo {who} >> f; i=$((i+1)); done");
        children.push(Command::new("sh").args(["-c", &script]).current_dir(&m.0).spawn()?);
    }
    for mut child in children {
        holds!(child.wait()?.success());
    }
    let text = m.read("f")?;
    let count = |who| text.lines().filter(|l| *l == who).count();
    same!((text.len(), count("aaaaaaa"), count("bbbbbbb")), (8000, 500, 500));
    Ok(())
}

fn sh(m: &Tree, script: &str) -> Result<String> {
    let mut cmd = Command::new("sh");
    cmd.args(["-ec", script]).current_dir(&m.0).env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", &m.0);
    Ok(Out::of(&mut cmd)?.ok().with_context(|| script.to_owned())?.stdout)
}

fn git_clean(cx: &mut Ctx) -> Result<()> {
    if Out::of(Command::new("git").arg("--version")).is_err() {
        return Err(skip("no git here"));
    }
    let low = cx.lower()?;
    sh(&low, "git init -q r && cd r && git config user.email a@b && git config user.name c && mkdir -p kept/d
              for i in $(seq 300); do echo $i > kept/f$i; done; echo y > kept/d/g
              git add -A && git commit -qm one && mkdir -p junk/deep && for i in $(seq 500); do : > junk/deep/j$i; done")?;
    let m = cx.mount()?;
    let status = sh(&m, "cd r && : > new && echo + >> kept/f7 && rm kept/f9 && git status --porcelain")?;
    same!(status, " M kept/f7\n D kept/f9\n?? junk/\n?? new\n");
    sh(&m, "cd r && git clean -qfdx && git checkout -q -- . && git gc -q")?;
    let m = cx.remount()?;
    same!(sh(&m, "cd r && git status --porcelain && git fsck 2>&1 && ls")?.replace("notice: HEAD points", ""), "kept\n");
    Ok(())
}

/// Makes, renames and removes names in `d` until `f` is done.
fn while_it_changes<T>(m: &Tree, f: impl FnOnce() -> Result<T>) -> Result<T> {
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let changer = scope.spawn(|| -> Result<()> {
            let mut i = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let (a, b) = (format!("d/comes{}", i % 50), format!("d/goes{}", i % 50));
                m.file(&a, "x")?.mv(&a, &b)?.rm(&b)?;
                i += 1;
            }
            Ok(())
        });
        let done = f();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        changer.join().map_err(|_| anyhow::anyhow!("the changer panicked"))??;
        done
    })
}

fn tar_while_it_changes(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    for i in 0..2000 {
        low.file(&format!("d/stays{i:04}"), i.to_string())?;
    }
    let m = cx.mount()?;
    while_it_changes(&m, || {
        for _ in 0..5 {
            // Files that go meanwhile are told about; that is no failure of theirs or ours.
            let listed = sh(&m, "tar --ignore-failed-read -cf - d 2>/dev/null | tar -tf - | sort")?;
            each_once(&listed, 2000)?;
        }
        Ok(())
    })
}

/// Every file that stays is in a sorted listing once.
fn each_once(listed: &str, files: usize) -> Result<()> {
    let names: Vec<&str> = listed.lines().filter(|l| l.contains("stays")).collect();
    same!(names.len(), files);
    holds!(names.windows(2).all(|w| w[0] != w[1]), "told twice");
    Ok(())
}

fn find_and_rm_while_it_changes(cx: &mut Ctx) -> Result<()> {
    let (top, bottom) = (cx.lower()?, cx.lower()?);
    for i in 0..500 {
        let low = if i % 2 == 0 { &top } else { &bottom };
        low.file(&format!("d/stays{i:04}"), "")?.file(&format!("d/deep/{}/stays{i}", i % 7), "")?;
    }
    let m = cx.mount()?;
    while_it_changes(&m, || {
        for i in 0..3 {
            each_once(&sh(&m, "find d -ignore_readdir_race -name 'stays*' | sort")?, 1000)?;
            // Some that were there are copied up meanwhile.
            m.append(&format!("d/stays{i:04}"), "+")?;
        }
        // What is removed here is not what comes and goes there.
        sh(&m, "rm -rf d/deep; find d -ignore_readdir_race -name 'stays*' -delete")?;
        same!(sh(&m, "find d -ignore_readdir_race -name 'stays*'")?, "");
        Ok(())
    })?;
    same!(m.ls("d")?, "");
    sh(&m, "rm -rf d")?;
    same!((m.ls("")?, cx.remount()?.ls("")?), (String::new(), String::new()));
    Ok(())
}
