//! Who may issue: from the authorities of a bundle down to the leaf's issuer, one link at a time.
//!
//! Answers to RFC 5280 §6.1 for everything above the leaf. An issuer is admitted when a key that is admitted already
//! signed it and every rule above it holds: validity, CA profile, path length, name constraints, extended key usage,
//! revocation. What is inherited travels with it, so that the leaf's last link can be judged with it as the anchor.
//!
//! The search runs downwards, and only keys that the bundle vouches for are ever used for a check: each certificate
//! meets each admitted issuer of its issuer's name at most once. Path building that runs upwards from what the peer
//! sent must try orders of certificates instead, and its cost on hostile input is the number of those.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;

use super::x509::{PeerRole, X509Verifier, within};
use super::{Holder, X509Error};
use crate::bundle::{PublicKey, X509Authorities, X509Authority};
use crate::explain::Trace;
use crate::x509::cert::{Cert, dotted};
use crate::x509::names::{self, MAX_NAME_COMPARISONS};
use crate::x509::profile::Roles;
use crate::{Rule, Timestamp};

/// What an issuer hands down to whatever it issues.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    /// The window in which everything from the authority down to here is valid.
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
    /// How many more intermediates that are not self-issued may follow: RFC 5280 §6.1.4 (l), (m).
    path_left: Option<u32>,
    roles: Roles,
    /// The name constraints of every issuer from the authority down to here.
    constraints: Vec<Arc<[u8]>>,
    /// This issuer's certificate first, the authority's last.
    pub(super) certificates: Vec<Arc<CertificateDer<'static>>>,
    signs_revocations: bool,
    /// Whether every intermediate from the authority down to here has a critical key usage.
    pub(super) has_key_usages: bool,
}

impl Standing {
    fn of_authority(authority: &X509Authority) -> Self {
        Self {
            not_before: authority.not_before(),
            not_after: authority.not_after(),
            path_left: authority.path_length(),
            roles: authority.roles(),
            constraints: authority.name_constraints().cloned().into_iter().collect(),
            certificates: vec![authority.shared_certificate().clone()],
            signs_revocations: authority.signs_revocations(),
            has_key_usages: true,
        }
    }

    /// What an intermediate hands down that was issued from here, or the rule that it breaks; its names are judged apart.
    fn hand_down(&self, cert: &Cert<'_>, der: &[u8]) -> Result<Self, X509Error> {
        let path_left = match self.path_left {
            // RFC 5280 §6.1.4 (l): self-issued certificates do not count.
            left if is_self_issued(cert) => left,
            Some(0) => return Err(X509Error::PathLength),
            left => left.map(|left| left - 1),
        };
        let roles = self.roles.and(cert.roles());
        if !(roles.client || roles.server) {
            return Err(X509Error::IssuerExtendedKeyUsage);
        }
        let own_limit = cert.basic_constraints.and_then(|basic| basic.path_length);
        let mut constraints = self.constraints.clone();
        constraints.extend(cert.name_constraints.map(Arc::from));
        let mut certificates = Vec::with_capacity(self.certificates.len() + 1);
        certificates.push(Arc::new(CertificateDer::from(der.to_vec())));
        certificates.extend(self.certificates.iter().cloned());
        Ok(Self {
            not_before: self.not_before.max(cert.not_before),
            not_after: self.not_after.min(cert.not_after),
            path_left: match (path_left, own_limit) {
                (Some(left), Some(own)) => Some(left.min(own)),
                (left, own) => left.or(own),
            },
            roles,
            constraints,
            certificates,
            signs_revocations: cert.signs_revocations(),
            has_key_usages: self.has_key_usages && cert.has_critical_key_usage(),
        })
    }

    /// Whether the names of a certificate keep every constraint above it.
    pub(super) fn permits(
        &self,
        cert: &Cert<'_>,
        comparisons: &mut usize,
    ) -> Result<(), X509Error> {
        for constraints in &self.constraints {
            names::judge(
                constraints,
                cert.alternative_names.all,
                cert.subject,
                comparisons,
            )?;
        }
        Ok(())
    }

    /// Whether everything above allows the peer's role, together with the leaf's own usages.
    pub(super) fn allows(&self, leaf: Roles, role: PeerRole) -> Result<(), X509Error> {
        if role.is_allowed_by(self.roles.and(leaf)) {
            Ok(())
        } else {
            Err(X509Error::IssuerExtendedKeyUsage)
        }
    }

    /// How many certificates stand between the authority and what is issued from here.
    pub(super) fn intermediates(&self) -> usize {
        self.certificates.len() - 1
    }

    /// Whether name constraints hold for what is issued from here.
    pub(super) fn is_constrained(&self) -> bool {
        !self.constraints.is_empty()
    }

    /// Whether whatever passes below `other` passes below this one too.
    fn covers(&self, other: &Self) -> bool {
        let roomier = match (self.path_left, other.path_left) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(mine), Some(theirs)) => mine >= theirs,
        };
        roomier
            && self.intermediates() <= other.intermediates()
            && self.roles.covers(other.roles)
            && self
                .constraints
                .iter()
                .all(|mine| other.constraints.contains(mine))
    }
}

/// A key that may issue, with what is handed down from above it.
#[derive(Debug)]
pub(super) struct Issuer<'a> {
    pub(super) subject: &'a [u8],
    /// The content of its SubjectPublicKeyInfo.
    pub(super) spki: &'a [u8],
    pub(super) key: PublicKey<'a>,
    pub(super) standing: Standing,
    pub(super) key_id: Option<&'a [u8]>,
    /// The candidate that it is; authorities are none.
    candidate: Option<usize>,
    /// Who issued it, by position.
    parent: Option<usize>,
}

impl<'a> Issuer<'a> {
    fn of_authority(authority: &'a X509Authority) -> Self {
        let anchor = authority.anchor();
        Self {
            subject: &anchor.subject,
            spki: &anchor.subject_public_key_info,
            key: authority.public_key(),
            standing: Standing::of_authority(authority),
            key_id: authority.subject_key_id(),
            candidate: None,
            parent: None,
        }
    }
}

/// A certificate that the peer sent besides its leaf.
struct Sent<'a> {
    position: usize,
    cert: Cert<'a>,
    der: &'a [u8],
}

/// An intermediate certificate that the peer sent and that may issue, if its own issuer is admitted.
struct Candidate<'a> {
    cert: Cert<'a>,
    der: &'a [u8],
    key: PublicKey<'a>,
}

/// Something that an issuer may have issued, not yet tried. What comes first in order is tried first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Link {
    kinship: Kinship,
    child: Child,
    issuer: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Child {
    Leaf,
    Candidate(usize),
}

/// What key identifiers say of a child and an issuer of the right name. They only guide the search: nobody is obliged
/// to set them, and nothing proves them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kinship {
    Named,
    Unknown,
    Other,
}

impl Kinship {
    pub(super) fn of(child: &Cert<'_>, key_id: Option<&[u8]>) -> Self {
        match (child.authority_key_id, key_id) {
            (Some(wanted), Some(found)) if wanted == found => Self::Named,
            (Some(_), Some(_)) => Self::Other,
            _ => Self::Unknown,
        }
    }
}

/// How much a failure explains; of several, the most telling is the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    /// An issuer that key identifiers speak against.
    Unlikely,
    /// A signature that another key of that name made.
    BadSignature,
    /// An issuer of the right name that may not issue.
    Unusable,
    /// A limit on the length, or an algorithm.
    Limit,
    /// The issuer that key identifiers name may not issue.
    NamedUnusable,
    /// A signature is good, and a rule broken.
    Proven,
}

/// The search for the issuer of one leaf.
pub(super) struct Search<'a, 'v> {
    verifier: &'v X509Verifier,
    leaf: &'v Cert<'a>,
    candidates: Vec<Candidate<'a>>,
    issuers: Vec<Issuer<'a>>,
    links: BinaryHeap<Reverse<Link>>,
    checks: usize,
    comparisons: usize,
    failure: Option<(Weight, X509Error)>,
}

impl<'a, 'v> Search<'a, 'v> {
    /// Gathers what the peer sent besides its leaf and which authorities may stand above.
    pub(super) fn new(
        verifier: &'v X509Verifier,
        leaf: &'v Cert<'a>,
        others: &'a [CertificateDer<'_>],
        authorities: &'a X509Authorities,
        now: Timestamp,
        trace: &mut impl Trace,
    ) -> Self {
        let mut search = Self {
            verifier,
            leaf,
            candidates: Vec::with_capacity(others.len()),
            issuers: Vec::new(),
            links: BinaryHeap::new(),
            checks: verifier.limits.signature_checks,
            comparisons: MAX_NAME_COMPARISONS,
            failure: None,
        };
        search.gather_candidates(others, now, trace);
        for (index, authority) in authorities.iter().enumerate() {
            let kinship = search.kinship(&authority.anchor().subject, authority.subject_key_id());
            let Some(kinship) = kinship else { continue };
            if verifier.refuses_tainted && authority.is_tainted() {
                let error = X509Error::Tainted;
                trace.skip(error.rule(), || format!("authority {index}: {error}"));
                search.note_unusable(kinship, error);
                continue;
            }
            // An expired authority verifies nothing, though RFC 5280 takes an anchor for name and key alone.
            match within(
                now,
                authority.not_before(),
                authority.not_after(),
                Holder::Authority,
            ) {
                Ok(()) => search.admit(Issuer::of_authority(authority)),
                Err(error) => {
                    trace.skip(error.rule(), || format!("authority {index}: {error}"));
                    search.note_unusable(kinship, error);
                }
            }
        }
        search
    }

    /// The position of the next admitted issuer of the leaf's issuer's name; each is returned once.
    ///
    /// # Errors
    ///
    /// When none is left, or work has reached its limit: why no path was found.
    pub(super) fn next(&mut self, trace: &mut impl Trace) -> Result<usize, X509Error> {
        while let Some(Reverse(link)) = self.links.pop() {
            match link.child {
                Child::Leaf => return Ok(link.issuer),
                Child::Candidate(candidate) => self.try_link(candidate, link.issuer, trace)?,
            }
        }
        Err(self.failure.take().map_or_else(
            || X509Error::Untrusted {
                detail: self.missing(),
            },
            |(_, error)| error,
        ))
    }

    /// What no issuer was found for: the key identifiers that the chain asks for and that nothing in it has.
    fn missing(&self) -> String {
        let chain = || {
            let intermediates = self.candidates.iter().map(|one| &one.cert);
            std::iter::once(self.leaf).chain(intermediates)
        };
        let is_here = |wanted: &[u8]| chain().any(|cert| cert.subject_key_id == Some(wanted));
        let mut wanted: Vec<&[u8]> = chain().filter_map(|cert| cert.authority_key_id).collect();
        wanted.retain(|wanted| !is_here(wanted));
        let what = if self.issuers.is_empty() {
            "none of them issued it or a certificate of its chain"
        } else {
            "its issuer does not lead to one of them"
        };
        match wanted.last() {
            Some(wanted) => {
                format!(
                    "{what}, which asks for the key identifier {}",
                    names::hex(wanted)
                )
            }
            None => what.into(),
        }
    }

    /// Takes one signature check off the budget.
    pub(super) fn charge(&mut self) -> Result<(), X509Error> {
        self.checks = self
            .checks
            .checked_sub(1)
            .ok_or_else(|| X509Error::TooComplex {
                detail: format!(
                    "it takes more than {} signature checks",
                    self.verifier.limits.signature_checks
                ),
            })?;
        Ok(())
    }

    /// The issuer at a position.
    pub(super) fn issuer(&self, position: usize) -> &Issuer<'a> {
        &self.issuers[position]
    }

    /// What the issuer at a position hands down; the search is over.
    pub(super) fn into_standing(mut self, position: usize) -> Standing {
        self.issuers.swap_remove(position).standing
    }

    /// What is handed down to the leaf by an issuer that signed it.
    pub(super) fn judge_leaf(
        &mut self,
        issuer: usize,
        leaf: Roles,
        role: PeerRole,
    ) -> Result<(), X509Error> {
        let standing = &self.issuers[issuer].standing;
        standing.permits(self.leaf, &mut self.comparisons)?;
        standing.allows(leaf, role)?;
        self.not_revoked(issuer, self.leaf.issuer, self.leaf.serial)
    }

    /// Remembers why the leaf is not valid under an issuer of the right name.
    pub(super) fn note(&mut self, error: X509Error) {
        let weight = match error {
            X509Error::BadSignature => Weight::BadSignature,
            X509Error::Algorithm { .. } | X509Error::TooComplex { .. } => Weight::Limit,
            X509Error::TooLarge { .. } => Weight::Unlikely,
            _ => Weight::Proven,
        };
        self.note_as(weight, error);
    }

    fn note_unusable(&mut self, kinship: Kinship, error: X509Error) {
        let weight = match kinship {
            Kinship::Named => Weight::NamedUnusable,
            Kinship::Unknown => Weight::Unusable,
            Kinship::Other => Weight::Unlikely,
        };
        self.note_as(weight, error);
    }

    fn note_as(&mut self, weight: Weight, error: X509Error) {
        // Of equals the first stays: it is nearest to the leaf.
        if self
            .failure
            .as_ref()
            .is_none_or(|(known, _)| weight > *known)
        {
            self.failure = Some((weight, error));
        }
    }

    /// Keeps what the leaf leads to by name, and of that what may issue.
    fn gather_candidates(
        &mut self,
        others: &'a [CertificateDer<'_>],
        now: Timestamp,
        trace: &mut impl Trace,
    ) {
        let mut waiting = Vec::new();
        for (index, der) in others.iter().enumerate() {
            let position = index + 1;
            if others[..index].contains(der) {
                continue;
            }
            if der.len() > self.verifier.limits.certificate_bytes {
                let error = X509Error::TooLarge {
                    bytes: der.len(),
                    limit: self.verifier.limits.certificate_bytes,
                };
                trace.skip(error.rule(), || format!("certificate {position}: {error}"));
                self.note(error);
                continue;
            }
            // Certificates that the path does not need do no harm, so unreadable ones are passed over.
            match Cert::parse(der) {
                Ok(cert) => {
                    let sent = Sent {
                        position,
                        cert,
                        der,
                    };
                    waiting.extend(self.reach(sent, now, trace));
                }
                Err(error) => {
                    trace.skip(error.rule(), || format!("certificate {position}: {error}"));
                }
            }
        }
        // Each round keeps the issuers by name of what was kept before; what is never reached is never checked.
        let mut known = 0;
        while known < self.candidates.len() && !waiting.is_empty() {
            known = self.candidates.len();
            for sent in std::mem::take(&mut waiting) {
                waiting.extend(self.reach(sent, now, trace));
            }
        }
    }

    /// Keeps a certificate that something names as its issuer, if it may issue; hands it back when nothing does yet.
    fn reach(
        &mut self,
        sent: Sent<'a>,
        now: Timestamp,
        trace: &mut impl Trace,
    ) -> Option<Sent<'a>> {
        let Some(kinship) = self.kinship(sent.cert.subject, sent.cert.subject_key_id) else {
            return Some(sent);
        };
        let Sent {
            position,
            cert,
            der,
        } = sent;
        match self.verifier.usable(&cert, now) {
            Ok(key) => self.candidates.push(Candidate { cert, der, key }),
            Err(error) => {
                trace.skip(error.rule(), || format!("certificate {position}: {error}"));
                self.note_unusable(kinship, error);
            }
        }
        None
    }

    /// The closest that key identifiers bring an issuer of that name to whatever is to be issued; `None` when nothing
    /// names it as its issuer.
    fn kinship(&self, subject: &[u8], key_id: Option<&[u8]>) -> Option<Kinship> {
        std::iter::once(self.leaf)
            .chain(self.candidates.iter().map(|candidate| &candidate.cert))
            .filter(|child| child.issuer == subject)
            .map(|child| Kinship::of(child, key_id))
            .min()
    }

    /// Takes an issuer in and lines up what it may have issued.
    fn admit(&mut self, issuer: Issuer<'a>) {
        let position = self.issuers.len();
        let mut link = |child, cert: &Cert<'_>| {
            if cert.issuer == issuer.subject {
                self.links.push(Reverse(Link {
                    kinship: Kinship::of(cert, issuer.key_id),
                    child,
                    issuer: position,
                }));
            }
        };
        link(Child::Leaf, self.leaf);
        for (index, candidate) in self.candidates.iter().enumerate() {
            link(Child::Candidate(index), &candidate.cert);
        }
        self.issuers.push(issuer);
    }

    /// Whether a candidate's name and key are those of an issuer above: RFC 4158 §5.2. So the root that peers send
    /// along costs nothing.
    fn is_loop(&self, candidate: &Candidate<'_>, issuer: usize) -> bool {
        let mut above = Some(issuer);
        while let Some(position) = above {
            let issuer = &self.issuers[position];
            if issuer.subject == candidate.cert.subject && issuer.key == candidate.key {
                return true;
            }
            above = issuer.parent;
        }
        false
    }

    /// Judges whether an issuer issued a candidate, and admits it if so. Only exhausted work is an error.
    fn try_link(
        &mut self,
        index: usize,
        issuer: usize,
        trace: &mut impl Trace,
    ) -> Result<(), X509Error> {
        if self.is_loop(&self.candidates[index], issuer) {
            return Ok(());
        }
        let above = &self.issuers[issuer].standing;
        if above.intermediates() >= self.verifier.limits.intermediates {
            let error = X509Error::TooComplex {
                detail: format!(
                    "it takes more than {} intermediate certificates",
                    self.verifier.limits.intermediates
                ),
            };
            self.note(error);
            return Ok(());
        }
        let candidate = &self.candidates[index];
        let inherited = above.hand_down(&candidate.cert, candidate.der);
        // A certificate can be admitted more than once, but only where the new way allows something that the old forbids.
        if let Ok(standing) = &inherited {
            let known = self
                .issuers
                .iter()
                .any(|known| known.candidate == Some(index) && known.standing.covers(standing));
            if known {
                return Ok(());
            }
        }
        self.charge()?;
        // Nothing that a certificate says is judged at length before its signature is good.
        let judged = self
            .check(issuer, index)
            .and(inherited)
            .and_then(|standing| self.judge_candidate(issuer, index).map(|()| standing));
        let cert = &self.candidates[index].cert;
        match judged {
            Ok(standing) => {
                trace.pass(Rule::PathIssuerAdmitted, || {
                    format!(
                        "{}, {} from its authority",
                        Name(cert),
                        standing.intermediates()
                    )
                });
                let candidate = &self.candidates[index];
                self.admit(Issuer {
                    subject: candidate.cert.subject,
                    spki: candidate.cert.spki_content(),
                    key: candidate.key,
                    standing,
                    key_id: candidate.cert.subject_key_id,
                    candidate: Some(index),
                    parent: Some(issuer),
                });
                Ok(())
            }
            Err(error) => {
                trace.skip(error.rule(), || format!("{}: {error}", Name(cert)));
                self.note(error);
                Ok(())
            }
        }
    }

    fn check(&self, issuer: usize, candidate: usize) -> Result<(), X509Error> {
        let signed = &self.candidates[candidate].cert.signed;
        self.verifier
            .algorithms
            .check(self.issuers[issuer].key, signed)
    }

    /// What depends on a candidate's own names and number.
    fn judge_candidate(&mut self, issuer: usize, candidate: usize) -> Result<(), X509Error> {
        let cert = &self.candidates[candidate].cert;
        // RFC 5280 §6.1.3 (b), (c): a self-issued certificate's names are its issuer's own.
        if !is_self_issued(cert) {
            let standing = &self.issuers[issuer].standing;
            standing.permits(cert, &mut self.comparisons)?;
        }
        let (name, serial) = (cert.issuer, cert.serial);
        self.not_revoked(issuer, name, serial)
    }

    fn not_revoked(&mut self, issuer: usize, name: &[u8], serial: &[u8]) -> Result<(), X509Error> {
        let verifier = self.verifier;
        let key = self.issuers[issuer].key;
        let may_sign = self.issuers[issuer].standing.signs_revocations;
        verifier.revocations.judge(name, serial, |signed| {
            if !may_sign {
                return Err(X509Error::RevocationUnknown);
            }
            self.charge()?;
            verifier.algorithms.check(key, signed)
        })
    }
}

impl X509Verifier {
    /// Whether a certificate may issue at all at this time; what depends on its own issuer comes later.
    fn usable<'a>(&self, cert: &Cert<'a>, now: Timestamp) -> Result<PublicKey<'a>, X509Error> {
        let holder = Holder::Intermediate;
        if !cert.is_signing() {
            return Err(X509Error::IssuerNotSigning);
        }
        if self.key_usage_required && !cert.has_critical_key_usage() {
            return Err(X509Error::KeyUsageMissing { holder });
        }
        within(now, cert.not_before, cert.not_after, holder)?;
        // RFC 5280 §4.2: an extension that is critical and not understood refuses the certificate, an issuer's too.
        if let Some(oid) = cert.unknown_critical {
            return Err(X509Error::IssuerUnknownCritical { oid: dotted(oid) });
        }
        PublicKey::from_spki(cert.spki).ok_or_else(|| X509Error::Algorithm {
            detail: "an intermediate certificate's key".into(),
        })
    }
}

fn is_self_issued(cert: &Cert<'_>) -> bool {
    cert.subject == cert.issuer
}

/// A certificate in an explanation.
struct Name<'c, 'a>(&'c Cert<'a>);

impl std::fmt::Display for Name<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("intermediate certificate with serial number ")?;
        self.0
            .serial
            .iter()
            .take(20)
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
