//! What we issue, byte for byte and by the judgement of others: webpki, x509-parser and core.
#![cfg(feature = "aws-lc-rs")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{NOW, ca, crypto, id, key, ready, trust_domain, web};
use spiffe_core::key::{KeyType, Signer};
use spiffe_core::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use spiffe_core::{Random, RandomError, Timestamp, X509Svid};
use spiffe_svid_ca::error::{IssueError, IssuerError, PublicKeyError};
use spiffe_svid_ca::issuer::{IssuerSettings, X509Issuer};
use spiffe_svid_ca::{
    Csr, DnsName, IntermediateParams, IssuedX509, Profile, PublicKeyKind, TrustDomainCa,
    X509SvidParams,
};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

fn issue(ca: &TrustDomainCa, params: &X509SvidParams) -> Result<IssuedX509, IssueError> {
    let key = key(KeyType::EcP256);
    ready(ca.issue_x509(params, key.public_key(), NOW))
}

fn parse(der: &[u8]) -> X509Certificate<'_> {
    let (rest, certificate) = X509Certificate::from_der(der).unwrap();
    assert!(rest.is_empty());
    certificate
}

/// The extension's criticality and value.
fn extension<'a>(certificate: &'a X509Certificate<'_>, oid: &str) -> (bool, &'a [u8]) {
    let extension = certificate
        .extensions()
        .iter()
        .find(|extension| extension.oid.to_id_string() == oid)
        .unwrap();
    (extension.critical, extension.value)
}

/// Verifies the chain as a TLS server's and client's would be, at an instant.
fn verify(
    ca: &TrustDomainCa,
    chain: &[CertificateDer<'_>],
    at: Timestamp,
) -> Result<(), webpki::Error> {
    let bundle = ca.bundle();
    let anchors: Vec<_> = bundle
        .x509_authorities()
        .iter()
        .map(|authority| webpki::anchor_from_trusted_cert(authority.certificate()).unwrap())
        .collect();
    verify_under(&anchors, chain, at)
}

fn verify_under(
    anchors: &[TrustAnchor<'_>],
    chain: &[CertificateDer<'_>],
    at: Timestamp,
) -> Result<(), webpki::Error> {
    let time = UnixTime::since_unix_epoch(Duration::from_secs(at.unix_seconds() as u64));
    let leaf = webpki::EndEntityCert::try_from(&chain[0])?;
    for usage in [
        webpki::KeyUsage::server_auth(),
        webpki::KeyUsage::client_auth(),
    ] {
        leaf.verify_for_usage(
            crypto().signature_algorithms(),
            anchors,
            &chain[1..],
            time,
            usage,
            None,
            None,
        )?;
    }
    Ok(())
}

#[test]
fn a_leaf_keeps_the_profile_byte_by_byte() {
    let ca = ca();
    let issued = issue(&ca, &web()).unwrap();
    let leaf = parse(&issued.chain[0]);
    let authority = ca.bundle();
    let authority = parse(
        authority
            .x509_authorities()
            .iter()
            .next()
            .unwrap()
            .certificate(),
    );

    assert_eq!(leaf.version().0, 2);
    assert_eq!(leaf.issuer().as_raw(), authority.subject().as_raw());
    assert_eq!(leaf.subject().as_raw(), [0x30, 0]);
    assert_eq!(leaf.signature_algorithm, leaf.tbs_certificate.signature);
    // Sixteen random bytes, positive though the first bit is set.
    assert_eq!(leaf.raw_serial(), [&[0][..], &issued.serial].concat());
    assert!(issued.serial[0] >= 0x80);

    let order: Vec<_> = leaf
        .extensions()
        .iter()
        .map(|extension| extension.oid.to_id_string())
        .collect();
    assert_eq!(
        order,
        [
            "2.5.29.15",
            "2.5.29.37",
            "2.5.29.19",
            "2.5.29.14",
            "2.5.29.35",
            "2.5.29.17"
        ]
    );
    assert_eq!(extension(&leaf, "2.5.29.15"), (true, &[3, 2, 7, 0x80][..]));
    assert_eq!(
        extension(&leaf, "2.5.29.37"),
        (
            false,
            &b"\x30\x14\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x02"[..]
        )
    );
    assert_eq!(extension(&leaf, "2.5.29.19"), (true, &[0x30, 0][..]));
    // The subject is empty, so the names are critical.
    assert_eq!(
        extension(&leaf, "2.5.29.17"),
        (true, &b"\x30\x1a\x86\x18spiffe://example.org/web"[..])
    );
    let (critical, key_id) = extension(&authority, "2.5.29.14");
    assert!(!critical);
    assert_eq!(
        extension(&leaf, "2.5.29.35"),
        (false, &[&[0x30, 22, 0x80, 20], &key_id[2..]].concat()[..])
    );
}

#[test]
fn an_authority_keeps_the_profile_byte_by_byte() {
    let ca = ca();
    let bundle = ca.bundle();
    let der = bundle
        .x509_authorities()
        .iter()
        .next()
        .unwrap()
        .certificate();
    let authority = parse(der);
    let serial = authority.serial.to_string();
    assert_eq!(
        authority.subject().to_string(),
        format!("C=US, O=SPIFFE, serialNumber={serial}")
    );
    assert_eq!(authority.issuer().as_raw(), authority.subject().as_raw());
    assert_eq!(
        extension(&authority, "2.5.29.15"),
        (true, &[3, 2, 1, 6][..])
    );
    assert_eq!(
        extension(&authority, "2.5.29.19"),
        (true, &[0x30, 3, 1, 1, 0xff][..])
    );
    assert_eq!(
        extension(&authority, "2.5.29.17").1,
        b"\x30\x16\x86\x14spiffe://example.org"
    );
    assert_eq!(authority.extensions().len(), 4);
    let from = authority.validity().not_before.timestamp();
    let until = authority.validity().not_after.timestamp();
    assert_eq!(
        (from, until),
        (NOW.unix_seconds() - 10, NOW.unix_seconds() + 86_400)
    );
}

#[test]
fn spires_profile_has_spires_subject_and_key_usage() {
    let ca = ready(common::builder().profile(Profile::spire()).build(NOW)).unwrap();
    let plain = issue(&ca, &web()).unwrap();
    let plain = parse(&plain.chain[0]);
    assert_eq!(plain.subject().to_string(), "C=US, O=SPIRE");
    assert_eq!(extension(&plain, "2.5.29.15"), (true, &[3, 2, 3, 0xa8][..]));
    // The subject says something, so the names need not be critical.
    assert!(!extension(&plain, "2.5.29.17").0);

    let names = ["web.example", "www.example"].map(|name| DnsName::parse(name).unwrap());
    let named = issue(&ca, &web().with_dns_names(names)).unwrap();
    let named = parse(&named.chain[0]);
    assert_eq!(named.subject().to_string(), "C=US, O=SPIRE, CN=web.example");

    let long = DnsName::parse(&format!("{}.example", "a".repeat(60))).unwrap();
    let long = issue(&ca, &web().with_dns_names([long])).unwrap();
    assert_eq!(parse(&long.chain[0]).subject().to_string(), "C=US, O=SPIRE");
}

#[test]
fn names_are_the_dns_names_and_one_spiffe_id() {
    let names = ["web.example", "*.web.example"].map(|name| DnsName::parse(name).unwrap());
    let issued = issue(&ca(), &web().with_dns_names(names)).unwrap();
    let leaf = parse(&issued.chain[0]);
    let found = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!(
        found.value.general_names,
        [
            GeneralName::DNSName("web.example"),
            GeneralName::DNSName("*.web.example"),
            GeneralName::URI("spiffe://example.org/web"),
        ]
    );
}

#[test]
fn leaves_of_every_kind_of_key_verify_under_authorities_of_every_kind() {
    let kinds = [
        KeyType::EcP256,
        KeyType::EcP384,
        KeyType::EcP521,
        KeyType::Ed25519,
        KeyType::Rsa2048,
    ];
    for authority in kinds {
        let ca = ready(common::builder().x509_key_type(authority).build(NOW)).unwrap();
        for leaf in kinds {
            let svid = ready(ca.issue_x509_svid(&web(), leaf, NOW)).unwrap();
            assert_eq!(svid.id(), &web().id);
            assert_eq!(
                verify(&ca, svid.chain(), NOW),
                Ok(()),
                "{leaf:?} under {authority:?}"
            );
        }
    }
}

#[test]
fn a_leaf_of_another_authority_does_not_verify() {
    let (ca, other) = (ca(), ca());
    let issued = issue(&ca, &web()).unwrap();
    assert_eq!(verify(&ca, &issued.chain, NOW), Ok(()));
    assert!(verify(&other, &issued.chain, NOW).is_err());
}

#[test]
fn a_leaf_is_valid_from_ten_seconds_ago_for_as_long_as_asked() {
    let ca = ca();
    let issued = issue(&ca, &web().with_ttl(Duration::from_secs(60))).unwrap();
    assert_eq!(issued.not_before, NOW - Duration::from_secs(10));
    assert_eq!(issued.not_after, NOW + Duration::from_secs(60));
    assert!(!issued.capped);
    let seconds = |offset: i64| Timestamp::from_unix_seconds(NOW.unix_seconds() + offset);
    assert!(verify(&ca, &issued.chain, seconds(-11)).is_err());
    assert!(verify(&ca, &issued.chain, seconds(-10)).is_ok());
    assert!(verify(&ca, &issued.chain, seconds(60)).is_ok());
    assert!(verify(&ca, &issued.chain, seconds(61)).is_err());
    assert_eq!(
        issue(&ca, &web()).unwrap().not_after,
        seconds(3600),
        "the default is an hour"
    );
}

#[test]
fn a_lifetime_is_cut_to_the_authoritys_and_the_result_says_so() {
    let ca = ca();
    let end = NOW + Duration::from_secs(86_400);
    let ask = |seconds| issue(&ca, &web().with_ttl(Duration::from_secs(seconds))).unwrap();
    let (exact, beyond) = (ask(86_400), ask(86_401));
    assert_eq!((exact.not_after, exact.capped), (end, false));
    assert_eq!((beyond.not_after, beyond.capped), (end, true));
    assert_eq!(
        issue(&ca, &web().with_ttl(Duration::MAX))
            .unwrap()
            .not_after,
        end
    );
}

#[test]
fn nothing_is_issued_outside_the_authoritys_validity() {
    let ca = ca();
    let key = key(KeyType::EcP256);
    let at = |now| ready(ca.issue_x509(&web(), key.public_key(), now));
    let end = NOW + Duration::from_secs(86_400);
    assert!(at(end - Duration::from_secs(1)).is_ok());
    assert!(matches!(at(end), Err(IssueError::AuthorityExpired { not_after }) if not_after == end));
    let start = NOW - Duration::from_secs(10);
    assert!(at(start).is_ok());
    let before = start - Duration::from_secs(1);
    assert!(
        matches!(at(before), Err(IssueError::AuthorityNotYetValid { now, .. }) if now == before)
    );
}

#[test]
fn times_from_2050_are_written_in_full() {
    let start: Timestamp = "2049-12-31T23:30:00Z".parse().unwrap();
    let ca = ready(common::builder().build(start)).unwrap();
    let key = key(KeyType::EcP256);
    let issue = |ttl| {
        let params = web().with_ttl(Duration::from_secs(ttl));
        ready(ca.issue_x509(&params, key.public_key(), start)).unwrap()
    };
    let holds = |issued: &IssuedX509, text: &[u8]| {
        issued.chain[0]
            .windows(text.len())
            .any(|window| window == text)
    };
    let last = issue(1799);
    assert!(holds(&last, b"\x17\x0d491231235959Z"));
    let first = issue(1800);
    assert!(holds(
        &first,
        b"\x17\x0d491231232950Z\x18\x0f20500101000000Z"
    ));
    // The authority itself ends in 2050.
    assert_eq!(verify(&ca, &first.chain, start), Ok(()));
}

#[test]
fn an_id_is_a_workloads_of_the_own_trust_domain() {
    let ca = ca();
    let ask = |text| issue(&ca, &X509SvidParams::new(id(text)));
    assert!(ask("spiffe://example.org/a").is_ok());
    assert!(matches!(
        ask("spiffe://example.org"),
        Err(IssueError::PathMissing { .. })
    ));
    assert!(matches!(
        ask("spiffe://other.example/a"),
        Err(IssueError::ForeignTrustDomain { .. })
    ));
    // 2048 bytes are the most that an ID has; a longer one is no value of the type.
    let longest = format!("spiffe://example.org/{}", "a".repeat(2048 - 21));
    assert!(ask(&longest).is_ok());
    assert!(spiffe_core::SpiffeId::parse(&format!("{longest}a")).is_err());
}

#[test]
fn lifetimes_below_a_second_are_refused() {
    let ca = ca();
    let ask = |ttl| issue(&ca, &web().with_ttl(ttl));
    assert!(ask(Duration::from_secs(1)).is_ok());
    for ttl in [Duration::ZERO, Duration::from_millis(999)] {
        assert!(matches!(ask(ttl), Err(IssueError::TtlTooShort)));
    }
}

#[test]
fn dns_names_are_counted() {
    let ca = ca();
    let name = DnsName::parse("a.example").unwrap();
    let ask = |count| issue(&ca, &web().with_dns_names(vec![name.clone(); count]));
    assert!(ask(256).is_ok());
    assert!(matches!(ask(257), Err(IssueError::TooManyDnsNames)));
}

#[test]
fn keys_that_the_policy_refuses_are_not_certified() {
    let mut policy = spiffe_svid_ca::KeyPolicy::default();
    policy.ec_p384 = false;
    let ca = ready(common::builder().key_policy(policy).build(NOW)).unwrap();
    let ask = |kind| ready(ca.issue_x509(&web(), key(kind).public_key(), NOW));
    assert!(ask(KeyType::EcP256).is_ok());
    assert!(matches!(
        ask(KeyType::EcP384),
        Err(IssueError::Key(PublicKeyError::Refused {
            kind: PublicKeyKind::EcP384
        }))
    ));
}

#[test]
fn of_a_signing_request_only_the_key_counts() {
    let ca = ca();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut asked = rcgen::CertificateParams::new(vec!["evil.example".into()]).unwrap();
    asked
        .distinguished_name
        .push(rcgen::DnType::CommonName, "evil");
    asked.subject_alt_names.push(rcgen::SanType::URI(
        "spiffe://example.org/admin".try_into().unwrap(),
    ));
    asked.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let request = asked.serialize_request(&key).unwrap();
    let csr = Csr::from_der(request.der(), ca.key_policy(), &**ca.crypto()).unwrap();
    let issued = ready(ca.issue_x509(&web(), csr.public_key(), NOW)).unwrap();
    let leaf = parse(&issued.chain[0]);
    assert_eq!(leaf.public_key().raw, csr.public_key().as_ref());
    assert!(!issued.chain[0].windows(4).any(|window| window == b"evil"));
    assert!(!issued.chain[0].windows(5).any(|window| window == b"admin"));
    assert!(leaf.extensions().iter().all(|extension| !matches!(
        extension.parsed_extension(),
        ParsedExtension::KeyUsage(usage) if usage.key_cert_sign()
    )));
}

#[test]
fn core_loads_what_is_issued() {
    let ca = ca();
    let crypto = crypto();
    let key = crypto.generate_key(KeyType::EcP256).unwrap();
    let public = crypto.load_key(&key).unwrap().public_key().clone();
    let params = web().with_hint(Some("internal".to_owned()));
    let issued = ready(ca.issue_x509(&params, &public, NOW)).unwrap();
    let svid = X509Svid::new(issued.chain.clone(), key, &*crypto).unwrap();
    assert_eq!(svid.id(), &issued.id);
    assert_eq!(svid.not_after(), issued.not_after);
    assert_eq!(issued.hint.as_deref(), Some("internal"));
    assert_eq!(
        issued.authority,
        ca.state()
            .slots(spiffe_svid_ca::authority::Kind::X509)
            .active()
            .unwrap()
            .id()
    );
}

/// An authority that rcgen's root signed, with a subject that a map of attributes would lose.
struct Intermediate {
    root: CertificateDer<'static>,
    certificate: CertificateDer<'static>,
    signer: Arc<dyn Signer>,
}

impl Intermediate {
    fn new(authority: bool) -> Self {
        let root_key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "root");
        let root = params.self_signed(&root_key).unwrap().der().clone();
        let issuer = rcgen::Issuer::new(params, root_key);

        let key = crypto().generate_key(KeyType::EcP256).unwrap();
        let signer = crypto().load_key(&key).unwrap();
        let own = rcgen::KeyPair::try_from(key.secret_pkcs8_der()).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = if authority {
            rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0))
        } else {
            rcgen::IsCa::ExplicitNoCa
        };
        params.distinguished_name.push(
            rcgen::DnType::OrganizationName,
            rcgen::DnValue::BmpString("caf\u{e9}".try_into().unwrap()),
        );
        let certificate = params.signed_by(&own, &issuer).unwrap().der().clone();
        Self {
            root,
            certificate,
            signer,
        }
    }

    fn issuer(&self, signer: &Arc<dyn Signer>) -> Result<X509Issuer, IssuerError> {
        X509Issuer::new(
            trust_domain(),
            self.certificate.clone(),
            Vec::new(),
            signer.clone(),
            Arc::new(IssuerSettings::new(
                crypto(),
                spiffe_core::crypto::system_random(),
            )),
        )
    }
}

#[test]
fn an_authority_below_a_root_is_part_of_the_chain() {
    let authority = Intermediate::new(true);
    let issuer = authority.issuer(&authority.signer).unwrap();
    let key = key(KeyType::EcP256);
    let issued = ready(issuer.issue(&web(), key.public_key(), NOW)).unwrap();
    assert_eq!(issued.chain.len(), 2);
    assert_eq!(issued.chain[1], authority.certificate);
    assert_eq!(
        parse(&issued.chain[0]).issuer().as_raw(),
        parse(&authority.certificate).subject().as_raw()
    );
    let anchors = [webpki::anchor_from_trusted_cert(&authority.root).unwrap()];
    assert_eq!(verify_under(&anchors, &issued.chain, NOW), Ok(()));
}

#[test]
fn an_issuer_is_an_authority_with_its_own_key() {
    let authority = Intermediate::new(true);
    assert!(authority.issuer(&authority.signer).is_ok());
    assert_eq!(
        authority.issuer(&key(KeyType::EcP256)).unwrap_err(),
        IssuerError::KeyMismatch
    );
    let leaf = Intermediate::new(false);
    assert!(matches!(
        leaf.issuer(&leaf.signer),
        Err(IssuerError::NotAuthority { .. })
    ));
}

#[test]
fn no_serial_number_without_randomness() {
    #[derive(Debug)]
    struct Broken(bool);
    impl Random for Broken {
        fn fill(&self, bytes: &mut [u8]) -> Result<(), RandomError> {
            bytes.fill(0);
            if self.0 {
                Ok(())
            } else {
                Err(RandomError::new())
            }
        }
    }
    for zeros in [true, false] {
        let built = ready(
            TrustDomainCa::builder(trust_domain())
                .random(Arc::new(Broken(zeros)))
                .build(NOW),
        );
        assert_eq!(
            built.unwrap_err().to_string(),
            "the source of randomness failed"
        );
    }
}

#[test]
fn an_ec_key_is_a_point_of_its_curve() {
    let ca = ca();
    for kind in [KeyType::EcP256, KeyType::EcP384, KeyType::EcP521] {
        let good = key(kind).public_key().clone();
        assert!(ready(ca.issue_x509(&web(), &good, NOW)).is_ok());
        let mut off = good.to_vec();
        *off.last_mut().unwrap() ^= 1;
        let off = off.into();
        let refused = ready(ca.issue_x509(&web(), &off, NOW));
        assert!(matches!(
            refused,
            Err(IssueError::Key(PublicKeyError::NotOnCurve))
        ));
        let below = IntermediateParams::new();
        assert!(ready(ca.issue_intermediate(&below, &good, NOW)).is_ok());
        assert!(ready(ca.issue_intermediate(&below, &off, NOW)).is_err());
    }
}
