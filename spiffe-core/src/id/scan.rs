//! The byte scanner under every name: one pass, a table, no allocation, usable in `const`.

use super::{MAX_ID_BYTES, MAX_TRUST_DOMAIN_BYTES, SCHEME, SpiffeIdError};

/// Checks a whole ID.
pub(super) const fn id(text: &[u8]) -> Result<(), SpiffeIdError> {
    if text.len() > MAX_ID_BYTES {
        return Err(SpiffeIdError::TooLong { bytes: text.len() });
    }
    if !has_scheme(text) {
        return Err(SpiffeIdError::Scheme);
    }
    let start = SCHEME.len();
    let mut at = start;
    while at < text.len() && CLASS[text[at] as usize] & TRUST_DOMAIN != 0 {
        at += 1;
    }
    if at < text.len() && text[at] != b'/' {
        // SPIFFE-ID §2.1, §2: user information, ports, queries and fragments all end here.
        return Err(SpiffeIdError::TrustDomainByte { byte: text[at], at });
    }
    if at == start {
        return Err(SpiffeIdError::EmptyTrustDomain);
    }
    if at - start > MAX_TRUST_DOMAIN_BYTES {
        return Err(SpiffeIdError::TrustDomainTooLong { bytes: at - start });
    }
    path(text, at)
}

/// Checks a trust domain name that stands alone.
pub(super) const fn trust_domain(name: &[u8]) -> Result<(), SpiffeIdError> {
    if name.is_empty() {
        return Err(SpiffeIdError::EmptyTrustDomain);
    }
    let mut at = 0;
    while at < name.len() {
        if CLASS[name[at] as usize] & TRUST_DOMAIN == 0 {
            return Err(SpiffeIdError::TrustDomainByte { byte: name[at], at });
        }
        at += 1;
    }
    if name.len() > MAX_TRUST_DOMAIN_BYTES {
        return Err(SpiffeIdError::TrustDomainTooLong { bytes: name.len() });
    }
    Ok(())
}

/// Checks the path that begins at `start`, which is the end of the text or a slash.
const fn path(text: &[u8], start: usize) -> Result<(), SpiffeIdError> {
    if start == text.len() {
        return Ok(());
    }
    // Without a branch for each segment. What is wrong in a path is a byte that has no place there, a slash at the end,
    // or a slash before another or before a dot; a dot there may also be right, as in `/.well-known`.
    let mut at = start + 1;
    let mut before = CLASS[b'/' as usize];
    let mut found = 0;
    while at < text.len() {
        let class = CLASS[text[at] as usize];
        found |= before << 1 & class;
        before = class;
        at += 1;
    }
    if found & (STRANGE | DOT_OR_SLASH) == 0 && before & SLASH == 0 {
        return Ok(());
    }
    segments(text, start)
}

/// Judges a path segment by segment, to the first that is wrong.
#[cold]
const fn segments(text: &[u8], mut at: usize) -> Result<(), SpiffeIdError> {
    while at < text.len() {
        let segment = at + 1;
        at = segment;
        while at < text.len() && CLASS[text[at] as usize] & PATH != 0 {
            at += 1;
        }
        if at < text.len() && text[at] != b'/' {
            return Err(SpiffeIdError::PathByte { byte: text[at], at });
        }
        // SPIFFE-ID §2.2: neither empty nor dot segments, and nothing is normalised away.
        match at - segment {
            0 if at == text.len() => return Err(SpiffeIdError::TrailingSlash { at: at - 1 }),
            0 => return Err(SpiffeIdError::EmptySegment { at }),
            1 if text[segment] == b'.' => return Err(SpiffeIdError::DotSegment { at: segment }),
            2 if text[segment] == b'.' && text[segment + 1] == b'.' => {
                return Err(SpiffeIdError::DotSegment { at: segment });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Compares eight bytes at once and then the ninth.
const fn has_scheme(text: &[u8]) -> bool {
    match (
        text.first_chunk::<8>(),
        SCHEME.as_bytes().first_chunk::<8>(),
    ) {
        (Some(head), Some(scheme)) => {
            u64::from_ne_bytes(*head) == u64::from_ne_bytes(*scheme)
                && text.len() > 8
                && text[8] == b'/'
        }
        _ => false,
    }
}

// What a byte is, one bit each. Two of them say something of the byte after it: shifted left by one, `ANY` meets
// `STRANGE` and `SLASH` meets `DOT_OR_SLASH`.
const ANY: u8 = 1;
const STRANGE: u8 = ANY << 1;
const SLASH: u8 = 1 << 2;
const DOT_OR_SLASH: u8 = SLASH << 1;
const TRUST_DOMAIN: u8 = 1 << 4;
const PATH: u8 = 1 << 5;

const CLASS: [u8; 256] = {
    let mut class = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        class[byte] = ANY
            | match byte as u8 {
                b'.' => TRUST_DOMAIN | PATH | DOT_OR_SLASH,
                b'/' => SLASH | DOT_OR_SLASH,
                b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => TRUST_DOMAIN | PATH,
                b'A'..=b'Z' => PATH,
                _ => STRANGE,
            };
        byte += 1;
    }
    class
};

#[cfg(test)]
mod tests {
    use super::*;

    /// Every path of up to seven bytes, of the kinds of byte that differ.
    #[test]
    fn the_quick_look_at_a_path_and_the_walk_by_segments_agree() {
        let kinds = b"a./~";
        for length in 0..7 {
            for number in 0..kinds.len().pow(length) {
                let byte = |place| kinds[number / kinds.len().pow(place) % kinds.len()];
                let text: Vec<u8> = std::iter::once(b'/').chain((0..length).map(byte)).collect();
                let shown = String::from_utf8_lossy(&text);
                assert_eq!(path(&text, 0), segments(&text, 0), "{shown}");
            }
        }
        assert_eq!(path(b"/a/.b/..c", 0), Ok(()));
    }
}
