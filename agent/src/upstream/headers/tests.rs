//! What is forwarded of a client's headers, and what is put in.

use super::*;

fn sent(client: &[(&str, &str)], upgrade: Option<UpgradeProtocol>) -> HeaderMap {
    sent_by(client, upgrade, Some("Bearer node"), Some("10.1.0.7"))
}

/// As [`sent`], by a node with this token, for a pod with this address.
fn sent_by(
    client: &[(&str, &str)],
    upgrade: Option<UpgradeProtocol>,
    token: Option<&'static str>,
    source: Option<&str>,
) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in client {
        headers.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_str(value).unwrap(),
        );
    }
    let token = token.map(HeaderValue::from_static);
    let impersonate = Impersonate {
        user: "agent:triage".to_owned(),
        groups: vec!["readers".to_owned(), "picket:agents".to_owned()],
    };
    let identity = OutboundIdentity {
        credential: OutboundCredential::Node(token.as_ref(), &impersonate),
        principal: &crate::identity::testing::principal("triage", "agents", "triage-0"),
        origin: &RequestOrigin {
            audit_id: "b0b".to_owned(),
            session: upgrade.is_some(),
            source: source.and_then(|address| address.parse().ok()),
        },
    };
    outbound(headers, &identity, upgrade).unwrap()
}

#[test]
fn nothing_that_speaks_for_others_is_forwarded() {
    for name in [
        "Authorization",
        "Cookie",
        "Cookie2",
        "Impersonate-User",
        "Impersonate-Group",
        "Impersonate-Uid",
        "Impersonate-PrincipalExtra-scopes",
        "Impersonate-PrincipalExtra-picket.dev%2fidentity",
        "Impersonate_User",
        "X-Remote-User",
        "X-Remote-Group",
        "X-Remote-PrincipalExtra-a",
        "x_remote_user",
        "X-Forwarded-For",
        "X-Real-Ip",
        "Forwarded",
        "Via",
        "Audit-ID",
        "Host",
        "Proxy-Authorization",
        "Proxy-Connection",
        "Proxy-Authenticate",
        "Keep-Alive",
        "TE",
        "Transfer-Encoding",
        "Upgrade",
        "HTTP2-Settings",
        "Expect",
        "Trailer",
    ] {
        let headers = sent(&[(name, "evil"), (name, "evil twice")], None);
        let left: Vec<_> = headers
            .iter()
            .filter(|(_, v)| v.as_bytes().starts_with(b"evil"))
            .collect();
        assert!(left.is_empty(), "{name}: {left:?}");
        // A node with a client certificate sets no `Authorization` that would take the client's place.
        let bare = sent_by(&[(name, "evil")], None, None, None);
        assert!(bare.values().all(|value| value != "evil"), "{name}: {bare:?}");
    }
    for name in [
        "Accept",
        "User-Agent",
        "Content-Type",
        "Kubectl-Command",
        "Traceparent",
        "Impersonation",
    ] {
        assert_eq!(
            sent(&[(name, "fine")], None)[name.to_ascii_lowercase()],
            "fine",
            "{name}"
        );
    }
}

#[test]
fn who_is_meant_is_set_once() {
    let headers = sent(
        &[
            ("Impersonate-Group", "system:masters"),
            ("X-Forwarded-For", "192.0.2.1"),
        ],
        None,
    );
    let all = |name: &str| {
        headers
            .get_all(name)
            .iter()
            .map(|v| v.to_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(all("impersonate-user"), ["agent:triage"]);
    assert_eq!(all("impersonate-group"), ["readers", "picket:agents"]);
    assert_eq!(all("impersonate-extra-picket.dev%2fidentity"), ["triage"]);
    assert_eq!(all("impersonate-extra-picket.dev%2fpod"), ["agents/triage-0"]);
    assert_eq!(all("audit-id"), ["b0b"]);
    assert_eq!(all("x-forwarded-for"), ["10.1.0.7"]);
    assert_eq!(all("authorization"), ["Bearer node"]);
}

/// Each of them is a check at the API server, and one that differs by request takes the kept result away.
#[test]
fn impersonation_is_the_same_for_all_requests_of_a_pod() {
    let impersonation = |client: &[(&str, &str)]| -> Vec<(String, HeaderValue)> {
        let headers = sent(client, None);
        let mut all: Vec<_> = headers
            .iter()
            .filter(|(name, _)| name.as_str().starts_with("impersonate-"))
            .map(|(name, value)| (name.as_str().to_owned(), value.clone()))
            .collect();
        all.sort();
        all
    };
    let plain = impersonation(&[]);
    assert_eq!(plain.len(), 5, "user, two groups, identity and pod: {plain:?}");
    let others = [
        ("User-Agent", "kubectl"),
        ("Kubectl-Session", "1"),
        ("Traceparent", "00-1-2-01"),
    ];
    assert_eq!(impersonation(&others), plain);
}

/// An operator finds the session by its id in the API server's log, and an admission policy sees it.
#[test]
fn a_request_that_may_become_a_session_has_its_id() {
    let of = |upgrade| {
        sent(&[], upgrade)
            .get("impersonate-extra-picket.dev%2fsession")
            .cloned()
    };
    assert_eq!(of(None), None);
    assert_eq!(
        of(Some(UpgradeProtocol::WebSocket)).as_ref(),
        sent(&[], None).get(AUDIT_ID)
    );
    assert!(of(Some(UpgradeProtocol::Spdy)).is_some_and(|id| id == "b0b"));
}

/// Without its verb a request would be refused, or would cost the API server further checks.
#[test]
fn deploy_lets_nodes_impersonate_for_each_verb() {
    let text = include_str!("../../../../deploy/rbac.yaml");
    let rules: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .collect();
    let rules = rules.join("\n");
    let (_, rules) = rules.split_once("name: picket-node-impersonate").unwrap();
    let (_, on_all) = rules.split_once(r#"resources: ["*"]"#).unwrap();
    let (on_resources, on_paths) = on_all.split_once(r#"nonResourceURLs: ["*"]"#).unwrap();
    for (rule, verbs) in [
        (
            on_resources,
            picket_policy::Verb::of_resources().collect::<Vec<_>>(),
        ),
        (on_paths, picket_policy::Verb::of_paths().collect()),
    ] {
        for verb in verbs {
            let named = format!("\"impersonate-on:user-info:{}\"", verb.as_str());
            assert!(rule.contains(&named), "{named} is missing");
        }
    }
    let principal = crate::identity::testing::principal("triage", "agents", "triage-0");
    for PrincipalExtra { name, .. } in extras(&principal, Some("b0b")) {
        assert!(rules.contains(&format!("userextras/{name}")), "{name} is missing");
    }
    assert!(
        !rules.contains(r#""impersonate""#),
        "the older verb can be bounded by names alone"
    );
}

#[test]
fn a_client_of_the_gateway_has_no_pod_upstream_and_no_empty_one() {
    let origin = PrincipalOrigin::Gateway {
        peer: std::net::Ipv4Addr::LOCALHOST.into(),
    };
    let principal = crate::identity::testing::principal_of("triage", origin);
    let names: Vec<_> = extras(&principal, None)
        .map(|extra| (extra.name, extra.value))
        .collect();
    assert_eq!(names, [("picket.dev/identity", "triage".to_owned())]);
}

#[test]
fn connection_cannot_take_away_what_picket_sets() {
    let connection = "close, Authorization, Impersonate-User, X-Mine, Content-Length, Audit-ID";
    let headers = sent(
        &[
            ("Connection", connection),
            ("X-Mine", "1"),
            ("Content-Length", "3"),
            ("Accept", "*/*"),
        ],
        None,
    );
    assert_eq!(headers["authorization"], "Bearer node");
    assert_eq!(headers["impersonate-user"], "agent:triage");
    assert_eq!(headers["audit-id"], "b0b");
    assert_eq!(headers["content-length"], "3");
    assert_eq!(headers["accept"], "*/*");
    assert!(!headers.contains_key("x-mine") && !headers.contains_key("connection"));
}

/// What is left of a response's headers.
fn answered(server: &[(&'static str, &'static str)], switching: bool) -> Vec<String> {
    let fields = server
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    let mut headers = HeaderMap::from_iter(fields);
    inbound(&mut headers, switching);
    let text = |(name, value): (&HeaderName, &HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
    let mut left: Vec<_> = headers.iter().map(text).collect();
    left.sort();
    left
}

#[test]
fn what_belongs_to_the_api_server_s_hop_ends_there() {
    let server = [
        ("connection", "close, x-mine, content-type"),
        ("x-mine", "1"),
        ("keep-alive", "timeout=5"),
        ("te", "trailers"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("http2-settings", "x"),
        ("expect", "x"),
        ("proxy-connection", "x"),
        ("proxy-authenticate", "Basic"),
        ("content-type", "text/plain"),
        ("audit-id", "b0b"),
    ];
    assert_eq!(
        answered(&server, false),
        ["audit-id: b0b", "content-type: text/plain"]
    );
    let switched = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("keep-alive", "x"),
    ];
    assert_eq!(
        answered(&switched, true),
        ["connection: Upgrade", "upgrade: websocket"]
    );
}

#[test]
fn only_trailers_stay_of_te() {
    assert_eq!(sent(&[("TE", "gzip, trailers")], None)["te"], "trailers");
}

#[test]
fn tokens_among_websocket_protocols_stay_behind() {
    let token = "base64url.bearer.authorization.k8s.io.c2VjcmV0";
    let offered = format!("{token}, v5.channel.k8s.io,v4.channel.k8s.io");
    let upgrade = Some(UpgradeProtocol::WebSocket);
    let headers = sent(
        &[("Sec-WebSocket-Protocol", &offered), ("Sec-WebSocket-Key", "k")],
        upgrade,
    );
    assert_eq!(
        headers["sec-websocket-protocol"],
        "v5.channel.k8s.io, v4.channel.k8s.io"
    );
    assert_eq!(
        (&headers["connection"], &headers["upgrade"]),
        (&"Upgrade".parse().unwrap(), &"websocket".parse().unwrap())
    );
    assert_eq!(headers["sec-websocket-key"], "k");
    let headers = sent(
        &[
            ("Sec-WebSocket-Protocol", token),
            ("Sec-WebSocket-Protocol", "v4.channel.k8s.io"),
        ],
        upgrade,
    );
    assert_eq!(
        headers
            .get_all("sec-websocket-protocol")
            .iter()
            .collect::<Vec<_>>(),
        ["v4.channel.k8s.io"]
    );
}

#[test]
fn upgrades_that_are_not_known_are_none() {
    let asked = |connection: &str, upgrade: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("connection", connection.parse().unwrap());
        headers.insert("upgrade", upgrade.parse().unwrap());
        requested_upgrade(&headers)
    };
    assert_eq!(asked("Upgrade", "SPDY/3.1"), Some(UpgradeProtocol::Spdy));
    assert_eq!(
        asked("keep-alive, upgrade", "WebSocket"),
        Some(UpgradeProtocol::WebSocket)
    );
    for (connection, upgrade) in [
        ("close", "websocket"),
        ("upgrade", "h2c"),
        ("upgrade", "websocket, h2c"),
    ] {
        assert_eq!(asked(connection, upgrade), None, "{upgrade}");
    }
}

#[test]
fn an_answer_that_is_filtered_is_asked_for_whole_and_as_it_is() {
    let mut headers = HeaderMap::new();
    for name in [
        "Range",
        "If-Range",
        "If-Match",
        "If-None-Match",
        "If-Modified-Since",
        "If-Unmodified-Since",
    ] {
        headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::from_static("x"));
    }
    for accept in ["application/cbor", "application/json;q=0.5, text/plain"] {
        headers.append(header::ACCEPT, HeaderValue::from_static(accept));
    }
    headers.append(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    for_filter(&mut headers);
    let mut left: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect();
    left.sort_unstable();
    assert_eq!(
        left,
        [
            ("accept", "application/json;q=0.5"),
            ("accept-encoding", "identity")
        ]
    );
    // What is no text names no encoding.
    headers.append(header::ACCEPT, HeaderValue::from_bytes(b"\xff").unwrap());
    assert_eq!(filterable_accept(&headers), None);
}
