//! Messages whose JSON is not an object of their fields.
//!
//! In: the bytes of a message. Out: the value in JSON, and whether nothing is set in it.

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use serde_json::Value;

use super::super::json;
use super::wire::{Fields, Payload, text};
use super::{BodyError, once};

type Valued = (Value, bool);

const UNKNOWN: BodyError = BodyError::Protobuf("it has a field that this release of Picket does not know");

/// `metav1.Time`: the API server heeds the seconds alone (pkg/apis/meta/v1/time_proto.go).
pub(super) fn time(bytes: &[u8]) -> Result<Valued, BodyError> {
    timestamp(bytes, 0)
}

/// `metav1.MicroTime`: cut to microseconds (micro_time_proto.go).
pub(super) fn micro_time(bytes: &[u8]) -> Result<Valued, BodyError> {
    timestamp(bytes, 6)
}

fn timestamp(bytes: &[u8], precision: u8) -> Result<Valued, BodyError> {
    if bytes.is_empty() {
        return Ok((Value::Null, true));
    }
    let (seconds, nanos) = two_numbers(bytes)?;
    let nanos = if precision == 0 { 0 } else { nanos - nanos % 1000 };
    let out_of_range = BodyError::Protobuf("a time is before the year 1 or behind the year 9999");
    let nanos = i32::try_from(nanos)
        .ok()
        .filter(|nanos| (0..1_000_000_000).contains(nanos));
    let nanos = nanos.ok_or(BodyError::Protobuf("a time has no valid fraction of a second"))?;
    // Go's years are 1 to 9999 in JSON; its first moment is the time that is not set.
    let zero = seconds == -62_135_596_800 && nanos == 0;
    if seconds < -62_135_596_800 {
        return Err(out_of_range);
    }
    if zero {
        return Ok((Value::Null, true));
    }
    let time = Timestamp::new(seconds, nanos).map_err(|_| out_of_range)?;
    let written = DateTimePrinter::new()
        .precision(Some(precision))
        .timestamp_to_string(&time);
    Ok((Value::String(written), false))
}

/// `metav1.Duration`, as Go writes it: `1h2m3.5s`.
pub(super) fn duration(bytes: &[u8]) -> Result<Valued, BodyError> {
    let mut nanos = None;
    for field in Fields::of(bytes) {
        match field? {
            (1, Payload::Varint(number)) => once(&mut nanos, number.cast_signed())?,
            _ => return Err(UNKNOWN),
        }
    }
    let nanos = nanos.unwrap_or_default();
    Ok((Value::String(go_duration(nanos)), nanos == 0))
}

/// Go's `time.Duration.String`.
fn go_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let size = nanos.unsigned_abs();
    let (unit, digits, name) = match size {
        0 => return "0s".to_owned(),
        1..1_000 => (1, 0, "ns"),
        1_000..1_000_000 => (1_000, 3, "µs"),
        1_000_000..1_000_000_000 => (1_000_000, 6, "ms"),
        _ => (1_000_000_000, 9, "s"),
    };
    let (whole, fraction) = (size / unit, size % unit);
    let fraction = match fraction {
        0 => String::new(),
        _ => format!(".{fraction:0digits$}").trim_end_matches('0').to_owned(),
    };
    if name != "s" || whole < 60 {
        return format!("{sign}{whole}{fraction}{name}");
    }
    let (minutes, seconds) = (whole / 60, whole % 60);
    if minutes < 60 {
        return format!("{sign}{minutes}m{seconds}{fraction}s");
    }
    format!("{sign}{}h{}m{seconds}{fraction}s", minutes / 60, minutes % 60)
}

/// `resource.Quantity`: its text. One that is not set is 0.
pub(super) fn quantity(bytes: &[u8]) -> Result<Valued, BodyError> {
    let mut quantity = None;
    for field in Fields::of(bytes) {
        match field? {
            (1, Payload::Bytes(bytes)) => once(&mut quantity, text(bytes)?)?,
            _ => return Err(UNKNOWN),
        }
    }
    let unset = quantity.is_none();
    Ok((Value::from(quantity.unwrap_or("0")), unset))
}

/// `intstr.IntOrString`: which of the two counts is said by its first field.
pub(super) fn int_or_string(bytes: &[u8]) -> Result<Valued, BodyError> {
    let (mut which, mut number, mut string) = (None, None, None);
    for field in Fields::of(bytes) {
        match field? {
            (1, Payload::Varint(value)) => once(&mut which, value)?,
            (2, Payload::Varint(value)) => once(&mut number, value.cast_signed())?,
            (3, Payload::Bytes(bytes)) => once(&mut string, text(bytes)?)?,
            _ => return Err(UNKNOWN),
        }
    }
    match which.unwrap_or_default() {
        0 => {
            let number = i32::try_from(number.unwrap_or_default())
                .map_err(|_| BodyError::Protobuf("a number has more than 32 bits where 32 belong"))?;
            let unset = number == 0 && string.unwrap_or_default().is_empty();
            Ok((Value::from(number), unset))
        }
        1 => Ok((Value::from(string.unwrap_or_default()), false)),
        _ => Err(BodyError::Protobuf("a value is neither number nor text")),
    }
}

/// `runtime.RawExtension` and `metav1.FieldsV1`: JSON, in which all of JSON's rules hold.
pub(super) fn raw(bytes: &[u8]) -> Result<Valued, BodyError> {
    let mut raw = None;
    for field in Fields::of(bytes) {
        match field? {
            (1, Payload::Bytes(bytes)) => once(&mut raw, bytes)?,
            _ => return Err(UNKNOWN),
        }
    }
    match raw {
        None => Ok((Value::Null, true)),
        Some(raw) => Ok((json::read(raw)?, false)),
    }
}

/// Seconds and nanoseconds.
fn two_numbers(bytes: &[u8]) -> Result<(i64, i64), BodyError> {
    let (mut first, mut second) = (None, None);
    for field in Fields::of(bytes) {
        match field? {
            (1, Payload::Varint(number)) => once(&mut first, number.cast_signed())?,
            (2, Payload::Varint(number)) => once(&mut second, number.cast_signed())?,
            _ => return Err(UNKNOWN),
        }
    }
    Ok((first.unwrap_or_default(), second.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (nanos, written) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (3_300_000_000, "3.3s"),
            (60_000_000_000, "1m0s"),
            (-3_723_500_000_000, "-1h2m3.5s"),
            (36_000_000_000_000, "10h0m0s"),
            (i64::MAX, "2562047h47m16.854775807s"),
            (i64::MIN, "-2562047h47m16.854775808s"),
        ] {
            assert_eq!(go_duration(nanos), written);
        }
    }

    #[test]
    fn times_have_the_precision_of_their_kind() {
        let bytes = [8, 0x80, 0x86, 0x95, 0xBE, 6, 16, 0xC1, 0x84, 0x3D];
        assert_eq!(time(&bytes), Ok((Value::from("2025-03-03T05:49:52Z"), false)));
        assert_eq!(
            micro_time(&bytes),
            Ok((Value::from("2025-03-03T05:49:52.001000Z"), false))
        );
        assert_eq!(time(&[]), Ok((Value::Null, true)));
    }
}
