//! The objects that the cluster keeps, for a command that lists them or changes one.
//!
//! In: a client of the API server, and a change. Out: the objects; an object that was made, changed or deleted at the API server, and
//! when the cluster's agents have it in force.
//!
//! A change names the version that it is of, so that it never undoes what somebody else wrote meanwhile. Agents write statuses, which
//! makes a new version too: such a change is sent again.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
    Preconditions,
};
use kube::{Api, Client};
use picket_controller::lenient::Lenient;
use picket_policy::api::v1alpha1::{
    AgentGrantSpec, AgentIdentitySpec, AgentPolicySpec, ConditionStatus, IdentityNode, Spec as _,
};
use picket_policy::api::{API_VERSION, AnyObject, GROUP};
use picket_policy::{ClusterObject, Document, PolicySet, builtin, read_documents};
use serde_json::{Value, json};
use thiserror::Error;
use tokio::runtime::Runtime;

use super::chart;
use super::conditions::Conditions;
use super::person::AskError;
use super::wait::{Unsure, Waited};
use crate::cli::output::{self, clean};
use crate::cluster::{PersonalConfig, printable};
use crate::store::LIMITS_FILE;
use crate::store::edit::{ObjectFiles, names_told};

/// The field manager of what the commands write.
const MANAGER: &str = "picket-cli";

/// Objects that one answer lists.
const PAGE: u32 = 500;

/// How often a change is sent again where only a status changed meanwhile. Each agent of a node writes one at most every 30 s.
const TRIES: usize = 8;

/// The pause between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(50);

/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(15);

/// How long the API server may take to say who the person is.
const NAME_LIMIT: Duration = Duration::from_secs(2);

const KINDS: [(&str, &str); 3] = [
    (AgentIdentitySpec::KIND, AgentIdentitySpec::PLURAL),
    (AgentGrantSpec::KIND, AgentGrantSpec::PLURAL),
    (AgentPolicySpec::KIND, AgentPolicySpec::PLURAL),
];

/// The objects at the API server.
pub(in crate::cli) struct ApiObjects {
    runtime: Runtime,
    client: Client,
    documents: Vec<Document>,
    faulty: Vec<FaultyObject>,
    set: PolicySet,
    /// What the nodes say of each AgentIdentity, by its name.
    nodes: BTreeMap<String, Vec<IdentityNode>>,
    /// What AgentIdentities conflict with, by the identities' names.
    conflicts: BTreeMap<String, String>,
    /// Files that the node's agent reads besides.
    beside: Vec<PathBuf>,
    /// Whether the person may know which objects of the kind there are.
    is_listed: bool,
}

/// An object that cannot be read.
struct FaultyObject {
    kind: &'static str,
    name: String,
    /// What is wrong.
    reason: String,
    version: (Option<String>, Option<i64>),
    object: Value,
}

impl fmt::Debug for ApiObjects {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ApiObjects").finish_non_exhaustive()
    }
}

impl ApiObjects {
    /// Lists all objects.
    ///
    /// # Errors
    /// Where there is no client, or the API server refuses.
    pub(in crate::cli) fn read(person: &PersonalConfig) -> anyhow::Result<Self> {
        let (runtime, client) = connect(person)?;
        let mut listed = Vec::new();
        for (kind, plural) in KINDS {
            let objects = runtime.block_on(list(&client, kind, plural))?;
            listed.extend(objects.into_iter().map(|object| (kind, object)));
        }
        Self::of(runtime, client, listed)
    }

    /// Namespace and name of the service account of the chart's agents, where it is installed.
    ///
    /// # Errors
    /// Where the person may not list DaemonSets.
    pub(super) fn chart_agents(&self) -> Result<Option<(String, String)>, AskError> {
        self.runtime.block_on(chart::agents(&self.client))
    }

    /// Who the API server says that the person is.
    pub(super) fn person(&self) -> Option<String> {
        let reviews = Api::<Lenient<SelfSubjectReview>>::all(self.client.clone());
        let review = Lenient(SelfSubjectReview::default());
        let parameters = PostParams::default();
        // A name is not worth a wait while an agent goes on. The timer is made on the runtime that drives it.
        let asked = async { tokio::time::timeout(NAME_LIMIT, reviews.create(&parameters, &review)).await };
        let answer = self.answer(asked).ok()?;
        answer.ok()?.ok()?.0.status?.user_info?.username
    }

    /// Asks for one object, for which the rights to read and change that one suffice. Where there is none, those of its kind are listed as
    /// far as the person may, so that the error can name them.
    ///
    /// # Errors
    /// As [`ApiObjects::read`].
    pub(in crate::cli) fn read_one(person: &PersonalConfig, kind: &str, name: &str) -> anyhow::Result<Self> {
        let (runtime, client) = connect(person)?;
        let (kind, plural) = known_kind(kind)?;
        let got = async { tokio::time::timeout(LIMIT, api(&client, kind, plural).get(name)).await };
        let got = runtime
            .block_on(got)
            .map_err(|_| anyhow!("the API server does not answer"))?;
        let listed = match got {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                match runtime.block_on(list(&client, kind, plural)) {
                    Err(error) if error.is::<NoSuchKind>() => return Err(error),
                    listed => listed.ok(),
                }
            }
            got => {
                let needs = format!("get, and patch or delete for a change, on {plural}.{GROUP}");
                Some(vec![got.map_err(|error| refused(error, &needs))?.0])
            }
        };
        let is_listed = listed.is_some();
        let listed = listed.into_iter().flatten().map(|object| (kind, object));
        let objects = Self::of(runtime, client, listed.collect())?;
        Ok(Self { is_listed, ..objects })
    }

    fn of(
        runtime: Runtime,
        client: Client,
        listed: Vec<(&'static str, DynamicObject)>,
    ) -> anyhow::Result<Self> {
        let (mut documents, mut faulty, mut all) = (Vec::new(), Vec::new(), Vec::new());
        let (mut nodes, mut conflicts) = (BTreeMap::new(), BTreeMap::new());
        for (kind, object) in listed {
            let created = object.metadata.creation_timestamp.as_ref();
            let created = created.map(|time| time.0.as_second());
            match document(kind, &object) {
                Ok(document) => {
                    let place = KINDS.iter().position(|(of, _)| *of == kind);
                    all.push(((created, place, document.name().to_owned()), document.clone()));
                    if kind == AgentIdentitySpec::KIND {
                        nodes.insert(document.name().to_owned(), nodes_in(&object));
                        let conflict = Conditions::of_latest(&object);
                        let conflict = conflict.conflict();
                        conflicts.extend(conflict.map(|conflict| (document.name().to_owned(), conflict)));
                    }
                    documents.push(document);
                }
                Err(reason) => faulty.push(FaultyObject {
                    kind,
                    name: object.metadata.name.clone().unwrap_or_default(),
                    reason,
                    version: (object.metadata.uid.clone(), object.metadata.generation),
                    object: shown(kind, &object),
                }),
            }
        }
        // As the agents have them: of two that exclude each other the older one stays.
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        let objects: Vec<_> = all.into_iter().map(|(_, document)| known(document)).collect();
        let (set, _) = PolicySet::compile_each(&[], &objects, builtin::OWN_NAMESPACE)
            .map_err(|errors| anyhow!("{errors:?}"))?;
        for FaultyObject {
            kind, name, reason, ..
        } in &faulty
        {
            output::warn(format_args!(
                "picket: {kind} {name} is left out, because it is not valid: {reason}"
            ));
        }
        Ok(Self {
            runtime,
            client,
            documents,
            faulty,
            set,
            nodes,
            conflicts,
            beside: Vec::new(),
            is_listed: true,
        })
    }

    /// Likewise, on a node whose agent reads these files too.
    pub(in crate::cli) fn beside(self, files: Vec<PathBuf>) -> Self {
        Self {
            beside: files,
            ..self
        }
    }

    /// The objects that can be read.
    pub(in crate::cli) fn documents(&self) -> &[Document] {
        &self.documents
    }

    /// What an agent would make of them.
    pub(in crate::cli) fn set(&self) -> &PolicySet {
        &self.set
    }

    /// What the nodes say of an AgentIdentity.
    pub(in crate::cli) fn nodes_of(&self, identity: &str) -> &[IdentityNode] {
        self.nodes.get(identity).map_or(&[], Vec::as_slice)
    }

    /// What the cluster's agents say that an AgentIdentity conflicts with.
    pub(in crate::cli) fn conflict_of(&self, identity: &str) -> Option<&str> {
        self.conflicts.get(identity).map(String::as_str)
    }

    /// An object.
    ///
    /// # Errors
    /// Where there is none of that kind and name, or it cannot be read.
    pub(in crate::cli) fn find(&self, kind: &str, name: &str) -> anyhow::Result<&Document> {
        let is = |document: &&Document| document.kind() == kind && document.name() == name;
        if let Some(document) = self.documents.iter().find(is) {
            return Ok(document);
        }
        match self.find_faulty(kind, name) {
            Some(faulty) => bail!("{kind} {name:?} is not valid: {}", faulty.reason),
            None => {
                if let Some(place) = in_files(&self.beside, kind, name) {
                    bail!(
                        "{kind} {name:?} is not in the cluster: it is in {place}. Name that with --files {place}"
                    );
                }
                if !self.is_listed {
                    bail!("no {kind} {name:?} is in the cluster");
                }
                let of_kind = self.documents.iter().filter(|document| document.kind() == kind);
                let names: Vec<_> = of_kind.map(|document| document.name().to_owned()).collect();
                bail!(
                    "no {kind} {name:?} is in the cluster; there: {}",
                    names_told(&names)
                )
            }
        }
    }

    fn find_faulty(&self, kind: &str, name: &str) -> Option<&FaultyObject> {
        let is = |object: &&FaultyObject| object.kind == kind && object.name == name;
        self.faulty.iter().find(is)
    }

    /// An object that cannot be read, as it is written.
    ///
    /// # Errors
    /// Where there is none of that kind and name.
    pub(in crate::cli) fn written(&self, kind: &str, name: &str) -> anyhow::Result<Value> {
        match self.find_faulty(kind, name) {
            Some(faulty) => Ok(faulty.object.clone()),
            None => Ok(super::print::object(self.find(kind, name)?)),
        }
    }

    /// UID and generation of the version that was read, of a faulty object too.
    fn version(&self, kind: &str, name: &str) -> anyhow::Result<(Option<String>, Option<i64>)> {
        match self.find_faulty(kind, name) {
            Some(faulty) => Ok(faulty.version.clone()),
            None => Ok(version(self.find(kind, name)?)),
        }
    }

    /// Makes an object that YAML says; gives its generation.
    ///
    /// # Errors
    /// Where there is one of that name, or the API server refuses it.
    pub(in crate::cli) fn add(&self, kind: &str, yaml: &str, dry_run: bool) -> anyhow::Result<i64> {
        let document = read_documents("", yaml).map_err(|errors| {
            let errors: Vec<_> = errors.iter().map(|error| error.reason.clone()).collect();
            anyhow!(errors.join("\n"))
        })?;
        let document = document.first().context("there is no object")?;
        let object: Lenient<DynamicObject> = serde_json::from_value(super::print::object(document))?;
        let parameters = PostParams {
            dry_run,
            field_manager: Some(MANAGER.to_owned()),
        };
        let made = self.send(async { self.api(kind).create(&parameters, &object).await })?;
        let made = made.map_err(|error| refused(error, &self.verb("create", kind)))?;
        Ok(made.0.metadata.generation.unwrap_or_default())
    }

    /// Sets text fields of an object, each by its path; gives its generation.
    ///
    /// # Errors
    /// Where there is no such object, somebody else changed it, or the API server refuses.
    pub(in crate::cli) fn set_fields(
        &self,
        kind: &str,
        name: &str,
        fields: &[(&[&str], &str)],
        dry_run: bool,
    ) -> anyhow::Result<i64> {
        let (uid, generation) = self.version(kind, name)?;
        let changed = self.of_version(kind, name, (uid, generation), async |version| {
            let mut patch = json!({"metadata": {"resourceVersion": version}});
            for (path, value) in fields {
                let field = path.iter().fold(&mut patch, |at, name| &mut at[*name]);
                *field = json!(value);
            }
            let parameters = PatchParams {
                dry_run,
                field_manager: Some(MANAGER.to_owned()),
                ..PatchParams::default()
            };
            let patched = self
                .api(kind)
                .patch(name, &parameters, &Patch::Merge(&patch))
                .await?;
            Ok(patched.0.metadata.generation.unwrap_or_default())
        })?;
        Ok(changed)
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// As [`ApiObjects::set_fields`].
    pub(in crate::cli) fn remove(&self, kind: &str, name: &str, dry_run: bool) -> anyhow::Result<()> {
        let (uid, generation) = self.version(kind, name)?;
        self.of_version(kind, name, (uid.clone(), generation), async |version| {
            let parameters = DeleteParams {
                dry_run,
                preconditions: Some(Preconditions {
                    uid: uid.clone(),
                    resource_version: Some(version),
                }),
                ..DeleteParams::default()
            };
            self.api(kind).delete(name, &parameters).await.map(drop)
        })
    }

    /// Sends a change of the version that was read, by its `resourceVersion`, and again where only a status made a new one.
    fn of_version<T>(
        &self,
        kind: &str,
        name: &str,
        read: (Option<String>, Option<i64>),
        change: impl AsyncFn(String) -> kube::Result<T>,
    ) -> anyhow::Result<T> {
        for _ in 0..TRIES {
            let Lenient(now) = self.ask(async { self.api(kind).get(name).await })?;
            if (now.metadata.uid, now.metadata.generation) != read {
                let said = format!(
                    "{kind} {name:?} changed since it was read; look at it and run the command again"
                );
                return Err(Raced(said).into());
            }
            let version = now.metadata.resource_version.unwrap_or_default();
            match self.send(change(version))? {
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                changed => {
                    return changed.map_err(|error| refused(error, &self.verb("patch, or delete,", kind)));
                }
            }
        }
        Err(Raced(format!(
            "{kind} {name:?} changes all the time; run the command again"
        ))
        .into())
    }

    /// Waits until an agent of the cluster says what became of a version.
    ///
    /// # Errors
    /// Where the API server refuses.
    pub(in crate::cli) fn wait(
        &self,
        kind: &str,
        name: &str,
        generation: i64,
        limit: Duration,
    ) -> anyhow::Result<Waited> {
        let began = Instant::now();
        loop {
            let Lenient(object) = self.ask(async { self.api(kind).get(name).await })?;
            let conditions = Conditions::of(&object, generation);
            match conditions.ready().cloned() {
                Some(ready) if ready.status == ConditionStatus::True => {
                    return Ok(Waited::InCluster(began.elapsed(), conditions.warnings()));
                }
                Some(ready) if ready.reason == LIMITS_FILE => {
                    return Ok(Waited::LimitsInCluster(began.elapsed(), ready.message));
                }
                Some(ready) => return Ok(Waited::RefusedByCluster(ready.message)),
                None if began.elapsed() > limit => return Ok(Waited::LateInCluster),
                // A timer is made on the runtime that drives it.
                None => self.runtime.block_on(async { tokio::time::sleep(PAUSE).await }),
            }
        }
    }

    fn api(&self, kind: &str) -> Api<Lenient<DynamicObject>> {
        api(&self.client, kind, plural_of(kind))
    }

    /// A verb on a kind's resource, for people.
    fn verb(&self, verb: &str, kind: &str) -> String {
        format!("{verb} on {}.{GROUP}", plural_of(kind))
    }

    fn answer<T>(&self, request: impl Future<Output = T>) -> anyhow::Result<T> {
        let limited = async { tokio::time::timeout(LIMIT, request).await };
        self.runtime
            .block_on(limited)
            .map_err(|_| anyhow!("the API server does not answer"))
    }

    /// As [`ApiObjects::answer`], for a change, which may be written although no answer came.
    fn send<T>(&self, change: impl Future<Output = kube::Result<T>>) -> anyhow::Result<kube::Result<T>> {
        match self.answer(change) {
            Ok(answer @ (Ok(_) | Err(kube::Error::Api(_)))) => Ok(answer),
            Ok(Err(error)) => Err(unsure(&printable(&error)).into()),
            Err(error) => Err(unsure(&error).into()),
        }
    }

    fn ask<T>(&self, request: impl Future<Output = kube::Result<T>>) -> anyhow::Result<T> {
        self.answer(request)?.map_err(said)
    }
}

/// Somebody else changed the object since it was read.
#[derive(Debug, Error)]
#[error("{0}")]
pub(super) struct Raced(String);

/// The API server does not have the CRD.
#[derive(Debug, Error)]
#[error(
    "the API server does not know {0}: install the CRDs with `picket crds | kubectl apply --server-side -f -`"
)]
struct NoSuchKind(&'static str);

fn unsure(error: &dyn fmt::Display) -> Unsure {
    Unsure(format!(
        "the change may have been written, or not: {error}. Look at the object, and run the command again"
    ))
}

/// The file of this node that holds an object.
fn in_files(files: &[PathBuf], kind: &str, name: &str) -> Option<String> {
    let of = |path: &&PathBuf| {
        let objects = ObjectFiles::read_faulty_beside(std::slice::from_ref(*path), true);
        objects.is_ok_and(|objects| objects.written(kind, name).is_ok())
    };
    files.iter().find(of).map(|path| path.display().to_string())
}

pub(super) fn connect(person: &PersonalConfig) -> anyhow::Result<(Runtime, Client)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    // A client's connections belong to the runtime that it was made in.
    let remark = |sentence: &str| output::warn(format_args!("picket: {}", clean(sentence)));
    let client = runtime.block_on(person.connect(&remark))?;
    Ok((runtime, client))
}

/// A kind with its plural.
pub(super) fn known_kind(kind: &str) -> anyhow::Result<(&'static str, &'static str)> {
    let mut known = KINDS.into_iter();
    known
        .find(|(of, _)| *of == kind)
        .with_context(|| format!("{kind} is no kind of Picket's"))
}

fn plural_of(kind: &str) -> &'static str {
    let known = KINDS.iter().find(|(of, _)| *of == kind);
    known.map_or("", |(_, plural)| plural)
}

/// What a command needs that lists the objects.
const LISTS: &str = "list on agentidentities, agentgrants and agentpolicies of picket.dev";

/// What the API server said; where RBAC refuses, with what the command needs. A policy or a webhook refuses in its own words.
fn refused(error: kube::Error, needs: &str) -> anyhow::Error {
    let by_rbac = matches!(&error, kube::Error::Api(status) if status.code == 403 && status.message.contains("\" cannot "));
    let said = said(error);
    match by_rbac {
        true => anyhow!("{said}\nThe command needs the verb {needs}"),
        false => said,
    }
}

/// What the API server said, as kubectl prints it.
fn said(error: kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => anyhow!("{}", status.message),
        error => anyhow!(printable(&error)),
    }
}

pub(super) fn api(client: &Client, kind: &str, plural: &str) -> Api<Lenient<DynamicObject>> {
    Api::all_with(client.clone(), &resource(kind, plural))
}

fn resource(kind: &str, plural: &str) -> ApiResource {
    let version = API_VERSION.rsplit('/').next().unwrap_or(API_VERSION);
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, version, kind), plural)
}

async fn list(client: &Client, kind: &'static str, plural: &str) -> anyhow::Result<Vec<DynamicObject>> {
    let api = api(client, kind, plural);
    let (mut objects, mut next) = (Vec::new(), None);
    loop {
        let mut parameters = ListParams::default().limit(PAGE);
        parameters.continue_token = next;
        let page = tokio::time::timeout(LIMIT, api.list(&parameters)).await;
        let page = match page.map_err(|_| anyhow!("the API server does not answer"))? {
            Err(kube::Error::Api(status)) if status.code == 404 => return Err(NoSuchKind(kind).into()),
            page => page.map_err(|error| refused(error, LISTS))?,
        };
        objects.extend(page.items.into_iter().map(|object| object.0));
        next = page.metadata.continue_.filter(|token| !token.is_empty());
        if next.is_none() {
            return Ok(objects);
        }
    }
}

/// An object with what a command shows of its metadata.
fn shown(kind: &str, object: &DynamicObject) -> Value {
    let metadata = &object.metadata;
    let mut shown = json!({"name": metadata.name, "uid": metadata.uid, "generation": metadata.generation});
    for (field, values) in [
        ("labels", &metadata.labels),
        ("annotations", &metadata.annotations),
    ] {
        if let Some(values) = values {
            shown[field] = json!(values);
        }
    }
    let spec = object.data.get("spec").cloned().unwrap_or(Value::Null);
    json!({"apiVersion": API_VERSION, "kind": kind, "metadata": shown, "spec": spec})
}

/// An object as a document, with what a command shows of its metadata, or what is wrong with it.
fn document(kind: &str, object: &DynamicObject) -> Result<Document, String> {
    let name = object.metadata.name.clone().unwrap_or_default();
    let text = shown(kind, object).to_string();
    match read_documents(&format!("cluster/{kind}/{name}"), &text) {
        Ok(documents) => documents
            .into_iter()
            .next()
            .ok_or_else(|| "it is empty".to_owned()),
        Err(errors) => {
            let reasons: Vec<_> = errors.into_iter().map(|error| error.reason).collect();
            Err(reasons.join("; "))
        }
    }
}

/// UID and generation of the version that a document is of.
fn version(document: &Document) -> (Option<String>, Option<i64>) {
    let metadata = match &document.object {
        AnyObject::Identity(object) => &object.metadata,
        AnyObject::Grant(object) => &object.metadata,
        AnyObject::Policy(object) => &object.metadata,
    };
    (metadata.uid.clone(), metadata.generation)
}

fn known(document: Document) -> ClusterObject {
    ClusterObject {
        file: document.name_location().file,
        versions: vec![document],
        known_from: 0,
    }
}

/// The entries of the nodes in a status; one that another version wrote otherwise is left out.
fn nodes_in(object: &DynamicObject) -> Vec<IdentityNode> {
    let entries = object.data.pointer("/status/nodes").and_then(Value::as_array);
    let entries = entries.into_iter().flatten();
    entries
        .filter_map(|entry| serde_json::from_value(entry.clone()).ok())
        .collect()
}

#[cfg(test)]
#[path = "api_tests.rs"]
mod tests;
