//! What public bug reports describe of other proxies in front of the Kubernetes API, or of proxies that pods do not know of: a
//! client sees the same through Picket as directly. Each test names its report; `files/reports.py` is the client.

use std::fmt::Debug;

use anyhow::{Context, Result, bail, ensure};
use picket_tests::tests;
use serde_json::{Value, json};

use crate::Test;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    the_bookmark_of_a_watch_list,
    the_head_of_a_quiet_watch,
    a_watch_by_websocket,
    a_followed_log_ends_in_order,
    the_exit_code_over_websocket,
    an_exec_without_a_server_name,
    the_size_of_a_terminal,
    a_container_named_twice,
    an_upgrade_that_nobody_knows,
    clients_of_http_1_0,
    bodies_that_wait_for_100,
    chunked_bodies,
    options_in_the_body_of_a_delete,
    pipelined_requests,
    large_writes,
    answers_before_the_end_of_a_body,
    a_client_without_tls,
    a_server_name_with_a_dot,
    absolute_targets,
    a_method_without_a_verb,
};

const CLIENT: &str = include_str!("files/reports.py");

/// What the client sees in a pod.
fn see(world: &World, namespace: &str, report: &str) -> Result<Value> {
    let seen = world.run(namespace, "worker", &["python3", "-c", CLIENT, report])?;
    serde_json::from_str(&seen.good()?).with_context(|| format!("{report} in {namespace}"))
}

/// What the client sees, directly and through Picket.
fn both(world: &World, report: &str) -> Result<(Value, Value)> {
    let picket = world.picket_log();
    let direct = see(world, "direct", report)?;
    ensure!(
        picket
            .all(|record| record["agent"]["pod"]["namespace"] == "direct")?
            .is_empty(),
        "the pod that is left alone went through Picket"
    );
    Ok((direct, see(world, "agents", report)?))
}

/// Compares the two, and with what is right.
fn same(world: &World, report: &str, right: impl FnOnce(&Value) -> bool) -> Result<()> {
    let (direct, through) = both(world, report)?;
    differ(&direct, &through)?;
    ensure!(right(&through), "both see {through:#}");
    Ok(())
}

fn differ<T: PartialEq + Debug>(direct: &T, through: &T) -> Result<()> {
    ensure!(
        direct == through,
        "directly\n{direct:#?}\nthrough Picket\n{through:#?}"
    );
    Ok(())
}

/// `https://github.com/gravitational/teleport/issues/64188`: informers of client-go 0.35 wait for it without end.
fn the_bookmark_of_a_watch_list(world: &mut World) -> Result<()> {
    same(world, "watch_list", |seen| {
        let events = json!([["ADDED", "seed", null], ["BOOKMARK", null, "true"]]);
        seen[0]["events"] == events && seen[1]["bytes"] == true
    })
}

/// `https://github.com/kubernetes/kubectl/issues/628` and `https://github.com/rancher/rancher/issues/14971`: the head waits for
/// the first event; the end is no end of the body.
fn the_head_of_a_quiet_watch(world: &mut World) -> Result<()> {
    same(world, "quiet_watch", |seen| {
        let right = json!({"status": 200, "soon": true, "whole": true, "events": [], "bytes": false});
        *seen == json!([right, right])
    })
}

/// `https://github.com/fabric8io/kubernetes-client/issues/496`: answered with 200 instead of 101.
fn a_watch_by_websocket(world: &mut World) -> Result<()> {
    same(world, "watch_by_websocket", |seen| *seen == json!([101, true]))
}

/// `https://github.com/kube-rs/kube/issues/1075`: "unexpected EOF during chunk size line".
fn a_followed_log_ends_in_order(world: &mut World) -> Result<()> {
    same(world, "followed_log", |seen| seen[0] == 200 && seen[2] == 200)
}

/// `https://github.com/gravitational/teleport/issues/24106`: the session ends without its status.
fn the_exit_code_over_websocket(world: &mut World) -> Result<()> {
    let status = json!(["Failure", "NonZeroExitCode", ["7"]]);
    same(world, "exec_status", |seen| {
        seen["said"] == json!({"1": "out\n", "2": "err\n", "3": status}) && seen["closed"] == true
    })
}

/// `https://github.com/tailscale/tailscale/issues/12647`: SPDY and WebSocket clients of an address send no name.
fn an_exec_without_a_server_name(world: &mut World) -> Result<()> {
    same(world, "exec_without_name", |seen| {
        seen["said"]["1"] == "nameless\n"
    })
}

/// `https://github.com/gravitational/teleport/issues/30714`: the size that arrives is not the one that was sent.
fn the_size_of_a_terminal(world: &mut World) -> Result<()> {
    same(world, "exec_resized", |seen| {
        let said = seen["said"]["1"].as_str().unwrap_or_default();
        said.contains("41 133")
    })
}

/// `https://github.com/kubernetes/kubernetes/issues/58065`: kubectl up to 1.9 names the container of an exec twice. Two
/// containers are still refused, since a rule might be about either.
fn a_container_named_twice(world: &mut World) -> Result<()> {
    let (direct, through) = both(world, "container_twice")?;
    differ(&direct[0], &through[0])?;
    differ(&direct[1], &through[1])?;
    ensure!(
        through[0]["said"]["1"] == "twice\n" && through[1] == 200 && through[2] == 400,
        "{through:#}"
    );
    Ok(())
}

/// `https://github.com/istio/istio/issues/53239` and `https://github.com/envoyproxy/envoy/issues/7973`: HTTP clients of Java offer
/// an upgrade with any request, and are refused.
fn an_upgrade_that_nobody_knows(world: &mut World) -> Result<()> {
    same(world, "offered_upgrades", |seen| {
        (0..3).all(|at| seen[at]["status"] == 200)
    })
}

/// `https://github.com/linkerd/linkerd/issues/1847`: chunks are sent to clients that know none. Beside that, a connection that
/// stays is said to stay.
fn clients_of_http_1_0(world: &mut World) -> Result<()> {
    same(world, "http_1_0", |seen| {
        let kept = json!([200, true, ["keep-alive"], null]);
        seen[0] == kept && seen[2] == true && seen[4].is_null()
    })
}

/// `https://github.com/traefik/traefik/issues/2899`: 100 comes twice, and the answer not at all.
fn bodies_that_wait_for_100(world: &mut World) -> Result<()> {
    same(world, "expect_continue", |seen| {
        seen[0] == 100 && seen[1]["status"] == 201 && seen[1]["continues"] == 0 && seen[3] == json!([403, 0])
    })
}

/// `https://github.com/kubernetes/ingress-nginx/issues/4838` and `https://github.com/kubernetes/kubernetes/pull/1893`: chunks are
/// refused with 411, or sent on as something else. A coding below chunks is refused, as the API server would not undo it.
fn chunked_bodies(world: &mut World) -> Result<()> {
    same(world, "chunked_bodies", |seen| {
        (0..3).all(|at| seen[at]["status"] == 201) && seen[3] == true
    })
}

/// `https://github.com/kubernetes/kubernetes/issues/34856`: proxies drop the body of a DELETE, and its preconditions with it.
fn options_in_the_body_of_a_delete(world: &mut World) -> Result<()> {
    same(world, "delete_options", |seen| {
        *seen == json!([201, 409, 409, 200])
    })
}

/// `https://github.com/cloudflare/pingora/issues/377`: of several requests at once only the first is answered.
fn pipelined_requests(world: &mut World) -> Result<()> {
    same(world, "pipelined", |seen| {
        *seen == json!([201, 200, 200, 404, 200, true])
    })
}

/// `https://github.com/rancher/rancher/issues/37138`: Helm's releases of a megabyte are answered with the proxy's own 413.
fn large_writes(world: &mut World) -> Result<()> {
    same(world, "large_writes", |seen| {
        seen[0] == 201 && seen[3] == true && seen[6]["what"] == "RequestEntityTooLarge"
    })
}

/// In one try of seven an answer is lost on a busy machine.
const EARLY_ANSWER_TRIES: usize = 4;

/// `https://github.com/python/cpython/issues/110467`: the answer that comes while a body is sent is lost with the connection.
/// Directly it is so as well, from 8 MB on. A client that pauses at the wrong moment may still lose it through Picket, so each of
/// a few tries counts: without the reading of what is still sent, hardly one of eight answers arrives.
fn answers_before_the_end_of_a_body(world: &mut World) -> Result<()> {
    let mut seen = Vec::new();
    for _ in 0..EARLY_ANSWER_TRIES {
        let through = see(world, "agents", "early_answers")?;
        if through == json!([413, 413, 403]) {
            return Ok(());
        }
        seen.push(through);
    }
    bail!("no try saw all of its answers: {seen:?}")
}

/// `https://github.com/kubernetes/kubernetes/issues/9029`: the client reads an alert of TLS, 'malformed HTTP response
/// "\x15\x03\x01\x00\x02\x02"'.
fn a_client_without_tls(world: &mut World) -> Result<()> {
    same(world, "without_tls", |seen| {
        let said = seen.as_str().unwrap_or_default();
        said.starts_with("HTTP/1.0 400 Bad Request") && said.contains("HTTPS")
    })
}

/// `https://github.com/gardener/gardener/pull/3235`: clients that do not take the dot off are refused, as by the API server itself.
fn a_server_name_with_a_dot(world: &mut World) -> Result<()> {
    let (_, through) = both(world, "named_with_a_dot")?;
    ensure!(through == 200, "{through:#}");
    Ok(())
}

/// `https://github.com/curl/curl/issues/6769`: curl names the port in the target alone, and proxies see another host.
fn absolute_targets(world: &mut World) -> Result<()> {
    same(world, "absolute_targets", |seen| {
        (0..3).all(|at| seen[at]["status"] == 200)
    })
}

/// `https://github.com/haproxytech/kubernetes-ingress/issues/361`: what a browser asks first has its own answer, 405.
fn a_method_without_a_verb(world: &mut World) -> Result<()> {
    same(world, "options", |seen| {
        seen["status"] == 405 && seen["what"] == "MethodNotAllowed"
    })
}
