//! README's server and client as two processes that find the Workload API through `SPIFFE_ENDPOINT_SOCKET`, as services do.
//!
//! The program is its own children: an environment is given to a process, not to a function.

use std::error::Error;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, ExitCode, Output, Stdio};

// ANCHOR: imports
use spiffe_workload_client::X509Source;
use spiffe_workload_client::tls::{Mtls, Policy, TlsStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
// ANCHOR_END: imports

use spiffe_daemons::local::{LocalApi, LocalTrustDomain};
use spiffe_registration::Entry;

// ANCHOR: server
async fn server(tcp: TcpListener) -> Result<(), Box<dyn Error>> {
    let source = X509Source::new().await?;
    let clients: Policy = "domain:example.org".parse()?;
    let mut listener = Mtls::new(&source, clients).acceptor()?.listen(tcp);
    loop {
        match listener.accept().await? {
            Ok(stream) => drop(tokio::spawn(greet(stream))),
            Err(refused) => eprintln!("{refused}"),
        }
    }
}

async fn greet(mut stream: TlsStream<TcpStream>) -> io::Result<()> {
    let answer = format!("hello, {}\n", stream.peer().id());
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
// ANCHOR_END: server

// ANCHOR: client
async fn client(tcp: TcpStream) -> Result<String, Box<dyn Error>> {
    let source = X509Source::new().await?;
    let server: Policy = "id:spiffe://example.org/web".parse()?;
    let connector = Mtls::new(&source, server).connector()?;
    let mut stream = connector.connect(tcp).await?;
    println!("connected to {}", stream.peer().id());
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
// ANCHOR_END: client

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let outcome = match arguments.get(1).map(String::as_str) {
        Some("as-server") => serve().await,
        Some("as-client") => call(&arguments[2]).await,
        _ => server_and_client_greet_within_the_trust_domain_and_not_across().await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<(), Box<dyn Error>> {
    let tcp = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", tcp.local_addr()?);
    server(tcp).await
}

async fn call(address: &str) -> Result<(), Box<dyn Error>> {
    let answer = client(TcpStream::connect(address).await?).await?;
    print!("{answer}");
    Ok(())
}

async fn server_and_client_greet_within_the_trust_domain_and_not_across()
-> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let [here, there] = ["here", "there"].map(|name| directory.path().join(name));
    let here_api = trust_domain("example.org", &here).await?;
    let there_api = trust_domain("other.example", &there).await?;

    let mut server = child(&here, &["as-server"])?
        .stdout(Stdio::piped())
        .spawn()?;
    let mut printed = BufReader::new(server.stdout.take().expect("it is piped"));
    let (friend, stranger) = tokio::task::spawn_blocking({
        let (here, there) = (here.clone(), there.clone());
        move || -> io::Result<(Output, Output)> {
            let mut address = String::new();
            printed.read_line(&mut address)?;
            let call = |socket| child(socket, &["as-client", address.trim()])?.output();
            Ok((call(&here)?, call(&there)?))
        }
    })
    .await??;
    server.kill()?;
    server.wait()?;
    here_api.stop().await?;
    there_api.stop().await?;

    assert!(friend.status.success(), "{friend:?}");
    assert_eq!(
        String::from_utf8(friend.stdout)?,
        "connected to spiffe://example.org/web\nhello, spiffe://example.org/web\n"
    );
    assert!(!stranger.status.success(), "{stranger:?}");
    let said = String::from_utf8(stranger.stderr)?;
    assert!(
        said.contains("no bundle of the peer's trust domain example.org"),
        "{said}"
    );
    Ok(())
}

/// A trust domain in which every process of this user is `/web`.
async fn trust_domain(name: &str, socket: &Path) -> Result<LocalApi, Box<dyn Error>> {
    let directory = socket.parent().expect("the socket is in a directory");
    let uid = directory.metadata()?.uid();
    let text = format!("id=spiffe://{name}/web,selector=unix:uid:{uid}");
    let entry = Entry::from_text(&text, || "web".into())?;
    let domain = LocalTrustDomain::builder(name.parse()?)
        .entries([entry])
        .build()
        .await?;
    Ok(domain.serve(socket)?)
}

fn child(socket: &Path, arguments: &[&str]) -> io::Result<Command> {
    let endpoint = format!("unix://{}", socket.display());
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(arguments)
        .env("SPIFFE_ENDPOINT_SOCKET", endpoint)
        .stdin(Stdio::null());
    Ok(command)
}
