//! Base64 for public documents: strict as RFC 4648 §3.3 and §3.5 ask, and fast, since most of a bundle document is it.
//!
//! White space, a foreign alphabet, missing or superfluous padding and stray bits behind the last byte are refused.
//! Tables make its time depend on the text: tokens and keys go through a constant-time decoder instead.

/// Decodes the standard alphabet with padding: RFC 4648 §4.
pub(crate) fn decode_padded(text: &str) -> Option<Vec<u8>> {
    const TABLE: [u8; 256] = table(*b"+/");
    let bytes = text.as_bytes();
    let digits = match bytes {
        [digits @ .., b'=', b'='] | [digits @ .., b'='] => digits,
        digits => digits,
    };
    if !bytes.len().is_multiple_of(4) {
        return None;
    }
    decode(digits, &TABLE)
}

/// Decodes the URL-safe alphabet without padding: RFC 4648 §5, RFC 7515 §2.
pub(crate) fn decode_url(text: &str) -> Option<Vec<u8>> {
    const TABLE: [u8; 256] = table(*b"-_");
    decode(text.as_bytes(), &TABLE)
}

/// The mark of a byte that is no digit; digits are below 64.
const NO_DIGIT: u8 = 0x80;

const fn table(last: [u8; 2]) -> [u8; 256] {
    let mut table = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 64 {
        let digit = match value {
            0..26 => b'A' + value,
            26..52 => b'a' + value - 26,
            52..62 => b'0' + value - 52,
            _ => last[value as usize - 62],
        };
        table[digit as usize] = value;
        value += 1;
    }
    table
}

fn decode(digits: &[u8], table: &[u8; 256]) -> Option<Vec<u8>> {
    let value = |digit: u8| table[usize::from(digit)];
    let quads = digits.chunks_exact(4);
    let rest = quads.remainder();
    let mut bytes = vec![0; digits.len() / 4 * 3];
    let mut seen = 0;
    for (quad, three) in quads.zip(bytes.chunks_exact_mut(3)) {
        let [a, b, c, d] = [
            value(quad[0]),
            value(quad[1]),
            value(quad[2]),
            value(quad[3]),
        ];
        seen |= a | b | c | d;
        three[0] = a << 2 | b >> 4;
        three[1] = b << 4 | c >> 2;
        three[2] = c << 6 | d;
    }
    match *rest {
        [] => {}
        [a, b] => {
            let (a, b) = (value(a), value(b));
            seen |= a | b | stray(b << 4);
            bytes.push(a << 2 | b >> 4);
        }
        [a, b, c] => {
            let (a, b, c) = (value(a), value(b), value(c));
            seen |= a | b | c | stray(c << 6);
            bytes.extend_from_slice(&[a << 2 | b >> 4, b << 4 | c >> 2]);
        }
        _ => return None,
    }
    (seen & NO_DIGIT == 0).then_some(bytes)
}

/// Bits that no byte takes must be zero, or one value had many texts.
const fn stray(bits: u8) -> u8 {
    if bits == 0 { 0 } else { NO_DIGIT }
}

#[cfg(test)]
mod tests {
    use base64ct::{Base64, Base64UrlUnpadded, Encoding};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn decoding_agrees_with_the_constant_time_decoder(
            text in prop_oneof!["[A-Za-z0-9+/_=-]{0,12}", "[A-Za-z0-9+/]{1,30}={0,3}", "[A-Ea-e]{0,40}", ".{0,5}"],
            bytes: Vec<u8>,
        ) {
            prop_assert_eq!(decode_padded(&text), Base64::decode_vec(&text).ok());
            prop_assert_eq!(decode_url(&text), Base64UrlUnpadded::decode_vec(&text).ok());
            prop_assert_eq!(decode_padded(&Base64::encode_string(&bytes)), Some(bytes.clone()));
            prop_assert_eq!(decode_url(&Base64UrlUnpadded::encode_string(&bytes)), Some(bytes));
        }
    }

    #[test]
    fn only_one_text_stands_for_a_value() {
        assert_eq!(decode_padded("AQ=="), Some(vec![1]));
        for text in [
            "AQ", "AQ=", "AQ===", "AR==", "A===", "====", "=", "AQ==AQ==", "A Q=", "AQ\n=",
        ] {
            assert_eq!(decode_padded(text), None, "{text}");
        }
        assert_eq!(decode_url("AQI"), Some(vec![1, 2]));
        for text in ["AQI=", "AQJ", "A", "+w", "AQ\n", "AQIDBA="] {
            assert_eq!(decode_url(text), None, "{text}");
        }
    }
}
