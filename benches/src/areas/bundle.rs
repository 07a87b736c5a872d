//! Bundles: finding one among many, and reading a document.

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::hint::black_box;
use std::sync::Arc;

use serde::de::IgnoredAny;
use spiffe_core::pki_types::CertificateDer;
use spiffe_core::{Bundle, BundleSet, TrustDomain};

use super::Measured;
use crate::Effort;
use crate::fixtures::{Domain, bundle};
use crate::measure::{contender, in_turns};
use crate::report::{Budget, Row};

pub(crate) const LOOKUP: &str = "bundle/lookup/10000";
pub(crate) const DOCUMENT: &str = "bundle/parse/10";

/// Looks up every trust domain, in an order that no cache foresees. The other table differs in its hash alone, the
/// cheapest that spreads names at all.
pub(crate) fn lookup(effort: Effort) -> Measured {
    let names = (0..DOMAINS)
        .map(|number| TrustDomain::parse(&format!("td{number}.example.org")))
        .collect::<Result<Vec<_>, _>>()?;
    let set: BundleSet = names.iter().cloned().map(Bundle::new).collect();
    let table: HashMap<Arc<str>, Arc<Bundle>, BuildHasherDefault<Multiply>> = set
        .iter()
        .map(|bundle| (bundle.trust_domain().as_str().into(), bundle.clone()))
        .collect();
    // A stride without a common divisor visits all.
    let asked: Vec<_> = (0..DOMAINS)
        .map(|number| names[number * 7919 % DOMAINS].as_ref())
        .collect();
    let next = |position: &Cell<usize>| {
        let at = position.get();
        position.set((at + 1) % DOMAINS);
        asked[at]
    };
    let (ours_at, theirs_at) = (Cell::new(0), Cell::new(DOMAINS / 2));
    let [ours, theirs] = in_turns(
        effort.span,
        [
            contender(|| set.get(black_box(next(&ours_at))).is_some()),
            contender(|| table.contains_key(black_box(next(&theirs_at)).as_str())),
        ],
    );
    Ok(vec![Row::new(
        LOOKUP,
        "ns",
        ours,
        "the same table, multiplicative hash",
        theirs,
        Budget::AtMost(20.0),
    )])
}

/// The floor skims the JSON and has webpki read each certificate; it decodes no base64 and compares nothing.
pub(crate) fn document(effort: Effort) -> Measured {
    let authorities = (0..10)
        .map(|_| Domain::new(NAME))
        .collect::<Result<Vec<_>, _>>()?;
    let all: Vec<_> = authorities.iter().collect();
    let document = bundle(NAME, &all)?.to_spiffe_json();
    let trust_domain = TrustDomain::parse(NAME)?;
    let certificates: Vec<CertificateDer<'_>> = all
        .iter()
        .map(|authority| authority.certificate().clone())
        .collect();
    assert_eq!(
        Bundle::from_spiffe_json(trust_domain.clone(), &document)?
            .x509_authorities()
            .len(),
        10
    );
    let [ours, floor] = in_turns(
        effort.span,
        [
            contender(|| Bundle::from_spiffe_json(trust_domain.clone(), black_box(&document))),
            contender(|| {
                let skimmed = serde_json::from_str::<IgnoredAny>(black_box(&document)).is_ok();
                let read = certificates.iter().all(|certificate| {
                    webpki::anchor_from_trusted_cert(black_box(certificate)).is_ok()
                });
                skimmed && read
            }),
        ],
    );
    Ok(vec![Row::new(
        DOCUMENT,
        "µs",
        ours / 1e3,
        "JSON skimmed, webpki reads each",
        floor / 1e3,
        Budget::AtMost(20.0),
    )])
}

const DOMAINS: usize = 10_000;
const NAME: &str = "example.org";

/// Eight bytes at a time, one multiplication each, both halves of the product kept.
#[derive(Default)]
struct Multiply(u64);

impl Hasher for Multiply {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            let product = u128::from(self.0 ^ u64::from_le_bytes(word)) * 0x9e37_79b9_7f4a_7c15;
            self.0 = (product >> 64) as u64 ^ product as u64;
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
