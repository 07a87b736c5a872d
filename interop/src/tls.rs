//! TLS between our connections and other stacks': sessions that OpenSSL and Python resume with our server, counted; ours
//! with a server of OpenSSL's; Java; Envoy as server and as client; nginx that passes TLS through.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Check;
use crate::go;
use crate::lab::{Lab, program};
use crate::ours;
use crate::outcome::{Trouble, ensure};
use crate::process::Process;
use crate::world::{ANYONE_HERE, CLIENT, NOBODY, PEER, SERVER, SOON, World};

pub(crate) const CASES: &[(&str, Check)] = &[
    ("tls-openssl-resumes-12", |lab| {
        openssl_resumes(lab, "-tls1_2")
    }),
    ("tls-openssl-resumes-13", |lab| {
        openssl_resumes(lab, "-tls1_3")
    }),
    ("tls-openssl-server-12", |lab| {
        openssl_serves(lab, "-tls1_2")
    }),
    ("tls-openssl-server-13", |lab| {
        openssl_serves(lab, "-tls1_3")
    }),
    ("tls-python", python_resumes),
    ("tls-java", java_greets),
    ("tls-envoy", envoy_serves_and_dials),
    ("tls-nginx", nginx_passes_tls_through),
];

/// How often a client comes back.
const VISITS: usize = 10;

/// Each visit offers the session of the one before, as OpenSSL has stored it; the server says whether it took it.
fn openssl_resumes(lab: &Lab, version: &str) -> Result<(), Trouble> {
    let openssl = program("openssl", "openssl")?;
    World::with(lab, &go::entries(lab)?, |world| {
        let folder = world.folder();
        go::write_files(lab, world, folder)?;
        let server = world.server(ANYONE_HERE)?;
        let session = folder.join("session.pem");
        let mut resumed = 0;
        for visit in 0..VISITS {
            let mut client = Command::new(&openssl);
            client
                .args(["s_client", version, "-connect", &server.address])
                .args([
                    "-verify_return_error",
                    "-no-CApath",
                    "-no-CAstore",
                    "-CAfile",
                ])
                .arg(folder.join("bundle.pem"))
                .arg("-cert")
                .arg(folder.join("svid.pem"))
                .arg("-key")
                .arg(folder.join("key.pem"))
                .arg("-sess_out")
                .arg(&session);
            if visit > 0 {
                client.arg("-sess_in").arg(&session);
            }
            let mut client = Process::spawn("openssl s_client", client)?;
            client.send(ours::HELLO)?;
            let visited = client
                .finish(SOON)?
                .expect_success()?
                .expect_mention(&ours::greeting(PEER))?;
            resumed += usize::from(visited.mentions("Reused, TLS"));
        }
        expect_all_resumed(resumed)
    })
}

/// All but the first.
fn expect_all_resumed(resumed: usize) -> Result<(), Trouble> {
    ensure(resumed == VISITS - 1, || {
        format!("{resumed} of {} later visits resumed", VISITS - 1)
    })
}

/// Our client against OpenSSL's server, which echoes nothing but says what it is told.
fn openssl_serves(lab: &Lab, version: &str) -> Result<(), Trouble> {
    let openssl = program("openssl", "openssl")?;
    World::with(lab, &go::entries(lab)?, |world| {
        let folder = world.folder();
        go::write_files(lab, world, folder)?;
        let address = free_address()?;
        let serve = || {
            let mut server = Command::new(&openssl);
            server
                .args(["s_server", version, "-accept", &address, "-naccept", "1"])
                .args(["-Verify", "3", "-verify_return_error", "-CAfile"])
                .arg(folder.join("bundle.pem"))
                .arg("-cert")
                .arg(folder.join("svid.pem"))
                .arg("-key")
                .arg(folder.join("key.pem"));
            let mut server = Process::spawn("openssl s_server", server)?;
            server.wait_for_mention("ACCEPT", SOON)?;
            Ok::<_, Trouble>(server)
        };
        let mut server = serve()?;
        // Read once the handshake is done: the answer may as well be there before the question.
        server.send(&format!("{}\n", ours::greeting(CLIENT)))?;
        world
            .client(&address, &format!("id:{PEER}"))?
            .expect_success()?
            .expect_line(&format!("hello from {PEER}"))?
            .expect_line(&ours::greeting(CLIENT))?;

        let _refused = serve()?;
        world
            .client(&address, &format!("id:{NOBODY}"))?
            .expect_refusal()?
            .expect_mention(PEER)?;
        Ok(())
    })
}

fn python_resumes(lab: &Lab) -> Result<(), Trouble> {
    let python = program("python3", "python3")?;
    World::with(lab, &go::entries(lab)?, |world| {
        go::write_files(lab, world, world.folder())?;
        let server = world.server(&format!("id:{PEER}"))?;
        let strict = world.server(&format!("id:{NOBODY}"))?;
        let run = |address: &str, version: &str| {
            let mut client = Command::new(&python);
            client
                .arg(beside("python/tlspeer.py"))
                .arg(address)
                .arg(world.folder())
                .args([version, &VISITS.to_string()]);
            Process::run("tlspeer.py", client, SOON)
        };
        for version in ["1.2", "1.3"] {
            let visited = run(&server.address, version)?
                .expect_success()?
                .expect_line(&format!("server {SERVER}"))?
                .expect_line(&format!("answer {}", ours::greeting(PEER)))?;
            let resumed = visited
                .facts("resumed")
                .find_map(|count| count.parse().ok());
            expect_all_resumed(resumed.unwrap_or_default())?;
            run(&strict.address, version)?.expect_refusal()?;
        }
        Ok(())
    })
}

fn java_greets(lab: &Lab) -> Result<(), Trouble> {
    let java = program("java", "default-jdk-headless")?;
    World::with(lab, &go::entries(lab)?, |world| {
        go::write_files(lab, world, world.folder())?;
        let server = world.server(&format!("id:{PEER}"))?;
        let strict = world.server(&format!("id:{NOBODY}"))?;
        let run = |address: &str, version: &str| {
            let (host, port) = address.split_once(':').unwrap_or((address, ""));
            let mut client = Command::new(&java);
            client
                .arg(beside("java/TlsPeer.java"))
                .args([host, port])
                .arg(world.folder())
                .arg(version);
            // The program is compiled first.
            Process::run("TlsPeer.java", client, SOON + SOON)
        };
        for version in ["TLSv1.2", "TLSv1.3"] {
            run(&server.address, version)?
                .expect_success()?
                .expect_line(&format!("server {SERVER}"))?
                .expect_line(&format!("answer {}", ours::greeting(PEER)))?;
        }
        run(&strict.address, "TLSv1.3")?.expect_refusal()?;
        Ok(())
    })
}

/// One Envoy between our client and our server: a server to the one, with the SVID of the foreign program and nobody but
/// our client allowed; a client to the other, with the same SVID and nobody but our server accepted.
fn envoy_serves_and_dials(lab: &Lab) -> Result<(), Trouble> {
    let envoy = lab.envoy()?;
    World::with(lab, &go::entries(lab)?, |world| {
        let folder = world.folder();
        go::write_files(lab, world, folder)?;
        let server = world.server(&format!("id:{PEER}"))?;
        let address = free_address()?;
        let configuration = folder.join("envoy.json");
        fs::write(
            &configuration,
            envoy_json(folder, &address, &server.address),
        )?;
        let mut command = Command::new(envoy);
        command
            .args([
                "--concurrency",
                "1",
                "--disable-hot-restart",
                "-l",
                "info",
                "-c",
            ])
            .arg(&configuration);
        let mut envoy = Process::spawn("envoy", command)?;
        envoy.wait_for_mention("starting main dispatch loop", SOON)?;

        world
            .client(&address, &format!("id:{PEER}"))?
            .expect_success()?
            .expect_line(&format!("hello from {PEER}"))?
            .expect_line(&ours::greeting(PEER))?;
        world
            .client(&address, &format!("id:{NOBODY}"))?
            .expect_refusal()?
            .expect_mention(PEER)?;
        // The foreign program is a workload of the trust domain too, but not the one that Envoy lets in.
        go::dial(lab, world, &address, PEER)?.expect_refusal()?;
        envoy.interrupt()?;
        envoy.finish(SOON)?.expect_success()?;
        Ok(())
    })
}

fn envoy_json(folder: &Path, listen: &str, upstream: &str) -> String {
    let file = |name: &str| serde_json::json!({ "filename": folder.join(name) });
    let address = |text: &str| {
        let (host, port) = text.rsplit_once(':').unwrap_or((text, "0"));
        let port: u16 = port.parse().unwrap_or_default();
        serde_json::json!({ "socket_address": { "address": host, "port_value": port } })
    };
    let context = |peer: &str| {
        serde_json::json!({
            "tls_certificates": [
                { "certificate_chain": file("svid.pem"), "private_key": file("key.pem") }
            ],
            "validation_context": {
                "trusted_ca": file("bundle.pem"),
                "match_typed_subject_alt_names": [
                    { "san_type": "URI", "matcher": { "exact": peer } }
                ]
            }
        })
    };
    let tls = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";
    let configuration = serde_json::json!({
        "static_resources": {
            "listeners": [{
                "name": "server",
                "address": address(listen),
                "filter_chains": [{
                    "transport_socket": {
                        "name": "envoy.transport_sockets.tls",
                        "typed_config": {
                            "@type": format!("{tls}.DownstreamTlsContext"),
                            "require_client_certificate": true,
                            "common_tls_context": context(CLIENT)
                        }
                    },
                    "filters": [{
                        "name": "envoy.filters.network.tcp_proxy",
                        "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                            "stat_prefix": "hello",
                            "cluster": "upstream"
                        }
                    }]
                }]
            }],
            "clusters": [{
                "name": "upstream",
                "type": "STATIC",
                "load_assignment": {
                    "cluster_name": "upstream",
                    "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(upstream) } }] }]
                },
                "transport_socket": {
                    "name": "envoy.transport_sockets.tls",
                    "typed_config": {
                        "@type": format!("{tls}.UpstreamTlsContext"),
                        "common_tls_context": context(SERVER)
                    }
                }
            }]
        }
    });
    configuration.to_string()
}

/// nginx carries the bytes and ends no TLS: both sides still know each other, not it.
fn nginx_passes_tls_through(lab: &Lab) -> Result<(), Trouble> {
    let nginx = program("nginx", "nginx-light")?;
    let module = PathBuf::from("/usr/lib/nginx/modules/ngx_stream_module.so");
    if !module.exists() {
        crate::lab::install_package("libnginx-mod-stream")?;
    }
    World::with(lab, &go::entries(lab)?, |world| {
        let folder = world.folder();
        let mut server = world.server(&format!("id:{CLIENT}"))?;
        let address = free_address()?;
        let configuration = format!(
            "load_module {};\ndaemon off;\nmaster_process off;\npid {};\nerror_log stderr notice;\nevents {{}}\n\
             stream {{ server {{ listen {address}; proxy_pass {}; }} }}\n",
            module.display(),
            folder.join("nginx.pid").display(),
            server.address
        );
        let file = folder.join("nginx.conf");
        fs::write(&file, configuration)?;
        let mut command = Command::new(nginx);
        command
            .arg("-p")
            .arg(folder)
            .args(["-e", "stderr", "-c"])
            .arg(file);
        let mut nginx = Process::lead("nginx", command)?;
        nginx.wait_for_mention("event method", SOON)?;
        world
            .client(&address, &format!("id:{SERVER}"))?
            .expect_success()?
            .expect_line(&format!("hello from {SERVER}"))?
            .expect_line(&ours::greeting(CLIENT))?;
        server.process.wait_for_mention(CLIENT, SOON)?;
        world
            .client(&address, &format!("id:{NOBODY}"))?
            .expect_refusal()?
            .expect_mention(SERVER)?;
        nginx.interrupt()?;
        nginx.finish(SOON)?.expect_success()?;
        Ok(())
    })
}

/// A file of this package.
fn beside(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// An address on this machine that nobody listens on, for programs that cannot choose one themselves.
fn free_address() -> Result<String, Trouble> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    Ok(listener.local_addr()?.to_string())
}
