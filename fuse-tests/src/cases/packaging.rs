//! What is handed to users: the crate and the Debian package.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::case::{User, skip};
use crate::ctx::{Ctx, Out};
use crate::tree::{cases, holds, same};

cases!("packaging": crate_has_what_it_needs.onlay().by(&[User::Root]), deb.onlay().by(&[User::Root]).slow(300),
    cargo_install.onlay().by(&[User::Root]).slow(1200));

fn project() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no parent")?;
    // The binary may have been carried elsewhere.
    if here.join("Cargo.toml").exists() { Ok(here.into()) } else { Err(skip("the sources are not where they were")) }
}

fn cargo() -> Result<Command> {
    let path = std::env::var_os("CARGO").map(PathBuf::from);
    let home = std::env::var_os("CARGO_HOME").or_else(|| std::env::var_os("HOME").map(|h| Path::new(&h).join(".cargo").into()));
    let found = path.into_iter().chain(home.map(|h| Path::new(&h).join("bin/cargo"))).find(|p| p.exists());
    let mut cmd = Command::new(found.ok_or_else(|| skip("there is no cargo"))?);
    cmd.current_dir(project()?);
    Ok(cmd)
}

fn crate_has_what_it_needs(_: &mut Ctx) -> Result<()> {
    let out = Out::of(cargo()?.args(["package", "--list", "--allow-dirty", "--offline", "-p", "onlay"]))?.ok()?;
    let files: Vec<&str> = out.stdout.lines().collect();
    for needed in ["src/main.rs", "README.md", "LICENSE-MIT", "LICENSE-APACHE", "contrib/onlay.1", "docs/drop-in.md"] {
        holds!(files.contains(&needed), "{needed} is not in the crate");
    }
    holds!(!files.iter().any(|f| f.starts_with("fuse-tests") || f.starts_with("bench")), "{files:?}");
    Ok(())
}

/// As the README says it, into a directory of the test's, by what was built for the project already as far as it goes.
fn cargo_install(cx: &mut Ctx) -> Result<()> {
    if std::env::var_os("ONLAY_CARGO_INSTALL").is_none() {
        return Err(skip("on request: ONLAY_CARGO_INSTALL=1 (it builds the crate alone, which takes minutes)"));
    }
    let root = cx.dir.p("root");
    let mut cmd = cargo()?;
    cmd.args(["install", "--path", ".", "--locked", "--root"]).arg(&root).env("CARGO_TARGET_DIR", project()?.join("target"));
    Out::of(&mut cmd)?.ok().context("cargo install")?;
    let bin = root.join("bin/onlay");
    let said = Out::of(Command::new(&bin).arg("--version"))?.ok()?.stdout;
    holds!(said.starts_with("onlay "), "{said}");
    // Nothing else comes with it, and it works.
    same!(std::fs::read_dir(root.join("bin"))?.count(), 1);
    cx.lower()?.file("f", "x")?;
    Out::of(Command::new(&bin).args(cx.mount_args()?))?.ok()?;
    let seen = cx.m.read("f");
    Out::of(Command::new(&bin).arg("umount").arg(&cx.m.0))?.ok()?;
    same!(seen?, "x");
    Ok(())
}

/// Built by cargo-deb from the binary under test; installed, used and removed over a copy of the system that vanishes.
fn deb(cx: &mut Ctx) -> Result<()> {
    let path = std::env::var_os("ONLAY_CARGO_DEB").ok_or_else(|| {
        skip("on request: ONLAY_CARGO_DEB=/path/to/cargo-deb (cargo install cargo-deb takes minutes)")
    })?;
    let release = project()?.join("target/release");
    if !release.join("onlay").exists() {
        return Err(skip("there is no release build in target/release"));
    }
    let deb = cx.dir.p("onlay.deb");
    let cargo = PathBuf::from(cargo()?.get_program());
    let bin = cargo.parent().unwrap_or(Path::new("/")).display().to_string();
    let mut cmd = Command::new(path);
    cmd.args(["deb", "--no-build", "--no-strip", "-p", "onlay", "-o"]).arg(&deb).current_dir(project()?).env("CARGO", &cargo);
    cmd.env("PATH", format!("{bin}:/usr/bin:/bin"));
    Out::of(&mut cmd)?.ok().context("cargo deb")?;
    cx.dir.file("l/f", "x")?;
    let script = format!(
        r#"set -e
cd {d}
mount -t tmpfs none mnt; mkdir mnt/u mnt/w mnt/m
for at in usr etc var/lib var/log; do
    mkdir -p mnt/u/$at mnt/w/$at
    mount -t overlay -o lowerdir=/$at,upperdir=mnt/u/$at,workdir=mnt/w/$at none /$at
done
rm -f /usr/bin/fuse-overlayfs
dpkg -i --force-depends "$PWD/onlay.deb" > /dev/null
onlay --version; fuse-overlayfs --version
test -e /usr/share/man/man1/onlay.1.gz; test -e /usr/share/man/man1/onlay-fuse-overlayfs.1.gz
test -s /usr/share/bash-completion/completions/onlay
test -s /usr/share/zsh/vendor-completions/_onlay; test -s /usr/share/fish/vendor_completions.d/onlay.fish
mkdir mnt/up mnt/work
for type in onlay fuse-overlayfs; do
    mount -t fuse.$type none mnt/m -o lowerdir=$PWD/l,upperdir=$PWD/mnt/up,workdir=$PWD/mnt/work
    cat mnt/m/f; echo " $type"
    findmnt -n -o FSTYPE mnt/m
    onlay umount mnt/m
done
readlink -f /usr/bin/fuse-overlayfs
dpkg -r onlay > /dev/null
test ! -e /usr/bin/onlay; test ! -L /usr/bin/fuse-overlayfs
echo removed"#,
        d = cx.dir.0.display()
    );
    let out = Out::of(Command::new("unshare").args(["--mount", "--propagation", "private", "sh", "-c", &script]))?.ok()?;
    let said: Vec<&str> = out.stdout.lines().skip(2).collect();
    let want = ["x onlay", "fuse.onlay", "x fuse-overlayfs", "fuse.onlay", "/usr/bin/onlay", "removed"];
    same!(said, want);
    holds!(!Path::new("/usr/lib/onlay").exists());
    Ok(())
}
