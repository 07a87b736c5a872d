//! Distinguished names of the few attributes that an issuer writes: RFC 5280 §4.1.2.4, X.520.

use crate::der::{OBJECT_IDENTIFIER, PRINTABLE_STRING, SET, UTF8_STRING, element, sequence};

/// The most characters of a name's attribute: the upper bound of RFC 5280 Appendix A.1 for all those used here.
pub const MAX_NAME_ATTRIBUTE_CHARS: usize = 64;

/// A distinguished name, one attribute after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DistinguishedName {
    attributes: Vec<u8>,
}

impl DistinguishedName {
    /// The empty name.
    pub fn new() -> Self {
        Self::default()
    }

    /// `C=US,O=SPIFFE`, what SPIRE's authorities are called too.
    pub fn spiffe() -> Self {
        Self::new().with(COUNTRY, "US").with(ORGANIZATION, "SPIFFE")
    }

    /// `C=US,O=SPIRE`, what SPIRE's X.509-SVIDs are called.
    pub fn spire() -> Self {
        Self::new().with(COUNTRY, "US").with(ORGANIZATION, "SPIRE")
    }

    /// The same name and an organization; `None` for a text that is empty or too long.
    pub fn with_organization(self, name: &str) -> Option<Self> {
        self.checked(ORGANIZATION, name)
    }

    /// The same name and a common name; `None` for a text that is empty or too long.
    pub fn with_common_name(self, name: &str) -> Option<Self> {
        self.checked(COMMON_NAME, name)
    }

    /// The same name and an organizational unit; `None` for a text that is empty or too long.
    pub fn with_organizational_unit(self, name: &str) -> Option<Self> {
        self.checked(ORGANIZATIONAL_UNIT, name)
    }

    /// The same name and the serialNumber attribute, which makes names of like authorities differ.
    pub(crate) fn with_serial_number(self, number: &str) -> Self {
        self.with(SERIAL_NUMBER, number)
    }

    /// Whether it has no attribute.
    pub fn is_empty(&self) -> bool {
        self.attributes.is_empty()
    }

    /// The Name in DER.
    pub fn to_der(&self) -> Vec<u8> {
        sequence(&[&self.attributes])
    }

    fn checked(self, kind: u8, value: &str) -> Option<Self> {
        (1..=MAX_NAME_ATTRIBUTE_CHARS)
            .contains(&value.chars().count())
            .then(|| self.with(kind, value))
    }

    fn with(mut self, kind: u8, value: &str) -> Self {
        let tag = if value.bytes().all(is_printable) {
            PRINTABLE_STRING
        } else {
            UTF8_STRING
        };
        self.attributes.extend(element(
            SET,
            &[&sequence(&[
                &element(OBJECT_IDENTIFIER, &[&[0x55, 0x04, kind]]),
                &element(tag, &[value.as_bytes()]),
            ])],
        ));
        self
    }
}

/// The characters of a PrintableString: X.680 §41.4.
const fn is_printable(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b' ' | b'\'' | b'(' | b')' | b'+' | b',' | b'-' | b'.' | b'/' | b':' | b'=' | b'?'
        )
}

// The last arc of the attributes under 2.5.4.
const COMMON_NAME: u8 = 3;
const SERIAL_NUMBER: u8 = 5;
const COUNTRY: u8 = 6;
const ORGANIZATION: u8 = 10;
const ORGANIZATIONAL_UNIT: u8 = 11;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_name_of_authorities_is_spires() {
        assert_eq!(
            DistinguishedName::spiffe().to_der(),
            b"\x30\x1e\x31\x0b\x30\x09\x06\x03\x55\x04\x06\x13\x02US\x31\x0f\x30\x0d\x06\x03\x55\x04\x0a\x13\x06SPIFFE"
        );
        assert_eq!(DistinguishedName::new().to_der(), [0x30, 0]);
    }

    #[test]
    fn what_is_not_printable_is_utf8() {
        let name = DistinguishedName::new().with_common_name("a_b").unwrap();
        assert_eq!(
            name.to_der(),
            b"\x30\x0e\x31\x0c\x30\x0a\x06\x03\x55\x04\x03\x0c\x03a_b"
        );
    }

    #[test]
    fn attributes_are_bounded() {
        let name = |length| DistinguishedName::new().with_common_name(&"x".repeat(length));
        assert!(name(64).is_some());
        assert_eq!(name(65), None);
        assert_eq!(name(0), None);
    }
}
