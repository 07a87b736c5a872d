//! Selectors: the facts about a workload that entries are written in.

use std::fmt;
use std::str::FromStr;

/// One fact about a workload, such as `unix:uid:1000`: the attestor's type, a colon, and a value.
///
/// The type has no colon; the value may have any number. Neither is empty.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Selector {
    text: Box<str>,
    colon: usize,
}

impl Selector {
    /// A selector of its two parts.
    ///
    /// # Errors
    ///
    /// [`SelectorError`] when a part is empty or the type has a colon.
    pub fn new(kind: &str, value: &str) -> Result<Self, SelectorError> {
        if kind.is_empty() {
            return Err(SelectorError::EmptyType);
        }
        if kind.contains(':') {
            return Err(SelectorError::ColonInType { kind: kind.into() });
        }
        if value.is_empty() {
            return Err(SelectorError::EmptyValue { kind: kind.into() });
        }
        Ok(Self {
            text: format!("{kind}:{value}").into(),
            colon: kind.len(),
        })
    }

    /// The part before the first colon.
    pub fn kind(&self) -> &str {
        &self.text[..self.colon]
    }

    /// The part behind the first colon.
    pub fn value(&self) -> &str {
        &self.text[self.colon + 1..]
    }

    /// Both parts with the colon.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, value) = text
            .split_once(':')
            .ok_or_else(|| SelectorError::NoColon { text: text.into() })?;
        Self::new(kind, value)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a text is not a [`Selector`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectorError {
    /// The type has a colon.
    #[error("selector type {kind:?} has a colon")]
    ColonInType {
        /// The type.
        kind: String,
    },

    /// Nothing stands before the colon.
    #[error("selector has no type before the colon")]
    EmptyType,

    /// Nothing stands behind the colon.
    #[error("selector of type {kind:?} has no value")]
    EmptyValue {
        /// The type.
        kind: String,
    },

    /// There is no colon.
    #[error("selector {text:?} must be formatted as type:value")]
    NoColon {
        /// What stood there.
        text: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_keeps_its_colons() {
        let selector: Selector = "k8s:pod-label:app:web".parse().unwrap();
        assert_eq!(
            (selector.kind(), selector.value()),
            ("k8s", "pod-label:app:web")
        );
        assert_eq!(selector.to_string(), "k8s:pod-label:app:web");
        assert_eq!(Selector::new("k8s", "pod-label:app:web").unwrap(), selector);
    }

    #[track_caller]
    fn refused(text: &str, message: &str) {
        assert_eq!(text.parse::<Selector>().unwrap_err().to_string(), message);
    }

    #[test]
    fn text_without_both_parts_is_refused() {
        refused("unix", "selector \"unix\" must be formatted as type:value");
        refused("unix:", "selector of type \"unix\" has no value");
        refused(":uid:0", "selector has no type before the colon");
    }

    #[test]
    fn colon_in_the_type_is_refused() {
        assert!(Selector::new("unix", "uid:0").is_ok());
        assert!(matches!(
            Selector::new("unix:uid", "0"),
            Err(SelectorError::ColonInType { .. })
        ));
    }
}
