//! Handshakes among 200 trust domains with rust-spiffe's rustls configurations, over its own source and a Workload API of
//! ours. Built with the feature `peers` alone.

use std::error::Error;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use serde_json::json;
use spiffe_daemons::local::LocalTrustDomain;
use spiffe_registration::entries_from_json;

use super::Measured;
use super::tls::{Pair, shake};
use crate::Effort;
use crate::fixtures::DNS_NAME;
use crate::measure::{contender, in_turns};
use crate::report::{Budget, Row};

pub(crate) const HANDSHAKE: &str = "peers/handshake-200";
pub(crate) const HANDSHAKE_OVER_PLAIN: &str = "peers/handshake-200-over-plain";

const TRUST_DOMAINS: usize = 200;

/// Ours beside theirs, and theirs beside plain rustls, all three in turns: the ratio to set beside `tls/handshake/200`.
pub(crate) fn handshake(effort: Effort) -> Measured {
    let pair = Pair::new(TRUST_DOMAINS)?;
    let (client, server) = (
        pair.client_side()?.client_config()?,
        pair.server_side()?.server_config()?,
    );
    let (plain_client, plain_server) = (pair.plain_client()?, pair.plain_server()?);
    let name = ServerName::try_from(DNS_NAME)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("s");
    let uid = folder.path().metadata()?.uid();
    let theirs = runtime.block_on(async {
        let others: Vec<String> = (1..TRUST_DOMAINS)
            .map(|number| format!("td{number}.example"))
            .collect();
        let entry = json!({"entries": [{
            "spiffe_id": "spiffe://example.org/peer",
            "parent_id": "spiffe://example.org/agent",
            "selectors": [{"type": "unix", "value": format!("uid:{uid}")}],
            "dns_names": [DNS_NAME],
            "federates_with": others,
        }]});
        let entries = entries_from_json(entry.to_string().as_bytes(), || "1".into())?;
        let domain = LocalTrustDomain::builder("example.org".parse()?)
            .entries(entries)
            .build()
            .await?;
        let mut federated = Vec::new();
        for other in &others {
            let other = LocalTrustDomain::builder(other.parse()?).build().await?;
            domain.federate(&other);
            federated.push(other);
        }
        let api = domain.serve(&socket)?;
        let source = spiffe::X509Source::builder()
            .endpoint(format!("unix://{}", socket.display()))
            .build()
            .await?;
        let client = spiffe_rustls::mtls_client(source.clone()).build()?;
        let server = spiffe_rustls::mtls_server(source.clone()).build()?;
        Ok::<_, Box<dyn Error>>((
            Arc::new(client),
            Arc::new(server),
            (source, api, domain, federated),
        ))
    })?;
    let (their_client, their_server, kept) = theirs;
    // Nothing is resumed on any side.
    let mut their_client = (*their_client).clone();
    their_client.resumption = rustls::client::Resumption::disabled();
    let their_client = Arc::new(their_client);
    shake(&their_client, &their_server, &name)?;
    let [ours, theirs, plain] = in_turns(
        effort.span,
        [
            contender(|| shake(&client, &server, &name).expect("one trust domain")),
            contender(|| shake(&their_client, &their_server, &name).expect("one trust domain")),
            contender(|| shake(&plain_client, &plain_server, &name).expect("one root")),
        ],
    );
    let _in_runtime = runtime.enter();
    drop(kept);
    Ok(vec![
        Row::new(
            HANDSHAKE,
            "µs",
            ours / 1e3,
            "rust-spiffe 0.19 with spiffe-rustls 0.11",
            theirs / 1e3,
            Budget::Ratio(1.0),
        ),
        Row::new(
            HANDSHAKE_OVER_PLAIN,
            "µs",
            theirs / 1e3,
            "plain rustls; rust-spiffe stands for ours here",
            plain / 1e3,
            None,
        ),
    ])
}
