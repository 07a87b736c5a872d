//! The Huffman code of RFC 7541 Appendix B.
//!
//! The code is canonical: symbols of one length have consecutive codes in the order of the symbols. The lengths alone
//! therefore say everything, and a bit string is decoded by comparing it with the first code of its length.

use super::HpackError;

/// Appends the decoded form of `input` to `output`.
pub(super) fn decode(input: &[u8], output: &mut Vec<u8>) -> Result<(), HpackError> {
    let (mut code, mut length) = (0_u32, 0_usize);
    for byte in input {
        for shift in (0..8).rev() {
            code = code << 1 | u32::from(byte >> shift & 1);
            length += 1;
            let Some(symbol) = CODE.symbol(code, length) else {
                continue;
            };
            // RFC 7541 §5.2: a string that contains EOS is a decoding error. It is the only symbol beyond a byte.
            output.push(u8::try_from(symbol).map_err(|_| HpackError::Huffman)?);
            (code, length) = (0, 0);
        }
    }
    // RFC 7541 §5.2: padding is shorter than a byte and made of the first bits of EOS, which are all ones.
    match length < 8 && code == (1 << length) - 1 {
        true => Ok(()),
        false => Err(HpackError::Huffman),
    }
}

struct Canonical {
    /// By length: the first code, how many there are, and where their symbols begin.
    first: [u32; LONGEST + 1],
    count: [u32; LONGEST + 1],
    start: [usize; LONGEST + 1],
    symbols: [u16; LENGTHS.len()],
}

impl Canonical {
    const fn new() -> Self {
        let mut this = Self {
            first: [0; LONGEST + 1],
            count: [0; LONGEST + 1],
            start: [0; LONGEST + 1],
            symbols: [0; LENGTHS.len()],
        };
        let (mut length, mut next, mut filled) = (1, 0_u32, 0);
        while length <= LONGEST {
            next <<= 1;
            this.first[length] = next;
            this.start[length] = filled;
            let mut symbol = 0;
            while symbol < LENGTHS.len() {
                if LENGTHS[symbol] as usize == length {
                    this.symbols[filled] = symbol as u16;
                    this.count[length] += 1;
                    filled += 1;
                    next += 1;
                }
                symbol += 1;
            }
            length += 1;
        }
        this
    }

    fn symbol(&self, code: u32, length: usize) -> Option<u16> {
        let rank = code.checked_sub(*self.first.get(length)?)?;
        (rank < self.count[length]).then(|| self.symbols[self.start[length] + rank as usize])
    }
}

static CODE: Canonical = Canonical::new();

const LONGEST: usize = 30;

/// Bits of the code of each byte, and of EOS as the last.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The inverse, from the same lengths; the vectors of Appendix C pin both to the standard.
    pub(crate) fn encode(input: &[u8]) -> Vec<u8> {
        let mut bits = Vec::new();
        for byte in input {
            let length = LENGTHS[usize::from(*byte)] as usize;
            let rank = (0..*byte)
                .filter(|b| LENGTHS[usize::from(*b)] as usize == length)
                .count();
            let code = CODE.first[length] + rank as u32;
            bits.extend((0..length).rev().map(|shift| code >> shift & 1 == 1));
        }
        bits.resize(bits.len().next_multiple_of(8), true);
        bits.chunks(8)
            .map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit)))
            .collect()
    }

    fn decoded(input: &[u8]) -> Result<Vec<u8>, HpackError> {
        let mut output = Vec::new();
        decode(input, &mut output).map(|()| output)
    }

    #[test]
    fn eos_takes_the_last_code() {
        assert_eq!(CODE.symbol(0x3fff_ffff, 30), Some(256));
        assert_eq!(CODE.symbols[0], u16::from(b'0'));
    }

    #[test]
    fn eos_in_a_string_is_refused() {
        assert_eq!(decoded(&[0xff; 4]), Err(HpackError::Huffman));
    }

    #[test]
    fn padding_of_a_whole_byte_is_refused() {
        assert_eq!(decoded(&encode(b"www")).unwrap(), b"www");
        let mut padded = encode(b"www");
        padded.push(0xff);
        assert_eq!(decoded(&padded), Err(HpackError::Huffman));
    }

    #[test]
    fn padding_with_zeros_is_refused() {
        // 'a' is 00011.
        assert_eq!(decoded(&[0b0001_1111]).unwrap(), b"a");
        assert_eq!(decoded(&[0b0001_1000]), Err(HpackError::Huffman));
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_itself(bytes: Vec<u8>) {
            prop_assert_eq!(decoded(&encode(&bytes)).unwrap(), bytes);
        }

        #[test]
        fn what_decodes_encodes_to_itself(bytes: Vec<u8>) {
            if let Ok(text) = decoded(&bytes) {
                prop_assert_eq!(encode(&text), bytes);
            }
        }
    }
}
