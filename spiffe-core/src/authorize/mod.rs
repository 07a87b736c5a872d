//! Authorisation: what may be done by a SPIFFE ID that verification has proven.
//!
//! An [`Authorizer`] is a required argument wherever a connection is made; nothing defaults to "any". [`Policy`] is
//! the one most programs need; it has a text form for command lines and configuration.

mod policy;

use std::fmt;

pub use policy::{MAX_ALTERNATIVES, MAX_POLICY_BYTES, Policy, PolicyError};

use crate::explain::{Explanation, Outcome};
use crate::{Rule, SpiffeId, SpiffeIdRef, Timestamp, TrustDomainRef};

/// What an authorizer sees of a verified peer.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PeerFacts<'a> {
    /// The ID that verification has proven.
    pub id: SpiffeIdRef<'a>,
    /// When the decision is made.
    pub now: Timestamp,
    /// When the first certificate of the peer's path, or its token, expires.
    pub expires_at: Timestamp,
    /// How many certificates the peer's path has without its anchor; 0 for a token.
    pub chain_length: usize,
}

impl<'a> PeerFacts<'a> {
    /// Facts about a peer.
    pub const fn new(
        id: SpiffeIdRef<'a>,
        now: Timestamp,
        expires_at: Timestamp,
        chain_length: usize,
    ) -> Self {
        Self {
            id,
            now,
            expires_at,
            chain_length,
        }
    }
}

/// Decides about verified peers.
///
/// An implementation must be quick and must not block: it runs inside handshakes.
pub trait Authorizer: fmt::Debug + Send + Sync + 'static {
    /// Allows the peer or says why not.
    ///
    /// # Errors
    ///
    /// [`Denied`] with what would have passed, as far as the peer may know it from its own side's logs.
    fn authorize(&self, peer: &PeerFacts<'_>) -> Result<(), Denied>;

    /// A text that two authorizers share only if they decide alike; `None` where there is no such text.
    ///
    /// TLS sessions are resumed only under the text they began under; without one, only under the same value.
    fn canonical_text(&self) -> Option<String> {
        None
    }

    /// Whether there may be an ID of this trust domain that is allowed; `false` only where there is surely none.
    ///
    /// A TLS server that tells its clients which authorities it knows leaves out those of other trust domains.
    fn may_allow(&self, _trust_domain: TrustDomainRef<'_>) -> bool {
        true
    }

    /// The same decision with the alternatives that were tried.
    fn explain(&self, peer: &PeerFacts<'_>) -> Explanation {
        match self.authorize(peer) {
            Ok(()) => Explanation::leaf(Rule::Authorize, Outcome::Pass, peer.id.as_str()),
            Err(denied) => Explanation {
                nearest: denied.nearest.clone(),
                ..Explanation::leaf(Rule::NotAuthorized, Outcome::Fail, denied.to_string())
            },
        }
    }
}

impl<A: Authorizer + ?Sized> Authorizer for std::sync::Arc<A> {
    fn authorize(&self, peer: &PeerFacts<'_>) -> Result<(), Denied> {
        (**self).authorize(peer)
    }

    fn canonical_text(&self) -> Option<String> {
        (**self).canonical_text()
    }

    fn may_allow(&self, trust_domain: TrustDomainRef<'_>) -> bool {
        (**self).may_allow(trust_domain)
    }

    fn explain(&self, peer: &PeerFacts<'_>) -> Explanation {
        (**self).explain(peer)
    }
}

/// A verified peer that may not do what it asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{id} is verified but not authorised: the policy is {policy}")]
#[non_exhaustive]
pub struct Denied {
    /// The peer's verified ID.
    pub id: SpiffeId,
    /// The policy, in its text form or in the authorizer's words.
    pub policy: String,
    /// The nearest thing that would have passed.
    pub nearest: Option<String>,
}

impl Denied {
    /// A refusal, for implementors of [`Authorizer`].
    pub fn new(id: SpiffeIdRef<'_>, policy: impl Into<String>) -> Self {
        Self {
            id: id.to_owned(),
            policy: policy.into(),
            nearest: None,
        }
    }

    /// The rule behind it.
    pub const fn rule(&self) -> Rule {
        Rule::NotAuthorized
    }
}

/// What weakens security, under a name that a reviewer can search for.
pub mod danger {
    use super::{Authorizer, Denied, PeerFacts};

    /// Allows every verified peer of every trust domain whose bundle is known.
    #[derive(Clone, Copy, Debug, Default)]
    #[expect(clippy::exhaustive_structs, reason = "a name and nothing else")]
    pub struct AuthorizeAny;

    impl Authorizer for AuthorizeAny {
        fn authorize(&self, _: &PeerFacts<'_>) -> Result<(), Denied> {
            Ok(())
        }

        fn canonical_text(&self) -> Option<String> {
            Some("any".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct OnlyServers;

    impl Authorizer for OnlyServers {
        fn authorize(&self, peer: &PeerFacts<'_>) -> Result<(), Denied> {
            if peer.id.path() == "/server" {
                return Ok(());
            }
            Err(Denied {
                nearest: Some("a server".into()),
                ..Denied::new(peer.id, "servers")
            })
        }
    }

    #[test]
    fn an_authorizer_of_ones_own_is_explained_by_its_decision() {
        let facts = |id| PeerFacts::new(id, Timestamp::UNIX_EPOCH, Timestamp::MAX, 1);
        let tree = OnlyServers.explain(&facts(SpiffeIdRef::literal("spiffe://a/server")));
        assert_eq!((tree.outcome, tree.nearest), (Outcome::Pass, None));
        let tree = OnlyServers.explain(&facts(SpiffeIdRef::literal("spiffe://a/client")));
        assert_eq!(tree.outcome, Outcome::Fail);
        assert_eq!(tree.nearest.as_deref(), Some("a server"));
    }

    #[test]
    fn a_shared_authorizer_decides_as_the_one_within() {
        let facts = |id| PeerFacts::new(id, Timestamp::UNIX_EPOCH, Timestamp::MAX, 1);
        let (server, client) = (
            facts(SpiffeIdRef::literal("spiffe://a/server")),
            facts(SpiffeIdRef::literal("spiffe://a/client")),
        );
        let shared = std::sync::Arc::new(OnlyServers);
        assert_eq!(Authorizer::authorize(&shared, &server), Ok(()));
        assert!(Authorizer::authorize(&shared, &client).is_err());
        for peer in [&server, &client] {
            assert_eq!(
                Authorizer::explain(&shared, peer),
                OnlyServers.explain(peer)
            );
        }
    }

    #[test]
    fn only_authorizers_that_decide_alike_share_a_text() {
        let text = |policy: &str| policy.parse::<Policy>().unwrap().canonical_text();
        assert_eq!(OnlyServers.canonical_text(), None);
        assert_eq!(danger::AuthorizeAny.canonical_text(), text("any"));
        assert_ne!(text("any"), text("domain:a"));
        let shared = std::sync::Arc::new(danger::AuthorizeAny);
        assert_eq!(Authorizer::canonical_text(&shared), text("any"));
    }

    #[test]
    fn a_trust_domain_is_ruled_out_only_where_nobody_of_it_is_allowed() {
        let domain = |name| TrustDomainRef::literal(name);
        for (policy, allowed, others) in [
            ("any", &["a", "b"][..], &[][..]),
            ("domain:a", &["a"], &["b", "a.b", "aa"]),
            ("id:spiffe://a/x", &["a"], &["b", "aa"]),
            ("ids:spiffe://a/x,spiffe://b/y", &["a", "b"], &["c"]),
            ("prefix:spiffe://a/x/", &["a"], &["aa", "x"]),
            ("prefix:spiffe://aa/", &["aa"], &["a"]),
            ("pattern:spiffe://a/*/x", &["a"], &["b"]),
            ("domain:a|id:spiffe://b/x", &["a", "b"], &["c"]),
        ] {
            let parsed = std::sync::Arc::new(policy.parse::<Policy>().unwrap());
            for name in allowed {
                assert!(
                    Authorizer::may_allow(&parsed, domain(name)),
                    "{policy} {name}"
                );
            }
            for name in others {
                assert!(
                    !Authorizer::may_allow(&parsed, domain(name)),
                    "{policy} {name}"
                );
            }
        }
        assert!(!Policy::ids([]).may_allow(domain("a")));
        // Who does not say rules out nobody.
        assert!(OnlyServers.may_allow(domain("a")));
        assert!(danger::AuthorizeAny.may_allow(domain("a")));
    }
}
