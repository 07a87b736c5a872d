//! Servers that know nothing of SPIFFE, fed by `spiffe fetch --watch --write`: their certificates rotate under load, and no
//! request fails.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Check;
use crate::envoy::{self, Envoy};
use crate::lab::{Lab, program};
use crate::ours::Entry;
use crate::outcome::{Trouble, ensure};
use crate::process::{Finished, Process};
use crate::world::{ROTATING, SERVER, SERVER_NAME, SOON, World};

pub(crate) const CASES: &[(&str, Check)] = &[
    ("delivered-nginx", nginx_is_signalled_and_serves_on),
    ("delivered-envoy", envoy_sees_the_switch_and_serves_on),
];

fn nginx_is_signalled_and_serves_on(lab: &Lab) -> Result<(), Trouble> {
    let nginx = program("nginx", "nginx-light")?;
    with_files(lab, |world, files| {
        let folder = world.folder();
        let pid = folder.join("nginx.pid");
        let fetch = follow(lab, world, files, &["--signal", &text(&pid)])?;
        // Nothing tells an unused port from another one but trying.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = folder.join("nginx.conf");
        fs::write(&config, nginx_config(folder, files, port))?;
        let mut command = Command::new(nginx);
        command
            .arg("-c")
            .arg(&config)
            .arg("-p")
            .arg(folder)
            .arg("-e")
            .arg("stderr");
        let server = Process::lead("nginx", command)?;
        let address = format!("127.0.0.1:{port}");
        wait_until("nginx serves", || {
            get(&address, files, true).is_ok_and(is_hello)
        })?;
        expect_no_answer(&address, files)?;
        rotate_under_load(&address, files)?;
        drop((server, fetch));
        Ok(())
    })
}

fn envoy_sees_the_switch_and_serves_on(lab: &Lab) -> Result<(), Trouble> {
    with_files(lab, |world, files| {
        let fetch = follow(lab, world, files, &[])?;
        let folder = world.folder();
        let server = Envoy::start(lab, folder, files, envoy_config(folder))?;
        let address = server.address("web")?;
        wait_until("Envoy serves", || {
            get(&address, files, true).is_ok_and(is_hello)
        })?;
        expect_no_answer(&address, files)?;
        rotate_under_load(&address, files)?;
        let failed = server.ask("stats?filter=key_rotation_failed")?;
        let has_failed = failed.lines().any(|line| !line.ends_with(": 0"));
        ensure(!failed.is_empty() && !has_failed, || {
            format!("Envoy has seen a mix: {failed}")
        })?;
        drop((server, fetch));
        Ok(())
    })
}

/// A trust domain whose SVIDs rotate every two seconds, and a directory for them.
fn with_files(
    lab: &Lab,
    case: impl FnOnce(&World<'_>, &Path) -> Result<(), Trouble>,
) -> Result<(), Trouble> {
    let entry = Entry::for_user(SERVER, lab.uid)
        .with_ttl(ROTATING)
        .with_dns(SERVER_NAME);
    World::with(lab, &[entry], |world| {
        case(world, &world.folder().join("svid"))
    })
}

/// Keeps files of the identity that this program is given.
///
/// # Errors
///
/// When there are none in time.
pub(crate) fn follow(
    lab: &Lab,
    world: &World<'_>,
    files: &Path,
    more: &[&str],
) -> Result<Process, Trouble> {
    let command = world.workload(lab.ours()?.fetch(files, more));
    let mut fetch = Process::spawn("spiffe fetch", command)?;
    fetch.wait_for_mention("revision 1 is in", SOON)?;
    Ok(fetch)
}

/// Asks from several sides at once until three rotations have been seen; every single request must be answered.
fn rotate_under_load(address: &str, files: &Path) -> Result<(), Trouble> {
    const CLIENTS: usize = 3;
    const CERTIFICATES: usize = 4;
    let seen = Mutex::new(BTreeSet::new());
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let deadline = Instant::now() + SOON;
    let client = || -> Result<(), Trouble> {
        while !stop.load(Ordering::Relaxed) {
            let answer = get(address, files, true)?;
            asked.fetch_add(1, Ordering::Relaxed);
            ensure(is_hello_of(&answer), || {
                answer.describe("was refused while certificates rotated:")
            })?;
            let expiry = answer
                .stderr
                .iter()
                .find(|line| line.contains("expire date"));
            let mut seen = seen
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            seen.extend(expiry.cloned());
            if seen.len() >= CERTIFICATES || Instant::now() > deadline {
                stop.store(true, Ordering::Relaxed);
            }
        }
        Ok(())
    };
    let ended: Vec<_> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        let joined = clients.into_iter().map(|client| client.join());
        joined
            .map(|ended| ended.unwrap_or_else(|_| Err(Trouble::failed("a client panicked"))))
            .collect()
    });
    let asked = asked.load(Ordering::Relaxed);
    ended.into_iter().collect::<Result<(), _>>()?;
    let seen = seen
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .len();
    ensure(seen >= CERTIFICATES, || {
        format!("only {seen} certificates were seen in {asked} requests")
    })
}

/// One request over a new connection, by an SVID out of the one file that holds key and chain. curl opens it once for each, so
/// it gets a copy that no rotation comes between.
fn get(address: &str, files: &Path, with_svid: bool) -> Result<Finished, Trouble> {
    let Some((host, port)) = address.rsplit_once(':') else {
        return Err(Trouble::Failed(format!("`{address}` is no address")));
    };
    let mut command = Command::new(program("curl", "curl")?);
    command
        .args([
            "--disable",
            "--silent",
            "--show-error",
            "--verbose",
            "--noproxy",
            "*",
        ])
        .args(["--max-time", "20", "--cacert"])
        .arg(files.join("bundle.0.pem"))
        .args(["--resolve", &format!("{SERVER_NAME}:{port}:{host}")]);
    let own = tempfile::NamedTempFile::new()?;
    if with_svid {
        fs::write(&own, fs::read(files.join("credential_bundle.0.pem"))?)?;
        command.arg("--cert").arg(own.path());
    }
    command.arg(format!("https://{SERVER_NAME}:{port}/"));
    Process::run("curl", command, SOON)
}

fn is_hello(answer: Finished) -> bool {
    is_hello_of(&answer)
}

fn is_hello_of(answer: &Finished) -> bool {
    answer.status.success() && answer.stdout == ["hello"]
}

/// Without an SVID there is no hello: what is served is really behind mutual TLS.
fn expect_no_answer(address: &str, files: &Path) -> Result<(), Trouble> {
    let answer = get(address, files, false)?;
    ensure(!is_hello_of(&answer), || {
        answer.describe("was served without an SVID:")
    })
}

/// # Errors
///
/// When it does not hold in time.
pub(crate) fn wait_until(what: &str, holds: impl Fn() -> bool) -> Result<(), Trouble> {
    let deadline = Instant::now() + SOON;
    while !holds() {
        ensure(Instant::now() < deadline, || {
            format!("waited in vain until {what}")
        })?;
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn nginx_config(folder: &Path, files: &Path, port: u16) -> String {
    let (folder, files) = (folder.display(), files.display());
    format!(
        "daemon off; pid {folder}/nginx.pid; worker_processes 1;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {files}/svid.0.pem;
    ssl_certificate_key {files}/svid.0.key;
    ssl_client_certificate {files}/bundle.0.pem;
    ssl_verify_client on;
    location / {{ return 200 \"hello\\n\"; }}
  }}
}}
"
    )
}

fn envoy_config(folder: &Path) -> Value {
    let any = |kind: &str| format!("type.googleapis.com/envoy.extensions.{kind}");
    let anywhere = json!({"socket_address": {"address": "127.0.0.1", "port_value": 0}});
    let answer = json!({"status": 200, "body": {"inline_string": "hello\n"}});
    json!({
        "static_resources": {"listeners": [{"name": "web", "address": anywhere, "filter_chains": [{
            "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": {
                "@type": any("transport_sockets.tls.v3.DownstreamTlsContext"),
                "require_client_certificate": true,
                "common_tls_context": {
                    "tls_certificate_sds_secret_configs": [envoy::reference(folder, "svid")],
                    "validation_context_sds_secret_config": envoy::reference(folder, "bundle"),
                },
            }},
            "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": {
                "@type": any("filters.network.http_connection_manager.v3.HttpConnectionManager"),
                "stat_prefix": "web",
                "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                    {"match": {"prefix": "/"}, "direct_response": answer},
                ]}]},
                "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
                    "@type": any("filters.http.router.v3.Router"),
                }}],
            }}],
        }]}]},
    })
}
