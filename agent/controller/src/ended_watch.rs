//! Watches that end before their first event, which are made to fail.
//!
//! In: the requests of a client, and the bodies of its answers. Out: the same, but for a watch that ends at once: its last line says so, and
//! whoever watches lists anew.
//!
//! The API server ends a watch where it cannot write an event as JSON: an object of which somebody wrote `metadata.managedFields` with 10,000
//! levels, the most that Go's encoding/json takes. Nothing tells the client, which asks for the same event again, for as long as the
//! server remembers it. A list goes past the event.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::TryFutureExt as _;
use futures::future::MapOk;
use hyper::body::{Body, Bytes, Frame};
use hyper::{Request, Response};
use serde_json::json;
use tokio::time::Instant;
use tower::{Layer, Service};

/// A watch begins with the events that came since its version, if there are any. So early nothing but the server's own end ends it.
const EARLY: Duration = Duration::from_secs(3);

/// Makes clients whose watches tell that they ended.
#[derive(Debug, Clone, Copy)]
pub struct EndedWatchLayer;

impl<S> Layer<S> for EndedWatchLayer {
    type Service = EndedWatch<S>;

    fn layer(&self, inner: S) -> EndedWatch<S> {
        EndedWatch(inner)
    }
}

/// A client whose watches tell that they ended.
#[derive(Debug, Clone)]
pub struct EndedWatch<S>(S);

type Told<F, B> = MapOk<F, Box<dyn FnOnce(Response<B>) -> Response<WatchBody<B>> + Send>>;

impl<S, R, B> Service<Request<R>> for EndedWatch<S>
where
    S: Service<Request<R>, Response = Response<B>>,
    S::Future: Send,
    B: Body<Data = Bytes> + 'static,
    B::Error: std::fmt::Display,
{
    type Response = Response<WatchBody<B>>;
    type Error = S::Error;
    type Future = Told<S::Future, B>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        let query = request.uri().query().unwrap_or_default();
        let is_watch = query
            .split('&')
            .any(|pair| matches!(pair, "watch=true" | "watch=1"));
        self.0.call(request).map_ok(Box::new(move |response| {
            let until = (is_watch && response.status().is_success()).then(|| Instant::now() + EARLY);
            response.map(|body| WatchBody {
                body: Box::pin(body),
                until,
            })
        }))
    }
}

/// A body; of a watch, with a last line where it ends early.
#[derive(Debug)]
pub struct WatchBody<B> {
    body: Pin<Box<B>>,
    /// Until when an end is told; none once an event came.
    until: Option<Instant>,
}

impl<B> Body for WatchBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = ready!(self.body.as_mut().poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && frame.data_ref().is_some_and(|data| data.contains(&b'\n'))
        {
            self.until = None;
        }
        let cause = match &frame {
            Some(Ok(_)) => return Poll::Ready(frame),
            Some(Err(error)) => format!(": {error}"),
            None => String::new(),
        };
        match self.until.take() {
            Some(until) if Instant::now() < until => Poll::Ready(Some(Ok(Frame::data(told(&cause))))),
            _ => Poll::Ready(frame),
        }
    }
}

/// A line that is no event, which [`is_unread`](crate::lenient::is_unread) knows by its lack of a code.
fn told(cause: &str) -> Bytes {
    let message = format!(
        "the API server ended the watch before its first event, as where it cannot write an object as JSON{cause}"
    );
    // Where the server broke off, its line ends here.
    format!("\n{}\n", json!({"kind": "Status", "message": message})).into()
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt as _, stream};
    use http_body_util::{BodyExt as _, StreamBody};
    use tower::ServiceExt as _;

    use super::*;

    /// What a client reads of a body of these frames, each of which comes after a pause.
    async fn read(path: &str, status: u16, frames: &[(u64, Result<&'static str, &'static str>)]) -> String {
        let frames = frames.to_vec();
        let client = EndedWatchLayer.layer(tower::service_fn(move |_: Request<()>| {
            let frames = stream::iter(frames.clone()).then(async |(pause, frame)| {
                tokio::time::sleep(Duration::from_secs(pause)).await;
                frame.map(|text| Frame::data(Bytes::from_static(text.as_bytes())))
            });
            let response = Response::builder().status(status);
            async move { response.body(StreamBody::new(frames)) }
        }));
        let request = Request::get(path).body(()).unwrap();
        let mut body = client.oneshot(request).await.unwrap().into_body();
        let mut read = String::new();
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => read.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap()),
                Err(error) => read.push_str(&format!("[{error}]")),
            }
        }
        read
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_ends_at_once_says_so() {
        const WATCH: &str = "/api/v1/pods?labelSelector=a&watch=true";
        for frames in [&[][..], &[(1, Ok("{\"type\":"))], &[(1, Err("reset"))]] {
            let read = read(WATCH, 200, frames).await;
            let (before, line) = read.trim_end().rsplit_once('\n').unwrap();
            assert!(matches!(before, "" | "{\"type\":"), "{read}");
            let status: kube::core::Status = serde_json::from_str(line).unwrap();
            assert_eq!(status.code, 0);
            let cause = status.message.ends_with(": reset");
            assert_eq!(cause, matches!(frames, [(_, Err(_))]), "{line}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_other_end_is_as_it_was() {
        const WATCH: &str = "/api/v1/pods?watch=true";
        for (path, status, frames, expected) in [
            (WATCH, 200, &[(0, Ok("{}\n"))][..], "{}\n"),
            (WATCH, 200, &[(0, Ok("{}\n")), (1, Err("reset"))], "{}\n[reset]"),
            (WATCH, 200, &[(4, Ok(""))], ""),
            (WATCH, 200, &[(4, Err("reset"))], "[reset]"),
            (WATCH, 403, &[(0, Ok("{"))], "{"),
            ("/api/v1/pods?limit=50", 200, &[(0, Ok("{"))], "{"),
            ("/api/v1/pods", 200, &[], ""),
        ] {
            assert_eq!(read(path, status, frames).await, expected, "{path} {frames:?}");
        }
    }
}
