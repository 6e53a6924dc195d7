//! A real issuer of tokens: the certified OpenID provider of tests/issuer, as a process in a node's network namespace.
//!
//! In: a node, a folder, a port. Out: its URL and its CA, tokens by its token endpoint, keys that rotate, its end and its return.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::cluster::TestNode;
use crate::node_js::NodeJs;
use crate::pki::{Authority, CertificateFiles};
use crate::running::Running;
use crate::sys::Placement;

/// The provider. Dropping it ends it.
#[derive(Debug)]
pub struct Provider {
    netns: PathBuf,
    folder: PathBuf,
    host: String,
    port: u16,
    serving: CertificateFiles,
    running: Option<Running>,
}

impl Provider {
    /// Starts it at a port of the node, with a CA of its own; `folder` is to hold its files.
    ///
    /// # Errors
    /// Node.js or a package is missing, or it does not start.
    pub fn start(node: &TestNode, folder: &Path, port: u16) -> Result<Self> {
        let host = node.address.to_string();
        let authority = Authority::create(&folder.join("ca"))?;
        let mut provider = Self {
            netns: node.netns.clone(),
            serving: authority.server("issuer", &[&host])?,
            folder: folder.to_owned(),
            host,
            port,
            running: None,
        };
        provider.resume()?;
        Ok(provider)
    }

    /// Starts it again, with the keys that it had.
    ///
    /// # Errors
    /// It does not start.
    pub fn resume(&mut self) -> Result<()> {
        let mut command = NodeJs::find()?.program("issuer")?;
        command
            .arg(&self.folder)
            .args([&self.port.to_string(), &self.host])
            .args([&self.serving.cert, &self.serving.key])
            // It asks itself for tokens.
            .env("NODE_EXTRA_CA_CERTS", self.folder.join("ca/ca.crt"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        Placement::new().net(&self.netns).apply(&mut command)?;
        let running = Running::of(command.spawn().context("run the issuer")?)?;
        running.line_with("serves")?;
        self.running = Some(running);
        Ok(())
    }

    /// Ends it: from here on nobody listens at its port.
    pub fn end(&mut self) {
        self.running = None;
    }

    /// Its URL, as tokens have it in `iss`.
    pub fn url(&self) -> String {
        format!("https://{}:{}", self.host, self.port)
    }

    /// The certificate of its CA, PEM.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn ca(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.folder.join("ca/ca.crt"))?)
    }

    /// A token for one of its clients, which are `ci` and `other`.
    ///
    /// # Errors
    /// It is down, or gives none.
    pub fn token(&mut self, client: &str, audience: &str) -> Result<String> {
        self.ask(&format!("token {client} {audience}"))
    }

    /// From here on a new key signs; those before it stay published.
    ///
    /// # Errors
    /// It is down.
    pub fn rotate(&mut self) -> Result<()> {
        self.ask("rotate").map(drop)
    }

    /// From here on only the key that signs is published.
    ///
    /// # Errors
    /// It is down.
    pub fn retire(&mut self) -> Result<()> {
        self.ask("retire").map(drop)
    }

    /// Its clock goes so many seconds ahead; behind, where they are negative.
    ///
    /// # Errors
    /// It is down.
    pub fn shift_clock(&mut self, seconds: i64) -> Result<()> {
        self.ask(&format!("clock {seconds}")).map(drop)
    }

    fn ask(&mut self, command: &str) -> Result<String> {
        let running = self.running.as_mut().context("the issuer is down")?;
        running.send(command)?;
        let said = running.line()?;
        ensure!(
            !said.starts_with("failed"),
            "the issuer, asked to {command}: {said}"
        );
        Ok(said)
    }
}
