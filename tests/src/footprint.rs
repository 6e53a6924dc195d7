//! What a cluster and its nodes hold at a moment, to see what an installation left.
//!
//! In: a cluster. Out: the names of all objects of all kinds, Picket's labels, the pins and attached programs of each node's kernel, and the
//! folders of the node where programs keep things. Kubernetes Events are left out, as they go by themselves.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::cluster::{Cluster, TestNode};
use crate::net;
use crate::sys::attached;

/// Where programs of a node keep what they know.
const FOLDERS: [&str; 3] = ["/run", "/var/lib", "/var/log"];

/// What a node's container runtime makes with its first container.
const OF_RUNTIME: &str = "/run/containerd";

/// Kinds that are no state of a cluster's: what happened, and what is asked anew each time.
const PASSING: [&str; 4] = [
    "events",
    "events.events.k8s.io",
    "componentstatuses",
    "leases.coordination.k8s.io",
];

/// All of it, a line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint(BTreeSet<String>);

impl Footprint {
    /// What is there now.
    ///
    /// # Errors
    /// The cluster or a node cannot be asked.
    pub fn take(cluster: &Cluster) -> Result<Self> {
        let mut all = objects(cluster)?;
        for node in cluster.nodes() {
            all.extend(kernel(node).with_context(|| format!("the kernel of {}", node.name))?);
            all.extend(folders(node)?);
        }
        Ok(Self(all))
    }

    /// What is there now and was not, and what was there and is not.
    ///
    /// # Errors
    /// As [`Footprint::take`].
    pub fn differences(&self, cluster: &Cluster) -> Result<Vec<String>> {
        let now = Self::take(cluster)?;
        let more = now.0.difference(&self.0).map(|line| format!("+ {line}"));
        let gone = self.0.difference(&now.0).map(|line| format!("- {line}"));
        Ok(more.chain(gone).collect())
    }

    /// How many things there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn objects(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let client = cluster.kubectl_client();
    let kinds = client.run(
        &["api-resources", "--verbs=list", "--cached=false", "-o", "name"],
        None,
    )?;
    let kinds: Vec<&str> = kinds.lines().filter(|kind| !PASSING.contains(kind)).collect();
    // Leases of nodes and API servers come and go; that of a controller of Picket's is looked for by name.
    let text = client.run(&["get", &kinds.join(","), "-A", "-o", "json"], None)?;
    let list: Value = serde_json::from_str(&text).context("the objects")?;
    let mut all = BTreeSet::new();
    for object in list["items"].as_array().context("no objects")? {
        let metadata = &object["metadata"];
        let (kind, name) = (&object["kind"], &metadata["name"]);
        let line = format!("{kind} {} {name}", metadata["namespace"]).replace('"', "");
        for label in metadata["labels"].as_object().into_iter().flatten() {
            // Labels of namespaces and nodes are what Picket writes to objects that are not its own.
            if label.0.contains("picket.dev/") {
                all.insert(format!("{line} label {}", label.0));
            }
        }
        all.insert(line);
    }
    let leases = client.run(&["get", "leases", "-A", "-o", "name"], None)?;
    all.extend(
        leases
            .lines()
            .filter(|name| name.contains("picket"))
            .map(str::to_owned),
    );
    Ok(all)
}

/// Pins, and programs that are attached to the node's cgroups and interfaces.
fn kernel(node: &TestNode) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    let bpffs = node.file(Path::new("/sys/fs/bpf"));
    for entry in below(&bpffs)? {
        all.insert(format!("{} pin {entry}", node.name));
    }
    let mut folders = vec![String::new()];
    folders.extend(below(&node.cgroup)?);
    for folder in folders {
        let path = node.cgroup.join(&folder);
        if !path.is_dir() {
            continue;
        }
        // A pod's folder may go meanwhile.
        for (kind, count) in attached::to_cgroup(&path).unwrap_or_default() {
            all.insert(format!(
                "{} cgroup /{folder}: {count} programs of attach type {kind}",
                node.name
            ));
        }
    }
    let of_interfaces = net::inside(&node.netns, || {
        let interfaces = nix::net::if_::if_nameindex().context("the interfaces")?;
        let last = interfaces.iter().map(|interface| interface.index()).max();
        Ok(attached::to_interfaces(last.unwrap_or_default()))
    })?;
    for (interface, count) in of_interfaces {
        all.insert(format!("{} interface {interface}: {count} programs", node.name));
    }
    Ok(all)
}

/// Everything below a folder, by its path from there. Only folders are gone into.
fn below(folder: &Path) -> Result<Vec<String>> {
    let (mut all, mut next) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(path) = next.pop() {
        for entry in fs::read_dir(&path).into_iter().flatten() {
            let entry = entry?;
            let path = entry.path();
            all.push(path.strip_prefix(folder)?.display().to_string());
            if entry.file_type()?.is_dir() {
                next.push(path);
            }
        }
    }
    Ok(all)
}

fn folders(node: &TestNode) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for folder in FOLDERS {
        for entry in fs::read_dir(node.file(Path::new(folder)))? {
            let path = format!("{folder}/{}", entry?.file_name().display());
            if path != OF_RUNTIME {
                all.insert(format!("{} {path}", node.name));
            }
        }
    }
    Ok(all)
}
