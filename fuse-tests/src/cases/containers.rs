//! What a container is told when it is made: labels, a file for its id, how it wants to be ended, whether its image is
//! fetched.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::bad_input::is_clear;
use super::lifecycle::{Shelf, until};
use super::run::ALL;
use crate::ctx::Ctx;
use crate::docker_registry::Registry;
use crate::tree::{cases, holds, same};

cases!("containers":
    labels_are_kept_and_found.onlay().by(ALL), the_id_is_written_once.onlay().by(ALL),
    each_is_ended_as_it_wants.onlay().by(ALL), images_are_fetched_as_told.onlay().by(ALL),
    left_by_keys.onlay().by(ALL), nothing_passes_to_the_next.onlay().by(ALL),
    standard_outputs_are_the_users.onlay().by(ALL), names_of_the_host.onlay().by(ALL),
    a_terminal_needs_one.onlay().by(ALL), many_are_stopped_and_started_at_once.onlay().by(ALL),
);

fn labels_are_kept_and_found(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    let tar = cx.dir.p("root.tar").display().to_string();
    b.says(&["import", "-q", &tar, "labelled:1", "-c", "LABEL from=image team=nobody"])?;
    let file = cx.dir.file("labels", "# ours\nteam=file\nx=1\n")?.p("labels").display().to_string();
    let flags = ["--label-file", &file, "-l", "team=web", "--label", "bare"];
    b.says(&[&["run", "--name", "job"], &flags[..], &["labelled:1", "id"]].concat())?;
    b.says(&["create", "--name", "web", "-l", "team=db", "base:1", "id"])?;
    let labels = |name: &str| -> Result<Value> {
        Ok(serde_json::from_str::<Value>(&b.says(&["inspect", name])?)?[0]["process"]["labels"].take())
    };
    same!(labels("job")?, serde_json::json!({"bare": "", "from": "image", "team": "web", "x": "1"}));
    let names = |filters: &[&str]| -> Result<String> {
        let mut args = vec!["ps", "-a", "--format", "json"];
        filters.iter().for_each(|f| args.extend(["--filter", f]));
        let list: Vec<Value> = serde_json::from_str(&b.says(&args)?)?;
        Ok(list.iter().filter_map(|row| row["name"].as_str()).collect::<Vec<_>>().join(" "))
    };
    let base = b.says(&["images", "-q", "base:1"])?;
    for (filters, want) in [
        (&["label=team"][..], "web job"), (&["label=team=web"], "job"), (&["label=bare", "label=x=2"], ""),
        (&["name=we"], "web"), (&["status=exited"], "job"), (&["status=created", "label=team"], "web"),
        (&["ancestor=labelled"], "job"), (&["ancestor=base:1"], "web"), (&[&*format!("ancestor={base}")], "web"),
        (&["name=^web$"], "web"), (&["name=^eb"], ""), (&["name=eb$"], "web"), (&["exited=0"], "job"), (&["exited=1"], ""),
        (&["status=exited", "status=created"], "web job"), (&["name=web", "name=job", "label=x"], "job"), (&["status=dead"], ""),
    ] {
        same!((filters, names(filters)?), (filters, want.to_owned()));
    }
    for bad in ["label", "colour=red", "status=asleep", "label="] {
        is_clear(&b.call(&["ps", "--filter", bad])?, bad)?;
    }
    for (flag, value) in [("--label", "=x"), ("--label-file", "/no/such")] {
        let out = b.call(&["run", "--name", "bad", flag, value, "base:1", "id"])?;
        is_clear(&out, flag)?;
        same!(out.code, 125);
    }
    same!(b.says(&["ps", "-aq", "--filter", "name=bad"])?, "");
    Ok(())
}

fn the_id_is_written_once(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    let path = cx.dir.p("id").display().to_string();
    let id = b.says(&["run", "-d", "--name", "web", "--cidfile", &path, "base:1", "sleep", "100"])?;
    same!(cx.dir.read("id")?, id.clone());
    let out = b.call(&["run", "--name", "job", "--cidfile", &path, "base:1", "id"])?;
    is_clear(&out, &path)?;
    same!((out.code, cx.dir.read("id")?), (125, id));
    // Of one that could not be made nothing is left.
    let other = cx.dir.p("other").display().to_string();
    let out = b.call(&["run", "--name", "web", "--cidfile", &other, "base:1", "id"])?;
    is_clear(&out, "web")?;
    holds!(!cx.dir.has("other")?);
    Ok(())
}

fn each_is_ended_as_it_wants(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    let tar = cx.dir.p("root.tar").display().to_string();
    b.says(&["import", "-q", &tar, "quits:1", "-c", "STOPSIGNAL SIGQUIT"])?;
    let script = "for s in TERM QUIT HUP USR1; do trap \"echo $s; exit 3\" $s; done; echo up; while :; do sleep 0.05; done";
    for (flags, image, stop, want) in [
        (&[][..], "base:1", &[][..], "TERM"), (&[], "quits:1", &[], "QUIT"),
        (&["--stop-signal", "hup"], "quits:1", &[], "HUP"), (&["--stop-signal", "SIGUSR1"], "base:1", &["-t", "20"], "USR1"),
        (&["--stop-signal", "HUP"], "base:1", &["-s", "QUIT"], "QUIT"),
    ] {
        b.says(&[&["run", "-d", "--name", "web"], flags, &[image, "sh", "-c", script]].concat())?;
        until("up", || Ok(b.says(&["logs", "web"])? == "up"))?;
        b.says(&[&["stop"], stop, &["web"]].concat())?;
        same!((b.says(&["logs", "web"])?, b.says(&["wait", "web"])?), (format!("up\n{want}"), "3".to_owned()));
        b.says(&["rm", "web"])?;
    }
    // One that does not listen has as long as it asked for.
    b.says(&["run", "-d", "--name", "job", "--stop-timeout", "0", "base:1", "sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.05; done"])?;
    until("deaf", || Ok(b.says(&["logs", "job"])? == "deaf"))?;
    let begun = std::time::Instant::now();
    b.says(&["stop", "job"])?;
    holds!(begun.elapsed().as_secs() < 9, "it waited for {:?}", begun.elapsed());
    same!(b.says(&["wait", "job"])?, "137");
    let out = b.call(&["run", "--stop-signal", "WHISTLE", "base:1", "id"])?;
    is_clear(&out, "--stop-signal WHISTLE")?;
    same!(out.code, 125);
    Ok(())
}

/// One that is thrown away may begin with the directories of the one before.
fn nothing_passes_to_the_next(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    let look = "stat -c '%a %u:%g %F %h %s' /; test $(stat -c %Y /) -gt 1000000000 && echo new; find / -xdev | sort; hostname; echo $X";
    let same_name = ["run", "--rm", "--hostname", "box"];
    let looks = || b.says(&[&same_name[..], &["base:1", "sh", "-c", look]].concat());
    let fresh = looks()?;
    holds!(fresh.contains("755 0:0 directory") && fresh.contains("new\n"), "{fresh}");
    for change in [
        "true", "touch -d '1980-01-01 00:00' /", "for i in $(seq 2000); do echo > /f$i; done; rm /f*", "echo x > /secret", "mkdir /d; rmdir /d", "chmod 700 /", "chown 7:7 / 2>/dev/null || chmod 711 /",
        "rm -r /etc", "mv /bin/sh /sh", "echo x >> /etc/passwd; exit 3", "kill -9 $$", "ln /etc/passwd /p; rm /p",
    ] {
        let out = b.call(&["run", "--rm", "-e", "X=y", "base:1", "sh", "-c", change])?;
        holds!(!out.stderr.contains("onlay:"), "{change}: {out:?}");
        same!((change, looks()?), (change, fresh.clone()));
    }
    // Many at once, some of which write.
    std::thread::scope(|scope| -> Result<()> {
        let all: Vec<_> = (0..8)
            .map(|n| {
                let own = if n % 2 == 0 { format!("echo {n} > /secret") } else { "true".to_owned() };
                let script = format!("test ! -e /secret && {own}");
                let b = &b;
                scope.spawn(move || (0..4).try_for_each(|_| b.says(&["run", "--rm", "base:1", "sh", "-c", &script]).map(drop)))
            })
            .collect();
        for one in all {
            one.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        Ok(())
    })?;
    same!(looks()?, fresh);
    // One that was killed, and what it leaves.
    let id = b.says(&["run", "-d", "--rm", "base:1", "sleep", "100"])?;
    b.says(&["rm", "-f", &id])?;
    same!(looks()?, fresh);
    b.says(&["gc"])?;
    same!((b.says(&["ps", "-aq"])?, looks()?), (String::new(), fresh));
    Ok(())
}

/// `/dev/stdout` is opened again by who logs there, as images do by a link.
fn standard_outputs_are_the_users(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    let user = if b.says(&["run", "--rm", "base:1", "sh", "-c", "cat /proc/self/uid_map"])?.split_whitespace().last() == Some("1") {
        "0"
    } else {
        "1000"
    };
    let script = "id -u; echo one > /dev/stdout; echo two > /dev/stderr; exec sleep 100";
    let out = b.call(&["run", "--rm", "-u", user, "base:1", "sh", "-c", &script.replace("exec sleep 100", "true")])?.ok()?;
    same!((out.stdout.trim(), out.stderr.trim()), (&*format!("{user}\none"), "two"));
    b.says(&["run", "-d", "--name", "web", "-u", user, "base:1", "sh", "-c", script])?;
    until("it has logged", || Ok(b.call(&["logs", "web"])?.stderr.contains("two")))?;
    same!(b.says(&["exec", "-u", user, "web", "sh", "-c", "echo three > /dev/stdout"])?, "three");
    Ok(())
}

fn names_of_the_host(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    let both = |flags: &[&str]| b.says(&[&["run", "--rm"], flags, &["base:1", "sh", "-c", "hostname; echo $HOSTNAME"]].concat());
    let said = both(&[])?;
    let (name, variable) = said.split_once('\n').context("two lines")?;
    same!((name.len(), name), (12, variable));
    same!(both(&["-h", "foo"])?, "foo\nfoo");
    same!(both(&["-h", "foo", "-e", "HOSTNAME=bar"])?, "foo\nbar");
    Ok(())
}

/// Else who waits for the end of its input would wait for ever.
fn a_terminal_needs_one(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    b.says(&["run", "-d", "--name", "web", "base:1", "sleep", "100"])?;
    for args in [&["run", "--rm", "-it", "base:1", "sh"][..], &["exec", "-it", "web", "sh"]] {
        let out = b.call(args)?;
        is_clear(&out, "not a terminal")?;
        same!(out.code, 1);
    }
    Ok(())
}

fn many_are_stopped_and_started_at_once(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    // It does not listen to TERM.
    b.says(&["run", "-d", "--name", "web", "base:1", "sleep", "100"])?;
    b.says(&["run", "-d", "--name", "job", "base:1", "sleep", "100"])?;
    std::thread::scope(|scope| -> Result<()> {
        let all: Vec<_> =
            (0..6).map(|_| scope.spawn(|| b.says(&["restart", "-t", "0", "web"]))).collect();
        for one in all {
            same!(one.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??, "web");
        }
        Ok(())
    })?;
    same!(b.says(&["exec", "web", "true"])?, "");
    same!(b.says(&["stop", "-t", "1", "web", "job"])?, "web\njob");
    let out = b.call(&["inspect", "web", "nosuch"])?;
    holds!(out.code != 0 && out.stdout.contains("\"web\"") && out.stderr.contains("nosuch"), "{out:?}");
    b.says(&["rm", "-f", "nosuch"])?;
    Ok(())
}

fn images_are_fetched_as_told(cx: &mut Ctx) -> Result<()> {
    let registry = Registry::start(&cx.dir, "reg", false)?;
    let b = Shelf::new(cx)?;
    let name = format!("{}/team/app:1", registry.host);
    let here = || -> Result<bool> { Ok(b.call(&["inspect", &name])?.code == 0) };
    // Moves the tag to an image that says so.
    let publish = |text: &str| -> Result<()> {
        b.says(&["run", "--name", "job", "base:1", "sh", "-c", &format!("echo {text} > /etc/version")])?;
        b.says(&["commit", "-q", "job", &name])?;
        b.says(&["push", "-q", &name])?;
        b.says(&["rmi", &name])?;
        b.says(&["rm", "job"])?;
        Ok(())
    };
    let run = |more: &[&str]| b.call(&[&["run", "--rm"], more, &[&name, "cat", "/etc/version"]].concat());
    publish("one")?;
    let out = run(&["--pull", "never"])?;
    is_clear(&out, &name)?;
    same!((out.code, here()?), (125, false));
    // The name says where from. Nothing is added to what the command says.
    let out = run(&[])?.ok()?;
    same!((out.stdout.as_str(), here()?), ("one\n", true));
    b.says(&["tag", &name, "kept:1"])?;
    publish("two")?;
    b.says(&["tag", "kept:1", &name])?;
    let asked = registry.during(|| {
        same!(run(&["--pull", "missing"])?.ok()?.stdout, "one\n");
        Ok(())
    })?;
    same!(asked.count("GET", "/", 200), 0);
    same!(run(&["--pull", "always"])?.ok()?.stdout, "two\n");
    same!(run(&["--pull", "never"])?.ok()?.stdout, "two\n");
    // Detached, and of a container that is only made.
    b.says(&["rmi", &name])?;
    b.says(&["run", "-d", "--name", "web", &name, "sleep", "100"])?;
    b.says(&["rm", "-f", "web"])?;
    b.says(&["rmi", &name])?;
    b.says(&["create", "--name", "job", &name, "id"])?;
    // What is not there either, and what no registry is asked for.
    let none = format!("{}/team/none:1", registry.host);
    for image in [none.as_str(), "no-such-image"] {
        let out = b.call(&["run", "--rm", image, "id"])?;
        is_clear(&out, image.rsplit('/').next().context("name")?.split(':').next().context("name")?)?;
        same!(out.code, 125);
    }
    same!(b.says(&["ps", "-aq"])?.lines().count(), 1);
    Ok(())
}

/// Onlay on a terminal of its own: what is written to its standard input is typed.
fn typed(b: &Shelf<'_>, words: &str) -> Result<Child> {
    let line = format!("{} --root {} {words}", b.cx.binary().display(), b.store);
    let mut script = Command::new("script");
    script.args(["-q", "-e", "-c", &line, "/dev/null"]).env("SHELL", "/bin/sh");
    script.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().context("script")
}

fn left_by_keys(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    let there = |path: &str| Ok(b.call(&["exec", "web", "ls", path]).is_ok_and(|out| out.code == 0));
    let mut terminal = typed(&b, "run -it --name web base:1 sh")?;
    let mut keys = terminal.stdin.take().context("stdin")?;
    // A shell that begins may throw away what was typed before.
    until("typed", || {
        keys.write_all(b"touch /tmp/typed\n")?;
        there("/tmp/typed")
    })?;
    // One of the two is the shell's: the line before.
    keys.write_all(b"touch /tmp/more\n\x10\n")?;
    until("more is typed", || there("/tmp/more"))?;
    keys.write_all(b"\x10\x11")?;
    same!(terminal.wait()?.code(), Some(0));
    same!((b.status()?, there("/tmp/typed")?), ("running".to_owned(), true));
    // A process that came later is left likewise, by other keys, and goes on.
    let mut terminal = typed(&b, "exec -it --detach-keys ctrl-a,d web sh")?;
    let mut keys = terminal.stdin.take().context("stdin")?;
    until("typed inside", || {
        keys.write_all(b"touch /tmp/inner\n")?;
        there("/tmp/inner")
    })?;
    keys.write_all(b"(sleep 1; touch /tmp/later) & touch /tmp/begun\n")?;
    until("it has begun", || there("/tmp/begun"))?;
    keys.write_all(b"\x01d")?;
    same!(terminal.wait()?.code(), Some(0));
    until("it goes on", || there("/tmp/later"))?;
    holds!(b.says(&["top", "web"])?.lines().filter(|l| l.ends_with(" sh")).count() == 2, "{}", b.says(&["top", "web"])?);
    // It is ended as any other; what it was started from is not there any more.
    b.says(&["stop", "-t", "0", "web"])?;
    same!((b.status()?, b.says(&["wait", "web"])?), ("exited".to_owned(), "137".to_owned()));
    let out = b.call(&["run", "--detach-keys", "ctrl-17", "base:1", "id"])?;
    is_clear(&out, "--detach-keys ctrl-17")?;
    Ok(())
}
