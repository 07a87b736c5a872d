//! XS, XV, XF and HX: the X.509-SVID that is presented, those of peers, and those that the Workload API should not send.

use rcgen::KeyUsagePurpose::{CrlSign, KeyCertSign};

use crate::conformance::certificates::{Authority, Leaf, Svid};
use crate::conformance::endpoint::{is_ignored, served};
use crate::conformance::stage::{PEER, Running, Stage, Update, Verdict, WORKLOAD};
use crate::conformance::{Entry, Level, expect};
use crate::outcome::Trouble;

const FEDERATED_PEER: &str = "spiffe://fed.example.org/peer";

pub(crate) fn entries() -> Vec<Entry> {
    use Level::Must;
    let mut all = vec![
        Entry::on_stage(
            "XS-1",
            Must,
            "presents the SVID that it was given",
            |stage| served(stage).map(drop),
        ),
        Entry::on_stage(
            "XS-2",
            Must,
            "presents the whole chain, leaf first",
            |stage| {
                let svid = stage.authority.intermediate("below")?.svid(WORKLOAD)?;
                stage.say(&stage.update(&svid));
                stage.start()?.until_served(&stage.good, &svid).map(drop)
            },
        ),
        Entry::on_stage(
            "XS-3",
            Must,
            "presents a rotated SVID on new connections",
            |stage| {
                let running = served(stage)?;
                let next = stage.authority.svid(WORKLOAD)?;
                stage.say(&stage.update(&next));
                running.until_served(&stage.good, &next).map(drop)
            },
        ),
        Entry::on_stage(
            "XS-4",
            Must,
            "trusts each of several authorities of a bundle",
            |stage| {
                let second = Authority::root("second")?;
                let peer = second.svid(PEER)?;
                let running = served(stage)?;
                expect("before", &running.judge_client(&peer)?, &Verdict::Rejected)?;
                let next = stage.authority.svid(WORKLOAD)?;
                stage.say(&with_authority(stage.update(&next), &second));
                running.until_served(&stage.good, &next)?;
                accepts(&running, Role::Server, &stage.good)?;
                accepts(&running, Role::Server, &peer)
            },
        ),
        Entry::on_stage(
            "XS-5",
            Must,
            "stops trusting an authority that left the bundle",
            |stage| {
                let second = Authority::root("second")?;
                let peer = second.svid(PEER)?;
                stage.say(&with_authority(stage.update(&stage.first), &second));
                let running = served(stage)?;
                accepts(&running, Role::Server, &peer)?;
                let next = stage.authority.svid(WORKLOAD)?;
                stage.say(&stage.update(&next));
                running.until_served(&stage.good, &next)?;
                rejects(&running, Role::Server, &peer)
            },
        ),
    ];
    for role in [Role::Server, Role::Client] {
        all.extend(PEERS.iter().map(|peer| peer.entry(role)));
        all.push(Entry::on_stage(
            format!("XF-3/{}", role.word()),
            Must,
            "stops trusting a federated trust domain that a later response omits",
            move |stage| {
                let running = served(stage)?;
                let peer = stage.federated.svid(FEDERATED_PEER)?;
                accepts(&running, role, &peer)?;
                let next = stage.authority.svid(WORKLOAD)?;
                let mut update = stage.update(&next);
                update.0.federated_bundles.clear();
                stage.say(&update);
                running.until_served(&stage.good, &next)?;
                rejects(&running, role, &peer)
            },
        ));
    }
    all
}

/// HX: what nobody has to check, but a careful client does.
pub(crate) fn hardening() -> Vec<Entry> {
    let entry = |(name, what, make): &'static (&str, &str, Make<Update>)| {
        Entry::on_stage(*name, Level::Opt, what, move |stage| {
            is_ignored(stage, &make(stage)?)
        })
    };
    HARDENING.iter().map(entry).collect()
}

/// Makes what a case needs, with the authorities of its stage.
type Make<T> = fn(&Stage) -> Result<T, Trouble>;

const HARDENING: &[(&str, &str, Make<Update>)] = &[
    (
        "HX-1",
        "ignores an own SVID with a bad signature",
        |stage| {
            let svid = stage.authority.svid(WORKLOAD)?;
            Ok(stage.update(&svid.with_broken_signature()))
        },
    ),
    (
        "HX-2",
        "ignores an own SVID of another authority",
        |stage| Ok(stage.update(&Authority::root("elsewhere")?.svid(WORKLOAD)?)),
    ),
    ("HX-3", "ignores an own SVID that has expired", |stage| {
        let mut leaf = Leaf::named(&[WORKLOAD]);
        leaf.valid = EXPIRED;
        Ok(stage.update(&stage.authority.issue(&leaf)?))
    }),
    ("HX-4", "ignores an own SVID with cA", |stage| {
        let mut leaf = Leaf::named(&[WORKLOAD]);
        leaf.is_ca = true;
        Ok(stage.update(&stage.authority.issue(&leaf)?))
    }),
    ("HX-5", "ignores an own SVID with keyCertSign", |stage| {
        let mut leaf = Leaf::named(&[WORKLOAD]);
        leaf.usages = &[KeyCertSign];
        Ok(stage.update(&stage.authority.issue(&leaf)?))
    }),
    ("HX-6", "ignores an own SVID with two URI names", |stage| {
        let leaf = Leaf::named(&[WORKLOAD, PEER]);
        Ok(stage.update(&stage.authority.issue(&leaf)?))
    }),
    (
        "HX-7",
        "ignores an own SVID with another kind of URI",
        |stage| {
            let leaf = Leaf::named(&["https://example.org/workload"]);
            let mut update = stage.update(&stage.authority.issue(&leaf)?);
            update.0.svids[0].spiffe_id = WORKLOAD.into();
            Ok(update)
        },
    ),
    ("HX-8", "ignores an own SVID with another's key", |stage| {
        let mut svid = stage.authority.svid(WORKLOAD)?;
        svid.key = stage.authority.svid(WORKLOAD)?.key;
        Ok(stage.update(&svid))
    }),
    (
        "HX-9",
        "ignores an own SVID under another `spiffe_id`",
        |stage| {
            let mut update = stage.update(&stage.authority.svid(WORKLOAD)?);
            update.0.svids[0].spiffe_id = PEER.into();
            Ok(update)
        },
    ),
];

/// A peer that is good or not in both roles.
struct Peer {
    name: &'static str,
    what: &'static str,
    is_good: bool,
    make: Make<Svid>,
}

impl Peer {
    const fn good(name: &'static str, what: &'static str, make: Make<Svid>) -> Self {
        Self {
            name,
            what,
            is_good: true,
            make,
        }
    }

    const fn bad(name: &'static str, what: &'static str, make: Make<Svid>) -> Self {
        Self {
            name,
            what,
            is_good: false,
            make,
        }
    }

    fn entry(&'static self, role: Role) -> Entry {
        let name = format!("{}/{}", self.name, role.word());
        Entry::on_stage(name, Level::Must, self.what, move |stage| {
            let running = stage.start()?;
            accepts(&running, role, &stage.good)?;
            let peer = (self.make)(stage)?;
            if self.is_good {
                accepts(&running, role, &peer)
            } else {
                rejects(&running, role, &peer)
            }
        })
    }
}

const PEERS: &[Peer] = &[
    Peer::good("XV-1", "accepts a plain leaf", |stage| {
        stage.authority.svid(PEER)
    }),
    Peer::good("XV-2", "accepts a leaf below an intermediate", |stage| {
        stage.authority.intermediate("below")?.svid(PEER)
    }),
    Peer::good("XV-3", "accepts DNS names beside the URI", |stage| {
        let mut leaf = Leaf::named(&[PEER]);
        leaf.dns = &["peer.example.org", "localhost"];
        stage.authority.issue(&leaf)
    }),
    Peer::good("XV-4", "accepts an empty subject", |stage| {
        let mut leaf = Leaf::named(&[PEER]);
        leaf.empty_subject = true;
        stage.authority.issue(&leaf)
    }),
    Peer::bad(
        "XV-5",
        "rejects an authority that is not in the bundle",
        |_| Authority::root("example.org")?.svid(PEER),
    ),
    Peer::bad("XV-6", "rejects an expired leaf", |stage| {
        let mut leaf = Leaf::named(&[PEER]);
        leaf.valid = EXPIRED;
        stage.authority.issue(&leaf)
    }),
    Peer::bad("XV-7", "rejects a leaf that is not valid yet", |stage| {
        let mut leaf = Leaf::named(&[PEER]);
        leaf.valid = (30, 60);
        stage.authority.issue(&leaf)
    }),
    Peer::bad("XV-8", "rejects a leaf with cA", |stage| {
        let mut leaf = Leaf::named(&[PEER]);
        leaf.is_ca = true;
        stage.authority.issue(&leaf)
    }),
    Peer::bad("XV-9", "rejects a leaf with keyCertSign", |stage| {
        let mut leaf = Leaf::named(&[PEER]);
        leaf.usages = &[KeyCertSign];
        stage.authority.issue(&leaf)
    }),
    Peer::bad("XV-10", "rejects a leaf with cRLSign", |stage| {
        let mut leaf = Leaf::named(&[PEER]);
        leaf.usages = &[CrlSign];
        stage.authority.issue(&leaf)
    }),
    Peer::bad("XV-11", "rejects a leaf with two URI names", |stage| {
        let leaf = Leaf::named(&[PEER, "spiffe://example.org/second"]);
        stage.authority.issue(&leaf)
    }),
    Peer::bad("XV-12", "rejects a leaf without a URI", |stage| {
        let mut leaf = Leaf::named(&[]);
        leaf.dns = &["peer.example.org"];
        stage.authority.issue(&leaf)
    }),
    Peer::bad(
        "XV-13",
        "rejects a leaf with another kind of URI",
        |stage| stage.authority.svid("https://example.org/peer"),
    ),
    Peer::bad("XV-14", "rejects a leaf whose ID has no path", |stage| {
        stage.authority.svid("spiffe://example.org")
    }),
    Peer::bad(
        "XV-15",
        "rejects a trust domain without a bundle, whoever signed",
        |stage| stage.authority.svid("spiffe://other.example.org/peer"),
    ),
    Peer::good(
        "XF-1",
        "accepts a peer of a federated trust domain",
        |stage| stage.federated.svid(FEDERATED_PEER),
    ),
    Peer::bad(
        "XF-2",
        "rejects a federated name under another trust domain's authority",
        |stage| stage.authority.svid(FEDERATED_PEER),
    ),
];

/// Which side of the connection the harness is on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Role {
    Client,
    Server,
}

impl Role {
    const fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

fn judge(running: &Running, role: Role, peer: &Svid) -> Result<Verdict, Trouble> {
    match role {
        Role::Client => running.judge_server(peer),
        Role::Server => running.judge_client(peer),
    }
}

pub(crate) fn accepts(running: &Running, role: Role, peer: &Svid) -> Result<(), Trouble> {
    let wanted = Verdict::Accepted(peer.id.clone());
    expect("a good peer", &judge(running, role, peer)?, &wanted)
}

pub(crate) fn rejects(running: &Running, role: Role, peer: &Svid) -> Result<(), Trouble> {
    expect(
        "a bad peer",
        &judge(running, role, peer)?,
        &Verdict::Rejected,
    )
}

fn with_authority(mut update: Update, authority: &Authority) -> Update {
    for svid in &mut update.0.svids {
        svid.bundle.extend(&authority.der);
    }
    update
}

/// In minutes from now: beyond what any clock is off.
const EXPIRED: (i64, i64) = (-60, -30);
