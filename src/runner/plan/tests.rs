//! The plan as a list: what is in it, and in which order.

use super::*;
use crate::runner::Mapping;

fn spec() -> Spec {
    Spec {
        command: vec!["true".into(), "a".into()],
        env: Vec::new(),
        workdir: None,
        hostname: Some("box".into()),
        network: Network::None,
        mapping: Mapping::of_caller().unwrap(),
        base: "/base".into(),
        host: false,
        hide: Vec::new(),
        no_new_privs: true,
    }
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
    for step in [Step::ChangeDir("/".into()), Step::LimitCapabilities, Step::NoNewPrivs] {
        assert!(position(&plan, &step) > switch, "{step}");
    }
    assert!(position(&plan, &Step::LimitCapabilities) > position(&plan, &Step::ChangeDir("/".into())));
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
    let foreign = |s: &&Step| matches!(s, Step::SetHostname(_) | Step::LoopbackUp | Step::CopyOf { .. });
    assert_eq!(plan.steps().iter().find(foreign), None);
    position(&plan, &Step::MountSys { fresh: false });
}

#[test]
fn names_are_resolved_where_there_is_a_network() {
    let copies = |network| {
        let plan = plan(&Spec { network, ..spec() });
        let copy = |s: &Step| match s {
            Step::CopyOf { path, make, .. } => Some((*path, *make)),
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
    assert_eq!(text.lines().count(), plan.steps().len() + 4);
    assert!(text.starts_with("new namespaces: user mount pid ipc uts cgroup net\nmap uids 0:"), "{text}");
    assert!(text.contains("limit capabilities to CHOWN DAC_OVERRIDE FOWNER"), "{text}");
    assert!(text.ends_with("\nexecute true a"), "{text}");
}
