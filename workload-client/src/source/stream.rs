//! One task that follows one stream of the Workload API for all sources of one client.
//!
//! Transport loss keeps what is published, PERMISSION_DENIED withdraws it after each source's grace, INVALID_ARGUMENT and
//! UNIMPLEMENTED end the task: Workload API §4.2, Workload Endpoint §6 and Appendix A. A message is read once, whoever
//! shares the stream; what it means to a source is the [`Consumer`]'s business.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::{Either, select};
use prost::Message;
use spiffe_core::crypto::CryptoProvider;
use spiffe_core::snapshot::{Published, Rejection};
use spiffe_core::{BoxFuture, Clock, Random, Timestamp};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use zeroize::Zeroizing;

use super::StartError;
use super::aging::{Aging, News, NotYetValid};
use super::backoff::Backoff;
use super::cache::LastGood;
use super::clocks::Clocks;
use super::follow::{EndpointState, Following, Keeper, Running, State, runtime};
use super::outages::Outages;
use super::survival::{Outlook, Survival};
use crate::client::{Responses, WorkloadApiClient};
use crate::error::{ClientError, ResponseError};
use crate::observe::{Event, Observer};
use crate::update::{Notice, decode};

/// How often a stream that is quiet looks whether calendar and stopwatch still agree.
pub const CLOCK_CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// How far calendar and stopwatch may part between two looks: a clock that is slewed stays far below it.
pub const MAX_CLOCK_DRIFT: Duration = Duration::from_secs(10);

/// What reads one profile's stream, remembering the last good message.
pub(crate) trait Reader: Send + Sync + Sized + 'static {
    /// A message as it travels.
    type Response: Message + Default + 'static;

    /// A message that was read.
    type Update: Send + Sync + 'static;

    /// What the stream is called in events.
    const STREAM: &'static str;

    fn new(crypto: Arc<dyn CryptoProvider>) -> Self;

    /// Asks for the stream.
    fn open(
        client: &WorkloadApiClient,
    ) -> BoxFuture<'_, Result<Responses<Self::Response>, ClientError>>;

    fn read(&mut self, response: Self::Response) -> Result<Self::Update, ResponseError>;

    /// Forgets everything: what was withdrawn must not come back as the last good one.
    fn forget(&mut self);
}

/// What one source does with what comes.
pub(super) trait Consumer<U>: Send + 'static {
    /// Publishes an update.
    fn apply(&mut self, update: &U, now: Timestamp) -> Result<Applied, Rejection>;

    /// Publishes that nothing is held any more; says whether something was.
    fn withdraw(&mut self) -> Result<bool, Rejection>;

    /// How long what is published lasts.
    fn survival(&self, now: Timestamp) -> Option<Survival>;

    /// What is published.
    fn published(&self) -> Arc<Published>;

    /// The calendar has stepped.
    fn clock_stepped(&mut self) {}
}

/// What became of an update that was published.
pub(super) struct Applied {
    /// What was passed over in it.
    pub(super) notices: Vec<Notice>,
    /// What could not be used of it, if anything.
    pub(super) problem: Option<String>,
    /// Whether it is enough to start with.
    pub(super) is_enough: bool,
}

impl Applied {
    /// All of it was used, and it is enough.
    pub(super) fn whole(notices: &[Notice]) -> Self {
        Self {
            notices: notices.to_vec(),
            problem: None,
            is_enough: true,
        }
    }
}

/// What a source brings along.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) client: WorkloadApiClient,
    pub(super) random: Arc<dyn Random>,
    pub(super) grace: Duration,
    pub(super) last_good: Option<LastGood>,
    pub(super) observer: Observer,
}

/// Follows the client's stream that `R` reads, beginning one where none is being followed on this runtime.
pub(super) fn follow<R: Reader>(
    consumer: impl Consumer<R::Update>,
    settings: Settings,
    outlook: Arc<Outlook>,
) -> Result<Following, StartError> {
    let runtime = runtime()?;
    let client = settings.client;
    let clock = client.clock().clone();
    let (state, states) = watch::channel(State::default());
    let member = Arc::new(Member {
        parts: Mutex::new(Parts {
            consumer: Box::new(consumer),
            withdraw_at: None,
            aging: Aging::default(),
            look_at: None,
            lost_at: None,
        }),
        state,
        outlook: outlook.clone(),
        grace: settings.grace,
        last_good: settings
            .last_good
            .map(|last_good| last_good.bound(R::STREAM, client.crypto().clone())),
        observer: settings.observer.named(R::STREAM),
    });
    member.restore::<R>(&client);
    let stream = client
        .streams()
        .join(&runtime, |known: Option<&Arc<Stream<R>>>| {
            if let Some(stream) = known.filter(|stream| stream.shared.add(&member, &*clock)) {
                return stream.clone();
            }
            let stream = Stream::start(&runtime, client.clone(), settings.random.clone());
            stream.shared.add(&member, &*clock);
            Arc::new(stream)
        });
    Ok(Following {
        clock,
        state: states,
        outlook,
        keeper: Box::new(Membership { stream, member }),
    })
}

/// One source's place at a stream.
struct Membership<R: Reader> {
    stream: Arc<Stream<R>>,
    member: Arc<Member<R::Update>>,
}

impl<R: Reader> Keeper for Membership<R> {
    fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let was_last = self.stream.shared.remove(&self.member);
            self.member
                .state
                .send_modify(|state| state.endpoint = EndpointState::Stopped);
            if was_last {
                self.stream.running.stop().await;
            }
        })
    }
}

/// A stream that is being followed; the task ends when the last member's handle is dropped.
pub(super) struct Stream<R: Reader> {
    shared: Arc<Shared<R::Update>>,
    running: Running,
}

impl<R: Reader> Stream<R> {
    fn start(runtime: &Handle, client: WorkloadApiClient, random: Arc<dyn Random>) -> Self {
        let shared = Arc::new(Shared {
            group: Mutex::new(Group {
                members: Vec::new(),
                last: None,
                endpoint: EndpointState::Connecting,
                last_error: None,
                away_since: None,
                is_over: false,
            }),
            joined: Notify::new(),
        });
        let clock = client.clock().clone();
        let task = Task {
            reader: R::new(client.crypto().clone()),
            guard: Guard(shared.clone()),
            outages: client.outages().clone(),
            clocks: Clocks::read(&*clock),
            client,
            random,
            clock,
            backoff: Backoff::default(),
        };
        Self {
            shared,
            running: Running::spawn(runtime, task.follow()),
        }
    }
}

/// What the task and its members share.
struct Shared<U> {
    group: Mutex<Group<U>>,
    /// A member has joined, which has times of its own; a task that waits for its next attempt makes it now.
    joined: Notify,
}

struct Group<U> {
    members: Vec<Weak<Member<U>>>,
    /// The last good update and when it came, for those who join later.
    last: Option<(Arc<U>, Timestamp)>,
    endpoint: EndpointState,
    last_error: Option<String>,
    /// Since when there has been no good stream, on the stopwatch.
    away_since: Option<Duration>,
    /// Nobody can join any more.
    is_over: bool,
}

impl<U: 'static> Shared<U> {
    /// Adds a member, with what is known already; says whether there was still a stream to join.
    fn add(&self, member: &Arc<Member<U>>, clock: &dyn Clock) -> bool {
        let mut group = self.lock();
        if group.is_over {
            return false;
        }
        if let Some((last, received)) = &group.last {
            member.apply(last, None, clock, Some(*received));
        }
        // What came earlier says nothing of how the stream fares now.
        member.lock().lost_at = group.away_since;
        member.state.send_modify(|state| {
            state.endpoint = group.endpoint;
            if group.last_error.is_some() {
                state.last_error.clone_from(&group.last_error);
            }
        });
        group.members.push(Arc::downgrade(member));
        drop(group);
        self.joined.notify_waiters();
        true
    }

    /// Takes a member out; says whether it was the last one.
    fn remove(&self, member: &Arc<Member<U>>) -> bool {
        let mut group = self.lock();
        let gone = Arc::downgrade(member);
        let stays = |other: &Weak<_>| !other.ptr_eq(&gone) && other.strong_count() > 0;
        group.members.retain(stays);
        group.is_over |= group.members.is_empty();
        group.members.is_empty()
    }

    /// Does something for each member, and to what all have in common.
    fn each(&self, change: impl FnOnce(&mut Group<U>), mut act: impl FnMut(&Member<U>)) {
        let mut group = self.lock();
        change(&mut group);
        group.members.retain(|member| member.strong_count() > 0);
        for member in group.members.iter().filter_map(Weak::upgrade) {
            act(&member);
        }
    }

    /// A step that panics while an update is applied leaves the group whole.
    fn lock(&self) -> MutexGuard<'_, Group<U>> {
        self.group.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the members when the task is gone, however it went.
struct Guard<U: 'static>(Arc<Shared<U>>);

impl<U> Drop for Guard<U> {
    fn drop(&mut self) {
        let over = |group: &mut Group<U>| group.is_over = true;
        self.0.each(over, |member| {
            member
                .state
                .send_modify(|state| state.endpoint = EndpointState::Stopped);
        });
    }
}

/// One source at a stream.
struct Member<U> {
    parts: Mutex<Parts<U>>,
    state: watch::Sender<State>,
    outlook: Arc<Outlook>,
    grace: Duration,
    last_good: Option<LastGood>,
    observer: Observer,
}

struct Parts<U> {
    consumer: Box<dyn Consumer<U>>,
    /// When what is published is withdrawn, once the endpoint has said that there is nothing.
    withdraw_at: Option<Clocks>,
    aging: Aging,
    /// When there may be more to say of what is held.
    look_at: Option<Duration>,
    /// When the stream was lost, unless one is followed.
    lost_at: Option<Duration>,
}

impl<U> Parts<U> {
    fn withdraw_on_stopwatch(&self) -> Option<Duration> {
        self.withdraw_at.map(|at| at.stopwatch)
    }
}

impl<U: 'static> Member<U> {
    /// Publishes what an earlier run of the program kept, as far as it is still good.
    fn restore<R: Reader<Update = U>>(&self, client: &WorkloadApiClient) {
        let Some(last_good) = &self.last_good else {
            return;
        };
        let raw = match last_good.load() {
            Ok(Some(raw)) => raw,
            Ok(None) => return,
            Err(error) => return self.observer.event(&Event::CacheFailed { error: &error }),
        };
        let mut reader = R::new(client.crypto().clone());
        match decode(&raw).and_then(|response| reader.read(response)) {
            Ok(update) => {
                self.apply(&update, None, &**client.clock(), None);
                self.state.send_modify(|state| {
                    state.last_error.get_or_insert_with(|| {
                        "what is held is the last good state of an earlier run".into()
                    });
                });
                self.observer.event(&Event::Restored);
            }
            Err(error) => self.observer.event(&Event::Discarded {
                error: &error.to_string(),
            }),
        }
    }

    /// Publishes an update that came at `received`; an earlier run's came at a time that is not known.
    fn apply(
        &self,
        update: &U,
        raw: Option<&[u8]>,
        clock: &dyn Clock,
        received: Option<Timestamp>,
    ) {
        let now = clock.now();
        let mut parts = self.lock();
        let before = parts.consumer.published();
        let applied = match parts.consumer.apply(update, now) {
            Ok(applied) => applied,
            Err(rejection) => {
                let error =
                    format!("an update was refused and the last good one stays: {rejection}");
                self.observer.event(&Event::Discarded { error: &error });
                self.state.send_modify(|state| {
                    state.endpoint = EndpointState::Following;
                    state.last_error = Some(error);
                });
                return;
            }
        };
        parts.withdraw_at = None;
        self.outlook.goes_at(None);
        self.outlook.holds(parts.consumer.survival(now));
        let published = parts.consumer.published();
        let lost_at = parts.lost_at.take();
        let away = lost_at.map(|at| clock.monotonic().saturating_sub(at));
        self.state.send_if_modified(|state| {
            state.published(&before, &published, received);
            false
        });
        let news = self.age(&mut parts, clock);
        drop(parts);
        for notice in &applied.notices {
            self.observer.event(&Event::PassedOver { notice });
        }
        if let Some(problem) = &applied.problem {
            self.observer.event(&Event::UsedInPart { problem });
        }
        if published.revision() != before.revision() {
            let survival = self.outlook.load();
            self.observer.event(&Event::Updated {
                published: &published,
                survival: survival.as_deref(),
            });
            if let Some(svid) = &NotYetValid::of(&published, now) {
                self.observer.event(&Event::NotYetValid { svid });
            }
        }
        self.tell(away, news);
        if let (Some(last_good), Some(raw), true) = (&self.last_good, raw, applied.is_enough)
            && applied.problem.is_none()
            && let Err(error) = last_good.store(raw)
        {
            self.observer.event(&Event::CacheFailed { error: &error });
        }
        self.state.send_modify(|state| {
            state.endpoint = EndpointState::Following;
            state.ready |= applied.is_enough;
            state.last_error = applied.problem;
            state.last_update = received;
            state.notices = applied.notices;
            state.withdrawn = false;
        });
    }

    /// Looks at how far what is held is in its life, and when to look again.
    fn age(&self, parts: &mut Parts<U>, clock: &dyn Clock) -> Option<News> {
        let (published, survival) = (parts.consumer.published(), self.outlook.load());
        let (survival, now) = (survival.as_deref(), clock.now());
        let received = self.state.borrow().received;
        let news = parts.aging.look(&published, received, survival, now);
        parts.look_at = parts.aging.next(received, survival).map(|at| {
            let ahead = at.saturating_since(now);
            clock.monotonic().saturating_add(ahead)
        });
        news
    }

    /// Tells that updates come again, after so long, and what is new of what is held.
    fn tell(&self, away: Option<Duration>, news: Option<News>) {
        let survival = self.outlook.load();
        let survival = survival.as_deref();
        if let Some(event) = news.as_ref().and_then(|news| news.event(survival)) {
            self.observer.event(&event);
        }
        if away.is_some() || matches!(news, Some(News::Fresh)) {
            self.observer.event(&Event::Recovered { away, survival });
        }
    }

    /// The endpoint says that there is nothing for this workload: what is published goes after the grace.
    ///
    /// What is kept on disk goes at once, whatever the grace: a restart within it would bring it back, with a grace of its
    /// own, and the next one again.
    fn denied(&self, clock: &dyn Clock) {
        if let Some(last_good) = &self.last_good
            && let Err(error) = last_good.erase()
        {
            self.observer.event(&Event::CacheFailed { error: &error });
        }
        let mut parts = self.lock();
        if parts.withdraw_at.is_none() {
            self.withdraw_at(&mut parts, Clocks::read(clock).later(self.grace));
        }
    }

    fn withdraw_at(&self, parts: &mut Parts<U>, at: Clocks) {
        parts.withdraw_at = Some(at);
        self.outlook.goes_at(Some(at.calendar));
    }

    fn withdraw(&self, clock: &dyn Clock) {
        let mut parts = self.lock();
        parts.withdraw_at = None;
        self.outlook.goes_at(None);
        let withdrawn = parts.consumer.withdraw();
        self.outlook.holds(parts.consumer.survival(clock.now()));
        let news = self.age(&mut parts, clock);
        drop(parts);
        self.tell(None, news);
        match withdrawn {
            Ok(took) => {
                // Each denial withdraws, also where there is nothing to take.
                if took {
                    self.observer.event(&Event::Withdrawn);
                }
                self.state.send_modify(|state| state.withdrawn = true);
            }
            Err(rejection) => {
                let error = format!("a withdrawal was refused: {rejection}");
                self.observer.event(&Event::Discarded { error: &error });
                self.state
                    .send_modify(|state| state.last_error = Some(error));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Parts<U>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Task<R: Reader> {
    reader: R,
    client: WorkloadApiClient,
    random: Arc<dyn Random>,
    clock: Arc<dyn Clock>,
    backoff: Backoff,
    clocks: Clocks,
    outages: Arc<Outages>,
    guard: Guard<R::Update>,
}

/// Why a stream is not followed any more.
enum End {
    /// It is asked for again at once, since what is held may be out of date.
    ClockStepped,
    Failed(ClientError),
}

impl<R: Reader> Task<R> {
    async fn follow(mut self) {
        loop {
            // The time of the stream's first good message.
            let mut good_since = None;
            let error = match self.session(&mut good_since).await {
                End::ClockStepped => continue,
                End::Failed(error) => error,
            };
            let denied = matches!(error, ClientError::PermissionDenied { .. });
            if denied {
                self.reader.forget();
                let clock = &*self.clock;
                self.shared()
                    .each(|group| group.last = None, |member| member.denied(clock));
            }
            self.failed(&error);
            if !error.is_retryable() {
                // Nothing is asked any more; what is held goes on ageing, by the calendar.
                self.each_state(EndpointState::Stopped, None);
                loop {
                    let check_at = self.clock.monotonic().saturating_add(CLOCK_CHECK_INTERVAL);
                    self.or_due(self.clock.sleep_until(check_at)).await;
                    self.clock_step();
                }
            }
            if denied {
                self.due(self.clock.monotonic());
            }
            let random = &*self.random;
            let now = self.clock.monotonic();
            let lasted = good_since.map(|since| now.saturating_sub(since));
            let delay = match (lasted, &error) {
                (Some(lasted), ClientError::StreamEnded | ClientError::Transport { .. }) => {
                    self.backoff.ended(lasted, random)
                }
                _ => {
                    self.backoff.worked(lasted.unwrap_or_default());
                    self.backoff.failed(random)
                }
            };
            if !delay.is_zero() {
                let shared = self.shared().clone();
                let wait = self.clock.sleep_until(now.saturating_add(delay));
                let joined = pin!(shared.joined.notified());
                self.or_due(select(wait, joined)).await;
            }
            self.clock_step();
        }
    }

    /// Follows one stream to its end.
    async fn session(&mut self, good_since: &mut Option<Duration>) -> End {
        self.each_state(EndpointState::Connecting, None);
        let client = self.client.clone();
        let mut responses = match self.or_due(R::open(&client)).await {
            Ok(responses) => responses,
            Err(error) => return End::Failed(error),
        };
        loop {
            let response = {
                let mut next = pin!(responses.next());
                loop {
                    let check_at = self.clock.monotonic().saturating_add(CLOCK_CHECK_INTERVAL);
                    let check = self.clock.sleep_until(check_at);
                    match self.or_due(select(next.as_mut(), check)).await {
                        Either::Left((response, _)) => break response,
                        Either::Right(_) if self.clock_step() => return End::ClockStepped,
                        Either::Right(_) => {}
                    }
                }
            };
            match response {
                Ok(response) => self.apply(response, good_since),
                Err(error) => return End::Failed(error),
            }
        }
    }

    /// Hands a message to every member.
    fn apply(&mut self, response: R::Response, good_since: &mut Option<Duration>) {
        let mut wants_raw = false;
        self.shared()
            .each(|_| {}, |member| wants_raw |= member.last_good.is_some());
        let raw = wants_raw.then(|| Zeroizing::new(response.encode_to_vec()));
        match self.reader.read(response) {
            Ok(update) => {
                let first = good_since.is_none();
                let since = self.clock.monotonic();
                good_since.get_or_insert(since);
                let update = Arc::new(update);
                let received = self.clock.now();
                let known = |group: &mut Group<R::Update>| {
                    group.last = Some((update.clone(), received));
                    group.endpoint = EndpointState::Following;
                    group.last_error = None;
                    if let Some(away) = group.away_since.take() {
                        self.outages.ended(since.saturating_sub(away));
                    }
                };
                let raw = raw.as_ref().map(|raw| raw.as_slice());
                self.shared().each(known, |member| {
                    if first {
                        member.observer.event(&Event::Connected);
                    }
                    member.apply(&update, raw, &*self.clock, Some(received));
                });
            }
            Err(error) => {
                let error = error.to_string();
                let known = |group: &mut Group<R::Update>| {
                    group.endpoint = EndpointState::Following;
                    group.last_error = Some(error.clone());
                };
                self.shared().each(known, |member| {
                    member.observer.event(&Event::Discarded { error: &error });
                    member.state.send_modify(|state| {
                        state.endpoint = EndpointState::Following;
                        state.last_error = Some(error.clone());
                    });
                });
            }
        }
    }

    /// There is no stream any more.
    fn failed(&mut self, error: &ClientError) {
        let now = self.clock.monotonic();
        let text = error.to_string();
        let known = |group: &mut Group<R::Update>| {
            group.endpoint = EndpointState::Waiting;
            group.last_error = Some(text.clone());
            group.away_since.get_or_insert(now);
            group.is_over |= !error.is_retryable();
        };
        self.shared().each(known, |member| {
            member.lock().lost_at.get_or_insert(now);
            let survival = member.outlook.load();
            member.observer.event(&Event::Lost {
                error,
                survival: survival.as_deref(),
            });
            member.state.send_modify(|state| {
                state.last_error = Some(text.clone());
                state.endpoint = EndpointState::Waiting;
                state.ended_by = (!error.is_retryable()).then(|| error.clone());
            });
        });
    }

    fn each_state(&self, endpoint: EndpointState, error: Option<&str>) {
        let known = |group: &mut Group<R::Update>| group.endpoint = endpoint;
        self.shared().each(known, |member| {
            member.state.send_modify(|state| {
                state.endpoint = endpoint;
                if let Some(error) = error {
                    state.last_error = Some(error.into());
                }
            });
        });
    }

    /// Whether the calendar has stepped since the last look, because it was set or because the machine slept: then what
    /// is held is judged again, and the stream is asked for again.
    fn clock_step(&mut self) -> bool {
        let clocks = Clocks::read(&*self.clock);
        let by = self.clocks.parted(&clocks);
        self.clocks = clocks;
        if by <= MAX_CLOCK_DRIFT {
            return false;
        }
        let now = clocks.calendar;
        self.shared().each(
            |_| {},
            |member| {
                let mut parts = member.lock();
                parts.consumer.clock_stepped();
                // Whichever clock the grace is over by first: which of them is wrong cannot be told.
                if let Some(at) = parts.withdraw_at {
                    member.withdraw_at(&mut parts, clocks.later(clocks.until(&at)));
                }
                member.outlook.holds(parts.consumer.survival(now));
                let news = member.age(&mut parts, &*self.clock);
                drop(parts);
                let survival = member.outlook.load();
                member.observer.event(&Event::ClockStepped {
                    by,
                    survival: survival.as_deref(),
                });
                member.tell(None, news);
            },
        );
        true
    }

    /// Awaits `future`, meanwhile doing what has a time of its own: withdrawing, and telling how what is held ages.
    async fn or_due<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            // From before the look at what is due: whoever joins after it is not missed.
            let joined = pin!(self.shared().joined.notified());
            let mut first: Option<Duration> = None;
            self.shared().each(
                |_| {},
                |member| {
                    let parts = member.lock();
                    let times = first.into_iter().chain(parts.withdraw_on_stopwatch());
                    first = times.chain(parts.look_at).min();
                },
            );
            let due = async {
                match first {
                    Some(at) => self.clock.sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            match select(future.as_mut(), select(pin!(due), joined)).await {
                Either::Left((output, _)) => return output,
                Either::Right((Either::Left(_), _)) => {
                    first.into_iter().for_each(|at| self.due(at))
                }
                Either::Right((Either::Right(_), _)) => {}
            }
        }
    }

    /// Does what is due by `at`, on the stopwatch.
    fn due(&self, at: Duration) {
        let is_due = |due: Option<Duration>| due.is_some_and(|due| due <= at);
        self.shared().each(
            |_| {},
            |member| {
                let mut parts = member.lock();
                if is_due(parts.withdraw_on_stopwatch()) {
                    drop(parts);
                    member.withdraw(&*self.clock);
                } else if is_due(parts.look_at) {
                    let news = member.age(&mut parts, &*self.clock);
                    drop(parts);
                    member.tell(None, news);
                }
            },
        );
    }

    fn shared(&self) -> &Arc<Shared<R::Update>> {
        &self.guard.0
    }
}
