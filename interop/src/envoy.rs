//! Envoy, running with its SVID and bundle in files that `spiffe fetch` keeps, and its own pages, which say what it has done.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::delivered::wait_until;
use crate::lab::{Lab, program};
use crate::outcome::Trouble;
use crate::process::Process;
use crate::world::SOON;

/// A running one.
#[derive(Debug)]
pub(crate) struct Envoy {
    _process: Process,
    admin: PathBuf,
}

impl Envoy {
    /// Starts one with this configuration, which may have a [`reference`] to `svid` and `bundle`.
    ///
    /// # Errors
    ///
    /// When it is not to be had, or does not go live.
    pub(crate) fn start(
        lab: &Lab,
        folder: &Path,
        files: &Path,
        mut configuration: Value,
    ) -> Result<Self, Trouble> {
        let file = folder.join("envoy.json");
        let admin = folder.join("admin");
        configuration["node"] = json!({"id": "web", "cluster": "interop"});
        configuration["admin"] =
            json!({"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}});
        fs::write(&file, configuration.to_string())?;
        fs::write(folder.join("svid.json"), certificate(files).to_string())?;
        fs::write(folder.join("bundle.json"), validation(files).to_string())?;
        let mut command = Command::new(lab.envoy()?);
        command
            .arg("-c")
            .arg(&file)
            .arg("--admin-address-path")
            .arg(&admin)
            .args([
                "--concurrency",
                "1",
                "--disable-hot-restart",
                "-l",
                "warning",
            ]);
        let envoy = Self {
            _process: Process::spawn("envoy", command)?,
            admin,
        };
        wait_until("Envoy is live", || {
            let ready = envoy.ask("ready");
            ready.is_ok_and(|answer| answer.contains("LIVE"))
        })?;
        Ok(envoy)
    }

    /// One of its own pages.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub(crate) fn ask(&self, page: &str) -> Result<String, Trouble> {
        let address = fs::read_to_string(&self.admin)?;
        let mut command = Command::new(program("curl", "curl")?);
        command.args([
            "--disable",
            "--silent",
            "--noproxy",
            "*",
            "--max-time",
            "20",
        ]);
        command.arg(format!("http://{}/{page}", address.trim()));
        let answer = Process::run("curl", command, SOON)?.expect_success()?;
        Ok(answer.stdout.join("\n"))
    }

    /// Where the listener of this name listens.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub(crate) fn address(&self, listener: &str) -> Result<String, Trouble> {
        let listeners: Value = serde_json::from_str(&self.ask("listeners?format=json")?)
            .map_err(|error| Trouble::Failed(format!("Envoy's listeners: {error}")))?;
        let all = listeners["listener_statuses"].as_array();
        let found = all
            .into_iter()
            .flatten()
            .find(|one| one["name"] == listener);
        let port =
            found.and_then(|one| one["local_address"]["socket_address"]["port_value"].as_u64());
        port.map(|port| format!("127.0.0.1:{port}"))
            .ok_or_else(|| Trouble::Failed(format!("Envoy has no listener {listener}")))
    }

    /// The sum of its counters whose names this expression finds.
    ///
    /// # Errors
    ///
    /// When it does not say.
    pub(crate) fn count(&self, names: &str) -> Result<u64, Trouble> {
        let counters = self.ask(&format!("stats?filter={names}"))?;
        let numbers = counters.lines().filter_map(|line| line.rsplit_once(": "));
        Ok(numbers
            .filter_map(|(_, number)| number.parse::<u64>().ok())
            .sum())
    }
}

/// Where a secret of this name is kept, in place of the secret.
pub(crate) fn reference(folder: &Path, name: &str) -> Value {
    let path = folder.join(format!("{name}.json"));
    json!({"name": name, "sds_config": {"resource_api_version": "V3", "path_config_source": {"path": path}}})
}

fn certificate(files: &Path) -> Value {
    secret(
        "svid",
        "tls_certificate",
        json!({
            "certificate_chain": {"filename": files.join("svid.0.pem")},
            "private_key": {"filename": files.join("svid.0.key")},
            "watched_directory": {"path": files},
        }),
    )
}

fn validation(files: &Path) -> Value {
    secret(
        "bundle",
        "validation_context",
        json!({
            "trusted_ca": {"filename": files.join("bundle.0.pem")},
            "watched_directory": {"path": files},
        }),
    )
}

fn secret(name: &str, kind: &str, content: Value) -> Value {
    let any = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
    json!({"resources": [{"@type": any, "name": name, kind: content}]})
}
