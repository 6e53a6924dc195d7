//! What a start reads of the checkpoint, and what becomes of it beside the configuration.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn addresses(texts: &[&str]) -> BTreeSet<SocketAddr> {
    texts
        .iter()
        .map(|text| text.parse().expect("an address"))
        .collect()
}

fn endpoints(redirect: &[&str], deny: &[&str]) -> ProtectedEndpoints {
    ProtectedEndpoints {
        redirect: addresses(redirect),
        deny: addresses(deny),
        ..ProtectedEndpoints::default()
    }
}

#[tokio::test(start_paused = true)]
async fn the_protected_endpoints_are_kept_once_the_cluster_has_told_all_and_read_as_no_whole_set() {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint = NodeCheckpoint::new(StateDirectory::new(folder.path()));
    let readiness = Readiness::default();
    service_is_open(&readiness);
    let (sender, receiver) = watch::channel(endpoints(&["10.0.0.1:6443"], &[]));
    let following = tokio::spawn(checkpoint.clone().follow(receiver, readiness.clone()));
    tokio::time::sleep(WRITE_GAP).await;
    assert!(checkpoint.endpoints().expect("no fault").is_none(), "not whole");
    assert_eq!(readiness.failing().len(), 1);
    let last = endpoints(&["10.96.0.1:443", "[fd00::1]:443"], &["10.0.0.1:10250"]);
    sender.send_replace(ProtectedEndpoints {
        whole: true,
        ..last.clone()
    });
    while checkpoint.endpoints().expect("no fault").is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(checkpoint.endpoints().expect("no fault"), Some(last));
    assert!(readiness.failing().is_empty());
    let file = std::fs::metadata(folder.path().join(ENDPOINTS)).expect("there");
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
    checkpoint.remove().expect("removed");
    assert!(checkpoint.endpoints().expect("no fault").is_none());
    following.abort();
}

#[test]
fn a_checkpoint_of_another_version_or_form_is_not_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let state = StateDirectory::new(folder.path());
    let checkpoint = NodeCheckpoint::new(state.clone());
    for (text, reason) in [
        (r#"{"version":2,"endpoints":[]}"#, "has version 2"),
        (
            r#"{"version":1,"redirect":["10.96.0.1:443"]}"#,
            "missing field `deny`",
        ),
        ("", "EOF"),
    ] {
        state.write(ENDPOINTS, text.as_bytes()).expect("written");
        let error = checkpoint.endpoints().expect_err("not used").to_string();
        assert!(error.contains(reason) && error.contains(ENDPOINTS), "{error}");
    }
}

#[test]
fn the_configuration_wins_over_the_checkpoint() {
    let mut known = endpoints(&["10.0.0.1:6443"], &["10.0.0.2:6443"]);
    let last = endpoints(
        &["10.96.0.1:443", "10.0.0.2:6443"],
        &["10.0.0.1:6443", "10.0.0.3:10250", "10.0.0.4:10250"],
    );
    add_last_known(&mut known, last, &addresses(&["10.0.0.4:10250"]));
    assert_eq!(
        known,
        endpoints(
            &["10.0.0.1:6443", "10.96.0.1:443"],
            &["10.0.0.2:6443", "10.0.0.3:10250"]
        )
    );
}

#[test]
fn the_service_is_known_from_a_containers_environment() {
    let told = |host: &str, port: &str| {
        service_of_environment(|name| {
            let value = match name {
                "KUBERNETES_SERVICE_HOST" => host,
                "KUBERNETES_SERVICE_PORT" => port,
                _ => "",
            };
            (!value.is_empty()).then(|| value.to_owned())
        })
        .map(|address| address.to_string())
    };
    assert_eq!(told("10.96.0.1", "443").as_deref(), Some("10.96.0.1:443"));
    assert_eq!(told("fd00::1", "443").as_deref(), Some("[fd00::1]:443"));
    for (host, port) in [
        ("", ""),
        ("api.example", "443"),
        ("10.96.0.1", "0"),
        ("10.96.0.1", ""),
    ] {
        assert_eq!(told(host, port), None, "{host}:{port}");
    }
}

#[tokio::test]
async fn the_configuration_is_kept_by_an_agent_that_serves_and_is_read_by_the_next() {
    let folder = tempfile::tempdir().expect("a folder");
    let state = StateDirectory::new(folder.path());
    let checkpoint = NodeCheckpoint::new(state.clone());
    assert!(checkpoint.configuration().expect("no fault").is_none());
    let text = "nodeName: n\ncluster: {kubeconfig: /k}\nupstream: {server: 'https://10.0.0.1:6443', caFile: /ca, tokenFile: /t}\n\
        tls: {caCertificateFile: /c, caKeyFile: /k}\nenforce: {namespaces: [agents]}\nobjects: [/o]\n";
    let keeping = checkpoint.clone().keeping(text);
    let (_sender, receiver) = watch::channel(ProtectedEndpoints::default());
    let following = tokio::spawn(keeping.follow(receiver, Readiness::default()));
    let kept = loop {
        match checkpoint.configuration().expect("no fault") {
            Some(config) => break config,
            None => tokio::task::yield_now().await,
        }
    };
    assert_eq!(kept.node_name, "n");
    following.abort();
    state.write(CONFIGURATION, b"nodeName: 7\n").expect("written");
    let error = checkpoint.configuration().expect_err("not valid").to_string();
    assert!(
        error.contains(&state.file(CONFIGURATION).display().to_string()),
        "{error}"
    );
    checkpoint.remove().expect("removed");
    assert!(checkpoint.configuration().expect("no fault").is_none());
}
