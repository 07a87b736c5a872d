//! Trust domains made with rcgen, a clock that is set by hand, and handshakes over a pipe in memory.
#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "shared by test programs, each of which uses its own part"
)]

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, RevokedCertParams, SanType, SerialNumber,
};
use spiffe_tls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use spiffe_tls::rustls::crypto::aws_lc_rs::default_provider;
use spiffe_tls::rustls::pki_types::{ServerName, UnixTime};
use spiffe_tls::rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, DistinguishedName as SubjectName, Error,
    ServerConfig, ServerConnection, SignatureScheme,
};
use spiffe_tls::spiffe_core::bundle::X509Authorities;
use spiffe_tls::spiffe_core::crypto::aws_lc_rs;
use spiffe_tls::spiffe_core::key::PrivateKey;
use spiffe_tls::spiffe_core::pki_types::{CertificateDer, CertificateRevocationListDer};
use spiffe_tls::spiffe_core::verify::Revocations;
use spiffe_tls::spiffe_core::{
    BoxFuture, Bundle, BundleSet, Clock, Timestamp, TrustDomain, X509Svid,
};
use spiffe_tls::{Acceptor, Connector, HandshakeError, TlsStream};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

pub const START: Timestamp = Timestamp::from_unix_seconds(1_795_000_000);

/// One trust domain's authority.
pub struct Domain {
    pub name: String,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

fn window(params: &mut CertificateParams, seconds: i64) {
    let at = |offset| time::OffsetDateTime::from_unix_timestamp(START.unix_seconds() + offset);
    params.not_before = at(-60).unwrap();
    params.not_after = at(seconds).unwrap();
    params.use_authority_key_identifier_extension = true;
    params.distinguished_name = DistinguishedName::new();
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    window(&mut params, 86_400);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

impl Domain {
    pub fn new(name: &str) -> Self {
        let params = authority(name);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        Self {
            name: name.into(),
            issuer: CertifiedIssuer::self_signed(params, key).unwrap(),
        }
    }

    /// An SVID that is valid for so many seconds after [`START`].
    pub fn svid(&self, path: &str, seconds: i64) -> X509Svid {
        self.forge(&format!("spiffe://{}/{path}", self.name), seconds)
    }

    /// An SVID of any name, signed by this domain's authority.
    pub fn forge(&self, id: &str, seconds: i64) -> X509Svid {
        let mut params = CertificateParams::default();
        window(&mut params, seconds);
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let private = PrivateKey::from_pkcs8_der(key.serialize_der());
        X509Svid::new(vec![leaf.der().clone()], private, &*aws_lc_rs()).unwrap()
    }

    /// A certificate of the Web PKI for a DNS name, signed by this domain's authority, and its key.
    pub fn web(&self, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKey) {
        let mut params = CertificateParams::default();
        window(&mut params, 600);
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let private = PrivateKey::from_pkcs8_der(key.serialize_der());
        (vec![leaf.der().clone()], private)
    }

    /// The authority's certificate.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// The authority, to sign with.
    pub fn issuer(&self) -> &CertifiedIssuer<'static, KeyPair> {
        &self.issuer
    }

    /// Another certificate of the same name and key.
    pub fn renewed(&self) -> CertificateDer<'static> {
        let mut params = authority(&self.name);
        params.serial_number = Some(77_u64.into());
        let key = KeyPair::try_from(self.issuer.key().serialize_der()).unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    pub fn bundle(&self) -> Bundle {
        Bundle::new(TrustDomain::parse(&self.name).unwrap()).with_x509_authorities(
            X509Authorities::from_certificates([self.issuer.der().clone()]),
        )
    }
}

pub fn bundles(of: &[&Domain]) -> BundleSet {
    of.iter().map(|domain| domain.bundle()).collect()
}

/// A list of a domain's that revokes this serial number.
pub fn revoking(domain: &Domain, serial: &[u8]) -> Revocations {
    Revocations::from_der([list(domain, serial)])
}

/// The same in DER.
pub fn list(domain: &Domain, serial: &[u8]) -> CertificateRevocationListDer<'static> {
    let at =
        |offset| time::OffsetDateTime::from_unix_timestamp(START.unix_seconds() + offset).unwrap();
    let params = CertificateRevocationListParams {
        this_update: at(-60),
        next_update: at(86_400),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: at(-60),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let der = params.signed_by(domain.issuer()).unwrap().der().to_vec();
    CertificateRevocationListDer::from(der)
}

/// Time that passes when the test says so.
#[derive(Clone, Debug, Default)]
pub struct HandClock {
    state: Arc<Mutex<Passed>>,
    /// How far the calendar has been set forward.
    set: Arc<Mutex<Duration>>,
}

#[derive(Debug, Default)]
struct Passed {
    time: Duration,
    /// Who sleeps, by number.
    sleepers: BTreeMap<u64, Waker>,
    numbers: u64,
}

impl HandClock {
    pub fn advance(&self, span: Duration) {
        let mut state = self.state.lock().unwrap();
        state.time += span;
        for waker in state.sleepers.values() {
            waker.wake_by_ref();
        }
    }

    /// Sets the calendar, while the monotonic clock stays.
    pub fn set_forward(&self, span: Duration) {
        *self.set.lock().unwrap() += span;
    }

    /// How many sleep now.
    pub fn sleepers(&self) -> usize {
        self.state.lock().unwrap().sleepers.len()
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        START + self.monotonic() + *self.set.lock().unwrap()
    }

    fn monotonic(&self) -> Duration {
        self.state.lock().unwrap().time
    }

    fn sleep_until(&self, deadline: Duration) -> BoxFuture<'static, ()> {
        let mut state = self.state.lock().unwrap();
        state.numbers += 1;
        Box::pin(Sleep {
            state: self.state.clone(),
            number: state.numbers,
            deadline,
        })
    }
}

struct Sleep {
    state: Arc<Mutex<Passed>>,
    number: u64,
    deadline: Duration,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock().unwrap();
        if state.time >= self.deadline {
            state.sleepers.remove(&self.number);
            return Poll::Ready(());
        }
        state.sleepers.insert(self.number, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.state.lock().unwrap().sleepers.remove(&self.number);
    }
}

pub type Ended = Result<TlsStream<DuplexStream>, HandshakeError>;

/// One handshake over a pipe in memory: what the client and the server made of it.
pub async fn shake(connector: &Connector, acceptor: &Acceptor) -> (Ended, Ended) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    tokio::join!(connector.connect(near), acceptor.accept(far))
}

/// A transport that performs a whole handshake of its own, with other peers, before each write.
pub struct Tunnel {
    pub inner: DuplexStream,
    pub client: Arc<ClientConfig>,
    pub server: Arc<ServerConfig>,
}

impl Tunnel {
    fn shake(&self) {
        let name = "spiffe.invalid".try_into().unwrap();
        let mut client = ClientConnection::new(self.client.clone(), name).unwrap();
        let mut server = ServerConnection::new(self.server.clone()).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets().unwrap();
            let mut wire = Vec::new();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets().unwrap();
        }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.shake();
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// A client's verifier that believes everybody and says which authorities it knows.
#[derive(Debug)]
pub struct Credulous(pub Vec<SubjectName>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = default_provider().signature_verification_algorithms;
        algorithms.supported_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[SubjectName]> {
        Some(&self.0)
    }
}
