//! A client for tests, of whatever server they run.

use std::path::Path;

use super::Connector;

/// A folder of the test's own, removed with it.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Connector {
    /// Makes clients of a server that answers at this URL, for as long as the folder is there.
    pub(crate) fn for_tests(server: &str) -> (Folder, Self) {
        let folder = Folder::new();
        let file = folder.path().join("kubeconfig");
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {}}],
        });
        std::fs::write(&file, config.to_string()).unwrap();
        (folder, Self::new(&file))
    }
}
