//! Decoding of HTTP/2 header blocks: HPACK, RFC 7541.
//!
//! Only the receiving half is here, for [`AuthorityRepair`](crate::authority::AuthorityRepair), which writes what it read as plain literals and so
//! needs no encoder. Input comes from any process that may connect, so the decoded size is bounded: one byte can name
//! a table entry of 4 KiB.

mod huffman;
mod table;

use table::Table;

/// Decodes the header blocks of one connection, in their order.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    table: Table,
}

impl Decoder {
    /// Decodes one whole block and gives each field, name and value, to `sink`.
    ///
    /// `limit` bounds the sum of the fields' sizes, counted as RFC 9113 §6.5.2 counts them: name, value and 32.
    ///
    /// After an error the table is out of step with the peer's and the connection has to end.
    pub(crate) fn decode(
        &mut self,
        block: &[u8],
        limit: usize,
        mut sink: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), HpackError> {
        let mut input = Input(block);
        let mut left = limit;
        let mut fields_began = false;
        while let Some(first) = input.peek() {
            if first & 0xe0 == 0x20 {
                // RFC 7541 §4.2: a size update stands at the beginning of a block.
                if fields_began {
                    return Err(HpackError::SizeUpdate);
                }
                let size = input.integer(5)?;
                self.table.resize(size)?;
                continue;
            }
            fields_began = true;
            let mut take = |name: &[u8], value: &[u8]| {
                left = left
                    .checked_sub(name.len() + value.len() + FIELD_OVERHEAD)
                    .ok_or(HpackError::TooLarge { limit })?;
                sink(name, value);
                Ok(())
            };
            if first & 0x80 != 0 {
                let index = input.integer(7)?;
                let (name, value) = self.table.get(index)?;
                take(name, value)?;
                continue;
            }
            let indexing = first & 0x40 != 0;
            let name = match input.integer(if indexing { 6 } else { 4 })? {
                0 => input.string()?,
                index => self.table.get(index)?.0.to_vec(),
            };
            let value = input.string()?;
            take(&name, &value)?;
            if indexing {
                self.table.insert(name, value);
            }
        }
        Ok(())
    }
}

/// Appends one field as a literal that is never indexed and not Huffman coded (RFC 7541 §6.2.2), which every decoder
/// reads alike, whatever its table holds.
pub(crate) fn encode_literal(output: &mut impl Extend<u8>, name: &[u8], value: &[u8]) {
    output.extend([0]);
    for text in [name, value] {
        encode_length(output, text.len());
        output.extend(text.iter().copied());
    }
}

/// Why a header block could not be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum HpackError {
    #[error("wrong Huffman code or padding (RFC 7541 §5.2)")]
    Huffman,
    #[error("field index {index} is not in the table (RFC 7541 §2.3.3)")]
    Index { index: usize },
    #[error("integer too large (RFC 7541 §5.1)")]
    Integer,
    #[error("table size update in the wrong place or above the limit (RFC 7541 §4.2)")]
    SizeUpdate,
    #[error("header fields exceed {limit} bytes")]
    TooLarge { limit: usize },
    #[error("header block ends inside a field (RFC 7541 §6)")]
    Truncated,
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    fn byte(&mut self) -> Result<u8, HpackError> {
        let (first, rest) = self.0.split_first().ok_or(HpackError::Truncated)?;
        self.0 = rest;
        Ok(*first)
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], HpackError> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(HpackError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    /// RFC 7541 §5.1. No length or index that could be right needs more than four bytes after the prefix.
    fn integer(&mut self, prefix: u32) -> Result<usize, HpackError> {
        let mask = (1_usize << prefix) - 1;
        let mut value = usize::from(self.byte()?) & mask;
        if value < mask {
            return Ok(value);
        }
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(HpackError::Integer)
    }

    /// RFC 7541 §5.2.
    fn string(&mut self) -> Result<Vec<u8>, HpackError> {
        let coded = self.peek().is_some_and(|first| first & 0x80 != 0);
        let length = self.integer(7)?;
        let text = self.bytes(length)?;
        if !coded {
            return Ok(text.to_vec());
        }
        let mut decoded = Vec::with_capacity(text.len() * 2);
        huffman::decode(text, &mut decoded)?;
        Ok(decoded)
    }
}

fn encode_length(output: &mut impl Extend<u8>, length: usize) {
    const PREFIX: usize = 0x7f;
    if length < PREFIX {
        return output.extend([length as u8]);
    }
    output.extend([PREFIX as u8]);
    let mut rest = length - PREFIX;
    while rest >= 0x80 {
        output.extend([rest as u8 | 0x80]);
        rest >>= 7;
    }
    output.extend([rest as u8]);
}

/// What a field costs beside its bytes, in tables and header lists alike (RFC 7541 §4.1).
const FIELD_OVERHEAD: usize = 32;

#[cfg(test)]
mod tests;
