//! go-spiffe's six modes, each against the end of ours that fits it. A case is named by the mode that go-spiffe takes; each
//! has what goes through and what either side refuses.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::Check;
use crate::go;
use crate::lab::Lab;
use crate::ours::{self, Entry};
use crate::outcome::{Trouble, ensure};
use crate::process::{Finished, Process};
use crate::world::{NOBODY, PEER, SOON, World};

pub(crate) const CASES: &[(&str, Check)] = &[
    ("go-modes/tls-client", |lab| {
        Ends::with(lab, go_shows_nothing)
    }),
    ("go-modes/mtls-client", |lab| {
        Ends::with(lab, go_dials_mutually)
    }),
    ("go-modes/mtls-web-client", |lab| {
        Ends::with(lab, go_dials_the_web)
    }),
    ("go-modes/tls-server", |lab| {
        Ends::with(lab, go_asks_for_nothing)
    }),
    ("go-modes/mtls-server", |lab| {
        Ends::with(lab, go_serves_mutually)
    }),
    ("go-modes/mtls-web-server", |lab| {
        Ends::with(lab, go_serves_the_web)
    }),
];

/// All of them in a trust domain that has [`entries`].
///
/// # Errors
///
/// When one side accepts or refuses what it should not.
pub(crate) fn all(lab: &Lab, world: &World<'_>) -> Result<(), Trouble> {
    let ends = Ends { lab, world };
    for mode in [
        go_shows_nothing,
        go_dials_mutually,
        go_dials_the_web,
        go_asks_for_nothing,
        go_serves_mutually,
        go_serves_the_web,
    ] {
        mode(&ends)?;
    }
    Ok(())
}

/// Our program and the Go peer.
///
/// # Errors
///
/// When one of them cannot be built.
pub(crate) fn entries(lab: &Lab) -> Result<[Entry; 2], Trouble> {
    Ok([
        Entry::for_program(OURS, lab.uid, lab.ours()?.modes_path()),
        Entry::for_program(PEER, lab.uid, lab.go_peer()?.to_owned()),
    ])
}

/// The identity of our program, whichever end it is.
const OURS: &str = "spiffe://example.org/ours";

/// What a server calls a client that has shown nothing.
const NO_ID: &str = "nobody";

const HOST: &str = "shop.example";

/// TLSClientConfig.
fn go_shows_nothing(ends: &Ends<'_>) -> Result<(), Trouble> {
    let (mut server, address) = ends.serve(&["tls-server"])?;
    ends.go_dials(&["tls", &address, NOBODY])?
        .expect_refusal()?
        .expect_mention(&format!("unexpected ID \"{OURS}\""))?;
    expect_greeting(ends.go_dials(&["tls", &address, OURS])?, OURS, NO_ID)?;
    server.wait_for_mention(&format!("greeted {NO_ID}"), SOON)?;

    let (mut server, address) = ends.serve(&["mtls-server", "--authorize", "any"])?;
    expect_no_greeting(ends.go_dials(&["tls", &address, OURS])?)?;
    server.wait_for_mention("refused: ", SOON)?;
    // It is the missing certificate that was refused.
    expect_greeting(ends.go_dials(&["mtls", &address, OURS])?, OURS, PEER)
}

/// MTLSClientConfig.
fn go_dials_mutually(ends: &Ends<'_>) -> Result<(), Trouble> {
    let (_server, address) = ends.serve(&["mtls-server", "--authorize", &only(PEER)])?;
    ends.go_dials(&["mtls", &address, NOBODY])?
        .expect_refusal()?
        .expect_mention(&format!("unexpected ID \"{OURS}\""))?;
    expect_greeting(ends.go_dials(&["mtls", &address, OURS])?, OURS, PEER)?;

    let (mut strict, address) = ends.serve(&["mtls-server", "--authorize", &only(NOBODY)])?;
    expect_no_greeting(ends.go_dials(&["mtls", &address, OURS])?)?;
    strict.wait_for_mention(&ours::not_authorised(PEER), SOON)?;
    Ok(())
}

/// MTLSWebClientConfig.
fn go_dials_the_web(ends: &Ends<'_>) -> Result<(), Trouble> {
    let (web, other) = (Web::new(ends.world, "web")?, Web::new(ends.world, "other")?);
    let serve = |policy: &str| {
        ends.serve(&[
            "mtls-web-server",
            "--authorize",
            policy,
            "--certificate",
            text(&web.certificate)?,
            "--key",
            text(&web.key)?,
        ])
    };
    let (_server, address) = serve(&only(PEER))?;
    let dial =
        |roots: &Path, name: &str| ends.go_dials(&["mtls-web", &address, text(roots)?, name]);
    dial(&other.root, HOST)?
        .expect_refusal()?
        .expect_mention("unknown authority")?;
    dial(&web.root, "elsewhere.example")?
        .expect_refusal()?
        .expect_mention("not elsewhere.example")?;
    expect_greeting(dial(&web.root, HOST)?, HOST, PEER)?;

    let (mut strict, address) = serve(&only(NOBODY))?;
    expect_no_greeting(ends.go_dials(&["mtls-web", &address, text(&web.root)?, HOST])?)?;
    strict.wait_for_mention(&ours::not_authorised(PEER), SOON)?;
    Ok(())
}

/// TLSServerConfig.
fn go_asks_for_nothing(ends: &Ends<'_>) -> Result<(), Trouble> {
    let (mut server, address) = ends.go_serves(&["tls"])?;
    let dial =
        |policy: &str| ends.dial(&["tls-client", "--connect", &address, "--authorize", policy]);
    dial(&only(NOBODY))?
        .expect_refusal()?
        .expect_mention(&ours::not_authorised(PEER))?;
    expect_hello(dial(&only(PEER))?, PEER, NO_ID)?;
    server.wait_for_mention(&format!("greeted {NO_ID} hello"), SOON)?;
    Ok(())
}

/// MTLSServerConfig.
fn go_serves_mutually(ends: &Ends<'_>) -> Result<(), Trouble> {
    let (mut server, address) = ends.go_serves(&["mtls", OURS])?;
    let dial = |mode: &str, address: &str, policy: &str| {
        ends.dial(&[mode, "--connect", address, "--authorize", policy])
    };
    dial("mtls-client", &address, &only(NOBODY))?
        .expect_refusal()?
        .expect_mention(&ours::not_authorised(PEER))?;
    expect_no_greeting(dial("tls-client", &address, &only(PEER))?)?;
    server.wait_for_mention("client didn't provide a certificate", SOON)?;
    expect_hello(dial("mtls-client", &address, &only(PEER))?, PEER, OURS)?;

    let (mut strict, address) = ends.go_serves(&["mtls", NOBODY])?;
    expect_no_greeting(dial("mtls-client", &address, &only(PEER))?)?;
    strict.wait_for_mention(&format!("unexpected ID \"{OURS}\""), SOON)?;
    Ok(())
}

/// MTLSWebServerConfig.
fn go_serves_the_web(ends: &Ends<'_>) -> Result<(), Trouble> {
    let (web, other) = (Web::new(ends.world, "web")?, Web::new(ends.world, "other")?);
    let serve = |client: &str| {
        ends.go_serves(&["mtls-web", client, text(&web.certificate)?, text(&web.key)?])
    };
    let (_server, address) = serve(OURS)?;
    let dial = |address: &str, roots: &Path, name: &str| {
        ends.dial(&[
            "mtls-web-client",
            "--connect",
            address,
            "--roots",
            text(roots)?,
            "--name",
            name,
        ])
    };
    dial(&address, &other.root, HOST)?
        .expect_refusal()?
        .expect_mention("UnknownIssuer")?;
    dial(&address, &web.root, "elsewhere.example")?
        .expect_refusal()?
        .expect_mention("elsewhere.example")?;
    expect_hello(dial(&address, &web.root, HOST)?, HOST, OURS)?;

    let (mut strict, address) = serve(NOBODY)?;
    expect_no_greeting(dial(&address, &web.root, HOST)?)?;
    strict.wait_for_mention(&format!("unexpected ID \"{OURS}\""), SOON)?;
    Ok(())
}

/// Our program and the Go peer in one trust domain.
struct Ends<'a> {
    lab: &'a Lab,
    world: &'a World<'a>,
}

impl Ends<'_> {
    fn with(lab: &Lab, case: impl FnOnce(&Ends<'_>) -> Result<(), Trouble>) -> Result<(), Trouble> {
        World::with(lab, &entries(lab)?, |world| case(&Ends { lab, world }))
    }

    fn serve(&self, arguments: &[&str]) -> Result<(Process, String), Trouble> {
        let mut command = self.lab.ours()?.modes(arguments);
        command.args(["--listen", "127.0.0.1:0"]);
        listening(Process::spawn(arguments[0], self.world.workload(command))?)
    }

    fn dial(&self, arguments: &[&str]) -> Result<Finished, Trouble> {
        let command = self.world.workload(self.lab.ours()?.modes(arguments));
        Process::run(arguments[0], command, SOON)
    }

    fn go_serves(&self, arguments: &[&str]) -> Result<(Process, String), Trouble> {
        let arguments = [&["serve-as"], arguments].concat();
        let command = go::command(self.lab, self.world, &arguments)?;
        listening(Process::spawn("gopeer serve-as", command)?)
    }

    fn go_dials(&self, arguments: &[&str]) -> Result<Finished, Trouble> {
        go::run(self.lab, self.world, &[&["dial-as"], arguments].concat())
    }
}

fn listening(mut server: Process) -> Result<(Process, String), Trouble> {
    let address = server.wait_for_stdout("where it listens", SOON, ours::listening_address)?;
    Ok((server, address))
}

/// What the Go peer says when a server has answered it.
fn expect_greeting(dialled: Finished, server: &str, client: &str) -> Result<(), Trouble> {
    dialled
        .expect_success()?
        .expect_line(&format!("peer {server}"))?
        .expect_line(&format!("answer {}", ours::greeting(client)))?;
    Ok(())
}

/// What our client says when a server has answered it.
fn expect_hello(dialled: Finished, server: &str, client: &str) -> Result<(), Trouble> {
    dialled
        .expect_success()?
        .expect_line(&format!("hello from {server}"))?
        .expect_line(&ours::greeting(client))?;
    Ok(())
}

/// Under TLS 1.3 a client's own handshake is complete when the server refuses it: an alert tells, in place of an answer.
fn expect_no_greeting(dialled: Finished) -> Result<(), Trouble> {
    let refused = dialled.expect_refusal()?;
    ensure(!refused.mentions("hello, "), || {
        refused.describe("was refused and yet answered:")
    })
}

fn only(id: &str) -> String {
    format!("id:{id}")
}

/// A root of the Web PKI and a certificate for [`HOST`], in files.
struct Web {
    root: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Web {
    fn new(world: &World<'_>, name: &str) -> Result<Self, Trouble> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let root = KeyPair::generate()
            .and_then(|key| CertifiedIssuer::self_signed(params, key))
            .map_err(broken)?;
        let key = KeyPair::generate().map_err(broken)?;
        let certificate = CertificateParams::new([HOST.to_owned()])
            .and_then(|params| params.signed_by(&key, &root))
            .map_err(broken)?;
        let file = |what: &str, pem: String| -> Result<PathBuf, Trouble> {
            let path = world.folder().join(format!("{name}-{what}.pem"));
            fs::write(&path, pem)?;
            Ok(path)
        };
        Ok(Self {
            root: file("root", root.pem())?,
            certificate: file("certificate", certificate.pem())?,
            key: file("key", key.serialize_pem())?,
        })
    }
}

fn text(path: &Path) -> Result<&str, Trouble> {
    path.to_str()
        .ok_or_else(|| Trouble::failed("the temporary folder's name is not UTF-8"))
}

fn broken(error: rcgen::Error) -> Trouble {
    Trouble::Failed(format!("no certificate can be made: {error}"))
}
