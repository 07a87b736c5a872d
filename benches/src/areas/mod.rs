//! What is measured, by area: the first part of a row's name.

mod bundle;
mod ca;
#[cfg(feature = "peers")]
mod go;
mod hostile;
mod id;
mod jwt;
#[cfg(feature = "peers")]
mod peers;
#[cfg(feature = "peers")]
mod peers_load;
#[cfg(feature = "peers")]
mod peers_rotation;
#[cfg(feature = "peers")]
mod peers_size;
#[cfg(feature = "peers")]
mod peers_source;
#[cfg(feature = "peers")]
mod peers_tls;
mod rotation;
mod source;
mod svid;
mod tls;
mod tls_defederated;
mod tls_leases;
mod tls_peers;
mod tls_sessions;
mod verify;

use std::error::Error;

pub(crate) use tls_defederated::{CLIENTS, clients};

use crate::Effort;
use crate::report::Row;

/// What a measurement hands back.
pub(crate) type Measured = Result<Vec<Row>, Box<dyn Error>>;

/// One measurement and the rows that it gives.
pub(crate) struct Bench {
    pub(crate) rows: &'static [&'static str],
    pub(crate) run: fn(Effort) -> Measured,
}

/// All of them, in the order of the report.
pub(crate) const BENCHES: &[Bench] = &[
    Bench {
        rows: &[source::CURRENT, source::SURVIVES_UNTIL, source::TOKEN],
        run: source::read,
    },
    Bench {
        rows: &[source::APPLY, source::APPLY_CHANGED],
        run: source::apply,
    },
    Bench {
        rows: &[source::HEAP, source::GROWTH],
        run: source::heap,
    },
    Bench {
        rows: &[source::FLOOD],
        run: source::flood,
    },
    Bench {
        rows: &[source::AT_LIMIT],
        run: source::at_limit,
    },
    Bench {
        rows: &[id::BORROWED, id::OWNED],
        run: id::parse,
    },
    Bench {
        rows: &[bundle::LOOKUP],
        run: bundle::lookup,
    },
    Bench {
        rows: &[bundle::DOCUMENT],
        run: bundle::document,
    },
    Bench {
        rows: &[svid::FROM_DER, svid::FROM_DER_WITH_KEY],
        run: svid::from_der,
    },
    Bench {
        rows: &[verify::CHAIN, verify::CHAIN_OVER_WEBPKI, verify::WARM],
        run: verify::chain,
    },
    Bench {
        rows: &[hostile::P256],
        run: hostile::p256,
    },
    Bench {
        rows: &[hostile::P521],
        run: hostile::p521,
    },
    Bench {
        rows: &[hostile::RSA_8192],
        run: hostile::rsa_8192,
    },
    Bench {
        rows: &[jwt::ES256],
        run: jwt::es256,
    },
    Bench {
        rows: &[jwt::RS256],
        run: jwt::rs256,
    },
    Bench {
        rows: &[tls::HANDSHAKE_1],
        run: tls::handshake_1,
    },
    Bench {
        rows: &[tls::HANDSHAKE_200],
        run: tls::handshake_200,
    },
    Bench {
        rows: &[tls::HANDSHAKE_1000],
        run: tls::handshake_1000,
    },
    Bench {
        rows: &[tls::ACCEPT_1],
        run: tls::accept_1,
    },
    Bench {
        rows: &[tls::ACCEPT_200],
        run: tls::accept_200,
    },
    Bench {
        rows: &[
            tls_peers::DISTINCT,
            tls_peers::STRANGERS,
            tls_peers::USELESS,
        ],
        run: tls_peers::handshakes,
    },
    Bench {
        rows: &[
            tls_sessions::GAIN,
            tls_sessions::RESUMED,
            tls_sessions::RATE,
        ],
        run: tls_sessions::resumed,
    },
    Bench {
        rows: &[tls_sessions::BYTES],
        run: tls_sessions::bytes,
    },
    Bench {
        rows: &[
            tls_leases::JUDGED,
            tls_leases::JUDGED_BY_POLICY,
            tls_leases::HEAP,
        ],
        run: tls_leases::ten_thousand,
    },
    Bench {
        rows: &[
            tls_defederated::LOST,
            tls_defederated::LATE,
            tls_defederated::CPU,
            tls_defederated::MEMORY,
        ],
        run: tls_defederated::defederated,
    },
    Bench {
        rows: &[tls::PUSH_P50, tls::PUSH_P99],
        run: tls::push_to_served,
    },
    Bench {
        rows: &[rotation::FAILED, rotation::FAILED_RESUMING],
        run: rotation::failed,
    },
    Bench {
        rows: &[ca::CSR, ca::SPKI, ca::JWT],
        run: ca::issue,
    },
    Bench {
        rows: &[ca::TWO_CORES],
        run: ca::two_cores,
    },
    Bench {
        rows: &[ca::HEAP],
        run: ca::heap,
    },
    Bench {
        rows: &[ca::EPHEMERAL],
        run: ca::ephemeral,
    },
    Bench {
        rows: &[ca::SLOTS_1H],
        run: ca::slots_1h,
    },
    Bench {
        rows: &[ca::SLOTS_24H],
        run: ca::slots_24h,
    },
    #[cfg(feature = "peers")]
    Bench {
        rows: &[peers::RCGEN],
        run: peers::rcgen_issue,
    },
    #[cfg(feature = "peers")]
    Bench {
        rows: &[go::ISSUE_SPKI],
        run: go::issue_spki,
    },
    #[cfg(feature = "peers")]
    Bench {
        rows: &[go::ISSUE_CSR],
        run: go::issue_csr,
    },
    #[cfg(feature = "peers")]
    Bench {
        rows: &[peers::ID],
        run: peers::id_parse,
    },
    #[cfg(feature = "peers")]
    Bench {
        rows: &[peers::FROM_DER],
        run: peers::svid_from_der,
    },
    #[cfg(feature = "peers")]
    Bench {
        rows: &[peers::LOOKUP],
        run: peers::bundle_lookup,
    },
    #[cfg(feature = "peers")]
    Bench {
        rows: &[peers::ES256],
        run: peers::jwt_es256,
    },
    #[cfg(feature = "peers")]
    Bench {
        rows: &[peers::RS256],
        run: peers::jwt_rs256,
    },
    #[cfg(feature = "peers")]
    Bench {
        rows: &[go::ID],
        run: go::id_parse,
    },
    #[cfg(feature = "peers")]
    Bench {
        rows: &[go::DOCUMENT],
        run: go::bundle_parse,
    },
    #[cfg(feature = "peers")]
    Bench {
        rows: &[go::CHAIN],
        run: go::x509_verify,
    },
    #[cfg(feature = "peers")]
    Bench {
        rows: &[go::ES256],
        run: go::jwt_es256,
    },
    #[cfg(feature = "peers")]
    Bench {
        rows: &[go::HANDSHAKE, go::HANDSHAKE_OVER_PLAIN],
        run: go::handshake,
    },
    #[cfg(feature = "peers")]
    Bench {
        rows: &[peers_tls::HANDSHAKE, peers_tls::HANDSHAKE_OVER_PLAIN],
        run: peers_tls::handshake,
    },
    #[cfg(feature = "peers")]
    Bench {
        rows: peers_rotation::ROWS,
        run: peers_rotation::rotations,
    },
    #[cfg(feature = "peers")]
    Bench {
        rows: &[go::RS256],
        run: go::jwt_rs256,
    },
    #[cfg(feature = "peers")]
    Bench {
        rows: &[peers_source::CURRENT, peers_source::GO_CURRENT],
        run: peers_source::current,
    },
    #[cfg(feature = "peers")]
    Bench {
        rows: &[peers_source::HEAP, peers_source::GO_HEAP],
        run: peers_source::heap,
    },
    #[cfg(feature = "peers")]
    Bench {
        rows: &[peers_source::UPDATE, peers_source::GO_UPDATE],
        run: peers_source::update,
    },
    #[cfg(feature = "peers")]
    Bench {
        rows: &[peers_size::SMALL, peers_size::FAST],
        run: peers_size::sizes,
    },
];
