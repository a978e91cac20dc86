//! The cases, and what runs them.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use super::again;

mod ends;
mod escape;
mod flags;
mod inside;
mod session;

/// Who runs, and where.
struct Place {
    user: Option<String>,
    /// This program, where everyone can reach it.
    me: PathBuf,
    /// Readable by everyone: the roots.
    roots: PathBuf,
    /// The user's own.
    base: PathBuf,
}

type Case = (&'static str, fn(&Place));

const CASES: &[Case] = &[
    ("exit_code_is_passed_on", ends::exit_code_is_passed_on),
    ("signals_make_128_and_their_number", ends::signals_make_128_and_their_number),
    ("a_missing_command_is_127", ends::a_missing_command_is_127),
    ("a_file_that_is_no_program_is_126", ends::a_file_that_is_no_program_is_126),
    ("the_runner_failing_is_125", ends::the_runner_failing_is_125),
    ("signals_are_forwarded", ends::signals_are_forwarded),
    ("a_stopped_child_of_a_pipe_goes_on", ends::a_stopped_child_of_a_pipe_goes_on),
    ("zombies_are_reaped", inside::zombies_are_reaped),
    ("only_our_processes_are_visible", inside::only_our_processes_are_visible),
    ("nothing_can_signal_the_caller", inside::nothing_can_signal_the_caller),
    ("the_host_name_is_ours", inside::the_host_name_is_ours),
    ("without_network_only_lo_and_up", inside::without_network_only_lo_and_up),
    ("dev_holds_only_what_is_expected", inside::dev_holds_only_what_is_expected),
    ("terminals_can_be_made", inside::terminals_can_be_made),
    ("the_old_root_is_gone", inside::the_old_root_is_gone),
    ("descriptors_are_closed", inside::descriptors_are_closed),
    ("capabilities_are_limited", inside::capabilities_are_limited),
    ("masked_and_read_only", inside::masked_and_read_only),
    ("the_ids_are_mapped", inside::the_ids_are_mapped),
    ("links_of_the_image_lead_nowhere_else", inside::links_of_the_image_lead_nowhere_else),
    ("missing_directories_are_made_or_named", inside::missing_directories_are_made_or_named),
    ("resolv_conf_is_a_read_only_copy", inside::resolv_conf_is_a_read_only_copy),
    ("hidden_directories_are_empty", inside::hidden_directories_are_empty),
    ("the_working_directory_is_inside", inside::the_working_directory_is_inside),
    ("the_umask_is_the_usual_one", inside::the_umask_is_the_usual_one),
    ("the_machine_as_root", inside::the_machine_as_root),
    ("a_descriptor_as_working_directory", escape::a_descriptor_as_working_directory),
    ("chroot_in_chroot", escape::chroot_in_chroot),
    ("climbing_from_an_open_directory", escape::climbing_from_an_open_directory),
    ("devices_stay_whose_they_are", escape::devices_stay_whose_they_are),
    ("nothing_mounted_inside_is_seen_outside", escape::nothing_mounted_inside_is_seen_outside),
    ("namespaces_and_mounts_are_refused", escape::namespaces_and_mounts_are_refused),
    ("another_architecture_is_killed", escape::another_architecture_is_killed),
    ("the_runners_program_is_not_writable", escape::the_runners_program_is_not_writable),
    ("the_supervisor_cannot_be_reached", escape::the_supervisor_cannot_be_reached),
    ("the_machines_network_is_out_of_reach", escape::the_machines_network_is_out_of_reach),
    ("ipc_of_the_machine_is_invisible", escape::ipc_of_the_machine_is_invisible),
    ("volumes_stay_inside", escape::volumes_stay_inside),
    ("users_are_the_views", flags::users_are_the_views),
    ("what_the_caller_gave_stays_whose_it_is", flags::what_the_caller_gave_stays_whose_it_is),
    ("volumes_are_shown", flags::volumes_are_shown),
    ("set_id_bits_of_the_view_are_not_looked_at", flags::set_id_bits_of_the_view_are_not_looked_at),
    ("a_read_only_view", flags::a_read_only_view),
    ("limits_hold", flags::limits_hold),
    ("no_input_unless_asked", flags::no_input_unless_asked),
    ("a_terminal_of_its_own", flags::a_terminal_of_its_own),
    ("nothing_stays_mounted", ends::nothing_stays_mounted),
    ("a_killed_parent_takes_all_along", ends::a_killed_parent_takes_all_along),
    ("a_killed_supervisor_takes_all_along", ends::a_killed_supervisor_takes_all_along),
    ("a_terminal_gives_job_control", ends::a_terminal_gives_job_control),
    ("a_view_over_fuse", ends::a_view_over_fuse),
    ("an_unanswered_request_keeps_nobody", ends::an_unanswered_request_keeps_nobody),
    ("a_dry_run_prints_the_plan", ends::a_dry_run_prints_the_plan),
];

pub(crate) fn all(args: &[OsString]) -> ExitCode {
    let filters: Vec<&str> = args.iter().filter_map(|a| a.to_str()).filter(|a| !a.starts_with('-')).collect();
    if args.iter().any(|a| a == "--list") {
        return ExitCode::SUCCESS;
    }
    let (mut ok, mut failed, mut skipped) = (0, 0, 0);
    let temp = tempfile::Builder::new().prefix("onlay-runner-").tempdir_in("/var/tmp").unwrap();
    open_to_all(temp.path());
    let roots = temp.path().join("roots");
    make_roots(&roots);
    let me = temp.path().join("again");
    std::fs::copy(std::env::current_exe().unwrap(), &me).unwrap();
    for (who, user) in users() {
        let Ok(user) = user else {
            println!("skipped {who}: {}", user.unwrap_err());
            skipped += 1;
            continue;
        };
        for (name, case) in CASES {
            let title = format!("{who}::{name}");
            if !filters.is_empty() && !filters.iter().any(|f| title.contains(f)) {
                continue;
            }
            let base = temp.path().join(title.replace("::", "-"));
            std::fs::create_dir(&base).unwrap();
            if let Some(user) = &user {
                let user = nix::unistd::User::from_name(user).unwrap().unwrap();
                std::os::unix::fs::chown(&base, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
            }
            let place = Place { user: user.clone(), me: me.clone(), roots: roots.clone(), base: base.clone() };
            let before = processes();
            match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(&place))) {
                Ok(()) => match left_behind(&base, &before) {
                    None => {
                        println!("ok {title}");
                        ok += 1;
                    }
                    Some(what) => {
                        println!("FAILED {title}: left behind {what}");
                        failed += 1;
                    }
                },
                Err(why) => {
                    let text = why.downcast_ref::<String>().cloned();
                    let text = text.or_else(|| why.downcast_ref::<&str>().map(|s| (*s).to_owned()));
                    println!("FAILED {title}: {}", text.unwrap_or_default());
                    failed += 1;
                }
            }
        }
    }
    println!("{ok} ok, {failed} failed, {skipped} skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Who the cases run as: the user called, and, if that is root, two made-up ordinary ones.
fn users() -> Vec<(&'static str, Result<Option<String>, String>)> {
    if !nix::unistd::geteuid().is_root() {
        return vec![("self", Ok(None))];
    }
    let known = |variable: &str, default: &str| {
        let name = std::env::var(variable).unwrap_or_else(|_| default.to_owned());
        match nix::unistd::User::from_name(&name) {
            Ok(Some(_)) => Ok(Some(name)),
            _ => Err(format!("no user {name} on this machine")),
        }
    };
    vec![
        ("root", Ok(None)),
        ("range", known("ONLAY_USER", "onlay-tester")),
        ("norange", known("ONLAY_NORANGE", "onlay-norange")),
    ]
}

fn open_to_all(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Small roots with busybox.
fn make_roots(roots: &Path) {
    for name in ["plain", "links", "bare"] {
        let root = roots.join(name);
        for dir in ["bin", "etc", "root", "tmp", "work/deep", "secret", "vol", "programs"] {
            std::fs::create_dir_all(root.join(dir)).unwrap();
        }
        std::fs::copy("/usr/bin/busybox", root.join("bin/busybox")).unwrap();
        let words = "sh ls cat sleep kill ps echo id hostname ip stat readlink pwd grep mount umount chroot mkdir touch \
                     true false env head wc tr test setsid od stty ln rm ifconfig cut sort seq timeout trap sync cp chown unshare \
                     nsenter mknod nc tail rmdir wget printf nslookup";
        for applet in words.split_whitespace() {
            let link = root.join("bin").join(applet);
            if !link.exists() {
                symlink("busybox", link).unwrap();
            }
        }
        std::fs::write(root.join("secret/file"), "seen").unwrap();
        std::fs::write(root.join("etc/plain"), "no program").unwrap();
        std::fs::write(root.join("etc/script"), "echo no shebang\n").unwrap();
        std::fs::set_permissions(root.join("etc/script"), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    for name in ["plain", "links"] {
        for file in ["etc/resolv.conf", "etc/hosts"] {
            std::fs::write(roots.join(name).join(file), "old\n").unwrap();
        }
    }
    let web = "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/var/www:/bin/sh\n";
    std::fs::write(roots.join("plain/etc/passwd"), web).unwrap();
    std::fs::write(roots.join("plain/etc/group"), "root:x:0:\nwww:x:34:\nlog:x:40:web\n").unwrap();
    let links = roots.join("links");
    for (link, target) in
        [("climb", "../../../../elsewhere"), ("to-proc", "/proc"), ("to-sys", "sys"), ("bin/exe", "/proc/self/exe")]
    {
        symlink(target, links.join(link)).unwrap();
    }
    for dir in ["proc", "sys", "dev"] {
        std::fs::create_dir(roots.join("plain").join(dir)).unwrap();
        let elsewhere = roots.join("links/elsewhere").join(dir);
        std::fs::create_dir_all(elsewhere).unwrap();
        symlink(format!("../../../elsewhere/{dir}"), roots.join("links").join(dir)).unwrap();
    }
}

/// The processes there are, by id.
fn processes() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

/// A process of ours or a mount that outlived the case by more than a moment.
fn left_behind(base: &Path, before: &[i32]) -> Option<String> {
    let ours = base.as_os_str().as_encoded_bytes();
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let mount = mounts.lines().find(|l| l.contains(base.to_str().unwrap())).map(str::to_owned);
        let process = processes().into_iter().filter(|p| !before.contains(p)).find_map(|p| {
            let line = std::fs::read(format!("/proc/{p}/cmdline")).ok()?;
            let found = line.windows(ours.len()).any(|w| w == ours);
            found.then(|| format!("process {p}: {}", String::from_utf8_lossy(&line)))
        });
        match mount.or(process) {
            None => return None,
            Some(what) if Instant::now() > deadline => return Some(what),
            Some(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

impl Place {
    /// Names in the directory of the runs, and in the one that views are mounted on.
    pub(super) fn left_in_base(&self) -> Vec<String> {
        let dirs = [self.base.clone(), self.base.join("on")];
        let entries = dirs.into_iter().flat_map(|dir| std::fs::read_dir(dir).unwrap());
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).filter(|name| name != "on").collect()
    }

    fn command(&self, root: &str, options: &[&str], command: &[&str]) -> Command {
        let mut c = again(&self.me, self.user.as_deref());
        let root = if root == "/" { PathBuf::from("/") } else { self.roots.join(root) };
        c.arg("run").arg(&self.base).arg(root).args(options).arg("--").args(command);
        c.stdin(Stdio::null()).current_dir("/");
        c
    }

    fn run(&self, options: &[&str], command: &[&str]) -> Output {
        self.command("plain", options, command).output().unwrap()
    }

    /// A script's output, which must succeed.
    fn sh(&self, options: &[&str], script: &str) -> String {
        let out = self.run(options, &["sh", "-c", script]);
        assert!(out.status.success(), "{:?}: {}{}", out.status, text(&out.stdout), text(&out.stderr));
        text(&out.stdout).trim_end().to_owned()
    }

    fn spawn(&self, options: &[&str], script: &str) -> (Child, BufReader<std::process::ChildStdout>) {
        let mut c = self.command("plain", options, &["sh", "-c", script]);
        let mut child = c.stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        (child, out)
    }

    fn owns_the_roots(&self) -> bool {
        self.user.is_none()
    }

    /// A directory of the user's own.
    fn dir(&self, name: &str) -> PathBuf {
        let dir = self.base.join(name);
        std::fs::create_dir(&dir).unwrap();
        if let Some(user) = &self.user {
            let user = nix::unistd::User::from_name(user).unwrap().unwrap();
            std::os::unix::fs::chown(&dir, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        }
        dir
    }

    fn is_norange(&self) -> bool {
        self.base.to_str().unwrap().contains("norange-")
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn line(out: &mut impl BufRead) -> String {
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

fn code(out: &Output) -> i32 {
    out.status.code().unwrap_or(-1)
}
