//! What whoever may write the Service `kubernetes`, or slices of it, can and cannot do to the protected endpoints.

use super::super::super::bounded::{OTHER_SLICES, OWN_SERVICE, OWN_SLICE};
use super::*;

/// The API server's addresses in [`IndexFixture::cluster`].
const REAL: [&str; 4] = [
    "10.96.0.1:443",
    "10.0.0.1:6443",
    "10.244.1.1:6443",
    "127.0.0.1:6443",
];

fn made_up(first: u8, count: u32) -> Vec<String> {
    let address = |number: u32| std::net::Ipv4Addr::from(u32::from(first) << 24 | number);
    (1..=count).map(|number| address(number).to_string()).collect()
}

fn ports(count: u16) -> Value {
    (1..=count)
        .map(|port| json!({"name": format!("p{port}"), "port": port}))
        .collect()
}

/// A slice of the API server's Service with many addresses and ports.
fn flood(name: &str, first: u8, addresses: u32, count: u16) -> Value {
    let made_up = made_up(first, addresses);
    let made_up: Vec<&str> = made_up.iter().map(String::as_str).collect();
    slice("default", name, "kubernetes", &made_up, ports(count))
}

fn all_real(endpoints: &ProtectedEndpoints) -> bool {
    has(&endpoints.redirect, &REAL) && has(&endpoints.deny, &["169.254.169.254:80", "10.0.0.2:10250"])
}

#[test]
fn slices_of_other_names_push_nothing_out() {
    let mut fixture = IndexFixture::cluster();
    fixture.refresh();
    // The first sorts before the slice of the API server, the other after it.
    fixture.slice(flood("a", 1, 1000, 70));
    fixture.slice(flood("z", 2, 1000, 70));
    let endpoints = fixture.after(1);
    assert!(all_real(&endpoints), "{} redirected", endpoints.redirect.len());
    let own = endpoints.redirect.iter().filter(|at| at.port() < 100);
    assert!(own.count() <= OTHER_SLICES.endpoints + OTHER_SLICES.ports * 5);
    assert_eq!(endpoints.omitted, 140_000 - OTHER_SLICES.endpoints);
    assert_eq!(endpoints.essential_omitted, endpoints.omitted);
    // An API server that the control plane gains then is one all the same.
    fixture.slice(own_slice(&["10.0.0.1", "10.0.0.7"]));
    assert!(has(&fixture.after(1).redirect, &["10.0.0.7:6443"]));
    fixture.unslice(flood("a", 1, 1, 1));
    fixture.unslice(flood("z", 1, 1, 1));
    let endpoints = fixture.after(1);
    assert!(all_real(&endpoints) && endpoints.essential_omitted == 0);
}

#[test]
fn a_fresh_agent_finds_the_api_server_in_the_flood() {
    let mut fixture = IndexFixture::nothing(config(), LIMIT);
    let nodes = [
        node("a", "10.0.0.1", "10.244.1.0/24"),
        node("b", "10.0.0.2", "10.244.2.0/24"),
    ];
    let slices = [
        flood("a", 1, 1000, 70),
        own_slice(&["10.0.0.1"]),
        flood("z", 2, 1000, 70),
    ];
    fixture.lists(&[own_service()], &slices, &nodes);
    let endpoints = fixture.refresh();
    assert!(has(
        &endpoints.redirect,
        &["10.96.0.1:443", "10.0.0.1:6443", "10.244.1.1:6443"]
    ));
    assert!(has(&endpoints.deny, &["10.0.0.1:2379", "10.0.0.2:10250"]));
}

#[test]
fn the_own_slice_is_bounded_and_what_was_there_stays() {
    let mut fixture = IndexFixture::cluster();
    fixture.refresh();
    fixture.slice(flood("kubernetes", 1, 1000, 70));
    let endpoints = fixture.after(1);
    assert!(all_real(&endpoints), "the withdrawn ones have their time");
    assert_eq!(fixture.index.own_slice.len(), OWN_SLICE.endpoints);
    assert!(endpoints.essential_omitted >= 70_000 - OWN_SLICE.endpoints);
    // One flood after the other: none takes the place of the real one, and nothing grows.
    for round in 2..20 {
        fixture.slice(flood("kubernetes", round, 1000, 70));
        let endpoints = fixture.after(1);
        assert!(all_real(&endpoints));
        assert!(endpoints.redirect.len() < 1000, "{}", endpoints.redirect.len());
    }
    // The API server writes it anew.
    fixture.slice(own_slice(&["10.0.0.1"]));
    let endpoints = fixture.after(1);
    assert!(all_real(&endpoints) && endpoints.essential_omitted == 0);
}

#[test]
fn external_addresses_of_the_own_service_go_the_way_of_others() {
    let mut fixture = IndexFixture::cluster();
    let mut flooded = own_service();
    flooded["spec"]["externalIPs"] = json!(["192.0.2.7"]);
    fixture.service(flooded.clone());
    fixture.refresh();
    let mut external = made_up(1, 1000);
    external.push("192.0.2.7".to_owned());
    flooded["spec"]["externalIPs"] = json!(external);
    let mut spec_ports = ports(71).as_array().unwrap().clone();
    spec_ports.push(json!({"name": "https", "port": 443, "nodePort": 30_443}));
    flooded["spec"]["ports"] = json!(spec_ports);
    fixture.service(flooded);
    let endpoints = fixture.after(1);
    assert!(all_real(&endpoints));
    let ranks = |rank| {
        fixture
            .index
            .found
            .endpoints()
            .filter(move |(_, of)| of.rank == rank)
    };
    assert_eq!(ranks(Rank::Service).count(), LIMIT / 2);
    assert!(ranks(Rank::Api).count() < 100);
    assert_eq!(
        fixture.index.own_service.len(),
        OWN_SERVICE.ports,
        "32 ports of one address"
    );
    assert!(endpoints.omitted > 71_000 - LIMIT / 2);
    assert!(endpoints.essential_omitted > 0);
    assert!(
        has(&fixture.after(1000).redirect, &["192.0.2.7:443"]),
        "it was there before"
    );
    assert!(endpoints.redirect.len() + endpoints.deny.len() < LIMIT);
}

#[test]
fn external_addresses_and_node_ports_of_the_own_service_are_protected() {
    let mut fixture = IndexFixture::cluster();
    let mut exposed = own_service();
    exposed["spec"]["externalIPs"] = json!(["192.0.2.7"]);
    exposed["spec"]["ports"][0]["nodePort"] = json!(30_443);
    exposed["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.8"}]}});
    fixture.service(exposed);
    let endpoints = fixture.refresh();
    assert!(has(
        &endpoints.redirect,
        &[
            "10.96.0.1:443",
            "192.0.2.7:443",
            "192.0.2.8:443",
            "10.0.0.2:30443",
            "127.0.0.1:30443"
        ]
    ));
    // A Service without its cluster address is not what the API server made, and the last one stands.
    let mut taken = own_service();
    taken["spec"] = json!({"type": "ExternalName", "externalIPs": ["192.0.2.9"], "ports": [{"name": "https", "port": 443}]});
    fixture.service(taken);
    fixture.refresh();
    assert!(has(
        &fixture.after(10_000).redirect,
        &["10.96.0.1:443", "10.0.0.1:6443"]
    ));
}

#[test]
fn the_last_endpoints_stand_while_the_own_slice_names_none() {
    let mut fixture = IndexFixture::cluster();
    fixture.refresh();
    fixture.unslice(own_slice(&["10.0.0.1"]));
    fixture.slice(slice(
        "default",
        "more",
        "kubernetes",
        &["192.0.2.1"],
        json!([{"port": 6443}]),
    ));
    fixture.refresh();
    fixture.after(10_000);
    assert!(has(
        &fixture.after(10_000).redirect,
        &["10.0.0.1:6443", "192.0.2.1:6443"]
    ));
}

#[test]
fn what_is_configured_goes_before_all_that_objects_bring() {
    let mut fixture = IndexFixture::nothing(config(), 3);
    fixture.index.config.redirect = targets(&["192.0.2.200:6443"]);
    fixture.index.config.deny = targets(&["192.0.2.201:1"]);
    fixture.lists(&[own_service()], &[own_slice(&["10.0.0.1"])], &[]);
    let endpoints = fixture.refresh();
    assert!(has(&endpoints.redirect, &["192.0.2.200:6443"]) && has(&endpoints.deny, &["192.0.2.201:1"]));
    // The API server's Service and endpoint, less one, and the metadata.
    assert_eq!(endpoints.essential_omitted, 1 + 15);
}

#[test]
fn what_the_kernel_holds_goes_before_new_addresses_of_its_rank() {
    let mut fixture = IndexFixture::nothing(config(), 42);
    // One node of three addresses has 24 endpoints besides 15 of metadata, the Service and the API server.
    fixture.lists(
        &[own_service()],
        &[own_slice(&["192.0.2.1"])],
        &[node("z", "10.9.0.1", "10.244.9.0/24")],
    );
    let before = fixture.refresh();
    assert_eq!(
        (before.redirect.len(), before.deny.len(), before.omitted),
        (2, 39, 0)
    );
    for number in 0..10 {
        let name = format!("n{number}");
        let address = format!("10.1.0.{number}");
        let more = node(&name, &address, &format!("10.244.{number}.0/24"));
        fixture
            .index
            .node(watcher::Event::Apply(serde_json::from_value(more).unwrap()));
    }
    let endpoints = fixture.after(1);
    let of_old = |endpoints: &ProtectedEndpoints| {
        has(
            &endpoints.deny,
            &[
                "10.9.0.1:10250",
                "10.9.0.1:10255",
                "10.244.9.1:10250",
                "10.244.9.0:4789",
            ],
        )
    };
    assert!(
        endpoints.omitted > 200 && of_old(&endpoints),
        "{:?}",
        endpoints.deny
    );
    assert_eq!(endpoints.essential_omitted, 0);
}

#[test]
fn services_that_come_and_go_push_no_kubelet_out_and_fill_no_memory() {
    let mut fixture = IndexFixture::nothing(config(), 100);
    fixture.lists(
        &[own_service()],
        &[own_slice(&["10.0.0.1"])],
        &[node("a", "10.0.0.1", "10.244.1.0/24")],
    );
    let before = fixture.refresh();
    fixture.slice(slice("a", "s", "s", &["10.0.0.1"], json!([{"port": 6443}])));
    for round in 1..20 {
        let spec = json!({"externalIPs": made_up(round, 60), "ports": [{"port": 8443}]});
        fixture.service(service("a", "s", spec));
        let endpoints = fixture.after(1);
        assert!(before.deny.is_subset(&endpoints.deny), "round {round}");
        assert!(before.redirect.is_subset(&endpoints.redirect), "round {round}");
    }
    assert!(
        fixture.index.endpoints.len() <= 150,
        "{}",
        fixture.index.endpoints.len()
    );
}

#[test]
fn an_agent_that_starts_again_keeps_the_services_that_the_kernel_holds() {
    let inherited = ProtectedEndpoints {
        redirect: addresses(&["10.97.9.9:8443", "10.96.0.1:443", "10.0.0.1:6443"]),
        ..ProtectedEndpoints::default()
    };
    let config = ProtectedEndpointsConfig {
        inherited,
        ..config()
    };
    let mut fixture = IndexFixture::nothing(config, 100);
    let mut services = vec![own_service()];
    let mut slices = vec![own_slice(&["10.0.0.1"])];
    let mut lead = |namespace: &str, name: &str, address: &str| {
        let spec = json!({"clusterIP": address, "ports": [{"port": 8443}]});
        services.push(service(namespace, name, spec));
        slices.push(slice(
            namespace,
            name,
            name,
            &["10.0.0.1"],
            json!([{"port": 6443}]),
        ));
    };
    for number in 0..90 {
        lead("a", &format!("s{number}"), &format!("10.97.0.{number}"));
    }
    lead("z", "hand", "10.97.9.9");
    fixture.lists(&services, &slices, &[]);
    fixture.refresh();
    assert!(has(&fixture.after(1000).redirect, &["10.97.9.9:8443"]));
}

#[test]
fn no_flood_keeps_the_own_objects_out_of_the_cache() {
    let mut fixture = IndexFixture::cluster();
    fixture.refresh();
    // What leads to a protected endpoint is kept beyond the bound of a namespace, until that has an end too.
    let mut fill = |count: u16, slices: u16| {
        let leading = (0..count).map(|number| json!({"name": format!("p{number}"), "port": 6443 + number}));
        let leading: Value = leading.collect();
        for number in 0..slices {
            let name = format!("s{count}-{number}");
            fixture.slice(slice("x", &name, "x", &["10.0.0.1"], leading.clone()));
        }
    };
    fill(20_000, 105);
    for count in [10_000, 5000, 2500, 1250, 600, 300, 150, 75, 40, 20] {
        fill(count, 2);
    }
    assert!(fixture.index.slices.omitted() > 0, "there is room left");
    let grown: Vec<String> = (1..=200).map(|number| format!("10.0.3.{number}")).collect();
    let grown: Vec<&str> = grown.iter().map(String::as_str).collect();
    fixture.slice(own_slice(&grown));
    assert!(has(
        &fixture.after(1).redirect,
        &["10.0.3.1:6443", "10.0.3.200:6443"]
    ));
}

#[test]
fn a_service_of_very_many_addresses_and_ports_keeps_nobody_busy() {
    let mut fixture = IndexFixture::cluster();
    fixture.refresh();
    let mut flooded = own_service();
    flooded["spec"]["externalIPs"] = json!(made_up(1, 30_000));
    let mut many = ports(20_000);
    many[442]["name"] = json!("https");
    flooded["spec"]["ports"] = many;
    fixture.service(flooded);
    let began = std::time::Instant::now();
    let endpoints = fixture.after(1);
    // Some 600 million looks take minutes, and a look at each port less than a second.
    assert!(began.elapsed() < Duration::from_secs(60));
    assert!(all_real(&endpoints) && endpoints.omitted > 500_000_000);
}
