//! Foreign peers across a rotation of SVIDs and a rollover of the authority, step by step: at every step each peer and ours
//! come to the same verdict and the same ID, and a peer with another ID than the one that is let in is refused.
//!
//! What runs through all the steps follows the Workload API, or the files that `spiffe fetch` keeps; each step waits until all
//! of that has what is new, and looks at the files that it really is so.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::Case;
use crate::curl;
use crate::delivered::{self, wait_until};
use crate::envoy::{self, Envoy};
use crate::go;
use crate::lab::{Lab, program};
use crate::modes;
use crate::openssl;
use crate::ours::{self, Entry};
use crate::outcome::{Trouble, ensure};
use crate::process::{Finished, Process};
use crate::tls::{answer_hello, beside, free_address, openssl_server};
use crate::world::{CLIENT, NOBODY, PEER, SERVER, SERVER_NAME, SOON, Server, World};

/// One step, and what files hold after it.
struct Step {
    name: &'static str,
    commands: &'static [&'static str],
    /// Whether workloads are sent anything for it.
    is_sent: bool,
    /// Whether they get new SVIDs.
    reissues: bool,
    authorities: usize,
}

const STEPS: [Step; 6] = [
    Step {
        name: "before",
        commands: &[],
        is_sent: false,
        reissues: false,
        authorities: 1,
    },
    Step {
        name: "after a rotation",
        commands: &["reissue"],
        is_sent: true,
        reissues: true,
        authorities: 1,
    },
    Step {
        name: "with the next authority prepared",
        commands: &["x509 prepare"],
        is_sent: true,
        reissues: false,
        authorities: 2,
    },
    Step {
        name: "with SVIDs of the next authority",
        commands: &["x509 activate", "reissue"],
        is_sent: true,
        reissues: true,
        authorities: 2,
    },
    Step {
        name: "with the old authority tainted",
        commands: &["x509 taint"],
        is_sent: false,
        reissues: false,
        authorities: 2,
    },
    Step {
        name: "with the old authority gone",
        commands: &["x509 revoke"],
        is_sent: true,
        reissues: false,
        authorities: 1,
    },
];

/// A foreign program, and how it meets ours at each step.
struct Peer {
    name: &'static str,
    /// Whether our servers speak HTTP to it.
    http: bool,
    /// Whether the Go peer takes part.
    go: bool,
    begin: fn(&Scene<'_, '_>) -> Result<Visit, Trouble>,
}

/// Both verdicts at one step. What it holds lives through all of them.
type Visit = Box<dyn FnMut(&mut Scene<'_, '_>) -> Result<(), Trouble>>;

const PEERS: [Peer; 11] = [
    Peer::new("curl", curl).over_http(),
    Peer::new("envoy", envoy),
    Peer::new("go-client", go_client).with_go(),
    Peer::new("go-modes", go_modes).with_go(),
    Peer::new("go-server", go_server).with_go(),
    Peer::new("java", java),
    Peer::new("nginx-stream", nginx_stream),
    Peer::new("openssl-client", openssl_client),
    Peer::new("openssl-server-12", |_| openssl_serves("-tls1_2")),
    Peer::new("openssl-server-13", |_| openssl_serves("-tls1_3")),
    Peer::new("python", python),
];

impl Peer {
    const fn new(name: &'static str, begin: fn(&Scene<'_, '_>) -> Result<Visit, Trouble>) -> Self {
        Self {
            name,
            http: false,
            go: false,
            begin,
        }
    }

    const fn over_http(mut self) -> Self {
        self.http = true;
        self
    }

    const fn with_go(mut self) -> Self {
        self.go = true;
        self
    }
}

pub(crate) fn cases() -> impl Iterator<Item = Case> {
    PEERS.into_iter().map(|peer| {
        Case::new(format!("peers-rollover/{}", peer.name), move |lab| {
            run(lab, &peer)
        })
    })
}

/// A trust domain with what lives through all the steps on our side.
struct Scene<'w, 'l> {
    lab: &'l Lab,
    world: &'w mut World<'l>,
    /// Lets in the peer, and our client.
    server: Server,
    /// Lets in neither.
    strict: Server,
    fetch: Process,
    /// Where `fetch` keeps the peer's SVID.
    files: PathBuf,
    /// The same under the names that the peers' programs go by.
    named: PathBuf,
    revision: usize,
}

fn run(lab: &Lab, peer: &Peer) -> Result<(), Trouble> {
    let ours = lab.ours()?;
    let mut entries = vec![
        Entry::for_program(SERVER, lab.uid, ours.server_path()).with_dns(SERVER_NAME),
        Entry::for_program(CLIENT, lab.uid, ours.client_path()),
        Entry::for_program(PEER, lab.uid, ours.tool_path()),
    ];
    if peer.go {
        entries.extend(modes::entries(lab)?);
    }
    World::with(lab, &entries, |world| {
        let files = world.folder().join("svid");
        let fetch = delivered::follow(lab, world, &files, &[])?;
        let mut scene = Scene {
            server: world.telling_server(&format!("ids:{PEER},{CLIENT}"), peer.http)?,
            strict: world.telling_server(&format!("id:{NOBODY}"), peer.http)?,
            named: name_as_peers_do(&files, world.folder())?,
            lab,
            world,
            fetch,
            files,
            revision: 1,
        };
        let mut visit = (peer.begin)(&scene)?;
        for step in &STEPS {
            scene
                .take(step)
                .and_then(|()| visit(&mut scene))
                .map_err(|why| why.during(step.name))?;
        }
        Ok(())
    })
}

fn name_as_peers_do(files: &Path, folder: &Path) -> Result<PathBuf, Trouble> {
    let named = folder.join("named");
    fs::create_dir(&named)?;
    for (name, file) in [
        ("svid.pem", "svid.0.pem"),
        ("key.pem", "svid.0.key"),
        ("bundle.pem", "bundle.0.pem"),
    ] {
        symlink(files.join(file), named.join(name))?;
    }
    Ok(named)
}

impl Scene<'_, '_> {
    fn take(&mut self, step: &Step) -> Result<(), Trouble> {
        let svid = || fs::read(self.files.join("svid.0.pem"));
        let before = svid()?;
        for command in step.commands {
            self.world.tell(command)?;
        }
        if step.is_sent {
            self.revision += 1;
            let told = ours::has_revision(self.revision);
            self.server.process.wait_for_mention(&told, SOON)?;
            self.strict.process.wait_for_mention(&told, SOON)?;
            let written = ours::has_written(self.revision);
            self.fetch.wait_for_mention(&written, SOON)?;
        }
        ensure((svid()? != before) == step.reissues, || {
            format!("that there is a new SVID is {}", !step.reissues)
        })?;
        let bundle = fs::read_to_string(self.files.join("bundle.0.pem"))?;
        let authorities = bundle.matches("BEGIN CERTIFICATE").count();
        ensure(authorities == step.authorities, || {
            format!("the bundle has {authorities} authorities")
        })
    }

    /// Our client to this address: it finds the server with this ID and is greeted as `greeted`, and accepts no other server.
    fn dial(&self, address: &str, server: &str, greeted: &str) -> Result<(), Trouble> {
        self.world
            .client(address, &format!("id:{server}"))?
            .expect_success()?
            .expect_line(&format!("hello from {server}"))?
            .expect_line(&ours::greeting(greeted))?;
        self.dial_in_vain(address, server)
    }

    fn dial_in_vain(&self, address: &str, server: &str) -> Result<(), Trouble> {
        self.world
            .client(address, &format!("id:{NOBODY}"))?
            .expect_refusal()?
            .expect_mention(&ours::not_authorised(server))?;
        Ok(())
    }

    /// The strict server has just refused the peer, for its ID and nothing else.
    fn is_not_authorised(&mut self, dialled: &Finished) -> Result<(), Trouble> {
        ensure(!dialled.mentions(&ours::greeting(PEER)), || {
            dialled.describe("was refused and yet answered:")
        })?;
        let refused = ours::not_authorised(PEER);
        self.strict.process.wait_for_mention(&refused, SOON)?;
        Ok(())
    }
}

fn curl(_: &Scene<'_, '_>) -> Result<Visit, Trouble> {
    let curl = curl::curl()?;
    Ok(Box::new(move |scene| {
        for versions in [&["--tls-max", "1.2"], &["--tlsv1.3", "--http1.1"]] {
            let get = |address: &str| curl::get(&curl, address, &scene.named, versions, true);
            curl::expect_our_id(get(&scene.server.address)?)?;
            let refused = get(&scene.strict.address)?;
            scene.is_not_authorised(&refused)?;
            curl::expect_no_answer(refused)?;
        }
        Ok(())
    }))
}

/// One Envoy between our client and our server: a server to the one, with the peer's SVID and nobody but our client let in; a
/// client to the other, with the same SVID and nobody but our server accepted. Beside it, a way that leads it astray: it is to
/// accept an ID there that our server has not.
fn envoy(scene: &Scene<'_, '_>) -> Result<Visit, Trouble> {
    const SECRETS_TAKEN: &str = "ssl_context_update_by_sds";
    const CONTEXTS: u64 = 4;
    let folder = scene.world.folder();
    let configuration = envoy_between(folder, &scene.server.address);
    let envoy = Envoy::start(scene.lab, folder, &scene.files, configuration)?;
    let (address, astray) = (envoy.address("good")?, envoy.address("astray")?);
    let python = program("python3", "python3")?;
    let taken_first = envoy.count(SECRETS_TAKEN)?;
    let mut visits = 0;
    Ok(Box::new(move |scene| {
        let changes = scene.revision as u64 - 1;
        wait_until("Envoy has taken its files", || {
            let taken = envoy.count(SECRETS_TAKEN);
            taken.is_ok_and(|taken| taken >= taken_first + CONTEXTS * changes)
        })?;
        visits += 1;
        scene.dial(&address, PEER, PEER)?;

        // A workload of the trust domain too, but not the one that Envoy lets in.
        tlspeer(&python, &address, &scene.named, "1.2")?
            .expect_refusal()?
            .expect_mention("alert certificate unknown")?;
        expect_count(&envoy, "^listener.*ssl.fail_verify_san", visits)?;

        let led_astray = scene.world.client(&astray, &format!("id:{PEER}"))?;
        let led_astray = led_astray.expect_refusal()?;
        ensure(!led_astray.mentions("hello, "), || {
            led_astray.describe("was answered by a server that Envoy was not to accept:")
        })?;
        expect_count(&envoy, "^cluster.astray.ssl.fail_verify_san", visits)
    }))
}

/// As often as that Envoy has refused a chain that verifies, for its ID and nothing else.
fn expect_count(envoy: &Envoy, counter: &str, expected: u64) -> Result<(), Trouble> {
    let counted = envoy.count(counter)?;
    ensure(counted == expected, || {
        format!("Envoy counts {counted} of {counter}, not {expected}")
    })
}

fn envoy_between(folder: &Path, upstream: &str) -> Value {
    let address = |text: &str| {
        let (host, port) = text.rsplit_once(':').unwrap_or((text, "0"));
        let port: u16 = port.parse().unwrap_or_default();
        json!({"socket_address": {"address": host, "port_value": port}})
    };
    let any = |kind: &str| format!("type.googleapis.com/envoy.extensions.{kind}");
    let tls = |context: &str, peer: &str| {
        json!({"name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": any(&format!("transport_sockets.tls.v3.{context}TlsContext")),
            "common_tls_context": {
                "tls_certificate_sds_secret_configs": [envoy::reference(folder, "svid")],
                "combined_validation_context": {
                    "default_validation_context": {"match_typed_subject_alt_names": [
                        {"san_type": "URI", "matcher": {"exact": peer}}
                    ]},
                    "validation_context_sds_secret_config": envoy::reference(folder, "bundle"),
                },
            },
        }})
    };
    let listener = |name: &str| {
        let mut server = tls("Downstream", CLIENT);
        server["typed_config"]["require_client_certificate"] = json!(true);
        json!({"name": name, "address": address("127.0.0.1:0"), "filter_chains": [{
            "transport_socket": server,
            "filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": {
                "@type": any("filters.network.tcp_proxy.v3.TcpProxy"),
                "stat_prefix": name,
                "cluster": name,
            }}],
        }]})
    };
    let cluster = |name: &str, server: &str| {
        json!({"name": name, "type": "STATIC", "transport_socket": tls("Upstream", server),
            "load_assignment": {"cluster_name": name, "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": address(upstream)}}]}
            ]},
        })
    };
    json!({"static_resources": {
        "listeners": [listener("good"), listener("astray")],
        "clusters": [cluster("good", SERVER), cluster("astray", NOBODY)],
    }})
}

/// The Go peer, living through all steps.
struct Go {
    process: Process,
    revision: usize,
}

impl Go {
    fn start(scene: &Scene<'_, '_>, arguments: &[&str]) -> Result<Self, Trouble> {
        let command = go::command(scene.lab, scene.world, arguments)?;
        Ok(Self {
            process: Process::spawn("gopeer", command)?,
            revision: scene.revision,
        })
    }

    /// Waits until it goes by what workloads were sent last.
    fn follow(&mut self, scene: &Scene<'_, '_>) -> Result<(), Trouble> {
        if self.revision == scene.revision {
            return Ok(());
        }
        self.revision = scene.revision;
        let told = format!("revision {}", self.revision);
        self.process
            .wait_for_stdout(&told, SOON, |line| (line == told).then_some(()))
    }

    /// What comes of greeting a server that is to have this ID.
    fn dials(&mut self, address: &str, server: &str) -> Result<String, Trouble> {
        self.process.send(&format!("{address} {server}\n"))?;
        self.process.wait_for_stdout("an outcome", SOON, |line| {
            let is_outcome = line.starts_with("answered ") || line.starts_with("refused ");
            is_outcome.then(|| line.to_owned())
        })
    }
}

fn go_client(scene: &Scene<'_, '_>) -> Result<Visit, Trouble> {
    let mut go = Go::start(scene, &["dial-each"])?;
    Ok(Box::new(move |scene| {
        go.follow(scene)?;
        let mut expect = |address: &str, server: &str, outcome: &str| {
            let found = go.dials(address, server)?;
            ensure(found.starts_with(outcome), || {
                format!("go-spiffe says `{found}`, not `{outcome}`")
            })
        };
        let greeted = format!("answered {SERVER} {}", ours::greeting(PEER));
        expect(&scene.server.address, SERVER, &greeted)?;
        expect(&scene.server.address, NOBODY, "refused unexpected ID")?;
        // Its own handshake is complete by then, so the alert may be lost to a reset.
        expect(&scene.strict.address, SERVER, "refused ")?;
        let refused = ours::not_authorised(PEER);
        scene.strict.process.wait_for_mention(&refused, SOON)?;
        Ok(())
    }))
}

fn go_server(scene: &Scene<'_, '_>) -> Result<Visit, Trouble> {
    let mut go = Go::start(scene, &["serve", CLIENT])?;
    let listening = ours::listening_address;
    let address = go
        .process
        .wait_for_stdout("where it listens", SOON, listening)?;
    let mut strict = Go::start(scene, &["serve", NOBODY])?;
    let strict_address = strict
        .process
        .wait_for_stdout("where it listens", SOON, listening)?;
    Ok(Box::new(move |scene| {
        go.follow(scene)?;
        strict.follow(scene)?;
        scene.dial(&address, PEER, CLIENT)?;
        let refused = scene.world.client(&strict_address, &format!("id:{PEER}"))?;
        ensure(!refused.expect_refusal()?.mentions("hello, "), || {
            "our client was refused and yet answered".into()
        })?;
        let refused = format!("unexpected ID \"{CLIENT}\"");
        strict.process.wait_for_mention(&refused, SOON)?;
        Ok(())
    }))
}

/// All six modes; their ends are started anew at each step.
fn go_modes(_: &Scene<'_, '_>) -> Result<Visit, Trouble> {
    Ok(Box::new(|scene| modes::all(scene.lab, scene.world)))
}

fn java(scene: &Scene<'_, '_>) -> Result<Visit, Trouble> {
    const VERSIONS: [&str; 2] = ["TLSv1.2", "TLSv1.3"];
    let java = program("java", "default-jdk-headless")?;
    let classes = scene.world.folder().join("classes");
    let mut compile = Command::new(program("javac", "default-jdk-headless")?);
    compile
        .arg("-d")
        .arg(&classes)
        .arg(beside("java/TlsPeer.java"));
    Process::run("javac", compile, SOON)?.expect_success()?;
    Ok(Box::new(move |scene| {
        let greet = |address: &str| {
            let (host, port) = address.split_once(':').unwrap_or((address, ""));
            let mut client = Command::new(&java);
            // Nothing here runs for so long that a better compiler pays.
            client
                .args(["-XX:TieredStopAtLevel=1", "-cp"])
                .arg(&classes)
                .args(["TlsPeer", host, port])
                .arg(&scene.named)
                .args(VERSIONS);
            Process::run("TlsPeer", client, SOON)
        };
        let mut greeted = greet(&scene.server.address)?.expect_success()?;
        let refused = greet(&scene.strict.address)?.expect_refusal()?;
        for version in VERSIONS {
            greeted = greeted
                .expect_line(&format!("server {version} {SERVER}"))?
                .expect_line(&format!("answer {version} {}", ours::greeting(PEER)))?;
            ensure(
                refused.facts("refused").any(|why| why.starts_with(version)),
                || refused.describe(&format!("was not refused under {version}:")),
            )?;
            scene.is_not_authorised(&refused)?;
        }
        Ok(())
    }))
}

/// nginx carries the bytes and ends no TLS: both sides still know each other, not it.
fn nginx_stream(scene: &Scene<'_, '_>) -> Result<Visit, Trouble> {
    let nginx = program("nginx", "nginx-light")?;
    let module = PathBuf::from("/usr/lib/nginx/modules/ngx_stream_module.so");
    if !module.exists() {
        crate::lab::install_package("libnginx-mod-stream")?;
    }
    let folder = scene.world.folder();
    let address = free_address()?;
    let configuration = format!(
        "load_module {};\ndaemon off;\nmaster_process off;\npid {};\nerror_log stderr info;\nevents {{}}\n\
         stream {{ server {{ listen {address}; proxy_pass {}; }} }}\n",
        module.display(),
        folder.join("nginx.pid").display(),
        scene.server.address
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
    Ok(Box::new(move |scene| {
        scene.dial(&address, SERVER, CLIENT)?;
        let carried = format!("connected to {}", scene.server.address);
        nginx.wait_for_mention(&carried, SOON)?;
        let greeted = format!("hello from {CLIENT}");
        scene.server.process.wait_for_mention(&greeted, SOON)?;
        Ok(())
    }))
}

fn openssl_client(_: &Scene<'_, '_>) -> Result<Visit, Trouble> {
    let openssl = openssl::openssl()?;
    Ok(Box::new(move |scene| {
        for version in ["-tls1_2", "-tls1_3"] {
            let start = |address: &str| {
                let client = openssl::s_client_with_svid(&openssl, version, address, &scene.named);
                Process::spawn("openssl s_client", client)
            };
            let mut client = start(&scene.server.address)?;
            client.send(ours::HELLO)?;
            let greeted = client
                .finish(SOON)?
                .expect_success()?
                .expect_line("Verification: OK")?
                .expect_mention(&ours::greeting(PEER))?;
            openssl::expect_server_leaf(&openssl, &scene.named, &greeted)?;

            // Says nothing, so that the alert is not lost to a reset; it is the server who ends this.
            let refused = start(&scene.strict.address)?
                .finish(SOON)?
                .expect_refusal()?
                .expect_mention("SSL alert number 49")?;
            scene.is_not_authorised(&refused)?;
        }
        Ok(())
    }))
}

/// OpenSSL reads its files once, so it is started anew at each step.
fn openssl_serves(version: &'static str) -> Result<Visit, Trouble> {
    Ok(Box::new(move |scene| {
        let (mut server, address) = openssl_server(version, &scene.named, 2)?;
        let client = scene
            .world
            .returning_client(&address, &format!("id:{PEER}"), 1)?;
        answer_hello(&mut server)?;
        client
            .finish(SOON)?
            .expect_success()?
            .expect_line(&format!("hello from {PEER}"))?
            .expect_line(&ours::greeting(CLIENT))?;
        scene.dial_in_vain(&address, PEER)
    }))
}

fn python(_: &Scene<'_, '_>) -> Result<Visit, Trouble> {
    let python = program("python3", "python3")?;
    Ok(Box::new(move |scene| {
        for version in ["1.2", "1.3"] {
            let greet = |address: &str| tlspeer(&python, address, &scene.named, version);
            greet(&scene.server.address)?
                .expect_success()?
                .expect_line(&format!("server {SERVER}"))?
                .expect_line(&format!("answer {}", ours::greeting(PEER)))?;
            let refused = greet(&scene.strict.address)?.expect_refusal()?;
            scene.is_not_authorised(&refused)?;
        }
        Ok(())
    }))
}

/// Python's client greets once.
fn tlspeer(python: &Path, address: &str, files: &Path, version: &str) -> Result<Finished, Trouble> {
    let mut client = Command::new(python);
    client
        .arg(beside("python/tlspeer.py"))
        .arg(address)
        .arg(files)
        .args([version, "1"]);
    Process::run("tlspeer.py", client, SOON)
}
