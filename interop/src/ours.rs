//! What is known here about our own programs: their arguments and what they print. Nothing else in this package repeats it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The binaries that the checks run, as `cargo build` names them.
pub(crate) const PROGRAMS: [&str; 7] = [UP, SERVER, CLIENT, HARNESS, ACCEPTOR, NESTED, MODES];

/// Says that a server takes connections; the address follows.
const LISTENING: &str = "listening on ";

const UP: &str = "spiffe";
const SERVER: &str = "helloworld_server";
const CLIENT: &str = "helloworld_client";
const ACCEPTOR: &str = "rotating_acceptor";
const NESTED: &str = "nested_authorities";
const MODES: &str = "tls_modes";
const HARNESS: &str = "conformance_harness";

/// Our programs in the folder that they were built into.
#[derive(Clone, Debug)]
pub(crate) struct Ours {
    pub(crate) folder: PathBuf,
}

impl Ours {
    /// The one that runs a trust domain until it is interrupted, and takes commands.
    pub(crate) fn up(&self, trust_domain: &str, socket: &Path, entries: &[Entry]) -> Command {
        let mut command = Command::new(self.tool_path());
        command
            .args(["up", "--commands", "--trust-domain", trust_domain])
            .arg("--socket")
            .arg(socket);
        for entry in entries {
            command.arg("--entry").arg(entry.text());
        }
        command
    }

    /// A verb of the CA whose state is in this directory.
    pub(crate) fn ca(&self, state: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.folder.join(UP));
        command
            .arg("ca")
            .args(arguments)
            .env("SPIFFE_CA_STATE", state);
        command
    }

    /// Writes a chain of authorities and an SVID below them to `folder`.
    pub(crate) fn nested(&self, folder: &Path, key: &str, depth: u8, confined: bool) -> Command {
        let mut command = Command::new(self.folder.join(NESTED));
        command
            .args(["--key-type", key, "--depth", &depth.to_string(), "--out"])
            .arg(folder);
        if confined {
            command.arg("--confined");
        }
        command
    }

    /// The one that keeps a folder of files up to date.
    pub(crate) fn fetch(&self, folder: &Path, more: &[&str]) -> Command {
        let mut command = Command::new(self.folder.join(UP));
        command
            .args(["fetch", "--watch", "--write"])
            .arg(folder)
            .args(more);
        command
    }

    /// The one that answers a line of JSON for each that it reads.
    pub(crate) fn batch(&self) -> Command {
        let mut command = Command::new(self.folder.join(UP));
        command.arg("batch");
        command
    }

    /// The one that the conformance suite's contract describes.
    pub(crate) fn harness(&self) -> Command {
        Command::new(self.harness_path())
    }

    pub(crate) fn server(&self, authorize: &str) -> Command {
        let mut command = Command::new(self.server_path());
        command.args(["--listen", "127.0.0.1:0", "--authorize", authorize]);
        command
    }

    /// The same server speaking HTTP/1.1 after the handshake.
    pub(crate) fn http_server(&self, authorize: &str) -> Command {
        let mut command = self.server(authorize);
        command.arg("--http");
        command
    }

    pub(crate) fn client(&self, address: &str, authorize: &str) -> Command {
        let mut command = Command::new(self.client_path());
        command.args(["--connect", address, "--authorize", authorize]);
        command
    }

    pub(crate) fn harness_path(&self) -> PathBuf {
        self.folder.join(HARNESS)
    }

    /// The one that prints each revision of what files hold; `writer` is the option for those of one program.
    pub(crate) fn file_watcher(&self, writer: &str, directory: &Path) -> Command {
        let mut command = Command::new(self.folder.join(ACCEPTOR));
        command
            .args(["--listen", "127.0.0.1:0", "--authorize", "any", writer])
            .arg(directory);
        command
    }

    /// The one that takes any end of any mode.
    pub(crate) fn modes(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.modes_path());
        command.args(arguments);
        command
    }

    pub(crate) fn modes_path(&self) -> PathBuf {
        self.folder.join(MODES)
    }

    /// What runs a trust domain, and what keeps files.
    pub(crate) fn tool_path(&self) -> PathBuf {
        self.folder.join(UP)
    }

    pub(crate) fn server_path(&self) -> PathBuf {
        self.folder.join(SERVER)
    }

    pub(crate) fn client_path(&self) -> PathBuf {
        self.folder.join(CLIENT)
    }
}

/// A registration entry for callers of this user, or for one program of this user.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    id: String,
    uid: u32,
    program: Option<PathBuf>,
    ttl: &'static str,
    dns: Option<&'static str>,
    federates_with: Option<&'static str>,
}

impl Entry {
    pub(crate) fn for_user(id: &str, uid: u32) -> Self {
        Self {
            id: id.to_owned(),
            uid,
            program: None,
            ttl: "1h",
            dns: None,
            federates_with: None,
        }
    }

    pub(crate) fn for_program(id: &str, uid: u32, program: PathBuf) -> Self {
        Self {
            program: Some(program),
            ..Self::for_user(id, uid)
        }
    }

    pub(crate) fn with_ttl(mut self, ttl: &'static str) -> Self {
        self.ttl = ttl;
        self
    }

    pub(crate) fn with_dns(mut self, name: &'static str) -> Self {
        self.dns = Some(name);
        self
    }

    /// With the bundle of this trust domain, where SPIRE is the provider.
    pub(crate) fn with_bundle_of(mut self, trust_domain: &'static str) -> Self {
        self.federates_with = Some(trust_domain);
        self
    }

    pub(crate) fn federates_with(&self) -> Option<&'static str> {
        self.federates_with
    }

    /// The arguments of SPIRE's `entry create`.
    pub(crate) fn spire_arguments(&self) -> Vec<OsString> {
        let mut arguments = vec!["-spiffeID".into(), self.id.clone().into()];
        let mut add = |flag: &str, value: OsString| arguments.extend([flag.into(), value]);
        add("-selector", format!("unix:uid:{}", self.uid).into());
        if let Some(program) = &self.program {
            let mut selector = OsString::from("unix:path:");
            selector.push(program);
            add("-selector", selector);
        }
        if let Some(name) = self.dns {
            add("-dns", name.into());
        }
        if let Some(trust_domain) = self.federates_with {
            add("-federatesWith", format!("spiffe://{trust_domain}").into());
        }
        let seconds = match self.ttl {
            "1h" => "3600",
            ttl => ttl.trim_end_matches('s'),
        };
        add("-x509SVIDTTL", seconds.into());
        arguments
    }

    fn text(&self) -> OsString {
        let mut text = OsString::from(format!(
            "id={},selector=unix:uid:{},ttl={}",
            self.id, self.uid, self.ttl
        ));
        if let Some(program) = &self.program {
            text.push(",selector=unix:path:");
            text.push(program);
        }
        if let Some(name) = self.dns {
            text.push(",dns=");
            text.push(name);
        }
        text
    }
}

/// Whether this line says that the Workload API takes calls.
pub(crate) fn is_ready(line: &str) -> bool {
    line.contains("ready")
}

/// What came of a command: what was done, or why not.
pub(crate) fn answered(line: &str) -> Option<Result<String, String>> {
    let done = line.strip_prefix("ok: ").map(|text| Ok(text.to_owned()));
    done.or_else(|| {
        line.strip_prefix("error: ")
            .map(|text| Err(text.to_owned()))
    })
}

/// Whether a command was refused only because somebody is not ready for it yet.
pub(crate) fn is_too_early(refusal: &str) -> bool {
    refusal.contains("wait, or force it")
}

/// The address in the line that says a server takes connections. The Go peer uses the same words.
pub(crate) fn listening_address(line: &str) -> Option<String> {
    line.strip_prefix(LISTENING).map(str::to_owned)
}

/// What a program's log is to tell, in `RUST_LOG`, so that [`has_revision`] can be looked for.
pub(crate) const TELLS_REVISIONS: &str = "warn,spiffe_workload_client::observe=debug";

/// What the log mentions once the program goes by this revision of what the Workload API sent.
pub(crate) fn has_revision(revision: usize) -> String {
    format!("event=\"updated\" revision={revision} ")
}

/// What is mentioned once this revision is in files.
pub(crate) fn has_written(revision: usize) -> String {
    format!("revision {revision} is in ")
}

/// Why a client or a server that is verified is refused.
pub(crate) fn not_authorised(id: &str) -> String {
    format!("{id} is verified but not authorised")
}

/// What a client says, with the end of its line.
pub(crate) const HELLO: &str = "hello\n";

/// What a server answers to the client with this SPIFFE ID.
pub(crate) fn greeting(client: &str) -> String {
    format!("hello, {client}")
}
