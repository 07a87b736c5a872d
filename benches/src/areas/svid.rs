//! Loading an own X509-SVID.

use std::hint::black_box;

use spiffe_core::X509Svid;
use spiffe_core::crypto::aws_lc_rs;
use spiffe_core::key::SvidKey;
use webpki::EndEntityCert;

use super::Measured;
use crate::Effort;
use crate::fixtures::Domain;
use crate::measure::{contender, in_turns};
use crate::report::{Budget, Row};

pub(crate) const FROM_DER: &str = "svid/from-der/chain2";
pub(crate) const FROM_DER_WITH_KEY: &str = "svid/from-der/chain2-with-key";

/// A leaf and its intermediate. To match the key with the leaf its public half must be computed from the private one,
/// which costs more than everything else together; so one row goes without, and the other has it as its floor.
pub(crate) fn from_der(effort: Effort) -> Measured {
    let crypto = aws_lc_rs();
    let svid = Domain::new("example.org")?.intermediate()?.svid("web")?;
    let SvidKey::Local(key) = svid.key() else {
        return Err("the fixture's key is local".into());
    };
    let signer = crypto.load_key(key)?;
    let chain = svid.chain();
    let der = svid.to_concatenated_der();
    X509Svid::with_signer(chain.to_vec(), signer.clone())?;
    X509Svid::from_concatenated_der(&der, key.clone_key(), &*crypto)?;
    let [ours, parsed, ours_with_key, loaded] = in_turns(
        effort.span,
        [
            contender(|| X509Svid::with_signer(black_box(chain).to_vec(), signer.clone())),
            contender(|| {
                let chain = black_box(chain).to_vec();
                chain
                    .iter()
                    .all(|certificate| EndEntityCert::try_from(certificate).is_ok())
            }),
            contender(|| {
                X509Svid::from_concatenated_der(black_box(&der), key.clone_key(), &*crypto)
            }),
            contender(|| crypto.load_key(&key.clone_key())),
        ],
    );
    Ok(vec![
        Row::new(
            FROM_DER,
            "µs",
            ours / 1e3,
            "webpki parses both",
            parsed / 1e3,
            Budget::AtMost(1.5),
        ),
        Row::new(
            FROM_DER_WITH_KEY,
            "µs",
            ours_with_key / 1e3,
            "loading the key",
            loaded / 1e3,
            Budget::Beyond(1.5),
        ),
    ])
}
