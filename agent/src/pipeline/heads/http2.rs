//! Long heads of HTTP/2.
//!
//! In: a client's bytes. Out: the same bytes, but for a header block whose `:path` may be longer than a URI, for which hyper
//! would reset the stream: the path's value is moved into a field of its own ([`hpack`](super::hpack)), and the request gets
//! it back before anybody sees it. Only a block that needs more than one frame can hold such a path, so all others pass where
//! they lie, unless the path has a fragment. hyper would drop that: its path is moved too, and the request refused.
//!
//! Headers that cannot be followed, such as those that h2 refuses without a look at their block, are the last of a connection.
//! What comes behind them could refer to a table that is another one here than in h2.

use std::fmt::Write as _;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http::Request;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::hpack::{Destination, Names, move_paths};
use super::{PodHeads, ReadPermit, SHORT_HEAD, set_target};
use crate::pipeline::newcomer::Gate;
use crate::reject::HeadError;

/// The most that h2 decodes of a head: above the API server's limit, so that what is beyond that limit is refused by a stage,
/// with a `Status` and a record. Clients learn the limit and do not send more.
pub(in crate::pipeline) const LIST_BYTES: u32 = 2 << 20;

/// A client begins with so many bytes (RFC 9113 section 3.4).
const PREFACE: usize = 24;

/// The head of a frame (section 4.1), the types that carry header blocks, and their flags (sections 6.2 and 6.10).
const FRAME_HEAD: usize = 9;
const HEADERS: u8 = 1;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x01;
const END_HEADERS: u8 = 0x04;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;

/// The largest frame that we take (SETTINGS_MAX_FRAME_SIZE, its default).
const FRAME: usize = 16 * 1024;

/// The field that a long path travels in from here to the request.
const FIELD: &str = "picket-long-path";

/// The path in its place. Nobody can send it: it has a random part, of this process alone.
static STAND_IN: LazyLock<String> = LazyLock::new(|| secret("/long-path/"));

/// The field that a path with a fragment travels in; nobody can send this one either.
static FRAGMENTS: LazyLock<String> = LazyLock::new(|| secret("picket-fragment-"));

/// What stands in the place of such a path begins so.
const UNREADABLE: &str = "/\\";

/// A text with a random part.
fn secret(begin: &str) -> String {
    let mut random = [0; 16];
    // Without random bytes nothing works, TLS first of all.
    let _filled = SystemRandom::new().fill(&mut random);
    let mut text = begin.to_owned();
    for byte in random {
        let _infallible = write!(text, "{byte:02x}");
    }
    text
}

/// Gives a request its path back, and counts its head where that is long.
pub(in crate::pipeline) fn restore<B>(mut request: Request<B>, heads: &PodHeads) -> Request<B> {
    let path = request.uri().path();
    let field = if path.starts_with(STAND_IN.as_str()) {
        Some(FIELD)
    } else if path.starts_with(UNREADABLE) && request.headers().contains_key(FRAGMENTS.as_str()) {
        Some(FRAGMENTS.as_str())
    } else {
        None
    };
    if let Some(field) = field {
        let value = request.headers_mut().remove(field);
        let path = value.as_ref().map_or(&[][..], |value| value.as_bytes());
        if set_target(&mut request, path).is_none() {
            request.extensions_mut().insert(HeadError::Malformed);
        }
    }
    let fields = request.headers().iter();
    let size = super::target(&request).len()
        + fields
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum::<usize>();
    if size > SHORT_HEAD {
        match heads.hold(size) {
            Some(held) => drop(request.extensions_mut().insert(Arc::new(held))),
            None => drop(request.extensions_mut().insert(HeadError::Busy)),
        }
    }
    request
}

/// Follows frames over the bytes that pass.
struct Walker {
    /// Bytes that pass before the next frame's head.
    left: usize,
    /// The dynamic table behind the headers that passed.
    names: Names,
}

impl Walker {
    /// How many of the bytes pass as they are: all but a frame's head that is not whole, headers that are not whole or go on in
    /// another frame, those with a fragment in their path, those that cannot be followed, and those that the gate holds back.
    fn pass(&mut self, bytes: &[u8], gate: &mut Option<Gate>) -> usize {
        let mut at = 0;
        loop {
            let step = self.left.min(bytes.len() - at);
            at += step;
            self.left -= step;
            if self.left > 0 {
                return at;
            }
            match frame(&bytes[at..]) {
                Some(frame) if frame.is_held(gate) => return at,
                Some(frame) if frame.passes(&bytes[at..], &mut self.names) => {
                    frame.passed(gate);
                    self.left = FRAME_HEAD + frame.length
                }
                _ => return at,
            }
        }
    }
}

/// The head of a frame.
struct Frame {
    length: usize,
    kind: u8,
    flags: u8,
    stream: [u8; 4],
}

impl Frame {
    /// Whether it begins a request that has to wait, or ends one with trailers.
    fn is_held(&self, gate: &Option<Gate>) -> bool {
        self.kind == HEADERS && gate.as_ref().is_some_and(Gate::is_shut)
    }

    fn passed(&self, gate: &mut Option<Gate>) {
        if let (HEADERS, Some(gate)) = (self.kind, gate) {
            gate.pass();
        }
    }

    /// Whether it passes as it is; the bytes begin with it. The names are those behind it then.
    fn passes(&self, bytes: &[u8], names: &mut Names) -> bool {
        match self.kind {
            HEADERS if self.flags & END_HEADERS == 0 || self.length > FRAME => return false,
            HEADERS => {}
            // No client may send the one, nor the other without headers that are open (RFC 9113 sections 8.4 and 6.10).
            PUSH_PROMISE | CONTINUATION => return false,
            _ => return true,
        }
        let whole = bytes.get(FRAME_HEAD..FRAME_HEAD + self.length);
        let Some(block) = whole.and_then(|payload| unpadded(self, payload)) else {
            return false;
        };
        let mut behind = names.clone();
        let passes = behind.follow(block).is_some_and(|paths| paths.is_empty());
        if passes {
            *names = behind;
        }
        passes
    }
}

fn frame(bytes: &[u8]) -> Option<Frame> {
    let [a, b, c, kind, flags, stream @ ..] = *bytes.first_chunk::<FRAME_HEAD>()?;
    Some(Frame {
        length: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
        kind,
        flags,
        stream,
    })
}

/// A client's connection whose long paths are moved.
pub(in crate::pipeline) struct Http2Heads<S> {
    stream: S,
    walker: Walker,
    /// What came and cannot pass yet.
    input: BytesMut,
    /// What may pass.
    output: Bytes,
    /// Nothing is read behind that.
    ended: bool,
    permit: Option<ReadPermit>,
    heads: PodHeads,
    /// Holds a stranger's further requests back.
    gate: Option<Gate>,
}

/// What is to be done with headers that go on in other frames.
enum Block {
    /// They have not come whole.
    Open,
    /// They pass as they are: so many bytes.
    Pass(usize),
    /// So many bytes are replaced by these.
    Replace(usize, Vec<u8>),
    /// They break the protocol or are larger than h2 takes, which is h2's to refuse. Nothing behind them is read.
    Refused,
}

impl<S> Http2Heads<S> {
    pub(in crate::pipeline) fn new(stream: S, heads: PodHeads, gate: Option<Gate>) -> Http2Heads<S> {
        Http2Heads {
            stream,
            walker: Walker {
                left: PREFACE,
                names: Names::new(),
            },
            input: BytesMut::new(),
            output: Bytes::new(),
            ended: false,
            permit: None,
            heads,
            gate,
        }
    }

    /// Whether what comes next has to wait at the gate.
    fn is_held(&self) -> bool {
        frame(&self.input).is_some_and(|frame| frame.is_held(&self.gate))
    }

    /// Passes what has come, and then the connection's end.
    fn end(&mut self) {
        self.output = std::mem::take(&mut self.input).freeze();
        self.ended = true;
    }

    /// Moves what may pass to the output. Whether there is any.
    fn advance(&mut self) -> bool {
        let passed = self.walker.pass(&self.input, &mut self.gate);
        if passed > 0 {
            self.output = self.input.split_to(passed).freeze();
            return true;
        }
        let Some(next) = frame(&self.input).filter(|next| !next.is_held(&self.gate)) else {
            return false;
        };
        match block(&self.input, &mut self.walker.names) {
            Block::Open => return false,
            Block::Pass(length) => self.output = self.input.split_to(length).freeze(),
            Block::Refused => self.end(),
            Block::Replace(length, bytes) => {
                self.input.advance(length);
                self.output = bytes.into();
            }
        }
        next.passed(&mut self.gate);
        self.permit = None;
        true
    }
}

/// Reads headers and their continuations. The names are those behind them then.
fn block(bytes: &[u8], names: &mut Names) -> Block {
    let Some(first) = frame(bytes) else {
        return Block::Open;
    };
    if first.kind != HEADERS {
        return Block::Refused;
    }
    let mut end = 0;
    loop {
        let Some(next) = frame(&bytes[end..]) else {
            return Block::Open;
        };
        if end > 0 && (next.kind != CONTINUATION || next.stream != first.stream) {
            return Block::Refused;
        }
        end += FRAME_HEAD + next.length;
        if next.length > FRAME || end > LIST_BYTES as usize {
            return Block::Refused;
        }
        if end > bytes.len() {
            return Block::Open;
        }
        if next.flags & END_HEADERS != 0 {
            break;
        }
    }
    let Some(block) = fragments(&first, &bytes[..end]) else {
        return Block::Refused;
    };
    let long = Destination {
        name: FIELD,
        path: &STAND_IN,
    };
    match names.follow(&block) {
        Some(paths) if paths.is_empty() => Block::Pass(end),
        Some(paths) => {
            let moved = move_paths(&block, &paths, &long, &FRAGMENTS);
            Block::Replace(end, frames(&first, &moved))
        }
        None => Block::Refused,
    }
}

/// The header block that whole frames carry.
fn fragments(first: &Frame, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut block = Vec::with_capacity(bytes.len());
    let mut begin = FRAME_HEAD + first.length;
    block.extend_from_slice(unpadded(first, &bytes[FRAME_HEAD..begin])?);
    while let Some(next) = frame(&bytes[begin..]) {
        let end = begin + FRAME_HEAD + next.length;
        block.extend_from_slice(bytes.get(begin + FRAME_HEAD..end)?);
        begin = end;
    }
    Some(block)
}

/// The fragment in the payload of HEADERS, without padding and priority. `None` where h2 does not read it: it is longer than its
/// frame, or its stream depends on itself.
fn unpadded<'a>(head: &Frame, payload: &'a [u8]) -> Option<&'a [u8]> {
    let (mut begin, mut end) = (0, payload.len());
    if head.flags & PADDED != 0 {
        begin += 1;
        end = end.checked_sub(usize::from(*payload.first()?))?;
    }
    if head.flags & PRIORITY != 0 {
        let stream = |bytes: [u8; 4]| u32::from_be_bytes(bytes) << 1;
        if stream(*payload.get(begin..)?.first_chunk()?) == stream(head.stream) {
            return None;
        }
        begin += 5;
    }
    payload.get(begin..end)
}

/// HEADERS and CONTINUATIONs with this block.
fn frames(first: &Frame, block: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(block.len() + FRAME_HEAD * (1 + block.len() / FRAME));
    let count = block.len().div_ceil(FRAME);
    for (index, chunk) in block.chunks(FRAME).enumerate() {
        let kind = if index == 0 { HEADERS } else { CONTINUATION };
        let mut flags = if index == 0 { first.flags & END_STREAM } else { 0 };
        if index + 1 == count {
            flags |= END_HEADERS;
        }
        out.extend_from_slice(&(chunk.len() as u32).to_be_bytes()[1..]);
        out.extend_from_slice(&[kind, flags]);
        out.extend_from_slice(&first.stream);
        out.extend_from_slice(chunk);
    }
    out
}

impl<S: AsyncRead + Unpin> AsyncRead for Http2Heads<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.output.is_empty() {
                let fits = this.output.len().min(buffer.remaining());
                buffer.put_slice(&this.output.split_to(fits));
                return Poll::Ready(Ok(()));
            }
            if this.ended {
                return Poll::Ready(Ok(()));
            }
            if this.input.is_empty() {
                let before = buffer.filled().len();
                ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
                let bytes = &buffer.filled()[before..];
                let (read, passed) = (bytes.len(), this.walker.pass(bytes, &mut this.gate));
                if passed < read {
                    this.input.extend_from_slice(&bytes[passed..]);
                    buffer.set_filled(before + passed);
                }
                if passed > 0 || read == 0 {
                    return Poll::Ready(Ok(()));
                }
            }
            if this.advance() {
                continue;
            }
            if this.is_held()
                && let Some(gate) = &mut this.gate
            {
                ready!(gate.poll(cx));
                continue;
            }
            if this.input.len() > SHORT_HEAD {
                ready!(
                    this.permit
                        .get_or_insert_with(|| ReadPermit::wait(&this.heads))
                        .poll(cx)
                )?;
            }
            this.input.reserve(FRAME);
            if ready!(poll_read_buf(Pin::new(&mut this.stream), cx, &mut this.input))? == 0 {
                // h2 says what it thinks of half a frame.
                this.end();
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Http2Heads<S> {
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
