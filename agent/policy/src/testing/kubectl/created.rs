//! What the flags of `kubectl create` put into Secrets, ConfigMaps and bindings of roles.
//!
//! In: the object with its name, and the flags. Out: the object as kubectl 1.36 sends it. A test reads no file: what comes from one has
//! its key and an empty value.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value as Json, json};

use super::flags::Arguments;
use crate::testing::input::InputError;

/// The group of roles and bindings, and of users and groups in them.
const RBAC: &str = "rbac.authorization.k8s.io";

/// Where images come from without `--docker-server`.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// Fills an object in. `of_type` is the word after `create secret`.
pub(super) fn fill(
    object: &mut Json,
    kind: &str,
    of_type: &str,
    arguments: &Arguments,
) -> Result<(), InputError> {
    match kind {
        "Secret" => fill_secret(object, of_type, arguments),
        "ConfigMap" => {
            let data = data(arguments, str::to_owned)?;
            set_data(object, data);
            Ok(())
        }
        "RoleBinding" | "ClusterRoleBinding" => {
            object["roleRef"] = role_ref(kind, arguments)?;
            let subjects = subjects(arguments)?;
            if !subjects.is_empty() {
                object["subjects"] = Json::Array(subjects);
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn fill_secret(object: &mut Json, of_type: &str, arguments: &Arguments) -> Result<(), InputError> {
    let (of_type, data) = match of_type {
        // Without --type kubectl sends none, and the API server takes Opaque.
        "generic" => (arguments.value("type"), data(arguments, encoded)?),
        "tls" => {
            let files = ["tls.crt", "tls.key"].map(|key| (key.to_owned(), json!("")));
            (Some("kubernetes.io/tls"), files.into_iter().collect())
        }
        "docker-registry" => {
            let mut data = data(arguments, encoded)?;
            if data.is_empty() {
                data.insert(".dockerconfigjson".to_owned(), json!(encoded(&login(arguments))));
            }
            (Some("kubernetes.io/dockerconfigjson"), data)
        }
        other => {
            return Err(InputError(format!(
                "kubectl has no `create secret {other}`: write generic, tls or docker-registry"
            )));
        }
    };
    if let Some(of_type) = of_type.filter(|of_type| !of_type.is_empty()) {
        object["type"] = json!(of_type);
    }
    set_data(object, data);
    Ok(())
}

fn set_data(object: &mut Json, data: Map<String, Json>) {
    if !data.is_empty() {
        object["data"] = Json::Object(data);
    }
}

/// The keys and values of `--from-literal` and `--from-file`.
fn data(arguments: &Arguments, value_of: fn(&str) -> String) -> Result<Map<String, Json>, InputError> {
    if arguments.value("from-env-file").is_some() {
        return Err(InputError(
            "a test reads no file of --from-env-file: write --from-literal=KEY=VALUE for each line of it"
                .to_owned(),
        ));
    }
    let mut data = Map::new();
    for literal in arguments.all("from-literal") {
        let (key, value) = literal.split_once('=').ok_or_else(|| {
            InputError(format!(
                "{literal:?} is no literal: write --from-literal=KEY=VALUE"
            ))
        })?;
        data.insert(key.to_owned(), json!(value_of(value)));
    }
    for source in arguments.all("from-file") {
        let (key, path) = source.split_once('=').unwrap_or(("", source));
        let name = path.rsplit('/').next().unwrap_or_default();
        let key = if key.is_empty() { name } else { key };
        data.insert(key.to_owned(), json!(""));
    }
    Ok(data)
}

fn encoded(text: &str) -> String {
    STANDARD.encode(text)
}

/// The login of a registry, as Docker keeps it in its configuration.
fn login(arguments: &Arguments) -> String {
    let flag = |name: &str| arguments.value(name).unwrap_or_default().to_owned();
    let (user, password) = (flag("docker-username"), flag("docker-password"));
    let server = arguments.value("docker-server").unwrap_or(DOCKER_HUB);
    let mut login = json!({"username": user, "password": password});
    if let Some(email) = arguments.value("docker-email") {
        login["email"] = json!(email);
    }
    login["auth"] = json!(encoded(&format!("{user}:{password}")));
    json!({"auths": {server: login}}).to_string()
}

fn role_ref(kind: &str, arguments: &Arguments) -> Result<Json, InputError> {
    let role = arguments.value("role").filter(|_| kind == "RoleBinding");
    let (kind, name) = match (role, arguments.value("clusterrole")) {
        (Some(name), None) => ("Role", name),
        (None, Some(name)) => ("ClusterRole", name),
        _ => {
            return Err(InputError(
                "a binding is of one role: write --clusterrole=NAME, or --role=NAME for a rolebinding"
                    .to_owned(),
            ));
        }
    };
    Ok(json!({"apiGroup": RBAC, "kind": kind, "name": name}))
}

fn subjects(arguments: &Arguments) -> Result<Vec<Json>, InputError> {
    let mut subjects = Vec::new();
    for (flag, kind) in [("user", "User"), ("group", "Group")] {
        let names = arguments.all(flag);
        subjects.extend(names.map(|name| json!({"kind": kind, "apiGroup": RBAC, "name": name})));
    }
    for account in arguments.all("serviceaccount") {
        let (namespace, name) = account.split_once(':').ok_or_else(|| {
            InputError(format!(
                "{account:?} is no service account: write --serviceaccount=NAMESPACE:NAME"
            ))
        })?;
        subjects.push(json!({"kind": "ServiceAccount", "namespace": namespace, "name": name}));
    }
    Ok(subjects)
}

#[cfg(test)]
#[path = "created_tests.rs"]
mod tests;
