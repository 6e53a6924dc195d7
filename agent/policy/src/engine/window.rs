//! When a grant holds, compiled: whether it does at a moment, and until when that stays so.
//!
//! In: `expiresAt` and `window` of an AgentGrant, then moments. Out: [`Phase`]s, exact to the second. No clock is read.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan as _};

use crate::api::v1alpha1::{ClockTime, DailyWindow, Day, GrantWindow, zone_data};

/// How many days ahead the next hours are looked for. Hours on one day of the week can be lost to a clock change once, so that
/// they are two weeks apart.
const LOOK_AHEAD: i64 = 15;

/// Whether something holds, and the moment at which that changes next; none for never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Phase {
    /// It holds now.
    pub(super) open: bool,
    /// The first moment at which it may be otherwise.
    pub(super) until: Option<Timestamp>,
}

/// The times at which a grant holds. The default one is always.
#[derive(Debug, Default)]
pub(super) struct Window {
    begin: Option<Timestamp>,
    end: Option<Timestamp>,
    daily: Option<Daily>,
}

/// Time zones that were read already: thousands of grants share a few.
#[derive(Default)]
pub(super) struct Zones(HashMap<String, TimeZone>);

impl Zones {
    fn get(&mut self, name: &str) -> Option<TimeZone> {
        if let Some(zone) = self.0.get(name) {
            return Some(zone.clone());
        }
        let zone = TimeZone::tzif(name, zone_data(name)?).ok()?;
        self.0.insert(name.to_owned(), zone.clone());
        Some(zone)
    }
}

impl Window {
    pub(super) fn new(
        expires_at: Option<Timestamp>,
        window: Option<&GrantWindow>,
        zones: &mut Zones,
    ) -> Self {
        let not_after = window.and_then(|window| window.not_after);
        let daily = window.and_then(|window| window.daily.as_ref());
        Self {
            begin: window.and_then(|window| window.not_before),
            end: [expires_at, not_after].into_iter().flatten().min(),
            daily: daily.map(|daily| Daily::new(daily, zones)),
        }
    }

    /// What holds at a moment.
    pub(super) fn phase(&self, now: Timestamp) -> Phase {
        if self.end.is_some_and(|end| now >= end) {
            return Phase {
                open: false,
                until: None,
            };
        }
        if let Some(begin) = self.begin.filter(|begin| now < *begin) {
            return Phase {
                open: false,
                until: Some(begin),
            };
        }
        let phase = match &self.daily {
            Some(daily) => daily.phase(now),
            None => Phase {
                open: true,
                until: None,
            },
        };
        Phase {
            until: [phase.until, self.end].into_iter().flatten().min(),
            ..phase
        }
    }

    /// The moment from which on it never holds.
    pub(super) fn end(&self) -> Option<Timestamp> {
        self.end
    }

    /// When it holds next, where it does not hold now and will.
    pub(super) fn next_opening(&self, now: Timestamp) -> Option<Timestamp> {
        let from = self.begin.map_or(now, |begin| begin.max(now));
        let next = match &self.daily {
            Some(daily) => {
                let phase = daily.phase(from);
                if phase.open { from } else { phase.until? }
            }
            None => from,
        };
        self.end.is_none_or(|end| next < end).then_some(next)
    }

    /// A moment as people of the window's time zone read it.
    pub(super) fn local(&self, moment: Timestamp) -> String {
        match &self.daily {
            Some(daily) => moment
                .to_zoned(daily.zone.clone())
                .strftime("%Y-%m-%dT%H:%M:%S%:z")
                .to_string(),
            None => moment.to_string(),
        }
    }
}

/// In words, as a refusal has them: ` from 22:00 to 06:00 Europe/Berlin on Mon, Tue until 2027-01-31T00:00:00Z`.
impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(daily) = &self.daily {
            f.write_str(&daily.words)?;
        }
        if let Some(begin) = self.begin {
            write!(f, " from {begin} on")?;
        }
        if let Some(end) = self.end {
            write!(f, " until {end}")?;
        }
        Ok(())
    }
}

/// Hours of the day.
#[derive(Debug)]
struct Daily {
    from: Time,
    to: ClockTime,
    zone: TimeZone,
    /// A bit for each weekday, from Monday on.
    days: u8,
    words: String,
    memo: Memo,
}

fn weekday(day: Day) -> Weekday {
    match day {
        Day::Mon => Weekday::Monday,
        Day::Tue => Weekday::Tuesday,
        Day::Wed => Weekday::Wednesday,
        Day::Thu => Weekday::Thursday,
        Day::Fri => Weekday::Friday,
        Day::Sat => Weekday::Saturday,
        Day::Sun => Weekday::Sunday,
    }
}

impl Daily {
    fn new(daily: &DailyWindow, zones: &mut Zones) -> Self {
        const EVERY_DAY: u8 = 0x7f;
        let bit = |day: Weekday| 1u8 << day.to_monday_zero_offset();
        let days = match &daily.days[..] {
            [] => EVERY_DAY,
            days => days.iter().fold(0, |bits, day| bits | bit(weekday(*day))),
        };
        let mut words = format!(" from {} to {} {}", daily.from, daily.to, daily.timezone);
        if !daily.days.is_empty() {
            let days: Vec<_> = daily.days.iter().map(Day::to_string).collect();
            words = format!("{words} on {}", days.join(", "));
        }
        let mut read = || {
            let ClockTime::Of(from) = ClockTime::parse(&daily.from)? else {
                return None;
            };
            Some((from, ClockTime::parse(&daily.to)?, zones.get(&daily.timezone)?))
        };
        // The reader has checked all three; hours that fail here all the same must grant nothing.
        let (from, to, zone, days) = match read() {
            Some((from, to, zone)) => (from, to, zone, days),
            None => (Time::midnight(), ClockTime::EndOfDay, TimeZone::UTC, 0),
        };
        Self {
            from,
            to,
            zone,
            days,
            words,
            memo: Memo::default(),
        }
    }

    fn phase(&self, now: Timestamp) -> Phase {
        let second = now.as_second();
        if let Some((open, until)) = self.memo.get(second) {
            return Phase {
                open,
                until: Timestamp::from_second(until).ok(),
            };
        }
        let (since, phase) = self.compute(now);
        if let Some(until) = phase.until {
            self.memo.set(since.as_second(), until.as_second(), phase.open);
        }
        phase
    }

    /// The phase at a moment, and a moment since which it is the same.
    fn compute(&self, now: Timestamp) -> (Timestamp, Phase) {
        let closed = |since, until| (since, Phase { open: false, until });
        let today = self.zone.to_datetime(now).date();
        let mut since = now;
        // Hours that are open now began yesterday at the earliest; the day before tells since when they are closed.
        for offset in -2..=LOOK_AHEAD {
            let Ok(date) = today.checked_add(offset.days()) else {
                continue;
            };
            if self.days & (1 << date.weekday().to_monday_zero_offset()) == 0 {
                continue;
            }
            let Some((begin, end)) = self.hours_of(date) else {
                continue;
            };
            if end <= now {
                since = end;
            } else if begin <= now {
                return (
                    begin,
                    Phase {
                        open: true,
                        until: Some(end),
                    },
                );
            } else {
                return closed(since, Some(begin));
            }
        }
        closed(
            now,
            now.checked_add(SignedDuration::from_hours(24 * LOOK_AHEAD)).ok(),
        )
    }

    /// The moments between which the hours that begin on a day lie, where there is at least one.
    fn hours_of(&self, date: Date) -> Option<(Timestamp, Timestamp)> {
        let begin = self.moments(date.to_datetime(self.from))?.1;
        let end = match self.to {
            ClockTime::Of(to) if to > self.from => date.to_datetime(to),
            ClockTime::Of(to) => date.tomorrow().ok()?.to_datetime(to),
            ClockTime::EndOfDay => date.tomorrow().ok()?.to_datetime(Time::midnight()),
        };
        let (first, second) = self.moments(end)?;
        let end = if first > begin { first } else { second };
        (begin < end).then_some((begin, end))
    }

    /// The first and the last moment at which the zone's clock shows this, or passes over it.
    fn moments(&self, local: DateTime) -> Option<(Timestamp, Timestamp)> {
        let ambiguous = self.zone.to_ambiguous_timestamp(local);
        match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { offset } => {
                let moment = offset.to_timestamp(local).ok()?;
                Some((moment, moment))
            }
            AmbiguousOffset::Fold { before, after } => {
                Some((before.to_timestamp(local).ok()?, after.to_timestamp(local).ok()?))
            }
            AmbiguousOffset::Gap { before, .. } => {
                // By the old offset this is the change itself or later, and before the next change.
                let late = before.to_timestamp(local).ok()?;
                let after = late.checked_add(SignedDuration::from_secs(1)).ok()?;
                let change = self.zone.preceding(after).next()?.timestamp();
                Some((change, change))
            }
        }
    }
}

/// The phase that was computed last, so that a request costs one comparison whatever the zone's rules are. It holds for every
/// moment of the phase and is worked out anew for any other, so the answers depend on the moment alone.
///
/// One word: the second at which the phase ends, its length in seconds, and whether it is open. Zero holds for no moment.
#[derive(Debug, Default)]
struct Memo(AtomicU64);

impl Memo {
    const LENGTH_BITS: u32 = 22;
    const OPEN_BITS: u32 = 1;

    fn get(&self, second: i64) -> Option<(bool, i64)> {
        let word = self.0.load(Ordering::Relaxed);
        let until = (word >> (Self::LENGTH_BITS + Self::OPEN_BITS)).cast_signed();
        let length = ((word >> Self::OPEN_BITS) & ((1 << Self::LENGTH_BITS) - 1)).cast_signed();
        (until - length <= second && second < until).then_some((word & 1 == 1, until))
    }

    fn set(&self, since: i64, until: i64, open: bool) {
        let (Ok(length), Ok(end)) = (u64::try_from(until - since), u64::try_from(until)) else {
            return;
        };
        if length >> Self::LENGTH_BITS == 0 && end >> (u64::BITS - Self::LENGTH_BITS - Self::OPEN_BITS) == 0 {
            let word = (end << (Self::LENGTH_BITS + Self::OPEN_BITS))
                | (length << Self::OPEN_BITS)
                | u64::from(open);
            self.0.store(word, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
