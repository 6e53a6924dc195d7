//! Heads that are longer than hyper takes, of up to the API server's 1 MB.
//!
//! In: what a client sends. Out: requests with their whole heads, or with the reason why a head is refused. The stages answer
//! that with a `Status` and a record; hyper would close the connection.
//!
//! hyper's buffers, its 100 fields and a URI's 65,534 bytes do for nearly all heads, and a connection costs no more than that
//! at rest. A longer head is read here: [`http1`] reads it whole and gives hyper a short one in its place; [`http2`] moves a
//! long `:path` into a field of its own. What such heads take is bounded a pod and a node ([`HeadBudget`]).
//!
//! A target with a fragment (`#`) goes the same way, however short. It is none (RFC 9112 section 3.2), and `http::Uri` would
//! drop the fragment: `DELETE .../seed#x` would delete `seed`, where the API server looks for an object `seed#x`.

mod hpack;
pub(super) mod http1;
pub(super) mod http2;

use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::{Parts, PathAndQuery};
use http::{Request, Uri};
use picket_policy::LongTarget;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use crate::listener::PodShare;

/// Up to here a head is any connection's own affair.
const SHORT_HEAD: usize = 48 * 1024;

/// Long heads that a node reads at once: each is in memory up to three times (as it came, for hyper, and as a request).
const HEADS_READ: usize = 8;

/// Kilobytes of long heads of requests under way on a node. A session keeps its command for as long as it runs, to be judged
/// again. A pod has its part of both ([`PodShare`]).
const HEAD_KILOBYTES: usize = 32 * 1024;
const KILOBYTE: usize = 1024;

/// Likewise of all strangers at the gateway together, who have nothing of the node's: long commands and selectors are seldom the
/// first request of a connection.
const STRANGERS_HEADS_READ: usize = 4;
const STRANGERS_HEAD_KILOBYTES: usize = 4 * 1024;

/// How long a client may take over a long head once it is one, so that nobody keeps others from reading theirs.
const READING_LIMIT: Duration = Duration::from_secs(20);

/// What a record has of a target that was not read, in bytes. A client may make each of its bytes three in the record; this shows
/// any target that somebody meant, and keeps refusals small in the log.
const SHOWN_TARGET: usize = 8 * 1024;

/// What long heads may take, of all of a node's pods or of all strangers.
#[derive(Debug)]
pub(super) struct HeadBudget {
    read: Arc<Semaphore>,
    kilobytes: Arc<Semaphore>,
}

/// What the long heads of one connection may take.
#[derive(Debug, Clone)]
pub(super) struct PodHeads {
    budget: Arc<HeadBudget>,
    share: Arc<PodShare>,
    /// At the gateway: what counts instead once it is known who the client is.
    known: Option<Arc<OnceLock<PodHeads>>>,
}

/// The memory of a long head, until its request has ended.
pub(super) type HeldHead = [OwnedSemaphorePermit; 2];

impl HeadBudget {
    /// The node's.
    pub(super) fn new() -> Arc<HeadBudget> {
        Self::with(HEADS_READ, HEAD_KILOBYTES)
    }

    /// That of all strangers at the gateway.
    pub(super) fn of_strangers() -> Arc<HeadBudget> {
        Self::with(STRANGERS_HEADS_READ, STRANGERS_HEAD_KILOBYTES)
    }

    fn with(read: usize, kilobytes: usize) -> Arc<HeadBudget> {
        Arc::new(HeadBudget {
            read: Arc::new(Semaphore::new(read)),
            kilobytes: Arc::new(Semaphore::new(kilobytes)),
        })
    }

    /// For a connection of a pod with this share.
    pub(super) fn of_pod(self: &Arc<Self>, share: &Arc<PodShare>) -> PodHeads {
        PodHeads {
            budget: Arc::clone(self),
            share: Arc::clone(share),
            known: None,
        }
    }
}

impl PodHeads {
    /// The same, until `known` is set.
    pub(super) fn until(self, known: &Arc<OnceLock<PodHeads>>) -> PodHeads {
        PodHeads {
            known: Some(Arc::clone(known)),
            ..self
        }
    }

    fn current(&self) -> &PodHeads {
        self.known.as_ref().and_then(|known| known.get()).unwrap_or(self)
    }

    /// The memory of a head that was held from another share, where there is some left here.
    pub(super) fn hold_instead(&self, held: &HeldHead) -> Option<HeldHead> {
        self.hold(held[0].num_permits() * KILOBYTE)
    }

    /// The memory of a head of so many bytes, where there is some left.
    pub(super) fn hold(&self, bytes: usize) -> Option<HeldHead> {
        let kilobytes = u32::try_from(bytes.div_ceil(KILOBYTE)).ok()?;
        let take = |from: &Arc<Semaphore>| Arc::clone(from).try_acquire_many_owned(kilobytes).ok();
        let heads = self.current();
        Some([take(&heads.share.head_kilobytes)?, take(&heads.budget.kilobytes)?])
    }
}

type Acquiring = Pin<Box<dyn Future<Output = Option<[OwnedSemaphorePermit; 2]>> + Send + Sync>>;

/// The right to read a long head, and how long that may go on.
enum ReadPermit {
    Waiting(Acquiring),
    Reading {
        _permits: [OwnedSemaphorePermit; 2],
        limit: Pin<Box<Sleep>>,
    },
}

impl ReadPermit {
    fn wait(heads: &PodHeads) -> ReadPermit {
        let heads = heads.current();
        // The pod's own first: whoever waits for that one keeps nobody else.
        let (pod, node) = (
            Arc::clone(&heads.share.heads_read),
            Arc::clone(&heads.budget.read),
        );
        ReadPermit::Waiting(Box::pin(async move {
            let pod = pod.acquire_owned().await.ok()?;
            Some([pod, node.acquire_owned().await.ok()?])
        }))
    }

    /// Ready once the head may be read on; an error where that has gone on for too long.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if let ReadPermit::Waiting(acquiring) = self {
            let Some(permits) = std::task::ready!(acquiring.as_mut().poll(cx)) else {
                return Poll::Ready(Err(std::io::Error::other("the agent ends")));
            };
            *self = ReadPermit::Reading {
                _permits: permits,
                limit: Box::pin(tokio::time::sleep(READING_LIMIT)),
            };
        }
        if let ReadPermit::Reading { limit, .. } = self
            && limit.as_mut().poll(cx).is_ready()
        {
            let text = "a long head took too long to come";
            return Poll::Ready(Err(std::io::Error::new(std::io::ErrorKind::TimedOut, text)));
        }
        Poll::Ready(Ok(()))
    }
}

/// Path and query as the client sent them.
pub(super) fn target<B>(request: &Request<B>) -> &str {
    match request.extensions().get::<LongTarget>() {
        Some(target) => target.as_str(),
        None => request.uri().path_and_query().map_or("/", PathAndQuery::as_str),
    }
}

/// A target for the record, as it was sent: bytes that a URI does not hold are written as `%` and two digits. One that is no path
/// gets a `/` before it.
fn shown(target: &[u8]) -> String {
    let mut text = String::new();
    if !target.starts_with(b"/") {
        text.push('/');
    }
    for byte in target {
        if text.len() + 3 > SHOWN_TARGET {
            break;
        }
        match byte {
            // `http::Uri` takes these in a path and in a query (`scan_path_and_query`).
            b'!' | b'$'..=b';' | b'=' | b'?'..=b'_' | b'a'..=b'~' => {
                text.push(char::from(*byte));
            }
            _ => {
                let _infallible = write!(text, "%{byte:02X}");
            }
        }
    }
    text
}

/// Puts a target into a request; `None` where it is none. The request has it as the record shows it then.
fn set_target<B>(request: &mut Request<B>, target: &[u8]) -> Option<()> {
    let set = try_target(request, target);
    if set.is_none() {
        *request.uri_mut() = Uri::try_from(shown(target)).unwrap_or_default();
    }
    set
}

fn try_target<B>(request: &mut Request<B>, target: &[u8]) -> Option<()> {
    if memchr::memchr(b'#', target).is_some() {
        return None;
    }
    if target.len() <= LongTarget::LONGEST_URI {
        let path = Uri::try_from(target).ok()?;
        if path.authority().is_none() && request.uri().authority().is_some() {
            let mut parts: Parts = request.uri().clone().into_parts();
            parts.path_and_query = path.into_parts().path_and_query;
            *request.uri_mut() = Uri::from_parts(parts).ok()?;
        } else {
            *request.uri_mut() = path;
        }
        return Some(());
    }
    request.extensions_mut().insert(LongTarget::new(target)?);
    let mut parts: Parts = request.uri().clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(parts).ok()?;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_holds_much_leaves_the_others_their_share() {
        let budget = HeadBudget::new();
        let [one, other] = [(); 2].map(|()| Arc::new(PodShare::default()));
        let greedy = budget.of_pod(&one);
        let held: Vec<_> = (0..HEAD_KILOBYTES).map_while(|_| greedy.hold(KILOBYTE)).collect();
        assert_eq!(held.len(), HEAD_KILOBYTES / 4);
        // Another connection of the same pod has no share of its own.
        assert!(greedy.hold(1).is_none() && budget.of_pod(&one).hold(1).is_none());
        assert!(budget.of_pod(&other).hold(1 << 20).is_some());
        drop(held);
        assert!(greedy.hold(1 << 20).is_some());
    }

    #[test]
    fn the_pods_together_hold_what_a_node_may_and_no_more() {
        let budget = HeadBudget::new();
        let hold_all = || {
            let heads = budget.of_pod(&Arc::default());
            let held: Vec<_> = std::iter::from_fn(|| heads.hold(1 << 20)).collect();
            held
        };
        let held = [(); 5].map(|()| hold_all());
        assert_eq!(held.each_ref().map(Vec::len), [8, 8, 8, 8, 0]);
        drop(held);
        assert_eq!(hold_all().len(), 8);
    }

    /// Whether it may read now.
    async fn reads(permit: &mut ReadPermit) -> bool {
        let polled = std::future::poll_fn(|cx| Poll::Ready(permit.poll(cx))).await;
        matches!(polled, Poll::Ready(Ok(())))
    }

    #[tokio::test]
    async fn a_pod_reads_two_long_heads_at_once_and_a_node_eight() {
        let budget = HeadBudget::new();
        let mut reading = Vec::new();
        for _ in 0..4 {
            let heads = budget.of_pod(&Arc::default());
            let mut turns = [(); 3].map(|()| ReadPermit::wait(&heads));
            let mut read = Vec::new();
            for turn in &mut turns {
                read.push(reads(turn).await);
            }
            assert_eq!(read, [true, true, false], "{} before", reading.len());
            reading.push(turns);
        }
        let mut ninth = ReadPermit::wait(&budget.of_pod(&Arc::default()));
        assert!(!reads(&mut ninth).await);
        reading.pop();
        assert!(reads(&mut ninth).await);
        let [first, _second, mut third] = reading.swap_remove(0);
        drop(first);
        assert!(reads(&mut third).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_head_that_does_not_come_keeps_its_place_for_so_long_only() {
        let mut turn = ReadPermit::wait(&HeadBudget::new().of_pod(&Arc::default()));
        assert!(reads(&mut turn).await);
        tokio::time::sleep(READING_LIMIT - Duration::from_millis(10)).await;
        assert!(reads(&mut turn).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let error = std::future::poll_fn(|cx| turn.poll(cx))
            .await
            .expect_err("too late");
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_target_of_any_length_is_put_where_it_is_found() {
        for length in [10, LongTarget::LONGEST_URI, LongTarget::LONGEST_URI + 1, 900_000] {
            let path = format!("/{}", "a".repeat(length - 1));
            let mut request = Request::builder()
                .uri("https://kubernetes/x")
                .body(())
                .expect("a request");
            set_target(&mut request, path.as_bytes()).expect("set");
            assert_eq!(target(&request), path);
            assert_eq!(request.uri().host(), Some("kubernetes"));
        }
        let mut request = Request::new(());
        let long = format!("https://x/{}", "a".repeat(70_000));
        assert_eq!(set_target(&mut request, long.as_bytes()), None);
    }

    #[test]
    fn a_refused_target_is_shown_as_it_was_sent() {
        for (sent, text) in [
            (&b"/a<#x"[..], "/a%3C%23x"),
            (b"/a b#", "/a%20b%23"),
            (b"/a?b=\"`\x7f\xff%2f\\#", "/a?b=%22%60%7F%FF%2f\\%23"),
            (b"*#", "/*%23"),
            (b"", "/"),
        ] {
            let mut request = Request::new(());
            assert_eq!(set_target(&mut request, sent), None);
            assert_eq!(target(&request), text);
        }
        let every: Vec<u8> = (0..=255).collect();
        for begin in ["/", "/?"] {
            let text = shown(&[begin.as_bytes(), &every].concat());
            assert!(text.is_ascii() && text.parse::<Uri>().is_ok_and(|uri| uri.to_string() == text));
        }
        for byte in [b'a', b'#', 0xff] {
            let text = shown(&vec![byte; 1 << 20]);
            assert!(
                text.len() <= SHOWN_TARGET && text.len() > SHOWN_TARGET - 4 && text.parse::<Uri>().is_ok()
            );
        }
    }
}
