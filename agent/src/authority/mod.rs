//! Repair of the `:authority` that some gRPC stacks send over Unix sockets.
//!
//! gRPC C-core (Python, C++, Ruby, PHP), grpc-java and grpc-swift put the socket path there, percent-encoded or not.
//! The HTTP/2 server refuses it as malformed, so those clients could not connect at all. This sits between the socket and
//! the server, in the direction from the client: it reads the first header block, and if its authority is a valid one
//! (grpc-go, tonic) hands everything over untouched from then on. Otherwise it decodes every header block and writes it
//! again as plain literals, with `localhost` where the authority was wrong. Only that one value is ever changed; judging
//! the request stays with the server.

use bytes::{Buf, BufMut, BytesMut};
use http::uri::Authority;

use crate::hpack::{Decoder, HpackError, encode_literal};

/// The client's bytes on their way to the server. Push what was read, take what is ready.
#[derive(Debug, Default)]
pub(crate) struct AuthorityRepair {
    mode: Mode,
    incoming: BytesMut,
    outgoing: BytesMut,
    /// The header block being gathered, without the frames around it.
    block: BytesMut,
    /// The frames it came in, for a client that turns out to be well-behaved.
    frames: BytesMut,
    /// Stream and flags of the HEADERS frame whose END_HEADERS is awaited.
    open: Option<(u32, u8)>,
    decoder: Decoder,
}

impl AuthorityRepair {
    /// Takes in bytes from the client. When much waits to be read already, the rest is worked on at the next call, which
    /// may bring no bytes.
    ///
    /// # Errors
    ///
    /// [`RepairError`] when they break HTTP/2 framing, HPACK or a bound; the connection has to end.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), RepairError> {
        if self.mode == Mode::Transparent {
            self.outgoing.put_slice(bytes);
            return Ok(());
        }
        self.incoming.put_slice(bytes);
        if self.mode == Mode::Preface && !self.preface() {
            return Ok(());
        }
        while self.mode != Mode::Transparent
            && self.outgoing.len() < MAX_WAITING
            && let Some(frame) = self.next_frame()?
        {
            self.frame(frame)?;
        }
        if self.mode == Mode::Transparent {
            self.outgoing.unsplit(self.incoming.split());
        }
        Ok(())
    }

    /// What the server may read now.
    pub(crate) fn outgoing(&mut self) -> &mut BytesMut {
        &mut self.outgoing
    }

    /// Whether the client has sent the whole preface, and so speaks.
    pub(crate) fn has_preface(&self) -> bool {
        self.mode != Mode::Preface
    }

    /// Whether this has nothing left to do: everything goes through as it is and nothing waits.
    pub(crate) fn is_done(&self) -> bool {
        self.mode == Mode::Transparent && self.outgoing.is_empty()
    }

    /// Whether the preface is settled, one way or the other.
    fn preface(&mut self) -> bool {
        let seen = self.incoming.len().min(PREFACE.len());
        if self.incoming[..seen] != PREFACE[..seen] {
            // Not HTTP/2: the server knows best how to say so.
            self.mode = Mode::Transparent;
            return true;
        }
        if seen < PREFACE.len() {
            return false;
        }
        self.outgoing.put_slice(&self.incoming.split_to(seen));
        self.mode = Mode::Undecided;
        true
    }

    fn next_frame(&mut self) -> Result<Option<BytesMut>, RepairError> {
        let [a, b, c, ..] = self.incoming[..] else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        // Our servers never raise SETTINGS_MAX_FRAME_SIZE.
        if length > MAX_FRAME {
            return Err(RepairError::FrameTooLarge { length });
        }
        let whole = FRAME_HEAD + length;
        Ok((self.incoming.len() >= whole).then(|| self.incoming.split_to(whole)))
    }

    /// Takes one whole frame.
    fn frame(&mut self, frame: BytesMut) -> Result<(), RepairError> {
        let (kind, flags) = (frame[3], frame[4]);
        let stream = u32::from_be_bytes([frame[5], frame[6], frame[7], frame[8]]) & STREAM_MASK;
        let payload = &frame[FRAME_HEAD..];
        // RFC 9113 §6.10: nothing but its own CONTINUATION frames comes between HEADERS and END_HEADERS.
        let fragment = match (kind, self.open) {
            (HEADERS, None) => {
                self.open = Some((stream, flags));
                fragment(payload, flags)?
            }
            (CONTINUATION, Some((open, _))) if open == stream => payload,
            (CONTINUATION, _) | (_, Some(_)) => return Err(RepairError::Interleaved),
            _ => {
                self.outgoing.unsplit(frame);
                return Ok(());
            }
        };
        // Whole frames count, else padding and empty CONTINUATION frames would be free.
        if self.frames.len() + frame.len() > MAX_BLOCK {
            return Err(RepairError::BlockTooLarge);
        }
        self.block.put_slice(fragment);
        self.frames.put_slice(&frame);
        if flags & END_HEADERS != 0 {
            self.end_block()?;
        }
        Ok(())
    }

    fn end_block(&mut self) -> Result<(), RepairError> {
        let Some((stream, flags)) = self.open.take() else {
            return Err(RepairError::Interleaved);
        };
        let (block, frames) = (self.block.split(), self.frames.split());
        let (mut fields, mut repaired) = (BytesMut::new(), false);
        self.decoder.decode(&block, MAX_DECODED, |name, value| {
            let wrong = name == b":authority" && Authority::try_from(value).is_err();
            repaired |= wrong;
            encode_literal(&mut fields, name, if wrong { REPLACEMENT } else { value });
        })?;
        if self.mode == Mode::Undecided && !repaired {
            self.mode = Mode::Transparent;
            self.outgoing.unsplit(frames);
            return Ok(());
        }
        self.mode = Mode::Rewriting;
        self.write_block(stream, flags & END_STREAM, fields);
        Ok(())
    }

    /// Writes a header block as HEADERS and as many CONTINUATION frames as it takes.
    fn write_block(&mut self, stream: u32, end_stream: u8, mut fields: BytesMut) {
        let (mut kind, mut flags) = (HEADERS, end_stream);
        loop {
            let part = fields.split_to(fields.len().min(MAX_FRAME));
            if fields.is_empty() {
                flags |= END_HEADERS;
            }
            self.outgoing.put_uint(part.len() as u64, 3);
            self.outgoing.put_slice(&[kind, flags]);
            self.outgoing.put_u32(stream);
            self.outgoing.put_slice(&part);
            if fields.is_empty() {
                return;
            }
            (kind, flags) = (CONTINUATION, 0);
        }
    }
}

/// What a client's header frames can do wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RepairError {
    #[error("header block of more than {MAX_BLOCK} bytes")]
    BlockTooLarge,
    #[error("frame of {length} bytes, at most {MAX_FRAME} are allowed (RFC 9113 §4.2)")]
    FrameTooLarge { length: usize },
    #[error(transparent)]
    Hpack(#[from] HpackError),
    #[error("header block interrupted by another frame (RFC 9113 §6.10)")]
    Interleaved,
    #[error("padding or priority longer than the frame (RFC 9113 §6.2)")]
    Padding,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Mode {
    #[default]
    Preface,
    Undecided,
    Rewriting,
    Transparent,
}

/// The part of a HEADERS payload that belongs to the header block (RFC 9113 §6.2).
fn fragment(mut payload: &[u8], flags: u8) -> Result<&[u8], RepairError> {
    let mut padding = 0;
    if flags & PADDED != 0 {
        padding = usize::from(payload.try_get_u8().map_err(|_| RepairError::Padding)?);
    }
    if flags & PRIORITY != 0 {
        payload = payload.get(5..).ok_or(RepairError::Padding)?;
    }
    let length = payload
        .len()
        .checked_sub(padding)
        .ok_or(RepairError::Padding)?;
    Ok(&payload[..length])
}

/// The longest header block read, frame heads included: four times what gRPC stacks allow for metadata.
const MAX_BLOCK: usize = 64 * 1024;

/// The longest list of fields written for one block. The server has its own, lower limit; this one keeps a small block
/// that names large table entries from growing without end before the server sees it.
const MAX_DECODED: usize = 256 * 1024;

/// How much may wait for the server before further frames are worked on. Without it, many small blocks read at once
/// would each grow to [`MAX_DECODED`].
const MAX_WAITING: usize = 64 * 1024;

/// RFC 9113 §6.5.2: SETTINGS_MAX_FRAME_SIZE unless raised.
const MAX_FRAME: usize = 16_384;

const REPLACEMENT: &[u8] = b"localhost";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD: usize = 9;
const STREAM_MASK: u32 = 0x7fff_ffff;

const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

#[cfg(test)]
mod tests;
