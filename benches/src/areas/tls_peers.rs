//! Handshakes with many peers, and with peers that send more than they need: server's side and client's beside plain
//! rustls.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use spiffe_tls::{Mtls, Policy, Publisher};

use super::Measured;
use super::tls::{Pair, shake};
use crate::Effort;
use crate::fixtures::{DNS_NAME, Domain};
use crate::measure::{contender, in_turns};
use crate::report::{Budget, Row};

pub(crate) const DISTINCT: &str = "tls/handshake/200-peers";
pub(crate) const STRANGERS: &str = "tls/handshake/strangers";
pub(crate) const USELESS: &str = "tls/handshake/useless-certificates";

/// How many peers a server meets that has never met them before: more than a configuration remembers, and in a circle,
/// so that each has been forgotten when it comes again.
const MANY: usize = spiffe_tls::MAX_REMEMBERED_CHAINS + 900;

type Failure = Box<dyn std::error::Error>;

pub(crate) fn handshakes(effort: Effort) -> Measured {
    let pair = Pair::new(200)?;
    let many = |count: usize| -> Result<Clients, Failure> {
        let mut clients = Clients::default();
        for number in 0..count {
            let svid = pair.domain.svid(&format!("peer{number}"))?;
            clients
                .plain
                .push(pair.plain_client_of(&svid, svid.chain().to_vec())?);
            let source = Publisher::fixed([svid], pair.bundles.clone());
            clients
                .ours
                .push(Mtls::new(&source, policy()?).client_config()?);
        }
        Ok(clients)
    };
    // No SVID of ours has such a chain, so plain rustls sends it to both servers.
    let svid = pair.domain.svid("padded")?;
    let mut chain = svid.chain().to_vec();
    for number in 0..4 {
        let other = Domain::new(&format!("useless{number}.example"))?;
        chain.push(other.certificate().clone());
    }
    let padded = vec![pair.plain_client_of(&svid, chain)?];
    let padded = Clients {
        ours: padded.clone(),
        plain: padded,
    };
    Ok(vec![
        row(effort, &pair, DISTINCT, many(200)?, 1.02)?,
        row(effort, &pair, STRANGERS, many(MANY)?, 1.02)?,
        row(effort, &pair, USELESS, padded, 1.05)?,
    ])
}

/// Clients that take turns, for our server and for the plain one.
#[derive(Default)]
struct Clients {
    ours: Vec<Arc<ClientConfig>>,
    plain: Vec<Arc<ClientConfig>>,
}

fn policy() -> Result<Policy, Failure> {
    Ok("domain:example.org".parse()?)
}

fn row(
    effort: Effort,
    pair: &Pair,
    row: &str,
    clients: Clients,
    budget: f64,
) -> Result<Row, Failure> {
    let name = ServerName::try_from(DNS_NAME)?;
    let circle = |clients: Vec<Arc<ClientConfig>>, server| {
        let mut next = 0;
        let name = name.clone();
        contender(move || {
            next = (next + 1) % clients.len();
            shake(&clients[next], &server, &name).expect("both sides are in one trust domain")
        })
    };
    let server = Mtls::new(&pair.server, policy()?).server_config()?;
    let [ours, plain] = in_turns(
        effort.span,
        [
            circle(clients.ours, server),
            circle(clients.plain, pair.plain_server()?),
        ],
    );
    Ok(Row::new(
        row,
        "µs",
        ours / 1e3,
        "plain rustls",
        plain / 1e3,
        Budget::Ratio(budget),
    ))
}
