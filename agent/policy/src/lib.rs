//! Canonical Kubernetes requests and the decisions on them.
