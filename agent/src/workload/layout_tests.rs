//! Whole trees as kubelets and runtimes make them, each with the cgroup of a process in it.

use std::collections::BTreeMap;
use std::path::Path;

use super::super::cgroup::scan;
use super::*;
use crate::cluster::testing::Folder;

const UID: &str = "0d5a3c3e-7f3a-4a59-9a5b-0c6f4f0b8f11";
const UNDERSCORED: &str = "0d5a3c3e_7f3a_4a59_9a5b_0c6f4f0b8f11";
const HASH: &str = "f0e1d2c3b4a5968778695a4b3c2d1e0f";
const OTHER: &str = "1d5a3c3e-7f3a-4a59-9a5b-0c6f4f0b8f11";

/// A container's and a node container's id.
const C: &str = "6b1c0de7a5f5f0e2b6f5c7b5f0a1d2c3e4f5061728394a5b6c7d8e9f00112233";
const NODE: &str = "a11c0de7a5f5f0e2b6f5c7b5f0a1d2c3e4f5061728394a5b6c7d8e9f00112233";

/// A layout: its name, the folder of all pods, the pod's below it, and the process's below that.
struct Layout {
    name: &'static str,
    root: String,
    pod: String,
    process: String,
    uid: &'static str,
}

fn layout(name: &'static str, root: &str, pod: String, process: String) -> Layout {
    let uid = if pod.contains(HASH) { HASH } else { UID };
    Layout {
        name,
        root: root.to_owned(),
        pod,
        process,
        uid,
    }
}

/// Each quality of service that a kubelet makes folders for, and none, which is a guaranteed pod's.
fn layouts() -> Vec<Layout> {
    let mut all = Vec::new();
    for qos in ["", "burstable", "besteffort"] {
        let folder = |pod: &str| match qos {
            "" => format!("pod{pod}"),
            qos => format!("{qos}/pod{pod}"),
        };
        let slices = |prefix: &str, pod: &str| match qos {
            "" => format!("{prefix}kubepods-pod{pod}.slice"),
            qos => format!("{prefix}kubepods-{qos}.slice/{prefix}kubepods-{qos}-pod{pod}.slice"),
        };
        all.extend([
            layout("containerd, cgroupfs", "kubepods", folder(UID), C.to_owned()),
            layout(
                "containerd, systemd",
                "kubepods.slice",
                slices("", UNDERSCORED),
                format!("cri-containerd-{C}.scope"),
            ),
            layout("CRI-O, cgroupfs", "kubepods", folder(UID), format!("crio-{C}")),
            layout(
                "CRI-O, systemd",
                "kubepods.slice",
                slices("", UNDERSCORED),
                format!("crio-{C}.scope"),
            ),
            layout(
                "CRI-O, nested",
                "kubepods.slice",
                slices("", UNDERSCORED),
                format!("crio-{C}.scope/container"),
            ),
            layout("cri-dockerd, cgroupfs", "kubepods", folder(UID), C.to_owned()),
            layout(
                "cri-dockerd, systemd",
                "kubepods.slice",
                slices("", UNDERSCORED),
                format!("docker-{C}.scope"),
            ),
            layout(
                "kind, cgroupfs",
                &format!("docker/{NODE}/kubelet/kubepods"),
                folder(UID),
                C.to_owned(),
            ),
            layout(
                "kind, systemd",
                &format!("system.slice/docker-{NODE}.scope/kubelet.slice/kubelet-kubepods.slice"),
                slices("kubelet-", UNDERSCORED),
                format!("cri-containerd-{C}.scope"),
            ),
            layout("a static pod, cgroupfs", "kubepods", folder(HASH), C.to_owned()),
            layout(
                "a static pod, systemd",
                "kubepods.slice",
                slices("", HASH),
                format!("cri-containerd-{C}.scope"),
            ),
            layout(
                "systemd in the container",
                "kubepods.slice",
                slices("", UNDERSCORED),
                format!("cri-containerd-{C}.scope/system.slice/sshd.service"),
            ),
            layout(
                "a pod's name below the container",
                "kubepods",
                folder(UID),
                format!("{C}/kubepods/pod{OTHER}"),
            ),
        ]);
    }
    all
}

#[test]
fn in_every_layout_the_pod_is_found_by_its_component_and_its_processes_by_their_cgroup() {
    let mut pod = Pod::for_tests("default", "web");
    pod.containers = BTreeMap::from([(C.to_owned(), "main".to_owned())]);
    for layout in layouts() {
        let name = format!("{}: {}/{}", layout.name, layout.root, layout.pod);
        let tree = Folder::new();
        let folder = tree.path().join(&layout.root).join(&layout.pod);
        std::fs::create_dir_all(folder.join(&layout.process)).unwrap();
        // What else a node has: services, and what a runtime puts beside the containers.
        for beside in ["system.slice/kubelet.service", "init.scope", "user.slice"] {
            std::fs::create_dir_all(tree.path().join(beside)).unwrap();
        }
        std::fs::create_dir_all(folder.join(format!("crio-conmon-{C}.scope"))).unwrap();

        let found = scan(tree.path(), 0).unwrap();
        let pods: Vec<_> = found
            .pods
            .iter()
            .map(|pod| (pod.uid.0.as_str(), pod.group.path.as_path()))
            .collect();
        assert_eq!(pods, [(layout.uid, folder.as_path())], "{name}");
        let roots: Vec<_> = found.roots.iter().map(|root| root.path.clone()).collect();
        assert_eq!(roots, [tree.path().join(&layout.root)], "{name}");

        let process = Path::new("/")
            .join(&layout.root)
            .join(&layout.pod)
            .join(&layout.process);
        assert_eq!(
            pod_of(&process).map(|uid| uid.0).as_deref(),
            Some(layout.uid),
            "{name}"
        );
        assert_eq!(container_of(&pod, &process).as_deref(), Some("main"), "{name}");
        // From inside a cgroup namespace deeper in the tree.
        let relative = Path::new("/../../..").join(&layout.pod).join(&layout.process);
        assert_eq!(
            pod_of(&relative).map(|uid| uid.0).as_deref(),
            Some(layout.uid),
            "{name}"
        );
    }
}

#[test]
fn what_looks_like_a_pod_and_is_none_stays_in_the_folder_of_all_pods() {
    let tree = Folder::new();
    for folder in [
        // A UID that a manifest names may be anything; such a pod is closed with the folder of all pods.
        "kubepods/podmine".to_owned(),
        format!("kubepods/burstable/pod{}", UID.to_uppercase()),
        format!("kubepods.slice/kubepods-pod{UID}.slice"),
        format!("machine.slice/libpod-{C}.scope"),
        format!("user.slice/user-pod{UNDERSCORED}.slice"),
    ] {
        std::fs::create_dir_all(tree.path().join(folder)).unwrap();
    }
    let found = scan(tree.path(), 0).unwrap();
    assert_eq!(found.pods, []);
    assert_eq!(found.roots.len(), 2, "{:?}", found.roots);
}
