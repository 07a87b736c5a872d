//! X.509 verification: whatever is accepted is, byte for byte, a leaf that was issued, and the explanation agrees. The input
//! is taken as a chain in DER, and as changes of one that is good.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use spiffe_core::bundle::certificates_from_concatenated_der;
use spiffe_core::crypto::aws_lc_rs;
use spiffe_core::pki_types::CertificateDer;
use spiffe_core::verify::{PeerRole, X509Verifier};
use spiffe_core::{BundleSet, Outcome};
use spiffe_fuzz::{NOW, World};

static WORLD: LazyLock<(World, BundleSet, X509Verifier)> = LazyLock::new(|| {
    let world = World::new();
    let bundles = world.bundles();
    (world, bundles, X509Verifier::new(&*aws_lc_rs()))
});

fuzz_target!(|data: &[u8]| {
    let whole = || vec![CertificateDer::from(data.to_vec())];
    judge(&certificates_from_concatenated_der(data).unwrap_or_else(|_| whole()));
    judge(&changed(data));
});

fn judge(chain: &[CertificateDer<'_>]) {
    let (world, bundles, verifier) = &*WORLD;
    for role in [PeerRole::Client, PeerRole::Unspecified] {
        let verdict = verifier.verify(chain, bundles, NOW, role);
        let (explained, tree) = verifier.explain(chain, bundles, NOW, role);
        assert_eq!(verdict, explained);
        assert_eq!(tree.outcome == Outcome::Pass, verdict.is_ok());
        assert!(tree.to_string().len() < 100_000);
        match verdict {
            Ok(peer) => {
                let (id, leaf) = match peer.id.trust_domain().as_str() {
                    "a" => ("spiffe://a/x", &world.chain[0]),
                    _ => ("spiffe://b/y", &world.other[0]),
                };
                assert_eq!((peer.id.as_str(), &chain[0]), (id, leaf));
            }
            Err(error) => {
                let failed = tree.first_failure().expect("something failed");
                assert_eq!(failed.rule, error.rule());
            }
        }
    }
}

/// The good chain with bytes set: four of the input each, which certificate, where (two), and to what.
fn changed(data: &[u8]) -> Vec<CertificateDer<'static>> {
    let mut chain: Vec<Vec<u8>> = WORLD.0.chain.iter().map(|one| one.to_vec()).collect();
    for change in data.chunks_exact(4).take(16) {
        let number = usize::from(change[0]) % chain.len();
        let certificate = &mut chain[number];
        let at = usize::from(u16::from_be_bytes([change[1], change[2]])) % certificate.len();
        certificate[at] = change[3];
    }
    chain.into_iter().map(CertificateDer::from).collect()
}
