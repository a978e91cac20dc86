//! What the programs answer, by an interpreter of the few instructions they consist of.

use super::*;

/// What the kernel would do with a call.
fn verdict(programs: &Programs, arch: u32, number: i64, args: [u64; 6]) -> u32 {
    // The least return value has precedence; of equal actions the last program's (seccomp(2)).
    let mut best = libc::SECCOMP_RET_ALLOW;
    for program in programs {
        let r = interpret(program, arch, number, args);
        if (r & libc::SECCOMP_RET_ACTION_FULL) as i32 <= (best & libc::SECCOMP_RET_ACTION_FULL) as i32 {
            best = r;
        }
    }
    best
}

fn interpret(program: &[sock_filter], arch: u32, number: i64, args: [u64; 6]) -> u32 {
    let mut data = [0; 64];
    data[..4].copy_from_slice(&(number as u32).to_le_bytes());
    data[4..8].copy_from_slice(&arch.to_le_bytes());
    for (i, a) in args.iter().enumerate() {
        data[16 + 8 * i..24 + 8 * i].copy_from_slice(&a.to_le_bytes());
    }
    let (mut pc, mut a) = (0, 0u32);
    loop {
        let i = &program[pc];
        pc += 1;
        let branch = |yes: bool| usize::from(if yes { i.jt } else { i.jf });
        match i.code {
            0x20 => a = u32::from_le_bytes(data[i.k as usize..i.k as usize + 4].try_into().unwrap()),
            0x54 => a &= i.k,
            0x05 => pc += i.k as usize,
            0x15 => pc += branch(a == i.k),
            0x25 => pc += branch(a > i.k),
            0x35 => pc += branch(a >= i.k),
            0x06 => return i.k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

#[cfg(target_arch = "x86_64")]
const HERE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const HERE: u32 = 0xc000_00b7;

fn default_of(capabilities: CapabilitySet) -> impl Fn(i64, u64) -> u32 {
    let programs = Seccomp::Default.programs(capabilities).unwrap();
    move |number, arg| verdict(&programs, HERE, number, [arg, arg, 0, 0, 0, 0])
}

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const EPERM: u32 = REFUSED;

#[test]
fn what_is_listed_is_allowed_and_the_rest_is_not() {
    let ask = default_of(crate::runner::KEPT_CAPABILITIES);
    for call in [libc::SYS_read, libc::SYS_execve, libc::SYS_mmap, libc::SYS_chroot, libc::SYS_fchownat] {
        assert_eq!(ask(call, 0), ALLOW, "{call}");
    }
    for call in [
        libc::SYS_mount,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_bpf,
        libc::SYS_keyctl,
        libc::SYS_io_uring_setup,
        libc::SYS_kexec_load,
        libc::SYS_init_module,
        libc::SYS_open_by_handle_at,
        libc::SYS_userfaultfd,
        libc::SYS_perf_event_open,
    ] {
        assert_eq!(ask(call, 0), EPERM, "{call}");
    }
}

#[test]
fn what_nobody_knows_is_absent() {
    let ask = default_of(CapabilitySet::empty());
    for call in [libc::SYS_clone3, syscalls::newest() + 1, 10_000, 0x4000_0000 | libc::SYS_read] {
        assert_eq!(ask(call, 0), ABSENT, "{call}");
    }
}

#[test]
fn arguments_are_looked_at() {
    let ask = default_of(CapabilitySet::empty());
    let thread =
        (libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD) as u64;
    assert_eq!((ask(libc::SYS_clone, thread), ask(libc::SYS_clone, libc::SIGCHLD as u64)), (ALLOW, ALLOW));
    for flag in [libc::CLONE_NEWUSER, libc::CLONE_NEWNS, libc::CLONE_NEWNET, libc::CLONE_NEWCGROUP] {
        assert_eq!(ask(libc::SYS_clone, flag as u64 | thread), EPERM, "{flag:#x}");
    }
    assert_eq!((ask(libc::SYS_ioctl, libc::TCGETS), ask(libc::SYS_ioctl, libc::TIOCSTI)), (ALLOW, EPERM));
    // What the kernel does not look at must not hide it.
    assert_eq!(ask(libc::SYS_ioctl, libc::TIOCSTI | 1 << 40), EPERM);
    for personality in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        assert_eq!(ask(libc::SYS_personality, personality), ALLOW, "{personality:#x}");
    }
    assert_eq!(ask(libc::SYS_personality, 0x40000), EPERM);
    assert_eq!(ask(libc::SYS_ioctl, 0x541c), EPERM);
    assert_eq!((ask(libc::SYS_socket, 2), ask(libc::SYS_socket, 40)), (ALLOW, EPERM));
}

/// Every number against the lists themselves; and short, for the kernel goes through it for each number there is.
#[test]
fn the_program_is_the_list() {
    for capabilities in [CapabilitySet::empty(), crate::runner::KEPT_CAPABILITIES, CapabilitySet::all()] {
        let programs = Seccomp::Default.programs(capabilities).unwrap();
        assert!(programs.len() == 1 && programs[0].len() < 400, "{}", programs[0].len());
        let with = syscalls::WITH.iter().filter(|(needs, _)| capabilities.contains(*needs)).map(|(_, calls)| *calls);
        let allowed: Vec<i64> =
            [syscalls::ALWAYS, syscalls::ALWAYS_HERE].into_iter().chain(with).flatten().map(|(_, n)| *n).collect();
        for number in 0..=syscalls::newest() + 2 {
            let by_argument = [libc::SYS_clone, libc::SYS_ioctl, libc::SYS_personality, libc::SYS_socket];
            let want = match number {
                n if allowed.contains(&n) || by_argument.contains(&n) => ALLOW,
                n if n > syscalls::newest() || n == libc::SYS_clone3 => ABSENT,
                _ => EPERM,
            };
            assert_eq!(verdict(&programs, HERE, number, [0; 6]), want, "{number}");
        }
    }
}

#[test]
fn another_architecture_is_killed() {
    let programs = Seccomp::Default.programs(CapabilitySet::empty()).unwrap();
    assert_eq!(verdict(&programs, 0x4000_0003, 1, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
}

#[test]
fn only_ids_that_are_not_there_are_handed_over() {
    let program = chown_program().unwrap();
    let ask = |number, args: [u64; 4]| {
        let [a, b, c, d] = args;
        interpret(&program, HERE, number, [a, b, c, d, 0, 0])
    };
    let none = u64::from(u32::MAX);
    let by_name = [(libc::SYS_fchown, 1), (libc::SYS_fchownat, 2)];
    #[cfg(target_arch = "x86_64")]
    let by_name = [by_name.as_slice(), &[(libc::SYS_chown, 1), (libc::SYS_lchown, 1)]].concat();
    for (number, first) in by_name {
        let with = |uid: u64, gid: u64| {
            let mut args = [7; 4];
            args[first] = uid;
            args[first + 1] = gid;
            ask(number, args)
        };
        for (uid, gid) in [(0, 0), (0, none), (none, 0), (none, none), (u64::MAX, 0), (1 << 32, 0)] {
            assert_eq!(with(uid, gid), ALLOW, "{number} {uid} {gid}");
        }
        for (uid, gid) in [(33, 0), (0, 33), (33, none), (none, 33), (33, 44), (0x1_0000_0021, 0)] {
            assert_eq!(with(uid, gid), libc::SECCOMP_RET_USER_NOTIF, "{number} {uid} {gid}");
        }
    }
    assert_eq!(ask(libc::SYS_write, [33; 4]), ALLOW);
    // Other tables have other numbers: the kernel refuses what it does not know, as ever.
    assert_eq!(interpret(&program, 0x4000_0003, libc::SYS_fchown, [33; 6]), ALLOW);
}

#[test]
fn capabilities_open_what_belongs_to_them() {
    let ask = default_of(CapabilitySet::SYS_ADMIN);
    for call in [libc::SYS_mount, libc::SYS_clone3, libc::SYS_unshare] {
        assert_eq!(ask(call, libc::CLONE_NEWUSER as u64), ALLOW, "{call}");
    }
    assert_eq!(ask(libc::SYS_init_module, 0), EPERM);
    assert_eq!(default_of(CapabilitySet::empty())(libc::SYS_chroot, 0), EPERM);
}

#[test]
fn a_profile_of_the_users_is_followed() {
    let text = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "archMap": [],
        "syscalls": [
            {"names": ["read", "write", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
            {"names": ["mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["fchdir"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}},
            {"names": ["chroot"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["kill"], "action": "SCMP_ACT_KILL_PROCESS"}]}"#;
    let profile = Seccomp::Profile(Profile::parse(text).unwrap());
    let programs = profile.programs(CapabilitySet::empty()).unwrap();
    let ask = |number, arg| verdict(&programs, HERE, number, [arg, 0, 0, 0, 0, 0]);
    assert_eq!((ask(libc::SYS_read, 0), ask(libc::SYS_fsync, 0)), (ALLOW, EPERM));
    assert_eq!((ask(libc::SYS_socket, 1), ask(libc::SYS_socket, 2)), (ALLOW, EPERM));
    assert_eq!((ask(libc::SYS_mkdirat, 0), ask(libc::SYS_kill, 0)), (ABSENT, libc::SECCOMP_RET_KILL_PROCESS));
    assert_eq!((ask(libc::SYS_mount, 0), ask(libc::SYS_chroot, 0), ask(libc::SYS_fchdir, 0)), (EPERM, ALLOW, EPERM));
    let all = profile.programs(CapabilitySet::SYS_ADMIN).unwrap();
    assert_eq!(verdict(&all, HERE, libc::SYS_mount, [0; 6]), ALLOW);
    assert!(Profile::parse(r#"{"defaultAction": "SCMP_ACT_DANCE"}"#).is_err());
}

#[test]
fn every_call_is_named_once_and_found_by_its_name() {
    assert_eq!(syscalls::number("openat2"), Some(libc::SYS_openat2));
    assert_eq!(syscalls::number("nothing"), None);
    let open: Vec<_> = [syscalls::ALWAYS, syscalls::ALWAYS_HERE].concat();
    for (name, number) in [syscalls::NEVER, syscalls::NEVER_HERE].concat() {
        assert!(!open.iter().any(|(_, n)| *n == number), "{name}");
    }
}
