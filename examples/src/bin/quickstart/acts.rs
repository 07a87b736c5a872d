//! What is shown, act by act; each returns an error for the first thing that was not observed.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use spiffe_core::{BoxFuture, Clock, Policy, Publisher, Source, SystemClock, Timestamp, Watch};
use spiffe_svid_ca::authority::{Consumer, Evidence, Grade};
use spiffe_tls::{Acceptor, Connector, HandshakeError, Mtls};
use spiffe_workload_client::X509Source;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::Outcome;
use super::load::{Load, call, serve};
use super::report::Report;
use super::world::{PATIENCE, World};

/// One rotation follows the other after this long.
const ROTATION_EVERY: Duration = Duration::from_millis(100);

pub(crate) fn introduce(world: &World, report: &mut Report) -> Outcome {
    report.say("two federated trust domains, one outside; each has its own authority and its own Workload API");
    let sources = [
        &world.server,
        &world.east_client,
        &world.west_client,
        &world.outside_client,
    ];
    for source in sources {
        let current = source.current();
        let svid = current.svid()?;
        let known: Vec<_> = current
            .bundles()
            .iter()
            .map(|bundle| bundle.trust_domain().to_string())
            .collect();
        report.fact(&format!(
            "{} has its X509-SVID until {} and trusts {}",
            svid.id(),
            svid.not_after(),
            known.join(", ")
        ));
    }
    let federated = world.server.current().bundles().len();
    expect(federated == 2, "the server knows two trust domains")?;
    let alone = world.outside_client.current().bundles().len();
    expect(alone == 1, "the outside knows itself only")?;
    report.set(
        "trust_domains",
        vec!["east.example", "west.example", "outside.example"],
    );
    Ok(())
}

pub(crate) async fn hello(world: &World, report: &mut Report) -> Outcome {
    report.say("mutual TLS between them");
    let acceptor = server(
        world,
        "ids:spiffe://east.example/client,spiffe://west.example/client",
    )?;
    let mut listener = acceptor.listen(TcpListener::bind("127.0.0.1:0").await?);
    let address = listener.local_addr()?;
    let mut peers = BTreeSet::new();
    for source in [&world.east_client, &world.west_client] {
        let connector = client(source)?;
        let (near, far) = tokio::join!(dial(&connector, address), listener.accept());
        let (mut near, mut far) = (near?, far??);
        let (answer, served) = tokio::join!(
            spiffe_examples::greet(&mut near),
            spiffe_examples::answer(&mut far)
        );
        served?;
        report.fact(&format!("the client sees {}", near.peer().id()));
        report.fact(&format!(
            "the server sees {} and says: {}",
            far.peer().id(),
            answer?
        ));
        peers.insert(near.peer().id().to_string());
        peers.insert(far.peer().id().to_string());
    }
    expect(peers.len() == 3, "three different peers met")?;
    report.set("peer_ids", peers.into_iter().collect::<Vec<_>>());
    Ok(())
}

/// Rotates everything and replaces the east's authority while clients connect; once, or until the time is over.
pub(crate) async fn rotate_and_roll_over(
    world: &World,
    report: &mut Report,
    rotations: u64,
    at_least: Duration,
    clients: u16,
) -> Outcome {
    report.say("rotation and rollover while clients keep connecting");
    let mut tasks = JoinSet::new();
    let address = serve(
        server(world, "domain:east.example|domain:west.example")?,
        &mut tasks,
    )
    .await?;
    let connectors = [client(&world.east_client)?, client(&world.west_client)?];
    let load = Load::start(clients, &connectors, address);
    let began = Instant::now();
    let mut serials = BTreeSet::from([serial(&world.server)?]);
    let mut rollovers = 0_u64;
    loop {
        for _ in 0..rotations {
            rotate(world).await?;
            serials.insert(serial(&world.server)?);
        }
        roll_over(world, &load).await?;
        rollovers += 1;
        serials.insert(serial(&world.server)?);
        if began.elapsed() >= at_least {
            break;
        }
    }
    let counts = load.stop().await;
    let rotated = serials.len() as u64 - 1;
    report.set("rotations", rotated);
    report.set("handshakes_ok", counts.ok());
    report.set("handshakes_failed", counts.failed());
    report.set("rollovers", rollovers);
    if let Some(first) = counts.first_failure() {
        return Err(format!(
            "no handshake fails during rotation: {} did, the first: {first}",
            counts.failed()
        )
        .into());
    }
    expect(rotated >= rotations, "every rotation reached the server")?;
    expect(counts.ok() > rotated, "clients connected throughout")?;
    report.fact(&format!(
        "{rotated} rotations under {clients} clients: {} handshakes, {} failed",
        counts.ok(),
        counts.failed()
    ));
    report.fact(&format!(
        "{rollovers} rollover of the east's authority meanwhile: published, then used, then the old one retired"
    ));
    Ok(())
}

/// Replaces every SVID of both domains and waits until the workloads have theirs.
async fn rotate(world: &World) -> Outcome {
    let pause = tokio::time::sleep(ROTATION_EVERY);
    let sources = [&world.server, &world.east_client, &world.west_client];
    let before: Vec<_> = sources
        .iter()
        .map(|source| serial(source))
        .collect::<Result<_, _>>()?;
    world.east.reissue();
    world.west.reissue();
    for (source, before) in sources.into_iter().zip(before) {
        until(source, "an SVID rotates", |source| {
            Ok(serial(source)? != before)
        })
        .await?;
    }
    pause.await;
    Ok(())
}

/// The new authority is published, then used, then the old one is retired; each step once everybody has seen the last.
async fn roll_over(world: &World, load: &Load) -> Outcome {
    let sources = [&world.server, &world.east_client, &world.west_client];
    let authorities = |source: &X509Source| -> Outcome<usize> {
        let east = source.bundle(world.east.trust_domain().as_ref())?;
        Ok(east.x509_authorities().len())
    };
    world.east.prepare_x509_authority().await?;
    for source in sources {
        until(source, "the new authority is published", |source| {
            Ok(authorities(source)? == 2)
        })
        .await?;
    }
    // The evidence: each workload above was seen to hold the bundle with the new authority.
    let sequence = world.east.ca().bundle().sequence().unwrap_or_default();
    let consumers = sources.into_iter().map(|source| {
        let name = source.svid().map(|svid| svid.id().to_string());
        Consumer::new(name.unwrap_or_default(), sequence, Grade::Applied)
    });
    let evidence = Evidence::complete(consumers);
    world.east.activate_x509_authority(&evidence).await?;
    let new = issuer(world)?;
    rotate(world).await?;
    expect(issuer(world)? != new, "the new authority signs")?;
    within("connections of the old authority's SVIDs end", async {
        load.settle().await;
        Ok(())
    })
    .await?;
    world.east.retire_x509_authority().await?;
    for source in sources {
        until(source, "the old authority is retired", |source| {
            Ok(authorities(source)? == 1)
        })
        .await?;
    }
    Ok(())
}

pub(crate) async fn token(world: &World, report: &mut Report) -> Outcome {
    report.say("a JWT-SVID from the west, verified in the east");
    let audience = "spiffe://east.example/server";
    let token = world.west_tokens.fetch([audience]).await?;
    let verified = world.east_tokens.verify(token.secret_token(), audience)?;
    report.fact(&format!(
        "{} is proven for the audience {audience}",
        verified.id()
    ));
    let other = "spiffe://east.example/other";
    match world.east_tokens.verify(token.secret_token(), other) {
        Err(error) => report.refusal(
            "the same token for another audience",
            error.rule(),
            &error.to_string(),
        ),
        Ok(_) => return Err("a token for another audience is refused".into()),
    }
    report.set(
        "jwt",
        json!({ "id": verified.id().to_string(), "audience": audience }),
    );
    Ok(())
}

pub(crate) async fn refusals(world: &World, report: &mut Report) -> Outcome {
    report.say("refusals");
    let everybody = server(world, "any")?;
    // It trusts the east, as anybody may; the east does not trust it.
    let stranger = (*world.outside_client.svid()?).clone();
    let bundles = world.east_client.current().bundles().clone();
    let stranger = client(&Publisher::fixed([stranger], bundles))?;
    let error = refused(&everybody, &stranger).await?;
    note(report, "a client of the outside", &error)?;
    let picky = server(world, "id:spiffe://west.example/client")?;
    let error = refused(&picky, &client(&world.east_client)?).await?;
    note(report, "a verified client outside the policy", &error)?;
    // Two hours on, by a server whose own SVID lives longer than the client's.
    let later = Duration::from_secs(2 * 3600);
    let policy: Policy = "any".parse()?;
    let acceptor = Mtls::new(&world.server, policy)
        .clock(Arc::new(Ahead(later)))
        .acceptor()?;
    let error = refused(&acceptor, &client(&world.east_client)?).await?;
    note(
        report,
        "an SVID two hours later, when it has expired,",
        &error,
    )?;
    Ok(())
}

pub(crate) fn whats_next(world: &World, report: &mut Report) {
    report.set("endpoint", world.environment());
    report.say("next, as two processes:");
    for line in [
        "cargo run --release --bin spiffe -- up --trust-domain example.org --socket /tmp/spiffe.sock \\",
        "    --entry \"id=spiffe://example.org/hello,selector=unix:uid:$(id -u)\" &",
        "export SPIFFE_ENDPOINT_SOCKET=unix:///tmp/spiffe.sock",
        "cargo run --release --bin helloworld_server -- --authorize domain:example.org &",
        "cargo run --release --bin helloworld_client -- --authorize domain:example.org",
    ] {
        report.say(&format!("    {line}"));
    }
    report.say("C and Go will follow.");
}

/// The system's clock, set forward.
#[derive(Debug)]
struct Ahead(Duration);

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        SystemClock::new().now() + self.0
    }

    fn monotonic(&self) -> Duration {
        SystemClock::new().monotonic()
    }

    fn sleep_until(&self, deadline: Duration) -> BoxFuture<'static, ()> {
        SystemClock::new().sleep_until(deadline)
    }
}

fn server(world: &World, policy: &str) -> Outcome<Acceptor> {
    Ok(Mtls::new(&world.server, policy.parse::<Policy>()?).acceptor()?)
}

fn client(source: &impl Source) -> Outcome<Connector> {
    let policy: Policy = "id:spiffe://east.example/server".parse()?;
    Ok(Mtls::new(source, policy).connector()?)
}

async fn dial(
    connector: &Connector,
    address: std::net::SocketAddr,
) -> Outcome<spiffe_tls::TlsStream<TcpStream>> {
    Ok(connector
        .connect(TcpStream::connect(address).await?)
        .await?)
}

/// Connects once and gives the server's reason for refusing.
async fn refused(acceptor: &Acceptor, connector: &Connector) -> Outcome<HandshakeError> {
    let mut listener = acceptor.listen(TcpListener::bind("127.0.0.1:0").await?);
    let address = listener.local_addr()?;
    let (told, accepted) = tokio::join!(call(connector, address), listener.accept());
    match (told, accepted?) {
        (Err(_), Err(error)) => Ok(error),
        (Ok(answer), _) => Err(format!("the client is refused, not told {answer:?}").into()),
        (Err(told), Ok(_)) => Err(format!("the server refuses; the client said {told}").into()),
    }
}

fn note(report: &mut Report, what: &str, error: &HandshakeError) -> Outcome {
    let rule = error.rule().ok_or("a refusal names its rule")?;
    report.refusal(what, rule, &error.to_string());
    Ok(())
}

fn serial(source: &X509Source) -> Outcome<String> {
    Ok(source.svid()?.serial_hex())
}

/// The name of whoever signed the server's SVID, by the certificate's own bytes.
fn issuer(world: &World) -> Outcome<Vec<u8>> {
    let svid = world.server.svid()?;
    Ok(svid
        .authority_key_id()
        .map(<[u8]>::to_vec)
        .ok_or("the SVID names its authority")?)
}

/// Waits until a source's revision shows what is expected.
async fn until(
    source: &X509Source,
    what: &str,
    shown: impl Fn(&X509Source) -> Outcome<bool>,
) -> Outcome {
    let waiting = async {
        loop {
            let seen = source.current().revision();
            if shown(source)? {
                return Ok(());
            }
            source.changed(seen).await;
        }
    };
    within(what, waiting).await
}

async fn within(what: &str, waiting: impl Future<Output = Outcome>) -> Outcome {
    match tokio::time::timeout(PATIENCE, waiting).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("{what} within {} s", PATIENCE.as_secs()).into()),
    }
}

fn expect(holds: bool, what: &str) -> Outcome {
    if holds { Ok(()) } else { Err(what.into()) }
}
