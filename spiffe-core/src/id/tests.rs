use super::*;

#[track_caller]
fn good(text: &str, trust_domain: &str, path: &str) {
    let id = SpiffeId::parse(text).unwrap();
    assert_eq!(
        (id.trust_domain().as_str(), id.path()),
        (trust_domain, path)
    );
    assert_eq!(SpiffeIdRef::parse(text).unwrap(), id);
    assert_eq!(id.to_string(), text);
}

#[track_caller]
fn bad(text: &str, rule: Rule) {
    assert_eq!(
        SpiffeIdRef::parse(text).unwrap_err().rule(),
        rule,
        "{text:?}"
    );
    assert_eq!(SpiffeId::parse(text).unwrap_err().rule(), rule, "{text:?}");
}

use crate::Rule;

#[test]
fn good_ids_are_taken_apart() {
    good("spiffe://td", "td", "");
    good("spiffe://td/x", "td", "/x");
    good(
        "spiffe://trust_domain-1.x/Foo/bar_baz-1.2",
        "trust_domain-1.x",
        "/Foo/bar_baz-1.2",
    );
    good("spiffe://1.2.3.4/w", "1.2.3.4", "/w");
    good("spiffe://-_-/x", "-_-", "/x");
    good("spiffe://a..b/x", "a..b", "/x");
    good("spiffe://../x", "..", "/x");
    good("spiffe://td./x", "td.", "/x");
    good("spiffe://td/...", "td", "/...");
    good("spiffe://td/.a", "td", "/.a");
    good("spiffe://td/a..b", "td", "/a..b");
}

#[test]
fn bad_ids_name_the_rule() {
    for text in [
        "",
        "http://td/x",
        "://td/x",
        "td/x",
        "spiffe//td",
        "spiffe:/td/x",
        "spiffe:td",
        "spiffes://td/x",
        " spiffe://td/x",
        "SPIFFE://td/x",
    ] {
        bad(text, Rule::IdScheme);
    }
    for text in ["spiffe://", "spiffe:///x"] {
        bad(text, Rule::IdTrustDomainMissing);
    }
    for text in [
        "spiffe://td?",
        "spiffe://td#",
        "spiffe://@/x",
        "spiffe://:80/x",
        "spiffe://u@td/x",
        "spiffe://u:p@td/x",
        "spiffe://td:443/x",
        "spiffe://td:/x",
        "spiffe://Example.org/x",
        "spiffe://t~d",
        "spiffe://t d",
        "spiffe://tést",
        "spiffe://t\0d",
        "spiffe://t,d",
        "spiffe://t%64/x",
        "spiffe://[::1]/w",
    ] {
        bad(text, Rule::IdTrustDomainByte);
    }
    for text in [
        "spiffe://td/x?",
        "spiffe://td/x?a=b",
        "spiffe://td/x#",
        "spiffe://td/%61",
        "spiffe://td/a%2Fb",
        "spiffe://td/%",
        "spiffe://td/a b",
        "spiffe://td/a:b",
        "spiffe://td/a@b",
        "spiffe://td/a+b",
        "spiffe://td/a~b",
        "spiffe://td/é",
        "spiffe://td/a\nb",
        "spiffe://td/a\0",
    ] {
        bad(text, Rule::IdPathByte);
    }
    for text in ["spiffe://td//", "spiffe://td//a", "spiffe://td/a//b"] {
        bad(text, Rule::IdEmptySegment);
    }
    for text in [
        "spiffe://td/.",
        "spiffe://td/..",
        "spiffe://td/a/./b",
        "spiffe://td/a/../b",
    ] {
        bad(text, Rule::IdDotSegment);
    }
    for text in ["spiffe://td/", "spiffe://td/a/"] {
        bad(text, Rule::IdTrailingSlash);
    }
}

#[test]
fn errors_name_byte_and_position() {
    assert_eq!(
        SpiffeId::parse("spiffe://td/a b").unwrap_err().to_string(),
        "byte 0x20 at 13 is not allowed in a path; letters, digits, '.', '-' and '_' are"
    );
    assert_eq!(
        SpiffeId::parse("spiffe://tD/a").unwrap_err(),
        SpiffeIdError::TrustDomainByte { byte: b'D', at: 10 }
    );
}

#[test]
fn limits_are_exact() {
    let longest = format!("spiffe://example.org/{}", "a".repeat(2027));
    good(&longest, "example.org", &longest[20..]);
    bad(&format!("{longest}a"), Rule::IdTooLong);
    let name = "a".repeat(255);
    good(&format!("spiffe://{name}/x"), &name, "/x");
    bad(&format!("spiffe://{name}a/x"), Rule::IdTrustDomainTooLong);
    assert_eq!(TrustDomain::parse(&name).unwrap().as_str(), name);
    assert_eq!(
        TrustDomain::parse(&format!("{name}a")).unwrap_err().rule(),
        Rule::IdTrustDomainTooLong
    );
}

#[test]
fn every_byte_is_judged_in_every_kind_of_position() {
    for byte in 0..=127_u8 {
        let c = byte as char;
        let in_domain = c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c);
        let in_path = in_domain || c.is_ascii_uppercase();
        assert_eq!(
            SpiffeId::parse(&format!("spiffe://a{c}a/x")).is_ok(),
            in_domain || c == '/',
            "{c:?}"
        );
        assert_eq!(
            SpiffeId::parse(&format!("spiffe://td/a{c}a")).is_ok(),
            in_path || c == '/',
            "{c:?}"
        );
        assert_eq!(
            SpiffeId::parse(&format!("spiffe://td/{c}a")).is_ok(),
            in_path,
            "{c:?}"
        );
        assert_eq!(
            SpiffeId::parse(&format!("spiffe://td/a{c}")).is_ok(),
            in_path,
            "{c:?}"
        );
        assert_eq!(
            TrustDomain::parse(&c.to_string()).is_ok(),
            in_domain,
            "{c:?}"
        );
    }
}

#[test]
fn joining_checks_each_segment() {
    let td = TrustDomainRef::literal("td");
    assert_eq!(
        SpiffeId::from_segments(td, ["a", "b"]).unwrap(),
        "spiffe://td/a/b"
    );
    assert_eq!(SpiffeId::from_segments(td, []).unwrap(), "spiffe://td");
    for (segment, rule) in [
        ("", Rule::IdEmptySegment),
        (".", Rule::IdDotSegment),
        ("..", Rule::IdDotSegment),
        ("a/b", Rule::IdPathByte),
        ("a b", Rule::IdPathByte),
    ] {
        assert_eq!(
            SpiffeId::from_segments(td, [segment]).unwrap_err().rule(),
            rule,
            "{segment:?}"
        );
    }
    let id = SpiffeId::parse("spiffe://td/a").unwrap();
    assert_eq!(id.join(["b"]).unwrap(), "spiffe://td/a/b");
    assert_eq!(id.join([".."]).unwrap_err().rule(), Rule::IdDotSegment);
}

#[test]
fn only_the_normalising_parser_folds_case() {
    assert_eq!(
        SpiffeId::parse_normalizing("SPIFFE://Example.ORG/Path").unwrap(),
        "spiffe://example.org/Path"
    );
    assert!(SpiffeId::parse("spiffe://Example.ORG/Path").is_err());
}

#[test]
fn a_trust_domain_is_taken_from_a_name_or_an_id() {
    assert_eq!(TrustDomain::from_name_or_id("td").unwrap().as_str(), "td");
    assert_eq!(
        TrustDomain::from_name_or_id("spiffe://td/x")
            .unwrap()
            .as_str(),
        "td"
    );
    assert!(TrustDomain::from_name_or_id("td/x").is_err());
    assert!(TrustDomain::parse("spiffe://td").is_err());
}

#[test]
fn bytes_and_text_are_parsed_alike() {
    assert_eq!(
        SpiffeIdRef::parse_bytes(b"spiffe://a/x"),
        SpiffeIdRef::parse("spiffe://a/x")
    );
    assert_eq!(
        SpiffeIdRef::parse_bytes(b"spiffe://a/x\xff"),
        Err(SpiffeIdError::PathByte { byte: 0xff, at: 12 })
    );
    assert_eq!(
        TrustDomain::from_name_or_id(b"a\x80").unwrap_err(),
        SpiffeIdError::TrustDomainByte { byte: 0x80, at: 1 }
    );
    assert_eq!(
        TrustDomain::from_name_or_id("spiffe://a/x")
            .unwrap()
            .as_str(),
        "a"
    );
}
