//! Programs of others that cases run: public suites from crates.io, installed once.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::case::skip;
use crate::ctx::Out;

/// Where they are (`bin` is in it), for the cases' processes; may be given.
const DIR: &str = "ONLAY_TOOLS";
/// Why they are not there.
const WHY_NOT: &str = "ONLAY_NO_TOOLS";
const CRATES: [&str; 2] = ["pjdfstest@0.2.2", "fsx@0.3.2"];

/// What a case's process is told.
pub(crate) type Told = (&'static str, PathBuf);

/// Installs them beside this binary's target directory, unless they are there.
pub(crate) fn install() -> Result<Told> {
    let dir = match env::var_os(DIR) {
        Some(dir) => PathBuf::from(dir),
        None => {
            let me = env::current_exe()?;
            me.ancestors().nth(2).unwrap_or(Path::new("/")).join("tools")
        }
    };
    let missing = |krate: &&str| !dir.join("bin").join(name(krate)).exists();
    if CRATES.iter().any(missing) {
        println!("installing {} to {}", CRATES.join(" "), dir.display());
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut cmd = Command::new(cargo);
        cmd.args(["install", "--quiet", "--locked", "--root"]).arg(&dir).args(CRATES);
        let failed = match Out::of(&mut cmd) {
            Ok(out) if out.code == 0 => None,
            Ok(out) => Some(out.stderr),
            Err(e) => Some(format!("{e:#}")),
        };
        if let Some(why) = failed {
            let why = format!("can't install {}: {}", CRATES.join(" "), why.trim());
            return Ok((WHY_NOT, why.into()));
        }
    }
    Ok((DIR, dir))
}

/// One of them, in a case.
pub(crate) fn tool(name: &str) -> Result<Command> {
    match env::var_os(DIR) {
        Some(dir) => Ok(Command::new(Path::new(&dir).join("bin").join(name))),
        None => Err(skip(env::var(WHY_NOT).unwrap_or_else(|_| format!("{name} is not installed")))),
    }
}

fn name(krate: &str) -> &str {
    krate.split('@').next().unwrap_or(krate)
}
