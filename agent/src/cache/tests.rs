//! The cache on a clock moved by hand. The runtime has one thread, so letting other tasks run until they all wait is a
//! matter of yielding.

use std::time::Duration;

use spiffe_registration::EntryParams;

use super::*;
use crate::support::{ManualClock, Root, START, TestAuthority, entry, entry_with};
use spiffe_core::Bundle;
use spiffe_core::bundle::{X509Authorities, X509Authority};
use spiffe_core::schedule::REISSUE_OVER;

struct Fixture {
    clock: Arc<ManualClock>,
    authority: Arc<TestAuthority>,
    cache: SvidCache,
}

impl Fixture {
    /// A cache of these entries, with its task running.
    fn new(entries: Vec<Entry>, prefetch: bool) -> Self {
        let clock = ManualClock::new();
        let authority = TestAuthority::new(&clock);
        authority.set_entries(entries);
        let (cache, driver) = SvidCache::new(CacheConfig {
            authority: authority.clone(),
            crypto: spiffe_core::crypto::aws_lc_rs(),
            clock: clock.clone(),
            key_type: KeyType::default(),
            prefetch,
            reissue_over: REISSUE_OVER,
        });
        tokio::spawn(driver);
        Self {
            clock,
            authority,
            cache,
        }
    }

    /// One that was asked for the SVIDs of these entries.
    async fn holding(entries: Vec<Entry>) -> Self {
        let ids = entries.iter().map(|entry| entry.id().to_owned()).collect();
        let fixture = Self::new(entries, false);
        fixture.cache.demand(ids);
        fixture.settle().await;
        fixture.authority.take_attempts();
        fixture
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
        self.settle().await;
    }

    async fn settle(&self) {
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.cache.views().borrow())
    }

    #[track_caller]
    fn svid(&self, id: &str) -> Arc<X509Svid> {
        match self.view().standing(id) {
            Some(Standing::Ready(svid)) => Arc::clone(svid),
            other => panic!("{id} is {other:?}"),
        }
    }

    fn standing(&self, id: &str) -> String {
        match self.view().standing(id) {
            None => "unknown".into(),
            Some(Standing::Ready(svid)) => svid.id().to_string(),
            Some(Standing::Failed) => "failed".into(),
            Some(Standing::Pending) => "pending".into(),
        }
    }
}

fn lasting(hours: u64) -> impl FnOnce(&mut EntryParams) {
    move |params| params.x509_svid_ttl = Some(Duration::from_secs(hours * 3600))
}

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn svid_is_issued_when_it_is_first_wanted() {
    let fixture = Fixture::new(vec![entry("web", "a:1"), entry("db", "a:2")], false);
    fixture.settle().await;
    assert_eq!(fixture.standing("web"), "unknown");
    fixture.cache.demand(vec!["web".into()]);
    fixture.settle().await;
    assert_eq!(fixture.standing("web"), "spiffe://example.org/web");
    assert_eq!(fixture.standing("db"), "unknown");
    assert_eq!(fixture.authority.take_attempts(), ["web"]);
}

#[tokio::test]
async fn prefetch_issues_what_nobody_asked_for_but_not_what_forbids_it() {
    let entries = vec![
        entry("web", "a:1"),
        entry_with("late", "a:2", |params| {
            params.disable_x509_svid_prefetch = true;
        }),
        entry_with("stored", "a:3", |params| params.store_svid = true),
    ];
    let fixture = Fixture::new(entries, true);
    fixture.settle().await;
    assert_eq!(fixture.standing("web"), "spiffe://example.org/web");
    assert_eq!(fixture.standing("late"), "unknown");
    assert_eq!(fixture.standing("stored"), "unknown");
}

#[tokio::test]
async fn renewal_comes_between_45_and_60_percent_of_life() {
    let fixture = Fixture::holding(vec![entry_with("web", "a:1", lasting(100))]).await;
    let first = fixture.svid("web");
    fixture.advance(MINUTE * 60 * 45 - MINUTE).await;
    assert!(Arc::ptr_eq(&first, &fixture.svid("web")));
    fixture.advance(MINUTE * 60 * 15 + MINUTE).await;
    let second = fixture.svid("web");
    assert_ne!(first.serial(), second.serial());
    assert_eq!(fixture.authority.take_attempts(), ["web"]);
}

#[tokio::test]
async fn renewals_are_spread_by_id_and_serial() {
    let entries: Vec<_> = (0..40)
        .map(|number| entry_with(&format!("w{number}"), &format!("a:{number}"), lasting(100)))
        .collect();
    let fixture = Fixture::holding(entries).await;
    fixture.advance(MINUTE * 60 * 45).await;
    let mut busiest = 0;
    let mut total = 0;
    for _ in 0..15 {
        fixture.advance(MINUTE * 60).await;
        let renewed = fixture.authority.take_attempts().len();
        busiest = busiest.max(renewed);
        total += renewed;
    }
    assert_eq!(total, 40);
    assert!(busiest < 15, "{busiest} of 40 in one of 15 hours");
}

/// In every minute of a month there is a usable SVID, and it is replaced in time.
#[tokio::test]
async fn month_of_hourly_svids_has_no_gap() {
    let fixture = Fixture::holding(vec![entry("web", "a:1")]).await;
    let mut views = fixture.cache.views();
    let month = 30 * 24 * 60;
    for _ in 0..month / 5 {
        fixture.clock.advance(MINUTE * 5);
        // Few turns are enough for one entry: this loop runs 8,640 times.
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        views.borrow_and_update();
        let left = fixture
            .svid("web")
            .not_after()
            .saturating_since(fixture.clock.now());
        assert!(left >= MINUTE * 20, "{left:?} left");
    }
    let renewals = fixture.authority.take_attempts().len();
    // 720 hours, each SVID serving 27 to 36 minutes and up to 5 more for the step.
    assert!((1000..=1600).contains(&renewals), "{renewals}");
}

#[tokio::test]
async fn failed_renewal_leaves_the_old_svid_and_is_tried_again_later_and_later() {
    let fixture = Fixture::holding(vec![entry_with("web", "a:1", lasting(100))]).await;
    let first = fixture.svid("web");
    fixture.authority.set_broken(true);
    fixture.advance(MINUTE * 60 * 60).await;
    assert_eq!(fixture.authority.take_attempts().len(), 1);
    let mut attempts = Vec::new();
    for _ in 0..10 {
        for _ in 0..30 {
            fixture.advance(Duration::from_secs(1)).await;
        }
        attempts.push(fixture.authority.take_attempts().len());
    }
    assert!((3..=6).contains(&attempts[0]), "{attempts:?}");
    assert!(
        attempts[4..].iter().all(|number| *number <= 1),
        "{attempts:?}"
    );
    assert!(Arc::ptr_eq(&first, &fixture.svid("web")));
    fixture.authority.set_broken(false);
    fixture.advance(Duration::from_secs(80)).await;
    assert_ne!(first.serial(), fixture.svid("web").serial());
}

#[tokio::test]
async fn expired_svid_is_withdrawn_and_replaced_once_possible() {
    let fixture = Fixture::holding(vec![entry("web", "a:1")]).await;
    fixture.authority.set_broken(true);
    fixture.advance(MINUTE * 60).await;
    // `notAfter` is the last instant of validity.
    assert_eq!(fixture.standing("web"), "spiffe://example.org/web");
    fixture.advance(Duration::from_nanos(1)).await;
    assert_eq!(fixture.standing("web"), "failed");
    fixture.authority.set_broken(false);
    fixture.advance(MINUTE * 2).await;
    assert_eq!(fixture.standing("web"), "spiffe://example.org/web");
}

#[tokio::test]
async fn new_generation_replaces_everything_and_leaves_no_gap() {
    let entries: Vec<_> = (0..50)
        .map(|number| entry(&format!("w{number}"), &format!("a:{number}")))
        .collect();
    let fixture = Fixture::holding(entries).await;
    let before: Vec<_> = (0..50)
        .map(|number| fixture.svid(&format!("w{number}")))
        .collect();
    fixture.authority.set_stuck(true);
    fixture.authority.rotate();
    fixture.settle().await;
    // Not all at once, and nothing taken away while the authority does not answer.
    assert_eq!(fixture.authority.take_attempts().len(), MAX_ATTEMPTS);
    for (number, before) in before.iter().enumerate() {
        assert!(Arc::ptr_eq(before, &fixture.svid(&format!("w{number}"))));
    }
    fixture.authority.set_stuck(false);
    fixture.advance(ISSUE_TIMEOUT).await;
    fixture.advance(MINUTE).await;
    for (number, before) in before.iter().enumerate() {
        let now = fixture.svid(&format!("w{number}"));
        assert_ne!(before.serial(), now.serial(), "w{number}");
    }
}

/// The test authority's own bundle, with its root marked or replaced.
fn mark(fixture: &Fixture, change: impl FnOnce(X509Authority) -> X509Authority) {
    let root = X509Authority::from_der(fixture.authority.root().certificate.clone()).unwrap();
    let authorities = X509Authorities::from_iter([change(root)]);
    let name = fixture.authority.trust_domain().clone();
    let bundle = Bundle::new(name).with_x509_authorities(authorities);
    fixture.authority.set_bundles([bundle]);
}

#[tokio::test]
async fn what_lies_below_a_tainted_authority_is_replaced_over_the_span_and_not_at_once() {
    let entries: Vec<_> = (0..60)
        .map(|number| entry_with(&format!("w{number}"), &format!("a:{number}"), lasting(100)))
        .collect();
    let fixture = Fixture::holding(entries).await;
    mark(&fixture, X509Authority::into_tainted);
    fixture.settle().await;
    let mut replaced = Vec::new();
    // Within the span nothing is replaced twice: what is issued meanwhile is no better here, and waits its turn.
    for _ in 0..REISSUE_OVER.as_secs() / 60 {
        fixture.advance(MINUTE).await;
        replaced.push(fixture.authority.take_attempts());
    }
    assert!(
        replaced
            .iter()
            .all(|minute| (3..=25).contains(&minute.len())),
        "{:?}",
        replaced.iter().map(Vec::len).collect::<Vec<_>>()
    );
    let all: HashSet<_> = replaced.iter().flatten().collect();
    assert_eq!(all.len(), 60);
    // The taint is withdrawn: there is nothing to do.
    mark(&fixture, |root| root);
    fixture.advance(MINUTE * 60).await;
    assert_eq!(fixture.authority.take_attempts(), Vec::<String>::new());
}

#[tokio::test]
async fn what_lies_below_no_authority_of_the_bundle_is_replaced_at_once() {
    let fixture = Fixture::holding(vec![entry_with("web", "a:1", lasting(100))]).await;
    let other = Root::of(fixture.authority.trust_domain());
    mark(&fixture, |_| {
        X509Authority::from_der(other.certificate).unwrap()
    });
    fixture.settle().await;
    assert_eq!(fixture.authority.take_attempts(), ["web"]);
    // Its successor is no better; that is no reason to ask without end.
    fixture.advance(MINUTE - Duration::from_secs(1)).await;
    assert_eq!(fixture.authority.take_attempts(), Vec::<String>::new());
    fixture.advance(REISSUE_OVER).await;
    assert_eq!(fixture.authority.take_attempts(), ["web"]);
}

#[tokio::test]
async fn new_generation_does_not_wait_for_the_back_off() {
    let fixture = Fixture::new(vec![entry("web", "a:1")], false);
    fixture.authority.set_broken(true);
    fixture.cache.demand(vec!["web".into()]);
    fixture.settle().await;
    assert_eq!(fixture.standing("web"), "failed");
    fixture.authority.set_broken(false);
    fixture.settle().await;
    assert_eq!(fixture.standing("web"), "failed");
    fixture.authority.rotate();
    fixture.settle().await;
    assert_eq!(fixture.standing("web"), "spiffe://example.org/web");
}

#[tokio::test]
async fn entry_that_is_gone_or_renamed_takes_its_svid_along() {
    let fixture = Fixture::holding(vec![entry("web", "a:1"), entry("db", "a:2")]).await;
    let db = fixture.svid("db");
    fixture.authority.set_stuck(true);
    let renamed = entry_with("api", "a:1", |params| params.entry_id = Some("web".into()));
    fixture
        .authority
        .set_entries(vec![renamed, entry("db", "a:2")]);
    fixture.settle().await;
    assert_eq!(fixture.standing("web"), "pending");
    assert!(Arc::ptr_eq(&db, &fixture.svid("db")));
    fixture.authority.set_entries(vec![entry("db", "a:2")]);
    fixture.settle().await;
    assert_eq!(fixture.standing("web"), "unknown");
    assert!(Arc::ptr_eq(&db, &fixture.svid("db")));
}

#[tokio::test]
async fn changed_entry_is_issued_anew_and_keeps_its_svid_until_then() {
    let fixture = Fixture::holding(vec![entry("web", "a:1")]).await;
    let before = fixture.svid("web");
    fixture.authority.set_stuck(true);
    let named = |params: &mut EntryParams| params.dns_names = vec!["web.example.org".into()];
    fixture
        .authority
        .set_entries(vec![entry_with("web", "a:1", named)]);
    fixture.settle().await;
    assert_eq!(fixture.authority.take_attempts(), ["web"]);
    assert!(Arc::ptr_eq(&before, &fixture.svid("web")));
    fixture.authority.set_stuck(false);
    fixture.advance(ISSUE_TIMEOUT).await;
    fixture.advance(MINUTE).await;
    assert_ne!(before.serial(), fixture.svid("web").serial());
}

#[tokio::test]
async fn entry_whose_time_is_over_is_forgotten_then() {
    let until = |params: &mut EntryParams| params.expires_at = Some(START + MINUTE * 10);
    let fixture = Fixture::holding(vec![entry_with("web", "a:1", until)]).await;
    fixture.advance(MINUTE * 10 - Duration::from_nanos(1)).await;
    let before = fixture.view().entries_revision;
    assert_eq!(fixture.standing("web"), "spiffe://example.org/web");
    fixture.advance(Duration::from_nanos(1)).await;
    assert_eq!(fixture.standing("web"), "unknown");
    assert!(fixture.view().entries_revision > before);
}

#[tokio::test]
async fn unanswered_attempt_ends_in_time_and_is_a_failure() {
    let fixture = Fixture::new(vec![entry("web", "a:1")], false);
    fixture.authority.set_stuck(true);
    fixture.cache.demand(vec!["web".into()]);
    fixture.settle().await;
    assert_eq!(fixture.standing("web"), "pending");
    fixture.advance(ISSUE_TIMEOUT).await;
    assert_eq!(fixture.standing("web"), "failed");
}

#[tokio::test]
async fn task_ends_with_the_last_handle() {
    let clock = ManualClock::new();
    let (cache, driver) = SvidCache::new(CacheConfig {
        authority: TestAuthority::new(&clock),
        crypto: spiffe_core::crypto::aws_lc_rs(),
        clock,
        key_type: KeyType::default(),
        prefetch: false,
        reissue_over: REISSUE_OVER,
    });
    let task = tokio::spawn(driver);
    drop(cache);
    task.await.unwrap();
}
