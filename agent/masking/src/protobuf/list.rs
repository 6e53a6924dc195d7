//! A list in protobuf, as it streams.
//!
//! In: pieces of the body: `k8s\0` and `runtime.Unknown`, whose raw bytes are the list. Out: the same with padding in place of
//! hidden items. The list's length comes before its first item, so it can be neither known nor changed as the items go by.

use super::object::{MAGIC, TypeMeta, UNKNOWN, check_encoding, read, type_meta};
use super::wire::{Field, Length, each_field, header, put_varint};
use crate::error::FilterError;
use crate::head::Judge;
use crate::{HEAD_LIMIT, ITEM_LIMIT};

/// The field that padding takes, with the type of bytes. Lists have the fields 1 and 2; decoders skip what they do not know.
const PADDING_TAG: u8 = 15 << 3 | 2;
/// How much padding is put off. It goes out in one field, so that items and their sizes cannot be counted one by one.
const PADDING_PUT_OFF: u64 = 16 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Magic,
    /// Among the fields of `Unknown`.
    Envelope,
    /// Among the fields of the list, of which so many bytes are left.
    List(u64),
    /// In a Status.
    Status(u64),
}

/// What the envelope says its content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    List,
    Status,
}

/// The filter of a list.
#[derive(Debug)]
pub(crate) struct ProtobufList {
    state: State,
    /// What has come and is not complete.
    pending: Vec<u8>,
    content: Option<Content>,
    has_raw: bool,
    /// Whether the list's metadata came: an item in its place would pass as metadata.
    has_metadata: bool,
    /// Bytes that were taken out and have no padding yet.
    removed: u64,
}

impl ProtobufList {
    /// What has come in part.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.pending
    }

    pub(crate) fn new() -> ProtobufList {
        ProtobufList {
            state: State::Magic,
            pending: Vec::new(),
            content: None,
            has_raw: false,
            has_metadata: false,
            removed: 0,
        }
    }

    /// Goes on with the next piece.
    pub(crate) fn push(
        &mut self,
        piece: &[u8],
        judge: &mut Judge<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), FilterError> {
        if self.pending.is_empty() {
            let used = self.run(piece, judge, out)?;
            self.pending.extend_from_slice(&piece[used..]);
            return Ok(());
        }
        let mut pending = std::mem::take(&mut self.pending);
        pending.extend_from_slice(piece);
        let used = self.run(&pending, judge, out)?;
        pending.drain(..used);
        self.pending = pending;
        Ok(())
    }

    /// The body is over.
    pub(crate) fn finish(&self) -> Result<(), FilterError> {
        match self.state == State::Envelope && self.has_raw && self.pending.is_empty() {
            true => Ok(()),
            false => Err(FilterError::Truncated),
        }
    }

    /// How many of the bytes were complete.
    fn run(&mut self, bytes: &[u8], judge: &mut Judge<'_>, out: &mut Vec<u8>) -> Result<usize, FilterError> {
        let mut used = 0;
        loop {
            let rest = &bytes[used..];
            let step = match self.state {
                State::Magic => self.magic(rest, out)?,
                State::Envelope => self.envelope(rest, out)?,
                State::List(0) => {
                    self.pad(out);
                    self.state = State::Envelope;
                    continue;
                }
                State::List(left) => self.list(left, rest, judge, out)?,
                State::Status(0) => {
                    self.state = State::Envelope;
                    continue;
                }
                State::Status(left) => {
                    let taken = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
                    out.extend_from_slice(&rest[..taken]);
                    self.state = State::Status(left - taken as u64);
                    (taken > 0).then_some(taken)
                }
            };
            match step {
                Some(length) => used += length,
                None => return Ok(used),
            }
        }
    }

    fn magic(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<usize>, FilterError> {
        let length = MAGIC.len().min(bytes.len());
        if bytes[..length] != MAGIC[..length] {
            return Err(FilterError::Protobuf("it has no envelope"));
        }
        if length < MAGIC.len() {
            return Ok(None);
        }
        out.extend_from_slice(MAGIC);
        self.state = State::Envelope;
        Ok(Some(length))
    }

    fn envelope(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<usize>, FilterError> {
        let Some(header) = header(bytes)? else {
            return Ok(None);
        };
        if header.number == 2 {
            let Length::Delimited(length) = header.value else {
                return Err(UNKNOWN);
            };
            if std::mem::replace(&mut self.has_raw, true) {
                return Err(FilterError::Protobuf("a field of an envelope is repeated"));
            }
            self.state = match self.content {
                Some(Content::List) => State::List(length),
                Some(Content::Status) => State::Status(length),
                None => return Err(FilterError::Protobuf("its type does not come before its content")),
            };
            out.extend_from_slice(&bytes[..header.length]);
            return Ok(Some(header.length));
        }
        let Some(field) = complete(bytes, HEAD_LIMIT)? else {
            return Ok(None);
        };
        if field.number == 1 {
            let types = type_meta(field.bytes()?)?;
            if self.content.replace(content(types)?).is_some() {
                return Err(FilterError::Protobuf("a field of an envelope is repeated"));
            }
        } else {
            check_encoding(field)?;
        }
        out.extend_from_slice(field.whole);
        Ok(Some(field.whole.len()))
    }

    fn list(
        &mut self,
        left: u64,
        bytes: &[u8],
        judge: &mut Judge<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Option<usize>, FilterError> {
        const TOO_LONG: FilterError = FilterError::Protobuf("a field is longer than its list");
        let within = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let bytes = &bytes[..within];
        if let Some(header) = header(bytes)? {
            let length = (header.length as u64).checked_add(header.value_length());
            if length.is_none_or(|length| length > left) {
                return Err(TOO_LONG);
            }
        }
        let Some(field) = complete(bytes, ITEM_LIMIT)? else {
            return match within as u64 == left {
                true => Err(TOO_LONG),
                false => Ok(None),
            };
        };
        let length = field.whole.len();
        match field.number {
            1 if std::mem::replace(&mut self.has_metadata, true) => {
                return Err(FilterError::NotAList("it repeats its metadata"));
            }
            1 => {
                let before = out.len();
                put_without_count(field, out)?;
                self.removed += (length - (out.len() - before)) as u64;
            }
            2 => {
                let item = field.bytes()?;
                if judge.hidden(&read(item, TypeMeta::default())?, item)? {
                    self.removed += length as u64;
                } else {
                    out.extend_from_slice(field.whole);
                }
            }
            _ => return Err(FilterError::NotAList("it has fields that no list has")),
        }
        if self.removed >= PADDING_PUT_OFF {
            self.pad(out);
        }
        self.state = State::List(left - length as u64);
        Ok(Some(length))
    }

    /// Makes up for what was taken out, which is two bytes at least: no field is shorter.
    fn pad(&mut self, out: &mut Vec<u8>) {
        let Some(room) = std::mem::take(&mut self.removed).checked_sub(1) else {
            return;
        };
        let mut digits = 1;
        while room - digits >= 1 << (7 * digits) {
            digits += 1;
        }
        let zeros = room - digits;
        out.push(PADDING_TAG);
        put_varint(out, zeros, digits as usize);
        out.resize(out.len() + zeros as usize, 0);
    }
}

/// The field that starts here, where it is complete.
fn complete(bytes: &[u8], limit: usize) -> Result<Option<Field<'_>>, FilterError> {
    let Some(header) = header(bytes)? else {
        return Ok(None);
    };
    let length = usize::try_from(header.value_length()).unwrap_or(usize::MAX);
    if length > limit {
        return Err(FilterError::TooLarge);
    }
    Ok(bytes.get(..header.length + length).map(|whole| Field {
        number: header.number,
        bytes: match header.value {
            Length::Delimited(_) => Some(&whole[header.length..]),
            Length::Number(_) => None,
        },
        whole,
    }))
}

fn content(types: TypeMeta<'_>) -> Result<Content, FilterError> {
    match types {
        TypeMeta {
            kind: "Status",
            api_version: "v1",
        } => Ok(Content::Status),
        // Its items have envelopes of their own.
        TypeMeta { kind: "List", .. } => Err(FilterError::NotAList(
            "a list of mixed kinds is read in JSON only",
        )),
        TypeMeta { kind, .. } if kind.ends_with("List") => Ok(Content::List),
        _ => Err(FilterError::NotAList("its kind is neither a list nor Status")),
    }
}

/// `ListMeta` without `remainingItemCount`, its field 4.
fn put_without_count(metadata: Field<'_>, out: &mut Vec<u8>) -> Result<(), FilterError> {
    let message = metadata.bytes()?;
    let mut kept = Vec::with_capacity(message.len());
    each_field(message, |field| {
        match field.number {
            // selfLink, resourceVersion, continue, shardInfo
            1 | 2 | 3 | 5 => kept.extend_from_slice(field.whole),
            4 => {}
            _ => return Err(FilterError::NotAList("its metadata has fields that no list has")),
        }
        Ok(())
    })?;
    if kept.len() == message.len() {
        out.extend_from_slice(metadata.whole);
        return Ok(());
    }
    out.push(1 << 3 | 2);
    put_varint(out, kept.len() as u64, 0);
    out.extend_from_slice(&kept);
    Ok(())
}
