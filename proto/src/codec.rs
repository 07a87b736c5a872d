//! The codec of all messages: prost's, behind a bound on what a message takes in memory.
//!
//! A repeated field may be empty on the wire, two bytes, and a hundred in memory. So a message within its limit of bytes
//! could be fifty times as large once it is decoded, before anybody can count what is in it.

use prost::Message;
use prost::bytes::Buf;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::ProstCodec;

/// The most fields of a message, at its top level: twice as many as the largest update that a client takes has trust
/// domains. One more is `OUT_OF_RANGE`, as a message that is too long.
pub const MAX_FIELDS: usize = 32_768;

/// prost's codec for messages of at most [`MAX_FIELDS`] fields.
#[derive(Debug)]
pub struct BoundedCodec<T, U>(ProstCodec<T, U>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        Self(ProstCodec::default())
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = BoundedDecoder<<ProstCodec<T, U> as Codec>::Decoder>;

    fn encoder(&mut self) -> Self::Encoder {
        self.0.encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(self.0.decoder())
    }
}

/// The decoder of a [`BoundedCodec`].
#[derive(Debug)]
pub struct BoundedDecoder<D>(D);

impl<D: Decoder<Error = Status>> Decoder for BoundedDecoder<D> {
    type Item = D::Item;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<D::Item>, Status> {
        // One message lies in one piece.
        if has_more_fields(message.chunk(), MAX_FIELDS) {
            return Err(Status::out_of_range(format!(
                "the message has more than {MAX_FIELDS} fields"
            )));
        }
        self.0.decode(message)
    }
}

/// Whether a message has more fields than that at its top level; what cannot be read is left to who decodes it.
fn has_more_fields(mut message: &[u8], most: usize) -> bool {
    let mut fields = 0;
    while !message.is_empty() {
        fields += 1;
        if fields > most {
            return true;
        }
        let Some(rest) = after_field(message) else {
            return false;
        };
        message = rest;
    }
    false
}

/// What follows the first field: Protocol Buffers' encoding, "message structure".
fn after_field(mut message: &[u8]) -> Option<&[u8]> {
    // Tags are numbers of the same form as lengths.
    let tag = prost::decode_length_delimiter(&mut message).ok()?;
    let length = match tag & 7 {
        0 => message.iter().position(|byte| byte & 0x80 == 0)? + 1,
        1 => 8,
        2 => prost::decode_length_delimiter(&mut message).ok()?,
        // The borders of a group; its fields count like others.
        3 | 4 => 0,
        5 => 4,
        _ => return None,
    };
    message.get(length..)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{X509svid, X509svidResponse};

    #[test]
    fn fields_of_every_wire_type_are_counted() {
        // A number, eight bytes, a string, a group with a number in it, four bytes.
        let message = b"\x08\x96\x01\x11\0\0\0\0\0\0\0\0\x1a\x02hi\x23\x08\x01\x24\x2d\0\0\0\0";
        assert!(!has_more_fields(message, 7));
        assert!(has_more_fields(message, 6));
        assert!(!has_more_fields(&[], 0));
    }

    #[test]
    fn what_cannot_be_read_is_left_to_the_decoder() {
        for message in [
            &b"\x80"[..],
            b"\x0a\x05hi",
            b"\x0f",
            b"\x08\xff",
            b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        ] {
            assert!(!has_more_fields(message, 1));
            assert!(X509svidResponse::decode(message).is_err(), "{message:?}");
        }
    }

    #[test]
    fn a_message_has_as_many_fields_as_it_has_entries() {
        let svids = vec![X509svid::default(); 300];
        let message = X509svidResponse {
            svids,
            ..X509svidResponse::default()
        };
        let message = message.encode_to_vec();
        assert!(!has_more_fields(&message, 300));
        assert!(has_more_fields(&message, 299));
    }
}
