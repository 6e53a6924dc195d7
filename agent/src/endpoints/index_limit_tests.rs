//! What the index keeps where there is more than it may hold.

use super::super::super::derive::ROUNDS;
use super::*;

#[test]
fn beyond_the_limit_the_most_important_are_kept_and_the_others_counted() {
    let mut fixture = IndexFixture::nothing(config(), 30);
    let nodes: Vec<Value> = (1..100)
        .map(|number| {
            node(
                &format!("n{number}"),
                &format!("10.1.0.{number}"),
                &format!("10.244.{number}.0/24"),
            )
        })
        .collect();
    fixture.lists(&[own_service()], &[own_slice(&["10.1.0.1"])], &nodes);
    fixture.service(service(
        "x",
        "hand",
        json!({"clusterIP": "10.96.7.7", "ports": [{"port": 8443}]}),
    ));
    fixture.slice(slice("x", "s", "hand", &["10.1.0.1"], json!([{"port": 6443}])));
    let endpoints = fixture.refresh();
    assert_eq!(endpoints.redirect.len() + endpoints.deny.len(), 30);
    assert_eq!(
        endpoints.redirect,
        addresses(&[
            "10.96.0.1:443",
            "10.1.0.1:6443",
            "10.244.1.0:6443",
            "10.244.1.1:6443",
            "10.96.7.7:8443"
        ])
    );
    assert!(has(&endpoints.deny, &["169.254.169.254:80", "10.1.0.1:2379"]));
    // 99 nodes of three addresses with eight ports, two ports of etcd on one, the metadata, and those above.
    assert_eq!(endpoints.omitted, 99 * 3 * 8 + 3 * 2 + 15 + 5 - 30);
    // Node ports by the hundred take no more memory than the kernel would hold.
    for number in 0..50 {
        let name = format!("more{number}");
        fixture.service(service("x", &name, json!({"clusterIP": "10.96.8.8", "ports": [{"port": 1000 + number, "nodePort": 30_000 + number}]})));
        fixture.slice(slice("x", &name, &name, &["10.1.0.1"], json!([{"port": 6443}])));
    }
    let endpoints = fixture.refresh();
    assert_eq!(endpoints.redirect.len() + endpoints.deny.len(), 30);
    assert!(
        has(&endpoints.redirect, &["10.96.0.1:443", "10.1.0.1:6443"])
            && has(&endpoints.deny, &["169.254.169.254:80"])
    );
    assert!(endpoints.omitted > 50 * 99);
    assert!(fixture.index.found.endpoints().count() < 3000);
}

#[test]
fn namespaces_full_of_slices_hide_no_way_to_the_api_server() {
    let mut fixture = IndexFixture::cluster();
    let junk: Vec<String> = (0..62_000)
        .map(|number| std::net::Ipv4Addr::from(0x0b00_0000 + number).to_string())
        .collect();
    let junk: Vec<&str> = junk.iter().map(String::as_str).collect();
    let ports = || json!([{"name": "https", "port": 6443}]);
    for namespace in ["v", "w", "x", "y", "z"] {
        for name in ["1", "2", "3", "4"] {
            fixture.slice(slice(namespace, name, "junk", &junk, ports()));
        }
    }
    for count in [7_000, 700, 200, 50, 20, 10, 5, 1] {
        fixture.slice(slice("z", &count.to_string(), "junk", &junk[..count], ports()));
    }
    fixture.refresh();
    assert!(fixture.index.slices.omitted() > 4, "there is room left");
    fixture.slice(own_slice(&[
        "10.0.0.1", "10.0.0.7", "10.0.0.8", "10.0.0.9", "10.0.1.1",
    ]));
    let mixed = [&junk[..], &["10.0.0.1"]].concat();
    fixture.service(service(
        "x",
        "hand",
        json!({"clusterIP": "10.96.7.7", "ports": [{"name": "https", "port": 8443}]}),
    ));
    fixture.slice(slice("x", "hand", "hand", &mixed, ports()));
    let endpoints = fixture.refresh();
    assert!(has(
        &endpoints.redirect,
        &["10.0.0.1:6443", "10.0.1.1:6443", "10.96.7.7:8443"]
    ));
    assert!(endpoints.omitted > 4);
}

#[test]
fn a_flood_of_services_takes_no_protection_from_those_before() {
    let mut fixture = IndexFixture::nothing(config(), 100);
    fixture.lists(
        &[own_service()],
        &[own_slice(&["10.0.0.1"])],
        &[node("a", "10.0.0.1", "10.244.1.0/24")],
    );
    let mut lead = |namespace: &str, name: &str, address: &str| {
        fixture.service(service(
            namespace,
            name,
            json!({"clusterIP": address, "ports": [{"port": 8443}]}),
        ));
        fixture.slice(slice(
            namespace,
            name,
            name,
            &["10.0.0.1"],
            json!([{"port": 6443}]),
        ));
        fixture.after(1)
    };
    assert!(has(&lead("z", "hand", "10.96.7.7").redirect, &["10.96.7.7:8443"]));
    for number in 0..90 {
        lead("a", &format!("s{number}"), &format!("10.97.0.{number}"));
    }
    for _ in 0..3 {
        let endpoints = fixture.after(400);
        assert!(has(&endpoints.redirect, &["10.96.7.7:8443", "10.97.0.3:8443"]));
        assert!(endpoints.omitted >= 40, "{}", endpoints.omitted);
    }
}

#[test]
fn services_beyond_the_longest_chain_are_counted() {
    let mut fixture = IndexFixture::cluster();
    let mut before = ("10.0.0.1".to_owned(), 6443);
    let mut lead = |fixture: &mut IndexFixture, number: usize| {
        // Slices are read by name, so that each round finds one more.
        let (name, port) = (format!("s{:03}", 999 - number), 2000 + number);
        let address = format!("10.97.0.{number}");
        let spec = json!({"clusterIP": address, "ports": [{"port": port}]});
        fixture.service(service("x", &name, spec));
        fixture.slice(slice(
            "x",
            &name,
            &name,
            &[&before.0],
            json!([{"port": before.1}]),
        ));
        before = (address, port);
    };
    for number in 0..ROUNDS {
        lead(&mut fixture, number);
    }
    let endpoints = fixture.refresh();
    assert_eq!(endpoints.omitted, 0);
    assert!(has(&endpoints.redirect, &["10.97.0.63:2063"]));
    for number in ROUNDS..ROUNDS + 3 {
        lead(&mut fixture, number);
    }
    let endpoints = fixture.refresh();
    assert_eq!(endpoints.omitted, 1, "what one more round would find");
    assert!(!has(&endpoints.redirect, &["10.97.0.64:2064"]));
}

#[test]
fn links_of_many_pods_make_no_more_endpoints_than_one() {
    let with_links = |links: u16| {
        let mut fixture = IndexFixture::cluster();
        let mut own: BTreeSet<IpAddr> = ["10.0.0.1", "10.244.1.1", "127.0.0.1", "::1"]
            .map(|ip| ip.parse().unwrap())
            .into();
        own.extend((1..=links).map(|link| IpAddr::from([0xfe80, 0, 0, 0, 0x1234, 0, 0, link])));
        fixture.index.set_node_addresses(own);
        fixture.refresh()
    };
    let (few, many) = (with_links(2), with_links(54));
    assert_eq!(few, many);
    let at: SocketAddr = "[fe80::1234:0:0:7]:6443".parse().unwrap();
    assert!(many.redirects(at) && !many.redirects("[fec0::7]:6443".parse().unwrap()));
}
