//! The files and folders that a configuration names, looked at before an agent is started.
//!
//! In: a [`Config`]. Out: all that an agent could not use of them; the agent itself ends at the first.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::unistd::{AccessFlags, eaccess};

use super::{Config, NodeCaSource};
use crate::audit::SinkTarget;
use crate::cluster::Connector;
use crate::identity::jwt::check as check_authentication;
use crate::pki::{Authorities, TrustBundles, check_server_certificate};
use crate::runtime::private_folder::{NotPrivate, check_private};
use crate::store::Store;

impl Config {
    /// What is doubtful about the CAs that it trusts, with the field that names each. Files that cannot be used are left out:
    /// [`Config::unusable`] names them.
    #[must_use]
    pub fn doubtful_authorities(&self, now: SystemTime) -> Vec<String> {
        let mut doubts = Vec::new();
        let mut note = |field: &str, found: Authorities| {
            doubts.extend(found.doubts.iter().map(|doubt| format!("{field}: {doubt}")));
        };
        if let Ok(found) = Authorities::of_file(&self.upstream.ca_file, now) {
            note("upstream.caFile", found);
        }
        for bundle in &self.tls.trust_bundles {
            if let Ok(found) = Authorities::of_file(&bundle.file, now) {
                note(&format!("tls.trustBundles of {}", bundle.trust_domain), found);
            }
        }
        let clients = self
            .metrics
            .iter()
            .filter_map(|metrics| metrics.client_ca_file.as_ref());
        for file in clients {
            if let Ok(found) = Authorities::of_file(file, now) {
                note("metrics.clientCAFile", found);
            }
        }
        let issuers = self.authentication.config_file.as_ref();
        let issuers = issuers.and_then(|file| check_authentication(file).ok());
        let of_issuers = issuers.iter().flat_map(|issuers| issuers.doubtful_authorities());
        doubts
            .extend(of_issuers.map(|(url, doubt)| format!("certificateAuthority of issuer {url}: {doubt}")));
        doubts
    }

    /// What of the files and folders that it names cannot be used, with the field that names each. Those of `kernel` are left
    /// out: they are tried by other means. Must be called within a tokio runtime.
    pub async fn unusable(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut note = |field: &str, fault: String| faults.push(format!("{field}: {fault}"));
        let kubeconfig = &self.cluster.kubeconfig;
        match readable(kubeconfig) {
            Ok(()) => {
                if let Err(error) = Connector::new(kubeconfig).connect().await {
                    note("cluster.kubeconfig", error.to_string());
                }
            }
            Err(error) => note("cluster.kubeconfig", error.to_string()),
        }
        let upstream = &self.upstream;
        let of_ca = match &self.tls.node_ca {
            NodeCaSource::Files(files) => Some(files),
            NodeCaSource::Cluster => None,
        };
        let files = [
            ("upstream.caFile", Some(&upstream.ca_file)),
            (
                "upstream.clientCertificateFile",
                upstream.client_certificate_file.as_ref(),
            ),
            ("upstream.clientKeyFile", upstream.client_key_file.as_ref()),
            ("upstream.tokenFile", upstream.token_file.as_ref()),
            ("tls.caCertificateFile", of_ca.map(|files| &files.certificate)),
            ("tls.caKeyFile", of_ca.map(|files| &files.key)),
        ];
        for (field, file) in files {
            if let Some(Err(error)) = file.map(|file| readable(file)) {
                note(field, error.to_string());
            }
        }
        if let Some(own) = self.gateway.as_ref().and_then(|gateway| gateway.tls.as_ref()) {
            if let Err(error) = check_server_certificate(&own.files) {
                note("gateway.tls", error.to_string());
            }
            if let Some(Err(error)) = own.ca_file.as_ref().map(|file| readable(file)) {
                note("gateway.tls.caFile", error.to_string());
            }
        }
        if let Some(metrics) = &self.metrics {
            if let Some(Err(error)) = metrics.tls.as_ref().map(check_server_certificate) {
                note("metrics.tls", error.to_string());
            }
            if let Some(Err(error)) = metrics.client_ca_file.as_ref().map(|file| readable(file)) {
                note("metrics.clientCAFile", error.to_string());
            }
        }
        for bundle in &self.tls.trust_bundles {
            if let Err(error) = TrustBundles::check(bundle) {
                note("tls.trustBundles", error.to_string());
            }
        }
        if let Some(file) = &self.authentication.config_file
            && let Err(error) = check_authentication(file)
        {
            note("authentication.configFile", error.to_string());
        }
        let mut all_there = true;
        for path in &self.objects.files {
            if let Err(error) = fs::metadata(path).map_err(Unusable::at(path)) {
                all_there = false;
                note("objects", error.to_string());
            }
        }
        if all_there
            && !self.objects.files.is_empty()
            && let Err(error) = Store::open_beside(&self.objects.files, self.objects.cluster)
        {
            note("objects", error.to_string());
        }
        if let Err(error) = spool(&self.audit.directory) {
            note("audit.directory", error.to_string());
        }
        for sink in &self.audit.sinks {
            if let SinkTarget::File { path } = &sink.target
                && let Err(error) = log(path)
            {
                note(&format!("audit.sinks: {}", sink.name), error.to_string());
            }
        }
        // Its folder is made where it is missing.
        let above = self.admin.socket.ancestors().skip(1);
        if let Some(folder) = above.into_iter().find(|folder| folder.exists())
            && let Err(error) = match self.admin.socket.parent() == Some(folder) {
                true => private_folder(folder),
                false => writable_folder(folder),
            }
        {
            note("admin.socket", error.to_string());
        }
        faults
    }
}

/// Why a file or folder cannot be used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("{path}: {source}")]
    System { path: PathBuf, source: io::Error },
    #[error("{0}: it is no regular file")]
    NotAFile(PathBuf),
    #[error("{0} is no folder")]
    NotAFolder(PathBuf),
    #[error("{path}: {source}")]
    NotPrivate { path: PathBuf, source: NotPrivate },
    #[error("there is no folder {0}: make it")]
    NoFolder(PathBuf),
}

impl Unusable {
    /// The system's refusal at a path.
    fn at(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::System {
            path: path.to_owned(),
            source,
        }
    }
}

fn readable(path: &Path) -> Result<(), Unusable> {
    // A pipe of that name would never open.
    if !fs::metadata(path).map_err(Unusable::at(path))?.is_file() {
        return Err(Unusable::NotAFile(path.to_owned()));
    }
    File::open(path).map(drop).map_err(Unusable::at(path))
}

/// Whether lines can be added to a file, which is made where it is missing, but its folder is not.
fn log(file: &Path) -> Result<(), Unusable> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    if !folder.exists() {
        return Err(Unusable::NoFolder(folder.to_owned()));
    }
    private_folder(folder)?;
    if file.exists() { writable(file) } else { Ok(()) }
}

/// Whether a directory can be used, or made where it is missing.
fn spool(directory: &Path) -> Result<(), Unusable> {
    if directory.exists() {
        return private_folder(directory);
    }
    match directory.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        // The directory is made with rights of its own.
        Some(folder) if folder.exists() => writable_folder(folder),
        _ => log(directory),
    }
}

/// Whether a folder can be used, and nobody else can change what is in it.
fn private_folder(path: &Path) -> Result<(), Unusable> {
    writable_folder(path)?;
    let found = fs::metadata(path).map_err(Unusable::at(path))?;
    check_private(&found).map_err(|source| Unusable::NotPrivate {
        path: path.to_owned(),
        source,
    })
}

fn writable_folder(path: &Path) -> Result<(), Unusable> {
    if !path.is_dir() {
        return Err(Unusable::NotAFolder(path.to_owned()));
    }
    writable(path)
}

fn writable(path: &Path) -> Result<(), Unusable> {
    eaccess(path, AccessFlags::W_OK).map_err(|error| Unusable::at(path)(error.into()))
}
