//! Tokens in HTTP and gRPC: JWT-SVID §5.2, §5.3, RFC 6750 §2.1.

use crate::Rule;

/// The token in the value of a header `Authorization`, not yet judged.
///
/// The scheme's case does not matter (RFC 9110 §11.1); there is exactly one token.
///
/// ```
/// let token = spiffe_core::svid::bearer_token("bearer a.b.c")?;
/// assert_eq!(token, "a.b.c");
/// # Ok::<(), spiffe_core::svid::BearerError>(())
/// ```
///
/// # Errors
///
/// [`BearerError`] when the value is anything but the scheme, spaces and one token.
pub fn bearer_token(value: &str) -> Result<&str, BearerError> {
    let (scheme, rest) = value.split_once(' ').ok_or(BearerError)?;
    let token = rest.trim_start_matches(' ');
    // RFC 6750 §2.1: b64token.
    let is_token_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    if !scheme.eq_ignore_ascii_case("Bearer")
        || token.is_empty()
        || !token.bytes().all(is_token_byte)
    {
        return Err(BearerError);
    }
    Ok(token)
}

/// A header value is not `Bearer` and one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the authorization value is not \"Bearer\" and one token")]
#[non_exhaustive]
pub struct BearerError;

impl BearerError {
    /// The rule that was broken.
    pub const fn rule(&self) -> Rule {
        Rule::JwtBearer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scheme_in_any_case_and_one_token() {
        for value in ["Bearer a.b.c", "bearer a.b.c", "BEARER   a.b.c"] {
            assert_eq!(bearer_token(value), Ok("a.b.c"), "{value}");
        }
        for value in [
            "",
            "Bearer",
            "Bearer ",
            "a.b.c",
            "Basic a.b.c",
            "Bearera.b.c",
            " Bearer a.b.c",
            "Bearer\ta.b.c",
            "Bearer a.b.c d.e.f",
            "Bearer a.b.c,Bearer d.e.f",
            "Bearer a.b.c ",
            "Bearer a.b.c\n",
            "Bearer \"a.b.c\"",
        ] {
            assert_eq!(bearer_token(value), Err(BearerError), "{value:?}");
        }
    }
}
