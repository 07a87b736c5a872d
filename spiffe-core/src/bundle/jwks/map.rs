//! Bundle Maps: the bundles of several trust domains in one document, Trust Domain and Bundle §5.1.

use super::{Bundle, BundleError, read};
use crate::bundle::BundleSet;
use crate::json::{Value, shortened};
use crate::{Rule, TrustDomain};

impl BundleSet {
    /// Parses a Bundle Map. It is the state of the world: one bundle that cannot be read refuses the whole.
    ///
    /// Hints of the bundles within are kept with them and say nothing about the map's own refresh (§5.1.1 there).
    ///
    /// # Errors
    ///
    /// [`Rule::BundleMap`] for a document without an object of trust domains, [`Rule::BundleTrustDomain`] for a key that
    /// is no trust domain's name, and everything that refuses a bundle document; a trust domain that is listed twice is
    /// [`Rule::BundleDuplicateMember`].
    pub fn from_bundle_map_json(document: impl AsRef<[u8]>) -> Result<Self, BundleError> {
        let document = read(document.as_ref())?;
        let Some(Value::Object(trust_domains)) = document.get("trust_domains") else {
            let reason = "the document has no member trust_domains that is an object";
            return Err(BundleError::new(Rule::BundleMap, reason));
        };
        trust_domains
            .iter()
            .map(|(name, value)| {
                let named = |rule, reason: &dyn std::fmt::Display| {
                    let reason = format!("trust domain \"{}\": {reason}", shortened(name));
                    BundleError::new(rule, reason)
                };
                let trust_domain = TrustDomain::parse(name)
                    .map_err(|error| named(Rule::BundleTrustDomain, &error))?;
                let Value::Object(bundle) = value else {
                    let reason = format!("its bundle is {}, not an object", value.kind());
                    return Err(named(Rule::BundleJson, &reason));
                };
                Bundle::from_object(trust_domain, bundle)
                    .map_err(|error| named(error.rule(), &error))
            })
            .collect()
    }

    /// Writes a Bundle Map, ordered by trust domain, without the bundles' refresh hints (§5.1.1 there).
    pub fn to_bundle_map_json(&self) -> String {
        let mut out = String::from("{\"trust_domains\":{");
        for (at, bundle) in self.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            // A trust domain's name holds nothing that JSON escapes.
            out.push_str(&format!("{comma}\"{}\":", bundle.trust_domain()));
            bundle.push_document(&mut out, None);
        }
        out.push_str("}}");
        out
    }
}
