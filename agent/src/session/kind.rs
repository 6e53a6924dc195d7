//! The kinds of session.
//!
//! In: the [`KubeRequest`] that began one. Out: its [`SessionKind`], which lists, metrics and records name.

use std::fmt;

use picket_policy::{KubeRequest, Target, Verb};
use serde::{Deserialize, Serialize};

/// A kind of session.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum SessionKind {
    /// A watch, over HTTP or a WebSocket.
    Watch,
    /// A log that is followed.
    Logs,
    /// A command in a container.
    Exec,
    /// A container's own streams.
    Attach,
    /// Ports of a pod.
    PortForward,
    /// An upgraded stream through a pod's, service's or node's proxy.
    Proxy,
    /// Any other upgraded stream.
    Upgrade,
}

impl SessionKind {
    /// Every kind.
    pub const ALL: [SessionKind; 7] = [
        SessionKind::Watch,
        SessionKind::Logs,
        SessionKind::Exec,
        SessionKind::Attach,
        SessionKind::PortForward,
        SessionKind::Proxy,
        SessionKind::Upgrade,
    ];

    /// The kind of what was asked, once the API server has answered it as something that goes on.
    #[must_use]
    pub fn of(request: &KubeRequest) -> SessionKind {
        let (resource, subresource) = match &request.target {
            Target::Resource {
                resource,
                subresource,
                ..
            } => (resource.as_str(), subresource.as_deref()),
            Target::NonResource { .. } => ("", None),
        };
        match (resource, subresource) {
            ("pods", Some("exec")) => SessionKind::Exec,
            ("pods", Some("attach")) => SessionKind::Attach,
            ("pods", Some("portforward")) => SessionKind::PortForward,
            ("pods", Some("log")) => SessionKind::Logs,
            (_, Some("proxy")) => SessionKind::Proxy,
            _ if request.verb == Verb::Watch => SessionKind::Watch,
            _ => SessionKind::Upgrade,
        }
    }

    /// The word for it in lists, metrics and records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            SessionKind::Watch => "watch",
            SessionKind::Logs => "logs",
            SessionKind::Exec => "exec",
            SessionKind::Attach => "attach",
            SessionKind::PortForward => "port-forward",
            SessionKind::Proxy => "proxy",
            SessionKind::Upgrade => "upgrade",
        }
    }
}

impl fmt::Display for SessionKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method, Uri};

    use super::*;

    #[test]
    fn each_kind_is_told_by_what_was_asked() {
        for (path, kind) in [
            ("/api/v1/namespaces/n/pods?watch=true", SessionKind::Watch),
            ("/api/v1/watch/namespaces/n/pods", SessionKind::Watch),
            ("/api/v1/namespaces/n/pods/p/log?follow=true", SessionKind::Logs),
            ("/api/v1/namespaces/n/pods/p/exec?command=sh", SessionKind::Exec),
            ("/api/v1/namespaces/n/pods/p/attach", SessionKind::Attach),
            (
                "/api/v1/namespaces/n/pods/p/portforward",
                SessionKind::PortForward,
            ),
            ("/api/v1/namespaces/n/services/s/proxy/ws", SessionKind::Proxy),
            (
                "/apis/example.com/v1/namespaces/n/things/t/console",
                SessionKind::Upgrade,
            ),
        ] {
            let read = KubeRequest::read(&Method::GET, &Uri::from_static(path), &HeaderMap::new());
            assert_eq!(SessionKind::of(&read.expect(path)), kind, "{path}");
        }
    }
}
