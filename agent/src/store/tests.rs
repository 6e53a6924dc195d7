//! Reloads as they happen on a node: single files, and the kubelet's swap of a ConfigMap.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use picket_policy::api::v1alpha1::State;

use super::*;

const IDENTITY: &str = "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {name: NAME}\n\
    spec:\n  owner: team\n  attest:\n    pod: {namespace: ns, serviceAccount: NAME}\n";

pub(super) fn identity(name: &str) -> String {
    IDENTITY.replace("NAME", name)
}

/// A folder that goes away with the test.
pub(super) struct Folder(tempfile::TempDir);

impl Folder {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().expect("a new folder"))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).expect("a written file");
    }
}

fn names(store: &Store) -> Vec<String> {
    store
        .current()
        .identities()
        .iter()
        .map(|identity| identity.name.clone())
        .collect()
}

#[test]
fn broken_files_stop_the_start_and_say_where() {
    let folder = Folder::new();
    assert!(matches!(
        Store::open(&[folder.path().to_owned()]),
        Err(StoreError::Empty { .. })
    ));
    assert!(matches!(
        Store::open(&[folder.path().join("none.yaml")]),
        Err(StoreError::Read { .. })
    ));
    folder.write("a.yaml", &identity("a"));
    folder.write(
        "b.yml",
        &identity("b").replace("owner: team", "owner: team\n  colour: red"),
    );
    folder.write(".c.yaml", "not: read");
    let error = Store::open(&[folder.path().to_owned()])
        .expect_err("an unknown field")
        .to_string();
    assert!(
        error.contains("b.yml:6:3: unknown field `spec.colour`"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn an_agent_without_a_valid_set_denies_everything_until_the_files_are_corrected() {
    let folder = Folder::new();
    let objects = folder.path().join("objects");
    let store = Store::open_or_deny_all(std::slice::from_ref(&objects), false);
    let why = || store.why_deny_all().expect("nothing is allowed");
    assert!(why().contains("objects: No such file"), "{}", why());
    assert_eq!(store.status().generation, 0);

    fs::create_dir(&objects).expect("a folder");
    let broken = identity("b").replace("owner: team", "owner: team\n  colour: red\n  size: big");
    fs::write(objects.join("b.yml"), &broken).expect("written");
    store.reload();
    assert!(
        why().contains("b.yml:6:3: unknown field `spec.colour`") && why().contains("spec.size"),
        "{}",
        why()
    );
    // Any pod reads this: where, and not what.
    let told = store
        .current()
        .absent()
        .map(|absent| absent.reason().to_owned())
        .expect("a place");
    assert!(
        told.ends_with("b.yml:6:3 and 1 more error") && !told.contains("colour"),
        "{told}"
    );
    let [status] = &store.statuses()[..] else {
        panic!("{:?}", store.statuses())
    };
    assert!(
        !status.ready && status.message.contains("line 6") && status.generation.is_none(),
        "{status:?}"
    );
    assert_eq!((store.status().failures, names(&store)), (2, Vec::new()));

    fs::write(objects.join("b.yml"), identity("b")).expect("written");
    store.reload();
    assert_eq!(
        (store.why_deny_all(), names(&store)),
        (None, vec!["b".to_owned()])
    );
    assert_eq!(
        store.status(),
        StoreStatus {
            generation: 1,
            failures: 2,
            last_error: None
        }
    );

    // From here on the last good one holds.
    fs::write(objects.join("b.yml"), &broken).expect("written");
    store.reload();
    assert_eq!(
        (store.why_deny_all(), names(&store)),
        (None, vec!["b".to_owned()])
    );
}

#[test]
fn a_bad_reload_changes_nothing_and_says_so() {
    let folder = Folder::new();
    folder.write("a.yaml", &identity("a"));
    let store = Store::open(&[folder.path().to_owned()]).expect("valid");
    store.reload();
    assert_eq!(store.status().generation, 1, "nothing changed");

    folder.write("b.yaml", &identity("b"));
    folder.write("a.yaml", "kind: [");
    store.reload();
    store.reload();
    assert_eq!(names(&store), ["a"]);
    let status = store.status();
    assert_eq!((status.generation, status.failures), (1, 1));
    assert!(status.last_error.expect("an error").contains("a.yaml:"));

    folder.write("a.yaml", &identity("a"));
    store.reload();
    assert_eq!(names(&store), ["a", "b"]);
    assert_eq!(
        store.status(),
        StoreStatus {
            generation: 2,
            failures: 1,
            last_error: None
        }
    );

    fs::remove_file(folder.path().join("a.yaml")).expect("removed");
    fs::remove_file(folder.path().join("b.yaml")).expect("removed");
    store.reload();
    assert_eq!(
        names(&store),
        ["a", "b"],
        "an empty folder does not unmake what was there"
    );
    assert_eq!(store.status().failures, 2);
}

#[test]
fn a_file_without_objects_stops_the_start_and_changes_nothing_later() {
    let folder = Folder::new();
    for text in ["", "# nothing yet\n", "---\n---\n"] {
        folder.write("a.yaml", text);
        let error = Store::open(&[folder.path().to_owned()])
            .expect_err("no object")
            .to_string();
        assert!(error.contains("a.yaml:1:1: no object is in this file"), "{error}");
    }
    folder.write("a.yaml", &identity("a"));
    let store = Store::open(&[folder.path().to_owned()]).expect("valid");
    folder.write("a.yaml", "");
    store.reload();
    assert_eq!(names(&store), ["a"]);
    assert_eq!(store.status().failures, 1);
}

/// What was logged while `act` ran.
fn logged(act: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .finish();
    tracing::subscriber::with_default(subscriber, act);
    let bytes = lines.0.lock().clone();
    String::from_utf8(bytes).expect("text")
}

#[test]
fn the_end_of_the_last_policy_is_a_warning() {
    let folder = Folder::new();
    folder.write("a.yaml", &identity("a"));
    folder.write(
        "p.yaml",
        "apiVersion: picket.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {name: p}\nspec:\n  rules: [{name: r, action: \
         Deny, match: {resources: [secrets]}}]\n",
    );
    let store = Store::open(&[folder.path().to_owned()]).expect("valid");
    fs::remove_file(folder.path().join("p.yaml")).expect("removed");
    let said = logged(|| store.reload());
    assert!(
        said.contains("WARN") && said.contains("no AgentPolicy is left"),
        "{said}"
    );
    folder.write("b.yaml", &identity("b"));
    let said = logged(|| store.reload());
    assert!(said.contains("is in force") && !said.contains("WARN"), "{said}");
}

/// Kind and name, whether it is ready, why, and the generation of the version in force.
fn told(store: &Store) -> Vec<(String, bool, StatusReason, Option<u64>)> {
    let line = |status: ObjectStatus| {
        let object = format!("{} {}", status.kind, status.name);
        (object, status.ready, status.reason, status.generation)
    };
    store.statuses().into_iter().map(line).collect()
}

fn message(store: &Store, name: &str) -> String {
    let mut statuses = store.statuses().into_iter();
    let found = statuses.find(|status| status.name == name);
    found.map(|status| status.message).unwrap_or_default()
}

#[test]
fn every_object_has_a_status_that_names_the_one_at_fault() {
    use StatusReason::{InForce, Invalid, OthersInvalid};
    let folder = Folder::new();
    folder.write("a.yaml", &format!("{}---\n{}", identity("a"), identity("b")));
    folder.write("c.yaml", &identity("c"));
    let store = Store::open(&[folder.path().to_owned()]).expect("valid");
    let object = |name: &str| format!("AgentIdentity {name}");
    let all = ["a", "b", "c"].map(|name| (object(name), true, InForce, Some(1)));
    assert_eq!(told(&store), all);
    let first = &store.statuses()[1];
    assert!(
        first.source.ends_with("a.yaml:11") && first.message.is_empty(),
        "{first:?}"
    );
    let since = first.since;

    // One that changed and is taken up has a new generation; the others keep theirs, and their time.
    folder.write("c.yaml", &identity("c").replace("owner: team", "owner: other"));
    store.reload();
    assert_eq!(told(&store)[2], (object("c"), true, InForce, Some(2)));
    assert_eq!(
        (store.statuses()[1].since, store.statuses()[1].generation),
        (since, Some(1))
    );

    // One that is invalid, one that changed beside it, a new one, and one that stayed as it is.
    folder.write(
        "a.yaml",
        &format!(
            "{}---\n{}",
            identity("a").replace("owner: team", "owner: 7"),
            identity("b")
        ),
    );
    folder.write("c.yaml", &identity("c"));
    folder.write("d.yaml", &identity("d"));
    store.reload();
    assert_eq!(
        told(&store),
        [
            (object("a"), false, Invalid, Some(1)),
            (object("b"), true, InForce, Some(1)),
            (object("c"), false, OthersInvalid, Some(2)),
            (object("d"), false, OthersInvalid, None),
        ]
    );
    assert_eq!(
        message(&store, "a"),
        "line 5: field `spec.owner` must be text, not the number 7: quote it. The version of generation 1 stays in force"
    );
    assert!(message(&store, "d").ends_with(". No version of it is in force"));

    // What is invalid beside others is reported at the one that the message is about.
    folder.write("a.yaml", &format!("{}---\n{}", identity("a"), identity("b")));
    folder.write("d.yaml", &identity("a"));
    store.reload();
    let duplicate = told(&store).pop().expect("some");
    assert_eq!(duplicate, (object("a"), false, Invalid, Some(1)));
    assert_eq!(told(&store)[0], (object("a"), true, InForce, Some(1)));

    fs::remove_file(folder.path().join("d.yaml")).expect("removed");
    store.reload();
    assert!(store.statuses().iter().all(|status| status.ready));
    assert_eq!(store.statuses().len(), 3);
}

#[test]
fn an_objects_age_is_of_what_it_says_and_not_of_its_place() {
    let folder = Folder::new();
    let age_of = |store: &Store, name: &str| {
        let mut statuses = store.statuses().into_iter();
        let found = statuses.find(|status| status.name == name).expect("there");
        (found.source.rsplit('/').next().map(str::to_owned), found.since)
    };
    folder.write("a.yaml", &identity("a"));
    folder.write("c.yaml", &identity("c"));
    let store = Store::open(&[folder.path().to_owned()]).expect("valid");
    let (_, since) = age_of(&store, "a");

    // Another line, and another file.
    folder.write("a.yaml", &format!("# a comment\n{}", identity("a")));
    store.reload();
    assert_eq!(age_of(&store, "a"), (Some("a.yaml:4".to_owned()), since));
    fs::remove_file(folder.path().join("a.yaml")).expect("removed");
    folder.write("b.yaml", &identity("a"));
    store.reload();
    assert_eq!(age_of(&store, "a"), (Some("b.yaml:3".to_owned()), since));

    // A faulty one that moves is as old as its fault, and an object beside it keeps its own age.
    let faulty = identity("c").replace("owner: team", "owner: 7");
    folder.write("c.yaml", &faulty);
    store.reload();
    let (_, broken) = age_of(&store, "c");
    folder.write("c.yaml", &format!("# a comment\n{faulty}"));
    store.reload();
    assert_eq!(age_of(&store, "c"), (Some("c.yaml:4".to_owned()), broken));
    assert_eq!(age_of(&store, "a").1, since);

    // What it says counts.
    folder.write("c.yaml", &identity("c"));
    folder.write("b.yaml", &identity("a").replace("owner: team", "owner: other"));
    store.reload();
    assert!(age_of(&store, "a").1 > since);
}

#[test]
fn an_identity_that_may_not_act_says_so_in_its_status() {
    let folder = Folder::new();
    let suspended = identity("a").replace("owner: team", "owner: team\n  state: Suspended");
    folder.write("a.yaml", &identity("a"));
    folder.write("b.yaml", &identity("b"));
    let store = Store::open(&[folder.path().to_owned()]).expect("valid");
    assert_eq!(message(&store, "a"), "");
    folder.write("a.yaml", &suspended);
    store.reload();
    assert!(store.statuses().iter().all(|status| status.ready));
    let said = "Suspended: every request of this agent is denied";
    assert_eq!(
        (message(&store, "a"), message(&store, "b")),
        (said.to_owned(), String::new())
    );
    // Beside one that is at fault, too.
    folder.write("b.yaml", &identity("b").replace("owner: team", "owner: 7"));
    store.reload();
    assert_eq!(message(&store, "a"), said);
    folder.write("b.yaml", &identity("b"));
    folder.write("a.yaml", &suspended.replace("Suspended", "Revoked"));
    store.reload();
    assert_eq!(
        message(&store, "a"),
        "Revoked: every request of this agent is denied"
    );
}

#[test]
fn objects_that_cannot_be_read_any_more_keep_a_status() {
    use StatusReason::{InForce, OthersInvalid, SourceUnreadable};
    let folder = Folder::new();
    for name in ["a", "b", "c"] {
        folder.write(&format!("{name}.yaml"), &identity(name));
    }
    let store = Store::open(&[folder.path().to_owned()]).expect("valid");
    // A file that is no YAML, and one that is gone while nothing can come into force.
    folder.write("a.yaml", "kind: [");
    fs::remove_file(folder.path().join("b.yaml")).expect("removed");
    store.reload();
    let reason = |name: &str| {
        let statuses = store.statuses();
        let found = statuses.iter().find(|status| status.name == name).expect(name);
        (found.reason, found.ready, found.generation)
    };
    assert_eq!(reason("a"), (SourceUnreadable, false, Some(1)));
    assert_eq!(reason("b"), (OthersInvalid, false, Some(1)));
    assert_eq!(reason("c"), (InForce, true, Some(1)));
    assert!(
        message(&store, "a").contains("not valid YAML"),
        "{}",
        message(&store, "a")
    );

    for name in ["a", "c"] {
        fs::remove_file(folder.path().join(format!("{name}.yaml"))).expect("removed");
    }
    store.reload();
    assert!(
        store
            .statuses()
            .iter()
            .all(|status| status.reason == SourceUnreadable)
    );
    assert_eq!(store.statuses().len(), 3);
    assert!(
        message(&store, "b").starts_with("no .yaml or .yml file"),
        "{}",
        message(&store, "b")
    );
}

#[test]
fn a_status_and_a_check_name_the_same_line() {
    let folder = Folder::new();
    let text = "# who\napiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata:\n  name: a\n\
        spec:\n  owner: team\n  attest:\n    pod: {namespace: ns, serviceAccount: sa}\n";
    folder.write("a.yaml", text);
    let store = Store::open(&[folder.path().to_owned()]).expect("valid");
    let source = &store.statuses()[0].source;
    let documents = picket_policy::read_documents("a.yaml", text).expect("valid");
    let place = documents[0].name_location();
    assert!(
        source.ends_with(&format!("{}:{}", place.file, place.line)),
        "{source}"
    );
    assert_eq!(place.line, 5);
}

#[test]
fn a_status_is_plain_data() {
    let folder = Folder::new();
    folder.write("a.yaml", &identity("a"));
    let store = Store::open(&[folder.path().to_owned()]).expect("valid");
    let statuses = store.statuses();
    let json = serde_json::to_value(&statuses).expect("plain");
    assert_eq!(json[0]["reason"], "InForce");
    assert_eq!(json[0]["generation"], 1);
    let back: Vec<ObjectStatus> = serde_json::from_value(json).expect("plain");
    assert_eq!(back, statuses);
}

async fn generation(store: &Store, wanted: u64) {
    let mut changes = store.changes();
    tokio::time::timeout(
        Duration::from_secs(10),
        changes.wait_for(|status| status.generation >= wanted),
    )
    .await
    .expect("in time")
    .expect("a live store");
}

/// As the kubelet writes a ConfigMap: a folder per version, `..data` pointing at it, files pointing through `..data`.
fn publish(folder: &Path, version: &str, text: &str) {
    let data = folder.join(format!("..{version}"));
    fs::create_dir(&data).expect("a version's folder");
    fs::write(data.join("policy.yaml"), text).expect("a written file");
    symlink(format!("..{version}"), folder.join("..data_tmp")).expect("a link");
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("a swap");
}

#[tokio::test]
async fn changes_come_into_force_by_themselves() {
    let folder = Folder::new();
    publish(folder.path(), "1", &identity("a"));
    symlink("..data/policy.yaml", folder.path().join("policy.yaml")).expect("a link");
    let plain = Folder::new();
    plain.write("more.yaml", &identity("b"));
    // A single file is named by itself, and its folder has others.
    plain.write("other.yaml", "kind: [");
    let store =
        Arc::new(Store::open(&[folder.path().to_owned(), plain.path().join("more.yaml")]).expect("valid"));
    let cancel = CancellationToken::new();
    let watching = tokio::spawn(store.clone().watch(cancel.clone()));
    tokio::time::sleep(Duration::from_millis(200)).await;

    publish(folder.path(), "2", &identity("c"));
    generation(&store, 2).await;
    // In the order of the folders' names, which are made up.
    let mut now = names(&store);
    now.sort();
    assert_eq!(now, ["b", "c"]);

    // An editor's way: a new file is moved over the old one.
    plain.write("more.yaml.new", &identity("d"));
    fs::rename(plain.path().join("more.yaml.new"), plain.path().join("more.yaml")).expect("moved");
    generation(&store, 3).await;
    assert!(names(&store).contains(&"d".to_owned()));

    publish(folder.path(), "3", "kind: [");
    let mut changes = store.changes();
    tokio::time::timeout(
        Duration::from_secs(10),
        changes.wait_for(|status| status.failures == 1),
    )
    .await
    .expect("in time")
    .expect("a live store");
    assert_eq!(store.status().generation, 3);

    cancel.cancel();
    tokio::time::timeout(Duration::from_secs(5), watching)
        .await
        .expect("in time")
        .expect("no panic");
}

/// A source without events, whose first readings fail as those of a file system do that comes back by itself.
#[derive(Debug)]
struct Flaky {
    failures: std::sync::atomic::AtomicU32,
}

impl Source for Flaky {
    fn manifests(&self) -> Result<Vec<Manifest>, StoreError> {
        use std::sync::atomic::Ordering;
        let path = PathBuf::from("a.yaml");
        let fails = |left: u32| left.checked_sub(1);
        if self
            .failures
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, fails)
            .is_ok()
        {
            let source = std::io::Error::from_raw_os_error(libc::EIO);
            return Err(StoreError::Read { path, source });
        }
        let text = identity("a");
        Ok(vec![Manifest::new(path, text)])
    }

    fn folders(&self) -> BTreeSet<PathBuf> {
        BTreeSet::new()
    }
}

#[tokio::test]
async fn files_that_cannot_be_read_for_a_moment_do_not_deny_everything_for_long() {
    let flaky = Flaky { failures: 3.into() };
    let store = Arc::new(Store::unread(vec![Box::new(flaky)], builtin::OWN_NAMESPACE, None));
    store.reload();
    assert!(store.why_deny_all().is_some(), "at first");
    let cancel = CancellationToken::new();
    let watching = tokio::spawn(store.clone().watch(cancel.clone()));
    let mut changes = store.changes();
    let valid = changes.wait_for(|status| status.generation == 1);
    let in_time = tokio::time::timeout(Duration::from_secs(5), valid).await;
    assert!(in_time.is_ok(), "{:?}", store.status());
    assert_eq!(
        (names(&store), store.why_deny_all()),
        (vec!["a".to_owned()], None)
    );
    cancel.cancel();
    watching.await.expect("ends");
}

#[test]
fn a_new_set_counts_before_anybody_is_told_of_it_and_an_invalid_one_never() {
    let folder = Folder::new();
    folder.write("a.yaml", &identity("a"));
    let store = Store::open(&[folder.path().to_owned()]).expect("valid");
    let before = store.epoch().now();
    folder.write("a.yaml", "kind: [");
    store.reload();
    assert_eq!(store.epoch().now(), before);
    folder.write("a.yaml", &identity("b"));
    store.reload();
    assert_ne!(store.epoch().now(), before);
}

/// The states of the identities in force, by name.
pub(super) fn states(store: &Store) -> Vec<(String, State)> {
    let set = store.current();
    let states = set.identities().iter();
    states
        .map(|identity| (identity.name.clone(), identity.state))
        .collect()
}

#[test]
fn an_agent_is_shut_out_while_another_file_cannot_be_read() {
    let folder = Folder::new();
    folder.write("a.yaml", &identity("a"));
    folder.write("b.yaml", &identity("b"));
    let store = Store::open(&[folder.path().to_owned()]).expect("valid");
    // A letter of another encoding, as editors leave it in a comment.
    let latin = [identity("b").as_bytes(), b"# M\xfcller\n"].concat();
    fs::write(folder.path().join("b.yaml"), latin).expect("written");
    folder.write(
        "a.yaml",
        &identity("a").replace("owner: team", "owner: team\n  state: Revoked"),
    );
    store.reload();
    let of = |state: State| vec![("a".to_owned(), state), ("b".to_owned(), State::Active)];
    assert_eq!(states(&store), of(State::Revoked));
    let error = store.status().last_error.unwrap_or_default();
    let line = identity("b").lines().count() + 1;
    assert!(
        error.contains(&format!("b.yaml:{line}:4: the file is not UTF-8")),
        "{error}"
    );
    folder.write("b.yaml", &identity("b"));
    store.reload();
    assert_eq!(
        (states(&store), store.status().last_error),
        (of(State::Revoked), None)
    );
}

#[test]
fn an_agent_is_shut_out_while_another_object_of_the_files_is_faulty() {
    let folder = Folder::new();
    for name in ["a", "b", "c"] {
        folder.write(&format!("{name}.yaml"), &identity(name));
    }
    let store = Store::open(&[folder.path().to_owned()]).expect("valid");
    let faulty = identity("c").replace("owner: team", "owner: team\n  colour: red\n  state: Revoked");
    folder.write("c.yaml", &faulty);
    folder.write(
        "a.yaml",
        &identity("a").replace("owner: team", "owner: other\n  state: Revoked"),
    );
    store.reload();
    let of = |states: [State; 3]| {
        ["a", "b", "c"]
            .map(str::to_owned)
            .into_iter()
            .zip(states)
            .collect::<Vec<_>>()
    };
    // A fault of its own keeps no agent going either.
    let revoked = of([State::Revoked, State::Active, State::Revoked]);
    assert_eq!(states(&store), revoked);
    // The rest of its new version waits.
    assert_eq!(store.current().identities()[0].owner, "team");
    assert!(
        store
            .status()
            .last_error
            .is_some_and(|error| error.contains("colour"))
    );
    let status = store
        .statuses()
        .into_iter()
        .find(|status| status.name == "a")
        .expect("it");
    assert_eq!(
        (status.ready, status.state),
        (false, Some(IdentityState::Revoked))
    );
    assert!(
        status.message.ends_with("The agent is shut out all the same"),
        "{status:?}"
    );
    // A reading that says the same puts nothing in force anew; a file that is gone shuts its agent out.
    let generation = store.status().generation;
    folder.write("c.yaml", &faulty.replace("red", "blue"));
    store.reload();
    assert_eq!(store.status().generation, generation);
    fs::remove_file(folder.path().join("b.yaml")).expect("removed");
    store.reload();
    assert_eq!(
        states(&store),
        of([State::Revoked, State::Revoked, State::Revoked])
    );
    // Back as it was, and then all is good again.
    folder.write("b.yaml", &identity("b"));
    store.reload();
    assert_eq!(states(&store), revoked);
    for (state, counts_as) in [
        ("Active", State::Active),
        ("Quarantined", State::Suspended),
        ("7", State::Suspended),
    ] {
        folder.write("c.yaml", &faulty.replace("Revoked", state));
        store.reload();
        assert_eq!(
            states(&store),
            of([State::Revoked, State::Active, counts_as]),
            "{state}"
        );
    }
    folder.write("c.yaml", &identity("c"));
    store.reload();
    assert_eq!(states(&store), of([State::Revoked, State::Active, State::Active]));
    assert_eq!(store.status().last_error, None);
    let status = store
        .statuses()
        .into_iter()
        .find(|status| status.name == "a")
        .expect("it");
    assert!(status.ready, "{status:?}");
}

#[test]
fn what_a_broken_file_may_still_have_is_not_taken_for_removed() {
    let folder = Folder::new();
    folder.write("a.yaml", &format!("{}---\n{}", identity("a"), identity("b")));
    let store = Store::open(&[folder.path().to_owned()]).expect("valid");
    for broken in ["kind: [", &identity("a").replace("owner", "colour")] {
        folder.write("a.yaml", broken);
        store.reload();
        assert!(
            states(&store).iter().all(|(_, state)| *state == State::Active),
            "{broken}"
        );
    }
}

#[test]
fn an_emptied_folder_leaves_the_last_objects_in_force_and_says_nothing_else() {
    let folder = Folder::new();
    folder.write("a.yaml", &identity("a"));
    let store = Store::open(&[folder.path().to_owned()]).expect("valid");
    fs::remove_file(folder.path().join("a.yaml")).expect("removed");
    store.reload();
    assert_eq!(names(&store), ["a"]);
    let said = store.status().last_error.expect("an error");
    assert!(
        said.starts_with("no .yaml or .yml file under ") && !said.contains("denied"),
        "{said}"
    );
}

/// Files are read before the node is closed.
#[test]
fn a_pipe_among_the_files_is_a_fault_and_holds_up_nobody() {
    let folder = Folder::new();
    folder.write("a.yaml", &identity("a"));
    nix::unistd::mkfifo(&folder.path().join("b.yaml"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let paths = [folder.path().to_owned()];
    let (done, opened) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(Store::open(&paths).map(drop)));
    let opened = opened.recv_timeout(Duration::from_secs(20));
    let error = opened.expect("it waits for the pipe").expect_err("a fault");
    let said = error.to_string();
    assert!(
        said.contains("b.yaml") && said.contains("not a regular file"),
        "{said}"
    );
}
