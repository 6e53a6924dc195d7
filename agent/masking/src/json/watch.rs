//! A watch in JSON, as it streams: events one after the other, with or without space between them.
//!
//! In: pieces of the body. Out: the same bytes without the events of hidden objects. An event of a Table loses the rows that
//! are hidden, and goes when none is left. Bookmarks and errors pass.

use super::cursor::{each_member, is_space, text};
use super::item;
use super::list::JsonList;
use super::skip::Skip;
use crate::ITEM_LIMIT;
use crate::error::FilterError;
use crate::head::{Judge, Nameless};

/// The filter of a watch.
#[derive(Debug, Default)]
pub(crate) struct JsonWatch {
    /// Where an event has begun.
    within: Option<Skip>,
    /// The part of the event that has come.
    held: Vec<u8>,
    /// The last event was taken out: space after it goes too.
    hidden: bool,
}

/// What happens to an event.
enum Verdict {
    Pass,
    Hide,
    /// The object's place in the event, and what it becomes.
    Rewrite(std::ops::Range<usize>, Vec<u8>),
}

impl JsonWatch {
    /// What has come in part.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.held
    }

    /// Goes on with the next piece.
    pub(crate) fn push(
        &mut self,
        mut piece: &[u8],
        judge: &mut Judge<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), FilterError> {
        while let Some(&byte) = piece.first() {
            let Some(mut skip) = self.within else {
                match byte {
                    b'{' => self.within = Some(Skip::default()),
                    _ if !is_space(byte) => return Err(FilterError::Json("an event is no object")),
                    _ => {
                        if !self.hidden {
                            out.push(byte);
                        }
                        piece = &piece[1..];
                    }
                }
                continue;
            };
            let end = skip.advance(piece);
            let (part, rest) = piece.split_at(end.unwrap_or(piece.len()));
            piece = rest;
            if self.held.len() + part.len() > ITEM_LIMIT {
                return Err(FilterError::TooLarge);
            }
            if end.is_none() {
                self.held.extend_from_slice(part);
                self.within = Some(skip);
                continue;
            }
            self.within = None;
            if self.held.is_empty() {
                self.hidden = !event(part, judge, out)?;
            } else {
                self.held.extend_from_slice(part);
                self.hidden = !event(&self.held, judge, out)?;
                self.held.clear();
            }
        }
        Ok(())
    }

    /// The body is over: a watch may end after any event.
    pub(crate) fn finish(&self) -> Result<(), FilterError> {
        match self.within {
            None => Ok(()),
            Some(_) => Err(FilterError::Truncated),
        }
    }
}

/// Puts an event out, where something of it is shown.
fn event(event: &[u8], judge: &mut Judge<'_>, out: &mut Vec<u8>) -> Result<bool, FilterError> {
    match verdict(event, judge)? {
        Verdict::Pass => out.extend_from_slice(event),
        Verdict::Hide => return Ok(false),
        Verdict::Rewrite(place, object) => {
            out.extend_from_slice(&event[..place.start]);
            out.extend_from_slice(&object);
            out.extend_from_slice(&event[place.end..]);
        }
    }
    Ok(true)
}

fn verdict(event: &[u8], judge: &mut Judge<'_>) -> Result<Verdict, FilterError> {
    const REPEATED: FilterError = FilterError::NotAWatch("an event repeats a member");
    let (mut kind, mut object) = (None, None);
    each_member(event, |member| {
        let repeated = match member.key.as_ref() {
            "type" => kind.replace(text(member.value)?).is_some(),
            "object" => object.replace((member.value, member.value_place)).is_some(),
            _ => return Err(FilterError::NotAWatch("an event has members that no event has")),
        };
        match repeated {
            true => Err(REPEATED),
            false => Ok(()),
        }
    })?;
    let (Some(kind), Some((object, place))) = (kind, object) else {
        return Err(FilterError::NotAWatch("an event has no type or no object"));
    };
    let readings = item::read(object)?;
    let nameless = match kind.as_ref() {
        "ADDED" | "MODIFIED" | "DELETED" => Nameless::Refuse,
        "BOOKMARK" => Nameless::Pass,
        "ERROR" if readings.kind.only() == Some("Status") => return Ok(Verdict::Pass),
        "ERROR" => return Err(FilterError::NotAWatch("an error is no Status")),
        _ => return Err(FilterError::NotAWatch("an event is of an unknown type")),
    };
    judge.nameless = nameless;
    match item::is_table(&readings) {
        Some(true) => table(object, place, judge),
        Some(false) => Ok(match judge.hidden(&readings, object)? {
            true => Verdict::Hide,
            false => Verdict::Pass,
        }),
        None => Err(REPEATED),
    }
}

/// A Table's event. The first event of a watch alone has the columns, so it stays even without rows.
fn table(
    object: &[u8],
    place: std::ops::Range<usize>,
    judge: &mut Judge<'_>,
) -> Result<Verdict, FilterError> {
    let before = judge.counts;
    let mut list = JsonList::new();
    let mut out = Vec::with_capacity(object.len());
    list.push(object, judge, &mut out)?;
    list.finish()?;
    let hidden = judge.counts.hidden - before.hidden;
    let judged = judge.counts.judged - before.judged;
    if hidden == 0 {
        return Ok(Verdict::Rewrite(place, out));
    }
    if hidden < judged || has_columns(object)? {
        return Ok(Verdict::Rewrite(place, out));
    }
    Ok(Verdict::Hide)
}

fn has_columns(table: &[u8]) -> Result<bool, FilterError> {
    let mut found = false;
    each_member(table, |member| {
        found |= member.key == "columnDefinitions" && !matches!(member.value, b"null" | b"[]");
        Ok(())
    })?;
    Ok(found)
}
