//! `fuse-overlayfs`: the command line of that program, for the container tools that call it.
//!
//! Source: fuse-overlayfs(1), and what podman, buildah, docker, containerd, apptainer and enroot were seen to pass.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use super::error::Error;
use super::mount::mount;
use super::options::Settings;
use super::output::print;
use crate::fuse::Wish;

/// The name by which we are called.
const NAME: &str = "fuse-overlayfs";

/// docker mounts the same upper again at once after it was detached: the daemon before us may still be writing.
const PATIENCE: Duration = Duration::from_secs(10);

/// Mount an overlay, as fuse-overlayfs does
#[derive(Debug, Parser)]
#[command(name = NAME, disable_version_flag = true, max_term_width = 100)]
#[command(after_help = "\
This is onlay, called as fuse-overlayfs. Example:
  fuse-overlayfs -o lowerdir=b:a,upperdir=up,workdir=work merged

The options are those of `onlay mount`, and fuse-overlayfs's own: uidmapping and gidmapping (STORED:SHOWN:COUNT, more
of them joined by colons), squash_to_root, squash_to_uid=ID, squash_to_gid=ID, xattr_permissions=0|1|2.")]
struct Args {
    /// Stay in the foreground
    #[arg(short)]
    foreground: bool,
    /// Log what happens; implies -f
    #[arg(short, long)]
    debug: bool,
    /// Options, separated by commas
    #[arg(short, value_name = "OPTIONS", allow_hyphen_values = true)]
    options: Vec<OsString>,
    /// Print the version
    #[arg(short = 'V', long)]
    version: bool,
    /// A source, which means nothing, and the mountpoint
    #[arg(value_name = "MOUNTPOINT")]
    places: Vec<PathBuf>,
}

/// The arguments after the name, if we are called in this way: by a link of that name, as the first word, or as mount(8)
/// calls a helper (`onlay SOURCE TARGET -o OPTIONS`).
pub(super) fn called(args: &[OsString]) -> Option<&[OsString]> {
    let (first, rest) = args.split_first()?;
    if Path::new(first).file_name() == Some(OsStr::new(NAME)) {
        return Some(rest);
    }
    match rest {
        [word, rest @ ..] if word == NAME => Some(rest),
        [_, target, option, _, ..] if option == "-o" && Path::new(target).is_absolute() => Some(rest),
        _ => None,
    }
}

pub(super) fn run(args: &[OsString]) -> Result<ExitCode, Error> {
    let name = std::iter::once(OsStr::new(NAME)).chain(args.iter().map(OsString::as_os_str));
    let args = match Args::try_parse_from(name) {
        Ok(args) => args,
        Err(e) if !e.use_stderr() => return Ok(e.print().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)),
        Err(e) => return Err(Error::usage(&e)),
    };
    if args.version {
        print(concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION"), ", as fuse-overlayfs\n").as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(mountpoint) = args.places.last() else {
        return Err(Error::new("no mountpoint").hint("fuse-overlayfs -o lowerdir=A:B,upperdir=U,workdir=W MOUNTPOINT"));
    };
    let plain = std::env::var_os("FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT").is_some();
    let mut settings = Settings { patience: PATIENCE, plain, ..Settings::default() };
    // Engines that commit walk the parent's view, and ask for attributes of everything in it.
    settings.tuning.wishes.absent_xattrs = Wish::On;
    settings.tuning.wishes.beside = Wish::Auto;
    for words in &args.options {
        settings.take(words)?;
    }
    mount(&settings, mountpoint, args.foreground || args.debug)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn the_ways_to_be_called() {
        for line in [
            "/usr/bin/fuse-overlayfs -o lowerdir=a m",
            "onlay fuse-overlayfs -o lowerdir=a m",
            "onlay overlay /target -o workdir=W,upperdir=U",
        ] {
            assert!(called(&words(line)).is_some(), "{line}");
        }
        for line in ["onlay mount -o lowerdir=a m", "onlay", "onlay run --host", "onlay mount m -o lowerdir=a"] {
            assert!(called(&words(line)).is_none(), "{line}");
        }
    }

    /// Lines that container tools were seen to pass.
    #[test]
    fn captured_lines_are_understood() {
        let rootless = "uidmapping=:0:1:1001:1001:0:1:1002:1002:64535,gidmapping=:0:1:1001:1001:0:1:1002:1002:64535";
        let rootless = format!("-o lowerdir=/l/A,upperdir=/d,workdir=/w,,volatile,{rootless} /m");
        let cases: [(&str, &[&str], bool, bool); 14] = [
            ("-o lowerdir=/l/A:/l/B,upperdir=/d,workdir=/w,,volatile /m", &["/l/A", "/l/B"], true, false),
            ("-o lowerdir=/l/A,upperdir=/d,workdir=/w, /m", &["/l/A"], true, false),
            ("-o lowerdir=/ID/diff:/l/B /m", &["/ID/diff", "/l/B"], false, false),
            ("-o lowerdir=/l/A,upperdir=/d,workdir=/w,xattr_permissions=2 /m", &["/l/A"], true, false),
            ("-o lowerdir=/x,upperdir=/d,workdir=/w,private /m", &["/x"], true, false),
            ("overlay /m -o workdir=/w,upperdir=/d,lowerdir=/A:/B,writeback=0,dev,suid", &["/A", "/B"], true, false),
            ("-f -o lowerdir=/A,upperdir=/d,workdir=/w /m", &["/A"], true, true),
            (&rootless, &["/l/A"], true, false),
            ("-o lowerdir=/ID/diff:/ID/empty /m", &["/ID/diff", "/ID/empty"], false, false),
            ("-o lowerdir=/ID/mapped/0/l/A,upperdir=/d,workdir=/w,volatile /m", &["/ID/mapped/0/l/A"], true, false),
            ("-o lowerdir=/ID/merged:/l/B,upperdir=/d,workdir=/w,private /m", &["/ID/merged", "/l/B"], true, false),
            (
                "-o lowerdir=/DV/l/A:/DV/l/B,upperdir=/DV/ID-init/diff,workdir=/DV/ID-init/work /m",
                &["/DV/l/A", "/DV/l/B"],
                true,
                false,
            ),
            ("-olowerdir=/A -oupperdir=/d,workdir=/w /m", &["/A"], true, false),
            ("-o lowerdir=/A,context=\"a,b\",upperdir=/d,workdir=/w /m", &["/A"], true, false),
        ];
        for (line, lowers, writable, foreground) in cases {
            let args = Args::try_parse_from(std::iter::once("x".into()).chain(words(line))).unwrap();
            let mut settings = Settings::default();
            for o in &args.options {
                settings.take(o).unwrap();
            }
            let expected: Vec<PathBuf> = lowers.iter().map(PathBuf::from).collect();
            assert_eq!(settings.given.lowers, expected, "{line}");
            assert_eq!((settings.given.upper.is_some(), args.foreground), (writable, foreground), "{line}");
            assert_eq!(args.places.last(), Some(&PathBuf::from("/m")), "{line}");
            assert_eq!(settings.volatile, line.contains("volatile"), "{line}");
            assert_eq!(settings.ids.is_identity(), !line.contains("mapping="), "{line}");
            assert_eq!(settings.stored_owners.is_some(), line.contains("xattr_permissions"), "{line}");
        }
    }

    #[test]
    fn version_is_asked_for_without_a_mountpoint() {
        let args = Args::try_parse_from(["x", "--version"]).unwrap();
        assert!(args.version && args.places.is_empty());
    }

    #[test]
    fn maps_of_ids() {
        let taken = |words: &str| {
            let mut settings = Settings::default();
            settings.take(OsStr::new(words)).map(|()| settings.ids)
        };
        let ids = taken("lowerdir=/a,uidmapping=:0:1:1001:1001:0:1,gidmapping=0:5:10").unwrap();
        assert_eq!((ids.uid.shown(1001), ids.gid.shown(2)), (0, 7));
        // The one that is named wins, wherever it stands.
        let ids = taken("squash_to_uid=3,squash_to_root").unwrap();
        assert_eq!((ids.uid.shown(9), ids.gid.shown(9)), (3, 0));
        for words in ["uidmapping=0:1", "gidmapping=", "gidmapping=a:b:c", "squash_to_uid=root", "squash_to_gid"] {
            assert!(taken(words).is_err(), "{words}");
        }
    }
}
