//! Verification of JWT-SVIDs: JWT-SVID §2–§4, §6.2.
//!
//! The rules are tried in this order: size, algorithm, header, claims and their types; then the bundle of the subject's
//! trust domain, the key, the signature; and only of a token that is genuine, audience and time. The
//! first rule broken is the error.

use std::time::Duration;

use crate::bundle::{BundleSet, Check, JwtAuthorities, JwtAuthority};
use crate::crypto::CryptoProvider;
use crate::explain::{Collected, Explanation, NoTrace, Trace};
use crate::json::shortened;
use crate::key::ecdsa_to_der;
use crate::svid::{Claims, JwsAlgorithm, JwtError, JwtSvid, MAX_TOKEN_BYTES, Shape, Token};
use crate::{Rule, Timestamp};

/// How far clocks may differ unless said otherwise: JWT-SVID §3.3 allows a small leeway.
pub const DEFAULT_JWT_LEEWAY: Duration = Duration::from_secs(60);

/// The largest leeway that can be set: more would make short lifetimes pointless.
pub const MAX_JWT_LEEWAY: Duration = Duration::from_secs(300);

/// The most keys that a token without a key ID is tried with; each trial is a signature check.
pub const MAX_JWT_KEYS_TRIED: usize = 16;

/// Verifies JWT-SVIDs; made once and used for every token.
#[derive(Clone, Debug)]
pub struct JwtVerifier {
    /// The provider's check for each of the nine algorithms, where it has one.
    checks: [Option<Check>; JwsAlgorithm::ALL.len()],
    leeway: Duration,
    require_path: bool,
    shape: Shape,
}

impl JwtVerifier {
    /// A verifier with the default limits.
    pub fn new(crypto: &dyn CryptoProvider) -> Self {
        Self {
            checks: JwsAlgorithm::ALL.map(|algorithm| Check::find(algorithm, crypto)),
            leeway: DEFAULT_JWT_LEEWAY,
            require_path: false,
            shape: Shape {
                strict_header: false,
                max_bytes: MAX_TOKEN_BYTES,
            },
        }
    }

    /// Allows clocks to differ by `leeway`, zero included, instead of by [`DEFAULT_JWT_LEEWAY`].
    ///
    /// # Errors
    ///
    /// [`LeewayError`] for more than [`MAX_JWT_LEEWAY`].
    pub fn with_leeway(mut self, leeway: Duration) -> Result<Self, LeewayError> {
        if leeway > MAX_JWT_LEEWAY {
            return Err(LeewayError { leeway });
        }
        self.leeway = leeway;
        Ok(self)
    }

    /// Lowers the most bytes of a token from [`MAX_TOKEN_BYTES`]; it cannot be raised.
    #[must_use]
    pub fn with_max_token_bytes(mut self, bytes: usize) -> Self {
        self.shape.max_bytes = bytes.min(MAX_TOKEN_BYTES);
        self
    }

    /// Refuses every header member but `alg`, `kid` and `typ`, as JWT-SVID §2 binds issuers; the default ignores
    /// members without a meaning here.
    #[must_use]
    pub fn with_strict_header(mut self) -> Self {
        self.shape.strict_header = true;
        self
    }

    /// Refuses a subject that is a trust domain's own ID; the texts allow it, issuers do not use it.
    #[must_use]
    pub fn with_path_required(mut self) -> Self {
        self.require_path = true;
        self
    }

    /// Verifies a token for `audience`, the one name this receiver answers to, at `now`.
    ///
    /// The subject's trust domain picks the bundle. Whether the subject may do what it asks for is the caller's to
    /// decide.
    ///
    /// # Errors
    ///
    /// The first rule broken.
    pub fn verify(
        &self,
        token: &str,
        audience: &str,
        bundles: &BundleSet,
        now: Timestamp,
    ) -> Result<JwtSvid, JwtError> {
        self.run(token, audience, bundles, now, &mut NoTrace)
    }

    /// The same verdict with every rule that was tried.
    pub fn explain(
        &self,
        token: &str,
        audience: &str,
        bundles: &BundleSet,
        now: Timestamp,
    ) -> (Result<JwtSvid, JwtError>, Explanation) {
        let mut trace = Collected::default();
        let verdict = self.run(token, audience, bundles, now, &mut trace);
        let facts = match &verdict {
            Ok(svid) => svid.id().to_string(),
            Err(error) => error.to_string(),
        };
        (verdict, trace.into_tree(Rule::VerifyJwt, facts))
    }

    /// Both of the above: every rule is reported, and the first that fails is the error.
    fn run(
        &self,
        token: &str,
        audience: &str,
        bundles: &BundleSet,
        now: Timestamp,
        trace: &mut impl Trace,
    ) -> Result<JwtSvid, JwtError> {
        self.steps(token, audience, bundles, now, trace)
            .map(|claims| JwtSvid::assemble(token, claims))
            .inspect_err(|error| {
                trace.fail(
                    error.rule(),
                    || error.to_string(),
                    || error.nearest(bundles),
                );
            })
    }

    fn steps(
        &self,
        token: &str,
        audience: &str,
        bundles: &BundleSet,
        now: Timestamp,
        trace: &mut impl Trace,
    ) -> Result<Claims, JwtError> {
        if audience.is_empty() {
            return Err(JwtError::NoExpectedAudience);
        }
        trace.pass(Rule::JwtExpectedAudience, || shortened(audience));
        let parsed = Token::parse(token, self.shape, trace)?;
        self.check_signature(&parsed, bundles, trace)?;
        self.check_claims(&parsed.claims, audience, now, trace)?;
        Ok(parsed.claims)
    }

    fn check_signature(
        &self,
        token: &Token<'_>,
        bundles: &BundleSet,
        trace: &mut impl Trace,
    ) -> Result<(), JwtError> {
        let id = &token.claims.id;
        let trust_domain = || id.trust_domain().to_owned();
        if self.require_path {
            if id.path().is_empty() {
                return Err(JwtError::SubjectPathMissing);
            }
            trace.pass(Rule::JwtSubjectPath, String::new);
        }
        let Some(bundle) = bundles.get(id.trust_domain()) else {
            return Err(JwtError::TrustDomainUnknown {
                trust_domain: trust_domain(),
            });
        };
        trace.pass(Rule::JwtTrustDomainUnknown, || {
            id.trust_domain().to_string()
        });
        let authorities = bundle.jwt_authorities();
        if authorities.is_empty() {
            return Err(JwtError::NoAuthorities {
                trust_domain: trust_domain(),
            });
        }
        trace.pass(Rule::NoJwtAuthorities, || authorities.len().to_string());
        let algorithm = token.algorithm;
        let check =
            self.checks[algorithm as usize].ok_or_else(|| JwtError::AlgorithmUnsupported {
                algorithm: algorithm.name(),
            })?;
        trace.pass(Rule::JwtAlgorithmUnsupported, String::new);
        let keys = candidates(token, authorities).ok_or_else(|| JwtError::KeyUnknown {
            key_id: shortened(token.key_id.as_deref().unwrap_or_default()),
            trust_domain: trust_domain(),
        })?;
        trace.pass(Rule::JwtKeyUnknown, String::new);
        if keys.is_empty() {
            return Err(JwtError::KeyAlgorithm {
                algorithm: algorithm.name(),
                trust_domain: trust_domain(),
            });
        }
        trace.pass(Rule::JwtKeyAlgorithm, || {
            let names: Vec<_> = keys.iter().map(|key| shortened(key.key_id())).collect();
            names.join(", ")
        });
        let message = token.message.as_bytes();
        let good = match algorithm.ecdsa_length() {
            // RFC 7518 §3.4: both integers at full width, so any other length is no signature.
            Some(length) if length != token.signature.len() => false,
            Some(_) => {
                let signature = ecdsa_to_der(&token.signature);
                keys.iter()
                    .any(|key| check.holds(key.key(), message, &signature))
            }
            None => keys
                .iter()
                .any(|key| check.holds(key.key(), message, &token.signature)),
        };
        if !good {
            return Err(JwtError::Signature {
                trust_domain: trust_domain(),
            });
        }
        trace.pass(Rule::JwtSignature, String::new);
        Ok(())
    }

    fn check_claims(
        &self,
        claims: &Claims,
        audience: &str,
        now: Timestamp,
        trace: &mut impl Trace,
    ) -> Result<(), JwtError> {
        if !claims.audience.iter().any(|known| known == audience) {
            return Err(JwtError::Audience {
                expected: audience.to_owned(),
                found: claims.audience.clone(),
            });
        }
        trace.pass(Rule::JwtAudience, || shortened(audience));
        // RFC 7519 §4.1.4: at exp itself the token is no longer good.
        if now >= claims.expires_at + self.leeway {
            return Err(JwtError::Expired {
                expired_at: claims.expires_at,
                now,
            });
        }
        trace.pass(Rule::JwtExpired, || {
            format!("it expires at {}; the time is {now}", claims.expires_at)
        });
        if let Some(not_before) = claims.not_before {
            if now + self.leeway < not_before {
                return Err(JwtError::NotYetValid { not_before, now });
            }
            trace.pass(Rule::JwtNotYetValid, || {
                format!("it is valid from {not_before} on")
            });
        }
        Ok(())
    }
}

/// The keys that may have signed the token, bounded: the one that it names, or else all that fit. `None` when it names
/// one that is unknown.
fn candidates<'a>(
    token: &Token<'_>,
    authorities: &'a JwtAuthorities,
) -> Option<Vec<&'a JwtAuthority>> {
    let fits = |authority: &&JwtAuthority| {
        authority.kind() == token.algorithm.key_kind()
            && authority
                .algorithm()
                .is_none_or(|only| only == token.algorithm.name())
    };
    let named = match &token.key_id {
        Some(key_id) => Some(authorities.find(key_id)?),
        None => None,
    };
    Some(match named {
        Some(authority) => Some(authority).filter(fits).into_iter().collect(),
        None => authorities
            .iter()
            .filter(fits)
            .take(MAX_JWT_KEYS_TRIED)
            .collect(),
    })
}

/// A leeway above the largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a leeway of {} s is more than the largest, {} s", .leeway.as_secs_f64(), MAX_JWT_LEEWAY.as_secs())]
#[non_exhaustive]
pub struct LeewayError {
    /// The leeway that was asked for.
    pub leeway: Duration,
}

impl LeewayError {
    /// The rule that was broken.
    pub const fn rule(&self) -> Rule {
        Rule::JwtLeeway
    }
}
