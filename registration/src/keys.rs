//! What goes wrong in reading entries, said so that the place is found: the entry, the key, the nearest known key.

use std::fmt;

use spiffe_core::SpiffeIdError;

use crate::entry::EntryError;
use crate::selector::SelectorError;

/// Why entries could not be read.
#[derive(Debug)]
pub struct ParseEntryError {
    entry: Option<usize>,
    kind: ParseEntryErrorKind,
}

impl ParseEntryError {
    pub(crate) fn at(entry: usize, kind: ParseEntryErrorKind) -> Self {
        Self {
            entry: Some(entry),
            kind,
        }
    }

    /// Which of several entries, counted from 0.
    pub fn entry(&self) -> Option<usize> {
        self.entry
    }

    /// What is wrong.
    pub fn kind(&self) -> &ParseEntryErrorKind {
        &self.kind
    }
}

impl From<ParseEntryErrorKind> for ParseEntryError {
    fn from(kind: ParseEntryErrorKind) -> Self {
        Self { entry: None, kind }
    }
}

impl fmt::Display for ParseEntryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.entry {
            Some(entry) => write!(f, "entries[{entry}]: {}", self.kind),
            None => self.kind.fmt(f),
        }
    }
}

impl std::error::Error for ParseEntryError {}

/// What is wrong with an entry as it is written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParseEntryErrorKind {
    /// The entry breaks a rule.
    #[error(transparent)]
    Entry(#[from] EntryError),

    /// A SPIFFE ID or trust domain is none.
    #[error("{key}: {value:?} is no {what}: {reason}")]
    Id {
        /// The key it stands at.
        key: &'static str,
        /// What stands there.
        value: String,
        /// What should.
        what: &'static str,
        /// Why it is none.
        reason: SpiffeIdError,
    },

    /// The whole is not JSON.
    #[error("not JSON: {reason}")]
    Json {
        /// Where and why.
        reason: String,
    },

    /// A key that has to be there is not.
    #[error("{key}: is required")]
    Missing {
        /// The key.
        key: &'static str,
    },

    /// A key stands twice that may stand once.
    #[error("{key}: is given twice")]
    Repeated {
        /// The key.
        key: String,
    },

    /// A selector is none.
    #[error("{key}: {reason}")]
    Selector {
        /// The key it stands at.
        key: &'static str,
        /// Why it is none.
        reason: SelectorError,
    },

    /// A key that nothing is known about.
    #[error("unknown key {key:?}{}", Nearest(nearest))]
    UnknownKey {
        /// The key.
        key: String,
        /// A known one of nearly the same letters.
        nearest: Option<&'static str>,
    },

    /// A value of the wrong form.
    #[error("{key}: must be {expected}")]
    Value {
        /// The key it stands at.
        key: String,
        /// What should stand there.
        expected: &'static str,
    },
}

impl ParseEntryErrorKind {
    pub(crate) fn unknown(key: &str, known: impl IntoIterator<Item = &'static str>) -> Self {
        let near = known
            .into_iter()
            .map(|known| (distance(key, known), known))
            .min();
        Self::UnknownKey {
            key: key.to_owned(),
            // Beyond a third of the letters it is another word.
            nearest: near
                .filter(|(distance, known)| *distance <= known.len().div_ceil(3))
                .map(|(_, known)| known),
        }
    }

    pub(crate) fn value(key: &str, expected: &'static str) -> Self {
        Self::Value {
            key: key.to_owned(),
            expected,
        }
    }
}

struct Nearest<'a>(&'a Option<&'static str>);

impl fmt::Display for Nearest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .map_or(Ok(()), |nearest| write!(f, ", did you mean {nearest:?}?"))
    }
}

/// Insertions, deletions and replacements that make one text the other.
fn distance(a: &str, b: &str) -> usize {
    // The row grows with the known key, the loop with the unknown one, of which no more matters than this.
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().take(MAX_COMPARED).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

const MAX_COMPARED: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        for (a, b, edits) in [
            ("", "", 0),
            ("abc", "abc", 0),
            ("abc", "", 3),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
            ("selecter", "selector", 1),
        ] {
            assert_eq!(distance(a, b), edits, "{a} {b}");
        }
    }

    #[test]
    fn only_a_near_key_is_suggested() {
        let message = |key| ParseEntryErrorKind::unknown(key, ["selector", "dns"]).to_string();
        assert_eq!(
            message("selektor"),
            "unknown key \"selektor\", did you mean \"selector\"?"
        );
        assert_eq!(message("colour"), "unknown key \"colour\"");
    }
}
