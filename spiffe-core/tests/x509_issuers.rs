//! Issuers: key usage, path length, many of one name, algorithms, memory, and the work that hostile chains cause.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose,
};
use spiffe_core::bundle::X509Authorities;
use spiffe_core::pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm,
};
use spiffe_core::verify::{
    IssuerCache, MAX_CERTIFICATE_BYTES, MAX_SIGNATURE_CHECKS, PeerRole, VerifiedX509, X509Error,
    X509Limits, X509Verifier,
};
use spiffe_core::{Bundle, BundleSet, Explanation, Outcome, Rule, Timestamp, TrustDomain};
use support::*;

const ID: &str = "spiffe://a/x";

/// Every subset of the nine bits of key usage, the empty one being no extension.
fn key_usages() -> impl Iterator<Item = Vec<KeyUsagePurpose>> {
    use KeyUsagePurpose as U;
    let all = [
        U::DigitalSignature,
        U::ContentCommitment,
        U::KeyEncipherment,
        U::DataEncipherment,
        U::KeyAgreement,
        U::KeyCertSign,
        U::CrlSign,
        U::EncipherOnly,
        U::DecipherOnly,
    ];
    (0..1 << all.len()).map(move |set: u32| {
        (0..all.len())
            .filter(|bit| set & (1 << bit) != 0)
            .map(|bit| all[bit])
            .collect()
    })
}

#[test]
fn every_key_usage_of_a_leaf() {
    use KeyUsagePurpose as U;
    let top = root(ca_params("root"));
    let of_a = bundles(&[("a", &[&top])]);
    for usages in key_usages() {
        let expected = match &usages {
            none if none.is_empty() => Ok(ID),
            set if set.contains(&U::KeyCertSign) => Err(Rule::LeafKeyCertSign),
            set if set.contains(&U::CrlSign) => Err(Rule::LeafCrlSign),
            set if !set.contains(&U::DigitalSignature) => Err(Rule::LeafDigitalSignature),
            _ => Ok(ID),
        };
        let mut params = leaf_params(ID);
        params.key_usages = usages;
        check(&chain(params, &[&top]), &of_a, expected);
    }
}

#[test]
fn every_key_usage_of_an_issuer() {
    use KeyUsagePurpose as U;
    let top = root(ca_params("root"));
    let of_a = bundles(&[("a", &[&top])]);
    for usages in key_usages() {
        let signs = usages.is_empty() || usages.contains(&U::KeyCertSign);
        let mut params = ca_params("middle");
        params.key_usages = usages;
        let expected = if signs {
            Ok(ID)
        } else {
            Err(Rule::PathIssuerNotCa)
        };
        let middle = intermediate(params.clone(), &top);
        check(&chain(leaf_params(ID), &[&middle, &top]), &of_a, expected);
        let authority = root(params);
        let expected = if signs {
            Ok(ID)
        } else {
            Err(Rule::NoX509Authorities)
        };
        let of_authority = bundles(&[("a", &[&authority])]);
        check(
            &chain(leaf_params(ID), &[&authority]),
            &of_authority,
            expected,
        );
    }
}

/// Key usage that is not critical, as rcgen would not write it.
fn uncritical(bits: u8) -> CustomExtension {
    CustomExtension::from_oid_content(&[2, 5, 29, 15], element(3, &[1, bits]))
}

#[test]
fn a_verifier_may_demand_critical_key_usages() {
    const DIGITAL_SIGNATURE: u8 = 0x80;
    const CERT_SIGN_AND_CRL_SIGN: u8 = 0x06;
    let shared = Arc::new(IssuerCache::default());
    let lax = X509Verifier::new(&*crypto()).with_issuer_cache(shared.clone());
    let strict = lax.clone().with_key_usage_required();
    let without = |mut params: CertificateParams, instead: Option<CustomExtension>| {
        params.key_usages.clear();
        params.custom_extensions.extend(instead);
        params
    };
    let leaves = [
        (leaf_params(ID), true),
        (without(leaf_params(ID), None), false),
        (
            without(leaf_params(ID), Some(uncritical(DIGITAL_SIGNATURE))),
            false,
        ),
    ];
    let issuers = |name| {
        [
            (ca_params(name), true),
            (without(ca_params(name), None), false),
            (
                without(ca_params(name), Some(uncritical(CERT_SIGN_AND_CRL_SIGN))),
                false,
            ),
        ]
    };
    for (authority, _) in issuers("root") {
        let top = root(authority);
        let of_a = bundles(&[("a", &[&top])]);
        for (high, high_is_strict) in issuers("high") {
            let high = intermediate(high, &top);
            for (low, low_is_strict) in issuers("low") {
                let low = intermediate(low, &high);
                for (leaf, leaf_is_strict) in &leaves {
                    let chain = chain(leaf.clone(), &[&low, &high, &top]);
                    let judge = |verifier, expected| {
                        check_with(verifier, &chain, &of_a, NOW, PeerRole::Client, expected);
                    };
                    judge(&lax, Ok(ID));
                    let kept = *leaf_is_strict && low_is_strict && high_is_strict;
                    let expected = if kept {
                        Ok(ID)
                    } else {
                        Err(Rule::KeyUsageMissing)
                    };
                    // What the lax verifier left in the memory they share is no leave to skip the rule.
                    judge(&strict, expected);
                    judge(&strict.clone().with_issuer_cache(Arc::default()), expected);
                }
            }
        }
    }
}

#[test]
fn unknown_critical_extensions_of_issuers() {
    for (critical, expected) in [
        (false, Ok(ID)),
        (true, Err(Rule::CertUnknownCriticalExtension)),
    ] {
        let top = root(ca_params("root"));
        let mut params = ca_params("middle");
        params.custom_extensions.push(unknown_extension(critical));
        let middle = intermediate(params.clone(), &top);
        let below = chain(leaf_params(ID), &[&middle, &top]);
        check(&below, &bundles(&[("a", &[&top])]), expected);
        // RFC 5280 §6: of an authority, name and key count.
        let authority = root(params);
        let below = chain(leaf_params(ID), &[&authority]);
        check(&below, &bundles(&[("a", &[&authority])]), Ok(ID));
    }
}

#[test]
fn extended_key_usages_nest() {
    use ExtendedKeyUsagePurpose as Eku;
    let both = || vec![Eku::ServerAuth, Eku::ClientAuth];
    let (ok, no) = (Ok(ID), Err(Rule::PathExtendedKeyUsage));
    for (upper, lower, client, server, unspecified) in [
        (vec![], vec![], ok, ok, ok),
        (both(), both(), ok, ok, ok),
        (vec![Eku::Any], vec![], ok, ok, ok),
        (vec![Eku::ServerAuth], vec![], no, ok, ok),
        (vec![], vec![Eku::ClientAuth], ok, no, ok),
        (vec![Eku::ServerAuth], vec![Eku::ClientAuth], no, no, no),
        (vec![Eku::CodeSigning], vec![], no, no, no),
        (vec![Eku::CodeSigning, Eku::ClientAuth], both(), ok, no, ok),
    ] {
        let with = |name: &str, usages: &[Eku]| {
            let mut params = ca_params(name);
            params.extended_key_usages = usages.to_vec();
            params
        };
        let plain = root(ca_params("root"));
        let high = intermediate(with("high", &upper), &plain);
        let low = intermediate(with("low", &lower), &high);
        let of_plain = bundles(&[("a", &[&plain])]);
        let under_plain = chain(leaf_params(ID), &[&low, &high, &plain]);
        let top = root(with("high", &upper));
        let low = intermediate(with("low", &lower), &top);
        let of_top = bundles(&[("a", &[&top])]);
        let under_top = chain(leaf_params(ID), &[&low, &top]);
        for (role, expected) in [
            (PeerRole::Client, client),
            (PeerRole::Server, server),
            (PeerRole::Unspecified, unspecified),
        ] {
            check_at(&under_plain, &of_plain, NOW, role, expected);
            check_at(&under_top, &of_top, NOW, role, expected);
        }
    }
}

#[test]
fn self_issued_intermediates_do_not_count_against_a_path_length() {
    let limited = |name: &str, limit| {
        let mut params = ca_params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(limit));
        params
    };
    // Root of length 1, an intermediate, then one of the same name with another key, then perhaps a third name.
    let top = root(limited("root", 1));
    let of_a = bundles(&[("a", &[&top])]);
    let middle = intermediate(ca_params("middle"), &top);
    let renewed = intermediate(ca_params("middle"), &middle);
    check(
        &chain(leaf_params(ID), &[&renewed, &middle, &top]),
        &of_a,
        Ok(ID),
    );
    let other = intermediate(ca_params("other"), &renewed);
    let too_long = chain(leaf_params(ID), &[&other, &renewed, &middle, &top]);
    check(&too_long, &of_a, Err(Rule::PathLength));
    // The same on an intermediate.
    let top = root(ca_params("root"));
    let of_a = bundles(&[("a", &[&top])]);
    let middle = intermediate(limited("middle", 0), &top);
    let renewed = intermediate(ca_params("middle"), &middle);
    check(
        &chain(leaf_params(ID), &[&renewed, &middle, &top]),
        &of_a,
        Ok(ID),
    );
    let other = intermediate(ca_params("other"), &middle);
    let too_long = chain(leaf_params(ID), &[&other, &middle, &top]);
    check(&too_long, &of_a, Err(Rule::PathLength));
}

#[test]
fn a_lower_path_length_is_not_raised_further_down() {
    let limited = |name: &str, limit| {
        let mut params = ca_params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(limit));
        params
    };
    let top = root(limited("root", 1));
    let upper = intermediate(limited("upper", 5), &top);
    let lower = intermediate(limited("lower", 5), &upper);
    let of_a = bundles(&[("a", &[&top])]);
    check(&chain(leaf_params(ID), &[&upper, &top]), &of_a, Ok(ID));
    let too_long = chain(leaf_params(ID), &[&lower, &upper, &top]);
    check(&too_long, &of_a, Err(Rule::PathLength));
    // Nor is a higher one from above of use below a lower one.
    let top = root(limited("root", 5));
    let upper = intermediate(limited("upper", 0), &top);
    let lower = intermediate(ca_params("lower"), &upper);
    let of_a = bundles(&[("a", &[&top])]);
    check(&chain(leaf_params(ID), &[&upper, &top]), &of_a, Ok(ID));
    let too_long = chain(leaf_params(ID), &[&lower, &upper, &top]);
    check(&too_long, &of_a, Err(Rule::PathLength));
}

#[test]
fn cross_signed_intermediates_in_any_order() {
    let (old, new, stranger) = (
        root(ca_params("old")),
        root(ca_params("new")),
        root(ca_params("old")),
    );
    let (name, pair) = (ca_params("middle"), key());
    let by = |issuer: &Authority| name.signed_by(&pair, issuer).unwrap().der().clone();
    let leaf = sign(&leaf_params(ID), &key(), &name, &pair);
    let certs = [by(&old), by(&new), by(&stranger), old.der().clone()];
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2]] {
        let mut chain = vec![leaf.clone()];
        chain.extend(order.map(|at: usize| certs[at].clone()));
        for authority in [&old, &new] {
            check(&chain, &bundles(&[("a", &[authority])]), Ok(ID));
        }
        let nobody = root(ca_params("old"));
        check(
            &chain,
            &bundles(&[("a", &[&nobody])]),
            Err(Rule::PathBadSignature),
        );
    }
    // The root itself cross-signed by another that alone is trusted.
    let trusted = root(ca_params("trusted"));
    let crossed = ca_params("old").signed_by(old.key(), &trusted).unwrap();
    let chain = [leaf, certs[0].clone(), crossed.der().clone()];
    check(&chain, &bundles(&[("a", &[&trusted])]), Ok(ID));
}

#[test]
fn many_of_one_name_without_key_identifiers() {
    let plain = |mut params: CertificateParams| {
        params.use_authority_key_identifier_extension = false;
        params
    };
    let right = root(plain(ca_params("root")));
    let leaf = chain(plain(leaf_params(ID)), &[&right]);
    for (stale, expected) in [
        (MAX_SIGNATURE_CHECKS - 1, Ok(ID)),
        (MAX_SIGNATURE_CHECKS, Err(Rule::PathTooComplex)),
    ] {
        let mut all: Vec<_> = (0..stale).map(|_| root(plain(ca_params("root")))).collect();
        let refs: Vec<_> = all.iter().chain([&right]).collect();
        check(&leaf, &bundles(&[("a", &refs)]), expected);
        all.clear();
    }
    // And intermediates of one name, the right one last.
    let strangers: Vec<_> = (0..13)
        .map(|_| intermediate(plain(ca_params("middle")), &right))
        .collect();
    let middle = intermediate(plain(ca_params("middle")), &right);
    let mut sent = chain(plain(leaf_params(ID)), &[&middle, &right]);
    sent.splice(1..1, strangers.iter().map(|one| one.der().clone()));
    check(&sent, &bundles(&[("a", &[&right])]), Ok(ID));
}

/// An authority without a key identifier of its own, which the library gives every other.
fn unidentified(name: &str) -> CertificateParams {
    let mut params = ca_params(name);
    params.is_ca = IsCa::NoCa;
    let mut is_ca =
        CustomExtension::from_oid_content(&[2, 5, 29, 19], element(0x30, &[1, 1, 0xff]));
    is_ca.set_criticality(true);
    params.custom_extensions.push(is_ca);
    params
}

#[test]
fn authorities_that_key_identifiers_speak_against_are_tried_last() {
    let right = root(unidentified("root"));
    let others: Vec<_> = (0..MAX_SIGNATURE_CHECKS)
        .map(|_| root(ca_params("root")))
        .collect();
    let mut all: Vec<_> = others.iter().collect();
    let sent = chain(leaf_params(ID), &[&right]);
    check(&sent, &bundles(&[("a", &all)]), Err(Rule::PathBadSignature));
    all.push(&right);
    check(&sent, &bundles(&[("a", &all)]), Ok(ID));
}

#[test]
fn a_shorter_way_is_taken_where_a_longer_one_was_admitted_first() {
    let (pair, top) = (key(), root(ca_params("top")));
    let root_params = ca_params("root");
    let by_root = rcgen::Issuer::from_params(&root_params, &pair);
    // Its identifier leads to the cross-signed root first.
    let high = CertifiedIssuer::signed_by(ca_params("high"), key(), &by_root).unwrap();
    let low = intermediate(ca_params("low"), &high);
    let crossed = ca_params("root").signed_by(&pair, &top).unwrap();
    let mut sent = chain(leaf_params(ID), &[&low, &high, &high]);
    sent.push(crossed.der().clone());
    let plain = unidentified("root").self_signed(&pair).unwrap();
    let judge = |tops: &[&CertificateDer<'static>], intermediates, expected| {
        let tops = tops.iter().map(|one| (*one).clone());
        let of_a = Bundle::new(TrustDomain::parse("a").unwrap())
            .with_x509_authorities(X509Authorities::from_certificates(tops));
        let limits = X509Limits::default().max_intermediates(intermediates);
        let verifier = X509Verifier::new(&*crypto()).with_limits(limits);
        let of_a = [of_a].into_iter().collect();
        check_with(&verifier, &sent, &of_a, NOW, PeerRole::Client, expected);
    };
    judge(&[top.der()], 3, Ok(ID));
    judge(&[top.der()], 2, Err(Rule::PathTooComplex));
    judge(&[top.der(), plain.der()], 2, Ok(ID));
}

#[test]
fn a_wrong_key_identifier_only_guides() {
    let (top, other) = (root(ca_params("root")), root(ca_params("root")));
    // The leaf names `other`, but `top` signed it.
    let mut params = leaf_params(ID);
    params.use_authority_key_identifier_extension = false;
    let identifier = key_identifier(&chain(leaf_params(ID), &[&other])[0]);
    params
        .custom_extensions
        .push(CustomExtension::from_oid_content(
            &[2, 5, 29, 35],
            element(0x30, &element(0x80, &identifier)),
        ));
    let chain = chain(params, &[&top]);
    check(&chain, &bundles(&[("a", &[&other, &top])]), Ok(ID));
    check(
        &chain,
        &bundles(&[("a", &[&other])]),
        Err(Rule::PathBadSignature),
    );
}

/// Of all that was tried, the failure that says most about the chain is told, whatever was tried last.
#[test]
fn the_most_telling_of_several_failures_is_the_verdict() {
    let expired = |mut params: CertificateParams, seconds| {
        params.not_after = params.not_before + time::Duration::seconds(seconds);
        root(params)
    };
    // The leaf names the authority that has expired; the others bear its name and no identifier.
    let named = expired(ca_params("root"), 1);
    let by_another = root(unidentified("root"));
    let edwards = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let unfit = CertifiedIssuer::self_signed(unidentified("root"), edwards).unwrap();
    let sent = chain(leaf_params(ID), &[&named]);
    for (authorities, rule) in [
        (vec![&by_another], Rule::PathBadSignature),
        (vec![&unfit], Rule::CertAlgorithm),
        (vec![&by_another, &unfit], Rule::CertAlgorithm),
        (vec![&unfit, &by_another], Rule::CertAlgorithm),
        (vec![&by_another, &unfit, &named], Rule::PathExpired),
        (vec![&named, &unfit, &by_another], Rule::PathExpired),
    ] {
        check(&sent, &bundles(&[("a", &authorities)]), Err(rule));
    }
    // Of equals it is the first.
    let (first, second) = (
        expired(unidentified("root"), 1),
        expired(unidentified("root"), 2),
    );
    let told = |authorities: &[&Authority]| {
        let verifier = X509Verifier::new(&*crypto());
        let verdict = verifier.verify(
            &sent,
            &bundles(&[("a", authorities)]),
            NOW,
            PeerRole::Client,
        );
        verdict.unwrap_err().to_string()
    };
    assert!(
        told(&[&first]).starts_with("the authority expired"),
        "{}",
        told(&[&first])
    );
    assert_ne!(told(&[&first]), told(&[&second]));
    assert_eq!(told(&[&first, &second]), told(&[&first]));
    assert_eq!(told(&[&second, &first]), told(&[&second]));
}

/// The bytes behind the extension's identifier and two headers.
fn key_identifier(der: &CertificateDer<'_>) -> Vec<u8> {
    let oid = [0x06, 3, 0x55, 0x1d, 0x23];
    let at = der
        .windows(oid.len())
        .position(|window| window == oid)
        .unwrap()
        + oid.len();
    let [0x04, _, 0x30, _, 0x80, length] = der[at..at + 6] else {
        panic!("an authority key identifier alone");
    };
    der[at + 6..at + 6 + usize::from(length)].to_vec()
}

#[test]
fn the_verified_path_names_its_issuers() {
    let top = root(ca_params("root"));
    let upper = intermediate(ca_params("upper"), &top);
    let lower = intermediate(ca_params("lower"), &upper);
    let mut sent = chain(leaf_params(ID), &[&lower, &upper, &top]);
    sent[1..].reverse();
    let verifier = X509Verifier::new(&*crypto());
    for _ in 0..2 {
        let peer = verifier
            .verify(&sent, &bundles(&[("a", &[&top])]), NOW, PeerRole::Client)
            .unwrap();
        let issuers: Vec<_> = peer.issuers.iter().map(AsRef::as_ref).collect();
        assert_eq!(issuers, [lower.der(), upper.der(), top.der()]);
        assert_eq!(peer.authority(), Some(top.der()));
        assert_eq!(peer.chain_length, 3);
    }
}

#[test]
fn algorithms_are_a_closed_list_whatever_the_provider_offers() {
    let leaf_key = key();
    for (algorithm, accepted) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, true),
        (&rcgen::PKCS_ECDSA_P384_SHA384, true),
        (&rcgen::PKCS_ECDSA_P521_SHA512, true),
        (&rcgen::PKCS_ECDSA_P521_SHA256, true),
        (&rcgen::PKCS_ED25519, true),
        (&rcgen::PKCS_ML_DSA_44, false),
        (&rcgen::PKCS_ML_DSA_65, false),
        (&rcgen::PKCS_ML_DSA_87, false),
    ] {
        let pair = || KeyPair::generate_for(algorithm).unwrap();
        let top = root(ca_params("root"));
        let of_top = bundles(&[("a", &[&top])]);
        let or = |rule| if accepted { Ok(ID) } else { Err(rule) };
        // As the leaf's key, an intermediate's and the authority's.
        let leaf = leaf_params(ID).signed_by(&pair(), &top).unwrap();
        check(&[leaf.der().clone()], &of_top, or(Rule::CertAlgorithm));
        let middle = CertifiedIssuer::signed_by(ca_params("middle"), pair(), &top).unwrap();
        let leaf = leaf_params(ID).signed_by(&leaf_key, &middle).unwrap();
        let chain = [leaf.der().clone(), middle.der().clone()];
        check(&chain, &of_top, or(Rule::CertAlgorithm));
        let authority = CertifiedIssuer::self_signed(ca_params("root"), pair()).unwrap();
        let leaf = leaf_params(ID).signed_by(&leaf_key, &authority).unwrap();
        let of_authority = bundles(&[("a", &[&authority])]);
        check(
            &[leaf.der().clone()],
            &of_authority,
            or(Rule::NoX509Authorities),
        );
    }
}

#[test]
fn rsa_keys_of_less_than_2048_bits_are_refused_anywhere() {
    /// A public key that nobody has the private half of; whoever signs for it signs with something else.
    struct Rsa(Vec<u8>);

    impl rcgen::PublicKeyData for Rsa {
        fn der_bytes(&self) -> &[u8] {
            &self.0
        }

        fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
            &rcgen::PKCS_RSA_SHA256
        }
    }

    let rsa = |bits: usize| {
        let mut modulus = vec![0, 0xc3];
        modulus.resize(1 + bits / 8, 0x5b);
        let numbers = [element(2, &modulus), element(2, &[1, 0, 1])].concat();
        Rsa(element(0x30, &numbers))
    };
    let top = root(ca_params("root"));
    let of_top = bundles(&[("a", &[&top])]);
    for (bits, accepted) in [(1024, false), (2040, false), (2048, true), (4096, true)] {
        let or = |rule| if accepted { Ok(ID) } else { Err(rule) };
        let leaf = leaf_params(ID).signed_by(&rsa(bits), &top).unwrap();
        check(&[leaf.der().clone()], &of_top, or(Rule::CertAlgorithm));
        // An issuer with such a key: nothing it could sign is looked at.
        let weak = ca_params("middle").signed_by(&rsa(bits), &top).unwrap();
        let below = sign(&leaf_params(ID), &key(), &ca_params("middle"), &key());
        let sent = [below, weak.der().clone()];
        check(&sent, &of_top, Err(Rule::CertAlgorithm));
        let (_, tree) =
            X509Verifier::new(&*crypto()).explain(&sent, &of_top, NOW, PeerRole::Client);
        let admitted = |node: &Explanation| node.rule == Rule::PathIssuerAdmitted;
        assert_eq!(tree.children.iter().any(admitted), accepted, "{tree}");
    }
}

/// Counts the signature checks of the provider's algorithms.
#[derive(Debug)]
struct Counting {
    inner: &'static dyn SignatureVerificationAlgorithm,
    count: &'static AtomicUsize,
}

impl SignatureVerificationAlgorithm for Counting {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.inner.verify_signature(public_key, message, signature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.inner.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.inner.signature_alg_id()
    }
}

/// A verifier whose signature checks are counted.
struct Meter {
    verifier: X509Verifier,
    count: &'static AtomicUsize,
}

impl Meter {
    fn new() -> Self {
        let count: &AtomicUsize = Box::leak(Box::default());
        let algorithms: Vec<&'static dyn SignatureVerificationAlgorithm> = crypto()
            .signature_algorithms()
            .iter()
            .map(|inner| {
                &*Box::leak(Box::new(Counting {
                    inner: *inner,
                    count,
                })) as _
            })
            .collect();
        Self {
            verifier: X509Verifier::with_algorithms(algorithms.leak()),
            count,
        }
    }

    fn verify_at(
        &self,
        chain: &[CertificateDer<'_>],
        bundles: &BundleSet,
        now: Timestamp,
        role: PeerRole,
    ) -> (Result<VerifiedX509, X509Error>, usize) {
        let before = self.count.load(Ordering::Relaxed);
        let verdict = self.verifier.verify(chain, bundles, now, role);
        (verdict, self.count.load(Ordering::Relaxed) - before)
    }

    fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        bundles: &BundleSet,
    ) -> (Result<VerifiedX509, X509Error>, usize) {
        self.verify_at(chain, bundles, NOW, PeerRole::Client)
    }

    /// Signature checks of a chain that is good.
    #[track_caller]
    fn cost(&self, chain: &[CertificateDer<'_>], bundles: &BundleSet) -> usize {
        let (verdict, checks) = self.verify(chain, bundles);
        verdict.unwrap();
        checks
    }
}

#[test]
fn a_warm_intermediate_costs_one_signature_check() {
    let top = root(ca_params("root"));
    let upper = intermediate(ca_params("upper"), &top);
    let lower = intermediate(ca_params("lower"), &upper);
    let of_a = bundles(&[("a", &[&top])]);
    let meter = Meter::new();
    let direct = chain(leaf_params(ID), &[&top]);
    let short = chain(leaf_params(ID), &[&upper, &top]);
    let long = chain(leaf_params("spiffe://a/y"), &[&lower, &upper, &top]);
    assert_eq!(
        [meter.cost(&direct, &of_a), meter.cost(&direct, &of_a)],
        [1, 1]
    );
    assert_eq!(
        [meter.cost(&short, &of_a), meter.cost(&short, &of_a)],
        [2, 1]
    );
    assert_eq!([meter.cost(&long, &of_a), meter.cost(&long, &of_a)], [3, 1]);
    // Any other leaf of the same issuer is warm as well, and so is one with the root sent along.
    let mut other = chain(leaf_params("spiffe://a/z"), &[&upper, &top]);
    assert_eq!(meter.cost(&other, &of_a), 1);
    other.push(top.der().clone());
    assert_eq!(meter.cost(&other, &of_a), 1);
    // A confined issuer is remembered like any other, and still confines.
    let confined = intermediate(confined(ca_params("confined"), &["a"]), &top);
    let inside = chain(leaf_params(ID), &[&confined, &top]);
    assert_eq!(
        [meter.cost(&inside, &of_a), meter.cost(&inside, &of_a)],
        [2, 1]
    );
    // Even where two trust domains share one set of authorities, and so what is remembered under it.
    let shared = Arc::new(X509Authorities::from_certificates([top.der().clone()]));
    let both: BundleSet = ["a", "b"]
        .map(|name| {
            Bundle::new(TrustDomain::parse(name).unwrap()).with_x509_authorities(shared.clone())
        })
        .into_iter()
        .collect();
    let outside = chain(leaf_params("spiffe://b/x"), &[&confined, &top]);
    assert_eq!(
        [meter.cost(&inside, &both), meter.cost(&inside, &both)],
        [2, 1]
    );
    let (verdict, _) = meter.verify(&outside, &both);
    assert_eq!(verdict.unwrap_err().rule(), Rule::PathNameConstraints);
}

#[test]
fn what_is_sent_twice_or_is_the_authority_costs_nothing_in_vain() {
    let top = root(ca_params("root"));
    let middle = intermediate(ca_params("middle"), &top);
    let stranger = root(ca_params("middle"));
    let mut sent = chain(leaf_params(ID), &[&stranger]);
    sent.extend([&middle, &top, &middle, &top, &middle].map(|one| one.der().clone()));
    let (verdict, checks) = Meter::new().verify(&sent, &bundles(&[("a", &[&top])]));
    assert_eq!(verdict.unwrap_err().rule(), Rule::PathBadSignature);
    assert_eq!(checks, 2);
}

#[test]
fn the_better_of_two_authorities_with_one_name_and_key_is_found() {
    let pair = key();
    let signed = |params: &CertificateParams| sign(params, &pair, params, &pair);
    let plain = ca_params("root");
    let mut short = plain.clone();
    short.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    let mut servers = plain.clone();
    servers.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let elsewhere = confined(plain.clone(), &["b"]);
    let by = rcgen::Issuer::from_params(&plain, &pair);
    let high = CertifiedIssuer::signed_by(ca_params("high"), key(), &by).unwrap();
    let low = intermediate(ca_params("low"), &high);
    let sent = chain(leaf_params(ID), &[&low, &high, &high]);
    let judge = |tops: &[&CertificateParams], expected| {
        let tops = tops.iter().map(|params| signed(params));
        let of_a: BundleSet = [Bundle::new(TrustDomain::parse("a").unwrap())
            .with_x509_authorities(X509Authorities::from_certificates(tops))]
        .into_iter()
        .collect();
        check(&sent, &of_a, expected);
    };
    for (worse, rule) in [
        (&short, Rule::PathLength),
        (&servers, Rule::PathExtendedKeyUsage),
        (&elsewhere, Rule::PathNameConstraints),
    ] {
        judge(&[worse], Err(rule));
        judge(&[worse, &plain], Ok(ID));
        judge(&[&plain, worse], Ok(ID));
    }
}

#[test]
fn the_root_that_is_sent_along_costs_nothing() {
    let top = root(ca_params("root"));
    let middle = intermediate(ca_params("middle"), &top);
    let mut sent = chain(leaf_params(ID), &[&middle, &top]);
    sent.push(top.der().clone());
    assert_eq!(Meter::new().cost(&sent, &bundles(&[("a", &[&top])])), 2);
}

#[test]
fn a_changed_bundle_forgets() {
    let (top, other) = (root(ca_params("root")), root(ca_params("other")));
    let middle = intermediate(ca_params("middle"), &top);
    let sent = chain(leaf_params(ID), &[&middle, &top]);
    let meter = Meter::new();
    let mut set = bundles(&[("a", &[&top])]);
    assert_eq!([meter.cost(&sent, &set), meter.cost(&sent, &set)], [2, 1]);
    // The same authorities in the same allocation are the same bundle, whatever else changes around them.
    let same = set.get(TrustDomain::parse("a").unwrap().as_ref()).unwrap();
    let renumbered = Bundle::clone(same).with_sequence(Some(7));
    set.insert(renumbered);
    assert_eq!(meter.cost(&sent, &set), 1);
    // One more authority, equal content anew: each is another bundle.
    assert_eq!(meter.cost(&sent, &bundles(&[("a", &[&top, &other])])), 2);
    assert_eq!(meter.cost(&sent, &bundles(&[("a", &[&top])])), 2);
    // The authority withdrawn, the bundle emptied, the trust domain gone.
    for (of_a, rule) in [
        (bundles(&[("a", &[&other])]), Rule::PathUntrusted),
        (bundles(&[("a", &[])]), Rule::NoX509Authorities),
        (BundleSet::new(), Rule::TrustDomainUnknown),
    ] {
        let (verdict, _) = meter.verify(&sent, &of_a);
        assert_eq!(verdict.unwrap_err().rule(), rule);
    }
    // And the first set again, which never went away.
    assert_eq!(meter.cost(&sent, &set), 1);
}

#[test]
fn memory_of_a_dropped_bundle_serves_no_other() {
    let meter = Meter::new();
    let cache = Arc::new(IssuerCache::default());
    let verifier = meter.verifier.clone().with_issuer_cache(cache.clone());
    // Bundles of the same size made and dropped in turn: allocators like to give out one address again.
    let (right, wrong) = (root(ca_params("root")), root(ca_params("root")));
    let middle = intermediate(ca_params("middle"), &right);
    let sent = chain(leaf_params(ID), &[&middle, &right]);
    for round in 0..64 {
        let authority = if round % 2 == 0 { &right } else { &wrong };
        let set = bundles(&[("a", &[authority])]);
        let verdict = verifier.verify(&sent, &set, NOW, PeerRole::Client);
        assert_eq!(verdict.is_ok(), round % 2 == 0, "{verdict:?}");
        assert!(cache.len() <= 1, "what is dropped is forgotten");
    }
}

#[test]
fn a_warm_issuer_is_judged_by_the_time_the_role_and_the_limits() {
    let second = |offset| Timestamp::from_unix_seconds(NOW.unix_seconds() + offset);
    let with = |name: &str, shorter: i64, usages: Vec<ExtendedKeyUsagePurpose>| {
        let mut params = ca_params(name);
        params.not_before += time::Duration::seconds(shorter);
        params.not_after -= time::Duration::seconds(shorter);
        params.extended_key_usages = usages;
        params
    };
    for (top_shorter, middle_shorter) in [(600, 0), (0, 600)] {
        let top = root(with("root", top_shorter, vec![]));
        let only_client = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let middle = intermediate(with("middle", middle_shorter, only_client), &top);
        let sent = chain(leaf_params(ID), &[&middle, &top]);
        let of_a = bundles(&[("a", &[&top])]);
        let meter = Meter::new();
        let rule = |now, role| {
            let (verdict, _) = meter.verify_at(&sent, &of_a, now, role);
            verdict
                .map(|peer| peer.not_after)
                .map_err(|error| error.rule())
        };
        assert_eq!(rule(NOW, PeerRole::Client), Ok(second(1200)));
        assert_eq!(rule(second(1200), PeerRole::Client), Ok(second(1200)));
        assert_eq!(rule(second(1201), PeerRole::Client), Err(Rule::PathExpired));
        assert_eq!(
            rule(second(-1201), PeerRole::Client),
            Err(Rule::PathNotYetValid)
        );
        assert_eq!(rule(NOW, PeerRole::Server), Err(Rule::PathExtendedKeyUsage));
        let strict = meter
            .verifier
            .clone()
            .with_limits(X509Limits::default().max_intermediates(0));
        let verdict = strict.verify(&sent, &of_a, NOW, PeerRole::Client);
        assert_eq!(verdict.unwrap_err().rule(), Rule::PathTooComplex);
    }
}

#[test]
fn the_cache_is_bounded_and_can_be_off() {
    let top = root(ca_params("root"));
    let of_a = bundles(&[("a", &[&top])]);
    let middles: Vec<_> = (0..5)
        .map(|number| intermediate(ca_params(&format!("middle {number}")), &top))
        .collect();
    let chains: Vec<_> = middles
        .iter()
        .map(|middle| chain(leaf_params(ID), &[middle, &top]))
        .collect();
    for (capacity, most) in [(0, 0), (2, 2), (100, 5)] {
        let meter = Meter::new();
        let cache = Arc::new(IssuerCache::with_capacity(capacity));
        let verifier = meter.verifier.clone().with_issuer_cache(cache.clone());
        let mut lengths = HashSet::new();
        for chain in chains.iter().chain(&chains) {
            verifier
                .verify(chain, &of_a, NOW, PeerRole::Client)
                .unwrap();
            lengths.insert(cache.len());
        }
        assert_eq!(lengths.iter().max(), Some(&most));
        assert_eq!(cache.is_empty(), capacity == 0);
    }
}

#[test]
fn what_fails_is_not_remembered() {
    let top = root(ca_params("root"));
    let middle = intermediate(ca_params("middle"), &top);
    let cache = Arc::new(IssuerCache::default());
    let verifier = X509Verifier::new(&*crypto()).with_issuer_cache(cache.clone());
    let of_a = bundles(&[("a", &[&top])]);
    let stranger = root(ca_params("middle"));
    let forged = [
        chain(leaf_params(ID), &[&stranger]),
        vec![middle.der().clone()],
    ]
    .concat();
    let verdict = verifier.verify(&forged, &of_a, NOW, PeerRole::Client);
    assert_eq!(verdict.unwrap_err().rule(), Rule::PathBadSignature);
    assert!(cache.is_empty());
    verifier
        .explain(
            &chain(leaf_params(ID), &[&middle, &top]),
            &of_a,
            NOW,
            PeerRole::Client,
        )
        .0
        .unwrap();
    assert!(cache.is_empty(), "an explanation leaves no trace");
}

/// A chain of certificates given by (subject, issuer), all signed by one key that nobody trusts.
fn ladder(leaf_issuer: &str, links: &[(&str, &str)]) -> Vec<CertificateDer<'static>> {
    let stranger = key();
    let plain = |mut params: CertificateParams| {
        params.use_authority_key_identifier_extension = false;
        params
    };
    let leaf = plain(leaf_params(ID));
    std::iter::once(sign(&leaf, &key(), &ca_params(leaf_issuer), &stranger))
        .chain(links.iter().map(|(subject, issuer)| {
            sign(
                &plain(ca_params(subject)),
                &key(),
                &ca_params(issuer),
                &stranger,
            )
        }))
        .collect()
}

#[test]
fn hostile_chains_cause_bounded_work() {
    let tops: Vec<_> = (0..8).map(|_| root(ca_params("A"))).collect();
    let refs: Vec<_> = tops.iter().collect();
    let (one, eight) = (bundles(&[("a", &refs[..1])]), bundles(&[("a", &refs)]));
    // Mutually signing intermediates with a way out that is just too long: 11! orders for whoever tries them.
    let mut maze = vec![("S", "S"); 11];
    maze.extend([("S", "T"), ("T", "U"), ("U", "V"), ("V", "A")]);
    // Everything bears the authority's name.
    let twins = vec![("A", "A"); 15];
    for (links, leaf_issuer, bundles, most) in [
        (&maze, "S", &one, 1),
        (&maze, "S", &eight, 8),
        (&twins, "A", &one, 16),
        (&twins, "A", &eight, MAX_SIGNATURE_CHECKS),
    ] {
        let meter = Meter::new();
        let sent = ladder(leaf_issuer, links);
        let (verdict, checks) = meter.verify(&sent, bundles);
        assert!(verdict.is_err());
        assert_eq!(checks, most);
        let lower = X509Limits::default().max_signature_checks(3);
        let strict = meter.verifier.clone().with_limits(lower);
        meter.count.store(0, Ordering::Relaxed);
        strict
            .verify(&sent, bundles, NOW, PeerRole::Client)
            .unwrap_err();
        assert!(meter.count.load(Ordering::Relaxed) <= 3);
        let (_, tree) = meter
            .verifier
            .explain(&sent, bundles, NOW, PeerRole::Client);
        assert!(tree.to_string().len() < 64 * 1024);
    }
}

#[test]
fn an_insider_with_an_intermediate_causes_bounded_work_too() {
    // All keys below are vouched for, so every signature is good until the depth runs out.
    let top = root(ca_params("A"));
    let shared = key();
    let mut sent = vec![sign(
        &leaf_params("spiffe://a/x"),
        &key(),
        &ca_params("Z"),
        &shared,
    )];
    sent.push(
        ca_params("S")
            .signed_by(&shared, &top)
            .unwrap()
            .der()
            .clone(),
    );
    for _ in 0..14 {
        sent.push(sign(&ca_params("S"), &key(), &ca_params("S"), &shared));
    }
    sent[0] = sign(
        &leaf_params("spiffe://a/x"),
        &key(),
        &ca_params("S"),
        &key(),
    );
    let (verdict, checks) = Meter::new().verify(&sent, &bundles(&[("a", &[&top])]));
    assert!(verdict.is_err());
    assert!(checks <= MAX_SIGNATURE_CHECKS, "{checks}");
}

#[test]
fn large_certificates_are_not_looked_at() {
    let top = root(ca_params("root"));
    let of_a = bundles(&[("a", &[&top])]);
    let padded = |mut params: CertificateParams, bytes: usize| {
        let filler = element(4, &vec![0; bytes]);
        let extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 2], filler);
        params.custom_extensions.push(extension);
        params
    };
    let (fits, exceeds) = (MAX_CERTIFICATE_BYTES - 1000, MAX_CERTIFICATE_BYTES);
    check(
        &chain(padded(leaf_params(ID), fits), &[&top]),
        &of_a,
        Ok(ID),
    );
    check(
        &chain(padded(leaf_params(ID), exceeds), &[&top]),
        &of_a,
        Err(Rule::ChainTooLarge),
    );
    let middle = intermediate(padded(ca_params("middle"), fits), &top);
    check(&chain(leaf_params(ID), &[&middle, &top]), &of_a, Ok(ID));
    let middle = intermediate(padded(ca_params("middle"), exceeds), &top);
    check(
        &chain(leaf_params(ID), &[&middle, &top]),
        &of_a,
        Err(Rule::ChainTooLarge),
    );
    // One that the path does not need does no harm.
    let mut sent = chain(leaf_params(ID), &[&top]);
    sent.push(middle.der().clone());
    check(&sent, &of_a, Ok(ID));
    // Nor does it hide what is wrong with the one that the path does need.
    let mut params = ca_params("middle");
    params.not_after = params.not_before + time::Duration::seconds(1);
    let expired = intermediate(params, &top);
    let mut late = chain(leaf_params(ID), &[&expired, &top]);
    late.push(middle.der().clone());
    check(&late, &of_a, Err(Rule::PathExpired));
    // The limit is the most that is looked at.
    let wide = intermediate(padded(ca_params("middle"), 900), &top);
    let under_wide = chain(leaf_params(ID), &[&wide, &top]);
    for (limit, expected) in [
        (wide.der().len(), Ok(ID)),
        (wide.der().len() - 1, Err(Rule::ChainTooLarge)),
    ] {
        let limits = X509Limits::default().max_certificate_bytes(limit);
        let verifier = X509Verifier::new(&*crypto()).with_limits(limits);
        check_with(
            &verifier,
            &under_wide,
            &of_a,
            NOW,
            PeerRole::Client,
            expected,
        );
    }
    let long = chain(padded(leaf_params(ID), 900), &[&top]);
    for (limit, expected) in [
        (long[0].len(), Ok(ID)),
        (long[0].len() - 1, Err(Rule::ChainTooLarge)),
    ] {
        let limits = X509Limits::default().max_certificate_bytes(limit);
        let verifier = X509Verifier::new(&*crypto()).with_limits(limits);
        check_with(&verifier, &long, &of_a, NOW, PeerRole::Client, expected);
    }
    let small = X509Limits::default().max_certificate_bytes(100);
    let verifier = X509Verifier::new(&*crypto()).with_limits(small);
    check_with(
        &verifier,
        &sent,
        &of_a,
        NOW,
        PeerRole::Client,
        Err(Rule::ChainTooLarge),
    );
}

#[test]
fn an_explanation_lists_every_rule_in_order() {
    let top = root(ca_params("root"));
    let middle = intermediate(ca_params("middle"), &top);
    let sent = chain(leaf_params(ID), &[&middle, &top]);
    let verifier = X509Verifier::new(&*crypto());
    let (_, tree) = verifier.explain(&sent, &bundles(&[("a", &[&top])]), NOW, PeerRole::Client);
    let rules: Vec<_> = tree.children.iter().map(|node| node.rule).collect();
    assert_eq!(
        rules,
        [
            Rule::ChainEmpty,
            Rule::CertMalformed,
            Rule::LeafUriCount,
            Rule::LeafUriScheme,
            Rule::LeafPathMissing,
            Rule::LeafIsCa,
            Rule::LeafKeyCertSign,
            Rule::LeafCrlSign,
            Rule::LeafDigitalSignature,
            Rule::CertUnknownCriticalExtension,
            Rule::CertAlgorithm,
            Rule::LeafExtendedKeyUsage,
            Rule::PathExpired,
            Rule::TrustDomainUnknown,
            Rule::NoX509Authorities,
            Rule::PathIssuerAdmitted,
            Rule::PathLength,
            Rule::PathExtendedKeyUsage,
            Rule::PathUntrusted,
        ]
    );
    let admitted = &tree.children[15].facts;
    assert!(admitted.contains("serial number 07,"), "{admitted}");
    assert_eq!(tree.children[3].facts, ID);
    // What is not there for every chain has its place among them.
    let confined = intermediate(confined(ca_params("confined"), &["a"]), &top);
    let mut sent = chain(leaf_params(ID), &[&confined, &top]);
    sent.push(CertificateDer::from(vec![0x30, 0]));
    let (_, tree) = verifier.explain(&sent, &bundles(&[("a", &[&top])]), NOW, PeerRole::Client);
    let rules: Vec<_> = tree.children.iter().map(|node| node.rule).collect();
    assert_eq!(rules[18], Rule::PathNameConstraints);
    let unreadable = &tree.children[15].facts;
    assert!(unreadable.starts_with("certificate 2: "), "{unreadable}");
    // A broken rule ends the list, with what held before it and nothing behind.
    let mut params = leaf_params(ID);
    params.key_usages.push(KeyUsagePurpose::CrlSign);
    let sent = chain(params, &[&middle, &top]);
    let (_, tree) = verifier.explain(&sent, &bundles(&[("a", &[&top])]), NOW, PeerRole::Client);
    let (last, before) = tree.children.split_last().unwrap();
    assert_eq!(
        (last.rule, last.outcome),
        (Rule::LeafCrlSign, Outcome::Fail)
    );
    assert_eq!(before.last().unwrap().rule, Rule::LeafKeyCertSign);
    // What was tried and led nowhere is told without being the failure.
    let (old, new) = (root(ca_params("root")), root(ca_params("root")));
    let mut params = leaf_params(ID);
    params.use_authority_key_identifier_extension = false;
    let sent = chain(params, &[&new]);
    let (verdict, tree) = verifier.explain(
        &sent,
        &bundles(&[("a", &[&old, &new])]),
        NOW,
        PeerRole::Client,
    );
    assert!(verdict.is_ok());
    let tried = tree
        .children
        .iter()
        .find(|node| node.outcome == Outcome::Skipped);
    assert_eq!(tried.unwrap().rule, Rule::PathBadSignature);
}

#[test]
fn an_explanation_keeps_room_for_the_verdict() {
    let mut params = ca_params("root");
    params.not_after = params.not_before + time::Duration::seconds(1);
    let expired: Vec<_> = (0..300).map(|_| root(params.clone())).collect();
    let right = root(ca_params("root"));
    let mut all: Vec<_> = expired.iter().collect();
    let sent = chain(leaf_params(ID), &[&right]);
    check(&sent, &bundles(&[("a", &all)]), Err(Rule::PathExpired));
    all.push(&right);
    check(&sent, &bundles(&[("a", &all)]), Ok(ID));
}

/// One of few names and keys, so that graphs have twins, crossings and loops.
#[derive(Clone, Debug)]
struct Node {
    subject: usize,
    key: usize,
    issuer: usize,
    issuer_key: usize,
    path_length: Option<u8>,
}

fn node() -> impl Strategy<Value = Node> {
    (
        0..3_usize,
        0..2_usize,
        0..3_usize,
        0..2_usize,
        prop::option::weighted(0.2, 0..3_u8),
    )
        .prop_map(|(subject, key, issuer, issuer_key, path_length)| Node {
            subject,
            key,
            issuer,
            issuer_key,
            path_length,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// webpki builds paths from the leaf upwards. On graphs small enough for it, both come to the same verdict, but for
    /// self-issued certificates below a path length, which it counts and RFC 5280 §6.1.4 does not.
    #[test]
    fn the_search_agrees_with_webpki(
        nodes in prop::collection::vec(node(), 0..6),
        tops in prop::collection::vec((0..3_usize, 0..2_usize), 1..3),
        leaf in (0..3_usize, 0..2_usize),
        identifiers in any::<bool>(),
    ) {
        let keys = [key(), key()];
        let names = ["A", "B", "C"].map(ca_params);
        let plain = |mut params: CertificateParams| {
            params.use_authority_key_identifier_extension = identifiers;
            params
        };
        let leaf = sign(&plain(leaf_params(ID)), &key(), &names[leaf.0], &keys[leaf.1]);
        let sent: Vec<_> = nodes
            .iter()
            .map(|node| {
                let mut params = plain(names[node.subject].clone());
                if let Some(limit) = node.path_length {
                    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(limit));
                }
                sign(&params, &keys[node.key], &names[node.issuer], &keys[node.issuer_key])
            })
            .collect();
        let tops: Vec<_> = tops
            .iter()
            .map(|(name, key)| sign(&names[*name], &keys[*key], &names[*name], &keys[*key]))
            .collect();
        let anchors: Vec<_> = tops.iter().map(|der| webpki::anchor_from_trusted_cert(der).unwrap()).collect();
        let end_entity = webpki::EndEntityCert::try_from(&leaf).unwrap();
        let theirs = end_entity.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            &sent,
            spiffe_core::pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(
                NOW.unix_seconds() as u64,
            )),
            webpki::KeyUsage::client_auth(),
            None,
            None,
        );
        let authorities = X509Authorities::from_certificates(tops.clone());
        let set: BundleSet = [Bundle::new(TrustDomain::parse("a").unwrap()).with_x509_authorities(authorities)]
            .into_iter()
            .collect();
        let mut chain = vec![leaf.clone()];
        chain.extend(sent.iter().cloned());
        let meter = Meter::new();
        let (ours, checks) = meter.verify(&chain, &set);
        prop_assert!(checks <= MAX_SIGNATURE_CHECKS);
        let (again, _) = meter.verify(&chain, &set);
        prop_assert_eq!(&ours, &again);
        let (explained, _) = meter.verifier.explain(&chain, &set, NOW, PeerRole::Client);
        prop_assert_eq!(&ours, &explained);
        let self_issued = nodes.iter().any(|node| node.subject == node.issuer);
        let limited = nodes.iter().any(|node| node.path_length.is_some());
        if theirs.is_ok() || !(self_issued && limited) {
            prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{:?} where webpki says {:?}", ours, theirs.err());
        }
    }

    /// A byte changed anywhere never yields another identity, whether issuers are remembered or not.
    #[test]
    fn a_mutated_chain_never_yields_another_identity(
        certificate in 0..3_usize,
        at in any::<prop::sample::Index>(),
        with in 1..=255_u8,
    ) {
        let top = root(ca_params("root"));
        let upper = intermediate(confined(ca_params("upper"), &["a"]), &top);
        let lower = intermediate(ca_params("lower"), &upper);
        let good = chain(leaf_params(ID), &[&lower, &upper, &top]);
        let set = bundles(&[("a", &[&top]), ("b", &[&top])]);
        let verifier = X509Verifier::new(&*crypto());
        prop_assert!(verifier.verify(&good, &set, NOW, PeerRole::Client).is_ok());
        let mut bad = good.clone();
        let mut bytes = bad[certificate].to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= with;
        bad[certificate] = CertificateDer::from(bytes);
        let warm = verifier.verify(&bad, &set, NOW, PeerRole::Client);
        let cold = X509Verifier::new(&*crypto()).verify(&bad, &set, NOW, PeerRole::Client);
        // What is warm stands for certificates above it that need not be sent, so only identity is compared.
        prop_assert!(cold.is_err(), "byte {} of certificate {}", at, certificate);
        if let Ok(peer) = warm {
            prop_assert_eq!(peer.id.as_str(), ID);
            prop_assert_ne!(certificate, 0);
        }
    }
}
