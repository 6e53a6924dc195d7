//! Places of strangers, and of callers who became known.

use std::net::Ipv4Addr;

use super::*;
use crate::metrics::MetricsRegistry;

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn an_address_has_its_part_and_takes_no_other_one_s() {
    let callers = GatewayCallers::beside_pod("");
    let places: Vec<_> = (0..STRANGERS_PER_ADDRESS)
        .map(|_| callers.stranger(address("192.0.2.1")).expect("a place"))
        .collect();
    assert!(callers.stranger(address("192.0.2.1")).is_none());
    let (_other, share) = callers.stranger(address("192.0.2.2")).expect("a place");
    assert!(!Arc::ptr_eq(&share, &places[0].1));
    // One machine has all addresses of an IPv6 network.
    let one = callers.stranger(address("2001:db8::1")).expect("a place");
    let same = callers.stranger(address("2001:db8::ffff:1")).expect("a place");
    let next = callers.stranger(address("2001:db8:0:1::1")).expect("a place");
    assert!(Arc::ptr_eq(&one.1, &same.1) && !Arc::ptr_eq(&one.1, &next.1));
    let of_address = Arc::clone(&places[0].1);
    drop((places, one, same, next, _other));
    assert_eq!(callers.left_for_strangers(), STRANGERS);
    // Who comes again is the same stranger. The address has used its connections of this second, and those come back.
    callers
        .0
        .addresses
        .lock()
        .known
        .values_mut()
        .for_each(|known| known.rate = Rate::default());
    let (_again, share) = callers.stranger(address("192.0.2.1")).expect("a place");
    assert!(Arc::ptr_eq(&share, &of_address));
}

#[test]
fn all_strangers_together_have_so_many_places() {
    let callers = GatewayCallers::beside_pod("");
    let places = (0..u32::MAX).map_while(|number| {
        let address = Ipv4Addr::from_bits(0x0a00_0000 + number / 8);
        callers.stranger(address.into())
    });
    let places: Vec<_> = places.collect();
    assert_eq!(places.len(), STRANGERS);
    // The gateway has room for those who are known.
    places[0].0.known_as(&Arc::from("ci"));
    assert!(callers.stranger(address("192.0.2.1")).is_some());
}

#[test]
fn who_is_known_has_the_share_of_the_identity_wherever_it_calls_from() {
    let callers = GatewayCallers::beside_pod("");
    let (one, of_address) = callers.stranger(address("192.0.2.1")).expect("a place");
    let (other, _) = callers.stranger(address("192.0.2.2")).expect("a place");
    let (ci, person) = (Arc::from("ci"), Arc::from("person"));
    let share = one.known_as(&ci);
    assert!(Arc::ptr_eq(&share, &other.known_as(&ci)));
    assert!(!Arc::ptr_eq(&share, &of_address));
    let (third, _) = callers.stranger(address("192.0.2.1")).expect("a place");
    assert!(!Arc::ptr_eq(&share, &third.known_as(&person)));
    assert_eq!(callers.left_for_strangers(), STRANGERS);
    // What refusals wrote is not forgotten with the last connection.
    drop((one, other));
    let (again, _) = callers.stranger(address("192.0.2.3")).expect("a place");
    assert!(Arc::ptr_eq(&share, &again.known_as(&ci)));
}

#[test]
fn an_address_opens_so_many_connections_a_second_that_do_not_become_known() {
    let callers = GatewayCallers::beside_pod("");
    let known = Arc::from("ci");
    for _ in 0..10 * ADDRESS_PER_SECOND {
        let (caller, _) = callers.stranger(address("192.0.2.1")).expect("a place");
        caller.known_as(&known);
    }
    let mut opened = 0;
    while callers.stranger(address("192.0.2.1")).is_some() {
        opened += 1;
    }
    // A slow machine takes some milliseconds over it, in which further ones are due.
    assert!(
        (ADDRESS_PER_SECOND..3 * ADDRESS_PER_SECOND).contains(&opened),
        "{opened}"
    );
    assert!(callers.stranger(address("192.0.2.2")).is_some());
}

#[test]
fn a_rate_gives_a_second_s_worth_and_then_what_time_brings() {
    let mut rate = Rate::default();
    let (now, one) = (Duration::from_secs(100), Duration::from_secs(1) / 64);
    assert_eq!((0..1000).filter(|_| rate.take(now, 64)).count(), 64);
    let wait = rate.wait(now, 64).expect("a wait");
    assert!((one / 2..=one).contains(&wait), "{wait:?}");
    assert!(!rate.take(now, 64) && rate.take(now + wait, 64));
    rate.give_back(64);
    assert!(rate.take(now + wait, 64) && rate.wait(now + 2 * one, 64).is_none());
}

#[test]
fn strangers_without_a_connection_are_forgotten_before_they_fill_the_memory() {
    let callers = GatewayCallers::beside_pod("");
    let (_kept, share) = callers.stranger(address("192.0.2.1")).expect("a place");
    for number in 0..REMEMBERED as u32 * 3 {
        let address = Ipv4Addr::from_bits(0x0a00_0000 + number);
        drop(callers.stranger(address.into()).expect("a place"));
    }
    assert!(callers.0.addresses.lock().known.len() <= REMEMBERED);
    let (_second, again) = callers.stranger(address("192.0.2.1")).expect("a place");
    assert!(Arc::ptr_eq(&share, &again));
}

#[tokio::test(start_paused = true)]
async fn beyond_the_rate_of_all_strangers_the_next_waits_a_moment() {
    let registry = MetricsRegistry::default();
    let metrics = GatewayMetrics::register(&registry);
    let counted = |limit: &str| {
        let line = format!("picket_gateway_full_total{{limit=\"{limit}\"}} 1\n");
        registry.encode().expect("text").contains(&line)
    };
    let callers = GatewayCallers::beside_pod("");
    let place = callers.place(&metrics).await.expect("a place");
    assert!(!counted("strangers_per_second"));
    callers.0.addresses.lock().rate = Rate(callers.0.began.elapsed() + Duration::from_secs(3600));
    assert!(
        tokio::time::timeout(Duration::from_secs(60), callers.place(&metrics))
            .await
            .is_err()
    );
    callers.0.addresses.lock().rate = Rate::default();
    assert!(counted("strangers_per_second"));
    assert!(callers.place(&metrics).await.is_some());
    drop(place);
    // Where all places are taken, that shows too.
    let places = (0..u32::MAX)
        .map_while(|number| callers.stranger(Ipv4Addr::from_bits(0x0a00_0000 + number / 8).into()));
    let places: Vec<_> = places.collect();
    let waiting = tokio::time::timeout(Duration::from_secs(60), callers.place(&metrics));
    assert!(waiting.await.is_err() && counted("strangers"));
    drop(places);
}
