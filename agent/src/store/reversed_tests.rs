//! Whose revocation was taken back: by another state, and by a file that was removed and written anew.

use std::fs;

use super::super::tests::{Folder, identity, states};
use super::super::{PolicySet, Store};
use super::*;

#[test]
fn a_revoked_agent_that_may_act_again_is_told_of() {
    let set = |state: &str| {
        let text = identity("a").replace("owner: team", &format!("owner: team\n  state: {state}"));
        let documents = picket_policy::read_documents("a.yaml", &text).expect("readable");
        PolicySet::compile(documents).expect("valid")
    };
    let reversed = |before: &PolicySet, after: &PolicySet| {
        Reversals::default().update(before, after, |_| false, |_| false)
    };
    assert_eq!(reversed(&set("Revoked"), &set("Active")), ["a"]);
    assert_eq!(reversed(&set("Revoked"), &set("Suspended")), ["a"]);
    for (before, after) in [
        ("Revoked", "Revoked"),
        ("Suspended", "Active"),
        ("Active", "Revoked"),
    ] {
        assert!(reversed(&set(before), &set(after)).is_empty(), "{before} {after}");
    }
}

#[test]
fn a_revocation_that_a_file_takes_back_is_told_of_and_a_file_that_is_back_is_not() {
    let folder = Folder::new();
    let revoked = |name: &str| identity(name).replace("owner: team", "owner: team\n  state: Revoked");
    folder.write("a.yaml", &revoked("a"));
    folder.write("b.yaml", &identity("b"));
    folder.write("c.yaml", &identity("c"));
    let store = Store::open(&[folder.path().to_owned()]).expect("valid");
    folder.write("a.yaml", &identity("a"));
    store.reload();
    assert_eq!(store.take_reversed(), ["a"]);
    assert!(store.take_reversed().is_empty(), "it is told twice");
    // Beside a faulty one, b is shut out since its file is gone; nobody revoked it.
    folder.write("c.yaml", &identity("c").replace("owner", "colour"));
    fs::remove_file(folder.path().join("b.yaml")).expect("removed");
    store.reload();
    let of = |state: State| ("b".to_owned(), state);
    assert!(states(&store).contains(&of(State::Revoked)));
    folder.write("b.yaml", &identity("b"));
    store.reload();
    assert!(states(&store).contains(&of(State::Active)));
    assert!(store.take_reversed().is_empty());
    // Nor where the rest is good again at once.
    fs::remove_file(folder.path().join("b.yaml")).expect("removed");
    store.reload();
    folder.write("b.yaml", &identity("b"));
    folder.write("c.yaml", &identity("c"));
    store.reload();
    assert_eq!(
        (store.status().last_error, store.take_reversed()),
        (None, Vec::new())
    );
    // A state that a faulty set says is a revocation.
    folder.write("c.yaml", &identity("c").replace("owner", "colour"));
    folder.write("b.yaml", &revoked("b"));
    store.reload();
    folder.write("b.yaml", &identity("b"));
    store.reload();
    assert_eq!(store.take_reversed(), ["b"]);
}

#[test]
fn a_revocation_is_taken_back_by_a_file_that_is_removed_and_written_anew() {
    let folder = Folder::new();
    let revoked = identity("a").replace("owner: team", "owner: team\n  state: Revoked");
    folder.write("a.yaml", &revoked);
    folder.write("b.yaml", &identity("b"));
    let store = Store::open(&[folder.path().to_owned()]).expect("valid");
    let without = |rounds: usize| {
        fs::remove_file(folder.path().join("a.yaml")).expect("removed");
        for round in 0..rounds {
            let owner = format!("owner: team{round}");
            folder.write("b.yaml", &identity("b").replace("owner: team", &owner));
            store.reload();
            assert_eq!(store.take_reversed(), [""; 0], "it is gone");
        }
    };
    without(3);
    // Revoked anew is no reversal, and active then is one.
    folder.write("a.yaml", &revoked);
    store.reload();
    assert_eq!(store.take_reversed(), [""; 0]);
    without(1);
    folder.write("a.yaml", &identity("a"));
    store.reload();
    assert_eq!(store.take_reversed(), ["a"]);
    // Nobody revoked this one.
    without(1);
    folder.write("a.yaml", &identity("a"));
    store.reload();
    assert_eq!(store.take_reversed(), [""; 0]);
}

#[test]
fn an_object_of_the_cluster_that_is_made_anew_is_another_one() {
    let set = |text: &str| {
        let documents = picket_policy::read_documents("a.yaml", text).expect("readable");
        PolicySet::compile(documents).expect("valid")
    };
    let revoked = set(&identity("a").replace("owner: team", "owner: team\n  state: Revoked"));
    let (none, anew) = (set(&identity("b")), set(&identity("a")));
    for (of_cluster, wanted) in [(true, vec![]), (false, vec!["a".to_owned()])] {
        let mut reversals = Reversals::default();
        let mut update = |before, after| reversals.update(before, after, |_| false, |_| of_cluster);
        assert!(update(&revoked, &none).is_empty());
        assert_eq!(update(&none, &anew), wanted);
    }
}
