//! `onlay login`, `pull` and `push`, with Debian's `docker-registry` and other tools' images.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::case::{User, skip};
use crate::ctx::{Ctx, Out};
use crate::docker_registry::{Gate, LOGIN, Registry};
use crate::tree::{cases, holds, same, together};

const BOTH: &[User] = &[User::Root, User::Ordinary];
const ROOT: &[User] = &[User::Root];

cases!("registry":
    login.onlay().by(BOTH), private.onlay().by(BOTH), helper_program.onlay().by(BOTH), only_what_is_new.onlay().by(BOTH),
    committed.onlay().by(BOTH), taken_over.onlay().by(ROOT), with_skopeo.onlay().by(BOTH), zstd_layers.onlay().by(BOTH), docker_manifest.onlay().by(ROOT), platforms.onlay().by(ROOT),
    with_tls.onlay().by(BOTH), interrupted.onlay().by(BOTH), at_the_same_time.onlay().by(BOTH),
    not_there.onlay().by(ROOT), with_podman.onlay().by(BOTH).engine().slow(300),
);

/// Bytes that do not compress, for a layer.
pub(super) fn noise(n: usize) -> Vec<u8> {
    let mut x = 0x2545_f491_u32;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        x.to_le_bytes()[0]
    };
    (0..n).map(|_| next()).collect()
}

/// Our binary, with a configuration of the case's own.
fn onlay(cx: &Ctx, args: &[&str]) -> Command {
    let mut cmd = Command::new(cx.binary());
    cmd.args(args).current_dir(&cx.dir.0).env("HOME", cx.dir.p("home")).env("ONLAY_ROOT", cx.dir.p("store"));
    for name in ["XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "DOCKER_CONFIG"] {
        cmd.env_remove(name);
    }
    cmd.env("REGISTRY_AUTH_FILE", cx.dir.p("auth.json"));
    cmd
}

/// Runs it, and it must work; what it says.
fn done(cx: &Ctx, args: &[&str]) -> Result<String> {
    Ok(Out::of(&mut onlay(cx, args))?.ok().with_context(|| format!("onlay {args:?}"))?.stdout)
}

/// Runs it, and it must fail in one line with a hint; what it says.
fn refused(cx: &Ctx, args: &[&str]) -> Result<String> {
    let out = Out::of(&mut onlay(cx, args))?;
    let told: Vec<_> = out.stderr.lines().filter(|l| l.starts_with("onlay: ") || l.starts_with("hint: ")).collect();
    holds!(out.code == 1 && told.len() == 2 && told[1].starts_with("hint: "), "{args:?}: {out:?}");
    Ok(told[0].to_owned())
}

/// Runs another tool in the case's directory.
pub(super) fn tool(cx: &Ctx, line: &str) -> Result<String> {
    let words: Vec<_> = line.split_whitespace().collect();
    let mut cmd = Command::new(words[0]);
    // podman as an ordinary user keeps things there.
    let run = cx.dir.dir("run")?.mode("run", 0o700)?.p("run");
    cmd.args(&words[1..]).current_dir(&cx.dir.0).env("HOME", cx.dir.p("home")).env("XDG_RUNTIME_DIR", run);
    // Never the machine's, which may be somebody else's; podman insists on its being there.
    if !cx.dir.p("auth.json").exists() {
        cx.dir.file("no-auth.json", "{}")?;
    }
    let auth = ["auth.json", "no-auth.json"].map(|name| cx.dir.p(name)).into_iter().find(|path| path.exists());
    cmd.envs(auth.map(|path| ("REGISTRY_AUTH_FILE", path)));
    match Out::of(&mut cmd) {
        Err(e) if e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound) => {
            Err(skip(format!("there is no {}", words[0])))
        }
        out => Ok(out?.ok().with_context(|| line.to_owned())?.stdout),
    }
}

/// Images in an OCI layout `oci`: `base` of one layer (3 MB), `child` with one more (a small one).
fn images(cx: &Ctx) -> Result<()> {
    images_of(cx, 3_000_000)
}

/// The same, with so many bytes in the large layer.
pub(super) fn images_of(cx: &Ctx, bytes: usize) -> Result<()> {
    cx.dir.dir("home")?;
    cx.dir.file("noise", noise(bytes))?.file("small", "small")?;
    tool(cx, "umoci init --layout oci")?;
    tool(cx, "umoci new --image oci:base")?;
    tool(cx, "umoci insert --rootless --image oci:base noise /noise")?;
    tool(cx, "umoci insert --rootless --image oci:base --tag child small /small")?;
    Ok(())
}

/// Sends one of them to a registry by skopeo.
pub(super) fn theirs(cx: &Ctx, registry: &Registry, image: &str, name: &str, more: &str) -> Result<()> {
    let to = format!("docker://{}/{name}", registry.host);
    tool(cx, &format!("skopeo copy -q --dest-tls-verify=false {more} oci:oci:{image} {to}")).map(drop)
}

/// The digest by which a registry has an image, and its manifest.
fn manifest(cx: &Ctx, registry: &Registry, name: &str) -> Result<String> {
    tool(cx, &format!("skopeo inspect --raw --tls-verify=false docker://{}/{name}", registry.host))
}

/// What lies about in the store that is nothing whole; locks may.
fn leftovers(cx: &Ctx) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for dir in ["store/partial", "store/tmp"] {
        for entry in fs::read_dir(cx.dir.p(dir))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !name.ends_with(".lock") {
                names.push(format!("{dir}/{name}"));
            }
        }
    }
    Ok(names)
}

/// Logs in with a password on standard input.
fn log_in(cx: &Ctx, password: &str, host: &str) -> Result<Out> {
    let mut cmd = onlay(cx, &["login", "--username", LOGIN.0, "--password-stdin", host]);
    let mut child = cmd.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("stdin")?.write_all(format!("{password}\n").as_bytes())?;
    let out = child.wait_with_output()?;
    Ok(Out {
        code: out.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    })
}

fn login(cx: &mut Ctx) -> Result<()> {
    let registry = Registry::start(&cx.dir, "r", true)?;
    let host = registry.host.as_str();
    let file = cx.dir.p("auth.json");
    let wrong = log_in(cx, "wrong", host)?;
    holds!(wrong.code == 1 && wrong.stderr.contains("refuses the password of me"), "{wrong:?}");
    holds!(wrong.stderr.contains("hint: ") && !wrong.stderr.contains("wrong"), "{wrong:?}");
    holds!(!file.exists(), "a login that was refused is kept");
    log_in(cx, LOGIN.1, host)?.ok()?;
    same!(fs::metadata(&file)?.permissions().mode() & 0o7777, 0o600);
    // Others can read it.
    let mut cmd = Command::new("skopeo");
    cmd.args(["login", "--get-login", "--authfile"]).arg(&file).arg(host);
    same!(Out::of(&mut cmd)?.ok()?.stdout, "me\n");
    Out::of(&mut onlay(cx, &["logout", host]))?.ok()?;
    holds!(!fs::read_to_string(&file)?.contains(host), "it is still there");
    let again = Out::of(&mut onlay(cx, &["logout", host]))?;
    holds!(again.code == 1 && again.stderr.contains("no login to"), "{again:?}");
    // Without a terminal nobody can be asked.
    let alone = Out::of(Command::new("setsid").arg("--wait").arg(cx.binary()).args(["login", host]))?;
    holds!(alone.code == 1 && alone.stderr.contains("--password-stdin"), "{alone:?}");
    Ok(())
}

/// A registry that lets in only whom it knows.
fn private(cx: &mut Ctx) -> Result<()> {
    let registry = Registry::start(&cx.dir, "r", true)?;
    let host = registry.host.clone();
    images(cx)?;
    let name = format!("{host}/app:1");
    holds!(refused(cx, &["pull", &name])?.contains("the registry wants a login"), "without a login");
    log_in(cx, LOGIN.1, &host)?.ok()?;
    theirs(cx, &registry, "base", "app:1", "")?;
    done(cx, &["pull", &name])?;
    done(cx, &["push", &name, &format!("{host}/other:1")])?;
    same!(manifest(cx, &registry, "other:1")?, manifest(cx, &registry, "app:1")?);
    done(cx, &["logout", &host])?;
    holds!(refused(cx, &["push", &name])?.contains("the registry wants a login"), "after the logout");
    Ok(())
}

/// A program keeps the password.
fn helper_program(cx: &mut Ctx) -> Result<()> {
    let registry = Registry::start(&cx.dir, "r", true)?;
    let host = registry.host.clone();
    images(cx)?;
    log_in(cx, LOGIN.1, &host)?.ok()?;
    theirs(cx, &registry, "base", "app:1", "")?;
    fs::remove_file(cx.dir.p("auth.json"))?;
    let program = format!(
        "#!/bin/sh\nread server\n[ \"$1 $server\" = 'get {host}' ] || {{ echo credentials not found in native keychain; exit 1; }}\n\
         echo '{{\"ServerURL\":\"x\",\"Username\":\"{}\",\"Secret\":\"{}\"}}'\n",
        LOGIN.0, LOGIN.1
    );
    cx.dir.file("bin/docker-credential-tests", program)?.mode("bin/docker-credential-tests", 0o755)?;
    let path = format!("{}:/usr/bin:/bin", cx.dir.p("bin").display());
    let name = format!("{host}/app:1");
    for (file, works) in [
        (format!("{{\"credHelpers\":{{\"{host}\":\"tests\"}}}}"), true),
        ("{\"credsStore\":\"tests\"}".to_owned(), true),
        (format!("{{\"credHelpers\":{{\"{host}\":\"nosuch\"}}}}"), false),
        ("{\"credHelpers\":{\"other.example\":\"tests\"}}".to_owned(), false),
    ] {
        cx.dir.file("auth.json", &file)?;
        let out = Out::of(onlay(cx, &["pull", &name]).env("PATH", &path))?;
        holds!((out.code == 0) == works, "{file}: {out:?}");
    }
    Ok(())
}

/// After the parent, its child is one layer and one configuration; in both directions, by the registries' own logs.
fn only_what_is_new(cx: &mut Ctx) -> Result<()> {
    let from = Registry::start(&cx.dir, "from", false)?;
    let to = Registry::start(&cx.dir, "to", false)?;
    images(cx)?;
    theirs(cx, &from, "base", "app:base", "")?;
    theirs(cx, &from, "child", "app:child", "")?;
    for (tag, blobs) in [("base", 2), ("child", 2), ("child", 0)] {
        let name = format!("{}/app:{tag}", from.host);
        let asked = from.during(|| done(cx, &["pull", &name]).map(drop))?;
        same!((tag, asked.fetched()), (tag, (blobs, 1)));
    }
    for (tag, blobs) in [("base", 2), ("child", 2), ("child", 0)] {
        let (name, dest) = (format!("{}/app:{tag}", from.host), format!("{}/app:{tag}", to.host));
        let asked = to.during(|| done(cx, &["push", &name, &dest]).map(drop))?;
        same!((tag, asked.sent()), (tag, (blobs, 1)));
        same!(manifest(cx, &to, &format!("app:{tag}"))?, manifest(cx, &from, &format!("app:{tag}"))?);
    }
    // By digest, from the other one: nothing but the manifest.
    let digest = done(cx, &["push", "--quiet", &format!("{}/app:child", from.host), &format!("{}/app:x", to.host)])?;
    let name = format!("{}/app@{}", to.host, digest.trim());
    let asked = to.during(|| done(cx, &["pull", &name]).map(drop))?;
    same!(asked.fetched(), (0, 1));
    // What is told is a name by which it is found again.
    holds!(done(cx, &["pull", &name])?.starts_with(&format!("Pulled image: {name} (")), "{name}");
    let list: serde_json::Value = serde_json::from_str(&done(cx, &["images", "--format", "json", &format!("{}/app", to.host)])?)?;
    same!((list[0]["tag"].as_str(), list[0]["digest"].as_str()), (None, Some(digest.trim())));
    holds!(done(cx, &["inspect", &name])?.contains(&format!("\"{name}\"")), "{name}");
    same!(done(cx, &["rmi", &name])?, format!("Untagged: {name}\n"));
    Ok(())
}

/// After a commit on a base that is already there: one layer, one configuration, one manifest; there and back.
fn committed(cx: &mut Ctx) -> Result<()> {
    if Out::of(&mut onlay(cx, &["commit", "--help"]))?.code != 0 {
        return Err(skip("this onlay has no commit"));
    }
    let registry = Registry::start(&cx.dir, "r", false)?;
    let app = |tag: &str| format!("{}/app:{tag}", registry.host);
    cx.dir.dir("home")?.dir("root/bin")?.dir("root/tmp")?;
    fs::copy("/bin/busybox", cx.dir.p("root/bin/busybox")).context("package busybox-static")?;
    std::os::unix::fs::symlink("busybox", cx.dir.p("root/bin/sh"))?;
    tool(cx, "tar -C root --owner=0 --group=0 -cf base.tar .")?;
    done(cx, &["import", "base.tar", &app("base")])?;
    let asked = registry.during(|| done(cx, &["push", &app("base")]).map(drop))?;
    same!(asked.sent(), (2, 1));
    done(cx, &["run", "--name", "one", &app("base"), "/bin/sh", "-c", "echo new > /new"])?;
    done(cx, &["commit", "one", &app("child")])?;
    let asked = registry.during(|| done(cx, &["push", &app("child")]).map(drop))?;
    same!(asked.sent(), (2, 1));
    let child = done(cx, &["push", "--quiet", &app("child")])?;
    done(cx, &["rm", "one"])?;
    done(cx, &["rmi", &app("child"), &app("base")])?;
    done(cx, &["gc"])?;
    for tag in ["base", "child"] {
        let asked = registry.during(|| done(cx, &["pull", &app(tag)]).map(drop))?;
        same!((tag, asked.fetched()), (tag, (2, 1)));
    }
    same!(done(cx, &["push", "--quiet", &app("child")])?, child);
    same!(done(cx, &["run", "--rm", &app("child"), "/bin/sh", "-c", "read x < /new; echo $x"])?, "new\n");
    Ok(())
}

/// What the registry has in another repository is not sent.
fn taken_over(cx: &mut Ctx) -> Result<()> {
    let registry = Registry::start(&cx.dir, "r", false)?;
    images(cx)?;
    theirs(cx, &registry, "child", "team/app:1", "")?;
    let name = format!("{}/team/app:1", registry.host);
    done(cx, &["pull", &name])?;
    let asked = registry.during(|| done(cx, &["push", &name, &format!("{}/copy:1", registry.host)]).map(drop))?;
    same!((asked.sent(), asked.count("POST", "mount=", 201)), ((0, 1), 3));
    same!(manifest(cx, &registry, "copy:1")?, manifest(cx, &registry, "team/app:1")?);
    Ok(())
}

/// An image there and back again is the same, bit for bit, to another tool.
fn with_skopeo(cx: &mut Ctx) -> Result<()> {
    let registry = Registry::start(&cx.dir, "r", false)?;
    images(cx)?;
    for (form, more) in [("oci", ""), ("docker", "--format v2s2")] {
        theirs(cx, &registry, "child", &format!("theirs:{form}"), more)?;
        let name = format!("{}/theirs:{form}", registry.host);
        done(cx, &["pull", &name])?;
        done(cx, &["push", &name, &format!("{}/ours:{form}", registry.host)])?;
        let back = manifest(cx, &registry, &format!("ours:{form}"))?;
        same!(back, manifest(cx, &registry, &format!("theirs:{form}"))?);
        let ours = format!("docker://{}/ours:{form}", registry.host);
        tool(cx, &format!("skopeo copy -q --src-tls-verify=false {ours} oci:back:{form}"))?;
        tool(cx, &format!("umoci unpack --rootless --image back:{form} unpacked-{form}"))?;
        same!(fs::read(cx.dir.p(format!("unpacked-{form}/rootfs/noise")))?, noise(3_000_000));
        same!(fs::read(cx.dir.p(format!("unpacked-{form}/rootfs/small")))?, b"small".to_vec());
    }
    Ok(())
}

/// Layers compressed with zstd are the same layers, and go out as they came.
fn zstd_layers(cx: &mut Ctx) -> Result<()> {
    let registry = Registry::start(&cx.dir, "r", false)?;
    images(cx)?;
    let host = &registry.host;
    tool(cx, "skopeo copy -q --dest-decompress oci:oci:child dir:plain")?;
    tool(cx, &format!("skopeo copy -q --dest-tls-verify=false --format oci --dest-compress-format zstd dir:plain docker://{host}/app:zstd"))?;
    holds!(manifest(cx, &registry, "app:zstd")?.contains("layer.v1.tar+zstd"), "skopeo did not do as told");
    let zstd = format!("{host}/app:zstd");
    done(cx, &["pull", &zstd])?;
    done(cx, &["load", "-q", "-i", "oci"])?;
    let layers = |name: &str| -> Result<serde_json::Value> {
        let mut all: serde_json::Value = serde_json::from_str(&done(cx, &["inspect", name])?)?;
        Ok(all[0]["layers"].take())
    };
    same!(layers(&zstd)?, layers("child")?);
    done(cx, &["push", &zstd, &format!("{host}/back:1")])?;
    same!(manifest(cx, &registry, "back:1")?, manifest(cx, &registry, "app:zstd")?);
    Ok(())
}

/// Docker's image manifest version 2, schema 2, stays what it is.
fn docker_manifest(cx: &mut Ctx) -> Result<()> {
    let registry = Registry::start(&cx.dir, "r", false)?;
    images(cx)?;
    theirs(cx, &registry, "base", "app:1", "--format v2s2")?;
    let name = format!("{}/app:1", registry.host);
    done(cx, &["pull", &name])?;
    done(cx, &["push", &name, &format!("{}/app:2", registry.host)])?;
    let raw: serde_json::Value = serde_json::from_str(&manifest(cx, &registry, "app:2")?)?;
    same!(raw["mediaType"].as_str(), Some("application/vnd.docker.distribution.manifest.v2+json"));
    Ok(())
}

/// An index of several platforms: this machine's image, or another that is asked for.
fn platforms(cx: &mut Ctx) -> Result<()> {
    let registry = Registry::start(&cx.dir, "r", false)?;
    images(cx)?;
    let (here, other) = if cfg!(target_arch = "aarch64") { ("arm64", "amd64") } else { ("amd64", "arm64") };
    theirs(cx, &registry, "base", "one:1", "")?;
    tool(cx, &format!("umoci config --image oci:child --tag other --architecture {other}"))?;
    let index: serde_json::Value = serde_json::from_slice(&fs::read(cx.dir.p("oci/index.json"))?)?;
    let mut entries = Vec::new();
    for entry in index["manifests"].as_array().context("manifests")? {
        let tag = entry["annotations"]["org.opencontainers.image.ref.name"].as_str().context("a tag")?;
        let arch = match tag {
            "base" => here,
            "other" => other,
            _ => continue,
        };
        entries.push(serde_json::json!({"mediaType": entry["mediaType"], "digest": entry["digest"], "size": entry["size"],
            "platform": {"os": "linux", "architecture": arch}}));
    }
    let several = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": entries})
    .to_string();
    // As a layout of its own, whose one entry is the index.
    let sum = Out::of(Command::new("sha256sum").arg(cx.dir.file("several", &several)?.p("several")))?.ok()?.stdout;
    let hex = sum.split(' ').next().context("a sum")?.to_owned();
    cx.dir.file(&format!("oci/blobs/sha256/{hex}"), &several)?;
    let entry = serde_json::json!({"mediaType": "application/vnd.oci.image.index.v1+json", "size": several.len(),
        "digest": format!("sha256:{hex}"), "annotations": {"org.opencontainers.image.ref.name": "several"}});
    cx.dir.file("oci/index.json", serde_json::json!({"schemaVersion": 2, "manifests": [entry]}).to_string())?;
    theirs(cx, &registry, "several", "app:1", "--all")?;
    let name = format!("{}/app:1", registry.host);
    let said = done(cx, &["pull", &name])?;
    holds!(said.contains(&format!("sha256:{hex}")), "{said}");
    done(cx, &["push", &name, &format!("{}/here:1", registry.host)])?;
    holds!(!manifest(cx, &registry, "here:1")?.contains("manifests"), "an index was pushed");
    let asked = registry.during(|| done(cx, &["pull", "--platform", &format!("linux/{other}"), &name]).map(drop))?;
    same!(asked.fetched(), (2, 2));
    // Without an index there is nothing to choose from: never another one than was asked for.
    let one = format!("{}/one:1", registry.host);
    let wrong = refused(cx, &["pull", "--platform", &format!("linux/{other}"), &one])?;
    holds!(wrong.contains(&format!("one:1 is for linux/{here}, not for linux/{other}")), "{wrong}");
    done(cx, &["pull", "--platform", &format!("linux/{here}"), &one])?;
    done(cx, &["push", &name, &format!("{}/theirs:1", registry.host)])?;
    let told = Out::of(&mut onlay(cx, &["pull", &format!("{}/theirs:1", registry.host)]))?.ok()?.stderr;
    holds!(told.contains(&format!("warning: {}/theirs:1 is for linux/{other}", registry.host)), "{told}");
    let none = refused(cx, &["pull", "--platform", "linux/s390x", &name])?;
    holds!(none.contains("no image for linux/s390x") && none.contains(&format!("linux/{other}")), "{none}");
    Ok(())
}

/// A certificate that the system does not know is no good, unless told so.
fn with_tls(cx: &mut Ctx) -> Result<()> {
    let registry = Registry::start_tls(&cx.dir, "r")?;
    images(cx)?;
    theirs(cx, &registry, "base", "app:1", "")?;
    let name = format!("{}/app:1", registry.host);
    let said = refused(cx, &["pull", &name])?;
    holds!(said.contains("no trust in the registry") && said.contains("certificate"), "{said}");
    done(cx, &["pull", "--tls-verify=false", &name])?;
    // As the system's roots are set for one program.
    let known = |args: &[&str]| Out::of(onlay(cx, args).env("SSL_CERT_FILE", cx.dir.p("r/cert.pem")))?.ok();
    known(&["pull", &name])?;
    known(&["push", &name, &format!("{}/app:2", registry.host)])?;
    same!(manifest(cx, &registry, "app:2")?, manifest(cx, &registry, "app:1")?);
    Ok(())
}

/// Killed in the middle of a layer, it goes on from there.
fn interrupted(cx: &mut Ctx) -> Result<()> {
    let registry = Registry::start(&cx.dir, "r", false)?;
    images(cx)?;
    theirs(cx, &registry, "base", "app:1", "")?;
    let gate = Gate::before(&registry, 1_000_000)?;
    let name = format!("{}/app:1", gate.host);
    let mut pull = onlay(cx, &["pull", &name]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let largest = || -> Result<u64> {
        let Ok(entries) = fs::read_dir(cx.dir.p("store/partial")) else { return Ok(0) };
        Ok(entries.map(|e| Ok(e?.metadata()?.len())).collect::<Result<Vec<_>>>()?.into_iter().max().unwrap_or(0))
    };
    while largest()? < 500_000 {
        holds!(std::time::Instant::now() < end && pull.try_wait()?.is_none(), "nothing comes");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    pull.kill()?;
    pull.wait()?;
    let there = largest()?;
    let images = done(cx, &["images", "--format", "json"])?;
    holds!(!images.contains("app"), "half an image is shown: {images}");
    gate.open();
    let asked = registry.during(|| done(cx, &["pull", &name]).map(drop))?;
    let rest: Vec<_> = asked.0.iter().filter(|r| r.status == 206).map(|r| r.bytes).collect();
    holds!(rest.len() == 1 && rest[0] < 3_100_000 - there, "{there} bytes were there, {rest:?} came: {asked:?}");
    same!(leftovers(cx)?, Vec::<String>::new());
    Ok(())
}

/// Four at once fetch each blob once.
fn at_the_same_time(cx: &mut Ctx) -> Result<()> {
    let registry = Registry::start(&cx.dir, "r", false)?;
    images(cx)?;
    theirs(cx, &registry, "child", "app:1", "")?;
    let name = format!("{}/app:1", registry.host);
    let cx = &*cx;
    let asked = registry.during(|| together(0..4, |_| done(cx, &["pull", &name]).map(drop)))?;
    same!(asked.fetched(), (3, 4));
    same!(leftovers(cx)?, Vec::<String>::new());
    Ok(())
}

/// What is not there, and nobody who answers.
fn not_there(cx: &mut Ctx) -> Result<()> {
    let registry = Registry::start(&cx.dir, "r", false)?;
    let host = registry.host.clone();
    let said = refused(cx, &["pull", &format!("{host}/app:1")])?;
    holds!(said.contains(&format!("{host}/app:1: the registry does not have it")), "{said}");
    drop(registry);
    let said = refused(cx, &["pull", &format!("{host}/app:1")])?;
    holds!(said.contains(&host) && said.contains("refused"), "{said}");
    let said = refused(cx, &["pull", "UPPER/case"])?;
    holds!(said.contains("UPPER/case"), "{said}");
    let said = refused(cx, &["push", "nothing:1"])?;
    holds!(said.contains("nothing:1"), "{said}");
    Ok(())
}

/// podman takes ours, and we take podman's.
fn with_podman(cx: &mut Ctx) -> Result<()> {
    let registry = Registry::start(&cx.dir, "r", false)?;
    let host = registry.host.clone();
    images(cx)?;
    theirs(cx, &registry, "child", "theirs:1", "")?;
    done(cx, &["pull", &format!("{host}/theirs:1")])?;
    done(cx, &["push", &format!("{host}/theirs:1"), &format!("{host}/ours:1")])?;
    let d = cx.dir.0.display();
    let podman = |line: &str| {
        tool(cx, &format!("podman --root {d}/p --runroot {d}/pr --tmpdir {d}/pt --storage-driver vfs {line}"))
    };
    podman(&format!("pull -q --tls-verify=false {host}/ours:1"))?;
    podman(&format!("tag {host}/ours:1 {host}/podmans:1"))?;
    podman(&format!("push -q --tls-verify=false {host}/podmans:1"))?;
    let id = done(cx, &["pull", "--quiet", &format!("{host}/podmans:1")])?;
    let theirs = podman(&format!("image inspect --format {{{{.Id}}}} {host}/ours:1"))?;
    holds!(theirs.starts_with(id.trim()), "podman has {theirs}, we have {id}");
    Ok(())
}
