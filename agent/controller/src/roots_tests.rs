//! Tests of the roots that are kept: made once, replaced with an overlap, and kept as long as they are needed.

use std::time::Duration;

use super::*;
use crate::authority::{NODE_CA_LIFETIME, ROOT_LIFETIME};
use crate::rotation::OVERLAP;

const HOUR: Duration = Duration::from_secs(3600);

fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// What is stored, through the data of a Secret and back.
fn stored(advanced: &Advanced) -> StoredRoots {
    let read = StoredRoots::read(&advanced.stored.data()).unwrap();
    assert_eq!(read, advanced.stored);
    read
}

fn facts(published: &str) -> RootFacts<'_> {
    RootFacts {
        published: Some(published),
        ..RootFacts::default()
    }
}

fn count(bundle: &str) -> usize {
    bundle.matches("BEGIN CERTIFICATE").count()
}

#[test]
fn a_root_is_made_once() {
    let first = StoredRoots::default()
        .advance(&RootFacts::default(), start())
        .unwrap();
    assert_eq!(first.changes, ["a root is made"]);
    let keys: Vec<String> = first.stored.data().into_keys().collect();
    assert_eq!(keys, ["ca.crt", "ca.key"]);
    let again = stored(&first)
        .advance(&facts(&first.bundle), start() + HOUR)
        .unwrap();
    assert_eq!(again.changes, [""; 0]);
    assert_eq!((&again.stored, &again.bundle), (&first.stored, &first.bundle));
    assert!(!format!("{again:?}").contains("PRIVATE"));
}

#[test]
fn a_root_is_replaced_with_an_overlap() {
    let begin = start();
    let first = StoredRoots::default()
        .advance(&RootFacts::default(), begin)
        .unwrap();
    let asked = RootFacts {
        requested: true,
        ..facts(&first.bundle)
    };
    let made = stored(&first).advance(&asked, begin).unwrap();
    assert_eq!(count(&made.bundle), 2, "both are in the bundle");
    assert_eq!(
        made.signing.anchors, first.signing.anchors,
        "and the first one signs"
    );

    // Not before the bundles hold it, however long that takes.
    let late = begin + 10 * OVERLAP;
    let waiting = stored(&made).advance(&facts(&first.bundle), late).unwrap();
    assert_eq!(waiting.stored, made.stored);
    let noted = stored(&made).advance(&facts(&made.bundle), late).unwrap();
    assert_eq!(noted.signing.anchors, first.signing.anchors);
    let before = stored(&noted)
        .advance(&facts(&noted.bundle), late + OVERLAP - HOUR)
        .unwrap();
    assert_eq!(before.signing.anchors, first.signing.anchors);

    let at = late + OVERLAP;
    let moved = stored(&noted).advance(&facts(&noted.bundle), at).unwrap();
    assert_ne!(moved.signing.anchors, first.signing.anchors);
    assert_eq!(count(&moved.bundle), 2, "node CAs of the first one are in use");
    assert!(moved.bundle.contains(&first.signing.anchors));
    let last = at + NODE_CA_LIFETIME;
    let kept = stored(&moved).advance(&facts(&moved.bundle), last).unwrap();
    assert_eq!(kept.bundle, moved.bundle);
    let gone = stored(&kept).advance(&facts(&kept.bundle), last + HOUR).unwrap();
    assert_eq!(gone.bundle, moved.signing.anchors);
    let keys: Vec<String> = gone.stored.data().into_keys().collect();
    assert_eq!(keys, ["ca.crt", "ca.key"], "nothing of the rotation is left");
}

#[test]
fn an_old_root_is_replaced_without_being_asked() {
    let first = StoredRoots::default()
        .advance(&RootFacts::default(), start())
        .unwrap();
    let at = start() + ROOT_LIFETIME * 2 / 3;
    let made = stored(&first).advance(&facts(&first.bundle), at).unwrap();
    assert_eq!(count(&made.bundle), 2);
    // A controller that was away until the end of the root's life.
    let end = stored(&first)
        .advance(&facts(&first.bundle), start() + ROOT_LIFETIME)
        .unwrap();
    assert_ne!(end.signing.anchors, first.signing.anchors);
}

#[test]
fn a_root_that_somebody_else_keeps_is_never_replaced() {
    let begin = start();
    let (one, other) = (make_root(begin).unwrap(), make_root(begin).unwrap());
    let given = |root| RootFacts {
        given: Some(root),
        requested: true,
        ..RootFacts::default()
    };
    let first = StoredRoots::default().advance(&given(&one), begin).unwrap();
    let keys: Vec<String> = first.stored.data().into_keys().collect();
    assert_eq!(keys, ["ca.crt"], "its key is stored nowhere else");
    assert_eq!(
        first.state,
        RotationState::Overdue,
        "a person asked for what only a person can do"
    );
    // It was replaced: what the earlier one signed is still in use.
    let second = stored(&first).advance(&given(&other), begin + HOUR).unwrap();
    assert_eq!(count(&second.bundle), 2);
    let later = begin + HOUR + NODE_CA_LIFETIME + HOUR;
    let third = stored(&second).advance(&given(&other), later).unwrap();
    assert_eq!(third.bundle, second.signing.anchors);
    // Back to a root of the controller's own.
    let own = stored(&third).advance(&RootFacts::default(), later).unwrap();
    assert_eq!(count(&own.bundle), 2);
    assert_ne!(own.signing.anchors, third.signing.anchors);
}

#[test]
fn clients_go_on_trusting_a_root_whose_secret_was_deleted() {
    let first = StoredRoots::default()
        .advance(&RootFacts::default(), start())
        .unwrap();
    let lost = RootFacts {
        trusted_before: Some(&first.signing.anchors),
        ..RootFacts::default()
    };
    let second = StoredRoots::default().advance(&lost, start() + HOUR).unwrap();
    assert_ne!(second.signing.anchors, first.signing.anchors);
    assert!(second.bundle.contains(&first.signing.anchors));
}

#[test]
fn an_unfit_secret_is_left_alone() {
    let first = StoredRoots::default()
        .advance(&RootFacts::default(), start())
        .unwrap();
    let mut data = first.stored.data();
    data.insert("ca.crt".to_owned(), ByteString(b"nothing".to_vec()));
    let error = StoredRoots::read(&data)
        .unwrap()
        .advance(&RootFacts::default(), start());
    let text = error.unwrap_err().to_string();
    assert!(text.starts_with("key ca.crt of the Secret: "), "{text}");
    data = first.stored.data();
    for record in [
        "{",
        r#"{"retired": [{"certificate": "x", "until": "2027-01-01T00:00:00Z"}]}"#,
    ] {
        data.insert(RECORD.to_owned(), ByteString(record.as_bytes().to_vec()));
        assert!(
            matches!(StoredRoots::read(&data), Err(RootsError::Record)),
            "{record}"
        );
    }
}
