//! The same work in go-spiffe, the reference implementation: a small program of its own, in `peers/go`, that is built
//! when a row wants it and runs right after ours. Built with the feature `peers` alone.

use std::env;
use std::error::Error;
use std::fs;
use std::hint::black_box;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::time::Duration;

use base64ct::{Base64, Encoding};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use spiffe_core::key::KeyType;
use spiffe_core::verify::PeerRole;
use spiffe_core::{Bundle, BundleSet, SpiffeId, TrustDomain};
use spiffe_svid_ca::Csr;

use super::jwt::{AUDIENCE, Token};
use super::tls::{Pair, shake};
use super::verify::cold_verifier;
use super::{Measured, id};
use crate::Effort;
use crate::fixtures::{DNS_NAME, Domain, bundle, now, ready};
use crate::measure::{Contender, contender, in_turns};
use crate::report::{Budget, Row};

pub(crate) const ID: &str = "peers/go/id-parse";
pub(crate) const DOCUMENT: &str = "peers/go/bundle-parse-10";
pub(crate) const CHAIN: &str = "peers/go/x509-verify-chain2";
pub(crate) const ES256: &str = "peers/go/jwt-es256";
pub(crate) const ISSUE_SPKI: &str = "peers/go/issue-spki";
pub(crate) const ISSUE_CSR: &str = "peers/go/issue-csr";
pub(crate) const RS256: &str = "peers/go/jwt-rs256";
pub(crate) const HANDSHAKE: &str = "peers/go/handshake-200";
pub(crate) const HANDSHAKE_OVER_PLAIN: &str = "peers/go/handshake-200-over-plain";

/// An owned ID from 35 bytes; theirs is a view of what it was parsed from.
pub(crate) fn id_parse(effort: Effort) -> Measured {
    let ours = contender(|| SpiffeId::parse(black_box(id::ID)).is_ok());
    beside(effort, ID, "ns", ours, json!({"kind": "id", "id": id::ID}))
}

/// A SPIFFE bundle document of ten certificates.
pub(crate) fn bundle_parse(effort: Effort) -> Measured {
    let authorities = (0..10)
        .map(|_| Domain::new(NAME))
        .collect::<Result<Vec<_>, _>>()?;
    let document = bundle(NAME, &authorities.iter().collect::<Vec<_>>())?.to_spiffe_json();
    let name = TrustDomain::parse(NAME)?;
    let ours = contender(|| Bundle::from_spiffe_json(name.clone(), black_box(&document)));
    let work = json!({"kind": "bundle", "trust_domain": NAME, "bundle": document});
    beside(effort, DOCUMENT, "µs", ours, work)
}

/// A leaf and its intermediate on P-256 from DER, nothing remembered.
pub(crate) fn x509_verify(effort: Effort) -> Measured {
    let root = Domain::new(NAME)?;
    let svid = root.intermediate()?.svid("web")?;
    let trusted = bundle(NAME, &[&root])?;
    let chain: Vec<_> = svid
        .chain()
        .iter()
        .map(|der| Base64::encode_string(der))
        .collect();
    let work = json!({
        "kind": "x509",
        "trust_domain": NAME,
        "bundle": trusted.to_spiffe_json(),
        "chain": chain,
    });
    let bundles: BundleSet = [trusted].into_iter().collect();
    let (verifier, now) = (cold_verifier(), now());
    verifier.verify(svid.chain(), &bundles, now, PeerRole::Unspecified)?;
    let ours = contender(|| {
        verifier.verify(
            black_box(svid.chain()),
            &bundles,
            now,
            PeerRole::Unspecified,
        )
    });
    beside(effort, CHAIN, "µs", ours, work)
}

/// A leaf for a bare public key; `x509.CreateCertificate` checks its own signature besides.
pub(crate) fn issue_spki(effort: Effort) -> Measured {
    let (ca, params, public_key) = super::ca::bare_key()?;
    let now = now();
    let ours = contender(|| ready(ca.issue_x509(&params, black_box(&public_key), now)));
    let work = json!({"kind": "issue-spki", "der": Base64::encode_string(&public_key)});
    beside(effort, ISSUE_SPKI, "µs", ours, work)
}

/// A leaf from a signing request whose signature is checked.
pub(crate) fn issue_csr(effort: Effort) -> Measured {
    let (ca, params, _) = super::ca::bare_key()?;
    let now = now();
    let request = CertificateParams::default().serialize_request(&KeyPair::generate()?)?;
    let request: &[u8] = request.der();
    let ours = contender(|| {
        Csr::from_der(black_box(request), ca.key_policy(), &**ca.crypto())
            .map(|csr| ready(ca.issue_x509(&params, csr.public_key(), now)))
    });
    let work = json!({"kind": "issue-csr", "der": Base64::encode_string(request)});
    beside(effort, ISSUE_CSR, "µs", ours, work)
}

/// Both sides of mutual TLS among 200 trust domains: ours beside go-spiffe's, and go-spiffe's beside Go's own TLS with the
/// same certificates, which is the ratio to set beside `tls/handshake/200`.
pub(crate) fn handshake(effort: Effort) -> Measured {
    let pair = Pair::new(200)?;
    let (client, server) = (
        pair.client_side()?.client_config()?,
        pair.server_side()?.server_config()?,
    );
    let name = ServerName::try_from(DNS_NAME)?;
    let ours = contender(|| shake(&client, &server, &name).expect("one trust domain"));
    let work = |plain| json!({"kind": "handshake", "trust_domain": NAME, "trust_domains": 200, "plain": plain});
    let [ours] = in_turns(effort.span, [ours]);
    let theirs = in_go(effort.span, work(false))?;
    let plain = in_go(effort.span, work(true))?;
    Ok(vec![
        Row::new(
            HANDSHAKE,
            "µs",
            ours / 1e3,
            "go-spiffe 2.8.1",
            theirs / 1e3,
            Budget::Ratio(1.0),
        ),
        Row::new(
            HANDSHAKE_OVER_PLAIN,
            "µs",
            theirs / 1e3,
            "Go's TLS; go-spiffe stands for ours here",
            plain / 1e3,
            None,
        ),
    ])
}

pub(crate) fn jwt_es256(effort: Effort) -> Measured {
    jwt(effort, ES256, KeyType::EcP256)
}

pub(crate) fn jwt_rs256(effort: Effort) -> Measured {
    jwt(effort, RS256, KeyType::Rsa2048)
}

fn jwt(effort: Effort, row: &str, key_type: KeyType) -> Measured {
    let token = Token::new(key_type)?;
    let bundle = token.bundles.iter().next().ok_or("there is one bundle")?;
    let work = json!({
        "kind": "jwt",
        "trust_domain": NAME,
        "bundle": bundle.to_spiffe_json(),
        "token": token.token,
        "audience": AUDIENCE,
    });
    let ours = contender(|| black_box(&token).verify());
    beside(effort, row, "µs", ours, work)
}

fn beside(
    effort: Effort,
    row: &str,
    unit: &'static str,
    ours: Contender<'_>,
    work: Value,
) -> Measured {
    let [ours] = in_turns(effort.span, [ours]);
    let theirs = in_go(effort.span, work)?;
    let scale = if unit == "µs" { 1e3 } else { 1.0 };
    Ok(vec![Row::new(
        row,
        unit,
        ours / scale,
        if row.contains("/issue-") {
            "Go's x509.CreateCertificate"
        } else {
            "go-spiffe 2.8.1"
        },
        theirs / scale,
        Budget::Ratio(1.0),
    )])
}

/// What go-spiffe comes to: nanoseconds of CPU time, or bytes.
pub(super) fn in_go(span: Duration, mut work: Value) -> Result<f64, Box<dyn Error>> {
    work["span_ms"] = json!(span.as_millis() as u64);
    let folder = env::temp_dir().join(format!("spiffe-benches-{}", process::id()));
    fs::create_dir_all(&folder)?;
    let measured = run_in(&folder, &work);
    fs::remove_dir_all(&folder)?;
    measured
}

/// Builds the Go program into `folder`.
///
/// # Errors
///
/// Where Go is missing, or the program does not compile.
pub(crate) fn build(folder: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let program = folder.join("gobench");
    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/peers/go"))
        .env("CGO_ENABLED", "0")
        .env("GOWORK", "off")
        .status()
        .map_err(|error| format!("go, which these rows need: {error}"))?;
    if !built.success() {
        return Err("peers/go does not build".into());
    }
    Ok(program)
}

fn run_in(folder: &Path, work: &Value) -> Result<f64, Box<dyn Error>> {
    let program = build(folder)?;
    let mut child = Command::new(&program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    // It reads everything before it writes anything, so neither side waits for the other.
    let sent = child
        .stdin
        .take()
        .map(|mut stdin| stdin.write_all(work.to_string().as_bytes()));
    let output = child.wait_with_output()?;
    sent.transpose()?;
    if !output.status.success() {
        return Err("go-spiffe refuses what it should measure itself with".into());
    }
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    Ok(answer["value"].as_f64().ok_or("gobench gives no value")?)
}

const NAME: &str = "example.org";
