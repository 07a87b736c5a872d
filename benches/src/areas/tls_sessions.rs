//! Resumed sessions beside plain rustls', and bytes through a connection beside tokio-rustls'.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::server::ServerSessionMemoryCache;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use spiffe_tls::{Mtls, Policy, Terms};

use super::Measured;
use super::tls::{PIPE_BYTES, Pair, meet, runtime};
use crate::Effort;
use crate::fixtures::DNS_NAME;
use crate::measure::{contender, in_turns};
use crate::report::{Budget, Row};

pub(crate) const RESUMED: &str = "tls/resumed";
pub(crate) const GAIN: &str = "tls/resumed/gain";
pub(crate) const RATE: &str = "tls/resumed/share";
pub(crate) const BYTES: &str = "tls/bytes";

/// A resumed connection with a byte in the server's direction, and what share of a full one that is. Plain rustls resumes
/// as it does by default, by sessions that the server keeps in memory; ours are tickets.
///
/// Full handshakes of ours are with peers that were never met: their terms change before each, and what was verified
/// under others is forgotten.
pub(crate) fn resumed(effort: Effort) -> Measured {
    let pair = Pair::new(200)?;
    let connector = pair.client_side()?.connector()?;
    let acceptor = pair.server_side()?.acceptor()?;
    let (of_servers, of_clients): (Policy, Policy) = (
        "id:spiffe://example.org/server".parse()?,
        "id:spiffe://example.org/client".parse()?,
    );
    let (client_terms, server_terms) = (
        Terms::new(of_servers.clone()),
        Terms::new(of_clients.clone()),
    );
    let full_connector = Mtls::new(&pair.client, client_terms.clone())
        .resumption(false)
        .connector()?;
    let full_acceptor = Mtls::new(&pair.server, server_terms.clone())
        .resumption(false)
        .acceptor()?;
    let full_plain_connector = TlsConnector::from(pair.plain_client()?);
    let full_plain_acceptor = TlsAcceptor::from(pair.plain_server()?);
    let mut client = (*pair.plain_client()?).clone();
    client.resumption = Resumption::in_memory_sessions(256);
    let mut server = (*pair.plain_server()?).clone();
    server.session_storage = ServerSessionMemoryCache::new(256);
    server.send_tls13_tickets = 2;
    let plain_connector = TlsConnector::from(Arc::new(client));
    let plain_acceptor = TlsAcceptor::from(Arc::new(server));
    let name = ServerName::try_from(DNS_NAME)?;
    let runtime = runtime()?;
    let (mut visits, mut resumptions) = (0_u64, 0_u64);
    let plainly = |connector: &TlsConnector, acceptor: &TlsAcceptor| {
        runtime.block_on(async {
            let (near, far) = tokio::io::duplex(PIPE_BYTES);
            let (near, far) =
                tokio::join!(connector.connect(name.clone(), near), acceptor.accept(far));
            let mut near = near.expect("the client has the root");
            let mut far = far.expect("the server has the root");
            exchange(&mut near, &mut far).await;
        });
    };
    let [ours, plain, ours_full, plain_full] = in_turns(
        effort.span,
        [
            contender(|| {
                runtime.block_on(async {
                    let (mut near, mut far) = meet(&connector, &acceptor).await;
                    visits += 1;
                    resumptions += u64::from(near.peer().is_resumed() && far.peer().is_resumed());
                    exchange(&mut near, &mut far).await;
                });
            }),
            contender(|| plainly(&plain_connector, &plain_acceptor)),
            contender(|| {
                client_terms.authorize(of_servers.clone());
                server_terms.authorize(of_clients.clone());
                runtime.block_on(async {
                    let (mut near, mut far) = meet(&full_connector, &full_acceptor).await;
                    exchange(&mut near, &mut far).await;
                });
            }),
            contender(|| plainly(&full_plain_connector, &full_plain_acceptor)),
        ],
    );
    Ok(vec![
        Row::new(
            GAIN,
            "of a full one",
            ours / ours_full,
            "plain rustls",
            plain / plain_full,
            Budget::Ratio(1.0 / 0.95),
        ),
        // 0.95 of the speed that plain rustls has.
        Row::new(
            RESUMED,
            "µs",
            ours / 1e3,
            "plain rustls, resumed",
            plain / 1e3,
            Budget::Ratio(1.0 / 0.95),
        ),
        Row::new(
            RATE,
            "full handshakes",
            (visits - resumptions) as f64,
            "all handshakes",
            visits as f64,
            Budget::Ratio(0.1),
        ),
    ])
}

async fn exchange(
    near: &mut (impl AsyncRead + AsyncWrite + Unpin),
    far: &mut (impl AsyncRead + AsyncWrite + Unpin),
) {
    far.write_u8(b'!').await.expect("the pipe is open");
    far.flush().await.expect("the pipe is open");
    near.read_u8().await.expect("the byte was written");
}

/// A mebibyte from server to client, beside tokio-rustls alone. Where a connection's buffers lie makes as much difference as
/// what is measured, so each side has many connections, made and used in turn.
pub(crate) fn bytes(effort: Effort) -> Measured {
    let pair = Pair::new(1)?;
    let connector = pair.client_side()?.connector()?;
    let acceptor = pair.server_side()?.acceptor()?;
    let plain_connector = TlsConnector::from(pair.plain_client()?);
    let plain_acceptor = TlsAcceptor::from(pair.plain_server()?);
    let name = ServerName::try_from(DNS_NAME)?;
    let runtime = runtime()?;
    let (mut of_ours, mut of_plain) = (Vec::new(), Vec::new());
    for _ in 0..CONNECTIONS {
        of_ours.push(runtime.block_on(meet(&connector, &acceptor)));
        of_plain.push(runtime.block_on(async {
            let (near, far): (DuplexStream, DuplexStream) = tokio::io::duplex(PIPE_BYTES);
            let (near, far) = tokio::join!(
                plain_connector.connect(name.clone(), near),
                plain_acceptor.accept(far)
            );
            (
                near.expect("the client has the root"),
                far.expect("the server has the root"),
            )
        }));
    }
    let (mut turn, mut plain_turn) = (0, 0);
    let [ours, plain] = in_turns(
        effort.span,
        [
            contender(|| {
                turn = (turn + 1) % CONNECTIONS;
                let (near, far) = &mut of_ours[turn];
                runtime.block_on(carry(near, far));
            }),
            contender(|| {
                plain_turn = (plain_turn + 1) % CONNECTIONS;
                let (near, far) = &mut of_plain[plain_turn];
                runtime.block_on(carry(near, far));
            }),
        ],
    );
    // 0.99 of the throughput.
    Ok(vec![Row::new(
        BYTES,
        "µs per MiB",
        ours / 1e3,
        "tokio-rustls",
        plain / 1e3,
        Budget::Ratio(1.0 / 0.99),
    )])
}

const CONNECTIONS: usize = 64;

async fn carry(near: &mut (impl AsyncRead + Unpin), far: &mut (impl AsyncWrite + Unpin)) {
    const CHUNK: [u8; 8192] = [7; 8192];
    let write = async {
        for _ in 0..128 {
            far.write_all(&CHUNK).await.expect("the pipe is open");
        }
        far.flush().await.expect("the pipe is open");
    };
    let read = async {
        let mut chunk = [0; 8192];
        let mut left = 128 * 8192;
        while left > 0 {
            left -= near.read(&mut chunk).await.expect("the pipe is open");
        }
    };
    tokio::join!(write, read);
}
