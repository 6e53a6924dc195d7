//! `picket-bench run`: makes a place without a way out, starts everything in it, has the load sent, and reports.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use picket_tests::pki::{Authority, Pair};
use picket_tests::state::{State, Thing};
use picket_tests::sys::Place;
use picket_tests::{cgroup, net};

use crate::nginx::{self, Proxy};
use crate::plan::{Extent, Measure, Plan, Target};
use crate::process::{self, Guarded};
use crate::report;

/// A pod with 1,000 connections takes as many here, and twice as many in what stands between.
const OPEN_FILES: u64 = 16_384;
/// How long a server may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(10);

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The agent to measure; only the other two ways when it is not given
    #[arg(long)]
    picket: Option<PathBuf>,
    /// Fewer and shorter measurements
    #[arg(long)]
    quick: bool,
    /// Only the cases whose name contains this
    #[arg(long, default_value = "")]
    case: String,
    /// Requests per second of the open loop
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Where criterion left its figures, to be reported with the others
    #[arg(long)]
    criterion: Option<PathBuf>,
    /// The figures as JSON
    #[arg(long)]
    out: PathBuf,
}

/// Runs it all.
pub(crate) fn run(args: &Args) -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < OPEN_FILES {
        setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES, hard.max(OPEN_FILES))
            .context("cannot raise the number of open files")?;
    }
    let start = Instant::now();
    let mut rows = report::rows("fast", &fast(args)?);
    if let Some(folder) = &args.criterion {
        rows.extend(
            report::criterion(folder)?
                .into_iter()
                .filter(|row| row.case.contains(&args.case)),
        );
    }
    if rows.is_empty() {
        bail!("no case has `{}` in its name", args.case);
    }
    report::write(&rows, &args.out)?;
    println!("{}", report::table(&rows));
    println!(
        "Latency in an open loop of {} requests/s, counted from when each was due; 1 KB bodies over TLS.",
        args.rate
    );
    println!(
        "nginx speaks HTTP/1.1 to its upstream whatever its client speaks. Took {:.0} s.",
        start.elapsed().as_secs_f64()
    );
    println!("The same as JSON: {}", args.out.display());
    Ok(())
}

/// A network namespace and a cgroup that end with this.
struct Site {
    state: State,
    netns: PathBuf,
    place: Place,
}

impl Site {
    const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));

    fn new() -> Result<Self> {
        let state = State::create("bench")?;
        let name = state.prefixed();
        state.record_all(&[Thing::Cgroup(name.clone()), Thing::Netns(name.clone())])?;
        let netns = net::path(&name);
        let folder = cgroup::unified()?.join(&name);
        let site = Self {
            place: Place::new().net(&netns).cgroup(&folder),
            netns,
            state,
        };
        cgroup::create(&name)?;
        net::create(&name)?;
        net::ip(&site.netns, "link set lo up\n")?;
        Ok(site)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Err(error) = self.state.teardown() {
            eprintln!("not all of the bench's traces are gone, run `cargo xtask clean`: {error:#}");
        }
    }
}

/// Against an upstream that answers from memory, so that what stands between is all that is measured.
fn fast(args: &Args) -> Result<Vec<Measure>> {
    let site = Site::new()?;
    let dir = site.state.dir();
    let authority = Authority::create(&dir.join("pki"))?;
    let address = Site::ADDRESS.to_string();
    let certificate = authority.server("server", &[&address, nginx::UPSTREAM_NAME])?;
    let api = SocketAddr::new(Site::ADDRESS, 6443);
    let past = SocketAddr::new(Site::ADDRESS, 6444);
    let _upstream = upstream(&site.place, dir, &certificate, &[api, past])?;
    let listen = SocketAddr::new(Site::ADDRESS, 8443);
    let ca = authority.pair().cert;
    let proxy = Proxy {
        listen,
        upstream: past,
        ca: &ca,
        certificate: &certificate,
        authorization: None,
    };
    let mut nginx = proxy.start(&site.place, &dir.join("nginx"))?;
    let nginx_pids = wait_for_nginx(&mut nginx, &site.netns, listen)?;
    let target = |name: &str, address, pids| Target {
        name: name.to_owned(),
        address,
        ca: ca.clone(),
        token: None,
        pids,
    };
    let targets = vec![
        target("direct", past, Vec::new()),
        target("nginx", listen, nginx_pids),
    ];
    let path = "/api/v1/namespaces/bench/configmaps/small";
    let plan = Plan {
        targets,
        path: path.to_owned(),
        watch_path: "/api/v1/namespaces/bench/configmaps?watch=true".to_owned(),
        tick_path: Some("/bench/tick".to_owned()),
        rate: args.rate,
        extent: if args.quick { Extent::QUICK } else { Extent::FULL },
        only: args.case.clone(),
    };
    load(&site.place, dir, &plan)
}

fn this_program() -> Result<Command> {
    Ok(Command::new(
        std::env::current_exe().context("cannot find this program")?,
    ))
}

fn upstream(place: &Place, dir: &Path, certificate: &Pair, listen: &[SocketAddr]) -> Result<Guarded> {
    let pods = dir.join("pods.json");
    fs::write(&pods, "[]")?;
    let mut command = this_program()?;
    command
        .arg("upstream")
        .arg("--pods")
        .arg(pods)
        .args(["--service", "10.96.0.1:443"]);
    command
        .arg("--cert")
        .arg(&certificate.cert)
        .arg("--key")
        .arg(&certificate.key);
    for address in listen {
        command.arg("--listen").arg(address.to_string());
    }
    place.apply(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    let mut upstream = Guarded::spawn("the upstream", &mut command)?;
    upstream.wait_for_line("ready")?;
    Ok(upstream)
}

/// Waits until it accepts, and returns the processes that it consists of.
fn wait_for_nginx(nginx: &mut Guarded, netns: &Path, address: SocketAddr) -> Result<Vec<i32>> {
    let until = Instant::now() + START_LIMIT;
    loop {
        nginx.check()?;
        let answers = net::inside(netns, || {
            Ok(std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())
        })?;
        if answers {
            let mut pids = process::children(nginx.pid())?;
            pids.push(nginx.pid());
            return Ok(pids);
        }
        if Instant::now() > until {
            bail!("nginx does not answer on {address}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Sends what the plan says from this place.
fn load(place: &Place, dir: &Path, plan: &Plan) -> Result<Vec<Measure>> {
    let file = dir.join("plan.json");
    fs::write(&file, serde_json::to_vec(plan)?)?;
    let mut command = this_program()?;
    command
        .arg("load")
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    place.apply(&mut command)?;
    let mut child = Guarded::spawn("the load generator", &mut command)?;
    let measures = serde_json::from_reader(child.stdout()?);
    measures.context("the load generator gave no measures; what it wrote is above")
}
