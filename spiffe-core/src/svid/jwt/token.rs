//! A token taken apart: compact serialisation, header and claims, everything but signature, time and audience.
//!
//! Answers to JWT-SVID §2, §3, §5.1 and RFC 7519 §4.1, §7.2. The algorithm is judged before anything else is looked at
//! (JWT-SVID §4).

use base64ct::{Base64UrlUnpadded, Encoding};
use rustls_pki_types::{AlgorithmIdentifier, alg_id};

use super::JwtError;
use super::error::Audiences;
use crate::bundle::KeyKind;
use crate::explain::Trace;
use crate::json::{self, JsonError, Object, Value, shortened};
use crate::{Rule, SpiffeId, Timestamp};

/// The algorithms of JWT-SVID §2.1; there are no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JwsAlgorithm {
    Rs256,
    Rs384,
    Rs512,
    Es256,
    Es384,
    Es512,
    Ps256,
    Ps384,
    Ps512,
}

impl JwsAlgorithm {
    pub(crate) const ALL: [Self; 9] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
        }
    }

    /// The one kind of key it works with: RFC 7518 §3.3–§3.5.
    pub(crate) const fn key_kind(self) -> KeyKind {
        match self {
            Self::Es256 => KeyKind::EcP256,
            Self::Es384 => KeyKind::EcP384,
            Self::Es512 => KeyKind::EcP521,
            _ => KeyKind::Rsa,
        }
    }

    /// What X.509 calls the same signature.
    pub(crate) const fn identifier(self) -> AlgorithmIdentifier {
        match self {
            Self::Rs256 => alg_id::RSA_PKCS1_SHA256,
            Self::Rs384 => alg_id::RSA_PKCS1_SHA384,
            Self::Rs512 => alg_id::RSA_PKCS1_SHA512,
            Self::Es256 => alg_id::ECDSA_SHA256,
            Self::Es384 => alg_id::ECDSA_SHA384,
            Self::Es512 => alg_id::ECDSA_SHA512,
            Self::Ps256 => alg_id::RSA_PSS_SHA256,
            Self::Ps384 => alg_id::RSA_PSS_SHA384,
            Self::Ps512 => alg_id::RSA_PSS_SHA512,
        }
    }

    /// The exact length of an ECDSA signature, both integers at full width: RFC 7518 §3.4.
    pub(crate) const fn ecdsa_length(self) -> Option<usize> {
        match self {
            Self::Es256 => Some(64),
            Self::Es384 => Some(96),
            Self::Es512 => Some(132),
            _ => None,
        }
    }
}

/// How strictly, and how much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Refuse every header member but `alg`, `kid` and `typ`.
    pub(crate) strict_header: bool,
    pub(crate) max_bytes: usize,
}

/// A token that keeps every rule but those of signature, time and audience.
pub(crate) struct Token<'t> {
    pub(crate) algorithm: JwsAlgorithm,
    pub(crate) key_id: Option<String>,
    /// What was signed.
    pub(crate) message: &'t str,
    pub(crate) signature: Vec<u8>,
    pub(crate) claims: Claims,
}

/// The claims that this library judges, and the text of all.
pub(crate) struct Claims {
    pub(crate) id: SpiffeId,
    pub(crate) audience: Vec<String>,
    pub(crate) expires_at: Timestamp,
    pub(crate) not_before: Option<Timestamp>,
    pub(crate) issued_at: Option<Timestamp>,
    pub(crate) text: String,
}

impl<'t> Token<'t> {
    /// Reports each rule that holds; the first that does not is the error and the caller's to report.
    pub(crate) fn parse(
        token: &'t str,
        shape: Shape,
        trace: &mut impl Trace,
    ) -> Result<Self, JwtError> {
        if token.len() > shape.max_bytes {
            return Err(JwtError::TooLarge {
                bytes: token.len(),
                limit: shape.max_bytes,
            });
        }
        trace.pass(Rule::JwtTooLarge, || format!("{} bytes", token.len()));
        let malformed = |reason| JwtError::Malformed { reason };
        let (header, rest) = token
            .split_once('.')
            .ok_or_else(|| malformed("it has no parts separated by dots"))?;
        let header = text(header, "header")?;
        let header = object(&header, "header")?;
        let algorithm = algorithm(&header)?;
        trace.pass(Rule::JwtAlgorithm, || algorithm.name().to_owned());
        let key_id = judge_header(&header, shape.strict_header)?;
        for rule in [Rule::JwtHeader, Rule::JwtType] {
            trace.pass(rule, String::new);
        }
        trace.pass(Rule::JwtKeyId, || match &key_id {
            Some(key_id) => shortened(key_id),
            None => "none".to_owned(),
        });
        let (payload, signature) = rest
            .split_once('.')
            .filter(|(_, signature)| !signature.contains('.'))
            .ok_or_else(|| malformed("it has not exactly three parts"))?;
        let claims = Claims::parse(text(payload, "claims")?, trace)?;
        if signature.is_empty() {
            return Err(malformed("the signature is empty"));
        }
        let message = &token[..token.len() - signature.len() - 1];
        let signature = Base64UrlUnpadded::decode_vec(signature)
            .map_err(|_| malformed("the signature is not base64url without padding"))?;
        trace.pass(Rule::JwtMalformed, String::new);
        Ok(Self {
            algorithm,
            key_id,
            message,
            signature,
            claims,
        })
    }
}

/// JWT-SVID §2.1, and §4: before any other processing.
fn algorithm(header: &Object<'_>) -> Result<JwsAlgorithm, JwtError> {
    let found = match header.get("alg") {
        Some(Value::String(name)) => {
            let known = |algorithm: &JwsAlgorithm| algorithm.name() == name;
            match JwsAlgorithm::ALL.into_iter().find(known) {
                Some(algorithm) => return Ok(algorithm),
                None => format!("\"{}\"", shortened(name)),
            }
        }
        Some(other) => other.kind().to_owned(),
        None => "missing".to_owned(),
    };
    Err(JwtError::Algorithm { found })
}

/// The key ID, if the header has one and nothing in it that would change how the token is processed.
fn judge_header(header: &Object<'_>, strict: bool) -> Result<Option<String>, JwtError> {
    let mut key_id = None;
    for (name, value) in header.iter() {
        let allowed = match name {
            "alg" => true,
            "kid" => {
                key_id = Some(value.as_str().ok_or(JwtError::KeyId)?.to_owned());
                true
            }
            "typ" => match value.as_str() {
                Some("JWT" | "JOSE") => true,
                _ => return Err(JwtError::Type),
            },
            // Extensions, unencoded or compressed or encrypted content, and keys that the token itself brings:
            // RFC 7515 §4.1, RFC 7516 §4.1, RFC 7797 §3.
            "crit" | "zip" | "enc" | "jwk" | "jku" | "x5u" | "x5c" => false,
            "b64" => *value == Value::Bool(true) && !strict,
            other => !other.starts_with("x5t") && !strict,
        };
        if !allowed {
            return Err(JwtError::Header {
                member: shortened(name),
            });
        }
    }
    Ok(key_id)
}

impl Claims {
    fn parse(text: String, trace: &mut impl Trace) -> Result<Self, JwtError> {
        let claims = object(&text, "claims")?;
        trace.pass(Rule::JwtJson, String::new);
        let id = match claims.get("sub") {
            None => return Err(JwtError::SubjectMissing),
            Some(value) => SpiffeId::parse(string("sub", value)?)
                .map_err(|source| JwtError::Subject { source })?,
        };
        trace.pass(Rule::JwtSubject, || id.to_string());
        for claim in ["iss", "jti"] {
            claims
                .get(claim)
                .map(|value| string(claim, value))
                .transpose()?;
        }
        let audience = audience(&claims)?;
        trace.pass(Rule::JwtAudienceMissing, || {
            Audiences(&audience).to_string()
        });
        let expires_at = match claims.get("exp") {
            None => return Err(JwtError::ExpiryMissing),
            Some(value) => date("exp", value)?.ok_or(JwtError::ExpiryRange)?,
        };
        trace.pass(Rule::JwtExpiryMissing, || expires_at.to_string());
        // Dates after the year 9999 are as far in the future as the last second of it.
        let optional = |claim| {
            let value = claims.get(claim).map(|value| date(claim, value));
            Ok(value
                .transpose()?
                .map(|date| date.unwrap_or(Timestamp::MAX)))
        };
        let (not_before, issued_at) = (optional("nbf")?, optional("iat")?);
        trace.pass(Rule::JwtClaimType, String::new);
        drop(claims);
        Ok(Self {
            id,
            audience,
            expires_at,
            not_before,
            issued_at,
            text,
        })
    }
}

/// RFC 7519 §4.1.3: one string or an array of them.
fn audience(claims: &Object<'_>) -> Result<Vec<String>, JwtError> {
    let wrong = JwtError::ClaimType {
        claim: "aud",
        expected: "a string or an array of strings",
    };
    match claims.get("aud") {
        None => Err(JwtError::AudienceMissing),
        Some(Value::String(one)) => Ok(vec![one.to_string()]),
        Some(Value::Array(all)) if all.is_empty() => Err(JwtError::AudienceMissing),
        Some(Value::Array(all)) => all
            .iter()
            .map(|value| {
                value
                    .as_str()
                    .map(str::to_owned)
                    .ok_or_else(|| wrong.clone())
            })
            .collect(),
        Some(_) => Err(wrong),
    }
}

fn string<'v>(claim: &'static str, value: &'v Value<'_>) -> Result<&'v str, JwtError> {
    value.as_str().ok_or(JwtError::ClaimType {
        claim,
        expected: "a string",
    })
}

/// RFC 7519 §2, NumericDate: seconds since the epoch, fractions allowed; `None` after the year 9999. Before the year 0
/// is as long ago as its beginning.
fn date(claim: &'static str, value: &Value<'_>) -> Result<Option<Timestamp>, JwtError> {
    const LAST: i64 = Timestamp::MAX.unix_seconds();
    const FIRST: i64 = -62_167_219_200;
    match value {
        Value::Unsigned(seconds) => Ok(i64::try_from(*seconds)
            .ok()
            .filter(|seconds| *seconds <= LAST)
            .map(Timestamp::from_unix_seconds)),
        Value::Negative(seconds) => Ok(Some(Timestamp::from_unix_seconds((*seconds).max(FIRST)))),
        Value::Float(seconds) if *seconds >= (LAST + 1) as f64 => Ok(None),
        Value::Float(seconds) => {
            let whole = seconds.floor().max(FIRST as f64);
            let nanos = ((seconds - whole).clamp(0.0, 1.0) * 1e9) as u64;
            let fraction = std::time::Duration::from_nanos(nanos);
            Ok(Some(Timestamp::from_unix_seconds(whole as i64) + fraction))
        }
        _ => Err(JwtError::ClaimType {
            claim,
            expected: "a number of seconds",
        }),
    }
}

/// One part's text.
fn text(part: &str, name: &'static str) -> Result<String, JwtError> {
    let bytes = Base64UrlUnpadded::decode_vec(part).map_err(|_| JwtError::Malformed {
        reason: match name {
            "header" => "the header is not base64url without padding",
            _ => "the claims are not base64url without padding",
        },
    })?;
    String::from_utf8(bytes).map_err(|_| unreadable(name, &JsonError::NotUtf8))
}

fn object<'t>(text: &'t str, part: &'static str) -> Result<Object<'t>, JwtError> {
    match json::parse(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(JwtError::Json {
            part,
            reason: format!("it is {}", other.kind()),
        }),
        Err(error) => Err(unreadable(part, &error)),
    }
}

fn unreadable(part: &'static str, error: &JsonError) -> JwtError {
    JwtError::Json {
        part,
        reason: error.to_string(),
    }
}
