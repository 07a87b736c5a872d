//! Frames as clients send them, whole, cut anywhere, and broken.

use proptest::prelude::*;

use super::*;

/// `:method POST`, `:scheme http`, `:path /x` and the authority, which goes into the dynamic table.
fn request(authority: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86, 0x04, 2, b'/', b'x', 0x41, authority.len() as u8];
    block.extend(authority.bytes());
    block
}

/// The same request again, its authority named by the table.
const AGAIN: &[u8] = &[0x83, 0x86, 0x04, 2, b'/', b'x', 0xbe];

fn literals(authority: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/x"),
        (":authority", authority),
    ] {
        encode_literal(&mut block, name.as_bytes(), value.as_bytes());
    }
    block
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
    [
        PREFACE.to_vec(),
        frame(SETTINGS, 0, 0, &[]),
        frames.concat(),
    ]
    .concat()
}

fn repaired(bytes: &[u8]) -> Result<Vec<u8>, RepairError> {
    let mut repair = AuthorityRepair::default();
    repair.push(bytes)?;
    Ok(repair.outgoing().to_vec())
}

#[track_caller]
fn check(input: &[u8], expected: &[u8]) {
    assert_eq!(repaired(input).unwrap(), expected);
}

#[track_caller]
fn refused(input: &[u8], message: &str) {
    assert_eq!(repaired(input).unwrap_err().to_string(), message);
}

const SETTINGS: u8 = 4;
const DATA: u8 = 0;
const WHOLE: u8 = END_HEADERS;
const SOCKET: &str = "%2Frun%2Fspiffe%2Fapi.sock";

#[test]
fn valid_authority_passes_untouched_for_good() {
    // The second block is broken HPACK: it passes as nobody reads it any more.
    let input = connection(&[
        frame(HEADERS, WHOLE, 1, &request("localhost")),
        frame(DATA, END_STREAM, 1, b"body"),
        frame(HEADERS, WHOLE, 3, &[0x80]),
    ]);
    check(&input, &input);
    let mut repair = AuthorityRepair::default();
    repair.push(&input).unwrap();
    assert!(!repair.is_done());
    repair.outgoing().clear();
    assert!(repair.is_done());
}

#[test]
fn request_without_authority_passes_untouched() {
    let input = connection(&[frame(HEADERS, WHOLE, 1, &[0x83, 0x86, 0x84])]);
    check(&input, &input);
}

#[test]
fn socket_paths_become_localhost_also_out_of_the_table() {
    for path in [SOCKET, "/run/spiffe/api.sock", "", "unix:/run/api.sock"] {
        let input = connection(&[
            frame(HEADERS, WHOLE, 1, &request(path)),
            frame(DATA, END_STREAM, 1, b"body"),
            frame(HEADERS, WHOLE | END_STREAM, 3, AGAIN),
        ]);
        let expected = connection(&[
            frame(HEADERS, WHOLE, 1, &literals("localhost")),
            frame(DATA, END_STREAM, 1, b"body"),
            frame(HEADERS, WHOLE | END_STREAM, 3, &literals("localhost")),
        ]);
        check(&input, &expected);
    }
}

#[test]
fn valid_authority_after_a_wrong_one_is_kept() {
    let input = connection(&[
        frame(HEADERS, WHOLE, 1, &request(SOCKET)),
        frame(HEADERS, WHOLE, 3, &request("example.org:8443")),
    ]);
    let expected = connection(&[
        frame(HEADERS, WHOLE, 1, &literals("localhost")),
        frame(HEADERS, WHOLE, 3, &literals("example.org:8443")),
    ]);
    check(&input, &expected);
}

#[test]
fn padding_and_priority_are_no_part_of_the_block() {
    let block = request(SOCKET);
    let padded = [&[3], &[0; 5][..], &block, &[0; 3]].concat();
    let input = connection(&[frame(
        HEADERS,
        WHOLE | END_STREAM | PADDED | PRIORITY,
        1,
        &padded,
    )]);
    let expected = connection(&[frame(
        HEADERS,
        WHOLE | END_STREAM,
        1,
        &literals("localhost"),
    )]);
    check(&input, &expected);
}

#[test]
fn padding_longer_than_the_frame_is_refused() {
    let message = "padding or priority longer than the frame (RFC 9113 §6.2)";
    refused(
        &connection(&[frame(HEADERS, WHOLE | PADDED, 1, &[2, 0x83])]),
        message,
    );
    refused(
        &connection(&[frame(HEADERS, WHOLE | PADDED, 1, &[])]),
        message,
    );
    refused(
        &connection(&[frame(HEADERS, WHOLE | PRIORITY, 1, &[0; 4])]),
        message,
    );
    assert!(
        repaired(&connection(&[frame(
            HEADERS,
            WHOLE | PADDED,
            1,
            &[1, 0x83, 0]
        )]))
        .is_ok()
    );
}

#[test]
fn block_in_continuations_is_one_block() {
    let cut = |authority: &str| {
        let block = request(authority);
        connection(&[
            frame(HEADERS, END_STREAM, 1, &block[..3]),
            frame(CONTINUATION, 0, 1, &block[3..10]),
            frame(CONTINUATION, END_HEADERS, 1, &block[10..]),
        ])
    };
    check(&cut("localhost"), &cut("localhost"));
    let expected = connection(&[frame(
        HEADERS,
        WHOLE | END_STREAM,
        1,
        &literals("localhost"),
    )]);
    check(&cut(SOCKET), &expected);
}

#[test]
fn block_that_grew_beyond_a_frame_is_split() {
    let mut block = request(SOCKET);
    // One byte repeats the authority: 600 of them take more than a frame when written out.
    block.extend([0xbe; 600]);
    let output = repaired(&connection(&[frame(
        HEADERS,
        WHOLE | END_STREAM,
        1,
        &block,
    )]))
    .unwrap();
    let mut expected = literals("localhost");
    for _ in 0..600 {
        encode_literal(&mut expected, b":authority", b"localhost");
    }
    assert!(expected.len() < MAX_FRAME);
    check(&output, &output);

    let mut block = request(SOCKET);
    block.extend([0xbe; 900]);
    let mut whole = literals("localhost");
    for _ in 0..900 {
        encode_literal(&mut whole, b":authority", b"localhost");
    }
    assert!(whole.len() > MAX_FRAME);
    let expected = connection(&[
        frame(HEADERS, END_STREAM, 1, &whole[..MAX_FRAME]),
        frame(CONTINUATION, END_HEADERS, 1, &whole[MAX_FRAME..]),
    ]);
    check(
        &connection(&[frame(HEADERS, WHOLE | END_STREAM, 1, &block)]),
        &expected,
    );
}

#[test]
fn many_blocks_that_grow_are_worked_on_bit_by_bit() {
    let mut block = request(SOCKET);
    block.extend([0xbe; 3500]);
    let input = connection(&vec![frame(HEADERS, WHOLE, 1, &block); 8]);
    let mut repair = AuthorityRepair::default();
    repair.push(&input).unwrap();
    let one = repair.outgoing().len();
    assert!((MAX_WAITING..MAX_WAITING + MAX_DECODED).contains(&one));
    let mut total = 0;
    while !repair.outgoing().is_empty() {
        total += repair.outgoing().split().len();
        repair.push(&[]).unwrap();
    }
    assert_eq!(
        total - connection(&[]).len(),
        8 * (one - connection(&[]).len())
    );
}

#[test]
fn other_frames_inside_a_block_are_refused() {
    let message = "header block interrupted by another frame (RFC 9113 §6.10)";
    let begin = frame(HEADERS, 0, 1, &request(SOCKET));
    refused(
        &connection(&[begin.clone(), frame(DATA, 0, 1, b"x")]),
        message,
    );
    refused(&connection(&[begin.clone(), begin.clone()]), message);
    refused(
        &connection(&[begin.clone(), frame(CONTINUATION, END_HEADERS, 3, &[])]),
        message,
    );
    refused(
        &connection(&[frame(CONTINUATION, END_HEADERS, 1, &[])]),
        message,
    );
    assert!(
        repaired(&connection(&[
            begin,
            frame(CONTINUATION, END_HEADERS, 1, &[])
        ]))
        .is_ok()
    );
}

#[test]
fn frame_size_is_bounded() {
    let largest = frame(DATA, 0, 1, &[0; MAX_FRAME]);
    assert!(repaired(&connection(&[largest])).is_ok());
    let head = &frame(DATA, 0, 1, &[0; MAX_FRAME + 1])[..FRAME_HEAD];
    refused(
        &connection(&[head.to_vec()]),
        "frame of 16385 bytes, at most 16384 are allowed (RFC 9113 §4.2)",
    );
}

#[test]
fn block_size_is_bounded_by_bytes_and_by_empty_frames() {
    let begin = frame(HEADERS, 0, 1, &[0x83]);
    let part = |flags, length: usize| frame(CONTINUATION, flags, 1, &vec![0x83; length]);
    let fits = [
        begin.clone(),
        part(0, 16_000),
        part(0, 16_000),
        part(0, 16_000),
        part(END_HEADERS, 16_000),
    ];
    // 64,000 methods are not too many bytes here, but too many fields.
    refused(&connection(&fits), "header fields exceed 262144 bytes");
    let exceeds = [
        begin.clone(),
        part(0, 16_384),
        part(0, 16_384),
        part(0, 16_384),
        part(0, 16_384),
    ];
    refused(
        &connection(&exceeds),
        "header block of more than 65536 bytes",
    );
    let mut empty = vec![begin];
    empty.extend(vec![part(0, 0); 7281]);
    refused(&connection(&empty), "header block of more than 65536 bytes");
    empty.truncate(7000);
    empty.push(part(END_HEADERS, 0));
    assert!(repaired(&connection(&empty)).is_ok());
}

#[test]
fn what_is_not_http2_passes_untouched() {
    let input = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    check(input, input);
    check(
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    );
    // A preface that is still coming is held back.
    check(&PREFACE[..20], b"");
}

#[test]
fn cutting_the_input_anywhere_changes_nothing() {
    let block = request(SOCKET);
    for authority in [SOCKET, "localhost"] {
        let input = connection(&[
            frame(
                HEADERS,
                PADDED,
                1,
                &[&[2], &request(authority)[..4], &[0; 2]].concat(),
            ),
            frame(CONTINUATION, END_HEADERS, 1, &request(authority)[4..]),
            frame(DATA, END_STREAM, 1, b"body"),
            frame(HEADERS, WHOLE, 3, &block),
        ]);
        let whole = repaired(&input).unwrap();
        for at in 0..=input.len() {
            let mut repair = AuthorityRepair::default();
            let (first, second) = input.split_at(at);
            repair.push(first).unwrap();
            let mut output = repair.outgoing().split().to_vec();
            repair.push(second).unwrap();
            output.extend_from_slice(repair.outgoing());
            assert_eq!(output, whole, "cut at {at}");
        }
        let mut repair = AuthorityRepair::default();
        input.iter().for_each(|byte| repair.push(&[*byte]).unwrap());
        assert_eq!(repair.outgoing()[..], whole);
    }
}

proptest! {
    #[test]
    fn random_frames_never_panic(
        frames in prop::collection::vec((0_u8..12, any::<u8>(), 0_u32..4, any::<Vec<u8>>()), 0..8),
        tail: Vec<u8>,
    ) {
        let frames: Vec<_> = frames.iter().map(|(kind, flags, stream, payload)| frame(*kind, *flags, *stream, payload)).collect();
        let _ = repaired(&[connection(&frames), tail].concat());
    }

    #[test]
    fn any_authority_becomes_a_valid_one(authority in "[ -~]{0,60}") {
        let output = repaired(&connection(&[frame(HEADERS, WHOLE, 1, &request(&authority))])).unwrap();
        let block = &output[connection(&[]).len() + FRAME_HEAD..];
        let mut valid = false;
        Decoder::default()
            .decode(block, MAX_DECODED, |name, value| {
                valid |= name == b":authority" && Authority::try_from(value).is_ok();
            })
            .unwrap();
        prop_assert!(valid);
    }
}
