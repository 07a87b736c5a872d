//! The example programs as processes, against a trust domain that the test runs.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use spiffe_core::{Clock, SpiffeId, SystemClock, Timestamp};
use spiffe_daemons::local::{LocalApi, LocalTrustDomain};
use spiffe_registration::Entry;
use spiffe_svid_ca::InProcessSource;
use spiffe_svid_ca::authority::Evidence;
use spiffe_svid_ca::params::X509SvidParams;
use spiffe_tls::{LeaseRules, Mtls, Policy, TlsStream};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How long anything that must happen may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A trust domain in which this user is `spiffe://example.org/hello`.
struct World {
    domain: LocalTrustDomain,
    _api: LocalApi,
    socket: PathBuf,
    _directory: TempDir,
}

impl World {
    async fn start() -> Self {
        Self::start_with("").await
    }

    /// With more keys of the one entry.
    async fn start_with(more: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let uid = std::os::unix::fs::MetadataExt::uid(&directory.path().metadata().unwrap());
        let text = format!("id=spiffe://example.org/hello,selector=unix:uid:{uid}{more}");
        let entry = Entry::from_text(&text, || "1".into()).unwrap();
        let building = LocalTrustDomain::builder("example.org".parse().unwrap()).entries([entry]);
        let domain = building.build().await.unwrap();
        Self {
            _api: domain.serve(&socket).unwrap(),
            domain,
            socket,
            _directory: directory,
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env(
                "SPIFFE_ENDPOINT_SOCKET",
                format!("unix://{}", self.socket.display()),
            )
            .env_remove("RUST_LOG")
            .stdin(Stdio::null());
        command
    }

    async fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = self.command(program);
        command.args(arguments);
        // The trust domain serves from this test's own threads.
        tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap()
    }
}

/// A program that runs until the test ends.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = child.stdout.take().unwrap();
        Self {
            child,
            lines: lines(output),
        }
    }

    /// Waits for a line that holds `text`.
    async fn line(self, text: &'static str) -> (Self, String) {
        let waiting = tokio::task::spawn_blocking(move || {
            let mut seen = Vec::new();
            loop {
                match self.lines.recv_timeout(PATIENCE) {
                    Ok(line) if line.contains(text) => return (self, line),
                    Ok(line) => seen.push(line),
                    Err(_) => panic!("{text:?} did not come; what came: {seen:#?}"),
                }
            }
        });
        waiting.await.unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (to, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if to.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

const SERVER: &str = env!("CARGO_BIN_EXE_helloworld_server");
const CLIENT: &str = env!("CARGO_BIN_EXE_helloworld_client");

async fn server(world: &World, policy: &str) -> (Running, String) {
    let mut command = world.command(SERVER);
    command.args(["--listen", "127.0.0.1:0", "--authorize", policy]);
    let (server, line) = Running::start(command).line("listening on ").await;
    let address = line.trim_start_matches("listening on ").to_owned();
    (server, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn client_and_server_name_each_other() {
    let world = World::start().await;
    let (server, address) = server(&world, "domain:example.org").await;
    let arguments = [
        "--connect",
        &address,
        "--authorize",
        "id:spiffe://example.org/hello",
    ];
    let output = world.run(CLIENT, &arguments).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(
        text(&output.stdout),
        "hello from spiffe://example.org/hello\nhello, spiffe://example.org/hello\n"
    );
    server.line("hello from spiffe://example.org/hello").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_comes_back_and_says_how_often_a_session_was_resumed() {
    let world = World::start().await;
    let (_server, address) = server(&world, "domain:example.org").await;
    let arguments = ["--connect", &address, "--authorize", "any", "--times", "4"];
    let output = world.run(CLIENT, &arguments).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let told = text(&output.stdout);
    assert_eq!(
        told.matches("hello, spiffe://example.org/hello\n").count(),
        4
    );
    assert!(told.ends_with("\nresumed 3 of 4\n"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_says_plainly_why_it_refused_or_was_refused() {
    let world = World::start().await;
    let (server, address) = server(&world, "id:spiffe://example.org/other").await;
    let output = world
        .run(CLIENT, &["--connect", &address, "--authorize", "any"])
        .await;
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(
        told.contains("AccessDenied") && told.lines().count() == 1,
        "{told}"
    );
    let (server, line) = server.line("refused: ").await;
    assert!(
        line.contains("spiffe://example.org/hello is verified but not authorised"),
        "{line}"
    );
    assert!(
        line.contains("would pass: spiffe://example.org/other"),
        "{line}"
    );
    let words: Vec<_> = line.split(' ').collect();
    let time: Timestamp = words[1].parse().unwrap();
    assert!(SystemClock::new().now().saturating_since(time) < PATIENCE);
    let from: std::net::SocketAddr = words[2].parse().unwrap();
    assert!(from.ip().is_loopback() && !address.ends_with(&format!(":{}", from.port())));
    assert_eq!(words[3], "not-authorized:", "{line}");
    drop(server);

    let (_server, address) = self::server(&world, "any").await;
    let arguments = ["--connect", &address, "--authorize", "domain:other.org"];
    let output = world.run(CLIENT, &arguments).await;
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(
        told.contains("an ID of the trust domain other.org"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_waits_for_nobody_for_ever() {
    let mut world = World::start().await;
    // It takes the connection, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let arguments = [
        "--connect",
        &address,
        "--authorize",
        "any",
        "--timeout",
        "5",
    ];
    let output = world.run(CLIENT, &arguments).await;
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    let last = told.lines().last().unwrap();
    assert!(
        last.contains(&address) && last.contains("within 5s"),
        "{told}"
    );

    world.socket = "/no/such/agent.sock".into();
    let output = world.run(CLIENT, &arguments).await;
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    let last = told.lines().last().unwrap();
    assert!(
        last.starts_with("error: ") && last.contains("unix:///no/such/agent.sock"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rotating_acceptor_prints_each_revision() {
    let world = World::start().await;
    let mut command = world.command(env!("CARGO_BIN_EXE_rotating_acceptor"));
    command.args(["--listen", "127.0.0.1:0", "--authorize", "any"]);
    let (acceptor, first) = Running::start(command).line("revision 1: ").await;
    world.domain.reissue();
    let (_, second) = acceptor.line("revision 2: ").await;
    let serial = |line: &str| {
        line.split("serial ")
            .nth(1)
            .unwrap()
            .split(' ')
            .next()
            .unwrap()
            .to_owned()
    };
    assert_ne!(serial(&first), serial(&second));
}

/// The authority of the bundle that vouches for the peer.
fn authority(stream: &TlsStream<tokio::net::TcpStream>) -> Vec<u8> {
    stream.peer().verified().authority().unwrap().to_vec()
}

/// A workload of one trust domain that trusts another.
async fn identity(of: &LocalTrustDomain, trusts: &LocalTrustDomain, id: &str) -> InProcessSource {
    let params = X509SvidParams::new(SpiffeId::parse(id).unwrap());
    let source = InProcessSource::new(of.ca().clone(), params, SystemClock::new().now())
        .await
        .unwrap();
    source.federate(trusts.ca().bundle()).unwrap();
    source
}

async fn exchange(stream: &mut TlsStream<tokio::net::TcpStream>) {
    stream.write_all(b"ping").await.unwrap();
    stream.flush().await.unwrap();
    let mut echo = [0; 4];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"ping");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_outlive_rotations_and_rollovers_and_end_with_trust() {
    let world = World::start_with(",federates_with=west.org").await;
    let west = LocalTrustDomain::builder("west.org".parse().unwrap());
    let west = west.build().await.unwrap();
    world.domain.federate(&west);
    let mut command = world.command(env!("CARGO_BIN_EXE_rotating_acceptor"));
    command
        .args(["--listen", "127.0.0.1:0", "--authorize", "any"])
        .args(["--spread", "0", "--grace", "1"])
        .stdin(Stdio::piped());
    let (mut acceptor, line) = Running::start(command).line("listening on ").await;
    let address = line.trim_start_matches("listening on ").to_owned();
    let mut policies = acceptor.child.stdin.take().unwrap();

    // A client of each trust domain, straight from the authorities: no Workload API tells its tale here.
    let here = identity(&world.domain, &west, "spiffe://example.org/client").await;
    let there = identity(&west, &world.domain, "spiffe://west.org/client").await;
    let dial = async |source: &InProcessSource| {
        let policy: Policy = "id:spiffe://example.org/hello".parse().unwrap();
        let connector = Mtls::new(source, policy)
            .lease_rules(LeaseRules::report())
            .connector()
            .unwrap();
        let tcp = tokio::net::TcpStream::connect(&address).await.unwrap();
        let mut stream = connector.connect(tcp).await.unwrap();
        exchange(&mut stream).await;
        stream
    };
    let mut near = dial(&here).await;
    let mut far = dial(&there).await;

    world.domain.reissue();
    let (acceptor, _) = acceptor.line("revision 2: ").await;
    world.domain.prepare_x509_authority().await.unwrap();
    let (mut acceptor, _) = acceptor.line("revision 3: ").await;
    here.refresh().unwrap();
    there.federate(world.domain.ca().bundle()).unwrap();
    let everybody = Evidence::complete([here.acknowledgement()]);
    world
        .domain
        .activate_x509_authority(&everybody)
        .await
        .unwrap();
    world.domain.reissue();
    // Until it shows what the new authority signed, which is soon.
    loop {
        let next;
        (acceptor, next) = acceptor.line("revision ").await;
        let shown = dial(&here).await;
        if authority(&shown) != authority(&near) {
            break;
        }
        assert!(!next.starts_with("revision 9"), "{next}");
    }
    exchange(&mut near).await;
    exchange(&mut far).await;
    here.rotate(SystemClock::new().now()).await.unwrap();
    let mut near_again = dial(&here).await;
    let mut far_again = dial(&there).await;
    assert_eq!(authority(&near_again), authority(&far_again));

    // The old authority goes, and with it the connection of an SVID that it signed.
    let old = authority(&near);
    world.domain.retire_x509_authority().await.unwrap();
    let (acceptor, _) = acceptor.line("spiffe://example.org/client is let go").await;
    assert_eq!(near.read(&mut [0]).await.unwrap(), 0);
    for stream in [&mut far, &mut near_again, &mut far_again] {
        exchange(stream).await;
    }
    here.refresh().unwrap();
    there.federate(world.domain.ca().bundle()).unwrap();
    for source in [&here, &there] {
        assert_ne!(authority(&dial(source).await), old);
    }
    let mut near = near_again;

    world.domain.put_away(west.trust_domain().as_ref());
    let (acceptor, line) = acceptor.line("spiffe://west.org/client is let go").await;
    assert!(
        line.contains("no bundle of the peer's trust domain"),
        "{line}"
    );
    assert_eq!(far.read(&mut [0]).await.unwrap(), 0);
    exchange(&mut near).await;

    writeln!(policies, "nonsense").unwrap();
    let (acceptor, _) = acceptor.line("the policy stays: ").await;
    exchange(&mut near).await;
    writeln!(policies, "id:spiffe://example.org/other").unwrap();
    let (_acceptor, line) = acceptor.line("spiffe://example.org/client is let go").await;
    assert!(line.contains("verified but not authorised"), "{line}");
    assert_eq!(near.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn hello_goes_on_across_a_rollover_and_ends_with_the_bundle() {
    let world = World::start_with(",federates_with=west.org").await;
    let west = LocalTrustDomain::builder("west.org".parse().unwrap());
    let west = west.build().await.unwrap();
    world.domain.federate(&west);
    let (server, address) = server(&world, "domain:west.org").await;
    let there = identity(&west, &world.domain, "spiffe://west.org/client").await;
    // Who vouches for the server, once it has answered.
    let greet = async || {
        let policy: Policy = "id:spiffe://example.org/hello".parse().unwrap();
        let connector = Mtls::new(&there, policy).connector().unwrap();
        let tcp = tokio::net::TcpStream::connect(&address).await.unwrap();
        let mut stream = connector.connect(tcp).await.unwrap();
        let vouches = authority(&stream);
        stream.write_all(b"hello\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        assert_eq!(answer, "hello, spiffe://west.org/client\n");
        std::io::Result::Ok(vouches)
    };
    let old = greet().await.unwrap();
    world.domain.prepare_x509_authority().await.unwrap();
    there.federate(world.domain.ca().bundle()).unwrap();
    let everybody = Evidence::complete([]);
    world
        .domain
        .activate_x509_authority(&everybody)
        .await
        .unwrap();
    world.domain.reissue();
    let until = SystemClock::new().now() + PATIENCE;
    while greet().await.unwrap() == old {
        assert!(SystemClock::new().now() < until, "the old SVID is shown");
    }
    world.domain.retire_x509_authority().await.unwrap();
    there.federate(world.domain.ca().bundle()).unwrap();
    assert_ne!(greet().await.unwrap(), old);

    world.domain.put_away(west.trust_domain().as_ref());
    while greet().await.is_ok() {
        assert!(SystemClock::new().now() < until, "it is still greeted");
    }
    let (_server, line) = server.line("refused: ").await;
    assert!(line.contains("x509-trust-domain-unknown"), "{line}");
}

/// What a small program that serves and one that asks it must come to.
struct Pair {
    serves: &'static [&'static str],
    asks: &'static [&'static str],
    /// Before the address.
    scheme: &'static str,
    answer: &'static str,
}

const PAIRS: [Pair; 7] = [
    Pair {
        serves: &["axum_hello"],
        asks: &["hyper_hello", "get"],
        scheme: "https://",
        answer: "hello, spiffe://example.org/hello",
    },
    Pair {
        serves: &["hyper_hello", "serve"],
        asks: &["hyper_hello", "get"],
        scheme: "https://",
        answer: "hello, spiffe://example.org/hello",
    },
    Pair {
        serves: &["axum_hello"],
        asks: &["reqwest_hello"],
        scheme: "https://",
        answer: "hello, spiffe://example.org/hello",
    },
    Pair {
        serves: &["tonic_hello", "serve"],
        asks: &["tonic_hello", "call"],
        scheme: "https://",
        answer: "hello, spiffe://example.org/hello",
    },
    Pair {
        serves: &["quinn_hello", "serve"],
        asks: &["quinn_hello", "greet"],
        scheme: "",
        answer: "hello, spiffe://example.org/hello",
    },
    Pair {
        serves: &["bearer_hello", "serve"],
        asks: &["bearer_hello", "get"],
        scheme: "https://",
        answer: "200 OK: hello, spiffe://example.org/hello for spiffe://example.org/hello",
    },
    // Without a token there is nothing in the answer.
    Pair {
        serves: &["bearer_hello", "serve"],
        asks: &["hyper_hello", "get"],
        scheme: "https://",
        answer: "",
    },
];

/// The program of an example, which `cargo test` builds with the tests.
fn example(name: &str) -> String {
    let test = std::env::current_exe().unwrap();
    let built = test.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(built.exists(), "cargo build --examples makes {built:?}");
    built.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_adapters_example_serves_and_asks_and_refuses() {
    let world = World::start().await;
    for pair in &PAIRS {
        for (policy, is_good) in [
            ("domain:example.org", true),
            ("id:spiffe://example.org/other", false),
        ] {
            let mut command = world.command(&example(pair.serves[0]));
            command
                .args(["--authorize", policy])
                .args(&pair.serves[1..]);
            command.args(["--listen", "127.0.0.1:0"]);
            let (_server, line) = Running::start(command).line("listening on ").await;
            let address = line.trim_start_matches("listening on ");
            let url = format!("{}{address}", pair.scheme);
            let mut arguments = vec!["--authorize", "domain:example.org"];
            arguments.extend(&pair.asks[1..]);
            arguments.push(&url);
            let output = world.run(&example(pair.asks[0]), &arguments).await;
            let (answer, error) = (text(&output.stdout), text(&output.stderr));
            assert_eq!(output.status.success(), is_good, "{arguments:?}: {error}");
            let expected = if is_good { pair.answer } else { "" };
            assert_eq!(answer.trim_end(), expected, "{arguments:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_surroundings_are_one_line() {
    let world = World::start().await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = closed.local_addr().unwrap().to_string();
    drop(closed);
    let output = world
        .run(CLIENT, &["--connect", &nobody, "--authorize", "any"])
        .await;
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(
        told.contains(&nobody) && told.lines().count() == 1,
        "{told}"
    );
    assert_eq!(
        world
            .run(CLIENT, &["--authorize", "sometimes"])
            .await
            .status
            .code(),
        Some(2)
    );
    assert_eq!(
        world.run(CLIENT, &[]).await.status.code(),
        Some(2),
        "nothing defaults to any"
    );
    for (endpoint, says) in [("unix:relative", "absolute"), ("/no/scheme", "unix")] {
        let mut command = world.command(CLIENT);
        command
            .args(["--authorize", "any"])
            .env("SPIFFE_ENDPOINT_SOCKET", endpoint);
        let output = command.output().unwrap();
        let told = text(&output.stderr);
        assert!(told.contains(says) && told.lines().count() == 1, "{told}");
    }
}

#[test]
fn the_quickstart_observes_everything_it_shows() {
    let output = Command::new(env!("CARGO_BIN_EXE_quickstart"))
        .args(["--output", "json", "--rotations", "3", "--clients", "2"])
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let facts: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(facts["handshakes_failed"], 0);
    assert!(facts["rotations"].as_u64().unwrap() >= 3);
    assert_eq!(facts["rollovers"], 1);
    let codes: Vec<_> = facts["refusals"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["code"].as_str().unwrap())
        .collect();
    assert_eq!(
        codes,
        [
            "jwt-audience",
            "x509-trust-domain-unknown",
            "not-authorized",
            "x509-expired"
        ]
    );
}
