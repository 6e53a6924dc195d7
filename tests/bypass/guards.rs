//! Taking counter-measures away, to see that they are what holds.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use picket_tests::sys::bpf::detach_link;

use crate::world::World;

/// How long a started agent may take until every link is back.
const LIMIT: Duration = Duration::from_secs(30);

/// A counter-measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guard {
    /// The connect hooks at the root.
    Connect,
    /// The sendmsg hooks at the root.
    SendMsg,
    /// The hook on the making of sockets.
    Create,
    /// The drop at each pod's cgroup.
    Egress,
    /// The drop at each pod's interface.
    Interface,
}

impl Guard {
    /// Whether a link's pin is this guard's.
    fn has(self, pin: &str) -> bool {
        match self {
            Self::Connect => matches!(pin, "link_connect4" | "link_connect6"),
            Self::SendMsg => matches!(pin, "link_sendmsg4" | "link_sendmsg6"),
            Self::Create => pin == "link_sock_create",
            Self::Egress => pin.starts_with("link_pod_"),
            Self::Interface => pin.starts_with("link_interface_"),
        }
    }
}

/// Does something on the first node while these counter-measures are off and the agent stands still, so that it cannot put them
/// back; then has a new agent put everything back.
pub(crate) fn without<T>(
    world: &mut World,
    guards: &[Guard],
    act: impl FnOnce(&World) -> Result<T>,
) -> Result<T> {
    let pid = world.agent.pid().context("the agent does not run")?;
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGSTOP)?;
    let before = links(world)?;
    let taken: Vec<&String> = before
        .iter()
        .filter(|pin| guards.iter().any(|guard| guard.has(name(pin))))
        .collect();
    let missing = guards
        .iter()
        .find(|guard| !taken.iter().any(|pin| guard.has(name(pin))));
    let outcome = match missing {
        Some(guard) => Err(anyhow::anyhow!(
            "{guard:?} is not in force: there is no link of it"
        )),
        None => remove(world, &taken).and_then(|()| act(world)),
    };
    world.agent.kill9()?;
    world.agent.restart()?;
    let deadline = Instant::now() + LIMIT;
    loop {
        let now = links(world)?;
        let Some(gone) = before.iter().find(|pin| !now.contains(pin)) else {
            return outcome;
        };
        ensure!(Instant::now() < deadline, "the agent does not put {gone} back");
        thread::sleep(Duration::from_millis(50));
    }
}

fn remove(world: &World, pins: &[&String]) -> Result<()> {
    for pin in pins {
        // A link whose pin goes is detached a moment later, and what is dialled until then is held.
        let pin = world.cluster.node().file(Path::new(pin));
        detach_link(&pin).with_context(|| format!("detach {}", pin.display()))?;
    }
    let mut command = Command::new("rm");
    command.arg("--").args(pins);
    let done = world.cluster.node().output(command)?;
    ensure!(
        done.status.success(),
        "remove pins: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(())
}

/// The pins of links.
fn links(world: &World) -> Result<Vec<String>> {
    let mut pins = world.agent.pins()?;
    pins.retain(|pin| name(pin).starts_with("link_"));
    Ok(pins)
}

fn name(pin: &str) -> &str {
    pin.rsplit('/').next().unwrap_or(pin)
}
