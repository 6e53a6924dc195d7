//! Functions of texts whose work is not in step with what they read: they count what they will do first.
//!
//! In: texts. Out: what a function comes to, or that it fails.
//!
//! Semantics as those of cel-go's `ext.Strings()`. Places are counted in letters, not in bytes.

use ::cel::common::types::{CelInt, CelList, CelString, DYN_TYPE, INT_TYPE, LIST_TYPE, STRING_TYPE};
use ::cel::common::value::{CowVal, Val};
use ::cel::{DeclarationError, Env, ExecutionError};

use super::super::runtime::budget::{spend, spend_text};
use super::super::runtime::{equal, list_of, spend_length, unexpected};
use super::{Operands, Outcome, failed, int_at, integer, operand, string, text_at};

pub(super) fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    let text = || STRING_TYPE;
    env.add_member_overload("@charAt", "@charAt", text(), vec![INT_TYPE], char_at)?;
    env.add_member_overload("@substring", "@substring", text(), vec![INT_TYPE], substring)?;
    env.add_member_overload(
        "@substring",
        "@substring2",
        text(),
        vec![INT_TYPE, INT_TYPE],
        substring,
    )?;
    env.add_member_overload("@indexOf", "@indexOf", text(), vec![STRING_TYPE], first_place)?;
    env.add_member_overload(
        "@indexOf",
        "@indexOf2",
        text(),
        vec![STRING_TYPE, INT_TYPE],
        first_place,
    )?;
    env.add_member_overload(
        "@indexOf",
        "@indexOfList",
        LIST_TYPE,
        vec![DYN_TYPE],
        first_element,
    )?;
    env.add_member_overload(
        "@lastIndexOf",
        "@lastIndexOf",
        text(),
        vec![STRING_TYPE],
        last_place,
    )?;
    env.add_member_overload(
        "@lastIndexOf",
        "@lastIndexOf2",
        text(),
        vec![STRING_TYPE, INT_TYPE],
        last_place,
    )?;
    env.add_member_overload(
        "@lastIndexOf",
        "@lastIndexOfList",
        LIST_TYPE,
        vec![DYN_TYPE],
        last_element,
    )?;
    env.add_member_overload("@join", "@join", LIST_TYPE, vec![], join)?;
    env.add_member_overload("@join", "@join2", LIST_TYPE, vec![STRING_TYPE], join)?;
    env.add_member_overload("@split", "@split", text(), vec![STRING_TYPE], split)?;
    env.add_member_overload("@split", "@split2", text(), vec![STRING_TYPE, INT_TYPE], split)?;
    env.add_member_overload(
        "@replace",
        "@replace",
        text(),
        vec![STRING_TYPE, STRING_TYPE],
        replace,
    )?;
    env.add_member_overload(
        "@replace",
        "@replace2",
        text(),
        vec![STRING_TYPE, STRING_TYPE, INT_TYPE],
        replace,
    )
}

/// Where the letter of this number begins; the end of the text is a place too.
fn byte_place(text: &str, letter: i64) -> Option<usize> {
    let letter = usize::try_from(letter).ok()?;
    let mut places = text.char_indices().map(|(place, _)| place).chain([text.len()]);
    places.nth(letter)
}

fn char_at<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let text = text_at(&operands, 0)?;
    spend_text(text.len())?;
    let place = byte_place(text, int_at(&operands, 1)?).ok_or_else(|| failed("charAt"))?;
    Ok(string(text[place..].chars().take(1).collect()))
}

fn substring<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let text = text_at(&operands, 0)?;
    spend_text(text.len())?;
    let from = byte_place(text, int_at(&operands, 1)?);
    let to = match operands.len() {
        2 => Some(text.len()),
        _ => byte_place(text, int_at(&operands, 2)?),
    };
    let part = from.zip(to).and_then(|(from, to)| text.get(from..to));
    Ok(string(part.ok_or_else(|| failed("substring"))?.to_owned()))
}

fn letters(text: &str) -> i64 {
    i64::try_from(text.chars().count()).unwrap_or(i64::MAX)
}

fn first_place<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let (text, part) = (text_at(&operands, 0)?, text_at(&operands, 1)?);
    spend_text(text.len() + part.len())?;
    let offset = if operands.len() > 2 {
        int_at(&operands, 2)?
    } else {
        0
    };
    if part.is_empty() && offset >= 0 {
        return Ok(integer(offset.min(letters(text))));
    }
    if offset != 0 && !(0..letters(text)).contains(&offset) {
        return Err(failed("indexOf"));
    }
    let from = byte_place(text, offset).unwrap_or(text.len());
    let place = text[from..]
        .find(part)
        .map(|place| letters(&text[..from + place]));
    Ok(integer(place.unwrap_or(-1)))
}

fn last_place<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let (text, part) = (text_at(&operands, 0)?, text_at(&operands, 1)?);
    spend_text(text.len() + part.len())?;
    let all = letters(text);
    let offset = if operands.len() > 2 {
        int_at(&operands, 2)?
    } else {
        all
    };
    if part.is_empty() && offset >= 0 {
        return Ok(integer(offset.min(all)));
    }
    if operands.len() > 2 && !(0..all).contains(&offset) {
        return Err(failed("lastIndexOf"));
    }
    // It may begin at the offset, so its end may be beyond.
    let end = byte_place(text, offset.saturating_add(letters(part))).unwrap_or(text.len());
    let place = text[..end].rfind(part).map(|place| letters(&text[..place]));
    Ok(integer(place.unwrap_or(-1)))
}

fn first_element<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    place_in_list(&operands, true)
}

fn last_element<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    place_in_list(&operands, false)
}

fn place_in_list<'b, 'v>(operands: &[CowVal<'b, 'v>], stops: bool) -> Outcome<'b, 'v> {
    let [list, element] = operands else {
        return Err(ExecutionError::MissingArgumentOrTarget);
    };
    spend_length(list.as_ref())?;
    let mut items = list_of(list.as_ref())?.iter();
    let (mut place, mut found) = (0, -1);
    while let Some(item) = items.next() {
        if equal(item, element.as_ref())? {
            found = place;
            if stops {
                break;
            }
        }
        place += 1;
    }
    Ok(integer(found))
}

fn join<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let list = operands.first().ok_or(ExecutionError::MissingArgumentOrTarget)?;
    let separator = if operands.len() > 1 {
        text_at(&operands, 1)?
    } else {
        ""
    };
    spend_length(list.as_ref())?;
    let mut items = list_of(list.as_ref())?.iter();
    let mut parts = Vec::new();
    while let Some(item) = items.next() {
        let part = item.downcast_ref::<CelString<'_>>();
        let part = part.ok_or_else(|| unexpected(item, "string"))?.inner();
        spend_text(part.len() + separator.len())?;
        parts.push(part);
    }
    Ok(string(parts.join(separator)))
}

/// At most so many parts, the last with the rest: none for zero, all for a negative number.
fn split<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let (text, separator) = (text_at(&operands, 0)?, text_at(&operands, 1)?);
    let most = match operands.get(2) {
        Some(_) => usize::try_from(*operand::<CelInt>(&operands, 2)?.inner()).unwrap_or(usize::MAX),
        None => usize::MAX,
    };
    spend_text(text.len())?;
    // Each part becomes a value.
    let parts = match separator {
        "" => text.len(),
        _ => text.matches(separator).count() + 1,
    };
    spend(parts.min(most) as u64)?;
    let mut list: Vec<Box<dyn Val + 'v>> = Vec::with_capacity(parts.min(most));
    let mut push = |part: &str| list.push(Box::new(CelString::from(part.to_owned())));
    if most == 0 {
    } else if separator.is_empty() {
        let mut rest = text;
        let mut count = 1;
        while let Some(letter) = rest.chars().next().filter(|_| count < most) {
            let (head, tail) = rest.split_at(letter.len_utf8());
            push(head);
            rest = tail;
            count += 1;
        }
        if !rest.is_empty() {
            push(rest);
        }
    } else {
        text.splitn(most, separator).for_each(push);
    }
    Ok(CowVal::owned(CelList::from(list)))
}

fn replace<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let (text, from, to) = (
        text_at(&operands, 0)?,
        text_at(&operands, 1)?,
        text_at(&operands, 2)?,
    );
    let most = match operands.get(3) {
        Some(_) => usize::try_from(*operand::<CelInt>(&operands, 3)?.inner()).unwrap_or(usize::MAX),
        None => usize::MAX,
    };
    spend_text(text.len())?;
    let places = text.matches(from).count().min(most);
    spend_text(text.len().saturating_add(places.saturating_mul(to.len())))?;
    Ok(string(text.replacen(from, to, most)))
}
