//! Lists of revoked certificates: RFC 5280 §5, §6.3, as far as an issuer's own full lists go.
//!
//! Off unless lists are given: SPIFFE carries them and obliges nobody to use them. A certificate is refused when its
//! issuer's list names it, and also when a list of that issuer's name is present and none that its key signed, because
//! then nobody can tell. An issuer without any list revokes nothing. A list past its next update still revokes what it
//! names.

use rustls_pki_types::CertificateRevocationListDer;
use std::fmt;
use webpki::{CertRevocationList, OwnedCertRevocationList};

use super::X509Error;
use crate::Rule;
use crate::bundle::{BundleError, Ignored};
use crate::x509::cert::Signed;

/// The most lists that are kept.
pub const MAX_REVOCATION_LISTS: usize = 256;

/// The most bytes of one list: each verification that meets one hashes it.
pub const MAX_REVOCATION_LIST_BYTES: usize = 1024 * 1024;

/// Lists of revoked certificates, parsed once.
#[derive(Default)]
pub struct Revocations {
    lists: Vec<List>,
    ignored: Vec<Ignored>,
}

struct List {
    der: CertificateRevocationListDer<'static>,
    parsed: CertRevocationList<'static>,
}

impl fmt::Debug for Revocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocations")
            .field("lists", &self.lists.len())
            .field("ignored", &self.ignored)
            .finish_non_exhaustive()
    }
}

impl Revocations {
    /// Takes lists in DER; what cannot be used is left out and reported.
    ///
    /// Lists of part of an issuer's certificates and indirect ones are among what cannot be used.
    pub fn from_der(
        lists: impl IntoIterator<Item = CertificateRevocationListDer<'static>>,
    ) -> Self {
        let mut all = Self::default();
        for (index, der) in lists.into_iter().enumerate() {
            match List::parse(der) {
                Ok(list) if all.lists.len() < MAX_REVOCATION_LISTS => all.lists.push(list),
                Ok(_) => all.ignored.push(Ignored::new(
                    index,
                    Rule::DocumentTooLarge,
                    format!("more than {MAX_REVOCATION_LISTS} lists"),
                )),
                Err(error) => {
                    let reason = error.to_string();
                    all.ignored.push(Ignored::new(index, error.rule(), reason));
                }
            }
        }
        all
    }

    /// Whether there is no list, so that nothing is ever revoked.
    pub fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    /// How many lists there are.
    pub fn len(&self) -> usize {
        self.lists.len()
    }

    /// The lists in DER, in the order they were given.
    pub fn lists(&self) -> impl Iterator<Item = &CertificateRevocationListDer<'static>> {
        self.lists.iter().map(|list| &list.der)
    }

    /// The lists that were left out, and why.
    pub fn ignored(&self) -> &[Ignored] {
        &self.ignored
    }

    /// Whether a certificate of this issuer is revoked, where `check` tells whether its key signed a list.
    pub(super) fn judge(
        &self,
        issuer: &[u8],
        serial: &[u8],
        mut check: impl FnMut(&Signed<'_>) -> Result<(), X509Error>,
    ) -> Result<(), X509Error> {
        let (mut named, mut signed) = (false, false);
        for list in self
            .lists
            .iter()
            .filter(|list| list.parsed.issuer() == issuer)
        {
            named = true;
            match Signed::parse(&list.der).map(|signed| check(&signed)) {
                Ok(Ok(())) => signed = true,
                Ok(Err(error @ X509Error::TooComplex { .. })) => return Err(error),
                _ => continue,
            }
            if !matches!(list.parsed.find_serial(serial), Ok(None)) {
                return Err(X509Error::Revoked);
            }
        }
        if named && !signed {
            return Err(X509Error::RevocationUnknown);
        }
        Ok(())
    }
}

impl List {
    fn parse(der: CertificateRevocationListDer<'static>) -> Result<Self, BundleError> {
        if der.len() > MAX_REVOCATION_LIST_BYTES {
            return Err(BundleError::new(
                Rule::DocumentTooLarge,
                format!("the list has more than {MAX_REVOCATION_LIST_BYTES} bytes"),
            ));
        }
        let parsed = OwnedCertRevocationList::from_der(&der).map_err(|error| {
            BundleError::new(
                Rule::RevocationList,
                format!("the list cannot be read: {error}"),
            )
        })?;
        let parsed = CertRevocationList::from(parsed);
        if parsed.issuing_distribution_point().is_some() {
            return Err(BundleError::new(
                Rule::RevocationList,
                "the list is of a part of its issuer's certificates",
            ));
        }
        Ok(Self { der, parsed })
    }
}
