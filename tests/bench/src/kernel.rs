//! What the kernel programs cost: each system call they look at, with them and without, and the programs themselves.
//!
//! A socket keeps the cgroup it was made in, and the kernel runs the programs of that cgroup. One process therefore makes a
//! socket where programs are attached and one where none is, and uses them in turns: everything else about the two is the
//! same. Only addresses that are no protected endpoints are called, on loopback, and no packet leaves by a connect of UDP.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use picket::kernel::CgroupId;
use picket::kernel::{
    Class, FailMode, Kernel, KernelConfig, NodeState, ProtectedEndpoint, doctor, netns_cookie,
};
use picket_tests::cgroup;
use serde_json::{Value, json};

use crate::report::Row;

/// No protected endpoint, on loopback: the port for discarding (RFC 863), where nobody listens.
const OTHER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9);

/// As many as a large cluster has.
const ENDPOINTS: u32 = 10_000;
const PODS: u64 = 500;

/// Calls in one turn, and turns. The median turn counts: others met an interrupt.
const CALLS: u32 = 2_000;
const TURNS: usize = 301;
const QUICK_TURNS: usize = 61;

/// What is asked of the process that measures.
#[derive(clap::Args)]
pub(crate) struct KernelArgs {
    /// The cgroup to make other cgroups in
    folder: PathBuf,
    /// A folder on a bpf file system
    bpffs: PathBuf,
    /// Fewer turns
    #[arg(long)]
    quick: bool,
}

/// Has a process of its own measure, since it moves between cgroups.
pub(crate) fn measure(quick: bool, only: &str) -> Result<Vec<Row>> {
    let name = format!("picket-bench-{}", std::process::id());
    let folder = cgroup::unified()?.join(&name);
    let bpffs = std::env::temp_dir().join(&name);
    for part in ["plain", "held/pod"] {
        fs::create_dir_all(folder.join(part)).context("cannot make a cgroup")?;
    }
    fs::create_dir_all(&bpffs)?;
    mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), None::<&str>).context("no bpf file system")?;
    let outcome = child(&folder, &bpffs, quick);
    umount2(&bpffs, MntFlags::MNT_DETACH)?;
    fs::remove_dir(&bpffs)?;
    for part in ["held/pod", "held", "plain", ""] {
        // The process has ended, and leaves its cgroup a moment later.
        let mut tries = 0;
        while fs::remove_dir(folder.join(part)).is_err() && tries < 100 {
            tries += 1;
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
    let mut rows = outcome?;
    rows.retain(|row| row.case.contains(only));
    Ok(rows)
}

fn child(folder: &Path, bpffs: &Path, quick: bool) -> Result<Vec<Row>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("kernel").arg(folder).arg(bpffs);
    if quick {
        command.arg("--quick");
    }
    let output = command.stderr(std::process::Stdio::inherit()).output()?;
    ensure!(output.status.success(), "the measuring process failed");
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    Ok(rows
        .iter()
        .map(|row| Row {
            case: format!("kernel/{}", row["case"].as_str().unwrap_or_default()),
            protocol: String::new(),
            unit: row["unit"].as_str().unwrap_or_default().to_owned(),
            direct: row["direct"].as_f64(),
            picket: row["picket"].as_f64(),
            nginx: None,
        })
        .collect())
}

/// The measuring process; the figures go to stdout as JSON.
pub(crate) fn run(args: &KernelArgs) -> Result<()> {
    let turns = if args.quick { QUICK_TURNS } else { TURNS };
    let mut rows = Vec::new();
    for cost in doctor::costs()? {
        rows.push(
            json!({"case": format!("{}-instructions", cost.program), "unit": "verified",
            "picket": cost.verified}),
        );
        rows.push(json!({"case": format!("{}-load", cost.program), "unit": "us",
            "picket": cost.load.as_secs_f64() * 1e6}));
    }

    join(&args.folder.join("plain"))?;
    let plain = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let plain_made = make_and_drop(turns)?;
    let kernel = Kernel::load(&KernelConfig {
        cgroup_root: args.folder.join("held"),
        bpffs: args.bpffs.join("picket"),
    })?;
    kernel.set_node(NodeState {
        netns: netns_cookie(&plain)?,
        port: None,
        unclassified: FailMode::Closed,
    })?;
    kernel.set_endpoints(&endpoints(8))?;
    join(&args.folder.join("held/pod"))?;
    let held = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let held_made = make_and_drop(turns)?;

    let few = in_turns(turns, || plain.connect(OTHER), || held.connect(OTHER))?;
    fill(&kernel)?;
    let many = in_turns(turns, || plain.connect(OTHER), || held.connect(OTHER))?;
    // Without a connection, each datagram passes the hooks for itself. Nobody listens, and loopback drops it.
    join(&args.folder.join("plain"))?;
    let plain = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    join(&args.folder.join("held/pod"))?;
    let held = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let sent = in_turns(turns, || datagram(&plain), || datagram(&held))?;
    for (case, (direct, picket)) in [
        ("connect-other", few),
        ("connect-other-10000-endpoints-500-pods", many),
        ("sendto-other", sent),
        ("socket", (plain_made, held_made)),
    ] {
        rows.push(json!({"case": case, "unit": "ns", "direct": direct, "picket": picket}));
    }
    Kernel::unload(&args.bpffs.join("picket"))?;
    std::io::stdout().write_all(&serde_json::to_vec(&rows)?)?;
    Ok(())
}

fn datagram(socket: &UdpSocket) -> std::io::Result<()> {
    socket.send_to(&[0], OTHER).map(drop)
}

fn join(cgroup: &Path) -> Result<()> {
    fs::write(cgroup.join("cgroup.procs"), "0").with_context(|| format!("cannot join {}", cgroup.display()))
}

fn endpoints(count: u32) -> BTreeSet<ProtectedEndpoint> {
    (0..count)
        .map(|number| {
            ProtectedEndpoint::redirect(SocketAddr::from((Ipv4Addr::from(0x0a80_0000 + number), 6443)))
        })
        .collect()
}

/// As many protected endpoints and pods as a large node knows.
fn fill(kernel: &Kernel) -> Result<()> {
    kernel.set_endpoints(&endpoints(ENDPOINTS))?;
    for number in 1..=PODS {
        // Cgroups and namespaces that are nobody's: ids count up from one and these are far beyond.
        let class = Class::Enforced {
            pod: number,
            port: 4443,
            netns: u64::MAX - number,
        };
        kernel.set_class(CgroupId(u64::MAX - number), class)?;
    }
    Ok(())
}

/// Nanoseconds that one call takes on each side, the median of all turns.
fn in_turns(
    turns: usize,
    direct: impl Fn() -> std::io::Result<()>,
    picket: impl Fn() -> std::io::Result<()>,
) -> Result<(f64, f64)> {
    let (mut first, mut second) = (Vec::with_capacity(turns), Vec::with_capacity(turns));
    for _ in 0..turns {
        first.push(turn(&direct)?);
        second.push(turn(&picket)?);
    }
    Ok((median(first), median(second)))
}

fn turn(call: impl Fn() -> std::io::Result<()>) -> Result<f64> {
    let begun = Instant::now();
    for _ in 0..CALLS {
        call()?;
    }
    Ok(begun.elapsed().as_nanos() as f64 / f64::from(CALLS))
}

/// Nanoseconds that the making of a TCP socket takes in the cgroup the process is in.
fn make_and_drop(turns: usize) -> Result<f64> {
    let make = || {
        socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .map(drop)
        .map_err(std::io::Error::from)
    };
    let taken: Result<Vec<_>> = (0..turns).map(|_| turn(make)).collect();
    Ok(median(taken?))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
