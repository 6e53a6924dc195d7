//! Why a session ended: one text for the client, the record and the log.
//!
//! In: the refusal that a session met when it was judged again, or an operator's reason. Out: an [`Ending`], which holds the
//! cause as a word of low cardinality and the `Status` as it goes to the client.

use std::time::Instant;

use picket_policy::KubeRequest;

use super::SessionKind;
use crate::reject::{Rejection, Status};

/// Why Picket ended a session.
#[derive(Debug)]
pub struct Ending {
    /// A word of low cardinality: the refusal's own, such as `identity_suspended`, or `session_killed`.
    pub cause: &'static str,
    /// The text for the client.
    pub status: Status,
    /// When the change was seen that ended it.
    pub since: Instant,
}

impl Ending {
    /// The end of a session that `rejection` would refuse now.
    #[must_use]
    pub fn new(rejection: &Rejection, kind: SessionKind, request: &KubeRequest, since: Instant) -> Ending {
        let why = rejection.explain(Some(request));
        let status = rejection.status(Some(request));
        Ending {
            cause: rejection.code(),
            status: Status {
                message: format!("Picket ended this {}: {why}", noun(kind)),
                ..status
            },
            since,
        }
    }

    /// The text for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.status.message
    }
}

fn noun(kind: SessionKind) -> &'static str {
    match kind {
        SessionKind::Watch => "watch",
        SessionKind::Logs => "log stream",
        SessionKind::Exec => "exec session",
        SessionKind::Attach => "attach session",
        SessionKind::PortForward => "port-forward",
        SessionKind::Proxy => "proxied connection",
        SessionKind::Upgrade => "connection",
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method, Uri};

    use super::*;
    use crate::identity::IdentityError;

    #[test]
    fn an_end_says_what_ended_and_why() {
        let uri = Uri::from_static("/api/v1/namespaces/n/pods?watch=true");
        let request = KubeRequest::read(&Method::GET, &uri, &HeaderMap::new()).expect("reads");
        let rejection = Rejection::Identity(IdentityError::Suspended {
            identity: "fixer".to_owned(),
            owner: "team-a".to_owned(),
        });
        let ending = Ending::new(&rejection, SessionKind::Watch, &request, Instant::now());
        assert_eq!((ending.cause, ending.status.code), ("identity_suspended", 403));
        assert_eq!(
            ending.message(),
            "Picket ended this watch: cannot watch pods in namespace \"n\": agent fixer is suspended; its owner team-a can \
             set its state to Active again"
        );
        let killed = Rejection::Killed("under investigation".to_owned());
        let ending = Ending::new(&killed, SessionKind::Watch, &request, Instant::now());
        assert_eq!(ending.cause, "session_killed");
        assert!(
            ending.message().contains("under investigation"),
            "{}",
            ending.message()
        );
    }
}
