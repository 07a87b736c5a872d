//! X509-SVIDs: own ones taken apart, peers' chains verified.

use std::sync::Arc;

use serde::Serialize;
use spiffe_core::bundle::{certificates_from_concatenated_der, certificates_from_pem};
use spiffe_core::crypto::CryptoProvider;
use spiffe_core::key::PrivateKey;
use spiffe_core::pki_types::CertificateDer;
use spiffe_core::svid::X509Chain;
use spiffe_core::verify::{PeerRole, X509Error, X509Limits, X509Verifier};
use spiffe_core::{PeerFacts, Policy, Rule, Timestamp, X509Svid};

use super::bundle::Bundles;
use super::{Judged, Node, Refusal};

/// A chain of certificates as it comes.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum ChainDocument<'a> {
    /// PEM.
    Pem(&'a str),
    /// DER, one certificate behind the other.
    Der(&'a [u8]),
}

impl<'a> ChainDocument<'a> {
    /// A file's content, PEM unless it begins as DER does or is no text.
    pub fn sniff(content: &'a [u8]) -> Self {
        match std::str::from_utf8(content) {
            Ok(pem) if content.first() != Some(&0x30) => Self::Pem(pem),
            _ => Self::Der(content),
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::Pem(pem) => pem.len(),
            Self::Der(der) => der.len(),
        }
    }

    fn own(self) -> Result<X509Chain, Refusal> {
        match self {
            Self::Pem(pem) => X509Chain::from_pem(pem),
            Self::Der(der) => X509Chain::from_concatenated_der(der),
        }
        .map_err(|error| Refusal::new(error.rule(), error))
    }

    /// The certificates, not yet judged.
    ///
    /// # Errors
    ///
    /// What the document's form demands.
    pub fn certificates(self) -> Result<Vec<CertificateDer<'static>>, Refusal> {
        match self {
            Self::Pem(pem) => certificates_from_pem(pem),
            Self::Der(der) => certificates_from_concatenated_der(der),
        }
        .map_err(|error| Refusal::new(error.rule(), error))
    }
}

/// An X509-SVID as its holder sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Own {
    /// The SPIFFE ID.
    pub id: String,
    /// The leaf's first instant, RFC 3339.
    pub not_before: String,
    /// The leaf's last instant, RFC 3339.
    pub not_after: String,
    /// How many certificates there are.
    pub chain_length: usize,
}

/// Judges an own chain, and that `key` is its leaf's where there is one.
///
/// # Errors
///
/// The first rule broken.
pub fn parse(
    chain: ChainDocument<'_>,
    key: Option<PrivateKey>,
    crypto: &Arc<dyn CryptoProvider>,
) -> Result<Own, Refusal> {
    let chain = chain.own()?;
    if let Some(key) = key {
        X509Svid::new(chain.certificates().to_vec(), key, &**crypto)
            .map_err(|error| Refusal::new(error.rule(), error))?;
    }
    Ok(Own {
        id: chain.id().to_string(),
        not_before: chain.not_before().to_string(),
        not_after: chain.not_after().to_string(),
        chain_length: chain.certificates().len(),
    })
}

/// Reads a private key from PEM.
///
/// # Errors
///
/// [`Rule::KeyMalformed`].
pub fn key_from_pem(pem: &str) -> Result<PrivateKey, Refusal> {
    PrivateKey::from_pem(pem).map_err(|error| Refusal::new(error.rule(), error))
}

/// What is asked about a peer's chain.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "an argument list with names")]
pub struct Question<'a> {
    /// The chain, leaf first.
    pub chain: ChainDocument<'a>,
    /// Whose authorities are known.
    pub bundles: &'a Bundles,
    /// The time of the verification.
    pub at: Timestamp,
    /// What the peer is, if that is known.
    pub role: PeerRole,
    /// Who may; `None` verifies only.
    pub policy: Option<&'a Policy>,
    /// Bounds on the work.
    pub limits: X509Limits,
    /// The most bytes of the chain's document.
    pub max_document_bytes: usize,
}

/// A verified peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Peer {
    /// The proven SPIFFE ID.
    pub id: String,
    /// How many certificates the verified path has without its anchor.
    pub chain_length: usize,
}

/// Verifies a chain and asks the policy; `explain` collects the rules.
pub fn verify(
    question: &Question<'_>,
    crypto: &Arc<dyn CryptoProvider>,
    explain: bool,
) -> Judged<Peer> {
    if question.chain.bytes() > question.max_document_bytes {
        return Judged::from(Err(Refusal::new(
            Rule::DocumentTooLarge,
            format_args!(
                "the chain's document has {} bytes; {} is the limit",
                question.chain.bytes(),
                question.max_document_bytes
            ),
        )));
    }
    let chain = match question.chain.certificates() {
        Ok(chain) => chain,
        Err(refusal) => return Judged::from(Err(refusal)),
    };
    let Question {
        bundles, at, role, ..
    } = *question;
    let verifier = X509Verifier::new(&**crypto).with_limits(question.limits);
    let (verdict, steps) = if explain {
        let (verdict, tree) = verifier.explain(&chain, bundles.known(), at, role);
        (verdict, vec![Node::from(&tree)])
    } else {
        let verdict = verifier.verify(&chain, bundles.known(), at, role);
        (verdict, Vec::new())
    };
    let verified = match verdict {
        Ok(verified) => verified,
        Err(error) => return refuse(&error, question, steps),
    };
    let judged = Judged {
        verdict: Ok(Peer {
            id: verified.id.to_string(),
            chain_length: verified.chain_length,
        }),
        steps,
    };
    let facts = PeerFacts::new(
        verified.id.as_ref(),
        at,
        verified.not_after,
        verified.chain_length,
    );
    judged.and_authorize(question.policy, &facts)
}

fn refuse(error: &X509Error, question: &Question<'_>, mut steps: Vec<Node>) -> Judged<Peer> {
    // A bundle that could not be read is worse news than one that is missing.
    if let X509Error::TrustDomainUnknown { trust_domain } = error
        && let Some(refusal) = question.bundles.broken(trust_domain)
    {
        steps.insert(0, Node::refused(refusal));
        return Judged {
            verdict: Err(refusal.clone()),
            steps,
        };
    }
    let nearest = error.nearest(question.bundles.known(), question.at);
    Judged {
        verdict: Err(Refusal::new(error.rule(), error).with_nearest(nearest)),
        steps,
    }
}
