//! What a connection knows of its other end.

use rustls::{HandshakeKind, NamedGroup, ProtocolVersion};
use spiffe_core::snapshot::Revision;
use spiffe_core::verify::VerifiedX509;
use spiffe_core::{SpiffeId, Timestamp};

use crate::lease::Lease;

/// The verified and authorised peer of one connection; clones share everything.
#[derive(Clone, Debug)]
pub struct Peer {
    pub(crate) lease: Lease,
    pub(crate) revision: Revision,
    pub(crate) version: ProtocolVersion,
    pub(crate) group: Option<NamedGroup>,
    pub(crate) kind: HandshakeKind,
    /// Whether no other key exchange could have been agreed on.
    pub(crate) requires_post_quantum: bool,
}

impl Peer {
    /// Its SPIFFE ID.
    pub fn id(&self) -> &SpiffeId {
        &self.verified().id
    }

    /// All that verification has proven.
    pub fn verified(&self) -> &VerifiedX509 {
        &self.lease.inner.peer
    }

    /// The last instant at which the peer's path is valid.
    pub fn not_after(&self) -> Timestamp {
        self.verified().not_after
    }

    /// How long the connection may go on, and what has ended it.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// The ID that this side presented; none where this side stays anonymous.
    pub fn own_id(&self) -> Option<&SpiffeId> {
        self.lease.inner.own.as_ref()
    }

    /// The revision of this side's source under which the handshake was judged. [`Lease::revision`] is that of the
    /// latest verdict.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The TLS version that was negotiated.
    pub fn protocol_version(&self) -> ProtocolVersion {
        self.version
    }

    /// The key exchange group that was negotiated; `None` under quinn, which does not tell it, and where a session of TLS 1.2
    /// was resumed, which exchanges no keys.
    pub fn key_exchange_group(&self) -> Option<NamedGroup> {
        self.group
    }

    /// Whether the key exchange was a hybrid one that resists a quantum computer; `None` where nobody knows: under quinn,
    /// which does not tell the group, unless the configuration [requires](crate::Tls::require_post_quantum) one.
    pub fn is_post_quantum(&self) -> Option<bool> {
        match self.group {
            Some(group) => Some(is_post_quantum(group)),
            // No group of TLS 1.2 is one, and a session of it that is resumed has none to tell.
            None if self.version == ProtocolVersion::TLSv1_2 => Some(false),
            None => self.requires_post_quantum.then_some(true),
        }
    }

    /// Whether the session of an earlier handshake was resumed; the peer was judged all the same.
    pub fn is_resumed(&self) -> bool {
        self.kind == HandshakeKind::Resumed
    }
}

/// Whether a group rests on ML-KEM, alone or beside a classical one.
pub(crate) fn is_post_quantum(group: NamedGroup) -> bool {
    matches!(
        group,
        NamedGroup::X25519MLKEM768
            | NamedGroup::secp256r1MLKEM768
            | NamedGroup::MLKEM512
            | NamedGroup::MLKEM768
            | NamedGroup::MLKEM1024
    )
}
