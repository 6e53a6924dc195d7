//! What is known of an item when it is judged.
//!
//! In: the members of an item's metadata, as often as they occur. Out: [`ItemHead`] for each way to read them. A client takes
//! the first or the last of two members with one name; an item is hidden if it is hidden in any reading.

use std::borrow::Cow;

use crate::error::FilterError;

/// The most readings of one item that are judged.
const MAX_READINGS: usize = 16;

/// An item of a list, the object of an event, or the object of a Table's row.
#[derive(Debug, Clone, Copy)]
pub struct ItemHead<'a> {
    /// Empty where the item does not say, as in lists of one kind. `meta.k8s.io/v1` for most rows of a Table.
    pub api_version: &'a str,
    /// Likewise; `PartialObjectMetadata` for most rows of a Table.
    pub kind: &'a str,
    /// Empty for what is in no namespace.
    pub namespace: &'a str,
    /// Never empty, but for a bookmark that has a namespace.
    pub name: &'a str,
    /// All labels, a repeated one as often as it occurs.
    pub labels: &'a [(Cow<'a, str>, Cow<'a, str>)],
    /// The item as it came: JSON, or the message without the envelope.
    pub bytes: &'a [u8],
}

/// How many items a filter has judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// All of them.
    pub judged: u64,
    /// Those that were taken out.
    pub hidden: u64,
}

/// The values of a member, nearly always one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Values<'a> {
    first: Option<Cow<'a, str>>,
    more: Vec<Cow<'a, str>>,
}

impl<'a> Values<'a> {
    /// Notes one more.
    pub(crate) fn add(&mut self, value: Cow<'a, str>) {
        match &self.first {
            None => self.first = Some(value),
            // More readings than are judged end the response in any case, and comparing each with all takes ever longer.
            Some(_) if self.more.len() > MAX_READINGS => {}
            Some(first) if *first == value || self.more.contains(&value) => {}
            Some(_) => self.more.push(value),
        }
    }

    fn len(&self) -> usize {
        1 + self.more.len()
    }

    /// Whether one of the values says something.
    pub(crate) fn is_given(&self) -> bool {
        self.first.as_deref().is_some_and(|first| !first.is_empty()) || !self.more.is_empty()
    }

    /// An absent member is the empty string.
    fn iter(&self) -> impl Iterator<Item = &str> {
        let first = self.first.as_deref().unwrap_or_default();
        std::iter::once(first).chain(self.more.iter().map(AsRef::as_ref))
    }

    /// The only value, or the empty string. `None` where there are several.
    pub(crate) fn only(&self) -> Option<&str> {
        self.more
            .is_empty()
            .then(|| self.first.as_deref().unwrap_or_default())
    }
}

/// All that an item says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Readings<'a> {
    pub(crate) api_version: Values<'a>,
    pub(crate) kind: Values<'a>,
    pub(crate) namespace: Values<'a>,
    pub(crate) name: Values<'a>,
    pub(crate) labels: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

/// Which items of a body need a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nameless {
    /// A bookmark says how far a watch is, of no object.
    Pass,
    /// Whatever has no name cannot be judged.
    Refuse,
}

impl Readings<'_> {
    /// Whether the item is hidden in any reading; counts it.
    pub(crate) fn hidden(
        &self,
        bytes: &[u8],
        nameless: Nameless,
        hides: &mut dyn FnMut(&ItemHead<'_>) -> bool,
    ) -> Result<bool, FilterError> {
        if !self.name.is_given() {
            match nameless {
                Nameless::Refuse => return Err(FilterError::NoName),
                Nameless::Pass if !self.namespace.is_given() => return Ok(false),
                Nameless::Pass => {}
            }
        }
        let all = [&self.api_version, &self.kind, &self.namespace, &self.name];
        let readings = all
            .iter()
            .try_fold(1, |count: usize, values| count.checked_mul(values.len()));
        if readings.is_none_or(|count| count > MAX_READINGS) {
            return Err(FilterError::TooManyReadings);
        }
        for api_version in self.api_version.iter() {
            for kind in self.kind.iter() {
                for namespace in self.namespace.iter() {
                    for name in self.name.iter() {
                        let head = ItemHead {
                            api_version,
                            kind,
                            namespace,
                            name,
                            labels: &self.labels,
                            bytes,
                        };
                        if hides(&head) {
                            return Ok(true);
                        }
                    }
                }
            }
        }
        Ok(false)
    }
}

/// Judges items and counts them.
pub(crate) struct Judge<'h> {
    pub(crate) hides: &'h mut dyn FnMut(&ItemHead<'_>) -> bool,
    pub(crate) nameless: Nameless,
    pub(crate) counts: Counts,
}

impl Judge<'_> {
    /// Whether the item is hidden.
    pub(crate) fn hidden(&mut self, readings: &Readings<'_>, bytes: &[u8]) -> Result<bool, FilterError> {
        let hidden = readings.hidden(bytes, self.nameless, self.hides)?;
        self.counts.judged += 1;
        self.counts.hidden += u64::from(hidden);
        Ok(hidden)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_values_are_kept_than_it_takes_to_end_the_response() {
        let mut readings = Readings::default();
        for number in 0..1000 {
            readings.name.add(Cow::Owned(number.to_string()));
        }
        assert_eq!(readings.name.len(), MAX_READINGS + 2);
        let judged = readings.hidden(b"", Nameless::Refuse, &mut |_| false);
        assert_eq!(judged, Err(FilterError::TooManyReadings));
    }
}
