//! The byte scanner under every name: one pass, a table, no allocation, usable in `const`.

use super::{MAX_ID_BYTES, MAX_TRUST_DOMAIN_BYTES, SCHEME, SpiffeIdError};

/// Checks a whole ID and returns where its trust domain ends.
pub(super) const fn id(text: &[u8]) -> Result<usize, SpiffeIdError> {
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
    match path(text, at) {
        Ok(()) => Ok(at),
        Err(error) => Err(error),
    }
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

/// Checks the path that begins at `at`, which is the end of the text or a slash.
const fn path(text: &[u8], mut at: usize) -> Result<(), SpiffeIdError> {
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

const fn has_scheme(text: &[u8]) -> bool {
    matches!(
        text,
        [b's', b'p', b'i', b'f', b'f', b'e', b':', b'/', b'/', ..]
    )
}

const TRUST_DOMAIN: u8 = 1;
const PATH: u8 = 2;

const CLASS: [u8; 256] = {
    let mut class = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        class[byte] = match byte as u8 {
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' => TRUST_DOMAIN | PATH,
            b'A'..=b'Z' => PATH,
            _ => 0,
        };
        byte += 1;
    }
    class
};
