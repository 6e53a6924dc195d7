//! The table of `TestGetAPIRequestInfo` (k8s.io/apiserver) and the tricks that a reading must not fall for.

use http::HeaderValue;

use http::HeaderName;

use super::super::CanonicalRequest;
use super::super::error::MAX_HEAD;
use super::*;

fn try_read(method: &str, target: &str) -> Result<KubeRequest, ReadError> {
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    KubeRequest::read(&method, &target.parse().expect("a target"), &HeaderMap::new())
}

fn read(method: &str, target: &str) -> KubeRequest {
    try_read(method, target).unwrap_or_else(|error| panic!("{method} {target}: {error}"))
}

/// `verb group/resource[/sub] namespace name`, a dash for what is absent.
fn words(request: &KubeRequest) -> String {
    let dash = |text: Option<&str>| text.unwrap_or("-").to_owned();
    let place = match &request.target {
        Target::Resource { group, .. } => format!("{group}/{}", request.resource_words()),
        Target::NonResource { path } => path.clone(),
    };
    format!(
        "{} {place} {} {}",
        request.verb,
        dash(request.namespace()),
        dash(request.name())
    )
}

#[test]
fn requests_are_read_as_the_api_server_reads_them() {
    for (method, target, expected) in [
        ("GET", "/api/v1/namespaces", "list /namespaces - -"),
        ("GET", "/api/v1/namespaces/other", "get /namespaces other other"),
        ("GET", "/api/v1/namespaces/other/pods", "list /pods other -"),
        ("GET", "/api/v1/namespaces/other/pods/foo", "get /pods other foo"),
        ("HEAD", "/api/v1/namespaces/other/pods/foo", "get /pods other foo"),
        ("GET", "/api/v1/pods", "list /pods - -"),
        ("HEAD", "/api/v1/pods", "list /pods - -"),
        ("GET", "/api/v1/nodes/n1", "get /nodes - n1"),
        ("GET", "/api/v1/nodes/n1/proxy/metrics", "get /nodes/proxy - n1"),
        ("GET", "/api/v1/watch/pods", "watch /pods - -"),
        ("GET", "/api/v1/pods?watch=true", "watch /pods - -"),
        ("GET", "/api/v1/pods?watch=1", "watch /pods - -"),
        ("GET", "/api/v1/pods?watch=", "watch /pods - -"),
        ("GET", "/api/v1/pods?watch=false", "list /pods - -"),
        (
            "GET",
            "/api/v1/watch/namespaces/other/pods",
            "watch /pods other -",
        ),
        (
            "GET",
            "/api/v1/watch/namespaces/other/pods/foo",
            "watch /pods other foo",
        ),
        (
            "GET",
            "/api/v1/namespaces/other/pods/foo?watch=true",
            "get /pods other foo",
        ),
        (
            "GET",
            "/api/v1/namespaces/other/pods?watch=0",
            "list /pods other -",
        ),
        (
            "GET",
            "/api/v1/namespaces/other/pods?fieldSelector=metadata.name%3Dfoo",
            "list /pods other foo",
        ),
        (
            "GET",
            "/api/v1/namespaces/other/pods?watch=1&fieldSelector=metadata.name=foo",
            "watch /pods other foo",
        ),
        (
            "DELETE",
            "/api/v1/namespaces/other/pods?fieldSelector=metadata.name=foo",
            "deletecollection /pods other -",
        ),
        (
            "GET",
            "/api/v1/namespaces/other/pods/foo/status",
            "get /pods/status other foo",
        ),
        (
            "GET",
            "/api/v1/namespaces/other/pods/foo/proxy/sub/path",
            "get /pods/proxy other foo",
        ),
        (
            "GET",
            "/api/v1/namespaces/other/finalize",
            "get /namespaces/finalize other other",
        ),
        (
            "PUT",
            "/api/v1/namespaces/other/finalize",
            "update /namespaces/finalize other other",
        ),
        (
            "GET",
            "/api/v1/namespaces/other/status",
            "get /namespaces/status other other",
        ),
        ("POST", "/api/v1/namespaces/other/pods", "create /pods other -"),
        (
            "POST",
            "/api/v1/namespaces/other/pods/foo/eviction",
            "create /pods/eviction other foo",
        ),
        (
            "PUT",
            "/api/v1/namespaces/other/pods/foo",
            "update /pods other foo",
        ),
        (
            "PATCH",
            "/api/v1/namespaces/other/pods/foo",
            "patch /pods other foo",
        ),
        (
            "DELETE",
            "/api/v1/namespaces/other/pods/foo",
            "delete /pods other foo",
        ),
        (
            "DELETE",
            "/api/v1/namespaces/other/pods",
            "deletecollection /pods other -",
        ),
        ("DELETE", "/api/v1/namespaces/x", "delete /namespaces x x"),
        ("DELETE", "/api/v1/namespaces/x/", "delete /namespaces x x"),
        (
            "GET",
            "/apis/apps/v1/namespaces/ns/deployments/d/scale",
            "get apps/deployments/scale ns d",
        ),
        ("GET", "/apis/apps/v1/deployments", "list apps/deployments - -"),
        (
            "GET",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
            "get rbac.authorization.k8s.io/clusterroles - system:node",
        ),
        ("GET", "/api/v1/%6eamespaces/x/p%6Fds", "list /pods x -"),
        ("GET", "/", "get / - -"),
        ("GET", "/api", "get /api - -"),
        ("GET", "/api/v1", "get /api/v1 - -"),
        ("GET", "/api/v1/", "get /api/v1/ - -"),
        ("GET", "/apis/apps/v1", "get /apis/apps/v1 - -"),
        ("HEAD", "/healthz", "head /healthz - -"),
        ("POST", "/version", "post /version - -"),
        ("OPTIONS", "/version", "options /version - -"),
        // Another case is another path: the API server finds nothing there, and neither does a grant.
        (
            "GET",
            "/API/v1/namespaces/x/pods",
            "get /API/v1/namespaces/x/pods - -",
        ),
        ("GET", "/api/v1/namespaces/x/Pods", "list /Pods x -"),
    ] {
        assert_eq!(words(&read(method, target)), expected, "{method} {target}");
    }
}

#[test]
fn what_could_be_read_otherwise_is_refused() {
    for (method, target) in [
        ("GET", "/api/v1//pods"),
        ("GET", "//api/v1/pods"),
        ("GET", "/api/v1/pods//"),
        ("GET", "/api/v1/namespaces/a/../b/pods"),
        ("GET", "/api/v1/namespaces/a/%2e%2e/b/pods"),
        ("GET", "/api/v1/namespaces/a%2Fpods"),
        ("GET", "/api/v1/namespaces/a%252fpods"),
        ("GET", "/api/v1/pods%00"),
        ("GET", "/api/v1/pods%3Fwatch=1"),
        ("GET", "/api/v1/pods?watch=0;watch=1"),
        ("GET", "/api/v1/pods?watch=0&watch=1"),
        ("GET", "/api/v1/pods?watch=0&wat%63h=1"),
        (
            "GET",
            "/api/v1/pods?fieldSelector=metadata.name=a&fieldSelector=metadata.name=b",
        ),
        ("GET", "/api/v1/pods?limit=%"),
        ("GET", "/api/v1/pods?fieldSelector=metadata.name=a&limit=x"),
        (
            "GET",
            "/api/v1/pods?labelSelector=(&fieldSelector=metadata.name=a",
        ),
        ("GET", "/api/v1/pods?watch=1&a;b"),
        ("GET", "/api/v1/proxy/namespaces/x/pods/y"),
        ("GET", "/api/v1/watch"),
        ("POST", "/api/v1/watch/pods"),
        ("DELETE", "/api/v1/watch/namespaces/x/pods/y"),
        ("OPTIONS", "/api/v1/pods"),
        ("TRACE", "/api/v1/pods"),
        ("CONNECT", "/api/v1/pods"),
        ("get", "/api/v1/pods"),
        ("LIST", "/api/v1/pods"),
        ("GET", "https://user@10.96.0.1/api/v1/pods"),
        ("OPTIONS", "*"),
        ("CONNECT", "10.96.0.1:443"),
    ] {
        assert!(try_read(method, target).is_err(), "{method} {target}");
    }
}

#[test]
fn the_queries_facts_are_kept() {
    let request = read(
        "POST",
        "/api/v1/namespaces/n/pods/p/exec?container=c&command=sh&command=-c&command=a%20%26%26+b&stdin=true&stdout=1&tty=false",
    );
    let exec = request.exec.clone().expect("an exec");
    assert_eq!(exec.container.as_deref(), Some("c"));
    assert_eq!(exec.command, ["sh", "-c", "a && b"]);
    assert_eq!(
        (exec.stdin, exec.stdout, exec.stderr, exec.tty),
        (true, true, false, false)
    );
    assert!(request.is_session() && request.is_mutating());
    assert!(read("GET", "/api/v1/namespaces/n/pods/p/exec?command=id").is_mutating());
    assert_eq!(
        read("GET", "/api/v1/namespaces/n/pods/p/attach")
            .exec
            .expect("attach")
            .command,
        [""; 0]
    );
    assert!(
        read("GET", "/apis/x.io/v1/namespaces/n/pods/p/exec?command=id")
            .exec
            .is_none()
    );

    assert!(read("DELETE", "/api/v1/namespaces/n/pods/p?dryRun=All").dry_run);
    assert!(!read("DELETE", "/api/v1/namespaces/n/pods/p?dryRun=All&dryRun=No").dry_run);
    assert!(!read("DELETE", "/api/v1/namespaces/n/pods/p").dry_run);
    assert!(!read("POST", "/api/v1/namespaces/n/pods?dryRun=All&dryRun=All").dry_run);
    let behind = |target| read("GET", target).proxy_path;
    assert_eq!(
        behind("/api/v1/nodes/n/proxy/a/b?path=/c").as_deref(),
        Some("/a/b")
    );
    assert_eq!(behind("/api/v1/nodes/n/proxy/a/").as_deref(), Some("/a/"));
    assert_eq!(
        behind("/api/v1/namespaces/n/pods/p/proxy/%61").as_deref(),
        Some("/a")
    );
    assert_eq!(behind("/api/v1/nodes/n/proxy?path=/c").as_deref(), Some(""));
    assert_eq!(behind("/api/v1/nodes/n/proxy/").as_deref(), Some("/"));
    assert_eq!(behind("/api/v1/nodes/n/status"), None);
    assert_eq!(behind("/proxy/a"), None);
    let watch = read(
        "GET",
        "/api/v1/pods?watch=1&resourceVersion=7&labelSelector=a%3Db&fieldSelector=spec.x=y",
    );
    assert!(watch.follow);
    assert_eq!(watch.resource_version.as_deref(), Some("7"));
    assert_eq!(watch.label_selector.as_deref(), Some("a=b"));
    assert_eq!(watch.field_selector.as_deref(), Some("spec.x=y"));
    assert!(read("GET", "/api/v1/namespaces/n/pods/p/log?follow=true").follow);
    assert!(!read("GET", "/api/v1/namespaces/n/pods/p/log").follow);
    // Whatever is behind a proxy may stream for ever.
    assert!(read("GET", "/api/v1/namespaces/n/services/s/proxy/events").follow);
    assert!(read("POST", "/api/v1/namespaces/n/pods/p/proxy").follow);
    assert_eq!(
        read("GET", "/api/v1/namespaces/n/pods/").path,
        "/api/v1/namespaces/n/pods"
    );
    assert_eq!(read("GET", "/healthz/").path, "/healthz/");
}

fn with(headers: &[(&'static str, &'static str)]) -> Result<KubeRequest, ReadError> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        map.append(name, HeaderValue::from_static(value));
    }
    KubeRequest::read(
        &Method::PATCH,
        &"https://10.96.0.1/api/v1/namespaces/n/pods/p"
            .parse()
            .expect("a target"),
        &map,
    )
}

#[test]
fn headers_that_contradict_each_other_are_refused() {
    for headers in [
        &[("host", "10.96.0.1"), ("host", "10.96.0.1")][..],
        &[("host", "elsewhere")],
        &[("content-length", "1"), ("content-length", "1")],
        &[("content-length", "1"), ("transfer-encoding", "chunked")],
        &[
            ("transfer-encoding", "chunked"),
            ("transfer-encoding", "identity"),
        ],
        &[("x-http-method-override", "DELETE")],
        &[("X_HTTP_Method_Override", "DELETE")],
        &[("x-http_method", "DELETE")],
        &[("X_METHOD-Override", "DELETE")],
        &[("upgrade", "SPDY/3.1"), ("upgrade", "websocket")],
        &[("upgrade", "SPDY/3.1, websocket")],
        &[("upgrade", "h2c, websocket")],
        &[("upgrade", "h2c"), ("upgrade", "websocket")],
        &[("transfer-encoding", "gzip, chunked")],
        &[("transfer-encoding", "gzip")],
    ] {
        assert!(with(headers).is_err(), "{headers:?}");
    }
    assert!(
        !with(&[("host", "10.96.0.1"), ("upgrade", "websocket")])
            .expect("valid")
            .upgrade
    );
    assert!(
        with(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")])
            .expect("valid")
            .upgrade
    );
    assert!(
        with(&[("content-type", "application/apply-patch+yaml; charset=utf-8")])
            .expect("valid")
            .apply
    );
    assert!(
        !with(&[("content-type", "application/merge-patch+json")])
            .expect("valid")
            .apply
    );
}

#[test]
fn an_upgrade_that_the_api_server_does_not_know_is_none() {
    for protocol in ["h2c", "TLS/1.2", "TLS/1.2, TLS/1.3", "websocket/13"] {
        let mut headers = HeaderMap::new();
        headers.insert("connection", HeaderValue::from_static("Upgrade, HTTP2-Settings"));
        headers.insert("upgrade", HeaderValue::from_static(protocol));
        let target = "/api/v1/namespaces/n/pods/p".parse().expect("a target");
        let request = KubeRequest::read(&Method::GET, &target, &headers).expect(protocol);
        assert!(!request.upgrade, "{protocol}");
    }
}

#[test]
fn the_port_of_https_makes_no_other_host() {
    let read = |target: &str, host: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static(host));
        KubeRequest::read(&Method::GET, &target.parse().expect("a target"), &headers)
    };
    for (target, host) in [
        ("https://10.96.0.1:443/version", "10.96.0.1"),
        ("https://10.96.0.1/version", "10.96.0.1:443"),
        ("https://Kubernetes:443/version", "kubernetes:443"),
        ("https://[fd00::1]:443/version", "[fd00::1]"),
    ] {
        assert!(read(target, host).is_ok(), "{target} {host}");
    }
    for host in [
        "10.96.0.1:6443",
        "10.96.0.2",
        "10.96.0.1:4430",
        "10.96.0.1:443:443",
    ] {
        assert!(read("https://10.96.0.1/version", host).is_err(), "{host}");
    }
}

#[test]
fn a_key_may_come_twice_with_one_value() {
    let twice = "/api/v1/namespaces/n/pods/p/exec?command=sh&container=main&container=m%61in&stdout=true";
    assert!(try_read("POST", twice).is_ok());
    for other in [
        "/api/v1/namespaces/n/pods/p/exec?command=sh&container=main&container=other",
        "/api/v1/namespaces/n/pods/p/exec?command=sh&container=main&container=",
        "/api/v1/namespaces/n/pods/p/exec?command=sh&container=main&container=main&container=other",
    ] {
        assert_eq!(
            try_read("POST", other),
            Err(ReadError::RepeatedQuery("container".to_owned())),
            "{other}"
        );
    }
}

#[test]
fn a_query_that_go_gives_up_on_is_refused() {
    // kube-apiserver would list every secret for this: its 10,001 pairs are one more than Go reads.
    let target = format!(
        "/api/v1/namespaces/n/secrets?fieldSelector=metadata.name=mine{}",
        "&".repeat(10_000)
    );
    assert_eq!(
        try_read("GET", &target),
        Err(ReadError::Query("has more than 1000 pairs"))
    );
}

#[test]
fn a_head_that_is_too_long_is_refused_however_it_is_spread() {
    let target = "/api/v1/pods?watch=1";
    let read = |target: &str, fields: &[(&str, usize)]| {
        let mut map = HeaderMap::new();
        for (name, length) in fields {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            map.append(name, "v".repeat(*length).parse().expect("a value"));
        }
        KubeRequest::read(&Method::GET, &target.parse().expect("a target"), &map).map(|_| ())
    };
    let left = MAX_HEAD - target.len();
    assert_eq!(read(target, &[("a", left - 1)]), Ok(()));
    assert_eq!(read(target, &[("a", left)]), Err(ReadError::Head));
    // Many fields of one name, and many names.
    let many = vec![("accept", 1_018); 1_023];
    assert_eq!(read(target, &many), Ok(()));
    assert_eq!(
        read(target, &[many, vec![("b", 1_018)]].concat()),
        Err(ReadError::Head)
    );
    let names: Vec<_> = (0..1_050).map(|number| format!("{number:->1000}")).collect();
    let names: Vec<_> = names.iter().map(|name| (name.as_str(), 0)).collect();
    assert_eq!(read(target, &names), Err(ReadError::Head));
    // The target counts too.
    let long = format!("/api/v1/pods?labelSelector={}", "a".repeat(60_000));
    assert_eq!(read(&long, &[("a", MAX_HEAD - 61_000)]), Ok(()));
    assert_eq!(read(&long, &[("a", MAX_HEAD - 60_000)]), Err(ReadError::Head));
}

/// A head as its reader makes it where the target is longer than a URI.
fn read_long(method: &str, target: &str) -> Result<CanonicalRequest, ReadError> {
    let request = http::Request::builder().method(method).uri("/").body(());
    let mut head = request.expect("a head").into_parts().0;
    head.extensions
        .insert(LongTarget::new(target.as_bytes()).expect("a target"));
    CanonicalRequest::read(head)
}

#[test]
fn a_target_that_is_longer_than_a_uri_is_read_as_any_other() {
    let script = "touch%20/tmp/x;".replace(';', "%3B").repeat(10_000);
    let target =
        format!("/api/v1/namespaces/n/pods/p/exec?command=sh&command=-c&command={script}&container=c");
    assert!(target.len() > LongTarget::LONGEST_URI);
    let request = read_long("POST", &target).expect("an exec");
    let exec = request.kube().exec.as_ref().expect("an exec");
    assert_eq!(exec.command.len(), 3);
    assert_eq!(exec.command[2], "touch /tmp/x;".repeat(10_000));
    assert_eq!(exec.container.as_deref(), Some("c"));
    assert_eq!(request.kube().verb, Verb::Create);
    // What is refused of a short one is refused of a long one.
    for wrong in [
        format!("/api/v1//pods?labelSelector={}", "a".repeat(70_000)),
        format!(
            "/api/v1/pods?watch=0&labelSelector={}&%77atch=1",
            "a".repeat(70_000)
        ),
        format!("/api/v1/pods?labelSelector={}", "a".repeat(MAX_HEAD)),
    ] {
        assert!(read_long("GET", &wrong).is_err(), "{}", &wrong[..60]);
    }
    for wrong in [
        &b"*"[..],
        b"https://x/",
        b"/a b",
        b"/a#b",
        b"/a\r\nx: y",
        b"/\xc3\xa9",
        b"",
    ] {
        assert_eq!(LongTarget::new(wrong), None, "{wrong:?}");
    }
}

/// A fixed pseudo-random walk over the alphabet that paths and queries are attacked with, in place of a fuzzer where
/// none runs: nothing panics, and what is read holds no second reading.
#[test]
fn no_input_panics_and_what_is_read_is_canonical() {
    const PIECES: [&str; 40] = [
        "/",
        "//",
        ".",
        "..",
        "%2e",
        "%2F",
        "%25",
        "%",
        "%00",
        "%zz",
        "api",
        "apis",
        "v1",
        "apps",
        "namespaces",
        "x",
        "pods",
        "Pods",
        "exec",
        "proxy",
        "watch",
        "status",
        "?",
        "&",
        "=",
        ";",
        "watch=1",
        "command=",
        "fieldSelector=",
        "metadata.name=",
        "a",
        "é",
        "%c3%a9",
        "%ff",
        "+",
        " ",
        "\\",
        "#",
        "@",
        ":",
    ];
    let methods = [
        Method::GET,
        Method::POST,
        Method::DELETE,
        Method::PATCH,
        Method::PUT,
        Method::HEAD,
        Method::OPTIONS,
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).expect("small")
    };
    let (mut read, mut refused) = (0, 0);
    for _ in 0..60_000 {
        let mut target = String::from("/");
        for _ in 0..next(12) {
            target.push_str(PIECES[next(PIECES.len())]);
        }
        let Ok(uri) = target.parse::<Uri>() else { continue };
        match KubeRequest::read(&methods[next(methods.len())], &uri, &HeaderMap::new()) {
            Err(_) => refused += 1,
            Ok(request) => {
                read += 1;
                let path = &request.path;
                assert!(
                    path.starts_with('/') && !path.contains("//") && !path.contains('%'),
                    "{target}: {path}"
                );
                assert!(
                    path.split('/').all(|segment| segment != "." && segment != ".."),
                    "{target}: {path}"
                );
                if let Target::Resource {
                    resource, namespace, ..
                } = &request.target
                {
                    assert!(
                        !resource.is_empty() && namespace.as_deref() != Some(""),
                        "{target}"
                    );
                    assert!(path.contains(resource.as_str()), "{target}");
                }
                let again = KubeRequest::read(&Method::GET, &uri, &HeaderMap::new());
                assert_eq!(
                    again.map(|again| again.path),
                    Ok(request.path.clone()),
                    "{target}"
                );
            }
        }
    }
    assert!(read > 1000 && refused > 1000, "{read} read, {refused} refused");
}
