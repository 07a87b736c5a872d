//! What an issuer must know of its own certificate beyond what bundles keep: who issued it and how far it reaches.

use spiffe_core::pki_types::CertificateDer;

use crate::der::{
    BOOLEAN, INTEGER, NotDer, OBJECT_IDENTIFIER, OCTET_STRING, Reader, SEQUENCE, context,
    context_constructed,
};

/// Parts of a certificate, as slices of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Certificate<'a> {
    /// The issuer's Name, whole.
    pub(crate) issuer: &'a [u8],
    /// The subject's Name, whole.
    pub(crate) subject: &'a [u8],
    /// The path length constraint: how many intermediates may follow.
    pub(crate) path_length: Option<u8>,
    /// The key identifier of whoever signed it.
    pub(crate) authority_key_id: Option<&'a [u8]>,
}

impl<'a> Certificate<'a> {
    pub(crate) fn parse(der: &'a CertificateDer<'_>) -> Result<Self, NotDer> {
        let mut tbs = Reader::new(Reader::new(Reader::new(der).only(SEQUENCE)?).value(SEQUENCE)?);
        tbs.value(context_constructed(0))?;
        tbs.value(INTEGER)?;
        tbs.value(SEQUENCE)?;
        let (_, issuer) = tbs.element(SEQUENCE)?;
        tbs.value(SEQUENCE)?;
        let (_, subject) = tbs.element(SEQUENCE)?;
        tbs.value(SEQUENCE)?;
        let mut path_length = None;
        let mut authority_key_id = None;
        if let Ok(extensions) = tbs.value(context_constructed(3)) {
            let mut extensions = Reader::new(Reader::new(extensions).only(SEQUENCE)?);
            while !extensions.is_empty() {
                let mut extension = Reader::new(extensions.value(SEQUENCE)?);
                let oid = extension.value(OBJECT_IDENTIFIER)?;
                // Critical or not.
                let _ = extension.value(BOOLEAN);
                let value = extension.value(OCTET_STRING)?;
                if oid == BASIC_CONSTRAINTS {
                    path_length = self::path_length(value)?;
                } else if oid == AUTHORITY_KEY_ID {
                    let mut parts = Reader::new(Reader::new(value).only(SEQUENCE)?);
                    authority_key_id = parts.value(context(0)).ok();
                }
            }
        }
        Ok(Self {
            issuer,
            subject,
            path_length,
            authority_key_id,
        })
    }

    /// RFC 5280 §3.2: issuer and subject are the same.
    pub(crate) fn is_self_issued(&self) -> bool {
        self.issuer == self.subject
    }
}

fn path_length(value: &[u8]) -> Result<Option<u8>, NotDer> {
    let mut constraints = Reader::new(Reader::new(value).only(SEQUENCE)?);
    let _ = constraints.value(BOOLEAN);
    if constraints.is_empty() {
        return Ok(None);
    }
    match constraints.value(INTEGER)? {
        [length @ 0..=0x7f] => Ok(Some(*length)),
        // No chain that anybody verifies comes near.
        _ => Ok(Some(u8::MAX)),
    }
}

const AUTHORITY_KEY_ID: &[u8] = b"\x55\x1d\x23";
const BASIC_CONSTRAINTS: &[u8] = b"\x55\x1d\x13";
