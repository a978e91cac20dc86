//! The image for a machine, out of an index of several.

use std::fmt;
use std::str::FromStr;

use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, Os};

use super::error::{Error, Kind, tame};

/// Operating system, processor and its variant, in Go's words as everywhere in the field: `linux/arm64/v8`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    os: Os,
    architecture: Arch,
    variant: Option<String>,
}

impl Platform {
    /// This machine's.
    pub fn here() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => Arch::Amd64,
            "x86" => Arch::i386,
            "aarch64" => Arch::ARM64,
            "arm" => Arch::ARM,
            "powerpc64" if cfg!(target_endian = "little") => Arch::PowerPC64le,
            other => Arch::from(other),
        };
        Self { os: Os::Linux, architecture, variant: None }
    }

    /// Whether an image whose configuration says so is for it; of variants nothing is said there.
    pub fn is_of(&self, config: &ImageConfiguration) -> bool {
        *config.os() == self.os && *config.architecture() == self.architecture
    }

    /// How well an image for `other` runs here: the greater, the better; `None`, not at all.
    fn fits(&self, descriptor: &Descriptor) -> Option<u32> {
        let other = descriptor.platform().as_ref()?;
        if *other.os() != self.os || *other.architecture() != self.architecture {
            return None;
        }
        let theirs = other.variant().as_deref();
        match (&self.architecture, self.variant.as_deref(), theirs) {
            (_, wanted, theirs) if wanted == theirs => Some(100),
            // v8 is the name for what has none.
            (Arch::ARM64, None | Some("v8"), None | Some("v8")) => Some(99),
            // Older ones run, too: v7 on v8, v6 on v7.
            (Arch::ARM, wanted, theirs) => {
                let (wanted, theirs) = (version(wanted.unwrap_or("v7"))?, version(theirs.unwrap_or("v7"))?);
                (theirs <= wanted).then_some(theirs)
            }
            (Arch::Amd64, wanted, theirs) => {
                let (wanted, theirs) = (version(wanted.unwrap_or("v1"))?, version(theirs.unwrap_or("v1"))?);
                (theirs <= wanted).then_some(theirs)
            }
            // None asked for: any is better than none.
            (_, None, Some(_)) => Some(1),
            _ => None,
        }
    }

    /// Chooses from an index; `what` it is is for the message.
    pub(super) fn choose<'a>(&self, what: &str, index: &'a ImageIndex) -> Result<&'a Descriptor, Error> {
        let mut best: Option<(u32, &Descriptor)> = None;
        for descriptor in index.manifests() {
            // Of equals the first, as the specification has it.
            if let Some(fit) = self.fits(descriptor)
                && best.is_none_or(|(before, _)| fit > before)
            {
                best = Some((fit, descriptor));
            }
        }
        best.map(|(_, descriptor)| descriptor).ok_or_else(|| {
            let there: Vec<_> = index.manifests().iter().filter_map(name).collect();
            let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
            Error::new(Kind::Platform, format!("{what}: no image for {self}; there is: {there}"))
                .hint("choose one with --platform OS/ARCH[/VARIANT]")
        })
    }
}

fn version(variant: &str) -> Option<u32> {
    variant.strip_prefix('v')?.parse().ok()
}

/// The platform of an entry; attestations have none.
fn name(descriptor: &Descriptor) -> Option<String> {
    let p = descriptor.platform().as_ref()?;
    if p.os().to_string() == "unknown" {
        return None;
    }
    let variant = p.variant().as_deref().map(|v| format!("/{v}")).unwrap_or_default();
    Some(tame(&format!("{}/{}{variant}", p.os(), p.architecture())))
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|v| write!(f, "/{v}"))
    }
}

impl FromStr for Platform {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<_> = text.split('/').collect();
        let fine =
            |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        let (os, architecture, variant) = match parts[..] {
            [os, arch] => (os, arch, None),
            [os, arch, variant] => (os, arch, Some(variant)),
            _ => return Err("a platform is OS/ARCH[/VARIANT], such as linux/arm64".to_owned()),
        };
        if !parts.iter().all(fine) {
            return Err("a platform is OS/ARCH[/VARIANT], such as linux/arm64".to_owned());
        }
        // Names of uname(1), for those who are used to them.
        let architecture = match architecture {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Ok(Self { os: os.into(), architecture: architecture.into(), variant: variant.map(str::to_owned) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(platforms: &[&str]) -> ImageIndex {
        let manifests: Vec<_> = platforms
            .iter()
            .enumerate()
            .map(|(i, p)| {
                let parts: Vec<_> = p.split('/').collect();
                let mut platform = serde_json::json!({"os": parts[0], "architecture": parts[1]});
                if let Some(v) = parts.get(2) {
                    platform["variant"] = (*v).into();
                }
                serde_json::json!({"mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "digest": format!("sha256:{i:064x}"), "size": i, "platform": platform})
            })
            .collect();
        serde_json::from_value(serde_json::json!({"schemaVersion": 2, "manifests": manifests})).unwrap()
    }

    #[test]
    fn the_fitting_image_is_chosen() {
        let all = index(&[
            "unknown/unknown",
            "linux/arm/v6",
            "linux/arm/v7",
            "linux/arm64/v8",
            "linux/amd64",
            "linux/amd64/v3",
            "windows/amd64",
        ]);
        for (wanted, chosen) in [
            ("linux/amd64", 4),
            ("linux/amd64/v2", 4),
            ("linux/amd64/v3", 5),
            ("linux/amd64/v4", 5),
            ("linux/arm64", 3),
            ("linux/aarch64", 3),
            ("linux/arm", 2),
            ("linux/arm/v6", 1),
            ("linux/arm/v8", 2),
            ("windows/amd64", 6),
        ] {
            let platform: Platform = wanted.parse().unwrap();
            assert_eq!(platform.choose("x", &all).unwrap().size(), chosen, "{wanted}");
        }
    }

    #[test]
    fn none_that_fits_is_told_with_those_there_are() {
        let index = index(&["linux/amd64", "unknown/unknown"]);
        let e = "linux/s390x".parse::<Platform>().unwrap().choose("a:1", &index).unwrap_err();
        assert_eq!(e.to_string(), "a:1: no image for linux/s390x; there is: linux/amd64");
        assert!(e.what_helps().unwrap().contains("--platform"));
        for nonsense in ["", "linux", "/", "linux/", "a/b/c/d", "linux/am d64"] {
            assert!(nonsense.parse::<Platform>().is_err(), "{nonsense}");
        }
    }

    #[test]
    fn this_machine_has_a_platform() {
        assert!(Platform::here().to_string().starts_with("linux/"));
    }
}
