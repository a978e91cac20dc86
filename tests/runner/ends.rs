//! How a run ends: codes, signals, whoever dies, the terminal.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::session::Session;
use super::{Place, code, line, text};

pub(super) fn exit_code_is_passed_on(p: &Place) {
    for n in [0, 7, 255] {
        assert_eq!(code(&p.run(&[], &["sh", "-c", &format!("exit {n}")])), n);
    }
    assert_eq!(std::fs::read_to_string(p.base.join("note")).unwrap(), "finished");
}

pub(super) fn signals_make_128_and_their_number(p: &Place) {
    for n in [9, 15, 40] {
        assert_eq!(code(&p.run(&[], &["sh", "-c", &format!("kill -{n} $$")])), 128 + n);
    }
}

pub(super) fn a_missing_command_is_127(p: &Place) {
    let out = p.run(&[], &["nosuch"]);
    assert_eq!(
        (code(&out), text(&out.stderr).lines().next()),
        (127, Some("onlay: exec: \"nosuch\": executable file not found in $PATH"))
    );
    assert_eq!(code(&p.run(&[], &["/no/such"])), 127);
    assert_eq!(code(&p.run(&["--path=/nowhere"], &["sh"])), 127);
    assert_eq!(code(&p.run(&["--path=/nowhere:/bin"], &["true"])), 0);
}

pub(super) fn a_file_that_is_no_program_is_126(p: &Place) {
    let out = p.run(&[], &["/etc/plain"]);
    let said = text(&out.stderr);
    assert_eq!((code(&out), said.lines().next()), (126, Some("onlay: exec: \"/etc/plain\": permission denied")));
    assert!(said.contains("hint:"), "{said}");
    assert_eq!(code(&p.run(&[], &["/etc/script"])), 126);
    assert_eq!(code(&p.run(&[], &["/etc"])), 126);
}

pub(super) fn the_runner_failing_is_125(p: &Place) {
    for at in ["mount", "serve", "finish"] {
        let out = p.run(&[&format!("--fail={at}")], &["true"]);
        assert_eq!((code(&out), &*text(&out.stderr)), (125, "onlay: no such luck\n"), "{at}");
        assert_eq!(std::fs::read_to_string(p.base.join("note")).unwrap(), "finished");
        std::fs::remove_file(p.base.join("note")).unwrap();
    }
    let out = p.run(&["--fail=die"], &["true"]);
    assert_eq!((code(&out), text(&out.stderr).lines().next()), (125, Some("onlay: supervisor: killed by SIGKILL")));
    let out = p.run(&["--workdir=/no/such"], &["true"]);
    assert_eq!(code(&out), 125);
    assert!(text(&out.stderr).starts_with("onlay: change to directory /no/such: No such file"), "{out:?}");
}

pub(super) fn signals_are_forwarded(p: &Place) {
    for (signal, name) in [(Signal::SIGTERM, "TERM"), (Signal::SIGINT, "INT"), (Signal::SIGUSR1, "USR1")] {
        let script = format!("trap 'echo got; exit 3' {name}; echo ready; while :; do sleep 0.05; done");
        let (mut child, mut out) = p.spawn(&[], &script);
        assert_eq!(line(&mut out), "ready");
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        assert_eq!(line(&mut out), "got");
        assert_eq!(child.wait().unwrap().code(), Some(3));
    }
    let (mut child, mut out) = p.spawn(&[], "echo ready; exec sleep 100");
    assert_eq!(line(&mut out), "ready");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
}

pub(super) fn a_stopped_child_of_a_pipe_goes_on(p: &Place) {
    let (mut child, mut out) = p.spawn(&[], "echo ready; for i in 1 2 3 4; do sleep 0.05; done; echo done");
    assert_eq!(line(&mut out), "ready");
    let pid = Pid::from_raw(child.id() as i32);
    kill(pid, Signal::SIGTSTP).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    while !state().contains(") T ") {
        assert!(Instant::now() < deadline, "never stopped: {}", state());
        std::thread::sleep(Duration::from_millis(10));
    }
    kill(pid, Signal::SIGCONT).unwrap();
    assert_eq!(line(&mut out), "done");
    assert!(child.wait().unwrap().success());
}

pub(super) fn nothing_stays_mounted(p: &Place) {
    // What the command leaves running ends with it.
    let out = p.run(&[], &["sh", "-c", "setsid sleep 1000 & sleep 1000 & exit 5"]);
    assert_eq!(code(&out), 5);
    assert!(!std::fs::read_to_string("/proc/self/mounts").unwrap().contains(p.base.to_str().unwrap()));
    assert_eq!(p.left_in_base(), ["note"]);
}

pub(super) fn a_killed_parent_takes_all_along(p: &Place) {
    let (mut child, mut out) = p.spawn(&[], "trap '' TERM HUP INT; echo ready; while :; do sleep 0.1; done");
    assert_eq!(line(&mut out), "ready");
    child.kill().unwrap();
    child.wait().unwrap();
    // Whoever holds the other end of the pipe is gone when it is closed.
    out.read_to_string(&mut String::new()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while !p.base.join("note").exists() {
        assert!(Instant::now() < deadline, "finish was not called");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(super) fn a_killed_supervisor_takes_all_along(p: &Place) {
    let (mut child, mut out) = p.spawn(&[], "echo ready; sleep 1000");
    assert_eq!(line(&mut out), "ready");
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let supervisor: i32 = std::fs::read_to_string(children).unwrap().trim().parse().unwrap();
    kill(Pid::from_raw(supervisor), Signal::SIGKILL).unwrap();
    out.read_to_string(&mut String::new()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(125));
    // Nobody was left to clear up, and there is nothing to.
    assert!(p.left_in_base().is_empty());
}

pub(super) fn a_view_over_fuse(p: &Place) {
    let out = p.run(&["--fuse"], &["/busybox", "sh", "-c", "echo served; exit 6"]);
    assert_eq!((code(&out), &*text(&out.stdout)), (6, "served\n"), "{out:?}");
    // Not there, and cannot be made: a step fails while the view is served.
    let out = p.run(&["--fuse", "--workdir=/nowhere"], &["/busybox", "true"]);
    assert_eq!(code(&out), 125, "{out:?}");
}

pub(super) fn an_unanswered_request_keeps_nobody(p: &Place) {
    let script = ["/busybox", "sh", "-c", "echo ready; exec /busybox cat /slow"];
    let mut child = p.command("plain", &["--fuse"], &script).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    assert_eq!(line(&mut out), "ready");
    std::thread::sleep(Duration::from_millis(200));
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let supervisor: i32 = std::fs::read_to_string(children).unwrap().trim().parse().unwrap();
    kill(Pid::from_raw(supervisor), Signal::SIGKILL).unwrap();
    out.read_to_string(&mut String::new()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(125));
}

pub(super) fn a_terminal_gives_job_control(p: &Place) {
    // A shell inside.
    let mut s = Session::start(&p.command("plain", &[], &["sh", "-i"]));
    s.expect("# ");
    assert!(!s.seen.contains("job control"), "{}", s.seen);
    s.say("sleep 1000\n");
    s.expect("sleep 1000");
    std::thread::sleep(Duration::from_millis(300));
    s.say("\x03");
    s.expect("# ");
    s.say("sleep 1001\n");
    std::thread::sleep(Duration::from_millis(300));
    s.say("\x1a");
    s.expect("Stopped");
    s.say("kill -9 %1; sleep 0.1; echo ba''ck; exit 4\n");
    s.expect("back");
    assert_eq!(s.end(), Some(4));
    // A job of a shell outside: stopped, continued, interrupted.
    let run = p.command("plain", &[], &["sh", "-c", "echo up; exec sleep 1000"]);
    let words: Vec<_> = run.get_args().map(|a| format!("'{}'", a.to_str().unwrap())).collect();
    let mut shell = Command::new("sh");
    shell.arg("-i");
    let mut s = Session::start(&shell);
    s.say(&format!("{} {}\n", run.get_program().to_str().unwrap(), words.join(" ")));
    s.expect("up\r\n");
    std::thread::sleep(Duration::from_millis(300));
    s.say("\x1a");
    s.expect("Stopped");
    s.say("echo be''tween\n");
    s.expect("between");
    s.say("fg\n");
    std::thread::sleep(Duration::from_millis(500));
    s.say("\x03");
    s.say("echo co''de $?\n");
    s.expect("code 130");
    s.say("exit\n");
    s.end();
}

pub(super) fn a_dry_run_prints_the_plan(p: &Place) {
    let out = p.run(&["--dry-run", "--net=none"], &["true"]);
    let printed = text(&out.stdout);
    for line in
        ["new namespaces: user mount pid ipc uts cgroup net", "mount proc on /proc", "bring up lo", "execute true"]
    {
        assert!(printed.lines().any(|l| l == line), "{printed}");
    }
    assert!(!p.base.join("note").exists());
}
