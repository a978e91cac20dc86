//! `onlay run --host`: the machine stays as it is.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::case::User;
use crate::ctx::{Ctx, Out};
use crate::manifest::{Manifest, What};
use crate::tree::{cases, holds, same};

use super::run::{ALL, host};

cases!("host":
    untouched.onlay().by(ALL), upper_is_thrown_away.onlay().by(ALL), view_of_itself.onlay().by(ALL),
    packages.onlay().by(&[User::Root]), other_users_files.onlay().by(&[User::Ordinary, User::Norange]),
    own_home.onlay().by(ALL), nested.onlay().by(&[User::Root]).slow(180),
);

const TOUCHED: [&str; 4] = ["/etc/hostname", "/etc/motd", "/usr/share/doc", "/etc/passwd"];

fn machine() -> Result<Vec<Manifest>> {
    TOUCHED.iter().map(|p| Manifest::of(Path::new(p), What::DISK)).collect()
}

fn unchanged(before: &[Manifest]) -> Result<()> {
    for ((path, b), a) in TOUCHED.iter().zip(before).zip(machine()?) {
        b.check(&a, path)?;
    }
    Ok(())
}

fn untouched(cx: &mut Ctx) -> Result<()> {
    let before = machine()?;
    // The issue's own words.
    let out = cx.onlay(&[
        "run", "--host", "--", "sh", "-c", "rm -rf /etc/hostname /usr/share/doc; echo x > /etc/motd",
    ])?;
    unchanged(&before)?;
    out.ok()?;
    // And it did happen inside.
    let script = "rm -rf /etc/hostname /usr/share/doc; echo x > /etc/motd; cat /etc/motd; \
                  ls /usr/share/doc /etc/hostname";
    let out = host(cx, script)?;
    unchanged(&before)?;
    same!(out.stdout, "x\n");
    holds!(out.code != 0 && out.stderr.contains("/usr/share/doc"), "{out:?}");
    Ok(())
}

/// Where a throw-away upper may be.
fn find_everywhere(name: &str) -> Result<String> {
    let home = std::env::var("HOME").unwrap_or_else(|_| "/root".to_owned());
    let places = ["/tmp", "/var/tmp", "/run", "/dev/shm", "/var/lib", "/var/cache", &home];
    Ok(Out::of(Command::new("find").args(places).args(["-xdev", "-name", name, "-not", "-path", "/proc/*"]))?.stdout)
}

fn upper_is_thrown_away(cx: &mut Ctx) -> Result<()> {
    let name = format!("thrown-away-{}", std::process::id());
    let out = host(cx, &format!("echo x > /etc/{name}; ls /etc/{name}"))?.ok()?;
    same!(out.stdout.trim(), format!("/etc/{name}"));
    same!(find_everywhere(&name)?, "");
    // Also when the command fails, or is killed.
    same!(host(cx, &format!("echo x > /etc/{name}; kill -9 $$"))?.code, 137);
    same!(find_everywhere(&name)?, "");
    // Directories without permissions go as well.
    host(cx, &format!("mkdir -p /etc/{name}/d; touch /etc/{name}/d/f; chmod 000 /etc/{name}/d /etc/{name}"))?.ok()?;
    same!(find_everywhere(&name)?, "");
    Ok(())
}

fn view_of_itself(cx: &mut Ctx) -> Result<()> {
    let name = format!("mirror-{}", std::process::id());
    let places = "/tmp /var/tmp /run /dev/shm /var/lib /var/cache $HOME";
    let script = format!("echo x > /etc/{name}; find {places} -name {name} 2>/dev/null; true");
    same!(host(cx, &script)?.ok()?.stdout, "");
    Ok(())
}

fn packages(cx: &mut Ctx) -> Result<()> {
    // Removing a package by its own tools, as one would try it out.
    let script = "dpkg --version > /dev/null || exit 3; rm -rf /var/lib/dpkg; dpkg -l 2>&1 | head -1; echo done";
    let out = host(cx, script)?;
    if out.code == 3 {
        return Err(crate::case::skip("no dpkg here"));
    }
    holds!(out.stdout.ends_with("done\n") && Path::new("/var/lib/dpkg/status").exists());
    Ok(())
}

fn other_users_files(cx: &mut Ctx) -> Result<()> {
    let script = "stat -c %u /etc/shadow /usr/bin/sh; ls /root 2>&1; rm -f /usr/bin/sh; test -e /usr/bin/sh || echo gone";
    let out = host(cx, script)?;
    let words: Vec<&str> = out.stdout.split_whitespace().collect();
    holds!(words.starts_with(&["0", "0"]) && words.ends_with(&["gone"]), "{out:?}");
    holds!(Path::new("/usr/bin/sh").exists());
    Ok(())
}

fn own_home(cx: &mut Ctx) -> Result<()> {
    let home = cx.dir.p("home");
    std::fs::create_dir(&home)?;
    std::fs::write(home.join("f"), "mine")?;
    let h = home.display();
    let script = format!("cat {h}/f; echo new > {h}/f; cat {h}/f; rm -rf {h}; ls {h} 2>/dev/null");
    same!(host(cx, &script)?.stdout, "minenew\n");
    same!(std::fs::read_to_string(home.join("f"))?, "mine");
    Ok(())
}

fn nested(cx: &mut Ctx) -> Result<()> {
    // A union in the view: needs /dev/fuse inside, which the minimal /dev does not have; the answer must be clear.
    let onlay = cx.binary().display();
    let out = host(cx, &format!("{onlay} run --host -- true; echo $?"))?;
    let code = out.stdout.trim();
    holds!(code == "0" || (code == "125" && out.stderr.contains("onlay: ") && out.stderr.contains("hint: ")), "{out:?}");
    Ok(())
}
