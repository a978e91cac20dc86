//! Several threads at once on one union: no deadlock, no panic, and a view that agrees with itself afterwards.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use onlay::layer::{Handle, mem};
use onlay::overlay::{Caller, Config, Layers, Lower, Overlay, ROOT, SetAttr, Upper};
use onlay::vocab::{Errno, Kind, Result};

use super::check::view;

const THREADS: u64 = 4;
/// Each thread's in one round.
const OPERATIONS: u32 = 150;
const TIME: Duration = Duration::from_secs(3);
/// Far more than one operation ever takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// xorshift64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }

    fn name(&mut self) -> Vec<u8> {
        vec![b'a' + self.roll(4) as u8]
    }
}

/// A thread with the references it holds.
struct Worker<'a> {
    overlay: &'a Overlay,
    dice: Dice,
    held: Vec<u64>,
}

impl Worker<'_> {
    fn lookup(&mut self, dir: u64, name: &[u8]) -> Result<u64> {
        let ino = self.overlay.lookup(dir, name)?.ino;
        self.held.push(ino);
        Ok(ino)
    }

    fn dir(&mut self) -> Result<u64> {
        let mut at = ROOT;
        for _ in 0..self.dice.roll(3) {
            let name = self.dice.name();
            at = self.lookup(at, &name)?;
        }
        Ok(at)
    }

    fn object(&mut self) -> Result<u64> {
        let (dir, name) = (self.dir()?, self.dice.name());
        self.lookup(dir, &name)
    }

    fn operation(&mut self) -> Result<()> {
        let caller = Caller::default();
        let (dir, name) = (self.dir()?, self.dice.name());
        let overlay = self.overlay;
        match self.dice.roll(14) {
            0 => self.held.push(overlay.mknod(&caller, dir, &name, Kind::File, 0o644, 0)?.ino),
            1 | 2 => self.held.push(overlay.mkdir(&caller, dir, &name, 0o755)?.ino),
            3 => self.held.push(overlay.symlink(&caller, dir, &name, b"there")?.ino),
            4 => {
                let ino = self.object()?;
                self.held.push(overlay.link(ino, dir, &name)?.ino);
            }
            5 => overlay.unlink(dir, &name)?,
            6 => overlay.rmdir(dir, &name)?,
            7..=9 => {
                let (to, new_name) = (self.dir()?, self.dice.name());
                overlay.rename(dir, &name, to, &new_name, [0, 0, 1, 2][self.dice.roll(4) as usize])?;
            }
            10 => {
                let ino = self.object()?;
                overlay.write(ino, self.dice.roll(50), b"written")?;
            }
            11 => {
                let ino = self.object()?;
                overlay.setattr(ino, &SetAttr { mode: Some(0o700), ..SetAttr::default() })?;
            }
            12 => {
                let ino = self.object()?;
                overlay.read(ino, 0, &mut [0; 64])?;
            }
            _ => {
                let mut taken = Vec::new();
                overlay.readdir_plus(dir, 0, &mut |e, attr| {
                    // Those without are `.`, `..`, and what went meanwhile.
                    taken.extend(attr.map(|_| e.ino));
                    false
                })?;
                self.held.extend(taken);
            }
        }
        Ok(())
    }
}

fn lower(dev: u64) -> mem::Tree {
    let tree = mem::Tree::new(dev);
    let root = Handle::Mem(tree.root(true));
    for name in [b"a", b"b"] {
        root.mkdir(name, 0o755).expect("mkdir");
        let dir = root.open_dir(name).expect("open_dir");
        dir.create(b"a", 0o644).expect("create").write_at(&[b'x'; 5000], 0).expect("write");
        dir.mkdir(b"b", 0o755).expect("mkdir");
        dir.open_dir(b"b").expect("open_dir").create(b"c", 0o644).expect("create").write_at(b"deep", 0).expect("write");
    }
    root.open_dir(b"a").expect("open_dir").link(b"a", &root, b"c").expect("link");
    root.symlink(b"a", b"d").expect("symlink");
    tree
}

/// Time and again from the start: the first changes of a lower are where most can go wrong.
#[test]
fn threads_at_once() {
    let end = Instant::now() + TIME;
    let mut seed = 0x9e37_79b9_7f4a_7c15;
    let mut done = 0;
    while Instant::now() < end {
        seed += THREADS;
        done += round(seed);
    }
    assert!(done > 1000, "only {done} operations went well");
}

/// How many operations went well.
fn round(seed: u64) -> u32 {
    let (upper, lowers) = (mem::Tree::new(9), [lower(10), lower(11)]);
    let base = Handle::Mem(upper.root(true));
    for name in [&b"upper"[..], b"work"] {
        base.mkdir(name, 0o755).expect("mkdir");
    }
    let before = lowers.each_ref().map(mem::Tree::changes);
    let mount = || {
        let open = |name: &[u8]| base.open_dir(name).expect("open_dir");
        let layers = Layers {
            upper: Some(Upper { dir: open(b"upper"), work: open(b"work") }),
            lowers: lowers.iter().map(|t| Lower { dir: Handle::Mem(t.root(false)) }).collect(),
        };
        Overlay::new(layers, Config { open_files: 16, ..Config::default() }).expect("a union")
    };
    let overlay = Arc::new(mount());
    let (send, done) = mpsc::channel();
    for n in 0..THREADS {
        let (overlay, send) = (overlay.clone(), send.clone());
        std::thread::spawn(move || {
            let run = || {
                let mut w = Worker { overlay: &overlay, dice: Dice(seed + n), held: Vec::new() };
                let mut well = 0;
                for _ in 0..OPERATIONS {
                    match w.operation() {
                        Ok(()) => well += 1,
                        Err(e @ (Errno::IO | Errno::NODATA | Errno::ROFS | Errno::XDEV)) => panic!("{e:?}"),
                        Err(_) => {}
                    }
                    if w.held.len() > 30 {
                        for ino in w.held.drain(..) {
                            overlay.forget(ino, 1);
                        }
                    }
                }
                for ino in w.held.drain(..) {
                    overlay.forget(ino, 1);
                }
                well
            };
            let r = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
            // Nobody listens any more once the test has failed.
            let _heard = send.send(r.map_err(|_| "a thread panicked"));
        });
    }
    let well = (0..THREADS).map(|_| done.recv_timeout(PATIENCE).expect("a deadlock").expect("no panic")).sum();
    assert_eq!(overlay.node_count(), 1, "somebody still holds an inode");
    let seen = view(&overlay);
    for (path, shown) in seen.iter().filter(|(_, s)| s.data.len() > 57) {
        // Written to at its beginning at most: the rest was copied up whole.
        assert!(shown.data.len() == 5000 && shown.data[57..].iter().all(|b| *b == b'x'), "{path} lost data");
    }
    let work = base.open_dir(b"work").and_then(|w| w.open_dir(b"work")).expect("work");
    let mut left = 0;
    work.list(&mut |_| left += 1).expect("list");
    assert!(left <= 1, "{left} left in work");
    assert_eq!(view(&mount()), seen, "after a remount");
    assert_eq!(lowers.each_ref().map(mem::Tree::changes), before, "a lower was written to");
    well
}
