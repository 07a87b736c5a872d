//! How a case ends, and what all of them together mean for the exit status.

use std::fmt;
use std::io;

/// Why a case did not pass. Its text is one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The check was made and the answer was wrong, or none came in time.
    Failed(String),
    /// A foreign program that the check needs is not here and could not be installed.
    Missing(String),
}

impl Trouble {
    pub(crate) fn failed(why: impl Into<String>) -> Self {
        Self::Failed(why.into())
    }

    /// Says what was being done when this happened.
    pub(crate) fn during(self, what: &str) -> Self {
        match self {
            Self::Failed(why) => Self::Failed(format!("{what}: {why}")),
            Self::Missing(why) => Self::Missing(format!("{what}: {why}")),
        }
    }

    /// The same finding about something foreign that was to be installed: not our failure.
    pub(crate) fn into_missing(self) -> Self {
        match self {
            Self::Failed(why) | Self::Missing(why) => Self::Missing(why),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(why) | Self::Missing(why) => f.write_str(why),
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// `Ok` when `holds`, else the failure that `why` describes.
pub(crate) fn ensure(holds: bool, why: impl FnOnce() -> String) -> Result<(), Trouble> {
    if holds {
        Ok(())
    } else {
        Err(Trouble::Failed(why()))
    }
}

/// Counts over a whole run.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl Tally {
    pub(crate) fn count(&mut self, outcome: &Result<(), Trouble>) {
        match outcome {
            Ok(()) => self.passed += 1,
            Err(Trouble::Failed(_)) => self.failed += 1,
            Err(Trouble::Missing(_)) => self.skipped += 1,
        }
    }

    /// A skip is honest on a developer's machine; where everything can be installed, it would hide a check for ever.
    pub(crate) fn is_good(&self, in_ci: bool) -> bool {
        self.failed == 0 && !(in_ci && self.skipped > 0)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(outcomes: &[Result<(), Trouble>]) -> Tally {
        let mut tally = Tally::default();
        outcomes.iter().for_each(|outcome| tally.count(outcome));
        tally
    }

    #[test]
    fn a_skip_is_bad_in_ci_only() {
        let tally = tally(&[Ok(()), Err(Trouble::Missing("no curl".into()))]);
        assert!(tally.is_good(false));
        assert!(!tally.is_good(true));
        assert_eq!(tally.to_string(), "1 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn a_failure_is_bad_everywhere() {
        let tally = tally(&[Ok(()), Err(Trouble::failed("wrong"))]);
        assert!(!tally.is_good(false));
        assert!(!tally.is_good(true));
    }

    #[test]
    fn all_passed_is_good_everywhere() {
        let tally = tally(&[Ok(()), Ok(())]);
        assert!(tally.is_good(false));
        assert!(tally.is_good(true));
    }
}
