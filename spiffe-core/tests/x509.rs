//! X.509 verification and own SVIDs, judged on certificates made by rcgen.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use rcgen::{BasicConstraints, CertificateParams, CustomExtension, IsCa, KeyUsagePurpose, SanType};
use spiffe_core::bundle::{X509Authorities, X509Authority, certificates_to_pem};
use spiffe_core::key::PrivateKey;
use spiffe_core::pki_types::CertificateDer;
use spiffe_core::svid::{MAX_CHAIN_BYTES, SvidError, X509Chain};
use spiffe_core::verify::{PeerRole, X509Error, X509Limits, X509Verifier};
use spiffe_core::{BundleSet, Rule, Timestamp, X509Svid};
use support::*;

/// A leaf of `a` changed by `change`, under an intermediate under the root of `a`.
#[track_caller]
fn leaf(change: impl FnOnce(&mut CertificateParams), expected: Result<&str, Rule>) {
    let root = root(ca_params("root"));
    let middle = intermediate(ca_params("middle"), &root);
    let mut params = leaf_params("spiffe://a/x");
    change(&mut params);
    let chain = chain(params, &[&middle, &root]);
    check(&chain, &bundles(&[("a", &[&root])]), expected);
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

#[test]
fn a_chain_proves_its_id() {
    leaf(|_| {}, Ok("spiffe://a/x"));
}

#[test]
fn leaf_rules_are_judged() {
    leaf(
        |p| p.subject_alt_names.push(uri("spiffe://a/y")),
        Err(Rule::LeafUriCount),
    );
    leaf(
        |p| p.subject_alt_names.push(uri("https://x")),
        Err(Rule::LeafUriCount),
    );
    leaf(
        |p| p.subject_alt_names.push(uri("spiffe://a/x")),
        Err(Rule::LeafUriCount),
    );
    leaf(|p| p.subject_alt_names.clear(), Err(Rule::LeafUriCount));
    leaf(
        |p| p.subject_alt_names = vec![SanType::DnsName("a".try_into().unwrap())],
        Err(Rule::LeafUriCount),
    );
    leaf(
        |p| {
            p.subject_alt_names
                .push(SanType::DnsName("x.a".try_into().unwrap()))
        },
        Ok("spiffe://a/x"),
    );
    leaf(
        |p| p.subject_alt_names = vec![uri("https://a/x")],
        Err(Rule::LeafUriScheme),
    );
    leaf(
        |p| p.subject_alt_names = vec![uri("spiffe://a/")],
        Err(Rule::LeafUriScheme),
    );
    leaf(
        |p| p.subject_alt_names = vec![uri("spiffe://a")],
        Err(Rule::LeafPathMissing),
    );
    leaf(
        |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
        Err(Rule::LeafIsCa),
    );
    leaf(|p| p.is_ca = IsCa::NoCa, Ok("spiffe://a/x"));
    leaf(
        |p| p.key_usages.push(KeyUsagePurpose::KeyCertSign),
        Err(Rule::LeafKeyCertSign),
    );
    leaf(
        |p| p.key_usages.push(KeyUsagePurpose::CrlSign),
        Err(Rule::LeafCrlSign),
    );
    leaf(
        |p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment],
        Err(Rule::LeafDigitalSignature),
    );
    leaf(|p| p.key_usages.clear(), Ok("spiffe://a/x"));
    leaf(
        |p| p.key_usages.push(KeyUsagePurpose::KeyAgreement),
        Ok("spiffe://a/x"),
    );
}

#[test]
fn a_second_uri_that_is_no_text_is_counted() {
    let mut names = vec![0x86, 12];
    names.extend(b"spiffe://a/x");
    names.extend([0x86, 3, b'a', 0xff, 0xfe]);
    let mut value = vec![0x30, names.len() as u8];
    value.extend(names);
    leaf(
        |p| {
            p.subject_alt_names.clear();
            p.custom_extensions
                .push(CustomExtension::from_oid_content(&[2, 5, 29, 17], value));
        },
        Err(Rule::LeafUriCount),
    );
}

#[test]
fn unknown_critical_extensions_are_refused_and_others_not() {
    for (critical, expected) in [
        (true, Err(Rule::CertUnknownCriticalExtension)),
        (false, Ok("spiffe://a/x")),
    ] {
        leaf(
            |p| p.custom_extensions.push(unknown_extension(critical)),
            expected,
        );
    }
}

#[test]
fn extended_key_usage_must_allow_the_role() {
    use rcgen::ExtendedKeyUsagePurpose as Eku;
    let root = root(ca_params("root"));
    let bundles = bundles(&[("a", &[&root])]);
    let ok = Ok("spiffe://a/x");
    let no = Err(Rule::LeafExtendedKeyUsage);
    for (usages, client, server, unspecified) in [
        (vec![], ok, ok, ok),
        (vec![Eku::ServerAuth, Eku::ClientAuth], ok, ok, ok),
        (vec![Eku::ServerAuth], no, ok, ok),
        (vec![Eku::ClientAuth], ok, no, ok),
        (vec![Eku::Any], ok, ok, ok),
        (vec![Eku::CodeSigning], no, no, no),
    ] {
        let mut params = leaf_params("spiffe://a/x");
        params.extended_key_usages = usages;
        let chain = chain(params, &[&root]);
        for (role, expected) in [
            (PeerRole::Client, client),
            (PeerRole::Server, server),
            (PeerRole::Unspecified, unspecified),
        ] {
            check_at(&chain, &bundles, NOW, role, expected);
        }
    }
}

#[test]
fn the_peers_own_trust_domain_picks_the_bundle() {
    let (a, b) = (root(ca_params("a")), root(ca_params("b")));
    let of_a = chain(leaf_params("spiffe://a/x"), &[&a]);
    let forged = chain(leaf_params("spiffe://b/x"), &[&a]);
    let both = bundles(&[("a", &[&a]), ("b", &[&b])]);
    check(&of_a, &both, Ok("spiffe://a/x"));
    check(&forged, &both, Err(Rule::PathUntrusted));
    check(
        &of_a,
        &bundles(&[("b", &[&b])]),
        Err(Rule::TrustDomainUnknown),
    );
    check(
        &of_a,
        &bundles(&[("a", &[]), ("b", &[&b])]),
        Err(Rule::NoX509Authorities),
    );
    check(&of_a, &BundleSet::new(), Err(Rule::TrustDomainUnknown));
}

#[test]
fn a_wrong_key_under_the_right_name_is_a_bad_signature() {
    let (first, second) = (root(ca_params("root")), root(ca_params("root")));
    let chain = chain(leaf_params("spiffe://a/x"), &[&first]);
    check(
        &chain,
        &bundles(&[("a", &[&second])]),
        Err(Rule::PathBadSignature),
    );
    check(
        &chain,
        &bundles(&[("a", &[&second, &first])]),
        Ok("spiffe://a/x"),
    );
}

#[test]
fn stale_authorities_of_one_name_do_not_exhaust_the_budget() {
    let right = root(ca_params("root"));
    let stale: Vec<_> = (0..150).map(|_| root(ca_params("root"))).collect();
    let mut all: Vec<_> = stale.iter().collect();
    all.push(&right);
    let chain = chain(leaf_params("spiffe://a/x"), &[&right]);
    check(&chain, &bundles(&[("a", &all)]), Ok("spiffe://a/x"));
}

#[test]
fn windows_are_exact_for_leaf_intermediate_and_authority() {
    let second = |offset| Timestamp::from_unix_seconds(NOW.unix_seconds() + offset);
    let nano = std::time::Duration::from_nanos(1);
    for narrow in 0..3 {
        let shorten = |params: &mut CertificateParams, level| {
            if level == narrow {
                params.not_before += time::Duration::seconds(600);
                params.not_after -= time::Duration::seconds(600);
            }
        };
        let (mut top, mut middle, mut bottom) = (
            ca_params("root"),
            ca_params("middle"),
            leaf_params("spiffe://a/x"),
        );
        shorten(&mut top, 0);
        shorten(&mut middle, 1);
        shorten(&mut bottom, 2);
        let root = root(top);
        let middle = intermediate(middle, &root);
        let chain = chain(bottom, &[&middle, &root]);
        let bundles = bundles(&[("a", &[&root])]);
        let at = |now, expected| check_at(&chain, &bundles, now, PeerRole::Server, expected);
        at(second(-1200), Ok("spiffe://a/x"));
        at(second(-1200) - nano, Err(Rule::PathNotYetValid));
        at(second(1200), Ok("spiffe://a/x"));
        at(second(1200) + nano, Err(Rule::PathExpired));
    }
}

#[test]
fn issuers_must_be_authorised_to_sign() {
    let root = root(ca_params("root"));
    let bundles = bundles(&[("a", &[&root])]);
    for change in [
        (|p: &mut CertificateParams| p.key_usages = vec![KeyUsagePurpose::DigitalSignature])
            as fn(&mut _),
        |p| p.is_ca = IsCa::ExplicitNoCa,
    ] {
        let mut params = ca_params("middle");
        change(&mut params);
        let middle = intermediate(params, &root);
        let chain = chain(leaf_params("spiffe://a/x"), &[&middle, &root]);
        check(&chain, &bundles, Err(Rule::PathIssuerNotCa));
    }
}

#[test]
fn path_lengths_hold_at_authorities_and_intermediates() {
    for (limit, depth, expected) in [
        (Some(0), 0, Ok("spiffe://a/x")),
        (Some(0), 1, Err(Rule::PathLength)),
        (Some(1), 1, Ok("spiffe://a/x")),
        (None, 3, Ok("spiffe://a/x")),
    ] {
        let mut params = ca_params("root");
        params.is_ca = IsCa::Ca(limit.map_or(
            BasicConstraints::Unconstrained,
            BasicConstraints::Constrained,
        ));
        let root = root(params);
        let mut issuers = vec![root];
        for level in 0..depth {
            let next = intermediate(ca_params(&format!("middle {level}")), &issuers[level]);
            issuers.push(next);
        }
        let refs: Vec<_> = issuers.iter().rev().collect();
        let chain = chain(leaf_params("spiffe://a/x"), &refs);
        check(&chain, &bundles(&[("a", &[&issuers[0]])]), expected);
    }
}

#[test]
fn six_intermediates_in_any_order_and_no_more() {
    for (depth, expected) in [(6, Ok("spiffe://a/x")), (7, Err(Rule::PathTooComplex))] {
        let mut issuers = vec![root(ca_params("root"))];
        for level in 0..depth {
            let next = intermediate(ca_params(&format!("middle {level}")), &issuers[level]);
            issuers.push(next);
        }
        let refs: Vec<_> = issuers.iter().rev().collect();
        let mut chain = chain(leaf_params("spiffe://a/x"), &refs);
        chain[1..].reverse();
        check(&chain, &bundles(&[("a", &[&issuers[0]])]), expected);
    }
}

#[test]
fn a_chain_without_its_authority_says_which_key_it_asks_for() {
    let (top, other) = (root(ca_params("root")), root(ca_params("other")));
    let namesake = root(ca_params("root"));
    let middle = intermediate(ca_params("middle"), &top);
    let key_id = |authority: &Authority| {
        let of = bundle("a", &[authority]);
        let own = of.x509_authorities().iter().next().unwrap();
        let bytes = own.subject_key_id().unwrap().iter();
        bytes.map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let why = |chain: &[CertificateDer<'_>], authority: &Authority| {
        let verifier = X509Verifier::new(&*crypto());
        let bundles = bundles(&[("a", &[authority])]);
        let error = verifier
            .verify(chain, &bundles, NOW, PeerRole::Client)
            .unwrap_err();
        assert_eq!(error.rule(), Rule::PathUntrusted);
        error.to_string()
    };
    let long = chain(leaf_params("spiffe://a/x"), &[&middle, &top]);
    let short = chain(leaf_params("spiffe://a/x"), &[&middle]);
    // The link that is missing, not those that the chain has itself.
    assert!(why(&long, &other).ends_with(&key_id(&top)));
    assert!(!why(&long, &other).contains(&key_id(&middle)));
    assert!(why(&short, &other).ends_with(&key_id(&middle)));
    // Nothing to name where no key identifier is set.
    let mut silent = leaf_params("spiffe://a/x");
    silent.use_authority_key_identifier_extension = false;
    assert!(why(&chain(silent, &[&middle]), &other).ends_with("of its chain"));
    // Of the same name and with another key it is tried, and its signature is wrong: that says more.
    let verdict = X509Verifier::new(&*crypto()).verify(
        &long,
        &bundles(&[("a", &[&namesake])]),
        NOW,
        PeerRole::Client,
    );
    assert_ne!(verdict.map(drop), Ok(()));
}

#[test]
fn limits_can_be_lowered() {
    let root = root(ca_params("root"));
    let middle = intermediate(ca_params("middle"), &root);
    let chain = chain(leaf_params("spiffe://a/x"), &[&middle, &root]);
    let bundles = bundles(&[("a", &[&root])]);
    let verdict = |limits| {
        let verifier = X509Verifier::new(&*crypto()).with_limits(limits);
        verifier
            .verify(&chain, &bundles, NOW, PeerRole::Client)
            .map_err(|error| error.rule())
    };
    assert!(verdict(X509Limits::default().max_intermediates(1)).is_ok());
    assert_eq!(
        verdict(X509Limits::default().max_intermediates(0)),
        Err(Rule::PathTooComplex)
    );
    assert!(verdict(X509Limits::default().max_certificates(2)).is_ok());
    assert_eq!(
        verdict(X509Limits::default().max_certificates(1)),
        Err(Rule::PathUntrusted)
    );
}

#[test]
fn useless_certificates_do_no_harm() {
    let root = root(ca_params("root"));
    let other = intermediate(ca_params("other"), &root);
    let mut chain = chain(leaf_params("spiffe://a/x"), &[&root]);
    chain.push(CertificateDer::from(vec![1, 2, 3]));
    chain.push(other.der().clone());
    chain.push(chain[0].clone());
    check(&chain, &bundles(&[("a", &[&root])]), Ok("spiffe://a/x"));
}

#[test]
fn nonsense_is_refused() {
    let root = root(ca_params("root"));
    let bundles = bundles(&[("a", &[&root])]);
    check(&[], &bundles, Err(Rule::ChainEmpty));
    for bytes in [&b""[..], b"nonsense", &[0x30, 0x80, 0, 0], &[0x30; 4096]] {
        check(
            &[CertificateDer::from(bytes)],
            &bundles,
            Err(Rule::CertMalformed),
        );
    }
    let good = chain(leaf_params("spiffe://a/x"), &[&root]);
    let mut trailing = good[0].to_vec();
    trailing.push(0);
    check(
        &[CertificateDer::from(trailing)],
        &bundles,
        Err(Rule::CertMalformed),
    );
}

#[test]
fn a_mutated_leaf_is_never_accepted() {
    let root = root(ca_params("root"));
    let bundles = bundles(&[("a", &[&root])]);
    let good = chain(leaf_params("spiffe://a/x"), &[&root]);
    let verifier = X509Verifier::new(&*crypto());
    for at in 0..good[0].len() {
        let mut bytes = good[0].to_vec();
        bytes[at] ^= 1;
        let verdict = verifier.verify(
            &[CertificateDer::from(bytes)],
            &bundles,
            NOW,
            PeerRole::Client,
        );
        assert!(verdict.is_err(), "byte {at}");
    }
}

#[test]
fn an_expired_leaf_is_explained_with_what_would_pass() {
    let root = root(ca_params("root"));
    let bundles = bundles(&[("a", &[&root])]);
    let chain = chain(leaf_params("spiffe://a/x"), &[&root]);
    let late = Timestamp::from_unix_seconds(NOW.unix_seconds() + 1890);
    let (verdict, tree) =
        X509Verifier::new(&*crypto()).explain(&chain, &bundles, late, PeerRole::Client);
    assert!(matches!(verdict, Err(X509Error::Expired { .. })));
    let failed = tree.first_failure().unwrap();
    assert_eq!(
        (failed.rule.code(), failed.rule.section()),
        ("x509-expired", Some("RFC 5280 §4.1.2.5"))
    );
    assert!(
        failed.nearest.as_ref().unwrap().contains("90 s earlier"),
        "{tree}"
    );
}

#[test]
fn a_refusal_names_the_nearest_that_would_have_passed() {
    let (top, other) = (root(ca_params("root")), root(ca_params("root")));
    let (of_a, of_b) = (bundles(&[("a", &[&top])]), bundles(&[("b", &[&top])]));
    let good = chain(leaf_params("spiffe://a/x"), &[&top]);
    let early = Timestamp::from_unix_seconds(NOW.unix_seconds() - 1801);
    let no_path = chain(leaf_params("spiffe://a"), &[&top]);
    let mut params = leaf_params("spiffe://a/x");
    params.subject_alt_names.clear();
    let no_name = chain(params, &[&top]);
    let stranger = chain(leaf_params("spiffe://a/x"), &[&other]);
    for (chain, bundles, now, nearest) in [
        (&good, &of_a, early, "the same chain from "),
        (&no_path, &of_a, NOW, "spiffe://a/<path>"),
        (&no_name, &of_a, NOW, "exactly one URI name"),
        (&good, &of_b, NOW, "an X509-SVID of b"),
        (&good, &BundleSet::new(), NOW, "no bundle is known at all"),
        (&stranger, &of_a, NOW, "a chain signed by one"),
    ] {
        let verifier = X509Verifier::new(&*crypto());
        let (_, tree) = verifier.explain(chain, bundles, now, PeerRole::Client);
        let found = tree.first_failure().and_then(|node| node.nearest.clone());
        assert!(found.unwrap_or_default().contains(nearest), "{tree}");
    }
}

#[test]
fn an_own_svid_needs_its_key_and_a_linked_chain() {
    let root = root(ca_params("root"));
    let middle = intermediate(ca_params("middle"), &root);
    let stranger = intermediate(ca_params("stranger"), &root);
    let pair = key();
    let leaf = leaf_params("spiffe://a/x")
        .signed_by(&pair, &middle)
        .unwrap()
        .der()
        .clone();
    let load = |chain: Vec<CertificateDer<'static>>, key: &rcgen::KeyPair| {
        let key = PrivateKey::from_pkcs8_der(key.serialize_der());
        X509Svid::new(chain, key, &*crypto()).map(|svid| svid.id().to_string())
    };
    let ok = || Ok("spiffe://a/x".to_owned());
    assert_eq!(load(vec![leaf.clone()], &pair), ok());
    assert_eq!(load(vec![leaf.clone(), middle.der().clone()], &pair), ok());
    assert_eq!(
        load(
            vec![leaf.clone(), middle.der().clone(), root.der().clone()],
            &pair
        ),
        ok()
    );
    assert_eq!(
        load(vec![leaf.clone()], &key()),
        Err(SvidError::KeyMismatch)
    );
    assert_eq!(
        load(vec![leaf.clone(), stranger.der().clone()], &pair),
        Err(SvidError::NotLinked { at: 1 })
    );
    assert_eq!(
        load(vec![leaf.clone(), leaf.clone()], &pair),
        Err(SvidError::NotSigning { at: 1 })
    );
    assert_eq!(load(vec![], &pair), Err(SvidError::Empty));
    let joined = [leaf.as_ref(), middle.der().as_ref()].concat();
    let private = || PrivateKey::from_pkcs8_der(pair.serialize_der());
    let svid = X509Svid::from_concatenated_der(&joined, private(), &*crypto()).unwrap();
    assert_eq!(svid.to_concatenated_der(), joined);
    assert_eq!((svid.serial(), svid.serial_hex().as_str()), (&[7][..], "7"));
    assert_eq!(svid.chain(), [leaf.clone(), middle.der().clone()]);
    let key_id_of = |issuer: &Authority| {
        let authority = X509Authority::from_der(issuer.der().clone()).unwrap();
        authority.subject_key_id().map(<[u8]>::to_vec)
    };
    assert_eq!(
        [svid.authority_key_id(), svid.root_key_id()].map(|id| id.map(<[u8]>::to_vec)),
        [key_id_of(&middle), key_id_of(&root)]
    );
    let names: Vec<_> = svid
        .issuer_names()
        .map(|name| name[name.len() - 6..].to_vec())
        .collect();
    assert_eq!(names, [b"middle", b"\x0c\x04root"]);
    assert_eq!(svid.hint(), None);
    assert_eq!(svid.clone().with_hint(Some("in".into())).hint(), Some("in"));
    assert_eq!(svid.clone().with_hint(Some(String::new())).hint(), None);
    assert!(format!("{svid:?}").contains("spiffe://a/x"));
    let public = X509Chain::from_concatenated_der(&joined).unwrap();
    assert_eq!(
        (public.serial(), public.certificates()),
        (&[7][..], svid.chain())
    );
    let of_key = crypto().load_key(&private()).unwrap();
    assert_eq!(public.public_key(), of_key.public_key().as_ref());
    assert_eq!(svid.leaf(), &leaf);
    assert_eq!(svid.intermediates(), [middle.der().clone()]);
    assert_eq!(svid.fingerprint(&*crypto()), crypto().sha256(&leaf));
    assert_eq!(
        (
            svid.not_before().unix_seconds(),
            svid.not_after().unix_seconds()
        ),
        (NOW.unix_seconds() - 1800, NOW.unix_seconds() + 1800)
    );
    let pem = format!("{}{}", rcgen_pem(&leaf), rcgen_pem(middle.der()));
    assert_eq!(X509Chain::from_pem(&svid.to_pem()).unwrap(), public);
    let filled = |bytes: usize| format!("{pem}{}", " ".repeat(bytes - pem.len()));
    assert_eq!(
        X509Chain::from_pem(&filled(MAX_CHAIN_BYTES)).unwrap(),
        public
    );
    assert_eq!(
        X509Chain::from_pem(&filled(MAX_CHAIN_BYTES + 1)),
        Err(SvidError::TooLarge)
    );
    let key_pem = pem_block("PRIVATE KEY", &pair.serialize_der());
    assert_eq!(
        X509Svid::from_pem(&pem, &key_pem, &*crypto())
            .unwrap()
            .chain(),
        svid.chain()
    );
    assert!(!format!("{svid:?}").contains("key"));
}

fn rcgen_pem(der: &CertificateDer<'_>) -> String {
    pem_block("CERTIFICATE", der)
}

fn pem_block(label: &str, der: &[u8]) -> String {
    use base64ct::{Base64, Encoding};
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        Base64::encode_string(der)
    )
}

#[test]
fn a_chain_without_its_key_is_judged_as_with_it() {
    let root = root(ca_params("root"));
    let middle = intermediate(ca_params("middle"), &root);
    let certificates = chain(leaf_params("spiffe://a/x"), &[&middle, &root]);
    let judged = X509Chain::new(certificates.clone()).unwrap();
    assert_eq!(judged.id().as_str(), "spiffe://a/x");
    let pem = certificates_to_pem(&certificates);
    assert_eq!(X509Chain::from_pem(&pem), Ok(judged));
    let turned = vec![certificates[0].clone(), root.der().clone()];
    assert_eq!(
        X509Chain::new(turned).unwrap_err().rule(),
        Rule::ChainNotLinked
    );
}

#[test]
fn authorities_are_written_as_pem_that_reads_back() {
    let (one, two) = (root(ca_params("one")), root(ca_params("two")));
    let bundle = bundle("a", &[&one, &two]);
    let pem = bundle.x509_authorities().to_pem();
    assert!(pem.lines().all(|line| line.len() <= 64), "{pem}");
    let again = X509Authorities::from_pem(&pem).unwrap();
    assert!(again.iter().eq(bundle.x509_authorities().iter()));
    assert_eq!(X509Authorities::default().to_pem(), "");
}

#[test]
fn a_diff_names_what_came_went_and_was_tainted() {
    let (one, two, three) = (
        root(ca_params("one")),
        root(ca_params("two")),
        root(ca_params("three")),
    );
    let older = bundle("a", &[&one, &two]);
    let authority = |of: &Authority| X509Authority::from_der(of.der().clone()).unwrap();
    let newer: X509Authorities = [authority(&two).into_tainted(), authority(&three)]
        .into_iter()
        .collect();
    let newer = older.clone().with_x509_authorities(newer);
    let diff = older.diff(&newer);
    assert_eq!(diff.x509.added, [&authority(&three)]);
    assert_eq!(diff.x509.removed, [&authority(&one)]);
    assert_eq!(diff.x509.tainted, [&authority(&two).into_tainted()]);
    assert!(diff.jwt.is_empty() && !diff.is_empty());
    assert!(older.diff(&older).is_empty());
    // One kind of change is enough.
    let of = |authorities: Vec<X509Authority>| {
        older
            .clone()
            .with_x509_authorities(X509Authorities::from_iter(authorities))
    };
    let whole = [authority(&one), authority(&two)];
    let more = of(vec![authority(&one), authority(&two), authority(&three)]);
    let fewer = of(vec![authority(&one)]);
    let tainted = of(whole.map(X509Authority::into_tainted).to_vec());
    for newer in [more, fewer, tainted] {
        assert!(!older.diff(&newer).is_empty());
    }
}
