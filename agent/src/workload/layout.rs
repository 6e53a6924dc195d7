//! How a kubelet and the container runtimes name cgroups.
//!
//! In: one component of a cgroup's path. Out: what it stands for: the folder of all pods, a pod, a container.
//!
//! The kubelet's names are those of `pkg/kubelet/cm/cgroup_manager_linux.go` (`CgroupName`, `ToSystemd`, `ToCgroupfs`): with
//! the cgroupfs driver `kubepods/burstable/pod<UID>`, with systemd
//! `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<UID with _ for ->.slice`. Both are below a cgroup root,
//! which may add folders (`/kubelet` on kind) and, with systemd, parts to each name (`kubelet-kubepods-…`).

use std::path::{Component, Path};

use super::{Pod, PodUid};

/// The kubelet's name for the folder that holds every pod.
const KUBEPODS: &str = "kubepods";

/// What the runtimes put before a container's id: containerd, CRI-O, cri-dockerd, Podman.
const RUNTIME_PREFIXES: [&str; 4] = ["cri-containerd", "crio", "docker", "libpod"];

/// Whether this component is the folder that holds every pod of a kubelet.
#[must_use]
pub fn is_kubepods(component: &str) -> bool {
    match component.strip_suffix(".slice") {
        // systemd spells the whole way into each name; the last part is the folder's own.
        Some(slice) => slice.rsplit('-').next() == Some(KUBEPODS),
        None => component == KUBEPODS,
    }
}

/// The UID of the pod whose folder has this name, as the kubelet knows it.
///
/// A pod from the API server has a UUID, one from a file or URL the MD5 of its manifest in 32 hex digits
/// (`pkg/kubelet/config/common.go`, `applyDefaults`). Anything else is no pod's folder.
#[must_use]
pub fn pod_uid(component: &str) -> Option<PodUid> {
    let uid = match component.strip_suffix(".slice") {
        Some(slice) => {
            let mut parts = slice.split('-').rev();
            let last = parts.next()?.strip_prefix("pod")?;
            // systemd reads `-` as a level, so the kubelet writes the UID's own dashes as `_`.
            parts
                .any(|part| part == KUBEPODS)
                .then(|| last.replace('_', "-"))?
        }
        None => component.strip_prefix("pod")?.to_owned(),
    };
    (is_uuid(&uid) || is_manifest_hash(&uid)).then_some(PodUid(uid))
}

/// Whether this is a UUID in its usual form, as the API server assigns them.
fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => is_hex(byte),
        })
}

/// Whether this has the form of a static pod's UID: the MD5 of its manifest.
#[must_use]
pub fn is_manifest_hash(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(is_hex)
}

fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// The pod whose part of the tree a cgroup lies in: the first component that is a pod's, since what a pod makes below its
/// own cgroup is its own, whatever its name.
#[must_use]
pub fn pod_of(cgroup: &Path) -> Option<PodUid> {
    names(cgroup).find_map(pod_uid)
}

fn names(path: &Path) -> impl Iterator<Item = &str> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => name.to_str(),
        _ => None,
    })
}

/// The container's name in the pod's manifest for a process in this cgroup.
///
/// `cgroup` may be a path in the file system or one from `/proc/<pid>/cgroup`. `None` for the sandbox's own processes,
/// and while the kubelet has not reported the container yet.
#[must_use]
pub fn container_of(pod: &Pod, cgroup: &Path) -> Option<String> {
    let mut components = names(cgroup);
    components.find(|name| pod_uid(name).is_some())?;
    let name = components.next()?;
    let id = container_id(name);
    pod.containers.get(id).cloned()
}

/// The container's id in its cgroup's name: `<id>`, `<runtime>-<id>` or `<runtime>-<id>.scope`.
fn container_id(component: &str) -> &str {
    let name = component.strip_suffix(".scope").unwrap_or(component);
    RUNTIME_PREFIXES
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix)?.strip_prefix('-'))
        .unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const UID: &str = "0d5a3c3e-7f3a-4a59-9a5b-0c6f4f0b8f11";
    const UNDERSCORED: &str = "0d5a3c3e_7f3a_4a59_9a5b_0c6f4f0b8f11";
    const HASH: &str = "f0e1d2c3b4a5968778695a4b3c2d1e0f";

    #[test]
    fn every_layout_of_a_pods_folder_names_its_uid() {
        let table = [
            (format!("pod{UID}"), Some(UID)),
            (format!("kubepods-pod{UNDERSCORED}.slice"), Some(UID)),
            (format!("kubepods-burstable-pod{UNDERSCORED}.slice"), Some(UID)),
            (format!("kubepods-besteffort-pod{UNDERSCORED}.slice"), Some(UID)),
            (
                format!("kubelet-kubepods-burstable-pod{UNDERSCORED}.slice"),
                Some(UID),
            ),
            (format!("pod{HASH}"), Some(HASH)),
            (format!("kubepods-burstable-pod{HASH}.slice"), Some(HASH)),
            (format!("user-pod{UNDERSCORED}.slice"), None),
            (format!("pod{UNDERSCORED}.slice"), None),
            (format!("pod{UNDERSCORED}"), None),
            (format!("pod{}", UID.to_uppercase()), None),
            (format!("pod{UID}.scope"), None),
            (format!("xpod{UID}"), None),
            ("pod".into(), None),
            ("podruntime".into(), None),
            ("podruntime.slice".into(), None),
            ("kubepods".into(), None),
            ("kubepods-burstable.slice".into(), None),
        ];
        for (name, uid) in table {
            assert_eq!(pod_uid(&name).map(|uid| uid.0).as_deref(), uid, "{name}");
        }
    }

    #[test]
    fn the_folder_of_all_pods_is_known_in_both_drivers() {
        for name in ["kubepods", "kubepods.slice", "kubelet-kubepods.slice"] {
            assert!(is_kubepods(name), "{name}");
        }
        for name in [
            "kubepods-burstable.slice",
            "mykubepods",
            "kubepods.scope",
            "burstable",
        ] {
            assert!(!is_kubepods(name), "{name}");
        }
    }

    #[test]
    fn a_process_is_in_the_container_whose_id_its_cgroup_has() {
        let mut pod = Pod::for_tests("default", "web");
        pod.containers = BTreeMap::from([("aa11".into(), "main".into()), ("bb22".into(), "side".into())]);
        let table = [
            (format!("/kubepods/burstable/pod{UID}/aa11"), Some("main")),
            (
                format!("/kubepods/burstable/pod{UID}/aa11/nested/deeper"),
                Some("main"),
            ),
            (
                format!(
                    "/sys/fs/cgroup/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/cri-containerd-bb22.scope"
                ),
                Some("side"),
            ),
            (
                format!("/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/crio-aa11.scope/container"),
                Some("main"),
            ),
            (
                format!("/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/docker-aa11.scope"),
                Some("main"),
            ),
            (format!("/../../kubelet/kubepods/pod{UID}/aa11"), Some("main")),
            (
                format!("/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/crio-conmon-aa11.scope"),
                None,
            ),
            (format!("/kubepods/burstable/pod{UID}/unknown/aa11"), None),
            (format!("/kubepods/burstable/pod{UID}"), None),
            ("/system.slice/aa11".into(), None),
        ];
        for (path, name) in table {
            assert_eq!(container_of(&pod, Path::new(&path)).as_deref(), name, "{path}");
        }
    }
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod trees;
