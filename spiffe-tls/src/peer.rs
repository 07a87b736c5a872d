//! What a connection knows of its other end.

use rustls::{NamedGroup, ProtocolVersion};
use spiffe_core::snapshot::Revision;
use spiffe_core::verify::VerifiedX509;
use spiffe_core::{SpiffeId, Timestamp};

/// The verified and authorised peer of one connection.
#[derive(Clone, Debug)]
pub struct Peer {
    pub(crate) verified: VerifiedX509,
    pub(crate) own: SpiffeId,
    pub(crate) revision: Revision,
    pub(crate) version: ProtocolVersion,
    pub(crate) group: Option<NamedGroup>,
}

impl Peer {
    /// Its SPIFFE ID.
    pub fn id(&self) -> &SpiffeId {
        &self.verified.id
    }

    /// All that verification has proven.
    pub fn verified(&self) -> &VerifiedX509 {
        &self.verified
    }

    /// The last instant at which the peer's path is valid.
    pub fn not_after(&self) -> Timestamp {
        self.verified.not_after
    }

    /// The ID that this side presented.
    pub fn own_id(&self) -> &SpiffeId {
        &self.own
    }

    /// The revision of this side's source under which the connection was judged.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The TLS version that was negotiated.
    pub fn protocol_version(&self) -> ProtocolVersion {
        self.version
    }

    /// The key exchange group that was negotiated; hybrid groups resist a quantum computer.
    pub fn key_exchange_group(&self) -> Option<NamedGroup> {
        self.group
    }
}
