//! Refusals that are about the API server's answer.
//!
//! In: the answer to a dry run, or to a list from which rules hide objects. Out: what the client is told of it.

use http::StatusCode;
use http::header::HeaderValue;
use picket_masking::FilterError;

/// Why an answer cannot be filtered, and by which rules it would be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnfilterableError {
    /// The client takes no encoding that can be.
    #[error(
        "{0} hides objects of this answer, which Picket can do in JSON and protobuf. Allowed instead: the same request with \
         Accept: application/json"
    )]
    Accept(String),
    /// What the API server answered is no list or watch, or not whole.
    #[error("{rules} hides objects of this answer, which Picket cannot read: {error}")]
    Content {
        /// The rules.
        rules: String,
        /// What is wrong.
        error: FilterError,
    },
    /// Other answers of the pod take all the memory that there is for objects that have come in part.
    #[error(
        "answers to this pod from which rules hide objects use all the memory for such; try again, with fewer large objects at once"
    )]
    Busy,
    /// The API server answered in another encoding.
    #[error(
        "{rules} hides objects of this answer, which Picket can do in JSON and protobuf, and the API server answered with \
         {media_type:?}"
    )]
    Answer {
        /// The rules.
        rules: String,
        /// The answer's Content-Type.
        media_type: String,
    },
}

impl UnfilterableError {
    /// A stable name of low cardinality, for metrics and records.
    pub fn code(&self) -> &'static str {
        match self {
            UnfilterableError::Accept(_) => "not_acceptable",
            UnfilterableError::Answer { .. } | UnfilterableError::Content { .. } => "unfilterable",
            UnfilterableError::Busy => "filters_busy",
        }
    }
}

/// A failure that the API server told in another way than by a `Status`, of an answer from which rules hide objects: its text is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the API server answered {code}; its text is left out, since rules hide objects of this answer")]
pub struct WithheldAnswer {
    pub(super) code: StatusCode,
    pub(super) reason: &'static str,
    /// Seconds until another try may go better, where the API server says so.
    pub(super) retry_after: Option<u32>,
}

impl WithheldAnswer {
    /// The failure with this code, and its `Retry-After`.
    pub fn new(code: StatusCode, retry_after: Option<&HeaderValue>) -> Self {
        let seconds = retry_after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        // As client-go reads a failure without a Status (k8s.io/apimachinery pkg/api/errors, NewGenericServerResponse).
        let reason = match code.as_u16() {
            400 => "BadRequest",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "NotFound",
            405 => "MethodNotAllowed",
            409 => "Conflict",
            410 => "Gone",
            429 => "TooManyRequests",
            500 => "InternalError",
            503 => "ServiceUnavailable",
            504 => "Timeout",
            _ => "",
        };
        Self {
            code,
            reason,
            retry_after: seconds,
        }
    }
}

/// What Picket asks the API server by itself, before a write, for rules that look into objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiQuestion {
    /// A patch as a dry run: which object it makes.
    DryRun,
    /// A GET of the object that a write finds.
    Get,
}

impl ApiQuestion {
    /// In words, after "the API server answered ... to".
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::DryRun => "a dry run of the patch",
            Self::Get => "a get of the object that is stored",
        }
    }

    /// The id that the question has in the API server's audit log: that of the request with what is asked behind it. With the same id it
    /// would read as if the client had asked.
    pub fn audit_id(self, request: &str) -> String {
        match self {
            Self::DryRun => format!("{request}.dry-run"),
            Self::Get => format!("{request}.get"),
        }
    }

    /// The code of a refusal.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::DryRun => "dry_run",
            Self::Get => "old_object",
        }
    }
}

/// What the API server answered to a question of Picket's, where that is no object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ProbeAnswer {
    pub(super) question: ApiQuestion,
    pub(super) code: StatusCode,
    pub(super) reason: &'static str,
    message: String,
    /// Whether another try may go better.
    pub(super) retry: bool,
}

/// Reasons of the API server's refusals of a patch (k8s.io/apimachinery pkg/apis/meta/v1/types.go).
const PROBE_REASONS: [&str; 14] = [
    "AlreadyExists",
    "BadRequest",
    "Conflict",
    "Forbidden",
    "Gone",
    "InternalError",
    "Invalid",
    "MethodNotAllowed",
    "NotFound",
    "RequestEntityTooLarge",
    "ServiceUnavailable",
    "Timeout",
    "TooManyRequests",
    "UnsupportedMediaType",
];

/// Longest message of the API server's that is passed on, in bytes.
const PROBE_MESSAGE: usize = 4096;

impl ProbeAnswer {
    /// The API server's answer with this body, which is a `Status`.
    pub fn of(
        question: ApiQuestion,
        code: StatusCode,
        body: &[u8],
        retry_after: Option<&HeaderValue>,
    ) -> Self {
        let status: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |name: &str| {
            status
                .get(name)
                .and_then(serde_json::Value::as_str)
                .unwrap_or_default()
        };
        let known = |reason: &&'static str| *reason == text("reason");
        let message = text("message");
        let message = match message.is_empty() {
            true => format!(
                "the API server answered {code} to {}, which a policy's rule about the object needs",
                question.words()
            ),
            false => message[..message.floor_char_boundary(PROBE_MESSAGE)].to_owned(),
        };
        Self {
            question,
            code,
            reason: PROBE_REASONS.into_iter().find(known).unwrap_or_default(),
            message,
            retry: retry_after.is_some(),
        }
    }

    /// An answer that is no object though it says so.
    pub fn unreadable(question: ApiQuestion, code: StatusCode) -> Self {
        let asked = question.words();
        Self {
            question,
            code,
            reason: "BadGateway",
            message: format!(
                "a policy's rule looks into objects, and the API server's answer to {asked} cannot be read"
            ),
            retry: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probed(status: &serde_json::Value) -> ProbeAnswer {
        ProbeAnswer::of(
            ApiQuestion::DryRun,
            StatusCode::CONFLICT,
            status.to_string().as_bytes(),
            None,
        )
    }

    #[test]
    fn of_a_dry_run_s_answer_a_known_reason_and_a_bounded_message_are_told() {
        let conflict = probed(&serde_json::json!({"reason": "Conflict", "message": "it was changed"}));
        assert_eq!(
            (conflict.reason, conflict.to_string().as_str()),
            ("Conflict", "it was changed")
        );
        assert!(!conflict.retry);
        let long = "\u{e9}".repeat(PROBE_MESSAGE);
        let odd = probed(&serde_json::json!({"reason": "Another", "message": long}));
        assert_eq!((odd.reason, odd.to_string().len()), ("", PROBE_MESSAGE));
        let soon = HeaderValue::from_static("1");
        let silent = ProbeAnswer::of(
            ApiQuestion::Get,
            StatusCode::TOO_MANY_REQUESTS,
            b"<html>",
            Some(&soon),
        );
        assert!(silent.retry && silent.to_string().contains("429"), "{silent:?}");
    }

    #[test]
    fn of_a_withheld_answer_its_code_and_when_to_try_again_are_told() {
        let of = |retry_after: &'static str| {
            let retry_after = HeaderValue::from_static(retry_after);
            WithheldAnswer::new(StatusCode::TOO_MANY_REQUESTS, Some(&retry_after))
        };
        assert_eq!(
            (of("7").reason, of(" 7 ").retry_after),
            ("TooManyRequests", Some(7))
        );
        assert_eq!(of("Wed, 21 Oct 2026 07:28:00 GMT").retry_after, None);
        assert_eq!(WithheldAnswer::new(StatusCode::IM_A_TEAPOT, None).reason, "");
    }
}
