//! Verifying a peer's chain.

use std::hint::black_box;
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use spiffe_core::BundleSet;
use spiffe_core::crypto::aws_lc_rs;
use spiffe_core::pki_types::{CertificateDer, UnixTime};
use spiffe_core::verify::{PeerRole, X509Verifier};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::parse_x509_certificate;

use super::Measured;
use crate::Effort;
use crate::fixtures::{Domain, bundle, now};
use crate::measure::{contender, in_turns};
use crate::report::{Budget, Row};

pub(crate) const CHAIN: &str = "verify/x509/chain2";
pub(crate) const CHAIN_OVER_WEBPKI: &str = "verify/x509/chain2-over-webpki";

/// A leaf and its intermediate, on P-256: two signatures must be checked, whatever else is done.
pub(crate) fn chain(effort: Effort) -> Measured {
    let root = Domain::new("example.org")?;
    let intermediate = root.intermediate()?;
    let svid = intermediate.svid("web")?;
    let bundles: BundleSet = [bundle("example.org", &[&root])?].into_iter().collect();
    let verifier = X509Verifier::new(&*aws_lc_rs());
    let now = now();
    verifier.verify(svid.chain(), &bundles, now, PeerRole::Client)?;
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
    let [ours, floor, webpki] = in_turns(
        effort.span,
        [
            contender(|| verifier.verify(black_box(svid.chain()), &bundles, now, PeerRole::Client)),
            contender(|| black_box(&links).iter().all(Link::is_signed)),
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
    ])
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
    ) -> Result<Self, Box<dyn std::error::Error>> {
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
