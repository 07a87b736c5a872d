//! The same work in another library of the field: rust-spiffe. Built with the feature `peers` alone.

use std::error::Error;
use std::hint::black_box;

use rcgen::{CertifiedIssuer, KeyPair};
use serde_json::Value;
use spiffe::bundle::jwt::JwtAuthority as PeerJwtAuthority;
use spiffe_core::crypto::aws_lc_rs;
use spiffe_core::key::{KeyType, SvidKey};
use spiffe_core::{Bundle, BundleSet, SpiffeId, TrustDomain, X509Svid};

use super::jwt::{AUDIENCE, Token};
use super::{Measured, id};
use crate::Effort;
use crate::fixtures::{Domain, authority, leaf, now, ready};
use crate::measure::{contender, in_turns};
use crate::report::{Budget, Row};

pub(crate) const RCGEN: &str = "peers/rcgen-issue-spki";
pub(crate) const ID: &str = "peers/id-parse";
pub(crate) const FROM_DER: &str = "peers/svid-from-der";
pub(crate) const LOOKUP: &str = "peers/bundle-lookup";
pub(crate) const ES256: &str = "peers/jwt-es256";
pub(crate) const RS256: &str = "peers/jwt-rs256";

/// A leaf for a bare public key, the issuer's key in memory, on both sides. Ours asks whether the key is a point of its
/// curve besides; theirs takes it as it is.
pub(crate) fn rcgen_issue(effort: Effort) -> Measured {
    let (ca, params, public_key) = super::ca::bare_key()?;
    let now = now();
    let issuer = CertifiedIssuer::self_signed(authority("example.org"), KeyPair::generate()?)?;
    let leaf = leaf("spiffe://example.org/ns/prod/sa/web")?;
    let key = KeyPair::generate()?;
    leaf.signed_by(&key, &issuer)?;
    let [ours, theirs] = in_turns(
        effort.span,
        [
            contender(|| ready(ca.issue_x509(&params, black_box(&public_key), now))),
            contender(|| leaf.signed_by(black_box(&key), &issuer)),
        ],
    );
    let (ours, theirs) = (ours / 1e3, theirs / 1e3);
    Ok(vec![Row::new(
        RCGEN,
        "µs",
        ours,
        "rcgen 0.14's signed_by",
        theirs,
        None,
    )])
}

/// An owned ID from 35 bytes.
pub(crate) fn id_parse(effort: Effort) -> Measured {
    let [ours, theirs] = in_turns(
        effort.span,
        [
            contender(|| SpiffeId::parse(black_box(id::ID)).is_ok()),
            contender(|| spiffe::SpiffeId::new(black_box(id::ID)).is_ok()),
        ],
    );
    Ok(vec![row(ID, "ns", ours, theirs)])
}

/// A leaf, its intermediate and its key. Theirs does not match the key with the leaf, and neither does ours here.
pub(crate) fn svid_from_der(effort: Effort) -> Measured {
    let crypto = aws_lc_rs();
    let svid = Domain::new("example.org")?.intermediate()?.svid("web")?;
    let SvidKey::Local(key) = svid.key() else {
        return Err("the fixture's key is local".into());
    };
    let signer = crypto.load_key(key)?;
    let (chain, der) = (svid.chain(), svid.to_concatenated_der());
    spiffe::X509Svid::parse_from_der(&der, key.secret_pkcs8_der())?;
    let [ours, theirs] = in_turns(
        effort.span,
        [
            contender(|| X509Svid::with_signer(black_box(chain).to_vec(), signer.clone())),
            contender(|| spiffe::X509Svid::parse_from_der(black_box(&der), key.secret_pkcs8_der())),
        ],
    );
    Ok(vec![row(FROM_DER, "µs", ours / 1e3, theirs / 1e3)])
}

/// One of a thousand trust domains, the same one again and again.
pub(crate) fn bundle_lookup(effort: Effort) -> Measured {
    let name = |number| format!("td{number}.example.org");
    let mut ours = BundleSet::new();
    let mut theirs = spiffe::X509BundleSet::new();
    for number in 0..1000 {
        ours.insert(Bundle::new(TrustDomain::parse(&name(number))?));
        theirs.add_bundle(spiffe::X509Bundle::new(spiffe::TrustDomain::new(name(
            number,
        ))?));
    }
    let our_name = TrustDomain::parse(&name(500))?;
    let their_name = spiffe::TrustDomain::new(name(500))?;
    let [ours, theirs] = in_turns(
        effort.span,
        [
            contender(|| ours.get(black_box(our_name.as_ref())).is_some()),
            contender(|| theirs.get_ref(black_box(&their_name)).is_some()),
        ],
    );
    Ok(vec![row(LOOKUP, "ns", ours, theirs)])
}

pub(crate) fn jwt_es256(effort: Effort) -> Measured {
    jwt(effort, ES256, KeyType::EcP256)
}

pub(crate) fn jwt_rs256(effort: Effort) -> Measured {
    jwt(effort, RS256, KeyType::Rsa2048)
}

fn jwt(effort: Effort, name: &str, key_type: KeyType) -> Measured {
    let token = Token::new(key_type)?;
    let bundle = peer_bundle(&token)?;
    spiffe::JwtSvid::parse_and_validate(&token.token, &bundle, &[AUDIENCE])?;
    let [ours, theirs] = in_turns(
        effort.span,
        [
            contender(|| black_box(&token).verify()),
            contender(|| {
                spiffe::JwtSvid::parse_and_validate(black_box(&token.token), &bundle, &[AUDIENCE])
            }),
        ],
    );
    Ok(vec![row(name, "µs", ours / 1e3, theirs / 1e3)])
}

fn peer_bundle(token: &Token) -> Result<spiffe::JwtBundleSet, Box<dyn Error>> {
    let bundle = token.bundles.iter().next().ok_or("there is one bundle")?;
    let document: Value = serde_json::from_str(&bundle.to_spiffe_json())?;
    let key = serde_json::to_vec(&document["keys"][0])?;
    let mut bundle = spiffe::JwtBundle::new(spiffe::TrustDomain::new("example.org")?);
    bundle.add_jwt_authority(PeerJwtAuthority::from_jwk_json(&key)?);
    let mut bundles = spiffe::JwtBundleSet::new();
    bundles.add_bundle(bundle);
    Ok(bundles)
}

fn row(name: &str, unit: &'static str, ours: f64, theirs: f64) -> Row {
    Row::new(
        name,
        unit,
        ours,
        "rust-spiffe 0.19",
        theirs,
        Budget::Ratio(1.0),
    )
}
