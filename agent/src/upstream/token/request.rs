//! The TokenRequest of one service account (`POST .../serviceaccounts/NAME/token`, authentication.k8s.io/v1).
//!
//! In: a pool whose connections show the node's own credential. Out: a token for the API server itself, with its id and how long
//! it is good for, or what is missing. The answer is read up to a limit, and nothing of it is logged.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use picket_policy::ServiceAccount;
use serde::Deserialize;

use super::{AccountTokenError, name_of};
use crate::upstream::body::RequestBody;
use crate::upstream::credential::bearer_value;
use crate::upstream::outgoing::Outgoing;
use crate::upstream::pool::{PodKey, Pool};
use crate::upstream::replay::{Replay, ReplayBudget};
use crate::upstream::retry;

/// How long one TokenRequest may take, with its connection. client-go waits longer for its own request.
const LIMIT: Duration = Duration::from_secs(10);

/// The longest answer that is read. A token has 1 to 2 KB.
const ANSWER_LIMIT: usize = 64 * 1024;

/// A token as the API server issued it.
pub(in crate::upstream) struct Issued {
    pub(super) authorization: HeaderValue,
    /// As the API server's own audit names it (`authentication.kubernetes.io/credential-id`), or the account.
    pub(super) id: Arc<str>,
    /// From the moment on when it was asked for.
    pub(super) lifetime: Duration,
}

/// A request for a token, under way.
pub(in crate::upstream) type Issuing =
    Pin<Box<dyn Future<Output = Result<Issued, AccountTokenError>> + Send>>;

/// Asks for tokens.
pub(in crate::upstream) trait TokenRequester: Sync {
    /// Asks for a token of this account that is good for so long.
    fn request(&self, account: &ServiceAccount, lifetime: Duration) -> Issuing;
}

/// By this pool, whose connections show the node's credential.
impl TokenRequester for Arc<Pool> {
    fn request(&self, account: &ServiceAccount, lifetime: Duration) -> Issuing {
        let (pool, account) = (Arc::clone(self), account.clone());
        Box::pin(async move {
            let unavailable = |reason: String| AccountTokenError::Unavailable {
                account: name_of(&account),
                reason,
            };
            match tokio::time::timeout(LIMIT, ask(&pool, &account, lifetime)).await {
                Ok(Err(Failure::Status(StatusCode::FORBIDDEN))) => {
                    Err(AccountTokenError::Forbidden(name_of(&account)))
                }
                Ok(Err(Failure::Status(StatusCode::NOT_FOUND))) => {
                    Err(AccountTokenError::NoAccount(name_of(&account)))
                }
                Ok(answer) => answer.map_err(|failure| unavailable(failure.to_string())),
                Err(_) => Err(unavailable(format!(
                    "the API server did not answer within {} s",
                    LIMIT.as_secs()
                ))),
            }
        })
    }
}

/// Why an answer holds no token.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Unsent(String),
    #[error("the API server does not accept the node's credential")]
    Credential,
    #[error("the API server answered the TokenRequest with status {0}")]
    Status(StatusCode),
    #[error("the API server's answer to the TokenRequest cannot be read")]
    Unreadable,
}

async fn ask(pool: &Arc<Pool>, account: &ServiceAccount, lifetime: Duration) -> Result<Issued, Failure> {
    let unsent = |error: &dyn std::error::Error| Failure::Unsent(error.to_string());
    let request = Request::post(format!(
        "/api/v1/namespaces/{}/serviceaccounts/{}/token",
        account.namespace(),
        account.name()
    ))
    .header(CONTENT_TYPE, "application/json")
    .header(ACCEPT, "application/json")
    .header(USER_AGENT, concat!("picket/", env!("CARGO_PKG_VERSION")));
    let (mut head, ()) = request.body(()).map_err(|error| unsent(&error))?.into_parts();
    if let Some(authorization) = &pool.connector().credentials.current().authorization {
        head.headers.insert(AUTHORIZATION, authorization.clone());
    }
    // Without audiences it is one for the API server itself.
    let body = format!(
        r#"{{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{{"expirationSeconds":{}}}}}"#,
        lifetime.as_secs()
    );
    let replay = Replay::new(RequestBody::of_bytes(body.into()), &ReplayBudget::default());
    let (pod, mut used) = (PodKey::of_account(account), None);
    let answer = retry::send(pool, pod, Outgoing::new(head), replay, &mut used)
        .await
        .map_err(|error| unsent(&error))?;
    let (head, body) = answer.into_parts();
    match head.status {
        status if status.is_success() => {}
        StatusCode::UNAUTHORIZED => return Err(Failure::Credential),
        status => return Err(Failure::Status(status)),
    }
    let body = Limited::new(body, ANSWER_LIMIT).collect().await;
    let body = body.map_err(|_| Failure::Unreadable)?.to_bytes();
    read(&body, account).ok_or(Failure::Unreadable)
}

/// What is read of a TokenRequest.
#[derive(Deserialize)]
struct Answer {
    spec: Spec,
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    expiration_seconds: u64,
}

#[derive(Deserialize)]
struct Status {
    token: String,
}

/// What is read of a token's claims.
#[derive(Deserialize)]
struct Claims {
    iat: Option<u64>,
    exp: Option<u64>,
    jti: Option<String>,
}

/// Reads an answer. How long the token is good for is the claims' word, by one clock, where they have it.
fn read(answer: &Bytes, account: &ServiceAccount) -> Option<Issued> {
    let Answer { spec, status } = serde_json::from_slice(answer).ok()?;
    let authorization = bearer_value(status.token.as_bytes())?;
    let claims = claims(&status.token);
    let lifetime = match &claims {
        Some(Claims {
            iat: Some(from),
            exp: Some(to),
            ..
        }) => to.saturating_sub(*from),
        _ => spec.expiration_seconds,
    };
    // As k8s.io/kubernetes pkg/serviceaccount names a token's id.
    let id = match claims.and_then(|claims| claims.jti) {
        Some(id) => format!("JTI={id}"),
        None => name_of(account),
    };
    Some(Issued {
        authorization,
        id: id.into(),
        lifetime: Duration::from_secs(lifetime),
    })
}

fn claims(token: &str) -> Option<Claims> {
    let payload = token.split('.').nth(1)?;
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}
