//! curl with an SVID as files against our HTTP server. It checks the DNS name in the server's SVID, so nothing is switched off.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Check;
use crate::go;
use crate::lab::{Lab, program};
use crate::outcome::{Trouble, ensure};
use crate::process::{Finished, Process};
use crate::world::{ANYONE_HERE, NOBODY, PEER, SERVER_NAME, SOON, World};

pub(crate) const CASES: &[(&str, Check)] = &[
    ("curl", an_svid_in_files_gets_an_answer),
    (
        "curl-not-authorized",
        an_svid_that_is_not_authorized_gets_none,
    ),
];

fn an_svid_in_files_gets_an_answer(lab: &Lab) -> Result<(), Trouble> {
    let curl = curl()?;
    World::with(lab, &go::entries(lab)?, |world| {
        go::write_files(lab, world, world.folder())?;
        let server = world.http_server(ANYONE_HERE)?;
        for versions in [&["--tls-max", "1.2"], &["--tlsv1.3", "--http1.1"]] {
            expect_our_id(get(&curl, &server.address, world.folder(), versions, true)?)?;
            expect_no_answer(get(
                &curl,
                &server.address,
                world.folder(),
                versions,
                false,
            )?)?;
        }
        Ok(())
    })
}

fn an_svid_that_is_not_authorized_gets_none(lab: &Lab) -> Result<(), Trouble> {
    let curl = curl()?;
    World::with(lab, &go::entries(lab)?, |world| {
        go::write_files(lab, world, world.folder())?;
        let strict = world.http_server(&format!("id:{NOBODY}"))?;
        expect_no_answer(get(&curl, &strict.address, world.folder(), &[], true)?)?;
        let open = world.http_server(&format!("id:{PEER}"))?;
        expect_our_id(get(&curl, &open.address, world.folder(), &[], true)?)
    })
}

pub(crate) fn expect_our_id(answer: Finished) -> Result<(), Trouble> {
    answer
        .expect_success()?
        .expect_line("status 200")?
        .expect_mention(PEER)?;
    Ok(())
}

pub(crate) fn expect_no_answer(answer: Finished) -> Result<(), Trouble> {
    let answer = answer.expect_refusal()?.expect_line("status 000")?;
    // A refusal inside TLS, or the reset that follows one; not a name that did not resolve or a certificate of ours curl dislikes.
    let tls = matches!(
        answer.status.code(),
        Some(CONNECT_ERROR | EMPTY_REPLY | SEND_ERROR | RECEIVE_ERROR | CLIENT_CERTIFICATE)
    );
    ensure(tls, || answer.describe("failed for another reason:"))
}

pub(crate) fn get(
    curl: &Path,
    address: &str,
    folder: &Path,
    options: &[&str],
    with_svid: bool,
) -> Result<Finished, Trouble> {
    let Some((host, port)) = address.rsplit_once(':') else {
        return Err(Trouble::Failed(format!("`{address}` is no address")));
    };
    let mut command = Command::new(curl);
    command
        .args([
            "--disable",
            "--silent",
            "--show-error",
            "--noproxy",
            "*",
            "--max-time",
            "20",
        ])
        .args(["--write-out", "\nstatus %{http_code}\n", "--cacert"])
        .arg(folder.join("bundle.pem"))
        .args(["--resolve", &format!("{SERVER_NAME}:{port}:{host}")])
        .args(options);
    if with_svid {
        command
            .arg("--cert")
            .arg(folder.join("svid.pem"))
            .arg("--key")
            .arg(folder.join("key.pem"));
    }
    command.arg(format!("https://{SERVER_NAME}:{port}/"));
    Process::run("curl", command, SOON)
}

pub(crate) fn curl() -> Result<PathBuf, Trouble> {
    program("curl", "curl")
}

// curl's exit codes, by their names in its manual. Under TLS 1.3 the refusal reaches the client after its own handshake,
// so which of these it is depends on timing.
const CONNECT_ERROR: i32 = 35;
const EMPTY_REPLY: i32 = 52;
const SEND_ERROR: i32 = 55;
const RECEIVE_ERROR: i32 = 56;
/// The server wants a client certificate, or does not like the one it got.
const CLIENT_CERTIFICATE: i32 = 98;
