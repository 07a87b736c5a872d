//! A refusal: what the peer is told, what the log of the side that refuses says, and what its caller gets.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::cell::RefCell;
use std::fmt::Debug;
use std::sync::{Arc, Once};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, ExtendedKeyUsagePurpose,
    IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, RevokedCertParams,
    SanType, SerialNumber,
};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, ClientConfig, ServerConfig, SupportedProtocolVersion};
use spiffe_tls::spiffe_core::bundle::{X509Authorities, X509Authority};
use spiffe_tls::spiffe_core::verify::Revocations;
use spiffe_tls::spiffe_core::{Bundle, BundleSet, TrustDomain};
use spiffe_tls::{HandshakeError, Mtls, Policy, Publisher, Terms, rustls};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tracing::field::{Field, Visit};
use tracing::span;

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// A peer of another make, which presents whatever it is given and believes everybody.
#[derive(Clone)]
struct Foreign {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Foreign {
    fn certified(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (self.chain.clone(), self.key.clone().try_into().unwrap())
    }

    fn client(&self, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
        let (chain, key) = self.certified();
        let provider = Arc::new(default_provider());
        let signer = provider.key_provider.load_private_key(key).unwrap();
        let resolver = rustls::sign::SingleCertAndKey::from(CertifiedKey::new(chain, signer));
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous(Vec::new())))
            .with_client_cert_resolver(Arc::new(resolver));
        Arc::new(config)
    }

    fn server(&self, version: &'static SupportedProtocolVersion) -> Arc<ServerConfig> {
        let (chain, key) = self.certified();
        let provider = Arc::new(default_provider());
        let signer = provider.key_provider.load_private_key(key).unwrap();
        let resolver = rustls::sign::SingleCertAndKey::from(CertifiedKey::new(chain, signer));
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(resolver));
        Arc::new(config)
    }
}

/// A leaf as `change` makes it, signed by `by`.
fn leaf(by: &Domain, change: impl FnOnce(&mut CertificateParams)) -> Foreign {
    let at = |offset| time::OffsetDateTime::from_unix_timestamp(START.unix_seconds() + offset);
    let mut params = CertificateParams::default();
    params.not_before = at(-60).unwrap();
    params.not_after = at(600).unwrap();
    params.serial_number = Some(SerialNumber::from(5_u64));
    params.subject_alt_names = vec![SanType::URI("spiffe://theirs/peer".try_into().unwrap())];
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    change(&mut params);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let leaf = params.signed_by(&key, by.issuer()).unwrap();
    Foreign {
        chain: vec![leaf.der().clone()],
        key: key.serialize_der(),
    }
}

/// A cause of refusal: the peer, and what this side trusts and demands.
struct Cause {
    peer: Foreign,
    trusted: BundleSet,
    terms: Terms,
}

const CAUSES: [(&str, AlertDescription); 14] = [
    ("policy", AlertDescription::AccessDenied),
    ("x509-trust-domain-unknown", AlertDescription::UnknownCA),
    ("no authorities", AlertDescription::UnknownCA),
    ("untrusted", AlertDescription::UnknownCA),
    ("wrong signature", AlertDescription::BadCertificate),
    ("no certificate at all", AlertDescription::BadCertificate),
    ("expired", AlertDescription::CertificateExpired),
    ("not yet valid", AlertDescription::CertificateExpired),
    ("revoked", AlertDescription::CertificateRevoked),
    ("another purpose", AlertDescription::UnsupportedCertificate),
    ("no URI", AlertDescription::CertificateUnknown),
    ("two URIs", AlertDescription::CertificateUnknown),
    ("a CA", AlertDescription::CertificateUnknown),
    ("tainted", AlertDescription::CertificateUnknown),
];

fn cause(name: &str, own: &Domain, theirs: &Domain) -> Cause {
    let at = |offset| time::OffsetDateTime::from_unix_timestamp(START.unix_seconds() + offset);
    let good = || leaf(theirs, |_| {});
    let mut cause = Cause {
        peer: good(),
        trusted: bundles(&[own, theirs]),
        terms: Terms::new("domain:theirs".parse::<Policy>().unwrap()),
    };
    let domain = || TrustDomain::parse("theirs").unwrap();
    match name {
        "good" => {}
        "policy" => cause.terms = Terms::new("domain:own".parse::<Policy>().unwrap()),
        "x509-trust-domain-unknown" => cause.trusted = bundles(&[own]),
        "no authorities" => {
            cause.trusted = [own.bundle(), Bundle::new(domain())].into_iter().collect();
        }
        "untrusted" => cause.peer = leaf(own, |_| {}),
        // Another authority of the same name.
        "wrong signature" => {
            cause.peer = leaf(&Domain::new("theirs"), |params| {
                params.use_authority_key_identifier_extension = false;
            });
        }
        "no certificate at all" => cause.peer.chain = vec![vec![0x30, 3, 2, 1, 1].into()],
        "expired" => cause.peer = leaf(theirs, |params| params.not_after = at(-1).unwrap()),
        "not yet valid" => cause.peer = leaf(theirs, |params| params.not_before = at(1).unwrap()),
        "revoked" => cause.terms.revoke(revoking(theirs)),
        "another purpose" => {
            cause.peer = leaf(theirs, |params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
            });
        }
        "no URI" => {
            cause.peer = leaf(theirs, |params| {
                let name = "peer.example".try_into().unwrap();
                params.subject_alt_names = vec![SanType::DnsName(name)];
            });
        }
        "two URIs" => {
            cause.peer = leaf(theirs, |params| {
                let second = "spiffe://theirs/second".try_into().unwrap();
                params.subject_alt_names.push(SanType::URI(second));
            });
        }
        "a CA" => {
            cause.peer = leaf(theirs, |params| {
                params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                params.key_usages.push(KeyUsagePurpose::KeyCertSign);
            });
        }
        "tainted" => {
            let authority = X509Authority::from_der(theirs.certificate()).unwrap();
            let authorities: X509Authorities = [authority.into_tainted()].into_iter().collect();
            let tainted = Bundle::new(domain()).with_x509_authorities(authorities);
            cause.trusted = [own.bundle(), tainted].into_iter().collect();
            cause.terms.refuse_tainted(true);
        }
        other => panic!("{other}"),
    }
    cause
}

fn revoking(by: &Domain) -> Revocations {
    let at = |offset| time::OffsetDateTime::from_unix_timestamp(START.unix_seconds() + offset);
    let list = CertificateRevocationListParams {
        this_update: at(-60).unwrap(),
        next_update: at(86_400).unwrap(),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from(5_u64),
            revocation_time: at(-30).unwrap(),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let signed = list.signed_by(by.issuer()).unwrap();
    let der = CertificateRevocationListDer::from(signed.der().to_vec());
    Revocations::from_der([der])
}

/// The side that judges, against the cause's peer: what its caller gets, and what the peer was told, if it was.
async fn meet(
    cause: &Cause,
    own: &Domain,
    server_judges: bool,
    version: &'static SupportedProtocolVersion,
) -> (Result<(), HandshakeError>, Option<AlertDescription>) {
    let source = Publisher::fixed([own.svid("me", 600)], cause.trusted.clone());
    let ours = Mtls::new(&source, cause.terms.clone()).clock(Arc::new(HandClock::default()));
    let (near, far) = tokio::io::duplex(64 * 1024);
    let told = |error: std::io::Error| match error.get_ref().and_then(|inner| inner.downcast_ref())
    {
        Some(rustls::Error::AlertReceived(alert)) => *alert,
        _ => panic!("the peer is told by an alert, and nothing else: {error}"),
    };
    if server_judges {
        let acceptor = ours.acceptor().unwrap();
        let foreign = tokio_rustls::TlsConnector::from(cause.peer.client(version));
        let client = async {
            let name = "server.invalid".try_into().unwrap();
            let mut stream = foreign.connect(name, near).await?;
            let mut text = Vec::new();
            stream.read_to_end(&mut text).await?;
            assert_eq!(text, b"hello");
            Ok(())
        };
        let server = async {
            let mut stream = acceptor.accept(far).await?;
            stream.write_all(b"hello").await.unwrap();
            stream.shutdown().await.unwrap();
            // Open until the peer is done.
            Ok(stream)
        };
        let (client, server): (std::io::Result<()>, _) = tokio::join!(client, server);
        (server.map(drop), client.err().map(told))
    } else {
        let connector = ours.connector().unwrap();
        let foreign = tokio_rustls::TlsAcceptor::from(cause.peer.server(version));
        let server = async {
            let mut stream = foreign.accept(far).await?;
            let mut text = Vec::new();
            stream.read_to_end(&mut text).await?;
            assert_eq!(text, b"hello");
            Ok(())
        };
        let client = async {
            let mut stream = connector.connect(near).await?;
            stream.write_all(b"hello").await.unwrap();
            stream.shutdown().await.unwrap();
            // Open until the peer is done.
            Ok(stream)
        };
        let (client, server): (_, std::io::Result<()>) = tokio::join!(client, server);
        (client.map(drop), server.err().map(told))
    }
}

#[tokio::test]
async fn every_cause_of_refusal_has_its_alert_in_both_roles_and_versions() {
    listen();
    let (own, theirs) = (Domain::new("own"), Domain::new("theirs"));
    for version in VERSIONS {
        for server_judges in [true, false] {
            let good = cause("good", &own, &theirs);
            let (judged, told) = meet(&good, &own, server_judges, version).await;
            assert!(judged.is_ok() && told.is_none(), "{judged:?} {told:?}");
            for (name, alert) in CAUSES {
                let bad = cause(name, &own, &theirs);
                let (judged, told) = meet(&bad, &own, server_judges, version).await;
                let error = judged.unwrap_err();
                let refusal = error.refusal().unwrap_or_else(|| panic!("{name}: {error}"));
                let at = format!("{name}, {version:?}, server judges: {server_judges}: {error}");
                assert_eq!(told, Some(alert), "{at}");
                assert!(refusal.explain().first_failure().is_some(), "{at}");
            }
        }
    }
}

thread_local! {
    /// What has been logged on this thread, one line for each event.
    static LOG: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Begins to note what is logged on this thread. Every test does so, and the first of them for all: who is to hear of an
/// event is settled when any thread comes to it for the first time.
fn listen() {
    static FIRST: Once = Once::new();
    FIRST.call_once(|| tracing::subscriber::set_global_default(ByThread).unwrap());
    LOG.take();
}

struct ByThread;

impl tracing::Subscriber for ByThread {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("spiffe_tls")
    }

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        LOG.with_borrow_mut(|log| log.push(line.0));
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0 += &format!(" {}={value:?}", field.name());
    }
}

#[tokio::test]
async fn the_side_that_refuses_logs_the_rule_once_and_who_is_let_in_is_not_logged() {
    let (own, theirs) = (Domain::new("own"), Domain::new("theirs"));
    for server_judges in [true, false] {
        listen();
        let good = cause("good", &own, &theirs);
        let (judged, _) = meet(&good, &own, server_judges, &TLS13).await;
        judged.unwrap();
        assert_eq!(LOG.take(), Vec::<String>::new());
        let denied = cause("policy", &own, &theirs);
        let (judged, _) = meet(&denied, &own, server_judges, &TLS13).await;
        let lines = LOG.take();
        let [line] = &lines[..] else {
            panic!("{lines:#?}")
        };
        assert!(line.starts_with("INFO "), "{line}");
        assert!(line.contains("rule=\"not-authorized\""), "{line}");
        assert!(line.contains(&judged.unwrap_err().to_string()), "{line}");
    }
}

#[tokio::test]
async fn a_plain_configuration_gives_one_line_and_logs_the_reason() {
    listen();
    let (own, theirs) = (Domain::new("own"), Domain::new("theirs"));
    for name in ["policy", "two URIs"] {
        let cause = cause(name, &own, &theirs);
        let source = Publisher::fixed([own.svid("me", 600)], cause.trusted.clone());
        let config = Mtls::new(&source, cause.terms.clone())
            .clock(Arc::new(HandClock::default()))
            .client_config()
            .unwrap();
        LOG.take();
        let (near, far) = tokio::io::duplex(64 * 1024);
        let foreign = tokio_rustls::TlsAcceptor::from(cause.peer.server(&TLS13));
        let connector = tokio_rustls::TlsConnector::from(config);
        let server_name = "server.invalid".try_into().unwrap();
        let (near, _) = tokio::join!(connector.connect(server_name, near), foreign.accept(far));
        let text = near.unwrap_err().to_string();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert_eq!(LOG.take().len(), 1);
    }
}
