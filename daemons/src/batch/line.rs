//! Lines of a stream, bounded: one that is too long is passed over without being held.

use std::io::{self, BufRead};

/// The most bytes of one line.
pub const MAX_LINE_BYTES: usize = 64 * 1024 * 1024;

/// What is kept of the buffer between lines.
const KEPT_BYTES: usize = 1024 * 1024;

/// Reads lines.
pub(crate) struct Lines<R> {
    input: R,
    buffer: Vec<u8>,
    limit: usize,
}

/// What came next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<'a> {
    /// A line without its line break.
    Line(&'a [u8]),
    /// A line beyond the limit, passed over to its end.
    TooLong,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        Self::with_limit(input, MAX_LINE_BYTES)
    }

    pub(crate) fn with_limit(input: R, limit: usize) -> Self {
        Self {
            input,
            buffer: Vec::new(),
            limit,
        }
    }

    /// The next line; `None` at the end. A last line needs no line break.
    pub(crate) fn next(&mut self) -> io::Result<Option<Next<'_>>> {
        self.buffer.clear();
        self.buffer.shrink_to(KEPT_BYTES);
        let (mut started, mut too_long) = (false, false);
        loop {
            let available = match self.input.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if available.is_empty() {
                break;
            }
            started = true;
            let end = available.iter().position(|byte| *byte == b'\n');
            let piece = &available[..end.unwrap_or(available.len())];
            too_long = too_long || self.buffer.len() + piece.len() > self.limit;
            if too_long {
                self.buffer = Vec::new();
            } else {
                self.buffer.extend_from_slice(piece);
            }
            let consumed = end.map_or(piece.len(), |end| end + 1);
            self.input.consume(consumed);
            if end.is_some() {
                break;
            }
        }
        Ok(match (started, too_long) {
            (false, _) => None,
            (true, true) => Some(Next::TooLong),
            (true, false) => Some(Next::Line(&self.buffer)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(input: &str, expected: &[Option<&str>]) {
        // A small buffer, so that lines straddle reads.
        let input = io::BufReader::with_capacity(3, input.as_bytes());
        let mut lines = Lines::with_limit(input, 5);
        for expected in expected {
            let expected = expected.map_or(Next::TooLong, |line| Next::Line(line.as_bytes()));
            assert_eq!(lines.next().unwrap(), Some(expected));
        }
        assert_eq!(lines.next().unwrap(), None);
    }

    #[test]
    fn lines_end_at_breaks_and_at_the_end() {
        check("", &[]);
        check("ab\n\ncd", &[Some("ab"), Some(""), Some("cd")]);
        check("ab\n", &[Some("ab")]);
    }

    #[test]
    fn a_line_beyond_the_limit_is_passed_over() {
        check("12345\n123456\nab\n", &[Some("12345"), None, Some("ab")]);
        check("1234567890123", &[None]);
    }
}
