//! What a credential may do at the API server, asked of the API server itself.
//!
//! In: a client, and rights in RBAC's words. Out: those of them that it lacks, or why the API server did not say.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, ResourceRule, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
    SelfSubjectRulesReview, SelfSubjectRulesReviewSpec, SubjectAccessReview, SubjectAccessReviewSpec,
    SubjectAccessReviewStatus,
};
use kube::api::PostParams;
use kube::{Api, Client};

use super::{ClientFault, ClusterError, printable};
use crate::pki::pem;

/// How long all questions together may take.
const LIMIT: Duration = Duration::from_secs(8);

/// Questions under way at once.
const AT_ONCE: usize = 8;

/// Most rights that are asked about, which is what a slow API server answers within the limit. A node with more grants gets an
/// answer about the first.
pub const MAX_RIGHTS: usize = 512;

/// A credential in files of its own, as the agent uses it for the requests of AI agents.
#[derive(Debug, Clone)]
pub struct CredentialFiles<'a> {
    /// The bundle that the server's certificate is checked against.
    pub ca: &'a Path,
    /// The client certificate.
    pub certificate: Option<&'a Path>,
    /// Its key.
    pub key: Option<&'a Path>,
    /// The bearer token instead.
    pub token: Option<&'a Path>,
}

impl CredentialFiles<'_> {
    /// A client with this credential. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ClusterError`] with the file that cannot be read, or makes no client.
    pub fn client(&self, server: &http::Uri) -> Result<Client, ClusterError> {
        super::protobuf::client(self.config(server)?).map_err(|error| ClusterError::Client {
            path: self.certificate.or(self.token).unwrap_or(self.ca).to_owned(),
            source: ClientFault::from(&error),
        })
    }

    pub(super) fn config(&self, server: &http::Uri) -> Result<kube::Config, ClusterError> {
        let text = |path: Option<&Path>| path.map(|path| path.display().to_string());
        for path in [Some(self.ca), self.certificate, self.key, self.token]
            .into_iter()
            .flatten()
        {
            let fault = |source| ClusterError::File {
                path: path.to_owned(),
                source,
            };
            // A pipe of that name would never open.
            if super::is_irregular(path) {
                return Err(fault(std::io::Error::other("it is not a regular file")));
            }
            File::open(path).map_err(fault)?;
        }
        let mut config = kube::Config::new(server.clone());
        let authorities = pem::certificates(self.ca, &pem::read(self.ca)?)?;
        // Besides the file: without the certificates kube first asks the system for its own, and fails where that has none.
        config.root_cert = Some(authorities.into_iter().map(|(_, der)| der.to_vec()).collect());
        config.root_cert_file = Some(PathBuf::from(self.ca));
        config.auth_info.client_certificate = text(self.certificate);
        config.auth_info.client_key = text(self.key);
        if let Some(path) = self.token {
            let token = std::fs::read_to_string(path).map_err(|source| ClusterError::File {
                path: path.to_owned(),
                source,
            })?;
            // As the agent reads it. kube would send the newline at the file's end, which no header may have.
            config.auth_info.token = Some(token.trim_ascii().into());
        }
        Ok(config)
    }
}

/// Why the API server did not say.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// It does not take the credential for anybody.
    #[error("the API server does not accept the credential: {0}")]
    Unauthorized(String),
    /// It cannot be reached, or makes no sense.
    #[error("the API server cannot be asked: {0}")]
    Unreachable(String),
    /// It took too long.
    #[error("the API server did not answer within {} s", LIMIT.as_secs())]
    Silent,
}

/// A verb on a resource, perhaps of one object alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// The verb.
    pub verb: Cow<'static, str>,
    /// The API group, or the empty string.
    pub group: Cow<'static, str>,
    /// The resource.
    pub resource: Cow<'static, str>,
    /// Its subresource.
    pub subresource: Option<Cow<'static, str>>,
    /// The namespace of the object.
    pub namespace: Option<String>,
    /// The object's name.
    pub name: Option<String>,
}

impl Right {
    /// A verb on every object of a resource.
    #[must_use]
    pub fn on(
        verb: impl Into<Cow<'static, str>>,
        group: impl Into<Cow<'static, str>>,
        resource: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            ..Self::default()
        }
    }

    /// The same on a subresource.
    #[must_use]
    pub fn of(mut self, subresource: impl Into<Cow<'static, str>>) -> Self {
        self.subresource = Some(subresource.into());
        self
    }

    /// The same in one namespace.
    #[must_use]
    pub fn within(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// The resource with its subresource, as a role names them.
    #[must_use]
    pub fn resource_words(&self) -> Cow<'_, str> {
        match &self.subresource {
            Some(sub) => format!("{}/{sub}", self.resource).into(),
            None => Cow::Borrowed(&*self.resource),
        }
    }

    /// The same on one object.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    fn attributes(&self) -> ResourceAttributes {
        ResourceAttributes {
            group: Some(self.group.to_string()),
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            resource: Some(self.resource.to_string()),
            subresource: self.subresource.as_ref().map(ToString::to_string),
            verb: Some(self.verb.to_string()),
            ..ResourceAttributes::default()
        }
    }

    fn review(&self) -> SelfSubjectAccessReview {
        SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(self.attributes()),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        }
    }
}

/// A service account whose rights somebody else asks about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Account {
    namespace: String,
    name: String,
}

impl Account {
    /// The account of this name.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// The user and groups are those that the API server gives the account's tokens (k8s.io/apiserver pkg/authentication/serviceaccount).
    fn review(&self, right: &Right) -> SubjectAccessReview {
        let Self { namespace, name } = self;
        let groups = [
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
            "system:authenticated".to_owned(),
        ];
        SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                resource_attributes: Some(right.attributes()),
                user: Some(format!("system:serviceaccount:{namespace}:{name}")),
                groups: Some(groups.into()),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        }
    }
}

impl std::fmt::Display for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Those of the rights that a client's credential lacks.
///
/// # Errors
/// [`ReviewError`] where the API server does not say. Ask for one right at least, so that the credential is tried.
pub async fn lacking<'r>(
    client: &Client,
    rights: impl IntoIterator<Item = &'r Right>,
) -> Result<BTreeSet<&'r Right>, ReviewError> {
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    denied(rights, async |right| {
        let review = api.create(&PostParams::default(), &right.review()).await;
        review.map(|review| review.status)
    })
    .await
}

/// Those of the rights that an account lacks, asked by a client that may create SubjectAccessReviews.
///
/// # Errors
/// [`ReviewError`] where the API server does not say.
pub async fn lacking_of<'r>(
    client: &Client,
    account: &Account,
    rights: impl IntoIterator<Item = &'r Right>,
) -> Result<BTreeSet<&'r Right>, ReviewError> {
    let api: Api<SubjectAccessReview> = Api::all(client.clone());
    denied(rights, async |right| {
        let review = api.create(&PostParams::default(), &account.review(right)).await;
        review.map(|review| review.status)
    })
    .await
}

/// Those of the rights that the answers do not allow.
async fn denied<'r>(
    rights: impl IntoIterator<Item = &'r Right>,
    ask: impl AsyncFn(&Right) -> Result<Option<SubjectAccessReviewStatus>, kube::Error>,
) -> Result<BTreeSet<&'r Right>, ReviewError> {
    let ask = &ask;
    let asking = stream::iter(rights)
        .map(async |right| match ask(right).await {
            Ok(status) => Ok((!status.is_some_and(|status| status.allowed)).then_some(right)),
            Err(kube::Error::Api(status)) if status.code == 401 => {
                Err(ReviewError::Unauthorized(status.message.clone()))
            }
            Err(error) => Err(ReviewError::Unreachable(printable(&error))),
        })
        .buffered(AT_ONCE)
        .try_filter_map(async |lacks| Ok(lacks))
        .try_collect();
    match tokio::time::timeout(LIMIT, asking).await {
        Ok(answered) => answered,
        Err(_) => Err(ReviewError::Silent),
    }
}

/// What else the API server says of a list of rules that lacks those of its node authorizer. That gives rights to kubelets, and
/// none to impersonate.
const WITHOUT_NODE_RULES: &str = "node authorizer does not support user rule resolution";

/// The namespace whose rules are listed in any case; with them come those for every namespace.
pub const LISTED_NAMESPACE: &str = picket_policy::DEFAULT_NAMESPACE;

/// The verbs that a credential has on some resource: for every namespace, or in one that was asked about.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RuleVerbs {
    /// The verbs. `*` is every verb.
    pub verbs: BTreeSet<String>,
    /// Whether these are all: some authorizers do not list what they allow.
    pub complete: bool,
}

/// The rules that a client's credential has in a namespace.
#[derive(Debug, Default, Clone)]
pub struct Rules {
    /// The rules: those of its roles for every namespace, and those for this one.
    pub rules: Vec<ResourceRule>,
    /// Whether these are all: some authorizers do not list what they allow.
    pub complete: bool,
}

impl RuleVerbs {
    /// Of these lists.
    pub fn of<'r>(listed: impl IntoIterator<Item = &'r Rules>) -> Self {
        let mut all = Self {
            complete: true,
            ..Self::default()
        };
        for Rules { rules, complete } in listed {
            all.verbs.extend(rules.iter().flat_map(|rule| rule.verbs.clone()));
            all.complete &= complete;
        }
        all
    }
}

/// The rules that a client's credential has in each of these namespaces.
///
/// # Errors
/// [`ReviewError`] where the credential is not accepted, or nobody answers.
pub async fn rules_in_all<'n>(
    client: &Client,
    namespaces: impl IntoIterator<Item = &'n str>,
) -> Result<BTreeMap<String, Rules>, ReviewError> {
    stream::iter(namespaces)
        .map(async |namespace| Ok((namespace.to_owned(), rules_in(client, namespace).await?)))
        .buffered(AT_ONCE)
        .try_collect()
        .await
}

/// The rules that a client's credential has in a namespace; none, and not complete, where the API server lists no rules.
///
/// # Errors
/// [`ReviewError`] where the credential is not accepted, or nobody answers.
pub async fn rules_in(client: &Client, namespace: &str) -> Result<Rules, ReviewError> {
    let api: Api<SelfSubjectRulesReview> = Api::all(client.clone());
    let review = SelfSubjectRulesReview {
        spec: SelfSubjectRulesReviewSpec {
            namespace: Some(namespace.to_owned()),
        },
        ..SelfSubjectRulesReview::default()
    };
    let parameters = PostParams::default();
    let answer = tokio::time::timeout(LIMIT, api.create(&parameters, &review)).await;
    let status = match answer {
        Ok(Ok(review)) => review.status.unwrap_or_default(),
        Ok(Err(kube::Error::Api(status))) if status.code == 401 => {
            return Err(ReviewError::Unauthorized(status.message.clone()));
        }
        Ok(Err(kube::Error::Api(_))) => return Ok(Rules::default()),
        Ok(Err(error)) => return Err(ReviewError::Unreachable(printable(&error))),
        Err(_) => return Err(ReviewError::Silent),
    };
    let without_nodes = status.evaluation_error.as_deref() == Some(WITHOUT_NODE_RULES);
    Ok(Rules {
        rules: status.resource_rules,
        complete: !status.incomplete || without_nodes,
    })
}
