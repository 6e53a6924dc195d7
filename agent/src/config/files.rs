//! The files and folders that a configuration names, looked at before an agent is started.
//!
//! In: a [`Config`]. Out: all that an agent could not use of them; the agent itself ends at the first.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use nix::unistd::{AccessFlags, eaccess};

use super::Config;
use crate::audit::SinkTarget;
use crate::cluster::Connector;
use crate::runtime::private_folder::check_private;
use crate::store::Store;

impl Config {
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
            Err(fault) => note("cluster.kubeconfig", fault),
        }
        let upstream = &self.upstream;
        let files = [
            ("upstream.caFile", Some(&upstream.ca_file)),
            (
                "upstream.clientCertificateFile",
                upstream.client_certificate_file.as_ref(),
            ),
            ("upstream.clientKeyFile", upstream.client_key_file.as_ref()),
            ("upstream.tokenFile", upstream.token_file.as_ref()),
            ("tls.caCertificateFile", Some(&self.tls.ca_certificate_file)),
            ("tls.caKeyFile", Some(&self.tls.ca_key_file)),
        ];
        for (field, file) in files {
            if let Some(Err(fault)) = file.map(|file| readable(file)) {
                note(field, fault);
            }
        }
        let mut all_there = true;
        for path in &self.objects {
            if let Err(error) = fs::metadata(path) {
                all_there = false;
                note("objects", told(path, &error));
            }
        }
        if all_there && let Err(error) = Store::open(&self.objects) {
            note("objects", error.to_string());
        }
        if let Err(fault) = spool(&self.audit.directory) {
            note("audit.directory", fault);
        }
        for sink in &self.audit.sinks {
            if let SinkTarget::File { path } = &sink.target
                && let Err(fault) = log(path)
            {
                note(&format!("audit.sinks: {}", sink.name), fault);
            }
        }
        // Its folder is made where it is missing.
        let above = self.admin.socket.ancestors().skip(1);
        if let Some(folder) = above.into_iter().find(|folder| folder.exists())
            && let Err(fault) = match self.admin.socket.parent() == Some(folder) {
                true => private_folder(folder),
                false => writable_folder(folder),
            }
        {
            note("admin.socket", fault);
        }
        faults
    }
}

fn readable(path: &Path) -> Result<(), String> {
    let told = |error| told(path, &error);
    // A pipe of that name would never open.
    if !fs::metadata(path).map_err(told)?.is_file() {
        return Err(format!("{}: it is no regular file", path.display()));
    }
    File::open(path).map(drop).map_err(told)
}

/// Whether lines can be added to a file, which is made where it is missing, but its folder is not.
fn log(file: &Path) -> Result<(), String> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    if !folder.exists() {
        return Err(format!("there is no folder {}: make it", folder.display()));
    }
    private_folder(folder)?;
    if file.exists() { writable(file) } else { Ok(()) }
}

/// Whether a directory can be used, or made where it is missing.
fn spool(directory: &Path) -> Result<(), String> {
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
fn private_folder(path: &Path) -> Result<(), String> {
    writable_folder(path)?;
    let found = fs::metadata(path).map_err(|error| told(path, &error))?;
    check_private(&found).map_err(|reason| format!("{}: {reason}", path.display()))
}

fn writable_folder(path: &Path) -> Result<(), String> {
    if !path.is_dir() {
        return Err(format!("{} is no folder", path.display()));
    }
    writable(path)
}

fn writable(path: &Path) -> Result<(), String> {
    eaccess(path, AccessFlags::W_OK).map_err(|error| told(path, &error.into()))
}

fn told(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}
