//! Instants, and the clock that everything which waits is handed.
//!
//! Core takes `now` as an argument and never asks. What waits takes a [`Clock`], so that a month of rotation can
//! be a test of a second.

use std::fmt;
use std::future::Future;
use std::ops::{Add, Sub};
use std::pin::Pin;
use std::str::FromStr;
use std::time::Duration;

/// An instant in UTC, to the nanosecond, from the year 0 to the year 9999.
///
/// Displays and parses as RFC 3339 in UTC, such as `2026-11-20T08:00:00Z`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z, rounded down.
    seconds: i64,
    nanos: u32,
}

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const UNIX_EPOCH: Self = Self::from_unix_seconds(0);

    /// The latest instant that X.509 can name, 9999-12-31T23:59:59Z.
    pub const MAX: Self = Self::from_unix_seconds(253_402_300_799);

    /// An instant from whole seconds since the epoch.
    pub const fn from_unix_seconds(seconds: i64) -> Self {
        Self { seconds, nanos: 0 }
    }

    /// An instant from a span since the epoch; spans beyond [`Timestamp::MAX`] give that.
    pub fn from_unix(since: Duration) -> Self {
        match i64::try_from(since.as_secs()) {
            Ok(seconds) if seconds < Self::MAX.seconds => Self {
                seconds,
                nanos: since.subsec_nanos(),
            },
            _ => Self::MAX,
        }
    }

    /// Whole seconds since the epoch, rounded down.
    pub const fn unix_seconds(self) -> i64 {
        self.seconds
    }

    /// The part of a second beyond [`Self::unix_seconds`], in nanoseconds.
    pub const fn subsec_nanos(self) -> u32 {
        self.nanos
    }

    /// The span from `earlier` to this instant; zero when `earlier` is later.
    pub fn saturating_since(self, earlier: Self) -> Duration {
        if self <= earlier {
            return Duration::ZERO;
        }
        // Both fields are in range of the calendar, so neither subtraction overflows.
        let mut seconds = self.seconds - earlier.seconds;
        let nanos = if self.nanos >= earlier.nanos {
            self.nanos - earlier.nanos
        } else {
            seconds -= 1;
            1_000_000_000 - (earlier.nanos - self.nanos)
        };
        Duration::new(seconds.unsigned_abs(), nanos)
    }

    /// The same instant without its fraction of a second.
    #[must_use]
    pub const fn truncated(self) -> Self {
        Self::from_unix_seconds(self.seconds)
    }

    /// From a civil date and time in UTC; `None` when there is no such instant.
    pub fn from_civil(
        year: u16,
        month: u8,
        day: u8,
        hour: u8,
        minute: u8,
        second: u8,
    ) -> Option<Self> {
        if !(1..=12).contains(&month) || day == 0 || day > days_in_month(year, month) {
            return None;
        }
        if year > 9999 || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let days = days_from_civil(i64::from(year), i64::from(month), i64::from(day));
        let clock = i64::from(hour) * 3600 + i64::from(minute) * 60 + i64::from(second);
        Some(Self::from_unix_seconds(days * 86_400 + clock))
    }

    /// Year, month, day, hour, minute and second in UTC.
    pub fn civil(self) -> (i64, u8, u8, u8, u8, u8) {
        let days = self.seconds.div_euclid(86_400);
        let clock = self.seconds.rem_euclid(86_400);
        let (year, month, day) = civil_from_days(days);
        let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
        (year, month, day, hour as u8, minute as u8, second as u8)
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    /// Stops at [`Timestamp::MAX`].
    fn add(self, span: Duration) -> Self {
        let within = Duration::from_nanos(self.nanos.into())
            + Duration::from_nanos(span.subsec_nanos().into());
        i64::try_from(span.as_secs())
            .ok()
            .and_then(|seconds| self.seconds.checked_add(seconds))
            .and_then(|seconds| seconds.checked_add_unsigned(within.as_secs()))
            .map(|seconds| Self {
                seconds,
                nanos: within.subsec_nanos(),
            })
            .map_or(Self::MAX, |sum| sum.min(Self::MAX))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;

    /// Stops at the beginning of the year 0.
    fn sub(self, span: Duration) -> Self {
        const FIRST: Timestamp = Timestamp::from_unix_seconds(-62_167_219_200);
        let borrow = i64::from(self.nanos < span.subsec_nanos());
        let nanos = (self.nanos + 1_000_000_000 - span.subsec_nanos()) % 1_000_000_000;
        i64::try_from(span.as_secs())
            .ok()
            .and_then(|seconds| self.seconds.checked_sub(seconds))
            .and_then(|seconds| seconds.checked_sub(borrow))
            .map(|seconds| Self { seconds, nanos })
            .map_or(FIRST, |difference| difference.max(FIRST))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day, hour, minute, second) = self.civil();
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"
        )?;
        if self.nanos != 0 {
            let digits = format!("{:09}", self.nanos);
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        f.write_str("Z")
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is not an RFC 3339 instant in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 time in UTC such as 2026-11-20T08:00:00Z")]
#[non_exhaustive]
pub struct TimestampError;

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = text.as_bytes();
        if bytes.len() < 20 || !text.is_ascii() {
            return Err(TimestampError);
        }
        let number = |from: usize, to: usize| -> Result<u16, TimestampError> {
            let digits = &text[from..to];
            if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(TimestampError);
            }
            digits.parse().map_err(|_| TimestampError)
        };
        let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
        if separators.iter().any(|(at, byte)| bytes[*at] != *byte) {
            return Err(TimestampError);
        }
        let whole = Self::from_civil(
            number(0, 4)?,
            number(5, 7)? as u8,
            number(8, 10)? as u8,
            number(11, 13)? as u8,
            number(14, 16)? as u8,
            number(17, 19)? as u8,
        )
        .ok_or(TimestampError)?;
        let zone = text[19..]
            .strip_suffix('Z')
            .or_else(|| text[19..].strip_suffix("+00:00"))
            .ok_or(TimestampError)?;
        let Some(fraction) = zone.strip_prefix('.') else {
            return if zone.is_empty() {
                Ok(whole)
            } else {
                Err(TimestampError)
            };
        };
        if fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(TimestampError);
        }
        // Digits beyond the nanosecond are dropped.
        let nanos = format!("{:0<9}", &fraction[..fraction.len().min(9)])
            .parse()
            .map_err(|_| TimestampError)?;
        Ok(Self { nanos, ..whole })
    }
}

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March, so that the leap day is a year's last.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn civil_from_days(days: i64) -> (i64, u8, u8) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month as u8, day as u8)
}

fn days_in_month(year: u16, month: u8) -> u8 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => {
            29
        }
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// A boxed future of the standard library, as object-safe traits return it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where time comes from, for everything that waits.
///
/// Two readings: [`now`](Self::now) is the calendar's, may step, and judges validity;
/// [`monotonic`](Self::monotonic) is the time since some fixed start, never steps, counts while the machine
/// sleeps where the platform can tell, and measures waiting.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The calendar's time.
    fn now(&self) -> Timestamp;

    /// Time since a fixed start.
    fn monotonic(&self) -> Duration;

    /// Resolves once [`monotonic`](Self::monotonic) has reached `deadline`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect beyond the waiting.
    fn sleep_until(&self, deadline: Duration) -> BoxFuture<'static, ()>;
}

/// The operating system's clock, waiting on tokio's timer.
///
/// Its [`monotonic`](Clock::monotonic) is the standard library's `Instant`, which on Linux stands still while the machine
/// sleeps; validity is judged by [`now`](Clock::now), which does not.
#[cfg(feature = "tokio")]
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct SystemClock;

#[cfg(feature = "tokio")]
impl SystemClock {
    /// The system's clock.
    pub const fn new() -> Self {
        Self
    }

    /// The fixed start of [`Clock::monotonic`]: the first time anybody asked.
    fn start() -> std::time::Instant {
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        *START.get_or_init(std::time::Instant::now)
    }
}

#[cfg(feature = "tokio")]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now()
            .duration_since(std::time::SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp::from_unix(since)
    }

    fn monotonic(&self) -> Duration {
        Self::start().elapsed()
    }

    fn sleep_until(&self, deadline: Duration) -> BoxFuture<'static, ()> {
        match Self::start().checked_add(deadline) {
            Some(deadline) => Box::pin(tokio::time::sleep_until(deadline.into())),
            // Beyond what the system can name: never.
            None => Box::pin(std::future::pending()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn round_trip(text: &str, seconds: i64) {
        let time: Timestamp = text.parse().unwrap();
        assert_eq!(time.unix_seconds(), seconds);
        assert_eq!(time.to_string(), text);
    }

    #[test]
    fn instants_round_trip_as_rfc_3339() {
        round_trip("1970-01-01T00:00:00Z", 0);
        round_trip("2000-02-29T12:34:56Z", 951_827_696);
        round_trip("2026-11-20T08:00:00.5Z", 1_795_161_600);
        round_trip("9999-12-31T23:59:59Z", 253_402_300_799);
        round_trip("0000-01-01T00:00:00Z", -62_167_219_200);
    }

    #[test]
    fn impossible_dates_are_refused() {
        for text in [
            "2025-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01 00:00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00+01:00",
            "2026-01-01T00:00:00.Z",
            "20260-1-01T00:00:00Z",
            "",
            "+026-01-01T00:00:00Z",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }

    #[test]
    fn sums_and_differences_stop_at_the_ends() {
        let time = Timestamp::from_unix(Duration::new(10, 500));
        assert_eq!(
            time + Duration::new(1, 999_999_999),
            Timestamp::from_unix(Duration::new(12, 499))
        );
        assert_eq!(
            time - Duration::new(1, 501),
            Timestamp::from_unix(Duration::new(8, 999_999_999))
        );
        assert_eq!(time + Duration::MAX, Timestamp::MAX);
        assert_eq!(
            Timestamp::from_unix_seconds(5).saturating_since(time),
            Duration::ZERO
        );
        assert_eq!(
            time.saturating_since(Timestamp::from_unix_seconds(8)),
            Duration::new(2, 500)
        );
    }

    #[cfg(feature = "tokio")]
    #[test]
    fn a_deadline_beyond_what_the_system_can_name_never_comes() {
        let mut never = SystemClock::new().sleep_until(Duration::MAX);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(never.as_mut().poll(&mut context).is_pending());
    }
}
