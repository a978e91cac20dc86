//! What the command sees.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;

use super::{Place, code, text};

pub(super) fn zombies_are_reaped(p: &Place) {
    let script = "for i in 1 2 3 4 5; do (sleep 0.05 & ) ; done; sleep 0.5; \
                  grep -l 'State:.Z' /proc/[0-9]*/status | wc -l";
    assert_eq!(p.sh(&[], script), "0");
}

pub(super) fn only_our_processes_are_visible(p: &Place) {
    let seen = p.sh(
        &[],
        "ls /proc | grep '^[0-9]*$' | sort | tr '\\n' ' '; echo; cut -d' ' -f4 /proc/self/stat; echo $$ $PPID",
    );
    let mut lines = seen.lines();
    let pids: Vec<i32> = lines.next().unwrap().split_whitespace().map(|w| w.parse().unwrap()).collect();
    assert!(pids.contains(&1) && pids.len() <= 7 && pids.iter().all(|p| *p < 20), "{pids:?}");
    assert_eq!(seen.lines().last().unwrap(), "2 1");
}

pub(super) fn nothing_can_signal_the_caller(p: &Place) {
    // Signals to the caller's process group end where the command's session does.
    let mut c = p.command("plain", &[], &["sh", "-c", "trap '' TERM; kill -TERM 0; kill -KILL -1; echo alive"]);
    let out = c.process_group(0).output().unwrap();
    assert!(out.status.signal().is_none(), "{out:?}");
    assert_eq!(text(&out.stdout), "alive\n");
    // Init is there to be seen, and not to be touched.
    assert_eq!(p.sh(&[], "kill -KILL 1; kill -STOP 1; sleep 0.1; echo alive"), "alive");
}

pub(super) fn the_host_name_is_ours(p: &Place) {
    assert_eq!(p.sh(&["--hostname=box"], "hostname"), "box");
    let machine = nix::unistd::gethostname().unwrap().into_string().unwrap();
    assert_eq!(p.sh(&[], "hostname"), machine);
}

pub(super) fn without_network_only_lo_and_up(p: &Place) {
    let script = "ls /sys/class/net; ip link show lo | grep -c 'LOOPBACK,UP'; ip addr show lo | grep -c 127.0.0.1";
    assert_eq!(p.sh(&["--net=none"], script), "lo\n1\n1");
}

pub(super) fn dev_holds_only_what_is_expected(p: &Place) {
    let list = "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero";
    let seen = p.sh(&[], "ls /dev | tr '\\n' ' '");
    let missing_mqueue = list.replace("mqueue ", "");
    assert!(seen.trim() == list || seen.trim() == missing_mqueue, "{seen}");
    assert_eq!(
        p.sh(&[], "echo x > /dev/null; head -c 3 /dev/zero | od -An -tx1; echo y > /dev/shm/f; cat /dev/shm/f"),
        " 00 00 00\ny"
    );
    assert_eq!(p.sh(&[], "stat -c %t:%T /dev/null /dev/urandom | tr '\\n' ' '"), "1:3 1:9");
    assert_eq!(p.sh(&[], "test -e /dev/fuse || test -e /dev/vda || echo none"), "none");
}

pub(super) fn terminals_can_be_made(p: &Place) {
    assert_eq!(p.sh(&[], "exec 3<>/dev/ptmx && ls /dev/pts | tr '\\n' ' '"), "0 ptmx");
}

pub(super) fn the_old_root_is_gone(p: &Place) {
    let mounts = p.sh(&[], "cat /proc/self/mountinfo");
    assert!(!mounts.contains("/merged") && mounts.lines().all(|l| !l.contains(" / / ")), "{mounts}");
    assert!(p.sh(&[], "ls -d /..; ls / | tr '\\n' ' '; cd ../../..; pwd").contains("secret"));
    assert_eq!(p.sh(&[], "ls /proc/1/root/ /proc/1/cwd/ 2>/dev/null; readlink /proc/1/exe /proc/1/fd/* | wc -l"), "0");
    assert_eq!(p.sh(&[], "cat /proc/1/exe 2>/dev/null | wc -c"), "0");
    // An open directory of the machine's, given on purpose, is not passed on.
    let script = "cd /proc/self/fd/7 2>/dev/null && echo out; ls /proc/self/fd | tr '\\n' ' '";
    let inner = p.command("plain", &[], &["sh", "-c", script]);
    let mut outer = Command::new("sh");
    outer.args(["-c", "exec 7</; exec \"$@\"", "sh"]).arg(inner.get_program()).args(inner.get_args());
    let out = outer.output().unwrap();
    assert_eq!(text(&out.stdout).trim(), "0 1 2 3", "{out:?}");
}

pub(super) fn descriptors_are_closed(p: &Place) {
    assert_eq!(p.sh(&[], "ls /proc/self/fd | tr '\\n' ' '"), "0 1 2 3");
}

pub(super) fn capabilities_are_limited(p: &Place) {
    // CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE SYS_CHROOT SETFCAP
    let want = (1u64 << 0) | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 18 | 1 << 31;
    let status = p.sh(&[], "cat /proc/self/status");
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap().trim().to_owned();
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        assert_eq!(u64::from_str_radix(&field(set), 16).unwrap(), want, "{set}");
    }
    for set in ["CapInh:", "CapAmb:"] {
        assert_eq!(u64::from_str_radix(&field(set), 16).unwrap(), 0, "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(p.sh(&[], "mount -t tmpfs t /tmp 2>/dev/null || umount /proc 2>/dev/null || echo denied"), "denied");
}

pub(super) fn masked_and_read_only(p: &Place) {
    for file in ["/proc/kcore", "/proc/keys", "/proc/timer_list"] {
        assert_eq!(p.sh(&[], &format!("cat {file} 2>/dev/null | wc -c")), "0", "{file}");
    }
    assert_eq!(p.sh(&[], "ls /sys/firmware /proc/acpi /proc/scsi 2>/dev/null | grep -v : | grep . | wc -l"), "0");
    for path in ["/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/proc/sys/vm/drop_caches", "/sys/power/state"] {
        let script = format!("test ! -e {path} || {{ echo 0 > {path}; }} 2>/dev/null || echo denied");
        assert!(["denied", ""].contains(&&*p.sh(&[], &script)), "{path}");
    }
    let mounts = p.sh(&[], "cat /proc/self/mounts");
    for path in ["/proc/sys", "/proc/bus", "/sys"] {
        let line = mounts.lines().rfind(|l| l.split(' ').nth(1) == Some(path));
        assert!(line.is_some_and(|l| l.split(' ').nth(3).unwrap().starts_with("ro")), "{path}: {line:?}");
    }
}

pub(super) fn the_ids_are_mapped(p: &Place) {
    let map = p.sh(&[], "cat /proc/self/uid_map; id -u; id -g");
    let rows: Vec<Vec<&str>> = map.lines().map(|l| l.split_whitespace().collect()).collect();
    let (ids, rows) = (&rows[rows.len() - 2..], &rows[..rows.len() - 2]);
    assert_eq!(ids, [["0"], ["0"]]);
    let total: u64 = rows.iter().map(|r| r[2].parse::<u64>().unwrap()).sum();
    let groups = p.sh(&[], "cat /proc/self/setgroups");
    if p.is_norange() {
        assert_eq!((total, &*groups), (1, "deny"));
    } else {
        assert!(total > 65536, "{map}");
        assert_eq!(groups, "allow");
        assert_eq!(p.sh(&[], "id -G"), "0");
    }
}

pub(super) fn links_of_the_image_lead_nowhere_else(p: &Place) {
    let script =
        "test -r /elsewhere/proc/self/status && test -c /elsewhere/dev/null && test -d /dev/pts && echo inside";
    let out = p.command("links", &[], &["sh", "-c", script]).output().unwrap();
    assert_eq!(text(&out.stdout), "inside\n", "{out:?}");
    // Had they led out, these would be the names that were used.
    assert!(!std::path::Path::new("/elsewhere").exists());
}

pub(super) fn missing_directories_are_made_or_named(p: &Place) {
    let out = p.command("bare", &["--ro"], &["true"]).output().unwrap();
    if p.roots.join("bare/proc").exists() {
        // The case of root, below, came first.
        return;
    }
    assert_eq!(code(&out), 125);
    assert!(text(&out.stderr).starts_with("onlay: make directory /proc: Read-only file system"), "{out:?}");
    assert!(text(&out.stderr).contains("\nhint: "), "{out:?}");
    if p.owns_the_roots() {
        let out = p.command("bare", &[], &["true"]).output().unwrap();
        assert_eq!(code(&out), 0, "{out:?}");
        for dir in ["proc", "sys", "dev"] {
            std::fs::remove_dir(p.roots.join("bare").join(dir)).unwrap();
        }
    }
}

pub(super) fn resolv_conf_is_a_read_only_copy(p: &Place) {
    let machine = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    assert_eq!(p.sh(&[], "cat /etc/resolv.conf"), machine.trim_end());
    assert_eq!(p.sh(&[], "{ echo x > /etc/resolv.conf; } 2>/dev/null || echo denied"), "denied");
    assert_eq!(p.sh(&["--net=none"], "cat /etc/resolv.conf"), "old");
    assert!(p.sh(&["--hostname=box"], "cat /etc/hosts").ends_with("127.0.1.1 box"));
    assert_eq!(std::fs::read_to_string(p.roots.join("plain/etc/resolv.conf")).unwrap(), "old\n");
    assert_eq!(p.sh(&["--host"], "cat /etc/resolv.conf /etc/hosts"), "old\nold");
}

pub(super) fn hidden_directories_are_empty(p: &Place) {
    assert_eq!(p.sh(&[], "ls /secret"), "file");
    assert_eq!(
        p.sh(&["--hide=/secret"], "ls /secret | wc -l; { echo x > /secret/y; } 2>/dev/null || echo denied"),
        "0\ndenied"
    );
    assert_eq!(p.sh(&["--hide=/no/such"], "echo fine"), "fine");
}

pub(super) fn the_working_directory_is_inside(p: &Place) {
    assert_eq!(p.sh(&[], "pwd"), "/");
    assert_eq!(p.sh(&["--workdir=/work/deep"], "pwd; readlink /proc/self/cwd"), "/work/deep\n/work/deep");
}

pub(super) fn the_umask_is_the_usual_one(p: &Place) {
    assert_eq!(p.sh(&[], "umask"), "0022");
    assert_eq!(p.sh(&["--host"], "umask"), "0027");
}

pub(super) fn the_machine_as_root(p: &Place) {
    let script =
        "test -d /usr/bin && ls /proc | grep -c '^[0-9]*$' && pwd && touch /etc/x 2>/dev/null; test ! -e /etc/x";
    let out = p.command("/", &["--ro", "--host", "--workdir=/usr"], &["sh", "-c", script]).output().unwrap();
    assert_eq!(code(&out), 0, "{out:?}");
    assert!(text(&out.stdout).ends_with("/usr\n"), "{out:?}");
}
