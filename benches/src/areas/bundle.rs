//! Bundles: finding one among many, and reading a document.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::hint::black_box;
use std::sync::Arc;

use serde::de::IgnoredAny;
use spiffe_core::pki_types::CertificateDer;
use spiffe_core::{Bundle, BundleSet, SpiffeIdError, TrustDomain, TrustDomainRef};

use super::Measured;
use crate::Effort;
use crate::fixtures::{Domain, bundle};
use crate::measure::{contender, in_turns};
use crate::report::{Budget, Row};

pub(crate) const LOOKUP: &str = "bundle/lookup/10000";
pub(crate) const DOCUMENT: &str = "bundle/parse/10";

/// Looks names up all over the set, the names themselves lying elsewhere. The other table differs in its hash alone, the
/// cheapest that spreads names at all.
pub(crate) fn lookup(effort: Effort) -> Measured {
    let name = |number| TrustDomain::parse(&format!("td{number}.example.org"));
    let set: BundleSet = (0..DOMAINS)
        .map(|number| Ok(Bundle::new(name(number)?)))
        .collect::<Result<_, SpiffeIdError>>()?;
    let table: HashMap<Arc<str>, Arc<Bundle>, BuildHasherDefault<Multiply>> = set
        .iter()
        .map(|bundle| (bundle.trust_domain().as_str().into(), bundle.clone()))
        .collect();
    let asked = pseudo_random(DOMAINS)
        .map(|draw| name(draw % DOMAINS))
        .collect::<Result<Vec<_>, _>>()?;
    let [ours, theirs] = in_turns(
        effort.span,
        [
            contender(draw(&asked, |name| set.get(name).is_some())),
            contender(draw(&asked, |name| table.contains_key(name.as_str()))),
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

/// Asks for one name after the other, round and round.
fn draw(asked: &[TrustDomain], ask: impl Fn(TrustDomainRef<'_>) -> bool) -> impl FnMut() -> bool {
    let mut names = asked.iter().cycle();
    move || {
        names
            .next()
            .is_some_and(|name| ask(black_box(name.as_ref())))
    }
}

/// Numbers in an order that no cache foresees, the same in every run.
fn pseudo_random(count: usize) -> impl Iterator<Item = usize> {
    let step = |seed: &u64| Some(seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    std::iter::successors(Some(1), step)
        .map(|seed: u64| (seed >> 33) as usize)
        .take(count)
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

impl Multiply {
    fn mix(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}

impl Hasher for Multiply {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        if let Some(last) = bytes.last_chunk::<8>() {
            self.mix(u64::from_le_bytes(*last));
        } else {
            rest.iter().for_each(|byte| self.mix(u64::from(*byte)));
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.0 ^= u64::from(byte);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
