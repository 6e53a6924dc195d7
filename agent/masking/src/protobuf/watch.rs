//! A watch in protobuf, as it streams: frames of four bytes of length, most significant first, and a `WatchEvent`.
//!
//! In: pieces of the body. Out: the same bytes without the frames of hidden objects. Bookmarks and errors pass.

use super::object::{enveloped, once, read};
use super::wire::each_field;
use crate::ITEM_LIMIT;
use crate::error::FilterError;
use crate::head::{Judge, Nameless};

/// The filter of a watch.
#[derive(Debug, Default)]
pub(crate) struct ProtobufWatch {
    /// What has come of a frame that is not complete.
    pending: Vec<u8>,
}

impl ProtobufWatch {
    /// What has come in part.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.pending
    }

    /// Goes on with the next piece.
    pub(crate) fn push(
        &mut self,
        piece: &[u8],
        judge: &mut Judge<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), FilterError> {
        if self.pending.is_empty() {
            let used = frames(piece, judge, out)?;
            self.pending.extend_from_slice(&piece[used..]);
            return Ok(());
        }
        self.pending.extend_from_slice(piece);
        let used = frames(&self.pending, judge, out)?;
        self.pending.drain(..used);
        Ok(())
    }

    /// The body is over: a watch may end after any frame.
    pub(crate) fn finish(&self) -> Result<(), FilterError> {
        match self.pending.is_empty() {
            true => Ok(()),
            false => Err(FilterError::Truncated),
        }
    }
}

/// Judges the frames that are complete, and tells how many bytes they are.
fn frames(bytes: &[u8], judge: &mut Judge<'_>, out: &mut Vec<u8>) -> Result<usize, FilterError> {
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        if length > ITEM_LIMIT {
            return Err(FilterError::TooLarge);
        }
        let Some(event) = after.get(..length) else {
            break;
        };
        if !is_hidden(event, judge)? {
            out.extend_from_slice(&rest[..4 + length]);
        }
        rest = &after[length..];
    }
    Ok(bytes.len() - rest.len())
}

/// `WatchEvent` of meta.k8s.io/v1: the type, and the object as a `RawExtension`.
fn is_hidden(event: &[u8], judge: &mut Judge<'_>) -> Result<bool, FilterError> {
    let (mut kind, mut object) = (None, None);
    each_field(event, |field| match field.number {
        1 => once(&mut kind, field.text()?),
        2 => each_field(field.bytes()?, |extension| match extension.number {
            1 => once(&mut object, extension.bytes()?),
            _ => Err(FilterError::NotAWatch("an object has unknown fields")),
        }),
        _ => Err(FilterError::NotAWatch("an event has fields that no event has")),
    })?;
    let (Some(kind), Some(object)) = (kind, object) else {
        return Err(FilterError::NotAWatch("an event has no type or no object"));
    };
    let (types, item) = enveloped(object)?;
    judge.nameless = match kind {
        "ADDED" | "MODIFIED" | "DELETED" => Nameless::Refuse,
        "BOOKMARK" => Nameless::Pass,
        "ERROR" if types.kind == "Status" => return Ok(false),
        "ERROR" => return Err(FilterError::NotAWatch("an error is no Status")),
        _ => return Err(FilterError::NotAWatch("an event is of an unknown type")),
    };
    judge.hidden(&read(item, types)?, item)
}
