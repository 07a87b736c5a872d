//! Policies: what is parsed is written back, and the decision, its explanation and the alternatives agree. The input is a
//! policy and, behind a null byte, an ID.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spiffe_core::{Authorizer, Outcome, PeerFacts, Policy, SpiffeIdRef, TrustDomainRef};
use spiffe_fuzz::NOW;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (policy, id) = text.split_once('\0').unwrap_or((text, "spiffe://a/ns/x"));
    let Ok(policy) = policy.parse::<Policy>() else {
        return;
    };
    assert_eq!(policy.to_string().parse().as_ref(), Ok(&policy));
    let Ok(id) = SpiffeIdRef::parse(id) else {
        return;
    };
    let peer = PeerFacts::new(id, NOW, NOW, 1);
    let allowed = policy.allows(id);
    assert_eq!(policy.authorize(&peer).is_ok(), allowed);
    let tree = policy.explain(&peer);
    assert_eq!(tree.outcome == Outcome::Pass, allowed);
    assert_eq!(tree.first_failure().is_none(), allowed);
    let either = Policy::one_of([policy.clone(), Policy::id(id.to_owned())]);
    assert!(either.allows(id));
    let elsewhere = Policy::trust_domain(TrustDomainRef::literal("nowhere.example").to_owned());
    assert_eq!(
        Policy::one_of([policy, elsewhere.clone()]).allows(id),
        allowed || elsewhere.allows(id)
    );
});
