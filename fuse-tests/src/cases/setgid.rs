//! setgid directories.

use std::os::unix::fs::MetadataExt as _;

use anyhow::Result;

use crate::ctx::Ctx;
use crate::sys::as_ids;
use crate::tree::{cases, holds, same};

cases!("setgid":
    hand_on_group.privileged(), directories_hand_on_the_bit.privileged(), not_without_the_bit.privileged(),
);

fn hand_on_group(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.dir("d")?.owner("d", 0, 77)?.mode("d", 0o2777)?;
    let m = cx.mount()?;
    m.mode("", 0o755)?;
    as_ids(1234, 1234, &[], || m.file("d/f", "")?.symlink("x", "d/l").map(drop))?;
    m.file("d/g", "")?;
    for (n, uid) in [("f", 1234), ("l", 1234), ("g", 0)] {
        let st = m.stat(format!("d/{n}"))?;
        same!((n, st.uid(), st.gid()), (n, uid, 77));
    }
    Ok(())
}

fn directories_hand_on_the_bit(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.dir("d")?.owner("d", 0, 77)?.mode("d", 0o2777)?;
    let m = cx.mount()?;
    m.mode("", 0o755)?;
    as_ids(1234, 1234, &[], || m.dir("d/e/f").map(drop))?;
    let m = cx.remount()?;
    for n in ["d/e", "d/e/f"] {
        same!((n, m.stat(n)?.gid(), m.bits(n)?), (n, 77, 0o2755));
    }
    Ok(())
}

fn not_without_the_bit(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.dir("d")?.owner("d", 0, 77)?.mode("d", 0o777)?;
    let m = cx.mount()?;
    m.mode("", 0o755)?;
    as_ids(1234, 1235, &[], || m.file("d/f", "")?.dir("d/e").map(drop))?;
    same!((m.stat("d/f")?.gid(), m.stat("d/e")?.gid()), (1235, 1235));
    holds!(m.bits("d/e")? & 0o2000 == 0);
    Ok(())
}
