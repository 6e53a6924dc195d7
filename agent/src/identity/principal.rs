//! A principal with what is derived from it once, for all requests of its connection.
//!
//! In: a [`Principal`] that identity resolved. Out: a [`ResolvedPrincipal`], which records and requests share.

use std::sync::Arc;

use picket_policy::Principal;

/// A principal and its name as records share it.
#[derive(Debug)]
pub struct ResolvedPrincipal {
    /// The agent, in its pod.
    pub principal: Arc<Principal>,
    /// The identity's name.
    pub name: Arc<str>,
}

impl From<Principal> for ResolvedPrincipal {
    fn from(principal: Principal) -> Self {
        Self {
            name: principal.name().into(),
            principal: Arc::new(principal),
        }
    }
}
