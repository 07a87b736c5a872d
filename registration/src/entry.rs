//! One registration entry and the rules it keeps.

use std::time::Duration;

use spiffe_core::{SpiffeId, Timestamp, TrustDomain, TrustDomainRef};

use crate::dns;
use crate::selector::Selector;

/// Which workloads get which identity. Clone it to change it: [`Entry::new`] checks the parameters again.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    id: String,
    params: EntryParams,
}

/// What an [`Entry`] says.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct EntryParams {
    /// The entry's own ID, unless it is to be drawn: at most [`MAX_ENTRY_ID`] letters, digits, `.`, `-` and `_`.
    pub entry_id: Option<String>,
    /// The identity, which has a path outside of the reserved `/spire/`.
    pub spiffe_id: SpiffeId,
    /// Under which node or entry it stands.
    pub parent_id: Option<SpiffeId>,
    /// What has to be true of a workload, all of it; at least one.
    pub selectors: Vec<Selector>,
    /// Life of its X509-SVIDs; the issuer's default if `None`. Not zero.
    pub x509_svid_ttl: Option<Duration>,
    /// Life of its JWT-SVIDs; the issuer's default if `None`. Not zero.
    pub jwt_svid_ttl: Option<Duration>,
    /// DNS names for its X509-SVIDs.
    pub dns_names: Vec<String>,
    /// What tells the workload which of several identities to use for what: at most [`MAX_HINT`] bytes, not empty.
    pub hint: Option<String>,
    /// Trust domains whose bundles it gets.
    pub federates_with: Vec<TrustDomain>,
    /// Whether its holder may administer the server.
    pub admin: bool,
    /// Whether its holder is a server below this one.
    pub downstream: bool,
    /// Whether its SVIDs go to a store; its selectors are then all of one type.
    pub store_svid: bool,
    /// Whether its JWT-SVIDs carry a `jti`.
    pub jwt_svid_include_jti: bool,
    /// Whether agents wait to be asked before they fetch its X509-SVID.
    pub disable_x509_svid_prefetch: bool,
    /// From when on it matches nobody.
    pub expires_at: Option<Timestamp>,
    /// When it was created; of two entries the one created earlier comes first.
    pub created_at: Option<Timestamp>,
    /// How often it was changed.
    pub revision: u64,
}

impl EntryParams {
    /// An identity for workloads with all of `selectors`, and defaults for the rest.
    pub fn new(spiffe_id: SpiffeId, selectors: Vec<Selector>) -> Self {
        Self {
            entry_id: None,
            spiffe_id,
            parent_id: None,
            selectors,
            x509_svid_ttl: None,
            jwt_svid_ttl: None,
            dns_names: Vec::new(),
            hint: None,
            federates_with: Vec::new(),
            admin: false,
            downstream: false,
            store_svid: false,
            jwt_svid_include_jti: false,
            disable_x509_svid_prefetch: false,
            expires_at: None,
            created_at: None,
            revision: 0,
        }
    }
}

impl Entry {
    /// An entry that keeps the rules. `draw_id` names it if its parameters do not.
    ///
    /// # Errors
    ///
    /// [`EntryError`], one rule a variant.
    pub fn new(
        mut params: EntryParams,
        draw_id: impl FnOnce() -> String,
    ) -> Result<Self, EntryError> {
        let id = params.entry_id.take().unwrap_or_else(draw_id);
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if id.is_empty() || id.len() > MAX_ENTRY_ID || !id.bytes().all(allowed) {
            return Err(EntryError::EntryId { id });
        }
        let path = params.spiffe_id.path();
        if path.is_empty() {
            return Err(EntryError::NoPath {
                id: params.spiffe_id,
            });
        }
        if path == "/spire" || path.starts_with("/spire/") {
            return Err(EntryError::ReservedPath {
                id: params.spiffe_id,
            });
        }
        let Some(first) = params.selectors.first() else {
            return Err(EntryError::NoSelectors);
        };
        if params.store_svid
            && params
                .selectors
                .iter()
                .any(|selector| selector.kind() != first.kind())
        {
            return Err(EntryError::StoreSelectors);
        }
        for (field, ttl) in [
            ("x509_svid_ttl", params.x509_svid_ttl),
            ("jwt_svid_ttl", params.jwt_svid_ttl),
        ] {
            if ttl == Some(Duration::ZERO) {
                return Err(EntryError::ZeroTtl { field });
            }
        }
        if let Some(name) = params.dns_names.iter().find(|name| !dns::is_valid(name)) {
            return Err(EntryError::DnsName { name: name.clone() });
        }
        if let Some(bytes) = params
            .hint
            .as_ref()
            .map(String::len)
            .filter(|bytes| !(1..=MAX_HINT).contains(bytes))
        {
            return Err(EntryError::Hint { bytes });
        }
        Ok(Self { id, params })
    }

    /// Refuses an entry of another trust domain than the issuer's.
    ///
    /// # Errors
    ///
    /// [`EntryError::OtherTrustDomain`].
    pub fn require_member_of(&self, trust_domain: TrustDomainRef<'_>) -> Result<(), EntryError> {
        if self.spiffe_id().is_member_of(trust_domain) {
            return Ok(());
        }
        Err(EntryError::OtherTrustDomain {
            id: self.spiffe_id().clone(),
            trust_domain: trust_domain.to_owned(),
        })
    }

    /// The entry's own ID.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The identity.
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.params.spiffe_id
    }

    /// What has to be true of a workload, all of it; never empty.
    pub fn selectors(&self) -> &[Selector] {
        &self.params.selectors
    }

    /// Everything it says; [`EntryParams::entry_id`] is `None` here.
    pub fn params(&self) -> &EntryParams {
        &self.params
    }

    /// Whether it still stands at `now`.
    pub fn is_current(&self, now: Timestamp) -> bool {
        self.params.expires_at.is_none_or(|end| now < end)
    }
}

/// Which rule an entry breaks.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// A DNS name that no certificate may hold.
    #[error("dns_names: {name:?} is not a DNS name")]
    DnsName {
        /// The name.
        name: String,
    },

    /// An entry ID that is empty, too long, or holds other characters.
    #[error("entry_id: {id:?} is not 1 to {MAX_ENTRY_ID} letters, digits, '.', '-' and '_'")]
    EntryId {
        /// The ID.
        id: String,
    },

    /// A hint that is empty or too long: SPIFFE Workload API §8.
    #[error("hint: has {bytes} bytes, 1 to {MAX_HINT} are possible")]
    Hint {
        /// Its length.
        bytes: usize,
    },

    /// The identity is the trust domain itself.
    #[error("spiffe_id: {id} has no path and so names no workload")]
    NoPath {
        /// The identity.
        id: SpiffeId,
    },

    /// An entry without selectors would match everyone.
    #[error("selectors: at least one is required")]
    NoSelectors,

    /// The issuer cannot give out names of another trust domain.
    #[error("spiffe_id: {id} is not a member of trust domain {:?}", trust_domain.as_str())]
    OtherTrustDomain {
        /// The identity.
        id: SpiffeId,
        /// The issuer's.
        trust_domain: TrustDomain,
    },

    /// The identity is a server's or an agent's.
    #[error("spiffe_id: {id} is in /spire/, which is reserved for servers and agents")]
    ReservedPath {
        /// The identity.
        id: SpiffeId,
    },

    /// An SVID store is addressed by selectors of its own type only.
    #[error("store_svid: the selectors are not all of one type")]
    StoreSelectors,

    /// An SVID would be expired when issued.
    #[error("{field}: must not be zero")]
    ZeroTtl {
        /// Which of the two.
        field: &'static str,
    },
}

/// The longest ID of an entry, as SPIRE has it.
pub const MAX_ENTRY_ID: usize = 255;

/// The longest hint in bytes: SPIFFE Workload API §8.
pub const MAX_HINT: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn params() -> EntryParams {
        let selectors = vec!["unix:uid:0".parse().unwrap()];
        EntryParams::new("spiffe://example.org/web".parse().unwrap(), selectors)
    }

    #[track_caller]
    fn refused(change: impl FnOnce(&mut EntryParams), message: &str) {
        let mut params = params();
        change(&mut params);
        assert_eq!(
            Entry::new(params, || "1".into()).unwrap_err().to_string(),
            message
        );
    }

    #[track_caller]
    fn accepted(change: impl FnOnce(&mut EntryParams)) -> Entry {
        let mut params = params();
        change(&mut params);
        Entry::new(params, || "1".into()).unwrap()
    }

    #[test]
    fn id_is_drawn_unless_given() {
        assert_eq!(accepted(|_| {}).id(), "1");
        assert_eq!(
            accepted(|params| params.entry_id = Some("mine".into())).id(),
            "mine"
        );
    }

    #[test]
    fn id_of_other_characters_is_refused() {
        let message = "entry_id: \"a/b\" is not 1 to 255 letters, digits, '.', '-' and '_'";
        refused(|params| params.entry_id = Some("a/b".into()), message);
        accepted(|params| params.entry_id = Some("a".repeat(255)));
        let mut long = params();
        long.entry_id = Some("a".repeat(256));
        assert!(matches!(
            Entry::new(long, String::new),
            Err(EntryError::EntryId { .. })
        ));
    }

    #[test]
    fn identity_is_a_workloads() {
        let set = |id: &'static str| {
            move |params: &mut EntryParams| params.spiffe_id = id.parse().unwrap()
        };
        refused(
            set("spiffe://example.org"),
            "spiffe_id: spiffe://example.org has no path and so names no workload",
        );
        refused(
            set("spiffe://example.org/spire/agent/x"),
            "spiffe_id: spiffe://example.org/spire/agent/x is in /spire/, which is reserved for servers and agents",
        );
        refused(
            set("spiffe://example.org/spire"),
            "spiffe_id: spiffe://example.org/spire is in /spire/, which is reserved for servers and agents",
        );
        accepted(set("spiffe://example.org/spirea"));
    }

    #[test]
    fn selectors_are_required() {
        refused(
            |params| params.selectors.clear(),
            "selectors: at least one is required",
        );
    }

    #[test]
    fn stored_svids_take_selectors_of_one_type() {
        let mix = |params: &mut EntryParams| params.selectors.push("k8s:ns:x".parse().unwrap());
        accepted(mix);
        accepted(|params| params.store_svid = true);
        refused(
            |params| {
                mix(params);
                params.store_svid = true;
            },
            "store_svid: the selectors are not all of one type",
        );
    }

    #[test]
    fn zero_life_is_refused() {
        refused(
            |params| params.x509_svid_ttl = Some(Duration::ZERO),
            "x509_svid_ttl: must not be zero",
        );
        refused(
            |params| params.jwt_svid_ttl = Some(Duration::ZERO),
            "jwt_svid_ttl: must not be zero",
        );
        accepted(|params| params.x509_svid_ttl = Some(Duration::from_secs(1)));
    }

    #[test]
    fn hint_of_1024_bytes_is_the_longest() {
        accepted(|params| params.hint = Some("a".repeat(1024)));
        refused(
            |params| params.hint = Some("a".repeat(1025)),
            "hint: has 1025 bytes, 1 to 1024 are possible",
        );
    }

    #[test]
    fn wrong_dns_name_is_named() {
        accepted(|params| params.dns_names = vec!["web".into()]);
        refused(
            |params| params.dns_names = vec!["web".into(), "web.".into()],
            "dns_names: \"web.\" is not a DNS name",
        );
    }

    #[test]
    fn entry_of_another_trust_domain_is_told_apart() {
        let entry = accepted(|_| {});
        assert_eq!(
            entry.require_member_of(TrustDomainRef::parse("example.org").unwrap()),
            Ok(())
        );
        let error = entry
            .require_member_of(TrustDomainRef::parse("other.org").unwrap())
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "spiffe_id: spiffe://example.org/web is not a member of trust domain \"other.org\""
        );
    }

    #[test]
    fn expired_entry_is_not_current() {
        let at = Timestamp::from_unix_seconds;
        let entry = accepted(|params| params.expires_at = Some(at(10)));
        assert!(entry.is_current(at(9)));
        assert!(!entry.is_current(at(10)));
        assert!(accepted(|_| {}).is_current(Timestamp::MAX));
    }
}
