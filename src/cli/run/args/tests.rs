//! From arguments to a spec.

use clap::{FromArgMatches, error::ErrorKind};

use super::*;

fn parse(args: &str) -> Result<RunArgs, clap::Error> {
    let command = RunArgs::augment_args(clap::Command::new("run").no_binary_name(true));
    RunArgs::from_arg_matches(&command.try_get_matches_from(args.split(' ').filter(|a| !a.is_empty()))?)
}

fn caller() -> Caller {
    let pair = |n: &str, v: &str| (OsString::from(n), OsString::from(v));
    Caller {
        env: vec![pair("SHELL", "/bin/zsh"), pair("TERM", "xterm"), pair("SECRET", "s")],
        cwd: Some("/home/ann".into()),
    }
}

fn spec(args: &str) -> Result<Spec, ArgError> {
    parse(args).unwrap().spec(Mapping::of_caller().unwrap(), &caller(), &Defaults::default(), Path::new("/base"), &[])
}

fn env(spec: &Spec) -> Vec<String> {
    spec.process.env.iter().map(|(n, v)| format!("{}={}", n.to_str().unwrap(), v.to_str().unwrap())).collect()
}

#[test]
fn a_rootfs_gets_a_clean_environment() {
    let spec = spec("--rootfs r -e A=1=2 -e SECRET -e NONE -e HOME=/h sh -c -x").unwrap();
    assert_eq!(spec.process.command, ["sh", "-c", "-x"]);
    let path = format!("PATH={PATH}");
    let want = [&*path, "TERM=xterm", "HOSTNAME=onlay", "container=onlay", "A=1=2", "SECRET=s", "HOME=/h"];
    assert_eq!(env(&spec), want);
    assert_eq!((spec.network, spec.hostname.as_deref(), &spec.process.workdir), (Network::None, Some("onlay"), &None));
}

#[test]
fn the_host_gets_the_callers() {
    let spec = spec("--host").unwrap();
    assert_eq!(spec.process.command, ["/bin/zsh"]);
    assert_eq!(env(&spec), ["SHELL=/bin/zsh", "TERM=xterm", "SECRET=s", "container=onlay"]);
    assert_eq!(spec.process.workdir.as_deref(), Some(Path::new("/home/ann")));
    assert_eq!((spec.network, spec.hostname), (Network::Host, None));
    let none = parse("--host --network none").unwrap().spec(
        Mapping::of_caller().unwrap(),
        &Caller::default(),
        &Defaults::default(),
        Path::new("/base"),
        &[],
    );
    let none = none.unwrap();
    assert_eq!((none.network, none.process.command), (Network::None, vec![OsString::from("sh")]));
}

#[test]
fn an_unknown_flag_is_no_image() {
    let kind = |args| parse(args).unwrap_err().kind();
    assert_eq!(kind("--bogus debian ls"), ErrorKind::UnknownArgument);
    assert_eq!(kind("--host -x ls"), ErrorKind::UnknownArgument);
    assert_eq!(parse("--rm debian --bogus").unwrap().command, ["debian", "--bogus"]);
}

#[test]
fn what_follows_the_command_is_the_commands() {
    assert_eq!(parse("--host -- ls --host").unwrap().command, ["ls", "--host"]);
    assert_eq!(parse("--lower a --lower b ls -e X").unwrap().command, ["ls", "-e", "X"]);
    assert_eq!(parse("--lower a --lower b ls").unwrap().lower, [Path::new("a"), Path::new("b")]);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let kind = |args| parse(args).unwrap_err().kind();
    assert_eq!(kind("--rootfs r"), ErrorKind::MissingRequiredArgument);
    assert_eq!(kind("--rootfs r --host ls"), ErrorKind::ArgumentConflict);
    assert_eq!(kind("--rootfs r --lower l ls"), ErrorKind::ArgumentConflict);
    assert_eq!(kind("--host --network bridge ls"), ErrorKind::InvalidValue);
    for (args, why) in [
        ("--host -w here ls", "--workdir here: not an absolute path"),
        ("--host -e =x ls", "--env =x: a variable needs a name"),
        ("--host --hostname a_b ls", "--hostname a_b: a host name has 1 to 64 letters, digits, '-' and '.'"),
        ("--host --env-file /no/such ls", "--env-file /no/such: No such file or directory"),
        ("--host --ulimit x ls", "--ulimit x: not NAME=SOFT[:HARD]"),
    ] {
        assert_eq!(spec(args).unwrap_err().to_string(), why);
    }
}

#[test]
fn what_the_image_says_comes_before_what_is_said_here() {
    let words = |w: &[&str]| w.iter().map(OsString::from).collect::<Vec<_>>();
    let image = Defaults {
        entrypoint: words(&["/init", "-v"]),
        command: words(&["serve"]),
        env: vec![("PATH".into(), "/app".into()), ("A".into(), "image".into())],
        workdir: Some("/srv".into()),
        user: Some("web".into()),
    };
    let spec = |args: &str| {
        let mapping = Mapping::of_caller().unwrap();
        parse(args).unwrap().spec(mapping, &caller(), &image, Path::new("/base"), &[]).unwrap()
    };
    let s = spec("--rootfs r --entrypoint /x -e A=here -u 7 -w /w");
    assert_eq!((s.process.command, s.process.user.as_deref()), (words(&["/x"]), Some("7")));
    assert_eq!((s.process.workdir.as_deref(), s.make_workdir), (Some(Path::new("/w")), false));
    let s = spec("--rootfs r other");
    assert_eq!((&s.process.command, s.process.user.as_deref()), (&words(&["/init", "-v", "other"]), Some("web")));
    assert_eq!((s.process.workdir.as_deref(), s.make_workdir), (Some(Path::new("/srv")), true));
    assert!(env(&s).contains(&"PATH=/app".to_owned()) && env(&s).contains(&"A=image".to_owned()));
    assert!(!env(&s).iter().any(|e| e.starts_with("HOME=")), "another user has another home");
    let s = spec("--rootfs r --entrypoint= a b");
    assert_eq!(s.process.command, words(&["a", "b"]));
}

#[test]
fn input_and_terminal_are_asked_for() {
    let process = |args: &str| spec(args).unwrap().process;
    let p = process("--rootfs r ls");
    assert!(!p.stdin && !p.terminal);
    let p = process("--rootfs r -it ls");
    assert!(p.stdin && p.terminal);
    assert!(process("--host").stdin);
}
