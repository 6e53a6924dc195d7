//! What `kubectl create` sends of Secrets, ConfigMaps and bindings, and what it refuses.

use serde_json::json;

use crate::testing::kubectl::{CommandContext, requests};

#[test]
fn create_sends_what_its_flags_say() {
    let around = CommandContext {
        namespace: "agents",
        stdin: None,
        exists: true,
    };
    let docker = "eyJhdXRocyI6eyJyIjp7ImF1dGgiOiJkVHB3IiwicGFzc3dvcmQiOiJwIiwidXNlcm5hbWUiOiJ1In19fQ==";
    let rbac = "rbac.authorization.k8s.io";
    for (line, pointer, value) in [
        (
            "secret generic s --from-literal=a=b=c",
            "/data",
            json!({"a": "Yj1j"}),
        ),
        (
            "secret generic s --from-literal=a=b --from-literal c=",
            "/data",
            json!({"a": "Yg==", "c": ""}),
        ),
        ("secret generic s --from-literal=a=b", "/type", json!(null)),
        (
            "secret generic s --type=kubernetes.io/service-account-token",
            "/type",
            json!("kubernetes.io/service-account-token"),
        ),
        (
            "secret tls s --cert=a --key=b",
            "/type",
            json!("kubernetes.io/tls"),
        ),
        (
            "secret tls s --cert=a --key=b",
            "/data",
            json!({"tls.crt": "", "tls.key": ""}),
        ),
        (
            "secret docker-registry s --docker-server=r --docker-username=u --docker-password=p",
            "/type",
            json!("kubernetes.io/dockerconfigjson"),
        ),
        (
            "secret docker-registry s --docker-server=r --docker-username=u --docker-password=p",
            "/data",
            json!({".dockerconfigjson": docker}),
        ),
        (
            "cm c --from-literal=a=b --from-file=x/y.txt --from-file=k=z",
            "/data",
            json!({"a": "b", "y.txt": "", "k": ""}),
        ),
        (
            "clusterrolebinding b --clusterrole=view --user=u --user=v --group=g --serviceaccount=n:s",
            "/roleRef",
            json!({"apiGroup": rbac, "kind": "ClusterRole", "name": "view"}),
        ),
        (
            "rolebinding b --role=r --user=u --user=v --group=g --serviceaccount=n:s",
            "/roleRef",
            json!({"apiGroup": rbac, "kind": "Role", "name": "r"}),
        ),
        (
            "rolebinding b --role=r --user=u --user=v --group=g --serviceaccount=n:s",
            "/subjects",
            json!([
                {"kind": "User", "apiGroup": rbac, "name": "u"},
                {"kind": "User", "apiGroup": rbac, "name": "v"},
                {"kind": "Group", "apiGroup": rbac, "name": "g"},
                {"kind": "ServiceAccount", "namespace": "n", "name": "s"},
            ]),
        ),
    ] {
        let made = requests(&format!("create {line}"), around).expect("requests");
        let body: serde_json::Value = serde_json::from_slice(&made[0].body).expect("JSON");
        let found = body.pointer(pointer).cloned().unwrap_or_default();
        assert_eq!(found, value, "{line}");
    }
    for (line, says) in [
        ("secret other s", "kubectl has no `create secret other`"),
        ("secret generic s --from-literal=a", "is no literal"),
        ("secret generic s --from-env-file=a", "a test reads no file"),
        ("clusterrolebinding b --role=view", "a binding is of one role"),
        (
            "rolebinding b --role=r --clusterrole=view",
            "a binding is of one role",
        ),
        (
            "rolebinding b --role=r --serviceaccount=s",
            "is no service account",
        ),
    ] {
        let error = requests(&format!("create {line}"), around).expect_err(line);
        assert!(error.to_string().contains(says), "{line}: {error}");
    }
}
