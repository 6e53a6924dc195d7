//! Why a body cannot be read.
//!
//! In: what each of the readers finds wrong. Out: a [`BodyError`], whose message the client gets.

use std::fmt;

use thiserror::Error;

use super::{MAX_DEPTH, MAX_VALUES};

/// How much of a client's text is quoted in a message.
const QUOTED_CHARS: usize = 64;

/// Where something stands in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl Place {
    /// The place of a byte. What follows the last whole character is at its end.
    pub(super) fn of(bytes: &[u8], offset: usize) -> Self {
        let before = bytes.get(..offset).unwrap_or(bytes);
        let line_start = before
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        // Bytes that continue a character are not counted.
        let characters = before[line_start..].iter().filter(|byte| **byte & 0xC0 != 0x80);
        Self {
            line: before.iter().filter(|byte| **byte == b'\n').count() + 1,
            column: characters.count() + 1,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// Why a body cannot be read in one way only. The client gets 415 for a media type, else 400.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BodyError {
    /// A media type that is not read.
    #[error(
        "a rule looks into the request body, and bodies of the media type {0:?} are not read; send application/json, \
         application/yaml or, for kinds of Kubernetes itself, application/vnd.kubernetes.protobuf"
    )]
    MediaType(String),
    /// There is no body.
    #[error("the request has no body")]
    Empty,
    /// Bytes that are no text.
    #[error("the request body is not valid UTF-8 at {0}")]
    NotUtf8(Place),
    /// Text that is not of the grammar.
    #[error("the request body is not valid {format} at {at}: {what}")]
    Syntax {
        /// JSON, for example.
        format: &'static str,
        /// What was found, or is missing.
        what: &'static str,
        /// The first place at which it shows.
        at: Place,
    },
    /// A key that stands twice in one object: readers take the first, the last, or both.
    #[error("the request body has the key {key:?} twice in one object, at {at}; remove one of them")]
    DuplicateKey {
        /// The key without its escapes.
        key: String,
        /// The second of them.
        at: Place,
    },
    /// A key that some readers take for another one.
    #[error(
        "the request body has the key {key:?}, which some readers take for {meant:?}; write it as {meant:?}, or remove it"
    )]
    FoldedKey {
        /// The key as it is spelt.
        key: String,
        /// The key that it is read as.
        meant: &'static str,
    },
    /// A number that changes when it is read.
    #[error(
        "the request body has the number {number}, at {at}, which has more digits than all readers keep; shorten it, or \
         write it as text in quotes if the field takes text"
    )]
    Number {
        /// As the client wrote it.
        number: String,
        /// Its place.
        at: Place,
    },
    /// YAML that only some readers take.
    #[error("the request body has, at {at}, {what}; YAML readers differ in it")]
    Yaml {
        /// What it is, and what to write instead.
        what: &'static str,
        /// Its place.
        at: Place,
    },
    /// Text that is no YAML.
    #[error("the request body is not valid YAML at {at}: {what}")]
    YamlSyntax {
        /// What the parser says.
        what: String,
        /// The first place at which it shows.
        at: Place,
    },
    /// A bare word that YAML readers take differently.
    #[error(
        "the request body has the bare word `{text}` at {at}, which YAML readers take differently; write it in quotes if it \
         is text, else as true, false or a decimal number"
    )]
    BareWord {
        /// The word.
        text: String,
        /// Its place.
        at: Place,
    },
    /// CBOR that is broken, or that readers take differently.
    #[error("the request body is CBOR that is not read: {0}; send application/json")]
    Cbor(&'static str),
    /// Protobuf that is broken, or says more than its message in Kubernetes' API.
    #[error("the request body is protobuf that is not read: {0}; send application/json")]
    Protobuf(&'static str),
    /// Protobuf of a kind whose message is not known.
    #[error(
        "the request body is protobuf of {api_version} {kind}, and only kinds of Kubernetes itself are read as protobuf; send \
         application/json"
    )]
    ProtobufKind {
        /// The apiVersion in the body.
        api_version: String,
        /// The kind in the body.
        kind: String,
    },
    /// Half a character outside of Unicode's first plane.
    #[error(
        "the request body has an escape of half a character (\\ud800 to \\udfff), at {0}; readers put different \
         characters there"
    )]
    Surrogate(Place),
    /// Too deep.
    #[error("the request body nests more than {MAX_DEPTH} lists and objects, at {0}")]
    Depth(Place),
    /// Too many values.
    #[error("the request body has more than {MAX_VALUES} values")]
    Values,
}

impl BodyError {
    /// A stable name for programs and metrics.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::MediaType(_) => "media_type",
            Self::Empty => "empty",
            Self::NotUtf8(_) => "not_utf8",
            Self::Syntax { .. } => "syntax",
            Self::DuplicateKey { .. } => "duplicate_key",
            Self::FoldedKey { .. } => "folded_key",
            Self::Number { .. } => "number",
            Self::Yaml { .. } => "yaml",
            Self::YamlSyntax { .. } => "yaml_syntax",
            Self::BareWord { .. } => "bare_word",
            Self::Cbor(_) => "cbor",
            Self::Protobuf(_) => "protobuf",
            Self::ProtobufKind { .. } => "protobuf_kind",
            Self::Surrogate(_) => "surrogate",
            Self::Depth(_) => "depth",
            Self::Values => "values",
        }
    }

    /// Whether the client should be answered 415 and not 400.
    #[must_use]
    pub fn is_media_type(&self) -> bool {
        matches!(self, Self::MediaType(_))
    }

    pub(super) fn media_type(name: &str) -> Self {
        Self::MediaType(quoted(name))
    }

    pub(super) fn duplicate_key(key: &str, at: Place) -> Self {
        let key = quoted(key);
        Self::DuplicateKey { key, at }
    }

    pub(super) fn protobuf_kind(api_version: &str, kind: &str) -> Self {
        let (api_version, kind) = (quoted(api_version), quoted(kind));
        Self::ProtobufKind { api_version, kind }
    }

    pub(super) fn number(number: &str, at: Place) -> Self {
        let number = quoted(number);
        Self::Number { number, at }
    }
}

/// The start of a client's text, for a message.
pub(super) fn quoted(text: &str) -> String {
    text.chars().take(QUOTED_CHARS).collect()
}
