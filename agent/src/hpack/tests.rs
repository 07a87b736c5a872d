//! The vectors of RFC 7541 Appendix C, the bounds, and properties.

use proptest::prelude::*;

use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|byte| char::from(byte).to_digit(16).unwrap() as u8)
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

fn fields(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, HpackError> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut fields = Vec::new();
    decoder.decode(block, LIMIT, |name, value| {
        fields.push((text(name), text(value)))
    })?;
    Ok(fields)
}

#[track_caller]
fn check(decoder: &mut Decoder, block: &str, expected: &[(&str, &str)], table_size: usize) {
    let fields = fields(decoder, &hex(block)).unwrap();
    let fields: Vec<_> = fields
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_str()))
        .collect();
    assert_eq!(fields, expected);
    assert_eq!(decoder.table.size(), table_size);
}

#[track_caller]
fn refused(block: &str, expected: HpackError) {
    assert_eq!(fields(&mut Decoder::default(), &hex(block)), Err(expected));
}

const LIMIT: usize = 64 * 1024;

#[test]
fn rfc_7541_c1_integers() {
    assert_eq!(Input(&hex("0a")).integer(5), Ok(10));
    assert_eq!(Input(&hex("1f9a0a")).integer(5), Ok(1337));
    assert_eq!(Input(&hex("2a")).integer(8), Ok(42));
}

#[test]
fn rfc_7541_c2_single_fields() {
    let new = Decoder::default;
    check(
        &mut new(),
        "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
        &[("custom-key", "custom-header")],
        55,
    );
    check(
        &mut new(),
        "040c 2f73 616d 706c 652f 7061 7468",
        &[(":path", "/sample/path")],
        0,
    );
    check(
        &mut new(),
        "1008 7061 7373 776f 7264 0673 6563 7265 74",
        &[("password", "secret")],
        0,
    );
    check(&mut new(), "82", &[(":method", "GET")], 0);
}

#[test]
fn rfc_7541_c3_requests_without_huffman() {
    requests([
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ]);
}

#[test]
fn rfc_7541_c4_requests_with_huffman() {
    requests([
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ]);
}

#[track_caller]
fn requests(blocks: [&str; 3]) {
    let mut decoder = Decoder::default();
    let common = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "www.example.com"),
    ];
    check(&mut decoder, blocks[0], &common, 57);
    let second = [&common[..], &[("cache-control", "no-cache")]].concat();
    check(&mut decoder, blocks[1], &second, 110);
    let third = [
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/index.html"),
        (":authority", "www.example.com"),
        ("custom-key", "custom-value"),
    ];
    check(&mut decoder, blocks[2], &third, 164);
}

#[test]
fn rfc_7541_c5_responses_without_huffman_evict() {
    responses([
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d
         546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f
         6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b
         2076 6572 7369 6f6e 3d31",
    ]);
}

#[test]
fn rfc_7541_c6_responses_with_huffman_evict() {
    responses([
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7
         8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335
         dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ]);
}

#[track_caller]
fn responses(blocks: [&str; 3]) {
    let mut decoder = Decoder::default();
    // The appendix has the table at 256 bytes by its settings.
    check(&mut decoder, "3fe101", &[], 0);
    let date = ("date", "Mon, 21 Oct 2013 20:13:21 GMT");
    let (private, location) = (
        ("cache-control", "private"),
        ("location", "https://www.example.com"),
    );
    check(
        &mut decoder,
        blocks[0],
        &[(":status", "302"), private, date, location],
        222,
    );
    check(
        &mut decoder,
        blocks[1],
        &[(":status", "307"), private, date, location],
        222,
    );
    let third = [
        (":status", "200"),
        private,
        ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
        location,
        ("content-encoding", "gzip"),
        (
            "set-cookie",
            "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
        ),
    ];
    check(&mut decoder, blocks[2], &third, 215);
}

#[test]
fn index_zero_and_index_beyond_the_table_are_refused() {
    refused("80", HpackError::Index { index: 0 });
    refused("be", HpackError::Index { index: 62 });
    check(
        &mut Decoder::default(),
        "bd",
        &[("www-authenticate", "")],
        0,
    );
}

#[test]
fn size_update_above_the_settings_is_refused() {
    check(
        &mut Decoder::default(),
        "3fe11f 82",
        &[(":method", "GET")],
        0,
    );
    refused("3fe21f 82", HpackError::SizeUpdate);
}

#[test]
fn size_update_after_a_field_is_refused() {
    check(&mut Decoder::default(), "20 82", &[(":method", "GET")], 0);
    refused("82 20", HpackError::SizeUpdate);
}

#[test]
fn size_update_to_zero_empties_the_table() {
    let mut decoder = Decoder::default();
    check(&mut decoder, "40 01 61 01 62", &[("a", "b")], 34);
    check(&mut decoder, "20", &[], 0);
    assert_eq!(
        fields(&mut decoder, &hex("be")),
        Err(HpackError::Index { index: 62 })
    );
}

#[test]
fn integer_of_five_further_bytes_is_refused() {
    refused("ff ffffffff01", HpackError::Integer);
}

#[test]
fn cut_field_is_refused() {
    for block in ["40", "40 0a 63", "40 01 61", "40 01 61 02 62", "ff"] {
        refused(block, HpackError::Truncated);
    }
}

#[test]
fn decoded_size_is_bounded_not_the_block() {
    let mut decoder = Decoder::default();
    let mut block = Vec::new();
    encode_literal(&mut block, b"a", &[b'x'; 4000]);
    block[0] = 0x40;
    // One byte names the entry just made: 16 of them stay below the limit, 17 do not.
    block.extend([0xbe; 15]);
    assert_eq!(fields(&mut decoder, &block).unwrap().len(), 16);
    block.push(0xbe);
    assert_eq!(
        fields(&mut Decoder::default(), &block),
        Err(HpackError::TooLarge { limit: LIMIT })
    );
}

/// A field in one of the ways a peer may write it.
fn encode(block: &mut Vec<u8>, name: &[u8], value: &[u8], indexing: bool, coded: bool) {
    block.push(if indexing { 0x40 } else { 0 });
    for text in [name, value] {
        let text = if coded {
            huffman::tests::encode(text)
        } else {
            text.to_vec()
        };
        let start = block.len();
        encode_length(block, text.len());
        block[start] |= if coded { 0x80 } else { 0 };
        block.extend(text);
    }
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_itself(
        fields in prop::collection::vec((any::<Vec<u8>>(), any::<Vec<u8>>(), any::<bool>(), any::<bool>()), 0..20),
    ) {
        let mut block = Vec::new();
        for (name, value, indexing, coded) in &fields {
            encode(&mut block, name, value, *indexing, *coded);
        }
        let mut decoded = Vec::new();
        Decoder::default()
            .decode(&block, LIMIT, |name, value| decoded.push((name.to_vec(), value.to_vec())))
            .unwrap();
        let expected: Vec<_> = fields.into_iter().map(|(name, value, ..)| (name, value)).collect();
        prop_assert_eq!(decoded, expected);
    }

    #[test]
    fn random_blocks_never_panic_and_keep_the_bounds(blocks: [Vec<u8>; 4]) {
        let mut decoder = Decoder::default();
        let mut size = 0;
        for block in blocks {
            let result = decoder.decode(&block, LIMIT, |name, value| size += name.len() + value.len());
            prop_assert!(size <= 4 * LIMIT && decoder.table.size() <= 4096);
            if result.is_err() {
                break;
            }
        }
    }
}
