//! The times at which a grant holds, as files say them.

use super::*;
use crate::api::v1alpha1::Day;

/// The grant with these lines before its rules.
fn with(lines: &str) -> String {
    GRANT.replace("  rules:\n", &format!("{lines}\n  rules:\n"))
}

#[test]
fn a_grant_says_when_it_holds() {
    let documents = read(&with(
        "  expiresAt: 2027-01-31T00:00:00Z\n  window:\n    notBefore: 2027-01-01T00:00:00Z\n    notAfter: \
         2027-01-30T00:00:00+01:00\n    daily: {from: '22:00', to: '06:00:30', timezone: Europe/Berlin, days: [Fri]}",
    ));
    let AnyObject::Grant(grant) = &documents[0].object else {
        panic!("{documents:?}")
    };
    let window = grant.spec.window.as_ref().expect("given");
    let end = window.not_after.expect("given").to_string();
    assert_eq!(end, "2027-01-29T23:00:00Z");
    let daily = window.daily.as_ref().expect("given");
    assert_eq!(
        (daily.to.as_str(), &daily.days[..]),
        ("06:00:30", &[Day::Fri][..])
    );
}

#[test]
fn times_that_no_clock_shows_are_refused_by_field() {
    let daily = |fields: &str| format!("  window: {{daily: {{{fields}}}}}");
    let hours = |from: &str, to: &str| daily(&format!("from: {from}, to: {to}, timezone: UTC"));
    for (lines, fault) in [
        (
            "  window: {}".to_owned(),
            "field `spec.window` limits nothing: give notBefore, notAfter or daily",
        ),
        (
            "  window: {notBefore: 2027-01-02T00:00:00Z, notAfter: 2027-01-02T00:00:00Z}".to_owned(),
            "the grant would never hold: notAfter 2027-01-02T00:00:00Z is not after notBefore 2027-01-02T00:00:00Z",
        ),
        (
            "  expiresAt: 2027-01-01T00:00:00Z\n  window: {notBefore: 2027-01-02T00:00:00Z}".to_owned(),
            "the grant would never hold: expiresAt 2027-01-01T00:00:00Z is not after notBefore 2027-01-02T00:00:00Z",
        ),
        (
            hours("'24:00'", "'06:00'"),
            "time \"24:00\": write HH:MM or HH:MM:SS",
        ),
        (
            hours("'9:00'", "'17:00'"),
            "time \"9:00\": write HH:MM or HH:MM:SS",
        ),
        (
            hours("'09:00'", "'17:60'"),
            "time \"17:60\": write HH:MM or HH:MM:SS, up to",
        ),
        (hours("'09:00'", "'+7:00'"), "time \"+7:00\""),
        (hours("'09:00'", "'24:01'"), "time \"24:01\""),
        (
            hours("'09:00'", "'09:00:00'"),
            "the hours begin and end at the same time; a whole day is from \"00:00\" to \"24:00\"",
        ),
        (
            daily("from: '09:00', to: '17:00', timezone: Europe/Berln"),
            "timezone \"Europe/Berln\" is not an IANA time zone: did you mean \"Europe/Berlin\"?",
        ),
        (
            daily("from: '09:00', to: '17:00', timezone: europe/berlin"),
            "did you mean \"Europe/Berlin\"?",
        ),
        (
            daily("from: '09:00', to: '17:00', timezone: '+01:00'"),
            "timezone \"+01:00\" is not an IANA time zone such as",
        ),
        (
            daily("from: '09:00', to: '17:00', timezone: UTC, days: [Mon, Mon]"),
            "Mon is named twice",
        ),
        (
            daily("from: '09:00', to: '17:00', timezone: UTC, days: [Monday]"),
            "Monday",
        ),
        (daily("from: '09:00', to: '17:00'"), "timezone"),
    ] {
        let found = faults(&with(&lines));
        assert!(found.contains(fault), "{lines}: {found}");
        assert_eq!(found.lines().count(), 1, "{lines}: {found}");
    }
}
