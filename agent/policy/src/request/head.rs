//! The head of a request: what must be clear in it before anything is read from it, and the head kept with its reading.
//!
//! In: request target and headers. Out: a [`CanonicalRequest`], or a refusal of whatever two parsers take differently.

use std::sync::Arc;

use http::header::{
    ACCEPT, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, Uri, request};

use super::KubeRequest;
use super::LongTarget;
use super::error::{MAX_HEAD, ReadError};
use super::object::RequestObject;
use super::query::{Pairs, Query};

/// What the API server can upgrade a connection to: exec, attach, port-forward and watches.
const UPGRADES: [&[u8]; 2] = [b"websocket", b"spdy/3.1"];

/// Headers by which some frameworks let a client replace the method.
const METHOD_OVERRIDES: [&[u8]; 3] = [b"x-http-method-override", b"x-http-method", b"x-method-override"];

/// The head of a request and its one reading. Both come from one read and never part, so that what is judged is what is
/// sent.
#[derive(Debug)]
pub struct CanonicalRequest {
    kube: Arc<KubeRequest>,
    /// Boxed: a head is large, and moves with its request through every stage.
    head: Box<request::Parts>,
}

impl CanonicalRequest {
    /// Reads a head and keeps it. Where its extensions hold a [`LongTarget`], that is the target, for whoever sends it too.
    ///
    /// # Errors
    /// As [`KubeRequest::read`].
    pub fn read(head: request::Parts) -> Result<Self, ReadError> {
        let long = head.extensions.get::<LongTarget>();
        let kube = KubeRequest::read_with(&head.method, &head.uri, long, &head.headers)?;
        Ok(Self {
            kube: Arc::new(kube),
            head: Box::new(head),
        })
    }

    /// The reading.
    #[must_use]
    pub fn kube(&self) -> &Arc<KubeRequest> {
        &self.kube
    }

    /// The head.
    #[must_use]
    pub fn head(&self) -> &request::Parts {
        &self.head
    }

    /// Keeps the object that the request would store, as rules will see it.
    pub(crate) fn set_object(&mut self, object: RequestObject) {
        Arc::make_mut(&mut self.kube).object = object;
    }

    /// The reading, for what is learned of the request later.
    pub(crate) fn kube_mut(&mut self) -> &mut KubeRequest {
        Arc::make_mut(&mut self.kube)
    }

    /// The query, which reading has checked.
    pub(super) fn query(&self) -> Result<Query, ReadError> {
        Query::read(self.head.uri.query().unwrap_or_default(), Pairs::Any)
    }

    /// The head for another request like this one, without what was kept beside it. `None` for a target that is longer than a URI.
    pub(super) fn copied_head(&self) -> Option<request::Parts> {
        let head = self.head();
        if head.extensions.get::<LongTarget>().is_some() {
            return None;
        }
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.method = head.method.clone();
        parts.version = head.version;
        parts.uri = head.uri.clone();
        parts.headers = head.headers.clone();
        Some(parts)
    }

    /// The head, for what changes in it with the body.
    pub(super) fn head_mut(&mut self) -> &mut request::Parts {
        &mut self.head
    }

    /// Gives the head out; a permit does so, and nothing else.
    pub(crate) fn into_head(self) -> request::Parts {
        *self.head
    }
}

/// Refuses a head that could be taken differently.
pub(super) fn check(uri: &Uri, long: Option<&LongTarget>, headers: &HeaderMap) -> Result<(), ReadError> {
    check_size(uri, long, headers)?;
    check_authority(uri, headers)?;
    check_framing(headers)
}

/// Refuses a request target that names another host than the Host header, or hides one before an `@`.
fn check_authority(uri: &Uri, headers: &HeaderMap) -> Result<(), ReadError> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(ReadError::Headers("more than one Host header"));
    }
    if uri.path_and_query().is_none() {
        return Err(ReadError::Path("is missing"));
    }
    let Some(authority) = uri.authority() else {
        return Ok(());
    };
    if authority.as_str().contains('@') {
        return Err(ReadError::Headers("user information in its target"));
    }
    match host {
        Some(host)
            if !without_default_port(host.as_bytes())
                .eq_ignore_ascii_case(without_default_port(authority.as_str().as_bytes())) =>
        {
            Err(ReadError::Headers("a Host header that differs from its target"))
        }
        _ => Ok(()),
    }
}

/// An authority without the port of HTTPS, which is there or not as the client likes (RFC 9110, 4.2.3).
fn without_default_port(authority: &[u8]) -> &[u8] {
    authority.strip_suffix(b":443").unwrap_or(authority)
}

/// Refuses a head that is longer than [`MAX_HEAD`].
fn check_size(uri: &Uri, long: Option<&LongTarget>, headers: &HeaderMap) -> Result<(), ReadError> {
    let target = uri.path_and_query().map_or(0, |path| path.as_str().len())
        + long.map_or(0, |target| target.as_str().len())
        + uri.authority().map_or(0, |authority| authority.as_str().len());
    let fields: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    if target + fields > MAX_HEAD {
        return Err(ReadError::Head);
    }
    Ok(())
}

/// Whether a header is this one for a server that, as CGI (RFC 3875, 4.1.18) does, takes an underscore for a dash.
/// `HeaderName` is in lower case already.
fn same_header(name: &HeaderName, other: &[u8]) -> bool {
    let name = name.as_str().as_bytes();
    let dashed = |byte: &u8| if *byte == b'_' { b'-' } else { *byte };
    name.len() == other.len() && name.iter().map(dashed).eq(other.iter().copied())
}

/// Refuses the doubles that request smuggling lives on.
fn check_framing(headers: &HeaderMap) -> Result<(), ReadError> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    if lengths.next().is_some() {
        return Err(ReadError::Headers("more than one Content-Length header"));
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let coding = codings.next();
    if codings.next().is_some() {
        return Err(ReadError::Headers("more than one Transfer-Encoding header"));
    }
    // What is below chunks is sent on as it is, without its coding, and the API server would take it for the body itself.
    if coding.is_some_and(|coding| !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked")) {
        return Err(ReadError::Headers("another Transfer-Encoding than chunked"));
    }
    if coding.is_some() && length.is_some() {
        return Err(ReadError::Headers("both Content-Length and Transfer-Encoding"));
    }
    // The API server does not heed these, and nothing behind it should.
    if headers
        .keys()
        .any(|name| METHOD_OVERRIDES.iter().any(|other| same_header(name, other)))
    {
        return Err(ReadError::Headers("a header that overrides the method"));
    }
    Ok(())
}

/// Refuses a body that is compressed: the API server reads none, and no rule could look into it.
pub(super) fn check_coding(headers: &HeaderMap) -> Result<(), ReadError> {
    let mut codings = headers.get_all(CONTENT_ENCODING).iter();
    let plain = |coding: &http::HeaderValue| {
        let coding = coding.as_bytes().trim_ascii();
        coding.is_empty() || coding.eq_ignore_ascii_case(b"identity")
    };
    match codings.all(plain) {
        true => Ok(()),
        false => Err(ReadError::ContentEncoding),
    }
}

/// Whether the body is an apply configuration (`application/apply-patch+yaml` or `+cbor`). Any value that could be
/// taken for one counts.
pub(super) fn asks_apply(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_TYPE).iter().any(|value| {
        value
            .as_bytes()
            .to_ascii_lowercase()
            .windows(11)
            .any(|window| window == b"apply-patch")
    })
}

/// Whether the answer may be aggregated discovery (`as=APIGroupDiscoveryList`), which client-go asks for since 1.26 and other clients do
/// not.
pub(super) fn asks_discovery(headers: &HeaderMap) -> bool {
    const ASKED: &[u8] = b"as=APIGroupDiscoveryList";
    headers.get_all(ACCEPT).iter().any(|value| {
        let mut windows = value.as_bytes().windows(ASKED.len());
        windows.any(|window| window == ASKED)
    })
}

/// Whether a switch of protocols is asked for: `Upgrade` together with `Connection: upgrade` (RFC 9110, 7.8). A protocol that
/// the API server cannot switch to is as none, and nothing of it is sent on: HTTP clients of Java offer `h2c` or `TLS/1.2`
/// with any request, and expect an answer.
pub(super) fn asks_upgrade(headers: &HeaderMap) -> Result<bool, ReadError> {
    let tokens = |name| {
        let values = headers.get_all(name).iter();
        values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
    };
    let is = |token: &[u8], word: &[u8]| token.trim_ascii().eq_ignore_ascii_case(word);
    let upgrade = tokens(UPGRADE).any(|token| UPGRADES.iter().any(|known| is(token, known)));
    if upgrade && tokens(UPGRADE).count() > 1 {
        return Err(ReadError::Headers("more than one Upgrade protocol"));
    }
    Ok(upgrade && tokens(CONNECTION).any(|token| is(token, b"upgrade")))
}
