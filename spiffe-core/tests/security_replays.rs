//! Known faults of SPIFFE implementations and of the X.509 libraries below them, replayed: each input that got through or
//! did harm somewhere, beside one that is good here. Those of JOSE libraries are in `jose_replays.rs`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod jose;
mod support;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, KeyPair, KeyUsagePurpose, NameConstraints, PublicKeyData, SanType,
    SignatureAlgorithm,
};
use spiffe_core::bundle::{X509Authorities, certificates_from_pem, certificates_to_pem};
use spiffe_core::key::PrivateKey;
use spiffe_core::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use spiffe_core::verify::{PeerRole, X509Verifier};
use spiffe_core::{
    Bundle, BundleSet, JwtSvid, Policy, Rule, SpiffeId, TrustDomain, TrustDomainRef, X509Svid,
};
use support::*;

use self::jose::url64;

fn verdict(chain: &[CertificateDer<'_>], bundles: &BundleSet) -> Result<String, Rule> {
    verdict_as(PeerRole::Client, chain, bundles)
}

fn verdict_as(
    role: PeerRole,
    chain: &[CertificateDer<'_>],
    bundles: &BundleSet,
) -> Result<String, Rule> {
    let verifier = X509Verifier::new(&*crypto());
    let (explained, tree) = verifier.explain(chain, bundles, NOW, role);
    assert!(
        tree.to_string().len() < 20_000,
        "bounded whatever the input"
    );
    let verdict = verifier.verify(chain, bundles, NOW, role);
    assert_eq!(verdict, explained);
    verdict
        .map(|peer| peer.id.to_string())
        .map_err(|error| error.rule())
}

fn proven() -> Result<String, Rule> {
    Ok("spiffe://a/x".into())
}

/// The verdict on a leaf of `a`, changed by `change`, straight under the root of `a`.
fn leaf(change: impl FnOnce(&mut CertificateParams)) -> Result<String, Rule> {
    let root = root(ca_params("root"));
    let mut params = leaf_params("spiffe://a/x");
    change(&mut params);
    verdict(&chain(params, &[&root]), &bundles(&[("a", &[&root])]))
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// `subjectAltName` with these names, each of a context tag and its bytes.
fn names(of: &[(u8, &[u8])]) -> CustomExtension {
    let mut content = Vec::new();
    for (tag, bytes) in of {
        content.extend([*tag, u8::try_from(bytes.len()).unwrap()]);
        content.extend_from_slice(bytes);
    }
    let value = [&[0x30, u8::try_from(content.len()).unwrap()], &content[..]].concat();
    CustomExtension::from_oid_content(&[2, 5, 29, 17], value)
}

fn with_names(of: &[(u8, &[u8])]) -> Result<String, Rule> {
    leaf(|params| {
        params.subject_alt_names.clear();
        params.custom_extensions.push(names(of));
    })
}

/// SPIRE joined and normalised paths, so that a template could name any ID.
#[test]
fn cve_2021_27099_dot_segments_and_encodings_are_never_joined_into_an_id() {
    let td = TrustDomainRef::literal("a");
    let base = SpiffeId::parse("spiffe://a/agent").unwrap();
    assert_eq!(base.join(["x", "y"]).unwrap(), "spiffe://a/agent/x/y");
    for segment in [
        "..",
        ".",
        "",
        "../admin",
        "x/../admin",
        "%2e%2e",
        "%2F",
        "x%00",
        "/",
        "x/",
        "\\..",
        "x?y",
        "x#y",
    ] {
        assert!(base.join([segment]).is_err(), "{segment}");
        assert!(SpiffeId::from_segments(td, [segment]).is_err(), "{segment}");
        let text = format!("spiffe://a/{segment}");
        if segment.contains('/') && !segment.contains("..") {
            continue;
        }
        assert!(SpiffeId::parse(&text).is_err(), "{text}");
        assert!(SpiffeId::parse_normalizing(&text).is_err(), "{text}");
    }
}

/// SPIRE put a join token that the client sent into the ID: separators in it made another ID.
#[test]
fn spi_01_007_a_token_with_separators_is_no_path_segment() {
    let agents = SpiffeId::parse("spiffe://a/agent/join_token").unwrap();
    let good = "0d3b2c8e-9a4f-4d52-8a52-9f2a3f1c7b11";
    assert!(agents.join([good]).is_ok());
    for token in ["x/../../admin", "x/admin", "/admin", "x\0", "x\n"] {
        assert_eq!(
            agents.join([token]).unwrap_err().rule(),
            Rule::IdPathByte,
            "{token:?}"
        );
    }
}

/// rustls-spiffe 0.3 and others pooled the roots of all trust domains: spiffe#26, spiffe#375.
#[test]
fn pooled_roots_one_domains_authority_signs_no_id_of_another() {
    let (a, b) = (root(ca_params("a")), root(ca_params("b")));
    let both = bundles(&[("a", &[&a]), ("b", &[&b])]);
    let middle = intermediate(ca_params("middle"), &b);
    assert_eq!(
        verdict(&chain(leaf_params("spiffe://b/x"), &[&middle, &b]), &both),
        Ok("spiffe://b/x".into())
    );
    for issuers in [&[&b][..], &[&middle, &b]] {
        let mut forged = chain(leaf_params("spiffe://a/x"), issuers);
        assert_eq!(verdict(&forged, &both), Err(Rule::PathUntrusted));
        // Nor with the other domain's authorities in the message.
        forged.extend([b.der().clone(), a.der().clone()]);
        assert_eq!(verdict(&forged, &both), Err(Rule::PathUntrusted));
    }
}

/// rust-spiffe before 0.6.1 took an error about the name for proof that the path was good.
#[test]
fn rust_spiffe_346_a_wrong_name_never_hides_a_wrong_path() {
    let (right, wrong) = (root(ca_params("root")), root(ca_params("root")));
    let trusted = bundles(&[("a", &[&right])]);
    // No DNS name anywhere, as X.509-SVIDs have it.
    assert_eq!(
        verdict(&chain(leaf_params("spiffe://a/x"), &[&right]), &trusted),
        proven()
    );
    let mut named = leaf_params("spiffe://a/x");
    named
        .subject_alt_names
        .push(SanType::DnsName("wrong.example".try_into().unwrap()));
    assert!(verdict(&chain(named.clone(), &[&right]), &trusted).is_ok());
    assert_eq!(
        verdict(&chain(named, &[&wrong]), &trusted),
        Err(Rule::PathBadSignature)
    );
}

/// rust-spiffe before 0.6.2, 0.8 and 0.11: CA-capable leaves, and an issuer that may not issue.
#[test]
fn rust_spiffe_350_leaves_that_can_sign_and_issuers_that_cannot_are_refused() {
    assert_eq!(leaf(|_| ()), proven());
    assert_eq!(
        leaf(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        Err(Rule::LeafIsCa)
    );
    assert_eq!(
        leaf(|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)),
        Err(Rule::LeafKeyCertSign)
    );
    let root = root(ca_params("root"));
    let set = bundles(&[("a", &[&root])]);
    let mut params = ca_params("middle");
    params.key_usages = vec![KeyUsagePurpose::CrlSign];
    let middle = intermediate(params, &root);
    let below = chain(leaf_params("spiffe://a/x"), &[&middle, &root]);
    assert_eq!(verdict(&below, &set), Err(Rule::PathIssuerNotCa));
}

/// The same: a policy that left no bundle over let everybody pass.
#[test]
fn rust_spiffe_350_no_bundles_means_nobody() {
    let root = root(ca_params("root"));
    let chain = chain(leaf_params("spiffe://a/x"), &[&root]);
    assert_eq!(verdict(&chain, &bundles(&[("a", &[&root])])), proven());
    assert_eq!(
        verdict(&chain, &BundleSet::new()),
        Err(Rule::TrustDomainUnknown)
    );
    assert_eq!(
        verdict(&chain, &bundles(&[("a", &[])])),
        Err(Rule::NoX509Authorities)
    );
    assert!(!Policy::one_of([]).allows(SpiffeId::parse("spiffe://a/x").unwrap().as_ref()));
}

/// go-spiffe before 2.1.5 and 2.1.7 panicked on SVIDs that a Workload API could send.
#[test]
fn go_spiffe_223_and_233_malformed_svids_are_errors() {
    let authority = root(ca_params("root"));
    let pair = key();
    let leaf = leaf_params("spiffe://a/x")
        .signed_by(&pair, &authority)
        .unwrap();
    let load = |chain: &[u8], key: &[u8]| {
        let key = PrivateKey::from_pkcs8_der(key.to_vec());
        X509Svid::from_concatenated_der(chain, key, &*crypto()).map(|svid| svid.id().to_string())
    };
    let key = pair.serialize_der();
    assert!(load(leaf.der(), &key).is_ok());
    for cut in [0, 1, 2, 5, leaf.der().len() / 2, leaf.der().len() - 1] {
        assert!(load(&leaf.der()[..cut], &key).is_err());
    }
    for cut in [0, 1, 2, 5, key.len() / 2, key.len() - 1] {
        assert!(load(leaf.der(), &key[..cut]).is_err());
    }
    for token in [
        "",
        ".",
        "..",
        "...",
        "e30.e30.",
        "bnVsbA.bnVsbA.AA",
        "W10.W10.AA",
    ] {
        assert!(JwtSvid::parse_insecure(token).is_err(), "{token}");
    }
}

/// Go's CVE-2018-16875 and webpki's RUSTSEC-2023-0053: path building without end.
#[test]
fn cve_2018_16875_and_rustsec_2023_0053_authorities_that_sign_each_other_cost_a_bounded_search() {
    let root = root(ca_params("root"));
    let set = bundles(&[("a", &[&root])]);
    // Every authority signed by every other one, all under one name.
    let keys: Vec<_> = (0..5).map(|_| key()).collect();
    let params = ca_params("tangle");
    let mut tangle = Vec::new();
    for subject in &keys {
        for issuer in &keys {
            let issuer = rcgen::Issuer::from_params(&params, issuer);
            tangle.push(params.signed_by(subject, &issuer).unwrap().der().clone());
        }
    }
    let issuer = rcgen::Issuer::from_params(&params, &keys[0]);
    let leaf = leaf_params("spiffe://a/x")
        .signed_by(&key(), &issuer)
        .unwrap();
    let mut hostile = vec![leaf.der().clone()];
    hostile.extend(tangle);
    let refused = verdict(&hostile, &set).unwrap_err();
    assert!(
        [
            Rule::PathUntrusted,
            Rule::PathTooComplex,
            Rule::PathBadSignature
        ]
        .contains(&refused),
        "{refused:?}"
    );
    // A short message behind the same number of strangers is no trouble.
    let mut good = chain(leaf_params("spiffe://a/x"), &[&root]);
    good.extend(hostile.into_iter().skip(1));
    assert_eq!(verdict(&good, &set), proven());
}

/// GnuTLS CVE-2024-28835: a very long chain.
#[test]
fn cve_2024_28835_a_chain_of_thousands_is_looked_at_up_to_its_bound() {
    let root = root(ca_params("root"));
    let set = bundles(&[("a", &[&root])]);
    let filler = intermediate(ca_params("filler"), &root);
    let mut long = chain(leaf_params("spiffe://a/x"), &[&root]);
    assert_eq!(verdict(&long, &set), proven());
    long.extend(std::iter::repeat_n(filler.der().clone(), 5000));
    assert_eq!(
        verdict(&long, &set),
        proven(),
        "the path needs none of them"
    );
    let middle = intermediate(ca_params("middle"), &root);
    let mut hidden = chain(leaf_params("spiffe://a/x"), &[&middle, &root]);
    let last = hidden.pop().unwrap();
    hidden.extend(std::iter::repeat_n(filler.der().clone(), 5000));
    hidden.push(last);
    assert!(
        verdict(&hidden, &set).is_err(),
        "beyond the bound nobody looks"
    );
}

/// Go's CVE-2025-61729: error texts that grew with the square of the names.
#[test]
fn cve_2025_61729_an_error_about_a_thousand_names_is_short() {
    let many = |params: &mut CertificateParams| {
        for n in 0..1000 {
            params.subject_alt_names.push(SanType::DnsName(
                format!("{n}.{}", "x".repeat(50)).try_into().unwrap(),
            ));
        }
    };
    assert_eq!(leaf(many), proven());
    let root = root(ca_params("root"));
    let mut params = leaf_params("spiffe://a/x");
    many(&mut params);
    for n in 0..1000 {
        params
            .subject_alt_names
            .push(uri(&format!("spiffe://a/{n}")));
    }
    let error = X509Verifier::new(&*crypto())
        .verify(
            &chain(params, &[&root]),
            &bundles(&[("a", &[&root])]),
            NOW,
            PeerRole::Client,
        )
        .unwrap_err();
    assert_eq!(error.rule(), Rule::LeafUriCount);
    assert!(error.to_string().len() < 300, "{error}");
}

/// Go's CVE-2025-61723 and cert-manager's CVE-2024-12401: PEM that takes quadratic time.
#[test]
fn cve_2025_61723_and_2024_12401_hostile_pem_takes_linear_time() {
    let good = certificates_to_pem([root(ca_params("root")).der()]);
    for noise in [
        "-----BEGIN ",
        "-----BEGIN CERTIFICATE-----\n",
        "-",
        "-----END CERTIFICATE-----\n",
    ] {
        let hostile = noise.repeat(10 * 1024 * 1024 / noise.len());
        // Whatever it says of it, it ends; a quadratic reader would take hours.
        let _ = certificates_from_pem(&hostile);
    }
    let text = format!("{}{good}", "a line of prose\n".repeat(100_000));
    assert_eq!(certificates_from_pem(&text).unwrap().len(), 1);
}

/// Envoy's CVE-2022-21657: an extended key usage for something else was not looked at. Go's CVE-2025-22874: "any" beside
/// it switched off more than itself.
#[test]
fn cve_2022_21657_and_2025_22874_an_extended_key_usage_confines() {
    use ExtendedKeyUsagePurpose as Eku;
    let with = |usages: Vec<Eku>| leaf(|params| params.extended_key_usages = usages);
    assert_eq!(with(vec![Eku::ClientAuth]), proven());
    assert_eq!(
        with(vec![Eku::EmailProtection]),
        Err(Rule::LeafExtendedKeyUsage)
    );
    assert_eq!(with(vec![Eku::Any]), proven());
    // With "any", the other rules hold as before.
    let both = leaf(|params| {
        params.extended_key_usages = vec![Eku::Any];
        params.subject_alt_names.push(uri("spiffe://a/y"));
    });
    assert_eq!(both, Err(Rule::LeafUriCount));
}

/// Envoy's CVE-2022-21656: a name of one type taken for another.
#[test]
fn cve_2022_21656_only_a_uri_is_a_spiffe_id() {
    const DNS: u8 = 0x82;
    const MAIL: u8 = 0x81;
    const URI: u8 = 0x86;
    let id = b"spiffe://a/x";
    assert_eq!(with_names(&[(URI, id)]), proven());
    for tag in [DNS, MAIL] {
        assert_eq!(with_names(&[(tag, id)]), Err(Rule::LeafUriCount));
        assert_eq!(with_names(&[(URI, id), (tag, b"spiffe://a/y")]), proven());
    }
}

/// Node's CVE-2021-44531 and CVE-2021-44532: names that inject others into a text, and URIs that count for hosts; Envoy's
/// CVE-2025-66220: a null byte that ended the name early.
#[test]
fn cve_2021_44532_and_2025_66220_no_byte_ends_or_splits_a_name() {
    const URI: u8 = 0x86;
    assert_eq!(with_names(&[(URI, b"spiffe://a/x")]), proven());
    for name in [
        &b"spiffe://a/x\0.evil"[..],
        b"spiffe://a\0/x",
        b"spiffe://a/x\0",
        b"spiffe://a/x, URI:spiffe://a/admin",
        b"spiffe://a/x\nspiffe://a/admin",
        b"spiffe://a/\"x\"",
        b"spiffe://a/x\xff",
        b"",
    ] {
        assert_eq!(
            with_names(&[(URI, name)]),
            Err(Rule::LeafUriScheme),
            "{name:?}"
        );
    }
}

/// OpenSSL's CVE-2023-0286: a name of one ASN.1 type read as another. The identity stands in no other kind of name.
#[test]
fn cve_2023_0286_names_of_odd_types_are_passed_over_or_refused() {
    const X400: u8 = 0xa3;
    let good: (u8, &[u8]) = (0x86, b"spiffe://a/x");
    assert_eq!(with_names(&[good]), proven());
    let refused = with_names(&[(X400, b"\x02\x01\x05")]).unwrap_err();
    assert!([Rule::LeafUriCount, Rule::CertMalformed].contains(&refused));
    if let Ok(id) = with_names(&[good, (X400, b"\x02\x01\x05")]) {
        assert_eq!(id, "spiffe://a/x");
    }
}

/// Vault's CVE-2024-2048 and CVE-2025-6037: a certificate that is no CA, trusted as one or as itself.
#[test]
fn cve_2024_2048_and_2025_6037_a_leaf_among_the_authorities_is_trusted_for_nothing() {
    let own = root(leaf_params("spiffe://a/x"));
    let authorities = X509Authorities::from_certificates([own.der().clone()]);
    assert!(authorities.is_empty());
    assert_eq!(authorities.ignored()[0].rule, Rule::AuthorityNotCa);
    let authority = root(ca_params("root"));
    let set = bundles(&[("a", &[&own, &authority])]);
    assert_eq!(
        verdict(&[own.der().clone()], &set),
        Err(Rule::PathUntrusted)
    );
    let below = chain(leaf_params("spiffe://a/y"), &[&own]);
    assert!(verdict(&below, &set).is_err());
    let good = chain(leaf_params("spiffe://a/x"), &[&authority]);
    assert_eq!(verdict(&good, &set), proven());
}

/// webpki's RUSTSEC-2026-0099: a wildcard is no name within the permitted one.
#[test]
fn rustsec_2026_0099_a_wildcard_reaches_no_further_than_its_constraint() {
    let judge = |name: &str| {
        let root = root(ca_params("root"));
        let mut params = ca_params("middle");
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("x.example.org".into())],
            excluded_subtrees: vec![],
        });
        let middle = intermediate(params, &root);
        let mut params = leaf_params("spiffe://a/x");
        let name = SanType::DnsName(name.try_into().unwrap());
        params.subject_alt_names.push(name);
        let chain = chain(params, &[&middle, &root]);
        verdict(&chain, &bundles(&[("a", &[&root])]))
    };
    assert_eq!(judge("y.x.example.org"), proven());
    assert_eq!(judge("*.example.org"), Err(Rule::PathNameConstraints));
}

/// CVE-2020-0601 and OpenSSL's CVE-2022-0778: a curve given by its parameters instead of its name.
#[test]
fn cve_2020_0601_and_2022_0778_explicit_curves_are_no_keys() {
    let pair = key();
    let spki = pair.subject_public_key_info();
    let named = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
    let at = spki.windows(10).position(|part| part == named).unwrap();
    // specifiedCurve: a SEQUENCE that begins with version 1, where the curve's name belongs.
    let mut explicit = spki.clone();
    explicit[at..at + 10].copy_from_slice(b"\x30\x08\x02\x01\x01\x02\x03\x00\xff\xff");
    let authority = |spki: &[u8]| {
        let key = SubjectPublicKeyInfoDer::from(spki.to_vec());
        spiffe_core::bundle::JwtAuthority::new("k", key)
    };
    assert!(authority(&spki).is_some());
    assert!(authority(&explicit).is_none());

    let root = root(ca_params("root"));
    let leaf = leaf_params("spiffe://a/x").signed_by(&pair, &root).unwrap();
    let issuer = root.der().to_vec();
    let patched = |der: &[u8]| {
        let start = der.windows(10).position(|part| part == named).unwrap();
        let mut der = der.to_vec();
        der[start..start + 10].copy_from_slice(&explicit[at..at + 10]);
        CertificateDer::from(der)
    };
    let explicit_root = X509Authorities::from_certificates([patched(&issuer)]);
    let of = |authorities| {
        let bundle =
            Bundle::new(TrustDomain::parse("a").unwrap()).with_x509_authorities(authorities);
        [bundle].into_iter().collect::<BundleSet>()
    };
    let chain = [leaf.der().clone()];
    assert_eq!(verdict(&chain, &bundles(&[("a", &[&root])])), proven());
    assert!(verdict(&chain, &of(explicit_root)).is_err());
}

/// Go's CVE-2024-24783 and CVE-2025-58188: keys of unusual kinds in certificates caused panics.
#[test]
fn cve_2024_24783_and_2025_58188_odd_keys_in_certificates_are_errors() {
    let root = root(ca_params("root"));
    let set = bundles(&[("a", &[&root])]);
    let leaf = |pair: &KeyPair| {
        let params = leaf_params("spiffe://a/x");
        params.signed_by(pair, &root).unwrap().der().clone()
    };
    let good = leaf(&key());
    assert_eq!(verdict(std::slice::from_ref(&good), &set), proven());
    // The key's algorithm (ecPublicKey) made one that nobody knows: DSA's arc, or none at all.
    let known = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01";
    let at = good.windows(9).position(|part| part == known).unwrap();
    for odd in [
        b"\x06\x07\x2a\x86\x48\xce\x38\x04\x01",
        b"\x05\x07\x2a\x86\x48\xce\x3d\x02\x01",
    ] {
        let mut bytes = good.to_vec();
        bytes[at..at + 9].copy_from_slice(odd);
        assert!(verdict(&[CertificateDer::from(bytes)], &set).is_err());
    }
    // A whole certificate around the key of another kind is fine.
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    assert_eq!(verdict(&[leaf(&ed25519)], &set), proven());
}

/// Go's CVE-2023-29409: RSA keys so large that one check takes seconds.
#[test]
fn cve_2023_29409_huge_rsa_keys_are_not_used() {
    let key = |bytes: usize| {
        format!(
            r#"{{"keys":[{{"use":"jwt-svid","kid":"r","kty":"RSA","e":"AQAB","n":"{}"}}]}}"#,
            url64(vec![0xff; bytes])
        )
    };
    let parse = |document| Bundle::from_spiffe_json("a".parse().unwrap(), document).unwrap();
    assert_eq!(parse(key(1024)).jwt_authorities().len(), 1);
    let huge = parse(key(4096));
    assert!(huge.jwt_authorities().is_empty());
    assert_eq!(huge.ignored().next().unwrap().rule, Rule::JwkAlgorithm);

    // The same in an intermediate, whose key would check the leaf's signature.
    let pair = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let root = root(ca_params("root"));
    let set = bundles(&[("a", &[&root])]);
    let params = ca_params("middle");
    let issuer = rcgen::Issuer::from_params(&params, &pair);
    let leaf = leaf_params("spiffe://a/x")
        .signed_by(&self::key(), &issuer)
        .unwrap();
    let judge =
        |middle: rcgen::Certificate| verdict(&[leaf.der().clone(), middle.der().clone()], &set);
    assert_eq!(judge(params.signed_by(&pair, &root).unwrap()), proven());
    let huge = HugeRsaKey::new();
    assert!(judge(params.signed_by(&huge, &root).unwrap()).is_err());
}

/// An RSA key of 32,768 bits: SEQUENCE { modulus, exponent }.
struct HugeRsaKey(Vec<u8>);

impl HugeRsaKey {
    fn new() -> Self {
        let long = |tag: u8, content: &[u8]| {
            let length = u16::try_from(content.len()).unwrap().to_be_bytes();
            [&[tag, 0x82], &length[..], content].concat()
        };
        let modulus = [vec![0], vec![0xff; 4096]].concat();
        let content = [long(0x02, &modulus), vec![0x02, 3, 1, 0, 1]].concat();
        Self(long(0x30, &content))
    }
}

impl PublicKeyData for HugeRsaKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

/// asn1_der's RUSTSEC-2019-0007, simple_asn1's 2021-0125, bcder's 2023-0062, Go's CVE-2026-33818: lengths that promise more
/// than there is, and elements inside elements without end.
#[test]
fn rustsec_2019_0007_and_2023_0062_lengths_and_depth_of_der_cost_nothing() {
    let root = root(ca_params("root"));
    let set = bundles(&[("a", &[&root])]);
    let good = chain(leaf_params("spiffe://a/x"), &[&root]);
    assert_eq!(verdict(&good, &set), proven());
    for hostile in [
        b"\x30\x84\xff\xff\xff\xff".to_vec(),
        b"\x30\x88\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
        b"\x30\x89\x01\x00\x00\x00\x00\x00\x00\x00\x00".to_vec(),
        b"\x30\x80\x00\x00".to_vec(),
        [0x30, 0x82].repeat(100_000),
        [0x30].repeat(1_000_000),
    ] {
        let chain = [CertificateDer::from(hostile.clone())];
        assert_eq!(verdict(&chain, &set), Err(Rule::CertMalformed));
        assert!(X509Authorities::from_concatenated_der(&hostile).is_err());
    }
}

/// Istio's CVE-2026-39350: a name in a policy became a regular expression, in which dots stand for anything.
#[test]
fn cve_2026_39350_dots_in_a_policy_are_dots() {
    let id = |text| SpiffeId::parse(text).unwrap();
    for text in [
        "id:spiffe://a.b/x.y",
        "ids:spiffe://a.b/x.y,spiffe://other/z",
        "pattern:spiffe://a.b/x.y",
    ] {
        let policy: Policy = text.parse().unwrap();
        assert!(policy.allows(id("spiffe://a.b/x.y").as_ref()), "{policy}");
        for other in ["spiffe://a.b/xzy", "spiffe://azb/x.y", "spiffe://a.b/x.yz"] {
            assert!(!policy.allows(id(other).as_ref()), "{policy} {other}");
        }
    }
}

/// Dapr's CVE-2026-41491 and grpc-go's CVE-2026-33186: a path that the policy read otherwise than the service.
#[test]
fn cve_2026_41491_and_2026_33186_a_policy_judges_whole_segments_of_ids_that_parse() {
    let policy = Policy::below(SpiffeId::parse("spiffe://a/public").unwrap());
    let allows = |text: &str| SpiffeId::parse(text).is_ok_and(|id| policy.allows(id.as_ref()));
    assert!(allows("spiffe://a/public/x"));
    for other in [
        "spiffe://a/public/../admin",
        "spiffe://a/public/%2e%2e/admin",
        "spiffe://a//public/x",
        "spiffe://a/publicity",
        "spiffe://a/Public/x",
        "spiffe://a/",
    ] {
        assert!(!allows(other), "{other}");
    }
}

/// idna's RUSTSEC-2024-0421 and OpenSSL's CVE-2022-3602: punycode that means another name. Names are bytes here.
#[test]
fn rustsec_2024_0421_and_cve_2022_3602_punycode_is_a_name_like_any_other() {
    let plain = TrustDomain::parse("example.org").unwrap();
    for name in ["xn--example-.org", "xn--0.org", "xn--a-.b"] {
        let found = TrustDomain::parse(name).unwrap();
        assert_eq!(found.as_str(), name);
        assert_ne!(found, plain);
    }
    assert!(TrustDomain::parse("ex\u{e4}mple.org").is_err());
    assert_eq!(
        leaf(|params| params.subject_alt_names.push(SanType::Rfc822Name(
            format!("x@xn--{}", "a".repeat(500)).try_into().unwrap()
        ))),
        proven()
    );
}

/// Identity comes from the one place: no library's helper that reads a common name is in the way.
#[test]
fn aws_lc_sys_2026_0044_a_common_name_is_no_name() {
    let named = |params: &mut CertificateParams| {
        params
            .distinguished_name
            .push(DnType::CommonName, "spiffe://a/admin");
    };
    assert_eq!(leaf(named), proven());
}
