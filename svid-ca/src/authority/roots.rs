//! The roots of an upstream authority: what the bundle holds where a trust domain's own authorities are intermediates.
//!
//! The upstream says which there are. One that it no longer names stays until no authority remains that may lie below
//! it, so that nothing expires early; one that was tainted leaves at once.

use spiffe_core::Timestamp;
use spiffe_core::bundle::X509Authority;
use spiffe_core::pki_types::CertificateDer;

use super::{Action, Authority, PublicHalf, State};
use crate::certificate::Certificate;
use crate::issuer::hex;

/// One root of the upstream authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) tainted: bool,
    /// Since when the upstream no longer names it.
    pub(crate) withdrawn_at: Option<Timestamp>,
}

impl Root {
    /// Its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Whether the upstream has tainted it.
    pub fn is_tainted(&self) -> bool {
        self.tainted
    }

    /// Since when the upstream no longer names it.
    pub fn withdrawn_at(&self) -> Option<Timestamp> {
        self.withdrawn_at
    }

    /// The hexadecimal of its subject key identifier.
    pub fn id(&self) -> String {
        X509Authority::from_der(self.certificate.clone())
            .ok()
            .and_then(|authority| authority.subject_key_id().map(hex))
            .unwrap_or_default()
    }
}

impl State {
    /// The upstream's roots, in the order in which they came; empty without an upstream.
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    pub(super) fn take_roots(
        &self,
        now: Timestamp,
        named: &[X509Authority],
    ) -> (Self, Vec<Action>) {
        let mut next = self.clone();
        let mut actions = Vec::new();
        let mut added = false;
        for root in named {
            let known = next
                .roots
                .iter_mut()
                .find(|known| known.certificate == *root.certificate());
            match known {
                Some(known) => {
                    known.withdrawn_at = None;
                    if root.is_tainted() && !known.tainted {
                        known.tainted = true;
                        actions.push(Action::RootTainted { id: known.id() });
                    }
                }
                None => {
                    let root = Root {
                        certificate: root.certificate().clone(),
                        tainted: root.is_tainted(),
                        withdrawn_at: None,
                    };
                    actions.push(Action::RootPublished { id: root.id() });
                    next.roots.push(root);
                    added = true;
                }
            }
        }
        next.roots.retain_mut(|known| {
            if named
                .iter()
                .any(|root| known.certificate == *root.certificate())
            {
                return true;
            }
            known.withdrawn_at.get_or_insert(now);
            if known.tainted {
                actions.push(Action::RootRemoved { id: known.id() });
            }
            !known.tainted
        });
        if !actions.is_empty() {
            next.sequence += 1;
        }
        if added {
            next.roots_since = next.sequence;
        }
        (next, actions)
    }

    /// Whether an authority lies below a tainted root, so that what it signs is to be replaced at once.
    pub(super) fn is_below_tainted_root(&self, authority: &Authority) -> bool {
        let (Some(chain), PublicHalf::Certificate(own)) = (&authority.upstream, &authority.public)
        else {
            return false;
        };
        let top = Certificate::parse(chain.last().unwrap_or(own));
        let signed_by = top.ok().and_then(|top| top.authority_key_id.map(hex));
        signed_by.is_some_and(|id| {
            self.roots
                .iter()
                .any(|root| root.tainted && root.id() == id)
        })
    }

    /// Takes out one withdrawn root that nothing can depend on any more.
    pub(super) fn drop_root(&self) -> Option<(Self, Vec<Action>)> {
        let unused = |root: &Root| {
            root.withdrawn_at.is_some_and(|withdrawn| {
                !self.x509.iter().any(|authority| {
                    authority.upstream.is_some() && authority.published_at <= withdrawn
                })
            })
        };
        let at = self.roots.iter().position(unused)?;
        let mut next = self.clone();
        let root = next.roots.remove(at);
        next.sequence += 1;
        Some((next, vec![Action::RootRemoved { id: root.id() }]))
    }
}
