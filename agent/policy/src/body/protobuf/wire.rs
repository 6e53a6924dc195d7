//! Protobuf's wire format (protobuf.dev/programming-guides/encoding).
//!
//! In: the bytes of a message. Out: its fields' numbers and payloads, each whole.

use super::BodyError;

/// Largest field number there is.
const MAX_NUMBER: u64 = (1 << 29) - 1;

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Payload<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, in the order of the wire.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn field(&mut self) -> Result<(u64, Payload<'a>), BodyError> {
        let tag = self.varint()?;
        let number = tag >> 3;
        if number == 0 || number > MAX_NUMBER {
            return Err(BodyError::Protobuf("a field has no valid number"));
        }
        let payload = match tag & 7 {
            0 => Payload::Varint(self.varint()?),
            1 => {
                let (bytes, rest) = self.rest.split_first_chunk().ok_or(CUT)?;
                self.rest = rest;
                Payload::Fixed64(u64::from_le_bytes(*bytes))
            }
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| CUT)?;
                let (bytes, rest) = self.rest.split_at_checked(length).ok_or(CUT)?;
                self.rest = rest;
                Payload::Bytes(bytes)
            }
            _ => {
                return Err(BodyError::Protobuf(
                    "a field has a wire type that Kubernetes does not use",
                ));
            }
        };
        Ok((number, payload))
    }

    fn varint(&mut self) -> Result<u64, BodyError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(CUT)?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7F);
            // The tenth byte has room for one bit.
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(BodyError::Protobuf("a number has more than 64 bits"))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Payload<'a>), BodyError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            // Nothing behind it has a known start.
            self.rest = &[];
        }
        Some(field)
    }
}

/// The end is missing.
const CUT: BodyError = BodyError::Protobuf("it ends within a field");

/// Text, which Go writes as it is and JSON must be able to hold.
pub(super) fn text(bytes: &[u8]) -> Result<&str, BodyError> {
    std::str::from_utf8(bytes).map_err(|_| BodyError::Protobuf("a text is not valid UTF-8"))
}
