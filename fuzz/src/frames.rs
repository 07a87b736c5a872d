//! What an HTTP/2 server of gRPC may write, from arbitrary bytes: a small language in which a fuzzer soon says sensible
//! things, and all others too.

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The first stream that a client opens.
const STREAM: u32 = 1;

/// The most frames of one input.
const MAX_FRAMES: usize = 64;

/// `:status: 200` and `content-type: application/grpc`, as HPACK writes them.
const GOOD_HEADERS: &[u8] = b"\x88\x0f\x10\x10application/grpc";

/// Begins a connection: SETTINGS that settle nothing.
pub fn preface() -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[])
}

/// The frames that `data` describes, one instruction after the other: what it is, how many bytes it takes, the bytes.
pub fn frames(mut data: &[u8]) -> Vec<u8> {
    let mut frames = Vec::new();
    for _ in 0..MAX_FRAMES {
        let Some((&[what, high, low], rest)) = data.split_first_chunk() else {
            break;
        };
        let length = usize::from(u16::from_be_bytes([high, low])).min(rest.len());
        let (bytes, rest) = rest.split_at(length);
        data = rest;
        frames.extend(match what % 8 {
            0 => frame(HEADERS, END_HEADERS, STREAM, GOOD_HEADERS),
            1 => message(bytes),
            2 => frame(DATA, 0, STREAM, bytes),
            3 => trailers(bytes),
            4 => {
                let header = [GOOD_HEADERS, bytes].concat();
                frame(HEADERS, END_HEADERS, STREAM, &header)
            }
            5 => match bytes {
                [kind, flags, stream, payload @ ..] => {
                    frame(*kind, *flags, u32::from(*stream), payload)
                }
                _ => continue,
            },
            // Two frames that share one gRPC message.
            6 => {
                let whole = grpc(bytes);
                let (first, second) = whole.split_at(whole.len() / 2);
                let first = frame(DATA, 0, STREAM, first);
                [first, frame(DATA, 0, STREAM, second)].concat()
            }
            _ => bytes.to_vec(),
        });
    }
    frames
}

/// One good answer with this message, and a good end.
pub fn answer(message: &[u8]) -> Vec<u8> {
    [
        frame(HEADERS, END_HEADERS, STREAM, GOOD_HEADERS),
        self::message(message),
        trailers(b"0"),
    ]
    .concat()
}

/// The instructions that lead to [`answer`], and some that lead elsewhere.
pub(crate) fn frame_seeds(message: &[u8]) -> Vec<Vec<u8>> {
    let say = |what: u8, bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).expect("a seed is short");
        [&[what], &length.to_be_bytes()[..], bytes].concat()
    };
    let headers = say(0, &[]);
    let details = b"\x00\x17grpc-status-details-bin\x03*no";
    let unavailable = b"\x00\x0bgrpc-status\x0214";
    [
        vec![headers.clone(), say(1, message), say(3, b"0")],
        vec![headers.clone(), say(6, message), say(3, b"7no identity")],
        vec![headers.clone(), say(2, &[1, 0, 0, 0, 1, 0]), say(3, b"0")],
        vec![headers.clone(), say(2, &[0, 0xff, 0xff, 0xff, 0xff])],
        vec![say(4, unavailable)],
        vec![say(4, &[&unavailable[..], details].concat())],
        // RST_STREAM and GOAWAY.
        vec![headers.clone(), say(5, &[3, 0, 1, 0, 0, 0, 8])],
        vec![headers, say(5, &[7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])],
        vec![say(7, b"HTTP/1.1 400 Bad Request\r\n\r\n")],
    ]
    .map(|said| said.concat())
    .into()
}

/// A DATA frame that holds one gRPC message.
fn message(bytes: &[u8]) -> Vec<u8> {
    frame(DATA, 0, STREAM, &grpc(bytes))
}

fn grpc(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [&[0], &length.to_be_bytes()[..], bytes].concat()
}

/// The end of a stream: a status of one digit, then its message.
fn trailers(bytes: &[u8]) -> Vec<u8> {
    let (status, message) = bytes.split_at(bytes.len().min(1));
    // The longest string whose length HPACK writes in one byte.
    let message = &message[..message.len().min(126)];
    let length = message.len() as u8;
    let block = [
        b"\x00\x0bgrpc-status".as_slice(),
        &[status.len() as u8],
        status,
        b"\x00\x0cgrpc-message",
        &[length],
        message,
    ];
    frame(HEADERS, END_STREAM | END_HEADERS, STREAM, &block.concat())
}

/// RFC 9113 §4.1; what is too long for a frame is cut.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(16_384)];
    let length = (payload.len() as u32).to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags];
    [&head, &stream.to_be_bytes()[..], payload].concat()
}
