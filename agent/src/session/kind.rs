//! Which kinds of session there are, by what was asked.

use std::fmt;

use picket_policy::{KubeRequest, Target, Verb};
use serde::{Deserialize, Serialize};

/// A kind of session.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
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

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 7] = [
        Kind::Watch,
        Kind::Logs,
        Kind::Exec,
        Kind::Attach,
        Kind::PortForward,
        Kind::Proxy,
        Kind::Upgrade,
    ];

    /// The kind of what was asked, once the API server has answered it as something that goes on.
    #[must_use]
    pub fn of(request: &KubeRequest) -> Kind {
        let (resource, subresource) = match &request.target {
            Target::Resource {
                resource,
                subresource,
                ..
            } => (resource.as_str(), subresource.as_deref()),
            Target::NonResource { .. } => ("", None),
        };
        match (resource, subresource) {
            ("pods", Some("exec")) => Kind::Exec,
            ("pods", Some("attach")) => Kind::Attach,
            ("pods", Some("portforward")) => Kind::PortForward,
            ("pods", Some("log")) => Kind::Logs,
            (_, Some("proxy")) => Kind::Proxy,
            _ if request.verb == Verb::Watch => Kind::Watch,
            _ => Kind::Upgrade,
        }
    }

    /// The word for it in lists, metrics and records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Watch => "watch",
            Kind::Logs => "logs",
            Kind::Exec => "exec",
            Kind::Attach => "attach",
            Kind::PortForward => "port-forward",
            Kind::Proxy => "proxy",
            Kind::Upgrade => "upgrade",
        }
    }
}

impl fmt::Display for Kind {
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
            ("/api/v1/namespaces/n/pods?watch=true", Kind::Watch),
            ("/api/v1/watch/namespaces/n/pods", Kind::Watch),
            ("/api/v1/namespaces/n/pods/p/log?follow=true", Kind::Logs),
            ("/api/v1/namespaces/n/pods/p/exec?command=sh", Kind::Exec),
            ("/api/v1/namespaces/n/pods/p/attach", Kind::Attach),
            ("/api/v1/namespaces/n/pods/p/portforward", Kind::PortForward),
            ("/api/v1/namespaces/n/services/s/proxy/ws", Kind::Proxy),
            (
                "/apis/example.com/v1/namespaces/n/things/t/console",
                Kind::Upgrade,
            ),
        ] {
            let read = KubeRequest::read(&Method::GET, &Uri::from_static(path), &HeaderMap::new());
            assert_eq!(Kind::of(&read.expect(path)), kind, "{path}");
        }
    }
}
