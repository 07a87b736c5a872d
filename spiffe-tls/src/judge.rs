//! The verdict on a peer: verified, then authorised, under the terms and bundles of one moment, and remembered.

use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use spiffe_core::snapshot::{Revision, Snapshot};
use spiffe_core::verify::{PeerRole, VerifiedX509, X509Verifier};
use spiffe_core::{Clock, Denied, PeerFacts, Publisher, Timestamp, TrustDomainRef};

use crate::digest::{Digest, Sha256};
use crate::error::{Refusal, RefusalReason};
use crate::terms::{InForce, Terms};

/// The most verified chains that a configuration remembers; each takes about 400 bytes. When that many are remembered
/// all are forgotten.
pub const MAX_REMEMBERED_CHAINS: usize = 4096;

/// What stays the same for all handshakes of a configuration.
pub(crate) struct Judge {
    pub(crate) verifier: X509Verifier,
    pub(crate) terms: Terms,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) provider: Arc<CryptoProvider>,
    /// Whose bundles judge: always what is current when the verdict is asked for. A handshake may have begun long
    /// before, and neither trust that was withdrawn since nor an authority that came since may be missed.
    pub(crate) publisher: Publisher,
    /// The role in which peers present themselves.
    pub(crate) role: PeerRole,
    pub(crate) sha256: Sha256,
    memory: Mutex<Memory>,
}

/// A verified and authorised peer, and what judged it.
#[derive(Clone, Debug)]
pub(crate) struct Judged {
    pub(crate) peer: Arc<VerifiedX509>,
    /// The revision whose bundles judged it.
    pub(crate) revision: Revision,
    /// The trust revision of the bundles, and the number of the terms.
    pub(crate) trust: (Revision, u64),
}

/// What was verified under one state of trust: a chain that is shown again proves the same, within its validity.
///
/// The signature with which a peer proves that it holds the leaf's key is rustls' business and is checked each time.
#[derive(Default)]
struct Memory {
    trust: Option<(Revision, u64)>,
    chains: HashMap<Digest, (Arc<VerifiedX509>, Timestamp)>,
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judge")
            .field("role", &self.role)
            .field("terms", &self.terms)
            .finish_non_exhaustive()
    }
}

impl Judge {
    pub(crate) fn new(
        verifier: X509Verifier,
        terms: Terms,
        clock: Arc<dyn Clock>,
        provider: Arc<CryptoProvider>,
        publisher: Publisher,
        role: PeerRole,
        sha256: Sha256,
    ) -> Self {
        Self {
            verifier,
            terms,
            clock,
            provider,
            publisher,
            role,
            sha256,
            memory: Mutex::default(),
        }
    }

    /// Verifies, then authorises, under what is current.
    pub(crate) fn judge(
        self: &Arc<Self>,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<Judged, Box<Refusal>> {
        let snapshot = self.publisher.load().snapshot().clone();
        let terms = self.terms.in_force();
        let now = self.clock.now();
        let chain: Vec<CertificateDer<'_>> = std::iter::once(end_entity)
            .chain(intermediates)
            .map(|certificate| CertificateDer::from(certificate.as_ref()))
            .collect();
        let digest = self.sha256.of_parts(chain.iter().map(AsRef::as_ref));
        match self.decide(&chain, digest, &snapshot, &terms, now) {
            Ok(peer) => Ok(Judged {
                peer,
                revision: snapshot.revision(),
                trust: (snapshot.trust_revision(), terms.number),
            }),
            Err(reason) => {
                let chain = chain.into_iter().map(CertificateDer::into_owned).collect();
                Err(Box::new(Refusal::new(
                    reason,
                    chain,
                    snapshot,
                    terms,
                    now,
                    self.clone(),
                )))
            }
        }
    }

    /// Whether these are still the trust revision and the terms of now.
    pub(crate) fn is_current(&self, trust: (Revision, u64)) -> bool {
        trust
            == (
                self.publisher.load().trust_revision(),
                self.terms.in_force().number,
            )
    }

    fn decide(
        &self,
        chain: &[CertificateDer<'_>],
        digest: Digest,
        snapshot: &Snapshot,
        terms: &InForce,
        now: Timestamp,
    ) -> Result<Arc<VerifiedX509>, RefusalReason> {
        let trust = (snapshot.trust_revision(), terms.number);
        let peer = match self.recall(trust, &digest, now) {
            Some(peer) => peer,
            None => {
                let peer =
                    self.verifier_under(terms)
                        .verify(chain, snapshot.bundles(), now, self.role)?;
                let peer = Arc::new(peer);
                self.remember(trust, digest, &peer, now);
                peer
            }
        };
        authorize(terms, &peer, now)?;
        Ok(peer)
    }

    pub(crate) fn verifier_under(&self, terms: &InForce) -> X509Verifier {
        self.verifier
            .clone()
            .with_revocations(terms.revocations.clone())
            .refusing_tainted(terms.refuse_tainted)
    }

    fn recall(
        &self,
        trust: (Revision, u64),
        digest: &Digest,
        now: Timestamp,
    ) -> Option<Arc<VerifiedX509>> {
        let memory = self.memory();
        if memory.trust != Some(trust) {
            return None;
        }
        let (peer, since) = memory.chains.get(digest)?;
        // Before `since`, a clock that was set back: what was tried then is not known.
        (*since..=peer.not_after)
            .contains(&now)
            .then(|| peer.clone())
    }

    fn remember(
        &self,
        trust: (Revision, u64),
        digest: Digest,
        peer: &Arc<VerifiedX509>,
        now: Timestamp,
    ) {
        let mut memory = self.memory();
        let is_older = |known: (Revision, u64)| trust.0 < known.0 || trust.1 < known.1;
        match memory.trust {
            Some(known) if known == trust => {}
            // A handshake that took its revision before the latest came in.
            Some(known) if is_older(known) => return,
            _ => {
                memory.trust = Some(trust);
                memory.chains.clear();
            }
        }
        if memory.chains.len() >= MAX_REMEMBERED_CHAINS {
            memory.chains.clear();
        }
        memory.chains.insert(digest, (peer.clone(), now));
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the authorizer whether it may let in anybody of a trust domain. One that panics lets in nobody.
pub(crate) fn may_allow(terms: &InForce, trust_domain: TrustDomainRef<'_>) -> bool {
    let ask = AssertUnwindSafe(|| terms.authorizer.may_allow(trust_domain));
    catch_unwind(ask).unwrap_or(false)
}

/// Asks the authorizer about a verified peer. One that panics has allowed nothing, and stops nobody else from being judged.
pub(crate) fn authorize(
    terms: &InForce,
    peer: &VerifiedX509,
    now: Timestamp,
) -> Result<(), RefusalReason> {
    let facts = PeerFacts::new(peer.id.as_ref(), now, peer.not_after, peer.chain_length);
    let ask = AssertUnwindSafe(|| terms.authorizer.authorize(&facts));
    let answer = catch_unwind(ask)
        .unwrap_or_else(|_| Err(Denied::new(peer.id.as_ref(), "an authorizer that panicked")));
    Ok(answer?)
}
