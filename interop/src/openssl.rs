//! The openssl command line: its verdict on the chains we issue under its strictest rules, and TLS 1.2 and 1.3 against our server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Check;
use crate::go;
use crate::lab::{Lab, program};
use crate::ours;
use crate::outcome::{Trouble, ensure};
use crate::process::{Finished, Process};
use crate::world::{ANYONE_HERE, PEER, SERVER, SERVER_NAME, SOON, World};

pub(crate) const CASES: &[(&str, Check)] = &[
    ("openssl-verify", strict_rules_hold_for_what_we_issue),
    ("openssl-tls12", |lab| handshakes(lab, "-tls1_2", "TLSv1.2")),
    ("openssl-tls13", |lab| handshakes(lab, "-tls1_3", "TLSv1.3")),
];

fn strict_rules_hold_for_what_we_issue(lab: &Lab) -> Result<(), Trouble> {
    let openssl = openssl()?;
    let entries = go::entries(lab)?;
    World::with(lab, &entries, |world| {
        go::write_files(lab, world, world.folder())?;
        let svid = world.folder().join("svid.pem");
        verify_strictly(&world.folder().join("bundle.pem"), &svid)?;
        let mut show = Command::new(&openssl);
        show.args(["x509", "-noout", "-ext", "subjectAltName", "-in"])
            .arg(&svid);
        Process::run("openssl x509", show, SOON)?
            .expect_success()?
            .expect_mention(&format!("URI:{PEER}"))?;

        // Another trust domain of the same name: only the keys differ.
        World::with(lab, &entries, |other| {
            go::write_files(lab, other, other.folder())?;
            verify(
                &openssl,
                "sslserver",
                &other.folder().join("bundle.pem"),
                &svid,
            )?
            .expect_refusal()?
            .expect_mention("verification failed")?;
            Ok(())
        })
    })
}

fn handshakes(lab: &Lab, version: &str, name: &str) -> Result<(), Trouble> {
    let openssl = openssl()?;
    World::with(lab, &go::entries(lab)?, |world| {
        let folder = world.folder();
        go::write_files(lab, world, folder)?;
        let mut server = world.server(ANYONE_HERE)?;

        let mut with_svid = s_client_with_svid(&openssl, version, &server.address, folder);
        let intermediates = folder.join("intermediates.pem");
        if intermediates.exists() {
            with_svid.arg("-cert_chain").arg(intermediates);
        }
        let mut client = Process::spawn("openssl s_client", with_svid)?;
        client.send(ours::HELLO)?;
        // OpenSSL takes an end without close_notify for an error, which Go does not.
        let greeted = client
            .finish(SOON)?
            .expect_success()?
            .expect_line("Verification: OK")?
            // Not a line of its own: s_client writes what it received past its buffer of session tickets.
            .expect_mention(&ours::greeting(PEER))?
            .expect_mention(&format!("New, {name}"))?;
        expect_server_leaf(&openssl, folder, &greeted)?;
        server.process.wait_for_mention(PEER, SOON)?;

        // Says nothing, so that the alert is not lost to a reset; it is the server who ends this.
        let without = s_client(&openssl, version, &server.address, folder);
        let refused = Process::spawn("openssl s_client without a certificate", without)?
            .finish(SOON)?
            .expect_mention("alert")?;
        ensure(!refused.mentions("hello,"), || {
            refused.describe("was answered without a certificate:")
        })
    })
}

/// The first certificate that `-showcerts` printed is the server's leaf.
///
/// # Errors
///
/// When it is another, or none was printed.
pub(crate) fn expect_server_leaf(
    openssl: &Path,
    folder: &Path,
    shown: &Finished,
) -> Result<(), Trouble> {
    let mut leaf = String::new();
    let from = shown
        .stdout
        .iter()
        .skip_while(|line| !line.contains("BEGIN CERTIFICATE"));
    for line in from {
        leaf.push_str(line);
        leaf.push('\n');
        if line.contains("END CERTIFICATE") {
            break;
        }
    }
    let file = folder.join("shown.pem");
    fs::write(&file, leaf)?;
    let mut show = Command::new(openssl);
    show.args(["x509", "-noout", "-ext", "subjectAltName", "-in"])
        .arg(file);
    Process::run("openssl x509", show, SOON)?
        .expect_success()?
        .expect_mention(&format!("URI:{SERVER}"))?
        .expect_mention(&format!("DNS:{SERVER_NAME}"))?;
    Ok(())
}

/// What we issued, under OpenSSL's strictest rules, for both roles.
///
/// # Errors
///
/// When it is not accepted.
pub(crate) fn verify_strictly(bundle: &Path, svid: &Path) -> Result<(), Trouble> {
    let openssl = openssl()?;
    for purpose in ["sslserver", "sslclient"] {
        verify(&openssl, purpose, bundle, svid)?
            .expect_success()?
            .expect_line(&format!("{}: OK", svid.display()))?;
    }
    Ok(())
}

fn verify(openssl: &Path, purpose: &str, bundle: &Path, svid: &Path) -> Result<Finished, Trouble> {
    let mut command = Command::new(openssl);
    command
        .args([
            "verify",
            "-x509_strict",
            "-purpose",
            purpose,
            "-no-CApath",
            "-no-CAstore",
            "-CAfile",
        ])
        .arg(bundle)
        .arg("-untrusted")
        .args([svid, svid]);
    Process::run("openssl verify", command, SOON)
}

/// OpenSSL's client with the SVID in `svid.pem`, `key.pem` and `bundle.pem` of a folder; it prints what the server shows.
pub(crate) fn s_client_with_svid(
    openssl: &Path,
    version: &str,
    address: &str,
    folder: &Path,
) -> Command {
    let mut command = s_client(openssl, version, address, folder);
    command
        .arg("-cert")
        .arg(folder.join("svid.pem"))
        .arg("-key")
        .arg(folder.join("key.pem"));
    command
}

fn s_client(openssl: &Path, version: &str, address: &str, folder: &Path) -> Command {
    let mut command = Command::new(openssl);
    command
        .args(["s_client", "-showcerts", version, "-connect", address])
        .args(["-servername", SERVER_NAME, "-verify_hostname", SERVER_NAME])
        .args([
            "-verify_return_error",
            "-x509_strict",
            "-no-CApath",
            "-no-CAstore",
            "-CAfile",
        ])
        .arg(folder.join("bundle.pem"));
    command
}

/// The program itself.
///
/// # Errors
///
/// When it is missing and stays so.
pub(crate) fn openssl() -> Result<PathBuf, Trouble> {
    program("openssl", "openssl")
}
