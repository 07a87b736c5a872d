//! Three trust domains, each with a Workload API on a socket in a private directory, and the workloads' sources.

use std::path::Path;
use std::time::Duration;

use spiffe_daemons::local::{LocalApi, LocalTrustDomain};
use spiffe_registration::Entry;
use spiffe_workload_client::{Endpoint, JwtSource, WorkloadApiClient, X509Source};
use tempfile::TempDir;

use super::Outcome;

/// How long anything that must be observed may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Everything that runs.
pub(crate) struct World {
    pub(crate) east: LocalTrustDomain,
    pub(crate) west: LocalTrustDomain,
    /// The server workload, of the east.
    pub(crate) server: X509Source,
    pub(crate) east_client: X509Source,
    pub(crate) west_client: X509Source,
    pub(crate) outside_client: X509Source,
    /// The east's view of everybody's JWT authorities.
    pub(crate) east_tokens: JwtSource,
    pub(crate) west_tokens: JwtSource,
    apis: Vec<LocalApi>,
    directory: TempDir,
}

impl World {
    pub(crate) async fn start() -> Outcome<Self> {
        let directory = tempfile::Builder::new()
            .prefix("spiffe-quickstart-")
            .tempdir()?;
        let own = format!("selector=unix:uid:{}", own_uid(directory.path())?);
        let domain = async |name: &str, workloads: &[&str], federated: &[&str]| -> Outcome<_> {
            let federated: String = federated
                .iter()
                .map(|name| format!(",federates_with={name}"))
                .collect();
            let mut entries = Vec::new();
            for workload in workloads {
                let ttl = if *workload == "server" { "12h" } else { "1h" };
                let text = format!(
                    "id=spiffe://{name}/{workload},hint={workload},ttl={ttl},{own}{federated}"
                );
                entries.push(Entry::from_text(&text, || workload.to_string())?);
            }
            let domain = LocalTrustDomain::builder(name.parse()?)
                .entries(entries)
                .build()
                .await?;
            let socket = directory.path().join(format!("{name}.sock"));
            let api = domain.serve(&socket)?;
            Ok((domain, api, WorkloadApiClient::new(Endpoint::unix(socket)?)))
        };
        let (east, east_api, at_east) =
            domain("east.example", &["server", "client"], &["west.example"]).await?;
        let (west, west_api, at_west) =
            domain("west.example", &["client"], &["east.example"]).await?;
        let (outside, outside_api, at_outside) =
            domain("outside.example", &["client"], &[]).await?;
        east.federate(&west);
        west.federate(&east);
        let source = async |client: &WorkloadApiClient, hint: &str| {
            let building = X509Source::builder().client(client.clone()).hint(hint);
            building.timeout(PATIENCE).build().await
        };
        drop(outside);
        Ok(Self {
            server: source(&at_east, "server").await?,
            east_client: source(&at_east, "client").await?,
            west_client: source(&at_west, "client").await?,
            outside_client: source(&at_outside, "client").await?,
            east_tokens: JwtSource::builder().client(at_east).build().await?,
            west_tokens: JwtSource::builder().client(at_west).build().await?,
            apis: vec![east_api, west_api, outside_api],
            east,
            west,
            directory,
        })
    }

    /// The line that points a Workload API client here.
    pub(crate) fn environment(&self) -> String {
        let socket = self.directory.path().join("east.example.sock");
        format!("SPIFFE_ENDPOINT_SOCKET=unix://{}", socket.display())
    }

    /// What to do with the Workload APIs while they are kept up.
    pub(crate) fn announcement(&self) -> String {
        format!(
            "export {}\nthe Workload APIs stay up until Ctrl-C",
            self.environment()
        )
    }

    /// Ends the sources, then drains the Workload APIs; the directory goes with them.
    pub(crate) async fn stop(self) {
        for source in [
            &self.server,
            &self.east_client,
            &self.west_client,
            &self.outside_client,
        ] {
            source.shutdown().await;
        }
        for tokens in [&self.east_tokens, &self.west_tokens] {
            tokens.shutdown().await;
        }
        for api in self.apis {
            // What it failed with was observed as a fact that did not come.
            let _ = api.stop().await;
        }
    }
}

/// The user this process runs as: the owner of what it has just made.
fn own_uid(made: &Path) -> std::io::Result<u32> {
    use std::os::unix::fs::MetadataExt;
    Ok(made.metadata()?.uid())
}
