//! Where a build's time went, from what buildah says with `--log-level debug` and when it said it.

use std::time::Duration;

use serde::Serialize;

/// Seconds of each part of one build.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Parts {
    /// The step with many files: its program, and what buildah does around one.
    pub(crate) many: f64,
    /// The other steps.
    pub(crate) steps: f64,
    /// Finding out what a step changed (both trees are walked) and packing it.
    pub(crate) diff: f64,
    /// Unpacking that as a layer, which no mount takes part in.
    pub(crate) untar: f64,
    /// From the first word to the end of the last daemon.
    pub(crate) all: f64,
}

impl Parts {
    /// What the file system has to do with.
    pub(crate) fn filesystem(&self) -> f64 {
        self.many + self.steps + self.diff
    }

    pub(crate) fn rest(&self) -> f64 {
        self.all - self.filesystem() - self.untar
    }

    /// From each line and when it came; `many` is a part of the step with many files. `None` where the engine speaks
    /// differently.
    pub(crate) fn of(lines: &[(Duration, String)], many: &str, all: Duration) -> Option<Self> {
        let mut parts = Self { all: all.as_secs_f64(), ..Self::default() };
        let mut since: Option<(What, f64)> = None;
        let mut seen = [false; 3];
        for (at, line) in lines {
            let at = at.as_secs_f64();
            let next = match What::begun_by(line, many) {
                Some(next) => next,
                None if What::ended_by(line) => What::Rest,
                None => continue,
            };
            // "COMMIT" may be said more than once.
            if since.is_some_and(|(what, _)| what == next) {
                continue;
            }
            if let Some((what, start)) = since {
                let (sum, nth) = match what {
                    What::Many => (&mut parts.many, 0),
                    What::Step => (&mut parts.steps, 0),
                    What::Diff => (&mut parts.diff, 1),
                    What::Untar => (&mut parts.untar, 2),
                    What::Rest => (&mut 0.0, 0),
                };
                *sum += at - start;
                seen[nth] |= what != What::Rest;
            }
            since = Some((next, at));
        }
        seen.iter().all(|s| *s).then_some(parts)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    Many,
    Step,
    Diff,
    Untar,
    Rest,
}

impl What {
    fn begun_by(line: &str, many: &str) -> Option<Self> {
        if line.starts_with("STEP ") {
            let step = if line.contains(many) { Self::Many } else { Self::Step };
            return Some(if line.contains(": RUN ") { step } else { Self::Rest });
        }
        if line.contains("msg=COMMIT") || line.contains("msg=\"COMMIT ") {
            return Some(Self::Diff);
        }
        line.contains("msg=\"Applying tar in ").then_some(Self::Untar)
    }

    fn ended_by(line: &str) -> bool {
        // That of a diff tells its size; other lines have `layer list` and the like.
        (line.contains("msg=\"layer ") && line.contains(" size is ")) || line.contains("msg=\"finished reading layer ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_lie_between_lines() {
        let said = [
            (0, "STEP 1/3: FROM localhost/base:1"),
            (10, "STEP 2/3: RUN mkdir /many && touch"),
            (40, "time=x level=debug msg=COMMIT"),
            (41, "time=x level=debug msg=\"COMMIT \\\"containers-storage:x\\\"\""),
            (42, "time=x level=debug msg=\"layer list: [1]\""),
            (60, "time=x level=debug msg=\"layer \\\"7b\\\" size is 105 bytes, uncompressed\""),
            (61, "time=x level=debug msg=\"Applying tar in /r/diff\""),
            (68, "time=x level=debug msg=\"finished reading layer \\\"sha256:8\\\"\""),
            (70, "STEP 3/3: RUN echo"),
            (75, "COMMIT built:1"),
            (75, "time=x level=debug msg=\"COMMIT built:1\""),
            (77, "time=x level=debug msg=\"layer \\\"7c\\\" size is 105 bytes, uncompressed\""),
        ];
        let said = said.map(|(at, line)| (Duration::from_secs(at), line.to_owned()));
        let parts = Parts::of(&said, "/many &&", Duration::from_secs(80));
        let expected = Parts { many: 30.0, steps: 5.0, diff: 22.0, untar: 7.0, all: 80.0 };
        assert_eq!(parts, Some(expected));
        assert_eq!(expected.rest(), 16.0);
    }

    #[test]
    fn an_engine_that_says_nothing_has_no_parts() {
        assert_eq!(Parts::of(&[(Duration::ZERO, "STEP 1/2: FROM x".into())], "many", Duration::ZERO), None);
    }
}
