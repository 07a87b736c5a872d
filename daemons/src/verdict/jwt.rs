//! JWT-SVIDs: tokens taken apart, tokens verified.

use std::sync::Arc;
use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding};
use serde::Serialize;
use serde_json::value::RawValue;
use spiffe_core::crypto::CryptoProvider;
use spiffe_core::svid::JwtError;
use spiffe_core::{JwtSvid, JwtVerifier, PeerFacts, Policy, Rule, Timestamp};

use super::bundle::Bundles;
use super::{Judged, Node, Refusal};

/// What a token says.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Token {
    /// The subject.
    pub id: String,
    /// The audiences.
    pub audience: Vec<String>,
    /// The instant from which it is no longer good, RFC 3339, rounded down to a second.
    pub expires_at: String,
    /// Every claim.
    pub claims: Box<RawValue>,
}

impl Token {
    fn new(svid: &JwtSvid) -> Self {
        // A JSON text has line breaks between its tokens only, where a space says the same.
        let claims = svid.claims_json().replace(['\n', '\r'], " ");
        Self {
            id: svid.id().to_string(),
            audience: svid.audience().to_vec(),
            expires_at: svid.expires_at().truncated().to_string(),
            claims: RawValue::from_string(claims)
                .expect("the claims were read as JSON when the token was parsed"),
        }
    }
}

/// Takes a token apart without checking signature, time and audience.
///
/// # Errors
///
/// The first rule broken.
pub fn parse(token: &str) -> Result<Token, Refusal> {
    let svid = JwtSvid::parse_insecure(token).map_err(|error| refuse(&error))?;
    Ok(Token::new(&svid))
}

/// A token and its header.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Inspected {
    /// The header, as the JSON object that was signed.
    pub header: Box<RawValue>,
    /// What the token says.
    #[serde(flatten)]
    pub token: Token,
}

/// As [`parse`], with the header.
///
/// # Errors
///
/// The first rule broken.
pub fn inspect(token: &str) -> Result<Inspected, Refusal> {
    let parsed = parse(token)?;
    let header = token.split('.').next().unwrap_or_default();
    let header = Base64UrlUnpadded::decode_vec(header)
        .ok()
        .and_then(|json| String::from_utf8(json).ok())
        .and_then(|json| RawValue::from_string(json.replace(['\n', '\r'], " ")).ok())
        .ok_or_else(|| Refusal::new(Rule::JwtMalformed, "the header is no JSON in base64url"))?;
    Ok(Inspected {
        header,
        token: parsed,
    })
}

/// The token that a file holds, if its content looks like one: three parts and nothing else.
pub fn sniff(content: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(content).ok()?.trim();
    let part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let dots = text.bytes().filter(|byte| *byte == b'.').count();
    (dots == 2 && text.bytes().all(part)).then_some(text)
}

/// What is asked about a token.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "an argument list with names")]
pub struct Question<'a> {
    /// The token.
    pub token: &'a str,
    /// The name that the receiver answers to.
    pub audience: &'a str,
    /// Whose authorities are known.
    pub bundles: &'a Bundles,
    /// The time of the verification.
    pub at: Timestamp,
    /// How far clocks may differ; `None` for the default.
    pub leeway: Option<Duration>,
    /// Who may; `None` verifies only.
    pub policy: Option<&'a Policy>,
}

/// Verifies a token and asks the policy; `explain` collects the rules.
pub fn verify(
    question: &Question<'_>,
    crypto: &Arc<dyn CryptoProvider>,
    explain: bool,
) -> Judged<Token> {
    let mut verifier = JwtVerifier::new(&**crypto);
    if let Some(leeway) = question.leeway {
        verifier = match verifier.with_leeway(leeway) {
            Ok(verifier) => verifier,
            Err(error) => return Judged::from(Err(Refusal::new(error.rule(), error))),
        };
    }
    let Question {
        token,
        audience,
        bundles,
        at,
        ..
    } = *question;
    let (verdict, mut steps) = if explain {
        let (verdict, tree) = verifier.explain(token, audience, bundles.known(), at);
        (verdict, vec![Node::from(&tree)])
    } else {
        let verdict = verifier.verify(token, audience, bundles.known(), at);
        (verdict, Vec::new())
    };
    let svid = match verdict {
        Ok(svid) => svid,
        Err(error) => {
            let nearest = error.nearest(bundles.known());
            let mut refusal = refuse(&error).with_nearest(nearest);
            // A bundle that could not be read is worse news than one that is missing.
            if let JwtError::TrustDomainUnknown { trust_domain } = &error
                && let Some(broken) = bundles.broken(trust_domain)
            {
                steps.insert(0, Node::refused(broken));
                refusal = broken.clone();
            }
            return Judged {
                verdict: Err(refusal),
                steps,
            };
        }
    };
    let facts = PeerFacts::new(svid.id().as_ref(), at, svid.expires_at(), 0);
    let judged = Judged {
        verdict: Ok(Token::new(&svid)),
        steps,
    };
    judged.and_authorize(question.policy, &facts)
}

fn refuse(error: &JwtError) -> Refusal {
    Refusal::new(error.rule(), error)
}
