//! Verification of a peer's chain: from certificates to a proven SPIFFE ID.
//!
//! Answers to X509-SVID §5 and RFC 5280 §6. The peer's own trust domain picks the bundle. The leaf is scanned strictly,
//! its issuers are admitted from the authorities down, and the last link, the leaf under an admitted issuer, is
//! webpki's to parse and to check. What webpki leaves out (key usage, validity and path length of authorities, URI name
//! constraints) and what it does not bound tightly enough (the search for a path) is judged before.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter};

use super::algorithms::Algorithms;
use super::cache::{Admitted, IssuerCache};
use super::issuers::{Search, Standing};
use super::leaf::{Leaf, LeafError};
use super::revocation::Revocations;
use super::{Holder, X509Error};
use crate::bundle::{BundleSet, X509Authorities, X509Authority};
use crate::crypto::CryptoProvider;
use crate::explain::{Collected, Explanation, NoTrace, Trace};
use crate::x509::cert::{Cert, CertificateError};
use crate::x509::names::MAX_NAME_COMPARISONS;
use crate::x509::profile::Roles;
use crate::{Rule, SpiffeId, Timestamp};

/// The most certificates of a chain that are looked at, leaf included; the rest is as if it were not there.
pub const MAX_CERTIFICATES: usize = 16;

/// The most intermediates of a path, as in the field.
pub const MAX_INTERMEDIATES: usize = 6;

/// The most bytes of a certificate that is looked at: room for 500 names besides the SPIFFE ID. Each check hashes them.
pub const MAX_CERTIFICATE_BYTES: usize = 16 * 1024;

/// The most signature checks for one chain, a warm issuer's aside. An honest chain takes one for each certificate; this
/// leaves room for three authorities of one name without key identifiers, and keeps the worst chain at 3 ms for P-256,
/// 18 ms for P-521 and 29 ms for RSA of 8192 bits with the largest exponent that is taken, the slowest.
pub const MAX_SIGNATURE_CHECKS: usize = 48;

/// In which role the peer presents its leaf; an extended key usage must allow it (RFC 5280 §4.2.1.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PeerRole {
    /// The peer is a TLS client.
    Client,
    /// The peer is a TLS server.
    Server,
    /// Not known: either usage will do.
    Unspecified,
}

impl PeerRole {
    pub(super) const fn is_allowed_by(self, roles: Roles) -> bool {
        match self {
            Self::Client => roles.client,
            Self::Server => roles.server,
            Self::Unspecified => roles.client || roles.server,
        }
    }
}

/// Bounds on the work that one chain may cause; each can only be lowered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct X509Limits {
    pub(super) certificates: usize,
    pub(super) certificate_bytes: usize,
    pub(super) intermediates: usize,
    pub(super) signature_checks: usize,
}

impl X509Limits {
    /// Looks at no more than this many certificates, leaf included; at most [`MAX_CERTIFICATES`].
    #[must_use]
    pub fn max_certificates(mut self, certificates: usize) -> Self {
        self.certificates = certificates.min(MAX_CERTIFICATES);
        self
    }

    /// Looks at no certificate of more than this many bytes; at most [`MAX_CERTIFICATE_BYTES`].
    #[must_use]
    pub fn max_certificate_bytes(mut self, bytes: usize) -> Self {
        self.certificate_bytes = bytes.min(MAX_CERTIFICATE_BYTES);
        self
    }

    /// Accepts no more than this many intermediates; at most [`MAX_INTERMEDIATES`].
    #[must_use]
    pub fn max_intermediates(mut self, intermediates: usize) -> Self {
        self.intermediates = intermediates.min(MAX_INTERMEDIATES);
        self
    }

    /// Checks no more than this many signatures; at most [`MAX_SIGNATURE_CHECKS`].
    #[must_use]
    pub fn max_signature_checks(mut self, checks: usize) -> Self {
        self.signature_checks = checks.min(MAX_SIGNATURE_CHECKS);
        self
    }
}

impl Default for X509Limits {
    fn default() -> Self {
        Self {
            certificates: MAX_CERTIFICATES,
            certificate_bytes: MAX_CERTIFICATE_BYTES,
            intermediates: MAX_INTERMEDIATES,
            signature_checks: MAX_SIGNATURE_CHECKS,
        }
    }
}

/// Verifies chains of X509-SVIDs; cheap to clone, and clones share one [`IssuerCache`].
#[derive(Clone)]
pub struct X509Verifier {
    pub(super) algorithms: Algorithms,
    pub(super) limits: X509Limits,
    pub(super) revocations: Arc<Revocations>,
    pub(super) refuses_tainted: bool,
    pub(super) key_usage_required: bool,
    cache: Arc<IssuerCache>,
}

/// What verification has proven about a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifiedX509 {
    /// The peer's SPIFFE ID.
    pub id: SpiffeId,
    /// The first instant at which the whole path is valid.
    pub not_before: Timestamp,
    /// The last instant at which the whole path is valid, anchor included.
    pub not_after: Timestamp,
    /// The leaf's serial number, big-endian, as encoded.
    pub serial: Vec<u8>,
    /// How many certificates the path has without its anchor.
    pub chain_length: usize,
    /// The certificates above the leaf: its issuer first, the authority of the bundle last. They are shared, not
    /// copied, so whoever keeps the connection can tell later whether what it rests on still stands.
    pub issuers: Vec<Arc<CertificateDer<'static>>>,
}

impl VerifiedX509 {
    /// The authority that the path ends at.
    pub fn authority(&self) -> Option<&CertificateDer<'static>> {
        self.issuers.last().map(AsRef::as_ref)
    }
}

/// A leaf that kept its own rules, on its way to an issuer.
struct Subject<'c, 'a> {
    der: &'c CertificateDer<'a>,
    cert: Cert<'c>,
    leaf: Leaf,
}

impl fmt::Debug for X509Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Verifier")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl X509Verifier {
    /// A verifier with the provider's signature algorithms and the default limits.
    pub fn new(crypto: &dyn CryptoProvider) -> Self {
        Self::over(Algorithms::of_provider(crypto))
    }

    /// A verifier with these signature algorithms, such as those of a rustls provider, and the default limits.
    ///
    /// What is offered beyond P-256, P-384, P-521, Ed25519 and RSA with SHA-2 is not used.
    pub fn with_algorithms(
        algorithms: &'static [&'static dyn SignatureVerificationAlgorithm],
    ) -> Self {
        Self::over(Algorithms::new(algorithms))
    }

    fn over(algorithms: Algorithms) -> Self {
        Self {
            algorithms,
            limits: X509Limits::default(),
            revocations: Arc::default(),
            refuses_tainted: false,
            key_usage_required: false,
            cache: Arc::default(),
        }
    }

    /// The same verifier with other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: X509Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The same verifier with a cache of its own or one that others share; [`IssuerCache::with_capacity`] of zero
    /// turns remembering off.
    #[must_use]
    pub fn with_issuer_cache(mut self, cache: Arc<IssuerCache>) -> Self {
        self.cache = cache;
        self
    }

    /// The same verifier with lists of revoked certificates. Without any, which is the default, nothing is revoked;
    /// with some, no issuer is taken from the cache.
    #[must_use]
    pub fn with_revocations(mut self, revocations: Arc<Revocations>) -> Self {
        self.revocations = revocations;
        self
    }

    /// The same verifier, with or without taking tainted authorities for gone. They are taken for good unless this is
    /// set: a taint asks for new SVIDs, and refusing the old ones before their holders have new ones cuts everybody off.
    /// Set it when a tainted authority's key is known to be in the wrong hands.
    #[must_use]
    pub fn refusing_tainted(mut self, refuses: bool) -> Self {
        self.refuses_tainted = refuses;
        self
    }

    /// The same verifier, which refuses every leaf and intermediate whose key usage is absent or not critical.
    ///
    /// X509-SVID §4.3 asks both of issuers; §5.2 has validators judge what is set, and so does a verifier without this.
    /// Of an authority, name and key count, as ever (RFC 5280 §6.1.1 (d)).
    #[must_use]
    pub fn with_key_usage_required(mut self) -> Self {
        self.key_usage_required = true;
        self
    }

    /// Verifies `chain`, leaf first and intermediates in any order, against the bundle of the leaf's trust domain.
    ///
    /// # Errors
    ///
    /// The first rule that is broken; nothing about the peer may be believed then.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        bundles: &BundleSet,
        now: Timestamp,
        role: PeerRole,
    ) -> Result<VerifiedX509, X509Error> {
        self.run(chain, bundles, now, role, Some(&self.cache), &mut NoTrace)
    }

    /// The same verdict with every rule that was tried; nothing is taken from the cache for it.
    pub fn explain(
        &self,
        chain: &[CertificateDer<'_>],
        bundles: &BundleSet,
        now: Timestamp,
        role: PeerRole,
    ) -> (Result<VerifiedX509, X509Error>, Explanation) {
        let mut trace = Collected::default();
        let verdict = self.run(chain, bundles, now, role, None, &mut trace);
        let facts = match &verdict {
            Ok(peer) => peer.id.to_string(),
            Err(error) => error.to_string(),
        };
        (verdict, trace.into_tree(Rule::VerifyX509, facts))
    }

    /// Both of the above: every rule is reported, and the first that fails is the error.
    fn run(
        &self,
        chain: &[CertificateDer<'_>],
        bundles: &BundleSet,
        now: Timestamp,
        role: PeerRole,
        cache: Option<&IssuerCache>,
        trace: &mut impl Trace,
    ) -> Result<VerifiedX509, X509Error> {
        self.steps(chain, bundles, now, role, cache, trace)
            .inspect_err(|error| {
                trace.fail(
                    error.rule(),
                    || error.to_string(),
                    || error.nearest(bundles, now),
                );
            })
    }

    fn steps(
        &self,
        chain: &[CertificateDer<'_>],
        bundles: &BundleSet,
        now: Timestamp,
        role: PeerRole,
        cache: Option<&IssuerCache>,
        trace: &mut impl Trace,
    ) -> Result<VerifiedX509, X509Error> {
        let sent = chain.len();
        let chain = &chain[..sent.min(self.limits.certificates)];
        let (first, others) = chain.split_first().ok_or(X509Error::Empty)?;
        trace.pass(Rule::ChainEmpty, || {
            format!("{sent} certificates, {} looked at", chain.len())
        });
        let subject = self.judge_leaf(first, now, role, trace)?;
        let trust_domain = subject.leaf.id.trust_domain();
        let bundle = bundles
            .get(trust_domain)
            .ok_or_else(|| X509Error::TrustDomainUnknown {
                trust_domain: trust_domain.to_owned(),
            })?;
        trace.pass(Rule::TrustDomainUnknown, || trust_domain.to_string());
        let authorities = bundle.x509_authorities();
        if authorities.is_empty() {
            return Err(X509Error::NoAuthorities {
                trust_domain: trust_domain.to_owned(),
            });
        }
        trace.pass(Rule::NoX509Authorities, || format!("{}", authorities.len()));
        let warm = cache.and_then(|cache| {
            self.under_warm_issuer(&subject, others, authorities, now, role, cache)
        });
        let standing = match warm {
            Some(issuer) => issuer.standing.clone(),
            None => {
                self.under_authorities(&subject, others, authorities, now, role, cache, trace)?
            }
        };
        let is_constrained = standing.is_constrained();
        let peer = subject.verified_under(standing);
        report(&peer, is_constrained, &self.revocations, trace);
        Ok(peer)
    }

    /// The rules that need no bundle.
    fn judge_leaf<'c, 'a>(
        &self,
        der: &'c CertificateDer<'a>,
        now: Timestamp,
        role: PeerRole,
        trace: &mut impl Trace,
    ) -> Result<Subject<'c, 'a>, X509Error> {
        let limit = self.limits.certificate_bytes;
        if der.len() > limit {
            let bytes = der.len();
            return Err(X509Error::TooLarge { bytes, limit });
        }
        let cert = Cert::parse(der)?;
        trace.pass(Rule::CertMalformed, String::new);
        let judged = Leaf::judge(&cert);
        let broken = judged.as_ref().err().map(LeafError::rule);
        for rule in LEAF_RULES {
            if broken == Some(*rule) {
                break;
            }
            trace.pass(*rule, || match (rule, &judged) {
                (Rule::LeafUriScheme, Ok(leaf)) => leaf.id.to_string(),
                _ => String::new(),
            });
        }
        let leaf = judged?;
        if self.key_usage_required {
            if !cert.has_critical_key_usage() {
                let holder = Holder::Leaf;
                return Err(X509Error::KeyUsageMissing { holder });
            }
            trace.pass(Rule::KeyUsageMissing, String::new);
        }
        if !role.is_allowed_by(cert.roles()) {
            return Err(X509Error::ExtendedKeyUsage);
        }
        trace.pass(Rule::LeafExtendedKeyUsage, String::new);
        within(now, cert.not_before, cert.not_after, Holder::Leaf)?;
        trace.pass(Rule::PathExpired, || {
            format!(
                "the leaf is valid from {} to {}; it is {now}",
                cert.not_before, cert.not_after
            )
        });
        Ok(Subject { der, cert, leaf })
    }

    /// Finds an issuer from the authorities down: what it hands down to the leaf.
    #[expect(
        clippy::too_many_arguments,
        reason = "what verification is a function of, and its trace"
    )]
    fn under_authorities(
        &self,
        subject: &Subject<'_, '_>,
        others: &[CertificateDer<'_>],
        authorities: &Arc<X509Authorities>,
        now: Timestamp,
        role: PeerRole,
        cache: Option<&IssuerCache>,
        trace: &mut impl Trace,
    ) -> Result<Standing, X509Error> {
        let mut search = Search::new(self, &subject.cert, others, authorities, now, trace);
        loop {
            let position = search.next(trace)?;
            search.charge()?;
            let issuer = search.issuer(position);
            let judged = self.last_link(subject, issuer.subject, issuer.spki, now);
            let judged =
                judged.and_then(|()| search.judge_leaf(position, subject.cert.roles(), role));
            let issuer = search.issuer(position);
            match judged {
                Ok(()) => {
                    if let (Some(cache), true) = (cache, self.revocations.is_empty()) {
                        cache.keep(authorities, issuer);
                    }
                    return Ok(search.into_standing(position));
                }
                Err(error) => {
                    trace.skip(error.rule(), || {
                        let above = issuer.standing.intermediates();
                        format!("the leaf under an issuer {above} from its authority: {error}")
                    });
                    search.note(error);
                }
            }
        }
    }

    /// The leaf under an issuer that was admitted before under the same authorities. `None` means only that the long way
    /// must be gone: the verdict is then that of a verifier without memory.
    fn under_warm_issuer(
        &self,
        subject: &Subject<'_, '_>,
        others: &[CertificateDer<'_>],
        authorities: &Arc<X509Authorities>,
        now: Timestamp,
        role: PeerRole,
        cache: &IssuerCache,
    ) -> Option<Arc<Admitted>> {
        if others.is_empty() || !self.revocations.is_empty() {
            return None;
        }
        // Which authority a warm issuer rests on is not looked at here.
        if self.refuses_tainted && authorities.iter().any(X509Authority::is_tainted) {
            return None;
        }
        let sent = others
            .iter()
            .map(AsRef::as_ref)
            .filter(|der: &&[u8]| der.len() <= self.limits.certificate_bytes);
        let warm = cache.find(authorities, sent, |warm| {
            let standing = &warm.standing;
            warm.may_have_issued(&subject.cert)
                && standing.intermediates() <= self.limits.intermediates
                && (standing.has_key_usages || !self.key_usage_required)
                && (standing.not_before..=standing.not_after).contains(&now)
                && standing.allows(subject.cert.roles(), role).is_ok()
        })?;
        let mut comparisons = MAX_NAME_COMPARISONS;
        self.last_link(subject, &warm.subject, &warm.spki, now)
            .and_then(|()| warm.standing.permits(&subject.cert, &mut comparisons))
            .ok()?;
        Some(warm)
    }

    /// Has the leaf's signature checked, and the leaf parsed once more by other code. One signature check.
    fn last_link(
        &self,
        subject: &Subject<'_, '_>,
        issuer: &[u8],
        spki: &[u8],
        now: Timestamp,
    ) -> Result<(), X509Error> {
        let end_entity = EndEntityCert::try_from(subject.der).map_err(from_webpki)?;
        let anchor = TrustAnchor {
            subject: issuer.into(),
            subject_public_key_info: spki.into(),
            name_constraints: None,
        };
        let seconds = Duration::from_secs(now.unix_seconds().unsigned_abs());
        end_entity
            .verify_for_usage(
                self.algorithms.as_slice(),
                &[anchor],
                &[],
                UnixTime::since_unix_epoch(seconds),
                UsageJudged,
                None,
                None,
            )
            .map(|_| ())
            .map_err(from_webpki)
    }
}

impl Subject<'_, '_> {
    fn verified_under(self, standing: Standing) -> VerifiedX509 {
        VerifiedX509 {
            id: self.leaf.id,
            not_before: standing.not_before.max(self.cert.not_before),
            not_after: standing.not_after.min(self.cert.not_after),
            serial: self.cert.serial.to_vec(),
            chain_length: standing.certificates.len(),
            issuers: standing.certificates,
        }
    }
}

/// The leaf rules in the order in which they are judged.
const LEAF_RULES: &[Rule] = &[
    Rule::LeafUriCount,
    Rule::LeafUriScheme,
    Rule::LeafPathMissing,
    Rule::LeafIsCa,
    Rule::LeafKeyCertSign,
    Rule::LeafCrlSign,
    Rule::LeafDigitalSignature,
    Rule::CertUnknownCriticalExtension,
    Rule::CertAlgorithm,
];

/// Reports the rules of a path that was found, all of which hold.
fn report(
    peer: &VerifiedX509,
    is_constrained: bool,
    revocations: &Revocations,
    trace: &mut impl Trace,
) {
    trace.pass(Rule::PathLength, || {
        format!("{} intermediate certificates", peer.chain_length - 1)
    });
    if is_constrained {
        trace.pass(Rule::PathNameConstraints, String::new);
    }
    trace.pass(Rule::PathExtendedKeyUsage, String::new);
    if !revocations.is_empty() {
        trace.pass(Rule::PathRevoked, || {
            format!("{} lists of revoked certificates", revocations.len())
        });
    }
    trace.pass(Rule::PathUntrusted, || {
        format!(
            "a path of {} certificates leads to an authority; all of it is valid from {} to {}",
            peer.chain_length, peer.not_before, peer.not_after
        )
    });
}

/// RFC 5280 §4.1.2.5: both ends belong to the window, and any fraction beyond the last second is too late.
pub(super) fn within(
    now: Timestamp,
    not_before: Timestamp,
    not_after: Timestamp,
    holder: Holder,
) -> Result<(), X509Error> {
    if now < not_before {
        return Err(X509Error::NotYetValid {
            holder,
            not_before,
            now,
        });
    }
    if now > not_after {
        return Err(X509Error::Expired {
            holder,
            not_after,
            now,
        });
    }
    Ok(())
}

/// The scan has judged extended key usages; webpki reads them and has no say.
struct UsageJudged;

impl ExtendedKeyUsageValidator for UsageJudged {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        for purpose in purposes {
            purpose?;
        }
        Ok(())
    }
}

/// What webpki found of a leaf, in the terms of this library.
fn from_webpki(error: webpki::Error) -> X509Error {
    use webpki::Error as E;

    match error {
        E::InvalidSignatureForPublicKey => X509Error::BadSignature,
        E::UnsupportedSignatureAlgorithmContext(_)
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => X509Error::Algorithm {
            detail: "a signature's algorithm is not accepted, or does not fit its issuer's key"
                .into(),
        },
        // The scan has judged everything else that webpki judges; what is left is a form that the scan lets in.
        _ => X509Error::Certificate(CertificateError::Malformed {
            part: "a part that path validation reads",
        }),
    }
}
