//! Messages of the Workload API as they travel.

use prost::Message;
use spiffe_core::svid::X509Chain;
use spiffe_proto::workload::{
    JwtBundlesResponse, Jwtsvid, JwtsvidResponse, X509BundlesResponse, X509svid, X509svidResponse,
};

use crate::tokens::{CLAIMS, jwk_members, signed};
use crate::{World, joined};

/// FetchX509SVID's: `spiffe://a/x`, and a bundle of trust domain `b`.
pub fn x509_message(world: &World, of_b: &[u8]) -> Vec<u8> {
    x509(world, of_b).encode_to_vec()
}

fn x509(world: &World, of_b: &[u8]) -> X509svidResponse {
    let chain = X509Chain::new(world.chain.clone()).expect("the world's chain is good");
    X509svidResponse {
        svids: vec![X509svid {
            spiffe_id: chain.id().to_string(),
            x509_svid: joined(&world.chain),
            x509_svid_key: world.key().secret_pkcs8_der().to_vec(),
            bundle: world.authorities[0].to_vec(),
            hint: String::new(),
        }],
        federated_bundles: [("spiffe://b".to_owned(), of_b.to_vec())].into(),
        ..X509svidResponse::default()
    }
}

/// FetchX509Bundles', of both trust domains.
pub fn x509_bundles(world: &World) -> Vec<u8> {
    let names = ["spiffe://a", "spiffe://b"];
    let bundles = names.iter().zip(&world.authorities);
    X509BundlesResponse {
        bundles: bundles
            .map(|(name, authority)| ((*name).to_owned(), authority.to_vec()))
            .collect(),
        crl: vec![vec![0x30, 0]],
    }
    .encode_to_vec()
}

/// FetchJWTBundles', of trust domain `a`.
pub fn jwt_bundles() -> Vec<u8> {
    let jwks = format!(r#"{{"keys":[{{{}}}]}}"#, jwk_members());
    JwtBundlesResponse {
        bundles: [("spiffe://a".to_owned(), jwks.into_bytes())].into(),
    }
    .encode_to_vec()
}

/// What the target of messages starts from.
pub(crate) fn message_seeds(world: &World) -> Vec<Vec<u8>> {
    let good = || x509(world, &world.authorities[1]);
    let mut seeds = vec![
        x509_message(world, &world.authorities[1]),
        x509_bundles(world),
        jwt_bundles(),
        world.authorities[0].to_vec(),
    ];
    for change in CHANGES {
        let mut message = good();
        change(&mut message, world);
        seeds.push(message.encode_to_vec());
    }
    for chain in &world.refused {
        let mut message = good();
        message.svids[0].x509_svid = joined(chain);
        seeds.push(message.encode_to_vec());
    }
    for claims in [CLAIMS.to_owned(), CLAIMS.replace("db", "dB")] {
        let token = Jwtsvid {
            spiffe_id: "spiffe://a/x".into(),
            svid: signed(&claims),
            hint: "internal".into(),
        };
        seeds.push(JwtsvidResponse { svids: vec![token] }.encode_to_vec());
    }
    seeds
}

/// Ways in which a message differs from the good one.
const CHANGES: &[fn(&mut X509svidResponse, &World)] = &[
    |message, _| message.svids[0].hint = "internal".into(),
    |message, _| message.svids[0].bundle.clear(),
    |message, _| message.svids[0].spiffe_id = "spiffe://a/z".into(),
    |message, _| message.svids[0].x509_svid_key[20] ^= 1,
    |message, world| message.svids[0].bundle = world.authorities[1].to_vec(),
    |message, _| message.crl.push(vec![0x30, 0]),
    |message, _| message.federated_bundles.clear(),
    // Two spellings of one name, with two contents.
    |message, world| {
        let other = world.authorities[0].to_vec();
        message.federated_bundles.insert("SPIFFE://B".into(), other);
    },
    |message, world| {
        let mut second = message.svids[0].clone();
        second.spiffe_id = "spiffe://b/y".into();
        second.x509_svid = joined(&world.other);
        second.bundle = world.authorities[1].to_vec();
        second.hint = "external".into();
        message.svids.push(second);
    },
];
