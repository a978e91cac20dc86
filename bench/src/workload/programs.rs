//! Programs that look at many files: git, gcc, Python.

use std::process::Command;

use anyhow::Result;

use super::{Cx, Timed};
use crate::fixture::SEARCHED;
use crate::tools::run;

fn status(cx: &Cx) -> Result<()> {
    run(cx.tools.git().args(["status", "--porcelain"]).current_dir(&cx.merged))
}

pub(super) fn git_status(cx: &Cx) -> Result<Timed<'_>> {
    Ok(Box::new(|| status(cx)))
}

pub(super) fn git_status_again(cx: &Cx) -> Result<Timed<'_>> {
    status(cx)?;
    git_status(cx)
}

fn compile(cx: &Cx) -> Result<()> {
    let mut cmd = Command::new(&cx.tools.gcc);
    for i in 0..SEARCHED {
        cmd.arg(format!("-Ii{i}"));
    }
    run(cmd.args(["-fsyntax-only", "main.c"]).current_dir(&cx.merged))
}

pub(super) fn gcc(cx: &Cx) -> Result<Timed<'_>> {
    Ok(Box::new(|| compile(cx)))
}

pub(super) fn gcc_again(cx: &Cx) -> Result<Timed<'_>> {
    compile(cx)?;
    gcc(cx)
}

fn import(cx: &Cx) -> Result<()> {
    let path = format!("import sys; sys.path[:0] = ['.'] + [f'p{{i}}' for i in range({SEARCHED})]; import main");
    run(Command::new(&cx.tools.python).args(["-I", "-S", "-c", &path]).current_dir(&cx.merged))
}

pub(super) fn python(cx: &Cx) -> Result<Timed<'_>> {
    Ok(Box::new(|| import(cx)))
}

pub(super) fn python_again(cx: &Cx) -> Result<Timed<'_>> {
    import(cx)?;
    python(cx)
}
