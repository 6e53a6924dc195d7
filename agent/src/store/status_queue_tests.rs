//! When conditions are written, at a clock that stands still until it is moved.

use picket_policy::api::v1alpha1::ConditionStatus;

use super::*;

fn ready(status: ConditionStatus, generation: i64, message: &str) -> Vec<ObjectCondition> {
    vec![ObjectCondition {
        kind: "Ready".to_owned(),
        status,
        observed_generation: generation,
        last_transition_time: "2026-01-01T00:00:00Z".parse().expect("a time"),
        reason: "InForce".to_owned(),
        message: message.to_owned(),
    }]
}

fn said(message: &str) -> Vec<ObjectCondition> {
    ready(ConditionStatus::True, 1, message)
}

fn id() -> ObjectId {
    (1, "grant".to_owned(), "uid".to_owned())
}

/// A look at one object; whether a write of it is queued then.
fn look(queue: &mut StatusQueue, wanted: &[ObjectCondition], shown: &[ObjectCondition]) -> bool {
    queue
        .begin()
        .object(id(), wanted, shown, (true, false), || Duration::ZERO);
    queue.next().is_some()
}

fn write(queue: &mut StatusQueue, wanted: &[ObjectCondition], done: bool) {
    queue.take(&id());
    queue.wrote(id(), wanted, true, done, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn another_status_or_generation_is_written_at_the_first_look() {
    let wanted = ready(ConditionStatus::True, 2, "");
    for (shown, differs) in [
        (wanted.clone(), false),
        (ready(ConditionStatus::True, 1, ""), true),
        (ready(ConditionStatus::False, 2, ""), true),
        (Vec::new(), true),
        ([wanted.clone(), said("")].concat(), true),
    ] {
        assert_eq!(
            look(&mut StatusQueue::default(), &wanted, &shown),
            differs,
            "{shown:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn words_that_became_wrong_are_written_at_once() {
    let mut queue = StatusQueue::default();
    let (missing, there) = (said("no AgentIdentity is named a"), said(""));
    assert!(look(&mut queue, &missing, &[]));
    write(&mut queue, &missing, true);
    assert!(!look(&mut queue, &missing, &missing));
    assert!(look(&mut queue, &there, &missing));
    let (_, due) = queue.next().expect("queued");
    assert!(due <= Instant::now());
    write(&mut queue, &there, true);
    // The API server's own word of it may be late.
    assert!(!look(&mut queue, &there, &missing));
    assert!(!look(&mut queue, &there, &there));
    // And the other way round.
    assert!(look(&mut queue, &missing, &there));
}

#[tokio::test(start_paused = true)]
async fn the_news_of_another_agent_is_not_written_again() {
    let mut queue = StatusQueue::default();
    assert!(!look(&mut queue, &said("a is missing"), &said("a is missing")));
    assert!(look(&mut queue, &said(""), &said("a is missing")));
    assert!(!queue.differs(&id(), &said(""), &said(""), true));
    assert!(!look(&mut queue, &said(""), &said("")));
}

#[tokio::test(start_paused = true)]
async fn agents_that_word_it_otherwise_do_not_write_against_each_other() {
    let mut queue = StatusQueue::default();
    let (own, other) = (said("my words"), said("other words"));
    assert!(!look(&mut queue, &own, &other), "at the start");
    tokio::time::advance(OTHER_WORDS - Duration::from_secs(1)).await;
    assert!(!look(&mut queue, &own, &other));
    // The other agent was behind when it wrote, perhaps, and is gone.
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(look(&mut queue, &own, &other));
    write(&mut queue, &own, true);
    assert!(!look(&mut queue, &own, &other));
}

#[tokio::test(start_paused = true)]
async fn a_write_that_failed_waits_and_is_made_again() {
    let mut queue = StatusQueue::default();
    assert!(look(&mut queue, &said(""), &[]));
    write(&mut queue, &said(""), false);
    assert!(look(&mut queue, &said(""), &[]));
    let (_, due) = queue.next().expect("queued");
    assert_eq!(due, Instant::now() + REPEAT);
    // Another version is news.
    let next = ready(ConditionStatus::True, 2, "");
    assert!(look(&mut queue, &next, &[]));
    let (_, due) = queue.next().expect("queued");
    assert_eq!(due, Instant::now());
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_gone_is_forgotten() {
    let mut queue = StatusQueue::default();
    assert!(look(&mut queue, &said(""), &[]));
    drop(queue.begin());
    assert!(queue.next().is_none());
}
