//! The calls that the module `clients` of e2e compares: list, get, create, patch, watch, delete, exec.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{
    Api, AttachParams, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::{Client, Config, Error};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

const NAME: &str = "made-by-kube-rs";
/// No single step takes seconds; a step that hangs must say so before the test's own limit.
const LIMIT: Duration = Duration::from_secs(30);

/// Makes the calls in order and prints each answer.
pub(crate) async fn run(namespace: &str) -> Result<()> {
    let client = Client::try_from(Config::incluster()?)?;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let pods: Api<Pod> = Api::namespaced(client, namespace);

    let list = maps.list(&ListParams::default()).await.context("list")?;
    let seeds: serde_json::Map<String, Value> = list
        .items
        .iter()
        .filter(|map| map.metadata.name.as_deref() == Some("seed"))
        .map(|map| ("seed".to_owned(), json!(map.data)))
        .collect();
    show("list", &json!(seeds));
    show("get", &json!(maps.get("seed").await.context("get")?));

    let version = list
        .metadata
        .resource_version
        .context("a list without a resource version")?;
    let watcher = tokio::spawn(events(maps.clone(), version));
    let made: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": NAME}, "data": {"step": "created"}}))?;
    show(
        "create",
        &json!(
            maps.create(&PostParams::default(), &made)
                .await
                .context("create")?
        ),
    );
    let patch = Patch::Merge(json!({"data": {"step": "patched"}}));
    show(
        "patch",
        &json!(
            maps.patch(NAME, &PatchParams::default(), &patch)
                .await
                .context("patch")?
        ),
    );
    show(
        "exec",
        &exec(&pods, "echo out; echo err >&2").await.context("exec")?,
    );
    show(
        "exec-fails",
        &exec(&pods, "exit 3").await.context("exec that fails")?,
    );
    let deleted = maps
        .delete(NAME, &DeleteParams::default())
        .await
        .context("delete")?;
    show(
        "delete",
        &deleted.either(|object| json!(object), |status| json!(status)),
    );
    show(
        "watch",
        &tokio::time::timeout(LIMIT, watcher)
            .await
            .context("no DELETED event")???,
    );

    match maps.get("missing").await {
        Err(Error::Api(status)) => show("missing", &json!(status)),
        Err(other) => return Err(other).context("get of what is not there"),
        Ok(_) => bail!("`missing` was found"),
    }
    Ok(())
}

fn show(name: &str, answer: &Value) {
    println!("=== {name}\n{answer}");
}

/// The events of one ConfigMap until it is deleted.
async fn events(maps: Api<ConfigMap>, version: String) -> Result<Value> {
    let params = WatchParams::default()
        .fields(&format!("metadata.name={NAME}"))
        .timeout(30);
    let mut stream = maps.watch(&params, &version).await.context("watch")?.boxed();
    let mut seen = Vec::new();
    while let Some(event) = stream.try_next().await? {
        match event {
            WatchEvent::Added(map) => seen.push(json!(["ADDED", map.data])),
            WatchEvent::Modified(map) => seen.push(json!(["MODIFIED", map.data])),
            WatchEvent::Deleted(map) => {
                seen.push(json!(["DELETED", map.data]));
                return Ok(json!(seen));
            }
            WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(status) => bail!("watch error: {status:?}"),
        }
    }
    bail!("the watch ended after {seen:?}")
}

/// Runs a shell line in the pod `target`; gives output and final status.
async fn exec(pods: &Api<Pod>, line: &str) -> Result<Value> {
    let params = AttachParams::default().stdin(false).stdout(true).stderr(true);
    let mut session = pods.exec("target", ["sh", "-c", line], &params).await?;
    let mut stdout = session.stdout().context("no stdout")?;
    let mut stderr = session.stderr().context("no stderr")?;
    let status = session.take_status().context("no status")?;
    let (mut out, mut err) = (String::new(), String::new());
    let (read_out, read_err, status) = tokio::time::timeout(LIMIT, async {
        tokio::join!(
            stdout.read_to_string(&mut out),
            stderr.read_to_string(&mut err),
            status
        )
    })
    .await
    .context("the session did not end")?;
    read_out?;
    read_err?;
    Ok(json!({"stdout": out, "stderr": err, "status": status}))
}
