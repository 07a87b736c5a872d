//! JSON for security documents: strict where ordinary readers are lenient.
//!
//! A member name that occurs twice is an error at any depth (Trust Domain and Bundle §6.3), so is a byte order mark;
//! integers stay exact, a type is never coerced into another, depth is bounded by the reader below (128) and the
//! number of values here. Strings borrow from the text wherever they hold no escape.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// The most values of one text, counting every object, array and scalar: a bundle document of 8,192 entries has
/// about a third of it, and what a hostile text can make of it stays below 100 MB.
pub(crate) const MAX_VALUES: usize = 1 << 18;

/// One JSON value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    /// A non-negative integer without fraction and exponent.
    Unsigned(u64),
    /// A negative one.
    Negative(i64),
    /// Every other number.
    Float(f64),
    String(Cow<'a, str>),
    Array(Vec<Self>),
    Object(Object<'a>),
}

impl Value<'_> {
    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// What kind of value it is, for messages.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Unsigned(_) | Self::Negative(_) | Self::Float(_) => "a number",
            Self::String(_) => "a string",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }
}

/// The members of one object in the text's order, no name twice.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Object<'a> {
    members: Vec<(Cow<'a, str>, Value<'a>)>,
}

impl<'a> Object<'a> {
    pub(crate) fn get(&self, name: &str) -> Option<&Value<'a>> {
        self.iter()
            .find(|(member, _)| *member == name)
            .map(|(_, value)| value)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Value<'a>)> {
        self.members
            .iter()
            .map(|(name, value)| (name.as_ref(), value))
    }

    /// A name that occurs more than once.
    fn repeated(&self) -> Option<&str> {
        let names = |from: usize| self.members[from..].iter().map(|(name, _)| name.as_ref());
        // Comparing all with all is the fastest for the objects of honest documents, and never more than 120 steps.
        if self.members.len() <= 16 {
            return (1..self.members.len())
                .find(|at| names(*at).any(|name| name == self.members[at - 1].0))
                .map(|at| self.members[at - 1].0.as_ref());
        }
        let mut sorted: Vec<_> = names(0).collect();
        sorted.sort_unstable();
        sorted
            .windows(2)
            .find(|pair| pair[0] == pair[1])
            .map(|pair| pair[0])
    }
}

/// Why a text is not the JSON that this library reads. Messages hold names of members at most, never values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JsonError {
    #[error("it begins with a byte order mark")]
    ByteOrderMark,
    #[error("it is not UTF-8")]
    NotUtf8,
    #[error("a member name is repeated")]
    Repeated { name: String },
    #[error("{reason}")]
    Syntax { reason: String },
    #[error("it holds more than {MAX_VALUES} values")]
    TooManyValues,
}

/// Parses one whole text.
pub(crate) fn parse(text: &str) -> Result<Value<'_>, JsonError> {
    if text.starts_with('\u{feff}') {
        return Err(JsonError::ByteOrderMark);
    }
    let reading = Reading {
        values_left: Cell::new(MAX_VALUES),
        fault: Cell::new(None),
    };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Reader(&reading)
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value));
    value.map_err(|error| {
        reading.fault.take().unwrap_or_else(|| JsonError::Syntax {
            reason: error.to_string(),
        })
    })
}

/// As [`parse`], of bytes that must be UTF-8.
pub(crate) fn parse_bytes(bytes: &[u8]) -> Result<Value<'_>, JsonError> {
    parse(std::str::from_utf8(bytes).map_err(|_| JsonError::NotUtf8)?)
}

struct Reading {
    values_left: Cell<usize>,
    /// What the reader below can only hand on as text.
    fault: Cell<Option<JsonError>>,
}

/// Reads one value.
#[derive(Clone, Copy)]
struct Reader<'r>(&'r Reading);

impl Reader<'_> {
    fn fail<E: serde::de::Error>(self, fault: JsonError) -> E {
        let error = E::custom(&fault);
        self.0.fault.set(Some(fault));
        error
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value<'de>, D::Error> {
        match self.0.values_left.get().checked_sub(1) {
            Some(left) => self.0.values_left.set(left),
            None => return Err(self.fail(JsonError::TooManyValues)),
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value<'de>, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value<'de>, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value<'de>, E> {
        Ok(Value::Unsigned(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value<'de>, E> {
        Ok(u64::try_from(value).map_or(Value::Negative(value), Value::Unsigned))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value<'de>, E> {
        Ok(Value::Float(value))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::String(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value<'de>, E> {
        Ok(Value::String(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value<'de>, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = sequence.next_element_seed(self)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value<'de>, A::Error> {
        let mut object = Object {
            // What an entry of a bundle document has.
            members: Vec::with_capacity(8),
        };
        while let Some(name) = map.next_key_seed(Name)? {
            let value = map.next_value_seed(self)?;
            if name == BIG_NUMBER {
                return number(&value).ok_or_else(|| A::Error::custom("not a number"));
            }
            object.members.push((name, value));
        }
        if let Some(name) = object.repeated() {
            let name = shortened(name);
            return Err(self.fail(JsonError::Repeated { name }));
        }
        Ok(Value::Object(object))
    }
}

/// How the reader below presents every number once any crate of the program turns on its feature
/// `arbitrary_precision`: as an object with this one member, the digits in a string.
const BIG_NUMBER: &str = "$serde_json::private::Number";

fn number<'a>(digits: &Value<'_>) -> Option<Value<'a>> {
    let digits = digits.as_str()?;
    let integer = digits.parse().map(Value::Unsigned);
    integer
        .or_else(|_| digits.parse().map(Value::Negative))
        .ok()
        .or_else(|| {
            let float: f64 = digits.parse().ok()?;
            float.is_finite().then_some(Value::Float(float))
        })
}

/// Reads a member's name.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member name")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

/// Foreign text for a message: escaped, at most 64 characters of it.
pub(crate) fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(64).flat_map(char::escape_debug).collect();
    if text.chars().nth(64).is_some() {
        short.push('…');
    }
    short
}

/// Appends `text` as a JSON string.
pub(crate) fn push_string(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            control @ '\0'..='\u{1f}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(control)));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(text: &str) -> JsonError {
        parse(text).unwrap_err()
    }

    #[test]
    fn numbers_stay_exact() {
        for (text, value) in [
            ("18446744073709551615", Value::Unsigned(u64::MAX)),
            ("9007199254740993", Value::Unsigned(9_007_199_254_740_993)),
            ("-1", Value::Negative(-1)),
            ("1.5", Value::Float(1.5)),
            (
                "18446744073709551616",
                Value::Float(18_446_744_073_709_551_616.0),
            ),
        ] {
            assert_eq!(parse(text), Ok(value.clone()), "{text}");
            let presented = format!("{{\"{BIG_NUMBER}\":\"{text}\"}}");
            assert_eq!(parse(&presented), Ok(value), "{presented}");
        }
        assert!(matches!(refused("1e400"), JsonError::Syntax { .. }));
    }

    #[test]
    fn repeated_names_are_refused_at_any_depth_however_they_are_spelled() {
        let many: String = (0..40).map(|n| format!("\"{n}\":0,")).collect();
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":1}"#,
            r#"[{"b":{"x":[{"a":1,"c":2,"a":3}]}}]"#,
            &format!("{{{many}\"39\":0}}"),
        ] {
            assert!(
                matches!(refused(text), JsonError::Repeated { .. }),
                "{text}"
            );
        }
        assert!(parse(r#"{"a":{"a":1},"A":[{"a":1},{"a":1}]}"#).is_ok());
        assert!(parse(&format!("{{{many}\"40\":0}}")).is_ok());
    }

    #[test]
    fn what_is_not_one_json_text_is_refused() {
        for text in [
            "",
            "{",
            "{}x",
            "{} {}",
            "{'a':1}",
            "[1,]",
            "\"\\ud800\"",
            "nul",
            "01",
            "NaN",
        ] {
            assert!(matches!(refused(text), JsonError::Syntax { .. }), "{text}");
        }
        assert_eq!(refused("\u{feff}{}"), JsonError::ByteOrderMark);
        assert_eq!(parse_bytes(b"\"\xff\""), Err(JsonError::NotUtf8));
        assert!(parse(" {\"a\" : [ ] }\n").is_ok());
    }

    #[test]
    fn depth_and_number_of_values_are_bounded() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(parse(&nested(120)).is_ok());
        assert!(matches!(refused(&nested(200)), JsonError::Syntax { .. }));
        assert!(matches!(
            refused(&"[".repeat(1 << 20)),
            JsonError::Syntax { .. }
        ));
        let flat = |values: usize| format!("[{}0]", "0,".repeat(values - 2));
        assert!(parse(&flat(MAX_VALUES)).is_ok());
        assert_eq!(refused(&flat(MAX_VALUES + 1)), JsonError::TooManyValues);
    }

    #[test]
    fn written_strings_are_read_back() {
        let text = "a\"b\\c\n\u{1}\u{7f}é\u{2028}";
        let mut out = String::new();
        push_string(&mut out, text);
        assert_eq!(parse(&out).unwrap().as_str(), Some(text));
    }
}
