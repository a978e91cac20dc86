//! A bare Debian system as a tar file, kept between runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where base systems are kept, if somebody made the place: fuse-tests/run-all does.
const CACHE: &str = "/var/cache/onlay-tests";

/// The machine's own release, made with its own mirrors, proxies and keys by `uid`; in `place` where there is no cache.
///
/// # Errors
/// Why there can be none here.
pub(crate) fn base(uid: u32, place: &Path) -> Result<PathBuf, String> {
    let suite = suite()?;
    let cache = Path::new(CACHE);
    let place = if cache.is_dir() { cache } else { place };
    let tar = place.join(format!("{suite}-{uid}.tar"));
    if tar.exists() {
        return Ok(tar);
    }
    let sources = apt_files("sources.list", |text| !text.trim().is_empty()).map_err(|e| e.to_string())?;
    let sources = sources.into_iter().filter(|f| f.extension().is_some_and(|e| e == "list" || e == "sources"));
    let mode = if uid == 0 { "--mode=root" } else { "--mode=unshare" };
    let mut cmd = Command::new("mmdebstrap");
    cmd.args([mode, "--variant=minbase"]).env("TMPDIR", "/var/tmp");
    for file in apt_files("apt.conf", |text| text.contains("Acquire::")).map_err(|e| e.to_string())? {
        let mut option = std::ffi::OsString::from("--aptopt=");
        option.push(file);
        cmd.arg(option);
    }
    let fresh = tar.with_extension(format!("{}.tar", std::process::id()));
    let out = cmd.arg(&suite).arg(&fresh).args(sources).output().map_err(|_| "there is no mmdebstrap".to_owned())?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        let last: Vec<&str> = said.lines().rev().take(5).collect();
        let last = last.into_iter().rev().collect::<Vec<_>>().join("\n");
        return Err(format!("mmdebstrap can't make a base system: {last}"));
    }
    fs::rename(&fresh, &tar).map_err(|e| e.to_string())?;
    Ok(tar)
}

fn suite() -> Result<String, String> {
    let release = fs::read_to_string("/etc/os-release").map_err(|e| format!("/etc/os-release: {e}"))?;
    let debian = release.lines().any(|l| l == "ID=debian");
    let name = release.lines().find_map(|l| l.strip_prefix("VERSION_CODENAME="));
    let name = name.filter(|_| debian).map(str::to_owned);
    name.ok_or_else(|| "the machine is no Debian with a name: no mirrors to take".to_owned())
}

/// Files of `/etc/apt/NAME.d` and `/etc/apt/NAME` itself that hold something.
fn apt_files(name: &str, keep: impl Fn(&str) -> bool) -> std::io::Result<Vec<PathBuf>> {
    let mut files = vec![PathBuf::from(format!("/etc/apt/{name}"))];
    if let Ok(entries) = fs::read_dir(format!("/etc/apt/{name}.d")) {
        for entry in entries {
            files.push(entry?.path());
        }
    }
    files.sort();
    files.retain(|f| fs::read_to_string(f).is_ok_and(|text| keep(&text)));
    Ok(files)
}
