//! A list or Table in JSON, as it streams.
//!
//! In: pieces of the body. Out: the same bytes without hidden items or rows, and without `remainingItemCount`. Members may come
//! in any order. Nothing goes out before the items start or the body turns out to be a Status, so that another object that
//! answers in place of a list never reaches the client.

use super::cursor::{RawString, each_member, is_literal, is_space};
use super::item::{self, is_null};
use super::metadata::without_count;
use super::skip::Skip;
use crate::error::FilterError;
use crate::head::{Counts, Judge};
use crate::{HEAD_LIMIT, ITEM_LIMIT};

/// The longest key or literal between the items: longer ones are none that a list has.
const WORD_LIMIT: usize = 256;
/// How much space may come before an item.
const SPACE_LIMIT: usize = 4096;

/// The members of a list, a Table and a Status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Items,
    Rows,
    Metadata,
    Kind,
    /// What lists and Tables have besides.
    Plain,
    /// What a Status has besides.
    OfStatus,
}

fn known_key(raw: &[u8]) -> Result<Key, FilterError> {
    Ok(match RawString::new(raw).text()?.as_ref() {
        "items" => Key::Items,
        "rows" => Key::Rows,
        "metadata" => Key::Metadata,
        "kind" => Key::Kind,
        "apiVersion" | "columnDefinitions" => Key::Plain,
        "status" | "message" | "reason" | "details" | "code" => Key::OfStatus,
        _ => return Err(FilterError::NotAList("it has members that no list has")),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    /// Before a key; after `{`, the object may end.
    Member {
        may_end: bool,
    },
    /// In a key.
    Key {
        escaped: bool,
    },
    Colon,
    /// Before a value.
    Value,
    /// In a string value.
    Text {
        escaped: bool,
    },
    /// In a number, `true`, `false` or `null`.
    Literal,
    /// In a value that is an object or array.
    Nested(Skip),
    /// Before an item; after `[`, the array may end.
    Item {
        may_end: bool,
    },
    InItem(Skip),
    AfterItem,
    AfterMember,
    End,
}

/// The filter of a list.
#[derive(Debug)]
pub(crate) struct JsonList {
    state: State,
    key: Key,
    /// A key, a literal or a kind, as it comes.
    word: Vec<u8>,
    /// What comes before the items, until it is known what this is.
    head: Option<Vec<u8>>,
    /// The part of an item, or of the list's metadata, that has come.
    held: Vec<u8>,
    /// Space and comma before the next item.
    lead: Vec<u8>,
    /// Whether an item of this array went out.
    shown: bool,
    is_list: bool,
    of_status: bool,
    /// The kind, where it is one that is a list or a Status.
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Absent,
    List,
    Status,
    Other,
}

impl JsonList {
    /// What has come in part.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.held
    }

    pub(crate) fn new() -> JsonList {
        JsonList {
            state: State::Start,
            key: Key::Plain,
            word: Vec::new(),
            head: Some(Vec::new()),
            held: Vec::new(),
            lead: Vec::new(),
            shown: false,
            is_list: false,
            of_status: false,
            kind: Kind::Absent,
        }
    }

    /// Goes on with the next piece.
    pub(crate) fn push(
        &mut self,
        mut piece: &[u8],
        judge: &mut Judge<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), FilterError> {
        while !piece.is_empty() {
            let used = self.step(piece, judge, out)?;
            piece = &piece[used..];
        }
        Ok(())
    }

    /// The body is over.
    pub(crate) fn finish(&self) -> Result<(), FilterError> {
        match self.state {
            State::End => Ok(()),
            _ => Err(FilterError::Truncated),
        }
    }

    /// How many bytes of `piece`, which is not empty, it took.
    fn step(&mut self, piece: &[u8], judge: &mut Judge<'_>, out: &mut Vec<u8>) -> Result<usize, FilterError> {
        match self.state {
            State::Key { escaped } => self.in_key(escaped, piece, out),
            State::Text { escaped } => self.in_text(escaped, piece, out),
            State::Literal => self.in_literal(piece, out),
            State::Nested(skip) => self.in_nested(skip, piece, out),
            State::InItem(skip) => self.in_item(skip, piece, judge, out),
            State::Item { .. } | State::AfterItem => self.between_items(piece[0], out),
            _ if is_space(piece[0]) => self.emit(&piece[..1], out).map(|()| 1),
            State::Value => self.start_value(piece[0], out),
            _ => self.between_members(piece[0], out),
        }
    }

    fn emit(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), FilterError> {
        let Some(head) = &mut self.head else {
            out.extend_from_slice(bytes);
            return Ok(());
        };
        if head.len() + bytes.len() > HEAD_LIMIT {
            return Err(FilterError::NotAList("it has too much before its items"));
        }
        head.extend_from_slice(bytes);
        Ok(())
    }

    fn release(&mut self, out: &mut Vec<u8>) {
        if let Some(head) = self.head.take() {
            out.extend_from_slice(&head);
        }
    }

    fn between_members(&mut self, byte: u8, out: &mut Vec<u8>) -> Result<usize, FilterError> {
        self.state = match (self.state, byte) {
            (State::Start, b'{') => State::Member { may_end: true },
            (State::Member { .. }, b'"') => {
                self.word.clear();
                State::Key { escaped: false }
            }
            (State::Colon, b':') => State::Value,
            (State::AfterMember, b',') => State::Member { may_end: false },
            (State::AfterMember | State::Member { may_end: true }, b'}') => {
                self.emit(b"}", out)?;
                self.end(out)?;
                return Ok(1);
            }
            (State::Start, _) => return Err(FilterError::Json("the body is no object")),
            (State::End, _) => return Err(FilterError::Json("something follows the list")),
            _ => return Err(FilterError::Json("its members are not well formed")),
        };
        self.emit(&[byte], out)?;
        Ok(1)
    }

    /// The list is over. One without items says by its kind that it is one.
    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), FilterError> {
        match self.kind {
            _ if self.is_list => {}
            Kind::Status => {}
            Kind::List if !self.of_status => {}
            _ => return Err(FilterError::NotAList("it has no items and is no Status")),
        }
        self.release(out);
        self.state = State::End;
        Ok(())
    }

    /// `is_list` and members of a Status exclude each other.
    fn note_kind_of_body(&mut self) -> Result<(), FilterError> {
        match self.key {
            Key::Items | Key::Rows => self.is_list = true,
            Key::OfStatus => self.of_status = true,
            _ => {}
        }
        match self.is_list && self.of_status {
            true => Err(FilterError::NotAList("it has items and members of a Status")),
            false => Ok(()),
        }
    }

    fn in_key(&mut self, mut escaped: bool, piece: &[u8], out: &mut Vec<u8>) -> Result<usize, FilterError> {
        let (used, ended) = string_part(piece, &mut escaped);
        let part = &piece[..used - usize::from(ended)];
        if self.word.len() + part.len() > WORD_LIMIT {
            return Err(FilterError::NotAList("it has members that no list has"));
        }
        self.word.extend_from_slice(part);
        self.emit(&piece[..used], out)?;
        self.state = State::Key { escaped };
        if ended {
            self.key = known_key(&self.word)?;
            self.note_kind_of_body()?;
            self.state = State::Colon;
        }
        Ok(used)
    }

    fn start_value(&mut self, byte: u8, out: &mut Vec<u8>) -> Result<usize, FilterError> {
        self.word.clear();
        self.state = match (self.key, byte) {
            (Key::Items | Key::Rows, b'[') => {
                self.release(out);
                self.lead.clear();
                self.shown = false;
                self.emit(b"[", out)?;
                self.state = State::Item { may_end: true };
                return Ok(1);
            }
            (Key::Items | Key::Rows | Key::Metadata, b'n') | (Key::Plain | Key::OfStatus, _)
                if is_literal(byte) =>
            {
                State::Literal
            }
            (Key::Kind | Key::Plain | Key::OfStatus, b'"') => {
                self.emit(b"\"", out)?;
                self.state = State::Text { escaped: false };
                return Ok(1);
            }
            (Key::Metadata | Key::Plain | Key::OfStatus, b'{') | (Key::Plain | Key::OfStatus, b'[') => {
                State::Nested(Skip::default())
            }
            _ => {
                return Err(FilterError::NotAList(
                    "a member is not of the type that lists have",
                ));
            }
        };
        Ok(0)
    }

    fn in_text(&mut self, mut escaped: bool, piece: &[u8], out: &mut Vec<u8>) -> Result<usize, FilterError> {
        let (used, ended) = string_part(piece, &mut escaped);
        self.emit(&piece[..used], out)?;
        if self.key == Key::Kind {
            let part = &piece[..used - usize::from(ended)];
            if self.word.len() + part.len() > WORD_LIMIT {
                return Err(FilterError::NotAList("its kind is too long"));
            }
            self.word.extend_from_slice(part);
        }
        self.state = State::Text { escaped };
        if ended {
            if self.key == Key::Kind {
                self.note_kind()?;
            }
            self.state = State::AfterMember;
        }
        Ok(used)
    }

    fn note_kind(&mut self) -> Result<(), FilterError> {
        let kind = match RawString::new(&self.word).text()?.as_ref() {
            "Status" => Kind::Status,
            "Table" => Kind::List,
            kind if kind.ends_with("List") => Kind::List,
            _ => Kind::Other,
        };
        self.kind = match self.kind {
            Kind::Absent => kind,
            before if before == kind => kind,
            _ => Kind::Other,
        };
        Ok(())
    }

    fn in_literal(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<usize, FilterError> {
        let used = piece
            .iter()
            .position(|byte| !is_literal(*byte))
            .unwrap_or(piece.len());
        if self.word.len() + used > WORD_LIMIT {
            return Err(FilterError::Json("a number is too long"));
        }
        self.word.extend_from_slice(&piece[..used]);
        self.emit(&piece[..used], out)?;
        if used < piece.len() {
            if matches!(self.key, Key::Items | Key::Rows | Key::Metadata) && !is_null(&self.word) {
                return Err(FilterError::NotAList(
                    "a member is not of the type that lists have",
                ));
            }
            self.state = State::AfterMember;
        }
        Ok(used)
    }

    fn in_nested(&mut self, mut skip: Skip, piece: &[u8], out: &mut Vec<u8>) -> Result<usize, FilterError> {
        let end = skip.advance(piece);
        let part = &piece[..end.unwrap_or(piece.len())];
        if self.key == Key::Metadata {
            if self.held.len() + part.len() > HEAD_LIMIT {
                return Err(FilterError::NotAList("its metadata is too long"));
            }
            self.held.extend_from_slice(part);
        } else {
            self.emit(part, out)?;
        }
        self.state = match end {
            None => State::Nested(skip),
            Some(_) => State::AfterMember,
        };
        if end.is_some() && self.key == Key::Metadata {
            let metadata = without_count(&self.held)?;
            self.held.clear();
            self.emit(&metadata, out)?;
        }
        Ok(part.len())
    }

    fn between_items(&mut self, byte: u8, out: &mut Vec<u8>) -> Result<usize, FilterError> {
        match (self.state, byte) {
            (State::Item { .. }, b'{') => {
                self.state = State::InItem(Skip::default());
                return Ok(0);
            }
            (State::AfterItem, b',') => self.state = State::Item { may_end: false },
            (State::Item { may_end: true } | State::AfterItem, b']') => {
                out.append(&mut self.lead);
                out.push(b']');
                self.state = State::AfterMember;
                return Ok(1);
            }
            (_, byte) if is_space(byte) && self.lead.len() < SPACE_LIMIT => {}
            (_, byte) if is_space(byte) => return Err(FilterError::Json("too much space is between items")),
            _ => return Err(FilterError::Json("its items are not well formed")),
        }
        self.lead.push(byte);
        Ok(1)
    }

    fn in_item(
        &mut self,
        mut skip: Skip,
        piece: &[u8],
        judge: &mut Judge<'_>,
        out: &mut Vec<u8>,
    ) -> Result<usize, FilterError> {
        let end = skip.advance(piece);
        let part = &piece[..end.unwrap_or(piece.len())];
        if self.held.len() + part.len() > ITEM_LIMIT {
            return Err(FilterError::TooLarge);
        }
        if end.is_none() {
            self.held.extend_from_slice(part);
            self.state = State::InItem(skip);
            return Ok(part.len());
        }
        self.state = State::AfterItem;
        if self.held.is_empty() {
            self.judge(part, judge, out)?;
        } else {
            let mut item = std::mem::take(&mut self.held);
            item.extend_from_slice(part);
            self.judge(&item, judge, out)?;
            item.clear();
            self.held = item;
        }
        Ok(part.len())
    }

    fn judge(&mut self, item: &[u8], judge: &mut Judge<'_>, out: &mut Vec<u8>) -> Result<(), FilterError> {
        let hidden = match self.key {
            Key::Rows => is_row_hidden(item, judge)?,
            _ => judge.hidden(&item::read(item)?, item)?,
        };
        if !hidden {
            if self.shown {
                out.extend_from_slice(&self.lead);
            } else {
                // The comma belongs to an item that was taken out.
                out.extend(self.lead.iter().filter(|byte| **byte != b','));
            }
            out.extend_from_slice(item);
            self.shown = true;
        }
        self.lead.clear();
        Ok(())
    }
}

/// Whether a row is hidden: by its object, and if it has several, by one of them.
fn is_row_hidden(row: &[u8], judge: &mut Judge<'_>) -> Result<bool, FilterError> {
    let before = judge.counts;
    let (mut hidden, mut objects) = (false, 0u64);
    each_member(row, |member| {
        if member.key == "object" {
            if is_null(member.value) {
                return Err(FilterError::RowWithoutObject);
            }
            objects += 1;
            hidden |= judge.hidden(&item::read(member.value)?, member.value)?;
        }
        Ok(())
    })?;
    if objects == 0 {
        return Err(FilterError::RowWithoutObject);
    }
    judge.counts = Counts {
        judged: before.judged + 1,
        hidden: before.hidden + u64::from(hidden),
    };
    Ok(hidden)
}

/// How many of the bytes belong to a string, with its closing quote, and whether it ended.
fn string_part(piece: &[u8], escaped: &mut bool) -> (usize, bool) {
    for (at, byte) in piece.iter().enumerate() {
        match byte {
            _ if *escaped => *escaped = false,
            b'\\' => *escaped = true,
            b'"' => return (at + 1, true),
            _ => {}
        }
    }
    (piece.len(), false)
}
