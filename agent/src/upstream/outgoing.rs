//! A request as it is sent, in either version of HTTP, and what a failure to send says about it.
//!
//! In: the client's method and path with the headers made for it. Out: the request for one kind of connection. The
//! path goes on byte for byte: it is what policy judged.

use http::header::{self, HeaderMap, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri, Version, request};

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

    /// Takes a request apart that a connection gave back unsent.
    pub(super) fn from_request(request: Request<RequestBody>) -> (Outgoing, RequestBody) {
        let (mut head, body) = request.into_parts();
        head.headers.remove(header::HOST);
        (Outgoing::new(head), body)
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
pub(super) enum Failure {
    /// Not a byte was sent; here it is again.
    Returned(Box<(Outgoing, RequestBody)>, hyper::Error),
    /// Sent, but the other side says that it has not looked at it.
    NotSeen(hyper::Error),
    /// It may have been carried out.
    Broken(hyper::Error),
    /// It could not be put together.
    Malformed(http::Error),
}

impl From<http::Error> for Failure {
    fn from(error: http::Error) -> Failure {
        Failure::Malformed(error)
    }
}

impl Failure {
    /// Sorts an error by RFC 9113 section 8.7: REFUSED_STREAM says that nothing was done, and so does a GOAWAY for streams
    /// above the last one it names. As the latter cannot be told from here for certain, it counts for safe methods alone.
    pub(super) fn of(error: hyper::Error, safe: bool) -> Failure {
        let h2 = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<h2::Error>());
        let not_seen = h2.is_some_and(|h2| {
            let refused = h2.is_reset() && h2.reason() == Some(h2::Reason::REFUSED_STREAM);
            let left = h2.is_go_away() && h2.reason() == Some(h2::Reason::NO_ERROR) && safe;
            h2.is_remote() && (refused || left)
        });
        if not_seen {
            Failure::NotSeen(error)
        } else {
            Failure::Broken(error)
        }
    }
}
