//! The image: its layer, configuration and manifest, as an OCI image layout and as a tar of it.
//!
//! In: the files, and what is said about them. Out: blobs named by their digests, `index.json` and `oci-layout`. The tar has
//! `manifest.json` too, by which `docker load` finds the same blobs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use ring::digest;
use serde_json::{Map, Value, json};

use super::archive::{ArchivedFile, ArchivedFiles, gzip, tar};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The image without its version.
pub(super) const REPOSITORY: &str = "picket.dev/picket";

/// What is in the image, and what is said about it.
#[derive(Debug, Clone)]
pub(super) struct Contents {
    /// The files by their path.
    pub(super) files: ArchivedFiles,
    /// As OCI calls it: `amd64`, `arm64`.
    pub(super) architecture: &'static str,
    /// Picket's version.
    pub(super) version: String,
    /// The commit.
    pub(super) revision: String,
    /// The commit's time in seconds since 1970.
    pub(super) epoch: u64,
    /// The same time as RFC 3339 has it.
    pub(super) created: String,
    /// Where the source is published.
    pub(super) source: Option<String>,
}

/// A finished image.
#[derive(Debug)]
pub(super) struct Layout {
    /// `picket.dev/picket:VERSION`.
    pub(super) reference: String,
    /// The manifest's digest, by which the image can be pinned.
    pub(super) digest: String,
    /// The bytes of a pull: the layer, the configuration and the manifest.
    pub(super) pulled: usize,
    /// The files by their path in the layout.
    files: BTreeMap<String, Vec<u8>>,
    /// Docker's list of what is in the tar.
    docker: Vec<u8>,
    epoch: u64,
}

/// `sha256:...` of the bytes.
pub(super) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&digest::SHA256, bytes))
}

/// The digest in hexadecimal digits.
pub(super) fn hex(algorithm: &'static digest::Algorithm, bytes: &[u8]) -> String {
    let digest = digest::digest(algorithm, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Blobs by their path in the layout.
#[derive(Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

impl Blobs {
    /// Adds a blob and returns the descriptor that names it.
    fn add(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = digest(&bytes);
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
        self.0.insert(blob_path(&digest), bytes);
        descriptor
    }

    fn size(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

impl Layout {
    /// Makes the image.
    pub(super) fn new(of: &Contents) -> Result<Self> {
        let layer = tar(&of.files, of.epoch)?;
        let diff_id = digest(&layer);
        let mut blobs = Blobs::default();
        let layer = blobs.add(LAYER, gzip(&layer)?);
        let config = blobs.add(CONFIG, bytes(&config(of, &diff_id)));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": [layer],
            "annotations": labels(of),
        });
        let mut manifest = blobs.add(MANIFEST, bytes(&manifest));
        let digest = text(&manifest["digest"]);
        let reference = format!("{REPOSITORY}:{}", of.version);
        manifest["platform"] = json!({"architecture": of.architecture, "os": "linux"});
        manifest["annotations"] = json!({
            "io.containerd.image.name": reference,
            "org.opencontainers.image.ref.name": of.version,
            "org.opencontainers.image.created": of.created,
        });
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest]});
        let docker = json!([{
            "Config": blob_path(&text(&config["digest"])),
            "RepoTags": [reference],
            "Layers": [blob_path(&text(&layer["digest"]))],
        }]);
        let pulled = blobs.size();
        let mut files = blobs.0;
        files.insert("index.json".to_owned(), bytes(&index));
        files.insert(
            "oci-layout".to_owned(),
            bytes(&json!({"imageLayoutVersion": "1.0.0"})),
        );
        Ok(Self {
            reference,
            digest,
            pulled,
            files,
            docker: bytes(&docker),
            epoch: of.epoch,
        })
    }

    /// Writes the layout into a folder that does not exist yet.
    pub(super) fn write_folder(&self, folder: &Path) -> Result<()> {
        for (path, bytes) in &self.files {
            let file = folder.join(path);
            let above = file.parent().context("a file without a folder")?;
            fs::create_dir_all(above).with_context(|| format!("make {}", above.display()))?;
            fs::write(&file, bytes).with_context(|| format!("write {}", file.display()))?;
        }
        Ok(())
    }

    /// The layout as a tar, with Docker's list.
    pub(super) fn tar(&self) -> Result<Vec<u8>> {
        let file = |bytes: &Vec<u8>| ArchivedFile {
            mode: 0o644,
            content: bytes.clone(),
        };
        let mut files: ArchivedFiles = self
            .files
            .iter()
            .map(|(path, bytes)| (path.clone(), file(bytes)))
            .collect();
        files.insert("manifest.json".to_owned(), file(&self.docker));
        tar(&files, self.epoch)
    }
}

/// The configuration: the program as the entry point, with the rights that the pod gives it.
fn config(of: &Contents, diff_id: &str) -> Value {
    json!({
        "created": of.created,
        "architecture": of.architecture,
        "os": "linux",
        "config": {
            // `kubectl exec POD -- picket health` finds the program.
            "Env": ["PATH=/"],
            "Entrypoint": ["/picket"],
            "WorkingDir": "/",
            "Labels": labels(of),
        },
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": of.created, "created_by": "cargo xtask image"}],
    })
}

fn labels(of: &Contents) -> Value {
    let mut labels = Map::new();
    let mut put = |name: &str, value: &str| {
        labels.insert(format!("org.opencontainers.image.{name}"), Value::from(value));
    };
    put("title", "Picket");
    put("version", &of.version);
    put("revision", &of.revision);
    put("created", &of.created);
    put("licenses", "Apache-2.0");
    if let Some(source) = &of.source {
        put("source", source);
    }
    Value::Object(labels)
}

/// JSON with its keys in alphabetical order.
fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
