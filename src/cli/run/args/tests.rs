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
    parse(args).unwrap().spec(Mapping::of_caller().unwrap(), &caller(), Path::new("/base"), &[])
}

fn env(spec: &Spec) -> Vec<String> {
    spec.env.iter().map(|(n, v)| format!("{}={}", n.to_str().unwrap(), v.to_str().unwrap())).collect()
}

#[test]
fn a_rootfs_gets_a_clean_environment() {
    let spec = spec("--rootfs r -e A=1=2 -e SECRET -e NONE -e HOME=/h sh -c -x").unwrap();
    assert_eq!(spec.command, ["sh", "-c", "-x"]);
    let path = format!("PATH={PATH}");
    let want = [&*path, "TERM=xterm", "HOSTNAME=onlay", "container=onlay", "A=1=2", "SECRET=s", "HOME=/h"];
    assert_eq!(env(&spec), want);
    assert_eq!((spec.network, spec.hostname.as_deref(), &spec.workdir), (Network::None, Some("onlay"), &None));
}

#[test]
fn the_host_gets_the_callers() {
    let spec = spec("--host").unwrap();
    assert_eq!(spec.command, ["/bin/zsh"]);
    assert_eq!(env(&spec), ["SHELL=/bin/zsh", "TERM=xterm", "SECRET=s", "container=onlay"]);
    assert_eq!(spec.workdir.as_deref(), Some(Path::new("/home/ann")));
    assert_eq!((spec.network, spec.hostname), (Network::Host, None));
    let none = parse("--host --network none").unwrap().spec(
        Mapping::of_caller().unwrap(),
        &Caller::default(),
        Path::new("/base"),
        &[],
    );
    let none = none.unwrap();
    assert_eq!((none.network, none.command), (Network::None, vec![OsString::from("sh")]));
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
    assert_eq!(kind("ls"), ErrorKind::MissingRequiredArgument);
    assert_eq!(kind("--rootfs r"), ErrorKind::MissingRequiredArgument);
    assert_eq!(kind("--rootfs r --host ls"), ErrorKind::ArgumentConflict);
    assert_eq!(kind("--rootfs r --lower l ls"), ErrorKind::ArgumentConflict);
    assert_eq!(kind("--host --network bridge ls"), ErrorKind::InvalidValue);
    assert_eq!(spec("--host -w here ls"), Err(ArgError::Workdir("here".into())));
    assert_eq!(spec("--host -e =x ls"), Err(ArgError::Env("=x".into())));
    assert_eq!(spec("--host --hostname a_b ls"), Err(ArgError::Hostname("a_b".into())));
}
