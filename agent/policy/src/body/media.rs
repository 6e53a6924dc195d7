//! In what a body is written, by its Content-Type.
//!
//! In: the header's value. Out: a [`MediaType`], or a refusal that names those which are read.

use super::BodyError;

/// In what a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MediaType {
    /// An object as JSON, which also is what an absent header means.
    Json,
    /// A JSON patch (RFC 6902).
    JsonPatch,
    /// A JSON merge patch (RFC 7386).
    MergePatch,
    /// A merge patch that knows the keys of lists.
    StrategicMergePatch,
}

impl MediaType {
    /// Every one that is read.
    const ALL: [Self; 4] = [
        Self::Json,
        Self::JsonPatch,
        Self::MergePatch,
        Self::StrategicMergePatch,
    ];

    /// The media type of a body.
    ///
    /// In: the value of the one Content-Type header. The API server picks the decoder by this header alone, takes JSON where
    /// there is none, and never looks into the body for that (k8s.io/apiserver,
    /// pkg/endpoints/handlers/negotiation/negotiate.go, `NegotiateInputSerializer`; patches: handlers/patch.go). Parameters
    /// change nothing for it: `charset` too is left unheeded.
    ///
    /// # Errors
    /// A media type that is not read.
    pub fn of(content_type: Option<&str>) -> Result<Self, BodyError> {
        let Some(content_type) = content_type else {
            return Ok(Self::Json);
        };
        let name = content_type.split(';').next().unwrap_or_default().trim_ascii();
        if name.is_empty() {
            return Ok(Self::Json);
        }
        let found = Self::ALL
            .into_iter()
            .find(|media| media.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| BodyError::media_type(name))
    }

    /// As it stands in a Content-Type header.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::JsonPatch => "application/json-patch+json",
            Self::MergePatch => "application/merge-patch+json",
            Self::StrategicMergePatch => "application/strategic-merge-patch+json",
        }
    }

    /// The Content-Type under which [`write`](super::write)'s bytes go upstream.
    #[must_use]
    pub fn written(self) -> &'static str {
        self.name()
    }

    /// Whether the body says what to change in an object, and is not the object itself.
    #[must_use]
    pub fn is_patch(self) -> bool {
        !matches!(self, Self::Json)
    }
}
