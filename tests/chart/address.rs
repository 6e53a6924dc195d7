//! The API server's address, which Helm looks up: one is taken, several are refused, and an upgrade keeps the one that was taken.

use anyhow::{Context, Result, ensure};
use picket_tests::install::{Installer, wait};

use crate::Test;
use crate::helm::NAMESPACE;
use crate::installed::{NOWHERE, installer};
use crate::world::World;

pub(crate) const TESTS: &[Test] = picket_tests::tests! {
    the_address_is_found_and_an_upgrade_keeps_it,
};

/// Another API server, after the first in the order of their names.
const ANOTHER: &str = "10.250.0.99";

fn the_address_is_found_and_an_upgrade_keeps_it(world: &mut World) -> Result<()> {
    let installer = installer(world)?;
    let server = installer.cluster.server().to_owned();
    let template = |more: &[&str]| {
        let arguments = [
            "--dry-run=server",
            "--kube-version",
            installer.cluster.release().version(),
        ];
        installer.run(&["template"], &[arguments.as_slice(), more].concat())
    };
    let listed = format!("{server}, https://{ANOTHER}:6443");
    beside_another(&installer, || {
        let Err(error) = template(&[]) else {
            return Ok(false);
        };
        Ok(format!("{error:#}").contains(&format!("the cluster has several API servers, {listed}; ")))
    })
    .context("several API servers are refused")?;

    installer.run(&["install"], &NOWHERE)?;
    let path =
        "jsonpath={.metadata.annotations.picket\\.dev/api-server} {.data.agent\\.yaml} {.data.kubeconfig}";
    let made = installer.kubectl(&["-n", NAMESPACE, "get", "configmap", "picket", "-o", path])?;
    ensure!(made.starts_with(&format!("{server} ")), "{made}");
    let count = made.matches(&format!("server: \"{server}\"")).count();
    ensure!(count == 2, "{made}");

    // Now it is known which of them the agents ask.
    beside_another(&installer, || {
        let text = template(&["--is-upgrade"])?;
        let (ours, another) = (text.contains(&server), text.contains(ANOTHER));
        ensure!(ours && !another, "{text}");
        let slice = addresses(&installer)?;
        Ok(slice.contains(ANOTHER))
    })
    .context("an upgrade beside another API server")?;
    installer.remove(&[])
}

fn addresses(installer: &Installer<'_>) -> Result<String> {
    let path = "jsonpath={.endpoints[*].addresses}";
    installer.kubectl(&["-n", "default", "get", "endpointslice", "kubernetes", "-o", path])
}

/// Runs it while the cluster tells of another API server, until it holds. The API server takes the other out within ten seconds, so that
/// what is seen may be of a moment without it.
fn beside_another(installer: &Installer<'_>, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let patch = format!(
        r#"[{{"op": "add", "path": "/endpoints/-", "value": {{"addresses": ["{ANOTHER}"], "conditions": {{"ready": true}}}}}}]"#
    );
    wait("a moment beside another API server", || {
        if !addresses(installer)?.contains(ANOTHER) {
            let arguments = [
                "-n",
                "default",
                "patch",
                "endpointslice",
                "kubernetes",
                "--type=json",
                "-p",
            ];
            installer.kubectl(&[arguments.as_slice(), &[&patch]].concat())?;
        }
        holds()
    })?;
    wait("the end of the other API server", || {
        Ok(!addresses(installer)?.contains(ANOTHER))
    })
}
