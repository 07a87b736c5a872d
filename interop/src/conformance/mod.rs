//! The catalogue of the public SPIFFE conformance suite, replayed: one case for each of its names.
//!
//! A case plays the Workload API on a Unix socket, starts a harness (contract version 1) as a process and judges what it
//! sees on the network. Harnesses are programs on one library each: ours (`conformance_harness`), which is to lose what
//! is listed in [`OURS`] and nothing else, and one on go-spiffe, whose losses show that the cases can fail.
//!
//! Names, levels and meaning of the cases are the catalogue's; certificates and tokens come from rcgen and AWS-LC, not from
//! our issuer.

mod api;
mod certificates;
mod endpoint;
mod identifiers;
mod page;
mod stage;
mod tokens;
mod wire;
mod with_jwt;
mod with_x509;

use std::process::Command;
use std::time::Duration;

use crate::Case;
pub(crate) use crate::conformance::stage::{Running, Starting, Verdict};

use crate::conformance::endpoint::served;
use crate::conformance::stage::Stage;
use crate::lab::Lab;
use crate::outcome::{Trouble, ensure};

/// How much a name of the catalogue binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Must,
    Should,
    Opt,
}

/// One name of the catalogue.
pub(crate) struct Entry {
    name: String,
    level: Level,
    /// What the library does, in a sentence without its subject.
    what: &'static str,
    run: Box<dyn Fn(Command) -> Result<(), Trouble>>,
}

impl Entry {
    fn new(
        name: impl Into<String>,
        level: Level,
        what: &'static str,
        run: impl Fn(Command) -> Result<(), Trouble> + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            level,
            what,
            run: Box::new(run),
        }
    }

    /// An entry that begins with a Workload API that says what is good.
    fn on_stage(
        name: impl Into<String>,
        level: Level,
        what: &'static str,
        run: impl Fn(&Stage) -> Result<(), Trouble> + 'static,
    ) -> Self {
        Self::new(name, level, what, move |harness| run(&Stage::new(harness)?))
    }
}

/// A harness and what is known of its library.
#[derive(Debug)]
pub(crate) struct Subject {
    /// The group of its cases.
    group: &'static str,
    harness: fn(&Lab) -> Result<Command, Trouble>,
    /// The entries that it loses, each with the reason, reviewed. What is lost no more must leave the list.
    losses: &'static [(&'static str, &'static str)],
}

const OURS: Subject = Subject {
    group: "conformance",
    harness: |lab| Ok(lab.ours()?.harness()),
    losses: &[(
        "JB-5/missing-use",
        "a SPIRE agent leaves `use` out, and the standard asks for a plain key set here: DEC-13",
    )],
};

const GO_SPIFFE: Subject = Subject {
    group: "conformance-go",
    harness: |lab| {
        let mut command = Command::new(lab.go_peer()?);
        command.arg("harness");
        Ok(command)
    },
    losses: &[
        ("WA-4", "serves what it holds until it expires"),
        ("XV-14/server", "asks for a path in its own SVID alone"),
        ("XV-14/client", "the same"),
        ("JV-22", "wants a `kid`"),
        ("JB-5/x509-svid-use", "looks at no `use`"),
        ("JB-5/missing-use", "the same"),
        ("JB-6", "one unknown key discards the whole set"),
        ("HX-1", "takes what its Workload API says"),
        ("HX-2", "the same"),
        ("HX-3", "the same"),
        ("HX-9", "the same"),
    ],
};

/// All entries, in the catalogue's order.
fn entries() -> Vec<Entry> {
    [
        endpoint::entries(),
        with_x509::entries(),
        with_jwt::entries(),
        identifiers::entries(),
        with_x509::hardening(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A check that begins with a Workload API that says what is good.
type OnStage = fn(&Stage) -> Result<(), Trouble>;

/// What the contract asks of a harness beside what the catalogue looks at.
const CONTRACT: &[(&str, OnStage)] = &[
    ("contract/info", |stage| {
        let answer = stage.start()?.get("/v1/info")?;
        expect("the status", &answer.status, &200)?;
        for member in ["sdk", "sdk_version", "language"] {
            let text = answer.body[member].as_str().unwrap_or_default();
            ensure(!text.is_empty(), || {
                format!("no `{member}` in {}", answer.body)
            })?;
        }
        Ok(())
    }),
    ("contract/sigterm", |stage| {
        let running = served(stage)?;
        running.terminate(ENDS_WITHIN)
    }),
];

/// How long after SIGTERM the suite waits before it kills a harness.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// A case for each entry and subject, two on the contract, and one for the page that tells of them.
pub(crate) fn cases() -> Vec<Case> {
    let of = |subject: &'static Subject| {
        let entries = entries().into_iter().map(move |entry| {
            Case::new(format!("{}/{}", subject.group, entry.name), move |lab| {
                let outcome = (entry.run)((subject.harness)(lab)?);
                subject.review(&entry.name, outcome)
            })
        });
        let contract = CONTRACT.iter().map(move |(name, check)| {
            Case::new(format!("{}/{name}", subject.group), move |lab| {
                check(&Stage::new((subject.harness)(lab)?)?)
            })
        });
        entries.chain(contract)
    };
    let page = Case::new(format!("{}/page", OURS.group), |_| page::check());
    of(&OURS).chain(of(&GO_SPIFFE)).chain([page]).collect()
}

impl Subject {
    fn reason_to_lose(&self, name: &str) -> Option<&'static str> {
        let known = self.losses.iter().find(|(known, _)| *known == name);
        known.map(|(_, why)| *why)
    }

    /// Good when the outcome is the one that is known.
    fn review(&self, name: &str, outcome: Result<(), Trouble>) -> Result<(), Trouble> {
        match (self.reason_to_lose(name), outcome) {
            (Some(_), Err(Trouble::Failed(_))) => Ok(()),
            (Some(_), Ok(())) => Err(Trouble::failed(
                "is on the reviewed list of losses, but is not lost",
            )),
            (_, outcome) => outcome,
        }
    }
}

/// The catalogue's word and ours for the same.
impl Level {
    const fn word(self) -> &'static str {
        match self {
            Self::Must => "MUST",
            Self::Should => "SHOULD",
            Self::Opt => "OPT",
        }
    }
}

/// `Ok` when both are the same.
fn expect<T: PartialEq + std::fmt::Debug>(
    what: &str,
    found: &T,
    wanted: &T,
) -> Result<(), Trouble> {
    ensure(found == wanted, || {
        format!("{what}: {found:?}, not {wanted:?}")
    })
}
