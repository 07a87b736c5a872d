//! Issuing JWT-SVIDs under one authority: JWT-SVID §2–§4, in JWS compact serialisation.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding};
use spiffe_core::bundle::JwtAuthority;
use spiffe_core::key::Signer;
use spiffe_core::{SpiffeId, Timestamp, TrustDomain};

use crate::error::{IssueError, IssuerError};
use crate::issuer::{IssuerSettings, Validity, check_id, hex};
use crate::params::{JwtSvidParams, MAX_AUDIENCE_BYTES, MAX_CLAIMS_BYTES};

/// A JWT-SVID.
#[derive(Clone)]
#[non_exhaustive]
pub struct IssuedJwt {
    /// The SPIFFE ID it proves.
    pub id: SpiffeId,
    /// The token, which whoever holds it can use.
    pub token: String,
    /// When it was issued, in whole seconds.
    pub issued_at: Timestamp,
    /// When it expires, in whole seconds.
    pub expires_at: Timestamp,
    /// The authority that signed it: the token's `kid`.
    pub authority: String,
    /// Whether the lifetime asked for was cut to the authority's.
    pub capped: bool,
    /// The operator's hint.
    pub hint: Option<String>,
}

impl fmt::Debug for IssuedJwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedJwt")
            .field("id", &self.id)
            .field("token", &"[bearer token elided]")
            .field("expires_at", &self.expires_at)
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}

/// One JWT authority with its key: what signs tokens.
pub struct JwtIssuer {
    trust_domain: TrustDomain,
    authority: JwtAuthority,
    signer: Arc<dyn Signer>,
    algorithm: &'static str,
    not_before: Timestamp,
    not_after: Timestamp,
    settings: Arc<IssuerSettings>,
}

impl JwtIssuer {
    /// An issuer from a key, its ID and the time in which it may sign.
    ///
    /// # Errors
    ///
    /// [`IssuerError::JwtAlgorithm`], and [`IssuerError::NotAuthority`] for an empty key ID.
    pub fn new(
        trust_domain: TrustDomain,
        key_id: &str,
        signer: Arc<dyn Signer>,
        not_before: Timestamp,
        not_after: Timestamp,
        settings: Arc<IssuerSettings>,
    ) -> Result<Self, IssuerError> {
        let algorithm = signer
            .algorithm()
            .jws_name()
            .ok_or(IssuerError::JwtAlgorithm)?;
        let authority =
            JwtAuthority::new(key_id, signer.public_key().clone()).ok_or_else(|| {
                IssuerError::NotAuthority {
                    reason: "its key ID is empty".into(),
                }
            })?;
        Ok(Self {
            trust_domain,
            authority,
            signer,
            algorithm,
            not_before,
            not_after,
            settings,
        })
    }

    /// The key ID, which tokens name as `kid`.
    pub fn id(&self) -> &str {
        self.authority.key_id()
    }

    /// The public half, as bundles hold it.
    pub fn authority(&self) -> &JwtAuthority {
        &self.authority
    }

    /// Issues a JWT-SVID.
    ///
    /// # Errors
    ///
    /// [`IssueError`].
    ///
    /// # Cancel safety
    ///
    /// A dropped future has issued nothing.
    pub async fn issue(
        &self,
        params: &JwtSvidParams,
        now: Timestamp,
    ) -> Result<IssuedJwt, IssueError> {
        self.issue_for(params, self.validity(params, now)?).await
    }

    /// From when to when a token of these parameters would be valid.
    pub(crate) fn validity(
        &self,
        params: &JwtSvidParams,
        now: Timestamp,
    ) -> Result<Validity, IssueError> {
        Validity::new(
            params.ttl.unwrap_or(self.settings.jwt_svid_ttl),
            // `iat` says when, so it is not backdated.
            Duration::ZERO,
            self.not_before,
            self.not_after,
            now,
        )
    }

    pub(crate) async fn issue_for(
        &self,
        params: &JwtSvidParams,
        validity: Validity,
    ) -> Result<IssuedJwt, IssueError> {
        // Verifiers may accept a trust domain's own ID as a subject, issuers do not write it.
        check_id(&params.id, &self.trust_domain)?;
        check_audiences(&params.audiences)?;
        self.check_claims(params)?;
        let token_id = if params.token_id {
            let mut bytes = [0; 16];
            self.settings.random.fill(&mut bytes)?;
            Some(hex(&bytes))
        } else {
            None
        };
        // JWT-SVID §2: nothing else stands in the header.
        let header = serde_json::json!({
            "alg": self.algorithm,
            "kid": self.id(),
            "typ": "JWT",
        });
        let mut claims = serde_json::json!({
            "sub": params.id.as_str(),
            "aud": params.audiences,
            "exp": validity.not_after.unix_seconds(),
            "iat": validity.not_before.unix_seconds(),
        });
        if let Some(token_id) = token_id {
            claims["jti"] = token_id.into();
        }
        for (name, value) in &params.claims {
            claims[name] = value.clone();
        }
        let mut token = Base64UrlUnpadded::encode_string(header.to_string().as_bytes());
        token.push('.');
        token += &Base64UrlUnpadded::encode_string(claims.to_string().as_bytes());
        // RFC 7518 §3.4: ECDSA signatures are raw in a JWS, as signers make them.
        let signature = self.signer.sign(token.as_bytes()).await?;
        token.push('.');
        token += &Base64UrlUnpadded::encode_string(&signature);
        Ok(IssuedJwt {
            id: params.id.clone(),
            token,
            issued_at: validity.not_before,
            expires_at: validity.not_after,
            authority: self.id().into(),
            capped: validity.capped,
            hint: params.hint.clone(),
        })
    }
}

impl JwtIssuer {
    fn check_claims(&self, params: &JwtSvidParams) -> Result<(), IssueError> {
        let allowed = |name: &String| self.settings.jwt_claims.contains(name) && !is_own(name);
        if let Some(name) = params.claims.keys().find(|name| !allowed(name)) {
            return Err(IssueError::ClaimNotAllowed {
                name: name.chars().take(64).collect(),
            });
        }
        // Strings, numbers and lists have a JSON form whatever they hold.
        let text = serde_json::to_string(&params.claims).unwrap_or_default();
        if text.len() > MAX_CLAIMS_BYTES {
            return Err(IssueError::ClaimsTooLong);
        }
        Ok(())
    }
}

impl fmt::Debug for JwtIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtIssuer")
            .field("trust_domain", &self.trust_domain)
            .field("id", &self.id())
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// Whether the issuer writes this claim itself, or verifiers judge by it: RFC 7519 §4.1.
pub(crate) fn is_own(claim: &str) -> bool {
    matches!(claim, "sub" | "aud" | "exp" | "iat" | "nbf" | "jti")
}

fn check_audiences(audiences: &[String]) -> Result<(), IssueError> {
    if audiences.is_empty() {
        return Err(IssueError::AudienceMissing);
    }
    if audiences.iter().any(String::is_empty) {
        return Err(IssueError::AudienceEmpty);
    }
    if audiences.iter().map(String::len).sum::<usize>() > MAX_AUDIENCE_BYTES {
        return Err(IssueError::AudienceTooLong);
    }
    Ok(())
}
