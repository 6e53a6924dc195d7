//! Metrics over TLS: a scraper in a pod, who the API server says it is, and what becomes of everybody else.

use anyhow::{Context, Result, ensure};
use picket_tests::tests;
use serde_json::{Value, json};

use crate::Test;
use crate::life::until;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    a_scraper_with_the_right_reads_the_metrics_and_nobody_else_does,
};

const PORT: u16 = 9444;

/// What gives the scraper its right.
const BINDING: &str = "picket-metrics-reader";

/// A pod's own token, as the kubelet renews it.
const TOKEN: &str = "$(cat /var/run/secrets/kubernetes.io/serviceaccount/token)";

/// Asks with curl in a pod of `direct`, which checks the certificate: the body, and the code in a last line.
fn scrape(world: &World, ca: &str, path: &str, token: Option<&str>) -> Result<(String, String)> {
    let address = world.cluster.node().address;
    let header = token.map_or(String::new(), |token| {
        format!("-H \"Authorization: Bearer {token}\"")
    });
    let line = format!(
        "echo '{ca}' > /tmp/ca.crt; curl -sS -m 20 --cacert /tmp/ca.crt {header} -w '\\n%{{http_code}}' https://{address}:{PORT}{path}"
    );
    let said = world.run("direct", "worker", &["sh", "-c", &line])?.good()?;
    let (body, code) = said.trim_end().rsplit_once('\n').context("a code")?;
    Ok((body.trim_end().to_owned(), code.to_owned()))
}

fn a_scraper_with_the_right_reads_the_metrics_and_nobody_else_does(world: &mut World) -> Result<()> {
    let before = std::fs::read_to_string(world.agent.config_file())?;
    let mut config: Value = serde_json::from_str(&before)?;
    config["metrics"] = json!({"listen": format!("0.0.0.0:{PORT}")});
    let rights = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/metrics.yaml");
    let rights = std::fs::read_to_string(rights)?;
    world.cluster.apply(&rights)?;
    std::fs::write(world.agent.config_file(), config.to_string())?;
    world.agent.stop()?;
    world.agent.restart()?;
    let done = judged(world, &config);
    let ignore = "--ignore-not-found";
    world.admin(&[
        "delete",
        "clusterrolebinding",
        BINDING,
        "picket-node-metrics",
        ignore,
    ])?;
    world.admin(&["delete", "clusterrole", BINDING, "picket-node-metrics", ignore])?;
    std::fs::write(world.agent.config_file(), before)?;
    world.agent.stop()?;
    world.agent.restart()?;
    done
}

fn judged(world: &World, config: &Value) -> Result<()> {
    let ca = config["tls"]["caCertificateFile"].as_str().context("a CA")?;
    let ca = std::fs::read_to_string(ca)?;
    let ask = |path: &str, token: Option<&str>| scrape(world, &ca, path, token);

    // The account has no right yet. The agent's own right to ask takes a moment.
    let (body, _) = until(|| Ok(Some(ask("/metrics", Some(TOKEN))?).filter(|(_, code)| code == "403")))?;
    ensure!(
        body.contains("\"kind\":\"Status\"") && body.contains("system:serviceaccount:direct:worker"),
        "{body}"
    );
    let account = "--serviceaccount=direct:worker";
    world.admin(&[
        "create",
        "clusterrolebinding",
        BINDING,
        "--clusterrole",
        BINDING,
        account,
    ])?;
    let (body, _) = until(|| Ok(Some(ask("/metrics", Some(TOKEN))?).filter(|(_, code)| code == "200")))?;
    ensure!(
        body.contains("picket_build_info{") && body.ends_with("# EOF"),
        "{body}"
    );

    let (body, code) = ask("/metrics", None)?;
    ensure!(
        code == "401" && body.contains("\"reason\":\"Unauthorized\""),
        "{code}: {body}"
    );
    for path in ["/", "/readyz", "/v1/sessions", "/debug/pprof"] {
        let (body, code) = ask(path, Some(TOKEN))?;
        ensure!(
            code == "404" && body.contains("\"kind\":\"Status\""),
            "{path}: {code}: {body}"
        );
    }
    // The same account's token with the audience that enrolment gives.
    let enrolled = world.admin(&[
        "-n",
        "direct",
        "create",
        "token",
        "worker",
        "--audience",
        "picket.dev",
    ])?;
    let enrolled = enrolled.trim();
    let (body, code) = ask("/metrics", Some(enrolled))?;
    ensure!(code == "401", "a token of audience picket.dev: {code}: {body}");

    // An enforced pod reaches the port on no node: the kernel denies it.
    for node in world.cluster.nodes() {
        let line = format!(
            "curl -sk -m 5 -o /dev/null https://{}:{PORT}/metrics",
            node.address
        );
        let said = world.worker(&line)?;
        // curl's code for a connection that cannot be made.
        ensure!(said.code == 7, "{}: {said:?}", node.address);
    }
    Ok(())
}
