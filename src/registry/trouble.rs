//! Which failures are worth another try, and when.

use std::time::{Duration, SystemTime};

use ureq::http::{HeaderMap, header};

use super::error::{Error, Kind};
use super::http::Patience;

/// A failed attempt.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) error: Error,
    again: Again,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    /// The answer would be the same.
    No,
    /// After a moment, longer each time.
    Soon,
    /// The registry has said when.
    After(Duration),
}

impl Trouble {
    /// One that may pass.
    pub(super) fn passing(error: Error) -> Self {
        Self { error, again: Again::Soon }
    }

    /// One that may pass; the headers of the answer may say when (RFC 9110, Retry-After: seconds or a date).
    pub(super) fn told(error: Error, headers: &HeaderMap) -> Self {
        let after = headers.get(header::RETRY_AFTER).and_then(|v| retry_after(v.to_str().ok()?, SystemTime::now()));
        Self { error, again: after.map_or(Again::Soon, Again::After) }
    }

    /// How long to wait before the next attempt, after `tries` of them; the error if there is to be none.
    pub(super) fn pause(self, patience: &Patience, tries: u32) -> Result<Duration, Error> {
        match self.again {
            Again::No => Err(self.error.after(tries)),
            _ if tries >= patience.tries => Err(self.error.after(tries)),
            Again::Soon => Ok(patience.pause.saturating_mul(1 << (tries - 1).min(10)).min(patience.longest_pause)),
            Again::After(time) if time > patience.longest_pause => Err(self
                .error
                .after(tries)
                .hint(format!("the registry asks to wait {} s: try again then", time.as_secs()))),
            Again::After(time) => Ok(time),
        }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self { error, again: Again::No }
    }
}

/// Attempts it until it works, or until there is no point any more.
pub(super) fn persist<T>(patience: &Patience, mut attempt: impl FnMut() -> Result<T, Trouble>) -> Result<T, Error> {
    let mut tries = 1;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(trouble) => wait(trouble, patience, tries)?,
        }
        tries += 1;
    }
}

/// Waits until the next attempt, after `tries` of them; the error if there is to be none.
pub(super) fn wait(trouble: Trouble, patience: &Patience, tries: u32) -> Result<(), Error> {
    let words = trouble.error.to_string();
    let told = matches!(trouble.again, Again::After(_));
    let time = trouble.pause(patience, tries)?;
    let level = if told && time.as_secs() > 1 { log::Level::Warn } else { log::Level::Info };
    log::log!(level, "{words}: next try in {} ms", time.as_millis());
    std::thread::sleep(time);
    Ok(())
}

/// Seconds, or a date of RFC 9110.
fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let then = jiff::fmt::rfc2822::parse(value).ok()?;
    let now = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    Some(Duration::from_secs(u64::try_from(then.timestamp().as_second()).ok()?.saturating_sub(now)))
}

/// Whether a status may be another one soon (RFC 9110, RFC 6585).
pub(super) fn may_pass(status: u16) -> Option<Kind> {
    match status {
        429 => Some(Kind::TooMany),
        408 | 500 | 502..=504 => Some(Kind::Server),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(retry_after("120", now), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:47 GMT", now), Some(Duration::from_secs(10)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:00 GMT", now), Some(Duration::ZERO));
        for nonsense in ["", "-1", "soon", "1e9", "99999999999999999999999"] {
            assert_eq!(retry_after(nonsense, now), None, "{nonsense}");
        }
    }

    #[test]
    fn pauses_grow_and_end() {
        let patience = Patience { tries: 4, ..Patience::default() };
        let pause = |tries| Trouble::passing(Error::new(Kind::Server, "x")).pause(&patience, tries);
        assert!(pause(1).unwrap() < pause(2).unwrap() && pause(2).unwrap() < pause(3).unwrap());
        assert_eq!(pause(4).unwrap_err().to_string(), "x (tried 4 times)");
    }
}
