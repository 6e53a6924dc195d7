//! Why a response cannot be filtered.
//!
//! In: a body that is not what its media type says, or that no filter reads. Out: [`FilterError`], which ends the response.

use thiserror::Error;

/// Why a response cannot be filtered. The rest of the response must not reach the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FilterError {
    /// The media type is none of those that can be filtered.
    #[error("the response is neither JSON nor protobuf, so its items cannot be told apart")]
    MediaType,
    /// The bytes are not JSON.
    #[error("the response is not well-formed JSON: {0}")]
    Json(&'static str),
    /// The bytes are not the protobuf messages that Kubernetes sends.
    #[error("the response is not well-formed protobuf: {0}")]
    Protobuf(&'static str),
    /// It is another object, or a list with members that no list has.
    #[error("the response is no list that Picket knows: {0}")]
    NotAList(&'static str),
    /// It is no event of a watch.
    #[error("the response is no watch that Picket knows: {0}")]
    NotAWatch(&'static str),
    /// An item has no name, so no rule can be applied to it.
    #[error("an item has no metadata.name, so rules cannot be applied to it")]
    NoName,
    /// A row of a Table came without its object.
    #[error("a row of the Table has no object; ask with includeObject=Metadata")]
    RowWithoutObject,
    /// An item is larger than [`ITEM_LIMIT`](crate::ITEM_LIMIT).
    #[error("an item is larger than 10 MiB, the most that is judged")]
    TooLarge,
    /// Members are repeated so often that not every reading can be judged.
    #[error("an item repeats members of its metadata too often")]
    TooManyReadings,
    /// The body ended in the middle.
    #[error("the response ended before its last item was complete")]
    Truncated,
}

impl FilterError {
    /// A word for metrics and audit records.
    pub const fn code(self) -> &'static str {
        match self {
            FilterError::MediaType => "media_type",
            FilterError::Json(_) => "json",
            FilterError::Protobuf(_) => "protobuf",
            FilterError::NotAList(_) => "not_a_list",
            FilterError::NotAWatch(_) => "not_a_watch",
            FilterError::NoName => "no_name",
            FilterError::RowWithoutObject => "row_without_object",
            FilterError::TooLarge => "too_large",
            FilterError::TooManyReadings => "too_many_readings",
            FilterError::Truncated => "truncated",
        }
    }
}
