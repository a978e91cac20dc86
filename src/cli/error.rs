//! One clear line, one hint.

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};

/// Why a verb failed.
#[derive(Debug)]
pub(super) struct Error {
    message: String,
    hint: Option<String>,
    code: Option<u8>,
}

impl Error {
    pub(super) fn new(message: impl Display) -> Self {
        Self { message: message.to_string(), hint: None, code: None }
    }

    /// What clap has to say of a command line, in one line.
    pub(super) fn usage(e: &clap::Error) -> Self {
        let words = e.render().to_string();
        let mut parts = words.split("\n\n").map(|part| part.lines().map(str::trim).collect::<Vec<_>>().join(" "));
        let first = parts.next().unwrap_or_default();
        let message = first.strip_prefix("error: ").unwrap_or(&first).to_owned();
        let hint = parts.find_map(|part| {
            // To pass an unknown flag as a word is hardly ever what was meant.
            let told = ["tip: ", "Usage: ", "For more information, "].iter().find_map(|s| part.strip_prefix(s))?;
            Some(told.to_owned()).filter(|told| !told.starts_with("to pass '-"))
        });
        Self { message, hint, code: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The line.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// What may help.
    pub(super) fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The exit code, where it brings one.
    pub(super) fn code(&self) -> Option<u8> {
        self.code
    }

    /// Sets the exit code where the error brings none.
    pub(super) fn or_code(mut self, code: u8) -> Self {
        self.code = self.code.or(Some(code));
        self
    }

    /// Prints it; the exit code.
    pub(super) fn report(&self) -> ExitCode {
        say("", AnsiColor::Red, &self.message);
        if let Some(hint) = &self.hint {
            line(format_args!("{}hint:{} {hint}", style(AnsiColor::Cyan), style(AnsiColor::Cyan).render_reset()));
        }
        ExitCode::from(self.code.unwrap_or(1))
    }
}

/// A word of the log on stderr.
pub(super) fn log(level: log::Level, message: &std::fmt::Arguments<'_>) {
    let (kind, colour) = match level {
        log::Level::Error => ("", AnsiColor::Red),
        log::Level::Warn => ("warning: ", AnsiColor::Yellow),
        log::Level::Info => ("", AnsiColor::Green),
        log::Level::Debug => ("debug: ", AnsiColor::Blue),
        log::Level::Trace => ("trace: ", AnsiColor::Blue),
    };
    say(kind, colour, &message.to_string());
}

/// Something worth knowing on stderr, for those who asked.
pub(super) fn note(message: impl Display) {
    say("", AnsiColor::Green, &message.to_string());
}

fn say(kind: &str, colour: AnsiColor, message: &str) {
    let style = style(colour);
    line(format_args!("{style}onlay:{} {kind}{message}", style.render_reset()));
}

fn style(colour: AnsiColor) -> Style {
    Style::new().bold().fg_color(Some(colour.into()))
}

fn line(words: std::fmt::Arguments<'_>) {
    // Whoever closed stderr does not want to know.
    writeln!(anstream::stderr(), "{words}").ok();
}

/// Does the same to each; goes on after a failure. All failures but the last one are reported, that one is returned.
pub(super) fn each(names: &[String], mut act: impl FnMut(&str) -> Result<(), Error>) -> Result<ExitCode, Error> {
    let mut failed: Option<Error> = None;
    for name in names {
        if let Err(e) = act(name)
            && let Some(first) = failed.replace(e)
        {
            first.report();
        }
    }
    failed.map_or(Ok(ExitCode::SUCCESS), Err)
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Error> for crate::runner::RootError {
    fn from(e: Error) -> Self {
        Self { message: e.message, hint: e.hint }
    }
}

impl From<crate::runner::Error> for Error {
    fn from(e: crate::runner::Error) -> Self {
        Self { message: e.to_string(), hint: e.hint().map(str::to_owned), code: Some(e.exit_code()) }
    }
}

impl From<crate::fuse::Error> for Error {
    fn from(e: crate::fuse::Error) -> Self {
        Self { message: e.to_string(), hint: e.hint(), code: None }
    }
}
