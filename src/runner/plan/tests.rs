//! The plan as a list: what is in it, and in which order.

use super::*;
use crate::runner::Mapping;

fn spec() -> Spec {
    let process = Process::new(vec!["true".into(), "a".into()]);
    Spec { hostname: Some("box".into()), ..Spec::new(process, Mapping::of_caller().unwrap(), "/base".into()) }
}

fn position(plan: &Plan, step: &Step) -> usize {
    plan.steps().iter().position(|s| s == step).unwrap_or_else(|| panic!("no {step} in {plan}"))
}

#[test]
fn all_mounting_comes_before_the_switch_and_all_giving_up_after() {
    let plan = plan(&Spec { hide: vec!["/var/tmp/x".into()], ..spec() });
    let switch = position(&plan, &Step::PivotRoot);
    for step in [
        Step::SetHostname("box".into()),
        Step::LoopbackUp,
        Step::MountProc,
        Step::MountSys { fresh: true },
        Step::Device("null"),
        Step::Mask("/proc/kcore".into()),
        Step::Mask("/var/tmp/x".into()),
        Step::ReadOnly("/proc/sys".into()),
    ] {
        assert!(position(&plan, &step) < switch, "{step}");
    }
    let gives_up = |s: &Step| {
        matches!(s, Step::LimitBounding(_) | Step::LimitCapabilities(_) | Step::ExecuteInside | Step::HandOverChown)
    };
    assert!(plan.steps()[switch + 1..].iter().all(gives_up), "{plan}");
    assert!(plan.steps().contains(&Step::ExecuteInside));
    let last = [Step::LimitCapabilities(KEPT_CAPABILITIES), Step::NoNewPrivs, Step::Seccomp];
    assert!(plan.entry().ends_with(&last), "{plan}");
}

#[test]
fn who_may_mount_may_also_execute_from_anywhere() {
    let rights =
        Process { capabilities: KEPT_CAPABILITIES | CapabilitySet::SYS_ADMIN, ..Process::new(vec!["true".into()]) };
    let free = Process { seccomp: Seccomp::Unconfined, ..Process::new(vec!["true".into()]) };
    for process in [rights, free] {
        let plan = plan(&Spec::new(process, Mapping::of_caller().unwrap(), "/base".into()));
        assert!(!plan.steps().contains(&Step::ExecuteInside), "{plan}");
    }
}

#[test]
fn without_no_new_privs_the_filter_comes_while_it_may() {
    let process = Process { no_new_privs: false, user: Some("web".into()), ..Process::new(vec!["true".into()]) };
    let entry = entry(&process, &Spec { process: process.clone(), ..spec() });
    let at = |step: Step| entry.iter().position(|s| *s == step).unwrap();
    assert!(at(Step::Seccomp) < at(Step::LimitBounding(KEPT_CAPABILITIES)));
    assert!(at(Step::LimitBounding(KEPT_CAPABILITIES)) < at(Step::SetUser("web".into())));
    assert!(at(Step::SetUser("web".into())) < at(Step::LimitCapabilities(KEPT_CAPABILITIES)));
    assert!(!entry.contains(&Step::NoNewPrivs));
    let may = |process| plan(&Spec::new(process, Mapping::of_caller().unwrap(), "/base".into()));
    assert!(!may(process).steps().contains(&Step::IgnoreSetId));
    assert!(may(Process::new(vec!["true".into()])).steps().contains(&Step::IgnoreSetId));
}

#[test]
fn who_has_what_init_has_gives_nothing_up_again() {
    let limits = |capabilities| {
        let process = Process { capabilities, ..Process::new(vec!["true".into()]) };
        plan(&Spec { process, ..spec() }).entry().iter().any(|s| matches!(s, Step::LimitBounding(_)))
    };
    assert!(!limits(KEPT_CAPABILITIES) && limits(CapabilitySet::empty()));
    // Whatever the first command has.
    let less = Process { capabilities: CapabilitySet::CHOWN, ..Process::new(vec!["true".into()]) };
    assert!(entry(&less, &spec()).contains(&Step::LimitBounding(CapabilitySet::CHOWN)));
}

#[test]
fn init_keeps_what_starting_a_command_takes_and_no_more() {
    let process = Process { capabilities: CapabilitySet::empty(), ..Process::new(vec!["true".into()]) };
    let kept = init_capabilities(&process);
    assert!(kept.contains(CapabilitySet::SETUID | CapabilitySet::KILL));
    assert!(!kept.intersects(CapabilitySet::SYS_ADMIN | CapabilitySet::SYS_PTRACE | CapabilitySet::NET_ADMIN));
}

#[test]
fn volumes_are_mounted_before_the_view_is_sealed() {
    let volume = Volume {
        source: crate::runner::Source::Tmpfs(Vec::new()),
        target: "/t".into(),
        read_only: false,
        no_exec: true,
        no_suid: true,
        no_dev: true,
    };
    let plan = plan(&Spec { volumes: vec![volume.clone()], read_only: true, ..spec() });
    assert!(position(&plan, &Step::Volume(volume)) < position(&plan, &Step::SealView));
    assert!(position(&plan, &Step::SealView) < position(&plan, &Step::PivotRoot));
}

#[test]
fn the_working_directory_is_made_where_that_is_asked_for() {
    let process = Process { workdir: Some("/w/x".into()), user: Some("web".into()), ..spec().process };
    let asked = Spec { process, make_workdir: true, read_only: true, ..spec() };
    let step = Step::MakeWorkdir { path: "/w/x".into(), user: Some("web".into()) };
    let made = plan(&asked);
    assert!(position(&made, &step) < position(&made, &Step::SealView));
    assert!(!plan(&Spec { make_workdir: false, ..asked.clone() }).steps().contains(&step));
    let none = Process { workdir: None, ..asked.process.clone() };
    assert!(!plan(&Spec { process: none, ..asked }).to_string().contains("working directory"));
}

#[test]
fn what_is_unmasked_is_left_alone() {
    let masks = |unmask: &[&str]| {
        let plan = plan(&Spec { unmask: unmask.iter().map(Into::into).collect(), ..spec() });
        plan.steps().iter().filter(|s| matches!(s, Step::Mask(_) | Step::ReadOnly(_))).count()
    };
    assert_eq!(masks(&["/"]), 0);
    assert_eq!(masks(&["/proc/kcore"]) + 1, masks(&[]));
}

#[test]
fn a_directory_is_made_before_it_is_mounted_on() {
    let plan = plan(&spec());
    for (dir, mount) in [("/proc", Step::MountProc), ("/sys", Step::MountSys { fresh: true })] {
        assert!(position(&plan, &Step::MakeDir(dir.into())) < position(&plan, &mount));
    }
    let tmpfs = |s: &Step| matches!(s, Step::MountTmpfs { path, .. } if path == Path::new("/dev"));
    let dev = plan.steps().iter().position(tmpfs).unwrap();
    assert!(position(&plan, &Step::MakeDir("/dev".into())) < dev);
    assert!(dev < position(&plan, &Step::MakeDir("/dev/pts".into())));
    // A mask of a file is the device null.
    assert!(position(&plan, &Step::Device("null")) < position(&plan, &Step::Mask("/proc/kcore".into())));
}

#[test]
fn the_host_keeps_its_name_its_network_and_its_resolver() {
    let plan = plan(&Spec { host: true, hostname: None, network: Network::Host, ..spec() });
    let foreign =
        |s: &&Step| matches!(s, Step::SetHostname(_) | Step::LoopbackUp | Step::CopyOf { .. } | Step::Resolver(..));
    assert_eq!(plan.steps().iter().find(foreign), None);
    position(&plan, &Step::MountSys { fresh: false });
}

#[test]
fn names_are_resolved_where_there_is_a_network() {
    let copies = |network| {
        let plan = plan(&Spec { network, ..spec() });
        let copy = |s: &Step| match s {
            Step::CopyOf { path, make, .. } => Some((*path, *make)),
            Step::Resolver(..) => Some((RESOLVER, true)),
            _ => None,
        };
        plan.steps().iter().filter_map(copy).collect::<Vec<_>>()
    };
    assert_eq!(copies(Network::Host), [("/etc/resolv.conf", true), ("/etc/hosts", true)]);
    assert_eq!(copies(Network::None), [("/etc/hosts", false)]);
}

#[test]
fn it_prints_one_step_a_line() {
    let plan = plan(&spec());
    let text = plan.to_string();
    assert_eq!(text.lines().count(), plan.steps().len() + plan.entry().len() + 5);
    assert!(text.starts_with("new namespaces: user mount pid ipc uts cgroup net\nmap uids 0:"), "{text}");
    assert!(text.contains("limit capabilities to CHOWN DAC_OVERRIDE FOWNER"), "{text}");
    assert!(text.ends_with("\nexecute true a"), "{text}");
}
