//! `size-bare ADDRESS NAME SOCKET`: the same line there and back with one SVID that is asked for once. No rotation, no
//! SPIFFE IDs, no policy: what is left of the program when everything that this library does is taken away.
#![forbid(unsafe_code)]

use std::env;
use std::error::Error;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use spiffe_proto::workload::X509svidRequest;
use spiffe_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;
use tower::service_fn;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let (address, name, socket) = (argument(1)?, argument(2)?, argument(3)?);
    let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(
        service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        }),
    );
    let mut request = Request::new(X509svidRequest {});
    let header = MetadataValue::from_static("true");
    request.metadata_mut().insert("workload.spiffe.io", header);
    let mut client = SpiffeWorkloadApiClient::new(channel);
    let mut updates = client.fetch_x509svid(request).await?.into_inner();
    let mut update = updates.message().await?.ok_or("no update")?;
    let svid = update.svids.first_mut().ok_or("no SVID")?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(svid.bundle.clone()))?;
    let chain = vec![CertificateDer::from(svid.x509_svid.clone())];
    let key = PrivatePkcs8KeyDer::from(svid.take_key().to_vec());
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, PrivateKeyDer::Pkcs8(key))?;
    let connector = TlsConnector::from(Arc::new(config));
    let tcp = TcpStream::connect(address).await?;
    let mut stream = connector.connect(ServerName::try_from(name)?, tcp).await?;
    stream.write_all(b"hello\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    println!("{answer}");
    Ok(())
}

fn argument(at: usize) -> Result<String, Box<dyn Error>> {
    env::args()
        .nth(at)
        .ok_or_else(|| "an argument is missing".into())
}
