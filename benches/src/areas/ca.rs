//! Issuing SVIDs.

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, UnparsedPublicKey,
};
use rcgen::{CertificateParams, KeyPair};
use spiffe_core::crypto::aws_lc_rs;
use spiffe_core::key::KeyType;
use spiffe_core::pki_types::SubjectPublicKeyInfoDer;
use spiffe_core::schedule::renew_at;
use spiffe_core::{SpiffeId, Timestamp, TrustDomain};
use spiffe_svid_ca::{Csr, InProcessSource, JwtSvidParams, TrustDomainCa, X509SvidParams};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::Measured;
use crate::Effort;
use crate::fixtures::{now, ready};
use crate::measure::{contender, in_turns};
use crate::report::{Budget, Row};

pub(crate) const CSR: &str = "ca/issue/csr";
pub(crate) const SPKI: &str = "ca/issue/spki";
pub(crate) const JWT: &str = "ca/issue/jwt";
pub(crate) const TWO_CORES: &str = "ca/issue/spki-on-two-cores";
pub(crate) const HEAP: &str = "ca/heap-per-issued";
pub(crate) const EPHEMERAL: &str = "ca/ephemeral";
pub(crate) const SLOTS_1H: &str = "ca/slots/1h";
pub(crate) const SLOTS_24H: &str = "ca/slots/24h";

/// The floors sign as many bytes as a certificate has, and before a request's certificate check the request's own
/// signature; all on P-256, the CA's key in memory.
pub(crate) fn issue(effort: Effort) -> Measured {
    let now = now();
    let ca = ready(TrustDomainCa::builder(TrustDomain::parse("example.org")?).build(now))??;
    let id = SpiffeId::parse("spiffe://example.org/ns/prod/sa/web")?;
    let params = X509SvidParams::new(id.clone());
    let jwt_params = JwtSvidParams::new(id, "spiffe://example.org/db");

    let request = CertificateParams::default().serialize_request(&KeyPair::generate()?)?;
    let request: &[u8] = request.der();
    let public_key = Csr::from_der(request, ca.key_policy(), &**ca.crypto())?
        .public_key()
        .clone();
    let issued = ready(ca.issue_x509(&params, &public_key, now))??;
    ready(ca.issue_jwt(&jwt_params, now))??;

    let (_, parsed) = X509CertificationRequest::from_der(request)?;
    let signed = parsed.certification_request_info.raw;
    let signature = &parsed.signature_value.data;
    let key = &parsed
        .certification_request_info
        .subject_pki
        .subject_public_key
        .data;
    let verify = || {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key)
            .verify(black_box(signed), signature)
            .is_ok()
    };
    let random = SystemRandom::new();
    let signer = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
    let message = issued.chain.first().ok_or("an SVID has a leaf")?;
    let sign = || signer.sign(&random, black_box(message)).is_ok();
    if !verify() || !sign() {
        return Err("the floor cannot do its part".into());
    }

    let [csr, verify_and_sign, spki, jwt, signed_only] = in_turns(
        effort.span,
        [
            contender(|| {
                Csr::from_der(black_box(request), ca.key_policy(), &**ca.crypto())
                    .map(|csr| ready(ca.issue_x509(&params, csr.public_key(), now)))
            }),
            contender(|| verify() && sign()),
            contender(|| ready(ca.issue_x509(&params, black_box(&public_key), now))),
            contender(|| ready(ca.issue_jwt(black_box(&jwt_params), now))),
            contender(sign),
        ],
    );
    let row = |name, ours: f64, against, value: f64, budget| {
        Row::new(name, "µs", ours / 1e3, against, value / 1e3, budget)
    };
    Ok(vec![
        // At least 70 % of the floor's rate.
        row(
            CSR,
            csr,
            "one check and one signature",
            verify_and_sign,
            Some(Budget::Ratio(1.43)),
        ),
        // At least 85 %.
        row(
            SPKI,
            spki,
            "one signature",
            signed_only,
            Some(Budget::Ratio(1.0 / 0.85)),
        ),
        row(
            JWT,
            jwt,
            "one signature",
            signed_only,
            Some(Budget::Ratio(1.0 / 0.85)),
        ),
    ])
}

/// What every row but the first issues for.
pub(super) fn bare_key() -> Result<
    (
        TrustDomainCa,
        X509SvidParams,
        SubjectPublicKeyInfoDer<'static>,
    ),
    Box<dyn Error>,
> {
    let ca = ready(TrustDomainCa::builder(TrustDomain::parse("example.org")?).build(now()))??;
    let id = SpiffeId::parse("spiffe://example.org/ns/prod/sa/web")?;
    let key = ca.crypto().generate_key(KeyType::EcP256)?;
    let public_key = ca.crypto().load_key(&key)?.public_key().clone();
    Ok((ca, X509SvidParams::new(id), public_key))
}

/// How long an SVID takes while two threads issue from one CA, and while one does: at least 1.9 times as many come from
/// two. In CPU time of a thread, which counts the caches that they share and the spinning before a lock, and not what
/// else runs on the machine; a thread that waits for a lock longer than it spins is not counted.
pub(crate) fn two_cores(effort: Effort) -> Measured {
    let (ca, params, public_key) = bare_key()?;
    let now = now();
    let issue = || ready(ca.issue_x509(&params, &public_key, now)).is_ok();
    let [alone] = in_turns(effort.span / 2, [contender(issue)]);
    let done = AtomicBool::new(false);
    let together = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                black_box(issue());
            }
        });
        let [together] = in_turns(effort.span / 2, [contender(issue)]);
        done.store(true, Ordering::Relaxed);
        together
    });
    Ok(vec![Row::new(
        TWO_CORES,
        "µs",
        together / 1e3,
        "one thread alone",
        alone / 1e3,
        Budget::Ratio(2.0 / 1.9),
    )])
}

/// Resident memory that stays when what was issued has been dropped, in whole bytes for each.
pub(crate) fn heap(_: Effort) -> Measured {
    let (ca, params, public_key) = bare_key()?;
    let now = now();
    let resident = || -> Result<u64, Box<dyn Error>> {
        let statm = fs::read_to_string("/proc/self/statm")?;
        let pages: u64 = statm
            .split(' ')
            .nth(1)
            .ok_or("statm has two fields")?
            .parse()?;
        Ok(pages * rustix::param::page_size() as u64)
    };
    let issue = |count: u32| {
        for _ in 0..count {
            let _ = black_box(ready(ca.issue_x509(&params, &public_key, now)));
        }
    };
    let held: Vec<_> = (0..1_000)
        .map(|_| ready(ca.issue_x509(&params, &public_key, now)))
        .collect::<Result<_, _>>()?;
    let each: usize = held
        .iter()
        .flatten()
        .flat_map(|issued| &issued.chain)
        .map(|der| der.len())
        .sum();
    drop(held);
    issue(20_000);
    let before = resident()?;
    issue(100_000);
    let grown = resident()?.saturating_sub(before) / 100_000;
    Ok(vec![Row::new(
        HEAP,
        "B",
        grown as f64,
        "an SVID's certificate while it is held",
        each as f64 / 1e3,
        Budget::AtMost(0.0),
    )])
}

/// A trust domain in memory, with both authorities, an X.509-SVID and a JWT-SVID from it, and a source; beside the keys and
/// signatures that are its floor.
pub(crate) fn ephemeral(effort: Effort) -> Measured {
    let now = now();
    let id = SpiffeId::parse("spiffe://example.org/ns/prod/sa/web")?;
    let boot = || -> Result<_, Box<dyn Error>> {
        let name = TrustDomain::parse("example.org")?;
        let ca = ready(TrustDomainCa::builder(name).build(now))??;
        let params = X509SvidParams::new(id.clone());
        let source = ready(InProcessSource::new(ca.clone(), params, now))??;
        let params = JwtSvidParams::new(id.clone(), "spiffe://example.org/db");
        let token = ready(ca.issue_jwt(&params, now))??;
        Ok((ca, source, token))
    };
    boot()?;
    let random = SystemRandom::new();
    let floor = || {
        let mut keys = Vec::new();
        for _ in 0..3 {
            keys.push(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).ok());
        }
        for key in keys.iter().flatten() {
            black_box(key.sign(&random, b"a certificate or token").is_ok());
        }
    };
    let [ours, floor] = in_turns(
        effort.span,
        [contender(|| boot().is_ok()), contender(floor)],
    );
    Ok(vec![Row::new(
        EPHEMERAL,
        "ms",
        ours / 1e6,
        "three keys and three signatures",
        floor / 1e6,
        Budget::AtMost(20.0),
    )])
}

pub(crate) fn slots_1h(_: Effort) -> Measured {
    slots(SLOTS_1H, 1, 1)
}

pub(crate) fn slots_24h(_: Effort) -> Measured {
    slots(SLOTS_24H, 24, 60)
}

/// The busiest span of so many seconds over the mean one, of the renewals of 100,000 SVIDs issued together; nothing is
/// timed. A second of the window of an hour's SVIDs sees 185 of them, one of a day's 8: too few to say how even they are,
/// so those are counted by the minute.
///
/// SPIRE's rule: each agent looks every 5 seconds, in a phase of its own, and renews when what is left is less than half
/// of the life, give or take a tenth, drawn anew at each look.
fn slots(row: &str, hours: u64, span: u64) -> Measured {
    let life = Duration::from_secs(hours * 3600);
    let issued = Timestamp::from_unix_seconds(1_800_000_000);
    let crypto = aws_lc_rs();
    let mut ours = HashMap::new();
    let mut theirs = HashMap::new();
    for number in 0..SVIDS {
        let digest = crypto.sha256(&number.to_be_bytes());
        let id = SpiffeId::parse(&format!("spiffe://example.org/ns/prod/sa/w{number}"))?;
        let at = renew_at(id.as_ref(), &digest[..16], issued, issued + life);
        *ours
            .entry(at.saturating_since(issued).as_secs() / span)
            .or_insert(0_u64) += 1;

        let mut draw = u64::from_be_bytes(digest[16..24].try_into()?);
        let mut look = (draw % 5) as f64;
        let half = life.as_secs_f64() / 2.0;
        loop {
            draw = draw
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let jitter = ((draw >> 11) as f64 / (1_u64 << 53) as f64).mul_add(2.0, -1.0);
            if life.as_secs_f64() - look <= half * 0.1_f64.mul_add(jitter, 1.0) {
                break;
            }
            look += 5.0;
        }
        *theirs.entry(look as u64 / span).or_insert(0_u64) += 1;
    }
    // The mean is over the window that either means to use: 15 and 10 % of the life.
    let ratio = |seconds: &HashMap<u64, u64>, part: f64| {
        let busiest = seconds.values().max().copied().unwrap_or_default() as f64;
        busiest / (SVIDS as f64 * span as f64 / (life.as_secs_f64() * part))
    };
    Ok(vec![Row::new(
        row,
        "× the mean",
        ratio(&ours, 0.15),
        "SPIRE's rule",
        ratio(&theirs, 0.10),
        Budget::AtMost(1.2),
    )])
}

const SVIDS: u64 = 100_000;
