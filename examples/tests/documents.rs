//! The generated tables of `docs/reference/` are what the code says. `UPDATE_DOCS=1` writes them anew.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write;
use std::path::Path;

use spiffe_core::Rule;

/// Compares the lines between the table's marks with `expected`, or replaces them.
#[track_caller]
fn check(page: &str, expected: &str) {
    const BEGIN: &str = "<!-- generated -->\n";
    const END: &str = "<!-- end -->\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs/reference")
        .join(page);
    let text = std::fs::read_to_string(&path).unwrap();
    let (head, rest) = text.split_once(BEGIN).unwrap();
    let (table, tail) = rest.split_once(END).unwrap();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, [head, BEGIN, expected, END, tail].concat()).unwrap();
        return;
    }
    let (found, wanted) = (table.lines(), expected.lines());
    if let Some((found, wanted)) = found.zip(wanted).find(|(found, wanted)| found != wanted) {
        panic!(
            "{page} has\n{found}\nand should have\n{wanted}\nUPDATE_DOCS=1 writes the table anew"
        );
    }
    assert!(
        table == expected,
        "{page}: UPDATE_DOCS=1 writes the table anew"
    );
}

#[test]
fn the_page_of_codes_is_the_table_of_rules() {
    let mut table = String::from("| code | section | rule |\n|---|---|---|\n");
    for rule in Rule::ALL {
        let section = rule.section().unwrap_or("–");
        let (code, statement) = (rule.code(), rule.statement());
        writeln!(table, "| `{code}` | {section} | {statement} |").unwrap();
    }
    check("codes.md", &table);
}

/// Rows of the page of limits: the constant by its path, so that it is the one of the code, and what it bounds.
macro_rules! limits {
    ($($($part:ident)::+, $bounds:literal;)*) => {{
        let mut table = String::from("| constant | value | bounds |\n|---|---|---|\n");
        $(
            let (path, value) = (stringify!($($part)::+).replace(' ', ""), &$($part)::+);
            let value = format!("{value:?}");
            writeln!(table, "| `{path}` | {value} | {} |", $bounds).unwrap();
        )*
        table
    }};
}

#[test]
fn the_page_of_limits_has_the_values_of_the_constants() {
    let table = limits! {
        spiffe_core::MAX_ID_BYTES, "bytes of a SPIFFE ID";
        spiffe_core::MAX_TRUST_DOMAIN_BYTES, "bytes of a trust domain's name";
        spiffe_core::MAX_ALTERNATIVES, "alternatives of a policy";
        spiffe_core::MAX_POLICY_BYTES, "bytes of a policy's text";
        spiffe_core::verify::MAX_CERTIFICATES, "certificates of a peer's chain that are looked at";
        spiffe_core::verify::MAX_INTERMEDIATES, "intermediates of a path";
        spiffe_core::verify::MAX_CERTIFICATE_BYTES, "bytes of a certificate that is looked at";
        spiffe_core::verify::MAX_SIGNATURE_CHECKS, "signature checks for one chain";
        spiffe_core::verify::MAX_NAME_COMPARISONS, "comparisons of names with name constraints for one chain";
        spiffe_core::verify::DEFAULT_CACHED_ISSUERS, "admitted issuers that a verifier remembers";
        spiffe_core::verify::MAX_REVOCATION_LISTS, "lists of revoked certificates";
        spiffe_core::verify::MAX_REVOCATION_LIST_BYTES, "bytes of one such list";
        spiffe_core::verify::MAX_JWT_KEYS_TRIED, "keys tried for a token that names none";
        spiffe_core::verify::MAX_JWT_LEEWAY, "leeway for differing clocks that a token verifier can be given";
        spiffe_core::verify::DEFAULT_JWT_LEEWAY, "leeway unless set";
        spiffe_core::svid::MAX_TOKEN_BYTES, "bytes of a token";
        spiffe_core::svid::MAX_CHAIN_CERTIFICATES, "certificates of an own SVID";
        spiffe_core::svid::MAX_CHAIN_BYTES, "bytes of an own SVID's chain";
        spiffe_core::key::MAX_KEY_DOCUMENT_BYTES, "bytes of a private key's document";
        spiffe_core::bundle::MAX_BUNDLE_DOCUMENT_BYTES, "bytes of a bundle document";
        spiffe_core::bundle::MAX_CERTIFICATES_DOCUMENT_BYTES, "bytes of a document of certificates";
        spiffe_core::bundle::MAX_AUTHORITIES, "certificates of one such document";
        spiffe_tls::DEFAULT_HANDSHAKE_TIMEOUT, "time for a handshake";
        spiffe_tls::MAX_CONCURRENT_HANDSHAKES, "handshakes under way at once on a listener";
        spiffe_tls::DEFAULT_SPREAD, "span over which connections that lost their lease begin to drain";
        spiffe_tls::DEFAULT_GRACE, "time from there to the cut";
        spiffe_tls::MAX_REMEMBERED_CHAINS, "verified chains that a configuration remembers";
        spiffe_tls::MAX_TICKETS_TRIED, "tickets of one hello that a server looks at";
        spiffe_tls::MAX_AUTHORITY_HINT_BYTES, "bytes of authorities' names that a server tells its clients";
        spiffe_tls::MAX_DESTINATIONS, "destinations of which a connector keeps sessions";
        spiffe_tls::MAX_SESSIONS_PER_DESTINATION, "sessions kept for one destination";
        spiffe_tls::reqwest::MAX_CLIENTS, "destinations of which a reqwest client keeps connections";
        spiffe_tls::reqwest::MAX_LEASES, "servers on which one reqwest client keeps leases";
        spiffe_tls::hyper::MAX_POOLS, "destinations of which an HTTP client keeps connections";
        spiffe_workload_client::endpoint::MAX_SOCKET_PATH_BYTES, "bytes of a socket's path";
        spiffe_workload_client::client::DEFAULT_MAX_MESSAGE_BYTES, "bytes of a message from the Workload API";
        spiffe_workload_client::client::DEFAULT_KEEP_ALIVE, "silence before a sign of life is asked for, and time for that";
        spiffe_workload_client::client::DEFAULT_DEADLINE, "time for a single request, and for a stream's first message";
        spiffe_workload_client::MAX_SVIDS, "SVIDs of an update";
        spiffe_workload_client::client::MAX_CLAIMS_BYTES, "bytes of an answer about one token";
        spiffe_workload_client::client::MAX_MESSAGE_FIELDS, "fields of a message of the Workload API, to either end";
        spiffe_workload_client::MAX_TRUST_DOMAINS, "bundles of an update by trust domain, beside those of its SVIDs";
        spiffe_workload_client::MAX_HINT_BYTES, "bytes of a hint";
        spiffe_workload_client::source::DEFAULT_START_TIMEOUT, "time a source waits for its first good update";
        spiffe_workload_client::source::FIRST_DELAY, "delay after the first failure, before it is spread";
        spiffe_workload_client::source::MAX_DELAY, "the longest delay between attempts";
        spiffe_workload_client::source::MAX_FILE_BYTES, "bytes of a file that a file source reads";
        spiffe_workload_client::source::DEFAULT_POLL_INTERVAL, "time between two looks at a file source's files";
        spiffe_workload_client::source::CLOCK_CHECK_INTERVAL, "time between two looks at whether the clock has stepped";
        spiffe_workload_client::source::MAX_CLOCK_DRIFT, "how far calendar and stopwatch may part between them";
        spiffe_workload_client::source::MAX_CACHED_TOKENS, "JWT-SVIDs that a source keeps";
        spiffe_agent::DEFAULT_REQUESTS, "requests open at once on a Workload API";
        spiffe_agent::DEFAULT_REQUESTS_PER_CONNECTION, "requests open at once on one connection";
        spiffe_agent::DEFAULT_REQUEST_BYTES, "bytes of a request";
        spiffe_agent::DEFAULT_ATTESTATIONS, "callers attested at once";
        spiffe_agent::DRAIN_TIMEOUT, "time for answers under way when a Workload API stops";
        spiffe_agent::listener::DEFAULT_MAX_CONNECTIONS, "connections open at once";
        spiffe_agent::listener::DEFAULT_PREFACE_TIMEOUT, "time for a new connection to say something";
        spiffe_agent::attest::DEFAULT_SIZE_LIMIT, "bytes of a program that is hashed for `unix:sha256`";
        spiffe_daemons::batch::MAX_LINE_BYTES, "bytes of a line of `spiffe batch`";
        spiffe_daemons::local::MAX_COMMAND_BYTES, "bytes of a command to `spiffe up`";
        spiffe_daemons::verdict::MAX_EXPLANATION_BYTES, "bytes of an explanation as data";
        spiffe_daemons::verdict::inspect::MAX_INSPECTED, "certificates that `inspect` describes";
        spiffe_registration::MAX_ENTRY_ID, "bytes of an entry's ID";
        spiffe_registration::MAX_HINT, "bytes of an entry's hint";
        spiffe_svid_ca::csr::MAX_CSR_BYTES, "bytes of a certificate request";
        spiffe_svid_ca::params::MAX_DNS_NAMES, "DNS names of an SVID";
        spiffe_svid_ca::params::MAX_DNS_NAME_BYTES, "bytes of a DNS name";
        spiffe_svid_ca::params::MAX_AUDIENCE_BYTES, "bytes of the audiences of a token that is issued, together";
        spiffe_svid_ca::params::MAX_CLAIMS_BYTES, "bytes of the further claims of a token that is issued, together";
        spiffe_svid_ca::authority::MAX_SHARED_KEYS, "JWT keys of other servers of a trust domain";
        spiffe_svid_ca::MIN_AUTHORITY_LIFETIME, "the shortest life of an authority";
        spiffe_svid_ca::upstream::MAX_UPSTREAM_CERTIFICATES, "certificates of a chain that an upstream mints, and roots";
        spiffe_svid_ca::authority::journal::MAX_JOURNAL_BYTES, "bytes of a journal";
        spiffe_svid_ca::keys::MAX_KEYS_FILE_BYTES, "bytes of a file of keys";
    };
    check("limits.md", &table);
}
