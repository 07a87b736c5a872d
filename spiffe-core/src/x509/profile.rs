//! What a certificate may be used for: key usage and extended key usage as SPIFFE reads them.
//!
//! X509-SVID §3.2, §4.3, §4.4; RFC 5280 §4.2.1.3, §4.2.1.12.

use super::cert::{Cert, KeyUsage};
use super::der::{OBJECT_IDENTIFIER, Reader};

/// The TLS roles that extended key usages allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Roles {
    pub(crate) client: bool,
    pub(crate) server: bool,
}

impl Roles {
    const ALL: Self = Self {
        client: true,
        server: true,
    };

    /// What is allowed both here and above.
    pub(crate) const fn and(self, other: Self) -> Self {
        Self {
            client: self.client && other.client,
            server: self.server && other.server,
        }
    }

    /// Whether everything that `other` allows is allowed here.
    pub(crate) const fn covers(self, other: Self) -> bool {
        (self.client || !other.client) && (self.server || !other.server)
    }
}

impl Cert<'_> {
    /// Whether the certificate may issue others: X509-SVID §3.2, with key usage judged where present.
    pub(crate) fn is_signing(&self) -> bool {
        self.basic_constraints.is_some_and(|basic| basic.ca)
            && self.key_usage.is_none_or(KeyUsage::key_cert_sign)
    }

    /// Whether the certificate may sign lists of revoked ones; as for certificates, judged where present.
    pub(crate) fn signs_revocations(&self) -> bool {
        self.key_usage.is_none_or(KeyUsage::crl_sign)
    }

    /// Whether key usage is there and critical, as X509-SVID §4.3 asks of issuers.
    pub(crate) fn has_critical_key_usage(&self) -> bool {
        self.key_usage.is_some_and(|usage| usage.critical)
    }

    /// The roles that the extended key usage allows; without one, all.
    pub(crate) fn roles(&self) -> Roles {
        let Some(purposes) = self.extended_key_usage else {
            return Roles::ALL;
        };
        let mut roles = Roles {
            client: false,
            server: false,
        };
        let mut list = Reader::new(purposes);
        // The list was read once when the certificate was; nothing is lost by stopping at its end.
        while let Ok(purpose) = list.value(OBJECT_IDENTIFIER) {
            match purpose {
                ANY => return Roles::ALL,
                SERVER_AUTH => roles.server = true,
                CLIENT_AUTH => roles.client = true,
                _ => {}
            }
        }
        roles
    }
}

// Purposes without tag and length: RFC 5280 §4.2.1.12.
const ANY: &[u8] = b"\x55\x1d\x25\x00";
const SERVER_AUTH: &[u8] = b"\x2b\x06\x01\x05\x05\x07\x03\x01";
const CLIENT_AUTH: &[u8] = b"\x2b\x06\x01\x05\x05\x07\x03\x02";
