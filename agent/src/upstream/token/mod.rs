//! Short-lived tokens of the service accounts that grants name under `upstream.serviceAccount`.
//!
//! In: a service account, and a way to ask the API server for a token of it ([`request`]). Out: a token that is good for a while,
//! or why there is none. Each account has one token on the node. Requests that need one at the same moment share one TokenRequest.
//! A token is renewed in the background once most of its life is over, so that a busy account never waits for one; an idle
//! account's token ends, and costs nothing. No token is written, logged or shown: a token exists as a sensitive header value alone.

mod request;

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use parking_lot::Mutex;
use picket_policy::ServiceAccount;
use tokio::sync::watch;
use tokio::time::Instant;

use super::credential::UsedCredential;

pub(super) use request::TokenRequester;

/// How long a token is asked to be good for: the shortest that the API server gives (k8s.io/kubernetes pkg/apis/authentication
/// /validation, `MinTokenAgeSec`).
const LIFETIME: Duration = Duration::from_secs(600);

/// A token is not sent so shortly before its end, as the request takes a while and the API server's clock may be ahead.
const MARGIN: Duration = Duration::from_secs(10);

/// A token is renewed when this many hundredths of its life are over, less up to [`JITTER`], so that the nodes of a cluster do
/// not all renew in one moment.
const RENEW_AFTER: u32 = 80;
const JITTER: u32 = 10;

/// So long after a failure nobody asks again for the same account: a crowd of requests costs the API server one.
const PAUSE: Duration = Duration::from_secs(2);

/// A token that is refused within so long of its issue is not the cause of the refusal, and is kept.
const FRESH: Duration = Duration::from_secs(10);

/// Most accounts that the node keeps tokens of. A token takes about 1 KB.
const MAX_ACCOUNTS: usize = 1024;

/// A token as requests carry it.
pub(super) struct Token {
    /// `Authorization`, marked as sensitive.
    pub(super) authorization: HeaderValue,
    /// What the record says of it.
    pub(super) used: UsedCredential,
    issued: Instant,
    renew_at: Instant,
    ends: Instant,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("used", &self.used)
            .finish_non_exhaustive()
    }
}

impl Token {
    /// A token that was asked for at `asked` and is good for so long from then on. `spread` is any number.
    fn new(
        authorization: HeaderValue,
        id: Arc<str>,
        asked: Instant,
        lifetime: Duration,
        spread: u64,
    ) -> Token {
        let early = (spread % u64::from(JITTER + 1)) as u32;
        Token {
            authorization,
            used: UsedCredential {
                method: "service-account-token",
                id: Some(id),
            },
            issued: asked,
            renew_at: asked + lifetime * (RENEW_AFTER - early) / 100,
            ends: asked + lifetime.saturating_sub(MARGIN),
        }
    }
}

/// Why there is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountTokenError {
    /// The node's credential may not ask for it.
    #[error(
        "Picket has no token of service account {0}: the node's credential lacks the right to create serviceaccounts/token of \
         that name. A cluster operator gives it the right: picket grant rbac | kubectl apply -f -"
    )]
    Forbidden(String),
    /// There is no such account.
    #[error(
        "Picket has no token of service account {0}: the account does not exist. A cluster operator creates it, or \
         corrects the AgentGrant"
    )]
    NoAccount(String),
    /// The API server cannot be asked now, or does not answer as it should.
    #[error("Picket has no token of service account {account}: {reason}; try again")]
    Unavailable {
        /// The account.
        account: String,
        /// What went wrong.
        reason: String,
    },
    /// The API server took a token before and does not take it any more.
    #[error(
        "the API server no longer accepts the token of service account {0}; Picket requests a new one, try again"
    )]
    Refused(String),
}

impl AccountTokenError {
    /// A stable name of low cardinality, for metrics and records.
    pub(super) fn code(&self) -> &'static str {
        match self {
            AccountTokenError::Forbidden(_) => "token_request_forbidden",
            AccountTokenError::NoAccount(_) => "service_account_missing",
            AccountTokenError::Unavailable { .. } => "token_unavailable",
            AccountTokenError::Refused(_) => "token_refused",
        }
    }

    /// Nobody asked for the account's token.
    pub(super) fn absent(account: &ServiceAccount) -> AccountTokenError {
        AccountTokenError::Unavailable {
            account: name_of(account),
            reason: "nobody asked for one".to_owned(),
        }
    }

    /// Whether another try may go better before somebody changes anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            AccountTokenError::Unavailable { .. } | AccountTokenError::Refused(_)
        )
    }
}

/// `NAMESPACE/NAME`.
pub(super) fn name_of(account: &ServiceAccount) -> String {
    format!("{}/{}", account.namespace(), account.name())
}

type Outcome = Result<Arc<Token>, AccountTokenError>;

/// What is known of one account.
#[derive(Default)]
struct Entry {
    token: Option<Arc<Token>>,
    /// The request that is under way.
    request: Option<watch::Receiver<Option<Outcome>>>,
    failed: Option<(Instant, AccountTokenError)>,
}

impl Entry {
    fn usable(&self, now: Instant) -> Option<&Arc<Token>> {
        self.token.as_ref().filter(|token| now < token.ends)
    }

    fn paused(&self, now: Instant) -> Option<&AccountTokenError> {
        let (at, error) = self.failed.as_ref()?;
        (now.saturating_duration_since(*at) < PAUSE).then_some(error)
    }

    fn is_idle(&self, now: Instant) -> bool {
        self.request.is_none() && self.usable(now).is_none() && self.paused(now).is_none()
    }
}

/// The tokens of a node. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Tokens(Arc<Mutex<HashMap<ServiceAccount, Entry>>>);

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

impl Tokens {
    /// The account's token. `requester` asks for one where it is time for that.
    pub(super) async fn get(&self, account: &ServiceAccount, requester: &dyn TokenRequester) -> Outcome {
        let mut request = {
            let now = Instant::now();
            let mut entries = self.0.lock();
            if !entries.contains_key(account) {
                make_room(&mut entries, now);
                entries.insert(account.clone(), Entry::default());
            }
            let entry = entries.entry(account.clone()).or_default();
            if let Some(token) = entry.usable(now).cloned() {
                let due = now >= token.renew_at && entry.request.is_none() && entry.paused(now).is_none();
                if due {
                    entry.request = Some(self.begin(account, requester));
                }
                return Ok(token);
            }
            match (&entry.request, entry.paused(now)) {
                (Some(request), _) => request.clone(),
                (None, Some(error)) => return Err(error.clone()),
                (None, None) => entry.request.insert(self.begin(account, requester)).clone(),
            }
        };
        let outcome = request.wait_for(Option::is_some).await;
        match outcome.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            // The thread that asked has ended.
            _ => Err(AccountTokenError::Unavailable {
                account: name_of(account),
                reason: "the request for it was broken off".to_owned(),
            }),
        }
    }

    /// Asks for a token, in a task of its own: whoever waits for it may go away.
    fn begin(
        &self,
        account: &ServiceAccount,
        requester: &dyn TokenRequester,
    ) -> watch::Receiver<Option<Outcome>> {
        let (sender, receiver) = watch::channel(None);
        let asked = Instant::now();
        let issuing = requester.request(account, LIFETIME);
        let request = Request {
            tokens: self.clone(),
            account: account.clone(),
        };
        tokio::spawn(async move {
            let spread = RandomState::new().hash_one(asked);
            let outcome = issuing.await.map(|issued| {
                let lifetime = issued.lifetime.min(LIFETIME);
                Arc::new(Token::new(
                    issued.authorization,
                    issued.id,
                    asked,
                    lifetime,
                    spread,
                ))
            });
            request.ended(&outcome);
            sender.send_replace(Some(outcome));
        });
        receiver
    }

    /// The API server did not accept this token. What it refused right after the issue is no matter of the token.
    pub(super) fn refused(&self, account: &ServiceAccount, token: &Arc<Token>) -> Option<AccountTokenError> {
        if token.issued.elapsed() < FRESH {
            return None;
        }
        if let Some(entry) = self.0.lock().get_mut(account)
            && entry
                .token
                .as_ref()
                .is_some_and(|current| Arc::ptr_eq(current, token))
        {
            entry.token = None;
        }
        Some(AccountTokenError::Refused(name_of(account)))
    }

    #[cfg(test)]
    pub(super) fn forget(&self) {
        self.0.lock().clear();
    }

    #[cfg(test)]
    pub(super) fn age(&self, by: Duration) {
        for entry in self.0.lock().values_mut() {
            if let Some(token) = entry.token.as_mut().and_then(Arc::get_mut) {
                token.issued -= by;
                token.renew_at -= by;
                token.ends -= by;
            }
        }
    }

    /// Forgets tokens that have ended.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        self.0.lock().retain(|_, entry| !entry.is_idle(now));
    }
}

/// Makes room for one more account: what ended goes first, then what ends first.
fn make_room(entries: &mut HashMap<ServiceAccount, Entry>, now: Instant) {
    if entries.len() < MAX_ACCOUNTS {
        return;
    }
    entries.retain(|_, entry| !entry.is_idle(now));
    while entries.len() >= MAX_ACCOUNTS {
        let first = entries
            .iter()
            .min_by_key(|(_, entry)| entry.token.as_ref().map(|token| token.ends));
        let Some(account) = first.map(|(account, _)| account.clone()) else {
            return;
        };
        entries.remove(&account);
    }
}

/// A request that is under way. However it ends, the next one may begin.
struct Request {
    tokens: Tokens,
    account: ServiceAccount,
}

impl Request {
    fn ended(&self, outcome: &Outcome) {
        let mut entries = self.tokens.0.lock();
        let entry = entries.entry(self.account.clone()).or_default();
        let before = entry.failed.take();
        match outcome {
            Ok(token) => {
                entry.token = Some(Arc::clone(token));
                if before.is_some() {
                    tracing::info!(
                        account = name_of(&self.account),
                        "the token of a service account is there again"
                    );
                }
            }
            Err(error) => {
                if before.as_ref().is_none_or(|(_, before)| before != error) {
                    tracing::error!(%error, "the API server issued no token");
                }
                entry.failed = Some((Instant::now(), error.clone()));
            }
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if let Some(entry) = self.tokens.0.lock().get_mut(&self.account) {
            entry.request = None;
        }
    }
}

#[cfg(test)]
mod tests;
