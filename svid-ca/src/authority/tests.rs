use proptest::prelude::*;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const START: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
const LIFE: Duration = Duration::from_secs(24 * 3600);

/// What runs the machine in these tests: makes authorities out of nothing and checks every step.
struct Domain {
    state: State,
    rules: Rollover,
    made: u32,
}

impl Domain {
    fn new() -> Self {
        Self {
            state: State::new(),
            rules: Rollover::default(),
            made: 0,
        }
    }

    /// A domain whose first X.509 authority, "1", signs since [`START`].
    fn started() -> Self {
        let mut domain = Self::new();
        domain.settle(START, &Evidence::unknown());
        domain
    }

    fn input(&mut self, now: Timestamp, input: Input<'_>) -> Result<Vec<Action>, LifecycleError> {
        let (next, actions) = self.state.step(Kind::X509, now, input, &self.rules)?;
        check_step(&self.state, &next, now, &self.rules);
        self.state = next;
        for action in &actions {
            if let Action::Generate { slot } = action {
                self.made += 1;
                let key = PublicHalf::Key(Vec::new().into());
                let id = self.made.to_string();
                let authority = Authority::prepared(id, *slot, now, now + LIFE, key);
                return self.input(now, Input::Publish(authority));
            }
        }
        Ok(actions)
    }

    fn tick(&mut self, now: Timestamp, evidence: &Evidence) -> Vec<Action> {
        self.input(now, Input::Tick(evidence)).unwrap()
    }

    /// Ticks until nothing changes any more.
    fn settle(&mut self, now: Timestamp, evidence: &Evidence) -> Vec<Action> {
        let mut all = Vec::new();
        loop {
            let before = self.state.clone();
            let actions = self.tick(now, evidence);
            all.extend(actions);
            if self.state == before {
                return all;
            }
        }
    }

    fn command(
        &mut self,
        command: Command,
        evidence: &Evidence,
    ) -> Result<Vec<Action>, LifecycleError> {
        self.input(START + HOUR, Input::Command(command, evidence))
    }

    fn status(&self, id: &str) -> Option<Status> {
        self.state.x509.find(id).map(Authority::status)
    }

    fn active(&self) -> &str {
        self.state.x509.active().unwrap().id()
    }
}

/// What holds for every step but a forced retirement.
#[track_caller]
fn check_step(before: &State, after: &State, now: Timestamp, rules: &Rollover) {
    let contents = |state: &State| -> Vec<_> {
        let listed = |authority: &Authority| {
            let tainted = authority.status == Status::Tainted;
            (authority.id.clone(), tainted)
        };
        state.x509.iter().map(listed).collect()
    };
    assert_eq!(
        contents(before) != contents(after),
        before.sequence != after.sequence,
        "the sequence number changes with the contents"
    );
    assert!(after.sequence >= before.sequence);
    if let Some(active) = after.x509.active() {
        let known = before.x509.find(&active.id);
        assert!(
            known.is_some(),
            "an authority is in a bundle before it signs"
        );
        assert!(active.published <= before.sequence);
    }
    for authority in before.x509.iter() {
        if after.x509.find(&authority.id).is_none() {
            let revoked = authority.status == Status::Tainted;
            let prepared = authority.status == Status::Prepared;
            assert!(
                revoked || prepared || now > authority.signed_until + rules.keep,
                "an authority stays until what it signed has expired"
            );
        }
    }
    let slots: Vec<_> = after.x509.iter().filter_map(Authority::slot).collect();
    assert!(slots.len() <= 2 && (slots.len() < 2 || slots[0] != slots[1]));
    for status in [Status::Active, Status::Prepared] {
        let count = after.x509.iter().filter(|a| a.status == status).count();
        assert!(count <= 1, "{count} are {status}");
    }
}

fn everybody(sequence: u64) -> Evidence {
    Evidence::complete([
        Consumer::new("one", sequence, Grade::Delivered),
        Consumer::new("two", sequence, Grade::Applied),
    ])
}

#[test]
fn the_first_authority_is_published_and_then_signs() {
    let mut domain = Domain::new();
    let published = Action::Published { id: "1".into() };
    assert_eq!(domain.tick(START, &Evidence::unknown()), [published]);
    assert_eq!(domain.status("1"), Some(Status::Prepared));
    let activated = Action::Activated {
        id: "1".into(),
        laggards: vec![],
    };
    assert_eq!(domain.tick(START, &Evidence::unknown()), [activated]);
    assert_eq!(domain.tick(START, &Evidence::unknown()), []);
    assert_eq!(domain.state.sequence(), 1);
}

#[test]
fn the_first_authority_waits_for_nobody_whoever_activates_it() {
    let nobody_asked = Evidence::unknown();
    let activate = || Input::Command(Command::Activate { force: false }, &nobody_asked);
    let mut domain = Domain::new();
    domain.tick(START, &nobody_asked);
    let activated = Action::Activated {
        id: "1".into(),
        laggards: vec![],
    };
    assert_eq!(domain.input(START, activate()).unwrap(), [activated]);
    // The second has somebody to succeed.
    domain.command(Command::Prepare, &nobody_asked).unwrap();
    assert!(matches!(
        domain.input(START, activate()),
        Err(LifecycleError::Laggards { .. })
    ));
}

#[test]
fn the_next_one_is_prepared_at_half_of_the_life() {
    let mut domain = Domain::started();
    assert_eq!(
        domain.tick(START + HOUR * 12 - Duration::from_secs(1), &everybody(1)),
        []
    );
    domain.tick(START + HOUR * 12, &everybody(1));
    assert_eq!(domain.status("2"), Some(Status::Prepared));
    assert_eq!(domain.active(), "1");
    assert_eq!(domain.state.x509.find("2").unwrap().slot(), Some(Slot::B));
}

#[test]
fn long_lives_have_fixed_thresholds() {
    const DAY: Duration = Duration::from_secs(86_400);
    let rules = Rollover::default();
    assert_eq!(rules.prepare.of(DAY * 365), DAY * 30);
    assert_eq!(rules.activate.of(DAY * 365), DAY * 7);
    assert_eq!(rules.prepare.of(DAY * 60), DAY * 30);
    assert_eq!(rules.activate.of(DAY * 6), DAY);
}

#[test]
fn a_prepared_authority_waits_for_every_acknowledgement() {
    let half = START + HOUR * 12;
    let later = half + Duration::from_secs(900);
    let mut domain = Domain::started();
    domain.tick(half, &everybody(1));
    let deadline = START + HOUR * 20;
    let waits = |laggards: &[&str]| Action::Awaiting {
        id: "2".into(),
        laggards: laggards.iter().map(|name| (*name).to_owned()).collect(),
        deadline,
    };
    // Nobody, one of two, one of too low a grade, nobody asked.
    assert_eq!(domain.tick(later, &everybody(1)), [waits(&["one", "two"])]);
    let mixed = |sequence, grade| {
        Evidence::complete([
            Consumer::new("one", 2, Grade::Applied),
            Consumer::new("two", sequence, grade),
        ])
    };
    assert_eq!(
        domain.tick(later, &mixed(1, Grade::Applied)),
        [waits(&["two"])]
    );
    assert_eq!(
        domain.tick(later, &mixed(2, Grade::Unknown)),
        [waits(&["two"])]
    );
    assert_eq!(
        domain.tick(later, &Evidence::unknown()),
        [waits(&["consumers that nobody asked"])]
    );
    assert_eq!(domain.active(), "1");
    // All of them, but federated domains need their time.
    assert_eq!(
        domain.tick(later - Duration::from_secs(1), &everybody(2)),
        [waits(&[])]
    );
    assert_eq!(domain.active(), "1");
    domain.tick(later, &everybody(2));
    assert_eq!(domain.active(), "2");
    assert_eq!(domain.status("1"), Some(Status::Old));
}

#[test]
fn at_the_deadline_it_is_activated_and_the_laggards_are_named() {
    let mut domain = Domain::started();
    domain.tick(START + HOUR * 12, &everybody(1));
    let deadline = START + HOUR * 20;
    domain.tick(deadline - Duration::from_secs(1), &everybody(1));
    assert_eq!(domain.active(), "1");
    let activated = Action::Activated {
        id: "2".into(),
        laggards: vec!["one".into(), "two".into()],
    };
    assert_eq!(domain.tick(deadline, &everybody(1)), [activated]);
}

#[test]
fn the_operator_meets_the_same_gate_and_can_force_it() {
    let mut domain = Domain::started();
    let activate = |force| Command::Activate { force };
    assert_eq!(
        domain.command(activate(true), &everybody(9)),
        Err(LifecycleError::NothingPrepared)
    );
    domain.command(Command::Prepare, &everybody(1)).unwrap();
    assert_eq!(
        domain.command(Command::Prepare, &everybody(1)),
        Err(LifecycleError::AlreadyPrepared { id: "2".into() })
    );
    assert_eq!(
        domain.command(activate(false), &everybody(1)),
        Err(LifecycleError::Laggards {
            id: "2".into(),
            laggards: vec!["one".into(), "two".into()]
        })
    );
    assert_eq!(domain.active(), "1");
    let mut forced = Domain {
        state: domain.state.clone(),
        rules: Rollover::default(),
        made: 2,
    };
    assert_eq!(
        forced.command(activate(true), &everybody(1)).unwrap(),
        [Action::Activated {
            id: "2".into(),
            laggards: vec!["one".into(), "two".into()]
        }]
    );
    assert_eq!(
        domain.command(activate(false), &everybody(2)).unwrap(),
        [Action::Activated {
            id: "2".into(),
            laggards: vec![]
        }]
    );
    assert_eq!((domain.active(), forced.active()), ("2", "2"));
}

#[test]
fn an_old_authority_leaves_after_the_last_thing_it_signed() {
    let mut domain = Domain::started();
    let signed = START + HOUR * 3;
    domain.state.note_signed(Kind::X509, signed);
    domain.state.note_signed(Kind::X509, START + HOUR);
    domain.command(Command::Prepare, &everybody(1)).unwrap();
    domain
        .command(Command::Activate { force: false }, &everybody(2))
        .unwrap();
    let retire = |force| Command::Retire {
        id: "1".into(),
        force,
    };
    let until = signed + Duration::from_secs(60);
    assert_eq!(
        domain.command(retire(false), &everybody(2)),
        Err(LifecycleError::StillInUse {
            id: "1".into(),
            until,
            holders: vec![],
        })
    );
    assert_eq!(domain.tick(until, &everybody(2)), []);
    assert_eq!(
        domain.tick(until + Duration::from_secs(1), &everybody(2)),
        [Action::Removed {
            id: "1".into(),
            holders: vec![]
        }]
    );
    assert_eq!(domain.state.sequence(), 3);
}

/// One consumer with the newest bundle that still presents what the first authority signed, and one that does not.
fn somebody_presents_the_first() -> Evidence {
    let consumer = |name| Consumer::new(name, 9, Grade::Applied);
    Evidence::complete([
        consumer("slow").presenting(["1".into()]),
        consumer("quick").presenting(["2".into()]),
    ])
}

#[test]
fn an_old_authority_stays_while_somebody_presents_what_it_signed_and_no_longer_than_its_own_end() {
    let succeeded = || {
        let mut domain = Domain::started();
        domain.state.note_signed(Kind::X509, START + HOUR * 2);
        domain.command(Command::Prepare, &everybody(1)).unwrap();
        let activate = Command::Activate { force: false };
        domain.command(activate, &everybody(2)).unwrap();
        domain
    };
    let retire = |force| Command::Retire {
        id: "1".into(),
        force,
    };
    let expired = START + HOUR * 3;
    let mut domain = succeeded();
    assert_eq!(domain.tick(expired, &somebody_presents_the_first()), []);
    let refused = Input::Command(retire(false), &somebody_presents_the_first());
    let (refused, rules) = (refused, Rollover::default());
    let refusal = domain.state.step(Kind::X509, expired, refused, &rules);
    let refusal = refusal.unwrap_err();
    assert!(
        matches!(&refusal, LifecycleError::StillInUse { holders, .. } if holders == &["slow"]),
        "{refusal:?}"
    );
    assert!(refusal.to_string().contains("presented by slow"));
    // The operator overrides, and is told whom that breaks.
    let evidence = somebody_presents_the_first();
    let forced = Input::Command(retire(true), &evidence);
    let forced = domain.state.step(Kind::X509, START + HOUR, forced, &rules);
    let removed = |holders: &[&str]| Action::Removed {
        id: "1".into(),
        holders: holders.iter().map(|&name| name.to_owned()).collect(),
    };
    assert_eq!(forced.unwrap().1, [removed(&["slow"])]);
    // Once nobody does, or the authority itself has expired, it leaves by itself.
    let mut domain = succeeded();
    assert_eq!(domain.tick(expired, &everybody(2)), [removed(&[])]);
    let mut domain = succeeded();
    let end = START + LIFE + Duration::from_secs(61);
    assert_eq!(
        domain.tick(end, &somebody_presents_the_first()),
        [removed(&["slow"])]
    );
}

#[test]
fn a_tainted_authority_is_revoked_once_nobody_presents_what_it_signed_or_when_forced() {
    let tainted = || {
        let mut domain = Domain::started();
        domain.state.note_signed(Kind::X509, START + HOUR * 2);
        domain.command(Command::Prepare, &everybody(1)).unwrap();
        let activate = Command::Activate { force: false };
        domain.command(activate, &everybody(2)).unwrap();
        let taint = Command::Taint { id: "1".into() };
        domain.command(taint, &everybody(2)).unwrap();
        domain
    };
    let revoke = |force| Command::Revoke {
        id: "1".into(),
        force,
    };
    for (evidence, named) in [
        (somebody_presents_the_first(), vec!["slow".to_owned()]),
        (Evidence::unknown(), vec![]),
    ] {
        let refusal = tainted().command(revoke(false), &evidence).unwrap_err();
        assert!(
            matches!(&refusal, LifecycleError::StillInUse { holders, .. } if *holders == named),
            "{refusal:?}"
        );
        let forced = tainted().command(revoke(true), &evidence).unwrap();
        assert!(matches!(&forced[..], [Action::Removed { holders, .. }] if *holders == named));
    }
    let mut domain = tainted();
    domain.command(revoke(false), &everybody(9)).unwrap();
    assert_eq!(domain.status("1"), None);
}

#[test]
fn an_authority_of_a_clock_far_ahead_is_replaced_when_the_clock_comes_back() {
    let mut domain = Domain::started();
    let month = HOUR * 24 * 30;
    domain.settle(START + month, &everybody(1));
    assert_eq!(domain.active(), "2");
    domain.settle(START + HOUR, &Evidence::unknown());
    assert_eq!(domain.active(), "3");
    assert!(domain.state.x509.active().unwrap().not_before() <= START + HOUR);
    // The month after, nothing of it is left.
    let mut prepared = Domain::started();
    prepared.command(Command::Prepare, &everybody(1)).unwrap();
    prepared.settle(START - month, &Evidence::unknown());
    assert_eq!(prepared.status("2"), None);
}

#[test]
fn an_old_authority_can_be_forced_out() {
    let mut domain = Domain::started();
    domain.state.note_signed(Kind::X509, START + HOUR * 3);
    domain.command(Command::Prepare, &everybody(1)).unwrap();
    domain
        .command(Command::Activate { force: false }, &everybody(2))
        .unwrap();
    let retire = Input::Command(
        Command::Retire {
            id: "1".into(),
            force: true,
        },
        &Evidence::unknown(),
    );
    let (after, _) = domain
        .state
        .step(Kind::X509, START, retire, &domain.rules)
        .unwrap();
    assert_eq!(after.x509.find("1"), None);
    assert_eq!(after.sequence, domain.state.sequence + 1);
}

#[test]
fn only_old_authorities_are_tainted_and_only_tainted_ones_revoked() {
    let mut domain = Domain::started();
    let none = Evidence::unknown();
    let taint = |id: &str| Command::Taint { id: id.into() };
    let revoke = |id: &str| Command::Revoke {
        id: id.into(),
        force: true,
    };
    let wrong = |found, expected, verb| LifecycleError::WrongStatus {
        id: "1".into(),
        found,
        expected,
        verb,
    };
    assert_eq!(
        domain.command(taint("9"), &none),
        Err(LifecycleError::Unknown { id: "9".into() })
    );
    assert_eq!(
        domain.command(taint("1"), &none),
        Err(wrong(Status::Active, "old", "tainted"))
    );
    let retire = Command::Retire {
        id: "1".into(),
        force: true,
    };
    assert_eq!(
        domain.command(retire, &none),
        Err(wrong(Status::Active, "old or tainted", "retired"))
    );
    domain.state.note_signed(Kind::X509, START + HOUR * 3);
    domain.command(Command::Prepare, &none).unwrap();
    domain
        .command(Command::Activate { force: true }, &none)
        .unwrap();
    assert_eq!(
        domain.command(revoke("1"), &none),
        Err(wrong(Status::Old, "tainted", "revoked"))
    );
    assert_eq!(
        domain.command(taint("1"), &none).unwrap(),
        [Action::Tainted { id: "1".into() }]
    );
    assert_eq!(domain.state.sequence(), 3);
    assert_eq!(
        domain.command(revoke("1"), &none).unwrap(),
        [Action::Removed {
            id: "1".into(),
            holders: vec![]
        }]
    );
    assert_eq!(domain.state.sequence(), 4);
}

#[test]
fn after_a_month_away_a_new_authority_signs_at_once() {
    let mut domain = Domain::started();
    let later = START + HOUR * 24 * 30;
    domain.settle(later, &everybody(1));
    assert_eq!(domain.active(), "2");
    assert_eq!(domain.status("1"), None);
}

#[test]
fn a_clock_that_steps_back_changes_nothing() {
    let mut domain = Domain::started();
    let before = domain.state.clone();
    domain.settle(START - HOUR, &everybody(1));
    assert_eq!(domain.state, before);
}

#[test]
fn a_prepared_authority_that_expired_is_replaced() {
    let mut domain = Domain::started();
    domain.command(Command::Prepare, &everybody(1)).unwrap();
    let later = START + HOUR * 25;
    assert_eq!(
        domain.input(
            later,
            Input::Command(Command::Activate { force: true }, &Evidence::unknown())
        ),
        Err(LifecycleError::NothingPrepared)
    );
    domain.settle(later, &everybody(1));
    assert_eq!(domain.active(), "3");
}

#[test]
fn what_was_signed_before_a_restart_is_bounded_by_the_authoritys_end() {
    let mut state = Domain::started().state;
    state.restarted(START);
    let active = state.x509.active().unwrap();
    assert_eq!(active.signed_until(), active.not_after());
}

/// Consumers that learn of bundles sooner or later: every step keeps every promise, and an authority always signs.
#[test]
fn a_year_of_life() {
    let mut domain = Domain::new();
    let mut rollovers = 0;
    let mut known = [0; 3];
    for hour in 0..365 * 24_u32 {
        let now = START + HOUR * hour;
        // The slowest takes seven hours, which is after evidence could do and before the deadline.
        for (consumer, every) in known.iter_mut().zip([1, 3, 7]) {
            if hour % every == 0 {
                *consumer = domain.state.sequence();
            }
        }
        let consumers = known.map(|sequence| Consumer::new("consumer", sequence, Grade::Delivered));
        let actions = domain.settle(now, &Evidence::complete(consumers));
        for action in actions {
            if let Action::Activated { laggards, .. } = action {
                assert_eq!(laggards, Vec::<String>::new(), "at {now}");
                rollovers += 1;
            }
        }
        let active = domain.state.x509.active().unwrap();
        assert!(now < active.not_after());
        domain.state.note_signed(Kind::X509, now + HOUR);
        assert!(domain.state.x509.iter().count() <= 3);
    }
    assert!((450..=731).contains(&rollovers), "{rollovers}");
}

fn commands() -> impl Strategy<Value = Option<Command>> {
    let id = (1..6_u32).prop_map(|id| id.to_string());
    prop_oneof![
        4 => Just(None),
        1 => Just(Some(Command::Prepare)),
        1 => any::<bool>().prop_map(|force| Some(Command::Activate { force })),
        1 => id.clone().prop_map(|id| Some(Command::Retire { id, force: false })),
        1 => id.clone().prop_map(|id| Some(Command::Taint { id })),
        1 => id.prop_map(|id| Some(Command::Revoke { id, force: true })),
    ]
}

proptest! {
    /// `check_step` looks at each of them.
    #[test]
    fn whatever_is_asked_every_step_keeps_the_promises(
        steps in prop::collection::vec((commands(), 0..40_u32, 0..9_u64), 1..60),
    ) {
        let mut domain = Domain::new();
        let mut now = START;
        for (command, hours, acknowledged) in steps {
            now = now + HOUR * hours / 4;
            let evidence = everybody(acknowledged);
            // Most commands come at a wrong time; then nothing changes.
            let before = domain.state.clone();
            let answer = match command {
                Some(command) => domain.input(now, Input::Command(command, &evidence)),
                None => Ok(domain.settle(now, &evidence)),
            };
            if answer.is_err() {
                prop_assert_eq!(&domain.state, &before);
            }
            // Lifetimes are capped to the authority's.
            if let Some(end) = domain.state.x509.active().map(Authority::not_after) {
                domain.state.note_signed(Kind::X509, end.min(now + HOUR));
            }
        }
    }
}
