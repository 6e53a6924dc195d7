//! Watches in Kubernetes' protobuf: where a message ends, and an `ERROR` event as one.
//!
//! In: the bytes sent to the client, and a [`Status`]. Out: whether the stream is between two messages, and the event's bytes.
//!
//! A message is four bytes of length, big-endian, then a `WatchEvent` without envelope. Its object has one: `k8s\0` and a
//! `runtime.Unknown` (k8s.io/apimachinery pkg/runtime/serializer/protobuf). Few fields of fixed numbers are needed, so they are
//! written by hand; empty ones too, as the API server does.

use crate::reject::Status;

/// What an object in protobuf begins with.
const MAGIC: &[u8] = b"k8s\0";

/// Follows messages with their length before them.
#[derive(Debug, Default)]
pub struct LengthDelimited {
    length: u32,
    /// Bytes of the length that passed.
    have: u8,
    /// Bytes of the message that are still to come.
    left: u64,
}

impl LengthDelimited {
    pub(super) fn sent(&mut self, mut data: &[u8]) {
        while let Some((first, rest)) = data.split_first() {
            if self.left > 0 {
                let step = data.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= step as u64;
                data = &data[step..];
                continue;
            }
            self.length = self.length << 8 | u32::from(*first);
            self.have += 1;
            if self.have == 4 {
                (self.left, self.length, self.have) = (u64::from(self.length), 0, 0);
            }
            data = rest;
        }
    }

    /// Whether the last byte ended a message, or none passed yet.
    pub(super) fn between(&self) -> bool {
        self.left == 0 && self.have == 0
    }
}

/// A whole message: the event of type `ERROR` with the status.
pub(super) fn error_event(status: &Status) -> Vec<u8> {
    let mut object = MAGIC.to_vec();
    object.extend(unknown(status));
    let mut event = Vec::new();
    bytes(&mut event, 1, b"ERROR");
    let mut raw = Vec::new();
    bytes(&mut raw, 1, &object);
    bytes(&mut event, 2, &raw);
    let mut message = u32::try_from(event.len())
        .unwrap_or(u32::MAX)
        .to_be_bytes()
        .to_vec();
    message.extend(event);
    message
}

/// `runtime.Unknown`.
fn unknown(status: &Status) -> Vec<u8> {
    let mut kind = Vec::new();
    bytes(&mut kind, 1, b"v1");
    bytes(&mut kind, 2, b"Status");
    let mut out = Vec::new();
    bytes(&mut out, 1, &kind);
    bytes(&mut out, 2, &self::status(status));
    bytes(&mut out, 3, b"");
    bytes(&mut out, 4, b"");
    out
}

/// `meta/v1` `Status`.
fn status(status: &Status) -> Vec<u8> {
    let mut details = Vec::new();
    bytes(&mut details, 1, status.name.as_bytes());
    bytes(&mut details, 2, status.group.as_bytes());
    bytes(&mut details, 3, status.kind.as_bytes());
    number(&mut details, 5, u64::from(status.retry_after_seconds));
    bytes(&mut details, 6, b"");
    let mut metadata = Vec::new();
    for field in 1..=3 {
        bytes(&mut metadata, field, b"");
    }
    let mut out = Vec::new();
    bytes(&mut out, 1, &metadata);
    bytes(&mut out, 2, b"Failure");
    bytes(&mut out, 3, status.message.as_bytes());
    bytes(&mut out, 4, status.reason.as_bytes());
    bytes(&mut out, 5, &details);
    number(&mut out, 6, u64::from(status.code));
    out
}

/// A field of bytes, text or another message.
fn bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn number(out: &mut Vec<u8>, field: u8, value: u64) {
    out.push(field << 3);
    varint(out, value);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_as_the_api_server_writes_it() {
        let status = Status {
            message: "m".into(),
            reason: "Forbidden",
            code: 403,
            name: "p".into(),
            group: String::new(),
            kind: "pods".into(),
            retry_after_seconds: 0,
            causes: Vec::new(),
        };
        let message = error_event(&status);
        // What k8s.io/apimachinery v0.36.3 writes of it: protobuf.NewSerializer within a WatchEvent of
        // protobuf.NewRawSerializer, framed by protobuf.LengthDelimitedFramer.
        let expected = b"\x00\x00\x00V\n\x05ERROR\x12M\nKk8s\x00\n\x0c\n\x02v1\x12\x06Status\x123\n\x06\n\x00\x12\x00\x1a\x00\x12\x07Failure\
            \x1a\x01m\"\tForbidden*\x0f\n\x01p\x12\x00\x1a\x04pods(\x002\x000\x93\x03\x1a\x00\"\x00";
        assert_eq!(message, expected);
        let mut follow = LengthDelimited::default();
        follow.sent(&message);
        assert!(follow.between());
    }

    #[test]
    fn a_message_ends_where_its_length_says_however_it_comes() {
        let stream = [&[0, 0, 1, 0][..], &[7; 256], &[0, 0, 0, 0], &[0, 0, 0, 2, 9, 9]].concat();
        for step in [1, 2, 3, 5, 64, 1000] {
            let mut follow = LengthDelimited::default();
            let mut passed = 0;
            for piece in stream.chunks(step) {
                follow.sent(piece);
                passed += piece.len();
                let ends = [260, 264, 270];
                assert_eq!(follow.between(), ends.contains(&passed), "{passed} by {step}");
            }
        }
    }
}
