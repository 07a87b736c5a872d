//! Authorities below authorities: a trust domain's CA certifies an intermediate, that one the next, and the last one
//! signs a workload's SVID. Writes what a server takes: `svid.pem`, the leaf and what is above it, `key.pem` (0600) and
//! `bundle.pem`, the root alone.
//!
//! ```sh
//! cargo run --bin nested_authorities -- --out /tmp/nested --depth 3
//! openssl verify -x509_strict -CAfile /tmp/nested/bundle.pem -untrusted /tmp/nested/svid.pem /tmp/nested/svid.pem
//! ```
//!
//! The shortest whole use of `spiffe_svid_ca` as a library; for an authority that a running server holds, see
//! `spiffe_svid_ca::upstream`.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use spiffe_core::bundle::certificates_to_pem;
use spiffe_core::crypto::{aws_lc_rs, system_random};
use spiffe_core::key::KeyType;
use spiffe_core::{Clock, SpiffeId, SystemClock, TrustDomain};
use spiffe_daemons::ca::{Delivery, PRIVATE, PUBLIC};
use spiffe_svid_ca::issuer::{IssuerSettings, X509Issuer};
use spiffe_svid_ca::{DnsName, IntermediateParams, TrustDomainCa, X509SvidParams};

#[derive(Parser)]
#[command(about = "A chain of authorities down to one SVID, in files")]
struct Arguments {
    /// The directory to write into, over what is there
    #[arg(long)]
    out: PathBuf,
    /// The kind of all keys: ec-p256, ec-p384, ec-p521, ed25519, rsa-2048 or rsa-4096
    #[arg(long, default_value = "ec-p256", value_parser = key_type)]
    key_type: KeyType,
    /// How many authorities stand above the leaf, the root among them: 1 to 4
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=4))]
    depth: u8,
    /// Confine the intermediates to the trust domain by URI name constraints
    #[arg(long)]
    confined: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let now = SystemClock::new().now();
    let crypto = aws_lc_rs();
    let trust_domain = TrustDomain::parse("example.org")?;
    let ca = TrustDomainCa::builder(trust_domain.clone())
        .x509_key_type(arguments.key_type)
        .build(now)
        .await?;
    let key = crypto.generate_key(arguments.key_type)?;
    let leaf = crypto.load_key(&key)?;
    let params = X509SvidParams::new(SpiffeId::parse("spiffe://example.org/web")?)
        .with_dns_names([DnsName::parse("web.example.org")?]);

    let mut below = IntermediateParams::new();
    below.confined = arguments.confined;
    let settings = Arc::new(IssuerSettings::new(crypto.clone(), system_random()));
    let mut last: Option<X509Issuer> = None;
    for _ in 1..arguments.depth {
        let signer = crypto.load_key(&crypto.generate_key(arguments.key_type)?)?;
        let issued = match &last {
            None => {
                ca.issue_intermediate(&below, signer.public_key(), now)
                    .await?
            }
            Some(above) => {
                above
                    .issue_intermediate(&below, signer.public_key(), now)
                    .await?
            }
        };
        let mut chain = issued.chain.into_iter();
        let own = chain
            .next()
            .ok_or("an issued chain has a first certificate")?;
        last = Some(X509Issuer::new(
            trust_domain.clone(),
            own,
            chain.collect(),
            signer,
            settings.clone(),
        )?);
    }
    let issued = match &last {
        None => ca.issue_x509(&params, leaf.public_key(), now).await?,
        Some(issuer) => issuer.issue(&params, leaf.public_key(), now).await?,
    };

    let chain = certificates_to_pem(&issued.chain);
    let bundle = ca.bundle().x509_authorities().to_pem();
    Delivery::new(arguments.out, true)
        .file("key.pem", PRIVATE)
        .file("svid.pem", PUBLIC)
        .file("bundle.pem", PUBLIC)
        .write(&[
            key.secret_pkcs8_pem().as_bytes(),
            chain.as_bytes(),
            bundle.as_bytes(),
        ])?;
    println!("{} below {} authorities", issued.id, arguments.depth);
    Ok(())
}

fn key_type(text: &str) -> Result<KeyType, String> {
    Ok(match text {
        "ec-p256" => KeyType::EcP256,
        "ec-p384" => KeyType::EcP384,
        "ec-p521" => KeyType::EcP521,
        "ed25519" => KeyType::Ed25519,
        "rsa-2048" => KeyType::Rsa2048,
        "rsa-4096" => KeyType::Rsa4096,
        _ => return Err("write ec-p256, ec-p384, ec-p521, ed25519, rsa-2048 or rsa-4096".into()),
    })
}
