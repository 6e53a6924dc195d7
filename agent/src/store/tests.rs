//! Reloads as they happen on a node: single files, and the kubelet's swap of a ConfigMap.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use super::*;

const IDENTITY: &str = "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {name: NAME}\n\
    spec:\n  owner: team\n  attest:\n    pod: {namespace: ns, serviceAccount: NAME}\n";

fn identity(name: &str) -> String {
    IDENTITY.replace("NAME", name)
}

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("picket-store-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&path).expect("a new folder");
        Self(path)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).expect("a written file");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
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
        Store::open(std::slice::from_ref(&folder.0)),
        Err(StoreError::Empty { .. })
    ));
    assert!(matches!(
        Store::open(&[folder.0.join("none.yaml")]),
        Err(StoreError::Read { .. })
    ));
    folder.write("a.yaml", &identity("a"));
    folder.write(
        "b.yml",
        &identity("b").replace("owner: team", "owner: team\n  colour: red"),
    );
    folder.write(".c.yaml", "not: read");
    let error = Store::open(std::slice::from_ref(&folder.0))
        .expect_err("an unknown field")
        .to_string();
    assert!(
        error.contains("b.yml:6:3: unknown field `spec.colour`"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn a_bad_reload_changes_nothing_and_says_so() {
    let folder = Folder::new();
    folder.write("a.yaml", &identity("a"));
    let store = Store::open(std::slice::from_ref(&folder.0)).expect("valid");
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
        ReloadStatus {
            generation: 2,
            failures: 1,
            last_error: None
        }
    );

    fs::remove_file(folder.0.join("a.yaml")).expect("removed");
    fs::remove_file(folder.0.join("b.yaml")).expect("removed");
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
        let error = Store::open(std::slice::from_ref(&folder.0))
            .expect_err("no object")
            .to_string();
        assert!(error.contains("a.yaml:1:1: no object is in this file"), "{error}");
    }
    folder.write("a.yaml", &identity("a"));
    let store = Store::open(std::slice::from_ref(&folder.0)).expect("valid");
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
            self.0.lock().expect("no panic").write(bytes)
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
    let bytes = lines.0.lock().expect("no panic").clone();
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
    let store = Store::open(std::slice::from_ref(&folder.0)).expect("valid");
    fs::remove_file(folder.0.join("p.yaml")).expect("removed");
    let said = logged(|| store.reload());
    assert!(
        said.contains("WARN") && said.contains("no AgentPolicy is left"),
        "{said}"
    );
    folder.write("b.yaml", &identity("b"));
    let said = logged(|| store.reload());
    assert!(said.contains("is in force") && !said.contains("WARN"), "{said}");
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
    publish(&folder.0, "1", &identity("a"));
    symlink("..data/policy.yaml", folder.0.join("policy.yaml")).expect("a link");
    let plain = Folder::new();
    plain.write("more.yaml", &identity("b"));
    // A single file is named by itself, and its folder has others.
    plain.write("other.yaml", "kind: [");
    let store = Arc::new(Store::open(&[folder.0.clone(), plain.0.join("more.yaml")]).expect("valid"));
    let cancel = CancellationToken::new();
    let watching = tokio::spawn(store.clone().watch(cancel.clone()));
    tokio::time::sleep(Duration::from_millis(200)).await;

    publish(&folder.0, "2", &identity("c"));
    generation(&store, 2).await;
    // In the order of the folders' names, which are made up.
    let mut now = names(&store);
    now.sort();
    assert_eq!(now, ["b", "c"]);

    // An editor's way: a new file is moved over the old one.
    plain.write("more.yaml.new", &identity("d"));
    fs::rename(plain.0.join("more.yaml.new"), plain.0.join("more.yaml")).expect("moved");
    generation(&store, 3).await;
    assert!(names(&store).contains(&"d".to_owned()));

    publish(&folder.0, "3", "kind: [");
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
