//! Moments as people write them on a command line.
//!
//! In: `2027-01-31T00:00:00Z`, `2027-01-31`, or a time from now such as `24h` or `30d`. Out: a [`Timestamp`] to the second.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{RoundMode, Span, Timestamp, TimestampRound, Unit};

/// Reads a moment; those without a zone are UTC.
///
/// # Errors
/// What can be written, where the text is something else; and where the moment is not after `now`.
pub(in crate::cli) fn parse(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let moment = read(text, now).ok_or_else(|| {
        format!("{text:?} is no moment: write 2027-01-31T00:00:00Z, 2027-01-31 (UTC), or a time from now such as 24h or 30d")
    })?;
    if moment <= now {
        return Err(format!("{text:?} is in the past: {moment}"));
    }
    Ok(moment)
}

/// For clap: a moment that is still to come.
///
/// # Errors
/// As [`parse`].
pub(in crate::cli) fn to_come(text: &str) -> Result<Timestamp, String> {
    parse(text, Timestamp::now())
}

fn read(text: &str, now: Timestamp) -> Option<Timestamp> {
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Some(moment);
    }
    if let Ok(date) = text.parse::<Date>() {
        return Some(date.to_zoned(TimeZone::UTC).ok()?.timestamp());
    }
    let span: Span = text.parse().ok()?;
    let then = now.to_zoned(TimeZone::UTC).checked_add(span).ok()?.timestamp();
    let seconds = TimestampRound::new().smallest(Unit::Second).mode(RoundMode::Ceil);
    then.round(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_times_and_spans_are_moments() {
        let now: Timestamp = "2026-11-28T18:00:00.5Z".parse().expect("a moment");
        for (text, wanted) in [
            ("2027-01-31T00:00:00Z", "2027-01-31T00:00:00Z"),
            ("2027-01-31T02:00:00+02:00", "2027-01-31T00:00:00Z"),
            ("2027-01-31", "2027-01-31T00:00:00Z"),
            ("24h", "2026-11-29T18:00:01Z"),
            ("30d", "2026-12-28T18:00:01Z"),
            ("1h30m", "2026-11-28T19:30:01Z"),
        ] {
            assert_eq!(
                parse(text, now).map(|moment| moment.to_string()).as_deref(),
                Ok(wanted),
                "{text}"
            );
        }
        for (text, wanted) in [
            ("soon", "is no moment: write"),
            ("2020-01-01", "in the past"),
            ("-1h", "in the past"),
            ("0s", ""),
        ] {
            let error = parse(text, now).err();
            assert!(
                text == "0s" || error.as_ref().is_some_and(|error| error.contains(wanted)),
                "{text}: {error:?}"
            );
        }
    }
}
