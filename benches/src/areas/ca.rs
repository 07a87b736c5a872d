//! Issuing SVIDs.

use std::hint::black_box;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, UnparsedPublicKey,
};
use rcgen::{CertificateParams, KeyPair};
use spiffe_core::{SpiffeId, TrustDomain};
use spiffe_svid_ca::{Csr, JwtSvidParams, TrustDomainCa, X509SvidParams};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::Measured;
use crate::Effort;
use crate::fixtures::{now, ready};
use crate::measure::{contender, in_turns};
use crate::report::{Budget, Row};

pub(crate) const CSR: &str = "ca/issue/csr";
pub(crate) const SPKI: &str = "ca/issue/spki";
pub(crate) const JWT: &str = "ca/issue/jwt";

/// The floors sign as many bytes as a certificate has, and before a request's certificate check the request's own
/// signature; all on P-256, the CA's key in memory.
pub(crate) fn issue(effort: Effort) -> Measured {
    let now = now();
    let ca = ready(TrustDomainCa::builder(TrustDomain::parse("example.org")?).build(now))??;
    let id = SpiffeId::parse("spiffe://example.org/ns/prod/sa/web")?;
    let params = X509SvidParams::new(id.clone());
    let jwt_params = JwtSvidParams::new(id, "spiffe://example.org/db");

    let request = CertificateParams::default().serialize_request(&KeyPair::generate()?)?;
    let request: &[u8] = request.der();
    let public_key = Csr::from_der(request, ca.key_policy(), &**ca.crypto())?
        .public_key()
        .clone();
    let issued = ready(ca.issue_x509(&params, &public_key, now))??;
    ready(ca.issue_jwt(&jwt_params, now))??;

    let (_, parsed) = X509CertificationRequest::from_der(request)?;
    let signed = parsed.certification_request_info.raw;
    let signature = &parsed.signature_value.data;
    let key = &parsed
        .certification_request_info
        .subject_pki
        .subject_public_key
        .data;
    let verify = || {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key)
            .verify(black_box(signed), signature)
            .is_ok()
    };
    let random = SystemRandom::new();
    let signer = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
    let message = issued.chain.first().ok_or("an SVID has a leaf")?;
    let sign = || signer.sign(&random, black_box(message)).is_ok();
    if !verify() || !sign() {
        return Err("the floor cannot do its part".into());
    }

    let [csr, verify_and_sign, spki, jwt, signed_only] = in_turns(
        effort.span,
        [
            contender(|| {
                Csr::from_der(black_box(request), ca.key_policy(), &**ca.crypto())
                    .map(|csr| ready(ca.issue_x509(&params, csr.public_key(), now)))
            }),
            contender(|| verify() && sign()),
            contender(|| ready(ca.issue_x509(&params, black_box(&public_key), now))),
            contender(|| ready(ca.issue_jwt(black_box(&jwt_params), now))),
            contender(sign),
        ],
    );
    let row = |name, ours: f64, against, value: f64, budget| {
        Row::new(name, "µs", ours / 1e3, against, value / 1e3, budget)
    };
    Ok(vec![
        // At least 70 % of the floor's rate.
        row(
            CSR,
            csr,
            "one check and one signature",
            verify_and_sign,
            Some(Budget::Ratio(1.43)),
        ),
        row(SPKI, spki, "one signature", signed_only, None),
        row(JWT, jwt, "one signature", signed_only, None),
    ])
}
