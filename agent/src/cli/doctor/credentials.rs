//! Whether the node's credentials reach the API server, and have there what deploy/rbac.yaml gives.
//!
//! In: a configuration. Out: a check of each credential: the kubeconfig's, for what the agent follows, and the upstream's, for
//! whom the grants let agents act as; and what the API server says of the configuration by the kubeconfig's (node.rs).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use jiff::Timestamp;
use kube::Client;
use picket_policy::{Grant, Impersonate, NamespaceUse, PolicySet, UpstreamUser};

use super::excess::{self, Granted};
use super::namespaced::Bound;
use super::needs::{
    Need, OnRights, Verdict, at_least, first, followed, impersonated, judge, kept_objects, namespaces,
    narrowed, node_ca, node_status, on_samples, on_verbs, reviews, tokens,
};
use super::node::{self, Server};
use super::objects;
use super::{in_time, slow};
use crate::cluster::rights::{
    CredentialFiles, LISTED_NAMESPACE, ReviewError, RuleVerbs, lacking, rules_in_all,
};
use crate::cluster::{ClusterError, Connector};
use crate::config::{Config, NodeCaSource};
use crate::kernel::doctor::{Check, CheckStatus};
use crate::pki::PemError;
use crate::runtime::causes::with_causes;

/// The names of the checks.
const CLUSTER: &str = "cluster credential";
const UPSTREAM: &str = "upstream credential";
const NODE_STATUS: &str = "node status";

/// All of them. Must be called within a tokio runtime.
pub(super) async fn checks(config: &Config, limit: Duration) -> Vec<Check> {
    let advice = format!(
        "give the credential the rights of deploy/rbac.yaml: apply the file, and bind ClusterRole picket-node to the group of \
         the credential in {}",
        config.cluster.kubeconfig.display()
    );
    let (of_cluster, of_upstream) = (config.clone(), config.clone());
    let (cluster, upstream) = tokio::join!(
        in_time(limit, async move { cluster(&of_cluster).await }),
        in_time(limit, async move { upstream(&of_upstream) })
    );
    let late = || {
        let advice = "correct the files that the configuration names, or the plugin of the kubeconfig";
        Err((format!("not tested: {}", slow(limit)), advice.to_owned()))
    };
    let cluster = cluster.unwrap_or_else(late);
    let upstream = upstream.unwrap_or_else(late);
    let asked = cluster.as_ref().ok().cloned();
    let objects = objects::known(config, asked.as_ref().map(|(client, _)| client), limit).await;
    let needed = needed(config, objects.set.as_deref());
    let grants = objects.usable(Timestamp::now());
    let (granted, bound, none) = (granted(&grants), Bound::of(&grants), Bound::default());
    let mut names = Granted::of(objects.set.clone(), objects.unlisted.is_some());
    names.reviews = config.metrics.is_some();
    let upstream_client = upstream.as_ref().ok().map(|(client, _)| client.clone());
    let told = asked.clone();
    let (cluster, upstream, told, of_node, excess) = tokio::join!(
        check(CLUSTER, cluster, &needed, &none, advice),
        check(
            UPSTREAM,
            upstream,
            &granted,
            &bound,
            "with the chart list the users and groups under impersonate.users and impersonate.groups, and run helm upgrade; or apply what \
             `picket grant rbac` prints, with --group or --service-account as the credential has it. One verb must do for a user and all \
             its groups"
                .to_owned()
        ),
        told_of_node(told),
        of_node(config, asked),
        async {
            match &upstream_client {
                Some(client) => Some(excess::check(client, &names).await),
                None => None,
            }
        },
    );
    let mut upstream = objects.bound(upstream);
    if upstream.status == CheckStatus::Ok && !grants.iter().any(|grant| grant.user().is_some()) {
        upstream
            .detail
            .push_str("; no AgentGrant that somebody can use names a user");
    }
    // A credential that may not ask is told of once.
    let may_ask = cluster.status != CheckStatus::Missing;
    let of_node = of_node
        .into_iter()
        .filter_map(|tried| tried.map_or_else(|untried| may_ask.then_some(untried), Some));
    let excess = excess.filter(|_| upstream.status != CheckStatus::Missing);
    let told = told.filter(|_| may_ask);
    let of_credentials = [cluster, upstream].into_iter().chain(excess).chain(told);
    of_credentials.chain(of_node).collect()
}

/// Whether the agent may say how its node is, for `picket status`. It works without.
async fn told_of_node(asked: Option<(Client, String)>) -> Option<Check> {
    let advice = "give the credential the rights on picketnodes and picketnodes/status that deploy/rbac.yaml has, or `picket status` \
                  shows this node as one without an agent";
    let reached = Ok(asked?);
    let mut told = check(
        NODE_STATUS,
        reached,
        &node_status(),
        &Bound::default(),
        advice.to_owned(),
    )
    .await;
    told.status = told.status.min(CheckStatus::Degraded);
    Some(told)
}

/// What the agent follows, and what it asks for: about callers of its own, and a node CA.
fn needed(config: &Config, set: Option<&PolicySet>) -> Vec<Need> {
    let mut needs = followed_with(config, set);
    if config.metrics.is_some() {
        needs.extend(reviews());
    }
    if config.tls.node_ca == NodeCaSource::Cluster {
        needs.extend(node_ca());
    }
    needs
}

/// What the agent follows: beside its node's pods and the like the objects that the cluster keeps, and namespaces where enrolment counts
/// or rules look at them.
fn followed_with(config: &Config, set: Option<&PolicySet>) -> Vec<Need> {
    let mut needs = followed();
    if config.objects.cluster {
        needs.extend(kept_objects());
    }
    if config.enforce.enrolled {
        needs.extend(namespaces("enrol pods"));
    } else if set.is_some_and(|set| set.namespace_use() != NamespaceUse::Nothing) {
        needs.extend(namespaces("rules look at"));
    }
    needs
}

/// What the API server says of the configuration, where the kubeconfig makes a client.
async fn of_node(config: &Config, asked: Option<(Client, String)>) -> Vec<node::Tried> {
    let Some((client, kubeconfig)) = asked else {
        return Vec::new();
    };
    let upstream = config.upstream.server.parse().map(|server| bare(&server));
    let upstream = upstream.unwrap_or_default();
    let servers = [
        ("upstream.server", &upstream),
        ("the server of cluster.kubeconfig", &kubeconfig),
    ];
    let servers = servers.map(|(field, url)| Server { field, url });
    node::checks(config, &client, &servers).await
}

/// What the grants take upstream.
pub(super) fn granted(grants: &[Arc<Grant>]) -> Vec<Need> {
    // Whom grants on behalf of people lead to is not known before a request.
    let users = grants.iter().filter_map(|grant| grant.user());
    let user = |impersonate: &Impersonate| (impersonate.user.clone(), impersonate.groups.clone());
    let acting = users.clone().filter_map(UpstreamUser::impersonate).map(user);
    let tokens = tokens(users.filter_map(UpstreamUser::service_account));
    let needs = [impersonated(&acting.collect()), tokens].concat();
    if needs.is_empty() { at_least() } else { needs }
}

/// A client and the server that it asks, or what is to be told of it.
type Reached = Result<(Client, String), (String, String)>;

/// By the kubeconfig.
async fn cluster(config: &Config) -> Reached {
    let connector = Connector::new(&config.cluster.kubeconfig);
    let client = connector.connect().await.map_err(|error| unusable(&error))?;
    let server = connector.server().await.map_err(|error| unusable(&error))?;
    Ok((client, bare(&server)))
}

/// By the files of `upstream`.
fn upstream(config: &Config) -> Reached {
    let upstream = &config.upstream;
    let server: Uri = upstream.server.parse().map_err(|error: http::uri::InvalidUri| {
        let detail = format!("upstream.server: {error}");
        (detail, "write it as https://host:port".to_owned())
    })?;
    let files = CredentialFiles {
        ca: &upstream.ca_file,
        certificate: upstream.client_certificate_file.as_deref(),
        key: upstream.client_key_file.as_deref(),
        token: upstream.token_file.as_deref(),
    };
    let client = files.client(&server).map_err(|error| unusable(&error))?;
    Ok((client, bare(&server)))
}

/// A server's scheme, host and port. Its URL may have a name and a password too, which nobody is shown.
fn bare(server: &Uri) -> String {
    let scheme = server.scheme_str().unwrap_or("https");
    let host = server.host().unwrap_or_default();
    match server.port_u16() {
        Some(port) => format!("{scheme}://{host}:{port}"),
        None => format!("{scheme}://{host}"),
    }
}

fn unusable(error: &ClusterError) -> (String, String) {
    let advice = match error {
        ClusterError::File { .. } | ClusterError::Authorities(PemError::Read { .. }) => {
            "make the file readable for the agent, or correct the configuration"
        }
        ClusterError::NoKubeconfig => "name the file in the configuration",
        ClusterError::Kubeconfig { .. } | ClusterError::Authorities(_) | ClusterError::Client { .. } => {
            "correct what the file says, or name another one in the configuration"
        }
    };
    (format!("not tested: {}", with_causes(error)), advice.to_owned())
}

async fn check(name: &'static str, reached: Reached, needs: &[Need], bound: &Bound, advice: String) -> Check {
    let (client, server) = match reached {
        Ok(reached) => reached,
        Err((detail, advice)) => return Check::bad(name, CheckStatus::Missing, detail, advice),
    };
    let missing = |detail: String, advice: String| Check::bad(name, CheckStatus::Missing, detail, advice);
    match asked(&client, needs, bound).await {
        Ok(answers) if answers.verdict.missing.is_empty() => answers.unless_missing(name, &server),
        Ok(answers) => {
            let Verdict {
                missing: lacks,
                mixed,
                ..
            } = answers.verdict;
            missing([lacks, mixed].concat().join("\n"), advice)
        }
        Err(error @ ReviewError::Unauthorized(_)) => missing(
            format!("{server}: {error}"),
            "issue a new credential: it expired, or another cluster signed it".to_owned(),
        ),
        Err(error @ (ReviewError::Unreachable(_) | ReviewError::Silent)) => missing(
            format!("{server}: {error}"),
            "correct what the message names: the server's address, its CA bundle or the credential; and see that the node reaches the address"
                .to_owned(),
        ),
    }
}

/// What the API server said of a credential.
struct Answers {
    verdict: Verdict,
    /// What was asked about, for people.
    extent: String,
}

/// Asks for the rights that the needs take, and of users for those of constrained impersonation, everywhere and in the namespaces that
/// grants are bound to: the rights for those may be in Roles there.
async fn asked(client: &Client, needs: &[Need], bound: &Bound) -> Result<Answers, ReviewError> {
    let asked = first(needs);
    let rights: BTreeSet<_> = asked.iter().flat_map(Need::rights).collect();
    let lacks = lacking(client, rights).await?;
    let listed = match asked.iter().any(|need| matches!(need, Need::User { .. })) {
        true => {
            let namespaces = bound.namespaces.iter().map(String::as_str);
            rules_in_all(client, namespaces.chain([LISTED_NAMESPACE])).await?
        }
        false => BTreeMap::new(),
    };
    let rules = RuleVerbs::of(listed.values());
    let verbs = on_verbs(&rules);
    let samples = on_samples();
    let on = match (verbs.is_empty(), rules.complete) {
        (false, _) => OnRights::Some,
        (true, true) => OnRights::None,
        (true, false) if lacking(client, &samples).await?.len() < samples.len() => OnRights::Some,
        (true, false) => OnRights::Unknown,
    };
    let used: BTreeSet<_> = asked.iter().flat_map(|need| need.used(&lacks)).collect();
    let mut extent = match used.len() {
        1 => "the one right asked for".to_owned(),
        count => format!("all {count} rights asked for"),
    };
    if asked.len() < needs.len() {
        extent.push_str(&format!("; {} of {} are asked about", asked.len(), needs.len()));
    }
    if bound.namespaces.len() < bound.named {
        extent.push_str(&format!(
            "; {} of {} namespaces are asked about",
            bound.namespaces.len(),
            bound.named
        ));
    }
    if let Some(narrow) = narrowed(&verbs) {
        extent.push_str(&format!("; {narrow}"));
    }
    let mut verdict = judge(asked, &lacks, on);
    let users: BTreeSet<_> = asked
        .iter()
        .filter_map(|need| need.constrained_user(&lacks))
        .collect();
    // That there is no right anywhere is told already.
    if on != OnRights::None {
        verdict
            .missing
            .extend(bound.lacked(client, &users, &listed).await?);
        verdict.of_release(client, &users).await;
    }
    Ok(Answers { verdict, extent })
}

impl Answers {
    /// The check of a credential that lacks nothing. Picket works with rights of both modes, which limit nothing.
    fn unless_missing(self, name: &'static str, server: &str) -> Check {
        let Verdict { mixed, unknown, .. } = self.verdict;
        let advice = match (mixed.is_empty(), unknown.is_empty()) {
            (true, true) => {
                return Check::ok(name, format!("accepted by {server}, with {}", self.extent));
            }
            (false, _) => {
                "keep one form of the rights: where the API server has constrained impersonation (Kubernetes 1.36), give those of \
                 deploy/rbac.yaml and take the verb impersonate on these users and groups from all roles of the credential; \
                 elsewhere take impersonate:user-info from them"
            }
            (true, false) => {
                "send a request as an AI agent and look for `cannot impersonate-on` in the answer, or ask the API server as an \
                 administrator: kubectl auth can-i impersonate-on:user-info:get pods --as with the node's user and group"
            }
        };
        let detail = [mixed, unknown].concat().join("\n");
        Check::bad(name, CheckStatus::Degraded, detail, advice)
    }
}

#[cfg(test)]
#[path = "credentials_tests.rs"]
mod tests;
