//! Known faults of SPIFFE implementations and of the X.509 libraries below them, replayed: each input that got through or
//! did harm somewhere, beside one that is good here. Those of JOSE libraries are in `jose_replays.rs`, those about
//! what stands in certificates in `x509_replays.rs`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod jose;
mod support;

use rcgen::{
    BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
    SignatureAlgorithm,
};
use spiffe_core::bundle::{certificates_from_pem, certificates_to_pem};
use spiffe_core::key::PrivateKey;
use spiffe_core::pki_types::CertificateDer;
use spiffe_core::verify::{PeerRole, X509Verifier};
use spiffe_core::{Bundle, BundleSet, JwtSvid, Policy, Rule, SpiffeId, TrustDomainRef, X509Svid};
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
