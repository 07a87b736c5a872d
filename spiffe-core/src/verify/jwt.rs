//! Verification of JWT-SVIDs: JWT-SVID §2–§4, §6.2.
//!
//! The rules are tried in this order: size, algorithm, header, claims and their types; then the bundle of the subject's
//! trust domain, the key, the signature; and only of a token that is genuine, audience and time. The
//! first rule broken is the error.

use std::time::Duration;

use rustls_pki_types::SignatureVerificationAlgorithm;

use crate::bundle::{BundleSet, JwtAuthorities, JwtAuthority};
use crate::crypto::CryptoProvider;
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
    algorithms: [Option<&'static dyn SignatureVerificationAlgorithm>; JwsAlgorithm::ALL.len()],
    leeway: Duration,
    require_path: bool,
    shape: Shape,
}

impl JwtVerifier {
    /// A verifier with the default limits.
    pub fn new(crypto: &dyn CryptoProvider) -> Self {
        let all = crypto.signature_algorithms();
        Self {
            algorithms: JwsAlgorithm::ALL.map(|algorithm| {
                all.iter().copied().find(|check| {
                    check.public_key_alg_id() == algorithm.key_kind().identifier()
                        && check.signature_alg_id() == algorithm.identifier()
                })
            }),
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
        if audience.is_empty() {
            return Err(JwtError::NoExpectedAudience);
        }
        let parsed = Token::parse(token, self.shape)?;
        self.check_signature(&parsed, bundles)?;
        self.check_claims(&parsed.claims, audience, now)?;
        Ok(JwtSvid::assemble(token, parsed.claims))
    }

    fn check_signature(&self, token: &Token<'_>, bundles: &BundleSet) -> Result<(), JwtError> {
        let id = &token.claims.id;
        let trust_domain = || id.trust_domain().to_owned();
        if self.require_path && id.path().is_empty() {
            return Err(JwtError::SubjectPathMissing);
        }
        let Some(bundle) = bundles.get(id.trust_domain()) else {
            return Err(JwtError::TrustDomainUnknown {
                trust_domain: trust_domain(),
            });
        };
        let authorities = bundle.jwt_authorities();
        if authorities.is_empty() {
            return Err(JwtError::NoAuthorities {
                trust_domain: trust_domain(),
            });
        }
        let algorithm = token.algorithm;
        let check =
            self.algorithms[algorithm as usize].ok_or_else(|| JwtError::AlgorithmUnsupported {
                algorithm: algorithm.name(),
            })?;
        let keys = candidates(token, authorities).ok_or_else(|| JwtError::KeyUnknown {
            key_id: shortened(token.key_id.as_deref().unwrap_or_default()),
            trust_domain: trust_domain(),
        })?;
        if keys.is_empty() {
            return Err(JwtError::KeyAlgorithm {
                algorithm: algorithm.name(),
                trust_domain: trust_domain(),
            });
        }
        let message = token.message.as_bytes();
        let good = match algorithm.ecdsa_length() {
            // RFC 7518 §3.4: both integers at full width, so any other length is no signature.
            Some(length) if length != token.signature.len() => false,
            Some(_) => {
                let signature = ecdsa_to_der(&token.signature);
                is_signed(check, &keys, message, &signature)
            }
            None => is_signed(check, &keys, message, &token.signature),
        };
        if good {
            Ok(())
        } else {
            Err(JwtError::Signature {
                trust_domain: trust_domain(),
            })
        }
    }

    fn check_claims(
        &self,
        claims: &Claims,
        audience: &str,
        now: Timestamp,
    ) -> Result<(), JwtError> {
        if !claims.audience.iter().any(|known| known == audience) {
            return Err(JwtError::Audience {
                expected: audience.to_owned(),
                found: claims.audience.clone(),
            });
        }
        // RFC 7519 §4.1.4: at exp itself the token is no longer good.
        if now >= claims.expires_at + self.leeway {
            return Err(JwtError::Expired {
                expired_at: claims.expires_at,
                now,
            });
        }
        match claims.not_before {
            Some(not_before) if now + self.leeway < not_before => {
                Err(JwtError::NotYetValid { not_before, now })
            }
            _ => Ok(()),
        }
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

fn is_signed(
    check: &dyn SignatureVerificationAlgorithm,
    keys: &[&JwtAuthority],
    message: &[u8],
    signature: &[u8],
) -> bool {
    keys.iter().any(|key| {
        check
            .verify_signature(key.key_bits(), message, signature)
            .is_ok()
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
