//! Responses that go on: a watch's or a log's frames, until they end or are ended.
//!
//! In: the body that ends the request's record, and the session's place in the registry. Out: the same frames. The body is in a
//! [`Slot`], which is emptied to end the session. At that moment the API server's stream is reset and the record is written,
//! even while the client reads nothing. What the client gets next is the last word, or a reset where none fits.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Buf as _, Bytes};
use futures::task::AtomicWaker;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;

use super::ending::Ending;
use super::farewell::Farewell;
use super::kind::SessionKind;
use super::registry::Registered;
use super::running::{Stop, Traffic};
use crate::reject::{Rejection, UnfilterableError};

/// What a session's body does when it is ended.
pub trait Terminate {
    /// Writes the end down and closes what is behind it.
    fn terminate(self, ending: &Ending);
}

/// Where a session's body lies, within reach of whoever ends it.
pub struct Slot<B> {
    state: Mutex<State<B>>,
    client: AtomicWaker,
}

enum State<B> {
    /// The body is still to come.
    Empty,
    Running(B),
    /// Ended by Picket; the client has not learned of it.
    Ended(Arc<Ending>),
    Over,
}

impl<B> Slot<B> {
    /// For a body that is still to come.
    #[must_use]
    pub fn new() -> Arc<Slot<B>> {
        Arc::new(Slot {
            state: Mutex::new(State::Empty),
            client: AtomicWaker::new(),
        })
    }
}

impl<B> Slot<B> {
    /// Does something with the body, where it is there and has not ended.
    pub fn while_running<T>(&self, act: impl FnOnce(&mut B) -> T) -> Option<T> {
        match &mut *self.state.lock() {
            State::Running(body) => Some(act(body)),
            State::Empty | State::Ended(_) | State::Over => None,
        }
    }
}

impl<B: Terminate + Send> Stop for Slot<B> {
    fn stop(&self, ending: &Arc<Ending>) {
        let running = {
            let mut state = self.state.lock();
            if matches!(*state, State::Over) {
                return;
            }
            std::mem::replace(&mut *state, State::Ended(Arc::clone(ending)))
        };
        if let State::Running(body) = running {
            body.terminate(ending);
        }
        self.client.wake();
    }
}

/// Why a response breaks off: Picket ended the session and no last word fitted.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct BrokenOff {
    message: String,
    /// What an HTTP/2 client sees; hyper looks for it.
    source: h2::Error,
}

/// The end of a watch that cannot be filtered any further.
fn unfilterable(failure: &UnfilterableError) -> Ending {
    let rejection = Rejection::Unfilterable(failure.clone());
    Ending {
        cause: rejection.code(),
        status: rejection.status(None),
        since: Instant::now(),
    }
}

/// The frames of a session's response.
pub struct SessionBody<B> {
    slot: Arc<Slot<B>>,
    kind: SessionKind,
    farewell: Farewell,
    traffic: Arc<Traffic>,
    _registered: Option<Registered>,
}

impl<B: Terminate> SessionBody<B> {
    /// Puts the body into its slot (`registered` where it is a session's), or ends it at once where the session was ended meanwhile.
    pub fn new(
        slot: Arc<Slot<B>>,
        body: B,
        kind: SessionKind,
        farewell: Farewell,
        traffic: Arc<Traffic>,
        registered: impl Into<Option<Registered>>,
    ) -> SessionBody<B> {
        let mut state = slot.state.lock();
        let ended = match &*state {
            State::Ended(ending) => Some(Arc::clone(ending)),
            State::Empty | State::Running(_) | State::Over => None,
        };
        match ended {
            Some(ending) => {
                drop(state);
                body.terminate(&ending);
            }
            None => {
                *state = State::Running(body);
                drop(state);
            }
        }
        SessionBody {
            slot,
            kind,
            farewell,
            traffic,
            _registered: registered.into(),
        }
    }
}

impl<B> SessionBody<B> {
    fn passed(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.farewell.sent(data.chunk());
            self.traffic.sent(data.remaining());
        }
    }
}

impl<B> Body for SessionBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let session = self.get_mut();
        // Before the slot is looked at, so that an end that comes after is not missed.
        session.slot.client.register(cx.waker());
        let frame = {
            let mut state = session.slot.state.lock();
            match &mut *state {
                State::Running(body) => {
                    let polled = Pin::new(body).poll_frame(cx);
                    if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
                        *state = State::Over;
                    }
                    match polled {
                        Poll::Ready(Some(Ok(frame))) => Ok(frame),
                        // A watch ends at any time, and its client watches again from the last event. A reset is taken for
                        // more than that: client-go then lists everything anew. A log must not look complete.
                        Poll::Ready(Some(Err(error))) => {
                            let error = error.into();
                            let told = error.downcast_ref::<UnfilterableError>();
                            match told.and_then(|failure| session.farewell.last_word(&unfilterable(failure)))
                            {
                                // It would watch again from there, and meet the same event.
                                Some(word) => Ok(Frame::data(word)),
                                None if told.is_none() && session.kind == SessionKind::Watch => {
                                    return Poll::Ready(None);
                                }
                                None => return Poll::Ready(Some(Err(error))),
                            }
                        }
                        Poll::Ready(None) => return Poll::Ready(None),
                        Poll::Pending => return Poll::Pending,
                    }
                }
                State::Ended(ending) => {
                    let ending = Arc::clone(ending);
                    *state = State::Over;
                    match session.farewell.last_word(&ending) {
                        Some(word) => Ok(Frame::data(word)),
                        None => Err(ending),
                    }
                }
                State::Empty | State::Over => return Poll::Ready(None),
            }
        };
        Poll::Ready(Some(match frame {
            Ok(frame) => {
                session.passed(&frame);
                Ok(frame)
            }
            Err(ending) => Err(Box::new(BrokenOff {
                message: ending.message().to_owned(),
                source: h2::Reason::CANCEL.into(),
            })),
        }))
    }

    fn size_hint(&self) -> SizeHint {
        match &*self.slot.state.lock() {
            State::Running(body) => body.size_hint(),
            State::Empty | State::Ended(_) | State::Over => SizeHint::default(),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &*self.slot.state.lock() {
            State::Running(body) => body.is_end_stream(),
            State::Over => true,
            State::Empty | State::Ended(_) => false,
        }
    }
}

impl<B> Drop for SessionBody<B> {
    fn drop(&mut self) {
        // The registry may hold the slot a moment longer; the body ends now.
        let left = std::mem::replace(&mut *self.slot.state.lock(), State::Over);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;
    use std::time::Instant;

    use http::{HeaderMap, HeaderValue};
    use http_body_util::BodyExt as _;
    use tokio::sync::mpsc;

    use super::super::Registry;
    use super::super::registry::{SessionSelector, testing};
    use super::*;

    /// Frames that are sent to it, `broken` for an error; says when it is ended and when it goes.
    struct Fake {
        frames: mpsc::UnboundedReceiver<&'static str>,
        ended: mpsc::UnboundedSender<&'static str>,
    }

    impl Body for Fake {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            self.frames.poll_recv(cx).map(|frame| match frame? {
                "broken" => Some(Err("broken")),
                data => Some(Ok(Frame::data(Bytes::from(data)))),
            })
        }
    }

    impl Terminate for Fake {
        fn terminate(self, ending: &Ending) {
            let _gone = self.ended.send(ending.cause);
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            let _gone = self.ended.send("dropped");
        }
    }

    struct Running {
        registry: Registry,
        frames: mpsc::UnboundedSender<&'static str>,
        ended: mpsc::UnboundedReceiver<&'static str>,
        body: SessionBody<Fake>,
    }

    fn running(kind: SessionKind) -> Running {
        let registry = Registry::default();
        let slot = Slot::new();
        let traffic = Arc::new(Traffic::default());
        let registered = testing::register(&registry, kind, Arc::clone(&slot) as Arc<dyn Stop>, &traffic);
        let (sender, frames) = mpsc::unbounded_channel();
        let (ended, ends) = mpsc::unbounded_channel();
        let json = HeaderMap::from_iter([(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        )]);
        let farewell = Farewell::of_response(kind, &json);
        let body = SessionBody::new(slot, Fake { frames, ended }, kind, farewell, traffic, registered);
        Running {
            registry,
            frames: sender,
            ended: ends,
            body,
        }
    }

    async fn next(body: &mut SessionBody<Fake>) -> Option<Result<String, String>> {
        let frame = body.frame().await?;
        Some(
            frame
                .map(|frame| String::from_utf8(frame.into_data().expect("data").to_vec()).expect("text"))
                .map_err(|error| error.to_string()),
        )
    }

    #[tokio::test]
    async fn an_ended_watch_closes_upstream_at_once_and_tells_its_client() {
        let mut running = running(SessionKind::Watch);
        running.frames.send("{\"type\":\"ADDED\"}\n").expect("sends");
        assert_eq!(
            next(&mut running.body).await.expect("a frame").expect("data"),
            "{\"type\":\"ADDED\"}\n"
        );
        assert_eq!(
            running.registry.list(&SessionSelector::default())[0].to_client,
            17
        );
        // Nobody asks for a frame: the body goes all the same.
        assert_eq!(
            running.registry.kill(&SessionSelector::default(), "enough").len(),
            1
        );
        assert_eq!(running.ended.try_recv(), Ok("session_killed"));
        assert_eq!(running.ended.try_recv(), Ok("dropped"));
        assert_eq!(running.registry.count(), 0);
        let last = next(&mut running.body).await.expect("a frame").expect("data");
        assert!(
            last.starts_with("{\"type\":\"ERROR\"") && last.contains("enough"),
            "{last}"
        );
        assert!(next(&mut running.body).await.is_none());
    }

    #[tokio::test]
    async fn what_waits_for_a_frame_is_woken_by_the_end() {
        let mut running = running(SessionKind::Watch);
        let registry = running.registry.clone();
        let told = tokio::spawn(async move { next(&mut running.body).await });
        tokio::task::yield_now().await;
        registry.kill(&SessionSelector::default(), "enough");
        let told = tokio::time::timeout(std::time::Duration::from_secs(5), told).await;
        assert!(
            told.expect("in time")
                .expect("no panic")
                .expect("a frame")
                .is_ok()
        );
    }

    #[tokio::test]
    async fn a_log_and_half_an_event_break_off() {
        for (kind, before) in [(SessionKind::Logs, "line\n"), (SessionKind::Watch, "{\"type\":")] {
            let mut running = running(kind);
            running.frames.send(before).expect("sends");
            next(&mut running.body).await.expect("a frame").expect("data");
            // What comes after the end is not passed on.
            running.frames.send("secret").expect("sends");
            running.registry.kill(&SessionSelector::default(), "enough");
            let error = next(&mut running.body)
                .await
                .expect("a frame")
                .expect_err("breaks off");
            assert!(error.contains("enough"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_watch_whose_api_server_is_gone_ends_in_order_and_a_log_does_not() {
        for (kind, before) in [
            (SessionKind::Watch, "{\"type\":\"ADDED\"}\n"),
            (SessionKind::Watch, "{\"type\":"),
            (SessionKind::Logs, "line\n"),
        ] {
            let mut running = running(kind);
            for frame in [before, "broken"] {
                running.frames.send(frame).expect("sends");
            }
            next(&mut running.body).await.expect("a frame").expect("data");
            let end = next(&mut running.body).await;
            match kind {
                SessionKind::Watch => assert!(end.is_none(), "{end:?}"),
                _ => assert!(matches!(end, Some(Err(_))), "{end:?}"),
            }
            assert!(next(&mut running.body).await.is_none());
        }
    }

    #[tokio::test]
    async fn an_end_before_the_first_byte_holds() {
        let registry = Registry::default();
        let slot = Slot::new();
        let traffic = Arc::new(Traffic::default());
        let registered = testing::register(
            &registry,
            SessionKind::Logs,
            Arc::clone(&slot) as Arc<dyn Stop>,
            &traffic,
        );
        registry.kill(&SessionSelector::default(), "early");
        let (_sender, frames) = mpsc::unbounded_channel();
        let (ended, mut ends) = mpsc::unbounded_channel();
        let mut body = SessionBody::new(
            slot,
            Fake { frames, ended },
            SessionKind::Logs,
            Farewell::Silent,
            traffic,
            registered,
        );
        assert_eq!(ends.try_recv(), Ok("session_killed"));
        assert!(next(&mut body).await.expect("a frame").is_err());
    }

    #[tokio::test]
    async fn a_client_that_goes_takes_the_body_and_the_entry_with_it() {
        let mut running = running(SessionKind::Watch);
        let entry = running.registry.clone();
        // As whoever ends sessions holds it for a moment.
        let _slot = Arc::clone(&running.body.slot);
        drop(running.body);
        assert_eq!(running.ended.try_recv(), Ok("dropped"));
        assert_eq!(entry.count(), 0);
    }

    #[test]
    fn an_end_after_the_end_changes_nothing() {
        let mut running = running(SessionKind::Watch);
        drop(running.frames);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(matches!(
            Pin::new(&mut running.body).poll_frame(&mut cx),
            Poll::Ready(None)
        ));
        running.body.slot.stop(&Arc::new(testing::ending(Instant::now())));
        assert!(running.body.is_end_stream());
    }
}
