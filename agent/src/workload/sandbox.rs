//! Pods whose container runtime has a network stack of its own: gVisor, Kata and the like.
//!
//! In: a pod's RuntimeClass. Out: whether Picket can redirect its connections. In such a pod a program's connect(2) ends in the
//! sandbox, and no hook of the node's kernel runs; what comes out are packets, and those to protected endpoints are dropped.

use std::collections::BTreeSet;

use parking_lot::Mutex;

/// What names of RuntimeClasses of such runtimes hold: gVisor's are `gvisor` and `runsc`; Kata's have its name and often that of
/// the hypervisor.
const NAMES: [&str; 8] = [
    "gvisor",
    "runsc",
    "kata",
    "firecracker",
    "cloud-hypervisor",
    "qemu",
    "confidential",
    "microvm",
];

/// How many names of RuntimeClasses metrics tell apart: a cluster has few, and a name is kept for good.
const NAMED: usize = 16;

/// The names that metrics have had.
static SHOWN: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

/// Whether pods of this RuntimeClass have a network stack of their own. A sandbox that is a machine or a kernel of its own costs
/// memory beside its pod, which its RuntimeClass tells as the pod's overhead; runtimes that start plain containers have none.
pub(super) fn has_own_stack(class: &str, has_overhead: bool) -> bool {
    let class = class.to_ascii_lowercase();
    has_overhead || NAMES.iter().any(|name| class.contains(name))
}

/// The message about such a pod.
pub(super) fn note(class: &str) -> String {
    format!(
        "This pod's RuntimeClass {class:?} gives it a network stack of its own, so Picket cannot redirect its connections: they \
         are dropped, and the pod reaches no API server. Run the AI agent without this RuntimeClass"
    )
}

/// The name as metrics have it.
pub(super) fn label(class: &str) -> &'static str {
    let mut shown = SHOWN.lock();
    if let Some(known) = shown.get(class) {
        return known;
    }
    if shown.len() >= NAMED {
        return "other";
    }
    let name: &'static str = Box::leak(class.to_owned().into_boxed_str());
    shown.insert(name);
    name
}

/// All names that metrics have had.
pub(super) fn labels() -> Vec<&'static str> {
    SHOWN.lock().iter().copied().chain(["other"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_with_a_stack_of_their_own_are_told_from_those_of_plain_containers() {
        for class in ["gvisor", "runsc", "kata-qemu", "Kata-fc", "kata-cc"] {
            assert!(has_own_stack(class, false), "{class}");
        }
        for class in ["nvidia", "runc", "crun", "spin", "default"] {
            assert!(!has_own_stack(class, false), "{class}");
            assert!(has_own_stack(class, true), "{class} with an overhead");
        }
        assert!(note("gvisor").contains("\"gvisor\""));
    }

    #[test]
    fn metrics_have_few_names() {
        assert_eq!(label("gvisor"), "gvisor");
        for number in 0..100 {
            label(&format!("class-{number}"));
        }
        assert!(labels().len() <= NAMED + 1);
        assert_eq!(label("one-more"), "other");
    }
}
