use super::*;

#[test]
fn pauses_grow_to_a_bound() {
    for failures in 0..100 {
        let pause = pause(failures);
        assert!(
            pause >= RETRY_FIRST / 2 && pause <= RETRY_LONGEST,
            "{failures}: {pause:?}"
        );
    }
    assert!(pause(9) >= RETRY_LONGEST / 2);
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
    let text = causes(&error);
    assert_eq!(text.matches("Connection refused").count(), 1, "{text}");
    assert!(
        text.starts_with("/etc/kubeconfig: cannot make a client"),
        "{text}"
    );
}
