//! Lists of revoked certificates: off unless given, and then judged along the whole path.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use rcgen::{
    CertificateParams, CertificateRevocationListParams, CrlDistributionPoint,
    CrlIssuingDistributionPoint, KeyIdMethod, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use spiffe_core::pki_types::CertificateRevocationListDer;
use spiffe_core::verify::{PeerRole, Revocations, X509Verifier};
use spiffe_core::{BundleSet, Rule};
use support::*;

const ID: &str = "spiffe://a/x";

type List = CertificateRevocationListDer<'static>;

fn list(issuer: &Authority, serials: &[u64], part: bool) -> List {
    let at =
        |offset| time::OffsetDateTime::from_unix_timestamp(NOW.unix_seconds() + offset).unwrap();
    let revoked = |serial: &u64| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: at(-60),
        reason_code: None,
        invalidity_date: None,
    };
    CertificateRevocationListParams {
        // Long past its next update: it revokes still.
        this_update: at(-1200),
        next_update: at(-600),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: part.then(|| CrlIssuingDistributionPoint {
            distribution_point: CrlDistributionPoint {
                uris: vec!["http://a/crl".into()],
            },
            scope: None,
        }),
        revoked_certs: serials.iter().map(revoked).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    }
    .signed_by(issuer)
    .unwrap()
    .der()
    .clone()
}

fn numbered(mut params: CertificateParams, serial: u64) -> CertificateParams {
    params.serial_number = Some(SerialNumber::from(serial));
    params
}

#[track_caller]
fn check_lists(
    chain: &[spiffe_core::pki_types::CertificateDer<'_>],
    bundles: &BundleSet,
    lists: Vec<List>,
    expected: Result<&str, Rule>,
) {
    let revocations = Revocations::from_der(lists);
    assert!(revocations.ignored().is_empty(), "{revocations:?}");
    let verifier = X509Verifier::new(&*crypto());
    // An issuer that was remembered before lists were given is judged by them all the same.
    let unlisted = verifier.verify(chain, bundles, NOW, PeerRole::Client);
    assert!(unlisted.is_ok());
    let verifier = verifier.with_revocations(Arc::new(revocations));
    check_with(&verifier, chain, bundles, NOW, PeerRole::Client, expected);
}

#[test]
fn a_certificate_that_its_issuer_revoked_is_refused_anywhere_in_the_path() {
    let top = root(ca_params("root"));
    let upper = intermediate(numbered(ca_params("upper"), 100), &top);
    let lower = intermediate(confined(numbered(ca_params("lower"), 200), &["a"]), &upper);
    let sent = chain(numbered(leaf_params(ID), 300), &[&lower, &upper, &top]);
    let of_a = bundles(&[("a", &[&top])]);
    let no = Err(Rule::PathRevoked);
    check_lists(&sent, &of_a, vec![], Ok(ID));
    check_lists(&sent, &of_a, vec![list(&top, &[100], false)], no);
    check_lists(&sent, &of_a, vec![list(&upper, &[5, 200], false)], no);
    check_lists(&sent, &of_a, vec![list(&lower, &[300], false)], no);
    // Others' numbers revoke nothing here.
    let others = [
        (&top, [200, 300]),
        (&upper, [100, 300]),
        (&lower, [100, 200]),
    ];
    let lists = others.map(|(issuer, serials)| list(issuer, &serials, false));
    check_lists(&sent, &of_a, lists.into(), Ok(ID));
}

#[test]
fn a_list_counts_only_with_its_issuers_signature() {
    let top = root(ca_params("root"));
    let middle = intermediate(ca_params("middle"), &top);
    let twin = intermediate(ca_params("middle"), &top);
    let sent = chain(numbered(leaf_params(ID), 300), &[&middle, &top]);
    let of_a = bundles(&[("a", &[&top])]);
    // The same name, another key: nobody can tell, so it is refused, listed or not.
    check_lists(
        &sent,
        &of_a,
        vec![list(&twin, &[300], false)],
        Err(Rule::PathRevoked),
    );
    check_lists(
        &sent,
        &of_a,
        vec![list(&twin, &[], false)],
        Err(Rule::PathRevoked),
    );
    // With the right one beside it, that one decides.
    let both = |serials: &[u64]| vec![list(&twin, &[300], false), list(&middle, serials, false)];
    check_lists(&sent, &of_a, both(&[]), Ok(ID));
    check_lists(&sent, &of_a, both(&[300]), Err(Rule::PathRevoked));
}

#[test]
fn an_issuer_without_crl_sign_signs_no_list() {
    let top = root(ca_params("root"));
    let mut params = ca_params("middle");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let middle = intermediate(params, &top);
    // Of the same name and key, and allowed to sign lists, so that the test can have one made.
    let able = rcgen::CertifiedIssuer::signed_by(
        ca_params("middle"),
        rcgen::KeyPair::try_from(middle.key().serialize_der()).unwrap(),
        &top,
    )
    .unwrap();
    let of_a = bundles(&[("a", &[&top])]);
    let lists = || vec![list(&able, &[], false)];
    let sent = chain(leaf_params(ID), &[&middle, &top]);
    check_lists(&sent, &of_a, lists(), Err(Rule::PathRevoked));
    let mut sent = sent;
    sent[1] = able.der().clone();
    check_lists(&sent, &of_a, lists(), Ok(ID));
}

/// As for intermediates, for the authority itself, whose certificate is in the bundle.
#[test]
fn an_authority_without_crl_sign_signs_no_list() {
    let able = root(ca_params("root"));
    let mut params = ca_params("root");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let same_key = rcgen::KeyPair::try_from(able.key().serialize_der()).unwrap();
    let unable = rcgen::CertifiedIssuer::self_signed(params, same_key).unwrap();
    let sent = chain(leaf_params(ID), &[&able]);
    let lists = || vec![list(&able, &[], false)];
    check_lists(&sent, &bundles(&[("a", &[&able])]), lists(), Ok(ID));
    let of_a = bundles(&[("a", &[&unable])]);
    check_lists(&sent, &of_a, lists(), Err(Rule::PathRevoked));
    check_lists(&sent, &of_a, vec![], Ok(ID));
}

#[test]
fn lists_that_cannot_be_used_are_reported() {
    let top = root(ca_params("root"));
    let good = list(&top, &[1], false);
    let partial = list(&top, &[1], true);
    let huge = CertificateRevocationListDer::from(vec![0x30; 2 * 1024 * 1024]);
    let garbage = CertificateRevocationListDer::from(vec![1, 2, 3]);
    let revocations = Revocations::from_der([garbage, partial, good.clone(), huge]);
    let rules: Vec<_> = revocations
        .ignored()
        .iter()
        .map(|entry| (entry.index, entry.rule))
        .collect();
    assert_eq!(
        rules,
        [
            (0, Rule::RevocationList),
            (1, Rule::RevocationList),
            (3, Rule::DocumentTooLarge)
        ]
    );
    assert_eq!(revocations.len(), 1);
    assert!(revocations.lists().eq([&good]));
    let sized = |bytes| CertificateRevocationListDer::from(vec![0x30; bytes]);
    let at_the_limit = Revocations::from_der([sized(1024 * 1024), sized(1024 * 1024 + 1)]);
    let rules: Vec<_> = at_the_limit.ignored().iter().map(|one| one.rule).collect();
    assert_eq!(rules, [Rule::RevocationList, Rule::DocumentTooLarge]);
    let long: Vec<_> = (1..=2000).collect();
    assert_eq!(Revocations::from_der([list(&top, &long, false)]).len(), 1);
    let many = Revocations::from_der((0..257).map(|_| list(&top, &[], false)));
    assert_eq!((many.len(), many.ignored()[0].index), (256, 256));
}
