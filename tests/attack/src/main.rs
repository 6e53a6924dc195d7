//! Dials a protected endpoint by every kind of socket there is, and says what came of it; and watches, on the other side, what
//! arrives.
//!
//! In: a way to dial and the address, and where the socket comes from. Out: one line of JSON with the [`report::Report`]. It
//! knows nothing of Picket: that an answer is Picket's, its reader sees by the certificate's issuer.

mod datagram;
mod descriptor;
mod frame;
mod greet;
mod packet;
mod place;
mod raw;
mod report;
mod stream;
mod sys;
mod watch;
mod way;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

use report::{Failed, Report};
use way::Way;

/// How long a dial may take beyond one call's patience, an answer included.
const LIMIT: Duration = Duration::from_millis(1100);

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Dials once.
    Dial(Dial),
    /// Makes the socket of a way to dial, and hands it to whoever connects to a unix socket.
    Give {
        /// The way whose socket it is.
        #[arg(value_enum)]
        way: Way,
        /// The address it will dial, whose family it gets.
        address: SocketAddr,
        /// The unix socket to listen on.
        path: PathBuf,
    },
    /// Prints a line of JSON for each packet that comes in for one of these ports, whatever its protocol.
    Watch {
        /// Where they come in.
        interface: String,
        /// Destination ports.
        ports: Vec<u16>,
    },
}

#[derive(clap::Args)]
struct Dial {
    /// How.
    #[arg(value_enum)]
    way: Way,
    /// Whom.
    address: SocketAddr,
    /// Makes the socket, prints `made`, and dials when a line comes in.
    #[arg(long)]
    wait: bool,
    /// Takes the socket from whoever listens on this unix socket.
    #[arg(long)]
    take: Option<PathBuf>,
    /// Makes the socket in this network namespace, and dials from its own.
    #[arg(long)]
    made_in: Option<PathBuf>,
    /// Joins this cgroup before anything else.
    #[arg(long)]
    join: Option<PathBuf>,
    /// Leaves for new namespaces after the socket is made: a network namespace, with `--new-user` a user namespace too.
    #[arg(long)]
    new_net: bool,
    /// Leaves for a new user namespace, before the socket is made.
    #[arg(long)]
    new_user: bool,
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Dial(dial) => {
            place::enter(dial.join.as_deref(), dial.new_user)?;
            let report = dial.run().unwrap_or_else(Report::failed);
            println!("{}", serde_json::to_string(&report)?);
            Ok(())
        }
        Command::Give { way, address, path } => {
            let socket = way.make(&address).map_err(Failed::into_error)?;
            descriptor::give(&path, &socket)
        }
        Command::Watch { interface, ports } => watch::run(&interface, &ports),
    }
}

impl Dial {
    fn run(&self) -> Result<Report, Failed> {
        let socket = match (&self.take, &self.made_in) {
            (Some(path), _) => descriptor::take(path).map_err(Failed::at("take"))?,
            (None, Some(netns)) => place::made_in(netns, || self.way.make(&self.address))?,
            (None, None) => self.way.make(&self.address)?,
        };
        if self.new_net {
            place::new_net().map_err(Failed::at("unshare"))?;
        }
        if self.wait {
            println!("made");
            io::stdout().flush().map_err(Failed::at("print"))?;
            let mut line = String::new();
            io::stdin().read_line(&mut line).map_err(Failed::at("read"))?;
        }
        watchdog();
        self.way.dial(socket, &self.address)
    }
}

/// Ends a dial that its socket's own limits do not end: io_uring knows none.
fn watchdog() {
    thread::spawn(|| {
        thread::sleep(sys::patience() + LIMIT);
        let late = io::Error::from_raw_os_error(libc::ETIMEDOUT);
        if let Ok(report) = serde_json::to_string(&Report::failed(Failed::at("dial")(late))) {
            println!("{report}");
        }
        process::exit(0);
    });
}
