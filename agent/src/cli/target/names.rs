//! The names of objects in the cluster, for whoever cannot wait: a shell that completes a line.
//!
//! In: how a person reaches the cluster, a kind, and how long it may take. Out: names, or none where nobody answers in time.

use std::sync::mpsc;
use std::time::Duration;

use kube::api::ListParams;

use super::api::{api, known_kind};
use crate::cluster::PersonalConfig;

/// Most names that are asked for: more help nobody who types one.
const MOST: u32 = 500;

/// The names of the objects of a kind.
pub(in crate::cli) fn within(person: PersonalConfig, kind: &'static str, limit: Duration) -> Vec<String> {
    let (tell, told) = mpsc::sync_channel(1);
    // The plugin of a kubeconfig holds the thread that runs it. A thread that is too late ends with the process.
    let asking = std::thread::Builder::new().spawn(move || {
        let names = listed(&person, kind).unwrap_or_default();
        // Nobody may wait any more.
        let _late = tell.send(names);
    });
    match asking {
        Ok(_) => told.recv_timeout(limit).unwrap_or_default(),
        Err(_) => Vec::new(),
    }
}

/// Why there are none is told nobody: the person is in the middle of a line.
fn listed(person: &PersonalConfig, kind: &str) -> Option<Vec<String>> {
    let (kind, plural) = known_kind(kind).ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.ok()?.block_on(async {
        let client = person.connect_silently().await.ok()?;
        let parameters = ListParams::default().limit(MOST);
        let listed = api(&client, kind, plural).list(&parameters).await.ok()?;
        let names = listed
            .items
            .into_iter()
            .filter_map(|object| object.0.metadata.name);
        Some(names.collect())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::testing::{Folder, listing};

    const LIMIT: Duration = Duration::from_secs(20);

    fn person(server: &str, user: &serde_json::Value) -> (Folder, PersonalConfig) {
        let folder = Folder::new();
        let file = folder.path().join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": user}],
        });
        std::fs::write(&file, config.to_string()).expect("written");
        let person = PersonalConfig {
            kubeconfig: Some(file),
            ..PersonalConfig::default()
        };
        (folder, person)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn names_are_those_that_the_api_server_lists() {
        let object = |name: &str| json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": name}});
        let server = listing(move |resource| match resource {
            "agentidentities" => Some(vec![object("a"), object("b")]),
            _ => None,
        })
        .await;
        let (_folder, of_server) = person(&server, &json!({}));
        assert_eq!(within(of_server.clone(), "AgentIdentity", LIMIT), ["a", "b"]);
        // What is refused is no name, and no error.
        assert!(within(of_server, "AgentGrant", LIMIT).is_empty());
    }

    #[test]
    fn a_plugin_that_does_not_end_holds_no_shell() {
        let user = json!({"exec": {
            "apiVersion": "client.authentication.k8s.io/v1", "command": "sleep", "args": ["20"], "interactiveMode": "IfAvailable",
        }});
        let (_folder, person) = person("https://127.0.0.1:1", &user);
        let began = std::time::Instant::now();
        assert!(within(person, "AgentIdentity", Duration::from_millis(50)).is_empty());
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
}
