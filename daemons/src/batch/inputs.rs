//! A line of `spiffe batch` taken apart into typed inputs.
//!
//! Nothing of a line is kept but strings, small numbers, and lists and maps of them up to limits of their own, so that a
//! hostile line costs little more memory than its bytes.

use std::borrow::Cow;
use std::fmt;

use base64ct::{Base64, Encoding};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use spiffe_core::Timestamp;

use super::Text;
use crate::verdict::Refusal;

/// The most members of a line; no operation has a third as many inputs.
const MAX_MEMBERS: usize = 32;

/// The most elements kept of a list: an ID of 2,048 bytes has fewer segments, so more change no verdict.
const MAX_ELEMENTS: usize = 4096;

/// The most entries of a map; bundles are counted again where they are added.
const MAX_ENTRIES: usize = crate::verdict::bundle::MAX_BUNDLES + 1;

/// The visits of a value that is neither list nor map.
macro_rules! scalars {
    ($of:ident) => {
        fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
            Ok($of::Text(Cow::Borrowed(text)))
        }

        fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
            Ok($of::Text(Cow::Owned(text.to_owned())))
        }

        fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
            Ok($of::Number(number))
        }

        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok($of::Other)
        }

        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok($of::Other)
        }

        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok($of::Other)
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok($of::Other)
        }
    };
}

/// One line: whose answer it wants, and what it asks.
pub(super) struct Line<'a> {
    pub(super) case: Option<Text<'a>>,
    pub(super) question: Result<(Text<'a>, Inputs<'a>), Refusal>,
}

/// Reads a line.
///
/// # Errors
///
/// A line that is no JSON object.
pub(super) fn read(line: &[u8]) -> Result<Line<'_>, Refusal> {
    let Members(mut members) = serde_json::from_slice(line)
        .map_err(|error| Refusal::usage(format_args!("the line is no JSON object: {error}")))?;
    let case = take(&mut members, "case");
    let op = take(&mut members, "op");
    let (case, case_fault) = match case {
        None => (None, None),
        Some(Input::Text(case)) => (Some(case), None),
        Some(_) => (None, Some(wrong("case", "a string"))),
    };
    let repeated = (1..members.len())
        .find(|at| {
            members[..*at]
                .iter()
                .any(|(name, _)| *name == members[*at].0)
        })
        .map(|at| Refusal::usage(format_args!("the member {:?} is repeated", members[at].0)));
    let many = (members.len() >= MAX_MEMBERS)
        .then(|| Refusal::usage("the line has more members than any operation has inputs"));
    let question = match (case_fault.or(repeated).or(many), op) {
        (Some(fault), _) => Err(fault),
        (None, Some(Input::Text(op))) => Ok((op, Inputs { members })),
        (None, Some(_)) => Err(wrong("op", "a string")),
        (None, None) => Err(Refusal::usage("the member \"op\" is missing")),
    };
    Ok(Line { case, question })
}

/// The inputs of an operation; each is taken once, and what is left at the end is unknown.
#[derive(Debug)]
pub(super) struct Inputs<'a> {
    members: Vec<(Text<'a>, Input<'a>)>,
}

impl<'a> Inputs<'a> {
    pub(super) fn text(&mut self, name: &'static str) -> Result<Text<'a>, Refusal> {
        self.optional_text(name)?.ok_or_else(|| missing(name))
    }

    pub(super) fn optional_text(
        &mut self,
        name: &'static str,
    ) -> Result<Option<Text<'a>>, Refusal> {
        match take(&mut self.members, name) {
            None => Ok(None),
            Some(Input::Text(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(name, "a string")),
        }
    }

    /// Bytes in standard base64 with padding.
    pub(super) fn optional_bytes(
        &mut self,
        name: &'static str,
    ) -> Result<Option<Vec<u8>>, Refusal> {
        let Some(text) = self.optional_text(name)? else {
            return Ok(None);
        };
        Base64::decode_vec(&text).map(Some).map_err(|_| {
            Refusal::usage(format_args!(
                "{name:?} is not base64 in the standard alphabet with padding"
            ))
        })
    }

    /// One of two forms of the same input: text, or bytes in base64.
    pub(super) fn text_or_bytes(
        &mut self,
        text: &'static str,
        bytes: &'static str,
    ) -> Result<Option<TextOrBytes<'a>>, Refusal> {
        match (self.optional_text(text)?, self.optional_bytes(bytes)?) {
            (None, None) => Ok(None),
            (Some(text), None) => Ok(Some(TextOrBytes::Text(text))),
            (None, Some(bytes)) => Ok(Some(TextOrBytes::Bytes(bytes))),
            (Some(_), Some(_)) => Err(Refusal::usage(format_args!(
                "{text:?} and {bytes:?} are two forms of one input; give one"
            ))),
        }
    }

    pub(super) fn time(&mut self, name: &'static str) -> Result<Timestamp, Refusal> {
        self.text(name)?
            .parse()
            .map_err(|error| Refusal::usage(format_args!("{name:?} is {error}")))
    }

    pub(super) fn optional_number(&mut self, name: &'static str) -> Result<Option<u64>, Refusal> {
        match take(&mut self.members, name) {
            None => Ok(None),
            Some(Input::Number(number)) => Ok(Some(number)),
            Some(_) => Err(wrong(name, "a number, whole and not negative")),
        }
    }

    pub(super) fn texts(&mut self, name: &'static str) -> Result<Vec<Text<'a>>, Refusal> {
        match take(&mut self.members, name) {
            None => Err(missing(name)),
            Some(Input::Texts(texts)) => Ok(texts),
            Some(_) => Err(wrong(name, "a list of strings")),
        }
    }

    pub(super) fn text_map(
        &mut self,
        name: &'static str,
    ) -> Result<Vec<(Text<'a>, Text<'a>)>, Refusal> {
        let text = |(key, entry)| match entry {
            Entry::Text(text) => Some((key, text)),
            Entry::Number(_) | Entry::Other => None,
        };
        self.optional_map(name)?
            .ok_or_else(|| missing(name))?
            .into_iter()
            .map(text)
            .collect::<Option<_>>()
            .ok_or_else(|| wrong(name, "an object of strings"))
    }

    pub(super) fn optional_number_map(
        &mut self,
        name: &'static str,
    ) -> Result<Vec<(Text<'a>, u64)>, Refusal> {
        let number = |(key, entry)| match entry {
            Entry::Number(number) => Some((key, number)),
            Entry::Text(_) | Entry::Other => None,
        };
        self.optional_map(name)?
            .unwrap_or_default()
            .into_iter()
            .map(number)
            .collect::<Option<_>>()
            .ok_or_else(|| wrong(name, "an object of numbers, whole and not negative"))
    }

    /// Ends the reading.
    ///
    /// # Errors
    ///
    /// An input that the operation does not have.
    pub(super) fn finish(self) -> Result<(), Refusal> {
        match self.members.first() {
            None => Ok(()),
            Some((name, _)) => Err(Refusal::usage(format_args!(
                "the operation has no input {name:?}"
            ))),
        }
    }

    fn optional_map(&mut self, name: &'static str) -> Result<Option<Entries<'a>>, Refusal> {
        match take(&mut self.members, name) {
            None => Ok(None),
            Some(Input::Map(entries)) => {
                let mut names: Vec<_> = entries.iter().map(|(key, _)| key).collect();
                names.sort_unstable();
                match names.windows(2).find(|pair| pair[0] == pair[1]) {
                    Some(pair) => Err(Refusal::usage(format_args!(
                        "the member {:?} of {name:?} is repeated",
                        pair[0]
                    ))),
                    None => Ok(Some(entries)),
                }
            }
            Some(_) => Err(wrong(name, "an object")),
        }
    }
}

/// An input that has two forms.
#[derive(Debug)]
pub(super) enum TextOrBytes<'a> {
    Text(Text<'a>),
    Bytes(Vec<u8>),
}

impl TextOrBytes<'_> {
    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

pub(super) fn missing(name: &str) -> Refusal {
    Refusal::usage(format_args!("the input {name:?} is missing"))
}

fn wrong(name: &str, expected: &str) -> Refusal {
    Refusal::usage(format_args!("{name:?} is not {expected}"))
}

fn take<'a>(members: &mut Vec<(Text<'a>, Input<'a>)>, name: &str) -> Option<Input<'a>> {
    let at = members.iter().position(|(member, _)| member == name)?;
    Some(members.remove(at).1)
}

type Entries<'a> = Vec<(Text<'a>, Entry<'a>)>;

/// The members of a line in order.
struct Members<'a>(Vec<(Text<'a>, Input<'a>)>);

/// A member's value: a shape that some operation takes, or anything else.
#[derive(Debug)]
enum Input<'a> {
    Text(Text<'a>),
    Number(u64),
    Texts(Vec<Text<'a>>),
    Map(Entries<'a>),
    Other,
}

/// A value within a map.
#[derive(Debug)]
enum Entry<'a> {
    Text(Text<'a>),
    Number(u64),
    Other,
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(Name(name)) = map.next_key()? {
                    if members.len() < MAX_MEMBERS {
                        members.push((name, map.next_value()?));
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

impl<'de> Deserialize<'de> for Input<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Value;

        impl<'de> Visitor<'de> for Value {
            type Value = Input<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            scalars!(Input);

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut texts = Vec::new();
                let mut others = false;
                while let Some(entry) = list.next_element()? {
                    match entry {
                        Entry::Text(text) if texts.len() < MAX_ELEMENTS => texts.push(text),
                        Entry::Text(_) => {}
                        Entry::Number(_) | Entry::Other => others = true,
                    }
                }
                Ok(if others {
                    Input::Other
                } else {
                    Input::Texts(texts)
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(Name(name)) = map.next_key()? {
                    let entry = map.next_value()?;
                    if entries.len() < MAX_ENTRIES {
                        entries.push((name, entry));
                    }
                }
                Ok(Input::Map(entries))
            }
        }

        deserializer.deserialize_any(Value)
    }
}

impl<'de> Deserialize<'de> for Entry<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Value;

        impl<'de> Visitor<'de> for Value {
            type Value = Entry<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            scalars!(Entry);

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Entry::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Entry::Other)
            }
        }

        deserializer.deserialize_any(Value)
    }
}

/// A member's name.
#[derive(Debug)]
struct Name<'a>(Text<'a>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member name")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(Text)
    }
}
