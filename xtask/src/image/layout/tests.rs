//! The layout against what the OCI image specification says, and its tar against a real containerd.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::archive::ArchivedFile;
use super::{Contents, Layout, digest};
use crate::sh;

/// An image of these files.
fn contents(files: &[(&str, u32, &[u8])]) -> Contents {
    let file = |&(path, mode, content): &(&str, u32, &[u8])| {
        let content = content.to_vec();
        (path.to_owned(), ArchivedFile { mode, content })
    };
    Contents {
        files: files.iter().map(file).collect(),
        architecture: "amd64",
        version: "1.2.3".to_owned(),
        revision: "c0ffee".to_owned(),
        epoch: 86_400,
        created: "1970-01-02T00:00:00Z".to_owned(),
        source: None,
    }
}

fn small() -> Contents {
    contents(&[
        ("picket", 0o755, b"program"),
        ("etc/ssl/certs/ca-certificates.crt", 0o644, b"certificates"),
    ])
}

fn json_of(layout: &Layout, path: &str) -> Value {
    serde_json::from_slice(&layout.files[path]).unwrap()
}

/// The blob that a descriptor names, after its digest and its size were compared.
fn blob<'a>(layout: &'a Layout, descriptor: &Value) -> &'a [u8] {
    let name = descriptor["digest"].as_str().unwrap();
    let bytes = &layout.files[&format!("blobs/sha256/{}", name.strip_prefix("sha256:").unwrap())];
    assert_eq!(digest(bytes), name);
    assert_eq!(descriptor["size"], bytes.len());
    bytes
}

#[test]
fn each_descriptor_names_its_blob() {
    let layout = Layout::new(&small()).unwrap();
    assert_eq!(
        json_of(&layout, "oci-layout"),
        json!({"imageLayoutVersion": "1.0.0"})
    );
    let index = json_of(&layout, "index.json");
    let [descriptor] = index["manifests"].as_array().unwrap().as_slice() else {
        panic!("{index}");
    };
    assert_eq!(descriptor["digest"], layout.digest);
    assert_eq!(
        descriptor["platform"],
        json!({"architecture": "amd64", "os": "linux"})
    );
    assert_eq!(
        descriptor["annotations"]["io.containerd.image.name"],
        "picket.dev/picket:1.2.3"
    );
    assert_eq!(
        descriptor["annotations"]["org.opencontainers.image.ref.name"],
        "1.2.3"
    );
    let manifest_bytes = blob(&layout, descriptor);
    let manifest: Value = serde_json::from_slice(manifest_bytes).unwrap();
    let config_bytes = blob(&layout, &manifest["config"]);
    let config: Value = serde_json::from_slice(config_bytes).unwrap();
    let layer = blob(&layout, &manifest["layers"][0]);
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);
    assert_eq!(
        layout.pulled,
        manifest_bytes.len() + config_bytes.len() + layer.len()
    );
    // The configuration names the layer by its digest before it was compressed.
    let folder = tempfile::tempdir().unwrap();
    let compressed = folder.path().join("layer.gz");
    fs::write(&compressed, layer).unwrap();
    let plain = sh::command("gzip")
        .args(["-d", "-c"])
        .arg(&compressed)
        .output()
        .unwrap()
        .stdout;
    assert_eq!(config["rootfs"]["diff_ids"], json!([digest(&plain)]));
}

#[test]
fn the_configuration_starts_picket_and_tells_the_commit() {
    let mut of = small();
    of.source = Some("https://example.com/picket".to_owned());
    let layout = Layout::new(&of).unwrap();
    let index = json_of(&layout, "index.json");
    let manifest: Value = serde_json::from_slice(blob(&layout, &index["manifests"][0])).unwrap();
    let config: Value = serde_json::from_slice(blob(&layout, &manifest["config"])).unwrap();
    assert_eq!(config["config"]["Entrypoint"], json!(["/picket"]));
    assert_eq!(config["created"], "1970-01-02T00:00:00Z");
    assert_eq!(
        (&config["architecture"], &config["os"]),
        (&json!("amd64"), &json!("linux"))
    );
    let labels = json!({
        "org.opencontainers.image.title": "Picket",
        "org.opencontainers.image.version": "1.2.3",
        "org.opencontainers.image.revision": "c0ffee",
        "org.opencontainers.image.created": "1970-01-02T00:00:00Z",
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.source": "https://example.com/picket",
    });
    assert_eq!(config["config"]["Labels"], labels);
    assert_eq!(manifest["annotations"], labels);
}

#[test]
fn the_same_contents_have_the_same_digest_and_others_do_not() {
    let made = |change: &dyn Fn(&mut Contents)| {
        let mut of = small();
        change(&mut of);
        let layout = Layout::new(&of).unwrap();
        (layout.digest.clone(), digest(&layout.tar().unwrap()))
    };
    let first = made(&|_| {});
    assert_eq!(first, made(&|_| {}));
    type Change = fn(&mut Contents);
    let changes: BTreeMap<&str, Change> = BTreeMap::from([
        (
            "a byte of a file",
            (|of| of.files.get_mut("picket").unwrap().content[0] ^= 1) as Change,
        ),
        ("permissions", |of| {
            of.files.get_mut("picket").unwrap().mode = 0o644
        }),
        ("a file more", |of| {
            let file = of.files["picket"].clone();
            of.files.insert("more".to_owned(), file);
        }),
        ("the commit", |of| of.revision = "facade".to_owned()),
        ("the commit's time", |of| of.epoch += 1),
        ("the architecture", |of| of.architecture = "arm64"),
        ("the version", |of| of.version = "1.2.4".to_owned()),
    ]);
    for (what, change) in changes {
        let other = made(&change);
        assert!(
            other.0 != first.0 && other.1 != first.1,
            "{what} makes no difference"
        );
    }
}

#[test]
fn the_folder_and_the_tar_hold_the_same_files() {
    let layout = Layout::new(&small()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (written, unpacked) = (folder.path().join("oci"), folder.path().join("unpacked"));
    layout.write_folder(&written).unwrap();
    let archive = folder.path().join("image.tar");
    fs::write(&archive, layout.tar().unwrap()).unwrap();
    fs::create_dir(&unpacked).unwrap();
    let mut tar = sh::command("tar");
    tar.arg("--extract")
        .arg("--file")
        .arg(&archive)
        .arg("--directory")
        .arg(&unpacked);
    sh::output(&mut tar).unwrap();
    let docker: Value = serde_json::from_slice(&fs::read(unpacked.join("manifest.json")).unwrap()).unwrap();
    fs::remove_file(unpacked.join("manifest.json")).unwrap();
    sh::output(
        sh::command("diff")
            .arg("--recursive")
            .arg(&written)
            .arg(&unpacked),
    )
    .unwrap();
    // Docker's list names the same blobs.
    assert_eq!(docker[0]["RepoTags"], json!(["picket.dev/picket:1.2.3"]));
    let config: Value =
        serde_json::from_slice(&fs::read(unpacked.join(docker[0]["Config"].as_str().unwrap())).unwrap())
            .unwrap();
    assert_eq!(config["config"]["Entrypoint"], json!(["/picket"]));
    let [layer] = docker[0]["Layers"].as_array().unwrap().as_slice() else {
        panic!("{docker}");
    };
    assert!(unpacked.join(layer.as_str().unwrap()).is_file());
}

/// A containerd with every path of its own, which ends with the test.
struct Containerd {
    process: Child,
    folder: tempfile::TempDir,
}

impl Containerd {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().display();
        let config = format!(
            "version = 2\nroot = \"{at}/root\"\nstate = \"{at}/state\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\n  address = \"{at}/socket\"\n[plugins.\"io.containerd.internal.v1.opt\"]\n  path = \"{at}/opt\"\n"
        );
        fs::write(folder.path().join("config.toml"), config).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let process = sh::command("containerd")
            .arg("--config")
            .arg(folder.path().join("config.toml"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let containerd = Self { process, folder };
        let deadline = Instant::now() + Duration::from_secs(60);
        while containerd.ctr(&["version"]).is_err() {
            let log = fs::read_to_string(containerd.path("log")).unwrap();
            assert!(Instant::now() < deadline, "containerd does not answer:\n{log}");
            std::thread::sleep(Duration::from_millis(100));
        }
        containerd
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn ctr(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut ctr = sh::command("ctr");
        ctr.arg("--address")
            .arg(self.path("socket"))
            .args(["--namespace", "k8s.io"])
            .args(args);
        sh::output(&mut ctr)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A file in a snapshot, whichever it is.
fn in_snapshots(snapshots: &Path, file: &str) -> PathBuf {
    let mut all = fs::read_dir(snapshots).unwrap().flatten();
    let found = all.find_map(|entry| Some(entry.path().join(file)).filter(|path| path.exists()));
    found.unwrap_or_else(|| panic!("no {file} below {}", snapshots.display()))
}

#[test]
fn containerd_imports_the_tar() {
    // A containerd needs root, and xtask itself has to build without one.
    if !nix::unistd::geteuid().is_root() || sh::which("containerd").is_none() {
        eprintln!("skipped: it needs root and containerd");
        return;
    }
    let layout = Layout::new(&contents(&[
        ("picket", 0o755, b"program"),
        ("etc/ssl/certs/ca-certificates.crt", 0o644, b"certificates"),
    ]))
    .unwrap();
    let containerd = Containerd::start();
    let archive = containerd.path("image.tar");
    fs::write(&archive, layout.tar().unwrap()).unwrap();
    let archive = archive.to_string_lossy().into_owned();
    // Another architecture than this machine's is imported too, so the test works on each.
    let import = [
        "images",
        "import",
        "--all-platforms",
        "--snapshotter",
        "native",
        &archive,
    ];
    let said = containerd.ctr(&import).unwrap();
    assert!(said.contains("picket.dev/picket:1.2.3"), "{said}");
    let list = containerd
        .ctr(&["images", "list", "name==picket.dev/picket:1.2.3"])
        .unwrap();
    assert!(list.contains(&layout.digest), "{list}");
    let snapshots = containerd.path("root/io.containerd.snapshotter.v1.native/snapshots");
    assert_eq!(fs::read(in_snapshots(&snapshots, "picket")).unwrap(), b"program");
    let certificates = in_snapshots(&snapshots, "etc/ssl/certs/ca-certificates.crt");
    assert_eq!(fs::read(certificates).unwrap(), b"certificates");
}
