//! PKCS#11 URIs (RFC 7512): which token holds the keys, and how it is reached.
//!
//! The path names the token and stays the same for as long as the keys do; the query says where the module and the PIN
//! are found on this machine. Of the standard's attributes those are taken that say this, and no others.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use zeroize::Zeroizing;

use crate::error::TokenUriError;

/// The most bytes of a URI.
pub const MAX_TOKEN_URI_BYTES: usize = 4096;

/// A PKCS#11 URI such as `pkcs11:token=ca?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/pin`.
///
/// - `token`, the token's label, or `serial`, its serial number, or both; required.
/// - `object`: what the labels of the keys begin with, for several trust domains in one token.
/// - `module-path`: the file of the PKCS#11 module; required.
/// - `pin-source`: the file that holds the user's PIN, as a path or `file:` URI; or `pin-value`, the PIN itself.
///   Without either the token is asked to take its PIN from its own keypad.
///
/// Its text form, what [`Display`](fmt::Display) writes, is without the PIN.
#[derive(Clone)]
pub struct TokenUri {
    pub(super) token: Option<String>,
    pub(super) serial: Option<String>,
    pub(super) object: Option<String>,
    pub(super) module: PathBuf,
    pub(super) pin: Pin,
}

/// Where the PIN comes from.
#[derive(Clone)]
pub(super) enum Pin {
    /// From the token's own keypad.
    Keypad,
    /// From this file.
    Source(String),
    /// It is this.
    Value(Zeroizing<String>),
}

impl TokenUri {
    /// The same keys under labels that begin with `object`, unless the URI names another beginning.
    #[must_use]
    pub fn or_object(mut self, object: &str) -> Self {
        self.object.get_or_insert_with(|| object.into());
        self
    }

    /// The label in the token of the key with this name.
    pub(super) fn label(&self, name: &str) -> String {
        match &self.object {
            Some(object) => format!("{object}/{name}"),
            None => name.into(),
        }
    }

    /// The name of the key with this label, where it is one of these keys.
    pub(super) fn name<'a>(&self, label: &'a str) -> Option<&'a str> {
        match &self.object {
            Some(object) => label.strip_prefix(object.as_str())?.strip_prefix('/'),
            None => Some(label),
        }
    }

    /// The file that holds the PIN.
    pub(super) fn pin_file(source: &str) -> PathBuf {
        let path = source.strip_prefix("file:").unwrap_or(source);
        path.strip_prefix("//").unwrap_or(path).into()
    }
}

impl FromStr for TokenUri {
    type Err = TokenUriError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_TOKEN_URI_BYTES {
            return Err(TokenUriError::TooLong);
        }
        let rest = text.strip_prefix("pkcs11:").ok_or(TokenUriError::Scheme)?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (mut token, mut serial, mut object) = (None, None, None);
        let (mut module, mut source, mut value) = (None, None, None);
        let attributes = path.split(';').map(|part| (part, false));
        for (part, in_query) in attributes.chain(query.split('&').map(|part| (part, true))) {
            if part.is_empty() {
                continue;
            }
            let (name, encoded) = part.split_once('=').unwrap_or((part, ""));
            let place = match (name, in_query) {
                ("token", false) => &mut token,
                ("serial", false) => &mut serial,
                ("object", false) => &mut object,
                ("module-path", true) => &mut module,
                ("pin-source", true) => &mut source,
                ("pin-value", true) => &mut value,
                _ => return Err(TokenUriError::Attribute { name: name.into() }),
            };
            let decoded = decoded(encoded).filter(|decoded| !decoded.is_empty());
            let decoded = decoded.ok_or_else(|| TokenUriError::Value { name: name.into() })?;
            if place.replace(decoded).is_some() {
                return Err(TokenUriError::Repeated { name: name.into() });
            }
        }
        if token.is_none() && serial.is_none() {
            return Err(TokenUriError::Missing { name: "token" });
        }
        let take = |text: Option<Zeroizing<String>>| text.map(|text| (*text).clone());
        Ok(Self {
            token: take(token),
            serial: take(serial),
            object: take(object),
            module: take(module)
                .ok_or(TokenUriError::Missing {
                    name: "module-path",
                })?
                .into(),
            pin: match (take(source), value) {
                (None, None) => Pin::Keypad,
                (Some(source), None) => Pin::Source(source),
                (None, Some(value)) => Pin::Value(value),
                (Some(_), Some(_)) => {
                    return Err(TokenUriError::Repeated {
                        name: "pin-value".into(),
                    });
                }
            },
        })
    }
}

impl fmt::Display for TokenUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("pkcs11:")?;
        let path = [
            ("token", &self.token),
            ("serial", &self.serial),
            ("object", &self.object),
        ];
        let mut separator = "";
        for (name, value) in path {
            if let Some(value) = value {
                write!(f, "{separator}{name}={}", Encoded(value))?;
                separator = ";";
            }
        }
        let module = self.module.to_string_lossy();
        write!(f, "?module-path={}", Encoded(&module))?;
        if let Pin::Source(source) = &self.pin {
            write!(f, "&pin-source={}", Encoded(source))?;
        }
        Ok(())
    }
}

impl fmt::Debug for TokenUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenUri({self})")
    }
}

/// RFC 3986 §2.1; `None` where an escape is broken or the bytes are not UTF-8.
fn decoded(text: &str) -> Option<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let value = digit()? << 4 | digit()?;
        bytes.push(value as u8);
    }
    let text = std::str::from_utf8(&bytes).ok()?;
    Some(Zeroizing::new(text.to_owned()))
}

/// A value with everything escaped that is special in one of the places it may stand in.
struct Encoded<'a>(&'a str);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~:/".contains(&byte) {
                write!(f, "{}", char::from(byte))?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE: &str = "module-path=/usr/lib/softhsm/libsofthsm2.so";

    fn parse(text: &str) -> Result<TokenUri, TokenUriError> {
        text.parse()
    }

    #[test]
    fn the_text_form_is_read_back_and_has_no_pin() {
        let text = format!(
            "pkcs11:token=my%20token;serial=12ab;object=example.org?{MODULE}&pin-value=s3cret"
        );
        let uri = parse(&text).unwrap();
        assert_eq!(uri.token.as_deref(), Some("my token"));
        assert_eq!(
            uri.to_string(),
            format!("pkcs11:token=my%20token;serial=12ab;object=example.org?{MODULE}")
        );
        assert!(!format!("{uri:?}").contains("s3cret"));
        assert!(matches!(&uri.pin, Pin::Value(pin) if **pin == "s3cret"));
        let text = format!("pkcs11:token=a?{MODULE}&pin-source=file:/run/pin");
        assert_eq!(parse(&text).unwrap().to_string(), text);
    }

    #[test]
    fn a_file_of_the_pin_is_a_path_or_a_uri() {
        for source in ["/run/pin", "file:/run/pin", "file:///run/pin"] {
            assert_eq!(TokenUri::pin_file(source), PathBuf::from("/run/pin"));
        }
    }

    #[test]
    fn labels_tell_the_keys_of_one_trust_domain_from_others() {
        let uri = parse(&format!("pkcs11:token=a?{MODULE}")).unwrap();
        assert_eq!(uri.label("x509-CA-A"), "x509-CA-A");
        let uri = uri.or_object("example.org");
        assert_eq!(uri.label("x509-CA-A"), "example.org/x509-CA-A");
        assert_eq!(uri.name("example.org/x509-CA-A"), Some("x509-CA-A"));
        assert_eq!(uri.name("example.org.evil/x509-CA-A"), None);
        assert_eq!(
            uri.or_object("other").object.as_deref(),
            Some("example.org")
        );
    }

    #[test]
    fn what_cannot_be_is_named() {
        let name = |text: &str| parse(text).unwrap_err().to_string();
        for (text, told) in [
            ("disk".to_owned(), "pkcs11:"),
            (format!("pkcs11:?{MODULE}"), "no token"),
            ("pkcs11:token=a".into(), "no module-path"),
            (format!("pkcs11:token=a;token=b?{MODULE}"), "token twice"),
            (format!("pkcs11:token=a;slot-id=1?{MODULE}"), "slot-id"),
            (format!("pkcs11:token=a?{MODULE}&token=b"), "token"),
            (format!("pkcs11:token=%zz?{MODULE}"), "token"),
            (format!("pkcs11:token=%ff?{MODULE}"), "token"),
            (format!("pkcs11:token=?{MODULE}"), "token"),
            (
                format!("pkcs11:token={}?{MODULE}", "a".repeat(4096)),
                "4096",
            ),
            (
                format!("pkcs11:token=a?{MODULE}&pin-value=1&pin-source=2"),
                "pin-value",
            ),
        ] {
            let error = name(&text);
            assert!(error.contains(told), "{text}: {error}");
        }
        assert!(!name(&format!("pkcs11:token=a?{MODULE}&pin-value=s3%cret")).contains("s3"));
    }
}
