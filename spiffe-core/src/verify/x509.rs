//! Verification of a peer's chain: from certificates to a proven SPIFFE ID.
//!
//! Answers to X509-SVID §5 and RFC 5280 §6. The peer's own trust domain picks the bundle. The strict scan of leaf and
//! intermediates is ours; building the path and checking signatures is webpki's, which is given only candidates that
//! passed the scan, so that what it leaves out (validity and path length of anchors, key usage) is judged before or
//! behind it.

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, VerifiedPath};

use super::leaf::{Leaf, LeafError};
use crate::bundle::{BundleSet, X509Authorities, X509Authority};
use crate::crypto::CryptoProvider;
use crate::explain::{Collected, Explanation, NoTrace, Trace};
use crate::x509::cert::{Cert, CertificateError};
use crate::{Rule, SpiffeId, Timestamp, TrustDomain};

/// The most certificates of a chain that are looked at, leaf included; the rest is as if it were not there.
pub const MAX_CERTIFICATES: usize = 16;

/// The most intermediates of a path: what path building carries.
pub const MAX_INTERMEDIATES: usize = 6;

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

/// Bounds on the work that one chain may cause; each can only be lowered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct X509Limits {
    certificates: usize,
    intermediates: usize,
}

impl X509Limits {
    /// Looks at no more than this many certificates, leaf included; at most [`MAX_CERTIFICATES`].
    #[must_use]
    pub fn max_certificates(mut self, certificates: usize) -> Self {
        self.certificates = certificates.min(MAX_CERTIFICATES);
        self
    }

    /// Accepts no more than this many intermediates; at most [`MAX_INTERMEDIATES`].
    #[must_use]
    pub fn max_intermediates(mut self, intermediates: usize) -> Self {
        self.intermediates = intermediates.min(MAX_INTERMEDIATES);
        self
    }
}

impl Default for X509Limits {
    fn default() -> Self {
        Self {
            certificates: MAX_CERTIFICATES,
            intermediates: MAX_INTERMEDIATES,
        }
    }
}

/// The signature algorithms of a cryptography library, as path building takes them.
type Algorithms = &'static [&'static dyn SignatureVerificationAlgorithm];

/// Verifies chains of X509-SVIDs; cheap to clone.
#[derive(Clone, Copy, Debug)]
pub struct X509Verifier {
    algorithms: Algorithms,
    limits: X509Limits,
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
}

impl X509Verifier {
    /// A verifier with the provider's signature algorithms and the default limits.
    pub fn new(crypto: &dyn CryptoProvider) -> Self {
        Self::with_algorithms(crypto.signature_algorithms())
    }

    /// A verifier with these signature algorithms, such as those of a rustls provider, and the default limits.
    pub fn with_algorithms(
        algorithms: &'static [&'static dyn SignatureVerificationAlgorithm],
    ) -> Self {
        Self {
            algorithms,
            limits: X509Limits::default(),
        }
    }

    /// The same verifier with other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: X509Limits) -> Self {
        self.limits = limits;
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
        self.run(chain, bundles, now, role, &mut NoTrace)
    }

    /// The same verdict with every rule that was tried.
    pub fn explain(
        &self,
        chain: &[CertificateDer<'_>],
        bundles: &BundleSet,
        now: Timestamp,
        role: PeerRole,
    ) -> (Result<VerifiedX509, X509Error>, Explanation) {
        let mut trace = Collected::default();
        let verdict = self.run(chain, bundles, now, role, &mut trace);
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
        trace: &mut impl Trace,
    ) -> Result<VerifiedX509, X509Error> {
        self.steps(chain, bundles, now, role, trace)
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
        trace: &mut impl Trace,
    ) -> Result<VerifiedX509, X509Error> {
        let chain = &chain[..chain.len().min(self.limits.certificates)];
        let (first, others) = chain.split_first().ok_or(X509Error::Empty)?;
        trace.pass(Rule::ChainEmpty, || format!("{} certificates", chain.len()));
        let cert = Cert::parse(first)?;
        trace.pass(Rule::CertMalformed, String::new);
        let leaf = Leaf::judge(&cert)?;
        for rule in LEAF_RULES {
            trace.pass(*rule, || match rule {
                Rule::LeafUriScheme => leaf.id.to_string(),
                _ => String::new(),
            });
        }
        within(now, cert.not_before, cert.not_after, Holder::Leaf)?;
        trace.pass(Rule::PathExpired, || {
            format!(
                "the leaf is valid from {} to {}",
                cert.not_before, cert.not_after
            )
        });
        let trust_domain = leaf.id.trust_domain();
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
        let candidates = Candidates::gather(&cert, others, authorities, now);
        let peer = self.path(first, &cert, leaf, &candidates, now, role)?;
        trace.pass(Rule::PathUntrusted, || {
            format!(
                "a path of {} certificates leads to an authority",
                peer.chain_length
            )
        });
        Ok(peer)
    }

    /// Has the path built and its signatures checked.
    fn path(
        &self,
        first: &CertificateDer<'_>,
        cert: &Cert<'_>,
        leaf: Leaf,
        candidates: &Candidates<'_>,
        now: Timestamp,
        role: PeerRole,
    ) -> Result<VerifiedX509, X509Error> {
        let anchors: Vec<TrustAnchor<'_>> = candidates
            .anchors
            .iter()
            .map(|authority| borrow(authority.anchor()))
            .collect();
        let end_entity = EndEntityCert::try_from(first)
            .map_err(|error| X509Error::from_webpki(error, candidates))?;
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(
            now.unix_seconds().unsigned_abs(),
        ));
        let authority_of = |path: &VerifiedPath<'_>| {
            let position = anchors.iter().position(|anchor| {
                anchor.subject_public_key_info == path.anchor().subject_public_key_info
                    && anchor.subject == path.anchor().subject
            });
            position.map(|position| candidates.anchors[position])
        };
        let lengths = |path: &VerifiedPath<'_>| -> Result<(), webpki::Error> {
            let intermediates = path.intermediate_certificates();
            if intermediates.count() > self.limits.intermediates {
                return Err(webpki::Error::MaximumPathDepthExceeded);
            }
            // RFC 5280 §6.1.4: self-issued certificates do not count.
            let counted = path
                .intermediate_certificates()
                .filter(|one| one.issuer() != one.subject())
                .count();
            match authority_of(path).and_then(X509Authority::path_length) {
                Some(length) if counted > length as usize => {
                    Err(webpki::Error::PathLenConstraintViolated)
                }
                _ => Ok(()),
            }
        };
        let path = end_entity
            .verify_for_usage(
                self.algorithms,
                &anchors,
                &candidates.intermediates,
                time,
                Usage(role),
                None,
                Some(&lengths),
            )
            .map_err(|error| X509Error::from_webpki(error, candidates))?;
        let mut peer = VerifiedX509 {
            id: leaf.id,
            not_before: cert.not_before,
            not_after: cert.not_after,
            serial: cert.serial.to_vec(),
            chain_length: 1,
        };
        let mut narrow = |not_before, not_after| {
            peer.not_before = peer.not_before.max(not_before);
            peer.not_after = peer.not_after.min(not_after);
        };
        for intermediate in path.intermediate_certificates() {
            // What the scan accepted parses again; it is the same bytes.
            if let Ok(parsed) = Cert::parse(&intermediate.der()) {
                narrow(parsed.not_before, parsed.not_after);
            }
        }
        if let Some(authority) = authority_of(&path) {
            narrow(authority.not_before(), authority.not_after());
        }
        peer.chain_length += path.intermediate_certificates().count();
        Ok(peer)
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
];

/// The certificates that may stand between the leaf and an authority, and the authorities that may end the path; and
/// why the others may not.
struct Candidates<'a> {
    intermediates: Vec<CertificateDer<'a>>,
    anchors: Vec<&'a X509Authority>,
    /// Issuers by name that were left out, with the reason: what an "unknown issuer" really means.
    left_out: Option<X509Error>,
}

impl<'a> Candidates<'a> {
    fn gather(
        leaf: &Cert<'a>,
        others: &'a [CertificateDer<'_>],
        authorities: &'a X509Authorities,
        now: Timestamp,
    ) -> Self {
        let mut all = Self {
            intermediates: Vec::with_capacity(others.len()),
            anchors: Vec::new(),
            left_out: None,
        };
        let mut links = vec![(leaf.issuer, leaf.authority_key_id)];
        for der in others {
            // X509-SVID §5.1, and certificates that the path does not need do no harm: unreadable ones are passed over.
            let Ok(cert) = Cert::parse(der) else { continue };
            let judged = Self::judge_intermediate(&cert, now);
            match judged {
                Ok(()) => {
                    all.intermediates.push(CertificateDer::from(der.as_ref()));
                    links.push((cert.issuer, cert.authority_key_id));
                }
                Err(error) if cert.subject == leaf.issuer => all.left_out = Some(error),
                Err(_) => {}
            }
        }
        for authority in authorities {
            let subject = authority.anchor().subject.as_ref();
            if !links.iter().any(|(issuer, _)| *issuer == subject) {
                continue;
            }
            // An expired authority verifies nothing, though path building takes an anchor for name and key alone.
            match within(
                now,
                authority.not_before(),
                authority.not_after(),
                Holder::Authority,
            ) {
                Ok(()) => all.anchors.push(authority),
                Err(error) => all.left_out = all.left_out.or(Some(error)),
            }
        }
        // Path building tries anchors of one name in order and has a budget: the one that the key identifier names
        // comes first, however many stale ones share its name.
        all.anchors.sort_by_key(|authority| {
            let named = links
                .iter()
                .any(|(_, key_id)| key_id.is_some() && *key_id == authority.subject_key_id());
            !named
        });
        all
    }

    fn judge_intermediate(cert: &Cert<'_>, now: Timestamp) -> Result<(), X509Error> {
        if !cert.is_signing() {
            return Err(X509Error::IssuerNotSigning);
        }
        within(now, cert.not_before, cert.not_after, Holder::Intermediate)
    }
}

/// Whose validity was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Holder {
    /// An authority of the bundle.
    Authority,
    /// A certificate between leaf and authority.
    Intermediate,
    /// The leaf.
    Leaf,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Authority => "authority",
            Self::Intermediate => "intermediate certificate",
            Self::Leaf => "leaf",
        })
    }
}

/// RFC 5280 §4.1.2.5: both ends belong to the window, and any fraction beyond the last second is too late.
fn within(
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

/// The same anchor without copying its bytes.
fn borrow<'a>(anchor: &'a TrustAnchor<'static>) -> TrustAnchor<'a> {
    TrustAnchor {
        subject: anchor.subject.as_ref().into(),
        subject_public_key_info: anchor.subject_public_key_info.as_ref().into(),
        name_constraints: anchor
            .name_constraints
            .as_ref()
            .map(|constraints| constraints.as_ref().into()),
    }
}

/// X509-SVID §4.4 as DEC-28 reads it: absent is fine, present must allow the role.
struct Usage(PeerRole);

impl ExtendedKeyUsageValidator for Usage {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let mut found = Vec::new();
        for purpose in purposes {
            let purpose = purpose?.to_decoded_oid();
            let allowed = match purpose.as_slice() {
                [2, 5, 29, 37, 0] => true,
                [1, 3, 6, 1, 5, 5, 7, 3, 1] => self.0 != PeerRole::Client,
                [1, 3, 6, 1, 5, 5, 7, 3, 2] => self.0 != PeerRole::Server,
                _ => false,
            };
            if allowed {
                return Ok(());
            }
            found.push(purpose);
        }
        if found.is_empty() {
            return Ok(());
        }
        Err(webpki::Error::RequiredEkuNotFoundContext(
            webpki::RequiredEkuNotFoundContext {
                required: match self.0 {
                    PeerRole::Client => webpki::KeyUsage::client_auth(),
                    _ => webpki::KeyUsage::server_auth(),
                },
                present: found,
            },
        ))
    }
}

/// Why a chain proves no SPIFFE ID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum X509Error {
    /// A key or signature algorithm that is not accepted.
    #[error("a certificate of the path uses an algorithm that is not accepted: {detail}")]
    Algorithm {
        /// What was met.
        detail: String,
    },
    /// A signature of the path is wrong.
    #[error(
        "a signature of the chain is wrong: an issuer of that name exists, but its key did not sign"
    )]
    BadSignature,
    /// The leaf cannot be read.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// No certificate at all.
    #[error("the peer presented no certificate")]
    Empty,
    /// Something has expired.
    #[error("the {holder} expired at {not_after}; it is {now}")]
    Expired {
        /// Whose validity ended.
        holder: Holder,
        /// Its last instant.
        not_after: Timestamp,
        /// The time of the verification.
        now: Timestamp,
    },
    /// An extended key usage does not allow the peer's role.
    #[error("an extended key usage of the path does not allow the peer's role")]
    ExtendedKeyUsage,
    /// The leaf's issuer was sent, but may not sign certificates.
    #[error("the leaf's issuer is no CA that may sign certificates")]
    IssuerNotSigning,
    /// The leaf breaks a rule of the X509-SVID profile.
    #[error(transparent)]
    Leaf(#[from] LeafError),
    /// Name constraints above the leaf exclude it.
    #[error("the name constraints of an issuer exclude the leaf's names")]
    NameConstraints,
    /// The trust domain's bundle has no X.509 authority.
    #[error(
        "the bundle of {trust_domain} holds no X.509 authority, so none of its X509-SVIDs is trusted"
    )]
    NoAuthorities {
        /// The peer's trust domain, as the unverified leaf names it.
        trust_domain: TrustDomain,
    },
    /// Something is not valid yet.
    #[error("the {holder} is valid from {not_before}; it is {now}")]
    NotYetValid {
        /// Whose validity has not begun.
        holder: Holder,
        /// Its first instant.
        not_before: Timestamp,
        /// The time of the verification.
        now: Timestamp,
    },
    /// A path length constraint is exceeded.
    #[error("the chain is longer than a path length constraint of its issuers allows")]
    PathLength,
    /// Path building gave up within its limits.
    #[error("no path was found within the limits: {detail}")]
    TooComplex {
        /// Which limit.
        detail: String,
    },
    /// No bundle for the peer's trust domain.
    #[error(
        "no bundle of the peer's trust domain {trust_domain} is known; federate with it to trust its workloads"
    )]
    TrustDomainUnknown {
        /// The peer's trust domain, as the unverified leaf names it.
        trust_domain: TrustDomain,
    },
    /// No path leads to an authority of the peer's trust domain.
    #[error("no path leads from the leaf to an authority of its trust domain: {detail}")]
    Untrusted {
        /// What is missing.
        detail: String,
    },
}

impl X509Error {
    /// The rule that was broken.
    pub const fn rule(&self) -> Rule {
        match self {
            Self::Algorithm { .. } => Rule::CertAlgorithm,
            Self::BadSignature => Rule::PathBadSignature,
            Self::Certificate(error) => error.rule(),
            Self::Empty => Rule::ChainEmpty,
            Self::Expired { .. } => Rule::PathExpired,
            Self::ExtendedKeyUsage => Rule::LeafExtendedKeyUsage,
            Self::IssuerNotSigning => Rule::PathIssuerNotCa,
            Self::Leaf(error) => error.rule(),
            Self::NameConstraints => Rule::PathNameConstraints,
            Self::NoAuthorities { .. } => Rule::NoX509Authorities,
            Self::NotYetValid { .. } => Rule::PathNotYetValid,
            Self::PathLength => Rule::PathLength,
            Self::TooComplex { .. } => Rule::PathTooComplex,
            Self::TrustDomainUnknown { .. } => Rule::TrustDomainUnknown,
            Self::Untrusted { .. } => Rule::PathUntrusted,
        }
    }

    /// The nearest thing that would have passed, as far as `bundles` and the time tell.
    pub fn nearest(&self, bundles: &BundleSet, now: Timestamp) -> Option<String> {
        match self {
            Self::TrustDomainUnknown { .. } if bundles.is_empty() => {
                Some("nothing: no bundle is known at all".into())
            }
            Self::TrustDomainUnknown { .. } => {
                let known: Vec<_> = bundles
                    .iter()
                    .take(8)
                    .map(|bundle| bundle.trust_domain().as_str())
                    .collect();
                Some(format!("an X509-SVID of {}", known.join(" or ")))
            }
            Self::Expired { not_after, .. } => {
                let late = now.saturating_since(*not_after);
                Some(format!(
                    "the same chain {} s earlier, at {not_after} at the latest; or a renewed X509-SVID",
                    late.as_secs_f64().ceil()
                ))
            }
            Self::NotYetValid { not_before, .. } => Some(format!(
                "the same chain from {not_before} on; check both clocks"
            )),
            Self::Leaf(LeafError::PathMissing { id }) => Some(format!("{id}/<path>")),
            Self::Leaf(LeafError::UriCount { .. }) => {
                Some("a leaf with exactly one URI name".into())
            }
            Self::Untrusted { .. } | Self::BadSignature => Some(
                "a chain signed by one of the authorities in the trust domain's bundle, or a bundle that holds the \
                 authority that signed this one"
                    .into(),
            ),
            _ => None,
        }
    }

    /// What path building found, in the terms of this library.
    fn from_webpki(error: webpki::Error, candidates: &Candidates<'_>) -> Self {
        use webpki::Error as E;

        match error {
            E::UnknownIssuer => candidates
                .left_out
                .clone()
                .unwrap_or_else(|| Self::Untrusted {
                    detail: if candidates.anchors.is_empty() {
                        "none of them issued it or a certificate of its chain".into()
                    } else {
                        "its issuer does not lead to one of them".into()
                    },
                }),
            E::InvalidSignatureForPublicKey => Self::BadSignature,
            E::CaUsedAsEndEntity => Self::Leaf(LeafError::IsCa),
            E::EndEntityUsedAsCa => Self::IssuerNotSigning,
            E::PathLenConstraintViolated => Self::PathLength,
            E::NameConstraintViolation
            | E::MalformedNameConstraint
            | E::UnsupportedNameType
            | E::InvalidNetworkMaskConstraint => Self::NameConstraints,
            E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => Self::ExtendedKeyUsage,
            E::MaximumPathDepthExceeded
            | E::MaximumPathBuildCallsExceeded
            | E::MaximumSignatureChecksExceeded
            | E::MaximumNameConstraintComparisonsExceeded => Self::TooComplex {
                detail: error.to_string(),
            },
            E::UnsupportedSignatureAlgorithmContext(_)
            | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
            | E::SignatureAlgorithmMismatch => Self::Algorithm {
                detail: error.to_string(),
            },
            E::CertExpired { .. } | E::CertNotValidYet { .. } => candidates
                .left_out
                .clone()
                .unwrap_or_else(|| Self::Untrusted {
                    detail: error.to_string(),
                }),
            other => Self::Untrusted {
                detail: other.to_string(),
            },
        }
    }
}
