//! The index, fed with small clusters.

#[path = "index_limit_tests.rs"]
mod limits;
#[path = "index_own_tests.rs"]
mod own;

use serde_json::{Value, json};

use super::super::testing::{node, service, slice};
use super::*;

const LIMIT: usize = 65_536;

fn addresses(texts: &[&str]) -> BTreeSet<SocketAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn has(set: &BTreeSet<SocketAddr>, texts: &[&str]) -> bool {
    addresses(texts).is_subset(set)
}

fn targets(texts: &[&str]) -> Vec<EndpointTarget> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// An index and a clock.
struct IndexFixture {
    index: EndpointIndex,
    now: Instant,
}

impl IndexFixture {
    fn nothing(config: ProtectedEndpointsConfig, limit: usize) -> Self {
        Self {
            index: EndpointIndex::new(config, limit),
            now: Instant::now(),
        }
    }

    fn lists(&mut self, services: &[Value], slices: &[Value], nodes: &[Value]) {
        self.index.service(watcher::Event::Init);
        self.index.slice(watcher::Event::Init);
        self.index.node(watcher::Event::Init);
        for one in services {
            self.index.service(watcher::Event::InitApply(
                serde_json::from_value(one.clone()).unwrap(),
            ));
        }
        for one in slices {
            self.index.slice(watcher::Event::InitApply(
                serde_json::from_value(one.clone()).unwrap(),
            ));
        }
        for one in nodes {
            self.index.node(watcher::Event::InitApply(
                serde_json::from_value(one.clone()).unwrap(),
            ));
        }
        self.index.service(watcher::Event::InitDone);
        self.index.slice(watcher::Event::InitDone);
        self.index.node(watcher::Event::InitDone);
    }

    /// A cluster of two nodes: this one runs the API server, the other has pods alone.
    fn cluster() -> Self {
        let mut fixture = Self::nothing(config(), LIMIT);
        fixture.index.set_node_addresses(
            ["10.0.0.1", "10.244.1.1", "127.0.0.1", "::1", "fe80::1"]
                .iter()
                .map(|ip| ip.parse().unwrap())
                .collect(),
        );
        fixture.lists(
            &[own_service()],
            &[own_slice(&["10.0.0.1"])],
            &[
                node("a", "10.0.0.1", "10.244.1.0/24"),
                node("b", "10.0.0.2", "10.244.2.0/24"),
            ],
        );
        fixture
    }

    fn service(&mut self, object: Value) -> bool {
        self.index
            .service(watcher::Event::Apply(serde_json::from_value(object).unwrap()))
    }

    fn slice(&mut self, object: Value) -> bool {
        self.index
            .slice(watcher::Event::Apply(serde_json::from_value(object).unwrap()))
    }

    fn unslice(&mut self, object: Value) -> bool {
        self.index
            .slice(watcher::Event::Delete(serde_json::from_value(object).unwrap()))
    }

    fn refresh(&mut self) -> ProtectedEndpoints {
        let endpoints = self.index.refresh(self.now).0;
        assert!(endpoints.redirect.is_disjoint(&endpoints.deny));
        endpoints
    }

    fn after(&mut self, seconds: u64) -> ProtectedEndpoints {
        self.now += Duration::from_secs(seconds);
        self.refresh()
    }
}

fn config() -> ProtectedEndpointsConfig {
    ProtectedEndpointsConfig {
        node: "a".into(),
        ..ProtectedEndpointsConfig::default()
    }
}

fn own_service() -> Value {
    service(
        "default",
        "kubernetes",
        json!({"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]}),
    )
}

fn own_slice(endpoints: &[&str]) -> Value {
    slice(
        "default",
        "kubernetes",
        "kubernetes",
        endpoints,
        json!([{"name": "https", "port": 6443}]),
    )
}

#[test]
fn without_the_cluster_only_what_is_known_anyway_is_told() {
    let config = ProtectedEndpointsConfig {
        redirect: targets(&["192.0.2.9:443"]),
        deny: targets(&["192.0.2.8:80"]),
        ..config()
    };
    let mut fixture = IndexFixture::nothing(config, LIMIT);
    fixture
        .index
        .set_node_addresses(["10.0.0.1".parse().unwrap()].into());
    let endpoints = fixture.refresh();
    assert!(!endpoints.whole);
    assert_eq!(endpoints.redirect, addresses(&["192.0.2.9:443"]));
    assert!(has(
        &endpoints.deny,
        &[
            "192.0.2.8:80",
            "169.254.169.254:80",
            "[fd00:ec2::254]:80",
            "[fd20:ce::254]:80",
            "[fe80::a9fe:a9fe]:80",
            "100.100.100.200:80",
            "168.63.129.16:80",
            "168.63.129.16:32526",
            "169.254.169.252:988",
            "169.254.169.254:988",
            "169.254.169.254:8080",
            "10.0.0.1:10250"
        ]
    ));
    // Each list alone is not all.
    fixture.lists(&[own_service()], &[], &[]);
    assert!(!fixture.refresh().whole, "no endpoint is known");
    fixture.lists(&[], &[own_slice(&["10.0.0.1"])], &[]);
    assert!(fixture.refresh().whole, "the Service stands as it was");
}

#[test]
fn whole_waits_for_every_list() {
    let mut fixture = IndexFixture::nothing(config(), LIMIT);
    fixture.service(own_service());
    fixture.slice(own_slice(&["10.0.0.1"]));
    assert!(!fixture.refresh().whole);
    fixture.index.service(watcher::Event::Init);
    fixture.index.service(watcher::Event::InitApply(
        serde_json::from_value(own_service()).unwrap(),
    ));
    fixture.index.service(watcher::Event::InitDone);
    fixture.index.slice(watcher::Event::Init);
    fixture.index.slice(watcher::Event::InitApply(
        serde_json::from_value(own_slice(&["10.0.0.1"])).unwrap(),
    ));
    fixture.index.slice(watcher::Event::InitDone);
    assert!(!fixture.refresh().whole, "other nodes are not known");
    fixture.index.node(watcher::Event::Init);
    fixture.index.node(watcher::Event::InitDone);
    assert!(fixture.refresh().whole);
}

#[test]
fn every_address_of_a_node_with_an_api_server_is_one() {
    let endpoints = IndexFixture::cluster().refresh();
    assert!(endpoints.whole);
    let all = [
        "10.96.0.1:443",
        "10.0.0.1:6443",
        "10.244.1.0:6443",
        "10.244.1.1:6443",
        "127.0.0.1:6443",
        "[::1]:6443",
        "[fe80::]:6443",
    ];
    assert_eq!(
        endpoints.redirect,
        addresses(&all),
        "and nothing of the other node"
    );
    assert!(has(
        &endpoints.deny,
        &["10.244.1.1:2379", "[fe80::]:2380", "127.0.0.1:2379"]
    ));
    assert!(
        !has(&endpoints.deny, &["10.0.0.2:2379"]),
        "etcd is where API servers are"
    );
    for ip in [
        "10.0.0.1",
        "127.0.0.1",
        "[fe80::]",
        "10.0.0.2",
        "10.244.2.0",
        "10.244.2.1",
    ] {
        for port in [10_250, 10_255, 2375, 2376, 4789, 8472, 6081, 988] {
            assert!(has(&endpoints.deny, &[&format!("{ip}:{port}")]), "{ip}:{port}");
        }
    }
}

#[test]
fn a_node_of_the_control_plane_has_one_by_its_label() {
    let mut fixture = IndexFixture::cluster();
    let mut marked = node("b", "10.0.0.2", "10.244.2.0/24");
    marked["metadata"]["labels"] = json!({"node-role.kubernetes.io/control-plane": ""});
    marked["status"]["daemonEndpoints"] = json!({"kubeletEndpoint": {"Port": 10_260}});
    assert!(
        fixture
            .index
            .node(watcher::Event::Apply(serde_json::from_value(marked).unwrap()))
    );
    let endpoints = fixture.refresh();
    assert!(has(&endpoints.redirect, &["10.0.0.2:6443", "10.244.2.1:6443"]));
    assert!(has(
        &endpoints.deny,
        &["10.0.0.2:2379", "10.0.0.2:10260", "10.244.2.1:10260"]
    ));
}

#[test]
fn an_api_server_behind_a_local_balancer_is_known_by_the_configuration() {
    let mut fixture = IndexFixture::cluster();
    fixture.index.config.redirect = targets(&["127.0.0.1:7443"]);
    let endpoints = fixture.refresh();
    assert!(has(
        &endpoints.redirect,
        &["127.0.0.1:7443", "10.244.1.1:7443", "[fe80::]:7443"]
    ));
    assert!(!has(&endpoints.redirect, &["10.0.0.2:7443"]));
}

#[test]
fn a_service_that_leads_to_an_endpoint_is_one() {
    let mut fixture = IndexFixture::cluster();
    fixture.refresh();
    let spec = json!({"clusterIP": "10.96.7.7", "externalIPs": ["192.0.2.7"], "type": "NodePort",
        "ports": [{"name": "a", "port": 8443, "nodePort": 30_443}, {"name": "b", "port": 9443}, {"name": "c", "port": 53, "protocol": "UDP"}]});
    assert!(
        !fixture.service(service("x", "hand", spec)),
        "it leads nowhere yet"
    );
    let mut made = slice(
        "x",
        "hand-1",
        "hand",
        &["192.0.2.99", "10.244.1.1"],
        json!([{"name": "a", "port": 6443}, {"name": "b", "port": 80}]),
    );
    made["endpoints"][0]["conditions"] = json!({"ready": false});
    assert!(fixture.slice(made.clone()));
    let endpoints = fixture.refresh();
    let by = [
        "10.96.7.7:8443",
        "192.0.2.7:8443",
        "10.0.0.1:30443",
        "10.244.1.1:30443",
        "127.0.0.1:30443",
        "[fe80::]:30443",
        "10.0.0.2:30443",
        "10.244.2.1:30443",
    ];
    assert!(has(&endpoints.redirect, &by), "{:?}", endpoints.redirect);
    for other in [
        "10.96.7.7:9443",
        "10.96.7.7:53",
        "10.96.7.7:6443",
        "192.0.2.99:6443",
    ] {
        assert!(!has(&endpoints.redirect, &[other]), "{other}");
    }
    // It goes, and what it led by goes when its time is over.
    assert!(fixture.unslice(made));
    assert!(has(&fixture.after(299).redirect, &by));
    assert!(!has(&fixture.after(301).redirect, &["10.96.7.7:8443"]));
}

/// Names of ports differ within a Service, whatever the protocols; numbers need not.
#[test]
fn a_service_of_another_protocol_that_leads_to_an_endpoint_is_one_too() {
    let mut fixture = IndexFixture::cluster();
    fixture.refresh();
    let ports = json!([
        {"name": "dns", "port": 53, "nodePort": 30_053, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "nodePort": 30_053},
        {"name": "vxlan", "port": 5000, "nodePort": 30_500, "protocol": "UDP"}, {"name": "web", "port": 80},
        {"name": "quic", "port": 443, "protocol": "UDP"}, {"name": "sctp", "port": 9000, "protocol": "SCTP"}]);
    fixture.service(service(
        "x",
        "udp",
        json!({"clusterIP": "10.96.7.7", "externalIPs": ["192.0.2.7"], "type": "NodePort", "ports": ports}),
    ));
    let pods = json!([{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53},
        {"name": "web", "port": 8080}]);
    assert!(!fixture.slice(slice("x", "udp-1", "udp", &["10.244.2.9"], pods)));
    let before = fixture.refresh();
    // By hand, as a slice's own Service would not lead to a node.
    for (name, port, protocol) in [
        ("vxlan", 4789, "UDP"),
        ("quic", 6443, "UDP"),
        ("sctp", 10_250, "SCTP"),
    ] {
        let port = json!([{"name": name, "port": port, "protocol": protocol}]);
        assert!(
            fixture.slice(slice("x", name, "udp", &["10.0.0.1"], port)),
            "{name}"
        );
    }
    let endpoints = fixture.refresh();
    let denied = addresses(&[
        "10.96.7.7:5000",
        "192.0.2.7:5000",
        "10.0.0.1:30500",
        "10.0.0.2:30500",
        "10.96.7.7:9000",
    ]);
    assert!(denied.is_subset(&endpoints.deny), "{:?}", endpoints.deny);
    assert!(has(&endpoints.redirect, &["10.96.7.7:443", "192.0.2.7:443"]));
    // What shares the Service and leads to pods stays open, DNS above all.
    let added: BTreeSet<u16> = (endpoints.deny.difference(&before.deny))
        .chain(endpoints.redirect.difference(&before.redirect))
        .map(SocketAddr::port)
        .collect();
    assert_eq!(added, [443, 5000, 9000, 30_500].into());
}

#[test]
fn names_of_ports_and_namespaces_tie_a_slice_to_its_service() {
    let mut fixture = IndexFixture::cluster();
    fixture.refresh();
    fixture.service(service(
        "x",
        "hand",
        json!({"clusterIP": "10.96.7.7", "ports": [{"port": 1}]}),
    ));
    fixture.service(service(
        "y",
        "hand",
        json!({"clusterIP": "10.96.7.8", "ports": [{"name": "a", "port": 2}]}),
    ));
    fixture.slice(slice(
        "x",
        "s",
        "hand",
        &["10.0.0.1"],
        json!([{"name": "a", "port": 6443}]),
    ));
    fixture.slice(slice("y", "s", "hand", &["10.0.0.1"], json!([{"port": 6443}])));
    assert_eq!(
        fixture.refresh().redirect,
        IndexFixture::cluster().refresh().redirect,
        "the ports' names differ"
    );
    assert!(fixture.slice(slice("x", "s", "hand", &["10.0.0.1"], json!([{"port": 6443}]))));
    assert!(has(&fixture.refresh().redirect, &["10.96.7.7:1"]));
    assert!(!has(&fixture.refresh().redirect, &["10.96.7.8:2"]));
}

#[test]
fn services_are_followed_through_services_whatever_their_order() {
    let mut fixture = IndexFixture::cluster();
    // z leads to the API server, y to z's node port on the other node, and so on.
    let chain = ["z", "y", "x", "w"];
    let mut before = ("10.0.0.1".to_owned(), 6443);
    for (number, name) in chain.iter().enumerate() {
        let node_port = 30_000 + number;
        let spec = json!({"clusterIP": format!("10.96.9.{number}"), "ports": [{"port": 443, "nodePort": node_port}]});
        fixture.service(service("x", name, spec));
        fixture.slice(slice(
            "x",
            &format!("{name}-1"),
            name,
            &[&before.0],
            json!([{"port": before.1}]),
        ));
        before = ("10.0.0.2".to_owned(), node_port);
    }
    let endpoints = fixture.refresh();
    assert!(has(
        &endpoints.redirect,
        &[
            "10.96.9.0:443",
            "10.96.9.3:443",
            "10.0.0.2:30003",
            "127.0.0.1:30003"
        ]
    ));
    // Two that lead to each other do not keep each other up.
    fixture.service(service(
        "x",
        "loop",
        json!({"clusterIP": "10.96.9.9", "ports": [{"port": 443}]}),
    ));
    fixture.slice(slice(
        "x",
        "loop-1",
        "loop",
        &["10.96.9.8", "10.0.0.1"],
        json!([{"port": 443}, {"name": "", "port": 6443}]),
    ));
    fixture.service(service(
        "x",
        "pool",
        json!({"clusterIP": "10.96.9.8", "ports": [{"port": 443}]}),
    ));
    fixture.slice(slice(
        "x",
        "pool-1",
        "pool",
        &["10.96.9.9"],
        json!([{"port": 443}]),
    ));
    assert!(has(
        &fixture.refresh().redirect,
        &["10.96.9.8:443", "10.96.9.9:443"]
    ));
    fixture.slice(slice(
        "x",
        "loop-1",
        "loop",
        &["10.96.9.8"],
        json!([{"port": 443}]),
    ));
    fixture.refresh();
    let endpoints = fixture.after(300);
    assert!(!has(&endpoints.redirect, &["10.96.9.8:443"]) && !has(&endpoints.redirect, &["10.96.9.9:443"]));
}

#[test]
fn where_both_would_hold_refusal_does_but_at_the_api_servers_own() {
    let mut fixture = IndexFixture::cluster();
    fixture.index.config.deny = targets(&["10.96.0.1:443", "10.0.0.1:6443", "192.0.2.5:443"]);
    fixture.service(service(
        "x",
        "mixed",
        json!({"clusterIP": "10.96.7.7", "ports": [{"port": 443}]}),
    ));
    fixture.slice(slice(
        "x",
        "mixed-1",
        "mixed",
        &["10.0.0.1"],
        json!([{"port": 6443}]),
    ));
    fixture.slice(slice(
        "x",
        "mixed-2",
        "mixed",
        &["10.0.0.2"],
        json!([{"port": 10_250}]),
    ));
    fixture.service(service(
        "x",
        "kubelets",
        json!({"clusterIP": "10.96.7.8", "ports": [{"port": 443, "nodePort": 30_250}]}),
    ));
    fixture.slice(slice(
        "x",
        "kubelets-1",
        "kubelets",
        &["10.0.0.2"],
        json!([{"port": 10_250}]),
    ));
    // An endpoint of the API server's own Service that is a kubelet: no pod gets there, and none is sent away from Picket.
    fixture.slice(slice(
        "default",
        "more",
        "kubernetes",
        &["10.0.0.2"],
        json!([{"port": 10_250}]),
    ));
    let endpoints = fixture.refresh();
    assert!(has(
        &endpoints.redirect,
        &["10.96.0.1:443", "10.0.0.1:6443", "10.0.0.2:10250"]
    ));
    assert!(has(&endpoints.deny, &["192.0.2.5:443"]));
    fixture.index.slice(watcher::Event::Delete(
        serde_json::from_value(slice("default", "more", "kubernetes", &[], json!([]))).unwrap(),
    ));
    fixture.refresh();
    // Its endpoint's time first, then that of the address.
    fixture.after(300);
    let endpoints = fixture.after(300);
    assert!(has(
        &endpoints.deny,
        &[
            "10.96.7.7:443",
            "10.96.7.8:443",
            "10.0.0.1:30250",
            "127.0.0.1:30250",
            "10.0.0.2:10250"
        ]
    ));
}

#[test]
fn what_is_allowed_is_no_refused_endpoint_and_stays_one_that_is_redirected() {
    let mut fixture = IndexFixture::cluster();
    fixture.index.config.allow = addresses(&["169.254.169.254:80", "10.0.0.2:10250", "10.0.0.1:6443"]);
    fixture.index.config.inherited.deny = addresses(&["169.254.169.254:80"]);
    let endpoints = fixture.refresh();
    assert!(!has(&endpoints.deny, &["169.254.169.254:80"]) && !has(&endpoints.deny, &["10.0.0.2:10250"]));
    assert!(has(&endpoints.deny, &["[fd00:ec2::254]:80"]) && has(&endpoints.redirect, &["10.0.0.1:6443"]));
}

#[test]
fn a_withdrawn_api_server_stays_an_endpoint_and_so_do_the_ways_to_it() {
    let mut fixture = IndexFixture::cluster();
    fixture.slice(own_slice(&["10.0.0.1", "10.0.0.3"]));
    fixture.refresh();
    assert!(fixture.slice(own_slice(&["10.0.0.1"])));
    assert!(has(&fixture.refresh().redirect, &["10.0.0.3:6443"]));
    // Somebody leads a Service there now.
    fixture.service(service(
        "x",
        "old",
        json!({"clusterIP": "10.96.7.7", "ports": [{"port": 443}]}),
    ));
    assert!(fixture.slice(slice("x", "old-1", "old", &["10.0.0.3"], json!([{"port": 6443}]))));
    assert!(has(
        &fixture.after(299).redirect,
        &["10.0.0.3:6443", "10.96.7.7:443"]
    ));
    // What leads there counts as withdrawn when its time is over, and so does the address itself.
    assert!(has(
        &fixture.after(1).redirect,
        &["10.0.0.3:6443", "10.96.7.7:443"]
    ));
    assert!(!has(&fixture.after(300).redirect, &["10.0.0.3:6443"]));
    // A cluster that names no endpoint and no Service at all changes nothing, however long.
    fixture.lists(&[], &[], &[]);
    fixture.refresh();
    fixture.after(100_000);
    let endpoints = fixture.after(100_000);
    assert!(endpoints.whole && has(&endpoints.redirect, &["10.96.0.1:443", "10.0.0.1:6443"]));
}

#[test]
fn endpoints_of_an_agent_before_stay_for_their_time() {
    let inherited = ProtectedEndpoints {
        redirect: addresses(&["10.0.0.3:6443", "10.96.0.1:443"]),
        deny: addresses(&["10.0.0.9:10250", "10.0.0.1:6443"]),
        ..ProtectedEndpoints::default()
    };
    let mut fixture = IndexFixture::nothing(
        ProtectedEndpointsConfig {
            inherited,
            ..config()
        },
        LIMIT,
    );
    let endpoints = fixture.refresh();
    assert!(
        endpoints.redirect.is_empty(),
        "until the cluster has answered, the kernel has them as they were"
    );
    fixture.lists(&[own_service()], &[own_slice(&["10.0.0.1"])], &[]);
    let endpoints = fixture.refresh();
    assert!(endpoints.whole && has(&endpoints.deny, &["10.0.0.9:10250"]));
    assert!(has(
        &endpoints.redirect,
        &["10.0.0.3:6443", "10.96.0.1:443", "10.0.0.1:6443"]
    ));
    let endpoints = fixture.after(300);
    assert!(!has(&endpoints.redirect, &["10.0.0.3:6443"]) && !has(&endpoints.deny, &["10.0.0.9:10250"]));
    assert!(has(&endpoints.redirect, &["10.96.0.1:443", "10.0.0.1:6443"]));
}

#[test]
fn names_are_endpoints_where_they_lead() {
    let ip = |text: &str| -> Vec<IpAddr> { vec![text.parse().unwrap()] };
    let mut fixture = IndexFixture::nothing(
        ProtectedEndpointsConfig {
            redirect: targets(&["api.example:6443"]),
            deny: targets(&["etcd.example:2379"]),
            ..config()
        },
        LIMIT,
    );
    let mut own = own_service();
    own["status"] = json!({"loadBalancer": {"ingress": [{"hostname": "lb.example"}]}});
    fixture.lists(
        &[own],
        &[own_slice(&["10.0.0.1"])],
        &[node("a", "10.0.0.1", "10.244.1.0/24")],
    );
    let (endpoints, new) = fixture.index.refresh(fixture.now);
    assert!(new && !endpoints.whole, "the configured names have no answer yet");
    assert_eq!(
        fixture.index.wanted(),
        ["api.example", "etcd.example", "lb.example"]
    );
    fixture.index.answer("api.example", &ip("192.0.2.1"), fixture.now);
    assert_eq!(fixture.index.waiting_for_name(), Some("etcd.example"));
    fixture
        .index
        .answer("etcd.example", &ip("192.0.2.2"), fixture.now);
    let endpoints = fixture.refresh();
    assert!(
        endpoints.whole,
        "a balancer's name that has no answer holds up nothing"
    );
    fixture.index.answer("lb.example", &ip("192.0.2.3"), fixture.now);
    let endpoints = fixture.refresh();
    assert!(
        has(&endpoints.redirect, &["192.0.2.1:6443", "192.0.2.3:443"])
            && has(&endpoints.deny, &["192.0.2.2:2379"])
    );
    // A Service that leads to it by a balancer with a name.
    let mut made = service(
        "x",
        "hand",
        json!({"clusterIP": "10.96.7.7", "ports": [{"port": 8443}]}),
    );
    made["status"] =
        json!({"loadBalancer": {"ingress": [{"hostname": "hand.example"}, {"ip": "192.0.2.4"}]}});
    fixture.service(made);
    fixture.slice(slice("x", "s", "hand", &["192.0.2.1"], json!([{"port": 6443}])));
    assert!(fixture.index.refresh(fixture.now).1);
    fixture
        .index
        .answer("hand.example", &ip("192.0.2.5"), fixture.now);
    assert!(has(
        &fixture.refresh().redirect,
        &["10.96.7.7:8443", "192.0.2.4:8443", "192.0.2.5:8443"]
    ));
}

#[test]
fn changes_that_do_not_matter_ask_for_no_look() {
    let mut fixture = IndexFixture::cluster();
    fixture.refresh();
    assert!(!fixture.slice(slice("x", "s", "app", &["10.244.2.9"], json!([{"port": 8080}]))));
    assert!(!fixture.slice(slice(
        "x",
        "s",
        "app",
        &["10.244.2.9", "10.244.2.10"],
        json!([{"port": 8080}])
    )));
    assert!(!fixture.service(service(
        "x",
        "app",
        json!({"clusterIP": "10.96.3.3", "ports": [{"port": 80}]})
    )));
    let mut heartbeat = node("b", "10.0.0.2", "10.244.2.0/24");
    heartbeat["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}]);
    assert!(
        !fixture
            .index
            .node(watcher::Event::Apply(serde_json::from_value(heartbeat).unwrap()))
    );
    // These do.
    assert!(fixture.slice(slice("x", "s", "app", &["10.0.0.1"], json!([{"port": 6443}]))));
    assert!(fixture.service(service(
        "x",
        "app",
        json!({"clusterIP": "10.96.3.3", "ports": [{"port": 81}]})
    )));
    fixture.refresh();
    assert!(
        fixture.slice(slice("x", "s", "app", &["10.244.2.9"], json!([{"port": 8080}]))),
        "it led to a protected endpoint before"
    );
    assert!(
        !fixture
            .index
            .set_node_addresses(fixture.index.node_addresses.clone())
    );
    assert!(
        fixture
            .index
            .set_node_addresses(["10.0.0.1".parse().unwrap()].into())
    );
}
