//! Tests of the client: its pauses before it asks again, and what its errors say.

use super::*;

#[test]
fn nodes_come_back_within_ten_seconds_and_not_all_at_once() {
    let mut nodes = [(); 2].map(|()| Backoff::jittered(RETRY_FIRST, RETRY_LONGEST));
    let pauses: Vec<_> = (0..20)
        .map(|_| nodes.each_mut().map(|node| node.pause()))
        .collect();
    assert!(
        pauses
            .iter()
            .flatten()
            .all(|pause| *pause <= Duration::from_secs(10))
    );
    assert!(pauses.iter().any(|[one, other]| one != other));
}

#[tokio::test]
async fn a_kubeconfig_that_makes_no_sense_is_named() {
    let error = Connector::new(Path::new("/nothing/here"))
        .connect()
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.starts_with("/nothing/here: "), "{error}");
}

#[test]
fn an_error_is_told_with_what_it_comes_from() {
    let refused = std::io::Error::from_raw_os_error(111);
    let error = ClusterError::Client {
        path: "/etc/kubeconfig".into(),
        source: Box::new(kube::Error::Service(Box::new(refused))),
    };
    let text = with_causes(&error);
    assert_eq!(text.matches("Connection refused").count(), 1, "{text}");
    assert!(
        text.starts_with("/etc/kubeconfig: cannot make a client"),
        "{text}"
    );
}
