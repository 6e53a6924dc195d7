//! Media types that can be filtered.
//!
//! In: a request's Accept, and a response's Content-Type. Out: Accept without what cannot be filtered, and the encoding. The
//! caller asks for `Accept-Encoding: identity` besides: compressed bodies are not read.

use crate::error::FilterError;

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Lists, Tables and watches.
    Json,
    /// Lists and watches of built-in kinds.
    Protobuf,
}

impl Encoding {
    /// Reads a Content-Type. Parameters do not matter: what is a Table or a watch tells itself.
    ///
    /// # Errors
    /// For anything but JSON and protobuf.
    pub fn of_content_type(value: &str) -> Result<Encoding, FilterError> {
        match essence(value) {
            name if name.eq_ignore_ascii_case(JSON) => Ok(Encoding::Json),
            name if name.eq_ignore_ascii_case(PROTOBUF) => Ok(Encoding::Protobuf),
            _ => Err(FilterError::MediaType),
        }
    }
}

fn essence(range: &str) -> &str {
    range.split(';').next().unwrap_or_default().trim()
}

/// The Accept to send in place of the client's: the ranges that can be filtered, as they were written. A range of everything
/// becomes JSON. `None` where nothing is left, so that the API server could not answer either.
pub fn narrowed_accept(accept: Option<&str>) -> Option<String> {
    let Some(accept) = accept.filter(|accept| !accept.trim().is_empty()) else {
        return Some(JSON.to_owned());
    };
    let mut kept = Vec::new();
    // Kubernetes' media types have no quoted parameters, so a range with one is none of them.
    for range in accept
        .split(',')
        .map(str::trim)
        .filter(|range| !range.contains('"'))
    {
        let name = essence(range);
        if name.eq_ignore_ascii_case(JSON) || name.eq_ignore_ascii_case(PROTOBUF) {
            kept.push(range.to_owned());
        } else if matches!(name, "*/*" | "application/*") {
            kept.push(range.replacen(name, JSON, 1));
        }
    }
    (!kept.is_empty()).then(|| kept.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_keeps_what_can_be_filtered() {
        let cases = [
            (None, Some("application/json")),
            (Some(" "), Some("application/json")),
            (Some("*/*"), Some("application/json")),
            (Some("application/yaml"), None),
            (
                Some("application/cbor, application/json"),
                Some("application/json"),
            ),
            (
                Some("application/vnd.kubernetes.protobuf,application/cbor-seq;q=0.5, */*;q=0.1"),
                Some("application/vnd.kubernetes.protobuf, application/json;q=0.1"),
            ),
            (
                Some("application/json;as=Table;v=v1;g=meta.k8s.io,application/json"),
                Some("application/json;as=Table;v=v1;g=meta.k8s.io, application/json"),
            ),
            (Some("application/json;a=\"x"), None),
        ];
        for (given, expected) in cases {
            assert_eq!(narrowed_accept(given).as_deref(), expected, "{given:?}");
        }
    }

    #[test]
    fn content_types_are_known_or_refused() {
        for json in [
            "application/json",
            "Application/JSON;stream=watch",
            "application/json; charset=utf-8",
        ] {
            assert_eq!(Encoding::of_content_type(json), Ok(Encoding::Json));
        }
        assert_eq!(
            Encoding::of_content_type("application/vnd.kubernetes.protobuf;stream=watch"),
            Ok(Encoding::Protobuf)
        );
        for other in [
            "",
            "application/yaml",
            "application/cbor",
            "text/plain",
            "application/jsonx",
        ] {
            assert_eq!(
                Encoding::of_content_type(other),
                Err(FilterError::MediaType),
                "{other}"
            );
        }
    }
}
