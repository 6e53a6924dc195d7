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
    /// An object as YAML.
    Yaml,
    /// The fields that server-side apply sets, as YAML, which JSON is too.
    ApplyYaml,
    /// An object of a kind of Kubernetes itself, in protobuf.
    Protobuf,
    /// An object as CBOR.
    Cbor,
    /// The fields that server-side apply sets, as CBOR.
    ApplyCbor,
}

impl MediaType {
    /// Every one that is read.
    const ALL: [Self; 9] = [
        Self::Json,
        Self::JsonPatch,
        Self::MergePatch,
        Self::StrategicMergePatch,
        Self::Yaml,
        Self::ApplyYaml,
        Self::Protobuf,
        Self::Cbor,
        Self::ApplyCbor,
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
            Self::Yaml => "application/yaml",
            Self::ApplyYaml => "application/apply-patch+yaml",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
            Self::Cbor => "application/cbor",
            Self::ApplyCbor => "application/apply-patch+cbor",
        }
    }

    /// The Content-Type under which [`write`](super::write)'s bytes go upstream. API servers take CBOR only behind a feature gate that is
    /// off (`CBORServingAndStorage`, KEP-4222), and all of them take JSON.
    #[must_use]
    pub fn written(self) -> &'static str {
        match self {
            Self::Yaml | Self::Protobuf | Self::Cbor => Self::Json.name(),
            Self::ApplyCbor => Self::ApplyYaml.name(),
            other => other.name(),
        }
    }

    /// Whether the body says what to change in an object, and is not the object itself.
    #[must_use]
    pub fn is_patch(self) -> bool {
        !matches!(self, Self::Json | Self::Yaml | Self::Protobuf | Self::Cbor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_alone_decides() {
        for (header, media) in [
            (None, MediaType::Json),
            (Some(""), MediaType::Json),
            (Some("application/json"), MediaType::Json),
            (Some("Application/JSON; charset=UTF-8"), MediaType::Json),
            (Some(" application/yaml ;x=y"), MediaType::Yaml),
            (Some("application/json-patch+json"), MediaType::JsonPatch),
            (Some("application/merge-patch+json"), MediaType::MergePatch),
            (
                Some("application/strategic-merge-patch+json"),
                MediaType::StrategicMergePatch,
            ),
            (Some("application/apply-patch+yaml"), MediaType::ApplyYaml),
            (Some("application/vnd.kubernetes.protobuf"), MediaType::Protobuf),
            (Some("Application/CBOR;x=y"), MediaType::Cbor),
            (Some("application/apply-patch+cbor"), MediaType::ApplyCbor),
        ] {
            assert_eq!(MediaType::of(header), Ok(media), "{header:?}");
        }
        for media in MediaType::ALL {
            assert_eq!(MediaType::of(Some(media.name())), Ok(media));
            // What goes upstream is an object where one came, and a patch of the same kind else.
            let written = MediaType::of(Some(media.written()));
            assert_eq!(written.map(MediaType::is_patch), Ok(media.is_patch()));
            let keeps = media.is_patch() && media != MediaType::ApplyCbor;
            assert!(!keeps || media.written() == media.name());
            assert!(!media.written().contains("cbor"), "{media:?}");
        }
    }

    #[test]
    fn what_is_not_read_is_refused() {
        for header in [
            "text/plain",
            "application/json, text/plain",
            "json",
            "*/*",
            "application/x-www-form-urlencoded",
            // Events of a watch, one after the other.
            "application/cbor-seq",
        ] {
            let error = MediaType::of(Some(header)).expect_err(header);
            assert!(error.is_media_type() && error.code() == "media_type", "{error}");
        }
    }
}
