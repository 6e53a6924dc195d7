//! Long heads of HTTP/1.1.
//!
//! In: a client's bytes. Out: the same bytes to hyper, but for a head that hyper would not take: that one is read whole and
//! parsed here, and hyper gets a short head with the fields that frame the message. The request that hyper makes of it is
//! given its real head before anybody sees it. A head that is complete in the first bytes that come, as nearly all are, is
//! passed on where it lies.
//!
//! hyper gets a head and no more, and then as much of a body as it says that there is: each head is read here, also one that is
//! pipelined. A body whose length is unknown, and one that may become another protocol, are the last of a connection: their
//! answer closes it ([`Exchange::closes`]), and a request behind them is refused.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::UPGRADE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body::Body;
use parking_lot::Mutex;
use picket_policy::MAX_HEAD;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::{HeldHead, PodHeads, ReadPermit, SHORT_HEAD, set_target, shown};
use crate::reject::HeadError;

/// Fields that hyper parses without an allocation of its own (its `DEFAULT_MAX_HEADERS`).
const SHORT_FIELDS: usize = 100;

/// Fields that are read. Go has no limit but the bytes; `http::HeaderMap` holds 24,576 names.
const MAX_FIELDS: usize = 16 * 1024;

/// Go reads this much beyond its limit, for what its buffer takes ahead (net/http, `initialReadLimitSize`).
const SLOP: usize = 4096;

/// How much of a head that is too long is read on and dropped, so that the client reads the refusal: a client that still
/// writes when its connection closes sees nothing of it.
const DROPPED: usize = 8 << 20;

/// Read at once of a head that is held: what one TLS record carries.
const CHUNK: usize = 16 * 1024;

/// Fields that say how the message goes on, which hyper must have.
const FRAMING: [&str; 8] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "upgrade",
    "expect",
    "te",
    "trailer",
];

/// A head that hyper did not see.
struct LongHead {
    method: Method,
    target: Bytes,
    headers: HeaderMap,
    held: HeldHead,
}

/// What the connection's reader and its requests tell each other.
pub(in crate::pipeline) struct Exchange {
    /// Bytes that hyper has still to get of the body of the request that it read last; [`NO_REQUEST`] and [`LAST`] beside.
    body: AtomicU64,
    head: Mutex<Option<Result<LongHead, HeadError>>>,
}

/// hyper has not read the head yet.
const NO_REQUEST: u64 = u64::MAX;
/// No other head is looked for: the length is unknown, or the connection may change its protocol.
const LAST: u64 = u64::MAX - 1;

impl Exchange {
    /// Gives a request that hyper made its real head, and notes where the next head begins.
    pub(in crate::pipeline) fn restore<B: Body>(&self, mut request: Request<B>) -> Request<B> {
        if self.is_last() {
            // Nobody looked at its head.
            request.extensions_mut().insert(HeadError::Malformed);
            return request;
        }
        match self.head.lock().take() {
            Some(Ok(long)) => {
                *request.method_mut() = long.method;
                *request.headers_mut() = long.headers;
                if set_target(&mut request, &long.target).is_none() {
                    request.extensions_mut().insert(HeadError::Malformed);
                }
                request.extensions_mut().insert(Arc::new(long.held));
            }
            Some(Err(error)) => {
                request.extensions_mut().insert(error);
            }
            None => {}
        }
        let body = match request.body().size_hint().exact() {
            _ if request.headers().contains_key(UPGRADE) || request.method() == Method::CONNECT => LAST,
            Some(length) => length.min(LAST),
            None => LAST,
        };
        self.body.store(body, Ordering::Release);
        request
    }

    /// Whether the request that hyper read last is the connection's last one, unless the connection changes its protocol.
    fn is_last(&self) -> bool {
        self.body.load(Ordering::Acquire) == LAST
    }

    /// Whether an answer that is given now closes the connection: after the last request, and where the client still sends the
    /// body. Nobody may be left to read that, and hyper then closes the connection without a word in the answer: the client's
    /// next request would find it closed.
    pub(in crate::pipeline) fn closes(&self) -> bool {
        !matches!(self.body.load(Ordering::Acquire), 0 | NO_REQUEST)
    }
}

enum State {
    /// A head is next, and nothing of it has come.
    Head,
    /// It did not come at once, or is long.
    Holding { bytes: BytesMut, seen: usize },
    /// It is too long: the rest is read before hyper gets the stand-in.
    Dropping(Box<Dropping>),
    /// This head is for hyper.
    Giving(Bytes),
    /// hyper has the head and reads the body.
    Passing,
    /// Nothing is looked for any more.
    Through,
}

struct Dropping {
    /// What was read last, with the end of what came before.
    bytes: BytesMut,
    dropped: usize,
    stand_in: Bytes,
}

/// A client's connection whose long heads are read here.
pub(in crate::pipeline) struct Http1Heads<S> {
    stream: S,
    state: State,
    /// What came behind a head or body in one read, and hyper is not to have yet.
    rest: Bytes,
    permit: Option<ReadPermit>,
    heads: PodHeads,
    exchange: Arc<Exchange>,
}

impl<S> Http1Heads<S> {
    pub(in crate::pipeline) fn new(stream: S, heads: PodHeads) -> Http1Heads<S> {
        Http1Heads {
            stream,
            state: State::Head,
            rest: Bytes::new(),
            permit: None,
            heads,
            exchange: Arc::new(Exchange {
                body: AtomicU64::new(NO_REQUEST),
                head: Mutex::new(None),
            }),
        }
    }

    /// The connection itself, from which nothing was read.
    #[cfg(test)]
    pub(in crate::pipeline) fn into_inner(self) -> S {
        self.stream
    }

    /// For the requests of the connection.
    pub(in crate::pipeline) fn exchange(&self) -> Arc<Exchange> {
        Arc::clone(&self.exchange)
    }

    /// A whole head of `length` bytes, with what came behind it. hyper gets it as it is, or another in its place.
    fn complete(&mut self, mut bytes: BytesMut, length: usize) {
        let head = bytes.split_to(length).freeze();
        // A copy, so that little does not keep the memory of a long head.
        self.rest = Bytes::copy_from_slice(&bytes);
        if passes(&head) {
            return self.give(head);
        }
        match parse(&head, &self.heads) {
            Ok((long, stand_in)) => {
                *self.exchange.head.lock() = Some(Ok(long));
                self.give(stand_in.freeze());
            }
            Err(error) => {
                // The connection closes after the answer.
                let stand_in = self.refusal(error, &head);
                self.give(stand_in);
            }
        }
    }

    /// A head for hyper.
    fn give(&mut self, head: Bytes) {
        self.permit = None;
        self.state = State::Giving(head);
    }

    /// Notes the refusal and makes the head that stands for the one that is refused; its record has the method, and the target
    /// as far as it can be shown.
    fn refusal(&mut self, error: HeadError, head: &[u8]) -> Bytes {
        let begin = head.iter().position(|byte| !matches!(byte, b'\r' | b'\n'));
        let head = &head[begin.unwrap_or(0)..];
        let end = memchr::memchr2(b'\r', b'\n', head).unwrap_or(head.len());
        let first = memchr::memchr(b' ', &head[..end]).unwrap_or(end);
        let method = Method::from_bytes(&head[..first]).ok();
        // A target may hold spaces; HTTP's name ends the line.
        let target = head[..end].get(first + 1..).unwrap_or_default();
        let target = target
            .strip_suffix(b" HTTP/1.1")
            .or(target.strip_suffix(b" HTTP/1.0"))
            .unwrap_or(target);
        *self.exchange.head.lock() = Some(Err(error));
        let (method, target) = (method.unwrap_or(Method::GET), shown(target));
        format!("{method} {target} HTTP/1.1\r\nconnection: close\r\n\r\n").into()
    }
}

impl<S: AsyncRead + Unpin> Http1Heads<S> {
    /// Reads the beginning of a head to where hyper wants it, and takes it back where it is not all there or not short.
    fn poll_head(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        if !self.rest.is_empty() {
            let bytes = BytesMut::from(std::mem::take(&mut self.rest));
            self.begin(bytes);
            return Poll::Ready(Ok(false));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let bytes = &buffer.filled()[before..];
        if bytes.is_empty() {
            return Poll::Ready(Ok(true));
        }
        let length = end(bytes, 0);
        if let Some(length) = length
            && passes(&bytes[..length])
        {
            self.rest = Bytes::copy_from_slice(&bytes[length..]);
            buffer.set_filled(before + length);
            self.state = State::Passing;
            return Poll::Ready(Ok(true));
        }
        let bytes = BytesMut::from(bytes);
        buffer.set_filled(before);
        self.begin(bytes);
        Poll::Ready(Ok(false))
    }

    /// Bytes with which a head begins, and which hyper does not get as they lie.
    fn begin(&mut self, bytes: BytesMut) {
        match end(&bytes, 0) {
            Some(length) => self.complete(bytes, length),
            None => {
                let seen = bytes.len();
                self.state = State::Holding { bytes, seen };
            }
        }
    }

    /// Reads on, at most so many bytes.
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        most: u64,
    ) -> Poll<io::Result<u64>> {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        if !self.rest.is_empty() {
            let fits = self.rest.len().min(buffer.remaining()).min(most);
            buffer.put_slice(&self.rest.split_to(fits));
            return Poll::Ready(Ok(fits as u64));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let read = buffer.filled().len() - before;
        if read > most {
            self.rest = Bytes::copy_from_slice(&buffer.filled()[before + most..]);
            buffer.set_filled(before + most);
        }
        Poll::Ready(Ok(read.min(most) as u64))
    }

    /// Reads on at a head that has not come whole.
    fn poll_hold(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let State::Holding { bytes, seen } = &mut self.state else {
            return Poll::Ready(Ok(()));
        };
        if bytes.len() > SHORT_HEAD {
            ready!(
                self.permit
                    .get_or_insert_with(|| ReadPermit::wait(&self.heads))
                    .poll(cx)
            )?;
        }
        bytes.reserve(CHUNK);
        if ready!(poll_read_buf(Pin::new(&mut self.stream), cx, bytes))? == 0 {
            // hyper says what it thinks of half a head.
            let bytes = std::mem::take(bytes).freeze();
            self.give(bytes);
            return Poll::Ready(Ok(()));
        }
        let length = end(bytes, *seen);
        *seen = bytes.len();
        if let Some(length) = length {
            let bytes = std::mem::take(bytes);
            self.complete(bytes, length);
        } else if bytes.len() > MAX_HEAD + SLOP {
            let bytes = std::mem::take(bytes);
            let stand_in = self.refusal(HeadError::TooLong, &bytes);
            self.state = State::Dropping(Box::new(Dropping {
                bytes: BytesMut::from(&bytes[bytes.len() - 3..]),
                dropped: 0,
                stand_in,
            }));
        }
        Poll::Ready(Ok(()))
    }

    /// Reads to the end of a head that is too long.
    fn poll_drop(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let State::Dropping(dropping) = &mut self.state else {
            return Poll::Ready(Ok(()));
        };
        ready!(
            self.permit
                .get_or_insert_with(|| ReadPermit::wait(&self.heads))
                .poll(cx)
        )?;
        dropping.bytes.reserve(CHUNK);
        let read = ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut dropping.bytes))?;
        dropping.dropped += read;
        if read == 0 || dropping.dropped > DROPPED || end(&dropping.bytes, 3).is_some() {
            let stand_in = dropping.stand_in.clone();
            self.give(stand_in);
        } else {
            let kept = dropping.bytes.len().saturating_sub(3);
            dropping.bytes.advance(kept);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Http1Heads<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match &mut this.state {
                State::Through => return this.poll_body(cx, buffer, u64::MAX).map_ok(drop),
                State::Head => {
                    if ready!(this.poll_head(cx, buffer))? {
                        return Poll::Ready(Ok(()));
                    }
                }
                State::Holding { .. } => ready!(this.poll_hold(cx))?,
                State::Dropping(_) => ready!(this.poll_drop(cx))?,
                State::Giving(bytes) => {
                    let fits = bytes.len().min(buffer.remaining());
                    buffer.put_slice(&bytes.split_to(fits));
                    if bytes.is_empty() {
                        this.state = State::Passing;
                    }
                    return Poll::Ready(Ok(()));
                }
                State::Passing => match this.exchange.body.load(Ordering::Acquire) {
                    // hyper wants more of what is a whole head, or all that came of one.
                    NO_REQUEST => return Poll::Ready(Ok(())),
                    LAST => this.state = State::Through,
                    0 => {
                        this.exchange.body.store(NO_REQUEST, Ordering::Release);
                        this.state = State::Head;
                    }
                    left => {
                        let read = ready!(this.poll_body(cx, buffer, left))?;
                        this.exchange.body.store(left - read, Ordering::Release);
                        return Poll::Ready(Ok(()));
                    }
                },
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Http1Heads<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// Where a head ends that begins with the bytes: behind its empty line. What was `seen` has no end.
fn end(bytes: &[u8], seen: usize) -> Option<usize> {
    // Empty lines may stand before a request (RFC 9112 section 2.2).
    let begin = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n'))?;
    let from = begin.max(seen.saturating_sub(3));
    memchr::memchr_iter(b'\n', &bytes[from..]).find_map(|offset| {
        let next = from + offset + 1;
        match bytes.get(next..)? {
            [b'\n', ..] => Some(next + 1),
            [b'\r', b'\n', ..] => Some(next + 2),
            _ => None,
        }
    })
}

/// Whether hyper takes the head, and hands on the target as it is.
fn passes(head: &[u8]) -> bool {
    is_short(head) && !has_fragment(head)
}

/// Whether there is a `#` in the request line.
fn has_fragment(head: &[u8]) -> bool {
    let begin = head.iter().position(|byte| !matches!(byte, b'\r' | b'\n'));
    let line = &head[begin.unwrap_or(0)..];
    memchr::memchr2(b'#', b'\n', line).is_some_and(|at| line[at] == b'#')
}

/// Whether hyper takes the head.
fn is_short(head: &[u8]) -> bool {
    // The request line and the empty one are none.
    head.len() <= SHORT_HEAD && memchr::memchr_iter(b'\n', head).count() <= SHORT_FIELDS + 2
}

/// The head, and the one that hyper gets in its place.
fn parse(head: &Bytes, heads: &PodHeads) -> Result<(LongHead, BytesMut), HeadError> {
    let lines = memchr::memchr_iter(b'\n', head).count();
    let mut fields = vec![httparse::EMPTY_HEADER; lines.min(MAX_FIELDS)];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLong),
        _ => return Err(HeadError::Malformed),
    }
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Err(HeadError::Malformed);
    };
    let held = heads.hold(head.len()).ok_or(HeadError::Busy)?;
    let mut stand_in = BytesMut::from(format!("{method} / HTTP/1.{version}\r\n").as_bytes());
    let mut headers = HeaderMap::new();
    for field in request.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| HeadError::Malformed)?;
        if FRAMING.contains(&name.as_str()) {
            for part in [field.name.as_bytes(), b": ", field.value, b"\r\n"] {
                stand_in.extend_from_slice(part);
            }
        }
        let value =
            HeaderValue::from_maybe_shared(head.slice_ref(field.value)).map_err(|_| HeadError::Malformed)?;
        headers.try_append(name, value).map_err(|_| HeadError::TooLong)?;
    }
    stand_in.extend_from_slice(b"\r\n");
    if !is_short(&stand_in) {
        return Err(HeadError::TooLong);
    }
    let long = LongHead {
        method: Method::from_bytes(method.as_bytes()).map_err(|_| HeadError::Malformed)?,
        target: head.slice_ref(target.as_bytes()),
        headers,
        held,
    };
    Ok((long, stand_in))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_whose_head_nobody_looked_at_is_refused() {
        for (body, refused) in [(NO_REQUEST, false), (LAST, true)] {
            let exchange = Exchange {
                body: AtomicU64::new(body),
                head: Mutex::new(None),
            };
            let request = exchange.restore(Request::new(String::new()));
            let error = request.extensions().get::<HeadError>();
            assert_eq!(matches!(error, Some(HeadError::Malformed)), refused);
            assert_eq!(exchange.is_last(), refused);
        }
    }
}
