//! `size-ours ADDRESS POLICY`: one line there and back over mutual TLS, with the identity that the Workload API gives.
#![forbid(unsafe_code)]

use std::env;
use std::error::Error;

use spiffe_workload_client::X509Source;
use spiffe_workload_client::tls::{Mtls, Policy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let (address, policy) = (argument(1)?, argument(2)?.parse::<Policy>()?);
    let source = X509Source::new().await?;
    let connector = Mtls::new(&source, policy).connector()?;
    let mut stream = connector
        .connect(TcpStream::connect(address).await?)
        .await?;
    stream.write_all(b"hello\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    println!("{}: {answer}", stream.peer().id());
    Ok(())
}

fn argument(at: usize) -> Result<String, Box<dyn Error>> {
    env::args()
        .nth(at)
        .ok_or_else(|| "an argument is missing".into())
}
