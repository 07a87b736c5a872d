//! Verifying a peer's chain.

use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use spiffe_core::BundleSet;
use spiffe_core::crypto::aws_lc_rs;
use spiffe_core::pki_types::{CertificateDer, UnixTime};
use spiffe_core::verify::{IssuerCache, PeerRole, X509Verifier};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::parse_x509_certificate;

use super::Measured;
use crate::Effort;
use crate::fixtures::{Domain, bundle, now};
use crate::measure::{contender, in_turns};
use crate::report::{Budget, Row};

pub(crate) const CHAIN: &str = "verify/x509/chain2";
pub(crate) const CHAIN_OVER_WEBPKI: &str = "verify/x509/chain2-over-webpki";
pub(crate) const WARM: &str = "verify/x509/warm";

/// A leaf and its intermediate, on P-256: two signatures must be checked, whatever else is done, unless the intermediate
/// is remembered.
pub(crate) fn chain(effort: Effort) -> Measured {
    let root = Domain::new("example.org")?;
    let intermediate = root.intermediate()?;
    let svid = intermediate.svid("web")?;
    let bundles: BundleSet = [bundle("example.org", &[&root])?].into_iter().collect();
    let cold = cold_verifier();
    let warm_issuers = Arc::new(IssuerCache::default());
    let warm = X509Verifier::new(&*aws_lc_rs()).with_issuer_cache(warm_issuers.clone());
    let now = now();
    cold.verify(svid.chain(), &bundles, now, PeerRole::Client)?;
    warm.verify(svid.chain(), &bundles, now, PeerRole::Client)?;
    if warm_issuers.len() != 1 {
        return Err("the intermediate is not remembered".into());
    }
    let links = [
        Link::read(svid.leaf(), intermediate.certificate())?,
        Link::read(intermediate.certificate(), root.certificate())?,
    ];
    if !links.iter().all(Link::is_signed) {
        return Err("the floor does not find the signatures good".into());
    }
    let anchors = [webpki::anchor_from_trusted_cert(root.certificate())?];
    let time = UnixTime::since_unix_epoch(Duration::from_secs(now.unix_seconds().unsigned_abs()));
    let webpki = |chain: &[CertificateDer<'_>]| {
        EndEntityCert::try_from(&chain[0])?
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &anchors,
                &chain[1..],
                time,
                KeyUsage::client_auth(),
                None,
                None,
            )
            .map(drop)
    };
    webpki(svid.chain())?;
    let [ours, warm, floor, one, webpki] = in_turns(
        effort.span,
        [
            contender(|| cold.verify(black_box(svid.chain()), &bundles, now, PeerRole::Client)),
            contender(|| warm.verify(black_box(svid.chain()), &bundles, now, PeerRole::Client)),
            contender(|| black_box(&links).iter().all(Link::is_signed)),
            contender(|| black_box(&links[0]).is_signed()),
            contender(|| webpki(black_box(svid.chain()))),
        ],
    );
    Ok(vec![
        Row::new(
            CHAIN,
            "µs",
            ours / 1e3,
            "its two signature checks",
            floor / 1e3,
            Budget::Ratio(1.03),
        ),
        Row::new(
            CHAIN_OVER_WEBPKI,
            "µs",
            ours / 1e3,
            "webpki alone, the anchor chosen for it",
            webpki / 1e3,
            None,
        ),
        Row::new(
            WARM,
            "µs",
            warm / 1e3,
            "the leaf's signature check",
            one / 1e3,
            Budget::Ratio(1.05),
        ),
    ])
}

/// A verifier that remembers no issuer, so that every chain is verified whole.
pub(crate) fn cold_verifier() -> X509Verifier {
    X509Verifier::new(&*aws_lc_rs()).with_issuer_cache(Arc::new(IssuerCache::with_capacity(0)))
}

/// One signature, ready to be checked.
struct Link {
    message: Vec<u8>,
    signature: Vec<u8>,
    key: Vec<u8>,
}

impl Link {
    fn read(
        certificate: &CertificateDer<'_>,
        issuer: &CertificateDer<'_>,
    ) -> Result<Self, Box<dyn Error>> {
        let (_, certificate) = parse_x509_certificate(certificate)?;
        let (_, issuer) = parse_x509_certificate(issuer)?;
        Ok(Self {
            message: certificate.tbs_certificate.as_ref().to_vec(),
            signature: certificate.signature_value.data.to_vec(),
            key: issuer.public_key().subject_public_key.data.to_vec(),
        })
    }

    fn is_signed(&self) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.key)
            .verify(&self.message, &self.signature)
            .is_ok()
    }
}
