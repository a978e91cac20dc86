//! Flags about the container as a whole, which only one of an image has.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{ArgAction, Args, ValueEnum};

use super::values::ArgError;
use crate::cli::containers::signal_named;
use crate::cli::error::Error;
use crate::vocab::why;

#[derive(Debug, Clone, Default, Args)]
#[group(skip)]
pub(in crate::cli) struct ContainerArgs {
    /// Say something of it, which `ps --filter label=` finds
    #[arg(short, long, value_name = "NAME[=VALUE]", action = ArgAction::Append, conflicts_with = "view", help_heading = "Container")]
    pub(in crate::cli) label: Vec<String>,

    /// Labels from a file, one a line; # begins a comment
    #[arg(long, value_name = "FILE", action = ArgAction::Append, conflicts_with = "view", help_heading = "Container")]
    pub(in crate::cli) label_file: Vec<PathBuf>,

    /// Write its id to a new file
    #[arg(long, value_name = "FILE", conflicts_with = "view", help_heading = "Container")]
    pub(in crate::cli) cidfile: Option<PathBuf>,

    /// When to fetch the image from its registry [default: missing, for a name that begins with the registry's]
    #[arg(long, value_name = "WHEN", conflicts_with = "view", help_heading = "Container")]
    pub(in crate::cli) pull: Option<Pull>,

    /// The signal by which `stop` ends it [default: as the image says, or TERM]
    #[arg(long, value_name = "SIGNAL", conflicts_with = "view", help_heading = "Container")]
    pub(in crate::cli) stop_signal: Option<String>,

    /// How many seconds `stop` then waits [default: 10]
    #[arg(long, value_name = "SECONDS", conflicts_with = "view", help_heading = "Container")]
    pub(in crate::cli) stop_timeout: Option<u64>,
}

/// The value of `--pull`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Pull {
    /// If it is not here
    Missing,
    /// Every time, so that a moved tag is seen
    Always,
    /// Not at all
    Never,
}

impl ContainerArgs {
    /// The image's labels, those of files, those given one by one: the last of a name wins.
    pub(super) fn labels(
        &self,
        image: impl IntoIterator<Item = (String, String)>,
    ) -> Result<BTreeMap<String, String>, ArgError> {
        let mut labels: BTreeMap<_, _> = image.into_iter().collect();
        for file in &self.label_file {
            let text = std::fs::read_to_string(file).map_err(|e| {
                ArgError::value("label-file", file, why(&e)).hint("a text file, NAME=VALUE on each line")
            })?;
            for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
                labels.extend([pair("label-file", line)?]);
            }
        }
        for word in &self.label {
            labels.extend([pair("label", word)?]);
        }
        Ok(labels)
    }

    /// The signal, if it makes sense.
    pub(super) fn stop_signal(&self) -> Result<Option<String>, ArgError> {
        match &self.stop_signal {
            Some(word) if signal_named(word).is_none() => {
                Err(ArgError::value("stop-signal", word, "no such signal").hint("TERM, QUIT, INT, HUP, 15, .."))
            }
            word => Ok(word.clone()),
        }
    }

    /// Makes the file for the id, which must be new: two containers would go by one name.
    pub(super) fn id_file(&self) -> Result<Option<IdFile>, Error> {
        let Some(path) = &self.cidfile else { return Ok(None) };
        match std::fs::File::create_new(path) {
            Ok(file) => Ok(Some(IdFile { file, path: path.clone(), written: false })),
            Err(e) => {
                let error = Error::new(format!("--cidfile {}: {}", path.display(), why(&e)));
                Err(match e.kind() {
                    std::io::ErrorKind::AlreadyExists => error.hint("remove it, unless its container is still needed"),
                    _ => error.hint("a new file in a directory of yours"),
                })
            }
        }
    }
}

/// A file that gets an id, or goes again.
#[derive(Debug)]
pub(super) struct IdFile {
    file: std::fs::File,
    path: PathBuf,
    written: bool,
}

impl IdFile {
    pub(super) fn write(mut self, id: &str) -> Result<(), Error> {
        let path: &Path = &self.path;
        self.file
            .write_all(id.as_bytes())
            .map_err(|e| Error::new(format!("--cidfile {}: {}", path.display(), why(&e))))?;
        self.written = true;
        Ok(())
    }
}

impl Drop for IdFile {
    fn drop(&mut self) {
        if !self.written
            && let Err(e) = std::fs::remove_file(&self.path)
        {
            log::warn!("remove {}: {}", self.path.display(), why(&e));
        }
    }
}

fn pair(flag: &'static str, word: &str) -> Result<(String, String), ArgError> {
    let (name, value) = word.split_once('=').unwrap_or((word, ""));
    if name.is_empty() {
        return Err(ArgError::value(flag, word, "a label needs a name").hint("--label team=web"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_come_from_image_file_and_flags() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("labels");
        std::fs::write(&file, "# of the team\na=file\n\nb=file\n").unwrap();
        let words = |w: &[&str]| w.iter().map(|s| (*s).to_owned()).collect();
        let args = ContainerArgs { label: words(&["b=flag=x", "c"]), label_file: vec![file], ..Default::default() };
        let image = [("a", "image"), ("z", "image")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        let got: Vec<String> = args.labels(image).unwrap().iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(got, ["a=file", "b=flag=x", "c=", "z=image"]);
        for bad in ["=x", ""] {
            assert!(ContainerArgs { label: words(&[bad]), ..Default::default() }.labels([]).is_err());
        }
        assert!(ContainerArgs { label_file: vec!["/no/such".into()], ..Default::default() }.labels([]).is_err());
    }

    #[test]
    fn signals_have_names() {
        let args = |word: &str| ContainerArgs { stop_signal: Some(word.to_owned()), ..Default::default() };
        assert!(args("SIGQUIT").stop_signal().is_ok() && args("3").stop_signal().is_ok());
        assert!(args("WHISTLE").stop_signal().is_err());
    }

    #[test]
    fn an_id_file_is_new_and_goes_unless_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id");
        let args = ContainerArgs { cidfile: Some(path.clone()), ..Default::default() };
        drop(args.id_file().unwrap());
        assert!(!path.exists());
        args.id_file().unwrap().unwrap().write("abc").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "abc");
        assert!(args.id_file().unwrap_err().hint_text().is_some());
        assert!(path.exists());
    }
}
