//! Sessions that are resumed between our connections and other stacks', counted: by OpenSSL and Python with our server, by
//! our client with OpenSSL's.

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

/// Our client comes again and again to OpenSSL's server, which keeps sessions.
fn openssl_serves(lab: &Lab, version: &str) -> Result<(), Trouble> {
    World::with(lab, &go::entries(lab)?, |world| {
        go::write_files(lab, world, world.folder())?;
        let (mut server, address) = openssl_server(version, world.folder(), VISITS)?;
        let client = world.returning_client(&address, &format!("id:{PEER}"), VISITS)?;
        for _ in 0..VISITS {
            answer_hello(&mut server)?;
        }
        let visited = client.finish(SOON)?.expect_success()?;
        let greeted = visited
            .lines()
            .filter(|line| *line == ours::greeting(CLIENT))
            .count();
        ensure(greeted == VISITS, || {
            visited.describe("was greeted too seldom:")
        })?;
        let resumed = visited.facts("resumed").find_map(|fact| {
            let (resumed, of) = fact.split_once(" of ")?;
            (of == VISITS.to_string()).then_some(resumed.parse().ok()?)
        });
        expect_all_resumed(resumed.unwrap_or_default())?;
        // It asks for a client's SVID, and is the end of ours.
        server.finish(SOON)?.expect_success()?;
        Ok(())
    })
}

/// OpenSSL's server with the SVID in `svid.pem`, `key.pem` and `bundle.pem` of a folder, for so many connections.
///
/// # Errors
///
/// When it does not take connections.
pub(crate) fn openssl_server(
    version: &str,
    folder: &Path,
    connections: usize,
) -> Result<(Process, String), Trouble> {
    let address = free_address()?;
    let mut server = Command::new(program("openssl", "openssl")?);
    server
        .args(["s_server", version, "-accept", &address])
        .args(["-naccept", &connections.to_string()])
        .args(["-Verify", "3", "-verify_return_error", "-CAfile"])
        .arg(folder.join("bundle.pem"))
        .arg("-cert")
        .arg(folder.join("svid.pem"))
        .arg("-key")
        .arg(folder.join("key.pem"));
    let mut server = Process::spawn("openssl s_server", server)?;
    server.wait_for_mention("ACCEPT", SOON)?;
    Ok((server, address))
}

/// Waits for a client's line, and gives it the answer of a server, since OpenSSL's own says only what it is told.
///
/// # Errors
///
/// When no line comes in time.
pub(crate) fn answer_hello(server: &mut Process) -> Result<(), Trouble> {
    server.wait_for_stdout("the client's line", SOON, |line| {
        (line == ours::HELLO.trim_end()).then_some(())
    })?;
    server.send(&format!("{}\n", ours::greeting(CLIENT)))
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

/// A file of this package.
pub(crate) fn beside(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// An address on this machine that nobody listens on, for programs that cannot choose one themselves.
pub(crate) fn free_address() -> Result<String, Trouble> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    Ok(listener.local_addr()?.to_string())
}
