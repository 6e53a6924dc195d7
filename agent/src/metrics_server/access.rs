//! Whether a caller may read the metrics: who it is, and whether it has the right, both by the API server's word.
//!
//! In: a bearer token, or a client certificate that the handshake verified. Out: a [`ScrapeVerdict`], or why there is none. As
//! kube-rbac-proxy and controller-runtime's `WithAuthenticationAndAuthorization` do it: a token goes into a TokenReview, and the user that
//! it is of into a SubjectAccessReview for `get` on `/metrics`. The user of a certificate is its common name, and the groups are its
//! organizations.
//!
//! The TokenReview asks for the API server's own audience. The token of an enrolled pod has Picket's, so it is of nobody here.

use std::fmt;
use std::time::Duration;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use tokio::sync::Semaphore;

use super::answers::Answers;
use crate::cluster::{ClusterError, Connector, printable};

/// The one path.
pub(super) const PATH: &str = "/metrics";

/// How long both reviews of a caller may take together.
const REVIEW_LIMIT: Duration = Duration::from_secs(5);

/// Callers that are asked about at once.
const REVIEWS: usize = 4;

/// The longest token that is sent to the API server.
const TOKEN_BYTES: usize = 8 * 1024;

/// The group of everybody whom the API server knows. It adds the group to users of certificates itself.
const AUTHENTICATED: &str = "system:authenticated";

/// A bearer token. It is not shown.
pub(super) struct BearerToken(String);

impl BearerToken {
    /// `None` where no token is so written (RFC 6750 section 2.1), so that nobody is asked about it.
    pub(super) fn new(text: &str) -> Option<Self> {
        let is_of_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        let fits = (1..=TOKEN_BYTES).contains(&text.len()) && text.bytes().all(is_of_token);
        fits.then(|| Self(text.to_owned()))
    }

    /// The token itself.
    pub(super) fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("BearerToken(..)")
    }
}

/// What a caller shows.
#[derive(Debug)]
pub(super) enum ScrapeCredential {
    /// The token of its request.
    Token(BearerToken),
    /// The certificate that it proved to have the key of.
    Certificate(CertificateDer<'static>),
}

impl ScrapeCredential {
    /// Of a request and its connection. A certificate comes first, as at the API server.
    pub(super) fn of(headers: &HeaderMap, certificate: Option<CertificateDer<'static>>) -> Option<Self> {
        if let Some(certificate) = certificate {
            return Some(Self::Certificate(certificate));
        }
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return None;
        };
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        let token = scheme
            .eq_ignore_ascii_case("Bearer")
            .then(|| token.trim_matches(' '))?;
        BearerToken::new(token).map(Self::Token)
    }
}

/// What the API server says of a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ScrapeVerdict {
    /// It may read the metrics.
    Allowed,
    /// Nobody knows it.
    Unauthenticated,
    /// This user may not.
    Forbidden(String),
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub(super) enum AccessError {
    /// The agent has no client.
    #[error("{0}")]
    Client(#[from] ClusterError),
    /// The agent itself may not ask.
    #[error(
        "the agent may not create {0}: give it the rights of deploy/metrics.yaml, or of the chart with metrics.enabled"
    )]
    Rights(&'static str),
    /// The API server cannot be asked.
    #[error("{0}")]
    Unreachable(String),
    /// It did not answer.
    #[error("the API server did not answer within {} s", REVIEW_LIMIT.as_secs())]
    Silent,
    /// Its answer says nothing.
    #[error("the API server's answer to the {0} has no status")]
    Empty(&'static str),
}

/// Asks the API server about callers.
#[derive(Debug)]
pub(super) struct ScrapeAccess {
    connector: Connector,
    answers: Answers,
    reviews: Semaphore,
    /// What was last said of a failure, so that the log has it once.
    told: Mutex<Option<String>>,
}

impl ScrapeAccess {
    pub(super) fn new(connector: Connector) -> Self {
        Self {
            connector,
            answers: Answers::default(),
            reviews: Semaphore::new(REVIEWS),
            told: Mutex::default(),
        }
    }

    /// What the API server says of a caller. What it said a moment ago counts.
    pub(super) async fn judge(&self, credential: &ScrapeCredential) -> Result<ScrapeVerdict, AccessError> {
        if let Some(known) = self.answers.get(credential) {
            return Ok(known);
        }
        let asked = tokio::time::timeout(REVIEW_LIMIT, self.ask(credential)).await;
        let outcome = asked.unwrap_or(Err(AccessError::Silent));
        let mut told = self.told.lock();
        match &outcome {
            Ok(verdict) => {
                self.answers.keep(credential, verdict.clone());
                *told = None;
            }
            Err(error) => {
                let error = error.to_string();
                if told.as_ref() != Some(&error) {
                    tracing::warn!(%error, "the agent cannot learn who asks for metrics, and answers with 503");
                }
                *told = Some(error);
            }
        }
        drop(told);
        outcome
    }

    async fn ask(&self, credential: &ScrapeCredential) -> Result<ScrapeVerdict, AccessError> {
        // Nobody closes it.
        let _permit = self.reviews.acquire().await;
        let client = self.connector.connect().await?;
        let user = match credential {
            ScrapeCredential::Token(token) => user_of_token(&client, token).await?,
            ScrapeCredential::Certificate(certificate) => user_of_certificate(certificate),
        };
        let Some(user) = user else {
            return Ok(ScrapeVerdict::Unauthenticated);
        };
        let name = user.username.clone().unwrap_or_default();
        Ok(match may_read(&client, user).await? {
            true => ScrapeVerdict::Allowed,
            false => ScrapeVerdict::Forbidden(name),
        })
    }
}

/// Whose token it is.
async fn user_of_token(client: &Client, token: &BearerToken) -> Result<Option<UserInfo>, AccessError> {
    let api: Api<TokenReview> = Api::all(client.clone());
    let review = TokenReview {
        spec: TokenReviewSpec {
            token: token.text().to_owned(),
            audiences: None,
        },
        ..TokenReview::default()
    };
    let answer = api.create(&PostParams::default(), &review).await;
    let answer = answer.map_err(|error| unanswered("tokenreviews", &error))?;
    let status = answer.status.ok_or(AccessError::Empty("TokenReview"))?;
    let user = status.user.filter(|_| status.authenticated == Some(true));
    Ok(user.filter(|user| user.username.as_ref().is_some_and(|name| !name.is_empty())))
}

/// Whose certificate it is. The handshake has verified it.
fn user_of_certificate(certificate: &CertificateDer<'_>) -> Option<UserInfo> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    let groups = subject.iter_organization().filter_map(|name| name.as_str().ok());
    let groups = groups.chain([AUTHENTICATED]).map(str::to_owned).collect();
    (!name.is_empty()).then(|| UserInfo {
        username: Some(name.to_owned()),
        groups: Some(groups),
        ..UserInfo::default()
    })
}

async fn may_read(client: &Client, user: UserInfo) -> Result<bool, AccessError> {
    let api: Api<SubjectAccessReview> = Api::all(client.clone());
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: user.username,
            groups: user.groups,
            uid: user.uid,
            extra: user.extra,
            non_resource_attributes: Some(NonResourceAttributes {
                path: Some(PATH.to_owned()),
                verb: Some("get".to_owned()),
            }),
            resource_attributes: None,
        },
        ..SubjectAccessReview::default()
    };
    let answer = api.create(&PostParams::default(), &review).await;
    let answer = answer.map_err(|error| unanswered("subjectaccessreviews", &error))?;
    let status = answer.status.ok_or(AccessError::Empty("SubjectAccessReview"))?;
    Ok(status.allowed && status.denied != Some(true))
}

fn unanswered(what: &'static str, error: &kube::Error) -> AccessError {
    match error {
        kube::Error::Api(status) if status.code == 403 => AccessError::Rights(what),
        error => AccessError::Unreachable(format!("the API server cannot be asked: {}", printable(error))),
    }
}
