//! Grants at the hours they are given for, in zones whose clocks change.

use super::*;

fn at(moment: &str) -> Timestamp {
    moment.parse().unwrap_or_else(|error| panic!("{moment}: {error}"))
}

fn daily(from: &str, to: &str, zone: &str, days: &[Day]) -> GrantWindow {
    GrantWindow {
        daily: Some(DailyWindow {
            from: from.to_owned(),
            to: to.to_owned(),
            timezone: zone.to_owned(),
            days: days.to_vec(),
        }),
        ..GrantWindow::default()
    }
}

fn compiled(window: &GrantWindow) -> Window {
    Window::new(None, Some(window), &mut Zones::default())
}

/// The openings and closings between two moments, each as `+` or `-` and the moment.
fn changes(window: &Window, from: &str, to: &str) -> String {
    let (mut now, end) = (at(from), at(to));
    let mut found = Vec::new();
    let mut open = window.phase(now).open;
    while let Some(until) = window.phase(now).until.filter(|until| *until < end) {
        assert!(until > now, "{until} after {now}");
        now = until;
        if window.phase(now).open != open {
            open = !open;
            found.push(format!("{}{now}", if open { '+' } else { '-' }));
        }
    }
    found.join(" ")
}

#[test]
fn a_span_holds_from_its_first_moment_to_its_last_and_expiry_ends_it_sooner() {
    let span = GrantWindow {
        not_before: Some(at("2027-01-01T10:00:00Z")),
        not_after: Some(at("2027-01-02T10:00:00Z")),
        daily: None,
    };
    let window = compiled(&span);
    for (moment, open) in [
        ("2027-01-01T09:59:59.999999999Z", false),
        ("2027-01-01T10:00:00Z", true),
        ("2027-01-02T09:59:59.999Z", true),
        ("2027-01-02T10:00:00Z", false),
    ] {
        assert_eq!(window.phase(at(moment)).open, open, "{moment}");
    }
    assert_eq!(window.next_opening(at("2026-01-01T00:00:00Z")), span.not_before);
    assert_eq!(window.next_opening(at("2027-01-02T10:00:00Z")), None);
    let expiry = at("2027-01-01T12:00:00Z");
    let window = Window::new(Some(expiry), Some(&span), &mut Zones::default());
    assert_eq!(window.phase(at("2027-01-01T11:00:00Z")).until, Some(expiry));
    assert!(!window.phase(expiry).open);
    let always = Window::default().phase(expiry);
    assert_eq!(
        always,
        Phase {
            open: true,
            until: None
        }
    );
}

#[test]
fn hours_past_midnight_belong_to_the_day_they_begin_on() {
    // 2027-01-15 is a Friday; Berlin is one hour ahead of UTC in winter.
    let window = compiled(&daily("22:00", "06:00", "Europe/Berlin", &[Day::Fri]));
    assert_eq!(
        changes(&window, "2027-01-11T00:00:00Z", "2027-01-25T00:00:00Z"),
        "+2027-01-15T21:00:00Z -2027-01-16T05:00:00Z +2027-01-22T21:00:00Z -2027-01-23T05:00:00Z"
    );
    assert!(!window.phase(at("2027-01-15T20:59:59.999Z")).open);
    assert!(window.phase(at("2027-01-15T21:00:00Z")).open);
    assert!(window.phase(at("2027-01-16T04:59:59.999Z")).open);
    assert!(!window.phase(at("2027-01-16T05:00:00Z")).open);
    // A span around it cuts it.
    let cut = GrantWindow {
        not_before: Some(at("2027-01-15T23:00:00Z")),
        ..daily("22:00", "06:00", "Europe/Berlin", &[Day::Fri])
    };
    assert_eq!(
        compiled(&cut).next_opening(at("2027-01-11T00:00:00Z")),
        cut.not_before
    );
    let whole = compiled(&daily("00:00", "24:00", "UTC", &[Day::Sat, Day::Sun]));
    assert_eq!(
        changes(&whole, "2027-01-11T00:00:00Z", "2027-01-25T01:00:00Z"),
        "+2027-01-16T00:00:00Z -2027-01-18T00:00:00Z +2027-01-23T00:00:00Z -2027-01-25T00:00:00Z"
    );
}

#[test]
fn clock_changes_give_less_time_where_in_doubt() {
    for (zone, from, to, day, expected) in [
        // Berlin, 2027-03-28: 02:00 becomes 03:00 at 01:00Z.
        (
            "Europe/Berlin",
            "01:00",
            "02:30",
            "2027-03-28",
            "+2027-03-28T00:00:00Z -2027-03-28T01:00:00Z",
        ),
        (
            "Europe/Berlin",
            "02:30",
            "04:00",
            "2027-03-28",
            "+2027-03-28T01:00:00Z -2027-03-28T02:00:00Z",
        ),
        ("Europe/Berlin", "02:15", "02:45", "2027-03-28", ""),
        ("Europe/Berlin", "02:00", "03:00", "2027-03-28", ""),
        // Berlin, 2027-10-31: 03:00 becomes 02:00 at 01:00Z.
        (
            "Europe/Berlin",
            "01:00",
            "02:30",
            "2027-10-31",
            "+2027-10-30T23:00:00Z -2027-10-31T00:30:00Z",
        ),
        (
            "Europe/Berlin",
            "02:30",
            "04:00",
            "2027-10-31",
            "+2027-10-31T01:30:00Z -2027-10-31T03:00:00Z",
        ),
        (
            "Europe/Berlin",
            "02:15",
            "02:45",
            "2027-10-31",
            "+2027-10-31T01:15:00Z -2027-10-31T01:45:00Z",
        ),
        // All that lies between is open, twice where the clock shows it twice.
        (
            "Europe/Berlin",
            "01:00",
            "04:00",
            "2027-10-31",
            "+2027-10-30T23:00:00Z -2027-10-31T03:00:00Z",
        ),
        // New York, 2027-03-14: 02:00 becomes 03:00 at 07:00Z; 2027-11-07: 02:00 becomes 01:00 at 06:00Z.
        (
            "America/New_York",
            "02:30",
            "04:00",
            "2027-03-14",
            "+2027-03-14T07:00:00Z -2027-03-14T08:00:00Z",
        ),
        (
            "America/New_York",
            "01:30",
            "02:30",
            "2027-11-07",
            "+2027-11-07T06:30:00Z -2027-11-07T07:30:00Z",
        ),
        (
            "America/New_York",
            "00:30",
            "01:30",
            "2027-11-07",
            "+2027-11-07T04:30:00Z -2027-11-07T05:30:00Z",
        ),
        // Lord Howe, half an hour: 2027-04-04 02:00 becomes 01:30 at 15:00Z the day before; 2027-10-03 02:00 becomes 02:30.
        (
            "Australia/Lord_Howe",
            "01:45",
            "03:00",
            "2027-04-04",
            "+2027-04-03T15:15:00Z -2027-04-03T16:30:00Z",
        ),
        (
            "Australia/Lord_Howe",
            "01:00",
            "01:45",
            "2027-04-04",
            "+2027-04-03T14:00:00Z -2027-04-03T14:45:00Z",
        ),
        (
            "Australia/Lord_Howe",
            "02:15",
            "03:00",
            "2027-10-03",
            "+2027-10-02T15:30:00Z -2027-10-02T16:00:00Z",
        ),
    ] {
        let date: Date = day.parse().expect("a date");
        let zone_of = Zones::default().get(zone).expect("a zone");
        let noon = |date: Date| {
            date.at(12, 0, 0, 0)
                .to_zoned(zone_of.clone())
                .expect("a moment")
                .timestamp()
        };
        let (before, after) = (noon(date.yesterday().expect("a date")), noon(date));
        let found = changes(
            &compiled(&daily(from, to, zone, &[])),
            &before.to_string(),
            &after.to_string(),
        );
        assert_eq!(found, expected, "{zone} {from}-{to} {day}");
    }
}

/// What a person sees on a clock of the zone: whether the hours of today or yesterday hold.
fn by_the_clock(spec: &DailyWindow, zone: &TimeZone, now: Timestamp) -> bool {
    let local = zone.to_datetime(now);
    let begins =
        |date: Date| spec.days.is_empty() || spec.days.iter().any(|day| weekday(*day) == date.weekday());
    let parse = |text: &str| match ClockTime::parse(text).expect("a time") {
        ClockTime::Of(time) => Some(time),
        ClockTime::EndOfDay => None,
    };
    let (from, to) = (parse(&spec.from).expect("a time of the day"), parse(&spec.to));
    let (date, time) = (local.date(), local.time());
    match to {
        Some(to) if to <= from => {
            (time >= from && begins(date)) || (time < to && begins(date.yesterday().expect("a date")))
        }
        to => time >= from && to.is_none_or(|to| time < to) && begins(date),
    }
}

/// Moments of a week, and of the four days around each change of 2027.
fn moments(zone: &TimeZone, step: i64) -> Vec<Timestamp> {
    const DAY: i64 = 86_400;
    let year = at("2027-01-01T00:00:00Z");
    let changes = zone.following(year).map(|change| change.timestamp());
    let changes = changes.take_while(|change| *change < at("2028-01-01T00:00:00Z"));
    let around = changes.map(|change| (change.as_second() - 2 * DAY, change.as_second() + 2 * DAY));
    std::iter::once((year.as_second(), year.as_second() + 7 * DAY))
        .chain(around)
        .flat_map(|(from, to)| (from..to).step_by(usize::try_from(step).expect("a step")))
        .map(|second| Timestamp::from_second(second).expect("a moment"))
        .collect()
}

#[test]
fn no_moment_is_given_that_the_clock_does_not_show_and_few_are_held_back() {
    const STEP: i64 = 900;
    let hours = [
        ("22:00", "06:00"),
        ("02:00", "03:00"),
        ("01:45", "02:15"),
        ("00:00", "24:00"),
        ("23:30", "00:30"),
        ("09:00", "17:30"),
        ("02:30", "02:15"),
    ];
    for zone in [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "America/Havana",
        "Africa/Casablanca",
        "Asia/Kathmandu",
    ] {
        let data = Zones::default().get(zone).expect("a zone");
        for (from, to) in hours {
            for days in [&[][..], &[Day::Sun], &[Day::Sat, Day::Mon]] {
                let spec = daily(from, to, zone, days);
                let (kept, spec) = (compiled(&spec), spec.daily.expect("given"));
                let (mut held_back, mut until) = (0, None::<(Timestamp, bool)>);
                for now in moments(&data, STEP) {
                    let phase = kept.phase(now);
                    let shown = by_the_clock(&spec, &data, now);
                    assert!(shown || !phase.open, "{zone} {from}-{to} {days:?} {now}");
                    held_back += i64::from(shown && !phase.open) * STEP;
                    // Until the moment that was named nothing changed.
                    if let Some((_, open)) = until.filter(|(until, _)| now < *until) {
                        assert_eq!(phase.open, open, "{zone} {from}-{to} {days:?} {now}");
                    }
                    until = phase.until.map(|until| (until, phase.open));
                    // What is kept in mind is what is worked out.
                    if now.as_second() % 7_200 < STEP {
                        let fresh = Daily::new(&spec, &mut Zones::default());
                        assert_eq!(fresh.compute(now).1, phase, "{zone} {from}-{to} {days:?} {now}");
                    }
                }
                // Two changes a year, and Morocco's four, take at most the hour each that comes twice.
                assert!(
                    held_back <= 2 * 3600,
                    "{zone} {from}-{to} {days:?}: {held_back} s"
                );
            }
        }
    }
}

#[test]
fn hours_that_cannot_be_read_are_never_open() {
    for broken in [
        daily("25:00", "06:00", "UTC", &[]),
        daily("22:00", "x", "UTC", &[]),
        daily("22:00", "06:00", "Mars/Olympus", &[]),
        daily("24:00", "06:00", "UTC", &[]),
    ] {
        let window = compiled(&broken);
        let phase = window.phase(at("2027-01-15T23:00:00Z"));
        assert!(!phase.open, "{broken:?}");
        assert!(
            phase
                .until
                .is_some_and(|until| until > at("2027-01-15T23:00:00Z"))
        );
    }
    // Far from any time that a memo holds, and at the ends of what can be counted.
    let window = compiled(&daily("22:00", "06:00", "Europe/Berlin", &[]));
    for moment in [Timestamp::MIN, Timestamp::MAX, Timestamp::UNIX_EPOCH] {
        let phase = window.phase(moment);
        assert!(phase.until.is_none_or(|until| until > moment), "{moment}");
        assert_eq!(window.phase(moment), phase);
    }
}
