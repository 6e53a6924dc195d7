//! Lists and watches of Kubernetes' own kinds in protobuf, as kube-proxy asks for them.
//!
//! In: the requests of a client, and the bodies of its answers. Out: requests that ask for protobuf where the kind has it, and answers in the
//! JSON that kube reads; whatever is no protobuf is passed on as it is.
//!
//! Whoever may write a Service writes its `managedFields`, and nests them as deep as Go's encoding/json goes. The API server cannot send
//! such an object as JSON: watches end at it without an error, and a list is cut in the middle. An agent that asks in JSON would hear of no
//! Service any more, while the node's kube-proxy goes on. In protobuf these fields are bytes that nobody looks into.

use std::error::Error;

use bytes::{Buf as _, Bytes, BytesMut};
use futures::{TryStreamExt as _, stream};
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Request, Response};
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use kube::client::ClientBuilder;
use kube::{Client, Config};
use picket_controller::ended_watch::EndedWatchLayer;
use picket_controller::utf8;
use picket_policy::body::answers::{self, AnswerError, MAX_FRAME, MAX_LIST};
use tower::BoxError;
use tower::util::{MapRequestLayer, MapResponseLayer};

/// The lists that are asked for so: the path of their group's version, and their resource. Each is of a kind that [`answers`] reads.
const LISTS: [(&str, &str); 5] = [
    ("/api/v1/", "namespaces"),
    ("/api/v1/", "nodes"),
    ("/api/v1/", "pods"),
    ("/api/v1/", "services"),
    ("/apis/discovery.k8s.io/v1/", "endpointslices"),
];

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// What client-go sends for a list and for a watch. A server that has no protobuf answers in JSON.
const ACCEPTED: HeaderValue =
    HeaderValue::from_static("application/vnd.kubernetes.protobuf,application/json");

/// Bytes before each frame of a watch, which are its length (apimachinery, pkg/util/framer).
const PREFIX: usize = 4;

/// Why an answer in protobuf cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnreadableAnswer {
    /// It makes no sense.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// A frame is too long.
    #[error("the API server's watch has an event of {0} bytes, and Picket reads up to {MAX_FRAME}")]
    LongEvent(usize),
    /// A list is too long.
    #[error("the API server's list has more than {MAX_LIST} bytes, which Picket does not read")]
    LongList,
    /// A watch ends within a frame.
    #[error("the API server's watch ends in the middle of an event")]
    Cut,
}

/// A client that asks so.
///
/// # Errors
/// As of [`Client::try_from`].
pub(super) fn client(config: Config) -> Result<Client, kube::Error> {
    let builder = ClientBuilder::try_from(config)?
        .with_layer(&MapRequestLayer::new(ask::<kube::client::Body>))
        .with_layer(&MapResponseLayer::new(answer))
        // Behind the answer: bytes of protobuf are no text.
        .with_layer(&MapResponseLayer::new(utf8::response))
        // Of an API server that has no protobuf, and of kinds that are not asked for so.
        .with_layer(&EndedWatchLayer);
    Ok(builder.build())
}

/// Whether an error comes from an answer in protobuf that cannot be read.
pub(crate) fn is_unreadable(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if cause.is::<UnreadableAnswer>() {
            return true;
        }
        next = cause.source();
    }
    false
}

/// Asks for protobuf where the request is for a list or a watch whose kind has it.
fn ask<B>(mut request: Request<B>) -> Request<B> {
    // Metadata alone, or a table, is another kind.
    let is_plain = |accepted: &HeaderValue| accepted.to_str().is_ok_and(|types| !types.contains("as="));
    if request.method() == Method::GET
        && is_list(request.uri().path())
        && request.headers().get_all(ACCEPT).iter().all(is_plain)
    {
        request.headers_mut().insert(ACCEPT, ACCEPTED);
    }
    request
}

/// Whether a path is that of such a list, in one namespace or in all.
fn is_list(path: &str) -> bool {
    LISTS.iter().any(|(version, resource)| {
        let Some(rest) = path.strip_prefix(version) else {
            return false;
        };
        let in_namespace = rest
            .strip_prefix("namespaces/")
            .and_then(|rest| rest.split_once('/'));
        rest == *resource || in_namespace.is_some_and(|(_, rest)| rest == *resource)
    })
}

/// The answer in JSON.
fn answer<B>(response: Response<B>) -> Response<UnsyncBoxBody<Bytes, BoxError>>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let Some(form) = Form::of(response.headers()) else {
        return response.map(|body| body.map_err(Into::into).boxed_unsync());
    };
    let (mut head, body) = response.into_parts();
    head.headers.remove(CONTENT_LENGTH);
    head.headers
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let body = match form {
        Form::List => StreamBody::new(stream::once(list(body)).map_ok(Frame::data)).boxed_unsync(),
        Form::Watch => {
            let lines = stream::try_unfold(Frames::of(body), async |mut frames| {
                let line = frames.line().await?;
                Ok::<_, BoxError>(line.map(|line| (line, frames)))
            });
            StreamBody::new(lines.map_ok(Frame::data)).boxed_unsync()
        }
    };
    Response::from_parts(head, body)
}

/// How an answer in protobuf comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A list, or a Status in its place.
    List,
    /// Events in frames.
    Watch,
}

impl Form {
    /// None where the answer is no protobuf.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let mut parts = headers
            .get(CONTENT_TYPE)?
            .to_str()
            .ok()?
            .split(';')
            .map(str::trim);
        if !parts.next()?.eq_ignore_ascii_case(PROTOBUF) {
            return None;
        }
        let is_watch = parts.any(|parameter| parameter.eq_ignore_ascii_case("stream=watch"));
        Some(if is_watch { Self::Watch } else { Self::List })
    }
}

async fn list<B>(mut body: B) -> Result<Bytes, BoxError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(Into::into)?.into_data() {
            if bytes.len() + data.len() > MAX_LIST {
                return Err(UnreadableAnswer::LongList.into());
            }
            bytes.extend_from_slice(&data);
        }
    }
    let read = answers::list(&bytes).map_err(UnreadableAnswer::from)?;
    Ok(read.into())
}

/// The frames of a watch, as they come.
struct Frames<B> {
    body: B,
    /// What came of the next ones.
    begun: BytesMut,
}

impl<B> Frames<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    fn of(body: B) -> Self {
        let begun = BytesMut::new();
        Self { body, begun }
    }

    /// The next event, as a line. None at the end.
    async fn line(&mut self) -> Result<Option<Bytes>, BoxError> {
        loop {
            if let Some(frame) = self.frame()? {
                let mut line = answers::watch_event(&frame).map_err(UnreadableAnswer::from)?;
                line.push(b'\n');
                return Ok(Some(line.into()));
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame.map_err(Into::into)?.into_data() {
                        self.begun.extend_from_slice(&data);
                    }
                }
                None if self.begun.is_empty() => return Ok(None),
                None => return Err(UnreadableAnswer::Cut.into()),
            }
        }
    }

    /// A frame that came whole.
    fn frame(&mut self) -> Result<Option<BytesMut>, UnreadableAnswer> {
        let Some(prefix) = self.begun.first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
        if length > MAX_FRAME {
            return Err(UnreadableAnswer::LongEvent(length));
        }
        if self.begun.len() < PREFIX + length {
            return Ok(None);
        }
        self.begun.advance(PREFIX);
        let frame = self.begun.split_to(length);
        if self.begun.is_empty() {
            // A long frame's memory goes with the frame.
            self.begun = BytesMut::new();
        }
        Ok(Some(frame))
    }
}

#[cfg(test)]
#[path = "protobuf_tests.rs"]
mod tests;
