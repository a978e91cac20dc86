//! Who the command is, what it finds mounted, what it may use up, its terminal.

use std::process::{Command, Stdio};

use super::session::Session;
use super::{Place, code, line, text};

pub(super) fn users_are_the_views(p: &Place) {
    let out = p.run(&["--user=web"], &["sh", "-c", "id; cat /proc/self/status"]);
    if p.is_norange() {
        assert_eq!(code(&out), 125);
        assert!(text(&out.stderr).contains("/etc/subuid"), "{out:?}");
        return;
    }
    let said = text(&out.stdout);
    assert!(said.starts_with("uid=33(web) gid=34(www) groups=34(www),40(log)"), "{out:?}");
    for set in ["CapPrm:", "CapEff:", "CapInh:", "CapAmb:"] {
        let value = said.lines().find_map(|l| l.strip_prefix(set)).unwrap();
        assert_eq!(value.trim(), "0000000000000000", "{set}");
    }
    assert_eq!(p.sh(&["--user=7:www"], "id -u; id -g; id -G"), "7\n34\n34");
    // With nothing left that could change ids, ids are changed nevertheless.
    assert_eq!(p.sh(&["--user=web", "--no-caps"], "id -u"), "33");
    assert!(p.sh(&["--no-caps"], "cat /proc/self/status").contains("CapBnd:\t0000000000000000"));
    let out = p.run(&["--user=nobody"], &["true"]);
    assert_eq!(code(&out), 125);
    assert!(text(&out.stderr).starts_with("onlay: user nobody: not in the view's /etc/passwd\nhint: "), "{out:?}");
}

pub(super) fn what_the_caller_gave_stays_whose_it_is(p: &Place) {
    use std::os::unix::fs::MetadataExt;
    let fifo = p.dir("given").join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let opened = std::fs::File::options().read(true).write(true).open(&fifo).unwrap();
    let before = opened.metadata().map(|m| (m.uid(), m.gid())).unwrap();
    // Where there is but one id, nobody else can be asked for.
    let user = if p.is_norange() { "--user=root" } else { "--user=web" };
    let mut c = p.command("plain", &[user], &["true"]);
    assert!(c.stdin(Stdio::null()).stdout(opened.try_clone().unwrap()).status().unwrap().success());
    assert_eq!(opened.metadata().map(|m| (m.uid(), m.gid())).unwrap(), before);
}

pub(super) fn volumes_are_shown(p: &Place) {
    let shared = p.dir("shared");
    std::fs::write(shared.join("file"), "mine").unwrap();
    let volume = format!("--volume={}:/work", shared.display());
    assert_eq!(p.sh(&[&volume], "cat /work/file; echo new > /work/other"), "mine");
    assert_eq!(std::fs::read_to_string(shared.join("other")).unwrap(), "new\n");
    let file = format!("--volume={}:/etc/hosts", shared.join("file").display());
    assert_eq!(p.sh(&[&file, "--net=none"], "cat /etc/hosts"), "mine");
    let out = p.run(&["--volume=/no/such:/work"], &["true"]);
    assert_eq!(code(&out), 125);
    assert!(text(&out.stderr).starts_with("onlay: mount /no/such on /work, nodev: No such file"), "{out:?}");
    assert_eq!(p.sh(&["--tmpfs=/tmp"], "echo x > /tmp/y; cat /tmp/y; grep -c ' /tmp tmpfs' /proc/mounts"), "x\n1");
}

pub(super) fn set_id_bits_of_the_view_are_not_looked_at(p: &Place) {
    let options = "cut -d' ' -f2,4 /proc/mounts | grep '^/ '";
    assert!(p.sh(&[], options).contains("nosuid"));
}

pub(super) fn a_read_only_view(p: &Place) {
    let script = "{ touch /tmp/x; } 2>/dev/null && echo written; echo y > /dev/shm/y && cat /dev/shm/y; \
                  echo z > /secret/z && cat /secret/z";
    assert_eq!(p.sh(&["--read-only", "--tmpfs=/secret"], script), "y\nz");
}

pub(super) fn limits_hold(p: &Place) {
    assert_eq!(p.sh(&["--nofile=77"], "ulimit -n; ulimit -Hn"), "77\n77");
}

pub(super) fn no_input_unless_asked(p: &Place) {
    let mut c = p.command("plain", &["--no-stdin"], &["cat"]);
    let child = c.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!((code(&out), out.stdout.len()), (0, 0));
}

pub(super) fn a_terminal_of_its_own(p: &Place) {
    use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};
    let script = "tty; test -t 0 && test -t 2 && echo all; trap 'stty size' WINCH; stty size; echo ready; \
                  while test -z \"$line\"; do read line; done; echo \"got $line\"; exit 4";
    let mut s = Session::start(&p.command("plain", &["--tty"], &["sh", "-c", script]));
    s.expect("/dev/pts/0\r\nall\r\n");
    s.expect("ready");
    let raw = tcgetattr(&s.terminal).unwrap();
    assert!(!raw.local_modes.contains(rustix::termios::LocalModes::ICANON), "not raw");
    tcsetwinsize(&s.terminal, Winsize { ws_row: 33, ws_col: 99, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    s.expect("33 99");
    s.say("word\r");
    s.expect("got word");
    // Its own keys end it there, not us here.
    assert_eq!(s.end(), Some(4));
    let after = tcgetattr(&s.terminal).unwrap();
    assert!(after.local_modes.contains(rustix::termios::LocalModes::ICANON), "not set back");
    let mut s = Session::start(&p.command("plain", &["--tty"], &["sh", "-c", "echo up; sleep 1000"]));
    s.expect("up");
    s.say("\x03");
    assert_eq!(s.end(), Some(130));
    // Without a terminal here, there is one inside all the same.
    let mut c = p.command("plain", &["--tty"], &["sh", "-c", "test -t 1 && cat"]);
    let mut child = c.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"piped\n").unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    assert_eq!(line(&mut out), "piped");
    assert!(child.wait().unwrap().success());
}
