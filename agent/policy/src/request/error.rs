//! Why a request cannot be read: what each of the readers can find wrong.

use thiserror::Error;

/// Why a request cannot be read in one way only. The client gets 400.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReadError {
    /// A method the API server has no verb for.
    #[error("method {0} is not used by the Kubernetes API")]
    Method(String),
    /// A path that two parsers could take differently.
    #[error("the path is not canonical: {0}")]
    Path(&'static str),
    /// A query that two parsers could take differently.
    #[error("the query is not canonical: {0}")]
    Query(&'static str),
    /// A query key that is read once came twice.
    #[error("the query has {0:?} more than once")]
    RepeatedQuery(String),
    /// Headers that contradict each other or the request line.
    #[error("the headers are not canonical: {0}")]
    Headers(&'static str),
    /// The head is longer than any real one.
    #[error("request target, header names and header values together are longer than {MAX_HEAD} bytes")]
    Head,
    /// A path form that no supported API server serves.
    #[error("{0} is not served by any supported Kubernetes release")]
    Gone(&'static str),
}

/// Most bytes of request target, header names and header values together. kube-apiserver takes 1 MB and real heads have
/// a few KB, a bearer token included. HTTP libraries bound their buffers, not what they hand on (one read can bring
/// more than the buffer was to hold), and a head is kept as long as its request: so it is counted here, for every
/// protocol.
pub(super) const MAX_HEAD: usize = 64 * 1024;
