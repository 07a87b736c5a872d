//! DER as certificates need it, written and read: X.690 §10.
//!
//! The writer nests finished pieces; next to one signature its copies cost nothing. The reader takes apart what
//! requesters send and keeps their exact bytes: lengths must be minimal, nothing may follow.

use spiffe_core::Timestamp;

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(crate) const UTF8_STRING: u8 = 0x0c;
pub(crate) const PRINTABLE_STRING: u8 = 0x13;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

/// The tag of context-specific element `number`, primitive.
pub(crate) const fn context(number: u8) -> u8 {
    0x80 | number
}

/// The tag of context-specific element `number`, constructed.
pub(crate) const fn context_constructed(number: u8) -> u8 {
    0xa0 | number
}

/// One element: `tag` over the concatenated parts.
pub(crate) fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length = parts.iter().map(|part| part.len()).sum::<usize>();
    let mut out = Vec::with_capacity(length + 6);
    out.push(tag);
    if length < 0x80 {
        out.push(length as u8);
    } else {
        let bytes = length.to_be_bytes();
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        out.push(0x80 | (bytes.len() - zeros) as u8);
        out.extend_from_slice(&bytes[zeros..]);
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

/// A SEQUENCE of finished elements.
pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    element(SEQUENCE, parts)
}

/// The INTEGER of an unsigned big-endian number: minimal, and positive whatever its first bit.
pub(crate) fn unsigned(number: &[u8]) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    match &number[zeros..] {
        [] => element(INTEGER, &[&[0]]),
        digits @ [0x80..=0xff, ..] => element(INTEGER, &[&[0], digits]),
        digits => element(INTEGER, &[digits]),
    }
}

/// A BIT STRING of whole bytes.
pub(crate) fn bit_string(bytes: &[u8]) -> Vec<u8> {
    element(BIT_STRING, &[&[0], bytes])
}

/// A time as RFC 5280 §4.1.2.5 wants it: UTCTime through 2049, GeneralizedTime from 2050, whole seconds.
pub(crate) fn time(time: Timestamp) -> Vec<u8> {
    let (year, month, day, hour, minute, second) = time.civil();
    let two = |number: u32| [b'0' + (number / 10 % 10) as u8, b'0' + (number % 10) as u8];
    let [century, year_of_it] = [year / 100, year % 100].map(|part| two(part as u32));
    let rest = [month, day, hour, minute, second].map(|part| two(part.into()));
    let rest = [rest.as_flattened(), b"Z"].concat();
    if (1950..2050).contains(&year) {
        element(UTC_TIME, &[&year_of_it, &rest])
    } else {
        element(GENERALIZED_TIME, &[&century, &year_of_it, &rest])
    }
}

/// Bytes that are not DER where DER was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotDer;

/// Reads elements one after the other; never looks beyond its input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    /// The next element, which must have `tag`: its content and the whole of it.
    pub(crate) fn element(&mut self, tag: u8) -> Result<(&'a [u8], &'a [u8]), NotDer> {
        let (length, header): (usize, usize) = match *self.rest {
            [found, ..] if found != tag => return Err(NotDer),
            [_, length @ 0..=0x7f, ..] => (length.into(), 2),
            [_, 0x81, a @ 0x80..=0xff, ..] => (a.into(), 3),
            [_, 0x82, a @ 1..=0xff, b, ..] => (u16::from_be_bytes([a, b]).into(), 4),
            // Nothing that is read here may reach 64 KiB.
            _ => return Err(NotDer),
        };
        let whole = self.rest.get(..header + length).ok_or(NotDer)?;
        self.rest = &self.rest[whole.len()..];
        Ok((&whole[header..], whole))
    }

    /// The content of the next element, which must have `tag`.
    pub(crate) fn value(&mut self, tag: u8) -> Result<&'a [u8], NotDer> {
        self.element(tag).map(|(content, _)| content)
    }

    /// The content of the next element, which must have `tag` and be the last.
    pub(crate) fn only(mut self, tag: u8) -> Result<&'a [u8], NotDer> {
        let content = self.value(tag)?;
        self.end()?;
        Ok(content)
    }

    /// A positive INTEGER's bytes, without the byte that only carries the sign.
    pub(crate) fn positive(&mut self) -> Result<&'a [u8], NotDer> {
        match self.value(INTEGER)? {
            digits @ [1..=0x7f, ..] => Ok(digits),
            [0, digits @ ..] if digits.first() >= Some(&0x80) => Ok(digits),
            _ => Err(NotDer),
        }
    }

    /// The bytes of a BIT STRING that has no unused bits.
    pub(crate) fn bytes_of_bit_string(&mut self) -> Result<&'a [u8], NotDer> {
        match self.value(BIT_STRING)? {
            [0, bytes @ ..] => Ok(bytes),
            _ => Err(NotDer),
        }
    }

    /// Whether nothing follows.
    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Nothing may follow.
    pub(crate) const fn end(self) -> Result<(), NotDer> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(NotDer)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_are_minimal() {
        assert_eq!(element(4, &[&[7; 127]])[..2], [4, 127]);
        assert_eq!(element(4, &[&[7; 128]])[..3], [4, 0x81, 128]);
        assert_eq!(element(4, &[&[7; 256]])[..4], [4, 0x82, 1, 0]);
        assert_eq!(element(4, &[&[7; 65536]])[..5], [4, 0x83, 1, 0, 0]);
    }

    #[test]
    fn unsigned_numbers_are_minimal_and_positive() {
        assert_eq!(unsigned(&[0, 0, 5]), [2, 1, 5]);
        assert_eq!(unsigned(&[0x80]), [2, 2, 0, 0x80]);
        assert_eq!(unsigned(&[]), [2, 1, 0]);
    }

    #[test]
    fn the_form_of_times_changes_with_2050() {
        let written = |text: &str| time(text.parse().unwrap());
        assert_eq!(
            written("2049-12-31T23:59:59Z"),
            [&[0x17, 13][..], b"491231235959Z"].concat()
        );
        assert_eq!(
            written("2050-01-01T00:00:00Z"),
            [&[0x18, 15][..], b"20500101000000Z"].concat()
        );
        assert_eq!(
            written("1950-01-01T00:00:00Z"),
            [&[0x17, 13][..], b"500101000000Z"].concat()
        );
        assert_eq!(
            written("1949-12-31T23:59:59Z"),
            [&[0x18, 15][..], b"19491231235959Z"].concat()
        );
    }

    #[test]
    fn lengths_that_are_not_minimal_are_no_der() {
        assert_eq!(Reader::new(&[4, 1, 9]).only(4), Ok(&[9][..]));
        for bad in [
            &[4, 0x81, 1, 9][..],
            &[4, 2, 9],
            &[4, 1, 9, 0],
            &[4, 0x80, 0, 0],
            &[5, 0],
            &[4],
        ] {
            assert_eq!(Reader::new(bad).only(4), Err(NotDer), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(content: Vec<u8>) {
            let written = element(OCTET_STRING, &[&content]);
            prop_assert_eq!(Reader::new(&written).only(OCTET_STRING), Ok(&content[..]));
        }
    }
}
