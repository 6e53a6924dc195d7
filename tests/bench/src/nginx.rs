//! nginx as a TLS reverse proxy for the same upstream: what people would use who only want something in between.
//!
//! It has keep-alive upstream and an access log, as Picket has an audit log. nginx speaks no HTTP/2 to upstreams, and passes
//! upgrades on.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use picket_tests::net;
use picket_tests::pki::CertificateFiles;
use picket_tests::sys::Placement;

use crate::process::{self, Guarded};

/// How long it may take until it accepts.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Where it listens and what it stands before.
pub(crate) struct Proxy<'a> {
    pub(crate) listen: SocketAddr,
    pub(crate) upstream: SocketAddr,
    /// The bundle the upstream's certificate is checked against.
    pub(crate) ca: &'a Path,
    pub(crate) certificate: &'a CertificateFiles,
    /// A header that the upstream wants, with its value.
    pub(crate) authorization: Option<&'a str>,
}

impl Proxy<'_> {
    /// Starts it in the foreground with everything it writes below `dir`.
    pub(crate) fn start(&self, place: &Placement, dir: &Path) -> Result<Guarded> {
        fs::create_dir_all(dir)?;
        let config: PathBuf = dir.join("nginx.conf");
        fs::write(&config, self.config(dir))?;
        let mut command = Command::new("nginx");
        command
            .arg("-p")
            .arg(dir)
            .arg("-c")
            .arg(&config)
            .arg("-e")
            .arg(dir.join("error.log"));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        place.apply(&mut command)?;
        Guarded::spawn("nginx", &mut command)
    }

    fn config(&self, dir: &Path) -> String {
        let dir = dir.display();
        let Proxy {
            listen,
            upstream,
            ca,
            certificate,
            authorization,
        } = self;
        let authorization = authorization
            .map(|value| format!("proxy_set_header Authorization \"{value}\";"))
            .unwrap_or_default();
        format!(
            "daemon off;
user root;
worker_processes {workers};
pid {dir}/nginx.pid;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
  access_log {dir}/access.log;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  keepalive_requests 1000000000;
  map $http_upgrade $connection_upgrade {{ default upgrade; \"\" \"\"; }}
  upstream api {{ server {upstream}; keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen {listen} ssl http2 backlog=4096;
    http2_max_concurrent_streams 128;
    ssl_certificate {cert};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.2 TLSv1.3;
    location / {{
      proxy_pass https://api;
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      {authorization}
      proxy_buffering off;
      proxy_read_timeout 1h;
      proxy_ssl_verify on;
      proxy_ssl_trusted_certificate {ca};
      proxy_ssl_name {name};
      proxy_ssl_protocols TLSv1.2 TLSv1.3;
      proxy_ssl_session_reuse on;
    }}
  }}
}}
",
            workers = workers(),
            cert = certificate.cert.display(),
            key = certificate.key.display(),
            ca = ca.display(),
            name = UPSTREAM_NAME,
        )
    }
}

/// nginx checks names, not addresses, so the upstream's certificate has this one.
pub(crate) const UPSTREAM_NAME: &str = "kubernetes.default.svc";

/// One a core, as nginx itself would choose.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Waits until it accepts, and returns the processes that it consists of. The first one listens before the workers are there.
pub(crate) fn wait(nginx: &mut Guarded, netns: &Path, address: SocketAddr) -> Result<Vec<i32>> {
    let until = Instant::now() + START_LIMIT;
    let accepts = || {
        net::inside(netns, || {
            Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())
        })
    };
    loop {
        let mut pids = process::children(nginx.pid())?;
        if pids.len() == workers() && accepts()? {
            pids.push(nginx.pid());
            return Ok(pids);
        }
        nginx.check()?;
        if Instant::now() > until {
            bail!("nginx does not answer on {address}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
