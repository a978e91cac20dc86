//! Container engines with us as their storage driver, as root and as an ordinary user: what is asserted is what must be
//! true of the images, whatever else drives them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::case::{User, skip};
use crate::ctx::{Ctx, Out, daemons, mounts_below};
use crate::tree::{Tree, cases, holds, same};

const BOTH: &[User] = &[User::Root, User::Ordinary];

cases!("engines":
    podman.onlay().by(BOTH).engine().slow(600), podman_mounts.onlay().by(BOTH).engine().slow(300),
    podman_after_a_crash.onlay().by(BOTH).engine().slow(300), podman_id_maps.onlay().by(BOTH).engine().slow(300), buildah.onlay().by(BOTH).engine().slow(600),
);

/// The base image's files: what builds delete, replace, rename and link.
const BASE: &str = "\
set -eu
mkdir -p bin etc tmp proc dev sys run var/tmp data dir/sub tree/gone hl
cp /bin/busybox bin/
for a in sh ls cat rm mkdir touch chown chmod echo ln mv id stat find sort test wc sleep cp mount umount grep; do
    ln -s busybox bin/$a
done
printf 'root:x:0:0::/:/bin/sh\\n' > etc/passwd
printf 'root:x:0:\\n' > etc/group
: > etc/hosts; : > etc/hostname; : > etc/resolv.conf
for i in 1 2 3; do echo $i > data/$i; done
echo old > dir/old; echo old > dir/sub/old; echo deep > tree/gone/deep; echo t > tree/t
echo linked > hl/a; ln hl/a hl/b
chmod 750 tree";

/// Deletions, a replaced directory, hard links, renames, owners and modes, a directory that becomes a file.
const BUILD: &str = "\
FROM localhost/base:1
COPY added /added
RUN rm /data/1 && echo new > /data/4 && ln /data/4 /data/5
RUN rm -r /dir && mkdir /dir && echo only > /dir/x
RUN mv /data /data2 && chown 5:6 /data2/2 && chmod 4755 /data2/2
RUN rm -r /tree/gone && echo file > /tree/gone && mkdir /tree/t2 && mv /tree/t /tree/t2/
RUN test /hl/a -ef /hl/b && ln /hl/a /hl/c && rm /hl/b && chmod 600 /hl/a
";

/// What the built image holds: name, kind, mode, owner, links, size.
pub(super) const BUILT: &str = "\
/added regular file 640 0:0 1
/data2 directory 755 0:0 -
/data2/2 regular file 4755 5:6 1
/data2/3 regular file 644 0:0 1
/data2/4 regular file 644 0:0 2
/data2/5 regular file 644 0:0 2
/dir directory 755 0:0 -
/dir/x regular file 644 0:0 1
/hl directory 755 0:0 -
/hl/a regular file 600 0:0 2
/hl/c regular file 600 0:0 2
/tree directory 750 0:0 -
/tree/gone regular file 644 0:0 1
/tree/t2 directory 755 0:0 -
/tree/t2/t regular file 644 0:0 1
";

/// Prints the above, and checks what a list does not show.
pub(super) const LOOK: &str = "\
for f in $(find /added /data* /dir /hl /tree | sort); do
    if test -d $f; then stat -c '%n %F %a %u:%g -' $f; else stat -c '%n %F %a %u:%g %h' $f; fi
done
test /hl/a -ef /hl/c && test /data2/4 -ef /data2/5 || echo 'links are not links'
test \"$(cat /added /data2/2 /data2/4 /dir/x /tree/gone /tree/t2/t /hl/c)\" = \"added
2
new
only
file
t
linked\" || echo 'contents differ'
find / -xdev -name '.wh.*'";

/// What each step's layer must hold, and nothing more; directories are left out.
const LAYERS: [&[&str]; 6] = [
    &["added"],
    &["data/.wh.1", "data/4", "data/5"],
    &["dir/x"],
    &[".wh.data", "data2/2", "data2/3", "data2/4", "data2/5"],
    &["tree/.wh.t", "tree/gone", "tree/t2/t"],
    &["hl/.wh.b", "hl/a", "hl/c"],
];

/// An engine's private world: configuration, store, runtime directory.
pub(super) struct Engine {
    /// The program, and what each call of it begins with.
    pub(super) program: &'static str,
    pub(super) global: Vec<String>,
    /// What each `run` needs.
    pub(super) run_flags: &'static [&'static str],
    pub(super) home: Tree,
    /// The case's: everything is below it.
    pub(super) dir: Tree,
}

impl Engine {
    /// A fresh store with us as its driver. Skipped where the programs are not there or can't run.
    pub(super) fn new(cx: &Ctx, programs: &[&str]) -> Result<Self> {
        for program in programs.iter().chain(&["crun", "busybox"]) {
            if !installed(program) {
                return Err(skip(format!("there is no {program}")));
            }
        }
        if Path::new("/sys/fs/cgroup/unified/cgroup.controllers").exists() {
            return Err(skip("control groups of both versions are mounted: crun refuses them; start the tests as root"));
        }
        let home = Tree(cx.dir.p("h"));
        // Short names: podman's programs have buffers that a long path does not fit into, and fail in silence.
        for d in ["bin", "run", "r", "x", "t", ".config/containers"] {
            home.dir(d)?;
        }
        home.mode("x", 0o700)?;
        std::os::unix::fs::symlink(cx.binary(), home.p("bin/fuse-overlayfs"))?;
        let h = home.0.display();
        home.file(
            ".config/containers/storage.conf",
            format!(
                "[storage]\ndriver=\"overlay\"\nrunroot=\"{h}/run\"\ngraphroot=\"{h}/r\"\nrootless_storage_path=\"{h}/r\"\n\
                 [storage.options.overlay]\nmount_program=\"{h}/bin/fuse-overlayfs\"\n"
            ),
        )?;
        // No more than this: the process that cleans up after a container does not read the file.
        home.file(
            ".config/containers/containers.conf",
            format!(
                "[containers]\ncgroups=\"disabled\"\nnetns=\"host\"\ndefault_sysctls=[]\n\
                 default_ulimits=[\"nofile=20000:20000\",\"nproc=32768:32768\"]\n\
                 [engine]\ncgroup_manager=\"cgroupfs\"\nevents_logger=\"file\"\nruntime=\"crun\"\n\
                 tmp_dir=\"{h}/t\"\n"
            ),
        )?;
        home.file(".config/containers/policy.json", "{\"default\":[{\"type\":\"insecureAcceptAnything\"}]}")?;
        let dir = cx.dir.clone();
        let engine = Self { program: "podman", global: Vec::new(), run_flags: &[], home, dir };
        engine.dir.dir("base")?.file("context/added", "added\n")?.mode("context/added", 0o640)?;
        engine.dir.file("context/Containerfile", BUILD)?;
        Out::of(Command::new("sh").args(["-c", BASE]).current_dir(engine.dir.p("base")))?.ok().context("base")?;
        let tar = "tar -C base --owner=0 --group=0 --numeric-owner -cf base.tar .";
        Out::of(Command::new("sh").args(["-c", tar]).current_dir(&engine.dir.0))?.ok().context("tar")?;
        Ok(engine)
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.dir.p(name).display().to_string()
    }

    pub(super) fn command(&self, program: &str) -> Command {
        let mut cmd = Command::new(program);
        let config = self.home.p(".config/containers");
        cmd.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        cmd.env("HOME", &self.home.0).env("XDG_RUNTIME_DIR", self.home.p("x")).env("TMPDIR", "/var/tmp");
        cmd.env("CONTAINERS_CONF", config.join("containers.conf"));
        cmd.env("CONTAINERS_STORAGE_CONF", config.join("storage.conf"));
        cmd.current_dir(self.dir.p("context"));
        cmd
    }

    /// Runs an engine; what it prints, without the last newline.
    fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let start = Instant::now();
        let out = Out::of(self.command(program).args(args)).and_then(Out::ok);
        // Seen if the case fails.
        println!("{:.1} s: {program} {}", start.elapsed().as_secs_f64(), args.first().unwrap_or(&""));
        if let Some(said) = out.as_ref().ok().map(|o| o.stderr.trim_end()).filter(|s| !s.is_empty()) {
            println!("{said}");
        }
        Ok(out.with_context(|| format!("{program} {}", args.join(" ")))?.stdout.trim_end().to_owned())
    }

    pub(super) fn call(&self, args: &[&str]) -> Result<String> {
        let global: Vec<&str> = self.global.iter().map(String::as_str).collect();
        self.run(self.program, &[&global, args].concat())
    }

    /// The same, with one more variable in its environment.
    pub(super) fn run_with(&self, variable: &str, value: &str, args: &[&str]) -> Result<String> {
        let mut cmd = self.command(self.program);
        cmd.args(&self.global).args(args).env(variable, value);
        Ok(Out::of(&mut cmd)?.ok().with_context(|| args.join(" "))?.stdout.trim_end().to_owned())
    }

    /// What a shell prints in a new container of an image.
    pub(super) fn sh(&self, image: &str, script: &str) -> Result<String> {
        self.call(&[&["run", "--rm"], self.run_flags, &[image, "sh", "-c", script]].concat())
    }

    /// Digests of an image's layers, bottom first.
    fn layers(&self, image: &str) -> Result<String> {
        self.run("buildah", &["inspect", "--type", "image", "--format", "{{.OCIv1.RootFS.DiffIDs}}", image])
    }

    /// The files of each layer of an image, as a registry would get them.
    fn files(&self, image: &str) -> Result<Vec<Vec<String>>> {
        let at = self.path(&format!("saved-{}", image.replace(['/', ':'], "-")));
        self.call(&["save", "-q", "--format", "docker-dir", "-o", &at, image])?;
        let manifest: serde_json::Value = serde_json::from_slice(&fs::read(format!("{at}/manifest.json"))?)?;
        let layers = manifest["layers"].as_array().context("no layers")?;
        layers
            .iter()
            .map(|layer| {
                let digest = layer["digest"].as_str().context("no digest")?;
                let blob = format!("{at}/{}", digest.trim_start_matches("sha256:"));
                files_of(&blob)
            })
            .collect()
    }

    /// Ends what the engine leaves running on purpose, and sees that nothing else is left.
    fn end(&self, user: User) -> Result<()> {
        // podman as root with a map of ids cleans up from a mount namespace of its own, and leaves this one of its tmpfs.
        for at in mounts_below(&self.dir.0)?.iter().filter(|m| user == User::Root && m.ends_with("userdata/shm")) {
            nix::mount::umount2(at, nix::mount::MntFlags::empty()).with_context(|| at.display().to_string())?;
        }
        self.call(&["rm", "-fa", "-t", "0"])?;
        self.call(&["umount", "-a"]).or_else(|e| if user == User::Root { Err(e) } else { Ok(String::new()) })?;
        let end = Instant::now() + Duration::from_secs(10);
        while !daemons(&self.dir.0)?.is_empty() {
            ensure!(Instant::now() < end, "daemons are left: {:?}", daemons(&self.dir.0)?);
            std::thread::sleep(Duration::from_millis(50));
        }
        let left = mounts_below(&self.dir.0)?;
        // The engine's own bind mount of its store is not ours.
        let ours: Vec<_> = left.iter().filter(|m| m.ends_with("merged")).collect();
        ensure!(ours.is_empty(), "mounts are left: {ours:?}");
        self.no_leftovers(user)?;
        if user == User::Root {
            for at in left {
                nix::mount::umount2(&at, nix::mount::MntFlags::MNT_DETACH).with_context(|| at.display().to_string())?;
            }
            return Ok(());
        }
        // The process that keeps the user namespace of all containers.
        self.call(&["system", "migrate"]).map(drop)
    }

    /// Nothing lies in any work directory.
    fn no_leftovers(&self, user: User) -> Result<()> {
        let root = self.home.p("r").display().to_string();
        let script = format!("find {root}/overlay/*/work/work -mindepth 1 ! -type c 2> /dev/null || true");
        let found = if user == User::Root {
            Out::of(Command::new("sh").args(["-c", &script]))?.ok()?.stdout
        } else {
            self.call(&["unshare", "sh", "-c", &script])?
        };
        ensure!(found.is_empty(), "left in work directories:\n{found}");
        Ok(())
    }
}

/// The names in a tar file that are no directories.
pub(super) fn files_of(tar: &str) -> Result<Vec<String>> {
    let list = Out::of(Command::new("tar").args(["-tf", tar]))?.ok()?.stdout;
    let mut files: Vec<String> = list.lines().filter(|l| !l.ends_with('/')).map(str::to_owned).collect();
    files.sort();
    Ok(files)
}

pub(super) fn installed(program: &str) -> bool {
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .any(|d| fs::metadata(Path::new(d).join(program)).is_ok_and(|m| m.permissions().mode() & 0o111 != 0))
}

/// The image is as the build says, layer by layer, and no step brought anything back.
fn check_built(e: &Engine, image: &str) -> Result<()> {
    same!(e.sh(image, LOOK)? + "\n", BUILT);
    check_layers(&e.files(image)?)
}

pub(super) fn check_layers(layers: &[Vec<String>]) -> Result<()> {
    same!(layers.len(), 1 + LAYERS.len());
    for (i, (got, want)) in layers[1..].iter().zip(LAYERS).enumerate() {
        // A directory that replaces one says so in either way.
        let got: Vec<&str> = got.iter().map(String::as_str).filter(|f| *f != "dir/.wh..wh..opq").collect();
        let got: Vec<&str> = got.into_iter().filter(|f| !matches!(*f, "dir/.wh.old" | "dir/.wh.sub")).collect();
        holds!(got == want, "step {}: the layer has {got:?}, want {want:?}", i + 1);
    }
    holds!(layers[3].iter().any(|f| f.starts_with("dir/.wh.")), "the replaced directory is not opaque: {:?}", layers[3]);
    Ok(())
}

fn podman(cx: &mut Ctx) -> Result<()> {
    let e = Engine::new(cx, &["podman", "buildah"])?;
    e.call(&["import", "-q", &e.path("base.tar"), "localhost/base:1"])?;
    same!(e.sh("base:1", "test /hl/a -ef /hl/b && stat -c %h /hl/a")?, "2");
    let build = ["build", "-q", "--isolation", "chroot", "--layers", "--no-cache", "--timestamp", "1600000000", "-t"];
    e.call(&[&build[..], &["built:1", "."]].concat())?;
    check_built(&e, "built:1")?;
    // The same input makes the same layers.
    e.call(&[&build[..], &["built:2", "."]].concat())?;
    same!(e.layers("built:1")?, e.layers("built:2")?);

    changes_of_a_container(&e)?;

    // Through an archive and back.
    let tar = e.path("built.tar");
    e.call(&["save", "-q", "-o", &tar, "built:1"])?;
    let before = e.layers("built:1")?;
    e.call(&["rmi", "-fa"])?;
    e.call(&["load", "-q", "-i", &tar])?;
    same!(e.layers("built:1")?, before);
    same!(e.sh("built:1", LOOK)? + "\n", BUILT);
    e.end(cx.user)
}

/// run, diff, commit, and run of that.
pub(super) fn changes_of_a_container(e: &Engine) -> Result<()> {
    // No image id begins with this name.
    let change = "echo hi > /hello; rm -r /dir /data2/3; mkdir /dir; chmod 700 /tree; chown 7:8 /hl/a; mv /tree/t2 /moved";
    e.call(&[&["run", "--name", "zz-changed"], e.run_flags, &["built:1", "sh", "-c", change]].concat())?;
    let diff = e.call(&["diff", "zz-changed"])?;
    let mut diff: Vec<&str> = diff.lines().collect();
    diff.sort_unstable();
    for line in ["A /hello", "D /data2/3", "D /dir/x", "C /tree", "C /hl/a", "A /moved", "A /moved/t", "D /tree/t2"] {
        holds!(diff.contains(&line), "the diff lacks {line}: {diff:?}");
    }
    holds!(!diff.iter().any(|l| l.contains("/data2/4") || l.contains("/tree/gone")), "unchanged: {diff:?}");
    e.call(&["commit", "zz-changed", "changed:1"])?;
    let look = "ls /dir; cat /hello /moved/t; stat -c '%a %u:%g %h' /tree /hl/a; test /hl/a -ef /hl/c && echo linked; \
                ls /data2 /tree; find / -xdev -name '.wh.*'";
    let said = e.sh("changed:1", look)?;
    let links = said.lines().nth(2).and_then(|l| l.rsplit(' ').next()).unwrap_or("?");
    let want = format!("hi\nt\n700 0:0 {links}\n600 7:8 2\nlinked\n/data2:\n2\n4\n5\n\n/tree:\ngone");
    same!(said, want);
    // The image that it was made of is as before.
    same!(e.sh("built:1", LOOK)? + "\n", BUILT);
    e.call(&["rm", "-f", "zz-changed"])?;
    Ok(())
}

/// `-v x:/m:O` and `--mount type=image`.
fn podman_mounts(cx: &mut Ctx) -> Result<()> {
    let e = Engine::new(cx, &["podman"])?;
    e.call(&["import", "-q", &e.path("base.tar"), "localhost/base:1"])?;
    let tree = Tree(e.dir.p("given"));
    tree.file("keep", "kept\n")?.file("sub/gone", "")?;
    let volume = format!("{}:/m:O", tree.0.display());
    let script = "rm -r /m/sub; echo changed > /m/keep; echo new > /m/new; cat /m/*; ls /m";
    let said = e.call(&["run", "--rm", "-v", &volume, "base:1", "sh", "-c", script])?;
    same!(said, "changed\nnew\nkeep\nnew");
    same!((tree.ls("")?, tree.read("keep")?), ("keep sub".to_owned(), "kept\n".to_owned()));

    let script = "cat /i/data/1; test /i/hl/a -ef /i/hl/b && echo linked; echo x > /i/new || echo refused; ls /i/dir";
    for (more, want) in [("", "1\nlinked\nrefused\nold\nsub"), (",rw=true", "1\nlinked\nold\nsub")] {
        let mount = format!("type=image,source=localhost/base:1,destination=/i{more}");
        let out = Out::of(e.command("podman").args(["run", "--rm", "--mount", &mount, "base:1", "sh", "-c", script]))?;
        holds!(out.code == 0, "--mount {mount}: {}{}", out.stdout, out.stderr);
        same!(out.stdout.trim_end(), want);
    }
    same!(e.sh("base:1", "test -e /new || echo none")?, "none");
    e.end(cx.user)
}

/// podman mounts containers volatile. When a daemon dies, its upper is marked; podman takes the mark away itself before it
/// mounts again (containers/storage, `work/incompat/volatile`), because it knows what it is doing: the container starts.
fn podman_after_a_crash(cx: &mut Ctx) -> Result<()> {
    let e = Engine::new(cx, &["podman"])?;
    e.call(&["import", "-q", &e.path("base.tar"), "localhost/base:1"])?;
    e.call(&["run", "-d", "--name", "zz-crashed", "base:1", "sh", "-c", "echo x >> /kept; sleep 1000"])?;
    let end = Instant::now() + Duration::from_secs(20);
    while e.call(&["exec", "zz-crashed", "cat", "/kept"]).is_err() {
        ensure!(Instant::now() < end, "the container does not run");
    }
    let serving = daemons(&e.dir.0)?;
    ensure!(!serving.is_empty(), "nobody serves it");
    for (pid, _) in serving {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)?;
    }
    e.call(&["stop", "-t", "0", "zz-crashed"])?;
    e.call(&["start", "zz-crashed"])?;
    let again = "while test $(wc -l < /kept) -lt 2; do sleep 0.1; done; cat /kept /data/1; rm /data/1; ls /data";
    let said = e.call(&["exec", "zz-crashed", "sh", "-c", again])?;
    same!(said, "x\nx\n1\n2\n3");
    e.end(cx.user)
}

/// Containers with a map of ids: the image's owners show as they are, and what is made belongs to who made it.
fn podman_id_maps(cx: &mut Ctx) -> Result<()> {
    let e = Engine::new(cx, &["podman"])?;
    e.call(&["import", "-q", &e.path("base.tar"), "localhost/base:1"])?;
    let maps: &[&str] = if cx.user == User::Root {
        &["--uidmap=0:100000:5000", "--gidmap=0:200000:5000"]
    } else {
        &["--uidmap=0:1:5000", "--gidmap=0:1:5000"]
    };
    let script = "stat -c %u:%g /data/1 /hl; id -u; echo new > /new; chown 12:13 /new; chown 3:4 /data/2; \
                  stat -c %u:%g /new /data/2 /data/3; test /hl/a -ef /hl/b && echo linked; chown 9000:1 /new 2> /dev/null || echo refused";
    let run = [&["run", "--name", "zz-mapped"], maps, &["base:1", "sh", "-c", script]].concat();
    same!(e.call(&run)?, "0:0\n0:0\n0\n12:13\n3:4\n0:0\nlinked\nrefused");
    // Without the map the owners in the image are the same: no id of the host is stored.
    e.call(&["commit", "-q", "zz-mapped", "mapped:1"])?;
    same!(e.sh("mapped:1", "stat -c %u:%g /new /data/2 /data/3")?, "12:13\n3:4\n0:0");
    e.end(cx.user)
}

/// `buildah bud --isolation chroot`, and an image from scratch.
fn buildah(cx: &mut Ctx) -> Result<()> {
    let e = Engine::new(cx, &["buildah", "podman"])?;
    e.call(&["import", "-q", &e.path("base.tar"), "localhost/base:1"])?;
    let bud = ["bud", "-q", "--isolation", "chroot", "--layers", "--no-cache", "--timestamp", "1600000000", "-t"];
    e.run("buildah", &[&bud[..], &["built:1", "."]].concat())?;
    check_built(&e, "built:1")?;
    e.run("buildah", &[&bud[..], &["built:2", "."]].concat())?;
    same!(e.layers("built:1")?, e.layers("built:2")?);

    let scratch = e.run("buildah", &["from", "--name", "zz-scratch", "scratch"])?;
    e.run("buildah", &["copy", "-q", &scratch, &e.path("base"), "/"])?;
    e.run("buildah", &["run", "--isolation", "chroot", &scratch, "sh", "-c", "rm -r /dir; echo s > /s; ln /s /s2"])?;
    e.run("buildah", &["commit", "-q", "--rm", &scratch, "scratch:1"])?;
    same!(e.sh("scratch:1", "ls /s /s2; test /s -ef /s2 && echo linked; test -e /dir || echo gone")?, "/s\n/s2\nlinked\ngone");
    let containers = e.run("buildah", &["containers", "-q"])?;
    same!(containers, "");
    e.end(cx.user)
}
