//! A package manager at work.

use std::fs;
use std::process::Command;

use anyhow::Result;

use super::{Cx, Timed};
use crate::fixture::text;
use crate::random::Random;
use crate::tools::run;

/// Files for each of the scale's sources.
const TIMES: usize = 5;

/// dpkg -i of a package of many small files, into a root that holds little else; as images are built, without waiting for
/// the disk after each file.
pub(super) fn install(cx: &Cx) -> Result<Timed<'_>> {
    let database = cx.merged.join("var/lib/dpkg");
    for dir in ["info", "updates", "triggers"] {
        fs::create_dir_all(database.join(dir))?;
    }
    for file in ["status", "available"] {
        fs::write(database.join(file), "")?;
    }
    let package = cx.merged.join("big.deb");
    fs::write(&package, archive(cx.scale.sources * TIMES)?)?;
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    Ok(Box::new(move || {
        let mut dpkg = Command::new(&cx.tools.dpkg);
        dpkg.env("PATH", &path).arg(format!("--root={}", cx.merged.display()));
        run(dpkg.args(["--force-unsafe-io", "--log=/dev/null", "-i"]).arg(&package))
    }))
}

/// deb(5): an ar(5) archive of a version and two tar archives.
fn archive(files: usize) -> Result<Vec<u8>> {
    let mut random = Random::new(6);
    let mut data = tar::Builder::new(Vec::new());
    let mut dirs = vec!["./".to_owned(), "./usr/".into(), "./usr/share/".into(), "./usr/share/big/".into()];
    dirs.extend((0..files.div_ceil(50)).map(|i| format!("./usr/share/big/d{i}/")));
    for dir in dirs {
        add(&mut data, tar::EntryType::Directory, &dir, &[])?;
    }
    for i in 0..files {
        let size = random.below(8 << 10);
        add(
            &mut data,
            tar::EntryType::Regular,
            &format!("./usr/share/big/d{}/f{i}", i / 50),
            &text(&mut random, size),
        )?;
    }
    let mut control = tar::Builder::new(Vec::new());
    let fields =
        "Package: big\nVersion: 1\nArchitecture: all\nMaintainer: bench <bench@localhost>\nDescription: many files\n";
    add(&mut control, tar::EntryType::Directory, "./", &[])?;
    add(&mut control, tar::EntryType::Regular, "./control", fields.as_bytes())?;
    let mut deb = b"!<arch>\n".to_vec();
    for (name, member) in [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar", control.into_inner()?),
        ("data.tar", data.into_inner()?), //
    ] {
        deb.extend(format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, member.len()).into_bytes());
        deb.extend(&member);
        deb.resize(deb.len().next_multiple_of(2), b'\n');
    }
    Ok(deb)
}

fn add(tar: &mut tar::Builder<Vec<u8>>, kind: tar::EntryType, path: &str, data: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(data.len() as u64);
    header.set_mode(if kind == tar::EntryType::Directory { 0o755 } else { 0o644 });
    header.set_mtime(1_600_000_000);
    // As it is: the crate would take the `./` away.
    if let Some(gnu) = header.as_gnu_mut() {
        gnu.name[..path.len()].copy_from_slice(path.as_bytes());
    }
    header.set_cksum();
    Ok(tar.append(&header, data)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_one() {
        let deb = archive(3).unwrap();
        assert!(deb.starts_with(b"!<arch>\ndebian-binary   0           0     0     100644  4         `\n2.0\n"));
        assert_eq!(deb.len() % 2, 0);
        assert!(deb.windows(9).any(|w| w == b"./control"));
    }
}
