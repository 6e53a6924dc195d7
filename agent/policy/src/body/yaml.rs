//! YAML that every reader takes for the same value.
//!
//! In: bytes. Out: the value. The parser is the kept library's own (`granit-parser` under `serde-saphyr`), used by its events,
//! because what a bare word stands for depends on the reader, and only the events tell a bare word from a quoted one.
//!
//! The API server reads YAML 1.1 as sigs.k8s.io/yaml does, by go.yaml.in/yaml/v2; most other readers read YAML 1.2. What these
//! two take differently is refused: `no`, `0777`, `1_000`, keys that are no text. Refused too is what only some take: tags,
//! anchors, merge keys, and documents behind the first, which the API server leaves out.

use granit_parser::{Event, Options, Parser, ScalarStyle, Span, StrInput, StructureStyle};
use serde_json::map::Entry;
use serde_json::{Map, Number, Value};

use super::error::quoted;
use super::json::{self, refuse_folded_keys};
use super::scalar::{Scalar, resolve};
use super::{BodyError, MAX_DEPTH, MAX_VALUES, Place};

/// Line breaks of YAML 1.1 alone, and a mark that some readers skip.
const DISPUTED_BREAKS: [char; 4] = ['\u{85}', '\u{2028}', '\u{2029}', '\u{feff}'];

/// The value that YAML stands for.
///
/// JSON is YAML too, and what nearly every client of server-side apply sends. The reader of JSON takes a sixth of the time.
pub(super) fn read(bytes: &[u8]) -> Result<Value, BodyError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| BodyError::NotUtf8(Place::of(bytes, error.valid_up_to())))?;
    if text.starts_with('{')
        && let Ok(mut value) = json::read(bytes)
    {
        write_numbers_as_go(&mut value);
        return Ok(value);
    }
    if let Some(at) = text.find(DISPUTED_BREAKS) {
        return Err(BodyError::Yaml {
            what: "a line break of YAML 1.1 alone, or a byte order mark; write it as an escape in double quotes",
            at: Place::of(bytes, at),
        });
    }
    read_events(text)
}

/// The value of any YAML, by the parser's events.
fn read_events(text: &str) -> Result<Value, BodyError> {
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.disallow_directives = true;
    options.flow_nesting_limit = MAX_DEPTH + 1;
    options.block_nesting_limit = MAX_DEPTH + 1;
    let ends_with_line = text.ends_with('\n');
    let mut reader = Reader {
        parser: Parser::new_from_str_with_options(text, options),
        depth: 0,
        in_flow: false,
        ends_in_block_text: false,
        is_absent: false,
        values: MAX_VALUES,
        at: Place { line: 1, column: 1 },
    };
    let value = reader.stream()?;
    if reader.ends_in_block_text && !ends_with_line {
        return Err(reader
            .refused("no line break behind the last line, which belongs to a text of lines; end the line"));
    }
    Ok(value)
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    /// How many lists and mappings are open.
    depth: usize,
    /// Whether the innermost of them stands in brackets or braces.
    in_flow: bool,
    /// Whether the last value so far is the text of a block, after `|` or `>`.
    ends_in_block_text: bool,
    /// Whether the last event stands for a value that is not written at all.
    is_absent: bool,
    /// How many values still may come.
    values: usize,
    /// Where the last event stands.
    at: Place,
}

impl<'a> Reader<'a> {
    fn stream(&mut self) -> Result<Value, BodyError> {
        let mut value = None;
        loop {
            match self.next()? {
                Event::StreamStart | Event::DocumentEnd => {}
                Event::DocumentStart(..) if value.is_some() => {
                    return Err(self.refused("a second document; send one object a request"));
                }
                Event::DocumentStart(..) => {
                    let first = self.next()?;
                    value = Some(self.node(first)?);
                }
                Event::StreamEnd => {
                    let value = value.ok_or(BodyError::Empty)?;
                    // It goes upstream as JSON, where these count.
                    refuse_folded_keys(&value)?;
                    return Ok(value);
                }
                _ => return Err(self.refused("something outside of a document")),
            }
        }
    }

    fn next(&mut self) -> Result<Event<'a>, BodyError> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => {
                self.at = place(&span);
                self.is_absent = span.start.index() == span.end.index();
                Ok(event)
            }
            Some(Err(error)) => {
                let (line, column) = (error.marker().line(), error.marker().col() + 1);
                let what = quoted(error.info().lines().next().unwrap_or_default());
                let at = Place { line, column };
                Err(BodyError::YamlSyntax { what, at })
            }
            None => Err(self.refused("no end of the document")),
        }
    }

    fn node(&mut self, event: Event<'a>) -> Result<Value, BodyError> {
        self.values = self.values.checked_sub(1).ok_or(BodyError::Values)?;
        self.ends_in_block_text = matches!(
            event,
            Event::Scalar(_, ScalarStyle::Literal | ScalarStyle::Folded, ..)
        );
        if self.ends_in_block_text && self.depth == 0 {
            return Err(self.refused("a text of lines where an object belongs"));
        }
        match event {
            Event::Scalar(text, style, 0, None) => self.scalar(&text, style),
            Event::SequenceStart(style, 0, None) => self.nested(style, Self::list),
            Event::MappingStart(style, 0, None) => self.nested(style, Self::mapping),
            Event::Scalar(_, _, _, Some(_))
            | Event::SequenceStart(_, _, Some(_))
            | Event::MappingStart(_, _, Some(_)) => {
                Err(self.refused("a tag; leave it out, and write text in quotes"))
            }
            Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..) | Event::Alias(_) => {
                Err(self.refused("an anchor or an alias; write the value out in each place"))
            }
            _ => Err(self.refused("no value where one belongs")),
        }
    }

    fn nested(
        &mut self,
        style: StructureStyle,
        inner: impl FnOnce(&mut Self) -> Result<Value, BodyError>,
    ) -> Result<Value, BodyError> {
        if self.depth == MAX_DEPTH {
            return Err(BodyError::Depth(self.at));
        }
        self.depth += 1;
        let around = std::mem::replace(&mut self.in_flow, style == StructureStyle::Flow);
        let value = inner(self);
        self.in_flow = around;
        self.depth -= 1;
        value
    }

    fn list(&mut self) -> Result<Value, BodyError> {
        let mut list = Vec::new();
        loop {
            match self.next()? {
                Event::SequenceEnd => return Ok(Value::Array(list)),
                event => list.push(self.node(event)?),
            }
        }
    }

    fn mapping(&mut self) -> Result<Value, BodyError> {
        let mut mapping = Map::new();
        loop {
            let event = self.next()?;
            if event == Event::MappingEnd {
                return Ok(Value::Object(mapping));
            }
            let at = self.at;
            let Value::String(key) = self.node(event)? else {
                self.at = at;
                return Err(self.refused("a key that is no text; write the key in quotes"));
            };
            let entry = match mapping.entry(key) {
                Entry::Vacant(entry) => entry,
                Entry::Occupied(entry) => return Err(BodyError::duplicate_key(entry.key(), at)),
            };
            let event = self.next()?;
            entry.insert(self.node(event)?);
        }
    }

    fn scalar(&self, text: &str, style: ScalarStyle) -> Result<Value, BodyError> {
        if style != ScalarStyle::Plain {
            return Ok(Value::String(text.to_owned()));
        }
        // Go's reader ends a key in braces at other signs than YAML 1.2.
        if self.in_flow && (self.is_absent || text.starts_with('?') || text.ends_with(':')) {
            return Err(self.refused(
                "no word in brackets or braces, or one that begins with `?` or ends with `:`; write null, or the word in quotes",
            ));
        }
        Ok(match resolve(text) {
            Scalar::Null => Value::Null,
            Scalar::Bool(value) => Value::Bool(value),
            Scalar::Number(number) => Value::Number(as_go_writes(number)),
            Scalar::Text => Value::String(text.to_owned()),
            Scalar::Disputed => {
                let text = quoted(text);
                let at = self.at;
                return Err(BodyError::BareWord { text, at });
            }
        })
    }

    fn refused(&self, what: &'static str) -> BodyError {
        let at = self.at;
        BodyError::Yaml { what, at }
    }
}

fn place(span: &Span) -> Place {
    Place {
        line: span.start.line(),
        column: span.start.col() + 1,
    }
}

/// A whole number is an integer to the API server however it is written, since Go writes `1.0` as `1` between YAML and JSON
/// (sigs.k8s.io/yaml, yaml.go, `yamlToJSONTarget`).
#[expect(
    clippy::cast_possible_truncation,
    reason = "a whole number below 2^63 is an i64"
)]
pub(super) fn as_go_writes(number: Number) -> Number {
    /// 2^63, the least whole number that no `i64` holds.
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    match number.as_f64() {
        Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < BEYOND => {
            Number::from(float as i64)
        }
        _ => number,
    }
}

/// The same for each number of a value. It goes as deep as a reader went.
fn write_numbers_as_go(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => *number = as_go_writes(number.clone()),
        Value::Array(list) => list.iter_mut().for_each(write_numbers_as_go),
        Value::Object(mapping) => mapping.values_mut().for_each(write_numbers_as_go),
        _ => {}
    }
}

#[cfg(test)]
#[path = "yaml_tests.rs"]
mod tests;
