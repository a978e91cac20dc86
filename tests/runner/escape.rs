//! Attempts to break out, from inside.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Place, code, line, text};

/// Runs `script` with the output of an inherited descriptor 7 open on the machine's root.
fn with_descriptor(p: &Place, options: &[&str], script: &str) -> std::process::Output {
    let inner = p.command("plain", options, &["sh", "-c", script]);
    let mut outer = Command::new("sh");
    outer.args(["-c", "exec 7</; exec \"$@\"", "sh"]).arg(inner.get_program()).args(inner.get_args());
    outer.output().unwrap()
}

pub(super) fn a_descriptor_as_working_directory(p: &Place) {
    // CVE-2024-21626: a working directory that is a descriptor left open by the runner.
    for fd in 3..16 {
        let out = with_descriptor(p, &[&format!("--workdir=/proc/self/fd/{fd}")], "pwd; ls");
        assert_eq!((code(&out), text(&out.stdout)), (125, String::new()), "{fd}: {out:?}");
    }
    let out = with_descriptor(p, &["--workdir=/proc/1/cwd"], "ls");
    assert_eq!(code(&out), 125, "{out:?}");
}

pub(super) fn chroot_in_chroot(p: &Place) {
    // The way out of a chroot: keep a directory open, chroot below it, and climb.
    let script = "mkdir -p /tmp/j/bin && cp /bin/busybox /tmp/j/bin/ 2>/dev/null || ln /bin/busybox /tmp/j/bin/busybox; \
                  cd /; exec 9</; chroot /tmp/j /bin/busybox sh -c 'cd ../../../../../../..; /bin/busybox pwd; \
                  /bin/busybox chroot ../../../../.. /bin/busybox ls' | tr '\\n' ' '";
    let out = p.sh(&["--tmpfs=/tmp"], script);
    // What is seen from there is the jail or the view, which has a directory `secret`; never the machine.
    assert!(!out.contains("boot") && !out.contains("usr"), "{out}");
}

pub(super) fn climbing_from_an_open_directory(p: &Place) {
    // `..` of anything ends at the root of the view.
    let out = p.sh(&[], "cd /proc/self/cwd/../../..; pwd -P; cd /proc/1/root 2>/dev/null && echo in; ls -d secret");
    assert_eq!(out, "/\nsecret");
}

pub(super) fn devices_stay_whose_they_are(p: &Place) {
    use std::os::unix::fs::MetadataExt;
    let look = || {
        let of =
            |name: &str| std::fs::metadata(format!("/dev/{name}")).map(|m| (m.mode(), m.uid(), m.gid(), m.mtime()));
        ["null", "zero", "full", "random", "urandom", "tty"].map(|name| of(name).unwrap())
    };
    let before = look();
    // Those that cover what is masked are such, too.
    let script = "for f in /dev/null /dev/full /dev/tty /proc/keys /proc/timer_list; do chmod 600 $f; chown 7:7 $f; \
                  touch -d '2001-01-01 00:00' $f; done 2> /dev/null; echo x > /dev/null; head -c 2 /dev/zero | wc -c";
    assert_eq!(p.sh(&[], script), "2");
    assert_eq!(look(), before);
}

pub(super) fn nothing_mounted_inside_is_seen_outside(p: &Place) {
    // Even by one who may mount.
    let shared = p.dir("shared");
    let volume = format!("--volume={}:/vol", shared.display());
    let script = "mkdir -p /vol/m && mount -t tmpfs t /vol/m && touch /vol/m/inside && echo mounted && read wait";
    let mut c = p.command("plain", &[&volume, "--cap-add=SYS_ADMIN"], &["sh", "-c", script]);
    let mut child = c.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    assert_eq!(line(&mut out), "mounted");
    let here = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!here.contains("/shared/m") && !shared.join("m/inside").exists());
    drop(child.stdin.take());
    child.wait().unwrap();
}

fn open(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

pub(super) fn namespaces_and_mounts_are_refused(p: &Place) {
    for attempt in [
        "unshare -U true",
        "unshare -m true",
        "unshare -n true",
        "mount -t tmpfs t /tmp",
        "mount -o remount,rw /proc/sys",
        "umount /proc/kcore",
        "umount /sys",
        "mount --bind / /tmp",
        "mknod /tmp/sda b 8 0",
        "ip link set lo down",
        "hostname other",
        "nsenter -t 1 -m true",
        "chroot /proc/1/root true",
    ] {
        let said = p.sh(&["--tmpfs=/tmp"], &format!("{{ {attempt}; }} 2>/dev/null && echo done || echo denied"));
        assert_eq!(said, "denied", "{attempt}");
    }
    // Without the filter the first two may work, and lead nowhere; with it they do not.
    let status = p.sh(&[], "cat /proc/self/status");
    assert!(status.contains("Seccomp:\t2\n"), "{status}");
    // With one id only there is still the one that hands chown over.
    let free = if p.is_norange() { "Seccomp:\t2\nSeccomp_filters:\t1\n" } else { "Seccomp:\t0\n" };
    let status = p.sh(&["--no-seccomp"], "cat /proc/self/status");
    assert!(status.contains(free), "{status}");
}

/// A program of one piece of code, for x86-64.
#[cfg(target_arch = "x86_64")]
fn program(machine_code: &[u8]) -> Vec<u8> {
    let (base, head) = (0x40_0000u64, 64 + 56);
    let size = head as u64 + machine_code.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    let words = |elf: &mut Vec<u8>, values: &[u64]| values.iter().for_each(|v| elf.extend(v.to_le_bytes()));
    words(&mut elf, &[base + head as u64, 64, 0]);
    elf.extend(b"\0\0\0\0\x40\0\x38\0\x01\0\0\0\0\0\0\0");
    elf.extend(b"\x01\0\0\0\x05\0\0\0");
    words(&mut elf, &[0, base, base, size, size, 0x1000]);
    elf.extend(machine_code);
    elf
}

#[cfg(target_arch = "x86_64")]
pub(super) fn another_architecture_is_killed(p: &Place) {
    // mov eax, 1; mov ebx, 7; int 0x80: exit(7) of the 32-bit table, where the filter's numbers mean something else.
    let old = program(b"\xb8\x01\0\0\0\xbb\x07\0\0\0\xcd\x80\xf4");
    // mov eax, 0x40000027; syscall; neg eax; mov edi, eax; mov eax, 60; syscall: getpid of the x32 table, exit(errno).
    let x32 = program(b"\xb8\x27\0\0\x40\x0f\x05\xf7\xd8\x89\xc7\xb8\x3c\0\0\0\x0f\x05");
    let dir = p.base.join("programs");
    std::fs::create_dir(&dir).unwrap();
    for (name, bytes) in [("old", old), ("x32", x32)] {
        std::fs::write(dir.join(name), bytes).unwrap();
        open(&dir.join(name));
    }
    let volume = format!("--volume={}:/programs", dir.display());
    let free = code(&p.run(&[&volume, "--no-seccomp"], &["/programs/old"]));
    let bound = code(&p.run(&[&volume], &["/programs/old"]));
    // 31 is SIGSYS.
    assert_eq!(bound, 128 + 31);
    // A kernel without 32-bit calls answers with SIGSEGV.
    assert!(free == 7 || free == 128 + 11, "{free}");
    assert_eq!(code(&p.run(&[&volume], &["/programs/x32"])), libc::ENOSYS);
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn another_architecture_is_killed(_: &Place) {}

pub(super) fn the_runners_program_is_not_writable(p: &Place) {
    // CVE-2019-5736: by /proc/PID/exe of the runner's process inside to its program outside. As one who may look there.
    let before = std::fs::read(&p.me).unwrap();
    let script = "for i in 1 self/task/1 $PPID; do ls -l /proc/$i/exe >/dev/null 2>&1 && echo seen; \
                  { echo x >> /proc/$i/exe; } 2>/dev/null && echo WRITTEN; done; echo end";
    for options in [&[][..], &["--cap-add=SYS_PTRACE"], &["--cap-add=SYS_PTRACE", "--cap-add=DAC_READ_SEARCH"]] {
        let said = p.sh(options, script);
        assert!(!said.contains("WRITTEN") && said.ends_with("end"), "{options:?}: {said}");
    }
    // The same from a process that is the runner's program: a command or script that is /proc/self/exe.
    for command in ["/proc/self/exe", "/proc/1/exe", "/bin/exe"] {
        let root = if command == "/bin/exe" { "links" } else { "plain" };
        let out = p.command(root, &[], &[command, "attack"]).output().unwrap();
        assert!(!out.stdout.windows(7).any(|w| w == b"WRITTEN"), "{out:?}");
        // It is not even executed, so that it is no process's program inside, and not held by a running one alone.
        if onlay::sys::landlock::is_there() {
            assert!(matches!(code(&out), 126 | 127) && out.stdout.is_empty(), "{command}: {out:?}");
        }
    }
    // Nor anything else from outside: what was given as standard input.
    if onlay::sys::landlock::is_there() {
        let given = std::fs::File::open("/bin/busybox").unwrap();
        let script = "/proc/self/fd/0 echo RAN 2>/dev/null; cp /bin/busybox /tmp/busybox && /tmp/busybox echo ran; mkdir /tmp/1 /tmp/2 && \
                      touch /tmp/1/f && mv /tmp/1/f /tmp/2/g && ln /tmp/2/g /tmp/1/h && echo moved";
        let out = p.command("plain", &["--tmpfs=/tmp"], &["sh", "-c", script]).stdin(given).output().unwrap();
        assert_eq!(text(&out.stdout), "ran\nmoved\n", "{out:?}");
    }
    assert!(before == std::fs::read(&p.me).unwrap(), "the program was changed");
}

pub(super) fn the_supervisor_cannot_be_reached(p: &Place) {
    let script = "echo up; read pid; kill -0 $pid 2>/dev/null && echo reached; ls -d /proc/$pid 2>/dev/null; \
                  kill -9 1; kill -9 -1 2>/dev/null; echo end";
    let mut c = p.command("plain", &["--cap-add=SYS_PTRACE"], &["sh", "-c", script]);
    let mut child = c.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    assert_eq!(line(&mut out), "up");
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let supervisor = std::fs::read_to_string(children).unwrap();
    writeln!(child.stdin.take().unwrap(), "{}", supervisor.trim()).unwrap();
    let mut said = String::new();
    out.read_to_string(&mut said).unwrap();
    assert_eq!((&*said, child.wait().unwrap().code()), ("end\n", Some(0)));
}

pub(super) fn the_machines_network_is_out_of_reach(p: &Place) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // Nobody answers: who is connected waits, who is not is told at once.
    let script = format!("timeout 1 nc 127.0.0.1 {port} 2>/dev/null; test $? -ge 124 && echo reached || echo denied");
    assert_eq!(p.sh(&["--net=none"], &script), "denied");
    assert_eq!(p.sh(&[], &script), "reached");
}

pub(super) fn ipc_of_the_machine_is_invisible(p: &Place) {
    let id = Command::new("ipcmk").args(["-M", "4096"]).output().unwrap();
    let id = text(&id.stdout).rsplit(' ').next().unwrap().trim().to_owned();
    let seen = p.sh(&[], "tail -n +2 /proc/sysvipc/shm | wc -l; ls /dev/shm /dev/mqueue | grep -c ^[a-z0-9] || true");
    Command::new("ipcrm").args(["-m", &id]).status().unwrap();
    assert_eq!(seen, "0\n0");
}

pub(super) fn volumes_stay_inside(p: &Place) {
    let shared = p.dir("shared");
    std::fs::write(shared.join("file"), "mine").unwrap();
    let volume = |to: &str| format!("--volume={}:{to}", shared.display());
    let run = |to: &str, script: &str| p.command("links", &[&volume(to)], &["sh", "-c", script]).output().unwrap();
    // A link of the image that climbs: it ends inside.
    let out = run("/climb/vol", "cat /elsewhere/vol/file");
    if p.owns_the_roots() {
        assert_eq!((code(&out), &*text(&out.stdout)), (0, "mine"), "{out:?}");
        std::fs::remove_dir(p.roots.join("links/elsewhere/vol")).unwrap();
    }
    assert!(!Path::new("/elsewhere").exists() && !Path::new("/vol").exists());
    // Links that lead over /proc or /sys: refused.
    for to in ["/to-proc", "/to-sys", "/to-proc/sys/kernel"] {
        let out = run(to, "true");
        let said = text(&out.stderr);
        assert!(code(&out) == 125 && said.contains("hint: ") && said.contains(to), "{to}: {out:?}");
    }
    // Magic links are no way: they lead nowhere.
    for to in ["/proc/self/fd/3", "/proc/self/cwd", "/proc/1/root/tmp"] {
        assert_eq!(code(&run(to, "true")), 125, "{to}");
    }
    assert_eq!(std::fs::read_to_string("/proc/self/mounts").unwrap().matches("/shared").count(), 0);
}
