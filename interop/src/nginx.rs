//! nginx with the files of `spiffe ca`, and curl as its client: the two commands from nothing to mutual TLS.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::Check;
use crate::lab::{Lab, program, short_temporary_folder};
use crate::outcome::Trouble;
use crate::process::{Finished, Process};
use crate::world::SOON;

pub(crate) const CASES: &[(&str, Check)] =
    &[("nginx", nginx_and_curl_take_the_files_of_two_commands)];

fn nginx_and_curl_take_the_files_of_two_commands(lab: &Lab) -> Result<(), Trouble> {
    let (nginx, curl) = (program("nginx", "nginx-light")?, program("curl", "curl")?);
    let place = short_temporary_folder()?;
    let folder = place.path();
    let ca = |state: &str, arguments: &[&str]| -> Result<(), Trouble> {
        let mut command = lab.ours()?.ca(&folder.join(state), arguments);
        command.current_dir(folder);
        Process::run("spiffe ca", command, SOON)?.expect_success()?;
        Ok(())
    };
    ca("ca", &["init", "example.org"])?;
    let server = ["--dns", "web.example.org", "--out", "server"];
    ca(
        "ca",
        &[&["issue", "spiffe://example.org/web"], &server[..]].concat(),
    )?;
    ca(
        "ca",
        &["issue", "spiffe://example.org/client", "--out", "client"],
    )?;
    // Another trust domain of the same name: only the keys differ.
    ca("other", &["init", "example.org"])?;
    ca(
        "other",
        &["issue", "spiffe://example.org/client", "--out", "stranger"],
    )?;

    fs::write(folder.join("nginx.conf"), CONFIGURATION)?;
    let mut serve = Command::new(nginx);
    serve
        .arg("-p")
        .arg(folder)
        .args(["-c", "nginx.conf", "-e", "stderr"]);
    serve.current_dir(folder);
    let mut server = Process::lead("nginx", serve)?;
    // Said once it listens.
    server.wait_for_mention("event method", SOON)?;
    let ask = |identity: Option<&str>| ask(&curl, folder, identity);
    ask(Some("client"))?
        .expect_success()?
        .expect_line("verified SUCCESS")?;
    ask(None)?.expect_refusal()?.expect_mention("400")?;
    ask(Some("stranger"))?
        .expect_refusal()?
        .expect_mention("400")?;
    server.interrupt()?;
    server.finish(SOON)?.expect_success()?;
    Ok(())
}

/// One request for the DNS name in the server's SVID.
fn ask(curl: &Path, folder: &Path, identity: Option<&str>) -> Result<Finished, Trouble> {
    let mut command = Command::new(curl);
    command
        .args([
            "--silent",
            "--show-error",
            "--fail",
            "--cacert",
            "client/bundle.pem",
        ])
        .args(["--unix-socket", "s", "https://web.example.org/"])
        .current_dir(folder);
    if let Some(identity) = identity {
        command
            .arg("--cert")
            .arg(format!("{identity}/svid.pem"))
            .arg("--key")
            .arg(format!("{identity}/key.pem"));
    }
    Process::run("curl", command, SOON)
}

const CONFIGURATION: &str = "\
daemon off;
master_process off;
pid nginx.pid;
error_log stderr notice;
events {}
http {
    access_log off;
    client_body_temp_path t1;
    proxy_temp_path t2;
    fastcgi_temp_path t3;
    uwsgi_temp_path t4;
    scgi_temp_path t5;
    server {
        listen unix:s ssl;
        server_name web.example.org;
        ssl_certificate server/svid.pem;
        ssl_certificate_key server/key.pem;
        ssl_client_certificate server/bundle.pem;
        ssl_verify_client on;
        location / {
            return 200 \"verified $ssl_client_verify\\n\";
        }
    }
}
";
