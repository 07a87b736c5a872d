//! A reader of definite-length DER: X.690 §10, low tag numbers only, lengths minimal.

/// Bytes that are not DER where DER was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotDer;

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;

/// The tag of context-specific element `number`, primitive.
pub(crate) const fn context(number: u8) -> u8 {
    0x80 | number
}

/// The tag of context-specific element `number`, constructed.
pub(crate) const fn context_constructed(number: u8) -> u8 {
    0xa0 | number
}

/// Reads elements one after the other; never looks beyond its input.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    pub(crate) const fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn peek_tag(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// The next element: its tag, its content, and the whole of it.
    pub(crate) fn element(&mut self) -> Result<(u8, &'a [u8], &'a [u8]), NotDer> {
        let &[tag, first, ref rest @ ..] = self.rest else {
            return Err(NotDer);
        };
        if tag & 0x1f == 0x1f {
            return Err(NotDer);
        }
        let (length, header): (usize, usize) = match (first, rest) {
            (0..=0x7f, _) => (usize::from(first), 2),
            (0x81, &[a, ..]) if a >= 0x80 => (usize::from(a), 3),
            (0x82, &[a, b, ..]) if a != 0 => (usize::from(u16::from_be_bytes([a, b])), 4),
            (0x83, &[a, b, c, ..]) if a != 0 => (u32::from_be_bytes([0, a, b, c]) as usize, 5),
            (0x84, &[a, b, c, d, ..]) if a != 0 => (u32::from_be_bytes([a, b, c, d]) as usize, 6),
            _ => return Err(NotDer),
        };
        let end = header.checked_add(length).ok_or(NotDer)?;
        let whole = self.rest.get(..end).ok_or(NotDer)?;
        self.rest = &self.rest[end..];
        Ok((tag, &whole[header..], whole))
    }

    /// The content of the next element, which must have `tag`.
    pub(crate) fn value(&mut self, tag: u8) -> Result<&'a [u8], NotDer> {
        if self.peek_tag() != Some(tag) {
            return Err(NotDer);
        }
        Ok(self.element()?.1)
    }

    /// The whole of the next element, which must have `tag`.
    pub(crate) fn whole(&mut self, tag: u8) -> Result<&'a [u8], NotDer> {
        if self.peek_tag() != Some(tag) {
            return Err(NotDer);
        }
        Ok(self.element()?.2)
    }

    /// The content of the next element if it has `tag`.
    pub(crate) fn optional(&mut self, tag: u8) -> Result<Option<&'a [u8]>, NotDer> {
        if self.peek_tag() == Some(tag) {
            return self.value(tag).map(Some);
        }
        Ok(None)
    }

    /// A BOOLEAN with the default FALSE, which DER therefore leaves out; an explicit FALSE is tolerated, because
    /// widespread encoders write it, anything but 00 and FF is not.
    pub(crate) fn boolean_default_false(&mut self) -> Result<bool, NotDer> {
        match self.optional(BOOLEAN)? {
            None | Some([0x00]) => Ok(false),
            Some([0xff]) => Ok(true),
            Some(_) => Err(NotDer),
        }
    }

    /// The content of the next element, which must have `tag` and be the last.
    pub(crate) fn only(mut self, tag: u8) -> Result<&'a [u8], NotDer> {
        let value = self.value(tag)?;
        if self.is_at_end() {
            Ok(value)
        } else {
            Err(NotDer)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_must_be_minimal_and_inside() {
        let read = |bytes: &[u8]| {
            Reader::new(bytes)
                .element()
                .map(|(_, value, _)| value.len())
        };
        assert_eq!(read(&[4, 1, 9]), Ok(1));
        assert_eq!(read(&[4, 0x81, 1, 9]), Err(NotDer));
        assert_eq!(read(&[4, 0x80, 0, 0]), Err(NotDer));
        assert_eq!(read(&[4, 2, 9]), Err(NotDer));
        assert_eq!(read(&[0x1f, 1, 9]), Err(NotDer));
        assert_eq!(read(&[4, 0x84, 0xff, 0xff, 0xff, 0xff]), Err(NotDer));
        let long = [&[4, 0x81, 0x80][..], &[0; 128]].concat();
        assert_eq!(read(&long), Ok(128));
    }
}
