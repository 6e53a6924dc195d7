//! A request as it is sent, in either version of HTTP, and what a failure to send says about it.
//!
//! In: the client's method and path with the headers made for it. Out: the request for one kind of connection. The
//! path goes on byte for byte: it is what policy judged.

use http::header::{self, HeaderMap, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri, Version, request};

use super::SendError;
use super::body::RequestBody;

/// The head of a request, without what depends on the connection.
#[derive(Clone)]
pub(super) struct Outgoing {
    method: Method,
    path: PathAndQuery,
    headers: HeaderMap,
}

impl Outgoing {
    pub(super) fn new(head: request::Parts) -> Outgoing {
        let path = head.uri.into_parts().path_and_query;
        Outgoing {
            method: head.method,
            path: path.unwrap_or_else(|| PathAndQuery::from_static("/")),
            headers: head.headers,
        }
    }

    /// Whether carrying it out twice does no more than once (RFC 9110 section 9.2.1).
    pub(super) fn is_safe(&self) -> bool {
        self.method.is_safe()
    }

    /// For HTTP/2: the authority is part of the URI (RFC 9113 section 8.3.1).
    pub(super) fn http2(
        self,
        authority: &Authority,
        body: RequestBody,
    ) -> Result<Request<RequestBody>, http::Error> {
        let uri = Uri::builder()
            .scheme(Scheme::HTTPS)
            .authority(authority.clone())
            .path_and_query(self.path);
        Ok(build(
            self.method,
            uri.build()?,
            Version::HTTP_2,
            self.headers,
            body,
        ))
    }

    /// For HTTP/1.1: origin form and a `Host` (RFC 9112 section 3.2).
    pub(super) fn http1(
        mut self,
        authority: &Authority,
        body: RequestBody,
    ) -> Result<Request<RequestBody>, http::Error> {
        self.headers
            .insert(header::HOST, HeaderValue::from_str(authority.as_str())?);
        let uri = Uri::from(self.path);
        Ok(build(self.method, uri, Version::HTTP_11, self.headers, body))
    }
}

fn build(
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    body: RequestBody,
) -> Request<RequestBody> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.version_mut() = version;
    *request.headers_mut() = headers;
    request
}

/// Why one try failed, by what it says about the request.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Nobody looked at it: not a byte was sent, or the other side says so.
    #[error("not taken: {0}")]
    NotTaken(hyper::Error),
    /// It may have been carried out.
    #[error("broken off: {0}")]
    Broken(hyper::Error),
    /// It could not be put together.
    #[error("malformed: {0}")]
    Malformed(#[from] http::Error),
    /// It was not sent.
    #[error("no longer permitted")]
    NoLongerPermitted,
}

impl Failure {
    /// Sorts an error by RFC 9113: REFUSED_STREAM says that nothing was done (section 8.7), and so does a GOAWAY for streams
    /// above the last one that it names (section 6.8). Of the streams of a connection, h2 ends those alone with the GOAWAY it
    /// received; the others go on, and end with an I/O error where the connection does (h2 proto/streams/streams.rs,
    /// `recv_go_away` and `recv_eof`).
    pub(super) fn of(error: hyper::Error) -> Failure {
        let h2 = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<h2::Error>());
        let not_taken = h2.is_some_and(|h2| {
            let refused = h2.is_reset() && h2.reason() == Some(h2::Reason::REFUSED_STREAM);
            h2.is_remote() && (refused || h2.is_go_away())
        });
        if not_taken {
            Failure::NotTaken(error)
        } else {
            Failure::Broken(error)
        }
    }

    /// What the client of this request learns.
    pub(super) fn into_error(self, outgoing: &Outgoing) -> SendError {
        match self {
            Failure::NotTaken(error) => SendError::NotTaken(error),
            Failure::Broken(error) if outgoing.is_safe() => SendError::Interrupted(error),
            Failure::Broken(error) => SendError::Broken(error),
            Failure::Malformed(error) => SendError::Malformed(error),
            Failure::NoLongerPermitted => SendError::NoLongerPermitted,
        }
    }
}
