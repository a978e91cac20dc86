//! Flags about what the command is allowed.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use rustix::thread::CapabilitySet;

use super::values::ArgError;
use crate::runner::{KEPT_CAPABILITIES, Profile, Seccomp};
use crate::vocab::why;

#[derive(Debug, Clone, Default, Args)]
#[group(skip)]
pub(in crate::cli) struct SecurityArgs {
    /// Add a capability (of the new user namespace: none reaches the machine), or ALL
    #[arg(long, value_name = "CAP", action = ArgAction::Append, help_heading = "Security")]
    pub(in crate::cli) cap_add: Vec<String>,

    /// Drop a capability, or ALL
    #[arg(long, value_name = "CAP", action = ArgAction::Append, help_heading = "Security")]
    pub(in crate::cli) cap_drop: Vec<String>,

    /// no-new-privileges[=false], seccomp=FILE or seccomp=unconfined, mask=PATH[:PATH..], unmask=ALL or unmask=PATH[:PATH..]
    #[arg(long, value_name = "OPT", action = ArgAction::Append, help_heading = "Security")]
    pub(in crate::cli) security_opt: Vec<String>,
}

const FLAG: &str = "security-opt";

impl SecurityArgs {
    /// The defaults, what is dropped gone, what is added there: adding wins, as podman's does.
    pub(super) fn capabilities(&self) -> Result<CapabilitySet, ArgError> {
        let mut set = KEPT_CAPABILITIES;
        for name in &self.cap_drop {
            set.remove(named("cap-drop", name)?);
        }
        for name in &self.cap_add {
            set.insert(named("cap-add", name)?);
        }
        Ok(set)
    }

    /// The options, as pairs.
    fn options(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.security_opt.iter().map(|o| match o.split_once(['=', ':']) {
            Some((name, value)) => (name, Some(value)),
            None => (o.as_str(), None),
        })
    }

    pub(super) fn no_new_privs(&self) -> Result<bool, ArgError> {
        let mut on = true;
        for (name, value) in self.options() {
            match (name, value) {
                ("no-new-privileges", None | Some("true")) => on = true,
                ("no-new-privileges", Some("false")) => on = false,
                ("no-new-privileges", Some(other)) => {
                    return Err(ArgError::value(FLAG, format!("{name}={other}"), "true or false"));
                }
                ("seccomp" | "mask" | "unmask", Some(_)) => {}
                ("systempaths", Some("unconfined")) => {}
                ("label" | "apparmor", _) => {
                    log::warn!("--security-opt {name}: no SELinux or AppArmor label is set; the rest holds without");
                }
                _ => {
                    let text = value.map_or_else(|| name.to_owned(), |v| format!("{name}={v}"));
                    return Err(ArgError::value(FLAG, text, "no such option")
                        .hint("no-new-privileges[=false], seccomp=FILE|unconfined, mask=PATH, unmask=PATH|ALL"));
                }
            }
        }
        Ok(on)
    }

    pub(super) fn seccomp(&self) -> Result<Seccomp, ArgError> {
        let mut seccomp = Seccomp::Default;
        for value in self.options().filter_map(|(name, value)| value.filter(|_| name == "seccomp")) {
            seccomp = match value {
                "unconfined" => Seccomp::Unconfined,
                "default" | "builtin" => Seccomp::Default,
                file => {
                    let fail = |e: String| ArgError::value(FLAG, format!("seccomp={file}"), e);
                    let text = std::fs::read_to_string(file).map_err(|e| fail(why(&e)))?;
                    Seccomp::Profile(Profile::parse(&text).map_err(|e| fail(e.to_string()))?)
                }
            };
        }
        Ok(seccomp)
    }

    pub(super) fn masked(&self) -> Result<Vec<PathBuf>, ArgError> {
        self.paths("mask")
    }

    /// `/` is all of them.
    pub(super) fn unmasked(&self) -> Result<Vec<PathBuf>, ArgError> {
        if self.options().any(|o| o == ("systempaths", Some("unconfined"))) {
            return Ok(vec!["/".into()]);
        }
        self.paths("unmask")
    }

    fn paths(&self, option: &str) -> Result<Vec<PathBuf>, ArgError> {
        let mut paths = Vec::new();
        for value in self.options().filter_map(|(name, value)| value.filter(|_| name == option)) {
            for path in value.split(':') {
                let path = if path == "ALL" && option == "unmask" { "/" } else { path };
                if !path.starts_with('/') {
                    return Err(ArgError::value(FLAG, format!("{option}={value}"), "not absolute paths"));
                }
                paths.push(path.into());
            }
        }
        Ok(paths)
    }
}

fn named(flag: &'static str, text: &str) -> Result<CapabilitySet, ArgError> {
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("CAP_").unwrap_or(&name);
    if name == "ALL" {
        return Ok(CapabilitySet::all());
    }
    CapabilitySet::from_name(name)
        .ok_or_else(|| ArgError::value(flag, text, "no such capability").hint("capabilities(7) lists them; or ALL"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(add: &[&str], drop: &[&str]) -> Result<CapabilitySet, ArgError> {
        let words = |w: &[&str]| w.iter().map(|s| (*s).to_owned()).collect();
        SecurityArgs { cap_add: words(add), cap_drop: words(drop), security_opt: Vec::new() }.capabilities()
    }

    fn options(words: &[&str]) -> SecurityArgs {
        SecurityArgs { security_opt: words.iter().map(|s| (*s).to_owned()).collect(), ..SecurityArgs::default() }
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        assert_eq!(set(&[], &[]), Ok(KEPT_CAPABILITIES));
        assert_eq!(set(&[], &["all"]), Ok(CapabilitySet::empty()));
        assert_eq!(set(&["cap_net_raw"], &["ALL"]), Ok(CapabilitySet::NET_RAW));
        assert_eq!(set(&["SYS_PTRACE"], &[]), Ok(KEPT_CAPABILITIES | CapabilitySet::SYS_PTRACE));
        assert!(set(&["FLY"], &[]).is_err() && set(&[], &["FLY"]).is_err());
    }

    #[test]
    fn options_are_read_and_nonsense_is_refused() {
        assert_eq!(options(&[]).no_new_privs(), Ok(true));
        assert_eq!(options(&["no-new-privileges:false"]).no_new_privs(), Ok(false));
        assert_eq!(options(&["seccomp=unconfined"]).seccomp(), Ok(Seccomp::Unconfined));
        assert_eq!(options(&["unmask=ALL"]).unmasked(), Ok(vec!["/".into()]));
        assert_eq!(options(&["mask=/a:/b"]).masked(), Ok(vec!["/a".into(), "/b".into()]));
        for bad in ["no-new-privileges=maybe", "privileged", "seccomp"] {
            assert!(options(&[bad]).no_new_privs().is_err(), "{bad}");
        }
        assert!(options(&["seccomp=/no/such"]).seccomp().is_err());
        assert!(options(&["mask=a"]).masked().is_err());
    }
}
