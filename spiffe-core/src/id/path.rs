//! Building paths from segments.

use super::{MAX_ID_BYTES, SpiffeIdError};

/// Appends segments to the text of an ID; what a segment alone can break is found here, because a slash inside
/// one would otherwise pass for a boundary.
pub(super) fn join<'s>(
    mut text: String,
    segments: impl IntoIterator<Item = &'s str>,
) -> Result<String, SpiffeIdError> {
    for segment in segments {
        text.push('/');
        let at = text.len();
        if segment.is_empty() {
            return Err(SpiffeIdError::EmptySegment { at });
        }
        if let Some(slash) = segment.find('/') {
            return Err(SpiffeIdError::PathByte {
                byte: b'/',
                at: at + slash,
            });
        }
        text.push_str(segment);
        if text.len() > MAX_ID_BYTES {
            return Err(SpiffeIdError::TooLong { bytes: text.len() });
        }
    }
    Ok(text)
}
