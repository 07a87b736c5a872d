//! Entries as one argument on a command line: `id=spiffe://example.org/web,selector=unix:uid:1000,ttl=1h`.

use spiffe_core::{SpiffeId, TrustDomain};

use crate::duration;
use crate::entry::{Entry, EntryParams};
use crate::keys::{ParseEntryError, ParseEntryErrorKind as Kind};

impl Entry {
    /// Parses `key=value` pairs with commas between them; `\,` is a comma within a value, `\\` a backslash.
    ///
    /// `id` is the SPIFFE ID and `selector` one selector; both are required. `selector`, `dns` and `federates_with` may be
    /// repeated. `ttl` and `jwt_ttl` are durations such as `30s`, `5m` or `1h30m`; `hint` is any text. `draw_id` names the entry.
    ///
    /// # Errors
    ///
    /// [`ParseEntryError`] names the key.
    pub fn from_text(
        text: &str,
        draw_id: impl FnOnce() -> String,
    ) -> Result<Self, ParseEntryError> {
        let mut id = None;
        let mut selectors = Vec::new();
        let (mut ttl, mut jwt_ttl, mut hint) = (None, None, None);
        let (mut dns_names, mut federates_with) = (Vec::new(), Vec::new());
        for pair in split(text)? {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(Kind::value(&pair, "followed by '=' and a value").into());
            };
            match key {
                "id" => {
                    let parsed = SpiffeId::parse(value).map_err(|reason| Kind::Id {
                        key: "id",
                        value: value.to_owned(),
                        what: "SPIFFE ID",
                        reason,
                    });
                    once(key, &mut id, parsed?)?;
                }
                "selector" => {
                    let parsed = value.parse().map_err(|reason| Kind::Selector {
                        key: "selector",
                        reason,
                    });
                    selectors.push(parsed?);
                }
                "ttl" => once(key, &mut ttl, parse_duration(key, value)?)?,
                "jwt_ttl" => once(key, &mut jwt_ttl, parse_duration(key, value)?)?,
                "dns" => dns_names.push(value.to_owned()),
                "hint" => once(key, &mut hint, value.to_owned())?,
                "federates_with" => {
                    let parsed = TrustDomain::from_name_or_id(value).map_err(|reason| Kind::Id {
                        key: "federates_with",
                        value: value.to_owned(),
                        what: "trust domain",
                        reason,
                    });
                    federates_with.push(parsed?);
                }
                _ => return Err(Kind::unknown(key, KEYS).into()),
            }
        }
        let id = id.ok_or(Kind::Missing { key: "id" })?;
        if selectors.is_empty() {
            return Err(Kind::Missing { key: "selector" }.into());
        }
        let params = EntryParams {
            x509_svid_ttl: ttl,
            jwt_svid_ttl: jwt_ttl,
            dns_names,
            hint,
            federates_with,
            ..EntryParams::new(id, selectors)
        };
        Ok(Self::new(params, draw_id).map_err(Kind::from)?)
    }
}

/// The parts between unescaped commas, with their escapes resolved.
fn split(text: &str) -> Result<Vec<String>, Kind> {
    let mut parts = vec![String::new()];
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        let character = match character {
            ',' => {
                parts.push(String::new());
                continue;
            }
            '\\' => match characters.next() {
                Some(escaped @ (',' | '\\')) => escaped,
                _ => return Err(Kind::value("\\", "followed by ',' or '\\'")),
            },
            character => character,
        };
        if let Some(part) = parts.last_mut() {
            part.push(character);
        }
    }
    Ok(parts)
}

fn once<T>(key: &str, slot: &mut Option<T>, value: T) -> Result<(), Kind> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Kind::Repeated {
            key: key.to_owned(),
        }),
    }
}

fn parse_duration(key: &str, value: &str) -> Result<std::time::Duration, Kind> {
    duration::parse(value)
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| Kind::value(key, "a duration such as 30s, 5m or 1h30m"))
}

const KEYS: [&str; 7] = [
    "id",
    "selector",
    "ttl",
    "jwt_ttl",
    "dns",
    "hint",
    "federates_with",
];

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Entry, ParseEntryError> {
        Entry::from_text(text, || "drawn".into())
    }

    #[track_caller]
    fn refused(text: &str, message: &str) {
        assert_eq!(parse(text).unwrap_err().to_string(), message);
    }

    #[test]
    fn every_key_arrives() {
        let entry = parse(
            "id=spiffe://example.org/web,selector=unix:uid:1000,selector=unix:path:/a\\,b,ttl=1h,jwt_ttl=5m,dns=web,\
             dns=*.web.example.org,hint=a\\\\b=c,federates_with=west.example,federates_with=spiffe://north.example",
        )
        .unwrap();
        let expected = EntryParams {
            x509_svid_ttl: Some(Duration::from_secs(3600)),
            jwt_svid_ttl: Some(Duration::from_secs(300)),
            dns_names: vec!["web".into(), "*.web.example.org".into()],
            hint: Some("a\\b=c".into()),
            federates_with: vec![
                "west.example".parse().unwrap(),
                "north.example".parse().unwrap(),
            ],
            ..EntryParams::new(
                "spiffe://example.org/web".parse().unwrap(),
                vec![
                    "unix:uid:1000".parse().unwrap(),
                    "unix:path:/a,b".parse().unwrap(),
                ],
            )
        };
        assert_eq!(entry.params(), &expected);
        assert_eq!(entry.id(), "drawn");
    }

    #[test]
    fn mistakes_are_named() {
        let good = "id=spiffe://example.org/web,selector=unix:uid:0";
        assert!(parse(good).is_ok());
        let with = |more: &str| format!("{good},{more}");
        refused(
            &with("selektor=a:b"),
            "unknown key \"selektor\", did you mean \"selector\"?",
        );
        refused(
            &with("ttl=3600"),
            "ttl: must be a duration such as 30s, 5m or 1h30m",
        );
        refused(
            &with("jwt_ttl=0s"),
            "jwt_ttl: must be a duration such as 30s, 5m or 1h30m",
        );
        refused(
            &with("selector=unix"),
            "selector: selector \"unix\" must be formatted as type:value",
        );
        refused(&with("dns=a b"), "dns_names: \"a b\" is not a DNS name");
        refused(&with("hint="), "hint: has 0 bytes, 1 to 1024 are possible");
        refused(&with("id=spiffe://example.org/x"), "id: is given twice");
        refused(&with("hint"), "hint: must be followed by '=' and a value");
        refused(&with(""), ": must be followed by '=' and a value");
        refused(&with("hint=\\x"), "\\: must be followed by ',' or '\\'");
        refused("selector=unix:uid:0", "id: is required");
        refused("id=spiffe://example.org/web", "selector: is required");
        refused(
            "id=example.org/web,selector=unix:uid:0",
            "id: \"example.org/web\" is no SPIFFE ID: the scheme is not 'spiffe://', in lower case",
        );
    }

    proptest! {
        #[test]
        fn any_hint_arrives_when_escaped(hint in ".{1,40}") {
            let escaped = hint.replace('\\', "\\\\").replace(',', "\\,");
            let entry = parse(&format!("hint={escaped},id=spiffe://example.org/web,selector=unix:uid:0")).unwrap();
            prop_assert_eq!(entry.params().hint.as_ref(), Some(&hint));
        }

        #[test]
        fn random_text_never_panics(text in ".*") {
            let _ = parse(&text);
        }
    }
}
