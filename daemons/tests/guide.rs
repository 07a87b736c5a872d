//! The guide to the tool: every command on the page is run where the page says, and prints what the page shows.
//! `UPDATE_DOCS=1` makes the example files and the page's outputs anew.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fixtures;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64ct::{Base64, Encoding};
use fixtures::{AT_SECONDS, authority, certificate, intermediate, jwk, leaf, private_key, token};
use rcgen::KeyPair;
use serde_json::json;

fn guides() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guides")
}

/// What a shell prints for `command` where the example files are, on both streams.
fn output(command: &str) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_spiffe"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(program.parent().unwrap().to_owned());
    let path = std::env::join_paths(folders.chain(std::env::split_paths(&path))).unwrap();
    let output = Command::new("sh")
        .args(["-c", &format!("exec 2>&1\n{command}")])
        .current_dir(guides().join("tool"))
        .env("PATH", path)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The page with the output of every command in its `console` blocks as it is now.
fn replayed(page: &str) -> String {
    let mut out = String::new();
    let mut lines = page.lines().peekable();
    let mut in_console = false;
    while let Some(line) = lines.next() {
        out += &format!("{line}\n");
        if line.starts_with("```") {
            in_console = line == "```console";
        }
        let Some(command) = line.strip_prefix("$ ").filter(|_| in_console) else {
            continue;
        };
        let mut command = command.to_owned();
        while command.ends_with('\\') {
            let more = lines.next().unwrap();
            out += &format!("{more}\n");
            command += &format!("\n{more}");
        }
        out += &output(&command);
        while lines
            .next_if(|shown| !shown.starts_with("$ ") && *shown != "```")
            .is_some()
        {}
    }
    out
}

fn make_files() {
    let folder = guides().join("tool");
    fs::create_dir_all(&folder).unwrap();
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    let (root, next) = (authority("example.org"), authority("example.org, next"));
    let middle = intermediate("issuing", &root);
    let (svid, key) = leaf("spiffe://example.org/ns/prod/web", &middle);
    write(
        "chain.pem",
        &(certificate(svid.der()) + &certificate(middle.der())),
    );
    write("key.pem", &private_key(&key));
    let signer = KeyPair::generate().unwrap();
    let claims = json!({
        "sub": "spiffe://example.org/ns/prod/web", "aud": ["reports"], "exp": AT_SECONDS + 300,
    });
    write("token.jwt", &token(&signer, &claims));
    let x509 =
        |der: &[u8]| json!({"kty": "EC", "use": "x509-svid", "x5c": [Base64::encode_string(der)]});
    let document = |keys: serde_json::Value, sequence: u64| {
        let text = json!({"keys": keys, "spiffe_sequence": sequence, "spiffe_refresh_hint": 300});
        format!("{text:#}\n")
    };
    let jwt = jwk(&signer, Some("jwt-svid"));
    let odd = json!({"kty": "AKP", "use": "jwt-svid", "kid": "k2"});
    let bundle = json!([x509(root.der()), jwt, odd]);
    write("bundle.json", &document(bundle, 7));
    let later = json!([x509(root.der()), x509(next.der()), jwt]);
    write("later.json", &document(later, 8));
}

#[test]
fn every_command_of_the_guide_prints_what_it_shows() {
    let path = guides().join("tool.md");
    let page = fs::read_to_string(&path).unwrap();
    assert!(
        page.matches("\n$ spiffe").count() > 10,
        "commands are found"
    );
    if std::env::var_os("UPDATE_DOCS").is_some() {
        make_files();
        fs::write(&path, replayed(&page)).unwrap();
        return;
    }
    let now = replayed(&page);
    for (line, (shown, printed)) in page.lines().zip(now.lines()).enumerate() {
        assert_eq!(
            shown,
            printed,
            "line {}; UPDATE_DOCS=1 writes the page anew",
            line + 1
        );
    }
    assert_eq!(page, now, "UPDATE_DOCS=1 writes the page anew");
}
