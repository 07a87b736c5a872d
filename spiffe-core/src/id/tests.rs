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
fn a_slash_that_is_wrong_is_named_by_its_position() {
    let td = TrustDomainRef::literal("td");
    assert_eq!(
        SpiffeId::parse("spiffe://td/a/").unwrap_err(),
        SpiffeIdError::TrailingSlash { at: 13 }
    );
    assert_eq!(
        SpiffeId::from_segments(td, ["a", "b/c"]).unwrap_err(),
        SpiffeIdError::PathByte { byte: b'/', at: 15 }
    );
}

#[test]
fn an_id_belongs_to_its_trust_domain_and_equals_its_text_alone() {
    let (a, b) = (TrustDomainRef::literal("a"), TrustDomainRef::literal("b"));
    let borrowed = SpiffeIdRef::literal("spiffe://a/x");
    let id = borrowed.to_owned();
    assert!(borrowed.is_member_of(a) && id.is_member_of(a));
    assert!(!borrowed.is_member_of(b) && !id.is_member_of(b));
    let (same, other) = ("spiffe://a/x", "spiffe://a/y");
    assert!(id == *same && id == same && id == SpiffeIdRef::literal(same));
    assert!(id != *other && id != other && id != SpiffeIdRef::literal(other));
    assert!(SpiffeIdRef::literal(same) == id && SpiffeIdRef::literal(other) != id);
    assert_eq!(AsRef::<str>::as_ref(&id), same);
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

/// SPIFFE-ID §2 once more, as slowly as it is written there.
fn reference(text: &[u8]) -> Result<(), Rule> {
    let rest = text.strip_prefix(b"spiffe://").ok_or(Rule::IdScheme)?;
    let mut parts = rest.split(|byte| *byte == b'/');
    let name = parts.next().unwrap_or_default();
    if name.is_empty() {
        return Err(Rule::IdTrustDomainMissing);
    }
    let in_name = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    if !name.iter().all(in_name) {
        return Err(Rule::IdTrustDomainByte);
    }
    let segments: Vec<_> = parts.collect();
    for (index, segment) in segments.iter().enumerate() {
        if segment.is_empty() && index + 1 == segments.len() {
            return Err(Rule::IdTrailingSlash);
        }
        if segment.is_empty() {
            return Err(Rule::IdEmptySegment);
        }
        if !segment
            .iter()
            .all(|byte| in_name(byte) || byte.is_ascii_uppercase())
        {
            return Err(Rule::IdPathByte);
        }
        if [&b"."[..], b".."].contains(segment) {
            return Err(Rule::IdDotSegment);
        }
    }
    Ok(())
}

#[test]
fn every_byte_is_judged_in_every_kind_of_position() {
    // Every byte in place of every other, before it and behind it: in the scheme, at the beginning, in the middle and at
    // the end of a name and of segments, alone in them, at slashes and beside dots.
    let models = [
        "spiffe://abc/def/ghi",
        "spiffe://a/b",
        "spiffe://a",
        "spiffe://a/./..x/.y.",
    ];
    for model in models.map(str::as_bytes) {
        for byte in 0..=u8::MAX {
            for at in 0..=model.len() {
                for kept in [at, at + 1] {
                    let behind = model.get(kept..).unwrap_or_default();
                    let text = [&model[..at], &[byte], behind].concat();
                    let shown = text.escape_ascii();
                    let found = SpiffeIdRef::parse_bytes(&text);
                    let rule = found.map(|_| ()).map_err(|error| error.rule());
                    // Of several faults, any may be named.
                    assert_eq!(rule.is_ok(), reference(&text).is_ok(), "{shown}");
                    if reference(model).is_ok() {
                        assert_eq!(rule, reference(&text), "{shown}");
                    }
                    if let Err(
                        SpiffeIdError::PathByte {
                            byte: named,
                            at: position,
                        }
                        | SpiffeIdError::TrustDomainByte {
                            byte: named,
                            at: position,
                        },
                    ) = found
                    {
                        assert_eq!(text[position], named, "{shown}");
                        let good_until_then = [&text[..position], b"x"].concat();
                        assert_ne!(reference(&good_until_then), rule, "{shown}");
                    }
                    match std::str::from_utf8(&text) {
                        Ok(text) => assert_eq!(SpiffeIdRef::parse(text), found),
                        Err(_) => assert!(found.is_err(), "{shown}"),
                    }
                }
            }
        }
    }
    for byte in 0..=u8::MAX {
        let alone = TrustDomainRef::parse_bytes(std::slice::from_ref(&byte)).is_ok();
        assert_eq!(
            alone,
            reference(&[b"spiffe://", &[byte][..]].concat()).is_ok()
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
    let room = MAX_ID_BYTES - "spiffe://td/a/".len();
    for (bytes, fits) in [(room, true), (room + 1, false), (room + 9, false)] {
        let joined = id.join([&*"b".repeat(bytes)]);
        assert_eq!(joined.is_ok(), fits, "{bytes}");
    }
}

#[test]
fn owned_and_borrowed_forms_are_equal_and_found_by_their_text() {
    let id = SpiffeId::parse("spiffe://td/a").unwrap();
    let (owned, borrowed) = (id.trust_domain().to_owned(), TrustDomainRef::literal("td"));
    assert_eq!(AsRef::<str>::as_ref(&owned), "td");
    let other = TrustDomainRef::literal("other");
    assert_eq!(owned, borrowed);
    assert_eq!(borrowed, owned);
    assert_ne!(owned, other);
    assert_ne!(other, owned);
    let ids = std::collections::HashSet::from([id]);
    assert!(ids.contains("spiffe://td/a") && !ids.contains(""));
}

#[test]
fn every_form_is_written_as_it_was_read() {
    let text = "spiffe://example.org/a/b";
    let id = SpiffeIdRef::parse(text).unwrap();
    let owned = id.to_owned();
    let domain = id.trust_domain();
    assert_eq!([id.to_string(), owned.to_string()], [text; 2]);
    assert_eq!(
        [domain.to_string(), domain.to_owned().to_string()],
        ["example.org"; 2]
    );
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
