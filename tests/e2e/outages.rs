//! What API servers and clients do to connections: GOAWAY, standing still, being away for a while. Through Picket it is as
//! without.

use anyhow::{Result, ensure};
use picket_tests::running::Running;
use picket_tests::tests;
use serde_json::Value;

use crate::Test;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    writes_survive_goaway,
};

/// The API server of this cluster answers one request of 50 with GOAWAY (`--goaway-chance`). Each write of the client would be
/// refused a second time, so each is carried out once.
fn writes_survive_goaway(world: &mut World) -> Result<()> {
    for http in ["1", "2"] {
        let prefix = format!("written-{http}");
        let argv = ["picket-test-client", "writes", "lab", &prefix, "--http", http];
        let mut writing = Running::start(&world.cluster.kubectl_client(), "agents", "worker", &argv)?;
        let said = writing.line_with("written")?;
        writing.wait()?;
        let done: Value = serde_json::from_str(&said)?;
        eprintln!("over HTTP/{http}: {done}");
        ensure!(done["written"] == 2400, "{done}");
    }
    Ok(())
}
