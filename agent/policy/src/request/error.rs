//! Why a request cannot be read.
//!
//! In: what each of the readers finds wrong. Out: a [`ReadError`], whose message the client gets.

use http::Method;
use thiserror::Error;

use crate::body::BodyError;

/// Why a request cannot be read in one way only. The client gets 400.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReadError {
    /// A method the API server has no verb for.
    #[error("the Kubernetes API does not use the method {0}")]
    Method(String),
    /// A path that two parsers could take differently.
    #[error("the path {0}")]
    Path(&'static str),
    /// A query that two parsers could take differently.
    #[error("the query {0}")]
    Query(&'static str),
    /// A query key that is read once came with two values.
    #[error("the query has {0:?} with more than one value")]
    RepeatedQuery(String),
    /// Headers that contradict each other or the request line.
    #[error("the request has {0}")]
    Headers(&'static str),
    /// The head is longer than any real one.
    #[error("the request target and the headers are longer than {MAX_HEAD} bytes")]
    Head,
    /// A compressed body.
    #[error("the request has a Content-Encoding, and the Kubernetes API reads bodies without one")]
    ContentEncoding,
    /// A body that rules look into and that cannot be read, or not in one way only.
    #[error("{0}")]
    Body(#[from] BodyError),
    /// A patch that cannot be held to the version of the object that it was judged on.
    #[error("a rule looks into the object that the patch makes, and {0}")]
    Patch(&'static str),
    /// A write that cannot be held to the stored object that it is judged on.
    #[error("a rule looks at the object that is stored, and the request cannot be held to that one: {0}")]
    Bound(&'static str),
    /// A path form that no supported API server serves.
    #[error("no supported Kubernetes release serves {0}")]
    Gone(&'static str),
}

/// How much of an unknown method is quoted; those that there are have fewer than 20 (IANA's HTTP Method Registry).
const METHOD_CHARS: usize = 64;

impl ReadError {
    /// Whether the body is in an encoding that is not read, so that another one helps.
    #[must_use]
    pub fn is_media_type(&self) -> bool {
        match self {
            Self::ContentEncoding => true,
            Self::Body(error) => error.is_media_type(),
            _ => false,
        }
    }

    pub(super) fn method(method: &Method) -> Self {
        Self::Method(method.as_str().chars().take(METHOD_CHARS).collect())
    }
}

/// Most bytes of request target, header names and header values together: what kube-apiserver takes (net/http,
/// `DefaultMaxHeaderBytes`), since the arguments of an exec are part of it. Real heads have a few KB. HTTP libraries bound
/// their buffers, not what they hand on (one read can bring more than the buffer was to hold), so it is counted here,
/// for every protocol.
pub const MAX_HEAD: usize = 1 << 20;
