//! What a client says of itself in a request's head: as whom it wants to act, and with which credential.
//!
//! In: a request's headers. Out: a [`ClientClaim`] for each field that a client sets on purpose to be somebody. What only a
//! proxy before the API server may say (`X-Remote-*`, `X-Forwarded-*`) and cookies are no such claims; they stay behind.

use std::borrow::Cow;

use http::header::{self, HeaderMap, HeaderName};

/// WebSocket clients in browsers hand their token over as a subprotocol of this prefix
/// (k8s.io/apiserver pkg/authentication/request/websocket/protocol.go).
const BEARER_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// The prefix of every field that asks to act as somebody else.
const IMPERSONATE_PREFIX: &str = "impersonate-";

/// One thing that a client says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientClaim<'a> {
    /// It wants to act as somebody; the field's name.
    Impersonation(&'a HeaderName),
    /// An `Authorization`, without the blanks around it.
    Authorization(&'a [u8]),
    /// A token among the WebSocket subprotocols, in base64url.
    Subprotocol(&'a [u8]),
}

/// All that a client says of itself. Any field counts, however often it comes and whatever `Connection` says of it.
pub(super) fn client_claims(headers: &HeaderMap) -> impl Iterator<Item = ClientClaim<'_>> {
    let impersonation = headers
        .keys()
        .filter(|name| normalized(name).starts_with(IMPERSONATE_PREFIX))
        .map(ClientClaim::Impersonation);
    let authorization = headers
        .get_all(header::AUTHORIZATION)
        .iter()
        .map(|value| ClientClaim::Authorization(value.as_bytes().trim_ascii()));
    let subprotocols = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|protocol| bearer_of(protocol.trim_ascii()))
        .map(ClientClaim::Subprotocol);
    impersonation.chain(authorization).chain(subprotocols)
}

/// The token in a subprotocol, where the subprotocol is one that carries a token.
pub(crate) fn bearer_of(protocol: &[u8]) -> Option<&[u8]> {
    let (prefix, token) = protocol.split_at_checked(BEARER_PROTOCOL.len())?;
    prefix
        .eq_ignore_ascii_case(BEARER_PROTOCOL.as_bytes())
        .then_some(token)
}

/// A field's name as gateways on the way may take it, for which `_` is `-`.
pub(crate) fn normalized(name: &HeaderName) -> Cow<'_, str> {
    let name = name.as_str();
    if name.contains('_') {
        name.replace('_', "-").into()
    } else {
        name.into()
    }
}
