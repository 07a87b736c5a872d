//! What SPIRE prints and reads, and what people get wrong.

use proptest::prelude::*;

use super::*;

fn parse(json: &str) -> Result<Vec<Entry>, ParseEntryError> {
    let mut drawn = 0;
    entries_from_json(json.as_bytes(), || {
        drawn += 1;
        format!("drawn-{drawn}")
    })
}

#[track_caller]
fn refused(json: &str, message: &str) {
    assert_eq!(parse(json).unwrap_err().to_string(), message);
}

/// An entry that is right but for `more`.
fn with(more: &str) -> String {
    format!(
        r#"{{"entries": [{{"selectors": [{{"type": "unix", "value": "uid:1000"}}], "spiffe_id": "spiffe://example.org/web"{more}}}]}}"#
    )
}

#[test]
fn form_of_entry_create_is_read() {
    let entries = parse(
        r#"{"entries": [
            {"selectors": [{"type": "unix", "value": "uid:1000"}, {"type": "k8s", "value": "pod-label:a:b"}],
             "spiffe_id": "spiffe://example.org/web", "parent_id": "spiffe://example.org/node",
             "x509_svid_ttl": 3600, "jwt_svid_ttl": 300, "dns_names": ["web"], "hint": "internal",
             "federates_with": ["spiffe://west.example", "north.example"], "entry_id": "mine", "entry_expiry": 1000,
             "admin": true, "downstream": true,
             "additional_attributes": {"disable_x509_svid_prefetch": true, "jwt_svid_include_jti": true}},
            {"selectors": [{"type": "unix", "value": "uid:0"}], "spiffe_id": "spiffe://example.org/db", "ttl": 60, "storeSvid": true}
        ]}"#,
    )
    .unwrap();
    let first = EntryParams {
        parent_id: Some("spiffe://example.org/node".parse().unwrap()),
        x509_svid_ttl: Some(Duration::from_secs(3600)),
        jwt_svid_ttl: Some(Duration::from_secs(300)),
        dns_names: vec!["web".into()],
        hint: Some("internal".into()),
        federates_with: vec![
            "west.example".parse().unwrap(),
            "north.example".parse().unwrap(),
        ],
        expires_at: Some(Timestamp::from_unix_seconds(1000)),
        admin: true,
        downstream: true,
        jwt_svid_include_jti: true,
        disable_x509_svid_prefetch: true,
        ..EntryParams::new(
            "spiffe://example.org/web".parse().unwrap(),
            vec![
                "unix:uid:1000".parse().unwrap(),
                "k8s:pod-label:a:b".parse().unwrap(),
            ],
        )
    };
    let second = EntryParams {
        x509_svid_ttl: Some(Duration::from_secs(60)),
        store_svid: true,
        ..EntryParams::new(
            "spiffe://example.org/db".parse().unwrap(),
            vec!["unix:uid:0".parse().unwrap()],
        )
    };
    assert_eq!(entries[0].params(), &first);
    assert_eq!(entries[0].id(), "mine");
    assert_eq!(entries[1].params(), &second);
    assert_eq!(entries[1].id(), "drawn-1");
}

#[test]
fn form_of_entry_show_is_read() {
    let entries = parse(
        r#"{"entries":[{"admin":false,"created_at":"1795250610","dns_names":[],"downstream":false,"expires_at":"0",
            "federates_with":[],"hint":"","id":"d7b2c9f1-8b41-4f98-85fb-68b0c659f1c3","jwt_svid_ttl":0,
            "parent_id":{"path":"/spire/agent/join_token/0d92","trust_domain":"example.org"},"revision_number":"3",
            "selectors":[{"type":"unix","value":"uid:0"}],"spiffe_id":{"path":"/web","trust_domain":"example.org"},
            "store_svid":false,"x509_svid_ttl":0}],"next_page_token":""}"#,
    )
    .unwrap();
    let expected = EntryParams {
        parent_id: Some(
            "spiffe://example.org/spire/agent/join_token/0d92"
                .parse()
                .unwrap(),
        ),
        created_at: Some(Timestamp::from_unix_seconds(1_795_250_610)),
        revision: 3,
        ..EntryParams::new(
            "spiffe://example.org/web".parse().unwrap(),
            vec!["unix:uid:0".parse().unwrap()],
        )
    };
    assert_eq!(entries[0].params(), &expected);
    assert_eq!(entries[0].id(), "d7b2c9f1-8b41-4f98-85fb-68b0c659f1c3");
}

#[test]
fn mistakes_are_named_with_their_entry_and_key() {
    assert!(parse(&with("")).is_ok());
    refused(
        &with(r#", "dns_name": []"#),
        "entries[0]: unknown key \"dns_name\", did you mean \"dns_names\"?",
    );
    refused(
        &with(r#", "x509_svid_ttl": "1h""#),
        "entries[0]: x509_svid_ttl: must be a whole number, not negative",
    );
    refused(
        &with(r#", "x509_svid_ttl": -1"#),
        "entries[0]: x509_svid_ttl: must be a whole number, not negative",
    );
    refused(
        &with(r#", "x509_svid_ttl": 60, "ttl": 60"#),
        "entries[0]: ttl: is given twice",
    );
    refused(
        &with(r#", "dns_names": "web""#),
        "entries[0]: dns_names: must be a list",
    );
    refused(
        &with(r#", "dns_names": [1]"#),
        "entries[0]: dns_names: must be a list of texts",
    );
    refused(
        &with(r#", "dns_names": ["a b"]"#),
        "entries[0]: dns_names: \"a b\" is not a DNS name",
    );
    refused(
        &with(r#", "admin": "yes""#),
        "entries[0]: admin: must be true or false",
    );
    refused(&with(r#", "hint": 1"#), "entries[0]: hint: must be a text");
    refused(
        &with(r#", "parent_id": "node""#),
        "entries[0]: parent_id: \"node\" is no SPIFFE ID: the scheme is not 'spiffe://', in lower case",
    );
    refused(
        &with(r#", "parent_id": 7"#),
        "entries[0]: parent_id: must be a SPIFFE ID",
    );
    refused(
        &with(r#", "additional_attributes": {"jwt_svid_include_jt": true}"#),
        "entries[0]: unknown key \"jwt_svid_include_jt\", did you mean \"jwt_svid_include_jti\"?",
    );
}

#[test]
fn entry_in_error_is_counted_from_zero() {
    let good = r#"{"selectors": [{"type": "unix", "value": "uid:0"}], "spiffe_id": "spiffe://example.org/web"}"#;
    assert_eq!(
        parse(&format!(r#"{{"entries": [{good}, {good}]}}"#))
            .unwrap()
            .len(),
        2
    );
    let bad = |bad: &str| format!(r#"{{"entries": [{good}, {bad}]}}"#);
    refused(
        &bad(r#"{"selectors": []}"#),
        "entries[1]: spiffe_id: is required",
    );
    refused(
        &bad(r#"{"spiffe_id": "spiffe://example.org/web"}"#),
        "entries[1]: selectors: at least one is required",
    );
    refused(
        &bad(r#"{"spiffe_id": "spiffe://example.org/web", "selectors": ["unix:uid:0"]}"#),
        "entries[1]: selectors: must be a list of {\"type\", \"value\"} objects",
    );
    refused(
        &bad(
            r#"{"spiffe_id": "spiffe://example.org/web", "selectors": [{"type": "unix:uid", "value": "0"}]}"#,
        ),
        "entries[1]: selectors: selector type \"unix:uid\" has a colon",
    );
    refused(&bad("7"), "entries[1]: entry: must be an object");
    assert_eq!(parse(&bad("7")).unwrap_err().entry(), Some(1));
}

#[test]
fn document_without_entries_is_refused() {
    assert!(parse(r#"{"entries": []}"#).unwrap().is_empty());
    refused("{}", "entries: is required");
    refused("[]", "document: must be an object");
    refused(
        r#"{"entry": []}"#,
        "unknown key \"entry\", did you mean \"entries\"?",
    );
    refused(
        "{",
        "not JSON: EOF while parsing an object at line 1 column 1",
    );
}

proptest! {
    #[test]
    fn random_json_never_panics(value in "[\\[\\]{}\",:a-z0-9]{0,60}") {
        let _ = parse(&value);
        let _ = parse(&with(&value));
    }
}
