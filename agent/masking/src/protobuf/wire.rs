//! The wire format of protobuf (protobuf.dev/programming-guides/encoding).
//!
//! In: bytes that may end too early. Out: fields, or that more is needed. Groups, which Kubernetes never uses, are an error.

use crate::error::FilterError;

/// The longest varint.
const VARINT_BYTES: usize = 10;

/// A field's number and what comes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) number: u64,
    /// From the tag up to the value's first byte.
    pub(super) length: usize,
    pub(super) value: Length,
}

/// How long a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    /// Of a number, which lies after the tag.
    Number(u64),
    /// Of a string, bytes or a message.
    Delimited(u64),
}

impl Header {
    /// The value's length, the number's included.
    pub(super) fn value_length(self) -> u64 {
        match self.value {
            Length::Number(length) | Length::Delimited(length) => length,
        }
    }
}

/// A varint and its length; `None` where it is not complete.
fn varint(bytes: &[u8]) -> Result<Option<(u64, usize)>, FilterError> {
    let mut value = 0u64;
    for (at, byte) in bytes.iter().take(VARINT_BYTES).enumerate() {
        // The tenth byte has one bit that counts.
        if at == VARINT_BYTES - 1 && *byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((value, at + 1)));
        }
    }
    match bytes.len() < VARINT_BYTES {
        true => Ok(None),
        false => Err(FilterError::Protobuf("a number is too long")),
    }
}

/// The field that starts here; `None` where its tag and length are not complete.
pub(super) fn header(bytes: &[u8]) -> Result<Option<Header>, FilterError> {
    let Some((tag, tag_length)) = varint(bytes)? else {
        return Ok(None);
    };
    let number = tag >> 3;
    if number == 0 || number > 0x1fff_ffff {
        return Err(FilterError::Protobuf("a field has no number"));
    }
    let rest = &bytes[tag_length..];
    let (length, value) = match tag & 7 {
        0 => match varint(rest)? {
            Some((_, length)) => (tag_length, Length::Number(length as u64)),
            None => return Ok(None),
        },
        1 => (tag_length, Length::Number(8)),
        2 => match varint(rest)? {
            Some((value, length)) => (tag_length + length, Length::Delimited(value)),
            None => return Ok(None),
        },
        5 => (tag_length, Length::Number(4)),
        _ => return Err(FilterError::Protobuf("a field is of an unknown type")),
    };
    Ok(Some(Header {
        number,
        length,
        value,
    }))
}

/// A field of a message that lies in memory as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Field<'a> {
    pub(super) number: u64,
    /// `None` of a number.
    pub(super) bytes: Option<&'a [u8]>,
    /// With its tag and length.
    pub(super) whole: &'a [u8],
}

impl<'a> Field<'a> {
    /// The value, which is a string, bytes or a message.
    pub(super) fn bytes(self) -> Result<&'a [u8], FilterError> {
        self.bytes
            .ok_or(FilterError::Protobuf("a number stands in place of a message"))
    }

    /// The string.
    pub(super) fn text(self) -> Result<&'a str, FilterError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| FilterError::Protobuf("a string is not UTF-8"))
    }
}

/// Goes over a message's fields.
pub(super) fn each_field<'a>(
    mut message: &'a [u8],
    mut each: impl FnMut(Field<'a>) -> Result<(), FilterError>,
) -> Result<(), FilterError> {
    const ENDED: FilterError = FilterError::Protobuf("a message ends within a field");
    while !message.is_empty() {
        let header = header(message)?.ok_or(ENDED)?;
        let length = usize::try_from(header.value_length()).map_err(|_| ENDED)?;
        let end = header.length.checked_add(length).ok_or(ENDED)?;
        let (whole, rest) = message.split_at_checked(end).ok_or(ENDED)?;
        each(Field {
            number: header.number,
            bytes: match header.value {
                Length::Delimited(_) => Some(&whole[header.length..]),
                Length::Number(_) => None,
            },
            whole,
        })?;
        message = rest;
    }
    Ok(())
}

/// Writes a varint of exactly `length` bytes, or of as many as it takes for 0.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64, length: usize) {
    let mut left = length;
    loop {
        left = left.saturating_sub(1);
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 && left == 0 {
            out.push(byte);
            return;
        }
        out.push(byte | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_they_are_written() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value, 0);
            assert_eq!(varint(&bytes), Ok(Some((value, bytes.len()))));
            assert_eq!(varint(&bytes[..bytes.len() - 1]), Ok(None));
        }
        let mut padded = Vec::new();
        put_varint(&mut padded, 5, 3);
        assert_eq!(padded, [0x85, 0x80, 0]);
        assert_eq!(varint(&padded), Ok(Some((5, 3))));
        assert!(varint(&[0xff; 10]).is_err());
        // The tenth byte has one bit of a number of 64.
        let mut large = [0xff; 10];
        large[9] = 2;
        assert!(varint(&large).is_err());
        assert!(header(&[0x0b, 0]).is_err());
        assert!(header(&[0x02, 0]).is_err());
    }

    #[test]
    fn a_message_that_ends_within_a_field_is_an_error() {
        for bad in [&[0x0a][..], &[0x0a, 2, 0], &[0x80], &[0x08], &[0x09, 0, 0, 0]] {
            assert!(each_field(bad, |_| Ok(())).is_err(), "{bad:?}");
        }
    }
}
