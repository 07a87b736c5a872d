//! SPIRE as the provider: our clients fetch from its agent, rotate with it and outlive it, and read what spiffe-helper writes.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::Check;
use crate::conformance::{Running, Starting, Verdict};
use crate::go;
use crate::lab::{Lab, Spire};
use crate::ours::Entry;
use crate::outcome::{Trouble, ensure};
use crate::process::{Finished, Process};
use crate::world::{PEER, SOON, TRUST_DOMAIN, World};

pub(crate) const CASES: &[(&str, Check)] = &[
    ("spire-fetch", |lab| {
        let entries = [entries(lab, "1h")?, fetchers(lab)?].concat();
        World::with_spire(lab, &entries, |world| {
            fetch(lab, world)?;
            api_fetch_write(lab, world)
        })
    }),
    ("spire-go", |lab| {
        World::with_spire(lab, &go::entries(lab)?, |world| {
            go::dials_our_server(lab, world)?;
            go::is_dialled_by_ours(lab, world)
        })
    }),
    ("spire-rotation", |lab| {
        World::with_spire(lab, &entries(lab, "60s")?, |world| rotation(lab, world))
    }),
    ("spire-agent-restart", |lab| {
        World::with_spire(lab, &entries(lab, "1h")?, |world| agent_restart(lab, world))
    }),
    ("spiffe-helper", |lab| {
        World::with_spire(lab, &entries(lab, "20s")?, |world| {
            spiffe_helper(lab, world)
        })
    }),
];

/// The identity of our harness.
const WORKLOAD: &str = "spiffe://example.org/workload";

/// The identity of spiffe-helper.
const HELPER: &str = "spiffe://example.org/helper";

/// The identities of whoever writes files.
const FETCHERS: [&str; 2] = ["spiffe://example.org/one", "spiffe://example.org/two"];

/// Half of a minute's life and the agent's own timers.
const ROTATED: Duration = Duration::from_secs(90);

fn entries(lab: &Lab, ttl: &'static str) -> Result<Vec<Entry>, Trouble> {
    let programs = [
        (WORKLOAD, lab.ours()?.harness_path()),
        (PEER, lab.go_peer()?.to_owned()),
        (HELPER, lab.spiffe_helper()?.to_owned()),
    ];
    let entry =
        |(id, program): (&str, PathBuf)| Entry::for_program(id, lab.uid, program).with_ttl(ttl);
    Ok(programs.map(entry).into())
}

/// Two identities and a foreign bundle for each of the programs that write them to files.
fn fetchers(lab: &Lab) -> Result<Vec<Entry>, Trouble> {
    let programs = [lab.spire()?.agent.clone(), lab.ours()?.tool_path()];
    let entry = |program: &PathBuf, id| {
        let entry = Entry::for_program(id, lab.uid, program.clone());
        entry.with_bundle_of("west.example")
    };
    let both = |program| FETCHERS.map(|id| entry(program, id));
    Ok(programs.iter().flat_map(both).collect())
}

/// X.509-SVIDs and bundles judge peers both ways, tokens are judged here and by SPIRE.
fn fetch(lab: &Lab, world: &mut World<'_>) -> Result<(), Trouble> {
    let harness = harness(lab, world)?;
    let twin = self::harness(lab, world)?;
    is_good_peer(&harness, &twin)?;

    let audience = "orders";
    let request = json!({"audience": [audience], "spiffe_id": WORKLOAD});
    let answer = harness.post("/v1/jwt/fetch", &request)?;
    answer.verdict()?;
    let svid = &answer.body["svids"][0];
    ensure(svid["spiffe_id"] == WORKLOAD, || {
        format!("{} was fetched", answer.body)
    })?;
    let token = svid["token"].as_str().unwrap_or_default();
    for (audience, wanted) in [
        (audience, Verdict::Accepted(WORKLOAD.into())),
        ("billing", Verdict::Rejected),
    ] {
        let request = json!({"token": token, "audience": audience});
        let verdict = harness.post("/v1/jwt/validate", &request)?.verdict()?;
        ensure(verdict == wanted, || format!("for {audience}: {verdict:?}"))?;
    }
    let socket = world.socket().to_owned();
    let judge = |audience: &str| {
        let mut command = Command::new(&lab.spire()?.agent);
        command
            .args([
                "api",
                "validate",
                "jwt",
                "-audience",
                audience,
                "-svid",
                token,
            ])
            .arg("-socketPath")
            .arg(&socket);
        Process::run("spire-agent api validate", command, SOON)
    };
    judge(audience)?
        .expect_success()?
        .expect_mention(WORKLOAD)?;
    judge("billing")?.expect_refusal()?;
    Ok(())
}

/// What `spire-agent api fetch -write` writes is what our delivery writes by the same names, and our file source takes it.
fn api_fetch_write(lab: &Lab, world: &World<'_>) -> Result<(), Trouble> {
    let (theirs, ours) = (world.folder().join("theirs"), world.folder().join("ours"));
    fs::create_dir(&theirs)?;
    let mut command = Command::new(&lab.spire()?.agent);
    command.args(["api", "fetch", "x509", "-silent", "-write"]);
    command.arg(&theirs).arg("-socketPath").arg(world.socket());
    Process::run("spire-agent api fetch", command, SOON)?.expect_success()?;
    let command = world.workload(lab.ours()?.fetch(&ours, &[]));
    Process::spawn("spiffe fetch", command)?.wait_for_mention("revision 1 is in", SOON)?;

    let names = |folder: &Path| -> Result<BTreeSet<OsString>, Trouble> {
        let entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
        Ok(entries.iter().map(fs::DirEntry::file_name).collect())
    };
    let (written, delivered) = (names(&theirs)?, names(&ours)?);
    let is_flat = |name: &&OsString| {
        let name = name.to_string_lossy();
        let first = name.split('.').next().unwrap_or_default();
        ["svid", "bundle", "federated_bundle"].contains(&first)
    };
    let flat: BTreeSet<_> = delivered.iter().filter(is_flat).cloned().collect();
    ensure(written == flat && written.len() == 8, || {
        format!("SPIRE writes {written:?}, we write {flat:?}")
    })?;
    for name in written.iter().filter(|name| {
        let name = name.to_string_lossy();
        name.contains("bundle")
    }) {
        let (one, other) = (fs::read(theirs.join(name))?, fs::read(ours.join(name))?);
        ensure(one == other, || format!("{name:?} differs"))?;
    }

    let watcher = lab.ours()?.file_watcher("--spire-fetch", &theirs);
    let mut watcher = Process::spawn("rotating_acceptor", watcher)?;
    watcher.wait_for_stdout("an SVID", SOON, |line| {
        let known = FETCHERS.iter().any(|id| line.contains(id));
        (known && line.contains(" serial ")).then_some(())
    })
}

/// A new SVID arrives before the old one has expired, and no handshake fails meanwhile.
fn rotation(lab: &Lab, world: &mut World<'_>) -> Result<(), Trouble> {
    let (one, two) = (harness(lab, world)?, harness(lab, world)?);
    let before = one.presented()?;
    one.watch_presented(ROTATED, |leaf| {
        is_good_peer(&two, &one)?;
        Ok(leaf != before)
    })
}

/// Without its agent a workload goes on as before, and finds the next one by itself.
fn agent_restart(lab: &Lab, world: &mut World<'_>) -> Result<(), Trouble> {
    let (one, two) = (harness(lab, world)?, harness(lab, world)?);
    let before = one.presented()?;
    world.spire()?.stop_agent()?;
    is_good_peer(&two, &one)?;
    ensure(one.presented()? == before, || {
        "another SVID is served without an agent".into()
    })?;
    world.spire()?.start_agent(None)?;
    one.watch_presented(ROTATED, |leaf| {
        is_good_peer(&two, &one)?;
        Ok(leaf != before)
    })
}

/// What spiffe-helper writes is taken up, from the first set to the next.
fn spiffe_helper(lab: &Lab, world: &mut World<'_>) -> Result<(), Trouble> {
    let folder = world.folder().join("svid");
    fs::create_dir(&folder)?;
    let config = world.folder().join("helper.conf");
    let text = format!(
        "agent_address = \"{}\"\ncert_dir = \"{}\"\nsvid_file_name = \"svid.pem\"\nsvid_key_file_name = \"svid_key.pem\"\nsvid_bundle_file_name = \"svid_bundle.pem\"\n",
        world.socket().display(),
        folder.display()
    );
    fs::write(&config, text)?;
    // The files are not there yet.
    let mut watcher = Process::spawn(
        "rotating_acceptor",
        lab.ours()?.file_watcher("--spiffe-helper", &folder),
    )?;
    let mut command = Command::new(lab.spiffe_helper()?);
    command.arg("-config").arg(&config);
    let _helper = Process::spawn("spiffe-helper", command)?;
    let revision = |line: &str| {
        let serial = line.split(" serial ").nth(1)?.split(' ').next()?;
        line.contains(HELPER).then(|| serial.to_owned())
    };
    let first = watcher.wait_for_stdout("a first SVID", ROTATED, revision)?;
    watcher.wait_for_stdout("another SVID", ROTATED, |line| {
        revision(line).filter(|serial| *serial != first)
    })?;
    Ok(())
}

/// Both accept each other, each as a server and as a client.
fn is_good_peer(one: &Running, two: &Running) -> Result<(), Trouble> {
    for (client, server) in [(one, two), (two, one)] {
        let verdict = client.dial(&server.address())?;
        ensure(verdict == Verdict::Accepted(WORKLOAD.into()), || {
            format!("a good peer was {verdict:?}")
        })?;
    }
    Ok(())
}

fn harness(lab: &Lab, world: &World<'_>) -> Result<Running, Trouble> {
    let command = world.workload(lab.ours()?.harness());
    // An agent that has just joined learns of its entries seconds later.
    Starting::spawn(command)?.ready(SOON)
}

/// SPIRE's server and agent on one machine, with the state of both in a folder.
#[derive(Debug)]
pub(crate) struct RunningSpire<'a> {
    programs: &'a Spire,
    folder: PathBuf,
    _server: Process,
    agent: Option<Process>,
}

impl<'a> RunningSpire<'a> {
    /// Starts both and registers `entries`; the agent serves the Workload API at `socket`.
    ///
    /// # Errors
    ///
    /// When one of them does not start.
    pub(crate) fn start(
        programs: &'a Spire,
        folder: &Path,
        socket: &Path,
        entries: &[Entry],
    ) -> Result<Self, Trouble> {
        // The server takes no port of the system's choice: one that was free a moment ago.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        for (name, text) in [("server.conf", SERVER_CONF), ("agent.conf", AGENT_CONF)] {
            let text = text
                .replace("@FOLDER@", &folder.display().to_string())
                .replace("@SOCKET@", &socket.display().to_string())
                .replace("@PORT@", &port.to_string())
                .replace("@TRUST_DOMAIN@", TRUST_DOMAIN);
            fs::write(folder.join(name), text)?;
        }
        let mut command = Command::new(&programs.server);
        command
            .args(["run", "-config"])
            .arg(folder.join("server.conf"));
        let mut server = Process::spawn("spire-server", command)?;
        server.wait_for_mention("Starting Server APIs", SOON)?;
        let mut spire = Self {
            programs,
            folder: folder.to_owned(),
            _server: server,
            agent: None,
        };
        spire.until_healthy()?;
        let node = format!("spiffe://{TRUST_DOMAIN}/node");
        let made = spire.ask(&["token", "generate", "-spiffeID", &node].map(OsString::from))?;
        let token = made
            .stdout
            .iter()
            .find_map(|line| line.strip_prefix("Token: "));
        let token = token.ok_or_else(|| Trouble::failed(made.describe("named no token and")))?;
        let foreign: BTreeSet<_> = entries.iter().filter_map(Entry::federates_with).collect();
        for name in foreign {
            // What names the bundle has is looked at, not whose authorities are in it.
            let own = spire.ask(&["bundle", "show"].map(OsString::from))?;
            let path = folder.join(name);
            fs::write(&path, own.stdout.join("\n"))?;
            let id = format!("spiffe://{name}");
            let mut arguments = ["bundle", "set", "-id", &id, "-path"]
                .map(OsString::from)
                .to_vec();
            arguments.push(path.into());
            spire.ask(&arguments)?;
        }
        for entry in entries {
            let mut arguments = ["entry", "create", "-parentID", &node]
                .map(OsString::from)
                .to_vec();
            arguments.extend(entry.spire_arguments());
            spire.ask(&arguments)?;
        }
        spire.start_agent(Some(token))?;
        Ok(spire)
    }

    /// Starts the agent, which joins with a token the first time.
    ///
    /// # Errors
    ///
    /// When it does not come to serve the Workload API.
    pub(crate) fn start_agent(&mut self, token: Option<&str>) -> Result<(), Trouble> {
        let mut command = Command::new(&self.programs.agent);
        command
            .args(["run", "-config"])
            .arg(self.folder.join("agent.conf"));
        if let Some(token) = token {
            command.args(["-joinToken", token]);
        }
        let mut agent = Process::spawn("spire-agent", command)?;
        agent.wait_for_mention("Starting agent APIs", SOON)?;
        self.agent = Some(agent);
        Ok(())
    }

    /// Ends the agent in the orderly way.
    ///
    /// # Errors
    ///
    /// When it does not end.
    pub(crate) fn stop_agent(&mut self) -> Result<(), Trouble> {
        if let Some(agent) = self.agent.take() {
            agent.interrupt()?;
            agent.finish(SOON)?;
        }
        Ok(())
    }

    /// Its socket appears a moment after it says so.
    fn until_healthy(&self) -> Result<(), Trouble> {
        let until = std::time::Instant::now() + SOON;
        loop {
            match self.ask(&["healthcheck".into()]) {
                Ok(_) => return Ok(()),
                Err(why) if std::time::Instant::now() > until => return Err(why),
                Err(_) => {}
            }
        }
    }

    fn ask(&self, arguments: &[OsString]) -> Result<Finished, Trouble> {
        let mut command = Command::new(&self.programs.server);
        command
            .args(arguments)
            .arg("-socketPath")
            .arg(self.folder.join("server.sock"));
        Process::run("spire-server", command, SOON)?.expect_success()
    }
}

const SERVER_CONF: &str = r#"
server {
  bind_address = "127.0.0.1"
  bind_port = "@PORT@"
  socket_path = "@FOLDER@/server.sock"
  trust_domain = "@TRUST_DOMAIN@"
  data_dir = "@FOLDER@/server"
  log_level = "INFO"
}
plugins {
  DataStore "sql" {
    plugin_data {
      database_type = "sqlite3"
      connection_string = "@FOLDER@/datastore"
    }
  }
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "memory" { plugin_data {} }
}
"#;

const AGENT_CONF: &str = r#"
agent {
  server_address = "127.0.0.1"
  server_port = "@PORT@"
  socket_path = "@SOCKET@"
  trust_domain = "@TRUST_DOMAIN@"
  data_dir = "@FOLDER@/agent"
  insecure_bootstrap = true
  log_level = "INFO"
}
plugins {
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "disk" { plugin_data { directory = "@FOLDER@/agent" } }
  WorkloadAttestor "unix" { plugin_data { discover_workload_path = true } }
}
"#;
