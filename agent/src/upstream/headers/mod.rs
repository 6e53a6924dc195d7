//! The headers of a request on its way to the API server, and of the response on its way back.
//!
//! In: what the client sent and what was decided. Out: the client's headers without those that could speak for somebody else or
//! belong to one hop only. The impersonation, the credential and the audit id are put in.
//!
//! # What the node's own account needs at the API server
//!
//! The node's user impersonates, so RBAC must let it, bounded by `resourceNames`. From Kubernetes 1.36 that is constrained
//! impersonation, in the API group `authentication.k8s.io`:
//!
//! * `impersonate:user-info` on `users` and `groups` with the users and groups that grants name;
//! * `impersonate:user-info` on `userextras/picket.dev/identity`, `userextras/picket.dev/pod` and `userextras/picket.dev/session`,
//!   without `resourceNames`, as pods and sessions come and go;
//! * `impersonate-on:user-info:VERB` on what the agents may use, for each verb.
//!
//! A service account as user needs the older verb: `impersonate` on `serviceaccounts` of that name and on `userextras` as
//! above, and where the grant names groups on the groups `system:serviceaccounts` and `system:serviceaccounts:NAMESPACE`.
//!
//! # What that costs the API server
//!
//! `impersonate` costs one check for each user, group and extra of each request, and each check walks the bindings of the
//! cluster. Constrained impersonation costs one check a request, and none where the same request came within 10 s: the API
//! server keeps the rest by requester and impersonated user with its extras. So extras stay the same for all requests of a pod, but for
//! those that may become sessions: each of these has an id of its own.
//!
//! Sources: k8s.io/apiserver pkg/endpoints/filters/impersonation, KEP-5284.

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use picket_masking::media::narrowed_accept;
use picket_policy::{Impersonate, Principal, PrincipalOrigin};

use crate::identity::{bearer_of, normalized};

const IMPERSONATE_USER: HeaderName = HeaderName::from_static("impersonate-user");
const IMPERSONATE_GROUP: HeaderName = HeaderName::from_static("impersonate-group");
// Keys of extras are percent-encoded in the header's name (authentication/v1, ImpersonateUserExtraHeaderPrefix).
const EXTRA_IDENTITY: HeaderName = HeaderName::from_static("impersonate-extra-picket.dev%2fidentity");
const EXTRA_SESSION: HeaderName = HeaderName::from_static("impersonate-extra-picket.dev%2fsession");
const EXTRA_POD: HeaderName = HeaderName::from_static("impersonate-extra-picket.dev%2fpod");
/// Names a request's record: sent to the API server, which answers with it, and part of Picket's own answers.
pub const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
// The API server's own log has these addresses before the node's (k8s.io/apimachinery pkg/util/net, SourceIPs).
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Hop-by-hop fields (RFC 9110 section 7.6.1 and RFC 7230's list); those that `Connection` names come on top.
/// `Transfer-Encoding` is made anew by the connection that carries the body. `Expect` is answered by this hop.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "te",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "expect",
    "proxy-connection",
    "proxy-authenticate",
];

/// What only Picket or a proxy before the API server may say: credentials, who is meant, where a request came from.
const STRIPPED_HEADERS: [&str; 9] = [
    "authorization",
    "cookie",
    "cookie2",
    "host",
    "forwarded",
    "via",
    "x-real-ip",
    "audit-id",
    // It announces trailers, and those are dropped.
    "trailer",
];
const STRIPPED_PREFIXES: [&str; 4] = ["impersonate-", "x-remote-", "x-forwarded-", "proxy-"];

/// Whether a field of the client's may go upstream.
fn is_forwarded(name: &HeaderName) -> bool {
    let name = &*normalized(name);
    let banned = HOP_BY_HOP.contains(&name)
        || STRIPPED_HEADERS.contains(&name)
        || STRIPPED_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    !banned
}

/// What the API server learns of a request's way, beside whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestOrigin {
    /// The audit record's id, which is the session's too.
    pub audit_id: String,
    /// Whether the request may become a session.
    pub session: bool,
    /// The pod's address, where it is known.
    pub source: Option<IpAddr>,
}

/// Who a request comes from, as the API server learns it in place of what the client said.
pub(in crate::upstream) struct OutboundIdentity<'a> {
    pub(in crate::upstream) credential: OutboundCredential<'a>,
    pub(in crate::upstream) principal: &'a Principal,
    pub(in crate::upstream) origin: &'a RequestOrigin,
}

/// By whose credential a request goes, and as whom.
#[derive(Clone, Copy)]
pub(in crate::upstream) enum OutboundCredential<'a> {
    /// The node's, which is an `Authorization` or what the connection shows, as this user.
    Node(Option<&'a HeaderValue>, &'a Impersonate),
    /// A token of the user's own, as `Authorization`. The user may impersonate nobody, so that nothing else is said of it.
    Token(&'a HeaderValue),
}

/// A fact of a principal that goes upstream with each request as an extra of the user.
pub struct PrincipalExtra {
    /// Its key.
    pub name: &'static str,
    header: HeaderName,
    /// What it says.
    pub value: String,
}

/// A principal's facts for the API server: the identity, and the pod where there is one. A request that may become a session has
/// the session's id as well.
pub fn extras(principal: &Principal, session: Option<&str>) -> impl Iterator<Item = PrincipalExtra> {
    let pod = match principal.origin() {
        PrincipalOrigin::Pod { namespace, name } => Some(PrincipalExtra {
            name: "picket.dev/pod",
            header: EXTRA_POD,
            value: format!("{namespace}/{name}"),
        }),
        PrincipalOrigin::Gateway { .. } => None,
    };
    let identity = PrincipalExtra {
        name: "picket.dev/identity",
        header: EXTRA_IDENTITY,
        value: principal.name().to_owned(),
    };
    let session = session.map(|id| PrincipalExtra {
        name: "picket.dev/session",
        header: EXTRA_SESSION,
        value: id.to_owned(),
    });
    std::iter::once(identity).chain(pod).chain(session)
}

/// The upgrade a request asks for; the API server knows these two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpgradeProtocol {
    /// `websocket` (RFC 6455).
    WebSocket,
    /// `SPDY/3.1`, for exec, attach and port-forward of older clients.
    Spdy,
}

impl UpgradeProtocol {
    /// The protocol's name as the `Upgrade` field has it.
    pub fn as_str(self) -> &'static str {
        match self {
            UpgradeProtocol::WebSocket => "websocket",
            UpgradeProtocol::Spdy => "SPDY/3.1",
        }
    }
}

/// Reads the upgrade that a request asks for. A protocol that the API server does not know is none, as are several: a server may
/// ignore an `Upgrade` (RFC 9110 section 7.8), and the client goes on without.
pub fn requested_upgrade(headers: &HeaderMap) -> Option<UpgradeProtocol> {
    if !connection_tokens(headers).any(|token| token.eq_ignore_ascii_case("upgrade")) {
        return None;
    }
    let mut fields = headers.get_all(header::UPGRADE).iter();
    let protocol = fields.next()?.to_str().ok()?.trim();
    if fields.next().is_some() {
        return None;
    }
    [UpgradeProtocol::WebSocket, UpgradeProtocol::Spdy]
        .into_iter()
        .find(|known| protocol.eq_ignore_ascii_case(known.as_str()))
}

fn connection_tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// The Accept of a request whose answer is to be filtered: the encodings of the client's that can be. `None` where it takes none of them.
pub fn filterable_accept(headers: &HeaderMap) -> Option<HeaderValue> {
    let lines = headers.get_all(header::ACCEPT).iter().map(|value| value.to_str());
    let lines = lines.collect::<Result<Vec<_>, _>>().ok()?.join(", ");
    HeaderValue::try_from(narrowed_accept(Some(&lines))?).ok()
}

/// Has the API server answer in a way that can be filtered. Who asked for no such encoding was refused before.
pub(in crate::upstream) fn for_filter(headers: &mut HeaderMap) {
    let accept = filterable_accept(headers).unwrap_or(HeaderValue::from_static("application/json"));
    headers.insert(header::ACCEPT, accept);
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    // A part of an answer cannot be filtered, and that one is not modified tells of what is hidden.
    for conditional in [
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_UNMODIFIED_SINCE,
        header::IF_RANGE,
        header::RANGE,
    ] {
        headers.remove(conditional);
    }
}

/// Makes the headers that go upstream.
///
/// # Errors
/// When a user or group of a grant cannot stand in a header.
pub(in crate::upstream) fn outbound(
    client: HeaderMap,
    identity: &OutboundIdentity<'_>,
    upgrade: Option<UpgradeProtocol>,
) -> Result<HeaderMap, header::InvalidHeaderValue> {
    let named = named_by_connection(&client);
    let trailers = wants_trailers(&client);
    let mut headers = HeaderMap::with_capacity(client.len() + 8);
    let mut last: Option<HeaderName> = None;
    for (name, value) in client {
        // A repeated field comes without its name.
        if name.is_some() {
            last = name.filter(|name| is_forwarded(name) && !named.contains(name));
        }
        let Some(name) = &last else {
            continue;
        };
        if name == header::SEC_WEBSOCKET_PROTOCOL {
            if let Some(value) = without_bearer(&value) {
                headers.append(name.clone(), value);
            }
        } else {
            headers.append(name.clone(), value);
        }
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static(protocol.as_str()));
    }
    let authorization = match identity.credential {
        OutboundCredential::Node(authorization, user) => {
            let session = identity.origin.session.then_some(&*identity.origin.audit_id);
            impersonate(&mut headers, user, identity.principal, session)?;
            authorization
        }
        OutboundCredential::Token(authorization) => Some(authorization),
    };
    headers.insert(AUDIT_ID, HeaderValue::from_str(&identity.origin.audit_id)?);
    if let Some(source) = identity.origin.source {
        headers.insert(FORWARDED_FOR, HeaderValue::try_from(source.to_string())?);
    }
    if let Some(authorization) = authorization {
        headers.insert(header::AUTHORIZATION, authorization.clone());
    }
    Ok(headers)
}

/// Puts in as whom the node asks, with what describes the principal.
fn impersonate(
    headers: &mut HeaderMap,
    user: &Impersonate,
    principal: &Principal,
    session: Option<&str>,
) -> Result<(), header::InvalidHeaderValue> {
    headers.insert(IMPERSONATE_USER, HeaderValue::from_str(&user.user)?);
    for group in &user.groups {
        headers.append(IMPERSONATE_GROUP, HeaderValue::from_str(group)?);
    }
    for extra in extras(principal, session) {
        headers.insert(extra.header, HeaderValue::try_from(extra.value)?);
    }
    Ok(())
}

/// Takes from a response what belongs to the upstream hop alone; a switch of protocols keeps what the client waits for.
pub(in crate::upstream) fn inbound(headers: &mut HeaderMap, switching: bool) {
    let kept = if switching {
        headers.get(header::UPGRADE).cloned()
    } else {
        None
    };
    for name in named_by_connection(headers) {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    if let Some(protocol) = kept {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
}

/// The fields that `Connection` makes hop-by-hop. What Picket sets itself is put in afterwards, so naming
/// `Impersonate-User` or `Authorization` there takes away the client's copy alone.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    // Fields that frame or type the body stay: taking them away would change what the API server reads as the body.
    const STAY: [HeaderName; 2] = [header::CONTENT_LENGTH, header::CONTENT_TYPE];
    connection_tokens(headers)
        .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
        .filter(|name| !STAY.contains(name))
        .collect()
}

fn wants_trailers(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::TE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

/// The subprotocols without tokens; nothing when none is left.
fn without_bearer(value: &HeaderValue) -> Option<HeaderValue> {
    let text = value.to_str().ok()?;
    let is_bearer = |protocol: &&str| bearer_of(protocol.as_bytes()).is_some();
    let kept: Vec<&str> = text
        .split(',')
        .map(str::trim)
        .filter(|p| !p.is_empty() && !is_bearer(p))
        .collect();
    if kept.is_empty() {
        None
    } else {
        HeaderValue::from_str(&kept.join(", ")).ok()
    }
}

#[cfg(test)]
mod tests;
