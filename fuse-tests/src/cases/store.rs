//! The store when its users are killed, many, or out of space.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Result;

use super::images::{base, nothing_left, onlay, says};
use super::run::ALL;
use crate::case::User;
use crate::ctx::Ctx;
use crate::tree::{cases, holds, same};

const ROOT: &[User] = &[User::Root];

cases!("store":
    a_full_disk.onlay().by(ROOT), a_killed_run_is_over.onlay().by(ALL).slow(300),
);

/// Starts a verb, in a process group of its own.
fn start(cx: &Ctx, args: &[&str]) -> Result<std::process::Child> {
    use std::os::unix::process::CommandExt as _;
    let mut command = Command::new(cx.binary());
    command.arg("--root").arg(cx.dir.p("store")).args(args).process_group(0);
    Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

fn a_full_disk(cx: &mut Ctx) -> Result<()> {
    use nix::mount::{MsFlags, mount, umount};
    base(cx)?;
    let tar = cx.dir.p("rootfs.tar").display().to_string();
    let small = cx.dir.p("full");
    cx.dir.dir("full")?;
    mount(Some("tmpfs"), &small, Some("tmpfs"), MsFlags::empty(), Some("size=1536k"))?;
    let store = small.join("store").display().to_string();
    let tried = (|| {
        let out = cx.onlay(&["--root", &store, "import", "-q", &tar, "base"])?;
        holds!(out.code == 1 && out.stderr.contains("No space left") && out.stderr.contains("hint:"), "{out:?}");
        same!(cx.onlay(&["--root", &store, "images", "-q"])?.ok()?.stdout, "");
        cx.onlay(&["--root", &store, "gc"])?.ok()?;
        for dir in ["layers", "blobs/sha256", "tmp"] {
            same!((dir, std::fs::read_dir(small.join("store").join(dir))?.count()), (dir, 0));
        }
        Ok(())
    })();
    umount(&small)?;
    tried
}

fn a_killed_run_is_over(cx: &mut Ctx) -> Result<()> {
    base(cx)?;
    for rm in [true, false] {
        let mut args = vec!["run", "--name", "long"];
        if rm {
            args.push("--rm");
        }
        args.extend(["base", "sleep", "100"]);
        let mut child = start(cx, &args)?;
        let running = || -> Result<bool> { Ok(!says(cx, &["ps", "-q"])?.is_empty()) };
        for _ in 0..500 {
            if running()? && cx.dir.p("store/containers").read_dir()?.flatten().any(|c| c.path().join("state.json").exists()) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let busy = onlay(cx, &["rm", "long"])?;
        holds!(busy.code == 1 && busy.stderr.contains("running"), "{busy:?}");
        child.kill()?;
        child.wait()?;
        for _ in 0..500 {
            if !running()? {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        same!(running()?, false);
        says(cx, &["gc"])?;
        same!(says(cx, &["ps", "-aq"])?.is_empty(), rm);
        if !rm {
            says(cx, &["rm", "long"])?;
        }
    }
    says(cx, &["rmi", "base"])?;
    nothing_left(cx)
}
