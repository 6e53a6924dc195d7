//! Having a plan carried out by a load generator in a given place.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use picket_tests::sys::Placement;

use crate::plan::{Measure, Plan};
use crate::process::Guarded;

/// Sends what the plan says from this place; the folder holds the plan meanwhile.
pub(crate) fn send(place: &Placement, dir: &Path, plan: &Plan) -> Result<Vec<Measure>> {
    let file = dir.join("plan.json");
    fs::write(&file, serde_json::to_vec(plan)?)?;
    let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
    command
        .arg("load")
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    place.apply(&mut command)?;
    let mut child = Guarded::spawn("the load generator", &mut command)?;
    serde_json::from_str(&child.output()?).context("the load generator gave no measures")
}
