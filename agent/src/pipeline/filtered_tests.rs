//! What a filtered body gives, how it ends, and what of the pod's memory it holds.

use std::collections::VecDeque;

use http::HeaderMap;
use jiff::Timestamp;
use picket_policy::{CanonicalRequest, Inputs, PolicySet, Recheck};

use super::*;

const OBJECTS: &str = "
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: fixer}
spec: {owner: o, attest: {pod: {namespace: ns, serviceAccount: fixer}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: g}
spec:
  to: {identities: [fixer]}
  upstream: {impersonate: {user: u}}
  rules: [{verbs: [list], apiGroups: [''], resources: [pods]}]
---
apiVersion: picket.dev/v1alpha1
kind: AgentPolicy
metadata: {name: guard}
spec:
  rules: [{name: not-pay, action: Filter, match: {resources: [pods], namespaces: [pay]}}]
";

/// The filter of a list of all pods.
fn not_pay() -> Arc<ItemFilter> {
    let documents = picket_policy::read_documents("f.yaml", OBJECTS).expect("valid");
    let policies = PolicySet::compile(documents).expect("a policy set");
    let request = http::Request::get("/api/v1/pods").body(()).expect("a request");
    let request = CanonicalRequest::read(request.into_parts().0).expect("canonical");
    let principal = crate::identity::testing::principal("fixer", "ns", "p");
    match policies.recheck(&principal, request.kube(), Inputs::at(Timestamp::now())) {
        Recheck::Permit {
            filter: Some(filter), ..
        } => filter,
        other => panic!("{other:?}"),
    }
}

fn filtering(share: &Arc<PodShare>) -> ItemFiltering {
    ItemFiltering {
        filter: Filter::list(Encoding::Json),
        hidden: not_pay(),
        namespaces: None,
        tally: Arc::default(),
        share: Arc::clone(share),
        room: None,
        begun: Vec::new(),
        over: false,
    }
}

/// These frames, and no more.
struct Frames(VecDeque<Result<Frame<Bytes>, BoxError>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.0.pop_front())
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(1000)
    }
}

fn data(text: &str) -> Result<Frame<Bytes>, BoxError> {
    Ok(Frame::data(Bytes::copy_from_slice(text.as_bytes())))
}

fn shown(frames: impl IntoIterator<Item = Result<Frame<Bytes>, BoxError>>) -> ShownBody<Frames> {
    let filtering = Box::new(filtering(&Arc::default()));
    ShownBody::new(Frames(frames.into_iter().collect()), Some(filtering))
}

const WHOLE: &str = r#"{"kind":"PodList","items":[{"metadata":{"name":"a","namespace":"shop"}}]}"#;

/// An item of which this many bytes have come.
fn begun_item(length: usize) -> String {
    format!(
        r#"{{"items":[{{"metadata":{{"name":"a","namespace":"shop"}},"data":"{}"#,
        "x".repeat(length)
    )
}

#[tokio::test]
async fn a_body_is_over_where_its_end_was_found_in_order() {
    let mut body = shown([data(WHOLE)]);
    assert_eq!(body.size_hint().upper(), None, "it gets shorter");
    let first = body.frame().await.expect("a frame").expect("data");
    assert_eq!(first.into_data().expect("data"), WHOLE);
    assert!(!body.is_end_stream(), "its end was not looked at yet");
    assert!(body.frame().await.is_none());
    assert!(body.is_end_stream());
}

/// What a client gets: data, and how often it is told of an error.
async fn got(mut body: ShownBody<Frames>) -> (Vec<u8>, usize) {
    let (mut data, mut errors) = (Vec::new(), 0);
    while errors < 3
        && let Some(frame) = body.frame().await
    {
        match frame.map(Frame::into_data) {
            Ok(piece) => data.extend_from_slice(&piece.expect("no trailers")),
            Err(_) => errors += 1,
        }
    }
    (data, errors)
}

#[tokio::test]
async fn a_body_that_breaks_off_or_ends_too_early_does_not_look_whole() {
    for end in [40, WHOLE.len()] {
        let broken: BoxError = "the connection broke".into();
        let (_, errors) = got(shown([data(&WHOLE[..end]), Err(broken)])).await;
        assert_eq!(errors, 1, "at {end}");
    }
    let (part, errors) = got(shown([data(&WHOLE[..40])])).await;
    assert_eq!(errors, 1);
    assert!(!String::from_utf8_lossy(&part).contains("metadata"));
}

#[tokio::test]
async fn trailers_do_not_come_before_the_end_was_found_in_order() {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-count", 2.into());
    let (_, errors) = got(shown([data(&WHOLE[..40]), Ok(Frame::trailers(trailers))])).await;
    assert_eq!(errors, 1);
}

#[tokio::test]
async fn nothing_follows_what_cannot_be_read() {
    let body = shown([data("{]"), data(WHOLE)]);
    let ShownBody::Filtered(filtered) = &body else {
        panic!("it is filtered")
    };
    let tally = filtered.filtering.tally();
    assert_eq!(got(body).await, (Vec::new(), 1));
    assert_eq!(tally.failure().expect("why").code(), "unfilterable");
}

#[test]
fn an_item_holds_what_has_come_of_it_and_nothing_once_it_has_gone() {
    let share = Arc::<PodShare>::default();
    let all = 64 << 20;
    let free = |bytes: u64| share.filtered(bytes - 1024).is_some();
    let mut filtering = filtering(&share);
    filtering.show(begun_item(8 * 1024).as_bytes()).expect("room");
    assert!(free(all), "a small item takes none");
    let more = "x".repeat(64 * 1024);
    filtering.show(more.as_bytes()).expect("room");
    assert!(free(all - (512 << 10)) && !free(all - (64 << 10)));
    filtering.show(more.repeat(16).as_bytes()).expect("room");
    assert!(!free(all - (1 << 20)), "what came later counts too");
    filtering.show(br#""}"#).expect("room");
    assert!(free(all), "the item has gone");
}

#[test]
fn an_item_that_grows_counts_once() {
    let share = Arc::<PodShare>::default();
    // As much as is held in the end, and less than that and what was held before it.
    let taken = share.filtered((64 << 20) - (1300 << 10)).expect("all but a part");
    let mut filtering = filtering(&share);
    filtering.show(begun_item(500 * 1024).as_bytes()).expect("room");
    filtering.show("x".repeat(500 * 1024).as_bytes()).expect("room");
    let busy = filtering.show("x".repeat(500 * 1024).as_bytes());
    assert_eq!(busy, Err(UnfilterableError::Busy));
    let _failed = filtering.fail(UnfilterableError::Busy);
    drop(taken);
    assert!(share.filtered((64 << 20) - 1024).is_some(), "it holds nothing");
}
