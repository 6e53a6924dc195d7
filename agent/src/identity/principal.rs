//! A principal with what is derived from it once, for all requests of its connection.
//!
//! In: a [`Principal`] that identity resolved. Out: a [`ResolvedPrincipal`], which records and requests share.

use std::sync::Arc;

use jiff::Timestamp;
use picket_policy::Principal;

/// A principal and its name as records share it.
#[derive(Debug)]
pub struct ResolvedPrincipal {
    /// The agent, in its pod.
    pub principal: Arc<Principal>,
    /// The identity's name.
    pub name: Arc<str>,
    /// When time alone ends this, unless something else does before: the identity's end, or its certificate's.
    pub until: Option<Timestamp>,
}

impl ResolvedPrincipal {
    /// A principal whose credentials hold until then.
    pub(super) fn new(principal: Principal, credentials: Option<Timestamp>) -> Self {
        let identity = principal.identity().expires_at;
        Self {
            until: identity.into_iter().chain(credentials).min(),
            name: principal.name().into(),
            principal: Arc::new(principal),
        }
    }
}
