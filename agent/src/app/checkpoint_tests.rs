//! What a start reads of the checkpoint, and what becomes of it beside the configuration.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::runtime::phase::PhaseControl;

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

const CONFIG: &str = "nodeName: n\ncluster: {kubeconfig: /k}\n\
    upstream: {server: 'https://10.0.0.1:6443', caFile: /ca, tokenFile: /t}\n\
    tls: {caCertificateFile: /c, caKeyFile: /k}\nenforce: {namespaces: [agents]}\nobjects: [/o]\n";

/// The phase of an agent that serves.
fn served() -> (PhaseWatch, PhaseControl) {
    let control = PhaseControl::new(false);
    control.reach(Phase::Established);
    (control.watch(), control)
}

#[tokio::test(start_paused = true)]
async fn the_protected_endpoints_are_kept_once_the_cluster_has_told_all_and_read_as_no_whole_set() {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint = NodeCheckpoint::new(StateDirectory::new(folder.path()));
    let readiness = Readiness::default();
    service_is_open(&readiness);
    let (sender, receiver) = watch::channel(endpoints(&["10.0.0.1:6443"], &[]));
    let (phase, _control) = served();
    let following = tokio::spawn(checkpoint.clone().follow(receiver, phase, readiness.clone()));
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
    let keeping = checkpoint.clone().keeping(CONFIG);
    let (_sender, receiver) = watch::channel(ProtectedEndpoints::default());
    let (phase, _control) = served();
    let following = tokio::spawn(keeping.follow(receiver, phase, Readiness::default()));
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

fn whole() -> ProtectedEndpoints {
    ProtectedEndpoints {
        whole: true,
        ..endpoints(&["10.96.0.1:443"], &[])
    }
}

/// No address changes meanwhile, as in a quiet cluster.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_is_told_and_tried_again() {
    for now in [whole(), ProtectedEndpoints::default()] {
        let folder = tempfile::tempdir().expect("a folder");
        let rights = |mode| {
            let rights = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(folder.path(), rights).expect("rights");
        };
        rights(0o777);
        let checkpoint = NodeCheckpoint::new(StateDirectory::new(folder.path()));
        let is_whole = now.whole;
        let (_sender, receiver) = watch::channel(now);
        let readiness = Readiness::default();
        let (phase, _control) = served();
        let keeping = checkpoint.clone().keeping(CONFIG);
        let following = tokio::spawn(keeping.follow(receiver, phase, readiness.clone()));
        while readiness.failing().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let failing = readiness.failing();
        assert!(
            failing[0].0 == CHECKPOINT && failing[0].1.contains("others may write to it"),
            "{failing:?}"
        );
        rights(0o700);
        let mended = async {
            while !readiness.failing().is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        // After one pause, and not two.
        timeout(WRITE_GAP * 3 / 2, mended)
            .await
            .expect("it is not tried again");
        assert!(checkpoint.configuration().expect("no fault").is_some());
        assert_eq!(checkpoint.endpoints().expect("no fault").is_some(), is_whole);
        following.abort();
    }
}

/// An upgrade may be withdrawn until the predecessor has stopped, and the predecessor then goes on by its own configuration.
#[tokio::test(start_paused = true)]
async fn a_successor_leaves_the_checkpoint_alone_until_it_serves_and_an_agent_that_stops_does_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint = NodeCheckpoint::new(StateDirectory::new(folder.path()));
    let is_there = || checkpoint.configuration().expect("no fault").is_some();
    let (sender, receiver) = watch::channel(whole());
    let control = PhaseControl::new(true);
    let keeping = checkpoint.clone().keeping(CONFIG);
    let readiness = Readiness::default();
    service_is_open(&readiness);
    let following = tokio::spawn(keeping.follow(receiver, control.watch(), readiness.clone()));
    for phase in [
        Phase::Synced,
        Phase::PredecessorAgreed,
        Phase::Established,
        Phase::PredecessorStopped,
    ] {
        tokio::time::sleep(WRITE_GAP * 2).await;
        assert!(!is_there(), "before {phase:?}");
        assert!(readiness.failing().is_empty(), "the Service is known");
        control.reach(phase);
    }
    tokio::time::sleep(WRITE_GAP * 2).await;
    assert!(is_there());
    checkpoint.remove().expect("removed");
    control.end();
    sender.send_replace(ProtectedEndpoints {
        whole: true,
        ..endpoints(&["10.96.0.2:443"], &[])
    });
    tokio::time::sleep(WRITE_GAP * 2).await;
    assert!(!is_there(), "it overwrites its successor's");
    assert!(checkpoint.endpoints().expect("no fault").is_none());
    following.abort();
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_alone_writes_the_checkpoint_once_it_serves() {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint = NodeCheckpoint::new(StateDirectory::new(folder.path()));
    let is_there = || checkpoint.configuration().expect("no fault").is_some();
    let (_sender, receiver) = watch::channel(whole());
    let control = PhaseControl::new(false);
    let keeping = checkpoint.clone().keeping(CONFIG);
    let following = tokio::spawn(keeping.follow(receiver, control.watch(), Readiness::default()));
    tokio::time::sleep(WRITE_GAP * 2).await;
    assert!(!is_there(), "its start may fail yet");
    control.reach(Phase::Established);
    tokio::time::sleep(WRITE_GAP * 2).await;
    assert!(is_there());
    following.abort();
}
